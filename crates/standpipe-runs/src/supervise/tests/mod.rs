//! Tests of the supervisor: against scripted processes (`scripted.rs`), and real ones (`real.rs`, `hostile.rs`; `portable.rs` for
//! the launcher of other systems).

#[cfg(target_os = "linux")]
mod hostile;
mod portable;
#[cfg(target_os = "linux")]
mod real;
mod scripted;

use std::sync::Arc;
use std::time::Duration;

use standpipe_engine::{Appender, Channel, Engine, EngineConfig, OnFatal};
use standpipe_serve::{Limits, LimitsHandle};
use standpipe_tree::Path;
use tokio::sync::mpsc;

use super::{Attempt, AttemptEnd, Launcher, Output, Running, Stop, Supervisor, SupervisorSettings, TaskEvent, Why};
use crate::bench::read_all;
use crate::command::Command;
use crate::record::TaskState;

/// Longer than anything takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// Whether this test has a process of its own, as nextest gives it: descriptors and children are counted by process.
fn alone() -> bool {
    std::env::var_os("NEXTEST").is_some()
}

/// A supervisor with streams of its own.
struct Bench {
    supervisor: Supervisor,
    engine: Engine,
    limits: LimitsHandle,
    dir: tempfile::TempDir,
    streams: std::cell::Cell<u32>,
}

/// What came of one attempt.
struct Done {
    end: AttemptEnd,
    /// Channel and bytes of each record.
    records: Vec<(Channel, Vec<u8>)>,
    events: Vec<TaskEvent>,
}

impl Done {
    fn bytes(&self, channel: Channel) -> Vec<u8> {
        self.records.iter().filter(|(of, _)| *of == channel).flat_map(|(_, bytes)| bytes.clone()).collect()
    }

    fn out(&self) -> String {
        String::from_utf8_lossy(&self.bytes(Channel::Out)).into_owned()
    }

    fn notes(&self) -> Vec<serde_json::Value> {
        let notes = self.records.iter().filter(|(channel, _)| *channel == Channel::Note);
        notes.map(|(_, bytes)| serde_json::from_slice(bytes).unwrap()).collect()
    }

    fn reason(&self) -> &str {
        self.end.ended.reason.as_deref().unwrap_or_default()
    }

    #[track_caller]
    fn check(&self, state: TaskState, exit_code: Option<i32>) {
        let found = (self.end.state, self.end.ended.exit_code);
        assert_eq!(found, (state, exit_code), "{:?} {:?}", self.end, self.out());
    }
}

fn stop(grace: Duration) -> Stop {
    Stop { why: Why::Cancelled, grace: Some(grace) }
}

fn command(argv: &[&str]) -> Command {
    Command { argv: argv.iter().map(|text| (*text).to_owned()).collect(), ..Command::default() }
}

/// A line for the shell, with a search path for what it calls.
fn shell(line: &str) -> Command {
    let mut command = command(&["sh", "-c", line]);
    command.env.insert("PATH".to_owned(), std::env::var("PATH").unwrap());
    command
}

impl Bench {
    fn new(launcher: impl FnOnce(&std::path::Path) -> Arc<dyn Launcher>) -> Self {
        Self::with(Limits::default(), launcher)
    }

    fn with(limits: Limits, launcher: impl FnOnce(&std::path::Path) -> Arc<dyn Launcher>) -> Self {
        Self::on(|_| {}, limits, launcher)
    }

    /// With streams that are so configured.
    fn on(
        change: impl FnOnce(&mut EngineConfig),
        limits: Limits,
        launcher: impl FnOnce(&std::path::Path) -> Arc<dyn Launcher>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = EngineConfig::new(dir.path().join("data"));
        change(&mut config);
        let fatal: OnFatal = Arc::new(|why| panic!("{why}"));
        let engine = Engine::open(config, fatal).unwrap();
        let limits: LimitsHandle = Arc::new(Arc::new(limits).into());
        let variable = |name: &str| (name == "PASSWORD").then(|| "hunter22".to_owned());
        let settings = SupervisorSettings { limits: limits.clone(), streams: engine.streams().clone(), variable };
        let supervisor = Supervisor::new(launcher(dir.path()), settings);
        Self { supervisor, engine, limits, dir, streams: std::cell::Cell::new(0) }
    }

    async fn stream(&self) -> Appender {
        let number = self.streams.get();
        self.streams.set(number + 1);
        self.engine.streams().create(&Path::parse(&format!("runs/x@{number}/out")).unwrap()).await.unwrap()
    }

    async fn attempt(&self, command: Command) -> (Attempt, mpsc::Receiver<TaskEvent>) {
        let (events, heard) = mpsc::channel(64);
        let output = Output { own: self.stream().await, merged: None, spent: Arc::default() };
        let (run, task) = ("x@1".parse().unwrap(), "main".parse().unwrap());
        let attempt = Attempt { run, task, number: 1, command, env: Default::default(), output, events };
        (attempt, heard)
    }

    async fn begin(&self, command: Command) -> (Running, Appender, mpsc::Receiver<TaskEvent>) {
        let (attempt, heard) = self.attempt(command).await;
        let own = attempt.output.own.clone();
        (self.supervisor.start(attempt), own, heard)
    }

    /// Runs a command to its end.
    async fn run(&self, command: Command) -> Done {
        let (running, own, heard) = self.begin(command).await;
        self.finish(running, &own, heard).await
    }

    async fn finish(&self, mut running: Running, own: &Appender, mut heard: mpsc::Receiver<TaskEvent>) -> Done {
        let end = tokio::time::timeout(LONG, running.ended()).await.expect("the attempt ends");
        let mut events = Vec::new();
        while let Ok(event) = heard.try_recv() {
            events.push(event);
        }
        Done { end, records: self.records(own), events }
    }

    /// All that is in a stream now.
    fn records(&self, stream: &Appender) -> Vec<(Channel, Vec<u8>)> {
        read_all(self.engine.streams(), stream.path()).0
    }

    /// Waits until there is such an output.
    async fn wait_for(&self, stream: &Appender, text: &str) {
        let has = || {
            let all: Vec<u8> = self.records(stream).into_iter().flat_map(|(_, bytes)| bytes).collect();
            String::from_utf8_lossy(&all).contains(text)
        };
        tokio::time::timeout(LONG, async {
            while !has() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("no {text:?} in the output"));
    }
}
