//! Clients of the Firebase protocol that are broken, slow or malicious, over a WebSocket: each gets an error for an
//! answer or a close with a reason, beside a well-behaved client that notices nothing (see [`check_in`]).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use standpipe_testkit::firebase::Fire;
use standpipe_testkit::http;
use standpipe_testkit::websocket::{CLOSE, PING, PONG, TEXT, WebSocket, frame};
use standpipe_testkit::{LIMIT, Launch, until};

use crate::hostile::check_in;
use crate::support::{Random, descriptors, metric, quiet, setting};

/// The database of these clients; the good one writes to another.
const NS: &str = "hostile";

fn check(limits: &str, scenario: impl FnOnce(SocketAddr)) {
    check_in(&[NS, "other"], limits, scenario);
}

fn fire(addr: SocketAddr) -> Fire {
    Fire::open(addr, NS).unwrap()
}

/// A value that a REST client sees in the database of these clients.
fn stored(addr: SocketAddr, path: &str) -> Value {
    http::request(addr, "GET", &format!("{path}.json?ns={NS}"), &[], b"").unwrap().json().unwrap()
}

/// A request as text.
fn request(number: u64, action: &str, body: &str) -> String {
    format!(r#"{{"t":"d","d":{{"r":{number},"a":"{action}","b":{body}}}}}"#)
}

#[test]
fn frames_that_are_none() {
    let text = frame(TEXT, b"{}");
    let length = |bytes: u64| [&[TEXT, 0xff][..], &bytes.to_be_bytes(), &[0; 4]].concat();
    let rows: Vec<(&str, Vec<u8>, u16)> = vec![
        ("an opcode of nothing", frame(0x83, b"x"), 1002),
        ("a control opcode of nothing", frame(0x8b, b"x"), 1002),
        ("a reserved bit", frame(0xc1, b"x"), 1002),
        ("all reserved bits", frame(0xf1, b"x"), 1002),
        ("no mask", vec![TEXT, 2, b'{', b'}'], 1002),
        ("a long ping", frame(PING, &[b'x'; 126]), 1002),
        ("a ping in fragments", frame(0x09, b"x"), 1002),
        ("a close in fragments", frame(0x08, b""), 1002),
        ("a fragment of nothing", frame(0x80, b"x"), 1002),
        ("a beginning in the middle", [frame(0x01, b"{"), text.clone()].concat(), 1002),
        ("a length with its highest bit", length(1 << 63), 1002),
        ("a length longer than its bytes need", [&[TEXT, 0xfe, 0, 2, 0, 0, 0, 0][..], b"{}"].concat(), 1002),
        ("a huge length", length(1 << 40), 1009),
        ("a message that is too long", length(70_000), 1009),
        ("bytes", frame(0x82, b"{}"), 1003),
        ("no UTF-8", frame(TEXT, b"\"\xff\""), 1007),
        ("half a character at the end", frame(TEXT, b"\"\xc3"), 1007),
        ("half a surrogate pair", frame(TEXT, b"\"\xed\xa0\x80\""), 1007),
    ];
    check("ws_message_bytes_max = 65536\n", |addr| {
        for (what, bytes, code) in &rows {
            // Whole, and a byte at a time.
            for piece in [bytes.len(), 1] {
                let mut client = fire(addr);
                for piece in bytes.chunks(piece) {
                    // It may have been closed before the end.
                    let _ = client.socket.send(piece);
                }
                let closed = client.socket.closed();
                let (got, words) = closed.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(got, *code, "{what}: {words:?}");
                assert!(!words.is_empty(), "{what}: it says why");
            }
        }
    });
}

#[test]
fn frames_that_are_odd_but_right() {
    check("", |addr| {
        let mut client = fire(addr);
        let text = request(1, "s", r#"{"c":{}}"#);
        let (one, two) = text.as_bytes().split_at(9);
        // Fragments, with a ping in between that is answered first, and one of them empty.
        let bytes = [frame(0x01, one), frame(PING, b"in between"), frame(0x00, b""), frame(0x80, two)].concat();
        bytes.chunks(1).for_each(|byte| client.socket.send(byte).unwrap());
        assert_eq!(client.socket.frame().unwrap(), (PONG, b"in between".to_vec()));
        assert_eq!(client.socket.json().unwrap()["d"]["b"]["s"], "ok");
        // A pong that nobody asked for, an empty text, keepalives.
        for odd in [frame(PONG, b"?"), frame(TEXT, b"0"), frame(TEXT, b"000000")] {
            client.socket.send(&odd).unwrap();
        }
        assert_eq!(client.before_pong().unwrap(), [] as [Value; 0]);
        // Everything in one write, and the goodbye with it.
        let all: Vec<u8> = (2..50).flat_map(|n| frame(TEXT, request(n, "s", "{}").as_bytes())).collect();
        client.socket.send(&[all, frame(CLOSE, &1000_u16.to_be_bytes())].concat()).unwrap();
        assert_eq!(client.socket.closed().unwrap().0, 1000);
    });
}

/// Numbers of pieces, and the pieces.
#[test]
fn messages_in_pieces_that_do_not_come() {
    check("ws_message_bytes_max = 65536\nws_silence_ms_max = 1500\n", |addr| {
        let text = request(1, "s", "{}");
        let say = |texts: &[&str]| {
            let mut client = fire(addr);
            texts.iter().for_each(|text| client.socket.text(text).unwrap());
            client
        };
        // They are put together, whatever their number looks like and however they are cut.
        let letters: Vec<String> = text.chars().map(String::from).collect();
        let count = letters.len().to_string();
        let pieces: Vec<&str> = [count.as_str()].into_iter().chain(letters.iter().map(String::as_str)).collect();
        assert_eq!(say(&pieces).socket.json().unwrap()["d"]["r"], 1);
        assert_eq!(say(&["000002", &text[..7], &text[7..]]).socket.json().unwrap()["d"]["r"], 1);
        assert_eq!(say(&["1", &text]).socket.json().unwrap()["d"]["r"], 1);
        // What is no number of pieces is a message, and no JSON of ours.
        for odd in ["-1", "1.5", "1e2", "12345678"] {
            let mut client = say(&[odd]);
            let told = client.socket.json().unwrap();
            assert_eq!(told["d"]["t"], "e", "{odd}: {told}");
            client.before_pong().unwrap();
        }
        for text in ["", "x", "+1", "{", "[1,", "\u{feff}{}", "NaN"] {
            let (code, words) = say(&[text]).socket.closed().unwrap();
            assert!(matches!(code, 1003 | 1007 | 1008) && words.contains("JSON"), "{text:?}: {code} {words:?}");
        }
        // Too many of them, or fewer than said: cut when they are too long, or when nothing comes any more.
        let mut endless = say(&["999999"]);
        let piece = frame(TEXT, &[b' '; 8_192]);
        while endless.socket.send(&piece).is_ok() {}
        let waiting = [say(&["999999"]), say(&["3", "{", "}"]), say(&["1"])];
        for mut client in waiting {
            // Nothing of it is answered, and it is not there for ever.
            let (_, words) = client.socket.closed().unwrap();
            assert!(words.contains("idle"), "{words:?}");
        }
        // A close instead of a piece.
        let mut client = say(&["2", "{"]);
        client.socket.send(&frame(CLOSE, &[])).unwrap();
        assert_eq!(client.socket.closed().unwrap().0, 1000);
    });
}

/// Every action with every field of every kind but the right one: an answer, and the session goes on.
#[test]
fn fields_of_the_wrong_kind() {
    let deep = format!("{}1{}", "[".repeat(40), "]".repeat(40));
    let wrong =
        ["null", "true", "-1", "1.5", "1e308", "\"\"", "\"x\"", "\"\\u0000\"", "[]", "[1]", "{}", "{\"a\":{}}", &deep];
    let actions: [(&str, &[(&str, &str)]); 16] = [
        ("s", &[("c", "{}")]),
        ("auth", &[("cred", "\"x\"")]),
        ("gauth", &[("cred", "\"x\""), ("authvar", "{}"), ("noauth", "true")]),
        ("unauth", &[]),
        ("appcheck", &[("token", "\"x\"")]),
        ("unappeck", &[]),
        ("q", &[("p", "\"/a\""), ("h", "\"\""), ("t", "1"), ("q", "{}"), ("ch", "{}")]),
        ("l", &[("p", "\"/a\""), ("h", "\"\"")]),
        ("n", &[("p", "\"/a\""), ("t", "1"), ("q", "{}")]),
        ("g", &[("p", "\"/a\""), ("q", "{}")]),
        ("p", &[("p", "\"/none\""), ("d", "null"), ("h", "\"\"")]),
        ("m", &[("p", "\"/none\""), ("d", "{\"a\":null}")]),
        ("o", &[("p", "\"/none\""), ("d", "null")]),
        ("om", &[("p", "\"/none\""), ("d", "{\"a\":null}")]),
        ("oc", &[("p", "\"/none\""), ("d", "null")]),
        ("nothing", &[("p", "\"/none\"")]),
    ];
    check("", |addr| {
        let mut client = fire(addr);
        let mut number = 0;
        let mut ask = |client: &mut Fire, action: &str, body: &str| {
            number += 1;
            client.socket.text(&request(number, action, body)).unwrap();
            loop {
                let said = client.socket.json().unwrap_or_else(|error| panic!("{action} {body}: {error}"));
                assert_ne!(said["t"], "c", "{action} {body}: {said}");
                if said["d"]["r"] == number {
                    let status = said["d"]["b"]["s"].as_str();
                    return status.unwrap_or_else(|| panic!("{action} {body}: {said}")).to_owned();
                }
                assert!(said["d"]["r"].is_null(), "an answer to nothing: {said}");
            }
        };
        for (action, fields) in actions {
            for body in wrong {
                ask(&mut client, action, body);
            }
            for missing in 0..=fields.len() {
                for other in wrong {
                    // All right but one, which is wrong; and without it, once for each.
                    let member = |(index, (name, right)): (usize, &(&str, &str))| {
                        let value = if index == missing { other } else { *right };
                        format!("\"{name}\":{value}")
                    };
                    let members: Vec<_> = fields.iter().enumerate().map(member).collect();
                    ask(&mut client, action, &format!("{{{}}}", members.join(",")));
                }
                let others = fields.iter().enumerate().filter(|(index, _)| *index != missing);
                let members: Vec<_> = others.map(|(_, (name, right))| format!("\"{name}\":{right}")).collect();
                ask(&mut client, action, &format!("{{{}}}", members.join(",")));
                // Twice the same.
                let twice: Vec<_> =
                    fields.iter().chain(fields).map(|(name, right)| format!("\"{name}\":{right}")).collect();
                ask(&mut client, action, &format!("{{{}}}", twice.join(",")));
            }
        }
        assert_ne!(ask(&mut client, "nothing", "{}"), "ok");
        // What was wrong in them was not stored; what was right, was.
        for path in ["/none", "/a"] {
            ask(&mut client, "p", &format!("{{\"p\":\"{path}\",\"d\":null}}"));
        }
        ask(&mut client, "p", "{\"p\":\"/\",\"d\":null}");
        drop(client);
        assert!(until(|| stored(addr, "/") == Value::Null), "{}", stored(addr, "/"));
    });
}

/// Messages that are no request: said so, or closed; and the number of a request is anything.
#[test]
fn envelopes_that_are_wrong() {
    let rows = [
        "null",
        "1234567",
        "\"x\"",
        "[]",
        "{}",
        r#"{"t":"d"}"#,
        r#"{"d":{}}"#,
        r#"{"t":1,"d":{}}"#,
        r#"{"t":"x","d":{}}"#,
        r#"{"t":"d","d":[]}"#,
        r#"{"t":"d","d":null}"#,
        r#"{"t":"d","d":{"r":1}}"#,
        r#"{"t":"d","d":{"a":"s","b":{}}}"#,
        r#"{"t":"d","d":{"r":-1,"a":"s","b":{}}}"#,
        r#"{"t":"d","d":{"r":1.5,"a":"s","b":{}}}"#,
        r#"{"t":"d","d":{"r":"1","a":"s","b":{}}}"#,
        r#"{"t":"d","d":{"r":1e400,"a":"s","b":{}}}"#,
        r#"{"t":"d","d":{"r":99999999999999999999999,"a":"s","b":{}}}"#,
        r#"{"t":"d","d":{"r":null,"a":"s","b":{}}}"#,
        r#"{"t":"d","d":{"r":1,"a":1,"b":{}}}"#,
        r#"{"t":"d","d":{"r":1,"a":null,"b":{}}}"#,
        r#"{"t":"d","d":{"r":1,"a":"s","b":[]}}"#,
        r#"{"t":"d","d":{"r":1,"r":2,"a":"s","b":{}}}"#,
        r#"{"t":"c","d":{}}"#,
        r#"{"t":"c","d":{"t":1}}"#,
        r#"{"t":"c","d":"p"}"#,
        r#"{"t":"c","d":{"t":"h","d":{}}}"#,
        r#"{"t":"c","d":{"t":"a","d":{}}}"#,
        r#"{"t":"c","d":{"t":"n","d":{}}}"#,
        r#"{"t":"c","d":{"t":"s","d":"die"}}"#,
        r#"{"t":"c","d":{"t":"r","d":"evil.example"}}"#,
        r#"{"t":"c","d":{"t":"???"}}"#,
    ];
    check("", |addr| {
        let mut client = fire(addr);
        for row in rows {
            client.socket.text(row).unwrap();
            let said = client.before_pong().unwrap_or_else(|error| panic!("{row}: {error}"));
            assert!(said.len() <= 1, "{row}: {said:?}");
            let quiet = row.contains(r#""c","d":{"t":""#) && !row.contains("\"t\":1");
            assert_eq!(said.is_empty(), quiet, "{row}: {said:?}");
        }
        // The largest number there is comes back as it is; the same number twice is two answers.
        for number in [0, 7, 7, u64::from(u32::MAX), (1 << 53) + 1, u64::MAX] {
            client.socket.text(&request(number, "s", "{}")).unwrap();
            let answer = client.socket.message().unwrap();
            assert!(answer.contains(&format!("\"r\":{number},")), "{answer}");
        }
    });
}

#[test]
fn json_bombs() {
    check("", |addr| {
        let mut client = fire(addr);
        let many = |open: &str, close: &str, depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        for (what, value) in [
            ("deep arrays", many("[", "]", 200_000)),
            ("deep objects", many("{\"a\":", "}", 200_000)),
            ("33 levels", many("{\"a\":", "}", 33)),
            ("open for ever", "[".repeat(200_000)),
            ("a key of 1 MB", format!("{{\"{}\":1}}", "k".repeat(1 << 20))),
            ("a number of 1 MB", "9".repeat(1 << 20)),
        ] {
            for (action, body) in [
                ("p", format!("{{\"p\":\"/bomb\",\"d\":{value}}}")),
                ("m", format!("{{\"p\":\"/bomb\",\"d\":{{\"a\":{value}}}}}")),
                ("o", format!("{{\"p\":\"/bomb\",\"d\":{value}}}")),
                ("q", format!("{{\"p\":\"/bomb\",\"q\":{value},\"t\":1,\"h\":\"\"}}")),
                ("q", format!("{{\"p\":\"/bomb\",\"h\":{value}}}")),
                ("g", format!("{{\"p\":\"/bomb\",\"q\":{{\"sp\":{value}}}}}")),
                ("auth", format!("{{\"cred\":{value}}}")),
                ("gauth", format!("{{\"cred\":\"owner\",\"authvar\":{value}}}")),
                ("s", format!("{{\"c\":{value}}}")),
            ] {
                let number = 1;
                if client.socket.text(&request(number, action, &body)).is_err() {
                    panic!("{what} in {action}: closed before it was read");
                }
                // Answered, told, or closed with a reason.
                match client.socket.json() {
                    Ok(said) => {
                        assert!(said["d"]["r"] == number || said["d"]["t"] == "e", "{what} in {action}: {said}")
                    }
                    Err(error) => {
                        let error = error.to_string();
                        assert!(
                            error.contains("closed with 1003") || error.contains("closed with 1008"),
                            "{what}: {error}"
                        );
                        client = fire(addr);
                    }
                }
                client.before_pong().unwrap_or_else(|error| panic!("{what} in {action}: {error}"));
                // The database of this client may have become somebody's.
                client.send("unauth", json!({})).unwrap();
                client.before_pong().unwrap();
            }
        }
        // Wide ones are just large.
        let wide = vec![1; 300_000];
        client.ok("p", json!({"p": "/bomb", "d": wide})).unwrap();
        client.ok("p", json!({"p": "/bomb", "d": null})).unwrap();
        assert_eq!(stored(addr, "/"), Value::Null);
    });
}

/// Paths, keys and hashes that are none.
#[test]
fn paths_keys_and_hashes_that_are_none() {
    let deep = "/k".repeat(33);
    let long = format!("/{}", "k".repeat(769));
    let paths = [
        "/a.b",
        "/a#b",
        "/a$b",
        "/a[b",
        "/a]b",
        "/\u{0}",
        "/\u{1f}",
        "/\u{7f}",
        "/a/.value",
        "/.sv",
        "/.info/connected",
        "/..",
        "/../a",
        "/./a",
        &deep,
        &long,
        "/.priority/x",
    ];
    check("", |addr| {
        let mut client = fire(addr);
        let refused = |client: &mut Fire, action: &str, body: Value| {
            let (status, data, _) = client.ask(action, body.clone()).unwrap();
            assert!(status != "ok" && data.is_string(), "{action} {body}: {status} {data}");
        };
        for path in paths {
            refused(&mut client, "p", json!({"p": path, "d": 1}));
            refused(&mut client, "p", json!({"p": "/", "d": {path.trim_start_matches('/'): {"x": 1}}}));
            refused(&mut client, "m", json!({"p": path, "d": {"a": 1}}));
            refused(&mut client, "m", json!({"p": "/", "d": {path: 1}}));
            refused(&mut client, "o", json!({"p": path, "d": 1}));
            refused(&mut client, "om", json!({"p": "/", "d": {path: 1}}));
            for action in ["q", "g", "n", "oc"] {
                // Nothing is there; that it is answered is all.
                client.ask(action, json!({"p": path, "h": "", "d": null})).unwrap();
            }
        }
        for merge in [
            json!({"a": 1, "a/b": 2}),
            json!({"/a/b/": 1, "a//b": 2}),
            json!({"": 1}),
            json!({"/": 1, "a": 1}),
            json!({"a": {".sv": "nothing"}}),
            json!({"a": {".sv": {"increment": "x"}}}),
            json!({"a": {".value": 1, "b": 2}}),
            json!({"a": {".priority": {"b": 1}, ".value": 1}}),
            json!({"a": {".priority": true, "b": 1}}),
        ] {
            refused(&mut client, "m", json!({"p": "/", "d": merge}));
        }
        // What looks like a path but is a key.
        client.ok("p", json!({"p": "//a%2Fb//%00/", "d": "😀"})).unwrap();
        assert_eq!(client.ok("g", json!({"p": "/"})).unwrap().0, json!({"a%2Fb": {"%00": "😀"}}));
        client.ok("p", json!({"p": "/", "d": null})).unwrap();
        // Hashes that are no hash match nothing.
        client.ok("p", json!({"p": "/h", "d": 1})).unwrap();
        for hash in
            ["x", "====", "\u{0}", "YPVfR2bXt/lcDjiQZ8pOkAd3qkQ", &"A".repeat(100_000), "YPVfR2bXt/lcDjiQZ8pOkAd3qkQ= "]
        {
            let (status, _, _) = client.ask("p", json!({"p": "/h", "d": 2, "h": hash})).unwrap();
            assert!(status == "datastale" || status == "invalid", "{hash:.20}: {status}");
            let (status, _, pushed) = client.ask("q", json!({"p": "/h", "h": hash})).unwrap();
            assert!(status == "ok" && pushed.len() == 1 || status == "invalid", "{hash:.20}: {status} {pushed:?}");
        }
        assert_eq!(client.ok("g", json!({"p": "/h"})).unwrap().0, 1);
        // Strings as long as they may be, and longer.
        let ten = "x".repeat(10 << 20);
        client.ok("p", json!({"p": "/h", "d": ten})).unwrap();
        refused(&mut client, "p", json!({"p": "/h", "d": format!("{ten}x")}));
        assert_eq!(client.ok("g", json!({"p": "/h"})).unwrap().0.as_str().map(str::len), Some(10 << 20));
        client.ok("p", json!({"p": "/", "d": null})).unwrap();
    });
}

#[test]
fn random_bytes_in_and_around_frames() {
    let mut random = Random::new();
    check("ws_silence_ms_max = 5000\n", |addr| {
        let real = [request(1, "q", r#"{"p":"/a","h":""}"#), request(2, "p", r#"{"p":"/a","d":null}"#)];
        for round in 0..150 {
            let mut client = fire(addr);
            client.socket.set_limit(Duration::from_secs(20));
            let mut bytes: Vec<u8> = match round % 3 {
                0 => (0..1 + random.below(300)).map(|_| random.below(256) as u8).collect(),
                _ => real.iter().flat_map(|text| frame(TEXT, text.as_bytes())).collect(),
            };
            for _ in 0..1 + random.below(3) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
            // Its frames may be whole by chance, so the end is ours to say, if the server does not.
            let _ = client.socket.send(&bytes);
            let _ = client.socket.stream().shutdown(std::net::Shutdown::Write);
            while client.socket.frame().is_ok() {}
        }
        fire(addr).ok("p", json!({"p": "/", "d": null})).unwrap();
    });
}

/// Listens come and go by the thousand, many to a path, and as many as a connection may have.
#[test]
fn crowds_of_listens() {
    check("listens_per_session_max = 3000\n", |addr| {
        let mut client = fire(addr);
        for n in 0..2_000 {
            client.send("q", json!({"p": format!("/crowd/{}", n % 500), "h": ""})).unwrap();
            if n % 3 == 0 {
                client.send("n", json!({"p": format!("/crowd/{}", n % 500)})).unwrap();
            }
        }
        client.before_pong().unwrap();
        for tag in 1..=200 {
            client.ok("q", json!({"p": "/crowd", "q": {"l": tag, "i": ".key"}, "t": tag, "h": ""})).unwrap();
            // The same tag once more takes the place of the first.
            client.ok("q", json!({"p": "/crowd", "q": {"l": 1, "i": ".key"}, "t": tag, "h": ""})).unwrap();
        }
        let (_, pushed) = client.ok("p", json!({"p": "/crowd/7777", "d": 1})).unwrap();
        let tags: Vec<u64> = pushed.iter().filter_map(|push| push["b"]["t"].as_u64()).collect();
        assert_eq!(tags.len(), 200, "one for each: {}", pushed.len());
        for tag in 1..=200 {
            client.ok("n", json!({"p": "/crowd", "q": {"l": tag, "i": ".key"}, "t": tag})).unwrap();
        }
        assert_eq!(client.ok("p", json!({"p": "/crowd/7777", "d": 2})).unwrap().1, [] as [Value; 0]);
        // One that was never there is no harm.
        client.ok("n", json!({"p": "/never"})).unwrap();
        let mut refused = 0;
        for n in 0..3_500 {
            let (status, _, _) = client.ask("q", json!({"p": format!("/more/{n}"), "h": ""})).unwrap();
            refused += u32::from(status != "ok");
        }
        assert!((500..=1_000).contains(&refused), "{refused} were refused");
        client.ok("p", json!({"p": "/", "d": null})).unwrap();
    });
}

/// Who does not read is cut; who writes does not wait for it.
#[test]
fn a_reader_that_does_not_read_is_cut() {
    check("write_progress_ms_max = 1000\n", |addr| {
        let mut slow = fire(addr);
        slow.ok("q", json!({"p": "/big", "h": ""})).unwrap();
        let mut writer = fire(addr);
        let text = "x".repeat(200_000);
        let begun = Instant::now();
        // More than sockets hold.
        for n in 0..60 {
            writer.ok("p", json!({"p": "/big", "d": format!("{n}{text}")})).unwrap();
        }
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(15), "writing took {took:?}");
        assert!(until(|| metric(addr, "standpipe_connections_open") <= 3), "the slow one is still there");
        // It got the beginning of something, and the connection ended.
        while slow.socket.frame().is_ok() {}
        writer.ok("p", json!({"p": "/", "d": null})).unwrap();
    });
}

/// Peers that are gone without a word, half gone, or silent.
#[test]
fn peers_that_vanish_leave_what_they_armed() {
    check("ws_silence_ms_max = 1500\n", |addr| {
        let arm = |key: &str| {
            let mut client = fire(addr);
            client.ok("o", json!({"p": format!("/gone/{key}"), "d": true})).unwrap();
            client
        };
        let reset = arm("reset");
        socket_linger(&reset);
        drop(reset);
        let half = arm("half");
        half.socket.stream().shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = arm("said");
        said.socket.send(&frame(CLOSE, &1001_u16.to_be_bytes())).unwrap();
        let mut middle = arm("middle");
        middle.socket.send(&frame(TEXT, request(9, "s", "{}").as_bytes())[..9]).unwrap();
        let _silent = arm("silent");
        let mut replaced = arm("replaced");
        let again = WebSocket::open(addr, &format!("/.ws?v=5&ns={NS}&ls={}", replaced.id()));
        assert!(replaced.socket.closed().is_ok());
        let expected =
            json!({"half": true, "middle": true, "replaced": true, "reset": true, "said": true, "silent": true});
        assert!(until(|| stored(addr, "/gone") == expected), "{}", stored(addr, "/gone"));
        // A name of another database's session, or of none, ends nobody's.
        let mut kept = arm("kept");
        for (ns, name) in [("other", kept.id().to_owned()), (NS, "nobody".to_owned()), (NS, "x".repeat(10_000))] {
            drop(WebSocket::open(addr, &format!("/.ws?v=5&ns={ns}&ls={name}")).unwrap());
        }
        kept.before_pong().unwrap();
        drop((half, again, kept));
        fire(addr).ok("p", json!({"p": "/", "d": null})).unwrap();
        assert!(until(|| metric(addr, "standpipe_connections_open") <= 2));
        fire(addr).ok("p", json!({"p": "/", "d": null})).unwrap();
    });
}

fn socket_linger(client: &Fire) {
    // Zero: closing resets.
    let linger = Some(Duration::ZERO);
    rustix::net::sockopt::set_socket_linger(client.socket.stream(), linger).unwrap();
}

#[test]
fn thousands_of_idle_sessions() {
    let count = setting("STANDPIPE_TEST_IDLE", 2_000) as usize;
    descriptors(count as u64 + 500);
    check("", |addr| {
        let mut idle: Vec<Fire> = (0..count).map(|_| fire(addr)).collect();
        for (n, client) in idle.iter_mut().enumerate() {
            client.ok("q", json!({"p": format!("/idle/{n}"), "h": ""})).unwrap();
        }
        let begun = Instant::now();
        let (mut writer, last) = (fire(addr), count - 1);
        for n in [0, last / 2, last] {
            writer.ok("p", json!({"p": format!("/idle/{n}"), "d": n})).unwrap();
            assert_eq!(idle[n].socket.json().unwrap()["d"]["b"]["d"], n);
        }
        writer.ok("p", json!({"p": "/", "d": null})).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    });
}

/// After `kill -9`, what clients had armed is done when the server starts again.
#[test]
fn what_was_armed_is_done_after_a_crash() {
    let mut server = Launch::dev().start().unwrap();
    let mut client = fire(server.addr());
    client.ok("p", json!({"p": "/here", "d": "yes"})).unwrap();
    client.ok("o", json!({"p": "/here", "d": "no"})).unwrap();
    client.ok("om", json!({"p": "/", "d": {"at": {".sv": "timestamp"}, "deep/er": 1}})).unwrap();
    client.ok("o", json!({"p": "/kept", "d": "never"})).unwrap();
    client.ok("oc", json!({"p": "/kept", "d": null})).unwrap();
    server.kill().unwrap();
    server.restart().unwrap();
    let left = stored(server.addr(), "/");
    assert!(left["at"].is_u64(), "{left}");
    assert_eq!((&left["here"], &left["deep"], left.get("kept")), (&json!("no"), &json!({"er": 1}), None));
    // Once: a second start changes nothing.
    server.kill().unwrap();
    server.restart().unwrap();
    assert_eq!(stored(server.addr(), "/"), left);
    quiet(server, &[]);
}

/// The server stops while sessions are in every state; what was acknowledged is kept, what was armed is done.
#[test]
fn a_stop_in_every_state() {
    let mut server = Launch::dev().start().unwrap();
    let addr = server.addr();
    let mut idle = fire(addr);
    idle.ok("o", json!({"p": "/left", "d": true})).unwrap();
    let mut middle = fire(addr);
    middle.socket.text("3").unwrap();
    let mut half = fire(addr);
    half.socket.send(&frame(TEXT, b"{}")[..3]).unwrap();
    let mut watching = fire(addr);
    watching.ok("q", json!({"p": "/", "h": ""})).unwrap();
    let mut writing = fire(addr);
    for n in 0..200 {
        writing.send("p", json!({"p": "/n", "d": n})).unwrap();
    }
    let begun = Instant::now();
    server.signal(rustix::process::Signal::TERM).unwrap();
    let mut acknowledged = None;
    while let Ok(answer) = writing.socket.json() {
        if answer["d"]["b"]["s"] == "ok" {
            acknowledged = answer["d"]["r"].as_i64();
        }
    }
    for client in [&mut idle, &mut middle, &mut half, &mut watching] {
        let (code, _) = client.socket.closed().unwrap();
        assert_eq!(code, 1001);
    }
    assert!(server.wait().unwrap().success());
    assert!(begun.elapsed() < LIMIT / 3, "{:?}", begun.elapsed());
    server.restart().unwrap();
    let left = stored(server.addr(), "/");
    assert_eq!(left["left"], true, "{left}");
    // Request 1 wrote 0, so that of number r wrote r - 1; more may have been written than was said.
    assert!(left["n"].as_i64() >= acknowledged.map(|number| number - 1), "{left} {acknowledged:?}");
    quiet(server, &[]);
}
