//! Streams of events towards a client of MCP (spec mcp §2.2): messages as they come, a comment where none does, and an end: of the stream, of what
//! the client's token allows, or of the server.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use standpipe_engine::Error;
use standpipe_mcp::sessions::{EventId, Reader};
use standpipe_mcp::{Caller, Inlet};
use standpipe_serve::{Session, WatchPermit};
use standpipe_wire::jsonrpc::Message;
use tokio::time::{Instant, sleep_until};

use crate::auth::instant;
use crate::goodbye::GOODBYE_WITHIN;

/// Events that are there already go out together, up to about this many bytes.
const TOGETHER_BYTES: usize = 32 << 10;

/// Where messages come from.
#[derive(Debug)]
pub(super) enum Source {
    /// One request that stands alone: the client's leaving ends it.
    Alone(Inlet),
    /// A stream of a session: the client may come back for it.
    Resumable(Reader),
}

impl Source {
    async fn next(&mut self) -> Option<(Option<EventId>, Message)> {
        match self {
            Self::Alone(inlet) => inlet.next().await.map(|message| (None, message)),
            Self::Resumable(reader) => reader.next().await.map(|event| (Some(event.id), event.message)),
        }
    }
}

/// What the stop of the server does to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AtStop {
    /// It goes on to its reply; the drain has an end.
    GoesOn,
    /// It has a moment to say goodbye.
    SaysGoodbye,
    /// It ends.
    Ends,
}

/// A stream on its way.
pub(super) struct Events {
    source: Source,
    session: Session,
    /// Sent before anything else, together with what is there then.
    first: Vec<u8>,
    every: Duration,
    /// When the client's token ends.
    expires_at: Option<Instant>,
    at_stop: AtStop,
    /// Set when the server stops.
    ends_at: Option<Instant>,
    _permit: Option<WatchPermit>,
}

impl Events {
    pub(super) fn new(source: Source, caller: &Caller, at_stop: AtStop, permit: Option<WatchPermit>) -> Self {
        let session = caller.session.clone();
        Self {
            source,
            first: Vec::new(),
            every: Duration::from_millis(session.limits().mcp_keepalive_ms),
            expires_at: caller.expires_at.and_then(instant),
            at_stop,
            ends_at: None,
            session,
            _permit: permit,
        }
    }

    /// Begins with an event without data, which tells where to resume before there is anything to say.
    pub(super) fn with_position(mut self) -> Self {
        if let Source::Resumable(reader) = &self.source {
            self.first = format!("id: {}\ndata: \n\n", reader.position()).into();
        }
        self
    }

    /// Begins with a comment: something goes out at once.
    pub(super) fn with_comment(mut self) -> Self {
        if self.first.is_empty() {
            self.first.extend_from_slice(COMMENT);
        }
        self
    }

    /// As the body of an answer.
    pub(super) fn into_body(self) -> BoxStream<'static, Result<Bytes, Error>> {
        stream::unfold(self, |mut events| async move { Some((Ok(events.next().await?), events)) }).boxed()
    }

    async fn next(&mut self) -> Option<Bytes> {
        let mut out = std::mem::take(&mut self.first);
        if out.is_empty() {
            match self.wait().await {
                Some(Happened::Message(id, message)) => put(id, &message, &mut out),
                Some(Happened::Silence) => out.extend_from_slice(COMMENT),
                None => return None,
            }
        }
        while out.len() < TOGETHER_BYTES
            && let Some(Some((id, message))) = self.source.next().now_or_never()
        {
            put(id, &message, &mut out);
        }
        Some(out.into())
    }

    async fn wait(&mut self) -> Option<Happened> {
        let silent_at = Instant::now() + self.every;
        loop {
            let ends_at = [self.expires_at, self.ends_at].into_iter().flatten().min();
            let stops = self.at_stop != AtStop::GoesOn && self.ends_at.is_none();
            tokio::select! {
                biased;
                next = self.source.next() => return next.map(|(id, message)| Happened::Message(id, message)),
                () = sleep_until(ends_at.unwrap_or(silent_at)), if ends_at.is_some() => return None,
                () = self.session.closing(), if stops => {
                    if self.at_stop == AtStop::Ends {
                        return None;
                    }
                    self.ends_at = Some(Instant::now() + GOODBYE_WITHIN);
                }
                () = sleep_until(silent_at) => return Some(Happened::Silence),
            }
        }
    }
}

/// What a stream has waited for.
enum Happened {
    Message(Option<EventId>, Message),
    Silence,
}

/// What clients skip.
const COMMENT: &[u8] = b": keep-alive\n\n";

/// Appends an event.
fn put(id: Option<EventId>, message: &Message, out: &mut Vec<u8>) {
    let line = message.line();
    out.reserve(line.len() + 48);
    out.extend_from_slice(b"event: message\n");
    if let Some(id) = id {
        let mut number = itoa::Buffer::new();
        out.extend_from_slice(b"id: ");
        out.extend_from_slice(number.format(id.stream).as_bytes());
        out.push(b'-');
        out.extend_from_slice(number.format(id.seq).as_bytes());
        out.push(b'\n');
    }
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(&line);
    out.extend_from_slice(b"\n\n");
}
