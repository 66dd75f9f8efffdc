//! The reader of a rules text: JSON with comments, where every key and string knows its place.
//!
//! As on the hosted service, strings may go over several lines and a list may end with a comma. What the
//! members mean is not read here.

use std::ops::Range;

use super::error::Problem;
use super::limits::{RULES_BYTES_MAX, RULES_DEPTH_MAX};
use crate::json::write_json_string;

/// A string of the text, its escapes replaced.
#[derive(Clone, Debug, Default)]
pub(super) struct Text {
    pub(super) text: String,
    /// With its quotes.
    pub(super) span: Range<usize>,
    /// Where byte positions of `text` and of the source part: at position `.0` and after, until the next
    /// entry, the source is at `.1` and as far after. The first entry is for position 0.
    breaks: Vec<(usize, usize)>,
}

impl Text {
    /// A word that stands in the source as it is.
    pub(super) fn word(text: String, span: Range<usize>) -> Text {
        let breaks = vec![(0, span.start)];
        Text { text, span, breaks }
    }

    /// Where a range of `text` is in the source.
    pub(super) fn source(&self, range: Range<usize>) -> Range<usize> {
        let start = self.source_at(range.start);
        start..self.source_at(range.end).max(start)
    }

    fn source_at(&self, at: usize) -> usize {
        let index = self.breaks.partition_point(|entry| entry.0 <= at);
        let Some(&(position, source)) = index.checked_sub(1).and_then(|index| self.breaks.get(index)) else {
            return self.span.start;
        };
        (source + (at - position)).min(self.span.end)
    }
}

/// A value of the text.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) span: Range<usize>,
    pub(super) value: Value,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number,
    String(Text),
    Array(Vec<Node>),
    Object(Vec<(Text, Node)>),
}

/// Reads a whole text.
pub(super) fn read(text: &str) -> Result<Node, Problem> {
    if text.len() > RULES_BYTES_MAX {
        return Err(Problem::new(0..0, format!("the rules are longer than {RULES_BYTES_MAX} bytes")));
    }
    // A byte order mark, as some editors leave it.
    let at = if text.starts_with('\u{FEFF}') { '\u{FEFF}'.len_utf8() } else { 0 };
    let mut reader = Reader { text, at };
    let node = reader.value(0)?;
    reader.blanks()?;
    if reader.at < text.len() {
        return Err(reader.unexpected("the end of the text"));
    }
    Ok(node)
}

/// A text that can be read, as strict JSON.
pub(super) fn strict(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    if let Ok(node) = read(text) {
        write(&node.value, &mut out);
    }
    String::from_utf8(out).expect("it is made of whole texts")
}

fn write(value: &Value, out: &mut Vec<u8>) {
    let mut separator = None;
    match value {
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        // No rules that compile have numbers.
        Value::Null | Value::Number => out.extend_from_slice(b"null"),
        Value::String(text) => write_json_string(&text.text, out),
        Value::Array(items) => {
            out.push(b'[');
            for item in items {
                out.extend(separator.replace(b','));
                write(&item.value, out);
            }
            out.push(b']');
        }
        Value::Object(members) => {
            out.push(b'{');
            for (key, member) in members {
                out.extend(separator.replace(b','));
                write_json_string(&key.text, out);
                out.push(b':');
                write(&member.value, out);
            }
            out.push(b'}');
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Takes `byte` if it is next.
    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn unexpected(&self, wanted: &str) -> Problem {
        match self.text[self.at..].chars().next() {
            None => Problem::new(self.at..self.at, format!("expected {wanted}, but the text ends here")),
            Some(found) => {
                Problem::new(self.at..self.at + found.len_utf8(), format!("expected {wanted}, found {found:?}"))
            }
        }
    }

    /// Skips white space and comments.
    fn blanks(&mut self) -> Result<(), Problem> {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                Some(b'/') => self.comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn comment(&mut self) -> Result<(), Problem> {
        let rest = &self.text[self.at..];
        if rest.starts_with("//") {
            self.at += memchr::memchr(b'\n', rest.as_bytes()).unwrap_or(rest.len());
            return Ok(());
        }
        if !rest.starts_with("/*") {
            return Err(self.unexpected("a value"));
        }
        let Some(end) = rest[2..].find("*/") else {
            return Err(Problem::new(self.at..self.at + 2, "this comment is never closed").help("close it with */"));
        };
        self.at += end + 4;
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Node, Problem> {
        self.blanks()?;
        let start = self.at;
        if depth > RULES_DEPTH_MAX {
            return Err(Problem::new(start..start + 1, format!("the rules are deeper than {RULES_DEPTH_MAX} levels")));
        }
        let value = match self.peek() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.array(depth)?,
            Some(b'"') => Value::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ => self.word()?,
        };
        Ok(Node { span: start..self.at, value })
    }

    fn word(&mut self) -> Result<Value, Problem> {
        let rest = &self.text[self.at..];
        for (word, value) in [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)] {
            if rest.starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.unexpected("a value"))
    }

    /// Numbers have no use in rules, so that one is only skipped.
    fn number(&mut self) -> Result<Value, Problem> {
        let start = self.at;
        while matches!(self.peek(), Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
            self.at += 1;
        }
        match self.text[start..self.at].parse::<f64>() {
            Ok(_) => Ok(Value::Number),
            Err(_) => Err(Problem::new(start..self.at, "this is no number")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, Problem> {
        self.at += 1;
        let mut members = Vec::new();
        self.blanks()?;
        if self.take(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.blanks()?;
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("a key in double quotes"));
            }
            let key = self.string()?;
            self.blanks()?;
            if !self.take(b':') {
                return Err(self.unexpected("\":\""));
            }
            members.push((key, self.value(depth + 1)?));
            self.blanks()?;
            if self.take(b'}') {
                return Ok(Value::Object(members));
            }
            if !self.take(b',') {
                return Err(self.unexpected("\",\" or \"}\""));
            }
            self.blanks()?;
            if self.take(b'}') {
                return Ok(Value::Object(members));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, Problem> {
        self.at += 1;
        let mut items = Vec::new();
        self.blanks()?;
        if self.take(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.blanks()?;
            if self.take(b']') {
                return Ok(Value::Array(items));
            }
            if !self.take(b',') {
                return Err(self.unexpected("\",\" or \"]\""));
            }
            self.blanks()?;
            if self.take(b']') {
                return Ok(Value::Array(items));
            }
        }
    }

    fn string(&mut self) -> Result<Text, Problem> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        let mut breaks = vec![(0, self.at)];
        loop {
            let rest = &self.text[self.at..];
            let Some(special) = memchr::memchr2(b'"', b'\\', rest.as_bytes()) else {
                return Err(Problem::new(start..start + 1, "this string is never closed"));
            };
            text.push_str(&rest[..special]);
            self.at += special;
            if self.take(b'"') {
                breaks.push((text.len(), self.at - 1));
                return Ok(Text { text, span: start..self.at, breaks });
            }
            breaks.push((text.len(), self.at));
            text.push(self.escape()?);
            breaks.push((text.len(), self.at));
        }
    }

    /// Reads an escape, at its backslash.
    fn escape(&mut self) -> Result<char, Problem> {
        let start = self.at;
        self.at += 1;
        let wrong =
            |end: usize| Problem::new(start..end, "this is no escape of JSON").help("write \\\\ for a backslash");
        let Some(letter) = self.text[self.at..].chars().next() else { return Err(wrong(self.at)) };
        self.at += letter.len_utf8();
        Ok(match letter {
            '"' | '\\' | '/' => letter,
            'b' => '\u{8}',
            'f' => '\u{C}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let first = self.hex().ok_or_else(|| wrong(self.at))?;
                if !(0xD800..0xDC00).contains(&first) {
                    return char::from_u32(first).ok_or_else(|| wrong(self.at));
                }
                let second = self.text[self.at..].starts_with("\\u").then(|| {
                    self.at += 2;
                    self.hex()
                });
                let second = second.flatten().filter(|unit| (0xDC00..0xE000).contains(unit));
                let second = second.ok_or_else(|| wrong(self.at))?;
                let character = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                char::from_u32(character).ok_or_else(|| wrong(self.at))?
            }
            _ => return Err(wrong(self.at)),
        })
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(), (usize, &str)>) {
        let got = read(text).map(|_| ()).map_err(|problem| (problem.span.start, problem.message));
        match (got, expected) {
            (Ok(()), Ok(())) => {}
            (Err((at, message)), Err((place, part))) if at == place && message.contains(part) => {}
            (got, _) => panic!("{text}: {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn json_with_comments() {
        for text in [
            "{}",
            " // all\n{\"rules\": /* open */ {\".read\": \"auth != null // no comment\", \"a\": {}}} // end",
            r#"{"a":[1,-2.5e3,true,false,null,"x\u0041\ud83d\ude00\n\/"]}"#,
            "\u{FEFF}{\"a\": \"two\nlines\"}",
            "{\"a\": [1, // last\n], }",
        ] {
            check(text, Ok(()));
        }
        for (text, at, part) in [
            ("", 0, "the text ends"),
            ("{,}", 1, "a key"),
            ("{\"a\":1,,}", 7, "a key"),
            ("[1,,]", 3, "a value"),
            ("{\"a\" 1}", 5, "\":\""),
            ("{\"a\":1 \"b\":2}", 7, "\",\""),
            ("[1 2]", 3, "\",\""),
            ("{} {}", 3, "the end"),
            ("/* never ended", 0, "never closed"),
            ("{\"a\": /x}", 6, "a value"),
            ("{\"a", 1, "never closed"),
            ("{\"\\x\":1}", 2, "escape"),
            ("{\"\\ud83dx\":1}", 2, "escape"),
            ("{\"\\", 2, "escape"),
            ("{\"\\u12", 2, "escape"),
            ("{\"a\":1-2}", 5, "no number"),
            ("{'a':1}", 1, "a key"),
        ] {
            check(text, Err((at, part)));
        }
        check(&"[".repeat(5_000), Err((RULES_DEPTH_MAX + 1, "deeper")));
        check(&" ".repeat(RULES_BYTES_MAX + 1), Err((0, "longer")));
    }

    #[test]
    fn strict_json() {
        let text = "// all\n{\"rules\": {\"a\": {\".read\": \"x\n\\u0041\", \".indexOn\": [\"b\", \"c\",],}, \".write\": true}}";
        let expected = r#"{"rules":{"a":{".read":"x\nA",".indexOn":["b","c"]},".write":true}}"#;
        assert_eq!(strict(text), expected);
    }

    #[test]
    fn places_survive_escapes() {
        let source = r#"{"k":"a\"b\u0041c"}"#;
        let Value::Object(members) = read(source).unwrap().value else { panic!("an object") };
        let Value::String(text) = &members[0].1.value else { panic!("a string") };
        assert_eq!(text.text, "a\"bAc");
        for (range, expected) in [(0..1, "a"), (1..2, "\\\""), (2..3, "b"), (3..4, "\\u0041"), (4..5, "c")] {
            assert_eq!(&source[text.source(range)], expected);
        }
        assert_eq!(&source[text.source(0..5)], r#"a\"b\u0041c"#);
        assert_eq!(text.source(5..5), 17..17);
    }
}
