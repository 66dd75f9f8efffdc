//! How many calls of one server are at work at once, and how others wait: a queue for each principal, served in turns, so that
//! who calls much does not keep others waiting. A place is a [`Permit`], given back by dropping it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::pin::pin;
use std::sync::Arc;

use parking_lot::Mutex;
use standpipe_wire::jsonrpc::id_key;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::ServerLimits;
use super::slot::retired;
use crate::metrics::{QueuedGuard, ServerMetrics};
use crate::{Fault, Metrics, Outlet};

/// The gate of one server.
#[derive(Debug)]
pub(super) struct Gate {
    name: Arc<str>,
    limits: ServerLimits,
    metrics: Metrics,
    figures: Arc<ServerMetrics>,
    /// Where the queue's clock runs.
    tasks: TaskTracker,
    state: Mutex<State>,
    /// A call has ended.
    left: Notify,
    /// Nobody is let in any more.
    closing: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    /// Calls at work of each principal.
    of_principal: BTreeMap<Arc<str>, usize>,
    /// Calls at work in each process, or in whatever process has its place.
    of_target: BTreeMap<u64, usize>,
    queues: BTreeMap<Arc<str>, VecDeque<Waiting>>,
    /// Who is next.
    turns: VecDeque<Arc<str>>,
    waiting: usize,
    clock_runs: bool,
}

/// Who wants a place, and where.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    pub(super) principal: Arc<str>,
    /// The process, or what has its place.
    pub(super) target: u64,
    /// The session, 0 for none, and the client's id: by these a waiting call is cancelled.
    pub(super) session: u64,
    pub(super) id: Box<[u8]>,
    pub(super) to: Outlet,
}

type Then = Box<dyn FnOnce(Result<Permit, Fault>) + Send>;

struct Waiting {
    visitor: Visitor,
    until: Instant,
    then: Then,
    _counted: QueuedGuard,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("visitor", &self.visitor).finish_non_exhaustive()
    }
}

/// A place at work.
pub(super) struct Permit {
    gate: Arc<Gate>,
    principal: Arc<str>,
    target: u64,
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("principal", &self.principal).finish_non_exhaustive()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.leave(&self.principal, self.target);
    }
}

impl Gate {
    pub(super) fn new(name: Arc<str>, limits: ServerLimits, metrics: Metrics, tasks: TaskTracker) -> Arc<Self> {
        let figures = metrics.server(&name);
        Arc::new(Self {
            name,
            limits,
            metrics,
            figures,
            tasks,
            state: Mutex::default(),
            left: Notify::new(),
            closing: CancellationToken::new(),
        })
    }

    /// Calls at work, and calls that wait.
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.of_principal.values().sum(), state.waiting)
    }

    /// Has `then` called with a place: at once where there is one, later, or with a refusal.
    pub(super) fn enter(self: &Arc<Self>, visitor: Visitor, then: impl FnOnce(Result<Permit, Fault>) + Send + 'static) {
        let mut state = self.state.lock();
        if self.closing.is_cancelled() {
            drop(state);
            return then(Err(retired(&self.name)));
        }
        // Who waits goes first.
        let waits = state.queues.contains_key(&visitor.principal);
        if !waits && state.has_room(&visitor, &self.limits) {
            let permit = self.permit(&mut state, &visitor);
            drop(state);
            return then(Ok(permit));
        }
        let hit = state.limit_hit(&visitor, &self.limits);
        let mut gone = Vec::new();
        if state.waiting >= self.limits.queue_calls {
            gone = state.take(|waiting| waiting.visitor.to.is_gone());
        }
        if state.waiting >= self.limits.queue_calls {
            drop(state);
            self.metrics.hit("mcp_queue_calls_max");
            return then(Err(self.full()));
        }
        let until = Instant::now() + self.limits.queue_wait;
        state.put(Waiting { visitor, until, then: Box::new(then), _counted: self.figures.queued() });
        let starts = !std::mem::replace(&mut state.clock_runs, true);
        drop(state);
        drop(gone);
        hit.into_iter().for_each(|limit| self.metrics.hit(limit));
        if starts {
            self.tasks.spawn(self.clone().clock());
        }
    }

    /// Forgets a call that waits; whether it did.
    pub(super) fn cancel(&self, session: u64, id: &[u8]) -> bool {
        let mut state = self.state.lock();
        let id = id_key(id);
        let taken = state.take(|waiting| waiting.visitor.session == session && id_key(&waiting.visitor.id) == id);
        drop(state);
        !taken.is_empty()
    }

    /// Forgets all that wait of a session that has ended.
    pub(super) fn cancel_all(&self, session: u64) {
        let taken = self.state.lock().take(|waiting| waiting.visitor.session == session);
        drop(taken);
    }

    /// Refuses all that wait, and all that come.
    pub(super) fn close(&self) {
        self.closing.cancel();
        let taken = self.state.lock().take(|_| true);
        taken.into_iter().for_each(|waiting| (waiting.then)(Err(retired(&self.name))));
    }

    /// Waits until no call is at work.
    pub(super) async fn idle(&self) {
        loop {
            let mut left = pin!(self.left.notified());
            left.as_mut().enable();
            if self.state.lock().of_principal.is_empty() {
                return;
            }
            left.await;
        }
    }

    fn permit(self: &Arc<Self>, state: &mut State, visitor: &Visitor) -> Permit {
        *state.of_principal.entry(visitor.principal.clone()).or_default() += 1;
        *state.of_target.entry(visitor.target).or_default() += 1;
        Permit { gate: self.clone(), principal: visitor.principal.clone(), target: visitor.target }
    }

    fn leave(self: &Arc<Self>, principal: &Arc<str>, target: u64) {
        let mut admitted = Vec::new();
        {
            let mut state = self.state.lock();
            decrease(&mut state.of_principal, principal);
            decrease(&mut state.of_target, &target);
            while let Some(waiting) = state.next(&self.limits) {
                let permit = self.permit(&mut state, &waiting.visitor);
                admitted.push((waiting.then, permit));
            }
        }
        self.left.notify_waiters();
        admitted.into_iter().for_each(|(then, permit)| then(Ok(permit)));
    }

    fn full(&self) -> Fault {
        let message = format!("{}: {} calls wait already; try again later", self.name, self.limits.queue_calls);
        Fault::overloaded(message, self.limits.queue_wait)
    }

    /// Refuses those that have waited too long. Runs while anybody waits.
    async fn clock(self: Arc<Self>) {
        loop {
            let next = {
                let mut state = self.state.lock();
                let next = state.queues.values().filter_map(|queue| Some(queue.front()?.until)).min();
                state.clock_runs = next.is_some();
                next
            };
            let Some(next) = next else { return };
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = self.closing.cancelled() => return,
            }
            let now = Instant::now();
            let late = self.state.lock().take(|waiting| waiting.until <= now);
            for waiting in late {
                self.metrics.hit("mcp_queue_wait_ms_max");
                let waited = self.limits.queue_wait.as_millis();
                let message = format!("{}: no call ended within {waited} ms to make room for this one", self.name);
                (waiting.then)(Err(Fault::overloaded(message, self.limits.queue_wait)));
            }
        }
    }
}

fn decrease<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl State {
    fn limit_hit(&self, visitor: &Visitor, limits: &ServerLimits) -> Option<&'static str> {
        if self.of_target.get(&visitor.target).is_some_and(|calls| *calls >= limits.calls_per_child) {
            return Some("mcp_calls_per_child_max");
        }
        let calls = self.of_principal.get(&visitor.principal).is_some_and(|calls| *calls >= limits.calls_per_principal);
        calls.then_some("mcp_calls_per_principal_max")
    }

    fn has_room(&self, visitor: &Visitor, limits: &ServerLimits) -> bool {
        self.limit_hit(visitor, limits).is_none()
    }

    fn put(&mut self, waiting: Waiting) {
        let principal = waiting.visitor.principal.clone();
        let queue = self.queues.entry(principal.clone()).or_default();
        if queue.is_empty() {
            self.turns.push_back(principal);
        }
        queue.push_back(waiting);
        self.waiting += 1;
    }

    /// The first of the principal whose turn it is, among those for whom there is room.
    fn next(&mut self, limits: &ServerLimits) -> Option<Waiting> {
        for turn in 0..self.turns.len() {
            let principal = self.turns[turn].clone();
            let at = self.queues.get(&principal)?.iter().position(|waiting| self.has_room(&waiting.visitor, limits));
            let Some(at) = at else { continue };
            let queue = self.queues.get_mut(&principal)?;
            let waiting = queue.remove(at)?;
            self.turns.remove(turn);
            match queue.is_empty() {
                true => drop(self.queues.remove(&principal)),
                false => self.turns.push_back(principal),
            }
            self.waiting -= 1;
            return Some(waiting);
        }
        None
    }

    /// Takes those out that are meant.
    fn take(&mut self, is_meant: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let mut taken = Vec::new();
        for queue in self.queues.values_mut() {
            let (out, stay) = std::mem::take(queue).into_iter().partition::<Vec<_>, _>(|waiting| is_meant(waiting));
            *queue = stay.into();
            taken.extend(out);
        }
        self.queues.retain(|_, queue| !queue.is_empty());
        let queues = &self.queues;
        self.turns.retain(|principal| queues.contains_key(principal));
        self.waiting -= taken.len();
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::exchange::{Inlet, Room, exchange};

    struct Bench {
        gate: Arc<Gate>,
        tasks: TaskTracker,
        seen: Arc<Mutex<Vec<(String, bool)>>>,
        permits: Arc<Mutex<BTreeMap<String, Permit>>>,
        inlets: Vec<Inlet>,
    }

    impl Bench {
        fn new(limits: ServerLimits) -> Self {
            let tasks = TaskTracker::new();
            let gate = Gate::new("s".into(), limits, Metrics::default(), tasks.clone());
            Self { gate, tasks, seen: Arc::default(), permits: Arc::default(), inlets: Vec::new() }
        }

        fn enter(&mut self, principal: &str, id: &str) {
            let (to, inlet) = exchange(Room { messages: 9, bytes: 999 });
            self.inlets.push(inlet);
            let visitor = Visitor { principal: principal.into(), target: 1, session: 7, id: id.as_bytes().into(), to };
            let (seen, permits, id) = (self.seen.clone(), self.permits.clone(), id.to_owned());
            self.gate.enter(visitor, move |permit| {
                seen.lock().push((id.clone(), permit.is_ok()));
                if let Ok(permit) = permit {
                    permits.lock().insert(id, permit);
                }
            });
        }

        fn leave(&self, id: &str) {
            let permit = self.permits.lock().remove(id);
            drop(permit.unwrap());
        }

        fn seen(&self) -> Vec<String> {
            let mark = |(id, ok): &(String, bool)| if *ok { id.clone() } else { format!("-{id}") };
            self.seen.lock().iter().map(mark).collect()
        }
    }

    fn limits() -> ServerLimits {
        ServerLimits { calls_per_child: 2, calls_per_principal: 2, queue_calls: 4, ..ServerLimits::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn principals_take_turns() {
        let mut bench = Bench::new(limits());
        ["a1", "a2", "a3", "a4", "a5"].into_iter().for_each(|id| bench.enter("a", id));
        bench.enter("b", "b1");
        assert_eq!(bench.seen(), ["a1", "a2"]);
        bench.enter("b", "b2");
        assert_eq!(bench.seen(), ["a1", "a2", "-b2"], "the queue is full");
        bench.leave("a1");
        bench.leave("a2");
        bench.leave("a3");
        assert_eq!(bench.seen()[3..], ["a3", "b1", "a4"]);
        assert_eq!(bench.gate.counts(), (2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_refused() {
        let mut bench = Bench::new(limits());
        ["1", "2", "3"].into_iter().for_each(|id| bench.enter("a", id));
        let begun = Instant::now();
        bench.tasks.close();
        bench.tasks.wait().await;
        assert_eq!((bench.seen(), begun.elapsed().as_secs()), (vec!["1".into(), "2".into(), "-3".into()], 5));
        assert_eq!(bench.gate.counts(), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_principal_leaves_room_for_others() {
        let mut bench = Bench::new(ServerLimits { calls_per_principal: 1, ..limits() });
        bench.enter("a", "a1");
        bench.enter("a", "a2");
        bench.enter("b", "b1");
        assert_eq!(bench.seen(), ["a1", "b1"]);
        bench.leave("b1");
        assert_eq!(bench.seen(), ["a1", "b1"], "what waits is a's");
        bench.leave("a1");
        assert_eq!(bench.seen(), ["a1", "b1", "a2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_left_gives_up_a_place_in_the_queue() {
        let mut bench = Bench::new(ServerLimits { queue_calls: 1, ..limits() });
        ["1", "2", "3"].into_iter().for_each(|id| bench.enter("a", id));
        drop(bench.inlets.pop());
        bench.enter("a", "4");
        assert_eq!(bench.gate.counts(), (2, 1));
        assert!(bench.gate.cancel(7, b"4") && !bench.gate.cancel(7, b"4"));
        bench.leave("1");
        assert_eq!(bench.seen(), ["1", "2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_is_told() {
        let mut bench = Bench::new(limits());
        bench.gate.idle().await;
        bench.enter("a", "1");
        let gate = bench.gate.clone();
        assert!(tokio::time::timeout(Duration::from_secs(1), gate.idle()).await.is_err());
        bench.leave("1");
        gate.idle().await;
    }
}
