//! Tables of requests and exact answers, written as one line each, and the two ways to play them:
//! raw HTTP/1.1 on one kept connection, and HTTP/2 by curl. It knows no resource.
//!
//! A request is `METHOD TARGET (header: value & …) BODY`, headers and body being optional. An
//! expected answer is `STATUS (header: value & …) BODY`: `(name)` means that the header is there,
//! `(!name)` that it is not; the body is exact, except `*` (any), `!text` (the error `text`) and
//! `~text` (an error whose sentence contains `text`).

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use standpipe_testkit::http::{Conn, Response};

/// How a table is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// Bytes over one connection that is kept.
    Http1,
    /// `curl --http2-prior-knowledge`, a connection for each request.
    Http2,
}

/// Plays `rows` in order against the server at `addr` and compares every answer.
pub(crate) fn play(addr: SocketAddr, via: Via, rows: &[(&str, &str)]) {
    let mut conn = Conn::open(addr).unwrap();
    for (request, expected) in rows {
        let ask = Ask::parse(request);
        let got = match via {
            Via::Http1 => conn.request(ask.method, ask.target, &ask.headers, ask.body.as_bytes()),
            Via::Http2 => curl(addr, &ask),
        };
        let got = got.unwrap_or_else(|error| panic!("{via:?} {request}: {error:#}"));
        compare(&format!("{via:?} {request}"), &ask, &got, expected);
        if got.header("connection") == Some("close") {
            conn = Conn::open(addr).unwrap();
        }
    }
}

/// A request of a table.
#[derive(Debug)]
struct Ask<'a> {
    method: &'a str,
    target: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    body: &'a str,
}

impl<'a> Ask<'a> {
    fn parse(text: &'a str) -> Self {
        let (method, rest) = text.split_once(' ').expect("a request has a method and a target");
        let (target, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let (headers, body) = headers(rest);
        let headers = headers.into_iter().map(|header| header.split_once(": ").expect("a header has a value"));
        Self { method, target, headers: headers.collect(), body }
    }
}

/// The part in parentheses, and what follows it.
fn headers(text: &str) -> (Vec<&str>, &str) {
    match text.strip_prefix('(').and_then(|text| text.split_once(')')) {
        Some((headers, rest)) => (headers.split(" & ").collect(), rest.trim_start()),
        None => (Vec::new(), text),
    }
}

fn compare(what: &str, ask: &Ask<'_>, got: &Response, expected: &str) {
    let (status, rest) = expected.split_once(' ').unwrap_or((expected, ""));
    assert_eq!(got.status.to_string(), status, "{what}: {got:?}");
    let (headers, body) = headers(rest);
    for header in headers {
        match header.split_once(": ") {
            Some((name, value)) => assert_eq!(got.header(name), Some(value), "{what}: {name}"),
            None => match header.strip_prefix('!') {
                Some(name) => assert_eq!(got.header(name), None, "{what}: {name}"),
                None => assert!(got.header(header).is_some(), "{what}: no {header}"),
            },
        }
    }
    everywhere(what, ask, got);
    let text = got.text();
    if let Some(error) = body.strip_prefix('!') {
        assert_eq!(got.json().unwrap(), json!({ "error": error }), "{what}");
    } else if let Some(part) = body.strip_prefix('~') {
        let json = got.json().unwrap();
        let sentence = json["error"].as_str().unwrap_or_else(|| panic!("{what}: no error in {text}"));
        assert!(sentence.contains(part), "{what}: {sentence:?}");
        assert_eq!(json.as_object().map(serde_json::Map::len), Some(1), "{what}: {text}");
    } else if body != "*" {
        assert_eq!(text, body, "{what}");
    }
}

/// What holds for every answer, errors included (firebase-rtdb §9.3).
fn everywhere(what: &str, ask: &Ask<'_>, got: &Response) {
    let origin = ask.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("origin")).map_or("*", |(_, o)| o);
    assert_eq!(got.header("access-control-allow-origin"), Some(origin), "{what}");
    assert_eq!(got.header("cache-control"), Some("no-cache"), "{what}");
    if got.status >= 400 && ask.method != "HEAD" {
        assert_eq!(got.header("content-type"), Some("application/json; charset=utf-8"), "{what}");
        assert!(got.json().is_ok_and(|json| json["error"].is_string()), "{what}: {}", got.text());
    }
    if matches!(got.status, 429 | 503) {
        assert!(got.header("retry-after").is_some(), "{what}: when to come back");
    }
}

fn curl(addr: SocketAddr, ask: &Ask<'_>) -> anyhow::Result<Response> {
    let mut command = Command::new("curl");
    command.args(["-sS", "-i", "-g", "--path-as-is", "--max-time", "30", "--http2-prior-knowledge"]);
    match ask.method {
        "HEAD" => command.arg("-I"),
        method => command.args(["-X", method]),
    };
    for (name, value) in &ask.headers {
        command.arg("-H").arg(format!("{name}: {value}"));
    }
    if !ask.body.is_empty() {
        command.args(["--data-binary", "@-"]);
    }
    command.arg(format!("http://{addr}{}", ask.target));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().expect("piped above").write_all(ask.body.as_bytes())?;
    let output = child.wait_with_output()?;
    anyhow::ensure!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    parse(&output.stdout).ok_or_else(|| anyhow::anyhow!("no answer: {}", String::from_utf8_lossy(&output.stdout)))
}

/// What `curl -i` shows of an answer.
fn parse(bytes: &[u8]) -> Option<Response> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/2 ")?.get(..3)?.parse().ok()?;
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    Some(Response { status, headers, body: bytes[end + 4..].to_vec() })
}

/// The value at `path` (`/a/b`), for checks beside a table.
pub(crate) fn get(addr: SocketAddr, path: &str) -> Value {
    let got = standpipe_testkit::http::request(addr, "GET", &format!("{path}.json"), &[], b"").unwrap();
    assert_eq!(got.status, 200, "{path}: {}", got.text());
    got.json().unwrap()
}
