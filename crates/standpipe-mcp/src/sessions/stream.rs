//! One stream of a session towards its client: numbered events, of which the newest are kept for a client that lost its connection
//! (`mcp_replay_*`). One reader at a time; a second takes the place of the first.
//!
//! What was not read yet waits in the inlet, under the limits of the out-queue; what was is kept here.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use parking_lot::Mutex;
use standpipe_wire::jsonrpc::Message;
use tokio::time::Instant;

use super::session::{Shared, Usage};
use crate::Inlet;

/// The number of the stream of what belongs to no call.
pub(super) const STANDING: u64 = 0;

/// An event as a client names it: `<stream>-<number>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId {
    /// The number of the stream in its session.
    pub stream: u64,
    /// The number of the event in it, from 1 on.
    pub seq: u64,
}

impl EventId {
    /// Reads one; `None` for what we never wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let (stream, seq) = text.split_once('-')?;
        let number = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse().ok())?;
        Some(Self { stream: number(stream)?, seq: number(seq)? })
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.stream, self.seq)
    }
}

/// A message with its place in the stream.
#[derive(Clone, Debug)]
pub struct Event {
    /// Where it stands.
    pub id: EventId,
    /// What it says.
    pub message: Message,
}

/// See the module's text.
pub struct Stream {
    number: u64,
    shared: Shared,
    state: Mutex<State>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({})", self.number)
    }
}

struct State {
    inlet: Inlet,
    /// Events read so far, and messages that were forgotten unread.
    seq: u64,
    /// Of the latter, those that are in `seq`.
    forgotten: u64,
    /// The newest of them, up to `seq`.
    kept: VecDeque<Message>,
    kept_bytes: usize,
    /// Raised with each reader: only the newest may read.
    reader: u64,
    waker: Option<Waker>,
    /// When the last reader left; `None` while there is one.
    left_at: Option<Instant>,
    ended: bool,
}

/// What a client wants is not kept.
#[derive(Debug)]
pub(super) struct Lost;

impl Stream {
    pub(super) fn new(number: u64, inlet: Inlet, shared: Shared) -> Arc<Self> {
        let state = State {
            inlet,
            seq: 0,
            forgotten: 0,
            kept: VecDeque::new(),
            kept_bytes: 0,
            reader: 0,
            waker: None,
            left_at: Some(Instant::now()),
            ended: false,
        };
        Arc::new(Self { number, shared, state: Mutex::new(state) })
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn is_read(&self) -> bool {
        self.state.lock().left_at.is_none()
    }

    /// Begins to read: behind the event `after`, or what nobody has read yet.
    pub(super) fn read(self: &Arc<Self>, after: Option<u64>, usage: &Arc<Usage>) -> Result<Reader, Lost> {
        let mut state = self.state.lock();
        self.count_forgotten(&mut state);
        let at = after.unwrap_or(state.seq);
        if at > state.seq || at < state.first() {
            return Err(Lost);
        }
        state.reader += 1;
        state.left_at = None;
        let (number, before) = (state.reader, state.waker.take());
        drop(state);
        usage.reads();
        if let Some(waker) = before {
            waker.wake();
        }
        Ok(Reader { stream: self.clone(), usage: usage.clone(), number, at, over: false })
    }

    /// Whether nobody has read it for `patience`, and nobody could read more of it than was read.
    pub(super) fn is_over(&self, now: Instant, patience: Duration) -> bool {
        self.state.lock().is_left(now, patience)
    }

    /// Forgets what was read, when nobody has read for `patience`.
    pub(super) fn forget(&self, now: Instant, patience: Duration) {
        let mut state = self.state.lock();
        if state.is_left(now, patience) {
            let bytes = state.forget_all();
            self.shared.kept.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// The session has ended: the reader looks again, and nothing is kept.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        self.shared.kept.fetch_sub(state.forget_all(), Ordering::Relaxed);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn leave(&self, reader: u64) {
        let mut state = self.state.lock();
        if state.reader == reader {
            state.left_at = Some(Instant::now());
            state.waker = None;
        }
    }

    /// Messages that were forgotten before anybody read them have numbers, too: who resumes must find that they are missing.
    fn count_forgotten(&self, state: &mut State) -> bool {
        let missed = state.inlet.forgotten() - state.forgotten;
        if missed > 0 {
            state.forgotten += missed;
            state.seq += missed;
            // What is kept must go up to `seq` without a gap.
            self.shared.kept.fetch_sub(state.forget_all(), Ordering::Relaxed);
        }
        missed > 0
    }

    /// Keeps a message that is being read, within the limits.
    fn keep(&self, state: &mut State, message: &Message) {
        let limits = self.shared.limits.load();
        let bytes = message.bytes().len();
        state.kept.push_back(message.clone());
        state.kept_bytes += bytes;
        let in_all = self.shared.kept.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mut over = in_all.saturating_sub(limits.mcp_replay_total_bytes_max);
        while state.kept.len() > limits.mcp_replay_messages_max
            || state.kept_bytes > limits.mcp_replay_bytes_max
            || over > 0
        {
            let Some(bytes) = state.forget_one() else { break };
            self.shared.kept.fetch_sub(bytes, Ordering::Relaxed);
            over = over.saturating_sub(bytes);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.kept.fetch_sub(self.state.get_mut().kept_bytes, Ordering::Relaxed);
    }
}

impl State {
    /// The event behind which everything is kept.
    fn first(&self) -> u64 {
        self.seq - self.kept.len() as u64
    }

    fn forget_one(&mut self) -> Option<usize> {
        let bytes = self.kept.pop_front()?.bytes().len();
        self.kept_bytes -= bytes;
        Some(bytes)
    }

    fn forget_all(&mut self) -> usize {
        self.kept.clear();
        std::mem::take(&mut self.kept_bytes)
    }

    fn is_left(&self, now: Instant, patience: Duration) -> bool {
        self.left_at.is_some_and(|left| now.saturating_duration_since(left) >= patience)
    }
}

/// Reads a stream; dropped, the client has left.
pub struct Reader {
    stream: Arc<Stream>,
    usage: Arc<Usage>,
    number: u64,
    /// The event read last.
    at: u64,
    over: bool,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reader({})", self.position())
    }
}

impl Reader {
    /// The event that was read last.
    pub fn position(&self) -> EventId {
        EventId { stream: self.stream.number, seq: self.at }
    }

    /// The next event; `None` at the end: of the stream, of the session, or of this reader's turn.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`Reader::next`].
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut state = self.stream.state.lock();
        if self.over || state.reader != self.number || self.usage.is_over() {
            return Poll::Ready(None);
        }
        if self.at < state.seq {
            let kept = (self.at.checked_sub(state.first())).and_then(|at| state.kept.get(at as usize)).cloned();
            return Poll::Ready(kept.map(|message| {
                self.at += 1;
                Event { id: EventId { stream: self.stream.number, seq: self.at }, message }
            }));
        }
        if self.stream.count_forgotten(&mut state) {
            // It was there and did not take them: told by the end, and by what a resume is answered.
            self.over = true;
            return Poll::Ready(None);
        }
        let next = ready!({
            let next = state.inlet.poll_next(context);
            if next.is_pending() {
                state.waker = Some(context.waker().clone());
            }
            next
        });
        let Some(message) = next else {
            if state.inlet.was_too_slow() && !std::mem::replace(&mut state.ended, true) {
                self.stream.shared.metrics.hit("mcp_outlet_messages_max");
            }
            state.ended = true;
            self.over = true;
            return Poll::Ready(None);
        };
        state.seq += 1;
        self.stream.keep(&mut state, &message);
        self.at = state.seq;
        Poll::Ready(Some(Event { id: EventId { stream: self.stream.number, seq: self.at }, message }))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stream.leave(self.number);
        self.usage.reads_no_more();
    }
}
