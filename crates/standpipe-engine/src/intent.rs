//! What a caller asks of the writer, and what it is told. Nothing is decided here.

use std::sync::Arc;

use standpipe_tree::{Change, Location, Path, Rows};

use crate::identity::Identity;

/// A write as asked for: server values unresolved, condition unchecked.
#[derive(Clone, Debug)]
pub struct Intent {
    /// What to write.
    pub op: Op,
    /// What must hold for it to happen.
    pub condition: Option<Condition>,
    /// Who asks.
    pub identity: Identity,
}

/// The writes a database knows.
#[derive(Clone, Debug)]
pub enum Op {
    /// Replace one location; no rows remove it.
    Set {
        /// Where.
        location: Location,
        /// What, relative to the location.
        rows: Rows,
    },
    /// Replace several locations at once, all or nothing.
    Merge {
        /// The location the request named.
        base: Path,
        /// Absolute locations that do not overlap.
        writes: Vec<(Location, Rows)>,
    },
    /// Put leaves below a location and remove nothing but what they replace: a deep merge.
    Overlay {
        /// The location.
        base: Path,
        /// The leaves, relative to it.
        rows: Rows,
    },
    /// Add a child under a new push id.
    Push {
        /// The parent.
        base: Path,
        /// The child's value.
        rows: Rows,
    },
    /// Replace the rules text.
    Rules(String),
}

/// A precondition: the location's ETag must be this one.
#[derive(Clone, Debug)]
pub struct Condition {
    /// Which location.
    pub path: Path,
    /// Its ETag ([`standpipe_tree::etag`]).
    pub etag: String,
}

/// The answer to an accepted write.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The write's revision; the current one if it changed nothing.
    pub rev: u64,
    /// What was written, server values resolved; `None` for rules.
    pub change: Option<Arc<Change>>,
    /// The new child's key, for [`Op::Push`].
    pub pushed: Option<String>,
}

impl Intent {
    /// Bytes this intent holds while it waits: what the queue and the group are bounded by.
    pub fn bytes(&self) -> usize {
        const FIXED: usize = 256;
        FIXED
            + match &self.op {
                Op::Set { rows, .. } | Op::Push { rows, .. } | Op::Overlay { rows, .. } => rows.bytes(),
                Op::Merge { writes, .. } => writes.iter().map(|(_, rows)| rows.bytes() + 64).sum(),
                Op::Rules(text) => text.len(),
            }
    }

    /// Does this intent only take things away? Such writes may use the map's last reserve.
    pub(crate) fn only_removes(&self) -> bool {
        match &self.op {
            Op::Set { rows, .. } => rows.is_empty(),
            Op::Merge { writes, .. } => writes.iter().all(|(_, rows)| rows.is_empty()),
            Op::Push { .. } | Op::Overlay { .. } | Op::Rules(_) => false,
        }
    }
}
