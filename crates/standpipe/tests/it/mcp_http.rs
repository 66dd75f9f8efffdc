//! MCP over HTTP, of a whole process: that it is wired up as the settings say, and what a crowd of sessions costs. The rules of the door itself are
//! tested in its crate, on raw frames.

use serde_json::json;
use standpipe_testkit::http::{Conn, Response, request};
use standpipe_testkit::{Baseline, Launch, Server, until};

use crate::support::{dev, quiet};

/// Sessions of the crowd.
const CROWD: usize = 1_000;

/// What an idle session may take, its stream and its connection included (issue 6).
const SESSION_KIB: u64 = 60;

const ACCEPT: (&str, &str) = ("accept", "application/json, text/event-stream");

fn post(conn: &mut Conn, headers: &[(&str, &str)], body: &str) -> Response {
    let common = [ACCEPT, ("content-type", "application/json")];
    let all: Vec<_> = common.iter().chain(headers).copied().collect();
    conn.request("POST", "/mcp", &all, body.as_bytes()).unwrap()
}

fn initialize() -> String {
    json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": { "protocolVersion": "2025-11-25",
        "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } } })
    .to_string()
}

fn open(conn: &mut Conn) -> String {
    let answer = post(conn, &[], &initialize());
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("mcp-session-id").unwrap().to_owned()
}

fn sessions(server: &Server) -> u64 {
    let status = request(server.addr(), "GET", "/mcp/status", &[], b"").unwrap().json().unwrap();
    status["http_sessions"].as_u64().unwrap()
}

#[test]
fn the_tree_is_served_in_both_eras() {
    let server = dev();
    let mut conn = Conn::open(server.addr()).unwrap();
    let session = open(&mut conn);
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let legacy = post(&mut conn, &[("mcp-session-id", &session)], list).json().unwrap();
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": { "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} } } });
    let headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/list")];
    let modern = post(&mut conn, &headers, &list.to_string()).json().unwrap();
    assert!(legacy["result"]["tools"].as_array().is_some_and(|tools| !tools.is_empty()), "{legacy}");
    assert_eq!(legacy["result"]["tools"], modern["result"]["tools"]);
    // What was there before is where it was.
    assert_eq!(conn.request("PUT", "/mcp.json", &[], b"1").unwrap().status, 200);
    assert_eq!(conn.request("GET", "/mcp.json", &[], b"").unwrap().text(), "1");
    quiet(server, &[]);
}

#[test]
fn a_server_for_others_wants_a_token() {
    let server = Launch::serve().start().unwrap();
    let mut conn = Conn::open(server.addr()).unwrap();
    let answer = post(&mut conn, &[], &initialize());
    assert_eq!(answer.status, 401, "{}", answer.text());
    let challenge = answer.header("www-authenticate").unwrap_or_default();
    let at = challenge.split('"').nth(1).unwrap_or_default();
    let path = at.strip_prefix(&server.url()).unwrap_or_else(|| panic!("{challenge}"));
    let document = conn.request("GET", path, &[], b"").unwrap().json().unwrap();
    assert_eq!(document["resource"], format!("{}/mcp", server.url()));
    quiet(server, &[]);
}

#[test]
fn a_crowd_of_sessions_costs_little_and_leaves_nothing() {
    let server = Launch::dev()
        .env("STANDPIPE_LIMITS_MCP_SESSIONS_PER_PRINCIPAL_MAX", "1024")
        .env("STANDPIPE_LIMITS_MCP_INITIALIZE_PER_S_MAX", "100000")
        .env("STANDPIPE_LIMITS_MCP_INITIALIZE_BURST_MAX", "100000")
        .env("STANDPIPE_LIMITS_MCP_IDLE_MS_MAX", "2000")
        .env("STANDPIPE_LIMITS_CONNECTIONS_PER_PEER_MAX", "5000")
        .start()
        .unwrap();
    let mut conn = Conn::open(server.addr()).unwrap();
    // What the first ones need is there afterwards.
    for _ in 0..20 {
        let _session = open(&mut conn);
    }
    assert!(until(|| sessions(&server) == 0));
    let before = Baseline::of(server.pid()).unwrap();
    let crowd: Vec<Conn> = (0..CROWD)
        .map(|_| {
            let session = open(&mut conn);
            let mut stream = Conn::open(server.addr()).unwrap();
            let get = [("accept", "text/event-stream"), ("mcp-session-id", &*session)];
            let head = stream.encode("GET", "/mcp", &get, b"").unwrap();
            stream.send(&head).unwrap();
            stream
        })
        .collect();
    // One that asked for the status may have been counted before.
    assert!(until(|| Baseline::of(server.pid()).unwrap().descriptors + 2 >= before.descriptors + CROWD));
    // As long as their streams are open they are not idle; one without a stream is, and tells that the time has passed.
    let _idle = open(&mut conn);
    assert!(until(|| sessions(&server) == CROWD as u64));
    let with = Baseline::of(server.pid()).unwrap();
    let each = (with.resident_kib - before.resident_kib) as f64 / CROWD as f64;
    eprintln!("an idle session with an open stream takes {each:.1} KiB");
    assert!(each <= SESSION_KIB as f64, "{each:.1} KiB");
    drop(crowd);
    assert!(until(|| sessions(&server) == 0), "abandoned sessions end");
    assert!(until(|| Baseline::of(server.pid()).unwrap().is_back_at(&before)), "{before:?}");
    let after = Baseline::of(server.pid()).unwrap();
    eprintln!("{before:?} {with:?} {after:?}");
    quiet(server, &[]);
}
