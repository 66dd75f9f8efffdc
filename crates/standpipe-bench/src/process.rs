//! Processes of a run: started on the core of their side, killed by id when dropped, and what they
//! have used, read from `/proc`. Which program, and what is asked of it, is the benchmark's.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use standpipe_testkit::until;

use crate::Run;

/// Where a thread or process runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    /// Core 0: what is measured.
    Server,
    /// Core 1: what puts load on it.
    Load,
    /// Any core: a process that is measured alone.
    Any,
}

/// Pins the calling thread, and what it starts from now on.
///
/// # Errors
/// The machine has no such core.
pub(crate) fn pin(side: Side) -> Result<()> {
    let mut cores = CpuSet::new();
    match side {
        Side::Server => cores.set(0),
        Side::Load => cores.set(1),
        Side::Any => (0..CpuSet::MAX_CPU).for_each(|core| cores.set(core)),
    }
    sched_setaffinity(None, &cores).context("can't pin: the benchmarks need two cores, 0 and 1")
}

/// Lets this process and its children hold as many descriptors as the system allows.
///
/// # Errors
/// The system refuses.
pub(crate) fn raise_descriptor_limit() -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("can't raise the descriptor limit")
}

/// A process; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts `command` on the core of `side`.
    ///
    /// # Errors
    /// It can't be started.
    pub(crate) fn start(command: &mut Command, side: Side) -> Result<Self> {
        pin(side)?;
        let child = command.stdin(Stdio::null()).spawn();
        pin(Side::Load)?;
        Ok(Self { child: child.with_context(|| format!("can't start {command:?}"))? })
    }

    /// The id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads stdout up to a line that holds `ready http://ADDRESS`.
    ///
    /// # Errors
    /// It ended first, or its stdout is no pipe.
    pub(crate) fn ready(&mut self) -> Result<SocketAddr> {
        let line = self.ready_line()?;
        line.split(' ').next().and_then(|addr| addr.parse().ok()).context(line)
    }

    /// What follows `ready http://` in its ready line.
    fn ready_line(&mut self) -> Result<String> {
        let stdout = self.child.stdout.take().context("stdout is not piped")?;
        for line in BufReader::new(stdout).lines() {
            if let Some((_, rest)) = line?.split_once("ready http://") {
                return Ok(rest.to_owned());
            }
        }
        Err(anyhow::anyhow!("ended before it was ready"))
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// It can't be waited for, or has failed.
    pub(crate) fn ended(&mut self) -> Result<bool> {
        let status = self.child.try_wait()?;
        ensure!(status.is_none_or(|status| status.success()), "it failed: {status:?}");
        Ok(status.is_some())
    }

    /// Processor time used so far by all its threads, those that have ended included. The kernel
    /// tells it in ticks of 10 ms.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        self.ticks(11)
    }

    /// Processor time of its children that have ended and were waited for, and of theirs.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn children_cpu(&self) -> Result<Duration> {
        self.ticks(13)
    }

    /// User and system time: two fields, `skip` behind the name.
    fn ticks(&self, skip: usize) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // The name, in parentheses, may hold spaces. Its own times are the 14th and 15th field, those of its children
        // the next two; the one after the name is the 3rd.
        let (_, fields) = stat.rsplit_once(") ").context("no name in stat")?;
        let fields = fields.split(' ').skip(skip).take(2);
        let ticks: u64 = fields.map(str::parse::<u64>).sum::<Result<_, _>>()?;
        Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that answers at an address.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) process: Process,
    pub(crate) addr: SocketAddr,
}

impl Server {
    /// `standpipe dev`, built for release, on a free port and the folder `data` of the run.
    ///
    /// # Errors
    /// It does not get ready.
    pub(crate) fn standpipe(run: &Run, data: &str) -> Result<Self> {
        let mut command = standpipe(run);
        command.args(["dev", "--listen", "127.0.0.1:0", "--data"]).arg(run.path(data)).stdout(Stdio::piped());
        // What it says to its user is no figure; a failed start shows when it is run by hand.
        command.stderr(Stdio::null());
        Self::announced("standpipe", command)
    }

    /// As above, with one more door open; its address is that door's.
    ///
    /// # Errors
    /// It does not get ready.
    pub(crate) fn standpipe_door(run: &Run, data: &str, door: &str) -> Result<Self> {
        let mut command = standpipe(run);
        command.args(["dev", "--listen", "127.0.0.1:0", &format!("--{door}"), "127.0.0.1:0", "--data"]);
        command.arg(run.path(data)).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = Process::start(&mut command, Side::Server)?;
        let line = process.ready_line().with_context(|| format!("{command:?}"))?;
        let prefix = format!("{door}=");
        let at = line.split(' ').find_map(|word| word.strip_prefix(&prefix)).context("the door is not open")?;
        Ok(Self { name: "standpipe", process, addr: at.parse()? })
    }

    /// The bare hyper server of this binary.
    ///
    /// # Errors
    /// It does not get ready.
    pub(crate) fn bare_hyper(body: &str, headers: &[String]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bare-hyper").arg(body).args(headers).stdout(Stdio::piped());
        Self::announced("bare hyper", command)
    }

    /// Starts a server that prints where it is ready.
    ///
    /// # Errors
    /// It does not get ready.
    pub(crate) fn announced(name: &'static str, mut command: Command) -> Result<Self> {
        let mut process = Process::start(&mut command, Side::Server)?;
        let addr = process.ready().with_context(|| format!("{command:?}"))?;
        Ok(Self { name, process, addr })
    }

    /// Starts a server that is ready once it accepts at `addr`.
    ///
    /// # Errors
    /// It does not get ready.
    pub(crate) fn at(name: &'static str, addr: SocketAddr, mut command: Command) -> Result<Self> {
        let mut process = Process::start(&mut command, Side::Server)?;
        let accepts = || TcpStream::connect(addr).is_ok();
        until(|| accepts() || !matches!(process.ended(), Ok(false)));
        ensure!(accepts(), "not ready: {command:?}");
        Ok(Self { name, process, addr })
    }
}

/// The binary that is measured, with no configuration but its arguments.
pub(crate) fn standpipe(run: &Run) -> Command {
    let mut command = Command::new(&run.binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("STANDPIPE_") {
            command.env_remove(name);
        }
    }
    command
}

/// A program of the system, where it is installed.
pub(crate) fn installed(name: &str) -> Option<PathBuf> {
    // nginx is in a folder that is not on everybody's path.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    dirs.map(|dir: PathBuf| dir.join(name)).find(|file| file.exists())
}

/// An address nobody listens at now, for servers that can't choose one.
///
/// # Errors
/// There is none.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
