//! One client of the RESP door: who it is, what it has begun, and the way of each command: answered at
//! once on a snapshot, sent to a worker, or decided by the writer.

use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use standpipe_engine::{Committed, Compute, Database, Error, Identity, Op, Snapshot};
use standpipe_serve::{Class, CloseReason, Cost, Deadline, Outcome};
use standpipe_wire::resp::{self, DecodeLimits, Decoded};
use tokio::sync::{Notify, watch};

use super::Shared;
use super::call::{Call, Fault, Look, OwnedCall, Reader, Run};
use super::keys::text;
use super::multi::{Part, Transaction};
use super::pubsub::Subscriptions;
use super::reply::{Reply, Version};
use super::table::{self, Does, Spec, Weight};
use crate::auth::{Expiry, Identified};
use crate::commands::{Answer, Protocol, Step, Turn};
use crate::dispatch::{self, Leases, Watcher, Write};
use crate::fault;

/// Keys a command may name and still be answered at once.
const SMALL_KEYS: usize = 64;

/// Longest command line that is not in the protocol's own form.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// What an answer under way resolves to.
pub(super) enum Done {
    /// The reply is made.
    Replied(Result<Vec<u8>, Error>),
    /// The writer has answered; the reply was left here by what ran there.
    Wrote(Result<Committed, Error>, Stash),
    /// A transaction has ended; conditions that do not hold make it null.
    Executed(Result<Committed, Error>, Stash, Vec<Part>),
    /// Keys to be unchanged when the transaction comes.
    Watched(Result<Vec<(standpipe_tree::Path, String)>, Error>),
    /// Subscriptions begun, with the reply of each.
    Subscribed(Result<super::pubsub::Begun, Error>),
}

/// Where the writer leaves the reply of each command. It may make them more than once; the last ones count.
pub(super) type Stash = Arc<Mutex<Vec<Vec<u8>>>>;

/// What a command of the connection itself leads to.
pub(super) enum Next {
    Answered,
    Later(Answer<Done>),
    Close(CloseReason),
}

/// A client.
pub(super) struct Client {
    pub(super) shared: Arc<Shared>,
    pub(super) database: Arc<Database>,
    pub(super) identity: Identity,
    pub(super) expiry: Expiry,
    pub(super) version: Version,
    /// The command before: clients repeat themselves.
    last: &'static Spec,
    /// What the reads of one turn share.
    reading: Option<Box<Reading>>,
    /// What few clients have.
    pub(super) more: Option<Box<More>>,
}

/// A snapshot, and room for the key of a row.
pub(super) struct Reading {
    pub(super) snapshot: Snapshot,
    row: Vec<u8>,
}

/// State that a client has once it does more than read and write.
#[derive(Default)]
pub(super) struct More {
    pub(super) name: String,
    pub(super) library: String,
    pub(super) library_version: String,
    pub(super) transaction: Option<Transaction>,
    pub(super) watched: Vec<(standpipe_tree::Path, String)>,
    pub(super) subscriptions: Option<Subscriptions>,
    pub(super) leases: Option<Arc<Leases>>,
    /// What subscriptions to the tree are told of the identity, once there are some.
    pub(super) told: Option<watch::Sender<Identity>>,
    /// Told when the peer has closed: what waits for more need not any longer.
    gone: Arc<Notify>,
}

impl Client {
    pub(super) fn new(shared: Arc<Shared>) -> Result<Self, Error> {
        Ok(Self {
            database: shared.dispatch.database(None)?,
            shared,
            identity: Identity::Anonymous,
            expiry: Expiry::default(),
            version: Version::Two,
            last: &table::COMMANDS[0],
            reading: None,
            more: None,
        })
    }

    /// The client is this one from here on; subscriptions to the tree that he may not have end.
    pub(super) fn become_known(&mut self, bearer: Identified, turn: &Turn<'_>) -> Result<(), Error> {
        let Identified { identity, expires_at, .. } = bearer;
        if let Some(more) = &self.more {
            if let Some(leases) = &more.leases {
                let deadline = Deadline::after(turn.limits.request_ms_max);
                self.shared.dispatch.identify(&self.database, leases, &identity, deadline)?;
            }
            if let Some(told) = &more.told {
                told.send_replace(identity.clone());
            }
        }
        self.identity = identity;
        self.expiry.set(expires_at);
        Ok(())
    }

    /// The client, as its subscriptions know it.
    pub(super) fn watcher(&mut self) -> Watcher {
        let identity = self.identity.clone();
        Watcher::Changing(self.more().told.get_or_insert_with(|| watch::Sender::new(identity)).subscribe())
    }

    /// Hears when the peer has closed its side.
    pub(super) fn gone(&mut self) -> Arc<Notify> {
        self.more().gone.clone()
    }

    pub(super) fn more(&mut self) -> &mut More {
        self.more.get_or_insert_with(Box::default)
    }

    pub(super) fn reply<'o>(&self, out: &'o mut Vec<u8>) -> Reply<'o> {
        Reply { out, version: self.version }
    }

    /// Replies with an error in redis' words.
    pub(super) fn fault(&self, fault: &Fault, out: &mut Vec<u8>) {
        let text = match fault {
            Fault::Redis(text) => text.clone().into_owned(),
            Fault::Engine(error) => fault::resp_text(error, &self.identity),
        };
        self.reply(out).error(&text);
    }

    fn command(&mut self, args: &[&[u8]], used: usize, turn: &mut Turn<'_>) -> Step<Done> {
        let spec = match table::find(self.last, args[0]) {
            Some(spec) => spec,
            None if turn.busy => return Step::Wait,
            None => return self.refused(used, &unknown(args), turn),
        };
        self.last = spec;
        let write = matches!(spec.does, Does::Write(_));
        if turn.busy && !write {
            return Step::Wait;
        }
        if let Err(fault) = self.check(spec, args, turn) {
            if turn.busy {
                return Step::Wait;
            }
            return self.refused(used, &fault, turn);
        }
        if let Some(transaction) = self.more.as_mut().and_then(|more| more.transaction.as_mut())
            && !spec.during_multi
        {
            // Nothing is under way in a transaction: what begins it waits for that.
            return match transaction.queue(spec, args, turn.limits.request_body_bytes_max) {
                Ok(()) => {
                    self.reply(turn.out).simple("QUEUED");
                    Step::Answered { used }
                }
                Err(fault) => self.answered(used, &fault, turn),
            };
        }
        match &spec.does {
            Does::Read(run, weight) => self.read(*run, *weight, args, used, turn),
            Does::Write(run) => self.write(*run, args, used, turn),
            Does::Talk(run) => match run(self, args, turn) {
                Ok(()) => Step::Answered { used },
                Err(fault) => self.answered(used, &fault, turn),
            },
            Does::Client(run) => match run(self, args, turn) {
                Ok(Next::Answered) => Step::Answered { used },
                Ok(Next::Later(answer)) => Step::Later { used, answer },
                Ok(Next::Close(reason)) => Step::Close(reason),
                Err(fault) => self.answered(used, &fault, turn),
            },
        }
    }

    /// May the command be carried out at all?
    fn check(&self, spec: &Spec, args: &[&[u8]], turn: &Turn<'_>) -> Result<(), Fault> {
        if let Some(refusal) = turn.refusal {
            return Err(Fault::Engine(dispatch::refused(refusal)));
        }
        let wanted = spec.arity.unsigned_abs() as usize;
        if args.len() < wanted || (spec.arity > 0 && args.len() > wanted) {
            return Err(Fault::err(format!("wrong number of arguments for '{}' command", spec.name)));
        }
        if !spec.before_auth {
            self.database.check_entry(&self.identity)?;
        }
        let subscribed = self.more.as_ref().is_some_and(|more| more.subscriptions.is_some());
        if subscribed && self.version == Version::Two && !spec.while_subscribed {
            return Err(Fault::err(format!(
                "Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
                spec.name
            )));
        }
        Ok(())
    }

    /// Refuses a command before it is carried out, or queued: the transaction it was meant for is not carried out either.
    fn refused(&mut self, used: usize, fault: &Fault, turn: &mut Turn<'_>) -> Step<Done> {
        if let Some(transaction) = self.more.as_mut().and_then(|more| more.transaction.as_mut()) {
            transaction.spoil();
        }
        self.answered(used, fault, turn)
    }

    fn answered(&self, used: usize, fault: &Fault, turn: &mut Turn<'_>) -> Step<Done> {
        self.fault(fault, turn.out);
        Step::Answered { used }
    }

    /// Replies with the leaf at a key, or that nothing is there: what most commands ask for, found in one search
    /// or two. False where it is more than that.
    fn leaf(&mut self, key: &[u8], turn: &mut Turn<'_>) -> Result<bool, Error> {
        // Where rules have a say, the long way asks them.
        if self.database.check_unruled(&self.identity).is_err() {
            return Ok(false);
        }
        let (separator, version) = (self.shared.separator, self.version);
        let Some(Reading { snapshot, row }) = self.reading()? else { return Ok(false) };
        row.clear();
        if !separator.encode(key, row) {
            return Ok(false);
        }
        let mut reply = Reply { out: turn.out, version };
        match snapshot.leaf(row)? {
            Some(leaf) => reply.bulk(&text(&leaf)),
            None if snapshot.holds(row)? => return Ok(false),
            None => reply.null(),
        }
        Ok(true)
    }

    fn read(&mut self, run: Run, weight: Weight, args: &[&[u8]], used: usize, turn: &mut Turn<'_>) -> Step<Done> {
        if weight == Weight::Value {
            match self.leaf(args[1], turn) {
                Ok(true) => return Step::Answered { used },
                Ok(false) => {}
                Err(error) => return self.answered(used, &Fault::Engine(error), turn),
            }
        }
        let separator = self.shared.separator;
        let small = match self.reading() {
            Ok(Some(reading)) => match is_small(separator, &reading.snapshot, weight, args, turn) {
                Ok(small) => small,
                Err(fault) => return self.answered(used, &fault, turn),
            },
            // The map grows just now: a snapshot must be waited for.
            Ok(None) => false,
            Err(error) => return self.answered(used, &Fault::Engine(error), turn),
        };
        let Some(reading) = self.reading.as_deref().filter(|_| small) else {
            return Step::Later { used, answer: self.read_later(run, args, turn) };
        };
        let before = turn.out.len();
        let mut call = Call {
            look: Look::Snapshot(&reading.snapshot, Reader { database: &self.database, identity: &self.identity }),
            args,
            reply: Reply { out: turn.out, version: self.version },
            separator: self.shared.separator,
            reply_max: turn.limits.reply_bytes_max + before,
            cursors: &self.shared.cursors,
        };
        if let Err(fault) = run(&mut call) {
            turn.out.truncate(before);
            self.fault(&fault, turn.out);
        }
        Step::Answered { used }
    }

    /// This turn's snapshot, if one can be had without waiting.
    pub(super) fn reading(&mut self) -> Result<Option<&mut Reading>, Error> {
        if self.reading.is_none() {
            let reading = |snapshot| Box::new(Reading { snapshot, row: Vec::with_capacity(64) });
            self.reading = self.database.snapshot_now()?.map(reading);
        }
        Ok(self.reading.as_deref_mut())
    }

    pub(super) fn owned(&self, run: Run, args: &[&[u8]], reply_max: usize) -> OwnedCall {
        OwnedCall {
            run,
            args: args.iter().map(|arg| Box::from(*arg)).collect(),
            version: self.version,
            separator: self.shared.separator,
            reply_max,
            cursors: self.shared.cursors.clone(),
        }
    }

    /// A read that takes its time, on a worker.
    fn read_later(&self, run: Run, args: &[&[u8]], turn: &Turn<'_>) -> Answer<Done> {
        let call = self.owned(run, args, turn.limits.reply_bytes_max);
        let (session, database, identity) = (turn.session.clone(), self.database.clone(), self.identity.clone());
        let cost = Cost::Bytes(turn.limits.reply_chunk_bytes);
        let deadline = Deadline::after(turn.limits.request_ms_max);
        Box::pin(async move {
            let snapshot = match database.snapshot().await {
                Ok(snapshot) => snapshot,
                Err(error) => return Done::Replied(Err(error)),
            };
            let job = move || {
                let mut out = Vec::new();
                let reader = Reader { database: &database, identity: &identity };
                call.run(Look::Snapshot(&snapshot, reader), &mut out).map(|_nothing| out)
            };
            Done::Replied(dispatch::run(&session, Class::Read, cost, deadline, job).await)
        })
    }

    fn write(&mut self, run: Run, args: &[&[u8]], used: usize, turn: &mut Turn<'_>) -> Step<Done> {
        let call = self.owned(run, args, turn.limits.reply_bytes_max);
        let (mut steps, stash) = computed(vec![call]);
        Step::Later { used, answer: self.submit(steps.remove(0), stash, (Vec::new(), None), turn, Done::Wrote) }
    }

    /// Hands an operation to the writer at once; the answer comes with its commit.
    pub(super) fn submit(
        &self,
        op: Op,
        stash: Stash,
        (conditions, leases): (Vec<(standpipe_tree::Path, String)>, Option<&Leases>),
        turn: &Turn<'_>,
        done: impl FnOnce(Result<Committed, Error>, Stash) -> Done + Send + 'static,
    ) -> Answer<Done> {
        let deadline = Deadline::after(turn.limits.request_ms_max);
        let write = Write { conditions, leases, ..Write::new(op) };
        let submitted = self.shared.dispatch.submit(&self.database, &self.identity, write, deadline);
        Box::pin(async move {
            let result = match submitted {
                Ok(answer) => answer.await,
                Err(error) => Err(error),
            };
            done(result, stash)
        })
    }

    fn reply_with(&self, result: &Result<Vec<u8>, Error>, out: &mut Vec<u8>) -> Outcome {
        match result {
            Ok(bytes) => {
                out.extend_from_slice(bytes);
                Outcome::Finished
            }
            Err(error) => {
                self.reply(out).error(&fault::resp_text(error, &self.identity));
                fault::outcome(error.kind())
            }
        }
    }
}

/// An operation for each command, which carries it out on the writer's transaction, and where they leave their replies.
pub(super) fn computed(calls: Vec<OwnedCall>) -> (Vec<Op>, Stash) {
    let stash = Stash::default();
    let step = |(index, call): (usize, OwnedCall)| {
        let stash = stash.clone();
        Op::Compute(Compute::new(call.bytes(), move |view| {
            let mut reply = Vec::new();
            let ran = call.run(Look::Writer(view), &mut reply);
            let mut replies = stash.lock();
            replies.truncate(index);
            replies.push(reply);
            ran
        }))
    };
    let steps = calls.into_iter().enumerate().map(step).collect();
    (steps, stash)
}

fn unknown(args: &[&[u8]]) -> Fault {
    let name = String::from_utf8_lossy(&args[0][..args[0].len().min(128)]).into_owned();
    let mut shown = String::new();
    for arg in &args[1..] {
        if shown.len() >= 128 {
            break;
        }
        shown.push_str(&format!("'{}' ", String::from_utf8_lossy(&arg[..arg.len().min(128)])));
    }
    let one_line: String = format!("unknown command '{name}', with args beginning with: {shown}")
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    Fault::err(one_line)
}

/// Can a read be answered in the time that handing it to a worker would take?
fn is_small(
    separator: super::Separator,
    snapshot: &Snapshot,
    weight: Weight,
    args: &[&[u8]],
    turn: &Turn<'_>,
) -> Result<bool, Fault> {
    match weight {
        Weight::Point => Ok(args.len() <= SMALL_KEYS),
        Weight::Value | Weight::Values if args.len() <= 2 => {
            let path = separator.path(args[1])?;
            Ok(dispatch::cost(snapshot, &path, turn.limits.reply_chunk_bytes)? == Cost::Small)
        }
        Weight::Value | Weight::Values | Weight::Scan => Ok(false),
    }
}

impl Protocol for Client {
    type Done = Done;

    fn step(&mut self, input: &[u8], turn: &mut Turn<'_>) -> Step<Done> {
        let limits = DecodeLimits {
            args_max: turn.limits.command_args_max,
            bulk_bytes_max: turn.limits.request_body_bytes_max,
            inline_bytes_max: INLINE_BYTES_MAX,
        };
        let mut unquoted = Vec::new();
        match resp::decode(input, &mut unquoted, &limits) {
            Ok(Decoded::Command(command, used)) => self.command(command.args(), used, turn),
            Ok(Decoded::Skip(used)) => Step::Skip { used },
            Ok(Decoded::Incomplete { at_least }) => Step::Incomplete { at_least },
            Err(_) if turn.busy => Step::Wait,
            Err(error) => {
                self.reply(turn.out).error(&format!("ERR Protocol error: {error}"));
                Step::Close(CloseReason::ProtocolError)
            }
        }
    }

    fn finish(&mut self, done: Done, turn: &mut Turn<'_>) -> Outcome {
        // What comes after sees what this one has written.
        self.reading = None;
        match done {
            Done::Replied(result) => self.reply_with(&result, turn.out),
            Done::Wrote(Ok(_), stash) => {
                stash.lock().iter().for_each(|reply| turn.out.extend_from_slice(reply));
                Outcome::Finished
            }
            Done::Wrote(Err(error), _) => self.reply_with(&Err(error), turn.out),
            Done::Executed(result, stash, parts) => self.executed(result, &stash, &parts, turn),
            Done::Watched(Ok(watched)) => {
                self.more().watched.extend(watched);
                self.reply(turn.out).ok();
                Outcome::Finished
            }
            Done::Subscribed(Ok(begun)) => {
                self.begin(begun, turn);
                Outcome::Finished
            }
            Done::Watched(Err(error)) | Done::Subscribed(Err(error)) => self.reply_with(&Err(error), turn.out),
        }
    }

    fn poll_news(&mut self, context: &mut Context<'_>, turn: &mut Turn<'_>) -> Poll<()> {
        self.expiry.poll(context, turn.session);
        self.poll_messages(context, turn)
    }

    fn is_watching(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.subscriptions.is_some())
    }

    fn peer_closed(&mut self) {
        if let Some(more) = &self.more {
            more.gone.notify_waiters();
        }
    }

    fn turn_over(&mut self) {
        self.reading = None;
    }

    fn goodbye(&mut self, reason: CloseReason, out: &mut Vec<u8>) {
        match reason {
            CloseReason::Shutdown => self.reply(out).error("ERR the server is shutting down"),
            CloseReason::Revoked => self.reply(out).error("NOAUTH the credential is no longer valid; connect again"),
            CloseReason::Refused(refusal) => out.extend_from_slice(&fault::resp_line(&dispatch::refused(refusal))),
            _ => {}
        }
    }
}
