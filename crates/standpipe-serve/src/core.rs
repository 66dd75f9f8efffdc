//! What all connections of a node share. It has no behaviour of its own: each part has its file.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::admission::{Seats, peer_key};
use crate::budget::Budget;
use crate::pool::Pool;
use crate::queue::Owner;
use crate::rates::Rates;
use crate::registry::Registry;
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
    /// Makes numbers of addresses that no peer can foresee.
    peers: RandomState,
}

impl Core {
    pub(crate) fn new(limits: LimitsHandle) -> Arc<Self> {
        let metrics = Metrics::default();
        Arc::new(Self {
            events: Events::new(metrics.clone()),
            registry: Registry::default(),
            rates: Rates::new(&limits.load()),
            seats: Arc::default(),
            bodies: Budget::default(),
            refusals: Budget::default(),
            pool: Pool::new(limits.clone(), metrics.clone()),
            shutdown: Shutdown::new(metrics.tasks().clone()),
            next_session: AtomicU64::new(1),
            peers: RandomState::new(),
            limits,
            metrics,
        })
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
