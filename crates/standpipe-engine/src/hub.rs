//! The hub: one bounded ring for each watched path, a watcher is a cursor in it. Publishing costs
//! the number of watched paths touched, never the number of watchers, and a slow watcher costs a
//! cursor, never a queue. Attaching and resuming are `watch`'s business, reading many paths at once is `feed`'s.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;
use standpipe_tree::{Change, Path};
use tokio::sync::{Notify, watch};

use crate::feed::Marks;
use crate::store::keys::prefix_end;

/// One accepted write as the watchers of one path share it.
#[derive(Debug)]
pub struct TopicEvent {
    /// Its revision.
    pub rev: u64,
    /// What was written.
    pub change: Arc<Change>,
    frame: OnceLock<Bytes>,
    message: OnceLock<Bytes>,
}

impl TopicEvent {
    pub(crate) fn new(rev: u64, change: Arc<Change>) -> Self {
        Self { rev, change, frame: OnceLock::new(), message: OnceLock::new() }
    }

    /// The event as a door sends it, made by the first watcher and shared by all others. Empty
    /// where there is nothing to say to watchers of this path.
    pub fn frame(&self, make: impl FnOnce(&Self) -> Bytes) -> Bytes {
        self.frame.get_or_init(|| make(self)).clone()
    }

    /// As [`TopicEvent::frame`], for the one other form there is: a door that speaks another protocol has
    /// its own.
    pub fn message(&self, make: impl FnOnce(&Self) -> Bytes) -> Bytes {
        self.message.get_or_init(|| make(self)).clone()
    }
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<TopicEvent>>,
    bytes: usize,
    /// Sequence number of the event after the last; the ring holds the ones just before.
    next: u64,
    /// The feeds that read it, each with the slot to mark.
    feeds: SmallVec<[(Arc<Marks>, u32); 1]>,
}

/// One watched path.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) path: Path,
    ring: Mutex<Ring>,
    news: Notify,
}

/// What a cursor meets.
#[derive(Debug)]
pub(crate) enum Read {
    /// Events since the cursor, oldest first; maybe none.
    Events(Vec<Arc<TopicEvent>>),
    /// The ring no longer holds everything since the cursor.
    Lagged,
}

impl Topic {
    /// The position after the newest event.
    pub(crate) fn end(&self) -> u64 {
        self.ring.lock().next
    }

    /// Up to `max` events from `cursor` on, which moves past them.
    pub(crate) fn read(&self, cursor: &mut u64, max: usize) -> Read {
        let ring = self.ring.lock();
        let behind = usize::try_from(ring.next - *cursor).unwrap_or(usize::MAX);
        let Some(start) = ring.events.len().checked_sub(behind) else {
            *cursor = ring.next;
            return Read::Lagged;
        };
        let events: Vec<_> = ring.events.range(start..).take(max).cloned().collect();
        *cursor += events.len() as u64;
        Read::Events(events)
    }

    /// Has a feed told of what comes from now on; the position after the newest event.
    pub(crate) fn attach(&self, marks: &Arc<Marks>, slot: u32) -> u64 {
        let mut ring = self.ring.lock();
        ring.feeds.push((marks.clone(), slot));
        ring.next
    }

    /// Has a feed told no more.
    pub(crate) fn detach(&self, marks: &Arc<Marks>, slot: u32) {
        let mut ring = self.ring.lock();
        let ours = |feed: &(Arc<Marks>, u32)| feed.1 == slot && Arc::ptr_eq(&feed.0, marks);
        if let Some(index) = ring.feeds.iter().position(ours) {
            ring.feeds.swap_remove(index);
        }
    }

    /// Gives the events from `cursor` on up to revision `up_to` to `give`, and moves past them. Says the
    /// revision of the first one that is left, or that some are no longer here.
    pub(crate) fn read_to(
        &self,
        cursor: &mut u64,
        up_to: u64,
        mut give: impl FnMut(&Arc<TopicEvent>),
    ) -> Result<Option<u64>, Lagged> {
        let ring = self.ring.lock();
        let behind = usize::try_from(ring.next - *cursor).unwrap_or(usize::MAX);
        let Some(start) = ring.events.len().checked_sub(behind) else {
            *cursor = ring.next;
            return Err(Lagged);
        };
        for event in ring.events.range(start..) {
            if event.rev > up_to {
                return Ok(Some(event.rev));
            }
            *cursor += 1;
            give(event);
        }
        Ok(None)
    }

    /// Waits until there is something at `cursor`.
    pub(crate) async fn changed(&self, cursor: u64) {
        loop {
            let news = self.news.notified();
            if self.end() > cursor {
                return;
            }
            news.await;
        }
    }

    fn push(&self, event: Arc<TopicEvent>, bytes: usize, limits: RingLimits, woken: &mut Vec<Arc<Marks>>) {
        let mut ring = self.ring.lock();
        ring.next += 1;
        if bytes > limits.bytes_max {
            // Held in no ring: its watchers read the tree again, through admission.
            ring.events.clear();
            ring.bytes = 0;
        } else {
            ring.bytes += bytes;
            ring.events.push_back(event);
            while ring.events.len() > limits.events_max || ring.bytes > limits.bytes_max {
                let Some(oldest) = ring.events.pop_front() else { break };
                ring.bytes -= cost(&oldest.change);
            }
        }
        woken.extend(ring.feeds.iter().filter(|(marks, slot)| marks.mark(*slot)).map(|(marks, _)| marks.clone()));
        drop(ring);
        self.news.notify_waiters();
    }
}

/// Events since a cursor are no longer in the ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lagged;

/// Bytes an event of this change is counted with.
fn cost(change: &Change) -> usize {
    const FIXED: usize = 128;
    FIXED + change.writes.iter().map(|write| write.rows.bytes() + 64).sum::<usize>()
}

/// Bounds of each ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingLimits {
    pub(crate) events_max: usize,
    pub(crate) bytes_max: usize,
}

/// All watched paths of a database.
#[derive(Debug)]
pub(crate) struct Hub {
    /// By encoded path, so that the watched paths below a change are one range.
    topics: RwLock<BTreeMap<Vec<u8>, Arc<Topic>>>,
    rev: watch::Sender<u64>,
    /// Feeds that were marked and are not told yet: they are when the revision has moved.
    woken: Mutex<Vec<Arc<Marks>>>,
}

impl Hub {
    pub(crate) fn new(rev: u64) -> Self {
        Self { topics: RwLock::default(), rev: watch::Sender::new(rev), woken: Mutex::default() }
    }

    /// The topic of `path`; the caller keeps the `Arc` while it watches.
    pub(crate) fn topic(&self, path: &Path) -> Arc<Topic> {
        let mut topics = self.topics.write();
        let topic = topics
            .entry(path.encode())
            .or_insert_with(|| Arc::new(Topic { path: path.clone(), ring: Mutex::default(), news: Notify::new() }));
        topic.clone()
    }

    /// Gives a topic back; the last watcher's return removes it.
    pub(crate) fn release(&self, topic: Arc<Topic>) {
        let key = topic.path.encode();
        let mut topics = self.topics.write();
        drop(topic);
        if topics.get(&key).is_some_and(|topic| Arc::strong_count(topic) == 1) {
            topics.remove(&key);
        }
    }

    /// Hands a committed change to every watched path it touches; [`Hub::advance`] comes after it, for
    /// one change or for several.
    pub(crate) fn publish(&self, rev: u64, change: &Arc<Change>, limits: RingLimits) {
        let bytes = cost(change);
        let mut woken = self.woken.lock();
        self.for_touched(change, |topic| {
            topic.push(Arc::new(TopicEvent::new(rev, change.clone())), bytes, limits, &mut woken);
        });
    }

    /// Moves the revision that `at_least` waits for, and tells the feeds: what is published up to it is
    /// in the rings, and marked.
    pub(crate) fn advance(&self, rev: u64) {
        self.rev.send_if_modified(|current| {
            let newer = rev > *current;
            *current = rev.max(*current);
            newer
        });
        self.woken.lock().drain(..).for_each(|marks| marks.tell());
    }

    /// The revision up to which everything is published.
    pub(crate) fn published(&self) -> u64 {
        *self.rev.borrow()
    }

    /// Follows the committed revision.
    pub(crate) fn revisions(&self) -> watch::Receiver<u64> {
        self.rev.subscribe()
    }

    /// Watched paths.
    pub(crate) fn topic_count(&self) -> usize {
        self.topics.read().len()
    }

    /// Calls `visit` once for each topic at, above or below a written path.
    fn for_touched(&self, change: &Change, mut visit: impl FnMut(&Arc<Topic>)) {
        let topics = self.topics.read();
        if topics.is_empty() {
            return;
        }
        // Writes do not overlap, so the ranges below them do not either; ancestors may repeat.
        let mut above: BTreeMap<Vec<u8>, &Arc<Topic>> = BTreeMap::new();
        for write in &change.writes {
            let path = write.location.path();
            let encoded = path.encode();
            let end = prefix_end(&encoded);
            let upper = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(&end) };
            let below = (Bound::Excluded(&encoded), upper);
            for (_, topic) in topics.range::<Vec<u8>, _>(below) {
                visit(topic);
            }
            let mut node = Some(path.clone());
            while let Some(path) = node {
                let key = path.encode();
                if let Some(topic) = topics.get(&key) {
                    above.insert(key, topic);
                }
                node = path.parent();
            }
        }
        above.into_values().for_each(visit);
    }
}
