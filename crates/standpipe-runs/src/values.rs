//! What the tree tells of runs: values at `/runs/<id>` and `/jobs/<name>` of the default database, made from the
//! records and never read back. One task writes them, each at most four times a second, the last state always; a
//! tree that can't be written is tried again. What a viewer may see of it is the rules' business.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use standpipe_engine::{Engine, Error, ErrorKind, Identity, Intent, Op, Result};
use standpipe_tree::parse::{ParseLimits, parse_value};
use standpipe_tree::{Location, Path, Rows, escape_key};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::board::{Board, News};
use crate::name::{Name, RunId};
use crate::plan::Task;
use crate::record::{Progress, RunRecord, TaskRecord, Usage};

/// Updates of one value in [`WINDOW`].
const UPDATES_MAX: usize = 4;
/// See [`UPDATES_MAX`].
const WINDOW: Duration = Duration::from_secs(1);
/// From a state to its update.
const GATHER: Duration = Duration::from_millis(25);
/// Between two updates of which the second tells nothing but notes.
const NOTE_PAUSE: Duration = Duration::from_millis(250);
/// Values of one commit.
const BATCH: usize = 128;
/// Time a commit may wait for the tree's writer.
const WRITE_WITHIN: Duration = Duration::from_secs(30);
/// Pause after the first failure; doubled for each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// Longest pause after failures.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Values that may wait for a tree that can't be written. What is more is found again by comparing the book with
/// the tree, when it can.
const BEHIND_MAX: usize = 4_096;

/// News that may wait while a commit is under way; beyond it, as above.
const INBOX_MAX: usize = 16_384;

/// When a value was written lately.
#[derive(Debug, Default)]
pub(crate) struct Pace(VecDeque<Instant>);

impl Pace {
    /// The first moment at which news of this kind may be written.
    fn free_at(&self, news: News, now: Instant) -> Instant {
        // States that follow each other at once share an update; the first tells at once that there is a run.
        let gather = (news == News::State && !self.0.is_empty()).then(|| now + GATHER);
        let full = (self.0.len() == UPDATES_MAX).then(|| self.0.front().map(|first| *first + WINDOW)).flatten();
        let note = (news < News::State).then(|| self.0.back().map(|last| *last + NOTE_PAUSE)).flatten();
        now.max(full.unwrap_or(now)).max(note.unwrap_or(now)).max(gather.unwrap_or(now))
    }

    fn written(&mut self, now: Instant) {
        if self.0.len() == UPDATES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(now);
    }
}

/// Which value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Run(RunId),
    Job(Name),
}

impl Key {
    fn path(&self) -> String {
        match self {
            Self::Run(id) => format!("runs/{id}"),
            Self::Job(name) => format!("jobs/{name}"),
        }
    }
}

/// What a value is made of.
enum Source {
    /// A run that is not final, or was not when it was told of.
    Board(Arc<Board>),
    /// The value, made already.
    Value(Value),
    /// Nothing any more; who waits for that.
    Gone(Vec<oneshot::Sender<()>>),
}

enum Item {
    News(Key, Source),
    /// Write all that waits without regard to its pace, then answer.
    Flush(oneshot::Sender<()>),
}

impl Item {
    /// It is not told: a run at work will have news again, the rest is found by comparing.
    fn pass_over(self) {
        if let Self::News(_, Source::Board(board)) = self {
            board.news.store(News::None as u8, Ordering::SeqCst);
        }
    }
}

/// See the module's text.
pub(crate) struct Values {
    engine: Arc<Engine>,
    inbox: Mutex<Vec<Item>>,
    wake: Notify,
    closed: AtomicBool,
    passed_over: AtomicBool,
    /// Values that wait.
    pub(crate) behind: AtomicUsize,
    pub(crate) written: AtomicU64,
    pub(crate) failures: AtomicU64,
    /// More than [`BEHIND_MAX`] were behind; the book has to be compared with the tree.
    pub(crate) compare: Notify,
}

impl std::fmt::Debug for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Values").finish_non_exhaustive()
    }
}

/// What waits, and where the writing task stands.
#[derive(Default)]
struct Desk {
    due: BTreeMap<Key, (Instant, Source)>,
    /// Values that belong to no board have their pace here; a few of the newest.
    paces: BTreeMap<Name, Pace>,
    flushes: Vec<oneshot::Sender<()>>,
    /// Failures in a row.
    failed: u32,
}

impl Values {
    pub(crate) fn new(engine: Arc<Engine>) -> Arc<Self> {
        Arc::new(Self {
            engine,
            inbox: Mutex::default(),
            wake: Notify::new(),
            closed: AtomicBool::new(false),
            passed_over: AtomicBool::new(false),
            behind: AtomicUsize::new(0),
            written: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            compare: Notify::new(),
        })
    }

    fn push(&self, item: Item) {
        let mut inbox = self.inbox.lock();
        if inbox.len() < INBOX_MAX {
            inbox.push(item);
        } else {
            item.pass_over();
            self.passed_over.store(true, Ordering::Relaxed);
        }
        drop(inbox);
        self.wake.notify_one();
    }

    /// There is news of a run.
    pub(crate) fn board(&self, board: Arc<Board>) {
        self.push(Item::News(Key::Run(board.id().clone()), Source::Board(board)));
    }

    /// The record of a run that is final has changed, or is not what the tree tells.
    pub(crate) fn record(&self, record: &RunRecord) {
        self.push(Item::News(Key::Run(record.id.clone()), Source::Value(run_value(record, None))));
    }

    /// The run is removed; resolves when the tree no longer tells of it.
    pub(crate) fn gone(&self, id: &RunId) -> oneshot::Receiver<()> {
        let (answer, gone) = oneshot::channel();
        self.push(Item::News(Key::Run(id.clone()), Source::Gone(vec![answer])));
        gone
    }

    /// There is news of a job; `None` when the configuration has it no longer.
    pub(crate) fn job(&self, name: &Name, value: Option<Value>) {
        let source = value.map_or_else(|| Source::Gone(Vec::new()), Source::Value);
        self.push(Item::News(Key::Job(name.clone()), source));
    }

    /// Resolves when all that is to be told so far is told.
    pub(crate) fn flush(&self) -> oneshot::Receiver<()> {
        let (answer, flushed) = oneshot::channel();
        self.push(Item::Flush(answer));
        flushed
    }

    /// Lets [`Values::write`] end.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Writes what is to be told until [`Values::close`].
    pub(crate) async fn write(self: Arc<Self>) {
        let mut desk = Desk::default();
        let mut not_before = Instant::now();
        while !self.closed.load(Ordering::Relaxed) {
            let items = std::mem::take(&mut *self.inbox.lock());
            let full = desk.failed > 0 && desk.due.len() >= BEHIND_MAX;
            if desk.take_in(items, full) {
                self.passed_over.store(true, Ordering::Relaxed);
            }
            self.behind.store(desk.due.len(), Ordering::Relaxed);
            let now = Instant::now();
            let batch = if now >= not_before { desk.next(now) } else { Vec::new() };
            if batch.is_empty() {
                desk.answer_flushes();
                let wait = desk.first().map(|first| first.max(not_before));
                tokio::select! {
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep_until(wait.unwrap_or_else(|| now + Duration::from_secs(3_600))) => {}
                }
                continue;
            }
            let failed = self.write_batch(&mut desk, batch).await;
            let pause = failed.then(|| PAUSE_MAX.min(PAUSE_FIRST.saturating_mul(1 << desk.failed.min(8))));
            desk.failed = if failed { desk.failed.saturating_add(1) } else { 0 };
            not_before = Instant::now() + pause.unwrap_or_default();
            if !failed && self.passed_over.swap(false, Ordering::Relaxed) {
                self.compare.notify_one();
            }
        }
    }

    /// Writes these; true when some of them have to be written again.
    async fn write_batch(&self, desk: &mut Desk, batch: Vec<(Key, Source)>) -> bool {
        let now = Instant::now();
        let mut steps = Vec::with_capacity(batch.len());
        for (key, source) in &batch {
            steps.push(set(key, source.value()));
            if let Source::Board(board) = source {
                board.pace.lock().written(now);
            } else if let Key::Job(name) = key {
                desk.paces.entry(name.clone()).or_default().written(now);
            }
        }
        let results = self.submit(steps).await;
        let mut again = false;
        for ((key, source), result) in batch.into_iter().zip(results) {
            match result {
                Ok(()) => {
                    self.written.fetch_add(1, Ordering::Relaxed);
                    source.told();
                }
                // The tree will never take it.
                Err(error) if matches!(error.kind(), ErrorKind::BadRequest | ErrorKind::TooLarge) => {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(path = key.path(), %error, "a run can't be told to the tree");
                }
                Err(error) => {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(path = key.path(), %error, "a value of a run could not be written yet");
                    again = true;
                    desk.due.entry(key).or_insert((now, source));
                }
            }
        }
        again
    }

    /// One commit; what came of each step.
    async fn submit(&self, steps: Vec<Result<Op>>) -> Vec<Result<()>> {
        let ops: Vec<_> = steps.iter().filter_map(|step| step.as_ref().ok().cloned()).collect();
        let write = async {
            let database = self.engine.resolve(None)?;
            let intent = Intent::new(Op::Batch(ops), Identity::Admin);
            database.write(intent, std::time::Instant::now() + WRITE_WITHIN).await
        };
        match write.await {
            Ok(committed) => {
                let mut told = committed.steps.into_iter();
                let result = |step: Result<Op>| step.and_then(|_| told.next().map_or(Ok(()), |told| told.map(drop)));
                steps.into_iter().map(result).collect()
            }
            Err(error) => steps.iter().map(|_| Err(error.clone())).collect(),
        }
    }
}

impl Desk {
    /// Puts news in their places; true when a full desk has passed some over.
    fn take_in(&mut self, items: Vec<Item>, full: bool) -> bool {
        let now = Instant::now();
        let mut passed_over = false;
        for item in items {
            let (key, mut source) = match item {
                Item::Flush(answer) => {
                    self.flushes.push(answer);
                    continue;
                }
                Item::News(key, source) => (key, source),
            };
            if full && !self.due.contains_key(&key) {
                Item::News(key, source).pass_over();
                passed_over = true;
                continue;
            }
            let at = match (&source, &key) {
                (Source::Board(board), _) => {
                    let news = News::of(board.news.load(Ordering::SeqCst));
                    board.pace.lock().free_at(news, now)
                }
                (_, Key::Job(name)) => self.paces.get(name).map_or(now, |pace| pace.free_at(News::Note, now)),
                (_, Key::Run(_)) => now,
            };
            if let (Some((_, Source::Gone(old))), Source::Gone(new)) = (self.due.get_mut(&key), &mut source) {
                new.append(old);
            }
            self.due.insert(key, (at, source));
        }
        passed_over
    }

    /// What is to be written now.
    fn next(&mut self, now: Instant) -> Vec<(Key, Source)> {
        let hurry = !self.flushes.is_empty();
        let ready = self.due.iter().filter(|(_, (at, _))| hurry || *at <= now);
        let keys: Vec<_> = ready.map(|(key, _)| key.clone()).take(BATCH).collect();
        keys.into_iter().filter_map(|key| self.due.remove(&key).map(|(_, source)| (key, source))).collect()
    }

    fn first(&self) -> Option<Instant> {
        self.due.values().map(|(at, _)| *at).min()
    }

    fn answer_flushes(&mut self) {
        if self.due.is_empty() {
            for answer in self.flushes.drain(..) {
                let _left = answer.send(());
            }
        }
    }
}

impl Source {
    /// The value now. What a board is told after this is news again.
    fn value(&self) -> Option<Value> {
        match self {
            Self::Gone(_) => None,
            Self::Value(value) => Some(value.clone()),
            Self::Board(board) => {
                board.news.store(News::None as u8, Ordering::SeqCst);
                let position = Some(board.position.load(Ordering::Relaxed)).filter(|position| *position > 0);
                Some(board.look(|record| run_value(record, position)))
            }
        }
    }

    fn told(self) {
        if let Self::Gone(answers) = self {
            for answer in answers {
                let _left = answer.send(());
            }
        }
    }
}

fn set(key: &Key, value: Option<Value>) -> Result<Op> {
    let wrong = |error: &dyn std::fmt::Display| Error::bad_request(error.to_string());
    let path = Path::parse(&key.path()).map_err(|error| wrong(&error))?;
    let rows = match value {
        None => Rows::default(),
        Some(value) => {
            let json = value.to_string();
            parse_value(json.as_bytes(), &ParseLimits::below(&path)).map_err(|error| wrong(&error))?
        }
    };
    let location = Location::parse(path.as_str()).map_err(|error| wrong(&error))?;
    Ok(Op::Set { location, rows })
}

impl RunRecord {
    /// What the tree tells of the run at `/runs/<id>`: nothing of its environment, its input or its output.
    /// `position` is its place in the queue, if it waits.
    pub fn value(&self, position: Option<usize>) -> Value {
        run_value(self, position)
    }
}

fn run_value(record: &RunRecord, position: Option<usize>) -> Value {
    let mut value = Map::new();
    let mut put = |key: &str, member: Value| drop(value.insert(key.to_owned(), member));
    put("name", json!(record.id.name));
    put("job", json!(record.job));
    put("params", json!(record.params));
    put("by", json!(record.by));
    put("state", json!(record.state));
    put("created_at", json!(record.created_at));
    put("started_at", json!(record.started_at));
    put("ended_at", json!(record.ended_at));
    put("exit_code", json!(record.ended.exit_code));
    put("signal", json!(record.ended.signal));
    put("reason", json!(record.ended.reason));
    put("single", json!(record.single));
    put("of", json!(record.of));
    put("resumed_by", json!(record.resumed_by));
    put("group", json!(record.group));
    put("queue", json!(position.map(|position| json!({ "position": position }))));
    if let (true, Some(task)) = (record.single, record.plan.tasks.first()) {
        put("command", json!({ "argv": task.command.argv, "cwd": task.command.cwd }));
    }
    put("progress", json!(progress(record)));
    let usage = usage(record);
    put("output", json!({ "lines": usage.lines, "bytes": usage.bytes }));
    put("usage", json!({ "cpu_ms": usage.cpu_ms, "memory_bytes_max": usage.memory_bytes_max }));
    let plan: BTreeMap<_, _> = record.plan.tasks.iter().map(|task| (&task.name, task)).collect();
    let tasks = record.tasks.iter().map(|(name, task)| (name.to_string(), task_value(task, plan.get(name).copied())));
    put("tasks", Value::Object(tasks.collect()));
    Value::Object(value)
}

fn task_value(record: &TaskRecord, task: Option<&Task>) -> Value {
    let needs =
        task.map(|task| task.needs.iter().map(|name| (name.to_string(), Value::Bool(true))).collect::<Map<_, _>>());
    let matrix = task.map(|task| {
        let member = |(key, value): (&String, &String)| (escape_key(key).into_owned(), Value::from(value.as_str()));
        task.matrix.iter().map(member).collect::<Map<_, _>>()
    });
    json!({
        "state": record.state,
        "needs": needs,
        "attempts": record.attempts,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "exit_code": record.ended.exit_code,
        "signal": record.ended.signal,
        "reason": record.ended.reason,
        "progress": record.progress,
        "stalled": record.stalled.then_some(true),
        "leaked": record.leaked.then_some(true),
        "matrix": matrix,
        "artefacts": record.artefacts,
    })
}

/// How far a run is: of one command as it says itself; of a pipeline the share of its tasks that have ended, those
/// at work counted as far as they say they are.
fn progress(record: &RunRecord) -> Option<Progress> {
    if record.single {
        return record.tasks.values().next().and_then(|task| task.progress.clone());
    }
    let count = record.tasks.len();
    let ended = record.tasks.values().filter(|task| task.state.is_final()).count();
    let part = |task: &TaskRecord| match (&task.progress, task.state.is_final()) {
        (_, true) => 1.0,
        (Some(progress), false) => progress.fraction.clamp(0.0, 1.0),
        (None, false) => 0.0,
    };
    let sum: f64 = record.tasks.values().map(part).sum();
    let fraction = (sum / count.max(1) as f64 * 1_000.0).round() / 1_000.0;
    (count > 0).then(|| Progress { fraction, text: format!("{ended} of {count} tasks") })
}

/// What all tasks used: memory is that of the largest.
fn usage(record: &RunRecord) -> Usage {
    record.tasks.values().fold(Usage::default(), |sum, task| Usage {
        cpu_ms: sum.cpu_ms + task.usage.cpu_ms,
        memory_bytes_max: sum.memory_bytes_max.max(task.usage.memory_bytes_max),
        lines: sum.lines + task.usage.lines,
        bytes: sum.bytes + task.usage.bytes,
    })
}
