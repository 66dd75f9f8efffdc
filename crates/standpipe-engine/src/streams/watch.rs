//! Who reads a stream, from some record on and to its end. A watcher is a position: what it reads is in the ring that
//! all watchers of the stream share, or in the store, and what one has read back from there others find.

use std::ops::Range;
use std::sync::Arc;

use super::chunk::Chunk;
use super::head::Outcome;
use super::live::{Hold, Met, RingLimits};
use super::store::StreamStore;
use crate::config::Shared;
use crate::error::Result;

/// Where to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// With the first record there ever was.
    Start,
    /// With this one.
    Seq(u64),
    /// With the record that holds this byte of the output, which is all records but notes: for those who count bytes.
    Offset(u64),
    /// With the last so many that there are.
    Tail(u64),
    /// With the next that comes.
    End,
}

/// What a watcher reads.
#[derive(Clone, Debug)]
pub enum StreamRead {
    /// Records: of this chunk those at these positions, which are all but for the first chunk.
    Chunk(Arc<Chunk>, Range<usize>),
    /// What was asked for is gone; the next record is this one.
    Gap {
        /// Its number.
        first_left: u64,
    },
    /// There is nothing behind this. A stream that was removed while it was read ends with the state `removed`.
    Ended(Outcome),
    /// Nothing now: wait for [`StreamWatch::changed`].
    Nothing,
    /// It is not in memory: call [`StreamWatch::catch_up`] where reading from disk is allowed.
    Behind,
}

/// A watcher of one stream.
#[derive(Debug)]
pub struct StreamWatch {
    stream: Hold,
    store: Arc<StreamStore>,
    config: Shared,
    position: u64,
}

impl Drop for StreamWatch {
    fn drop(&mut self) {
        self.stream.detach(&self.stream.lives().ring_bytes);
    }
}

impl StreamWatch {
    /// A watcher of a stream whose first kept record is `first_seq`; `seq_at` says which record an offset means.
    pub(crate) fn new(
        stream: Hold,
        store: Arc<StreamStore>,
        config: Shared,
        from: From,
        (first_seq, seq_at): (u64, u64),
    ) -> Self {
        let committed = stream.attach();
        let position = match from {
            From::Start => 0,
            From::Seq(seq) => seq,
            From::Offset(_) => seq_at,
            From::Tail(records) => committed.saturating_sub(records).max(first_seq),
            From::End => committed,
        };
        Self { stream, store, config, position }
    }

    /// The stream's path.
    pub fn path(&self) -> &standpipe_tree::Path {
        &self.stream.path
    }

    /// The number of the record that is read next.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Reads what is in memory, a chunk at a time. Never waits.
    pub fn read(&mut self) -> StreamRead {
        match self.stream.read(self.position) {
            Met::Chunk(chunk) => self.pass(chunk),
            Met::Ended(outcome) => StreamRead::Ended(outcome),
            Met::Nothing => StreamRead::Nothing,
            Met::Behind => match self.stream.read_back(self.position) {
                Some(chunk) => self.pass(chunk),
                None => StreamRead::Behind,
            },
        }
    }

    /// Reads from the store, until the position is in memory or about `bytes_max` have been read: chunks, and gaps
    /// before them. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// `Unavailable` while the store grows, `Internal` where it is damaged.
    pub fn catch_up(&mut self, bytes_max: usize) -> Result<Vec<StreamRead>> {
        let (mut reads, mut bytes) = (Vec::new(), 0);
        if !matches!(self.stream.read(self.position), Met::Behind) {
            return Ok(reads);
        }
        let read = self.store.env().read_soon()?;
        let row = self.store.head(&read.txn, &self.stream.path)?.filter(|row| row.id == self.stream.id);
        let first_left = row.map_or_else(|| self.stream.committed().0, |row| row.head.first_seq);
        if self.position < first_left {
            self.position = first_left;
            reads.push(StreamRead::Gap { first_left });
        }
        while bytes < bytes_max && matches!(self.stream.read(self.position), Met::Behind) {
            let chunk = match self.stream.read_back(self.position) {
                Some(chunk) => chunk,
                None => match self.store.chunk(&read.txn, self.stream.id, self.position)? {
                    Some(chunk) => {
                        let limits = RingLimits::of(&self.config.load());
                        self.stream.keep_read(chunk, limits, &self.stream.lives().ring_bytes)
                    }
                    None => break,
                },
            };
            bytes += chunk.as_bytes().len();
            reads.push(self.pass(chunk));
        }
        Ok(reads)
    }

    fn pass(&mut self, chunk: Arc<Chunk>) -> StreamRead {
        let range = chunk.from(self.position);
        self.position = chunk.next_seq();
        StreamRead::Chunk(chunk, range)
    }

    /// Waits until there is something to read, be it the end.
    pub async fn changed(&mut self) {
        loop {
            let news = self.stream.news.notified();
            if self.stream.has_news(self.position) {
                return;
            }
            news.await;
        }
    }
}
