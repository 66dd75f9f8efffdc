//! Which rules decide.

use serde_json::{Value, json};

use super::{Case, merge, overlay, set};
use crate::change::Change;

fn check_read(case: &Case, path: &str, expected: &str) {
    assert_eq!(case.read(path, None), expected, "{path}");
}

fn check_write(case: &Case, change: &Change, expected: &str) {
    assert_eq!(case.write(change), expected, "{change:?}");
}

#[test]
fn reads_are_granted_from_above() {
    let rules = json!({
        "open": {".read": true, "closed": {".read": false}},
        "users": {"$u": {".read": "$u === auth.uid", "public": {".read": true}}, "root": {".read": false}},
    });
    let case = Case::new(&rules, &json!({"open": {"closed": 1}}), json!({"uid": "ann"}));
    for (path, expected) in [
        ("open", ""),
        ("open/closed/deeper", ""),
        ("", "read /: / .read is not there, nor above"),
        ("other/x", "read /other/x: / .read is not there, nor above"),
        ("users", "read /users: /users .read is not there, nor above"),
        ("users/ann", ""),
        ("users/ann/mail", ""),
        ("users/bob", "read /users/bob: /users/$u .read is not true: $u === auth.uid"),
        ("users/bob/mail", "read /users/bob/mail: /users/$u .read is not true: $u === auth.uid"),
        ("users/bob/public", ""),
        // A named child hides the one with $.
        ("users/root", "read /users/root: /users/root .read is not true: false"),
        ("users/root/public", "read /users/root/public: /users/root .read is not true: false"),
    ] {
        check_read(&case, path, expected);
    }
}

#[test]
fn writes_need_a_grant_and_every_validate() {
    let rules = json!({
        "items": {
            ".validate": "newData.hasChildren()",
            "$id": {
                ".write": "auth != null",
                ".validate": "newData.hasChildren(['name'])",
                "name": {".validate": "newData.isString() && newData.val().length < 5"},
                "tags": {"$tag": {".validate": "newData.isBoolean()"}},
                "$other": {".validate": false},
            },
        },
    });
    let data = json!({"items": {"old": {"name": "x", "tags": {"a": true}}}});
    let case = Case::new(&rules, &data, json!({"uid": "ann"}));
    let ok = json!({"name": "abc", "tags": {"a": true, "b": false}});
    for (change, expected) in [
        (set("items/new", &ok), ""),
        (set("items/new/name", &json!("abc")), ""),
        (
            set("items/new/tags/a", &json!(true)),
            "write /items/new/tags/a: /items/$id .validate is not true: newData.hasChildren(['name'])",
        ),
        (set("items/old/tags/b", &json!(true)), ""),
        (
            set("items/old/tags/b", &json!(1)),
            "write /items/old/tags/b: /items/$id/tags/$tag .validate is not true: newData.isBoolean()",
        ),
        (
            set("items/old/name", &json!("too long")),
            "write /items/old/name: /items/$id/name .validate is not true: newData.val().length < 5",
        ),
        (
            set("items/old/name", &json!(5)),
            "write /items/old/name: /items/$id/name .validate is not true: newData.isString()",
        ),
        (set("items/old/more", &json!(5)), "write /items/old/more: /items/$id/$other .validate is not true: false"),
        // Ancestors judge removals as long as they are there.
        (
            set("items/old/name", &json!(null)),
            "write /items/old/name: /items/$id .validate is not true: newData.hasChildren(['name'])",
        ),
        (set("items/old/tags", &json!(null)), ""),
        (set("items/old", &json!(null)), ""),
        (set("items", &ok), "write /items: /items .write is not there, nor above"),
        (set("", &json!({})), "write /: / .write is not there, nor above"),
        (merge("items", &json!({"new": ok, "old/name": "abc"})), ""),
        (
            merge("items", &json!({"new": ok, "old/name": 1})),
            "write /items/old/name: /items/$id/name .validate is not true: newData.isString()",
        ),
        (merge("", &json!({"items/new": ok, "other": 1})), "write /other: / .write is not there, nor above"),
        (merge("items/old", &json!({"tags/a": null, "tags/b": true})), ""),
        (overlay("items/old", &json!({"tags": {"b": true}})), ""),
        (
            overlay("items/old", &json!({"tags": {"b": 1}})),
            "write /items/old/tags/b: /items/$id/tags/$tag .validate is not true: newData.isBoolean()",
        ),
        (
            overlay("items", &json!({"x": {"tags": {"b": true}}})),
            "write /items/x/tags/b: /items/$id .validate is not true: newData.hasChildren(['name'])",
        ),
        (set("items/old/.priority", &json!(3)), ""),
        (set("items/none/.priority", &json!(3)), ""),
        (set("items/.priority", &json!(3)), "write /items: /items .write is not there, nor above"),
    ] {
        check_write(&case, &change, expected);
    }
    let nobody = Case::new(&rules, &data, Value::Null);
    check_write(&nobody, &set("items/new", &ok), "write /items/new: /items/$id .write is not true: auth != null");
}

#[test]
fn a_grant_above_is_not_revoked_below() {
    let rules = json!({"a": {".write": true, "b": {".write": false}}});
    let case = Case::new(&rules, &json!({}), Value::Null);
    check_write(&case, &set("a/b", &json!(1)), "");
    check_write(&case, &merge("", &json!({"a/b": 1, "a/c": 2})), "");
    check_write(&case, &merge("", &json!({"a/b": 1, "c": 2})), "write /c: / .write is not there, nor above");
}

#[test]
fn rules_below_a_write_do_not_grant_it() {
    let case = Case::new(&json!({"a": {"b": {".write": true}}}), &json!({}), Value::Null);
    check_write(&case, &set("a", &json!({"b": 1})), "write /a: /a .write is not there, nor above");
    check_write(&case, &merge("a", &json!({"b": 1})), "");
}

#[test]
fn captures_know_their_keys_in_every_branch() {
    let rules = json!({"$a": {"$b": {
        ".write": "$a + $b == newData.val() || newData.hasChildren()",
        "$c": {".validate": "newData.val() == $a + $b + $c && data.parent().parent().parent().child($a).exists() == false"},
    }}});
    let case = Case::new(&rules, &json!({}), Value::Null);
    check_write(&case, &set("x/y", &json!("xy")), "");
    check_write(&case, &merge("", &json!({"x/y": "xy", "10/ü": "10ü"})), "");
    check_write(&case, &set("x/y", &json!({"z": "xyz", "10": "xy10"})), "");
    assert!(case.write(&set("x/y", &json!({"z": "xyz", "w": "xyz"}))).contains("/$a/$b/$c .validate"));
    assert!(case.write(&merge("", &json!({"x/y": "xy", "x/z": "xy"}))).contains("/$a/$b .write"));
}

#[test]
fn a_failing_rule_is_not_rescued() {
    let rules = json!({".read": "auth.uid.length > 0 || true", "a": {".read": "true || auth.uid.length > 0"}});
    let case = Case::new(&rules, &json!({}), Value::Null);
    check_read(&case, "", "read /: / .read fails: this is no string: auth.uid.length");
    check_read(&case, "a", "");
}

#[test]
fn removals_leave_what_they_leave() {
    let rules = json!({".write": true, "a": {".validate": "newData.hasChild('keep')"}});
    let data = json!({"a": {"b": 1, "c": {"d": {".value": 1, ".priority": 2}}}});
    let case = Case::new(&rules, &data, Value::Null);
    // All that was there goes, so that there is nothing to judge.
    check_write(&case, &merge("a", &json!({"b": null, "c/d": null})), "");
    check_write(&case, &merge("a", &json!({"b": null, "c": null})), "");
    assert!(case.write(&merge("a", &json!({"b": null}))).contains(".validate"));
    assert!(case.write(&merge("a", &json!({"b": null, "c/e": null}))).contains(".validate"));
    check_write(&case, &set("a/keep/below", &json!(1)), "");
    // Below a leaf there is nothing to remove.
    assert!(case.write(&set("a/b/x", &json!(null))).contains(".validate"));
}

#[test]
fn values_that_are_there_are_audited() {
    let rules = json!({
        ".validate": "newData.hasChildren()",
        "named": {".validate": "newData.isString()"},
        "items": {"$id": {".validate": "newData.hasChild('n')", "n": {".validate": "newData.val() < 3"}}},
    });
    let data = json!({"named": 1, "items": {"a": {"n": 1}, "b": {"n": 3}, "c": 5, "10": {"n": 2}}, "other": 1});
    let audit = |data: &Value| {
        let case = Case::new(&rules, data, Value::Null);
        let mut found = Vec::new();
        let Ok(()) = case.rules.audit(&case.data, super::NOW, |one| found.push(format!("{} {}", one.path, one.why)));
        found
    };
    assert_eq!(
        audit(&data),
        [
            "/items/b/n is not true: newData.val() < 3",
            "/items/c is not true: newData.hasChild('n')",
            "/named is not true: newData.isString()",
        ]
    );
    assert_eq!(audit(&json!(null)), [""; 0]);
    assert_eq!(audit(&json!(5)), ["/ is not true: newData.hasChildren()"]);
}

#[test]
fn what_is_evaluated_is_counted() {
    let rules = json!({"a": {".read": "auth != null && root.child(auth.uid).exists()"}});
    let case = Case::new(&rules, &json!({}), json!({"uid": "ann"}));
    assert_ne!(case.read("a", None), "");
    let coverage = case.rules.coverage();
    let rule = &coverage["rules"][0];
    assert_eq!((&rule["path"], &rule["rule"], &rule["line"]), (&json!("/a"), &json!(".read"), &json!(1)));
    assert_eq!(rule["counts"]["true"], 0);
    assert!(rule["counts"]["false"].as_u64().unwrap() >= 1);
    let parts: Vec<&str> =
        rule["parts"].as_array().unwrap().iter().map(|part| part["expression"].as_str().unwrap()).collect();
    assert_eq!(
        parts,
        [
            "auth != null",
            "auth",
            "null",
            "root.child(auth.uid).exists()",
            "root.child(auth.uid)",
            "root",
            "auth.uid",
            "auth"
        ]
    );
}
