//! A naive tree in memory, to test against: everything is done the obvious, slow way.
//!
//! It shares nothing with the real thing but the decoding of rows and the text of leaves: order, arrays,
//! hashes and queries are written down a second time, straight from the specification.

use std::cmp::Ordering;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::json::Format;
use crate::key::{decode_key, integer_key};
use crate::leaf::OwnedLeaf;
use crate::path::{Location, Path};
use crate::query::{Bound, BoundKey, BoundValue, OrderBy, Query, Side};
use crate::rows::Rows;

/// A whole database.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    root: Node,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Node {
    leaf: Option<OwnedLeaf>,
    priority: Option<OwnedLeaf>,
    /// In key order.
    children: Vec<(String, Node)>,
}

impl Model {
    /// Replaces one location.
    pub fn set(&mut self, location: &Location, rows: &Rows) {
        self.write(location, rows);
        self.root.prune();
    }

    /// Replaces several locations at once. What is empty in between does not count.
    pub fn merge(&mut self, writes: &[(Location, Rows)]) {
        writes.iter().for_each(|(location, rows)| self.write(location, rows));
        self.root.prune();
    }

    fn write(&mut self, location: &Location, rows: &Rows) {
        let new = Node::from_rows(rows);
        let keys: Vec<&str> = location.path().segments().collect();
        match location {
            Location::Priority(_) => self.root.make(&keys).priority = new.leaf,
            Location::Node(_) if new.is_empty() => self.root.remove(&keys),
            Location::Node(_) => *self.root.make_inner(&keys) = new,
        }
    }

    /// The value at `path` as JSON text.
    pub fn json(&self, path: &Path, format: Format) -> String {
        self.node(path).map_or("null".to_owned(), |node| node.json(format))
    }

    /// The hash of the value at `path`; empty when nothing is there.
    pub fn hash(&self, path: &Path) -> String {
        self.node(path).map_or(String::new(), Node::hash)
    }

    /// The keys of the children of `path` that `query` selects, in its order.
    pub fn query(&self, path: &Path, query: &Query) -> Vec<Box<str>> {
        let Some(node) = self.node(path) else { return Vec::new() };
        let mut children: Vec<(Rank, &str)> =
            node.children.iter().map(|(key, child)| (child.index_value(&query.order_by), &key[..])).collect();
        if query.order_by != OrderBy::Key {
            children.sort_by(|a, b| a.0.compare(&b.0));
        }
        children.retain(|child| {
            let inside = |bound: &Option<Bound>, side| {
                bound.as_ref().is_none_or(|bound| match compare_to_bound(child, bound, &query.order_by) {
                    Ordering::Equal => bound.inclusive,
                    order => order == side,
                })
            };
            inside(&query.start, Ordering::Greater) && inside(&query.end, Ordering::Less)
        });
        let excess = query.limit.map_or(0, |limit| children.len().saturating_sub(limit.count));
        let kept = match query.limit.map(|limit| limit.side) {
            Some(Side::Last) => &children[excess..],
            _ => &children[..children.len() - excess],
        };
        kept.iter().map(|child| child.1.into()).collect()
    }

    fn node(&self, path: &Path) -> Option<&Node> {
        path.segments().try_fold(&self.root, |node, key| node.child(key)).filter(|node| !node.is_empty())
    }
}

fn compare_to_bound((rank, key): &(Rank, &str), bound: &Bound, order_by: &OrderBy) -> Ordering {
    match (&bound.value, order_by) {
        (BoundValue::Str(bound), OrderBy::Key) => return compare_keys(key, bound),
        (_, OrderBy::Key) => return Ordering::Greater,
        _ => {}
    }
    let value = match &bound.value {
        BoundValue::Null => Rank::Absent,
        BoundValue::Bool(value) => Rank::Bool(*value),
        BoundValue::Number(number) => Rank::Number(*number),
        BoundValue::Str(text) => Rank::Str(text.to_string()),
    };
    rank.compare(&value).then_with(|| match &bound.key {
        BoundKey::None => Ordering::Equal,
        BoundKey::Min => Ordering::Greater,
        BoundKey::Max => Ordering::Less,
        BoundKey::Key(bound) => compare_keys(key, bound),
    })
}

/// A value in the order of values (firebase-rtdb.md §3.4).
enum Rank {
    Absent,
    Bool(bool),
    Number(f64),
    Str(String),
    Node,
}

impl Rank {
    fn of(leaf: Option<&OwnedLeaf>) -> Rank {
        match leaf {
            None => Rank::Absent,
            Some(OwnedLeaf::Bool(value)) => Rank::Bool(*value),
            Some(OwnedLeaf::Int(number)) => Rank::Number(*number as f64),
            Some(OwnedLeaf::Double(number)) => Rank::Number(*number),
            Some(OwnedLeaf::Str(text)) => Rank::Str(text.to_string()),
        }
    }

    fn class(&self) -> u8 {
        match self {
            Rank::Absent => 0,
            Rank::Bool(false) => 1,
            Rank::Bool(true) => 2,
            Rank::Number(_) => 3,
            Rank::Str(_) => 4,
            Rank::Node => 5,
        }
    }

    fn compare(&self, other: &Rank) -> Ordering {
        match (self, other) {
            (Rank::Number(a), Rank::Number(b)) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
            (Rank::Str(a), Rank::Str(b)) => a.encode_utf16().cmp(b.encode_utf16()),
            _ => self.class().cmp(&other.class()),
        }
    }
}

/// Integer-like keys by number and length, then all others by UTF-16 unit (firebase-rtdb.md §3.5).
fn compare_keys(a: &str, b: &str) -> Ordering {
    match (integer_key(a), integer_key(b)) {
        (Some(x), Some(y)) => x.cmp(&y).then(a.len().cmp(&b.len())).then(b.cmp(a)),
        (x, y) => y.is_some().cmp(&x.is_some()).then_with(|| a.encode_utf16().cmp(b.encode_utf16())),
    }
}

impl Node {
    fn from_rows(rows: &Rows) -> Node {
        let mut root = Node::default();
        for (key, value) in rows.iter() {
            let mut keys = Vec::new();
            let mut rest = key;
            while !rest.is_empty() && rest != [0] {
                let mut text = String::new();
                let len = decode_key(rest, &mut text).expect("rows to test with are not corrupt");
                keys.push(text);
                rest = &rest[len..];
            }
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let node = root.make(&keys);
            let slot = if rest.is_empty() { &mut node.leaf } else { &mut node.priority };
            *slot = OwnedLeaf::decode(value);
        }
        root
    }

    fn is_empty(&self) -> bool {
        self.leaf.is_none() && self.children.iter().all(|(_, child)| child.is_empty())
    }

    fn child(&self, key: &str) -> Option<&Node> {
        self.children.iter().find(|(other, _)| other == key).map(|(_, child)| child)
    }

    /// The node at a path, made if it is not there.
    fn make(&mut self, keys: &[&str]) -> &mut Node {
        let Some((key, rest)) = keys.split_first() else { return self };
        let at = self.children.iter().position(|(other, _)| compare_keys(other, key).is_ge());
        let at = at.unwrap_or(self.children.len());
        if self.children.get(at).is_none_or(|(other, _)| other != key) {
            self.children.insert(at, (key.to_string(), Node::default()));
        }
        self.children[at].1.make(rest)
    }

    /// As `make`, with everything above turned into inner nodes.
    fn make_inner(&mut self, keys: &[&str]) -> &mut Node {
        for depth in 0..keys.len() {
            self.make(&keys[..depth]).leaf = None;
        }
        self.make(keys)
    }

    fn remove(&mut self, keys: &[&str]) {
        match keys {
            [] => *self = Node::default(),
            [key, rest @ ..] => {
                if let Some((_, child)) = self.children.iter_mut().find(|(other, _)| other == key) {
                    child.remove(rest);
                }
            }
        }
    }

    fn prune(&mut self) {
        self.children.iter_mut().for_each(|(_, child)| child.prune());
        self.children.retain(|(_, child)| !child.is_empty());
        if self.is_empty() {
            self.priority = None;
        }
    }

    fn json(&self, format: Format) -> String {
        let export = format == Format::Export;
        let priority =
            self.priority.as_ref().filter(|_| export).map(|priority| format!("\".priority\":{}", text(priority)));
        match (&self.leaf, priority) {
            (Some(leaf), None) => text(leaf),
            (Some(leaf), Some(priority)) => format!("{{\".value\":{},{priority}}}", text(leaf)),
            (None, None) if !export && self.is_array() => self.array(),
            (None, priority) => {
                let child = |(key, child): &(String, Node)| format!("{}:{}", quoted(key), child.json(format));
                let members: Vec<String> = priority.into_iter().chain(self.children.iter().map(child)).collect();
                format!("{{{}}}", members.join(","))
            }
        }
    }

    fn is_array(&self) -> bool {
        let index = |key: &String| key.parse::<u32>().ok().filter(|index| index.to_string() == *key);
        let indexes: Option<Vec<u32>> = self.children.iter().map(|(key, _)| index(key)).collect();
        indexes.is_some_and(|indexes| {
            let max = indexes.iter().max().copied().unwrap_or(0) as usize;
            max <= i32::MAX as usize && max < 2 * indexes.len()
        })
    }

    fn array(&self) -> String {
        let max: usize = self.children.iter().filter_map(|(key, _)| key.parse().ok()).max().unwrap_or(0);
        let element =
            |index: usize| self.child(&index.to_string()).map_or("null".to_owned(), |child| child.json(Format::Plain));
        format!("[{}]", (0..=max).map(element).collect::<Vec<_>>().join(","))
    }

    fn hash(&self) -> String {
        let mut text =
            self.priority.as_ref().map_or(String::new(), |priority| format!("priority:{}:", hash_text(priority)));
        let mut children: Vec<_> = self.children.iter().collect();
        children.sort_by(|a, b| Rank::of(a.1.priority.as_ref()).compare(&Rank::of(b.1.priority.as_ref())));
        match &self.leaf {
            Some(leaf) => text += &hash_text(leaf),
            None => children.iter().for_each(|(key, child)| text += &format!(":{key}:{}", child.hash())),
        }
        STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
    }

    fn index_value(&self, order_by: &OrderBy) -> Rank {
        match order_by {
            OrderBy::Key => Rank::Absent,
            OrderBy::Priority => Rank::of(self.priority.as_ref()),
            OrderBy::Value if self.leaf.is_none() => Rank::Node,
            OrderBy::Value => Rank::of(self.leaf.as_ref()),
            OrderBy::Child(path) => {
                let node = path.segments().try_fold(self, |node, key| node.child(key));
                node.map_or(Rank::Absent, |node| node.index_value(&OrderBy::Value))
            }
        }
    }
}

fn text(leaf: &OwnedLeaf) -> String {
    let mut out = Vec::new();
    leaf.as_leaf().write_json(&mut out);
    String::from_utf8(out).expect("JSON is UTF-8")
}

fn quoted(key: &str) -> String {
    serde_json::to_string(key).expect("a string has no reason not to be JSON")
}

fn hash_text(leaf: &OwnedLeaf) -> String {
    let number = |number: f64| format!("number:{:016x}", number.to_bits());
    match leaf {
        OwnedLeaf::Bool(value) => format!("boolean:{value}"),
        OwnedLeaf::Int(value) => number(*value as f64),
        OwnedLeaf::Double(value) => number(*value),
        OwnedLeaf::Str(text) => format!("string:{text}"),
    }
}
