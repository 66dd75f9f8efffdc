//! Scenarios of the whole crate: jobs through a session, connections through a server. The rules
//! of single parts are tested beside them.

mod crowds;
mod jobs;
mod limits_page;
mod pool;
mod reload;
mod server;
mod tls;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::core::Core;
use crate::{Limits, Origin, Peer, Session};

/// Longer than anything here takes; a test that waits so long has failed.
const LIMIT: Duration = Duration::from_secs(20);

/// Waits for `future`, with a limit.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("it takes too long")
}

/// Waits until `holds`, with a limit.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let ticks = async {
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        while !holds() {
            tick.tick().await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, ticks).await.is_ok(), "never: {what}");
}

/// A core without event loops, and sessions on it.
pub(crate) struct Bench {
    pub(crate) core: Arc<Core>,
}

impl Bench {
    pub(crate) fn new(limits: Limits) -> Self {
        limits.check().unwrap();
        let core = Core::new(Arc::new(ArcSwap::from_pointee(limits)));
        // Ends with the test's runtime.
        tokio::spawn(core.pool.clone().watch());
        Self { core }
    }

    pub(crate) fn session(&self) -> Session {
        let door = self.core.metrics.door("bench");
        let origin = Origin { session: self.core.next_session(), peer: Peer::Local, door: "bench" };
        Session::new(self.core.clone(), door, origin, true)
    }

    /// A session that is entered, and its task, which never ends by itself.
    pub(crate) fn entered(&self) -> (Session, tokio::task::JoinHandle<()>) {
        let session = self.session();
        let task = tokio::spawn(std::future::pending());
        self.core.registry.enter(session.clone(), task.abort_handle());
        (session, task)
    }

    pub(crate) async fn end(self) {
        self.core.pool.stop();
        assert!(self.core.pool.join(LIMIT).await, "a worker is stuck");
    }
}

/// Holds jobs back until told; jobs wait in it, as they would in LMDB.
#[derive(Clone)]
pub(crate) struct Gate {
    entered: Arc<AtomicUsize>,
    open: mpsc::SyncSender<()>,
    wait: Arc<parking_lot::Mutex<mpsc::Receiver<()>>>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        let (open, wait) = mpsc::sync_channel(1_000);
        Self { entered: Arc::default(), open, wait: Arc::new(parking_lot::Mutex::new(wait)) }
    }

    /// For a job: waits for a turn of [`Gate::release`].
    pub(crate) fn pass(&self) {
        self.entered.fetch_add(1, Ordering::SeqCst);
        self.wait.lock().recv_timeout(LIMIT).expect("the test releases what it holds");
    }

    pub(crate) fn entered(&self) -> usize {
        self.entered.load(Ordering::SeqCst)
    }

    pub(crate) fn release(&self, count: usize) {
        (0..count).for_each(|_| self.open.send(()).unwrap());
    }
}
