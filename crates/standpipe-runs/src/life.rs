//! How a run comes and goes: accepted, its turn, its plan followed, its end written, stopped, repeated.
//!
//! ```text
//! accept ── durable ──► queue ── pump ──► drive ── execute ──► settle: stream ended ► record final ► value final
//!                          └───────────────── stop ───────────────►
//! ```
//!
//! Whatever is waited for, the lock of [`Live`] is not held over it.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use standpipe_engine::{Appender, Error, ErrorKind, Result};
use standpipe_tree::Path;
use tokio::time::timeout;

use crate::board::{Board, News};
use crate::book::{self, Put};
use crate::graph;
use crate::metrics::add;
use crate::name::{Name, RunId};
use crate::queue::{Bounds, Ticket};
use crate::record::{Ended, RunRecord, RunState, TaskRecord};
use crate::runs::{Live, Runs};
use crate::settings::{Group, Policy, Start};
use crate::supervise::{Stop, Why};

/// When to come back to a full queue.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Largest plan, in bytes of JSON.
const PLAN_BYTES_MAX: usize = 4 << 20;
/// Pause after the end of a run could not be written; doubled for each further time.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// From the end of a run's output to its last record; longer only where that can't be stored.
const SETTLES_WITHIN: Duration = Duration::from_secs(5);

/// What a run goes on with, or repeats.
pub(crate) struct Again {
    /// The run before; has ended.
    of: RunRecord,
    /// Tasks as the new run begins with them; those that are taken over are final.
    tasks: BTreeMap<Name, TaskRecord>,
    /// Whether no other run may go on with it any more.
    resume: bool,
}

/// The path of a run's own stream.
pub(crate) fn output_path(id: &RunId) -> Path {
    Path::parse(&format!("runs/{id}/out")).expect("ids hold nothing that a path escapes")
}

/// The path below which all streams of a run are.
pub(crate) fn streams_path(id: &RunId) -> Path {
    Path::parse(&format!("runs/{id}")).expect("ids hold nothing that a path escapes")
}

impl Runs {
    /// Makes a run durable and lets it wait for its turn.
    pub(crate) async fn accept(self: &Arc<Self>, start: Start, again: Option<Again>) -> Result<RunId> {
        self.accept_with(start, again, None).await
    }

    /// As [`Runs::accept`], having seen to a planned time of its job in the same commit.
    pub(crate) async fn accept_with(
        self: &Arc<Self>,
        start: Start,
        again: Option<Again>,
        planned: Option<u64>,
    ) -> Result<RunId> {
        check(&start)?;
        let resumed = again.as_ref().filter(|again| again.resume).map(|again| again.of.clone());
        let (board, durable, before) = self.enter(start, again, planned).inspect_err(|_| add(&self.metrics.refused))?;
        for id in before {
            self.give_way(&id, board.id());
        }
        let id = board.id().clone();
        let (written, output) = tokio::join!(book::durable(durable), self.new_stream(&id));
        self.book.numbered(&id);
        match (written, output) {
            (Ok(()), Ok(output)) => {
                board.put_output(output);
                self.accepted(&board).await;
                Ok(id)
            }
            (written, output) => {
                let error = written.err().or(output.err()).unwrap_or_else(|| Error::unavailable("nothing was stored"));
                self.take_back(&board, resumed).await;
                Err(error)
            }
        }
    }

    /// Takes a place in the queue and a number, and hands what is to be durable to the book. Also tells which
    /// runs of the group have to give way.
    #[expect(clippy::type_complexity, reason = "its only caller takes it apart")]
    fn enter(
        &self,
        start: Start,
        again: Option<Again>,
        planned: Option<u64>,
    ) -> Result<(Arc<Board>, tokio::sync::oneshot::Receiver<Result<()>>, Vec<RunId>)> {
        let queued_max = self.limits.load().runs_queued_max;
        let mut live = self.live.lock();
        if live.closing {
            return Err(Error::unavailable("the server is stopping and starts no runs"));
        }
        if let Some(message) = full(&live, &start.by, queued_max) {
            return Err(Error::overloaded(message, RETRY_AFTER));
        }
        let before = give_way(&live, start.group.as_ref())?;
        let id = self.book.number(&name_of(&start))?;
        let (record, mut puts) = (self.new_record(id, &start, again.as_ref()), Vec::new());
        puts.extend(again.filter(|again| again.resume).map(|again| resumed(again.of, &record.id)));
        puts.extend(self.jobs.lock().started(&record, planned));
        puts.extend(book::created(&record));
        let ticket = Ticket {
            id: record.id.clone(),
            by: record.by.clone(),
            job: record.job.clone(),
            group: record.group.clone(),
        };
        let board = Board::new(record, &self.book, &self.values);
        live.queue.push(ticket);
        live.boards.insert(board.id().clone(), board.clone());
        Ok((board, self.book.put(puts), before))
    }

    fn new_record(&self, id: RunId, start: &Start, again: Option<&Again>) -> RunRecord {
        let fresh = || start.plan.tasks.iter().map(|task| (task.name.clone(), TaskRecord::default())).collect();
        let tasks = again.map_or_else(fresh, |again| again.tasks.clone());
        RunRecord {
            id,
            job: start.job.clone(),
            params: start.params.clone(),
            by: start.by.clone(),
            plan: start.plan.clone(),
            single: start.single,
            state: RunState::Queued,
            created_at: self.now(),
            started_at: None,
            ended_at: None,
            ended: Ended::default(),
            tasks,
            of: again.map(|again| again.of.id.clone()),
            resumed_by: None,
            group: start.group.as_ref().map(|group| group.name.clone()),
        }
    }

    /// The stream of a new run. One that is there already is of a run that never became durable.
    async fn new_stream(&self, id: &RunId) -> Result<Appender> {
        let path = output_path(id);
        match self.streams.create(&path).await {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                self.remove_streams(id).await?;
                self.streams.create(&path).await
            }
            output => output,
        }
    }

    async fn accepted(self: &Arc<Self>, board: &Arc<Board>) {
        add(&self.metrics.started);
        board.tell(News::State);
        self.tell_job_of(board);
        let waits = self.live.lock().queue.ready(board.id());
        if waits {
            self.pump();
        } else {
            // A later run of its group came while it was made.
            let reason = Some("a later run of its group replaced it".to_owned());
            self.settle(board, RunState::Cancelled, Ended { reason, ..Ended::default() }).await;
        }
    }

    /// It could not be made durable: nothing of it is left, and a run it would have resumed can be resumed.
    async fn take_back(&self, board: &Arc<Board>, resumed: Option<RunRecord>) {
        let mut puts = book::taken_back(&board.record());
        puts.extend(resumed.map(|of| book::saved(&of)));
        {
            let mut live = self.live.lock();
            live.queue.leave(board.id());
            live.boards.remove(board.id());
        }
        board.settle();
        let _was_refused = self.streams.remove(vec![output_path(board.id())]).await;
        let _was_refused = book::durable(self.book.put(puts)).await;
    }

    /// A run of the group makes room for `next`.
    fn give_way(self: &Arc<Self>, id: &RunId, next: &RunId) {
        let Some(board) = self.board(id) else { return };
        let reason = format!("{next} of the same group replaced it");
        if self.live.lock().queue.leave(id) {
            // One that is not durable yet is settled by who makes it so.
            if board.has_output().is_some() {
                let runs = self.clone();
                self.spawn(async move {
                    let ended = Ended { reason: Some(reason), ..Ended::default() };
                    runs.settle(&board, RunState::Cancelled, ended).await;
                });
            }
            return;
        }
        self.stop_working(&board, Stop { why: Why::Cancelled, grace: None });
    }

    fn stop_working(&self, board: &Arc<Board>, stop: Stop) {
        board.stop(stop);
        board.post(|record| {
            if !record.state.is_final() {
                record.state = RunState::Stopping;
            }
        });
    }

    /// Starts whoever may be next.
    pub(crate) fn pump(self: &Arc<Self>) {
        while let Some(board) = self.next() {
            let runs = self.clone();
            self.spawn(async move { runs.drive(board).await });
        }
    }

    fn next(&self) -> Option<Arc<Board>> {
        let limits = self.limits.load();
        let bounds = Bounds {
            running_max: limits.runs_running_max,
            per_identity_max: limits.runs_per_identity_max,
            per_job_max: self.jobs.lock().limits(),
        };
        let mut live = self.live.lock();
        if live.closing {
            return None;
        }
        let id = live.queue.next(&bounds)?;
        let board = live.boards.get(&id).cloned();
        drop(live);
        board.inspect(|board| {
            board.position.store(0, std::sync::atomic::Ordering::Relaxed);
            board.post(|record| record.state = RunState::Starting);
        })
    }

    /// One run, from its turn to its end.
    async fn drive(self: Arc<Self>, board: Arc<Board>) {
        let stops = board.stops();
        let execute = async { (self.execute)(board.clone(), stops).await };
        let ended = AssertUnwindSafe(execute).catch_unwind().await;
        let (state, ended) = ended.unwrap_or_else(|_| {
            tracing::error!(run = %board.id(), "following a run's plan panicked; the run is lost");
            (RunState::Lost, Ended { reason: Some("internal error".into()), ..Ended::default() })
        });
        self.settle(&board, state, ended).await;
    }

    /// Writes the end of a run: its stream, its record, its value, in this order.
    pub(crate) async fn settle(self: &Arc<Self>, board: &Arc<Board>, state: RunState, ended: Ended) {
        let state = if state.is_final() { state } else { RunState::Lost };
        // Its processes are gone: somebody else may use the room while this is written.
        self.live.lock().queue.done(board.id());
        self.pump();
        let record = board.begin_end(state, ended, self.now());
        let mut pause = PAUSE_FIRST;
        while let Err(error) = self.write_end(board, &record).await {
            if self.closing.is_cancelled() {
                tracing::warn!(run = %board.id(), %error, "the end of a run could not be written; the next start does it");
                break;
            }
            tracing::debug!(run = %board.id(), %error, "the end of a run can't be written yet");
            tokio::time::sleep(pause).await;
            pause = PAUSE_MAX.min(pause * 2);
        }
        self.count(&record);
        board.end(record);
        self.live.lock().boards.remove(board.id());
        self.tell_job_of(board);
        board.settle();
    }

    async fn write_end(&self, board: &Arc<Board>, record: &RunRecord) -> Result<()> {
        if let Some(output) = board.has_output() {
            match output.end(record.outcome()).await {
                // It has ended before the record could be written.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                ended => ended?,
            }
        }
        book::durable(self.book.put(book::finished(record))).await
    }

    fn count(&self, record: &RunRecord) {
        self.metrics.ended(record.state);
        add(&self.metrics.kept);
        if let Some(started) = record.started_at {
            self.metrics.queue_wait.add(started.saturating_sub(record.created_at));
            self.metrics.run_time.add(record.ended_at.unwrap_or(started).saturating_sub(started));
        }
    }

    /// Stops a run and says where it stands then: `cancelled` at once when it was still in the queue, `stopping`
    /// when it is at work, and its state when it has ended. `grace` is the time between SIGTERM and SIGKILL.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn stop(self: &Arc<Self>, id: &RunId, grace: Option<Duration>) -> Result<RunState> {
        let Some(board) = self.board(id).filter(|board| board.has_output().is_some()) else {
            return Ok(self.book.glance(id)?.state);
        };
        let waited = self.live.lock().queue.leave(id);
        if !waited {
            self.stop_working(&board, Stop { why: Why::Cancelled, grace });
            return Ok(board.look(|record| record.state));
        }
        let runs = self.clone();
        let settled = async move {
            let reason = Some("it was stopped before its turn".to_owned());
            runs.settle(&board, RunState::Cancelled, Ended { reason, ..Ended::default() }).await;
            Ok(RunState::Cancelled)
        };
        self.detached(settled).await
    }

    /// Starts the same again: all of it, or one task and everything downstream of it, and what had not succeeded.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when the run has not ended, and those of [`Runs::start`].
    pub async fn retry(self: &Arc<Self>, id: &RunId, task: Option<&Name>, by: &str) -> Result<RunId> {
        let of = self.finished(id).await?;
        let tasks = match task {
            None => of.plan.tasks.iter().map(|task| (task.name.clone(), TaskRecord::default())).collect(),
            Some(task) if of.tasks.contains_key(task) => {
                graph::redo(&of.plan, &of.tasks, Some(task)).map_err(wrong_plan)?
            }
            Some(task) => return Err(Error::new(ErrorKind::NotFound, format!("run {id} has no task {task}"))),
        };
        let again = Again { tasks, of, resume: false };
        let (runs, by) = (self.clone(), by.to_owned());
        self.detached(async move { runs.repeat(again, by).await }).await
    }

    /// Starts a run that goes on with this one: it redoes what did not succeed. Only one ever does.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when the run has not ended, has succeeded, or another one goes on with it already
    /// (the message names that), and those of [`Runs::start`].
    pub async fn resume(self: &Arc<Self>, id: &RunId, by: &str) -> Result<RunId> {
        let (runs, id, by) = (self.clone(), id.clone(), by.to_owned());
        self.detached(async move {
            // One after the other: who comes second is told who was first. It is never closed.
            let _turn = runs.resumes.acquire().await;
            runs.live.lock().resuming.insert(id.clone());
            let resumed = runs.resume_alone(&id, by).await;
            runs.live.lock().resuming.remove(&id);
            resumed
        })
        .await
    }

    async fn resume_alone(self: &Arc<Self>, id: &RunId, by: String) -> Result<RunId> {
        let of = self.finished(id).await?;
        let refused = |why: String| Err(Error::new(ErrorKind::Conflict, why));
        if let Some(other) = &of.resumed_by {
            return refused(format!("run {id} was resumed already: {other} goes on with it"));
        }
        if of.state == RunState::Succeeded {
            return refused(format!("run {id} has succeeded; there is nothing to resume (retry starts it again)"));
        }
        let tasks = graph::redo(&of.plan, &of.tasks, None).map_err(wrong_plan)?;
        let again = Again { tasks, of: of.clone(), resume: true };
        let next = self.repeat(again, by).await?;
        self.values.record(&RunRecord { resumed_by: Some(next.clone()), ..of });
        Ok(next)
    }

    async fn repeat(self: &Arc<Self>, again: Again, by: String) -> Result<RunId> {
        let of = &again.of;
        let start = Start {
            name: Some(of.id.name.clone()),
            plan: of.plan.clone(),
            single: of.single,
            job: of.job.clone(),
            params: of.params.clone(),
            by,
            group: of.group.clone().map(|name| Group { name, policy: Policy::Queue }),
        };
        self.accept(start, Some(again)).await
    }

    /// The record of a run that is final. One whose output has ended is about to be: whoever has seen that end may go on.
    pub(crate) async fn finished(&self, id: &RunId) -> Result<RunRecord> {
        if let Some(board) = self.board(id)
            && self.streams.head(&output_path(id))?.is_some_and(|head| head.ended.is_some())
        {
            let _late = timeout(SETTLES_WITHIN, board.settled()).await;
        }
        if let Some(board) = self.board(id) {
            let state = board.look(|record| record.state).as_str();
            let message = format!("run {id} is {state}; wait for its end, or `standpipe runs stop {id}`");
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        self.book.load(id)
    }
}

fn check(start: &Start) -> Result<()> {
    if start.plan.tasks.is_empty() {
        return Err(Error::bad_request("a run needs a task"));
    }
    if start.plan.tasks.iter().any(|task| task.command.argv.is_empty()) {
        return Err(Error::bad_request("a command needs a program"));
    }
    start.plan.check().map_err(Error::bad_request)?;
    let bytes = serde_json::to_vec(&*start.plan).map_err(Error::internal)?.len();
    if bytes > PLAN_BYTES_MAX {
        let message = format!("the plan has {bytes} bytes, more than {PLAN_BYTES_MAX}");
        return Err(Error::new(ErrorKind::TooLarge, message));
    }
    Ok(())
}

/// Why nothing more of this identity may wait. The last quarter of the queue is for those who have less than the
/// rest of it: nobody keeps all others out.
fn full(live: &Live, by: &str, queued_max: usize) -> Option<String> {
    let (all, own) = (live.queue.len(), live.queue.waiting_of(by));
    if all >= queued_max {
        return Some(format!("{all} runs wait, the limit runs_queued_max; come back later"));
    }
    let share = queued_max - queued_max / 4;
    (own >= share).then(|| format!("{own} runs of {by} wait, three quarters of runs_queued_max; come back later"))
}

/// The name of a run: as asked for, of its job, or of its program.
fn name_of(start: &Start) -> Name {
    let given = start.name.clone().or_else(|| start.job.clone());
    given.unwrap_or_else(|| {
        let program = start.plan.tasks.first().and_then(|task| task.command.argv.first());
        let base = program.and_then(|program| program.rsplit(['/', '\\']).next()).unwrap_or_default();
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '-' };
        let name: String = base.chars().map(plain).take(64).collect();
        name.trim_start_matches('-').parse().unwrap_or_else(|_| "run".parse().expect("a plain word is a name"))
    })
}

/// The runs of the group that have to give way to a new one.
fn give_way(live: &Live, group: Option<&Group>) -> Result<Vec<RunId>> {
    let Some(Group { name, policy }) = group else { return Ok(Vec::new()) };
    let members = live.queue.members(name);
    let all = members.running.into_iter().chain(members.waiting);
    match policy {
        Policy::Queue => Ok(Vec::new()),
        Policy::CancelPrevious => Ok(all.collect()),
        Policy::Refuse => match all.into_iter().next() {
            None => Ok(Vec::new()),
            Some(id) => Err(Error::new(
                ErrorKind::Conflict,
                format!("{id} of group {name:?} has not ended, and the group takes one run at a time"),
            )),
        },
    }
}

/// The old record: another run goes on with it from now on.
fn resumed(of: RunRecord, next: &RunId) -> Put {
    book::saved(&RunRecord { resumed_by: Some(next.clone()), ..of })
}

/// A plan is checked before it is accepted, so this is one of an older program.
fn wrong_plan(reason: String) -> Error {
    Error::bad_request(reason)
}
