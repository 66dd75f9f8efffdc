//! Follows the plan of one run: starts the attempts that `graph` says, waits, keeps what tasks leave, and writes down
//! what came of it. Which task may start is decided there; how a process lives and dies is the supervisor's.
//!
//! Of each task: the last byte of its output, then the end of its stream, then its final state in the record. A run of
//! one command has no stream of the task's own; its stream and its end are the service's.

use std::collections::BTreeMap;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use standpipe_engine::{Appender, Channel, Clock, NewRecord, Outcome, Streams};
use standpipe_serve::LimitsHandle;
use standpipe_tree::Path;
use tokio::sync::{OnceCell, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::artefacts::{Artefacts, Room};
use crate::board::Board;
use crate::graph::{After, Graph, Step, run_state};
use crate::name::{Name, RunId};
use crate::plan::{Plan, Task};
use crate::record::{Ended, RunState, TaskRecord, TaskState, Usage};
use crate::supervise::{Attempt, AttemptEnd, Output, Stop, Supervisor, TaskEvent, Why};

/// Events of an attempt that may wait; the supervisor gathers what comes meanwhile.
const EVENTS_MAX: usize = 8;
/// Tasks whose ends are written at once, when many end without having begun.
const ENDS_AT_ONCE: usize = 32;

/// What plans are followed with; one for the node.
#[derive(Clone, Debug)]
pub(crate) struct Execution {
    pub(crate) supervisor: Supervisor,
    pub(crate) streams: Arc<Streams>,
    pub(crate) artefacts: Artefacts,
    pub(crate) limits: LimitsHandle,
    pub(crate) clock: Clock,
}

impl Execution {
    /// Follows the plan of a run from where its record stands to its end. Tasks that are final in the record stay as they
    /// are. Its stream, `board.output()`, is there, and stays open.
    pub(crate) async fn execute(&self, board: &Board, stop: watch::Receiver<Option<Stop>>) -> (RunState, Ended) {
        let plan = board.plan().clone();
        let limits = self.limits.load();
        let parallel = plan.parallel.unwrap_or(usize::MAX).min(limits.run_tasks_max);
        drop(limits);
        let graph = board.look(|record| Graph::new(&plan, &record.params, &record.tasks, parallel));
        let graph = match graph {
            Ok(graph) => graph,
            Err(reason) => return (RunState::Failed, Ended { reason: Some(reason), ..Ended::default() }),
        };
        let scene = Scene {
            tools: self,
            board,
            run: board.id().clone(),
            single: board.look(|record| record.single),
            outputs: plan.tasks.iter().map(|_| OnceCell::new()).collect(),
            spent: Arc::default(),
            artefact_bytes: Arc::default(),
            stops: watch::Sender::new(None),
            plan,
        };
        let kept = scene.take_over().await;
        let course = Course { scene: &scene, graph, work: FuturesUnordered::new(), pauses: FuturesUnordered::new() };
        match kept {
            Ok(()) => course.follow(stop).await,
            Err(reason) => (RunState::Failed, Ended { reason: Some(reason), ..Ended::default() }),
        }
    }
}

/// What does not change while a plan is followed, for all that go on at once.
struct Scene<'e> {
    tools: &'e Execution,
    board: &'e Board,
    run: RunId,
    plan: Arc<Plan>,
    single: bool,
    /// The stream of each task, from its first attempt on.
    outputs: Vec<OnceCell<Appender>>,
    /// Bytes of output of all tasks.
    spent: Arc<AtomicU64>,
    artefact_bytes: Arc<AtomicU64>,
    /// Tells all attempts to stop.
    stops: watch::Sender<Option<Stop>>,
}

/// What has happened.
enum Happened {
    Attempt {
        task: usize,
        end: AttemptEnd,
    },
    /// A task that came to its end is written down as final.
    Written {
        task: usize,
    },
    /// Tasks that never began are.
    Closed,
}

/// One plan on its way.
struct Course<'s> {
    scene: &'s Scene<'s>,
    graph: Graph,
    work: FuturesUnordered<BoxFuture<'s, Happened>>,
    /// Tasks between two attempts.
    pauses: FuturesUnordered<BoxFuture<'s, usize>>,
}

impl Course<'_> {
    async fn follow(mut self, mut stop: watch::Receiver<Option<Stop>>) -> (RunState, Ended) {
        let timeout = self.scene.plan.timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
        let mut stoppable = true;
        let mut timed = timeout.is_some();
        // A stop that came before the first task lets none begin.
        let early = *stop.borrow_and_update();
        if let Some(early) = early {
            self.stop(early);
        }
        loop {
            while let Some(step) = self.graph.next() {
                self.take(step);
            }
            if self.graph.is_over() && self.work.is_empty() {
                return self.result();
            }
            tokio::select! {
                biased;
                told = stop.changed(), if stoppable => {
                    let told = told.map(|()| *stop.borrow_and_update());
                    match told {
                        Ok(Some(stop)) => self.stop(stop),
                        Ok(None) => {}
                        Err(_gone) => stoppable = false,
                    }
                }
                () = until(timeout), if timed => {
                    timed = false;
                    self.scene.board.post(|record| record.state = RunState::Stopping);
                    self.stop(Stop { why: Why::TimedOut, grace: None });
                }
                Some(happened) = self.work.next() => {
                    match happened {
                        Happened::Attempt { task, end } => self.ended(task, end),
                        Happened::Written { task } => self.graph.written(task),
                        Happened::Closed => {}
                    }
                }
                Some(task) = self.pauses.next() => self.graph.due(task),
            }
        }
    }

    fn take(&mut self, step: Step) {
        let scene = self.scene;
        match step {
            Step::Start { task, attempt } => {
                let inputs = self.inputs(task);
                let attempt = async move {
                    let end = scene.attempt(task, attempt, inputs).await;
                    Happened::Attempt { task, end }
                };
                self.work.push(attempt.boxed());
            }
            Step::Skip { task, why } => {
                let ended = Ended { reason: Some(why), ..Ended::default() };
                self.close(vec![task], TaskState::Skipped, ended);
            }
        }
    }

    fn ended(&mut self, task: usize, end: AttemptEnd) {
        let scene = self.scene;
        let AttemptEnd { state, ended, outputs, .. } = end;
        match self.graph.ended(task, state, outputs.clone()) {
            After::Retry { after_ms } => {
                let due = Instant::now() + Duration::from_millis(after_ms);
                self.pauses.push(
                    async move {
                        scene.retrying(task, state, &ended, after_ms).await;
                        sleep_until(due).await;
                        task
                    }
                    .boxed(),
                );
            }
            After::Final(state) => {
                if state == TaskState::Succeeded {
                    scene.change(task, |record| record.outputs = outputs);
                }
                self.write(task, state, ended);
            }
        }
    }

    fn stop(&mut self, stop: Stop) {
        let scene = self.scene;
        scene.stops.send_replace(Some(stop));
        let cancelled = self.graph.stop(stop.why.state());
        self.pauses.clear();
        let ended = Ended { reason: Some("the run was stopped before its turn".to_owned()), ..Ended::default() };
        self.close(cancelled, TaskState::Cancelled, ended);
    }

    /// Writes down that a task is final.
    fn write(&mut self, task: usize, state: TaskState, ended: Ended) {
        let scene = self.scene;
        let write = async move {
            scene.write(task, state, &ended).await;
            Happened::Written { task }
        };
        self.work.push(write.boxed());
    }

    /// Writes down how tasks are that never begin any more.
    fn close(&mut self, tasks: Vec<usize>, state: TaskState, ended: Ended) {
        let scene = self.scene;
        let all = async move {
            let each = |task| {
                let ended = ended.clone();
                async move { scene.write(task, state, &ended).await }
            };
            futures_util::stream::iter(tasks).map(each).buffer_unordered(ENDS_AT_ONCE).for_each(async |()| {}).await;
            Happened::Closed
        };
        self.work.push(all.boxed());
    }

    /// Variables of what other tasks have said, or which one is missing.
    fn inputs(&self, task: usize) -> Result<BTreeMap<String, String>, String> {
        let input = |(variable, source): (&String, &String)| {
            let (from, name) = source.rsplit_once('.').unwrap_or((source, ""));
            match self.graph.output(from, name) {
                Some(value) => Ok((variable.clone(), value.to_owned())),
                None => Err(format!("its input {variable} is {source}, and `{from}` did not say `::output {name}=…`")),
            }
        };
        self.scene.plan.tasks[task].inputs.iter().map(input).collect()
    }

    fn result(&self) -> (RunState, Ended) {
        let scene = self.scene;
        let (state, decided_by) = self.graph.result();
        let ended_of = |task: usize| {
            let name = &scene.plan.tasks[task].name;
            scene.board.look(|record| {
                let task = record.tasks.get(name);
                task.map(|task| (task.state, task.ended.clone())).unwrap_or_default()
            })
        };
        if scene.single {
            let (task, ended) = ended_of(0);
            // A stop that kept it from its end says more than how its process took that.
            return (if decided_by.is_some() { run_state(task) } else { state }, ended);
        }
        let ended = match (state, decided_by) {
            (_, Some(task)) => {
                let (state, ended) = ended_of(task);
                let name = &scene.plan.tasks[task].name;
                let why = ended.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                Ended { reason: Some(format!("task `{name}` is {}{why}", state.as_str())), ..ended }
            }
            (RunState::Succeeded, None) => Ended { exit_code: Some(0), ..Ended::default() },
            (RunState::TimedOut, None) => {
                let ms = scene.plan.timeout_ms.unwrap_or_default();
                Ended { reason: Some(format!("it took longer than its timeout, {ms} ms")), ..Ended::default() }
            }
            (_, None) => Ended::default(),
        };
        (state, ended)
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Scene<'_> {
    fn task(&self, index: usize) -> &Task {
        &self.plan.tasks[index]
    }

    /// Changes a task's record; durable with what follows.
    fn change(&self, index: usize, change: impl FnOnce(&mut TaskRecord)) {
        self.board.post(|record| change(record.tasks.entry(self.task(index).name.clone()).or_default()));
    }

    /// One attempt and what it leaves.
    async fn attempt(&self, index: usize, number: u32, inputs: Result<BTreeMap<String, String>, String>) -> AttemptEnd {
        let now = self.tools.clock.now_ms();
        self.change(index, |task| {
            let (usage, outputs) = (task.usage, BTreeMap::new());
            let (state, started_at) = (TaskState::Starting, Some(now));
            *task = TaskRecord { state, attempts: number, started_at, usage, outputs, ..TaskRecord::default() };
        });
        let output = match self.output(index).await {
            Ok(output) => output,
            Err(error) => return failed(format!("its stream can't be made: {error}")),
        };
        if !self.single {
            let note = json!({"event": "task", "task": self.task(index).name, "state": "starting", "attempt": number});
            self.note(self.board.output(), &note).await;
        }
        let env = match inputs {
            Ok(env) => env,
            Err(reason) => {
                let note = json!({"event": "not_started", "reason": reason});
                self.note(&output.own, &note).await;
                return failed(reason);
            }
        };
        let (events, told) = mpsc::channel(EVENTS_MAX);
        let Task { name, command, .. } = self.task(index);
        let (run, task, command) = (self.run.clone(), name.clone(), command.clone());
        let own = output.own.clone();
        let attempt = Attempt { run, task, number, command, env, output, events };
        let end = self.process(index, attempt, told).await;
        if end.state == TaskState::Succeeded { self.keep(index, &own, end).await } else { end }
    }

    /// The process of an attempt, from its start to its end.
    async fn process(&self, index: usize, attempt: Attempt, mut told: mpsc::Receiver<TaskEvent>) -> AttemptEnd {
        let mut stops = self.stops.subscribe();
        // What came before this moment counts, too.
        stops.mark_changed();
        let mut running = self.tools.supervisor.start(attempt);
        let before = self
            .board
            .look(|record| record.tasks.get(&self.task(index).name).map(|task| task.usage).unwrap_or_default());
        let end = loop {
            tokio::select! {
                Some(event) = told.recv() => self.told(index, before, event),
                Ok(()) = stops.changed() => {
                    if let Some(stop) = *stops.borrow_and_update() {
                        running.stop(stop);
                    }
                }
                end = running.ended() => break end,
            }
        };
        while let Ok(event) = told.try_recv() {
            self.told(index, before, event);
        }
        let usage = total(before, end.usage);
        self.change(index, |task| {
            task.usage = usage;
            task.leaked |= end.leaked;
        });
        end
    }

    fn told(&self, index: usize, before: Usage, event: TaskEvent) {
        let name = &self.task(index).name;
        let note = |change: &dyn Fn(&mut TaskRecord)| {
            self.board.note(|record| change(record.tasks.entry(name.clone()).or_default()));
        };
        match event {
            TaskEvent::Started { .. } => {
                let now = self.tools.clock.now_ms();
                self.board.post(|record| {
                    record.started_at.get_or_insert(now);
                    if record.state == RunState::Starting {
                        record.state = RunState::Running;
                    }
                    record.tasks.entry(name.clone()).or_default().state = TaskState::Running;
                });
            }
            TaskEvent::Stopping => self.change(index, |task| task.state = TaskState::Stopping),
            TaskEvent::Progress(progress) => note(&|task| task.progress = Some(progress.clone())),
            // They are in the end of the attempt, which alone counts.
            TaskEvent::Output { .. } => {}
            TaskEvent::Stalled(stalled) => self.change(index, |task| task.stalled = stalled),
            TaskEvent::Usage(usage) => note(&|task| task.usage = total(before, usage)),
        }
    }

    /// Copies the artefacts of an attempt that has succeeded; without them it has not.
    async fn keep(&self, index: usize, own: &Appender, end: AttemptEnd) -> AttemptEnd {
        let task = self.task(index);
        if task.artefacts.is_empty() {
            return end;
        }
        // Without a folder of its own a process is in the server's.
        let folder = task.command.cwd.clone().unwrap_or_else(|| PathBuf::from("."));
        match self.copy_artefacts(task, &folder).await {
            Ok(kept) => {
                self.change(index, |task| task.artefacts = kept);
                end
            }
            Err(reason) => {
                self.note(own, &json!({"event": "artefact", "reason": reason})).await;
                let ended = Ended { reason: Some(reason), ..end.ended };
                AttemptEnd { state: TaskState::Failed, ended, ..end }
            }
        }
    }

    async fn copy_artefacts(&self, task: &Task, folder: &FsPath) -> Result<BTreeMap<Name, u64>, String> {
        let limits = self.tools.limits.load();
        let (file_bytes_max, run_bytes_max) = (limits.artefact_bytes_max, limits.run_artefacts_bytes_max);
        drop(limits);
        let (run, name, declared) = (self.run.clone(), task.name.clone(), task.artefacts.clone());
        let (folder, spent) = (folder.to_owned(), self.artefact_bytes.clone());
        let copy = move |artefacts: &Artefacts| {
            artefacts.keep(&run, &name, &folder, &declared, &Room { file_bytes_max, run_bytes_max, spent: &spent })
        };
        let copied = self.tools.artefacts.aside(copy).await;
        copied.unwrap_or_else(|panic| Err(format!("its artefacts can't be kept: {panic}")))
    }

    /// Where a task's output goes.
    async fn output(&self, index: usize) -> standpipe_engine::Result<Output> {
        let whole = self.board.output().clone();
        let spent = self.spent.clone();
        if self.single {
            return Ok(Output { own: whole, merged: None, spent });
        }
        let own = self.stream(index).await?.clone();
        Ok(Output { own, merged: Some((whole, format!("{} | ", self.task(index).name))), spent })
    }

    /// The stream of a pipeline's task, made when it is first asked for.
    async fn stream(&self, index: usize) -> standpipe_engine::Result<&Appender> {
        let path = format!("runs/{}/tasks/{}/out", self.run, self.task(index).name);
        let path = Path::parse(&path).expect("names are keys of the tree");
        self.outputs[index].get_or_try_init(|| self.tools.streams.create(&path)).await
    }

    /// The pause between two attempts begins.
    async fn retrying(&self, index: usize, state: TaskState, ended: &Ended, after_ms: u64) {
        self.change(index, |task| {
            task.state = TaskState::Retrying;
            task.ended = ended.clone();
        });
        let name = &self.task(index).name;
        let mut note = json!({"event": "task", "task": name, "state": "retrying", "after_ms": after_ms});
        describe(&mut note, ended);
        note["last"] = json!(state);
        self.note(self.board.output(), &note).await;
        if !self.single
            && let Some(own) = self.outputs[index].get()
        {
            self.note(own, &note).await;
        }
    }

    /// Writes down that a task is final: the end of its stream, then its state.
    async fn write(&self, index: usize, state: TaskState, ended: &Ended) {
        if !self.single {
            let outcome = Outcome {
                state: state.as_str().to_owned(),
                exit_code: ended.exit_code,
                signal: ended.signal,
                reason: ended.reason.clone(),
            };
            // Whoever waits for the stream of a task that never begins is told so by it.
            match self.stream(index).await {
                Ok(own) => self.logged(index, own.end(outcome).await),
                Err(error) => self.logged(index, Err(error)),
            }
        }
        let now = self.tools.clock.now_ms();
        let name = &self.task(index).name;
        let change = |record: &mut crate::RunRecord| {
            let task = record.tasks.entry(name.clone()).or_default();
            task.state = state;
            task.ended = ended.clone();
            task.ended_at = task.started_at.map(|_| now);
            task.stalled = false;
        };
        if self.single {
            // The run's own end follows at once, and makes it durable.
            return self.board.note(change);
        }
        self.logged(index, self.board.commit(change).await);
        let mut note = json!({"event": "task", "task": name, "state": state});
        describe(&mut note, ended);
        self.note(self.board.output(), &note).await;
    }

    /// What can't be stored now is with the service, which tries until it can, or with the next start.
    fn logged(&self, index: usize, result: standpipe_engine::Result<()>) {
        if let Err(error) = result {
            tracing::debug!(run = %self.run, task = %self.task(index).name, %error, "a task's end is not stored yet");
        }
    }

    async fn note(&self, stream: &Appender, note: &Value) {
        let at_ms = self.tools.clock.now_ms();
        let record = NewRecord { channel: Channel::Note, at_ms, bytes: Bytes::from(note.to_string()) };
        // A stream that takes nothing more is the business of whoever writes output to it.
        let _stored = stream.append(vec![record]).await;
    }

    /// Tasks that an earlier run has done: their artefacts, and a stream that says where their output is.
    async fn take_over(&self) -> Result<(), String> {
        let (of, kept) = self.board.look(|record| {
            let kept = |(index, task): (usize, &Task)| {
                let record = record.tasks.get(&task.name).filter(|record| record.state.is_final())?;
                Some((index, record.clone()))
            };
            (record.of.clone(), self.plan.tasks.iter().enumerate().filter_map(kept).collect::<Vec<_>>())
        });
        if self.single || kept.is_empty() {
            return Ok(());
        }
        let each = |(index, record): (usize, TaskRecord)| {
            let of = of.clone();
            async move { self.take_over_task(index, record, of.as_ref()).await }
        };
        let mut all = futures_util::stream::iter(kept).map(each).buffer_unordered(ENDS_AT_ONCE);
        while let Some(taken) = all.next().await {
            taken?;
        }
        Ok(())
    }

    async fn take_over_task(&self, index: usize, record: TaskRecord, of: Option<&RunId>) -> Result<(), String> {
        let name = self.task(index).name.clone();
        if let Some(of) = of
            && !record.artefacts.is_empty()
        {
            let (from, to, task) = (of.clone(), self.run.clone(), name.clone());
            let names: Vec<Name> = record.artefacts.keys().cloned().collect();
            let copy = move |artefacts: &Artefacts| artefacts.take_over(&from, &to, &task, &names);
            let taken = self.tools.artefacts.aside(copy).await;
            let taken = taken.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
            taken.map_err(|error| format!("artefacts of task `{name}` of {of} can't be taken over: {error}"))?;
            self.artefact_bytes.fetch_add(record.artefacts.values().sum(), Ordering::Relaxed);
        }
        if let Ok(own) = self.stream(index).await {
            self.note(own, &json!({"event": "kept", "of": of, "task": name, "state": record.state})).await;
            let Ended { exit_code, signal, reason } = record.ended;
            let state = record.state.as_str().to_owned();
            self.logged(index, own.end(Outcome { state, exit_code, signal, reason }).await);
        }
        Ok(())
    }
}

fn failed(reason: String) -> AttemptEnd {
    let ended = Ended { reason: Some(reason), ..Ended::default() };
    AttemptEnd { state: TaskState::Failed, ended, ..AttemptEnd::default() }
}

/// Adds how something ended to a note.
fn describe(note: &mut Value, ended: &Ended) {
    if let (Value::Object(note), Ok(Value::Object(ended))) = (note, serde_json::to_value(ended)) {
        note.extend(ended);
    }
}

/// What attempts used together.
fn total(before: Usage, now: Usage) -> Usage {
    Usage {
        cpu_ms: before.cpu_ms + now.cpu_ms,
        memory_bytes_max: before.memory_bytes_max.max(now.memory_bytes_max),
        lines: before.lines + now.lines,
        bytes: before.bytes + now.bytes,
    }
}

#[cfg(test)]
#[path = "execution_tests.rs"]
mod tests;
