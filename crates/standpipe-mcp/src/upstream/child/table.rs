//! What is between us and one process: calls that wait for replies, questions of the process that wait for clients, and bytes that
//! wait to be written. All of it is under one lock, so that what is written comes in the order in which it was given. Nothing is sent to anybody
//! under it.

use std::collections::BTreeMap;

use standpipe_wire::jsonrpc::Message;
use tokio::time::Instant;

use super::super::ServerLimits;
use super::call::{Call, Numbered, Pending, end_line};
use crate::Outlet;

/// Questions of a process that may be open at once.
const QUESTIONS_MAX: usize = 256;
/// Room that is kept for bytes to be written while there are none.
const KEPT_BYTES: usize = 16 << 10;

/// Whether calls are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not before the handshake is done.
    Held,
    /// At once.
    Open,
    /// Never again.
    Closed,
}

/// A request of the process that a client was asked.
#[derive(Debug)]
pub(super) struct Question {
    /// The process' id, as it wrote it.
    pub(super) id: Box<[u8]>,
    /// Who was asked.
    pub(super) session: u64,
    /// The call it belongs to, where that is known.
    pub(super) call: Option<u64>,
    pub(super) to: Outlet,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) phase: Phase,
    pub(super) calls: BTreeMap<u64, Pending>,
    pub(super) questions: BTreeMap<u64, Question>,
    /// Lines to be written.
    out: Vec<u8>,
    /// Where the calls among them begin.
    marks: Vec<(usize, u64)>,
    /// The same of those that are being written.
    writing: Vec<(usize, u64)>,
}

/// What is left of a table.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Calls of which nothing was written.
    pub(super) unwritten: Vec<Call>,
    /// All others.
    pub(super) written: Vec<Pending>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Held,
            calls: BTreeMap::new(),
            questions: BTreeMap::new(),
            out: Vec::new(),
            marks: Vec::new(),
            writing: Vec::new(),
        }
    }

    /// Whether there is no room for more of what nobody waits for, or for this call.
    pub(super) fn is_full(&self, limits: &ServerLimits) -> bool {
        self.out.len() > limits.message_bytes
    }

    /// Takes a call.
    pub(super) fn begin(&mut self, number: u64, call: Call, numbered: &Numbered, limits: &ServerLimits) {
        if self.phase == Phase::Open || call.purpose.goes_first() {
            self.marks.push((self.out.len(), number));
            numbered.write(&call.message, &mut self.out);
        }
        self.calls.insert(number, Pending::new(call, numbered, limits));
    }

    /// The handshake is done: what waited for it is written.
    pub(super) fn open(&mut self) {
        if self.phase != Phase::Held {
            return;
        }
        self.phase = Phase::Open;
        for (number, pending) in &self.calls {
            let message = pending.message.as_ref().filter(|_| !pending.purpose.goes_first());
            // It has been numbered before.
            if let Some((message, Ok(numbered))) = message.map(|message| (message, Numbered::new(message, *number))) {
                self.marks.push((self.out.len(), *number));
                numbered.write(message, &mut self.out);
            }
        }
    }

    /// Writes what nobody answers.
    pub(super) fn push(&mut self, line: &Message) {
        let start = self.out.len();
        self.out.extend_from_slice(line.bytes());
        end_line(&mut self.out, start);
    }

    /// Swaps what waits to be written for the empty `buffer`; what was taken before has been written. False when nothing waits.
    pub(super) fn take_out(&mut self, buffer: &mut Vec<u8>) -> bool {
        self.wrote(usize::MAX);
        buffer.clear();
        buffer.shrink_to(KEPT_BYTES);
        if self.out.is_empty() {
            return false;
        }
        std::mem::swap(&mut self.out, buffer);
        std::mem::swap(&mut self.marks, &mut self.writing);
        true
    }

    /// Of what was taken to be written, so many bytes were.
    pub(super) fn wrote(&mut self, bytes: usize) {
        for (start, number) in self.writing.drain(..) {
            if start < bytes
                && let Some(pending) = self.calls.get_mut(&number)
            {
                pending.message = None;
            }
        }
    }

    /// Remembers a question; false when there are too many.
    pub(super) fn ask(&mut self, number: u64, question: Question) -> bool {
        if self.questions.len() >= QUESTIONS_MAX {
            return false;
        }
        if let Some(call) = question.call.and_then(|call| self.calls.get_mut(&call)) {
            call.asks();
        }
        self.questions.insert(number, question);
        true
    }

    /// A question has been answered, by this session.
    pub(super) fn answered(&mut self, number: u64, session: u64, limits: &ServerLimits) -> Option<Question> {
        self.questions.get(&number).filter(|question| question.session == session)?;
        let question = self.questions.remove(&number)?;
        if let Some(call) = question.call.and_then(|call| self.calls.get_mut(&call)) {
            call.has_heard(limits);
        }
        Some(question)
    }

    /// A call has ended; its open questions end with it.
    pub(super) fn end(&mut self, number: u64) -> Option<(Pending, Vec<Question>)> {
        let pending = self.calls.remove(&number)?;
        if pending.questions == 0 {
            return Some((pending, Vec::new()));
        }
        let open: Vec<u64> =
            self.questions.iter().filter(|(_, question)| question.call == Some(number)).map(|(at, _)| *at).collect();
        Some((pending, open.iter().filter_map(|at| self.questions.remove(at)).collect()))
    }

    /// Calls whose time is over, and when the next one's may be.
    pub(super) fn due(&self, born: Instant, now: Instant, limits: &ServerLimits) -> (Vec<u64>, Option<Instant>) {
        let dues = self.calls.iter().filter_map(|(number, pending)| Some((*number, pending.due(born, limits)?)));
        let (mut late, mut next) = (Vec::new(), None);
        for (number, due) in dues {
            match due <= now {
                true => late.push(number),
                false => next = Some(next.map_or(due, |next: Instant| next.min(due))),
            }
        }
        (late, next)
    }

    /// Nothing is taken any more, and nothing comes.
    pub(super) fn close(&mut self) -> Rest {
        self.phase = Phase::Closed;
        self.wrote(usize::MAX);
        (self.out, self.marks) = (Vec::new(), Vec::new());
        self.questions.clear();
        let mut rest = Rest::default();
        for (_, pending) in std::mem::take(&mut self.calls) {
            match pending.unwritten() {
                Ok(call) => rest.unwritten.push(call),
                Err(pending) => rest.written.push(pending),
            }
        }
        rest
    }
}
