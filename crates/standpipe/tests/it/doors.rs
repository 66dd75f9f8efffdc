//! One script, every door (house §8): the same steps through HTTP, lines and RESP give the same answers and
//! the same refusals, and what one door writes the others show.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};
use standpipe_testkit::http::Conn;
use standpipe_testkit::{LIMIT, Launch, Lines, Server};
use standpipe_wire::resp::value::{Value as Reply, decode};
use standpipe_wire::resp::{DecodeLimits, reply};

use crate::support::{quiet, write};
use crate::watches::{next, open};

/// A step of a script.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'a> {
    Get(&'a str),
    Set(&'a str, &'a str),
    Delete(&'a str),
    Auth(&'a str),
}
pub(crate) use Step::{Auth, Delete, Get, Set};

/// What a door answers: a value, that it is done, or the kind of refusal.
pub(crate) type Answer = Result<Value, &'static str>;

/// A way to the tree.
pub(crate) trait Door {
    fn name(&self) -> &'static str;
    fn step(&mut self, step: Step<'_>) -> Answer;
}

struct Http {
    conn: Conn,
    token: Option<String>,
}

impl Door for Http {
    fn name(&self) -> &'static str {
        "http"
    }

    fn step(&mut self, step: Step<'_>) -> Answer {
        let (method, path, body) = match step {
            Get(path) => ("GET", path, ""),
            Set(path, value) => ("PUT", path, value),
            Delete(path) => ("DELETE", path, ""),
            // Every request says who it is from; that is tried by the next one.
            Auth(token) => {
                self.token = Some(format!("Bearer {token}"));
                ("GET", "/nothing", "")
            }
        };
        let headers: Vec<_> = self.token.iter().map(|token| ("authorization", &token[..])).collect();
        let target = format!("{path}.json").replace("//", "/");
        let got = self.conn.request(method, &target, &headers, body.as_bytes()).unwrap();
        let json = got.json().unwrap();
        match (got.status, json["error"].as_str()) {
            (200, _) if matches!(step, Get(_)) => Ok(json),
            (200, _) => Ok(Value::Null),
            (400, _) => Err("bad_request"),
            (401, Some("Permission denied")) => Err("denied"),
            (401, _) => {
                self.token = None;
                Err("unauthenticated")
            }
            other => panic!("{step:?}: {other:?}"),
        }
    }
}

struct Line(Lines);

impl Door for Line {
    fn name(&self) -> &'static str {
        "line"
    }

    fn step(&mut self, step: Step<'_>) -> Answer {
        let line = match step {
            Get(path) => format!("GET {path}"),
            Set(path, value) => format!("SET {path} {value}"),
            Delete(path) => format!("DEL {path}"),
            Auth(token) => format!("AUTH {token}"),
        };
        let got = self.0.ask(&line).unwrap();
        match got.strip_prefix("ERR ").and_then(|error| error.split(' ').next()) {
            Some("bad_request") => Err("bad_request"),
            Some("denied") => Err("denied"),
            Some("unauthenticated") => Err("unauthenticated"),
            Some(other) => panic!("{line}: {other}"),
            None if matches!(step, Get(_)) => Ok(serde_json::from_str(&got).unwrap()),
            None => Ok(Value::Null),
        }
    }
}

pub(crate) struct Resp(pub(crate) TcpStream);

impl Resp {
    pub(crate) fn call(&mut self, args: &[&str]) -> Reply {
        let mut bytes = Vec::new();
        reply::array_head(args.len(), &mut bytes);
        args.iter().for_each(|arg| reply::bulk(arg.as_bytes(), &mut bytes));
        self.0.write_all(&bytes).unwrap();
        let limits = DecodeLimits { args_max: 1 << 10, bulk_bytes_max: 1 << 20, inline_bytes_max: 1 << 10 };
        let (mut input, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            match decode(&input, &limits).unwrap() {
                Some((reply, used)) => {
                    assert_eq!(used, input.len(), "one reply");
                    return reply;
                }
                None => {
                    let count = self.0.read(&mut piece).unwrap();
                    assert!(count > 0, "closed");
                    input.extend_from_slice(&piece[..count]);
                }
            }
        }
    }
}

impl Door for Resp {
    fn name(&self) -> &'static str {
        "resp"
    }

    fn step(&mut self, step: Step<'_>) -> Answer {
        let reply = match step {
            Get(path) => self.call(&["JSON.GET", path]),
            Set(path, value) => self.call(&["JSON.SET", path, "$", value]),
            Delete(path) => self.call(&["DEL", path]),
            Auth(token) => self.call(&["AUTH", token]),
        };
        match reply {
            Reply::Bulk(json) => Ok(serde_json::from_slice(&json).unwrap()),
            Reply::Error(text) => match text.split(' ').next().unwrap() {
                "NOAUTH" | "NOPERM" => Err("denied"),
                "WRONGPASS" => Err("unauthenticated"),
                "ERR" => Err("bad_request"),
                _ => panic!("{step:?}: {text}"),
            },
            _ => Ok(Value::Null),
        }
    }
}

pub(crate) fn start(launch: Launch) -> Server {
    launch.args(["--line", "127.0.0.1:0", "--resp", "127.0.0.1:0"]).start().unwrap()
}

pub(crate) fn resp(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.door("resp").unwrap()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

pub(crate) fn doors(server: &Server) -> Vec<Box<dyn Door>> {
    vec![
        Box::new(Http { conn: Conn::open(server.addr()).unwrap(), token: None }),
        Box::new(Line(Lines::open(server.door("line").unwrap()).unwrap())),
        Box::new(Resp(resp(server))),
    ]
}

#[test]
fn the_same_answers_through_every_door() {
    let script: &[(Step<'_>, Answer)] = &[
        (Get("/"), Ok(Value::Null)),
        (Set("/a", r#"{"b":{"c":1},"d":[1,2.5,"x",true]}"#), Ok(Value::Null)),
        (Get("/a"), Ok(json!({"b": {"c": 1}, "d": [1, 2.5, "x", true]}))),
        (Get("/a/b"), Ok(json!({"c": 1}))),
        (Get("/a/d/1"), Ok(json!(2.5))),
        (Get("/a/none/at/all"), Ok(Value::Null)),
        (Set("/a/b", r#""two\nlines \"and\" é😀""#), Ok(Value::Null)),
        (Get("/a/b"), Ok(json!("two\nlines \"and\" é😀"))),
        // Below a value RESP writes nothing, as redis' types can't change.
        (Delete("/a/b"), Ok(Value::Null)),
        (Set("/a/b/deeper", "9007199254740993"), Ok(Value::Null)),
        (Get("/a/b"), Ok(json!({"deeper": 9_007_199_254_740_993_i64}))),
        (Set("/a/d/3", "null"), Ok(Value::Null)),
        (Get("/a/d"), Ok(json!([1, 2.5, "x"]))),
        (Delete("/a/d"), Ok(Value::Null)),
        (Delete("/a/d"), Ok(Value::Null)),
        (Get("/a"), Ok(json!({"b": {"deeper": 9_007_199_254_740_993_i64}}))),
        (Set("/a", "{"), Err("bad_request")),
        (Set("/a", "nothing"), Err("bad_request")),
        (Set("/a", r#"{"x":1,"x":2}"#), Err("bad_request")),
        (Set("/a", r#"{"x":{".value":1,"y":2}}"#), Err("bad_request")),
        (Set("/a", "18446744073709551617"), Err("bad_request")),
        (Get("/a"), Ok(json!({"b": {"deeper": 9_007_199_254_740_993_i64}}))),
        (Auth("nonsense"), Err("unauthenticated")),
        (Auth("owner"), Ok(Value::Null)),
        (Set("/a", "{}"), Ok(Value::Null)),
        (Get("/"), Ok(Value::Null)),
    ];
    play(|| start(Launch::dev()), script);
}

#[test]
fn the_same_refusals_through_every_door() {
    let data = tempfile::tempdir().unwrap();
    let begin = || start(Launch::serve().data(data.path().join("data")));
    let server = begin();
    let token = std::fs::read_to_string(server.data().join("admin.token")).unwrap();
    drop(server);
    let token = token.trim();
    let script: &[(Step<'_>, Answer)] = &[
        (Get("/"), Err("denied")),
        (Set("/a", "1"), Err("denied")),
        (Delete("/a"), Err("denied")),
        (Auth("owner"), Err("unauthenticated")),
        (Get("/"), Err("denied")),
        (Auth(token), Ok(Value::Null)),
        (Set("/a", "1"), Ok(Value::Null)),
        (Get("/a"), Ok(json!(1))),
        (Set("/a", "["), Err("bad_request")),
        (Delete("/a"), Ok(Value::Null)),
        (Get("/"), Ok(Value::Null)),
    ];
    play(begin, script);
}

/// Plays a script through each door alone, on a server of its own; then each step through the doors in
/// turn, whose reads must all agree after every step.
fn play(start: impl Fn() -> Server, script: &[(Step<'_>, Answer)]) {
    for n in 0..3 {
        let server = start();
        let door = &mut doors(&server)[n];
        for (step, expected) in script {
            assert_eq!(door.step(*step), *expected, "{} {step:?}", door.name());
        }
        quiet(server, &[]);
    }
    let server = start();
    let mut doors = doors(&server);
    for (at, (step, expected)) in script.iter().enumerate() {
        match step {
            // Said by each for itself.
            Auth(_) | Get(_) => {
                for door in &mut doors {
                    assert_eq!(door.step(*step), *expected, "{} {step:?}", door.name());
                }
            }
            _ => {
                let door = &mut doors[at % 3];
                assert_eq!(door.step(*step), *expected, "{} {step:?}", door.name());
                let seen: Vec<_> = doors.iter_mut().map(|door| door.step(Get("/"))).collect();
                assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "after {step:?}: {seen:?}");
            }
        }
    }
    drop(doors);
    quiet(server, &[]);
}

#[test]
fn the_same_news_through_event_streams_and_lines() {
    let server = start(Launch::dev());
    let addr = server.addr();
    write(addr, "PUT", "/w.json", r#"{"x":1}"#);
    let mut stream = open(addr, "/w.json", None);
    let mut lines = Lines::open(server.door("line").unwrap()).unwrap();
    assert_eq!(lines.ask("WATCH /w").unwrap(), "WATCHING 1 1");
    let mut resp = Resp(resp(&server));
    let writes: &[(&str, &str, &str)] = &[
        ("PUT", "/w/a.json", "[1,2]"),
        ("PATCH", "/w.json", r#"{"a/0":null,"b c":"text\n"}"#),
        ("PUT", "/w/b%20c/d.json", r#"{"e":{"f":null,"g":1.5}}"#),
        ("PUT", "/other.json", "1"),
        ("POST", "/w/list.json", "true"),
        ("PATCH", "/.json", r#"{"w/a":5,"other":null}"#),
        ("DELETE", "/w/x.json", ""),
        ("PUT", "/.json", r#"{"w":{"new":true}}"#),
        ("DELETE", "/.json", ""),
    ];
    for (method, target, body) in writes {
        write(addr, method, target, body);
    }
    // Written through the other doors.
    assert_eq!(resp.call(&["SET", "w/r", "1"]), Reply::Simple("OK".to_owned()));
    let mut said: Vec<(Option<u64>, String, String, Value)> = Vec::new();
    let mut other = Lines::open(server.door("line").unwrap()).unwrap();
    let last = other.ask(r#"PATCH /w {"end":true}"#).unwrap();
    let last: u64 = last.strip_prefix("OK ").unwrap().parse().unwrap();
    while said.last().is_none_or(|(rev, ..)| *rev < Some(last)) {
        let line = lines.line().unwrap();
        let Some(event) = line.strip_prefix("EVENT 1 ") else { continue };
        let (rev, event) = event.split_once(' ').unwrap();
        let (kind, event) = event.split_once(' ').unwrap();
        // A path is a word, or a JSON string where it has a space in it.
        let (path, data) = match event.starts_with('"') {
            false => event.split_once(' ').map(|(path, data)| (path.to_owned(), data)).unwrap(),
            true => {
                let mut texts = serde_json::Deserializer::from_str(event).into_iter::<String>();
                let path = texts.next().unwrap().unwrap();
                (path, &event[texts.byte_offset() + 1..])
            }
        };
        said.push((rev.parse().ok(), kind.to_owned(), path, serde_json::from_str::<Value>(data).unwrap()));
    }
    let mut told: Vec<(Option<u64>, String, String, Value)> = Vec::new();
    while told.last().is_none_or(|(rev, ..)| *rev < Some(last)) {
        let event = next(&mut stream);
        told.push((event.rev, event.name, event.path, event.data));
    }
    assert_eq!(told, said);
    quiet(server, &[]);
}
