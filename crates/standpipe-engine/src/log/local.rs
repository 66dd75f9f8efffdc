//! The log of a node alone. The kept tail in the store *is* the log: the writer puts each record
//! there in the same transaction as the data, so there is nothing left to do here.

use std::time::Instant;

use super::{Append, Log, LogError};
use crate::record::{Encoded, Record};

/// Every append is done at once; nobody else ever appends.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalLog;

impl Log for LocalLog {
    fn append(&mut self, _prev: u64, _record: &Encoded, _deadline: Instant) -> Append {
        Append::Done
    }

    fn read(&mut self, _after: u64, _max: usize) -> Result<Vec<Record>, LogError> {
        Ok(Vec::new())
    }

    fn last(&mut self) -> Result<u64, LogError> {
        Ok(0)
    }

    fn follow(&mut self, _wake: Box<dyn Fn() + Send + Sync>) {}

    fn is_shared(&self) -> bool {
        false
    }
}
