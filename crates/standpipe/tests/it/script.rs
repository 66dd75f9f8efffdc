//! Tables of requests and exact answers, written as one line each, and the two ways to play them:
//! raw HTTP/1.1 on one kept connection, and HTTP/2 by Node on another. It knows no resource.
//!
//! A request is `METHOD TARGET (header: value & …) BODY`, headers and body being optional. An
//! expected answer is `STATUS (header: value & …) BODY`: `(name)` means that the header is there,
//! `(!name)` that it is not; the body is exact, except `*` (any), `!text` (the error `text`) and
//! `~text` (an error whose sentence contains `text`).

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use standpipe_testkit::http::{Conn, Response};

/// How a table is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// Bytes over one connection that is kept.
    Http1,
    /// Streams of one connection, in order; left out where there is no Node.
    Http2,
}

/// Sends a request and reads its answer.
type Player = Box<dyn FnMut(&Ask<'_>) -> anyhow::Result<Response>>;

/// Plays `rows` in order against the server at `addr` and compares every answer.
pub(crate) fn play(addr: SocketAddr, via: Via, rows: &[(&str, &str)]) {
    let asks = rows.iter().map(|(request, expected)| (request, Ask::parse(request), expected));
    let mut answer: Player = match via {
        Via::Http1 => {
            let mut conn = Conn::open(addr).unwrap();
            Box::new(move |ask| {
                let got = conn.request(ask.method, ask.target, &ask.headers, ask.body.as_bytes());
                if got.as_ref().is_ok_and(|got| got.header("connection") == Some("close")) {
                    conn = Conn::open(addr)?;
                }
                got
            })
        }
        Via::Http2 => match Http2::open(addr) {
            Ok(mut http2) => Box::new(move |ask| http2.request(ask)),
            Err(error) => return eprintln!("left out: HTTP/2 needs Node: {error}"),
        },
    };
    for (request, ask, expected) in asks {
        let got = answer(&ask).unwrap_or_else(|error| panic!("{via:?} {request}: {error:#}"));
        compare(&format!("{via:?} {request}"), &ask, &got, expected);
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
    // The body of a 412 is the value that is there.
    if got.status >= 400 && got.status != 412 && ask.method != "HEAD" {
        assert_eq!(got.header("content-type"), Some("application/json; charset=utf-8"), "{what}");
        assert!(got.json().is_ok_and(|json| json["error"].is_string()), "{what}: {}", got.text());
    }
    if matches!(got.status, 429 | 503) {
        assert!(got.header("retry-after").is_some(), "{what}: when to come back");
    }
}

/// An HTTP/2 connection, kept by `tests/node/http2.js`.
struct Http2 {
    node: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Http2 {
    fn open(addr: SocketAddr) -> std::io::Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node/http2.js");
        let mut command = Command::new("node");
        command.arg(script).arg(format!("http://{addr}")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut node = command.spawn()?;
        let input = node.stdin.take().expect("piped above");
        let output = BufReader::new(node.stdout.take().expect("piped above"));
        Ok(Self { node, input, output })
    }

    fn request(&mut self, ask: &Ask<'_>) -> anyhow::Result<Response> {
        let headers: Value =
            ask.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), json!(value))).collect();
        let line = json!({"method": ask.method, "target": ask.target, "headers": headers, "body": ask.body});
        writeln!(self.input, "{line}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line)?;
        anyhow::ensure!(answer.get("error").is_none(), "{answer}");
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let headers = answer["headers"].as_object().into_iter().flatten();
        Ok(Response {
            status: answer["status"].as_u64().and_then(|status| status.try_into().ok()).unwrap_or(0),
            headers: headers.map(|(name, value)| (name.clone(), text(value))).collect(),
            body: text(&answer["body"]).into_bytes(),
        })
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        let _ = self.node.kill();
        let _ = self.node.wait();
    }
}

/// The value at `path` (`/a/b`), for checks beside a table.
pub(crate) fn get(addr: SocketAddr, path: &str) -> Value {
    let got = standpipe_testkit::http::request(addr, "GET", &format!("{path}.json"), &[], b"").unwrap();
    assert_eq!(got.status, 200, "{path}: {}", got.text());
    got.json().unwrap()
}
