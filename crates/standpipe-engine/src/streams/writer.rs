//! The writer of streams: one thread that takes what waits, commits it, shows it and answers, in that order.
//! Durable, then visible, then acknowledged.
//!
//! What can't be committed now (a full disk, a full map) waits here and is tried again, so that a producer is held
//! up and nothing of it is lost; commands are refused meanwhile. A failed sync stops the node, as with the
//! tree's writer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use standpipe_tree::Path;

use super::live::{Hold, Lives, Part, RingLimits};
use super::metrics::StreamMetrics;
use super::queue::{Asked, Command, GATHER_BYTES, Queue, Taken, stopped};
use super::store::{Keep, StreamStore};
use crate::config::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::store::{CommitError, Unsynced};
use crate::writer::OnFatal;

/// Bytes of one commit, about.
const GROUP_BYTES: usize = 4 << 20;
/// Bytes of one stream in one commit, about, so that others come in, too.
const PART_BYTES: usize = 1 << 20;
/// When a commit is tried again that was refused.
const OWED_RETRY: Duration = Duration::from_secs(1);
/// How often streams that nobody appends to are looked at for what has become too old.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Streams looked at in one commit, for that.
const SWEEP_STREAMS: usize = 1_000;
/// Chunks of removed streams deleted in one commit: of others, and when there is nothing else to do.
const CLEAR_ROWS: (usize, usize) = (64, 512);

/// What goes into one commit.
#[derive(Default)]
struct Batch {
    parts: Vec<(Hold, Part)>,
    commands: VecDeque<Asked>,
}

/// What a commit did: to each command, and whether each part's stream is still there.
struct Done {
    did: Vec<Did>,
    stored: Vec<bool>,
}

/// What a commit did to a command.
enum Did {
    Done,
    Refused(Error),
    Removed(Vec<(Path, u64)>),
}

/// Everything the thread owns.
pub(crate) struct Writer {
    pub(crate) store: Arc<StreamStore>,
    pub(crate) lives: Arc<Lives>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) metrics: Arc<StreamMetrics>,
    pub(crate) config: Shared,
    pub(crate) on_fatal: OnFatal,
    unsynced: Unsynced,
    last_commit: Instant,
    next_sweep: Instant,
    sweep_after: Option<Path>,
    /// Are there chunks of removed streams?
    clearing: bool,
}

/// Tells everybody when the writer's thread ends, and the world when it ends by a panic.
struct EndGuard(Arc<Queue>, Arc<Lives>, OnFatal);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.1.stop();
        self.0.abandon();
        if std::thread::panicking() {
            (self.2)("the writer of streams panicked; what was committed is safe, restart the node");
        }
    }
}

impl Writer {
    pub(crate) fn new(
        store: Arc<StreamStore>,
        lives: Arc<Lives>,
        queue: Arc<Queue>,
        metrics: Arc<StreamMetrics>,
        config: Shared,
        on_fatal: OnFatal,
    ) -> Self {
        let now = Instant::now();
        Self {
            store,
            lives,
            queue,
            metrics,
            config,
            on_fatal,
            unsynced: Unsynced::default(),
            last_commit: now,
            next_sweep: now + SWEEP_EVERY,
            sweep_after: None,
            // An earlier boot may have left some.
            clearing: true,
        }
    }

    /// The thread's body: returns when the queue is closed and empty.
    pub(crate) fn run(mut self) {
        let _guard = EndGuard(self.queue.clone(), self.lives.clone(), self.on_fatal.clone());
        let result = self.work().and_then(|()| self.unsynced.sync(self.store.env()));
        if let Err(error) = result {
            tracing::error!(?error, dir = %self.store.env().dir().display(), "the streams stop");
            (self.on_fatal)(error.message());
        }
    }

    fn work(&mut self) -> Result<()> {
        let (queue, lives) = (self.queue.clone(), self.lives.clone());
        loop {
            match queue.take(self.patience(), self.last_commit, || lives.room.taken() >= GATHER_BYTES) {
                Taken::Closed => return Ok(()),
                Taken::Work(streams, commands) if streams.is_empty() && commands.is_empty() => self.tidy()?,
                Taken::Work(streams, commands) => {
                    let parts = self.gather(streams);
                    self.commit(Batch { parts, commands })?;
                }
            }
            let durability = self.config.load().durability;
            self.unsynced.sync_when_due(self.store.env(), durability)?;
        }
    }

    /// How long to wait for work before looking after other things.
    fn patience(&self) -> Duration {
        if self.clearing {
            return Duration::ZERO;
        }
        let sweep = self.next_sweep.saturating_duration_since(Instant::now());
        match self.config.load().durability {
            crate::Durability::Interval(every) => every.min(sweep),
            crate::Durability::Commit => sweep,
        }
    }

    /// A part of each stream, up to what one commit takes; the rest is put back.
    fn gather(&self, mut streams: VecDeque<Hold>) -> Vec<(Hold, Part)> {
        let (mut parts, mut bytes) = (Vec::with_capacity(streams.len()), 0);
        let mut more = VecDeque::new();
        while bytes < GROUP_BYTES
            && let Some(stream) = streams.pop_front()
        {
            let part = stream.take(PART_BYTES);
            bytes += part.bytes;
            if part.more {
                more.push_back(stream.clone());
            }
            parts.push((stream, part));
        }
        streams.extend(more);
        if !streams.is_empty() {
            self.queue.put_back(streams);
        }
        parts
    }

    /// Commits a batch, however long that takes, and answers.
    fn commit(&mut self, mut batch: Batch) -> Result<()> {
        let (mut warned, mut turned_over) = (false, false);
        loop {
            let error = match self.try_commit(&batch, self.keep(), CLEAR_ROWS.0) {
                Ok(done) => {
                    self.finish(batch, done);
                    self.metrics.set_held_up(false);
                    return Ok(());
                }
                Err(CommitError::MapFull) => match self.grow(false) {
                    Ok(()) => continue,
                    Err(_) if !std::mem::replace(&mut turned_over, true) => {
                        self.turn_over()?;
                        continue;
                    }
                    Err(error) => error,
                },
                Err(CommitError::Refused(error)) => error,
                Err(CommitError::Fatal(error)) => return Err(error),
            };
            self.refuse(&mut batch, &error)?;
            if batch.parts.is_empty() {
                return Ok(());
            }
            self.metrics.set_held_up(true);
            if !std::mem::replace(&mut warned, true) {
                tracing::warn!(?error, dir = %self.store.env().dir().display(), "output of streams waits: it can't be stored now");
            }
            let (commands, closed) = self.queue.take_commands(OWED_RETRY);
            (batch.commands, turned_over) = (commands, false);
            if closed {
                return self.give_up(batch, &error);
            }
        }
    }

    /// One last try, for the node stops.
    fn give_up(&mut self, batch: Batch, error: &Error) -> Result<()> {
        match self.try_commit(&batch, self.keep(), 0) {
            Ok(done) => self.finish(batch, done),
            Err(CommitError::Fatal(error)) => return Err(error),
            Err(_) => {
                let bytes: usize = batch.parts.iter().map(|(_, part)| part.bytes).sum();
                tracing::warn!(?error, bytes, "the node stops, and the last output of streams could not be stored");
                for asked in batch.commands {
                    let _left = asked.reply.send(Err(stopped()));
                }
                self.queue.abandon();
            }
        }
        Ok(())
    }

    /// Answers commands that can't be done now. Those that only remove have a reserve, and so are tried alone.
    fn refuse(&mut self, batch: &mut Batch, error: &Error) -> Result<()> {
        let mut turned_over = false;
        for asked in std::mem::take(&mut batch.commands) {
            if let Command::Put(_, cost) = asked.command {
                self.lives.room.give_back(cost);
            }
            if !matches!(asked.command, Command::Remove(_)) {
                let _left = asked.reply.send(Err(error.clone()));
                continue;
            }
            let alone = Batch { parts: Vec::new(), commands: VecDeque::from([asked]) };
            loop {
                match self.try_commit(&alone, self.keep(), CLEAR_ROWS.0) {
                    Ok(done) => {
                        self.finish(alone, done);
                        break;
                    }
                    Err(CommitError::MapFull) if self.grow(true).is_ok() => {}
                    Err(CommitError::MapFull) if !turned_over => {
                        turned_over = true;
                        self.turn_over()?;
                    }
                    Err(CommitError::Fatal(error)) => return Err(error),
                    Err(_) => {
                        for asked in alone.commands {
                            let _left = asked.reply.send(Err(error.clone()));
                        }
                        break;
                    }
                }
            }
        }
        // What was removed is room for the rest.
        while self.clearing && self.clear(CLEAR_ROWS.1, true)? {}
        Ok(())
    }

    fn keep(&self) -> Keep {
        let config = self.config.load();
        let age_ms = u64::try_from(config.stream_age_max.as_millis()).unwrap_or(u64::MAX);
        Keep { bytes_max: config.stream_bytes_max, since_ms: config.clock.now_ms().saturating_sub(age_ms) }
    }

    fn grow(&self, only_removes: bool) -> Result<()> {
        self.store.env().grow(self.config.load().map_bytes_max, only_removes)
    }

    /// One transaction with all of a batch.
    fn try_commit(&mut self, batch: &Batch, keep: Keep, clear_rows: usize) -> Result<Done, CommitError> {
        let started = Instant::now();
        let store = self.store.clone();
        let mut write = store.env().write()?;
        let now_ms = self.config.load().clock.now_ms();
        let mut did = Vec::with_capacity(batch.commands.len());
        for asked in batch.commands.iter().filter(|asked| matches!(asked.command, Command::Create(_))) {
            did.push(self.command(&mut write.txn, &asked.command, now_ms)?);
        }
        let mut stored = Vec::with_capacity(batch.parts.len());
        for (stream, part) in &batch.parts {
            let end = part.ending.as_ref().map(|outcome| (outcome, now_ms));
            stored.push(store.append(&mut write.txn, (&stream.path, stream.id), &part.chunks, end, keep)?);
        }
        for asked in batch.commands.iter().filter(|asked| !matches!(asked.command, Command::Create(_))) {
            did.push(self.command(&mut write.txn, &asked.command, now_ms)?);
        }
        if self.clearing && clear_rows > 0 {
            self.clearing = store.clear_dropped(&mut write.txn, clear_rows)?;
        }
        fault::point("streams_before_commit");
        write.commit().map_err(|error| store.env().commit_failed(error))?;
        fault::point("streams_after_commit");
        self.committed(&batch.parts, started);
        Ok(Done { did, stored })
    }

    fn command(&self, txn: &mut heed::RwTxn, command: &Command, now_ms: u64) -> Result<Did, CommitError> {
        Ok(match command {
            Command::Create(path) if self.store.create(txn, path, now_ms)? => Did::Done,
            Command::Create(path) => {
                let message = format!("there is a stream {path} already; remove it, or take another path");
                Did::Refused(Error::new(ErrorKind::Conflict, message))
            }
            Command::Put(records, _) => {
                for (key, value) in records {
                    self.store.put_record(txn, key, value.as_deref())?;
                }
                Did::Done
            }
            Command::Remove(paths) => {
                let mut removed = Vec::new();
                for path in paths {
                    removed.extend(self.store.remove(txn, path)?.map(|id| (path.clone(), id)));
                }
                Did::Removed(removed)
            }
        })
    }

    fn committed(&mut self, parts: &[(Hold, Part)], started: Instant) {
        self.unsynced.committed(self.config.load().durability);
        self.last_commit = Instant::now();
        let (mut records, mut bytes) = (0, 0);
        for chunk in parts.iter().flat_map(|(_, part)| &part.chunks) {
            records += chunk.len() as u64;
            bytes += u64::from(chunk.head().payload);
        }
        self.metrics.committed(records, bytes, self.last_commit - started);
    }

    /// Shows what has been committed, gives its room back, and answers.
    fn finish(&mut self, batch: Batch, done: Done) {
        let limits = RingLimits::of(&self.config.load());
        for ((stream, part), stored) in batch.parts.iter().zip(done.stored) {
            // Whoever sees the records finds their room free.
            stream.room.add_permits(part.cost);
            self.lives.room.give_back(part.cost);
            // Who appends to a stream that is gone has been told by its removal.
            if stored {
                stream.publish(part, limits, &self.lives.ring_bytes);
            }
        }
        let (creates, others): (Vec<_>, Vec<_>) =
            batch.commands.into_iter().partition(|asked| matches!(asked.command, Command::Create(_)));
        let mut created = 0;
        for (asked, did) in creates.into_iter().chain(others).zip(done.did) {
            created += u64::from(matches!((&asked.command, &did), (Command::Create(_), Did::Done)));
            if let Command::Put(_, cost) = asked.command {
                self.lives.room.give_back(cost);
            }
            let answer = match did {
                Did::Done => Ok(()),
                Did::Refused(error) => Err(error),
                Did::Removed(removed) => {
                    self.clearing |= !removed.is_empty();
                    removed.iter().for_each(|(path, id)| self.lives.removed(path, *id));
                    Ok(())
                }
            };
            let _left = asked.reply.send(answer);
        }
        if created > 0 {
            self.lives.created.send_modify(|count| *count += created);
        }
    }

    /// What is done when there is nothing else to do.
    fn tidy(&mut self) -> Result<()> {
        if self.clearing {
            self.clear(CLEAR_ROWS.1, false)?;
        } else if self.next_sweep <= Instant::now() {
            self.sweep()?;
        }
        Ok(())
    }

    /// Deletes chunks of removed streams. Says whether any can have been.
    fn clear(&mut self, rows: usize, reserve: bool) -> Result<bool> {
        let store = self.store.clone();
        let once = || {
            let mut write = store.env().write()?;
            if !store.has_dropped(&write.txn)? {
                return Ok(false);
            }
            let left = store.clear_dropped(&mut write.txn, rows)?;
            write.commit().map_err(|error| store.env().commit_failed(error))?;
            Ok(left)
        };
        match once() {
            Ok(left) => {
                self.clearing = left;
                self.last_commit = Instant::now();
                Ok(true)
            }
            Err(CommitError::Fatal(error)) => Err(error),
            Err(CommitError::MapFull) if self.grow(reserve).is_ok() => Ok(true),
            Err(CommitError::MapFull | CommitError::Refused(_)) => {
                // With the next commit, then.
                self.clearing = false;
                self.next_sweep = Instant::now() + OWED_RETRY;
                Ok(false)
            }
        }
    }

    /// Deletes what has become too old of streams that nobody appends to.
    fn sweep(&mut self) -> Result<()> {
        let store = self.store.clone();
        let keep = self.keep();
        let once = || {
            let mut write = store.env().write()?;
            let (next, changed) = store.sweep(&mut write.txn, self.sweep_after.as_ref(), keep, SWEEP_STREAMS)?;
            if changed {
                write.commit().map_err(|error| store.env().commit_failed(error))?;
            }
            Ok((next, changed))
        };
        match once() {
            Ok((next, changed)) => {
                if changed {
                    self.unsynced.committed(self.config.load().durability);
                    self.last_commit = Instant::now();
                }
                self.next_sweep = Instant::now() + if next.is_some() { OWED_RETRY } else { SWEEP_EVERY };
                self.sweep_after = next;
                // What an interrupted clearing has left.
                self.clearing = true;
                Ok(())
            }
            Err(CommitError::Fatal(error)) => Err(error),
            Err(_) => {
                self.next_sweep = Instant::now() + SWEEP_EVERY;
                Ok(())
            }
        }
    }

    /// Commits nothing, so that the pages of the last removals can be used.
    fn turn_over(&self) -> Result<()> {
        let turned = || {
            let mut write = self.store.env().write()?;
            self.store.turn_over(&mut write.txn)?;
            write.commit().map_err(|error| self.store.env().commit_failed(error))
        };
        match turned() {
            Err(CommitError::Fatal(error)) => Err(error),
            _ => Ok(()),
        }
    }
}
