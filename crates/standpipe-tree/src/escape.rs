//! Any text as a key: the one escape for what a key can't hold, shared by all doors whose names come
//! from elsewhere (redis keys, file names, addresses, e-mails).
//!
//! `. $ # [ ] /`, control characters and DEL become `%` and their two hexadecimal digits in upper case, as
//! in `maya%2Eb@example%2Ecom`. A `%` that would be taken for such an escape becomes `%25`; any other
//! stays as it is. So every key reads back as one text, and every text that is not empty has one key.

use std::borrow::Cow;

/// The key that stands for `text`. Whether it is short enough is for [`crate::check_key`] to say.
pub fn escape_key(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let needs = |at: usize| is_reserved(bytes[at]) || (bytes[at] == b'%' && looks_escaped(&bytes[at + 1..]));
    if !(0..bytes.len()).any(needs) {
        return Cow::Borrowed(text);
    }
    let mut key = String::with_capacity(text.len() + 8);
    for (at, c) in text.char_indices() {
        if needs(at) {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            let byte = bytes[at];
            key.push('%');
            key.push(char::from(DIGITS[usize::from(byte >> 4)]));
            key.push(char::from(DIGITS[usize::from(byte & 15)]));
        } else {
            key.push(c);
        }
    }
    Cow::Owned(key)
}

/// The text that `key` stands for.
pub fn unescape_key(key: &str) -> Cow<'_, str> {
    if !key.contains('%') {
        return Cow::Borrowed(key);
    }
    let bytes = key.as_bytes();
    let mut text = String::with_capacity(key.len());
    let mut skip = 0;
    for (at, c) in key.char_indices() {
        if skip > 0 {
            skip -= 1;
        } else if c == '%' && looks_escaped(&bytes[at + 1..]) {
            text.push(char::from(code(&bytes[at + 1..]).unwrap_or(b'%')));
            skip = 2;
        } else {
            text.push(c);
        }
    }
    Cow::Owned(text)
}

/// What a key can't hold.
fn is_reserved(byte: u8) -> bool {
    byte < 0x20 || matches!(byte, b'.' | b'$' | b'#' | b'[' | b']' | b'/' | 0x7F)
}

/// Would these bytes behind a `%` be read as an escape: any number of `25` and then a reserved byte's code?
fn looks_escaped(mut rest: &[u8]) -> bool {
    while rest.starts_with(b"25") {
        rest = &rest[2..];
    }
    code(rest).is_some_and(is_reserved)
}

fn code(rest: &[u8]) -> Option<u8> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    Some(digit(*rest.first()?)? << 4 | digit(*rest.get(1)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check_key;

    #[test]
    fn every_text_has_one_key_and_every_key_one_text() {
        fn check(text: &str, key: &str) {
            assert_eq!(escape_key(text), key, "{text}");
            assert_eq!(unescape_key(key), text, "{key}");
            assert!(check_key(key).is_ok(), "{key}");
        }
        check("plain", "plain");
        check("maya.b@example.com", "maya%2Eb@example%2Ecom");
        check("[a]$#/", "%5Ba%5D%24%23%2F");
        check("line\n\u{7f}", "line%0A%7F");
        check("100%", "100%");
        check("%41 %zz %2e", "%41 %zz %2e");
        check("%2E", "%252E");
        check("%252E", "%25252E");
        check("%25", "%25");
        check("ä.ö", "ä%2Eö");
    }

    #[test]
    fn random_texts_come_back() {
        let mut state = 1_u64;
        let alphabet: Vec<char> = "%25EDBe./#ab\u{1}é".chars().collect();
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..state % 9 + 1 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push(alphabet[(state >> 33) as usize % alphabet.len()]);
            }
            let key = escape_key(&text);
            assert!(check_key(&key).is_ok());
            assert_eq!(unescape_key(&key), text, "{key}");
            // And the other way round, for keys that others made.
            if check_key(&text).is_ok() {
                assert_eq!(escape_key(&unescape_key(&text)), text);
            }
        }
    }
}
