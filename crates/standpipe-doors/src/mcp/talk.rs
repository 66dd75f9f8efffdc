//! One client on one stream of messages, as on lines or a WebSocket: which era a message is of, the legacy session that the stream is, the calls that are at
//! work, and all that goes back to the client, as it comes. It reads and writes no byte.
//!
//! ```text
//! take(message) ── modern ──► Server::call ─────────┐ an Inlet for each call ─┐
//!               ── legacy ──► Conversation::call ───┘        and the news ────┴─► poll_next
//! ```
//!
//! Nothing waits here: who feeds it stops reading while what comes out of it is not taken, and the streams of the calls are bounded.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::{AbortHandle, Abortable, SelectAll};
use futures_util::{Stream, StreamExt as _};
use serde_json::json;
use standpipe_mcp::era::Meta;
use standpipe_mcp::exchange::Room;
use standpipe_mcp::fault::{INTERNAL, INVALID_REQUEST, NOT_FOUND, OVERLOADED, RATE, TOO_LARGE, UNAUTHENTICATED};
use standpipe_mcp::{Caller, Conversation, Fault, Inlet, Metrics, Outlet, Server, exchange};
use standpipe_serve::{Limits, Refusal, RequestGuard, Session};
use standpipe_wire::jsonrpc::{Kind, Malformed, Message, Outline, id_key};

/// Messages that wait for the answer to `initialize`.
const HELD_MAX: usize = 64;

/// When it makes sense to call again for who has too many calls at work.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The client does not take what it is sent: its stream is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooSlow;

/// One client on one stream of messages.
pub(crate) struct Talk {
    server: Arc<dyn Server>,
    caller: Caller,
    metrics: Metrics,
    legacy: Legacy,
    /// What belongs to no call of the legacy session.
    news: Option<Inlet>,
    calls: SelectAll<Abortable<CallStream>>,
    /// The calls whose answer has not come, by [`id_key`].
    open: HashMap<Bytes, Open>,
    /// Answers of our own.
    ready: VecDeque<Message>,
    /// A line that was no message was told of in the log.
    told: bool,
}

/// The legacy session of the stream.
enum Legacy {
    None,
    /// `initialize`, under this key, is not answered; what came after it waits.
    Opening(Bytes, Arc<dyn Conversation>, VecDeque<Message>),
    Open(Arc<dyn Conversation>),
}

/// A call at work.
struct Open {
    abort: AbortHandle,
    is_modern: bool,
    /// The client does not want the answer any more.
    is_cancelled: bool,
    request: RequestGuard,
}

/// What comes back of one call: messages, and at the end the reply. A stream that ends without one says so.
struct CallStream {
    key: Bytes,
    inlet: Option<Inlet>,
}

enum Came {
    Message(Bytes, Message),
    /// Without a reply.
    End(Bytes, bool),
}

impl Stream for CallStream {
    type Item = Came;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Came>> {
        let key = self.key.clone();
        let Some(inlet) = &mut self.inlet else { return Poll::Ready(None) };
        let came = match ready!(inlet.poll_next(context)) {
            Some(message) if message.kind() != Kind::Response => {
                return Poll::Ready(Some(Came::Message(key, message)));
            }
            Some(reply) => Came::Message(key, reply),
            None => Came::End(key, inlet.was_too_slow()),
        };
        self.inlet = None;
        Poll::Ready(Some(came))
    }
}

impl std::fmt::Debug for Talk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Talk").field("server", &self.server).field("calls", &self.open.len()).finish_non_exhaustive()
    }
}

impl Talk {
    /// A talk of `caller` with `server`.
    pub(crate) fn new(server: Arc<dyn Server>, caller: Caller, metrics: Metrics) -> Self {
        Self {
            server,
            caller,
            metrics,
            legacy: Legacy::None,
            news: None,
            calls: SelectAll::new(),
            open: HashMap::new(),
            ready: VecDeque::new(),
            told: false,
        }
    }

    /// Takes what the client has sent. What is no message is skipped, as on stdio (spec mcp §2.1); a request that is no good one is answered.
    pub(crate) fn take(&mut self, bytes: Bytes) {
        match Message::parse(bytes.clone()) {
            Ok(message) => self.message(message),
            Err(malformed @ Malformed::Invalid(_)) if bytes.trim_ascii().first() == Some(&b'{') => {
                let mut outline = Outline::default();
                outline.feed(&bytes);
                match outline.request_id() {
                    Some(id) => self.answer(id, &Fault::new(malformed.code(), malformed.to_string())),
                    None => self.skip(&malformed),
                }
            }
            Err(malformed) => self.skip(&malformed),
        }
    }

    fn skip(&mut self, malformed: &Malformed) {
        match std::mem::replace(&mut self.told, true) {
            false => tracing::info!(session = self.session().id(), %malformed, "what is no message was skipped"),
            true => tracing::debug!(session = self.session().id(), %malformed, "what is no message was skipped"),
        }
    }

    /// Takes a message that was too long, or came when there was no room for it; its sender is told where it wants an answer.
    pub(crate) fn take_dropped(&mut self, outline: &Outline, fault: &Fault) {
        self.ready.push_back(fault.answer(outline.request_id()));
    }

    fn session(&self) -> &Session {
        &self.caller.session
    }

    fn answer(&mut self, id: &[u8], fault: &Fault) {
        self.ready.push_back(fault.answer(Some(id)));
    }

    /// Takes a message.
    pub(crate) fn message(&mut self, message: Message) {
        let Some(id) = message.id_bytes().filter(|_| message.kind() == Kind::Request) else {
            return self.told(message);
        };
        if let Err(fault) = self.request(&id, message) {
            self.answer(&id, &fault);
        }
    }

    fn request(&mut self, id: &[u8], message: Message) -> Result<(), Fault> {
        let meta = Meta::of(&message)?;
        let is_modern = meta.is_modern();
        if is_modern {
            meta.check_modern()?;
        }
        if !is_modern && self.hold(&message)? {
            return Ok(());
        }
        let key = Bytes::from(id_key(id).into_owned());
        self.admit(&key)?;
        match (&self.legacy, message.method()) {
            _ if is_modern => {
                let to = self.begin(key, true);
                self.server.call(self.caller.clone(), message, to);
            }
            (_, Some("initialize")) => {
                let to = self.begin(key.clone(), false);
                let (news, inlet) = exchange(self.room());
                let conversation = self.server.open(&self.caller, message, to, news);
                self.news = Some(inlet);
                self.legacy = Legacy::Opening(key, conversation, VecDeque::new());
            }
            (Legacy::Open(conversation), _) => {
                let conversation = conversation.clone();
                let to = self.begin(key, false);
                conversation.call(&self.caller, message, to);
            }
            (_, Some("ping")) => self.ready.push_back(Message::result(id, b"{}")),
            _ => return Err(uninitialized()),
        }
        Ok(())
    }

    /// Keeps a message of the legacy session back while its `initialize` is not answered.
    fn hold(&mut self, message: &Message) -> Result<bool, Fault> {
        let Legacy::Opening(_, _, held) = &mut self.legacy else { return Ok(false) };
        if held.len() >= HELD_MAX {
            return Err(Fault::overloaded("wait for the answer to 'initialize' before you send more", AGAIN_AFTER));
        }
        held.push_back(message.clone());
        Ok(true)
    }

    /// Whether the caller may make another call now.
    fn admit(&self, key: &Bytes) -> Result<(), Fault> {
        if self.caller.expires_at.is_some_and(|end| end <= SystemTime::now()) {
            return Err(Fault::new(
                UNAUTHENTICATED,
                "the credential of this connection has expired: connect again with another",
            ));
        }
        if self.open.contains_key(key) {
            return Err(Fault::new(
                INVALID_REQUEST,
                "the id is that of a call which is not answered yet: take another",
            ));
        }
        let max = self.session().limits().mcp_calls_per_stream_max;
        if self.open.len() >= max {
            self.metrics.hit("mcp_calls_per_stream_max");
            let text =
                format!("{max} calls are at work on this connection (mcp_calls_per_stream_max): wait for one of them");
            return Err(Fault::overloaded(text, AGAIN_AFTER));
        }
        self.session().admit_requests(1).map_err(refused)
    }

    /// Opens the way back of a call.
    fn begin(&mut self, key: Bytes, is_modern: bool) -> Outlet {
        let (to, inlet) = exchange(self.room());
        let (abort, registration) = AbortHandle::new_pair();
        self.calls.push(Abortable::new(CallStream { key: key.clone(), inlet: Some(inlet) }, registration));
        let request = self.session().request();
        self.open.insert(key, Open { abort, is_modern, is_cancelled: false, request });
        to
    }

    fn room(&self) -> Room {
        room(&self.session().limits())
    }

    /// A notification, or the answer to a request of the server.
    fn told(&mut self, message: Message) {
        if message.method() == Some("notifications/cancelled") && self.cancelled(&message) {
            return;
        }
        if let Ok(false) = self.hold(&message)
            && let Legacy::Open(conversation) = &self.legacy
        {
            conversation.tell(&self.caller, message);
        }
    }

    /// A call is not wanted any more: there will be no reply. Of a legacy call the session is told, too, by who asks.
    fn cancelled(&mut self, message: &Message) -> bool {
        let Ok(Some(id)) = message.at(&["requestId"]) else { return false };
        let key = id_key(message.slice(id));
        let Some(open) = self.open.get_mut(&*key) else { return false };
        open.is_cancelled = true;
        let is_modern = open.is_modern;
        if is_modern {
            open.abort.abort();
            self.open.remove(&*key);
        }
        is_modern
    }

    /// The next message for the client; pending where there is none.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Message, TooSlow>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Poll::Ready(Ok(message));
            }
            if let Poll::Ready(Some(came)) = self.calls.poll_next_unpin(context) {
                match self.came(came) {
                    Some(message) => return Poll::Ready(Ok(message)),
                    None => continue,
                }
            }
            let Some(news) = &mut self.news else { return Poll::Pending };
            match ready!(news.poll_next(context)) {
                Some(message) => return Poll::Ready(Ok(message)),
                None if news.was_too_slow() => {
                    self.metrics.hit("mcp_outlet_messages_max");
                    return Poll::Ready(Err(TooSlow));
                }
                None => self.news = None,
            }
        }
    }

    /// Something came of a call; gives what the client is to be sent.
    fn came(&mut self, came: Came) -> Option<Message> {
        let (key, message) = match came {
            Came::Message(_, message) if message.kind() != Kind::Response => return Some(message),
            Came::Message(key, reply) => (key, Ok(reply)),
            Came::End(key, was_too_slow) => (key, Err(was_too_slow)),
        };
        let mut open = self.open.remove(&key)?;
        let reply = match message {
            Ok(reply) => {
                open.request.finished();
                reply
            }
            Err(_) if open.is_cancelled => return None,
            Err(was_too_slow) => {
                let fault = self.lost(was_too_slow);
                open.request.failed(&fault.message);
                fault.answer(Some(&key))
            }
        };
        self.opened(&key, &reply);
        Some(reply)
    }

    fn lost(&self, was_too_slow: bool) -> Fault {
        if was_too_slow {
            self.metrics.hit("mcp_outlet_messages_max");
            return Fault::new(
                OVERLOADED,
                "the messages of this call were not taken in time (mcp_outlet_messages_max, mcp_outlet_bytes_max)",
            );
        }
        Fault::new(INTERNAL, "the server has ended the call without an answer")
    }

    /// Where this is the answer to `initialize`, the session has begun, or not.
    fn opened(&mut self, key: &Bytes, reply: &Message) {
        let Legacy::Opening(opening, ..) = &self.legacy else { return };
        if opening != key {
            return;
        }
        let Legacy::Opening(_, conversation, held) = std::mem::replace(&mut self.legacy, Legacy::None) else { return };
        if !reply.is_error() {
            self.legacy = Legacy::Open(conversation);
        }
        held.into_iter().for_each(|message| self.message(message));
    }

    /// Whether no call waits for its answer, and none of ours waits to be taken.
    pub(crate) fn is_idle(&self) -> bool {
        self.open.is_empty() && self.ready.is_empty()
    }

    /// The client sends nothing more: what belongs to no call is not wanted.
    pub(crate) fn end(&mut self) {
        self.news = None;
    }
}

/// How much may wait in one stream towards a client.
pub(crate) fn room(limits: &Limits) -> Room {
    Room { messages: limits.mcp_outlet_messages_max, bytes: limits.mcp_outlet_bytes_max }
}

/// The refusal of a message that is longer than it may be.
pub(crate) fn too_long(bytes_max: usize) -> Fault {
    let text =
        format!("the message is longer than mcp_message_bytes_max ({bytes_max} bytes): send less, or raise the limit");
    Fault::new(TOO_LARGE, text).with_data(json!({ "limit": "mcp_message_bytes_max", "bytes_max": bytes_max }))
}

/// A refusal of the serving core, in words of MCP.
pub(crate) fn refused(refusal: Refusal) -> Fault {
    let code = if matches!(refusal, Refusal::Rate { .. }) { RATE } else { OVERLOADED };
    let after = refusal.retry_after().as_millis() as u64;
    Fault::new(code, refusal.to_string()).with_data(json!({ "retry_after_ms": after }))
}

fn uninitialized() -> Fault {
    Fault::new(
        NOT_FOUND,
        "there is no session: send 'initialize' first, or a request of the modern era, with its version in params._meta",
    )
}

#[cfg(test)]
#[path = "talk_tests.rs"]
pub(crate) mod tests;
