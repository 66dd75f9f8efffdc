//! For tests of the service: a node's runs in a temporary folder, with scripted processes, that can be killed and
//! opened again.

use std::collections::BTreeMap;
use std::path::Path as FsPath;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::Value;
use standpipe_engine::{Access, Channel, Clock, Databases, Engine, EngineConfig, Outcome, StreamRead, Streams};
use standpipe_serve::{Limits, LimitsHandle};
use standpipe_tree::{Format, Path, to_json};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::board::Board;
use crate::command::Command;
use crate::jobs::JobSpec;
use crate::name::RunId;
use crate::plan::{Plan, Task};
use crate::record::{Ended, RunState};
use crate::runs::Runs;
use crate::settings::{RunsSettings, Start};
use crate::supervise::Stop;
use crate::supervise::fake::Fake;

pub(crate) const NOW_MS: u64 = 1_790_000_000_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// One boot of a node.
pub(crate) struct Boot {
    pub(crate) engine: Arc<Engine>,
    pub(crate) fake: Arc<Fake>,
    pub(crate) limits: LimitsHandle,
    pub(crate) clock: Arc<AtomicU64>,
    pub(crate) runs: Arc<Runs>,
}

pub(crate) fn config(dir: &FsPath, clock: &Arc<AtomicU64>) -> EngineConfig {
    EngineConfig {
        access: Access::Open,
        databases: Databases::OnDemand,
        map_bytes_initial: 64 << 20,
        clock: Clock::Manual(clock.clone()),
        ..EngineConfig::new(dir)
    }
}

impl Boot {
    pub(crate) async fn new(dir: &FsPath) -> Self {
        Self::with(dir, Limits::default(), Vec::new(), NOW_MS).await
    }

    pub(crate) async fn with(dir: &FsPath, limits: Limits, jobs: Vec<JobSpec>, now: u64) -> Self {
        let clock = Arc::new(AtomicU64::new(now));
        Self::on(config(dir, &clock), clock, limits, jobs).await
    }

    /// A node whose tree can't be written, or read, until [`Boot::mend`].
    pub(crate) async fn without_tree(dir: &FsPath) -> Self {
        let clock = Arc::new(AtomicU64::new(NOW_MS));
        let config = EngineConfig { databases_max: 0, ..config(dir, &clock) };
        Self::on(config, clock, Limits::default(), Vec::new()).await
    }

    pub(crate) fn mend(&self) {
        self.engine.reload(&config(&self.engine.config().dir, &self.clock));
    }

    /// A node whose plans `follow` follows.
    pub(crate) async fn following(
        dir: &FsPath,
        follow: impl Fn(Arc<Board>, watch::Receiver<Option<Stop>>) -> BoxFuture<'static, (RunState, Ended)>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let clock = Arc::new(AtomicU64::new(NOW_MS));
        let engine = Engine::open(config(dir, &clock), Arc::new(|why| panic!("the database stopped: {why}"))).unwrap();
        let (engine, limits) = (Arc::new(engine), Limits::default());
        let limits: LimitsHandle = Arc::new(From::from(Arc::new(limits)));
        let settings = RunsSettings::new(dir.join("runs"));
        let runs = Runs::open_with(engine.clone(), settings, limits.clone(), Vec::new(), Box::new(follow), None);
        Self { runs: runs.await.unwrap(), engine, fake: Fake::new(), limits, clock }
    }

    async fn on(config: EngineConfig, clock: Arc<AtomicU64>, limits: Limits, jobs: Vec<JobSpec>) -> Self {
        let dir = config.dir.clone();
        let engine = Engine::open(config, Arc::new(|why| panic!("the database stopped: {why}"))).unwrap();
        let engine = Arc::new(engine);
        // The crate has no dependency of its own for the handle's type.
        let limits: LimitsHandle = Arc::new(From::from(Arc::new(limits)));
        let fake = Fake::new();
        let jobs = jobs.into_iter().map(Arc::new).collect();
        let settings = RunsSettings { jobs, ..RunsSettings::new(dir.join("runs")) };
        let runs =
            Runs::open_launching(engine.clone(), settings, limits.clone(), Vec::new(), fake.clone()).await.unwrap();
        Self { engine, fake, limits, clock, runs }
    }

    pub(crate) async fn start(&self, name: &str, acts: &[&str]) -> RunId {
        self.runs.start(start(name, acts)).await.unwrap()
    }

    pub(crate) async fn ended(&self, id: &RunId) -> RunState {
        within(self.runs.ended(id)).await.unwrap()
    }

    /// What the tree has at a path.
    pub(crate) fn value(&self, at: &str) -> Value {
        let database = self.engine.resolve(None).unwrap();
        let snapshot = database.try_snapshot().unwrap();
        let json = to_json(&mut snapshot.cursor(&Path::parse(at).unwrap()), Format::Plain).unwrap();
        serde_json::from_slice(&json).unwrap()
    }

    /// All values are told.
    pub(crate) async fn told(&self) {
        within(self.runs.values.flush()).await.unwrap();
    }

    /// How a run's stream ended.
    pub(crate) fn outcome(&self, id: &RunId) -> Option<Outcome> {
        let path = Path::parse(&format!("runs/{id}/out")).unwrap();
        self.runs.streams.head(&path).unwrap().and_then(|head| head.ended)
    }

    /// Waits until a run is in a state.
    pub(crate) async fn until(&self, id: &RunId, state: RunState) {
        until(|| self.runs.record(id).unwrap().state == state).await;
    }

    pub(crate) async fn close(self) {
        within(self.runs.close()).await;
        drop(self.runs);
        self.engine.close();
    }
}

/// Runs `story` on a node that is then killed: its tasks vanish where they stand.
pub(crate) fn killed<T>(boot: impl Future<Output = Boot>, story: impl AsyncFnOnce(&Boot) -> T) -> T {
    let runtime = runtime();
    let (boot, told) = runtime.block_on(async {
        let boot = boot.await;
        let told = story(&boot).await;
        (boot, told)
    });
    drop(runtime);
    boot.engine.close();
    told
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Waits for it, with a limit.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

/// Waits until it holds, with a limit.
pub(crate) async fn until(holds: impl Fn() -> bool) {
    within(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

pub(crate) fn command(acts: &[&str]) -> Command {
    Command { argv: acts.iter().map(|act| (*act).to_owned()).collect(), ..Command::default() }
}

pub(crate) fn task(name: &str, needs: &[&str], acts: &[&str]) -> Task {
    let task = serde_json::json!({ "name": name, "needs": needs, "command": command(acts) });
    serde_json::from_value(task).unwrap()
}

pub(crate) fn single(acts: &[&str]) -> Arc<Plan> {
    Plan { tasks: vec![task("main", &[], acts)], ..Plan::default() }.into()
}

pub(crate) fn start(name: &str, acts: &[&str]) -> Start {
    let name = Some(name.parse().unwrap());
    Start { name, plan: single(acts), single: true, by: "local".to_owned(), ..Start::default() }
}

pub(crate) fn job(name: &str, acts: &[&str]) -> JobSpec {
    JobSpec {
        name: name.parse().unwrap(),
        description: None,
        plan: single(acts),
        single: true,
        params: BTreeMap::new(),
        group: None,
        runs_max: None,
        schedule: None,
        scope: None,
    }
}

/// All that is in a stream now, and how it ended if it has.
pub(crate) fn read_all(streams: &Streams, path: &Path) -> (Vec<(Channel, Vec<u8>)>, Option<Outcome>) {
    let mut watch =
        streams.watch(path, standpipe_engine::From::Start).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut records = Vec::new();
    loop {
        let reads = match watch.read() {
            StreamRead::Behind => watch.catch_up(1 << 20).unwrap(),
            read => vec![read],
        };
        for read in reads {
            match read {
                StreamRead::Chunk(chunk, range) => {
                    let shown = chunk.records().skip(range.start).take(range.len());
                    records.extend(shown.map(|record| (record.channel, record.bytes.to_vec())));
                }
                StreamRead::Gap { .. } => panic!("{path}: a gap"),
                StreamRead::Ended(outcome) => return (records, Some(outcome)),
                StreamRead::Nothing | StreamRead::Behind => return (records, None),
            }
        }
    }
}
