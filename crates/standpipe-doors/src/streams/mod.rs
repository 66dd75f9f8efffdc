//! Streams for every door: attaching to one, following it, reading a part of it, appending to it. Who may is asked of
//! the rules of the default database at the stream's path, when a viewer comes and again when rules or identity change.
//! What it looks like on the wire is the doors' matter, and `form`'s.

mod append;
mod form;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use standpipe_engine::{
    Chunk, Database, Error, ErrorKind, From, Head, Identity, Outcome, StreamRead, StreamWatch, Streams,
};
use standpipe_serve::{Class, Cost, Deadline, Session};
use standpipe_tree::Path;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

pub(crate) use self::append::{lines, record};
pub(crate) use self::form::{Form, end_of, gap_line, last_line, records_of};
use crate::dispatch::{Dispatch, Watcher, differs, run};

/// How long a viewer that has fallen behind waits when there is no room for its read and nobody says how long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How often a viewer looks for a stream that is not there yet, though none has begun.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// One thing a viewer is told.
#[derive(Debug)]
pub(crate) enum Part {
    /// Records of a chunk, which all viewers share.
    Records(Arc<Chunk>, Range<usize>),
    /// What lies before this record is gone.
    Gap { first_left: u64 },
    /// There is no more.
    Ended(Outcome),
}

impl Dispatch {
    /// The streams.
    pub(crate) fn streams(&self) -> &Arc<Streams> {
        self.engine().streams()
    }

    /// Finds a stream that `identity` may read.
    ///
    /// # Errors
    /// `Denied`, also where there is none; `NotFound`.
    pub(crate) async fn find_stream(&self, identity: &Identity, path: &Path) -> Result<Head, Error> {
        let database = self.database(None)?;
        check_read(&database, identity, path).await?;
        self.streams().head(path)?.ok_or_else(|| no_stream(path))
    }

    /// Begins to view a stream.
    ///
    /// # Errors
    /// As [`Dispatch::find_stream`].
    pub(crate) async fn view(&self, watcher: Watcher, path: Path, from: From) -> Result<Viewing, Error> {
        let database = self.database(None)?;
        // Before the look at the rules: a change after it is noticed.
        let mut rules = database.rules_changed();
        let judged = Judged { identity: watcher.identity(), rules: *rules.borrow_and_update() };
        check_read(&database, &judged.identity, &path).await?;
        let watch = self.streams().watch(&path, from)?;
        Ok(Viewing {
            position: watch.position(),
            streams: self.streams().clone(),
            watch: Some(Box::new(watch)),
            read: VecDeque::new(),
            path,
            database,
            watcher,
            rules,
            judged,
            live: false,
            next_at: Instant::now(),
        })
    }
}

/// Tells of streams that begin. Made before the first look for one, it misses none.
#[derive(Debug)]
pub(crate) struct Beginnings(watch::Receiver<u64>);

impl Beginnings {
    /// Waits until streams have begun since the last time.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            // It ends with the engine, and then nobody waits for long.
            Ok(()) = self.0.changed() => {}
            // What a stream is found by, the record of its run, may be written a moment later.
            () = sleep(LOOK_AGAIN) => {}
        }
    }
}

impl Dispatch {
    /// Streams that begin from now on.
    pub(crate) fn beginnings(&self) -> Beginnings {
        Beginnings(self.streams().created())
    }
}

pub(crate) fn no_stream(path: &Path) -> Error {
    let text = format!("there is no stream at /{}; one begins with its run, or with the first append", path.as_str());
    Error::new(ErrorKind::NotFound, text)
}

async fn check_read(database: &Database, identity: &Identity, path: &Path) -> Result<(), Error> {
    database.check_entry(identity)?;
    let snapshot = database.snapshot().await?;
    database.check_read(&snapshot, identity, path, None)
}

/// For whom, and under which rules, a view was last allowed.
#[derive(Clone, Debug, PartialEq)]
struct Judged {
    identity: Identity,
    rules: u64,
}

/// One viewer of a stream: a cursor in the ring that all its viewers share.
#[derive(Debug)]
pub(crate) struct Viewing {
    streams: Arc<Streams>,
    /// Away while a worker reads with it; made anew if it does not come back.
    watch: Option<Box<StreamWatch>>,
    /// What a worker has read and nobody taken.
    read: VecDeque<StreamRead>,
    path: Path,
    /// The record after the last one given out.
    position: u64,
    database: Arc<Database>,
    watcher: Watcher,
    rules: watch::Receiver<u64>,
    judged: Judged,
    /// All there was has been given out once.
    live: bool,
    /// Nothing is told before: what comes close together shares one write.
    next_at: Instant,
}

impl Viewing {
    /// The stream's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The record after the last one given out.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Waits until [`Viewing::take`] may have something.
    pub(crate) async fn changed(&mut self) {
        if let (true, Some(watch)) = (self.read.is_empty(), &mut self.watch) {
            let Judged { identity, rules } = &self.judged;
            tokio::select! {
                () = watch.changed() => {}
                () = differs(&mut self.rules, rules) => {}
                () = self.watcher.changed(identity) => {}
            }
        }
        sleep_until(self.next_at).await;
    }

    /// The next thing to tell; `None` when there is nothing now. Nothing is lost when this is dropped half-way.
    ///
    /// # Errors
    /// `Denied` once the stream may not be read any more, `NotFound` once it is removed.
    pub(crate) async fn take(&mut self, session: &Session) -> Result<Option<Part>, Error> {
        loop {
            self.judge_again().await?;
            let read = match self.read.pop_front() {
                Some(read) => read,
                None => self.watch()?.read(),
            };
            match read {
                StreamRead::Chunk(chunk, range) => {
                    self.position = chunk.first_seq() + range.end as u64;
                    return Ok(Some(Part::Records(chunk, range)));
                }
                StreamRead::Gap { first_left } => {
                    self.position = first_left;
                    return Ok(Some(Part::Gap { first_left }));
                }
                StreamRead::Ended(outcome) => return Ok(Some(Part::Ended(outcome))),
                StreamRead::Nothing => {
                    self.live = true;
                    self.next_at = Instant::now() + Duration::from_millis(session.limits().stream_gather_ms);
                    return Ok(None);
                }
                // Boxed, with what follows below: rare, and every viewer would have room for it while it waits.
                StreamRead::Behind => Box::pin(self.catch_up(session)).await?,
            }
        }
    }

    fn watch(&mut self) -> Result<&mut StreamWatch, Error> {
        let watch = match self.watch.take() {
            Some(watch) => watch,
            None => Box::new(self.streams.watch(&self.path, From::Seq(self.position))?),
        };
        Ok(self.watch.insert(watch))
    }

    /// Reads what the ring has not got, on a worker: the first part like any read, for somebody waits for it, and more of
    /// it as bulk.
    async fn catch_up(&mut self, session: &Session) -> Result<(), Error> {
        if std::mem::take(&mut self.live) {
            session.lagged();
        }
        let bytes = session.limits().reply_chunk_bytes;
        loop {
            self.watch()?;
            let Some(mut watch) = self.watch.take() else { return Ok(()) };
            let job = move || watch.catch_up(bytes).map(|read| (watch, read));
            let deadline = Deadline::after(session.limits().request_ms_max);
            match run(session, Class::Bulk, Cost::Bytes(bytes), deadline, job).await {
                Ok((watch, read)) => {
                    self.watch = Some(watch);
                    self.read = read.into();
                    return Ok(());
                }
                // It has its place in the stream, and nothing else to lose than time.
                Err(error) if error.kind() == ErrorKind::Overloaded => {
                    tokio::select! {
                        () = sleep(error.retry_after().unwrap_or(RETRY_AFTER)) => {}
                        () = session.closing() => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks again whether the stream may be read, where rules or identity are other ones now.
    async fn judge_again(&mut self) -> Result<(), Error> {
        let now = Judged { identity: self.watcher.identity(), rules: *self.rules.borrow() };
        if now == self.judged {
            return Ok(());
        }
        Box::pin(check_read(&self.database, &now.identity, &self.path)).await?;
        self.judged = now;
        Ok(())
    }
}
