//! One run that is not final: its record, shared by whoever drives it and whoever looks at it. A change of a state
//! is made durable; what is only a note (progress, counts) becomes so with the next change. Both are told to the
//! tree a few times a second. How a run ends is the service's to write.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use standpipe_engine::{Appender, Outcome, Result};
use tokio::sync::{oneshot, watch};

use crate::book::{self, Book, Put};
use crate::name::RunId;
use crate::plan::Plan;
use crate::record::{Ended, RunRecord, RunState};
use crate::supervise::Stop;
use crate::values::{Pace, Values};

/// How soon a change is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum News {
    /// There is nothing to tell.
    None,
    /// With the next regular update.
    Note,
    /// Soon, as the limit of updates allows.
    State,
    /// The last: at once, as the limit of updates allows.
    End,
}

impl News {
    pub(crate) fn of(number: u8) -> Self {
        [Self::None, Self::Note, Self::State, Self::End][usize::from(number)]
    }
}

/// See the module's text.
pub struct Board {
    id: RunId,
    plan: Arc<Plan>,
    held: Mutex<Held>,
    output: OnceLock<Appender>,
    /// Weak, because both hold boards that wait to be written.
    book: Weak<Book>,
    values: Weak<Values>,
    /// Waits to be written into the book.
    pub(crate) saving: AtomicBool,
    /// The [`News`] that wait to be told.
    pub(crate) news: AtomicU8,
    /// When it was told lately.
    pub(crate) pace: Mutex<Pace>,
    stop: watch::Sender<Option<Stop>>,
    settled: watch::Sender<bool>,
    /// Where it stands in the queue, as it was last told; 0 is not there.
    pub(crate) position: AtomicUsize,
    this: Weak<Self>,
}

struct Held {
    record: RunRecord,
    /// Its final record is being written: nothing else may be.
    ending: bool,
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Board {
    pub(crate) fn new(record: RunRecord, book: &Arc<Book>, values: &Arc<Values>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            id: record.id.clone(),
            plan: record.plan.clone(),
            held: Mutex::new(Held { record, ending: false }),
            output: OnceLock::new(),
            book: Arc::downgrade(book),
            values: Arc::downgrade(values),
            saving: AtomicBool::new(false),
            news: AtomicU8::new(News::None as u8),
            pace: Mutex::default(),
            stop: watch::channel(None).0,
            settled: watch::channel(false).0,
            position: AtomicUsize::new(0),
            this: this.clone(),
        })
    }

    /// Which run.
    pub fn id(&self) -> &RunId {
        &self.id
    }

    /// What it does.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The stream `runs/<id>/out`. The service ends it.
    pub fn output(&self) -> &Appender {
        self.output.get().expect("a run is at work only when its stream is there")
    }

    /// The record now.
    pub fn record(&self) -> RunRecord {
        self.held.lock().record.clone()
    }

    /// A look at the record now; not to be held for long.
    pub fn look<T>(&self, look: impl FnOnce(&RunRecord) -> T) -> T {
        look(&self.held.lock().record)
    }

    /// Changes the record, and returns when that is durable. The run's own end is not to be written so.
    ///
    /// # Errors
    /// The store can't write; the change stands, and is written with the next one that can be.
    pub async fn commit(&self, change: impl FnOnce(&mut RunRecord)) -> Result<()> {
        let (answer, done) = oneshot::channel();
        if let Some(board) = self.change(News::State, change) {
            self.save(&board, Some(answer));
            return book::durable(done).await;
        }
        Ok(())
    }

    /// As [`Board::commit`], for who needs not wait: it becomes durable with the next commit of any run.
    pub fn post(&self, change: impl FnOnce(&mut RunRecord)) {
        if let Some(board) = self.change(News::State, change) {
            self.save(&board, None);
        }
    }

    /// Changes the record, durable with the next commit of this run: for what is told many times a second.
    pub fn note(&self, change: impl FnOnce(&mut RunRecord)) {
        self.change(News::Note, change);
    }

    fn save(&self, board: &Arc<Self>, answer: Option<oneshot::Sender<Result<()>>>) {
        self.book.upgrade().inspect(|book| book.save(board, answer));
    }

    fn change(&self, news: News, change: impl FnOnce(&mut RunRecord)) -> Option<Arc<Self>> {
        let mut held = self.held.lock();
        if held.ending {
            return None;
        }
        change(&mut held.record);
        drop(held);
        let board = self.this.upgrade()?;
        board.tell(news);
        Some(board)
    }

    /// Has the tree told of what changed.
    pub(crate) fn tell(self: &Arc<Self>, news: News) {
        if self.news.fetch_max(news as u8, Ordering::SeqCst) < news as u8 {
            self.values.upgrade().inspect(|values| values.board(self.clone()));
        }
    }

    /// What the book is to hold now; nothing once the end is being written.
    pub(crate) fn saved(&self) -> Option<Put> {
        let held = self.held.lock();
        (!held.ending).then(|| book::saved(&held.record))
    }

    /// From here on only the end is written; this is how the record is then.
    pub(crate) fn begin_end(&self, state: RunState, ended: Ended, now: u64) -> RunRecord {
        let mut held = self.held.lock();
        held.ending = true;
        let mut record = held.record.clone();
        drop(held);
        record.end(state, ended, now);
        record
    }

    /// The end is durable: now it is told.
    pub(crate) fn end(self: &Arc<Self>, record: RunRecord) {
        self.held.lock().record = record;
        self.position.store(0, Ordering::Relaxed);
        self.tell(News::End);
    }

    /// The run is of those that are not final no longer: who waits for its end may go on.
    pub(crate) fn settle(&self) {
        self.settled.send_replace(true);
    }

    /// Waits for [`Board::settle`].
    pub(crate) async fn settled(&self) {
        // The sender is in here, so it is not gone.
        let mut settled = self.settled.subscribe();
        let _open = settled.wait_for(|settled| *settled).await;
    }

    pub(crate) fn put_output(&self, output: Appender) {
        let _once = self.output.set(output);
    }

    pub(crate) fn has_output(&self) -> Option<&Appender> {
        self.output.get()
    }

    /// Asks the run to stop: of several requests the first says why, and the shortest grace counts.
    pub(crate) fn stop(&self, stop: Stop) {
        self.stop.send_modify(|told| {
            let first = told.get_or_insert(stop);
            first.grace = match (first.grace, stop.grace) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        });
    }

    pub(crate) fn stops(&self) -> watch::Receiver<Option<Stop>> {
        self.stop.subscribe()
    }
}

impl RunRecord {
    /// The record of a run that has ended so: no task is left at work.
    pub(crate) fn end(&mut self, state: RunState, ended: Ended, now: u64) {
        self.state = state;
        self.ended = ended;
        self.ended_at = Some(now);
        for task in self.tasks.values_mut() {
            task.end(state, now);
        }
    }

    /// What the streams of the run end with.
    pub(crate) fn outcome(&self) -> Outcome {
        let Ended { exit_code, signal, reason } = self.ended.clone();
        Outcome { state: self.state.as_str().to_owned(), exit_code, signal, reason }
    }
}
