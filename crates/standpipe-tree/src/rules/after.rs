//! What a location holds before a change, and after one: single looks, without making the new tree.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;

use crate::change::{Change, ChangeKind};
use crate::key::{PRIORITY, is_priority_key};
use crate::leaf::Leaf;
use crate::path::Location;
use crate::rows::{RowCursor, Rows, past};

/// What is at a location.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Found<'v> {
    Nothing,
    Leaf(Leaf<'v>),
    /// Children.
    Inner,
}

/// What is at the encoded path `key` in the rows of a cursor over a whole tree.
pub(super) fn look<'v, C: RowCursor<'v>>(cursor: &mut C, key: &[u8]) -> Result<Found<'v>, C::Error> {
    Ok(match cursor.seek(key)? {
        Some((found, value)) if found == key => Leaf::decode(value).map_or(Found::Nothing, Found::Leaf),
        Some((found, _)) if found.starts_with(key) => Found::Inner,
        _ => Found::Nothing,
    })
}

/// The priority of the node at the encoded path `key`.
pub(super) fn priority<'v, C: RowCursor<'v>>(cursor: &mut C, key: &[u8]) -> Result<Option<Leaf<'v>>, C::Error> {
    let wanted = [key, &[PRIORITY]].concat();
    Ok(cursor.seek(&wanted)?.filter(|row| row.0 == wanted).and_then(|row| Leaf::decode(row.1)))
}

/// What a change writes, in key order.
#[derive(Debug, Default)]
pub(super) struct Written<'v> {
    /// Nodes that are replaced, none covering another.
    pub(super) nodes: Vec<(Vec<u8>, &'v Rows)>,
    /// Nodes whose priority is set or, by no rows, removed.
    pub(super) priorities: Vec<(Vec<u8>, &'v Rows)>,
    /// Of a deep merge: the node below which leaves are put, and those. Then nothing else is written.
    pub(super) overlay: Option<(Vec<u8>, &'v Rows)>,
    /// How many of the first nodes get a value, for each number of nodes.
    filled: Vec<u32>,
    /// Whether a deep merge puts any leaf.
    overlay_filled: bool,
    /// What looks had to step over since the cost was last taken.
    stepped: Cell<u64>,
    /// The last node that was searched for what removals leave, and whether they leave anything: rules ask
    /// the same again for each child that is removed.
    remains: RefCell<Option<(Vec<u8>, bool)>>,
}

impl<'v> Written<'v> {
    pub(super) fn new(change: &'v Change) -> Written<'v> {
        let mut written = Written::default();
        for write in &change.writes {
            let entry = (write.location.path().encode(), &write.rows);
            match (&write.location, change.kind) {
                (Location::Priority(_), _) => written.priorities.push(entry),
                (Location::Node(_), ChangeKind::Overlay) => written.overlay = Some(entry),
                (Location::Node(_), _) => written.nodes.push(entry),
            }
        }
        written.nodes.sort_by(|a, b| a.0.cmp(&b.0));
        written.priorities.sort_by(|a, b| a.0.cmp(&b.0));
        let mut filled = 0;
        written.filled.push(0);
        for (_, rows) in &written.nodes {
            filled += u32::from(!rows.is_empty());
            written.filled.push(filled);
        }
        written.overlay_filled = written.overlay.iter().any(|(_, rows)| rows.iter().any(|row| !is_priority_key(row.0)));
        written
    }

    /// How many rows looks had to step over since this was last asked.
    pub(super) fn take_stepped(&self) -> u64 {
        self.stepped.take()
    }

    fn step(&self) {
        self.stepped.set(self.stepped.get() + 1);
    }

    /// How many rows are written.
    pub(super) fn rows(&self) -> usize {
        let rows = |entries: &[(Vec<u8>, &Rows)]| entries.iter().map(|entry| entry.1.len() + 1).sum::<usize>();
        rows(&self.nodes) + rows(&self.priorities) + self.overlay.as_ref().map_or(0, |entry| entry.1.len())
    }

    /// The nodes written, in key order, each perhaps several times; with the new value where it is replaced.
    pub(super) fn targets(&self) -> impl Iterator<Item = (Vec<u8>, Option<&'v Rows>)> {
        let (mut nodes, mut priorities) = (self.nodes.iter().peekable(), self.priorities.iter().peekable());
        let merged = std::iter::from_fn(move || {
            let node_first = match (nodes.peek(), priorities.peek()) {
                (Some(node), Some(priority)) => node.0.cmp(&priority.0) != Ordering::Greater,
                (node, _) => node.is_some(),
            };
            if node_first {
                return nodes.next().map(|(key, rows)| (key.clone(), Some(*rows)));
            }
            priorities.next().map(|(key, _)| (key.clone(), None))
        });
        let overlay = self.overlay.iter().flat_map(|(base, rows)| {
            rows.iter().map(|(key, _)| {
                let node = if is_priority_key(key) { &key[..key.len() - 1] } else { key };
                ([&base[..], node].concat(), None)
            })
        });
        merged.chain(overlay)
    }

    /// What is at `key` after the change.
    pub(super) fn look<C: RowCursor<'v>>(&self, before: &mut C, key: &[u8]) -> Result<Found<'v>, C::Error> {
        if let Some((base, rows)) = &self.overlay {
            return self.look_in_overlay(base, rows, before, key);
        }
        let behind = self.nodes.partition_point(|node| node.0[..] <= *key);
        if let Some((node, rows)) = behind.checked_sub(1).map(|index| &self.nodes[index])
            && let Some(inside) = key.strip_prefix(&node[..])
        {
            let Ok(found) = look(&mut rows.cursor(), inside);
            return Ok(found);
        }
        let below = self.nodes[behind..].partition_point(|node| node.0.starts_with(key));
        if self.filled[behind + below] > self.filled[behind] {
            return Ok(Found::Inner);
        }
        match look(before, key)? {
            Found::Inner if below > 0 && !self.remains(before, key)? => Ok(Found::Nothing),
            found => Ok(found),
        }
    }

    /// Whether a value at or below `key` is left when only removals are below it.
    fn remains<C: RowCursor<'v>>(&self, before: &mut C, key: &[u8]) -> Result<bool, C::Error> {
        if let Some((last, remains)) = &*self.remains.borrow()
            && last == key
        {
            return Ok(*remains);
        }
        let remains = self.search(before, key)?;
        self.remains.replace(Some((key.to_vec(), remains)));
        Ok(remains)
    }

    fn search<C: RowCursor<'v>>(&self, before: &mut C, key: &[u8]) -> Result<bool, C::Error> {
        let mut row = before.seek(key)?;
        while let Some((found, _)) = row.filter(|row| row.0.starts_with(key)) {
            self.step();
            let behind = self.nodes.partition_point(|node| node.0[..] <= *found);
            let removed = behind.checked_sub(1).map(|index| &self.nodes[index].0);
            row = match removed.filter(|node| found.starts_with(node)) {
                Some(node) => before.seek(&past(node))?,
                // A priority stays only where a value does.
                None if is_priority_key(found) => before.seek(&behind_row(found))?,
                None => return Ok(true),
            };
        }
        Ok(false)
    }

    /// The priority after the change of a node that is not empty then.
    pub(super) fn priority<C: RowCursor<'v>>(&self, before: &mut C, key: &[u8]) -> Result<Option<Leaf<'v>>, C::Error> {
        if let Some((base, rows)) = &self.overlay {
            let put = key.strip_prefix(&base[..]).and_then(|inside| priority_in(rows, inside));
            return put.map_or_else(|| priority(before, key), |leaf| Ok(Some(leaf)));
        }
        if let Ok(index) = self.priorities.binary_search_by(|entry| entry.0[..].cmp(key)) {
            let value = self.priorities[index].1.get(&[]);
            return Ok(value.and_then(Leaf::decode));
        }
        let behind = self.nodes.partition_point(|node| node.0[..] <= *key);
        if let Some((node, rows)) = behind.checked_sub(1).map(|index| &self.nodes[index])
            && let Some(inside) = key.strip_prefix(&node[..])
        {
            return Ok(priority_in(rows, inside));
        }
        priority(before, key)
    }
}

fn priority_in<'v>(rows: &&'v Rows, inside: &[u8]) -> Option<Leaf<'v>> {
    let Ok(found) = priority(&mut rows.cursor(), inside);
    found
}

/// The first place behind a row.
fn behind_row(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

impl<'v> Written<'v> {
    fn look_in_overlay<C: RowCursor<'v>>(
        &self,
        base: &[u8],
        rows: &&'v Rows,
        before: &mut C,
        key: &[u8],
    ) -> Result<Found<'v>, C::Error> {
        let Some(inside) = key.strip_prefix(base) else {
            let above = base.starts_with(key) && self.overlay_filled;
            return if above { Ok(Found::Inner) } else { look(before, key) };
        };
        // A leaf is put at the node, or above it, or below.
        let mut cursor = rows.cursor();
        let Ok(mut row) = cursor.seek(inside);
        if let Some((found, value)) = row
            && found == inside
        {
            return Ok(Leaf::decode(value).map_or(Found::Nothing, Found::Leaf));
        }
        while let Some((found, _)) = row.filter(|row| row.0.starts_with(inside)) {
            if !is_priority_key(found) {
                return Ok(Found::Inner);
            }
            self.step();
            let Ok(next) = cursor.next();
            row = next;
        }
        let Ok(above) = cursor.before(inside);
        let above = above.map(|row| if is_priority_key(row.0) { &row.0[..row.0.len() - 1] } else { row.0 });
        if above.is_some_and(|above| inside.starts_with(above) && rows.get(above).is_some()) {
            return Ok(Found::Nothing);
        }
        look(before, key)
    }
}
