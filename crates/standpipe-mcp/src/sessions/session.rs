//! One legacy session that travels in single requests: its conversation, its calls, and the streams that it has open or that a lost client may
//! resume. Who may use it, and when it ends, is decided in the table.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use standpipe_serve::LimitsHandle;
use standpipe_wire::jsonrpc::Message;
use tokio::time::Instant;

use super::Seat;
use super::stream::{EventId, Reader, STANDING, Stream};
use crate::exchange::{Closed, Relay, Room};
use crate::fault::NOT_FOUND;
use crate::{Caller, Conversation, Fault, Inlet, LegacyServer, Metrics, Outlet, exchange};

/// Streams that are kept of one session, those that are open not counted.
const STREAMS_KEPT: usize = 16;

/// What sessions share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) limits: LimitsHandle,
    pub(super) metrics: Metrics,
    pub(super) kept: Arc<AtomicUsize>,
}

/// See the module's text.
pub struct LegacySession {
    id: Box<str>,
    principal: Arc<str>,
    endpoint: Box<str>,
    version: OnceLock<Box<str>>,
    shared: Shared,
    usage: Arc<Usage>,
    inside: Mutex<Option<Inside>>,
    standing: Arc<Stream>,
    streams: Mutex<Streams>,
}

impl fmt::Debug for LegacySession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its id is a secret.
        write!(f, "LegacySession({} at {})", self.principal, self.endpoint)
    }
}

/// What goes with the end of a session.
struct Inside {
    conversation: Arc<dyn Conversation>,
    ended: BoxFuture<'static, ()>,
    _seat: Seat,
}

#[derive(Default)]
struct Streams {
    /// The oldest first.
    all: VecDeque<Arc<Stream>>,
    made: u64,
}

/// Whether a session is used.
#[derive(Debug)]
pub(super) struct Usage {
    calls: AtomicUsize,
    readers: AtomicUsize,
    used_at: Mutex<Instant>,
    over: AtomicBool,
}

impl Usage {
    fn new() -> Arc<Self> {
        let (calls, readers) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { calls, readers, used_at: Mutex::new(Instant::now()), over: AtomicBool::new(false) })
    }

    pub(super) fn reads(&self) {
        self.readers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn reads_no_more(&self) {
        self.readers.fetch_sub(1, Ordering::Relaxed);
        self.used();
    }

    /// Whether the session has ended.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn used(&self) {
        *self.used_at.lock() = Instant::now();
    }
}

/// In front of the outlet of a call: the call runs until nothing more can come.
struct Running(Arc<Usage>);

impl Running {
    fn new(usage: &Arc<Usage>) -> Arc<Self> {
        usage.calls.fetch_add(1, Ordering::Relaxed);
        usage.used();
        Arc::new(Self(usage.clone()))
    }
}

impl Relay for Running {
    fn relay(&self, message: Message, to: &Outlet) -> Result<(), Closed> {
        to.send(message)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
        self.0.used();
    }
}

impl LegacySession {
    pub(super) fn open(
        id: Box<str>,
        seat: Seat,
        server: &dyn LegacyServer,
        endpoint: &str,
        caller: &Caller,
        initialize: Message,
        shared: Shared,
    ) -> (Arc<Self>, Inlet) {
        let usage = Usage::new();
        let limits = shared.limits.load_full();
        let room = Room { messages: limits.mcp_outlet_messages_max, bytes: limits.mcp_outlet_bytes_max };
        let (to, inlet) = exchange(room);
        // What belongs to no call waits for a client that may never come for it.
        let waiting = Room { messages: limits.mcp_replay_messages_max, bytes: limits.mcp_replay_bytes_max };
        let (news, told) = exchange(waiting);
        let standing = Stream::new(STANDING, told.forgetful(), shared.clone());
        let to = to.through(Running::new(&usage));
        let conversation = server.open(caller, initialize, to, news);
        let inside = Inside { ended: conversation.ended(), conversation, _seat: seat };
        let session = Self {
            id,
            principal: caller.principal.clone(),
            endpoint: endpoint.into(),
            version: OnceLock::new(),
            shared,
            usage,
            inside: Mutex::new(Some(inside)),
            standing,
            streams: Mutex::default(),
        };
        (Arc::new(session), inlet)
    }

    /// Its id: whoever knows it may use it, if he is its principal.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The version that was agreed on, as the reply to `initialize` says.
    pub fn agree_on(&self, reply: &Message) {
        if let Ok(Some(version)) = reply.text_at(&["protocolVersion"]) {
            let _only_once = self.version.set(version.into());
        }
    }

    /// Whether its client takes events without data, which say where to resume before anything has come: from 2025-11-25 on.
    pub fn takes_empty_events(&self) -> bool {
        self.version.get().is_some_and(|version| &**version >= "2025-11-25")
    }

    pub(super) fn belongs_to(&self, principal: &str, endpoint: &str) -> bool {
        *self.principal == *principal && *self.endpoint == *endpoint
    }

    /// Sends a request; what comes back comes out of the inlet. `None` when the session has ended.
    pub fn call(&self, caller: &Caller, request: Message) -> Option<Inlet> {
        let conversation = self.conversation()?;
        let limits = self.shared.limits.load();
        let room = Room { messages: limits.mcp_outlet_messages_max, bytes: limits.mcp_outlet_bytes_max };
        let (to, inlet) = exchange(room);
        conversation.call(caller, request, to.through(Running::new(&self.usage)));
        Some(inlet)
    }

    /// Sends a notification, or the answer to a request of the server.
    pub fn tell(&self, caller: &Caller, message: Message) {
        self.usage.used();
        if let Some(conversation) = self.conversation() {
            conversation.tell(caller, message);
        }
    }

    fn conversation(&self) -> Option<Arc<dyn Conversation>> {
        self.inside.lock().as_ref().map(|inside| inside.conversation.clone())
    }

    /// Makes a stream of what comes out of `inlet`, which a lost client may resume.
    pub fn stream(&self, inlet: Inlet) -> Arc<Stream> {
        let mut streams = self.streams.lock();
        streams.made += 1;
        let stream = Stream::new(STANDING + streams.made, inlet, self.shared.clone());
        streams.all.push_back(stream.clone());
        let kept = streams.all.iter().filter(|stream| !stream.is_read()).count();
        if kept > STREAMS_KEPT
            && let Some(oldest) = streams.all.iter().position(|stream| !stream.is_read())
        {
            self.shared.metrics.hit("mcp_replay_messages_max");
            if let Some(oldest) = streams.all.remove(oldest) {
                oldest.end();
            }
        }
        stream
    }

    /// Begins to read a stream.
    pub fn read(&self, stream: &Arc<Stream>) -> Reader {
        stream.read(None, &self.usage).unwrap_or_else(|_| unreachable!("nothing is missing of what nobody has read"))
    }

    /// Begins to read what belongs to no call; who read it before is told that it is over.
    pub fn read_news(&self) -> Reader {
        self.read(&self.standing)
    }

    /// Reads on behind the last event that a client has seen.
    ///
    /// # Errors
    /// 4040: what it wants is not kept any more.
    pub fn resume(&self, last: &str) -> Result<Reader, Fault> {
        let lost = || Fault::new(NOT_FOUND, "what came after this event is not kept any more; send the request again");
        let id = EventId::parse(last).ok_or_else(lost)?;
        let streams = self.streams.lock();
        let stream = match id.stream {
            STANDING => Some(&self.standing),
            number => streams.all.iter().find(|stream| stream.number() == number),
        };
        stream.and_then(|stream| stream.read(Some(id.seq), &self.usage).ok()).ok_or_else(lost)
    }

    /// Whether it has been without a call and a reader for `patience`.
    pub(super) fn is_idle(&self, now: Instant, patience: Duration) -> bool {
        let Usage { calls, readers, used_at, .. } = &*self.usage;
        calls.load(Ordering::Relaxed) == 0
            && readers.load(Ordering::Relaxed) == 0
            && now.saturating_duration_since(*used_at.lock()) >= patience
    }

    /// Whether its conversation has ended from the other side, or it was closed.
    pub(super) fn has_ended(&self) -> bool {
        let mut inside = self.inside.lock();
        let Some(inside) = &mut *inside else { return true };
        inside.ended.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Whether it was closed from our side.
    pub fn is_closed(&self) -> bool {
        self.usage.is_over()
    }

    /// Forgets streams that nobody has read for as long as they are kept.
    pub(super) fn forget_streams(&self, now: Instant, patience: Duration) {
        let mut streams = self.streams.lock();
        streams.all.retain(|stream| !stream.is_over(now, patience));
        self.standing.forget(now, patience);
    }

    /// Ends it.
    pub(super) fn close(&self) {
        self.usage.over.store(true, Ordering::Relaxed);
        let inside = self.inside.lock().take();
        let streams = std::mem::take(&mut *self.streams.lock());
        streams.all.iter().chain([&self.standing]).for_each(|stream| stream.end());
        drop(inside);
    }
}
