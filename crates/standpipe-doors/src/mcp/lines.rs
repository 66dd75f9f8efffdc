//! MCP on a stream of bytes, one message a line: standard input and output, Unix sockets, TCP (spec mcp §2.1). What a message means is
//! `talk`'s matter.
//!
//! Output goes before input: while the client does not take what it is sent, nothing is read.

use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use standpipe_mcp::{Fault, Metrics};
use standpipe_serve::{BytesPermit, CloseReason, Conn, ConnIo, Door, Refusal, Session};
use standpipe_wire::jsonrpc::{Line, Lines, Message};
use tokio::io::{AsyncWrite as _, AsyncWriteExt as _};
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::io::poll_read_buf;

use super::talk::{Talk, TooSlow, refused, too_long};
use super::{Endpoint, Mcp};

/// Output that is gathered before it is written; reading stops while so much waits.
const OUT_BYTES: usize = 64 << 10;

/// A message of at least this many bytes is written as it is, not copied.
const WHOLE_BYTES: usize = 16 << 10;

/// How long a peer has to take our goodbye.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);

/// One message a line.
#[derive(Debug)]
pub struct McpLines {
    mcp: Arc<Mcp>,
    credential: Option<String>,
}

impl McpLines {
    /// Serves the main endpoint. There is no place for a credential in lines: whoever connects is anonymous, or the server's own user.
    pub fn new(mcp: Arc<Mcp>) -> Self {
        Self { mcp, credential: None }
    }

    /// Whoever connects has this credential: for the one connection of a process.
    #[must_use]
    pub fn with_credential(self, credential: Option<String>) -> Self {
        Self { credential, ..self }
    }

    async fn begin(&self, session: &Session) -> Result<Talk, Fault> {
        let caller = self.mcp.caller(session, self.credential.as_deref(), None).await?;
        let server = self
            .mcp
            .server(&Endpoint::Main)
            .ok_or_else(|| Fault::new(standpipe_mcp::fault::UPSTREAM_DOWN, "the server is not there now; try again"))?;
        Ok(Talk::new(server, caller, self.mcp.metrics().clone()))
    }
}

impl Door for McpLines {
    fn name(&self) -> &'static str {
        "mcp"
    }

    async fn serve(&self, mut conn: Conn, session: Session) -> CloseReason {
        match self.begin(&session).await {
            Ok(talk) => Box::pin(converse(&mut conn.io, talk, &session, self.mcp.metrics())).await,
            Err(fault) => {
                say(&mut conn.io, &fault).await;
                CloseReason::ProtocolError
            }
        }
    }

    async fn refuse(&self, mut conn: Conn, refusal: Refusal) {
        say(&mut conn.io, &refused(refusal)).await;
    }
}

/// Tells why nothing is served, and ends.
async fn say(io: &mut ConnIo, fault: &Fault) {
    let goodbye = async {
        io.write_all(fault.answer(None).bytes()).await?;
        io.write_all(b"\n").await?;
        io.shutdown().await
    };
    let _gone = timeout(GOODBYE_WITHIN, goodbye).await;
}

/// Serves a client to its end.
async fn converse(io: &mut ConnIo, talk: Talk, session: &Session, metrics: &Metrics) -> CloseReason {
    let is_socket = !matches!(io, ConnIo::Stdio(_));
    if is_socket {
        session.due(CloseReason::FirstByteTimeout, session.limits().first_byte_ms_max);
    }
    let mut stream = LineStream {
        io: &mut *io,
        talk,
        session,
        metrics,
        lines: Lines::default(),
        permit: None,
        no_room: None,
        out: Out::default(),
        is_socket,
        is_blocked: false,
    };
    let reason = stream.serve().await;
    // What is still at work is cancelled before the client can hear of the end.
    drop(stream);
    let _gone = timeout(GOODBYE_WITHIN, io.shutdown()).await;
    session.close_reason().unwrap_or(reason)
}

/// A client on lines.
struct LineStream<'c> {
    io: &'c mut ConnIo,
    talk: Talk,
    session: &'c Session,
    metrics: &'c Metrics,
    lines: Lines,
    /// Admits the bytes of a long line that is coming in.
    permit: Option<BytesPermit>,
    /// Why it is not.
    no_room: Option<Refusal>,
    out: Out,
    is_socket: bool,
    /// The client does not take what it is sent.
    is_blocked: bool,
}

/// What is to be done next.
enum Step {
    Read(usize),
    Closing,
    End(CloseReason),
}

impl LineStream<'_> {
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
                        if self.out.len() < OUT_BYTES {
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
                Step::Read(count) if count > 0 => {
                    self.read(count);
                    continue;
                }
                Step::Read(_) => {
                    let last = self.lines.end(session.limits().mcp_message_bytes_max);
                    last.into_iter().for_each(|line| self.line(line));
                    CloseReason::PeerClosed
                }
                Step::Closing => CloseReason::Shutdown,
            };
            self.talk.end();
            ending = Some((reason, Box::pin(sleep(Duration::from_millis(session.limits().mcp_grace_ms)))));
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let buf = self.lines.buf(self.session.limits().mcp_message_bytes_max);
        poll_read_buf(Pin::new(&mut *self.io), context, buf)
    }

    /// `count` bytes were read.
    fn read(&mut self, count: usize) {
        self.session.add_bytes(count as u64, 0);
        if self.is_socket && !self.is_blocked {
            self.session.not_due();
        }
        let bytes_max = self.session.limits().mcp_message_bytes_max;
        while let Some(line) = self.lines.next(bytes_max) {
            self.line(line);
        }
        self.admit();
    }

    /// What comes in of a long line is admitted like a body; where there is no room for it, it is dropped as it comes.
    fn admit(&mut self) {
        let held = self.lines.held();
        let admitted = self.permit.as_ref().map_or(0, BytesPermit::bytes);
        if held <= admitted + OUT_BYTES {
            return;
        }
        let permit = match self.permit.take() {
            Some(permit) => Ok(permit),
            None => self.session.body_bytes(0),
        };
        match permit.and_then(|mut permit| permit.grow(held - admitted).map(|()| permit)) {
            Ok(permit) => self.permit = Some(permit),
            Err(refusal) => {
                self.lines.give_up();
                self.no_room = Some(refusal);
            }
        }
    }

    fn line(&mut self, line: Line) {
        match line {
            Line::Whole(line) => self.talk.take(line),
            Line::Dropped(outline) => {
                let fault = match self.no_room.take() {
                    Some(refusal) => refused(refusal),
                    None => {
                        self.metrics.hit("mcp_message_bytes_max");
                        too_long(self.session.limits().mcp_message_bytes_max)
                    }
                };
                self.talk.take_dropped(&outline, &fault);
            }
        }
        self.permit = None;
    }

    /// Writes what there is; ready when the client is lost.
    fn poll_out(&mut self, context: &mut Context<'_>) -> Poll<CloseReason> {
        loop {
            while self.out.len() < OUT_BYTES {
                match self.talk.poll_next(context) {
                    Poll::Ready(Ok(message)) => self.out.put(&message),
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
        match is_blocked {
            true if self.is_socket => {
                self.session.due(CloseReason::WriteTimeout, self.session.limits().write_progress_ms_max);
            }
            true => {}
            false => self.session.not_due(),
        }
    }
}

/// What waits to be written.
#[derive(Debug, Default)]
struct Out {
    /// Before `tail`.
    whole: VecDeque<Bytes>,
    tail: BytesMut,
    bytes: usize,
}

impl Out {
    fn put(&mut self, message: &Message) {
        let line = message.line();
        self.bytes += line.len() + 1;
        if line.len() < WHOLE_BYTES {
            self.tail.extend_from_slice(&line);
        } else {
            let before = self.tail.split().freeze();
            self.whole.extend([before, line].into_iter().filter(|part| !part.is_empty()));
        }
        self.tail.extend_from_slice(b"\n");
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

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
