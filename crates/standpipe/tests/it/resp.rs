//! The RESP door of the real binary: a table of commands and replies, which is also the page of the docs,
//! and what real clients of redis do with it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use standpipe_testkit::http::request;
use standpipe_testkit::{Baseline, LIMIT, Launch, Server, tool, until};
use standpipe_wire::resp::DecodeLimits;
use standpipe_wire::resp::value::{Value, decode};

use crate::support::{balanced, metric, quiet};

/// A `standpipe dev` with the RESP door open.
pub(crate) fn start(launch: Launch) -> Server {
    launch.args(["--resp", "127.0.0.1:0"]).start().unwrap()
}

fn resp(server: &Server) -> &str {
    server.door("resp").expect("the door is open")
}

/// A connection that speaks the protocol and nothing more.
pub(crate) struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Client {
    pub(crate) fn new(server: &Server) -> Self {
        Self::at(resp(server))
    }

    fn at(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, unread: Vec::new() }
    }

    pub(crate) fn send(&mut self, args: &[&str]) {
        let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            bytes.extend_from_slice(format!("${}\r\n{arg}\r\n", arg.len()).as_bytes());
        }
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next reply; `None` at the end of the connection.
    pub(crate) fn read(&mut self) -> Option<Value> {
        let limits = DecodeLimits { args_max: 1 << 20, bulk_bytes_max: 1 << 30, inline_bytes_max: 1 << 16 };
        loop {
            if let Some((value, used)) = decode(&self.unread, &limits).unwrap() {
                self.unread.drain(..used);
                return Some(value);
            }
            let mut piece = [0; 16 << 10];
            match self.stream.read(&mut piece) {
                Ok(0) => return None,
                Ok(bytes) => self.unread.extend_from_slice(&piece[..bytes]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) fn call(&mut self, args: &[&str]) -> String {
        self.send(args);
        self.read().map_or("(closed)".into(), |value| show(&value))
    }
}

/// A reply as `redis-cli` shows it, on one line.
pub(crate) fn show(value: &Value) -> String {
    let list = |values: &[Value]| values.iter().map(show).collect::<Vec<_>>().join(", ");
    match value {
        Value::Simple(text) => text.clone(),
        Value::Error(text) => format!("(error) {text}"),
        Value::Integer(number) => format!("(integer) {number}"),
        Value::Bulk(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
        Value::Null => "(nil)".into(),
        Value::Array(values) => format!("[{}]", list(values)),
        Value::Set(values) => format!("~[{}]", list(values)),
        Value::Push(values) => format!(">[{}]", list(values)),
        Value::Map(pairs) => {
            let pair = |(key, value): &(Value, Value)| format!("{} => {}", show(key), show(value));
            format!("{{{}}}", pairs.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        Value::Double(number) => format!("(double) {number}"),
        Value::Boolean(yes) => format!("({yes})"),
        Value::Verbatim(_, text) => format!("{:?}", String::from_utf8_lossy(text)),
    }
}

/// Words as a shell splits them: blanks, and single quotes around what has blanks.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in command.split('\'').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

/// Plays commands on one connection, in order; `*` in a reply stands for anything.
fn play(steps: &[(&str, &str)]) {
    let server = start(Launch::dev());
    let mut client = Client::new(&server);
    for (command, expected) in steps {
        let words = words(command);
        let reply = client.call(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let matches = match expected.split_once('*') {
            Some((before, after)) => reply.starts_with(before) && reply.ends_with(after),
            None => reply == **expected,
        };
        assert!(matches, "{command}\n  got      {reply}\n  expected {expected}");
    }
    drop(client);
    quiet(server, &[]);
}

#[test]
fn strings() {
    play(&[
        ("PING", "PONG"),
        ("PING hello", "\"hello\""),
        ("ECHO 'two words'", "\"two words\""),
        ("GET home/kitchen/temp", "(nil)"),
        ("SET home/kitchen/temp 21.5", "OK"),
        ("GET home/kitchen/temp", "\"21.5\""),
        ("GET home", "\"{\\\"kitchen\\\":{\\\"temp\\\":21.5}}\""),
        ("SET greeting 'hello world'", "OK"),
        ("GET greeting", "\"hello world\""),
        ("SET padded 007", "OK"),
        ("GET padded", "\"007\""),
        ("SET n 1 NX", "OK"),
        ("SET n 2 NX", "(nil)"),
        ("SET n 3 XX", "OK"),
        ("SET other 3 XX", "(nil)"),
        ("SET n 4 GET", "\"3\""),
        ("SET n 5 NX XX", "(error) ERR syntax error"),
        ("SET n 5 EX 10", "(error) ERR values do not expire here; STANDPIPE.LEASE*"),
        ("SETNX n 9", "(integer) 0"),
        ("SETNX fresh 9", "(integer) 1"),
        ("GETSET n 6", "\"4\""),
        ("GETDEL fresh", "\"9\""),
        ("GETDEL fresh", "(nil)"),
        ("APPEND greeting !", "(integer) 12"),
        ("APPEND made x", "(integer) 1"),
        ("STRLEN greeting", "(integer) 12"),
        ("STRLEN nothing", "(integer) 0"),
        ("MSET a 1 b two c 3", "OK"),
        ("MGET a b nothing c", "[\"1\", \"two\", (nil), \"3\"]"),
        ("MSET a 1 b", "(error) ERR wrong number of arguments for 'mset' command"),
        ("MSET x 1 x/y 2", "(error) ERR one key lies below another one of the same command"),
        ("EXISTS a b nothing a", "(integer) 3"),
        ("TYPE a", "string"),
        ("TYPE home", "hash"),
        ("TYPE nothing", "none"),
        ("DEL a b nothing", "(integer) 2"),
        ("UNLINK home", "(integer) 1"),
        ("GET home/kitchen/temp", "(nil)"),
        ("SET greeting/below 1", "(error) WRONGTYPE A key above this one holds a value; remove it first"),
        ("GET greeting", "\"hello world!\""),
        ("SET user.name@x 1", "OK"),
        ("GET user.name@x", "\"1\""),
        ("SET / 1", "(error) ERR a key must not be empty"),
    ]);
}

#[test]
fn counters() {
    play(&[
        ("INCR n", "(integer) 1"),
        ("INCRBY n 41", "(integer) 42"),
        ("DECR n", "(integer) 41"),
        ("DECRBY n 40", "(integer) 1"),
        ("GET n", "\"1\""),
        ("INCRBYFLOAT n 0.5", "\"1.5\""),
        ("INCR n", "(error) ERR value is not an integer or out of range"),
        ("SET n 9223372036854775807", "OK"),
        ("INCR n", "(error) ERR increment or decrement would overflow"),
        ("GET n", "\"9223372036854775807\""),
        ("INCRBY n x", "(error) ERR value is not an integer or out of range"),
        ("SET text abc", "OK"),
        ("INCR text", "(error) ERR value is not an integer or out of range"),
        ("INCRBYFLOAT text 1", "(error) ERR value is not a valid float"),
        ("INCRBYFLOAT n nan", "(error) ERR value is not a valid float"),
        ("INCRBYFLOAT n +inf", "(error) ERR increment would produce NaN or Infinity"),
        ("HSET hash f 1", "(integer) 1"),
        ("INCR hash", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
    ]);
}

#[test]
fn hashes() {
    play(&[
        ("HSET user name maya age 31", "(integer) 2"),
        ("HSET user age 32 town Uxbridge", "(integer) 1"),
        ("HGET user name", "\"maya\""),
        ("HGET user nothing", "(nil)"),
        ("HMGET user name nothing age", "[\"maya\", (nil), \"32\"]"),
        ("HGETALL user", "[\"age\", \"32\", \"name\", \"maya\", \"town\", \"Uxbridge\"]"),
        ("HKEYS user", "[\"age\", \"name\", \"town\"]"),
        ("HVALS user", "[\"32\", \"maya\", \"Uxbridge\"]"),
        ("HLEN user", "(integer) 3"),
        ("HEXISTS user name", "(integer) 1"),
        ("HEXISTS user nothing", "(integer) 0"),
        ("HSTRLEN user name", "(integer) 4"),
        ("HINCRBY user age 1", "(integer) 33"),
        ("HINCRBY user name 1", "(error) ERR hash value is not an integer"),
        ("HSETNX user name x", "(integer) 0"),
        ("HMSET user a.b 1", "OK"),
        ("HGET user a.b", "\"1\""),
        ("HDEL user a.b nothing town", "(integer) 2"),
        ("HGETALL nothing", "[]"),
        ("GET user", "\"{\\\"age\\\":33,\\\"name\\\":\\\"maya\\\"}\""),
        ("GET user/name", "\"maya\""),
        ("SET user/home/town Hayes", "OK"),
        ("HGET user home", "\"{\\\"town\\\":\\\"Hayes\\\"}\""),
        ("SET plain 1", "OK"),
        ("HGET plain f", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("HSET plain f 1", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("HSET user a", "(error) ERR wrong number of arguments for 'hset' command"),
    ]);
}

#[test]
fn keys_and_scans() {
    play(&[
        ("MSET a/1 x a/2 y b/1 z c w", "OK"),
        ("KEYS *", "[\"a/1\", \"a/2\", \"b/1\", \"c\"]"),
        ("KEYS a/?", "[\"a/1\", \"a/2\"]"),
        ("KEYS nothing*", "[]"),
        ("DBSIZE", "(integer) 4"),
        ("SCAN 0 COUNT 100", "[\"0\", [\"a/1\", \"a/2\", \"b/1\", \"c\"]]"),
        ("SCAN 0 COUNT 3", "[\"1\", [\"a/1\", \"a/2\", \"b/1\"]]"),
        ("SCAN 1 COUNT 3", "[\"0\", [\"c\"]]"),
        ("SCAN 0 MATCH b/* COUNT 100", "[\"0\", [\"b/1\"]]"),
        ("SCAN 0 TYPE hash", "[\"0\", []]"),
        ("SCAN 999", "(error) ERR this cursor is not known any more; begin again with 0"),
        ("SCAN x", "(error) ERR invalid cursor"),
        ("HSCAN a 0", "[\"0\", [\"1\", \"x\", \"2\", \"y\"]]"),
        ("HSCAN a 0 COUNT 1", "[\"2\", [\"1\", \"x\"]]"),
        ("HSCAN a 2 COUNT 1", "[\"0\", [\"2\", \"y\"]]"),
        ("HSCAN a 0 MATCH 2 NOVALUES", "[\"0\", [\"2\"]]"),
        ("HSCAN c 0", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
    ]);
}

#[test]
fn json_documents() {
    play(&[
        (r#"JSON.SET doc $ '{"a":{"b":[1,2]},"s":"x"}'"#, "OK"),
        ("JSON.GET doc", r#""{\"a\":{\"b\":[1,2]},\"s\":\"x\"}""#),
        ("JSON.GET doc $.a.b", r#""[[1,2]]""#),
        ("JSON.GET doc .s", r#""\"x\"""#),
        ("JSON.GET doc $.nothing", r#""[]""#),
        ("JSON.GET doc .nothing", "(error) ERR path does not exist"),
        ("JSON.GET nothing", "(nil)"),
        ("JSON.TYPE doc", "\"object\""),
        ("JSON.TYPE doc $.a.b", "[\"array\"]"),
        ("JSON.TYPE doc .s", "\"string\""),
        ("JSON.SET doc $.s 5 NX", "(nil)"),
        ("JSON.SET doc $.s 5 XX", "OK"),
        ("JSON.SET doc $.a.c true", "OK"),
        ("JSON.DEL doc $.a.b", "(integer) 1"),
        ("JSON.GET doc", r#""{\"a\":{\"c\":true},\"s\":5}""#),
        ("JSON.SET new $.x 1", "(error) ERR new objects must be created at the root"),
        ("JSON.SET doc $ {bad", "(error) ERR *"),
        ("JSON.DEL doc", "(integer) 1"),
        ("JSON.DEL doc", "(integer) 0"),
    ]);
}

#[test]
fn transactions() {
    play(&[
        ("MULTI", "OK"),
        ("SET a 1", "QUEUED"),
        ("INCR a", "QUEUED"),
        ("GET a", "QUEUED"),
        ("HSET h f v", "QUEUED"),
        ("INCR h", "QUEUED"),
        ("DEL nothing", "QUEUED"),
        (
            "EXEC",
            "[OK, (integer) 2, \"2\", (integer) 1, (error) WRONGTYPE Operation against a key holding the wrong kind of value, (integer) 0]",
        ),
        ("EXEC", "(error) ERR EXEC without MULTI"),
        ("MULTI", "OK"),
        ("MULTI", "(error) ERR MULTI calls can not be nested"),
        ("DISCARD", "OK"),
        ("DISCARD", "(error) ERR DISCARD without MULTI"),
        ("MULTI", "OK"),
        ("SET a", "(error) ERR wrong number of arguments for 'set' command"),
        ("SET a 9", "QUEUED"),
        ("EXEC", "(error) EXECABORT Transaction discarded because of previous errors."),
        ("GET a", "\"2\""),
        ("MULTI", "OK"),
        ("SUBSCRIBE c", "(error) ERR Command not allowed inside a transaction"),
        ("EXEC", "(error) EXECABORT Transaction discarded because of previous errors."),
        ("MULTI", "OK"),
        ("SET a 9", "QUEUED"),
        ("LPUSH a 9", "(error) ERR unknown command 'LPUSH', with args beginning with: 'a' '9' "),
        ("EXEC", "(error) EXECABORT Transaction discarded because of previous errors."),
        ("GET a", "\"2\""),
        ("MULTI", "OK"),
        ("PING", "QUEUED"),
        ("INCR b", "QUEUED"),
        ("PUBLISH news hello", "QUEUED"),
        ("GET a", "QUEUED"),
        ("CONFIG SET a b", "QUEUED"),
        ("EXEC", "[PONG, (integer) 1, (integer) 0, \"2\", (error) ERR only CONFIG GET is known here*]"),
        ("MULTI", "OK"),
        ("EXEC", "[]"),
        ("WATCH a", "OK"),
        ("SET a 3", "OK"),
        ("MULTI", "OK"),
        ("SET a 4", "QUEUED"),
        ("EXEC", "(nil)"),
        ("WATCH a nothing", "OK"),
        ("MULTI", "OK"),
        ("WATCH b", "(error) ERR WATCH inside MULTI is not allowed"),
        ("EXEC", "[]"),
        ("WATCH a", "OK"),
        ("SET a 5", "OK"),
        ("UNWATCH", "OK"),
        ("MULTI", "OK"),
        ("SET a 6", "QUEUED"),
        ("EXEC", "[OK]"),
    ]);
}

#[test]
fn streams() {
    play(&[
        ("XADD log * data one", "\"0-1\""),
        ("XADD log MAXLEN ~ 1000 * ch err data two", "\"1-1\""),
        ("XADD log * temp 21.5 unit C", "\"2-1\""),
        ("XLEN log", "(integer) 3"),
        ("XLEN nothing", "(integer) 0"),
        ("XRANGE log - + COUNT 1", "[[\"0-1\", [\"ch\", \"out\", \"at\", \"*\", \"data\", \"one\"]]]"),
        ("XRANGE log 1 1", "[[\"1-1\", [\"ch\", \"err\", \"at\", \"*\", \"data\", \"two\"]]]"),
        ("XRANGE log (1-1 +", r#"[["2-1", *"data", "{\"temp\":\"21.5\",\"unit\":\"C\"}\n"]]]"#),
        ("XRANGE nothing - +", "[]"),
        ("XREVRANGE log + - COUNT 1", "[[\"2-1\", *]]"),
        ("XREAD COUNT 1 STREAMS log 0", "[[\"log\", [[\"0-1\", *]]]]"),
        ("XREAD STREAMS log nothing 1-1 0", "[[\"log\", [[\"2-1\", *]]]]"),
        ("XREAD STREAMS log $", "(nil)"),
        ("XREAD BLOCK 10 STREAMS log nothing $ $", "(nil)"),
        ("XINFO STREAM log", "[\"length\", (integer) 3, \"last-generated-id\", \"2-1\", *]"),
        ("XINFO STREAM nothing", "(error) ERR there is no stream at /nothing; *"),
        ("XINFO GROUPS log", "(error) ERR XINFO knows STREAM only: *"),
        ("HELLO 3", "{*}"),
        ("XREAD COUNT 1 STREAMS log 0", "{\"log\" => [[\"0-1\", *]]}"),
        ("XREAD STREAMS log $", "(nil)"),
        ("XADD log 5-5 data x", "(error) ERR the server numbers the records of a stream: the ID must be *"),
        ("XADD log MAXLEN 10 * data x", "(error) ERR streams are cut by bytes and age *"),
        ("XADD log * data", "(error) ERR wrong number of arguments for 'xadd' command"),
        ("XADD runs/a@1/out * data x", "(error) ERR streams below /runs are written by the server alone; *"),
        ("XADD log NOMKSTREAM * data four", "\"3-1\""),
        ("XADD nothing NOMKSTREAM * data x", "(nil)"),
        ("XRANGE log x +", "(error) ERR Invalid stream ID specified as stream command argument"),
        ("XREAD STREAMS log", "(error) ERR wrong number of arguments for 'xread' command"),
        ("XREAD STREAMS log other 0", "(error) ERR Unbalanced 'xread' list of streams: *"),
        ("XREAD BLOCK x STREAMS log 0", "(error) ERR timeout is not an integer or out of range"),
    ]);
}

#[test]
fn the_connection() {
    play(&[
        ("HELLO 4", "(error) NOPROTO unsupported protocol version"),
        (
            "HELLO",
            "[\"server\", \"redis\", \"version\", \"7.0.15\", \"mode\", \"standalone\", \"role\", \"master\", \"proto\", (integer) 2, \"id\", (integer) *, \"modules\", []]",
        ),
        ("HELLO 3 SETNAME me", "{\"server\" => \"redis\", *}"),
        ("CLIENT GETNAME", "\"me\""),
        ("HSET h f v", "(integer) 1"),
        ("HGETALL h", "{\"f\" => \"v\"}"),
        ("HELLO 2", "[*]"),
        ("CLIENT ID", "(integer) *"),
        ("CLIENT SETNAME 'a b'", "(error) ERR Client names cannot contain*"),
        ("CLIENT SETINFO LIB-NAME redis-py", "OK"),
        ("CLIENT NO-EVICT on", "OK"),
        ("CLIENT LIST", "\"id=*"),
        ("SELECT 0", "OK"),
        ("SELECT 1", "(error) ERR DB index is out of range"),
        ("AUTH owner", "OK"),
        ("AUTH default owner", "OK"),
        ("AUTH wrong", "(error) WRONGPASS Could not parse auth token."),
        ("COMMAND COUNT", "(integer) *"),
        (
            "COMMAND INFO get nothing",
            "[[\"get\", (integer) 2, [readonly], (integer) 1, (integer) 1, (integer) 1], (nil)]",
        ),
        ("COMMAND GETKEYS MSET a 1 b 2", "[\"a\", \"b\"]"),
        ("CONFIG GET save", "[\"save\", \"\"]"),
        ("CONFIG SET save x", "(error) ERR only CONFIG GET is known here*"),
        ("INFO server", "\"# Server*"),
        ("TIME", "[\"*\"]"),
        ("FLUSHALL", "(error) ERR unknown command 'FLUSHALL', with args beginning with: "),
        ("LPUSH a b", "(error) ERR unknown command 'LPUSH', with args beginning with: 'a' 'b' "),
        ("GET", "(error) ERR wrong number of arguments for 'get' command"),
        ("RESET", "RESET"),
        ("QUIT", "OK"),
        ("PING", "(closed)"),
    ]);
}

#[test]
fn a_list_of_clients_names_only_who_asks() {
    let server = start(Launch::dev());
    let (mut one, mut two) = (Client::new(&server), Client::new(&server));
    assert_eq!(one.call(&["CLIENT", "SETNAME", "one"]), "OK");
    let id = two.call(&["CLIENT", "ID"]).replace("(integer) ", "");
    assert!(one.call(&["CLIENT", "INFO"]).contains(" name=one "));
    assert!(one.call(&["CLIENT", "LIST", "ID", &id]).contains(" name= "));
    quiet(server, &[]);
}

#[test]
fn messages_reach_who_is_subscribed() {
    let server = start(Launch::dev());
    let (mut listener, mut talker) = (Client::new(&server), Client::new(&server));
    assert_eq!(listener.call(&["SUBSCRIBE", "news"]), "[\"subscribe\", \"news\", (integer) 1]");
    assert_eq!(listener.call(&["PSUBSCRIBE", "n*"]), "[\"psubscribe\", \"n*\", (integer) 2]");
    assert_eq!(listener.call(&["PING"]), "[\"pong\", \"\"]");
    assert!(listener.call(&["GET", "a"]).contains("Can't execute 'get'"));
    assert_eq!(talker.call(&["PUBLISH", "news", "hello"]), "(integer) 2");
    assert_eq!(talker.call(&["PUBLISH", "nobody", "hello"]), "(integer) 1");
    assert_eq!(talker.call(&["PUBSUB", "CHANNELS"]), "[\"news\"]");
    assert_eq!(talker.call(&["PUBSUB", "NUMSUB", "news", "x"]), "[\"news\", (integer) 1, \"x\", (integer) 0]");
    assert_eq!(talker.call(&["PUBSUB", "NUMPAT"]), "(integer) 1");
    let mut next = || show(&listener.read().unwrap());
    assert_eq!(next(), "[\"message\", \"news\", \"hello\"]");
    assert_eq!(next(), "[\"pmessage\", \"n*\", \"news\", \"hello\"]");
    assert_eq!(next(), "[\"pmessage\", \"n*\", \"nobody\", \"hello\"]");
    assert_eq!(listener.call(&["UNSUBSCRIBE"]), "[\"unsubscribe\", \"news\", (integer) 1]");
    assert_eq!(listener.call(&["PUNSUBSCRIBE"]), "[\"punsubscribe\", \"n*\", (integer) 0]");
    assert_eq!(listener.call(&["GET", "a"]), "(nil)");
    assert_eq!(talker.call(&["PUBLISH", "news", "hello"]), "(integer) 0");
    drop((listener, talker));
    assert!(until(|| balanced(server.addr()).is_ok()), "{:?}", balanced(server.addr()));
    quiet(server, &[]);
}

#[test]
fn changes_of_the_tree_are_messages() {
    let server = start(Launch::dev());
    let mut listener = Client::new(&server);
    listener.call(&["HELLO", "3"]);
    for name in ["__keyspace@0__:home/temp", "__keyvalue@0__:home/temp", "__keyvalue@0__:home"] {
        assert!(listener.call(&["SUBSCRIBE", name]).starts_with(">[\"subscribe\""));
    }
    assert!(listener.call(&["PSUBSCRIBE", "__keyspace@0__:home/*"]).starts_with(">[\"psubscribe\""));
    let put = |path: &str, body: &str| request(server.addr(), "PUT", path, &[], body.as_bytes()).unwrap();
    put("/home/temp.json", "21.5");
    let mut four = |count: usize| {
        let mut got: Vec<String> = (0..count).map(|_| show(&listener.read().unwrap())).collect();
        got.sort();
        got
    };
    assert_eq!(
        four(4),
        [
            ">[\"message\", \"__keyspace@0__:home/temp\", \"set\"]",
            ">[\"message\", \"__keyvalue@0__:home\", \"{\\\"temp\\\":21.5}\"]",
            ">[\"message\", \"__keyvalue@0__:home/temp\", \"21.5\"]",
            ">[\"pmessage\", \"__keyspace@0__:home/*\", \"__keyspace@0__:home/temp\", \"set\"]",
        ]
    );
    put("/home.json", "null");
    assert_eq!(
        four(4),
        [
            ">[\"message\", \"__keyspace@0__:home/temp\", \"del\"]",
            ">[\"message\", \"__keyvalue@0__:home\", \"null\"]",
            ">[\"message\", \"__keyvalue@0__:home/temp\", \"null\"]",
            ">[\"pmessage\", \"__keyspace@0__:home/*\", \"__keyspace@0__:home\", \"del\"]",
        ]
    );
    put("/other.json", "1");
    assert_eq!(listener.call(&["PING"]), "PONG", "nothing is told of other paths");
    quiet(server, &[]);
}

#[test]
fn a_pattern_may_stand_for_every_kind_of_change() {
    let server = start(Launch::dev());
    let mut listener = Client::new(&server);
    assert_eq!(listener.call(&["PSUBSCRIBE", "__key*__:*"]), "[\"psubscribe\", \"__key*__:*\", (integer) 1]");
    assert_eq!(Client::new(&server).call(&["SET", "a", "1"]), "OK");
    let mut got: Vec<String> = (0..3).map(|_| show(&listener.read().unwrap())).collect();
    got.sort();
    let told = [("__keyevent@0__:set", "a"), ("__keyspace@0__:a", "set"), ("__keyvalue@0__:a", "1")];
    let message = |(channel, payload)| format!("[\"pmessage\", \"__key*__:*\", \"{channel}\", \"{payload}\"]");
    assert_eq!(got, told.map(message));
    assert_eq!(listener.call(&["PUNSUBSCRIBE"]), "[\"punsubscribe\", \"__key*__:*\", (integer) 0]");
    drop(listener);
    assert!(until(|| balanced(server.addr()).is_ok()), "{:?}", balanced(server.addr()));
    quiet(server, &[]);
}

#[test]
fn a_subscriber_to_changes_that_is_too_slow_gets_the_value_of_now() {
    let server = start(Launch::dev().env("STANDPIPE_LIMITS_RING_EVENTS_MAX", "4"));
    let (mut slow, mut writer) = (Client::new(&server), Client::new(&server));
    slow.call(&["SUBSCRIBE", "__keyspace@0__:n"]);
    slow.call(&["SUBSCRIBE", "__keyvalue@0__:n"]);
    let (text, last) = ("x".repeat(64 << 10), 400);
    for n in 0..=last {
        assert_eq!(writer.call(&["SET", "n", &format!("{n} {text}")]), "OK");
    }
    let (mut reset, mut caught_up) = (false, false);
    while !(reset && caught_up) {
        let message = show(&slow.read().unwrap());
        assert!(!message.ends_with("\"null\"]"), "nothing was removed: {message}");
        reset |= message == "[\"message\", \"__keyspace@0__:n\", \"reset\"]";
        caught_up |= message.starts_with(&format!("[\"message\", \"__keyvalue@0__:n\", \"\\\"{last} x"));
    }
    quiet(server, &[]);
}

#[test]
fn a_lease_ends_with_its_connection() {
    let server = start(Launch::dev());
    let (mut holder, mut other) = (Client::new(&server), Client::new(&server));
    assert_eq!(holder.call(&["STANDPIPE.LEASE", "online/maya", "true"]), "OK");
    assert_eq!(holder.call(&["STANDPIPE.LEASE", "online/lea", "true"]), "OK");
    assert_eq!(holder.call(&["STANDPIPE.ONCLOSE", "last/maya", "gone"]), "OK");
    assert_eq!(holder.call(&["STANDPIPE.RELEASE", "online/lea"]), "OK");
    assert_eq!(other.call(&["HGETALL", "online"]), "[\"lea\", \"true\", \"maya\", \"true\"]");
    drop(holder);
    assert!(until(|| other.call(&["HGETALL", "online"]) == "[\"lea\", \"true\"]"));
    assert_eq!(other.call(&["GET", "last/maya"]), "\"gone\"");
    quiet(server, &[]);
}

#[test]
fn one_tree_behind_every_door() {
    let server = start(Launch::dev());
    request(server.addr(), "PUT", "/home/kitchen/temp.json", &[], b"21.5").unwrap();
    let mut client = Client::new(&server);
    assert_eq!(client.call(&["GET", "home/kitchen/temp"]), "\"21.5\"");
    client.call(&["SET", "home/kitchen/temp", "22"]);
    assert_eq!(request(server.addr(), "GET", "/home.json", &[], b"").unwrap().text(), r#"{"kitchen":{"temp":22}}"#);
    quiet(server, &[]);
}

#[test]
fn a_locked_server_asks_who_is_there() {
    let server = start(Launch::serve());
    let token = std::fs::read_to_string(server.data().join("admin.token")).unwrap();
    let mut client = Client::new(&server);
    for command in [&["GET", "a"][..], &["SET", "a", "1"], &["PING"], &["PUBLISH", "a", "b"], &["SUBSCRIBE", "a"]] {
        assert_eq!(client.call(command), "(error) NOAUTH Authentication required.", "{command:?}");
    }
    assert!(client.call(&["HELLO", "3"]).starts_with("(error) NOAUTH"));
    assert!(client.call(&["AUTH", "owner"]).starts_with("(error) WRONGPASS"));
    assert_eq!(client.call(&["AUTH", token.trim()]), "OK");
    assert_eq!(client.call(&["SET", "a", "1"]), "OK");
    assert!(client.call(&["HELLO", "3", "AUTH", "default", token.trim()]).contains("proto"));
    quiet(server, &[]);
}

/// Commands are the same whether they come in one piece, in every pair of pieces, or byte by byte.
#[test]
fn pieces_make_no_difference() {
    let server = start(Launch::dev());
    let commands = "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$5\r\nhello\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\nECHO 'x y'\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n*1\r\n$6\r\nDBSIZE\r\n";
    let check = |pieces: &[&str]| {
        let mut client = Client::new(&server);
        client.call(&["DEL", "n"]);
        for piece in pieces {
            client.stream.write_all(piece.as_bytes()).unwrap();
        }
        let replies: Vec<_> = (0..5).map(|_| show(&client.read().unwrap())).collect();
        assert_eq!(replies, ["OK", "\"hello\"", "\"x y\"", "(integer) 1", "(integer) 2"], "{pieces:?}");
    };
    check(&[commands]);
    for at in 1..commands.len() {
        check(&[&commands[..at], &commands[at..]]);
    }
    let bytes: Vec<&str> = (0..commands.len()).map(|at| &commands[at..=at]).collect();
    check(&bytes);
    quiet(server, &[]);
}

#[test]
fn thousands_of_commands_at_once_are_answered_in_order() {
    let server = start(Launch::dev());
    let mut client = Client::new(&server);
    let mut writer = client.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        for number in 0..2_000 {
            let bytes = format!("INCR n\r\nECHO {number}\r\nSET k {number}\r\nGET k\r\n");
            writer.write_all(bytes.as_bytes()).unwrap();
        }
    });
    for number in 0..2_000 {
        let replies: Vec<_> = (0..4).map(|_| show(&client.read().unwrap())).collect();
        let text = format!("\"{number}\"");
        assert_eq!(replies, [format!("(integer) {}", number + 1), text.clone(), "OK".into(), text]);
    }
    sender.join().unwrap();
    drop(client);
    assert!(until(|| balanced(server.addr()).is_ok()), "{:?}", balanced(server.addr()));
    quiet(server, &[]);
}

#[test]
fn counters_lose_nothing_under_contention() {
    let server = start(Launch::dev());
    let address = resp(&server);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let mut client = Client::at(address);
                for _ in 0..50 {
                    client.call(&["INCR", "n"]);
                    // A transaction that fails and is tried again, as clients do.
                    loop {
                        client.call(&["WATCH", "m"]);
                        let old = client.call(&["GET", "m"]);
                        let old: i64 = old.trim_matches('"').parse().unwrap_or(0);
                        client.call(&["MULTI"]);
                        client.call(&["SET", "m", &(old + 1).to_string()]);
                        if client.call(&["EXEC"]) == "[OK]" {
                            break;
                        }
                    }
                }
            });
        }
    });
    let mut client = Client::new(&server);
    assert_eq!(client.call(&["MGET", "n", "m"]), "[\"1000\", \"1000\"]");
    quiet(server, &[]);
}

#[test]
fn what_is_no_command_ends_the_connection_with_a_word() {
    let server = start(Launch::dev());
    let check = |bytes: &[u8], expected: &str| {
        let mut client = Client::new(&server);
        client.stream.write_all(bytes).unwrap();
        assert_eq!(client.read().map(|value| show(&value)).as_deref(), Some(expected));
        assert!(client.read().is_none());
    };
    check(b"*x\r\n", "(error) ERR Protocol error: invalid multibulk length");
    check(b"*99999999\r\n", "(error) ERR Protocol error: invalid multibulk length");
    check(b"*1\r\nx\r\n", "(error) ERR Protocol error: expected '$', got 'x'");
    check(b"*1\r\n$-5\r\n", "(error) ERR Protocol error: invalid bulk length");
    check(b"*1\r\n$99999999999\r\n", "(error) ERR Protocol error: invalid bulk length");
    check(b"SET \"a\r\n", "(error) ERR Protocol error: unbalanced quotes in request");
    check(&vec![b'a'; 70_000], "(error) ERR Protocol error: too big inline request");
    assert!(until(|| balanced(server.addr()).is_ok()), "{:?}", balanced(server.addr()));
    quiet(server, &[]);
}

#[test]
fn large_values_go_in_and_out() {
    let server = start(Launch::dev());
    let mut client = Client::new(&server);
    for size in [1, 16 << 10, (16 << 10) + 1, 300_000, 9 << 20] {
        let text = "x".repeat(size);
        assert_eq!(client.call(&["SET", "large", &text]), "OK", "{size}");
        assert!(client.call(&["GET", "large"]).len() == size + 2, "{size}");
    }
    assert!(client.call(&["SET", "large", &"x".repeat(11 << 20)]).starts_with("(error) ERR"));
    assert_eq!(client.call(&["PING"]), "PONG");
    quiet(server, &[]);
}

#[test]
fn deadlines_end_what_stalls() {
    let config = "[limits]\nfirst_byte_ms_max = 300\nrequest_head_ms_max = 300\nbody_progress_ms_max = 300\nidle_ms_max = 300\nwrite_progress_ms_max = 300\n";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("standpipe.toml");
    std::fs::write(&file, config).unwrap();
    let server = start(Launch::dev().args(["--config".as_ref(), file.as_os_str()]));
    Client::new(&server).call(&["PING"]);
    let before = Baseline::of(server.pid()).unwrap();
    // Nothing at all; half a head; half a body; nothing more after a command.
    for bytes in [&b""[..], b"*2\r\n$3\r\nGE", b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$200000\r\nxx", b"PING\r\n"] {
        let mut client = Client::new(&server);
        client.stream.write_all(bytes).unwrap();
        while client.read().is_some() {}
    }
    // A peer that takes nothing of a reply that does not fit into the sockets.
    let mut slow = Client::new(&server);
    slow.call(&["SET", "large", &"x".repeat(8 << 20)]);
    let mut other = Client::new(&server);
    let ask = "*2\r\n$3\r\nGET\r\n$5\r\nlarge\r\n".repeat(20);
    slow.stream.write_all(ask.as_bytes()).unwrap();
    assert_eq!(other.call(&["PING"]), "PONG");
    let closed = |reason: &str| {
        let text = request(server.addr(), "GET", "/metrics", &[], b"").unwrap().text();
        text.lines().any(|line| {
            line.contains("connections_closed")
                && line.contains("resp")
                && line.contains(reason)
                && !line.ends_with(" 0")
        })
    };
    for reason in ["first_byte_timeout", "head_timeout", "idle_timeout", "write_timeout"] {
        assert!(until(|| closed(reason)), "{reason}");
    }
    drop((slow, other));
    assert!(until(|| Baseline::of(server.pid()).unwrap().descriptors <= before.descriptors));
    assert!(until(|| balanced(server.addr()).is_ok()), "{:?}", balanced(server.addr()));
    quiet(server, &[]);
}

#[test]
fn a_subscriber_that_does_not_read_is_cut_and_nobody_waits() {
    let server = start(Launch::dev().env("STANDPIPE_LIMITS_MAILBOX_BYTES_MAX", "100000"));
    let (mut slow, mut talker) = (Client::new(&server), Client::new(&server));
    slow.call(&["SUBSCRIBE", "c"]);
    let text = "x".repeat(10_000);
    let cut = until(|| talker.call(&["PUBLISH", "c", &text]) == "(integer) 0");
    assert!(cut, "the subscriber was never cut");
    drop((slow, talker));
    assert!(until(|| balanced(server.addr()).is_ok()), "{:?}", balanced(server.addr()));
    quiet(server, &[]);
}

#[test]
fn a_half_closed_connection_gets_its_answers() {
    let server = start(Launch::dev());
    let mut client = Client::new(&server);
    client.stream.write_all(b"SET a 1\r\nGET a\r\nKEYS *\r\n").unwrap();
    client.stream.shutdown(Shutdown::Write).unwrap();
    let replies: Vec<_> = std::iter::from_fn(|| client.read()).map(|value| show(&value)).collect();
    assert_eq!(replies, ["OK", "\"1\"", "[\"a\"]"]);
    quiet(server, &[]);
}

#[test]
fn too_many_connections_are_told() {
    let server = start(Launch::dev().env("STANDPIPE_LIMITS_CONNECTIONS_PER_DOOR_MAX", "2"));
    let mut clients = [Client::new(&server), Client::new(&server)];
    clients.iter_mut().for_each(|client| assert_eq!(client.call(&["PING"]), "PONG"));
    let mut third = Client::new(&server);
    let told = third.read().map(|value| show(&value)).unwrap_or_default();
    assert!(told.starts_with("(error) BUSY") && told.contains("connections_per_door_max"), "{told}");
    assert!(third.read().is_none());
    quiet(server, &[]);
}

#[test]
fn a_thousand_idle_connections_leave_nothing_behind() {
    crate::support::descriptors(4_096);
    let server = start(Launch::dev());
    // The database is opened by who asks first, and stays open.
    Client::new(&server).call(&["INCR", "n"]);
    let before = Baseline::of(server.pid()).unwrap();
    let mut clients: Vec<Client> = (0..1_000).map(|_| Client::new(&server)).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.call(&["PING"]), "PONG"));
    let mut active = Client::new(&server);
    active.stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    (0..1_000).for_each(|_| assert_eq!(active.call(&["INCR", "n"]).split(' ').next(), Some("(integer)")));
    drop((clients, active));
    assert!(until(|| Baseline::of(server.pid()).unwrap().is_back_at(&before)));
    assert!(until(|| balanced(server.addr()).is_ok()), "{:?}", balanced(server.addr()));
    quiet(server, &[]);
}

#[test]
fn shutdown_says_so_and_ends_in_time() {
    let mut server = start(Launch::dev());
    let (mut idle, mut subscribed) = (Client::new(&server), Client::new(&server));
    idle.call(&["PING"]);
    subscribed.call(&["SUBSCRIBE", "c"]);
    assert!(server.stop().unwrap().success());
    for client in [&mut idle, &mut subscribed] {
        assert_eq!(client.call(&["PING"]), "(error) ERR the server is shutting down");
        assert!(client.read().is_none());
    }
}

fn redis(program: &str, server: &Server, args: &[&str]) -> Output {
    let (host, port) = resp(server).rsplit_once(':').unwrap();
    let output = Command::new(program).args(["-h", host, "-p", port]).args(args).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}; cargo xtask test installs it"))
}

#[test]
fn redis_cli() {
    let server = start(Launch::dev());
    let cli = |args: &[&str]| String::from_utf8(redis("redis-cli", &server, args).stdout).unwrap();
    assert_eq!(cli(&["SET", "home/kitchen/temp", "21.5"]), "OK\n");
    assert_eq!(cli(&["GET", "home/kitchen/temp"]), "21.5\n");
    assert_eq!(cli(&["--json", "GET", "home"]), "\"{\\\"kitchen\\\":{\\\"temp\\\":21.5}}\"\n");
    assert_eq!(cli(&["-3", "HGETALL", "home/kitchen"]), "temp 21.5\n");
    assert_eq!(cli(&["--scan", "--pattern", "home/*"]), "home/kitchen/temp\n");
    assert!(cli(&["INFO", "server"]).contains("redis_version:"));
    assert!(cli(&["COMMAND", "DOCS", "get"]).contains("summary"));
    quiet(server, &[]);
}

#[test]
fn redis_benchmark() {
    let server = start(Launch::dev());
    let tests = "ping_inline,ping_mbulk,set,get,incr,hset,mset";
    for extra in [&["-P", "1"][..], &["-P", "16", "-r", "1000"], &["-P", "7", "-3"]] {
        let mut args = vec!["-n", "2000", "-c", "20", "-q", "-t", tests];
        args.extend(extra);
        let output = redis("redis-benchmark", &server, &args);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out.matches("requests per second").count() == 7, "{extra:?}: {out}\n{err}");
        assert!(!err.contains("Error") && !out.contains("Error"), "{out}\n{err}");
    }
    assert!(until(|| balanced(server.addr()).is_ok()), "{:?}", balanced(server.addr()));
    quiet(server, &[]);
}

/// Runs a script of a client library; where the library is not installed it says so.
fn script(program: Option<std::path::PathBuf>, script: &str, what: &str) {
    let Some(program) = program else {
        eprintln!("left out: no {what}; cargo xtask test installs it");
        return;
    };
    let server = start(Launch::dev());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    let (host, port) = resp(&server).rsplit_once(':').unwrap();
    let modules = tool("node_modules").unwrap_or_default();
    let output = Command::new(program)
        .arg(script)
        .args([host, port])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NODE_PATH", modules)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.trim_end().ends_with("done"), "{out}\n{err}\n{}", server.stderr());
    assert!(until(|| balanced(server.addr()).is_ok()), "{:?}", balanced(server.addr()));
    quiet(server, &[]);
}

#[test]
fn redis_py() {
    script(tool("python/bin/python"), "python/redis_client.py", "redis-py");
}

#[test]
fn node_redis() {
    let node = tool("node_modules/redis").map(|_| "node".into());
    script(node, "node/redis_client.js", "node-redis");
}

#[test]
fn the_rust_crate() {
    use redis::Commands as _;
    let server = start(Launch::dev());
    let client = redis::Client::open(format!("redis://{}/", resp(&server))).unwrap();
    let mut connection = client.get_connection().unwrap();
    let () = connection.set("rust/number", 42).unwrap();
    assert_eq!(connection.get::<_, i64>("rust/number").unwrap(), 42);
    assert_eq!(connection.incr::<_, _, i64>("rust/number", 8).unwrap(), 50);
    let () = connection.hset_multiple("rust/hash", &[("a", "1"), ("b", "x")]).unwrap();
    let hash: std::collections::HashMap<String, String> = connection.hgetall("rust/hash").unwrap();
    assert_eq!((hash.len(), hash["b"].as_str()), (2, "x"));
    let (one, two): (i64, String) = redis::pipe()
        .atomic()
        .incr("rust/n", 1)
        .set("rust/s", "t")
        .ignore()
        .get("rust/s")
        .query(&mut connection)
        .unwrap();
    assert_eq!((one, two.as_str()), (1, "t"));
    let mut keys: Vec<String> = connection.scan_match("rust/*").unwrap().map(Result::unwrap).collect();
    keys.sort();
    assert_eq!(keys, ["rust/hash/a", "rust/hash/b", "rust/n", "rust/number", "rust/s"]);
    assert!(metric(server.addr(), "standpipe_requests_begun_total") > 5);
    drop(connection);
    quiet(server, &[]);
}
