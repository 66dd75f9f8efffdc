//! A tape as an HTTP archive (HAR 1.2), for the tools that show those: each call is an entry, a POST to `/mcp` as it could have been sent over Streamable HTTP. What was
//! sent over something else is shown as if. Members of ours begin with `_`, as the format asks for.

use std::io::{self, Write};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::reader::{Recorded, Tape, Way};
use crate::fault::http_status;

/// Writes a tape as an HTTP archive, entry by entry.
///
/// # Errors
/// Those of `out`.
pub fn write_har(tape: &Tape, out: &mut impl Write) -> io::Result<()> {
    let creator = json!({ "name": "standpipe", "version": env!("CARGO_PKG_VERSION") });
    write!(out, "{{\"log\":{{\"version\":\"1.2\",\"creator\":{creator},\"entries\":[")?;
    for (at, call) in tape.calls.iter().enumerate() {
        out.write_all(if at == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *out, &entry(call))?;
    }
    out.write_all(b"\n]}}\n")
}

fn entry(call: &Recorded) -> Value {
    let reply = call.reply();
    let last = reply.or(call.steps.last()).map_or(call.at, |step| step.at);
    let first = call.steps.first().map_or(last, |step| step.at).min(last);
    let (wait, receive) = ((first - call.at).max(0.0), (last - first).max(0.0));
    let body = String::from_utf8_lossy(call.request.bytes()).into_owned();
    let headers = headers(call);
    json!({
        "startedDateTime": date(call.at),
        "time": wait + receive,
        "request": {
            "method": "POST",
            "url": format!("http://{}/mcp", host(&call.server)),
            "httpVersion": "HTTP/1.1",
            "cookies": [],
            "headers": headers,
            "queryString": [],
            "postData": { "mimeType": "application/json", "text": body },
            "headersSize": -1,
            "bodySize": call.request.bytes().len(),
        },
        "response": response(call),
        "cache": {},
        "timings": { "send": 0, "wait": wait, "receive": receive },
        "comment": comment(call),
        "_server": &*call.server,
        "_session": call.session,
        "_caller": &*call.caller,
        "_transport": { "door": call.transport.door, "peer": call.transport.peer, "connection": call.transport.connection },
    })
}

/// The method and, where it has one, the name or URI.
fn comment(call: &Recorded) -> String {
    let text = |member: &str| call.request.text_at(&[member]).ok().flatten();
    let method = call.request.method().unwrap_or_default();
    match text("name").or_else(|| text("uri")) {
        Some(name) => format!("{method} {name}"),
        None => method.to_owned(),
    }
}

fn headers(call: &Recorded) -> Value {
    let recorded = &call.transport.headers;
    if recorded.is_empty() {
        return json!([{ "name": "content-type", "value": "application/json" }]);
    }
    recorded.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect()
}

fn response(call: &Recorded) -> Value {
    let steps: Vec<_> = call.steps.iter().filter(|step| step.way == Way::Call).collect();
    let (kind, body) = match &steps[..] {
        [only] if call.reply().is_some() => {
            ("application/json", String::from_utf8_lossy(only.message.bytes()).into_owned())
        }
        _ => {
            let event = |line: &[u8]| format!("event: message\ndata: {}\n\n", String::from_utf8_lossy(line));
            ("text/event-stream", steps.iter().map(|step| event(&step.message.line())).collect())
        }
    };
    let status = match call.reply() {
        None => 0,
        Some(reply) => {
            let code = reply.message.at(&["code"]).ok().flatten().filter(|_| reply.message.is_error());
            code.and_then(|span| serde_json::from_slice(reply.message.slice(span)).ok()).map_or(200, http_status)
        }
    };
    json!({
        "status": status,
        "statusText": http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default(),
        "httpVersion": "HTTP/1.1",
        "cookies": [],
        "headers": [{ "name": "content-type", "value": kind }],
        "content": { "size": body.len(), "mimeType": kind, "text": body },
        "redirectURL": "",
        "headersSize": -1,
        "bodySize": body.len(),
    })
}

/// A server's name as a host's.
fn host(server: &str) -> String {
    let letter = |letter: char| if letter.is_ascii_alphanumeric() || letter == '-' { letter } else { '-' };
    let name: String = server.chars().map(letter).collect();
    if name.is_empty() { "server".into() } else { name }
}

fn date(at_ms: f64) -> String {
    Timestamp::from_millisecond(at_ms as i64).unwrap_or_default().to_string()
}
