//! What a process is started with, as plain values: arguments, folder, environment, input, limits. Launching is
//! the supervisor's business, and values of secrets are never in here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What one process is started with. Stored with its run, so that it can be started again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Command {
    /// The program and its arguments; never empty. A line for a shell is `["sh", "-c", line]`.
    pub argv: Vec<String>,
    /// The folder it is started in; the server's own when `None`.
    pub cwd: Option<PathBuf>,
    /// Its whole environment, but for what the supervisor adds (`STANDPIPE_*`) and the secrets.
    pub env: BTreeMap<String, String>,
    /// Secrets it gets as variables; looked up when it is started, never stored.
    pub secrets: Vec<Secret>,
    /// What it reads.
    pub stdin: Stdin,
    /// Give it a terminal of this size; `stderr` is then part of `out`.
    pub pty: Option<PtySize>,
    /// What it may use.
    pub resources: ResourceLimits,
    /// Wall-clock time, in milliseconds, after which it is stopped as timed out; `None` is never.
    pub timeout_ms: Option<u64>,
    /// Time between SIGTERM and SIGKILL, in milliseconds; the node's `run_grace_ms` when `None`.
    pub grace_ms: Option<u64>,
    /// Time without a byte of output, in milliseconds, after which it is marked as stalled; `None` is never.
    pub stall_ms: Option<u64>,
    /// Lower limits of its output than the node's.
    pub output: OutputLimits,
    /// Lines that begin with this are JSON events, beside `::progress`; `None` is no such lines.
    pub event_prefix: Option<String>,
}

/// A variable whose value must not be shown or stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// The variable.
    pub name: String,
    /// Where its value comes from.
    pub from: SecretSource,
}

/// Where the value of a secret comes from when a process is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretSource {
    /// A file's content, without a newline at its end.
    File(PathBuf),
    /// A variable of the server.
    Env(String),
}

/// What a process reads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdin {
    /// Nothing: end-of-file at once.
    #[default]
    None,
    /// This text, then end-of-file.
    Data(String),
    /// The records of a stream (its path), as they come, then end-of-file when it ends.
    Stream(String),
}

/// Size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PtySize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub cols: u16,
}

/// What a process and its descendants may use; `None` is the node's own limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceLimits {
    /// Seconds of processor time, of each process.
    pub cpu_s: Option<u64>,
    /// Bytes of memory: of all of them where the system can count them together, else of each.
    pub memory_bytes: Option<u64>,
    /// Descriptors of each process.
    pub files: Option<u64>,
    /// Processes at once, where the system can count them.
    pub processes: Option<u64>,
}

/// Limits of a process' output; `None` is the node's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutputLimits {
    /// Bytes of one record; a longer line becomes several.
    pub line_bytes_max: Option<usize>,
    /// Bytes in all; over it the process is stopped and has failed.
    pub bytes_max: Option<u64>,
    /// Bytes per second; over it the process waits.
    pub bytes_per_s_max: Option<u64>,
}
