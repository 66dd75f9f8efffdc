//! Stopping (serving §2): whatever the connections do, the process ends within its limit, its
//! exit code says whether that was clean, every answer in flight is whole or absent, and the data
//! is there afterwards.

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use standpipe_testkit::http::Conn;
use standpipe_testkit::{LIMIT, Server, until};

use crate::script::get;
use crate::support::{dev, dev_with, metric, write};
use crate::watches::{next, open};

/// Exit code: "the server stopped, but not cleanly".
const UNCLEAN: i32 = 5;

/// What a test allows beyond the configured limit: the machine is slow and shared.
const MARGIN: Duration = Duration::from_secs(5);

/// Sends a signal and checks exit code and time; the data must be there after a restart.
fn check(server: &mut Server, signal: Signal, code: i32, within: Duration) {
    let begun = Instant::now();
    server.signal(signal).unwrap();
    let status = server.wait().unwrap();
    let took = begun.elapsed();
    assert_eq!(status.code(), Some(code), "{status}\n{}", server.stderr());
    assert!(took < within + MARGIN, "it took {took:?}");
    server.restart().unwrap();
    assert_eq!(get(server.addr(), "/kept"), json!(1), "the data is there");
}

fn with_drain(ms: u64) -> (Server, tempfile::TempDir) {
    let (server, config) = dev_with(&format!("[limits]\ndrain_ms = {ms}\n"));
    write(server.addr(), "PUT", "/kept.json", "1");
    (server, config)
}

/// The peer closes, after whatever it still had to say.
fn closes(conn: &mut Conn) {
    conn.closed().unwrap_or_else(|error| panic!("not closed: {error:#}"));
}

#[test]
fn alone() {
    let (mut server, _config) = with_drain(60_000);
    check(&mut server, Signal::TERM, 0, Duration::ZERO);
    check(&mut server, Signal::INT, 0, Duration::ZERO);
}

#[test]
fn with_idle_connections() {
    let (mut server, _config) = with_drain(60_000);
    let addr = server.addr();
    let mut silent: Vec<_> = (0..50).map(|_| Conn::open(addr).unwrap()).collect();
    let mut asked: Vec<_> = (0..50).map(|_| Conn::open(addr).unwrap()).collect();
    asked.iter_mut().for_each(|conn| assert_eq!(conn.request("GET", "/kept.json", &[], b"").unwrap().status, 200));
    check(&mut server, Signal::TERM, 0, Duration::ZERO);
    silent.iter_mut().chain(&mut asked).for_each(closes);
}

#[test]
fn with_watchers() {
    let (mut server, _config) = with_drain(60_000);
    let addr = server.addr();
    let mut streams: Vec<_> =
        (0..20).map(|n| open(addr, &format!("/{}.json", ["kept", "a", ""][n % 3]), None)).collect();
    streams.iter_mut().for_each(|stream| drop(next(stream)));
    let last = write(addr, "PUT", "/a.json", "1");
    check(&mut server, Signal::TERM, 0, Duration::ZERO);
    // What was acknowledged before was told before, and the stream ended.
    for (n, stream) in streams.iter_mut().enumerate().filter(|(n, _)| n % 3 != 0) {
        assert_eq!(next(stream).rev, Some(last), "{n}");
        assert!(!matches!(stream.event(LIMIT), Ok(Some(_))), "{n}: more than was written");
    }
}

#[test]
fn with_requests_in_flight_every_answer_is_whole_or_absent() {
    const CLIENTS: usize = 8;
    let (mut server, _config) = with_drain(10_000);
    let addr = server.addr();
    let (sender, acknowledged) = sync_channel(4_096);
    let counts: Vec<u64> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let sender = sender.clone();
                scope.spawn(move || {
                    let mut count = 0;
                    let Ok(mut conn) = Conn::open(addr) else { return count };
                    loop {
                        let body = (count + 1).to_string();
                        match conn.request("PUT", &format!("/n/{client}x.json"), &[], body.as_bytes()) {
                            Ok(got) if got.status == 200 => assert_eq!(got.text(), body),
                            Ok(got) => {
                                assert_eq!(got.status, 503, "{}", got.text());
                                return count;
                            }
                            // Closed before an answer began; half of one would say so.
                            Err(error) => {
                                let text = format!("{error:#}");
                                assert!(!text.contains("of the body") && !text.contains("chunk"), "{text}");
                                return count;
                            }
                        }
                        count += 1;
                        let _ = sender.try_send(());
                    }
                })
            })
            .collect();
        for _ in 0..100 {
            acknowledged.recv_timeout(LIMIT).unwrap();
        }
        check(&mut server, Signal::TERM, 0, Duration::from_secs(10));
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let there = get(server.addr(), "/n");
    for (client, count) in counts.iter().enumerate() {
        let have = there[format!("{client}x")].as_u64().unwrap();
        assert!(have == *count || have == count + 1, "client {client}: {have} after {count} acknowledged");
    }
}

/// Peers that neither go on nor leave: half a body, and an answer that is never read.
fn stalled(addr: SocketAddr) -> Vec<Conn> {
    let big = json!(vec!["x".repeat(100_000); 300]).to_string();
    write(addr, "PUT", "/big.json", &big);
    let requests = [
        "PUT /a.json HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        "GET /big.json HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /big.json HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n",
    ];
    let send = |request: &&str| {
        let mut conn = Conn::open(addr).unwrap();
        conn.send(request.as_bytes()).unwrap();
        conn
    };
    under_way(addr, 3, || requests.iter().map(send).collect())
}

/// Sends requests, and waits until so many more have begun.
fn under_way<T>(addr: SocketAddr, count: u64, send: impl FnOnce() -> T) -> T {
    let begun = || metric(addr, "standpipe_requests_begun_total");
    let before = begun();
    let sent = send();
    // Asking for the figures is a request too.
    let mut asked = 0;
    let all = until(|| {
        asked += 1;
        begun() >= before + asked + count
    });
    assert!(all, "not all of {count} requests have begun");
    sent
}

#[test]
fn with_stalled_peers_it_ends_at_the_limit() {
    let (mut server, _config) = with_drain(1_500);
    let mut conns = stalled(server.addr());
    check(&mut server, Signal::TERM, UNCLEAN, Duration::from_millis(1_500));
    let mut rest = Vec::new();
    // Ended or reset, in the middle of what it was sending.
    conns.iter_mut().for_each(|conn| drop(conn.stream().read_to_end(&mut rest)));
    assert_eq!(get(server.addr(), "/a"), json!(null), "half a body is no write");
}

#[test]
fn a_second_signal_ends_it_now() {
    for signal in [Signal::TERM, Signal::INT] {
        let (mut server, _config) = with_drain(100_000);
        let conns = stalled(server.addr());
        let addr = server.addr();
        server.signal(Signal::TERM).unwrap();
        // It has heard the first when it takes no more connections, or says so.
        assert!(until(|| Conn::open(addr).is_err() || ready_says_no(addr)));
        check(&mut server, signal, UNCLEAN, Duration::ZERO);
        drop(conns);
    }
}

fn ready_says_no(addr: SocketAddr) -> bool {
    let Ok(mut conn) = Conn::open(addr) else { return true };
    !conn.request("GET", "/readyz", &[], b"").is_ok_and(|got| got.status == 200)
}

#[test]
fn the_codes_are_documented() {
    let help = std::process::Command::new(standpipe_testkit::binary()).arg("--help").output().unwrap();
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(text.contains("5  the server stopped, but not cleanly"), "{text}");
}

#[test]
fn a_stop_while_a_large_write_is_on_its_way() {
    let mut server = dev();
    let addr = server.addr();
    write(addr, "PUT", "/kept.json", "1");
    let big = format!("\"{}\"", "x".repeat(5 << 20));
    let mut conn = Conn::open(addr).unwrap();
    let head = format!("PUT /big.json HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", big.len());
    under_way(addr, 1, || {
        conn.send(head.as_bytes()).unwrap();
        conn.send(&big.as_bytes()[..1 << 20]).unwrap();
    });
    server.signal(Signal::TERM).unwrap();
    // It is waited for: the rest is taken, written and acknowledged.
    conn.send(&big.as_bytes()[1 << 20..]).unwrap();
    let got = conn.response(false);
    let status = server.wait().unwrap();
    assert_eq!(status.code(), Some(0), "{}", server.stderr());
    server.restart().unwrap();
    let there = get(server.addr(), "/big");
    match got {
        Ok(got) if got.status == 200 => assert_eq!(there.as_str().map(str::len), Some(5 << 20)),
        _ => assert!(there.is_null() || there.as_str().is_some_and(|text| text.len() == 5 << 20), "half a value"),
    }
}
