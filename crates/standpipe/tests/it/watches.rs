//! The watch validator: a recording of one event stream and of the writes made meanwhile, and the
//! checks that every stream must pass. Ordered: ids rise. Unique: none comes twice. Complete: every
//! acknowledged write between the first and the last id is there, unless it changes nothing at the
//! watched path. Faithful: the events, applied one by one, give the tree. It judges recordings only.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Map, Value, json};
use standpipe_testkit::http::Stream;

/// One event that is no keep-alive.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    /// `put`, `patch` or `reset`.
    pub(crate) name: String,
    /// The revision; none for a `reset`.
    pub(crate) rev: Option<u64>,
    /// The path, relative to what is watched.
    pub(crate) path: String,
    /// The value, or the children that changed.
    pub(crate) data: Value,
}

/// The next change of a stream.
pub(crate) fn next(stream: &mut Stream) -> Told {
    let (name, mut data, id) = stream.change().unwrap();
    let path = data["path"].as_str().unwrap_or_else(|| panic!("no path in {data}")).to_owned();
    let rev = (name != "reset").then(|| id.expect("puts and patches have an id").parse().unwrap());
    Told { name, rev, path, data: data["data"].take() }
}

/// Opens a stream; `since` is the id of the last event seen.
pub(crate) fn open(addr: SocketAddr, target: &str, since: Option<u64>) -> Stream {
    let since = since.map(|rev| rev.to_string());
    let header = since.as_deref().map(|rev| ("Last-Event-ID", rev));
    Stream::open(addr, target, header.as_slice()).unwrap()
}

/// Reads changes up to the one at `rev`.
pub(crate) fn read_to(stream: &mut Stream, told: &mut Vec<Told>, rev: u64) {
    while told.last().and_then(|told| told.rev).is_none_or(|last| last < rev) {
        told.push(next(stream));
    }
}

/// A write that was acknowledged: where, what, and its revision.
#[derive(Clone, Debug)]
pub(crate) struct Wrote {
    pub(crate) rev: u64,
    /// `/a/b`; the base of a patch.
    pub(crate) path: String,
    /// True for a patch, whose value holds children by their relative paths.
    pub(crate) merge: bool,
    pub(crate) value: Value,
}

impl Wrote {
    /// What a watcher of `at` is told (firebase-rtdb §10); none when it is not concerned.
    fn seen_at(&self, at: &str) -> Option<Told> {
        let rev = Some(self.rev);
        if let Some(path) = below(&self.path, at) {
            let name = if self.merge { "patch" } else { "put" };
            return Some(Told { name: name.into(), rev, path, data: self.value.clone() });
        }
        if let Some(rest) = below(at, &self.path).filter(|_| !self.merge) {
            let data = self.value.pointer(&rest).cloned().unwrap_or_default();
            return Some(Told { name: "put".into(), rev, path: "/".into(), data });
        }
        let members = self.value.as_object().filter(|_| self.merge)?;
        let full = |key: &str| if self.path == "/" { format!("/{key}") } else { format!("{}/{key}", self.path) };
        let inside = members.iter().filter_map(|(key, value)| Some((below(&full(key), at)?, value.clone())));
        let inside: Vec<_> = inside.collect();
        match &inside[..] {
            [] => None,
            [(path, value)] => Some(Told { name: "put".into(), rev, path: path.clone(), data: value.clone() }),
            _ => {
                let data = inside.into_iter().map(|(path, value)| (path[1..].to_owned(), value)).collect();
                Some(Told { name: "patch".into(), rev, path: "/".into(), data: Value::Object(data) })
            }
        }
    }
}

/// `path` relative to `at`, with a leading slash; none outside of it.
fn below(path: &str, at: &str) -> Option<String> {
    if path == at || at == "/" {
        return Some(if path == at { "/".into() } else { path.into() });
    }
    path.strip_prefix(at).filter(|rest| rest.starts_with('/')).map(str::to_owned)
}

/// Checks a recording that begins with the value at `at`; `end` is the tree at its last revision.
pub(crate) fn validate(at: &str, told: &[Told], wrote: &[Wrote], end: &Value) {
    let first = told[0].rev.expect("a recording begins with a value");
    assert_eq!((&*told[0].name, &*told[0].path), ("put", "/"));
    assert!(told.iter().all(|told| told.rev.is_some()), "a reset in the middle");
    for pair in told.windows(2) {
        assert!(pair[0].rev < pair[1].rev, "{at}: out of order or twice: {pair:#?}");
    }
    let last = told.last().and_then(|told| told.rev).expect("checked above");
    let mut expected = BTreeMap::new();
    for wrote in wrote.iter().filter(|wrote| first < wrote.rev && wrote.rev <= last) {
        if let Some(seen) = wrote.seen_at(at) {
            assert!(expected.insert(wrote.rev, seen).is_none(), "two writes have revision {}", wrote.rev);
        }
    }
    let mut view = Value::Null;
    apply(&mut view, &told[0]);
    let mut got = told[1..].iter().peekable();
    for seen in expected.values() {
        if got.next_if(|told| *told == seen).is_some() {
            apply(&mut view, seen);
            continue;
        }
        let mut after = view.clone();
        apply(&mut after, seen);
        assert_eq!(canonical(&after), canonical(&view), "{at}: missed {seen:?}; next came {:?}", got.peek());
    }
    assert_eq!(got.next(), None, "{at}: never acknowledged, or told differently");
    assert_eq!(canonical(&view), canonical(end), "{at}: the view is not the tree");
}

/// Applies one event to what a client has.
pub(crate) fn apply(view: &mut Value, told: &Told) {
    let segments = |path: &str| path.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    match told.name.as_str() {
        "put" => set(view, &segments(&told.path), &told.data),
        "patch" => {
            for (key, value) in told.data.as_object().expect("a patch is an object") {
                set(view, &segments(&format!("{}/{key}", told.path)), value);
            }
        }
        name => panic!("an event named {name}"),
    }
}

/// Sets a value in a tree; null removes, and empty objects vanish.
pub(crate) fn set(tree: &mut Value, path: &[String], value: &Value) {
    let Some((key, rest)) = path.split_first() else {
        *tree = value.clone();
        return;
    };
    if !tree.is_object() {
        *tree = canonical(tree);
    }
    if !tree.is_object() {
        *tree = json!({});
    }
    let members = tree.as_object_mut().expect("made one above");
    let child = members.entry(key.clone()).or_insert(Value::Null);
    set(child, rest, value);
    if is_empty(child) {
        members.remove(key);
    }
    if members.is_empty() {
        *tree = Value::Null;
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(members) => members.values().all(is_empty),
        Value::Array(items) => items.iter().all(is_empty),
        _ => false,
    }
}

/// A tree in one form: arrays are objects, empty members are gone, numbers are doubles where
/// they are not whole.
pub(crate) fn canonical(value: &Value) -> Value {
    let members: Map<String, Value> = match value {
        Value::Object(members) => members.iter().map(|(key, value)| (key.clone(), canonical(value))).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(n, item)| (n.to_string(), canonical(item))).collect(),
        // 90.0 is kept as 90.
        Value::Number(number) => match number.as_f64() {
            Some(whole) if whole.fract() == 0.0 && whole.abs() < 1e15 => return json!(whole as i64),
            _ => return value.clone(),
        },
        leaf => return leaf.clone(),
    };
    let members: Map<_, _> = members.into_iter().filter(|(_, value)| !value.is_null()).collect();
    if members.is_empty() { Value::Null } else { Value::Object(members) }
}
