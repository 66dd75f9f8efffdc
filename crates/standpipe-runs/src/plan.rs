//! A plan: the tasks of a run and what each waits for. A run of one command is a plan of one task. Reading plans
//! from files, and following one, are other modules' business.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::command::Command;
use crate::graph::{Graph, levels};
use crate::name::Name;

/// What a run does. Checked before it is accepted: names are unique, `needs` are known and without a circle.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// The tasks, in the order of the file.
    pub tasks: Vec<Task>,
    /// Tasks at once; `None` is the node's `run_tasks_max`.
    pub parallel: Option<usize>,
    /// Wall-clock time of the whole run, in milliseconds, after which it is stopped as timed out.
    pub timeout_ms: Option<u64>,
}

impl Plan {
    /// The plan of a run of one command: its only task is `main`.
    pub fn single(command: Command) -> Self {
        let name = "main".parse().expect("it is a good name");
        Self { tasks: vec![Task::new(name, command)], ..Self::default() }
    }
}

/// One task of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Unique in its plan. A member of a matrix is named after its values.
    pub name: Name,
    /// What it runs.
    pub command: Command,
    /// Tasks that must have ended well before this one starts (see `when`).
    #[serde(default)]
    pub needs: Vec<Name>,
    /// The condition under which it runs at all, as text (`docs/pipelines.md`); `None` is when all it needs succeeded.
    #[serde(default)]
    pub when: Option<String>,
    /// Attempts after the first that has failed.
    #[serde(default)]
    pub retries: u32,
    /// Time between attempts.
    #[serde(default)]
    pub backoff: Backoff,
    /// Its failure does not fail the run, and what needs it runs.
    #[serde(default)]
    pub continue_on_failure: bool,
    /// Files to keep when it has succeeded.
    #[serde(default)]
    pub artefacts: Vec<Artefact>,
    /// Outputs of other tasks it gets as variables: variable → `task.output`.
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
    /// The values of the matrix that made it, if one did.
    #[serde(default)]
    pub matrix: BTreeMap<String, String>,
    /// The task of the file whose matrix made it; conditions may mean all members by that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_of: Option<Name>,
}

impl Task {
    /// A task that needs nothing and leaves nothing.
    pub fn new(name: Name, command: Command) -> Self {
        Self {
            name,
            command,
            needs: Vec::new(),
            when: None,
            retries: 0,
            backoff: Backoff::default(),
            continue_on_failure: false,
            artefacts: Vec::new(),
            inputs: BTreeMap::new(),
            matrix: BTreeMap::new(),
            member_of: None,
        }
    }
}

/// Time between two attempts: `first_ms`, doubled each time, at most `max_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// Before the second attempt, in milliseconds.
    pub first_ms: u64,
    /// At most, in milliseconds.
    pub max_ms: u64,
}

impl Backoff {
    /// The pause after so many attempts, in milliseconds.
    pub(crate) fn pause_ms(self, attempts: u32) -> u64 {
        let doubled = 1_u64.checked_shl(attempts.saturating_sub(1)).unwrap_or(u64::MAX);
        self.first_ms.saturating_mul(doubled).min(self.max_ms)
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first_ms: 1_000, max_ms: 60_000 }
    }
}

/// A file, or files, that a task leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artefact {
    /// What it is fetched by.
    pub name: Name,
    /// The file, relative to the task's folder.
    pub path: String,
    /// Bytes it may have; the node's `artefact_bytes_max` when `None`.
    #[serde(default)]
    pub bytes_max: Option<u64>,
    /// The task has succeeded without it, too.
    #[serde(default)]
    pub optional: bool,
}

/// How a parameter stands in an argument or a variable.
pub(crate) const PARAMS_BEGIN: &str = "${params.";

/// The parameter that a whole argument stands for: `${params.target}`.
pub(crate) fn param_of(text: &str) -> Option<&str> {
    text.strip_prefix(PARAMS_BEGIN)?.strip_suffix('}').filter(|name| !name.contains(['$', '{', '}']))
}

impl Plan {
    /// Whether the plan can be followed: names are unique, `needs` are known and without a circle, conditions can be read.
    ///
    /// # Errors
    /// A sentence that names what is wrong.
    pub fn check(self: &Arc<Self>) -> Result<(), String> {
        if self.tasks.is_empty() {
            return Err("a plan without a task".to_owned());
        }
        Graph::new(self, &BTreeMap::new(), &BTreeMap::new(), 1).map(drop)
    }

    /// The tasks in the order in which they may start: a task is one level behind the last that it needs.
    pub fn levels(&self) -> Vec<Vec<&Task>> {
        levels(self).into_iter().map(|level| level.into_iter().map(|task| &self.tasks[task]).collect()).collect()
    }

    /// Puts the values of parameters in: for arguments that are nothing but `${params.x}`, and for every task as
    /// the variable `PARAM_X`. Never into a part of an argument, which may be a line for a shell.
    pub(crate) fn fill(&mut self, params: &BTreeMap<String, String>) {
        for command in self.tasks.iter_mut().map(|task| &mut task.command) {
            for text in &mut command.argv {
                if let Some(value) = param_of(text).and_then(|name| params.get(name)) {
                    text.clone_from(value);
                }
            }
            let variables = params.iter().map(|(name, value)| (variable_of("PARAM_", name), value.clone()));
            command.env.extend(variables);
        }
    }
}

/// The variable that holds a parameter or a value of a matrix: `PARAM_TARGET`, `MATRIX_OS`.
pub(crate) fn variable_of(prefix: &str, name: &str) -> String {
    let letters = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    prefix.chars().chain(letters).collect()
}
