//! Security rules: any text, and whatever compiles, asked about reads and writes.

use std::convert::Infallible;

use standpipe_tree::rules::{DIAGNOSTICS_MAX, Request, Verdict};
use standpipe_tree::{Change, ChangeKind, Location, ParseLimits, Path, Rows, RuleSet, Write, parse_merge, parse_value};

const BEFORE: &str =
    r#"{"a":{"b":1,"c":{"d":"text",".priority":2}},"users":{"ann":{"role":"admin","age":40}},"list":["x","y"]}"#;
const WRITES: &[(&str, &str)] = &[
    ("", r#"{"a":{"b":2},"users":{"bob":{"role":"guest"}}}"#),
    ("a", "null"),
    ("a/c", r#"{"d":true,".priority":"p"}"#),
    ("users/ann/role", r#""owner""#),
    ("x/y/z", "1.5"),
];

/// A rules text: refused with places in it, or compiled and asked.
pub fn rules(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let rules = match RuleSet::compile(text) {
        Ok(rules) => rules,
        Err(error) => {
            let diagnostics = error.diagnostics();
            assert!((1..=DIAGNOSTICS_MAX).contains(&diagnostics.len()));
            for one in diagnostics {
                assert!(one.span.start <= one.span.end && one.line > 0 && one.column > 0 && !one.message.is_empty());
                assert!(one.span.start <= text.len() && text.is_char_boundary(one.span.start), "a place in the text");
            }
            return;
        }
    };
    let strict = rules.strict_text();
    let again = RuleSet::compile(&strict).expect("strict JSON means the same");
    assert_eq!((again.rule_count(), again.indexes()), (rules.rule_count(), rules.indexes()));
    let auth = serde_json::json!({"uid": "ann", "token": {"role": "admin", "list": [1, "two"]}});
    let before = rows(BEFORE);
    for auth in [None, Some(&auth)] {
        let ask = |trace| Request { auth, now_ms: 1_700_000_000_000, query: None, trace };
        for path in ["", "a", "a/c/d", "users/ann", "none/10"] {
            let path = Path::parse(path).expect("a path");
            let plain = sure(rules.read(&ask(false), &before, &path));
            same(plain, sure(rules.read(&ask(true), &before, &path)));
            let strict = sure(again.read(&ask(false), &before, &path));
            assert_eq!(strict == Verdict::Allowed, sure(rules.read(&ask(false), &before, &path)) == Verdict::Allowed);
        }
        for change in changes() {
            same(sure(rules.write(&ask(false), &before, &change)), sure(rules.write(&ask(true), &before, &change)));
        }
    }
    sure(rules.audit(&before, 0, |violation| assert!(!violation.why.is_empty())));
    assert!(rules.coverage().is_object());
}

/// Tracing says why, and changes nothing.
fn same(plain: Verdict, traced: Verdict) {
    match (plain, traced) {
        (Verdict::Allowed, Verdict::Allowed) => {}
        (Verdict::Denied(None), Verdict::Denied(Some(denial))) => assert!(!denial.why.is_empty()),
        (plain, traced) => unreachable!("{plain:?}, traced {traced:?}"),
    }
}

fn changes() -> Vec<Change> {
    let path = |at: &str| Path::parse(at).expect("a path");
    let one = |kind, at: &str, json: &str| Change {
        kind,
        base: path(at),
        writes: vec![Write { location: Location::Node(path(at)), rows: rows(json) }],
    };
    let mut changes: Vec<Change> = WRITES.iter().map(|(at, json)| one(ChangeKind::Set, at, json)).collect();
    changes.push(one(ChangeKind::Overlay, "a", r#"{"b":{"e":1},"f":2}"#));
    let json = br#"{"a/b":null,"a/c":null,"users/bob/role":"guest","list/.priority":3}"#;
    let merge = parse_merge(json, &Path::root(), &ParseLimits::below(&Path::root())).expect("an update");
    let writes = merge.writes.into_iter().map(|(location, rows)| Write { location, rows }).collect();
    changes.push(Change { kind: ChangeKind::Merge, base: Path::root(), writes });
    changes
}

fn rows(json: &str) -> Rows {
    parse_value(json.as_bytes(), &ParseLimits::below(&Path::root())).expect("a value")
}

fn sure<T>(result: Result<T, Infallible>) -> T {
    result.unwrap_or_else(|never| match never {})
}
