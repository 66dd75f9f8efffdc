//! JSON written by people, read strictly: every mistake is told with its line, its key and, for a key that is not known, the
//! nearest one that is. What the keys mean is not known here.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// What is wrong with a file, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// Counted from 1, as editors do.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for FileError {}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Value<'a> {
    text: &'a str,
    at: usize,
    /// As its user names it: `mcpServers.files.args[2]`.
    path: String,
    raw: &'a str,
}

impl<'a> Value<'a> {
    /// The whole of a file.
    pub(super) fn of_file(text: &'a str) -> Result<Self, FileError> {
        let wrong = |error: serde_json::Error| {
            FileError {
            line: error.line().max(1),
            column: error.column().max(1),
            message: format!("not JSON: {}", without_place(&error.to_string())),
            help: "the file is one JSON object, {\"mcpServers\": {…}}; JSON has no comments and no comma before a closing bracket".into(),
        }
        };
        let raw: &RawValue = serde_json::from_str(text).map_err(wrong)?;
        Ok(Self::inside(text, String::new(), raw))
    }

    fn inside(text: &'a str, path: String, raw: &'a RawValue) -> Self {
        Self { text, at: raw.get().as_ptr().addr() - text.as_ptr().addr(), path, raw: raw.get() }
    }

    /// The value as it stands.
    pub(super) fn raw(&self) -> &'a str {
        self.raw
    }

    /// A mistake in this value.
    pub(super) fn wrong(&self, message: &str, help: impl Into<String>) -> FileError {
        let before = &self.text[..self.at];
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let name = if self.path.is_empty() { String::new() } else { format!("{}: ", self.path) };
        FileError {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: format!("{name}{message}"),
            help: help.into(),
        }
    }

    fn wrong_type(&self, wanted: &str) -> FileError {
        let got = match self.raw.as_bytes().first() {
            Some(b'"') => "a string",
            Some(b'{') => "an object",
            Some(b'[') => "an array",
            Some(b't' | b'f') => "true or false",
            Some(b'n') => "null",
            _ => "a number",
        };
        self.wrong(&format!("this is {got}"), format!("write {wanted}"))
    }

    pub(super) fn string(&self) -> Result<String, FileError> {
        serde_json::from_str(self.raw).map_err(|_| self.wrong_type("a string"))
    }

    pub(super) fn bool(&self) -> Result<bool, FileError> {
        serde_json::from_str(self.raw).map_err(|_| self.wrong_type("true or false"))
    }

    pub(super) fn integer(&self, range: RangeInclusive<u64>) -> Result<u64, FileError> {
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        let number: u64 = serde_json::from_str(self.raw).map_err(|_| self.wrong_type(&wanted))?;
        if range.contains(&number) { Ok(number) } else { Err(self.wrong("out of range", format!("write {wanted}"))) }
    }

    /// One of some words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, FileError> {
        let text = self.string()?;
        let known = words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ");
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        found.ok_or_else(|| self.wrong(&format!("{text:?} is not known here"), format!("write {known}")))
    }

    pub(super) fn list(&self) -> Result<Vec<Value<'a>>, FileError> {
        let items: Vec<&'a RawValue> = serde_json::from_str(self.raw).map_err(|_| self.wrong_type("an array, […]"))?;
        let item = |(index, raw)| Value::inside(self.text, format!("{}[{index}]", self.path), raw);
        Ok(items.into_iter().enumerate().map(item).collect())
    }

    pub(super) fn strings(&self) -> Result<Vec<String>, FileError> {
        self.list()?.iter().map(Value::string).collect()
    }

    /// The members of an object, in their order.
    pub(super) fn members(&self) -> Result<Members<'a>, FileError> {
        let InOrder(pairs) = serde_json::from_str(self.raw).map_err(|_| self.wrong_type("an object, {…}"))?;
        let mut members: Vec<(Cow<'a, str>, Value<'a>)> = Vec::with_capacity(pairs.len());
        for (key, raw) in pairs {
            let path = if self.path.is_empty() { key.to_string() } else { format!("{}.{key}", self.path) };
            let value = Value::inside(self.text, path, raw);
            if members.iter().any(|(known, _)| *known == key) {
                return Err(value.wrong("stands twice", "keep one of them"));
            }
            members.push((key, value));
        }
        Ok(Members { members, known: Vec::new() })
    }
}

/// What serde_json says of a place is said in front.
fn without_place(text: &str) -> &str {
    text.rsplit_once(" at line ").map_or(text, |(text, _)| text)
}

/// The members of an object; those that are taken are known.
#[derive(Debug)]
pub(super) struct Members<'a> {
    members: Vec<(Cow<'a, str>, Value<'a>)>,
    known: Vec<&'static str>,
}

impl<'a> Members<'a> {
    /// The value of a key; from now on the key is known.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Value<'a>> {
        self.known.push(key);
        let at = self.members.iter().position(|(have, _)| have == key)?;
        Some(self.members.remove(at).1)
    }

    /// All that is left, where any name is good.
    pub(super) fn all(self) -> Vec<(Cow<'a, str>, Value<'a>)> {
        self.members
    }

    /// Nothing may be left.
    pub(super) fn finish(self) -> Result<(), FileError> {
        let Some((key, value)) = self.members.first() else { return Ok(()) };
        let likeness = |known: &str| strsim::jaro_winkler(known, key);
        let nearest = self.known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        let help = match nearest.filter(|nearest| likeness(nearest) > 0.8) {
            Some(nearest) => format!("did you mean {nearest}?"),
            None => format!("known here: {}", self.known.join(", ")),
        };
        Err(value.wrong("unknown key", help))
    }
}

/// The members of an object in their order, doubled ones included.
struct InOrder<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for InOrder<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = InOrder<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(Key(key)) = map.next_key()? {
                    pairs.push((key, map.next_value()?));
                }
                Ok(InOrder(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// A key, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_told_with_their_place() {
        let read = |text: &str| {
            let mut members = Value::of_file(text)?.members()?;
            let a = members.take("first").map(|value| value.integer(1..=9)).transpose()?;
            let b = members.take("second").map(|value| value.strings()).transpose()?;
            members.take("third").map(|value| value.word(&[("x", 1), ("y", 2)])).transpose()?;
            members.finish()?;
            Ok((a, b))
        };
        let check = |text: &str, expected: &str| {
            let error: FileError = read(text).unwrap_err();
            let told = format!("{error} / {}", error.help);
            assert!(told.contains(expected), "{text}: {told}");
        };
        assert_eq!(read(r#"{"second":["a"],"first":3}"#).unwrap(), (Some(3), Some(vec!["a".to_owned()])));
        check("{\n  \"frist\": 1\n}", "2:12: frist: unknown key / did you mean first?");
        check(r#"{"other":1}"#, "1:10: other: unknown key / known here: first, second, third");
        check(r#"{"first":1,"f\u0069rst":2}"#, "first: stands twice");
        check(r#"{"first":"1"}"#, "first: this is a string / write a whole number from 1 to 9");
        check(r#"{"first":10}"#, "first: out of range");
        check(r#"{"first":1.5}"#, "first: this is a number / write a whole");
        check(r#"{"second":["a",7]}"#, "1:16: second[1]: this is a number / write a string");
        check(r#"{"third":"z"}"#, "third: \"z\" is not known here / write \"x\" or \"y\"");
        check("{\"first\":1,}", "1:12: not JSON: key must be a string");
        check("[]", "this is an array / write an object");
        check("", "1:1: not JSON");
    }
}
