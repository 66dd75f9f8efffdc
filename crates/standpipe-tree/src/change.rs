//! Changes: one accepted write with everything resolved, and what a watcher of some path is told of it.
//!
//! Owns the rules of event streams (firebase-rtdb.md §10) and the bytes of a change in a record. What
//! listens with a query are told is the engine's, since that needs the old value.

use std::convert::Infallible;

use crate::json::{Format, to_json, write_json_string};
use crate::key::is_priority_key;
use crate::leaf::Leaf;
use crate::path::{Location, Path};
use crate::rows::Rows;
use crate::varint;

/// How a client wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// One location was replaced.
    Set,
    /// Some locations below one path were replaced at once.
    Merge,
    /// Leaves below one path were put, and nothing else was removed: a deep merge. One write, at
    /// the path itself.
    Overlay,
}

/// One accepted write: what was written where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// How it was written.
    pub kind: ChangeKind,
    /// The path of the request.
    pub base: Path,
    /// What was written; absolute, in key order, none covering another.
    pub writes: Vec<Write>,
}

/// The new value of one location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where, from the root of the database.
    pub location: Location,
    /// What, without placeholders; a priority is a single leaf, nothing is a removal.
    pub rows: Rows,
}

/// The name of an event (firebase-rtdb.md §10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Replace the value at the path.
    Put,
    /// Replace the listed paths below the path.
    Patch,
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whether to replace or to merge.
    pub kind: EventKind,
    /// Where, as seen from the watched path: `/` or `/x/y`.
    pub path: String,
    /// The JSON to put there.
    pub data: Vec<u8>,
}

impl Change {
    /// Whether the value at or below `at` may be another one now.
    pub fn touches(&self, at: &Path) -> bool {
        self.writes.iter().any(|write| write.touches(at))
    }

    /// What a watcher of `at` is told; `None` when there is nothing to tell.
    pub fn event(&self, at: &Path, format: Format) -> Option<Event> {
        let shown = |write: &&Write| format == Format::Export || matches!(write.location, Location::Node(_));
        let seen: Vec<&Write> = self.writes.iter().filter(|write| write.touches(at)).filter(shown).collect();
        let first = *seen.first()?;
        if self.kind == ChangeKind::Overlay {
            return overlay(at, first, format);
        }
        if self.kind == ChangeKind::Merge && at.contains(&self.base) {
            return Some(patch(at, &self.base, &seen, format));
        }
        if seen.len() > 1 {
            return Some(patch(at, at, &seen, format));
        }
        Some(match first.location.path().relative_to(at) {
            Some(_) => put(relative(&first.location, at), first.json(&[], format)),
            // Written above: the watcher's part of it.
            None => put(String::new(), first.json(&inside(at, &first.location), format)),
        })
    }

    /// Appends the change as bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self.kind {
            ChangeKind::Set => 0,
            ChangeKind::Merge => 1,
            ChangeKind::Overlay => 2,
        });
        write_text(self.base.as_str(), out);
        varint::write(self.writes.len(), out);
        for write in &self.writes {
            out.push(u8::from(matches!(write.location, Location::Priority(_))));
            write_text(write.location.path().as_str(), out);
            write.rows.encode(out);
        }
    }

    /// Reads what [`Change::encode`] wrote and how long it was; `None` when it is corrupt.
    pub fn decode(bytes: &[u8]) -> Option<(Change, usize)> {
        let mut rest = bytes;
        let kind = match varint::take(&mut rest, 1)? {
            [0] => ChangeKind::Set,
            [1] => ChangeKind::Merge,
            [2] => ChangeKind::Overlay,
            _ => return None,
        };
        let base = read_path(&mut rest)?;
        let count = varint::read(&mut rest)?;
        // Three bytes is the shortest write: a count beyond that is corrupt and must not reserve memory.
        let mut writes = Vec::with_capacity(count.min(rest.len() / 3));
        for _ in 0..count {
            let location: fn(Path) -> Location = match varint::take(&mut rest, 1)? {
                [0] => Location::Node,
                [1] => Location::Priority,
                _ => return None,
            };
            let location = location(read_path(&mut rest)?);
            let (rows, len) = Rows::decode(rest)?;
            rest = &rest[len..];
            writes.push(Write { location, rows });
        }
        Some((Change { kind, base, writes }, bytes.len() - rest.len()))
    }
}

impl Write {
    /// Whether the value at or below `at` may be another one after it.
    pub fn touches(&self, at: &Path) -> bool {
        at.contains(self.location.path()) || matches!(&self.location, Location::Node(path) if path.contains(at))
    }

    /// The JSON of the part at the encoded path `inside`.
    fn json(&self, inside: &[u8], format: Format) -> Vec<u8> {
        let json: Result<_, Infallible> = to_json(&mut self.rows.cursor_at(inside), format);
        json.unwrap_or_else(|never| match never {})
    }
}

/// The encoded path of `at` as seen from a write above it.
fn inside(at: &Path, location: &Location) -> Vec<u8> {
    at.relative_to(location.path()).unwrap_or_default().encode()
}

/// A location at or below `at` as seen from there; empty for `at` itself.
fn relative(location: &Location, at: &Path) -> String {
    let path = location.path().relative_to(at).unwrap_or_default();
    match location {
        Location::Node(_) => path.as_str().to_owned(),
        Location::Priority(_) if path.is_root() => ".priority".to_owned(),
        Location::Priority(_) => format!("{}/.priority", path.as_str()),
    }
}

fn put(path: String, data: Vec<u8>) -> Event {
    Event { kind: EventKind::Put, path: format!("/{path}"), data }
}

/// A patch at `base`, which lies at or below `at`, of writes that lie at or below `base`.
fn patch(at: &Path, base: &Path, writes: &[&Write], format: Format) -> Event {
    let mut data = vec![b'{'];
    for (index, write) in writes.iter().enumerate() {
        data.extend((index > 0).then_some(b','));
        write_json_string(&relative(&write.location, base), &mut data);
        data.push(b':');
        data.extend(write.json(&[], format));
    }
    data.push(b'}');
    let path = relative(&Location::Node(base.clone()), at);
    Event { kind: EventKind::Patch, path: format!("/{path}"), data }
}

/// What an overlay is to a watcher of `at`: a patch of single leaves, or a new value where `at` is
/// at or below one of them.
fn overlay(at: &Path, write: &Write, format: Format) -> Option<Event> {
    let base = write.location.path();
    let above = if at.contains(base) { Vec::new() } else { inside(at, &write.location) };
    let leaf_at_or_above = std::iter::successors(at.relative_to(base), Path::parent)
        .any(|path| write.rows.get(&path.encode()).is_some_and(|_| !at.contains(base) || *at == *base));
    if leaf_at_or_above {
        return Some(put(String::new(), write.json(&above, format)));
    }
    let mut data = vec![b'{'];
    for (key, value) in write.rows.iter() {
        let Some(relative) = key.strip_prefix(&above[..]) else { continue };
        let priority = is_priority_key(relative);
        let node = if priority { &relative[..relative.len() - 1] } else { relative };
        let (Some(path), Some(leaf)) = (Path::decode(node), Leaf::decode(value)) else { continue };
        let name = match (priority, path.is_root()) {
            (false, _) => path.as_str().to_owned(),
            (true, _) if format == Format::Plain => continue,
            (true, true) => ".priority".to_owned(),
            (true, false) => format!("{}/.priority", path.as_str()),
        };
        data.extend((data.len() > 1).then_some(b','));
        write_json_string(&name, &mut data);
        data.push(b':');
        leaf.write_json(&mut data);
    }
    data.push(b'}');
    let path = relative(&Location::Node(base.clone()), at);
    (data.len() > 2).then(|| Event { kind: EventKind::Patch, path: format!("/{path}"), data })
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    varint::write(text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

fn read_path(rest: &mut &[u8]) -> Option<Path> {
    let len = varint::read(rest)?;
    Path::parse(std::str::from_utf8(varint::take(rest, len)?).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{parse_merge, parse_value, tests::LIMITS};

    fn set(at: &str, json: &str) -> Change {
        let location = Location::parse(at).unwrap();
        let rows = parse_value(json.as_bytes(), &LIMITS).unwrap();
        Change { kind: ChangeKind::Set, base: location.path().clone(), writes: vec![Write { location, rows }] }
    }

    fn merge(at: &str, json: &str) -> Change {
        let base = Path::parse(at).unwrap();
        let merge = parse_merge(json.as_bytes(), &base, &LIMITS).unwrap();
        let writes = merge.writes.into_iter().map(|(location, rows)| Write { location, rows }).collect();
        Change { kind: ChangeKind::Merge, base, writes }
    }

    fn check(change: &Change, at: &str, format: Format, expected: &str) {
        let at = Path::parse(at).unwrap();
        let event = change.event(&at, format).map_or_else(String::new, |event| {
            format!("{:?} {} {}", event.kind, event.path, String::from_utf8(event.data).unwrap())
        });
        assert_eq!(event, expected, "{change:?} at {at}");
        assert!(event.is_empty() || change.touches(&at));
    }

    #[test]
    fn sets() {
        let change = set("a/b", r#"{"c":{"d":[5]},"e":{".value":1,".priority":2}}"#);
        for (at, expected) in [
            ("", r#"Put /a/b {"c":{"d":[5]},"e":1}"#),
            ("a", r#"Put /b {"c":{"d":[5]},"e":1}"#),
            ("a/b", r#"Put / {"c":{"d":[5]},"e":1}"#),
            ("a/b/c", r#"Put / {"d":[5]}"#),
            ("a/b/e", "Put / 1"),
            ("a/b/e/below-a-leaf", "Put / null"),
            ("a/b/x", "Put / null"),
            ("a/bc", ""),
            ("x", ""),
        ] {
            check(&change, at, Format::Plain, expected);
        }
        check(&change, "a/b/e", Format::Export, r#"Put / {".value":1,".priority":2}"#);
        check(&set("a", "null"), "", Format::Plain, "Put /a null");
    }

    #[test]
    fn merges() {
        let change = merge("a", r#"{"b/x":1,"b/y":null,"c":[{"z":2}]}"#);
        for (at, expected) in [
            ("", r#"Patch /a {"b/x":1,"b/y":null,"c":[{"z":2}]}"#),
            ("a", r#"Patch / {"b/x":1,"b/y":null,"c":[{"z":2}]}"#),
            ("a/b", r#"Patch / {"x":1,"y":null}"#),
            ("a/b/x", "Put / 1"),
            ("a/c", r#"Put / [{"z":2}]"#),
            ("a/c/0/z", "Put / 2"),
            ("a/d", ""),
        ] {
            check(&change, at, Format::Plain, expected);
        }
        check(&merge("a", r#"{"b/c/d":1,"e":2}"#), "a/b", Format::Plain, "Put /c/d 1");
        check(&merge("", r#"{"a/b":1}"#), "", Format::Plain, r#"Patch / {"a/b":1}"#);
        check(&merge("", "{}"), "", Format::Plain, "");
    }

    #[test]
    fn priorities() {
        let change = set("a/.priority", "3");
        check(&change, "", Format::Plain, "");
        check(&change, "", Format::Export, "Put /a/.priority 3");
        check(&change, "a", Format::Export, "Put /.priority 3");
        check(&change, "a/b", Format::Export, "");
        let change = merge("a", r#"{".priority":1,"b":2,"c/.priority":null}"#);
        check(&change, "", Format::Plain, r#"Patch /a {"b":2}"#);
        check(&change, "a", Format::Export, r#"Patch / {".priority":1,"b":2,"c/.priority":null}"#);
        check(&change, "a/c", Format::Plain, "");
        check(&change, "a/c", Format::Export, "Put /.priority null");
    }
}
