//! A tape that is read: the calls on it, each with everything that it led to. It lies in memory once; messages are parts of it.
//!
//! A last line that was cut off (the gateway was killed while it wrote) is left out, and so is a line that a gap follows. Anything else that can't be
//! read is an error: a tape that has been tampered with shall not look whole.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use standpipe_wire::jsonrpc::{Kind, Message};

use super::line::{Direction, Line, Transport, VERSION};
use super::mask::{MaskConfig, Masks};

/// Largest tape that is read, in bytes.
pub const TAPE_BYTES_MAX: u64 = 1 << 30;

/// A recorded session: whose, of which recording, and its number there.
type SessionKey = (Arc<str>, u64, u64);

/// Calls on a tape.
#[derive(Debug, Default)]
pub struct Tape {
    /// In the order in which they began.
    pub(super) calls: Vec<Recorded>,
    /// What masks were configured, of all recordings.
    pub(super) masks: MaskConfig,
    /// Messages that the tape says are missing.
    pub lost: u64,
    /// Whether its last line is cut off.
    pub cut: bool,
    /// Lines read.
    pub lines: usize,
}

/// A call and what it led to.
#[derive(Debug)]
pub(super) struct Recorded {
    /// Where it begins.
    pub(super) line: usize,
    /// When, in milliseconds since the epoch.
    pub(super) at: f64,
    pub(super) server: Arc<str>,
    /// The session, numbered through over the tape; `None` in the modern era.
    pub(super) session: Option<usize>,
    pub(super) caller: Arc<str>,
    pub(super) transport: Transport,
    pub(super) request: Message,
    /// In the order in which it happened.
    pub(super) steps: Vec<Step>,
}

impl Recorded {
    /// Its reply.
    pub(super) fn reply(&self) -> Option<&Step> {
        self.steps.iter().rev().find(|step| step.is_reply())
    }
}

/// Something that a call led to.
#[derive(Debug)]
pub(super) struct Step {
    /// When, in milliseconds since the epoch.
    pub(super) at: f64,
    pub(super) way: Way,
    pub(super) message: Message,
    /// A request of the server that the client has answered.
    pub(super) answered: bool,
}

impl Step {
    pub(super) fn is_reply(&self) -> bool {
        self.way == Way::Call && self.message.kind() == Kind::Response
    }
}

/// Which way something went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// With the call.
    Call,
    /// Beside it, with what belongs to no call.
    News,
}

/// Why a tape can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TapeError {
    /// A line that is none.
    #[error("line {line} of the tape can't be read: {why}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing on it.
    #[error("there is no call on the tape: record one with `standpipe mcp gateway --record FILE`")]
    Empty,
    /// Too much on it.
    #[error("the tape has {0} bytes, and at most {TAPE_BYTES_MAX} are read: keep its beginning, in whole lines")]
    TooLarge(u64),
    /// It was not to be had.
    #[error("cannot read the tape: {0}")]
    Io(#[from] std::io::Error),
}

impl Tape {
    /// Reads the tape in a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(path: &std::path::Path) -> Result<Self, TapeError> {
        let bytes = std::fs::metadata(path)?.len();
        if bytes > TAPE_BYTES_MAX {
            return Err(TapeError::TooLarge(bytes));
        }
        Self::parse(std::fs::read(path)?.into())
    }

    /// Reads a tape: lines, whether of a file or of a stream.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: Bytes) -> Result<Self, TapeError> {
        let mut reader = Reader::default();
        let mut unread: Option<TapeError> = None;
        for text in bytes.split_inclusive(|byte| *byte == b'\n') {
            reader.tape.lines += 1;
            if text.trim_ascii().is_empty() {
                continue;
            }
            let read = reader.line(&bytes, text);
            if matches!(read, Ok(true)) {
                // A gap: what could not be read before it is what a failed write has left.
                unread = None;
                continue;
            }
            if let Some(error) = unread.take() {
                return Err(error);
            }
            if let Err(why) = read {
                reader.tape.cut = !text.ends_with(b"\n");
                unread = Some(TapeError::Line { line: reader.tape.lines, why });
            }
        }
        match unread {
            Some(error) if !reader.tape.cut => Err(error),
            _ if reader.tape.calls.is_empty() => Err(TapeError::Empty),
            _ => Ok(reader.tape),
        }
    }

    /// The servers on it, in the order of their first calls.
    pub fn servers(&self) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = Vec::new();
        for call in &self.calls {
            if !names.contains(&call.server) {
                names.push(call.server.clone());
            }
        }
        names
    }

    /// How many calls are on it.
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// The masks it was recorded with.
    pub(super) fn masks(&self) -> Masks {
        Masks::new(self.masks.clone()).unwrap_or_default()
    }
}

#[derive(Default)]
struct Reader {
    tape: Tape,
    names: Vec<Arc<str>>,
    /// How often the recording of a server has begun.
    epochs: HashMap<Arc<str>, u64>,
    sessions: HashMap<SessionKey, Session>,
    /// Calls by number of the recording: the newest of each.
    open: HashMap<u64, usize>,
}

/// What is known of a session.
struct Session {
    number: usize,
    /// The call that began last.
    last: Option<usize>,
    /// Requests of the server without an answer: their ids, and where they stand.
    asked: Vec<(Bytes, usize, usize)>,
}

impl Reader {
    /// Reads one line; says whether it is a gap.
    fn line(&mut self, tape: &Bytes, text: &[u8]) -> Result<bool, String> {
        let line: Line<'_> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if let Some(gap) = line.gap {
            self.tape.lost += gap.messages;
            return Ok(true);
        }
        if let Some(version) = line.tape {
            return self.begin(version, line).map(|()| false);
        }
        let raw = line.message.ok_or("it has no \"message\"")?.get();
        let message = Message::parse(tape.slice_ref(raw.as_bytes())).map_err(|error| error.to_string())?;
        match line.direction.ok_or("it has no \"direction\"")? {
            Direction::In => self.heard(line, message),
            Direction::Out => self.said(line, message),
        }
        Ok(false)
    }

    fn begin(&mut self, version: u32, line: Line<'_>) -> Result<(), String> {
        if version != VERSION {
            return Err(format!("it is a tape of version {version}, and only version {VERSION} is read here"));
        }
        let server = self.name(&line.server);
        *self.epochs.entry(server).or_default() += 1;
        let MaskConfig { names, pointers, headers } = line.masks.unwrap_or_default();
        let masks = &mut self.tape.masks;
        for (known, new) in [(&mut masks.names, names), (&mut masks.pointers, pointers), (&mut masks.headers, headers)]
        {
            let new: Vec<String> = new.into_iter().filter(|one| !known.contains(one)).collect();
            known.extend(new);
        }
        Ok(())
    }

    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.iter().find(|known| &***known == name) {
            return known.clone();
        }
        self.names.push(name.into());
        self.names[self.names.len() - 1].clone()
    }

    fn session(&mut self, server: &Arc<str>, session: u64) -> &mut Session {
        let epoch = self.epochs.get(server).copied().unwrap_or_default();
        let number = self.sessions.len();
        let new = || Session { number, last: None, asked: Vec::new() };
        self.sessions.entry((server.clone(), epoch, session)).or_insert_with(new)
    }

    /// A message of a client.
    fn heard(&mut self, line: Line<'_>, message: Message) {
        let server = self.name(&line.server);
        if message.kind() == Kind::Request {
            let at = self.tape.calls.len();
            let session = line.session.map(|session| {
                let session = self.session(&server, session);
                session.last = Some(at);
                session.number
            });
            if let Some(call) = line.call {
                self.open.insert(call, at);
            }
            self.tape.calls.push(Recorded {
                line: self.tape.lines,
                at: line.at,
                server,
                session,
                caller: line.caller.unwrap_or_default().as_ref().into(),
                transport: line.transport.unwrap_or_default(),
                request: message,
                steps: Vec::new(),
            });
        } else if let (Kind::Response, Some(session), Some(id)) = (message.kind(), line.session, message.id()) {
            let asked = &mut self.session(&server, session).asked;
            if let Some(found) = asked.iter().position(|(asked, ..)| asked == id) {
                let (_, call, step) = asked.swap_remove(found);
                self.tape.calls[call].steps[step].answered = true;
            }
        }
    }

    /// A message of the server.
    fn said(&mut self, line: Line<'_>, message: Message) {
        let server = self.name(&line.server);
        let (way, call) = match (line.call, line.session) {
            (Some(call), _) => (Way::Call, self.open.get(&call).copied()),
            (None, Some(session)) => (Way::News, self.session(&server, session).last),
            (None, None) => (Way::News, None),
        };
        // What no call leads to, such as after a gap, can't be replayed.
        let Some(call) = call else { return };
        let steps = &mut self.tape.calls[call].steps;
        let step = steps.len();
        let asks = if message.kind() == Kind::Request { message.id_bytes() } else { None };
        steps.push(Step { at: line.at, way, message, answered: false });
        if let (Some(id), Some(session)) = (asks, line.session) {
            self.session(&server, session).asked.push((id, call, step));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &[&str]) -> Result<Tape, TapeError> {
        Tape::parse(lines.join("\n").into())
    }

    const BEGIN: &str = r#"{"at":1.0,"tape":1,"server":"a","by":"x","masks":{"names":["n"]}}"#;
    const CALL: &str = r#"{"at":2.5,"server":"a","session":1,"call":1,"direction":"in","caller":"admin","transport":{"door":"http","new":1},"message":{"jsonrpc":"2.0","id":1,"method":"tools/list"}}"#;
    const REPLY: &str = r#"{"at":3.0,"server":"a","session":1,"call":1,"direction":"out","message":{"jsonrpc":"2.0","id":1,"result":{}}}"#;

    #[test]
    fn calls_have_what_they_led_to() {
        let asks = r#"{"at":2.6,"server":"a","session":1,"call":1,"direction":"out","message":{"jsonrpc":"2.0","id":"q","method":"roots/list"}}"#;
        let answer =
            r#"{"at":2.7,"server":"a","session":1,"direction":"in","message":{"jsonrpc":"2.0","id":"q","result":{}}}"#;
        let news = r#"{"at":4.0,"server":"a","session":1,"direction":"out","message":{"jsonrpc":"2.0","method":"n"}}"#;
        let gap = r#"{"at":5,"gap":{"messages":3}}"#;
        let tape = parse(&[BEGIN, CALL, asks, answer, "", REPLY, news, gap, ""]).unwrap();
        assert_eq!((tape.calls(), tape.lost, tape.cut, tape.servers()), (1, 3, false, vec!["a".into()]));
        let call = &tape.calls[0];
        assert_eq!((call.line, call.at, call.session, &*call.caller), (2, 2.5, Some(0), "admin"));
        assert_eq!(call.transport.door, "http");
        let steps: Vec<_> = call.steps.iter().map(|step| (step.way, step.answered)).collect();
        assert_eq!(steps, [(Way::Call, true), (Way::Call, false), (Way::News, false)]);
        assert_eq!(call.reply().map(|reply| reply.at), Some(3.0));
        assert!(tape.masks().hides_name("n"));
    }

    #[test]
    fn sessions_of_later_recordings_are_others() {
        let tape = parse(&[BEGIN, CALL, REPLY, BEGIN, CALL, REPLY]).unwrap();
        assert_eq!(tape.calls.iter().map(|call| call.session).collect::<Vec<_>>(), [Some(0), Some(1)]);
        assert!(tape.calls.iter().all(|call| call.steps.len() == 1));
    }

    #[test]
    fn what_a_kill_leaves_is_read_and_what_is_damaged_is_named() {
        let gap = r#"{"at":5,"gap":{"messages":3}}"#;
        let cut = &CALL[..40];
        assert!(parse(&[BEGIN, CALL, cut]).unwrap().cut);
        assert_eq!(parse(&[BEGIN, CALL, cut, gap, REPLY]).unwrap().calls(), 1);
        let check = |lines: &[&str], expected: &str| {
            let error = parse(lines).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(&[BEGIN, cut, REPLY], "line 2");
        check(&[BEGIN, CALL, cut, ""], "line 3");
        check(&[BEGIN, CALL, "[]", ""], "line 3");
        check(&[BEGIN, CALL, r#"{"at":1,"direction":"in"}"#, ""], "no \"message\"");
        check(&[BEGIN, CALL, r#"{"at":1,"message":{}}"#, ""], "line 3");
        check(&[&BEGIN.replace("\"tape\":1", "\"tape\":2"), CALL], "version 2");
        check(&[BEGIN], "no call");
        check(&[], "no call");
    }
}
