//! Who appends to a stream. Clones append to the same stream, one after the other.

use std::sync::Arc;

use super::chunk::NewRecord;
use super::head::Outcome;
use super::live::Hold;
use super::queue::{GATHER_BYTES, Queue, stopped};
use super::room;
use crate::config::Shared;
use crate::error::{Error, ErrorKind, Result};

#[derive(Debug)]
struct Inner {
    stream: Hold,
    queue: Arc<Queue>,
    config: Shared,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stream.leave();
    }
}

/// The right to append to one open stream. When the last clone is dropped, what was handed over is still
/// committed, and the stream stays open.
#[derive(Clone, Debug)]
pub struct Appender(Arc<Inner>);

impl Appender {
    pub(crate) fn join(stream: Hold, queue: Arc<Queue>, config: Shared, alone: bool) -> Result<Self> {
        stream.join(alone)?;
        Ok(Self(Arc::new(Inner { stream, queue, config })))
    }

    /// The stream's path.
    pub fn path(&self) -> &standpipe_tree::Path {
        &self.0.stream.path
    }

    /// The number of the next record that is handed over.
    pub fn next_seq(&self) -> u64 {
        self.0.stream.handed_over()
    }

    /// Hands records over, in this order, to be committed within a few milliseconds ([`Appender::flush`] tells when they
    /// are). Waits while too much waits already, which is how a producer is held to the speed of the disk, and as
    /// long as nothing can be stored at all. Calls are served in the order they are made.
    ///
    /// # Errors
    /// `TooLarge` for a record beyond `stream_record_bytes_max`, `Conflict` once the stream has ended or was
    /// removed, `Unavailable` when the node goes down. Then none of the records is taken.
    pub async fn append(&self, records: Vec<NewRecord>) -> Result<()> {
        let Inner { stream, queue, config } = &*self.0;
        let (share, record_bytes_max) = {
            let config = config.load();
            (stream.lives().room.share(), config.stream_record_bytes_max)
        };
        if records.is_empty() {
            return Ok(());
        }
        if let Some(large) = records.iter().find(|record| record.bytes.len() > record_bytes_max) {
            let message = format!(
                "a record of {} bytes is too large, stream_record_bytes_max is {record_bytes_max}; split it",
                large.bytes.len()
            );
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let bytes = records.iter().map(NewRecord::cost).sum::<usize>();
        let cost = bytes.min(share);
        let own = room::acquire(&stream.room, cost).await.ok_or_else(stopped)?;
        let all = stream.lives().room.reserve(cost).await.ok_or_else(stopped)?;
        if stream.push(&records, cost, config.load().clock.now_ms())? {
            queue.tell(stream.clone());
        } else if stream.lives().room.taken() >= GATHER_BYTES {
            queue.hurry();
        }
        own.forget();
        all.forget();
        Ok(())
    }

    /// Waits until all that has been handed over is committed. Says the number of the next record.
    ///
    /// # Errors
    /// `Conflict` where the stream has been removed, `Unavailable` when the node goes down.
    pub async fn flush(&self) -> Result<u64> {
        let target = self.0.stream.handed_over();
        self.committed(|next_seq, _| next_seq >= target).await
    }

    /// Ends the stream after all that has been handed over, and waits until that is committed.
    ///
    /// # Errors
    /// `Conflict` where it has ended before, `Unavailable` when the node goes down.
    pub async fn end(&self, outcome: Outcome) -> Result<()> {
        let Inner { stream, queue, .. } = &*self.0;
        if stream.end(outcome)? {
            queue.tell(stream.clone());
        }
        self.committed(|_, ended| ended).await.map(|_next_seq| ())
    }

    async fn committed(&self, is_done: impl Fn(u64, bool) -> bool) -> Result<u64> {
        let stream = &self.0.stream;
        loop {
            let news = stream.news.notified();
            let (next_seq, ended) = stream.committed();
            if is_done(next_seq, ended.is_some()) {
                return Ok(next_seq);
            }
            if ended.is_some() {
                let message = format!("the stream {} was removed", stream.path);
                return Err(Error::new(ErrorKind::Conflict, message));
            }
            if stream.lives().is_stopped() {
                return Err(stopped());
            }
            news.await;
        }
    }
}
