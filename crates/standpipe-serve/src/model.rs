//! The pool and the budgets under a model checker: the same source as everywhere, compiled once more
//! with shuttle's lock, condition and threads in place of the system's, and run in many thousands of
//! interleavings. A lost wake-up shows as a deadlock, which shuttle reports with the schedule.
//!
//! Time is not modelled: a worker's patience ends at random, and a job is late or it is not.

#![expect(clippy::duplicate_mod, dead_code, reason = "the same source with other primitives, which is the point")]

#[path = "budget.rs"]
mod budget;
#[path = "pool.rs"]
mod pool;

use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::sync::mpsc::{self, Receiver, Sender};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

use self::budget::Budget;
use self::pool::{Go, Job, Pool};
use crate::queue::Owner;
use crate::{Class, Deadline, JobError, Limits, LimitsHandle, Metrics};

/// The primitives of `sync.rs`, by shuttle.
mod sync {
    use std::io;
    use std::time::Duration;

    use shuttle::rand::Rng as _;
    pub(super) use shuttle::sync::MutexGuard;
    pub(super) use shuttle::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    pub(super) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(super) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }

    #[derive(Default)]
    pub(super) struct Condvar(shuttle::sync::Condvar);

    impl Condvar {
        pub(super) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(super) fn notify_all(&self) {
            self.0.notify_all();
        }

        /// Waits; now and then it has had enough before anything comes.
        pub(super) fn wait_for<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            lock: &'a Mutex<T>,
            _patience: Duration,
        ) -> (MutexGuard<'a, T>, bool) {
            if shuttle::rand::thread_rng().gen_bool(0.2) {
                drop(guard);
                shuttle::thread::yield_now();
                return (lock.lock(), true);
            }
            (self.0.wait(guard).unwrap(), false)
        }
    }

    pub(super) struct Thread(shuttle::thread::JoinHandle<()>);

    impl Thread {
        pub(super) fn start(name: String, work: impl FnOnce() + Send + 'static) -> io::Result<Self> {
            shuttle::thread::Builder::new().name(name).spawn(work).map(Self)
        }

        /// Not known; all are joined in the end.
        pub(super) fn is_finished(&self) -> bool {
            false
        }

        pub(super) fn join(self) -> bool {
            self.0.join().is_ok()
        }
    }
}

/// Interleavings of each scenario, by each of two schedulers.
const RUNS: usize = 4_000;
/// Preemptions that the second one (PCT) places.
const DEPTH: usize = 3;

/// Runs `scenario` in many interleavings.
fn check(scenario: fn()) {
    shuttle::check_random(scenario, RUNS);
    shuttle::check_pct(scenario, RUNS, DEPTH);
}

/// A pool and what its jobs report.
struct Stage {
    pool: Pool,
    limits: LimitsHandle,
    done: Sender<(usize, Go)>,
    dones: Receiver<(usize, Go)>,
    /// Jobs running now, all and bulk ones.
    running: Arc<Mutex<(usize, usize)>>,
    workers_max: usize,
}

impl Stage {
    fn new(limits: Limits) -> Self {
        let workers_max = limits.workers_max;
        let limits: LimitsHandle = std::sync::Arc::new(ArcSwap::from_pointee(limits));
        let (done, dones) = mpsc::channel();
        let pool = Pool::new(limits.clone(), Metrics::default());
        Self { pool, limits, done, dones, running: Arc::default(), workers_max }
    }

    /// A job that reports under `number`, and while it runs looks that not too many do.
    fn job(&self, number: usize, class: Class, start_by: Instant) -> Job {
        let (done, running, workers_max) = (self.done.clone(), self.running.clone(), self.workers_max);
        let run = Box::new(move |go: Go| {
            if go.is_ok() {
                let mut now = running.lock().unwrap();
                now.0 += 1;
                now.1 += usize::from(class == Class::Bulk);
                assert!(now.0 <= workers_max, "more jobs than workers");
                assert!(now.1 <= 1.max(workers_max - 1), "bulk took every worker");
                drop(now);
                thread::yield_now();
                let mut now = running.lock().unwrap();
                now.0 -= 1;
                now.1 -= usize::from(class == Class::Bulk);
            }
            done.send((number, go)).unwrap();
        });
        Job { queued_at: Instant::now(), start_by, deadline: Deadline::at(start_by), run }
    }

    fn submit(&self, number: usize, class: Class) -> Result<crate::queue::Ticket, JobError> {
        self.pool.submit(class, owner(number), 1, self.job(number, class, far()))
    }

    /// Ends the pool and checks that nothing is left; gives what the jobs reported, by number.
    fn end(self, jobs: usize) -> Vec<Option<Go>> {
        self.pool.stop();
        assert!(self.pool.join_now(), "a worker panicked");
        let state = self.pool.state();
        assert_eq!((state.workers, state.idle, state.called, state.starting), (0, 0, 0, 0));
        assert_eq!((state.busy, state.bulk, state.queue.jobs(true)), (0, 0, 0));
        drop(state);
        let mut told = vec![None; jobs];
        drop(self.done);
        while let Ok((number, go)) = self.dones.try_recv() {
            assert!(told[number].replace(go).is_none(), "job {number} was told twice");
        }
        told
    }
}

fn owner(number: usize) -> Owner {
    Owner { peer: number as u64 % 2, session: number as u64 }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3_600)
}

/// One worker at rest, two at most; any wait is long enough for a second one.
fn limits() -> Limits {
    Limits { workers_min: 1, workers_max: 2, worker_grow_after_ms: 0, ..Limits::default() }
}

#[test]
fn every_job_runs_once_whoever_submits_it() {
    check(|| {
        let stage = Arc::new(Stage::new(limits()));
        let submitters: Vec<_> = (0..3)
            .map(|index| {
                let stage = stage.clone();
                thread::spawn(move || {
                    for number in [2 * index, 2 * index + 1] {
                        let class = if index == 0 { Class::Bulk } else { Class::Read };
                        stage.submit(number, class).unwrap();
                        assert!(stage.pool.state().workers <= 2);
                    }
                })
            })
            .collect();
        submitters.into_iter().for_each(|submitter| submitter.join().unwrap());
        // A lost job or a lost wake-up is a wait without end.
        let told: Vec<_> = (0..6).map(|_| stage.dones.recv().unwrap()).collect();
        assert!(told.iter().all(|(_, go)| go.is_ok()));
        let mut numbers: Vec<_> = told.iter().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
        assert!(Arc::into_inner(stage).unwrap().end(6).iter().all(Option::is_none));
    });
}

#[test]
fn a_job_is_withdrawn_or_runs_never_both() {
    check(|| {
        let stage = Stage::new(limits());
        let tickets: Vec<_> = (0..3).map(|number| stage.submit(number, Class::Read).unwrap()).collect();
        let withdrawn: Vec<_> = tickets.into_iter().map(|ticket| stage.pool.withdraw(ticket)).collect();
        let left = withdrawn.iter().filter(|withdrawn| !**withdrawn).count();
        let ran: Vec<_> = (0..left).map(|_| stage.dones.recv().unwrap().0).collect();
        for (number, withdrawn) in withdrawn.into_iter().enumerate() {
            assert_eq!(ran.contains(&number), !withdrawn, "job {number}");
        }
        stage.end(3);
    });
}

#[test]
fn a_stop_leaves_no_job_in_the_middle() {
    check(|| {
        let stage = Arc::new(Stage::new(limits()));
        let submitter = {
            let stage = stage.clone();
            thread::spawn(move || (0..3).map(|number| stage.submit(number, Class::Read).is_ok()).collect::<Vec<_>>())
        };
        stage.pool.stop();
        let accepted = submitter.join().unwrap();
        let refused = accepted.iter().skip_while(|accepted| **accepted);
        assert!(refused.clone().all(|accepted| !accepted), "accepted after the stop");
        let told = Arc::into_inner(stage).unwrap().end(3);
        for (number, go) in told.into_iter().enumerate() {
            assert!(go.is_none_or(|go| go.is_ok() && accepted[number]), "job {number}");
        }
    });
}

#[test]
fn a_late_job_is_told_so_once_by_whoever_finds_it() {
    check(|| {
        let stage = Arc::new(Stage::new(limits()));
        let looker = {
            let stage = stage.clone();
            thread::spawn(move || {
                stage.pool.look();
                stage.pool.look();
            })
        };
        let late = stage.job(0, Class::Read, Instant::now());
        stage.pool.submit(Class::Read, owner(0), 1, late).unwrap();
        stage.submit(1, Class::Read).unwrap();
        let mut told = [stage.dones.recv().unwrap(), stage.dones.recv().unwrap()];
        told.sort_by_key(|(number, _)| *number);
        assert_eq!(told[0].1.err(), Some(JobError::Deadline));
        assert!(told[1].1.is_ok());
        looker.join().unwrap();
        Arc::into_inner(stage).unwrap().end(2);
    });
}

#[test]
fn fewer_workers_lose_no_call() {
    check(|| {
        let stage = Arc::new(Stage::new(Limits { workers_min: 2, ..limits() }));
        // Both workers exist, and may be idle, when one becomes too many.
        (0..2).for_each(|number| assert!(stage.submit(number, Class::Read).is_ok()));
        (0..2).for_each(|_| assert!(stage.dones.recv().unwrap().1.is_ok()));
        let reloader = {
            let stage = stage.clone();
            thread::spawn(move || {
                let fewer = Limits { workers_min: 1, workers_max: 1, ..limits() };
                stage.limits.store(std::sync::Arc::new(fewer));
            })
        };
        for number in 2..5 {
            stage.submit(number, Class::Read).unwrap();
            assert_eq!(stage.dones.recv().unwrap().0, number);
        }
        reloader.join().unwrap();
        Arc::into_inner(stage).unwrap().end(5);
    });
}

#[test]
fn a_budget_is_never_exceeded_and_comes_back() {
    check(|| {
        let (budget, held) = (Arc::new(Budget::default()), Arc::new(AtomicUsize::new(0)));
        let takers: Vec<_> = (1..4)
            .map(|count| {
                let (budget, held) = (budget.clone(), held.clone());
                thread::spawn(move || {
                    for _ in 0..3 {
                        if budget.try_take(count, 4) {
                            assert!(held.fetch_add(count, Ordering::SeqCst) + count <= 4);
                            held.fetch_sub(count, Ordering::SeqCst);
                            budget.give(count);
                        }
                    }
                })
            })
            .collect();
        takers.into_iter().for_each(|taker| taker.join().unwrap());
        assert_eq!(budget.used(), 0);
        assert!(budget.try_take(4, 4) && !budget.try_take(1, 4));
    });
}
