//! One reader of thousands of watched paths: a [`Feed`] has a slot for each, and reads only those that
//! something was published to. What it gives is in the order of revisions across all slots.
//!
//! A topic *marks* the slot when it is pushed to. A mark is no queue: the events stay in the topic's ring,
//! where a slow reader costs a cursor, and one that fell off the ring is told so. A take looks at the
//! published revision first, at the marks next, and gives only what is at or below that revision: the hub marks
//! before it moves the revision, so nothing at or below it can be missing.

use std::sync::Arc;

use parking_lot::Mutex;
use standpipe_tree::Path;
use tokio::sync::Notify;

use crate::database::Database;
use crate::hub::{Topic, TopicEvent};

/// Which slots of a feed have news.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    set: Mutex<Set>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Set {
    slots: Vec<u32>,
    /// A bit for each slot: whether it is among `slots`.
    marked: Vec<u64>,
}

impl Marks {
    /// Marks a slot; true when it is the first since the last take.
    pub(crate) fn mark(&self, slot: u32) -> bool {
        let mut set = self.set.lock();
        let (word, bit) = (slot as usize / 64, 1 << (slot % 64));
        if set.marked.len() <= word {
            set.marked.resize(word + 1, 0);
        }
        if set.marked[word] & bit != 0 {
            return false;
        }
        set.marked[word] |= bit;
        set.slots.push(slot);
        set.slots.len() == 1
    }

    /// Wakes the reader.
    pub(crate) fn tell(&self) {
        self.news.notify_one();
    }

    fn is_marked(&self) -> bool {
        !self.set.lock().slots.is_empty()
    }

    /// Moves the marked slots to `into`.
    fn take(&self, into: &mut Vec<u32>) {
        let mut set = self.set.lock();
        into.append(&mut set.slots);
        for slot in into.iter() {
            set.marked[*slot as usize / 64] &= !(1 << (slot % 64));
        }
    }
}

/// Names a watched path of a feed; used again after [`Feed::unwatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u32);

impl Slot {
    /// A small number, for tables beside the feed.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a slot met.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// A change of its path.
    Event(Arc<TopicEvent>),
    /// Changes were missed: take a snapshot, tell it whole, and go on after its revision.
    Lagged,
}

#[derive(Debug)]
struct Watched {
    topic: Arc<Topic>,
    cursor: u64,
    seen_rev: u64,
}

/// See the module's text.
#[derive(Debug)]
pub struct Feed {
    database: Arc<Database>,
    marks: Arc<Marks>,
    slots: Vec<Option<Watched>>,
    free: Vec<u32>,
    /// Marked slots, while they are looked at.
    dirty: Vec<u32>,
    /// The lowest revision that was met and not given, since it was not published yet.
    awaited: Option<u64>,
}

impl Feed {
    /// A feed that watches nothing yet.
    pub fn new(database: &Arc<Database>) -> Self {
        Self {
            database: database.clone(),
            marks: Arc::default(),
            slots: Vec::new(),
            free: Vec::new(),
            dirty: Vec::new(),
            awaited: None,
        }
    }

    /// Starts watching `path`: takes the cursor. Open a snapshot next, then [`Feed::start_after`] its
    /// revision. The same path may be watched more than once.
    pub fn watch(&mut self, path: &Path) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("memory ends before four thousand million slots")
        });
        let topic = self.database.hub().topic(path);
        let cursor = topic.attach(&self.marks, slot);
        self.slots[slot as usize] = Some(Watched { topic, cursor, seen_rev: 0 });
        Slot(slot)
    }

    /// Skips what a snapshot of `rev` already shows.
    pub fn start_after(&mut self, slot: Slot, rev: u64) {
        if let Some(watched) = self.slot(slot) {
            watched.seen_rev = watched.seen_rev.max(rev);
        }
    }

    /// Stops watching.
    pub fn unwatch(&mut self, slot: Slot) {
        let Some(watched) = self.slots.get_mut(slot.index()).and_then(Option::take) else { return };
        watched.topic.detach(&self.marks, slot.0);
        self.database.hub().release(watched.topic);
        self.free.push(slot.0);
    }

    /// The path that a slot watches.
    pub fn path(&self, slot: Slot) -> Option<&Path> {
        Some(&self.slots.get(slot.index())?.as_ref()?.topic.path)
    }

    /// All slots that watch.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        let watching = self.slots.iter().enumerate().filter(|(_, watched)| watched.is_some());
        watching.map(|(slot, _)| Slot(slot as u32))
    }

    fn slot(&mut self, slot: Slot) -> Option<&mut Watched> {
        self.slots.get_mut(slot.index())?.as_mut()
    }

    /// Waits until [`Feed::take`] may have something.
    pub async fn changed(&self) {
        match self.awaited {
            // What is marked already is news also to who did not listen when it was told.
            None if self.marks.is_marked() => {}
            None => self.marks.news.notified().await,
            Some(rev) => {
                let mut revisions = self.database.hub().revisions();
                let _closed = revisions.wait_for(|published| *published >= rev).await;
            }
        }
    }

    /// Everything published up to revision `rev` that was not given before, in the order of revisions and
    /// then of slots; lags come first. `rev` may not be above [`Database::rev`]. At most what the rings hold.
    pub fn take(&mut self, rev: u64) -> Vec<(Slot, Delivery)> {
        let mut dirty = std::mem::take(&mut self.dirty);
        self.marks.take(&mut dirty);
        self.awaited = None;
        let mut found = Vec::new();
        for slot in dirty.drain(..) {
            // It may have been given up, or even be another path's, since it was marked.
            let Some(Some(watched)) = self.slots.get_mut(slot as usize) else { continue };
            let seen = watched.seen_rev;
            let read = watched.topic.read_to(&mut watched.cursor, rev, |event| {
                if event.rev > seen {
                    found.push((Slot(slot), Delivery::Event(event.clone())));
                }
            });
            match read {
                Ok(None) => {}
                Ok(Some(left)) => {
                    self.marks.mark(slot);
                    self.awaited = Some(self.awaited.map_or(left, |awaited| awaited.min(left)));
                }
                Err(_lagged) => found.push((Slot(slot), Delivery::Lagged)),
            }
        }
        self.dirty = dirty;
        if found.len() > 1 {
            found.sort_by_key(|(slot, delivery)| match delivery {
                Delivery::Event(event) => (event.rev, *slot),
                Delivery::Lagged => (0, *slot),
            });
        }
        found
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        for slot in 0..self.slots.len() {
            self.unwatch(Slot(slot as u32));
        }
    }
}
