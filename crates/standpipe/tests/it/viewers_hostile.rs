//! Viewers of streams that are many, slow, in a hurry or confused: the stream goes on, the others miss nothing, and
//! afterwards nothing is left of them.

use std::io::Read as _;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use standpipe_testkit::http::{Conn, Stream, request};
use standpipe_testkit::websocket::{CLOSE, WebSocket};
use standpipe_testkit::{Baseline, LIMIT, Lines, until};

use crate::support::{dev, dev_with, metric, metric_of, quiet, setting};

fn append(addr: SocketAddr, path: &str, text: &[u8]) {
    let got = request(addr, "POST", &format!("/streams{path}"), &[], text).unwrap();
    assert_eq!(got.status, 200, "{}", got.text());
}

fn end(addr: SocketAddr, path: &str) {
    append(addr, &format!("{path}?end=1"), b"");
}

/// A viewer of a stream's text whose answer nobody has read yet.
fn view(addr: SocketAddr, target: &str) -> Conn {
    let mut conn = Conn::open(addr).unwrap();
    conn.send(&conn.encode("GET", &format!("/streams{target}"), &[], b"").unwrap()).unwrap();
    conn
}

#[test]
fn a_slow_viewer_among_fifty_is_cut_and_the_others_miss_nothing() {
    let (server, _config) = dev_with("[limits]\nwrite_progress_ms_max = 1500\nstream_ring_bytes_max = 1048576\n");
    let addr = server.addr();
    append(addr, "/log", b"begin\n");
    let stalled = view(addr, "/log");
    rustix::net::sockopt::set_socket_recv_buffer_size(stalled.stream(), 64 << 10).unwrap();
    let viewers: Vec<Conn> = (0..49).map(|_| view(addr, "/log?raw=1").limit(Duration::from_secs(120))).collect();
    let reading: Vec<_> = viewers
        .into_iter()
        .map(|mut viewer| std::thread::spawn(move || viewer.response(false).unwrap().body.len()))
        .collect();
    let line = [b"x".repeat(1_023), b"\n".to_vec()].concat();
    let piece = line.repeat(512);
    let (mut bytes, mut slowest, began) = (b"begin\n".len(), Duration::ZERO, Instant::now());
    // Beyond what the sockets of the stalled one hold, and for longer than it is given.
    while bytes < 8 << 20 || began.elapsed() < Duration::from_secs(4) {
        let begun = Instant::now();
        append(addr, "/log", &piece);
        slowest = slowest.max(begun.elapsed());
        bytes += piece.len();
    }
    end(addr, "/log");
    for viewer in reading {
        assert_eq!(viewer.join().unwrap(), bytes);
    }
    eprintln!("{bytes} bytes, the slowest append of {} took {slowest:?}", piece.len());
    // By us, or by the kernel, which counts from when the peer's window was full and not from when ours was.
    let closed =
        |reason: &str| metric_of(addr, "standpipe_connections_closed_total", &[&format!("reason=\"{reason}\"")]);
    assert!(until(|| closed("slow_watcher") + closed("peer_vanished") == 1));
    // What it has is the beginning, and then a connection that broke off.
    let mut rest = Vec::new();
    stalled.stream().set_read_timeout(Some(LIMIT)).unwrap();
    let _broke_off = stalled.into_parts().0.read_to_end(&mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it does not take that for the whole");
    quiet(server, &[]);
}

#[test]
fn thousands_of_viewers_cost_little_and_leave_nothing() {
    let count = setting("STANDPIPE_TEST_VIEWERS", 2_000) as usize;
    let server = dev();
    let addr = server.addr();
    append(addr, "/log", b"begin\n");
    // What the first connections make is made.
    drop((0..50).map(|_| view(addr, "/log")).collect::<Vec<_>>());
    let watchers = || metric(addr, "standpipe_watchers");
    assert!(until(|| watchers() == 0));
    let before = Baseline::of(server.pid()).unwrap();
    let mut viewers: Vec<Conn> = (0..count).map(|_| view(addr, "/log")).collect();
    for viewer in &mut viewers {
        let mut seen = Vec::new();
        while !seen.ends_with(b"begin\n\r\n") {
            let mut piece = [0; 1_024];
            let got = viewer.stream().read(&mut piece).unwrap();
            assert!(got > 0);
            seen.extend_from_slice(&piece[..got]);
        }
    }
    let with = Baseline::of(server.pid()).unwrap();
    let each = (with.resident_kib.saturating_sub(before.resident_kib)) * 1_024 / count as u64;
    eprintln!("{count} viewers that wait: {each} bytes each");
    // The bar is 8 KiB, of a release build, where the bench measures it; without optimization futures are larger.
    assert!(each < 16 << 10, "{each} bytes each");
    let begun = Instant::now();
    append(addr, "/log", b"news\n");
    for viewer in &mut viewers {
        let mut piece = [0; 64];
        let got = viewer.stream().read(&mut piece).unwrap();
        assert_eq!(&piece[..got], b"5\r\nnews\n\r\n");
    }
    eprintln!("a line reached all of them in {:?}", begun.elapsed());
    // Half of them leave, the others see the end.
    viewers.truncate(count / 2);
    assert!(until(|| watchers() <= count as u64 / 2));
    end(addr, "/log");
    for viewer in &mut viewers {
        let mut seen = Vec::new();
        viewer.stream().read_to_end(&mut seen).unwrap();
        assert!(seen.ends_with(b"standpipe: /log ended\n\r\n0\r\n\r\n"), "{}", String::from_utf8_lossy(&seen));
    }
    drop(viewers);
    assert!(until(|| watchers() == 0));
    // Workers that work has created are kept, one for each core.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let before = Baseline { threads: before.threads + cores, ..before };
    let after = || Baseline::of(server.pid()).unwrap();
    assert!(until(|| after().is_back_at(&before)), "{before:?} {:?}", after());
    quiet(server, &[]);
}

#[test]
fn who_views_what_retention_takes_is_told_so() {
    let (server, _config) = dev_with("[limits]\nstream_bytes_max = 262144\nstream_ring_bytes_max = 65536\n");
    let addr = server.addr();
    let line = [b"x".repeat(1_023), b"\n".to_vec()].concat();
    append(addr, "/log", &line);
    for _ in 0..20 {
        append(addr, "/log", &line.repeat(64));
    }
    let head = request(addr, "HEAD", "/streams/log", &[], b"").unwrap();
    let first: u64 = head.header("x-standpipe-first-seq").unwrap().parse().unwrap();
    assert!(first > 64, "{first}");
    let text = request(addr, "GET", "/streams/log?follow=0", &[], b"").unwrap().text();
    let gap = format!("standpipe: records 0 to {} are gone (retention)\n", first - 1);
    assert!(text.starts_with(&gap), "{}", &text[..200]);
    assert_eq!(text.len() - gap.len(), (1 + 20 * 64 - first as usize) * line.len());
    let raw = request(addr, "GET", "/streams/log?follow=0&raw=1", &[], b"").unwrap();
    assert_eq!((raw.status, raw.body.len()), (200, text.len() - gap.len()));
    let gone = request(addr, "GET", "/streams/log?raw=1&from=0", &[], b"").unwrap();
    assert_eq!(gone.status, 410, "{}", gone.text());
    assert!(gone.text().contains(&format!("?from={first}")), "{}", gone.text());
    let mut events = Stream::open(addr, "/streams/log", &[("Last-Event-ID", "5")]).unwrap();
    let event = events.event(LIMIT).unwrap().unwrap();
    assert_eq!((event.name.as_str(), event.data), ("gap", format!(r#"{{"event":"gap","first_left":{first}}}"#)));
    assert_eq!(events.event(LIMIT).unwrap().unwrap().id, Some(first.to_string()));
    quiet(server, &[]);
}

#[test]
fn confused_viewers_are_told_why() {
    let server = dev();
    let addr = server.addr();
    append(addr, "/log", b"begin\n");
    for id in ["garbage", "-1", "1.5", "99999999999999999999999"] {
        let headers = [("accept", "text/event-stream"), ("last-event-id", id)];
        let got = request(addr, "GET", "/streams/log", &headers, b"").unwrap();
        assert_eq!(got.status, 400, "{id}");
        assert!(got.text().contains("Last-Event-ID"), "{}", got.text());
    }
    // An id that is still to come waits for it.
    let mut early = Stream::open(addr, "/streams/log", &[("Last-Event-ID", "0")]).unwrap();
    append(addr, "/log", b"second\n");
    assert_eq!(early.event(LIMIT).unwrap().unwrap().id.as_deref(), Some("1"));
    let large = request(addr, "POST", "/streams/log", &[], &vec![b'x'; 10 << 20]).unwrap();
    assert_eq!(large.status, 413, "{}", large.text());
    assert!(large.text().contains("stream_record_bytes_max"), "{}", large.text());
    let put = request(addr, "PUT", "/streams/log", &[], b"x").unwrap();
    assert_eq!((put.status, put.header("allow")), (405, Some("GET, HEAD, POST, DELETE")));
    let mut viewer = WebSocket::open(addr, "/streams/log").unwrap();
    viewer.frame().unwrap();
    viewer.frame().unwrap();
    viewer.send(&[0xff; 64]).unwrap();
    let (first, payload) = viewer.frame().unwrap();
    assert_eq!((first, &payload[..2]), (CLOSE, &1002_u16.to_be_bytes()[..]));
    let upgrade = [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "8")];
    assert_eq!(request(addr, "GET", "/streams/log", &upgrade, b"").unwrap().status, 400);
    quiet(server, &[]);
}

#[test]
fn a_server_that_stops_says_so_to_viewers() {
    let mut server = standpipe_testkit::Launch::dev().args(["--line", "127.0.0.1:0"]).start().unwrap();
    let addr = server.addr();
    append(addr, "/log", b"begin\n");
    let mut text = view(addr, "/log");
    let mut raw = view(addr, "/log?raw=1");
    let mut events = Stream::open(addr, "/streams/log", &[]).unwrap();
    let mut messages = WebSocket::open(addr, "/streams/log").unwrap();
    let mut lines = Lines::open(server.door("line").unwrap()).unwrap();
    assert_eq!(lines.ask("TAIL /log").unwrap(), "TAILING 1 0");
    assert!(lines.line().unwrap().starts_with("LINE 1 0 "));
    assert_eq!(events.event(LIMIT).unwrap().unwrap().id.as_deref(), Some("0"));
    messages.frame().unwrap();
    let stopped = std::thread::spawn(move || (server.stop().unwrap(), server));
    let body = text.response(false).unwrap().text();
    assert_eq!(body, "begin\nstandpipe: closed (shutdown); go on with ?from=1\n");
    assert!(raw.response(false).is_err(), "bytes that are not all there break off");
    let bye = events.event(LIMIT).unwrap().unwrap();
    assert_eq!((bye.name.as_str(), bye.data.as_str()), ("bye", r#"{"event":"bye","reason":"shutdown","next_seq":1}"#));
    let (first, payload) = messages.frame().unwrap();
    assert_eq!((first, &payload[..2]), (CLOSE, &1001_u16.to_be_bytes()[..]));
    assert_eq!(lines.line().unwrap(), "BYE shutdown");
    let (status, _server) = stopped.join().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn viewers_over_http2_see_the_same() {
    let server = dev();
    let addr = server.addr();
    append(addr, "/log", b"begin\n");
    let curl = |target: &str| {
        let url = format!("http://{addr}/streams{target}");
        let mut curl = Command::new("curl");
        curl.args(["-sN", "--http2-prior-knowledge", "--max-time", "60", &url]).stdout(std::process::Stdio::piped());
        curl.spawn().unwrap()
    };
    let viewers: Vec<_> = ["/log", "/log", "/log?raw=1"].into_iter().map(curl).collect();
    assert!(until(|| metric(addr, "standpipe_watchers") >= 3));
    let text: String = (0..1_000).map(|n| format!("line {n}\n")).collect();
    append(addr, "/log", text.as_bytes());
    end(addr, "/log");
    let seen = viewers.into_iter().map(|viewer| viewer.wait_with_output().unwrap());
    let seen: Vec<String> = seen.map(|seen| String::from_utf8(seen.stdout).unwrap()).collect();
    let all = format!("begin\n{text}");
    assert_eq!(seen, [format!("{all}standpipe: /log ended\n"), format!("{all}standpipe: /log ended\n"), all]);
    quiet(server, &[]);
}

#[test]
fn a_viewer_that_may_not_any_more_is_told() {
    let server = dev();
    let addr = server.addr();
    append(addr, "/log", b"begin\n");
    let mut text = view(addr, "/log");
    let mut events = Stream::open(addr, "/streams/log", &[]).unwrap();
    assert_eq!(events.event(LIMIT).unwrap().unwrap().id.as_deref(), Some("0"));
    let rules = br#"{"rules":{".read":false,".write":true}}"#;
    let admin = [("authorization", "Bearer owner")];
    assert_eq!(request(addr, "PUT", "/.settings/rules.json", &admin, rules).unwrap().status, 200);
    assert_eq!(text.response(false).unwrap().text(), "begin\nstandpipe: Permission denied\n");
    let event = events.event(LIMIT).unwrap().unwrap();
    assert_eq!((event.name.as_str(), event.data.as_str()), ("cancel", "\"Permission denied\""));
    assert_eq!(request(addr, "GET", "/streams/log", &[], b"").unwrap().status, 401);
    quiet(server, &[]);
}
