//! Messages of the Firebase Realtime Database protocol, version 5 (firebase-rtdb §4, §5): reads those of
//! a client, writes those of a server, and cuts and joins the pieces that long ones travel in.
//!
//! A client's values are handed out as the JSON they are; what a path, a value or a query in them is, is
//! the tree's, and what a request does is the door's.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use standpipe_tree::write_json_string;

/// The protocol's version.
pub const VERSION: &str = "5";

/// Longest piece of a message that we send, in bytes; one that is longer is cut. Java's client has small buffers.
pub const PIECE_BYTES_MAX: usize = 16_384;

/// Longest text that may announce a number of pieces.
const COUNT_BYTES_MAX: usize = 6;

/// A client's message.
#[derive(Debug)]
pub enum Message<'a> {
    /// About the connection itself.
    Control {
        /// Which.
        kind: Cow<'a, str>,
    },
    /// To be answered.
    Request(Request<'a>),
}

/// A request of a client.
#[derive(Debug)]
pub struct Request<'a> {
    /// Its number, given back in the answer.
    pub number: u64,
    /// What is asked for.
    pub action: Cow<'a, str>,
    /// With what.
    pub body: Body<'a>,
}

/// The members of a request's body, as they are.
#[derive(Debug, Default, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub struct Body<'a> {
    #[serde(default, borrow, deserialize_with = "present")]
    p: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    d: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    h: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    q: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    t: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    cred: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    authvar: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    noauth: Option<&'a RawValue>,
}

/// A member that is missing, or of another kind than it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{field}' must be {expected}")]
pub struct WrongField {
    /// Its name.
    pub field: &'static str,
    /// What it must be.
    pub expected: &'static str,
}

/// A text that is no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not JSON: nothing that comes after it can be trusted.
    #[error("a message is not JSON")]
    NotJson,
    /// JSON, but nothing that could be answered.
    #[error("{0}")]
    Envelope(&'static str),
    /// A request that can be told what is wrong with it.
    #[error("{wrong}")]
    Request {
        /// Its number.
        number: u64,
        /// What is wrong.
        wrong: WrongField,
    },
}

impl<'a> Body<'a> {
    /// The path `p`; as clients write it, so maybe with slashes at its ends.
    pub fn path(&self) -> Result<Cow<'a, str>, WrongField> {
        string("p", self.p)
    }

    /// The value `d`.
    pub fn data(&self) -> Result<&'a str, WrongField> {
        let wrong = WrongField { field: "d", expected: "there" };
        self.d.map(RawValue::get).ok_or(wrong)
    }

    /// The hash `h` of what the client has, where it says.
    pub fn hash(&self) -> Result<Option<Cow<'a, str>>, WrongField> {
        self.h.map(|raw| string("h", Some(raw))).transpose()
    }

    /// The query `q`, as JSON.
    pub fn query(&self) -> Option<&'a str> {
        self.q.map(RawValue::get)
    }

    /// The tag `t` of a filtered listen.
    pub fn tag(&self) -> Result<Option<u64>, WrongField> {
        let wrong = WrongField { field: "t", expected: "a whole number" };
        self.t.map(|raw| serde_json::from_str(raw.get()).map_err(|_| wrong)).transpose()
    }

    /// The credential `cred`.
    pub fn credential(&self) -> Result<Cow<'a, str>, WrongField> {
        string("cred", self.cred)
    }

    /// For whom an administrator's connection acts: the JSON of `authvar`, or `null` for nobody (`noauth`).
    pub fn act_as(&self) -> Result<Option<&'a str>, WrongField> {
        let wrong = WrongField { field: "noauth", expected: "true or false" };
        match self.noauth.map(|raw| serde_json::from_str(raw.get()).map_err(|_| wrong)).transpose()? {
            Some(true) => Ok(Some("null")),
            _ => Ok(self.authvar.map(RawValue::get)),
        }
    }
}

fn string<'a>(field: &'static str, raw: Option<&'a RawValue>) -> Result<Cow<'a, str>, WrongField> {
    let wrong = WrongField { field, expected: "a string" };
    let text = raw.ok_or(wrong)?.get();
    serde_json::from_str::<Text<'a>>(text).map(|text| text.0).map_err(|_| wrong)
}

/// A string, borrowed where nothing in it is escaped.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A member that is there, be it null.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    t: Text<'a>,
    #[serde(borrow)]
    d: Content<'a>,
}

#[derive(Deserialize)]
struct Content<'a> {
    r: Option<u64>,
    #[serde(borrow)]
    a: Option<Text<'a>>,
    #[serde(borrow)]
    b: Option<Body<'a>>,
    #[serde(borrow)]
    t: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct LooseEnvelope<'a> {
    #[serde(borrow)]
    t: Option<&'a RawValue>,
    #[serde(borrow)]
    d: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct LooseContent<'a> {
    #[serde(borrow)]
    r: Option<&'a RawValue>,
    #[serde(borrow)]
    a: Option<&'a RawValue>,
    #[serde(borrow)]
    b: Option<&'a RawValue>,
}

/// Reads a client's message.
///
/// # Errors
/// [`Malformed`] says whether it can be answered.
pub fn parse(text: &str) -> Result<Message<'_>, Malformed> {
    let Ok(Envelope { t, d }) = serde_json::from_str(text) else { return Err(diagnose(text)) };
    match (&*t.0, d) {
        ("d", Content { r: Some(number), a: Some(action), b, .. }) => {
            Ok(Message::Request(Request { number, action: action.0, body: b.unwrap_or_default() }))
        }
        ("c", Content { t: Some(kind), .. }) => Ok(Message::Control { kind: kind.0 }),
        _ => Err(diagnose(text)),
    }
}

/// Why `text` is no message: the slow way, for clients that are broken.
fn diagnose(text: &str) -> Malformed {
    if serde_json::from_str::<&RawValue>(text).is_err() {
        return Malformed::NotJson;
    }
    let Ok(LooseEnvelope { t: Some(t), d: Some(d) }) = serde_json::from_str(text) else {
        return Malformed::Envelope("a message must be an object with 't' and 'd', each once");
    };
    match t.get() {
        "\"d\"" => {}
        "\"c\"" => return Malformed::Envelope("'d' of a control message must be an object with a string 't'"),
        _ => return Malformed::Envelope("'t' must be \"c\" or \"d\""),
    }
    let Ok(LooseContent { r, a, b }) = serde_json::from_str(d.get()) else {
        return Malformed::Envelope("'d' must be an object with 'r', 'a' and 'b', each once");
    };
    let Some(Ok(number)) = r.map(|r| serde_json::from_str(r.get())) else {
        return Malformed::Envelope("'r' must be a whole number, 0 or more");
    };
    let request = |field, expected| Malformed::Request { number, wrong: WrongField { field, expected } };
    if a.is_none_or(|a| serde_json::from_str::<Text<'_>>(a.get()).is_err()) {
        return request("a", "a string");
    }
    match b.map(|b| serde_json::from_str::<Body<'_>>(b.get())) {
        Some(Err(_)) => request("b", "an object with each member once"),
        _ => Malformed::Envelope("the message's members are not those of the protocol"),
    }
}

/// Joins what long messages come in (§4.2): a number of pieces, then the pieces.
#[derive(Debug, Default)]
pub struct Pieces {
    left: usize,
    text: String,
}

/// A message in pieces is longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message is too long")]
pub struct TooLong;

impl Pieces {
    /// Takes what one frame held; the message, once it is whole. At most `bytes_max` bytes are joined.
    ///
    /// # Errors
    /// [`TooLong`]: nothing after it can be understood.
    pub fn take(&mut self, frame: &str, bytes_max: usize) -> Result<Option<String>, TooLong> {
        if self.left == 0 {
            let count =
                frame.len() <= COUNT_BYTES_MAX && !frame.is_empty() && frame.bytes().all(|b| b.is_ascii_digit());
            if !count {
                return Ok(Some(frame.to_owned()));
            }
            // Nothing announced is the client's way to say that it is there.
            self.left = frame.parse().map_err(|_| TooLong)?;
            return Ok(None);
        }
        if frame.len() > bytes_max.saturating_sub(self.text.len()) {
            return Err(TooLong);
        }
        self.text.push_str(frame);
        self.left -= 1;
        Ok((self.left == 0).then(|| std::mem::take(&mut self.text)))
    }

    /// Bytes held of a message whose end has not come.
    pub fn held(&self) -> usize {
        self.text.capacity()
    }

    /// Is a message begun?
    pub fn is_open(&self) -> bool {
        self.left > 0
    }
}

/// The pieces a message is sent in, each cut between two characters; a short one is one.
pub fn pieces(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        if text.is_empty() {
            return None;
        }
        let mut end = text.len().min(PIECE_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let piece;
        (piece, text) = text.split_at(end);
        Some(piece)
    })
}

/// The first message of a server: its time in milliseconds, how the client named it, and the session's name.
pub fn hello(now_ms: u64, host: &str, session: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(128 + host.len());
    out.extend_from_slice(br#"{"t":"c","d":{"t":"h","d":{"ts":"#);
    number(now_ms, &mut out);
    out.extend_from_slice(br#","v":""#);
    out.extend_from_slice(VERSION.as_bytes());
    out.extend_from_slice(br#"","h":"#);
    write_json_string(host, &mut out);
    out.extend_from_slice(br#","s":"#);
    write_json_string(session, &mut out);
    out.extend_from_slice(b"}}}");
    out
}

/// The answer to a ping.
pub const PONG: &[u8] = br#"{"t":"c","d":{"t":"o","d":{}}}"#;

/// A control message whose content is a text: `e` for the client's log, `r` to send it to a host.
pub fn control_text(kind: &str, text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + text.len());
    out.extend_from_slice(br#"{"t":"c","d":{"t":"#);
    write_json_string(kind, &mut out);
    out.extend_from_slice(br#","d":"#);
    write_json_string(text, &mut out);
    out.extend_from_slice(b"}}");
    out
}

/// A control message without content, as an upgrade of the transport needs them (§8.3).
pub fn control(kind: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(48);
    out.extend_from_slice(br#"{"t":"c","d":{"t":"#);
    write_json_string(kind, &mut out);
    out.extend_from_slice(br#","d":{}}}"#);
    out
}

/// The answer to request `request`: a status, and JSON.
pub fn answer(request: u64, status: &str, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + data.len());
    out.extend_from_slice(br#"{"t":"d","d":{"r":"#);
    number(request, &mut out);
    out.extend_from_slice(br#","b":{"s":"#);
    write_json_string(status, &mut out);
    out.extend_from_slice(br#","d":"#);
    out.extend_from_slice(data);
    out.extend_from_slice(b"}}}");
    out
}

/// [`answer`] with a sentence as its data.
pub fn refusal(request: u64, status: &str, text: &str) -> Vec<u8> {
    let mut data = Vec::with_capacity(text.len() + 8);
    write_json_string(text, &mut data);
    answer(request, status, &data)
}

/// How a push changes what the client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// Replaces everything at the path.
    Set,
    /// Replaces each of the listed paths below it.
    Merge,
}

/// News of data: JSON at a path (without a slash before it), for the filtered listen of that tag, if it is for one.
pub fn push(kind: Push, path: &str, data: &[u8], tag: Option<u64>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + path.len() + data.len());
    out.extend_from_slice(match kind {
        Push::Set => br#"{"t":"d","d":{"a":"d","b":{"p":"#,
        Push::Merge => br#"{"t":"d","d":{"a":"m","b":{"p":"#,
    });
    write_json_string(path, &mut out);
    out.extend_from_slice(br#","d":"#);
    out.extend_from_slice(data);
    if let Some(tag) = tag {
        out.extend_from_slice(br#","t":"#);
        number(tag, &mut out);
    }
    out.extend_from_slice(b"}}}");
    out
}

/// A listen ends: that of `path`, or the filtered one with the query that the client sent, as JSON.
pub fn cancel(path: &str, query: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + path.len() + query.map_or(0, str::len));
    out.extend_from_slice(br#"{"t":"d","d":{"a":"c","b":{"p":"#);
    write_json_string(path, &mut out);
    if let Some(query) = query {
        out.extend_from_slice(br#","q":["#);
        out.extend_from_slice(query.as_bytes());
        out.push(b']');
    }
    out.extend_from_slice(b"}}}");
    out
}

/// The client's credential is no longer valid.
pub fn auth_revoked(status: &str, text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(96 + text.len());
    out.extend_from_slice(br#"{"t":"d","d":{"a":"ac","b":{"s":"#);
    write_json_string(status, &mut out);
    out.extend_from_slice(br#","d":"#);
    write_json_string(text, &mut out);
    out.extend_from_slice(b"}}}");
    out
}

fn number(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() {
        let text = r#"{"t":"d","d":{"r":7,"a":"p","b":{"p":"/a\u00e9/b","d":null,"h":"","t":11,"q":{"l":2},"x":[1]}}}"#;
        let Ok(Message::Request(request)) = parse(text) else { panic!("no request") };
        assert_eq!((request.number, &*request.action), (7, "p"));
        let body = request.body;
        assert_eq!(body.path().unwrap(), "/aé/b");
        assert_eq!(body.data(), Ok("null"));
        assert_eq!(body.hash().unwrap().unwrap(), "");
        assert_eq!(body.tag(), Ok(Some(11)));
        assert_eq!(body.query(), Some(r#"{"l":2}"#));
        assert_eq!(body.credential().unwrap_err().to_string(), "'cred' must be a string");
        let backwards = r#"{"d":{"b":{"cred":"owner","noauth":true},"a":"gauth","r":0},"t":"d"}"#;
        let Ok(Message::Request(request)) = parse(backwards) else { panic!("no request") };
        assert_eq!(request.body.act_as(), Ok(Some("null")));
        let Ok(Message::Request(request)) = parse(r#"{"t":"d","d":{"r":1,"a":"unauth"}}"#) else { panic!("none") };
        assert_eq!(request.body.data().unwrap_err().field, "d");
        let Ok(Message::Control { kind }) = parse(r#"{"t":"c","d":{"t":"p","d":{}}}"#) else { panic!("none") };
        assert_eq!(kind, "p");
    }

    #[test]
    fn what_is_no_message_is_named() {
        let check = |text: &str, expected: &str| {
            let got = parse(text).map(|_| ()).unwrap_err();
            let number =
                if let Malformed::Request { number, .. } = got { format!("{number}: ") } else { String::new() };
            assert_eq!(format!("{number}{got}"), expected, "{text}");
        };
        for text in
            ["", "{", "nonsense", "{\"t\":\"d\"", "[1,]", "{\"t\":\"d\",\"d\":{\"r\":1,\"a\":\"p\",\"b\":{\"d\":}}}"]
        {
            check(text, "a message is not JSON");
        }
        for text in ["1", "null", "[]", "{}", r#"{"t":"d"}"#, r#"{"t":"d","t":"d","d":{}}"#] {
            check(text, "a message must be an object with 't' and 'd', each once");
        }
        check(r#"{"t":"x","d":{}}"#, "'t' must be \"c\" or \"d\"");
        check(r#"{"t":5,"d":{}}"#, "'t' must be \"c\" or \"d\"");
        check(r#"{"t":"c","d":{}}"#, "'d' of a control message must be an object with a string 't'");
        check(r#"{"t":"d","d":[]}"#, "'d' must be an object with 'r', 'a' and 'b', each once");
        check(r#"{"t":"d","d":5}"#, "'d' must be an object with 'r', 'a' and 'b', each once");
        for number in ["-1", "1.5", "\"1\"", "null", "1e400", "18446744073709551616"] {
            let text = format!(r#"{{"t":"d","d":{{"r":{number},"a":"s","b":{{}}}}}}"#);
            check(&text, "'r' must be a whole number, 0 or more");
        }
        check(r#"{"t":"d","d":{"r":3,"a":5,"b":{}}}"#, "3: 'a' must be a string");
        check(r#"{"t":"d","d":{"r":3,"b":{}}}"#, "3: 'a' must be a string");
        check(r#"{"t":"d","d":{"r":3,"a":"p","b":"x"}}"#, "3: 'b' must be an object with each member once");
        check(r#"{"t":"d","d":{"r":3,"a":"p","b":{"p":1,"p":2}}}"#, "3: 'b' must be an object with each member once");
    }

    #[test]
    fn wrong_kinds_of_members_are_named() {
        let body = |member: &str| format!(r#"{{"t":"d","d":{{"r":1,"a":"q","b":{{{member}}}}}}}"#);
        for wrong in ["5", "null", "[]", "{}", "true"] {
            let text = body(&format!(r#""p":{wrong},"h":{wrong},"cred":{wrong}"#));
            let Ok(Message::Request(Request { body, .. })) = parse(&text) else { panic!("{text}") };
            assert_eq!(body.path().unwrap_err().field, "p");
            assert_eq!(body.hash().unwrap_err().field, "h");
            assert_eq!(body.credential().unwrap_err().field, "cred");
        }
        for wrong in ["-5", "null", "[]", "\"1\"", "1.5"] {
            let text = body(&format!(r#""t":{wrong},"noauth":{wrong}"#));
            let Ok(Message::Request(Request { body, .. })) = parse(&text) else { panic!("{text}") };
            assert_eq!(body.tag().unwrap_err().field, "t");
            assert_eq!(body.act_as().unwrap_err().field, "noauth");
        }
    }

    #[test]
    fn pieces_are_joined() {
        let mut joined = Pieces::default();
        let mut take = |frame: &str| joined.take(frame, 10).map(Option::unwrap_or_default);
        assert_eq!(take("0"), Ok(String::new()));
        assert_eq!(take("{\"a\":1}"), Ok("{\"a\":1}".into()));
        assert_eq!(take("2"), Ok(String::new()));
        assert_eq!(take("3"), Ok(String::new()));
        assert_eq!(take("45"), Ok("345".into()));
        assert_eq!(take("-1"), Ok("-1".into()));
        assert_eq!(take("1234567"), Ok("1234567".into()));
        assert_eq!(take(""), Ok(String::new()));
        assert_eq!(take("999999"), Ok(String::new()));
        assert_eq!(take("12345678901"), Err(TooLong));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let text = "a".repeat(PIECE_BYTES_MAX - 1) + "🦊" + &"é".repeat(PIECE_BYTES_MAX);
        let cut: Vec<&str> = pieces(&text).collect();
        assert_eq!(cut.concat(), text);
        assert!(cut.iter().all(|piece| piece.len() <= PIECE_BYTES_MAX));
        assert_eq!(cut[0].len(), PIECE_BYTES_MAX - 1);
        assert_eq!(pieces("short").count(), 1);
    }

    #[test]
    fn messages_are_written() {
        let check = |got: Vec<u8>, expected: &str| assert_eq!(String::from_utf8(got).unwrap(), expected);
        check(hello(5, "h:1", "s"), r#"{"t":"c","d":{"t":"h","d":{"ts":5,"v":"5","h":"h:1","s":"s"}}}"#);
        check(control_text("e", "a \"b\""), r#"{"t":"c","d":{"t":"e","d":"a \"b\""}}"#);
        check(control("a"), r#"{"t":"c","d":{"t":"a","d":{}}}"#);
        check(answer(1, "ok", b"\"\""), r#"{"t":"d","d":{"r":1,"b":{"s":"ok","d":""}}}"#);
        check(refusal(1, "invalid", "no"), r#"{"t":"d","d":{"r":1,"b":{"s":"invalid","d":"no"}}}"#);
        check(push(Push::Set, "a/b", b"1", None), r#"{"t":"d","d":{"a":"d","b":{"p":"a/b","d":1}}}"#);
        check(push(Push::Merge, "", b"{}", Some(3)), r#"{"t":"d","d":{"a":"m","b":{"p":"","d":{},"t":3}}}"#);
        check(cancel("a", None), r#"{"t":"d","d":{"a":"c","b":{"p":"a"}}}"#);
        check(cancel("a", Some("{\"l\":1}")), r#"{"t":"d","d":{"a":"c","b":{"p":"a","q":[{"l":1}]}}}"#);
        check(
            auth_revoked("expired_token", "Auth token is expired"),
            r#"{"t":"d","d":{"a":"ac","b":{"s":"expired_token","d":"Auth token is expired"}}}"#,
        );
    }
}
