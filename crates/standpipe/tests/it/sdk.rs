//! Firebase's own packages from npm, unmodified, against the binary: `tests/js/*.mjs` do the talking
//! and print a line for each case. Every case that its script names is played, or the test fails.
//! Where `cargo xtask test` has not installed the packages, the tests say so and do nothing.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use standpipe_testkit::{Launch, Server, tool};

use crate::conformance::literals;
use crate::support::quiet;

/// Where the scripts are.
pub(crate) fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js")
}

/// The names of the cases of a script, in its order.
pub(crate) fn cases(suite: &str) -> Vec<String> {
    let source = std::fs::read_to_string(scripts().join(format!("{suite}.mjs"))).unwrap();
    let calls = source.split("\ntest(").skip(1);
    calls.map(|call| literals(call).into_iter().next().expect("a case has a name")).collect()
}

/// `target/tools`, where npm has put the packages.
pub(crate) fn tools() -> Option<PathBuf> {
    let modules = tool("node_modules/firebase-tools").and(tool("node_modules"));
    if modules.is_none() {
        eprintln!("left out: no npm packages; cargo xtask test installs them");
    }
    Some(modules?.parent()?.to_owned())
}

/// Plays a suite; it may ask for the server to be stopped, killed and started.
fn play(suite: &str, mut server: Server) {
    let Some(tools) = tools() else { return };
    let address = server.addr().to_string();
    let mut command = Command::new("node");
    command.arg(scripts().join(format!("{suite}.mjs"))).arg(&address).env("STANDPIPE_TOOLS", tools);
    command.env("FIREBASE_DATABASE_EMULATOR_HOST", &address);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let (mut played, mut failed) = (Vec::new(), Vec::new());
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        // What the packages themselves print is no JSON.
        let Ok(line) = serde_json::from_str::<Value>(&line.unwrap()) else { continue };
        if let Some(what) = line["ask"].as_str() {
            answer(what, &mut server);
            input.write_all(b"done\n").unwrap();
        } else if let Some(name) = line["case"].as_str() {
            eprintln!("{:>7} ms  {}  {name}", line["ms"], if line["ok"] == true { "ok" } else { "FAILED" });
            played.push(name.to_owned());
            if line["ok"] != true {
                failed.push(format!("{name}: {}", line["error"].as_str().unwrap_or_default()));
            }
        }
    }
    let status = child.wait().unwrap();
    assert!(failed.is_empty() && status.success(), "{suite}: {status}\n{}\n{}", failed.join("\n"), server.stderr());
    assert!(!played.is_empty() && played == cases(suite), "{suite}: played are only {played:#?}");
    quiet(server, &[]);
}

fn answer(what: &str, server: &mut Server) {
    match what {
        "stop" => assert!(server.stop().unwrap().success(), "{}", server.stderr()),
        "kill" => drop(server.kill().unwrap()),
        "start" => server.restart().unwrap(),
        other => panic!("the script asks for {other:?}"),
    }
}

fn dev() -> Server {
    Launch::dev().same_port().start().unwrap()
}

#[test]
fn modular() {
    play("modular", dev());
}

#[test]
fn queries() {
    play("queries", dev());
}

#[test]
fn compat() {
    play("compat", dev());
}

#[test]
fn admin() {
    play("admin", dev());
}

#[test]
fn rules_unit_testing() {
    play("rules", dev());
}

#[test]
fn firebase_cli() {
    play("cli", dev());
}
