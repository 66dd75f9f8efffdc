//! How often a peer may ask: one bucket for each address, shared by all its connections (GCRA: the
//! bucket is the moment at which the peer has no debt any more). It does not know what a request is.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::{Limits, Refusal};

/// Addresses remembered after their last connection has gone, so that a peer does not get a fresh
/// bucket with a fresh connection: 5 MiB at most.
const PEERS_MAX: usize = 1 << 16;

/// Below this many there is no need to forget any.
const PEERS_FEW: usize = 1 << 10;

const SECOND_NS: u64 = 1_000_000_000;

/// Nanoseconds of [`Rates`]' clock at which the peer's requests are paid for.
pub(crate) type Bucket = AtomicU64;

/// The buckets of all peers.
#[derive(Debug)]
pub(crate) struct Rates {
    epoch: Instant,
    /// What one request costs, in nanoseconds; 0 when there is no limit.
    interval_ns: AtomicU64,
    /// Requests at once.
    burst: AtomicU64,
    peers: Mutex<Peers>,
}

#[derive(Debug, Default)]
struct Peers {
    buckets: HashMap<IpAddr, Arc<Bucket>>,
    /// With as many as this, the forgettable are forgotten.
    enough: usize,
}

impl Rates {
    pub(crate) fn new(limits: &Limits) -> Self {
        let rates = Self {
            epoch: Instant::now(),
            interval_ns: AtomicU64::new(0),
            burst: AtomicU64::new(1),
            peers: Mutex::default(),
        };
        rates.set(limits);
        rates
    }

    /// Puts other limits in force; debts stay.
    pub(crate) fn set(&self, limits: &Limits) {
        let interval = SECOND_NS.checked_div(limits.requests_per_s_per_peer_max as u64).map_or(0, |ns| ns.max(1));
        self.burst.store(limits.requests_burst_per_peer_max as u64, Ordering::Relaxed);
        self.interval_ns.store(interval, Ordering::Relaxed);
    }

    /// Whether there is a limit.
    pub(crate) fn are_limited(&self) -> bool {
        self.interval_ns.load(Ordering::Relaxed) > 0
    }

    /// The bucket of a peer, to be kept by its connection.
    pub(crate) fn bucket(&self, peer: IpAddr) -> Arc<Bucket> {
        let mut peers = self.peers.lock();
        if peers.buckets.len() >= peers.enough.max(PEERS_FEW) && !peers.buckets.contains_key(&peer) {
            peers.forget(self.now());
        }
        peers.buckets.entry(peer).or_default().clone()
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// Takes `requests` more out of `bucket`; more than a burst costs a burst.
    pub(crate) fn admit(&self, bucket: &Bucket, requests: u32) -> Result<(), Refusal> {
        self.admit_at(self.now(), bucket, requests)
    }

    fn admit_at(&self, now: u64, bucket: &Bucket, requests: u32) -> Result<(), Refusal> {
        let (interval, burst) = (self.interval_ns.load(Ordering::Relaxed), self.burst.load(Ordering::Relaxed));
        let cost = interval.saturating_mul(burst.min(requests.into()));
        let most = now.saturating_add(interval.saturating_mul(burst));
        let pay = |debt: u64| Some(debt.max(now).saturating_add(cost)).filter(|paid| *paid <= most);
        bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay).map(drop).map_err(|debt| {
            let early_ns = debt.max(now).saturating_add(cost) - most;
            Refusal::Rate { retry_ms: u32::try_from(early_ns.div_ceil(1_000_000)).unwrap_or(u32::MAX) }
        })
    }

    #[cfg(test)]
    fn peers(&self) -> usize {
        self.peers.lock().buckets.len()
    }
}

impl Peers {
    /// Forgets who has gone and owes nothing, and when that is not enough, everybody who has gone.
    fn forget(&mut self, now: u64) {
        let here = |bucket: &Arc<Bucket>| Arc::strong_count(bucket) > 1;
        self.buckets.retain(|_, bucket| here(bucket) || bucket.load(Ordering::Relaxed) > now);
        if self.buckets.len() >= PEERS_MAX {
            self.buckets.retain(|_, bucket| here(bucket));
        }
        // So that a crowd that can't be forgotten is not looked at for each newcomer.
        self.enough = 2 * self.buckets.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(per_s: usize, burst: usize) -> Rates {
        let (requests_per_s_per_peer_max, requests_burst_per_peer_max) = (per_s, burst);
        Rates::new(&Limits { requests_per_s_per_peer_max, requests_burst_per_peer_max, ..Limits::default() })
    }

    #[test]
    fn a_burst_goes_through_and_then_one_an_interval() {
        let (rates, bucket) = (rates(10, 3), Bucket::default());
        let check = |at_ms: u64, requests, retry_ms: Option<u32>| {
            let told = rates.admit_at(at_ms * 1_000_000, &bucket, requests);
            assert_eq!(told.err(), retry_ms.map(|retry_ms| Refusal::Rate { retry_ms }), "at {at_ms} ms");
        };
        check(1_000, 1, None);
        check(1_000, 2, None);
        check(1_000, 1, Some(100));
        check(1_050, 1, Some(50));
        check(1_050, 3, Some(250));
        check(1_100, 1, None);
        check(1_199, 1, Some(1));
        check(1_200, 1, None);
        // A peer that was away has a whole burst, and no more.
        check(90_000, 3, None);
        check(90_000, 1, Some(100));
        // More than a burst at once waits for a whole one, not for ever.
        check(90_299, 99, Some(1));
        check(90_300, 99, None);
    }

    #[test]
    fn limits_change_under_way() {
        let (rates, bucket) = (rates(0, 1), Bucket::default());
        assert!(!rates.are_limited());
        rates.set(&Limits { requests_per_s_per_peer_max: 1, requests_burst_per_peer_max: 2, ..Limits::default() });
        assert!(rates.are_limited());
        assert!(rates.admit_at(0, &bucket, 2).is_ok() && rates.admit_at(0, &bucket, 1).is_err());
        rates.set(&Limits { requests_per_s_per_peer_max: usize::MAX, ..Limits::default() });
        assert!(rates.are_limited() && rates.admit_at(2 * SECOND_NS, &bucket, 1).is_ok());
    }

    #[test]
    fn peers_are_forgotten_when_they_are_many() {
        let rates = rates(1, 1);
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        let stays = rates.bucket(address(0));
        rates.admit_at(rates.now(), &stays, 1).unwrap();
        for n in 1..=3 * PEERS_MAX as u32 {
            let bucket = rates.bucket(address(n));
            // All owe for far longer than the test runs.
            bucket.store(u64::MAX / 2, Ordering::Relaxed);
            assert!(rates.peers() <= 2 * PEERS_MAX, "{}", rates.peers());
        }
        assert!(Arc::ptr_eq(&stays, &rates.bucket(address(0))));
        let paid = Rates::new(&Limits::default());
        for n in 0..2 * PEERS_FEW as u32 {
            paid.bucket(address(n));
            assert!(paid.peers() <= PEERS_FEW);
        }
    }
}
