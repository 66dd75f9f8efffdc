//! What a client wants to be told about, on one stream: resources, tasks, and the list of resources. A [`Watching`] is one feed with a
//! slot for each subject; it says *that* something changed at, above or below a path, never what. There is no task, timer or
//! queue for a subject: news are looked at no more often than [`GATHER`], which is what puts many changes into one notice, and
//! the look after the last change always comes. How notices are worded is `subscriptions`' business.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::future::Either;
use futures_util::stream::{self, BoxStream, SelectAll};
use serde::de::IgnoredAny;
use standpipe_engine::{
    Database, Delivery, Error, ErrorKind, Feed, From, Identity, Slot, Snapshot, StreamRead, Streams, TopicEvent,
};
use standpipe_runs::RunId;
use standpipe_serve::{Session, WatchPermit};
use standpipe_tree::{JsonStream, Path, Progress, RowCursor as _, ShallowRange};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::dispatch::{Dispatch, differs, refused};

/// Least time between two looks, and so between two notices of one subject (spec mcp §3.3).
const GATHER: Duration = Duration::from_millis(100);

/// Children of the root whose coming and going is told: a client of a root that has more looks for itself.
const LISTED_MAX: usize = 1_000;

/// What a client may be told about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Subject {
    /// A resource, by its URI as the client wrote it.
    Resource(Box<str>),
    /// A run, as a task.
    Task(RunId),
    /// Which resources there are.
    Listing,
}

/// Who watches, and until when.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Standing {
    pub(super) identity: Identity,
    pub(super) expires_at: Option<SystemTime>,
}

impl Standing {
    pub(super) fn of(caller: &standpipe_mcp::Caller) -> Self {
        Self { identity: caller.identity.clone(), expires_at: caller.expires_at }
    }

    /// Ends when it does; never where it has no end.
    pub(super) async fn expired(&self) {
        match self.expires_at {
            Some(at) => sleep(at.duration_since(SystemTime::now()).unwrap_or_default()).await,
            None => std::future::pending().await,
        }
    }

    fn is_over(&self) -> bool {
        self.expires_at.is_some_and(|at| at <= SystemTime::now())
    }
}

/// What there is to tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// These have changed; each is named once.
    Changed(BTreeSet<Subject>),
    /// These may not be read any more, because the rules changed or the credential ended; they are watched no longer.
    Lost(BTreeSet<Subject>),
}

#[derive(Debug)]
struct Watched {
    slot: Slot,
    path: Path,
    /// Ends the look at the stream at its path, if there is one.
    _output: Option<DropGuard>,
    _permit: WatchPermit,
}

/// See the module's text.
pub(super) struct Watching {
    database: Arc<Database>,
    streams: Arc<Streams>,
    feed: Feed,
    subjects: HashMap<Subject, Watched>,
    /// By the number of the slot.
    by_slot: Vec<Option<Subject>>,
    /// Tells of streams at watched paths, which have records and no values.
    outputs: SelectAll<BoxStream<'static, Subject>>,
    listed: Listed,
    standing: watch::Receiver<Standing>,
    rules: watch::Receiver<u64>,
    /// For whom, and under which rules, all subjects were last allowed.
    judged: (Standing, u64),
    /// What was taken and is not told yet: nothing is lost when a wait is given up.
    changed: BTreeSet<Subject>,
    /// No look before.
    next_at: Instant,
}

impl std::fmt::Debug for Watching {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watching").field("subjects", &self.subjects.len()).finish_non_exhaustive()
    }
}

impl Watching {
    /// Watches nothing yet; `standing` says who does, now and later.
    ///
    /// # Errors
    /// There is no default database.
    pub(super) fn new(dispatch: &Dispatch, mut standing: watch::Receiver<Standing>) -> Result<Self, Error> {
        let database = dispatch.database(None)?;
        let rules = database.rules_changed();
        let judged = (standing.borrow_and_update().clone(), *rules.borrow());
        Ok(Self {
            feed: Feed::new(&database),
            streams: dispatch.streams().clone(),
            database,
            subjects: HashMap::new(),
            by_slot: Vec::new(),
            outputs: SelectAll::new(),
            listed: Listed::default(),
            standing,
            rules,
            judged,
            changed: BTreeSet::new(),
            next_at: Instant::now(),
        })
    }

    /// How many subjects are watched, beside the list of them.
    pub(super) fn len(&self) -> usize {
        self.subjects.keys().filter(|subject| **subject != Subject::Listing).count()
    }

    /// Whether it is watched.
    pub(super) fn has(&self, subject: &Subject) -> bool {
        self.subjects.contains_key(subject)
    }

    /// Begins to watch a path for a subject, from now on; one that is watched already stays as it is.
    ///
    /// # Errors
    /// `Denied` where the path may not be read; `Overloaded` where there are too many watchers.
    pub(super) async fn add(&mut self, session: &Session, subject: Subject, path: Path) -> Result<(), Error> {
        if self.has(&subject) {
            return Ok(());
        }
        let identity = self.standing.borrow().identity.clone();
        self.database.check_entry(&identity)?;
        let permit = session.watch_permit().map_err(refused)?;
        let slot = self.feed.watch(&path);
        match self.begin(slot, &subject, &path, &identity).await {
            Ok(output) => {
                if self.by_slot.len() <= slot.index() {
                    self.by_slot.resize(slot.index() + 1, None);
                }
                self.by_slot[slot.index()] = Some(subject.clone());
                self.subjects.insert(subject, Watched { slot, path, _output: output, _permit: permit });
                Ok(())
            }
            Err(error) => {
                self.feed.unwatch(slot);
                Err(error)
            }
        }
    }

    async fn begin(
        &mut self,
        slot: Slot,
        subject: &Subject,
        path: &Path,
        identity: &Identity,
    ) -> Result<Option<DropGuard>, Error> {
        let snapshot = self.database.snapshot().await?;
        self.feed.start_after(slot, snapshot.rev());
        if *subject == Subject::Listing {
            self.listed.look_at_all(&self.database, &snapshot, identity)?;
            return Ok(None);
        }
        self.database.check_read(&snapshot, identity, path, None)?;
        self.follow_output(subject, path)
    }

    /// Watches the stream at `path` as well, if there is one.
    fn follow_output(&mut self, subject: &Subject, path: &Path) -> Result<Option<DropGuard>, Error> {
        if !matches!(subject, Subject::Resource(_)) || self.streams.head(path)?.is_none() {
            return Ok(None);
        }
        let gone = CancellationToken::new();
        let (subject, streams, path) = (subject.clone(), self.streams.clone(), path.clone());
        let news = output_news(streams, path).map(move |()| subject.clone());
        self.outputs.push(news.take_until(gone.clone().cancelled_owned()).boxed());
        Ok(Some(gone.drop_guard()))
    }

    /// Stops watching; false when it was not watched.
    pub(super) fn remove(&mut self, subject: &Subject) -> bool {
        let Some(watched) = self.subjects.remove(subject) else { return false };
        self.by_slot[watched.slot.index()] = None;
        self.feed.unwatch(watched.slot);
        self.changed.remove(subject);
        true
    }

    fn remove_all(&mut self, subjects: &BTreeSet<Subject>) {
        for subject in subjects {
            self.remove(subject);
        }
    }

    /// Waits for news. Given up half-way, it has lost nothing.
    ///
    /// # Errors
    /// The database has stopped.
    pub(super) async fn next(&mut self) -> Result<News, Error> {
        loop {
            self.moved().await;
            sleep_until(self.next_at).await;
            self.take()?;
            // After the look: what was written under new rules is only told under them.
            let lost = self.judge_again().await?;
            if !lost.is_empty() {
                return Ok(News::Lost(lost));
            }
            self.next_at = Instant::now() + GATHER;
            if !self.changed.is_empty() {
                return Ok(News::Changed(std::mem::take(&mut self.changed)));
            }
        }
    }

    /// Waits until there may be something to look at.
    async fn moved(&mut self) {
        let over = self.judged.0.is_over();
        // With nothing left to lose, only a newer credential is of interest.
        if !self.changed.is_empty() || (over && !self.subjects.is_empty()) {
            return;
        }
        let (standing, rules) = (&self.judged.0, &self.judged.1);
        let outputs = if self.outputs.is_empty() {
            Either::Left(std::future::pending())
        } else {
            Either::Right(self.outputs.next())
        };
        tokio::select! {
            () = self.feed.changed() => {}
            Some(subject) = outputs => drop(self.changed.insert(subject)),
            () = differs(&mut self.rules, rules) => {}
            () = differs(&mut self.standing, standing) => {}
            () = standing.expired(), if !over => {}
        }
    }

    /// Takes in what was published.
    fn take(&mut self) -> Result<(), Error> {
        for (slot, delivery) in self.feed.take(self.database.rev()) {
            let Some(Some(subject)) = self.by_slot.get(slot.index()) else { continue };
            match (subject, delivery) {
                (Subject::Listing, Delivery::Event(event)) => self.listed.touched(&event),
                (Subject::Listing, Delivery::Lagged) => self.listed.all = true,
                (subject, _) => drop(self.changed.insert(subject.clone())),
            }
        }
        if self.listed.is_touched()
            && let Some(snapshot) = self.database.snapshot_now()?
            && self.listed.look(&self.database, &snapshot, &self.judged.0.identity)?
        {
            self.changed.insert(Subject::Listing);
        }
        Ok(())
    }

    /// Asks again who may read what, where rules or the watcher are other ones now; what is lost is watched no more.
    async fn judge_again(&mut self) -> Result<BTreeSet<Subject>, Error> {
        let now = (self.standing.borrow().clone(), *self.rules.borrow());
        if now.0.is_over() {
            let all: BTreeSet<_> = self.subjects.keys().cloned().collect();
            self.remove_all(&all);
            return Ok(all);
        }
        if now == self.judged {
            return Ok(BTreeSet::new());
        }
        let snapshot = self.database.snapshot().await?;
        self.judged = now;
        let identity = self.judged.0.identity.clone();
        let mut lost = BTreeSet::new();
        for (subject, watched) in &self.subjects {
            if *subject == Subject::Listing {
                self.listed.all = true;
                continue;
            }
            match self.database.check_read(&snapshot, &identity, &watched.path, None) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Denied => drop(lost.insert(subject.clone())),
                Err(error) => return Err(error),
            }
        }
        self.remove_all(&lost);
        if self.listed.all && self.listed.look(&self.database, &snapshot, &identity)? {
            self.changed.insert(Subject::Listing);
        }
        Ok(lost)
    }
}

/// Says that a stream has more than it had, until it has ended.
fn output_news(streams: Arc<Streams>, path: Path) -> impl futures_util::Stream<Item = ()> + Send {
    stream::unfold(Some((streams, path, None)), |state| async {
        let (streams, path, watch) = state?;
        let mut watch = match watch {
            Some(watch) => watch,
            None => streams.watch(&path, From::End).ok()?,
        };
        watch.changed().await;
        loop {
            match watch.read() {
                StreamRead::Chunk(..) | StreamRead::Gap { .. } => {}
                StreamRead::Nothing => return Some(((), Some((streams, path, Some(watch))))),
                StreamRead::Behind => return Some(((), Some((streams, path, None)))),
                // Told once more, as its end is something new; then there is no more.
                StreamRead::Ended(_) => return Some(((), None)),
            }
        }
    })
}

/// The children of the root that are told as resources, as far as they were last looked at.
#[derive(Debug, Default)]
struct Listed {
    keys: HashSet<Box<str>>,
    /// Keys at or below which something was written since.
    touched: BTreeSet<Box<str>>,
    /// Any of them may have changed.
    all: bool,
}

impl Listed {
    fn touched(&mut self, event: &TopicEvent) {
        for write in &event.change.writes {
            match write.location.path().segments().next() {
                Some(key) if self.touched.len() < LISTED_MAX => drop(self.touched.insert(key.into())),
                _ => self.all = true,
            }
        }
    }

    fn is_touched(&self) -> bool {
        self.all || !self.touched.is_empty()
    }

    /// Looks again at what was touched; says whether the list is another one.
    fn look(&mut self, database: &Database, snapshot: &Snapshot, identity: &Identity) -> Result<bool, Error> {
        if self.all {
            return self.look_at_all(database, snapshot, identity);
        }
        let mut changed = false;
        for key in std::mem::take(&mut self.touched) {
            let there = is_listed(database, snapshot, identity, &key)?;
            changed |= match there {
                true if self.keys.len() < LISTED_MAX => self.keys.insert(key),
                true => false,
                false => self.keys.remove(&key),
            };
        }
        Ok(changed)
    }

    fn look_at_all(&mut self, database: &Database, snapshot: &Snapshot, identity: &Identity) -> Result<bool, Error> {
        self.touched.clear();
        self.all = false;
        let range = ShallowRange { after: None, limit: Some(LISTED_MAX), sizes: false };
        let (mut json, mut stream) = (Vec::new(), JsonStream::shallow(false, range));
        let mut cursor = snapshot.cursor(&Path::root());
        while stream.fill(&mut cursor, &mut json, usize::MAX)? == Progress::More {}
        // The root may be a single value, or nothing: it has no children then.
        let children: HashMap<Box<str>, IgnoredAny> = serde_json::from_slice(&json).unwrap_or_default();
        let mut keys = HashSet::new();
        for key in children.into_keys() {
            if is_listed(database, snapshot, identity, &key)? {
                keys.insert(key);
            }
        }
        let changed = keys != self.keys;
        self.keys = keys;
        Ok(changed)
    }
}

/// Is there such a child of the root, and may it be read?
fn is_listed(database: &Database, snapshot: &Snapshot, identity: &Identity, key: &str) -> Result<bool, Error> {
    let Ok(path) = Path::root().child(key) else { return Ok(false) };
    if snapshot.cursor(&path).seek(&[])?.is_none() {
        return Ok(false);
    }
    match database.check_read(snapshot, identity, &path, None) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::Denied => Ok(false),
        Err(error) => Err(error),
    }
}
