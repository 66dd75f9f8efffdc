//! Figures of runs: counted where things happen, put together when somebody asks. How they are exported is the
//! doors' business.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::record::RunState;
use crate::settings::Durations;

/// Upper bounds of durations, in milliseconds.
const BOUNDS: [u64; 13] =
    [10, 50, 100, 500, 1_000, 5_000, 10_000, 60_000, 300_000, 1_800_000, 3_600_000, 14_400_000, 86_400_000];

/// Counters since the start of the process.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) started: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) removed: AtomicU64,
    pub(crate) kept: AtomicU64,
    pub(crate) schedule_missed: AtomicU64,
    pub(crate) queue_wait: Histogram,
    pub(crate) run_time: Histogram,
    ended: [AtomicU64; RunState::ALL.len()],
}

impl Metrics {
    pub(crate) fn ended(&self, state: RunState) {
        self.ended[state as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Final states that occurred, and how often.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (RunState, u64)> {
        let counts = RunState::ALL.into_iter().zip(&self.ended).filter(|(state, _)| state.is_final());
        counts.map(|(state, count)| (state, read(count)))
    }
}

/// Durations by upper bound.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// The last is of those beyond all bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_ms: AtomicU64,
}

impl Histogram {
    pub(crate) fn add(&self, ms: u64) {
        let index = BOUNDS.partition_point(|bound| *bound < ms);
        self.buckets[index].fetch_add(1, Ordering::Relaxed);
        self.sum_ms.fetch_add(ms, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Durations {
        let counts: Vec<_> = self.buckets.iter().map(read).collect();
        Durations {
            buckets: BOUNDS.into_iter().zip(counts.iter().copied()).collect(),
            count: counts.iter().sum(),
            sum_ms: read(&self.sum_ms),
        }
    }
}

pub(crate) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

pub(crate) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_the_bucket_of_their_bound() {
        let histogram = Histogram::default();
        for ms in [0, 10, 11, 1_000, 90_000_000] {
            histogram.add(ms);
        }
        let read = histogram.read();
        assert_eq!((read.count, read.sum_ms), (5, 90_001_021));
        assert_eq!((read.buckets[0], read.buckets[1], read.buckets[4]), ((10, 2), (50, 1), (1_000, 1)));
        assert!(RunState::ALL.into_iter().enumerate().all(|(index, state)| state as usize == index));
    }
}
