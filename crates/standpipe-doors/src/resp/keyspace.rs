//! Changes of the tree as messages: `__keyspace@0__:KEY` tells what happened to a key, `__keyevent@0__:EVENT`
//! to which key, and `__keyvalue@0__:KEY` its new value as JSON. They come from a watch of the engine, so none is
//! missed in silence: where some could not be kept, the event is `reset`, and the value the one that all of it has now.

use std::convert::Infallible;
use std::sync::Arc;

use futures_util::stream::{self, BoxStream, StreamExt as _};
use standpipe_engine::{Database, Error};
use standpipe_serve::{Deadline, Session, WatchPermit};
use standpipe_tree::{Change, Format, Leaf, Location, Path, Write, is_priority_key, to_json};

use super::bus::Message;
use super::call::Fault;
use super::glob;
use super::keys::Separator;
use crate::dispatch::{Dispatch, Subscription, Update, Watcher};

/// What is told of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Event,
    Key,
    Value,
}

const PREFIXES: [(&str, Told); 3] =
    [("__keyspace@0__:", Told::Event), ("__keyevent@0__:", Told::Key), ("__keyvalue@0__:", Told::Value)];

/// A subscription to changes of the tree.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    told: Told,
    /// All of it lies at or below this path.
    base: Path,
    /// The name as the client gave it; with a pattern it chooses among the channels.
    name: Arc<[u8]>,
    pattern: bool,
    separator: Separator,
}

/// What a channel's name, or a pattern, asks to be told of the tree; nothing when it is an ordinary one.
pub(super) fn parse(name: &[u8], pattern: bool, separator: Separator) -> Result<Vec<Wanted>, Fault> {
    if let Some((prefix, told)) = PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix.as_bytes())) {
        return Ok(vec![wanted(*told, &name[prefix.len()..], name, pattern, separator)?]);
    }
    // `__key*__:*` and the like, which may stand for several kinds.
    let literal = &name[..wildcard(name)];
    let kinds = PREFIXES.iter().filter(|(prefix, _)| pattern && prefix.as_bytes().starts_with(literal));
    match literal.starts_with(b"__key") {
        true => kinds.map(|(_, told)| wanted(*told, b"*", name, pattern, separator)).collect(),
        false => Ok(Vec::new()),
    }
}

/// Length of what a pattern has before its first wildcard.
fn wildcard(pattern: &[u8]) -> usize {
    pattern.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(pattern.len())
}

fn wanted(told: Told, rest: &[u8], name: &[u8], pattern: bool, separator: Separator) -> Result<Wanted, Fault> {
    let base = match (told, pattern) {
        (Told::Key, _) => Path::root(),
        (_, false) => separator.path(rest)?,
        // The part before the first wildcard, up to its last whole segment.
        (_, true) => {
            let literal = wildcard(rest);
            let whole = if literal == rest.len() { rest.len() } else { separator.cut(&rest[..literal]) };
            separator.path(&rest[..whole])?
        }
    };
    Ok(Wanted { told, base, name: name.into(), pattern, separator })
}

/// One subscription's messages, from now on.
struct Feed {
    wanted: Wanted,
    dispatch: Dispatch,
    database: Arc<Database>,
    watcher: Watcher,
    session: Session,
    subscription: Subscription,
    _permit: WatchPermit,
}

/// Begins to watch.
pub(super) async fn watch(
    wanted: Wanted,
    dispatch: Dispatch,
    database: Arc<Database>,
    watcher: Watcher,
    session: Session,
) -> Result<BoxStream<'static, Result<Vec<Message>, Error>>, Error> {
    let permit =
        session.watch_permit().map_err(|refusal| Error::overloaded(refusal.to_string(), refusal.retry_after()))?;
    let since = database.rev();
    let subscription =
        dispatch.watch(&session, &database, watcher.clone(), wanted.base.clone(), None, Some(since)).await?;
    let feed = Feed { wanted, dispatch, database, watcher, session, subscription, _permit: permit };
    Ok(stream::try_unfold(feed, |mut feed| async move {
        loop {
            let messages = feed.next().await?;
            if !messages.is_empty() {
                return Ok(Some((messages, feed)));
            }
            feed.subscription.changed().await;
        }
    })
    .boxed())
}

impl Feed {
    async fn next(&mut self) -> Result<Vec<Message>, Error> {
        let mut messages = Vec::new();
        let mut below = None;
        for update in self.subscription.take(&self.session).await? {
            match update {
                Update::Event(event) if self.wanted.pattern || self.wanted.told == Told::Key => {
                    self.wanted.each_leaf(&event.change, &mut messages);
                }
                Update::Event(event) => below = self.wanted.exact(&event.change, &mut messages).or(below),
                Update::Value { json, .. } => {
                    let base = self.wanted.separator.key(&self.wanted.base);
                    messages.push(self.wanted.message("reset", &base, &json));
                }
                Update::Moved { .. } | Update::Resumed { .. } => {}
            }
        }
        if let Some(event) = below {
            let value = if self.wanted.told == Told::Value { self.value().await? } else { Vec::new() };
            let key = self.wanted.separator.key(&self.wanted.base);
            messages.push(self.wanted.message(event, &key, &value));
        }
        Ok(messages)
    }

    /// The whole value of a hash of which a part has changed.
    async fn value(&self) -> Result<Vec<u8>, Error> {
        let read = crate::dispatch::Read::new(self.wanted.base.clone());
        let deadline = Deadline::after(self.session.limits().request_ms_max);
        self.dispatch.read_whole(&self.session, &self.database, &self.watcher.identity(), read, deadline).await
    }
}

impl Wanted {
    fn message(&self, event: &str, key: &str, value: &[u8]) -> Message {
        let (prefix, _) = PREFIXES.iter().find(|(_, told)| *told == self.told).expect("each has a prefix");
        let (end, payload) = match self.told {
            Told::Event => (key, event.as_bytes()),
            Told::Key => (event, key.as_bytes()),
            Told::Value => (key, value),
        };
        Message {
            pattern: self.pattern.then(|| self.name.clone()),
            channel: [prefix.as_bytes(), end.as_bytes()].concat().into(),
            payload: payload.into(),
        }
    }

    fn wants(&self, message: &Message) -> bool {
        match self.pattern {
            true => glob::matches(&self.name, &message.channel),
            false => *self.name == *message.channel,
        }
    }

    /// What a change says of exactly the key that is watched; the event for a part of it, which is told once for many.
    fn exact(&self, change: &Change, messages: &mut Vec<Message>) -> Option<&'static str> {
        let event = change.event(&self.base, Format::Plain)?;
        if event.path != "/" || event.kind == standpipe_tree::EventKind::Patch {
            let gone = change.writes.iter().all(|write| write.rows.is_empty());
            return Some(if gone { "hdel" } else { "hset" });
        }
        let name = if event.data == b"null" { "del" } else { "set" };
        messages.push(self.message(name, &self.separator.key(&self.base), &event.data));
        None
    }

    /// What a change says of every leaf at or below the watched path.
    fn each_leaf(&self, change: &Change, messages: &mut Vec<Message>) {
        for write in &change.writes {
            if matches!(write.location, Location::Node(_)) && write.touches(&self.base) {
                self.leaves_of(write, messages);
            }
        }
    }

    fn leaves_of(&self, write: &Write, messages: &mut Vec<Message>) {
        let at = write.location.path();
        // What is replaced as a whole, as far as it is watched: leaves of it may be gone that no row names, so
        // who watches below it is told of it by its own name.
        let (whole, inside) = match self.base.relative_to(at) {
            Some(inside) => (&self.base, inside.encode()),
            None => (at, Vec::new()),
        };
        let part = write.rows.subtree(&inside);
        let mut tell = |event: &str, path: &Path, value: &[u8]| {
            let message = self.message(event, &self.separator.key(path), value);
            if *path == self.base || self.wants(&message) {
                messages.push(message);
            }
        };
        if part.is_empty() {
            tell("del", whole, b"null");
            return;
        }
        if part.get(&[]).is_none() {
            let json = to_json(&mut part.cursor(), Format::Plain).unwrap_or_else(|never: Infallible| match never {});
            tell("set", whole, &json);
        }
        for (key, value) in part.iter().filter(|(key, _)| !is_priority_key(key)) {
            let path = Path::decode(key).and_then(|below| whole.join(&below).ok());
            let (Some(path), Some(leaf)) = (path, Leaf::decode(value)) else { continue };
            let mut json = Vec::new();
            leaf.write_json(&mut json);
            tell("set", &path, &json);
        }
    }
}
