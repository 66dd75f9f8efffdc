//! What it costs to hand a job to a worker and hear its result: admission, fair queue and pool for a
//! job that does nothing, beside the `threadpool` crate's queue and a channel. Both sides run in this
//! process, on all of its processors.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use standpipe_serve::{
    Class, CloseReason, Conn, Cost, Deadline, Door, Limits, Refusal, Server, ServerConfig, Session, SocketListener,
};
use threadpool::ThreadPool;
use tokio::task::JoinSet;

use crate::Pace;
use crate::figures::{Bar, Load, Turn, compare, each, figure, ratio};

/// Connections whose tasks submit jobs.
const SESSIONS: usize = 16;
/// Jobs that each connection has under way at once: tasks with one each, or one task with all.
const AT_ONCE: usize = 30;
/// Jobs between two looks at the clock.
const BATCH: u64 = 256;

/// Prints a round trip and a flood of either side.
///
/// # Errors
/// No server, or no connection to it.
pub(crate) fn run(pace: Pace) -> Result<()> {
    let stage = Stage::new()?;
    let pool = ThreadPool::new(Limits::default().workers_max);
    println!("\none job at a time");
    let sides = vec![
        Turn { name: "standpipe", bear: Box::new(|seconds| stage.load(1, 1, 1, seconds)) },
        Turn { name: "threadpool", bear: Box::new(|seconds| Ok(threadpool(&pool, 1, seconds))) },
    ];
    let rounds = compare(sides, pace)?;
    let cpu = |side: usize| each(&rounds[side], Load::cpu_us);
    ratio("CPU per job, standpipe / threadpool", &cpu(0), &cpu(1), Bar::AtMost(1.0));
    println!("\nmany at a time: {SESSIONS} connections with {AT_ONCE} jobs each");
    let sides = vec![
        Turn { name: "standpipe, batches", bear: Box::new(|seconds| stage.load(SESSIONS, 1, AT_ONCE, seconds)) },
        Turn { name: "standpipe, tasks", bear: Box::new(|seconds| stage.load(SESSIONS, AT_ONCE, 1, seconds)) },
        Turn { name: "threadpool", bear: Box::new(|seconds| Ok(threadpool(&pool, SESSIONS, seconds))) },
    ];
    let rounds = compare(sides, pace)?;
    figure("standpipe, batches", Load::sum(&rounds[0]).rate(), "jobs/s", Bar::AtLeast(1e6));
    stage.end();
    Ok(())
}

/// A server, and sessions on its event loops to submit jobs with.
struct Stage {
    server: Server,
    sessions: Vec<(Session, tokio::runtime::Handle)>,
    _peers: Vec<std::net::TcpStream>,
}

/// A door that lends its sessions out.
struct Lender(std::sync::mpsc::SyncSender<(Session, tokio::runtime::Handle)>);

impl Door for Lender {
    fn name(&self) -> &'static str {
        "bench"
    }

    async fn serve(&self, _conn: Conn, session: Session) -> CloseReason {
        let _bench_gone = self.0.send((session.clone(), tokio::runtime::Handle::current()));
        session.closing().await;
        CloseReason::Shutdown
    }

    async fn refuse(&self, _conn: Conn, _refusal: Refusal) {}
}

impl Stage {
    fn new() -> Result<Self> {
        let server = Server::start(ServerConfig::default())?;
        let listeners = SocketListener::bind_tcp("127.0.0.1:0", server.cores(), server.metrics())?;
        let address = listeners[0].local_addr().context("bound")?;
        let (lend, lent) = sync_channel(SESSIONS);
        server.listen(Arc::new(Lender(lend)), listeners);
        let peers = (0..SESSIONS).map(|_| std::net::TcpStream::connect(address)).collect::<Result<_, _>>()?;
        let sessions = (0..SESSIONS).map(|_| lent.recv()).collect::<Result<_, _>>()?;
        Ok(Self { server, sessions, _peers: peers })
    }

    /// Lets `submitters` tasks of each of `count` sessions submit jobs, `at_once`, for some seconds.
    fn load(&self, count: usize, submitters: usize, at_once: usize, seconds: u32) -> Result<Load> {
        let until = Instant::now() + Duration::from_secs(seconds.into());
        measure(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build()?;
            let mut tasks = JoinSet::new();
            for (session, event_loop) in self.sessions.iter().take(count) {
                for _ in 0..submitters {
                    tasks.spawn_on(submit(session.clone(), at_once, until), event_loop);
                }
            }
            runtime.block_on(async move {
                let mut jobs = 0;
                while let Some(done) = tasks.join_next().await {
                    jobs += done??;
                }
                Ok(jobs)
            })
        })
    }

    fn end(self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Ok(runtime) = runtime {
            let _stopped = runtime.block_on(self.server.stop());
        }
    }
}

/// Submits jobs, `at_once` of them and then the next as many; the number of them.
async fn submit(session: Session, at_once: usize, until: Instant) -> Result<u64> {
    let mut jobs = 0;
    while Instant::now() < until {
        for _ in 0..BATCH {
            let deadline = Deadline::after(60_000);
            let run = || session.run(Class::Read, Cost::Bytes(1), deadline, || ());
            if at_once == 1 {
                run().await?;
            } else {
                try_join_all((0..at_once).map(|_| run())).await?;
            }
        }
        jobs += BATCH * at_once as u64;
    }
    Ok(jobs)
}

/// The same through `pool`, from as many threads as there are sessions.
fn threadpool(pool: &ThreadPool, submitters: usize, seconds: u32) -> Load {
    let until = Instant::now() + Duration::from_secs(seconds.into());
    let all = Mutex::new(0);
    let load = measure(|| {
        std::thread::scope(|scope| {
            for _ in 0..submitters {
                scope.spawn(|| {
                    let jobs = execute(pool, if submitters == 1 { 1 } else { AT_ONCE }, until);
                    *all.lock().expect("no submitter panics") += jobs;
                });
            }
        });
        Ok(*all.lock().expect("no submitter panics"))
    });
    load.expect("nothing here fails")
}

/// Keeps `at_once` jobs under way; the number of them.
fn execute(pool: &ThreadPool, at_once: usize, until: Instant) -> u64 {
    let (told, tell): (_, Receiver<()>) = sync_channel(at_once);
    let submit = || {
        let told = told.clone();
        pool.execute(move || {
            let _submitter_gone = told.send(());
        });
    };
    (0..at_once).for_each(|_| submit());
    let mut jobs = 0;
    while Instant::now() < until {
        for _ in 0..BATCH {
            assert!(tell.recv().is_ok());
            submit();
        }
        jobs += BATCH;
    }
    (0..at_once).for_each(|_| assert!(tell.recv().is_ok()));
    jobs
}

/// The load that `work` was, which gives the number of its jobs.
fn measure(work: impl FnOnce() -> Result<u64>) -> Result<Load> {
    let (begun, before) = (Instant::now(), cpu());
    let requests = work()?;
    Ok(Load { requests, time: begun.elapsed(), cpu: cpu().saturating_sub(before), ..Load::default() })
}

/// What this process has used of its processors.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
