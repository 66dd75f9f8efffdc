//! Figures of the streams: counters the writer keeps, gauges read when somebody asks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Counted by the writer's thread.
#[derive(Debug, Default)]
pub(crate) struct StreamMetrics {
    commits: AtomicU64,
    commit_ns: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    held_up: AtomicBool,
}

impl StreamMetrics {
    pub(crate) fn committed(&self, records: u64, bytes: u64, took: Duration) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.commit_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn set_held_up(&self, held_up: bool) {
        self.held_up.store(held_up, Ordering::Relaxed);
    }
}

/// Figures of the streams of a data folder at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Commits since start.
    pub commits: u64,
    /// Nanoseconds spent in them.
    pub commit_ns: u64,
    /// Records appended since start.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Is output waiting because it can't be stored (a full disk, a full map)?
    pub held_up: bool,
    /// Streams that somebody appends to or watches.
    pub live: usize,
    /// Those who watch.
    pub watchers: usize,
    /// Bytes waiting for their commit.
    pub queue_bytes: usize,
    /// Bytes of the newest chunks kept in memory.
    pub ring_bytes: usize,
    /// Bytes of address space reserved.
    pub map_bytes: usize,
    /// Bytes of the file in use.
    pub used_bytes: usize,
}

impl StreamStats {
    pub(crate) fn with_writer(self, metrics: &StreamMetrics) -> Self {
        Self {
            commits: metrics.commits.load(Ordering::Relaxed),
            commit_ns: metrics.commit_ns.load(Ordering::Relaxed),
            records: metrics.records.load(Ordering::Relaxed),
            bytes: metrics.bytes.load(Ordering::Relaxed),
            held_up: metrics.held_up.load(Ordering::Relaxed),
            ..self
        }
    }
}
