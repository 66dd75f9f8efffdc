//! Rows to JSON text, a piece at a time.
//!
//! Owns the shapes of firebase-rtdb.md §3.2 (plain with arrays rebuilt, export with priorities), shallow
//! listings and query results. Opens no cursor and holds none: between two pieces only a position is kept,
//! so that a slow reader pins no snapshot that its caller does not want pinned.

use crate::key::{CHILDREN, PAST, PRIORITY, TEXT, array_index, decode_key, encode_bound, segment_len};
use crate::leaf::Leaf;
use crate::rows::{Row, RowCursor, next_child, past, seek_past};

/// How a tree becomes JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Arrays rebuilt, priorities dropped: what REST clients expect.
    Plain,
    /// Always objects, with `.priority` and `.value`: what loses nothing.
    Export,
}

/// Whether a stream has been written to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Call `fill` again.
    More,
    /// The JSON text is complete.
    Done,
}

/// Which keys a shallow listing shows.
#[derive(Clone, Debug, Default)]
pub struct ShallowRange {
    /// Only keys behind this one.
    pub after: Option<Box<str>>,
    /// Only so many keys.
    pub limit: Option<usize>,
    /// For leaves the bytes of their text in place of `true`, and of themselves.
    pub sizes: bool,
}

/// A JSON text in the making.
///
/// Values that cannot be decoded, which only a damaged store has, are written as `null`.
#[derive(Debug)]
pub struct JsonStream {
    format: Format,
    pretty: bool,
    source: Source,
    /// The open objects and arrays, outermost first.
    frames: Vec<Frame>,
    /// Encoded path of the innermost open node.
    path: Vec<u8>,
    /// Where the next piece begins; `None` when the source has to say.
    resume: Option<Vec<u8>>,
    wrote: bool,
    /// Objects this many levels below the cursor's node are the deepest that are opened.
    depth_max: usize,
    /// Whether there was one that was not.
    cut: bool,
}

#[derive(Debug)]
enum Source {
    Subtree,
    Shallow { left: usize, sizes: bool },
    Children { keys: std::vec::IntoIter<Box<str>>, child: Vec<u8> },
    End,
}

#[derive(Debug)]
struct Frame {
    /// Length of the node's encoded path.
    end: usize,
    filled: bool,
    /// For arrays: the index of the next element.
    array: Option<u32>,
}

impl JsonStream {
    /// The whole subtree of the cursor.
    pub fn new(format: Format, pretty: bool) -> JsonStream {
        JsonStream::from_source(format, pretty, Source::Subtree, Some(Vec::new()))
    }

    /// Only the children's keys, as `{"key":true,…}`; a leaf is itself (firebase-rtdb.md §9.2). With
    /// sizes, leaves are told apart: `{"node":true,"leaf":5}`, and a leaf is its size, see
    /// [`Leaf::text_bytes`].
    pub fn shallow(pretty: bool, range: ShallowRange) -> JsonStream {
        let start = range.after.map_or(vec![], |key| {
            let mut start = Vec::new();
            encode_bound(&key, &mut start);
            start.push(PAST);
            start
        });
        let left = range.limit.unwrap_or(usize::MAX);
        JsonStream::from_source(Format::Plain, pretty, Source::Shallow { left, sizes: range.sizes }, Some(start))
    }

    /// An object of just these children, in this order: the result of a query.
    ///
    /// Children that do not exist are left out. A cursor at a leaf or at nothing yields `null`.
    pub fn children(format: Format, pretty: bool, keys: Vec<Box<str>>) -> JsonStream {
        let source = Source::Children { keys: keys.into_iter(), child: Vec::new() };
        JsonStream::from_source(format, pretty, source, None)
    }

    fn from_source(format: Format, pretty: bool, source: Source, resume: Option<Vec<u8>>) -> JsonStream {
        let (frames, path) = (Vec::new(), Vec::new());
        JsonStream { format, pretty, source, frames, path, resume, wrote: false, depth_max: usize::MAX, cut: false }
    }

    /// The same text, in which objects more than `depth` levels below the cursor's node are `true`.
    #[must_use]
    pub fn to_depth(self, depth: usize) -> JsonStream {
        JsonStream { depth_max: depth, ..self }
    }

    /// Whether an object was written as `true` so far, for it lies too deep.
    pub fn was_cut(&self) -> bool {
        self.cut
    }

    /// Writes until `out` has grown by about `budget` bytes; a single leaf may exceed that.
    ///
    /// The cursor may be another one each time, if it shows the same rows.
    pub fn fill<'a, C: RowCursor<'a>>(
        &mut self,
        cursor: &mut C,
        out: &mut Vec<u8>,
        budget: usize,
    ) -> Result<Progress, C::Error> {
        let stop = out.len().saturating_add(budget);
        if let Source::Shallow { left, sizes } = self.source {
            return self.fill_shallow(cursor, out, stop, left, sizes);
        }
        while let Some(mut row) = self.position(cursor, out)? {
            while let Some(next) = self.row(cursor, row, out)?.filter(|next| self.is_in_source(next.0)) {
                if out.len() >= stop {
                    self.resume = Some(next.0.to_vec());
                    return Ok(Progress::More);
                }
                row = next;
            }
            if matches!(self.source, Source::Subtree) {
                break;
            }
            if out.len() >= stop {
                return Ok(Progress::More);
            }
        }
        self.finish(out);
        Ok(Progress::Done)
    }

    /// The row to go on with.
    fn position<'a, C: RowCursor<'a>>(
        &mut self,
        cursor: &mut C,
        out: &mut Vec<u8>,
    ) -> Result<Option<Row<'a>>, C::Error> {
        if let Some(resume) = self.resume.take() {
            return cursor.seek(&resume);
        }
        let Source::Children { keys, child } = &mut self.source else { return Ok(None) };
        if self.frames.is_empty() {
            // A leaf or nothing has no children to show, and is not an object either.
            if !matches!(cursor.seek(&[])?, Some((key, _)) if !key.is_empty()) {
                return Ok(None);
            }
            self.frames.push(Frame { end: 0, filled: false, array: None });
            out.push(b'{');
        }
        for key in keys {
            child.clear();
            encode_bound(&key, child);
            if let Some(row) = cursor.seek(child)?.filter(|(key, _)| key.starts_with(child)) {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    fn is_in_source(&self, key: &[u8]) -> bool {
        match &self.source {
            Source::Children { child, .. } => key.starts_with(child),
            _ => true,
        }
    }

    /// Writes one row, with the opening and closing that leads to it, and returns the row behind it.
    fn row<'a, C: RowCursor<'a>>(
        &mut self,
        cursor: &mut C,
        (key, value): Row<'a>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Row<'a>>, C::Error> {
        while self.frames.len() > 1 && !key.starts_with(&self.path) {
            self.close(out);
        }
        let export = self.format == Format::Export;
        if self.frames.is_empty() {
            match key {
                [] => return self.leaf(cursor, key, value, out),
                [PRIORITY] if !export => return cursor.next(),
                _ => self.open(cursor, key, 0, out)?,
            }
        }
        loop {
            let start = self.path.len();
            let rest = &key[start..];
            let Some(len) = segment_len(rest) else {
                // The priority of the open node; with anything else no row of a sound store begins.
                if rest == [PRIORITY] && export {
                    self.separate(out);
                    write_name(b"\".priority\"", self.pretty, out);
                    write_value(value, out);
                }
                return cursor.next();
            };
            let (segment, below) = rest.split_at(len);
            // In plain form a node opens with its first child, as it cannot be told yet if it is a leaf's priority.
            if below == [PRIORITY] && !export {
                return cursor.next();
            }
            self.member(segment, out);
            if below.is_empty() {
                return self.leaf(cursor, key, value, out);
            }
            if self.frames.len() > self.depth_max {
                out.extend_from_slice(b"true");
                self.cut = true;
                return seek_past(cursor, &key[..start + len]);
            }
            self.open(cursor, key, start + len, out)?;
        }
    }

    /// Writes a leaf, in export form together with its priority, and returns the row behind it.
    fn leaf<'a, C: RowCursor<'a>>(
        &mut self,
        cursor: &mut C,
        key: &[u8],
        value: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Row<'a>>, C::Error> {
        self.wrote = true;
        if key.is_empty() && self.format == Format::Plain {
            // Most reads are of one leaf: looking further would cost the store a second search.
            write_value(value, out);
            return Ok(None);
        }
        let next = cursor.next()?;
        match next {
            Some((next, priority)) if self.format == Format::Export && next.strip_prefix(key) == Some(&[PRIORITY]) => {
                self.frames.push(Frame { end: self.path.len(), filled: false, array: None });
                out.push(b'{');
                for (name, value) in [(&b"\".value\""[..], value), (b"\".priority\"", priority)] {
                    self.separate(out);
                    write_name(name, self.pretty, out);
                    write_value(value, out);
                }
                self.end_of_frame(out);
                cursor.next()
            }
            _ => {
                write_value(value, out);
                Ok(next)
            }
        }
    }

    /// Opens the node whose encoded path is `key[..end]`; `key` is its first row to be written.
    fn open<'a, C: RowCursor<'a>>(
        &mut self,
        cursor: &mut C,
        key: &[u8],
        end: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), C::Error> {
        let start = self.path.len();
        self.path.extend_from_slice(&key[start..end]);
        let array = self.format == Format::Plain && is_array(cursor, key, end)?;
        self.frames.push(Frame { end, filled: false, array: array.then_some(0) });
        out.push(if array { b'[' } else { b'{' });
        self.wrote = true;
        Ok(())
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        self.end_of_frame(out);
        self.path.truncate(self.frames.last().map_or(0, |frame| frame.end));
    }

    fn end_of_frame(&mut self, out: &mut Vec<u8>) {
        let Some(frame) = self.frames.pop() else { return };
        if frame.filled {
            self.line(out);
        }
        out.push(if frame.array.is_some() { b']' } else { b'}' });
    }

    /// Writes what stands before a member's value: comma and key, or comma and the holes of an array.
    fn member(&mut self, segment: &[u8], out: &mut Vec<u8>) {
        self.separate(out);
        let frame = self.frames.last_mut().expect("a member is written into an open node");
        let Some(next) = frame.array else {
            return write_key(segment, self.pretty, out);
        };
        let index = array_index(segment).unwrap_or(next);
        frame.array = Some(index.saturating_add(1));
        for _ in next..index {
            out.extend_from_slice(b"null");
            self.separate(out);
        }
    }

    fn separate(&mut self, out: &mut Vec<u8>) {
        if let Some(frame) = self.frames.last_mut()
            && std::mem::replace(&mut frame.filled, true)
        {
            out.push(b',');
        }
        self.line(out);
    }

    fn line(&self, out: &mut Vec<u8>) {
        if self.pretty {
            out.push(b'\n');
            out.extend(std::iter::repeat_n(b' ', self.frames.len() * 2));
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.wrote && self.frames.is_empty() {
            out.extend_from_slice(b"null");
        }
        while !self.frames.is_empty() {
            self.close(out);
        }
        self.wrote = true;
        self.source = Source::End;
    }

    fn fill_shallow<'a, C: RowCursor<'a>>(
        &mut self,
        cursor: &mut C,
        out: &mut Vec<u8>,
        stop: usize,
        mut left: usize,
        sizes: bool,
    ) -> Result<Progress, C::Error> {
        if self.frames.is_empty() {
            match cursor.seek(&[])? {
                Some(([], value)) => {
                    if sizes {
                        write_size(value, out)
                    } else {
                        write_value(value, out)
                    }
                    self.wrote = true;
                }
                Some(_) => {
                    self.frames.push(Frame { end: 0, filled: false, array: None });
                    out.push(b'{');
                }
                None => {}
            }
        }
        let mut start = self.resume.take().unwrap_or_default();
        start.extend(start.is_empty().then_some(CHILDREN));
        let mut row = if self.frames.is_empty() { None } else { cursor.seek(&start)? };
        while let Some((key, value)) = row
            && left > 0
            && let Some(len) = segment_len(key)
        {
            self.separate(out);
            write_key(&key[..len], self.pretty, out);
            match sizes && key.len() == len {
                true => write_size(value, out),
                false => out.extend_from_slice(b"true"),
            }
            left -= 1;
            row = next_child(cursor, key, len)?;
            if let Some((next, _)) = row.filter(|_| out.len() >= stop) {
                self.resume = Some(next.to_vec());
                self.source = Source::Shallow { left, sizes };
                return Ok(Progress::More);
            }
        }
        self.finish(out);
        Ok(Progress::Done)
    }
}

/// The whole subtree of `cursor` as JSON text.
pub fn to_json<'a, C: RowCursor<'a>>(cursor: &mut C, format: Format) -> Result<Vec<u8>, C::Error> {
    let mut out = Vec::with_capacity(256);
    JsonStream::new(format, false).fill(cursor, &mut out, usize::MAX)?;
    Ok(out)
}

/// Whether the node at `key[..end]`, whose first child row has `key`, is written as an array
/// (firebase-rtdb.md §3.2). The cursor is left on `key`.
///
/// Integer-like keys sort first and by number, so the first and the last child decide for nearly every
/// object; only what may well be an array is counted.
fn is_array<'a, C: RowCursor<'a>>(cursor: &mut C, key: &[u8], end: usize) -> Result<bool, C::Error> {
    let Some(first) = array_index(&key[end..]) else { return Ok(false) };
    let node = &key[..end];
    let last = cursor.before(&past(node))?.and_then(|(last, _)| array_index(last.strip_prefix(node)?));
    let array = match last.map(u64::from) {
        // Even without a gap there would be too few.
        Some(last) if u64::from(first) * 2 < last + 2 => last < 2 * count_elements(cursor, key, end)?,
        _ => false,
    };
    cursor.seek(key)?;
    Ok(array)
}

/// The number of children of the node at `key[..end]`; 0 if a key among them is no array index.
fn count_elements<'a, C: RowCursor<'a>>(cursor: &mut C, key: &[u8], end: usize) -> Result<u64, C::Error> {
    let mut count = 0;
    let mut row = cursor.seek(key)?;
    while let Some((child, _)) = row
        && let Some(rest) = child.strip_prefix(&key[..end])
    {
        let (Some(len), Some(_)) = (segment_len(rest), array_index(rest)) else { return Ok(0) };
        count += 1;
        row = next_child(cursor, child, end + len)?;
    }
    Ok(count)
}

fn write_size(value: &[u8], out: &mut Vec<u8>) {
    let size = Leaf::decode(value).map_or(0, |leaf| leaf.text_bytes());
    out.extend_from_slice(itoa::Buffer::new().format(size).as_bytes());
}

fn write_value(value: &[u8], out: &mut Vec<u8>) {
    match Leaf::decode(value) {
        Some(leaf) => leaf.write_json(out),
        None => out.extend_from_slice(b"null"),
    }
}

fn write_name(name: &[u8], pretty: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(if pretty { b": " } else { b":" });
}

/// Writes an encoded segment as the name of a member.
fn write_key(segment: &[u8], pretty: bool, out: &mut Vec<u8>) {
    out.push(b'"');
    match (array_index(segment), segment) {
        (Some(index), _) => out.extend_from_slice(itoa::Buffer::new().format(index).as_bytes()),
        (None, [TEXT, text @ .., _]) if is_verbatim(text) => out.extend_from_slice(text),
        _ => {
            let mut text = String::new();
            decode_key(segment, &mut text);
            write_escaped(&text, out);
        }
    }
    write_name(b"\"", pretty, out);
}

/// Whether `text` is ASCII that stands in JSON as it is.
fn is_verbatim(text: &[u8]) -> bool {
    text.iter().fold(true, |verbatim, &byte| verbatim & (byte < 0x80) & !must_escape(byte))
}

fn must_escape(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

/// Appends `text` as a JSON string.
pub fn write_json_string(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    write_escaped(text, out);
    out.push(b'"');
}

fn write_escaped(text: &str, out: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let plain = plain_len(rest);
        out.extend_from_slice(&rest[..plain]);
        rest = &rest[plain..];
        if let Some((&byte, after)) = rest.split_first() {
            write_escape(byte, out);
            rest = after;
        }
    }
}

/// How many bytes come before the first that must be escaped.
fn plain_len(bytes: &[u8]) -> usize {
    // Whole blocks without early exit: the compiler makes vector instructions of that.
    let block = |block: &[u8]| block.iter().fold(false, |any, &byte| any | must_escape(byte));
    let blocks = bytes.chunks_exact(32).take_while(|chunk| !block(chunk)).count() * 32;
    let rest = &bytes[blocks..];
    blocks + rest.iter().position(|&byte| must_escape(byte)).unwrap_or(rest.len())
}

fn write_escape(byte: u8, out: &mut Vec<u8>) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0C => b'f',
        _ => {
            let hex = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
            return out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)]);
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{parse_value, tests::LIMITS};

    fn check(stream: JsonStream, json: &str, expected: &str) {
        let rows = parse_value(json.as_bytes(), &LIMITS).unwrap();
        let (mut stream, mut out) = (stream, Vec::new());
        while stream.fill(&mut rows.cursor(), &mut out, 1).unwrap() == Progress::More {}
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{json}");
    }

    #[test]
    fn plain() {
        for (json, expected) in [
            ("null", "null"),
            (r#"{".value":1,".priority":2}"#, "1"),
            (r#"{"a":{".value":1,".priority":2},".priority":3}"#, r#"{"a":1}"#),
            // The examples of firebase-rtdb.md §3.2.
            (r#"{"0":"a","1":"b","3":"d"}"#, r#"["a","b",null,"d"]"#),
            (r#"{"0":"a","9":"b"}"#, r#"{"0":"a","9":"b"}"#),
            (r#"{"1":"a","2":"b"}"#, r#"[null,"a","b"]"#),
            (r#"{"0":1}"#, "[1]"),
            (r#"{"1":1}"#, "[null,1]"),
            (r#"{"2":1}"#, r#"{"2":1}"#),
            (r#"{"0":1,"a":2}"#, r#"{"0":1,"a":2}"#),
            (r#"{"-1":0,"0":1,"1":2}"#, r#"{"-1":0,"0":1,"1":2}"#),
            (r#"{"0":1,"01":2,"1":3}"#, r#"{"0":1,"1":3,"01":2}"#),
            (r#"{"0":1,"2147483648":2}"#, r#"{"0":1,"2147483648":2}"#),
            (r#"[[1,[2]],{"x":[]},{"y":{"1":{"0":3}}}]"#, r#"[[1,[2]],null,{"y":[null,[3]]}]"#),
            (r#"[{".value":1,".priority":1},{"0":1,".priority":1}]"#, "[1,[1]]"),
            (
                "{\"é\\\"\":\"\\u0001\\b\\f\\n\\r\\t\\\\/\u{2028}\"}",
                "{\"é\\\"\":\"\\u0001\\b\\f\\n\\r\\t\\\\/\u{2028}\"}",
            ),
        ] {
            check(JsonStream::new(Format::Plain, false), json, expected);
        }
    }

    #[test]
    fn export() {
        for (json, expected) in [
            ("[1,2]", r#"{"0":1,"1":2}"#),
            (r#"{".value":1,".priority":2}"#, r#"{".value":1,".priority":2}"#),
            (r#"{"a":{"b":1,".priority":"x"},".priority":0}"#, r#"{".priority":0,"a":{".priority":"x","b":1}}"#),
        ] {
            check(JsonStream::new(Format::Export, false), json, expected);
        }
    }

    #[test]
    fn pretty() {
        let json = r#"{"a":{"b":1,"c":[1,null,{"d":true}]},"e":"x"}"#;
        let expected = serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(json).unwrap()).unwrap();
        check(JsonStream::new(Format::Plain, true), json, &expected);
        check(
            JsonStream::new(Format::Export, true),
            r#"{"a":{".value":1,".priority":2}}"#,
            "{\n  \"a\": {\n    \".value\": 1,\n    \".priority\": 2\n  }\n}",
        );
    }

    #[test]
    fn children() {
        let stream =
            |keys: &[&str]| JsonStream::children(Format::Plain, false, keys.iter().map(|&key| key.into()).collect());
        let json = r#"{"a":[1],"0":2,"b":{"c":{"d":3}},".priority":1}"#;
        check(stream(&["b", "x", "0", "a"]), json, r#"{"b":{"c":{"d":3}},"0":2,"a":[1]}"#);
        check(stream(&["0"]), json, r#"{"0":2}"#);
        check(stream(&[]), json, "{}");
        check(stream(&["x"]), json, "{}");
        check(stream(&["a"]), "1", "null");
        check(stream(&["a"]), "null", "null");
    }

    #[test]
    fn depth() {
        let check = |json: &str, depth: usize, expected: &str, cut: bool| {
            let rows = parse_value(json.as_bytes(), &LIMITS).unwrap();
            let mut stream = JsonStream::new(Format::Plain, false).to_depth(depth);
            let mut out = Vec::new();
            while stream.fill(&mut rows.cursor(), &mut out, 1).unwrap_or_else(|never| match never {}) == Progress::More
            {
            }
            assert_eq!((&*String::from_utf8(out).unwrap(), stream.was_cut()), (expected, cut), "{json} to {depth}");
        };
        let json = r#"{"a":{"b":{"c":1},"d":2},"e":3,"f":{".priority":1,"g":true},"h":[{"i":1},2]}"#;
        check(json, 0, r#"{"a":true,"e":3,"f":true,"h":true}"#, true);
        check(json, 1, r#"{"a":{"b":true,"d":2},"e":3,"f":{"g":true},"h":[true,2]}"#, true);
        check(json, 2, r#"{"a":{"b":{"c":1},"d":2},"e":3,"f":{"g":true},"h":[{"i":1},2]}"#, false);
        check("7", 0, "7", false);
        check("null", 0, "null", false);
    }

    #[test]
    fn shallow() {
        let stream = |after: Option<&str>, limit| {
            JsonStream::shallow(false, ShallowRange { after: after.map(Box::from), limit, sizes: false })
        };
        let json = r#"{"a":[1,2],"10":2,"9":{".value":1,".priority":1},"b":{"c":{"d":3}},".priority":1}"#;
        check(stream(None, None), json, r#"{"9":true,"10":true,"a":true,"b":true}"#);
        check(stream(None, Some(2)), json, r#"{"9":true,"10":true}"#);
        check(stream(Some("10"), Some(1)), json, r#"{"a":true}"#);
        check(stream(Some("b"), None), json, "{}");
        check(stream(None, None), r#"{".value":1,".priority":1}"#, "1");
        check(stream(Some("x"), Some(1)), "\"s\"", "\"s\"");
        check(stream(None, None), "null", "null");
    }
}
