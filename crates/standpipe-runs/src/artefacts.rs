//! Artefacts: files that tasks leave, copied out of their folders when they have succeeded, so that they can be fetched as
//! long as the run is kept. `<folder>/<run>/<task>/<name>`; a name is there whole or not at all.
//!
//! A task's folder is the task's: whatever lies in it, nothing outside of it is ever copied. Every part of a path is
//! opened below the one before, links are not followed, and only a plain file is read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;

use crate::name::{Name, RunId};
use crate::plan::Artefact;

/// The artefacts of all runs of a data folder. Its methods do I/O and are not for the threads of the
/// runtime, but for [`Artefacts::aside`].
#[derive(Clone, Debug)]
pub(crate) struct Artefacts {
    dir: PathBuf,
    turns: Arc<Semaphore>,
}

/// Tasks whose files are copied at once: a disk gains nothing from more.
const COPIES_AT_ONCE: usize = 4;

/// What one run may keep.
#[derive(Debug)]
pub(crate) struct Room<'r> {
    /// Bytes of one file.
    pub(crate) file_bytes_max: u64,
    /// Bytes of all files of the run.
    pub(crate) run_bytes_max: u64,
    /// Bytes that the run's files have, shared by its tasks.
    pub(crate) spent: &'r AtomicU64,
}

impl Artefacts {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, turns: Arc::new(Semaphore::new(COPIES_AT_ONCE)) }
    }

    /// Does this beside the runtime, when it is its turn.
    ///
    /// # Errors
    /// It panicked.
    pub(crate) async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, String> {
        let turn = self.turns.clone().acquire_owned().await.map_err(|closed| closed.to_string())?;
        let artefacts = self.clone();
        #[expect(clippy::disallowed_methods, reason = "its pool is bounded here, by turns")]
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work(&artefacts)
        });
        done.await.map_err(|panic| panic.to_string())
    }

    /// The folder of one task.
    fn folder(&self, run: &RunId, task: &Name) -> PathBuf {
        self.dir.join(run.to_string()).join(task.as_str())
    }

    /// Copies what a task declares out of its folder. All of it is there afterwards, and durable, or none.
    ///
    /// # Errors
    /// Why the task has not succeeded after all.
    pub(crate) fn keep(
        &self,
        run: &RunId,
        task: &Name,
        from: &Path,
        declared: &[Artefact],
        room: &Room<'_>,
    ) -> Result<BTreeMap<Name, u64>, String> {
        let to = self.folder(run, task);
        let (mut kept, mut wrong) = (BTreeMap::new(), None);
        for artefact in declared {
            match copy(artefact, from, &to, room) {
                Ok(Some(bytes)) => drop(kept.insert(artefact.name.clone(), bytes)),
                Ok(None) => {}
                Err(why) => {
                    wrong = Some(why);
                    break;
                }
            }
        }
        let Some(why) = wrong else { return Ok(kept) };
        room.spent.fetch_sub(kept.values().sum(), Ordering::Relaxed);
        // Nothing refers to it; at the latest it goes with the run.
        let _left = std::fs::remove_dir_all(&to);
        Err(why)
    }

    /// Gives a run what a task of an earlier one left. The files are shared, not copied, where the file system can.
    pub(crate) fn take_over(&self, from: &RunId, to: &RunId, task: &Name, names: &[Name]) -> io::Result<()> {
        let (from, to) = (self.folder(from, task), self.folder(to, task));
        std::fs::create_dir_all(&to)?;
        for name in names {
            let (from, to) = (from.join(name.as_str()), to.join(name.as_str()));
            if std::fs::hard_link(&from, &to).is_err() {
                std::fs::copy(&from, &to)?;
            }
        }
        sync_folder(&to)
    }
}

/// The path of an artefact inside of its task's folder.
///
/// # Errors
/// It leads out of the folder, or to no file.
pub(crate) fn relative(path: &str) -> Result<PathBuf, String> {
    let inside = Path::new(path);
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    let names = inside.components().any(|part| matches!(part, Component::Normal(_)));
    if inside.components().all(plain) && names && !path.contains('\0') && !path.ends_with('/') {
        Ok(inside.components().filter(|part| matches!(part, Component::Normal(_))).collect())
    } else {
        Err(format!("{path:?} is no file inside of the task's folder"))
    }
}

/// Copies one file; its bytes, or `None` when it need not be there.
fn copy(artefact: &Artefact, from: &Path, to: &Path, room: &Room<'_>) -> Result<Option<u64>, String> {
    let Artefact { name, path, bytes_max, optional } = artefact;
    let told = |error: io::Error| format!("its artefact `{name}` ({path}) can't be kept: {error}");
    let source = match open_inside(from, &relative(path)?) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && *optional => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(format!("it left no artefact `{name}`: there is no file {path} in its folder"));
        }
        opened => opened.map_err(told)?,
    };
    let file_max = bytes_max.unwrap_or(u64::MAX).min(room.file_bytes_max);
    let left = room.run_bytes_max.saturating_sub(room.spent.load(Ordering::Relaxed));
    std::fs::create_dir_all(to).map_err(told)?;
    // A dot is in no name, so nobody can fetch half a file.
    let begun = to.join(format!(".{name}"));
    let copied = write(source, &begun, file_max.min(left)).and_then(|bytes| match bytes {
        // Another task may have spent the room meanwhile.
        Some(bytes) if room.spent.fetch_add(bytes, Ordering::Relaxed) + bytes > room.run_bytes_max => {
            room.spent.fetch_sub(bytes, Ordering::Relaxed);
            Ok(None)
        }
        Some(bytes) => {
            std::fs::rename(&begun, to.join(name.as_str())).and_then(|()| sync_folder(to)).map(|()| Some(bytes))
        }
        None => Ok(None),
    });
    match copied.map_err(told)? {
        Some(bytes) => Ok(Some(bytes)),
        None if left < file_max => Err(format!(
            "its artefact `{name}` ({path}) does not fit into the {} bytes that artefacts of a run may have \
             (run_artefacts_bytes_max)",
            room.run_bytes_max
        )),
        None => {
            Err(format!("its artefact `{name}` ({path}) has more than {file_max} bytes (artefact_bytes_max, or `max`)"))
        }
    }
}

/// Copies to a new file and syncs it; `None` when there is more than that many bytes.
fn write(source: File, to: &Path, bytes_max: u64) -> io::Result<Option<u64>> {
    let mut target = File::create(to)?;
    // It may grow while it is read.
    let bytes = io::copy(&mut source.take(bytes_max.saturating_add(1)), &mut target)?;
    target.sync_all()?;
    Ok((bytes <= bytes_max).then_some(bytes))
}

#[cfg(unix)]
fn sync_folder(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Elsewhere a rename is durable by itself, or can't be made so.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Opens a plain file below a folder, following no link on the way.
#[cfg(unix)]
fn open_inside(folder: &Path, path: &Path) -> io::Result<File> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut at = openat(CWD, folder, flags | OFlags::DIRECTORY, Mode::empty())?;
    let mut parts = path.components().peekable();
    while let Some(part) = parts.next() {
        // A pipe that nobody writes to would hold up who opens it.
        let kind = if parts.peek().is_some() { OFlags::DIRECTORY } else { OFlags::NONBLOCK | OFlags::NOCTTY };
        at = match openat(&at, part.as_os_str(), flags | OFlags::NOFOLLOW | kind, Mode::empty()) {
            Err(rustix::io::Errno::LOOP) => return Err(io::Error::other("it is a link, or behind one")),
            // What Linux says of a link where a folder should be.
            Err(rustix::io::Errno::NOTDIR) => {
                return Err(io::Error::other("a part of its path is no folder, or a link"));
            }
            opened => opened?,
        };
    }
    plain_file(File::from(at))
}

/// As on Unix, but a link put there in the middle of this would not be noticed.
#[cfg(not(unix))]
fn open_inside(folder: &Path, path: &Path) -> io::Result<File> {
    let mut at = folder.to_owned();
    for part in path.components() {
        at.push(part);
        if std::fs::symlink_metadata(&at)?.is_symlink() {
            return Err(io::Error::other("it is a link, or behind one"));
        }
    }
    plain_file(File::open(at)?)
}

fn plain_file(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no plain file")) }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    struct Case {
        data: tempfile::TempDir,
        folder: tempfile::TempDir,
        spent: AtomicU64,
    }

    impl Case {
        fn new() -> Self {
            let new = || tempfile::tempdir().unwrap();
            let case = Self { data: new(), folder: new(), spent: AtomicU64::new(0) };
            case.write("plain", "content");
            case.write("deep/er/file", "deep");
            case
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn keep(&self, declared: &[(&str, Option<u64>, bool)]) -> Result<Vec<(String, u64)>, String> {
            let artefact = |(index, &(path, bytes_max, optional)): (usize, &(&str, _, _))| Artefact {
                name: format!("n{index}").parse().unwrap(),
                path: path.to_owned(),
                bytes_max,
                optional,
            };
            let declared: Vec<_> = declared.iter().enumerate().map(artefact).collect();
            let room = Room { file_bytes_max: 100, run_bytes_max: 150, spent: &self.spent };
            let run = "r@1".parse().unwrap();
            let kept = Artefacts::new(self.data.path().into());
            let kept = kept.keep(&run, &"t".parse().unwrap(), self.folder.path(), &declared, &room)?;
            Ok(kept.into_iter().map(|(name, bytes)| (name.to_string(), bytes)).collect())
        }

        fn names(&self) -> Vec<String> {
            let Ok(entries) = std::fs::read_dir(self.data.path().join("r@1/t")) else { return Vec::new() };
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }

        fn refuses(&self, path: &str, says: &str) {
            let told = self.keep(&[("plain", None, false), (path, None, false)]).unwrap_err();
            assert!(told.contains(says), "{path}: {told}");
            assert_eq!((self.names(), self.spent.load(Ordering::Relaxed)), (Vec::new(), 0), "{path}");
        }
    }

    #[test]
    fn what_is_declared_is_kept_whole() {
        let case = Case::new();
        let kept = case.keep(&[("plain", None, false), ("./deep/er/file", None, true), ("not-there", None, true)]);
        assert_eq!(kept, Ok(vec![("n0".to_owned(), 7), ("n1".to_owned(), 4)]));
        assert_eq!(std::fs::read(case.data.path().join("r@1/t/n1")).unwrap(), b"deep");
        assert_eq!(case.names(), ["n0", "n1"]);
        assert_eq!(case.spent.load(Ordering::Relaxed), 11);
        // The next run has it too, and keeps it when the first is removed.
        let artefacts = Artefacts::new(case.data.path().into());
        let name = |text: &str| text.parse::<Name>().unwrap();
        let (from, to) = ("r@1".parse().unwrap(), "r@2".parse().unwrap());
        artefacts.take_over(&from, &to, &name("t"), &[name("n0"), name("n1")]).unwrap();
        std::fs::remove_dir_all(case.data.path().join("r@1")).unwrap();
        assert_eq!(std::fs::read(case.data.path().join("r@2/t/n0")).unwrap(), b"content");
        assert!(artefacts.take_over(&from, &to, &name("t"), &[name("n0")]).is_err());
    }

    #[test]
    fn nothing_outside_of_the_folder_is_ever_kept() {
        let case = Case::new();
        let at = |name: &str| case.folder.path().join(name);
        std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
        std::os::unix::fs::symlink("/etc", at("dir")).unwrap();
        std::os::unix::fs::symlink("plain", at("inner")).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        case.refuses("link", "it is a link");
        case.refuses("inner", "it is a link");
        case.refuses("dir/passwd", "no folder, or a link");
        case.refuses("folder", "it is no plain file");
        case.refuses("fifo", "it is no plain file");
        case.refuses("socket", "can't be kept");
        case.refuses("missing", "it left no artefact `n1`: there is no file missing");
        case.refuses("plain/x", "no folder, or a link");
        for path in ["../x", "/etc/passwd", "deep/../../x", "", ".", "deep/", "a\0b"] {
            case.refuses(path, "is no file inside of the task's folder");
        }
    }

    #[test]
    fn sizes_are_limited_for_a_file_and_for_a_run() {
        let case = Case::new();
        case.write("hundred", &"x".repeat(100));
        case.write("more", &"x".repeat(101));
        case.write("half", &"x".repeat(51));
        case.refuses("more", "has more than 100 bytes");
        let told = case.keep(&[("plain", Some(6), false)]).unwrap_err();
        assert!(told.contains("has more than 6 bytes"), "{told}");
        let told = case.keep(&[("hundred", None, false), ("half", None, false)]).unwrap_err();
        assert!(told.contains("does not fit into the 150 bytes"), "{told}");
        assert_eq!(case.keep(&[("hundred", None, false)]), Ok(vec![("n0".to_owned(), 100)]));
    }
}
