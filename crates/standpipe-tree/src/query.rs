//! Queries: which children of a location, in which order (firebase-rtdb.md §6.1).
//!
//! Owns selecting, by a scan or from the keys of an index. Reading a query from a request is [`parse_rest`]'s and [`parse_wire_query`]'s, writing its result is
//! [`JsonStream::children`](crate::json::JsonStream::children)'s, and keeping indexes is the engine's.

mod index;
mod index_tree;
mod rest;
mod select;
mod wire;

pub use index::{INDEX_TEXT_BYTES, indexed_child, select_indexed};
pub use index_tree::{IndexNode, IndexOrder, IndexTree};
pub use rest::{QueryParseError, parse_rest};
pub use select::{IndexValue, select};
pub use wire::{WireQueryError, parse_wire_query};

use crate::path::Path;

/// By what children are ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderBy {
    /// Their keys.
    Key,
    /// Their own values.
    Value,
    /// Their priorities.
    Priority,
    /// The values at a path below each.
    Child(Path),
}

/// The value of a bound.
#[derive(Clone, Debug, PartialEq)]
pub enum BoundValue {
    /// Where nothing is.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(f64),
    /// A text; for [`OrderBy::Key`] a key.
    Str(Box<str>),
}

/// The key of a bound: where it stands among children of the bound's value.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum BoundKey {
    /// Not said: an inclusive bound takes in all children of its value, an exclusive one none.
    #[default]
    None,
    /// Before every key (`[MIN_NAME]`).
    Min,
    /// After every key (`[MAX_NAME]`).
    Max,
    /// At this key.
    Key(Box<str>),
}

/// One end of the range of a query. For [`OrderBy::Key`] only `value` counts, and texts alone are keys:
/// any other value is before them all.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// The value it stands at.
    pub value: BoundValue,
    /// Where it stands among children of that value.
    pub key: BoundKey,
    /// Whether a child exactly at the bound is in the range.
    pub inclusive: bool,
}

/// Which end of the range a limit keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first children.
    First,
    /// The last children; they are still listed in ascending order.
    Last,
}

/// How many children to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// How many at most.
    pub count: usize,
    /// From which end.
    pub side: Side,
}

/// A query (firebase-rtdb.md §6.1).
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// The order of the children.
    pub order_by: OrderBy,
    /// The lower end of the range; none is open.
    pub start: Option<Bound>,
    /// The upper end of the range; none is open.
    pub end: Option<Bound>,
    /// How many children of the range to keep; none is all.
    pub limit: Option<Limit>,
}

/// The result of a query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The selected children's keys, in the order of the query.
    pub keys: Vec<Box<str>>,
}

/// Why a query has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError<E> {
    /// More children would have to be looked at than allowed.
    #[error("the query would have to look at too many children")]
    TooMany,
    /// The rows could not be read.
    #[error(transparent)]
    Cursor(#[from] E),
}

#[cfg(test)]
mod tests;
