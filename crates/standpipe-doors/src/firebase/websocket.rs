//! A session's link over a WebSocket: takes over an HTTP/1.1 connection, reads frames and joins what came in
//! pieces, cuts what is long. Bytes are counted and slow peers cut by the [`Stream`] below.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Version, header};
use standpipe_engine::Error;
use standpipe_serve::{BytesPermit, CloseReason, RequestGuard, Session};
use standpipe_wire::firebase::{Pieces, pieces};
use standpipe_wire::websocket::{Decoded, Decoder, Opcode, Said, Violation, put, put_close};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::poll_move::carry_on;
use super::session::{self, Incoming, Link};
use super::{Context, Polls};
use crate::goodbye::{self, GOODBYE_WITHIN};
use crate::http::{Busy, Stream};
use crate::scratch::{TURN_BYTES, with_scratch};

/// Bytes written at once; what is longer is made and written in parts.
const WRITE_BYTES: usize = 64 << 10;

/// A connection that from here on is a WebSocket.
#[derive(Debug)]
pub(crate) struct Upgrade {
    context: Context,
    /// The session to carry on, and among which it is.
    began: Option<(Polls, String)>,
    accept: String,
}

impl Upgrade {
    /// Reads what a client asks for (RFC 6455 §4.2.1).
    ///
    /// # Errors
    /// `BadRequest` for what is not a WebSocket handshake.
    pub(crate) fn new(
        method: &Method,
        headers: &HeaderMap,
        context: Context,
        began: Option<(Polls, String)>,
    ) -> Result<Self, Error> {
        Ok(Self { context, began, accept: handshake(method, Version::HTTP_11, headers)? })
    }

    /// Serves the connection to its end.
    pub(crate) async fn carry(
        self,
        stream: Stream,
        session: Session,
        headers: HeaderMap,
        mut request: RequestGuard,
        busy: Busy,
    ) -> CloseReason {
        let mut link = WebSocket::new(stream, session.clone());
        link.out = switching(&self.accept, &headers);
        request.finished();
        drop((request, busy, headers));
        match self.began {
            None => session::serve(link, session, self.context).await,
            Some((polls, id)) => carry_on(&polls, &id, &self.context.database, &self.context.host, link, session).await,
        }
    }
}

/// What answers a client's handshake (RFC 6455 §4.2).
///
/// # Errors
/// `BadRequest` for what is not a WebSocket handshake.
pub(crate) fn handshake(method: &Method, version: Version, headers: &HeaderMap) -> Result<String, Error> {
    let has = |name, wanted: &str| {
        let words = headers.get_all(name).iter().filter_map(|value: &HeaderValue| value.to_str().ok());
        words.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case(wanted))
    };
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let asked = *method == Method::GET
        && version == Version::HTTP_11
        && has(header::CONNECTION, "upgrade")
        && has(header::UPGRADE, "websocket")
        && has(header::SEC_WEBSOCKET_VERSION, "13");
    match key {
        Some(key) if asked => Ok(derive_accept_key(key.as_bytes())),
        _ => Err(Error::bad_request(
            "this is a WebSocket: ask for it with GET over HTTP/1.1, 'Upgrade: websocket' and version 13",
        )),
    }
}

/// The head of the answer to a handshake.
pub(crate) fn switching(accept: &str, headers: &HeaderMap) -> Vec<u8> {
    let mut head = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n".to_vec();
    let accept = ("sec-websocket-accept", accept.as_bytes());
    let others = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    for (name, value) in others.chain([accept]) {
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct WebSocket {
    stream: Stream,
    session: Session,
    /// Frames not looked at yet, from `start` on; an idle connection has none.
    input: Vec<u8>,
    start: usize,
    /// Bytes of input before another look makes sense.
    at_least: usize,
    decoder: Decoder,
    pieces: Pieces,
    /// Admits the bytes of a message that is coming in.
    permit: Option<BytesPermit>,
    /// What the peer has not taken, from `sent` on.
    out: Vec<u8>,
    sent: usize,
    /// The newest ping that was not answered: only that one has to be (RFC 6455 §5.5.3).
    pong: Option<Vec<u8>>,
    violation: Option<Violation>,
}

impl WebSocket {
    fn new(stream: Stream, session: Session) -> Self {
        // Who never says a word is lost like who says none any more.
        session.due(CloseReason::IdleTimeout, session.limits().ws_silence_ms_max);
        Self {
            stream,
            session,
            input: Vec::new(),
            start: 0,
            at_least: 1,
            decoder: Decoder::default(),
            pieces: Pieces::default(),
            permit: None,
            out: Vec::new(),
            sent: 0,
            pong: None,
            violation: None,
        }
    }

    fn poll_recv(&mut self, context: &mut TaskContext<'_>) -> Poll<Incoming> {
        loop {
            match self.next() {
                Ok(Some(incoming)) => return Poll::Ready(incoming),
                Ok(None) => {}
                Err(violation) => {
                    self.violation = Some(violation);
                    return Poll::Ready(Incoming::End(CloseReason::ProtocolError));
                }
            }
            if let Poll::Ready(Err(error)) = self.poll_out(context) {
                return Poll::Ready(Incoming::End(self.cut(&error)));
            }
            if let Err(reason) = ready!(self.poll_read(context)) {
                return Poll::Ready(Incoming::End(reason));
            }
        }
    }

    /// What the frames say that are here.
    fn next(&mut self) -> Result<Option<Incoming>, Violation> {
        let bytes_max = self.session.limits().ws_message_bytes_max;
        while self.input.len() - self.start >= self.at_least {
            let (used, incoming) = match self.decoder.decode(&mut self.input[self.start..], bytes_max)? {
                Decoded::Incomplete { at_least } => {
                    self.at_least = at_least;
                    break;
                }
                Decoded::Frame { used, said } => (
                    used,
                    match said {
                        Said::Text(text) => match self.pieces.take(text, bytes_max).map_err(|_| Violation::TooLong)? {
                            Some(message) => Some(Incoming::Message(message, self.permit.take())),
                            None if self.pieces.is_open() => None,
                            None => Some(Incoming::KeepAlive),
                        },
                        Said::Fragment => None,
                        Said::Ping(bytes) => {
                            self.pong = Some(bytes.to_vec());
                            Some(Incoming::KeepAlive)
                        }
                        Said::Pong => Some(Incoming::KeepAlive),
                        Said::Close(_) => Some(Incoming::End(CloseReason::PeerClosed)),
                    },
                ),
            };
            self.decoder.forget();
            self.start += used;
            self.at_least = 1;
            if self.start == self.input.len() {
                self.input = Vec::new();
                self.start = 0;
            }
            if incoming.is_some() {
                return Ok(incoming);
            }
        }
        Ok(None)
    }

    /// Reads once.
    fn poll_read(&mut self, context: &mut TaskContext<'_>) -> Poll<Result<(), CloseReason>> {
        let read = with_scratch(|scratch| {
            let mut buf = ReadBuf::new(&mut scratch.input);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buf))?;
            let fresh = buf.filled();
            if self.start > 0 {
                self.input.drain(..self.start);
                self.start = 0;
            }
            self.input.extend_from_slice(fresh);
            Poll::Ready(io::Result::Ok(fresh.len()))
        });
        match ready!(read) {
            Ok(0) => return Poll::Ready(Err(CloseReason::PeerClosed)),
            Ok(_) => {}
            Err(_) => return Poll::Ready(Err(CloseReason::PeerVanished)),
        }
        self.session.due(CloseReason::IdleTimeout, self.session.limits().ws_silence_ms_max);
        Poll::Ready(self.admit())
    }

    /// What comes in of a message of more than a turn's bytes is admitted like a body.
    fn admit(&mut self) -> Result<(), CloseReason> {
        let held = self.input.len() + self.decoder.held() + self.pieces.held();
        let admitted = self.permit.as_ref().map_or(0, BytesPermit::bytes);
        if held <= admitted + TURN_BYTES {
            return Ok(());
        }
        let permit = match &mut self.permit {
            Some(permit) => permit,
            none => none.insert(self.session.body_bytes(0).map_err(CloseReason::Refused)?),
        };
        permit.grow(held - admitted).map_err(CloseReason::Refused)
    }

    /// Writes what there is; ready when the peer has taken all of it.
    fn poll_out(&mut self, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.sent == self.out.len() {
                self.sent = 0;
                self.out.clear();
                let Some(pong) = self.pong.take() else { break };
                put(Opcode::Pong, &pong, &mut self.out);
            }
            match ready!(Pin::new(&mut self.stream).poll_write(context, &self.out[self.sent..])) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => self.sent += count,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.out = Vec::new();
        Poll::Ready(Ok(()))
    }

    fn cut(&self, _error: &io::Error) -> CloseReason {
        if self.stream.stalled() { CloseReason::SlowWatcher } else { CloseReason::PeerVanished }
    }

    async fn flush(&mut self) -> Result<(), CloseReason> {
        let written = poll_fn(|context| self.poll_out(context)).await;
        written.map_err(|error| self.cut(&error))
    }

    /// One frame, or the number of pieces and then the pieces.
    async fn put(&mut self, message: &Bytes) -> Result<(), CloseReason> {
        // What we send is JSON that we made of UTF-8.
        let text = std::str::from_utf8(message).map_err(|_| CloseReason::Internal)?;
        let count = pieces(text).count();
        if count > 1 {
            put(Opcode::Text, itoa::Buffer::new().format(count).as_bytes(), &mut self.out);
        }
        for piece in pieces(text) {
            put(Opcode::Text, piece.as_bytes(), &mut self.out);
            if self.out.len() >= WRITE_BYTES {
                self.flush().await?;
            }
        }
        Ok(())
    }
}

impl Link for WebSocket {
    async fn recv(&mut self) -> Incoming {
        poll_fn(|context| self.poll_recv(context)).await
    }

    async fn send(&mut self, messages: Vec<Bytes>) -> Result<(), CloseReason> {
        for message in &messages {
            self.put(message).await?;
        }
        self.flush().await
    }

    async fn close(&mut self, reason: CloseReason, words: &str) {
        let (code, words) = match (self.violation, reason) {
            (Some(violation), _) => (violation.code(), violation.to_string()),
            (None, CloseReason::PeerClosed) => (1000, String::new()),
            (None, CloseReason::Shutdown) => (1001, "the server is shutting down".into()),
            (None, CloseReason::ProtocolError) => (1008, words.to_owned()),
            (None, CloseReason::Refused(refusal)) => (1013, refusal.to_string()),
            (None, CloseReason::Internal) => (1011, "internal error".into()),
            (None, reason) => (1008, format!("closed: {}", reason.as_str())),
        };
        put_close(code, &words, &mut self.out);
        let last_words = async {
            self.flush().await?;
            goodbye::end(&mut self.stream, goodbye::cuts_short(reason)).await.map_err(|_| CloseReason::PeerVanished)
        };
        let _gone = timeout(GOODBYE_WITHIN, last_words).await;
    }
}
