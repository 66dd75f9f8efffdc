//! Streams: append-only sequences of records mounted at paths, such as the output of a run. One environment,
//! one writer and one set of rings per data folder, beside the databases, so that output never delays
//! values.
//!
//! The promises, each with tests: a record is visible only when it is on disk; a crash leaves a prefix of what was
//! appended that holds all that was flushed, and opening needs no repair; every reader, whenever it comes, reads
//! the same records in the same order, and is told what is gone; a producer is held to the speed of the
//! disk, and nobody's queue grows.
//!
//! It judges nobody: who may read or append is the business of the doors, by the rules of a database.

mod appender;
mod chunk;
mod head;
mod live;
mod metrics;
mod queue;
mod room;
mod store;
mod watch;
mod writer;

use std::path::Path as FsPath;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
pub use standpipe_tree::Channel;
use standpipe_tree::Path;

pub use self::appender::Appender;
pub use self::chunk::{Chunk, FORMS, NewRecord};
pub use self::head::{Head, Outcome};
use self::live::{Hold, Lives};
use self::metrics::StreamMetrics;
pub use self::metrics::StreamStats;
use self::queue::{Command, Queue, stopped};
use self::store::{STREAMS_FOLDER, StreamStore};
pub use self::watch::{From, StreamRead, StreamWatch};
use self::writer::Writer;
use crate::config::{EngineConfig, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::store::StoreOptions;
use crate::writer::OnFatal;

/// The longest key of a producer's record, in bytes.
const RECORD_KEY_BYTES_MAX: usize = 1_024;
/// The largest value of a producer's record, in bytes: larger ones would hold up what shares their commit.
const RECORD_VALUE_BYTES_MAX: usize = 16 << 20;

/// The streams of one data folder.
pub struct Streams {
    config: Shared,
    store: Arc<StreamStore>,
    lives: Arc<Lives>,
    queue: Arc<Queue>,
    metrics: Arc<StreamMetrics>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").field("dir", &self.store.env().dir()).finish_non_exhaustive()
    }
}

impl Streams {
    /// Opens the streams of the data folder, whose lock the caller holds, and starts their writer.
    pub(crate) fn open(shared: Shared, on_fatal: OnFatal) -> Result<Arc<Self>> {
        let config = shared.load();
        let store = Arc::new(StreamStore::open(&config.dir, StoreOptions::of(&config))?);
        let lives = Arc::new(Lives::new(config.streams_queue_bytes_max));
        let queue = Arc::<Queue>::default();
        let metrics = Arc::<StreamMetrics>::default();
        let writer =
            Writer::new(store.clone(), lives.clone(), queue.clone(), metrics.clone(), shared.clone(), on_fatal);
        let thread = std::thread::Builder::new()
            .name("writer-streams".into())
            .spawn(move || writer.run())
            .map_err(|error| Error::unavailable("cannot start the writer thread of streams").with_cause(error))?;
        let thread = Mutex::new(Some(thread));
        Ok(Arc::new(Self { config: shared.clone(), store, lives, queue, metrics, thread }))
    }

    /// A new stream, open and empty.
    ///
    /// # Errors
    /// `Conflict` when there is one at `path`; `Unavailable` when nothing can be stored now.
    pub async fn create(&self, path: &Path) -> Result<Appender> {
        self.ask(Command::Create(path.clone())).await?;
        self.appender(path, false)
    }

    /// The appender of an open stream that nobody appends to, such as one that an earlier boot left open.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` where it has ended or somebody appends to it.
    #[expect(clippy::unused_async, reason = "a door must not depend on whether this asks the writer")]
    pub async fn reopen(&self, path: &Path) -> Result<Appender> {
        self.appender(path, true)
    }

    /// An appender of an open stream beside those there are.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` where it has ended.
    pub fn join(&self, path: &Path) -> Result<Appender> {
        self.appender(path, false)
    }

    fn appender(&self, path: &Path, alone: bool) -> Result<Appender> {
        let (stream, _) = self.hold(path)?;
        Appender::join(stream, self.queue.clone(), self.config.clone(), alone)
    }

    /// The stream in use, and its first kept record.
    fn hold(&self, path: &Path) -> Result<(Hold, u64)> {
        let mut first_seq = 0;
        let stream = self.lives.hold(path, || {
            let read = self.store.env().read_soon()?;
            let row = self.store.head(&read.txn, path)?;
            first_seq = row.as_ref().map_or(0, |row| row.head.first_seq);
            Ok(row)
        })?;
        Ok((stream, first_seq))
    }

    /// What is known of the stream at `path`; `None` where there is none.
    pub fn head(&self, path: &Path) -> Result<Option<Head>> {
        let read = self.store.env().read_soon()?;
        Ok(self.store.head(&read.txn, path)?.map(|row| row.head))
    }

    /// Up to `max` streams at or below `below` and behind `after`, in the order of paths.
    pub fn heads(&self, below: &Path, after: Option<&Path>, max: usize) -> Result<Vec<(Path, Head)>> {
        let read = self.store.env().read_soon()?;
        let heads = self.store.heads(&read.txn, below, after, max)?;
        Ok(heads.into_iter().map(|(path, row)| (path, row.head)).collect())
    }

    /// Counts up with each stream that is created, after its commit: for those who wait for one.
    pub fn created(&self) -> tokio::sync::watch::Receiver<u64> {
        self.lives.created.subscribe()
    }

    /// Starts reading a stream.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn watch(&self, path: &Path, from: From) -> Result<StreamWatch> {
        let (stream, first_seq) = self.hold(path)?;
        let seq_at = if let From::Offset(offset) = from { self.seq_at(path, offset)? } else { 0 };
        Ok(StreamWatch::new(stream, self.store.clone(), self.config.clone(), from, (first_seq, seq_at)))
    }

    fn seq_at(&self, path: &Path, offset: u64) -> Result<u64> {
        let read = self.store.env().read_soon()?;
        let row = self.store.head(&read.txn, path)?;
        row.map_or(Ok(0), |row| self.store.seq_at(&read.txn, &row, offset))
    }

    /// Removes streams, in one commit; paths without one are passed over. Who reads such a stream reads what is in
    /// memory, is told of the gap, and comes to the end; who appends to it is refused.
    ///
    /// # Errors
    /// `Unavailable` when nothing can be written now.
    pub async fn remove(&self, paths: Vec<Path>) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        self.ask(Command::Remove(paths)).await
    }

    /// Puts small durable records of producers, or removes them, in one commit. No client can write these.
    ///
    /// # Errors
    /// `BadRequest` for an empty or long key, `TooLarge` for a large value, `Unavailable` when nothing can be stored
    /// now.
    pub async fn put_records(&self, records: Vec<(String, Option<Vec<u8>>)>) -> Result<()> {
        let mut cost = 0;
        for (key, value) in &records {
            if key.is_empty() || key.len() > RECORD_KEY_BYTES_MAX {
                let message = format!("the key of a record has 1 to {RECORD_KEY_BYTES_MAX} bytes");
                return Err(Error::bad_request(message));
            }
            let len = value.as_ref().map_or(0, Vec::len);
            if len > RECORD_VALUE_BYTES_MAX {
                let message = format!("the record {key} has {len} bytes, the most is {RECORD_VALUE_BYTES_MAX}");
                return Err(Error::new(ErrorKind::TooLarge, message));
            }
            cost += key.len() + len;
        }
        if records.is_empty() {
            return Ok(());
        }
        let cost = cost.min(self.lives.room.share());
        let room = self.lives.room.reserve(cost).await.ok_or_else(stopped)?;
        let answer = self.push(Command::Put(records, cost))?;
        room.forget();
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// The value of a producer's record.
    pub fn record(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let read = self.store.env().read_soon()?;
        self.store.record(&read.txn, key)
    }

    /// Up to `max` producers' records whose keys begin with `prefix` and stand behind `after`, in the order of keys' bytes.
    pub fn records(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<(String, Vec<u8>)>> {
        let read = self.store.env().read_soon()?;
        self.store.records(&read.txn, prefix, after, max)
    }

    async fn ask(&self, command: Command) -> Result<()> {
        self.push(command)?.await.unwrap_or_else(|_| Err(stopped()))
    }

    fn push(&self, command: Command) -> Result<tokio::sync::oneshot::Receiver<Result<()>>> {
        self.queue.push(command, self.config.load().writer_queue_intents_max)
    }

    /// Figures for metrics.
    pub fn stats(&self) -> StreamStats {
        let (live, watchers) = self.lives.counts();
        let stats = StreamStats {
            live,
            watchers,
            queue_bytes: self.lives.room.taken(),
            ring_bytes: self.lives.ring_bytes.load(std::sync::atomic::Ordering::Relaxed),
            map_bytes: self.store.env().map_bytes(),
            used_bytes: self.store.env().used_bytes(),
            ..StreamStats::default()
        };
        stats.with_writer(&self.metrics)
    }

    /// Puts limits in force that are not read at each use.
    pub(crate) fn reload(&self) {
        self.lives.room.set(self.config.load().streams_queue_bytes_max);
    }

    /// Stops taking appends, commits what waits, and ends the writer. Blocks until that is done.
    pub fn close(&self) {
        self.queue.close();
        if let Some(thread) = self.thread.lock().take() {
            // A panic of the writer has been reported by its guard.
            let _reported = thread.join();
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.close();
    }
}

/// What verification found to be true.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamsVerified {
    /// Streams.
    pub streams: u64,
    /// Records kept of them.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Opens the streams of a data folder that nobody serves and reads everything: every chunk is what was written, no stream
/// has a hole, and its head says what there is. `None` where the folder has no streams.
///
/// # Errors
/// `Unavailable` when another process holds the folder; `Internal`, naming what is damaged.
pub fn verify_streams(dir: &FsPath) -> Result<Option<StreamsVerified>> {
    let _lock = crate::engine::lock(dir)?;
    if !dir.join(STREAMS_FOLDER).join("data.mdb").is_file() {
        return Ok(None);
    }
    let store = StreamStore::open(dir, StoreOptions::of(&EngineConfig::new(dir)))?;
    let read = store.env().read_soon()?;
    store.verify(&read.txn).map(Some)
}
