//! Running a query over rows.

use std::cmp::Ordering;

use super::{Bound, BoundKey, BoundValue, Limit, OrderBy, Query, QueryError, Selection, Side};
use crate::key::{CHILDREN, PAST, PRIORITY, compare_keys, decode_key, encode_bound, segment_len};
use crate::leaf::Leaf;
use crate::path::Path;
use crate::rows::{Row, RowCursor, next_child, seek_past};

/// The children of the cursor's root that `query` selects; none where the root is a leaf or empty.
///
/// At most `scan_max` children are looked at. The order by key seeks its range and stops at the limit;
/// every other order looks at all children, but keeps hardly more than the limit.
pub fn select<'a, C: RowCursor<'a>>(
    cursor: &mut C,
    query: &Query,
    scan_max: usize,
) -> Result<Selection, QueryError<C::Error>> {
    let mut scan = Scan { cursor, query, left: scan_max };
    let count = query.limit.map_or(usize::MAX, |limit| limit.count);
    let segments = match (&query.order_by, query.limit) {
        _ if count == 0 => Vec::new(),
        (OrderBy::Key, Some(Limit { side: Side::Last, .. })) => scan.last_keys(count)?,
        (OrderBy::Key, _) => scan.first_keys(count)?,
        (order_by, _) => scan.all(order_by)?,
    };
    Ok(Selection { keys: segments.into_iter().map(|segment| text_of(segment).into()).collect() })
}

pub(super) fn text_of(segment: &[u8]) -> String {
    let mut text = String::new();
    decode_key(segment, &mut text);
    text
}

/// A child where its index value puts it.
pub(super) struct Entry<'a> {
    pub(super) value: IndexValue<'a>,
    pub(super) segment: &'a [u8],
}

/// What a child is ordered by, in the order of firebase-rtdb.md §3.4.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum IndexValue<'a> {
    /// Nothing is there.
    Absent,
    /// A leaf.
    Leaf(Leaf<'a>),
    /// A node.
    Node,
}

impl<'a> IndexValue<'a> {
    pub(super) fn of(value: &'a [u8]) -> IndexValue<'a> {
        Leaf::decode(value).map_or(IndexValue::Absent, IndexValue::Leaf)
    }

    /// Which comes first.
    pub fn compare(&self, other: &IndexValue<'_>) -> Ordering {
        let rank = |value: &IndexValue<'_>| match value {
            IndexValue::Absent => 0,
            IndexValue::Leaf(_) => 1,
            IndexValue::Node => 2,
        };
        match (self, other) {
            (IndexValue::Leaf(a), IndexValue::Leaf(b)) => a.compare(b),
            _ => rank(self).cmp(&rank(other)),
        }
    }
}

impl Query {
    /// Is a child inside the range of a query that is not by key?
    pub(super) fn admits(&self, entry: &Entry<'_>) -> bool {
        Bound::admits(self.start.as_ref(), Ordering::Greater, |bound| bound.compare_entry(entry))
            && Bound::admits(self.end.as_ref(), Ordering::Less, |bound| bound.compare_entry(entry))
    }

    /// Whether the child whose encoded key and value of order these are is inside the range.
    pub fn selects(&self, segment: &[u8], value: IndexValue<'_>) -> bool {
        if self.order_by != OrderBy::Key {
            return self.admits(&Entry { value, segment });
        }
        let key = text_of(segment);
        Bound::admits(self.start.as_ref(), Ordering::Greater, |bound| bound.compare_key(&key))
            && Bound::admits(self.end.as_ref(), Ordering::Less, |bound| bound.compare_key(&key))
    }

    /// The query by key that selects the same where no child has a priority; `None` where it then selects
    /// nothing. Other orders than by priority stay as they are.
    pub fn without_priorities(&self) -> Option<Query> {
        if self.order_by != OrderBy::Priority {
            return Some(self.clone());
        }
        // All children are at null; only a bound at null divides them.
        let by_key = |bound: &Option<Bound>, inside: Ordering| match bound {
            None => Some(None),
            Some(bound) => match (IndexValue::Absent.compare(&bound.index_value()), &bound.key) {
                (Ordering::Equal, BoundKey::Key(key)) => {
                    Some(Some(Bound { value: BoundValue::Str(key.clone()), key: BoundKey::None, ..bound.clone() }))
                }
                (Ordering::Equal, BoundKey::None) => bound.inclusive.then_some(None),
                (Ordering::Equal, BoundKey::Min) => (inside == Ordering::Greater).then_some(None),
                (Ordering::Equal, BoundKey::Max) => (inside == Ordering::Less).then_some(None),
                (order, _) => (order == inside).then_some(None),
            },
        };
        let (start, end) = (by_key(&self.start, Ordering::Greater)?, by_key(&self.end, Ordering::Less)?);
        Some(Query { order_by: OrderBy::Key, start, end, limit: self.limit })
    }
}

impl Bound {
    pub(super) fn index_value(&self) -> IndexValue<'_> {
        match &self.value {
            BoundValue::Null => IndexValue::Absent,
            BoundValue::Bool(value) => IndexValue::Leaf(Leaf::Bool(*value)),
            BoundValue::Number(number) => IndexValue::Leaf(Leaf::Double(*number)),
            BoundValue::Str(text) => IndexValue::Leaf(Leaf::Str(text)),
        }
    }

    /// The key that the bound is, in the order by key.
    fn as_key(&self) -> Option<&str> {
        if let BoundValue::Str(key) = &self.value { Some(key) } else { None }
    }

    /// Whether a child that compares to the bound as `order` is on the side where `inside` is.
    fn admits(bound: Option<&Bound>, inside: Ordering, compare: impl FnOnce(&Bound) -> Ordering) -> bool {
        bound.is_none_or(|bound| match compare(bound) {
            Ordering::Equal => bound.inclusive,
            order => order == inside,
        })
    }

    /// Where a child with this key stands in the order by key.
    fn compare_key(&self, key: &str) -> Ordering {
        self.as_key().map_or(Ordering::Greater, |bound| compare_keys(key, bound))
    }

    /// Where a child stands in any other order.
    fn compare_entry(&self, entry: &Entry<'_>) -> Ordering {
        entry.value.compare(&self.index_value()).then_with(|| match &self.key {
            BoundKey::None => Ordering::Equal,
            BoundKey::Min => Ordering::Greater,
            BoundKey::Max => Ordering::Less,
            BoundKey::Key(key) => compare_keys(&text_of(entry.segment), key),
        })
    }
}

struct Scan<'s, C> {
    cursor: &'s mut C,
    query: &'s Query,
    /// How many children may still be looked at.
    left: usize,
}

impl<'a, C: RowCursor<'a>> Scan<'_, C> {
    /// The encoded key of the child that `row` begins or ends; `None` when there is no more.
    fn child(&mut self, row: Option<Row<'a>>) -> Result<Option<&'a [u8]>, QueryError<C::Error>> {
        let Some((key, _)) = row else { return Ok(None) };
        // The root's own value and priority are no children.
        let Some(len) = segment_len(key) else { return Ok(None) };
        self.left = self.left.checked_sub(1).ok_or(QueryError::TooMany)?;
        Ok(Some(&key[..len]))
    }

    /// In the order by key: the first `count` children of the range.
    fn first_keys(&mut self, count: usize) -> Result<Vec<&'a [u8]>, QueryError<C::Error>> {
        let (start, end) = (self.query.start.as_ref(), self.query.end.as_ref());
        let mut from = Vec::new();
        match start.and_then(Bound::as_key) {
            Some(key) => encode_bound(key, &mut from),
            None => from.push(CHILDREN),
        }
        let mut keys = Vec::new();
        let mut row = self.cursor.seek(&from)?;
        while let Some(segment) = self.child(row)? {
            let key = text_of(segment);
            if !Bound::admits(end, Ordering::Less, |bound| bound.compare_key(&key)) {
                break;
            }
            if Bound::admits(start, Ordering::Greater, |bound| bound.compare_key(&key)) {
                keys.push(segment);
            }
            if keys.len() == count {
                break;
            }
            row = next_child(self.cursor, row.map_or(&[], |row| row.0), segment.len())?;
        }
        Ok(keys)
    }

    /// In the order by key: the last `count` children of the range, in ascending order.
    fn last_keys(&mut self, count: usize) -> Result<Vec<&'a [u8]>, QueryError<C::Error>> {
        let (start, end) = (self.query.start.as_ref(), self.query.end.as_ref());
        let mut until = Vec::new();
        if let Some(key) = end.and_then(Bound::as_key) {
            encode_bound(key, &mut until);
        }
        until.push(PAST);
        let mut keys = Vec::new();
        while keys.len() < count {
            let row = self.cursor.before(&until)?;
            let Some(segment) = self.child(row)? else { break };
            let key = text_of(segment);
            if !Bound::admits(start, Ordering::Greater, |bound| bound.compare_key(&key)) {
                break;
            }
            if Bound::admits(end, Ordering::Less, |bound| bound.compare_key(&key)) {
                keys.push(segment);
            }
            until.clear();
            until.extend_from_slice(segment);
        }
        keys.reverse();
        Ok(keys)
    }

    /// In any other order: all children of the range, cut by the limit.
    fn all(&mut self, order_by: &OrderBy) -> Result<Vec<&'a [u8]>, QueryError<C::Error>> {
        let mut kept = Kept { entries: Vec::new(), limit: self.query.limit };
        let mut row = self.cursor.seek(&[CHILDREN])?;
        while let Some(segment) = self.child(row)? {
            let (value, next) = self.index_value(order_by, row.unwrap_or_default(), segment)?;
            let entry = Entry { value, segment };
            if self.query.admits(&entry) {
                kept.push(entry);
            }
            row = next;
        }
        Ok(kept.finish())
    }

    /// What the child `segment` is ordered by, and the first row of the next child.
    fn index_value(
        &mut self,
        order_by: &OrderBy,
        (key, value): Row<'a>,
        segment: &'a [u8],
    ) -> Result<(IndexValue<'a>, Option<Row<'a>>), C::Error> {
        let is_leaf = key.len() == segment.len();
        let index_value = match order_by {
            OrderBy::Child(path) if !is_leaf || path.is_root() => return self.value_below(path, segment),
            OrderBy::Key | OrderBy::Child(_) => IndexValue::Absent,
            OrderBy::Value if is_leaf => IndexValue::of(value),
            OrderBy::Value => IndexValue::Node,
            OrderBy::Priority if is_leaf => {
                let next = self.cursor.next()?;
                return match next.and_then(|(key, value)| Some((key.strip_prefix(segment)?, value))) {
                    Some(([PRIORITY], value)) => Ok((IndexValue::of(value), self.cursor.next()?)),
                    _ => Ok((IndexValue::Absent, next)),
                };
            }
            OrderBy::Priority if key[segment.len()..] == [PRIORITY] => IndexValue::of(value),
            OrderBy::Priority => IndexValue::Absent,
        };
        Ok((index_value, next_child(self.cursor, key, segment.len())?))
    }

    fn value_below(&mut self, path: &Path, segment: &'a [u8]) -> Result<(IndexValue<'a>, Option<Row<'a>>), C::Error> {
        let target = [segment, &path.encode()].concat();
        let found = self.cursor.seek(&target)?.and_then(|(key, value)| Some((key.strip_prefix(&target[..])?, value)));
        let value = match found {
            Some(([], value)) => IndexValue::of(value),
            Some(_) => IndexValue::Node,
            None => IndexValue::Absent,
        };
        Ok((value, seek_past(self.cursor, segment)?))
    }
}

/// The entries that may still be in the result.
struct Kept<'a> {
    entries: Vec<Entry<'a>>,
    limit: Option<Limit>,
}

impl<'a> Kept<'a> {
    /// Cutting at twice the limit makes each entry cost little more than one comparison in the end.
    fn push(&mut self, entry: Entry<'a>) {
        self.entries.push(entry);
        if self.limit.is_some_and(|limit| self.entries.len() >= limit.count.max(64).saturating_mul(2)) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.entries.sort_unstable_by(|a, b| a.value.compare(&b.value).then(a.segment.cmp(b.segment)));
        if let Some(Limit { count, side }) = self.limit {
            match side {
                Side::First => self.entries.truncate(count),
                Side::Last => drop(self.entries.drain(..self.entries.len().saturating_sub(count))),
            }
        }
    }

    fn finish(mut self) -> Vec<&'a [u8]> {
        self.cut();
        self.entries.into_iter().map(|entry| entry.segment).collect()
    }
}
