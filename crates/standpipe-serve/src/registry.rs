//! The connections that are served: who there is, which one's time is over, and the hard end of one
//! that does not leave when told to. What a deadline is about is its door's; how a session is told
//! is `session.rs`.
//!
//! A deadline is a word in the session. Setting it is a store; nothing is armed. One task, the
//! sweeper, looks every [`TICK`] whether the soonest deadline of all has come, and only then at the
//! sessions. So twenty thousand idle connections cost one comparison a tick.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize, Serializer};
use tokio::task::AbortHandle;

use crate::{CloseReason, Peer, Session};

/// How often deadlines are looked at: one comes true up to two ticks after its time, never before.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// Locks the entries are spread over.
const SHARDS: usize = 8;

/// A tick that never comes, in thirteen years of uptime.
const NEVER: u32 = u32::MAX;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// Nothing is asked.
    Idle,
    /// A request is being answered.
    Active,
    /// It waits for news.
    Watching,
    /// The peer does not take its output.
    Blocked,
    /// It was told to end.
    Closing,
}

/// A connection at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionInfo {
    /// Number of the connection, unique while the node runs.
    pub id: u64,
    /// Name of the door.
    pub door: &'static str,
    /// Who is at the other end.
    #[serde(serialize_with = "as_text")]
    pub peer: Peer,
    /// What it is doing.
    pub state: SessionState,
    /// Since it was let in.
    #[serde(rename = "age_ms", serialize_with = "as_ms")]
    pub age: Duration,
    /// Since it last asked or was sent something.
    #[serde(rename = "idle_ms", serialize_with = "as_ms")]
    pub idle: Duration,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Watchers attached.
    pub watchers: u64,
    /// Times its watchers fell behind.
    pub lagged: u64,
    /// How long the peer has not taken its output by now; zero when it does.
    #[serde(rename = "blocked_for_ms", serialize_with = "as_ms")]
    pub blocked_for: Duration,
    /// How long it has not done so in all.
    #[serde(rename = "blocked_ms", serialize_with = "as_ms")]
    pub blocked: Duration,
}

fn as_text<S: Serializer>(peer: &Peer, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(peer)
}

pub(crate) fn as_ms<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(ms(*duration))
}

fn ms(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

/// What the registry keeps in each session.
#[derive(Debug)]
pub(crate) struct Vitals {
    /// Tick and reason of the deadline, see [`Vitals::set_due`].
    due: AtomicU64,
    /// Tick of the hard end, once it was told to leave.
    end: AtomicU32,
    since: u32,
    active: AtomicU32,
    requests: AtomicU32,
    lagged: AtomicU32,
    closing: AtomicBool,
    /// Milliseconds of the registry's clock at which the peer stopped taking output; 0 while it does.
    blocked_since: AtomicU64,
    blocked_ms: AtomicU64,
}

impl Vitals {
    fn set_due(&self, tick: u32, code: u8) {
        // With the registry's `soonest` in one order, see `Registry::sooner`.
        self.due.store(u64::from(tick) << 8 | u64::from(code), Ordering::SeqCst);
    }

    fn due(&self) -> (u32, u8) {
        let due = self.due.load(Ordering::SeqCst);
        ((due >> 8) as u32, due as u8)
    }

    pub(crate) fn not_due(&self) {
        self.due.store(u64::MAX, Ordering::Relaxed);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Whether it was not closing before.
    pub(crate) fn start_closing(&self) -> bool {
        !self.closing.swap(true, Ordering::SeqCst)
    }

    pub(crate) fn lagged(&self) {
        self.lagged.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn request_begun(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn request_ended(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Entry {
    session: Session,
    task: AbortHandle,
}

/// The connections that are served.
#[derive(Debug)]
pub(crate) struct Registry {
    shards: [Mutex<HashMap<u64, Entry>>; SHARDS],
    epoch: Instant,
    /// Now, in ticks since `epoch`, as the sweeper last said.
    now: AtomicU32,
    /// No deadline comes before this tick.
    soonest: AtomicU32,
    /// The node stops: who comes now is told at once.
    closed: AtomicBool,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            shards: Default::default(),
            epoch: Instant::now(),
            now: AtomicU32::new(0),
            soonest: AtomicU32::new(NEVER),
            closed: AtomicBool::new(false),
        }
    }
}

impl Registry {
    /// Since the start.
    pub(crate) fn uptime(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// For a session that begins now.
    pub(crate) fn vitals(&self) -> Vitals {
        let now = self.now.load(Ordering::Relaxed);
        Vitals {
            due: AtomicU64::new(u64::MAX),
            end: AtomicU32::new(NEVER),
            since: now,
            active: AtomicU32::new(now),
            requests: AtomicU32::new(0),
            lagged: AtomicU32::new(0),
            closing: AtomicBool::new(false),
            blocked_since: AtomicU64::new(0),
            blocked_ms: AtomicU64::new(0),
        }
    }

    /// Enters a session and the task that serves it; [`Registry::leave`] takes it out.
    pub(crate) fn enter(&self, session: Session, task: AbortHandle) {
        let id = session.id();
        self.shard(id).lock().insert(id, Entry { session: session.clone(), task });
        if self.closed.load(Ordering::SeqCst) {
            session.start_closing();
        }
    }

    pub(crate) fn leave(&self, id: u64) {
        let left = self.shard(id).lock().remove(&id);
        drop(left);
    }

    fn shard(&self, id: u64) -> &Mutex<HashMap<u64, Entry>> {
        &self.shards[id as usize % SHARDS]
    }

    /// Something was asked or sent.
    pub(crate) fn active(&self, vitals: &Vitals) {
        vitals.active.store(self.now.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Sets the deadline.
    pub(crate) fn due(&self, vitals: &Vitals, reason: CloseReason, after_ms: u64) {
        let tick = self.tick_after(after_ms);
        vitals.set_due(tick, reason.code());
        self.sooner(tick);
    }

    /// Sets the hard end.
    pub(crate) fn end(&self, vitals: &Vitals, after_ms: u64) {
        let tick = self.tick_after(after_ms);
        vitals.end.store(tick, Ordering::SeqCst);
        self.sooner(tick);
    }

    /// Up to a tick has passed since `now` was set, so one is added.
    fn tick_after(&self, after_ms: u64) -> u32 {
        let ticks = after_ms.div_ceil(ms(TICK)).min(u64::from(NEVER / 2)) as u32;
        self.now.load(Ordering::Relaxed).saturating_add(ticks + 1)
    }

    /// A deadline was stored before; the sweeper forgets `soonest` before it looks at deadlines. In
    /// one order of the four, either it sees the deadline or this sees what it forgot.
    fn sooner(&self, tick: u32) {
        if tick < self.soonest.load(Ordering::SeqCst) {
            self.soonest.fetch_min(tick, Ordering::SeqCst);
        }
    }

    /// The peer stops taking output, or takes it again.
    pub(crate) fn blocked(&self, vitals: &Vitals, blocked: bool) {
        let now = self.epoch_ms();
        let since = if blocked {
            // Told again, it is blocked since it was first told.
            let _already = vitals.blocked_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
            return;
        } else {
            vitals.blocked_since.swap(0, Ordering::Relaxed)
        };
        if since > 0 {
            vitals.blocked_ms.fetch_add(now.saturating_sub(since), Ordering::Relaxed);
        }
    }

    /// Never 0.
    fn epoch_ms(&self) -> u64 {
        ms(self.uptime()) + 1
    }

    /// Closes whose time is over, and ends those that were told and did not go.
    pub(crate) fn sweep_now(&self) {
        self.sweep((ms(self.uptime()) / ms(TICK)).min(u64::from(NEVER / 2)) as u32);
    }

    fn sweep(&self, now: u32) {
        self.now.store(now, Ordering::Relaxed);
        if self.soonest.load(Ordering::SeqCst) > now {
            return;
        }
        self.soonest.swap(NEVER, Ordering::SeqCst);
        let mut soonest = NEVER;
        let (mut late, mut overdue) = (Vec::new(), Vec::new());
        for shard in &self.shards {
            for Entry { session, task } in shard.lock().values() {
                let vitals = session.vitals();
                let (due, code) = vitals.due();
                if due <= now {
                    vitals.not_due();
                    late.push((session.clone(), code));
                } else {
                    soonest = soonest.min(due);
                }
                let end = vitals.end.load(Ordering::SeqCst);
                if end <= now {
                    vitals.end.store(NEVER, Ordering::SeqCst);
                    overdue.push(task.clone());
                } else {
                    soonest = soonest.min(end);
                }
            }
        }
        self.sooner(soonest);
        late.into_iter().for_each(|(session, code)| session.close(CloseReason::from_code(code)));
        overdue.into_iter().for_each(|task| task.abort());
    }

    /// Tells every session, and those to come, that the node stops.
    pub(crate) fn close_all(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.each(|session| session.start_closing());
    }

    /// The session of that number.
    pub(crate) fn find(&self, id: u64) -> Option<Session> {
        self.shard(id).lock().get(&id).map(|entry| entry.session.clone())
    }

    /// What `look` says of every session.
    pub(crate) fn each<T>(&self, look: impl Fn(&Session) -> T) -> Vec<T> {
        let mut all = Vec::new();
        for shard in &self.shards {
            all.extend(shard.lock().values().map(|entry| look(&entry.session)));
        }
        all
    }

    /// Every session at this moment, the oldest first.
    pub(crate) fn infos(&self) -> Vec<SessionInfo> {
        let mut infos = self.each(|session| self.info(session));
        infos.sort_unstable_by_key(|info| info.id);
        infos
    }

    fn info(&self, session: &Session) -> SessionInfo {
        let vitals = session.vitals();
        let now = self.now.load(Ordering::Relaxed);
        let since = |tick: u32| TICK * now.saturating_sub(tick);
        let (bytes_in, bytes_out) = session.bytes();
        let watchers = session.watchers().used() as u64;
        let blocked_since = vitals.blocked_since.load(Ordering::Relaxed);
        let blocked_for = if blocked_since > 0 { self.epoch_ms().saturating_sub(blocked_since) } else { 0 };
        let state = match () {
            () if vitals.is_closing() => SessionState::Closing,
            () if blocked_since > 0 => SessionState::Blocked,
            () if watchers > 0 => SessionState::Watching,
            () if vitals.requests.load(Ordering::Relaxed) > 0 => SessionState::Active,
            () => SessionState::Idle,
        };
        SessionInfo {
            id: session.id(),
            door: session.door(),
            peer: session.peer(),
            state,
            age: since(vitals.since),
            idle: since(vitals.active.load(Ordering::Relaxed)),
            bytes_in,
            bytes_out,
            watchers,
            lagged: vitals.lagged.load(Ordering::Relaxed).into(),
            blocked_for: Duration::from_millis(blocked_for),
            blocked: Duration::from_millis(blocked_for + vitals.blocked_ms.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;
    use crate::tests::Bench;

    #[tokio::test]
    async fn a_deadline_closes_in_its_time_unless_it_is_moved_or_taken_back() {
        let bench = Bench::new(Limits::default());
        let registry = &bench.core.registry;
        let (session, _task) = bench.entered();
        let check = |tick, expected| {
            registry.sweep(tick);
            assert_eq!(session.close_reason(), expected, "tick {tick}");
        };
        session.due(CloseReason::HeadTimeout, 1_000);
        check(10, None);
        session.due(CloseReason::IdleTimeout, 2_050);
        check(31, None);
        session.not_due();
        check(1_000, None);
        session.due(CloseReason::HeadTimeout, 10_000);
        session.due(CloseReason::WriteTimeout, 0);
        check(1_000, None);
        check(1_001, Some(CloseReason::WriteTimeout));
        bench.end().await;
    }

    #[tokio::test]
    async fn who_is_told_to_go_and_stays_is_ended() {
        let bench = Bench::new(Limits { drain_ms: 500, ..Limits::default() });
        let registry = &bench.core.registry;
        let (session, mut task) = bench.entered();
        assert!(session.kick(session.id()) && !session.kick(7_777));
        session.closing().await;
        registry.sweep(5);
        assert!(!task.is_finished());
        registry.sweep(6);
        assert!((&mut task).await.unwrap_err().is_cancelled());
        assert_eq!(session.close_reason(), Some(CloseReason::Kicked));
        registry.leave(session.id());
        assert_eq!(session.sessions(), []);
        bench.end().await;
    }

    #[tokio::test]
    async fn nothing_is_looked_at_before_the_soonest_deadline() {
        let bench = Bench::new(Limits::default());
        let registry = &bench.core.registry;
        let sessions: Vec<_> = (0..100).map(|_| bench.entered().0).collect();
        sessions.iter().for_each(|session| session.due(CloseReason::IdleTimeout, 600_000));
        sessions[7].due(CloseReason::HeadTimeout, 5_000);
        let soonest = || registry.soonest.load(Ordering::SeqCst);
        assert_eq!(soonest(), 51);
        registry.sweep(51);
        assert_eq!(sessions[7].close_reason(), Some(CloseReason::HeadTimeout));
        // Next is the hard end of the one that was closed.
        assert_eq!(soonest(), 51 + 101);
        registry.leave(sessions[7].id());
        registry.sweep(152);
        assert_eq!(soonest(), 6_001);
        bench.end().await;
    }

    #[tokio::test]
    async fn who_comes_while_the_node_stops_is_told() {
        let bench = Bench::new(Limits::default());
        let (before, _task) = bench.entered();
        bench.core.registry.close_all();
        let (after, _task) = bench.entered();
        assert!(before.is_closing() && after.is_closing());
        assert_eq!((before.close_reason(), after.close_reason()), (None, None));
        bench.end().await;
    }

    #[tokio::test]
    async fn a_session_shows_what_it_does() {
        let bench = Bench::new(Limits::default());
        let (session, _task) = bench.entered();
        let state = || bench.core.registry.infos()[0].state;
        assert_eq!(state(), SessionState::Idle);
        let request = session.request();
        assert_eq!(state(), SessionState::Active);
        drop(request);
        let permit = session.watch_permit().unwrap();
        assert_eq!(state(), SessionState::Watching);
        session.output_blocked(true);
        assert_eq!(state(), SessionState::Blocked);
        session.output_blocked(false);
        drop(permit);
        bench.core.registry.sweep(30);
        session.answered(3, Duration::from_micros(30));
        bench.core.registry.sweep(50);
        let info = &session.sessions()[0];
        assert_eq!((info.age, info.idle), (Duration::from_secs(5), Duration::from_secs(2)));
        session.close(CloseReason::Kicked);
        assert_eq!(state(), SessionState::Closing);
        let snapshot = bench.core.metrics.snapshot();
        assert_eq!((snapshot.requests, snapshot.finished, snapshot.cancelled), (4, 3, 1));
        bench.end().await;
    }
}
