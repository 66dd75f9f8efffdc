//! Runs as their users meet them: the story and the first minute as typed, what a command gets and gives back, who may
//! start what, jobs of the configuration, and the description of the interface.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use standpipe_testkit::http::request;
use standpipe_testkit::{Launch, tool, until};

use crate::auth::Folder;
use crate::runs_support::{User, ended, is_alive, operator, output, secret, start};
use crate::support::{dev, dev_with, quiet};

/// A goal that starts a grandchild and waits for it.
const MAKEFILE: &str =
    "test:\n\t@echo first line\n\t@sh -c 'sleep 1000 & echo $$! > grandchild; echo second line; wait'\n";

#[test]
fn story_three_as_typed() {
    let server = Launch::dev().same_port().start().unwrap();
    let user = User::of(&server);
    std::fs::write(user.dir.path().join("Makefile"), MAKEFILE).unwrap();
    let mut typed = user.start("sh", &["-c", "exec standpipe run --name nightly -- make test"]);
    let link = typed.told();
    assert_eq!(link, format!("standpipe: nightly@1 {}/runs/nightly@1", server.url()));
    assert_eq!(typed.line(), "first line");
    assert_eq!(typed.line(), "second line");
    // Later, elsewhere: from the first line, then live.
    let late = user.start("curl", &["-sN", &format!("{}/runs/nightly/out", server.url())]);
    assert_eq!(late.line(), "first line");
    assert_eq!(late.line(), "second line");
    let grandchild = user.dir.path().join("grandchild");
    let grandchild: u32 = std::fs::read_to_string(grandchild).unwrap().trim().parse().unwrap();
    assert!(is_alive(grandchild));
    let told = user.ok(&["runs", "stop", "nightly", "--grace", "10s"]);
    assert_eq!(told, "nightly@1 cancelled\n");
    assert!(!is_alive(grandchild), "the whole process tree has ended");
    let code = typed.wait().code().unwrap();
    assert!(code != 0, "{code}");
    // And then how it ended.
    let rest = late.rest();
    let last = rest.last().unwrap();
    assert!(last.starts_with("standpipe: nightly@1 cancelled"), "{rest:?}");
    // After the end: the same from the first line.
    let again = user.start("curl", &["-sN", &format!("{}/runs/nightly/out", server.url())]).rest();
    assert_eq!((&*again[0], again.last()), ("first line", Some(last)));
    quiet(server, &[]);
}

#[test]
fn the_first_minute() {
    let server = dev();
    let user = User::of(&server);
    assert!(until(|| server.stderr().contains("  stop    Ctrl-C")), "{}", server.stderr());
    assert!(server.stderr().contains("  run     standpipe run"), "{}", server.stderr());
    assert!(server.stderr().lines().count() <= 12, "{}", server.stderr());
    // Not every machine may ping.
    let ping = Command::new("ping").args(["-c", "1", "localhost"]).output().is_ok_and(|done| done.status.success());
    let command: &[&str] = if ping { &["ping", "-c", "2", "localhost"] } else { &["sh", "-c", "echo 1; echo 2"] };
    let (out, err) = user.ends(0, &[&["run", "--"], command].concat());
    assert!(out.lines().count() >= 2, "{out}");
    let name = command[0];
    assert_eq!(err, format!("standpipe: {name}@1 {}/runs/{name}@1\n", server.url()));
    // The link opens in a browser, late.
    let page = request(server.addr(), "GET", &format!("/runs/{name}@1"), &[("accept", "text/html")], b"").unwrap();
    assert!(page.status == 200 && page.header("content-type").unwrap().starts_with("text/html"), "{}", page.status);
    quiet(server, &[]);
}

#[test]
fn a_run_ends_as_its_command_ends() {
    let server = dev();
    let user = User::of(&server);
    let check = |code: i32, arguments: &[&str], out: &str, part: &str| {
        let (said, told) = user.ends(code, &[&["run", "--name", "x"], arguments].concat());
        assert_eq!(said, out, "{arguments:?}");
        assert!(told.contains(part), "{arguments:?}: {told}");
    };
    check(0, &["true"], "", "standpipe: x@1 ");
    check(3, &["--", "sh", "-c", "echo a; echo b >&2; exit 3"], "a\n", "b\n");
    check(137, &["sh", "-c", "kill -9 $$"], "", "signal 9");
    check(124, &["--timeout", "300ms", "sleep", "1000"], "", "timed out");
    check(125, &["no-such-program-anywhere"], "", "no-such-program-anywhere");
    check(125, &["--cwd", "/no/such/folder", "true"], "", "/no/such/folder");
    // What could not be asked for at all: 2 for words that are none, as everywhere; 125 behind them.
    user.ends(2, &["run", "--name", "a/b", "true"]);
    let (_, told) = user.ends(125, &["run", "--url", "http://127.0.0.1:1", "true"]);
    assert!(told.contains("standpipe dev"), "{told}");
    quiet(server, &[]);
}

#[test]
fn bytes_come_as_they_were_written() {
    let server = dev();
    let user = User::of(&server);
    // Every byte, no newline at the end, then a burst and immediate exit.
    let script = "printf '\\000\\001\\377\\200\\r\\n\\033[1mx'; head -c 1048576 /dev/zero | tr '\\0' 'y'; printf end";
    let done = user.output(&["run", "--name", "bytes", "--", "sh", "-c", script]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let expected = [b"\x00\x01\xff\x80\r\n\x1b[1mx".as_slice(), &[b'y'; 1 << 20], b"end"].concat();
    assert!(done.stdout == expected, "{} bytes of {}", done.stdout.len(), expected.len());
    assert!(output(server.addr(), "bytes") == expected);
    let run = ended(&server, "bytes");
    assert_eq!(run["output"]["bytes"], expected.len());
    quiet(server, &[]);
}

#[test]
fn a_command_gets_what_it_was_given() {
    let server = Launch::dev().env("SERVER_ONLY", "x").start().unwrap();
    let user = User::of(&server);
    std::fs::write(user.dir.path().join("in"), "from a file").unwrap();
    let env = user.ok(&["run", "--env", "LEVEL=3", "--", "env"]);
    let has = |line: &str| env.lines().any(|have| have == line);
    assert!(has("LEVEL=3") && has(&format!("HOME={}", user.dir.path().display())), "{env}");
    let run = env.lines().find(|line| line.starts_with("STANDPIPE_RUN=")).unwrap_or_else(|| panic!("{env}"));
    assert_eq!(run, "STANDPIPE_RUN=env@1");
    for hidden in ["SERVER_ONLY", "STANDPIPE_TOKEN", "STANDPIPE_URL=", "XDG_STATE_HOME", "CARGO"] {
        assert!(!env.contains(hidden), "{hidden}: {env}");
    }
    let here = user.dir.path().canonicalize().unwrap();
    assert_eq!(user.ok(&["run", "--", "pwd", "-P"]).trim(), here.to_str().unwrap());
    assert_eq!(user.ok(&["run", "--cwd", "/", "--", "pwd"]), "/\n");
    assert_eq!(user.ok(&["run", "--stdin", "in", "--", "cat"]), "from a file");
    assert_eq!(user.ok(&["run", "--", "cat"]), "", "without an input it is at its end");
    let tty = user.ok(&["run", "--pty", "--", "sh", "-c", "test -t 1 && test -t 2 && stty size <&1"]);
    assert_eq!(tty.trim(), "24 80");
    quiet(server, &[]);
}

#[test]
fn runs_are_listed_shown_read_repeated_and_removed() {
    let server = dev();
    let user = User::of(&server);
    assert_eq!(user.ok(&["runs", "list"]).lines().count(), 1);
    let first = user.detached(&["--name", "a", "--", "sh", "-c", "echo one; echo two; exit 4"]);
    assert_eq!((first.as_str(), &ended(&server, "a")["state"]), ("a@1", &json!("failed")));
    let told = user.ok(&["runs", "retry", "a"]);
    assert_eq!(told, format!("a@2 {}/runs/a@2\n", server.url()));
    assert_eq!(ended(&server, "a@2")["of"], "a@1");
    assert_eq!(user.detached(&["--name", "b", "true"]), "b@1");
    ended(&server, "b");
    let list = user.json(&["runs", "list", "--json"]);
    let ids = |list: &Value| {
        list["runs"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&list), ["b@1", "a@2", "a@1"]);
    assert_eq!(ids(&user.json(&["runs", "list", "--json", "--name", "a", "--limit", "1"])), ["a@2"]);
    assert_eq!(ids(&user.json(&["runs", "list", "--json", "--state", "succeeded"])), ["b@1"]);
    let table = user.ok(&["runs", "list"]);
    assert!(table.lines().nth(2).unwrap().starts_with("a@2  failed"), "{table}");
    let shown = user.ok(&["runs", "show", "a@1"]);
    assert!(shown.contains("exit code  4\n") && shown.contains("command    sh -c echo one"), "{shown}");
    assert_eq!(user.json(&["runs", "show", "a", "--json"])["id"], "a@2");
    assert_eq!(user.ok(&["runs", "logs", "a"]), "one\ntwo\n");
    assert_eq!(user.ok(&["runs", "logs", "-f", "--tail", "1", "a@1"]), "two\n");
    assert_eq!(user.ok(&["runs", "stop", "a"]), "a@2 failed\n", "what has ended stays as it is");
    // The value in the tree says the same.
    assert!(until(|| request(server.addr(), "GET", "/runs/a@2/state.json", &[], b"").unwrap().text() == "\"failed\""));
    let (_, told) = user.ends(2, &["runs", "prune"]);
    assert!(told.contains("--older-than"), "{told}");
    assert_eq!(user.json(&["runs", "prune", "--keep", "1"]), json!({ "removed": 1 }));
    let (_, told) = user.ends(4, &["runs", "show", "a@1"]);
    assert!(told.contains("runs list"), "{told}");
    assert_eq!(operator(&server, "DELETE", "/runs/a@2", &json!(null)).status, 204);
    assert_eq!(operator(&server, "GET", "/runs/a@2", &json!(null)).status, 404);
    assert!(until(|| request(server.addr(), "GET", "/runs/a@2.json", &[], b"").unwrap().text() == "null"));
    assert_eq!(request(server.addr(), "GET", "/runs/a@2/out", &[], b"").unwrap().status, 404);
    quiet(server, &[]);
}

#[test]
fn the_first_interrupt_stops_and_the_second_leaves() {
    let server = dev();
    let user = User::of(&server);
    let mut run = user.start(
        "standpipe",
        &[
            "run",
            "--name",
            "polite",
            "--",
            "sh",
            "-c",
            "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.1; done",
        ],
    );
    assert_eq!(run.line(), "up");
    run.signal(Signal::INT);
    assert_eq!(run.line(), "bye", "the last line comes");
    assert_eq!(run.wait().code(), Some(7));
    assert_eq!(ended(&server, "polite")["state"], "cancelled");
    // One that does not listen: its grace time is long, and we have no patience.
    let mut run = user.start(
        "standpipe",
        &[
            "run",
            "--name",
            "deaf",
            "--grace",
            "60s",
            "--",
            "sh",
            "-c",
            "trap '' TERM; echo up; while :; do sleep 0.1; done",
        ],
    );
    assert_eq!(run.line(), "up");
    run.signal(Signal::INT);
    assert!(until(|| ["stopping"]
        .contains(&operator(&server, "GET", "/runs/deaf", &json!(null)).json().unwrap()["state"].as_str().unwrap())));
    run.signal(Signal::INT);
    assert_eq!(run.wait().code(), Some(130));
    assert_eq!(user.ok(&["runs", "stop", "deaf", "--grace", "0s"]), "deaf@1 cancelled\n");
    quiet(server, &[]);
}

#[test]
fn only_the_user_of_the_server_has_commands_run() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let server = Launch::dev().args(["--socket".as_ref(), socket.as_os_str()]).start().unwrap();
    let addr = server.addr();
    let secret = format!("Bearer {}", secret(server.data()));
    let body = br#"{"argv":["true"]}"#;
    let own = format!("http://{addr}");
    let check = |status: u16, headers: &[(&str, &str)], part: &str| {
        let got = request(addr, "POST", "/runs", headers, body).unwrap();
        assert_eq!(got.status, status, "{headers:?}: {}", got.text());
        assert!(got.text().contains(part), "{headers:?}: {}", got.text());
    };
    check(403, &[], "admin.token");
    check(403, &[("authorization", "Bearer owner")], "admin.token");
    check(201, &[("authorization", &secret)], "true@");
    check(201, &[("authorization", &secret), ("origin", &own)], "true@");
    // Pages of others, whatever they know.
    check(403, &[("authorization", &secret), ("origin", "http://evil.example")], "another origin");
    check(403, &[("authorization", &secret), ("origin", "null")], "another origin");
    check(403, &[("authorization", &secret), ("sec-fetch-site", "cross-site")], "another origin");
    // Who is behind a proxy is not on this machine.
    check(403, &[("authorization", &secret), ("x-forwarded-for", "203.0.113.9")], "admin.token");
    check(401, &[("authorization", "Bearer wrong")], "");
    // An administrator who acts as a user is judged as that user.
    let got = request(
        addr,
        "POST",
        "/runs?auth_variable_override=%7B%22uid%22%3A%22u%22%7D",
        &[("authorization", &secret)],
        body,
    )
    .unwrap();
    assert_eq!(got.status, 403, "{}", got.text());
    // The kernel tells whose process is at the other end of the socket.
    let ask = |headers: &str| {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        write!(
            stream,
            "POST /runs HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        )
        .unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask("").starts_with("HTTP/1.1 201"));
    assert!(ask("authorization: Bearer owner\r\n").starts_with("HTTP/1.1 403"));
    assert!(ask("via: 1.1 proxy\r\n").starts_with("HTTP/1.1 403"));
    assert!(ask("origin: http://evil.example\r\n").starts_with("HTTP/1.1 403"));
    // Other acts are no easier from another page.
    for (method, target) in
        [("POST", "/runs/true/stop"), ("POST", "/runs/true/retry"), ("POST", "/runs/prune"), ("DELETE", "/runs/true")]
    {
        let got = request(addr, method, target, &[("authorization", &secret), ("origin", "http://evil.example")], b"")
            .unwrap();
        assert_eq!(got.status, 403, "{method} {target}: {}", got.text());
    }
    assert_eq!(request(addr, "POST", "/runs/true/retry", &[], b"").unwrap().status, 403);
    let got = request(addr, "PATCH", "/runs", &[("authorization", &secret)], b"").unwrap();
    assert_eq!((got.status, got.header("allow")), (405, Some("GET, HEAD, POST")));
    quiet(server, &[]);
}

/// Editors start and stop, viewers look.
const RULES: &str = r#"{"rules": {
    "runs": {".read": "auth != null", "$run": {"stop": {".write": "auth.token.role === 'editor'"}}},
    "jobs": {".read": "auth != null", "$job": {"start": {".write": "auth.token.role === 'editor'",
        ".validate": "newData.child('word').val() !== 'forbidden'"}}}}}"#;

const JOBS: &str = r#"
[job.say]
description = "Says a word"
command = ["sh", "-c", "printf '%s|%s' \"$1\" \"$PARAM_WORD\"", "sh", "${params.word}"]
params.word = { pattern = "[a-z ;$()]+" }
params.times = { type = "integer", min = 1, max = 3, default = 1 }

[job.guarded]
shell = "echo guarded"
scope = "deploy"

[job.long]
shell = "echo up; sleep 1000"
concurrency = "refuse"
"#;

#[test]
fn others_start_jobs_by_rules_and_scope() {
    let folder = Folder::new();
    folder.key("k", "EdDSA");
    folder.write("rules.json", RULES);
    folder.write("c.toml", JOBS);
    let arguments = [
        "--rules",
        &folder.text("rules.json"),
        "--config",
        &folder.text("c.toml"),
        "--auth",
        &format!("key:{}", folder.text("k.pub")),
    ]
    .map(str::to_owned);
    let server = Launch::serve().args(arguments).start().unwrap();
    let bearer = |more: &[&str]| format!("Bearer {}", folder.token("k", &[&["--uid", "maya"], more].concat()));
    let (viewer, editor) = (bearer(&[]), bearer(&["--claim", "role=editor"]));
    let scoped = bearer(&["--claim", "role=editor", "--claim", "scope=read deploy"]);
    let ask = |method: &str, target: &str, who: &str, body: &str| {
        let headers: &[(&str, &str)] = if who.is_empty() { &[] } else { &[("authorization", who)] };
        request(server.addr(), method, target, headers, body.as_bytes()).unwrap()
    };
    let check = |status: u16, target: &str, who: &str, body: &str, part: &str| {
        let got = ask("POST", target, who, body);
        assert_eq!(got.status, status, "{target} {body}: {}", got.text());
        assert!(got.text().contains(part), "{target} {body}: {}", got.text());
    };
    check(403, "/runs", &editor, r#"{"argv":["true"]}"#, "POST /jobs/NAME");
    check(403, "/runs", "", r#"{"argv":["true"]}"#, "");
    check(403, "/jobs/say", "", r#"{"word":"a"}"#, "Permission denied");
    check(403, "/jobs/say", &viewer, r#"{"word":"a"}"#, "Permission denied");
    check(403, "/jobs/say", &editor, r#"{"word":"forbidden"}"#, "Permission denied");
    check(400, "/jobs/say", &editor, "{}", "word");
    check(400, "/jobs/say", &editor, r#"{"word":"A"}"#, "word");
    check(400, "/jobs/say", &editor, r#"{"word":"a","times":4}"#, "times");
    check(400, "/jobs/say", &editor, r#"{"word":"a","more":1}"#, "more");
    check(400, "/jobs/say", &editor, "[]", "openapi");
    check(404, "/jobs/none", &editor, "{}", "none");
    check(403, "/jobs/guarded", &editor, "{}", "scope");
    check(201, "/jobs/guarded", &scoped, "", "guarded@1");
    // Nothing of a parameter is ever a shell's.
    check(201, "/jobs/say", &editor, r#"{"word":"a; $(echo b)"}"#, "say@1");
    let run = ended(&server, "say");
    assert_eq!((&run["by"], &run["params"]), (&json!("maya"), &json!({ "word": "a; $(echo b)", "times": "1" })));
    let got = ask("GET", "/runs/say/out?raw=1", &viewer, "");
    assert_eq!((got.status, got.text().as_str()), (200, "a; $(echo b)|a; $(echo b)"));
    assert!(matches!(ask("GET", "/runs/say/out", "", "").status, 401 | 403));
    // Seen by those who may.
    let list = |who: &str| ask("GET", "/runs", who, "").json().unwrap()["runs"].as_array().unwrap().len();
    assert_eq!((list(&viewer), list("")), (2, 0));
    assert_eq!(ask("GET", "/runs/say", "", "").status, 403);
    let jobs = ask("GET", "/jobs", &viewer, "").json().unwrap();
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 3);
    let job = ask("GET", "/jobs/say", &viewer, "").json().unwrap();
    assert_eq!((&job["description"], &job["params"]["times"]["max"]), (&json!("Says a word"), &json!(3)));
    assert!(job.get("command").is_none() && !job.to_string().contains("printf"), "{job}");
    assert_eq!(ask("GET", "/jobs", "", "").json().unwrap(), json!({ "jobs": [] }));
    // Stopped by those who may; one at a time.
    check(201, "/jobs/long", &editor, "", "long@1");
    assert!(until(|| ask("GET", "/runs/long", &viewer, "").json().unwrap()["state"] == "running"));
    check(409, "/jobs/long", &editor, "", "long");
    check(403, "/runs/long/stop", &viewer, "", "Permission denied");
    check(200, "/runs/long/stop?wait=1", &editor, "", "cancelled");
    // A retry of a job's run is a start of the job.
    check(403, "/runs/say/retry", &viewer, "", "Permission denied");
    check(201, "/runs/say/retry", &editor, "", "say@2");
    // Only administrators remove many, and rules say who removes one.
    check(403, "/runs/prune", &editor, "{}", "Permission denied");
    assert_eq!(ask("DELETE", "/runs/guarded", &editor, "").status, 403);
    ended(&server, "say");
    // The user of the server is no network caller.
    let user = User::of(&server);
    let (out, _) = user.ends(0, &["job", "run", "say", "--param", "word=x"]);
    assert_eq!(out, "x|x");
    assert_eq!(user.ok(&["run", "--", "echo", "free"]), "free\n");
    let table = user.ok(&["jobs", "list"]);
    assert!(table.contains("guarded") && table.contains("times,word"), "{table}");
    quiet(server, &[]);
}

#[test]
fn jobs_change_while_the_server_runs() {
    let (server, config) = dev_with("[job.a]\nshell = 'echo one'\n");
    let user = User::of(&server);
    assert_eq!(user.ok(&["job", "run", "a"]), "one\n");
    let file = config.path().join("standpipe.toml");
    std::fs::write(&file, "[job.a]\nshell = 'echo two'\n[job.b]\nshell = 'true'\n").unwrap();
    assert!(until(|| user.ok(&["jobs", "list"]).contains("b")), "{}", server.stderr());
    assert_eq!(user.ok(&["job", "run", "a"]), "two\n");
    // What is wrong changes nothing.
    std::fs::write(&file, "[job.a]\nshell = 'echo three'\ncommand = ['x']\n").unwrap();
    assert!(until(|| server.stderr().contains("job.a.command")), "{}", server.stderr());
    assert_eq!(user.ok(&["job", "run", "a"]), "two\n");
    quiet(server, &["ERROR standpipe::reload", "the configuration is refused"]);
}

#[test]
fn nothing_runs_where_runs_are_switched_off() {
    let (server, _config) = dev_with("[runs]\nenabled = false\n");
    assert_eq!(request(server.addr(), "GET", "/runs", &[], b"").unwrap().status, 404);
    assert_eq!(operator(&server, "POST", "/runs", &json!({ "argv": ["true"] })).status, 404);
    assert!(!server.stderr().contains("standpipe run"), "{}", server.stderr());
    quiet(server, &[]);
}

#[test]
fn the_interface_is_described_as_it_is() {
    let server = dev();
    let got = request(server.addr(), "GET", "/openapi.json", &[], b"").unwrap();
    let document = got.json().unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    // What is answered has no member that is not described.
    let id = start(&server, &json!({ "shell": "echo a; exit 2", "name": "x", "timeout": "1m", "group": "g" }));
    let run = ended(&server, &id);
    let described = &document["components"]["schemas"]["Run"]["properties"];
    let undescribed: Vec<_> =
        run.as_object().unwrap().keys().filter(|key| described.get(key.as_str()).is_none()).collect();
    assert!(undescribed.is_empty(), "{undescribed:?}");
    let Some(python) = tool("python/bin/python") else {
        eprintln!("left out: no validator; cargo xtask test installs it");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("openapi.json");
    std::fs::write(&file, &got.body).unwrap();
    std::fs::write(dir.path().join("run.json"), run.to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/openapi.py");
    let done = Command::new(python).arg(script).arg(dir.path()).env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    quiet(server, &[]);
}
