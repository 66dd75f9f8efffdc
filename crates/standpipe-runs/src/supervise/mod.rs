//! The supervisor: it starts processes, brings their output into streams, and ends them with all that came of
//! them. One attempt of a task is one process; what follows from its end (retries, other tasks, the run's state)
//! is not decided here.
//!
//! ```text
//! Supervisor::start → Launcher → Child ── pipes ──► pump ──► Appender      one task for the process,
//!                       Running ◄── attempt ◄── exit, stop, time, silence  one for its output
//! ```
//!
//! An attempt has ended when its process and everything that came of it is gone, and every byte of its output is
//! committed. Nothing is left to a later clean-up.

mod attempt;

#[cfg(test)]
pub(crate) mod fake;
mod input;
mod launch;
mod lines;
mod mask;
mod output;
mod pending;
#[cfg(any(test, not(target_os = "linux")))]
mod portable;
#[cfg(target_os = "linux")]
pub(crate) mod process;
mod secrets;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use standpipe_engine::{Appender, Streams};
use standpipe_serve::LimitsHandle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::launch::{Child, Exit, LaunchError, Launched, Launcher, Source, Spec, Told, Used};
use crate::command::Command;
use crate::guard::GuardProgram;
use crate::name::{Name, RunId};
use crate::record::{Ended, Progress, TaskState, Usage};

/// The launcher of real processes for a data folder; `guard` is started before the first one.
#[cfg(target_os = "linux")]
pub fn processes(folder: &Path, guard: Option<GuardProgram>) -> Arc<dyn Launcher> {
    Arc::new(process::Processes::new(folder, guard))
}

/// The launcher of processes for a data folder. There is no guard on this system.
#[cfg(not(target_os = "linux"))]
pub fn processes(_folder: &Path, _guard: Option<GuardProgram>) -> Arc<dyn Launcher> {
    Arc::new(portable::Portable)
}

/// What a supervisor works with.
pub struct SupervisorSettings {
    /// The limits in force.
    pub limits: LimitsHandle,
    /// Where commands read their input from that read a stream.
    pub streams: Arc<Streams>,
    /// The server's own variables, for secrets that come from there.
    pub variable: fn(&str) -> Option<String>,
}

impl fmt::Debug for SupervisorSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SupervisorSettings").finish_non_exhaustive()
    }
}

/// Starts processes and has all of them. A handle that is cheap to clone.
#[derive(Clone, Debug)]
pub struct Supervisor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    launcher: Arc<dyn Launcher>,
    settings: SupervisorSettings,
    attempts: TaskTracker,
    closing: CancellationToken,
    /// Attempts that no process could be started for.
    not_started: AtomicU64,
}

impl Supervisor {
    /// A supervisor of the processes that `launcher` starts.
    pub fn new(launcher: Arc<dyn Launcher>, settings: SupervisorSettings) -> Self {
        let (attempts, closing) = (TaskTracker::new(), CancellationToken::new());
        Self(Arc::new(Inner { launcher, settings, attempts, closing, not_started: AtomicU64::new(0) }))
    }

    /// Begins an attempt, on the current runtime. Whatever goes wrong is how it ends.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(&self, attempt: Attempt) -> Running {
        let (stop, told) = watch::channel(None);
        let task = self.0.attempts.spawn(attempt::run(self.clone(), attempt, told));
        Running { stop: Stopper(Arc::new(stop)), task }
    }

    /// Attempts that have not ended.
    pub fn attempts(&self) -> usize {
        self.0.attempts.len()
    }

    /// Attempts since the start that no process could be started for.
    pub fn not_started(&self) -> u64 {
        self.0.not_started.load(Ordering::Relaxed)
    }

    /// Ends what earlier boots of this data folder left, and says how many processes that were. To be called
    /// before the first attempt.
    pub async fn sweep(&self) -> usize {
        self.0.launcher.sweep().await
    }

    /// Stops every attempt as interrupted, waits for their ends and gives everything back. Attempts that begin
    /// later are interrupted before they start.
    pub async fn close(&self) {
        self.0.closing.cancel();
        self.0.attempts.close();
        self.0.attempts.wait().await;
        self.0.launcher.close().await;
    }
}

/// What is to be done once.
#[derive(Debug)]
pub struct Attempt {
    /// The run it is of.
    pub run: RunId,
    /// The task it is of.
    pub task: Name,
    /// Which attempt of the task it is, counted from 1.
    pub number: u32,
    /// What is started.
    pub command: Command,
    /// Variables beside those of the command; they win over them.
    pub env: BTreeMap<String, String>,
    /// Where its output goes.
    pub output: Output,
    /// Where its events go. When it is full they are gathered, the newest wins; outputs are in the
    /// [`AttemptEnd`] in any case.
    pub events: mpsc::Sender<TaskEvent>,
}

/// Where output goes.
#[derive(Clone, Debug)]
pub struct Output {
    /// The stream of its own; the bytes as they are.
    pub own: Appender,
    /// The stream of the whole run and what each line is preceded by there; whole lines only.
    pub merged: Option<(Appender, String)>,
    /// Bytes that the whole run has written, shared by its attempts: `run_output_bytes_max` is of them all.
    pub spent: Arc<AtomicU64>,
}

/// What happens to an attempt before its end.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskEvent {
    /// Its process is there.
    Started {
        /// The main process.
        pid: u32,
    },
    /// It says how far it is.
    Progress(Progress),
    /// It says something to later tasks.
    Output {
        /// By which they ask for it.
        name: String,
        /// The value.
        value: String,
    },
    /// It has written nothing for its `stall_ms`, or writes again.
    Stalled(bool),
    /// It is being stopped.
    Stopping,
    /// Lines and bytes so far. A few times a second while it writes.
    Usage(Usage),
}

/// Why an attempt is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Somebody wants it.
    Cancelled,
    /// The time of its run is over.
    TimedOut,
    /// The server ends.
    Interrupted,
}

impl Why {
    /// The state of what was stopped for this reason.
    pub fn state(self) -> TaskState {
        match self {
            Self::Cancelled => TaskState::Cancelled,
            Self::TimedOut => TaskState::TimedOut,
            Self::Interrupted => TaskState::Interrupted,
        }
    }
}

/// A request to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Why. Of several requests the first one says it.
    pub why: Why,
    /// Time between SIGTERM and SIGKILL; the command's, or else `run_grace_ms`, when `None`. Of several requests
    /// the shortest counts.
    pub grace: Option<Duration>,
}

/// Stops one attempt; a handle that is cheap to clone.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<watch::Sender<Option<Stop>>>);

impl Stopper {
    /// Asks it to stop. Nothing happens when it has ended.
    pub fn stop(&self, stop: Stop) {
        self.0.send_modify(|told| {
            let first = told.get_or_insert(stop);
            first.grace = match (first.grace, stop.grace) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        });
    }
}

/// An attempt under way. Dropped before its end, the attempt is interrupted and ends by itself.
#[derive(Debug)]
pub struct Running {
    stop: Stopper,
    task: JoinHandle<AttemptEnd>,
}

impl Running {
    /// Asks it to stop.
    pub fn stop(&self, stop: Stop) {
        self.stop.stop(stop);
    }

    /// A handle that stops it, for somebody else.
    pub fn stopper(&self) -> Stopper {
        self.stop.clone()
    }

    /// Waits for its end: all output is committed, all processes are gone. May be dropped and called again, but
    /// not once it has returned.
    pub async fn ended(&mut self) -> AttemptEnd {
        (&mut self.task).await.unwrap_or_else(|_panic| AttemptEnd::new(TaskState::Lost, "internal error"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop(Stop { why: Why::Interrupted, grace: None });
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttemptEnd {
    /// A final state.
    pub state: TaskState,
    /// How its process ended, and why.
    pub ended: Ended,
    /// What it used and wrote.
    pub usage: Usage,
    /// Something that came of it held its output after its end, until it was ended too.
    pub leaked: bool,
    /// What it said to later tasks.
    pub outputs: BTreeMap<String, String>,
}

impl AttemptEnd {
    fn new(state: TaskState, reason: impl Into<String>) -> Self {
        let ended = Ended { reason: Some(reason.into()), ..Ended::default() };
        Self { state, ended, ..Self::default() }
    }
}
