//! Real processes, on Linux: each in a session of its own and, where the system lets us, in a cgroup of its own.
//!
//! The server is the reaper of what loses its parents (`PR_SET_CHILD_SUBREAPER`), so nothing that came of a run leaves its
//! sight while the server lives. When it dies, the kernel kills the main processes and the guard (`guard.rs`) all the others.

pub(crate) mod cgroup;
mod keeper;
mod pipes;
pub(crate) mod proc;
mod program;
pub(crate) mod sys;
pub(super) mod thread;

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, kill_process_group, set_child_subreaper};
use tokio::io::unix::AsyncFd;
use tokio::sync::OnceCell;

use self::cgroup::Groups;
use self::keeper::Keeper;
use self::pipes::Pipes;
use self::proc::NODE_VARIABLE;
use self::program::Texts;
use self::sys::{Failure, Limit, Program, Stage};
use self::thread::Started;
use super::launch::{Child, Exit, LaunchError, Launched, Launcher, Spec, Told, Used};
use crate::command::ResourceLimits;
use crate::guard::{GuardProgram, Marks};

/// Descriptors that a process may have open unless it asks for more itself: `select` can't count further.
const FILES_SOFT: u64 = 1024;
/// Seconds from SIGXCPU to SIGKILL for a process that has used its time and does not heed.
const CPU_GRACE_S: u64 = 5;
/// Looks at what earlier boots left, and the pause between them.
const SWEEPS_MAX: u32 = 200;
const SWEEP_PAUSE: Duration = Duration::from_millis(25);

/// Starts real processes for one data folder.
pub(crate) struct Processes {
    marks: Marks,
    guard: Option<GuardProgram>,
    groups: OnceCell<Option<Arc<Groups>>>,
    keeper: OnceCell<Keeper>,
}

impl std::fmt::Debug for Processes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Processes").field("marks", &self.marks).finish_non_exhaustive()
    }
}

impl Processes {
    /// A launcher for the data folder `folder`. The guard is started before the first process.
    pub(crate) fn new(folder: &Path, guard: Option<GuardProgram>) -> Self {
        Self { marks: Marks::of(folder), guard, groups: OnceCell::new(), keeper: OnceCell::new() }
    }

    /// As on a system without cgroups.
    #[cfg(test)]
    pub(super) fn ungrouped(folder: &Path) -> Self {
        Self { groups: OnceCell::new_with(Some(None)), ..Self::new(folder, None) }
    }

    async fn groups(&self) -> Option<Arc<Groups>> {
        let make = || async { Groups::make(&self.marks.folder, &self.marks.boot).map(Arc::new) };
        let groups = self.groups.get_or_init(make).await.clone();
        if groups.is_none() {
            tracing::debug!("no cgroups: what comes of processes is found by descent and environment");
        }
        groups
    }

    /// What is there once, from the first process on.
    async fn begin(&self) -> Option<Arc<Groups>> {
        let groups = self.groups().await;
        let keep = || async {
            if let Err(error) = set_child_subreaper(Some(rustix::process::getpid())) {
                tracing::debug!(%error, "orphans will be init's");
            }
            let home = groups.as_ref().map(|groups| groups.home().to_owned());
            Keeper::start(self.guard.clone(), self.marks.node(), home).await
        };
        self.keeper.get_or_init(keep).await;
        groups
    }

    async fn start(&self, spec: Spec) -> Result<Launched, LaunchError> {
        let mark = self.marks.node();
        let texts = program::texts(&spec, (NODE_VARIABLE, &mark))?;
        let groups = self.begin().await;
        let limits = limits(&spec.resources, groups.as_deref().is_some_and(Groups::limits_memory));
        let setup = |error| program::explain(&spec, &Failure { stage: Stage::Setup, error });
        let pipes = Pipes::open(&spec).map_err(setup)?;
        let resources = spec.resources;
        let making = thread::launch(move || make(texts, pipes, &limits, &resources, groups.as_deref()));
        let (mut started, pipes) = making.await.map_err(|failure| program::explain(&spec, &failure))?;
        let ours = pipes.ours().map_err(setup)?;
        let pidfd = started.watch().map_err(setup)?;
        let variable = |name: &str| spec.env.get(name).map(|value| format!("{name}={value}"));
        let run = ["STANDPIPE_RUN", "STANDPIPE_TASK"].into_iter().filter_map(variable);
        let marks = std::iter::once(format!("{NODE_VARIABLE}={mark}")).chain(run).collect();
        let child = Box::new(Process { started, pidfd, marks });
        Ok(Launched { child, input: ours.input, output: ours.output })
    }
}

/// On the thread that makes processes: makes one, in a group of its own.
fn make(
    texts: Texts,
    pipes: Pipes,
    limits: &[Limit],
    resources: &ResourceLimits,
    groups: Option<&Groups>,
) -> Result<(thread::Made, Pipes), Failure> {
    let grouped = |error| Failure { stage: Stage::Group, error };
    let entered = groups.map(|groups| {
        let group = groups.group(resources)?;
        group.doors().map(|doors| (group, doors))
    });
    let (group, doors) = match entered.transpose() {
        Ok(entered) => entered.unzip(),
        // A group that is there for its limits can't be done without; else what comes of the process is found by
        // descent and environment, as on a system without groups.
        Err(error) if resources.memory_bytes.or(resources.processes).is_some() => return Err(grouped(error)),
        Err(error) => {
            tracing::debug!(%error, "no cgroup for this process");
            (None, None)
        }
    };
    let doors = doors.unwrap_or_default();
    let program = Program {
        paths: texts.paths,
        argv: texts.argv,
        env: texts.env,
        cwd: texts.cwd,
        stdio: pipes.theirs.each_ref().map(|fd| fd.as_fd()),
        terminal: pipes.has_terminal.then(|| pipes.theirs[1].as_fd()),
        limits: limits.to_vec(),
        groups: doors.iter().map(|fd| fd.as_fd()).collect(),
        dies_with_us: true,
    };
    let (pid, pidfd) = sys::spawn(&program)?;
    Ok((thread::Made { pid, pidfd, group }, pipes))
}

/// The limits of a process itself. Memory is one of them only where it can't be counted for all of them.
fn limits(resources: &ResourceLimits, memory_is_grouped: bool) -> Vec<Limit> {
    let mut limits = Vec::new();
    if let Some(seconds) = resources.cpu_s {
        limits.push(Limit { resource: Resource::Cpu, soft: seconds, hard: seconds.saturating_add(CPU_GRACE_S) });
    }
    if let Some(bytes) = resources.memory_bytes.filter(|_| !memory_is_grouped) {
        limits.push(Limit { resource: Resource::As, soft: bytes, hard: bytes });
    }
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let files = resources.files.map_or((FILES_SOFT.min(hard), hard), |files| (files.min(hard), files.min(hard)));
    limits.push(Limit { resource: Resource::Nofile, soft: files.0, hard: files.1 });
    limits
}

impl Launcher for Processes {
    fn launch(&self, spec: Spec) -> BoxFuture<'_, Result<Launched, LaunchError>> {
        self.start(spec).boxed()
    }

    fn sweep(&self) -> BoxFuture<'_, usize> {
        async {
            let groups = self.groups().await;
            let others = groups.as_ref().map(|groups| groups.others()).unwrap_or_default();
            let mut found = std::collections::BTreeSet::new();
            for _ in 0..SWEEPS_MAX {
                let left = proc::marked(&self.marks.folder_mark(), Some(&self.marks.mark()));
                let populated = others.iter().filter(|dir| cgroup::kill_all(dir)).count();
                left.iter().for_each(|known| proc::signal(*known, Signal::KILL));
                found.extend(left.iter().copied());
                if populated == 0 && left.is_empty() {
                    break;
                }
                tokio::time::sleep(SWEEP_PAUSE).await;
            }
            others.iter().for_each(|dir| cgroup::remove(dir));
            found.len()
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async {
            if let Some(keeper) = self.keeper.get() {
                keeper.close().await;
            }
            if let Some(Some(groups)) = self.groups.get() {
                groups.remove();
            }
        }
        .boxed()
    }
}

/// What is held (SIGSTOP) heeds nothing before it goes on.
const ASK: [Signal; 2] = [Signal::TERM, Signal::CONT];
/// Looks for those that were being forked while others were asked to end.
const ASK_ROUNDS_MAX: usize = 8;

/// One process and all that came of it.
struct Process {
    started: Started,
    pidfd: AsyncFd<std::os::fd::OwnedFd>,
    /// Variables that all of them have, unless they have rid themselves of them.
    marks: Vec<String>,
}

impl Process {
    fn has_been_reaped(&self) -> bool {
        self.started.waited.is_some()
    }

    /// Signals the session that the main process began. Once it has been reaped its number may be another's.
    fn signal_own_group(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.started.pid).filter(|_| !self.has_been_reaped()) {
            let _gone = kill_process_group(pid, signal);
        }
    }

    fn members(&self) -> Vec<proc::Known> {
        let marks: Vec<&str> = self.marks.iter().map(String::as_str).collect();
        proc::members(self.started.pid, &marks)
    }

    /// All that are there.
    fn pids(&self) -> Vec<i32> {
        match &self.started.group {
            Some(group) => {
                let mut pids = Vec::new();
                group.each(|pid| pids.push(pid.as_raw_nonzero().get()));
                pids
            }
            None => self.members().iter().map(proc::Known::pid).collect(),
        }
    }

    /// Asks all that are there to end, and those that were being forked meanwhile; what is forked later may be there to
    /// clean up.
    fn ask_each(&self) {
        let mut asked = HashSet::new();
        for _ in 0..ASK_ROUNDS_MAX {
            let new: Vec<_> = self.pids().into_iter().filter(|pid| asked.insert(*pid)).collect();
            for pid in new.iter().filter_map(|pid| Pid::from_raw(*pid)) {
                ASK.into_iter().for_each(|signal| {
                    let _gone = kill_process(pid, signal);
                });
            }
            if new.is_empty() {
                return;
            }
        }
    }

    fn signal_each(&self, signal: Signal) {
        match &self.started.group {
            Some(group) => group.each(|pid| {
                let _gone = kill_process(pid, signal);
            }),
            None => self.members().into_iter().for_each(|known| proc::signal(known, signal)),
        }
    }
}

impl Child for Process {
    fn pid(&self) -> u32 {
        self.started.pid.unsigned_abs()
    }

    fn exited(&mut self) -> BoxFuture<'_, Exit> {
        async {
            loop {
                if let Some(waited) = self.started.wait() {
                    return waited.exit;
                }
                match self.pidfd.readable().await {
                    Ok(mut ready) => ready.clear_ready(),
                    // The runtime ends, and this task with it.
                    Err(_) => std::future::pending().await,
                }
            }
        }
        .boxed()
    }

    fn tell(&mut self, told: Told) {
        match told {
            Told::Terminate => {
                if self.started.group.is_none() {
                    ASK.into_iter().for_each(|signal| self.signal_own_group(signal));
                }
                self.ask_each();
            }
            Told::Kill => match &self.started.group {
                Some(group) => group.kill(),
                None => {
                    // Held first, so that none starts another while we look for it.
                    self.signal_own_group(Signal::STOP);
                    self.signal_each(Signal::STOP);
                    self.signal_own_group(Signal::KILL);
                    self.signal_each(Signal::KILL);
                }
            },
        }
    }

    fn left(&mut self) -> usize {
        if let Some(group) = &self.started.group {
            let mut count = 0;
            if group.is_populated() {
                group.each(|_| count += 1);
                count = count.max(1);
            }
            return count;
        }
        // What is left of a tree without its root is our child, or below one.
        let adopted = proc::children().into_iter().any(|(pid, ended)| !ended && !thread::is_ours(pid));
        if self.has_been_reaped() && !adopted { 0 } else { self.members().len() }
    }

    fn close(self: Box<Self>) -> Used {
        let waited = self.started.waited;
        let group = self.started.group.as_ref();
        let cpu_ms = group.and_then(cgroup::Group::cpu_ms).or(waited.map(|waited| waited.cpu_ms));
        let memory = group.and_then(cgroup::Group::memory_bytes_max).or(waited.map(|waited| waited.memory_bytes_max));
        Used {
            cpu_ms: cpu_ms.unwrap_or_default(),
            memory_bytes_max: memory.unwrap_or_default(),
            out_of_memory: group.is_some_and(cgroup::Group::ran_out_of_memory),
        }
    }
}
