//! `SUBSCRIBE`, `PSUBSCRIBE`, `PUBLISH` and their kin: names of the tree's changes (`keyspace.rs`) are watches
//! of the engine, all others channels of the bus.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream::{self, BoxStream, SelectAll, Stream, StreamExt as _};
use standpipe_engine::{Error, ErrorKind};
use standpipe_serve::{CloseReason, Session, WatchPermit};

use super::Shared;
use super::bus::{Mailbox, Message};
use super::call::{Fault, is};
use super::client::{Client, Done, Next};
use super::keyspace;
use super::reply::Reply;
use crate::commands::Turn;

type Changes = BoxStream<'static, Result<Vec<Message>, Error>>;

/// What a client is subscribed to.
pub(super) struct Subscriptions {
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    names: Vec<Name>,
    trees: SelectAll<Tree>,
}

/// One subscription.
struct Name {
    name: Arc<[u8]>,
    pattern: bool,
    /// Of a channel of the bus; a watch of the tree holds its own.
    _permit: Option<WatchPermit>,
}

/// The changes behind one name.
struct Tree {
    name: Arc<[u8]>,
    pattern: bool,
    changes: Changes,
}

impl Stream for Tree {
    type Item = Result<Vec<Message>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.changes.poll_next_unpin(context)
    }
}

/// Subscriptions that are ready to be taken up.
pub(super) struct Begun {
    pattern: bool,
    names: Vec<(Arc<[u8]>, Source)>,
}

enum Source {
    Bus(WatchPermit),
    Tree(Changes),
}

impl Subscriptions {
    fn new(shared: Arc<Shared>, session: Session) -> Self {
        let mailbox = Arc::new(Mailbox::new(move || session.close(CloseReason::SlowWatcher)));
        Self { shared, mailbox, names: Vec::new(), trees: SelectAll::new() }
    }

    fn has(&self, name: &[u8], pattern: bool) -> bool {
        self.names.iter().any(|other| other.pattern == pattern && *other.name == *name)
    }

    fn add(&mut self, name: Arc<[u8]>, pattern: bool, source: Source) {
        if self.has(&name, pattern) {
            return;
        }
        let permit = match source {
            Source::Bus(permit) => {
                self.shared.bus.subscribe(name.clone(), pattern, &self.mailbox);
                Some(permit)
            }
            Source::Tree(changes) => {
                self.trees.push(Tree { name: name.clone(), pattern, changes });
                None
            }
        };
        self.names.push(Name { name, pattern, _permit: permit });
    }

    fn remove(&mut self, name: &[u8], pattern: bool) {
        self.names.retain(|other| other.pattern != pattern || *other.name != *name);
        self.shared.bus.unsubscribe(name, pattern, &self.mailbox);
        let kept = |tree: &Tree| tree.pattern != pattern || *tree.name != *name;
        self.trees = std::mem::take(&mut self.trees).into_iter().filter(kept).collect();
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        for name in &self.names {
            self.shared.bus.unsubscribe(&name.name, name.pattern, &self.mailbox);
        }
    }
}

pub(super) fn subscribe(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Result<Next, Fault> {
    begin(client, args, turn, false)
}

pub(super) fn psubscribe(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Result<Next, Fault> {
    begin(client, args, turn, true)
}

fn begin(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>, pattern: bool) -> Result<Next, Fault> {
    let separator = client.shared.separator;
    let mut wanted = Vec::with_capacity(args.len() - 1);
    for name in &args[1..] {
        wanted.push((Arc::<[u8]>::from(*name), keyspace::parse(name, pattern, separator)?));
    }
    let (dispatch, database) = (client.shared.dispatch.clone(), client.database.clone());
    let (identity, watcher, session) = (client.identity.clone(), client.watcher(), turn.session.clone());
    let begun = async move {
        let mut names = Vec::with_capacity(wanted.len());
        for (name, wanted) in wanted {
            let mut changes = Vec::with_capacity(wanted.len());
            for wanted in wanted {
                let (dispatch, database) = (dispatch.clone(), database.clone());
                changes.push(keyspace::watch(wanted, dispatch, database, watcher.clone(), session.clone()).await?);
            }
            let source = match changes.len() {
                0 => {
                    // No rule speaks of channels.
                    database.check_unruled(&identity)?;
                    Source::Bus(session.watch_permit().map_err(crate::dispatch::refused)?)
                }
                1 => Source::Tree(changes.remove(0)),
                _ => Source::Tree(stream::select_all(changes).boxed()),
            };
            names.push((name, source));
        }
        Ok(Begun { pattern, names })
    };
    Ok(Next::Later(Box::pin(async move { Done::Subscribed(begun.await) })))
}

pub(super) fn unsubscribe(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Result<Next, Fault> {
    end(client, args, turn, false)
}

pub(super) fn punsubscribe(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Result<Next, Fault> {
    end(client, args, turn, true)
}

fn end(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>, pattern: bool) -> Result<Next, Fault> {
    let word = if pattern { "punsubscribe" } else { "unsubscribe" };
    let mut reply = Reply { out: turn.out, version: client.version };
    let mut subscriptions = client.more.as_mut().and_then(|more| more.subscriptions.take());
    let names: Vec<Arc<[u8]>> = match (&args[1..], &subscriptions) {
        ([], Some(subscriptions)) => {
            let named = subscriptions.names.iter().filter(|name| name.pattern == pattern);
            named.map(|name| name.name.clone()).collect()
        }
        (names, _) => names.iter().map(|name| Arc::from(*name)).collect(),
    };
    let count = |subscriptions: &Option<Subscriptions>| subscriptions.as_ref().map_or(0, |all| all.names.len());
    for name in &names {
        if let Some(subscriptions) = &mut subscriptions {
            subscriptions.remove(name, pattern);
        }
        reply.push(3);
        reply.bulk(word.as_bytes());
        reply.bulk(name);
        reply.integer(count(&subscriptions) as i64);
    }
    if names.is_empty() {
        reply.push(3);
        reply.bulk(word.as_bytes());
        reply.null();
        reply.integer(count(&subscriptions) as i64);
    }
    if let Some(more) = &mut client.more {
        more.subscriptions = subscriptions.filter(|all| !all.names.is_empty());
    }
    Ok(Next::Answered)
}

pub(super) fn publish(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Result<(), Fault> {
    client.database.check_unruled(&client.identity)?;
    let count = client.shared.bus.publish(args[1], args[2], turn.limits.mailbox_bytes_max);
    client.reply(turn.out).integer(count as i64);
    Ok(())
}

pub(super) fn pubsub(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Result<(), Fault> {
    client.database.check_unruled(&client.identity)?;
    let bus = &client.shared.bus;
    let mut reply = client.reply(turn.out);
    match &args[1..] {
        [what, pattern @ ..] if is(what, "channels") && pattern.len() <= 1 => {
            let channels = bus.channels(pattern.first().copied());
            reply.array(channels.len());
            channels.iter().for_each(|channel| reply.bulk(channel));
        }
        [what, channels @ ..] if is(what, "numsub") => {
            reply.flat_map(channels.len());
            for channel in channels {
                reply.bulk(channel);
                reply.integer(bus.subscribers(channel) as i64);
            }
        }
        [what] if is(what, "numpat") => reply.integer(bus.patterns() as i64),
        _ => {
            return Err(Fault::err(
                "unknown subcommand or wrong number of arguments. Try PUBSUB CHANNELS, NUMSUB or NUMPAT.",
            ));
        }
    }
    Ok(())
}

impl Client {
    /// Takes up subscriptions and tells each.
    pub(super) fn begin(&mut self, begun: Begun, turn: &mut Turn<'_>) {
        let word: &[u8] = if begun.pattern { b"psubscribe" } else { b"subscribe" };
        let (shared, version, session) = (self.shared.clone(), self.version, turn.session.clone());
        let subscriptions = self.more().subscriptions.get_or_insert_with(|| Subscriptions::new(shared, session));
        for (name, source) in begun.names {
            subscriptions.add(name.clone(), begun.pattern, source);
            let mut reply = Reply { out: turn.out, version };
            reply.push(3);
            reply.bulk(word);
            reply.bulk(&name);
            reply.integer(subscriptions.names.len() as i64);
        }
    }

    pub(super) fn poll_messages(&mut self, context: &mut Context<'_>, turn: &mut Turn<'_>) -> Poll<()> {
        let version = self.version;
        let Some(subscriptions) = self.more.as_mut().and_then(|more| more.subscriptions.as_mut()) else {
            return Poll::Pending;
        };
        if let Poll::Ready(message) = subscriptions.mailbox.poll_next(context) {
            tell(&message, &mut Reply { out: turn.out, version });
            return Poll::Ready(());
        }
        if subscriptions.trees.is_empty() {
            return Poll::Pending;
        }
        match subscriptions.trees.poll_next_unpin(context) {
            Poll::Ready(Some(Ok(messages))) => {
                messages.iter().for_each(|message| tell(message, &mut Reply { out: turn.out, version }));
                Poll::Ready(())
            }
            // What can't be watched any more must not look as if nothing happened there.
            Poll::Ready(Some(Err(error))) if error.kind() == ErrorKind::Denied => {
                turn.session.close(CloseReason::Revoked);
                Poll::Pending
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::warn!(%error, "a subscription to the tree ended");
                turn.session.close(CloseReason::Internal);
                Poll::Pending
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

fn tell(message: &Message, reply: &mut Reply<'_>) {
    match &message.pattern {
        Some(pattern) => {
            reply.push(4);
            reply.bulk(b"pmessage");
            reply.bulk(pattern);
        }
        None => {
            reply.push(3);
            reply.bulk(b"message");
        }
    }
    reply.bulk(&message.channel);
    reply.bulk(&message.payload);
}
