//! The tools `run_*`: start, look at, list and stop runs. Who may is `crate::runs::Access`'s business, what a run is and does the runs' own;
//! here arguments become requests, and records become answers. Their output is `output`'s, runs as tasks are `tasks`'.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use standpipe_engine::{Error, ErrorKind};
use standpipe_runs::{FileBounds, Filter, Name, RunId, RunRecord, RunState, Runs};
use standpipe_serve::{Class, Cost};

use super::super::request::Request;
use super::super::{Tree, tasks};
use super::get::within;
use super::{Call, Code, Hints, Needs, Outcome, Tool, ToolError, schema_of, whole};
use crate::dispatch::run;
use crate::runs::{Access, StartRequest, is_forwarded, told};

/// How long an answer waits for the tree to tell of a run that was started. A tree that can't be written then tells later.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

/// Runs of a page, where no number is asked for.
const PAGE: usize = 100;
/// And the most that may be asked for.
const PAGE_MAX: usize = 1_000;

pub(super) const START: Tool = Tool {
    name: "run_start",
    title: "Start a command or job",
    description: "Starts a command or a job and returns at once with its run_id; it goes on without you. Use it for what takes long \
        or what others should see. Commands are for the server's own user; jobs (pipeline) are those of its configuration. \
        Wait for the end with tree_wait on the returned path, read with run_output.",
    hints: Hints::STARTS,
    scope: "runs:start",
    needs: Needs::Runs,
    input: schema_of::<StartArgs>,
    output: schema_of::<Started>,
    call: |call| start_run(call).boxed(),
};

pub(super) const STATUS: Tool = Tool {
    name: "run_status",
    title: "Look at a run",
    description: "Tells where a run stands and how it ended, with times, progress and the tasks of a pipeline. Use it to look once; \
        to wait, use tree_wait on the run's path. One cheap read.",
    hints: Hints::LOOKS,
    scope: "runs:read",
    needs: Needs::Runs,
    input: schema_of::<RunArgs>,
    output: schema_of::<Status>,
    call: |call| async move { status(&call).map(|status| Outcome::of(&status)) }.boxed(),
};

pub(super) const LIST: Tool = Tool {
    name: "run_list",
    title: "List runs",
    description: "Lists runs, the newest first, those you may see. Use it to find a run_id, or what is at work now (state: \
        running). Cheap for a page; a rare state may mean a long look.",
    hints: Hints::LOOKS,
    scope: "runs:read",
    needs: Needs::Runs,
    input: schema_of::<ListArgs>,
    output: schema_of::<Listed>,
    call: |call| async move { list(&call).await.map(|listed| Outcome::of(&listed)) }.boxed(),
};

pub(super) const CANCEL: Tool = Tool {
    name: "run_cancel",
    title: "Stop a run",
    description: "Stops a run with all its processes: they are asked to end, and killed when they do not. Use it for what is not \
        wanted any more; a run that has ended stays as it is. Returns at once: the state is stopping until the last process is gone.",
    hints: Hints::REPLACES,
    scope: "runs:start",
    needs: Needs::Runs,
    input: schema_of::<CancelArgs>,
    output: schema_of::<Started>,
    call: |call| async move { cancel(&call).await.map(|stopped| Outcome::of(&stopped)) }.boxed(),
};

/// Arguments of `run_start`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StartArgs {
    /// A program, with `args`; or, without `args`, a line for `sh -c`.
    #[serde(default)]
    #[schemars(with = "String")]
    command: Option<String>,
    /// The name of a job of the server's configuration; or the text of a pipeline file (TOML).
    #[serde(default)]
    #[schemars(with = "String")]
    pipeline: Option<String>,
    /// Of a command its arguments, as an array; of a pipeline its parameters, as an object.
    #[serde(default)]
    #[schemars(with = "Args")]
    args: Option<Args>,
    /// Variables for the command, in addition to the server's own.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    env: Option<BTreeMap<String, String>>,
    /// The command is ended after so many milliseconds.
    #[serde(default, deserialize_with = "whole")]
    #[schemars(with = "u64", range(min = 1))]
    timeout_ms: Option<u64>,
    /// What the run is called: it becomes the first part of its id.
    #[serde(default)]
    #[schemars(with = "String")]
    title: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Args {
    List(Vec<String>),
    Named(Map<String, Value>),
}

/// Arguments of `run_status`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RunArgs {
    /// The run's id, as `run_start` gave it; or its name, which means its newest run.
    run_id: String,
}

/// Arguments of `run_cancel`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CancelArgs {
    /// The run's id, as `run_start` gave it; or its name, which means its newest run.
    run_id: String,
    /// Milliseconds between asking its processes to end and killing them.
    #[serde(default, deserialize_with = "whole")]
    #[schemars(with = "u64")]
    grace_ms: Option<u64>,
}

/// Arguments of `run_list`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListArgs {
    /// Only runs in this state.
    #[serde(default)]
    #[schemars(with = "State")]
    state: Option<State>,
    /// Only runs of this name.
    #[serde(default)]
    #[schemars(with = "String")]
    name: Option<String>,
    /// Only runs of this job.
    #[serde(default)]
    #[schemars(with = "String")]
    job: Option<String>,
    /// Only runs older than this one: next of the page before.
    #[serde(default)]
    #[schemars(with = "String")]
    before: Option<String>,
    /// How many at most. 100 by default.
    #[serde(default, deserialize_with = "whole")]
    #[schemars(with = "u64", range(min = 1, max = 1000))]
    limit: Option<u64>,
}

/// A state of a run, for those who ask for one.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    Queued,
    Starting,
    Running,
    Stopping,
    Succeeded,
    Failed,
    Cancelled,
    TimedOut,
    Lost,
    Interrupted,
}

impl From<State> for RunState {
    fn from(state: State) -> Self {
        match state {
            State::Queued => Self::Queued,
            State::Starting => Self::Starting,
            State::Running => Self::Running,
            State::Stopping => Self::Stopping,
            State::Succeeded => Self::Succeeded,
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
            State::TimedOut => Self::TimedOut,
            State::Lost => Self::Lost,
            State::Interrupted => Self::Interrupted,
        }
    }
}

/// Where a run is and stands: what `run_start` and `run_cancel` answer, and what a task ends with.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Started {
    /// The run's id.
    run_id: String,
    /// Where the tree tells of it: watch or wait for that.
    path: String,
    /// Where it stands: queued, starting, running or stopping; or how it ended: succeeded, failed, cancelled, timed_out, lost, interrupted.
    state: &'static str,
    /// The exit code of its process, once that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32")]
    exit_code: Option<i32>,
    /// The signal that ended its process.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32")]
    signal: Option<i32>,
    /// Why it ended, where code and signal do not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    reason: Option<String>,
}

impl Started {
    /// As the record says.
    pub(crate) fn of(record: &RunRecord) -> Self {
        let (id, ended) = (record.id.to_string(), record.ended.clone());
        let path = format!("/runs/{id}");
        let state = record.state.as_str();
        Self { run_id: id, path, state, exit_code: ended.exit_code, signal: ended.signal, reason: ended.reason }
    }
}

/// What `run_status` answers.
#[derive(Debug, Serialize, JsonSchema)]
struct Status {
    #[serde(flatten)]
    started: Started,
    /// Whether nothing comes after this state.
    ended: bool,
    /// The run as the tree tells it: times, progress, usage, and the tasks of a pipeline.
    run: Map<String, Value>,
}

/// What `run_list` answers.
#[derive(Debug, Serialize, JsonSchema)]
struct Listed {
    /// The newest first.
    runs: Vec<ListedRun>,
    /// There may be more: give it as `before`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    next: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ListedRun {
    #[serde(flatten)]
    started: Started,
    /// When it was accepted, in milliseconds since the epoch.
    created_at: u64,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    ended_at: Option<u64>,
    /// Who started it.
    by: String,
}

/// What the caller may do with runs.
pub(crate) fn access<'r>(tree: &Tree, request: &'r Request) -> Result<Access<'r>, Error> {
    let caller = &request.caller;
    let forwarded = caller.headers.as_ref().is_some_and(|headers| is_forwarded(headers));
    Access::of(&tree.dispatch, request.identity(), caller.operator && !forwarded)
}

/// The runs of the server.
pub(crate) fn runs(tree: &Tree) -> Result<&Arc<Runs>, Error> {
    tree.runs.as_ref().ok_or_else(|| Error::new(ErrorKind::NotFound, "runs are off on this server"))
}

/// The run that is meant, if the caller may know of it.
pub(crate) fn find(runs: &Runs, access: &Access<'_>, reference: &str) -> Result<RunId, Error> {
    let id = runs.find(reference)?;
    access.may_see(&id)?;
    Ok(id)
}

/// What a refusal of the runs means to a model.
pub(super) fn refused(error: Error) -> ToolError {
    let message = error.message().to_owned();
    match error.kind() {
        ErrorKind::NotFound => ToolError::new(Code::NotFound, message, "Find what there is with run_list"),
        ErrorKind::Conflict => {
            ToolError::new(Code::Unavailable, message, "Wait for the runs that are in the way to end")
        }
        _ => error.into(),
    }
}

async fn start_run(call: Call<'_>) -> Result<Outcome, ToolError> {
    let args = call.arguments()?;
    let record = start(call.tree, call.request, args).await.map_err(refused)?;
    match &call.tree.runs {
        Some(runs) if tasks::is_declared(call.request) => Ok(Outcome::Task(tasks::created(runs, &record))),
        _ => Ok(Outcome::of(&Started::of(&record))),
    }
}

/// Starts a run; it is in the tree when this returns.
async fn start(tree: &Tree, request: &Request, mut args: StartArgs) -> Result<RunRecord, Error> {
    let (runs, access) = (runs(tree)?, access(tree, request)?);
    let id = match (args.command.take(), args.pipeline.take()) {
        (Some(command), None) => {
            access.may_run_anything()?;
            let wanted = command_request(command, args.args.take())?;
            runs.start(meant(tree, request, &access, wanted, args)?).await?
        }
        (None, Some(_)) if args.env.is_some() || args.timeout_ms.is_some() => {
            return Err(Error::bad_request("env and timeout_ms belong to a command: a pipeline has its own"));
        }
        (None, Some(pipeline)) => {
            let params = params(args.args.take())?;
            match pipeline.parse::<Name>() {
                Ok(_) if args.title.is_some() => {
                    return Err(Error::bad_request("title: a run of a job is called as the job"));
                }
                Ok(job) => {
                    access.may_start(&job, &params, runs)?;
                    runs.start_job(&job, params, access.by()).await?
                }
                Err(_) => {
                    access.may_run_anything()?;
                    let wanted = json!({ "pipeline": { "text": pipeline }, "params": params });
                    runs.start(meant(tree, request, &access, wanted, args)?).await?
                }
            }
        }
        _ => return Err(Error::bad_request("name one of command and pipeline")),
    };
    runs.told(TOLD_WITHIN).await;
    runs.record(&id)
}

/// A command and its arguments, as a request names them.
fn command_request(command: String, args: Option<Args>) -> Result<Value, Error> {
    match args {
        None => Ok(json!({ "shell": command })),
        Some(Args::List(args)) => {
            let argv: Vec<_> = std::iter::once(command).chain(args).collect();
            Ok(json!({ "argv": argv }))
        }
        Some(Args::Named(_)) => Err(Error::bad_request("args: a command takes an array of strings")),
    }
}

fn params(args: Option<Args>) -> Result<BTreeMap<String, Value>, Error> {
    match args {
        None => Ok(BTreeMap::new()),
        Some(Args::Named(params)) => Ok(params.into_iter().collect()),
        Some(Args::List(args)) if args.is_empty() => Ok(BTreeMap::new()),
        Some(Args::List(_)) => Err(Error::bad_request("args: a pipeline takes an object of parameters")),
    }
}

/// The run that a request means, read as over HTTP.
fn meant(
    tree: &Tree,
    request: &Request,
    access: &Access<'_>,
    mut wanted: Value,
    StartArgs { env, timeout_ms, title, .. }: StartArgs,
) -> Result<standpipe_runs::Start, Error> {
    if let Some(env) = env {
        let all: BTreeMap<_, _> =
            tree.options.env.iter().map(|(name, value)| (name.clone(), value.clone())).chain(env).collect();
        wanted["env"] = json!(all);
    }
    if let Some(timeout_ms) = timeout_ms {
        wanted["timeout"] = format!("{timeout_ms}ms").into();
    }
    if let Some(title) = title {
        wanted["name"] = name_of(&title).into();
    }
    let wanted: StartRequest = serde_json::from_value(wanted).map_err(|error| Error::bad_request(error.to_string()))?;
    let limits = request.session().limits();
    let bounds = FileBounds { bytes_max: limits.pipeline_bytes_max, tasks_max: limits.pipeline_tasks_max };
    wanted.start(&tree.options.env, &bounds, access.by())
}

/// The name that a title becomes: what a name can't hold becomes `-`.
fn name_of(title: &str) -> String {
    let good = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let name: String = title.chars().map(good).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "run".into() } else { name[..name.len().min(64)].into() }
}

/// How a run stands.
fn status(call: &Call<'_>) -> Result<Status, ToolError> {
    let args: RunArgs = call.arguments()?;
    let look = || {
        let (runs, access) = (runs(call.tree)?, access(call.tree, call.request)?);
        let record = runs.record(&find(runs, &access, &args.run_id)?)?;
        let position = runs.position(&record.id);
        Ok((record, position))
    };
    let (record, position) = look().map_err(refused)?;
    let mut run = match told(&record, position) {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    run.remove("id");
    Ok(Status { started: Started::of(&record), ended: record.state.is_final(), run })
}

/// Stops a run; one that has ended stays as it is.
async fn cancel(call: &Call<'_>) -> Result<Started, ToolError> {
    let args: CancelArgs = call.arguments()?;
    let stop = async || {
        let (runs, access) = (runs(call.tree)?, access(call.tree, call.request)?);
        let id = find(runs, &access, &args.run_id)?;
        access.may_stop(&id)?;
        runs.stop(&id, args.grace_ms.map(Duration::from_millis)).await?;
        runs.record(&id)
    };
    stop().await.map(|record| Started::of(&record)).map_err(refused)
}

/// Runs that the caller may see, the newest first.
async fn list(call: &Call<'_>) -> Result<Listed, ToolError> {
    let args: ListArgs = call.arguments()?;
    let filter = filter(args)?;
    let request = call.request;
    let (runs, access) = (runs(call.tree)?.clone(), access(call.tree, request)?);
    let cost = Cost::Bytes(request.session().limits().reply_chunk_bytes);
    let max = filter.max;
    let records = run(request.session(), Class::Read, cost, request.deadline(), move || runs.list(&filter)).await;
    let records = records.map_err(refused)?;
    // A full page may have another one behind it, whatever the caller may see of this one.
    let next = (records.len() >= max).then(|| records.last().map(|record| record.id.to_string())).flatten();
    let listed = |record: &RunRecord| ListedRun {
        started: Started::of(record),
        created_at: record.created_at,
        ended_at: record.ended_at,
        by: record.by.clone(),
    };
    Ok(Listed { runs: access.seen(&records)?.into_iter().map(listed).collect(), next })
}

fn filter(args: ListArgs) -> Result<Filter, ToolError> {
    let wrong = |what: String| ToolError::new(Code::InvalidArgument, what, "Correct it");
    let name = |what: &str, text: Option<String>| {
        let parsed = text.map(|text| text.parse::<Name>()).transpose();
        parsed.map_err(|error| wrong(format!("{what}: {error}")))
    };
    let before = args.before.map(|text| text.parse::<RunId>()).transpose();
    let before = before.map_err(|_| wrong("before: give the id of a run, such as nightly@17".into()))?;
    let max = within("limit", args.limit, 1, PAGE_MAX)?.unwrap_or(PAGE);
    let states = args.state.map(RunState::from).into_iter().collect();
    Ok(Filter { name: name("name", args.name)?, job: name("job", args.job)?, by: None, states, before, max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_become_names() {
        let check = |title: &str, name: &str| {
            assert_eq!(name_of(title), name);
            assert!(name.parse::<Name>().is_ok(), "{name}");
        };
        check("nightly", "nightly");
        check("Nightly build, part 2", "Nightly-build--part-2");
        check("--é--", "run");
        check("", "run");
        check("é1", "1");
        check(&"x".repeat(200), &"x".repeat(64));
    }

    #[test]
    fn arguments_are_those_of_what_is_started() {
        let list = || Some(Args::List(vec!["a b".into()]));
        let named = || Some(Args::Named(Map::from_iter([("n".to_owned(), json!(1))])));
        assert_eq!(command_request("make".into(), list()).unwrap(), json!({ "argv": ["make", "a b"] }));
        assert_eq!(command_request("make test".into(), None).unwrap(), json!({ "shell": "make test" }));
        assert!(command_request("make".into(), named()).is_err());
        assert_eq!(params(named()).unwrap()["n"], json!(1));
        assert!(params(None).unwrap().is_empty());
        assert!(params(list()).is_err());
    }
}
