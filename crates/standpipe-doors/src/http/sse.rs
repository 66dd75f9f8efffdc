//! Event streams (firebase-rtdb §10): `put` and `patch` as the service sends them, and beside
//! them `id:` with the revision, resume by `Last-Event-ID`, and an explicit `reset` before the
//! fresh value when something was missed.
//!
//! Over HTTP/1.1 the stream leaves hyper behind: the connection is taken over, so a watcher holds
//! no buffers of its own and everything pending, shared with all other watchers, goes out in one
//! vectored write. Over HTTP/2 the same frames are the body of the answer.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{IoSlice, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use http::{HeaderMap, Version};
use standpipe_engine::{Error, ErrorKind, TopicEvent};
use standpipe_serve::{CloseReason, Outcome, RequestGuard, Session, WatchPermit};
use standpipe_tree::{EventKind, Format, Path, write_json_string};
use standpipe_wire::sse;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};

use super::follow::Feed as OutputFeed;
use super::io::{Busy, Stream};
use super::mcp::ws::Socket;
use crate::auth::instant;
use crate::dispatch::{Subscription, Update};
use crate::firebase::websocket::Upgrade;

/// How often a quiet stream says that it is alive. The Python client can't close a stream until
/// the next event comes.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Frames in one vectored write; the kernel takes up to 1,024.
pub(super) const SLICES_MAX: usize = 64;

/// An open watch on its way to the peer.
#[derive(Debug)]
pub(crate) struct Feed {
    subscription: Subscription,
    session: Session,
    keep_alive_at: Instant,
    /// When the credential ends.
    expires_at: Option<Instant>,
    /// Why there is no more, once there is not.
    end: CloseReason,
    _permit: WatchPermit,
}

impl Feed {
    /// A stream for who is let in until `expires_at`.
    pub(crate) fn new(
        subscription: Subscription,
        session: Session,
        permit: WatchPermit,
        expires_at: Option<SystemTime>,
    ) -> Self {
        Self {
            expires_at: expires_at.and_then(instant),
            subscription,
            session,
            keep_alive_at: Instant::now() + KEEP_ALIVE,
            end: CloseReason::Shutdown,
            _permit: permit,
        }
    }

    /// Waits for something to send, and gives all of it. False when the server stops, or the watcher may not
    /// watch any more: what was acknowledged before is in the frames, and nothing comes after them.
    async fn next(&mut self, frames: &mut VecDeque<Frame>) -> Result<bool, Error> {
        loop {
            if self.expires_at.is_some_and(|at| Instant::now() >= at) {
                frames.push_back(Frame::event("auth_revoked", None, b"credential is no longer valid"));
                self.end = CloseReason::Revoked;
                return Ok(false);
            }
            let due_at = self.expires_at.map_or(self.keep_alive_at, |at| at.min(self.keep_alive_at));
            let due = timeout_at(due_at, self.subscription.changed());
            let (changed, more) = tokio::select! {
                biased;
                () = self.session.closing() => (true, false),
                changed = due => (changed.is_ok(), true),
            };
            if !changed && due_at < self.keep_alive_at {
                continue;
            }
            if !changed {
                self.keep_alive_at = Instant::now() + KEEP_ALIVE;
                frames.push_back(Frame::event("keep-alive", None, b"null"));
                return Ok(true);
            }
            // Boxed, for it is short and large, and a watcher waits nearly always.
            let updates = match Box::pin(self.subscription.take(&self.session)).await {
                Err(error) if error.kind() == ErrorKind::Denied => {
                    let mut reason = Vec::new();
                    write_json_string(error.message(), &mut reason);
                    frames.push_back(Frame::event("cancel", None, &reason));
                    self.end = CloseReason::Revoked;
                    return Ok(false);
                }
                updates => updates?,
            };
            for update in updates {
                encode(update, self.subscription.path(), frames);
            }
            if !frames.is_empty() || !more {
                self.keep_alive_at = Instant::now() + KEEP_ALIVE;
                return Ok(more);
            }
        }
    }

    /// The stream as the body of an HTTP/2 answer.
    pub(crate) fn into_body(self) -> BoxStream<'static, Result<Bytes, Error>> {
        stream::try_unfold((self, VecDeque::new(), true), |(mut feed, mut frames, mut more)| async move {
            if frames.is_empty() && more {
                more = feed.next(&mut frames).await?;
            }
            Ok(frames.pop_front().map(|frame: Frame| (frame.event_bytes(), (feed, frames, more))))
        })
        .boxed()
    }
}

/// One event, with the framing of a chunk (RFC 9112 §7.1) around it: shared as it is over
/// HTTP/1.1, and without the framing over HTTP/2.
#[derive(Clone, Debug)]
struct Frame(Bytes);

impl Frame {
    fn event(name: &str, id: Option<u64>, data: &[u8]) -> Self {
        let mut event = Vec::with_capacity(data.len() + 64);
        sse::encode(name, id, data, &mut event);
        let mut chunk = Vec::with_capacity(event.len() + 16);
        write!(chunk, "{:x}\r\n", event.len()).expect("writing to memory does not fail");
        chunk.extend_from_slice(&event);
        chunk.extend_from_slice(b"\r\n");
        Self(chunk.into())
    }

    fn event_bytes(&self) -> Bytes {
        let start = self.0.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.0.slice(start..self.0.len().saturating_sub(2).max(start))
    }
}

/// As it lies there: one piece of memory.
impl Buf for Frame {
    fn remaining(&self) -> usize {
        self.0.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.0.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.0.advance(count);
    }
}

fn encode(update: Update, path: &Path, frames: &mut VecDeque<Frame>) {
    match update {
        Update::Event(event) => {
            let frame = frame(&event, path);
            if !frame.is_empty() {
                frames.push_back(Frame(frame));
            }
        }
        Update::Value { rev, json, reset } => {
            if let Some(reason) = reset {
                let data = format!(r#"{{"path":"/","data":null,"reason":"{}"}}"#, reason.as_str());
                frames.push_back(Frame::event("reset", None, data.as_bytes()));
            }
            frames.push_back(Frame::event("put", Some(rev), &envelope("/", &json)));
        }
        Update::Moved { rev, json } => frames.push_back(Frame::event("patch", Some(rev), &envelope("/", &json))),
        // An event all the same: clients wait for the first one.
        Update::Resumed { rev } => frames.push_back(Frame::event("keep-alive", Some(rev), b"null")),
    }
}

/// A change as all watchers of the path get it: encoded once, by the first.
fn frame(event: &Arc<TopicEvent>, path: &Path) -> Bytes {
    event.frame(|event| {
        let Some(told) = event.change.event(path, Format::Plain) else { return Bytes::new() };
        let name = match told.kind {
            EventKind::Put => "put",
            EventKind::Patch => "patch",
        };
        Frame::event(name, Some(event.rev), &envelope(&told.path, &told.data)).0
    })
}

fn envelope(path: &str, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + path.len() + 24);
    out.extend_from_slice(br#"{"path":"#);
    write_json_string(path, &mut out);
    out.extend_from_slice(br#","data":"#);
    out.extend_from_slice(data);
    out.push(b'}');
    out
}

/// A connection that from here on is not HTTP any more.
#[derive(Debug)]
pub(crate) struct Takeover {
    pub(crate) by: TakenBy,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) request: RequestGuard,
    pub(crate) busy: Busy,
}

/// What takes a connection over.
#[derive(Debug)]
pub(crate) enum TakenBy {
    /// An event stream.
    Events(Feed),
    /// A WebSocket.
    WebSocket(Upgrade),
    /// A WebSocket of MCP.
    Mcp(Box<Socket>),
    /// A viewer of a stream.
    Output(Box<OutputFeed>),
}

impl Takeover {
    /// Serves the connection to its end. A future of its own size each: a connection that is idle must not have room
    /// for all of them.
    pub(super) fn carry(self, stream: Stream, session: &Session) -> BoxFuture<'static, CloseReason> {
        let Self { by, version, headers, request, busy } = self;
        match by {
            TakenBy::Events(feed) => Box::pin(carry(stream, Box::new(feed), version, headers, request, busy)),
            TakenBy::WebSocket(upgrade) => Box::pin(upgrade.carry(stream, session.clone(), headers, request, busy)),
            TakenBy::Mcp(socket) => socket.carry(stream, session.clone(), headers, request, busy),
            TakenBy::Output(feed) => feed.carry(stream, version, headers, request, busy),
        }
    }
}

/// Sends the stream over HTTP/1.1 until the peer leaves, is too slow, or the server stops.
async fn carry(
    mut stream: Stream,
    mut feed: Box<Feed>,
    version: Version,
    headers: HeaderMap,
    mut request: RequestGuard,
    _busy: Busy,
) -> CloseReason {
    let chunked = version >= Version::HTTP_11;
    let head = head(&headers, chunked);
    drop(headers);
    let mut frames = VecDeque::from([Frame(head)]);
    let (mut first, mut more) = (true, true);
    loop {
        if !chunked && !first {
            frames.iter_mut().for_each(|frame| frame.0 = frame.event_bytes());
        }
        if chunked && !more {
            // The last chunk: the stream ends here, it does not break off.
            frames.push_back(Frame(Bytes::from_static(b"0\r\n\r\n")));
        }
        if send(&mut stream, &mut frames).await.is_err() {
            request.end(Outcome::Cancelled);
            return if stream.stalled() { CloseReason::SlowWatcher } else { CloseReason::PeerVanished };
        }
        if !more {
            let _gone = stream.shutdown().await;
            request.finished();
            return feed.end;
        }
        first = false;
        frames.shrink_to_fit();
        tokio::select! {
            biased;
            next = feed.next(&mut frames) => match next {
                Ok(next) => more = next,
                Err(error) => {
                    request.failed(error.kind().as_str());
                    return CloseReason::Internal;
                }
            },
            () = left(&mut stream) => {
                request.finished();
                return CloseReason::PeerClosed;
            }
        }
    }
}

/// Appends header lines.
pub(super) fn put_headers(headers: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

fn head(headers: &HeaderMap, chunked: bool) -> Bytes {
    let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
    put_headers(headers, &mut head);
    head.extend_from_slice(if chunked { b"transfer-encoding: chunked\r\n\r\n" } else { b"connection: close\r\n\r\n" });
    head.into()
}

/// Writes everything there is, sharing the bytes with all other watchers.
pub(super) async fn send<B: Buf>(stream: &mut Stream, frames: &mut VecDeque<B>) -> std::io::Result<()> {
    while !frames.is_empty() {
        // Made anew for each attempt: kept over a wait they would be a kilobyte of every watcher.
        let mut written = poll_fn(|context| {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = frames.len().min(SLICES_MAX);
            for (slice, frame) in slices.iter_mut().zip(frames.iter()) {
                *slice = IoSlice::new(frame.chunk());
            }
            Pin::new(&mut *stream).poll_write_vectored(context, &slices[..count])
        })
        .await?;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        while let Some(front) = frames.front_mut() {
            let taken = written.min(front.remaining());
            front.advance(taken);
            written -= taken;
            if front.has_remaining() {
                break;
            }
            frames.pop_front();
        }
    }
    Ok(())
}

/// Ends when the peer has left. What it says meanwhile is nothing we asked for.
pub(super) async fn left(stream: &mut Stream) {
    let mut nothing = [0; 64];
    while let Ok(1..) = stream.read(&mut nothing).await {}
}
