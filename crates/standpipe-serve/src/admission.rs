//! Who and what is let in: seats for connections, bytes of bodies, watchers, refusals in progress.
//!
//! A permit is acquired in one step and given back by dropping it; nothing here checks first and
//! adds later. It does not decide what a refused peer is told: that is its door's.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::core::Core;
use crate::{Limits, Peer, Session};

/// Why something was not let in; each can be told to the peer as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `connections_max` are open.
    #[error("the server has as many connections as it may have (connections_max); try again")]
    Connections,
    /// `connections_per_door_max` are open on this door.
    #[error("this port has as many connections as it may have (connections_per_door_max); try again")]
    DoorConnections,
    /// `connections_per_peer_max` are open from this address.
    #[error("too many connections from your address (connections_per_peer_max); close some")]
    PeerConnections,
    /// The queue of this class holds `queue_jobs_max` jobs or `queue_bytes_max` bytes.
    #[error("the server is overloaded: its queue is full (queue_jobs_max, queue_bytes_max); try again")]
    QueueFull {
        /// How long jobs of the class wait now, in milliseconds.
        retry_ms: u32,
    },
    /// The address asks more often than `requests_per_s_per_peer_max`.
    #[error("too many requests from your address (requests_per_s_per_peer_max); try again in {retry_ms} ms")]
    Rate {
        /// When the next one is let in, in milliseconds.
        retry_ms: u32,
    },
    /// `bodies_bytes_in_flight_max` are being received.
    #[error("the server is receiving as much at once as it may (bodies_bytes_in_flight_max); try again")]
    Bodies,
    /// `watchers_max` are attached.
    #[error("the server has as many watchers as it may have (watchers_max); try again")]
    Watchers,
    /// `watchers_per_connection_max` are attached to this connection.
    #[error("too many watchers on one connection (watchers_per_connection_max); close some")]
    ConnectionWatchers,
    /// `listens_per_session_max` are attached to this session.
    #[error("too many listens in one session (listens_per_session_max); stop some")]
    SessionListens,
    /// The node stops.
    #[error("the server is shutting down; try again")]
    Stopping,
    /// A peer that speaks without TLS where TLS is spoken.
    #[error("this port speaks TLS: use https (or your client's TLS option)")]
    Plaintext,
}

impl Refusal {
    /// All of them; the position is the index of their counter.
    pub const ALL: [Self; 11] = [
        Self::Connections,
        Self::DoorConnections,
        Self::PeerConnections,
        Self::QueueFull { retry_ms: 0 },
        Self::Rate { retry_ms: 0 },
        Self::Bodies,
        Self::Watchers,
        Self::ConnectionWatchers,
        Self::SessionListens,
        Self::Stopping,
        Self::Plaintext,
    ];

    /// Position in [`Refusal::ALL`].
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Connections => 0,
            Self::DoorConnections => 1,
            Self::PeerConnections => 2,
            Self::QueueFull { .. } => 3,
            Self::Rate { .. } => 4,
            Self::Bodies => 5,
            Self::Watchers => 6,
            Self::ConnectionWatchers => 7,
            Self::SessionListens => 8,
            Self::Stopping => 9,
            Self::Plaintext => 10,
        }
    }

    /// Stable name for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::DoorConnections => "door_connections",
            Self::PeerConnections => "peer_connections",
            Self::QueueFull { .. } => "queue_full",
            Self::Rate { .. } => "rate",
            Self::Bodies => "bodies",
            Self::Watchers => "watchers",
            Self::ConnectionWatchers => "connection_watchers",
            Self::SessionListens => "session_listens",
            Self::Stopping => "stopping",
            Self::Plaintext => "plaintext",
        }
    }

    /// When it makes sense to try again: as long as the queue makes wait now, or the rate does; seats
    /// are slow to free.
    pub const fn retry_after(self) -> Duration {
        match self {
            Self::QueueFull { retry_ms } | Self::Rate { retry_ms } => Duration::from_millis(retry_ms as u64),
            Self::Bodies | Self::Stopping | Self::Plaintext => Duration::from_secs(1),
            Self::Connections | Self::DoorConnections | Self::Watchers => Duration::from_secs(5),
            Self::PeerConnections | Self::ConnectionWatchers | Self::SessionListens => Duration::from_secs(10),
        }
    }
}

/// The connection seats taken. Plain data: [`Seats`] puts the lock around it.
#[derive(Debug, Default)]
struct Taken {
    all: usize,
    doors: HashMap<&'static str, usize>,
    /// Bounded by `all`: an address is forgotten with its last connection.
    peers: HashMap<IpAddr, usize>,
}

impl Taken {
    fn take(&mut self, door: &'static str, peer: Option<IpAddr>, limits: &Limits) -> Result<(), Refusal> {
        let at_door = self.doors.get(door).copied().unwrap_or(0);
        let of_peer = peer.and_then(|peer| self.peers.get(&peer)).copied().unwrap_or(0);
        if self.all >= limits.connections_max {
            return Err(Refusal::Connections);
        }
        if at_door >= limits.connections_per_door_max {
            return Err(Refusal::DoorConnections);
        }
        if of_peer >= limits.connections_per_peer_max {
            return Err(Refusal::PeerConnections);
        }
        self.all += 1;
        self.doors.insert(door, at_door + 1);
        if let Some(peer) = peer {
            self.peers.insert(peer, of_peer + 1);
        }
        Ok(())
    }

    fn give(&mut self, door: &'static str, peer: Option<IpAddr>) {
        self.all -= 1;
        leave(&mut self.doors, door);
        if let Some(peer) = peer {
            leave(&mut self.peers, peer);
        }
    }
}

fn leave<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let std::collections::hash_map::Entry::Occupied(mut entry) = counts.entry(key) {
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

/// The seats for connections: in all, per door and per peer, taken as one.
#[derive(Debug, Default)]
pub(crate) struct Seats(Mutex<Taken>);

impl Seats {
    /// Takes a seat in all three counts, or in none.
    pub(crate) fn take(self: &Arc<Self>, door: &'static str, peer: Peer, limits: &Limits) -> Result<Seat, Refusal> {
        let peer = peer_key(peer);
        self.0.lock().take(door, peer, limits)?;
        Ok(Seat { seats: self.clone(), door, peer })
    }

    #[cfg(test)]
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let taken = self.0.lock();
        (taken.all, taken.doors.len(), taken.peers.len())
    }
}

/// A connection's seat; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Arc<Seats>,
    door: &'static str,
    peer: Option<IpAddr>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.0.lock().give(self.door, self.peer);
    }
}

/// What counts as one peer: an IPv4 address (also when mapped), or the /64 an IPv6 host is given.
/// Local peers are only bounded in all.
pub(crate) fn peer_key(peer: Peer) -> Option<IpAddr> {
    let Peer::Ip(address) = peer else { return None };
    Some(match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    })
}

/// Bytes of a body in flight; dropping it gives them back.
#[derive(Debug)]
pub struct BytesPermit {
    session: Session,
    held: usize,
}

impl BytesPermit {
    pub(crate) fn new(session: Session) -> Self {
        Self { session, held: 0 }
    }

    /// Takes `bytes` more.
    ///
    /// # Errors
    /// [`Refusal::Bodies`] when `bodies_bytes_in_flight_max` would be exceeded; what is held stays.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let core = self.session.core();
        if bytes > 0 && !core.bodies.try_take(bytes, core.limits.load().bodies_bytes_in_flight_max) {
            return Err(self.session.refused(Refusal::Bodies));
        }
        self.held += bytes;
        Ok(())
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.held
    }
}

impl Drop for BytesPermit {
    fn drop(&mut self) {
        self.session.core().bodies.give(self.held);
    }
}

/// A watcher's place on the node and on its connection; dropping it gives both back.
#[derive(Debug)]
pub struct WatchPermit(Session);

impl WatchPermit {
    /// Both budgets are exact at every moment: a failed attempt may only hold, for an instant, a
    /// place of its own connection.
    pub(crate) fn take(session: Session) -> Result<Self, Refusal> {
        let max = session.core().limits.load().watchers_per_connection_max;
        Self::take_of(session, max, Refusal::ConnectionWatchers)
    }

    /// As [`WatchPermit::take`], where one connection is made for many.
    pub(crate) fn take_listen(session: Session) -> Result<Self, Refusal> {
        let max = session.core().limits.load().listens_per_session_max;
        Self::take_of(session, max, Refusal::SessionListens)
    }

    fn take_of(session: Session, max: usize, beyond: Refusal) -> Result<Self, Refusal> {
        let core = session.core();
        let limits = core.limits.load();
        if !session.watchers().try_take(1, max) {
            return Err(session.refused(beyond));
        }
        if !core.metrics.watchers().try_take(1, limits.watchers_max) {
            session.watchers().give(1);
            return Err(session.refused(Refusal::Watchers));
        }
        drop(limits);
        Ok(Self(session))
    }
}

impl Drop for WatchPermit {
    fn drop(&mut self) {
        self.0.core().metrics.watchers().give(1);
        self.0.watchers().give(1);
    }
}

/// Permission to tell one peer "no"; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct RefusalPermit(Arc<Core>);

impl RefusalPermit {
    pub(crate) fn take(core: &Arc<Core>, limits: &Limits) -> Option<Self> {
        core.refusals.try_take(1, limits.refusal_budget_max).then(|| Self(core.clone()))
    }
}

impl Drop for RefusalPermit {
    fn drop(&mut self) {
        self.0.refusals.give(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Peer {
        Peer::Ip(text.parse().unwrap())
    }

    #[test]
    fn seats_are_taken_in_all_counts_or_in_none() {
        let limits = Limits {
            connections_max: 4,
            connections_per_door_max: 3,
            connections_per_peer_max: 2,
            ..Limits::default()
        };
        let seats = Arc::new(Seats::default());
        let first = seats.take("a", peer("10.0.0.1"), &limits).unwrap();
        let second = seats.take("a", peer("::ffff:10.0.0.1"), &limits).unwrap();
        assert_eq!(seats.take("a", peer("10.0.0.1"), &limits).unwrap_err(), Refusal::PeerConnections);
        let third = seats.take("a", peer("2001:db8::1"), &limits).unwrap();
        assert_eq!(seats.take("a", peer("10.0.0.2"), &limits).unwrap_err(), Refusal::DoorConnections);
        let fourth = seats.take("b", peer("2001:db8::2"), &limits).unwrap();
        assert_eq!(seats.take("b", Peer::Local, &limits).unwrap_err(), Refusal::Connections);
        assert_eq!(seats.counts(), (4, 2, 2));
        drop((first, second, third));
        assert_eq!(seats.counts(), (1, 1, 1));
        drop(fourth);
        assert_eq!(seats.counts(), (0, 0, 0));
    }

    #[test]
    fn every_refusal_has_a_number() {
        for (index, refusal) in Refusal::ALL.iter().enumerate() {
            assert_eq!(refusal.index(), index, "{}", refusal.as_str());
        }
    }
}
