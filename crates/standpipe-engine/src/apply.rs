//! `apply`: a total, pure function of (state, effect). No rules, clock, randomness or
//! configuration, so the same records make the same tree on any node; only the store itself can
//! stop it.

use std::cmp::Ordering;
use std::hash::Hasher as _;
use std::sync::Arc;

use heed::{PutFlags, RoTxn, RwTxn};
use siphasher::sip128::{Hasher128 as _, SipHasher13};
use standpipe_tree::{Change, ChangeKind, IndexTree, Location, Path, Rows, is_priority_key};

use crate::identity::Identity;
use crate::index::{self, Moving};
use crate::lease::{LeaseId, armed_for, armed_value};
use crate::record::Effect;
use crate::rules::Rules;
use crate::store::keys::{lease_key, prefix_end, range_from, tree_key};
use crate::store::{State, Store, Table};

/// The row of a node's priority: its key and this byte.
pub(crate) const PRIORITY_MARK: u8 = 0;

/// Writes `effect` and keeps the digest and the row count of `state` true. Says whether anything
/// changed: a write that changes nothing is acknowledged but makes no record.
pub(crate) fn apply(
    store: &Store,
    txn: &mut RwTxn,
    state: &mut State,
    rules: &mut Arc<Rules>,
    effect: &Effect,
) -> heed::Result<bool> {
    match effect {
        Effect::Change(change) => Apply { store, tree: store.tree, indexes: &rules.indexes, txn, state }.change(change),
        Effect::Rules(text) => put_rules(store, txn, state, rules, text),
        Effect::Arm(lease, identity, change) => {
            let mut armed = false;
            for write in &change.writes {
                let key = lease_key(*lease, &write.location.encode());
                armed |= arm(&store.leases, txn, &key, &armed_value(identity, &write.rows))?;
            }
            Ok(armed)
        }
        Effect::Identify(lease, identity) => identify(store, txn, *lease, identity),
        Effect::Disarm(lease, path) => clear_below(&store.leases, txn, &lease_key(*lease, &path.encode())),
        Effect::Release(lease) => clear_below(&store.leases, txn, &lease_key(*lease, &[])),
    }
}

/// Stores rules and brings the indexes to what they declare. `rules` are those in force before, and after.
fn put_rules(
    store: &Store,
    txn: &mut RwTxn,
    state: &mut State,
    rules: &mut Arc<Rules>,
    text: &str,
) -> heed::Result<bool> {
    if state.rules_version > 0 && store.has_rules(txn, text)? {
        return Ok(false);
    }
    store.put_rules(txn, text)?;
    state.rules_version += 1;
    let new = Rules::stored(state.rules_version, text);
    index::rebuild(store, txn, &rules.indexes, &new.indexes)?;
    *rules = Arc::new(new);
    Ok(true)
}

/// Rows of the tree that are priorities.
pub(crate) fn count_priorities(store: &Store, txn: &RoTxn) -> heed::Result<u64> {
    let mut count = 0;
    for row in store.tree.iter(txn)? {
        count += u64::from(is_priority_key(&row?.0[1..]));
    }
    Ok(count)
}

/// Arms one location, in place of what was armed there and below.
fn arm(leases: &Table, txn: &mut RwTxn, key: &[u8], value: &[u8]) -> heed::Result<bool> {
    let mut rows = leases.prefix_iter(txn, key)?;
    let same = rows.next().transpose()?.is_some_and(|row| row == (key, value)) && rows.next().is_none();
    drop(rows);
    if !same {
        clear_below(leases, txn, key)?;
        leases.put(txn, key, value)?;
    }
    Ok(!same)
}

/// Has everything a lease has armed be for `identity`.
fn identify(store: &Store, txn: &mut RwTxn, lease: LeaseId, identity: &Identity) -> heed::Result<bool> {
    let mut others = Vec::new();
    for row in store.leases.prefix_iter(txn, &lease_key(lease, &[]))? {
        let (key, value) = row?;
        let as_identity = armed_for(value, identity);
        if let Some(as_identity) = as_identity.filter(|as_identity| as_identity != value) {
            others.push((key.to_vec(), as_identity));
        }
    }
    for (key, value) in &others {
        store.leases.put(txn, key, value)?;
    }
    Ok(!others.is_empty())
}

/// Removes the rows whose keys begin with `prefix`.
fn clear_below(table: &Table, txn: &mut RwTxn, prefix: &[u8]) -> heed::Result<bool> {
    Ok(table.delete_range(txn, &range_from(prefix, &prefix_end(prefix)))? > 0)
}

/// What the row of an encoded path adds to a database's digest. Addition is undone by subtraction and knows no order, so the
/// digest follows the tree without reading it.
pub fn row_digest(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = SipHasher13::new();
    hasher.write(&(key.len() as u32).to_le_bytes());
    hasher.write(key);
    hasher.write(value);
    hasher.finish128().as_u128()
}

/// Puts a row behind the last one of the table; false when it would not be the last.
fn append(tree: &Table, txn: &mut RwTxn, key: &[u8], value: &[u8]) -> heed::Result<bool> {
    match tree.put_with_flags(txn, PutFlags::APPEND, key, value) {
        Ok(()) => Ok(true),
        Err(heed::Error::Mdb(heed::MdbError::KeyExist)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The key of the leaf above the node whose key this is, if a leaf is in its way.
///
/// Between such a leaf and the node there can only be the leaf's priority, so the row just
/// before the node tells.
pub(crate) fn leaf_above(tree: Table, txn: &RoTxn, key: &[u8]) -> heed::Result<Option<Vec<u8>>> {
    let Some((before, _)) = tree.get_lower_than(txn, key)? else { return Ok(None) };
    if key.starts_with(before) {
        return Ok(Some(before.to_vec()));
    }
    Ok(match before.split_last() {
        Some((&PRIORITY_MARK, node)) if key.starts_with(node) && tree.get(txn, node)?.is_some() => Some(node.to_vec()),
        _ => None,
    })
}

struct Apply<'a, 's> {
    store: &'a Store,
    tree: Table,
    indexes: &'a IndexTree,
    txn: &'a mut RwTxn<'s>,
    state: &'a mut State,
}

impl<'a> Apply<'a, '_> {
    fn change(&mut self, change: &Change) -> heed::Result<bool> {
        let mut changed = false;
        if change.kind == ChangeKind::Overlay {
            for write in &change.writes {
                changed |= self.overlay(write.location.path(), &write.rows)?;
            }
            return Ok(changed);
        }
        for write in &change.writes {
            changed |= match &write.location {
                Location::Node(path) => self.node(path, &write.rows)?,
                Location::Priority(path) => self.priority(path, &write.rows)?,
            };
        }
        // After all writes: a parent that lost one child may have got another.
        for write in &change.writes {
            if let (Location::Node(path), true) = (&write.location, write.rows.is_empty()) {
                self.prune(path)?;
            }
        }
        Ok(changed)
    }

    /// Replaces the subtree at `path`.
    fn node(&mut self, path: &Path, rows: &Rows) -> heed::Result<bool> {
        let prefix = tree_key(&path.encode());
        let mut moving = Moving::new();
        self.note(&mut moving, &prefix)?;
        let changed = if rows.is_empty() {
            self.clear(&prefix)?
        } else {
            let replaced = self.replace(&prefix, rows, &mut moving)?;
            self.clear_leaf_above(&prefix)? || replaced
        };
        moving.settle(self.store, self.txn)?;
        Ok(changed)
    }

    /// Notes who may move in an index when the row of `key` changes.
    fn note(&self, moving: &mut Moving<'a>, key: &[u8]) -> heed::Result<()> {
        if self.indexes.is_empty() {
            return Ok(());
        }
        moving.note(self.store, self.txn, self.indexes, &key[1..])
    }

    /// Puts leaves below `path` and removes only what they replace.
    fn overlay(&mut self, path: &Path, rows: &Rows) -> heed::Result<bool> {
        let prefix = tree_key(&path.encode());
        let rows: Vec<_> = rows.iter().collect();
        let Some((last, _)) = rows.last() else { return Ok(false) };
        let end = prefix_end(&[&prefix[..], last].concat());
        let mut changed = false;
        let mut moving = Moving::new();
        if !self.indexes.is_empty() {
            for (relative, _) in &rows {
                self.note(&mut moving, &[&prefix[..], relative].concat())?;
            }
        }
        // A node's priority comes before its children, and counts only when they are there.
        let mut priorities = Vec::new();
        for (index, (relative, value)) in rows.iter().enumerate() {
            let key = [&prefix[..], relative].concat();
            changed |= self.clear_leaf_above(&key)?;
            if self.tree.range(self.txn, &range_from(&key, &end))?.next().transpose()?.is_none() {
                // The rest of a usual import: nothing is there, so nothing has to be replaced.
                self.put_new(&prefix, rows[index..].iter().copied())?;
                changed = true;
                break;
            }
            if is_priority_key(relative) {
                priorities.push((key, *value));
            } else {
                changed |= self.put_leaf(&key, value)?;
            }
        }
        for (key, value) in priorities {
            changed |= self.exists(&key[..key.len() - 1])? && self.put(&key, value)?;
        }
        moving.settle(self.store, self.txn)?;
        Ok(changed)
    }

    /// Is there anything at or below the node whose key this is?
    fn exists(&self, node: &[u8]) -> heed::Result<bool> {
        let end = prefix_end(node);
        Ok(self.tree.range(self.txn, &range_from(node, &end))?.next().transpose()?.is_some())
    }

    /// Puts one leaf in place of what is at and below it; its priority stays.
    fn put_leaf(&mut self, key: &[u8], value: &[u8]) -> heed::Result<bool> {
        let end = prefix_end(key);
        let mut below = Vec::new();
        for row in self.tree.range(self.txn, &range_from(key, &end))? {
            let (found, _) = row?;
            if found != key && found != [key, &[PRIORITY_MARK]].concat() {
                below.push(found.to_vec());
            }
        }
        for found in &below {
            self.delete(found)?;
        }
        if !below.is_empty() {
            self.clear_index(key)?;
        }
        Ok(self.put(key, value)? || !below.is_empty())
    }

    /// Puts rows where none are. Behind the last row of the table LMDB need not search.
    fn put_new<'r>(&mut self, prefix: &[u8], rows: impl Iterator<Item = (&'r [u8], &'r [u8])>) -> heed::Result<()> {
        let mut key = prefix.to_vec();
        let mut appends = true;
        for (relative, value) in rows {
            key.truncate(prefix.len());
            key.extend_from_slice(relative);
            let appended = appends && append(&self.tree, self.txn, &key, value)?;
            if !appended {
                appends = false;
                self.tree.put(self.txn, &key, value)?;
            }
            self.state.rows += 1;
            self.state.priorities += u64::from(is_priority_key(&key[1..]));
            self.state.digest = self.state.digest.wrapping_add(row_digest(&key[1..], value));
        }
        Ok(())
    }

    /// Removes the index keys of all parents at and below the node whose key this is.
    fn clear_index(&mut self, key: &[u8]) -> heed::Result<()> {
        match self.indexes.at(&key[1..]) {
            Some(node) => index::clear(self.store, self.txn, node, &key[1..]),
            None => Ok(()),
        }
    }

    /// Sets the priority of the node at `path`; an empty node has none.
    fn priority(&mut self, path: &Path, rows: &Rows) -> heed::Result<bool> {
        let mut key = tree_key(&path.encode());
        if !self.exists(&key)? {
            return Ok(false);
        }
        key.push(PRIORITY_MARK);
        match rows.iter().next() {
            Some((_, value)) => self.put(&key, value),
            None => self.delete(&key),
        }
    }

    /// Removes a whole subtree.
    fn clear(&mut self, prefix: &[u8]) -> heed::Result<bool> {
        let end = prefix_end(prefix);
        let range = range_from(prefix, &end);
        let (mut count, mut priorities) = (0, 0);
        let has_priorities = self.state.priorities > 0;
        for row in self.tree.range(self.txn, &range)? {
            let (key, value) = row?;
            self.state.digest = self.state.digest.wrapping_sub(row_digest(&key[1..], value));
            priorities += u64::from(has_priorities && is_priority_key(&key[1..]));
            count += 1;
        }
        if count > 0 {
            self.tree.delete_range(self.txn, &range)?;
            self.clear_index(prefix)?;
            self.state.rows -= count;
            self.state.priorities -= priorities;
        }
        Ok(count > 0)
    }

    /// Makes the subtree's rows equal to `rows`, touching only those that differ.
    fn replace(&mut self, prefix: &[u8], rows: &Rows, moving: &mut Moving<'a>) -> heed::Result<bool> {
        let inside = self.indexes.at(&prefix[1..]);
        if !self.exists(prefix)? {
            self.put_new(prefix, rows.iter())?;
            if let Some(node) = inside {
                index::build(self.store, self.txn, node, &prefix[1..], None)?;
            }
            return Ok(true);
        }
        let (stale, fresh) = self.differences(prefix, rows)?;
        if inside.is_some() {
            for key in &stale {
                self.note(moving, key)?;
            }
            for (relative, _) in &fresh {
                self.note(moving, &[prefix, relative].concat())?;
            }
        }
        for key in &stale {
            self.delete(key)?;
        }
        let mut key = prefix.to_vec();
        for (relative, value) in &fresh {
            key.truncate(prefix.len());
            key.extend_from_slice(relative);
            self.put(&key, value)?;
        }
        Ok(!stale.is_empty() || !fresh.is_empty())
    }

    /// Walks the stored and the new rows side by side: keys to delete, rows to put.
    #[allow(clippy::type_complexity)] // two lists, named right above
    fn differences<'r>(
        &self,
        prefix: &[u8],
        rows: &'r Rows,
    ) -> heed::Result<(Vec<Vec<u8>>, Vec<(&'r [u8], &'r [u8])>)> {
        let end = prefix_end(prefix);
        let mut stored = self.tree.range(self.txn, &range_from(prefix, &end))?;
        let mut new = rows.iter();
        let (mut stale, mut fresh) = (Vec::new(), Vec::new());
        let (mut old_row, mut new_row) = (stored.next().transpose()?, new.next());
        loop {
            let order = match (&old_row, &new_row) {
                (None, None) => return Ok((stale, fresh)),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((old_key, _)), Some((new_key, _))) => old_key[prefix.len()..].cmp(new_key),
            };
            match (old_row, new_row) {
                (Some((key, _)), _) if order.is_lt() => stale.push(key.to_vec()),
                (Some((_, old)), Some((key, value))) if order.is_eq() && old != value => fresh.push((key, value)),
                (_, Some(row)) if order.is_gt() => fresh.push(row),
                _ => {}
            }
            if order.is_le() {
                old_row = stored.next().transpose()?;
            }
            if order.is_ge() {
                new_row = new.next();
            }
        }
    }

    /// A leaf above a written node gives way; its priority stays (firebase-rtdb §3.1).
    fn clear_leaf_above(&mut self, key: &[u8]) -> heed::Result<bool> {
        match leaf_above(self.tree, self.txn, key)? {
            Some(leaf) => self.delete(&leaf),
            None => Ok(false),
        }
    }

    /// Removes the priorities of the ancestors of `path` that became empty.
    fn prune(&mut self, path: &Path) -> heed::Result<()> {
        let mut above = path.parent();
        while let Some(node) = above {
            let key = tree_key(&node.encode());
            let priority = [&key[..], &[PRIORITY_MARK]].concat();
            let end = prefix_end(&key);
            let mut rows = self.tree.range(self.txn, &range_from(&key, &end))?;
            let first = rows.next().transpose()?;
            let only_priority = match first {
                Some((first, _)) if first == priority => rows.next().transpose()?.is_none(),
                Some(_) => return Ok(()),
                None => false,
            };
            drop(rows);
            if only_priority {
                self.delete(&priority)?;
            } else if first.is_some() {
                return Ok(());
            }
            above = node.parent();
        }
        Ok(())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> heed::Result<bool> {
        match self.tree.get(self.txn, key)? {
            Some(old) if old == value => return Ok(false),
            Some(old) => self.state.digest = self.state.digest.wrapping_sub(row_digest(&key[1..], old)),
            None => {
                self.state.rows += 1;
                self.state.priorities += u64::from(is_priority_key(&key[1..]));
            }
        }
        self.tree.put(self.txn, key, value)?;
        self.state.digest = self.state.digest.wrapping_add(row_digest(&key[1..], value));
        Ok(true)
    }

    fn delete(&mut self, key: &[u8]) -> heed::Result<bool> {
        let Some(old) = self.tree.get(self.txn, key)? else { return Ok(false) };
        self.state.digest = self.state.digest.wrapping_sub(row_digest(&key[1..], old));
        self.tree.delete(self.txn, key)?;
        self.state.rows -= 1;
        self.state.priorities -= u64::from(is_priority_key(&key[1..]));
        Ok(true)
    }
}
