//! The life of one attempt, from its start until its process, all that came of it and all its output are
//! settled. One task, one loop; what it waits for is in one place, and each thing that can happen is a function.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Fuse, join_all};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::launch::{Child, Exit, Launched, Spec, Told, Used};
use super::mask::Secrets;
use super::output::{Pump, Shared};
use super::{Attempt, AttemptEnd, Stop, Supervisor, TaskEvent, Why, input, secrets};
use crate::command::{Command, ResourceLimits, Stdin};
use crate::record::{Ended, TaskState, Usage};

/// Time after SIGKILL in which processes must be gone; they are given up as lost later. One that hangs in the
/// kernel, on a dead network disk say, can't be killed.
const KILL_MS_MAX: u64 = 10_000;
/// Time, after a request to stop and once all processes are gone, in which the rest of the output must be stored. It
/// takes longer when nothing can be stored at all: then the disk is full.
const STORE_MS_MAX: u64 = 5_000;
/// Pauses between looks at what is left: the first, and the longest.
const LOOK: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(50);

/// Does what the attempt says and tells how it went.
pub(super) async fn run(
    supervisor: Supervisor,
    attempt: Attempt,
    mut told: watch::Receiver<Option<Stop>>,
) -> AttemptEnd {
    let closing = supervisor.0.closing.clone();
    let early = told.borrow_and_update().map(|stop| stop.why);
    if let Some(why) = early.or_else(|| closing.is_cancelled().then_some(Why::Interrupted)) {
        return AttemptEnd::new(why.state(), "stopped before it was started");
    }
    let Attempt { run, task, number, command, mut env, output, events } = attempt;
    env.insert("STANDPIPE_RUN".to_owned(), run.to_string());
    env.insert("STANDPIPE_TASK".to_owned(), task.to_string());
    env.insert("STANDPIPE_ATTEMPT".to_owned(), number.to_string());
    let settings = &supervisor.0.settings;
    let shared = Arc::new(Shared::new(task.as_str(), &command, output, settings.limits.clone()));
    let mut hidden = Secrets::default();
    let given = secrets::look_up(&command.secrets, settings.variable)
        .and_then(|values| Ok((values, input::open(&command.stdin, &settings.streams)?)));
    let launched = match given {
        Ok((values, given)) => {
            values.iter().for_each(|(_, value)| hidden.add(value));
            let launching = supervisor.0.launcher.launch(spec(&supervisor, &command, env, values));
            launching.await.map(|launched| (launched, given)).map_err(|error| hidden.hide(&error.0))
        }
        Err(error) => Err(error),
    };
    let (Launched { child, input, output }, given) = match launched {
        Ok(launched) => launched,
        Err(reason) => {
            supervisor.0.not_started.fetch_add(1, Ordering::Relaxed);
            return not_started(&shared, reason).await;
        }
    };
    let feed: BoxFuture<'static, ()> = match given.zip(input) {
        Some((given, writer)) => input::feed(given, writer).boxed(),
        None => std::future::pending().boxed(),
    };
    shared.pending.started(child.pid());
    let pumps = output.into_iter().map(|(channel, source)| Pump::new(shared.clone(), source, channel, &hidden).run());
    let pumps: Vec<_> = pumps.collect();
    let started = json!({"event": "started", "pid": child.pid()}).to_string();
    let pumping = {
        let shared = shared.clone();
        async move {
            shared.note_or_fail(started).await;
            join_all(pumps).await;
        }
    };
    let now = Instant::now();
    let life = Life {
        grace: Duration::from_millis(command.grace_ms.unwrap_or_else(|| settings.limits.load().run_grace_ms)),
        leak: Duration::from_millis(settings.limits.load().run_leak_ms_max),
        timeout: command.timeout_ms.map(|ms| now + Duration::from_millis(ms)),
        stall: command.stall_ms.map(Duration::from_millis),
        resources: resources(&supervisor, &command),
        pumps: tokio::spawn(pumping),
        pumped: false,
        feed: feed.fuse(),
        notes: Notes::default(),
        exit: None,
        cause: None,
        ending: None,
        leak_at: None,
        leaked: false,
        lost: false,
        asked_at: None,
        gone_at: None,
        shared,
        child,
        events,
        told,
        closing,
    };
    life.run().await
}

/// What is started: the command, its environment in full, the lower of its limits and the node's.
fn spec(
    supervisor: &Supervisor,
    command: &Command,
    mut env: std::collections::BTreeMap<String, String>,
    secrets: Vec<(String, String)>,
) -> Spec {
    let mut all = command.env.clone();
    all.append(&mut env);
    all.extend(secrets);
    Spec {
        argv: command.argv.clone(),
        cwd: command.cwd.clone(),
        env: all,
        input: command.stdin != Stdin::None,
        pty: command.pty,
        resources: resources(supervisor, command),
    }
}

fn resources(supervisor: &Supervisor, command: &Command) -> ResourceLimits {
    let node = supervisor.0.settings.limits.load();
    let lower = |own: Option<u64>, node: u64| match (own, node) {
        (own, 0) => own,
        (Some(own), node) => Some(own.min(node)),
        (None, node) => Some(node),
    };
    let own = command.resources;
    ResourceLimits {
        cpu_s: lower(own.cpu_s, node.run_cpu_s_max),
        memory_bytes: lower(own.memory_bytes, node.run_memory_bytes_max),
        files: lower(own.files, node.run_files_max),
        processes: lower(own.processes, node.run_processes_max),
    }
}

async fn not_started(shared: &Shared, reason: String) -> AttemptEnd {
    shared.note_or_fail(json!({"event": "not_started", "reason": reason}).to_string()).await;
    let _stored = shared.flush().await;
    AttemptEnd::new(TaskState::Failed, reason)
}

impl Shared {
    async fn note_or_fail(&self, note: String) {
        if let Err(error) = self.note(note).await {
            self.fail(format!("its output can't be stored: {error}"));
        }
    }

    async fn flush(&self) -> standpipe_engine::Result<()> {
        if let Some((merged, _)) = &self.output.merged {
            merged.flush().await?;
        }
        self.output.own.flush().await.map(drop)
    }
}

/// Notes that wait to be appended, so that the loop does not have to.
#[derive(Default)]
struct Notes {
    /// At most the newest of each kind: an attempt that stalls again and again writes no more than its stream takes.
    waiting: Option<String>,
    writing: Option<BoxFuture<'static, ()>>,
}

impl Notes {
    /// Appends what waits; never returns while there is nothing.
    async fn write(&mut self, shared: &Arc<Shared>) {
        if self.writing.is_none()
            && let Some(note) = self.waiting.take()
        {
            let shared = shared.clone();
            self.writing = Some(async move { shared.note_or_fail(note).await }.boxed());
        }
        match &mut self.writing {
            Some(writing) => writing.await,
            None => std::future::pending().await,
        }
        self.writing = None;
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_none() && self.writing.is_none()
    }
}

/// Why it is ended by us.
#[derive(Clone, Debug)]
enum Cause {
    Told(Why),
    OutOfTime,
    Failed(String),
}

/// It is being ended: told so, killed when the grace is over, given up when that does not help.
#[derive(Debug)]
struct Ending {
    begun: Instant,
    kill_at: Instant,
    killed_at: Option<Instant>,
}

struct Life {
    grace: Duration,
    leak: Duration,
    timeout: Option<Instant>,
    stall: Option<Duration>,
    resources: ResourceLimits,
    pumps: JoinHandle<()>,
    /// All output has been appended.
    pumped: bool,
    feed: Fuse<BoxFuture<'static, ()>>,
    notes: Notes,
    exit: Option<Exit>,
    cause: Option<Cause>,
    ending: Option<Ending>,
    leak_at: Option<Instant>,
    leaked: bool,
    lost: bool,
    /// When somebody asked for the end, whatever it had come to by then.
    asked_at: Option<Instant>,
    /// When nothing of it was left.
    gone_at: Option<Instant>,
    shared: Arc<Shared>,
    child: Box<dyn Child>,
    events: mpsc::Sender<TaskEvent>,
    told: watch::Receiver<Option<Stop>>,
    closing: CancellationToken,
}

impl Life {
    async fn run(mut self) -> AttemptEnd {
        let (shared, events) = (self.shared.clone(), self.events.clone());
        let mut pass_on = std::pin::pin!(shared.pending.pass_on(&events));
        let mut look_at: Option<(Instant, Duration)> = None;
        loop {
            if self.looks() {
                let due = look_at.is_none_or(|(at, _)| at <= Instant::now());
                if due && self.settled() {
                    break;
                }
                if due {
                    let pause = look_at.map_or(LOOK, |(_, pause)| (pause * 2).min(LOOK_MAX));
                    look_at = Some((Instant::now() + pause, pause));
                }
            }
            if self.step(pass_on.as_mut(), look_at.map(|(at, _)| at)).await {
                look_at = None;
            }
        }
        self.end().await
    }

    /// Whether it is time to look for what is left: the main process is gone, or can't be killed.
    fn looks(&self) -> bool {
        let killed = self.ending.as_ref().is_some_and(|ending| ending.killed_at.is_some());
        killed || self.exit.is_some() && (self.pumped || self.ending.is_some())
    }

    /// Waits for one thing and does what it asks for; true when that begins a new part of the end.
    async fn step(&mut self, pass_on: Pin<&mut impl Future<Output = ()>>, look_at: Option<Instant>) -> bool {
        let never = Instant::now() + Duration::from_secs(24 * 3600);
        let at = |when: Option<Instant>| sleep_until(when.unwrap_or(never));
        let kill_at = self.ending.as_ref().filter(|ending| ending.killed_at.is_none()).map(|ending| ending.kill_at);
        let stall_at = self.stall.filter(|_| self.exit.is_none() && !self.shared.is_stalled());
        let stall_at = stall_at.map(|stall| self.shared.heard_at() + stall);
        let cause_is_open = self.cause.is_none() && self.exit.is_none();
        tokio::select! {
            biased;
            exit = self.child.exited(), if self.exit.is_none() => self.on_exit(exit),
            stop = next_stop(&mut self.told) => self.on_stop(stop),
            () = self.closing.cancelled(), if cause_is_open => self.stop(Cause::Told(Why::Interrupted), None),
            pumped = &mut self.pumps, if !self.pumped => self.on_pumped(pumped.is_ok()),
            () = failed(&self.shared), if cause_is_open => self.on_failed(),
            () = at(self.timeout), if cause_is_open && self.timeout.is_some() => self.stop(Cause::OutOfTime, None),
            () = at(kill_at), if kill_at.is_some() => self.kill(),
            () = at(self.leak_at), if self.leak_at.is_some() => self.on_leak(),
            () = at(stall_at), if stall_at.is_some() => self.on_silence(),
            () = self.shared.heard_again.notified() => false,
            () = at(look_at), if look_at.is_some() => false,
            () = self.notes.write(&self.shared) => false,
            () = &mut self.feed => false,
            () = pass_on => false,
        }
    }

    fn on_exit(&mut self, exit: Exit) -> bool {
        self.exit = Some(exit);
        if !self.pumped {
            self.leak_at = Some(Instant::now() + self.leak);
        }
        true
    }

    fn on_pumped(&mut self, well: bool) -> bool {
        if !well {
            self.shared.fail("internal error: its output is not complete".to_owned());
        }
        self.pumped = true;
        self.leak_at = None;
        true
    }

    /// A request to stop: the first one begins the end, a later one may shorten the grace.
    fn on_stop(&mut self, stop: Stop) -> bool {
        self.stop(Cause::Told(stop.why), stop.grace)
    }

    fn on_failed(&mut self) -> bool {
        let reason = self.shared.failure().unwrap_or_default().to_owned();
        self.stop(Cause::Failed(reason), None)
    }

    fn stop(&mut self, cause: Cause, grace: Option<Duration>) -> bool {
        self.asked_at.get_or_insert_with(Instant::now);
        // What ended by itself is not said to have been stopped.
        if self.exit.is_none() && self.cause.is_none() {
            self.cause = Some(cause);
            self.shared.pending.stopping();
        }
        self.begin_end(grace.unwrap_or(self.grace))
    }

    fn begin_end(&mut self, grace: Duration) -> bool {
        if let Some(ending) = &mut self.ending {
            ending.kill_at = ending.kill_at.min(ending.begun + grace);
            return false;
        }
        let begun = Instant::now();
        self.shared.hurry.cancel();
        self.child.tell(Told::Terminate);
        self.ending = Some(Ending { begun, kill_at: begun + grace, killed_at: None });
        true
    }

    fn kill(&mut self) -> bool {
        self.child.tell(Told::Kill);
        if let Some(ending) = &mut self.ending {
            ending.killed_at = Some(Instant::now());
        }
        true
    }

    /// A process has ended and its output has not. Either somebody holds it, or the stream is slow to take what is
    /// left; in both cases no more is read than was there by now.
    fn on_leak(&mut self) -> bool {
        self.leak_at = None;
        self.leaked = !self.shared.is_busy() || self.child.left() > 0;
        self.shared.closing.cancel();
        self.begin_end(self.grace)
    }

    fn on_silence(&mut self) -> bool {
        let stall = self.stall.unwrap_or_default();
        if self.shared.heard_at() + stall <= Instant::now() {
            self.shared.stalled();
            let silent_ms = u64::try_from(stall.as_millis()).unwrap_or(u64::MAX);
            self.notes.waiting = Some(json!({"event": "stalled", "silent_ms": silent_ms}).to_string());
        }
        false
    }

    /// Whether nothing is left. What is left begins to end, or is killed again, or is given up.
    fn settled(&mut self) -> bool {
        if self.exit.is_some() && self.child.left() == 0 {
            return self.pumped || self.gives_output_up();
        }
        let now = Instant::now();
        match self.ending.as_ref().map(|ending| ending.killed_at) {
            None => {
                self.begin_end(self.grace);
            }
            Some(Some(killed_at)) if now >= killed_at + Duration::from_millis(KILL_MS_MAX) => {
                self.lost = true;
                self.shared.closing.cancel();
                return self.pumped;
            }
            // What was forked while the others were killed.
            Some(Some(_)) => self.child.tell(Told::Kill),
            Some(None) => {}
        }
        false
    }

    /// Whether to wait no longer for output to be stored. Without a request to stop that is never.
    fn gives_output_up(&mut self) -> bool {
        let gone_at = *self.gone_at.get_or_insert_with(Instant::now);
        let Some(asked_at) = self.asked_at else { return false };
        let late = Instant::now() >= gone_at.max(asked_at) + Duration::from_millis(STORE_MS_MAX);
        if late {
            self.pumps.abort();
            self.shared.fail(NOT_STORED.to_owned());
        }
        late
    }

    /// Waits until all that was appended is committed.
    async fn store(&mut self) {
        let gave_up = self.shared.failure() == Some(NOT_STORED);
        let (shared, notes) = (self.shared.clone(), &mut self.notes);
        let stored = async {
            while !notes.is_empty() {
                notes.write(&shared).await;
            }
            shared.flush().await.map_err(|error| format!("its output can't be stored: {error}"))
        };
        let patience = async {
            if self.asked_at.is_none() && !gave_up {
                tokio::select! {
                    _stop = next_stop(&mut self.told) => {}
                    () = self.closing.cancelled() => {}
                }
            }
            if !gave_up {
                tokio::time::sleep(Duration::from_millis(STORE_MS_MAX)).await;
            }
        };
        let stored = tokio::select! {
            biased;
            stored = stored => stored,
            () = patience => Err(NOT_STORED.to_owned()),
        };
        if let Err(reason) = stored {
            self.shared.fail(reason);
        }
    }

    async fn end(mut self) -> AttemptEnd {
        self.store().await;
        let exit = self.exit.unwrap_or_default();
        let used = self.child.close();
        let (state, reason) = verdict(exit, self.cause, self.shared.failure(), self.lost, used, &self.resources);
        self.shared.pending.pass_on_now(&self.events);
        AttemptEnd {
            state,
            ended: Ended { exit_code: exit.code, signal: exit.signal, reason },
            usage: Usage {
                cpu_ms: used.cpu_ms,
                memory_bytes_max: used.memory_bytes_max,
                ..self.shared.pending.usage()
            },
            leaked: self.leaked,
            outputs: self.shared.pending.outputs(),
        }
    }
}

/// The reason when the end of the output is given up.
const NOT_STORED: &str = "the end of its output could not be stored: is the disk full?";

async fn failed(shared: &Shared) {
    shared.failed().await;
}

/// The next request to stop; never when nobody can make one any more.
async fn next_stop(told: &mut watch::Receiver<Option<Stop>>) -> Stop {
    loop {
        if told.changed().await.is_err() {
            return std::future::pending().await;
        }
        if let Some(stop) = *told.borrow_and_update() {
            return stop;
        }
    }
}

/// The state of what has ended so, and why where code and signal don't say it.
fn verdict(
    exit: Exit,
    cause: Option<Cause>,
    failure: Option<&str>,
    lost: bool,
    used: Used,
    resources: &ResourceLimits,
) -> (TaskState, Option<String>) {
    if lost {
        return (TaskState::Lost, Some("some of its processes could not be killed: see `ps`".to_owned()));
    }
    match (cause, failure) {
        (Some(Cause::Told(why)), failure) => (why.state(), failure.map(str::to_owned)),
        (Some(Cause::OutOfTime), _) => (TaskState::TimedOut, Some("it took longer than its timeout".to_owned())),
        (Some(Cause::Failed(reason)), _) => (TaskState::Failed, Some(reason)),
        (None, Some(reason)) => (TaskState::Failed, Some(reason.to_owned())),
        (None, None) if exit.code == Some(0) => (TaskState::Succeeded, None),
        (None, None) => (TaskState::Failed, own_fault(exit, used, resources)),
    }
}

/// Which limit a process ran into that was ended by the system.
fn own_fault(exit: Exit, used: Used, resources: &ResourceLimits) -> Option<String> {
    /// The same number on every Unix that counts processor time.
    const SIGXCPU: i32 = 24;
    if used.out_of_memory {
        let bytes = resources.memory_bytes.unwrap_or_default();
        return Some(format!("killed: it reached its memory limit of {bytes} bytes"));
    }
    let cpu_s = resources.cpu_s.filter(|_| exit.signal == Some(SIGXCPU))?;
    Some(format!("killed: it used its {cpu_s} s of processor time"))
}
