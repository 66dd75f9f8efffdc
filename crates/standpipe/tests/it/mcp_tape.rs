//! Tapes and rules as a whole: a gateway records, is killed, and the tape answers in place of the server; rules come into force while
//! calls go on; no secret is in what was written.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use standpipe_testkit::http::request;
use standpipe_testkit::{Launch, binary, until};

use crate::mcp_support::{Legacy, fixture};
use crate::support::quiet;

/// A gateway of one server with this entry beside the fixture's command.
fn gateway(dir: &tempfile::TempDir, more: &Value) -> standpipe_testkit::Server {
    write(dir, more);
    let file = dir.path().join("mcp.json");
    Launch::gateway().args(["--servers".as_ref(), file.as_os_str()]).start().unwrap()
}

fn write(dir: &tempfile::TempDir, more: &Value) {
    let mut entry =
        json!({"command": "python3", "args": [fixture("echo.py")], "env": {"MY_API_KEY": "hunter2-hunter2"}});
    entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    std::fs::write(dir.path().join("mcp.json"), json!({ "mcpServers": { "e": entry } }).to_string()).unwrap();
}

/// What a command prints, given `input`.
fn output(arguments: &[&str], input: &str) -> String {
    let mut child =
        Command::new(binary()).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_killed_gateway_leaves_a_tape_that_answers() {
    let dir = tempfile::tempdir().unwrap();
    let tape = dir.path().join("calls.jsonl");
    let mut server = gateway(&dir, &json!({ "record": tape }));
    let client = Legacy::open(server.addr(), "/mcp/s/e");
    let arguments = json!({"text": "a", "big": 9_007_199_254_740_993_u64, "password": "hunter2-hunter2"});
    let recorded = client.ask("tools/call", &json!({"name": "raw", "arguments": arguments}));
    // The reply is on the tape.
    assert!(until(|| {
        let text = std::fs::read_to_string(&tape).unwrap();
        text.lines().filter(|line| line.contains("\"direction\":\"out\"")).count() >= 2
    }));
    server.kill().unwrap();
    let text = std::fs::read_to_string(&tape).unwrap();
    assert!(!text.contains("hunter2"), "{text}");
    assert!(text.contains("9007199254740993"));

    let tape = tape.to_str().unwrap();
    let initialize = json!({"jsonrpc": "2.0", "id": "i", "method": "initialize", "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "2"}}});
    let again =
        json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"arguments": arguments, "name": "raw"}});
    let lines = output(&["mcp", "replay", tape], &format!("{initialize}\n{again}\n"));
    let answers: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers[0]["id"], "i");
    let masked = recorded["result"].to_string().replace("hunter2-hunter2", "***");
    assert_eq!((&answers[1]["id"], answers[1]["result"].to_string()), (&json!(7), masked));

    let har: Value = serde_json::from_str(&output(&["mcp", "export-har", tape], "")).unwrap();
    let entries = har["log"]["entries"].as_array().unwrap();
    assert_eq!((har["log"]["version"].as_str(), entries.len()), (Some("1.2"), 2));
    assert_eq!((&entries[1]["comment"], &entries[1]["response"]["status"]), (&json!("tools/call raw"), &json!(200)));
}

#[test]
fn rules_come_into_force_while_the_server_runs() {
    let dir = tempfile::tempdir().unwrap();
    let server = gateway(&dir, &json!({}));
    let client = Legacy::open(server.addr(), "/mcp/s/e");
    let call = || client.ask("tools/call", &json!({"name": "raw", "arguments": {"text": "a"}}));
    assert!(call()["result"].is_object());
    let block = json!({"name": "quiet", "match": {"name": "ra*"}, "action": {"block": {"code": 7, "message": "no"}}});
    write(&dir, &json!({ "rules": [block] }));
    assert!(until(|| call()["error"]["code"] == 7), "the rule is in force");
    // The session, and so the process, is the one that it was.
    assert!(client.ask("tools/list", &json!({}))["result"].is_object());
    let metrics = request(server.addr(), "GET", "/metrics", &[], b"").unwrap().text();
    for line in [
        "standpipe_mcp_rule_matches_total{rule=\"quiet\"}",
        "standpipe_mcp_tool_calls_total{server=\"e\",tool=\"raw\"}",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    quiet(server, &[]);
}
