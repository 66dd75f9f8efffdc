//! Peers that are broken, slow or malicious hurt only themselves (reliability §1, serving §4).
//! Every scenario runs beside a well-behaved client, and afterwards nothing of it is stored,
//! every counter balances, and the process holds no more than before.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use standpipe_testkit::http::{Conn, Response, request};
use standpipe_testkit::{Baseline, LIMIT, Server, until};

use crate::script::get;
use crate::support::{Random, balanced, dev_with, metric, quiet, setting, write};

/// What a scenario may leave in resident memory: an allocator gives pages back when it likes.
const RESIDENT_KIB_MAX: u64 = 48 << 10;

/// Runs `scenario` against a server with this `[limits]` table and checks that it did no harm.
fn check(limits: &str, scenario: impl FnOnce(SocketAddr)) {
    check_in(&[], limits, scenario);
}

/// [`check`] of a scenario that uses these databases, which have a thread and descriptors of their own.
pub(crate) fn check_in(databases: &[&str], limits: &str, scenario: impl FnOnce(SocketAddr)) {
    let (server, _config) = dev_with(&format!("[limits]\n{limits}"));
    let addr = server.addr();
    for name in databases {
        write(addr, "PUT", &format!("/.json?ns={name}"), "null");
    }
    write(addr, "PUT", "/kept.json", r#"{"a":1}"#);
    // Buffers that a first use makes are no leak.
    for n in 0..50 {
        write(addr, "PUT", "/good.json", &n.to_string());
    }
    let before = besides_workers(&server);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let good = scope.spawn(|| good_client(addr, &done));
        // The scenario's panic must end the other thread too.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario(addr)));
        done.store(true, Ordering::Relaxed);
        let (count, slowest) = good.join().unwrap();
        eprintln!("the good client: {count} requests, the slowest took {slowest:?}");
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert_eq!(get(addr, "/kept"), json!({"a": 1}));
    assert_eq!(
        get(addr, "/").as_object().map(serde_json::Map::len),
        Some(2),
        "something was stored: {}",
        get(addr, "/")
    );
    let mut after = before;
    let back = until(|| {
        after = besides_workers(&server);
        after.is_back_at(&before) && after.resident_kib <= before.resident_kib + RESIDENT_KIB_MAX
    });
    assert!(back, "before {before:?}, after {after:?}");
    assert!(until(|| balanced(addr).is_ok()), "{:?}", balanced(addr));
    quiet(server, &[]);
}

/// What the process holds besides the pool's workers, which have bounds of their own.
pub(crate) fn besides_workers(server: &Server) -> Baseline {
    let workers = metric(server.addr(), "standpipe_workers") as usize;
    let holds = Baseline::of(server.pid()).unwrap();
    Baseline { threads: holds.threads - workers, ..holds }
}

/// Writes and reads back until told to stop; every answer must be right and quick.
fn good_client(addr: SocketAddr, done: &AtomicBool) -> (u64, Duration) {
    let (mut count, mut slowest) = (0, Duration::ZERO);
    let mut conn = Conn::open(addr).unwrap();
    while count == 0 || !done.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let body = count.to_string();
        assert_eq!(conn.request("PUT", "/good.json", &[], body.as_bytes()).unwrap().text(), body);
        assert_eq!(conn.request("GET", "/good.json", &[], b"").unwrap().text(), body);
        slowest = slowest.max(begun.elapsed());
        count += 1;
    }
    assert!(slowest < Duration::from_secs(5), "a good client waited {slowest:?}");
    (count, slowest)
}

/// Sends `bytes` on a connection of its own: the status of each answer until the peer closes, and
/// whether it did. Where no more comes for `patience`, says that nothing more will be sent.
fn talk(addr: SocketAddr, bytes: &[u8], patience: Duration) -> (Vec<u16>, bool) {
    let mut conn = Conn::open(addr).unwrap().limit(patience);
    // A refusal may come, and the connection go, before everything is sent.
    let _ = conn.send(bytes);
    let (mut statuses, mut finished) = (Vec::new(), false);
    loop {
        match conn.response(false) {
            Ok(got) => statuses.push(got.status),
            Err(error) if error.to_string().contains("in time") && !finished => {
                let _ = conn.finish();
                finished = true;
                conn = conn.limit(LIMIT);
            }
            Err(error) => return (statuses, !error.to_string().contains("in time")),
        }
    }
}

/// Rows of raw bytes and the statuses they get.
fn raw(rows: &[(&str, &[u16])]) {
    check("", |addr| {
        for (bytes, expected) in rows {
            let shown: String = bytes.chars().take(120).collect();
            let (statuses, closed) = talk(addr, bytes.as_bytes(), Duration::from_secs(1));
            assert_eq!(statuses, *expected, "{shown:?}");
            assert!(closed, "{shown:?}: still open");
        }
    });
}

#[test]
fn what_is_no_http() {
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(200_000));
    raw(&[
        ("\r\n\r\n\r\n\r\nnothing", &[]),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", &[400]),
        ("GET\r\n\r\n", &[400]),
        ("GET /a.json\r\n\r\n", &[400]),
        ("GET /a.json HTTP/1.1 x\r\nHost: x\r\n\r\n", &[400]),
        ("GET /a b.json HTTP/1.1\r\nHost: x\r\n\r\n", &[400]),
        ("GET /a.json HTTP/9.9\r\nHost: x\r\n\r\n", &[400]),
        ("G\u{0}T /a.json HTTP/1.1\r\nHost: x\r\n\r\n", &[400]),
        ("GET /a.json HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", &[400]),
        ("GET /a.json HTTP/1.1\r\nHost: x\r\nname : value\r\n\r\n", &[400]),
        ("GET /a.json HTTP/1.1\r\nHost: x\r\nname: a\u{0}b\r\n\r\n", &[400]),
        ("GET /a.json HTTP/1.1\r\nHost: x\r\nname: a\r\n folded\r\n\r\n", &[400]),
        ("GET /a.json HTTP/1.1\r\n\r\n", &[400]),
        ("GET /a.json HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", &[400]),
        // Cut off: nothing to answer.
        ("GET /a.json HTTP/1.1\r\nHost: x\r\n", &[]),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nthis is no frame at all", &[]),
        ("", &[]),
        (&long, &[431]),
    ]);
}

#[test]
fn requests_whose_end_two_readers_could_see_in_two_places() {
    let smuggled = "GET /kept.json HTTP/1.1\r\nHost: x\r\n\r\n";
    let put = |headers: &str, rest: &str| format!("PUT /good2.json HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n{rest}");
    let refused: &[u16] = &[400];
    let rows = [
        (put("Content-Length: 1\r\nContent-Length: 2", "1"), refused),
        (put("Content-Length: 1, 1", "1"), refused),
        (put("Content-Length: +1", "1"), refused),
        (put("Content-Length: -1", "1"), refused),
        (put("Content-Length: 0x1", "1"), refused),
        (put("Content-Length: 99999999999999999999", "1"), refused),
        (put("Content-Length: 1\r\nContent-Length: 1x", "1"), refused),
        (put("Transfer-Encoding: identity", "1"), refused),
        (put("Transfer-Encoding: xchunked", "1"), refused),
        (put("Transfer-Encoding: chunked, identity", "1"), refused),
        (put("Transfer-Encoding : chunked", "1\r\n1\r\n0\r\n\r\n"), refused),
        (put("Transfer-Encoding:\r\n chunked", "1\r\n1\r\n0\r\n\r\n"), refused),
        (put("Transfer-Encoding: chunked", "x\r\n1\r\n0\r\n\r\n"), refused),
        (put("Transfer-Encoding: chunked", "-1\r\n1\r\n0\r\n\r\n"), refused),
        (put("Transfer-Encoding: chunked", "fffffffffffffffff\r\n1\r\n0\r\n\r\n"), refused),
        (put("Transfer-Encoding: chunked", "1\r\n1X\r\n0\r\n\r\n"), refused),
        (put("Transfer-Encoding: chunked", "1\r\n1"), refused),
        (put("Content-Length: 5", "1"), refused),
        ("PUT /good2.json HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n".into(), refused),
        (put("Content-Length: 6\r\nTransfer-Encoding: chunked", &format!("0\r\n\r\n{smuggled}")), refused),
        (put("Transfer-Encoding: chunked\r\nContent-Length: 6", &format!("0\r\n\r\n{smuggled}")), refused),
    ];
    raw(&rows.iter().map(|(bytes, expected)| (bytes.as_str(), *expected)).collect::<Vec<_>>());
}

#[test]
fn odd_but_right_requests_are_answered() {
    raw(&[
        ("GET http://x/kept.json HTTP/1.1\r\nHost: x\r\n\r\n", &[200]),
        ("GET /kept.json HTTP/1.0\r\n\r\n", &[200]),
        ("\r\nGET /kept.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", &[200]),
        (
            "GET /kept.json HTTP/1.1\r\nHost: x\r\n\r\nGET /kept.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            &[200, 200],
        ),
        // What is right before the garbage is answered.
        ("GET /kept.json HTTP/1.1\r\nHost: x\r\n\r\nGARBAGE\r\n\r\n", &[200, 400]),
        (
            "PUT /bad.json HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{GET /kept.json HTTP/1.1\r\nHost: x\r\n\r\n",
            &[400, 200],
        ),
        (
            "PUT /kept/a.json HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;name=value\r\n1\r\n0\r\nTrailer: x\r\n\r\n",
            &[200],
        ),
    ]);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    check("", |addr| {
        let one = |n: usize| format!("GET /kept.json?callback=f{n} HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut conn = Conn::open(addr).unwrap();
        conn.send((0..200).map(one).collect::<String>().as_bytes()).unwrap();
        for n in 0..200 {
            assert_eq!(conn.response(false).unwrap().text(), format!("f{n}({{\"a\":1}});"));
        }
        // The same in the smallest pieces.
        one(7).bytes().for_each(|byte| conn.send(&[byte]).unwrap());
        assert_eq!(conn.response(false).unwrap().text(), "f7({\"a\":1});");
    });
}

#[test]
fn targets_that_are_too_long() {
    check("", |addr| {
        let key = |len: usize| format!("/{}.json", "k".repeat(len));
        let path = |depth: usize| format!("{}.json", "/k".repeat(depth));
        let ask = |target: &str| request(addr, "GET", target, &[], b"").unwrap();
        for (target, status) in [
            (key(768), 200),
            (key(769), 400),
            (key(9_000), 400),
            (path(32), 200),
            (path(33), 400),
            (format!("/kept.json?{}", "x=y&".repeat(3_000)), 200),
            (format!("{}.json", "/%C3%A9".repeat(1_200)), 400),
            (format!("/kept.json?orderBy=%22{}%22", "a/".repeat(4_000)), 400),
        ] {
            let got = ask(&target);
            assert_eq!(got.status, status, "{} bytes: {}", target.len(), got.text());
        }
    });
}

/// Values that are no JSON, or none that can be kept. None may be stored, even in part.
#[test]
fn values_that_are_broken() {
    check("", |addr| {
        let mut conn = Conn::open(addr).unwrap();
        let deep = |depth: usize, open: &str, close: &str| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        let long_key = format!(r#"{{"{}":1}}"#, "k".repeat(769));
        let bodies: Vec<Vec<u8>> = [
            "{",
            "[1",
            r#"{"a":1,"b":"#,
            "\"",
            "\"\\u12\"",
            "1e",
            "-",
            "+1",
            "01",
            "tru",
            "{\"a\" 1}",
            "{a:1}",
            "[1,]",
            "\u{feff}1",
            "{\"a\":1}{\"b\":1}",
            "\"\\ud800\"",
            "// x\n1",
            r#"{"a":{"b":{"c.d":1}}}"#,
            r#"{"ok":1,"bad#":2}"#,
            &long_key,
            &deep(33, r#"{"a":"#, "}"),
            &deep(33, "[", "]"),
            &deep(100_000, "[", "]"),
            &"[".repeat(100_000),
            &"{\"a\":".repeat(100_000),
        ]
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .chain([
            b"\"\xff\"".to_vec(),
            b"\"\xc3\"".to_vec(),
            b"{\"\xed\xa0\x80\":1}".to_vec(),
            b"\0".to_vec(),
            vec![0xff; 5_000],
        ])
        .collect();
        for body in &bodies {
            for method in ["PUT", "PATCH", "POST"] {
                let got = conn.request(method, "/bad.json", &[], body).unwrap();
                let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
                assert_eq!(got.status, 400, "{method} {shown}: {}", got.text());
                assert!(got.json().unwrap()["error"].is_string());
            }
        }
    });
}

#[test]
fn random_bytes_are_answered_or_cut() {
    let mut random = Random::new();
    check("first_byte_ms_max = 2000\nrequest_head_ms_max = 2000\n", |addr| {
        for _ in 0..300 {
            let length = 1 + random.below(400);
            let mut bytes: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
            match random.below(3) {
                0 => {}
                1 => bytes.splice(0..0, b"PUT /bad.json HTTP/1.1\r\nHost: x\r\n".iter().copied()).for_each(drop),
                _ => bytes.splice(0..0, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".iter().copied()).for_each(drop),
            }
            let (statuses, _) = talk(addr, &bytes, Duration::from_millis(1));
            assert!(statuses.iter().all(|status| (400..500).contains(status)), "{statuses:?}");
        }
    });
}

#[test]
fn bodies_that_are_too_large() {
    check("request_body_bytes_max = 100000\n", |addr| {
        let refused = |got: Response| {
            assert_eq!(got.status, 413, "{}", got.text());
            assert!(got.text().contains("request_body_bytes_max"), "{}", got.text());
        };
        let head = |headers: &str| format!("PUT /bad.json HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n");
        // Announced: refused before a byte of it is sent.
        let mut conn = Conn::open(addr).unwrap();
        conn.send(head("Content-Length: 100001").as_bytes()).unwrap();
        refused(conn.response(false).unwrap());
        let mut conn = Conn::open(addr).unwrap();
        conn.send(head("Content-Length: 100001\r\nExpect: 100-continue").as_bytes()).unwrap();
        refused(conn.response(false).unwrap());
        // Not announced: refused when it has come too far.
        let mut conn = Conn::open(addr).unwrap();
        conn.send(head("Transfer-Encoding: chunked").as_bytes()).unwrap();
        let chunk = format!("2710\r\n{}\r\n", "1".repeat(10_000));
        for _ in 0..11 {
            if conn.send(chunk.as_bytes()).is_err() {
                break;
            }
        }
        refused(conn.response(false).unwrap());
        // At the limit it goes.
        let body = format!("\"{}\"", "x".repeat(99_998));
        assert_eq!(request(addr, "PUT", "/kept/big.json", &[], body.as_bytes()).unwrap().status, 200);
        write(addr, "DELETE", "/kept/big.json", "");
    });
}

#[test]
fn a_client_that_waits_for_the_go_ahead_gets_it() {
    check("", |addr| {
        let mut conn = Conn::open(addr).unwrap();
        conn.send(b"PUT /kept/a.json HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
            .unwrap();
        let mut interim = [0; 25];
        let mut stream = conn.stream();
        stream.read_exact(&mut interim).unwrap();
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        conn.send(b"1").unwrap();
        assert_eq!(conn.response(false).unwrap().status, 200);
    });
}

/// Sends `bytes`, then one byte of `drip` every 40 ms, until the peer closes: how long that took,
/// and what it said.
fn drip(addr: SocketAddr, bytes: &[u8], mut drip: impl Iterator<Item = u8>) -> (Duration, String) {
    let mut conn = Conn::open(addr).unwrap();
    let begun = Instant::now();
    conn.send(bytes).unwrap();
    conn.stream().set_read_timeout(Some(Duration::from_millis(40))).unwrap();
    let (mut said, mut piece) = (Vec::new(), [0; 4_096]);
    while begun.elapsed() < LIMIT {
        match conn.stream().read(&mut piece) {
            Ok(0) => return (begun.elapsed(), String::from_utf8_lossy(&said).into_owned()),
            Ok(count) => said.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // A peer that has gone shows at the next read.
                let _ = drip.next().map(|byte| conn.stream().write_all(&[byte]));
            }
            Err(_) => return (begun.elapsed(), String::from_utf8_lossy(&said).into_owned()),
        }
    }
    panic!("still open after {LIMIT:?}; it said {said:?}");
}

#[test]
fn slow_peers_are_cut_at_their_limits() {
    let limits = "first_byte_ms_max = 400\nrequest_head_ms_max = 600\nbody_progress_ms_max = 500\nbody_ms_max = 1500\nqueue_wait_ms_max = 1000\nrequest_ms_max = 1500\nidle_ms_max = 1000\npark_after_ms = 100\n";
    check(limits, |addr| {
        let check = |what: &str, bytes: &str, dripped: &str, limit_ms: u64, answer: &str| {
            let (took, said) = drip(addr, bytes.as_bytes(), dripped.bytes());
            let took = took.as_millis() as u64;
            assert!(
                (limit_ms.saturating_sub(100)..limit_ms + 2_500).contains(&took),
                "{what}: {took} ms, said {said:?}"
            );
            assert!(said.starts_with(answer), "{what}: {said:?}");
        };
        let endless = "x".repeat(10_000);
        let put = "PUT /bad.json HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n";
        let chunked = "PUT /bad.json HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        std::thread::scope(|scope| {
            let cases = [
                ("says nothing", "", "", 400, ""),
                ("half a request line", "GET /a", "", 600, ""),
                ("a request line that drips", "GET /", &endless, 600, ""),
                ("a head that drips", "GET /a.json HTTP/1.1\r\nHost: x\r\nx: ", &endless, 600, ""),
                ("half a preface", "PR", "", 400, ""),
                ("half a body", put, "", 500, "HTTP/1.1 408"),
                ("a body that drips", put, &endless, 1_500, "HTTP/1.1 408"),
                ("half a chunk", &format!("{chunked}ff\r\nabc"), "", 500, "HTTP/1.1 408"),
                ("idle after an answer", "GET /kept.json HTTP/1.1\r\nHost: x\r\n\r\n", "", 1_000, "HTTP/1.1 200"),
                ("half a second request", "GET /kept.json HTTP/1.1\r\nHost: x\r\n\r\nGET /", "", 600, "HTTP/1.1 200"),
            ];
            let check = &check;
            for (what, bytes, dripped, limit_ms, answer) in cases {
                let (bytes, dripped) = (bytes.to_owned(), dripped.to_owned());
                scope.spawn(move || check(what, &bytes, &dripped, limit_ms, answer));
            }
        });
    });
}

#[test]
fn a_crowd_of_slow_peers_delays_nobody() {
    check("request_head_ms_max = 3000\nbody_progress_ms_max = 3000\n", |addr| {
        let open = |n: usize| {
            let mut conn = Conn::open(addr).unwrap();
            let bytes = if n.is_multiple_of(2) {
                "GET /a.js"
            } else {
                "PUT /bad.json HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
            };
            conn.send(bytes.as_bytes()).unwrap();
            conn
        };
        let mut crowd: Vec<_> = (0..500).map(open).collect();
        let begun = Instant::now();
        for n in 0..50 {
            write(addr, "PUT", "/kept/n.json", &n.to_string());
        }
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(3), "50 writes took {took:?}");
        write(addr, "DELETE", "/kept/n.json", "");
        // All of them are cut, each with the answer that is due.
        for (n, conn) in crowd.iter_mut().enumerate() {
            let said = conn.closed().unwrap_or_default();
            let said = String::from_utf8_lossy(&said).into_owned();
            assert!(
                if n.is_multiple_of(2) { said.is_empty() || said.contains("408") } else { said.contains("408") },
                "{n}: {said}"
            );
        }
    });
}

/// A reader that takes nothing of a large answer costs an open snapshot for a while, no more.
#[test]
fn readers_that_do_not_read_are_cut() {
    check("write_progress_ms_max = 1000\n", |addr| {
        let text = "x".repeat(100_000);
        let big = json!({"list": vec![text; 200]}).to_string();
        write(addr, "PUT", "/kept/big.json", &big);
        let mut stalled: Vec<_> = (0..10)
            .map(|_| {
                let mut conn = Conn::open(addr).unwrap();
                conn.send(b"GET /kept/big.json HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                conn
            })
            .collect();
        let whole = request(addr, "GET", "/kept/big.json", &[], b"").unwrap();
        assert_eq!(whole.body.len(), big.len(), "one that reads gets all of it");
        assert!(until(|| open_connections(addr) <= 2), "stalled readers are still connected");
        for conn in &mut stalled {
            let got = conn.response(false);
            assert!(got.is_err(), "cut in the middle, not ended");
        }
        write(addr, "DELETE", "/kept/big.json", "");
    });
}

fn open_connections(addr: SocketAddr) -> u64 {
    metric(addr, "standpipe_connections_open")
}

#[test]
fn beyond_the_limit_of_connections_the_answer_is_no() {
    check("connections_max = 20\n", |addr| {
        let mut held: Vec<Conn> = Vec::new();
        let refusal = loop {
            let mut conn = Conn::open(addr).unwrap();
            let got = conn.request("GET", "/kept.json", &[], b"").unwrap();
            if got.status != 200 {
                break got;
            }
            held.push(conn);
            assert!(held.len() <= 20, "the limit does not hold");
        };
        assert_eq!(refusal.status, 503, "{}", refusal.text());
        assert!(refusal.header("retry-after").is_some());
        assert!(refusal.json().unwrap()["error"].as_str().unwrap().contains("connections_max"), "{}", refusal.text());
        assert!(held.len() >= 18, "{} besides the good client", held.len());
        // Those that are in stay, and a place that gets free is given away.
        assert_eq!(held[0].request("GET", "/kept.json", &[], b"").unwrap().status, 200);
        held.clear();
        assert!(until(|| Conn::open(addr)
            .unwrap()
            .request("GET", "/kept.json", &[], b"")
            .is_ok_and(|got| got.status == 200)));
    });
}

#[test]
fn clients_that_leave_in_the_middle_leave_nothing() {
    let mut random = Random::new();
    check("", |addr| {
        let request = b"PUT /bad.json HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n[1,2,3]";
        for _ in 0..200 {
            let cut = random.below(request.len() as u64) as usize;
            let mut conn = Conn::open(addr).unwrap();
            conn.send(&request[..cut]).unwrap();
        }
        for _ in 0..50 {
            let mut conn = Conn::open(addr).unwrap();
            conn.send(b"GET /kept.json HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n").unwrap();
        }
    });
}

/// `STANDPIPE_TEST_IDLE` connections that have asked once and then say nothing.
#[test]
fn thousands_of_idle_connections_cost_little() {
    let count = setting("STANDPIPE_TEST_IDLE", 2_000) as usize;
    crate::support::descriptors(count as u64 + 500);
    check("park_after_ms = 50\n", |addr| {
        let mut idle: Vec<Conn> = (0..count).map(|_| Conn::open(addr).unwrap()).collect();
        for conn in &mut idle {
            assert_eq!(conn.request("GET", "/kept.json", &[], b"").unwrap().status, 200);
        }
        let begun = Instant::now();
        for n in 0..100 {
            assert_eq!(request(addr, "GET", "/kept/a.json", &[], b"").unwrap().text(), "1", "{n}");
        }
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(2), "100 requests took {took:?}");
        assert!(open_connections(addr) >= count as u64);
        // Each wakes up when it asks again.
        for conn in idle.iter_mut().step_by(7) {
            assert_eq!(conn.request("GET", "/kept/a.json", &[], b"").unwrap().text(), "1");
        }
    });
}
