//! What waits for the streams' writer: streams with something to commit, and commands. What streams bring is bounded by
//! `Room`, commands by their number.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use standpipe_tree::Path;
use tokio::sync::oneshot;

use super::live::Hold;
use crate::error::{Error, Result};

/// Why a full queue says to come back: a commit takes about a millisecond.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Bytes that are worth a commit of their own: what comes meanwhile is the next one's.
pub(crate) const GATHER_BYTES: usize = 1 << 20;
/// How long a commit waits for company, where one has been made just before.
const GATHER: Duration = Duration::from_millis(3);

/// Small records: each put, or removed where there is none.
pub(crate) type Records = Vec<(String, Option<Vec<u8>>)>;

/// Something that is done in one commit, with those who wait for it.
#[derive(Debug)]
pub(crate) enum Command {
    Create(Path),
    Put(Records, usize),
    Remove(Vec<Path>),
}

/// A command, and who waits for it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) command: Command,
    pub(crate) reply: oneshot::Sender<Result<()>>,
}

#[derive(Debug, Default)]
struct Waiting {
    streams: VecDeque<Hold>,
    commands: VecDeque<Asked>,
    closed: bool,
    gone: bool,
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
    Work(VecDeque<Hold>, VecDeque<Asked>),
    Closed,
}

impl Queue {
    pub(crate) fn push(&self, command: Command, commands_max: usize) -> Result<oneshot::Receiver<Result<()>>> {
        let (reply, answer) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(stopped());
        }
        if waiting.commands.len() >= commands_max {
            return Err(Error::overloaded("too many changes of streams are waiting", RETRY_AFTER));
        }
        waiting.commands.push_back(Asked { command, reply });
        drop(waiting);
        self.ready.notify_one();
        Ok(answer)
    }

    /// A stream has something to commit.
    pub(crate) fn tell(&self, stream: Hold) {
        let mut waiting = self.waiting.lock();
        if !waiting.gone {
            waiting.streams.push_back(stream);
            drop(waiting);
            self.ready.notify_one();
        }
    }

    /// There is enough for a commit.
    pub(crate) fn hurry(&self) {
        self.ready.notify_one();
    }

    /// What was taken and does not fit into this commit, back to the front.
    pub(crate) fn put_back(&self, streams: VecDeque<Hold>) {
        let mut waiting = self.waiting.lock();
        streams.into_iter().rev().for_each(|stream| waiting.streams.push_front(stream));
    }

    /// Takes what waits; waits for it at most `patience`. After `last`, the moment of the last commit, waits a little for
    /// more, until `enough`.
    pub(crate) fn take(&self, patience: Duration, last: Instant, enough: impl Fn() -> bool) -> Taken {
        let deadline = Instant::now() + patience;
        let mut waiting = self.waiting.lock();
        while waiting.streams.is_empty() && waiting.commands.is_empty() {
            if waiting.closed {
                return Taken::Closed;
            }
            if self.ready.wait_until(&mut waiting, deadline).timed_out() {
                break;
            }
        }
        while !waiting.closed && !enough() && !self.ready.wait_until(&mut waiting, last + GATHER).timed_out() {}
        Taken::Work(std::mem::take(&mut waiting.streams), std::mem::take(&mut waiting.commands))
    }

    /// Takes the commands that wait, after `pause` unless the queue is closed.
    pub(crate) fn take_commands(&self, pause: Duration) -> (VecDeque<Asked>, bool) {
        let deadline = Instant::now() + pause;
        let mut waiting = self.waiting.lock();
        while !waiting.closed && !self.ready.wait_until(&mut waiting, deadline).timed_out() {}
        (std::mem::take(&mut waiting.commands), waiting.closed)
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
        let (streams, commands) = (std::mem::take(&mut waiting.streams), std::mem::take(&mut waiting.commands));
        drop(waiting);
        for asked in commands {
            let _left = asked.reply.send(Err(stopped()));
        }
        // A stream that is dropped may be the last of it.
        drop(streams);
    }
}

pub(crate) fn stopped() -> Error {
    Error::unavailable("the streams have stopped; the node is going down")
}
