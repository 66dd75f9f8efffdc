//! [`RowCursor`] over an LMDB range: what lets the JSON writer, the hasher and the query engine
//! run over the store exactly as they run over rows in memory.

use heed::types::Bytes;
use heed::{RoRange, RoTxn};
use standpipe_tree::RowCursor;

use super::Table;
use super::keys::{prefix_end, range_from};

type Row<'t> = Option<(&'t [u8], &'t [u8])>;

/// A cursor over one subtree of a snapshot or of the writer's transaction.
pub struct StoreCursor<'t> {
    table: Table,
    txn: &'t RoTxn<'t>,
    prefix: Vec<u8>,
    /// Where the last seek ended: the absolute key it found, or none in this subtree.
    key: Vec<u8>,
    found: bool,
    /// Opened only when a second row is asked for: most reads are of one leaf.
    range: Option<RoRange<'t, Bytes, Bytes>>,
}

impl std::fmt::Debug for StoreCursor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreCursor").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl<'t> StoreCursor<'t> {
    pub(super) fn new(table: Table, txn: &'t RoTxn<'t>, prefix: Vec<u8>) -> Self {
        Self { table, txn, prefix, key: Vec::new(), found: false, range: None }
    }

    /// Leaves the absolute key of `key` in `self.key`.
    fn absolute(&mut self, key: &[u8]) {
        self.key.clone_from(&self.prefix);
        self.key.extend_from_slice(key);
    }

    /// Strips the prefix; rows outside the subtree are no rows of it.
    fn relative(&self, row: Row<'t>) -> Row<'t> {
        let (key, value) = row?;
        Some((key.strip_prefix(&self.prefix[..])?, value))
    }
}

impl<'t> RowCursor<'t> for StoreCursor<'t> {
    type Error = heed::Error;

    fn seek(&mut self, key: &[u8]) -> heed::Result<Row<'t>> {
        self.absolute(key);
        self.range = None;
        let row = self.table.get_greater_than_or_equal_to(self.txn, &self.key)?;
        let row = self.relative(row);
        self.found = row.is_some();
        if let Some((found, _)) = row {
            self.absolute(found);
        }
        Ok(row)
    }

    fn next(&mut self) -> heed::Result<Row<'t>> {
        let range = match &mut self.range {
            Some(range) => range,
            none => {
                if !self.found {
                    return Ok(None);
                }
                let end = prefix_end(&self.prefix);
                let mut range = self.table.range(self.txn, &range_from(&self.key, &end))?;
                range.next().transpose()?;
                none.insert(range)
            }
        };
        let row = range.next().transpose()?;
        Ok(self.relative(row))
    }

    fn before(&mut self, key: &[u8]) -> heed::Result<Row<'t>> {
        self.absolute(key);
        let row = self.table.get_lower_than(self.txn, &self.key)?;
        Ok(self.relative(row))
    }
}
