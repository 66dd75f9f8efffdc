//! Random trees, writes and queries: the rows and what is made of them against the naive [`Model`].

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::hash::hash;
use crate::json::{Format, JsonStream, Progress, ShallowRange, to_json};
use crate::key::{check_key, compare_keys, decode_key, encode_key, segment_len};
use crate::leaf::Leaf;
use crate::model::Model;
use crate::parse::{ParseLimits, parse_merge, parse_value};
use crate::path::{Location, Path};
use crate::query::{Bound, BoundKey, BoundValue, Limit, OrderBy, Query, Side, select};
use crate::rows::{RowCursor, Rows};
use crate::{Change, ChangeKind, EventKind, Write, write_json_string};

fn limits() -> ParseLimits {
    ParseLimits::below(&Path::root())
}

fn rows(json: &str) -> Rows {
    parse_value(json.as_bytes(), &limits()).unwrap()
}

fn json_of(rows: &Rows, format: Format) -> String {
    String::from_utf8(to_json(&mut rows.cursor(), format).unwrap()).unwrap()
}

/// Few enough that they meet, and with all that is special about the order of keys.
const KEYS: [&str; 16] =
    ["0", "1", "2", "3", "9", "10", "-5", "07", "-0", "2147483647", "2147483648", "a", "b\"", "😀", "\u{E000}", "ａ"];

fn key() -> impl Strategy<Value = &'static str> {
    // Small numbers most, so that there are arrays.
    prop_oneof![3 => prop::sample::select(&KEYS[..4]), 2 => prop::sample::select(&KEYS[..])]
}

fn leaf() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        (-3i64..3).prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        Just("0.5".to_owned()),
        Just("-0.0".to_owned()),
        Just("1e300".to_owned()),
        prop::sample::select(&["", "a", "\n\u{1}\"\\", "😀", "\u{E000}", "é"][..]).prop_map(string),
    ]
}

fn string(text: &str) -> String {
    let mut out = Vec::new();
    write_json_string(text, &mut out);
    String::from_utf8(out).unwrap()
}

fn priority() -> impl Strategy<Value = String> {
    prop_oneof![(-3i64..3).prop_map(|number| number.to_string()), Just("0.5".to_owned()), Just("\"p\"".to_owned())]
}

/// A value as JSON text, with priorities here and there.
fn value() -> impl Strategy<Value = String> {
    let with_priority =
        (leaf(), priority()).prop_map(|(leaf, priority)| format!("{{\".priority\":{priority},\".value\":{leaf}}}"));
    prop_oneof![6 => leaf(), 1 => with_priority].prop_recursive(4, 40, 6, |value| {
        let members = prop::collection::hash_map(key(), value.clone(), 0..6);
        let object = (members, option::weighted(0.2, priority())).prop_map(|(members, priority)| {
            let members = members.iter().map(|(key, value)| format!("{}:{value}", string(key)));
            let priority = priority.map(|priority| format!("\".priority\":{priority}"));
            format!("{{{}}}", members.chain(priority).collect::<Vec<_>>().join(","))
        });
        let array = vec(value, 0..5).prop_map(|elements| format!("[{}]", elements.join(",")));
        prop_oneof![4 => object, 1 => array]
    })
}

fn path() -> impl Strategy<Value = Path> {
    vec(key(), 0..4).prop_map(|keys| Path::parse(&keys.join("/")).unwrap())
}

fn fill_in_pieces(mut stream: JsonStream, rows: &Rows, budget: usize) -> String {
    let mut out = Vec::new();
    while stream.fill(&mut rows.cursor(), &mut out, budget).unwrap() == Progress::More {}
    assert_eq!(stream.fill(&mut rows.cursor(), &mut out, budget).unwrap(), Progress::Done);
    String::from_utf8(out).unwrap()
}

fn model(rows: &Rows) -> Model {
    let mut model = Model::default();
    model.set(&Location::Node(Path::root()), rows);
    model
}

fn bound() -> impl Strategy<Value = Option<Bound>> {
    let value = prop_oneof![
        1 => Just(BoundValue::Null),
        1 => any::<bool>().prop_map(BoundValue::Bool),
        2 => (-3i32..3).prop_map(|number| BoundValue::Number(number.into())),
        3 => key().prop_map(|key| BoundValue::Str(key.into())),
        1 => prop::sample::select(&["", "\0", "a\0", "0\0x", "x/.$"][..]).prop_map(|key| BoundValue::Str(key.into())),
    ];
    let key = prop_oneof![
        2 => Just(BoundKey::None),
        1 => Just(BoundKey::Min),
        1 => Just(BoundKey::Max),
        2 => key().prop_map(|key| BoundKey::Key(key.into())),
    ];
    option::of((value, key, any::<bool>()).prop_map(|(value, key, inclusive)| Bound { value, key, inclusive }))
}

fn query() -> impl Strategy<Value = Query> {
    let order_by = prop_oneof![
        2 => Just(OrderBy::Key),
        1 => Just(OrderBy::Value),
        1 => Just(OrderBy::Priority),
        1 => path().prop_map(OrderBy::Child),
    ];
    let side = prop_oneof![Just(Side::First), Just(Side::Last)];
    let limit = option::of((0usize..4, side).prop_map(|(count, side)| Limit { count, side }));
    (order_by, bound(), bound(), limit).prop_map(|(order_by, start, end, limit)| Query { order_by, start, end, limit })
}

#[derive(Clone, Debug)]
enum Step {
    Set(Path, String),
    Priority(Path, Option<String>),
    Merge(Path, Vec<(Path, bool, String)>),
}

fn step() -> impl Strategy<Value = Step> {
    let member = (path(), prop::bool::weighted(0.2), value());
    prop_oneof![
        3 => (path(), value()).prop_map(|(path, value)| Step::Set(path, value)),
        1 => (path(), option::of(priority())).prop_map(|(path, value)| Step::Priority(path, value)),
        2 => (path(), vec(member, 1..4)).prop_map(|(base, members)| Step::Merge(base, members)),
    ]
}

/// The step as an accepted change; `None` when it would be refused.
fn change(step: &Step) -> Option<Change> {
    let one = |location: Location, json: &str| Change {
        kind: ChangeKind::Set,
        base: location.path().clone(),
        writes: vec![Write { location, rows: rows(json) }],
    };
    Some(match step {
        Step::Set(path, json) => one(Location::Node(path.clone()), json),
        Step::Priority(path, json) => one(Location::Priority(path.clone()), json.as_deref().unwrap_or("null")),
        Step::Merge(base, members) => {
            let member = |(path, is_priority, json): &(Path, bool, String)| {
                let (name, json) = if *is_priority { ("/.priority", "7") } else { ("", &json[..]) };
                format!("{}:{json}", string(&format!("{}{name}", path.as_str())))
            };
            let json = format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","));
            let merge = parse_merge(json.as_bytes(), base, &limits()).ok()?;
            let writes = merge.writes.into_iter().map(|(location, rows)| Write { location, rows }).collect();
            Change { kind: ChangeKind::Merge, base: base.clone(), writes }
        }
    })
}

fn apply(model: &mut Model, change: &Change) {
    let writes: Vec<_> = change.writes.iter().map(|write| (write.location.clone(), write.rows.clone())).collect();
    model.merge(&writes);
}

/// What the client library of an event stream does with an event.
fn follow(watcher: &mut Model, change: &Change, at: &Path) {
    let Some(event) = change.event(at, Format::Export) else { return };
    let location = Location::parse(&event.path).unwrap();
    match event.kind {
        EventKind::Put => watcher.set(&location, &parse_value(&event.data, &limits()).unwrap()),
        EventKind::Patch => {
            let merge = parse_merge(&event.data, location.path(), &limits()).unwrap();
            watcher.merge(&merge.writes);
        }
    }
}

/// What a shallow listing with sizes shows of a tree in export form.
fn sizes_of(whole: &serde_json::Value) -> serde_json::Value {
    let size = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.len().into(),
        serde_json::Value::Null => serde_json::Value::Null,
        // A number as it is printed here may differ from the test's own printing.
        other => crate::parse_value(other.to_string().as_bytes(), &crate::ParseLimits::below(&Path::root()))
            .map_or(0, |rows| crate::to_json(&mut rows.cursor(), Format::Plain).unwrap().len())
            .into(),
    };
    let node = |value: &serde_json::Value| match value {
        serde_json::Value::Object(members) => members.get(".value").map_or(true.into(), size),
        leaf => size(leaf),
    };
    match whole {
        serde_json::Value::Object(members) if !members.contains_key(".value") => members
            .iter()
            .filter(|(key, _)| *key != ".priority")
            .map(|(key, value)| (key.clone(), node(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => node(other),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn encoded_keys_sort_and_read_back(a in "-?[0-9]{1,12}|[a\u{7F}-\u{10FFFF}😀\u{E000}]{1,3}", b in "-?0{0,3}[0-9]{1,3}|\\PC{1,4}") {
        prop_assume!(check_key(&a).is_ok() && check_key(&b).is_ok());
        let encode = |key: &str| { let mut out = Vec::new(); encode_key(key, &mut out); out };
        prop_assert_eq!(compare_keys(&a, &b), encode(&a).cmp(&encode(&b)), "{:?} {:?}", a, b);
        for key in [&a, &b] {
            let (encoded, mut text) = (encode(key), String::new());
            prop_assert_eq!(segment_len(&encoded), Some(encoded.len()));
            prop_assert_eq!(decode_key(&[&encoded[..], b"\x02x"].concat(), &mut text), Some(encoded.len()));
            prop_assert_eq!(&text, key);
            prop_assert_eq!(crate::key::encoded_len(key), encoded.len());
        }
        prop_assert!(a == b || !encode(&a).starts_with(&encode(&b)));
    }

    #[test]
    fn paths_read_back(path in path(), other in path()) {
        prop_assert_eq!(Path::decode(&path.encode()), Some(path.clone()));
        prop_assert_eq!(path.cmp(&other), path.encode().cmp(&other.encode()));
        prop_assert_eq!(path.contains(&other), other.encode().starts_with(&path.encode()));
        let joined = path.join(&other).unwrap();
        prop_assert_eq!(joined.encode(), [path.encode(), other.encode()].concat());
        prop_assert_eq!(joined.relative_to(&path), Some(other));
    }

    #[test]
    fn a_value_is_what_the_model_says(value in value(), path in path()) {
        let rows = rows(&value);
        let model = model(&rows);
        for format in [Format::Plain, Format::Export] {
            prop_assert_eq!(json_of(&rows, format), model.json(&Path::root(), format));
            let part = rows.subtree(&path.encode());
            prop_assert_eq!(json_of(&part, format), model.json(&path, format));
            let seen = to_json(&mut rows.cursor_at(&path.encode()), format).unwrap();
            prop_assert_eq!(String::from_utf8(seen).unwrap(), model.json(&path, format));
        }
        prop_assert_eq!(hash(&mut rows.cursor()).unwrap(), model.hash(&Path::root()));
        prop_assert_eq!(hash(&mut rows.cursor_at(&path.encode())).unwrap(), model.hash(&path));
        prop_assert_eq!(self::rows(&json_of(&rows, Format::Export)), rows);
    }

    #[test]
    fn pieces_make_the_whole(value in value(), budget in 0usize..20, after in option::of(key()), limit in option::of(0usize..4)) {
        let rows = rows(&value);
        let keys: Vec<Box<str>> = KEYS.iter().rev().map(|&key| key.into()).collect();
        for (format, pretty) in [(Format::Plain, false), (Format::Export, false), (Format::Plain, true), (Format::Export, true)] {
            let whole = || JsonStream::new(format, pretty);
            let text = fill_in_pieces(whole(), &rows, usize::MAX);
            prop_assert_eq!(&fill_in_pieces(whole(), &rows, budget), &text);
            let compact: serde_json::Value = serde_json::from_str(&json_of(&rows, format)).unwrap();
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), compact);
            let children = || JsonStream::children(format, pretty, keys.clone());
            let text = fill_in_pieces(children(), &rows, usize::MAX);
            prop_assert_eq!(&fill_in_pieces(children(), &rows, budget), &text);
            serde_json::from_str::<serde_json::Value>(&text).unwrap();
        }
        let range = ShallowRange { after: after.map(Box::from), limit, sizes: false };
        let text = fill_in_pieces(JsonStream::shallow(false, range.clone()), &rows, usize::MAX);
        prop_assert_eq!(fill_in_pieces(JsonStream::shallow(false, range.clone()), &rows, budget), text.clone());
        let start = range.after.map(|key| Bound { value: BoundValue::Str(key), key: BoundKey::None, inclusive: false });
        let limit = range.limit.map(|count| Limit { count, side: Side::First });
        let keys = model(&rows).query(&Path::root(), &Query { order_by: OrderBy::Key, start, end: None, limit });
        let members: Vec<_> = keys.iter().map(|key| format!("{}:true", string(key))).collect();
        if matches!(rows.cursor().seek(&[]).unwrap(), Some((key, _)) if !key.is_empty()) {
            prop_assert_eq!(text, format!("{{{}}}", members.join(",")));
        } else {
            prop_assert_eq!(text, json_of(&rows, Format::Plain));
        }
        // With sizes the same keys in the same order; what has no children is a number.
        let sizes = ShallowRange { sizes: true, ..ShallowRange::default() };
        let text = fill_in_pieces(JsonStream::shallow(false, sizes.clone()), &rows, usize::MAX);
        prop_assert_eq!(fill_in_pieces(JsonStream::shallow(false, sizes), &rows, budget), text.clone());
        let whole: serde_json::Value = serde_json::from_str(&json_of(&rows, Format::Export)).unwrap();
        prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), sizes_of(&whole));
    }

    #[test]
    fn queries_select_what_the_model_says(value in value(), query in query()) {
        let rows = rows(&value);
        let selected = select(&mut rows.cursor(), &query, usize::MAX).unwrap();
        prop_assert_eq!(selected.keys, model(&rows).query(&Path::root(), &query));
    }

    #[test]
    fn watchers_see_what_is_there(steps in vec(step(), 1..8), at in path()) {
        let (mut tree, mut watcher) = (Model::default(), Model::default());
        for change in steps.iter().filter_map(change) {
            let mut bytes = Vec::new();
            change.encode(&mut bytes);
            prop_assert_eq!(Change::decode(&bytes), Some((change.clone(), bytes.len())));
            apply(&mut tree, &change);
            follow(&mut watcher, &change, &at);
            let (seen, there) = (watcher.json(&Path::root(), Format::Export), tree.json(&at, Format::Export));
            prop_assert_eq!(seen, there, "after {:?}", change);
        }
    }

    #[test]
    fn rows_read_back(value in value()) {
        let rows = rows(&value);
        let mut bytes = b"x".to_vec();
        rows.encode(&mut bytes);
        prop_assert_eq!(Rows::decode(&bytes[1..]), Some((rows, bytes.len() - 1)));
    }

    #[test]
    fn damaged_rows_do_not_panic(value in value(), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), query in query()) {
        let mut bytes = Vec::new();
        rows(&value).encode(&mut bytes);
        for (index, byte) in damage {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        if let Some((rows, _)) = Rows::decode(&bytes) {
            for format in [Format::Plain, Format::Export] {
                fill_in_pieces(JsonStream::new(format, true), &rows, 5);
                fill_in_pieces(JsonStream::children(format, true, vec!["a".into(), "0".into()]), &rows, 5);
            }
            fill_in_pieces(JsonStream::shallow(true, ShallowRange::default()), &rows, 5);
            hash(&mut rows.cursor()).unwrap();
            select(&mut rows.cursor(), &query, usize::MAX).unwrap();
            crate::server_value::resolve(&rows, 1, |_| Ok::<_, ()>(None)).unwrap();
        }
    }

    #[test]
    fn random_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..60), text in "[\\[\\]{}:,\"a.0-9eE \\\\unl-]{0,40}") {
        let _ = (Rows::decode(&bytes), Change::decode(&bytes), Leaf::decode(&bytes), Path::decode(&bytes));
        let _ = decode_key(&bytes, &mut String::new());
        for json in [&bytes[..], text.as_bytes()] {
            let _ = (parse_value(json, &limits()), parse_merge(json, &Path::root(), &limits()));
        }
        let _ = (Path::parse(&text), Location::parse(&text), crate::parse_rest(&[("orderBy", &text), ("startAt", &text)]));
    }
}
