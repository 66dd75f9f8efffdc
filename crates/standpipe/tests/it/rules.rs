//! Security rules from outside: put and judged over REST, told why, counted, and looked at offline by
//! `standpipe rules`. What the language means is tested in its crate.

use serde_json::Value;
use standpipe_testkit::http::{Response, request};
use standpipe_testkit::{Launch, Server};

use crate::cli::Cli;
use crate::support::quiet;

const OWNER: (&str, &str) = ("authorization", "Bearer owner");

const RULES: &str = r#"{
  // a comment
  "rules": {
    "users": {"$u": {
      ".read": "auth != null",
      ".write": "$u === auth.uid",
      "name": {".validate": "newData.isString() && newData.val() != 'ü\u0007'"}
    }},
    "<b>": {".read": "false && '<script>' == \"&\""},
  }
}"#;

fn put_rules(server: &Server, text: &str) -> Response {
    request(server.addr(), "PUT", "/.settings/rules.json", &[OWNER], text.as_bytes()).unwrap()
}

/// A request by an administrator who acts as a user.
fn as_user(server: &Server, admin: (&str, &str), uid: &str, method: &str, path: &str, body: &str) -> Response {
    let target = format!("{path}.json?auth_variable_override=%7B%22uid%22:%22{uid}%22%7D");
    request(server.addr(), method, &target, &[admin], body.as_bytes()).unwrap()
}

#[test]
fn a_refusal_says_which_rule_refused_to_whoever_develops() {
    let server = Launch::dev().start().unwrap();
    assert_eq!(put_rules(&server, RULES).status, 200);
    let long = "k".repeat(700);
    for (uid, method, path, body, status, denied) in [
        ("ann", "PUT", "/users/ann/name", "\"Ann\"", 200, None),
        ("ann", "GET", "/users/bob", "", 200, None),
        (
            "bob",
            "PUT",
            "/users/ann/name",
            "\"Eve\"",
            401,
            Some("write /users/ann/name: /users/$u .write is not true: $u === auth.uid"),
        ),
        (
            "ann",
            "PUT",
            "/users/ann/name",
            "5",
            401,
            Some("write /users/ann/name: /users/$u/name .validate is not true: newData.isString()"),
        ),
        (
            "ann",
            "PUT",
            "/users/ann/name",
            r#""ü\u0007""#,
            401,
            Some(r"write /users/ann/name: /users/$u/name .validate is not true: newData.val() != '\u{fc}\u{7}'"),
        ),
        ("ann", "GET", "/", "", 401, Some("read /: / .read is not there, nor above")),
        ("ann", "GET", &format!("/users/{long}/x/{long}"), "", 200, None),
        ("ann", "GET", &format!("/{long}"), "", 401, Some("...")),
    ] {
        let got = as_user(&server, OWNER, uid, method, path, body);
        assert_eq!(got.status, status, "{method} {path}: {}", got.text());
        match (got.header("x-standpipe-denied"), denied) {
            (None, None) => {}
            (Some(told), Some(expected)) => {
                assert!(told == expected || expected == "..." && told.ends_with("..."), "{told}");
                assert!(told.len() <= 500 && told.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{told}");
                assert_eq!(got.text(), r#"{"error":"Permission denied"}"#);
            }
            other => panic!("{method} {path}: {other:?}"),
        }
    }
    let log = server.stderr();
    assert_eq!(log.matches("denied: write /users/ann/name: /users/$u .write").count(), 1, "{log}");
    quiet(server, &[]);
}

#[test]
fn a_refusal_says_nothing_to_others() {
    let server = Launch::serve().start().unwrap();
    let token = std::fs::read_to_string(server.data().join("admin.token")).unwrap();
    let bearer = format!("Bearer {}", token.trim());
    let admin = ("authorization", bearer.as_str());
    let put = request(server.addr(), "PUT", "/.settings/rules.json", &[admin], RULES.as_bytes()).unwrap();
    assert_eq!(put.status, 200, "{}", put.text());
    let nobody = request(server.addr(), "GET", "/users/ann.json", &[], b"").unwrap();
    assert_eq!((nobody.status, nobody.header("x-standpipe-denied")), (401, None));
    // But to an administrator who acts as a user.
    let acting = as_user(&server, admin, "bob", "PUT", "/users/ann/name", "1");
    assert_eq!(acting.status, 401);
    assert!(acting.header("x-standpipe-denied").is_some_and(|told| told.contains("/users/$u .write")));
    for path in ["/.inspect/coverage.json", "/.inspect/coverage"] {
        assert_eq!(request(server.addr(), "GET", path, &[], b"").unwrap().status, 401, "{path}");
        assert_eq!(request(server.addr(), "GET", path, &[admin], b"").unwrap().status, 200, "{path}");
    }
    quiet(server, &[]);
}

#[test]
fn rules_are_counted_for_whoever_tests_them() {
    let server = Launch::dev().start().unwrap();
    let coverage = || request(server.addr(), "GET", "/.inspect/coverage.json", &[], b"").unwrap().json().unwrap();
    assert_eq!(coverage(), serde_json::json!({"rules": []}));
    assert_eq!(put_rules(&server, RULES).status, 200);
    as_user(&server, OWNER, "ann", "GET", "/users/ann", "");
    request(server.addr(), "GET", "/users/ann.json", &[], b"").unwrap();
    let counted = coverage();
    let rules = counted["rules"].as_array().unwrap();
    assert_eq!(rules.len(), 4);
    assert_eq!(
        (&rules[0]["path"], &rules[0]["rule"], &rules[0]["line"]),
        (&"/users/$u".into(), &".read".into(), &5.into())
    );
    // A rule that is not true is evaluated once more to say why.
    let counts: Vec<u64> = ["true", "false"].iter().map(|name| rules[0]["counts"][*name].as_u64().unwrap()).collect();
    assert_eq!((counts[0], counts[1] >= 1), (1, true), "{counted}");
    let page = request(server.addr(), "GET", "/.inspect/coverage?ns=default", &[], b"").unwrap();
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").is_some());
    let text = page.text();
    assert!(text.contains("/users/$u .read") && text.contains("&lt;script&gt;") && text.contains("/&lt;b&gt; .read"));
    assert!(!text.contains("<script>") && !text.contains("<b>\""), "{text}");
    assert_eq!(request(server.addr(), "PUT", "/.inspect/coverage", &[], b"").unwrap().status, 405);
    quiet(server, &[]);
}

#[test]
fn rules_are_given_back_as_they_were_put_or_strict() {
    let server = Launch::dev().start().unwrap();
    assert_eq!(put_rules(&server, RULES).status, 200);
    let get = |query: &str| {
        request(server.addr(), "GET", &format!("/.settings/rules.json{query}"), &[OWNER], b"").unwrap().text()
    };
    assert_eq!(get(""), RULES);
    let strict: Value = serde_json::from_str(&get("?format=strict")).unwrap();
    assert_eq!(strict["rules"]["users"]["$u"][".write"], "$u === auth.uid");
    let refused = put_rules(&server, "{\n\"rules\": {\".read\": \"auth.uid && true\"}}");
    assert_eq!((refused.status, refused.text()), (400, r#"{"error":"2:21: && takes booleans"}"#.to_owned()));
    assert_eq!(get(""), RULES);
    quiet(server, &[]);
}

#[test]
fn rules_are_checked_offline() {
    let cli = Cli::at("http://127.0.0.1:1".to_owned());
    let file = |name: &str, text: &str| std::fs::write(cli.dir().join(name), text).unwrap();
    file("good.json", RULES);
    assert_eq!(cli.ok(&["rules", "check", "good.json"]), "good.json: 4 rules, 0 indexes\n");
    file("bad.json", "{\"rules\": {\n  \".read\": \"auth.uid && true\",\n  \".write\": \"data == null\"\n}}");
    let output = cli.output(&["rules", "check", "bad.json"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(1), true), "{told}");
    for part in [
        "error: && takes booleans",
        "--> bad.json:2:13",
        "2 |   \".read\": \"auth.uid && true\",",
        "^^^^^^^^",
        "the left operand of == must be",
        "--> bad.json:3:14",
        "help: compare the value",
        "error: bad.json:2:13: && takes booleans (and 1 more)",
    ] {
        assert!(told.contains(part), "{part:?} is not in:\n{told}");
    }
    assert!(!told.contains('\u{1b}'), "no colour for what is no terminal");
    assert!(cli.fails(1, &["rules", "check", "none.json"]).contains("none.json"));

    file("data.json", r#"{"users": {"ann": {"name": "Ann"}, "bob": {"name": 5}, "cat": {"name": false}}}"#);
    cli.ok(&["import", "data.json", "--data", "folder"]);
    let told = cli.ok(&["rules", "check", "good.json", "--data", "folder"]);
    assert!(told.contains("/users/bob/name .validate is not true: newData.isString()\n"), "{told}");
    assert!(told.ends_with("folder: 2 values that .validate refuses, judged as nobody signed in\n"), "{told}");
    assert!(cli.fails(1, &["rules", "check", "good.json", "--data", "nowhere"]).contains("nowhere: No such file"));
    let told = cli.fails(1, &["rules", "check", "good.json", "--data", "folder", "--db", "other"]);
    assert!(told.contains("folder holds no database other"), "{told}");
}

#[test]
fn rules_are_tested_offline_as_the_reference_shows() {
    let cli = Cli::at("http://127.0.0.1:1".to_owned());
    let page = include_str!("../../../../docs/rules.md");
    let block = |language: &str| {
        let rest = page.split_once(&format!("```{language}\n")).unwrap().1;
        rest.split_once("```").unwrap().0
    };
    std::fs::write(cli.dir().join("database.rules.json"), block("json")).unwrap();
    std::fs::write(cli.dir().join("requests.toml"), block("toml")).unwrap();
    let told = cli.ok(&["rules", "test", "database.rules.json", "requests.toml"]);
    assert!(told.starts_with("ok    1 everybody signed in reads users\n"), "{told}");
    assert!(told.ends_with("4 cases, 0 failed\n"), "{told}");

    let table = r#"{"cases": [
        {"method": "read", "path": "/users/ann", "expect": "allow"},
        {"method": "set", "path": "/users/ann", "auth": {"uid": "ann"}, "value": {"name": {".sv": "timestamp"}}, "expect": "allow"},
        {"method": "remove", "path": "/users/ann", "auth": {"uid": "ann"}, "data": {"users": {"ann": {"name": "A"}}}, "expect": "deny"},
        {"method": "read", "path": "/", "expect": "deny", "because": "/users"}
    ]}"#;
    std::fs::write(cli.dir().join("requests.json"), table).unwrap();
    let output = cli.output(&["rules", "test", "database.rules.json", "requests.json"]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stdout).unwrap();
    for part in [
        "FAIL  1 Read /users/ann as nobody\n      expected allow, but denied: read /users/ann: /users/$user .read is not true: auth != null",
        "FAIL  2 Set /users/ann as ann\n      expected allow, but denied: write /users/ann: /users/$user/name .validate is not true: newData.isString()",
        "FAIL  3 Remove /users/ann as ann\n      expected deny, but it is allowed",
        "FAIL  4 Read / as nobody\n      expected \"/users\", but denied: read /: / .read is not there, nor above",
        "4 cases, 4 failed",
    ] {
        assert!(told.contains(part), "{part:?} is not in:\n{told}");
    }
    std::fs::write(cli.dir().join("wrong.toml"), "[[case]]\nmethod = \"read\"\npath = \"/a.b\"\nexpect = \"deny\"\n")
        .unwrap();
    assert!(cli.fails(2, &["rules", "test", "database.rules.json", "wrong.toml"]).contains("case 1: bad path"));
    std::fs::write(cli.dir().join("wrong.toml"), "[[case]]\nmethod = \"peek\"\n").unwrap();
    assert!(cli.fails(2, &["rules", "test", "database.rules.json", "wrong.toml"]).contains("peek"));
}
