//! The thread behind a pipe listener: how it waits, how it is told to end and waited for, and how what it
//! catches comes to the event loop. What it does is the listener's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Between two looks at the path, which others may have removed or replaced.
const TICK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Readers caught and not yet taken by the event loop.
pub(crate) const CAUGHT_MAX: usize = 1_024;

/// What ended a wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// There is something to read.
    Event,
    /// Time for a look at the path.
    Tick,
    /// The listener is gone.
    Stop,
}

/// The thread's own side.
#[derive(Clone, Debug)]
pub(crate) struct Bell(Arc<OwnedFd>);

impl Bell {
    /// Waits for one of `sources`, the tick, or the end.
    pub(crate) fn wait<const N: usize>(&self, sources: [BorrowedFd<'_>; N]) -> Woken {
        let all = sources.into_iter().chain(std::iter::once(self.0.as_fd()));
        let mut fds: Vec<_> = all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut fds, Some(&TICK)) {
            Ok(0) => Woken::Tick,
            _ if fds.last().is_some_and(|bell| !bell.revents().is_empty()) => Woken::Stop,
            _ => Woken::Event,
        }
    }
}

/// The thread's owner; dropping it ends the thread and waits for that.
#[derive(Debug)]
pub(crate) struct Keeper {
    bell: Bell,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    pub(crate) fn bell() -> io::Result<Bell> {
        Ok(Bell(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Runs `work` until the bell of it rings.
    pub(crate) fn start(bell: Bell, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
        Ok(Self { bell, thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _full_is_rung = rustix::io::write(&self.bell.0, &1_u64.to_ne_bytes());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of a pipe panicked");
        }
    }
}
