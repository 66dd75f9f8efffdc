//! Jobs: the runs that others than the operator may start. A job is a plan with typed parameters; what a caller
//! gives is checked, and put where no shell ever reads it. Reading jobs from a file is the binary's business.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::name::{Name, RunId};
use crate::plan::Plan;
use crate::record::RunState;
use crate::schedule::Schedule;
use crate::settings::Group;

/// A job of the configuration.
#[derive(Clone, Debug)]
pub struct JobSpec {
    /// Its name, and that of its runs.
    pub name: Name,
    /// What it is for, for people.
    pub description: Option<String>,
    /// What it does; `${params.NAME}` stands in arguments for parameters.
    pub plan: Arc<Plan>,
    /// Whether it is one command.
    pub single: bool,
    /// What a caller may, or must, give.
    pub params: BTreeMap<Name, ParamSpec>,
    /// The concurrency group of its runs.
    pub group: Option<Group>,
    /// Its runs at work at once; `None` is no limit of its own.
    pub runs_max: Option<usize>,
    /// When it starts by itself.
    pub schedule: Option<Schedule>,
    /// What the `scope` of a caller's token must hold, beside what rules say.
    pub scope: Option<String>,
}

/// The type of a parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParamType {
    /// Text.
    #[default]
    String,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
}

/// A parameter of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParamSpec {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: ParamType,
    /// Text: a regular expression that all of it must match.
    pub pattern: Option<String>,
    /// Text: the only values there are; empty is any.
    pub choices: Vec<String>,
    /// A number: the smallest one.
    pub min: Option<i64>,
    /// A number: the largest one.
    pub max: Option<i64>,
    /// What it is when the caller gives none; without it the caller must.
    pub default: Option<Value>,
    /// What it is for, for people.
    pub description: Option<String>,
}

/// A job, and how it goes.
#[derive(Clone, Debug)]
pub struct JobInfo {
    /// The job.
    pub spec: Arc<JobSpec>,
    /// Its newest run.
    pub last: Option<RunId>,
    /// The state of that.
    pub state: Option<RunState>,
    /// When it starts by itself next, in milliseconds since the epoch.
    pub next_at: Option<u64>,
}
