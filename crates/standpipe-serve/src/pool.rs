//! The workers and the lock around their queue: how many threads there are and which job each
//! takes. What a job is, and who hears its result, is the business of `session.rs`.
//!
//! A thread is created because work waits: up to `workers_min` as soon as a job finds no idle
//! worker, beyond that one at a time when a job has waited `worker_grow_after_ms`. The next one is
//! only created after the last one has taken its first job, so a burst can't create a crowd.
//!
//! Waking a thread is the dearest part of a small job. So a job wakes none while another one is
//! still on its way; who takes a job and leaves some wakes the next. And a job has no timer: while
//! jobs wait, one task looks at all of them now and then ([`Pool::watch`]).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::sync::{AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, Thread};
use crate::queue::{Bounds, FairQueue, Owner, Ticket};
use crate::{Class, Deadline, JobError, Limits, LimitsHandle, Metrics, Refusal};

/// What a worker tells a job: that it begins, or why it is never started.
pub(crate) type Go = Result<Begun, JobError>;

/// A job's beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    pub(crate) at: Instant,
    pub(crate) waited: Duration,
}

/// A job that waits.
pub(crate) struct Job {
    pub(crate) queued_at: Instant,
    /// Not started from this moment on.
    pub(crate) start_by: Instant,
    pub(crate) deadline: Deadline,
    pub(crate) run: Box<dyn FnOnce(Go) + Send>,
}

impl Job {
    /// Why the job may not be started at `now`, if so.
    pub(crate) fn late(&self, now: Instant) -> Option<JobError> {
        let late = if self.deadline.expired_at(now) { JobError::Deadline } else { JobError::QueueWait };
        (now >= self.start_by).then_some(late)
    }

    fn waited(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.queued_at)
    }

    fn run(self, go: Go) {
        // The job contains its own panics; this holds those of dropping what it leaves.
        if catch_unwind(AssertUnwindSafe(|| (self.run)(go))).is_err() {
            tracing::error!("dropping a job's result panicked");
        }
    }
}

/// The pool; a handle that is cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    /// Jobs wait that nobody looks after.
    unwatched: Notify,
    limits: LimitsHandle,
    metrics: Metrics,
    threads: Mutex<Vec<Thread>>,
    /// A token for each thread, to wait for their end without blocking.
    alive: TaskTracker,
    next_name: AtomicUsize,
    epoch: Instant,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) queue: FairQueue<Job>,
    pub(crate) workers: usize,
    /// Workers that wait for work and have not been called.
    pub(crate) idle: usize,
    /// Workers that were called and have not come yet.
    pub(crate) called: usize,
    /// Workers created that have not come to take a job yet.
    pub(crate) starting: usize,
    /// Workers in a job, and in one of class `Bulk`.
    pub(crate) busy: usize,
    pub(crate) bulk: usize,
    /// Nanoseconds of work done: ends minus beginnings, so it is only that while nobody is busy.
    pub(crate) busy_ns: i64,
    /// How long the last job of each class waited, in milliseconds.
    pub(crate) waited_ms: [u32; Class::ALL.len()],
    /// [`Pool::watch`] looks at what waits.
    pub(crate) watched: bool,
    pub(crate) stopping: bool,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl State {
    /// Bulk work never takes all workers, unless there may be only one.
    fn may_bulk(&self, limits: &Limits) -> bool {
        self.bulk < limits.bulk_workers_max.min(limits.workers_max - 1).max(1)
    }

    /// Jobs that a worker could take now.
    fn ready(&self, limits: &Limits) -> usize {
        self.queue.jobs(self.may_bulk(limits))
    }

    /// Whether another worker would help and is allowed; if so it is counted as created.
    pub(crate) fn reserve_worker(&mut self, limits: &Limits, waited: bool) -> bool {
        let coming = self.idle + self.called + self.starting;
        let ready = self.ready(limits);
        let wanted = if waited {
            coming == 0 && self.workers < limits.workers_max
        } else {
            coming < ready && self.workers < limits.workers_min
        };
        let reserved = wanted && !self.stopping && ready > 0;
        if reserved {
            self.workers += 1;
            self.starting += 1;
        }
        reserved
    }

    /// Whether an idle worker is to be called, who is then counted as called.
    fn call(&mut self, limits: &Limits) -> bool {
        let call = self.idle > 0 && self.called == 0 && self.ready(limits) > 0;
        if call {
            self.idle -= 1;
            self.called += 1;
        }
        call
    }

    fn come(&mut self) {
        // Who was called and who tired of waiting look the same; the counts tell.
        let from = if self.called > 0 { &mut self.called } else { &mut self.idle };
        *from -= 1;
    }

    fn begin(&mut self, class: Class, waited: Duration, at_ns: i64) {
        self.busy += 1;
        self.busy_ns -= at_ns;
        self.bulk += usize::from(class == Class::Bulk);
        self.waited_ms[class.index()] = u32::try_from(waited.as_millis()).unwrap_or(u32::MAX);
    }

    fn end(&mut self, class: Class, at_ns: i64) {
        self.busy -= 1;
        self.busy_ns += at_ns;
        self.bulk -= usize::from(class == Class::Bulk);
    }

    /// A queue moves: that long, as it is now, is a good time to wait.
    fn retry_ms(&self, class: Class) -> u32 {
        self.waited_ms[class.index()].clamp(100, 30_000)
    }
}

impl Pool {
    pub(crate) fn new(limits: LimitsHandle, metrics: Metrics) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::default(),
            unwatched: Notify::new(),
            limits,
            metrics,
            threads: Mutex::default(),
            alive: TaskTracker::new(),
            next_name: AtomicUsize::new(0),
            epoch: Instant::now(),
        }))
    }

    /// Queues a job.
    ///
    /// # Errors
    /// `Refused(QueueFull)` at once when its class is full, `Shutdown` when the pool is stopping.
    pub(crate) fn submit(&self, class: Class, owner: Owner, bytes: usize, job: Job) -> Result<Ticket, JobError> {
        let shared = &self.0;
        let limits = shared.limits.load();
        let bounds = Bounds { jobs: limits.queue_jobs_max, bytes: limits.queue_bytes_max };
        let mut state = shared.state.lock();
        if state.stopping {
            return Err(JobError::Shutdown);
        }
        let retry_ms = state.retry_ms(class);
        let pushed = state.queue.push(class, owner, bytes, job, bounds);
        let wake = state.call(&limits);
        let grow = state.reserve_worker(&limits, limits.worker_grow_after_ms == 0);
        let watch = !std::mem::replace(&mut state.watched, true);
        shared.publish_queue(&state, class);
        shared.publish_workers(&state);
        drop(state);
        if wake {
            shared.work.notify_one();
        }
        if watch {
            shared.unwatched.notify_one();
        }
        if grow {
            shared.create_worker();
        }
        // A job given back is dropped here, outside the lock.
        pushed.map_err(|_job| JobError::Refused(Refusal::QueueFull { retry_ms }))
    }

    /// Takes a job out again; false when it has been started or told why not.
    pub(crate) fn withdraw(&self, ticket: Ticket) -> bool {
        let mut state = self.0.state.lock();
        let job = state.queue.withdraw(ticket);
        self.0.publish_all(&state);
        drop(state);
        job.is_some()
    }

    /// Looks after what waits, for as long as the runtime lives.
    pub(crate) async fn watch(self) {
        loop {
            self.0.unwatched.notified().await;
            loop {
                let every = self.0.limits.load().worker_grow_after_ms.clamp(5, 50);
                tokio::time::sleep(Duration::from_millis(every)).await;
                if !self.look() {
                    break;
                }
            }
        }
    }

    /// Ends the wait of jobs that can't be started in time, and creates a worker when one has
    /// waited for `worker_grow_after_ms` and all are busy; so both work when every worker is stuck.
    /// False when nothing waits any more.
    pub(crate) fn look(&self) -> bool {
        let (now, limits) = (Instant::now(), self.0.limits.load());
        let grow_after = Duration::from_millis(limits.worker_grow_after_ms);
        let mut state = self.0.state.lock();
        let tickets: Vec<_> =
            state.queue.each().filter(|(_, job)| now >= job.start_by).map(|(ticket, _)| ticket).collect();
        let late: Vec<_> = tickets.into_iter().filter_map(|ticket| state.queue.withdraw(ticket)).collect();
        let waited = state.queue.each().any(|(_, job)| job.waited(now) >= grow_after);
        let grow = waited && state.reserve_worker(&limits, true);
        state.watched = state.queue.jobs(true) > 0;
        let more = state.watched;
        self.0.publish_all(&state);
        drop(state);
        if grow {
            self.0.create_worker();
        }
        for job in late {
            let why = job.late(now).unwrap_or(JobError::QueueWait);
            job.run(Err(why));
        }
        more
    }

    /// Time that workers have spent in jobs, those under way included, and the number of workers.
    pub(crate) fn work_done(&self) -> (Duration, usize) {
        let state = self.0.state.lock();
        let ns = state.busy_ns + state.busy as i64 * self.0.ns(Instant::now());
        (Duration::from_nanos(ns.max(0) as u64), state.workers)
    }

    /// Lets every worker end after its job and drops what waits; callers are told `Shutdown`.
    pub(crate) fn stop(&self) {
        let mut state = self.0.state.lock();
        state.stopping = true;
        let dropped = state.queue.clear();
        self.0.publish_all(&state);
        drop(state);
        self.0.work.notify_all();
        drop(dropped);
    }

    /// After [`Pool::stop`]: waits for the workers' end and joins them; false when one is still in
    /// its job after `patience` and is left behind.
    pub(crate) async fn join(&self, patience: Duration) -> bool {
        self.0.alive.close();
        if tokio::time::timeout(patience, self.0.alive.wait()).await.is_err() {
            return false;
        }
        // They have given their tokens back, so none of these waits.
        self.join_now()
    }

    /// Waits for every thread's end; false when one panicked.
    pub(crate) fn join_now(&self) -> bool {
        let mut joined = true;
        // One that is joined may have created another one before it ended.
        loop {
            let thread = self.0.threads.lock().pop();
            let Some(thread) = thread else { return joined };
            joined &= thread.join();
        }
    }

    #[cfg(test)]
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }
}

/// A job in a worker's hands.
struct Taken {
    class: Class,
    job: Job,
    begun: Begun,
    /// Another worker was reserved, because the job had waited.
    grow: bool,
}

impl Shared {
    /// Starts the thread of a reserved worker.
    fn create_worker(self: &Arc<Self>) {
        let name = format!("worker-{}", self.next_name.fetch_add(1, Ordering::Relaxed));
        let (shared, token) = (self.clone(), self.alive.token());
        match Thread::start(name, move || shared.work(token)) {
            Ok(thread) => {
                self.metrics.worker_created();
                let mut threads = self.threads.lock();
                threads.retain(|thread| !thread.is_finished());
                threads.push(thread);
            }
            Err(error) => {
                let mut state = self.state.lock();
                state.workers -= 1;
                state.starting -= 1;
                self.publish_workers(&state);
                drop(state);
                tracing::warn!(%error, "no thread for another worker; work waits for those there are");
            }
        }
    }

    fn work(self: Arc<Self>, _alive: TaskTrackerToken) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.starting -= 1;
        let mut next = self.next(state, now);
        while let Some(Taken { class, job, begun, grow }) = next {
            if grow {
                self.create_worker();
            }
            let late = job.late(begun.at);
            job.run(late.map_or(Ok(begun), Err));
            // Before the lock: nothing that can be outside is inside.
            let now = Instant::now();
            let mut state = self.state.lock();
            state.end(class, self.ns(now));
            next = self.next(state, now);
        }
    }

    /// Waits for a job; `None` ends the worker.
    fn next<'a>(&'a self, mut state: MutexGuard<'a, State>, mut now: Instant) -> Option<Taken> {
        loop {
            let limits = self.limits.load();
            if state.stopping || state.workers > limits.workers_max {
                return self.leave(state, &limits);
            }
            let bulk = state.may_bulk(&limits);
            if let Some((class, job)) = state.queue.pop(bulk) {
                return Some(self.take(state, &limits, class, job, now));
            }
            let patience = Duration::from_millis(limits.worker_shrink_after_ms);
            drop(limits);
            state.idle += 1;
            self.publish_workers(&state);
            let tired;
            (state, tired) = self.work.wait_for(state, &self.state, patience);
            now = Instant::now();
            state.come();
            let limits = self.limits.load();
            if tired && state.ready(&limits) == 0 && state.workers > limits.workers_min {
                return self.leave(state, &limits);
            }
        }
    }

    fn take(&self, mut state: MutexGuard<'_, State>, limits: &Limits, class: Class, job: Job, at: Instant) -> Taken {
        let waited = job.waited(at);
        state.begin(class, waited, self.ns(at));
        let grow = waited > Duration::from_millis(limits.worker_grow_after_ms) && state.reserve_worker(limits, true);
        let wake = state.call(limits);
        self.publish_queue(&state, class);
        self.publish_workers(&state);
        drop(state);
        if wake {
            self.work.notify_one();
        }
        Taken { class, job, begun: Begun { at, waited }, grow }
    }

    /// Ends a worker; one that was called passes the call on.
    fn leave(&self, mut state: MutexGuard<'_, State>, limits: &Limits) -> Option<Taken> {
        state.workers -= 1;
        let wake = state.call(limits);
        self.publish_workers(&state);
        drop(state);
        if wake {
            self.work.notify_one();
        }
        None
    }

    fn ns(&self, at: Instant) -> i64 {
        at.saturating_duration_since(self.epoch).as_nanos() as i64
    }

    fn publish_workers(&self, state: &State) {
        self.metrics.set_workers(state.workers, state.idle);
    }

    fn publish_queue(&self, state: &State, class: Class) {
        self.metrics.set_queue(class, state.queue.depth(class));
    }

    fn publish_all(&self, state: &State) {
        self.publish_workers(state);
        Class::ALL.into_iter().for_each(|class| self.publish_queue(state, class));
    }
}
