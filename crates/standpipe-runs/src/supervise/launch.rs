//! The seam to the operating system: how a process is started, heard, told and waited for. Real processes
//! implement it (`process/`), and a scripted fake for tests of order and races (`fake.rs`). What is done with a
//! process is the attempt's business (`attempt.rs`).

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use standpipe_engine::Channel;
use tokio::io::AsyncWrite;

use crate::command::{PtySize, ResourceLimits};

/// Starts processes, and ends what earlier boots of the same data folder left.
pub trait Launcher: fmt::Debug + Send + Sync + 'static {
    /// Starts a process. One that can't be started is no reason to wait: it is said at once.
    fn launch(&self, spec: Spec) -> BoxFuture<'_, Result<Launched, LaunchError>>;

    /// Ends every process that an earlier boot of this data folder left, and says how many there were.
    fn sweep(&self) -> BoxFuture<'_, usize>;

    /// Gives back what is held beside the processes. All of them have ended.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// What is started.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Where it is started; `None` is the server's own folder.
    pub cwd: Option<PathBuf>,
    /// Its whole environment but for the launcher's own mark.
    pub env: BTreeMap<String, String>,
    /// Whether it is given something to read; otherwise it reads end-of-file.
    pub input: bool,
    /// Its terminal, if it gets one.
    pub pty: Option<PtySize>,
    /// What it may use.
    pub resources: ResourceLimits,
}

/// Why a process could not be started, and what to do about it: a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LaunchError(pub String);

/// A process that was started, and its pipes.
pub struct Launched {
    /// The process.
    pub child: Box<dyn Child>,
    /// What it reads, if it was to be given something.
    pub input: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// What it writes. With a terminal that is one.
    pub output: Vec<(Channel, Box<dyn Source>)>,
}

impl fmt::Debug for Launched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launched").field("pid", &self.child.pid()).finish_non_exhaustive()
    }
}

/// What is told to a process and all that came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// End yourself (SIGTERM; to one that is held, go on, so that it can).
    Terminate,
    /// Die (SIGKILL).
    Kill,
}

/// A process and all that came of it. Dropping it kills what is left.
pub trait Child: Send {
    /// The main process.
    fn pid(&self) -> u32;

    /// Waits for the end of the main process; what came of it may live on. May be dropped and called again.
    fn exited(&mut self) -> BoxFuture<'_, Exit>;

    /// Tells the main process and all that came of it.
    fn tell(&mut self, told: Told);

    /// Processes that are still there, the main one included. It may look through all processes of the system.
    fn left(&mut self) -> usize;

    /// What all of them used, once they are gone, and whether one was killed for its memory. Gives back what was
    /// held for them.
    fn close(self: Box<Self>) -> Used;
}

/// How the main process ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, if it exited.
    pub code: Option<i32>,
    /// The signal that killed it, if one did.
    pub signal: Option<i32>,
}

/// What processes used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Processor time, in milliseconds.
    pub cpu_ms: u64,
    /// Most memory at once, in bytes.
    pub memory_bytes_max: u64,
    /// Whether the system killed one of them because they had reached their memory limit.
    pub out_of_memory: bool,
}

/// The reading end of a pipe or a terminal.
pub trait Source: Send {
    /// Waits until there is something to read, or the end.
    fn ready(&mut self) -> BoxFuture<'_, io::Result<()>>;

    /// Appends what is there to `buffer`, at most so many bytes; 0 is the end.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing.
    fn read(&mut self, buffer: &mut BytesMut, bytes_max: usize) -> io::Result<usize>;
}
