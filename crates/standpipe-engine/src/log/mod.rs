//! The order of a database: the `Log` seam. Safety rests on `append` alone, a compare-and-append
//! at the position after the last. `LocalLog` is a node of its own, `SimLog` a shared log with
//! faults for tests; engines kept by others come later, in a crate of their own.

mod local;
mod sim;

use std::time::Instant;

pub use self::local::LocalLog;
pub use self::sim::{SimFaults, SimLog};
use crate::record::{Encoded, Record};

/// What went wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The records asked for have been trimmed; the first one left is at `first`.
    #[error("records before position {first} are gone")]
    Gone {
        /// Position of the first record left.
        first: u64,
    },
    /// The log can't be reached now.
    #[error("the log does not answer: {0}")]
    Unreachable(String),
    /// The log does not take this record.
    #[error("the log refuses the record: {0}")]
    Refused(String),
}

/// The outcome of an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Append {
    /// The record is at the position after `prev`, as durable as the log makes it.
    Done,
    /// Another record is there.
    Taken,
    /// Certainly not there.
    Refused(LogError),
    /// May or may not be there: it must be resolved before anything else.
    Unknown(LogError),
}

/// The order of one database.
pub trait Log: Send {
    /// Puts `record` right after position `prev`. May block up to `deadline`.
    fn append(&mut self, prev: u64, record: &Encoded, deadline: Instant) -> Append;

    /// Records after position `after`, in order, at most `max` of them.
    fn read(&mut self, after: u64, max: usize) -> Result<Vec<Record>, LogError>;

    /// The last position, asked from whoever decides, never from a lagging copy.
    fn last(&mut self) -> Result<u64, LogError>;

    /// Asks for `wake` to be called when others may have appended. A hint: it may come late,
    /// twice or never.
    fn follow(&mut self, wake: Box<dyn Fn() + Send + Sync>);

    /// Can records appear that this node did not append?
    fn is_shared(&self) -> bool;
}
