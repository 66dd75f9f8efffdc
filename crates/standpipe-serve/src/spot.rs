//! A path that a pipe listener serves: claimed for one server, with a hidden folder beside it where
//! the next file is made before it takes its place by a rename. It removes what it put there, and
//! nothing else. What kind of file it is, is the listener's.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

/// Why a pipe can't be served; the text says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// Something of others is there.
    #[error("{path} is {what}, which is not ours to replace: remove it, or name another path")]
    Taken {
        /// The path.
        path: String,
        /// What is there.
        what: &'static str,
    },
    /// Another server has it.
    #[error("{path} is served by another standpipe: stop it, or name another path")]
    InUse {
        /// The path.
        path: String,
    },
    /// There is no folder for it.
    #[error("the folder of {path} does not exist: make it (mkdir -p {folder}), or name another path")]
    NoFolder {
        /// The path.
        path: String,
        /// Its folder.
        folder: String,
    },
    /// The file system has no leases.
    #[error(
        "the file system of {path} has no leases ({cause}): use a local one (ext4, xfs, btrfs, tmpfs), or a named pipe (--mode fifo)"
    )]
    NoLeases {
        /// The path.
        path: String,
        /// What the system said.
        cause: io::Error,
    },
    /// Anything else.
    #[error("can't serve {path}: {cause}")]
    Other {
        /// The path.
        path: String,
        /// What the system said.
        cause: io::Error,
    },
}

/// Which inode a file is.
pub(crate) type FileId = (u64, u64);

/// The identity of a file.
pub(crate) fn id(found: &Metadata) -> FileId {
    (found.dev(), found.ino())
}

/// A claimed path.
#[derive(Debug)]
pub(crate) struct Spot {
    path: PathBuf,
    /// Where files are made, on the same file system.
    workshop: PathBuf,
    made: AtomicU64,
    /// Locked while we have the path; a server that was killed has left its lock.
    _lock: File,
}

impl Spot {
    /// Claims `path`, where nothing may be but what `ours` accepts. The folder must exist.
    pub(crate) fn claim(path: &Path, ours: impl FnOnce(&Metadata) -> bool) -> Result<Self, PipeError> {
        let other = |cause| PipeError::Other { path: path.display().to_string(), cause };
        let path = std::path::absolute(path).map_err(other)?;
        let other = |cause| PipeError::Other { path: path.display().to_string(), cause };
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(other(io::ErrorKind::InvalidFilename.into()));
        };
        if !folder.is_dir() {
            let (path, folder) = (path.display().to_string(), folder.display().to_string());
            return Err(PipeError::NoFolder { path, folder });
        }
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".standpipe");
        let workshop = folder.join(hidden);
        let Some(lock) = lock(&workshop).map_err(other)? else {
            return Err(PipeError::InUse { path: path.display().to_string() });
        };
        let spot = Self { path, workshop, made: AtomicU64::new(0), _lock: lock };
        spot.clear();
        match std::fs::symlink_metadata(&spot.path) {
            Ok(found) if !ours(&found) => {
                Err(PipeError::Taken { path: spot.path.display().to_string(), what: kind(&found) })
            }
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(spot.other(cause)),
            _ => Ok(spot),
        }
    }

    /// The path, absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the path.
    pub(crate) fn folder(&self) -> &Path {
        self.path.parent().expect("a claimed path has a folder")
    }

    /// The folder where files are made.
    pub(crate) fn workshop(&self) -> &Path {
        &self.workshop
    }

    /// A failure about this path.
    pub(crate) fn other(&self, cause: io::Error) -> PipeError {
        PipeError::Other { path: self.path.display().to_string(), cause }
    }

    /// A name for a new file.
    pub(crate) fn next_name(&self) -> PathBuf {
        self.workshop.join(self.made.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Puts the file in place of the one that is there.
    pub(crate) fn replace(&self, file: &Path) -> io::Result<()> {
        std::fs::rename(file, &self.path)
    }

    /// The file at the path; `None` when there is none.
    pub(crate) fn found(&self) -> Option<Metadata> {
        std::fs::symlink_metadata(&self.path).ok()
    }

    /// Puts the file there if nothing is.
    pub(crate) fn put(&self, file: &Path) -> io::Result<()> {
        match renameat_with(CWD, file, CWD, &self.path, RenameFlags::NOREPLACE) {
            // Not on every file system: then a file that appears in this very moment is lost.
            Err(rustix::io::Errno::INVAL) if self.found().is_none() => self.replace(file),
            done => Ok(done?),
        }
    }

    /// Makes the workshop again where somebody removed it.
    pub(crate) fn mend(&self) {
        let _told_by_the_next_file = make_folder(&self.workshop);
    }

    /// Removes the file at the path if it is the one that is ours, which must be open still: the number of one
    /// that is gone may be another's by now.
    pub(crate) fn leave(&self, ours: FileId) {
        if self.found().is_some_and(|found| id(&found) == ours) {
            let _gone_already = std::fs::remove_file(&self.path);
        }
    }

    fn clear(&self) {
        for entry in std::fs::read_dir(&self.workshop).into_iter().flatten().flatten() {
            let _not_a_file_of_ours = std::fs::remove_file(entry.path());
        }
    }
}

impl Drop for Spot {
    fn drop(&mut self) {
        self.clear();
        let _somebody_uses_it = std::fs::remove_dir(&self.workshop);
    }
}

/// Makes the folder if it is not there; not the ones above it, whoever removed them meant it.
fn make_folder(folder: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Makes the workshop and locks it; `None` when another process has.
fn lock(workshop: &Path) -> io::Result<Option<File>> {
    loop {
        make_folder(workshop)?;
        let lock = File::open(workshop)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            locked => locked?,
        }
        // Who had it may have removed it between the two calls above.
        if std::fs::symlink_metadata(workshop).is_ok_and(|now| lock.metadata().is_ok_and(|ours| id(&now) == id(&ours)))
        {
            return Ok(Some(lock));
        }
    }
}

fn kind(found: &Metadata) -> &'static str {
    let kind = found.file_type();
    match () {
        () if kind.is_dir() => "a folder",
        () if kind.is_symlink() => "a symbolic link",
        () if kind.is_fifo() => "a named pipe",
        () if kind.is_file() => "an ordinary file",
        () => "something else",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_claim_and_is_left_as_it_was() {
        let dir = std::env::temp_dir().join(format!("standpipe-spot-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("p");
        let refused = |path: &Path| Spot::claim(path, |_| false).map(drop).unwrap_err().to_string();
        let spot = Spot::claim(&path, |_| false).unwrap();
        assert!(refused(&path).contains("served by another"));
        // A file of ours, then one of others.
        let make = |text: &str| {
            let made = spot.next_name();
            std::fs::write(&made, text).unwrap();
            made
        };
        spot.put(&make("ours")).unwrap();
        let ours = id(&spot.found().unwrap());
        // Open, as listeners keep theirs: its number is not given to another file.
        let _kept = File::open(&path).unwrap();
        assert!(spot.put(&make("late")).is_err());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "theirs").unwrap();
        spot.leave(ours);
        drop(spot);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "theirs");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "the workshop is gone");
        assert!(refused(&path).contains("is an ordinary file"));
        assert!(refused(&dir.join("none/p")).contains("mkdir -p"));
        assert!(refused(Path::new("/")).contains("can't serve"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
