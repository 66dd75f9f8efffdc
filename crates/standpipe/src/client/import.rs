//! Loading a JSON text of any length: a row at a time into updates of about 4 MiB, in flat memory.
//! What JSON means as rows is `standpipe_tree`'s; who takes the updates, a server or a folder, the
//! target's.

use std::io::{BufReader, Read};

use serde::Serialize;
use standpipe_engine::row_digest;
use standpipe_tree::{
    Leaf, ParseError, ParseLimits, Path, RowSink, Rows, RowsBuilder, Stop, is_priority_key, parse_stream,
    write_json_string,
};

use super::{Call, Target, Verb};
use crate::exit::{Failure, Result};

/// Size of an update: large enough that its commit does not matter, small enough to hold in memory.
const UPDATE_BYTES: usize = 4 << 20;
const READ_BYTES: usize = 256 << 10;

/// What was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Loaded {
    values: u64,
    priorities: u64,
    updates: u64,
    /// Sum over all rows, 32 hexadecimal digits: what `verify` prints for a database that holds
    /// nothing else. Later duplicates in the text count too.
    digest: String,
}

/// Loads `source` into `path`, in place of what is there or, where `merge`, over it.
///
/// # Errors
/// The text is no JSON of the tree, or an update is refused. What was written before stays.
pub(crate) fn load(source: &mut dyn Read, path: &str, merge: bool, target: &mut Target) -> Result<Loaded> {
    let base = Path::parse(path).map_err(|error| Failure::usage(format!("{path}: {error}")))?;
    if !merge {
        target.call(&Call::silent(Verb::Put, path, "null"), &mut std::io::sink())?;
    }
    let limits = ParseLimits::below(&base);
    let mut send = |update| match update {
        Update::Values(rows) => target.overlay(&base, rows),
        Update::Priorities(body) => target.call(&Call::silent(Verb::Patch, path, body), &mut std::io::sink()),
    };
    let mut updates = Updates::new(&base, &mut send);
    let parsed = parse_stream(BufReader::with_capacity(READ_BYTES, source), &mut updates, &limits);
    match (parsed, updates.failure.take()) {
        (Ok(()), None) => {
            let loaded = updates.finish()?;
            target.settle()?;
            Ok(loaded)
        }
        (_, Some(failure)) => Err(failure),
        (Err(error), None) => Err(refused(&error)),
    }
}

fn refused(error: &ParseError) -> Failure {
    Failure::failed(error.to_string()).help("nothing after that place was loaded; mend the file and import it again")
}

/// What is written at once.
#[derive(Debug)]
enum Update {
    /// Leaves to put.
    Values(Rows),
    /// A JSON object of priorities to set.
    Priorities(Vec<u8>),
}

/// Collects rows into updates.
struct Updates<'a> {
    /// The encoded target: rows count for the digest where they will be.
    base: Vec<u8>,
    /// The leaves of the next update.
    values: RowsBuilder,
    /// Their bytes.
    bytes: usize,
    /// Members of the update after it, each followed by a comma: a priority needs its node.
    priorities: Vec<u8>,
    loaded: Loaded,
    digest: u128,
    send: &'a mut dyn FnMut(Update) -> Result<()>,
    /// Why the parser was stopped.
    failure: Option<Failure>,
}

impl<'a> Updates<'a> {
    fn new(base: &Path, send: &'a mut dyn FnMut(Update) -> Result<()>) -> Self {
        Self {
            base: base.encode(),
            values: builder(),
            bytes: 0,
            priorities: Vec::new(),
            loaded: Loaded::default(),
            digest: 0,
            send,
            failure: None,
        }
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let Some(leaf) = Leaf::decode(value) else { return Err(server_value(key)) };
        self.digest = self.digest.wrapping_add(row_digest(&[&self.base[..], key].concat(), value));
        if is_priority_key(key) {
            self.loaded.priorities += 1;
            let path = Path::decode(&key[..key.len() - 1]).unwrap_or_default();
            let name = if path.is_root() { ".priority".to_owned() } else { format!("{}/.priority", path.as_str()) };
            member(&name, leaf, &mut self.priorities);
        } else {
            self.loaded.values += 1;
            self.values.push(key, value);
        }
        self.bytes += key.len() + value.len();
        if self.bytes >= UPDATE_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.bytes = 0;
        let values = std::mem::replace(&mut self.values, builder());
        let rows = values.finish().map_err(|error| Failure::failed(error.to_string()))?;
        if !rows.is_empty() {
            self.loaded.updates += 1;
            (self.send)(Update::Values(rows))?;
        }
        if self.priorities.pop().is_some() {
            let body = [b"{", &self.priorities[..], b"}"].concat();
            self.priorities.clear();
            self.loaded.updates += 1;
            (self.send)(Update::Priorities(body))?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Loaded> {
        self.flush()?;
        Ok(Loaded { digest: format!("{:032x}", self.digest), ..self.loaded })
    }
}

/// Room for an update of leaves as small as leaves usually are.
fn builder() -> RowsBuilder {
    RowsBuilder::with_capacity(UPDATE_BYTES / 32, UPDATE_BYTES + UPDATE_BYTES / 16)
}

fn server_value(key: &[u8]) -> Failure {
    let path = Path::decode(key).unwrap_or_default();
    Failure::failed(format!("{path}: a server value (.sv) can't be imported"))
        .help("write it with standpipe put or patch, or put a plain value in the file")
}

impl RowSink for Updates<'_> {
    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), Stop> {
        self.take(key, value).map_err(|failure| {
            self.failure = Some(failure);
            Stop
        })
    }
}

/// `"name":leaf,`
fn member(name: &str, leaf: Leaf<'_>, out: &mut Vec<u8>) {
    write_json_string(name, out);
    out.push(b':');
    leaf.write_json(out);
    out.push(b',');
}

#[cfg(test)]
mod tests {
    use standpipe_tree::{Format, to_json};

    use super::*;

    /// The requests that loading `text` below `/base` makes, and what it counts.
    fn requests(text: &str) -> Result<(Vec<String>, Loaded)> {
        let mut sent = Vec::new();
        let mut send = |update| {
            sent.push(match update {
                Update::Values(rows) => {
                    let Ok(json) = to_json(&mut rows.cursor(), Format::Export);
                    format!("values {}", String::from_utf8(json).unwrap())
                }
                Update::Priorities(body) => format!("priorities {}", String::from_utf8(body).unwrap()),
            });
            Ok(())
        };
        let limits = ParseLimits::below(&Path::root());
        let mut updates = Updates::new(&Path::parse("/base").unwrap(), &mut send);
        let parsed = parse_stream(text.as_bytes(), &mut updates, &limits);
        if let Some(failure) = updates.failure.take() {
            return Err(failure);
        }
        parsed.map_err(|error| refused(&error))?;
        let loaded = updates.finish()?;
        Ok((sent, loaded))
    }

    fn check(text: &str, expected: &[&str]) {
        assert_eq!(requests(text).unwrap().0, expected, "{text}");
    }

    #[test]
    fn rows_become_updates() {
        check(r#"{"a":{"b":1,"c":"x\"y"},"d":true}"#, &[r#"values {"a":{"b":1,"c":"x\"y"},"d":true}"#]);
        check(r#"[10,null,"é"]"#, &[r#"values {"0":10,"2":"é"}"#]);
        check("5.5", &["values 5.5"]);
        check("null", &[]);
        check("{}", &[]);
    }

    #[test]
    fn priorities_follow_their_nodes() {
        check(
            r#"{"a":{".value":1,".priority":2},"b":{".priority":"p","c":3}}"#,
            &[r#"values {"a":1,"b":{"c":3}}"#, r#"priorities {"a/.priority":2,"b/.priority":"p"}"#],
        );
        check(r#"{".value":1,".priority":2}"#, &["values 1", r#"priorities {".priority":2}"#]);
    }

    #[test]
    fn updates_are_bounded() {
        let value = "v".repeat(4_000);
        let members: Vec<String> = (0..3_000).map(|n| format!(r#""k{n:04}":"{value}""#)).collect();
        let (sent, loaded) = requests(&format!("{{{}}}", members.join(","))).unwrap();
        assert_eq!((sent.len(), loaded.values, loaded.updates), (3, 3_000, 3));
        assert!(sent.iter().all(|update| update.len() < UPDATE_BYTES + 100_000));
    }

    #[test]
    fn the_digest_depends_on_the_rows_alone() {
        let digest = |text| requests(text).unwrap().1.digest;
        assert_eq!(digest(r#"{"a":1,"b":{"c":2}}"#), digest(r#"{"b":{"c":2},"a":1}"#));
        assert_ne!(digest(r#"{"a":1}"#), digest(r#"{"a":2}"#));
        assert_ne!(digest(r#"{"a":1}"#), digest(r#"{"b":1}"#));
        assert_eq!(digest("null"), "0".repeat(32));
    }

    #[test]
    fn what_cannot_be_loaded_is_named() {
        let check = |text, part: &str| {
            let told = requests(text).unwrap_err().to_string();
            assert!(told.contains(part), "{part:?} is not in {told}");
        };
        check(r#"{"a":{"b":{".sv":"timestamp"}}}"#, "/a/b: a server value");
        check("{\"a\":", "help: ");
    }
}
