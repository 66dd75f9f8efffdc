//! Wall-clock milliseconds for records and server values. The only place of the engine that
//! reads a clock for data; deadlines use `Instant` and are not its business.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where a database's writer takes the time from.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The operating system's clock.
    #[default]
    System,
    /// A clock that tests set, in milliseconds since the epoch.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// Milliseconds since the Unix epoch. The writer keeps record times from going backwards,
    /// this does not.
    pub fn now_ms(&self) -> u64 {
        match self {
            Self::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
            Self::Manual(now) => now.load(Ordering::Relaxed),
        }
    }
}
