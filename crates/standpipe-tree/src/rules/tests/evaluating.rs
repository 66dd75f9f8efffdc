//! What expressions evaluate to.

use serde_json::{Value, json};

use super::{Case, set};
use crate::query::{Query, parse_rest};

/// What becomes of an expression: true, false, or a failure with a part of its reason.
#[derive(Debug, PartialEq)]
enum Is {
    True,
    False,
    Fails(&'static str),
}
use Is::{Fails, False, True};

fn auth() -> Value {
    json!({
        "uid": "ann", "provider": "own", "n": 2, "half": 0.5, "yes": true, "nothing": null, "empty": "",
        "token": {"email": "Ann@Example.com", "roles": ["a", "b"], "firebase": {"sign_in_provider": "password"}},
    })
}

fn data() -> Value {
    json!({
        "text": "straße 😀", "num": 7, "neg": -2.5, "big": 1e21, "yes": true, "no": false, "empty": "",
        "users": {"ann": {"role": "admin", "age": 40}, "bob": {"role": "guest"}},
        "ranked": {".value": 1, ".priority": 5}, "named": {".priority": "x", "a": 1},
        "list": ["zero", "one"],
    })
}

fn check_with(auth: Value, expression: &str, query: Option<&Query>, expected: &Is) {
    let case = Case::new(&json!({"at": {"$key": {".read": expression}}}), &data(), auth);
    let told = case.read("at/här", query);
    match expected {
        True => assert_eq!(told, "", "{expression}"),
        False => assert!(told.contains("is not true"), "{expression}: {told:?}"),
        Fails(reason) => {
            assert!(told.contains("fails: ") && told.contains(reason), "{expression}: {told:?}");
        }
    }
}

fn check(expression: &str, expected: Is) {
    check_with(auth(), expression, None, &expected);
}

#[test]
fn values_and_comparing() {
    for (expression, expected) in [
        ("true", True),
        ("false", False),
        ("1 < 2 && 2 <= 2 && 3 > 2 && 2 >= 2", True),
        ("'a' < 'b' && 'B' < 'a' && '' < 'a' && '10' < '9'", True),
        // By UTF-16 unit: a surrogate comes before U+E000.
        ("'\u{1F600}' < '\u{E000}'", True),
        ("5 == '5'", False),
        ("5 != '5'", True),
        ("null == null && null !== false && null != 0 && null != ''", True),
        ("true == true && false !== true && true != 1", True),
        ("1 === 1.0 && -0 == 0 && .5 == 5e-1", True),
        ("auth == null", False),
        ("auth != null", True),
        ("auth.token == null", False),
        ("auth == auth", Fails("can't be compared")),
        ("auth.missing == null && auth.missing.more.still == null && auth.uid.x == null", True),
        ("now == 1700000000000", True),
        ("$key == 'här' && $key.length == 3", True),
        ("auth.n > auth.half", True),
        ("auth.missing > 1", Fails("neither two numbers")),
        ("auth.uid > 1", Fails("neither two numbers")),
        ("auth.yes > auth.yes", Fails("neither two numbers")),
        ("now > 'a'", Fails("neither two numbers")),
    ] {
        check(expression, expected);
    }
}

#[test]
fn arithmetic() {
    for (expression, expected) in [
        ("1 + 2 * 3 - 4 / 2 == 5", True),
        ("(1 + 2) * 3 == 9", True),
        ("7 % 4 == 3 && -7 % 4 == -3 && 7 % -4 == 3 && 7.5 % 2 == 1.5", True),
        ("10 - 2 - 3 == 5 && 16 / 4 / 2 == 2", True),
        ("-auth.n == -2 && - -1 == 1", True),
        ("1 / 0 == 1 / 0", False),
        ("1 / 0 != 0 && !(1 / 0 > 0) && !(1 / 0 < 0)", True),
        ("'' + 1 / 0 == 'NaN' && '' + 0 % 0 == 'NaN'", True),
        ("'a' + 'b' == 'ab' && 'a' + 1 == 'a1' && 1 + 'a' == '1a' && 1 + 1 + 'a' == '2a'", True),
        ("'' + 0.1 == '0.1' && '' + 1e21 == '1e+21' && '' + 1e20 == '100000000000000000000'", True),
        ("'' + 0.000001 == '0.000001' && '' + 0.0000001 == '1e-7' && '' + -0 == '0'", True),
        ("auth.uid + auth.n == 'ann2'", True),
        ("auth.missing + 1 == 1", Fails("neither a number nor a string")),
        ("'a' + auth.yes == 'a'", Fails("neither a number nor a string")),
        ("auth.uid - 1 == 0", Fails("no number")),
        ("auth.n * auth.missing == 0", Fails("no number")),
        ("-auth.uid == 1", Fails("no number")),
    ] {
        check(expression, expected);
    }
}

#[test]
fn logic() {
    for (expression, expected) in [
        ("true || auth.missing > 1", True),
        ("auth.missing > 1 || true", Fails("neither two numbers")),
        ("false && auth.missing > 1", False),
        ("true && auth.missing > 1", Fails("neither two numbers")),
        ("!(auth.missing > 1)", Fails("neither two numbers")),
        ("false || false || true", True),
        ("true && true && false", False),
        ("true || false && false", True),
        ("(true || false) && false", False),
        ("!false && !!true", True),
        ("true ? true : auth.missing > 1", True),
        ("(false ? 1 : 2) == 2", True),
        ("false ? false : true ? true : false", True),
        ("1 < 2 == true", True),
        ("(auth != null ? data : root).exists() == false", True),
        ("(auth == null ? data : root).child('num').val() == 7", True),
    ] {
        check(expression, expected);
    }
}

#[test]
fn snapshots() {
    for (expression, expected) in [
        ("data.exists()", False),
        ("root.exists() && root.hasChildren()", True),
        ("data.val() == null && data.getPriority() == null && !data.hasChildren()", True),
        ("root.child('num').val() == 7 && root.child('/num/').val() == 7", True),
        ("root.child('users').child(auth.uid).child('role').val() == 'admin'", True),
        ("root.child('users/' + auth.uid + '/role').val() == 'admin'", True),
        ("root.child('users//' + auth.uid + '/').hasChild('age')", True),
        ("root.child('users').val() != null", True),
        ("root.child('users').val() == 'x'", False),
        ("root.child('users').val() == root.child('list').val()", Fails("can't be compared")),
        ("root.child('users').val() > 1", Fails("neither two numbers")),
        ("root.hasChild('users/ann/age') && !root.hasChild('users/cat')", True),
        ("root.child('users').hasChildren(['ann', 'bob/role'])", True),
        ("root.child('users').hasChildren(['ann', 'cat'])", False),
        ("root.child('users').hasChildren([auth.uid])", True),
        ("root.child('users').hasChildren([auth.missing])", Fails("no string")),
        ("root.child('num').hasChildren()", False),
        ("root.child('num').isNumber() && root.child('neg').isNumber() && root.child('big').isNumber()", True),
        ("root.child('text').isString() && root.child('empty').isString() && root.child('no').isBoolean()", True),
        ("root.isNumber() || root.isString() || root.isBoolean()", False),
        ("root.child('missing').isString()", False),
        ("root.child('ranked').getPriority() == 5 && root.child('named').getPriority() == 'x'", True),
        ("root.child('num').getPriority() == null && root.child('ranked/x').getPriority() == null", True),
        ("root.child('list/1').val() == 'one'", True),
        ("root.child('num/below').exists()", False),
        ("data.parent().parent().child('num').val() == 7", True),
        ("data.parent().parent().parent().exists()", Fails("the root has no parent")),
        ("root.parent().exists()", Fails("the root has no parent")),
        ("root.child('users/ann').parent().hasChild('bob')", True),
    ] {
        check(expression, expected);
    }
}

#[test]
fn paths_that_no_location_can_have() {
    let long = "k/".repeat(40);
    for (expression, expected) in [
        ("root.child('banned/ann@example.com').exists()", False),
        ("root.child('banned/' + auth.token.email).exists()", False),
        ("root.child('a.b').parent().exists()", False),
        ("root.child('.').exists() || root.child('..').exists() || root.child('$x').exists()", False),
        ("root.child(auth.uid + '\\0').exists()", False),
        (&format!("root.child('{long}').exists()"), False),
        (&format!("root.child('{long}' + auth.uid).exists()"), False),
        ("root.child('').exists() && root.child('/').exists()", True),
        ("root.child(auth.empty).exists()", Fails("this path is empty")),
        ("root.child(auth.missing).exists()", Fails("no string")),
        ("root.child(auth.n).exists()", Fails("no string")),
        ("root.hasChild(auth.missing) == false", Fails("no string")),
    ] {
        check(expression, expected);
    }
    let deep = "child('kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk').".repeat(60);
    check(&format!("root.{deep}exists()"), False);
}

#[test]
fn texts() {
    for (expression, expected) in [
        ("'abc'.contains('b') && 'abc'.contains('') && !'abc'.contains('x')", True),
        ("'abc'.beginsWith('ab') && !'abc'.beginsWith('b') && 'abc'.endsWith('bc') && !'abc'.endsWith('b')", True),
        ("'a-b-c'.replace('-', '+') == 'a+b+c' && 'a.b'.replace('.', '') == 'ab'", True),
        ("auth.token.email.toLowerCase() == 'ann@example.com' && 'ä'.toUpperCase() == 'Ä'", True),
        ("root.child('text').val().length == 9 && ''.length == 0", True),
        ("root.child('text').val().toUpperCase() == 'STRASSE \u{1F600}'", True),
        ("auth.token.email.matches(/^[a-z]+@[a-z.]+$/)", False),
        ("auth.token.email.matches(/^[a-z]+@[a-z.]+$/i)", True),
        ("auth['token']['email'].beginsWith('Ann') && auth.token['firebase'].sign_in_provider == 'password'", True),
        ("auth.token.roles[0] == 'a' && auth.token.roles[1] == 'b' && auth.token.roles[2] == null", True),
        ("auth[$key] == null && auth['u' + 'id'] == 'ann'", True),
        ("auth.token.roles[-1] == null && auth.token.roles[0.5] == null && auth.uid[0] == null", True),
        ("auth.token.roles[auth.yes] == null", Fails("asked for by a string")),
        ("'abc'['contains']('b')", True),
        ("auth.missing.length > 0", Fails("no string")),
        ("auth.n.length > 0", Fails("no string")),
        ("auth.contains('x')", Fails("no string")),
        ("auth.missing.contains('x')", Fails("no string")),
        ("'1'.contains(auth.n)", Fails("no string")),
        ("'x'.replace(auth.missing, '') == 'x'", Fails("no string")),
        ("root.child('users').val().contains('x')", Fails("no string")),
        ("root.child('num').val().matches(/7/)", Fails("no string")),
    ] {
        check(expression, expected);
    }
}

#[test]
fn without_a_user() {
    for (expression, expected) in [
        ("auth == null", True),
        ("auth.uid == null && auth.token.email == null && auth['x'] == null", True),
        ("auth.uid == 'ann'", False),
        ("root.child('users').child(auth.uid).exists()", Fails("no string")),
        ("auth != null && root.child('users').child(auth.uid).exists()", False),
    ] {
        check_with(Value::Null, expression, None, &expected);
    }
}

#[test]
fn queries() {
    let query = |params: &[(&str, &str)]| parse_rest(params).unwrap();
    for (params, expression, expected) in [
        (&[][..], "query.orderByKey == true && query.orderByValue == false && query.orderByPriority == false", True),
        (&[], "query.orderByChild == null && query.startAt == null && query.endAt == null", True),
        (&[], "query.equalTo == null && query.limitToFirst == null && query.limitToLast == null", True),
        (&[], "query.limitToFirst <= 10", Fails("neither two numbers")),
        (&[("orderBy", "\"a/b\"")], "query.orderByChild == 'a/b' && query.orderByKey == false", True),
        (&[("orderBy", "\"$value\"")], "query.orderByValue && !query.orderByKey", True),
        (&[("orderBy", "\"$priority\"")], "query.orderByPriority && !query.orderByKey", True),
        (&[("orderBy", "\"$key\""), ("limitToFirst", "9")], "query.orderByKey && query.limitToFirst <= 10", True),
        (&[("orderBy", "\"x\""), ("limitToLast", "9")], "query.limitToLast == 9 && query.limitToFirst == null", True),
        (
            &[("orderBy", "\"owner\""), ("equalTo", "\"ann\"")],
            "query.orderByChild == 'owner' && query.equalTo == auth.uid",
            True,
        ),
        (&[("orderBy", "\"owner\""), ("equalTo", "\"bob\"")], "query.equalTo == auth.uid", False),
        (
            &[("orderBy", "\"x\""), ("startAt", "3"), ("endAt", "true")],
            "query.startAt == 3 && query.endAt == true && query.equalTo == null",
            True,
        ),
    ] {
        check_with(auth(), expression, query(params).as_ref(), &expected);
    }
}

#[test]
fn long_texts_and_costly_rules_fail() {
    let doubling = ".replace('a', 'aaaaaaaaaa')".repeat(10);
    check(&format!("'a'{doubling}.length > 0"), Fails("too long"));
    // Every look at a text of a megabyte costs, so that many of them are refused.
    let text = format!("root.child('long').val(){}", ".toLowerCase()".repeat(50));
    let rules = format!("{}true", format!("{text} != 'x' && ").repeat(20));
    let case = Case::new(&json!({".read": rules}), &json!({"long": "x".repeat(1 << 20)}), Value::Null);
    assert!(case.read("", None).contains("costs too much"));
}

#[test]
fn new_data_is_what_the_write_leaves() {
    let rules = |rule: &str| json!({".write": true, "a": {".validate": rule}});
    let data = json!({"a": {"b": 1, "c": {"d": 2}}, "x": 3});
    for (rule, at, value, allowed) in [
        ("newData.child('b').val() == 5 && newData.child('c/d').val() == 2", "a/b", json!(5), true),
        ("data.child('b').val() == 1 && root.child('a/b').val() == 1", "a/b", json!(5), true),
        ("!newData.hasChild('b') && newData.hasChild('c')", "a/b", json!(null), true),
        ("newData.parent().child('x').val() == 3", "a/b", json!(5), true),
        ("newData.isNumber() && newData.val() == 5", "a", json!(5), true),
        ("newData.child('b/e').val() == 5 && newData.child('b').hasChildren()", "a/b/e", json!(5), true),
        ("!newData.hasChild('c')", "a/c/d", json!(null), true),
        ("newData.getPriority() == 9", "a/.priority", json!(9), true),
        ("newData.getPriority() == 9", "a/b", json!(9), false),
        ("newData.child('b').getPriority() == 'p'", "a/b", json!({".value": 1, ".priority": "p"}), true),
    ] {
        let case = Case::new(&rules(rule), &data, Value::Null);
        let told = case.write(&set(at, &value));
        assert_eq!(told.is_empty(), allowed, "{rule}: {told}");
    }
}
