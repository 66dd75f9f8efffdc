//! What all connections of a node share. It has no behaviour of its own: each part has its file.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use crate::admission::{Seats, peer_key};
use crate::budget::Budget;
use crate::pool::Pool;
use crate::queue::Owner;
use crate::rates::Rates;
use crate::registry::{Registry, TICK};
use crate::{CloseReason, Events, LimitsHandle, Metrics, Peer, Shutdown};

/// The shared parts of a node.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) limits: LimitsHandle,
    pub(crate) metrics: Metrics,
    pub(crate) events: Events,
    pub(crate) registry: Registry,
    pub(crate) rates: Rates,
    pub(crate) seats: Arc<Seats>,
    /// Bytes of bodies in flight.
    pub(crate) bodies: Budget,
    /// Peers being told "no".
    pub(crate) refusals: Budget,
    pub(crate) pool: Pool,
    pub(crate) shutdown: Shutdown,
    next_session: AtomicU64,
    /// Share of their time that workers worked lately, in thousandths.
    utilisation: AtomicU32,
    /// Makes numbers of addresses that no peer can foresee.
    peers: RandomState,
}

impl Core {
    pub(crate) fn new(limits: LimitsHandle) -> Arc<Self> {
        let metrics = Metrics::default();
        let core = Arc::new(Self {
            events: Events::new(metrics.clone()),
            registry: Registry::default(),
            rates: Rates::new(&limits.load()),
            seats: Arc::default(),
            bodies: Budget::default(),
            refusals: Budget::default(),
            pool: Pool::new(limits.clone(), metrics.clone()),
            shutdown: Shutdown::new(metrics.tasks().clone()),
            next_session: AtomicU64::new(1),
            utilisation: AtomicU32::new(0),
            peers: RandomState::new(),
            limits,
            metrics,
        });
        core.metrics.belong_to(&core);
        core
    }

    /// What is done every [`TICK`], for as long as the runtime lives: the sweep of deadlines, and once
    /// a second a look at how busy the workers are.
    pub(crate) async fn tick(self: Arc<Self>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut since, mut before) = (Instant::now(), Duration::ZERO);
        loop {
            tick.tick().await;
            self.registry.sweep_now();
            let elapsed = since.elapsed();
            if elapsed >= Duration::from_secs(1) {
                let (done, workers) = self.pool.work_done();
                let share = done.saturating_sub(before).as_secs_f64() / (elapsed.as_secs_f64() * workers.max(1) as f64);
                self.utilisation.store((share.min(1.0) * 1_000.0) as u32, Ordering::Relaxed);
                (since, before) = (Instant::now(), done);
            }
        }
    }

    /// Share of their time that workers worked in the last second, 0 to 1.
    pub(crate) fn utilisation(&self) -> f64 {
        f64::from(self.utilisation.load(Ordering::Relaxed)) / 1_000.0
    }

    /// Whose turn a job of the session is: sessions from one address share theirs.
    pub(crate) fn owner(&self, session: u64, peer: Peer) -> Owner {
        Owner { peer: peer_key(peer).map_or(session, |address| self.peers.hash_one(address)), session }
    }

    /// Closes the connection `id` for an administrator; false when there is none.
    pub(crate) fn kick(&self, id: u64) -> bool {
        let session = self.registry.find(id);
        session.is_some_and(|session| {
            session.close(CloseReason::Kicked);
            true
        })
    }

    pub(crate) fn next_session(&self) -> u64 {
        self.next_session.fetch_add(1, Ordering::Relaxed)
    }
}
