//! The line door (serving §5): tables of lines and answers over TCP and Unix sockets, however the bytes
//! are cut, and `nc`. Peers that are slow, silent or broken are in `line_hostile.rs`. The tables are
//! also what `docs/line.md` shows.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use standpipe_testkit::{Launch, Lines, Server, until};

use crate::support::{Random, balanced, quiet, write};

/// A `standpipe dev` with a line door on a free port.
pub(crate) fn dev() -> Server {
    Launch::dev().args(["--line", "127.0.0.1:0"]).start().unwrap()
}

/// The same with these `[limits]`.
pub(crate) fn dev_with(limits: &str) -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("standpipe.toml");
    std::fs::write(&file, format!("[server]\nline = \"127.0.0.1:0\"\n\n[limits]\n{limits}\n")).unwrap();
    (Launch::dev().args(["--config".as_ref(), file.as_os_str()]).start().unwrap(), dir)
}

/// A connection to the server's line door.
pub(crate) fn open(server: &Server) -> Lines {
    Lines::open(server.door("line").unwrap()).unwrap()
}

/// How a table is played.
#[derive(Clone, Copy, Debug)]
enum Via {
    /// A line, then its answer, over TCP.
    Turns,
    /// Each line in up to ten segments, over TCP.
    Segments,
    /// All lines in one segment over a Unix socket, ended by CRLF.
    AtOnce,
}

/// Plays the rows of a table, each a line and its answer, on a fresh server in each way. In an answer `*`
/// stands for anything.
fn play(rows: &[(&str, &str)]) {
    for via in [Via::Turns, Via::Segments, Via::AtOnce] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("line");
        let server = match via {
            Via::AtOnce => Launch::dev().args(["--line".as_ref(), path.as_os_str()]).start().unwrap(),
            _ => dev(),
        };
        let mut lines = open(&server);
        if matches!(via, Via::AtOnce) {
            let all: String = rows.iter().map(|(line, _)| format!("{line}\r\n")).collect();
            lines.send(all).unwrap();
        }
        for (line, expected) in rows {
            match via {
                Via::Turns => lines.send(format!("{line}\n")).unwrap(),
                Via::Segments => in_segments(&mut lines, &format!("{line}\n")),
                Via::AtOnce => {}
            }
            let got = lines.line().unwrap_or_else(|error| panic!("{via:?} {line}: {error}"));
            assert!(alike(&got, expected), "{via:?} {line}\n     got {got}\nexpected {expected}");
        }
        if rows.last().is_some_and(|row| row.0 == "QUIT") {
            assert_eq!(lines.rest().unwrap(), "", "{via:?}: nothing comes after BYE");
        }
        drop(lines);
        assert!(until(|| balanced(server.addr()).is_ok()), "{:?}", balanced(server.addr()));
        quiet(server, &[]);
    }
}

fn in_segments(lines: &mut Lines, text: &str) {
    for piece in text.as_bytes().chunks(text.len().div_ceil(10)) {
        lines.send(piece).unwrap();
        // Nothing is to be answered yet; the pause makes it a segment of its own.
        assert!(piece.ends_with(b"\n") || lines.line_within(std::time::Duration::from_millis(1)).unwrap().is_none());
    }
}

/// Is `text` what the pattern says?
pub(crate) fn alike(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    for part in parts {
        match rest.find(part) {
            Some(at) if !part.is_empty() => rest = &rest[at + part.len()..],
            Some(_) => {}
            None => return false,
        }
    }
    rest.is_empty() || pattern.ends_with('*')
}

#[test]
fn the_connection_and_the_server() {
    play(&[
        ("PING", "PONG"),
        ("ping", "PONG"),
        ("PING hello  you", "hello  you"),
        ("ECHO  what I say, é日, byte for byte ", " what I say, é日, byte for byte "),
        ("ECHO", ""),
        ("TIME", "20*-*-*T*:*:*.*Z"),
        (
            "STATS",
            r#"{"connections":1,"database":"default","queue":0,"refusals":0,"requests":*,"rev":0,"uptime_s":*,"watchers":0,"workers":*}"#,
        ),
        ("AUTH owner", "OK"),
        ("AUTH nonsense", "ERR unauthenticated Could not parse auth token."),
        ("USE other", "OK"),
        ("SET /a 1", "OK 1"),
        ("USE", "OK"),
        ("GET /a", "null"),
        ("USE 0123456789012345678901234567890123456789012345678901234567890123456789", "ERR *"),
        ("HELP get", "GET path [name=value ...]: reads; *"),
        ("HELP", r#"{"APPEND path text":"*","DEL path":"*"}"#),
        ("HELP gte", "ERR bad_request there is no command \"gte\"; the nearest is GET, HELP lists all"),
        ("FETCH /a", "ERR bad_request there is no command \"FETCH\"; the nearest is *, HELP lists all"),
        ("delete /a", "ERR bad_request there is no command \"delete\"; the nearest is DEL, HELP lists all"),
        ("TIME now", "ERR bad_request \"now\" is one word too many"),
        ("QUIT", "BYE"),
    ]);
}

#[test]
fn streams() {
    play(&[
        ("TAIL /log", "ERR not_found there is no stream at /log; one begins with its run, or with the first append"),
        ("APPEND /log one  two", "OK 1"),
        ("APPEND /log", "OK 2"),
        ("APPEND \"/living room/log\" 21.5", "OK 1"),
        ("APPEND /runs/nightly@1/out mine", "ERR bad_request streams below /runs are written by the server alone; *"),
        ("APPEND / x", "ERR bad_request a stream needs a path of at least one key"),
        ("APPEND", "ERR bad_request the path is missing"),
        ("TAIL /log 0 last=1", "ERR bad_request a number and last= say two different places to begin at; give one"),
        ("TAIL /log last=x", "ERR bad_request last= is a number of records, follow= is true or false"),
        ("TAIL /log since=1", "ERR bad_request \"since\" is not known here; name=value may be: last, follow"),
        ("UNTAIL 1", "ERR bad_request there is no watch of that number on this connection"),
        ("CLOSE /log all done", "ERR bad_request \"done\" is one word too many"),
        ("CLOSE /log done", "OK"),
        ("APPEND /log more", "ERR conflict the stream /log has ended (done); nothing can be appended to it"),
        ("CLOSE /log", "ERR conflict the stream /log has ended (done); nothing can be appended to it"),
        ("CLOSE /other", "ERR not_found there is no stream /other"),
    ]);
}

#[test]
fn reads_and_writes() {
    play(&[
        ("GET /", "null"),
        (r#"SET /home/kitchen {"temp":21.5,"lamp":true,"notes":["a","b"]}"#, "OK 1"),
        ("GET /home/kitchen/temp", "21.5"),
        ("GET home/kitchen/", r#"{"lamp":true,"notes":["a","b"],"temp":21.5}"#),
        (r#"PATCH /home/kitchen {"temp":22,"notes/1":null}"#, "OK 2"),
        ("GET /home", r#"{"kitchen":{"lamp":true,"notes":["a"],"temp":22}}"#),
        (r#"PUSH /log "started""#, "OK 3 -*"),
        ("GET /log", r#"{"-*":"started"}"#),
        ("DEL /log", "OK 4"),
        ("DEL /log", "OK 4"),
        ("GET /log", "null"),
        (r#"SET "/home/living room" {"a \"b\"":"two\nlines"}"#, "OK 5"),
        (r#"GET "/home/living room/a \"b\"""#, r#""two\nlines""#),
        (r#"SET /with/priority {".value":1,".priority":"p"}"#, "OK 6"),
        ("GET /with/priority/.priority", r#""p""#),
        ("SET /with/priority/.priority 2", "OK 7"),
        ("GET /with/priority format=export", r#"{".value":1,".priority":2}"#),
        (r#"SET /when {".sv":"timestamp"}"#, "OK 8"),
        ("GET /when", "1*"),
        (r#"PATCH /count {"n":{".sv":{"increment":2}}}"#, "OK 9"),
        ("GET /count/n at_least=9", "2"),
        ("SET /gone null", "OK 9"),
    ]);
}

#[test]
fn queries() {
    play(&[
        (r#"SET /u {"a":{"age":30,"name":"Ada L"},"b":{"age":20,"name":"Bob"},"c":{"age":40,"name":"Cy"}}"#, "OK 1"),
        ("GET /u shallow=true", r#"{"a":true,"b":true,"c":true}"#),
        ("GET /u shallow=true limitToFirst=2", r#"{"a":true,"b":true}"#),
        (r#"GET /u orderBy="$key" limitToFirst=1"#, r#"{"a":{"age":30,"name":"Ada L"}}"#),
        (r#"GET /u orderBy="name" equalTo="Ada L""#, r#"{"a":{"age":30,"name":"Ada L"}}"#),
        (r#"GET /u orderBy="age" startAt=25 endAt=35"#, r#"{"a":{"age":30,"name":"Ada L"}}"#),
        (r#"GET /u/a/name timeout=5s"#, r#""Ada L""#),
        ("GET /u limitToFirst=1", "ERR bad_request orderBy must be defined when other query parameters are defined"),
        (r#"GET /u orderBy="age" limitToLast=0"#, "ERR bad_request limitToLast must be a positive integer"),
        ("GET /u print=pretty", r#"ERR bad_request "print" is not known here; name=value may be: orderBy, *"#),
    ]);
}

#[test]
fn what_is_refused() {
    play(&[
        ("GET", "ERR bad_request the path is missing"),
        ("SET /a", "ERR bad_request the value is missing: JSON, to the end of the line"),
        ("SET /a {", "ERR bad_request Invalid data; couldn't parse JSON object, array, or value."),
        ("SET /a 1 2", "ERR bad_request Invalid data; couldn't parse JSON object, array, or value."),
        ("PATCH /a 1", "ERR bad_request Invalid data; couldn't parse JSON object. *"),
        ("SET /a.b 1", "ERR bad_request bad path: a key must not contain '.': *"),
        (r#"GET "/a b"#, "ERR bad_request a path that begins with a quote must be a JSON string"),
        (r#"SET /a {"b":1,"b":2}"#, "ERR bad_request Invalid data; at /b: the key occurs twice in its object"),
        ("SET /a 18446744073709551617", "ERR bad_request Invalid data; *cannot be stored exactly*"),
        ("DEL /a now", "ERR bad_request \"now\" is one word too many"),
        ("UNWATCH 1", "ERR bad_request there is no watch of that number on this connection"),
        ("UNWATCH", "ERR bad_request there is no watch of that number on this connection"),
        ("WATCH", "ERR bad_request the path is missing"),
        (r#"WATCH /a since=5"#, "ERR bad_request \"since\" is not known here; *"),
        (
            "WATCH /a shallow=true",
            r#"ERR bad_request "shallow" is not known here; name=value may be: orderBy, *limitToLast"#,
        ),
        ("AUTH", "ERR bad_request the token is missing"),
        ("GET /", "null"),
    ]);
}

#[test]
fn what_goes_with_the_connection() {
    let server = dev();
    let mut holder = open(&server);
    let mut other = open(&server);
    for (line, expected) in [
        (r#"LEASE /here/ada {"since":1}"#, "OK *"),
        ("GET /here/ada/since", "1"),
        (r#"ONCLOSE /last "ada left""#, "OK *"),
        (r#"ONCLOSE /forgotten 1"#, "OK *"),
        ("RELEASE /forgotten", "OK *"),
        ("LEASE /kept 1", "OK *"),
        ("RELEASE /kept", "OK *"),
        ("ONCLOSE /a.b 1", "ERR bad_request *"),
    ] {
        let got = holder.ask(line).unwrap();
        assert!(alike(&got, expected), "{line}: {got}");
    }
    assert_eq!(other.ask("GET /here").unwrap(), r#"{"ada":{"since":1}}"#);
    // A long value goes by way of a worker, and with the connection all the same.
    let long = "x".repeat(100_000);
    assert!(holder.ask(&format!("LEASE /long {long:?}")).unwrap().starts_with("OK "));
    assert_eq!(other.ask("GET /long").unwrap().len(), long.len() + 2);
    assert!(other.ask("WATCH /last").unwrap().starts_with("WATCHING 1 "));
    assert!(alike(&other.line().unwrap(), "EVENT 1 * put / null"));
    drop(holder);
    assert!(alike(&other.line().unwrap(), r#"EVENT 1 * put / "ada left""#));
    for (line, expected) in
        [("GET /here", "null"), ("GET /long", "null"), ("GET /kept", "1"), ("GET /forgotten", "null")]
    {
        assert!(until(|| other.ask(line).unwrap() == expected), "{line}");
    }
    quiet(server, &[]);
}

#[test]
fn serve_asks_who_it_is() {
    let server = Launch::serve().args(["--line", "127.0.0.1:0"]).start().unwrap();
    let token = std::fs::read_to_string(server.data().join("admin.token")).unwrap();
    let mut lines = open(&server);
    for line in ["GET /", "SET /a 1", "DEL /a", "LEASE /a 1", "ONCLOSE /a 1", "WATCH /", "STATS"] {
        assert_eq!(lines.ask(line).unwrap(), "ERR denied Permission denied", "{line}");
    }
    assert_eq!(lines.ask("PING").unwrap(), "PONG");
    assert_eq!(lines.ask("AUTH owner").unwrap(), "ERR unauthenticated Could not parse auth token.");
    assert_eq!(lines.ask(&format!("AUTH {token}")).unwrap(), "OK");
    assert_eq!(lines.ask("SET /a 1").unwrap(), "OK 1");
    assert_eq!(lines.ask("GET /").unwrap(), r#"{"a":1}"#);
    quiet(server, &[]);
}

#[test]
fn thousands_in_one_go_are_answered_in_order() {
    let server = dev();
    let mut lines = open(&server);
    let count = 5_000;
    let all: String = (0..count).map(|n| format!("SET /n {n}\nGET /n\nECHO {n}\n")).collect();
    std::thread::scope(|scope| {
        let mut answers = Lines::open(server.door("line").unwrap()).unwrap();
        // Somebody else's requests get their turn meanwhile.
        scope.spawn(move || (0..200).for_each(|_| assert_eq!(answers.ask("PING").unwrap(), "PONG")));
        lines.send(all).unwrap();
    });
    for n in 0..count {
        assert_eq!(lines.line().unwrap(), format!("OK {}", n + 1));
        assert_eq!(lines.line().unwrap(), n.to_string());
        assert_eq!(lines.line().unwrap(), n.to_string());
    }
    // Writes alone share commits.
    lines.send((0..count).map(|n| format!("PUSH /list {n}\n")).collect::<String>()).unwrap();
    let keys: Vec<_> = (0..count).map(|_| lines.line().unwrap().split(' ').nth(2).unwrap().to_owned()).collect();
    assert!(keys.is_sorted(), "keys come in the order of the lines");
    let list: Value = serde_json::from_str(&lines.ask("GET /list").unwrap()).unwrap();
    assert_eq!(
        list.as_object().unwrap().values().cloned().collect::<Vec<_>>(),
        (0..count).map(|n| json!(n)).collect::<Vec<_>>()
    );
    quiet(server, &[]);
}

#[test]
fn any_script_has_the_same_answers_in_any_pieces() {
    let mut random = Random::new();
    let long = format!("{:?}", "long ".repeat(5_000));
    let mut script = Vec::new();
    for n in 0..1_500 {
        let path = ["/a", "/a/b", "/a/b/c", "\"/d e\"", "/f"][random.below(5) as usize];
        script.push(match random.below(12) {
            0..=2 => format!("GET {path}"),
            3..=5 => format!("SET {path} {n}"),
            6 => format!("SET {path} {long}"),
            7 => format!("PATCH {path} {{\"x\":{n},\"y/z\":null}}"),
            8 => format!("DEL {path}"),
            9 => format!("SET {path} {{"),
            10 => format!("ECHO {n}"),
            _ => "NONSENSE".to_owned(),
        });
    }
    let server = dev();
    let mut lines = open(&server);
    let expected: Vec<_> = script.iter().map(|line| lines.ask(line).unwrap()).collect();
    quiet(server, &[]);
    let server = dev();
    let (mut lines, all) = (open(&server), script.join("\n") + "\n");
    let (mut rest, mut answers) = (all.as_bytes(), Vec::new());
    while !rest.is_empty() {
        let size = if random.below(2) == 0 { 1 + random.below(40) } else { random.below(100_000) };
        let (piece, after) = rest.split_at(rest.len().min(size as usize));
        lines.send(piece).unwrap();
        rest = after;
        // Its answers are taken now and then, or they would fill the socket.
        while answers.len() < expected.len()
            && let Some(answer) = lines.line_within(std::time::Duration::from_millis(1)).unwrap()
        {
            answers.push(answer);
        }
    }
    while answers.len() < expected.len() {
        answers.push(lines.line().unwrap());
    }
    for (at, (got, expected)) in answers.iter().zip(&expected).enumerate() {
        assert!(
            got == expected,
            "{at}: {}: {got:.100} is not {expected:.100}",
            &script[at][..script[at].len().min(100)]
        );
    }
    quiet(server, &[]);
}

#[test]
fn a_long_value_is_not_overtaken() {
    let server = dev();
    let mut lines = open(&server);
    let long = "x".repeat(3 << 20);
    lines.send(format!("SET /a 0\nSET /a {long:?}\nSET /b 1\nSET /a 1\nGET /a\nSET /a {long:?}\nGET /a\n")).unwrap();
    for rev in 1..=4 {
        assert_eq!(lines.line().unwrap(), format!("OK {rev}"));
    }
    assert_eq!(lines.line().unwrap(), "1");
    assert_eq!(lines.line().unwrap(), "OK 5");
    assert_eq!(lines.line().unwrap().len(), long.len() + 2);
    quiet(server, &[]);
}

#[test]
fn watches() {
    let server = dev();
    let addr = server.addr();
    let mut lines = open(&server);
    write(addr, "PUT", "/a.json", r#"{"x":1}"#);
    let check = |lines: &mut Lines, expected: &[&str]| {
        for expected in expected {
            let got = lines.line().unwrap();
            assert!(alike(&got, expected), "{got} is not {expected}");
        }
    };
    lines.send("WATCH /a\n").unwrap();
    check(&mut lines, &["WATCHING 1 1", r#"EVENT 1 1 put / {"x":1}"#]);
    write(addr, "PUT", "/a/y.json", "[1,2]");
    check(&mut lines, &["EVENT 1 2 put /y [1,2]"]);
    write(addr, "PATCH", "/a.json", r#"{"x":2,"y/0":null}"#);
    check(&mut lines, &[r#"EVENT 1 3 patch / {"x":2,"y/0":null}"#]);
    write(addr, "PUT", "/a/b%20c/d.json", r#""line\nline""#);
    check(&mut lines, &[r#"EVENT 1 4 put "/b c/d" "line\nline""#]);
    write(addr, "PUT", "/other.json", "1");
    write(addr, "DELETE", "/.json", "");
    check(&mut lines, &["EVENT 1 6 put / null"]);
    // What was missed since a revision; and since one that never was.
    lines.send("WATCH /a 2\n").unwrap();
    check(&mut lines, &["WATCHING 2 2", "EVENT 2 3 patch / *", "EVENT 2 4 put \"/b c/d\" *", "EVENT 2 6 put / null"]);
    lines.send("WATCH /a 99\n").unwrap();
    check(&mut lines, &["WATCHING 3 6", "RESET 3 future", "EVENT 3 6 put / null"]);
    lines.send("UNWATCH 1\nUNWATCH 2\nUNWATCH 2\n").unwrap();
    check(&mut lines, &["OK", "OK", "ERR bad_request there is no watch of that number on this connection"]);
    write(addr, "PUT", "/a.json", r#"{"p":1,"q":2}"#);
    check(&mut lines, &[r#"EVENT 3 7 put / {"p":1,"q":2}"#]);
    // A query's window moves.
    lines.send("UNWATCH 3\nWATCH /a orderBy=\"$key\" limitToFirst=1\n").unwrap();
    check(&mut lines, &["OK", "WATCHING 4 7", r#"EVENT 4 7 put / {"p":1}"#]);
    write(addr, "DELETE", "/a/p.json", "");
    check(&mut lines, &[r#"EVENT 4 8 patch / {"q":2,"p":null}"#]);
    assert_eq!(lines.ask("UNWATCH 4").unwrap(), "OK");
    drop(lines);
    assert!(until(|| balanced(addr).is_ok()), "{:?}", balanced(addr));
    quiet(server, &[]);
}

#[test]
fn a_watch_goes_on_after_a_restart() {
    let mut server = dev();
    let mut lines = open(&server);
    assert_eq!(lines.ask("SET /a 1").unwrap(), "OK 1");
    assert_eq!(lines.ask("WATCH /a").unwrap(), "WATCHING 1 1");
    assert_eq!(lines.line().unwrap(), "EVENT 1 1 put / 1");
    assert_eq!(open(&server).ask("SET /a 2").unwrap(), "OK 2");
    server.kill().unwrap();
    server.restart().unwrap();
    assert_eq!(open(&server).ask("SET /a/b 3").unwrap(), "OK 3");
    let mut lines = open(&server);
    assert_eq!(lines.ask("WATCH /a 1").unwrap(), "WATCHING 1 1");
    assert_eq!(lines.line().unwrap(), "EVENT 1 2 put / 2");
    assert_eq!(lines.line().unwrap(), "EVENT 1 3 put /b 3");
    quiet(server, &[]);
}

#[test]
fn events_between_answers_are_whole_and_complete() {
    let (server, _config) = dev_with("ring_events_max = 100000");
    let mut random = Random::new();
    let mut lines = open(&server);
    assert_eq!(lines.ask("WATCH /n").unwrap(), "WATCHING 1 0");
    assert_eq!(lines.line().unwrap(), "EVENT 1 0 put / null");
    let count = 2_000_u64;
    std::thread::scope(|scope| {
        let mut writer = open(&server);
        let mut pieces = random.fork();
        scope.spawn(move || {
            let mut written = 0;
            while written < count {
                let some = (1 + pieces.below(20)).min(count - written);
                writer.send((0..some).map(|n| format!("SET /n {}\n", written + n)).collect::<String>()).unwrap();
                (0..some).for_each(|_| assert!(writer.line().unwrap().starts_with("OK ")));
                written += some;
            }
        });
        let (mut told, mut answered, mut asked) = (0, 0, 0);
        while told < count {
            if asked == answered {
                asked += 1 + random.below(30);
                lines.send((answered..asked).map(|n| format!("ECHO {n}\n")).collect::<String>()).unwrap();
            }
            let line = lines.line().unwrap();
            match line.strip_prefix("EVENT 1 ") {
                // Revisions of one writer have no gaps, and each event its value.
                Some(event) => {
                    assert_eq!(event, format!("{} put / {told}", told + 1));
                    told += 1;
                }
                None => {
                    assert_eq!(line, answered.to_string());
                    answered += 1;
                }
            }
        }
    });
    quiet(server, &[]);
}

#[test]
fn netcat_and_bash() {
    let server = dev();
    let (host, port) = server.door("line").unwrap().rsplit_once(':').unwrap();
    let nc = |input: &str| {
        let mut child = Command::new("nc.openbsd")
            .args(["-N", host, port])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("netcat-openbsd is installed; cargo xtask test does it");
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    };
    // After the input's end everything asked for is still answered.
    assert_eq!(nc("SET /a {\"b\":1}\nGET /a\n"), "OK 1\n{\"b\":1}\n");
    let many: String = (0..3_000).map(|n| format!("SET /n {n}\r\nGET /n\r\n")).collect();
    let expected: String = (0..3_000).map(|n| format!("OK {}\n{n}\n", n + 2)).collect();
    assert!(nc(&many) == expected, "3,000 writes, each read back");
    assert_eq!(nc("QUIT\n"), "BYE\n");
    // Half a line is not carried out: its end may be missing.
    assert_eq!(nc("PING\nSET /a 12"), "PONG\n");
    assert_eq!(nc("GET /a\n"), "{\"b\":1}\n");
    let script = format!(
        "exec 3<>/dev/tcp/{host}/{port}; echo 'GET /a/b' >&3; read -r temp <&3; echo \"now $temp\"; \
         echo 'WATCH /a' >&3; read -r id <&3; read -r event <&3; echo \"$event\""
    );
    let bash = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&bash.stdout), "now 1\nEVENT 1 3001 put / {\"b\":1}\n");
    quiet(server, &[]);
}
