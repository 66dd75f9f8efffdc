//! What a session listens to: `dispatch`'s part for a reader of thousands of paths. A [`Feed`] says which of
//! them were written to; here that becomes messages, in the order of revisions.
//!
//! News of a whole location is the change itself, encoded once for all sessions. A filtered listen, and one
//! that has lagged, is read again: all of those of one round on one snapshot. A window is told of each change
//! that moved it ([`Window::follow`]), a value after a gap comes before all else.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use standpipe_engine::{Database, Delivery, Error, ErrorKind, Feed, Identity, Slot, Snapshot, TopicEvent, Window};
use standpipe_serve::{Class, Cost, Deadline, Session, WatchPermit};
use standpipe_tree::{EventKind, Format, JsonStream, OrderBy, Path, Progress, Query, RowCursor as _};
use standpipe_wire::firebase::{Push, cancel, push};
use tokio::sync::watch;

use crate::dispatch::{cost, differs, refused, run, too_large};

/// Listens judged between two looks at what else there is to do.
const JUDGED_AT_ONCE: usize = 256;

/// A location a client wants to see.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) path: Path,
    /// Which children, and how the client wrote that.
    pub(super) query: Option<(Query, Box<str>)>,
    /// The client's number for a filtered listen.
    pub(super) tag: Option<u64>,
    /// The hash of what the client has.
    pub(super) hash: Option<Box<str>>,
}

impl Ask {
    fn query(&self) -> Option<&Query> {
        self.query.as_ref().map(|(query, _)| query)
    }
}

/// A listen that has begun.
#[derive(Debug)]
pub(super) struct Opened {
    /// What the client does not have yet.
    pub(super) message: Option<Bytes>,
    /// There is no index for its query.
    pub(super) unindexed: bool,
}

/// A message, and the revision behind which it stands.
#[derive(Debug)]
pub(super) struct News {
    pub(super) rev: u64,
    pub(super) message: Bytes,
}

#[derive(Debug)]
struct Listen {
    tag: Option<u64>,
    filter: Option<Box<Filter>>,
    _permit: WatchPermit,
}

#[derive(Debug)]
struct Filter {
    /// The query as the client wrote it: it knows the listen by that.
    json: Box<str>,
    query: Query,
    /// Away while it is moved.
    window: Option<Window>,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Listens {
    database: Arc<Database>,
    feed: Feed,
    slots: HashMap<(Path, Option<u64>), Slot>,
    /// By the number of the slot.
    listens: Vec<Option<Listen>>,
    /// Who listens.
    identity: Identity,
    rules: watch::Receiver<u64>,
    /// The rules under which all listens were last allowed.
    judged: u64,
}

/// A listen that is read again.
struct Again {
    slot: Slot,
    path: Path,
    tag: Option<u64>,
    /// What has moved; nothing for the whole location.
    window: Option<(Window, Query)>,
    /// The changes since it was last moved; unknown where it has lagged.
    events: Vec<Arc<TopicEvent>>,
    lagged: bool,
}

impl Again {
    /// One more change, or that some were missed.
    fn take(&mut self, event: Option<Arc<TopicEvent>>) {
        match event {
            Some(event) => self.events.push(event),
            None => self.lagged = true,
        }
    }
}

/// What came of reading a listen again: what to tell, each behind its revision.
type Reread = (Again, Result<Vec<(u64, Vec<u8>)>, Error>);

impl Listens {
    pub(super) fn new(database: &Arc<Database>) -> Self {
        let rules = database.rules_changed();
        let judged = *rules.borrow();
        Self {
            identity: Identity::Anonymous,
            judged,
            rules,
            database: database.clone(),
            feed: Feed::new(database),
            slots: HashMap::new(),
            listens: Vec::new(),
        }
    }

    /// Waits until [`Listens::take`] may have something.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            () = self.feed.changed() => {}
            () = differs(&mut self.rules, &self.judged) => {}
        }
    }

    /// Who listens.
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// May the client read this? One that names no order has that by priority, and counts for rules as one that
    /// orders by key (firebase-rtdb §11.3).
    fn check_read(&self, snapshot: &Snapshot, path: &Path, query: Option<&Query>) -> Result<(), Error> {
        let judged = query.map(|query| match query.order_by {
            OrderBy::Priority => Cow::Owned(Query { order_by: OrderBy::Key, ..query.clone() }),
            _ => Cow::Borrowed(query),
        });
        self.database.check_read(snapshot, &self.identity, path, judged.as_deref())
    }

    /// Reads a location once. What is to be told before the answer is put into `news`.
    pub(super) async fn get(&mut self, session: &Session, ask: Ask, news: &mut Vec<News>) -> Result<Vec<u8>, Error> {
        let snapshot = self.moment(session, news).await?;
        self.check_read(&snapshot, &ask.path, ask.query())?;
        ask.query().map_or(Ok(()), |query| self.database.check_index(&ask.path, query))?;
        let look = Look::new(session, &self.database, ask);
        let (_, seen) = look.read(session, snapshot).await?;
        Ok(seen.json)
    }

    /// Begins to listen. What is to be told before is put into `news`. A listen with the same path and tag is
    /// replaced.
    pub(super) async fn open(&mut self, session: &Session, ask: Ask, news: &mut Vec<News>) -> Result<Opened, Error> {
        let permit = session.listen_permit().map_err(refused)?;
        self.close(&ask.path, ask.tag);
        let slot = self.feed.watch(&ask.path);
        let (path, tag) = (ask.path.clone(), ask.tag);
        match self.first(session, slot, ask, news).await {
            Ok((opened, filter)) => {
                self.slots.insert((path, tag), slot);
                if self.listens.len() <= slot.index() {
                    self.listens.resize_with(slot.index() + 1, || None);
                }
                self.listens[slot.index()] = Some(Listen { tag, filter, _permit: permit });
                Ok(opened)
            }
            Err(error) => {
                self.feed.unwatch(slot);
                Err(error)
            }
        }
    }

    async fn first(
        &mut self,
        session: &Session,
        slot: Slot,
        mut ask: Ask,
        news: &mut Vec<News>,
    ) -> Result<(Opened, Option<Box<Filter>>), Error> {
        let snapshot = self.moment(session, news).await?;
        self.feed.start_after(slot, snapshot.rev());
        self.check_read(&snapshot, &ask.path, ask.query())?;
        let unindexed = ask.query().is_some_and(|query| self.database.check_index(&ask.path, query).is_err());
        let written = ask.query.as_mut().map(|(_, json)| std::mem::take(json));
        let (path, tag, query) = (ask.path.clone(), ask.tag, ask.query.as_ref().map(|(query, _)| query.clone()));
        let (_, seen) = Look::new(session, &self.database, ask).read(session, snapshot).await?;
        let message = (!seen.known).then(|| push(Push::Set, path.as_str(), &seen.json, tag).into());
        let filter = written.zip(query).map(|(json, query)| Box::new(Filter { json, query, window: seen.window }));
        Ok((Opened { message, unindexed }, filter))
    }

    /// A snapshot, once all that it shows has been told of.
    async fn moment(&mut self, session: &Session, news: &mut Vec<News>) -> Result<Snapshot, Error> {
        let snapshot = self.published(session).await?;
        let rev = snapshot.rev();
        let (told, snapshot) = self.take_with(session, rev, Some(snapshot)).await?;
        news.extend(told);
        match snapshot {
            Some(snapshot) => Ok(snapshot),
            None => Err(Error::new(ErrorKind::Internal, "a snapshot was lost")),
        }
    }

    /// Stops to listen; false when there was no such listen.
    pub(super) fn close(&mut self, path: &Path, tag: Option<u64>) -> bool {
        let Some(slot) = self.slots.remove(&(path.clone(), tag)) else { return false };
        self.listens[slot.index()] = None;
        self.feed.unwatch(slot);
        true
    }

    /// From here on it is `identity` who listens: ends what it may not see, and says so.
    pub(super) async fn judge(&mut self, identity: Identity) -> Result<Vec<Bytes>, Error> {
        self.identity = identity;
        self.judge_again().await
    }

    async fn judge_again(&mut self) -> Result<Vec<Bytes>, Error> {
        self.judged = *self.rules.borrow();
        let mut lost = Vec::new();
        let snapshot = self.database.snapshot().await?;
        for (index, ((path, tag), slot)) in self.slots.iter().enumerate() {
            if index % JUDGED_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
            let filter = self.listens[slot.index()].as_ref().and_then(|listen| listen.filter.as_deref());
            match self.check_read(&snapshot, path, filter.map(|filter| &filter.query)) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Denied => lost.push((path.clone(), *tag)),
                Err(error) => return Err(error),
            }
        }
        Ok(lost.into_iter().map(|(path, tag)| self.end(&path, tag)).collect())
    }

    /// Ends a listen; the message tells.
    fn end(&mut self, path: &Path, tag: Option<u64>) -> Bytes {
        let slot = self.slots.get(&(path.clone(), tag));
        let listen = slot.and_then(|slot| self.listens[slot.index()].as_ref());
        let message =
            cancel(path.as_str(), listen.and_then(|listen| listen.filter.as_deref()).map(|filter| &*filter.json));
        self.close(path, tag);
        message.into()
    }

    /// Everything there is to tell up to revision `rev`, which is published.
    pub(super) async fn take(&mut self, session: &Session, rev: u64) -> Result<Vec<News>, Error> {
        Ok(self.take_with(session, rev, None).await?.0)
    }

    /// As [`Listens::take`], where a snapshot of `rev` is at hand; it is given back.
    async fn take_with(
        &mut self,
        session: &Session,
        rev: u64,
        snapshot: Option<Snapshot>,
    ) -> Result<(Vec<News>, Option<Snapshot>), Error> {
        let mut delivered = self.feed.take(rev);
        let mut news = Vec::with_capacity(delivered.len());
        // After the look at what was written: what came under new rules is only told under them.
        if *self.rules.borrow() != self.judged {
            let ends = self.judge_again().await?;
            news.extend(ends.into_iter().map(|message| News { rev: 0, message }));
        }
        if !delivered.iter().any(|(slot, delivery)| self.is_read_again(*slot, delivery)) {
            self.sort_out(session, delivered, &mut news);
            return Ok((news, snapshot));
        }
        let snapshot = match snapshot {
            Some(snapshot) => snapshot,
            None => {
                let snapshot = self.published(session).await?;
                // A window is moved by all that the snapshot shows of it.
                delivered.extend(self.feed.take(snapshot.rev()));
                snapshot
            }
        };
        let again = self.sort_out(session, delivered, &mut news);
        let snapshot = self.read_again(session, snapshot, again, &mut news).await?;
        news.sort_by_key(|news| news.rev);
        Ok((news, Some(snapshot)))
    }

    /// A snapshot, once all that it shows is published: that is a moment after it is committed.
    async fn published(&self, session: &Session) -> Result<Snapshot, Error> {
        let snapshot = self.database.snapshot().await?;
        let deadline = Deadline::after(session.limits().request_ms_max);
        self.database.at_least(snapshot.rev(), deadline.instant()).await?;
        Ok(snapshot)
    }

    fn is_read_again(&self, slot: Slot, delivery: &Delivery) -> bool {
        let listen = self.listens.get(slot.index()).and_then(Option::as_ref);
        listen.is_some_and(|listen| listen.filter.is_some() || matches!(delivery, Delivery::Lagged))
    }

    /// Turns what is told as it is into messages, and says what is to be read again.
    fn sort_out(&mut self, session: &Session, delivered: Vec<(Slot, Delivery)>, news: &mut Vec<News>) -> Vec<Again> {
        let mut again: Vec<Again> = Vec::new();
        // Where each slot stands among them.
        let mut places: HashMap<Slot, usize> = HashMap::new();
        for (slot, delivery) in delivered {
            let Some(Some(listen)) = self.listens.get_mut(slot.index()) else { continue };
            let Some(path) = self.feed.path(slot) else { continue };
            let (rev, event) = match delivery {
                Delivery::Event(event) => (event.rev, Some(event)),
                Delivery::Lagged => (0, None),
            };
            if let Some(place) = places.get(&slot) {
                again[*place].take(event);
                continue;
            }
            if let (Some(event), None) = (&event, &listen.filter) {
                let message = message(event, path);
                if !message.is_empty() {
                    news.push(News { rev, message });
                }
                continue;
            }
            let filter = listen.filter.as_mut();
            let window = filter.and_then(|filter| Some((filter.window.take()?, filter.query.clone())));
            let mut one =
                Again { slot, path: path.clone(), tag: listen.tag, window, events: Vec::new(), lagged: false };
            one.take(event);
            if one.lagged {
                session.lagged();
            }
            places.insert(slot, again.len());
            again.push(one);
        }
        again
    }

    /// Reads listens again, all on `snapshot`, and adds what came of each to the news.
    async fn read_again(
        &mut self,
        session: &Session,
        snapshot: Snapshot,
        again: Vec<Again>,
        news: &mut Vec<News>,
    ) -> Result<Snapshot, Error> {
        let limits = session.limits();
        let mut job_cost = Cost::Small;
        for one in &again {
            if let costs @ Cost::Bytes(_) = cost(&snapshot, &one.path, limits.reply_chunk_bytes)? {
                job_cost = costs;
                break;
            }
        }
        let (children_max, bytes_max) = (self.database.config().query_children_max, limits.reply_bytes_max);
        let job = move || {
            let reread = again.into_iter().map(|one| reread(&snapshot, one, children_max, bytes_max));
            let reread: Vec<Reread> = reread.collect();
            Ok((snapshot, reread))
        };
        let deadline = Deadline::after(limits.request_ms_max);
        let (snapshot, reread) = run(session, Class::Read, job_cost, deadline, job).await?;
        for (one, moves) in reread {
            self.feed.start_after(one.slot, snapshot.rev());
            match moves {
                Ok(moves) => news.extend(moves.into_iter().map(|(rev, json)| {
                    let kind = if one.window.is_some() && !one.lagged { Push::Merge } else { Push::Set };
                    News { rev, message: push(kind, one.path.as_str(), &json, one.tag).into() }
                })),
                // It has grown beyond what may be read: the client is told that it sees it no more.
                Err(error) => {
                    tracing::debug!(?error, "a listen ends");
                    news.push(News { rev: 0, message: self.end(&one.path, one.tag) });
                }
            }
            let listen = self.listens.get_mut(one.slot.index()).and_then(Option::as_mut);
            if let (Some(filter), Some((window, _))) = (listen.and_then(|listen| listen.filter.as_mut()), one.window) {
                filter.window = Some(window);
            }
        }
        Ok(snapshot)
    }
}

/// One location, to be read for the first time.
struct Look {
    ask: Ask,
    children_max: usize,
    bytes_max: usize,
    chunk_bytes: usize,
}

/// What a look has seen.
struct Seen {
    json: Vec<u8>,
    /// The client has it already.
    known: bool,
    window: Option<Window>,
}

impl Look {
    fn new(session: &Session, database: &Database, ask: Ask) -> Self {
        let limits = session.limits();
        Self {
            ask,
            children_max: database.config().query_children_max,
            bytes_max: limits.reply_bytes_max,
            chunk_bytes: limits.reply_chunk_bytes,
        }
    }

    async fn read(self, session: &Session, snapshot: Snapshot) -> Result<(Snapshot, Seen), Error> {
        let cost = cost(&snapshot, &self.ask.path, self.chunk_bytes)?;
        let deadline = Deadline::after(session.limits().request_ms_max);
        let job = move || self.see(&snapshot).map(|seen| (snapshot, seen));
        run(session, Class::Read, cost, deadline, job).await
    }

    fn see(self, snapshot: &Snapshot) -> Result<Seen, Error> {
        let Ask { path, query, hash, .. } = self.ask;
        if let Some((query, _)) = query {
            let (window, json) = Window::open(snapshot, path, query, Format::Export, self.children_max)?;
            if json.len() > self.bytes_max {
                return Err(too_large(self.bytes_max));
            }
            let known = hash.is_some_and(|hash| hash.is_empty()) && json == b"null";
            return Ok(Seen { json, known, window: Some(window) });
        }
        let known = match hash {
            None => false,
            // The hash of nothing: no need to hash what is there.
            Some(hash) if hash.is_empty() => snapshot.cursor(&path).seek(&[])?.is_none(),
            Some(hash) => standpipe_tree::hash(&mut snapshot.cursor(&path))? == *hash,
        };
        let json = if known { Vec::new() } else { whole(snapshot, &path, self.bytes_max)? };
        Ok(Seen { json, known, window: None })
    }
}

fn reread(snapshot: &Snapshot, mut one: Again, children_max: usize, bytes_max: usize) -> Reread {
    let result = match one.window.take() {
        None => whole(snapshot, &one.path, bytes_max).map(|json| vec![(0, json)]),
        Some((_, query)) if one.lagged => {
            Window::open(snapshot, one.path.clone(), query.clone(), Format::Export, children_max).map(
                |(window, json)| {
                    one.window = Some((window, query));
                    vec![(0, json)]
                },
            )
        }
        Some((mut window, query)) => {
            let moved = window.follow(snapshot, &one.events);
            one.window = Some((window, query));
            moved
        }
    };
    (one, result)
}

/// The whole value in export form.
fn whole(snapshot: &Snapshot, path: &Path, bytes_max: usize) -> Result<Vec<u8>, Error> {
    let mut json = Vec::new();
    let mut stream = JsonStream::new(Format::Export, false);
    let mut cursor = snapshot.cursor(path);
    while stream.fill(&mut cursor, &mut json, bytes_max)? == Progress::More {
        if json.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
    }
    Ok(json)
}

/// A change as all sessions that listen to the path get it: encoded once, by the first.
fn message(event: &Arc<TopicEvent>, at: &Path) -> Bytes {
    event.message(|event| {
        let Some(told) = event.change.event(at, Format::Export) else { return Bytes::new() };
        let kind = match told.kind {
            EventKind::Put => Push::Set,
            EventKind::Patch => Push::Merge,
        };
        let path = format!("{}{}", at.as_str(), told.path);
        push(kind, path.trim_matches('/'), &told.data, None).into()
    })
}
