//! The driver of command protocols: reads commands off a byte stream, has them answered in their
//! order, and sends replies and news. Line and RESP doors are a [`Protocol`] each; the bytes, the
//! deadlines, the backpressure and the accounting are here, once.
//!
//! One poll of a connection is one *turn*: at most one read of [`TURN_BYTES`], the commands in it, one
//! write. So a flood of commands takes its turn like everybody's single one. A turn works in buffers
//! that all connections of a thread share; what is left of them when the turn ends (half a command, a
//! reply the peer does not take) moves into the connection's own, which an idle connection has none of.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf as _, BytesMut};
use futures_util::FutureExt as _;
use standpipe_serve::{BytesPermit, CloseReason, Conn, ConnIo, Limits, Outcome, Refusal, RequestGuard, Session};
use tokio::io::{AsyncRead as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};
use tokio::time::timeout;
use tokio_util::io::poll_read_buf;

use crate::goodbye::{self, GOODBYE_WITHIN};
use crate::scratch::{Scratch, TURN_BYTES, with_scratch};

/// Commands of one connection whose answers may be under way at once; more wait unread.
const FLIGHT_MAX: usize = 1_024;

/// A command longer than a turn is read in pieces of up to this size; a reply's rest above it is admitted by its
/// bytes.
const PIECE_BYTES: usize = 256 << 10;

/// An answer that is under way.
pub(crate) type Answer<D> = Pin<Box<dyn Future<Output = D> + Send>>;

/// What came of looking at the input.
pub(crate) enum Step<D> {
    /// Not a whole command: another look makes sense once there are `at_least` bytes of it.
    Incomplete { at_least: usize },
    /// `used` bytes hold nothing to answer.
    Skip { used: usize },
    /// The command of `used` bytes is answered: its reply is in `out`.
    Answered { used: usize },
    /// The command of `used` bytes is answered when this resolves; later ones may be begun.
    Later { used: usize, answer: Answer<D> },
    /// The next command sees what those under way leave behind: look again when they are answered.
    Wait,
    /// What `out` holds is the last word.
    Close(CloseReason),
}

/// What a protocol may use in a turn.
pub(crate) struct Turn<'a> {
    /// The connection.
    pub(crate) session: &'a Session,
    /// The limits in force in this turn.
    pub(crate) limits: &'a Limits,
    /// Where replies go.
    pub(crate) out: &'a mut Vec<u8>,
    /// Are answers under way? Then only what need not see their effects may be begun.
    pub(crate) busy: bool,
    /// The command is to be answered with this refusal.
    pub(crate) refusal: Option<Refusal>,
}

/// A protocol of commands and replies; one value for each connection.
pub(crate) trait Protocol: Send + Unpin + 'static {
    /// What an answer under way resolves to.
    type Done: Send + 'static;

    /// Looks at the first command of `input`, and begins or answers it.
    fn step(&mut self, input: &[u8], turn: &mut Turn<'_>) -> Step<Self::Done>;

    /// Writes the reply of an answer that was under way.
    fn finish(&mut self, done: Self::Done, turn: &mut Turn<'_>) -> Outcome;

    /// Appends news of what the peer watches, if there are any.
    fn poll_news(&mut self, context: &mut Context<'_>, turn: &mut Turn<'_>) -> Poll<()>;

    /// Does the peer wait for news? It is then not idle.
    fn is_watching(&self) -> bool;

    /// The peer sends nothing any more: answers that wait for something to happen are due now.
    fn peer_closed(&mut self) {}

    /// The turn is over: gives back what it held for its time.
    fn turn_over(&mut self) {}

    /// The last word to a peer that is closed for `reason`.
    fn goodbye(&mut self, reason: CloseReason, out: &mut Vec<u8>);
}

/// Serves a connection to its end.
pub(crate) async fn serve<P: Protocol>(conn: Conn, session: Session, protocol: P) -> CloseReason {
    let limits = session.limits();
    session.due(CloseReason::FirstByteTimeout, limits.first_byte_ms_max);
    let mut talk = Talk {
        io: conn.io,
        session: &session,
        limits,
        protocol,
        input: Vec::new(),
        at_least: 1,
        input_permit: None,
        unsent: BytesMut::new(),
        unsent_permit: None,
        flight: VecDeque::new(),
        ending: None,
        said_goodbye: false,
        phase: Phase::Fresh,
        active: false,
    };
    let mut closing = pin!(session.closing());
    let reason = poll_fn(|context| {
        if talk.ending.is_none() && closing.as_mut().poll(context).is_ready() {
            talk.ending = Some(session.close_reason().unwrap_or(CloseReason::Shutdown));
        }
        with_scratch(|scratch| talk.turn(context, scratch)).map(|Err(reason)| reason)
    })
    .await;
    session.not_due();
    // The peer reads the last reply and then the end, unless it has gone.
    let last_words = goodbye::end(&mut talk.io, goodbye::cuts_short(reason));
    let _gone = timeout(GOODBYE_WITHIN, last_words).await;
    reason
}

/// Tells a peer that is not served why, in its protocol.
pub(crate) async fn refuse(mut conn: Conn, words: &[u8]) {
    let told = async {
        conn.io.write_all(words).await?;
        goodbye::end(&mut conn.io, true).await
    };
    let _gone = timeout(GOODBYE_WITHIN, told).await;
}

/// What the connection's deadline is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing has come yet.
    Fresh,
    /// Nothing is asked for.
    Idle,
    /// The peer waits for news or an answer: for as long as it likes.
    Waiting,
    /// Half a command is there: all of it must come in its time.
    Head,
    /// Half a command of more than a head's bytes: it must keep coming.
    Body { since: Instant },
    /// The peer does not take its reply.
    Blocked,
}

/// The connection goes on, or ends for a reason.
type Turned = Poll<Result<Infallible, CloseReason>>;

struct Flight<D> {
    answer: Answer<D>,
    request: RequestGuard,
}

struct Talk<'s, P: Protocol> {
    io: ConnIo,
    session: &'s Session,
    limits: Arc<Limits>,
    protocol: P,
    /// What is left of the input: half a command, or commands that wait for an answer under way.
    input: Vec<u8>,
    /// Bytes of input before another look makes sense.
    at_least: usize,
    input_permit: Option<BytesPermit>,
    /// What the peer has not taken.
    unsent: BytesMut,
    unsent_permit: Option<BytesPermit>,
    flight: VecDeque<Flight<P::Done>>,
    /// Nothing more is read; once all is answered and sent, this is the reason.
    ending: Option<CloseReason>,
    said_goodbye: bool,
    phase: Phase,
    /// Has the peer sent or taken anything since the deadline was set?
    active: bool,
}

impl<P: Protocol> Talk<'_, P> {
    /// Answers, sends and reads what can be now; ready at the end of the connection.
    fn turn(&mut self, context: &mut Context<'_>, scratch: &mut Scratch) -> Turned {
        self.limits = self.session.limits();
        scratch.out.clear();
        let turned = self.advance(context, &mut scratch.input, &mut scratch.out);
        self.protocol.turn_over();
        scratch.shrink();
        if turned.is_pending() {
            self.set_phase();
        }
        turned
    }

    fn advance(&mut self, context: &mut Context<'_>, fresh: &mut [u8], out: &mut Vec<u8>) -> Turned {
        if let Some(reason @ (CloseReason::WriteTimeout | CloseReason::SlowWatcher)) = self.ending {
            // It takes nothing, so there is no use in a last word.
            return Poll::Ready(Err(reason));
        }
        ready!(self.send_rest(context))?;
        loop {
            self.waiting_commands(out);
            // Asked after all commands are begun: it is their answers that wake us.
            let answered = self.answers(context, out);
            while out.len() < TURN_BYTES && self.news(context, out).is_ready() {}
            if out.len() >= TURN_BYTES {
                // There may be more news, and nothing else will wake us for it.
                context.waker().wake_by_ref();
            }
            ready!(self.send(context, out))?;
            if let Some(reason) = self.ending {
                ready!(self.end(reason, out))?;
                continue;
            }
            if self.input.len() >= self.at_least || self.flight.len() >= FLIGHT_MAX {
                if answered {
                    continue;
                }
                if self.flight.is_empty() {
                    // Nothing will wake us but our own wish to go on in the next turn.
                    context.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
            if ready!(self.read(context, fresh, out)) {
                context.waker().wake_by_ref();
                ready!(self.send(context, out))?;
                return Poll::Pending;
            }
        }
    }

    /// Once nothing is under way: one round for the last word, then the end.
    fn end(&mut self, reason: CloseReason, out: &mut Vec<u8>) -> Poll<Result<(), CloseReason>> {
        if !self.flight.is_empty() {
            return Poll::Pending;
        }
        if std::mem::replace(&mut self.said_goodbye, true) {
            return Poll::Ready(Err(reason));
        }
        self.protocol.goodbye(reason, out);
        Poll::Ready(Ok(()))
    }

    /// Writes the replies of the commands under way that are done, in the commands' order; true when
    /// there were any.
    fn answers(&mut self, context: &mut Context<'_>, out: &mut Vec<u8>) -> bool {
        let mut answered = false;
        while let Some(front) = self.flight.front_mut() {
            let Poll::Ready(done) = front.answer.poll_unpin(context) else { return answered };
            let mut request = self.flight.pop_front().expect("it was at the front").request;
            let mut turn = Turn { session: self.session, limits: &self.limits, out, busy: false, refusal: None };
            request.end(self.protocol.finish(done, &mut turn));
            answered = true;
        }
        if self.flight.capacity() > 0 {
            self.flight = VecDeque::new();
        }
        answered
    }

    fn news(&mut self, context: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<()> {
        if self.ending.is_some() {
            return Poll::Pending;
        }
        let mut turn = Turn { session: self.session, limits: &self.limits, out, busy: false, refusal: None };
        self.protocol.poll_news(context, &mut turn)
    }

    /// Begins commands that an earlier turn left.
    fn waiting_commands(&mut self, out: &mut Vec<u8>) {
        if self.ending.is_some() || self.input.len() < self.at_least {
            return;
        }
        let mut input = std::mem::take(&mut self.input);
        let used = self.commands(&input, out);
        if used == input.len() {
            self.input_permit = None;
        } else {
            input.drain(..used);
            self.input = input;
        }
    }

    /// Begins commands until the input, the room for answers or the turn is used up; says how many
    /// bytes they took.
    fn commands(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let begun = Instant::now();
        let (mut used, mut answered) = (0, 0);
        self.at_least = 1;
        while used < input.len() && self.flight.len() < FLIGHT_MAX && out.len() < TURN_BYTES {
            let refusal = self.session.admit_requests(1).err();
            let busy = !self.flight.is_empty();
            let mut turn = Turn { session: self.session, limits: &self.limits, out, busy, refusal };
            match self.protocol.step(&input[used..], &mut turn) {
                Step::Incomplete { at_least } => {
                    self.at_least = at_least.max(input.len() - used + 1);
                    break;
                }
                Step::Skip { used: bytes } => used += bytes,
                Step::Answered { used: bytes } => {
                    used += bytes;
                    answered += 1;
                }
                Step::Later { used: bytes, answer } => {
                    used += bytes;
                    self.flight.push_back(Flight { answer, request: self.session.request() });
                }
                Step::Wait => break,
                Step::Close(reason) => {
                    answered += 1;
                    used = input.len();
                    self.ending = Some(reason);
                    self.said_goodbye = true;
                    break;
                }
            }
        }
        if answered > 0 {
            self.session.answered(answered, begun.elapsed());
        }
        used
    }

    /// Reads once; true when there may be more at once, which is for the next turn.
    fn read(&mut self, context: &mut Context<'_>, fresh: &mut [u8], out: &mut Vec<u8>) -> Poll<bool> {
        let missing = self.at_least.saturating_sub(self.input.len());
        let read = if missing > fresh.len() {
            if let Err(refusal) = self.admit_input(missing.min(PIECE_BYTES)) {
                // There is no room for the rest of the command, so the connection can't go on.
                self.ending = Some(CloseReason::Refused(refusal));
                return Poll::Ready(false);
            }
            ready!(poll_read_buf(Pin::new(&mut self.io), context, &mut self.input))
        } else {
            let mut buf = ReadBuf::new(fresh);
            let read = ready!(Pin::new(&mut self.io).poll_read(context, &mut buf));
            let bytes = buf.filled().len();
            read.map(|()| {
                self.take_in(&fresh[..bytes], out);
                bytes
            })
        };
        match read {
            Ok(bytes @ 1..) => {
                self.session.add_bytes(bytes as u64, 0);
                self.active = true;
                Poll::Ready(bytes >= fresh.len())
            }
            // What is under way is answered, for the peer may still read; it hears no goodbye.
            Ok(0) => self.leave(CloseReason::PeerClosed),
            Err(_) => {
                self.flight.clear();
                self.leave(CloseReason::PeerVanished)
            }
        }
    }

    fn leave(&mut self, reason: CloseReason) -> Poll<bool> {
        self.protocol.peer_closed();
        self.ending = Some(reason);
        self.said_goodbye = true;
        Poll::Ready(false)
    }

    /// Commands that came while nothing of the input was left are answered where they lie.
    fn take_in(&mut self, fresh: &[u8], out: &mut Vec<u8>) {
        let used = if self.input.is_empty() { self.commands(fresh, out) } else { 0 };
        let left = &fresh[used..];
        // A command that does not say how long it is, a line, grows by turns.
        if self.input.len() + left.len() > TURN_BYTES
            && let Err(refusal) = self.admit_input(left.len())
        {
            self.ending = Some(CloseReason::Refused(refusal));
            return;
        }
        self.input.extend_from_slice(left);
    }

    /// Room for the next piece of a long command, admitted by its bytes.
    fn admit_input(&mut self, piece: usize) -> Result<(), Refusal> {
        if self.input.capacity() - self.input.len() >= piece.min(TURN_BYTES) {
            return Ok(());
        }
        let before = self.input.capacity();
        let permit = match &mut self.input_permit {
            Some(permit) => permit,
            none => none.insert(self.session.body_bytes(0)?),
        };
        permit.grow(piece.max(before))?;
        self.input.reserve_exact(piece.max(before));
        Ok(())
    }

    /// Sends what an earlier turn could not.
    fn send_rest(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        while !self.unsent.is_empty() {
            let Poll::Ready(written) = Pin::new(&mut self.io).poll_write(context, &self.unsent) else {
                self.blocked();
                return Poll::Pending;
            };
            let written = self.written(written)?;
            self.unsent.advance(written);
            self.active = true;
        }
        if self.unsent.capacity() > 0 {
            self.unsent = BytesMut::new();
            self.unsent_permit = None;
            self.session.output_blocked(false);
        }
        Poll::Ready(Ok(()))
    }

    /// Sends `out`, or keeps what the peer does not take now.
    fn send(&mut self, context: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<Result<(), CloseReason>> {
        if out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let written = match Pin::new(&mut self.io).poll_write(context, out) {
            Poll::Ready(written) => self.written(written)?,
            Poll::Pending => 0,
        };
        if written < out.len() {
            let rest = &out[written..];
            if rest.len() > PIECE_BYTES {
                // A long reply may lie here for as long as its reader is slow, so it counts.
                self.unsent_permit = Some(self.session.body_bytes(rest.len()).map_err(CloseReason::Refused)?);
            }
            self.unsent.extend_from_slice(rest);
            out.clear();
            return self.send_rest(context);
        }
        out.clear();
        Poll::Ready(Ok(()))
    }

    fn written(&mut self, written: std::io::Result<usize>) -> Result<usize, CloseReason> {
        match written {
            Ok(bytes @ 1..) => {
                self.session.add_bytes(0, bytes as u64);
                Ok(bytes)
            }
            _ => Err(CloseReason::PeerVanished),
        }
    }

    /// The peer takes nothing: it has until the deadline to take something.
    fn blocked(&mut self) {
        if self.phase != Phase::Blocked || self.active {
            let reason = if self.protocol.is_watching() { CloseReason::SlowWatcher } else { CloseReason::WriteTimeout };
            self.session.output_blocked(true);
            self.arm(Phase::Blocked, Some((reason, self.limits.write_progress_ms_max)));
        }
    }

    fn arm(&mut self, phase: Phase, due: Option<(CloseReason, u64)>) {
        self.phase = phase;
        self.active = false;
        match due {
            Some((reason, after_ms)) => self.session.due(reason, after_ms),
            None => self.session.not_due(),
        }
    }

    /// Sets the deadline that the connection is under until its next turn.
    fn set_phase(&mut self) {
        if !self.unsent.is_empty() {
            return;
        }
        if !self.flight.is_empty() || self.ending.is_some() || (self.input.is_empty() && self.protocol.is_watching()) {
            if self.phase != Phase::Waiting {
                self.arm(Phase::Waiting, None);
            }
        } else if !self.input.is_empty() {
            self.set_half_phase();
        } else if self.active || !matches!(self.phase, Phase::Idle | Phase::Fresh) {
            self.arm(Phase::Idle, Some((CloseReason::IdleTimeout, self.limits.idle_ms_max)));
        }
    }

    fn set_half_phase(&mut self) {
        let limits = self.limits.clone();
        let long = self.input.len() > limits.request_head_bytes_max;
        match self.phase {
            Phase::Body { since } if self.active => {
                let left = limits.body_ms_max.saturating_sub(since.elapsed().as_millis() as u64);
                let phase = Phase::Body { since };
                self.arm(phase, Some((CloseReason::BodyTimeout, limits.body_progress_ms_max.min(left))));
            }
            Phase::Body { .. } => {}
            Phase::Head if !long => {}
            _ if long => {
                let phase = Phase::Body { since: Instant::now() };
                self.arm(phase, Some((CloseReason::BodyTimeout, limits.body_progress_ms_max)));
            }
            _ => self.arm(Phase::Head, Some((CloseReason::HeadTimeout, limits.request_head_ms_max))),
        }
    }
}
