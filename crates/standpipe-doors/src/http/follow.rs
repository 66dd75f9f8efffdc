//! A viewer's stream on its way: what there is goes out in one vectored write of bytes that all viewers share, then it
//! waits for more. Over HTTP/1.1 a viewer that may have to wait leaves hyper behind, as event streams do, so that it holds
//! no buffers; over HTTP/2, or where there is nothing to wait for, the same bytes are the body of the answer.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use http::{HeaderMap, Version};
use http_body::Frame;
use standpipe_engine::{Channel, Chunk, Error, ErrorKind, Outcome};
use standpipe_serve::{CloseReason, Outcome as Ended, RequestGuard, Session, WatchPermit};
use standpipe_tree::write_json_string;
use standpipe_wire::websocket::{self, Decoded, Decoder, Opcode, Said, Violation};
use standpipe_wire::{records, sse};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout, timeout_at};

use super::io::{Busy, Stream};
use super::output::outcome_headers;
use super::sse::{KEEP_ALIVE, SLICES_MAX, left, put_headers, send};
use crate::auth::instant;
use crate::firebase::websocket::switching;
use crate::goodbye::{self, GOODBYE_WITHIN};
use crate::streams::{Form, Part, Viewing, end_of, gap_line, last_line, records_of};

/// Bytes gathered for one write; a viewer that takes them slowly holds so many, and a chunk more.
const GATHER_BYTES: usize = 256 << 10;

/// Longest message of a client; nothing it could say means anything here.
const SAID_BYTES_MAX: usize = 64 << 10;

/// What a viewer sees of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// The bytes, a line where some are missing, and a last line that says how it ended.
    Text,
    /// The bytes and nothing else; where that can't be, the connection breaks off.
    Bytes,
    /// Events.
    Events,
    /// Lines as messages of a WebSocket, whose handshake this answers.
    Messages(String),
    /// Records as messages that are JSON.
    JsonMessages(String),
}

impl Look {
    fn form(&self) -> Form {
        match self {
            Self::Text | Self::Bytes => Form::Text,
            Self::Events => Form::Events,
            Self::Messages(_) => Form::Messages,
            Self::JsonMessages(_) => Form::JsonMessages,
        }
    }

    fn accept(&self) -> Option<&str> {
        match self {
            Self::Messages(accept) | Self::JsonMessages(accept) => Some(accept),
            _ => None,
        }
    }
}

/// How far a viewer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    /// To the end, however long that takes.
    Live,
    /// To the end, which is there.
    Ended,
    /// To this record, the next of a stream that is open.
    Until(u64),
}

/// What comes after the bytes that were gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Maybe more.
    More,
    /// Nothing: all has been said.
    Done,
    /// Nothing, and the viewer must not take what it has for the whole.
    Cut,
}

/// A stream on its way to one viewer.
#[derive(Debug)]
pub(crate) struct Feed {
    viewing: Viewing,
    look: Look,
    /// Does it wait for more once all there is has been sent?
    waits: bool,
    /// The end of what is there, for who does not wait and comes before the stream has ended.
    until: Option<u64>,
    /// The bytes of the output that are wanted, where that is not all of them.
    bytes: Option<Range<u64>>,
    trailers: bool,
    session: Session,
    keep_alive_at: Instant,
    /// When the credential ends.
    expires_at: Option<Instant>,
    /// The text is in the middle of a line.
    mid_line: bool,
    /// How the stream ended, once that was told.
    outcome: Option<Outcome>,
    /// Why there is no more, once there is not.
    end: CloseReason,
    _permit: WatchPermit,
}

impl Feed {
    pub(super) fn new(
        viewing: Viewing,
        look: Look,
        span: Span,
        trailers: bool,
        (session, permit): (Session, WatchPermit),
        expires_at: Option<SystemTime>,
    ) -> Self {
        Self {
            trailers: trailers && matches!(look, Look::Text | Look::Bytes),
            viewing,
            look,
            bytes: None,
            waits: span == Span::Live,
            until: if let Span::Until(seq) = span { Some(seq) } else { None },
            session,
            keep_alive_at: Instant::now() + KEEP_ALIVE,
            expires_at: expires_at.and_then(instant),
            mid_line: false,
            outcome: None,
            end: CloseReason::PeerClosed,
            _permit: permit,
        }
    }

    /// Only these bytes of the output, the first of which is in the first record to come.
    pub(super) fn of_bytes(self, bytes: Range<u64>) -> Self {
        Self { bytes: Some(bytes), ..self }
    }

    /// Does it want the connection for itself, of HTTP of this version?
    pub(super) fn takes_over(&self, version: Version) -> bool {
        self.look.accept().is_some() || (self.waits && version < Version::HTTP_2)
    }

    /// Does it wait for more once all there is has been sent?
    pub(super) fn waits(&self) -> bool {
        self.waits
    }

    /// Waits for something to send, and gives what there is, up to a bound.
    async fn next(&mut self, frames: &mut VecDeque<Bytes>) -> Result<Next, Error> {
        loop {
            if let Some(next) = self.gather(frames).await? {
                return Ok(next);
            }
            if self.expires_at.is_some_and(|at| Instant::now() >= at) {
                return Ok(self.refuse("credential is no longer valid", "auth_revoked", frames));
            }
            if self.session.is_closing() {
                return Ok(self.say_bye(frames));
            }
            if !frames.is_empty() {
                self.keep_alive_at = Instant::now() + KEEP_ALIVE;
                return Ok(Next::More);
            }
            if !self.waits {
                return Ok(self.stop_here(frames));
            }
            let due_at = self.expires_at.map_or(self.keep_alive_at, |at| at.min(self.keep_alive_at));
            tokio::select! {
                biased;
                () = self.session.closing() => {}
                _due = timeout_at(due_at, self.viewing.changed()) => {}
            }
            if Instant::now() >= self.keep_alive_at {
                self.keep_alive_at = Instant::now() + KEEP_ALIVE;
                if let Some(frame) = self.keep_alive() {
                    frames.push_back(frame);
                    return Ok(Next::More);
                }
            }
        }
    }

    /// Takes what there is now; says so where nothing comes after it.
    async fn gather(&mut self, frames: &mut VecDeque<Bytes>) -> Result<Option<Next>, Error> {
        let mut bytes = 0;
        while bytes < GATHER_BYTES && frames.len() < SLICES_MAX - 2 {
            let position = self.viewing.position();
            let enough = self.bytes.as_ref().is_some_and(Range::is_empty);
            if enough || self.until.is_some_and(|until| position >= until) {
                return Ok(Some(self.stop_here(frames)));
            }
            match self.viewing.take(&self.session).await {
                Ok(Some(Part::Records(chunk, range))) => {
                    let mut records = self.look.form().of(&chunk, &range);
                    if let Some(wanted) = &mut self.bytes {
                        records = part(records, offset(&chunk, range.start), wanted);
                    }
                    bytes += records.len();
                    self.mid_line = records.last().map_or(self.mid_line, |byte| *byte != b'\n');
                    if !records.is_empty() {
                        frames.push_back(records);
                    }
                }
                Ok(Some(Part::Gap { first_left })) => {
                    if let Some(next) = self.tell_gap(position, first_left, frames) {
                        return Ok(Some(next));
                    }
                }
                Ok(Some(Part::Ended(outcome))) => return Ok(Some(self.tell_end(outcome, frames))),
                Ok(None) => break,
                Err(error) if error.kind() == ErrorKind::Denied => {
                    return Ok(Some(self.refuse(error.message(), "cancel", frames)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// All there is has been told, and the viewer does not wait for more.
    fn stop_here(&self, frames: &mut VecDeque<Bytes>) -> Next {
        if self.look.accept().is_some() {
            frames.push_back(close(1000, "open"));
        }
        Next::Done
    }

    fn line(&mut self, line: &str, frames: &mut VecDeque<Bytes>) {
        let before = if std::mem::take(&mut self.mid_line) { "\n" } else { "" };
        frames.push_back(format!("{before}{line}").into());
    }

    fn tell_gap(&mut self, position: u64, first_left: u64, frames: &mut VecDeque<Bytes>) -> Option<Next> {
        let mut json = Vec::new();
        records::put_gap_json(first_left, &mut json);
        match &self.look {
            Look::Text => self.line(&gap_line(position, first_left), frames),
            Look::Bytes => return Some(Next::Cut),
            Look::Events => frames.push_back(event("gap", &json)),
            Look::Messages(_) => frames.push_back(message(gap_line(position, first_left).trim_end().as_bytes())),
            Look::JsonMessages(_) => frames.push_back(message(&json)),
        }
        None
    }

    fn tell_end(&mut self, outcome: Outcome, frames: &mut VecDeque<Bytes>) -> Next {
        let line = last_line(self.viewing.path(), &outcome);
        let mut json = Vec::new();
        records::put_end_json(&end_of(&outcome), &mut json);
        match &self.look {
            Look::Text => self.line(&line, frames),
            Look::Bytes => {}
            Look::Events => frames.push_back(event("end", &json)),
            Look::Messages(_) => frames.push_back(message(line.trim_end().as_bytes())),
            Look::JsonMessages(_) => frames.push_back(message(&json)),
        }
        if self.look.accept().is_some() {
            frames.push_back(close(1000, &outcome.state));
        }
        self.outcome = Some(outcome);
        Next::Done
    }

    /// The viewer may not view any more.
    fn refuse(&mut self, why: &str, name: &str, frames: &mut VecDeque<Bytes>) -> Next {
        self.end = CloseReason::Revoked;
        match &self.look {
            Look::Text => self.line(&format!("standpipe: {why}\n"), frames),
            Look::Bytes => return Next::Cut,
            Look::Events => {
                let mut reason = Vec::new();
                write_json_string(why, &mut reason);
                frames.push_back(event(name, &reason));
            }
            Look::Messages(_) | Look::JsonMessages(_) => frames.push_back(close(1008, why)),
        }
        Next::Done
    }

    /// The server goes before the stream ends: the viewer learns where to go on.
    fn say_bye(&mut self, frames: &mut VecDeque<Bytes>) -> Next {
        self.end = self.session.close_reason().unwrap_or(CloseReason::Shutdown);
        let (reason, next_seq) = (self.end.as_str(), self.viewing.position());
        match &self.look {
            Look::Text => self.line(&format!("standpipe: closed ({reason}); go on with ?from={next_seq}\n"), frames),
            Look::Bytes => return Next::Cut,
            Look::Events => {
                let json = format!(r#"{{"event":"bye","reason":"{reason}","next_seq":{next_seq}}}"#);
                frames.push_back(event("bye", json.as_bytes()));
            }
            Look::Messages(_) | Look::JsonMessages(_) => {
                let code = if self.end == CloseReason::Shutdown { 1001 } else { 1008 };
                frames.push_back(close(code, reason));
            }
        }
        Next::Done
    }

    /// Something that shows a quiet stream to be alive, and is no part of it.
    fn keep_alive(&self) -> Option<Bytes> {
        match &self.look {
            Look::Text | Look::Bytes => None,
            Look::Events => Some(event("keep-alive", b"null")),
            Look::Messages(_) | Look::JsonMessages(_) => {
                let mut frame = Vec::new();
                websocket::put(Opcode::Ping, b"", &mut frame);
                Some(frame.into())
            }
        }
    }

    /// The stream as the body of an answer.
    pub(crate) fn into_body(self) -> BoxStream<'static, Result<Frame<Bytes>, Error>> {
        stream::try_unfold((self, VecDeque::new(), Some(Next::More)), |(mut feed, mut frames, mut next)| async move {
            loop {
                if let Some(frame) = frames.pop_front() {
                    return Ok(Some((Frame::data(frame), (feed, frames, next))));
                }
                match next {
                    Some(Next::More) => next = Some(feed.next(&mut frames).await?),
                    Some(Next::Done) if feed.trailers => {
                        let trailers = Frame::trailers(feed.outcome_headers());
                        return Ok(Some((trailers, (feed, frames, None))));
                    }
                    Some(Next::Cut) => return Err(Error::unavailable("the stream broke off")),
                    Some(Next::Done) | None => return Ok(None),
                }
            }
        })
        .boxed()
    }

    fn outcome_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        outcome_headers(self.outcome.as_ref(), &mut headers);
        headers
    }

    /// Serves a connection that was taken over, to its end.
    pub(super) fn carry(
        self: Box<Self>,
        stream: Stream,
        version: Version,
        headers: HeaderMap,
        request: RequestGuard,
        busy: Busy,
    ) -> BoxFuture<'static, CloseReason> {
        match self.look.accept() {
            None => Box::pin(carry_text(stream, self, version, headers, request, busy)),
            Some(_) => Box::pin(carry_messages(stream, self, headers, request, busy)),
        }
    }
}

/// Offset of the first byte of output at or behind the record at `place` of a chunk.
fn offset(chunk: &Chunk, place: usize) -> u64 {
    let before = records_of(chunk, 0..place).filter(|record| record.channel != Channel::Note);
    chunk.offset() + before.map(|record| record.bytes.len() as u64).sum::<u64>()
}

/// What is wanted of bytes that begin at `offset`; they are wanted no more then.
fn part(bytes: Bytes, offset: u64, wanted: &mut Range<u64>) -> Bytes {
    let within = |at: u64| usize::try_from(at.saturating_sub(offset)).map_or(bytes.len(), |at| at.min(bytes.len()));
    let part = bytes.slice(within(wanted.start)..within(wanted.end));
    wanted.start = wanted.start.max(offset + bytes.len() as u64).min(wanted.end);
    part
}

fn event(name: &str, data: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(data.len() + name.len() + 20);
    sse::encode(name, None, data, &mut out);
    out.into()
}

fn message(text: &[u8]) -> Bytes {
    let mut out = Vec::new();
    websocket::put(Opcode::Text, text, &mut out);
    out.into()
}

fn close(code: u16, reason: &str) -> Bytes {
    let mut out = Vec::new();
    websocket::put_close(code, reason, &mut out);
    out.into()
}

/// Puts the framing of one chunk (RFC 9112 §7.1) around all frames.
fn frame(frames: &mut VecDeque<Bytes>) {
    let bytes: usize = frames.iter().map(Bytes::len).sum();
    if bytes > 0 {
        frames.push_front(format!("{bytes:x}\r\n").into());
        frames.push_back(Bytes::from_static(b"\r\n"));
    }
}

/// The last chunk and the trailers: the body ends here, it does not break off.
fn last_chunk(feed: &Feed) -> Bytes {
    let mut last = b"0\r\n".to_vec();
    if feed.trailers {
        put_headers(&feed.outcome_headers(), &mut last);
    }
    last.extend_from_slice(b"\r\n");
    last.into()
}

/// Sends the stream over HTTP/1.1 until it ends, the peer leaves or is too slow, or the server stops.
async fn carry_text(
    mut stream: Stream,
    mut feed: Box<Feed>,
    version: Version,
    headers: HeaderMap,
    mut request: RequestGuard,
    _busy: Busy,
) -> CloseReason {
    let chunked = version >= Version::HTTP_11;
    let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
    put_headers(&headers, &mut head);
    drop(headers);
    head.extend_from_slice(b"connection: close\r\n");
    head.extend_from_slice(if chunked { b"transfer-encoding: chunked\r\n\r\n" } else { b"\r\n" });
    let mut frames = VecDeque::from([Bytes::from(head)]);
    let mut next = Next::More;
    loop {
        if let Err(reason) = sent(&mut stream, &mut frames, &mut request).await {
            return reason;
        }
        match next {
            Next::More => {}
            Next::Done => {
                let _gone = stream.shutdown().await;
                request.finished();
                return feed.end;
            }
            Next::Cut => {
                request.failed("cut");
                return feed.end;
            }
        }
        frames.shrink_to_fit();
        tokio::select! {
            biased;
            got = feed.next(&mut frames) => match got {
                Ok(got) => next = got,
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
        if chunked {
            frame(&mut frames);
            if next == Next::Done {
                frames.push_back(last_chunk(&feed));
            }
        }
    }
}

/// Writes everything there is.
async fn sent(
    stream: &mut Stream,
    frames: &mut VecDeque<Bytes>,
    request: &mut RequestGuard,
) -> Result<(), CloseReason> {
    if send(stream, frames).await.is_ok() {
        return Ok(());
    }
    request.end(Ended::Cancelled);
    Err(if stream.stalled() { CloseReason::SlowWatcher } else { CloseReason::PeerVanished })
}

/// Sends the stream as messages of a WebSocket, and answers what the client says.
async fn carry_messages(
    mut stream: Stream,
    mut feed: Box<Feed>,
    headers: HeaderMap,
    mut request: RequestGuard,
    _busy: Busy,
) -> CloseReason {
    let head = switching(feed.look.accept().unwrap_or_default(), &headers);
    drop(headers);
    let mut frames = VecDeque::from([Bytes::from(head)]);
    let (mut ears, mut next) = (Ears::default(), Next::More);
    loop {
        if next != Next::More {
            let last_words = async {
                send(&mut stream, &mut frames).await?;
                goodbye::end(&mut stream, goodbye::cuts_short(feed.end)).await
            };
            let _gone = timeout(GOODBYE_WITHIN, last_words).await;
            request.finished();
            return feed.end;
        }
        if let Err(reason) = sent(&mut stream, &mut frames, &mut request).await {
            return reason;
        }
        frames.shrink_to_fit();
        tokio::select! {
            biased;
            heard = ears.hear(&mut stream) => match heard {
                Heard::Ping(bytes) => {
                    let mut pong = Vec::new();
                    websocket::put(Opcode::Pong, &bytes, &mut pong);
                    frames.push_back(pong.into());
                }
                Heard::Bye => {
                    frames.push_back(close(1000, ""));
                    next = Next::Done;
                }
                Heard::Wrong(violation) => {
                    frames.push_back(close(violation.code(), &violation.to_string()));
                    feed.end = CloseReason::ProtocolError;
                    next = Next::Done;
                }
                Heard::Gone => {
                    request.finished();
                    return CloseReason::PeerClosed;
                }
            },
            got = feed.next(&mut frames) => match got {
                Ok(got) => next = got,
                Err(error) => {
                    frames.push_back(close(1011, error.message()));
                    feed.end = CloseReason::Internal;
                    next = Next::Done;
                }
            },
        }
    }
}

/// What a client of a WebSocket says; it is looked at, for the protocol wants that, and means nothing.
#[derive(Debug)]
struct Ears {
    input: Vec<u8>,
    /// Bytes of input before another look makes sense.
    at_least: usize,
    decoder: Decoder,
}

impl Default for Ears {
    fn default() -> Self {
        Self { input: Vec::new(), at_least: 1, decoder: Decoder::default() }
    }
}

/// Something that has to be answered.
enum Heard {
    Ping(Vec<u8>),
    Bye,
    Wrong(Violation),
    Gone,
}

impl Ears {
    /// Waits for something that has to be answered. Nothing is lost when this is dropped half-way.
    async fn hear(&mut self, stream: &mut Stream) -> Heard {
        loop {
            if let Some(heard) = self.look() {
                return heard;
            }
            let mut bytes = [0; 256];
            match stream.read(&mut bytes).await {
                Ok(0) | Err(_) => return Heard::Gone,
                Ok(count) => self.input.extend_from_slice(&bytes[..count]),
            }
        }
    }

    fn look(&mut self) -> Option<Heard> {
        while self.input.len() >= self.at_least {
            let (used, heard) = match self.decoder.decode(&mut self.input, SAID_BYTES_MAX) {
                Err(violation) => return Some(Heard::Wrong(violation)),
                Ok(Decoded::Incomplete { at_least }) => {
                    self.at_least = at_least;
                    break;
                }
                Ok(Decoded::Frame { used, said: Said::Ping(bytes) }) => (used, Some(Heard::Ping(bytes.to_vec()))),
                Ok(Decoded::Frame { used, said: Said::Close(_) }) => (used, Some(Heard::Bye)),
                Ok(Decoded::Frame { used, .. }) => (used, None),
            };
            self.decoder.forget();
            self.input.drain(..used);
            self.at_least = 1;
            if self.input.is_empty() {
                self.input = Vec::new();
            }
            if heard.is_some() {
                return heard;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_cut_at_both_ends() {
        let check = |offset: u64, wanted: Range<u64>, expected: &str, left: Range<u64>| {
            let mut now = wanted.clone();
            let part = part(Bytes::from_static(b"0123456789"), offset, &mut now);
            assert_eq!((part, now), (Bytes::copy_from_slice(expected.as_bytes()), left), "{offset} {wanted:?}");
        };
        check(100, 100..105, "01234", 105..105);
        check(100, 103..200, "3456789", 110..200);
        check(100, 50..102, "01", 102..102);
        check(100, 110..120, "", 110..120);
        check(0, 0..u64::MAX, "0123456789", 10..u64::MAX);
    }
}
