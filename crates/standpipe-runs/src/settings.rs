//! What callers of [`crate::Runs`] hand over and get back, as plain values. Nothing is decided here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::guard::GuardProgram;
use crate::jobs::JobSpec;
use crate::name::{Name, RunId};
use crate::plan::Plan;
use crate::record::RunState;

/// What the service is opened with, beside the engine and the limits.
#[derive(Clone, Debug)]
pub struct RunsSettings {
    /// The folder of what runs leave beside their streams (artefacts, marks of processes).
    pub dir: PathBuf,
    /// The jobs of the configuration.
    pub jobs: Vec<Arc<JobSpec>>,
    /// The server's own variables, for secrets that come from there.
    pub variable: fn(&str) -> Option<String>,
    /// What kills the processes of runs when the server dies; nothing does when `None`.
    pub guard: Option<GuardProgram>,
}

impl RunsSettings {
    /// No jobs, no variables, no guard.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), jobs: Vec::new(), variable: |_| None, guard: None }
    }
}

/// A run to be started.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Its name; that of its job, or its program's base name, when `None`.
    pub name: Option<Name>,
    /// What it does; has been checked.
    pub plan: Arc<Plan>,
    /// Whether it is one command, whose output is the run's own stream.
    pub single: bool,
    /// The job it is of, if any.
    pub job: Option<Name>,
    /// The parameters it was given.
    pub params: BTreeMap<String, String>,
    /// Who starts it: `local`, `schedule`, or the `uid` of a user. Turns in the queue and the limit
    /// `runs_per_identity_max` are by this.
    pub by: String,
    /// The concurrency group it is in.
    pub group: Option<Group>,
}

/// A concurrency group: of the runs in it, one is at work at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Any text; runs of different jobs may share a group.
    pub name: String,
    /// What becomes of a run that comes while another one is there.
    #[serde(default)]
    pub policy: Policy,
}

/// What becomes of a run whose group has one already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// It waits until the ones before it have ended.
    #[default]
    Queue,
    /// Those that wait are cancelled, the one at work is stopped; then it starts.
    CancelPrevious,
    /// It is refused.
    Refuse,
}

/// Which runs to list, the newest first.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only those of this name.
    pub name: Option<Name>,
    /// Only those of this job.
    pub job: Option<Name>,
    /// Only those started by this one.
    pub by: Option<String>,
    /// Only those in one of these states; empty is any.
    pub states: Vec<RunState>,
    /// Only those accepted before this one: the last of the page before.
    pub before: Option<RunId>,
    /// How many at most; 0 is 100.
    pub max: usize,
}

/// Which finished runs to remove. With neither an age nor a count it is all that `name` and `states` say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prune {
    /// Only those of this name.
    pub name: Option<Name>,
    /// Only those in one of these states; empty is any final one.
    pub states: Vec<RunState>,
    /// Only those that ended longer ago than this, in milliseconds.
    pub older_than_ms: Option<u64>,
    /// Keep so many of each name, the newest ones.
    pub keep: Option<usize>,
}

/// Figures of all runs, for metrics and status. Counts are since the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunsStats {
    /// Runs accepted.
    pub started: u64,
    /// Runs that ended, by state.
    pub ended: BTreeMap<String, u64>,
    /// Runs that are not final, by state.
    pub now: BTreeMap<String, u64>,
    /// Runs refused because the queue was full or their group had one.
    pub refused: u64,
    /// Processes that could not be started.
    pub spawn_failures: u64,
    /// Finished runs in the book.
    pub kept: u64,
    /// Runs removed.
    pub removed: u64,
    /// Runs whose value in the tree is behind their record.
    pub values_behind: u64,
    /// Writes of values that failed; each is tried again.
    pub value_failures: u64,
    /// Updates of values that were written.
    pub values_written: u64,
    /// Planned times of jobs that passed without a run.
    pub schedule_missed: u64,
    /// Time from being accepted to the first process, of runs that came so far: bounds in milliseconds and
    /// how many took at most that long, then the sum and the count.
    pub queue_wait: Durations,
    /// Time from the first process to the end, likewise.
    pub run_time: Durations,
}

/// How long things took: counts by upper bound, as a Prometheus histogram has them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Durations {
    /// Upper bound in milliseconds, and how many took at most that long and longer than the bound before.
    pub buckets: Vec<(u64, u64)>,
    /// How many there are.
    pub count: u64,
    /// All of them, in milliseconds.
    pub sum_ms: u64,
}
