//! Leaves: the values of a tree, their bytes in a row, their order and their JSON.
//!
//! Also the two placeholders that stand where a value will be once `server_value` has resolved them.

use std::cmp::Ordering;

use crate::json::write_json_string;
use crate::key::compare_utf16;
use crate::number::{exact_integer, write_double};

/// The longest string leaf, in UTF-8 bytes (firebase-rtdb.md §3.3).
pub const STRING_BYTES_MAX: usize = 10 * 1024 * 1024;

const FALSE: u8 = 0;
const TRUE: u8 = 1;
const INT: u8 = 2;
const DOUBLE: u8 = 3;
const STR: u8 = 4;
/// Value of a row that becomes the server's time; only in unresolved rows.
pub(crate) const TIMESTAMP: u8 = 0xF0;
/// Followed by an encoded number: a row that becomes the old number plus that; only in unresolved rows.
pub(crate) const INCREMENT: u8 = 0xF1;

/// A value: what a location without children holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Leaf<'a> {
    /// `true` or `false`.
    Bool(bool),
    /// An exact integer; compared and hashed as a double (firebase-rtdb.md §3.3).
    Int(i64),
    /// Any other finite number.
    Double(f64),
    /// Text.
    Str(&'a str),
}

impl<'a> Leaf<'a> {
    /// A finite number in the form that equal numbers share.
    pub fn number(number: f64) -> Leaf<'static> {
        exact_integer(number).map_or(Leaf::Double(number), Leaf::Int)
    }

    /// Appends the bytes that are the value of a row.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Leaf::Bool(value) => out.push(if *value { TRUE } else { FALSE }),
            Leaf::Int(number) => {
                out.push(INT);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Leaf::Double(number) => {
                out.push(DOUBLE);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Leaf::Str(text) => {
                out.push(STR);
                out.extend_from_slice(text.as_bytes());
            }
        }
    }

    /// Reads the value of a row; `None` when it is corrupt or a placeholder.
    pub fn decode(bytes: &'a [u8]) -> Option<Leaf<'a>> {
        let (tag, payload) = bytes.split_first()?;
        match (*tag, payload) {
            (FALSE, []) => Some(Leaf::Bool(false)),
            (TRUE, []) => Some(Leaf::Bool(true)),
            (INT, _) => payload.try_into().ok().map(|bytes| Leaf::Int(i64::from_le_bytes(bytes))),
            (DOUBLE, _) => payload.try_into().ok().map(|bytes| Leaf::Double(f64::from_le_bytes(bytes))),
            (STR, _) => std::str::from_utf8(payload).ok().map(Leaf::Str),
            _ => None,
        }
    }

    /// The number as a double; `None` for other leaves.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Leaf::Int(number) => Some(*number as f64),
            Leaf::Double(number) => Some(*number),
            _ => None,
        }
    }

    /// Bytes of the leaf as bare text: a string without quotes, anything else as JSON.
    pub fn text_bytes(&self) -> usize {
        if let Leaf::Str(text) = self {
            return text.len();
        }
        let mut json = Vec::with_capacity(24);
        self.write_json(&mut json);
        json.len()
    }

    /// Appends the leaf as JSON text.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Leaf::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
            Leaf::Int(number) => out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes()),
            Leaf::Double(number) => write_double(*number, out),
            Leaf::Str(text) => write_json_string(text, out),
        }
    }

    /// Firebase's order of values (firebase-rtdb.md §3.4): false, true, numbers, strings by UTF-16 unit.
    pub fn compare(&self, other: &Leaf<'_>) -> Ordering {
        match (self, other) {
            (Leaf::Bool(a), Leaf::Bool(b)) => a.cmp(b),
            (Leaf::Str(a), Leaf::Str(b)) => compare_utf16(a, b),
            _ => match (self.as_f64(), other.as_f64()) {
                (Some(a), Some(b)) => compare_numbers(a, b),
                _ => self.rank().cmp(&other.rank()),
            },
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Leaf::Bool(_) => 0,
            Leaf::Int(_) | Leaf::Double(_) => 1,
            Leaf::Str(_) => 2,
        }
    }
}

/// Numeric order with -0 equal to 0. Leaves are finite; corrupt ones get some stable place.
pub(crate) fn compare_numbers(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.total_cmp(&b))
}

/// A leaf that owns its text.
#[derive(Clone, Debug, PartialEq)]
pub enum OwnedLeaf {
    /// `true` or `false`.
    Bool(bool),
    /// An exact integer.
    Int(i64),
    /// Any other finite number.
    Double(f64),
    /// Text.
    Str(Box<str>),
}

impl OwnedLeaf {
    /// Reads the value of a row; `None` when it is corrupt or a placeholder.
    pub fn decode(bytes: &[u8]) -> Option<OwnedLeaf> {
        Leaf::decode(bytes).map(OwnedLeaf::from)
    }

    /// The same leaf, borrowed.
    pub fn as_leaf(&self) -> Leaf<'_> {
        match self {
            OwnedLeaf::Bool(value) => Leaf::Bool(*value),
            OwnedLeaf::Int(number) => Leaf::Int(*number),
            OwnedLeaf::Double(number) => Leaf::Double(*number),
            OwnedLeaf::Str(text) => Leaf::Str(text),
        }
    }
}

impl From<Leaf<'_>> for OwnedLeaf {
    fn from(leaf: Leaf<'_>) -> OwnedLeaf {
        match leaf {
            Leaf::Bool(value) => OwnedLeaf::Bool(value),
            Leaf::Int(number) => OwnedLeaf::Int(number),
            Leaf::Double(number) => OwnedLeaf::Double(number),
            Leaf::Str(text) => OwnedLeaf::Str(text.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_values() {
        let ordered = [
            &[Leaf::Bool(false)][..],
            &[Leaf::Bool(true)],
            &[Leaf::Int(i64::MIN)],
            &[Leaf::Double(-0.5)],
            &[Leaf::Int(0), Leaf::Double(-0.0), Leaf::Double(0.0)],
            &[Leaf::Int(9_007_199_254_740_992), Leaf::Int(9_007_199_254_740_993)],
            &[Leaf::Double(1e300)],
            &[Leaf::Str("")],
            &[Leaf::Str("10")],
            &[Leaf::Str("9")],
            &[Leaf::Str("😀")],
            &[Leaf::Str("\u{E000}")],
        ];
        for (i, class) in ordered.iter().enumerate() {
            for (j, other) in ordered.iter().enumerate() {
                for (a, b) in class.iter().flat_map(|a| other.iter().map(move |b| (a, b))) {
                    assert_eq!(a.compare(b), i.cmp(&j), "{a:?} {b:?}");
                }
            }
        }
    }

    fn check(leaf: Leaf<'_>) {
        let mut bytes = Vec::new();
        leaf.encode(&mut bytes);
        assert_eq!(Leaf::decode(&bytes), Some(leaf));
        assert_eq!(OwnedLeaf::decode(&bytes).unwrap().as_leaf(), leaf);
        if !matches!(leaf, Leaf::Str(_)) {
            bytes.push(0);
            assert_eq!(Leaf::decode(&bytes), None, "{leaf:?} and more");
        }
    }

    #[test]
    fn leaves_read_back() {
        for leaf in
            [Leaf::Bool(true), Leaf::Bool(false), Leaf::Int(-1), Leaf::Double(0.1), Leaf::Str(""), Leaf::Str("é")]
        {
            check(leaf);
        }
        for bytes in [&b""[..], b"\x02\0", b"\x03", b"\x04\xFF", b"\x05", &[TIMESTAMP], &[INCREMENT, INT]] {
            assert_eq!(Leaf::decode(bytes), None, "{bytes:?}");
        }
    }
}
