//! The RESP and line doors beside redis-server 7, with redis' own load: PING and GET at 50 connections with
//! and without pipelining, durable SET, 1,000 connections, a PING in plain text, and memory when idle.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::Run;
use crate::figures::{Bar, Load, Turn, compare, each, figure, missing, ratio};
use crate::idle::{self, Series};
use crate::process::{Server, free_address, installed};

const CONNECTIONS: u32 = 50;
const CROWD: u32 = 1_000;
/// Keys the load chooses from: as redis-benchmark does by itself, and what is no single hot one.
const ONE: &str = "1";
const MANY: &str = "100000";
/// Requests of the first round of a side, whose rate says how many the next ones need.
const REQUESTS_FIRST: u64 = 50_000;

/// Prints every comparison.
///
/// # Errors
/// A side does not start or a request fails.
pub(crate) fn run(run: &Run) -> Result<()> {
    println!("\nRESP beside redis-server, line beside its inline commands");
    if installed("redis-server").is_none() || installed("redis-benchmark").is_none() {
        missing("redis-server and redis-benchmark", "apt-get install redis-server redis-tools");
        return Ok(());
    }
    let ours = Server::standpipe_door(run, "data", "resp")?;
    let theirs = redis(run, "redis", &["--save", "", "--appendonly", "no"])?;
    for server in [&ours, &theirs] {
        load(server, &["-t", "set", "-r", ONE], CONNECTIONS, 1, u64::from(CONNECTIONS))?;
        load(server, &["-t", "set", "-r", MANY], CONNECTIONS, 1, REQUESTS_FIRST * 4)?;
    }
    for (name, keys, pipeline) in [
        ("ping_mbulk", ONE, 1),
        ("get", ONE, 1),
        ("ping_mbulk", ONE, 16),
        ("get", ONE, 16),
        ("get", MANY, 1),
        ("get", MANY, 16),
    ] {
        println!("\n{name}, {keys} keys, {CONNECTIONS} connections, {pipeline} at once");
        let rounds = beside(run, &[&ours, &theirs], (name, keys), CONNECTIONS, pipeline)?;
        ratio(
            "operations/s, standpipe / redis",
            &each(&rounds[0], Load::rate),
            &each(&rounds[1], Load::rate),
            Bar::AtLeast(1.0),
        );
        ratio(
            "server CPU per operation",
            &each(&rounds[0], Load::cpu_us),
            &each(&rounds[1], Load::cpu_us),
            Bar::AtMost(1.0),
        );
    }
    println!("\nGET, {CROWD} connections beside {CONNECTIONS}");
    let few = beside(run, &[&ours, &theirs], ("get", MANY), CONNECTIONS, 1)?;
    let many = beside(run, &[&ours, &theirs], ("get", MANY), CROWD, 1)?;
    let rates = |loads: &[Load]| each(loads, Load::rate);
    ratio("operations/s, 1,000 / 50 connections", &rates(&many[0]), &rates(&few[0]), Bar::AtLeast(0.9));
    ratio("the same of redis, whose load is as busy", &rates(&many[1]), &rates(&few[1]), Bar::AtLeast(0.9));
    drop(theirs);

    println!("\ndurable SET, {CONNECTIONS} connections; redis with appendfsync always");
    let durable = redis(run, "redis-aof", &["--save", "", "--appendonly", "yes", "--appendfsync", "always"])?;
    let rounds = beside(run, &[&ours, &durable], ("set", MANY), CONNECTIONS, 1)?;
    ratio(
        "operations/s, standpipe / redis",
        &each(&rounds[0], Load::rate),
        &each(&rounds[1], Load::rate),
        Bar::AtLeast(0.6),
    );
    drop((ours, durable));

    println!("\nPING as a line of text, {CONNECTIONS} connections");
    let ours = Server::standpipe_door(run, "line", "line")?;
    let theirs = redis(run, "redis-inline", &["--save", ""])?;
    let sides =
        [&ours, &theirs].map(|server| Turn { name: server.name, bear: Box::new(|seconds| lines(server, seconds)) });
    let rounds = compare(sides.into(), run.pace)?;
    ratio(
        "operations/s, line / redis inline",
        &each(&rounds[0], Load::rate),
        &each(&rounds[1], Load::rate),
        Bar::AtLeast(1.1),
    );
    ratio(
        "server CPU per operation",
        &each(&rounds[0], Load::cpu_us),
        &each(&rounds[1], Load::cpu_us),
        Bar::AtMost(1.0),
    );
    drop((ours, theirs));
    memory(run)
}

/// Memory of ten thousand connections after one PING each; redis' buffers shrink when it has looked at them.
fn memory(run: &Run) -> Result<()> {
    println!("\nmemory of idle connections after one PING");
    let ping = Series::Ping(b"PING\r\n");
    let theirs = idle::kib_each(&redis(run, "redis-idle", &["--save", "", "--maxclients", "20000"])?, ping)?;
    for door in ["resp", "line"] {
        let ours = idle::kib_each(&Server::standpipe_door(run, &format!("idle-{door}"), door)?, ping)?;
        figure(&format!("standpipe, {door} (redis {theirs:.1})"), ours, "KiB/connection", Bar::AtMost(theirs));
    }
    Ok(())
}

fn redis(run: &Run, dir: &str, arguments: &[&str]) -> Result<Server> {
    let (dir, addr) = (run.path(dir), free_address()?);
    std::fs::create_dir(&dir)?;
    let mut command = Command::new("redis-server");
    // Protected, it refuses loopback addresses other than the first.
    command.args(["--protected-mode", "no"]);
    command.args(["--port", &addr.port().to_string(), "--bind", "127.0.0.1", "--dir"]).arg(&dir).args(arguments);
    command.stdout(Stdio::null());
    Server::at("redis", addr, command)
}

fn beside(
    run: &Run,
    servers: &[&Server],
    (test, keys): (&str, &str),
    connections: u32,
    pipeline: u32,
) -> Result<Vec<Vec<Load>>> {
    let sides = servers.iter().map(|server| {
        let rate = Cell::new(None::<f64>);
        let bear = move |seconds: u32| {
            let requests = rate.get().map_or(REQUESTS_FIRST, |rate| (rate * f64::from(seconds)) as u64);
            let load = load(server, &["-t", test, "-r", keys], connections, pipeline, requests)?;
            rate.set(Some(load.rate()));
            Ok(load)
        };
        Turn { name: server.name, bear: Box::new(bear) }
    });
    compare(sides.collect(), run.pace)
}

/// Load by redis-benchmark, which ends after a number of requests.
fn load(server: &Server, test: &[&str], connections: u32, pipeline: u32, requests: u64) -> Result<Load> {
    let mut command = Command::new("redis-benchmark");
    command.args(["-h", &server.addr.ip().to_string(), "-p", &server.addr.port().to_string(), "--csv"]);
    command.args(["-c", &connections.to_string(), "-P", &pipeline.to_string(), "-n", &requests.to_string()]);
    command.args(test).stdin(Stdio::null());
    let before = server.process.cpu()?;
    let output = command.output()?;
    let cpu = server.process.cpu()? - before;
    let text = String::from_utf8_lossy(&output.stdout);
    // "test","rps","avg_latency_ms","min_latency_ms","p50","p95","p99","max"
    let row = text.lines().last().with_context(|| format!("no figures from redis-benchmark: {output:?}"))?;
    let figures: Vec<f64> = row.split(',').filter_map(|field| field.trim_matches('"').parse().ok()).collect();
    let [rate, _, _, p50, _, p99, _] = figures[..] else { anyhow::bail!("not seven figures: {text}") };
    let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
    Ok(Load { requests, time: Duration::from_secs_f64(requests as f64 / rate), cpu, p50: ms(p50), p99: ms(p99) })
}

/// `PING` on every connection, then the answers of all, and again: the same load for both sides.
fn lines(server: &Server, seconds: u32) -> Result<Load> {
    let connect = |addr: SocketAddr| -> Result<TcpStream> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    let mut connections = (0..CONNECTIONS).map(|_| connect(server.addr)).collect::<Result<Vec<_>>>()?;
    let (before, begun) = (server.process.cpu()?, Instant::now());
    let (mut requests, mut answer) = (0, [0; 64]);
    while begun.elapsed() < Duration::from_secs(seconds.into()) {
        for connection in &mut connections {
            connection.write_all(b"PING\r\n")?;
        }
        for connection in &mut connections {
            let bytes = connection.read(&mut answer)?;
            ensure!(answer[..bytes].ends_with(b"PONG\r\n") || answer[..bytes].ends_with(b"PONG\n"), "no PONG");
            requests += 1;
        }
    }
    Ok(Load { requests, time: begun.elapsed(), cpu: server.process.cpu()? - before, ..Load::default() })
}
