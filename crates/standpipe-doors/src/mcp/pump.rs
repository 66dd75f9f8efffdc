//! A talk on a stream of bytes: reads, cuts into messages, writes what comes back, ends in order. How messages are marked off is a [`Framing`]'s matter, what
//! they mean is `talk`'s.
//!
//! Output goes before input: while the client does not take what it is sent, nothing is read.

use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use standpipe_mcp::Metrics;
use standpipe_serve::{BytesPermit, CloseReason, Refusal, Session};
use standpipe_wire::jsonrpc::{Message, Outline};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, Interval, Sleep, interval_at, sleep, timeout};
use tokio_util::io::poll_read_buf;

use super::talk::{Talk, TooSlow, refused, too_long};
use crate::goodbye::{self, GOODBYE_WITHIN};

/// Output that is gathered before it is written; reading stops while so much waits. Input above it is admitted like a body.
const GATHER_BYTES: usize = 64 << 10;

/// A message of at least this many bytes is written as it is, not copied.
const WHOLE_BYTES: usize = 16 << 10;

/// How messages stand in a stream of bytes.
pub(crate) trait Framing: Send {
    /// Where to put what is read next, with room for it.
    fn buf(&mut self, bytes_max: usize) -> &mut BytesMut;

    /// Bytes held of what has not come whole.
    fn held(&self) -> usize;

    /// The next of what was read. `out` is for what the framing itself has to say.
    fn next(&mut self, bytes_max: usize, out: &mut Out) -> Option<Taken>;

    /// What nothing ends but the stream.
    fn end(&mut self, bytes_max: usize) -> Option<Taken>;

    /// Drops the message that is coming in, whose rest is dropped as it comes; false where that can't be.
    fn give_up(&mut self) -> bool;

    /// Puts a message.
    fn put(&self, message: &Message, out: &mut Out);

    /// Says something so that silence is not taken for death.
    fn keep_alive(&self, out: &mut Out) {
        let _nothing_to_say = out;
    }

    /// The last words.
    fn goodbye(&self, reason: CloseReason, out: &mut Out) {
        let _nothing_to_say = (reason, out);
    }
}

/// What was read.
#[derive(Debug)]
pub(crate) enum Taken {
    /// A message, or what should be one.
    Message(Bytes),
    /// A message that was too long, or given up.
    Dropped(Outline),
    /// Nothing more is to be read.
    End(CloseReason),
}

/// How patient a stream is with its peer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Patience {
    /// Time for the first byte.
    pub(crate) first_byte_ms: Option<u64>,
    /// Time without a byte, at any time.
    pub(crate) silence_ms: Option<u64>,
    /// Time for the peer to take a byte of what waits for it.
    pub(crate) write_ms: Option<u64>,
    /// How often something is said.
    pub(crate) keep_alive_ms: Option<u64>,
}

/// Serves a client to its end; gives the reason.
pub(crate) async fn pump<S, F>(
    io: &mut S,
    framing: F,
    talk: Talk,
    session: &Session,
    metrics: &Metrics,
    patience: Patience,
    first: Out,
) -> CloseReason
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    F: Framing,
{
    if let Some(time) = patience.first_byte_ms.or(patience.silence_ms) {
        let late =
            if patience.first_byte_ms.is_some() { CloseReason::FirstByteTimeout } else { CloseReason::IdleTimeout };
        session.due(late, time);
    }
    let keep_alive = patience.keep_alive_ms.map(|every| {
        let every = Duration::from_millis(every.max(1));
        interval_at(Instant::now() + every, every)
    });
    let mut pump = Pump {
        io: &mut *io,
        framing,
        talk,
        session,
        metrics,
        patience,
        keep_alive,
        permit: None,
        no_room: None,
        out: first,
        is_blocked: false,
    };
    let reason = pump.serve().await;
    let reason = session.close_reason().unwrap_or(reason);
    let Pump { framing, talk, mut out, .. } = pump;
    // What is still at work is cancelled before the client can hear of the end.
    drop(talk);
    framing.goodbye(reason, &mut out);
    let last_words = async {
        while !out.is_empty() {
            let count = io.write(out.chunk()).await?;
            out.advance(count);
        }
        goodbye::end(io, goodbye::cuts_short(reason)).await
    };
    let _gone = timeout(GOODBYE_WITHIN, last_words).await;
    reason
}

struct Pump<'c, S, F> {
    io: &'c mut S,
    framing: F,
    talk: Talk,
    session: &'c Session,
    metrics: &'c Metrics,
    patience: Patience,
    keep_alive: Option<Interval>,
    /// Admits the bytes of a long message that is coming in.
    permit: Option<BytesPermit>,
    /// Why it is not.
    no_room: Option<Refusal>,
    out: Out,
    /// The client does not take what it is sent.
    is_blocked: bool,
}

/// What is to be done next.
enum Step {
    Read(usize),
    Closing,
    End(CloseReason),
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send, F: Framing> Pump<'_, S, F> {
    async fn serve(&mut self) -> CloseReason {
        let session = self.session;
        let mut closing = pin!(session.closing());
        // Why it ends, and until when what is at work may.
        let mut ending: Option<(CloseReason, Pin<Box<Sleep>>)> = None;
        loop {
            let step = poll_fn(|context| {
                if let Poll::Ready(reason) = self.poll_out(context) {
                    return Poll::Ready(Step::End(reason));
                }
                match &mut ending {
                    Some((reason, late)) => {
                        let is_done = self.talk.is_idle() && self.out.is_empty();
                        if is_done || late.as_mut().poll(context).is_ready() {
                            return Poll::Ready(Step::End(*reason));
                        }
                    }
                    None => {
                        if closing.as_mut().poll(context).is_ready() {
                            return Poll::Ready(Step::Closing);
                        }
                        if self.out.len() < GATHER_BYTES {
                            return self.poll_read(context).map(|read| match read {
                                Ok(count) => Step::Read(count),
                                Err(_) => Step::End(CloseReason::PeerVanished),
                            });
                        }
                    }
                }
                Poll::Pending
            });
            let reason = match step.await {
                Step::End(reason) => return reason,
                Step::Read(count) if count > 0 => match self.read(count) {
                    Some(reason) => reason,
                    None => continue,
                },
                Step::Read(_) => {
                    let last = self.framing.end(session.limits().mcp_message_bytes_max);
                    last.and_then(|last| self.taken(last)).unwrap_or(CloseReason::PeerClosed)
                }
                Step::Closing => CloseReason::Shutdown,
            };
            if reason == CloseReason::ProtocolError {
                return reason;
            }
            self.talk.end();
            ending = Some((reason, Box::pin(sleep(Duration::from_millis(session.limits().mcp_grace_ms)))));
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let buf = self.framing.buf(self.session.limits().mcp_message_bytes_max);
        poll_read_buf(Pin::new(&mut *self.io), context, buf)
    }

    /// `count` bytes were read; gives the reason where nothing more is to be read.
    fn read(&mut self, count: usize) -> Option<CloseReason> {
        self.session.add_bytes(count as u64, 0);
        if !self.is_blocked {
            self.heard();
        }
        let bytes_max = self.session.limits().mcp_message_bytes_max;
        while let Some(taken) = self.framing.next(bytes_max, &mut self.out) {
            if let Some(reason) = self.taken(taken) {
                return Some(reason);
            }
        }
        self.admit()
    }

    /// The peer has been heard.
    fn heard(&self) {
        match self.patience.silence_ms {
            Some(silence) => self.session.due(CloseReason::IdleTimeout, silence),
            None => self.session.not_due(),
        }
    }

    /// What comes in of a long message is admitted like a body; where there is no room for it, it is dropped as it comes.
    fn admit(&mut self) -> Option<CloseReason> {
        let held = self.framing.held();
        let admitted = self.permit.as_ref().map_or(0, BytesPermit::bytes);
        if held <= admitted + GATHER_BYTES {
            return None;
        }
        let permit = match self.permit.take() {
            Some(permit) => Ok(permit),
            None => self.session.body_bytes(0),
        };
        match permit.and_then(|mut permit| permit.grow(held - admitted).map(|()| permit)) {
            Ok(permit) => self.permit = Some(permit),
            Err(refusal) if self.framing.give_up() => self.no_room = Some(refusal),
            Err(refusal) => return Some(CloseReason::Refused(refusal)),
        }
        None
    }

    fn taken(&mut self, taken: Taken) -> Option<CloseReason> {
        match taken {
            Taken::Message(message) => self.talk.take(message),
            Taken::Dropped(outline) => {
                let fault = match self.no_room.take() {
                    Some(refusal) => refused(refusal),
                    None => {
                        self.metrics.hit("mcp_message_bytes_max");
                        too_long(self.session.limits().mcp_message_bytes_max)
                    }
                };
                self.talk.take_dropped(&outline, &fault);
            }
            Taken::End(reason) => return Some(reason),
        }
        self.permit = None;
        None
    }

    /// Writes what there is; ready when the client is lost.
    fn poll_out(&mut self, context: &mut Context<'_>) -> Poll<CloseReason> {
        if let Some(keep_alive) = &mut self.keep_alive
            && keep_alive.poll_tick(context).is_ready()
            && self.out.is_empty()
        {
            self.framing.keep_alive(&mut self.out);
        }
        loop {
            while self.out.len() < GATHER_BYTES {
                match self.talk.poll_next(context) {
                    Poll::Ready(Ok(message)) => self.framing.put(&message, &mut self.out),
                    Poll::Ready(Err(TooSlow)) => return Poll::Ready(CloseReason::SlowWatcher),
                    Poll::Pending => break,
                }
            }
            if self.out.is_empty() {
                return Poll::Pending;
            }
            match Pin::new(&mut *self.io).poll_write(context, self.out.chunk()) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    self.out.advance(count);
                    self.session.add_bytes(0, count as u64);
                    self.blocked(false);
                }
                Poll::Ready(_) => return Poll::Ready(CloseReason::PeerVanished),
                Poll::Pending => {
                    self.blocked(true);
                    return Poll::Pending;
                }
            }
        }
    }

    /// Who does not take what it is sent is lost after a while; but who has started us may take its time.
    fn blocked(&mut self, is_blocked: bool) {
        if std::mem::replace(&mut self.is_blocked, is_blocked) == is_blocked {
            return;
        }
        self.session.output_blocked(is_blocked);
        match (is_blocked, self.patience.write_ms) {
            (true, Some(time)) => self.session.due(CloseReason::WriteTimeout, time),
            (true, None) => {}
            (false, _) => self.heard(),
        }
    }
}

/// What waits to be written.
#[derive(Debug, Default)]
pub(crate) struct Out {
    /// Before `tail`.
    whole: VecDeque<Bytes>,
    tail: BytesMut,
    bytes: usize,
}

impl Out {
    /// Appends what is small.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        self.tail.extend_from_slice(bytes);
    }

    /// Appends what may be large, and is not copied then.
    pub(crate) fn put_whole(&mut self, bytes: Bytes) {
        if bytes.len() < WHOLE_BYTES {
            return self.put(&bytes);
        }
        self.bytes += bytes.len();
        let before = self.tail.split().freeze();
        self.whole.extend([before, bytes].into_iter().filter(|part| !part.is_empty()));
    }

    fn len(&self) -> usize {
        self.bytes
    }

    fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    fn chunk(&self) -> &[u8] {
        self.whole.front().map_or(&self.tail, |whole| whole)
    }

    fn advance(&mut self, count: usize) {
        self.bytes -= count;
        match self.whole.front_mut() {
            Some(whole) => {
                whole.advance(count);
                if whole.is_empty() {
                    self.whole.pop_front();
                }
            }
            None => self.tail.advance(count),
        }
        if self.bytes == 0 {
            // An idle client has no room of its own.
            self.tail = BytesMut::new();
        }
    }
}
