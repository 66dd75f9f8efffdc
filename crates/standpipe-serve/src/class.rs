//! What a job is to the queue: its priority class and its cost. How the classes share the workers
//! is the business of `queue.rs`.

/// Priority of a job; a higher one gets more turns, none starves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Keeps the node usable: health, admin, goodbye.
    Control,
    /// Changes the tree.
    Write,
    /// Reads of ordinary size.
    Read,
    /// Exports, backups, large scans.
    Bulk,
}

impl Class {
    /// All classes, highest first; the position is [`Class::index`].
    pub const ALL: [Self; 4] = [Self::Control, Self::Write, Self::Read, Self::Bulk];

    /// Position in [`Class::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Turns out of fifteen when every class has work waiting.
    pub(crate) const fn weight(self) -> u64 {
        match self {
            Self::Control => 8,
            Self::Write => 4,
            Self::Read => 2,
            Self::Bulk => 1,
        }
    }

    /// Stable name for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Write => "write",
            Self::Read => "read",
            Self::Bulk => "bulk",
        }
    }
}

/// What a job takes, which decides where it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Some microseconds and never blocking: runs on the connection's own task.
    Small,
    /// Reads, writes or builds about this many bytes: waits for a worker.
    Bytes(usize),
}
