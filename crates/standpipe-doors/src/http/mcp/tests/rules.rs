//! What is taken and what is refused, and with which status (spec mcp §2.2, §5).

use super::bench::{Bench, META, call, get, initialize, modern, post};

/// Each request over a connection of its own; a code of 0 is no error.
#[track_caller]
fn check(bench: &Bench, cases: &[(&str, String, u16, i64)]) {
    for (what, request, status, code) in cases {
        let answer = bench.ask(request);
        let told = if answer.body.is_empty() || !answer.body.starts_with('{') { 0 } else { answer.code() };
        assert_eq!((answer.status, told), (*status, *code), "{what}: {answer:?}");
    }
}

/// A POST whose every header is said.
fn plain(headers: &str, body: &str) -> String {
    format!("POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

#[test]
fn what_a_body_must_be() {
    let bench = Bench::limited(|limits| limits.mcp_message_bytes_max = 1_000);
    let media = "content-type: application/json\r\n";
    let both = "accept: application/json, text/event-stream\r\n";
    let long = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"a":"{}"}}}}"#, "x".repeat(1_000));
    check(
        &bench,
        &[
            ("no media type", plain(both, PING), 415, -32_600),
            ("another", plain(&format!("content-type: text/plain\r\n{both}"), PING), 415, -32_600),
            (
                "with a parameter",
                plain(&format!("content-type: Application/JSON; charset=utf-8\r\n{both}"), PING),
                400,
                -32_600,
            ),
            ("accepts nothing", plain(media, PING), 406, -32_600),
            ("accepts one", plain(&format!("{media}accept: application/json\r\n"), PING), 406, -32_600),
            ("accepts the other", plain(&format!("{media}accept: text/event-stream\r\n"), PING), 406, -32_600),
            ("accepts all", plain(&format!("{media}accept: */*\r\n"), PING), 400, -32_600),
            ("with weights", plain(&format!("{media}accept: text/*;q=0.1, APPLICATION/json\r\n"), PING), 400, -32_600),
            ("nothing", post("/mcp", "", ""), 400, -32_700),
            ("no JSON", post("/mcp", "", "{"), 400, -32_700),
            ("a batch", post("/mcp", "", &format!("[{PING}]")), 400, -32_600),
            ("a number", post("/mcp", "", "7"), 400, -32_600),
            ("not 2.0", post("/mcp", "", r#"{"id":1,"method":"ping"}"#), 400, -32_600),
            ("too long", post("/mcp", "", &long), 413, 4_130),
        ],
    );
    // Known by its announcement: nothing of it has to come.
    let head = post("/mcp", "", "").replace("content-length: 0", "content-length: 1001");
    assert_eq!(bench.ask(&head).status, 413);
    let chunked = post("/mcp", "transfer-encoding: chunked\r\n", "").replace("content-length: 0\r\n", "");
    assert_eq!(bench.ask(&format!("{chunked}3e9\r\n{}\r\n", "x".repeat(1_001))).status, 413);
    assert_eq!(bench.mcp.metrics().hits().get("mcp_message_bytes_max"), Some(&3));
}

#[test]
fn which_era_a_message_is_of() {
    let bench = Bench::new();
    let session = bench.open("2025-06-18");
    let named = format!("mcp-session-id: {session}\r\n");
    let with = |more: &str| format!("{named}{more}");
    let modern_ping = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{{META}}}}}"#);
    let headers = "mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/list\r\n";
    check(
        &bench,
        &[
            ("modern", post("/mcp", headers, &modern_ping), 200, 0),
            ("modern, whatever session", post("/mcp", &with(headers), &modern_ping), 200, 0),
            ("legacy", post("/mcp", &named, PING), 200, 0),
            ("legacy, with its version", post("/mcp", &with("mcp-protocol-version: 2025-06-18\r\n"), PING), 200, 0),
            (
                "legacy, another version",
                post("/mcp", &with("mcp-protocol-version: 1999-01-01\r\n"), PING),
                400,
                -32_022,
            ),
            ("a modern header alone", post("/mcp", &with("mcp-protocol-version: 2026-07-28\r\n"), PING), 400, -32_602),
            ("neither", post("/mcp", "", PING), 400, -32_600),
            ("no session", post("/mcp", "mcp-session-id: 00\r\n", PING), 404, 4_040),
            ("no text for a session", post("/mcp", "mcp-session-id: \u{e9}\r\n", PING), 404, 4_040),
            ("refused to open", initialize("/mcp", "refuse", ""), 200, -32_602),
            ("notification", post("/mcp", &named, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#), 202, 0),
            ("answer", post("/mcp", &named, r#"{"jsonrpc":"2.0","id":"s","result":{}}"#), 202, 0),
            ("answer to nobody", post("/mcp", "", r#"{"jsonrpc":"2.0","id":"s","result":{}}"#), 400, -32_600),
            ("modern notification", post("/mcp", headers, &modern_ping.replace("\"id\":1,", "")), 202, 0),
        ],
    );
    assert_eq!(*bench.peer.told.lock(), ["notifications/initialized", "answer"]);
}

#[test]
fn headers_say_what_the_body_says() {
    let bench = Bench::new();
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"echo é",{META}}}}}"#);
    let is = |headers: &str| post("/mcp", headers, &body);
    let (version, method) = ("mcp-protocol-version: 2026-07-28\r\n", "mcp-method: tools/call\r\n");
    let name = "mcp-name: =?base64?ZWNobyDDqQ==?=\r\n";
    let other = body.replace("2026-07-28", "2030-01-01");
    let without = body.replace(r#","io.modelcontextprotocol/clientCapabilities":{}"#, "");
    let number = body.replace("\"2026-07-28\"", "7");
    check(
        &bench,
        &[
            ("all, and no such tool", is(&format!("{version}{method}{name}")), 404, -32_601),
            ("no version", is(&format!("{method}{name}")), 400, -32_020),
            ("another version", is(&format!("mcp-protocol-version: 2025-11-25\r\n{method}{name}")), 400, -32_020),
            ("no method", is(&format!("{version}{name}")), 400, -32_020),
            ("another method", is(&format!("{version}mcp-method: tools/list\r\n{name}")), 400, -32_020),
            ("another case", is(&format!("{version}mcp-method: Tools/Call\r\n{name}")), 400, -32_020),
            ("no name", is(&format!("{version}{method}")), 400, -32_020),
            ("another name", is(&format!("{version}{method}mcp-name: echo\r\n")), 400, -32_020),
            ("no base64", is(&format!("{version}{method}mcp-name: =?base64?!?=\r\n")), 400, -32_020),
            (
                "a version nobody speaks",
                post("/mcp", &format!("mcp-protocol-version: 2030-01-01\r\n{method}{name}"), &other),
                400,
                -32_022,
            ),
            ("no capabilities", post("/mcp", &format!("{version}{method}{name}"), &without), 400, -32_602),
            ("a version that is no text", post("/mcp", &format!("{version}{method}{name}"), &number), 400, -32_602),
            (
                "a name that stands twice",
                post(
                    "/mcp",
                    &format!("{version}{method}{name}"),
                    &body.replace("\"params\":{", "\"params\":{\"name\":\"x\","),
                ),
                400,
                -32_600,
            ),
        ],
    );
    let answer = bench.ask(&post("/mcp", &format!("mcp-protocol-version: 2030-01-01\r\n{method}{name}"), &other));
    assert_eq!(answer.json()["error"]["data"]["requested"], "2030-01-01");
    assert_eq!(answer.json()["id"], 1, "the request's own id");
}

#[test]
fn failures_have_the_status_of_their_era() {
    let bench = Bench::new();
    let session = bench.open("2025-11-25");
    for (code, legacy, now) in [
        (-32_601, 200, 404),
        (-32_602, 200, 200),
        (-32_021, 200, 400),
        (4_030, 403, 403),
        (4_130, 413, 413),
        (4_290, 429, 429),
        (5_020, 200, 200),
        (5_021, 503, 503),
        (5_030, 503, 503),
        (5_040, 200, 200),
    ] {
        let answer = bench.ask(&call(&session, 1, &code.to_string()));
        assert_eq!((answer.status, answer.code()), (legacy, code), "{answer:?}");
        let answer = bench.ask(&modern("tools/call", &code.to_string(), ""));
        assert_eq!((answer.status, answer.code()), (now, code), "{answer:?}");
        let waits = answer.header("retry-after").map(str::to_owned);
        assert_eq!(waits.as_deref(), (now != 200).then_some("2"), "{code}");
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        assert_eq!(
            challenge.contains("insufficient_scope") && challenge.contains("tree:write"),
            code == 4_030,
            "{code}"
        );
    }
}

#[test]
fn a_reply_alone_is_json_and_more_is_a_stream() {
    let bench = Bench::new();
    let session = bench.open("2025-06-18");
    let answer = bench.ask(&modern("tools/call", "echo", r#""big":9007199254740993,"x":1.0"#));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert!(answer.body.contains(r#""big":9007199254740993,"x":1.0"#), "as it came: {answer:?}");
    for request in [modern("tools/call", "progress", ""), call(&session, 7, "progress")] {
        let answer = bench.ask(&request);
        assert_eq!(answer.header("content-type"), Some("text/event-stream"));
        assert_eq!(answer.header("x-accel-buffering"), Some("no"));
        let said: Vec<_> = answer.body.lines().filter(|line| line.starts_with("data: {")).collect();
        assert!(
            said.len() == 3 && said[0].contains("\"progress\":1") && said[2].contains("\"done\":true"),
            "{answer:?}"
        );
        assert_eq!(answer.body.contains("\nid: "), request.contains(&session), "{answer:?}");
    }
}

#[test]
fn methods_and_addresses() {
    let bench = Bench::new();
    let session = bench.open("2025-06-18");
    let plain =
        |method: &str, path: &str, more: &str| format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{more}\r\n");
    let stream = "accept: text/event-stream\r\n";
    check(
        &bench,
        &[
            ("another method", plain("PUT", "/mcp", ""), 405, -32_600),
            ("a stream of nobody", plain("GET", "/mcp", stream), 400, -32_600),
            (
                "a modern one",
                plain("GET", "/mcp", &format!("{stream}mcp-protocol-version: 2026-07-28\r\n")),
                405,
                -32_600,
            ),
            (
                "a page",
                plain("GET", "/mcp", &format!("accept: text/html\r\nmcp-session-id: {session}\r\n")),
                406,
                -32_600,
            ),
            ("a stream of a stranger", get("1", ""), 404, 4_040),
            ("the end of nobody", plain("DELETE", "/mcp", ""), 400, -32_600),
            ("the end of a stranger", plain("DELETE", "/mcp", "mcp-session-id: 1\r\n"), 404, 4_040),
            ("a modern end", plain("DELETE", "/mcp", "mcp-protocol-version: 2026-07-28\r\n"), 405, -32_600),
            ("no server", post("/mcp/s/missing", "", PING), 404, 4_040),
            ("nothing", post("/mcp/nothing", "", PING), 404, 4_040),
            ("a session elsewhere", post("/mcp/s/a", &format!("mcp-session-id: {session}\r\n"), PING), 404, 4_040),
            ("two hosts", plain("GET", "/mcp", "host: localhost\r\n"), 400, -32_600),
        ],
    );
    assert!(bench.ask("GET /mcp/status HTTP/1.1\r\nhost: x.localhost\r\n\r\n").body.contains("\"http_sessions\":1"));
    assert_eq!(bench.ask("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").body, "ok\n");
    assert!(bench.ask("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").body.contains("standpipe_mcp_http_sessions 1"));
    assert_eq!(bench.ask("GET /x HTTP/1.1\r\nhost: x\r\n\r\n").status, 404);
    assert_eq!(bench.ask(&plain("DELETE", "/mcp", &format!("mcp-session-id: {session}\r\n"))).status, 204);
    assert_eq!(bench.ask(&call(&session, 1, "echo")).status, 404);
    assert_eq!(bench.peer.open.load(std::sync::atomic::Ordering::Relaxed), 0, "its conversation has ended");
}
