//! The tree as the writer's open transaction shows it: what decisions and [`Compute`] look at.
//! It reads and never writes.
//!
//! [`Compute`]: crate::Compute

use heed::RoTxn;
use standpipe_tree::{Change, OwnedLeaf, Path, Write};

use crate::apply::leaf_above;
use crate::error::Result;
use crate::identity::Identity;
use crate::lease::{Armed, LeaseId, LeaseLimits, armed_above, check_room};
use crate::rules::{Caller, Rules};
use crate::store::keys::{TREE_PREFIX, tree_key};
use crate::store::{Store, StoreCursor};

/// The tree with every write decided so far, those of the same commit included.
pub struct View<'a> {
    store: &'a Store,
    txn: &'a RoTxn<'a>,
    rules: &'a Rules,
    caller: Caller<'a>,
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("store", self.store).finish_non_exhaustive()
    }
}

impl<'a> View<'a> {
    pub(crate) fn new(store: &'a Store, txn: &'a RoTxn<'a>, rules: &'a Rules, caller: Caller<'a>) -> Self {
        Self { store, txn, rules, caller }
    }

    /// May the one for whom this is decided read `path`, with all that is below it?
    ///
    /// # Errors
    /// `Denied`.
    pub fn check_read(&self, path: &Path) -> Result<()> {
        self.rules.check_read(self.caller, self, path, None)
    }

    /// May he make this change, whose server values are resolved?
    pub(crate) fn check_write(&self, change: &Change) -> Result<()> {
        self.rules.check_write(self.caller, self, change)
    }

    /// For whom this is decided.
    pub(crate) fn identity(&self) -> &'a Identity {
        self.caller.identity
    }

    /// A cursor over the rows of the subtree at `path`.
    pub fn cursor(&self, path: &Path) -> StoreCursor<'a> {
        self.store.cursor(self.txn, &path.encode())
    }

    /// The leaf at `path`, if there is one.
    pub fn leaf(&self, path: &Path) -> Result<Option<OwnedLeaf>> {
        self.leaf_at(&tree_key(&path.encode()))
    }

    /// The nearest strict ancestor of `path` that is a leaf: a write at `path` would replace it.
    pub fn leaf_above(&self, path: &Path) -> Result<Option<Path>> {
        let leaf = leaf_above(self.store.tree, self.txn, &tree_key(&path.encode()))?;
        Ok(leaf.and_then(|key| Path::decode(key.strip_prefix(&[TREE_PREFIX])?)))
    }

    pub(crate) fn armed_above(&self, lease: LeaseId, path: &Path) -> Result<Option<Armed>> {
        armed_above(self.store, self.txn, lease, path)
    }

    pub(crate) fn check_lease_room(&self, lease: LeaseId, writes: &[Write], limits: LeaseLimits) -> Result<usize> {
        check_room(self.store, self.txn, lease, writes, limits)
    }

    /// The leaf or priority whose row has this key.
    pub(crate) fn leaf_at(&self, key: &[u8]) -> Result<Option<OwnedLeaf>> {
        Ok(self.store.tree.get(self.txn, key)?.and_then(OwnedLeaf::decode))
    }
}
