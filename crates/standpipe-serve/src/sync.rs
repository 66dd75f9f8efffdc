//! The lock, the condition and the threads of the pool, in one place, so that `model.rs` can put a
//! model checker's in theirs.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

pub(super) use std::sync::atomic::{AtomicUsize, Ordering};

pub(super) use parking_lot::{Mutex, MutexGuard};

/// Stack of a worker thread.
const STACK_BYTES: usize = crate::limits::WORKER_STACK_BYTES;

/// A condition that threads wait for.
#[derive(Default)]
pub(super) struct Condvar(parking_lot::Condvar);

impl Condvar {
    pub(super) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(super) fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Waits; true when it was for nothing. The lock is for a checker that must take it anew.
    pub(super) fn wait_for<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        _lock: &'a Mutex<T>,
        patience: Duration,
    ) -> (MutexGuard<'a, T>, bool) {
        let timed_out = self.0.wait_for(&mut guard, patience).timed_out();
        (guard, timed_out)
    }
}

/// A thread that was started.
pub(super) struct Thread(JoinHandle<()>);

impl Thread {
    pub(super) fn start(name: String, work: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        std::thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(work).map(Self)
    }

    pub(super) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for its end; false when it panicked.
    pub(super) fn join(self) -> bool {
        self.0.join().is_ok()
    }
}
