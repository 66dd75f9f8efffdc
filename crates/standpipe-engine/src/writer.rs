//! The writer: one thread per database that takes what waits, decides, applies, logs, commits,
//! publishes and answers, in that order. Durable, then visible, then acknowledged.
//!
//! It owns the write transaction and the kept tail. Its panic, a broken log or a failed sync stop
//! the node: it never limps on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use standpipe_tree::PushIds;
use tokio::sync::oneshot;

use crate::apply::apply;
use crate::config::{Durability, Shared};
use crate::decide::{Context, Decision, check_conditions, check_first, decide, tie};
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::hub::{Hub, RingLimits};
use crate::identity::Identity;
use crate::intent::{Committed, Condition, Intent, Op};
use crate::lease::{Armed, Lease, LeaseId, LeaseLimits, armed_after, stored};
use crate::log::{Append, Log, LogError};
use crate::metrics::WriterMetrics;
use crate::queue::{Queue, Queued, Taken};
use crate::record::{Effect, Encoded, Record, Transaction, peek_time_ms};
use crate::rules::Rules;
use crate::store::keys::{change_key, change_rev};
use crate::store::{CommitError, State, Store, Unsynced, WriteTxn};
use crate::view::View;

/// How often a batch is decided again because others took the position, before its callers are
/// told that the database is busy elsewhere.
const TAKEN_MAX: usize = 32;
/// Records applied in one transaction while catching up.
const CATCH_UP_RECORDS: usize = 512;
/// How often a shared log is asked when nothing wakes the writer.
const POLL: Duration = Duration::from_millis(250);
/// How long one append may take.
const APPEND_PATIENCE: Duration = Duration::from_secs(10);
/// Records dropped from the kept tail per commit: more than one, so that it shrinks.
const TRIM_MAX: usize = 8;
/// When a release is tried again that could not be committed: a full disk, a log out of reach.
const OWED_RETRY: Duration = Duration::from_secs(1);

/// Called when a database can't go on; the binary ends the process.
pub type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// Why a group did not commit.
enum Failure {
    /// The map is full: grow it and do the same again.
    MapFull,
    /// The log has other records first: apply them and decide again.
    Taken,
    /// All callers are told this; the node goes on.
    Refused(Error),
    /// The node must stop.
    Fatal(Error),
}

impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::MapFull => Self::MapFull,
            CommitError::Refused(error) => Self::Refused(error),
            CommitError::Fatal(error) => Self::Fatal(error),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

impl From<heed::Error> for Failure {
    fn from(error: heed::Error) -> Self {
        CommitError::from(error).into()
    }
}

/// Everything the writer's thread owns.
pub(crate) struct Writer {
    pub(crate) store: Arc<Store>,
    pub(crate) log: Box<dyn Log>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) metrics: Arc<WriterMetrics>,
    pub(crate) config: Shared,
    pub(crate) on_fatal: OnFatal,
    pub(crate) push_ids: PushIds,
    pub(crate) unsynced: Unsynced,
    /// Releases that could not be committed, and when they are tried again.
    pub(crate) owed: Vec<Queued>,
    pub(crate) owed_at: Instant,
}

/// Tells the world when the writer's thread ends by a panic.
struct PanicGuard(Arc<Queue>, OnFatal);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        self.0.abandon();
        if std::thread::panicking() {
            (self.1)("the writer panicked; the last acknowledged write is safe, restart the node");
        }
    }
}

impl Writer {
    /// The thread's body: returns when the queue is closed and empty.
    pub(crate) fn run(mut self) {
        let _guard = PanicGuard(self.queue.clone(), self.on_fatal.clone());
        let queue = self.queue.clone();
        loop {
            let (intents_max, bytes_max) = self.group_bounds();
            let taken = queue.take(intents_max, bytes_max, self.patience());
            let Taken::Batch(mut batch) = taken else { break };
            if self.owed_at <= Instant::now() {
                batch.splice(0..0, self.owed.drain(..));
            }
            let result = if batch.is_empty() { self.catch_up() } else { self.commit(batch) };
            if let Err(error) = result.and_then(|()| self.sync_when_due()) {
                tracing::error!(?error, dir = %self.store.env().dir().display(), "the database stops");
                (self.on_fatal)(error.message());
                return;
            }
        }
        if let Err(error) = self.unsynced.sync(self.store.env()) {
            (self.on_fatal)(error.message());
        }
    }

    fn sync_when_due(&mut self) -> Result<()> {
        self.unsynced.sync_when_due(self.store.env(), self.config.load().durability)
    }

    fn group_bounds(&self) -> (usize, usize) {
        let config = self.config.load();
        (config.group_intents_max, config.group_bytes_max)
    }

    fn ring_limits(&self) -> RingLimits {
        let config = self.config.load();
        RingLimits { events_max: config.ring_events_max, bytes_max: config.ring_bytes_max }
    }

    fn patience(&self) -> Option<Duration> {
        let news = match self.config.load().durability {
            Durability::Interval(every) => Some(every),
            Durability::Commit => self.log.is_shared().then_some(POLL),
        };
        let owed = (!self.owed.is_empty()).then_some(OWED_RETRY);
        news.into_iter().chain(owed).min()
    }

    /// Releases the leases that the table holds: before the thread runs, those of an earlier boot. On
    /// a shared log they may be those of other nodes, so none are.
    pub(crate) fn release_stored(&mut self) -> Result<()> {
        if self.log.is_shared() {
            return Ok(());
        }
        let Some(snapshot) = self.store.try_snapshot()? else { return Ok(()) };
        let stored = stored(&self.store, snapshot.txn())?;
        drop(snapshot);
        stored.into_iter().for_each(|(lease, bytes)| self.queue.release(lease, bytes));
        let (intents_max, bytes_max) = self.group_bounds();
        while let Taken::Batch(batch) = self.queue.take(intents_max, bytes_max, Some(Duration::ZERO)) {
            if batch.is_empty() {
                break;
            }
            self.commit(batch)?;
        }
        if !self.owed.is_empty() {
            let leases = self.owed.len();
            tracing::warn!(leases, dir = %self.store.env().dir().display(), "leases of earlier connections can't be released yet");
        }
        Ok(())
    }

    /// Puts rules before the thread runs.
    pub(crate) fn put_rules(&mut self, text: &str) -> Result<()> {
        let (reply, mut answer) = oneshot::channel();
        let intent = Intent::new(Op::Rules(text.to_owned()), Identity::Admin);
        let deadline = Instant::now() + APPEND_PATIENCE;
        self.commit(vec![Queued { intent, bytes: text.len(), deadline, reply }])?;
        answer.try_recv().unwrap_or_else(|_| Err(Error::unavailable("the rules could not be put"))).map(|_done| ())
    }

    /// Commits a batch, however many tries that takes, and answers every caller.
    fn commit(&mut self, batch: Vec<Queued>) -> Result<()> {
        let now = Instant::now();
        let (batch, late): (Vec<_>, Vec<_>) = batch.into_iter().partition(|queued| !queued.is_late(now));
        for queued in late {
            let _left = queued.reply.send(Err(Error::new(ErrorKind::Deadline, "the write waited too long")));
        }
        let mut taken = 0;
        let mut turned_over = false;
        while !batch.is_empty() {
            match self.try_commit(&batch) {
                Ok(outcomes) => {
                    for (queued, outcome) in batch.into_iter().zip(outcomes) {
                        let _left = queued.reply.send(outcome);
                    }
                    break;
                }
                Err(Failure::MapFull) => match self.grow(batch.iter().all(|queued| queued.intent.op.only_removes())) {
                    Ok(()) => {}
                    // Alone, the small ones may still fit.
                    Err(_) if batch.len() > 1 => {
                        return batch.into_iter().try_for_each(|queued| self.commit(vec![queued]));
                    }
                    Err(_) if !turned_over && self.turn_over().is_ok() => turned_over = true,
                    Err(error) => return self.refuse(batch, &error),
                },
                Err(Failure::Taken) if taken < TAKEN_MAX => {
                    taken += 1;
                    self.catch_up()?;
                }
                Err(Failure::Taken) => {
                    return self.refuse(batch, &Error::unavailable("other nodes write faster; try again"));
                }
                Err(Failure::Refused(error)) => return self.refuse(batch, &error),
                Err(Failure::Fatal(error)) => {
                    self.refuse(batch, &Error::unavailable("the database has stopped"))?;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Answers everybody with the same refusal; the node goes on. Releases are tried again, for
    /// nobody could do so instead.
    fn refuse(&mut self, batch: Vec<Queued>, error: &Error) -> Result<()> {
        for queued in batch {
            if queued.is_release() {
                self.owed.push(queued);
                self.owed_at = Instant::now() + OWED_RETRY;
            } else {
                let _left = queued.reply.send(Err(error.clone()));
            }
        }
        Ok(())
    }

    /// One transaction: decide and apply each intent, log the record, commit, publish.
    fn try_commit(&mut self, batch: &[Queued]) -> Result<Vec<Result<Committed>>, Failure> {
        let started = Instant::now();
        let store = self.store.clone();
        let write = store.write()?;
        let state = store.state(&write.txn)?;
        let config = self.config.load();
        let record = Record::after(&state, config.clock.now_ms());
        let context = Context {
            now_ms: record.time_ms,
            access: config.access,
            trace_denials: config.trace_denials,
            leases: LeaseLimits { locations_max: config.lease_locations_max, bytes_max: config.lease_bytes_max },
            push_ids: &mut self.push_ids,
        };
        let rules = store.active_rules().clone();
        let mut group = Group { store: &store, write, state, rules, record, context };
        let outcomes = batch.iter().map(|queued| group.intent(&queued.intent)).collect::<Result<Vec<_>, _>>()?;
        let Group { write, mut state, rules, record, .. } = group;
        if record.transactions.is_empty() {
            return Ok(outcomes);
        }
        let encoded = record.encode();
        self.append(state.pos, &encoded)?;
        self.finish(&store, write, &mut state, rules, &[(record, encoded)])?;
        self.metrics.committed(batch.len(), started.elapsed());
        Ok(outcomes)
    }

    /// Puts the record into the log, resolving an unknown outcome before anything else happens.
    fn append(&mut self, prev: u64, encoded: &Encoded) -> Result<(), Failure> {
        let deadline = Instant::now() + APPEND_PATIENCE;
        loop {
            match self.log.append(prev, encoded, deadline) {
                Append::Done => return Ok(()),
                Append::Taken => return Err(Failure::Taken),
                Append::Refused(error) => return Err(Failure::Refused(unreachable(&error))),
                Append::Unknown(error) => {
                    if let Some(ours) = self.resolve(prev, encoded, deadline, &error)? {
                        return if ours { Ok(()) } else { Err(Failure::Taken) };
                    }
                    // Certainly not there: the same bytes again can't make two records.
                }
            }
        }
    }

    /// Looks at the position after `prev` until the log answers: ours, another's, or nothing.
    fn resolve(
        &mut self,
        prev: u64,
        encoded: &Encoded,
        deadline: Instant,
        cause: &LogError,
    ) -> Result<Option<bool>, Failure> {
        loop {
            match self.log.read(prev, 1) {
                Ok(records) => return Ok(records.first().map(|found| found.encode() == *encoded)),
                Err(_) if Instant::now() < deadline => {}
                Err(_) => {
                    return Err(Failure::Refused(
                        Error::unavailable("the write's outcome is unknown; read before you try again")
                            .with_cause(cause.clone()),
                    ));
                }
            }
        }
    }

    /// Moves the state past `records`, keeps them in the tail, commits, and publishes.
    fn finish(
        &mut self,
        store: &Store,
        mut write: WriteTxn<'_>,
        state: &mut State,
        rules: Arc<Rules>,
        records: &[(Record, Encoded)],
    ) -> Result<(), Failure> {
        for (record, encoded) in records {
            state.pos = record.pos;
            state.rev = record.last_rev();
            state.chain = encoded.hash();
            state.time_ms = record.time_ms;
            self.keep(store, &mut write, state, encoded)?;
        }
        store.put_state(&mut write.txn, state)?;
        fault::point("before_commit");
        write.commit().map_err(|error| store.env().commit_failed(error))?;
        fault::point("after_commit");
        // Before anybody is told of what was written under them.
        if rules.version != store.active_rules().version {
            store.set_rules(rules);
        }
        self.unsynced.committed(self.config.load().durability);
        let limits = self.ring_limits();
        for (record, _) in records {
            for (rev, transaction) in (record.first_rev..).zip(&record.transactions) {
                if let Effect::Change(change) = &transaction.effect {
                    self.hub.publish(rev, change, limits);
                }
            }
            self.hub.advance(record.last_rev());
        }
        Ok(())
    }

    /// Stores a record in the kept tail and drops what is beyond its bounds.
    fn keep(
        &self,
        store: &Store,
        write: &mut WriteTxn<'_>,
        state: &mut State,
        encoded: &Encoded,
    ) -> Result<(), Failure> {
        let bytes = encoded.as_bytes();
        if bytes.len() as u64 > self.config.load().changes_bytes_max {
            // Larger than the whole tail: whoever resumes from before it starts again.
            store.changes.clear(&mut write.txn)?;
            state.changes_bytes = 0;
            return Ok(());
        }
        store.changes.put(&mut write.txn, &change_key(state.rev), bytes)?;
        state.changes_bytes += bytes.len() as u64;
        let oldest_ms = state.time_ms.saturating_sub(millis(self.config.load().changes_age_max));
        for _ in 0..TRIM_MAX {
            let Some((key, value)) = store.changes.first(&write.txn)? else { break };
            let aged = peek_time_ms(value).is_none_or(|time_ms| time_ms < oldest_ms);
            let last = change_rev(key) == Some(state.rev);
            if last || !(aged || state.changes_bytes > self.config.load().changes_bytes_max) {
                break;
            }
            let (key, len) = (key.to_vec(), value.len() as u64);
            store.changes.delete(&mut write.txn, &key)?;
            state.changes_bytes -= len;
        }
        Ok(())
    }

    /// Applies what others appended, grouped, until nothing is left.
    fn catch_up(&mut self) -> Result<()> {
        while self.log.is_shared() {
            match self.try_catch_up() {
                Ok(0) => break,
                Ok(_) => {}
                Err(Failure::MapFull) => self.grow(false)?,
                // The log does not answer: later, then.
                Err(Failure::Refused(_) | Failure::Taken) => break,
                Err(Failure::Fatal(error)) => return Err(error),
            }
        }
        Ok(())
    }

    fn try_catch_up(&mut self) -> Result<usize, Failure> {
        let store = self.store.clone();
        let mut write = store.write()?;
        let mut state = store.state(&write.txn)?;
        let read = self.log.read(state.pos, CATCH_UP_RECORDS);
        let records = read.map_err(|error| Failure::Refused(unreachable(&error)))?;
        let mut applied: Vec<(Record, Encoded)> = Vec::with_capacity(records.len());
        let mut rules = store.active_rules().clone();
        let mut expected = state.clone();
        for record in records {
            if expected.pos == 0 {
                // A fresh tree takes the identity of the log it is fed from.
                (expected.log_id, expected.epoch) = (record.log_id, record.epoch);
                (state.log_id, state.epoch) = (record.log_id, record.epoch);
            }
            if !record.follows(&expected) {
                return Err(Failure::Fatal(Error::new(
                    ErrorKind::Internal,
                    format!("the log's record {} does not continue this tree; restore from a backup", record.pos),
                )));
            }
            for transaction in &record.transactions {
                apply(&store, &mut write.txn, &mut state, &mut rules, &transaction.effect)?;
            }
            let encoded = record.encode();
            expected = State { pos: record.pos, rev: record.last_rev(), chain: encoded.hash(), ..state.clone() };
            applied.push((record, encoded));
        }
        if !applied.is_empty() {
            self.finish(&store, write, &mut state, rules, &applied)?;
        }
        Ok(applied.len())
    }

    fn grow(&self, only_removes: bool) -> Result<()> {
        self.store.env().grow(self.config.load().map_bytes_max, only_removes)
    }

    /// Commits nothing: LMDB reuses the pages that a commit freed only in the second one after it.
    fn turn_over(&self) -> Result<()> {
        let mut write = self.store.write()?;
        let state = self.store.state(&write.txn)?;
        self.store.put_state(&mut write.txn, &state)?;
        Ok(write.commit()?)
    }
}

/// A group of writes on the open transaction: each is decided on what those before it left there,
/// and applied.
struct Group<'s, 'c> {
    store: &'s Store,
    write: WriteTxn<'s>,
    state: State,
    /// In force at this point of the group.
    rules: Arc<Rules>,
    record: Record,
    context: Context<'c>,
}

impl Group<'_, '_> {
    /// One intent: an outcome for its caller, or a failure of the whole group.
    fn intent(&mut self, intent: &Intent) -> Result<Result<Committed>, Failure> {
        let (identity, lease) = (&intent.identity, intent.lease.as_ref());
        if !matches!(intent.op, Op::Batch(_) | Op::Compute(_)) {
            return self.op(&intent.op, identity, lease, &intent.conditions);
        }
        let view = View::new(self.store, &self.write.txn, &self.rules, self.context.caller(identity));
        match check_first(&view, &intent.conditions) {
            Ok(()) => self.op(&intent.op, identity, lease, &[]),
            Err(error) => Ok(Err(error)),
        }
    }

    fn op(
        &mut self,
        op: &Op,
        identity: &Identity,
        lease: Option<&Lease>,
        conditions: &[Condition],
    ) -> Result<Result<Committed>, Failure> {
        match op {
            Op::Batch(steps) => {
                let steps = steps.iter().map(|step| self.op(step, identity, lease, &[])).collect::<Result<_, _>>()?;
                Ok(Ok(Committed { steps, ..self.nothing() }))
            }
            Op::Compute(compute) => {
                let view = View::new(self.store, &self.write.txn, &self.rules, self.context.caller(identity));
                match compute.run(&view) {
                    Ok(Some(op)) => self.op(&op, identity, lease, &[]),
                    Ok(None) => Ok(Ok(self.nothing())),
                    Err(error) => Ok(Err(error)),
                }
            }
            Op::Release(lease) => self.release(*lease),
            op => match self.decide(op, identity, lease, conditions) {
                Ok((arm, decision)) => {
                    if let Some(arm) = arm {
                        self.apply(arm, identity)?;
                    }
                    let change = decision.effects.iter().find_map(|effect| match effect {
                        Effect::Change(change) if !decision.secret => Some(change.clone()),
                        _ => None,
                    });
                    for effect in decision.effects {
                        self.apply(effect, identity)?;
                    }
                    Ok(Ok(Committed { change, pushed: decision.pushed, ..self.nothing() }))
                }
                Err(error) => Ok(Err(error)),
            },
        }
    }

    /// Decides a plain write, and what it arms.
    fn decide(
        &mut self,
        op: &Op,
        identity: &Identity,
        lease: Option<&Lease>,
        conditions: &[Condition],
    ) -> Result<(Option<Effect>, Decision)> {
        let caller = self.context.caller(identity);
        let view = View::new(self.store, &self.write.txn, &self.rules, caller);
        let decision = decide(&view, op, &mut self.context)?;
        check_conditions(&view, conditions)?;
        let arm = match (lease, &decision.effects[..]) {
            (Some(lease), [Effect::Change(change)]) => tie(&view, lease, change, &self.context)?,
            _ => None,
        };
        Ok((arm, decision))
    }

    /// Makes the writes that a lease has armed, each in the right of who armed it, and forgets them.
    fn release(&mut self, lease: LeaseId) -> Result<Result<Committed>, Failure> {
        let mut key = None;
        while let Some((next, armed)) = armed_after(self.store, &self.write.txn, lease, key.as_deref())? {
            let Armed { location, rows, identity } = armed;
            if let Err(error) = self.op(&Op::Set { location, rows }, &identity, None, &[])? {
                // Nobody is there to be told.
                tracing::debug!(?error, "a write of a lease was refused");
            }
            key = Some(next);
        }
        if key.is_some() {
            self.apply(Effect::Release(lease), &Identity::Admin)?;
        }
        Ok(Ok(self.nothing()))
    }

    fn apply(&mut self, effect: Effect, identity: &Identity) -> Result<(), Failure> {
        if apply(self.store, &mut self.write.txn, &mut self.state, &mut self.rules, &effect)? {
            self.record.transactions.push(Transaction { actor: identity.actor().to_owned(), effect });
        }
        Ok(())
    }

    /// The answer to a write that changed nothing: the revision it found.
    fn nothing(&self) -> Committed {
        let rev = self.record.first_rev + self.record.transactions.len() as u64 - 1;
        Committed { rev, change: None, pushed: None, steps: Vec::new() }
    }
}

fn unreachable(error: &LogError) -> Error {
    Error::unavailable("the log does not take the write now").with_cause(error.clone())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
