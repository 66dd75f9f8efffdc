//! Jobs: the runs that others than the operator may start. A job is a plan with typed parameters; what a caller
//! gives is checked, and put where no shell ever reads it. Reading jobs from a file is the binary's business.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::RegexBuilder;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use standpipe_engine::{Error, Result};

use crate::command::{Command, Stdin};

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
    /// How many it has had.
    pub runs: u64,
    /// The state of the newest.
    pub state: Option<RunState>,
    /// When it starts by itself next, in milliseconds since the epoch.
    pub next_at: Option<u64>,
}

/// Longest text of a parameter, in bytes, unless its pattern or its choices say less: what is given is stored with
/// the run and shown with it.
const TEXT_BYTES_MAX: usize = 4_096;
/// Bytes a compiled pattern may have.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// What stands in an argument for a parameter, before its name.
const OPEN: &str = "${params.";

/// Programs that take another program as text after `-c`, `-e` and the like.
const INTERPRETERS: [&str; 15] = [
    "sh", "bash", "dash", "ash", "ksh", "zsh", "fish", "busybox", "python", "perl", "ruby", "node", "php", "lua", "awk",
];

impl JobSpec {
    /// Whether the job can be meant: its parameters, and where they stand.
    ///
    /// # Errors
    /// A sentence that names what to change.
    pub fn check(&self) -> Result<(), String> {
        let mut variables = BTreeMap::new();
        for (name, param) in &self.params {
            param.check().map_err(|reason| format!("parameter {name}: {reason}"))?;
            if let Some(other) = variables.insert(variable(name), name) {
                return Err(format!("parameters {other} and {name} would be the same variable {}", variable(name)));
            }
            if self.schedule.is_some() && param.default.is_none() {
                return Err(format!("parameter {name} needs a default, because the job starts by its schedule"));
            }
        }
        self.plan.tasks.iter().try_for_each(|task| {
            self.check_command(&task.command).map_err(|reason| format!("task {}: {reason}", task.name))
        })
    }

    fn check_command(&self, command: &Command) -> Result<(), String> {
        for argument in &command.argv {
            for name in references(argument) {
                let name = name.ok_or_else(|| format!("{argument:?}: {OPEN} has no closing brace"))?;
                if !self.params.keys().any(|known| known.as_str() == name) {
                    return Err(format!("{argument:?} means a parameter {name:?} that the job does not have"));
                }
            }
        }
        if let Some(text) = program_texts(&command.argv).find(|text| text.contains(OPEN)) {
            return Err(format!(
                "{text:?} is a program, and a parameter in it would be read as part of it: use the variable instead, \
                 \"$PARAM_NAME\" in quotes"
            ));
        }
        let data = match &command.stdin {
            Stdin::Data(text) => Some(text.as_str()),
            _ => None,
        };
        let folder = command.cwd.as_ref().and_then(|path| path.to_str());
        let elsewhere = command.env.values().map(String::as_str).chain(data).chain(folder);
        match elsewhere.into_iter().find(|text| text.contains(OPEN)) {
            Some(text) => {
                Err(format!("{text:?}: parameters stand in arguments; elsewhere use the variable PARAM_NAME"))
            }
            None => Ok(()),
        }
    }

    /// The parameters of one run, with defaults, as texts.
    ///
    /// # Errors
    /// `BadRequest` that names the parameter and what it may be.
    pub fn params(&self, given: &BTreeMap<String, Value>) -> Result<BTreeMap<String, String>> {
        if let Some(unknown) = given.keys().find(|name| !self.params.keys().any(|known| known.as_str() == *name)) {
            let known: Vec<_> = self.params.keys().map(Name::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Error::bad_request(format!("job {} has no parameter {unknown:?}; it has: {known}", self.name)));
        }
        let mut params = BTreeMap::new();
        for (name, spec) in &self.params {
            let value = given.get(name.as_str()).filter(|value| !value.is_null()).or(spec.default.as_ref());
            let Some(value) = value else {
                return Err(Error::bad_request(format!("parameter {name} is missing: {}", spec.expected())));
            };
            let text = spec.text(value).map_err(|reason| Error::bad_request(format!("parameter {name}: {reason}")))?;
            params.insert(name.to_string(), text);
        }
        Ok(params)
    }

    /// The plan of a run with these parameters: in arguments in place of `${params.NAME}`, each in the one argument
    /// it stands in, and for every task as variable `PARAM_NAME`.
    pub fn plan_with(&self, params: &BTreeMap<String, String>) -> Arc<Plan> {
        if params.is_empty() {
            return self.plan.clone();
        }
        let mut plan = Plan::clone(&self.plan);
        for task in &mut plan.tasks {
            for argument in task.command.argv.iter_mut().filter(|argument| argument.contains(OPEN)) {
                *argument = filled(argument, params);
            }
            let named = self.params.keys().filter_map(|name| Some((name, params.get(name.as_str())?)));
            task.command.env.extend(named.map(|(name, text)| (variable(name), text.clone())));
        }
        plan.into()
    }
}

/// The variable a parameter is in.
fn variable(name: &Name) -> String {
    format!("PARAM_{}", name.as_str().replace('-', "_").to_ascii_uppercase())
}

/// The names of parameters in an argument; `None` for one without an end.
fn references(argument: &str) -> impl Iterator<Item = Option<&str>> {
    argument.split(OPEN).skip(1).map(|rest| rest.split_once('}').map(|(name, _)| name))
}

/// The argument with texts for parameters. What is put in is not looked at again.
fn filled(argument: &str, params: &BTreeMap<String, String>) -> String {
    let mut parts = argument.split(OPEN);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once('}').unwrap_or((part, ""));
        text.push_str(params.get(name).map_or("", String::as_str));
        text.push_str(rest);
    }
    text
}

/// The arguments that are programs themselves: what follows an option such as `-c` once an interpreter was named.
fn program_texts(argv: &[String]) -> impl Iterator<Item = &str> {
    let interpreter = |argument: &String| {
        let base = argument.rsplit('/').next().unwrap_or_default();
        let base = base.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        INTERPRETERS.contains(&base) || base.ends_with("awk")
    };
    let from = argv.iter().position(interpreter).unwrap_or(argv.len());
    let awk = argv.get(from).is_some_and(|argument| argument.ends_with("awk"));
    let option = |argument: &str| {
        let letters = argument.strip_prefix('-').unwrap_or_default();
        matches!(argument, "--eval" | "--command" | "--execute" | "--run")
            || (letters.chars().all(|c| c.is_ascii_alphabetic()) && letters.contains(['c', 'e', 'E', 'r']))
    };
    let rest = argv.get(from..).unwrap_or_default();
    rest.iter().enumerate().filter_map(move |(index, argument)| {
        let before = index.checked_sub(1).map(|before| rest[before].as_str());
        let joined = argument.starts_with("--eval=") || argument.starts_with("--command=");
        (joined || (awk && index > 0) || before.is_some_and(option)).then_some(argument.as_str())
    })
}

impl ParamSpec {
    /// Whether the parameter can be meant.
    fn check(&self) -> Result<(), String> {
        let text_only = self.pattern.is_some() || !self.choices.is_empty();
        if text_only && self.kind != ParamType::String {
            return Err("only a string has a pattern or choices".into());
        }
        if (self.min.is_some() || self.max.is_some()) && self.kind != ParamType::Integer {
            return Err("only an integer has min and max".into());
        }
        if self.min.zip(self.max).is_some_and(|(min, max)| min > max) {
            return Err("min is larger than max".into());
        }
        if let Some(pattern) = &self.pattern {
            whole(pattern).map_err(|error| format!("pattern {pattern:?}: {error}"))?;
        }
        match &self.default {
            Some(default) => self.text(default).map(drop).map_err(|reason| format!("its default: {reason}")),
            None => Ok(()),
        }
    }

    /// The value as text.
    fn text(&self, value: &Value) -> Result<String, String> {
        let told = || format!("{value} is not {}", self.expected());
        match (self.kind, value) {
            (ParamType::Boolean, Value::Bool(yes)) => Ok(yes.to_string()),
            (ParamType::Boolean, Value::String(text)) if matches!(text.as_str(), "true" | "false") => Ok(text.clone()),
            (ParamType::Integer, Value::Number(number)) => self.integer(number.as_i64()).ok_or_else(told),
            (ParamType::Integer, Value::String(text)) => self.integer(text.parse().ok()).ok_or_else(told),
            (ParamType::String, Value::String(text)) if text.len() > TEXT_BYTES_MAX => {
                Err(format!("it has {} bytes, more than {TEXT_BYTES_MAX}", text.len()))
            }
            // No argument and no variable of a process can hold a zero byte.
            (ParamType::String, Value::String(text)) if text.contains('\0') => Err("it has a zero byte".into()),
            (ParamType::String, Value::String(text)) if self.allows(text) => Ok(text.clone()),
            _ => Err(told()),
        }
    }

    fn integer(&self, number: Option<i64>) -> Option<String> {
        let fits =
            |number: &i64| self.min.is_none_or(|min| *number >= min) && self.max.is_none_or(|max| *number <= max);
        number.filter(fits).map(|number| number.to_string())
    }

    fn allows(&self, text: &str) -> bool {
        let chosen = self.choices.is_empty() || self.choices.iter().any(|choice| choice == text);
        // It was compiled when the job was checked.
        chosen && self.pattern.as_ref().is_none_or(|pattern| whole(pattern).is_ok_and(|regex| regex.is_match(text)))
    }

    /// What it may be, for people.
    fn expected(&self) -> String {
        match self.kind {
            ParamType::Boolean => "true or false".into(),
            ParamType::Integer => match (self.min, self.max) {
                (None, None) => "a whole number".into(),
                (Some(min), None) => format!("a whole number from {min}"),
                (None, Some(max)) => format!("a whole number up to {max}"),
                (Some(min), Some(max)) => format!("a whole number from {min} to {max}"),
            },
            ParamType::String if !self.choices.is_empty() => format!("one of {}", self.choices.join(", ")),
            ParamType::String => match &self.pattern {
                Some(pattern) => format!("a text like {pattern}"),
                None => "a text".into(),
            },
        }
    }
}

/// The pattern for all of a text.
fn whole(pattern: &str) -> Result<regex::Regex, regex::Error> {
    RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(PATTERN_BYTES_MAX).build()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::Task;

    fn job(argv: &[&str], params: Value) -> JobSpec {
        let command = Command { argv: argv.iter().map(|text| (*text).to_owned()).collect(), ..Command::default() };
        let task = json!({ "name": "main", "command": command });
        let task: Task = serde_json::from_value(task).unwrap();
        JobSpec {
            name: "job".parse().unwrap(),
            description: None,
            plan: Plan { tasks: vec![task], ..Plan::default() }.into(),
            single: true,
            params: serde_json::from_value(params).unwrap(),
            group: None,
            runs_max: None,
            schedule: None,
            scope: None,
        }
    }

    /// The arguments a run gets, or why it gets none.
    fn check(argv: &[&str], params: Value, given: Value, expected: &str) {
        let job = job(argv, params);
        job.check().unwrap();
        let given = serde_json::from_value(given).unwrap();
        let told = match job.params(&given) {
            Ok(params) => job.plan_with(&params).tasks[0].command.argv.join(" | "),
            Err(error) => error.message().to_owned(),
        };
        assert_eq!(told, expected);
    }

    #[test]
    fn parameters_are_checked_and_fill_arguments() {
        let day = json!({ "day": { "pattern": "[0-9]{4}-[0-9]{2}" } });
        check(&["x", "--day=${params.day}!"], day.clone(), json!({ "day": "2026-11" }), "x | --day=2026-11!");
        let like = "parameter day: \"2026-11; rm\" is not a text like [0-9]{4}-[0-9]{2}";
        check(&["x"], day.clone(), json!({ "day": "2026-11; rm" }), like);
        check(
            &["x"],
            day.clone(),
            json!({ "day": "2026-11\n" }),
            "parameter day: \"2026-11\\n\" is not a text like [0-9]{4}-[0-9]{2}",
        );
        check(&["x"], day.clone(), json!({}), "parameter day is missing: a text like [0-9]{4}-[0-9]{2}");
        check(&["x"], day.clone(), json!({ "dya": 1 }), "job job has no parameter \"dya\"; it has: day");
        check(&["x"], json!({}), json!({ "a": 1 }), "job job has no parameter \"a\"; it has: none");
        let many = json!({
            "n": { "type": "integer", "min": 1, "max": 9, "default": 3 },
            "dry-run": { "type": "boolean", "default": false },
            "env": { "choices": ["test", "live"], "default": "test" },
        });
        let argv = &["x", "${params.n}${params.n}", "${params.dry-run}", "${params.env}"];
        check(argv, many.clone(), json!({}), "x | 33 | false | test");
        check(argv, many.clone(), json!({ "n": "7", "dry-run": true, "env": "live" }), "x | 77 | true | live");
        for (given, expected) in [
            (json!({ "n": 0 }), "parameter n: 0 is not a whole number from 1 to 9"),
            (json!({ "n": 1.5 }), "parameter n: 1.5 is not a whole number from 1 to 9"),
            (
                json!({ "n": "9999999999999999999" }),
                "parameter n: \"9999999999999999999\" is not a whole number from 1 to 9",
            ),
            (json!({ "dry-run": "yes" }), "parameter dry-run: \"yes\" is not true or false"),
            (json!({ "env": "prod" }), "parameter env: \"prod\" is not one of test, live"),
            (json!({ "env": ["live"] }), "parameter env: [\"live\"] is not one of test, live"),
        ] {
            check(argv, many.clone(), given, expected);
        }
        let text = json!({ "t": {} });
        check(
            &["x", "${params.t}"],
            text.clone(),
            json!({ "t": "${params.t} $(rm) `x` ; \u{e9}" }),
            "x | ${params.t} $(rm) `x` ; \u{e9}",
        );
        check(&["x"], text.clone(), json!({ "t": "a\0b" }), "parameter t: it has a zero byte");
        check(&["x"], text, json!({ "t": "x".repeat(4_097) }), "parameter t: it has 4097 bytes, more than 4096");
    }

    #[test]
    fn every_parameter_is_a_variable() {
        let job = job(&["sh", "-c", "echo \"$PARAM_DRY_RUN\""], json!({ "dry-run": { "type": "boolean" } }));
        job.check().unwrap();
        let params = job.params(&BTreeMap::from([("dry-run".to_owned(), json!(true))])).unwrap();
        assert_eq!(job.plan_with(&params).tasks[0].command.env["PARAM_DRY_RUN"], "true");
    }

    #[test]
    fn a_job_that_can_not_be_meant_is_told_why() {
        let x = json!({ "x": {} });
        let refused = |argv: &[&str], params: &Value, expected: &str| {
            let told = job(argv, params.clone()).check().unwrap_err();
            assert!(told.contains(expected), "{told}");
        };
        refused(
            &["x", "${params.y}"],
            &x,
            "task main: \"${params.y}\" means a parameter \"y\" that the job does not have",
        );
        refused(&["x", "${params.x"], &x, "has no closing brace");
        for argv in [
            &["sh", "-c", "echo ${params.x}"][..],
            &["/bin/bash", "-euxo", "pipefail", "-c", "echo ${params.x}"],
            &["env", "A=1", "bash", "-lc", "${params.x}"],
            &["python3.11", "-c", "print('${params.x}')"],
            &["perl", "-ne", "${params.x}"],
            &["node", "--eval=${params.x}"],
            &["gawk", "{ print ${params.x} }"],
            &["nice", "sudo", "-u", "me", "sh", "-c", "${params.x}"],
        ] {
            refused(argv, &x, "is a program, and a parameter in it");
        }
        job(&["sh", "-c", "echo \"$1\"", "sh", "${params.x}"], x.clone()).check().unwrap();
        for (params, expected) in [
            (json!({ "x": { "pattern": "(" } }), "parameter x: pattern \"(\": "),
            (json!({ "x": { "type": "integer", "pattern": "1" } }), "parameter x: only a string"),
            (json!({ "x": { "min": 1 } }), "parameter x: only an integer"),
            (json!({ "x": { "type": "integer", "min": 2, "max": 1 } }), "parameter x: min is larger than max"),
            (json!({ "x": { "type": "integer", "max": 1, "default": 2 } }), "parameter x: its default: 2 is not"),
            (json!({ "a-b": {}, "a_b": {} }), "would be the same variable PARAM_A_B"),
        ] {
            refused(&["x"], &params, expected);
        }
    }
}
