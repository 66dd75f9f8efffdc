//! The children of a node, one by one and without what is below them: their keys, and of leaves the value.

use crate::key::{PAST, PRIORITY, decode_key, encode_bound, segment_len};
use crate::leaf::Leaf;
use crate::rows::{Row, RowCursor, next_child};

/// A child.
#[derive(Clone, Debug, PartialEq)]
pub struct Child<'r> {
    /// Its key.
    pub key: String,
    /// Its value where it is a leaf; an object has none.
    pub leaf: Option<Leaf<'r>>,
}

/// Walks the children of a cursor's node in the order of their keys.
#[derive(Debug)]
pub struct Children<'r> {
    row: Option<Row<'r>>,
}

impl<'r> Children<'r> {
    /// Begins behind the child `after`, or with the first.
    ///
    /// # Errors
    /// The cursor's.
    pub fn after<C: RowCursor<'r>>(cursor: &mut C, after: Option<&str>) -> Result<Self, C::Error> {
        let mut start = Vec::new();
        if let Some(key) = after {
            encode_bound(key, &mut start);
            start.push(PAST);
        }
        Ok(Self { row: cursor.seek(&start)? })
    }

    /// Begins with the first child whose key is `key`, or stands behind where that would be.
    ///
    /// # Errors
    /// The cursor's.
    pub fn from<C: RowCursor<'r>>(cursor: &mut C, key: &str) -> Result<Self, C::Error> {
        let mut start = Vec::new();
        encode_bound(key, &mut start);
        Ok(Self { row: cursor.seek(&start)? })
    }

    /// The next child; the cursor must be the one it began with.
    ///
    /// # Errors
    /// The cursor's.
    pub fn next<C: RowCursor<'r>>(&mut self, cursor: &mut C) -> Result<Option<Child<'r>>, C::Error> {
        while let Some((key, value)) = self.row {
            // A leaf of the node itself, and its priority, are no children.
            let Some(len) = segment_len(key).filter(|_| key != [PRIORITY]) else {
                self.row = cursor.next()?;
                continue;
            };
            let is_leaf = key.len() == len;
            // What can't be decoded only a damaged store has; it is no child.
            let leaf = if is_leaf { Leaf::decode(value) } else { None };
            let mut name = String::new();
            let is_sound = decode_key(key, &mut name).is_some() && leaf.is_some() == is_leaf;
            self.row = next_child(cursor, key, len)?;
            if is_sound {
                return Ok(Some(Child { key: name, leaf }));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{ParseLimits, parse_value};
    use crate::path::Path;

    fn check(json: &str, after: Option<&str>, expected: &[(&str, bool)]) {
        let rows = parse_value(json.as_bytes(), &ParseLimits::below(&Path::root())).unwrap();
        let mut cursor = rows.cursor();
        let mut children = Children::after(&mut cursor, after).unwrap();
        let mut found = Vec::new();
        while let Some(child) = children.next(&mut cursor).unwrap() {
            found.push((child.key, child.leaf.is_some()));
        }
        let expected: Vec<_> = expected.iter().map(|(key, leaf)| ((*key).to_owned(), *leaf)).collect();
        assert_eq!(found, expected, "{json} after {after:?}");
    }

    #[test]
    fn children_come_in_the_order_of_keys() {
        let json = r#"{"b":{"x":{"y":1},"z":2},"10":1,"9":{"a":1},"a":"text","c":{".value":1,".priority":2}}"#;
        check(json, None, &[("9", false), ("10", true), ("a", true), ("b", false), ("c", true)]);
        check(json, Some("10"), &[("a", true), ("b", false), ("c", true)]);
        check(json, Some("aa"), &[("b", false), ("c", true)]);
        check(json, Some("c"), &[]);
        check(r#"{".priority":1,"a":{".priority":"x","b":1}}"#, None, &[("a", false)]);
        check("1", None, &[]);
        check(r#"{".value":1,".priority":1}"#, None, &[]);
        check("null", None, &[]);
    }
}
