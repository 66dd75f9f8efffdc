//! Queries from REST parameters, and what they select. Random ones are in `against_model`.

use super::*;
use crate::parse::{parse_value, tests::LIMITS};

fn keys(json: &str, params: &str, scan_max: usize) -> String {
    let params: Vec<(&str, &str)> = params.split('&').filter_map(|param| param.split_once('=')).collect();
    let query = match parse_rest(&params) {
        Ok(Some(query)) => query,
        Ok(None) => return "no query".to_owned(),
        Err(error) => return error.to_string(),
    };
    let rows = parse_value(json.as_bytes(), &LIMITS).unwrap();
    match select(&mut rows.cursor(), &query, scan_max) {
        Ok(selection) => selection.keys.join(" "),
        Err(error) => error.to_string(),
    }
}

const TREE: &str = r#"{
    "10": {".value": 5, ".priority": 1},
    "9": {"h": 3, "deep": {"er": true}, ".priority": "p"},
    "a": {"h": "x"},
    "b": {"h": 1, ".priority": 1},
    "c": "text",
    "d": {"h": {"i": 1}},
    "e": false,
    "f": {"h": 3}
}"#;

fn check(params: &str, expected: &str) {
    assert_eq!(keys(TREE, params, 100), expected, "{params}");
}

#[test]
fn orders() {
    check(r#"orderBy="$key""#, "9 10 a b c d e f");
    check(r#"orderBy="$value""#, "e 10 c 9 a b d f");
    check(r#"orderBy="$priority""#, "a c d e f 10 b 9");
    check(r#"orderBy="h""#, "10 c e b 9 f a d");
    check(r#"orderBy="/deep/er/""#, "10 a b c d e f 9");
}

#[test]
fn ranges() {
    for (params, expected) in [
        (r#"orderBy="$key"&startAt="10"&endAt="b""#, "10 a b"),
        (r#"orderBy="$key"&startAfter="10"&endBefore="b""#, "a"),
        (r#"orderBy="$key"&equalTo="c""#, "c"),
        (r#"orderBy="$key"&equalTo="cc""#, ""),
        (r#"orderBy="$key"&startAt="a"&limitToFirst=2"#, "a b"),
        (r#"orderBy="$key"&startAfter="a"&limitToFirst=2"#, "b c"),
        (r#"orderBy="$key"&endBefore="d"&limitToLast=2"#, "b c"),
        (r#"orderBy="$key"&startAt="c"&endAt="c\uf8ff"&limitToLast=2"#, "c"),
        (r#"orderBy="h"&equalTo=3"#, "9 f"),
        (r#"orderBy="h"&equalTo=3,"f""#, "f"),
        (r#"orderBy="h"&startAt=3,"a""#, "f a d"),
        (r#"orderBy="h"&startAfter=3"#, "a d"),
        (r#"orderBy="h"&startAfter=3,"9""#, "f a d"),
        (r#"orderBy="h"&startAt=1&endBefore=3"#, "b"),
        (r#"orderBy="h"&startAt=1&endBefore=3,"f""#, "b 9"),
        (r#"orderBy="h"&equalTo=null"#, "10 c e"),
        (r#"orderBy="h"&endAt="x"&limitToLast=2"#, "f a"),
        (r#"orderBy="$value"&startAt=false&limitToFirst=2"#, "e 10"),
        (r#"orderBy="$priority"&startAt=1"#, "10 b 9"),
        (r#"orderBy="h"&limitToLast=1"#, "d"),
        (r#"orderBy="h"&limitToFirst=100"#, "10 c e b 9 f a d"),
    ] {
        check(params, expected);
    }
}

#[test]
fn refusals() {
    for (params, expected) in [
        ("", "no query"),
        ("print=pretty&auth=x", "no query"),
        ("limitToFirst=1", "orderBy must be defined when other query parameters are defined"),
        ("endAt=1", "orderBy must be defined when other query parameters are defined"),
        ("orderBy=h", "orderBy must be a valid JSON encoded path"),
        (r#"orderBy="$other""#, "orderBy must be a valid JSON encoded path"),
        (r#"orderBy="/""#, "orderBy must be a valid JSON encoded path"),
        (r#"orderBy=["h"]"#, "orderBy must be a valid JSON encoded path"),
        (r#"orderBy="h"&startAt={}"#, "Constraint index field must be a JSON primitive"),
        (r#"orderBy="h"&startAt=x"#, "Constraint index field must be a JSON primitive"),
        (r#"orderBy="h"&startAt="#, "Constraint index field must be a JSON primitive"),
        (r#"orderBy="h"&startAt=1],[2"#, "Constraint index field must be a JSON primitive"),
        (r#"orderBy="h"&startAt=1,2"#, "Constraint key field must be a JSON string"),
        (r#"orderBy="h"&startAt=1,"a","b""#, "Constraint key field must be a JSON string"),
        (r#"orderBy="$key"&startAt=1"#, "startAt must be a JSON string, and nothing else, when orderBy is \"$key\""),
        (
            r#"orderBy="$key"&equalTo="a","b""#,
            "equalTo must be a JSON string, and nothing else, when orderBy is \"$key\"",
        ),
        (r#"orderBy="h"&limitToFirst=0"#, "limitToFirst must be a positive integer"),
        (r#"orderBy="h"&limitToLast=-1"#, "limitToLast must be a positive integer"),
        (r#"orderBy="h"&limitToFirst=1&limitToLast=1"#, "limitToFirst and limitToLast cannot be used together"),
        (r#"orderBy="h"&startAt=1&startAfter=1"#, "startAt and startAfter cannot be used together"),
        (r#"orderBy="h"&equalTo=1&endAt=1"#, "equalTo and endAt cannot be used together"),
    ] {
        check(params, expected);
    }
}

#[test]
fn scans_are_limited() {
    const TOO_MANY: &str = "the query would have to look at too many children";
    for (params, scan_max, expected) in [
        (r#"orderBy="h"&limitToFirst=1"#, 7, TOO_MANY),
        (r#"orderBy="h"&limitToFirst=1"#, 8, "10"),
        (r#"orderBy="$key""#, 7, TOO_MANY),
        (r#"orderBy="$key"&limitToFirst=2"#, 2, "9 10"),
        (r#"orderBy="$key"&limitToLast=2"#, 2, "e f"),
    ] {
        assert_eq!(keys(TREE, params, scan_max), expected, "{params} {scan_max}");
    }
    for json in ["null", "1", r#"{".value":1,".priority":1}"#] {
        assert_eq!(keys(json, r#"orderBy="$key"&limitToLast=1"#, 0), "");
        assert_eq!(keys(json, r#"orderBy="h""#, 0), "");
    }
}

#[test]
fn limits_cut_while_scanning() {
    // More children than are kept before the first cut.
    let members: Vec<String> = (0..500).map(|n| format!("\"k{n:03}\":{}", n * 7919 % 500)).collect();
    let json = format!("{{{}}}", members.join(","));
    for (side, from) in [("First", 0), ("Last", 497)] {
        let mut expected: Vec<usize> = (0..500).collect();
        expected.sort_by_key(|n| n * 7919 % 500);
        let expected: Vec<_> = expected[from..from + 3].iter().map(|n| format!("k{n:03}")).collect();
        assert_eq!(keys(&json, &format!("orderBy=\"$value\"&limitTo{side}=3"), 500), expected.join(" "));
    }
}

#[test]
fn without_priorities_the_order_is_by_key() {
    let tree = r#"{"10": 5, "9": {"h": 3}, "a": "x", "b": {"c": 1}}"#;
    let rows = parse_value(tree.as_bytes(), &LIMITS).unwrap();
    let key = |key: &str| BoundKey::Key(key.into());
    let bounds = |value: BoundValue, key: BoundKey| {
        [true, false].map(|inclusive| Some(Bound { value: value.clone(), key: key.clone(), inclusive }))
    };
    let mut ends = vec![None];
    for value in [BoundValue::Null, BoundValue::Number(1.0), BoundValue::Str("x".into())] {
        for key in [BoundKey::None, BoundKey::Min, BoundKey::Max, key("10"), key("aa")] {
            ends.extend(bounds(value.clone(), key));
        }
    }
    let limits = [None, Some(Limit { count: 2, side: Side::First }), Some(Limit { count: 2, side: Side::Last })];
    for (start, end) in ends.iter().flat_map(|start| ends.iter().map(move |end| (start, end))) {
        for limit in limits {
            let query = Query { order_by: OrderBy::Priority, start: start.clone(), end: end.clone(), limit };
            let expected = select(&mut rows.cursor(), &query, 100).unwrap();
            let got = query.without_priorities().map_or_else(Selection::default, |query| {
                assert_eq!(query.order_by, OrderBy::Key);
                select(&mut rows.cursor(), &query, 100).unwrap()
            });
            assert_eq!(got, expected, "{query:?}");
        }
    }
}
