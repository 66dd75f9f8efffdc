//! Long polling as browsers do it where a WebSocket fails (firebase-rtdb §8): pieces of messages in the query strings
//! of requests, scripts as answers. What the messages say is [`crate::firebase`]'s, which request is whose the door's.
//!
//! An answer runs in a page, so nothing that a client sent is put into one as it came: identifiers are checked, and a
//! message is JSON, which is written so that a script reads the same value.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use memchr::memmem;
use serde_json::value::RawValue;

/// The media type of all answers but [`DISCONNECT_PAGE`].
pub const SCRIPT: &str = "application/javascript; charset=utf-8";

/// How far ahead of the next piece one may be. A client has two requests under way, and a request of two kilobytes
/// holds a few dozen pieces at most.
const AHEAD_MAX: u64 = 1_024;

/// The client's base64: `-` and `_`, and up to two `.` where others write `=`, which are cut off before.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// Pieces that are no message; nothing after them can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Numbers that nobody can have got to yet.
    #[error("a piece is too far ahead of those that came")]
    Ahead,
    /// A message of no pieces, or of another number than its first one said.
    #[error("the pieces of a message disagree about their number")]
    Count,
    /// More bytes than may be held.
    #[error("the message is too long")]
    TooLong,
    /// Not base64, or not UTF-8 in it.
    #[error("a message is not text in base64")]
    NotText,
}

/// A piece of a message, as a request brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Its number in the conversation, from 0.
    pub number: u64,
    /// How many pieces its message has.
    pub of: u64,
    /// Base64.
    pub data: &'a str,
}

/// Puts pieces in order and messages together.
#[derive(Debug, Default)]
pub struct Pieces {
    /// The piece that is to come.
    next: u64,
    /// Those that came before it.
    early: BTreeMap<u64, (u64, Box<str>)>,
    /// Of the message that is under way: how many pieces it has, how many are to come, and those that came.
    message: (u64, u64, String),
    held: usize,
}

impl Pieces {
    /// Takes a piece, and adds what it completes to `messages`. At most `bytes_max` bytes are held of messages that are
    /// not complete. One that came before is ignored.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn take(&mut self, piece: Piece<'_>, bytes_max: usize, messages: &mut Vec<String>) -> Result<(), Broken> {
        let Piece { number, of, data } = piece;
        if of == 0 {
            return Err(Broken::Count);
        }
        if number < self.next || self.early.contains_key(&number) {
            return Ok(());
        }
        if number - self.next > AHEAD_MAX {
            return Err(Broken::Ahead);
        }
        if data.len() > bytes_max.saturating_sub(self.held) {
            return Err(Broken::TooLong);
        }
        self.held += data.len();
        if number > self.next {
            self.early.insert(number, (of, data.into()));
            return Ok(());
        }
        messages.extend(self.append(of, data)?);
        while let Some((of, data)) = self.early.remove(&self.next) {
            messages.extend(self.append(of, &data)?);
        }
        Ok(())
    }

    /// Bytes held of messages that are not complete.
    pub fn held(&self) -> usize {
        self.held
    }

    fn append(&mut self, of: u64, data: &str) -> Result<Option<String>, Broken> {
        let (all, left, text) = &mut self.message;
        if *left == 0 {
            (*all, *left) = (of, of);
        } else if *all != of {
            return Err(Broken::Count);
        }
        self.next = self.next.checked_add(1).ok_or(Broken::Ahead)?;
        *left -= 1;
        text.push_str(data);
        if *left > 0 {
            return Ok(None);
        }
        let text = std::mem::take(text);
        self.held -= text.len();
        let padding = text.bytes().rev().take(2).take_while(|byte| *byte == b'.').count();
        let bytes = BASE64.decode(&text[..text.len() - padding]).map_err(|_| Broken::NotText)?;
        String::from_utf8(bytes).map(Some).map_err(|_| Broken::NotText)
    }
}

/// The start of the answer to the first request: makes the functions that all further answers call, which call those of
/// the page that has the number `page`, and tells the client what to name its requests by. [`response`] 0 follows.
pub fn start(page: Option<u32>, id: &str, password: &str) -> Vec<u8> {
    let page = page.map(|page| page.to_string()).unwrap_or_default();
    let mut out = Vec::with_capacity(512);
    for name in ["pLPCommand", "pRTLPCB"] {
        let function = format!(
            "function {name}(){{var w=parent.window,f=\"{name}{page}\";if(w&&w[f])w[f].apply(null,arguments);}}\n"
        );
        out.extend_from_slice(function.as_bytes());
    }
    let known = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    assert!(known(id) && known(password), "they are ours");
    out.extend_from_slice(format!("pLPCommand('start','{id}','{password}');\n").as_bytes());
    out
}

/// Response `number` with `messages`, each a JSON text.
pub fn response<'a>(number: u64, messages: impl IntoIterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("pRTLPCB({number},[").as_bytes());
    for (index, message) in messages.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        expression(message, out);
    }
    out.extend_from_slice(b"]);\n");
}

/// No further responses come: after the last one, if there was any, the client is to close.
pub fn close(last: Option<u64>) -> Vec<u8> {
    match last {
        Some(last) => format!("pLPCommand('close',{last});\n").into_bytes(),
        None => b"pLPCommand('close','');\n".to_vec(),
    }
}

/// JSON as an expression of a script. Two things differ: a member `__proto__` would be taken for the object's prototype,
/// and older browsers end a line at U+2028 and U+2029, inside a string, too.
fn expression(json: &[u8], out: &mut Vec<u8>) {
    if memmem::find(json, b"__proto__").is_some() {
        let text = std::str::from_utf8(json).expect("messages are text");
        let string = serde_json::to_vec(text).expect("a string is JSON");
        out.extend_from_slice(b"JSON.parse(");
        escape_separators(&string, out);
        out.push(b')');
    } else {
        escape_separators(json, out);
    }
}

fn escape_separators(mut json: &[u8], out: &mut Vec<u8>) {
    const SEPARATORS: &[u8] = b"\xe2\x80";
    while let Some(at) = memmem::find(json, SEPARATORS) {
        let escaped: &[u8] = match json.get(at + 2) {
            Some(0xa8) => b"\\u2028",
            Some(0xa9) => b"\\u2029",
            _ => &json[at..at + 2],
        };
        out.extend_from_slice(&json[..at]);
        out.extend_from_slice(escaped);
        json = &json[at + if escaped.len() == 2 { 2 } else { 3 }..];
    }
    out.extend_from_slice(json);
}

/// The page in a frame of the client's: when the frame goes, because its page does or because the client is done, it
/// tells the server. It says nothing a client sent; what it is about stands in its own address.
pub const DISCONNECT_PAGE: &str = "<!doctype html><meta charset=\"utf-8\"><title>.</title><script>
(function () {
  var url = location.href.replace(/([?&])dframe=t(?=&|$)/, '$1disconn=t'), told = false;
  function tell() {
    if (told) return;
    told = true;
    if (navigator.sendBeacon && navigator.sendBeacon(url)) return;
    var request = new XMLHttpRequest();
    request.open('GET', url, false);
    request.send();
  }
  addEventListener('pagehide', tell);
  addEventListener('unload', tell);
})();
</script>
";

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// A new conversation.
    Start {
        /// The page's number, for the names of its functions.
        page: Option<u32>,
    },
    /// News, and maybe pieces of messages with it.
    Poll {
        /// Whose.
        who: Who<'a>,
        /// In the order of the request.
        pieces: Vec<Piece<'a>>,
    },
    /// [`DISCONNECT_PAGE`].
    Page,
    /// The client has left.
    Disconnect(Who<'a>),
}

/// Names a conversation, and proves that it is the client's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who<'a> {
    /// Its name.
    pub id: &'a str,
    /// Its password.
    pub password: &'a str,
}

/// A query string that is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Neither a start nor a poll.
    #[error("a long-polling request has 'start=t', or 'id' and 'pw'")]
    Kind,
    /// A page is known by its number only.
    #[error("'cb' must be a whole number")]
    Page,
    /// Members that don't fit together.
    #[error("pieces are numbered from 0, each with 'seg', 'ts' and 'd'")]
    Pieces,
}

impl<'a> Request<'a> {
    /// Reads a query string. What it does not know it ignores; nothing it needs is ever percent-encoded by a client.
    ///
    /// # Errors
    /// [`Invalid`].
    pub fn parse(query: &'a str) -> Result<Self, Invalid> {
        let (mut start, mut page, mut disconnect, mut frame) = (false, None, false, false);
        let (mut id, mut password) = (None, None);
        let mut pieces = Vec::<(Option<u64>, Option<u64>, Option<&str>)>::new();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "start" => start = true,
                "cb" => page = Some(value.parse().map_err(|_| Invalid::Page)?),
                "id" => id = Some(value),
                "pw" => password = Some(value),
                "disconn" => disconnect = true,
                "dframe" => frame = true,
                _ => {
                    let Some((name, index)) = numbered(name) else { continue };
                    // In order, so that there is no gap.
                    if index == pieces.len() {
                        pieces.push((None, None, None));
                    }
                    let piece = pieces.get_mut(index).ok_or(Invalid::Pieces)?;
                    match name {
                        "seg" => piece.0 = Some(value.parse().map_err(|_| Invalid::Pieces)?),
                        "ts" => piece.1 = Some(value.parse().map_err(|_| Invalid::Pieces)?),
                        _ => piece.2 = Some(value),
                    }
                }
            }
        }
        if start {
            return Ok(Self::Start { page });
        }
        let (Some(id), Some(password)) = (id, password) else { return Err(Invalid::Kind) };
        let who = Who { id, password };
        if frame {
            return Ok(Self::Page);
        }
        if disconnect {
            return Ok(Self::Disconnect(who));
        }
        let piece = |(number, of, data)| Some(Piece { number: number?, of: of?, data: data? });
        let pieces = pieces.into_iter().map(piece).collect::<Option<_>>().ok_or(Invalid::Pieces)?;
        Ok(Self::Poll { who, pieces })
    }
}

/// `seg12` is piece 12's `seg`.
fn numbered(name: &str) -> Option<(&str, usize)> {
    let (name, index) = name.split_at(name.find(|c: char| c.is_ascii_digit())?);
    (matches!(name, "seg" | "ts" | "d")).then_some((name, index.parse().ok()?))
}

/// Is `message` the client's word that its next messages come on the other transport (§8.3)?
pub fn ends_transmission(message: &str) -> bool {
    // Only a short one can be, so a long one is read once.
    message.len() <= 128
        && serde_json::from_str::<Control<'_>>(message).is_ok_and(|control| control.t == "c" && control.d.t == "n")
}

#[derive(serde::Deserialize)]
struct Control<'a> {
    t: &'a str,
    #[serde(borrow)]
    d: ControlBody<'a>,
}

#[derive(serde::Deserialize)]
struct ControlBody<'a> {
    t: &'a str,
    #[serde(borrow, default)]
    #[expect(dead_code, reason = "it may be anything")]
    d: Option<&'a RawValue>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(text: &str) -> String {
        let mut data = BASE64.encode(text).trim_end_matches('=').to_owned();
        while !data.len().is_multiple_of(4) {
            data.push('.');
        }
        data
    }

    /// Pieces of `(number, of, data)` give `messages`.
    fn check(pieces: &[(u64, u64, &str)], expected: Result<&[&str], Broken>) {
        let (mut state, mut messages) = (Pieces::default(), Vec::new());
        let mut take = || {
            pieces
                .iter()
                .try_for_each(|&(number, of, data)| state.take(Piece { number, of, data }, 4_000, &mut messages))
        };
        let taken = take();
        match expected {
            Ok(expected) => {
                assert_eq!(taken, Ok(()), "{pieces:?}");
                assert_eq!(messages, expected, "{pieces:?}");
            }
            Err(error) => assert_eq!(taken, Err(error), "{pieces:?}"),
        }
    }

    #[test]
    fn pieces_become_messages_in_order() {
        let (hello, fox) = (encode("hello"), encode("ein Fuchs 🦊 "));
        assert_eq!(hello, "aGVsbG8.");
        check(&[(0, 1, &hello)], Ok(&["hello"]));
        check(&[(1, 1, &fox), (0, 1, &hello)], Ok(&["hello", "ein Fuchs 🦊 "]));
        check(&[(0, 1, &hello), (0, 1, &fox), (1, 1, &fox), (1, 1, "!")], Ok(&["hello", "ein Fuchs 🦊 "]));
        let (a, bc) = fox.split_at(5);
        let (b, c) = bc.split_at(6);
        check(&[(3, 1, &hello), (2, 3, c), (0, 3, a), (2, 3, "!"), (1, 3, b)], Ok(&["ein Fuchs 🦊 ", "hello"]));
        check(&[(0, 2, a)], Ok(&[]));
        check(&[(0, 1, "")], Ok(&[""]));
    }

    #[test]
    fn pieces_that_are_none_are_told() {
        let long = "A".repeat(3_000);
        check(&[(0, 0, "")], Err(Broken::Count));
        check(&[(0, 2, "AA"), (1, 3, "AA")], Err(Broken::Count));
        check(&[(1, 1, "AA"), (0, 2, "AA")], Err(Broken::Count));
        check(&[(AHEAD_MAX + 1, 1, "AA")], Err(Broken::Ahead));
        check(&[(u64::MAX, 1, "AA")], Err(Broken::Ahead));
        check(&[(1, 1, &long), (2, 1, &long)], Err(Broken::TooLong));
        check(&[(0, u64::MAX, &long), (1, u64::MAX, &long)], Err(Broken::TooLong));
        for wrong in ["A", "=", "....", "AA==", "A+/A", "ab c", "é", "%41%41", "_____w.."] {
            check(&[(0, 1, wrong)], Err(Broken::NotText));
        }
    }

    #[test]
    fn what_is_held_is_counted_and_given_back() {
        let (mut state, mut messages) = (Pieces::default(), Vec::new());
        let mut take = |number, of, data, held| {
            state.take(Piece { number, of, data }, 100, &mut messages).unwrap();
            assert_eq!(state.held(), held);
        };
        take(2, 1, "AAAA", 4);
        take(2, 1, "AAAAAAAA", 4);
        take(0, 2, "AAAA", 8);
        take(1, 2, "AAAA", 0);
        take(1, 2, "AAAA", 0);
        assert_eq!(messages, ["\0\0\0\0\0\0", "\0\0\0"]);
    }

    #[test]
    fn answers_are_scripts() {
        fn check(messages: &[&str], expected: &str) {
            let mut out = Vec::new();
            response(7, messages.iter().map(|message| message.as_bytes()), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("pRTLPCB(7,[{expected}]);\n"));
        }
        check(&[], "");
        check(&["1", "{\"a\":[]}"], "1,{\"a\":[]}");
        check(&["{\"a\":\"</script>'\\\"\"}"], "{\"a\":\"</script>'\\\"\"}");
        check(&["\"\u{2028}x\u{2029}“\u{2027}\""], "\"\\u2028x\\u2029“\u{2027}\"");
        check(&["{\"__proto__\":1}"], "JSON.parse(\"{\\\"__proto__\\\":1}\")");
        assert_eq!(close(Some(7)), b"pLPCommand('close',7);\n");
        assert_eq!(close(None), b"pLPCommand('close','');\n");
        let text = String::from_utf8(start(Some(42), "ab-1", "c_d")).unwrap();
        assert!(text.contains("\"pLPCommand42\"") && text.contains("\"pRTLPCB42\""), "{text}");
        assert!(text.ends_with("pLPCommand('start','ab-1','c_d');\n"), "{text}");
    }

    #[test]
    fn requests_are_read() {
        fn check(query: &str, expected: Result<Request<'_>, Invalid>) {
            assert_eq!(Request::parse(query), expected, "{query}");
        }
        let who = Who { id: "a", password: "b" };
        check("start=t&ser=12&cb=3&v=5&ns=x", Ok(Request::Start { page: Some(3) }));
        check("v=5&start=t", Ok(Request::Start { page: None }));
        check("start=t&cb=alert(1)", Err(Invalid::Page));
        check("start=t&cb=", Err(Invalid::Page));
        check("start=t&cb=99999999999", Err(Invalid::Page));
        check("id=a&pw=b&ser=1", Ok(Request::Poll { who, pieces: vec![] }));
        check("dframe=t&id=a&pw=b", Ok(Request::Page));
        check("disconn=t&id=a&pw=b", Ok(Request::Disconnect(who)));
        check("", Err(Invalid::Kind));
        check("id=a", Err(Invalid::Kind));
        check("disconn=t&pw=b", Err(Invalid::Kind));
        let piece = |number, data| Piece { number, of: 2, data };
        check(
            "id=a&pw=b&seg0=8&ts0=2&d0=AA..&d1=&seg1=9&ts1=2&domain=x&seg=1",
            Ok(Request::Poll { who, pieces: vec![piece(8, "AA.."), piece(9, "")] }),
        );
        for wrong in
            ["seg1=0", "seg0=1&ts0=1", "seg0=x&ts0=1&d0=", "seg0=-1&ts0=1&d0=", "d99999999999999999999=", "d7="]
        {
            let query = format!("id=a&pw=b&{wrong}");
            let expected = match wrong {
                // No number at all.
                "d99999999999999999999=" => Ok(Request::Poll { who, pieces: vec![] }),
                _ => Err(Invalid::Pieces),
            };
            check(&query, expected);
        }
    }

    #[test]
    fn the_last_message_of_a_transport_is_recognised() {
        fn check(message: &str, expected: bool) {
            assert_eq!(ends_transmission(message), expected, "{message}");
        }
        check("{\"t\":\"c\",\"d\":{\"t\":\"n\",\"d\":{}}}", true);
        check("{ \"d\" : {\"d\":null,\"t\":\"n\"}, \"t\":\"c\" }", true);
        check("{\"t\":\"c\",\"d\":{\"t\":\"n\"}}", true);
        check("{\"t\":\"d\",\"d\":{\"t\":\"n\",\"d\":{}}}", false);
        check("{\"t\":\"c\",\"d\":{\"t\":\"p\",\"d\":{}}}", false);
        check("n", false);
        check("", false);
    }
}
