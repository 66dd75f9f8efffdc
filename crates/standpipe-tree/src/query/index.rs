//! The bytes of an index: one key for each child of an indexed parent, so that byte order is the order of a
//! query, and queries that read such keys in place of the children (ADR 11).
//!
//! A key is the encoded value and the child's encoded key. Where a row of the tree is absent or a node, its
//! place is kept too, so that nulls come first and nodes last. Texts are cut: what LMDB takes as a key is
//! bounded, a text is not. Children whose cut texts are equal are put in order by the texts themselves.
//!
//! Owns no table: whoever keeps one gives a cursor over the keys of one parent and one order.

use super::select::{Entry, IndexValue, text_of};
use super::{Bound, BoundKey, Limit, Query, QueryError, Selection, Side};
use crate::key::{PAST, decode_text, encode_bound, encode_text, segment_len};
use crate::leaf::{Leaf, OwnedLeaf};
use crate::rows::RowCursor;

/// Bytes of a text that are in a key: as many as the longest path leaves (ADR 11).
pub const INDEX_TEXT_BYTES: usize = 64;

// What a key begins with. All are greater than what a path goes on with, so that the keys of a parent are
// behind those of every parent below it.
const ABSENT: u8 = 0x10;
const FALSE: u8 = 0x11;
const TRUE: u8 = 0x12;
const NUMBER: u8 = 0x13;
const TEXT: u8 = 0x14;
const NODE: u8 = 0x15;
/// Behind all keys of a parent.
const END: u8 = 0x16;

impl IndexValue<'_> {
    /// Appends the value's part of a key.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            IndexValue::Absent => out.push(ABSENT),
            IndexValue::Leaf(Leaf::Bool(false)) => out.push(FALSE),
            IndexValue::Leaf(Leaf::Bool(true)) => out.push(TRUE),
            IndexValue::Leaf(Leaf::Str(text)) => encode_cut(text, out),
            IndexValue::Leaf(number) => {
                out.push(NUMBER);
                out.extend_from_slice(&number_bits(number.as_f64().unwrap_or_default()).to_be_bytes());
            }
            IndexValue::Node => out.push(NODE),
        }
    }
}

/// Bits that compare as the numbers do, -0 as 0.
fn number_bits(number: f64) -> u64 {
    let bits = (number + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

fn bits_number(bits: u64) -> f64 {
    f64::from_bits(if bits >> 63 == 1 { bits & !(1 << 63) } else { !bits })
}

/// A text in UTF-16 order, zeros escaped and ended by two, cut after [`INDEX_TEXT_BYTES`].
fn encode_cut(text: &str, out: &mut Vec<u8>) {
    out.push(TEXT);
    let start = out.len();
    // A character is up to six bytes, and one byte of text is at least one of the key.
    let end = text.char_indices().map(|(at, _)| at).find(|at| *at >= INDEX_TEXT_BYTES).unwrap_or(text.len());
    let mut plain = Vec::with_capacity(INDEX_TEXT_BYTES + 8);
    encode_text(&text[..end], &mut plain);
    for byte in plain {
        out.push(byte);
        if byte == 0 {
            out.push(0xFF);
        }
    }
    out.extend_from_slice(&[0, 0]);
    out.truncate(start + INDEX_TEXT_BYTES);
}

/// The value's part of a key, read back.
#[derive(Debug)]
enum Stored {
    Whole(Value),
    /// The beginning of a text.
    Cut,
}

#[derive(Debug)]
enum Value {
    Absent,
    Leaf(OwnedLeaf),
    Node,
}

impl Value {
    fn as_index_value(&self) -> IndexValue<'_> {
        match self {
            Value::Absent => IndexValue::Absent,
            Value::Leaf(leaf) => IndexValue::Leaf(leaf.as_leaf()),
            Value::Node => IndexValue::Node,
        }
    }
}

/// Length of the value's part of a key, and the value; `None` when the key is corrupt.
fn decode(key: &[u8]) -> Option<(usize, Stored)> {
    let leaf = |leaf| Stored::Whole(Value::Leaf(leaf));
    Some(match *key.first()? {
        ABSENT => (1, Stored::Whole(Value::Absent)),
        FALSE => (1, leaf(OwnedLeaf::Bool(false))),
        TRUE => (1, leaf(OwnedLeaf::Bool(true))),
        NUMBER => {
            let bits = u64::from_be_bytes(*key.get(1..)?.first_chunk()?);
            (9, leaf(OwnedLeaf::from(Leaf::number(bits_number(bits)))))
        }
        TEXT => return decode_cut(key),
        NODE => (1, Stored::Whole(Value::Node)),
        _ => return None,
    })
}

fn decode_cut(key: &[u8]) -> Option<(usize, Stored)> {
    let mut bytes = Vec::new();
    let mut at = 1;
    while at <= INDEX_TEXT_BYTES {
        let pair = (*key.get(at)?, key.get(at + 1).filter(|_| at < INDEX_TEXT_BYTES));
        match pair {
            (0, Some(0)) => {
                let mut text = String::new();
                decode_text(&bytes, &mut text)?;
                return Some((at + 2, Stored::Whole(Value::Leaf(OwnedLeaf::Str(text.into())))));
            }
            (0, Some(_)) => {
                bytes.push(0);
                at += 2;
            }
            (byte, _) => {
                bytes.push(byte);
                at += 1;
            }
        }
    }
    Some((1 + INDEX_TEXT_BYTES, Stored::Cut))
}

/// The child that a key of an index stands for; `None` when the key is corrupt.
pub fn indexed_child(key: &[u8]) -> Option<&[u8]> {
    let (len, _) = decode(key)?;
    let segment = &key[len..];
    (segment_len(segment) == Some(segment.len())).then_some(segment)
}

impl Bound {
    /// The key at which a range that begins here begins, or before it by little.
    fn lower(&self) -> Vec<u8> {
        let mut key = self.value_bytes();
        if is_cut(&key) {
            return key;
        }
        match (&self.key, self.inclusive) {
            (BoundKey::Max, _) | (BoundKey::None, false) => key.push(PAST),
            (BoundKey::Min, _) | (BoundKey::None, true) => {}
            (BoundKey::Key(child), _) => encode_bound(child, &mut key),
        }
        key
    }

    /// The key before which a range that ends here ends, or behind it by little.
    fn upper(&self) -> Vec<u8> {
        let mut key = self.value_bytes();
        if is_cut(&key) {
            key.push(PAST);
            return key;
        }
        match (&self.key, self.inclusive) {
            (BoundKey::Max, _) | (BoundKey::None, true) => key.push(PAST),
            (BoundKey::Min, _) | (BoundKey::None, false) => {}
            (BoundKey::Key(child), _) => {
                encode_bound(child, &mut key);
                key.push(PAST);
            }
        }
        key
    }

    fn value_bytes(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(INDEX_TEXT_BYTES + 32);
        self.index_value().encode(&mut key);
        key
    }
}

fn is_cut(value: &[u8]) -> bool {
    value.first() == Some(&TEXT) && matches!(decode_cut(value), Some((_, Stored::Cut)))
}

/// The children that `query` selects, from the keys of an index: `cursor` shows those of the query's order
/// below one parent.
///
/// It costs what it selects, whatever the parent holds. `text_of_child` reads the text of a child, by its
/// encoded key, where the index holds only its beginning. At most `scan_max` keys are looked at.
pub fn select_indexed<'a, C: RowCursor<'a>>(
    cursor: &mut C,
    query: &Query,
    scan_max: usize,
    text_of_child: impl FnMut(&[u8]) -> Result<Option<OwnedLeaf>, C::Error>,
) -> Result<Selection, QueryError<C::Error>> {
    let count = query.limit.map_or(usize::MAX, |limit| limit.count);
    let mut scan = Scan { cursor, query, left: scan_max, text_of_child, found: Vec::new(), count };
    let lower = query.start.as_ref().map_or_else(|| vec![ABSENT], Bound::lower);
    let upper = query.end.as_ref().map_or_else(|| vec![END], Bound::upper);
    match query.limit {
        _ if count == 0 => {}
        Some(Limit { side: Side::Last, .. }) => {
            scan.backward(&lower, upper)?;
            scan.found.reverse();
        }
        _ => scan.forward(lower, &upper)?,
    }
    Ok(Selection { keys: scan.found.into_iter().map(|segment| text_of(segment).into()).collect() })
}

struct Scan<'s, 'a, C, F> {
    cursor: &'s mut C,
    query: &'s Query,
    /// How many keys may still be looked at.
    left: usize,
    text_of_child: F,
    found: Vec<&'a [u8]>,
    count: usize,
}

/// Children whose texts begin alike, and the place of the first or last of them.
type Tie<'a> = Vec<(Option<OwnedLeaf>, &'a [u8])>;

impl<'a, C: RowCursor<'a>, F: FnMut(&[u8]) -> Result<Option<OwnedLeaf>, C::Error>> Scan<'_, 'a, C, F> {
    fn count(&mut self) -> Result<(), QueryError<C::Error>> {
        self.left = self.left.checked_sub(1).ok_or(QueryError::TooMany)?;
        Ok(())
    }

    fn forward(&mut self, lower: Vec<u8>, upper: &[u8]) -> Result<(), QueryError<C::Error>> {
        let mut row = self.cursor.seek(&lower)?;
        while let Some((key, _)) = row.filter(|(key, _)| *key < upper) {
            self.count()?;
            let Some((len, stored)) = decode(key) else { break };
            row = match stored {
                Stored::Whole(value) => {
                    self.consider(value.as_index_value(), &key[len..]);
                    if self.found.len() == self.count { None } else { self.cursor.next()? }
                }
                Stored::Cut => {
                    let (mut tie, next) = (vec![&key[len..]], [&key[..len], &[PAST]].concat());
                    while let Some((more, _)) = self.cursor.next()?.filter(|row| row.0.starts_with(&key[..len])) {
                        self.count()?;
                        tie.push(&more[len..]);
                    }
                    let tie = self.in_order(tie)?;
                    self.consider_tie(tie.into_iter());
                    if self.found.len() == self.count { None } else { self.cursor.seek(&next)? }
                }
            };
        }
        Ok(())
    }

    fn backward(&mut self, lower: &[u8], mut upper: Vec<u8>) -> Result<(), QueryError<C::Error>> {
        while self.found.len() < self.count {
            let Some((key, _)) = self.cursor.before(&upper)?.filter(|(key, _)| *key >= lower) else { break };
            self.count()?;
            let Some((len, stored)) = decode(key) else { break };
            match stored {
                Stored::Whole(value) => {
                    self.consider(value.as_index_value(), &key[len..]);
                    upper.clear();
                    upper.extend_from_slice(key);
                }
                Stored::Cut => {
                    let mut tie = Vec::new();
                    let mut row = self.cursor.seek(&key[..len])?;
                    while let Some((more, _)) = row.filter(|row| row.0.starts_with(&key[..len])) {
                        self.count()?;
                        tie.push(&more[len..]);
                        row = self.cursor.next()?;
                    }
                    let tie = self.in_order(tie)?;
                    self.consider_tie(tie.into_iter().rev());
                    upper.clear();
                    upper.extend_from_slice(&key[..len]);
                }
            }
        }
        Ok(())
    }

    fn in_order(&mut self, segments: Vec<&'a [u8]>) -> Result<Tie<'a>, QueryError<C::Error>> {
        let mut tie = Vec::with_capacity(segments.len());
        for segment in segments {
            tie.push(((self.text_of_child)(segment)?, segment));
        }
        tie.sort_by(|a, b| value_of(&a.0).compare(&value_of(&b.0)).then(a.1.cmp(b.1)));
        Ok(tie)
    }

    fn consider_tie(&mut self, tie: impl Iterator<Item = (Option<OwnedLeaf>, &'a [u8])>) {
        for (text, segment) in tie {
            if self.found.len() < self.count {
                self.consider(value_of(&text), segment);
            }
        }
    }

    fn consider(&mut self, value: IndexValue<'_>, segment: &'a [u8]) {
        if self.query.admits(&Entry { value, segment }) {
            self.found.push(segment);
        }
    }
}

fn value_of(leaf: &Option<OwnedLeaf>) -> IndexValue<'_> {
    leaf.as_ref().map_or(IndexValue::Absent, |leaf| IndexValue::Leaf(leaf.as_leaf()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(value: IndexValue<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        value.encode(&mut out);
        out
    }

    #[test]
    fn keys_are_in_the_order_of_values_and_read_back() {
        let long = |end: &str| format!("{}{end}", "x".repeat(INDEX_TEXT_BYTES - 3));
        let texts = ["", "\0", "\0\0", "\0a", "\u{1}", "a", "a\0", "a\0b", "ab", "é", "😀", "\u{E000}", "\u{FFFF}"];
        let longs = [long("a"), long("a\0"), long("b"), long("bc")];
        let mut ordered = vec![IndexValue::Absent];
        ordered.extend([false, true].map(|value| IndexValue::Leaf(Leaf::Bool(value))));
        ordered.extend(
            [f64::MIN, -1e9, -0.5, -f64::MIN_POSITIVE, 0.0, 5e-324, 0.5, 1.0, 9e15, f64::MAX]
                .map(|number| IndexValue::Leaf(Leaf::Double(number))),
        );
        let mut strings: Vec<&str> = texts.iter().copied().chain(longs.iter().map(String::as_str)).collect();
        strings.sort_by(|a, b| Leaf::Str(a).compare(&Leaf::Str(b)));
        ordered.extend(strings.iter().map(|text| IndexValue::Leaf(Leaf::Str(text))));
        ordered.push(IndexValue::Node);
        for pair in ordered.windows(2) {
            assert!(stored(pair[0]) < stored(pair[1]), "{pair:?}");
        }
        for value in ordered {
            let mut key = stored(value);
            let len = key.len();
            crate::key::encode_key("child", &mut key);
            let (end, read) = decode(&key).unwrap();
            assert_eq!(end, len, "{value:?}");
            assert_eq!(indexed_child(&key), Some(&key[len..]));
            match read {
                Stored::Whole(read) => assert!(read.as_index_value().compare(&value).is_eq(), "{value:?}"),
                Stored::Cut => assert!(len == 1 + INDEX_TEXT_BYTES),
            }
        }
        assert_eq!(stored(IndexValue::Leaf(Leaf::Double(-0.0))), stored(IndexValue::Leaf(Leaf::Int(0))));
    }

    #[test]
    fn texts_with_one_beginning_share_their_place() {
        let place = |text: &str| stored(IndexValue::Leaf(Leaf::Str(text)));
        let start = "é".repeat(INDEX_TEXT_BYTES / 2);
        assert_eq!(place(&start), place(&format!("{start}more")));
        assert!(is_cut(&place(&start)));
        assert!(!is_cut(&place(&"x".repeat(INDEX_TEXT_BYTES - 2))));
        // The cut may be inside an escaped zero.
        let zero = format!("{}\0z", "x".repeat(INDEX_TEXT_BYTES - 1));
        assert!(is_cut(&place(&zero)));
        assert!(place(&zero) < place(&format!("{}\u{1}", "x".repeat(INDEX_TEXT_BYTES - 1))));
        assert!(place(&zero) > place(&"x".repeat(INDEX_TEXT_BYTES - 2)));
    }

    #[test]
    fn corrupt_keys_are_no_keys() {
        for key in [
            &b""[..],
            b"\x01",
            b"\x13\0",
            b"\x14abc",
            b"\x14a\0\xFF",
            b"\x10",
            b"\x10\x02ab",
            b"\x17\x02a\0",
            b"\x14\xFF\0\0\x02a\0",
        ] {
            assert_eq!(indexed_child(key), None, "{}", key.escape_ascii());
        }
    }
}
