//! The tools `run_*` and tasks: real processes, started, watched, read and stopped; and what is left after a restart.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use standpipe_engine::Engine;
use standpipe_mcp::era::{META_CAPABILITIES, META_VERSION};
use standpipe_mcp::{Caller, ModernServer as _, exchange};
use standpipe_runs::{Command, JobSpec, ParamSpec, Plan, Runs, RunsSettings};
use standpipe_serve::Limits;
use tokio::time::timeout;

use super::{Bench, ROOM, TreeOptions, message, narrowed, next};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(60);
const TASKS: &str = "io.modelcontextprotocol/tasks";

/// A job that prints its parameter.
fn greet() -> Arc<JobSpec> {
    let argv = ["sh", "-c", "echo hello \"$0\"", "${params.who}"].map(str::to_owned).to_vec();
    let env = BTreeMap::from([("PATH".to_owned(), std::env::var("PATH").unwrap())]);
    Arc::new(JobSpec {
        name: "greet".parse().unwrap(),
        description: None,
        plan: Arc::new(Plan::single(Command { argv, env, ..Command::default() })),
        single: true,
        params: BTreeMap::from([("who".parse().unwrap(), ParamSpec::default())]),
        group: None,
        runs_max: None,
        schedule: None,
        scope: None,
    })
}

async fn open(engine: Arc<Engine>, dir: &Path) -> Arc<Runs> {
    let settings = RunsSettings { jobs: vec![greet()], ..RunsSettings::new(dir.join("runs")) };
    let limits = Arc::new(arc_swap::ArcSwap::from_pointee(Limits::default()));
    Runs::open(engine, settings, limits, Vec::new()).await.unwrap()
}

/// A tree with runs, under rules; `dir` keeps them over a restart.
async fn bench(rules: &Value, dir: &Path) -> (Bench, Arc<Runs>) {
    let engine = Bench::engine_at(dir, Some(rules));
    let runs = open(engine.clone(), dir).await;
    let env = BTreeMap::from([("PATH".to_owned(), std::env::var("PATH").unwrap())]);
    (Bench::of(engine, Some(runs.clone()), TreeOptions { env, ..TreeOptions::default() }), runs)
}

/// Who may have any command run.
fn operator(bench: &Bench) -> Caller {
    Caller { operator: true, ..bench.caller(Some("admin")) }
}

async fn ok(bench: &Bench, caller: &Caller, name: &str, arguments: Value) -> Value {
    let result = timeout(LIMIT, bench.tool_as(caller, name, arguments)).await.unwrap();
    assert_eq!(result["isError"], false, "{name}: {result}");
    result["structuredContent"].clone()
}

async fn code(bench: &Bench, caller: &Caller, name: &str, arguments: Value) -> Value {
    let result = bench.tool_as(caller, name, arguments).await;
    assert_eq!(result["isError"], true, "{name}: {result}");
    result["_meta"]["dev.standpipe/error"]["code"].clone()
}

/// Waits for the end of a run, as an agent does.
async fn ended(bench: &Bench, caller: &Caller, run: &str) -> Value {
    timeout(LIMIT, async {
        loop {
            let status = ok(bench, caller, "run_status", json!({ "run_id": run })).await;
            if status["ended"] == true {
                return status;
            }
            let seen = bench.tool_as(caller, "tree_get", json!({ "path": format!("/runs/{run}") })).await;
            let content = &seen["structuredContent"];
            if matches!(content["value"]["state"].as_str(), Some("running" | "queued" | "starting" | "stopping")) {
                let wait = json!({ "path": format!("/runs/{run}"), "etag": content["etag"] });
                bench.tool_as(caller, "tree_wait", wait).await;
            }
        }
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_command_is_started_read_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    let (bench, runs) = bench(&json!({ ".read": true }), dir.path()).await;
    let me = operator(&bench);
    let started = ok(
        &bench,
        &me,
        "run_start",
        json!({ "command": "printf 'aä\\n'; printf 'b\\n' >&2; exit 3", "title": "Try it" }),
    )
    .await;
    let run = started["run_id"].as_str().unwrap();
    assert_eq!((run, &started["path"]), ("Try-it@1", &json!("/runs/Try-it@1")));
    // It is in the tree before the answer comes.
    let value = bench.tool("tree_get", json!({ "path": "/runs/Try-it@1/name" })).await;
    assert_eq!(value["structuredContent"]["value"], "Try-it");
    let status = ended(&bench, &me, run).await;
    assert_eq!(
        (&status["state"], &status["exit_code"], &status["run"]["name"]),
        (&json!("failed"), &json!(3), &json!("Try-it"))
    );
    let read = async |arguments: Value| {
        let mut all = json!({ "run_id": run });
        all.as_object_mut().unwrap().extend(arguments.as_object().unwrap().clone());
        ok(&bench, &me, "run_output", all).await
    };
    assert_eq!(read(json!({})).await["next_offset"], 6);
    assert_eq!(read(json!({ "stream": "stdout" })).await, json!({ "data": "aä\n", "next_offset": 6, "eof": true }));
    assert_eq!(read(json!({ "stream": "stderr" })).await, json!({ "data": "b\n", "next_offset": 6, "eof": true }));
    assert_eq!(read(json!({ "offset": 6 })).await, json!({ "data": "", "next_offset": 6, "eof": true }));
    assert_eq!(read(json!({ "offset": 1000 })).await["next_offset"], 6);
    assert_eq!(read(json!({ "offset": -2, "stream": "stderr" })).await["eof"], true);
    let first = read(json!({ "limit": 2, "stream": "stdout" })).await;
    assert_eq!(first["eof"], false);
    let second = ok(
        &bench,
        &me,
        "run_start",
        json!({ "command": "sh", "args": ["-c", "echo \"$GREETING $0\"", "you"], "env": { "GREETING": "hi" } }),
    )
    .await;
    let second = second["run_id"].as_str().unwrap();
    assert_eq!(ended(&bench, &me, second).await["exit_code"], 0);
    assert_eq!(ok(&bench, &me, "run_output", json!({ "run_id": second })).await["data"], "hi you\n");
    let listed = ok(&bench, &me, "run_list", json!({})).await;
    let ids: Vec<_> = listed["runs"].as_array().unwrap().iter().map(|run| run["run_id"].clone()).collect();
    assert_eq!(ids, [json!(second), json!(run)]);
    let failed = ok(&bench, &me, "run_list", json!({ "state": "failed" })).await;
    assert_eq!(failed["runs"][0]["run_id"], json!(run));
    let page = ok(&bench, &me, "run_list", json!({ "limit": 1 })).await;
    assert_eq!(page["next"], json!(second));
    assert_eq!(ok(&bench, &me, "run_list", json!({ "before": second })).await["runs"][0]["run_id"], json!(run));
    runs.close().await;
    bench.end().await;
}

#[tokio::test]
async fn a_run_is_stopped_and_so_is_one_whose_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let (bench, runs) = bench(&json!({ ".read": true }), dir.path()).await;
    let me = operator(&bench);
    let started = ok(&bench, &me, "run_start", json!({ "command": "sleep", "args": ["1000"] })).await;
    let run = json!({ "run_id": started["run_id"] });
    let stopped = ok(&bench, &me, "run_cancel", run.clone()).await;
    assert!(["stopping", "cancelled"].contains(&stopped["state"].as_str().unwrap()), "{stopped}");
    assert_eq!(ended(&bench, &me, started["run_id"].as_str().unwrap()).await["state"], "cancelled");
    assert_eq!(ok(&bench, &me, "run_cancel", run).await["state"], "cancelled", "it may be said again");
    let slow = ok(&bench, &me, "run_start", json!({ "command": "sleep", "args": ["1000"], "timeout_ms": 100 })).await;
    assert_eq!(ended(&bench, &me, slow["run_id"].as_str().unwrap()).await["state"], "timed_out");
    runs.close().await;
    bench.end().await;
}

#[tokio::test]
async fn who_may_do_what() {
    let dir = tempfile::tempdir().unwrap();
    let rules = json!({
        "runs": { "$run": { ".read": "auth.uid == 'ann'", "stop": { ".write": "auth.uid == 'ann'" } } },
        "jobs": { "greet": { "start": { ".write": "auth.uid == 'ann' && newData.child('who').val() != 'eve'" } } },
    });
    let (bench, runs) = bench(&rules, dir.path()).await;
    let (ann, bob) = (bench.caller(Some("ann")), bench.caller(Some("bob")));
    let command = json!({ "command": "true" });
    let job = json!({ "pipeline": "greet", "args": { "who": "bob" } });
    assert_eq!(
        code(&bench, &ann, "run_start", command.clone()).await,
        "permission_denied",
        "commands are an operator's"
    );
    assert_eq!(
        code(&bench, &ann, "run_start", json!({ "pipeline": "[task.a]\nrun = 'true'" })).await,
        "permission_denied"
    );
    let mut headers = http::HeaderMap::new();
    headers.insert("x-forwarded-for", http::HeaderValue::from_static("192.0.2.1"));
    let forwarded = Caller { operator: true, headers: Some(headers.into()), ..ann.clone() };
    assert_eq!(code(&bench, &forwarded, "run_start", command).await, "permission_denied", "a proxy is no operator");
    assert_eq!(code(&bench, &bob, "run_start", job.clone()).await, "permission_denied");
    assert_eq!(
        code(&bench, &ann, "run_start", json!({ "pipeline": "greet", "args": { "who": "eve" } })).await,
        "permission_denied"
    );
    let started = ok(&bench, &ann, "run_start", job.clone()).await;
    let run = started["run_id"].as_str().unwrap();
    assert_eq!(ended(&bench, &ann, run).await["state"], "succeeded");
    assert_eq!(ok(&bench, &ann, "run_output", json!({ "run_id": run })).await["data"], "hello bob\n");
    for tool in ["run_status", "run_output", "run_cancel"] {
        assert_eq!(code(&bench, &bob, tool, json!({ "run_id": run })).await, "permission_denied", "{tool}");
    }
    assert_eq!(ok(&bench, &bob, "run_list", json!({})).await["runs"], json!([]));
    // Scopes narrow: what a token is not for is not even listed.
    let reader = narrowed(ann.clone(), "runs:read");
    let listed = bench.modern_as(&reader, "tools/list", json!({})).await;
    let names: Vec<_> = listed["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].clone()).collect();
    assert_eq!(names, ["run_status", "run_output", "run_list"]);
    let refused = bench.modern_as(&reader, "tools/call", json!({ "name": "run_start", "arguments": job })).await;
    assert_eq!(refused["error"]["code"], 4030, "{refused}");
    runs.close().await;
    bench.end().await;
}

#[tokio::test]
async fn what_is_no_run_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (bench, runs) = bench(&json!({}), dir.path()).await;
    let me = operator(&bench);
    for (tool, arguments, expected) in [
        ("run_start", json!({}), "invalid_argument"),
        ("run_start", json!({ "command": "a", "pipeline": "greet" }), "invalid_argument"),
        ("run_start", json!({ "command": "" , "args": [] }), "invalid_argument"),
        ("run_start", json!({ "command": "a", "args": { "b": 1 } }), "invalid_argument"),
        ("run_start", json!({ "command": "a", "args": [1] }), "invalid_argument"),
        ("run_start", json!({ "command": "a", "env": { "A=B": "c" } }), "invalid_argument"),
        ("run_start", json!({ "command": "a", "timeout_ms": -1 }), "invalid_argument"),
        ("run_start", json!({ "command": "a", "cwd": "/" }), "invalid_argument"),
        ("run_start", json!({ "pipeline": "greet", "env": {} }), "invalid_argument"),
        ("run_start", json!({ "pipeline": "greet" }), "invalid_argument"),
        ("run_start", json!({ "pipeline": "nothing", "args": {} }), "not_found"),
        ("run_start", json!({ "pipeline": "this is no file" }), "invalid_argument"),
        ("run_status", json!({ "run_id": "none" }), "not_found"),
        ("run_status", json!({ "run_id": "../x" }), "invalid_argument"),
        ("run_output", json!({ "run_id": "none@7" }), "not_found"),
        ("run_output", json!({ "run_id": "none", "limit": 0 }), "invalid_argument"),
        ("run_output", json!({ "run_id": "none", "stream": "third" }), "invalid_argument"),
        ("run_output", json!({ "run_id": "none", "task": "a/b" }), "invalid_argument"),
        ("run_list", json!({ "state": "done" }), "invalid_argument"),
        ("run_list", json!({ "limit": 1001 }), "invalid_argument"),
        ("run_list", json!({ "before": "none" }), "invalid_argument"),
        ("run_cancel", json!({ "run_id": "none" }), "not_found"),
    ] {
        assert_eq!(code(&bench, &me, tool, arguments.clone()).await, expected, "{tool} {arguments}");
    }
    runs.close().await;
    bench.end().await;
}

/// The answer to a request of a client that knows tasks.
async fn tasking(bench: &Bench, caller: &Caller, method: &str, mut params: Value) -> Value {
    params["_meta"][META_VERSION] = "2026-07-28".into();
    params["_meta"][META_CAPABILITIES] = json!({ "extensions": { TASKS: {} } });
    bench.raw(caller, &json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })).await
}

async fn task(bench: &Bench, caller: &Caller, id: &str) -> Value {
    let answer = tasking(bench, caller, "tasks/get", json!({ "taskId": id })).await;
    assert_eq!(answer["result"]["resultType"], "complete", "{answer}");
    answer["result"].clone()
}

/// Asks until the task has ended.
async fn finished(bench: &Bench, caller: &Caller, id: &str) -> Value {
    timeout(LIMIT, async {
        loop {
            let task = task(bench, caller, id).await;
            if task["status"] != "working" {
                return task;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap()
}

async fn start_task(bench: &Bench, caller: &Caller, arguments: Value) -> String {
    let answer = tasking(bench, caller, "tools/call", json!({ "name": "run_start", "arguments": arguments })).await;
    let task = &answer["result"];
    assert_eq!((&task["resultType"], &task["status"]), (&json!("task"), &json!("working")), "{answer}");
    assert_eq!((&task["pollIntervalMs"], task.get("ttlMs")), (&json!(1_000), Some(&Value::Null)), "{answer}");
    assert!(task["createdAt"].as_str().unwrap().ends_with('Z') && task.get("task").is_none(), "{answer}");
    task["taskId"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_run_is_a_task_for_who_knows_tasks() {
    let dir = tempfile::tempdir().unwrap();
    let (bench, runs) = bench(&json!({ ".read": true }), dir.path()).await;
    let me = operator(&bench);
    let good = start_task(&bench, &me, json!({ "command": "true", "title": "good" })).await;
    assert_eq!(good, "good@1");
    let bad = start_task(&bench, &me, json!({ "command": "exit 7", "title": "bad" })).await;
    let done = finished(&bench, &me, &good).await;
    assert_eq!((&done["status"], &done["result"]["isError"]), (&json!("completed"), &json!(false)), "{done}");
    let content = &done["result"]["structuredContent"];
    assert_eq!((&content["state"], &content["exit_code"]), (&json!("succeeded"), &json!(0)));
    let done = finished(&bench, &me, &bad).await;
    assert_eq!((&done["status"], &done["result"]["isError"]), (&json!("completed"), &json!(true)), "{done}");
    assert_eq!(done["result"]["structuredContent"]["exit_code"], 7);
    let long = start_task(&bench, &me, json!({ "command": "sleep", "args": ["1000"] })).await;
    // A task is told of who listens to it.
    let (to, mut inlet) = exchange(ROOM);
    let meta = json!({ META_VERSION: "2026-07-28", META_CAPABILITIES: { "extensions": { TASKS: {} } } });
    let params = json!({ "notifications": { "taskIds": [long, "none"] }, "_meta": meta });
    bench.server.call(
        me.clone(),
        message(&json!({ "jsonrpc": "2.0", "id": 2, "method": "subscriptions/listen", "params": params })),
        to,
    );
    assert_eq!(next(&mut inlet).await["params"]["notifications"], json!({ "taskIds": [long] }));
    // What is said of it in other words than its own changes nothing.
    let ack = tasking(&bench, &me, "tasks/update", json!({ "taskId": long, "inputResponses": { "x": {} } })).await;
    assert_eq!(ack["result"]["resultType"], "complete", "{ack}");
    for _ in 0..2 {
        let ack = tasking(&bench, &me, "tasks/cancel", json!({ "taskId": long })).await;
        assert_eq!(ack["result"]["resultType"], "complete", "{ack}");
    }
    let cancelled = finished(&bench, &me, &long).await;
    assert_eq!(cancelled["status"], "cancelled");
    assert!(cancelled.get("result").is_none() && cancelled.get("error").is_none(), "{cancelled}");
    loop {
        let told = timeout(LIMIT, next(&mut inlet)).await.unwrap();
        assert_eq!((&told["method"], &told["params"]["taskId"]), (&json!("notifications/tasks"), &json!(long)));
        if told["params"]["status"] == "cancelled" {
            break;
        }
    }
    runs.close().await;
    bench.end().await;
}

#[tokio::test]
async fn a_task_is_for_who_declares_tasks_and_may_see_it() {
    let dir = tempfile::tempdir().unwrap();
    let (bench, runs) = bench(&json!({ "runs": { ".read": "auth.uid == 'ann'" } }), dir.path()).await;
    let me = operator(&bench);
    let plain =
        bench.modern_as(&me, "tools/call", json!({ "name": "run_start", "arguments": { "command": "true" } })).await;
    assert_eq!(plain["result"]["resultType"], "complete", "{plain}");
    let id = plain["result"]["structuredContent"]["run_id"].clone();
    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        let refused = bench.modern_as(&me, method, json!({ "taskId": id })).await;
        assert_eq!(refused["error"]["code"], -32021, "{method}: {refused}");
        assert!(refused["error"]["data"]["requiredCapabilities"]["extensions"][TASKS].is_object(), "{refused}");
    }
    for method in ["tasks/list", "tasks/result"] {
        assert_eq!(tasking(&bench, &me, method, json!({ "taskId": id })).await["error"]["code"], -32601, "{method}");
    }
    let ann = bench.caller(Some("ann"));
    assert_eq!(tasking(&bench, &ann, "tasks/get", json!({ "taskId": id })).await["result"]["taskId"], id);
    // She may see it, and not stop it.
    assert_eq!(tasking(&bench, &ann, "tasks/cancel", json!({ "taskId": id })).await["error"]["code"], 4030);
    for (caller, id) in
        [(bench.caller(Some("bob")), id), (ann, json!("none@1")), (me.clone(), json!("sh")), (me, json!("../x"))]
    {
        let refused = tasking(&bench, &caller, "tasks/get", json!({ "taskId": id })).await;
        assert_eq!(refused["error"]["code"], -32602, "{id}: {refused}");
    }
    runs.close().await;
    bench.end().await;
}

#[tokio::test]
async fn a_task_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let rules = json!({ ".read": true });
    let (first, runs) = bench(&rules, dir.path()).await;
    let me = operator(&first);
    let done = start_task(&first, &me, json!({ "command": "exit 4", "title": "done" })).await;
    finished(&first, &me, &done).await;
    let open = start_task(&first, &me, json!({ "command": "sleep 1000", "title": "open" })).await;
    runs.close().await;
    first.end().await;
    drop(runs);
    let (second, runs) = bench(&rules, dir.path()).await;
    let me = operator(&second);
    let task = finished(&second, &me, &done).await;
    assert_eq!((&task["status"], &task["result"]["structuredContent"]["exit_code"]), (&json!("completed"), &json!(4)));
    let task = finished(&second, &me, &open).await;
    assert_eq!((&task["status"], &task["result"]["isError"]), (&json!("completed"), &json!(true)), "{task}");
    assert_eq!(task["result"]["structuredContent"]["state"], "interrupted");
    runs.close().await;
    second.end().await;
}

#[tokio::test]
async fn output_is_a_resource_and_tells_that_there_is_more() {
    let dir = tempfile::tempdir().unwrap();
    let (bench, runs) = bench(&json!({ ".read": true }), dir.path()).await;
    let me = operator(&bench);
    let fifo = dir.path().join("gate");
    let gate = format!("mkfifo {0}; echo one; read line < {0}; echo two", fifo.display());
    let started = ok(&bench, &me, "run_start", json!({ "command": gate, "title": "gate" })).await;
    let uri = format!("tree://{}/out", started["path"].as_str().unwrap());
    let read = async || {
        let answer = bench.modern_as(&me, "resources/read", json!({ "uri": uri })).await;
        answer["result"]["contents"][0].clone()
    };
    timeout(LIMIT, async { while read().await["text"] != "one\n" {} }).await.unwrap();
    let (to, mut inlet) = exchange(ROOM);
    let meta = json!({ META_VERSION: "2026-07-28", META_CAPABILITIES: {} });
    let params = json!({ "notifications": { "resourceSubscriptions": [uri] }, "_meta": meta });
    bench.server.call(
        me.clone(),
        message(&json!({ "jsonrpc": "2.0", "id": 2, "method": "subscriptions/listen", "params": params })),
        to,
    );
    next(&mut inlet).await;
    let path = fifo.clone();
    // It waits for who reads.
    std::thread::spawn(move || std::fs::write(path, "go\n").unwrap());
    timeout(LIMIT, async {
        while read().await["text"] != "one\ntwo\n" {
            assert_eq!(next(&mut inlet).await["params"]["uri"], json!(uri));
        }
    })
    .await
    .unwrap();
    let content = read().await;
    assert_eq!((&content["mimeType"], &content["uri"]), (&json!("text/plain"), &json!(uri)));
    runs.close().await;
    bench.end().await;
}
