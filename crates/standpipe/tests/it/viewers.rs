//! Streams at the doors: whoever views one, through whatever door, early, late or after its end, gets every record
//! once and in order, and then the end. The steps are the same everywhere; what only one door has is below.

use std::net::SocketAddr;

use standpipe_testkit::http::{Conn, Response, Stream, request};
use standpipe_testkit::websocket::{CLOSE, TEXT, WebSocket};
use standpipe_testkit::{LIMIT, Launch, Lines, Server};
use standpipe_wire::resp::value::Value as Reply;
use standpipe_wire::sse::Event;

use crate::support::{dev, quiet};

/// Appends to a stream of clients.
fn append(addr: SocketAddr, path: &str, text: &[u8]) -> Response {
    request(addr, "POST", &format!("/streams{path}"), &[], text).unwrap()
}

fn appended(addr: SocketAddr, path: &str, text: &[u8]) {
    let got = append(addr, path, text);
    assert_eq!(got.status, 200, "{}", got.text());
}

/// Ends it.
fn end(addr: SocketAddr, path: &str, state: &str) {
    appended(addr, &format!("{path}?end={state}"), b"");
}

fn get(addr: SocketAddr, target: &str) -> Response {
    request(addr, "GET", &format!("/streams{target}"), &[], b"").unwrap()
}

fn event(stream: &mut Stream) -> Event {
    loop {
        let event = stream.event(LIMIT).unwrap().expect("the stream has not ended");
        if event.name != "keep-alive" {
            return event;
        }
    }
}

/// Reads an event stream of output to its end: bytes, and the data of the end.
fn to_the_end(stream: &mut Stream) -> (String, serde_json::Value) {
    let mut text = String::new();
    loop {
        let event = event(stream);
        let data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
        match event.name.as_str() {
            "out" | "err" => text += data["text"].as_str().unwrap(),
            "end" => {
                assert!(stream.event(LIMIT).unwrap().is_none(), "nothing comes after the end");
                return (text, data);
            }
            name => panic!("{name}: {data}"),
        }
    }
}

#[test]
fn a_stream_is_a_text_with_an_end() {
    let server = dev();
    let addr = server.addr();
    let check = |target: &str, status: u16, body: &str| {
        let got = get(addr, target);
        assert_eq!((got.status, got.text().as_str()), (status, body), "{target}");
        got
    };
    let missing = get(addr, "/chat/log");
    assert_eq!(missing.status, 404, "{}", missing.text());
    appended(addr, "/chat/log", b"one\ntwo\nthr");
    appended(addr, "/chat/log", b"ee\n");
    let got = check("/chat/log?follow=0", 200, "one\ntwo\nthree\n");
    assert_eq!(got.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(got.header("x-content-type-options"), Some("nosniff"));
    assert_eq!((got.header("x-standpipe-next-seq"), got.header("x-standpipe-state")), (Some("4"), Some("open")));
    check("/chat/log?follow=0&from=2", 200, "three\n");
    check("/chat/log?follow=0&tail=1", 200, "ee\n");
    check("/chat/log?follow=0&from=99", 200, "");
    check("/chat/log?follow=0&tail=0", 200, "");
    end(addr, "/chat/log", "done");
    check("/chat/log", 200, "one\ntwo\nthree\nstandpipe: /chat/log done\n");
    check("/chat/log?raw=1", 200, "one\ntwo\nthree\n");
    let head = request(addr, "HEAD", "/streams/chat/log", &[], b"").unwrap();
    assert_eq!((head.status, head.header("x-standpipe-state")), (200, Some("done")));
    let refused = append(addr, "/chat/log", b"more\n");
    assert_eq!(refused.status, 412, "{}", refused.text());
    assert!(refused.text().contains("has ended"), "{}", refused.text());
    for (target, status, part) in [
        ("/chat/log?from=x", 400, "from"),
        ("/chat/log?from=1&tail=1", 400, "two different"),
        ("/runs/a@1/out", 404, "no stream"),
    ] {
        let got = get(addr, target);
        assert_eq!(got.status, status, "{target}");
        assert!(got.text().contains(part), "{target}: {}", got.text());
    }
    let own = append(addr, "/runs/a@1/out", b"x\n");
    assert_eq!(own.status, 400, "{}", own.text());
    assert_eq!(request(addr, "DELETE", "/streams/chat/log", &[], b"").unwrap().status, 200);
    assert_eq!(get(addr, "/chat/log").status, 404);
    quiet(server, &[]);
}

#[test]
fn viewers_early_late_and_after_the_end_see_the_same() {
    let server = dev();
    let addr = server.addr();
    appended(addr, "/log", b"1\n");
    let mut early = Stream::open(addr, "/streams/log", &[]).unwrap();
    assert_eq!(event(&mut early).id.as_deref(), Some("0"));
    let mut leaver = Stream::open(addr, "/streams/log", &[]).unwrap();
    event(&mut leaver);
    drop(leaver);
    let mut text = String::from("1\n");
    for number in 2..=50 {
        let line = format!("{number}\n");
        appended(addr, "/log", line.as_bytes());
        text += &line;
    }
    let mut late = Stream::open(addr, "/streams/log", &[]).unwrap();
    let mut resumed = Stream::open(addr, "/streams/log", &[("Last-Event-ID", "9")]).unwrap();
    end(addr, "/log", "1");
    let mut after = Stream::open(addr, "/streams/log", &[]).unwrap();
    let expected = serde_json::json!({"event": "end", "state": "ended"});
    assert_eq!(to_the_end(&mut early), (text["1\n".len()..].to_owned(), expected.clone()));
    assert_eq!(to_the_end(&mut late), (text.clone(), expected.clone()));
    assert_eq!(to_the_end(&mut after), (text.clone(), expected.clone()));
    let skipped: usize = (1..=10).map(|number: u32| number.to_string().len() + 1).sum();
    assert_eq!(to_the_end(&mut resumed), (text[skipped..].to_owned(), expected));
    quiet(server, &[]);
}

#[test]
fn a_text_is_followed_and_ends_by_itself() {
    let server = dev();
    let addr = server.addr();
    appended(addr, "/log", b"1\n");
    let mut conn = Conn::open(addr).unwrap();
    conn.send(&conn.encode("GET", "/streams/log", &[("TE", "trailers")], b"").unwrap()).unwrap();
    appended(addr, "/log", b"2");
    end(addr, "/log", "1");
    let got = conn.response(false).unwrap();
    assert_eq!(got.text(), "1\n2\nstandpipe: /log ended\n");
    assert_eq!(got.header("trailer"), Some("x-standpipe-state, x-standpipe-exit-code"));
    quiet(server, &[]);
}

#[test]
fn messages_of_a_websocket_are_lines() {
    let server = dev();
    let addr = server.addr();
    appended(addr, "/log", b"1\n\xff\n");
    let mut plain = WebSocket::open(addr, "/streams/log").unwrap();
    let mut json = WebSocket::open(addr, "/streams/log?json=1&from=1").unwrap();
    assert_eq!(plain.frame().unwrap(), (TEXT, b"1".to_vec()));
    assert_eq!(plain.frame().unwrap(), (0x82, b"\xff".to_vec()));
    let record = json.json().unwrap();
    assert_eq!((&record["event"], &record["seq"], &record["base64"]), (&"out".into(), &1.into(), &"/wo=".into()));
    plain.text("what a client says means nothing").unwrap();
    appended(addr, "/log", b"2\r\n");
    assert_eq!(plain.frame().unwrap(), (TEXT, b"2".to_vec()));
    assert_eq!(json.json().unwrap()["text"], "2\r\n");
    end(addr, "/log", "1");
    assert_eq!(plain.frame().unwrap(), (TEXT, b"standpipe: /log ended".to_vec()));
    assert_eq!(json.json().unwrap(), serde_json::json!({"event": "end", "state": "ended"}));
    for viewer in [&mut plain, &mut json] {
        let (first, payload) = viewer.frame().unwrap();
        assert_eq!((first, &payload[..2]), (CLOSE, &1000_u16.to_be_bytes()[..]));
    }
    quiet(server, &[]);
}

fn lines_door() -> (Server, Lines) {
    let server = Launch::dev().args(["--line", "127.0.0.1:0"]).start().unwrap();
    let lines = Lines::open(server.door("line").unwrap()).unwrap();
    (server, lines)
}

#[test]
fn lines_tail_and_append() {
    let (server, mut lines) = lines_door();
    let mut check = |line: &str, expected: &str| assert_eq!(lines.ask(line).unwrap(), expected, "{line}");
    check("APPEND /log one two", "OK 1");
    check("APPEND /log  three", "OK 2");
    check("CLOSE /nothing", "ERR not_found there is no stream /nothing");
    let door = server.door("line").unwrap();
    let mut viewer = Lines::open(door).unwrap();
    assert_eq!(viewer.ask("TAIL /log last=1").unwrap(), "TAILING 1 1");
    let without_time = |line: String| {
        let words: Vec<&str> = line.splitn(5, ' ').collect();
        format!("{} {} {} {}", words[0], words[1], words[2], words[4])
    };
    assert_eq!(without_time(viewer.line().unwrap()), "LINE 1 1 out  three");
    append_and_close(&mut lines);
    assert_eq!(without_time(viewer.line().unwrap()), "LINE 1 2 out four");
    assert_eq!(viewer.line().unwrap(), r#"ENDED 1 {"event":"end","state":"over"}"#);
    assert_eq!(viewer.ask("TAIL /log 1 follow=false").unwrap(), "TAILING 2 1");
    assert_eq!(without_time(viewer.line().unwrap()), "LINE 2 1 out  three");
    assert_eq!(without_time(viewer.line().unwrap()), "LINE 2 2 out four");
    assert_eq!(viewer.line().unwrap(), r#"ENDED 2 {"event":"end","state":"over"}"#);
    quiet(server, &[]);
}

fn append_and_close(lines: &mut Lines) {
    assert_eq!(lines.ask("APPEND /log four").unwrap(), "OK 3");
    assert_eq!(lines.ask("CLOSE /log over").unwrap(), "OK");
}

/// A door's way to streams.
trait StreamDoor {
    fn name(&self) -> &'static str;
    fn append(&mut self, path: &str, line: &str) -> Result<(), &'static str>;
    /// The lines that are there.
    fn read(&mut self, path: &str) -> Result<Vec<String>, &'static str>;
}

struct Http(SocketAddr);

impl Http {
    fn refusal(got: &Response) -> &'static str {
        match got.status {
            400 => "bad_request",
            401 => "denied",
            404 => "not_found",
            412 => "conflict",
            413 => "too_large",
            other => panic!("{other}: {}", got.text()),
        }
    }
}

impl StreamDoor for Http {
    fn name(&self) -> &'static str {
        "http"
    }

    fn append(&mut self, path: &str, line: &str) -> Result<(), &'static str> {
        let got = append(self.0, path, format!("{line}\n").as_bytes());
        if got.status == 200 { Ok(()) } else { Err(Self::refusal(&got)) }
    }

    fn read(&mut self, path: &str) -> Result<Vec<String>, &'static str> {
        let got = get(self.0, &format!("{path}?raw=1&follow=0"));
        if got.status == 200 { Ok(got.text().lines().map(str::to_owned).collect()) } else { Err(Self::refusal(&got)) }
    }
}

struct Line(Lines);

impl Line {
    fn answer(line: &str) -> Result<(), &'static str> {
        let Some(error) = line.strip_prefix("ERR ") else { return Ok(()) };
        let codes = ["bad_request", "denied", "not_found", "conflict", "too_large"];
        Err(codes.into_iter().find(|code| error.starts_with(code)).unwrap_or_else(|| panic!("{line}")))
    }
}

impl StreamDoor for Line {
    fn name(&self) -> &'static str {
        "line"
    }

    fn append(&mut self, path: &str, line: &str) -> Result<(), &'static str> {
        Self::answer(&self.0.ask(&format!("APPEND {path} {line}")).unwrap())
    }

    fn read(&mut self, path: &str) -> Result<Vec<String>, &'static str> {
        Self::answer(&self.0.ask(&format!("TAIL {path} follow=false")).unwrap())?;
        let mut lines = Vec::new();
        loop {
            let line = self.0.line().unwrap();
            let words: Vec<&str> = line.splitn(6, ' ').collect();
            match words[..] {
                ["LINE", _, _, _, "out", text] => lines.push(text.to_owned()),
                ["ENDED", ..] => return Ok(lines),
                _ => panic!("{line}"),
            }
        }
    }
}

struct Resp(crate::doors::Resp);

impl Resp {
    fn refusal(error: &str) -> &'static str {
        match error {
            error if error.starts_with("NOAUTH") || error.starts_with("NOPERM") => "denied",
            error if error.contains("there is no stream") => "not_found",
            error if error.contains("has ended") => "conflict",
            error if error.contains("too large") => "too_large",
            _ => "bad_request",
        }
    }
}

impl StreamDoor for Resp {
    fn name(&self) -> &'static str {
        "resp"
    }

    fn append(&mut self, path: &str, line: &str) -> Result<(), &'static str> {
        match self.0.call(&["XADD", path, "*", "data", &format!("{line}\n")]) {
            Reply::Error(error) => Err(Self::refusal(&error)),
            _ => Ok(()),
        }
    }

    fn read(&mut self, path: &str) -> Result<Vec<String>, &'static str> {
        let entries = match self.0.call(&["XRANGE", path, "-", "+"]) {
            Reply::Error(error) => return Err(Self::refusal(&error)),
            Reply::Array(entries) => entries,
            other => panic!("{other:?}"),
        };
        let line = |entry: &Reply| match entry {
            Reply::Array(entry) => match &entry[1] {
                Reply::Array(fields) => match &fields[5] {
                    Reply::Bulk(data) => String::from_utf8_lossy(data).trim_end().to_owned(),
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        Ok(entries.iter().map(line).collect())
    }
}

fn stream_doors(server: &Server) -> Vec<Box<dyn StreamDoor>> {
    vec![
        Box::new(Http(server.addr())),
        Box::new(Line(Lines::open(server.door("line").unwrap()).unwrap())),
        Box::new(Resp(crate::doors::Resp(crate::doors::resp(server)))),
    ]
}

#[test]
fn the_same_records_and_refusals_through_every_door() {
    let rules = tempfile::NamedTempFile::new().unwrap();
    let text = r#"{"rules":{"open":{".read":true,"log":{".write":"newData.val().length < 100"}},"shut":{".read":false,".write":false}}}"#;
    std::fs::write(rules.path(), text).unwrap();
    let launch = Launch::dev().args(["--rules".as_ref(), rules.path().as_os_str()]);
    let server = crate::doors::start(launch);
    let mut doors = stream_doors(&server);
    let mut expected = Vec::new();
    for (at, line) in ["one", "", "é \"quoted\" text", "{\"json\":1}", "last"].into_iter().enumerate() {
        let door = &mut doors[at % 3];
        assert_eq!(door.append("/open/log", line), Ok(()), "{}", door.name());
        expected.push(line.to_owned());
        for door in &mut doors {
            assert_eq!(door.read("/open/log").as_ref(), Ok(&expected), "{}", door.name());
        }
    }
    for door in &mut doors {
        let name = door.name();
        assert_eq!(door.append("/open/log", &"x".repeat(200)), Err("denied"), "{name}: the rules say so");
        assert_eq!(door.append("/shut/log", "x"), Err("denied"), "{name}");
        assert_eq!(door.read("/shut/log"), Err("denied"), "{name}");
        assert_eq!(door.append("/runs/a@1/out", "x"), Err("bad_request"), "{name}");
    }
    let admin = [("authorization", "Bearer owner")];
    let ended = request(server.addr(), "POST", "/streams/open/log?end=1", &admin, b"").unwrap();
    assert_eq!(ended.status, 200, "{}", ended.text());
    for door in &mut doors {
        assert_eq!(door.append("/open/log", "x"), Err("conflict"), "{}", door.name());
        assert_eq!(door.read("/open/log").as_ref(), Ok(&expected), "{}", door.name());
    }
    drop(doors);
    quiet(server, &[]);
}

#[test]
fn a_client_of_redis_waits_for_records_and_sees_the_end() {
    let server = crate::doors::start(Launch::dev());
    let addr = server.addr();
    let read = |resp: &mut crate::doors::Resp, id: &str| {
        crate::resp::show(&resp.call(&["XREAD", "BLOCK", "0", "STREAMS", "log", id]))
    };
    // Before there is one.
    let mut early = crate::doors::Resp(crate::doors::resp(&server));
    let waiting = std::thread::spawn(move || (read(&mut early, "$"), early));
    std::thread::yield_now();
    appended(addr, "/log", b"one\n");
    let (got, mut early) = waiting.join().unwrap();
    assert!(got.contains("one"), "{got}");
    let waiting = std::thread::spawn(move || (read(&mut early, "0-1"), early));
    appended(addr, "/log", b"two\n");
    let (got, mut early) = waiting.join().unwrap();
    assert!(got.contains("two") && !got.contains("one"), "{got}");
    end(addr, "/log", "done");
    let got = read(&mut early, "1-1");
    assert_eq!(got, r#"[["log", [["2-1", ["ch", "end", "state", "done"]]]]]"#);
    assert_eq!(read(&mut early, "2-1"), "(nil)", "there is nothing behind the end");
    quiet(server, &[]);
}

#[test]
fn a_viewer_that_comes_before_the_stream_waits_for_it() {
    let server = dev();
    let addr = server.addr();
    let early: Vec<_> = ["/streams/log?wait=1", "/runs/nightly@1/out?wait=1"]
        .into_iter()
        .map(|target| {
            let mut conn = Conn::open(addr).unwrap();
            conn.send(&conn.encode("GET", target, &[], b"").unwrap()).unwrap();
            conn
        })
        .collect();
    assert!(standpipe_testkit::until(|| crate::support::metric(addr, "standpipe_watchers") >= 2));
    appended(addr, "/log", b"one\n");
    end(addr, "/log", "1");
    let mut early = early.into_iter();
    let mut waited = early.next().unwrap();
    assert_eq!(waited.response(false).unwrap().text(), "one\nstandpipe: /log ended\n");
    // The other one gives up.
    drop(early);
    assert!(standpipe_testkit::until(|| crate::support::metric(addr, "standpipe_watchers") == 0));
    quiet(server, &[]);
}

#[test]
fn bytes_are_read_at_any_place() {
    let server = dev();
    let addr = server.addr();
    let text: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    for part in text.as_bytes().chunks(50_001) {
        appended(addr, "/log", part);
    }
    let head = request(addr, "HEAD", "/streams/log", &[], b"").unwrap();
    assert_eq!(head.header("x-standpipe-end-offset"), Some(text.len().to_string().as_str()));
    let check = |offset: usize, bytes: usize| {
        let got = get(addr, &format!("/log?raw=1&follow=0&offset={offset}&bytes={bytes}"));
        let start = offset.min(text.len());
        assert_eq!(got.status, 200, "{}", got.text());
        assert_eq!(got.text(), text[start..text.len().min(start + bytes)], "{bytes} from {offset}");
    };
    for offset in [0, 1, 5, 6, 50_000, 50_001, 99_999, text.len() - 1, text.len(), text.len() + 7] {
        for bytes in [0, 1, 2, 100, 131_072, 1 << 30] {
            check(offset, bytes);
        }
    }
    let listed = get(addr, "?at=/").json().unwrap();
    assert_eq!(listed["children"]["log"]["end_offset"], text.len());
    assert_eq!(get(addr, "/log?offset=5").status, 400);
    quiet(server, &[]);
}
