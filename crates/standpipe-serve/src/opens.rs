//! Who opened which file: a source of "this inode was opened", in the order of the opens and before the
//! opener can read. What an open means is the listeners'.
//!
//! Both of the kernel's ways melt events together that nobody has read yet, each other ones: fanotify those
//! of one thread (where this process may ask for that, else of one process), inotify equal ones in a row.
//! So, unless threads are told apart, both are asked, and the larger count is the true one. A watch on
//! the folder puts another event between two opens for inotify; only opens within the same fraction of a microsecond,
//! by threads of one process, may be taken for one.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::sys;

/// Room for a hundred events or so; more come with the next read.
const BUFFER_BYTES: usize = 8 << 10;

/// Names an inode in the events of one way. Those of the two ways differ in length.
pub(crate) type Key = Arc<[u8]>;

/// Which way an event came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Fanotify,
    Inotify,
}

impl Way {
    pub(crate) const COUNT: usize = 2;
}

/// The source.
#[derive(Debug)]
pub(crate) struct Opens {
    fanotify: Option<OwnedFd>,
    /// And the watch of the folder.
    inotify: Option<(OwnedFd, i32)>,
}

impl Opens {
    /// A source for files in `folder`, which are made in `workshop`.
    pub(crate) fn new(folder: &Path, workshop: &Path) -> io::Result<Self> {
        if let Some(fanotify) = fanotify(workshop, true) {
            return Ok(Self { fanotify: Some(fanotify), inotify: None });
        }
        let fanotify = fanotify(workshop, false);
        if fanotify.is_none() {
            tracing::debug!("no fanotify: readers that open a pipe in the same microsecond may be taken for one");
        }
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let watch = inotify::add_watch(&inotify, folder, WatchFlags::OPEN | WatchFlags::ONLYDIR)?;
        Ok(Self { fanotify, inotify: Some((inotify, watch)) })
    }

    /// Reports opens of the file at `path` from now on; the key of each way.
    pub(crate) fn watch(&self, path: &Path) -> io::Result<Vec<Key>> {
        let mut keys = Vec::with_capacity(Way::COUNT);
        if let Some(fanotify) = &self.fanotify {
            sys::fanotify_opens(fanotify, path)?;
            keys.push(sys::handle(path)?);
        }
        if let Some((inotify, _)) = &self.inotify {
            keys.push(Arc::new(inotify::add_watch(inotify, path, WatchFlags::OPEN)?.to_ne_bytes()));
        }
        Ok(keys)
    }

    /// The way that counts best.
    pub(crate) fn best(&self) -> Way {
        if self.fanotify.is_some() { Way::Fanotify } else { Way::Inotify }
    }

    /// What was opened since the last look; nothing when nothing was.
    pub(crate) fn read(&self, mut opened: impl FnMut(Way, &[u8])) {
        if let Some(fanotify) = &self.fanotify {
            let mut buffer = [0; BUFFER_BYTES];
            let count = rustix::io::read(fanotify, &mut buffer).unwrap_or(0);
            sys::handles(&buffer[..count]).for_each(|key| opened(Way::Fanotify, key));
        }
        if let Some((inotify, folder)) = &self.inotify {
            let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
            let mut reader = inotify::Reader::new(inotify, &mut buffer);
            while let Ok(event) = reader.next() {
                if event.wd() != *folder {
                    opened(Way::Inotify, &event.wd().to_ne_bytes());
                }
            }
        }
    }

    /// What becomes readable; one twice where there is only one.
    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; Way::COUNT] {
        let (fanotify, inotify) = (self.fanotify.as_ref(), self.inotify.as_ref().map(|(inotify, _)| inotify));
        let any = fanotify.or(inotify).expect("made with one of them");
        [fanotify.unwrap_or(any).as_fd(), inotify.unwrap_or(any).as_fd()]
    }

    /// Whether there is something to read.
    pub(crate) fn is_pending(&self) -> bool {
        self.fds().iter().any(|fd| rustix::io::ioctl_fionread(fd).is_ok_and(|bytes| bytes > 0))
    }
}

/// fanotify, if it may be used (so) and can name the files of this file system.
fn fanotify(workshop: &Path, threads: bool) -> Option<OwnedFd> {
    let fanotify = sys::fanotify(threads).ok()?;
    sys::fanotify_opens(&fanotify, workshop).ok()?;
    sys::handle(workshop).ok()?;
    Some(fanotify)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn each_open_of_a_watched_file_is_told_once_by_each_way() {
        let dir = std::env::temp_dir().join(format!("standpipe-opens-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("watched");
        std::fs::write(&path, "").unwrap();
        std::fs::write(dir.join("other"), "").unwrap();
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        let folder = inotify::add_watch(&inotify, &dir, WatchFlags::OPEN).unwrap();
        // As where fanotify is forbidden, and as it is here.
        for opens in [Opens { fanotify: None, inotify: Some((inotify, folder)) }, Opens::new(&dir, &dir).unwrap()] {
            let keys = opens.watch(&path).unwrap();
            let open = |times| (0..times).for_each(|_| drop(File::open(&path).unwrap()));
            let told = || {
                let mut told = 0;
                opens.read(|way, key| {
                    told += u32::from(way == opens.best() && keys.iter().any(|known| **known == *key))
                });
                told
            };
            assert!(!opens.is_pending() && told() == 0);
            open(1);
            assert!(opens.is_pending());
            assert_eq!(told(), 1);
            drop(File::open(dir.join("other")).unwrap());
            assert_eq!(told(), 0);
            if opens.best() == Way::Inotify {
                // Nobody has read the first when the second comes.
                open(2);
                assert_eq!(told(), 2);
            }
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn bytes_that_are_no_events_are_nothing() {
        let check = |bytes: &[u8], expected: usize| assert_eq!(sys::handles(bytes).count(), expected, "{bytes:?}");
        check(&[], 0);
        check(&[1, 0], 0);
        check(&[0; 64], 0);
        check(&[255; 64], 0);
        let mut event = vec![0; 52];
        event[0] = 52;
        check(&event, 1);
        check(&[event.clone(), event.clone()].concat(), 2);
        event[36] = 200;
        check(&event, 0);
        event[0] = 24;
        check(&event[..24], 0);
    }
}
