//! Who opened which file: a source of "this inode was opened", one event for each open, in the order of the
//! opens and before the opener can read. What an open means is the listeners'.
//!
//! fanotify is asked first: it keeps the events of different processes apart. Where a container forbids it
//! inotify has to do, which melts equal events in a row into one. A watch on the folder puts another event
//! between two opens, so that all but those within the same fraction of a microsecond stay apart.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::sys;

/// Room for a hundred events or so; more come with the next read.
const BUFFER_BYTES: usize = 8 << 10;

/// Names an inode in the events.
pub(crate) type Key = Arc<[u8]>;

/// The source.
#[derive(Debug)]
pub(crate) enum Opens {
    Exact(OwnedFd),
    Melting(OwnedFd),
}

impl Opens {
    /// A source for files in `folder`, which are made in `workshop`.
    pub(crate) fn new(folder: &Path, workshop: &Path) -> io::Result<Self> {
        if let Some(exact) = Self::exact(workshop) {
            return Ok(exact);
        }
        tracing::debug!("fanotify is not to be had: readers that open a FIFO at the same moment may be taken for one");
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&inotify, folder, WatchFlags::OPEN | WatchFlags::ONLYDIR)?;
        Ok(Self::Melting(inotify))
    }

    /// fanotify, if it may be used and can name the files of this file system.
    fn exact(workshop: &Path) -> Option<Self> {
        let exact = Self::Exact(sys::fanotify().ok()?);
        exact.watch(workshop).ok()?;
        Some(exact)
    }

    /// Reports opens of the file at `path` from now on.
    pub(crate) fn watch(&self, path: &Path) -> io::Result<Key> {
        match self {
            Self::Exact(fanotify) => {
                sys::fanotify_opens(fanotify, path)?;
                sys::handle(path)
            }
            Self::Melting(inotify) => {
                let watch = inotify::add_watch(inotify, path, WatchFlags::OPEN)?;
                Ok(Arc::new(watch.to_ne_bytes()))
            }
        }
    }

    /// What was opened since the last look; nothing when nothing was.
    pub(crate) fn read(&self, mut opened: impl FnMut(&[u8])) {
        match self {
            Self::Exact(fanotify) => {
                let mut buffer = [0; BUFFER_BYTES];
                let count = rustix::io::read(fanotify, &mut buffer).unwrap_or(0);
                sys::handles(&buffer[..count]).for_each(opened);
            }
            Self::Melting(inotify) => {
                let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
                let mut reader = inotify::Reader::new(inotify, &mut buffer);
                while let Ok(event) = reader.next() {
                    opened(&event.wd().to_ne_bytes());
                }
            }
        }
    }

    /// Whether there is something to read.
    pub(crate) fn is_pending(&self) -> bool {
        rustix::io::ioctl_fionread(self).is_ok_and(|bytes| bytes > 0)
    }
}

impl AsFd for Opens {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Exact(fd) | Self::Melting(fd) => fd.as_fd(),
        }
    }
}
