//! Counters of MCP: what is counted, and how it is shown to Prometheus. Who counts calls these; nobody else has counters of MCP.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Counters of MCP in one process; a handle that is cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    hits: Mutex<BTreeMap<&'static str, u64>>,
}

impl Metrics {
    /// A limit was hit; `limit` is its name in the configuration. Counted, and said in the log.
    pub fn hit(&self, limit: &'static str) {
        tracing::info!(limit, "a limit of MCP was reached");
        *self.0.hits.lock().entry(limit).or_default() += 1;
    }

    /// How often limits were hit, by name.
    pub fn hits(&self) -> BTreeMap<&'static str, u64> {
        self.0.hits.lock().clone()
    }
}
