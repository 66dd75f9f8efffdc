//! The words of a line. They are divided by spaces; a path or a value with a space in it stands in
//! quotes, as JSON strings do. Nothing is percent-encoded.

use std::borrow::Cow;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use standpipe_engine::Error;
use standpipe_tree::{Location, Path, write_json_string};

/// Names that make a query, as in a REST request.
pub(super) const QUERY: &[&str] =
    &["orderBy", "startAt", "startAfter", "endAt", "endBefore", "equalTo", "limitToFirst", "limitToLast"];

/// Names that a read may have beside.
pub(super) const READ: &[&str] = &["shallow", "format", "at_least", "timeout"];

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// What is left of a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    /// The first word of a line, and the others.
    pub(super) fn of(line: &'a [u8]) -> (&'a [u8], Self) {
        let line = line.trim_ascii_start();
        let end = line.iter().position(|&byte| is_blank(byte)).unwrap_or(line.len());
        (&line[..end], Self(line.get(end + 1..).unwrap_or_default()))
    }

    /// All that is left, byte for byte.
    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// The next word, with its quotes; `None` at the end.
    fn next(&mut self) -> Result<Option<&'a str>, Error> {
        let rest = self.0.trim_ascii();
        let (mut quoted, mut escaped) = (false, false);
        let end = rest.iter().position(|&byte| {
            quoted ^= byte == b'"' && !escaped;
            escaped = quoted && byte == b'\\' && !escaped;
            is_blank(byte) && !quoted
        });
        let (word, rest) = rest.split_at(end.unwrap_or(rest.len()));
        self.0 = rest;
        match std::str::from_utf8(word) {
            Ok("") => Ok(None),
            Ok(word) => Ok(Some(word)),
            Err(_) => Err(Error::bad_request("the line is not UTF-8")),
        }
    }

    /// The next word; `what` names it where there is none.
    pub(super) fn word(&mut self, what: &str) -> Result<&'a str, Error> {
        self.next()?.ok_or_else(|| Error::bad_request(format!("{what} is missing")))
    }

    /// The next word, a path as text.
    fn path_text(&mut self) -> Result<Cow<'a, str>, Error> {
        let word = self.word("the path")?;
        if !word.starts_with('"') {
            return Ok(word.into());
        }
        let text = serde_json::from_str::<String>(word);
        text.map(Cow::Owned).map_err(|_| Error::bad_request("a path that begins with a quote must be a JSON string"))
    }

    /// The next word as a path.
    pub(super) fn path(&mut self) -> Result<Path, Error> {
        Path::parse(&self.path_text()?).map_err(|error| Error::bad_request(error.to_string()))
    }

    /// The next word as a path, which may end in `.priority`.
    pub(super) fn location(&mut self) -> Result<Location, Error> {
        Location::parse(&self.path_text()?).map_err(|error| Error::bad_request(error.to_string()))
    }

    /// All that is left, as JSON that is yet to be read.
    pub(super) fn json(self) -> Result<&'a [u8], Error> {
        match self.0.trim_ascii() {
            [] => Err(Error::bad_request("the value is missing: JSON, to the end of the line")),
            json => Ok(json),
        }
    }

    /// The next word as a number, if it is one.
    pub(super) fn number(&mut self) -> Result<Option<u64>, Error> {
        let mut after = *self;
        match after.next()?.map(str::parse) {
            Some(Ok(number)) => {
                *self = after;
                Ok(Some(number))
            }
            _ => Ok(None),
        }
    }

    /// All that is left as `name=value` words with a name of `known`, in the form that requests have them.
    pub(super) fn options(mut self, known: &[&[&str]]) -> Result<String, Error> {
        let mut options = String::new();
        while let Some(word) = self.next()? {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            if !known.iter().any(|names| names.contains(&name)) {
                let known = known.concat().join(", ");
                return Err(Error::bad_request(format!("{name:?} is not known here; name=value may be: {known}")));
            }
            options.extend([if options.is_empty() { "" } else { "&" }, name, "="]);
            options.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
        }
        Ok(options)
    }

    /// Refuses words that are one too many.
    pub(super) fn end(mut self) -> Result<(), Error> {
        match self.next()? {
            None => Ok(()),
            Some(word) => Err(Error::bad_request(format!("{word:?} is one word too many"))),
        }
    }
}

/// Appends a path as [`Words::path`] reads it.
pub(super) fn write_path(path: &str, out: &mut Vec<u8>) {
    if path.contains([' ', '"']) {
        write_json_string(path, out);
    } else {
        out.extend_from_slice(path.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        let mut words = Words(line.as_bytes());
        std::iter::from_fn(|| words.next().unwrap().map(str::to_owned)).collect()
    }

    #[test]
    fn words_are_divided_by_spaces_outside_of_quotes() {
        let check = |line: &str, expected: &[&str]| assert_eq!(words(line), expected, "{line}");
        check("", &[]);
        check("  ", &[]);
        check("a b", &["a", "b"]);
        check(" a \t b ", &["a", "b"]);
        check("\"a b\" c", &["\"a b\"", "c"]);
        check("x=\"a b\" y=\"c \\\" d\" z", &["x=\"a b\"", "y=\"c \\\" d\"", "z"]);
        check("\"a\\\\\" b", &["\"a\\\\\"", "b"]);
        check("\"a b", &["\"a b"]);
    }

    #[test]
    fn paths_with_spaces_are_json_strings() {
        let check = |line: &str, expected: Result<&str, &str>| {
            let path = Words(line.as_bytes()).path();
            match expected {
                Ok(expected) => assert_eq!(path.unwrap().as_str(), expected, "{line}"),
                Err(part) => assert!(path.unwrap_err().to_string().contains(part), "{line}"),
            }
        };
        check("/a/b rest", Ok("a/b"));
        check("/", Ok(""));
        check("\"/a b/c\" 1", Ok("a b/c"));
        check("\"a\\u0020b\"", Ok("a b"));
        check("50%/é", Ok("50%/é"));
        check("", Err("the path is missing"));
        check("\"a b", Err("JSON string"));
        check("a.b", Err("."));
        let mut out = Vec::new();
        write_path("/a b", &mut out);
        write_path("/a/b", &mut out);
        assert_eq!(out, b"\"/a b\"/a/b");
    }

    #[test]
    fn options_are_those_of_requests() {
        let check = |line: &str, expected: Result<&str, &str>| {
            let options = Words(line.as_bytes()).options(&[QUERY, READ]).map_err(|error| error.to_string());
            match expected {
                Ok(expected) => assert_eq!(options.as_deref(), Ok(expected), "{line}"),
                Err(part) => assert!(options.unwrap_err().contains(part), "{line}"),
            }
        };
        check("", Ok(""));
        check("orderBy=\"a b\" limitToFirst=2", Ok("orderBy=%22a%20b%22&limitToFirst=2"));
        check("shallow=true", Ok("shallow=true"));
        check("orderBy=\"$key\" equalTo=\"1+1=2&x\"", Ok("orderBy=%22%24key%22&equalTo=%221%2B1%3D2%26x%22"));
        check("print=pretty", Err("\"print\" is not known"));
        check("HTTP/1.1", Err("is not known"));
    }
}
