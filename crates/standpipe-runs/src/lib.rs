//! Runs: processes and pipelines that anyone can watch, replay and stop. A run is a durable record, a stream of
//! output and a few values of the tree; nothing about it lives only in memory.
//!
//! It never talks to a viewer, only to the tree and its streams; it knows no protocol, parses no arguments and
//! reads no configuration file.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod artefacts;
#[cfg(test)]
mod bench;
mod board;
mod book;
mod command;
mod events;
mod execution;
mod file;
mod graph;
mod guard;
mod jobs;
mod life;
mod metrics;
mod name;
mod plan;
mod prune;
mod queue;
mod record;
mod recover;
mod runs;
mod schedule;
mod settings;
mod supervise;
#[cfg(test)]
mod tests;
mod timer;
mod units;
mod values;
mod when;

pub use crate::board::Board;
pub use crate::command::{Command, OutputLimits, PtySize, ResourceLimits, Secret, SecretSource, Stdin};
pub use crate::file::{Base, FileBounds, FileError, FileErrors, FileFormat, Param, Pipeline, WrongParam};
pub use crate::guard::{GuardProgram, guard};
pub use crate::jobs::{JobInfo, JobSpec, ParamSpec, ParamType};
pub use crate::name::{InvalidName, Name, RunId};
pub use crate::plan::{Artefact, Backoff, Plan, Task};
pub use crate::record::{Ended, Progress, RunRecord, RunState, TaskRecord, TaskState, Usage};
pub use crate::runs::Runs;
pub use crate::schedule::{Missed, Schedule, ScheduleError};
pub use crate::settings::{Durations, Filter, Group, Policy, Prune, RunsSettings, RunsStats, Start};
pub use crate::supervise::{
    Attempt, AttemptEnd, Child, Exit, LaunchError, Launched, Launcher, Output, Running, Source, Spec, Stop, Stopper,
    Supervisor, SupervisorSettings, TaskEvent, Told, Used, Why, processes,
};
pub use crate::units::{duration_ms, size_bytes};
