//! The pure part of Standpipe: paths, values, rows, JSON, queries, hashes, push ids.
//!
//! Knows no tokio, store, clock, randomness, environment or file: everything here is a function of its
//! arguments. Values are *rows* throughout (see [`rows`] and ADR 0003); whoever has rows, in memory or
//! behind a [`RowCursor`], has JSON ([`JsonStream`]), hashes and queries.

pub mod change;
pub mod children;
pub mod escape;
pub mod hash;
pub mod json;
pub mod key;
pub mod leaf;
#[cfg(any(test, feature = "model"))]
pub mod model;
mod number;
pub mod parse;
pub mod path;
pub mod push_id;
pub mod query;
pub mod rows;
pub mod rules;
pub mod server_value;
pub mod stream_record;
mod varint;

pub use change::{Change, ChangeKind, Event, EventKind, Write};
pub use children::{Child, Children};
pub use escape::{escape_key, unescape_key};
pub use hash::{NULL_ETAG, etag, hash};
pub use json::{Format, JsonStream, Progress, ShallowRange, to_json, write_json_string};
pub use key::{
    CHILDREN, KEY_BYTES_MAX, KeyError, PAST, PRIORITY, check_key, compare_keys, compare_utf16, decode_key, encode_key,
    integer_key, is_priority_key, segment_len,
};
pub use leaf::{Leaf, OwnedLeaf, STRING_BYTES_MAX};
#[cfg(any(test, feature = "model"))]
pub use model::Model;
pub use parse::{Merge, ParseError, ParseLimits, RowSink, SpecialError, Stop, parse_merge, parse_stream, parse_value};
pub use path::{DEPTH_MAX, ENCODED_PATH_BYTES_MAX, Location, Path, PathError};
pub use push_id::PushIds;
pub use query::{
    Bound, BoundKey, BoundValue, INDEX_TEXT_BYTES, IndexNode, IndexOrder, IndexTree, IndexValue, Limit, OrderBy, Query,
    QueryError, QueryParseError, Selection, Side, WireQueryError, indexed_child, parse_rest, parse_wire_query, select,
    select_indexed,
};
pub use rows::{Conflict, ROWS_BYTES_MAX, Row, RowCursor, Rows, RowsBuilder, RowsCursor};
pub use rules::{IndexRule, IndexSegment, RuleSet, RulesError};
pub use server_value::resolve;
pub use stream_record::{Channel, StreamRecord};

#[cfg(test)]
mod against_model;
