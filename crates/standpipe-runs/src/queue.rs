//! Who is next: which runs wait, which are at work, and what stands between them. Fair between identities, each
//! in its own order; one run of a concurrency group at a time. Plain data: it starts nothing and knows no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};

use crate::name::{Name, RunId};

/// What the queue knows of a run.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    pub(crate) id: RunId,
    /// Whose turn it takes.
    pub(crate) by: String,
    pub(crate) job: Option<Name>,
    pub(crate) group: Option<String>,
}

/// How much may be at work at once.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    pub(crate) running_max: usize,
    pub(crate) per_identity_max: usize,
    /// Jobs with a limit of their own.
    pub(crate) per_job_max: BTreeMap<Name, usize>,
}

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    /// Orders a group across identities.
    number: u64,
    /// Its record is durable: it may start.
    ready: bool,
}

#[derive(Debug, Default)]
struct Group {
    waiting: BTreeSet<u64>,
    running: Option<RunId>,
}

/// The runs of a group.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Members {
    pub(crate) waiting: Vec<RunId>,
    pub(crate) running: Option<RunId>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: BTreeMap<String, VecDeque<Waiting>>,
    /// The identity that had the last turn.
    served: String,
    count: usize,
    numbers: u64,
    groups: HashMap<String, Group>,
    running: HashMap<RunId, Ticket>,
    running_by: HashMap<String, usize>,
    running_of: HashMap<Name, usize>,
}

impl Queue {
    /// Lets a run wait; it does not start before [`Queue::ready`].
    pub(crate) fn push(&mut self, ticket: Ticket) {
        let number = self.numbers;
        self.numbers += 1;
        self.count += 1;
        if let Some(group) = &ticket.group {
            self.groups.entry(group.clone()).or_default().waiting.insert(number);
        }
        self.waiting.entry(ticket.by.clone()).or_default().push_back(Waiting { ticket, number, ready: false });
    }

    /// The run may start from now on; false when it waits no longer.
    pub(crate) fn ready(&mut self, id: &RunId) -> bool {
        let found = self.waiting.values_mut().flatten().find(|waiting| waiting.ticket.id == *id);
        found.map(|waiting| waiting.ready = true).is_some()
    }

    /// Takes a run out that waits; false when it does not.
    pub(crate) fn leave(&mut self, id: &RunId) -> bool {
        let place = self.waiting.iter().find_map(|(by, runs)| {
            let index = runs.iter().position(|waiting| waiting.ticket.id == *id)?;
            Some((by.clone(), index))
        });
        place.and_then(|(by, index)| self.take(&by, index)).is_some()
    }

    /// The next run that may be at work; from here on it is.
    pub(crate) fn next(&mut self, bounds: &Bounds) -> Option<RunId> {
        if self.running.len() >= bounds.running_max {
            return None;
        }
        let after = self.waiting.range::<String, _>((Excluded(&self.served), Unbounded));
        let place = after.chain(self.waiting.range::<String, _>(..=&self.served)).find_map(|(by, runs)| {
            let room = self.running_by.get(by).is_none_or(|running| *running < bounds.per_identity_max);
            let index = room.then(|| runs.iter().position(|waiting| self.may_start(waiting, bounds)))??;
            Some((by.clone(), index))
        });
        let (by, index) = place?;
        let ticket = self.take(&by, index)?;
        self.served = by;
        Some(self.begin(ticket))
    }

    fn may_start(&self, waiting: &Waiting, bounds: &Bounds) -> bool {
        let Ticket { job, group, .. } = &waiting.ticket;
        let group_is_free = group.as_ref().and_then(|group| self.groups.get(group)).is_none_or(|group| {
            group.running.is_none() && group.waiting.first().is_none_or(|first| *first == waiting.number)
        });
        let job_has_room = job.as_ref().is_none_or(|job| {
            let running = self.running_of.get(job).copied().unwrap_or_default();
            bounds.per_job_max.get(job).is_none_or(|max| running < *max)
        });
        waiting.ready && group_is_free && job_has_room
    }

    fn take(&mut self, by: &str, index: usize) -> Option<Ticket> {
        let runs = self.waiting.get_mut(by)?;
        let Waiting { ticket, number, .. } = runs.remove(index)?;
        if runs.is_empty() {
            self.waiting.remove(by);
        }
        self.count -= 1;
        if let Some(group) = ticket.group.as_ref().and_then(|group| self.groups.get_mut(group)) {
            group.waiting.remove(&number);
        }
        self.forget_empty(ticket.group.as_deref());
        Some(ticket)
    }

    fn begin(&mut self, ticket: Ticket) -> RunId {
        let id = ticket.id.clone();
        *self.running_by.entry(ticket.by.clone()).or_default() += 1;
        if let Some(job) = &ticket.job {
            *self.running_of.entry(job.clone()).or_default() += 1;
        }
        if let Some(group) = &ticket.group {
            self.groups.entry(group.clone()).or_default().running = Some(id.clone());
        }
        self.running.insert(id.clone(), ticket);
        id
    }

    /// A run is at work no longer.
    pub(crate) fn done(&mut self, id: &RunId) {
        let Some(ticket) = self.running.remove(id) else { return };
        less(&mut self.running_by, &ticket.by);
        if let Some(job) = &ticket.job {
            less(&mut self.running_of, job);
        }
        if let Some(group) = ticket.group.as_ref().and_then(|group| self.groups.get_mut(group)) {
            group.running = None;
        }
        self.forget_empty(ticket.group.as_deref());
    }

    fn forget_empty(&mut self, group: Option<&str>) {
        let Some(name) = group else { return };
        if self.groups.get(name).is_some_and(|group| group.waiting.is_empty() && group.running.is_none()) {
            self.groups.remove(name);
        }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// How many of them this identity has brought.
    pub(crate) fn waiting_of(&self, by: &str) -> usize {
        self.waiting.get(by).map_or(0, VecDeque::len)
    }

    /// How many are at work.
    #[cfg(test)]
    fn running(&self) -> usize {
        self.running.len()
    }

    /// Whether a run of this job waits that this identity has brought.
    pub(crate) fn waits(&self, job: &Name, by: &str) -> bool {
        self.waiting.get(by).is_some_and(|runs| runs.iter().any(|waiting| waiting.ticket.job.as_ref() == Some(job)))
    }

    /// Who is in a group.
    pub(crate) fn members(&self, group: &str) -> Members {
        let Some(known) = self.groups.get(group) else { return Members::default() };
        let of_group = |waiting: &&Waiting| known.waiting.contains(&waiting.number);
        let mut waiting: Vec<_> = self.waiting.values().flatten().filter(of_group).collect();
        waiting.sort_by_key(|waiting| waiting.number);
        let waiting = waiting.into_iter().map(|waiting| waiting.ticket.id.clone()).collect();
        Members { waiting, running: known.running.clone() }
    }

    /// All that wait, in the order in which they would start if nothing but their turn held them.
    pub(crate) fn order(&self) -> Vec<RunId> {
        let after = self.waiting.range::<String, _>((Excluded(&self.served), Unbounded));
        let turns: Vec<_> =
            after.chain(self.waiting.range::<String, _>(..=&self.served)).map(|(_, runs)| runs).collect();
        let longest = turns.iter().map(|runs| runs.len()).max().unwrap_or_default();
        let rounds = (0..longest).flat_map(|round| turns.iter().filter_map(move |runs| runs.get(round)));
        rounds.map(|waiting| waiting.ticket.id.clone()).collect()
    }

    /// Where a run stands, counted from 1.
    pub(crate) fn position(&self, id: &RunId) -> Option<usize> {
        self.order().iter().position(|waiting| waiting == id).map(|index| index + 1)
    }
}

fn less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(running_max: usize, per_identity_max: usize) -> Bounds {
        Bounds { running_max, per_identity_max, per_job_max: BTreeMap::new() }
    }

    fn id(text: &str) -> RunId {
        text.parse().unwrap()
    }

    /// `by/name@n`, and after a space the group, or the job with a `!`.
    fn queue(runs: &[&str]) -> Queue {
        let mut queue = Queue::default();
        for run in runs {
            push(&mut queue, run);
        }
        queue
    }

    fn push(queue: &mut Queue, run: &str) {
        let (run, mark) = run.split_once(' ').unwrap_or((run, ""));
        let (by, name) = run.split_once('/').unwrap();
        let job = mark.strip_prefix('!').map(|job| job.parse().unwrap());
        let group = (job.is_none() && !mark.is_empty()).then(|| mark.to_owned());
        queue.push(Ticket { id: id(name), by: by.to_owned(), job, group });
        assert!(queue.ready(&id(name)));
    }

    fn all(queue: &mut Queue, bounds: &Bounds) -> String {
        std::iter::from_fn(|| queue.next(bounds)).map(|id| id.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn identities_take_turns_and_a_flood_delays_only_its_own() {
        let flood: Vec<_> = (1..=100).map(|n| format!("ann/a@{n}")).collect();
        let mut runs: Vec<&str> = flood.iter().map(String::as_str).collect();
        runs.extend(["bob/b@1", "bob/b@2", "eve/e@1"]);
        let mut queue = queue(&runs);
        assert_eq!((queue.position(&id("b@2")), queue.position(&id("a@3"))), (Some(5), Some(6)));
        assert_eq!(all(&mut queue, &bounds(6, 99)), "a@1 b@1 e@1 a@2 b@2 a@3");
        queue.done(&id("b@1"));
        push(&mut queue, "bob/b@3");
        assert_eq!(all(&mut queue, &bounds(6, 99)), "b@3");
    }

    #[test]
    fn limits_hold_in_total_per_identity_and_per_job() {
        let mut queue = queue(&["ann/a@1", "ann/a@2", "ann/a@3", "bob/j@1 !j", "bob/j@2 !j", "bob/b@1"]);
        let mut bounds = bounds(4, 2);
        bounds.per_job_max.insert("j".parse().unwrap(), 1);
        assert_eq!(all(&mut queue, &bounds), "a@1 j@1 a@2 b@1", "the second of the job is passed over");
        queue.done(&id("a@1"));
        assert_eq!(all(&mut queue, &bounds), "a@3");
        queue.done(&id("j@1"));
        assert_eq!(all(&mut queue, &bounds), "j@2");
        assert_eq!((queue.len(), queue.running()), (0, 4));
        for run in ["a@2", "a@3", "b@1", "j@2", "j@2", "none@1"] {
            queue.done(&id(run));
        }
        assert_eq!(queue.running(), 0);
        assert!(queue.running_by.is_empty() && queue.running_of.is_empty() && queue.groups.is_empty());
    }

    #[test]
    fn of_a_group_one_is_at_work_in_the_order_of_arrival() {
        let mut queue = queue(&["bob/b@1 deploy", "ann/a@1 deploy", "ann/a@2"]);
        assert_eq!(all(&mut queue, &bounds(9, 9)), "a@2 b@1", "ann's has its turn, but came after bob's");
        let members = Members { waiting: vec![id("a@1")], running: Some(id("b@1")) };
        assert_eq!(queue.members("deploy"), members);
        queue.done(&id("b@1"));
        assert_eq!(all(&mut queue, &bounds(9, 9)), "a@1");
        push(&mut queue, "bob/b@2 deploy");
        assert!(queue.leave(&id("b@2")) && !queue.leave(&id("b@2")));
        queue.done(&id("a@1"));
        assert_eq!(queue.members("deploy"), Members::default());
        assert!(queue.groups.is_empty() && queue.waiting.is_empty());
    }

    #[test]
    fn what_is_not_durable_does_not_start() {
        let mut queue = Queue::default();
        queue.push(Ticket { id: id("a@1"), by: "ann".into(), job: None, group: None });
        assert_eq!(queue.next(&bounds(1, 1)), None);
        assert!(queue.ready(&id("a@1")));
        assert_eq!(queue.next(&bounds(1, 1)), Some(id("a@1")));
        assert!(!queue.ready(&id("a@1")));
    }
}
