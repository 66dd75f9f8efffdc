//! Messages of JSON-RPC: what is taken apart is what JSON says, and what is changed is changed there only.

use bytes::Bytes;
use serde_json::Value;
use standpipe_wire::jsonrpc::{Edit, Kind, Line, Lines, Message, Outline, id_key};

use crate::cuts;

/// Members of a message's body that are looked for by name.
const MEMBERS_MAX: usize = 8;

/// One message.
pub fn jsonrpc(data: &[u8]) {
    let Ok(message) = Message::parse(Bytes::copy_from_slice(data)) else { return };
    assert!(std::str::from_utf8(message.bytes()).is_ok(), "what is no text is no message");
    check_outline(&message);
    // Nested too deeply, or with numbers too large, for a tree of values: that is no reason to refuse a message.
    let Ok(value) = serde_json::from_slice::<Value>(message.bytes()) else { return };
    check_parts(&message, &value);
    let edited = message.with_id(b"\"edited\"");
    same(&edited);
    if message.id().is_some() {
        let mut expected = value.clone();
        expected["id"] = "edited".into();
        assert_eq!(read(edited.bytes()), expected);
    }
    if let Some(body) = message.body().filter(|body| message.slice(*body).first() == Some(&b'{')) {
        let with = message.edit(&mut [message.insert(body, "added by us", b"[1]")]);
        same(&with);
        let members = value[member(&message)].as_object().map_or(0, serde_json::Map::len);
        let now = read(with.bytes());
        let has = now[member(&message)].get("added by us").is_some();
        assert!(!has || now[member(&message)].as_object().map_or(0, serde_json::Map::len) >= members);
        let gone = message.edit(&mut [Edit::replace(body, b"{}")]);
        same(&gone);
        assert_eq!(read(gone.bytes())[member(&message)], Value::Object(serde_json::Map::new()));
    }
    let line = message.line();
    assert!(!line.iter().any(|byte| matches!(byte, b'\n' | b'\r')) && read(&line) == value, "a line says the same");
}

fn read(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("a message is JSON")
}

/// Where a message has its body.
fn member(message: &Message) -> &'static str {
    match message.kind() {
        Kind::Response if message.is_error() => "error",
        Kind::Response => "result",
        _ => "params",
    }
}

fn check_parts(message: &Message, value: &Value) {
    assert_eq!(message.method(), value.get("method").and_then(Value::as_str));
    let id = message.id().map_or(Value::Null, read);
    assert_eq!(&id, value.get("id").unwrap_or(&Value::Null));
    assert_eq!(message.kind() == Kind::Request, !id.is_null() && value.get("method").is_some());
    assert_eq!(message.body_bytes().map(read).as_ref(), value.get(member(message)));
    let body = value.get(member(message)).and_then(Value::as_object);
    for (name, value) in body.into_iter().flatten().take(MEMBERS_MAX) {
        if let Ok(found) = message.at(&[name]) {
            assert_eq!(read(message.slice(found.expect("it is there"))), *value);
        }
    }
}

/// A message that was changed is one that would be taken apart the same way.
fn same(edited: &Message) {
    let again = Message::parse(edited.bytes().clone()).expect("it is a message still");
    assert_eq!(
        (again.kind(), again.id(), again.method(), again.body(), again.is_error()),
        (edited.kind(), edited.id(), edited.method(), edited.body(), edited.is_error())
    );
}

/// What is too long to be taken apart is known by the same id.
fn check_outline(message: &Message) {
    let mut outline = Outline::default();
    outline.feed(message.bytes());
    if let (Some(seen), Some(id)) = (outline.request_id(), message.id()) {
        // Ids that are named by a name with escapes are not seen; what is seen is the id.
        assert_eq!(id_key(seen), id_key(id));
    }
}

/// A stream of messages on lines.
pub fn jsonrpc_lines(data: &[u8]) {
    let (data, size) = cuts(data);
    let whole = lines(data, data.len().max(1));
    assert_eq!(lines(data, size), whole, "however it comes");
}

fn lines(data: &[u8], size: usize) -> Vec<Result<Bytes, Option<Vec<u8>>>> {
    const BYTES_MAX: usize = 100;
    let (mut lines, mut all) = (Lines::default(), Vec::new());
    let mut told = |line| {
        all.push(match line {
            Line::Whole(line) => Ok(line),
            Line::Dropped(outline) => Err(outline.request_id().map(<[u8]>::to_vec)),
        });
    };
    for piece in data.chunks(size) {
        lines.buf(BYTES_MAX).extend_from_slice(piece);
        while let Some(line) = lines.next(BYTES_MAX) {
            told(line);
        }
        assert!(lines.held() <= BYTES_MAX, "no more is held than a message may have");
    }
    lines.end(BYTES_MAX).into_iter().for_each(told);
    all
}
