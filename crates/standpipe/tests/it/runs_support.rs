//! What tests of runs share: the command of the user who runs the server, requests with the server's secret, and looks
//! at processes.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use standpipe_testkit::http::{Response, request};
use standpipe_testkit::{LIMIT, Server, binary, until};

/// The commands of the user whose server it is, in a folder of their own.
pub(crate) struct User {
    url: String,
    state: std::path::PathBuf,
    pub(crate) dir: tempfile::TempDir,
}

impl User {
    pub(crate) fn of(server: &Server) -> Self {
        let state = server.data().with_extension("state");
        Self { url: server.url(), state, dir: tempfile::tempdir().unwrap() }
    }

    /// A program with the binary in its search path.
    pub(crate) fn program(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("STANDPIPE_") {
                command.env_remove(name);
            }
        }
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", binary().parent().unwrap().display()));
        command.env("STANDPIPE_URL", &self.url).env("XDG_STATE_HOME", &self.state).env("HOME", self.dir.path());
        command.current_dir(self.dir.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.program(binary()).args(arguments).output().unwrap()
    }

    /// What a command printed that must end with this code.
    pub(crate) fn ends(&self, code: i32, arguments: &[&str]) -> (String, String) {
        let output = self.output(arguments);
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{out}\n{err}");
        (out, err)
    }

    /// What a command printed that must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        self.ends(0, arguments).0
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(arguments)).unwrap()
    }

    /// Starts a program; its lines are read as they come.
    pub(crate) fn start(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Lines {
        Lines::of(self.program(program).args(arguments).spawn().unwrap())
    }

    /// `standpipe run --detach`; gives the id.
    pub(crate) fn detached(&self, arguments: &[&str]) -> String {
        let told = self.ok(&[&["run", "--detach"], arguments].concat());
        told.split(' ').next().unwrap().to_owned()
    }
}

/// A program at work. Dropping it kills it.
pub(crate) struct Lines {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
}

fn lines(pipe: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = sync_channel(100_000);
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while let Ok(1..) = pipe.read_until(b'\n', &mut line) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });
    lines
}

impl Lines {
    fn of(mut child: Child) -> Self {
        let (out, err) = (lines(child.stdout.take().unwrap()), lines(child.stderr.take().unwrap()));
        Self { child, out, err }
    }

    /// The next line of stdout.
    pub(crate) fn line(&self) -> String {
        self.out
            .recv_timeout(LIMIT)
            .unwrap_or_else(|error| panic!("{error}; stderr: {:?}", self.err.try_iter().collect::<Vec<_>>()))
    }

    /// The next line of stderr.
    pub(crate) fn told(&self) -> String {
        self.err.recv_timeout(LIMIT).expect("a line of stderr in time")
    }

    /// The lines of stdout up to its end.
    pub(crate) fn rest(&self) -> Vec<String> {
        let next = || self.out.recv_timeout(LIMIT * 2);
        std::iter::from_fn(|| match next() {
            Ok(line) => Some(line),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => None,
            Err(error) => panic!("{error}"),
        })
        .collect()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid(self.child.id()), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        assert!(until(|| self.child.try_wait().unwrap().is_some()), "it does not end");
        self.child.wait().unwrap()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // Both fail only where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

/// Is there such a process, zombies left out?
pub(crate) fn is_alive(number: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    test_kill_process(pid(number)).is_ok() && !matches!(state, Some('Z' | 'X') | None)
}

/// Processes whose command line holds this text.
pub(crate) fn processes_with(text: &str) -> Vec<u32> {
    let own = std::process::id();
    let numbers =
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let holds = |number: &u32| {
        let mut line = Vec::new();
        let read =
            std::fs::File::open(format!("/proc/{number}/cmdline")).and_then(|mut file| file.read_to_end(&mut line));
        read.is_ok() && String::from_utf8_lossy(&line).replace('\0', " ").contains(text)
    };
    numbers.filter(|number| *number != own && is_alive(*number)).filter(holds).collect()
}

/// The secret of the server's folder.
pub(crate) fn secret(data: &Path) -> String {
    std::fs::read_to_string(data.join("admin.token")).unwrap().trim().to_owned()
}

/// A request by the operator.
pub(crate) fn operator(server: &Server, method: &str, target: &str, body: &Value) -> Response {
    let authorization = format!("Bearer {}", secret(server.data()));
    let body = if body.is_null() { String::new() } else { body.to_string() };
    request(server.addr(), method, target, &[("authorization", &authorization)], body.as_bytes()).unwrap()
}

/// Starts a command; gives its id.
pub(crate) fn start(server: &Server, body: &Value) -> String {
    let got = operator(server, "POST", "/runs", body);
    assert_eq!(got.status, 201, "{}", got.text());
    let told = got.json().unwrap();
    let id = told["id"].as_str().unwrap().to_owned();
    assert_eq!(got.header("location"), Some(&*format!("/runs/{id}")));
    id
}

/// A run, when it has ended.
pub(crate) fn ended(server: &Server, id: &str) -> Value {
    let mut run = Value::Null;
    let is_final = |run: &Value| {
        !run["state"].is_null()
            && !["queued", "starting", "running", "stopping"].iter().any(|state| run["state"] == *state)
    };
    for _ in 0..4 {
        let got = operator(server, "GET", &format!("/runs/{id}?wait=1"), &json!(null));
        assert_eq!(got.status, 200, "{id}: {}", got.text());
        run = got.json().unwrap();
        if is_final(&run) {
            return run;
        }
    }
    panic!("{id} does not end: {run}");
}

/// All of a run's output as it is now.
pub(crate) fn output(addr: SocketAddr, id: &str) -> Vec<u8> {
    let got = request(addr, "GET", &format!("/runs/{id}/out?raw=1&follow=0"), &[], b"").unwrap();
    assert_eq!(got.status, 200, "{}", got.text());
    got.body
}
