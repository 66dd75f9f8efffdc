//! Bodies: a request's, read whole under limits of bytes and time; a reply's, whole, sliced from
//! the store, or an event stream.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use standpipe_engine::{Error, ErrorKind};
use standpipe_serve::{Deadline, RequestGuard, Session};
use tokio::time::timeout;

use super::follow::Feed as OutputFeed;
use super::io::{Activity, Busy};
use super::mcp::ws::Socket;
use super::sse::Feed;
use crate::dispatch::refused;
use crate::firebase::websocket::Upgrade;

/// The bytes a reply consists of.
pub(crate) enum Content {
    /// All of them, maybe none.
    Full(Bytes),
    /// A long read or an event stream. An error cuts the connection, so that nobody takes what
    /// came for the whole.
    Stream(BoxStream<'static, Result<Bytes, Error>>),
    /// An event stream, before it is known how it travels.
    Watch(Box<Feed>),
    /// A WebSocket.
    Upgrade(Box<Upgrade>),
    /// A WebSocket of MCP.
    Socket(Box<Socket>),
    /// A stream's records, before it is known how they travel.
    Output(Box<OutputFeed>),
}

/// What hyper is given to send.
enum Sending {
    Full(Bytes),
    Stream(BoxStream<'static, Result<Bytes, Error>>),
    /// With trailers at its end, maybe.
    Frames(BoxStream<'static, Result<Frame<Bytes>, Error>>),
}

/// A reply's body; it holds what says that the request is in progress.
pub(crate) struct Reply {
    sending: Sending,
    /// Dropped with the body: the request is finished when its last byte has been taken.
    _busy: Busy,
    request: RequestGuard,
}

impl Reply {
    pub(crate) fn new(content: Content, busy: Busy, mut request: RequestGuard) -> Self {
        let sending = match content {
            Content::Full(bytes) => Sending::Full(bytes),
            Content::Stream(stream) => Sending::Stream(stream),
            Content::Watch(feed) => Sending::Stream(feed.into_body()),
            // Over HTTP/1.1 it takes the connection over; over HTTP/2 it was refused.
            Content::Upgrade(_) | Content::Socket(_) => Sending::Full(Bytes::new()),
            Content::Output(feed) => Sending::Frames(feed.into_body()),
        };
        if matches!(&sending, Sending::Full(bytes) if bytes.is_empty()) {
            // Hyper does not ask for what it knows to be nothing, here and behind the last byte.
            request.finished();
        }
        Self { sending, _busy: busy, request }
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let next = match &mut self.sending {
            Sending::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Sending::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Sending::Stream(stream) => stream.as_mut().poll_next(context).map(|next| Some(next?.map(Frame::data))),
            Sending::Frames(stream) => stream.as_mut().poll_next(context),
        };
        match &next {
            Poll::Ready(None) => self.request.finished(),
            Poll::Ready(Some(Ok(_))) if self.is_end_stream() => self.request.finished(),
            Poll::Ready(Some(Err(error))) => self.request.failed(error.message()),
            _ => {}
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.sending, Sending::Full(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.sending {
            Sending::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Sending::Stream(_) | Sending::Frames(_) => SizeHint::default(),
        }
    }
}

/// Reads a request's body whole.
///
/// # Errors
/// `TooLarge` beyond `request_body_bytes_max`, `Overloaded` when too many bytes of bodies are in
/// flight, `Deadline` when nothing comes for `body_progress_ms_max` or it takes longer than
/// `body_ms_max`, `BadRequest` when it breaks off.
pub(crate) async fn receive(session: &Session, activity: &Activity, body: Incoming) -> Result<Bytes, Error> {
    let max = session.limits().request_body_bytes_max;
    receive_up_to(session, activity, body, max, "request_body_bytes_max").await
}

/// As [`receive`], of at most `max` bytes, which `limit` says.
pub(crate) async fn receive_up_to(
    session: &Session,
    activity: &Activity,
    mut body: Incoming,
    max: usize,
    limit: &'static str,
) -> Result<Bytes, Error> {
    let limits = session.limits();
    let announced = body.size_hint().exact().unwrap_or(0);
    if announced > max as u64 {
        return Err(too_large(max, limit));
    }
    let mut permit = session.body_bytes(0).map_err(refused)?;
    let deadline = Deadline::after(limits.body_ms_max);
    let progress_max = Duration::from_millis(limits.body_progress_ms_max);
    let mut single: Option<Bytes> = None;
    let mut whole = BytesMut::new();
    let mut received = 0;
    loop {
        let patience = progress_max.min(deadline.remaining());
        let Ok(frame) = timeout(patience, body.frame()).await else {
            activity.body_late().store(true, Ordering::Relaxed);
            return Err(Error::new(ErrorKind::Deadline, "the request's body did not come in time"));
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| Error::bad_request("the request's body broke off").with_cause(error))?;
        let Ok(data) = frame.into_data() else { continue };
        received += data.len();
        if received > max {
            return Err(too_large(max, limit));
        }
        permit.grow(data.len()).map_err(refused)?;
        // The usual body is one frame: it is parsed where it lies.
        match single.take() {
            None if whole.is_empty() => single = Some(data),
            first => {
                whole.extend_from_slice(&first.unwrap_or_default());
                whole.extend_from_slice(&data);
            }
        }
    }
    activity.body_taken();
    Ok(single.unwrap_or_else(|| whole.freeze()))
}

fn too_large(max: usize, limit: &str) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!("the request's body is larger than {limit} ({max} bytes); send it in parts"),
    )
}
