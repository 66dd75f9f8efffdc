//! Sessions of the legacy era over transports that have none of their own: minted, counted, found again, ended (spec mcp §2.2, §4.4, §4.6).
//!
//! A session belongs to the principal that opened it and to the endpoint it was opened at; to anybody else, and anywhere else, it is not there. It
//! ends when it is told to, with its conversation, or when nothing of it was used for `mcp_idle_ms_max`: no call runs and no stream is
//! open. What happens in it is `session`'s, what a lost client can have again `stream`'s.

mod session;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use parking_lot::Mutex;
use serde_json::json;
use standpipe_serve::{Limits, LimitsHandle};
use standpipe_wire::jsonrpc::Message;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::session::LegacySession;
pub use self::stream::{Event, EventId, Reader, Stream};
use crate::fault::{NOT_FOUND, RATE};
use crate::{Caller, Fault, Inlet, LegacyServer, Metrics};

/// When a seat may be free again; sessions end slowly.
const SEAT_RETRY: Duration = Duration::from_secs(5);

/// Principals that are remembered without a second look.
const PRINCIPALS_FEW: usize = 256;

/// How often sessions are looked at, at most and at least.
const TICK_MIN: Duration = Duration::from_millis(20);
const TICK_MAX: Duration = Duration::from_secs(1);

/// The sessions of one process.
pub struct Sessions {
    limits: LimitsHandle,
    metrics: Metrics,
    table: Mutex<Table>,
    entered: Notify,
    /// Bytes of messages kept for clients that resume.
    kept: Arc<AtomicUsize>,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sessions({})", self.len())
    }
}

#[derive(Default)]
struct Table {
    sessions: HashMap<Box<str>, Arc<LegacySession>>,
    principals: HashMap<Arc<str>, Account>,
    /// Seats taken in all.
    seats: usize,
    /// With as many principals as this, those that owe nothing are forgotten.
    enough: usize,
}

/// What a principal has and owes.
#[derive(Debug)]
struct Account {
    seats: usize,
    /// When what it has opened is paid for.
    paid_at: Instant,
}

/// The place of a session; dropping it gives it back. A transport whose connection is the session takes one, too.
pub struct Seat {
    sessions: Arc<Sessions>,
    principal: Arc<str>,
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seat({})", self.principal)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.sessions.table.lock();
        table.seats -= 1;
        if let Some(account) = table.principals.get_mut(&self.principal) {
            account.seats -= 1;
        }
    }
}

impl Sessions {
    /// No sessions yet. [`Sessions::keep`] must run for them to end in time.
    pub fn new(limits: LimitsHandle, metrics: Metrics) -> Arc<Self> {
        let (table, entered, kept) = (Mutex::default(), Notify::new(), Arc::default());
        Arc::new(Self { limits, metrics, table, entered, kept })
    }

    /// Sessions open now.
    pub fn len(&self) -> usize {
        self.table.lock().sessions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lets a principal open one more.
    ///
    /// # Errors
    /// 4290 when it opens them too fast, 5030 when there are too many.
    pub fn admit(self: &Arc<Self>, principal: &Arc<str>) -> Result<Seat, Fault> {
        let limits = self.limits.load();
        let mut table = self.table.lock();
        table.forget(PRINCIPALS_FEW);
        let (now, all) = (Instant::now(), table.seats);
        let account = table.principals.entry(principal.clone());
        let account = account.or_insert_with(|| Account { seats: 0, paid_at: now });
        let full = |limit: &'static str, what: &str| {
            self.metrics.hit(limit);
            Err(Fault::overloaded(format!("{what} ({limit}); end one, or try again later"), SEAT_RETRY))
        };
        if account.seats >= limits.mcp_sessions_per_principal_max {
            return full("mcp_sessions_per_principal_max", "you have as many sessions as you may have");
        }
        if all >= limits.mcp_sessions_max {
            return full("mcp_sessions_max", "the server has as many sessions as it may have");
        }
        if let Err(wait) = account.pay(now, &limits) {
            self.metrics.hit("mcp_initialize_per_s_max");
            let message = "sessions are opened too fast (mcp_initialize_per_s_max); keep one and use it again";
            // Rounded up: who waits as long is let in.
            let retry_after_ms = wait.as_nanos().div_ceil(1_000_000) as u64;
            return Err(Fault::new(RATE, message).with_data(json!({ "retry_after_ms": retry_after_ms })));
        }
        account.seats += 1;
        table.seats += 1;
        drop(table);
        Ok(Seat { sessions: self.clone(), principal: principal.clone() })
    }

    /// Opens a session at `endpoint` with the request `initialize`; its reply comes out of the inlet. Nobody finds it before
    /// [`Sessions::enter`].
    pub fn open(
        &self,
        seat: Seat,
        server: &dyn LegacyServer,
        endpoint: &str,
        caller: &Caller,
        initialize: Message,
    ) -> (Arc<LegacySession>, Inlet) {
        LegacySession::open(mint(), seat, server, endpoint, caller, initialize, self.shared())
    }

    fn shared(&self) -> session::Shared {
        session::Shared { limits: self.limits.clone(), metrics: self.metrics.clone(), kept: self.kept.clone() }
    }

    /// Lets a session be found from now on.
    pub fn enter(&self, session: Arc<LegacySession>) {
        self.table.lock().sessions.insert(session.id().into(), session);
        self.entered.notify_one();
    }

    /// The session `id`, if it is one of this principal at this endpoint.
    ///
    /// # Errors
    /// 4040: there is none, or not for this caller.
    pub fn find(&self, id: &str, principal: &str, endpoint: &str) -> Result<Arc<LegacySession>, Fault> {
        let found = self.table.lock().sessions.get(id).cloned();
        let found = found.filter(|session| session.belongs_to(principal, endpoint));
        match found {
            Some(session) if !session.has_ended() => Ok(session),
            Some(session) => {
                self.end(&session);
                Err(not_found())
            }
            None => Err(not_found()),
        }
    }

    /// Ends a session: its streams end, its conversation is dropped, and nobody finds it any more.
    pub fn end(&self, session: &LegacySession) {
        let removed = self.table.lock().sessions.remove(session.id());
        session.close();
        drop(removed);
    }

    /// Ends all of them; for a process that stops.
    pub fn end_all(&self) {
        let all = std::mem::take(&mut self.table.lock().sessions);
        all.values().for_each(|session| session.close());
    }

    /// Ends sessions that are idle or whose conversation has ended, and forgets what nobody will ask for; runs until it is dropped.
    pub async fn keep(self: Arc<Self>) {
        loop {
            let entered = self.entered.notified();
            if self.is_empty() {
                entered.await;
            }
            let limits = self.limits.load_full();
            let idle = Duration::from_millis(limits.mcp_idle_ms_max.min(limits.mcp_replay_ms_max));
            tokio::time::sleep((idle / 8).clamp(TICK_MIN, TICK_MAX)).await;
            self.sweep();
        }
    }

    /// Ends what is over by now.
    pub fn sweep(&self) {
        let limits = self.limits.load_full();
        let (idle, replay) = (limits.mcp_idle_ms_max, limits.mcp_replay_ms_max);
        let (idle, replay) = (Duration::from_millis(idle), Duration::from_millis(replay));
        let now = Instant::now();
        // None of them may be asked under the lock: a conversation that is dropped gives its seat back.
        let all: Vec<_> = self.table.lock().sessions.values().cloned().collect();
        for session in all {
            let is_idle = session.is_idle(now, idle);
            if is_idle {
                self.metrics.hit("mcp_idle_ms_max");
            }
            if is_idle || session.has_ended() {
                self.end(&session);
            } else {
                session.forget_streams(now, replay);
            }
        }
    }

    /// Bytes of messages that are kept for clients that resume.
    pub fn kept_bytes(&self) -> usize {
        self.kept.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Table {
    /// Forgets principals that have and owe nothing, when there are many.
    fn forget(&mut self, few: usize) {
        if self.principals.len() < self.enough.max(few) {
            return;
        }
        let now = Instant::now();
        self.principals.retain(|_, account| account.seats > 0 || account.paid_at > now);
        // So that a crowd that can't be forgotten is not looked at for each newcomer.
        self.enough = 2 * self.principals.len();
    }
}

impl Account {
    /// Pays for one session (GCRA, as `serve::rates`), or tells how long to wait for that.
    fn pay(&mut self, now: Instant, limits: &Limits) -> Result<(), Duration> {
        let cost = Duration::from_secs(1) / u32::try_from(limits.mcp_initialize_per_s_max).unwrap_or(u32::MAX);
        let burst = u32::try_from(limits.mcp_initialize_burst_max).unwrap_or(u32::MAX);
        let most = now + cost.saturating_mul(burst);
        let paid = self.paid_at.max(now) + cost;
        if paid > most {
            return Err(paid - most);
        }
        self.paid_at = paid;
        Ok(())
    }
}

fn not_found() -> Fault {
    Fault::new(NOT_FOUND, "no such session: it has ended, or was never yours; open another with 'initialize'")
}

/// 128 random bits, in hexadecimal.
fn mint() -> Box<str> {
    let mut random = [0; 16];
    SystemRandom::new().fill(&mut random).expect("the system has random bytes, or TLS would not have started");
    random.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}
