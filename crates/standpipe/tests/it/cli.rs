//! The command line against a running server and against a data folder: the stories of the users
//! typed as shown, the verbs, their exit codes, and what they say when something is wrong.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};

use rustix::process::Signal;
use serde_json::{Value, json};
use standpipe_testkit::{LIMIT, Launch, Server, binary, until};

use crate::script::get;
use crate::support::{dev, write};

/// The binary with a home of its own, pointed at a server.
pub(crate) struct Cli {
    url: String,
    dir: tempfile::TempDir,
}

impl Cli {
    pub(crate) fn new(server: &Server) -> Self {
        Self::at(server.url())
    }

    pub(crate) fn at(url: String) -> Self {
        Self { url, dir: tempfile::tempdir().unwrap() }
    }

    /// Where it runs.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A program with the binary in its search path and no other settings of ours.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("STANDPIPE_") {
                command.env_remove(name);
            }
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let own = binary().parent().unwrap().to_owned();
        command.env("PATH", format!("{}:{path}", own.display()));
        command
            .env("STANDPIPE_URL", &self.url)
            .env("URL", &self.url)
            .env("HOME", self.dir())
            .env_remove("XDG_STATE_HOME");
        command.current_dir(self.dir()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a verb, however it ends.
    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.run(arguments)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(binary()).args(arguments).output().unwrap()
    }

    /// Runs a verb that must succeed: what it printed, stderr included.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}\n{told}", output.status);
        String::from_utf8(output.stdout).unwrap() + &told
    }

    /// What a verb printed to stdout, as JSON.
    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs a verb that must fail with this code; gives what it said. Nothing goes to stdout.
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(told.starts_with("error: "), "{arguments:?}: {told}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        told
    }

    /// Runs a shell script; gives its stdout.
    pub(crate) fn sh(&self, script: &str) -> String {
        let output = self.command("sh").args(["-euc", script]).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{script}\n{}\n{told}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts a program whose lines are read as they come.
    pub(crate) fn follow(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Follow {
        let mut child = self.command(program).args(arguments).spawn().unwrap();
        let (sender, lines) = sync_channel(1_024);
        let out = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines() {
                if line.is_err() || sender.send(line.unwrap_or_default()).is_err() {
                    return;
                }
            }
        });
        Follow { child, lines }
    }

    pub(crate) fn watch(&self, arguments: &[&str]) -> Follow {
        self.follow(binary(), &[&["watch"], arguments].concat())
    }
}

/// The word after "digest" in what `import` says.
pub(crate) fn digest(told: &str) -> &str {
    let mut words = told.split(|c: char| c.is_whitespace() || "\":,".contains(c)).filter(|word| !word.is_empty());
    words.find(|word| *word == "digest").and_then(|_| words.next()).unwrap_or_else(|| panic!("no digest: {told}"))
}

/// A running program. Dropping it kills it.
pub(crate) struct Follow {
    child: Child,
    lines: Receiver<String>,
}

impl Follow {
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).expect("a line in time")
    }

    pub(crate) fn json(&self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    pub(crate) fn signal(&mut self, signal: Signal) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_verbs() {
    let server = dev();
    let cli = Cli::new(&server);
    let check = |arguments: &[&str], expected: Value| assert_eq!(cli.json(arguments), expected, "{arguments:?}");
    check(&["get", "/"], Value::Null);
    cli.ok(&["put", "/home/kitchen/temp", "21.5"]);
    check(&["get", "/home/kitchen/temp"], json!(21.5));
    check(&["get", "home/kitchen"], json!({"temp": 21.5}));
    cli.ok(&["put", "/home/name", "\"cottage\""]);
    cli.ok(&["patch", "/home", r#"{"kitchen/temp": -3, "cellar": [1, 2]}"#]);
    check(&["get", "/home"], json!({"cellar": [1, 2], "kitchen": {"temp": -3}, "name": "cottage"}));
    cli.ok(&["rm", "/home/cellar"]);
    check(&["get", "/home", "--shallow"], json!({"kitchen": true, "name": true}));
    let key = cli.run(&["push", "/messages", r#"{"text": "hello"}"#]);
    let key = String::from_utf8(key.stdout).unwrap();
    let key = key.trim().trim_matches('"');
    check(&["get", &format!("/messages/{key}")], json!({"text": "hello"}));
    std::fs::write(cli.dir().join("home.json"), r#"{"a": {"n": 2}, "b": {"n": 1}, "c": {"n": 3}}"#).unwrap();
    cli.ok(&["put", "/q", "@home.json"]);
    check(&["get", "/q", "--order-by", "n", "--limit-to-first", "1"], json!({"b": {"n": 1}}));
    check(&["get", "/q", "--order-by", "n", "--start-at", "2", "--end-before", "3"], json!({"a": {"n": 2}}));
    check(&["get", "/q", "--order-by", "$key", "--equal-to", "c"], json!({"c": {"n": 3}}));
    assert_eq!(cli.sh("echo '[1,2]' | standpipe put /stdin && standpipe get /stdin").lines().last(), Some("[1,2]"));
    assert_eq!(cli.sh("standpipe get /home/kitchen --pretty"), "{\n  \"temp\": -3\n}\n");
    cli.ok(&["put", "/claims/42", "\"me\"", "--if-match", "null_etag"]);
    cli.fails(4, &["put", "/claims/42", "\"you\"", "--if-match", "null_etag"]);
    check(&["get", "/claims/42"], json!("me"));
    cli.ok(&["put", "/a", "1", "--db", "other"]);
    check(&["get", "/", "--db", "other"], json!({"a": 1}));
    check(&["get", "/a"], Value::Null);
}

#[test]
fn errors_name_the_cause_and_the_next_step() {
    let server = dev();
    let cli = Cli::new(&server);
    let helps = |told: String, cause: &str| {
        assert!(told.contains(cause), "{told}");
        assert!(told.contains("help: ") || told.contains("--help"), "no next step: {told}");
    };
    helps(cli.fails(2, &["got", "/"]), "got");
    helps(cli.fails(2, &["get"]), "PATH");
    cli.fails(1, &["put", "/a", "{"]);
    cli.fails(1, &["put", "/a.b", "1"]);
    cli.fails(1, &["get", "/q", "--limit-to-first", "1"]);
    cli.fails(1, &["put", "/a", "@missing.json"]);
    cli.fails(4, &["get", "/", "--token", "garbage"]);
    cli.fails(1, &["import", "missing.json"]);
    std::fs::write(cli.dir().join("broken.json"), r#"{"a": 1, "b": "#).unwrap();
    cli.fails(1, &["import", "broken.json"]);
    // Nobody listens there.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let told = Cli::at(free.clone()).fails(3, &["get", "/"]);
    helps(told, free.trim_start_matches("http://"));
    let serve = Launch::serve().start().unwrap();
    let told = Cli::new(&serve).fails(4, &["get", "/"]);
    assert!(told.contains("Permission denied"), "{told}");
}

#[test]
fn what_is_in_use_is_named() {
    let server = dev();
    let cli = Cli::new(&server);
    let data = server.data().to_str().unwrap();
    // The folder is held.
    let told = cli.fails(1, &["get", "/", "--data", data]);
    assert!(told.contains("held by") && told.contains(&server.pid().to_string()), "{told}");
    let told = cli.fails(1, &["dev", "--listen", "127.0.0.1:0", "--data", data]);
    assert!(told.contains("held by"), "{told}");
    // The port is taken.
    let addr = server.addr().to_string();
    let told = cli.fails(1, &["dev", "--listen", &addr, "--data", "elsewhere"]);
    assert!(told.contains(&addr), "{told}");
    assert!(told.contains("help: ") || told.contains("--listen"), "{told}");
    assert_eq!(get(server.addr(), "/"), Value::Null, "the first one goes on");
}

#[test]
fn a_wrong_configuration_is_named_with_its_place() {
    let cli = Cli::at(String::new());
    let check = |text: &str, expected: &[&str]| {
        std::fs::write(cli.dir().join("standpipe.toml"), text).unwrap();
        let told = cli.fails(2, &["dev", "--listen", "127.0.0.1:0", "--config", "standpipe.toml"]);
        assert!(expected.iter().all(|part| told.contains(part)), "{text:?}: {told}");
    };
    check("[limits]\ndrain_msx = 1\n", &["standpipe.toml:2:1", "drain_msx", "drain_ms"]);
    check("[limits]\ndrain_ms = \"soon\"\n", &["standpipe.toml:2", "drain_ms"]);
    check("[limits\n", &["standpipe.toml:1"]);
    check("[limits]\nconnections_max = 0\n", &["standpipe.toml:2", "connections_max"]);
    check("[server]\nlisten = \"here\"\n", &["listen"]);
}

#[test]
fn a_watch_prints_one_line_for_each_event() {
    let server = dev();
    let addr = server.addr();
    let cli = Cli::new(&server);
    let mut watch = cli.watch(&["/home"]);
    assert_eq!(watch.json(), json!({"rev": 0, "event": "put", "path": "/", "data": null}));
    let rev = write(addr, "PUT", "/home/kitchen/temp.json", "21.5");
    assert_eq!(watch.json(), json!({"rev": rev, "event": "put", "path": "/kitchen/temp", "data": 21.5}));
    let rev = write(addr, "PATCH", "/home.json", r#"{"a":1,"kitchen":null}"#);
    assert_eq!(watch.json(), json!({"rev": rev, "event": "patch", "path": "/", "data": {"a": 1, "kitchen": null}}));
    assert_eq!(watch.signal(Signal::INT).code(), Some(0), "Ctrl-C ends it");
    // From a revision on: exactly what came after it.
    let resumed = cli.watch(&["/home", "--since", "1"]);
    assert_eq!(resumed.json()["rev"], json!(rev));
    assert_eq!(cli.json(&["watch", "/home", "--once"])["data"], json!({"a": 1}));
}

#[test]
fn a_watch_since_last_goes_on_where_it_was() {
    let server = dev();
    let addr = server.addr();
    let cli = Cli::new(&server);
    write(addr, "PUT", "/board/n.json", "1");
    let mut watch = cli.watch(&["/board", "--since", "last"]);
    assert_eq!(watch.json()["data"], json!({"n": 1}));
    write(addr, "PUT", "/board/n.json", "2");
    assert_eq!(watch.json()["data"], json!(2));
    watch.signal(Signal::INT);
    let missed: Vec<u64> = (3..6).map(|n| write(addr, "PUT", "/board/n.json", &n.to_string())).collect();
    let watch = cli.watch(&["/board", "--since", "last"]);
    for (n, rev) in (3..6).zip(missed) {
        assert_eq!(watch.json(), json!({"rev": rev, "event": "put", "path": "/n", "data": n}));
    }
    // Another path has a position of its own.
    assert_eq!(cli.watch(&["/board/n", "--since", "last"]).json()["data"], json!(5));
}

#[test]
fn a_watch_survives_a_restart_without_a_gap() {
    let mut server = Launch::dev().same_port().start().unwrap();
    let cli = Cli::new(&server);
    let watch = cli.watch(&["/a"]);
    assert_eq!(watch.json()["rev"], json!(0));
    let mut n = 0;
    let mut write = |server: &Server| {
        n += 1;
        write(server.addr(), "PUT", "/a/n.json", &n.to_string());
        n
    };
    for kill in [false, true] {
        let seen = write(&server);
        assert_eq!(watch.json()["data"], json!(seen));
        if kill { server.kill() } else { server.stop() }.unwrap();
        server.restart().unwrap();
        for _ in 0..3 {
            let missed = write(&server);
            assert_eq!(watch.json()["data"], json!(missed));
        }
    }
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let server = dev();
    let cli = Cli::new(&server);
    write(server.addr(), "PUT", "/list.json", &json!(vec!["x".repeat(1_000); 1_000]).to_string());
    let output = cli
        .command("sh")
        .args(["-c", "standpipe get /list | head -c 10; standpipe export / | head -c 10"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.stdout.len(), 20);
}

#[test]
fn story_2_moving_out() {
    let cli = Cli::at("http://127.0.0.1:1".into());
    let prod = json!({
        "users": {"maya": {"name": "Maya", "n": 9007199254740993_u64}, "10": true, "9": 1.5},
        "scores": {"a": {".value": 3, ".priority": 1}, "b": {".value": "é🦊", ".priority": "x"}},
        "empty": {}, "none": null, "list": ["a", null, "c"],
    });
    std::fs::write(cli.dir().join("prod.json"), prod.to_string()).unwrap();
    let told = cli.sh("standpipe import prod.json --data ./data 2>&1");
    assert!(told.contains("digest"), "counts and a digest: {told}");
    cli.sh("standpipe verify --data ./data");
    let back = cli.sh("standpipe export / --data ./data > back.json; cat back.json");
    let expected = json!({
        "users": {"maya": {"name": "Maya", "n": 9007199254740993_u64}, "10": true, "9": 1.5},
        "scores": {"a": {".value": 3, ".priority": 1}, "b": {".value": "é🦊", ".priority": "x"}},
        "list": {"0": "a", "2": "c"},
    });
    assert_eq!(serde_json::from_str::<Value>(&back).unwrap(), expected);
    // Served as it is: locked for others, while the commands of its own user find the way in.
    let state = cli.dir().join(".local/state");
    let mut server =
        Launch::serve().data(cli.dir().join("data")).env("XDG_STATE_HOME", state.as_os_str()).start().unwrap();
    let locked = Cli::new(&server).fails(4, &["get", "/"]);
    assert!(locked.contains("Permission denied"), "{locked}");
    let served = cli.sh(&format!("standpipe export / --url {} > served.json; cat served.json", server.url()));
    assert_eq!(served, back);
    assert!(server.stop().unwrap().success());
    // Leaving is as easy as coming: what was exported goes in elsewhere, and is the same tree.
    let again = cli.sh("standpipe import back.json --data ./again 2>&1");
    assert_eq!(digest(&told), digest(&again), "{told}\n{again}");
}

#[test]
fn story_5_one_value_over_http() {
    let server = dev();
    let cli = Cli::new(&server);
    let mut stream =
        cli.follow("curl", &["-sN", "-H", "accept: text/event-stream", &format!("{}/home.json", server.url())]);
    let event = || [stream.line(), stream.line(), stream.line(), stream.line()];
    assert_eq!(event(), ["event: put", "id: 0", r#"data: {"path":"/","data":null}"#, ""]);
    assert_eq!(cli.sh("curl -s -X PUT -d 21.5 $URL/home/kitchen/temp.json"), "21.5");
    assert_eq!(event(), ["event: put", "id: 1", r#"data: {"path":"/kitchen/temp","data":21.5}"#, ""]);
    assert_eq!(cli.sh("standpipe get home/kitchen/temp").trim(), "21.5");
    assert_eq!(cli.sh("curl -s -o /dev/null -w '%{http_code}' -X PUT -H 'if-match: null_etag' -d '\"agent-7\"' $URL/board/claims/issue-42.json"), "200");
    assert_eq!(cli.sh("curl -s -o /dev/null -w '%{http_code}' -X PUT -H 'if-match: null_etag' -d '\"agent-8\"' $URL/board/claims/issue-42.json"), "412");
    stream.child.kill().unwrap();
}

#[test]
fn the_first_sixty_seconds() {
    let mut server = dev();
    // Its stderr is read by another thread than its ready line.
    assert!(until(|| server.stderr().contains("Ctrl-C")), "how to stop: {}", server.stderr());
    let lines = server.stdout().to_vec();
    let err = server.stderr();
    let printed: Vec<&str> = lines.iter().map(String::as_str).chain(err.lines()).collect();
    assert!((2..=12).contains(&printed.len()), "at most 12 lines: {printed:#?}");
    let all = printed.join("\n");
    for part in [server.data().to_str().unwrap(), &server.url(), "Ctrl-C"] {
        assert!(all.contains(part), "no {part} in\n{all}");
    }
    // The lines to paste, pasted.
    let paste = |word: &str| {
        let line = printed.iter().find(|line| line.contains("curl") && line.contains(word));
        let line = line.unwrap_or_else(|| panic!("no line to paste with {word}:\n{all}"));
        line[line.find("curl").unwrap()..].to_owned()
    };
    let cli = Cli::new(&server);
    let stream = cli.follow("sh", &["-c", &format!("exec {}", paste("event-stream"))]);
    assert_eq!(stream.line(), "event: put");
    cli.sh(&paste("PUT"));
    let told: Vec<String> = (0..6).map(|_| stream.line()).collect();
    assert!(told[3..].iter().any(|line| line.starts_with("event: p")), "the change appears: {told:?}");
    drop(stream);
    let tree = get(server.addr(), "/");
    assert!(!tree.is_null());
    server.signal(Signal::INT).unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(0), "{}", server.stderr());
    server.restart().unwrap();
    assert_eq!(get(server.addr(), "/"), tree, "data still there on restart");
}

#[test]
fn backup_restore_and_verify_agree() {
    let mut server = dev();
    let cli = Cli::new(&server);
    let value =
        json!({"a": {".value": 1, ".priority": 2}, "list": [1, 2, 3], "text": "é🦊", "deep": {"er": {"n": 1.5}}});
    write(server.addr(), "PUT", "/.json", &value.to_string());
    cli.ok(&["backup", "today.standpipe", "--token", "owner"]);
    // Online: what is written afterwards is not in it.
    write(server.addr(), "PUT", "/later.json", "1");
    write(server.addr(), "DELETE", "/later.json", "");
    cli.fails(1, &["backup", "today.standpipe", "--token", "owner"]);
    server.stop().unwrap();
    let data = server.data().to_str().unwrap().to_owned();
    cli.ok(&["restore", "today.standpipe", "--data", "restored"]);
    cli.fails(1, &["restore", "today.standpipe", "--data", "restored"]);
    let digests = |dir: &str| {
        let told = cli.ok(&["verify", "--data", dir]);
        let digest =
            told.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.len() >= 16).map(str::to_owned);
        let digests: Vec<_> = digest.collect();
        assert!(!digests.is_empty(), "no digest in {told}");
        digests
    };
    let export = |dir: &str| cli.json(&["export", "/", "--data", dir]);
    assert_eq!(export(&data), export("restored"));
    assert_eq!(digests(&data).last(), digests("restored").last());
    // A damaged backup is refused, not installed.
    let mut bytes = std::fs::read(cli.dir().join("today.standpipe")).unwrap();
    let middle = bytes.len() / 2;
    bytes.truncate(middle);
    std::fs::write(cli.dir().join("half.standpipe"), &bytes).unwrap();
    cli.fails(1, &["restore", "half.standpipe", "--data", "half"]);
    std::fs::write(cli.dir().join("noise.standpipe"), vec![7; 10_000]).unwrap();
    cli.fails(1, &["restore", "noise.standpipe", "--data", "noise"]);
}

#[test]
fn a_folder_is_used_without_a_server() {
    let cli = Cli::at("http://127.0.0.1:1".into());
    let ok = |line: &str| cli.sh(&format!("standpipe {line} --data ./data"));
    ok("put /a/b 1");
    ok(r#"patch /a '{"c": [1, 2]}'"#);
    assert_eq!(ok("get /a"), "{\"b\":1,\"c\":[1,2]}\n");
    assert_eq!(ok("get /a --shallow"), "{\"b\":true,\"c\":true}\n");
    ok("rm /a/b");
    ok("push /list 5");
    let server = Launch::dev().data(cli.dir().join("data")).start().unwrap();
    assert_eq!(get(server.addr(), "/a"), json!({"c": [1, 2]}));
    assert_eq!(get(server.addr(), "/list").as_object().map(serde_json::Map::len), Some(1));
}

#[test]
fn dev_loads_what_it_is_given_once() {
    let dir = tempfile::tempdir().unwrap();
    // As the emulator exports it: a folder with a file for each database.
    let folder = dir.path().join("database_export");
    std::fs::create_dir(&folder).unwrap();
    std::fs::File::create(folder.join("demo.json")).unwrap().write_all(br#"{"a":1}"#).unwrap();
    let rules = dir.path().join("rules.json");
    std::fs::write(&rules, "{\n  // open\n  \"rules\": {\".read\": true, \".write\": true}\n}").unwrap();
    let mut server = Launch::dev()
        .args(["--import".as_ref(), dir.path().as_os_str(), "--rules".as_ref(), rules.as_os_str()])
        .start()
        .unwrap();
    let at = |server: &Server| {
        standpipe_testkit::http::request(server.addr(), "GET", "/.json?ns=demo", &[], b"").unwrap().text()
    };
    assert_eq!(at(&server), r#"{"a":1}"#);
    write(server.addr(), "PUT", "/a.json?ns=demo", "2");
    server.stop().unwrap();
    server.restart().unwrap();
    assert_eq!(at(&server), r#"{"a":2}"#, "an import does not overwrite what was written since");
    let admin = [("Authorization", "Bearer owner")];
    let got = standpipe_testkit::http::request(server.addr(), "GET", "/.settings/rules.json", &admin, b"").unwrap();
    assert!(got.text().contains("// open"), "{}", got.text());
}

#[test]
fn settings_are_shown_with_where_they_come_from() {
    let cli = Cli::at(String::new());
    std::fs::write(cli.dir().join("standpipe.toml"), "[limits]\ndrain_ms = 77\n").unwrap();
    let told = cli
        .sh("STANDPIPE_LIMITS_CONNECTIONS_MAX=99 standpipe config show --config standpipe.toml --listen 127.0.0.1:7");
    let line =
        |name: &str| told.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_default().to_owned();
    assert!(line("drain_ms").contains("77") && line("drain_ms").contains("standpipe.toml:2"), "{told}");
    assert!(
        line("connections_max").contains("99") && line("connections_max").contains("STANDPIPE_LIMITS_CONNECTIONS_MAX"),
        "{told}"
    );
    // `[mcp]` has a `listen` of its own.
    let server = told.split_once("[server]").expect("there is such a part").1;
    let listen = server.lines().find(|line| line.trim_start().starts_with("listen =")).unwrap_or_default();
    assert!(listen.contains("127.0.0.1:7") && listen.contains("--listen"), "{told}");
}
