//! `MULTI`, `EXEC`, `DISCARD`, `WATCH`: commands are queued and then carried out by the writer in one commit, each
//! seeing what those before it wrote, nothing of others in between. What was watched must have the value it had.
//! Commands that are no matter of the tree (`PUBLISH`, `PING`) follow once the commit is done.

use standpipe_engine::{Committed, Error, ErrorKind, Op};
use standpipe_serve::{Class, Cost, Deadline, Outcome, Session};
use standpipe_tree::{Path, etag};

use super::call::{Fault, Run};
use super::client::{Client, Done, Next, Stash, computed};
use super::table::{Does, Spec, TalkRun};
use crate::commands::Turn;
use crate::dispatch;

/// Commands one transaction may have.
const QUEUED_MAX: usize = 10_000;

/// A queued command, as its reply is made.
pub(super) enum Part {
    /// By the writer.
    Data,
    /// By the connection, after the commit.
    Talk(TalkRun, Args),
}

/// A command's arguments, its name first.
type Args = Vec<Box<[u8]>>;

/// Commands waiting for `EXEC`.
#[derive(Default)]
pub(super) struct Transaction {
    parts: Vec<Part>,
    /// What the writer is to do, in the order of the parts that are data.
    data: Vec<(Run, Args)>,
    bytes: usize,
    /// A command was refused, so none may be carried out.
    spoiled: bool,
}

impl Transaction {
    pub(super) fn spoil(&mut self) {
        self.spoiled = true;
    }

    pub(super) fn queue(&mut self, spec: &Spec, args: &[&[u8]], bytes_max: usize) -> Result<(), Fault> {
        self.bytes += args.iter().map(|arg| arg.len() + 16).sum::<usize>();
        if self.parts.len() == QUEUED_MAX || self.bytes > bytes_max {
            self.spoil();
            return Err(Fault::err(format!(
                "a transaction has at most {QUEUED_MAX} commands and {bytes_max} bytes (request_body_bytes_max)"
            )));
        }
        let args: Args = args.iter().map(|arg| Box::from(*arg)).collect();
        self.parts.push(match spec.does {
            Does::Talk(run) => Part::Talk(run, args),
            Does::Read(run, _) | Does::Write(run) => {
                self.data.push((run, args));
                Part::Data
            }
            Does::Client(_) => {
                self.spoil();
                return Err(Fault::err("Command not allowed inside a transaction"));
            }
        });
        Ok(())
    }
}

pub(super) fn multi(client: &mut Client, _: &[&[u8]], turn: &mut Turn<'_>) -> Result<Next, Fault> {
    if client.more().transaction.is_some() {
        return Err(Fault::err("MULTI calls can not be nested"));
    }
    client.more().transaction = Some(Transaction::default());
    client.reply(turn.out).ok();
    Ok(Next::Answered)
}

pub(super) fn discard(client: &mut Client, _: &[&[u8]], turn: &mut Turn<'_>) -> Result<Next, Fault> {
    if client.more().transaction.take().is_none() {
        return Err(Fault::err("DISCARD without MULTI"));
    }
    client.more().watched.clear();
    client.reply(turn.out).ok();
    Ok(Next::Answered)
}

pub(super) fn exec(client: &mut Client, _: &[&[u8]], turn: &mut Turn<'_>) -> Result<Next, Fault> {
    let Some(transaction) = client.more().transaction.take() else { return Err(Fault::err("EXEC without MULTI")) };
    let watched = std::mem::take(&mut client.more().watched);
    if transaction.spoiled {
        return Err(Fault::Redis("EXECABORT Transaction discarded because of previous errors.".into()));
    }
    let parts = transaction.parts;
    let calls = transaction.data.into_iter().map(|(run, args)| {
        let args: Vec<&[u8]> = args.iter().map(|arg| &**arg).collect();
        client.owned(run, &args, turn.limits.reply_bytes_max)
    });
    let (steps, stash) = computed(calls.collect());
    let done = move |result, stash| Done::Executed(result, stash, parts);
    Ok(Next::Later(client.submit(Op::Batch(steps), stash, (watched, None), turn, done)))
}

impl Client {
    fn talk(&mut self, run: TalkRun, args: &[Box<[u8]>], turn: &mut Turn<'_>) {
        let args: Vec<&[u8]> = args.iter().map(|arg| &**arg).collect();
        if let Err(fault) = run(self, &args, turn) {
            self.fault(&fault, turn.out);
        }
    }

    pub(super) fn executed(
        &mut self,
        result: Result<Committed, Error>,
        stash: &Stash,
        parts: &[Part],
        turn: &mut Turn<'_>,
    ) -> Outcome {
        match result {
            Ok(committed) => {
                self.reply(turn.out).array(parts.len());
                let replies = stash.lock();
                let mut replies = replies.iter().enumerate();
                for part in parts {
                    match part {
                        Part::Data => {
                            let (at, reply) = replies.next().expect("the writer leaves a reply to each");
                            // What the engine refused is that command's reply; the others were carried out.
                            match committed.steps.get(at) {
                                Some(Err(error)) => self.fault(&Fault::Engine(error.clone()), turn.out),
                                _ => turn.out.extend_from_slice(reply),
                            }
                        }
                        Part::Talk(run, args) => self.talk(*run, args, turn),
                    }
                }
                Outcome::Finished
            }
            Err(error) if error.kind() == ErrorKind::Conflict => {
                self.reply(turn.out).null_array();
                Outcome::Finished
            }
            Err(error) => {
                self.fault(&Fault::Engine(error.clone()), turn.out);
                crate::fault::outcome(error.kind())
            }
        }
    }
}

pub(super) fn watch(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Result<Next, Fault> {
    if client.more().transaction.is_some() {
        return Err(Fault::err("WATCH inside MULTI is not allowed"));
    }
    let paths: Vec<Path> = args[1..].iter().map(|key| client.shared.separator.path(key)).collect::<Result<_, _>>()?;
    if client.more().watched.len() + paths.len() > turn.limits.watchers_per_connection_max {
        return Err(Fault::err("too many watched keys on one connection (watchers_per_connection_max)"));
    }
    let (session, database): (Session, _) = (turn.session.clone(), client.database.clone());
    let identity = client.identity.clone();
    let cost = Cost::Bytes(turn.limits.reply_chunk_bytes);
    let deadline = Deadline::after(turn.limits.request_ms_max);
    Ok(Next::Later(Box::pin(async move {
        let snapshot = match database.snapshot().await {
            Ok(snapshot) => snapshot,
            Err(error) => return Done::Watched(Err(error)),
        };
        let job = move || {
            let tag = |path: Path| {
                database.check_read(&snapshot, &identity, &path, None)?;
                Ok((etag(&mut snapshot.cursor(&path))?, path))
            };
            let tagged = paths.into_iter().map(|path| tag(path).map(|(etag, path)| (path, etag)));
            tagged.collect::<Result<Vec<_>, Error>>()
        };
        Done::Watched(dispatch::run(&session, Class::Read, cost, deadline, job).await)
    })))
}

pub(super) fn unwatch(client: &mut Client, _: &[&[u8]], turn: &mut Turn<'_>) -> Result<(), Fault> {
    if let Some(more) = &mut client.more {
        more.watched.clear();
    }
    client.reply(turn.out).ok();
    Ok(())
}
