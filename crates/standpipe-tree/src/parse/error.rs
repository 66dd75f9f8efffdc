//! Why JSON is refused, in sentences for whoever sent it.

use crate::key::KeyError;
use crate::path::{Location, PathError};
use crate::rows::Conflict;

/// Why a JSON text is no value. `at` is the place in the JSON, as a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It is not JSON. (The text is Firebase's, firebase-rtdb.md §9.6.)
    #[error("Invalid data; couldn't parse JSON object, array, or value.")]
    Syntax,
    /// A merge is not an object. (The text is Firebase's, firebase-rtdb.md §9.6.)
    #[error("Invalid data; couldn't parse JSON object. Are you sending a JSON object with valid key names?")]
    NotAnObject,
    /// A key is refused.
    #[error("Invalid data; at {at}: {reason}")]
    Key {
        /// The object with the key.
        at: String,
        /// What is wrong with it.
        reason: KeyError,
    },
    /// A key occurs twice in one object.
    #[error("Invalid data; at {at}: the key occurs twice in its object")]
    DuplicateKey {
        /// The key's place.
        at: String,
    },
    /// A very large object in a stream does not have its keys in order.
    #[error("Invalid data; at {at}: an object this large must have its keys in ascending order")]
    Unsorted {
        /// The key's place.
        at: String,
    },
    /// A key that begins with a dot is not one of the special ones, or has the wrong company.
    #[error("Invalid data; at {at}: {reason}")]
    Special {
        /// The object with the key.
        at: String,
        /// What is wrong with it.
        reason: SpecialError,
    },
    /// A path within a merge is refused.
    #[error("Invalid data; {path:?} is a {reason}")]
    Path {
        /// The path as sent.
        path: String,
        /// What is wrong with it.
        reason: PathError,
    },
    /// The value is nested too deeply.
    #[error("Invalid data; at {at}: the tree may not be deeper than 32 levels")]
    Depth {
        /// The key that is too deep.
        at: String,
    },
    /// All keys on the way to a value are too long together.
    #[error("Invalid data; at {at}: the path is too long")]
    PathTooLong {
        /// The key that is too much.
        at: String,
    },
    /// A number would change by being stored.
    #[error("Invalid data; at {at}: {literal} cannot be stored exactly, send it as a string")]
    Number {
        /// The number's place; beyond 64 bits its offset in the text.
        at: String,
        /// The number as sent.
        literal: String,
    },
    /// A string is too long.
    #[error("Invalid data; at {at}: a string of {bytes} bytes is too long, at most {max} are allowed")]
    StringTooLong {
        /// The string's place.
        at: String,
        /// Its length in UTF-8 bytes.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// There are too many values.
    #[error("Invalid data; too many values in one write")]
    TooManyLeaves,
    /// Two members of a merge write the same place.
    #[error("Invalid data; {upper} and {lower} overlap in one update")]
    Overlap {
        /// The outer location.
        upper: Location,
        /// The one it contains.
        lower: Location,
    },
    /// The rows cannot be kept in memory.
    #[error("Invalid data; {0}")]
    Rows(#[from] Conflict),
    /// The text could not be read to its end.
    #[error("could not read: {0}")]
    Read(String),
    /// The sink said [`Stop`](crate::parse::Stop).
    #[error("stopped")]
    Stopped,
}

/// What is wrong with a member whose name begins with a dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecialError {
    /// There is no such special member.
    #[error("keys must not begin with a dot, except .value, .priority and .sv")]
    Unknown,
    /// A special member occurs twice.
    #[error("a special key occurs twice in its object")]
    Twice,
    /// `.value` beside children.
    #[error(".value allows no other key in its object but .priority")]
    ValueWithChildren,
    /// `.sv` beside anything.
    #[error(".sv allows no other key in its object")]
    ServerValueWithOthers,
    /// `.sv` is something unknown.
    #[error("unknown server value: .sv must be \"timestamp\" or {{\"increment\": number}}")]
    ServerValue,
    /// `.value` is an object or an array.
    #[error(".value must be null, a string, a number, a boolean or a server value")]
    Value,
    /// `.priority` is of another type.
    #[error(".priority must be null, a string, a number or a server value")]
    Priority,
}
