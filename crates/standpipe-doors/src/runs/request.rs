//! What requests about runs hold, as JSON, and the run that one of them means. Checked here is only what could not be
//! started at all; a pipeline's text is read by the runs' own reader.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use standpipe_engine::Error;
use standpipe_runs::{
    Base, Command, FileBounds, FileFormat, Group, Name, OutputLimits, Pipeline, Plan, PtySize, ResourceLimits, Secret,
    SecretSource, Start, Stdin, duration_ms,
};

/// The size of a terminal where none is named.
const PTY: PtySize = PtySize { rows: 24, cols: 80 };

/// The body of `POST /runs`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StartRequest {
    name: Option<Name>,
    argv: Option<Vec<String>>,
    /// A line for `sh -c`.
    shell: Option<String>,
    pipeline: Option<PipelineText>,
    cwd: Option<PathBuf>,
    env: Option<BTreeMap<String, String>>,
    secrets: BTreeMap<String, SecretSource>,
    stdin: Stdin,
    pty: Option<Pty>,
    timeout: Option<String>,
    grace: Option<String>,
    stall: Option<String>,
    limits: Limits,
    event_prefix: Option<String>,
    group: Option<GroupName>,
    params: BTreeMap<String, Value>,
}

/// A pipeline file's content.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PipelineText {
    text: String,
    /// `toml` or `yaml`; TOML where it is left out.
    format: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Pty {
    Wanted(bool),
    Size(PtySize),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Limits {
    #[serde(flatten)]
    resources: ResourceLimits,
    output: OutputLimits,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum GroupName {
    Name(String),
    Group(Group),
}

/// The body of `POST /runs/<run>/stop`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StopRequest {
    pub(crate) grace: Option<String>,
    /// Answer when it has ended, if that is soon enough.
    pub(crate) wait: bool,
}

/// The body of `POST /runs/<run>/retry`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RetryRequest {
    pub(crate) task: Option<Name>,
}

/// The body of `POST /jobs/<job>`: parameters by name.
#[derive(Debug, Deserialize)]
pub(crate) struct JobParams(pub(crate) BTreeMap<String, Value>);

/// A length of time as written.
pub(crate) fn duration(text: String) -> Result<Duration, Error> {
    duration_ms(&text).map(Duration::from_millis).map_err(Error::bad_request)
}

fn milliseconds(text: Option<String>) -> Result<Option<u64>, Error> {
    text.map(|text| duration_ms(&text).map_err(Error::bad_request)).transpose()
}

impl StartRequest {
    /// The run it means. `env` is what a command gets that brings none of its own.
    pub(crate) fn start(self, env: &BTreeMap<String, String>, bounds: &FileBounds, by: &str) -> Result<Start, Error> {
        let group = self.group.map(|group| match group {
            GroupName::Name(name) => Group { name, policy: standpipe_runs::Policy::default() },
            GroupName::Group(group) => group,
        });
        if group.as_ref().is_some_and(|group| group.name.is_empty() || group.name.len() > 128) {
            return Err(Error::bad_request("group: use 1 to 128 bytes"));
        }
        let argv = match (self.argv, self.shell, self.pipeline) {
            (Some(argv), None, None) => argv,
            (None, Some(line), None) => vec!["sh".to_owned(), "-c".to_owned(), line],
            (None, None, Some(pipeline)) => {
                let base = Base { cwd: self.cwd, env: self.env.unwrap_or_else(|| env.clone()) };
                let start = Start { name: self.name, by: by.to_owned(), group, ..Start::default() };
                return pipeline.start(&base, &self.params, bounds, start);
            }
            _ => {
                return Err(Error::bad_request(
                    "name one of argv (a list: the program and its arguments), shell (a line for sh) and pipeline",
                ));
            }
        };
        if !self.params.is_empty() {
            return Err(Error::bad_request("params: a command has none; a pipeline or a job may"));
        }
        let command = Command {
            argv,
            cwd: self.cwd,
            env: self.env.unwrap_or_else(|| env.clone()),
            secrets: self.secrets.into_iter().map(|(name, from)| Secret { name, from }).collect(),
            stdin: self.stdin,
            pty: self.pty.and_then(|pty| match pty {
                Pty::Wanted(wanted) => wanted.then_some(PTY),
                Pty::Size(size) => Some(size),
            }),
            resources: self.limits.resources,
            timeout_ms: milliseconds(self.timeout)?,
            grace_ms: milliseconds(self.grace)?,
            stall_ms: milliseconds(self.stall)?,
            output: self.limits.output,
            event_prefix: self.event_prefix,
        };
        check(&command)?;
        let plan = Arc::new(Plan::single(command));
        Ok(Start { name: self.name, plan, single: true, by: by.to_owned(), group, ..Start::default() })
    }
}

impl PipelineText {
    fn start(
        &self,
        base: &Base,
        params: &BTreeMap<String, Value>,
        bounds: &FileBounds,
        start: Start,
    ) -> Result<Start, Error> {
        let format = self.format.as_deref().map_or(Ok(FileFormat::Toml), str::parse).map_err(Error::bad_request)?;
        let wrong = |text: String| Error::bad_request(format!("the pipeline is not accepted: {text}"));
        let pipeline = Pipeline::read(&self.text, format, bounds).map_err(|errors| wrong(errors.to_string()))?;
        let given = params.iter().map(|(name, value)| (name.clone(), as_text(value))).collect();
        let (plan, params) = pipeline.start(base, &given).map_err(|error| wrong(error.to_string()))?;
        plan.tasks.iter().try_for_each(|task| check(&task.command))?;
        let default = || "pipeline".parse().expect("it is a good name");
        let name = start.name.clone().or(pipeline.name).unwrap_or_else(default);
        Ok(Start { name: Some(name), plan: Arc::new(plan), single: false, params, ..start })
    }
}

/// A parameter as the text that it becomes.
fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Could the system start it at all?
fn check(command: &Command) -> Result<(), Error> {
    let wrong = |text: String| Err(Error::bad_request(text));
    if command.argv.first().is_none_or(String::is_empty) {
        return wrong("argv: name the program first".into());
    }
    if command.argv.iter().any(|argument| argument.contains('\0')) {
        return wrong("argv: an argument can't hold a zero byte".into());
    }
    if let Some(cwd) = &command.cwd
        && (!cwd.is_absolute() || cwd.as_os_str().as_encoded_bytes().contains(&0))
    {
        return wrong(format!("cwd: {} is no absolute path", cwd.display()));
    }
    let names = command.env.keys().chain(command.secrets.iter().map(|secret| &secret.name));
    if let Some(name) = names.into_iter().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
        return wrong(format!("env: {name:?} is no name of a variable"));
    }
    if command.env.values().any(|value| value.contains('\0')) {
        return wrong("env: a value can't hold a zero byte".into());
    }
    if let Some(PtySize { rows, cols }) = command.pty
        && (rows == 0 || cols == 0)
    {
        return wrong("pty: a terminal has at least one row and one column".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Start, String> {
        let request: StartRequest = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let env = BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]);
        let bounds = FileBounds { bytes_max: 1_000, tasks_max: 10 };
        request.start(&env, &bounds, "local").map_err(|error| error.message().to_owned())
    }

    fn refused(json: &str, part: &str) {
        let message = read(json).expect_err(json);
        assert!(message.contains(part), "{json}: {message}");
    }

    #[test]
    fn a_request_means_a_run() {
        let start = read(
            r#"{"name":"a","argv":["make","test"],"cwd":"/srv","env":{"A":"b"},"secrets":{"T":{"file":"/t"}},
                "pty":true,"timeout":"10m","grace":"5s","limits":{"cpu_s":3,"output":{"bytes_max":10}},"group":"g",
                "stdin":{"data":"x"}}"#,
        )
        .unwrap();
        let command = &start.plan.tasks[0].command;
        assert_eq!((start.single, start.by.as_str(), start.group.unwrap().name.as_str()), (true, "local", "g"));
        assert_eq!((command.timeout_ms, command.grace_ms), (Some(600_000), Some(5_000)));
        assert_eq!(command.env, BTreeMap::from([("A".to_owned(), "b".to_owned())]));
        assert_eq!((command.resources.cpu_s, command.output.bytes_max), (Some(3), Some(10)));
        assert_eq!((command.pty, &command.stdin), (Some(PTY), &Stdin::Data("x".into())));
        assert_eq!(command.secrets[0].from, SecretSource::File("/t".into()));
        let start = read(r#"{"shell":"echo a"}"#).unwrap();
        assert_eq!(start.plan.tasks[0].command.argv, ["sh", "-c", "echo a"]);
        assert_eq!(start.plan.tasks[0].command.env["PATH"], "/bin");
        let start = read(r#"{"pipeline":{"text":"[task.a]\nrun = 'true'"},"cwd":"/srv"}"#).unwrap();
        let command = &start.plan.tasks[0].command;
        assert_eq!((start.single, start.name.unwrap().as_str()), (false, "pipeline"));
        assert_eq!((command.cwd.as_deref(), &*command.env["PATH"]), (Some("/srv".as_ref()), "/bin"));
        assert_eq!(read(r#"{"argv":["a"],"env":{}}"#).unwrap().plan.tasks[0].command.env, BTreeMap::new());
    }

    #[test]
    fn what_can_not_be_meant_is_refused_with_a_reason() {
        refused("{}", "name one of argv");
        refused(r#"{"argv":["a"],"shell":"b"}"#, "name one of argv");
        refused(r#"{"argv":[]}"#, "program");
        refused(r#"{"argv":[""]}"#, "program");
        refused(r#"{"argv":"a b"}"#, "sequence");
        refused(r#"{"argv":["a\u0000"]}"#, "zero byte");
        refused(r#"{"argv":["a"],"cwd":"here"}"#, "absolute");
        refused(r#"{"argv":["a"],"env":{"A=B":"c"}}"#, "variable");
        refused(r#"{"argv":["a"],"env":{"A":"\u0000"}}"#, "zero byte");
        refused(r#"{"argv":["a"],"secrets":{"":{"env":"x"}}}"#, "variable");
        refused(r#"{"argv":["a"],"timeout":"10"}"#, "duration");
        refused(r#"{"argv":["a"],"pty":{"rows":0,"cols":1}}"#, "row");
        refused(r#"{"argv":["a"],"group":""}"#, "group");
        refused(r#"{"argv":["a"],"params":{"a":1}}"#, "params");
        refused(r#"{"argv":["a"],"name":"a/b"}"#, "a name is");
        refused(r#"{"argv":["a"],"tiemout":"10s"}"#, "unknown field");
        refused(r#"{"argv":["a"],"secrets":{"T":"plain"}}"#, "unknown variant");
        refused(r#"{"pipeline":{"text":"[task.a]"}}"#, "not accepted");
        refused(r#"{"pipeline":{"text":"a","format":"xml"}}"#, "yaml");
        refused(r#"{"pipeline":{"text":"[task.a]\nrun = 'true'"},"cwd":"here"}"#, "absolute");
        refused(r#"[]"#, "");
    }
}
