//! The fair queue: which job is next. Plain data without clock, lock or thread, so that it can be
//! model checked; `pool.rs` puts a lock around it and workers behind it.
//!
//! Classes share by weight (stride scheduling). Inside a class the peers take turns by cost, and
//! inside a peer its sessions do (start-time fair queueing): the next job of one starts, in virtual
//! time, where its last one ended, and one that was away starts at the present. So a flood delays
//! another session by at most the one job in front of it, a peer with a hundred connections gets the
//! turns of one, large jobs count for more turns, and jobs of one session keep their order. Every
//! step is logarithmic in the number of peers and sessions waiting.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use crate::Class;

/// A job costs at least this in its session's share, so that many tiny ones are no free ride.
const COST_BYTES_MIN: usize = 1 << 10;

/// Members that left kept for reuse, and members that may leave before their turn unnoticed.
const SPARE_MAX: usize = 16;

/// What a class of weight 1 moves on for one job; divisible by every weight.
const STRIDE: u64 = 8;

/// Whose job it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Sessions that share the turns of one.
    pub(crate) peer: u64,
    pub(crate) session: u64,
}

/// Names a queued job, to withdraw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    class: Class,
    owner: Owner,
    number: u64,
}

/// How much may wait in each class.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) jobs: usize,
    pub(crate) bytes: usize,
}

/// Jobs waiting, in the order of fairness.
#[derive(Debug)]
pub(crate) struct FairQueue<J> {
    classes: [ClassQueue<J>; Class::ALL.len()],
    /// Where the class served last stood; a class that was empty joins here.
    pass: u64,
    next_number: u64,
}

#[derive(Debug)]
struct ClassQueue<J> {
    peers: Turns<Turns<Lane<J>>>,
    pass: u64,
    jobs: usize,
    bytes: usize,
}

/// The jobs of one session, in their order.
type Lane<J> = VecDeque<Waiting<J>>;

#[derive(Debug)]
struct Waiting<J> {
    number: u64,
    bytes: usize,
    job: J,
}

/// Members that take turns by cost; only those with jobs waiting are members.
#[derive(Debug)]
struct Turns<M> {
    members: HashMap<u64, Member<M>, BuildHasherDefault<KeyHasher>>,
    /// Every member by virtual start, then by arrival. Who left before its turn is still in here, and
    /// passed over: most leave at their turn.
    ready: BinaryHeap<Reverse<(Place, u64)>>,
    /// Virtual start of the turn taken last.
    now: u64,
    /// What members were that have left, for those to come: nothing is allocated in the long run.
    spare: Vec<M>,
}

/// Virtual start and number of arrival; no two are the same.
type Place = (u64, u64);

#[derive(Debug)]
struct Member<M> {
    place: Place,
    of: M,
}

/// Keys are numbers of sessions, and hashes of addresses that no peer can foresee: spread over all
/// bits they do for a hash.
#[derive(Clone, Copy, Debug, Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = (self.0 ^ key).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
    }
}

impl<M> Default for Turns<M> {
    fn default() -> Self {
        Self { members: HashMap::default(), ready: BinaryHeap::new(), now: 0, spare: Vec::new() }
    }
}

impl<M: Default> Turns<M> {
    /// The member `key`; a new one starts at the present, behind those that came before `number`.
    fn enter(&mut self, key: u64, number: u64) -> &mut M {
        let Self { members, ready, now, spare } = self;
        let place = (*now, number);
        let member = members.entry(key).or_insert_with(|| {
            ready.push(Reverse((place, key)));
            Member { place, of: spare.pop().unwrap_or_default() }
        });
        &mut member.of
    }

    fn get(&self, key: u64) -> Option<&M> {
        self.members.get(&key).map(|member| &member.of)
    }

    fn get_mut(&mut self, key: u64) -> Option<&mut M> {
        self.members.get_mut(&key).map(|member| &mut member.of)
    }

    /// Whose turn it is.
    fn first(&mut self) -> Option<u64> {
        while let Some(&Reverse((place, key))) = self.ready.peek() {
            if self.members.get(&key).is_some_and(|member| member.place == place) {
                self.now = place.0;
                return Some(key);
            }
            self.ready.pop();
        }
        None
    }

    /// The turn of `key`, which is the first, cost this.
    fn charge(&mut self, key: u64, cost: u64) {
        if let (Some(member), Some(mut first)) = (self.members.get_mut(&key), self.ready.peek_mut()) {
            debug_assert_eq!(first.0, (member.place, key), "who pays has had its turn");
            member.place.0 += cost;
            *first = Reverse((member.place, key));
        }
    }

    fn leave(&mut self, key: u64) {
        let Some(member) = self.members.remove(&key) else { return };
        if self.spare.len() < SPARE_MAX {
            self.spare.push(member.of);
        }
        if self.ready.len() > 2 * self.members.len() + SPARE_MAX {
            let members = &self.members;
            self.ready.retain(|Reverse((place, key))| members.get(key).is_some_and(|member| member.place == *place));
        }
    }

    fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Gives back what a crowd needed.
    fn shrink(&mut self) {
        self.members.shrink_to(SPARE_MAX);
        self.ready.shrink_to(2 * SPARE_MAX);
    }

    fn each(&self) -> impl Iterator<Item = (u64, &M)> {
        self.members.iter().map(|(key, member)| (*key, &member.of))
    }

    fn into_each(self) -> impl Iterator<Item = M> {
        self.members.into_values().map(|member| member.of)
    }
}

impl<J> Default for FairQueue<J> {
    fn default() -> Self {
        Self { classes: std::array::from_fn(|_| ClassQueue::default()), pass: 0, next_number: 0 }
    }
}

impl<J> Default for ClassQueue<J> {
    fn default() -> Self {
        Self { peers: Turns::default(), pass: 0, jobs: 0, bytes: 0 }
    }
}

impl<J> FairQueue<J> {
    /// Adds a job of `bytes` cost behind those of its session, or gives it back when its class is
    /// full.
    pub(crate) fn push(
        &mut self,
        class: Class,
        owner: Owner,
        bytes: usize,
        job: J,
        bounds: Bounds,
    ) -> Result<Ticket, J> {
        let queue = &mut self.classes[class.index()];
        if queue.jobs >= bounds.jobs || bytes > bounds.bytes.saturating_sub(queue.bytes) {
            return Err(job);
        }
        if queue.jobs == 0 {
            queue.pass = queue.pass.max(self.pass);
        }
        let number = self.next_number;
        self.next_number += 1;
        queue.push(owner, Waiting { number, bytes, job });
        Ok(Ticket { class, owner, number })
    }

    /// Takes the job whose turn it is; one of class `Bulk` only if it may.
    pub(crate) fn pop(&mut self, bulk: bool) -> Option<(Class, J)> {
        let classes = if bulk { &Class::ALL[..] } else { &Class::ALL[..Class::Bulk.index()] };
        let waiting = classes.iter().copied().filter(|class| self.classes[class.index()].jobs > 0);
        let class = waiting.min_by_key(|class| self.classes[class.index()].pass)?;
        let queue = &mut self.classes[class.index()];
        self.pass = queue.pass;
        queue.pass += STRIDE / class.weight();
        queue.pop().map(|job| (class, job))
    }

    /// Takes a job out whose caller has gone; `None` when it has been started.
    pub(crate) fn withdraw(&mut self, ticket: Ticket) -> Option<J> {
        self.classes[ticket.class.index()].withdraw(ticket)
    }

    /// Everything that waits, in no order.
    pub(crate) fn each(&self) -> impl Iterator<Item = (Ticket, &J)> {
        Class::ALL.into_iter().flat_map(|class| {
            self.classes[class.index()].peers.each().flat_map(move |(peer, sessions)| {
                sessions.each().flat_map(move |(session, lane)| {
                    let owner = Owner { peer, session };
                    lane.iter().map(move |waiting| (Ticket { class, owner, number: waiting.number }, &waiting.job))
                })
            })
        })
    }

    /// Takes everything, in no order.
    pub(crate) fn clear(&mut self) -> Vec<J> {
        let classes = std::mem::take(&mut self.classes);
        let lanes = classes.into_iter().flat_map(|queue| queue.peers.into_each().flat_map(Turns::into_each));
        lanes.flatten().map(|waiting| waiting.job).collect()
    }

    /// Jobs that [`FairQueue::pop`] could take.
    pub(crate) fn jobs(&self, bulk: bool) -> usize {
        let all: usize = self.classes.iter().map(|queue| queue.jobs).sum();
        if bulk { all } else { all - self.classes[Class::Bulk.index()].jobs }
    }

    /// Jobs and bytes waiting in `class`.
    pub(crate) fn depth(&self, class: Class) -> (usize, usize) {
        let queue = &self.classes[class.index()];
        (queue.jobs, queue.bytes)
    }
}

impl<J> ClassQueue<J> {
    fn push(&mut self, owner: Owner, job: Waiting<J>) {
        self.jobs += 1;
        self.bytes += job.bytes;
        let number = job.number;
        self.peers.enter(owner.peer, number).enter(owner.session, number).push_back(job);
    }

    fn pop(&mut self) -> Option<J> {
        let peer = self.peers.first()?;
        let session = self.peers.get_mut(peer)?.first()?;
        self.take(Owner { peer, session }, 0, true)
    }

    fn withdraw(&mut self, ticket: Ticket) -> Option<J> {
        let lane = self.peers.get(ticket.owner.peer)?.get(ticket.owner.session)?;
        // Numbers of a lane only grow.
        let at = lane.binary_search_by_key(&ticket.number, |waiting| waiting.number).ok()?;
        self.take(ticket.owner, at, false)
    }

    /// Takes the job at `at` of a lane; session and peer pay for it when it was `served`.
    fn take(&mut self, Owner { peer, session }: Owner, at: usize, served: bool) -> Option<J> {
        let sessions = self.peers.get_mut(peer)?;
        let lane = sessions.get_mut(session)?;
        let taken = lane.remove(at)?;
        let cost = if served { taken.bytes.max(COST_BYTES_MIN) as u64 } else { 0 };
        self.jobs -= 1;
        self.bytes -= taken.bytes;
        if lane.is_empty() {
            lane.shrink_to(SPARE_MAX);
            sessions.leave(session);
        } else if served {
            sessions.charge(session, cost);
        }
        if sessions.is_empty() {
            sessions.shrink();
            self.peers.leave(peer);
        } else if served {
            self.peers.charge(peer, cost);
        }
        Some(taken.job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: Bounds = Bounds { jobs: 100_000, bytes: 1 << 30 };

    fn pop<J>(queue: &mut FairQueue<J>) -> Option<J> {
        queue.pop(true).map(|(_, job)| job)
    }

    /// A session of a peer of its own.
    fn alone(session: u64) -> Owner {
        Owner { peer: session, session }
    }

    /// Pushes `(session, bytes)` in order and tells the order they come out, as session.index.
    fn check(pushes: &[(u64, usize)], expected: &str) {
        let mut queue = FairQueue::default();
        for (index, &(session, bytes)) in pushes.iter().enumerate() {
            queue.push(Class::Read, alone(session), bytes, format!("{session}.{index}"), WIDE).unwrap();
        }
        let order: Vec<_> = std::iter::from_fn(|| pop(&mut queue)).collect();
        assert_eq!(order.join(" "), expected);
        assert_eq!((queue.jobs(true), queue.depth(Class::Read)), (0, (0, 0)));
        assert!(queue.classes.iter().all(|class| class.peers.is_empty() && class.peers.ready.len() <= SPARE_MAX));
    }

    #[test]
    fn sessions_take_turns_and_keep_their_order() {
        check(&[(1, 0), (1, 0), (1, 0)], "1.0 1.1 1.2");
        check(&[(1, 0), (1, 0), (2, 0), (2, 0), (3, 0)], "1.0 2.2 3.4 1.1 2.3");
        // A job of twice the cost takes two turns.
        check(&[(1, 4096), (1, 4096), (2, 2048), (2, 2048), (2, 2048)], "1.0 2.2 2.3 1.1 2.4");
    }

    #[test]
    fn a_flood_delays_a_newcomer_by_no_job_at_all() {
        let mut queue = FairQueue::default();
        for index in 0..10_000 {
            queue.push(Class::Read, alone(1), 1 << 16, index, WIDE).unwrap();
        }
        for _ in 0..7 {
            pop(&mut queue);
        }
        queue.push(Class::Read, alone(2), 1 << 16, 77_777, WIDE).unwrap();
        assert_eq!(pop(&mut queue), Some(77_777));
    }

    #[test]
    fn a_peer_with_many_connections_gets_the_turns_of_one() {
        let mut queue = FairQueue::default();
        for session in 0..100 {
            queue.push(Class::Read, Owner { peer: 1, session }, 1, 1, WIDE).unwrap();
        }
        for _ in 0..10 {
            queue.push(Class::Read, Owner { peer: 2, session: 200 }, 1, 2, WIDE).unwrap();
        }
        let turns: Vec<_> = (0..20).filter_map(|_| pop(&mut queue)).collect();
        assert_eq!(turns, [1, 2].repeat(10));
    }

    #[test]
    fn connections_of_one_peer_take_turns_among_themselves() {
        let mut queue = FairQueue::default();
        for (session, job) in [(1, "1a"), (1, "1b"), (1, "1c"), (2, "2a"), (2, "2b")] {
            queue.push(Class::Read, Owner { peer: 1, session }, 1, job, WIDE).unwrap();
        }
        let order: Vec<_> = std::iter::from_fn(|| pop(&mut queue)).collect();
        assert_eq!(order.join(" "), "1a 2a 1b 2b 1c");
    }

    #[test]
    fn bulk_waits_where_it_may_not() {
        let mut queue = FairQueue::default();
        queue.push(Class::Bulk, alone(1), 1, "bulk", WIDE).unwrap();
        assert_eq!((queue.jobs(false), queue.jobs(true), queue.pop(false)), (0, 1, None));
        queue.push(Class::Read, alone(1), 1, "read", WIDE).unwrap();
        assert_eq!(queue.pop(false), Some((Class::Read, "read")));
        assert_eq!(queue.pop(true), Some((Class::Bulk, "bulk")));
    }

    #[test]
    fn a_newcomer_has_saved_up_no_turns() {
        let mut queue = FairQueue::default();
        let arrive = |queue: &mut FairQueue<u64>, session| {
            (0..100).for_each(|_| assert!(queue.push(Class::Read, alone(session), 1 << 16, session, WIDE).is_ok()));
        };
        arrive(&mut queue, 1);
        (0..50).for_each(|_| assert_eq!(pop(&mut queue), Some(1)));
        arrive(&mut queue, 2);
        let turns: Vec<_> = (0..6).filter_map(|_| pop(&mut queue)).collect();
        assert_eq!(turns, [2, 1, 2, 1, 2, 1]);
    }

    #[test]
    fn classes_share_by_weight_and_none_starves() {
        let mut queue = FairQueue::default();
        for class in Class::ALL {
            for _ in 0..100 {
                queue.push(class, alone(1), 1, class, WIDE).unwrap();
            }
        }
        let turns: Vec<_> = (0..30).filter_map(|_| pop(&mut queue)).collect();
        let count = |class| turns.iter().filter(|turn| **turn == class).count();
        assert_eq!(Class::ALL.map(count), [16, 8, 4, 2]);
        assert_eq!(turns[0], Class::Control);
    }

    #[test]
    fn an_idle_class_saves_up_no_turns() {
        let mut queue = FairQueue::default();
        for _ in 0..100 {
            queue.push(Class::Read, alone(1), 1, Class::Read, WIDE).unwrap();
        }
        (0..50).for_each(|_| assert_eq!(pop(&mut queue), Some(Class::Read)));
        for _ in 0..100 {
            queue.push(Class::Bulk, alone(1), 1, Class::Bulk, WIDE).unwrap();
        }
        let turns: Vec<_> = (0..9).filter_map(|_| pop(&mut queue)).collect();
        assert_eq!(turns.iter().filter(|class| **class == Class::Bulk).count(), 3);
    }

    #[test]
    fn a_full_class_gives_the_job_back() {
        let bounds = Bounds { jobs: 2, bytes: 100 };
        let mut queue = FairQueue::default();
        assert!(queue.push(Class::Read, alone(1), 101, "too large", bounds).is_err());
        queue.push(Class::Read, alone(1), 60, "a", bounds).unwrap();
        assert_eq!(queue.push(Class::Read, alone(2), 41, "bytes", bounds), Err("bytes"));
        queue.push(Class::Read, alone(2), 40, "b", bounds).unwrap();
        assert_eq!(queue.push(Class::Read, alone(3), 0, "count", bounds), Err("count"));
        queue.push(Class::Write, alone(3), 0, "another class", bounds).unwrap();
    }

    /// Against a naive list: random pushes, pops and withdrawals lose and double nothing.
    #[test]
    fn withdrawals_leave_no_trace() {
        let mut random = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut queue = FairQueue::default();
        let mut waiting: Vec<(Ticket, u64)> = Vec::new();
        let mut gone = Vec::new();
        for job in 0..20_000 {
            let class = Class::ALL[next(4) as usize];
            let bytes = next(9_000) as usize;
            waiting
                .push((queue.push(class, Owner { peer: next(3), session: next(5) }, bytes, job, WIDE).unwrap(), job));
            match next(4) {
                0 => {
                    let at = next(waiting.len() as u64) as usize;
                    let (ticket, job) = waiting.swap_remove(at);
                    assert_eq!(queue.withdraw(ticket), Some(job));
                    gone.push(ticket);
                }
                1 | 2 => {
                    let job = pop(&mut queue).unwrap();
                    let at = waiting.iter().position(|(_, waits)| *waits == job).unwrap();
                    let (ticket, _) = waiting.swap_remove(at);
                    let older = |(other, waits): &(Ticket, u64)| {
                        (other.class, other.owner) == (ticket.class, ticket.owner) && *waits < job
                    };
                    assert!(!waiting.iter().any(older), "order within a session");
                    gone.push(ticket);
                }
                _ => {}
            }
            assert_eq!(queue.jobs(true), waiting.len());
        }
        assert_eq!(queue.each().count(), waiting.len());
        assert!(queue.each().all(|(ticket, job)| waiting.contains(&(ticket, *job))));
        assert!(gone.into_iter().all(|ticket| queue.withdraw(ticket).is_none()));
        assert!(queue.classes.iter().all(|class| class.peers.ready.len() <= 3 + SPARE_MAX));
        assert_eq!(queue.clear().len(), waiting.len());
        assert_eq!(queue.jobs(true), 0);
    }
}
