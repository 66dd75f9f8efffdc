//! File names and keys: each key has one name, and each name at most one key. What a key can't hold is
//! escaped as in every other door (`standpipe_tree::escape`): the file `a.txt` is the key `a%2Etxt`.
//!
//! A few keys stand for texts that no file can be named by, such as `%2E` (`.`) and `a%2Fb` (`a/b`): they
//! are named as they are.

use std::borrow::Cow;

use standpipe_tree::{escape_key, unescape_key};

/// The name of the file or directory for `key`.
pub(super) fn name_of(key: &str) -> Cow<'_, str> {
    if is_raw(key) { Cow::Borrowed(key) } else { unescape_key(key) }
}

/// The key that a file or directory called `name` stands for. Whether it is a good key is for
/// `Path::child` to say.
pub(super) fn key_of(name: &str) -> Cow<'_, str> {
    if is_raw(name) { Cow::Borrowed(name) } else { escape_key(name) }
}

/// Does this text, taken back step by step, lead to what can't be a name? Then it is a name and a
/// key at once, so that the steps from a name to a key stay unambiguous.
fn is_raw(text: &str) -> bool {
    let mut text = Cow::Borrowed(text);
    while let Cow::Owned(before) = unescape_key(&text) {
        if before == *text {
            break;
        }
        if before.contains(['/', '\0']) || before == "." || before == ".." {
            return true;
        }
        text = Cow::Owned(before);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_names_go_both_ways() {
        let check = |key: &str, name: &str| {
            assert_eq!(name_of(key), name, "{key}");
            assert_eq!(key_of(name), key, "{name}");
        };
        check("temp", "temp");
        check("a%2Etxt", "a.txt");
        check("%2Evalue", ".value");
        check("maya%2Eb@example%2Ecom", "maya.b@example.com");
        check("%5B1%5D", "[1]");
        check("100%", "100%");
        check("ä ö", "ä ö");
        check("a%0Ab", "a\nb");
        // No file can have these names.
        check("%2E", "%2E");
        check("%2E%2E", "%2E%2E");
        check("a%2Fb", "a%2Fb");
        check("a%252Fb", "a%252Fb");
        check("%252E", "%252E");
        check("%00", "%00");
        // But these.
        check("%2E%2E%2E", "...");
        check("%252Ea", "%2Ea");
    }
}
