//! What a caller asks of the writer, and what it is told. Nothing is decided here.

use std::fmt;
use std::sync::Arc;

use standpipe_tree::{Change, Location, Path, Rows};

use crate::error::Result;
use crate::identity::Identity;
use crate::lease::{Lease, LeaseId};
use crate::view::View;

/// A write as asked for: server values unresolved, conditions unchecked.
#[derive(Clone, Debug)]
pub struct Intent {
    /// What to write.
    pub op: Op,
    /// What must hold for it to happen: all of it, before the first step of a batch.
    pub conditions: Vec<Condition>,
    /// Who asks.
    pub identity: Identity,
    /// What is written is removed when this lease is released; in the same commit it is armed so.
    pub lease: Option<Lease>,
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
    /// Have `rows` written at a location when the lease is released, in place of what was armed
    /// there and below, or inside what is armed above; no rows remove it. Server values are resolved then.
    /// Refused now if rules refuse the write now, and left out then if they refuse it then.
    Arm {
        /// The lease.
        lease: Lease,
        /// Where.
        location: Location,
        /// What, relative to the location.
        rows: Rows,
    },
    /// [`Op::Arm`] several locations, all or none.
    ArmMerge {
        /// The lease.
        lease: Lease,
        /// The location the request named.
        base: Path,
        /// Absolute locations that do not overlap.
        writes: Vec<(Location, Rows)>,
    },
    /// What the lease has armed is written as this identity from here on: its connection is somebody else
    /// now.
    Identify {
        /// The lease.
        lease: Lease,
    },
    /// Forget what the lease has armed at a path and below. What is armed above falls apart into its
    /// children first, each armed for itself; a leaf above stays.
    Disarm {
        /// The lease.
        lease: Lease,
        /// The path.
        path: Path,
    },
    /// Write everything that is armed, ancestors first, and forget it. Dropping the last handle of a
    /// [`Lease`] does this.
    Release(LeaseId),
    /// What the tree, as the writes before left it, says is to be written.
    Compute(Compute),
    /// Several writes in one commit, each decided after the one before is applied. A refused one
    /// is refused alone; [`Committed::steps`] tells.
    Batch(Vec<Op>),
}

type Computed = dyn Fn(&View<'_>) -> Result<Option<Op>> + Send + Sync;

/// A write that depends on what is there: a function from the writer's view of the tree to a plain
/// write. Nothing comes between its look and its write, so it never has to be tried again.
#[derive(Clone)]
pub struct Compute {
    function: Arc<Computed>,
    bytes: usize,
    only_removes: bool,
}

impl Compute {
    /// A write that `function` decides; `bytes` is the memory it holds while it waits.
    ///
    /// `None` writes nothing and is acknowledged with the current revision. The function runs on the
    /// writer's thread, where everybody waits for it, and may run more than once: what it finds for its
    /// caller it puts aside, and overwrites when it runs again.
    pub fn new(bytes: usize, function: impl Fn(&View<'_>) -> Result<Option<Op>> + Send + Sync + 'static) -> Self {
        Self { function: Arc::new(function), bytes, only_removes: false }
    }

    /// It answers with removals only, so it may use the map's last reserve.
    #[must_use]
    pub fn removing(self) -> Self {
        Self { only_removes: true, ..self }
    }

    pub(crate) fn run(&self, view: &View<'_>) -> Result<Option<Op>> {
        (self.function)(view)
    }
}

impl fmt::Debug for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compute").field("bytes", &self.bytes).finish_non_exhaustive()
    }
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
    /// What was written, server values resolved; `None` for rules, for a batch and for nothing, and where
    /// increments tell of what was there to whom may not read it.
    pub change: Option<Arc<Change>>,
    /// The new child's key, for [`Op::Push`].
    pub pushed: Option<String>,
    /// What came of each step of an [`Op::Batch`].
    pub steps: Vec<Result<Committed>>,
}

impl Intent {
    /// A write without conditions.
    pub fn new(op: Op, identity: Identity) -> Self {
        Self { op, conditions: Vec::new(), identity, lease: None }
    }

    /// Bytes this intent holds while it waits: what the queue and the group are bounded by.
    pub fn bytes(&self) -> usize {
        self.op.bytes()
    }
}

impl Op {
    fn bytes(&self) -> usize {
        const FIXED: usize = 256;
        FIXED
            + match self {
                Self::Set { rows, .. }
                | Self::Push { rows, .. }
                | Self::Overlay { rows, .. }
                | Self::Arm { rows, .. } => rows.bytes(),
                Self::Disarm { .. } | Self::Identify { .. } | Self::Release(_) => 0,
                Self::Merge { writes, .. } | Self::ArmMerge { writes, .. } => {
                    writes.iter().map(|(_, rows)| rows.bytes() + 64).sum()
                }
                Self::Rules(text) => text.len(),
                Self::Compute(compute) => compute.bytes,
                Self::Batch(steps) => steps.iter().map(Self::bytes).sum(),
            }
    }

    /// Does it only take things away? Such writes may use the map's last reserve.
    pub(crate) fn only_removes(&self) -> bool {
        match self {
            Self::Set { rows, .. } => rows.is_empty(),
            Self::Merge { writes, .. } => writes.iter().all(|(_, rows)| rows.is_empty()),
            Self::Push { .. } | Self::Overlay { .. } | Self::Rules(_) => false,
            Self::Arm { .. } | Self::ArmMerge { .. } | Self::Identify { .. } => false,
            // A release writes too, but it must come about.
            Self::Disarm { .. } | Self::Release(_) => true,
            Self::Compute(compute) => compute.only_removes,
            Self::Batch(steps) => steps.iter().all(Self::only_removes),
        }
    }
}
