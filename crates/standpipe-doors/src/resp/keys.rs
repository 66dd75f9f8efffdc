//! Redis keys as paths, texts as leaves, and back: the documented mapping of the RESP door.
//!
//! A key is a path whose segments a separator divides; characters that a tree's key can't hold are
//! escaped ([`standpipe_tree::escape_key`]). A value is a text: a number or a boolean where the tree gives
//! back the very same text, a string otherwise, so what `SET` stores is what `GET` answers.

use std::borrow::Cow;

use standpipe_tree::{Leaf, Path, STRING_BYTES_MAX, escape_key, unescape_key};

use super::call::Fault;

/// What divides a redis key into the segments of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Separator {
    /// `home/kitchen/temp`.
    #[default]
    Slash,
    /// `home:kitchen:temp`.
    Colon,
}

impl Separator {
    fn as_char(self) -> char {
        match self {
            Self::Slash => '/',
            Self::Colon => ':',
        }
    }

    /// Appends the row key of a leaf at the path of `key`; false where that needs the long way, of
    /// [`Separator::path`], which also says what is wrong with the key.
    pub(super) fn encode(self, key: &[u8], row: &mut Vec<u8>) -> bool {
        // Only `%` may need more than the checks of a key.
        self == Self::Slash
            && !key.contains(&b'%')
            && std::str::from_utf8(key).is_ok_and(|key| Path::encode_text(key, row).is_ok())
    }

    /// The path that `key` names; empty segments are ignored, as in every door.
    pub(super) fn path(self, key: &[u8]) -> Result<Path, Fault> {
        let key = std::str::from_utf8(key).map_err(|_| Fault::err("a key must be UTF-8"))?;
        let segments = key.split(self.as_char()).filter(|segment| !segment.is_empty());
        let path = Path::parse(&segments.map(escape_key).collect::<Vec<Cow<'_, str>>>().join("/"));
        path.map_err(|error| Fault::err(error.to_string()))
    }

    /// Length of what `key` has before its last separator.
    pub(super) fn cut(self, key: &[u8]) -> usize {
        key.iter().rposition(|byte| char::from(*byte) == self.as_char()).unwrap_or(0)
    }

    /// The key of a path.
    pub(super) fn key(self, path: &Path) -> String {
        let mut key = String::with_capacity(path.as_str().len());
        for segment in path.segments() {
            if !key.is_empty() {
                key.push(self.as_char());
            }
            key.push_str(&unescape_key(segment));
        }
        key
    }
}

/// The field of a hash as a child's key.
pub(super) fn field_key(field: &[u8]) -> Result<Cow<'_, str>, Fault> {
    let field = std::str::from_utf8(field).map_err(|_| Fault::err("a field must be UTF-8"))?;
    Ok(escape_key(field))
}

/// The leaf that a text becomes.
pub(super) fn leaf(text: &[u8]) -> Result<Leaf<'_>, Fault> {
    if text.len() > STRING_BYTES_MAX {
        return Err(Fault::err(format!("a text may have {STRING_BYTES_MAX} bytes, this one has {}", text.len())));
    }
    let text = std::str::from_utf8(text).map_err(|_| {
        Fault::err("a value must be UTF-8: the tree holds JSON; encode binary data, as base64 for example")
    })?;
    Ok(match text.as_bytes().first() {
        Some(b'0'..=b'9' | b'-') => number(text).unwrap_or(Leaf::Str(text)),
        Some(b't' | b'f') => text.parse().map_or(Leaf::Str(text), Leaf::Bool),
        _ => Leaf::Str(text),
    })
}

/// The number whose JSON is `text`, byte for byte.
fn number(text: &str) -> Option<Leaf<'static>> {
    let leaf = match text.parse::<i64>() {
        Ok(number) => Leaf::Int(number),
        Err(_) => Leaf::number(text.parse::<f64>().ok().filter(|number| number.is_finite())?),
    };
    let mut json = Vec::with_capacity(text.len());
    leaf.write_json(&mut json);
    (json == text.as_bytes()).then_some(leaf)
}

/// The text of a leaf.
pub(super) fn text<'l>(leaf: &'l Leaf<'_>) -> Cow<'l, [u8]> {
    match leaf {
        Leaf::Str(text) => Cow::Borrowed(text.as_bytes()),
        other => {
            let mut json = Vec::with_capacity(24);
            other.write_json(&mut json);
            Cow::Owned(json)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_paths_both_ways() {
        fn check(separator: Separator, key: &str, path: &str) {
            let made = separator.path(key.as_bytes()).unwrap();
            assert_eq!(made.as_str(), path, "{key}");
            assert_eq!(separator.key(&made), key, "{path}");
        }
        check(Separator::Slash, "home/kitchen/temp", "home/kitchen/temp");
        check(Separator::Slash, "key:000000000012", "key:000000000012");
        check(Separator::Slash, "user.name@x", "user%2Ename@x");
        check(Separator::Colon, "home:kitchen:a/b", "home/kitchen/a%2Fb");
        check(Separator::Colon, "100%", "100%");
        assert_eq!(Separator::Slash.path(b"//a//b/").unwrap().as_str(), "a/b");
        assert!(Separator::Slash.path(b"\xff").is_err());
        assert!(Separator::Slash.path(&[b'a'; 800]).is_err());
    }

    #[test]
    fn texts_come_back_as_they_were() {
        for bytes in [
            "",
            "0",
            "-0",
            "007",
            "1.0",
            "1.5",
            "1e5",
            "-12",
            "1e400",
            "true",
            "truer",
            "null",
            "x y",
            "{}",
            "9223372036854775807",
            "9223372036854775808",
            "NaN",
            "inf",
            "0.1",
            "-",
            "+1",
            "1_0",
            "\u{0}ü",
        ] {
            let leaf = leaf(bytes.as_bytes()).unwrap();
            assert_eq!(&*text(&leaf), bytes.as_bytes());
        }
        assert_eq!(leaf(b"21.5").unwrap(), Leaf::Double(21.5));
        assert_eq!(leaf(b"21").unwrap(), Leaf::Int(21));
        assert_eq!(leaf(b"true").unwrap(), Leaf::Bool(true));
        assert_eq!(leaf(b"021").unwrap(), Leaf::Str("021"));
        assert!(leaf(b"\xff").is_err());
    }
}
