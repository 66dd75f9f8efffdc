//! Runs: processes and pipelines that anyone can watch, replay and stop. A run is a durable record, a stream of
//! output and a few values of the tree; nothing about it lives only in memory.
//!
//! It never talks to a viewer, only to the tree and its streams; it knows no protocol, parses no arguments and
//! reads no configuration file.

mod command;
#[allow(dead_code, reason = "the supervisor calls it")]
mod events;
mod name;
mod plan;
mod record;

pub use crate::command::{Command, OutputLimits, PtySize, ResourceLimits, Secret, SecretSource, Stdin};
pub use crate::name::{InvalidName, Name, RunId};
pub use crate::plan::{Artefact, Backoff, Plan, Task};
pub use crate::record::{Ended, Progress, RunRecord, RunState, TaskRecord, TaskState, Usage};
