//! Keys: what a key may contain, how keys compare, and the bytes that make byte order equal key order.
//!
//! Owns one path segment; `path` strings segments together. Knows nothing of values.
//!
//! An encoded segment is never a prefix of another one, so encoded paths can be compared, sought and
//! cut as plain bytes (ADR 0003).

use std::cmp::Ordering;

/// The longest key, in UTF-8 bytes (firebase-rtdb.md §3.3).
pub const KEY_BYTES_MAX: usize = 768;

/// First byte of an integer-like segment; sorts before every text segment.
const INTEGER: u8 = 0x01;
/// First byte of any other segment.
pub(crate) const TEXT: u8 = 0x02;
/// Ends a text segment. Keys contain no U+0000, so it cannot occur inside.
const END: u8 = 0x00;
/// Tag, value, shape.
const INTEGER_BYTES: usize = 7;

/// Follows a node's encoded path in the key of its priority; sorts before its children.
pub const PRIORITY: u8 = 0x00;
/// Greater than any byte that can follow a node's encoded path: path + `PAST` is behind the whole subtree.
pub const PAST: u8 = 0x03;
/// Not greater than any child segment and greater than a priority: path + `CHILDREN` is the first child.
pub const CHILDREN: u8 = INTEGER;

/// Why a key is refused (firebase-rtdb.md §3.3).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key has no characters.
    #[error("a key must not be empty")]
    Empty,
    /// The key has a character that no key may have.
    #[error("a key must not contain {0:?}: none of . $ # [ ] / nor control characters are allowed")]
    Character(char),
    /// The key is longer than [`KEY_BYTES_MAX`].
    #[error("a key must not be longer than {KEY_BYTES_MAX} bytes, this one has {bytes}")]
    TooLong {
        /// Its length in UTF-8 bytes.
        bytes: usize,
    },
}

/// Checks that `key` may be stored (firebase-rtdb.md §3.3).
pub fn check_key(key: &str) -> Result<(), KeyError> {
    if key.is_empty() {
        return Err(KeyError::Empty);
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(KeyError::TooLong { bytes: key.len() });
    }
    match key.bytes().find(|&byte| FORBIDDEN[usize::from(byte)]) {
        Some(byte) => Err(KeyError::Character(char::from(byte))),
        None => Ok(()),
    }
}

/// All forbidden characters are ASCII, so a table of bytes decides.
static FORBIDDEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = byte < 0x20 || matches!(byte as u8, 0x7F | b'.' | b'$' | b'#' | b'[' | b']' | b'/');
        byte += 1;
    }
    table
};

/// The number an integer-like key stands for (firebase-rtdb.md §3.5), or `None` for any other key.
pub fn integer_key(key: &str) -> Option<i32> {
    let digits = key.strip_prefix('-').unwrap_or(key).as_bytes();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let zeros = digits.iter().take_while(|&&digit| digit == b'0').count();
    let significant = &digits[zeros..];
    if significant.len() > 10 {
        return None;
    }
    let magnitude = significant.iter().fold(0i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    i32::try_from(if digits.len() < key.len() { -magnitude } else { magnitude }).ok()
}

/// Orders keys as Firebase does (firebase-rtdb.md §3.5); only equal texts are equal.
pub fn compare_keys(a: &str, b: &str) -> Ordering {
    match (integer_key(a), integer_key(b)) {
        (Some(x), Some(y)) => (x, a.len(), a.starts_with('-')).cmp(&(y, b.len(), b.starts_with('-'))),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => compare_utf16(a, b),
    }
}

/// Orders texts by UTF-16 code unit (firebase-rtdb.md §3.4).
///
/// That differs from byte order only where U+E000–U+FFFF (first byte 0xEE or 0xEF) meets a character
/// outside the BMP (first byte 0xF0 or more), which has surrogates and so sorts first.
pub fn compare_utf16(a: &str, b: &str) -> Ordering {
    let rank = |byte: u8| if matches!(byte, 0xEE | 0xEF) { byte + 0x10 } else { byte };
    match a.bytes().zip(b.bytes()).find(|(x, y)| x != y) {
        Some((x, y)) => rank(x).cmp(&rank(y)),
        None => a.len().cmp(&b.len()),
    }
}

/// Appends the encoded segment of `key`, which has passed [`check_key`].
pub fn encode_key(key: &str, out: &mut Vec<u8>) {
    let Some(value) = integer_key(key) else {
        out.push(TEXT);
        encode_text(key, out);
        out.push(END);
        return;
    };
    let shape = (key.len().min(KEY_BYTES_MAX) * 2) as u16 + u16::from(key.starts_with('-'));
    out.push(INTEGER);
    out.extend_from_slice(&(value as u32 ^ 0x8000_0000).to_be_bytes());
    out.extend_from_slice(&shape.to_be_bytes());
}

/// Appends a key from outside that was never checked, as the place to seek it (and to filter from there).
///
/// Such a key may contain U+0000; the place is then before everything that starts as it does.
pub(crate) fn encode_bound(key: &str, out: &mut Vec<u8>) {
    match key.split_once('\0') {
        None => encode_key(key, out),
        Some((start, _)) => {
            out.push(TEXT);
            encode_text(start, out);
        }
    }
}

/// CESU-8: as UTF-8, but characters outside the BMP are two encoded surrogates, so that they sort as UTF-16.
pub(crate) fn encode_text(text: &str, out: &mut Vec<u8>) {
    if text.bytes().all(|byte| byte < 0xF0) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for character in text.chars() {
        let mut units = [0; 2];
        match character.encode_utf16(&mut units) {
            [_] => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            surrogates => surrogates.iter().for_each(|&unit| {
                out.extend_from_slice(&[0xED, 0x80 | ((unit >> 6) & 0x3F) as u8, 0x80 | (unit & 0x3F) as u8]);
            }),
        }
    }
}

/// Length of the first encoded segment in `bytes`; `None` when there is none.
pub fn segment_len(bytes: &[u8]) -> Option<usize> {
    match bytes.first() {
        Some(&INTEGER) if bytes.len() >= INTEGER_BYTES => Some(INTEGER_BYTES),
        Some(&TEXT) => memchr::memchr(END, bytes).map(|end| end + 1),
        _ => None,
    }
}

/// Appends the text of the first encoded segment and returns the segment's length; `None` when it is corrupt.
pub fn decode_key(bytes: &[u8], out: &mut String) -> Option<usize> {
    let len = segment_len(bytes)?;
    if bytes[0] == INTEGER {
        decode_integer(&bytes[..len], out)?;
    } else {
        decode_text(&bytes[1..len - 1], out)?;
    }
    Some(len)
}

/// Value and shape (twice the text's length, plus one with a sign) of an integer-like segment.
fn integer_parts(segment: &[u8]) -> Option<(i32, u16)> {
    let (value, shape) = segment.get(1..INTEGER_BYTES)?.split_first_chunk::<4>()?;
    let value = (u32::from_be_bytes(*value) ^ 0x8000_0000) as i32;
    Some((value, u16::from_be_bytes(shape.try_into().ok()?)))
}

fn decode_integer(segment: &[u8], out: &mut String) -> Option<()> {
    let (value, shape) = integer_parts(segment)?;
    let (len, sign) = (usize::from(shape / 2), usize::from(shape % 2));
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value.unsigned_abs());
    let zeros = len.checked_sub(sign + digits.len())?;
    let sign_agrees = if value < 0 { sign == 1 } else { value == 0 || sign == 0 };
    if len > KEY_BYTES_MAX || !sign_agrees {
        return None;
    }
    out.push_str(if sign == 1 { "-" } else { "" });
    out.extend(std::iter::repeat_n('0', zeros));
    out.push_str(digits);
    Some(())
}

pub(crate) fn decode_text(text: &[u8], out: &mut String) -> Option<()> {
    if let Ok(text) = std::str::from_utf8(text) {
        out.push_str(text);
        return Some(());
    }
    // What is not UTF-8 are surrogate pairs, six bytes each: make four of them.
    let mut utf8 = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        if byte == 0xED && after.first().is_some_and(|&next| next >= 0xA0) {
            let (pair, after) = rest.split_first_chunk::<6>()?;
            utf8.extend_from_slice(surrogate_pair(pair)?.encode_utf8(&mut [0; 4]).as_bytes());
            rest = after;
        } else {
            utf8.push(byte);
            rest = after;
        }
    }
    out.push_str(std::str::from_utf8(&utf8).ok()?);
    Some(())
}

fn surrogate_pair(bytes: &[u8; 6]) -> Option<char> {
    let unit = |three: &[u8]| 0xD000 | u16::from(three[1] & 0x3F) << 6 | u16::from(three[2] & 0x3F);
    let mut pair = char::decode_utf16([unit(&bytes[..3]), unit(&bytes[3..])]);
    pair.next()?.ok().filter(|character| character.len_utf8() == 4)
}

/// Length of `key` when encoded.
pub(crate) fn encoded_len(key: &str) -> usize {
    match integer_key(key) {
        Some(_) => INTEGER_BYTES,
        None => key.len() + 2 * key.bytes().filter(|&byte| byte >= 0xF0).count() + 2,
    }
}

/// The array index an encoded segment stands for, when its text is `0` or has no leading zero or sign.
pub(crate) fn array_index(segment: &[u8]) -> Option<u32> {
    if segment.first() != Some(&INTEGER) {
        return None;
    }
    let (value, shape) = integer_parts(segment)?;
    let value = u32::try_from(value).ok()?;
    let digits = value.checked_ilog10().unwrap_or(0) + 1;
    (u32::from(shape) == digits * 2).then_some(value)
}

/// Whether a row's key is that of a priority and not of a leaf.
pub fn is_priority_key(key: &[u8]) -> bool {
    match key {
        [.., END, PRIORITY] | [PRIORITY] => true,
        // The end of a text of two characters or more: what stands there of an integer is less than a blank.
        [.., before, _, PRIORITY] if *before >= 0x20 => false,
        [.., PRIORITY] => after_segments(key) == [PRIORITY],
        _ => false,
    }
}

/// Whether `key` is made as the key of a row is.
pub(crate) fn is_row_key(key: &[u8]) -> bool {
    matches!(after_segments(key), [] | [PRIORITY])
}

fn after_segments(key: &[u8]) -> &[u8] {
    let mut rest = key;
    while let Some(len) = segment_len(rest) {
        rest = &rest[len..];
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_specification() {
        let ordered = [
            "-2147483648",
            "-5",
            "-05",
            "0",
            "00",
            "-0",
            "000",
            "2",
            "7",
            "07",
            "007",
            "10",
            "2147483647",
            "",
            "!",
            "-",
            "-2147483649",
            "2147483648",
            "99999999999",
            "A",
            "_",
            "a",
            "a b",
            "ab",
            "é",
            "\u{D7FF}",
            "😀",
            "\u{10FFFF}",
            "\u{E000}",
            "～",
            "\u{FFFF}",
        ];
        let encoded = ordered.map(|key| {
            let mut out = Vec::new();
            encode_key(key, &mut out);
            out
        });
        for (i, a) in ordered.iter().enumerate() {
            for (j, b) in ordered.iter().enumerate() {
                assert_eq!(compare_keys(a, b), i.cmp(&j), "{a:?} {b:?}");
                assert_eq!(encoded[i].cmp(&encoded[j]), i.cmp(&j), "{a:?} {b:?}");
            }
        }
    }

    fn check(key: &str, expected: Option<KeyError>) {
        assert_eq!(check_key(key).err(), expected, "{key:?}");
    }

    #[test]
    fn keys_that_are_refused() {
        check("", Some(KeyError::Empty));
        for character in ".$#[]/\0\n\u{1F}\u{7F}".chars() {
            check(&format!("a{character}b"), Some(KeyError::Character(character)));
        }
        for key in [" ", "__proto__", "\"\\", "\u{80}", "😀"] {
            check(key, None);
        }
        check(&"é".repeat(384), None);
        check(&"é".repeat(385), Some(KeyError::TooLong { bytes: 770 }));
    }

    fn check_integer(key: &str, expected: Option<i32>) {
        assert_eq!(integer_key(key), expected, "{key:?}");
    }

    #[test]
    fn integer_like_keys() {
        for (key, value) in [("0", 0), ("-0", 0), ("007", 7), ("-2147483648", i32::MIN), ("2147483647", i32::MAX)] {
            check_integer(key, Some(value));
        }
        check_integer(&format!("{}5", "0".repeat(700)), Some(5));
        for key in ["", "-", "--1", "+1", "1a", " 1", "1.0", "2147483648", "-2147483649", "12345678901", "٣"] {
            check_integer(key, None);
        }
    }

    #[test]
    fn corrupt_segments() {
        for bytes in [
            &b""[..],
            b"\0",
            b"\x01\x80\0\0\0\0",
            b"\x01\x80\0\0\0\0\0",         // no digits
            b"\x01\x80\0\0\x0A\0\x02",     // one digit for ten
            b"\x01\x7F\xFF\xFF\xFF\0\x04", // a negative number without sign
            b"\x01\x80\0\0\x01\0\x05",     // a positive one with
            b"\x01\x80\0\0\0\xFF\xFE",     // a text longer than any key
            b"\x02abc",
            b"\x02\xFF\0",
            b"\x02\xED\xA0\xBD\0",             // half a pair of surrogates
            b"\x02\xED\xB8\x80\xED\xA0\xBD\0", // the wrong way round
            b"\x03a\0",
        ] {
            assert_eq!(decode_key(bytes, &mut String::new()), None, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn array_indexes() {
        for (key, expected) in [("0", Some(0)), ("10", Some(10)), ("-0", None), ("00", None), ("-1", None), ("a", None)]
        {
            let mut segment = Vec::new();
            encode_key(key, &mut segment);
            assert_eq!(array_index(&segment), expected, "{key}");
            assert!(!is_priority_key(&segment));
            segment.push(PRIORITY);
            assert!(is_priority_key(&segment));
        }
    }
}
