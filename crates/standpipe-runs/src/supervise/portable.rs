//! Processes where there is no Linux: started by the runtime's own means, in a group of their own where groups are. There
//! are no cgroups, no adoption of orphans and no guard here, so what leaves its group is not found, and what a killed server leaves
//! stays; resource limits and terminals are refused rather than ignored.

use std::io;
use std::process::Stdio;

use bytes::BytesMut;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use standpipe_engine::Channel;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::process::{Child as TokioChild, Command};

use super::launch::{Child, Exit, LaunchError, Launched, Launcher, Source, Spec, Told, Used};
use crate::command::ResourceLimits;

/// Bytes asked for at a time.
const READ_BYTES: usize = 64 << 10;

/// Starts processes by the runtime's means.
#[derive(Debug)]
pub(crate) struct Portable;

impl Launcher for Portable {
    fn launch(&self, spec: Spec) -> BoxFuture<'_, Result<Launched, LaunchError>> {
        ready(start(&spec)).boxed()
    }

    fn sweep(&self) -> BoxFuture<'_, usize> {
        ready(0).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }
}

fn start(spec: &Spec) -> Result<Launched, LaunchError> {
    let refused = |what: &str| Err(LaunchError(format!("{what} need Linux: leave them out here")));
    if spec.pty.is_some() {
        return refused("terminals");
    }
    if spec.resources != ResourceLimits::default() {
        return refused("resource limits");
    }
    let Some((program, arguments)) = spec.argv.split_first().filter(|(program, _)| !program.is_empty()) else {
        return Err(LaunchError("there is no program to start".to_owned()));
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(&spec.env).kill_on_drop(true);
    command
        .stdin(if spec.input { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(cwd) = &spec.cwd {
        command.current_dir(cwd);
    }
    #[cfg(unix)]
    command.process_group(0);
    let mut child = command.spawn().map_err(|error| LaunchError(format!("{program} can't be started: {error}")))?;
    let source = |channel, pipe: Option<Box<dyn AsyncRead + Send + Unpin>>| {
        pipe.map(|pipe| (channel, Box::new(Pipe { pipe, read: BytesMut::new(), ended: false }) as Box<dyn Source>))
    };
    let out = source(Channel::Out, child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let err = source(Channel::Err, child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let input = child.stdin.take().map(|input| Box::new(input) as Box<dyn AsyncWrite + Send + Unpin>);
    let pid = child.id().unwrap_or_default();
    let child = Box::new(Process { child, pid, exit: None });
    Ok(Launched { child, input, output: out.into_iter().chain(err).collect() })
}

struct Process {
    child: TokioChild,
    pid: u32,
    exit: Option<Exit>,
}

impl Process {
    #[cfg(unix)]
    fn signal(&mut self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
        // Once it has been reaped the number counts only as that of the group, as long as that has a member.
        if let Some(pid) = pid.filter(|_| self.group_is_there()) {
            let _gone = rustix::process::kill_process_group(pid, signal);
        }
    }

    #[cfg(unix)]
    fn group_is_there(&self) -> bool {
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
        pid.is_some_and(|pid| rustix::process::test_kill_process_group(pid).is_ok())
    }

    #[cfg(not(unix))]
    fn group_is_there(&self) -> bool {
        self.exit.is_none()
    }
}

impl Child for Process {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn exited(&mut self) -> BoxFuture<'_, Exit> {
        async {
            let status = self.child.wait().await.ok();
            #[cfg(unix)]
            let signal = status.as_ref().and_then(std::os::unix::process::ExitStatusExt::signal);
            #[cfg(not(unix))]
            let signal = None;
            let exit = Exit { code: status.and_then(|status| status.code()), signal };
            self.exit = Some(exit);
            exit
        }
        .boxed()
    }

    fn tell(&mut self, told: Told) {
        #[cfg(unix)]
        match told {
            Told::Terminate => {
                self.signal(rustix::process::Signal::TERM);
                self.signal(rustix::process::Signal::CONT);
            }
            Told::Kill => self.signal(rustix::process::Signal::KILL),
        }
        // There is no asking here.
        #[cfg(not(unix))]
        let _gone = (told, self.child.start_kill());
    }

    fn left(&mut self) -> usize {
        usize::from(self.exit.is_none() || self.group_is_there())
    }

    fn close(self: Box<Self>) -> Used {
        Used::default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.tell(Told::Kill);
    }
}

/// A pipe of the runtime's. It has no "is there something" of its own, so what comes is kept until it is asked for.
struct Pipe {
    pipe: Box<dyn AsyncRead + Send + Unpin>,
    read: BytesMut,
    ended: bool,
}

impl Source for Pipe {
    fn ready(&mut self) -> BoxFuture<'_, io::Result<()>> {
        async {
            if self.read.is_empty() && !self.ended {
                self.read.reserve(READ_BYTES);
                self.ended = self.pipe.read_buf(&mut self.read).await? == 0;
            }
            Ok(())
        }
        .boxed()
    }

    fn read(&mut self, buffer: &mut BytesMut, bytes_max: usize) -> io::Result<usize> {
        if self.read.is_empty() && !self.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = self.read.len().min(bytes_max);
        buffer.extend_from_slice(&self.read.split_to(count));
        Ok(count)
    }
}
