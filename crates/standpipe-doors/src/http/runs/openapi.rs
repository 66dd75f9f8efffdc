//! `GET /openapi.json`: the addresses of runs and jobs, described as OpenAPI 3.1. One table of operations; a test asks
//! the router whether each is there, so that the description can't tell of what is not.

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::super::body::Content;
use super::super::{Answer, json_answer};

/// One operation.
struct Operation {
    method: &'static str,
    /// The address, its variable segments in braces.
    path: &'static str,
    /// A name for generated clients.
    id: &'static str,
    summary: &'static str,
    /// Parameters of the query: name, type, what it does.
    query: &'static [(&'static str, &'static str, &'static str)],
    /// Schema of the body, if one is taken.
    body: Option<&'static str>,
    /// Status of success.
    status: &'static str,
    /// Media types of the answer, each with its schema.
    answers: &'static [(&'static str, &'static str)],
}

const JSON: &str = "application/json";
const WAIT: (&str, &str, &str) = ("wait", "boolean", "Answer when it has ended, if a request may wait that long");
const OUTPUT: &[(&str, &str, &str)] = &[
    ("from", "integer", "The first record to send, by its number"),
    ("tail", "integer", "Only so many records from the end"),
    ("follow", "integer", "0: end at what is there now"),
    ("raw", "integer", "1: the bytes of the output and nothing else"),
];
const OUTPUT_FORMS: &[(&str, &str)] = &[("text/plain", "Text"), ("text/event-stream", "Text")];

const OPERATIONS: &[Operation] = &[
    Operation {
        method: "get",
        path: "/runs",
        id: "listRuns",
        summary: "Runs that the caller may see, the newest first",
        query: &[
            ("name", "string", "Only runs of this name"),
            ("job", "string", "Only runs of this job"),
            ("by", "string", "Only runs that this one started"),
            ("state", "string", "Only runs in one of these states, with commas between"),
            ("before", "string", "Only runs accepted before this one: `next` of the page before"),
            ("limit", "integer", "At most so many, 1 to 1000"),
        ],
        body: None,
        status: "200",
        answers: &[(JSON, "RunList")],
    },
    Operation {
        method: "post",
        path: "/runs",
        id: "startRun",
        summary: "Start a command or a pipeline; for the user of the server on its machine only",
        query: &[],
        body: Some("Start"),
        status: "201",
        answers: &[(JSON, "Started")],
    },
    Operation {
        method: "post",
        path: "/runs/prune",
        id: "pruneRuns",
        summary: "Remove ended runs with their output and files; for administrators",
        query: &[],
        body: Some("Prune"),
        status: "200",
        answers: &[(JSON, "Pruned")],
    },
    Operation {
        method: "get",
        path: "/runs/{run}",
        id: "showRun",
        summary: "One run; as a page where the client would rather have that",
        query: &[WAIT],
        body: None,
        status: "200",
        answers: &[(JSON, "Run"), ("text/html", "Text")],
    },
    Operation {
        method: "delete",
        path: "/runs/{run}",
        id: "removeRun",
        summary: "Remove an ended run with its output and files",
        query: &[],
        body: None,
        status: "204",
        answers: &[],
    },
    Operation {
        method: "get",
        path: "/runs/{run}/out",
        id: "runOutput",
        summary: "The output of a run, from its first record, then what comes, to its end",
        query: OUTPUT,
        body: None,
        status: "200",
        answers: OUTPUT_FORMS,
    },
    Operation {
        method: "get",
        path: "/runs/{run}/tasks/{task}/out",
        id: "taskOutput",
        summary: "The output of one task of a pipeline",
        query: OUTPUT,
        body: None,
        status: "200",
        answers: OUTPUT_FORMS,
    },
    Operation {
        method: "post",
        path: "/runs/{run}/stop",
        id: "stopRun",
        summary: "Stop a run with all its processes; one that has ended stays as it is",
        query: &[WAIT],
        body: Some("Stop"),
        status: "200",
        answers: &[(JSON, "Run")],
    },
    Operation {
        method: "post",
        path: "/runs/{run}/retry",
        id: "retryRun",
        summary: "Start the same again, or one task and all that comes after it",
        query: &[],
        body: Some("Retry"),
        status: "201",
        answers: &[(JSON, "Started")],
    },
    Operation {
        method: "post",
        path: "/runs/{run}/resume",
        id: "resumeRun",
        summary: "Go on with a run that did not succeed; only one run ever does",
        query: &[],
        body: None,
        status: "201",
        answers: &[(JSON, "Started")],
    },
    Operation {
        method: "get",
        path: "/runs/{run}/artefacts/{task}/{name}",
        id: "artefact",
        summary: "A file that a task has left",
        query: &[],
        body: None,
        status: "200",
        answers: &[("application/octet-stream", "Text")],
    },
    Operation {
        method: "get",
        path: "/jobs",
        id: "listJobs",
        summary: "Jobs of the configuration that the caller may see",
        query: &[],
        body: None,
        status: "200",
        answers: &[(JSON, "JobList")],
    },
    Operation {
        method: "get",
        path: "/jobs/{job}",
        id: "showJob",
        summary: "One job",
        query: &[],
        body: None,
        status: "200",
        answers: &[(JSON, "Job")],
    },
    Operation {
        method: "post",
        path: "/jobs/{job}",
        id: "startJob",
        summary: "Start a job with these parameters, as far as rules and the scope of the token allow",
        query: &[],
        body: Some("JobParams"),
        status: "201",
        answers: &[(JSON, "Started")],
    },
];

/// Refusals that every operation may answer with.
const REFUSALS: &[(&str, &str)] = &[
    ("400", "The request is wrong, and says how"),
    ("401", "The credential is none of ours, or has expired"),
    ("403", "The caller may not do this"),
    ("404", "There is no such run, job, task or file"),
    ("409", "It does not fit how things stand; the sentence says how"),
    ("413", "The request is larger than a limit allows"),
    ("429", "Too many at once; come back after `retry-after` seconds"),
    ("503", "The server can't do this now; come back after `retry-after` seconds"),
];

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());

/// The description.
pub(in crate::http) fn answer() -> Answer {
    json_answer(Content::Full(DOCUMENT.clone()))
}

fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let at = paths.entry(operation.path).or_insert_with(|| json!({ "parameters": segments(operation.path) }));
        at[operation.method] = describe(operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Standpipe: runs and jobs",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT", "identifier": "MIT" },
            "description": "Processes and pipelines that anyone can watch, replay and stop. A run is named by its \
                id (`nightly@17`), or by its name, which means the newest of it. Requests that change something are \
                refused where an `Origin` header names another origin.",
        },
        "servers": [{ "url": "/" }],
        "security": [{}, { "bearer": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas(),
        },
    })
}

/// The variable segments of an address.
fn segments(path: &str) -> Value {
    let names = path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    let describe = |name: &str| {
        let text = match name {
            "run" => "The id of a run, or a name for the newest run of it",
            "job" => "The name of a job",
            "task" => "The name of a task; `main` of a run of one command",
            _ => "The name of a file that was kept",
        };
        json!({ "name": name, "in": "path", "required": true, "description": text, "schema": { "type": "string" } })
    };
    names.map(describe).collect()
}

fn describe(operation: &Operation) -> Value {
    let query = operation.query.iter().map(
        |(name, kind, text)| json!({ "name": name, "in": "query", "description": text, "schema": { "type": kind } }),
    );
    let content: Map<String, Value> = operation
        .answers
        .iter()
        .map(|(media, schema)| ((*media).to_owned(), json!({ "schema": reference(schema) })))
        .collect();
    let mut success = json!({ "description": operation.summary });
    if !content.is_empty() {
        success["content"] = content.into();
    }
    if operation.status == "201" {
        success["headers"] =
            json!({ "Location": { "description": "Where the run is", "schema": { "type": "string" } } });
    }
    let mut responses = Map::from_iter([(operation.status.to_owned(), success)]);
    for (status, text) in REFUSALS {
        let content = json!({ JSON: { "schema": reference("Error") } });
        responses.insert((*status).to_owned(), json!({ "description": text, "content": content }));
    }
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": query.collect::<Vec<_>>(),
        "responses": responses,
    });
    if let Some(schema) = operation.body {
        let required = schema == "Start";
        described["requestBody"] =
            json!({ "required": required, "content": { JSON: { "schema": reference(schema) } } });
    }
    described
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn object(properties: Value, required: &[&str]) -> Value {
    json!({ "type": "object", "properties": properties, "required": required })
}

/// An object that holds nothing else.
fn closed(properties: Value, required: &[&str]) -> Value {
    let mut schema = object(properties, required);
    schema["additionalProperties"] = false.into();
    schema
}

fn schemas() -> Value {
    let text = || json!({ "type": "string" });
    let whole = || json!({ "type": "integer", "minimum": 0 });
    let yes = || json!({ "type": "boolean" });
    let list = |of: Value| json!({ "type": "array", "items": of });
    let map = |of: Value| json!({ "type": "object", "additionalProperties": of });
    let duration = || json!({ "type": "string", "examples": ["500ms", "10s", "1h30m"] });
    let name = || json!({ "type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$" });
    let id = || json!({ "type": "string", "examples": ["nightly@17"] });
    let states = [
        "queued",
        "starting",
        "running",
        "stopping",
        "succeeded",
        "failed",
        "cancelled",
        "timed_out",
        "lost",
        "interrupted",
    ];
    let state = json!({ "type": "string", "enum": states });
    let progress = object(json!({ "fraction": { "type": "number", "minimum": 0, "maximum": 1 }, "text": text() }), &[]);
    let ended = |more: Value| {
        let mut all = json!({
            "state": text(), "started_at": whole(), "ended_at": whole(), "exit_code": { "type": "integer" },
            "signal": whole(), "reason": text(), "progress": progress,
        });
        if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
            all.extend(more);
        }
        all
    };
    let task = object(
        ended(json!({ "attempts": whole(), "needs": map(yes()), "stalled": yes(), "leaked": yes() })),
        &["state"],
    );
    let run = object(
        ended(json!({
            "id": id(), "name": name(), "job": name(), "params": map(text()), "by": text(), "state": state,
            "created_at": whole(), "single": yes(), "tasks": map(task), "of": id(), "resumed_by": id(), "group": text(),
            "command": object(json!({ "argv": list(text()), "cwd": text() }), &[]),
            "queue": object(json!({ "position": whole() }), &[]),
            "output": object(json!({ "lines": whole(), "bytes": whole() }), &[]),
            "usage": object(json!({ "cpu_ms": whole(), "memory_bytes_max": whole() }), &[]),
        })),
        &["id", "name", "state", "created_at", "by"],
    );
    let secret = json!({ "oneOf": [
        closed(json!({ "file": text() }), &["file"]),
        closed(json!({ "env": text() }), &["env"]),
    ] });
    let policy = json!({ "type": "string", "enum": ["queue", "cancel_previous", "refuse"] });
    let start = closed(
        json!({
            "name": name(), "argv": json!({ "type": "array", "items": text(), "minItems": 1 }), "shell": text(),
            "pipeline": closed(json!({ "text": text(), "format": { "type": "string", "enum": ["toml", "yaml"] } }), &["text"]),
            "cwd": text(), "env": map(text()), "secrets": map(secret),
            "stdin": { "oneOf": [
                { "const": "none" },
                closed(json!({ "data": text() }), &["data"]),
                closed(json!({ "stream": text() }), &["stream"]),
            ] },
            "pty": { "oneOf": [yes(), closed(json!({ "rows": whole(), "cols": whole() }), &["rows", "cols"])] },
            "timeout": duration(), "grace": duration(), "stall": duration(), "event_prefix": text(),
            "limits": object(json!({
                "cpu_s": whole(), "memory_bytes": whole(), "files": whole(), "processes": whole(),
                "output": object(json!({ "line_bytes_max": whole(), "bytes_max": whole(), "bytes_per_s_max": whole() }), &[]),
            }), &[]),
            "group": { "oneOf": [text(), closed(json!({ "name": text(), "policy": policy }), &["name"])] },
            "params": map(json!({ "type": ["string", "integer", "boolean"] })),
        }),
        &[],
    );
    let job = object(
        json!({
            "name": name(), "description": text(), "params": map(json!({ "type": "object" })), "scope": text(),
            "group": text(), "last": id(), "state": text(), "next_at": whole(),
        }),
        &["name", "params"],
    );
    json!({
        "Error": object(json!({ "error": text() }), &["error"]),
        "Text": text(),
        "Run": run,
        "RunList": object(json!({ "runs": list(reference("Run")), "next": id() }), &["runs"]),
        "Start": start,
        "Started": object(json!({ "id": id(), "url": text(), "state": text() }), &["id", "url", "state"]),
        "Stop": closed(json!({ "grace": duration(), "wait": yes() }), &[]),
        "Retry": closed(json!({ "task": name() }), &[]),
        "Prune": closed(
            json!({ "name": name(), "states": list(text()), "older_than_ms": whole(), "keep": whole() }), &[]),
        "Pruned": object(json!({ "removed": whole() }), &["removed"]),
        "Job": job,
        "JobList": object(json!({ "jobs": list(reference("Job")) }), &["jobs"]),
        "JobParams": map(json!({ "type": ["string", "integer", "boolean"] })),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::route::{Route, route};

    #[test]
    fn what_is_described_is_there() {
        let mut ids = BTreeSet::new();
        for operation in OPERATIONS {
            let at = operation.path.replace(['{', '}'], "");
            assert!(matches!(route(&at), Ok(Route::Runs(_))), "{at}");
            assert!(ids.insert(operation.id), "{} is there twice", operation.id);
        }
        assert!(matches!(route("/openapi.json"), Ok(Route::OpenApi)));
    }

    #[test]
    fn every_schema_that_is_named_is_there() {
        let document = document();
        let text = document.to_string();
        let named: BTreeSet<&str> =
            text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        assert!(named.iter().all(|name| schemas.contains_key(*name)), "{named:?}");
        assert!(named.len() > 8, "{named:?}");
    }
}
