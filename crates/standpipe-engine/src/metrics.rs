//! The engine's own figures: counters the writer keeps, gauges read when somebody asks. How they
//! are exported is the doors' business.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counted by the writer's thread.
#[derive(Debug, Default)]
pub(crate) struct WriterMetrics {
    commits: AtomicU64,
    writes: AtomicU64,
    commit_ns: AtomicU64,
    largest_group: AtomicU64,
}

impl WriterMetrics {
    pub(crate) fn committed(&self, writes: usize, took: Duration) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.writes.fetch_add(writes as u64, Ordering::Relaxed);
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.commit_ns.fetch_add(ns, Ordering::Relaxed);
        self.largest_group.fetch_max(writes as u64, Ordering::Relaxed);
    }
}

/// Figures of one database at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatabaseStats {
    /// Committed revision.
    pub rev: u64,
    /// Commits since start.
    pub commits: u64,
    /// Writes in those commits, refused ones included.
    pub writes: u64,
    /// Nanoseconds spent in them, from the first decision to the publication.
    pub commit_ns: u64,
    /// Writes in the largest of them.
    pub largest_group: u64,
    /// Writes waiting for the writer.
    pub queue_intents: usize,
    /// Their bytes.
    pub queue_bytes: usize,
    /// Watched paths.
    pub topics: usize,
    /// Bytes of address space reserved.
    pub map_bytes: usize,
    /// Bytes of the file in use.
    pub used_bytes: usize,
    /// Are commits synced before they are acknowledged?
    pub synced: bool,
}

impl DatabaseStats {
    pub(crate) fn with_writer(self, metrics: &WriterMetrics) -> Self {
        Self {
            commits: metrics.commits.load(Ordering::Relaxed),
            writes: metrics.writes.load(Ordering::Relaxed),
            commit_ns: metrics.commit_ns.load(Ordering::Relaxed),
            largest_group: metrics.largest_group.load(Ordering::Relaxed),
            ..self
        }
    }
}
