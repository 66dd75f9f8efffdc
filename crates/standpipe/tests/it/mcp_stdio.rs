//! `standpipe mcp stdio` and `standpipe mcp connect`: the whole process, as programs start it: the official SDKs, and raw lines.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use standpipe_testkit::{Launch, binary, tool};

use crate::mcp_everything::{packages, script};
use crate::support::{dev, quiet};

/// A process that speaks MCP on its own stdin and stdout.
struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        let mut child =
            command(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    fn say(&mut self, line: &str) {
        self.input.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    fn ask(&mut self, line: &str) -> Value {
        self.say(line);
        self.hear()
    }

    /// The input has ended, or it was told to stop: it ends within `within`, well, and without a word that a person should see.
    fn ends(mut self, within: Duration) -> String {
        drop(self.input.take());
        let began = Instant::now();
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        let status = self.child.wait().unwrap();
        assert!(began.elapsed() < within, "it took {:?}", began.elapsed());
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert!(status.success() && !log.contains("WARN") && !log.contains("ERROR"), "{status} {log}");
        rest
    }
}

fn command<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("STANDPIPE_") {
            command.env_remove(name);
        }
    }
    command.arg("mcp").args(arguments);
    command
}

fn stdio(dir: &Path) -> Process {
    Process::start(["stdio".as_ref(), "--data".as_ref(), dir.as_os_str()])
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;

fn modern(id: u32, method: &str, mut params: Value) -> String {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string()
}

fn get(id: u32, path: &str) -> String {
    modern(id, "tools/call", json!({ "name": "tree_get", "arguments": { "path": path } }))
}

fn set(id: u32, path: &str, value: Value) -> String {
    modern(id, "tools/call", json!({ "name": "tree_set", "arguments": { "path": path, "value": value } }))
}

#[test]
fn both_eras_are_spoken_in_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = stdio(dir.path());
    assert!(process.ask(INITIALIZE)["result"]["capabilities"]["tools"].is_object());
    process.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    assert_eq!(process.ask(&set(1, "/a", json!({ "b": 1 })))["result"]["resultType"], "complete");
    let legacy =
        r#"{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"name":"tree_get","arguments":{"path":"/a"}}}"#;
    let answer = process.ask(legacy);
    assert_eq!((&answer["id"], &answer["result"]["structuredContent"]["value"]["b"]), (&json!("x"), &json!(1)));
    process.say("this is no message");
    process.say("[1,2]");
    assert_eq!(process.ask(r#"{"jsonrpc":"2.0","id":3,"method":"ping"}"#)["result"], json!({}));
    assert_eq!(process.ends(Duration::from_secs(20)), "");
    // What was written is there for the next one.
    let mut process = stdio(dir.path());
    assert_eq!(process.ask(&get(1, "/a/b"))["result"]["structuredContent"]["value"], 1);
    process.ends(Duration::from_secs(20));
}

#[test]
fn everything_may_come_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = stdio(dir.path());
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    process.say(&format!("{INITIALIZE}\n{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}}\n{list}"));
    let rest = process.ends(Duration::from_secs(20));
    let ids: Vec<Value> = rest.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone()).collect();
    assert_eq!(ids, [0, 1], "{rest}");
}

#[test]
fn a_message_that_is_too_long_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = stdio(dir.path());
    process.ask(&get(1, "/"));
    let before = memory(process.child.id());
    let long =
        format!(r#"{{"jsonrpc":"2.0","method":"tools/call","params":{{"x":"{}"}},"id":"last"}}"#, "y".repeat(40 << 20));
    let answer = process.ask(&long);
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!("last"), &json!(4130)));
    let grown = memory(process.child.id()).saturating_sub(before);
    assert!(grown < 16 << 20, "a message of 40 MB has cost {grown} bytes");
    assert!(process.ask(&get(2, "/"))["result"].is_object());
    process.ends(Duration::from_secs(20));
}

/// The most memory that a process has had.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn a_client_that_does_not_read_is_not_read_from() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = stdio(dir.path());
    process.ask(&set(1, "/a", json!("x".repeat(100_000))));
    let mut input = process.input.take().unwrap();
    let (tell, told) = std::sync::mpsc::sync_channel(2_000);
    let writing = std::thread::spawn(move || {
        for id in 0..2_000 {
            input.write_all(format!("{}\n", get(id, "/a")).as_bytes()).unwrap();
            tell.send(id).unwrap();
        }
        input
    });
    let mut written = 0;
    while let Ok(id) = told.recv_timeout(Duration::from_secs(3)) {
        written = id;
    }
    assert!(written < 1_999, "everything was taken from who does not read");
    assert!(memory(process.child.id()) < 200 << 20);
    let mut answered = 0;
    while answered < 2_000 {
        let answer = process.hear();
        assert!(answer["id"].is_number(), "{answer}");
        answered += 1;
    }
    process.input = Some(writing.join().unwrap());
    process.ends(Duration::from_secs(20));
}

#[test]
fn a_signal_ends_it_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = stdio(dir.path());
    process.ask(&get(1, "/"));
    let pid = rustix::process::Pid::from_child(&process.child);
    let input = process.input.take();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(process.ends(Duration::from_secs(20)), "");
    drop(input);
}

#[test]
fn a_folder_that_is_served_is_not_opened() {
    let server = dev();
    let output = command(["stdio".as_ref(), "--data".as_ref(), server.data().as_os_str()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("--url"), "{told}");
    quiet(server, &[]);
}

#[test]
fn sockets_and_files_are_as_good_as_pipes() {
    let dir = tempfile::tempdir().unwrap();
    // Node gives its children sockets.
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (input, output) = (theirs.try_clone().unwrap(), theirs);
    let mut command_ = command(["stdio".as_ref(), "--data".as_ref(), dir.path().as_os_str()]);
    let mut child =
        command_.stdin(std::os::fd::OwnedFd::from(input)).stdout(std::os::fd::OwnedFd::from(output)).spawn().unwrap();
    drop(command_);
    (&ours).write_all(format!("{}\n", set(1, "/a", json!(7))).as_bytes()).unwrap();
    let mut lines = BufReader::new(&ours);
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.contains("complete"), "{line}");
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(child.wait().unwrap().success());
    // A shell gives them files.
    let (from, to) = (dir.path().join("in"), dir.path().join("out"));
    std::fs::write(&from, format!("{}\n", get(2, "/a"))).unwrap();
    let mut command_ = command(["stdio".as_ref(), "--data".as_ref(), dir.path().as_os_str()]);
    let (from, into) = (std::fs::File::open(from).unwrap(), std::fs::File::create(&to).unwrap());
    assert!(command_.stdin(from).stdout(into).status().unwrap().success());
    let told = std::fs::read_to_string(to).unwrap();
    assert!(told.contains(r#""value":7"#) && told.ends_with('\n'), "{told}");
}

#[test]
fn connect_speaks_for_a_server() {
    let server = dev();
    let url = format!("http://{}/mcp", server.addr());
    let mut process = Process::start(["connect", &url]);
    assert!(process.ask(INITIALIZE)["result"]["capabilities"]["tools"].is_object());
    process.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    assert!(process.ask(&set(1, "/a", json!({ "b": 9_007_199_254_740_993_u64 })))["result"].is_object());
    let legacy =
        r#"{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"name":"tree_get","arguments":{"path":"/a"}}}"#;
    assert_eq!(process.ask(legacy)["result"]["structuredContent"]["exists"], true);
    process.ends(Duration::from_secs(20));
    let mut process = Process::start(["--url", &format!("http://{}", server.addr())]);
    assert!(process.ask(&get(1, "/a"))["result"].is_object());
    process.ends(Duration::from_secs(20));
    quiet(server, &[]);
}

#[test]
fn connect_says_that_a_server_is_not_there_and_goes_on_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Launch::dev().data(dir.path().join("data")).same_port().start().unwrap();
    let mut process = Process::start(["connect", &format!("http://{}/mcp", server.addr())]);
    assert!(process.ask(INITIALIZE)["result"].is_object());
    process.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    let list = |id: u32| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/list"}}"#);
    assert!(process.ask(&list(1))["result"].is_object());
    server.stop().unwrap();
    let answer = process.ask(&list(2));
    assert_eq!(answer["error"]["code"], 5021, "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("standpipe serve"), "{answer}");
    server.restart().unwrap();
    // The server has forgotten the session; the client need not know.
    assert!(process.ask(&list(3))["result"].is_object());
    process.ends(Duration::from_secs(20));
    quiet(server, &[]);
}

fn told(mut command: Command) {
    let output = command.env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success() && out.starts_with("ok"), "{}\n{out}\n{err}", output.status);
}

/// The official clients, each with a folder of its own and with a server.
fn clients(client: impl Fn() -> Option<Command>) {
    let Some(mut command) = client() else { return };
    let dir = tempfile::tempdir().unwrap();
    command.arg(binary()).args(["mcp", "stdio", "--data"]).arg(dir.path());
    told(command);
    let Some(mut command) = client() else { return };
    let server = dev();
    command.arg(binary()).args(["mcp", "connect", &format!("http://{}/mcp", server.addr())]);
    told(command);
    quiet(server, &[]);
}

fn typescript(version: &str) -> Option<Command> {
    let packages = packages()?;
    let mut command = Command::new("node");
    command.arg(script("stdio_client.mjs")).arg(version).env("STANDPIPE_TOOLS", packages).process_group(0);
    Some(command)
}

fn python(era: &str) -> Option<Command> {
    let mut command = Command::new(tool("python/bin/python")?);
    command.arg(script("stdio_client.py")).arg(era);
    Some(command)
}

#[test]
fn typescript_1_starts_it() {
    clients(|| typescript("1"));
}

#[test]
fn typescript_2_starts_it() {
    clients(|| typescript("2"));
}

#[test]
fn python_starts_it_in_the_legacy_era() {
    clients(|| python("legacy"));
}

#[test]
fn python_starts_it_in_the_modern_era() {
    clients(|| python("auto"));
}
