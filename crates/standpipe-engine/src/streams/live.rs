//! A stream that somebody appends to or watches: what waits to be committed, the ring of the newest committed
//! chunks, and those that watchers further behind have read back. All of it is gone with the last who holds it; the store has what is true.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use standpipe_tree::Path;
use tokio::sync::{Notify, Semaphore, watch};

use super::chunk::{Chunk, ChunkBuilder, NewRecord};
use super::head::{HeadRow, Outcome};
use super::room::Room;
use crate::config::EngineConfig;
use crate::error::{Error, ErrorKind, Result};

/// What has been handed over and is not committed.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    chunks: VecDeque<Arc<Chunk>>,
    builder: Option<ChunkBuilder>,
    /// The number that the builder's first record gets.
    builder_seq: u64,
    /// Bytes of output before the builder's.
    offset: u64,
    /// The number that the next record gets.
    next_seq: u64,
    /// When the last was handed over.
    now_ms: u64,
    /// Permits of rooms that are to be given back with the next take.
    cost: usize,
    ending: Option<Outcome>,
    /// Has it been asked to end, or has it ended?
    closed: bool,
    /// Is it in the writer's queue?
    queued: bool,
    appenders: usize,
}

/// What the writer takes of a stream for one commit.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) chunks: Vec<Arc<Chunk>>,
    pub(crate) ending: Option<Outcome>,
    pub(crate) cost: usize,
    pub(crate) bytes: usize,
    /// Is there more?
    pub(crate) more: bool,
}

/// The newest committed chunks.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    chunks: VecDeque<Arc<Chunk>>,
    bytes: usize,
    committed: u64,
    ended: Option<Outcome>,
    watchers: usize,
}

/// Chunks that have been read back from the store, for watchers that are behind at about the same place: so that they
/// share the reading and the forms that doors make.
#[derive(Debug, Default)]
struct ReadBack {
    chunks: BTreeMap<u64, Arc<Chunk>>,
    /// In the order they were read.
    order: VecDeque<u64>,
    bytes: usize,
}

/// What a cursor meets in the ring.
#[derive(Debug)]
pub(crate) enum Met {
    Chunk(Arc<Chunk>),
    Ended(Outcome),
    Nothing,
    Behind,
}

/// Bounds of rings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingLimits {
    bytes_max: usize,
    all_bytes_max: usize,
}

impl RingLimits {
    pub(crate) fn of(config: &EngineConfig) -> Self {
        Self { bytes_max: config.stream_ring_bytes_max, all_bytes_max: config.streams_ring_bytes_max }
    }

    /// What one stream may keep, while `all` keep so much.
    fn bytes_max(self, all: &AtomicUsize) -> usize {
        if all.load(Ordering::Relaxed) > self.all_bytes_max { 0 } else { self.bytes_max }
    }
}

/// One stream in use.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) path: Path,
    pub(crate) id: u64,
    pending: Mutex<Pending>,
    ring: Mutex<Ring>,
    read_back: Mutex<ReadBack>,
    /// A commit has been published.
    pub(crate) news: Notify,
    /// Its share of the room for what waits, in bytes.
    pub(crate) room: Semaphore,
}

impl Live {
    fn new(path: Path, row: HeadRow, share: usize) -> Self {
        let HeadRow { id, head, .. } = row;
        Self {
            path,
            id,
            pending: Mutex::new(Pending {
                builder_seq: head.next_seq,
                offset: head.out_bytes,
                next_seq: head.next_seq,
                closed: head.ended.is_some(),
                ..Pending::default()
            }),
            ring: Mutex::new(Ring { committed: head.next_seq, ended: head.ended, ..Ring::default() }),
            read_back: Mutex::default(),
            news: Notify::new(),
            room: Semaphore::new(share),
        }
    }

    /// Takes records, whose `cost` has been reserved. Says whether the writer is to be told of the stream.
    pub(crate) fn push(&self, records: &[NewRecord], cost: usize, now_ms: u64) -> Result<bool> {
        let mut pending = self.pending.lock();
        if pending.closed {
            return Err(self.closed());
        }
        pending.now_ms = now_ms;
        for record in records {
            if pending.builder.as_ref().is_some_and(|builder| !builder.fits(record.bytes.len())) {
                pending.finish_chunk();
            }
            let builder = pending.builder.get_or_insert_with(|| ChunkBuilder::with_room(cost));
            builder.push(record.channel, record.at_ms, &record.bytes);
            pending.next_seq += 1;
        }
        pending.cost += cost;
        Ok(!std::mem::replace(&mut pending.queued, true))
    }

    /// Takes the end. Says whether the writer is to be told of the stream.
    pub(crate) fn end(&self, outcome: Outcome) -> Result<bool> {
        let mut pending = self.pending.lock();
        if pending.closed {
            return Err(self.closed());
        }
        pending.closed = true;
        pending.ending = Some(outcome);
        Ok(!std::mem::replace(&mut pending.queued, true))
    }

    fn closed(&self) -> Error {
        let ended = self.ring.lock().ended.clone();
        match ended {
            Some(outcome) => ended_already(&self.path, &outcome.state),
            None => ended_already(&self.path, "closing"),
        }
    }

    /// The number that the next record gets that is handed over.
    pub(crate) fn handed_over(&self) -> u64 {
        self.pending.lock().next_seq
    }

    /// Takes about `bytes_max` of what waits.
    pub(crate) fn take(&self, bytes_max: usize) -> Part {
        let mut pending = self.pending.lock();
        let (mut chunks, mut bytes) = (Vec::new(), 0);
        while bytes < bytes_max {
            if pending.chunks.is_empty() {
                pending.finish_chunk();
            }
            let Some(chunk) = pending.chunks.pop_front() else { break };
            bytes += chunk.as_bytes().len();
            chunks.push(chunk);
        }
        let more = !pending.chunks.is_empty() || pending.builder.is_some();
        pending.queued = more;
        // What is left waits on; its permits are an estimate until the last of it is taken.
        let cost = if more { bytes.min(pending.cost) } else { pending.cost };
        pending.cost -= cost;
        let ending = if more { None } else { pending.ending.take() };
        Part { chunks, ending, cost, bytes, more }
    }

    /// Another who appends. `alone`: only where nobody does.
    pub(crate) fn join(&self, alone: bool) -> Result<()> {
        let mut pending = self.pending.lock();
        if pending.closed {
            return Err(self.closed());
        }
        if alone && pending.appenders > 0 {
            let message = format!("somebody appends to the stream {} already", self.path);
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        pending.appenders += 1;
        Ok(())
    }

    pub(crate) fn leave(&self) {
        self.pending.lock().appenders -= 1;
    }

    /// A new watcher; the number of the record after the last committed one.
    pub(crate) fn attach(&self) -> u64 {
        let mut ring = self.ring.lock();
        ring.watchers += 1;
        ring.committed
    }

    /// A watcher less; without any, there is no ring.
    pub(crate) fn detach(&self, all: &AtomicUsize) {
        let mut ring = self.ring.lock();
        ring.watchers -= 1;
        if ring.watchers == 0 {
            ring.clear(all);
            self.read_back.lock().trim(0, all);
        }
    }

    /// The chunk that holds record `seq`, if somebody has just read it back.
    pub(crate) fn read_back(&self, seq: u64) -> Option<Arc<Chunk>> {
        let read_back = self.read_back.lock();
        let (_, chunk) = read_back.chunks.range(..=seq).next_back()?;
        (chunk.next_seq() > seq).then(|| chunk.clone())
    }

    /// Keeps a chunk that has been read back; the one to use is another's, if that came first.
    pub(crate) fn keep_read(&self, chunk: Chunk, limits: RingLimits, all: &AtomicUsize) -> Arc<Chunk> {
        let mut read_back = self.read_back.lock();
        // A chunk that has grown in the store since is another one.
        if let Some(known) = read_back.chunks.get(&chunk.first_seq())
            && known.next_seq() == chunk.next_seq()
        {
            return known.clone();
        }
        let chunk = Arc::new(chunk);
        read_back.push(chunk.clone(), all);
        read_back.trim(limits.bytes_max(all), all);
        chunk
    }

    /// What is at `seq`.
    pub(crate) fn read(&self, seq: u64) -> Met {
        let ring = self.ring.lock();
        if seq >= ring.committed {
            return ring.ended.clone().map_or(Met::Nothing, Met::Ended);
        }
        let after = ring.chunks.partition_point(|chunk| chunk.next_seq() <= seq);
        match ring.chunks.get(after) {
            Some(chunk) if chunk.first_seq() <= seq => Met::Chunk(chunk.clone()),
            _ => Met::Behind,
        }
    }

    /// Is there something to read at `seq`?
    pub(crate) fn has_news(&self, seq: u64) -> bool {
        let ring = self.ring.lock();
        seq < ring.committed || ring.ended.is_some()
    }

    /// The number of the next record, as committed, and the end.
    pub(crate) fn committed(&self) -> (u64, Option<Outcome>) {
        let ring = self.ring.lock();
        (ring.committed, ring.ended.clone())
    }

    /// Shows what has been committed.
    pub(crate) fn publish(&self, part: &Part, limits: RingLimits, all: &AtomicUsize) {
        let mut ring = self.ring.lock();
        if let Some(last) = part.chunks.last() {
            ring.committed = last.next_seq();
        }
        if ring.watchers > 0 {
            part.chunks.iter().for_each(|chunk| ring.push(chunk.clone(), all));
            ring.trim(limits.bytes_max(all), all);
        }
        if part.ending.is_some() {
            ring.ended.clone_from(&part.ending);
        }
        drop(ring);
        self.news.notify_waiters();
    }

    /// The stream is gone: whoever reads it comes to an end.
    pub(crate) fn removed(&self) {
        self.pending.lock().closed = true;
        self.ring.lock().ended.get_or_insert_with(|| Outcome::of(REMOVED));
        self.news.notify_waiters();
    }
}

/// The state of a stream's end for those who read or append while it is removed.
pub(crate) const REMOVED: &str = "removed";

impl Pending {
    fn finish_chunk(&mut self) {
        if let Some(builder) = self.builder.take() {
            let output = builder.output();
            self.chunks.push_back(Arc::new(builder.finish(self.builder_seq, self.offset, self.now_ms)));
            self.offset += output;
        }
        self.builder_seq = self.next_seq;
    }
}

impl Ring {
    fn push(&mut self, chunk: Arc<Chunk>, all: &AtomicUsize) {
        self.bytes += chunk.cost();
        all.fetch_add(chunk.cost(), Ordering::Relaxed);
        self.chunks.push_back(chunk);
    }

    /// Drops the oldest chunks; the newest stays.
    fn trim(&mut self, bytes_max: usize, all: &AtomicUsize) {
        while self.bytes > bytes_max && self.chunks.len() > 1 {
            self.pop(all);
        }
    }

    fn clear(&mut self, all: &AtomicUsize) {
        while !self.chunks.is_empty() {
            self.pop(all);
        }
        self.chunks = VecDeque::new();
    }

    fn pop(&mut self, all: &AtomicUsize) {
        if let Some(chunk) = self.chunks.pop_front() {
            self.bytes -= chunk.cost();
            all.fetch_sub(chunk.cost(), Ordering::Relaxed);
        }
    }
}

impl ReadBack {
    fn push(&mut self, chunk: Arc<Chunk>, all: &AtomicUsize) {
        let (seq, cost) = (chunk.first_seq(), chunk.cost());
        match self.chunks.insert(seq, chunk) {
            Some(before) => self.forget(&before, all),
            None => self.order.push_back(seq),
        }
        self.bytes += cost;
        all.fetch_add(cost, Ordering::Relaxed);
    }

    fn trim(&mut self, bytes_max: usize, all: &AtomicUsize) {
        while self.bytes > bytes_max
            && let Some(seq) = self.order.pop_front()
        {
            if let Some(chunk) = self.chunks.remove(&seq) {
                self.forget(&chunk, all);
            }
        }
    }

    fn forget(&mut self, chunk: &Chunk, all: &AtomicUsize) {
        self.bytes -= chunk.cost();
        all.fetch_sub(chunk.cost(), Ordering::Relaxed);
    }
}

fn ended_already(path: &Path, state: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("the stream {path} has ended ({state}); nothing can be appended to it"))
}

/// All streams in use, by path.
#[derive(Debug)]
pub(crate) struct Lives {
    lives: Mutex<HashMap<Path, Arc<Live>>>,
    /// Bytes of all rings.
    pub(crate) ring_bytes: AtomicUsize,
    /// For what waits to be committed.
    pub(crate) room: Room,
    /// Streams created since the start.
    pub(crate) created: watch::Sender<u64>,
    stopped: AtomicBool,
}

impl Lives {
    pub(crate) fn new(queue_bytes_max: usize) -> Self {
        Self {
            lives: Mutex::default(),
            ring_bytes: AtomicUsize::new(0),
            room: Room::new(queue_bytes_max),
            created: watch::Sender::new(0),
            stopped: AtomicBool::new(false),
        }
    }

    /// The stream at `path` as `row` reads it in the store. The row is read under the lock, so that nobody can have
    /// appended and gone between the reading and the use.
    pub(crate) fn hold(self: &Arc<Self>, path: &Path, row: impl FnOnce() -> Result<Option<HeadRow>>) -> Result<Hold> {
        let mut lives = self.lives.lock();
        let row = row()?.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no stream {path}")))?;
        // A removed stream may be here still, for those who hold it.
        let live = match lives.get(path) {
            Some(live) if live.id == row.id => live.clone(),
            _ => {
                let live = Arc::new(Live::new(path.clone(), row, self.room.share()));
                lives.insert(path.clone(), live.clone());
                live
            }
        };
        Ok(Hold { live: Some(live), lives: self.clone() })
    }

    /// Stream `id` at `path` is removed.
    pub(crate) fn removed(&self, path: &Path, id: u64) {
        let mut lives = self.lives.lock();
        let live = match lives.get(path) {
            Some(live) if live.id == id => lives.remove(path),
            _ => None,
        };
        drop(lives);
        if let Some(live) = live {
            live.removed();
        }
    }

    /// There will be no more commits: whoever waits for one is told.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.room.close();
        for live in self.lives.lock().values() {
            live.room.close();
            live.news.notify_waiters();
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Streams in use, and those who watch them.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let lives = self.lives.lock();
        (lives.len(), lives.values().map(|live| live.ring.lock().watchers).sum())
    }

    fn release(&self, live: Arc<Live>) {
        let (path, ours) = (live.path.clone(), Arc::as_ptr(&live));
        let mut lives = self.lives.lock();
        drop(live);
        // Nobody can get another one without the lock.
        let last = lives.get(&path).is_some_and(|live| Arc::as_ptr(live) == ours && Arc::strong_count(live) == 1);
        let unused = if last { lives.remove(&path) } else { None };
        drop(lives);
        drop(unused);
    }
}

/// A stream in use; the last one that is dropped takes it out of use.
#[derive(Debug)]
pub(crate) struct Hold {
    live: Option<Arc<Live>>,
    lives: Arc<Lives>,
}

impl Hold {
    pub(crate) fn lives(&self) -> &Arc<Lives> {
        &self.lives
    }
}

impl Clone for Hold {
    fn clone(&self) -> Self {
        Self { live: self.live.clone(), lives: self.lives.clone() }
    }
}

impl std::ops::Deref for Hold {
    type Target = Live;

    fn deref(&self) -> &Live {
        self.live.as_deref().expect("it is taken only by drop")
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(live) = self.live.take() {
            self.lives.release(live);
        }
    }
}
