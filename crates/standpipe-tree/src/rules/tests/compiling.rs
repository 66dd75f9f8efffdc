//! What compiles, and what the refusals say.

use serde_json::json;

use super::super::limits::{
    EXPRESSION_BYTES_MAX, EXPRESSION_DEPTH_MAX, EXPRESSION_NODES_MAX, INDEXES_MAX, REGEXES_MAX,
};
use super::super::{DIAGNOSTICS_MAX, IndexSegment, METHODS, RuleSet, VARIABLES};
use crate::path::Path;
use crate::query::OrderBy;

/// An expression as a rule of some kind at `/p/$id`: accepted, or refused with a part of the message.
fn check(kind: &str, expression: &str, expected: Result<(), &str>) {
    let rules = json!({"rules": {"p": {"$id": {kind: expression}}}}).to_string();
    match (RuleSet::compile(&rules), expected) {
        (Ok(_), Ok(())) => {}
        (Err(error), Err(part)) if error.diagnostics()[0].message.contains(part) => {
            let span = error.diagnostics()[0].span.clone();
            assert!(rules.get(span).is_some(), "{expression}: a span outside of the text");
        }
        (got, _) => {
            panic!("{expression}: {:?}, expected {expected:?}", got.map(|_| ()).map_err(|error| error.to_string()))
        }
    }
}

#[test]
fn expressions_that_are_accepted() {
    for expression in [
        "$id == auth.uid",
        "query.limitToFirst <= 10",
        "now > 0",
        "auth.uid.length > 0",
        "auth.anything == 1",
        "auth['uid'] == 'a'",
        "auth[$id] == 'a'",
        "auth.token.firebase.sign_in_provider == 'password'",
        "$id > 1",
        "now === 'a'",
        "now > 'a'",
        "auth > 1",
        "auth + 1 == 1",
        "auth.uid - 1 == 0",
        "-auth.uid == 1",
        "(auth != null ? 'a' : 1) == 'a'",
        "(auth != null ? data : root).exists()",
        "data.hasChildren()",
        "data.hasChildren(['a', $id, auth.uid, data.val()])",
        "root['exists']()",
        "'/a/'.replace('/a/', 'b') == 'b'",
        "root.child('.').exists()",
        "root.child('a@b.c').exists()",
        "(1 < 2) == true",
        "1/2/3 < 4 && 'a'.matches(/[/]/)",
        "\n\ttrue\n  && true ",
        "((((true))))",
        "data.child(data.child('x').val()).exists()",
    ] {
        for kind in [".read", ".write", ".validate"] {
            check(kind, expression, Ok(()));
        }
    }
    check(".write", "newData.val() + 1 > 0 && data.child(newData.val()).exists()", Ok(()));
}

#[test]
fn expressions_that_are_refused() {
    for (expression, part) in [
        ("1", "boolean expression"),
        ("'a'", "boolean expression"),
        ("null", "boolean expression"),
        ("data", "boolean expression"),
        ("auth", "boolean expression"),
        ("auth.uid", "boolean expression"),
        ("data.val()", "boolean expression"),
        ("now + 1", "boolean expression"),
        ("auth != null ? true : 1", "boolean expression"),
        ("auth != null ? data.val() : true", "boolean expression"),
        ("/a/", "only be the argument"),
        ("['a']", "only be the argument"),
        ("!auth.uid", "! takes a boolean"),
        ("!data", "! takes a boolean"),
        ("!data.val()", "! takes a boolean"),
        ("!now", "! takes a boolean"),
        ("auth.uid && true", "&& takes booleans"),
        ("true && data", "&& takes booleans"),
        ("true || 1", "|| takes booleans"),
        ("'a' || true", "|| takes booleans"),
        ("auth.uid ? true : false", "condition"),
        ("data ? true : false", "condition"),
        ("(true ? data : 1) == 1", "both values"),
        ("data == null", "left operand of =="),
        ("1 == data", "right operand of =="),
        ("data !== 'a'", "left operand of !="),
        ("data.child('a') != null", "left operand of !="),
        ("(auth != null ? data : data) == 1", "left operand of =="),
        ("data > 1", "left operand of >"),
        ("1 <= true", "right operand of <="),
        ("root.val() < true", "right operand of <"),
        ("null >= 1", "left operand of >="),
        ("data.exists() > 1", "left operand of >"),
        ("true + 1 == 2", "left operand of +"),
        ("1 + null == 1", "right operand of +"),
        ("'a' + data == 'a'", "right operand of +"),
        ("'a' * 2 == 2", "left operand of *"),
        ("1 - data == 0", "right operand of -"),
        ("true / 1 == 0", "left operand of /"),
        ("now % 'a' == 0", "right operand of %"),
        ("-'a' == 1", "- takes a number"),
        ("-data > 0", "- takes a number"),
        ("foo == 1", "unknown variable foo"),
        ("$other == 'a'", "unknown variable $other"),
        ("query == 1", "query is no value"),
        ("query.foo == 1", "query has no member foo"),
        ("query.exists()", "query has no methods"),
        ("query[$id] == 1", "computed member"),
        ("data.foo == 1", "a snapshot has no foo"),
        ("data.foo()", "a snapshot has no foo"),
        ("data.contains('a')", "a snapshot has no contains"),
        ("data.length > 1", "a snapshot has no length"),
        ("data.exists == true", "exists is a method"),
        ("auth.uid.length() > 0", "length is no method"),
        ("auth.exists()", "has no exists"),
        ("auth.uid.foo()", "has no foo"),
        ("$id.val() == 'a'", "a string has no val"),
        ("data.val().foo == 1", "a string has no foo"),
        ("data.val()['kind'] == 1", "a string has no kind"),
        ("now.foo == 1", "a number has no foo"),
        ("true.foo == 1", "a boolean has no foo"),
        ("null.foo == 1", "this value has no foo"),
        ("root['exi' + 'sts']()", "named, not computed"),
        ("root[$id]()", "named, not computed"),
        ("root[$id] == 1", "computed member"),
        ("data.val()[$id] == 1", "computed member"),
        ("auth[true] == 1", "asked for by a string"),
        ("auth() == 1", "only methods"),
        ("data.child().exists()", "child() takes one string"),
        ("data.child('a', 'b').exists()", "child() takes one string"),
        ("data.child(1).exists()", "child() takes a string"),
        ("data.child(data).exists()", "child() takes a string"),
        ("data.hasChild(null)", "hasChild() takes a string"),
        ("data.hasChild()", "hasChild() takes one string"),
        ("data.hasChildren('a')", "hasChildren() takes one list"),
        ("data.hasChildren('a', 'b')", "hasChildren() takes one list"),
        ("data.hasChildren(['a'], ['b'])", "hasChildren() takes one list"),
        ("data.hasChildren([])", "hasChildren() takes one list of strings with something in it"),
        ("data.hasChildren([1])", "hasChildren() takes a list of strings"),
        ("data.hasChildren([['a']])", "only be the argument"),
        ("data.hasChildren(data.val())", "hasChildren() takes one list"),
        ("data.exists(1)", "exists() takes nothing"),
        ("data.val('a') == 1", "val() takes nothing"),
        ("data.parent('a').exists()", "parent() takes nothing"),
        ("auth.uid.contains()", "contains() takes one string"),
        ("auth.uid.contains('a', 'b')", "contains() takes one string"),
        ("auth.uid.contains(7)", "contains() takes a string"),
        ("auth.uid.contains(/a/)", "contains() takes a string"),
        ("auth.uid.beginsWith(data)", "beginsWith() takes a string"),
        ("auth.uid.endsWith(true)", "endsWith() takes a string"),
        ("auth.uid.replace('a') == 'b'", "two strings"),
        ("auth.uid.replace(/a/, 'b') == 'b'", "two strings"),
        ("auth.uid.replace('a', 1) == 'b'", "two strings"),
        ("auth.uid.toLowerCase('a') == 'b'", "toLowerCase() takes nothing"),
        ("auth.uid.matches()", "one regular expression"),
        ("auth.uid.matches('/a/')", "one regular expression"),
        ("auth.uid.matches(/a/g)", "the only flag"),
        ("auth.uid.matches(/[a/)", "never closed"),
        ("auth.uid.matches(/a|/)", "empty"),
        ("auth.uid.matches(/a(?=b)/)", "looking"),
        ("var foo = 8", "not part of the language"),
        ("root = 5", "found \"=\""),
        ("true; true", "found \";\""),
        ("(2**2) == 4", "found \"**\""),
        ("true &&", "expected a value, found the end"),
        ("&& true", "expected a value"),
        ("true true", "expected an operator"),
        ("(true", "expected \")\""),
        ("true)", "expected an operator"),
        ("true ? false", "expected \":\""),
        ("data.", "expected a name"),
        ("data.child('a'", "\",\" or \")\""),
        ("'open", "never closed"),
        ("'two\nlines' == 'x'", "end on its line"),
        ("'\\q' == 'q'", "no escape"),
        ("1x == 1", "no number"),
        ("0x10 == 16", "no number"),
        ("010 == 8", "no number"),
        ("1e999 > 1", "too large"),
        ("true // why", "comments"),
        ("/* why */ true", "comments"),
        ("true # true", "means nothing"),
        ("", "found the end"),
        ("new Date() > 1", "not part of the language"),
        ("x => true", "expected an operator"),
        ("`a` == 'a'", "means nothing"),
    ] {
        check(".write", expression, Err(part));
    }
    check(".read", "newData.exists()", Err("no newData"));
}

#[test]
fn rule_bombs_are_refused() {
    let deep = |open: &str, inner: &str, close: &str| {
        format!("{}{inner}{}", open.repeat(EXPRESSION_DEPTH_MAX + 1), close.repeat(EXPRESSION_DEPTH_MAX + 1))
    };
    check(".read", &deep("(", "true", ")"), Err("nested deeper"));
    check(".read", &deep("!", "true", ""), Err("nested deeper"));
    check(".read", &deep("auth[", "'a'", "] == 1"), Err("nested deeper"));
    check(".read", &format!("root{}.exists()", ".child('a')".repeat(EXPRESSION_DEPTH_MAX)), Err("nested deeper"));
    check(".read", &format!("1{} > 0", " + 1".repeat(EXPRESSION_DEPTH_MAX + 1)), Err("nested deeper"));
    check(".read", &deep("true ? true : ", "true", ""), Err("nested deeper"));
    // A chain is one level.
    check(".read", "true && ".repeat(5_000).trim_end_matches("&& "), Ok(()));
    check(".read", &"a".repeat(EXPRESSION_BYTES_MAX + 1), Err("longer"));
    check(".read", &vec!["'a'.matches(/a/)"; REGEXES_MAX + 1].join("||"), Err("regular expressions"));
    let many = format!("\"{}true\"", "true||".repeat(10_000));
    let rules: Vec<_> = (0..EXPRESSION_NODES_MAX / 10_000).map(|n| format!("\"k{n}\":{{\".read\":{many}}}")).collect();
    let error = RuleSet::compile(&format!("{{\"rules\":{{{}}}}}", rules.join(","))).unwrap_err();
    assert!(error.to_string().contains("longer") || error.to_string().contains("too many operations"), "{error}");
    let indexes: Vec<_> = (0..=INDEXES_MAX).map(|n| format!("\"i{n}\"")).collect();
    let error = RuleSet::compile(&format!("{{\"rules\":{{\".indexOn\":[{}]}}}}", indexes.join(","))).unwrap_err();
    assert!(error.to_string().contains("indexes"), "{error}");
}

fn check_file(text: &str, expected: &[&str]) {
    let got: Vec<String> = match RuleSet::compile(text) {
        Ok(_) => Vec::new(),
        Err(error) => {
            error.diagnostics().iter().map(|one| format!("{}:{}: {}", one.line, one.column, one.message)).collect()
        }
    };
    assert_eq!(got.len(), expected.len(), "{text}: {got:?}");
    for (got, expected) in got.iter().zip(expected) {
        assert!(got.starts_with(expected), "{text}: {got:?}, expected {expected:?}");
    }
}

#[test]
fn files() {
    for (text, expected) in [
        ("{\"rules\":{}}", &[][..]),
        ("// all\n{\"rules\": {\".read\": true, \".write\": \"auth != null\",},}", &[]),
        ("{\"rules\":{\".read\":\"auth != null\\n && true\"}}", &[]),
        ("{\"rules\":{\"$a\":{\"$b\":{\".write\":\"$a == $b\"}},\"x\":{\"$a\":{}}}}", &[]),
        ("[]", &["1:1: the rules must be an object with one member"]),
        ("{}", &["1:1: the rules must be an object with one member"]),
        ("{\"rules\":{},\"x\":1}", &["1:13: the rules must be an object with one member"]),
        ("{\"rules\":{},\"rules\":{}}", &["1:13: \"rules\" is given twice"]),
        ("{\"rules\":true}", &["1:10: the rules of a location must be an object"]),
        ("{\"rules\":{\n  \"a\": 1\n}}", &["2:8: the rules of a location must be an object"]),
        ("{\"rules\":{\".read\":1}}", &["1:19: a rule must be a boolean or a string"]),
        ("{\"rules\":{\".reed\":true}}", &["1:11: unknown member \".reed\""]),
        ("{\"rules\":{\"a/b\":{}}}", &["1:11: a key must not contain '/'"]),
        ("{\"rules\":{\"a.b\":{}}}", &["1:11: a key must not contain '.'"]),
        ("{\"rules\":{\"a$b\":{}}}", &["1:11: a key must not contain '$'"]),
        ("{\"rules\":{\"$\":{}}}", &["1:11: after its $, a key must not be empty"]),
        ("{\"rules\":{\"$a\":{},\"$b\":{}}}", &["1:19: a location can have only one key with $"]),
        ("{\"rules\":{\"$a\":{\"x\":{\"$a\":{}}}}}", &["1:22: $a is already the name"]),
        ("{\"rules\":{\"a\":{},\"a\":{}}}", &["1:18: \"a\" is given twice"]),
        ("{\"rules\":{\".read\":true,\".read\":true}}", &["1:24: \".read\" is given twice"]),
        ("{\"rules\":{\"x\":{\".read\":\"$k == 'a'\"},\"$k\":{}}}", &["1:25: unknown variable $k"]),
        // Escapes do not shift places, and everything wrong is told.
        (
            "{\"rules\":{\n\".read\":\"'\\u0041' == \\\"é\\\" && foo\",\n\".write\":\"bar\", \".x\": 1}}",
            &["2:31: unknown variable foo", "3:11: unknown variable bar", "3:17: unknown member"],
        ),
        ("{\"rules\":{\".indexOn\":1}}", &["1:22: .indexOn must be"]),
        ("{\"rules\":{\".indexOn\":[\"a\",\"\",\".x\"]}}", &["1:27: an index needs", "1:30: bad path"]),
    ] {
        check_file(text, expected);
    }
    let nested = |levels: usize, key: &str| {
        let open = format!("{{\"{key}\":").repeat(levels);
        format!("{{\"rules\":{open}{{}}{}}}", "}".repeat(levels))
    };
    check_file(&nested(32, "k"), &[]);
    check_file(&nested(33, "k"), &["1:171: no location has a path"]);
    check_file(&nested(3, &"k".repeat(700)), &["1:1419: no location has a path"]);
    let many: Vec<_> = (0..100).map(|n| format!("\".x{n}\":1")).collect();
    let error = RuleSet::compile(&format!("{{\"rules\":{{{}}}}}", many.join(","))).unwrap_err();
    assert_eq!(error.diagnostics().len(), DIAGNOSTICS_MAX);
}

#[test]
fn indexes() {
    let text = r#"{"rules": {
        "z": {".indexOn": [".value", "b/c", "b//c", ".priority"]},
        "a": {"$u": {".indexOn": "score"}, "named": {}}
    }}"#;
    let rules = RuleSet::compile(text).unwrap();
    let shown: Vec<String> = rules.indexes().iter().map(|index| format!("{:?} {:?}", index.parent, index.by)).collect();
    assert_eq!(shown, ["[Key(\"a\"), Any] Child(/score)", "[Key(\"z\")] Value", "[Key(\"z\")] Child(/b/c)",]);
    assert_eq!(rules.indexes()[0].parent[1], IndexSegment::Any);
    let child = |path: &str| OrderBy::Child(Path::parse(path).unwrap());
    for (parent, by, expected) in [
        ("z", OrderBy::Value, true),
        ("z", child("b/c"), true),
        ("z", child("b"), false),
        ("y", OrderBy::Value, false),
        ("y", OrderBy::Key, true),
        ("y", OrderBy::Priority, true),
        ("a/10", child("score"), true),
        ("a/named", child("score"), false),
        ("a", child("score"), false),
    ] {
        assert_eq!(rules.index_for(&Path::parse(parent).unwrap(), &by), expected, "{parent} {by:?}");
    }
}

#[test]
fn every_method_is_there() {
    for method in &METHODS {
        let of = if method.of_snapshots { "root" } else { "'a'" };
        let arguments = match method.arguments {
            "" => "",
            "[paths]" => "['a']",
            "text, text" => "'a', 'b'",
            "/pattern/" => "/a/",
            _ => "'a'",
        };
        let call = format!("{of}.{}({arguments})", method.name);
        let compiles = [format!("{call} == null"), format!("{call}.exists()")]
            .iter()
            .any(|expression| RuleSet::compile(&json!({"rules": {".read": expression}}).to_string()).is_ok());
        assert!(compiles, "{call}");
    }
}

#[test]
fn the_reference_is_complete() {
    let page = include_str!("../../../../../docs/rules.md");
    for method in &METHODS {
        let of = if method.of_snapshots { "snapshot" } else { "string" };
        let row = format!("| {of} | `{}({})` |", method.name, method.arguments);
        assert!(page.contains(&row), "docs/rules.md has no row {row}");
    }
    let rows = page.lines().filter(|line| line.starts_with("| snapshot |") || line.starts_with("| string |")).count();
    assert_eq!(rows, METHODS.len(), "docs/rules.md has rows for what is no method");
    for variable in VARIABLES {
        assert!(page.contains(&format!("| `{variable}` |")), "docs/rules.md does not have {variable}");
    }
    // Its example is valid.
    let example = page.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    RuleSet::compile(example).unwrap();
}
