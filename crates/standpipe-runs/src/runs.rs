//! The face of the crate: runs are started, found, listed, waited for, stopped, repeated and removed here. How a
//! run comes and goes is `life`'s, what a restart finds `recover`'s, what removes runs `prune`'s, and what starts
//! them by the clock `timer`'s.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::Value;
use standpipe_engine::{Clock, Engine, Error, ErrorKind, Result, Streams};
use standpipe_serve::LimitsHandle;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::artefacts::Artefacts;
use crate::board::Board;
use crate::book::{self, Book, PAGE};
use crate::execution::Execution;
use crate::jobs::JobInfo;
use crate::metrics::{Metrics, read};
use crate::name::{Name, RunId};
use crate::queue::Queue;
use crate::record::{Ended, RunRecord, RunState};
use crate::settings::{Filter, RunsSettings, RunsStats, Start};
use crate::supervise::{Launcher, Stop, Supervisor, SupervisorSettings, Why, processes};
use crate::timer::Jobs;
use crate::values::Values;

/// The folder of artefacts, in that of runs.
const ARTEFACTS: &str = "artefacts";
/// Runs of a list for which no number is asked.
const LIST_DEFAULT: usize = 100;
/// Runs of one list at most.
const LIST_MAX: usize = 1_000;
/// Records that one list looks at: a filter that few runs pass does not read the whole book.
const LOOKED_AT_MAX: usize = 20_000;
/// Time for the last values and records when the node stops, after all runs have ended.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// Share of the drain time after which runs that are still at work are killed.
const GRACE_SHARE: f64 = 0.75;

/// Follows the plan of one run to its end.
pub(crate) type Execute =
    dyn Fn(Arc<Board>, watch::Receiver<Option<Stop>>) -> BoxFuture<'static, (RunState, Ended)> + Send + Sync;

/// Runs that are not final, and who may be next.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) boards: HashMap<RunId, Arc<Board>>,
    pub(crate) queue: Queue,
    /// Finished runs that are being resumed.
    pub(crate) resuming: HashSet<RunId>,
    /// Nothing starts any more.
    pub(crate) closing: bool,
}

/// All runs of a node.
pub struct Runs {
    pub(crate) engine: Arc<Engine>,
    pub(crate) streams: Arc<Streams>,
    pub(crate) book: Arc<Book>,
    pub(crate) values: Arc<Values>,
    pub(crate) limits: LimitsHandle,
    pub(crate) clock: Clock,
    pub(crate) dir: PathBuf,
    pub(crate) execute: Box<Execute>,
    supervisor: Option<Supervisor>,
    pub(crate) live: Mutex<Live>,
    pub(crate) jobs: Mutex<Jobs>,
    pub(crate) jobs_changed: Notify,
    pub(crate) metrics: Metrics,
    pub(crate) closing: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Whose turn it is to resume a run.
    pub(crate) resumes: Semaphore,
    runtimes: Vec<Handle>,
    turn: AtomicUsize,
}

impl std::fmt::Debug for Runs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runs").finish_non_exhaustive()
    }
}

impl Runs {
    /// Opens the runs of the data folder. What a server before this one left unfinished is ended as
    /// `interrupted`, what waited waits again. Runs and their processes live on `runtimes`, in turns.
    ///
    /// # Errors
    /// The store can't be read; a job can't be meant.
    pub async fn open(
        engine: Arc<Engine>,
        settings: RunsSettings,
        limits: LimitsHandle,
        runtimes: Vec<Handle>,
    ) -> Result<Arc<Self>> {
        let launcher = processes(&settings.dir, settings.guard.clone());
        Self::open_launching(engine, settings, limits, runtimes, launcher).await
    }

    /// As [`Runs::open`], with processes that `launcher` starts.
    pub(crate) async fn open_launching(
        engine: Arc<Engine>,
        settings: RunsSettings,
        limits: LimitsHandle,
        runtimes: Vec<Handle>,
        launcher: Arc<dyn Launcher>,
    ) -> Result<Arc<Self>> {
        let streams = engine.streams().clone();
        let with = SupervisorSettings { limits: limits.clone(), streams: streams.clone(), variable: settings.variable };
        let supervisor = Supervisor::new(launcher, with);
        supervisor.sweep().await;
        let execution = Arc::new(Execution {
            supervisor: supervisor.clone(),
            streams,
            artefacts: Artefacts::new(settings.dir.join(ARTEFACTS)),
            limits: limits.clone(),
            clock: engine.config().clock.clone(),
        });
        let execute: Box<Execute> = Box::new(move |board, stops| {
            let execution = execution.clone();
            async move { execution.execute(&board, stops).await }.boxed()
        });
        Self::open_with(engine, settings, limits, runtimes, execute, Some(supervisor)).await
    }

    /// As [`Runs::open`], with somebody else to follow plans.
    pub(crate) async fn open_with(
        engine: Arc<Engine>,
        settings: RunsSettings,
        limits: LimitsHandle,
        runtimes: Vec<Handle>,
        execute: Box<Execute>,
        supervisor: Option<Supervisor>,
    ) -> Result<Arc<Self>> {
        let streams = engine.streams().clone();
        let runs = Arc::new(Self {
            book: Book::new(streams.clone()),
            values: Values::new(engine.clone()),
            clock: engine.config().clock.clone(),
            streams,
            engine,
            limits,
            dir: settings.dir,
            execute,
            supervisor,
            live: Mutex::default(),
            jobs: Mutex::default(),
            jobs_changed: Notify::new(),
            metrics: Metrics::default(),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            runtimes: if runtimes.is_empty() { vec![Handle::current()] } else { runtimes },
            turn: AtomicUsize::new(0),
            resumes: Semaphore::new(1),
        });
        runs.spawn(runs.book.clone().write());
        runs.spawn(runs.values.clone().write());
        runs.load_jobs(settings.jobs)?;
        runs.recover().await?;
        runs.spawn(runs.clone().compare_values());
        runs.spawn(runs.clone().keep_time());
        runs.spawn(runs.clone().keep_order());
        runs.pump();
        Ok(runs)
    }

    /// Spawns a task of the service, on each of the runtimes in turn.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.runtimes.len();
        self.tasks.spawn_on(task, &self.runtimes[turn])
    }

    /// Does it whether its caller waits for it or goes away.
    pub(crate) async fn detached<T: Send + 'static>(
        &self,
        task: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.spawn(task).await.unwrap_or_else(|error| Err(Error::internal(error)))
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.now_ms()
    }

    pub(crate) fn board(&self, id: &RunId) -> Option<Arc<Board>> {
        self.live.lock().boards.get(id).cloned()
    }

    /// Starts a run; it is durable when this returns, and at work or in the queue.
    ///
    /// # Errors
    /// `Overloaded` when `runs_queued_max` wait, `Conflict` when its group refuses it, `BadRequest` for a plan
    /// without tasks, `Unavailable`.
    pub async fn start(self: &Arc<Self>, start: Start) -> Result<RunId> {
        let runs = self.clone();
        self.detached(async move { runs.accept(start, None).await }).await
    }

    /// Starts a run of a job with these parameters, for `by`. May it? The caller has checked that.
    ///
    /// # Errors
    /// `NotFound` for an unknown job, `BadRequest` naming a wrong parameter, and those of [`Runs::start`].
    pub async fn start_job(self: &Arc<Self>, job: &Name, params: BTreeMap<String, Value>, by: &str) -> Result<RunId> {
        self.start(self.start_of_job(job, &params, by)?).await
    }

    /// The run that a reference means: an id, or a name, which means its newest run.
    ///
    /// # Errors
    /// `NotFound`, `BadRequest` when it can be no reference.
    pub fn find(&self, reference: &str) -> Result<RunId> {
        if let Ok(id) = reference.parse::<RunId>() {
            return self.book.glance(&id).map(|record| record.id);
        }
        let name: Name = reference.parse().map_err(|error| {
            Error::bad_request(format!("{reference:?} is no run: use its name, or its id such as nightly@17 ({error})"))
        })?;
        self.book.newest(&name)?.ok_or_else(|| book::no_run(reference))
    }

    /// A run's record.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn record(&self, id: &RunId) -> Result<RunRecord> {
        // A run that is being accepted is in no answer before it is durable.
        match self.board(id).filter(|board| board.has_output().is_some()) {
            Some(board) => Ok(board.record()),
            None => self.book.load(id),
        }
    }

    /// Where a run stands in the queue, counted from 1; `None` when it is not in there.
    pub fn position(&self, id: &RunId) -> Option<usize> {
        self.live.lock().queue.position(id)
    }

    /// Runs, the newest first; the plan of each is left empty. May read many records: for a worker.
    ///
    /// # Errors
    /// The book can't be read.
    pub fn list(&self, filter: &Filter) -> Result<Vec<RunRecord>> {
        let max = if filter.max == 0 { LIST_DEFAULT } else { filter.max.min(LIST_MAX) };
        let name = filter.name.as_ref();
        let mut after = match &filter.before {
            Some(id) => Some(self.book.place(name, &self.book.glance(id)?)),
            None => None,
        };
        let mut found = Vec::new();
        let mut looked_at = 0;
        while found.len() < max && looked_at < LOOKED_AT_MAX {
            let page = self.book.ids(name, after.as_deref(), PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            looked_at += page.len();
            for (_, id) in &page {
                found.extend(self.glance(id)?.filter(|record| filter.takes(record)));
            }
        }
        found.truncate(max);
        Ok(found)
    }

    /// A record without its plan; `None` when it was removed meanwhile.
    pub(crate) fn glance(&self, id: &RunId) -> Result<Option<RunRecord>> {
        let record = match self.board(id) {
            Some(board) => Ok(RunRecord { plan: Arc::default(), ..board.record() }),
            None => self.book.glance(id),
        };
        match record {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            record => record.map(Some),
        }
    }

    /// Waits until the run has ended, and its final record is durable.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn ended(&self, id: &RunId) -> Result<RunState> {
        if let Some(board) = self.board(id) {
            board.settled().await;
            return Ok(board.look(|record| record.state));
        }
        Ok(self.book.glance(id)?.state)
    }

    /// Waits until the tree tells of all that has happened to runs so far, for at most `patience`; says whether it
    /// does. A tree that can't be written now catches up later.
    pub async fn told(&self, patience: Duration) -> bool {
        matches!(tokio::time::timeout(patience, self.values.flush()).await, Ok(Ok(())))
    }

    /// Where an artefact is, and how many bytes it has.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn artefact(&self, id: &RunId, task: &Name, name: &Name) -> Result<(PathBuf, u64)> {
        let record = self.glance(id)?.ok_or_else(|| book::no_run(&id.to_string()))?;
        let bytes = record.tasks.get(task).and_then(|task| task.artefacts.get(name).copied());
        let missing = || Error::new(ErrorKind::NotFound, format!("task {task} of run {id} has no artefact {name}"));
        Ok((self.artefacts_of(id).join(task.as_str()).join(name.as_str()), bytes.ok_or_else(missing)?))
    }

    /// The folder of a run's artefacts.
    pub(crate) fn artefacts_of(&self, id: &RunId) -> PathBuf {
        self.dir.join(ARTEFACTS).join(id.to_string())
    }

    /// The jobs, by name.
    pub fn jobs(&self) -> Vec<JobInfo> {
        self.jobs.lock().infos()
    }

    /// One job.
    pub fn job(&self, name: &Name) -> Option<JobInfo> {
        self.jobs.lock().info(name)
    }

    /// Figures now.
    pub fn stats(&self) -> RunsStats {
        let mut now: BTreeMap<String, u64> = BTreeMap::new();
        let boards: Vec<_> = self.live.lock().boards.values().cloned().collect();
        for board in boards {
            *now.entry(board.look(|record| record.state).as_str().to_owned()).or_default() += 1;
        }
        let metrics = &self.metrics;
        RunsStats {
            started: read(&metrics.started),
            ended: metrics.ends().map(|(state, count)| (state.as_str().to_owned(), count)).collect(),
            now,
            refused: read(&metrics.refused),
            spawn_failures: self.supervisor.as_ref().map_or(0, Supervisor::not_started),
            kept: read(&metrics.kept),
            removed: read(&metrics.removed),
            values_behind: self.values.behind.load(Ordering::Relaxed) as u64,
            value_failures: read(&self.values.failures),
            values_written: read(&self.values.written),
            schedule_missed: read(&metrics.schedule_missed),
            queue_wait: metrics.queue_wait.read(),
            run_time: metrics.run_time.read(),
        }
    }

    /// Refuses new runs, stops those at work as `interrupted`, and returns when their streams, records and values
    /// are final or the drain time (`drain_ms`) is over. What waits in the queue waits for the next start. Says whether
    /// all have ended in time.
    pub async fn close(&self) -> bool {
        let boards: Vec<_> = {
            let mut live = self.live.lock();
            live.closing = true;
            live.boards.values().cloned().collect()
        };
        self.closing.cancel();
        let working = |board: &Arc<Board>| !board.look(|record| record.state == RunState::Queued);
        let working: Vec<_> = boards.into_iter().filter(working).collect();
        for board in &working {
            board.stop(Stop { why: Why::Interrupted, grace: None });
        }
        let patience = Duration::from_millis(self.limits.load().drain_ms);
        let all = async || {
            for board in &working {
                board.settled().await;
            }
        };
        // Whatever grace a command has, it ends before the server does.
        let polite = patience.mul_f64(GRACE_SHARE);
        if tokio::time::timeout(polite, all()).await.is_err() {
            for board in &working {
                board.stop(Stop { why: Why::Interrupted, grace: Some(Duration::ZERO) });
            }
        }
        let clean = tokio::time::timeout(patience - polite, all()).await.is_ok();
        if !clean {
            let left = working.iter().filter(|board| board.look(|record| !record.state.is_final())).count();
            tracing::warn!(left, "runs did not end within drain_ms; the next start marks them as interrupted");
        }
        if let Some(supervisor) = &self.supervisor {
            let _late = tokio::time::timeout(FLUSH_WITHIN, supervisor.close()).await;
        }
        let _late = tokio::time::timeout(FLUSH_WITHIN, self.values.flush()).await;
        self.values.close();
        self.book.close();
        self.tasks.close();
        let _late = tokio::time::timeout(FLUSH_WITHIN, self.tasks.wait()).await;
        clean
    }
}

impl Filter {
    fn takes(&self, record: &RunRecord) -> bool {
        let same = |wanted: &Option<Name>, is: Option<&Name>| wanted.is_none() || wanted.as_ref() == is;
        same(&self.name, Some(&record.id.name))
            && same(&self.job, record.job.as_ref())
            && self.by.as_ref().is_none_or(|by| *by == record.by)
            && (self.states.is_empty() || self.states.contains(&record.state))
    }
}
