//! Indexes: they answer as a scan answers, whatever was written and however the rules changed, and they are
//! what an index built from scratch would be ([`standpipe_engine::Snapshot::verify`] compares them).

use proptest::prelude::*;
use serde_json::{Map, Value};
use standpipe_engine::{
    Database, EngineConfig, ErrorKind, Identity, LocalLog, Op, QueryUnindexed, Touched, WatchRead, Window, query_keys,
};
use standpipe_tree::{Bound, BoundKey, BoundValue, Format, Limit, OrderBy, Query, Side, parse_rest, select};
use tempfile::TempDir;

use crate::model::{Step, op, step};
use crate::support::{config, get, open, open_with, path, set, set_op, write, write_as};

const OPEN: &str = r#"".read": true, ".write": true"#;

fn rules(text: &str) -> String {
    format!(r#"{{"rules": {{{OPEN}{text}}}}}"#)
}

fn put_rules(database: &Database, text: &str) {
    write_as(database, Op::Rules(rules(text)), None, Identity::Admin).unwrap();
}

/// Declarations that differ in place, order and depth; some hide others.
const RULES: &[&str] = &[
    "",
    r#", ".indexOn": [".value", "a", "b/c"]"#,
    r#", "$x": {".indexOn": ["a", ".value"]}"#,
    r#", ".indexOn": "a", "a": {".indexOn": ["b"], "$y": {".indexOn": [".value", "a"]}}, "$x": {".indexOn": ["a"]}"#,
    r#", "$x": {"$y": {".indexOn": ["c", "a/b"]}, "b": {}}"#,
];

fn query() -> impl Strategy<Value = Query> {
    let order_by = prop_oneof![
        1 => Just(OrderBy::Key),
        2 => Just(OrderBy::Value),
        1 => Just(OrderBy::Priority),
        4 => prop::sample::select(&["a", "b", "c", "b/c", "a/b"][..]).prop_map(|at| OrderBy::Child(path(at))),
    ];
    let value = prop_oneof![
        2 => Just(BoundValue::Null),
        1 => any::<bool>().prop_map(BoundValue::Bool),
        3 => (-5i32..5).prop_map(|number| BoundValue::Number(number.into())),
        2 => prop::sample::select(&["", "a", "m", "https://example.org/a/path/that/is/longer/than/what/an/index/keeps/of/it/10"][..])
            .prop_map(|text| BoundValue::Str(text.into())),
    ];
    let key = prop_oneof![
        3 => Just(BoundKey::None),
        1 => Just(BoundKey::Min),
        1 => Just(BoundKey::Max),
        2 => prop::sample::select(&["a", "b", "bb", "b\0"][..]).prop_map(|key| BoundKey::Key(key.into())),
    ];
    let bound = (value, key, any::<bool>()).prop_map(|(value, key, inclusive)| Bound { value, key, inclusive });
    let side = prop_oneof![Just(Side::First), Just(Side::Last)];
    let limit = (0usize..4, side).prop_map(|(count, side)| Limit { count, side });
    let (start, end) = (proptest::option::of(bound.clone()), proptest::option::of(bound));
    (order_by, start, end, proptest::option::of(limit)).prop_map(|(order_by, start, end, limit)| Query {
        order_by,
        start,
        end,
        limit,
    })
}

#[derive(Clone, Debug)]
enum Move {
    Write(Step),
    Rules(usize),
}

fn check(database: &Database, queries: &[Query]) {
    let snapshot = database.try_snapshot().unwrap();
    snapshot.verify().unwrap();
    for at in ["", "a", "b", "c", "a/a", "a/b", "b/c", "c/a/b"] {
        for query in queries {
            let scanned = select(&mut snapshot.cursor(&path(at)), query, 1_000).unwrap().keys;
            assert_eq!(query_keys(&snapshot, &path(at), query, 1_000).unwrap(), scanned, "/{at} {query:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn an_index_answers_as_a_scan_answers(
        steps in proptest::collection::vec(
            prop_oneof![6 => step().prop_map(Move::Write), 1 => (0..RULES.len()).prop_map(Move::Rules)],
            1..25,
        ),
        first in 0..RULES.len(),
        queries in proptest::collection::vec(query(), 12),
    ) {
        let dir = TempDir::new().unwrap();
        let database = open(&dir);
        put_rules(&database, RULES[first]);
        for step in &steps {
            match step {
                Move::Write(step) => drop(write(&database, op(step)).unwrap()),
                Move::Rules(at) => put_rules(&database, RULES[*at]),
            }
            check(&database, &queries);
        }
        // A backup has the indexes, and opens with them.
        let copy = TempDir::new().unwrap();
        let file = copy.path().join("backup");
        database.backup(&mut std::fs::File::create(&file).unwrap()).unwrap();
        let verified = standpipe_engine::restore(&file, &copy.path().join("data"), "default").unwrap();
        assert_eq!(verified, database.try_snapshot().unwrap().verify().unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_a_window_tells_makes_what_its_query_selects(
        steps in proptest::collection::vec(step(), 1..25),
        declared in 0..RULES.len(),
        queries in proptest::collection::vec(query(), 6),
        export in any::<bool>(),
    ) {
        let dir = TempDir::new().unwrap();
        let database = open(&dir);
        put_rules(&database, RULES[declared]);
        let format = if export { Format::Export } else { Format::Plain };
        let fresh = |at: &str, query: &Query| {
            let snapshot = database.try_snapshot().unwrap();
            Window::open(&snapshot, path(at), query.clone(), format, 1_000).unwrap()
        };
        let shown = |json: &[u8]| match serde_json::from_slice(json).unwrap() {
            Value::Object(shown) => shown,
            other => { assert_eq!(other, Value::Null); Map::new() }
        };
        let mut views: Vec<_> = ["", "a", "b/c"].into_iter().flat_map(|at| queries.iter().map(move |query| (at, query)))
            .map(|(at, query)| {
                let watch = database.watch(&path(at));
                let (window, json) = fresh(at, query);
                (at, query, watch, window, shown(&json))
            })
            .collect();
        for step in &steps {
            write(&database, op(step)).unwrap();
            for (at, query, watch, window, view) in &mut views {
                let WatchRead::Events(events) = watch.read(100) else { panic!("it fits") };
                let touched = if events.is_empty() { continue } else { Touched::Events(&events) };
                let moved = window.advance(&database.try_snapshot().unwrap(), touched).unwrap();
                for (key, value) in moved.map(|json| shown(&json)).unwrap_or_default() {
                    if value.is_null() { view.remove(&key); } else { view.insert(key, value); }
                }
                let expected = shown(&fresh(at, query).1);
                prop_assert_eq!(&*view, &expected, "/{} {:?} after {:?}", at, query, step);
            }
        }
    }
}

#[test]
fn a_limited_query_looks_at_what_it_selects() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    let children: Vec<String> = (0..20_000).map(|n| format!(r#""k{n}":{{"at":{}}}"#, (n * 7_919) % 20_000)).collect();
    set(&database, "/log", &format!("{{{}}}", children.join(",")));
    put_rules(&database, r#", "log": {".indexOn": "at"}"#);
    let ask = |params: &[(&str, &str)], children_max| {
        let query = parse_rest(params).unwrap().unwrap();
        query_keys(&database.try_snapshot().unwrap(), &path("/log"), &query, children_max)
    };
    let by = ("orderBy", "\"at\"");
    assert_eq!(ask(&[by, ("limitToFirst", "2")], 2).unwrap().len(), 2);
    assert_eq!(ask(&[by, ("limitToLast", "2")], 2).unwrap().len(), 2);
    assert_eq!(ask(&[by, ("startAfter", "10000"), ("limitToFirst", "5")], 6).unwrap().len(), 5);
    assert_eq!(ask(&[by, ("equalTo", "17")], 3).unwrap().len(), 1);
    assert_eq!(ask(&[by, ("startAt", "19000")], 10).unwrap_err().kind(), ErrorKind::TooLarge);
    // Without priorities that order is by key, and needs no look at the others either.
    assert_eq!(ask(&[("orderBy", "\"$priority\""), ("limitToLast", "3")], 3).unwrap().len(), 3);
    set(&database, "/other", r#"{".value":1,".priority":1}"#);
    assert_eq!(ask(&[("orderBy", "\"$priority\""), ("limitToLast", "3")], 3).unwrap_err().kind(), ErrorKind::TooLarge);
}

#[test]
fn a_query_without_index_is_refused_where_rules_could_declare_it() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    let by = |order: &str| parse_rest(&[("orderBy", order)]).unwrap().unwrap();
    let refused = |database: &Database, order: &str| {
        database.check_index(&path("/log"), &by(order)).map_err(|error| error.message().to_owned())
    };
    assert_eq!(refused(&database, "\"a/b\""), Ok(()), "no rules were put");
    put_rules(&database, r#", "log": {".indexOn": "a"}"#);
    assert_eq!(refused(&database, "\"a\""), Ok(()));
    assert_eq!(refused(&database, "\"$key\""), Ok(()));
    assert_eq!(refused(&database, "\"$priority\""), Ok(()));
    let text =
        |index: &str| Err(format!(r#"Index not defined, add ".indexOn": "{index}", for path "/log", to the rules"#));
    assert_eq!(refused(&database, "\"a/b\""), text("a/b"));
    assert_eq!(refused(&database, "\"$value\""), text(".value"));
    drop(database);
    let allowed = EngineConfig { query_unindexed: QueryUnindexed::Allow, ..config(&dir) };
    assert_eq!(refused(&open_with(&allowed, Box::new(LocalLog)), "\"a/b\""), Ok(()));
    let never = TempDir::new().unwrap();
    let strict = EngineConfig { query_unindexed: QueryUnindexed::Refuse, ..config(&never) };
    assert_eq!(refused(&open_with(&strict, Box::new(LocalLog)), "\"a/b\""), text("a/b"));
}

#[test]
fn rules_that_do_not_compile_leave_those_in_force() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    put_rules(&database, r#", "log": {".indexOn": "a"}"#);
    let changed = database.rules_changed();
    let error = write_as(&database, Op::Rules("{\"rules\": {\n  \".read\": \"tru\"}}".into()), None, Identity::Admin)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadRequest);
    assert!(error.message().starts_with("2:"), "{error}");
    assert!(database.is_indexed(&path("/log"), &parse_rest(&[("orderBy", "\"a\"")]).unwrap().unwrap()));
    assert!(!changed.has_changed().unwrap());
    let rev = database.rev();
    put_rules(&database, r#", "log": {".indexOn": "a"}"#);
    assert_eq!(database.rev(), rev, "the same text is no change");
    put_rules(&database, "");
    assert!(changed.has_changed().unwrap());
    assert_eq!(database.rev(), rev + 1);
}

#[test]
fn rules_are_found_again_and_may_be_given_at_open() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    let closed = r#"{"rules": {"open": {".read": true, ".write": true, ".indexOn": "n"}}}"#;
    write_as(&database, Op::Rules(closed.into()), None, Identity::Admin).unwrap();
    set(&database, "/open", r#"{"x":{"n":2},"y":{"n":1}}"#);
    drop(database);
    let database = open(&dir);
    assert_eq!(write(&database, set_op("/closed", "1")).unwrap_err().kind(), ErrorKind::Denied);
    set(&database, "/open/z", r#"{"n":0}"#);
    let by_n = parse_rest(&[("orderBy", "\"n\""), ("limitToFirst", "2")]).unwrap().unwrap();
    let snapshot = database.try_snapshot().unwrap();
    assert_eq!(query_keys(&snapshot, &path("/open"), &by_n, 2).unwrap(), ["z".into(), "y".into()]);
    database.check_read(&snapshot, &Identity::Anonymous, &path("/open"), None).unwrap();
    let denied = database.check_read(&snapshot, &Identity::Anonymous, &path("/"), None).unwrap_err();
    assert_eq!((denied.kind(), denied.denial().is_some()), (ErrorKind::Denied, false));
    database.check_read(&snapshot, &Identity::Admin, &path("/"), None).unwrap();
    drop((snapshot, database));
    let given = EngineConfig {
        rules_at_open: Some(r#"{"rules": {".write": true}}"#.into()),
        trace_denials: true,
        ..config(&dir)
    };
    let database = open_with(&given, Box::new(LocalLog));
    set(&database, "/closed", "1");
    let snapshot = database.try_snapshot().unwrap();
    let denied = database.check_read(&snapshot, &Identity::Anonymous, &path("/open"), None).unwrap_err();
    assert!(denied.denial().is_some());
    assert_eq!(get(&database, "/closed"), "1");
    snapshot.verify().unwrap();
}

#[test]
fn rules_judge_before_conditions_and_writes_of_one_commit_by_the_rules_before_them() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    let text = r#"{"rules": {"rw": {".read": true, ".write": true}, "w": {".write": true}, "once": {".read": true, ".write": "!data.exists()"}}}"#;
    write_as(&database, Op::Rules(text.into()), None, Identity::Admin).unwrap();
    let put = |at: &str, etag: &str| {
        let condition = standpipe_engine::Condition { path: path(at), etag: etag.into() };
        write_as(&database, set_op(at, "1"), Some(condition), Identity::Anonymous)
            .map_err(|error| error.kind())
            .map(|_| ())
    };
    assert_eq!(put("/rw/a", "wrong"), Err(ErrorKind::Conflict));
    assert_eq!(put("/w/a", "wrong"), Err(ErrorKind::Denied), "who can't read is not told why");
    assert_eq!(put("/w/a", "null_etag"), Ok(()));
    assert_eq!(put("/no/a", "wrong"), Err(ErrorKind::Denied));
    assert_eq!(put("/no/a", "null_etag"), Err(ErrorKind::Denied));
    // In one commit each write is judged on what the one before left, and by rules that one of them put.
    let steps = vec![
        set_op("/once", "1"),
        set_op("/once", "2"),
        Op::Rules(r#"{"rules": {".write": true}}"#.into()),
        set_op("/once", "3"),
    ];
    let committed = write_as(&database, Op::Batch(steps.clone()), None, Identity::Anonymous).unwrap();
    let kinds: Vec<_> =
        committed.steps.iter().map(|step| step.as_ref().err().map(standpipe_engine::Error::kind)).collect();
    let denied = Some(ErrorKind::Denied);
    assert_eq!(kinds, [None, denied, denied, denied]);
    let committed = write_as(&database, Op::Batch(steps), None, Identity::Admin).unwrap();
    assert!(committed.steps.iter().all(Result::is_ok));
    assert_eq!(get(&database, "/once"), "3");
    write(&database, set_op("/anywhere", "1")).unwrap();
}
