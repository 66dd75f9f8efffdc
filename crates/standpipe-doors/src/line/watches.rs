//! Watches of one client. Each is a cursor of the engine and a number; what it has to tell comes in lines
//! between the answers: `EVENT id rev put|patch path json`, `RESET id reason` before a fresh value where
//! something was missed, `END id code sentence` where it can't go on.

use std::io::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream::{self, BoxStream, SelectAll, Stream, StreamExt as _};
use standpipe_engine::{Error, TopicEvent};
use standpipe_serve::{Session, WatchPermit};
use standpipe_tree::{EventKind, Format, Path};

use super::client::{Client, Done};
use super::table::Next;
use super::words::{QUERY, Words, write_path};
use crate::commands::Turn;
use crate::dispatch::{Subscription, Update};
use crate::http::Params;
use crate::{dispatch, fault};

/// What is watched.
pub(super) type Watches = SelectAll<Watch>;

/// Lines to send, or why there are no more.
pub(super) type Lines = BoxStream<'static, Result<Vec<u8>, Error>>;

/// One watch.
pub(super) struct Watch {
    id: u64,
    lines: Lines,
}

impl Watch {
    pub(super) fn new(id: u64, lines: Lines) -> Self {
        Self { id, lines }
    }
}

impl Stream for Watch {
    type Item = (u64, Result<Vec<u8>, Error>);

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let id = self.id;
        self.lines.poll_next_unpin(context).map(|lines| lines.map(|lines| (id, lines)))
    }
}

/// A watch that is ready to be taken up, and what it has to tell at once.
pub(super) struct Begun {
    id: u64,
    subscription: Subscription,
    first: Vec<Update>,
    permit: WatchPermit,
}

pub(super) fn watch(client: &mut Client, mut words: Words<'_>, turn: &mut Turn<'_>) -> Result<Next, Error> {
    let path = words.path()?;
    let since = words.number()?;
    let options = words.options(&[QUERY])?;
    let query = Params::parse(Some(&options))?.query;
    let permit = turn.session.watch_permit().map_err(dispatch::refused)?;
    client.last_watch += 1;
    let id = client.last_watch;
    let (dispatch, database) = (client.shared.dispatch.clone(), client.database.clone());
    let (watcher, session) = (client.watcher(), turn.session.clone());
    let begun = async move {
        let mut subscription = dispatch.watch(&session, &database, watcher, path, query, since).await?;
        let first = subscription.take(&session).await?;
        Ok(Box::new(Begun { id, subscription, first, permit }))
    };
    Ok(Next::Later(Box::pin(async move { Done::Watching(begun.await) })))
}

pub(super) fn unwatch(client: &mut Client, mut words: Words<'_>, turn: &mut Turn<'_>) -> Result<Next, Error> {
    let wanted = words.number()?;
    words.end()?;
    let known = |watches: &Watches| watches.iter().any(|watch| Some(watch.id) == wanted);
    if !client.watches.as_deref().is_some_and(known) {
        return Err(Error::bad_request("there is no watch of that number on this connection"));
    }
    client.keep_watches(|watch| Some(watch.id) != wanted);
    turn.out.extend_from_slice(b"OK\n");
    Ok(Next::Answered)
}

impl Client {
    /// Takes a watch up and tells where it begins.
    pub(super) fn begin(&mut self, begun: Box<Begun>, turn: &mut Turn<'_>) {
        let Begun { id, subscription, first, permit } = *begun;
        let rev = first.first().map_or(0, rev);
        writeln!(turn.out, "WATCHING {id} {rev}").expect("writing to memory does not fail");
        first.into_iter().for_each(|update| tell(id, update, subscription.path(), turn.out));
        let lines = lines(id, subscription, turn.session.clone(), permit);
        self.watches.get_or_insert_default().push(Watch::new(id, lines));
    }

    /// Ends the watches that `keep` does not hold for.
    fn keep_watches(&mut self, keep: impl Fn(&Watch) -> bool) {
        // A set of streams gives none of them back, so it is made anew of those that stay.
        let watches = self.watches.take().into_iter().flat_map(|watches| *watches);
        let kept: Watches = watches.filter(keep).collect();
        self.watches = (!kept.is_empty()).then(|| Box::new(kept));
    }

    pub(super) fn poll_watches(&mut self, context: &mut Context<'_>, turn: &mut Turn<'_>) -> Poll<()> {
        let Some(watches) = &mut self.watches else { return Poll::Pending };
        match watches.poll_next_unpin(context) {
            Poll::Ready(Some((_, Ok(lines)))) => turn.out.extend_from_slice(&lines),
            Poll::Ready(Some((id, Err(error)))) => end(id, &error, turn.out),
            Poll::Ready(None) => {
                self.watches = None;
                return Poll::Pending;
            }
            Poll::Pending => return Poll::Pending,
        }
        Poll::Ready(())
    }
}

/// Everything a watch has to tell after its beginning.
fn lines(id: u64, subscription: Subscription, session: Session, permit: WatchPermit) -> Lines {
    let state = Some((subscription, session, permit));
    stream::unfold(state, move |state| async move {
        let (mut subscription, session, permit) = state?;
        loop {
            subscription.changed().await;
            let updates = match subscription.take(&session).await {
                Ok(updates) => updates,
                Err(error) => return Some((Err(error), None)),
            };
            let mut lines = Vec::new();
            updates.into_iter().for_each(|update| tell(id, update, subscription.path(), &mut lines));
            if !lines.is_empty() {
                return Some((Ok(lines), Some((subscription, session, permit))));
            }
        }
    })
    .boxed()
}

/// The revision an update shows.
fn rev(update: &Update) -> u64 {
    match update {
        Update::Event(event) => event.rev,
        Update::Value { rev, .. } | Update::Moved { rev, .. } | Update::Resumed { rev } => *rev,
    }
}

fn tell(id: u64, update: Update, path: &Path, out: &mut Vec<u8>) {
    match update {
        Update::Event(event) => change(id, &event, path, out),
        Update::Value { rev, json, reset } => {
            if let Some(reason) = reset {
                writeln!(out, "RESET {id} {}", reason.as_str()).expect("writing to memory does not fail");
            }
            put(id, rev, "put", "/", &json, out);
        }
        Update::Moved { rev, json } => put(id, rev, "patch", "/", &json, out),
        Update::Resumed { .. } => {}
    }
}

fn change(id: u64, event: &Arc<TopicEvent>, path: &Path, out: &mut Vec<u8>) {
    let Some(told) = event.change.event(path, Format::Plain) else { return };
    let kind = match told.kind {
        EventKind::Put => "put",
        EventKind::Patch => "patch",
    };
    put(id, event.rev, kind, &told.path, &told.data, out);
}

fn put(id: u64, rev: u64, kind: &str, path: &str, json: &[u8], out: &mut Vec<u8>) {
    write!(out, "EVENT {id} {rev} {kind} ").expect("writing to memory does not fail");
    write_path(path, out);
    out.push(b' ');
    out.extend_from_slice(json);
    out.push(b'\n');
}

fn end(id: u64, error: &Error, out: &mut Vec<u8>) {
    let text = fault::line_text(error);
    writeln!(out, "END {id} {}", text.trim_start_matches("ERR ").trim_end()).expect("writing to memory does not fail");
}
