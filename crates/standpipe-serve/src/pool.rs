//! The workers and the lock around their queue: how many threads there are and which job each
//! takes. What a job is, and who hears its result, is the business of `session.rs`.
//!
//! A thread is created because work waits: up to `workers_min` as soon as a job finds no idle
//! worker, beyond that one at a time when a job has waited `worker_grow_after_ms`. The next one is
//! only created after the last one has taken its first job, so a burst can't create a crowd.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::limits::WORKER_STACK_BYTES;
use crate::queue::{Bounds, FairQueue, Ticket};
use crate::{Class, Deadline, JobError, Limits, LimitsHandle, Metrics, Refusal};

/// What a worker tells a job: how long it waited, or why it is never started.
pub(crate) type Go = Result<Duration, JobError>;

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
    fn late(&self, now: Instant) -> Option<JobError> {
        let late = if self.deadline.expired_at(now) { JobError::Deadline } else { JobError::QueueWait };
        (now >= self.start_by).then_some(late)
    }
}

/// The pool; a handle that is cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    limits: LimitsHandle,
    metrics: Metrics,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// A token for each thread, to wait for their end without blocking.
    alive: TaskTracker,
    next_name: AtomicU64,
}

#[derive(Default)]
struct State {
    queue: FairQueue<Job>,
    workers: usize,
    idle: usize,
    /// Workers created that have not come to take a job yet.
    starting: usize,
    stopping: bool,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl State {
    /// Whether another worker would help and is allowed; if so it is counted as created.
    fn reserve_worker(&mut self, limits: &Limits, waited: bool) -> bool {
        let wanted = if waited {
            self.idle == 0 && self.starting == 0 && self.workers < limits.workers_max
        } else {
            self.idle + self.starting < self.queue.jobs() && self.workers < limits.workers_min
        };
        let reserved = wanted && !self.stopping && self.queue.jobs() > 0;
        if reserved {
            self.workers += 1;
            self.starting += 1;
        }
        reserved
    }
}

impl Pool {
    pub(crate) fn new(limits: LimitsHandle, metrics: Metrics) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            limits,
            metrics,
            threads: Mutex::default(),
            alive: TaskTracker::new(),
            next_name: AtomicU64::new(0),
        }))
    }

    /// Queues a job.
    ///
    /// # Errors
    /// `Refused(QueueFull)` at once when its class is full, `Shutdown` when the pool is stopping.
    pub(crate) fn submit(&self, class: Class, session: u64, bytes: usize, job: Job) -> Result<Ticket, JobError> {
        let shared = &self.0;
        let limits = shared.limits.load();
        let bounds = Bounds { jobs: limits.queue_jobs_max, bytes: limits.queue_bytes_max };
        let mut state = shared.state.lock();
        if state.stopping {
            return Err(JobError::Shutdown);
        }
        let pushed = state.queue.push(class, session, bytes, job, bounds);
        let grow = pushed.is_ok() && state.reserve_worker(&limits, false);
        let wake = state.idle > 0;
        shared.publish(&state);
        drop(state);
        if wake {
            shared.work.notify_one();
        }
        if grow {
            shared.create_worker();
        }
        // A job given back is dropped here, outside the lock.
        pushed.map_err(|_job| JobError::Refused(Refusal::QueueFull { retry_ms: 1_000 }))
    }

    /// Takes a job out again; false when it has been started or told why not.
    pub(crate) fn withdraw(&self, ticket: Ticket) -> bool {
        let mut state = self.0.state.lock();
        let job = state.queue.withdraw(ticket);
        self.0.publish(&state);
        drop(state);
        job.is_some()
    }

    /// `worker_grow_after_ms` are over: one more worker if the job still waits and all are busy.
    pub(crate) fn grow_for(&self, ticket: Ticket) {
        let limits = self.0.limits.load();
        let mut state = self.0.state.lock();
        let grow = state.queue.holds(ticket) && state.reserve_worker(&limits, true);
        drop(state);
        if grow {
            self.0.create_worker();
        }
    }

    /// Lets every worker end after its job and drops what waits; callers are told `Shutdown`.
    pub(crate) fn stop(&self) {
        let mut state = self.0.state.lock();
        state.stopping = true;
        let dropped = state.queue.clear();
        self.0.publish(&state);
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
        let threads = std::mem::take(&mut *self.0.threads.lock());
        // They have given their tokens back, so none of these waits.
        threads.into_iter().all(|thread| thread.join().is_ok())
    }
}

impl Shared {
    /// Starts the thread of a reserved worker.
    fn create_worker(self: &Arc<Self>) {
        let name = format!("worker-{}", self.next_name.fetch_add(1, Ordering::Relaxed));
        let (shared, token) = (self.clone(), self.alive.token());
        let builder = std::thread::Builder::new().name(name).stack_size(WORKER_STACK_BYTES);
        match builder.spawn(move || shared.work(token)) {
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
                self.publish(&state);
                drop(state);
                tracing::warn!(%error, "no thread for another worker; work waits for those there are");
            }
        }
    }

    fn work(self: Arc<Self>, _alive: TaskTrackerToken) {
        self.state.lock().starting -= 1;
        while let Some((job, grow)) = self.next() {
            if grow {
                self.create_worker();
            }
            let now = Instant::now();
            let go = job.late(now).map_or_else(|| Ok(now.saturating_duration_since(job.queued_at)), Err);
            // The job contains its own panics; this holds those of dropping what it leaves.
            if catch_unwind(AssertUnwindSafe(|| (job.run)(go))).is_err() {
                tracing::error!("dropping a job's result panicked");
            }
        }
    }

    /// The next job and whether another worker was reserved because it had waited; `None` ends
    /// the worker.
    fn next(&self) -> Option<(Job, bool)> {
        let mut state = self.state.lock();
        loop {
            let limits = self.limits.load();
            if state.stopping || state.workers > limits.workers_max {
                return self.leave(state);
            }
            if let Some(job) = state.queue.pop() {
                let waited = job.queued_at.elapsed() > Duration::from_millis(limits.worker_grow_after_ms);
                let grow = waited && state.reserve_worker(&limits, true);
                self.publish(&state);
                return Some((job, grow));
            }
            let patience = Duration::from_millis(limits.worker_shrink_after_ms);
            drop(limits);
            state.idle += 1;
            self.publish(&state);
            let tired = self.work.wait_for(&mut state, patience).timed_out();
            state.idle -= 1;
            if tired && state.queue.jobs() == 0 && state.workers > self.limits.load().workers_min {
                return self.leave(state);
            }
        }
    }

    fn leave(&self, mut state: MutexGuard<'_, State>) -> Option<(Job, bool)> {
        state.workers -= 1;
        self.publish(&state);
        None
    }

    fn publish(&self, state: &State) {
        self.metrics.set_workers(state.workers, state.idle);
        for class in Class::ALL {
            self.metrics.set_queue(class, state.queue.depth(class));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(queued_at: Instant) -> Job {
        let start_by = queued_at + Duration::from_millis(10);
        let deadline = Deadline::at(queued_at + Duration::from_millis(20));
        Job { queued_at, start_by, deadline, run: Box::new(drop) }
    }

    #[test]
    fn a_worker_that_comes_late_does_not_start_the_job() {
        let now = Instant::now();
        let check = |ms, expected| assert_eq!(job(now).late(now + Duration::from_millis(ms)), expected, "{ms} ms");
        check(9, None);
        check(10, Some(JobError::QueueWait));
        check(19, Some(JobError::QueueWait));
        check(20, Some(JobError::Deadline));
    }

    fn state(workers: usize, idle: usize, starting: usize, jobs: usize) -> State {
        let mut state = State { workers, idle, starting, ..State::default() };
        for _ in 0..jobs {
            let bounds = Bounds { jobs: 100, bytes: 100 };
            assert!(state.queue.push(Class::Read, 1, 1, job(Instant::now()), bounds).is_ok());
        }
        state
    }

    #[test]
    fn a_worker_is_created_when_it_would_help_and_is_allowed() {
        let limits = Limits { workers_min: 2, workers_max: 4, ..Limits::default() };
        // Whether one is created for a fresh job, and for one that has waited.
        let check = |make: fn() -> State, fresh: bool, waited: bool| {
            let told = [false, true].map(|waited| make().reserve_worker(&limits, waited));
            assert_eq!(told, [fresh, waited]);
        };
        check(|| state(0, 0, 0, 1), true, true);
        check(|| state(0, 0, 0, 0), false, false);
        check(|| state(1, 1, 0, 1), false, false);
        check(|| state(1, 1, 0, 2), true, false);
        check(|| state(1, 0, 1, 1), false, false);
        check(|| state(1, 0, 1, 2), true, false);
        check(|| state(2, 0, 0, 9), false, true);
        check(|| state(3, 0, 1, 9), false, false);
        check(|| state(4, 0, 0, 9), false, false);
        check(|| State { stopping: true, ..state(0, 0, 0, 1) }, false, false);
    }

    #[tokio::test]
    async fn only_a_job_that_still_waits_creates_a_worker() {
        let limits = Limits { workers_min: 1, workers_max: 2, ..Limits::default() };
        let bench = crate::tests::Bench::new(limits);
        let (pool, gate) = (&bench.core.pool, crate::tests::Gate::new());
        let submit = || {
            let gate = gate.clone();
            let run = Box::new(move |_: Go| gate.pass());
            let far = Instant::now() + Duration::from_secs(60);
            let job = Job { queued_at: Instant::now(), start_by: far, deadline: Deadline::at(far), run };
            pool.submit(Class::Read, 1, 1, job).unwrap()
        };
        let created = || bench.core.metrics.snapshot().workers_created;
        let started = submit();
        crate::tests::until("it is started", || gate.entered() == 1).await;
        let waiting = submit();
        pool.grow_for(started);
        assert_eq!(created(), 1);
        pool.grow_for(waiting);
        assert_eq!(created(), 2);
        gate.release(2);
        bench.end().await;
    }
}
