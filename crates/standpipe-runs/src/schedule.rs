//! When jobs start by themselves: times by a cron expression in a time zone, or at a fixed interval. Pure: who
//! asks brings the time.

use serde::{Deserialize, Serialize};

/// When a job starts by itself.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// What to do about times that passed while the node was down or asleep.
    pub missed: Missed,
}

/// What becomes of planned times that passed while the node could not start anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// Nothing: the next planned time counts.
    #[default]
    Skip,
    /// One run as soon as possible, however many were missed.
    RunOnce,
}
