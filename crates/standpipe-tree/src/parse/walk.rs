//! The walk over one JSON value: visitors that turn it into rows as `serde_json` reads it.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::{ParseError, SpecialError};
use super::integers::may_be_rounded;
use super::{ParseLimits, RowSink};
use crate::key::{PRIORITY, check_key, decode_key, encode_key, segment_len};
use crate::leaf::{INCREMENT, Leaf, TIMESTAMP};
use crate::number::prints_back;

/// Everything that is known while walking. On a refusal it stays as it is, to say where that was.
pub(super) struct Walk<'s> {
    sink: &'s mut dyn RowSink,
    limits: ParseLimits,
    /// Where this walk starts, for errors.
    at: String,
    /// Encoded path of the node being read.
    key: Vec<u8>,
    depth: usize,
    /// The last scalar or placeholder, encoded.
    value: Vec<u8>,
    /// Encoded keys of all open objects, one behind the other.
    seen: Vec<u8>,
    pub(super) seen_bytes_max: usize,
    pub(super) leaves: usize,
    /// Whether a number may have lost digits.
    pub(super) rounded: bool,
    /// Why the walk ended early, if not for the text itself.
    pub(super) refused: Option<ParseError>,
}

impl<'s> Walk<'s> {
    pub(super) fn new(sink: &'s mut dyn RowSink, limits: ParseLimits, at: String) -> Walk<'s> {
        Walk {
            sink,
            limits,
            at,
            key: Vec::new(),
            depth: 0,
            value: Vec::new(),
            seen: Vec::new(),
            seen_bytes_max: usize::MAX,
            leaves: 0,
            rounded: false,
            refused: None,
        }
    }

    /// What to answer, after serde ended with `error`.
    pub(super) fn failure(self, error: &serde_json::Error) -> ParseError {
        self.refused.unwrap_or_else(|| unread(error))
    }

    /// The node being read, as a path.
    fn place(&self) -> String {
        let mut text = self.at.clone();
        let mut rest = &self.key[..];
        while let Some(len) = segment_len(rest) {
            text.push('/');
            decode_key(rest, &mut text);
            rest = &rest[len..];
        }
        if text.is_empty() { "/".to_owned() } else { text }
    }

    /// Keeps the reason and gives serde something to carry up.
    fn refuse<E: Error>(&mut self, error: ParseError) -> E {
        self.refused = Some(error);
        E::custom("refused")
    }

    fn special<E: Error>(&mut self, reason: SpecialError) -> E {
        let at = self.place();
        self.refuse(ParseError::Special { at, reason })
    }

    /// Encodes a scalar as `value`.
    fn scalar<E: Error>(&mut self, leaf: Leaf<'_>) -> Result<(), E> {
        if let Leaf::Str(text) = leaf
            && text.len() > self.limits.string_bytes_max
        {
            let (at, max) = (self.place(), self.limits.string_bytes_max);
            return Err(self.refuse(ParseError::StringTooLong { at, bytes: text.len(), max }));
        }
        self.value.clear();
        leaf.encode(&mut self.value);
        Ok(())
    }

    fn unsigned<E: Error>(&mut self, number: u64) -> Result<(), E> {
        if let Ok(number) = i64::try_from(number) {
            return self.scalar(Leaf::Int(number));
        }
        let literal = number.to_string();
        if !prints_back(&literal) {
            let at = self.place();
            return Err(self.refuse(ParseError::Number { at, literal }));
        }
        self.scalar(Leaf::number(number as f64))
    }

    fn double<E: Error>(&mut self, number: f64) -> Result<(), E> {
        self.rounded |= may_be_rounded(number);
        self.scalar(Leaf::number(number))
    }

    /// Encodes the content of `.sv` as `value` (firebase-rtdb.md §3.7).
    fn server_value<E: Error>(&mut self, content: &serde_json::Value) -> Result<(), E> {
        self.value.clear();
        match content {
            serde_json::Value::String(name) if name == "timestamp" => self.value.push(TIMESTAMP),
            serde_json::Value::Object(operation) if operation.len() == 1 => {
                let Some(by) = operation.get("increment").and_then(number) else {
                    return Err(self.special(SpecialError::ServerValue));
                };
                self.value.push(INCREMENT);
                by.encode(&mut self.value);
            }
            _ => return Err(self.special(SpecialError::ServerValue)),
        }
        Ok(())
    }

    /// Hands `value` to the sink as the row of `key`.
    pub(super) fn emit<E: Error>(&mut self) -> Result<(), E> {
        self.leaves += 1;
        if self.leaves > self.limits.leaves_max {
            return Err(self.refuse(ParseError::TooManyLeaves));
        }
        self.sink.row(&self.key, &self.value).map_err(|_stop| self.refuse(ParseError::Stopped))
    }

    fn emit_priority<E: Error>(&mut self, priority: &[u8]) -> Result<(), E> {
        self.value.clear();
        self.value.extend_from_slice(priority);
        self.key.push(PRIORITY);
        self.emit()?;
        self.key.pop();
        Ok(())
    }

    /// Goes down to the child whose encoded key was appended to `seen` at `from`.
    fn enter<E: Error>(&mut self, from: usize) -> Result<(), E> {
        self.key.extend_from_slice(&self.seen[from..]);
        self.depth += 1;
        if self.depth > self.limits.depth_left_max {
            let at = self.place();
            return Err(self.refuse(ParseError::Depth { at }));
        }
        if self.key.len() > self.limits.encoded_key_bytes_max {
            let at = self.place();
            return Err(self.refuse(ParseError::PathTooLong { at }));
        }
        Ok(())
    }

    /// Goes back up to the node whose encoded path has `len` bytes.
    fn leave(&mut self, len: usize) {
        self.key.truncate(len);
        self.depth -= 1;
    }
}

fn number(json: &serde_json::Value) -> Option<Leaf<'static>> {
    json.as_i64().map(Leaf::Int).or_else(|| json.as_f64().map(Leaf::number))
}

/// What to answer, when the text itself could not be read.
pub(super) fn unread(error: &serde_json::Error) -> ParseError {
    if error.is_io() { ParseError::Read(error.to_string()) } else { ParseError::Syntax }
}

/// Reads the value of a node, emits its rows, and says whether there were any.
pub(super) struct Node<'w, 's>(pub(super) &'w mut Walk<'s>);

impl<'w, 's> Node<'w, 's> {
    fn leaf<E: Error>(self, encoded: Result<(), E>) -> Result<bool, E> {
        encoded.and_then(|()| self.0.emit()).map(|()| true)
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
        let encoded = self.0.scalar(Leaf::Bool(value));
        self.leaf(encoded)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<bool, E> {
        let encoded = self.0.scalar(Leaf::Int(number));
        self.leaf(encoded)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<bool, E> {
        let encoded = self.0.unsigned(number);
        self.leaf(encoded)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<bool, E> {
        let encoded = self.0.double(number);
        self.leaf(encoded)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
        let encoded = self.0.scalar(Leaf::Str(text));
        self.leaf(encoded)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<bool, A::Error> {
        let walk = self.0;
        let start = walk.key.len();
        let mut filled = false;
        let mut index = 0u64;
        while let Some(element) = array.next_element_seed(Element { walk: &mut *walk, index })? {
            filled |= element;
            walk.leave(start);
            index += 1;
        }
        Ok(filled)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let walk = self.0;
        let (start, from) = (walk.key.len(), walk.seen.len());
        let mut object = Object { from, ..Object::default() };
        while let Some(member) = map.next_key_seed(Member { walk: &mut *walk, object: &mut object })? {
            match member {
                Name::Child => {
                    let kept = walk.seen.len();
                    object.filled |= map.next_value_seed(Node(&mut *walk))?;
                    walk.seen.truncate(kept);
                    walk.leave(start);
                }
                Name::Value => {
                    if map.next_value_seed(Scalar { walk: &mut *walk, role: SpecialError::Value })? {
                        walk.emit()?;
                        object.filled = true;
                    }
                }
                Name::Priority => {
                    if map.next_value_seed(Scalar { walk: &mut *walk, role: SpecialError::Priority })? {
                        object.priority = Some(walk.value.clone());
                    }
                }
                Name::ServerValue => {
                    walk.server_value(&map.next_value()?)?;
                    walk.emit()?;
                    object.filled = true;
                }
            }
        }
        walk.seen.truncate(from);
        if let Some(priority) = object.priority.filter(|_| object.filled) {
            walk.emit_priority(&priority)?;
        }
        Ok(object.filled)
    }
}

/// Reads one element of an array, going down to it.
struct Element<'w, 's> {
    walk: &'w mut Walk<'s>,
    index: u64,
}

impl<'de> DeserializeSeed<'de> for Element<'_, '_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        let Element { walk, index } = self;
        let from = walk.seen.len();
        encode_key(itoa::Buffer::new().format(index), &mut walk.seen);
        walk.enter(from)?;
        walk.seen.truncate(from);
        Node(walk).deserialize(deserializer)
    }
}

/// What an object has shown so far.
#[derive(Default)]
struct Object {
    /// Where its keys begin in `seen`.
    from: usize,
    /// Where its last key begins there.
    last: Option<usize>,
    /// Its keys, once they did not ascend.
    unordered: Option<HashSet<Box<[u8]>>>,
    /// Whether keys before the last one are no longer in `seen`.
    forgotten: bool,
    filled: bool,
    value: bool,
    server_value: bool,
    priority_seen: bool,
    priority: Option<Vec<u8>>,
}

#[derive(Clone, Copy)]
enum Name {
    Child,
    Value,
    Priority,
    ServerValue,
}

/// Reads the name of a member; for a child, goes down to it.
struct Member<'m, 's> {
    walk: &'m mut Walk<'s>,
    object: &'m mut Object,
}

impl Member<'_, '_> {
    fn special_name<E: Error>(self, name: &str) -> Result<Name, E> {
        let Member { walk, object } = self;
        let (flag, name) = match name {
            ".value" => (&mut object.value, Name::Value),
            ".priority" => (&mut object.priority_seen, Name::Priority),
            ".sv" => (&mut object.server_value, Name::ServerValue),
            _ => return Err(walk.special(SpecialError::Unknown)),
        };
        if std::mem::replace(flag, true) {
            return Err(walk.special(SpecialError::Twice));
        }
        check_company(walk, object)?;
        Ok(name)
    }

    fn child<E: Error>(self, key: &str) -> Result<Name, E> {
        let Member { walk, object } = self;
        if let Err(reason) = check_key(key) {
            let at = walk.place();
            return Err(walk.refuse(ParseError::Key { at, reason }));
        }
        let from = walk.seen.len();
        encode_key(key, &mut walk.seen);
        walk.enter(from)?;
        object.remember(walk, from)?;
        check_company(walk, object)?;
        Ok(Name::Child)
    }
}

/// Refuses special members in the wrong company.
fn check_company<E: Error>(walk: &mut Walk<'_>, object: &Object) -> Result<(), E> {
    let children = object.last.is_some();
    if object.server_value && (children || object.value || object.priority_seen) {
        return Err(walk.special(SpecialError::ServerValueWithOthers));
    }
    if object.value && children {
        return Err(walk.special(SpecialError::ValueWithChildren));
    }
    Ok(())
}

impl Object {
    /// Notes the key at the end of `seen`, from `from`, and refuses it if it was there before.
    ///
    /// While keys ascend, as in every export, comparing with the last one is enough.
    fn remember<E: Error>(&mut self, walk: &mut Walk<'_>, from: usize) -> Result<(), E> {
        let full = walk.seen.len() - self.from > walk.seen_bytes_max;
        let seen = &mut walk.seen;
        let ascends = self.last.is_none_or(|last| seen[last..from] < seen[from..]);
        self.last = Some(from);
        if ascends && self.unordered.is_none() {
            if full {
                seen.drain(self.from..from);
                self.last = Some(self.from);
                self.forgotten = true;
            }
            return Ok(());
        }
        if full || self.forgotten {
            let at = walk.place();
            return Err(walk.refuse(ParseError::Unsorted { at }));
        }
        let unordered = self.unordered.get_or_insert_with(|| segments(&seen[self.from..from]));
        if !unordered.insert(seen[from..].into()) {
            let at = walk.place();
            return Err(walk.refuse(ParseError::DuplicateKey { at }));
        }
        Ok(())
    }
}

fn segments(mut encoded: &[u8]) -> HashSet<Box<[u8]>> {
    let mut set = HashSet::new();
    while let Some(len) = segment_len(encoded) {
        set.insert(encoded[..len].into());
        encoded = &encoded[len..];
    }
    set
}

impl<'de> DeserializeSeed<'de> for Member<'_, '_> {
    type Value = Name;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Name, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Member<'_, '_> {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Name, E> {
        if key.starts_with('.') { self.special_name(key) } else { self.child(key) }
    }
}

/// Reads a `.value` or `.priority`, or the priority of a node as a whole text, into `Walk::value`.
///
/// Says whether there is one; null is none.
pub(super) struct Scalar<'w, 's> {
    pub(super) walk: &'w mut Walk<'s>,
    /// What to say when it is something else.
    pub(super) role: SpecialError,
}

impl Scalar<'_, '_> {
    fn refuse<E: Error>(self) -> Result<bool, E> {
        Err(self.walk.special(self.role))
    }
}

impl<'de> DeserializeSeed<'de> for Scalar<'_, '_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scalar<'_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a scalar")
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
        if self.role == SpecialError::Priority {
            return self.refuse();
        }
        self.walk.scalar(Leaf::Bool(value)).map(|()| true)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<bool, E> {
        self.walk.scalar(Leaf::Int(number)).map(|()| true)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<bool, E> {
        self.walk.unsigned(number).map(|()| true)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<bool, E> {
        self.walk.double(number).map(|()| true)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
        self.walk.scalar(Leaf::Str(text)).map(|()| true)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<bool, A::Error> {
        self.refuse()
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        if map.next_key::<String>()?.as_deref() != Some(".sv") {
            return self.refuse();
        }
        self.walk.server_value(&map.next_value()?)?;
        if map.next_key::<IgnoredAny>()?.is_some() {
            return Err(self.walk.special(SpecialError::ServerValueWithOthers));
        }
        Ok(true)
    }
}
