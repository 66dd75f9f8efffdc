//! Something counted that has an upper bound. What is counted, and what happens at the bound, is
//! `admission.rs`'.

use super::sync::{AtomicUsize, Ordering};

/// Something counted that has an upper bound, without a lock.
#[derive(Debug, Default)]
pub(crate) struct Budget(AtomicUsize);

impl Budget {
    /// Adds `count` unless the sum would exceed `max`.
    pub(crate) fn try_take(&self, count: usize, max: usize) -> bool {
        let add = |used: usize| used.checked_add(count).filter(|sum| *sum <= max);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, add).is_ok()
    }

    pub(crate) fn give(&self, count: usize) {
        let before = self.0.fetch_sub(count, Ordering::AcqRel);
        debug_assert!(before >= count, "more given back than taken");
    }

    pub(crate) fn used(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}
