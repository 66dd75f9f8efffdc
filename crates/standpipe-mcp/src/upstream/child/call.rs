//! A call on its way to a process, and while it is there: whose it is, what it is for, and where its reply goes.

use memchr::memchr2;
use standpipe_wire::jsonrpc::{Edit, Malformed, Message, Span};
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

use super::super::ServerLimits;
use super::gate::Permit;
use crate::{Fault, Outlet};

/// What a request is for, as far as it makes a difference here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A call like most.
    Call,
    /// `initialize`: of a session that has a process of its own, or ours.
    Initialize,
    /// Our question for the era. A late answer is of use too.
    Probe,
    /// A subscription that lasts until somebody ends it (`subscriptions/listen`).
    Listen,
    /// `resources/subscribe` to this; what is kept about it goes when it is refused.
    Subscribe(String),
    /// Our own.
    Ours,
}

impl Purpose {
    /// Whether it goes before the handshake is done.
    pub(super) fn goes_first(&self) -> bool {
        matches!(self, Self::Initialize | Self::Probe | Self::Ours)
    }
}

/// Where a reply goes.
#[derive(Debug)]
pub(super) enum Way {
    /// To a client.
    Client(Outlet),
    /// To us.
    Us(oneshot::Sender<Message>),
    /// Nobody wants it.
    Nobody,
}

/// A request for a process.
#[derive(Debug)]
pub(super) struct Call {
    /// The legacy session it is of; 0 for none.
    pub(super) session: u64,
    pub(super) purpose: Purpose,
    pub(super) message: Message,
    pub(super) to: Way,
    /// Given back when it has ended.
    pub(super) permit: Option<Permit>,
}

impl Call {
    /// A request of ours.
    pub(super) fn ours(purpose: Purpose, method: &str, params: &[u8], to: Way) -> Self {
        Self { session: 0, purpose, message: Message::request(b"0", method, params), to, permit: None }
    }

    /// Answers it instead of the process.
    pub(super) fn fail(self, fault: &Fault) {
        if let Way::Client(to) = &self.to {
            let _left = to.send(fault.answer(self.message.id()));
        }
    }
}

/// What is written of a request beside its own bytes: our number for its id, and for its progress token, if it has one.
pub(super) struct Numbered {
    number: Vec<u8>,
    id: Span,
    token: Option<Span>,
}

impl Numbered {
    /// # Errors
    /// The token stands twice: the process could take another one for it than we do.
    pub(super) fn new(message: &Message, number: u64) -> Result<Self, Malformed> {
        let id = message.id_span().ok_or(Malformed::Invalid("a call has an id"))?;
        let token = message.at(&["_meta", "progressToken"])?;
        Ok(Self { number: itoa::Buffer::new().format(number).as_bytes().to_vec(), id, token })
    }

    /// Appends the line to `out`.
    pub(super) fn write(&self, message: &Message, out: &mut Vec<u8>) {
        let id = Edit::replace(self.id, &self.number);
        let start = out.len();
        match self.token {
            Some(token) => message.splice(&mut [id, Edit::replace(token, &self.number)], out),
            None => message.splice(&mut [id], out),
        }
        end_line(out, start);
    }

    fn token(&self, message: &Message) -> Option<Box<[u8]>> {
        self.token.map(|token| message.slice(token).into())
    }
}

/// Ends the line that begins at `start`. Newlines in it are white space between parts of a message, for JSON has none in
/// strings.
pub(super) fn end_line(out: &mut Vec<u8>, start: usize) {
    let mut from = start;
    while let Some(at) = memchr2(b'\n', b'\r', &out[from..]) {
        out[from + at] = b' ';
        from += at + 1;
    }
    out.push(b'\n');
}

/// A call that waits for its reply.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) session: u64,
    pub(super) purpose: Purpose,
    /// The client's id, as it wrote it.
    pub(super) id: Box<[u8]>,
    /// The client's progress token, as it wrote it.
    pub(super) token: Option<Box<[u8]>>,
    pub(super) to: Way,
    pub(super) permit: Option<Permit>,
    /// The request, until the first byte of it is written: so long another process may be given it.
    pub(super) message: Option<Message>,
    begun: Instant,
    /// When it has had no progress for too long.
    quiet_at: Instant,
    /// Whether the process may ask the client something for it (spec mcp §1).
    pub(super) may_ask: bool,
    /// Questions of the process to the client that are open.
    pub(super) questions: usize,
    /// Since when one is: time passes for the client then, not for the process.
    asking_since: Option<Instant>,
}

/// The methods for which a server may ask its client something.
const MAY_ASK: [&str; 3] = ["tools/call", "prompts/get", "resources/read"];

impl Pending {
    pub(super) fn new(call: Call, numbered: &Numbered, limits: &ServerLimits) -> Self {
        let now = Instant::now();
        let may_ask = call.message.method().is_some_and(|method| MAY_ASK.contains(&method));
        Self {
            session: call.session,
            purpose: call.purpose,
            id: call.message.id().unwrap_or_default().into(),
            token: numbered.token(&call.message),
            to: call.to,
            permit: call.permit,
            message: Some(call.message),
            begun: now,
            quiet_at: now + limits.call,
            may_ask,
            questions: 0,
            asking_since: None,
        }
    }

    /// It makes progress.
    pub(super) fn touch(&mut self, limits: &ServerLimits) {
        self.quiet_at = Instant::now() + limits.call;
    }

    /// A question is open for it.
    pub(super) fn asks(&mut self) {
        self.questions += 1;
        self.asking_since.get_or_insert_with(Instant::now);
    }

    /// A question is open for it no more.
    pub(super) fn has_heard(&mut self, limits: &ServerLimits) {
        self.questions -= 1;
        if self.questions == 0
            && let Some(since) = self.asking_since.take()
        {
            self.begun += since.elapsed();
            self.touch(limits);
        }
    }

    /// When its time is over, at a process that is there since `born`; `None` for what has no end.
    pub(super) fn due(&self, born: Instant, limits: &ServerLimits) -> Option<Instant> {
        match (&self.purpose, self.asking_since) {
            (Purpose::Listen | Purpose::Probe, _) => None,
            (Purpose::Initialize, _) => Some(self.begun.max(born) + limits.start),
            (_, Some(since)) => Some(since + limits.suspended),
            _ => Some(self.quiet_at.min(self.begun + limits.call_total)),
        }
    }

    /// The limit that it has reached when its time is over.
    pub(super) fn limit(&self, limits: &ServerLimits) -> (&'static str, Duration) {
        if self.asking_since.is_some() {
            return ("mcp_suspended_ms_max", limits.suspended);
        }
        match self.begun + limits.call_total <= Instant::now() {
            true => ("mcp_call_total_ms_max", limits.call_total),
            false => ("mcp_call_ms_max", limits.call),
        }
    }

    /// As it was before it was given to the process.
    ///
    /// # Errors
    /// It has been written.
    #[expect(clippy::result_large_err, reason = "it is what was given, and the caller goes on with it")]
    pub(super) fn unwritten(self) -> Result<Call, Self> {
        match self.message {
            Some(message) => {
                Ok(Call { session: self.session, purpose: self.purpose, message, to: self.to, permit: self.permit })
            }
            None => Err(self),
        }
    }

    /// Sends its reply, which has the client's id.
    pub(super) fn answer(self, reply: Message) {
        match self.to {
            Way::Client(to) => drop(to.send(reply)),
            Way::Us(to) => drop(to.send(reply)),
            Way::Nobody => {}
        }
    }

    /// Answers it instead of the process.
    pub(super) fn fail(self, fault: &Fault) {
        if let Way::Client(to) = &self.to {
            let _left = to.send(fault.answer(Some(&self.id)));
        }
    }
}
