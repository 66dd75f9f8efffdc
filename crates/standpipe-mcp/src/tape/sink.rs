//! Where tapes are written: a queue between the calls and a file or a stream of the tree. Calls never wait for a tape, and a tape never loses anything in
//! silence: what there is no room for, or what can't be stored, leaves a line that says how many messages are missing, a counter, and a warning.
//!
//! Lines are made, and secrets masked, on a thread of each tape and not on the way of a call.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use standpipe_engine::{Appender, Channel, ErrorKind, NewRecord, Streams};
use standpipe_serve::LimitsHandle;
use standpipe_tree::Path;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::line::{Record, Track, begin, gap, now_us};
use crate::Metrics;
use crate::metrics::one;

/// Bytes of messages that are written at once.
const BATCH_BYTES: usize = 1 << 20;
/// Pause after a failure to store.
const RETRY: Duration = Duration::from_secs(1);
/// Longest part of a line in one record of a stream; see also `stream_record_bytes_max`.
const PART_BYTES: usize = 256 << 10;
/// What a recording that begins counts for in the queue.
const BEGIN_COST: usize = 512;

/// Where a tape is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// A file of lines.
    File(PathBuf),
    /// The stream `tapes/<name>` of the tree.
    Tree(String),
}

impl Place {
    /// Reads `tree:<name>`, or else the name of a file.
    ///
    /// # Errors
    /// A sentence about a name that is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(name) = text.strip_prefix("tree:") else {
            return if text.is_empty() {
                Err("a tape needs the name of a file, or tree:NAME".into())
            } else {
                Ok(Self::File(text.into()))
            };
        };
        tape_path(name)?;
        Ok(Self::Tree(name.to_owned()))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Tree(name) => write!(f, "tree:{name}"),
        }
    }
}

/// The stream of the tape with this name.
///
/// # Errors
/// A sentence about a name that is none.
pub fn tape_path(name: &str) -> Result<Path, String> {
    if name.contains('/') || name.is_empty() {
        return Err(format!("{name:?} is no name of a tape in the tree: it is one key, as in tree:agents"));
    }
    Path::parse(&format!("/tapes/{name}"))
        .map_err(|error| format!("{name:?} is no name of a tape in the tree: {error}"))
}

/// What is written.
#[derive(Debug)]
enum Entry {
    Begin(Arc<Track>),
    Message(Box<Record>),
}

#[derive(Debug, Default)]
struct Waiting {
    entries: VecDeque<Entry>,
    bytes: usize,
    lost: u64,
    closed: bool,
}

/// A tape that is being written. Messages of several servers may be on one. Dropped, it ends once what waits is written.
#[derive(Debug)]
pub struct Recording {
    shared: Arc<Shared>,
    calls: AtomicU64,
    /// Tells that the writer has ended.
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

/// What those who record and the writer share.
#[derive(Debug)]
struct Shared {
    place: Place,
    waiting: Mutex<Waiting>,
    wake: Condvar,
    limits: LimitsHandle,
    metrics: Metrics,
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl Recording {
    /// Begins to write to a tape, behind what it has already. Must be called on a runtime that lives longer.
    ///
    /// # Errors
    /// A sentence that names the tape and why it can't be written.
    pub async fn open(
        place: Place,
        streams: Option<&Arc<Streams>>,
        limits: LimitsHandle,
        metrics: Metrics,
    ) -> Result<Arc<Self>, String> {
        let sink = match &place {
            Place::File(path) => Sink::File(open_file(path).map_err(|error| {
                format!(
                    "cannot write the tape {}: {error}; name a file in a folder that can be written",
                    path.display()
                )
            })?),
            Place::Tree(name) => Sink::Stream(open_stream(name, streams).await?, Handle::current()),
        };
        let (end, ended) = oneshot::channel();
        let shared = Arc::new(Shared { place, waiting: Mutex::default(), wake: Condvar::new(), limits, metrics });
        let own = shared.clone();
        let write = move || {
            own.write_all(sink);
            // Nobody may wait for it.
            let _unheard = end.send(());
        };
        let thread = std::thread::Builder::new().name("tape".into()).spawn(write);
        thread.map_err(|error| format!("cannot start the thread that writes the tape {}: {error}", shared.place))?;
        Ok(Arc::new(Self { shared, calls: AtomicU64::new(1), ended: Mutex::new(Some(ended)) }))
    }

    /// Where it is written.
    pub fn place(&self) -> &Place {
        &self.shared.place
    }

    /// Writes what waits, and ends. What comes later is dropped: nothing comes, when all servers have ended.
    pub async fn close(&self) {
        self.shared.end();
        let ended = self.ended.lock().take();
        if let Some(ended) = ended {
            // A writer that panicked has ended, too.
            let _ended = ended.await;
        }
    }

    /// The number of a call that begins.
    pub(super) fn next_call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn begin(&self, track: Arc<Track>) {
        self.shared.push(Entry::Begin(track), BEGIN_COST);
    }

    pub(super) fn add(&self, record: Record) {
        let cost = record.cost();
        self.shared.push(Entry::Message(Box::new(record)), cost);
    }
}

impl Shared {
    fn end(&self) {
        self.waiting.lock().closed = true;
        self.wake.notify_one();
    }

    fn push(&self, entry: Entry, cost: usize) {
        let max = self.limits.load().mcp_tape_queue_bytes_max;
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return;
        }
        // What came behind a loss is lost too, until the writer has told of it: messages on a tape stay in order, and a gap is in one place.
        if waiting.lost > 0 || (waiting.bytes + cost > max && !waiting.entries.is_empty()) {
            waiting.lost += 1;
            let is_first = waiting.lost == 1;
            drop(waiting);
            one(&self.metrics.tape().lost);
            if is_first {
                self.metrics.hit("mcp_tape_queue_bytes_max");
            }
            return;
        }
        waiting.entries.push_back(entry);
        waiting.bytes += cost;
        let is_first = waiting.entries.len() == 1;
        drop(waiting);
        if is_first {
            self.wake.notify_one();
        }
    }

    /// Waits for what is written next, and takes it: entries, how many were lost behind them, and whether that is all there will be.
    fn take(&self) -> (Vec<Entry>, u64, bool) {
        let mut waiting = self.waiting.lock();
        while waiting.entries.is_empty() && waiting.lost == 0 && !waiting.closed {
            self.wake.wait(&mut waiting);
        }
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES {
            let Some(entry) = waiting.entries.pop_front() else { break };
            let cost = if let Entry::Message(record) = &entry { record.cost() } else { BEGIN_COST };
            bytes += cost;
            waiting.bytes -= cost;
            entries.push(entry);
        }
        let is_empty = waiting.entries.is_empty();
        let lost = if is_empty { std::mem::take(&mut waiting.lost) } else { 0 };
        (entries, lost, waiting.closed && is_empty)
    }

    /// The writer's thread, to the end of the recording.
    fn write_all(&self, mut sink: Sink) {
        let mut failed = 0;
        loop {
            let (entries, lost, is_end) = self.take();
            if !entries.is_empty() || lost > 0 {
                match self.write(&mut sink, &entries, failed, lost) {
                    Ok(()) => failed = 0,
                    Err(error) => {
                        if failed == 0 {
                            tracing::warn!(tape = %self.place, %error, "a tape can't be written: it will have a gap");
                        }
                        let count = entries.len() as u64;
                        failed += count + lost;
                        self.metrics.tape().lost.fetch_add(count, Ordering::Relaxed);
                        self.pause();
                    }
                }
            }
            if is_end {
                break;
            }
        }
        if let Err(error) = sink.end() {
            tracing::debug!(tape = %self.place, %error, "a tape was not synced");
        }
    }

    /// A pause after a failure, which the end of the recording cuts short.
    fn pause(&self) {
        let until = Instant::now() + RETRY;
        let mut waiting = self.waiting.lock();
        while !waiting.closed && !self.wake.wait_until(&mut waiting, until).timed_out() {}
    }

    /// Writes the gap that failures before have left, entries, and the gap behind them.
    fn write(&self, sink: &mut Sink, entries: &[Entry], failed: u64, lost: u64) -> io::Result<()> {
        if lost > 0 {
            tracing::warn!(tape = %self.place, lost, "messages came faster than a tape can be written: it has a gap");
        }
        let mut batch = Batch::default();
        if failed > 0 {
            // Whatever a failed write has left is a line of its own.
            batch.add(now_us(), &[b"\n".as_slice(), &gap(failed)].concat());
        }
        let (mut messages, mut masked) = (0, 0);
        for entry in entries {
            match entry {
                Entry::Begin(track) => batch.add(now_us(), &begin(track)),
                Entry::Message(record) => {
                    masked += record.write(&mut batch.bytes);
                    batch.end(record.at_us);
                    messages += 1;
                }
            }
        }
        if lost > 0 {
            batch.add(now_us(), &gap(lost));
        }
        let bytes = batch.bytes.len() as u64;
        sink.write(batch, self.limits.load().stream_record_bytes_max)?;
        let tape = self.metrics.tape();
        for (counter, count) in [(&tape.masked, masked as u64), (&tape.recorded, messages), (&tape.bytes, bytes)] {
            counter.fetch_add(count, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Lines that are written at once.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Where each line ends, and when it was made.
    ends: Vec<(usize, u64)>,
}

impl Batch {
    fn add(&mut self, at_us: u64, line: &[u8]) {
        self.bytes.extend_from_slice(line);
        self.end(at_us);
    }

    fn end(&mut self, at_us: u64) {
        self.ends.push((self.bytes.len(), at_us));
    }

    /// One record for each line; several for a long one.
    fn records(self, part_max: usize) -> Vec<NewRecord> {
        let bytes = Bytes::from(self.bytes);
        let mut from = 0;
        let mut records = Vec::with_capacity(self.ends.len());
        for (end, at_us) in self.ends {
            while from < end {
                let to = end.min(from + part_max);
                records.push(NewRecord { channel: Channel::Out, at_ms: at_us / 1_000, bytes: bytes.slice(from..to) });
                from = to;
            }
        }
        records
    }
}

enum Sink {
    File(File),
    /// And the runtime that the stream's writer answers on.
    Stream(Appender, Handle),
}

impl Sink {
    fn write(&mut self, batch: Batch, record_bytes_max: usize) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all(&batch.bytes),
            Self::Stream(stream, runtime) => {
                let records = batch.records(PART_BYTES.min(record_bytes_max));
                // One after another: the room of a stream may be less than a batch needs.
                let mut records = records.into_iter();
                records.try_for_each(|record| runtime.block_on(stream.append(vec![record]))).map_err(io::Error::other)
            }
        }
    }

    fn end(self) -> io::Result<()> {
        match self {
            Self::File(file) => file.sync_all(),
            Self::Stream(stream, runtime) => runtime.block_on(stream.flush()).map(drop).map_err(io::Error::other),
        }
    }
}

/// The file, positioned behind a whole line. Only its owner may read it: what is no known secret may be one.
fn open_file(path: &FsPath) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    if file.metadata()?.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        // A gateway that was killed may have left half a line.
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

async fn open_stream(name: &str, streams: Option<&Arc<Streams>>) -> Result<Appender, String> {
    let path = tape_path(name)?;
    let Some(streams) = streams else {
        return Err(format!(
            "there is no tree here for the tape tree:{name}: name a file, or record in `standpipe serve`"
        ));
    };
    let opened = match streams.join(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => streams.create(&path).await,
        joined => joined,
    };
    opened.map_err(|error| format!("cannot write the tape tree:{name}: {error}"))
}
