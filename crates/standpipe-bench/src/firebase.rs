//! The Firebase door beside firebase-server, the one other server on npm that speaks its protocol, both under the
//! official JavaScript SDK: sets, events, and what thousands of listens cost.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::figures::{Bar, Load, Turn, compare, each, figure, missing, ratio};
use crate::idle::Memory;
use crate::process::{Server, free_address};
use crate::{Run, target};

const CLIENT: &str = "npm install --prefix target/tools firebase@12.19.0";
const PEER: &str =
    "npm install --prefix target/tools/firebase-server --ignore-scripts firebase-server@1.1.0 firebase@7.24.0";

/// Sets on their way at once, from one connection.
const WINDOW: u32 = 100;
const WATCHERS: u32 = 50;
const LISTENS: u32 = 10_000;
const CONNECTIONS: u32 = 10;

/// Prints every comparison.
///
/// # Errors
/// A side does not start, or refuses what the SDK asks.
pub(crate) fn run(run: &Run) -> Result<()> {
    println!("\nthe Firebase door under the official JavaScript SDK, beside firebase-server");
    let script = &Script::new(run)?;
    if !script.modules.join("firebase").exists() {
        missing("the SDK, which every figure needs", CLIENT);
        return Ok(());
    }
    let ours = Server::standpipe(run, "data")?;
    let peer = peer()?;
    let servers: Vec<&Server> = [Some(&ours), peer.as_ref()].into_iter().flatten().collect();
    for (title, mode, numbers, what) in [
        (format!("sets, {WINDOW} on their way at once"), "sets", [WINDOW, 0], "set"),
        (format!("events of {WATCHERS} connections, one set at a time"), "events", [WATCHERS, 1], "event"),
        (format!("events of {WATCHERS} connections, {WINDOW} sets at once"), "events", [WATCHERS, WINDOW], "event"),
    ] {
        println!("\n{title}");
        let sides = servers.iter().map(|server| Turn {
            name: server.name,
            bear: Box::new(move |seconds| script.load(server, mode, [seconds, numbers[0], numbers[1]])),
        });
        let rounds = compare(sides.collect(), run.pace)?;
        let [ours, theirs] = &rounds[..] else { continue };
        ratio(
            &format!("server CPU per {what}, firebase-server / standpipe"),
            &each(theirs, Load::cpu_us),
            &each(ours, Load::cpu_us),
            Bar::AtLeast(10.0),
        );
    }
    drop((ours, peer));
    listens(run, script)
}

/// Memory of the listens of one connection, and what a write costs beside those of ten.
fn listens(run: &Run, script: &Script) -> Result<()> {
    println!("\n{LISTENS} listens on one connection");
    let server = Server::standpipe(run, "listens")?;
    let warm = script.hold(&server, 10, 1)?;
    let before = Memory::now_settled(&server)?;
    let held = script.hold(&server, LISTENS, 1)?;
    let after = Memory::now_settled(&server)?;
    let each_kib = (after.private_kib as f64 - before.private_kib as f64) / f64::from(LISTENS);
    figure("memory", each_kib, "KiB/listen", Bar::AtMost(2.0));
    drop((warm, held));

    println!("\nsets beside {} listens elsewhere, and beside none", LISTENS * CONNECTIONS);
    let (alone, beside) = (Server::standpipe(run, "alone")?, Server::standpipe(run, "beside")?);
    let _held = script.hold(&beside, LISTENS, CONNECTIONS)?;
    let sides = [&beside, &alone].map(|server| Turn {
        name: server.name,
        bear: Box::new(|seconds| script.load(server, "sets", [seconds, WINDOW, 0])),
    });
    let rounds = compare(sides.into(), run.pace)?;
    let cpu = |loads: &[Load]| each(loads, Load::cpu_us);
    ratio("server CPU per set, beside listens / alone", &cpu(&rounds[0]), &cpu(&rounds[1]), Bar::AtMost(1.5));
    Ok(())
}

/// firebase-server on a free port, if it is installed.
fn peer() -> Result<Option<Server>> {
    let program = target()?.join("tools/firebase-server/node_modules/firebase-server/bin/firebase-server.js");
    if !program.exists() {
        missing("firebase-server", PEER);
        return Ok(None);
    }
    let addr = free_address()?;
    let mut command = Command::new("node");
    command.arg(program).args(["-a", &addr.ip().to_string(), "-p", &addr.port().to_string()]);
    command.stdout(Stdio::null());
    Server::at("firebase-server", addr, command).map(Some)
}

/// The load, and where its SDK is.
struct Script {
    file: PathBuf,
    modules: PathBuf,
}

impl Script {
    fn new(run: &Run) -> Result<Self> {
        let file = run.path("firebase.cjs");
        std::fs::write(&file, include_str!("firebase.cjs"))?;
        Ok(Self { file, modules: target()?.join("tools/node_modules") })
    }

    fn command(&self, server: &Server, mode: &str, numbers: [u32; 3]) -> Command {
        let mut command = Command::new("node");
        command.env("NODE_PATH", &self.modules).arg(&self.file).arg(server.addr.to_string()).arg(mode);
        command.args(numbers.map(|number| number.to_string()));
        command
    }

    fn load(&self, server: &Server, mode: &str, numbers: [u32; 3]) -> Result<Load> {
        let before = server.process.cpu()?;
        let output = self.command(server, mode, numbers).stdin(Stdio::null()).output()?;
        let cpu = server.process.cpu()? - before;
        let text = String::from_utf8_lossy(&output.stdout);
        let figures: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [requests, ms] = figures[..] else { anyhow::bail!("no figures: {output:?}") };
        Ok(Load { requests, time: Duration::from_millis(ms), cpu, ..Load::default() })
    }

    /// Listens that last until what is returned is dropped.
    fn hold(&self, server: &Server, listens: u32, connections: u32) -> Result<Held> {
        let mut command = self.command(server, "listens", [listens, connections, 0]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let held = Held(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "ready\n", "the listens were not taken: {line:?}");
        Ok(held)
    }
}

/// A client that holds listens; it ends when this is dropped.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        // Both fail only where it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
