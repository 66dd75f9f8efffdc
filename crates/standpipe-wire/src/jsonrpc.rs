//! JSON-RPC 2.0 messages as they came: the bytes, and where the envelope's parts are in them. What a message means is not
//! known here; whatever is not asked for is passed on byte for byte (spec mcp §4.2).
//!
//! The bytes are looked through once, and are valid JSON from then on. A change is a splice: [`Message::edit`] names spans and what takes
//! their place; no value is decoded and encoded again.

mod lines;
mod outline;

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

pub use self::lines::{Line, Lines};
pub use self::outline::Outline;

/// A part of a message, as offsets into its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn of(part: &str, whole: &[u8]) -> Self {
        let start = part.as_ptr().addr() - whole.as_ptr().addr();
        // `Message::parse` takes nothing longer than a `u32` can count.
        Self { start: start as u32, end: (start + part.len()) as u32 }
    }

    /// The bytes of the part.
    pub fn of_bytes(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It wants an answer.
    Request,
    /// It wants none.
    Notification,
    /// A result or an error.
    Response,
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not JSON, or not UTF-8.
    #[error("not JSON: {0}")]
    Json(String),
    /// An array: the protocol has no batches.
    #[error("a batch: send one message at a time")]
    Batch,
    /// JSON, but no message.
    #[error("{0}")]
    Invalid(&'static str),
}

impl Malformed {
    /// The error code of JSON-RPC for it.
    pub fn code(&self) -> i64 {
        match self {
            Self::Json(_) => -32_700,
            Self::Batch | Self::Invalid(_) => -32_600,
        }
    }
}

/// A method, where it stands or decoded.
#[derive(Clone, Debug)]
enum Name {
    Plain(Span),
    Decoded(Box<str>),
}

/// One message. Cloning it copies no bytes.
#[derive(Clone)]
pub struct Message {
    bytes: Bytes,
    kind: Kind,
    id: Option<Span>,
    method: Option<Name>,
    /// `params`, `result` or `error`.
    body: Option<Span>,
    failed: bool,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Contents may be secret.
        write!(f, "Message({:?} {} of {} bytes)", self.kind, self.method().unwrap_or_default(), self.bytes.len())
    }
}

/// The members of the envelope that are looked at; a second one of a name is refused by serde.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    method: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

/// A member that is there, were it `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl Message {
    /// Takes bytes apart. White space around the message is dropped.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        let trimmed = bytes.trim_ascii();
        let bytes = if trimmed.len() == bytes.len() { bytes } else { bytes.slice_ref(trimmed) };
        if u32::try_from(bytes.len()).is_err() {
            return Err(Malformed::Invalid("a message of 4 GiB or more"));
        }
        // Looked at as a whole: what serde passes over it does not look at closely.
        let text = std::str::from_utf8(&bytes).map_err(|error| Malformed::Json(error.to_string()))?;
        let not_json = |error: serde_json::Error| Malformed::Json(error.to_string());
        match bytes.first() {
            Some(b'{') => {}
            Some(first) => {
                serde_json::from_str::<IgnoredAny>(text).map_err(not_json)?;
                return Err(if *first == b'[' {
                    Malformed::Batch
                } else {
                    Malformed::Invalid("a message is an object")
                });
            }
            None => return Err(Malformed::Json("no bytes".into())),
        }
        let envelope: Envelope<'_> = serde_json::from_str(text).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => {
                Malformed::Invalid("a member of the envelope (jsonrpc, id, method, params, result, error) stands twice")
            }
            _ => not_json(error),
        })?;
        let span = |raw: &RawValue| Span::of(raw.get(), &bytes);
        if envelope.jsonrpc.is_none_or(|version| version.get() != "\"2.0\"") {
            return Err(Malformed::Invalid("\"jsonrpc\" must be \"2.0\""));
        }
        let method = match envelope.method.map(RawValue::get) {
            None => None,
            Some(text) if !text.starts_with('"') => return Err(Malformed::Invalid("\"method\" must be a string")),
            Some(text) if text.contains('\\') => Some(Name::Decoded(serde_json::from_str(text).map_err(not_json)?)),
            Some(text) => Some(Name::Plain(Span::of(&text[1..text.len() - 1], &bytes))),
        };
        let id = match envelope.id.map(RawValue::get) {
            None => None,
            Some("null") if method.is_none() => None,
            Some(text) if text.starts_with(['"', '-']) || text.as_bytes()[0].is_ascii_digit() => {
                Some(Span::of(text, &bytes))
            }
            Some(_) => return Err(Malformed::Invalid("\"id\" must be a string or a number")),
        };
        let (kind, body, failed) = match (&method, envelope.result, envelope.error) {
            (Some(_), None, None) => {
                let kind = if id.is_some() { Kind::Request } else { Kind::Notification };
                (kind, envelope.params.map(span), false)
            }
            (None, Some(result), None) if id.is_some() => (Kind::Response, Some(span(result)), false),
            (None, None, Some(error)) => (Kind::Response, Some(span(error)), true),
            _ => return Err(Malformed::Invalid("a message has a method, or an id with a result or an error")),
        };
        if kind != Kind::Response && body.is_some_and(|body| !matches!(body.of_bytes(&bytes).first(), Some(b'{'))) {
            return Err(Malformed::Invalid("\"params\" must be an object"));
        }
        Ok(Self { kind, id, method, body, failed, bytes })
    }

    /// A message that we wrote ourselves.
    fn own(json: Vec<u8>) -> Self {
        Self::parse(json.into()).expect("it was written as a message just now")
    }

    /// A request. `id` and `params` are JSON.
    pub fn request(id: &[u8], method: &str, params: &[u8]) -> Self {
        Self::own(
            [
                b"{\"jsonrpc\":\"2.0\",\"id\":",
                id,
                b",\"method\":\"",
                method.as_bytes(),
                b"\",\"params\":",
                params,
                b"}",
            ]
            .concat(),
        )
    }

    /// A notification. `params` is JSON.
    pub fn notification(method: &str, params: &[u8]) -> Self {
        Self::own([b"{\"jsonrpc\":\"2.0\",\"method\":\"", method.as_bytes(), b"\",\"params\":", params, b"}"].concat())
    }

    /// The result of a request. `id` and `result` are JSON.
    pub fn result(id: &[u8], result: &[u8]) -> Self {
        Self::own([b"{\"jsonrpc\":\"2.0\",\"id\":", id, b",\"result\":", result, b"}"].concat())
    }

    /// The failure of a request; without an id it could not be read. `data` is JSON.
    pub fn error(id: Option<&[u8]>, code: i64, message: &str, data: Option<&[u8]>) -> Self {
        let message = serde_json::to_vec(message).expect("a string can be written as JSON");
        let (before, data) = data.map_or((&b""[..], &b""[..]), |data| (b",\"data\":", data));
        let parts: [&[u8]; 9] = [
            b"{\"jsonrpc\":\"2.0\",\"id\":",
            id.unwrap_or(b"null"),
            b",\"error\":{\"code\":",
            &code.to_string().into_bytes(),
            b",\"message\":",
            &message,
            before,
            data,
            b"}}",
        ];
        Self::own(parts.concat())
    }

    /// The message as it is sent, without a newline at its end. One inside, between its parts, is possible: see [`Message::line`].
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The message on one line: newlines between its parts, which are white space, become spaces.
    pub fn line(&self) -> Bytes {
        if !self.bytes.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            return self.bytes.clone();
        }
        let space = |byte: &u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte };
        self.bytes.iter().map(space).collect::<Vec<_>>().into()
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its id as it stands: a JSON string or number.
    pub fn id(&self) -> Option<&[u8]> {
        self.id.map(|span| span.of_bytes(&self.bytes))
    }

    /// Where its id is.
    pub fn id_span(&self) -> Option<Span> {
        self.id
    }

    /// [`Message::id`], to be kept.
    pub fn id_bytes(&self) -> Option<Bytes> {
        self.id().map(|id| self.bytes.slice_ref(id))
    }

    /// The id as a number, if it is one as we write them.
    pub fn id_number(&self) -> Option<u64> {
        std::str::from_utf8(self.id()?).ok()?.parse().ok()
    }

    /// The method of a request or notification.
    pub fn method(&self) -> Option<&str> {
        match self.method.as_ref()? {
            Name::Decoded(name) => Some(name),
            Name::Plain(span) => {
                Some(std::str::from_utf8(span.of_bytes(&self.bytes)).expect("serde_json has checked it"))
            }
        }
    }

    /// The span of `params`, `result` or `error`, whichever it has.
    pub fn body(&self) -> Option<Span> {
        self.body
    }

    /// `params`, `result` or `error` as it stands.
    pub fn body_bytes(&self) -> Option<&[u8]> {
        self.body.map(|span| span.of_bytes(&self.bytes))
    }

    /// Whether it is the failure of a request.
    pub fn is_error(&self) -> bool {
        self.failed
    }

    /// The span of the member that `path` leads to, below [`Message::body`].
    ///
    /// # Errors
    /// A member on the way stands twice: two readers could take it for two values.
    pub fn at(&self, path: &[&str]) -> Result<Option<Span>, Malformed> {
        let mut span = match self.body {
            Some(span) => span,
            None => return Ok(None),
        };
        for name in path {
            match member(&self.bytes, span, name)? {
                Some(inner) => span = inner,
                None => return Ok(None),
            }
        }
        Ok(Some(span))
    }

    /// The JSON at a span of this message.
    pub fn slice(&self, span: Span) -> &[u8] {
        span.of_bytes(&self.bytes)
    }

    /// The string that `path` leads to; `None` where there is none, or something else.
    ///
    /// # Errors
    /// As [`Message::at`].
    pub fn text_at(&self, path: &[&str]) -> Result<Option<String>, Malformed> {
        Ok(self.at(path)?.and_then(|span| serde_json::from_slice(self.slice(span)).ok()))
    }

    /// The message in bytes of its own, if they are part of a larger block: it does not keep that alive.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self { bytes: Bytes::copy_from_slice(&self.bytes), ..self.clone() }
    }

    /// The message with another id, which is JSON.
    #[must_use]
    pub fn with_id(&self, id: &[u8]) -> Self {
        match self.id {
            Some(span) => self.edit(&mut [Edit::replace(span, id)]),
            None => self.clone(),
        }
    }

    /// The message with another body, and another id where it has one and `id` is given; both are JSON. A request or notification that
    /// had no `params` gets them.
    #[must_use]
    pub fn rewritten(&self, id: Option<&[u8]>, body: &[u8]) -> Self {
        let id = self.id.zip(id).map(|(span, id)| Edit::replace(span, id));
        if let Some(span) = self.body {
            let mut edits: Vec<_> = id.into_iter().chain([Edit::replace(span, body)]).collect();
            return self.edit(&mut edits);
        }
        let whole = Span { start: 0, end: self.bytes.len() as u32 };
        let mut edits: Vec<_> = id.into_iter().chain([self.insert(whole, "params", body)]).collect();
        let mut bytes = Vec::with_capacity(self.bytes.len() + body.len() + 32);
        self.splice(&mut edits, &mut bytes);
        // A part that was not there before has to be found.
        Self::own(bytes)
    }

    /// Appends the message to `out`, with some parts changed. Spans must not overlap.
    pub fn splice(&self, edits: &mut [Edit<'_>], out: &mut Vec<u8>) {
        edits.sort_by_key(|edit| edit.at.start);
        let mut from = 0;
        for edit in edits {
            out.extend_from_slice(&self.bytes[from..edit.at.start as usize]);
            edit.parts.iter().for_each(|part| out.extend_from_slice(part));
            from = edit.at.end as usize;
        }
        out.extend_from_slice(&self.bytes[from..]);
    }

    /// The message with some parts changed. Spans must not overlap. What takes their place is JSON, so that the rest need not be looked
    /// through again: its parts have only moved.
    #[must_use]
    pub fn edit(&self, edits: &mut [Edit<'_>]) -> Self {
        let added: usize = edits.iter().map(Edit::bytes).sum();
        let mut bytes = Vec::with_capacity(self.bytes.len() + added);
        self.splice(edits, &mut bytes);
        let bytes = Bytes::from(bytes);
        let grown = |at: u32| {
            let before = edits.iter().filter(|edit| edit.at.end <= at);
            let grown: i64 = before.map(|edit| edit.bytes() as i64 - i64::from(edit.at.end - edit.at.start)).sum();
            (i64::from(at) + grown) as u32
        };
        let moved = |span: Span| Span { start: grown(span.start), end: grown(span.end) };
        let method = self.method.as_ref().map(|name| match name {
            Name::Plain(span) => Name::Plain(moved(*span)),
            Name::Decoded(name) => Name::Decoded(name.clone()),
        });
        let edited = Self { id: self.id.map(moved), method, body: self.body.map(moved), bytes, ..*self };
        debug_assert!(edited.is_whole(), "what takes the place of JSON is JSON");
        edited
    }

    /// Whether it is what would be parsed.
    fn is_whole(&self) -> bool {
        Self::parse(self.bytes.clone()).is_ok_and(|parsed| {
            let same =
                (parsed.kind, parsed.id, parsed.body, parsed.failed) == (self.kind, self.id, self.body, self.failed);
            same && parsed.method() == self.method()
        })
    }

    /// The edit that adds a member to the object at `object`, in front of the others. `value` is JSON.
    ///
    /// # Panics
    /// There is no object at `object`.
    pub fn insert<'a>(&self, object: Span, name: &'a str, value: &'a [u8]) -> Edit<'a> {
        let text = self.slice(object);
        assert_eq!(text.first(), Some(&b'{'), "members are added to objects");
        let is_empty = text[1..].trim_ascii_start().first() == Some(&b'}');
        let at = Span { start: object.start + 1, end: object.start + 1 };
        Edit { at, parts: [b"\"", name.as_bytes(), b"\":", value, if is_empty { b"" } else { b"," }] }
    }
}

/// The same for all ways to write an id, to compare ids by: a string without needless escapes. Numbers stay as they are written.
pub fn id_key(id: &[u8]) -> Cow<'_, [u8]> {
    if id.contains(&b'\\')
        && let Ok(text) = serde_json::from_slice::<String>(id)
    {
        return serde_json::to_vec(&text).expect("a string can be written as JSON").into();
    }
    id.into()
}

/// A change of a part of a message.
#[derive(Clone, Debug)]
pub struct Edit<'a> {
    at: Span,
    parts: [&'a [u8]; 5],
}

impl<'a> Edit<'a> {
    /// Length of what takes the place.
    fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// The part at `at` becomes `with`, which is JSON.
    pub fn replace(at: Span, with: &'a [u8]) -> Self {
        Self { at, parts: [with, b"", b"", b"", b""] }
    }
}

/// The member `name` of the object at `of`; `None` where it is no object.
///
/// # Errors
/// It stands twice.
fn member(bytes: &[u8], of: Span, name: &str) -> Result<Option<Span>, Malformed> {
    struct Find<'n>(&'n str);

    impl<'de> Visitor<'de> for Find<'_> {
        type Value = Result<Option<&'de RawValue>, Malformed>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = None;
            let mut twice = false;
            while let Some(Key(key)) = map.next_key()? {
                if key == self.0 {
                    twice |= found.replace(map.next_value()?).is_some();
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(if twice { Err(Malformed::Invalid("a member that is looked at stands twice")) } else { Ok(found) })
        }
    }

    let text = of.of_bytes(bytes);
    if text.first() != Some(&b'{') {
        return Ok(None);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let found = deserializer.deserialize_map(Find(name)).map_err(|error| Malformed::Json(error.to_string()))??;
    Ok(found.map(|raw| Span::of(raw.get(), bytes)))
}

/// A key, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] std::borrow::Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Message, Malformed> {
        Message::parse(Bytes::copy_from_slice(json.as_bytes()))
    }

    #[test]
    fn messages_are_known_by_their_members() {
        let check = |json: &str, expected: Kind| assert_eq!(parse(json).unwrap().kind(), expected, "{json}");
        check(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, Kind::Request);
        check(r#" {"method":"a\u0062","id":"x","jsonrpc":"2.0","params":{}} "#, Kind::Request);
        check(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, Kind::Notification);
        check(r#"{"jsonrpc":"2.0","id":1,"result":null}"#, Kind::Response);
        check(r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}"#, Kind::Response);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let check = |json: &str, code: i64| assert_eq!(parse(json).unwrap_err().code(), code, "{json}");
        check("", -32_700);
        check("{", -32_700);
        check("nonsense", -32_700);
        check("[]", -32_600);
        check("1", -32_600);
        check("{}", -32_600);
        check(r#"{"jsonrpc":"1.0","id":1,"method":"a"}"#, -32_600);
        check(r#"{"jsonrpc":"2.0","id":null,"method":"a"}"#, -32_600);
        check(r#"{"jsonrpc":"2.0","id":{},"method":"a"}"#, -32_600);
        check(r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#, -32_600);
        check(r#"{"jsonrpc":"2.0","id":1,"method":"a","params":[]}"#, -32_600);
        check(r#"{"jsonrpc":"2.0","id":1,"method":"a","result":1}"#, -32_600);
        check(r#"{"jsonrpc":"2.0","id":1}"#, -32_600);
    }

    #[test]
    fn an_edit_leaves_everything_else_as_it_is() {
        let json = r#"{"x":9007199254740993,"jsonrpc":"2.0","id":"a","params":{"b":1,"_meta":{"progressToken":7}, "a":1.0},"method":"m"}"#;
        let message = parse(json).unwrap();
        let token = message.at(&["_meta", "progressToken"]).unwrap().unwrap();
        let meta = message.at(&["_meta"]).unwrap().unwrap();
        let edited =
            message.edit(&mut [Edit::replace(token, b"\"t\""), message.insert(meta, "n", b"null")]).with_id(b"12");
        let expected = json
            .replace(":7", ":\"t\"")
            .replace("\"_meta\":{", "\"_meta\":{\"n\":null,")
            .replace("\"id\":\"a\"", "\"id\":12");
        assert_eq!(edited.bytes(), expected.as_bytes());
        assert_eq!((edited.id_number(), edited.method()), (Some(12), Some("m")));
    }

    #[test]
    fn a_message_gets_another_body() {
        let check = |json: &str, id: Option<&[u8]>, expected: &str| {
            assert_eq!(parse(json).unwrap().rewritten(id, b"{\"b\":1}").bytes(), expected, "{json}");
        };
        let with = r#"{"jsonrpc":"2.0","id":7,"params":{"a":2},"x":1,"method":"m"}"#;
        check(with, Some(b"\"n\""), r#"{"jsonrpc":"2.0","id":"n","params":{"b":1},"x":1,"method":"m"}"#);
        check(with, None, r#"{"jsonrpc":"2.0","id":7,"params":{"b":1},"x":1,"method":"m"}"#);
        check(r#"{"jsonrpc":"2.0","method":"m"}"#, Some(b"1"), r#"{"params":{"b":1},"jsonrpc":"2.0","method":"m"}"#);
        check(
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}"#,
            None,
            r#"{"jsonrpc":"2.0","id":1,"error":{"b":1}}"#,
        );
    }

    #[test]
    fn a_member_that_stands_twice_is_not_taken_for_one() {
        let message = parse(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","n\u0061me":"b","other":1,"other":2}}"#).unwrap();
        assert!(message.at(&["name"]).is_err());
        assert!(message.at(&["missing"]).unwrap().is_none());
    }

    #[test]
    fn ids_are_compared_by_what_they_say() {
        assert_eq!(id_key(br#""\u0061\/""#), id_key(br#""a/""#));
        assert_ne!(id_key(b"1"), id_key(br#""1""#));
        assert_eq!(&*id_key(b"9007199254740993"), b"9007199254740993");
    }

    #[test]
    fn hostile_bytes_are_refused_or_passed_on_and_cost_no_stack() {
        let invalid = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"x\":\"\xff\"}";
        assert_eq!(Message::parse(Bytes::from_static(invalid)).unwrap_err().code(), -32_700);
        let deep = |open: &str, close: &str| {
            let (open, close) = (open.repeat(100_000), close.repeat(100_000));
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"a","params":{{"deep":{open}1{close},"b":2}},"x":{open}1{close}}}"#
            )
        };
        for json in [deep("[", "]"), deep("{\"a\":", "}")] {
            let message = parse(&json).unwrap();
            assert_eq!(message.slice(message.at(&["b"]).unwrap().unwrap()), b"2");
            assert_eq!(message.with_id(b"22").bytes().len(), json.len() + 1);
            assert!(parse(&json[..json.len() - 1]).is_err());
        }
        assert_eq!(parse(&"[".repeat(100_000)).unwrap_err().code(), -32_700);
        assert_eq!(parse(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))).unwrap_err().code(), -32_600);
    }

    /// `cargo test --release -p standpipe-wire message_speed -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn message_speed() {
        for bytes in [200, 1 << 20] {
            let text = "x".repeat(bytes - 130);
            let json = Bytes::from(format!(
                r#"{{"jsonrpc":"2.0","id":12345,"method":"tools/call","params":{{"_meta":{{"progressToken":7}},"name":"echo","arguments":{{"text":"{text}"}}}}}}"#
            ));
            let rounds = (200 << 20) / bytes.max(2_000);
            let run = |what: &str, mut round: Box<dyn FnMut()>| {
                let began = std::time::Instant::now();
                (0..rounds).for_each(|_| round());
                println!("{bytes} bytes, {what}: {} ns", began.elapsed().as_nanos() / rounds as u128);
            };
            let message = Message::parse(json.clone()).unwrap();
            run("parse", Box::new(|| drop(std::hint::black_box(Message::parse(json.clone())))));
            run("with another id", Box::new(|| drop(std::hint::black_box(message.with_id(b"1")))));
            run("a member of _meta", Box::new(|| drop(std::hint::black_box(message.at(&["_meta", "progressToken"])))));
        }
    }

    #[test]
    fn own_messages_are_what_was_said() {
        assert_eq!(
            Message::error(None, 5_020, "a \"b\"", Some(b"{}")).bytes(),
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":5020,"message":"a \"b\"","data":{}}}"#
        );
        assert_eq!(Message::result(b"\"x\"", b"{}").id(), Some(&b"\"x\""[..]));
        assert_eq!(
            parse("{\n\"jsonrpc\":\"2.0\",\r\n\"method\":\"a\"}").unwrap().line(),
            "{ \"jsonrpc\":\"2.0\",  \"method\":\"a\"}"
        );
    }
}
