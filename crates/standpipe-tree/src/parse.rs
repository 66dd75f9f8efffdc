//! JSON text to rows, in one pass and without a tree of values in between.
//!
//! Owns what JSON means as a tree (firebase-rtdb.md §3.1, §3.3, §3.7): special members, arrays, limits,
//! and what is refused (ADR 0004). JSON syntax itself is `serde_json`'s.

mod error;
mod integers;
mod merge;
mod walk;

use std::io;

pub use error::{ParseError, SpecialError};
pub use merge::{Merge, parse_merge};
use serde::de::DeserializeSeed;
use walk::{Node, Walk};

use crate::leaf::STRING_BYTES_MAX;
use crate::path::{DEPTH_MAX, ENCODED_PATH_BYTES_MAX, Path};
use crate::rows::{Rows, RowsBuilder};

/// What a parsed value may amount to.
#[derive(Clone, Copy, Debug)]
pub struct ParseLimits {
    /// The longest string leaf, in UTF-8 bytes.
    pub string_bytes_max: usize,
    /// Levels that there may be below the target.
    pub depth_left_max: usize,
    /// The longest encoded path below the target, in bytes.
    pub encoded_key_bytes_max: usize,
    /// The largest number of rows: leaves and priorities. (Their memory is limited by `ROWS_BYTES_MAX`.)
    pub leaves_max: usize,
}

impl ParseLimits {
    /// What the tree itself allows below `path`.
    pub fn below(path: &Path) -> ParseLimits {
        ParseLimits {
            string_bytes_max: STRING_BYTES_MAX,
            depth_left_max: DEPTH_MAX.saturating_sub(path.depth()),
            encoded_key_bytes_max: ENCODED_PATH_BYTES_MAX.saturating_sub(path.encode().len()),
            // The memory that rows may take is limited beside this, see `ROWS_BYTES_MAX`.
            leaves_max: usize::MAX,
        }
    }
}

/// Takes rows as they are parsed.
pub trait RowSink {
    /// One row. Rows come in the order of the document, each priority behind its node's children.
    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), Stop>;
}

/// Ends parsing; whoever says it keeps the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop;

impl RowSink for RowsBuilder {
    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), Stop> {
        self.push(key, value);
        Ok(())
    }
}

/// What an import may keep to recognise duplicate keys, in bytes; beyond that keys have to ascend.
const STREAM_SEEN_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Parses a JSON text as the new value of a node. Placeholders stay in the rows (`server_value::resolve`).
pub fn parse_value(json: &[u8], limits: &ParseLimits) -> Result<Rows, ParseError> {
    let text = std::str::from_utf8(json).map_err(|_| ParseError::Syntax)?;
    let mut rows = RowsBuilder::new();
    let mut walk = Walk::new(&mut rows, *limits, String::new());
    let mut json = serde_json::Deserializer::from_str(text);
    let outcome = Node(&mut walk).deserialize(&mut json).and_then(|_| json.end());
    let rounded = walk.rounded;
    outcome.map_err(|error| walk.failure(&error))?;
    if rounded {
        integers::check(text)?;
    }
    Ok(rows.finish()?)
}

/// Parses a JSON text of any length as the new value of the root, a row at a time.
///
/// An integer of 20 digits that no double holds is rounded here: the text is not at hand to notice.
pub fn parse_stream<R: io::Read>(reader: R, sink: &mut dyn RowSink, limits: &ParseLimits) -> Result<(), ParseError> {
    let mut walk = Walk::new(sink, *limits, String::new());
    walk.seen_bytes_max = STREAM_SEEN_BYTES_MAX;
    let mut json = serde_json::Deserializer::from_reader(reader);
    let outcome = Node(&mut walk).deserialize(&mut json).and_then(|_| json.end());
    outcome.map_err(|error| walk.failure(&error))
}

#[cfg(test)]
pub(crate) mod tests;
