//! The Firebase door over a WebSocket, message by message: the order of what is said, every status and every form of
//! news. What the official packages make of it is in `sdk.rs`; what hostile clients try, in `firebase_hostile.rs`.

use std::net::SocketAddr;

use serde_json::{Value, json};
use standpipe_testkit::websocket::WebSocket;
use standpipe_testkit::{http, server};

use crate::support::{dev, quiet};

/// A client that says what it is told to.
struct Client {
    socket: WebSocket,
    session: String,
    asked: u64,
}

impl Client {
    fn open(addr: SocketAddr, target: &str) -> Self {
        let mut socket = WebSocket::open(addr, target).unwrap();
        let hello = socket.json().unwrap();
        assert_eq!((&hello["t"], &hello["d"]["t"]), (&json!("c"), &json!("h")), "{hello}");
        let hello = &hello["d"]["d"];
        assert_eq!((&hello["v"], &hello["h"]), (&json!("5"), &json!(addr.to_string())));
        assert!(hello["ts"].as_u64().unwrap() > 1_700_000_000_000);
        let session = hello["s"].as_str().unwrap().to_owned();
        assert!(session.len() >= 20);
        Self { socket, session, asked: 0 }
    }

    fn new(server: &server::Server) -> Self {
        Self::open(server.addr(), "/.ws?v=5&ns=demo")
    }

    /// Asks; says under which number.
    fn ask(&mut self, action: &str, body: &Value) -> u64 {
        self.asked += 1;
        let request = json!({ "t": "d", "d": { "r": self.asked, "a": action, "b": body } });
        self.socket.text(&request.to_string()).unwrap();
        self.asked
    }

    /// The next message, in short: `<number> <status> <data>`, or `<action> <path> <data>` with `#tag` where it
    /// has one.
    fn next(&mut self) -> String {
        let message = self.socket.json().unwrap();
        let (layer, content) = (&message["t"], &message["d"]);
        if layer == "c" {
            return format!("control {} {}", content["t"].as_str().unwrap(), content["d"]);
        }
        let body = &content["b"];
        if let Some(number) = content["r"].as_u64() {
            return format!("{number} {} {}", body["s"].as_str().unwrap(), body["d"]);
        }
        let action = content["a"].as_str().unwrap();
        match action {
            "c" => format!("c {} {}", body["p"].as_str().unwrap(), body["q"]),
            "ac" => format!("ac {} {}", body["s"], body["d"]),
            _ => {
                let tag = body["t"].as_u64().map(|tag| format!(" #{tag}")).unwrap_or_default();
                format!("{action} {} {}{tag}", body["p"].as_str().unwrap(), body["d"])
            }
        }
    }

    /// Asks, and compares all that is said up to the answer; `$` stands for the request's number.
    fn check(&mut self, action: &str, body: Value, expected: &[&str]) {
        let number = self.ask(action, &body).to_string();
        let said: Vec<String> = expected.iter().map(|_| self.next()).collect();
        let expected: Vec<String> = expected
            .iter()
            .map(|line| line.strip_prefix('$').map_or((*line).to_owned(), |rest| format!("{number}{rest}")))
            .collect();
        assert_eq!(said, expected, "{action} {body}");
    }

    /// Nothing is left to be said.
    fn silent(&mut self) {
        self.socket.text(r#"{"t":"c","d":{"t":"p","d":{}}}"#).unwrap();
        assert_eq!(self.next(), "control o {}");
    }
}

fn put(server: &server::Server, target: &str, body: &str) {
    let headers = [("authorization", "Bearer owner")];
    let response = http::request(server.addr(), "PUT", target, &headers, body.as_bytes()).unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
}

fn get(server: &server::Server, target: &str) -> Value {
    let headers = [("authorization", "Bearer owner")];
    http::request(server.addr(), "GET", target, &headers, b"").unwrap().json().unwrap()
}

#[test]
fn news_stand_before_the_answer_of_the_write_that_made_them() {
    let server = dev();
    let mut client = Client::new(&server);
    client.check("s", json!({ "c": { "sdk.node": 1 } }), &[r#"$ ok """#]);
    client.check("q", json!({ "p": "/rooms/7", "h": "" }), &["$ ok {}"]);
    client.check(
        "p",
        json!({ "p": "rooms/7", "d": { "topic": "pumps", "seats": 4 } }),
        &[r#"d rooms/7 {"seats":4,"topic":"pumps"}"#, r#"$ ok """#],
    );
    client.check("p", json!({ "p": "rooms/7/seats", "d": 4 }), &[r#"$ ok """#]);
    let merge = json!({ "p": "/rooms/7", "d": { "seats": { ".sv": { "increment": -1 } }, "/who/maya/": true } });
    client.check("m", merge, &[r#"m rooms/7 {"seats":3,"who/maya":true}"#, r#"$ ok """#]);
    client.check("p", json!({ "p": "rooms", "d": null }), &["d rooms/7 null", r#"$ ok """#]);
    client.check("p", json!({ "p": "/rooms/7/a/b", "d": 1 }), &["d rooms/7/a/b 1", r#"$ ok """#]);
    client.check("m", json!({ "p": "", "d": { "rooms/7/a/b": 2 } }), &["d rooms/7/a/b 2", r#"$ ok """#]);
    client.check("n", json!({ "p": "/rooms/7" }), &[r#"$ ok """#]);
    client.check("p", json!({ "p": "/rooms/7/a/b", "d": 3 }), &[r#"$ ok """#]);
    client.silent();
    drop(client);
    quiet(server, &[]);
}

#[test]
fn a_burst_is_answered_in_its_order() {
    let server = dev();
    let mut client = Client::new(&server);
    client.ask("q", &json!({ "p": "n", "h": "" }));
    for n in 0..50 {
        client.ask("p", &json!({ "p": "n", "d": n }));
        client.ask("s", &json!({}));
    }
    client.ask("g", &json!({ "p": "n", "q": {} }));
    let said: Vec<String> = (0..152).map(|_| client.next()).collect();
    let news: Vec<&String> = said.iter().filter(|line| line.starts_with("d n ")).collect();
    let answers: Vec<&String> = said.iter().filter(|line| !line.starts_with("d n ")).collect();
    assert_eq!(news, (0..50).map(|n| format!("d n {n}")).collect::<Vec<_>>().iter().collect::<Vec<_>>());
    assert_eq!((&answers[0][..], &answers[101][..]), ("1 ok {}", "102 ok 49"));
    for (index, answer) in answers[1..101].iter().enumerate() {
        assert_eq!(**answer, format!("{} ok \"\"", index + 2));
    }
    for n in 0..50 {
        let place = |line: String| said.iter().position(|said| *said == line).unwrap();
        assert!(place(format!("d n {n}")) < place(format!("{} ok \"\"", 2 * n + 2)), "{said:#?}");
    }
    drop(client);
    quiet(server, &[]);
}

#[test]
fn what_the_client_has_is_not_sent_again_and_stale_writes_are_refused() {
    let server = dev();
    put(&server, "/v.json?ns=demo", "1");
    let mut client = Client::new(&server);
    client.check("q", json!({ "p": "v", "h": "YPVfR2bXt/lcDjiQZ8pOkAd3qkQ=" }), &["$ ok {}"]);
    client.check("q", json!({ "p": "v", "h": "7ysMph9WPitGP7poMnMHMVPtUlI=" }), &["d v 1", "$ ok {}"]);
    client.check("p", json!({ "p": "v", "d": 2, "h": "YPVfR2bXt/lcDjiQZ8pOkAd3qkQ=" }), &["d v 2", r#"$ ok """#]);
    client.check(
        "p",
        json!({ "p": "v", "d": 3, "h": "YPVfR2bXt/lcDjiQZ8pOkAd3qkQ=" }),
        &[r#"$ datastale "Transaction hash does not match""#],
    );
    client.check("p", json!({ "p": "v", "d": 3, "h": "" }), &[r#"$ datastale "Transaction hash does not match""#]);
    client.check("p", json!({ "p": "w", "d": 3, "h": "" }), &[r#"$ ok """#]);
    // What made it stale comes before the refusal, though both were asked for in one breath.
    let mut other = Client::new(&server);
    other.ask("p", &json!({ "p": "v", "d": 4 }));
    assert_eq!(other.next(), r#"1 ok """#);
    client.check(
        "p",
        json!({ "p": "v", "d": 5, "h": "nonsense" }),
        &["d v 4", r#"$ datastale "Transaction hash does not match""#],
    );
    drop((client, other));
    quiet(server, &[]);
}

#[test]
fn windows_tell_what_enters_whole_and_what_leaves_as_null() {
    let server = dev();
    put(&server, "/log.json?ns=demo", r#"{"a":"one","b":"two","c":{".value":"three",".priority":5}}"#);
    let mut client = Client::new(&server);
    let query = json!({ "l": 2, "vf": "r", "i": ".key" });
    client.check(
        "q",
        json!({ "p": "/log", "q": query, "t": 11, "h": "" }),
        &[r#"d log {"b":"two","c":{".priority":5,".value":"three"}} #11"#, "$ ok {}"],
    );
    client.check("p", json!({ "p": "log/d", "d": "four" }), &[r#"m log {"b":null,"d":"four"} #11"#, r#"$ ok """#]);
    client.check("p", json!({ "p": "log/a", "d": "new" }), &[r#"$ ok """#]);
    client.check(
        "m",
        json!({ "p": "log", "d": { "c/x": 1, "d": null } }),
        &[r#"m log {"b":"two","c":{".priority":5,"x":1},"d":null} #11"#, r#"$ ok """#],
    );
    let first = json!({ "l": 1, "vf": "l" });
    client.check("q", json!({ "p": "/log", "q": first, "t": 12, "h": "" }), &[r#"d log {"a":"new"} #12"#, "$ ok {}"]);
    client.check(
        "p",
        json!({ "p": "log", "d": { "z": 1 } }),
        &[r#"m log {"b":null,"c":null,"z":1} #11"#, r#"m log {"a":null,"z":1} #12"#, r#"$ ok """#],
    );
    client.check("n", json!({ "p": "/log", "q": query, "t": 11 }), &[r#"$ ok """#]);
    client.check("p", json!({ "p": "log", "d": null }), &[r#"m log {"z":null} #12"#, r#"$ ok """#]);
    client.check("g", json!({ "p": "log", "q": query }), &["$ ok null"]);
    client.silent();
    drop(client);
    quiet(server, &[]);
}

#[test]
fn what_is_wrong_with_a_request_is_named_and_the_session_goes_on() {
    let server = dev();
    let mut client = Client::new(&server);
    let refused = |what: &str| format!("$ invalid {}", json!(what));
    for (action, body, what) in [
        ("p", json!({ "d": 1 }), "'p' must be a string"),
        ("p", json!({ "p": 5, "d": 1 }), "'p' must be a string"),
        ("p", json!({ "p": "a" }), "'d' must be there"),
        ("p", json!({ "p": "a", "d": 1, "h": 5 }), "'h' must be a string"),
        ("q", json!({ "p": "a", "h": [] }), "'h' must be a string"),
        ("q", json!({ "p": "a", "h": "", "q": 5, "t": 1 }), "'q' of a query must be an object"),
        ("q", json!({ "p": "a", "h": "", "q": { "l": 0 }, "t": 1 }), "'l' of a query must be a whole number above 0"),
        ("n", json!({ "p": "a", "t": "x" }), "'t' must be a whole number"),
        ("auth", json!({}), "'cred' must be a string"),
        ("gauth", json!({ "cred": "owner", "noauth": 1 }), "'noauth' must be true or false"),
        ("fly", json!({}), "unknown action 'fly'"),
    ] {
        client.check(action, body, &[&refused(what)]);
    }
    for (action, body) in [
        ("p", json!({ "p": "a#b", "d": 1 })),
        ("p", json!({ "p": ".info/x", "d": 1 })),
        ("p", json!({ "p": "a", "d": { "b.c": 1 } })),
        ("p", json!({ "p": "a", "d": { ".sv": "nonsense" } })),
        ("m", json!({ "p": "a", "d": 5 })),
        ("m", json!({ "p": "a", "d": { "b": 1, "b/c": 2 } })),
        ("om", json!({ "p": "a", "d": [1] })),
        ("o", json!({ "p": "a/.priority", "d": { "b": 1 } })),
    ] {
        let number = client.ask(action, &body);
        let said = client.next();
        assert!(said.starts_with(&format!("{number} invalid ")), "{action} {body}: {said}");
    }
    client.socket.text(r#"{"t":"d","d":{"a":"s","b":{}}}"#).unwrap();
    assert_eq!(client.next(), r#"control e "'r' must be a whole number, 0 or more""#);
    assert_eq!(get(&server, "/.json?ns=demo"), Value::Null);
    client.check("p", json!({ "p": "a", "d": 1 }), &[r#"$ ok """#]);
    client.socket.text("nonsense").unwrap();
    assert_eq!(client.socket.closed().unwrap(), (1008, "a message is not JSON".to_owned()));
    quiet(server, &[]);
}

#[test]
fn who_the_client_is_decides_what_it_sees() {
    let server = dev();
    put(&server, "/.json?ns=demo", r#"{"open":1,"mine":{"maya":2},"shut":3}"#);
    let rules =
        r#"{"rules":{"open":{".read":true},"mine":{"$u":{".read":"auth.uid == $u",".write":"auth.uid == $u"}}}}"#;
    put(&server, "/.settings/rules.json?ns=demo", rules);
    let mut client = Client::new(&server);
    let denied = r#"$ permission_denied "Permission denied""#;
    client.check("q", json!({ "p": "open", "h": "" }), &["d open 1", "$ ok {}"]);
    client.check("q", json!({ "p": "mine/maya", "h": "" }), &[denied]);
    client.check("g", json!({ "p": "shut", "q": {} }), &[denied]);
    client.check("p", json!({ "p": "mine/maya", "d": 1, "h": "x" }), &[denied]);
    client.check("o", json!({ "p": "mine/maya", "d": 1 }), &[denied]);
    // {"alg":"none"} . {"sub":"maya"}
    let token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJtYXlhIn0.";
    let number = client.ask("auth", &json!({ "cred": token }));
    let said = client.next();
    assert!(said.starts_with(&format!("{number} ok ")) && said.contains(r#""uid":"maya""#), "{said}");
    client.check("q", json!({ "p": "mine/maya", "h": "" }), &["d mine/maya 2", "$ ok {}"]);
    client.check("o", json!({ "p": "mine/maya/bye", "d": true }), &[r#"$ ok """#]);
    client.check("unauth", json!({}), &["c mine/maya null", r#"$ ok """#]);
    let number = client.ask("auth", &json!({ "cred": "nonsense" }));
    assert!(client.next().starts_with(&format!("{number} invalid_token ")));
    client.check("gauth", json!({ "cred": "owner" }), &[r#"$ ok {"auth":null}"#]);
    let query = json!({ "l": 1 });
    client.check("q", json!({ "p": "mine", "q": query, "t": 1, "h": "" }), &[r#"d mine {"maya":2} #1"#, "$ ok {}"]);
    client.check(
        "gauth",
        json!({ "cred": "owner", "authvar": { "uid": "other" } }),
        &[r#"c mine [{"l":1}]"#, r#"$ ok {"auth":{"uid":"other"}}"#],
    );
    client.check("gauth", json!({ "cred": "owner", "noauth": true }), &[r#"$ ok {"auth":null}"#]);
    // New rules end what they do not allow, without being asked.
    put(&server, "/.settings/rules.json?ns=demo", r#"{"rules":{}}"#);
    assert_eq!(client.next(), "c open null");
    client.silent();
    drop(client);
    // Nobody is allowed to write for who leaves as nobody.
    assert_eq!(get(&server, "/mine/maya.json?ns=demo"), json!(2));
    quiet(server, &[]);
}

#[test]
fn an_index_that_is_missing_is_told() {
    let server = dev();
    let rules = r#"{"rules":{".read":true,"a":{".indexOn":"n"}}}"#;
    put(&server, "/.settings/rules.json?ns=demo", rules);
    let mut client = Client::new(&server);
    let by = |path: &str| json!({ "p": path, "q": { "i": "n", "l": 1 }, "t": 1, "h": "" });
    client.check("q", by("a"), &["$ ok {}"]);
    client.check("q", by("b"), &[r#"$ ok {"w":["no_index"]}"#]);
    client.check(
        "g",
        json!({ "p": "b", "q": { "i": "n", "l": 1 } }),
        &[&format!("$ failed {}", json!(r#"Index not defined, add ".indexOn": "n", for path "/b", to the rules"#))],
    );
    client.check("g", json!({ "p": "b", "q": { "i": "n" } }), &["$ ok null"]);
    drop(client);
    quiet(server, &[]);
}

#[test]
fn for_rules_a_limit_without_an_order_is_one_of_keys() {
    let server = dev();
    let rules = r#"{"rules":{"a":{".read":"query.orderByKey && query.limitToFirst <= 10"}}}"#;
    put(&server, "/.settings/rules.json?ns=demo", rules);
    let mut client = Client::new(&server);
    let first = |count: u32| json!({ "p": "a", "q": { "l": count, "vf": "l" }, "t": 1, "h": "" });
    client.check("q", first(10), &["$ ok {}"]);
    client.check("q", first(11), &[r#"$ permission_denied "Permission denied""#]);
    client.check("g", first(10), &["$ ok null"]);
    drop(client);
    quiet(server, &[]);
}

#[test]
fn what_is_left_for_the_end_is_done_then_and_once() {
    let server = dev();
    let mut watcher = Client::new(&server);
    watcher.check("q", json!({ "p": "here", "h": "" }), &["$ ok {}"]);
    let mut client = Client::new(&server);
    client.check("o", json!({ "p": "here/a", "d": { ".sv": "timestamp" } }), &[r#"$ ok """#]);
    client.check("om", json!({ "p": "here", "d": { "b": 2, "c/d": 3 } }), &[r#"$ ok """#]);
    client.check("oc", json!({ "p": "here/a", "d": null }), &[r#"$ ok """#]);
    // The same client comes back before its connection is known to be lost.
    let again = Client::open(server.addr(), &format!("/.ws?v=5&ns=demo&ls={}", client.session));
    assert_eq!(get(&server, "/here.json?ns=demo"), json!({ "b": 2, "c": { "d": 3 } }));
    let said = [watcher.next(), watcher.next()];
    assert_eq!(said, ["d here/b 2", "d here/c/d 3"]);
    assert_eq!(client.socket.closed().unwrap().0, 1008);
    // Who guesses at sessions of another database ends nothing.
    let mut other = Client::open(server.addr(), &format!("/.ws?v=5&ns=other&ls={}", again.session));
    other.silent();
    watcher.silent();
    drop((client, again, other, watcher));
    quiet(server, &[]);
}

#[test]
fn a_server_that_stops_answers_what_was_written_and_does_what_was_left() {
    let mut server = dev();
    let mut client = Client::new(&server);
    client.check("o", json!({ "p": "gone", "d": true }), &[r#"$ ok """#]);
    for n in 0..20 {
        client.ask("p", &json!({ "p": "n", "d": n }));
    }
    for n in 0..20 {
        assert_eq!(client.next(), format!("{} ok \"\"", n + 2));
    }
    assert!(server.stop().unwrap().success());
    assert_eq!(client.socket.closed().unwrap(), (1001, "the server is shutting down".to_owned()));
    server.restart().unwrap();
    assert_eq!(get(&server, "/.json?ns=demo"), json!({ "gone": true, "n": 19 }));
    quiet(server, &[]);
}

#[test]
fn long_messages_come_in_pieces_both_ways() {
    let server = dev();
    let text = "é🦊x".repeat(20_000);
    let mut client = Client::new(&server);
    let request = json!({ "t": "d", "d": { "r": 1, "a": "p", "b": { "p": "long", "d": text } } }).to_string();
    let half = request.char_indices().nth(30_000).unwrap().0;
    for piece in ["2", &request[..half], &request[half..]] {
        client.socket.text(piece).unwrap();
    }
    assert_eq!(client.next(), r#"1 ok """#);
    client.asked = 1;
    client.ask("q", &json!({ "p": "long", "h": "" }));
    let (first, count) = client.socket.frame().unwrap();
    let count: usize = String::from_utf8(count).unwrap().parse().unwrap();
    let pieces: Vec<Vec<u8>> = (0..count).map(|_| client.socket.frame().unwrap().1).collect();
    assert!(first == 0x81 && pieces.iter().all(|piece| piece.len() <= 16_384 && std::str::from_utf8(piece).is_ok()));
    let message: Value = serde_json::from_slice(&pieces.concat()).unwrap();
    assert_eq!(message["d"]["b"]["d"], json!(text));
    assert_eq!(client.next(), "2 ok {}");
    client.socket.text("0").unwrap();
    client.silent();
    drop(client);
    quiet(server, &[]);
}
