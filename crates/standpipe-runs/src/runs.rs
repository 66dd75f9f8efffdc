//! The face of the crate: runs are started, found, listed, watched to their end, stopped, repeated and removed here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use standpipe_engine::{Engine, Error, Result};
use standpipe_serve::LimitsHandle;
use tokio::runtime::Handle;

use crate::jobs::{JobInfo, JobSpec};
use crate::name::{Name, RunId};
use crate::record::{RunRecord, RunState};
use crate::settings::{Filter, Prune, RunsSettings, RunsStats, Start};

/// All runs of a node.
pub struct Runs {
    _engine: Arc<Engine>,
}

impl std::fmt::Debug for Runs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runs").finish_non_exhaustive()
    }
}

fn soon() -> Error {
    Error::unavailable("runs are not there yet")
}

impl Runs {
    /// Opens the runs of the data folder. What a server before this one left unfinished is ended as
    /// `interrupted`, what waited waits again. Runs and their processes live on `runtimes`, in turns.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn open(
        engine: Arc<Engine>,
        _settings: RunsSettings,
        _limits: LimitsHandle,
        _runtimes: Vec<Handle>,
    ) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { _engine: engine }))
    }

    /// Starts a run; it is durable when this returns, and at work or in the queue.
    ///
    /// # Errors
    /// `Overloaded` when `runs_queued_max` wait, `Conflict` when its group refuses it, `Unavailable`.
    pub async fn start(self: &Arc<Self>, _start: Start) -> Result<RunId> {
        Err(soon())
    }

    /// Starts a run of a job with these parameters, for `by`. May it? The caller has checked that.
    ///
    /// # Errors
    /// `NotFound` for an unknown job, `BadRequest` naming a wrong parameter, and those of [`Runs::start`].
    pub async fn start_job(
        self: &Arc<Self>,
        _job: &Name,
        _params: BTreeMap<String, Value>,
        _by: &str,
    ) -> Result<RunId> {
        Err(soon())
    }

    /// The run that a reference means: an id, or a name, which means its newest run.
    ///
    /// # Errors
    /// `NotFound`, `BadRequest` when it can be no reference.
    pub fn find(&self, _reference: &str) -> Result<RunId> {
        Err(soon())
    }

    /// A run's record.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn record(&self, _id: &RunId) -> Result<RunRecord> {
        Err(soon())
    }

    /// Where a run stands in the queue, counted from 1; `None` when it is not in there.
    pub fn position(&self, _id: &RunId) -> Option<usize> {
        None
    }

    /// Runs, the newest first; the plan of each is left empty.
    pub fn list(&self, _filter: &Filter) -> Result<Vec<RunRecord>> {
        Err(soon())
    }

    /// Stops a run and says where it stands then: `cancelled` at once when it was still in the queue, `stopping`
    /// when it is at work, and its state when it has ended. `grace` is the time between SIGTERM and SIGKILL.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn stop(&self, _id: &RunId, _grace: Option<Duration>) -> Result<RunState> {
        Err(soon())
    }

    /// Starts the same again: all of it, or one task and everything downstream of it.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when the run has not ended, and those of [`Runs::start`].
    pub async fn retry(self: &Arc<Self>, _id: &RunId, _task: Option<&Name>, _by: &str) -> Result<RunId> {
        Err(soon())
    }

    /// Starts a run that goes on with this one: it redoes what did not succeed. Only one ever does.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when the run has not ended, has succeeded, or another one goes on with it already
    /// (the message names that), and those of [`Runs::start`].
    pub async fn resume(self: &Arc<Self>, _id: &RunId, _by: &str) -> Result<RunId> {
        Err(soon())
    }

    /// Waits until the run has ended, and its final record is durable.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn ended(&self, _id: &RunId) -> Result<RunState> {
        Err(soon())
    }

    /// Removes a finished run with its streams, artefacts and values.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` while it is not final.
    pub async fn remove(&self, _id: &RunId) -> Result<()> {
        Err(soon())
    }

    /// Removes finished runs; says how many.
    pub async fn prune(&self, _prune: &Prune) -> Result<usize> {
        Err(soon())
    }

    /// Where an artefact is, and how many bytes it has.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn artefact(&self, _id: &RunId, _task: &Name, _name: &Name) -> Result<(PathBuf, u64)> {
        Err(soon())
    }

    /// The jobs, by name.
    pub fn jobs(&self) -> Vec<JobInfo> {
        Vec::new()
    }

    /// One job.
    pub fn job(&self, _name: &Name) -> Option<JobInfo> {
        None
    }

    /// Puts other jobs in force. Runs that are there go on as they began.
    pub fn reload(&self, _jobs: Vec<Arc<JobSpec>>) {}

    /// Figures now.
    pub fn stats(&self) -> RunsStats {
        RunsStats::default()
    }

    /// Refuses new runs, stops all as `interrupted`, and returns when their streams, records and values are
    /// final or the drain time (`drain_ms`) is over.
    pub async fn close(&self) {}
}
