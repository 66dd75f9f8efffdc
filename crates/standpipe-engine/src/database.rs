//! One database: one tree, one writer, one revision counter. The handle doors hold: snapshots,
//! writes, watches. It knows no session, status code or socket.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::Mutex;
use standpipe_tree::{Path, PushIds};
use tokio::sync::oneshot;

use crate::config::{Durability, EngineConfig, Shared};
use crate::engine::folder_name;
use crate::error::{Error, ErrorKind, Result};
use crate::hub::Hub;
use crate::intent::{Committed, Intent};
use crate::lease::{Lease, LeaseId};
use crate::log::Log;
use crate::metrics::{DatabaseStats, WriterMetrics};
use crate::queue::{Queue, Queued};
use crate::store::{Snapshot, Store, StoreOptions, Unsynced};
use crate::watch::Watch;
use crate::writer::{OnFatal, Writer};

/// An open database.
pub struct Database {
    name: String,
    config: Shared,
    store: Arc<Store>,
    hub: Arc<Hub>,
    queue: Arc<Queue>,
    metrics: Arc<WriterMetrics>,
    boot: u64,
    leases: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Database {
    /// Opens the database in `config.dir/name` and starts its writer on `log`. Most callers want
    /// [`crate::Engine::database`]; tests of shared logs come here.
    pub fn open(name: &str, config: &EngineConfig, log: Box<dyn Log>, on_fatal: OnFatal) -> Result<Arc<Self>> {
        Self::open_shared(name, config.clone().shared(), log, on_fatal)
    }

    /// As [`Database::open`], with settings that may change.
    pub(crate) fn open_shared(
        name: &str,
        shared: Shared,
        mut log: Box<dyn Log>,
        on_fatal: OnFatal,
    ) -> Result<Arc<Self>> {
        let config = shared.load();
        let store = Arc::new(Store::open(&config.dir.join(folder_name(name)), StoreOptions::of(&config))?);
        let rev = store.try_snapshot()?.map_or(0, |snapshot| snapshot.rev());
        let hub = Arc::new(Hub::new(rev));
        let queue = Arc::<Queue>::default();
        let metrics = Arc::<WriterMetrics>::default();
        let wake = queue.clone();
        log.follow(Box::new(move || wake.wake()));
        let mut writer = Writer {
            store: store.clone(),
            log,
            hub: hub.clone(),
            queue: queue.clone(),
            metrics: metrics.clone(),
            config: shared.clone(),
            on_fatal,
            push_ids: PushIds::default(),
            unsynced: Unsynced::default(),
            owed: Vec::new(),
            owed_at: Instant::now(),
        };
        writer.release_stored()?;
        if let Some(text) = &config.rules_at_open {
            writer.put_rules(text)?;
        }
        let thread = std::thread::Builder::new()
            .name(format!("writer-{name}"))
            .spawn(move || writer.run())
            .map_err(|error| Error::unavailable("cannot start the database's writer thread").with_cause(error))?;
        Ok(Arc::new(Self {
            name: name.to_owned(),
            config: shared.clone(),
            store,
            hub,
            queue,
            metrics,
            boot: u64::from_ne_bytes(crate::random::bytes()),
            leases: AtomicU64::new(0),
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// The database's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The engine's settings now in force; not to be kept over an await.
    pub fn config(&self) -> impl Deref<Target = Arc<EngineConfig>> {
        self.config.load()
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// A consistent view of the newest committed revision. Waits only while the map grows.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        self.store.snapshot().await
    }

    /// As [`Database::snapshot`], without waiting: `None` while the map grows.
    pub fn snapshot_now(&self) -> Result<Option<Snapshot>> {
        self.store.try_snapshot()
    }

    /// As [`Database::snapshot`], for threads outside a runtime: `Unavailable` while the map grows.
    pub fn try_snapshot(&self) -> Result<Snapshot> {
        self.store.try_snapshot()?.ok_or_else(|| Error::unavailable("the store is growing; try again"))
    }

    /// Hands an intent to the writer. The answer comes when its commit is durable and visible.
    ///
    /// # Errors
    /// `Overloaded` when the queue is full, `Unavailable` when the database is closing.
    pub fn submit(&self, intent: Intent, deadline: Instant) -> Result<oneshot::Receiver<Result<Committed>>> {
        let (reply, answer) = oneshot::channel();
        let bytes = intent.bytes();
        if intent.lease.as_ref().is_some_and(|lease| !lease.is_on(&self.queue)) {
            return Err(Error::new(ErrorKind::Internal, "the lease is another database's"));
        }
        let config = self.config.load();
        let bounds = (config.writer_queue_intents_max, config.writer_queue_bytes_max);
        self.queue.push(Queued { intent, bytes, deadline, reply }, bounds)?;
        Ok(answer)
    }

    /// [`Database::submit`], and waits for the answer.
    pub async fn write(&self, intent: Intent, deadline: Instant) -> Result<Committed> {
        self.submit(intent, deadline)?.await.unwrap_or_else(|_| Err(writer_gone()))
    }

    /// [`Database::write`] for threads outside a runtime.
    pub fn write_blocking(&self, intent: Intent, deadline: Instant) -> Result<Committed> {
        self.submit(intent, deadline)?.blocking_recv().unwrap_or_else(|_| Err(writer_gone()))
    }

    /// A new lease, with nothing armed: for the writes of one connection that are to be undone when
    /// it goes. Costs nothing until a write is tied to it.
    pub fn lease(&self) -> Lease {
        let number = self.leases.fetch_add(1, Ordering::Relaxed);
        Lease::new(LeaseId::new(self.boot, number), self.queue.clone())
    }

    /// Is this one of this database's leases?
    pub fn has_lease(&self, lease: &Lease) -> bool {
        lease.is_on(&self.queue)
    }

    /// Waits until revision `rev` is committed here.
    ///
    /// # Errors
    /// `Deadline` when it is not by then.
    pub async fn at_least(&self, rev: u64, deadline: Instant) -> Result<()> {
        let mut revisions = self.hub.revisions();
        let reached = revisions.wait_for(|current| *current >= rev);
        match tokio::time::timeout_at(deadline.into(), reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(writer_gone()),
            Err(_) => Err(Error::new(ErrorKind::Deadline, format!("revision {rev} was not reached in time"))),
        }
    }

    /// Starts watching `path`: takes the cursor. Open a snapshot next, then
    /// [`Watch::start_after`] its revision.
    pub fn watch(self: &Arc<Self>, path: &Path) -> Watch {
        Watch::new(self.clone(), path)
    }

    /// The committed revision.
    pub fn rev(&self) -> u64 {
        self.hub.published()
    }

    /// Figures for metrics.
    pub fn stats(&self) -> DatabaseStats {
        let (queue_intents, queue_bytes) = self.queue.depth();
        let stats = DatabaseStats {
            rev: self.rev(),
            queue_intents,
            queue_bytes,
            topics: self.hub.topic_count(),
            map_bytes: self.store.env().map_bytes(),
            used_bytes: self.store.env().used_bytes(),
            synced: self.config.load().durability == Durability::Commit,
            ..DatabaseStats::default()
        };
        stats.with_writer(&self.metrics)
    }

    /// Stops taking writes, commits what waits, and ends the writer. Blocks until that is done.
    pub fn close(&self) {
        self.queue.close();
        if let Some(thread) = self.thread.lock().take() {
            // A panic of the writer has been reported by its guard.
            let _reported = thread.join();
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.close();
    }
}

fn writer_gone() -> Error {
    Error::unavailable("the database has stopped")
}
