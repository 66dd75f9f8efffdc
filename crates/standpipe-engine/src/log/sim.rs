//! A log in memory, shared by any number of writers, with faults drawn from a seed: appends that
//! answer `Unknown` (done or not), refusals, and wake-ups that never come. For tests of the
//! writer's loop; no network, no time.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::{Append, Log, LogError};
use crate::record::{Encoded, Record};

/// How often, in 256ths, an append meets each fault.
#[derive(Clone, Copy, Debug, Default)]
pub struct SimFaults {
    /// Appended, but the answer is `Unknown`.
    pub unknown_done: u8,
    /// Not appended, and the answer is `Unknown`.
    pub unknown_lost: u8,
    /// `Refused`.
    pub refused: u8,
    /// A read fails.
    pub unreachable: u8,
}

#[derive(Default)]
struct Shared {
    records: Vec<Encoded>,
    wakes: Vec<Box<dyn Fn() + Send + Sync>>,
    random: u64,
    faults: SimFaults,
}

impl Shared {
    /// True with a chance of `odds` in 256 (a xorshift generator: any seed but 0 will do).
    fn draw(&mut self, odds: u8) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) as u8 <= odds && odds > 0
    }
}

/// One handle on a simulated log; clones share it.
#[derive(Clone)]
pub struct SimLog(Arc<Mutex<Shared>>);

impl std::fmt::Debug for SimLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimLog").field("records", &self.0.lock().records.len()).finish()
    }
}

impl SimLog {
    /// An empty log whose faults follow `seed`.
    pub fn new(seed: u64, faults: SimFaults) -> Self {
        Self(Arc::new(Mutex::new(Shared { random: seed | 1, faults, ..Shared::default() })))
    }

    /// No more faults from here on.
    pub fn heal(&self) {
        self.0.lock().faults = SimFaults::default();
    }
}

impl Log for SimLog {
    fn append(&mut self, prev: u64, record: &Encoded, _deadline: Instant) -> Append {
        let mut shared = self.0.lock();
        let faults = shared.faults;
        if shared.draw(faults.refused) {
            return Append::Refused(LogError::Refused("simulated".into()));
        }
        if shared.draw(faults.unknown_lost) {
            return Append::Unknown(LogError::Unreachable("simulated".into()));
        }
        if shared.records.len() as u64 != prev {
            return Append::Taken;
        }
        shared.records.push(record.clone());
        let unknown = shared.draw(faults.unknown_done);
        for wake in &shared.wakes {
            wake();
        }
        if unknown { Append::Unknown(LogError::Unreachable("simulated".into())) } else { Append::Done }
    }

    fn read(&mut self, after: u64, max: usize) -> Result<Vec<Record>, LogError> {
        let mut shared = self.0.lock();
        let faults = shared.faults;
        if shared.draw(faults.unreachable) {
            return Err(LogError::Unreachable("simulated".into()));
        }
        let after = usize::try_from(after).unwrap_or(usize::MAX);
        let records = shared.records.iter().skip(after).take(max);
        Ok(records
            .map(|encoded| Record::decode(encoded.as_bytes()).expect("this log holds what writers encoded"))
            .collect())
    }

    fn last(&mut self) -> Result<u64, LogError> {
        Ok(self.0.lock().records.len() as u64)
    }

    fn follow(&mut self, wake: Box<dyn Fn() + Send + Sync>) {
        self.0.lock().wakes.push(wake);
    }

    fn is_shared(&self) -> bool {
        true
    }
}
