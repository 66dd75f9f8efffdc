//! The REST API as tables: request, exact answer (firebase-rtdb §1, §3, §9, §13). Every table is
//! played over HTTP/1.1, and those that say so over HTTP/2 as well.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use standpipe_testkit::http::{Conn, request};
use standpipe_testkit::{Launch, Server};

use crate::script::{Via, get, play};
use crate::support::{dev, metric_of, quiet, write};

/// Plays the table on a fresh server for each protocol.
fn check(rows: &[(&str, &str)]) {
    for via in [Via::Http1, Via::Http2] {
        let server = dev();
        play(server.addr(), via, rows);
        quiet(server, &[]);
    }
}

const SYNTAX: &str = "400 !Invalid data; couldn't parse JSON object, array, or value.";
const NOT_AN_OBJECT: &str =
    "400 !Invalid data; couldn't parse JSON object. Are you sending a JSON object with valid key names?";

/// They all counted as cancelled once: hyper does not ask again behind the last byte.
#[test]
fn what_is_answered_counts_as_finished() {
    let server = dev();
    let addr = server.addr();
    for (method, target) in
        [("PUT", "/a.json"), ("GET", "/a.json"), ("GET", "/a.json?print=silent"), ("HEAD", "/a.json"), ("GET", "/a")]
    {
        request(addr, method, target, &[], b"1").unwrap();
    }
    let ended = |outcome: &str| metric_of(addr, "standpipe_requests_total", &[&format!("outcome=\"{outcome}\"")]);
    assert_eq!((ended("cancelled"), ended("finished")), (0, 6), "the five, and the first look at the metrics");
    quiet(server, &[]);
}

#[test]
fn verbs() {
    check(&[
        ("GET /a.json", "200 (content-type: application/json; charset=utf-8 & x-standpipe-rev: 0) null"),
        (
            r#"PUT /a.json {"b":{"c":1},"d":[1,2]}"#,
            r#"200 (content-type: application/json; charset=utf-8 & x-standpipe-rev: 1) {"b":{"c":1},"d":[1,2]}"#,
        ),
        ("GET /a/b/c.json", "200 1"),
        ("GET /a/b.json", r#"200 {"c":1}"#),
        (r#"PATCH /a.json {"b/c":2,"x":true}"#, r#"200 (x-standpipe-rev: 2) {"b/c":2,"x":true}"#),
        ("GET /a.json", r#"200 {"b":{"c":2},"d":[1,2],"x":true}"#),
        (r#"PATCH /a.json {"b":null}"#, r#"200 {"b":null}"#),
        ("DELETE /a/x.json", "200 (x-standpipe-rev: 4) null"),
        ("GET /.json", r#"200 {"a":{"d":[1,2]}}"#),
        ("PUT /a/d.json null", "200 null"),
        ("GET /.json", "200 null"),
        ("PUT /a/b.json 1", "200 1"),
        ("PATCH /a.json null", "200 null"),
        ("GET /.json", "200 null"),
        // A write that changes nothing makes no revision.
        ("PUT /same.json 1", "200 (x-standpipe-rev: 8) 1"),
        ("PUT /same.json 1", "200 (x-standpipe-rev: 8) 1"),
        ("DELETE /nothing.json", "200 (x-standpipe-rev: 8) null"),
        ("PUT /same.json 2", "200 (x-standpipe-rev: 9) 2"),
        ("PUT /.json 5", "200 5"),
        ("GET /.json", "200 5"),
        ("GET /same.json", "200 null"),
    ]);
}

#[test]
fn a_post_gets_a_key_that_sorts_after_the_one_before() {
    let server = dev();
    let mut conn = Conn::open(server.addr()).unwrap();
    let mut names = Vec::new();
    for n in 0..50 {
        let got = conn.request("POST", "/list.json", &[], n.to_string().as_bytes()).unwrap();
        let json = got.json().unwrap();
        assert_eq!(json.as_object().unwrap().len(), 1);
        names.push(json["name"].as_str().unwrap().to_owned());
    }
    assert!(names.iter().all(|name| name.len() == 20), "{names:?}");
    assert!(names.is_sorted() && names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    let list = get(server.addr(), "/list");
    assert_eq!(names.iter().map(|name| list[name].as_u64().unwrap()).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
    let got = conn.request("POST", "/list.json?print=silent", &[], b"1").unwrap();
    assert_eq!((got.status, got.body.len()), (204, 0));
}

#[test]
fn methods_that_are_none() {
    check(&[
        ("PUT /a.json 1", "200 1"),
        ("BREW /a.json", "405 *"),
        ("TRACE /a.json", "405 *"),
        ("POST /a.json (x-http-method-override: BREW) 1", "405 *"),
        ("POST /a.json?x-http-method-override=BREW 1", "405 *"),
        ("PUT /metrics 1", "405 *"),
        ("POST /healthz", "405 *"),
        ("GET /a.json", "200 1"),
        ("POST /a.json (x-http-method-override: GET)", "200 1"),
        ("POST /a.json (x-http-method-override: put) 2", "200 2"),
        (r#"POST /b.json?x-http-method-override=PATCH {"c":3}"#, r#"200 {"c":3}"#),
        ("POST /a.json (X-HTTP-Method-Override: DELETE)", "200 null"),
        // Only a POST may say another method.
        ("PUT /a.json (x-http-method-override: DELETE) 7", "200 7"),
        ("GET /.json", r#"200 {"a":7,"b":{"c":3}}"#),
    ]);
}

#[test]
fn head_and_options() {
    check(&[
        ("PUT /a.json 1", "200 1"),
        ("HEAD /a.json", "200 (content-type: application/json; charset=utf-8) "),
        ("HEAD /a.json (X-Firebase-ETag: true)", "200 (etag: YPVfR2bXt/lcDjiQZ8pOkAd3qkQ=) "),
        ("HEAD /a", "404 "),
        (
            "OPTIONS /a.json (Origin: https://app.example & Access-Control-Request-Method: PUT & Access-Control-Request-Headers: if-match)",
            "200 (access-control-allow-origin: https://app.example & access-control-allow-methods & access-control-allow-headers: if-match) ",
        ),
        ("OPTIONS /a.json", "200 (access-control-allow-headers & access-control-max-age) "),
        ("GET /a.json", "200 1"),
    ]);
}

#[test]
fn places_that_are_none() {
    check(&[
        ("GET /a", "404 ~.json"),
        ("PUT /a 1", "404 ~.json"),
        ("GET /.settings/nothing", "404 *"),
        ("GET /", "200 *"),
        ("GET /healthz", "200 *"),
        ("GET /readyz", "200 *"),
        ("GET /metrics", "200 *"),
    ]);
}

#[test]
fn errors_carry_cors_headers_too() {
    check(&[
        ("GET /a.json (Origin: https://app.example)", "200 (access-control-allow-origin: https://app.example) null"),
        ("GET /a (Origin: https://app.example)", "404 (access-control-allow-origin: https://app.example) *"),
        ("PUT /a.json (Origin: https://app.example) {", "400 (access-control-allow-origin: https://app.example) *"),
        ("BREW /a.json (Origin: null)", "405 (access-control-allow-origin: null) *"),
        (
            "GET /a.json?auth=garbage (Origin: https://app.example)",
            "401 (access-control-allow-origin: https://app.example) *",
        ),
    ]);
}

#[test]
fn etags_and_conditional_writes() {
    // The hashes of 1 and of {"a":1} are in firebase-rtdb §3.6.
    check(&[
        ("GET /v.json (X-Firebase-ETag: true)", "200 (etag: null_etag) null"),
        ("GET /v.json", "200 (!etag) null"),
        ("PUT /v.json (X-Firebase-ETag: true) 1", "200 (etag: YPVfR2bXt/lcDjiQZ8pOkAd3qkQ=) 1"),
        ("PUT /v.json 1", "200 (!etag) 1"),
        ("GET /v.json (X-Firebase-ETag: true)", "200 (etag: YPVfR2bXt/lcDjiQZ8pOkAd3qkQ=) 1"),
        // GET
        ("GET /v.json (if-match: YPVfR2bXt/lcDjiQZ8pOkAd3qkQ=)", "400 *"),
        ("GET /v.json (if-match: other)", "400 *"),
        ("GET /v.json (If-None-Match: YPVfR2bXt/lcDjiQZ8pOkAd3qkQ=)", "304 (etag: YPVfR2bXt/lcDjiQZ8pOkAd3qkQ=) "),
        ("GET /v.json (If-None-Match: other)", "200 (etag: YPVfR2bXt/lcDjiQZ8pOkAd3qkQ=) 1"),
        ("GET /nothing.json (If-None-Match: null_etag)", "304 (etag: null_etag) "),
        // PUT
        ("PUT /v.json (if-match: other) 2", "412 (etag: YPVfR2bXt/lcDjiQZ8pOkAd3qkQ=) 1"),
        ("PUT /v.json (if-match: null_etag) 2", "412 (etag: YPVfR2bXt/lcDjiQZ8pOkAd3qkQ=) 1"),
        (r#"PUT /v.json (if-match: YPVfR2bXt/lcDjiQZ8pOkAd3qkQ=) {"a":1}"#, r#"200 (!etag) {"a":1}"#),
        (
            r#"PUT /v.json (if-match: gIphxiFGusLh2VwSNVKSvNu90m4= & X-Firebase-ETag: true) {"a":1,"b":"x"}"#,
            r#"200 (etag: jRI9dwRS9sb4SWm8uuoN7+xBk4g=) {"a":1,"b":"x"}"#,
        ),
        ("PUT /new.json (if-match: null_etag) 1", "200 1"),
        ("PUT /new.json (if-match: null_etag) 2", "412 (etag: YPVfR2bXt/lcDjiQZ8pOkAd3qkQ=) 1"),
        ("PUT /none.json (if-match: YPVfR2bXt/lcDjiQZ8pOkAd3qkQ=) 2", "412 (etag: null_etag) null"),
        // POST
        ("POST /list.json (X-Firebase-ETag: true) 1", "200 (etag: YPVfR2bXt/lcDjiQZ8pOkAd3qkQ=) *"),
        ("POST /list.json (if-match: null_etag) 1", "400 *"),
        ("POST /list.json (if-match: other) 1", "400 *"),
        // PATCH
        (r#"PATCH /v.json (X-Firebase-ETag: true) {"b":1}"#, "400 *"),
        (r#"PATCH /v.json (if-match: null_etag) {"b":1}"#, "400 *"),
        (r#"PATCH /v.json (if-match: other) {"b":1}"#, "400 *"),
        // DELETE
        ("DELETE /v.json (if-match: null_etag)", r#"412 (etag: jRI9dwRS9sb4SWm8uuoN7+xBk4g=) {"a":1,"b":"x"}"#),
        (
            "DELETE /v.json (if-match: jRI9dwRS9sb4SWm8uuoN7+xBk4g= & X-Firebase-ETag: true)",
            "200 (etag: null_etag) null",
        ),
        ("DELETE /v.json (if-match: null_etag)", "200 null"),
        ("DELETE /v.json (X-Firebase-ETag: true)", "200 (etag: null_etag) null"),
        // A priority is data too, and a deeper location has an ETag of its own.
        (
            r#"PUT /p.json (X-Firebase-ETag: true) {".value":7,".priority":2}"#,
            "200 (etag: 66RsugLFRVPp0Z7gqfndBOnHyV4=) 7",
        ),
        ("GET /p.json (X-Firebase-ETag: true)", "200 (etag: 66RsugLFRVPp0Z7gqfndBOnHyV4=) 7"),
        (r#"PUT /deep.json {"x":{"a":1},"y":2}"#, "200 *"),
        ("GET /deep/x.json (X-Firebase-ETag: true)", r#"200 (etag: gIphxiFGusLh2VwSNVKSvNu90m4=) {"a":1}"#),
        // Refused writes left nothing behind.
        ("GET /.json", r#"200 *"#),
        ("GET /none.json", "200 null"),
    ]);
}

#[test]
fn a_conditional_write_is_one_atomic_step() {
    const CLIENTS: u64 = 8;
    const EACH: u64 = 25;
    let server = dev();
    let addr = server.addr();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut conn = Conn::open(addr).unwrap();
                for _ in 0..EACH {
                    loop {
                        let read = conn.request("GET", "/n.json", &[("X-Firebase-ETag", "true")], b"").unwrap();
                        let next = read.json().unwrap().as_u64().unwrap_or(0) + 1;
                        let etag = read.header("etag").unwrap();
                        let body = next.to_string();
                        let put = conn.request("PUT", "/n.json", &[("if-match", etag)], body.as_bytes()).unwrap();
                        match put.status {
                            200 => break,
                            412 => assert_ne!(put.header("etag"), Some(etag)),
                            _ => panic!("{put:?}"),
                        }
                    }
                }
            });
        }
    });
    assert_eq!(get(addr, "/n"), json!(CLIENTS * EACH));
}

#[test]
fn bodies_that_are_refused() {
    check(&[
        ("PUT /a.json", SYNTAX),
        ("PUT /a.json {", SYNTAX),
        ("PUT /a.json 1 2", SYNTAX),
        ("PUT /a.json nul", SYNTAX),
        ("PUT /a.json 'a'", SYNTAX),
        ("PUT /a.json NaN", SYNTAX),
        (r#"PUT /a.json {"b":1,}"#, SYNTAX),
        ("POST /a.json", SYNTAX),
        ("POST /a.json {", SYNTAX),
        ("PATCH /a.json 5", NOT_AN_OBJECT),
        ("PATCH /a.json [1]", NOT_AN_OBJECT),
        (r#"PATCH /a.json "b""#, NOT_AN_OBJECT),
        (r#"PUT /a.json {"b.c":1}"#, "400 *"),
        (r#"PUT /a.json {"b/c":1}"#, "400 *"),
        (r#"PUT /a.json {"":1}"#, "400 *"),
        (r#"PUT /a.json {"b$":1}"#, "400 *"),
        (r#"PUT /a.json {"b\u0007":1}"#, "400 *"),
        (r#"PUT /a.json {"b\u007f":1}"#, "400 *"),
        (r#"PUT /a.json {".value":1,"b":2}"#, "400 *"),
        (r#"PUT /a.json {".other":1}"#, "400 *"),
        (r#"PUT /a.json {".priority":{"b":1},"c":1}"#, "400 *"),
        (r#"PUT /a.json {".sv":"nothing"}"#, "400 *"),
        (r#"PUT /a.json {".sv":{"increment":"1"}}"#, "400 *"),
        (r#"PUT /a.json {".sv":{"timestamp":1}}"#, "400 *"),
        (r#"PUT /a.json {"b":1,"b":2}"#, "400 *"),
        (r#"PATCH /a.json {"b":1,"b/c":2}"#, "400 *"),
        (r#"PATCH /a.json {"b":1,"/b/":2}"#, "400 *"),
        (r#"PATCH /a.json {"b.c":1}"#, "400 *"),
        ("PUT /a.json 1e999", "400 *"),
        ("PUT /a.json 18446744073709551617", "400 ~string"),
        ("GET /.json", "200 null"),
    ]);
}

#[test]
fn the_content_type_of_a_request_is_ignored() {
    check(&[
        ("PUT /a.json (content-type: application/x-www-form-urlencoded) 1", "200 1"),
        ("PUT /b.json (content-type: text/plain; charset=utf-16) 2", "200 2"),
        ("PUT /c.json (content-type: ) 3", "200 3"),
        ("GET /.json", r#"200 {"a":1,"b":2,"c":3}"#),
    ]);
}

#[test]
fn numbers_and_strings_come_back_exactly() {
    check(&[
        ("PUT /n.json 9007199254740993", "200 9007199254740993"),
        ("PUT /n.json -9223372036854775808", "200 -9223372036854775808"),
        ("PUT /n.json 1.0", "200 1"),
        ("PUT /n.json 1e3", "200 1000"),
        ("PUT /n.json 0.1", "200 0.1"),
        ("PUT /n.json -0", "200 *"),
        (r#"PUT /s.json "é🦊\u0000\"\\""#, r#"200 "é🦊\u0000\"\\""#),
        (r#"PUT /s.json "\ud83e\udd8a""#, r#"200 "🦊""#),
        (r#"PUT /s.json {"__proto__":1,"constructor":2}"#, r#"200 {"__proto__":1,"constructor":2}"#),
    ]);
}

#[test]
fn print() {
    check(&[
        (
            r#"PUT /a.json?print=pretty {"b":{"c":1},"d":[1]}"#,
            "200 {\n  \"b\": {\n    \"c\": 1\n  },\n  \"d\": [\n    1\n  ]\n}",
        ),
        ("GET /a/b.json?print=pretty", "200 {\n  \"c\": 1\n}"),
        ("GET /a/d.json?print=pretty", "200 [\n  1\n]"),
        ("GET /nothing.json?print=pretty", "200 null"),
        ("GET /a.json?print=silent", "204 "),
        ("PUT /a.json?print=silent 1", "204 (x-standpipe-rev) "),
        (r#"PATCH /.json?print=silent {"b":2}"#, "204 (x-standpipe-rev) "),
        ("PUT /a.json?print=silent {", SYNTAX),
        ("GET /a.json?print=loud", "400 ~print"),
        ("GET /.json", r#"200 {"a":1,"b":2}"#),
    ]);
}

#[test]
fn shallow() {
    check(&[
        (r#"PUT /a.json {"b":{"c":1},"d":2,"e":{"f":{"g":1}},"10":true,"9":true}"#, "200 *"),
        ("GET /a.json?shallow=true", r#"200 {"9":true,"10":true,"b":true,"d":true,"e":true}"#),
        ("GET /a/d.json?shallow=true", "200 2"),
        ("GET /nothing.json?shallow=true", "200 null"),
        ("GET /a.json?shallow=false", r#"200 {"9":true,"10":true,"b":{"c":1},"d":2,"e":{"f":{"g":1}}}"#),
        ("GET /a.json?shallow=sizes", r#"200 {"9":4,"10":4,"b":true,"d":1,"e":true}"#),
        ("GET /a/d.json?shallow=sizes", "200 1"),
        ("GET /a.json?shallow=true&limitToFirst=2", r#"200 {"9":true,"10":true}"#),
        ("GET /a.json?shallow=true&limitToFirst=2&startAfter=%2210%22", r#"200 {"b":true,"d":true}"#),
        ("GET /a.json?shallow=true&orderBy=%22d%22", "400 *"),
        ("GET /a.json?shallow=true&startAt=%22b%22", "400 *"),
        ("GET /a.json?shallow=true&limitToLast=1", "400 *"),
        ("GET /a.json?shallow=maybe", "400 *"),
    ]);
}

#[test]
fn arrays_are_rebuilt() {
    check(&[
        (r#"PUT /a.json ["x","y",null,"z"]"#, r#"200 ["x","y",null,"z"]"#),
        ("GET /a.json", r#"200 ["x","y",null,"z"]"#),
        ("GET /a/3.json", r#"200 "z""#),
        ("DELETE /a/0.json", "200 null"),
        ("GET /a.json", r#"200 [null,"y",null,"z"]"#),
        ("DELETE /a/1.json", "200 null"),
        ("GET /a.json", r#"200 {"3":"z"}"#),
        (r#"PUT /b.json {"0":1,"9":2}"#, r#"200 {"0":1,"9":2}"#),
        (r#"PUT /c.json {"1":"a","2":"b"}"#, r#"200 [null,"a","b"]"#),
        (r#"PUT /d.json {"0":1,"01":2}"#, r#"200 {"0":1,"01":2}"#),
        (r#"PUT /e.json {"0":1,"x":2}"#, r#"200 {"0":1,"x":2}"#),
        ("PUT /f.json []", "200 null"),
        ("PUT /g.json [[],[[1]]]", "200 [null,[[1]]]"),
        ("GET /a.json?format=export", r#"200 {"3":"z"}"#),
        ("GET /c.json?format=export", r#"200 {"1":"a","2":"b"}"#),
    ]);
}

#[test]
fn priorities() {
    check(&[
        (r#"PUT /tanks/t1.json?print=silent {"level":0.5,".priority":2}"#, "204 "),
        ("GET /tanks/t1.json?format=export", r#"200 {".priority":2,"level":0.5}"#),
        ("GET /tanks/t1.json", r#"200 {"level":0.5}"#),
        ("GET /tanks/t1/.priority.json", "200 2"),
        ("GET /tanks/.priority.json", "200 null"),
        (r#"PUT /tanks/t1/.priority.json "high""#, r#"200 "high""#),
        ("GET /tanks/t1.json?format=export", r#"200 {".priority":"high","level":0.5}"#),
        ("PUT /tanks/t1/level.json 1", "200 1"),
        ("GET /tanks/t1/.priority.json", r#"200 "high""#),
        // Setting a node without a priority clears it.
        (r#"PUT /tanks/t1.json {"level":2}"#, r#"200 {"level":2}"#),
        ("GET /tanks/t1.json?format=export", r#"200 {"level":2}"#),
        (r#"PUT /leaf.json {".value":"x",".priority":1}"#, r#"200 "x""#),
        ("GET /leaf.json?format=export", r#"200 {".value":"x",".priority":1}"#),
        // Writing below a leaf keeps its priority.
        ("PUT /leaf/below.json 1", "200 1"),
        ("GET /leaf.json?format=export", r#"200 {".priority":1,"below":1}"#),
        ("PUT /leaf/.priority.json null", "200 null"),
        ("GET /leaf.json?format=export", r#"200 {"below":1}"#),
        // An empty node has none.
        ("PUT /nothing/.priority.json 5", "200 *"),
        ("GET /nothing.json?format=export", "200 null"),
        (r#"PUT /leaf/.priority.json {"a":1}"#, "400 *"),
        ("PUT /leaf/.priority.json true", "400 *"),
        ("GET /leaf/.value.json", "400 *"),
        ("GET /leaf.json?format=other", "400 *"),
    ]);
}

#[test]
fn server_values() {
    check(&[
        (r#"PUT /n.json {".sv":{"increment":5}}"#, "200 5"),
        (r#"PUT /n.json {".sv":{"increment":-1.5}}"#, "200 3.5"),
        (r#"PATCH /.json {"n":{".sv":{"increment":0.5}},"m":{".sv":{"increment":1}}}"#, r#"200 {"m":1,"n":4}"#),
        (r#"PUT /s.json "text""#, r#"200 "text""#),
        (r#"PUT /s.json {".sv":{"increment":2}}"#, "200 2"),
        ("GET /.json", r#"200 {"m":1,"n":4,"s":2}"#),
    ]);
    let server = dev();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let before = now();
    let body =
        br#"{"a":{".sv":"timestamp"},"b":{"c":{".sv":"timestamp"}},"d":{".value":1,".priority":{".sv":"timestamp"}}}"#;
    let got = request(server.addr(), "PUT", "/t.json", &[], body).unwrap().json().unwrap();
    let time = got["a"].as_u64().unwrap();
    assert!((before..=now()).contains(&time), "{got}");
    assert_eq!(got, json!({"a": time, "b": {"c": time}, "d": 1}), "one time for the whole write");
    assert_eq!(get(server.addr(), "/t"), got);
    assert_eq!(get(server.addr(), "/t/d/.priority"), json!(time));
}

#[test]
fn the_example_of_the_specification() {
    check(&[
        (r#"PUT /tanks/t1.json?ns=demo&print=silent {"level":0.5,".priority":2}"#, "204 "),
        ("GET /tanks/t1.json?ns=demo&format=export", r#"200 {".priority":2,"level":0.5}"#),
        (
            r#"PATCH /.json?ns=demo {"tanks/t1/level":{".sv":{"increment":0.25}},"seen/t1":{".sv":"timestamp"}}"#,
            "200 *",
        ),
        ("GET /tanks.json?ns=demo&orderBy=%22level%22&startAt=0.5&limitToLast=1", r#"200 {"t1":{"level":0.75}}"#),
        ("PUT /tanks/t9.json?ns=demo (if-match: null_etag) 1", "200 1"),
        ("PUT /tanks/t9.json?ns=demo (if-match: null_etag) 2", "412 1"),
    ]);
}

#[test]
fn queries() {
    check(&[
        (
            r#"PUT /q.json {"a":{"n":1,"s":"x"},"b":{"n":3,"s":"y",".priority":1},"c":{"n":2},"d":{"n":2,"s":"x",".priority":"p"},"e":{"s":true}}"#,
            "200 *",
        ),
        ("GET /q.json?orderBy=%22n%22&limitToFirst=2", r#"200 {"e":{"s":true},"a":{"n":1,"s":"x"}}"#),
        ("GET /q.json?orderBy=%22n%22&startAt=2", r#"200 {"c":{"n":2},"d":{"n":2,"s":"x"},"b":{"n":3,"s":"y"}}"#),
        ("GET /q.json?orderBy=%22n%22&startAt=2,%22d%22", r#"200 {"d":{"n":2,"s":"x"},"b":{"n":3,"s":"y"}}"#),
        ("GET /q.json?orderBy=%22n%22&startAfter=2", r#"200 {"b":{"n":3,"s":"y"}}"#),
        ("GET /q.json?orderBy=%22n%22&endBefore=2", r#"200 {"e":{"s":true},"a":{"n":1,"s":"x"}}"#),
        ("GET /q.json?orderBy=%22n%22&equalTo=2", r#"200 {"c":{"n":2},"d":{"n":2,"s":"x"}}"#),
        ("GET /q.json?orderBy=%22s%22&equalTo=%22x%22", r#"200 {"a":{"n":1,"s":"x"},"d":{"n":2,"s":"x"}}"#),
        ("GET /q.json?orderBy=%22s%22&equalTo=true", r#"200 {"e":{"s":true}}"#),
        ("GET /q.json?orderBy=%22n%22&limitToLast=1", r#"200 {"b":{"n":3,"s":"y"}}"#),
        ("GET /q.json?orderBy=%22$key%22&startAt=%22b%22&endAt=%22c%22", r#"200 {"b":{"n":3,"s":"y"},"c":{"n":2}}"#),
        ("GET /q.json?orderBy=%22$key%22&limitToLast=1", r#"200 {"e":{"s":true}}"#),
        ("GET /q.json?orderBy=%22$priority%22&startAt=1", r#"200 {"b":{"n":3,"s":"y"},"d":{"n":2,"s":"x"}}"#),
        (
            "GET /q.json?orderBy=%22$priority%22&startAt=1&format=export&limitToFirst=1",
            r#"200 {"b":{".priority":1,"n":3,"s":"y"}}"#,
        ),
        (r#"PUT /v.json {"a":3,"b":"t","c":true,"d":1,"10":2}"#, "200 *"),
        ("GET /v.json?orderBy=%22$value%22", r#"200 {"c":true,"d":1,"10":2,"a":3,"b":"t"}"#),
        ("GET /v.json?orderBy=%22$value%22&startAt=2&endAt=3", r#"200 {"10":2,"a":3}"#),
        ("GET /v/a.json?orderBy=%22$key%22", "200 null"),
        ("GET /nothing.json?orderBy=%22$key%22", "200 null"),
        (r#"PUT /deep.json {"x":{"p":{"q":2}},"y":{"p":{"q":1}}}"#, "200 *"),
        ("GET /deep.json?orderBy=%22p/q%22&limitToFirst=1", r#"200 {"y":{"p":{"q":1}}}"#),
    ]);
}

#[test]
fn queries_that_are_refused() {
    check(&[
        ("GET /q.json?limitToFirst=3", "400 !orderBy must be defined when other query parameters are defined"),
        ("GET /q.json?startAt=3", "400 !orderBy must be defined when other query parameters are defined"),
        ("GET /q.json?orderBy=n", "400 !orderBy must be a valid JSON encoded path"),
        ("GET /q.json?orderBy=", "400 !orderBy must be a valid JSON encoded path"),
        ("GET /q.json?orderBy=5", "400 !orderBy must be a valid JSON encoded path"),
        ("GET /q.json?orderBy=%22a.b%22", "400 !orderBy must be a valid JSON encoded path"),
        ("GET /q.json?orderBy=%22n%22&startAt=x", "400 !Constraint index field must be a JSON primitive"),
        ("GET /q.json?orderBy=%22n%22&equalTo={}", "400 !Constraint index field must be a JSON primitive"),
        ("GET /q.json?orderBy=%22n%22&limitToFirst=0", "400 *"),
        ("GET /q.json?orderBy=%22n%22&limitToFirst=-1", "400 *"),
        ("GET /q.json?orderBy=%22n%22&limitToFirst=x", "400 *"),
        ("GET /q.json?orderBy=%22n%22&limitToFirst=1&limitToLast=1", "400 *"),
        ("GET /q.json?orderBy=%22$key%22&startAt=5", "400 *"),
    ]);
}

#[test]
fn callback_download_timeout_and_size_limit() {
    check(&[
        ("PUT /a.json 1", "200 1"),
        ("GET /a.json?callback=show", "200 (content-type: application/javascript; charset=utf-8) show(1);"),
        ("GET /a.json?callback=a.b_$1", "200 a.b_$1(1);"),
        ("GET /a.json?callback=alert(1)//", "400 *"),
        ("GET /a.json?callback=1a", "400 *"),
        ("GET /a.json?callback=", "400 *"),
        ("GET /a.json?download=back.json", r#"200 (content-disposition: attachment; filename="back.json") 1"#),
        ("GET /a.json?download=%22x%0d%0ay", r#"200 (content-disposition: attachment; filename="xy") 1"#),
        ("GET /a.json?timeout=3s", "200 1"),
        ("GET /a.json?timeout=900000ms", "200 1"),
        ("GET /a.json?timeout=15min", "200 1"),
        ("GET /a.json?timeout=0ms", "400 ~timeout"),
        ("GET /a.json?timeout=16min", "400 ~timeout"),
        ("GET /a.json?timeout=3", "400 ~timeout"),
        ("GET /a.json?timeout=-3s", "400 ~timeout"),
        ("GET /a.json?timeout=3h", "400 ~timeout"),
        ("PUT /a.json?writeSizeLimit=tiny 2", "200 2"),
        ("PUT /a.json?writeSizeLimit=unlimited&disableTriggers=true&ac=x 3", "200 3"),
        ("PUT /a.json?writeSizeLimit=huge 4", "400 ~writeSizeLimit"),
        ("GET /a.json?unknown=ignored&&=", "200 3"),
    ]);
}

#[test]
fn namespaces_are_databases() {
    check(&[
        ("PUT /a.json 0", "200 0"),
        ("PUT /a.json?ns=one 1", "200 (x-standpipe-rev: 1) 1"),
        ("PUT /a.json?ns=two-2_B 2", "200 2"),
        ("GET /a.json", "200 0"),
        ("GET /a.json?ns=", "200 0"),
        ("GET /a.json?ns=one", "200 1"),
        ("GET /a.json?ns=two-2_B", "200 2"),
        ("GET /a.json?ns=three", "200 null"),
        // Clients make names of hosts and paths; no name leaves the folder.
        ("PUT /a.json?ns=127.0.0.1:9000 3", "200 (x-standpipe-rev: 1) 3"),
        ("GET /a.json?ns=../one", "200 null"),
        ("PUT /a.json?ns=a%2fb 4", "200 4"),
        ("GET /a.json?ns=a/b", "200 4"),
        ("GET /a.json?ns=a%00b", "400 *"),
        ("GET /a.json?ns=0123456789012345678901234567890123456789012345678901234567890123456789", "400 *"),
        // The first label of a host name; never that of an address or of a single label.
        ("GET /a.json (Host: one.example.com)", "200 1"),
        ("GET /a.json (Host: one.example.com:9000)", "200 1"),
        ("GET /a.json?ns=two-2_B (Host: one.example.com)", "200 2"),
        ("GET /a.json (Host: localhost:9000)", "200 0"),
        ("GET /a.json (Host: 127.0.0.1:9000)", "200 0"),
        ("GET /a.json (Host: one)", "200 0"),
        ("GET /.inspect/databases.json (Authorization: Bearer owner)", r#"200 *"#),
        ("GET /.inspect/databases.json", "401 !Permission denied"),
    ]);
}

#[test]
fn percent_encoding() {
    check(&[
        ("PUT /a%20b/%C3%A9.json 1", "200 1"),
        ("GET /.json", r#"200 {"a b":{"é":1}}"#),
        ("GET /a%20b.json", r#"200 {"é":1}"#),
        ("PUT /p+q.json 2", "200 2"),
        ("GET /p%2Bq.json", "200 2"),
        ("GET //a%20b///%c3%a9/.json", "200 1"),
        ("PUT /%F0%9F%A6%8A.json 3", "200 3"),
        ("GET /.json?shallow=true", r#"200 {"a b":true,"p+q":true,"🦊":true}"#),
        ("GET /a%2Fb.json", "400 *"),
        ("GET /a%ff.json", "400 *"),
        ("GET /a%00.json", "400 *"),
        ("GET /a%7f.json", "400 *"),
        ("GET /a%5B.json", "400 *"),
        ("GET /a.b.json", "400 *"),
        ("GET /a$.json", "400 *"),
        ("GET /%23.json", "400 *"),
        ("GET /.info/connected.json", "400 *"),
        ("PUT /%25.json 4", "200 4"),
        ("GET /%25.json", "200 4"),
    ]);
}

#[test]
fn the_emulators_credentials() {
    // Headers and claims in base64: {"alg":"none"} {"sub":"maya","iat":0,"exp":3600}.
    let token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJtYXlhIiwiaWF0IjowLCJleHAiOjM2MDB9.";
    check(&[
        ("PUT /a.json (Authorization: Bearer owner) 1", "200 1"),
        ("GET /a.json?access_token=owner", "200 1"),
        ("GET /a.json?auth=owner", "200 1"),
        (&format!("GET /a.json?auth={token}"), "200 1"),
        (&format!("GET /a.json (Authorization: Bearer {token})"), "200 1"),
        // Never accepted without checking its signature.
        (&format!("GET /a.json?auth={token}c2lnbmVk"), "401 !Could not parse auth token."),
        ("GET /a.json?auth=garbage", "401 !Could not parse auth token."),
        ("PUT /a.json (Authorization: Bearer garbage) 2", "401 !Could not parse auth token."),
        (r#"GET /a.json?access_token=owner&auth_variable_override={%22uid%22:%22x%22}"#, "200 1"),
        ("GET /a.json?access_token=owner&auth_variable_override=null", "200 1"),
        ("GET /a.json?access_token=owner&auth_variable_override=5", "400 *"),
        ("GET /.settings/rules.json", "401 !Permission denied"),
        ("GET /.settings/rules.json (Authorization: Bearer owner)", "200 *"),
        ("GET /a.json", "200 1"),
    ]);
}

#[test]
fn rules_texts_are_kept() {
    let rules = "{\n  // open\n  \"rules\": {\".read\": true, \".write\": true}\n}";
    check(&[
        (&format!("PUT /.settings/rules.json {rules}"), "401 !Permission denied"),
        (&format!("PUT /.settings/rules.json (Authorization: Bearer owner) {rules}"), r#"200 {"status":"ok"}"#),
        ("GET /.settings/rules.json (Authorization: Bearer owner)", &format!("200 {rules}")),
        ("PUT /.settings/rules.json (Authorization: Bearer owner) {", "400 *"),
        ("PUT /.settings/rules.json (Authorization: Bearer owner) [1]", "400 *"),
        (
            r#"PUT /.settings/rules.json?dryRun=true (Authorization: Bearer owner) {"rules":{}}"#,
            r#"200 {"status":"ok"}"#,
        ),
        ("GET /.settings/rules.json (Authorization: Bearer owner)", &format!("200 {rules}")),
    ]);
}

fn serve() -> Server {
    Launch::serve().start().unwrap()
}

#[test]
fn serve_is_locked_and_never_takes_owner() {
    for via in [Via::Http1, Via::Http2] {
        let server = serve();
        let rows = [
            ("GET /a.json", "401 !Permission denied"),
            ("PUT /a.json 1", "401 !Permission denied"),
            (r#"PATCH /.json {"a":1}"#, "401 !Permission denied"),
            ("DELETE /.json", "401 !Permission denied"),
            ("GET /a.json (Accept: text/event-stream)", "401 !Permission denied"),
            ("GET /a.json (Authorization: Bearer owner)", "401 !Could not parse auth token."),
            ("PUT /a.json?access_token=owner 1", "401 !Could not parse auth token."),
            ("PUT /a.json?auth=owner 1", "401 !Could not parse auth token."),
            ("GET /.settings/rules.json (Authorization: Bearer owner)", "401 *"),
            ("GET /.inspect/backup?access_token=owner", "401 *"),
            // Names that SDKs make up from the host go to the only database there is.
            ("GET /a.json?ns=localhost", "401 !Permission denied"),
            ("GET /healthz", "200 *"),
        ];
        play(server.addr(), via, &rows);
        quiet(server, &[]);
    }
}

/// Firebase's documentation shows queries for curl with their quotes as they are.
#[test]
fn curl_lines_of_the_documentation_work_as_they_are() {
    let server = dev();
    let facts = r#"{"bruhathkayosaurus":{"height":25},"lambeosaurus":{"height":2.1},"stegosaurus":{"height":4}}"#;
    write(server.addr(), "PUT", "/dinosaurs.json", facts);
    let url = |query: &str| format!("{}/dinosaurs.json?{query}", server.url());
    // Several on one connection.
    let output = Command::new("curl")
        .args(["-sS", &url(r#"orderBy="height"&startAt=3"#), &url(r#"orderBy="$key"&startAt="l"&endAt="m""#)])
        .arg(url("shallow=true"))
        .arg(url(r#"orderBy="height"&limitToLast=1"#))
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let expected = [
        r#"{"stegosaurus":{"height":4},"bruhathkayosaurus":{"height":25}}"#,
        r#"{"lambeosaurus":{"height":2.1}}"#,
        r#"{"bruhathkayosaurus":true,"lambeosaurus":true,"stegosaurus":true}"#,
        r#"{"bruhathkayosaurus":{"height":25}}"#,
    ];
    assert_eq!(told, expected.concat());
}

/// Nothing but a request line is touched by that, wherever it begins.
#[test]
fn quotes_elsewhere_are_left_alone() {
    let server = dev();
    let mut conn = Conn::open(server.addr()).unwrap();
    let line = r#"GET /a.json?x="y" HTTP/1.1"#;
    let body = serde_json::to_string(&format!("{line}\r\n{line}")).unwrap();
    for n in 0..3 {
        let head = format!(
            "PUT /a.json?n=\"{n}\" HTTP/1.1\r\nHost: x\r\nX-Quoted: \"{n}\"\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        conn.send(head.as_bytes()).unwrap();
        // In pieces, and with the next request in the same one.
        conn.send(&body.as_bytes()[..1]).unwrap();
        conn.send(&[&body.as_bytes()[1..], b"GET /a.json HTTP/1.1\r\nHost: x\r\n\r\n"].concat()).unwrap();
        assert_eq!(conn.response(false).unwrap().text(), body);
        assert_eq!(conn.response(false).unwrap().text(), body);
    }
    // A body that is refused unread is never taken for a request.
    let length = line.len() + 4;
    conn.send(format!("PUT /a.b.json HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(conn.response(false).unwrap().status, 400);
    let mut conn = conn.limit(Duration::from_secs(2));
    let _ = conn.send(format!("{line}\r\n\r\n").as_bytes());
    assert!(conn.response(false).is_err(), "closed, or waiting; no answer");
}
