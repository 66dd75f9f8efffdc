//! Event streams (firebase-rtdb §10, engine §6): what is told, in which order, and that nothing is
//! missed over reconnects, restarts and crashes.

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use standpipe_testkit::http::{Conn, Stream, request};
use standpipe_testkit::{LIMIT, Server};

use crate::script::get;
use crate::support::{Random, dev, dev_with, quiet, rev, write};
use crate::watches::{Told, Wrote, apply, next, open, read_to, validate};

fn put(rev: u64, path: &str, data: Value) -> Told {
    Told { name: "put".into(), rev: Some(rev), path: path.into(), data }
}

fn patch(rev: u64, path: &str, data: Value) -> Told {
    Told { name: "patch".into(), ..put(rev, path, data) }
}

/// A write that ends what a test waits for: whatever a stream had to say before has come before.
const LAST: &str = "/a/last.json";

#[test]
fn what_a_watcher_is_told() {
    let server = dev();
    let addr = server.addr();
    let mut stream = open(addr, "/a.json", None);
    assert_eq!(stream.response.header("cache-control"), Some("no-cache"));
    assert_eq!(stream.response.header("access-control-allow-origin"), Some("*"));
    assert_eq!(next(&mut stream), put(0, "/", Value::Null), "an empty value is an event all the same");
    let mut check = |method: &str, target: &str, body: &str, expected: &dyn Fn(u64) -> Told| {
        let rev = write(addr, method, target, body);
        assert_eq!(next(&mut stream), expected(rev), "{method} {target} {body}");
    };
    check("PUT", "/a.json", r#"{"b":1,"l":["x","y"]}"#, &|rev| put(rev, "/", json!({"b": 1, "l": ["x", "y"]})));
    check("PUT", "/a/b.json", "2", &|rev| put(rev, "/b", json!(2)));
    check("PUT", "/a/c/d.json", r#"{"e":[1,2]}"#, &|rev| put(rev, "/c/d", json!({"e": [1, 2]})));
    check("PATCH", "/a.json", r#"{"b":3,"f":null,"c/d/e/0":9}"#, &|rev| {
        patch(rev, "/", json!({"b": 3, "f": null, "c/d/e/0": 9}))
    });
    check("PATCH", "/a/c.json", r#"{"x":1}"#, &|rev| patch(rev, "/c", json!({"x": 1})));
    check("DELETE", "/a/c/x.json", "", &|rev| put(rev, "/c/x", Value::Null));
    check("PUT", "/a/b.json", "null", &|rev| put(rev, "/b", Value::Null));
    // Changes above are puts at the root of the stream.
    check("PUT", "/.json", r#"{"a":{"g":1},"z":2}"#, &|rev| put(rev, "/", json!({"g": 1})));
    check("PATCH", "/.json", r#"{"a":{"h":1},"z":3}"#, &|rev| put(rev, "/", json!({"h": 1})));
    check("PATCH", "/.json", r#"{"a/h":2,"z":4}"#, &|rev| put(rev, "/h", json!(2)));
    check("PATCH", "/.json", r#"{"a/h":3,"a/i":4,"z":5}"#, &|rev| patch(rev, "/", json!({"h": 3, "i": 4})));
    check("PUT", "/a/n.json", r#"{".sv":{"increment":2}}"#, &|rev| put(rev, "/n", json!(2)));
    check("PUT", "/a.json", r#""leaf""#, &|rev| put(rev, "/", json!("leaf")));
    check("PUT", "/a/below.json", "1", &|rev| put(rev, "/below", json!(1)));
    check("DELETE", "/.json", "", &|rev| put(rev, "/", Value::Null));
    let posted = request(addr, "POST", "/a.json", &[], b"5").unwrap();
    let name = posted.json().unwrap()["name"].as_str().unwrap().to_owned();
    assert_eq!(next(&mut stream), put(rev(&posted), &format!("/{name}"), json!(5)));
    // Not told: no change, another place, a name that only begins alike, priorities, refusals.
    for (method, target, body) in [
        ("PUT", format!("/a/{name}.json"), "5"),
        ("DELETE", "/a/nothing.json".into(), ""),
        ("PUT", "/b.json".into(), "1"),
        ("PUT", "/aa.json".into(), "1"),
        ("PATCH", "/.json".into(), r#"{"b":2,"aa/b":3}"#),
        ("PUT", format!("/a/{name}/.priority.json"), "1"),
    ] {
        write(addr, method, &target, body);
    }
    for (method, headers, body) in [("PUT", &[][..], "{"), ("PUT", &[("if-match", "other")], "1"), ("BREW", &[], "1")] {
        assert!(request(addr, method, "/a.json", headers, body.as_bytes()).unwrap().status >= 400);
    }
    let last = write(addr, "PUT", LAST, "1");
    assert_eq!(next(&mut stream), put(last, "/last", json!(1)), "nothing came in between");
    quiet(server, &[]);
}

#[test]
fn a_watcher_of_a_leaf_sees_what_is_written_below_it_vanish_with_it() {
    let server = dev();
    let addr = server.addr();
    write(addr, "PUT", "/a/b/c.json", "1");
    let mut stream = open(addr, "/a/b/c.json", None);
    assert_eq!(next(&mut stream), put(1, "/", json!(1)));
    let last = write(addr, "PUT", "/a/b.json", r#""a leaf now""#);
    assert_eq!(next(&mut stream), put(last, "/", Value::Null));
}

#[test]
fn a_refused_stream_is_an_ordinary_answer() {
    let server = standpipe_testkit::Launch::serve().start().unwrap();
    let accept = [("Accept", "text/event-stream")];
    let got = request(server.addr(), "GET", "/a.json", &accept, b"").unwrap();
    assert_eq!((got.status, got.text().as_str()), (401, r#"{"error":"Permission denied"}"#));
    let server = dev();
    for (target, id, status) in [
        ("/a.json?orderBy=x", "", 400),
        ("/a.json?limitToFirst=1", "", 400),
        ("/a.json", "seven", 400),
        ("/a.json", "-1", 400),
        ("/a.json?auth=garbage", "", 401),
        ("/a.b.json", "", 400),
    ] {
        let got = request(server.addr(), "GET", target, &[accept[0], ("Last-Event-ID", id)], b"").unwrap();
        assert_eq!(got.status, status, "{target} {id}: {}", got.text());
        assert!(got.json().unwrap()["error"].is_string());
    }
}

#[test]
fn the_window_of_a_query_moves() {
    let server = dev();
    let addr = server.addr();
    write(addr, "PUT", "/q.json", r#"{"a":{"n":1},"b":{"n":2},"c":{"n":3}}"#);
    let mut stream = open(addr, "/q.json?orderBy=%22n%22&limitToLast=2", None);
    assert_eq!(next(&mut stream), put(1, "/", json!({"b": {"n": 2}, "c": {"n": 3}})));
    let mut check = |method: &str, target: &str, body: &str, expected: Value| {
        let rev = write(addr, method, target, body);
        assert_eq!(next(&mut stream), patch(rev, "/", expected), "{method} {target} {body}");
    };
    check("PUT", "/q/d.json", r#"{"n":9,"s":"x"}"#, json!({"b": null, "d": {"n": 9, "s": "x"}}));
    check("PUT", "/q/c/s.json", r#""y""#, json!({"c": {"n": 3, "s": "y"}}));
    check("PATCH", "/q.json", r#"{"a/n":20,"c/n":30}"#, json!({"a": {"n": 20}, "c": {"n": 30, "s": "y"}, "d": null}));
    check("DELETE", "/q/c.json", "", json!({"c": null, "d": {"n": 9, "s": "x"}}));
    check("PUT", "/.json", r#"{"q":{"z":{"n":1}}}"#, json!({"a": null, "d": null, "z": {"n": 1}}));
    // Outside of the window nothing is told.
    write(addr, "PUT", "/q/y.json", r#"{"n":5}"#);
    let entered = next(&mut stream);
    assert_eq!(entered.data, json!({"y": {"n": 5}}));
    write(addr, "PUT", "/q/x.json", r#"{"n":0}"#);
    let last = write(addr, "PUT", "/q/z/n.json", "2");
    assert_eq!(next(&mut stream), patch(last, "/", json!({"z": {"n": 2}})));
    assert_eq!(get(addr, "/q")["x"], json!({"n": 0}));
}

#[test]
fn a_query_by_key_and_by_value_is_watched() {
    let server = dev();
    let addr = server.addr();
    write(addr, "PUT", "/v.json", r#"{"1":10,"2":20,"10":5}"#);
    let mut by_key = open(addr, "/v.json?orderBy=%22$key%22&limitToFirst=2", None);
    let mut by_value = open(addr, "/v.json?orderBy=%22$value%22&startAt=10", None);
    assert_eq!(next(&mut by_key).data, json!({"1": 10, "2": 20}));
    assert_eq!(next(&mut by_value).data, json!({"1": 10, "2": 20}));
    let last = write(addr, "PATCH", "/v.json", r#"{"0":1,"10":11}"#);
    assert_eq!(next(&mut by_key), patch(last, "/", json!({"0": 1, "2": null})));
    assert_eq!(next(&mut by_value), patch(last, "/", json!({"10": 11})));
}

/// Reads the first event of a stream, whatever its name.
fn first(stream: &mut Stream) -> (String, Option<String>) {
    let event = stream.event(LIMIT).unwrap().unwrap();
    (event.name, event.id)
}

#[test]
fn resuming_has_no_gap_and_no_duplicate() {
    let mut server = dev();
    let revs: Vec<u64> =
        (0..10).map(|n| write(server.addr(), "PUT", &format!("/a/k{n}.json"), &n.to_string())).collect();
    let expected =
        |from: usize| -> Vec<Told> { (from..10).map(|n| put(revs[n], &format!("/k{n}"), json!(n))).collect() };
    let check = |server: &Server| {
        for from in [0, 4, 9] {
            let mut stream = open(server.addr(), "/a.json", Some(revs[from]));
            // An event comes at once even where there is nothing to tell: clients wait for one.
            assert_eq!(first(&mut stream), ("keep-alive".into(), Some(revs[from].to_string())));
            let mut told = Vec::new();
            if from < 9 {
                read_to(&mut stream, &mut told, revs[9]);
            }
            assert_eq!(told, expected(from + 1), "resumed from {from}");
        }
    };
    check(&server);
    server.stop().unwrap();
    server.restart().unwrap();
    check(&server);
    server.kill().unwrap();
    server.restart().unwrap();
    check(&server);
    // And it goes on live from there.
    let mut stream = open(server.addr(), "/a.json", Some(revs[9]));
    first(&mut stream);
    let last = write(server.addr(), "PUT", LAST, "1");
    assert_eq!(next(&mut stream), put(last, "/last", json!(1)));
    assert!(last > revs[9], "revisions go on after a crash");
}

/// A window is not in the change table: a query's stream begins again with the whole of it.
#[test]
fn a_querys_stream_resumes_with_its_window() {
    let server = dev();
    let addr = server.addr();
    let rev = write(addr, "PUT", "/v.json", r#"{"a":1,"b":2,"c":3}"#);
    let target = "/v.json?orderBy=%22$value%22&limitToLast=2";
    let mut stream = open(addr, target, None);
    assert_eq!(next(&mut stream), put(rev, "/", json!({"b": 2, "c": 3})));
    drop(stream);
    let missed = write(addr, "PUT", "/v/a.json", "9");
    let mut stream = open(addr, target, Some(rev));
    assert_eq!(next(&mut stream), put(missed, "/", json!({"a": 9, "c": 3})));
    let last = write(addr, "DELETE", "/v/c.json", "");
    assert_eq!(next(&mut stream), patch(last, "/", json!({"b": 2, "c": null})));
}

#[test]
fn a_watcher_sees_its_own_database_only() {
    let server = dev();
    let addr = server.addr();
    let mut one = open(addr, "/a.json?ns=one", None);
    let mut two = open(addr, "/a.json?ns=two", None);
    assert_eq!((next(&mut one), next(&mut two)), (put(0, "/", Value::Null), put(0, "/", Value::Null)));
    assert_eq!(write(addr, "PUT", "/a.json?ns=one", "1"), 1);
    assert_eq!(write(addr, "PUT", "/a.json?ns=two", "2"), 1);
    assert_eq!((next(&mut one), next(&mut two)), (put(1, "/", json!(1)), put(1, "/", json!(2))));
}

#[test]
fn a_position_that_is_not_held_is_reset() {
    let (mut server, config) = dev_with("[limits]\nchanges_bytes_max = 4096\n");
    let big = format!("\"{}\"", "x".repeat(3_000));
    for n in 0..20 {
        write(server.addr(), "PUT", &format!("/a/k{}.json", n % 2), &big);
        write(server.addr(), "PUT", "/a/n.json", &n.to_string());
    }
    let value = get(server.addr(), "/a");
    let check = |server: &Server, since: u64, reason: &str| {
        let mut stream = open(server.addr(), "/a.json", Some(since));
        let (name, data, id) = stream.change().unwrap();
        assert_eq!((name.as_str(), id), ("reset", None), "from {since}");
        assert_eq!(data, json!({"path": "/", "data": null, "reason": reason}));
        let told = next(&mut stream);
        assert_eq!((told.name.as_str(), told.path.as_str(), &told.data), ("put", "/", &value));
        told.rev.unwrap()
    };
    let rev = check(&server, 1, "gone");
    assert_eq!(check(&server, rev + 1_000, "future"), rev);
    server.kill().unwrap();
    server.restart().unwrap();
    assert_eq!(check(&server, 1, "gone"), rev);
    assert_eq!(check(&server, u64::MAX, "future"), rev);
    drop(config);
}

#[test]
fn all_watchers_see_the_same() {
    let server = dev();
    let addr = server.addr();
    let mut streams: Vec<_> = (0..20).map(|_| open(addr, "/a.json", None)).collect();
    let mut told: Vec<Vec<Told>> = streams.iter_mut().map(|stream| vec![next(stream)]).collect();
    let revs: Vec<u64> = (0..30).map(|n| write(addr, "PUT", &format!("/a/{}.json", n % 3), &n.to_string())).collect();
    let last = revs[29];
    // One goes in the middle; the others stay.
    drop(streams.remove(0));
    told.remove(0);
    for (stream, told) in streams.iter_mut().zip(&mut told) {
        read_to(stream, told, last);
    }
    assert!(told.iter().all(|one| *one == told[0]));
    assert_eq!(told[0].len(), 31);
    quiet(server, &[]);
}

/// A stream that nobody reads: the server must cut it, keep going, and never wait for it.
#[test]
fn a_slow_watcher_slows_nobody_and_is_cut() {
    let (server, _config) = dev_with("[limits]\nwrite_progress_ms_max = 1000\n");
    let addr = server.addr();
    let stalled = open(addr, "/a.json", None);
    let mut good = open(addr, "/a.json", None);
    let mut told = vec![next(&mut good)];
    let big = format!("\"{}\"", "x".repeat(200_000));
    let mut slowest = Duration::ZERO;
    // Far beyond what sockets hold, and for longer than the stalled one is given.
    let end = Instant::now() + Duration::from_millis(2_500);
    let mut conn = Conn::open(addr).unwrap();
    let mut last = 0;
    let mut n = 0;
    while n < 150 || Instant::now() < end {
        let begun = Instant::now();
        let body = if n % 2 == 0 { big.clone() } else { n.to_string() };
        last = rev(&conn.request("PUT", "/a/big.json", &[], body.as_bytes()).unwrap());
        slowest = slowest.max(begun.elapsed());
        read_to(&mut good, &mut told, last);
        n += 1;
    }
    assert!(slowest < Duration::from_secs(1), "a write took {slowest:?}");
    assert_eq!(told.last().and_then(|told| told.rev), Some(last));
    assert_eq!(told.len(), n + 1, "the reader misses nothing");
    // The stalled one has been cut: what it gets now is an end or a reset, not a stream.
    stalled.conn().stream().set_read_timeout(Some(LIMIT)).unwrap();
    let mut sink = vec![0; 1 << 20];
    loop {
        match stalled.conn().stream().read(&mut sink) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("the stalled watcher is still served")
            }
            Err(_) => break,
        }
    }
    let metrics = request(addr, "GET", "/metrics", &[], b"").unwrap().text();
    assert!(metrics.contains("slow_watcher"), "{metrics}");
}

#[test]
fn a_quiet_stream_says_that_it_is_alive() {
    let server = dev();
    let mut stream = open(server.addr(), "/a.json", None);
    next(&mut stream);
    let begun = Instant::now();
    let event = stream.event(LIMIT + Duration::from_secs(15)).unwrap().unwrap();
    assert_eq!((event.name.as_str(), event.data.as_str()), ("keep-alive", "null"));
    assert!((28..=32).contains(&begun.elapsed().as_secs()), "every 30 s, not {:?}", begun.elapsed());
}

#[test]
fn a_stream_over_http2_is_the_same() {
    use std::process::{Command, Stdio};
    let server = dev();
    write(server.addr(), "PUT", "/a.json", "1");
    let mut curl = Command::new("curl");
    curl.args(["-sSN", "--max-time", "30", "--http2-prior-knowledge", "-H", "Accept: text/event-stream"]);
    let mut curl = curl.arg(format!("{}/a.json", server.url())).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = curl.stdout.take().unwrap();
    let mut text = |expected: &str| {
        let mut bytes = vec![0; expected.len()];
        out.read_exact(&mut bytes).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    };
    text("event: put\nid: 1\ndata: {\"path\":\"/\",\"data\":1}\n\n");
    write(server.addr(), "PATCH", "/.json", r#"{"a":{"b":2},"c":1}"#);
    text("event: put\nid: 2\ndata: {\"path\":\"/\",\"data\":{\"b\":2}}\n\n");
    curl.kill().unwrap();
    curl.wait().unwrap();
}

/// Several writers at once below `/w`, each in its place, some patching several places together.
fn writers(addr: SocketAddr, random: &mut Random, count: u64, each: u64) -> Vec<Wrote> {
    let wrote = Mutex::new(Vec::new());
    let seeds: Vec<_> = (0..count).map(|_| random.fork()).collect();
    std::thread::scope(|scope| {
        for (writer, mut random) in seeds.into_iter().enumerate() {
            let wrote = &wrote;
            scope.spawn(move || {
                let mut conn = Conn::open(addr).unwrap();
                for n in 0..each {
                    let (method, path, value) = random_write(&mut random, writer, n);
                    let got = conn.request(method, &format!("{path}.json"), &[], value.to_string().as_bytes()).unwrap();
                    assert_eq!(got.status, 200, "{}", got.text());
                    let merge = method == "PATCH";
                    wrote.lock().unwrap().push(Wrote { rev: rev(&got), path, merge, value });
                }
            });
        }
    });
    let mut wrote = wrote.into_inner().unwrap();
    wrote.sort_by_key(|wrote| wrote.rev);
    wrote
}

/// A write that always changes something, because it holds its own number.
fn random_write(random: &mut Random, writer: usize, n: u64) -> (&'static str, String, Value) {
    let other = random.below(4);
    match random.below(5) {
        0 => ("PATCH", "/w".into(), json!({format!("{writer}/x"): n, format!("{other}/y/{writer}"): n})),
        1 => ("PATCH", format!("/w/{writer}"), json!({"x": n, "z": null})),
        2 => ("PUT", format!("/w/{writer}"), json!({"n": n, "list": {"a": [n, n]}})),
        3 => ("PUT", format!("/w/{writer}/k{}", random.below(3)), json!({"n": n})),
        _ => ("PUT", format!("/w/{writer}/x"), json!(n)),
    }
}

#[test]
fn streams_are_ordered_unique_complete_and_faithful_under_concurrent_writers() {
    let server = dev();
    let addr = server.addr();
    let mut random = Random::new();
    let places = ["/w", "/w/0", "/w/3", "/w/1/x", "/"];
    let mut streams: Vec<_> = places.iter().map(|at| open(addr, &format!("{at}.json"), None)).collect();
    let mut told: Vec<Vec<Told>> = streams.iter_mut().map(|stream| vec![next(stream)]).collect();
    let wrote = writers(addr, &mut random, 4, 60);
    // One last write that every watcher sees.
    let value = json!({"w": {"0": {"end": 1}, "1": {"x": "end"}, "3": {"end": 1}}});
    let end = write(addr, "PUT", "/.json", &value.to_string());
    for ((at, told), stream) in places.iter().zip(&mut told).zip(&mut streams) {
        read_to(stream, told, end);
        let last = told.pop().unwrap();
        assert_eq!((last.name.as_str(), last.rev, last.path.as_str()), ("put", Some(end), "/"));
        validate(at, told, &wrote, &model(&wrote, at));
    }
    quiet(server, &[]);
}

/// The tree at `at` that the writes give, one after the other.
fn model(wrote: &[Wrote], at: &str) -> Value {
    let mut tree = Value::Null;
    for wrote in wrote {
        let name = if wrote.merge { "patch" } else { "put" };
        let told = Told { name: name.into(), rev: None, path: wrote.path.clone(), data: wrote.value.clone() };
        apply(&mut tree, &told);
    }
    let at = at.trim_matches('/');
    at.split('/').filter(|key| !key.is_empty()).fold(tree, |mut tree, key| tree[key].take())
}

#[test]
fn a_stream_that_is_cut_and_resumed_again_and_again_is_the_same_stream() {
    let server = dev();
    let addr = server.addr();
    let mut random = Random::new();
    let wrote = Mutex::new(Vec::new());
    let mut cuts = random.fork();
    write(addr, "PUT", "/w/begun.json", "true");
    let mut whole = open(addr, "/w.json", None);
    let mut told = vec![next(&mut whole)];
    let mut pieces = told.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| *wrote.lock().unwrap() = writers(addr, &mut random, 4, 100));
        let mut stream = open(addr, "/w.json", told[0].rev);
        while pieces.len() < 300 {
            for _ in 0..=cuts.below(20) {
                pieces.push(next(&mut stream));
                if pieces.len() >= 300 {
                    break;
                }
            }
            stream = open(addr, "/w.json", pieces.last().unwrap().rev);
        }
    });
    read_to(&mut whole, &mut told, pieces.last().unwrap().rev.unwrap());
    assert_eq!(pieces, told);
    let wrote = wrote.into_inner().unwrap();
    let last = told.last().unwrap().rev.unwrap();
    let mut until: Vec<_> = wrote.iter().filter(|wrote| wrote.rev <= last).cloned().collect();
    until.insert(0, Wrote { rev: 1, path: "/w/begun".into(), merge: false, value: json!(true) });
    validate("/w", &told, &until, &model(&until, "/w"));
}
