//! The MCP gateway in front of a stdio server, beside supergateway, mcp-proxy of npm, mcp-proxy of PyPI, and the server's own pipes. What a call takes for one
//! client, calls a second and the gateway's own processor time for each with sixteen, a call of 10 ms, memory, the start.
//!
//! Every gateway is spoken to over Streamable HTTP in the legacy era, which all of them know. The server is the same Python script for all; its processor time is
//! not the gateway's, but it is on the same core.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use standpipe_testkit::http::Conn;
use standpipe_testkit::until;

use crate::Run;
use crate::figures::{Bar, Load, Turn, compare, each, figure, missing, ratio};
use crate::idle::Memory;
use crate::process::{Server, Side, free_address, pin, standpipe};

const CLIENTS: usize = 16;
/// Calls of one client, one after the other.
const CALLS: u32 = 2_000;
/// Calls that take [`WAIT_MS`] in the server.
const SLOW_CALLS: u32 = 200;
const WAIT_MS: u64 = 10;
const IDLE_SESSIONS: u32 = 1_000;
const STARTS: usize = 10;
const ECHO: &str = include_str!("echo_server.py");

/// Prints every figure.
///
/// # Errors
/// A side does not start, or answers wrongly.
pub(crate) fn run(run: &Run) -> Result<()> {
    let script = run.path("echo_server.py");
    std::fs::write(&script, ECHO)?;
    let stage = Stage { run, script };
    latency(&stage)?;
    throughput(&stage)?;
    idle(&stage)?;
    start(&stage)
}

struct Stage<'a> {
    run: &'a Run,
    script: PathBuf,
}

/// A gateway that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gateway {
    Shared,
    Session,
    Supergateway,
    NpmProxy,
    PypiProxy,
}

impl Gateway {
    const PEERS: [Self; 3] = [Self::Supergateway, Self::NpmProxy, Self::PypiProxy];
    const ALL: [Self; 5] = [Self::Shared, Self::Session, Self::Supergateway, Self::NpmProxy, Self::PypiProxy];

    fn name(self) -> &'static str {
        match self {
            Self::Shared => "standpipe, shared",
            Self::Session => "standpipe, session",
            Self::Supergateway => "supergateway",
            Self::NpmProxy => "mcp-proxy of npm",
            Self::PypiProxy => "mcp-proxy of PyPI",
        }
    }

    fn is_ours(self) -> bool {
        matches!(self, Self::Shared | Self::Session)
    }

    /// The program of a peer, if it is installed.
    fn program(self) -> Option<PathBuf> {
        let program = match self {
            Self::Supergateway => "node_modules/.bin/supergateway",
            Self::NpmProxy => "node_modules/.bin/mcp-proxy",
            Self::PypiProxy => "peers/bin/mcp-proxy",
            Self::Shared | Self::Session => return None,
        };
        Some(crate::target().ok()?.join("tools").join(program)).filter(|program| program.exists())
    }

    fn how_to_install(self) -> &'static str {
        match self {
            Self::Supergateway => "npm install --prefix target/tools supergateway@4.0.0",
            Self::NpmProxy => "npm install --prefix target/tools mcp-proxy@6.7.19",
            _ => "python3 -m venv target/tools/peers; target/tools/peers/bin/pip install mcp-proxy==0.13.0",
        }
    }

    /// Those that are here; says how to get the others.
    fn installed() -> Vec<Self> {
        let here = |gateway: &Self| gateway.is_ours() || gateway.program().is_some();
        for gateway in Self::ALL.iter().filter(|gateway| !here(gateway)) {
            missing(gateway.name(), gateway.how_to_install());
        }
        Self::ALL.into_iter().filter(here).collect()
    }

    fn start(self, stage: &Stage<'_>) -> Result<Server> {
        let script = stage.script.display().to_string();
        if self.is_ours() {
            let mode = if self == Self::Shared { "shared" } else { "session" };
            let mut command = standpipe(stage.run);
            command.args(["mcp", "gateway", "--listen", "127.0.0.1:0", "--mode", mode]);
            // One client is all principals here, and opens as many sessions as it likes.
            for (name, value) in [
                ("CALLS_PER_CHILD_MAX", "64"),
                ("CALLS_PER_PRINCIPAL_MAX", "64"),
                ("CHILDREN_PER_PRINCIPAL_MAX", "32"),
                ("SESSIONS_MAX", "4096"),
                ("SESSIONS_PER_PRINCIPAL_MAX", "4096"),
                ("INITIALIZE_PER_S_MAX", "100000"),
                ("INITIALIZE_BURST_MAX", "100000"),
            ] {
                command.env(format!("STANDPIPE_LIMITS_MCP_{name}"), value);
            }
            command.args(["--", "python3", &script]).stdout(Stdio::piped()).stderr(Stdio::null());
            return Server::announced(self.name(), command);
        }
        let address = free_address()?;
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let program = self.program().context("not installed")?;
        let mut command = Command::new(program);
        match self {
            Self::Supergateway => command.args(["--stdio", &format!("python3 {script}"), "--outputTransport"]).args([
                "streamableHttp",
                "--stateful",
                "--logLevel",
                "none",
                "--port",
                &port,
            ]),
            Self::NpmProxy => {
                command.args(["--host", &host, "--port", &port, "--server", "stream", "--", "python3", &script])
            }
            _ => command.args(["--host", &host, "--port", &port, "--log-level", "ERROR", "--", "python3", &script]),
        };
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Server::at(self.name(), address, command)
    }
}

/// One session of the legacy era over one connection.
struct Client {
    conn: Conn,
    session: Option<String>,
    next: u64,
}

impl Client {
    fn open(addr: SocketAddr) -> Result<Self> {
        let mut client = Self { conn: Conn::open(addr)?.limit(Duration::from_secs(30)), session: None, next: 0 };
        let info = json!({ "name": "bench", "version": "1" });
        let params = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info });
        let answer = client.request("initialize", &params)?;
        ensure!(answer["result"]["capabilities"].is_object(), "no session: {answer}");
        client.post(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }).to_string())?;
        Ok(client)
    }

    fn post(&mut self, body: &str) -> Result<(Option<String>, String)> {
        let mut headers = vec![
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("mcp-protocol-version", "2025-06-18"),
        ];
        if let Some(session) = &self.session {
            headers.push(("mcp-session-id", session));
        }
        let answer = self.conn.request("POST", "/mcp", &headers, body.as_bytes())?;
        ensure!(answer.status < 300, "{}: {}", answer.status, answer.text());
        Ok((answer.header("mcp-session-id").map(str::to_owned), answer.text()))
    }

    fn request(&mut self, method: &str, params: &Value) -> Result<Value> {
        self.next += 1;
        let id = self.next;
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string();
        let (session, text) = self.post(&body)?;
        self.session = self.session.take().or(session);
        // Some answer with an event stream, some with JSON.
        let events = text.lines().filter_map(|line| line.strip_prefix("data:"));
        let mut messages = events.chain(text.starts_with('{').then_some(&*text));
        let found =
            messages.find_map(|json| serde_json::from_str::<Value>(json).ok().filter(|message| message["id"] == id));
        found.with_context(|| format!("no answer in {text:?}"))
    }

    fn echo(&mut self, wait_ms: u64) -> Result<()> {
        let text = format!("call {}", self.next);
        let answer = self.request("tools/call", &call(&text, wait_ms))?;
        ensure!(answer["result"]["content"][0]["text"] == text, "not what was said: {answer}");
        Ok(())
    }
}

fn call(text: &str, wait_ms: u64) -> Value {
    match wait_ms {
        0 => json!({ "name": "echo", "arguments": { "text": text } }),
        _ => json!({ "name": "echo", "arguments": { "text": text, "wait_ms": wait_ms } }),
    }
}

/// The server's own pipes.
struct Pipes {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    next: u64,
}

impl Pipes {
    fn open(stage: &Stage<'_>) -> Result<Self> {
        pin(Side::Server)?;
        let child = Command::new("python3").arg(&stage.script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        pin(Side::Load)?;
        let mut child = child?;
        let (input, output) = (child.stdin.take().context("piped")?, child.stdout.take().context("piped")?);
        let mut pipes = Self { child, input, output: BufReader::new(output), next: 0 };
        pipes.echo(0)?;
        Ok(pipes)
    }

    fn echo(&mut self, wait_ms: u64) -> Result<()> {
        self.next += 1;
        let params = call("x", wait_ms);
        let request = json!({ "jsonrpc": "2.0", "id": self.next, "method": "tools/call", "params": params });
        self.input.write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line)?;
        ensure!(answer["id"] == self.next, "not the answer: {line}");
        Ok(())
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        // Both fail only where it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Half of the calls took no longer than this, in milliseconds.
fn p50_ms(calls: u32, mut echo: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Histogram::<u64>::new(3)?;
    for _ in 0..calls {
        let start = Instant::now();
        echo()?;
        times.record(start.elapsed().as_nanos() as u64)?;
    }
    Ok(times.value_at_quantile(0.5) as f64 / 1e6)
}

/// One client, one call after the other: what a gateway adds to the pipes.
fn latency(stage: &Stage<'_>) -> Result<()> {
    println!("\none client, {CALLS} calls one after the other; then {SLOW_CALLS} that take {WAIT_MS} ms in the server");
    for round in 1..=stage.run.pace.rounds {
        let mut pipes = Pipes::open(stage)?;
        p50_ms(CALLS / 4, || pipes.echo(0))?;
        let (direct, slow) = (p50_ms(CALLS, || pipes.echo(0))?, p50_ms(SLOW_CALLS, || pipes.echo(WAIT_MS))?);
        println!("{:>24} {round:>5}: p50 {direct:.3} ms, of a slow call {slow:.3} ms", "the server's pipes");
        drop(pipes);
        for gateway in Gateway::installed() {
            let server = gateway.start(stage)?;
            let mut client = Client::open(server.addr)?;
            p50_ms(CALLS / 4, || client.echo(0))?;
            let (fast, slow_here) = (p50_ms(CALLS, || client.echo(0))?, p50_ms(SLOW_CALLS, || client.echo(WAIT_MS))?);
            let (added, share) = (fast - direct, (slow_here - slow) / slow * 100.0);
            println!(
                "{:>24} {round:>5}: p50 {fast:.3} ms, adds {added:.3} ms; slow {slow_here:.3} ms, adds {share:.1} %",
                gateway.name()
            );
            if gateway.is_ours() {
                figure(&format!("{}, added to a call", gateway.name()), added, "ms", Bar::AtMost(0.3));
                figure(&format!("{}, added to a call of {WAIT_MS} ms", gateway.name()), share, "%", Bar::AtMost(5.0));
            }
        }
    }
    Ok(())
}

/// Sixteen clients as fast as they can for some seconds.
fn bear(server: &Server, seconds: u32) -> Result<Load> {
    let mut clients = (0..CLIENTS).map(|_| Client::open(server.addr)).collect::<Result<Vec<_>>>()?;
    clients.iter_mut().try_for_each(|client| client.echo(0))?;
    let (over, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    let (cpu, start) = (server.process.cpu()?, Instant::now());
    let mut times = Histogram::<u64>::new(3)?;
    std::thread::scope(|scope| -> Result<()> {
        let work = |mut client: Client| {
            let mut times = Histogram::<u64>::new(3)?;
            while !over.load(Ordering::Relaxed) {
                let start = Instant::now();
                client.echo(0)?;
                times.record(start.elapsed().as_nanos() as u64)?;
                calls.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(times)
        };
        let threads: Vec<_> = clients.drain(..).map(|client| scope.spawn(move || work(client))).collect();
        let end = start + Duration::from_secs(seconds.into());
        until(|| Instant::now() >= end || threads.iter().any(|thread| thread.is_finished()));
        over.store(true, Ordering::Relaxed);
        for thread in threads {
            match thread.join() {
                Ok(own) => times.add(own?)?,
                Err(_) => bail!("a client panicked"),
            }
        }
        Ok(())
    })?;
    let at = |quantile| Duration::from_nanos(times.value_at_quantile(quantile));
    Ok(Load {
        requests: calls.load(Ordering::Relaxed),
        time: start.elapsed(),
        cpu: server.process.cpu()? - cpu,
        p50: at(0.5),
        p99: at(0.99),
    })
}

fn throughput(stage: &Stage<'_>) -> Result<()> {
    println!("\n{CLIENTS} clients as fast as they can; processor time is the gateway's own, without its children");
    let gateways = Gateway::installed();
    let turn = |gateway: Gateway| Turn {
        name: gateway.name(),
        // A server for each round: peers keep what sessions leave.
        bear: Box::new(move |seconds| bear(&gateway.start(stage)?, seconds)),
    };
    let rounds = compare(gateways.iter().copied().map(turn).collect(), stage.run.pace)?;
    let of = |wanted: Gateway| gateways.iter().position(|gateway| *gateway == wanted).map(|at| &rounds[at]);
    let peers: Vec<_> = Gateway::PEERS.into_iter().filter_map(|peer| Some((peer, of(peer)?))).collect();
    for ours in [Gateway::Shared, Gateway::Session] {
        let loads = of(ours).context("ours is always here")?;
        for (peer, theirs) in &peers {
            let (name, peer) = (ours.name(), peer.name());
            ratio(
                &format!("{name} / {peer}, calls a second"),
                &each(loads, Load::rate),
                &each(theirs, Load::rate),
                Bar::AtLeast(3.0),
            );
            let cpu = [each(loads, Load::cpu_us), each(theirs, Load::cpu_us)];
            ratio(&format!("{name} / {peer}, CPU of a call"), &cpu[0], &cpu[1], Bar::AtMost(0.2));
        }
    }
    Ok(())
}

/// Sessions that do nothing, over connections that do nothing.
fn idle(stage: &Stage<'_>) -> Result<()> {
    println!("\nmemory");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = Gateway::Shared.start(stage)?;
    let empty = runtime.block_on(Memory::settled(server.process.pid()))?;
    figure("standpipe without children, resident", empty.resident_kib as f64 / 1024.0, "MiB", Bar::AtMost(20.0));
    let warm = (0..10).map(|_| Client::open(server.addr)).collect::<Result<Vec<_>>>()?;
    let before = runtime.block_on(Memory::settled(server.process.pid()))?;
    let held = (0..IDLE_SESSIONS).map(|_| Client::open(server.addr)).collect::<Result<Vec<_>>>()?;
    let after = runtime.block_on(Memory::settled(server.process.pid()))?;
    let each = (after.private_kib as f64 - before.private_kib as f64) / f64::from(IDLE_SESSIONS);
    figure("standpipe, an idle session and its connection", each, "KiB", Bar::AtMost(60.0));
    drop((warm, held));
    for peer in Gateway::PEERS.into_iter().filter(|peer| peer.program().is_some()) {
        let server = peer.start(stage)?;
        let empty = runtime.block_on(Memory::settled(server.process.pid()))?;
        println!("{:>24}      : {:.1} MiB resident without clients", peer.name(), empty.resident_kib as f64 / 1024.0);
    }
    Ok(())
}

/// From exec until it listens.
fn start(stage: &Stage<'_>) -> Result<()> {
    println!("\nstart");
    let time = || {
        let start = Instant::now();
        Gateway::Shared.start(stage).map(|_server| start.elapsed().as_secs_f64() * 1e3)
    };
    let mut times = (0..STARTS).map(|_| time()).collect::<Result<Vec<_>>>()?;
    times.sort_by(f64::total_cmp);
    figure(&format!("exec to ready, median of {STARTS}"), times[STARTS / 2], "ms", Bar::AtMost(30.0));
    Ok(())
}
