//! Watching: subscribe, snapshot, skip. A [`Watch`] takes its cursor first; the caller then opens
//! a snapshot, and everything at or below the snapshot's revision is skipped. So there is no
//! window in which a change could be lost or seen twice, and no stitching code.

use std::sync::Arc;

use standpipe_tree::Path;

use crate::database::Database;
use crate::error::Result;
use crate::hub::{Read, Topic, TopicEvent};
use crate::record::{Effect, Record};
use crate::store::Snapshot;
use crate::store::keys::{change_key, change_rev};

/// A cursor on the changes of one path.
#[derive(Debug)]
pub struct Watch {
    database: Arc<Database>,
    /// `Some` until dropped.
    topic: Option<Arc<Topic>>,
    cursor: u64,
    seen_rev: u64,
}

/// What a watch met.
#[derive(Debug)]
pub enum WatchRead {
    /// Changes after the last ones, in order; maybe none.
    Events(Vec<Arc<TopicEvent>>),
    /// Some were missed: read a snapshot again and go on from there.
    Lagged,
}

/// How a watch continues from a revision that a client has seen.
#[derive(Debug)]
pub enum Resume {
    /// Exactly the changes in between, in order.
    Events(Vec<Arc<TopicEvent>>),
    /// They are not all here any more; the client must start again from the snapshot.
    Reset(ResetReason),
}

/// Why a client must start again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetReason {
    /// The changes after its revision have left the kept tail.
    Gone,
    /// Its revision lies in the future: it comes from another history, such as a restored backup.
    Future,
    /// It read too slowly.
    Lagged,
}

impl ResetReason {
    /// The stable name shown to clients.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Future => "future",
            Self::Lagged => "lagged",
        }
    }
}

impl Watch {
    pub(crate) fn new(database: Arc<Database>, path: &Path) -> Self {
        let topic = database.hub().topic(path);
        let cursor = topic.end();
        Self { database, topic: Some(topic), cursor, seen_rev: 0 }
    }

    fn topic(&self) -> &Arc<Topic> {
        self.topic.as_ref().expect("taken only by drop")
    }

    /// The watched path.
    pub fn path(&self) -> &Path {
        &self.topic().path
    }

    /// The database that is watched.
    pub fn database(&self) -> &Arc<Database> {
        &self.database
    }

    /// Skips what a snapshot of `rev` already shows.
    pub fn start_after(&mut self, rev: u64) {
        self.seen_rev = self.seen_rev.max(rev);
    }

    /// Waits until there may be something to read.
    pub async fn changed(&self) {
        self.topic().changed(self.cursor).await;
    }

    /// Reads up to `max` changes without waiting.
    pub fn read(&mut self, max: usize) -> WatchRead {
        let mut cursor = self.cursor;
        let read = self.topic().read(&mut cursor, max);
        self.cursor = cursor;
        match read {
            Read::Lagged => WatchRead::Lagged,
            Read::Events(mut events) => {
                events.retain(|event| event.rev > self.seen_rev);
                WatchRead::Events(events)
            }
        }
    }
}

/// The changes of `path` after revision `since` up to `snapshot`, from the kept tail; more than
/// `bytes_max` of them are a reset, because a snapshot is then the cheaper answer. May take as
/// long as reading the whole tail takes. Continue with [`Watch::start_after`] the snapshot's
/// revision.
pub fn resume(snapshot: &Snapshot, path: &Path, since: u64, bytes_max: usize) -> Result<Resume> {
    let rev = snapshot.rev();
    if since > rev {
        return Ok(Resume::Reset(ResetReason::Future));
    }
    let mut next = since + 1;
    let mut bytes = 0;
    let mut events = Vec::new();
    while next <= rev {
        let Some(record) = record_from(snapshot, next)? else {
            return Ok(Resume::Reset(ResetReason::Gone));
        };
        for (rev, transaction) in (record.first_rev..).zip(&record.transactions) {
            let Effect::Change(change) = &transaction.effect else { continue };
            if rev >= next && change.touches(path) {
                bytes += change.writes.iter().map(|write| write.rows.bytes()).sum::<usize>();
                events.push(Arc::new(TopicEvent::new(rev, change.clone())));
            }
        }
        if bytes > bytes_max {
            return Ok(Resume::Reset(ResetReason::Gone));
        }
        next = record.last_rev() + 1;
    }
    Ok(Resume::Events(events))
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(topic) = self.topic.take() {
            self.database.hub().release(topic);
        }
    }
}

/// The record that holds revision `rev`, if the tail still has it.
fn record_from(snapshot: &Snapshot, rev: u64) -> Result<Option<Record>> {
    let changes = snapshot.store().changes;
    let found = changes.get_greater_than_or_equal_to(snapshot.txn(), &change_key(rev))?;
    let record = found.and_then(|(key, bytes)| {
        let record = Record::decode(bytes)?;
        (change_rev(key) == Some(record.last_rev()) && record.first_rev <= rev).then_some(record)
    });
    Ok(record)
}
