//! Paths and locations: where in the tree something is, as text and as bytes.
//!
//! Owns the limits of a whole path. Percent-encoding and query strings belong to the doors.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::key::{KeyError, PRIORITY, check_key, compare_keys, decode_key, encode_key, encoded_len};

/// The deepest location, in levels below the root (firebase-rtdb.md §3.3).
pub const DEPTH_MAX: usize = 32;
/// The longest encoded path: what LMDB takes as a key, less a margin (ADR 0004).
pub const ENCODED_PATH_BYTES_MAX: usize = 1900;

/// Why a path is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// One of its keys is refused.
    #[error("bad path: {0}")]
    Key(#[from] KeyError),
    /// It has more than [`DEPTH_MAX`] levels.
    #[error("bad path: it has more than {DEPTH_MAX} levels")]
    TooDeep,
    /// Its encoding has more than [`ENCODED_PATH_BYTES_MAX`] bytes.
    #[error("bad path: it is longer than {ENCODED_PATH_BYTES_MAX} bytes")]
    TooLong,
}

/// A checked path from some root, kept as `a/b/c`; cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Path(Arc<str>);

impl Path {
    /// The path without segments.
    pub fn root() -> Path {
        Path::default()
    }

    /// Reads a path as clients write it: empty segments are ignored (firebase-rtdb.md §3.3).
    pub fn parse(text: &str) -> Result<Path, PathError> {
        let (mut depth, mut bytes) = (0, 0);
        for segment in segments(text) {
            check_key(segment)?;
            depth += 1;
            bytes += encoded_len(segment);
        }
        check_size(depth, bytes)?;
        // Clients nearly always write at most one slash at either end.
        let trimmed = text.trim_matches('/');
        if !trimmed.contains("//") {
            return Ok(Path(trimmed.into()));
        }
        Ok(Path(segments(trimmed).collect::<Vec<_>>().join("/").into()))
    }

    /// Whether this is the path without segments.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys, outermost first.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        segments(&self.0)
    }

    /// Number of segments.
    pub fn depth(&self) -> usize {
        self.segments().count()
    }

    /// The last key; `None` for the root.
    pub fn key(&self) -> Option<&str> {
        self.segments().next_back()
    }

    /// The path without its last key; `None` for the root.
    pub fn parent(&self) -> Option<Path> {
        let key = self.key()?;
        Some(Path(self.0[..self.0.len() - key.len()].trim_end_matches('/').into()))
    }

    /// The path of the child `key`.
    pub fn child(&self, key: &str) -> Result<Path, PathError> {
        check_key(key)?;
        self.append(key)
    }

    /// `other`, taken as relative to this path.
    pub fn join(&self, other: &Path) -> Result<Path, PathError> {
        match (self.is_root(), other.is_root()) {
            (true, _) => Ok(other.clone()),
            (_, true) => Ok(self.clone()),
            _ => self.append(&other.0),
        }
    }

    /// Appends normalized text whose keys are checked already.
    fn append(&self, text: &str) -> Result<Path, PathError> {
        let keys = || self.segments().chain(segments(text));
        check_size(keys().count(), keys().map(encoded_len).sum())?;
        Ok(Path(if self.is_root() { text.into() } else { format!("{}/{text}", self.0).into() }))
    }

    /// Whether `other` is this path or lies below it.
    pub fn contains(&self, other: &Path) -> bool {
        self.rest_of(other).is_some()
    }

    /// This path as seen from `ancestor`; `None` when it is not that path nor below it.
    pub fn relative_to(&self, ancestor: &Path) -> Option<Path> {
        ancestor.rest_of(self).map(|rest| Path(rest.into()))
    }

    /// The text of `other` behind this path.
    fn rest_of<'a>(&self, other: &'a Path) -> Option<&'a str> {
        if self.is_root() {
            return Some(&other.0);
        }
        let rest = other.0.strip_prefix(&*self.0)?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
    }

    /// The row key of a leaf at this path.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.len() + 16);
        self.segments().for_each(|segment| encode_key(segment, &mut out));
        out
    }

    /// Appends the row key of a leaf at the path `text`: what parsing and encoding give, without a path
    /// in between.
    pub fn encode_text(text: &str, out: &mut Vec<u8>) -> Result<(), PathError> {
        let before = out.len();
        if !text.is_empty() && !text.contains('/') {
            check_key(text)?;
            encode_key(text, out);
            return check_size(1, out.len() - before);
        }
        let mut depth = 0;
        for segment in segments(text) {
            check_key(segment)?;
            depth += 1;
            encode_key(segment, out);
        }
        check_size(depth, out.len() - before)
    }

    /// Reads what [`Path::encode`] wrote; `None` when it is corrupt or the key of a priority.
    pub fn decode(bytes: &[u8]) -> Option<Path> {
        let mut text = String::with_capacity(bytes.len());
        let mut rest = bytes;
        while !rest.is_empty() {
            if !text.is_empty() {
                text.push('/');
            }
            rest = &rest[decode_key(rest, &mut text)?..];
        }
        Some(Path(text.into()))
    }

    /// The text without a leading slash; empty for the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn segments(text: &str) -> impl DoubleEndedIterator<Item = &str> {
    text.split('/').filter(|segment| !segment.is_empty())
}

fn check_size(depth: usize, encoded_bytes: usize) -> Result<(), PathError> {
    match () {
        () if depth > DEPTH_MAX => Err(PathError::TooDeep),
        () if encoded_bytes > ENCODED_PATH_BYTES_MAX => Err(PathError::TooLong),
        () => Ok(()),
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Key order, segment by segment; a path sorts before everything below it.
impl Ord for Path {
    fn cmp(&self, other: &Path) -> Ordering {
        let (mut ours, mut theirs) = (self.segments(), other.segments());
        loop {
            match (ours.next(), theirs.next()) {
                (Some(a), Some(b)) if a == b => {}
                (Some(a), Some(b)) => return compare_keys(a, b),
                (a, b) => return a.is_some().cmp(&b.is_some()),
            }
        }
    }
}

impl PartialOrd for Path {
    fn partial_cmp(&self, other: &Path) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What a write may name: a node, or only its priority (firebase-rtdb.md §3.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// The node at a path, with all that is below it.
    Node(Path),
    /// The pseudo child `.priority` of the node at a path.
    Priority(Path),
}

impl Location {
    /// Reads a path whose last segment may be `.priority`.
    pub fn parse(text: &str) -> Result<Location, PathError> {
        match text.trim_end_matches('/').rsplit_once('/').unwrap_or(("", text.trim_end_matches('/'))) {
            (node, ".priority") => Path::parse(node).map(Location::Priority),
            _ => Path::parse(text).map(Location::Node),
        }
    }

    /// The path of the node.
    pub fn path(&self) -> &Path {
        match self {
            Location::Node(path) | Location::Priority(path) => path,
        }
    }

    /// This location, taken as relative to `base`.
    pub fn below(&self, base: &Path) -> Result<Location, PathError> {
        Ok(match self {
            Location::Node(path) => Location::Node(base.join(path)?),
            Location::Priority(path) => Location::Priority(base.join(path)?),
        })
    }

    /// The key of the leaf row or priority row at this location.
    pub fn encode(&self) -> Vec<u8> {
        let mut key = self.path().encode();
        if let Location::Priority(_) = self {
            key.push(PRIORITY);
        }
        key
    }

    /// Whether a write here replaces what a write at `other` would write.
    pub fn covers(&self, other: &Location) -> bool {
        match self {
            Location::Node(path) => path.contains(other.path()),
            Location::Priority(_) => self == other,
        }
    }
}

/// The order of the rows: a node, its priority, its children.
impl Ord for Location {
    fn cmp(&self, other: &Location) -> Ordering {
        let is_priority = |location: &Location| matches!(location, Location::Priority(_));
        self.path().cmp(other.path()).then(is_priority(self).cmp(&is_priority(other)))
    }
}

impl PartialOrd for Location {
    fn partial_cmp(&self, other: &Location) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Node(path) => path.fmt(f),
            Location::Priority(path) if path.is_root() => f.write_str("/.priority"),
            Location::Priority(path) => write!(f, "{path}/.priority"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let shown = Location::parse(text).map_or_else(|error| error.to_string(), |location| location.to_string());
        assert_eq!(shown, expected, "{text:?}");
    }

    #[test]
    fn locations() {
        for (text, expected) in [
            ("", "/"),
            ("/", "/"),
            ("//c//y", "/c/y"),
            ("b/", "/b"),
            ("/a/x", "/a/x"),
            (".priority", "/.priority"),
            ("/.priority/", "/.priority"),
            ("a//.priority", "/a/.priority"),
            ("a/.info", "bad path: a key must not contain '.': none of . $ # [ ] / nor control characters are allowed"),
            (
                ".priority/a",
                "bad path: a key must not contain '.': none of . $ # [ ] / nor control characters are allowed",
            ),
        ] {
            check(text, expected);
        }
        check(&"a/".repeat(32), &"/a".repeat(32));
        check(&"a/".repeat(33), "bad path: it has more than 32 levels");
        check(&format!("{0}/{0}/{0}", "k".repeat(700)), "bad path: it is longer than 1900 bytes");
    }

    #[test]
    fn text_is_encoded_as_its_path_would_be() {
        for text in
            ["", "/", "a", "10", "a/b", "//a//b/", "key:1", "a/10/b", "a.b", "a/b#", &"k".repeat(800), &"a/".repeat(33)]
        {
            let mut row = Vec::new();
            let encoded = Path::encode_text(text, &mut row).map(|()| row);
            assert_eq!(encoded, Path::parse(text).map(|path| path.encode()), "{text}");
        }
    }

    #[test]
    fn relatives() {
        let path = |text: &str| Path::parse(text).unwrap();
        assert_eq!(path("a/b").parent(), Some(path("a")));
        assert_eq!(path("a").parent(), Some(Path::root()));
        assert_eq!((Path::root().parent(), Path::root().key()), (None, None));
        assert_eq!((path("a/b").key(), path("a/b").depth()), (Some("b"), 2));
        assert_eq!(path("a/bc").relative_to(&path("a/b")), None);
        assert_eq!(path("a/b/c").relative_to(&path("a")), Some(path("b/c")));
        assert!(path("a").contains(&path("a")) && !path("a/b").contains(&path("a")));
        assert_eq!(path("a").child("b/c"), Err(PathError::Key(KeyError::Character('/'))));
        assert_eq!(path(&"a/".repeat(32)).child("b"), Err(PathError::TooDeep));
        assert!(path("a-b") > path("a/b") && path("10") > path("9") && path("a") < path("a/0"));
    }

    #[test]
    fn covering() {
        let location = |text| Location::parse(text).unwrap();
        for (upper, lower, expected) in [
            ("a", "a", true),
            ("a", "a/b", true),
            ("a", "a/b/.priority", true),
            ("a", "a/.priority", true),
            ("a/.priority", "a/.priority", true),
            ("a/.priority", "a", false),
            ("a/.priority", "a/b", false),
            ("a", "ab", false),
            ("a/b", "a", false),
        ] {
            assert_eq!(location(upper).covers(&location(lower)), expected, "{upper} {lower}");
        }
    }
}
