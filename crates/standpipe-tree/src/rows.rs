//! Rows: the one representation of a subtree (ADR 0003), in memory or behind a cursor.
//!
//! A subtree is a sorted list of rows. The key of a leaf is its encoded path, relative to the subtree's
//! root; the key of a priority is its node's encoded path and [`PRIORITY`]. The
//! value is an encoded [`Leaf`]. Who stores rows durably implements [`RowCursor`] and gets JSON, hashes
//! and queries for free.

use std::convert::Infallible;
use std::fmt;
use std::ops::Range;

use crate::key::{PAST, PRIORITY, is_priority_key, is_row_key};
use crate::leaf::{INCREMENT, Leaf, TIMESTAMP};
use crate::varint;

/// The most memory a subtree may take, in bytes.
///
/// Each row repeats its whole path, so that a hostile text of a few megabytes could otherwise fill many
/// gigabytes. A write of the largest size (256 MB of text) with rows as usual stays below.
pub const ROWS_BYTES_MAX: usize = 1 << 30;

/// Key and value of one row.
pub type Row<'a> = (&'a [u8], &'a [u8]);

/// A place in a sorted list of rows. Keys are relative to the cursor's root, and nothing outside of it shows.
pub trait RowCursor<'a> {
    /// What can go wrong when reading.
    type Error;

    /// The first row whose key is not less than `key`.
    fn seek(&mut self, key: &[u8]) -> Result<Option<Row<'a>>, Self::Error>;

    /// The row after the last one returned.
    fn next(&mut self) -> Result<Option<Row<'a>>, Self::Error>;

    /// The last row whose key is less than `key`. Where `next` goes from there is undefined: seek again.
    fn before(&mut self, key: &[u8]) -> Result<Option<Row<'a>>, Self::Error>;
}

/// The row behind the child whose encoded path is `key[..end]`, where the row of `key` was returned last.
///
/// Most children are leaves, so stepping is tried before seeking.
pub(crate) fn next_child<'a, C: RowCursor<'a>>(
    cursor: &mut C,
    key: &[u8],
    end: usize,
) -> Result<Option<Row<'a>>, C::Error> {
    match cursor.next()? {
        Some((next, _)) if next.starts_with(&key[..end]) => seek_past(cursor, &key[..end]),
        row => Ok(row),
    }
}

/// The row behind the subtree at the encoded path `node`.
pub(crate) fn seek_past<'a, C: RowCursor<'a>>(cursor: &mut C, node: &[u8]) -> Result<Option<Row<'a>>, C::Error> {
    // In a damaged store something may sort behind all children; stopping there beats going in circles.
    Ok(cursor.seek(&past(node))?.filter(|(key, _)| !key.starts_with(node)))
}

/// The place behind the subtree at the encoded path `node`.
pub(crate) fn past(node: &[u8]) -> Vec<u8> {
    [node, &[PAST]].concat()
}

/// Why rows do not make a subtree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Two rows have the same key.
    #[error("two values for one location")]
    Duplicate,
    /// A location has both a value and children.
    #[error("a location cannot have both a value and children")]
    LeafWithChildren,
    /// All rows together take more than [`ROWS_BYTES_MAX`].
    #[error("the value is too large: each leaf counts with its whole path")]
    TooLarge,
}

/// A subtree in memory: sorted rows in one buffer, immutable once built. The default is the empty subtree.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// Keys and values, one behind the other.
    buffer: Vec<u8>,
    rows: Vec<Ends>,
}

/// Where a row's key and its value end in the buffer; it starts where the row before it ends.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ends {
    key: u32,
    value: u32,
}

impl Rows {
    /// A subtree that is one value.
    pub fn from_leaf(leaf: Leaf<'_>) -> Rows {
        let mut value = Vec::new();
        leaf.encode(&mut value);
        let mut rows = RowsBuilder::new();
        rows.push(&[], &value);
        rows.rows
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Number of rows: leaves and priorities.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Memory in use, in bytes.
    pub fn bytes(&self) -> usize {
        size_of::<Rows>() + self.buffer.len() + self.rows.len() * size_of::<Ends>()
    }

    /// The rows in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Row<'_>> + DoubleEndedIterator {
        (0..self.len()).map(|index| self.row(index))
    }

    fn row(&self, index: usize) -> Row<'_> {
        let Ends { key, value } = self.rows[index];
        let start = self.start(index);
        (&self.buffer[start..key as usize], &self.buffer[key as usize..value as usize])
    }

    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.rows[before].value as usize)
    }

    /// A cursor over all rows.
    pub fn cursor(&self) -> RowsCursor<'_> {
        self.cursor_at(&[])
    }

    /// A cursor over the subtree at the encoded path `prefix`.
    pub fn cursor_at(&self, prefix: &[u8]) -> RowsCursor<'_> {
        let range = self.range(prefix);
        RowsCursor { rows: self, next: range.start, range, root: prefix.len() }
    }

    /// The subtree at the encoded path `prefix`, with itself as root.
    pub fn subtree(&self, prefix: &[u8]) -> Rows {
        let range = self.range(prefix);
        let mut rows = RowsBuilder::remade(&Rows::default());
        range.for_each(|index| {
            let (key, value) = self.row(index);
            rows.push(&key[prefix.len()..], value);
        });
        rows.finish().expect("a part of a sorted list is sorted")
    }

    fn range(&self, prefix: &[u8]) -> Range<usize> {
        if prefix.is_empty() {
            return 0..self.len();
        }
        let start = self.first_not(0..self.len(), |key| key < prefix);
        start..self.first_not(start..self.len(), |key| key.starts_with(prefix))
    }

    /// The first row of `range` that does not satisfy `holds`, which holds for a first part of it.
    fn first_not(&self, range: Range<usize>, holds: impl Fn(&[u8]) -> bool) -> usize {
        let (mut low, mut high) = (range.start, range.end);
        while low < high {
            let middle = low + (high - low) / 2;
            if holds(self.row(middle).0) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The value at the encoded path or priority `key`.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let index = self.first_not(0..self.len(), |other| other < key);
        (index < self.len()).then(|| self.row(index)).filter(|row| row.0 == key).map(|row| row.1)
    }

    /// Whether this can be a priority: nothing, a number, a string or a placeholder.
    pub fn is_priority(&self) -> bool {
        self.iter().all(|(key, value)| key.is_empty() && !matches!(Leaf::decode(value), Some(Leaf::Bool(_))))
    }

    /// Whether placeholders are left to be resolved.
    pub fn has_server_values(&self) -> bool {
        self.iter().any(|(_, value)| matches!(value.first(), Some(&(TIMESTAMP | INCREMENT))))
    }

    /// Whether what they are resolved to tells of what was there before.
    pub fn has_increments(&self) -> bool {
        self.iter().any(|(_, value)| value.first() == Some(&INCREMENT))
    }

    /// Appends the rows: their number, then each with the lengths of key and value before both.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.buffer.len() + self.rows.len() * 4 + 8);
        varint::write(self.len(), out);
        for (key, value) in self.iter() {
            varint::write(key.len(), out);
            varint::write(value.len(), out);
            out.extend_from_slice(key);
            out.extend_from_slice(value);
        }
    }

    /// Reads what [`Rows::encode`] wrote and how long it was; `None` when it is corrupt.
    pub fn decode(bytes: &[u8]) -> Option<(Rows, usize)> {
        let mut rest = bytes;
        let count = varint::read(&mut rest)?;
        // Each row has two lengths: a count beyond that is corrupt and must not reserve memory.
        let mut rows = RowsBuilder::with_capacity(count.min(rest.len() / 2), 0);
        for _ in 0..count {
            let key = varint::read(&mut rest)?;
            let value = varint::read(&mut rest)?;
            let (key, value) = (varint::take(&mut rest, key)?, varint::take(&mut rest, value)?);
            rows.push(is_row_key(key).then_some(key)?, value);
        }
        let sound = !rows.too_large && rows.rows.check().is_ok();
        sound.then_some((rows.rows, bytes.len() - rest.len()))
    }

    /// Checks that keys ascend and that no value has children.
    fn check(&self) -> Result<(), Conflict> {
        let mut last: Option<&[u8]> = None;
        // The last leaf: rows below it, its priority excepted, would follow directly.
        let mut leaf: Option<&[u8]> = None;
        for (key, _) in self.iter() {
            if last.is_some_and(|last| last >= key) {
                return Err(Conflict::Duplicate);
            }
            match leaf.and_then(|leaf| key.strip_prefix(leaf)) {
                Some([PRIORITY]) => {}
                Some(_) => return Err(Conflict::LeafWithChildren),
                None if key.last() == Some(&PRIORITY) && is_priority_key(key) => {}
                None => leaf = Some(key),
            }
            last = Some(key);
        }
        Ok(())
    }
}

/// For tests and logs: paths and JSON.
impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(key, value)| (key.escape_ascii().to_string(), Leaf::decode(value))))
            .finish()
    }
}

/// A [`RowCursor`] over [`Rows`] or a part of them.
#[derive(Clone, Debug)]
pub struct RowsCursor<'a> {
    rows: &'a Rows,
    range: Range<usize>,
    next: usize,
    /// Length of the encoded path of the root, which all keys in range begin with.
    root: usize,
}

impl<'a> RowsCursor<'a> {
    fn at(&self, index: usize) -> Option<Row<'a>> {
        let (key, value) = self.range.contains(&index).then(|| self.rows.row(index))?;
        Some((&key[self.root..], value))
    }

    fn first_from(&self, key: &[u8]) -> usize {
        self.rows.first_not(self.range.clone(), |other| &other[self.root..] < key)
    }
}

impl<'a> RowCursor<'a> for RowsCursor<'a> {
    type Error = Infallible;

    fn seek(&mut self, key: &[u8]) -> Result<Option<Row<'a>>, Infallible> {
        self.next = self.first_from(key);
        self.next()
    }

    fn next(&mut self) -> Result<Option<Row<'a>>, Infallible> {
        let row = self.at(self.next);
        self.next += usize::from(row.is_some());
        Ok(row)
    }

    fn before(&mut self, key: &[u8]) -> Result<Option<Row<'a>>, Infallible> {
        Ok(self.first_from(key).checked_sub(1).and_then(|index| self.at(index)))
    }
}

/// Collects rows in any order.
#[derive(Debug)]
pub struct RowsBuilder {
    /// Rows as they came, perhaps not in order.
    rows: Rows,
    bytes_max: usize,
    too_large: bool,
}

impl Default for RowsBuilder {
    fn default() -> RowsBuilder {
        RowsBuilder::with_capacity(0, 0)
    }
}

impl RowsBuilder {
    /// A builder without rows.
    pub fn new() -> RowsBuilder {
        RowsBuilder::default()
    }

    /// A builder with room for `rows` rows of together `bytes` bytes.
    pub fn with_capacity(rows: usize, bytes: usize) -> RowsBuilder {
        let rows = Rows { buffer: Vec::with_capacity(bytes), rows: Vec::with_capacity(rows) };
        RowsBuilder { rows, bytes_max: ROWS_BYTES_MAX, too_large: false }
    }

    /// For rows made from others, which were within the limit and can only grow a little.
    pub(crate) fn remade(from: &Rows) -> RowsBuilder {
        let builder = RowsBuilder::with_capacity(from.len(), from.buffer.len());
        RowsBuilder { bytes_max: u32::MAX as usize, ..builder }
    }

    /// Adds a row. Beyond [`ROWS_BYTES_MAX`] it is forgotten, and `finish` says so.
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        if self.rows.bytes() + key.len() + value.len() > self.bytes_max {
            self.too_large = true;
            return;
        }
        let rows = &mut self.rows;
        rows.buffer.extend_from_slice(key);
        let key = rows.buffer.len() as u32;
        rows.buffer.extend_from_slice(value);
        rows.rows.push(Ends { key, value: rows.buffer.len() as u32 });
    }

    /// Sorts if necessary, and checks that the rows make a subtree.
    pub fn finish(self) -> Result<Rows, Conflict> {
        let mut rows = self.rows;
        if self.too_large {
            return Err(Conflict::TooLarge);
        }
        if !rows.iter().is_sorted_by(|a, b| a.0 <= b.0) {
            rows = sorted(&rows);
        }
        rows.check()?;
        Ok(rows)
    }
}

fn sorted(rows: &Rows) -> Rows {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    // Stable sorting is the one that profits from long sorted runs, and documents are mostly sorted.
    order.sort_by(|&a, &b| rows.row(a).0.cmp(rows.row(b).0));
    let mut builder = RowsBuilder::remade(rows);
    order.iter().map(|&index| rows.row(index)).for_each(|(key, value)| builder.push(key, value));
    builder.rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Location;

    fn build(locations: &[&str]) -> Result<Rows, Conflict> {
        let mut rows = RowsBuilder::new();
        locations.iter().for_each(|text| rows.push(&Location::parse(text).unwrap().encode(), &[1]));
        rows.finish()
    }

    fn check(locations: &[&str], expected: Result<usize, Conflict>) {
        assert_eq!(build(locations).map(|rows| rows.len()), expected, "{locations:?}");
    }

    #[test]
    fn rows_make_a_subtree_or_a_conflict() {
        check(&[], Ok(0));
        check(&["b", "a/.priority", "a/x", "a/y", ".priority"], Ok(5));
        check(&["", ".priority"], Ok(2));
        check(&["a", "a/.priority", "ab", "a-"], Ok(4));
        check(&["a", "b", "a"], Err(Conflict::Duplicate));
        check(&["a", "a/.priority", "a/b"], Err(Conflict::LeafWithChildren));
        check(&["a/b/c", "a"], Err(Conflict::LeafWithChildren));
        check(&["", "a"], Err(Conflict::LeafWithChildren));
        check(&["a", "a/b/.priority"], Err(Conflict::LeafWithChildren));
    }

    #[test]
    fn rows_beyond_the_limit_are_refused() {
        let mut rows = RowsBuilder { bytes_max: 200, ..RowsBuilder::new() };
        rows.push(&[], &[4; 100]);
        rows.push(&[PRIORITY], &[4; 100]);
        assert_eq!(rows.finish(), Err(Conflict::TooLarge));
    }

    #[test]
    fn cursors_show_only_their_part() {
        let rows = build(&["a", "b/.priority", "b/x", "b/y/1", "b/y/2", "c"]).unwrap();
        let key = |text| Location::parse(text).unwrap().encode();
        let mut cursor = rows.cursor_at(&key("b"));
        let found = |row: Result<Option<Row<'_>>, Infallible>| row.unwrap().map(|row| row.0.to_vec());
        assert_eq!(found(cursor.seek(&[])), Some(vec![PRIORITY]));
        assert_eq!(found(cursor.next()), Some(key("x")));
        assert_eq!(found(cursor.before(&key("x"))), Some(vec![PRIORITY]));
        assert_eq!(found(cursor.before(&[])), None);
        assert_eq!(found(cursor.before(&[PAST])), Some(key("y/2")));
        assert_eq!(found(cursor.seek(&key("y/2"))), Some(key("y/2")));
        assert_eq!(found(cursor.next()), None);
        assert_eq!(found(cursor.seek(&[PAST])), None);
        assert_eq!(rows.subtree(&key("b/y")).len(), 2);
        assert_eq!(rows.cursor_at(&key("d")).seek(&[]), Ok(None));
        assert_eq!((rows.get(&key("b/.priority")), rows.get(&key("b"))), (Some(&[1][..]), None));
    }

    #[test]
    fn what_can_be_a_priority() {
        let is_priority = |leaf| Rows::from_leaf(leaf).is_priority();
        assert!(Rows::default().is_priority() && is_priority(Leaf::Int(1)) && is_priority(Leaf::Str("")));
        assert!(!is_priority(Leaf::Bool(true)) && !build(&["a"]).unwrap().is_priority());
    }
}
