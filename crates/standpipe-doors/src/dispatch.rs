//! One function per verb turns a request into calls on the engine. Every door comes through here,
//! and this is the only place where the serving core and the engine meet: deadlines, classes
//! and admission on one side, snapshots, writes and watches on the other.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use standpipe_engine::{
    Committed, Condition, Database, Engine, Error, ErrorKind, Identity, Intent, Lease, Op, ResetReason, Resume,
    Snapshot, TopicEvent, Touched, Watch, WatchRead, Window, query_keys, resume,
};
use standpipe_serve::{Class, Cost, Deadline, JobError, Refusal, Session};
use standpipe_tree::{
    Format, JsonStream, Leaf, Location, PRIORITY, Path, Progress, Query, RowCursor, Rows, ShallowRange, etag,
};

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// A read of at most this many rows runs on the connection's own task: about as long as handing
/// it to a worker and back would take.
const SMALL_ROWS: usize = 128;

/// A resume over at most this many revisions runs on the connection's own task.
const SMALL_REVS: u64 = 16;

/// Changes taken from a ring in one go.
const EVENTS_MAX: usize = 256;

/// The engine, as doors see it.
#[derive(Clone, Debug)]
pub struct Dispatch {
    engine: Arc<Engine>,
}

/// What a read should answer with.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    /// Which location.
    pub(crate) path: Path,
    /// Which children, in which order; all of it when `None`.
    pub(crate) query: Option<Query>,
    /// Keys only, from a key on, up to a count.
    pub(crate) shallow: Option<ShallowRange>,
    /// How values are written.
    pub(crate) format: Format,
    /// Indented?
    pub(crate) pretty: bool,
    /// Is the location's ETag wanted?
    pub(crate) etag: bool,
    /// The revision it must show at least.
    pub(crate) at_least: Option<u64>,
}

impl Read {
    /// A plain read of a whole location.
    pub(crate) fn new(path: Path) -> Self {
        Self { path, query: None, shallow: None, format: Format::Plain, pretty: false, etag: false, at_least: None }
    }

    /// Is a leaf its own answer?
    fn is_plain(&self) -> bool {
        let sizes = self.shallow.as_ref().is_some_and(|range| range.sizes);
        self.query.is_none() && !sizes && !self.etag && self.format == Format::Plain
    }
}

/// The answer to a read: the first slice, and what is left to read.
#[derive(Debug)]
pub(crate) struct ReadReply {
    pub(crate) rev: u64,
    pub(crate) etag: Option<String>,
    pub(crate) first: Vec<u8>,
    pub(crate) rest: Option<Box<Slices>>,
}

/// The rest of a long read: the snapshot and the position in it.
#[derive(Debug)]
pub(crate) struct Slices {
    snapshot: Snapshot,
    path: Path,
    stream: JsonStream,
}

impl Slices {
    fn fill(&mut self, out: &mut Vec<u8>, budget: usize) -> Result<Progress, Error> {
        Ok(self.stream.fill(&mut self.snapshot.cursor(&self.path), out, budget)?)
    }

    /// Reads the next slice on a worker. The worker is held for one slice only: a peer that reads
    /// slowly costs an open snapshot, not a worker.
    pub(crate) async fn next(
        mut self: Box<Self>,
        session: &Session,
        deadline: Deadline,
    ) -> Result<(Vec<u8>, Option<Box<Self>>), Error> {
        let budget = session.limits().reply_chunk_bytes;
        let job = move || {
            let mut out = Vec::with_capacity(budget + budget / 8);
            let progress = self.fill(&mut out, budget)?;
            Ok((out, (progress == Progress::More).then_some(self)))
        };
        run(session, Class::Bulk, Cost::Bytes(budget), deadline, job).await
    }
}

/// A write as a door decoded it.
#[derive(Debug)]
pub(crate) struct Write<'a> {
    pub(crate) op: Op,
    /// Locations and the ETags they must have.
    pub(crate) conditions: Vec<(Path, String)>,
    /// What is written goes with these.
    pub(crate) leases: Option<&'a Leases>,
}

impl Write<'_> {
    /// A write without conditions, that stays.
    pub(crate) fn new(op: Op) -> Self {
        Self { op, conditions: Vec::new(), leases: None }
    }
}

/// What one connection leaves behind in each database when it goes. A door makes one for each
/// connection; dropping it releases everything, which can't fail. Empty, it costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<Vec<Lease>>);

impl Leases {
    /// The write that has `rows` written at `location` when the connection goes; no rows remove it.
    pub(crate) fn on_close(&self, database: &Database, location: Location, rows: Rows) -> Op {
        Op::Arm { lease: self.of(database), location, rows }
    }

    /// As [`Leases::on_close`], for several locations below `base`: all or none.
    pub(crate) fn on_close_all(&self, database: &Database, base: Path, writes: Vec<(Location, Rows)>) -> Op {
        Op::ArmMerge { lease: self.of(database), base, writes }
    }

    /// The write that has all that is to be done when the connection goes done as whoever makes this write;
    /// `None` where there is nothing to do.
    pub(crate) fn done_as(&self, database: &Database) -> Option<Op> {
        let leases = self.0.lock();
        let lease = leases.iter().find(|lease| database.has_lease(lease))?;
        lease.is_armed().then(|| Op::Identify { lease: lease.clone() })
    }

    /// The write that forgets what is to be done at `path` and below when the connection goes.
    pub(crate) fn forget(&self, database: &Database, path: Path) -> Op {
        Op::Disarm { lease: self.of(database), path }
    }

    fn of(&self, database: &Database) -> Lease {
        let mut leases = self.0.lock();
        if let Some(lease) = leases.iter().find(|lease| database.has_lease(lease)) {
            return lease.clone();
        }
        let lease = database.lease();
        leases.push(lease.clone());
        lease
    }
}

impl Dispatch {
    /// Doors over `engine`.
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The database that a namespace means.
    pub(crate) fn database(&self, namespace: Option<&str>) -> Result<Arc<Database>, Error> {
        self.engine.resolve(namespace)
    }

    /// Reads a location on a snapshot of one revision.
    pub(crate) async fn read(
        &self,
        session: &Session,
        database: &Arc<Database>,
        identity: &Identity,
        read: Read,
        deadline: Deadline,
    ) -> Result<ReadReply, Error> {
        database.check_entry(identity)?;
        if let Some(rev) = read.at_least {
            database.at_least(rev, deadline.instant()).await?;
        }
        let snapshot = database.snapshot().await?;
        check_read(database, &snapshot, identity, &read.path, read.query.as_ref())?;
        let children_max = database.config().query_children_max;
        let budget = session.limits().reply_chunk_bytes;
        // Where the read is small, the look that finds it so has made the answer.
        let small = move || read_small(snapshot, read, children_max, budget);
        match run(session, Class::Read, Cost::Small, deadline, small).await? {
            Sized::Small(reply) => Ok(reply),
            Sized::Large(large) => {
                let (snapshot, read) = *large;
                let job = move || read_job(snapshot, read, children_max, budget);
                run(session, Class::Read, Cost::Bytes(budget), deadline, job).await
            }
        }
    }

    /// Reads a location whole into memory, for protocols that must tell its length first.
    ///
    /// # Errors
    /// `TooLarge` beyond `reply_bytes_max`.
    pub(crate) async fn read_whole(
        &self,
        session: &Session,
        database: &Arc<Database>,
        identity: &Identity,
        read: Read,
        deadline: Deadline,
    ) -> Result<Vec<u8>, Error> {
        let reply = self.read(session, database, identity, read, deadline).await?;
        let (mut whole, mut rest) = (reply.first, reply.rest);
        let bytes_max = session.limits().reply_bytes_max;
        while let Some(slices) = rest {
            let (bytes, more) = slices.next(session, deadline).await?;
            if whole.len() + bytes.len() > bytes_max {
                return Err(too_large(bytes_max));
            }
            whole.extend_from_slice(&bytes);
            rest = more;
        }
        Ok(whole)
    }

    /// Reads the priority of a node, as JSON.
    pub(crate) async fn read_priority(
        &self,
        database: &Arc<Database>,
        identity: &Identity,
        path: &Path,
    ) -> Result<Vec<u8>, Error> {
        let snapshot = database.snapshot().await?;
        check_read(database, &snapshot, identity, path, None)?;
        let mut json = Vec::new();
        match snapshot.cursor(path).seek(&[PRIORITY])? {
            Some((&[PRIORITY], value)) => match Leaf::decode(value) {
                Some(leaf) => leaf.write_json(&mut json),
                None => return Err(Error::new(ErrorKind::Internal, "a priority can't be read")),
            },
            _ => json.extend_from_slice(b"null"),
        }
        Ok(json)
    }

    /// Hands a write to the database's writer and waits for its commit.
    pub(crate) async fn write(
        &self,
        database: &Arc<Database>,
        identity: &Identity,
        write: Write<'_>,
        deadline: Deadline,
    ) -> Result<Committed, Error> {
        self.submit(database, identity, write, deadline)?.await
    }

    /// Hands a write to the database's writer; the answer comes when its commit is durable and
    /// visible. Writes of one caller are done in the order in which they are handed over.
    pub(crate) fn submit(
        &self,
        database: &Arc<Database>,
        identity: &Identity,
        write: Write<'_>,
        deadline: Deadline,
    ) -> Result<impl Future<Output = Result<Committed, Error>> + Send + use<>, Error> {
        let conditions = write.conditions.into_iter().map(|(path, etag)| Condition { path, etag }).collect();
        let lease = write.leases.map(|leases| leases.of(database));
        let intent = Intent { conditions, lease, ..Intent::new(write.op, identity.clone()) };
        let answer = database.submit(intent, deadline.instant())?;
        Ok(async { answer.await.unwrap_or_else(|_| Err(Error::unavailable("the database has stopped"))) })
    }

    /// The connection is `identity` from here on: what it leaves behind in `database` is written as that
    /// one. Done in the order of the connection's writes; nobody need wait for it.
    pub(crate) fn identify(
        &self,
        database: &Arc<Database>,
        leases: &Leases,
        identity: &Identity,
        deadline: Deadline,
    ) -> Result<(), Error> {
        match leases.done_as(database) {
            Some(op) => self.submit(database, identity, Write::new(op), deadline).map(drop),
            None => Ok(()),
        }
    }

    /// Starts watching a location; `since` is a revision the client has seen.
    pub(crate) async fn watch(
        &self,
        session: &Session,
        database: &Arc<Database>,
        watcher: Watcher,
        path: Path,
        query: Option<Query>,
        since: Option<u64>,
    ) -> Result<Subscription, Error> {
        let watch = database.watch(&path);
        let rules = database.rules_changed();
        let judged = Judged { identity: watcher.identity(), rules: *rules.borrow() };
        let mut subscription = Subscription {
            watch,
            query: query.map(QueryWatch::New),
            pending: Vec::new(),
            next_at: Instant::now(),
            judged,
            watcher,
            rules,
        };
        let deadline = Deadline::after(session.limits().request_ms_max);
        match since {
            // A query's window is not in the change table: its resume is a fresh window.
            Some(since) if subscription.query.is_none() => subscription.resume(session, since, deadline).await?,
            _ => subscription.restart(session, None, deadline).await?,
        }
        Ok(subscription)
    }
}

/// One thing a watcher is told.
#[derive(Clone, Debug)]
pub(crate) enum Update {
    /// A change, shared with all watchers of the path.
    Event(Arc<TopicEvent>),
    /// The whole value at a revision: at the start, or again after a gap, whose reason is given.
    Value { rev: u64, json: Vec<u8>, reset: Option<ResetReason> },
    /// The children of a query's window that differ.
    Moved { rev: u64, json: Vec<u8> },
    /// Nothing has changed since the revision the client has seen.
    Resumed { rev: u64 },
}

/// Who watches: it may become somebody else while it does.
#[derive(Clone, Debug)]
pub(crate) enum Watcher {
    /// The same always.
    Fixed(Identity),
    /// Whoever the connection has last said to be.
    Changing(watch::Receiver<Identity>),
}

impl Watcher {
    /// Who it is now.
    pub(crate) fn identity(&self) -> Identity {
        match self {
            Self::Fixed(identity) => identity.clone(),
            Self::Changing(identity) => identity.borrow().clone(),
        }
    }

    /// Ends when it is not `known` any more.
    pub(crate) async fn changed(&mut self, known: &Identity) {
        match self {
            Self::Changing(identity) => differs(identity, known).await,
            Self::Fixed(_) => pending().await,
        }
    }
}

/// Ends when the value is not `known` any more; never, when nobody can change it.
pub(crate) async fn differs<T: PartialEq>(value: &mut watch::Receiver<T>, known: &T) {
    if value.wait_for(|now| now != known).await.is_err() {
        pending().await
    }
}

/// For whom, and under which rules, a watch was last allowed.
#[derive(Clone, Debug, PartialEq)]
struct Judged {
    identity: Identity,
    rules: u64,
}

/// May `identity` read this; and has its query an index, or may it do without?
fn check_read(
    database: &Database,
    snapshot: &Snapshot,
    identity: &Identity,
    path: &Path,
    query: Option<&Query>,
) -> Result<(), Error> {
    database.check_read(snapshot, identity, path, query)?;
    query.map_or(Ok(()), |query| database.check_index(path, query))
}

#[derive(Debug)]
enum QueryWatch {
    New(Query),
    Open(Box<Window>),
}

/// A watch with what it has still to say. The queue behind it is the ring it shares with all
/// watchers of the path, so a slow reader costs a cursor.
#[derive(Debug)]
pub(crate) struct Subscription {
    watch: Watch,
    query: Option<QueryWatch>,
    pending: Vec<Update>,
    /// Nothing is told before: deliveries that come close together share one write.
    next_at: Instant,
    watcher: Watcher,
    rules: watch::Receiver<u64>,
    judged: Judged,
}

impl Subscription {
    /// The watched path.
    pub(crate) fn path(&self) -> &Path {
        self.watch.path()
    }

    /// Waits until `take` may have something, and `watch_gather_ms` have passed since it last had.
    pub(crate) async fn changed(&mut self) {
        if self.pending.is_empty() {
            let Judged { identity, rules } = &self.judged;
            tokio::select! {
                () = self.watch.changed() => {}
                () = differs(&mut self.rules, rules) => {}
                () = self.watcher.changed(identity) => {}
            }
        }
        sleep_until(self.next_at).await;
    }

    /// Everything there is to say now, in order; maybe nothing.
    ///
    /// # Errors
    /// `Denied` once the location may not be read any more, because the rules or the identity changed.
    pub(crate) async fn take(&mut self, session: &Session) -> Result<Vec<Update>, Error> {
        let deadline = Deadline::after(session.limits().request_ms_max);
        if self.pending.is_empty() {
            let read = self.watch.read(EVENTS_MAX);
            // After the read: what was written under new rules is only read once they are known.
            self.judge_again().await?;
            match read {
                WatchRead::Events(events) if events.is_empty() => {}
                WatchRead::Events(events) if self.query.is_some() => {
                    self.move_window(session, events, deadline).await?;
                }
                WatchRead::Events(events) => self.pending.extend(events.into_iter().map(Update::Event)),
                WatchRead::Lagged => {
                    session.lagged();
                    self.restart(session, Some(ResetReason::Lagged), deadline).await?;
                }
            }
        }
        if !self.pending.is_empty() {
            self.next_at = Instant::now() + Duration::from_millis(session.limits().watch_gather_ms);
        }
        Ok(std::mem::take(&mut self.pending))
    }

    /// Asks again whether the location may be watched, where rules or identity are other ones now.
    async fn judge_again(&mut self) -> Result<(), Error> {
        let now = Judged { identity: self.watcher.identity(), rules: *self.rules.borrow() };
        if now == self.judged {
            return Ok(());
        }
        self.judged = now;
        let snapshot = self.watch.database().snapshot().await?;
        self.check(&snapshot)
    }

    fn check(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let query = match &self.query {
            None => None,
            Some(QueryWatch::New(query)) => Some(query),
            Some(QueryWatch::Open(window)) => Some(window.query()),
        };
        check_read(self.watch.database(), snapshot, &self.judged.identity, self.path(), query)
    }

    /// Reads the value again, through admission like any read.
    async fn restart(
        &mut self,
        session: &Session,
        reset: Option<ResetReason>,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let database = self.watch.database().clone();
        let path = self.path().clone();
        let snapshot = database.snapshot().await?;
        self.check(&snapshot)?;
        let rev = snapshot.rev();
        let cost = cost(&snapshot, &path, session.limits().reply_chunk_bytes)?;
        let json = match self.query.take() {
            None => run(session, Class::Read, cost, deadline, move || whole(&snapshot, &path)).await?,
            Some(query) => {
                let query = match query {
                    QueryWatch::New(query) => query,
                    QueryWatch::Open(window) => window.into_query(),
                };
                let children_max = database.config().query_children_max;
                let job = move || Window::open(&snapshot, path, query, Format::Plain, children_max);
                let (window, json) = run(session, Class::Read, cost, deadline, job).await?;
                self.query = Some(QueryWatch::Open(Box::new(window)));
                json
            }
        };
        self.watch.start_after(rev);
        self.pending.push(Update::Value { rev, json, reset });
        Ok(())
    }

    async fn resume(&mut self, session: &Session, since: u64, deadline: Deadline) -> Result<(), Error> {
        let snapshot = self.watch.database().snapshot().await?;
        self.check(&snapshot)?;
        let rev = snapshot.rev();
        let bytes_max = self.watch.database().config().ring_bytes_max;
        let path = self.path().clone();
        // Bytes unknown: the part of the tail to read is taken for as long as its revisions.
        let cost = if rev.saturating_sub(since) <= SMALL_REVS { Cost::Small } else { Cost::Bytes(bytes_max) };
        let job = move || resume(&snapshot, &path, since, bytes_max);
        match run(session, Class::Read, cost, deadline, job).await? {
            Resume::Events(events) => {
                self.watch.start_after(rev);
                self.pending.push(Update::Resumed { rev: since });
                self.pending.extend(events.into_iter().map(Update::Event));
                Ok(())
            }
            Resume::Reset(reason) => self.restart(session, Some(reason), deadline).await,
        }
    }

    async fn move_window(
        &mut self,
        session: &Session,
        events: Vec<Arc<TopicEvent>>,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let Some(QueryWatch::Open(mut window)) = self.query.take() else {
            return Err(Error::new(ErrorKind::Internal, "a query watch moved before it was opened"));
        };
        let snapshot = self.watch.database().snapshot().await?;
        let rev = snapshot.rev();
        let cost = cost(&snapshot, self.path(), session.limits().reply_chunk_bytes)?;
        let job = move || window.advance(&snapshot, Touched::Events(&events)).map(|json| (window, json));
        let (window, json) = run(session, Class::Read, cost, deadline, job).await?;
        self.query = Some(QueryWatch::Open(window));
        self.watch.start_after(rev);
        self.pending.extend(json.map(|json| Update::Moved { rev, json }));
        Ok(())
    }
}

/// A read that is done, or one that a worker must do.
enum Sized {
    Small(ReadReply),
    Large(Box<(Snapshot, Read)>),
}

/// Reads what is small; a single leaf, which most reads are of, right where it is found.
fn read_small(snapshot: Snapshot, read: Read, children_max: usize, budget: usize) -> Result<Sized, Error> {
    let leaf = match snapshot.cursor(&read.path).seek(&[])? {
        Some((&[], value)) if read.is_plain() && value.len() <= budget => Leaf::decode(value),
        _ => None,
    };
    if let Some(leaf) = leaf {
        let mut first = Vec::with_capacity(32);
        leaf.write_json(&mut first);
        return Ok(Sized::Small(ReadReply { rev: snapshot.rev(), etag: None, first, rest: None }));
    }
    match cost(&snapshot, &read.path, budget)? {
        Cost::Small => read_job(snapshot, read, children_max, budget).map(Sized::Small),
        Cost::Bytes(_) => Ok(Sized::Large(Box::new((snapshot, read)))),
    }
}

/// Counts rows up to the point where a read stops being small; `chunk_bytes` is too much for one.
pub(crate) fn cost(snapshot: &Snapshot, path: &Path, chunk_bytes: usize) -> Result<Cost, Error> {
    let mut cursor = snapshot.cursor(path);
    let mut row = cursor.seek(&[])?;
    let mut bytes = 0;
    for _ in 0..SMALL_ROWS {
        let Some((key, value)) = row else { return Ok(Cost::Small) };
        bytes += value.len();
        if bytes > chunk_bytes {
            break;
        }
        if key.is_empty() {
            // A leaf has nothing below it.
            return Ok(Cost::Small);
        }
        row = cursor.next()?;
    }
    Ok(Cost::Bytes(chunk_bytes))
}

fn whole(snapshot: &Snapshot, path: &Path) -> Result<Vec<u8>, Error> {
    Ok(standpipe_tree::to_json(&mut snapshot.cursor(path), Format::Plain)?)
}

fn read_job(snapshot: Snapshot, read: Read, children_max: usize, budget: usize) -> Result<ReadReply, Error> {
    let etag = if read.etag { Some(etag(&mut snapshot.cursor(&read.path))?) } else { None };
    let stream = match (read.query, read.shallow) {
        (Some(query), _) => {
            let keys = query_keys(&snapshot, &read.path, &query, children_max)?;
            JsonStream::children(read.format, read.pretty, keys)
        }
        (None, Some(range)) => JsonStream::shallow(read.pretty, range),
        (None, None) => JsonStream::new(read.format, read.pretty),
    };
    let rev = snapshot.rev();
    let mut slices = Slices { snapshot, path: read.path, stream };
    let mut first = Vec::new();
    let progress = slices.fill(&mut first, budget)?;
    Ok(ReadReply { rev, etag, first, rest: (progress == Progress::More).then(|| Box::new(slices)) })
}

/// Runs a job through the session and speaks the engine's errors about what the core refused.
pub(crate) async fn run<T: Send + 'static>(
    session: &Session,
    class: Class,
    cost: Cost,
    deadline: Deadline,
    job: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    session.run(class, cost, deadline, job).await.unwrap_or_else(|refused| Err(from_core(refused)))
}

/// A reply that does not fit into memory as a whole.
pub(crate) fn too_large(bytes_max: usize) -> Error {
    let text = format!("the reply is longer than reply_bytes_max ({bytes_max}); read it in parts, or over HTTP");
    Error::new(ErrorKind::TooLarge, text)
}

/// What was not let in, in the engine's words.
pub(crate) fn refused(refusal: Refusal) -> Error {
    Error::overloaded(refusal.to_string(), refusal.retry_after())
}

/// What the serving core refused, in the engine's words.
pub(crate) fn from_core(error: JobError) -> Error {
    match error {
        JobError::Refused(refusal) => refused(refusal),
        JobError::QueueWait => Error::overloaded("the request waited too long for a worker", Duration::from_secs(1)),
        JobError::Deadline => Error::new(ErrorKind::Deadline, "the request took too long"),
        JobError::Panicked => Error::new(ErrorKind::Internal, "internal error"),
        JobError::Shutdown => Error::unavailable("the server is shutting down"),
    }
}
