//! The writer's one bounded queue: by count and by bytes. Full is an answer, not a wait.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::identity::Identity;
use crate::intent::{Committed, Intent, Op};
use crate::lease::LeaseId;

/// Why a full queue says to come back: a group takes about a millisecond.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// An intent that waits for the writer. From here on it belongs to the writer: a caller that
/// leaves can't half-cancel it.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) intent: Intent,
    pub(crate) bytes: usize,
    pub(crate) deadline: Instant,
    pub(crate) reply: oneshot::Sender<Result<Committed>>,
}

impl Queued {
    /// A release: it waits for as long as it takes, and nobody waits for it.
    pub(crate) fn release(lease: LeaseId, bytes: usize) -> Self {
        let intent = Intent::new(Op::Release(lease), Identity::Admin);
        Self { intent, bytes, deadline: Instant::now(), reply: oneshot::channel().0 }
    }

    pub(crate) fn is_release(&self) -> bool {
        matches!(self.intent.op, Op::Release(_))
    }

    /// Did it wait too long?
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        self.deadline <= now && !self.is_release()
    }
}

#[derive(Debug, Default)]
struct Waiting {
    queue: VecDeque<Queued>,
    bytes: usize,
    closed: bool,
    gone: bool,
    woken: bool,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    ready: Condvar,
}

/// What the writer found.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Intents to commit; empty after a wake-up or a time-out.
    Batch(Vec<Queued>),
    /// Closed, and nothing is left.
    Closed,
}

impl Queue {
    /// Queues an intent, or refuses it at once where more intents or bytes would wait than the bounds say.
    pub(crate) fn push(&self, queued: Queued, (intents_max, bytes_max): (usize, usize)) -> Result<()> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(Error::unavailable("the database is closing"));
        }
        let fits = waiting.queue.is_empty() || waiting.bytes + queued.bytes <= bytes_max;
        if waiting.queue.len() >= intents_max || !fits {
            return Err(Error::overloaded("too many writes are waiting", RETRY_AFTER));
        }
        waiting.bytes += queued.bytes;
        waiting.queue.push_back(queued);
        drop(waiting);
        self.ready.notify_one();
        Ok(())
    }

    /// Queues the release of a lease. It is never refused for want of room: there are at most as many
    /// as there were leases. Nor because the queue is closed: the last write of a lease may be in the
    /// writer's hands still. Once the writer is gone, it is done when the database is opened again.
    pub(crate) fn release(&self, lease: LeaseId, bytes: usize) {
        let queued = Queued::release(lease, bytes);
        let mut waiting = self.waiting.lock();
        if waiting.gone {
            return;
        }
        waiting.bytes += queued.bytes;
        waiting.queue.push_back(queued);
        drop(waiting);
        self.ready.notify_one();
    }

    /// Takes what waits, up to the group's limits; waits for it at most `patience`.
    pub(crate) fn take(&self, intents_max: usize, bytes_max: usize, patience: Option<Duration>) -> Taken {
        let deadline = patience.map(|patience| Instant::now() + patience);
        let mut waiting = self.waiting.lock();
        while waiting.queue.is_empty() && !waiting.woken {
            if waiting.closed {
                return Taken::Closed;
            }
            match deadline {
                None => self.ready.wait(&mut waiting),
                Some(deadline) => {
                    if self.ready.wait_until(&mut waiting, deadline).timed_out() {
                        break;
                    }
                }
            }
        }
        waiting.woken = false;
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(next) = waiting.queue.front() {
            if batch.len() == intents_max || (!batch.is_empty() && bytes + next.bytes > bytes_max) {
                break;
            }
            bytes += next.bytes;
            batch.extend(waiting.queue.pop_front());
        }
        waiting.bytes -= bytes;
        Taken::Batch(batch)
    }

    /// Lets a waiting `take` return, with nothing if nothing waits.
    pub(crate) fn wake(&self) {
        self.waiting.lock().woken = true;
        self.ready.notify_one();
    }

    /// Refuses what comes from now on; what waits is still taken.
    pub(crate) fn close(&self) {
        self.waiting.lock().closed = true;
        self.ready.notify_one();
    }

    /// Refuses what comes and what waits: the writer is gone.
    pub(crate) fn abandon(&self) {
        let mut waiting = self.waiting.lock();
        (waiting.closed, waiting.gone) = (true, true);
        waiting.bytes = 0;
        let queue = std::mem::take(&mut waiting.queue);
        // A lease that is dropped with its write looks into the queue.
        drop(waiting);
        for queued in queue {
            let _left = queued.reply.send(Err(Error::unavailable("the database has stopped")));
        }
    }

    /// Intents and bytes that wait.
    pub(crate) fn depth(&self) -> (usize, usize) {
        let waiting = self.waiting.lock();
        (waiting.queue.len(), waiting.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn queued(bytes: usize) -> Queued {
        Queued {
            intent: Intent::new(Op::Rules(String::new()), Identity::Admin),
            bytes,
            deadline: Instant::now(),
            reply: oneshot::channel().0,
        }
    }

    fn taken(queue: &Queue, intents: usize, bytes: usize) -> Option<usize> {
        match queue.take(intents, bytes, Some(Duration::ZERO)) {
            Taken::Batch(batch) => Some(batch.len()),
            Taken::Closed => None,
        }
    }

    #[test]
    fn the_queue_is_bounded_by_count_and_bytes_and_groups_are_too() {
        let (queue, bounds) = (Queue::default(), (4, 100));
        queue.push(queued(500), bounds).unwrap(); // alone, anything the limits of requests let through
        assert_eq!(queue.push(queued(1), bounds).unwrap_err().kind(), ErrorKind::Overloaded);
        assert_eq!(taken(&queue, 9, 9), Some(1));
        for _ in 0..4 {
            queue.push(queued(20), bounds).unwrap();
        }
        assert_eq!(queue.push(queued(1), bounds).unwrap_err().kind(), ErrorKind::Overloaded);
        assert_eq!(queue.depth(), (4, 80));
        assert_eq!(taken(&queue, 9, 45), Some(2));
        assert_eq!(taken(&queue, 1, 45), Some(1));
        queue.close();
        assert_eq!(queue.push(queued(1), bounds).unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(taken(&queue, 9, 99), Some(1));
        assert_eq!(taken(&queue, 9, 99), None);
        let release = || queue.release(LeaseId::new(1, 2), 500);
        (0..9).for_each(|_| release());
        assert_eq!(taken(&queue, 99, 9_999), Some(9), "full and closed, a queue takes releases");
        release();
        queue.abandon();
        release();
        assert_eq!(taken(&queue, 9, 9), None);
    }
}
