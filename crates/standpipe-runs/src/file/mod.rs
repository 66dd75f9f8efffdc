//! Pipelines in files: TOML and YAML of one shape, read into a [`Plan`] or into everything that is wrong with it.
//! `docs/pipelines.md` is the reference. It opens no file and starts nothing.

mod fields;
mod from_toml;
mod from_yaml;
mod links;
mod members;
mod params;
mod problems;
mod task;
mod tree;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fields::{Fields, entries, name, some_time, variables, whole};
pub use params::{Param, WrongParam};
use problems::Problems;
pub use problems::{FileError, FileErrors};
use task::Draft;
use tree::{Entry, Node};

use crate::name::Name;
use crate::plan::Plan;

/// How a pipeline's file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// `.toml`.
    Toml,
    /// `.yaml`, `.yml`, and JSON, which is YAML.
    Yaml,
}

impl FileFormat {
    /// What the end of a file's name says.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "toml" => Some(Self::Toml),
            "yaml" | "yml" | "json" => Some(Self::Yaml),
            _ => None,
        }
    }

    /// The word for it in requests: `toml` or `yaml`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Toml => "toml",
            Self::Yaml => "yaml",
        }
    }
}

impl std::str::FromStr for FileFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "toml" => Ok(Self::Toml),
            "yaml" => Ok(Self::Yaml),
            other => Err(format!("{other:?} is no format of a pipeline; use \"toml\" or \"yaml\"")),
        }
    }
}

/// What a file may ask for at most.
#[derive(Clone, Copy, Debug)]
pub struct FileBounds {
    /// Bytes of its text (the node's `pipeline_bytes_max`).
    pub bytes_max: usize,
    /// Tasks, with all members of matrices (the node's `pipeline_tasks_max`).
    pub tasks_max: usize,
}

/// Where a pipeline is started: what its tasks have beside what its file says.
#[derive(Clone, Debug, Default)]
pub struct Base {
    /// Folder that the tasks' `cwd` are relative to, and the `cwd` of those that have none.
    pub cwd: Option<PathBuf>,
    /// Variables that the file does not set.
    pub env: BTreeMap<String, String>,
}

/// A pipeline as its file has it, checked: names are known, there is no circle, conditions can be decided.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// What its runs are called unless somebody says otherwise.
    pub name: Option<Name>,
    /// Parameters it takes, in the order of their names.
    pub params: BTreeMap<String, Param>,
    /// Its tasks; `${params.x}` is still in their arguments.
    plan: Plan,
}

impl Pipeline {
    /// Reads a file's text.
    ///
    /// # Errors
    /// Everything that is wrong with it, up to 20 things, each with its place.
    pub fn read(text: &str, format: FileFormat, bounds: &FileBounds) -> Result<Self, FileErrors> {
        let mut problems = Problems::new(text);
        if text.len() > bounds.bytes_max {
            let message = format!("{} bytes, more than the {} of pipeline_bytes_max", text.len(), bounds.bytes_max);
            problems.add(&(0..0), message, "divide the pipeline, or raise the limit");
            return problems.unless(None);
        }
        let root = match format {
            FileFormat::Toml => from_toml::parse(text, &mut problems),
            FileFormat::Yaml => from_yaml::parse(text, &mut problems),
        };
        let pipeline = root.and_then(|root| pipeline(&root, bounds, &mut problems));
        problems.unless(pipeline)
    }

    /// The tasks as the file has them, before parameters have values.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The plan to start, and the values of all parameters.
    ///
    /// # Errors
    /// A parameter is unknown, missing, or has a value it may not have.
    pub fn start(
        &self,
        base: &Base,
        given: &BTreeMap<String, String>,
    ) -> Result<(Plan, BTreeMap<String, String>), WrongParam> {
        let values = params::values(&self.params, given)?;
        let mut plan = self.plan_in(base);
        plan.fill(&values);
        Ok((plan, values))
    }

    /// The tasks where they are started; `${params.x}` is still in their arguments.
    pub fn plan_in(&self, base: &Base) -> Plan {
        let mut plan = self.plan.clone();
        for task in &mut plan.tasks {
            for (name, value) in &base.env {
                task.command.env.entry(name.clone()).or_insert_with(|| value.clone());
            }
            task.command.cwd = match (&base.cwd, task.command.cwd.take()) {
                (Some(base), Some(cwd)) => Some(base.join(cwd)),
                (base, cwd) => cwd.or_else(|| base.clone()),
            };
        }
        plan
    }
}

fn pipeline(root: &Node, bounds: &FileBounds, problems: &mut Problems<'_>) -> Option<Pipeline> {
    let mut fields = Fields::of(root, "a pipeline", problems)?;
    let run_name = fields.read("name", problems, name);
    let at_once = |node: &Node, problems: &mut Problems<'_>| whole(node, 1, 10_000, problems);
    let parallel = fields.read("parallel", problems, at_once).map(|number| number as usize);
    let timeout_ms = fields.read("timeout", problems, some_time);
    let env = fields.read("env", problems, variables).unwrap_or_default();
    let params = fields.read("params", problems, params::read).unwrap_or_default();
    let mut tasks: Vec<&Entry> = Vec::new();
    // `[task.a]` reads well in TOML, `tasks:` in YAML.
    for key in ["task", "tasks"] {
        tasks.extend(fields.read(key, problems, |node, problems| entries(node, "tasks", problems)).unwrap_or_default());
    }
    // Places for what YAML's anchors name.
    fields.finish_but(|key| key.starts_with("x-"), problems);
    if tasks.is_empty() && problems.is_empty() {
        let help = "add [task.NAME] with run = \"…\" (TOML), or tasks: with NAME: and run: below it (YAML)";
        problems.add(&(0..0), "no tasks", help);
    }
    let drafts: Vec<Draft> = tasks.iter().filter_map(|entry| task::read(entry, problems)).collect();
    let whole_file = drafts.len() == tasks.len();
    let mut tasks = links::link(&drafts, whole_file, &params, bounds, problems)?;
    for task in &mut tasks {
        for (name, value) in &env {
            task.command.env.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    let plan = Plan { tasks, parallel, timeout_ms };
    Some(Pipeline { name: run_name, params, plan })
}
