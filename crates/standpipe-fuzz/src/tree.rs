//! What clients write: JSON, paths and queries.

use std::convert::Infallible;

use standpipe_tree::{
    DEPTH_MAX, ENCODED_PATH_BYTES_MAX, Format, Location, OrderBy, ParseLimits, Path, Rows, RowsBuilder, escape_key,
    hash, parse_merge, parse_rest, parse_stream, parse_value, resolve, select, to_json, unescape_key,
};

const LEAVES_MAX: usize = 100;

fn limits() -> ParseLimits {
    ParseLimits { string_bytes_max: 64, leaves_max: LEAVES_MAX, ..ParseLimits::below(&Path::root()) }
}

/// A JSON text as a value, as a stream and as an update.
pub fn json(data: &[u8]) {
    if let Ok(rows) = parse_value(data, &limits()) {
        assert!(rows.len() <= LEAVES_MAX);
        assert_eq!(streamed(data).as_ref(), Some(&rows), "a stream gives the same rows");
        let plain = sure(resolve(&rows, 1_700_000_000_000, |_| Ok(None)));
        let written = sure(to_json(&mut plain.cursor(), Format::Export));
        assert!(!written.contains(&b'\n'), "a value is one line");
        // A large double is written as JavaScript does, all digits before the point, and read as an integer: the same
        // text, and the same number to every client.
        let again = parse_value(&written, &limits()).expect("what is written can be read");
        assert_eq!(sure(to_json(&mut again.cursor(), Format::Export)), written);
        assert_eq!(sure(hash(&mut again.cursor())), sure(hash(&mut plain.cursor())));
    }
    let base = Path::parse("base/of/it").expect("a path");
    if let Ok(merge) = parse_merge(data, &base, &limits()) {
        assert!(merge.writes.iter().all(|(location, _)| base.contains(location.path())));
        assert!(merge.writes.array_windows().all(|[one, next]| one.0 < next.0 && !one.0.covers(&next.0)));
    }
}

fn sure<T>(result: Result<T, Infallible>) -> T {
    result.unwrap_or_else(|never| match never {})
}

fn streamed(data: &[u8]) -> Option<Rows> {
    let mut rows = RowsBuilder::new();
    parse_stream(data, &mut rows, &limits()).ok()?;
    rows.finish().ok()
}

/// A path as clients write it, as it is stored, and a text as a key.
pub fn path(data: &[u8]) {
    let _stored = Path::decode(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    assert_eq!(unescape_key(&escape_key(text)), text);
    if let Ok(path) = Path::parse(text) {
        let bytes = path.encode();
        assert!(path.depth() <= DEPTH_MAX && bytes.len() <= ENCODED_PATH_BYTES_MAX);
        assert_eq!(Path::parse(path.as_str()).as_ref(), Ok(&path), "it is normal");
        assert_eq!(Path::decode(&bytes).as_ref(), Some(&path), "it is stored as it is");
        if let (Some(parent), Some(key)) = (path.parent(), path.key()) {
            assert_eq!(parent.child(key).as_ref(), Ok(&path));
            assert!(parent.contains(&path) && !path.contains(&parent));
            assert!(parent.encode() < bytes);
        }
    }
    if let Ok(location) = Location::parse(text) {
        assert!(location.covers(&location));
    }
}

const TREE: &[u8] = br#"{"1":{"a":2,".priority":1},"2":{"a":"x"},"a":true,"b":{"a":1.5},"c":"x","d":{"e":{"f":0}}}"#;

/// The parameters of a query, one a line as `name=value`, and what it selects of a small tree.
pub fn query(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let params: Vec<_> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let Ok(Some(query)) = parse_rest(&params) else { return };
    let rows = parse_value(TREE, &limits()).expect("a value");
    let selected = select(&mut rows.cursor(), &query, 100).expect("few children");
    assert!(selected.keys.len() <= query.limit.map_or(6, |limit| limit.count.min(6)));
    assert!(selected.keys.iter().all(|key| ["1", "2", "a", "b", "c", "d"].contains(&&**key)));
    if query.order_by == OrderBy::Key {
        assert!(selected.keys.is_sorted(), "these keys sort as texts do");
    }
}
