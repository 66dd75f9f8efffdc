//! Rules through every door: who may read one place and not another gets exactly that, whatever verb or command
//! asks, and is never told what is in the other place, nor whether anything is.

use serde_json::{Value, json};
use standpipe_testkit::http::{Stream, request};
use standpipe_testkit::{LIMIT, Launch, Lines, Server};
use standpipe_wire::resp::value::Value as Reply;

use crate::doors::{Answer, Auth, Delete, Get, Resp, Set, Step, doors, resp, start};
use crate::support::quiet;

const ANN: &str = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbm4ifQ.";
const BEARER_ANN: (&str, &str) = ("authorization", "Bearer eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbm4ifQ.");
const OWNER: (&str, &str) = ("authorization", "Bearer owner");

const RULES: &str = r#"{"rules": {
    "a": {".read": "auth.uid == 'ann'", ".write": "auth.uid == 'ann'", ".indexOn": "n"},
    "w": {".write": "auth.uid == 'ann'"},
    "open": {".read": true},
    "nothing": {".read": true}
}}"#;

/// A `dev` with these rules, and something to be kept from Ann.
fn ruled() -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.json");
    std::fs::write(&file, RULES).unwrap();
    let server = start(Launch::dev().args(["--rules".as_ref(), file.as_os_str()]));
    let data = br#"{"a":{"x":{"n":1}},"b":{"x":{"n":1},"leaf":5},"w":{"x":7},"open":1}"#;
    let put = request(server.addr(), "PUT", "/.json", &[OWNER], data).unwrap();
    assert_eq!(put.status, 200, "{}", put.text());
    (server, dir)
}

fn put_rules(server: &Server, text: &str) {
    let put = request(server.addr(), "PUT", "/.settings/rules.json", &[OWNER], text.as_bytes()).unwrap();
    assert_eq!(put.status, 200, "{}", put.text());
}

#[test]
fn one_place_and_not_another_through_every_door() {
    let script: &[(Step<'_>, Answer)] = &[
        (Get("/open"), Ok(json!(1))),
        (Get("/a"), Err("denied")),
        (Get("/b"), Err("denied")),
        (Set("/a/y", "1"), Err("denied")),
        (Auth(ANN), Ok(Value::Null)),
        (Get("/a"), Ok(json!({"x": {"n": 1}}))),
        (Get("/a/x/n"), Ok(json!(1))),
        (Get("/a/none"), Ok(Value::Null)),
        (Get("/"), Err("denied")),
        (Get("/b"), Err("denied")),
        (Get("/b/none"), Err("denied")),
        (Set("/a/y", "2"), Ok(Value::Null)),
        (Get("/a/y"), Ok(json!(2))),
        (Set("/b/y", "2"), Err("denied")),
        (Set("/open", "2"), Err("denied")),
        (Delete("/b/x"), Err("denied")),
        (Delete("/a/y"), Ok(Value::Null)),
        (Auth("owner"), Ok(Value::Null)),
        (Get("/b/leaf"), Ok(json!(5))),
        (Set("/b/y", "2"), Ok(Value::Null)),
    ];
    for n in 0..3 {
        let (server, _dir) = ruled();
        let door = &mut doors(&server)[n];
        for (step, expected) in script {
            assert_eq!(door.step(*step), *expected, "{} {step:?}", door.name());
        }
        quiet(server, &[]);
    }
}

#[test]
fn rest_tells_nothing_of_what_may_not_be_read() {
    let (server, _dir) = ruled();
    let ask = |method: &str, target: &str, more: &[(&str, &str)], body: &str| {
        let headers: Vec<_> = [BEARER_ANN].iter().chain(more).copied().collect();
        let got = request(server.addr(), method, target, &headers, body.as_bytes()).unwrap();
        (got.status, got.text())
    };
    let etag = [("x-firebase-etag", "true")];
    for place in ["b", "b/none", "b/leaf", "w", "w/x"] {
        for target in [
            format!("/{place}.json"),
            format!("/{place}/.priority.json"),
            format!("/{place}.json?shallow=true"),
            format!("/{place}.json?format=export"),
            format!(r#"/{place}.json?orderBy="n"&limitToFirst=1"#),
            format!(r#"/{place}.json?orderBy="$key""#),
        ] {
            assert_eq!(ask("GET", &target, &etag, "").0, 401, "{target}");
            assert_eq!(ask("GET", &target, &[("accept", "text/event-stream")], "").0, 401, "{target}");
        }
    }
    let wrong = [("if-match", "wrong")];
    assert_eq!(ask("PUT", "/a/x/n.json", &wrong, "1").0, 412);
    // Who may write and not read: the same answer whatever is there, and no answer tells what was.
    for place in ["/w/x.json", "/w/none.json", "/b/leaf.json", "/b/none.json"] {
        assert_eq!(ask("PUT", place, &wrong, "1"), (401, r#"{"error":"Permission denied"}"#.into()), "{place}");
        assert_eq!(ask("DELETE", place, &wrong, "").0, 401, "{place}");
    }
    assert_eq!(ask("PUT", "/w/x.json", &[], r#"{".sv":{"increment":0}}"#), (200, "null".into()));
    assert_eq!(ask("PUT", "/a/c.json", &[], r#"{".sv":{"increment":3}}"#), (200, "3".into()));
    assert_eq!(ask("PUT", "/w/x.json", &[], "8"), (200, "8".into()));
    // A query whose index the rules do not declare; one whose index they do.
    let refused = r#"{"error":"Index not defined, add \".indexOn\": \"m\", for path \"/a\", to the rules"}"#;
    assert_eq!(ask("GET", r#"/a.json?orderBy="m""#, &[], ""), (400, refused.into()));
    assert_eq!(ask("GET", r#"/a.json?orderBy="n"&equalTo=1"#, &[], ""), (200, r#"{"x":{"n":1}}"#.into()));
    quiet(server, &[]);
}

fn is_denied(reply: &Reply) -> bool {
    matches!(reply, Reply::Error(text) if text.starts_with("NOPERM") || text.starts_with("NOAUTH"))
}

#[test]
fn every_command_of_redis_asks_the_rules() {
    let (server, _dir) = ruled();
    let mut redis = Resp(resp(&server));
    assert_eq!(redis.call(&["AUTH", ANN]), Reply::Simple("OK".into()));
    let commands: &[&[&str]] = &[
        &["GET", "{}"],
        &["MGET", "{}"],
        &["STRLEN", "{}"],
        &["EXISTS", "{}"],
        &["TYPE", "{}"],
        &["GETDEL", "{}"],
        &["SET", "{}", "1"],
        &["SET", "{}", "1", "NX"],
        &["SET", "{}", "1", "XX"],
        &["SET", "{}", "1", "GET"],
        &["SETNX", "{}", "1"],
        &["GETSET", "{}", "1"],
        &["MSET", "{}", "1"],
        &["APPEND", "{}", "1"],
        &["INCR", "{}"],
        &["INCRBYFLOAT", "{}", "1"],
        &["DEL", "{}"],
        &["UNLINK", "{}"],
        &["HGET", "{}", "f"],
        &["HMGET", "{}", "f"],
        &["HSET", "{}", "f", "1"],
        &["HSETNX", "{}", "f", "1"],
        &["HDEL", "{}", "f"],
        &["HEXISTS", "{}", "f"],
        &["HSTRLEN", "{}", "f"],
        &["HINCRBY", "{}", "f", "1"],
        &["HLEN", "{}"],
        &["HGETALL", "{}"],
        &["HKEYS", "{}"],
        &["HVALS", "{}"],
        &["HSCAN", "{}", "0"],
        &["JSON.GET", "{}"],
        &["JSON.SET", "{}", "$", "1"],
        &["JSON.DEL", "{}"],
        &["JSON.TYPE", "{}"],
        &["WATCH", "{}"],
        &["STANDPIPE.LEASE", "{}", "1"],
        &["STANDPIPE.ONCLOSE", "{}", "1"],
        &["SUBSCRIBE", "__keyvalue@0__:{}"],
        &["PSUBSCRIBE", "__keyspace@0__:{}/*"],
    ];
    let with =
        |command: &[&str], key: &str| -> Vec<String> { command.iter().map(|word| word.replace("{}", key)).collect() };
    for command in commands {
        // The same answer to what is there and to what is not.
        for key in ["b/leaf", "b/x", "b/none"] {
            let words = with(command, key);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let got = redis.call(&words);
            assert!(is_denied(&got), "{words:?}: {got:?}");
        }
        let words = with(command, "a/new");
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut other = Resp(resp(&server));
        other.call(&["AUTH", ANN]);
        let got = other.call(&words);
        assert!(!is_denied(&got), "{words:?}: {got:?}");
        other.call(&["DEL", "a/new"]);
    }
    for command in [
        &["KEYS", "*"][..],
        &["SCAN", "0"],
        &["DBSIZE"],
        &["PUBLISH", "c", "m"],
        &["SUBSCRIBE", "c"],
        &["PUBSUB", "CHANNELS"],
        &["CLIENT", "LIST"],
    ] {
        let got = redis.call(command);
        assert!(is_denied(&got), "{command:?}: {got:?}");
    }
    // In a transaction each command for itself.
    for command in [&["MULTI"][..], &["SET", "a/m", "1"], &["GET", "b/leaf"], &["GET", "a/m"]] {
        redis.call(command);
    }
    let Reply::Array(parts) = redis.call(&["EXEC"]) else { panic!("an array") };
    assert_eq!(parts[0], Reply::Simple("OK".into()));
    assert!(is_denied(&parts[1]), "{parts:?}");
    assert_eq!(parts[2], Reply::Bulk(b"1".to_vec()));
    quiet(server, &[]);
}

#[test]
fn whoever_watches_is_told_when_the_rules_change() {
    let (server, _dir) = ruled();
    let mut stream = Stream::open(server.addr(), "/a.json", &[BEARER_ANN]).unwrap();
    assert_eq!(stream.change().unwrap().0, "put");
    let mut lines = Lines::open(server.door("line").unwrap()).unwrap();
    assert!(lines.ask("WATCH /a").unwrap().starts_with("ERR denied"));
    assert_eq!(lines.ask(&format!("AUTH {ANN}")).unwrap(), "OK");
    assert!(lines.ask("WATCH /b").unwrap().starts_with("ERR denied"));
    assert_eq!(lines.ask("WATCH /a").unwrap().split(' ').next(), Some("WATCHING"));
    assert!(lines.line().unwrap().starts_with("EVENT"));
    assert_eq!(lines.ask("WATCH /open").unwrap().split(' ').next(), Some("WATCHING"));
    assert!(lines.line().unwrap().starts_with("EVENT"));
    // Rules that still allow it end nothing.
    put_rules(&server, &RULES.replace("\"n\"", "\"m\""));
    request(server.addr(), "PUT", "/a/z.json", &[BEARER_ANN], b"1").unwrap();
    assert_eq!(stream.change().unwrap().1["path"], "/z");
    assert!(lines.line().unwrap().ends_with("put /z 1"));
    put_rules(&server, r#"{"rules": {"open": {".read": true}}}"#);
    let event = stream.event(LIMIT).unwrap().unwrap();
    assert_eq!((event.name.as_str(), event.data.as_str()), ("cancel", "\"Permission denied\""));
    assert!(stream.event(LIMIT).unwrap().is_none(), "the stream ends");
    assert_eq!(lines.line().unwrap().split(' ').take(3).collect::<Vec<_>>(), ["END", "3", "denied"]);
    // Somebody else on the connection: what that one may watch stays.
    put_rules(&server, RULES);
    assert_eq!(lines.ask("WATCH /a").unwrap().split(' ').next(), Some("WATCHING"));
    assert!(lines.line().unwrap().starts_with("EVENT"));
    assert_eq!(lines.ask("AUTH eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJib2IifQ.").unwrap(), "OK");
    assert!(lines.line().unwrap().contains("denied"));
    request(server.addr(), "PUT", "/open.json", &[OWNER], b"2").unwrap();
    assert!(lines.line().unwrap().ends_with("put / 2"));
    quiet(server, &[]);
}

#[test]
fn every_database_of_dev_begins_with_the_rules() {
    let (server, _dir) = ruled();
    let get = |target: &str| request(server.addr(), "GET", target, &[], b"").unwrap().status;
    assert_eq!((get("/open.json?ns=another"), get("/a.json?ns=another")), (200, 401));
    // Rules are those of one database.
    let open = br#"{"rules": {".read": true}}"#;
    let put = request(server.addr(), "PUT", "/.settings/rules.json?ns=another", &[OWNER], open).unwrap();
    assert_eq!(put.status, 200);
    assert_eq!((get("/a.json?ns=another"), get("/a.json")), (200, 401));
    let put =
        request(server.addr(), "PUT", "/.settings/rules.json", &[OWNER], b"{\"rules\": {\n\".read\": \"x\"}}").unwrap();
    assert_eq!(put.status, 400);
    assert!(put.json().unwrap()["error"].as_str().unwrap().starts_with("2:"), "{}", put.text());
    assert_eq!(get("/a.json"), 401, "the rules in force stay");
    quiet(server, &[]);
}
