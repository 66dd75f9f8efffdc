//! Where `watch --since last` was: one small file for each server, database and path, in the
//! user's state folder. A position is a hint: losing it means a whole value instead of the changes.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::exit::{Failure, Result};

/// The file of one watch.
#[derive(Debug)]
pub(crate) struct Position {
    file: PathBuf,
    of: Of,
}

/// What a position belongs to. Kept in the file, so that a file of another watch is not believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Of {
    url: String,
    db: Option<String>,
    path: String,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    of: Of,
    rev: u64,
}

impl Position {
    /// The position of a watch in the user's state folder.
    ///
    /// # Errors
    /// There is no such folder for this user.
    pub(crate) fn of(url: &str, db: Option<&str>, path: &str) -> Result<Self> {
        let dir = state_dir(|name| std::env::var_os(name)).ok_or_else(|| {
            Failure::failed("no folder to keep the position in: neither XDG_STATE_HOME nor HOME is set")
                .help("set XDG_STATE_HOME, or give the revision: --since REV")
        })?;
        Ok(Self::within(&dir, url, db, path))
    }

    fn within(dir: &Path, url: &str, db: Option<&str>, path: &str) -> Self {
        let path = path.split('/').filter(|segment| !segment.is_empty()).collect::<Vec<_>>().join("/");
        let of = Of { url: url.to_owned(), db: db.map(str::to_owned), path };
        let mut hasher = SipHasher13::new();
        std::hash::Hash::hash(&(&of.url, &of.db, &of.path), &mut hasher);
        Self { file: dir.join(format!("watch-{:032x}.json", hasher.finish128().as_u128())), of }
    }

    /// The revision kept last; `None` where there is none that can be read.
    pub(crate) fn read(&self) -> Option<u64> {
        let kept: Kept = serde_json::from_slice(&std::fs::read(&self.file).ok()?).ok()?;
        (kept.of == self.of).then_some(kept.rev)
    }

    /// Keeps a revision, whole or not at all.
    ///
    /// # Errors
    /// The file can't be written.
    pub(crate) fn keep(&self, rev: u64) -> Result<()> {
        let kept = serde_json::to_vec(&Kept { of: self.of.clone(), rev }).expect("plain values");
        let write = || {
            std::fs::create_dir_all(self.file.parent().unwrap_or(Path::new(".")))?;
            let part = self.file.with_extension(format!("{}.part", std::process::id()));
            std::fs::File::create(&part)?.write_all(&kept)?;
            std::fs::rename(&part, &self.file)
        };
        write().map_err(|error| Failure::file(&self.file, &error))
    }
}

/// `$XDG_STATE_HOME/standpipe`, or its default below the home folder; on Windows in the local
/// application data.
pub(super) fn state_dir(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base =
        set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state"))).or_else(|| set("LOCALAPPDATA"))?;
    Some(base.join("standpipe"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_position_comes_back_to_its_own_watch() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("made/when/needed");
        let at = |url, db, path| Position::within(&dir, url, db, path);
        let one = at("http://h", Some("d"), "/a/b");
        assert_eq!(one.read(), None);
        one.keep(7).unwrap();
        one.keep(8).unwrap();
        assert_eq!(at("http://h", Some("d"), "a//b/").read(), Some(8), "the same path, typed otherwise");
        for other in [at("http://i", Some("d"), "/a/b"), at("http://h", None, "/a/b"), at("http://h", Some("d"), "/a")]
        {
            assert_eq!(other.read(), None, "{other:?}");
            std::fs::copy(&one.file, &other.file).unwrap();
            assert_eq!(other.read(), None, "a file of another watch");
        }
        std::fs::write(&one.file, "{").unwrap();
        assert_eq!(one.read(), None, "a broken file");
    }

    #[test]
    fn the_folder_is_the_state_folder_of_the_user() {
        let check = |set: &[(&str, &str)], expected: Option<&str>| {
            let found = state_dir(|name| set.iter().find(|(have, _)| *have == name).map(|(_, value)| value.into()));
            assert_eq!(found, expected.map(PathBuf::from));
        };
        check(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")], Some("/s/standpipe"));
        check(&[("XDG_STATE_HOME", ""), ("HOME", "/h")], Some("/h/.local/state/standpipe"));
        check(&[("LOCALAPPDATA", "/l")], Some("/l/standpipe"));
        check(&[], None);
    }
}
