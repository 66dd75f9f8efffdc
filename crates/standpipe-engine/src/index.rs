//! The `index` table: for each child of an indexed parent one key, in the order of a query (ADR 11). It is
//! a function of the tree and of the rules, nothing else, and changes in the transaction that changes those.
//!
//! Owns which keys there are. What a key means, and how a query reads it, is `standpipe_tree`'s.

use std::collections::BTreeMap;

use heed::{RoTxn, RwTxn};
use standpipe_tree::{
    CHILDREN, IndexNode, IndexOrder, IndexTree, IndexValue, Leaf, PAST, RowCursor as _, is_priority_key, segment_len,
};

use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;
use crate::store::keys::{prefix_end, range_from};

/// In front of every key in `index`.
const INDEX_PREFIX: u8 = b'i';

/// Children whose keys are put at once, sorted: LMDB is quicker with neighbours, so the more the better. As many
/// as some 50 MB hold.
const BATCH: usize = 1 << 18;

/// What all keys of one order at and below a parent begin with.
pub(crate) fn parent_key(order: [u8; 8], encoded_parent: &[u8]) -> Vec<u8> {
    [&[INDEX_PREFIX], &order[..], encoded_parent].concat()
}

/// What is at and below a location.
enum Held<'t> {
    Nothing,
    Leaf(&'t [u8]),
    Node,
}

/// A lone priority is nothing: while a write is applied one may be left.
fn held<'t>(store: &Store, txn: &'t RoTxn<'t>, encoded_path: &[u8]) -> heed::Result<Held<'t>> {
    let mut cursor = store.cursor(txn, encoded_path);
    let mut row = cursor.seek(&[])?;
    while let Some((key, value)) = row {
        match key {
            [] => return Ok(Held::Leaf(value)),
            key if is_priority_key(key) => row = cursor.next()?,
            _ => return Ok(Held::Node),
        }
    }
    Ok(Held::Nothing)
}

/// The key of a child in an index; `None` where there is no such child.
fn entry(
    store: &Store,
    txn: &RoTxn,
    order: &IndexOrder,
    child: &[u8],
    parent_len: usize,
) -> heed::Result<Option<Vec<u8>>> {
    let found = held(store, txn, child)?;
    let value = match found {
        Held::Nothing => return Ok(None),
        Held::Leaf(value) if order.below.is_empty() => of_leaf(value),
        Held::Leaf(_) => IndexValue::Absent,
        Held::Node if order.below.is_empty() => IndexValue::Node,
        Held::Node => match held(store, txn, &[child, &order.below].concat())? {
            Held::Nothing => IndexValue::Absent,
            Held::Leaf(value) => of_leaf(value),
            Held::Node => IndexValue::Node,
        },
    };
    let mut key = parent_key(order.id, &child[..parent_len]);
    value.encode(&mut key);
    key.extend_from_slice(&child[parent_len..]);
    Ok(Some(key))
}

/// A value that can't be read, which only a damaged store has, is treated as the query treats it.
fn of_leaf(value: &[u8]) -> IndexValue<'_> {
    Leaf::decode(value).map_or(IndexValue::Absent, IndexValue::Leaf)
}

/// Children that a write may move in an index, with the keys they had.
pub(crate) struct Moving<'r> {
    /// By encoded path of the child.
    children: BTreeMap<Vec<u8>, Child<'r>>,
}

struct Child<'r> {
    parent_len: usize,
    orders: &'r [IndexOrder],
    /// One for each order.
    keys: Vec<Option<Vec<u8>>>,
}

impl<'r> Moving<'r> {
    pub(crate) fn new() -> Self {
        Self { children: BTreeMap::new() }
    }

    /// Notes, before a row at `encoded_path` is changed, whom that may move.
    pub(crate) fn note(
        &mut self,
        store: &Store,
        txn: &RoTxn,
        indexes: &'r IndexTree,
        encoded_path: &[u8],
    ) -> heed::Result<()> {
        let mut node = indexes.root();
        let mut parent_len = 0;
        while let (Some(here), Some(len)) = (node, segment_len(&encoded_path[parent_len..])) {
            let child = &encoded_path[..parent_len + len];
            if !here.orders().is_empty() && !self.children.contains_key(child) {
                let keys = here
                    .orders()
                    .iter()
                    .map(|order| entry(store, txn, order, child, parent_len))
                    .collect::<heed::Result<_>>()?;
                self.children.insert(child.to_vec(), Child { parent_len, orders: here.orders(), keys });
            }
            node = here.child(&child[parent_len..]);
            parent_len = child.len();
        }
        Ok(())
    }

    /// Moves them, after the rows are changed.
    pub(crate) fn settle(self, store: &Store, txn: &mut RwTxn) -> heed::Result<()> {
        for (path, child) in self.children {
            for (order, old) in child.orders.iter().zip(child.keys) {
                let new = entry(store, txn, order, &path, child.parent_len)?;
                if old == new {
                    continue;
                }
                if let Some(old) = old {
                    store.index.delete(txn, &old)?;
                }
                if let Some(new) = new {
                    store.index.put(txn, &new, &[])?;
                }
            }
        }
        Ok(())
    }
}

/// Removes the keys of all parents at and below a location, whose subtree is gone.
pub(crate) fn clear(store: &Store, txn: &mut RwTxn, node: &IndexNode, encoded_path: &[u8]) -> heed::Result<()> {
    for order in node.orders_below() {
        let prefix = parent_key(order, encoded_path);
        store.index.delete_range(txn, &range_from(&prefix, &prefix_end(&prefix)))?;
    }
    Ok(())
}

/// Puts the keys of all parents at and below a location, where none were.
pub(crate) fn build(
    store: &Store,
    txn: &mut RwTxn,
    node: &IndexNode,
    encoded_path: &[u8],
    only: Option<&[[u8; 8]]>,
) -> heed::Result<()> {
    let wanted = |order: &&IndexOrder| only.is_none_or(|only| only.contains(&order.id));
    let orders: Vec<&IndexOrder> = node.orders().iter().filter(wanted).collect();
    if let (Some(named), true) = (node.only_named(), orders.is_empty()) {
        for key in named {
            if let Some(below) = node.child(key) {
                build(store, txn, below, &[encoded_path, key].concat(), only)?;
            }
        }
        return Ok(());
    }
    let mut from = vec![CHILDREN];
    loop {
        let children = children(store, txn, encoded_path, &from)?;
        let mut keys = Vec::with_capacity(children.len() * orders.len());
        for child in &children {
            for order in &orders {
                keys.extend(entry(store, txn, order, child, encoded_path.len())?);
            }
        }
        keys.sort_unstable();
        for key in keys {
            store.index.put(txn, &key, &[])?;
        }
        for child in &children {
            if let Some(below) = node.child(&child[encoded_path.len()..]) {
                build(store, txn, below, child, only)?;
            }
        }
        match children.last() {
            Some(last) if children.len() == BATCH => from = [&last[encoded_path.len()..], &[PAST]].concat(),
            _ => return Ok(()),
        }
    }
}

/// Encoded paths of up to [`BATCH`] children from an encoded key on.
fn children(store: &Store, txn: &RoTxn, encoded_path: &[u8], from: &[u8]) -> heed::Result<Vec<Vec<u8>>> {
    let mut cursor = store.cursor(txn, encoded_path);
    let mut found = Vec::new();
    let mut row = cursor.seek(from)?;
    while let Some((key, _)) = row {
        let Some(len) = segment_len(key).filter(|_| found.len() < BATCH) else { break };
        let segment = &key[..len];
        found.push([encoded_path, segment].concat());
        row = match cursor.next()? {
            Some((next, _)) if next.starts_with(segment) => cursor.seek(&[segment, &[PAST]].concat())?,
            row => row,
        };
    }
    Ok(found)
}

/// Brings the table from what one set of rules declares to what another does: of orders that are declared
/// at the same places nothing is touched.
pub(crate) fn rebuild(store: &Store, txn: &mut RwTxn, old: &IndexTree, new: &IndexTree) -> heed::Result<()> {
    let differ = new.differences(old);
    for order in &differ {
        let prefix = parent_key(*order, &[]);
        store.index.delete_range(txn, &range_from(&prefix, &prefix_end(&prefix)))?;
    }
    match new.root() {
        Some(root) if !differ.is_empty() => build(store, txn, root, &[], Some(&differ)),
        _ => Ok(()),
    }
}

/// Checks that the table holds what the tree and the rules say, and nothing else.
///
/// # Errors
/// `Internal`, when it does not.
pub(crate) fn verify(store: &Store, txn: &RoTxn, indexes: &IndexTree) -> Result<()> {
    let found = match indexes.root() {
        Some(root) => count(store, txn, root, &[])?,
        None => Some(0),
    };
    if found == Some(store.index.len(txn)?) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Internal, "damaged database: an index does not match the tree; restore a backup"))
}

/// How many keys there are of all parents at and below a location; `None` where one is missing.
fn count(store: &Store, txn: &RoTxn, node: &IndexNode, encoded_path: &[u8]) -> heed::Result<Option<u64>> {
    let mut keys = 0;
    let mut from = vec![CHILDREN];
    loop {
        let children = children(store, txn, encoded_path, &from)?;
        for child in &children {
            for order in node.orders() {
                if let Some(key) = entry(store, txn, order, child, encoded_path.len())? {
                    if store.index.get(txn, &key)?.is_none() {
                        return Ok(None);
                    }
                    keys += 1;
                }
            }
            if let Some(below) = node.child(&child[encoded_path.len()..]) {
                let Some(more) = count(store, txn, below, child)? else { return Ok(None) };
                keys += more;
            }
        }
        match children.last() {
            Some(last) if children.len() == BATCH => from = [&last[encoded_path.len()..], &[PAST]].concat(),
            _ => return Ok(Some(keys)),
        }
    }
}
