//! Runs as tasks (the extension `io.modelcontextprotocol/tasks`, SEP-2663): a task is a run, its id is the run's id, and all that is told of it
//! is made from the run's record. So a task outlives the server, and there is no table of tasks here. Whoever asks for one is
//! asked for its rights each time: an id is no credential.

use std::sync::Arc;

use jiff::Timestamp;
use rmcp::model::{
    CallToolResult, ClientCapabilities, ContentBlock, DetailedTask, GetTaskResult, Task, TaskPayload, TaskStatus,
};
use serde::Deserialize;
use serde_json::json;
use standpipe_engine::ErrorKind;
use standpipe_mcp::Fault;
use standpipe_mcp::fault::{INVALID_PARAMS, METHOD_NOT_FOUND, MISSING_CAPABILITY};
use standpipe_runs::{RunId, RunRecord, RunState, Runs};

use super::Tree;
use super::answer::Answer;
use super::request::Request;
use super::tools::runs::{Started, access};

/// How often a client should ask for a task.
const POLL_MS: u64 = 1_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TaskParams {
    task_id: String,
}

/// Whether the client says, in this request or when its session began, that it knows tasks. They are of the modern era.
pub(super) fn is_declared(request: &Request) -> bool {
    request.is_modern() && request.capabilities().supports_tasks()
}

/// Refuses a request that does not say that its client knows tasks.
///
/// # Errors
/// -32021, with what is missing.
pub(super) fn need_declared(request: &Request) -> Result<(), Fault> {
    if is_declared(request) {
        return Ok(());
    }
    let needed = ClientCapabilities::builder().enable_tasks().build();
    let text = "the request does not declare the extension io.modelcontextprotocol/tasks among its client capabilities";
    Err(Fault::new(MISSING_CAPABILITY, text).with_data(json!({ "requiredCapabilities": needed })))
}

/// The run that a request about a task means.
fn find(tree: &Tree, request: &Request, scope: &str) -> Result<(Arc<Runs>, RunRecord), Fault> {
    let Some(runs) = &tree.runs else { return Err(Fault::new(METHOD_NOT_FOUND, "runs are off on this server")) };
    need_declared(request)?;
    request.need(scope)?;
    let TaskParams { task_id } = request.params()?;
    // Whether there is none or it is somebody else's, is the same to who may not see it.
    let unknown = || Fault::new(INVALID_PARAMS, "no task has this id; it was removed, or never was");
    let id: RunId = task_id.parse().map_err(|_| unknown())?;
    let access = access(tree, request).map_err(|error| Fault::from(&error))?;
    let record = access.may_see(&id).and_then(|()| runs.record(&id)).map_err(|error| match error.kind() {
        ErrorKind::Denied | ErrorKind::NotFound | ErrorKind::Unauthenticated => unknown(),
        _ => Fault::from(&error),
    })?;
    Ok((runs.clone(), record))
}

/// Answers `tasks/get`.
///
/// # Errors
/// -32602 for what is no task, -32021 where tasks are not declared.
pub(super) fn get(tree: &Tree, request: &Request) -> Result<Answer, Fault> {
    let (runs, record) = find(tree, request, "runs:read")?;
    Ok(answer(&GetTaskResult::new(detail(&runs, &record))))
}

/// Answers `tasks/update`: a run never asks its client anything, so there is nothing that a response could belong to.
///
/// # Errors
/// As [`get`].
pub(super) fn update(tree: &Tree, request: &Request) -> Result<Answer, Fault> {
    find(tree, request, "runs:start")?;
    Ok(Answer::of_json(b"{}"))
}

/// Answers `tasks/cancel`: the run is told to stop; one that has ended stays as it is.
///
/// # Errors
/// As [`get`]; 4030 where the run may not be stopped.
pub(super) async fn cancel(tree: &Tree, request: &Request) -> Result<Answer, Fault> {
    let (runs, record) = find(tree, request, "runs:start")?;
    access(tree, request).and_then(|access| access.may_stop(&record.id)).map_err(|error| Fault::from(&error))?;
    runs.stop(&record.id, None).await.map_err(|error| Fault::from(&error))?;
    Ok(Answer::of_json(b"{}"))
}

/// The task that a run is, as JSON, in place of the result of the call that started it.
pub(super) fn created(runs: &Runs, record: &RunRecord) -> Vec<u8> {
    serde_json::to_vec(&task(runs, record)).expect("a task has names for keys")
}

/// All that is told of the task; `None` when the run is not there any more.
pub(super) fn detailed(tree: &Tree, id: &RunId) -> Option<DetailedTask> {
    let runs = tree.runs.as_ref()?;
    Some(detail(runs, &runs.record(id).ok()?))
}

/// A result without the member that says what kind it is: an [`Answer`] has that itself.
fn answer(result: &impl serde::Serialize) -> Answer {
    let mut result = json!(result);
    if let Some(members) = result.as_object_mut() {
        members.remove("resultType");
    }
    Answer::of(&result)
}

fn detail(runs: &Runs, record: &RunRecord) -> DetailedTask {
    let payload = match status(record.state) {
        TaskStatus::Completed => TaskPayload::Completed { result: result(record) },
        TaskStatus::Cancelled => TaskPayload::Cancelled,
        _ => TaskPayload::Working,
    };
    DetailedTask::new(task(runs, record), payload)
}

fn task(runs: &Runs, record: &RunRecord) -> Task {
    let updated = record.ended_at.or(record.started_at).unwrap_or(record.created_at);
    let id = record.id.to_string();
    Task::new(id, status(record.state), time(record.created_at), time(updated))
        .with_status_message(message(record, runs.position(&record.id)))
        .with_poll_interval_ms(POLL_MS)
}

/// A task fails only where a call would be answered with an error: a process that did not do what it should has ended.
fn status(state: RunState) -> TaskStatus {
    match state {
        RunState::Queued | RunState::Starting | RunState::Running | RunState::Stopping => TaskStatus::Working,
        RunState::Cancelled => TaskStatus::Cancelled,
        RunState::Succeeded | RunState::Failed | RunState::TimedOut | RunState::Lost | RunState::Interrupted => {
            TaskStatus::Completed
        }
    }
}

fn time(ms: u64) -> String {
    Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX).to_string()
}

fn message(record: &RunRecord, position: Option<usize>) -> String {
    let mut text = record.state.as_str().replace('_', " ");
    if let Some(position) = position {
        text.push_str(&format!(", number {position} in the queue"));
    }
    if let Some(code) = record.ended.exit_code {
        text.push_str(&format!(", exit code {code}"));
    }
    if let Some(reason) = &record.ended.reason {
        text.push_str(&format!(": {reason}"));
    }
    text
}

/// What the call would have been answered with, had it waited for the end.
fn result(record: &RunRecord) -> rmcp::model::JsonObject {
    let started = json!(Started::of(record));
    let mut result = CallToolResult::success(vec![ContentBlock::text(started.to_string())]);
    result.is_error = Some(record.state != RunState::Succeeded);
    result.structured_content = Some(started);
    match json!(result) {
        serde_json::Value::Object(members) => members,
        _ => rmcp::model::JsonObject::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_a_run_is_a_status_of_a_task() {
        for state in RunState::ALL {
            let status = status(state);
            assert_eq!(status.is_terminal(), state.is_final(), "{state:?}");
            assert_ne!(status, TaskStatus::Failed, "a run never ends as an error of the protocol");
        }
    }

    #[test]
    fn times_are_as_iso_8601_has_them() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(1_764_381_600_123), "2025-11-29T02:00:00.123Z");
        assert!(time(u64::MAX).starts_with("9999-"));
    }
}
