//! The record of a run: what it is, where it stands, how it ended. This is what is durable and what a restart, a
//! retry and a resume read; the values below `runs/` in the tree are made from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::{Name, RunId};
use crate::plan::Plan;

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It waits for its turn.
    Queued,
    /// Its first process is being started.
    Starting,
    /// At work.
    Running,
    /// Told to stop; something of it is still there.
    Stopping,
    /// It did all it should.
    Succeeded,
    /// It did not.
    Failed,
    /// Somebody stopped it.
    Cancelled,
    /// Its time was over.
    TimedOut,
    /// Its processes went without a word, or could not be ended.
    Lost,
    /// The server ended, or was killed, while it was at work.
    Interrupted,
}

impl RunState {
    /// Whether nothing comes after it.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Starting | Self::Running | Self::Stopping)
    }

    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Queued,
        Self::Starting,
        Self::Running,
        Self::Stopping,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::TimedOut,
        Self::Lost,
        Self::Interrupted,
    ];

    /// The state of this word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// The word for it, everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Lost => "lost",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// It waits for what it needs, or for room.
    #[default]
    Waiting,
    /// Its process is being started.
    Starting,
    /// At work.
    Running,
    /// It has failed and is tried again after a pause.
    Retrying,
    /// Told to stop.
    Stopping,
    /// It did what it should.
    Succeeded,
    /// It did not, in its last attempt either.
    Failed,
    /// Its condition did not hold, or what it needs did not succeed.
    Skipped,
    /// It was stopped, or never begun because the run was.
    Cancelled,
    /// Its time was over.
    TimedOut,
    /// Its processes went without a word.
    Lost,
    /// The server ended while it was at work.
    Interrupted,
}

impl TaskState {
    /// The word for it, everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Stopping => "stopping",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Lost => "lost",
            Self::Interrupted => "interrupted",
        }
    }

    /// Whether nothing comes after it in this run.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Waiting | Self::Starting | Self::Running | Self::Retrying | Self::Stopping)
    }
}

/// How a process, a task or a run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ended {
    /// The process' exit code, if it exited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended it, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Why, for people, where code and signal do not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How far something is, as it says itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// 0 to 1.
    pub fraction: f64,
    /// What it does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
}

/// What processes used and wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Processor time of all of them, in milliseconds.
    pub cpu_ms: u64,
    /// Most memory at once, in bytes, of the largest one or of all together where the system counts so.
    pub memory_bytes_max: u64,
    /// Lines of output.
    pub lines: u64,
    /// Bytes of output.
    pub bytes: u64,
}

/// One task of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskRecord {
    /// Where it stands.
    pub state: TaskState,
    /// Attempts begun.
    pub attempts: u32,
    /// When its last attempt began, in milliseconds since the epoch.
    pub started_at: Option<u64>,
    /// When it ended.
    pub ended_at: Option<u64>,
    /// How.
    #[serde(flatten)]
    pub ended: Ended,
    /// How far it is.
    pub progress: Option<Progress>,
    /// It has written nothing for `stall_ms`.
    pub stalled: bool,
    /// A process outlives it and holds its output.
    pub leaked: bool,
    /// What it used, in all attempts.
    pub usage: Usage,
    /// What it says to other tasks (`::output name=value`).
    pub outputs: BTreeMap<String, String>,
    /// Bytes of the artefacts that were kept.
    pub artefacts: BTreeMap<Name, u64>,
}

impl TaskRecord {
    /// What becomes of a task that is not final when its run ends as `run`: what was never begun is cancelled.
    pub(crate) fn end(&mut self, run: RunState, now: u64) {
        let state = match (self.state, run) {
            (state, _) if state.is_final() => return,
            (TaskState::Waiting, _) => TaskState::Cancelled,
            (_, RunState::Cancelled) => TaskState::Cancelled,
            (_, RunState::TimedOut) => TaskState::TimedOut,
            (_, RunState::Interrupted) => TaskState::Interrupted,
            _ => TaskState::Lost,
        };
        self.state = state;
        self.ended_at = self.started_at.map(|_| now);
    }
}

/// One run. Stored whole at each change of a state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Which.
    pub id: RunId,
    /// The job of the configuration that it is of, if any.
    #[serde(default)]
    pub job: Option<Name>,
    /// The parameters it was given.
    #[serde(default)]
    pub params: BTreeMap<String, String>,
    /// Who started it: `local`, `schedule`, or the `uid` of a user.
    pub by: String,
    /// What it does. Never changes, and may be large: stored beside the record, once.
    pub plan: Arc<Plan>,
    /// Whether it is one command, whose output is the run's own stream.
    pub single: bool,
    /// Where it stands.
    pub state: RunState,
    /// When it was accepted, in milliseconds since the epoch.
    pub created_at: u64,
    /// When its first process was started.
    #[serde(default)]
    pub started_at: Option<u64>,
    /// When it ended.
    #[serde(default)]
    pub ended_at: Option<u64>,
    /// How; of a run of one command its process, of a pipeline the task that decided.
    #[serde(default)]
    pub ended: Ended,
    /// Its tasks, as in the plan.
    #[serde(default)]
    pub tasks: BTreeMap<Name, TaskRecord>,
    /// The run it goes on with (`resume`) or repeats (`retry`).
    #[serde(default)]
    pub of: Option<RunId>,
    /// The run that goes on with this one; there is one at most.
    #[serde(default)]
    pub resumed_by: Option<RunId>,
    /// The concurrency group it is in.
    #[serde(default)]
    pub group: Option<String>,
}
