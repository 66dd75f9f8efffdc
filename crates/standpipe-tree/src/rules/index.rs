//! What `.indexOn` declares (firebase-rtdb §11.1).

use crate::path::Path;
use crate::query::OrderBy;

/// One key of the path to an indexed parent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IndexSegment {
    /// This key.
    Key(Box<str>),
    /// Any key that the rules do not name beside it.
    Any,
}

/// One declared index: the children of some parents, by something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexRule {
    /// Which parents.
    pub parent: Vec<IndexSegment>,
    /// By what: [`OrderBy::Value`] or [`OrderBy::Child`].
    pub by: OrderBy,
}

impl IndexRule {
    /// What stable orders of indexes go by.
    pub(super) fn sort_key(&self) -> (&[IndexSegment], bool, Option<&Path>) {
        match &self.by {
            OrderBy::Child(path) => (&self.parent, true, Some(path)),
            _ => (&self.parent, false, None),
        }
    }
}
