//! The node's end: who asks for it, which tasks hear of it when, and how tasks are spawned so that
//! none is forgotten. `server.rs` walks the steps; engine and logs are the binary's to close after.

use std::future::Future;
use std::sync::Arc;

use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the failure (the panic) of a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It is logged; the node goes on.
    Log,
    /// It is logged and the node is asked to stop: without this task it would not be whole.
    StopNode,
}

/// What the node's stop does to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnShutdown {
    /// It is waited for, until the drain time is over.
    Wait,
    /// It is dropped at once.
    Abort,
}

/// A task's name and its part in failure and shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskKind {
    /// For the log.
    pub name: &'static str,
    /// What its failure does.
    pub on_failure: OnFailure,
    /// What shutdown does.
    pub on_shutdown: OnShutdown,
}

/// How the node stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Whether every connection, task and worker ended by itself in time.
    pub clean: bool,
}

/// The node's end; a handle that is cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    requested: CancellationToken,
    /// No more connections; tasks of kind `Abort` end.
    stopping: CancellationToken,
    /// The drain time is over, or somebody has no patience.
    abort: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    pub(crate) fn new(tasks: TaskTracker) -> Self {
        Self(Arc::new(Inner {
            requested: CancellationToken::new(),
            stopping: CancellationToken::new(),
            abort: CancellationToken::new(),
            tasks,
        }))
    }

    /// Asks the node to stop; who waits for [`Shutdown::requested`] does it.
    pub fn request(&self) {
        self.0.requested.cancel();
    }

    /// Resolves when somebody asked the node to stop.
    pub async fn requested(&self) {
        self.0.requested.cancelled().await;
    }

    /// Resolves when the node stops, before connections are told.
    pub async fn stopping(&self) {
        self.0.stopping.cancelled().await;
    }

    /// Ends the drain now; for the second signal.
    pub fn abort(&self) {
        self.0.abort.cancel();
    }

    /// Spawns a task on the current runtime; it is counted, and `kind` says what failure and
    /// shutdown do.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn spawn(&self, kind: TaskKind, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let Inner { stopping, abort, .. } = &*self.0;
        let end = if kind.on_shutdown == OnShutdown::Abort { stopping } else { abort }.clone();
        let failure = Failure { kind, shutdown: self.clone() };
        self.0.tasks.spawn(async move {
            let _failure = failure;
            tokio::select! {
                biased;
                () = end.cancelled() => {}
                () = task => {}
            }
        })
    }

    /// Spawns a task that is waited for and ends, at the latest, with its runtime. Connections are
    /// such: they need no token of their own to be aborted.
    pub(crate) fn spawn_with_runtime(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.0.tasks.spawn(task).abort_handle()
    }

    pub(crate) fn stop_accepting(&self) {
        self.0.requested.cancel();
        self.0.stopping.cancel();
    }

    /// Resolves with true when all tasks have ended, with false when the drain was aborted first.
    pub(crate) async fn drained(&self) -> bool {
        self.0.tasks.close();
        tokio::select! {
            biased;
            () = self.0.tasks.wait() => true,
            () = self.0.abort.cancelled() => false,
        }
    }
}

/// Dropped by a panic it does what the kind says.
struct Failure {
    kind: TaskKind,
    shutdown: Shutdown,
}

impl Drop for Failure {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.kind.name, "task panicked");
            if self.kind.on_failure == OnFailure::StopNode {
                self.shutdown.request();
            }
        }
    }
}
