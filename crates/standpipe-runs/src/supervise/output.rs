//! From the pipes of a process to its streams. A pump reads a pipe, gathers for a moment, masks secrets, cuts
//! lines and appends; while the stream has no room it does not read, so the pipe fills and the process waits.
//!
//! It starts and ends nothing: what must end the process (too much output, a stream that takes no more) is told
//! through [`Shared::failed`], and from then on output is read and forgotten, so that the process is not stuck.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use serde_json::json;
use standpipe_engine::{Appender, Channel, Clock, NewRecord};
use standpipe_serve::LimitsHandle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Output;
use super::launch::Source;
use super::lines::{Lines, Piece};
use super::mask::{Mask, Secrets};
use super::pending::Pending;
use crate::command::{Command, OutputLimits};
use crate::events;

/// A read that brings as much is followed by the next one at once.
const GATHER_BYTES: usize = 64 << 10;
/// Other reads are so far apart: what comes meanwhile shares a commit and a message to each viewer.
const GATHER: Duration = Duration::from_millis(3);
/// Room for a read, at first and while reads fill it.
const READ_BYTES: usize = 16 << 10;
const READ_BYTES_MAX: usize = 256 << 10;
/// Bytes that a pipe holds; after the end no more than that can be from before it.
pub(super) const PIPE_BYTES: usize = 1 << 20;
/// Age at which a line that has not ended is shown all the same: a question waits for its answer in the same line.
const UNFINISHED: Duration = Duration::from_millis(100);

/// What the pumps of an attempt share with it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) output: Output,
    pub(super) pending: Pending,
    /// Somebody waits for the end: no more waiting for the rate.
    pub(super) hurry: CancellationToken,
    /// Pipes are to be closed, whoever holds them.
    pub(super) closing: CancellationToken,
    /// There was output again after [`Shared::stalled`].
    pub(super) heard_again: Notify,
    task: String,
    limits: LimitsHandle,
    own_limits: OutputLimits,
    event_prefix: Option<String>,
    begun: Instant,
    /// Milliseconds from `begun` to the last output.
    heard: AtomicU64,
    stalled: AtomicBool,
    /// Pumps that are appending.
    busy: AtomicUsize,
    failure: OnceLock<String>,
    failed: CancellationToken,
    rate: Mutex<Instant>,
}

impl Shared {
    pub(super) fn new(task: &str, command: &Command, output: Output, limits: LimitsHandle) -> Self {
        Self {
            output,
            pending: Pending::default(),
            hurry: CancellationToken::new(),
            closing: CancellationToken::new(),
            heard_again: Notify::new(),
            task: task.to_owned(),
            limits,
            own_limits: command.output,
            event_prefix: command.event_prefix.clone(),
            begun: Instant::now(),
            heard: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            failure: OnceLock::new(),
            failed: CancellationToken::new(),
            rate: Mutex::new(Instant::now()),
        }
    }

    /// Why the process must end, once its output says so.
    pub(super) async fn failed(&self) -> &str {
        self.failed.cancelled().await;
        self.failure.get().map_or("", String::as_str)
    }

    /// Why the process had to end, if its output said so.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    pub(super) fn fail(&self, reason: String) {
        let _first = self.failure.set(reason);
        self.failed.cancel();
    }

    fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }

    /// Whether a pump is appending: then a pipe that is not at its end says nothing about who holds it.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire) > 0
    }

    /// When there was output last, or when it began.
    pub(super) fn heard_at(&self) -> Instant {
        self.begun + Duration::from_millis(self.heard.load(Ordering::Relaxed))
    }

    /// Whether it is marked as stalled.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    /// Marks it as stalled, until there is output again.
    pub(super) fn stalled(&self) {
        self.stalled.store(true, Ordering::Release);
        self.pending.stalled(true);
    }

    fn heard(&self) {
        let since = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(since, Ordering::Relaxed);
        if self.stalled.load(Ordering::Relaxed) && self.stalled.swap(false, Ordering::AcqRel) {
            self.pending.stalled(false);
            self.heard_again.notify_one();
        }
    }

    fn line_bytes_max(&self) -> usize {
        let node = self.limits.load().run_line_bytes_max;
        self.own_limits.line_bytes_max.map_or(node, |own| own.min(node)).min(READ_BYTES_MAX)
    }

    /// Bytes of the whole run and of this command; 0 is no limit.
    fn bytes_max(&self) -> u64 {
        lower(self.limits.load().run_output_bytes_max, self.own_limits.bytes_max)
    }

    fn bytes_per_s_max(&self) -> u64 {
        lower(self.limits.load().run_output_bytes_per_s_max, self.own_limits.bytes_per_s_max)
    }

    /// How long to wait after so many bytes, so that there are no more than `per_s` of them.
    fn pause(&self, bytes: u64, per_s: u64) -> Duration {
        let now = Instant::now();
        let cost = Duration::from_secs_f64(bytes as f64 / per_s as f64);
        let mut paid_until = self.rate.lock();
        *paid_until = (*paid_until).max(now) + cost;
        *paid_until - now
    }

    /// Appends a note: to the stream of its own, and with the task's name to that of the run.
    ///
    /// # Errors
    /// The stream's.
    pub(super) async fn note(&self, note: String) -> standpipe_engine::Result<()> {
        let at_ms = Clock::System.now_ms();
        if let Some((merged, _)) = &self.output.merged {
            merged.append(vec![record(Channel::Note, at_ms, named(&note, &self.task).into())]).await?;
        }
        self.output.own.append(vec![record(Channel::Note, at_ms, note.into())]).await
    }
}

/// The lower of two limits; 0 is none.
fn lower(node: u64, own: Option<u64>) -> u64 {
    match (node, own.unwrap_or(0)) {
        (0, own) => own,
        (node, 0) => node,
        (node, own) => node.min(own),
    }
}

fn record(channel: Channel, at_ms: u64, bytes: Bytes) -> NewRecord {
    NewRecord { channel, at_ms, bytes }
}

/// A note, which is an object, with the name of its task.
fn named(note: &str, task: &str) -> String {
    let rest = note.strip_prefix('{').unwrap_or(note);
    format!("{{\"task\":{},{rest}", serde_json::Value::from(task))
}

/// What one read brought, as records, and what it amounts to.
#[derive(Debug, Default)]
struct Batch {
    own: Vec<NewRecord>,
    merged: Vec<NewRecord>,
    lines: u64,
    bytes: u64,
}

/// One pipe on its way into the streams.
pub(super) struct Pump {
    shared: Arc<Shared>,
    source: Box<dyn Source>,
    channel: Channel,
    lines: Lines,
    mask: Option<Mask>,
    /// What was read and not masked yet.
    raw: BytesMut,
    pieces: Vec<Piece>,
    merged: Option<Merged>,
    room: usize,
}

impl Pump {
    pub(super) fn new(shared: Arc<Shared>, source: Box<dyn Source>, channel: Channel, secrets: &Secrets) -> Self {
        let lines = Lines::new(shared.line_bytes_max());
        let merged = shared.output.merged.clone();
        let merged = merged.map(|(_, prefix)| Merged { prefix, line: BytesMut::new() });
        let (raw, pieces, mask) = (BytesMut::new(), Vec::new(), secrets.mask());
        Self { shared, source, channel, lines, mask, raw, pieces, merged, room: READ_BYTES }
    }

    /// Reads to the end, or until the pipe is to be closed.
    pub(super) async fn run(mut self) {
        let mut unfinished_until = Instant::now();
        let mut next_read = unfinished_until;
        loop {
            if Instant::now() < next_read {
                sleep_until(next_read).await;
            }
            self.lines.park();
            let closing = tokio::select! {
                biased;
                readiness = self.source.ready() => { if readiness.is_err() { break } false }
                () = self.shared.closing.cancelled() => true,
                () = sleep_until(unfinished_until), if self.lines.is_unfinished() => {
                    self.lines.rest(&mut self.pieces);
                    self.deliver().await;
                    continue;
                }
            };
            if closing || self.shared.closing.is_cancelled() {
                self.drain().await;
                break;
            }
            let was_unfinished = self.lines.is_unfinished();
            match self.read() {
                Ok(0) => break,
                Ok(count) if count < GATHER_BYTES => next_read = Instant::now() + GATHER,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(_) => break,
            }
            if !was_unfinished || !self.pieces.is_empty() {
                unfinished_until = Instant::now() + UNFINISHED;
            }
            self.deliver().await;
        }
        self.end().await;
    }

    /// One read; what is complete of it is in `pieces`.
    fn read(&mut self) -> std::io::Result<usize> {
        let per_s = self.shared.bytes_per_s_max();
        // A slow pipe is read in small parts, so that it flows instead of jumping.
        let slow = if per_s == 0 { usize::MAX } else { usize::try_from(per_s / 10).unwrap_or(usize::MAX).max(512) };
        let room = self.room.min(slow);
        let buffer = if self.mask.is_some() { &mut self.raw } else { self.lines.buffer() };
        let count = self.source.read(buffer, room)?;
        self.room = if count >= self.room { READ_BYTES_MAX } else { READ_BYTES };
        if let Some(mask) = &mut self.mask {
            mask.feed(&self.raw, self.lines.buffer());
            self.raw.clear();
        }
        self.shared.heard();
        self.lines.take(&mut self.pieces);
        Ok(count)
    }

    /// Reads what was there before the pipe was to be closed.
    async fn drain(&mut self) {
        let mut left = PIPE_BYTES;
        while left > 0 {
            let Ok(count @ 1..) = self.read() else { break };
            left = left.saturating_sub(count);
            self.deliver().await;
        }
    }

    /// What is left at the end: a line without a newline, and what might have become a secret.
    async fn end(mut self) {
        if let Some(mask) = &mut self.mask {
            mask.end(self.lines.buffer());
        }
        self.lines.take(&mut self.pieces);
        self.lines.rest(&mut self.pieces);
        self.deliver().await;
        if let Some(last) = self.merged.as_mut().and_then(Merged::rest)
            && let Some((merged, _)) = &self.shared.output.merged
        {
            let last = record(self.channel, Clock::System.now_ms(), last);
            self.shared.append(merged, vec![last]).await;
        }
    }

    /// Appends what is in `pieces`, then waits if that was too fast.
    async fn deliver(&mut self) {
        if self.pieces.is_empty() {
            return;
        }
        if self.shared.has_failed() {
            self.pieces.clear();
            return;
        }
        self.shared.busy.fetch_add(1, Ordering::AcqRel);
        let cut = self.allow();
        let batch = self.batch();
        if let Some((merged, _)) = self.shared.output.merged.as_ref().filter(|_| !batch.merged.is_empty()) {
            self.shared.append(merged, batch.merged).await;
        }
        if !batch.own.is_empty() && self.shared.append(&self.shared.output.own, batch.own).await {
            self.shared.pending.wrote(batch.lines, batch.bytes);
        }
        if let Some(bytes_max) = cut {
            let note = json!({"event": "truncated", "bytes_max": bytes_max}).to_string();
            let noted = self.shared.note(note).await;
            self.shared.take(noted);
            self.shared.fail(format!(
                "wrote more than {bytes_max} bytes: write less, or raise run_output_bytes_max or the command's bytes_max"
            ));
        }
        self.shared.busy.fetch_sub(1, Ordering::AcqRel);
        let per_s = self.shared.bytes_per_s_max();
        if per_s > 0 {
            tokio::select! {
                () = tokio::time::sleep(self.shared.pause(batch.bytes, per_s)) => {}
                () = self.shared.hurry.cancelled() => {}
            }
        }
    }

    /// Counts the bytes in `pieces`. What is over the limit is left off; then the limit is given.
    fn allow(&mut self) -> Option<u64> {
        let bytes_max = self.shared.bytes_max();
        let bytes: u64 = self.pieces.iter().map(|piece| piece.bytes.len() as u64).sum();
        let before = self.shared.output.spent.fetch_add(bytes, Ordering::Relaxed);
        if bytes_max == 0 || before + bytes <= bytes_max {
            return None;
        }
        let mut room = usize::try_from(bytes_max.saturating_sub(before)).unwrap_or(usize::MAX);
        self.pieces.retain_mut(|piece| {
            let kept = piece.bytes.len().min(room);
            room -= kept;
            piece.whole &= kept == piece.bytes.len();
            piece.bytes.truncate(kept);
            kept > 0
        });
        Some(bytes_max)
    }

    /// The records of `pieces`, with notes in place of the lines that are events.
    fn batch(&mut self) -> Batch {
        let at_ms = Clock::System.now_ms();
        let mut batch = Batch { own: Vec::with_capacity(self.pieces.len()), ..Batch::default() };
        for piece in self.pieces.drain(..) {
            batch.bytes += piece.bytes.len() as u64;
            let ends = piece.bytes.last() == Some(&b'\n');
            batch.lines += u64::from(ends);
            if let Some(note) = self.shared.event(&piece) {
                if self.merged.is_some() {
                    batch.merged.push(record(Channel::Note, at_ms, named(&note, &self.shared.task).into()));
                }
                batch.own.push(record(Channel::Note, at_ms, note.into()));
                continue;
            }
            if let Some(line) = self.merged.as_mut().and_then(|merged| merged.add(&piece.bytes, ends)) {
                batch.merged.push(record(self.channel, at_ms, line));
            }
            batch.own.push(record(self.channel, at_ms, piece.bytes));
        }
        batch
    }
}

impl Shared {
    /// The note in place of a line that is an event.
    fn event(&self, piece: &Piece) -> Option<String> {
        let event = piece.whole.then(|| events::parse(&piece.bytes, self.event_prefix.as_deref()))??;
        self.pending.said(&event).then(|| event.note())
    }

    /// Whether these records are in the stream. A stream that takes no more is the end of the process.
    async fn append(&self, stream: &Appender, records: Vec<NewRecord>) -> bool {
        let appended = stream.append(records).await;
        self.take(appended)
    }

    fn take(&self, appended: standpipe_engine::Result<()>) -> bool {
        if let Err(error) = &appended {
            self.fail(format!("its output can't be stored: {error}"));
        }
        appended.is_ok()
    }
}

/// Whole lines for the stream of the whole run, each after the task's prefix.
struct Merged {
    prefix: String,
    /// The prefix and the line so far, if one has begun.
    line: BytesMut,
}

impl Merged {
    /// Takes a part of a line, and gives the line when it has ended or is too long to wait.
    fn add(&mut self, part: &[u8], ends: bool) -> Option<Bytes> {
        if self.line.is_empty() {
            self.line.reserve(self.prefix.len() + part.len());
            self.line.extend_from_slice(self.prefix.as_bytes());
        }
        self.line.extend_from_slice(part);
        if ends {
            return Some(self.line.split().freeze());
        }
        (self.line.len() >= GATHER_BYTES).then(|| self.rest()).flatten()
    }

    /// A line that has not ended, with a newline.
    fn rest(&mut self) -> Option<Bytes> {
        (!self.line.is_empty()).then(|| {
            self.line.extend_from_slice(b"\n");
            self.line.split().freeze()
        })
    }
}
