//! Long polling on the wire (firebase-rtdb §8), without a browser: the scripts, the order of things, the move to a
//! WebSocket step by step, and clients that are broken, slow or malicious (see [`check_in`]).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use standpipe_testkit::firebase::{Asked, Call, Fire, Poller, calls};
use standpipe_testkit::http::request;
use standpipe_testkit::websocket::{CLOSE, WebSocket, frame};
use standpipe_testkit::{LIMIT, Launch, until};

use crate::hostile::check_in;
use crate::support::{Random, metric, quiet, requests_open};

const NS: &str = "polled";

/// How long a request waits for news, and how long a session lives without one: short, for these tests have no patience.
const HOLD: &str = "poll_hold_ms_max = 300\npoll_silence_ms_max = 2000\n";

fn poller(addr: SocketAddr) -> Poller {
    let mut poller = Poller::open(addr, NS).unwrap();
    let hello = poller.message().unwrap();
    assert_eq!(hello["d"]["t"], "h", "{hello}");
    poller
}

fn check(limits: &str, scenario: impl FnOnce(SocketAddr)) {
    check_in(&[NS, "other"], limits, scenario);
}

fn fire(addr: SocketAddr) -> Fire {
    Fire::open(addr, NS).unwrap()
}

fn stored(addr: SocketAddr, path: &str) -> Value {
    request(addr, "GET", &format!("{path}.json?ns={NS}"), &[], b"").unwrap().json().unwrap()
}

/// Leaves nothing behind.
fn clear(addr: SocketAddr) {
    fire(addr).ok("p", json!({"p": "/", "d": null})).unwrap();
}

/// The script that a request of long polling is answered with.
fn script(addr: SocketAddr, query: &str) -> Vec<Call> {
    let got = request(addr, "GET", &format!("/.lp?{query}"), &[], b"").unwrap();
    assert_eq!(got.status, 200, "{query}: {}", got.text());
    assert_eq!(got.header("content-type"), Some("application/javascript; charset=utf-8"));
    assert_eq!(got.header("cache-control"), Some("no-cache"));
    assert_eq!(got.header("access-control-allow-origin"), Some("*"));
    assert_eq!(got.header("x-content-type-options"), Some("nosniff"));
    calls(&got.text()).unwrap()
}

#[test]
fn a_session_by_long_polling() {
    check(HOLD, |addr| {
        let mut client = poller(addr);
        assert_eq!(client.ok("s", json!({"c": {}})).unwrap().1, [] as [Value; 0]);
        let (data, pushed) = client.ok("q", json!({"p": "/a", "h": ""})).unwrap();
        // Nothing is there, which is what its hash says that it has.
        assert_eq!((data, pushed), (json!({}), vec![]));
        // What another one writes comes to the request that waits.
        client.request("").unwrap();
        let value = json!({"text": "é🦊\u{2028}</script>", "list": [1, 2]});
        fire(addr).ok("p", json!({"p": "/a/b", "d": value})).unwrap();
        let push = client.message().unwrap();
        assert_eq!(push["d"]["b"]["p"], "a/b", "{push}");
        assert_eq!(push["d"]["b"]["d"]["text"], value["text"]);
        // Its own write: the push comes before the answer. The value goes in many pieces, and comes back whole.
        let long = "0123456789 é🦊 ".repeat(4_000);
        let (_, pushed) = client.ok("p", json!({"p": "/a/b", "d": long})).unwrap();
        assert_eq!(pushed, [json!({"a": "d", "b": {"p": "a/b", "d": long}})]);
        // Nothing to say: a response of nothing, and every number is used.
        client.poll().unwrap();
        client.poll().unwrap();
        assert_eq!(client.ok("n", json!({"p": "/a"})).unwrap().0, "");
        let sessions = metric(addr, "standpipe_connections_open");
        let got = request(addr, "POST", &client.target("&disconn=t"), &[], b"").unwrap();
        assert_eq!(calls(&got.text()).unwrap(), [Call::Close(None)]);
        assert!(until(|| metric(addr, "standpipe_connections_open") < sessions));
        clear(addr);
    });
}

/// The same random requests over both transports are answered with the same, and tell the same, in the same order.
#[test]
fn both_transports_say_the_same() {
    let mut random = Random::new();
    check(HOLD, |addr| {
        let (mut by_socket, mut by_polls) = (fire(addr), poller(addr));
        for _ in 0..150 {
            let path = ["", "/a", "/a/b", "/a/b/c", "/d", "/d/.priority"][random.below(6) as usize];
            let value = match random.below(7) {
                0 => Value::Null,
                1 => json!(random.below(10)),
                2 => json!({"a": random.below(3), "b": {"c": true}}),
                3 => json!({".value": "x", ".priority": random.below(3)}),
                4 => json!({"a/b": null, "d": [1, 2]}),
                5 => json!({".sv": {"increment": 1}}),
                _ => json!("y".repeat(random.below(6_000) as usize)),
            };
            let tag = 1 + random.below(2);
            let index = [".key", ".value", "a"][random.below(3) as usize];
            let query = json!({"i": index, "l": 2});
            let (action, mut body) = match random.below(9) {
                0..3 => ("p", json!({"d": value})),
                3 => ("m", json!({"d": value})),
                4 => ("q", json!({"h": ""})),
                5 => ("q", json!({"h": "", "q": query, "t": tag})),
                6 => ("n", if tag == 1 { json!({}) } else { json!({"q": query, "t": tag}) }),
                7 => ("g", json!({"q": query})),
                _ => ("p", json!({"d": value, "h": "stale"})),
            };
            let mut ask = |under: &str, ask: &mut dyn FnMut(&str, Value) -> Asked| {
                body["p"] = format!("/{under}{path}").into();
                let (status, data, pushed) = ask(action, body.clone());
                let told = json!([status, data, pushed]).to_string();
                told.replace(&format!("{under}/"), "").replace(under, "")
            };
            let one = ask("zq1", &mut |action, body| by_socket.ask(action, body).unwrap());
            let two = ask("zq2", &mut |action, body| by_polls.ask(action, body).unwrap());
            assert_eq!(one, two, "{action} {body}");
        }
        clear(addr);
    });
}

/// A member of that name would be the prototype of the object in a script that says it plainly.
#[test]
fn keys_that_mean_something_in_a_script() {
    check(HOLD, |addr| {
        fire(addr).ok("p", json!({"p": "/a", "d": {"__proto__": {"evil": true}, "constructor": 1}})).unwrap();
        let mut client = Poller::open(addr, NS).unwrap();
        let body = r#"{"t":"d","d":{"r":1,"a":"g","b":{"p":"/a"}}}"#;
        let query = client.pieces(body).concat();
        let text = request(addr, "GET", &client.target(&query), &[], b"").unwrap().text();
        let inner = text.split_once("JSON.parse(").and_then(|(_, rest)| rest.split_once(")]);")).unwrap().0;
        let json: String = serde_json::from_str(inner).unwrap();
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["d"]["b"]["d"], json!({"__proto__": {"evil": true}, "constructor": 1}));
        clear(addr);
    });
}

#[test]
fn a_newer_request_releases_the_older_one_at_once() {
    check("", |addr| {
        let client = poller(addr);
        let begun = Instant::now();
        let (sender, answers) = std::sync::mpsc::sync_channel(20);
        std::thread::scope(|scope| {
            for _ in 0..20 {
                let (sender, target) = (sender.clone(), client.target(""));
                scope.spawn(move || sender.send(request(addr, "GET", &target, &[], b"").unwrap().text()).unwrap());
            }
            // All but the newest, whichever that is, are answered; then that one, for it is over.
            let mut texts: Vec<String> = (0..19).map(|_| answers.recv().unwrap()).collect();
            script(addr, &format!("disconn=t&id={}&pw={}", client.id, client.password));
            texts.push(answers.recv().unwrap());
            let calls: Vec<Vec<Call>> = texts.iter().map(|text| calls(text).unwrap()).collect();
            assert_eq!(calls[19].last(), Some(&Call::Close(Some(20))));
            // Each has a number of its own, and none is left out.
            for number in 1..=20 {
                let with = calls.iter().filter(|calls| calls[0] == Call::Response(number, vec![])).count();
                assert_eq!(with, 1, "{number}: {calls:?}");
            }
        });
        assert!(begun.elapsed() < Duration::from_secs(15), "nobody waits for twenty seconds: {:?}", begun.elapsed());
    });
}

#[test]
fn pieces_come_in_any_order_and_twice() {
    let mut random = Random::new();
    check(HOLD, |addr| {
        let mut client = poller(addr);
        let mut queries = Vec::new();
        let messages: Vec<String> = (0..12)
            .map(|n| {
                let text = format!("{n}{}", "x".repeat(n * 900));
                json!({"t": "d", "d": {"r": n, "a": "p", "b": {"p": format!("/pieces/{n}"), "d": text}}}).to_string()
            })
            .collect();
        messages.iter().for_each(|message| queries.extend(client.pieces(message)));
        let again: Vec<String> = queries.iter().step_by(3).cloned().collect();
        queries.extend(again);
        for end in (1..queries.len()).rev() {
            queries.swap(end, random.below(end as u64 + 1) as usize);
        }
        queries.iter().for_each(|query| client.request(query).unwrap());
        // They are answered in the order of their numbers, each once.
        for n in 0..12 {
            let answer = client.message().unwrap();
            assert_eq!((&answer["d"]["r"], &answer["d"]["b"]["s"]), (&json!(n), &json!("ok")), "{answer}");
        }
        client.ok("s", json!({})).unwrap();
        assert_eq!(stored(addr, "/pieces").as_array().map(Vec::len), Some(12));
        clear(addr);
    });
}

/// What is no request is refused, and nothing of it comes back into a page.
#[test]
fn requests_that_are_none() {
    let evil = "%3C/script%3E%3Cscript%3Ealert(1)";
    check(HOLD, |addr| {
        for query in [
            String::new(),
            "x=y".into(),
            "id=a".into(),
            "pw=a".into(),
            "start=t&cb=alert(1)".into(),
            format!("start=t&cb={evil}"),
            "start=t&cb=-1".into(),
            "start=t&cb=".into(),
            "start=t&cb=99999999999999".into(),
            "id=a&pw=b&seg0=x&ts0=1&d0=".into(),
            "id=a&pw=b&seg0=1".into(),
            "id=a&pw=b&seg1=0&ts1=1&d1=".into(),
            format!("start=t&ns={}", "n".repeat(65)),
            "start=t&ns=%00".into(),
        ] {
            let got = request(addr, "GET", &format!("/.lp?{query}"), &[], b"").unwrap();
            assert_eq!(got.status, 400, "{query}: {}", got.text());
            assert!(got.json().unwrap()["error"].is_string() && !got.text().contains("alert"), "{}", got.text());
        }
        // Who does not know a session's name and password is told to close, whatever else is said.
        let mut client = poller(addr);
        let (id, pw) = (client.id.clone(), client.password.clone());
        for who in [
            format!("id={evil}&pw={evil}"),
            "id=&pw=".into(),
            format!("id={id}&pw="),
            format!("id={id}&pw={}", &pw[1..]),
            format!("id={id}&pw={pw}x"),
            format!("id={pw}&pw={id}"),
            format!("id={id}&pw={}&disconn=t", "A".repeat(pw.len())),
            format!("id={id}&pw={id}&seg0=0&ts0=1&d0=e30."),
            format!("id={}&pw={}", "x".repeat(20_000), "y".repeat(20_000)),
        ] {
            assert_eq!(script(addr, &who), [Call::Close(None)], "{who:.80}");
        }
        client.ok("s", json!({})).unwrap();
        let page = request(addr, "GET", &format!("/.lp?dframe=t&id={evil}&pw={evil}"), &[], b"").unwrap();
        assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
        assert!(page.text().contains("disconn") && !page.text().contains("alert"), "{}", page.text());
        for method in ["PUT", "PATCH", "DELETE", "TRACE"] {
            let got = request(addr, method, "/.lp?start=t", &[], b"").unwrap();
            assert!(matches!(got.status, 405 | 501 | 400), "{method}: {}", got.status);
        }
    });
}

/// A session whose pieces make no sense ends, and says so to the request that waits.
#[test]
fn pieces_that_are_none_end_the_session() {
    check(&format!("{HOLD}ws_message_bytes_max = 65536\n"), |addr| {
        let big = "A".repeat(40_000);
        for query in [
            "&seg0=0&ts0=0&d0=".into(),
            "&seg0=0&ts0=2&d0=AA&seg1=1&ts1=3&d1=AA".into(),
            "&seg0=18446744073709551615&ts0=1&d0=AA".into(),
            "&seg0=5000&ts0=1&d0=AA".into(),
            "&seg0=0&ts0=1&d0=%%%".into(),
            "&seg0=0&ts0=1&d0=____".into(),
            "&seg0=0&ts0=1&d0=QUJD".into(),
            format!("&seg0=0&ts0=9&d0={big}&seg1=1&ts1=9&d1="),
        ] {
            let too_long = query.contains("AAAAA");
            let mut client = poller(addr);
            client.request(&query).unwrap();
            if too_long {
                // Not yet: but one more is.
                (1..3).for_each(|n| client.request(&format!("&seg0={n}&ts0=9&d0={big}")).unwrap());
            }
            client.to_the_end().unwrap();
            let who = format!("id={}&pw={}", client.id, client.password);
            assert_eq!(script(addr, &who), [Call::Close(None)], "{query:.80}");
        }
    });
}

/// Sessions that are begun and left, that never complete a message, and too many of them.
#[test]
fn sessions_that_are_left_are_lost_and_done() {
    let limits = "poll_hold_ms_max = 200\npoll_silence_ms_max = 1200\nconnections_max = 60\n";
    check(limits, |addr| {
        let mut armed = poller(addr);
        armed.ok("o", json!({"p": "/gone/armed", "d": true})).unwrap();
        let mut pieces = poller(addr);
        pieces.ok("o", json!({"p": "/gone/pieces", "d": true})).unwrap();
        let next = pieces.piece;
        pieces.request(&format!("&seg0={next}&ts0=1000000&d0={}", "A".repeat(1_840))).unwrap();
        let mut said = poller(addr);
        said.ok("o", json!({"p": "/gone/said", "d": true})).unwrap();
        assert_eq!(script(addr, &format!("disconn=t&id={}&pw={}", said.id, said.password)), [Call::Close(None)]);
        assert!(until(|| stored(addr, "/gone/said") == true));
        // One that asks again and again lives on, whatever the limit.
        let mut alive = poller(addr);
        let (mut started, mut refused) = (0, 0);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            let got = request(addr, "GET", "/.lp?start=t&cb=1&ns=polled", &[], b"").unwrap();
            match got.status {
                200 => started += 1,
                503 => {
                    assert!(got.header("retry-after").is_some(), "{}", got.text());
                    refused += 1;
                }
                other => panic!("{other}: {}", got.text()),
            }
            if (started + refused) % 16 == 0 {
                alive.poll().unwrap();
            }
        }
        assert!(started >= 50 && refused > 0, "{started} were started, {refused} refused");
        let expected = json!({"armed": true, "pieces": true, "said": true});
        assert!(
            until(|| {
                alive.poll().unwrap();
                stored(addr, "/gone") == expected
            }),
            "{}",
            stored(addr, "/gone")
        );
        alive.ok("s", json!({})).unwrap();
        drop((alive, armed, pieces, said));
        assert!(until(|| metric(addr, "standpipe_connections_open") <= 2), "all of them are gone");
        clear(addr);
    });
}

/// One that takes nothing of what it listens to holds a bounded part of it, and delays nobody.
#[test]
fn a_poller_that_takes_nothing() {
    check("poll_hold_ms_max = 1000\npoll_silence_ms_max = 5000\npoll_buffer_bytes_max = 100000\n", |addr| {
        let mut slow = poller(addr);
        slow.ok("q", json!({"p": "/big", "h": ""})).unwrap();
        let mut writer = fire(addr);
        let text = "x".repeat(50_000);
        let begun = Instant::now();
        for n in 0..60 {
            writer.ok("p", json!({"p": "/big", "d": format!("{n}{text}")})).unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "writing took {:?}", begun.elapsed());
        // It comes back before it is lost, and sees the newest value in the end.
        let last = format!("59{text}");
        while slow.message().unwrap()["d"]["b"]["d"] != last {}
        slow.ok("s", json!({})).unwrap();
        // And now it does not.
        drop(slow);
        assert!(until(|| metric(addr, "standpipe_connections_open") <= 3), "it is lost");
        writer.ok("p", json!({"p": "/", "d": null})).unwrap();
    });
}

/// What a client does to move, step by step: the last word there before the first word here.
#[test]
fn a_session_moves_to_a_websocket() {
    check(HOLD, |addr| {
        let mut client = poller(addr);
        client.ok("q", json!({"p": "/a", "h": ""})).unwrap();
        client.ok("o", json!({"p": "/left", "d": true})).unwrap();
        let mut socket = WebSocket::open(addr, &format!("/.ws?v=5&ns={NS}&s={}", client.id)).unwrap();
        let control = |kind: &str| format!(r#"{{"t":"c","d":{{"t":"{kind}","d":{{}}}}}}"#);
        assert_eq!(socket.message().unwrap(), control("a"));
        // A second one is told to leave it.
        let mut second = WebSocket::open(addr, &format!("/.ws?v=5&ns={NS}&s={}", client.id)).unwrap();
        assert_eq!(second.json().unwrap()["d"]["t"], "r");
        assert_eq!(second.closed().unwrap().0, 1000);
        socket.text(&control("p")).unwrap();
        assert_eq!(socket.message().unwrap(), control("o"));
        // Until the client has said its last word, news comes where it came before.
        fire(addr).ok("p", json!({"p": "/a", "d": 1})).unwrap();
        assert_eq!(client.message().unwrap()["d"]["b"]["d"], 1);
        // Its first words here arrive before its last one there.
        socket.text(&control("a")).unwrap();
        let write = |number: u64, value: u64| {
            json!({"t": "d", "d": {"r": number, "a": "p", "b": {"p": "/a", "d": value}}}).to_string()
        };
        socket.text(&write(101, 3)).unwrap();
        let mut queries = client.pieces(&write(100, 2));
        queries.extend(client.pieces(&control("n")));
        queries.iter().for_each(|query| client.request(query).unwrap());
        // So 2 was written before 3, and each is told where its answer belongs, in order.
        let mut polled = Vec::new();
        client.to_the_end().unwrap();
        while let Ok(message) = client.message() {
            polled.push(message);
        }
        assert_eq!(polled.last().map(|last| &last["d"]["t"]), Some(&json!("n")), "{polled:?}");
        let mut all: Vec<Value> = polled[..polled.len() - 1].to_vec();
        while all.last().is_none_or(|last| last["d"]["r"] != 101) {
            all.push(socket.json().unwrap());
        }
        let kinds: Vec<Value> =
            all.iter().map(|message| message["d"].get("r").unwrap_or(&message["d"]["b"]["d"]).clone()).collect();
        assert_eq!(kinds, [json!(2), json!(100), json!(3), json!(101)]);
        // The frame that goes with polling says goodbye to nobody.
        assert_eq!(script(addr, &format!("disconn=t&id={}&pw={}", client.id, client.password)), [Call::Close(None)]);
        fire(addr).ok("p", json!({"p": "/a", "d": 4})).unwrap();
        assert_eq!(socket.json().unwrap()["d"]["b"]["d"], 4);
        assert_eq!(stored(addr, "/left"), Value::Null);
        socket.send(&frame(CLOSE, &1000_u16.to_be_bytes())).unwrap();
        socket.closed().unwrap();
        assert!(until(|| stored(addr, "/left") == true));
        clear(addr);
    });
}

/// Moves that fail: the session stays where it is, or ends when its client relied on the socket.
#[test]
fn moves_that_fail() {
    check(&format!("{HOLD}ws_silence_ms_max = 1500\n"), |addr| {
        let to = |id: &str| WebSocket::open(addr, &format!("/.ws?v=5&ns={NS}&s={id}")).unwrap();
        let text = |kind: &str| format!(r#"{{"t":"c","d":{{"t":"{kind}","d":{{}}}}}}"#);
        // To nobody's session: stay where you are.
        let mut client = poller(addr);
        let by_socket = fire(addr);
        for id in ["", "nobody", by_socket.id()] {
            let mut socket = to(id);
            assert_eq!(socket.json().unwrap()["d"]["t"], "r", "{id}");
            socket.closed().unwrap();
        }
        let mut other = WebSocket::open(addr, &format!("/.ws?v=5&ns=other&s={}", client.id)).unwrap();
        assert_eq!(other.json().unwrap()["d"]["t"], "r", "not from another database");
        // The socket goes before it is relied on.
        drop(to(&client.id));
        assert!(until(|| to(&client.id).json().unwrap()["d"]["t"] == "a"), "it may be tried again");
        client.ok("s", json!({})).unwrap();
        // It says what it must not.
        assert!(until(|| {
            let mut socket = to(&client.id);
            let begun = socket.json().unwrap()["d"]["t"] == "a";
            if begun {
                socket.text(r#"{"t":"d","d":{"r":1,"a":"s","b":{}}}"#).unwrap();
                assert_eq!(socket.closed().unwrap().0, 1008);
            }
            begun
        }));
        client.ok("s", json!({})).unwrap();
        // It is silent.
        assert!(until(|| to(&client.id).json().unwrap()["d"]["t"] == "a"));
        client.ok("s", json!({})).unwrap();
        // The last word without a socket to go on with.
        let mut queries = client.pieces(&text("n"));
        client.request(&queries.remove(0)).unwrap();
        client.to_the_end().unwrap();
        // The socket goes when it was relied on, with what was armed.
        let mut client = poller(addr);
        client.ok("o", json!({"p": "/left", "d": true})).unwrap();
        let mut socket = to(&client.id);
        assert_eq!(socket.message().unwrap(), text("a"));
        socket.text(&text("a")).unwrap();
        drop(socket);
        let mut queries = client.pieces(&text("n"));
        client.request(&queries.remove(0)).unwrap();
        assert!(until(|| stored(addr, "/left") == true));
        drop(by_socket);
        clear(addr);
    });
}

/// The server stops while requests wait: each is answered, and what was armed is done.
#[test]
fn a_stop_while_requests_wait() {
    let mut server = Launch::dev().start().unwrap();
    let addr = server.addr();
    let mut waiting = poller(addr);
    waiting.ok("o", json!({"p": "/left/waiting", "d": true})).unwrap();
    waiting.request("").unwrap();
    let mut silent = poller(addr);
    silent.ok("o", json!({"p": "/left/silent", "d": true})).unwrap();
    let mut moving = poller(addr);
    moving.ok("o", json!({"p": "/left/moving", "d": true})).unwrap();
    let mut socket = WebSocket::open(addr, &format!("/.ws?v=5&ns={NS}&s={}", moving.id)).unwrap();
    socket.message().unwrap();
    // The request has come when it is seen to wait.
    assert!(until(|| requests_open(addr) == 2));
    let begun = Instant::now();
    server.signal(rustix::process::Signal::TERM).unwrap();
    waiting.poll().unwrap();
    assert!(waiting.closed);
    assert!(socket.closed().is_ok());
    assert!(server.wait().unwrap().success());
    assert!(begun.elapsed() < LIMIT / 3, "{:?}", begun.elapsed());
    server.restart().unwrap();
    let expected = json!({"moving": true, "silent": true, "waiting": true});
    assert_eq!(stored(server.addr(), "/left"), expected);
    // Sessions are known to one life of the server.
    let who = format!("id={}&pw={}", waiting.id, waiting.password);
    assert_eq!(script(server.addr(), &who), [Call::Close(None)]);
    quiet(server, &[]);
}
