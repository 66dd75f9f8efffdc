//! The rules of the pool: which job is late, when a worker is created, what bulk work may take.

use std::time::{Duration, Instant};

use super::{Bench, Gate, until};
use crate::pool::{Go, Job, State};
use crate::queue::{Bounds, Owner};
use crate::{Class, Deadline, JobError, Limits};

const ME: Owner = Owner { peer: 1, session: 1 };

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
        assert!(state.queue.push(Class::Read, ME, 1, job(Instant::now()), bounds).is_ok());
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

/// A job that goes through `gate`, in no hurry.
fn gated(gate: &Gate) -> Job {
    let gate = gate.clone();
    let far = Instant::now() + Duration::from_secs(60);
    let run = Box::new(move |_: Go| gate.pass());
    Job { queued_at: Instant::now(), start_by: far, deadline: Deadline::at(far), run }
}

#[tokio::test]
async fn only_a_job_that_has_waited_creates_a_worker() {
    let limits = Limits { workers_min: 1, workers_max: 2, worker_grow_after_ms: 5_000, ..Limits::default() };
    let bench = Bench::new(limits.clone());
    let (pool, gate) = (&bench.core.pool, Gate::new());
    let created = || bench.core.metrics.snapshot().workers_created;
    pool.submit(Class::Read, ME, 1, gated(&gate)).unwrap();
    until("it is started", || gate.entered() == 1).await;
    assert!(!pool.look());
    pool.submit(Class::Read, ME, 1, gated(&gate)).unwrap();
    assert!(pool.look());
    assert_eq!(created(), 1);
    bench.core.limits.store(std::sync::Arc::new(Limits { worker_grow_after_ms: 0, ..limits }));
    assert!(pool.look());
    assert_eq!(created(), 2);
    gate.release(2);
    bench.end().await;
}

#[tokio::test]
async fn bulk_work_leaves_a_worker_to_the_rest() {
    async fn check(workers_max: usize, bulk_workers_max: usize, expected: usize) {
        let limits = Limits { workers_min: workers_max, workers_max, bulk_workers_max, ..Limits::default() };
        let bench = Bench::new(Limits { worker_grow_after_ms: 0, ..limits });
        let (pool, gate, other) = (&bench.core.pool, Gate::new(), Gate::new());
        (0..6).for_each(|_| assert!(pool.submit(Class::Bulk, ME, 1, gated(&gate)).is_ok()));
        until("bulk work takes its share", || gate.entered() == expected).await;
        if expected < workers_max {
            pool.submit(Class::Read, ME, 1, gated(&other)).unwrap();
            until("the rest goes on", || other.entered() == 1).await;
            other.release(1);
        }
        assert_eq!(gate.entered(), expected);
        gate.release(6);
        until("bulk work goes on", || gate.entered() == 6).await;
        bench.end().await;
    }
    check(4, 2, 2).await;
    check(2, 2, 1).await;
    check(1, 2, 1).await;
    check(3, 9, 2).await;
}

#[tokio::test]
async fn the_time_workers_spend_is_known_while_they_spend_it() {
    let bench = Bench::new(Limits { workers_min: 1, workers_max: 1, ..Limits::default() });
    let (pool, gate) = (&bench.core.pool, Gate::new());
    assert_eq!(pool.work_done(), (Duration::ZERO, 0));
    pool.submit(Class::Read, ME, 1, gated(&gate)).unwrap();
    until("it works", || gate.entered() == 1 && pool.work_done().0 > Duration::from_millis(2)).await;
    gate.release(1);
    until("it is done", || pool.state().idle == 1).await;
    let (done, workers) = pool.work_done();
    assert!(workers == 1 && done == pool.work_done().0, "{done:?} grows without work");
    bench.end().await;
}
