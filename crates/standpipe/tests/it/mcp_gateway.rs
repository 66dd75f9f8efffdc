//! The gateway as a whole: the commands of the acceptance, several servers of one file, what passes unchanged, and what is left when
//! something ends. Its servers are those of `tests/mcp`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;

use rustix::process::{Pid, Signal, test_kill_process};
use serde_json::{Value, json};
use standpipe_testkit::http::{Response, request};
use standpipe_testkit::{Baseline, Launch, Server, binary, until};

use crate::mcp_support::{Legacy, fixture, messages, modern, reply};
use crate::support::quiet;

/// The acceptance's options, and a server.
fn gateway(options: &[&str]) -> Server {
    let echo = fixture("echo.py");
    Launch::gateway().args(options).args(["--".as_ref(), "python3".as_ref(), echo.as_os_str()]).start().unwrap()
}

/// A gateway with a file of servers, and the file.
fn several(servers: &Value, options: &[&str]) -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mcp.json");
    std::fs::write(&file, json!({ "mcpServers": servers }).to_string()).unwrap();
    let server = Launch::gateway().args(["--servers".as_ref(), file.as_os_str()]).args(options).start().unwrap();
    (server, dir)
}

/// An entry of the fixture.
fn echo(name: &str, more: &Value) -> Value {
    let mut entry = json!({"command": "python3", "args": [fixture("echo.py")], "env": {"NAME": name}});
    entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    entry
}

fn is_alive(pid: &str) -> bool {
    let pid = pid.trim().parse().ok().and_then(Pid::from_raw).unwrap();
    let is_zombie = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    };
    test_kill_process(pid).is_ok() && !is_zombie()
}

fn status(addr: SocketAddr) -> Value {
    request(addr, "GET", "/mcp/status", &[], b"").unwrap().json().unwrap()
}

fn state(addr: SocketAddr, name: &str) -> Value {
    let status = status(addr);
    let servers = status["servers"].as_array().unwrap();
    servers.iter().find(|server| server["name"] == name).cloned().unwrap_or_default()
}

fn tools(reply: &Value) -> Vec<String> {
    let tools = reply["result"]["tools"].as_array().unwrap_or_else(|| panic!("no tools: {reply}"));
    tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

const ACCEPTANCE: [&str; 8] =
    ["--call-timeout", "3s", "--idle-timeout", "5s", "--start-timeout", "10s", "--max-children", "32"];

#[test]
fn a_process_for_each_session() {
    let server = gateway(&[&ACCEPTANCE[..], &["--mode", "session"]].concat());
    let (first, second) = (Legacy::open(server.addr(), "/mcp"), Legacy::open(server.addr(), "/mcp"));
    assert_eq!(first.initialized["result"]["serverInfo"]["name"], "echo");
    let pids = [&first, &first, &second].map(|client| client.tool("pid", &json!({})));
    assert!(pids[0] == pids[1] && pids[1] != pids[2], "{pids:?}");
    assert!(matches!(first.end(), 200 | 204));
    assert!(until(|| !is_alive(&pids[0])), "the process ends with its session");
    assert!(is_alive(&pids[2]));
    assert_eq!(first.post(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).status, 404);
    quiet(server, &[]);
}

#[test]
fn one_process_for_all() {
    let server = gateway(&[&ACCEPTANCE[..], &["--mode", "shared"]].concat());
    let clients = [(); 4].map(|()| Legacy::open(server.addr(), "/mcp"));
    let pids: BTreeSet<String> = (0..100).map(|call| clients[call % clients.len()].tool("pid", &json!({}))).collect();
    assert_eq!(pids.len(), 1, "100 requests, one process");
    let status = state(server.addr(), "main");
    assert_eq!((status["calls"].as_u64() >= Some(100), &status["mode"]), (true, &json!("shared")), "{status}");
    quiet(server, &[]);
}

#[test]
fn a_call_has_its_time_and_no_more() {
    let server = gateway(&ACCEPTANCE);
    let client = Legacy::open(server.addr(), "/mcp");
    let late = client.ask("tools/call", &json!({"name": "sleep", "arguments": {"ms": 20_000}}));
    assert_eq!(late["error"]["code"], 5040, "{late}");
    assert_eq!(client.tool("sleep", &json!({"ms": 1})), "slept");
    quiet(server, &[]);
}

#[test]
fn sse_of_2024_is_there_where_it_is_asked_for() {
    let server = gateway(&["--sse"]);
    let mut stream = standpipe_testkit::http::Stream::open(server.addr(), "/mcp/sse", &[]).unwrap();
    let first = stream.event(standpipe_testkit::LIMIT).unwrap().unwrap();
    assert_eq!(first.name, "endpoint", "{first:?}");
    drop(stream);
    quiet(server, &[]);
    let server = gateway(&[]);
    assert_eq!(request(server.addr(), "GET", "/mcp/sse", &[("accept", "text/event-stream")], b"").unwrap().status, 404);
    quiet(server, &[]);
}

#[test]
fn what_is_not_known_passes_byte_for_byte() {
    for mode in ["session", "shared"] {
        let server = gateway(&["--mode", mode]);
        let client = Legacy::open(server.addr(), "/mcp");
        let ids = ["\"9007199254740993\"", "9007199254740993", "-1", "1.50", "\"\\u00e9 \\\"q\\\"\"", "1"];
        for id in ids {
            let params = r#"{"zeta":1.0,"name":"raw","arguments":{"b":9007199254740993,"a":1e400,"é":"\u00e9"},"x-new":[{}, null]}"#;
            let body = format!(
                r#"{{"method":"tools/call","id":{id},"x-unknown":{{"k":-0.0}},"jsonrpc":"2.0","params":{params}}}"#
            );
            let got = client.post(&body).text();
            let before = format!(r#""id":{id},"result":{{"content":[],"raw":{{"method":"tools/call","id":"#);
            assert!(got.contains(&before), "{mode} {id}: {got}");
            let after = format!(r#","x-unknown":{{"k":-0.0}},"jsonrpc":"2.0","params":{params}}}"#);
            assert!(got.contains(&after), "{mode} {id}: {got}");
        }
        quiet(server, &[]);
    }
}

#[test]
fn progress_and_questions_find_their_caller() {
    let server = gateway(&["--mode", "shared"]);
    let client = Legacy::open(server.addr(), "/mcp");
    let params = json!({"name": "progress", "_meta": {"progressToken": "mine"}});
    let got = client.post(&json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}).to_string());
    let all = messages(&got);
    let steps: Vec<&Value> = all.iter().filter(|message| message["method"] == "notifications/progress").collect();
    assert_eq!(steps.len(), 3, "{all:?}");
    assert!(steps.iter().all(|step| step["params"]["progressToken"] == "mine"), "{steps:?}");
    assert_eq!(all.last().unwrap()["id"], 7);
    quiet(server, &[]);
}

#[test]
fn both_eras_reach_servers_of_both() {
    let servers =
        json!({"old": echo("old", &json!({})), "new": echo("new", &json!({"env": {"NAME": "new", "ERA": "modern"}}))});
    let (server, _dir) = several(&servers, &[]);
    for name in ["old", "new"] {
        let path = format!("/mcp/s/{name}");
        let legacy = Legacy::open(server.addr(), &path);
        assert!(tools(&legacy.ask("tools/list", &json!({}))).contains(&"pid".to_owned()), "{name}");
        let got = reply(&modern(server.addr(), &path, "tools/call", &json!({"name": "pid", "arguments": {}}), &[]));
        assert_eq!(got["result"]["resultType"], "complete", "{name}: {got}");
    }
    assert_eq!(
        (&state(server.addr(), "old")["era"], &state(server.addr(), "new")["era"]),
        (&json!("legacy"), &json!("modern"))
    );
    quiet(server, &[]);
}

#[test]
fn one_server_that_cannot_start_takes_no_other_down() {
    let far = gateway(&[]);
    let servers = json!({
        "good": echo("good", &json!({})),
        "bad": {"command": "/no/such/program", "eager": true},
        "far": {"url": format!("http://{}/mcp", far.addr())},
        "gone": {"url": "http://127.0.0.1:1/mcp"},
    });
    let (server, _dir) = several(&servers, &[]);
    for name in ["good", "far"] {
        let client = Legacy::open(server.addr(), &format!("/mcp/s/{name}"));
        assert!(client.tool("pid", &json!({})).parse::<u32>().is_ok(), "{name}");
    }
    for name in ["bad", "gone"] {
        let refused = Legacy::try_open(server.addr(), &format!("/mcp/s/{name}"), &[]).err().expect("it can't work");
        assert!(reply(&refused)["error"]["code"].is_number(), "{name}: {}", refused.text());
    }
    let refused = Legacy::try_open(server.addr(), "/mcp/s/bad", &[]).err().unwrap();
    assert_eq!((refused.status, &reply(&refused)["error"]["code"]), (503, &json!(5021)), "{}", refused.text());
    assert_ne!(state(server.addr(), "bad")["state"], "running");
    assert_eq!(
        request(server.addr(), "POST", "/mcp/s/none", &[("content-type", "application/json")], b"{}").unwrap().status,
        404
    );
    quiet(server, &[]);
    quiet(far, &[]);
}

#[test]
fn a_changed_file_touches_only_what_it_changes() {
    let servers = json!({"kept": echo("kept", &json!({"mode": "shared"})), "dropped": echo("dropped", &json!({"mode": "shared"})),
        "changed": echo("changed", &json!({"mode": "shared"}))});
    let (server, dir) = several(&servers, &[]);
    let addr = server.addr();
    let clients = ["kept", "dropped", "changed"].map(|name| Legacy::open(addr, &format!("/mcp/s/{name}")));
    let pids = clients.each_ref().map(|client| client.tool("pid", &json!({})));
    let write = |servers: &Value| {
        std::fs::write(dir.path().join("mcp.json"), json!({ "mcpServers": servers }).to_string()).unwrap()
    };

    let next = json!({"kept": echo("kept", &json!({"mode": "shared"})), "added": echo("added", &json!({})),
        "changed": echo("changed", &json!({"mode": "shared", "tools": {"deny": ["die"]}}))});
    write(&next);
    assert!(until(|| state(addr, "added").is_object() && state(addr, "dropped").is_null()));
    assert_eq!(clients[0].tool("pid", &json!({})), pids[0], "the same process, the same session");
    assert!(until(|| !is_alive(&pids[1]) && !is_alive(&pids[2])), "what is gone or replaced has ended");
    Legacy::open(addr, "/mcp/s/added").tool("pid", &json!({}));
    assert_eq!(Legacy::try_open(addr, "/mcp/s/dropped", &[]).err().unwrap().status, 404);
    assert!(!tools(&Legacy::open(addr, "/mcp/s/changed").ask("tools/list", &json!({}))).contains(&"die".to_owned()));

    // A mistake is refused as a whole; SIGHUP reads the file too.
    std::fs::write(dir.path().join("mcp.json"), "{\"mcpServers\":{\"kept\":{\"comand\":\"x\"}}}").unwrap();
    assert!(until(|| server.stderr().contains("did you mean") || server.stderr().contains("neither command nor url")));
    server.signal(Signal::HUP).unwrap();
    assert_eq!(clients[0].tool("pid", &json!({})), pids[0]);
    quiet(server, &["is refused, all servers stay as they are"]);
}

#[test]
fn only_some_tools_are_seen() {
    let filter = json!({"tools": {"allow": ["p*", "raw", "env"], "deny": ["progress"], "prefix": "x_"}});
    let (server, _dir) = several(&json!({"s": echo("s", &filter)}), &[]);
    let client = Legacy::open(server.addr(), "/mcp/s/s");
    let listed = client.post(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
    assert_eq!(tools(&reply(&listed)), ["x_raw", "x_pid", "x_env"]);
    assert!(listed.text().contains(r#""x-number": 9007199254740993"#), "{}", listed.text());
    assert!(client.tool("x_pid", &json!({})).parse::<u32>().is_ok());
    for hidden in ["pid", "x_progress", "progress", "x_die"] {
        let got = client.ask("tools/call", &json!({"name": hidden}));
        assert_eq!(got["error"]["code"], -32602, "{hidden}: {got}");
    }
    quiet(server, &[]);
}

#[test]
fn several_servers_are_one() {
    let servers = json!({"a": echo("a", &json!({})), "broken": {"command": "/no/such/program"},
        "b": echo("b", &json!({"env": {"NAME": "b", "ERA": "modern"}}))});
    let (server, _dir) = several(&servers, &[]);
    let addr = server.addr();
    let client = Legacy::open(addr, "/mcp/all");
    let listed = reply(&modern(addr, "/mcp/all", "tools/list", &json!({}), &[]));
    for all in [client.ask("tools/list", &json!({})), listed.clone()] {
        let names = tools(&all);
        assert!(names.contains(&"a__pid".to_owned()) && names.contains(&"b__pid".to_owned()), "{names:?}");
    }
    assert_eq!(listed["result"]["_meta"]["dev.standpipe/unavailable"], json!(["broken"]));
    assert_ne!(client.tool("a__pid", &json!({})), client.tool("b__pid", &json!({})));
    let prompt = client.ask("prompts/get", &json!({"name": "b__greet"}));
    assert_eq!(prompt["result"]["description"], "b greets", "{prompt}");
    for (uri, owner) in [("test://a/one", "a"), ("test://b/one", "b"), ("test://both", "a")] {
        let got = client.ask("resources/read", &json!({ "uri": uri }));
        assert_eq!(got["result"]["contents"][0]["text"], owner, "{uri}: {got}");
    }
    let got = client.ask("tools/call", &json!({"name": "pid"}));
    assert_eq!(got["error"]["code"], -32602, "{got}");
    quiet(server, &[]);
}

#[test]
fn secrets_stay_here() {
    let dir = tempfile::tempdir().unwrap();
    let secret = "0123456789abcdef0123456789abcdef-client";
    std::fs::write(dir.path().join("secret"), secret).unwrap();
    let secret_file = dir.path().join("secret").display().to_string();
    let echo = fixture("echo.py");
    let launch = Launch::gateway().env("API_KEY", "ours").env("LC_ALL", "C.UTF-8");
    let arguments = ["--secret-file", &secret_file, "--env", "NAME=mine", "--", "python3", echo.to_str().unwrap()];
    let server = launch.args(arguments).start().unwrap();
    let addr = server.addr();
    let refused = Legacy::try_open(addr, "/mcp", &[]).err().unwrap();
    assert!(
        refused.status == 401
            && refused.header("www-authenticate").is_some_and(|how| how.contains("resource_metadata"))
    );
    let bearer = format!("Bearer {secret}");
    let headers = [("authorization", bearer.as_str())];
    let got = modern(addr, "/mcp", "tools/call", &json!({"name": "env"}), &headers);
    let seen: Value = serde_json::from_str(reply(&got)["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&seen["NAME"], &seen["LC_ALL"], seen.get("API_KEY")),
        (&json!("mine"), &json!("C.UTF-8"), None),
        "{seen}"
    );
    assert!(!seen.to_string().contains(secret));
    let raw = modern(addr, "/mcp", "tools/call", &json!({"name": "raw"}), &headers);
    assert!(raw.status == 200 && !raw.text().contains(secret), "{}", raw.text());
    quiet(server, &[]);
}

#[test]
fn a_page_of_a_stranger_is_refused() {
    let server = gateway(&["--origin", "https://app.example.com", "--host", "mcp.example.com"]);
    let check = |host: &str, origin: Option<&str>, expected: u16| {
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
        let head = format!(
            "POST /mcp HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\n{}content-length: {}\r\n\r\n{body}",
            origin.map(|origin| format!("origin: {origin}\r\n")).unwrap_or_default(),
            body.len()
        );
        let mut conn = standpipe_testkit::http::Conn::open(server.addr()).unwrap();
        conn.send(head.as_bytes()).unwrap();
        assert_eq!(conn.response(false).unwrap().status, expected, "{host} {origin:?}");
    };
    check("localhost", None, 200);
    check("mcp.example.com", Some("https://app.example.com"), 200);
    check("evil.example.com", None, 403);
    check("localhost", Some("https://evil.example.com"), 403);
    quiet(server, &[]);
}

#[test]
fn a_gateway_that_stops_answers_and_leaves_nothing() {
    let mut server = gateway(&["--mode", "session"]);
    let client = Legacy::open(server.addr(), "/mcp");
    let (pid, orphan) = (client.tool("pid", &json!({})), client.tool("orphan", &json!({})));
    let mut short = client.begin("tools/call", &json!({"name": "sleep", "arguments": {"ms": 1_500}}));
    let mut long = client.begin("tools/call", &json!({"name": "sleep", "arguments": {"ms": 600_000}}));
    assert!(until(|| state(server.addr(), "main")["in_flight"] == 2));
    let began = std::time::Instant::now();
    let status = server.stop().unwrap();
    let took = began.elapsed();
    assert!(status.success() && took.as_secs() < 15, "{status} after {took:?}\n{}", server.stderr());
    let done = short.response(false).unwrap();
    assert_eq!(
        reply(&done)["result"]["content"][0]["text"],
        "slept",
        "what fits into the drain is done: {}",
        done.text()
    );
    let cut = long.response(false).unwrap();
    assert!(reply(&cut)["error"]["code"].is_number(), "no call without an answer: {}", cut.text());
    assert!(!is_alive(&pid) && !is_alive(&orphan));
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = gateway(&["--drain", "10m"]);
    let client = Legacy::open(server.addr(), "/mcp");
    let pid = client.tool("pid", &json!({}));
    let _long = client.begin("tools/call", &json!({"name": "sleep", "arguments": {"ms": 600_000}}));
    assert!(until(|| state(server.addr(), "main")["in_flight"] == 1));
    server.signal(Signal::TERM).unwrap();
    assert!(until(|| server.stderr().contains("a second signal stops at once")));
    server.signal(Signal::TERM).unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(5));
    assert!(until(|| !is_alive(&pid)));
}

#[test]
fn a_gateway_that_is_killed_leaves_no_process() {
    let mut server = gateway(&[]);
    let client = Legacy::open(server.addr(), "/mcp");
    let pids = [client.tool("pid", &json!({})), client.tool("orphan", &json!({}))];
    assert!(pids.iter().all(|pid| is_alive(pid)));
    server.kill().unwrap();
    assert!(until(|| !pids.iter().any(|pid| is_alive(pid))), "{pids:?}");
}

#[test]
fn a_client_that_vanishes_gives_its_session_back() {
    let server = gateway(&["--idle-timeout", "500ms"]);
    let addr = server.addr();
    let client = Legacy::open(addr, "/mcp");
    let pid = client.tool("pid", &json!({}));
    // A stream that is read no more, whose end is never told.
    let stream = standpipe_testkit::http::Stream::open(addr, "/mcp", &[("mcp-session-id", &client.session)]).unwrap();
    assert!(is_alive(&pid));
    drop(stream);
    assert!(until(|| !is_alive(&pid)), "an idle session ends, and its process");
    assert_eq!(client.post(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).status, 404);
    quiet(server, &[]);
}

#[test]
fn a_thousand_sessions_leave_nothing() {
    const SESSIONS: usize = 1_000;
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("c.toml");
    let limits = "[limits]\nmcp_sessions_per_principal_max = 1024\nmcp_initialize_per_s_max = 100000\nmcp_initialize_burst_max = 100000\n";
    std::fs::write(&config, limits).unwrap();
    let server = gateway(&["--mode", "shared", "--idle-timeout", "2s", "--config", config.to_str().unwrap()]);
    let addr = server.addr();
    let first = Legacy::open(addr, "/mcp");
    first.tool("pid", &json!({}));
    let before = Baseline::of(server.pid()).unwrap();
    for _ in 0..SESSIONS {
        Legacy::open(addr, "/mcp");
    }
    let during = Baseline::of(server.pid()).unwrap();
    eprintln!("a session: {} KiB", during.resident_kib.saturating_sub(before.resident_kib) / SESSIONS as u64);
    assert!(until(|| state(addr, "main")["sessions"] == 0), "{}", status(addr));
    assert!(until(|| Baseline::of(server.pid()).unwrap().is_back_at(&before)));
    for _ in 0..SESSIONS {
        Legacy::open(addr, "/mcp");
    }
    assert!(until(|| state(addr, "main")["sessions"] == 0));
    let after = Baseline::of(server.pid()).unwrap();
    assert!(after.is_back_at(&before), "{before:?} {after:?}");
    assert!(after.resident_kib < during.resident_kib + 8 * 1_024, "it grows: {during:?} {after:?}");
    quiet(server, &[]);
}

#[test]
fn people_are_told_how_it_is() {
    let server = gateway(&["--mode", "shared"]);
    let client = Legacy::open(server.addr(), "/mcp");
    client.tool("pid", &json!({}));
    client.ask("tools/call", &json!({"name": "none"}));
    let run = |arguments: &[&str]| {
        let mut command = Command::new(binary());
        command.args(["mcp", "status", "--url", &server.url()]).args(arguments).env_remove("STANDPIPE_TOKEN");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let table = run(&[]);
    assert!(table.starts_with("SERVER") && table.contains("\nmain ") && table.contains("legacy"), "{table}");
    let json: Value = serde_json::from_str(&run(&["--json"])).unwrap();
    assert_eq!(json["servers"][0]["sessions"], 1, "{json}");
    for (path, expected) in [("/healthz", "ok"), ("/readyz", "ready"), ("/metrics", "standpipe_mcp_")] {
        let got = request(server.addr(), "GET", path, &[], b"").unwrap();
        assert!(got.status == 200 && got.text().contains(expected), "{path}: {}", got.text());
    }
    quiet(server, &[]);
}

#[test]
fn a_mistake_in_the_file_is_told_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mcp.json");
    std::fs::write(&file, "{\"mcpServers\": {\n  \"a\": {\"command\": \"x\", \"argz\": []}\n}}").unwrap();
    let mut command = Command::new(binary());
    command.args(["mcp", "gateway", "--listen", "127.0.0.1:0", "--servers"]).arg(&file);
    let output = command.output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(
        told.contains("mcp.json:2:33: mcpServers.a.argz: unknown key") && told.contains("did you mean args?"),
        "{told}"
    );
}

#[test]
fn a_server_of_the_tree_has_them_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mcp.json");
    std::fs::write(&file, json!({"mcpServers": {"a": echo("a", &json!({}))}}).to_string()).unwrap();
    let server = Launch::dev()
        .args(["--mcp-servers".as_ref(), file.as_os_str()])
        .args(["--mcp", "127.0.0.1:0"])
        .start()
        .unwrap();
    let other: SocketAddr = server.door("mcp").unwrap().parse().unwrap();
    for addr in [server.addr(), other] {
        let client = Legacy::open(addr, "/mcp/s/a");
        assert!(client.tool("pid", &json!({})).parse::<u32>().is_ok());
    }
    let listed: Response = modern(server.addr(), "/mcp", "tools/list", &json!({}), &[]);
    assert!(tools(&reply(&listed)).contains(&"tree_get".to_owned()), "{}", listed.text());
    quiet(server, &[]);
}
