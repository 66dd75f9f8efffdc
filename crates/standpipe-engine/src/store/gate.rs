//! The gate that every LMDB transaction passes: shared for transactions, exclusive for growing
//! the map. LMDB may only be resized while no transaction is open in the process, and a path
//! that forgot to ask would crash it, so `Store` hands out no transaction without a pass.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

#[derive(Debug, Default)]
struct State {
    open: usize,
    closed: bool,
}

/// Counts open transactions; see the module's text.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    left: Condvar,
    opened: Condvar,
    reopened: Notify,
}

/// One open transaction; dropping it leaves the gate.
#[derive(Debug)]
pub(crate) struct Pass(Arc<Gate>);

impl Gate {
    /// Enters unless the map is being resized. Never blocks.
    pub(crate) fn try_enter(self: &Arc<Self>) -> Option<Pass> {
        let mut state = self.state.lock();
        if state.closed {
            return None;
        }
        state.open += 1;
        Some(Pass(self.clone()))
    }

    /// Enters as soon as no resize is under way.
    pub(crate) async fn enter(self: &Arc<Self>) -> Pass {
        loop {
            let reopened = self.reopened.notified();
            if let Some(pass) = self.try_enter() {
                return pass;
            }
            reopened.await;
        }
    }

    /// As [`Gate::enter`], for threads outside a runtime and for what must not wait long.
    pub(crate) fn enter_within(self: &Arc<Self>, patience: Duration) -> Option<Pass> {
        let deadline = Instant::now() + patience;
        let mut state = self.state.lock();
        while state.closed {
            if self.opened.wait_until(&mut state, deadline).timed_out() {
                return None;
            }
        }
        state.open += 1;
        Some(Pass(self.clone()))
    }

    /// Runs `resize` while no transaction is open, or gives up after `patience`.
    pub(crate) fn exclusive<T>(&self, patience: Duration, resize: impl FnOnce() -> T) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut state = self.state.lock();
        state.closed = true;
        while state.open > 0 {
            if self.left.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        let result = (state.open == 0).then(resize);
        state.closed = false;
        drop(state);
        self.opened.notify_all();
        self.reopened.notify_waiters();
        result
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.open -= 1;
        if state.open == 0 && state.closed {
            self.0.left.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resize_waits_for_open_transactions_and_gives_up_in_time() {
        let gate = Arc::new(Gate::default());
        let pass = gate.try_enter().unwrap();
        assert_eq!(gate.exclusive(Duration::from_millis(5), || 1), None);
        drop(pass);
        assert_eq!(gate.exclusive(Duration::from_millis(5), || gate.try_enter_locked()), Some(false));
        assert!(gate.try_enter().is_some());
    }

    impl Gate {
        /// Inside `exclusive` the lock is held, so nobody can enter.
        fn try_enter_locked(&self) -> bool {
            self.state.try_lock().is_some()
        }
    }
}
