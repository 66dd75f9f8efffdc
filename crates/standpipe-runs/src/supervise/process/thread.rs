//! The one thread that makes processes and reaps orphans. One for all supervisors of this process, for whose children are whose
//! is a matter of the process: a child that has just been made is not taken for an orphan, since both happen here. An event loop
//! does not stand still while a program is read from a slow disk. And the kernel kills our children when the thread that
//! made them ends, which this one does only with the process.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;

use parking_lot::Mutex;
use rustix::process::{Pid, WaitIdOptions};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use super::cgroup::Group;
use super::proc;
use super::sys::{self, Failure, Stage, Waited};

/// Launches that wait for the thread; who comes then waits for a place.
const JOBS_MAX: usize = 64;

/// The children that somebody waits for. All others are orphans of them, adopted by us.
static OURS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

static JOBS: Mutex<Option<mpsc::Sender<Job>>> = Mutex::new(None);

enum Job {
    Launch(Box<dyn FnOnce() + Send>),
    Reap,
}

/// A process that was started and that somebody has to wait for.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) pid: i32,
    /// To hear of its end; until somebody takes it.
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) group: Option<Group>,
    /// What it said at its end, once it has been reaped.
    pub(super) waited: Option<Waited>,
}

impl Started {
    /// Its descriptor, registered with the current runtime: readable once it has ended.
    ///
    /// # Errors
    /// The runtime takes no more.
    pub(super) fn watch(&mut self) -> io::Result<AsyncFd<OwnedFd>> {
        sys::watch(self.pidfd.take().ok_or(io::ErrorKind::NotFound)?)
    }

    /// Reaps it if it has ended.
    pub(super) fn wait(&mut self) -> Option<Waited> {
        if self.waited.is_none() {
            // Under the lock, so that its number is not used again while it counts as ours.
            let mut ours = OURS.lock();
            self.waited = sys::wait(self.pid, false);
            if self.waited.is_some() {
                ours.remove(&self.pid);
            }
        }
        self.waited
    }
}

impl Drop for Started {
    /// Kills it if nobody has waited for its end; it is an orphan then.
    fn drop(&mut self) {
        if self.waited.is_some() {
            return;
        }
        if let Some(group) = &self.group {
            group.kill();
        }
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _gone = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
        OURS.lock().remove(&self.pid);
        reap();
    }
}

fn jobs() -> io::Result<mpsc::Sender<Job>> {
    let mut jobs = JOBS.lock();
    if let Some(jobs) = &*jobs {
        return Ok(jobs.clone());
    }
    let (sender, receiver) = mpsc::channel(JOBS_MAX);
    std::thread::Builder::new().name("launcher".into()).spawn(move || run(receiver))?;
    Ok(jobs.insert(sender).clone())
}

fn run(mut jobs: mpsc::Receiver<Job>) {
    while let Some(job) = jobs.blocking_recv() {
        match job {
            Job::Launch(launch) => launch(),
            Job::Reap => reap_orphans(),
        }
    }
}

/// What [`launch`] is given: a process that [`sys::spawn`] has made.
pub(super) struct Made {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) group: Option<Group>,
}

/// Makes a process on the thread; from then on it is ours.
///
/// # Errors
/// Those of `make`; the thread can't be started.
pub(super) async fn launch<T, M>(make: M) -> Result<(Started, T), Failure>
where
    T: Send + 'static,
    M: FnOnce() -> Result<(Made, T), Failure> + Send + 'static,
{
    let failed = |error| Failure { stage: Stage::Process, error };
    let gone = || failed(io::Error::other("the thread that starts processes is gone"));
    let (reply, made) = oneshot::channel();
    let launch = move || {
        let made = make().map(|(Made { pid, pidfd, group }, rest)| {
            OURS.lock().insert(pid);
            (Started { pid, pidfd: Some(pidfd), group, waited: None }, rest)
        });
        // When nobody waits any more, the process is dropped, which ends it.
        let _nobody_waits = reply.send(made);
    };
    jobs().map_err(failed)?.send(Job::Launch(Box::new(launch))).await.map_err(|_| gone())?;
    made.await.map_err(|_| gone())?
}

/// Reaps orphans soon. When the thread has much to do, the next one who asks does it.
pub(super) fn reap() {
    if let Some(jobs) = &*JOBS.lock() {
        let _busy = jobs.try_send(Job::Reap);
    }
}

/// Whether this is a child that somebody waits for.
pub(in crate::supervise) fn is_ours(pid: i32) -> bool {
    OURS.lock().contains(&pid)
}

/// Reaps the orphans that have ended. Children that other parts of this process have made are left alone: ours
/// have sessions of their own, and so have theirs, but those have the server's.
fn reap_orphans() {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let own = proc::session(own_pid());
    let is_orphan = |pid: i32| !is_ours(pid) && proc::session(pid) != own;
    while let Ok(Some(_ended)) = rustix::process::waitid(rustix::process::WaitId::All, options) {
        let orphans: Vec<i32> =
            proc::children().into_iter().filter(|(pid, ended)| *ended && is_orphan(*pid)).map(|(pid, _)| pid).collect();
        for orphan in &orphans {
            let _reaped = sys::wait(*orphan, false);
        }
        if orphans.is_empty() {
            break;
        }
    }
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}
