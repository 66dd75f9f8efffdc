//! Secrets on their way to a tape: where they are in a message, and what stands there instead. A message is changed by splicing; what is no secret stays byte for byte.
//!
//! A secret is known by the name of its member, by a JSON pointer of the configuration, by its value (what the gateway itself hands to a server), or by its
//! shape (tokens of well-known kinds). A text that was masked once is masked wherever else the same message has it, such as in the text that mirrors
//! structured content. What is none of these is not masked: a secret in prose can't be known.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use regex::bytes::Regex;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// What stands in place of a secret.
pub const MASK: &str = "***";
/// Shortest text that is looked for wherever it may stand: shorter ones are found where nobody meant them.
const TEXT_BYTES_MIN: usize = 6;
/// Texts of one message that are looked for elsewhere in it.
const TEXTS_MAX: usize = 64;

/// Names of members that hold secrets, in small letters and without `-`, `_` and `.`.
const NAMES: [&str; 14] = [
    "authorization",
    "proxyauthorization",
    "cookie",
    "setcookie",
    "pwd",
    "passphrase",
    "token",
    "apitoken",
    "sessiontoken",
    "bearertoken",
    "csrftoken",
    "idtoken",
    "credential",
    "mcpsessionid",
];

/// Ends of such names: `GITHUB_TOKEN` is written with one, `progressToken` is none.
const NAME_ENDS: [&str; 9] =
    ["password", "passwd", "secret", "apikey", "secretkey", "privatekey", "accesskey", "accesstoken", "refreshtoken"];

/// Texts that are secrets by their shape. None of them holds a quote, so that what is spliced stays JSON.
static SHAPES: LazyLock<Regex> = LazyLock::new(|| {
    let shapes = [
        r"(?i:bearer)(?:\s|\\t)+[A-Za-z0-9._~+/=-]{12,}",
        r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?",
        r"sk-[A-Za-z0-9_-]{20,}",
        r"gh[pousr]_[A-Za-z0-9]{30,}",
        r"github_pat_[A-Za-z0-9_]{30,}",
        r"xox[abeprs]-[A-Za-z0-9-]{10,}",
        r"AKIA[0-9A-Z]{16}",
        r"AIza[0-9A-Za-z_-]{35}",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
        r#"(?i:[?&](?:[a-z_-]*token|key|api_?key|auth|password|secret|sig|signature)=)[^&\s"\\#]{6,}"#,
    ];
    Regex::new(&shapes.map(|shape| format!("(?:{shape})")).join("|")).expect("constant, and tested")
});

/// What a configuration adds to the masks that are always there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaskConfig {
    /// Names of members whose texts and numbers are secrets, wherever they stand; letters' case, `-`, `_` and `.` make no difference.
    pub names: Vec<String>,
    /// JSON pointers (RFC 6901) into messages, such as `/params/arguments/card`; `*` stands for any member or element.
    pub pointers: Vec<String>,
    /// Names of HTTP headers.
    pub headers: Vec<String>,
}

/// What is masked.
#[derive(Clone, Default)]
pub struct Masks {
    config: MaskConfig,
    names: Vec<String>,
    pointers: Vec<Vec<String>>,
    texts: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Masks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Its texts are the secrets.
        f.debug_struct("Masks").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Masks {
    /// The masks that are always there, and those of `config`.
    ///
    /// # Errors
    /// A sentence that names what is no JSON pointer.
    pub fn new(config: MaskConfig) -> Result<Self, String> {
        let pointers = config.pointers.iter().map(|pointer| {
            let rest = pointer.strip_prefix('/').ok_or_else(|| {
                format!(
                    "masks: {pointer:?} is no JSON pointer into a message; write one such as \"/params/arguments/card\""
                )
            })?;
            Ok(rest.split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect())
        });
        let pointers = pointers.collect::<Result<_, String>>()?;
        let names = config.names.iter().map(|name| plain(name)).collect();
        Ok(Self { config, names, pointers, texts: Vec::new() })
    }

    /// Also masks these texts wherever they stand: what the gateway hands to a server as secrets. Those shorter than six bytes are left out.
    #[must_use]
    pub fn with_texts(mut self, texts: impl IntoIterator<Item = String>) -> Self {
        texts.into_iter().for_each(|text| add_text(&mut self.texts, json_text(&text).as_bytes()));
        self
    }

    /// The masks that were configured.
    pub fn config(&self) -> &MaskConfig {
        &self.config
    }

    /// Whether the value of a header is a secret.
    pub fn hides_header(&self, name: &str) -> bool {
        self.hides_name(name) || self.config.headers.iter().any(|header| header.eq_ignore_ascii_case(name))
    }

    /// Whether a member of this name holds a secret.
    pub fn hides_name(&self, name: &str) -> bool {
        let is_one = |name: &str| NAMES.contains(&name) || NAME_ENDS.iter().any(|end| name.ends_with(end));
        let plain = plain(name);
        is_one(&plain)
            || name.to_ascii_lowercase().ends_with("_token")
            || name.to_ascii_lowercase().ends_with("-token")
            || self.names.contains(&plain)
    }

    /// `json`, which is valid, with its secrets masked; and how many there were.
    pub fn apply<'a>(&self, json: &'a [u8]) -> (Cow<'a, [u8]>, usize) {
        let mut scan = Scan::new(self, json, &self.texts);
        scan.run();
        if scan.found.is_empty() {
            return (Cow::Borrowed(json), 0);
        }
        let mut texts = std::mem::take(&mut scan.texts);
        if !texts.is_empty() {
            texts.extend_from_slice(&self.texts);
            scan = Scan::new(self, json, &texts);
            scan.run();
        }
        let mut out = Vec::with_capacity(json.len());
        let mut from = 0;
        for Found { at, with } in &scan.found {
            out.extend_from_slice(&json[from..at.start]);
            out.extend_from_slice(with);
            from = at.end;
        }
        out.extend_from_slice(&json[from..]);
        (Cow::Owned(out), scan.found.len())
    }

    /// A text that is no JSON, such as the value of a header, with what is a secret by shape or value masked.
    pub fn text(&self, text: &str) -> String {
        let json = json_text(text);
        let masked = mask_text(json.as_bytes(), &self.texts).unwrap_or(json.into_bytes());
        serde_json::from_slice(&[b"\"", &masked[..], b"\""].concat()).unwrap_or_else(|_| MASK.to_owned())
    }
}

/// A name as names are compared.
fn plain(name: &str) -> String {
    let kept = name.chars().filter(|letter| !matches!(letter, '-' | '_' | '.' | ' '));
    kept.map(|letter| letter.to_ascii_lowercase()).collect()
}

/// A text as it stands between the quotes of JSON.
fn json_text(text: &str) -> String {
    let json = serde_json::to_string(text).expect("a string can be written as JSON");
    json[1..json.len() - 1].to_owned()
}

fn add_text(texts: &mut Vec<Vec<u8>>, text: &[u8]) {
    if text.len() >= TEXT_BYTES_MIN && texts.len() < TEXTS_MAX && !texts.iter().any(|known| known == text) {
        texts.push(text.to_vec());
        // JSON inside of a text is escaped once more.
        if text.contains(&b'\\') {
            let twice = String::from_utf8_lossy(text).replace('\\', "\\\\").replace('"', "\\\"");
            texts.push(twice.into_bytes());
        }
    }
}

/// What is replaced, and by what.
struct Found {
    at: Range<usize>,
    with: Vec<u8>,
}

/// Where a scan is: in an object, behind the key at these bytes, or in an array, at this element.
enum Place {
    Key(Range<usize>),
    Element(usize),
}

/// Goes once through valid JSON, without recursion.
struct Scan<'a> {
    masks: &'a Masks,
    json: &'a [u8],
    known: &'a [Vec<u8>],
    at: usize,
    places: Vec<Place>,
    found: Vec<Found>,
    texts: Vec<Vec<u8>>,
}

impl<'a> Scan<'a> {
    fn new(masks: &'a Masks, json: &'a [u8], known: &'a [Vec<u8>]) -> Self {
        Self { masks, json, known, at: 0, places: Vec::new(), found: Vec::new(), texts: Vec::new() }
    }

    fn run(&mut self) {
        // Whether the next string of the innermost object is a key.
        let mut wants_key = false;
        while let Some(byte) = self.json.get(self.at) {
            match byte {
                b'{' if !self.is_hidden() => {
                    self.places.push(Place::Key(0..0));
                    wants_key = true;
                    self.at += 1;
                }
                b'[' if !self.is_hidden() => {
                    self.places.push(Place::Element(0));
                    wants_key = false;
                    self.at += 1;
                }
                b'{' | b'[' => self.hide_value(),
                b'}' | b']' => {
                    self.places.pop();
                    self.at += 1;
                }
                b',' => {
                    match self.places.last_mut() {
                        Some(Place::Element(index)) => *index += 1,
                        Some(Place::Key(_)) => wants_key = true,
                        None => {}
                    }
                    self.at += 1;
                }
                b'"' if wants_key => {
                    let end = string_end(self.json, self.at);
                    if let Some(place) = self.places.last_mut() {
                        *place = Place::Key(self.at + 1..end - 1);
                    }
                    self.look_into_text(end);
                    wants_key = false;
                }
                b'"' if self.is_hidden() || self.is_named_secret() => self.hide_value(),
                b'"' => {
                    let end = string_end(self.json, self.at);
                    self.look_into_text(end);
                }
                b'-' | b'0'..=b'9' if self.is_hidden() || self.is_named_secret() => self.hide_value(),
                b't' | b'f' | b'n' if self.is_hidden() => self.hide_value(),
                b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => self.at = value_end(self.json, self.at),
                // White space and colons.
                _ => self.at += 1,
            }
        }
    }

    /// Whether a pointer leads to the value that begins here.
    fn is_hidden(&self) -> bool {
        let depth = self.places.len();
        let mut pointers = self.masks.pointers.iter().filter(|pointer| pointer.len() == depth && depth > 0);
        pointers.any(|pointer| {
            pointer.iter().zip(&self.places).all(|(part, place)| {
                part == "*"
                    || match place {
                        Place::Element(index) => part.parse() == Ok(*index),
                        Place::Key(key) => self.name(key) == *part,
                    }
            })
        })
    }

    /// Whether the value that begins here is a secret by the name of its member; texts in an array are, by the name of the array.
    fn is_named_secret(&self) -> bool {
        let mut places = self.places.iter().rev();
        let named = match (places.next(), places.next()) {
            (Some(Place::Key(key)), _) | (Some(Place::Element(_)), Some(Place::Key(key))) => key,
            _ => return false,
        };
        self.masks.hides_name(&self.name(named))
    }

    fn name(&self, key: &Range<usize>) -> Cow<'a, str> {
        let text = &self.json[key.clone()];
        if text.contains(&b'\\') {
            let quoted = &self.json[key.start - 1..key.end + 1];
            return Cow::Owned(serde_json::from_slice(quoted).unwrap_or_default());
        }
        String::from_utf8_lossy(text)
    }

    /// Masks the whole value that begins here.
    fn hide_value(&mut self) {
        let at = self.at..value_end(self.json, self.at);
        let value = &self.json[at.clone()];
        if value.first() == Some(&b'"') {
            add_text(&mut self.texts, &value[1..value.len() - 1]);
        }
        self.at = at.end;
        self.found.push(Found { at, with: format!("\"{MASK}\"").into_bytes() });
    }

    /// Masks what is a secret by shape or value in the string that ends at `end`.
    fn look_into_text(&mut self, end: usize) {
        let at = self.at + 1..end - 1;
        self.at = end;
        if let Some(with) = mask_text(&self.json[at.clone()], self.known) {
            self.found.push(Found { at, with });
        }
    }
}

/// What a text as it stands in JSON becomes; `None` where it has no secret.
fn mask_text(text: &[u8], known: &[Vec<u8>]) -> Option<Vec<u8>> {
    let shapes = SHAPES.find_iter(text).map(|found| found.range());
    let texts = known
        .iter()
        .flat_map(|secret| memchr::memmem::find_iter(text, secret).map(|at| at..at + secret.len()).collect::<Vec<_>>());
    let mut ranges: Vec<Range<usize>> = shapes.chain(texts).collect();
    if ranges.is_empty() {
        return None;
    }
    ranges.sort_by_key(|range| range.start);
    let mut out = Vec::with_capacity(text.len());
    let mut from = 0;
    for range in ranges {
        if range.end <= from {
            continue;
        }
        // A secret that begins with the letter of an escape: the backslash goes with it.
        let slashes = text[..range.start].iter().rev().take_while(|byte| **byte == b'\\').count();
        let start = (range.start - slashes % 2).max(from);
        out.extend_from_slice(&text[from..start]);
        out.extend_from_slice(MASK.as_bytes());
        from = range.end;
    }
    out.extend_from_slice(&text[from..]);
    // An escape may have been cut in a way that is not thought of above.
    let is_text = serde_json::from_slice::<IgnoredAny>(&[b"\"", &out[..], b"\""].concat()).is_ok();
    Some(if is_text { out } else { MASK.as_bytes().to_vec() })
}

/// Where the string that begins at `at` ends.
fn string_end(json: &[u8], at: usize) -> usize {
    let mut from = at + 1;
    loop {
        match json.get(from..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
            Some(found) if json[from + found] == b'\\' => from += found + 2,
            Some(found) => return from + found + 1,
            None => return json.len(),
        }
    }
}

/// Where the value that begins at `at` ends.
fn value_end(json: &[u8], at: usize) -> usize {
    let mut depth = 0usize;
    let mut from = at;
    loop {
        match json.get(from) {
            None => return json.len(),
            Some(b'"') => from = string_end(json, from),
            Some(b'{' | b'[') => {
                depth += 1;
                from += 1;
                continue;
            }
            Some(b'}' | b']') => {
                depth = depth.saturating_sub(1);
                from += 1;
            }
            Some(_) if depth == 0 => {
                let rest = &json[from..];
                let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
                return from + rest.iter().position(is_end).unwrap_or(rest.len());
            }
            Some(_) => {
                from += 1;
                continue;
            }
        }
        if depth == 0 {
            return from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks(config: &str) -> Masks {
        Masks::new(serde_json::from_str(config).unwrap()).unwrap()
    }

    #[test]
    fn secrets_are_known_by_name_place_value_and_shape() {
        let masks = masks(r#"{"names":["card-number"],"pointers":["/params/arguments/pin","/a/*/b","/k~1/0"]}"#)
            .with_texts(["from the environment".to_owned(), "short".to_owned()]);
        let check = |json: &str, expected: &str| {
            let (masked, count) = masks.apply(json.as_bytes());
            assert_eq!(String::from_utf8_lossy(&masked), expected, "{json}");
            assert_eq!(count > 0, json != expected, "{json}");
            serde_json::from_slice::<serde_json::Value>(&masked).unwrap();
        };
        // By name.
        check(r#"{"password":"a","x":1}"#, r#"{"password":"***","x":1}"#);
        check(r#"{ "API_KEY" : 12.5e3 , "x":1}"#, r#"{ "API_KEY" : "***" , "x":1}"#);
        check(r#"{"p\u0061ssword":"a"}"#, r#"{"p\u0061ssword":"***"}"#);
        check(r#"{"GITHUB_TOKEN":"a","clientSecret":"b"}"#, r#"{"GITHUB_TOKEN":"***","clientSecret":"***"}"#);
        check(r#"{"Card_Number":"a"}"#, r#"{"Card_Number":"***"}"#);
        check(r#"{"cookie":["a","b",{"c":"d"}]}"#, r#"{"cookie":["***","***",{"c":"d"}]}"#);
        // What is no secret, though it has such a name: a schema, tokens of the protocol.
        check(r#"{"password":{"type":"string"}}"#, r#"{"password":{"type":"string"}}"#);
        check(r#"{"password":true,"token":null}"#, r#"{"password":true,"token":null}"#);
        check(
            r#"{"progressToken":"a","nextToken":"b","tokens":5}"#,
            r#"{"progressToken":"a","nextToken":"b","tokens":5}"#,
        );
        // By place.
        check(
            r#"{"params":{"arguments":{"pin":[1,{"a":2}],"b":3}}}"#,
            r#"{"params":{"arguments":{"pin":"***","b":3}}}"#,
        );
        check(r#"{"params":{"arguments":{"pin":null}}}"#, r#"{"params":{"arguments":{"pin":"***"}}}"#);
        check(r#"{"a":[{"b":"secret1"},{"b":2,"c":3}]}"#, r#"{"a":[{"b":"***"},{"b":"***","c":3}]}"#);
        check(r#"{"k/":[true,false]}"#, r#"{"k/":["***",false]}"#);
        check(r#"{"pin":1}"#, r#"{"pin":1}"#);
        // By value.
        check(r#"{"a":"say from the environment!","b":"short"}"#, r#"{"a":"say ***!","b":"short"}"#);
        check(r#"{"from the environment":1}"#, r#"{"***":1}"#);
        // By shape.
        check(r#"{"a":"Authorization: Bearer abc.def-0123456789"}"#, r#"{"a":"Authorization: ***"}"#);
        check(r#"{"a":"x\neyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc y"}"#, r#"{"a":"x\n*** y"}"#);
        check(r#"{"a":"https://h/?token=abcdef123&b=1"}"#, r#"{"a":"https://h/***&b=1"}"#);
        check(r#"{"a":"-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\n"}"#, r#"{"a":"***\n"}"#);
        // Nothing.
        check(r#"{"a":[],"b":{},"c":"","d":-1.5e+3,"e":[[{}]]}"#, r#"{"a":[],"b":{},"c":"","d":-1.5e+3,"e":[[{}]]}"#);
        check("[]", "[]");
        check("\"a\"", "\"a\"");
    }

    #[test]
    fn what_was_masked_once_is_masked_wherever_it_stands() {
        let check = |json: &str, expected: &str| {
            let (masked, _) = Masks::default().apply(json.as_bytes());
            assert_eq!(String::from_utf8_lossy(&masked), expected, "{json}");
            serde_json::from_slice::<serde_json::Value>(&masked).unwrap();
        };
        check(
            r#"{"content":[{"text":"{\"token\":\"hunter22\"}"}],"structuredContent":{"token":"hunter22"}}"#,
            r#"{"content":[{"text":"{\"token\":\"***\"}"}],"structuredContent":{"token":"***"}}"#,
        );
        check(
            r#"{"content":[{"text":"{\"token\":\"a\\\"hunter22\"}"}],"structuredContent":{"token":"a\"hunter22"}}"#,
            r#"{"content":[{"text":"{\"token\":\"***\"}"}],"structuredContent":{"token":"***"}}"#,
        );
        // Only in texts: a number with the same digits stays a number.
        check(r#"{"token":"12345678","a":9123456789}"#, r#"{"token":"***","a":9123456789}"#);
        // Text that begins inside of an escape.
        check(r#"{"token":"n1234567","a":"x\n1234567"}"#, r#"{"token":"***","a":"x***"}"#);
        check(r#"{"token":"0041abc","a":"x\u0041abc"}"#, r#"{"token":"***","a":"***"}"#);
    }

    #[test]
    fn deep_json_is_no_trouble() {
        let deep = format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20));
        assert_eq!(Masks::default().apply(deep.as_bytes()).1, 0);
        let hidden = masks(r#"{"pointers":["/0/0"]}"#);
        assert_eq!(&*hidden.apply(deep.as_bytes()).0, br#"[["***"]]"#);
    }

    #[test]
    fn headers_are_masked_by_name_and_shape() {
        let masks = masks(r#"{"headers":["X-Tenant"]}"#);
        let hidden = ["Authorization", "cookie", "x-api-key", "x-tenant", "Mcp-Session-Id", "x-goog-access-token"];
        assert!(hidden.iter().all(|name| masks.hides_header(name)));
        assert!(["host", "accept", "mcp-method"].iter().all(|name| !masks.hides_header(name)));
        assert_eq!(masks.text("a \"Bearer abcdefghijklmnop\""), "a \"***\"");
    }

    #[test]
    fn what_is_no_pointer_is_named() {
        let config = MaskConfig { pointers: vec!["a/b".into()], ..MaskConfig::default() };
        assert!(Masks::new(config).unwrap_err().contains("\"a/b\""));
    }
}
