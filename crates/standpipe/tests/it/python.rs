//! The official Python SDK (firebase-admin), unmodified, against `dev`: `tests/python/admin.py`
//! does the talking. Where `cargo xtask test` has not installed the SDK, the tests say so and do
//! nothing.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use standpipe_testkit::{Launch, Server, tool};

/// Runs one check of the script; it may ask for restarts of the server.
fn check(name: &str, mut server: Server) {
    let Some(python) = tool("python/bin/python") else {
        eprintln!("left out: no firebase-admin; cargo xtask test installs it");
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/admin.py");
    let address = server.addr().to_string();
    let mut command = Command::new(python);
    command.arg(script).args([&address, name]).env("FIREBASE_DATABASE_EMULATOR_HOST", &address);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut last = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        last = line.unwrap();
        if last == "restart" {
            assert!(server.stop().unwrap().success(), "{}", server.stderr());
            server.restart().unwrap();
            input.write_all(b"go on\n").unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert!(status.success() && last == "done", "{name}: {status}, {last:?}; the server said:\n{}", server.stderr());
}

fn dev() -> Server {
    Launch::dev().same_port().start().unwrap()
}

#[test]
fn writes_reads_and_server_values() {
    check("writes", dev());
}

#[test]
fn etags() {
    check("etags", dev());
}

#[test]
fn transactions() {
    check("transactions", dev());
}

#[test]
fn queries() {
    check("queries", dev());
}

#[test]
fn listens() {
    check("listens", dev());
}

#[test]
fn a_listen_comes_back_after_a_restart() {
    check("reconnects", dev());
}

#[test]
fn errors() {
    check("errors", dev());
}

/// The SDK sends `owner` to any http URL; `serve` must not take it.
#[test]
fn owner_is_refused_by_serve() {
    check("denied", Launch::serve().start().unwrap());
}
