//! What is there once, beside the processes: it reaps orphans as they end, and keeps the guard alive.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::pipe::PipeFlags;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::program::{self, Texts};
use super::sys::{self, Failure, Program, Stage};
use super::thread::{self, Made, Started};
use super::{LaunchError, pipes};
use crate::guard::GuardProgram;
use crate::supervise::launch::Spec;

/// Orphans that end within this time are reaped together.
const REAP_EVERY: Duration = Duration::from_millis(50);
/// Pause before a guard that died is replaced.
const GUARD_PAUSE: Duration = Duration::from_millis(250);
/// Time for the guard to end when it is let go; it has nothing to kill then.
const GUARD_END: Duration = Duration::from_secs(5);

/// The keeper's task, and its end.
#[derive(Debug)]
pub(super) struct Keeper {
    closing: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Keeper {
    /// Starts it, with a guard if there is to be one.
    pub(super) async fn start(guard: Option<GuardProgram>, mark: String, group: Option<PathBuf>) -> Self {
        let closing = CancellationToken::new();
        let mut guards = Guards { program: guard, mark, group, guard: None };
        guards.start().await;
        let ended = signal(SignalKind::child());
        let task = tokio::spawn(keep(ended.ok(), guards, closing.clone()));
        Self { closing, task: Mutex::new(Some(task)) }
    }

    /// Lets the guard go and reaps what is left to reap.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        if let Some(task) = self.task.lock().await.take() {
            let _ended = task.await;
        }
    }
}

async fn keep(mut ended: Option<Signal>, mut guards: Guards, closing: CancellationToken) {
    loop {
        tokio::select! {
            () = closing.cancelled() => break,
            () = guards.died() => {
                tracing::info!("the guard of the processes has died; another one takes its place");
                tokio::time::sleep(GUARD_PAUSE).await;
                guards.start().await;
            }
            () = child_ended(&mut ended) => {
                tokio::time::sleep(REAP_EVERY).await;
                thread::reap();
            }
        }
    }
    guards.close().await;
    thread::reap();
}

async fn child_ended(ended: &mut Option<Signal>) {
    match ended {
        Some(ended) => drop(ended.recv().await),
        None => std::future::pending().await,
    }
}

/// The guard, and how to start it.
struct Guards {
    program: Option<GuardProgram>,
    mark: String,
    group: Option<PathBuf>,
    guard: Option<Guard>,
}

struct Guard {
    started: Started,
    pidfd: AsyncFd<OwnedFd>,
    /// While this is open the guard does nothing.
    alive: Option<OwnedFd>,
}

impl Guards {
    async fn start(&mut self) {
        let Some(program) = &self.program else { return };
        match spawn(program, &self.mark, self.group.as_deref()).await {
            Ok(guard) => self.guard = Some(guard),
            Err(error) => {
                self.guard = None;
                tracing::warn!(%error, "no guard: should this server be killed, processes may live on until its next start");
            }
        }
    }

    /// Waits until it has ended, which it should not; for ever where there is none.
    async fn died(&mut self) {
        let Some(guard) = &mut self.guard else { return std::future::pending().await };
        while guard.started.wait().is_none() {
            match guard.pidfd.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => std::future::pending().await,
            }
        }
        self.guard = None;
    }

    /// Lets it go; it is killed when it takes too long.
    async fn close(&mut self) {
        if let Some(guard) = &mut self.guard {
            guard.alive = None;
            let _late = tokio::time::timeout(GUARD_END, self.died()).await;
        }
    }
}

async fn spawn(program: &GuardProgram, mark: &str, group: Option<&std::path::Path>) -> Result<Guard, LaunchError> {
    let argv = program.arguments(mark, group);
    let spec = Spec { argv, cwd: Some(PathBuf::from("/")), ..Spec::default() };
    let texts = program::texts(&spec, ("STANDPIPE_GUARD", "1"))?;
    let explain = |failure: Failure| program::explain(&spec, &failure);
    let setup = |error: std::io::Error| explain(Failure { stage: Stage::Setup, error });
    let (dead_end, alive) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| setup(error.into()))?;
    let nothing = pipes::nothing().map_err(setup)?;
    let making = thread::launch(move || make(texts, &dead_end, &nothing));
    let (mut started, ()) = making.await.map_err(explain)?;
    let pidfd = started.watch().map_err(setup)?;
    Ok(Guard { started, pidfd, alive: Some(alive) })
}

fn make(texts: Texts, alive: &OwnedFd, nothing: &OwnedFd) -> Result<(Made, ()), Failure> {
    let program = Program {
        paths: texts.paths,
        argv: texts.argv,
        env: texts.env,
        cwd: texts.cwd,
        stdio: [alive.as_fd(), nothing.as_fd(), nothing.as_fd()],
        terminal: None,
        limits: Vec::new(),
        groups: Vec::new(),
        dies_with_us: false,
    };
    let (pid, pidfd) = sys::spawn(&program)?;
    Ok((Made { pid, pidfd, group: None }, ()))
}
