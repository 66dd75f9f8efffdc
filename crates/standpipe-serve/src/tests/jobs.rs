//! Jobs through `Session::run`: refusal, expiry, fairness, order, panics, callers that leave, and
//! the number of workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::{Bench, Gate, LIMIT, until, within};
use crate::{Class, Cost, Deadline, JobError, Limits, Refusal, Session};

/// One worker, so that what waits and what runs is certain.
fn one_worker() -> Limits {
    Limits { workers_min: 1, workers_max: 1, ..Limits::default() }
}

fn far() -> Deadline {
    Deadline::after(LIMIT.as_millis() as u64)
}

/// Starts a job of one byte on a task of its own.
fn start<T: Send + 'static>(
    session: &Session,
    job: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<Result<T, JobError>> {
    let session = session.clone();
    tokio::spawn(async move { session.run(Class::Read, Cost::Bytes(1), far(), job).await })
}

/// A bench whose only worker is held, and the gate that holds it.
async fn held(limits: Limits) -> (Bench, Session, Gate, JoinHandle<Result<(), JobError>>) {
    let bench = Bench::new(limits);
    let (session, gate) = (bench.session(), Gate::new());
    let holder = start(&session, {
        let gate = gate.clone();
        move || gate.pass()
    });
    until("the worker is held", || gate.entered() == 1).await;
    (bench, session, gate, holder)
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let limits = Limits { queue_jobs_max: 2, ..one_worker() };
    let (bench, session, gate, holder) = held(limits).await;
    let waiting = [start(&session, || 1), start(&session, || 2)];
    until("two wait", || bench.core.metrics.snapshot().queue_jobs == 2).await;
    let before = Instant::now();
    let refused = session.run(Class::Read, Cost::Bytes(1), far(), || ()).await;
    assert!(matches!(refused, Err(JobError::Refused(Refusal::QueueFull { retry_ms: 1.. }))), "{refused:?}");
    assert!(before.elapsed() < Duration::from_secs(1));
    // Another class has room, and a small job needs none.
    let write = session.run(Class::Write, Cost::Bytes(1), far(), || 3);
    gate.release(1);
    assert_eq!(within(write).await, Ok(3));
    for (job, expected) in waiting.into_iter().zip([1, 2]) {
        assert_eq!(within(job).await.unwrap(), Ok(expected));
    }
    within(holder).await.unwrap().unwrap();
    assert_eq!(bench.core.metrics.snapshot().refusals["queue_full"], 1);
    bench.end().await;
}

#[tokio::test]
async fn a_queue_is_also_bounded_by_bytes() {
    let mut limits = one_worker();
    (limits.queue_bytes_max, limits.request_body_bytes_max, limits.reply_chunk_bytes) = (100, 10, 10);
    let (bench, session, gate, _holder) = held(limits).await;
    let run = |bytes| session.run(Class::Read, Cost::Bytes(bytes), far(), || ());
    assert!(matches!(run(101).await, Err(JobError::Refused(Refusal::QueueFull { .. }))));
    let fits = run(100);
    gate.release(1);
    assert_eq!(within(fits).await, Ok(()));
    bench.end().await;
}

#[tokio::test]
async fn a_job_that_waited_too_long_is_never_started() {
    let (bench, session, gate, _holder) = held(one_worker()).await;
    // Only now, so that the wait for the worker's thread is not too long on a busy machine.
    bench.core.limits.store(Arc::new(Limits { queue_wait_ms_max: 30, ..one_worker() }));
    let ran = Arc::new(AtomicBool::new(false));
    let job = {
        let ran = ran.clone();
        move || ran.store(true, Ordering::SeqCst)
    };
    let run = session.run(Class::Read, Cost::Bytes(1), far(), job);
    assert_eq!(within(run).await, Err(JobError::QueueWait));
    let soon = Deadline::after(10);
    let run = session.run(Class::Read, Cost::Bytes(1), soon, || ());
    assert_eq!(within(run).await, Err(JobError::Deadline));
    let snapshot = bench.core.metrics.snapshot();
    assert_eq!((snapshot.queue_jobs, snapshot.queue_bytes, snapshot.jobs_timed_out), (0, 0, 2));
    gate.release(1);
    bench.end().await;
    assert!(!ran.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_job_whose_deadline_has_passed_is_never_started() {
    let bench = Bench::new(Limits::default());
    let session = bench.session();
    for cost in [Cost::Small, Cost::Bytes(1)] {
        let run = session.run(Class::Read, cost, Deadline::after(0), || panic!("started"));
        assert_eq!(run.await, Err::<(), _>(JobError::Deadline));
    }
    assert_eq!(bench.core.metrics.snapshot().workers_created, 0);
    bench.end().await;
}

#[tokio::test]
async fn a_flood_delays_another_session_by_one_turn_and_order_is_kept() {
    let (bench, session, gate, _holder) = held(Limits { queue_jobs_max: 20_000, ..one_worker() }).await;
    let (flood, other) = (bench.session(), bench.session());
    let order = Arc::new(Mutex::new(Vec::new()));
    let note = |name: &'static str, number: usize| {
        let order = order.clone();
        move || order.lock().push((name, number))
    };
    let mut jobs: Vec<_> = (0..10_000).map(|number| start(&flood, note("flood", number))).collect();
    until("the flood waits", || bench.core.metrics.snapshot().queue_jobs == 10_000).await;
    jobs.extend((0..3).map(|number| start(&other, note("other", number))));
    until("the other waits", || bench.core.metrics.snapshot().queue_jobs == 10_003).await;
    gate.release(1);
    for job in jobs {
        within(job).await.unwrap().unwrap();
    }
    let order = order.lock().clone();
    let places: Vec<_> = (0..order.len()).filter(|place| order[*place].0 == "other").collect();
    assert_eq!(places, [1, 3, 5]);
    for name in ["flood", "other"] {
        let numbers: Vec<_> = order.iter().filter(|(who, _)| *who == name).map(|(_, number)| *number).collect();
        assert!(numbers.is_sorted(), "{name}");
    }
    drop(session);
    bench.end().await;
}

#[tokio::test]
async fn a_panic_is_the_error_of_its_job_alone() {
    let bench = Bench::new(one_worker());
    let session = bench.session();
    for cost in [Cost::Small, Cost::Bytes(1)] {
        let run = session.run(Class::Read, cost, far(), || panic!("on purpose"));
        assert_eq!(within(run).await, Err::<(), _>(JobError::Panicked));
        assert_eq!(within(session.run(Class::Read, cost, far(), || 7)).await, Ok(7));
    }
    let snapshot = bench.core.metrics.snapshot();
    assert_eq!((snapshot.jobs_panicked, snapshot.errors, snapshot.workers_created), (2, 2, 1));
    bench.end().await;
}

/// Tells when it is dropped.
struct Told(Arc<AtomicBool>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn when_the_caller_leaves_a_waiting_job_is_dropped_and_a_started_one_finishes() {
    let (bench, session, gate, holder) = held(one_worker()).await;
    let (dropped, finished) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let told = Told(dropped.clone());
    let waiting = start(&session, move || drop(told));
    until("it waits", || bench.core.metrics.snapshot().queue_jobs == 1).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    assert!(dropped.load(Ordering::SeqCst));
    assert_eq!(bench.core.metrics.snapshot().queue_jobs, 0);

    holder.abort();
    assert!(holder.await.unwrap_err().is_cancelled());
    gate.release(1);
    let result = Told(finished.clone());
    let started = start(&session, {
        let gate = gate.clone();
        move || {
            gate.pass();
            result
        }
    });
    until("it is started", || gate.entered() == 2).await;
    started.abort();
    gate.release(1);
    until("its result is discarded", || finished.load(Ordering::SeqCst)).await;
    assert_eq!(within(session.run(Class::Read, Cost::Bytes(1), far(), || 1)).await, Ok(1));
    bench.end().await;
}

#[tokio::test]
async fn workers_come_because_work_waits_and_go_when_idle() {
    let limits = Limits {
        workers_min: 2,
        workers_max: 5,
        worker_grow_after_ms: 5,
        worker_shrink_after_ms: 20,
        ..Limits::default()
    };
    let bench = Bench::new(limits);
    let (session, gate, most) = (bench.session(), Gate::new(), Arc::new(AtomicUsize::new(0)));
    let workers = || bench.core.metrics.snapshot().workers as usize;
    assert_eq!(workers(), 0);
    let jobs: Vec<_> = (0..20)
        .map(|_| {
            let gate = gate.clone();
            start(&session, move || gate.pass())
        })
        .collect();
    until("all workers are held", || {
        most.fetch_max(workers(), Ordering::SeqCst);
        gate.entered() == 5
    })
    .await;
    gate.release(20);
    for job in jobs {
        within(job).await.unwrap().unwrap();
        most.fetch_max(workers(), Ordering::SeqCst);
    }
    assert_eq!((most.load(Ordering::SeqCst), bench.core.metrics.snapshot().workers_created), (5, 5));
    until("idle workers end", || workers() == 2).await;
    assert_eq!(within(session.run(Class::Read, Cost::Bytes(1), far(), || 1)).await, Ok(1));
    assert_eq!(bench.core.metrics.snapshot().workers_created, 5, "threads are reused");
    bench.end().await;
}

#[tokio::test]
async fn one_job_at_a_time_needs_one_worker() {
    let bench = Bench::new(Limits { workers_min: 4, workers_max: 8, ..Limits::default() });
    let session = bench.session();
    for number in 0..50 {
        until("the worker is idle", || {
            let snapshot = bench.core.metrics.snapshot();
            snapshot.workers == snapshot.workers_idle
        })
        .await;
        assert_eq!(within(session.run(Class::Read, Cost::Bytes(1), far(), move || number)).await, Ok(number));
    }
    assert_eq!(bench.core.metrics.snapshot().workers_created, 1);
    bench.end().await;
}

#[tokio::test]
async fn lowered_limits_end_workers_after_their_jobs() {
    let bench = Bench::new(Limits { workers_min: 3, workers_max: 3, ..Limits::default() });
    let (session, gate) = (bench.session(), Gate::new());
    let jobs: Vec<_> = (0..3)
        .map(|_| {
            start(&session, {
                let gate = gate.clone();
                move || gate.pass()
            })
        })
        .collect();
    until("three are held", || gate.entered() == 3).await;
    bench.core.limits.store(Arc::new(one_worker()));
    gate.release(3);
    for job in jobs {
        within(job).await.unwrap().unwrap();
    }
    until("one is left", || bench.core.metrics.snapshot().workers == 1).await;
    bench.end().await;
}

#[tokio::test]
async fn stopping_tells_what_waits_and_finishes_what_runs() {
    let (bench, session, gate, holder) = held(one_worker()).await;
    let waiting = start(&session, || ());
    until("it waits", || bench.core.metrics.snapshot().queue_jobs == 1).await;
    bench.core.pool.stop();
    assert_eq!(within(waiting).await.unwrap(), Err(JobError::Shutdown));
    let late = session.run(Class::Read, Cost::Bytes(1), far(), || ());
    assert_eq!(within(late).await, Err(JobError::Shutdown));
    assert!(!bench.core.pool.join(Duration::from_millis(5)).await, "a worker is in its job");
    gate.release(1);
    assert_eq!(within(holder).await.unwrap(), Ok(()));
    bench.end().await;
}

#[tokio::test]
async fn permits_are_exact_and_given_back() {
    let mut limits = Limits { watchers_max: 3, watchers_per_connection_max: 2, ..Limits::default() };
    (limits.bodies_bytes_in_flight_max, limits.request_body_bytes_max) = (100, 100);
    let bench = Bench::new(limits);
    let (a, b) = (bench.session(), bench.session());
    let watchers = [a.watch_permit().unwrap(), a.watch_permit().unwrap()];
    assert_eq!(a.watch_permit().unwrap_err(), Refusal::ConnectionWatchers);
    let third = b.watch_permit().unwrap();
    assert_eq!(b.watch_permit().unwrap_err(), Refusal::Watchers);
    assert_eq!(bench.core.metrics.snapshot().watchers, 3);
    drop((watchers, third));
    assert_eq!((a.watchers().used(), bench.core.metrics.snapshot().watchers), (0, 0));

    let mut body = a.body_bytes(60).unwrap();
    assert_eq!(b.body_bytes(41).unwrap_err(), Refusal::Bodies);
    body.grow(40).unwrap();
    assert_eq!((body.grow(1), body.bytes()), (Err(Refusal::Bodies), 100));
    drop(body);
    assert_eq!(bench.core.bodies.used(), 0);
    let snapshot = bench.core.metrics.snapshot();
    assert_eq!((snapshot.refusals["bodies"], snapshot.refusals["watchers"]), (2, 1));
    bench.end().await;
}
