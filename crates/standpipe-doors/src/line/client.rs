//! One client of the line door: who it is and which database it uses, what it watches, and the way of
//! its lines to the commands and of their answers back.

use std::sync::Arc;
use std::task::{Context, Poll};

use standpipe_engine::{Committed, Database, Error, Identity, Snapshot};
use standpipe_serve::{CloseReason, Deadline, Outcome};
use standpipe_wire::line::{Line, Scanner};
use tokio::sync::watch;

use super::Shared;
use super::streams;
use super::table::{self, Next};
use super::watches::{Begun, Watches};
use super::words::Words;
use crate::auth::{Expiry, Identified};
use crate::commands::{Protocol, Step, Turn};
use crate::dispatch::{Leases, Watcher};
use crate::{dispatch, fault};

/// What HTTP clients begin with; somebody took the one port for the other.
const HTTP_METHODS: [&[u8]; 7] = [b"GET", b"PUT", b"POST", b"PATCH", b"DELETE", b"HEAD", b"OPTIONS"];

/// What an answer under way resolves to.
pub(super) enum Done {
    /// A value as JSON.
    Read(Result<Vec<u8>, Error>),
    /// A write is committed.
    Wrote(Result<Committed, Error>),
    /// A watch has begun.
    Watching(Result<Box<Begun>, Error>),
    /// So has a tail.
    Tailing(Result<Box<streams::Begun>, Error>),
    /// An append is committed; this is the next record's place.
    Appended(Result<u64, Error>),
    /// A stream has ended.
    Closed(Result<(), Error>),
}

/// A client.
pub(super) struct Client {
    pub(super) shared: Arc<Shared>,
    pub(super) database: Arc<Database>,
    pub(super) identity: Identity,
    expiry: Expiry,
    /// What watches are told of the identity, once there are some.
    told: Option<watch::Sender<Identity>>,
    scanner: Scanner,
    /// What the reads of one turn share.
    snapshot: Option<Box<Snapshot>>,
    pub(super) watches: Option<Box<Watches>>,
    /// What goes with the connection, once there is something.
    leases: Option<Arc<Leases>>,
    /// The number of the last watch.
    pub(super) last_watch: u64,
    /// A long value is being read on a worker: a write after it must not overtake it.
    pub(super) parsing: bool,
    pub(super) handing: streams::Handing,
}

impl Client {
    pub(super) fn new(shared: Arc<Shared>) -> Result<Self, Error> {
        Ok(Self {
            database: shared.dispatch.database(None)?,
            shared,
            identity: Identity::Anonymous,
            expiry: Expiry::default(),
            told: None,
            scanner: Scanner::default(),
            snapshot: None,
            watches: None,
            leases: None,
            last_watch: 0,
            parsing: false,
            handing: streams::Handing::default(),
        })
    }

    /// This turn's snapshot, if one can be had without waiting.
    pub(super) fn look_now(&mut self) -> Result<Option<&Snapshot>, Error> {
        if self.snapshot.is_none() {
            self.snapshot = self.database.snapshot_now()?.map(Box::new);
        }
        Ok(self.snapshot.as_deref())
    }

    /// The client is somebody else from here on; watches that this one may not have end.
    pub(super) fn identify(&mut self, bearer: Identified, turn: &Turn<'_>) -> Result<(), Error> {
        let Identified { identity, expires_at, .. } = bearer;
        if let Some(leases) = &self.leases {
            let deadline = Deadline::after(turn.limits.request_ms_max);
            self.shared.dispatch.identify(&self.database, leases, &identity, deadline)?;
        }
        self.expiry.set(expires_at);
        if let Some(told) = &self.told {
            told.send_replace(identity.clone());
        }
        self.identity = identity;
        Ok(())
    }

    /// The client, as its watches know it.
    pub(super) fn watcher(&mut self) -> Watcher {
        let told = self.told.get_or_insert_with(|| watch::Sender::new(self.identity.clone()));
        Watcher::Changing(told.subscribe())
    }

    /// What goes with the connection.
    pub(super) fn leases(&mut self) -> Arc<Leases> {
        self.leases.get_or_insert_default().clone()
    }

    /// The database is another one from here on.
    pub(super) fn choose(&mut self, database: Arc<Database>) {
        self.database = database;
        self.snapshot = None;
    }

    fn command(&mut self, line: &[u8], used: usize, turn: &mut Turn<'_>) -> Step<Done> {
        let (name, words) = Words::of(line);
        if name.is_empty() {
            return Step::Skip { used };
        }
        let spec = table::find(name);
        if turn.busy && (self.parsing || spec.is_none_or(|spec| !spec.write)) {
            return Step::Wait;
        }
        if HTTP_METHODS.contains(&name) && [b" HTTP/1.0", b" HTTP/1.1"].iter().any(|end| line.ends_with(*end)) {
            let error = Error::bad_request("this port speaks lines, not HTTP; HELP lists the commands");
            turn.out.extend_from_slice(fault::line_text(&error).as_bytes());
            return Step::Close(CloseReason::ProtocolError);
        }
        let next = match (turn.refusal, spec) {
            (Some(refusal), _) => Err(dispatch::refused(refusal)),
            (None, Some(spec)) => (spec.run)(self, words, turn),
            (None, None) => Err(unknown(name)),
        };
        match next {
            Ok(Next::Answered) => Step::Answered { used },
            Ok(Next::Later(answer)) => Step::Later { used, answer },
            Ok(Next::Close(reason)) => Step::Close(reason),
            // Its answer has to come after those under way.
            Err(_) if turn.busy => Step::Wait,
            Err(error) => {
                turn.out.extend_from_slice(fault::line_text(&error).as_bytes());
                Step::Answered { used }
            }
        }
    }

    /// Writes the answer that `write` makes of a success, or the error.
    fn reply<T>(result: Result<T, Error>, turn: &mut Turn<'_>, write: impl FnOnce(T, &mut Turn<'_>)) -> Outcome {
        match result {
            Ok(done) => {
                write(done, turn);
                Outcome::Finished
            }
            Err(error) => {
                turn.out.extend_from_slice(fault::line_text(&error).as_bytes());
                fault::outcome(error.kind())
            }
        }
    }
}

pub(super) fn unknown(name: &[u8]) -> Error {
    let name = String::from_utf8_lossy(&name[..name.len().min(64)]);
    let nearest = table::nearest(&name);
    Error::bad_request(format!("there is no command {name:?}; the nearest is {nearest}, HELP lists all"))
}

fn committed(committed: &Committed, turn: &mut Turn<'_>) {
    turn.out.extend_from_slice(b"OK ");
    turn.out.extend_from_slice(itoa::Buffer::new().format(committed.rev).as_bytes());
    if let Some(key) = &committed.pushed {
        turn.out.push(b' ');
        turn.out.extend_from_slice(key.as_bytes());
    }
    turn.out.push(b'\n');
}

impl Protocol for Client {
    type Done = Done;

    fn step(&mut self, input: &[u8], turn: &mut Turn<'_>) -> Step<Done> {
        let mut scanner = self.scanner.clone();
        let bytes_max = turn.limits.line_bytes_max;
        let step = match scanner.scan(input, bytes_max) {
            Line::Whole(line, used) => self.command(line, used, turn),
            Line::TooLong(_) if turn.busy => Step::Wait,
            Line::TooLong(used) => {
                let text = format!("the line is longer than line_bytes_max ({bytes_max}); the next one counts again");
                let error = Error::new(standpipe_engine::ErrorKind::TooLarge, text);
                turn.out.extend_from_slice(fault::line_text(&error).as_bytes());
                Step::Answered { used }
            }
            Line::Skip(used) => Step::Skip { used },
            Line::Incomplete => Step::Incomplete { at_least: input.len() + 1 },
        };
        // What has to wait is looked at anew.
        if !matches!(step, Step::Wait) {
            self.scanner = scanner;
        }
        step
    }

    fn finish(&mut self, done: Done, turn: &mut Turn<'_>) -> Outcome {
        // What is read from here on has to show what has been written.
        self.snapshot = None;
        match done {
            Done::Read(result) => Self::reply(result, turn, |json, turn| {
                turn.out.extend_from_slice(&json);
                turn.out.push(b'\n');
            }),
            Done::Wrote(result) => {
                self.parsing = false;
                Self::reply(result, turn, |done, turn| committed(&done, turn))
            }
            Done::Watching(result) => Self::reply(result, turn, |begun, turn| self.begin(begun, turn)),
            Done::Tailing(result) => Self::reply(result, turn, |begun, turn| self.begin_tail(*begun, turn)),
            Done::Appended(result) => Self::reply(result, turn, |next_seq, turn| {
                turn.out.extend_from_slice(b"OK ");
                turn.out.extend_from_slice(itoa::Buffer::new().format(next_seq).as_bytes());
                turn.out.push(b'\n');
            }),
            Done::Closed(result) => Self::reply(result, turn, |(), turn| turn.out.extend_from_slice(b"OK\n")),
        }
    }

    fn poll_news(&mut self, context: &mut Context<'_>, turn: &mut Turn<'_>) -> Poll<()> {
        self.expiry.poll(context, turn.session);
        self.poll_watches(context, turn)
    }

    fn is_watching(&self) -> bool {
        self.watches.is_some()
    }

    fn turn_over(&mut self) {
        self.snapshot = None;
    }

    fn goodbye(&mut self, reason: CloseReason, out: &mut Vec<u8>) {
        match reason {
            CloseReason::Refused(refusal) => {
                out.extend_from_slice(fault::line_text(&dispatch::refused(refusal)).as_bytes());
            }
            reason => out.extend_from_slice(format!("BYE {}\n", reason.as_str()).as_bytes()),
        }
    }
}
