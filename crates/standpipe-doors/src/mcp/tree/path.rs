//! Paths as clients of MCP write them (spec mcp §3.1), and the addresses of resources.

use std::fmt::Write as _;

use percent_encoding::percent_decode_str;
use standpipe_tree::Path;

/// What every address of a resource begins with.
pub(crate) const SCHEME: &str = "tree:///";

/// Reads a path: `/a/b/c`, its segments percent-decoded once.
///
/// # Errors
/// Why it is none, as a sentence.
pub(crate) fn parse(text: &str) -> Result<Path, String> {
    if !text.contains('%') {
        return Path::parse(text).map_err(|error| error.to_string());
    }
    let mut decoded = String::with_capacity(text.len());
    for segment in text.split('/') {
        let key = percent_decode_str(segment).decode_utf8();
        let key = key.map_err(|_| "bad path: percent-encoded bytes are not UTF-8".to_owned())?;
        if key.contains('/') {
            return Err("bad path: a key can't contain '/'".into());
        }
        decoded.push('/');
        decoded.push_str(&key);
    }
    Path::parse(&decoded).map_err(|error| error.to_string())
}

/// A path as results have it: with a slash in front and none behind; `%` stands encoded, so that it can be given back.
pub(crate) fn canonical(path: &Path) -> String {
    format!("/{}", path.as_str().replace('%', "%25"))
}

/// The address of a resource.
pub(crate) fn uri(path: &Path) -> String {
    let mut uri = SCHEME.to_owned();
    for byte in path.as_str().bytes() {
        match byte {
            b'a'..=b'z'
            | b'A'..=b'Z'
            | b'0'..=b'9'
            | b'-'
            | b'.'
            | b'_'
            | b'~'
            | b'/'
            | b'@'
            | b':'
            | b'!'
            | b'\''
            | b'('
            | b')'
            | b'*'
            | b'+'
            | b','
            | b';'
            | b'='
            | b'&' => uri.push(byte.into()),
            byte => write!(uri, "%{byte:02X}").expect("writing to memory does not fail"),
        }
    }
    uri
}

/// The path that an address stands for; `None` where it stands for none.
pub(crate) fn of_uri(uri: &str) -> Option<Path> {
    let path = uri.strip_prefix(SCHEME)?;
    // Neither belongs to a path; a client that wants the character writes it encoded.
    if path.contains(['?', '#']) {
        return None;
    }
    parse(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_once() {
        let check = |text: &str, expected: &str| assert_eq!(canonical(&parse(text).unwrap()), expected, "{text}");
        check("", "/");
        check("/", "/");
        check("a/b", "/a/b");
        check("/a//b/", "/a/b");
        check("/a%20b/%C3%A4", "/a b/ä");
        check("/100%25", "/100%25");
        check("/%2525", "/%2525");
        let refused = |text: &str| assert!(parse(text).is_err(), "{text}");
        refused("/a%2Fb");
        refused("/a.b");
        refused("/%2e");
        refused("/$x");
        refused("/a#b");
        refused("/[0]");
        refused("/%00");
        refused("/%ff");
        refused(&"a/".repeat(33));
        refused(&"k".repeat(769));
    }

    #[test]
    fn addresses_lead_back() {
        let check = |text: &str, expected: &str| {
            let path = parse(text).unwrap();
            assert_eq!(uri(&path), expected, "{text}");
            assert_eq!(of_uri(expected).unwrap(), path);
        };
        check("/", "tree:///");
        check("/a/b-c", "tree:///a/b-c");
        check("/a b/100%25/ä?", "tree:///a%20b/100%25/%C3%A4%3F");
        for uri in ["tree://a", "tree:", "file:///a", "tree:///a.b", "tree:///a?x", "tree:///a#x", "tree:///a%2Fb"] {
            assert!(of_uri(uri).is_none(), "{uri}");
        }
    }
}
