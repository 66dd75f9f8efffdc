//! What rules look at: rows of a tree at one moment.

use std::convert::Infallible;

use crate::path::Path;
use crate::rows::{RowCursor, Rows, RowsCursor};

/// A tree at one moment.
pub trait Tree {
    /// What can go wrong when reading.
    type Error;

    /// A place in its rows.
    type Cursor<'a>: RowCursor<'a, Error = Self::Error>
    where
        Self: 'a;

    /// A cursor over the rows of the subtree at `path`.
    fn cursor(&self, path: &Path) -> Self::Cursor<'_>;
}

impl Tree for Rows {
    type Error = Infallible;
    type Cursor<'a> = RowsCursor<'a>;

    fn cursor(&self, path: &Path) -> RowsCursor<'_> {
        self.cursor_at(&path.encode())
    }
}
