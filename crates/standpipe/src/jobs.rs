//! The jobs of the configuration (`[job.NAME]`): from settings to what the runs service starts. Checking what can be
//! checked without a file, and reading the pipeline files that some name. When jobs start, and who may start them, is
//! decided elsewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use standpipe_runs::{
    Base, Command, FileBounds, FileFormat, Group, JobSpec, Missed, Name, OutputLimits, ParamSpec, Pipeline, Plan,
    Policy, PtySize, ResourceLimits, Schedule, Secret, SecretSource, Stdin, duration_ms,
};
use standpipe_serve::Limits;

use crate::config::Values;
use crate::exit::{Failure, Result};

/// The keys of a `[job.NAME]`.
pub(crate) const KEYS: [&str; 24] = [
    "command",
    "concurrency",
    "cwd",
    "description",
    "env",
    "every",
    "grace",
    "group",
    "limits",
    "missed",
    "output",
    "params",
    "pipeline",
    "pty",
    "retries",
    "runs_max",
    "schedule",
    "scope",
    "secrets",
    "shell",
    "stall",
    "stdin",
    "time_zone",
    "timeout",
];

/// What is passed to a command that brings no environment of its own; and every variable whose name begins `LC_`.
const PASSED: [&str; 9] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "TERM"];

/// A `[job.NAME]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct JobEntry {
    /// The program and its arguments; or `shell`, or `pipeline`.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<Vec<String>>,
    /// What becomes of a run whose group has one at work: `queue`, `cancel_previous` or `refuse`.
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<Policy>,
    /// The folder it is started in; relative to the one the server is started in.
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// Variables beside those that every command gets.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<String, String>,
    /// Interval between starts, as in `15m`; or `schedule`.
    #[serde(skip_serializing_if = "Option::is_none")]
    every: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grace: Option<String>,
    /// Jobs of one group go one after the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<ResourceLimits>,
    /// What becomes of starts that were missed: `skip` or `run_once`.
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<Missed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<OutputLimits>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    params: BTreeMap<Name, ParamSpec>,
    /// A file of tasks (TOML or YAML).
    #[serde(skip_serializing_if = "Option::is_none")]
    pipeline: Option<PathBuf>,
    pty: bool,
    /// Attempts after the first that has failed.
    retries: u32,
    /// Runs of it at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    runs_max: Option<usize>,
    /// When it starts by itself: minute hour day-of-month month day-of-week.
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<String>,
    /// What the `scope` of a caller's token must hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    /// Variables that are never shown or stored: `{ file = "…" }` or `{ env = "…" }`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    secrets: BTreeMap<String, SecretSource>,
    /// A line for `sh -c`.
    #[serde(skip_serializing_if = "Option::is_none")]
    shell: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stall: Option<String>,
    /// What it reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    stdin: Option<String>,
    /// The zone of `schedule`, as in `Europe/Berlin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    time_zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
}

/// A setting of a job that can't be meant: its key, and why.
type Wrong = (&'static str, String);

/// Can the settings be meant? No file is read. The failure names the setting.
pub(crate) fn check(jobs: &BTreeMap<String, JobEntry>) -> std::result::Result<(), (String, String)> {
    for (name, entry) in jobs {
        let named = |(key, text): Wrong| (format!("job.{name}.{}", entry.place(key)), format!("{name}: {text}"));
        let name: Name = name.parse().map_err(|error| named(("command", format!("{error}"))))?;
        entry.check(&name).map_err(named)?;
    }
    Ok(())
}

/// The jobs, with the pipelines in their files.
///
/// # Errors
/// A file can't be read, or holds no pipeline.
pub(crate) fn read(values: &Values) -> Result<Vec<Arc<JobSpec>>> {
    let env = environment();
    let read = |(name, entry): (&String, &JobEntry)| entry.read(name, &env, &values.limits).map(Arc::new);
    values.job.iter().map(read).collect()
}

/// The variables of this process that a command gets that brings none of its own.
pub(crate) fn environment() -> BTreeMap<String, String> {
    passed(|name| PASSED.contains(&name) || name.starts_with("LC_"))
}

/// The variables of this process of which `wanted` says so. One that is no UTF-8 can't be passed on.
pub(crate) fn passed(wanted: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
    let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let wanted = variables.filter(|(name, _)| !name.is_empty() && !name.contains('=') && wanted(name));
    wanted.filter_map(|(name, value)| Some((name, value.into_string().ok()?))).collect()
}

/// A length of time under a key.
fn time(key: &'static str, text: Option<&String>) -> std::result::Result<Option<u64>, Wrong> {
    text.map(|text| duration_ms(text).map_err(|error| (key, error))).transpose()
}

impl JobEntry {
    /// The key to point at: itself where it is set, else one that is.
    fn place(&self, key: &'static str) -> &'static str {
        let table = toml::Table::try_from(self).unwrap_or_default();
        let set = |key: &&&str| table.contains_key(**key);
        if table.contains_key(key) { key } else { KEYS.iter().find(set).copied().unwrap_or(key) }
    }

    fn check(&self, name: &Name) -> std::result::Result<(), Wrong> {
        let ways = [self.command.is_some(), self.shell.is_some(), self.pipeline.is_some()];
        if ways.iter().filter(|way| **way).count() != 1 {
            return Err(("command", "say what it runs: one of command = [\"program\", …], shell and pipeline".into()));
        }
        if self.command.as_ref().is_some_and(|argv| argv.first().is_none_or(String::is_empty)) {
            return Err(("command", "name the program first".into()));
        }
        if let Some(file) = &self.pipeline {
            if FileFormat::of(file).is_none() {
                return Err(("pipeline", format!("{} ends in neither .toml nor .yaml", file.display())));
            }
            let of_tasks = ["timeout", "grace", "stall", "limits", "output", "secrets", "stdin"];
            let table = toml::Table::try_from(self).unwrap_or_default();
            if let Some(key) = of_tasks.into_iter().find(|key| table.contains_key(*key)) {
                return Err((key, format!("the tasks of a pipeline have their own {key}: say it in the file")));
            }
        }
        if self.runs_max == Some(0) {
            return Err(("runs_max", "use 1 or more".into()));
        }
        if self.retries > 100 {
            return Err(("retries", "use 0 to 100".into()));
        }
        self.schedule()?;
        if self.pipeline.is_none() {
            // What the file of a pipeline says is checked when it is read.
            self.spec(name, self.single(&BTreeMap::new())?, true)?.check().map_err(|text| ("params", text))?;
        }
        Ok(())
    }

    fn schedule(&self) -> std::result::Result<Option<Schedule>, Wrong> {
        let missed = self.missed.unwrap_or_default();
        let zone = self.time_zone.as_deref();
        match (&self.schedule, &self.every) {
            (Some(_), Some(_)) => Err(("every", "say schedule or every, not both".into())),
            (Some(text), None) => match Schedule::cron(text, zone.unwrap_or("UTC"), missed) {
                Ok(schedule) => Ok(Some(schedule)),
                Err(error @ standpipe_runs::ScheduleError::Zone(_)) => Err(("time_zone", error.to_string())),
                Err(error) => Err(("schedule", error.to_string())),
            },
            (None, _) if zone.is_some() => Err(("time_zone", "a zone needs a schedule".into())),
            (None, Some(every)) => {
                let interval = duration_ms(every).map_err(|error| ("every", error))?;
                Ok(Some(Schedule::every(interval, missed).map_err(|error| ("every", error.to_string()))?))
            }
            (None, None) if self.missed.is_some() => Err(("missed", "starts are missed only of a schedule".into())),
            (None, None) => Ok(None),
        }
    }

    /// The plan of a job of one command.
    fn single(&self, env: &BTreeMap<String, String>) -> std::result::Result<Plan, Wrong> {
        let argv = match (&self.command, &self.shell) {
            (Some(argv), _) => argv.clone(),
            (None, line) => vec!["sh".to_owned(), "-c".to_owned(), line.clone().unwrap_or_default()],
        };
        let command = Command {
            argv,
            cwd: self.cwd.as_ref().map(|cwd| std::path::absolute(cwd).unwrap_or_else(|_| cwd.clone())),
            env: self.environment(env),
            secrets: self
                .secrets
                .iter()
                .map(|(name, from)| Secret { name: name.clone(), from: from.clone() })
                .collect(),
            stdin: self.stdin.clone().map_or(Stdin::None, Stdin::Data),
            pty: self.pty.then_some(PtySize { rows: 24, cols: 80 }),
            resources: self.limits.unwrap_or_default(),
            timeout_ms: time("timeout", self.timeout.as_ref())?,
            grace_ms: time("grace", self.grace.as_ref())?,
            stall_ms: time("stall", self.stall.as_ref())?,
            output: self.output.unwrap_or_default(),
            event_prefix: None,
        };
        let mut plan = Plan::single(command);
        plan.tasks.iter_mut().for_each(|task| task.retries = self.retries);
        Ok(plan)
    }

    fn environment(&self, env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut all = env.clone();
        all.extend(self.env.clone());
        all
    }

    fn spec(&self, name: &Name, plan: Plan, single: bool) -> std::result::Result<JobSpec, Wrong> {
        let group = match (&self.group, self.concurrency) {
            (None, None) => None,
            (group, policy) => Some(Group {
                name: group.clone().unwrap_or_else(|| name.to_string()),
                policy: policy.unwrap_or_default(),
            }),
        };
        Ok(JobSpec {
            name: name.clone(),
            description: self.description.clone(),
            plan: Arc::new(plan),
            single,
            params: self.params.clone(),
            group,
            runs_max: self.runs_max,
            schedule: self.schedule()?,
            scope: self.scope.clone(),
        })
    }

    fn read(&self, name: &str, env: &BTreeMap<String, String>, limits: &Limits) -> Result<JobSpec> {
        let wrong = |text: String| Failure::usage(format!("job {name}: {text}"));
        let parsed: Name = name.parse().map_err(|error| wrong(format!("{error}")))?;
        let Some(file) = &self.pipeline else {
            let plan = self.single(env).map_err(|(_, text)| wrong(text))?;
            return self.spec(&parsed, plan, true).map_err(|(_, text)| wrong(text));
        };
        let pipeline = pipeline(file, limits)?;
        let mut spec = self.spec(&parsed, self.tasks(&pipeline, env), false).map_err(|(_, text)| wrong(text))?;
        for (name, param) in &pipeline.params {
            // What the configuration says of a parameter is the narrower.
            let Ok(name) = name.parse::<Name>() else { continue };
            spec.params.entry(name).or_insert_with(|| ParamSpec {
                choices: param.choices.clone(),
                default: param.default.clone().map(Into::into),
                ..ParamSpec::default()
            });
        }
        spec.check().map_err(|text| wrong(text).help(format!("mend [job.{name}] or {}", file.display())))?;
        Ok(spec)
    }

    /// The tasks of its file, in the folder and with the variables of the job.
    fn tasks(&self, pipeline: &Pipeline, env: &BTreeMap<String, String>) -> Plan {
        let cwd = self.cwd.clone().unwrap_or_default();
        let base = Base { cwd: std::path::absolute(&cwd).ok(), env: self.environment(env) };
        pipeline.plan_in(&base)
    }
}

/// A pipeline in a file.
///
/// # Errors
/// The file can't be read, or what is wrong with it, with the places.
fn pipeline(file: &Path, limits: &Limits) -> Result<Pipeline> {
    let text = std::fs::read_to_string(file).map_err(|error| Failure::file(file, &error))?;
    let format = FileFormat::of(file).unwrap_or(FileFormat::Toml);
    let bounds = FileBounds { bytes_max: limits.pipeline_bytes_max, tasks_max: limits.pipeline_tasks_max };
    Pipeline::read(&text, format, &bounds).map_err(|errors| {
        Failure::usage(errors.in_file(&file.display().to_string()))
            .help(format!("standpipe pipeline check {} shows the places", file.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> std::result::Result<JobEntry, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    #[test]
    fn every_key_is_known_by_name() {
        let full = JobEntry {
            command: Some(vec![]),
            concurrency: Some(Policy::Queue),
            cwd: Some("a".into()),
            description: Some("a".into()),
            env: BTreeMap::from([("A".into(), "b".into())]),
            every: Some("1s".into()),
            grace: Some("1s".into()),
            group: Some("a".into()),
            limits: Some(ResourceLimits::default()),
            missed: Some(Missed::Skip),
            output: Some(OutputLimits::default()),
            params: BTreeMap::from([("a".parse().unwrap(), ParamSpec::default())]),
            pipeline: Some("a".into()),
            pty: true,
            retries: 1,
            runs_max: Some(1),
            schedule: Some("a".into()),
            scope: Some("a".into()),
            secrets: BTreeMap::from([("A".into(), SecretSource::Env("B".into()))]),
            shell: Some("a".into()),
            stall: Some("1s".into()),
            stdin: Some("a".into()),
            time_zone: Some("UTC".into()),
            timeout: Some("1s".into()),
        };
        let table = toml::Table::try_from(&full).unwrap();
        let keys: Vec<&str> = table.keys().map(String::as_str).collect();
        assert_eq!(keys, KEYS);
    }

    #[test]
    fn mistakes_name_their_key() {
        let check = |text: &str, expected: std::result::Result<(), (&str, &str)>| {
            let got = entry(text).unwrap().check(&"nightly".parse().unwrap());
            match (got, expected) {
                (Ok(()), Ok(())) => {}
                (Err((key, text)), Err((wanted, part))) => {
                    assert_eq!(key, wanted, "{text}");
                    assert!(text.contains(part), "{text}");
                }
                (got, expected) => panic!("{text}: {got:?} in place of {expected:?}"),
            }
        };
        check("command = ['make', 'test']", Ok(()));
        check("shell = 'make test'\nschedule = '0 3 * * *'\ntime_zone = 'Europe/Berlin'\nmissed = 'run_once'", Ok(()));
        check("shell = 'a'\nevery = '15m'\ntimeout = '10m'\ngrace = '1s'\nlimits = { cpu_s = 5 }", Ok(()));
        check("command = ['a', '${params.b}']\n[params.b]\ntype = 'integer'\nmin = 1\nmax = 3", Ok(()));
        check("pipeline = 'a.toml'", Ok(()));
        check("", Err(("command", "say what it runs")));
        check("shell = 'a'\ncommand = ['b']", Err(("command", "one of")));
        check("command = []", Err(("command", "program")));
        check("pipeline = 'a.txt'", Err(("pipeline", ".toml")));
        check("pipeline = 'a.toml'\ntimeout = '1s'", Err(("timeout", "in the file")));
        check("shell = 'a'\nruns_max = 0", Err(("runs_max", "1 or more")));
        check("shell = 'a'\nschedule = 'a'\nevery = '1s'", Err(("every", "not both")));
        check("shell = 'a'\nschedule = 'hourly'", Err(("schedule", "five fields")));
        check("shell = 'a'\nschedule = '0 3 * * *'\ntime_zone = 'Mars/Base'", Err(("time_zone", "Mars/Base")));
        check("shell = 'a'\ntime_zone = 'UTC'", Err(("time_zone", "schedule")));
        check("shell = 'a'\nmissed = 'skip'", Err(("missed", "schedule")));
        check("shell = 'a'\nevery = '1'", Err(("every", "duration")));
        check("shell = 'a'\ntimeout = 'long'", Err(("timeout", "duration")));
        check("shell = 'echo ${params.a}'\n[params.a]", Err(("params", "variable")));
        check("command = ['a', '${params.b}']", Err(("params", "does not have")));
        assert!(entry("shell = 'a'\nsecrets = { A = 'plain' }").is_err());
        assert!(entry("shell = 'a'\nconcurrency = 'parallel'").unwrap_err().contains("cancel_previous"));
    }

    #[test]
    fn a_job_has_its_group_and_environment() {
        let job = entry("shell = 'a'\nconcurrency = 'refuse'\nenv = { A = 'b', PATH = '/x' }").unwrap();
        let base = BTreeMap::from([("PATH".to_owned(), "/bin".to_owned()), ("HOME".to_owned(), "/h".to_owned())]);
        let spec = job.read("nightly", &base, &Limits::default()).unwrap();
        assert_eq!(spec.group, Some(Group { name: "nightly".into(), policy: Policy::Refuse }));
        let env: Vec<_> = spec.plan.tasks[0].command.env.iter().map(|(a, b)| format!("{a}={b}")).collect();
        assert_eq!(env, ["A=b", "HOME=/h", "PATH=/x"]);
    }
}
