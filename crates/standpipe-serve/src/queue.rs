//! The fair queue: which job is next. Plain data without clock, lock or thread, so that it can be
//! model checked; `pool.rs` puts a lock around it and workers behind it.
//!
//! Classes share by weight (stride scheduling). Inside a class the sessions take turns by cost
//! (start-time fair queueing): a session's next job starts, in virtual time, where its last one
//! ended, and a session that was away starts at the present. So a flood delays another session by
//! at most the one job in front of it, large jobs count for more turns, and jobs of one session
//! keep their order. Every step is logarithmic in the number of sessions waiting.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::Class;

/// A job costs at least this in its session's share, so that many tiny ones are no free ride.
const COST_BYTES_MIN: usize = 1 << 10;

/// What a class of weight 1 moves on for one job; divisible by every weight.
const STRIDE: u64 = 8;

/// Names a queued job, to withdraw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    class: Class,
    session: u64,
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
    /// Only sessions with jobs waiting.
    lanes: HashMap<u64, Lane<J>>,
    /// The first job of each lane by virtual start, then by arrival.
    ready: BTreeMap<(u64, u64), u64>,
    /// Virtual start of the job served last.
    now: u64,
    pass: u64,
    jobs: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Lane<J> {
    /// Virtual start of the first job.
    start: u64,
    waiting: VecDeque<Waiting<J>>,
}

#[derive(Debug)]
struct Waiting<J> {
    number: u64,
    bytes: usize,
    job: J,
}

impl<J> Default for FairQueue<J> {
    fn default() -> Self {
        Self { classes: std::array::from_fn(|_| ClassQueue::default()), pass: 0, next_number: 0 }
    }
}

impl<J> Default for ClassQueue<J> {
    fn default() -> Self {
        Self { lanes: HashMap::new(), ready: BTreeMap::new(), now: 0, pass: 0, jobs: 0, bytes: 0 }
    }
}

impl<J> FairQueue<J> {
    /// Adds a job of `bytes` cost behind those of its session, or gives it back when its class is
    /// full.
    pub(crate) fn push(
        &mut self,
        class: Class,
        session: u64,
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
        queue.push(session, Waiting { number, bytes, job });
        Ok(Ticket { class, session, number })
    }

    /// Takes the job whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<J> {
        let waiting = Class::ALL.into_iter().filter(|class| self.classes[class.index()].jobs > 0);
        let class = waiting.min_by_key(|class| self.classes[class.index()].pass)?;
        let queue = &mut self.classes[class.index()];
        self.pass = queue.pass;
        queue.pass += STRIDE / class.weight();
        queue.pop()
    }

    /// Takes a job out whose caller has gone; `None` when it has been started.
    pub(crate) fn withdraw(&mut self, ticket: Ticket) -> Option<J> {
        self.classes[ticket.class.index()].withdraw(ticket)
    }

    /// Whether a job still waits.
    pub(crate) fn holds(&self, ticket: Ticket) -> bool {
        self.classes[ticket.class.index()].find(ticket).is_some()
    }

    /// Takes everything, in no order.
    pub(crate) fn clear(&mut self) -> Vec<J> {
        let classes = std::mem::take(&mut self.classes);
        let lanes = classes.into_iter().flat_map(|queue| queue.lanes.into_values());
        lanes.flat_map(|lane| lane.waiting).map(|waiting| waiting.job).collect()
    }

    /// Jobs waiting.
    pub(crate) fn jobs(&self) -> usize {
        self.classes.iter().map(|queue| queue.jobs).sum()
    }

    /// Jobs and bytes waiting in `class`.
    pub(crate) fn depth(&self, class: Class) -> (usize, usize) {
        let queue = &self.classes[class.index()];
        (queue.jobs, queue.bytes)
    }
}

impl<J> ClassQueue<J> {
    fn push(&mut self, session: u64, job: Waiting<J>) {
        self.jobs += 1;
        self.bytes += job.bytes;
        let lane = self.lanes.entry(session).or_insert_with(|| Lane { start: self.now, waiting: VecDeque::new() });
        if lane.waiting.is_empty() {
            self.ready.insert((lane.start, job.number), session);
        }
        lane.waiting.push_back(job);
    }

    fn pop(&mut self) -> Option<J> {
        let (&(start, _), &session) = self.ready.first_key_value()?;
        self.now = start;
        self.take(session, 0, true)
    }

    fn withdraw(&mut self, ticket: Ticket) -> Option<J> {
        let at = self.find(ticket)?;
        self.take(ticket.session, at, false)
    }

    /// Position of a job in its lane, whose numbers only grow.
    fn find(&self, ticket: Ticket) -> Option<usize> {
        let lane = self.lanes.get(&ticket.session)?;
        lane.waiting.binary_search_by_key(&ticket.number, |waiting| waiting.number).ok()
    }

    /// Takes the job at `at` of a lane, which pays for it when it was `served`.
    fn take(&mut self, session: u64, at: usize, served: bool) -> Option<J> {
        let lane = self.lanes.get_mut(&session)?;
        let before = (lane.start, lane.waiting.front()?.number);
        let taken = lane.waiting.remove(at)?;
        self.jobs -= 1;
        self.bytes -= taken.bytes;
        if served {
            lane.start += taken.bytes.max(COST_BYTES_MIN) as u64;
        }
        if at == 0 {
            self.ready.remove(&before);
            if let Some(first) = lane.waiting.front() {
                self.ready.insert((lane.start, first.number), session);
            } else {
                self.lanes.remove(&session);
            }
        }
        Some(taken.job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: Bounds = Bounds { jobs: 100_000, bytes: 1 << 30 };

    /// Pushes `(session, bytes)` in order and tells the order they come out, as session.index.
    fn check(pushes: &[(u64, usize)], expected: &str) {
        let mut queue = FairQueue::default();
        for (index, &(session, bytes)) in pushes.iter().enumerate() {
            queue.push(Class::Read, session, bytes, format!("{session}.{index}"), WIDE).unwrap();
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order.join(" "), expected);
        assert_eq!((queue.jobs(), queue.depth(Class::Read)), (0, (0, 0)));
        assert!(queue.classes.iter().all(|class| class.lanes.is_empty() && class.ready.is_empty()));
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
            queue.push(Class::Read, 1, 1 << 16, index, WIDE).unwrap();
        }
        for _ in 0..7 {
            queue.pop();
        }
        queue.push(Class::Read, 2, 1 << 16, 77_777, WIDE).unwrap();
        assert_eq!(queue.pop(), Some(77_777));
    }

    #[test]
    fn a_newcomer_has_saved_up_no_turns() {
        let mut queue = FairQueue::default();
        let arrive = |queue: &mut FairQueue<u64>, session| {
            (0..100).for_each(|_| assert!(queue.push(Class::Read, session, 1 << 16, session, WIDE).is_ok()));
        };
        arrive(&mut queue, 1);
        (0..50).for_each(|_| assert_eq!(queue.pop(), Some(1)));
        arrive(&mut queue, 2);
        let turns: Vec<_> = (0..6).filter_map(|_| queue.pop()).collect();
        assert_eq!(turns, [2, 1, 2, 1, 2, 1]);
    }

    #[test]
    fn classes_share_by_weight_and_none_starves() {
        let mut queue = FairQueue::default();
        for class in Class::ALL {
            for _ in 0..100 {
                queue.push(class, 1, 1, class, WIDE).unwrap();
            }
        }
        let turns: Vec<_> = (0..30).filter_map(|_| queue.pop()).collect();
        let count = |class| turns.iter().filter(|turn| **turn == class).count();
        assert_eq!(Class::ALL.map(count), [16, 8, 4, 2]);
        assert_eq!(turns[0], Class::Control);
    }

    #[test]
    fn an_idle_class_saves_up_no_turns() {
        let mut queue = FairQueue::default();
        for _ in 0..100 {
            queue.push(Class::Read, 1, 1, Class::Read, WIDE).unwrap();
        }
        (0..50).for_each(|_| assert_eq!(queue.pop(), Some(Class::Read)));
        for _ in 0..100 {
            queue.push(Class::Bulk, 1, 1, Class::Bulk, WIDE).unwrap();
        }
        let turns: Vec<_> = (0..9).filter_map(|_| queue.pop()).collect();
        assert_eq!(turns.iter().filter(|class| **class == Class::Bulk).count(), 3);
    }

    #[test]
    fn a_full_class_gives_the_job_back() {
        let bounds = Bounds { jobs: 2, bytes: 100 };
        let mut queue = FairQueue::default();
        assert!(queue.push(Class::Read, 1, 101, "too large", bounds).is_err());
        queue.push(Class::Read, 1, 60, "a", bounds).unwrap();
        assert_eq!(queue.push(Class::Read, 2, 41, "bytes", bounds), Err("bytes"));
        queue.push(Class::Read, 2, 40, "b", bounds).unwrap();
        assert_eq!(queue.push(Class::Read, 3, 0, "count", bounds), Err("count"));
        queue.push(Class::Write, 3, 0, "another class", bounds).unwrap();
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
            waiting.push((queue.push(class, next(5), bytes, job, WIDE).unwrap(), job));
            match next(4) {
                0 => {
                    let at = next(waiting.len() as u64) as usize;
                    let (ticket, job) = waiting.swap_remove(at);
                    assert!(queue.holds(ticket));
                    assert_eq!(queue.withdraw(ticket), Some(job));
                    assert!(!queue.holds(ticket));
                    gone.push(ticket);
                }
                1 | 2 => {
                    let job = queue.pop().unwrap();
                    let at = waiting.iter().position(|(_, waits)| *waits == job).unwrap();
                    let (ticket, _) = waiting.swap_remove(at);
                    let older = |(other, waits): &(Ticket, u64)| {
                        (other.class, other.session) == (ticket.class, ticket.session) && *waits < job
                    };
                    assert!(!waiting.iter().any(older), "order within a session");
                    gone.push(ticket);
                }
                _ => {}
            }
            assert_eq!(queue.jobs(), waiting.len());
        }
        assert!(gone.into_iter().all(|ticket| queue.withdraw(ticket).is_none()));
        assert_eq!(queue.clear().len(), waiting.len());
        assert_eq!(queue.jobs(), 0);
    }
}
