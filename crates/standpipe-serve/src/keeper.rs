//! The thread behind a pipe listener: how it waits, how it is told to end and waited for, and how what it
//! catches comes to the event loop. What it does is the listener's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Between two looks at the path, which others may have removed or replaced.
const TICK: Duration = Duration::from_secs(1);

/// Readers caught and not yet taken by the event loop.
pub(crate) const CAUGHT_MAX: usize = 1_024;

/// What ended a wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// There may be something to read.
    Event,
    /// There is nothing to read, or has been something for long: time for a look at the path.
    Tick,
    /// The listener is gone.
    Stop,
}

/// The thread's own side.
#[derive(Debug)]
pub(crate) struct Bell {
    rung: Arc<OwnedFd>,
    ticked: Instant,
}

impl Bell {
    /// Waits for one of `sources`, the tick, or the end.
    pub(crate) fn wait<const N: usize>(&mut self, sources: [BorrowedFd<'_>; N]) -> Woken {
        let left = Timespec::try_from(TICK.saturating_sub(self.ticked.elapsed())).expect("a second at most");
        let all = sources.into_iter().chain(std::iter::once(self.rung.as_fd()));
        let mut fds: Vec<_> = all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let polled = poll(&mut fds, Some(&left));
        if fds.last().is_some_and(|bell| !bell.revents().is_empty()) {
            return Woken::Stop;
        }
        if polled == Ok(0) || self.ticked.elapsed() >= TICK * 2 {
            self.ticked = Instant::now();
            return Woken::Tick;
        }
        Woken::Event
    }
}

/// The thread's owner; dropping it ends the thread and waits for that.
#[derive(Debug)]
pub(crate) struct Keeper {
    bell: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Runs `work` until its bell rings.
    pub(crate) fn start(name: &str, work: impl FnOnce(Bell) + Send + 'static) -> io::Result<Self> {
        let rung = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let bell = Bell { rung: rung.clone(), ticked: Instant::now() };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(bell))?;
        Ok(Self { bell: rung, thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _full_is_rung = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of a pipe panicked");
        }
    }
}
