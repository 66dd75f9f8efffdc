//! What is answered about runs: records, jobs, and the files that tasks leave, as JSON and as bytes.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use standpipe_engine::{Error, ErrorKind};
use standpipe_runs::{JobInfo, Name, RunId, RunState};
use standpipe_serve::{Class, Cost, Session};

use super::super::body::Content;
use super::super::{Answer, json_answer, request_deadline};
use crate::dispatch::run;

/// Bytes of a file read and sent at once.
const CHUNK: usize = 256 << 10;

pub(super) fn json(value: &Value) -> Answer {
    json_answer(Content::Full(value.to_string().into()))
}

pub(super) fn nothing() -> Answer {
    let mut answer = Response::new(Content::Full(Bytes::new()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// A run that was started: where it is, and how it stands.
pub(super) fn created(id: &RunId, state: RunState, host: &str) -> Answer {
    let at = format!("/runs/{id}");
    let mut answer = json(&json!({ "id": id, "url": format!("{host}{at}"), "state": state }));
    *answer.status_mut() = StatusCode::CREATED;
    let location = HeaderValue::try_from(at).expect("an id has no character that a header can't carry");
    answer.headers_mut().insert(header::LOCATION, location);
    answer
}

/// A job: what a caller has to know to start it, and how it goes. What it runs, and with which environment, is
/// nobody's business.
pub(super) fn job(job: &JobInfo) -> Value {
    let spec = &job.spec;
    let mut value = json!({ "name": spec.name, "params": spec.params });
    let mut add = |name: &str, more: Option<Value>| {
        if let Some(more) = more {
            value[name] = more;
        }
    };
    add("description", spec.description.as_ref().map(|text| json!(text)));
    add("scope", spec.scope.as_ref().map(|text| json!(text)));
    add("group", spec.group.as_ref().map(|group| json!(group.name)));
    add("last", job.last.as_ref().map(|id| json!(id)));
    add("state", job.state.map(|state| json!(state)));
    add("next_at", job.next_at.map(|at| json!(at)));
    value
}

/// A file that a task has left, sent piece by piece. It is somebody's bytes: no browser shows it as a page of ours.
pub(super) async fn file(session: &Session, path: PathBuf, bytes: u64, name: &Name) -> Result<Answer, Error> {
    let open = move || {
        File::open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, "the file is not there any more"),
            _ => Error::internal(error),
        })
    };
    let file = run(session, Class::Bulk, Cost::Bytes(CHUNK), request_deadline(session), open).await?;
    let chunks = stream::try_unfold((file, session.clone(), bytes), |(mut file, session, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let read = move || {
            let mut chunk = vec![0; CHUNK.min(left as usize)];
            let count = file.read(&mut chunk).map_err(Error::internal)?;
            chunk.truncate(count);
            Ok((file, chunk))
        };
        let deadline = request_deadline(&session);
        let (file, chunk) = run(&session, Class::Bulk, Cost::Bytes(CHUNK), deadline, read).await?;
        if chunk.is_empty() {
            // Cut off, so that nobody takes what came for the whole.
            return Err(Error::unavailable("the file has become shorter"));
        }
        let left = left - chunk.len() as u64;
        Ok(Some((Bytes::from(chunk), (file, session, left))))
    });
    let mut answer = Response::new(Content::Stream(chunks.boxed()));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    let disposition = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")).expect("names are plain");
    headers.insert(header::CONTENT_DISPOSITION, disposition);
    Ok(answer)
}
