//! When runs start, as the whole binary does it: by the clock, in turns, and after the server was killed. Tables of
//! schedules, groups and limits are played in `standpipe-runs`.

use serde_json::{Value, json};
use standpipe_testkit::http::{Response, request};
use standpipe_testkit::{Launch, Server, until};

use crate::runs_support::{User, ended, operator, start};
use crate::support::{dev_with, quiet};

fn get(server: &Server, path: &str) -> Response {
    request(server.addr(), "GET", path, &[], b"").unwrap()
}

#[test]
fn a_job_starts_by_the_clock_and_tells_when_next() {
    let (server, _config) = dev_with("[job.tick]\nshell = 'echo tick'\nevery = '1s'\n");
    let value = |path: &str| get(&server, path).json().unwrap();
    assert!(until(|| value("/jobs/tick.json")["runs"].as_u64() >= Some(2)), "{}", value("/jobs.json"));
    let job = value("/jobs/tick.json");
    assert!(job["next_at"].as_u64().unwrap().is_multiple_of(1_000), "{job}");
    assert_eq!(ended(&server, "tick@1")["state"], json!("succeeded"));
    assert!(until(|| value("/runs/tick@1/state.json") == json!("succeeded")));
    assert_eq!(value("/runs/tick@1/by.json"), json!("schedule"));
    let metrics = get(&server, "/metrics").text();
    for name in [
        "runs_started_total ",
        "runs_now{state=\"queued\"} 0",
        "runs_ended_total{state=\"succeeded\"} ",
        "runs_seconds_bucket",
    ] {
        assert!(metrics.contains(&format!("standpipe_{name}")), "{name}: {metrics}");
    }
    let status = operator(&server, "GET", "/.status", &Value::Null).json().unwrap();
    assert!(status["runs"]["started"].as_u64() >= Some(2), "{}", status["runs"]);
    quiet(server, &[]);
}

#[test]
fn what_waits_when_the_server_is_killed_runs_when_it_is_back() {
    let mut server = Launch::dev().same_port().env("STANDPIPE_LIMITS_RUNS_RUNNING_MAX", "1").start().unwrap();
    let first = start(&server, &json!({ "name": "a", "argv": ["sh", "-c", "sleep 1000"] }));
    let waits = start(&server, &json!({ "name": "b", "argv": ["sh", "-c", "echo done"] }));
    let value = |path: &str| get(&server, path).json().unwrap();
    assert!(until(|| value("/runs/b@1/queue/position.json") == json!(1)), "{}", value("/runs.json"));
    server.kill().unwrap();
    server.restart().unwrap();
    assert_eq!(ended(&server, &first)["state"], json!("interrupted"));
    assert_eq!(ended(&server, &waits)["state"], json!("succeeded"));
    assert_eq!(User::of(&server).ok(&["runs", "logs", "b"]).lines().next(), Some("done"));
    quiet(server, &[]);
}
