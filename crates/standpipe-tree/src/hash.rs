//! The hash of a subtree, exactly as Firebase clients compute it (firebase-rtdb.md §3.6).
//!
//! Works on any [`RowCursor`] in one pass. Children without priority come first in the hash and go straight
//! into it; only children with a priority are kept, to be sorted by it.

use std::cmp::Ordering;

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::key::{PRIORITY, decode_key, segment_len};
use crate::leaf::{Leaf, OwnedLeaf};
use crate::rows::{Row, RowCursor};

/// The ETag of a location without value (firebase-rtdb.md §9.4).
pub const NULL_ETAG: &str = "null_etag";

/// The hash of the cursor's subtree; empty when nothing is there.
pub fn hash<'a, C: RowCursor<'a>>(cursor: &mut C) -> Result<String, C::Error> {
    let mut nodes = Nodes::default();
    let mut row = cursor.seek(&[])?;
    while let Some(current) = row {
        row = nodes.row(cursor, current)?;
    }
    while !nodes.open.is_empty() {
        nodes.close();
    }
    Ok(nodes.root)
}

/// The ETag of the cursor's subtree: its hash, or [`NULL_ETAG`].
pub fn etag<'a, C: RowCursor<'a>>(cursor: &mut C) -> Result<String, C::Error> {
    let hash = hash(cursor)?;
    Ok(if hash.is_empty() { NULL_ETAG.to_owned() } else { hash })
}

/// The open inner nodes, outermost first.
#[derive(Default)]
struct Nodes {
    open: Vec<Node>,
    /// Encoded path of the innermost one.
    path: Vec<u8>,
    /// The hash of the whole, once it is known.
    root: String,
    text: String,
}

struct Node {
    /// Length of its encoded path.
    end: usize,
    digest: Context,
    priority: Option<OwnedLeaf>,
    filled: bool,
    /// Children with priority: that and what they add to the digest, in key order.
    ranked: Vec<(OwnedLeaf, String)>,
}

impl Nodes {
    /// Takes in one row and returns the row behind it.
    fn row<'a, C: RowCursor<'a>>(
        &mut self,
        cursor: &mut C,
        (key, value): Row<'a>,
    ) -> Result<Option<Row<'a>>, C::Error> {
        while self.open.len() > 1 && !key.starts_with(&self.path) {
            self.close();
        }
        if self.open.is_empty() && !key.is_empty() {
            self.open(key, 0);
        }
        loop {
            let start = self.path.len();
            let rest = &key[start..];
            match segment_len(rest) {
                Some(len) if len < rest.len() => self.open(key, start + len),
                None if rest == [PRIORITY] => {
                    self.prioritize(value);
                    return cursor.next();
                }
                // A child that is a leaf, or the root being one.
                _ => return self.leaf(cursor, key, value),
            }
        }
    }

    fn open(&mut self, key: &[u8], end: usize) {
        self.path.extend_from_slice(&key[self.path.len()..end]);
        let digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        self.open.push(Node { end, digest, priority: None, filled: false, ranked: Vec::new() });
    }

    /// Takes in the priority of the innermost node, which comes before its children.
    fn prioritize(&mut self, value: &[u8]) {
        let Some((node, priority)) = self.open.last_mut().zip(Leaf::decode(value)) else { return };
        self.text.clear();
        write_priority(&priority, &mut self.text);
        node.digest.update(self.text.as_bytes());
        node.priority = Some(priority.into());
    }

    fn leaf<'a, C: RowCursor<'a>>(
        &mut self,
        cursor: &mut C,
        key: &[u8],
        value: &[u8],
    ) -> Result<Option<Row<'a>>, C::Error> {
        let mut next = cursor.next()?;
        let mut priority = None;
        if let Some((priority_key, value)) = next
            && priority_key.strip_prefix(key) == Some(&[PRIORITY])
        {
            priority = Leaf::decode(value);
            next = cursor.next()?;
        }
        self.text.clear();
        priority.iter().for_each(|priority| write_priority(priority, &mut self.text));
        // Only a damaged store has what cannot be decoded; it counts as nothing.
        Leaf::decode(value).iter().for_each(|leaf| write_leaf(leaf, &mut self.text));
        let hash = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, self.text.as_bytes()));
        self.child(&key[self.path.len()..], priority.map(OwnedLeaf::from), hash);
        Ok(next)
    }

    /// Adds a child to the innermost node, or the root to nothing.
    fn child(&mut self, segment: &[u8], priority: Option<OwnedLeaf>, hash: String) {
        let Some(parent) = self.open.last_mut() else {
            self.root = hash;
            return;
        };
        parent.filled = true;
        self.text.clear();
        self.text.push(':');
        decode_key(segment, &mut self.text);
        self.text.push(':');
        self.text.push_str(&hash);
        match priority {
            None => parent.digest.update(self.text.as_bytes()),
            Some(priority) => parent.ranked.push((priority, self.text.clone())),
        }
    }

    fn close(&mut self) {
        let Some(Node { end, mut digest, priority, filled, mut ranked }) = self.open.pop() else { return };
        let start = self.open.last().map_or(0, |parent| parent.end);
        let segment = self.path.split_off(start);
        debug_assert_eq!(start + segment.len(), end);
        if !filled {
            return;
        }
        // Stable: children of equal priority stay in key order.
        ranked.sort_by(|a, b| compare_priorities(&a.0, &b.0));
        ranked.iter().for_each(|(_, text)| digest.update(text.as_bytes()));
        self.child(&segment, priority, STANDARD.encode(digest.finish()));
    }
}

fn compare_priorities(a: &OwnedLeaf, b: &OwnedLeaf) -> Ordering {
    a.as_leaf().compare(&b.as_leaf())
}

fn write_priority(priority: &Leaf<'_>, out: &mut String) {
    out.push_str("priority:");
    write_leaf(priority, out);
    out.push(':');
}

fn write_leaf(leaf: &Leaf<'_>, out: &mut String) {
    match leaf {
        Leaf::Bool(value) => out.push_str(if *value { "boolean:true" } else { "boolean:false" }),
        Leaf::Int(number) => write_number(*number as f64, out),
        Leaf::Double(number) => write_number(*number, out),
        Leaf::Str(text) => {
            out.push_str("string:");
            out.push_str(text);
        }
    }
}

/// The double's bits, most significant first, in hex.
fn write_number(number: f64, out: &mut String) {
    out.push_str("number:");
    let bits = number.to_bits();
    out.extend((0..16).rev().map(|nibble| char::from(b"0123456789abcdef"[(bits >> (nibble * 4)) as usize & 15])));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{parse_value, tests::LIMITS};

    fn check(json: &str, expected: &str) {
        let rows = parse_value(json.as_bytes(), &LIMITS).unwrap();
        assert_eq!(hash(&mut rows.cursor()).unwrap(), expected, "{json}");
    }

    #[test]
    fn the_vectors_of_the_specification() {
        for (json, expected) in [
            ("null", ""),
            ("1", "YPVfR2bXt/lcDjiQZ8pOkAd3qkQ="),
            ("0", "7ysMph9WPitGP7poMnMHMVPtUlI="),
            ("-2.5", "eBj7htp2uFU6m+ykmQDcicyETbY="),
            (r#""a""#, "eMfSk0nU+CieTkCbO5r7cKNp7qU="),
            (r#""""#, "Ki0Xy0V6morg0TO3Sxi/jwugYDQ="),
            ("true", "E5z61QM0lN/U2WsOnusszCTkR8M="),
            ("false", "aSSNoqcS4oQwJ2xxH20rvpp3zP0="),
            (r#""é🦊""#, "+HUSS5BryPw6JEnLufSoHMeqLGk="),
            (r#"{"a":1}"#, "gIphxiFGusLh2VwSNVKSvNu90m4="),
            (r#"{"a":1,"b":"x"}"#, "jRI9dwRS9sb4SWm8uuoN7+xBk4g="),
            ("[10,20]", "ZT/ZNoiiwCpA24L5OhVKTnlwNuI="),
            (r#"{"9":"n","10":"t","k":"z"}"#, "qreyOwl2JVoNZpNHIxvV9wwHLj4="),
            (r#"{".value":7,".priority":2}"#, "66RsugLFRVPp0Z7gqfndBOnHyV4="),
            (r#"{".value":7,".priority":"hi"}"#, "mTHDPowR3vNw52u1W5TURH5SqyQ="),
            (r#"{"k":{".value":1,".priority":5},"j":{".value":2,".priority":1}}"#, "AO4zkPIsu56YW//oiMNC3Higxuc="),
            (r#"{"x":1,".priority":3.5}"#, "AULPE/7vPFKtys2OKgZAtNAMRRY="),
        ] {
            check(json, expected);
        }
    }

    #[test]
    fn etags() {
        let etag_of = |json: &str| etag(&mut parse_value(json.as_bytes(), &LIMITS).unwrap().cursor()).unwrap();
        assert_eq!(etag_of("{}"), NULL_ETAG);
        assert_eq!(etag_of("1"), "YPVfR2bXt/lcDjiQZ8pOkAd3qkQ=");
        assert_eq!(etag_of(r#"{"a":1.0}"#), etag_of(r#"{"a":1}"#));
    }
}
