//! Runs beside Debian's `websocketd`, which starts a child for each viewer, where ours has one child, stores what it
//! writes, and shows it to all. Lines for each second of the server's processor, to 1 and to 50 viewers; then what
//! `websocketd` has not got: a child without viewers, the way of a line to a hundred viewers, commands that do nothing,
//! the memory of idle viewers, and what output costs the tree.
//!
//! A server's own processor time and that of its children are told apart, on both sides alike.

use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use standpipe_testkit::http::{Conn, Response};
use standpipe_testkit::until;
use tokio::task::LocalSet;

use crate::Run;
use crate::figures::{Bar, figure, missing, ratio};
use crate::idle::Memory;
use crate::process::{Process, Server, Side, free_address, installed, standpipe};
use crate::viewers;

/// Bytes of a line, its end included.
const LINE: usize = 80;
/// Of the output, the share that each of many viewers gets from the peer: it produces it anew for each of them.
const PEER_SHARE: u64 = 16;
const VIEWERS: u32 = 50;
const LATENCY_VIEWERS: u32 = 100;
const LATENCY_RATE: u32 = 1_000;
const IDLE_VIEWERS: u32 = 2_000;
/// Commands that do nothing: how many, and how many are asked for at once.
const TRUES: usize = 1_500;
const LANES: usize = 16;
/// Between two looks at a run.
const A_LITTLE: Duration = Duration::from_millis(2);
/// How long a run may take.
const PATIENCE: Duration = Duration::from_secs(900);

/// Which figures.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Which {
    /// MB that the child writes; the figure is 1000
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(16..=10_000))]
    megabytes: u64,
    /// Only this part
    #[arg(long)]
    only: Option<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Lines,
    Alone,
    Latency,
    Start,
    Idle,
    Tree,
}

/// Prints every part.
///
/// # Errors
/// A side does not start, or loses a line.
pub(crate) fn run(run: &Run, which: Which) -> Result<()> {
    let bytes = which.megabytes * 1_000_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stage = Stage { run, bytes, runtime };
    let all = [Part::Lines, Part::Alone, Part::Latency, Part::Start, Part::Idle, Part::Tree];
    all.into_iter().filter(|part| which.only.is_none_or(|only| only == *part)).try_for_each(|part| match part {
        Part::Lines => lines(&stage),
        Part::Alone => alone(&stage),
        Part::Latency => latency(&stage),
        Part::Start => start(&stage),
        Part::Idle => idle(&stage),
        Part::Tree => tree(&stage),
    })
}

/// Prints `rate` lines a second for some seconds, each the time at which it was written.
///
/// # Errors
/// Nobody reads them.
pub(crate) fn tick(rate: u32, seconds: u32) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let (begun, step) = (Instant::now(), Duration::from_secs(1) / rate);
    for number in 0..rate * seconds {
        if let Some(left) = (step * number).checked_sub(begun.elapsed()) {
            pause(left);
        }
        writeln!(out, "{}", viewers::now_ns())?;
        out.flush()?;
    }
    Ok(())
}

fn pause(time: Duration) {
    let time = rustix::thread::Timespec { tv_sec: time.as_secs() as _, tv_nsec: time.subsec_nanos().into() };
    let _woken_early = rustix::thread::nanosleep(&time);
}

struct Stage<'a> {
    run: &'a Run,
    bytes: u64,
    runtime: tokio::runtime::Runtime,
}

/// Our side: the server, and the secret of its data folder, whose bearer may have any command run.
struct Ours {
    server: Server,
    bearer: String,
}

/// What one series cost.
#[derive(Clone, Copy, Debug)]
struct Cost {
    lines: u64,
    time: Duration,
    own: Duration,
    children: Duration,
}

impl Cost {
    /// Lines to a viewer for each second of the server's own processor time.
    fn per_cpu_second(&self) -> f64 {
        self.lines as f64 / self.own.as_secs_f64()
    }

    fn print(&self, side: &str, what: &str, round: u32) {
        println!(
            "{side:>24} {round:>5}: {what}: {:>6.2} M lines/CPU s  ({:.2} M lines, {:.1} s, {:.0} MB/s, CPU {:.2} s and children {:.2} s)",
            self.per_cpu_second() / 1e6,
            self.lines as f64 / 1e6,
            self.time.as_secs_f64(),
            self.lines as f64 * LINE as f64 / 1e6 / self.time.as_secs_f64(),
            self.own.as_secs_f64(),
            self.children.as_secs_f64(),
        );
    }
}

impl Stage<'_> {
    /// A server with a folder of its own.
    fn ours(&self, name: &str, side: Side) -> Result<Ours> {
        let mut command = standpipe(self.run);
        command.args(["dev", "--listen", "127.0.0.1:0", "--data"]).arg(self.run.path(name));
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        // No viewer is to miss what others have not read yet.
        command.env("STANDPIPE_LIMITS_STREAM_BYTES_MAX", (16_u64 << 30).to_string());
        let mut process = Process::start(&mut command, side)?;
        let addr = process.ready()?;
        let file = self.run.path(name).join("admin.token");
        let secret = std::fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?;
        let server = Server { name: "standpipe", process, addr };
        Ok(Ours { server, bearer: format!("Bearer {}", secret.trim()) })
    }

    /// A file of about so many bytes of numbered lines; how many they are.
    fn lines_file(&self, bytes: u64) -> Result<(PathBuf, u64)> {
        let count = bytes / LINE as u64;
        let path = self.run.path(&format!("lines-{count}"));
        if !path.exists() {
            let mut file = BufWriter::new(std::fs::File::create(&path)?);
            for number in 0..count {
                writeln!(
                    file,
                    "{number:012} {:<width$}",
                    "a line of output as programs write them",
                    width = LINE - 14
                )?;
            }
            file.flush()?;
        }
        Ok((path, count))
    }

    /// A pipe that a child waits at.
    fn gate(&self, name: &str) -> Result<PathBuf> {
        let path = self.run.path(name);
        if !path.exists() {
            ensure!(Command::new("mkfifo").arg(&path).status()?.success(), "no mkfifo");
        }
        Ok(path)
    }
}

impl Ours {
    fn conn(&self) -> Result<Conn> {
        Ok(Conn::open(self.server.addr)?.limit(PATIENCE))
    }

    fn ask(&self, conn: &mut Conn, method: &str, target: &str, body: &Value) -> Result<Response> {
        let headers = [("authorization", self.bearer.as_str()), ("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        conn.request(method, target, &headers, body.as_bytes())
    }

    /// Starts a command; the id of its run.
    fn start(&self, argv: &[&str]) -> Result<String> {
        let body = json!({ "name": "bench", "argv": argv });
        let got = self.ask(&mut self.conn()?, "POST", "/runs", &body)?;
        ensure!(got.status == 201, "POST /runs: {} {}", got.status, got.text());
        Ok(got.json()?["id"].as_str().context("no id")?.to_owned())
    }

    /// Starts `cat file`, which waits at the gate.
    fn start_cat(&self, gate: &Path, file: &Path) -> Result<String> {
        let script = format!("read go < '{}'; exec cat '{}'", gate.display(), file.display());
        self.start(&["sh", "-c", &script])
    }

    /// Waits until a run has ended well; when it did, as it says.
    fn ended(&self, id: &str) -> Result<Value> {
        let mut conn = self.conn()?;
        let begun = Instant::now();
        loop {
            let record = self.ask(&mut conn, "GET", &format!("/runs/{id}?wait=1"), &Value::Null)?.json()?;
            match record["state"].as_str() {
                Some("succeeded") => return Ok(record),
                Some("queued" | "starting" | "running") if begun.elapsed() < PATIENCE => {}
                _ => bail!("{id}: {record}"),
            }
            pause(A_LITTLE);
        }
    }

    fn remove(&self, id: &str) -> Result<()> {
        let got = self.ask(&mut self.conn()?, "DELETE", &format!("/runs/{id}"), &Value::Null)?;
        ensure!(got.status < 300, "DELETE /runs/{id}: {} {}", got.status, got.text());
        Ok(())
    }

    fn stop(&self, id: &str) -> Result<()> {
        self.ask(&mut self.conn()?, "POST", &format!("/runs/{id}/stop"), &json!({ "grace": "1s" }))?;
        Ok(())
    }

    /// The sum of a metric.
    fn metric(&self, name: &str) -> Result<f64> {
        let text = self.ask(&mut self.conn()?, "GET", "/metrics", &Value::Null)?.text();
        let lines = text.lines().filter(|line| line.starts_with(name));
        Ok(lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
    }
}

/// Lets a child that waits at the gate go on.
fn go(gate: &Path) -> Result<()> {
    // Opening it waits for the child to be there.
    Ok(std::fs::write(gate, "go\n")?)
}

/// Output to 1 and to many viewers, beside the peer.
fn lines(stage: &Stage<'_>) -> Result<()> {
    let mb = stage.bytes / 1_000_000;
    println!("\n{mb} MB of lines of {LINE} bytes from one child, to WebSocket viewers; ours are stored as well");
    let websocketd = installed("websocketd");
    if websocketd.is_none() {
        missing("websocketd", "apt-get install websocketd");
    }
    for count in [1, VIEWERS] {
        let what = format!("{count:>2} viewers");
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 1..=stage.run.pace.rounds {
            let cost = our_lines(stage, count, round)?;
            cost.print("standpipe", &what, round);
            ours.push(cost.per_cpu_second());
            if let Some(program) = &websocketd {
                let share = if count == 1 { 1 } else { PEER_SHARE };
                let cost = their_lines(stage, program, count, stage.bytes / share)?;
                cost.print("websocketd", &what, round);
                theirs.push(cost.per_cpu_second());
            }
        }
        if !theirs.is_empty() {
            let what = format!("lines per CPU second, {count} viewers, standpipe / websocketd");
            ratio(&what, &ours, &theirs, Bar::AtLeast(2.0));
        }
    }
    Ok(())
}

fn our_lines(stage: &Stage<'_>, count: u32, round: u32) -> Result<Cost> {
    // A folder of its own: a stream that is written into room that another one left costs something else.
    let ours = stage.ours(&format!("lines-{count}-{round}"), Side::Server)?;
    let (file, lines) = stage.lines_file(stage.bytes)?;
    let gate = stage.gate("gate")?;
    let id = ours.start_cat(&gate, &file)?;
    let target = format!("/runs/{id}/out");
    let process = &ours.server.process;
    let cost = LocalSet::new().block_on(&stage.runtime, async {
        let viewers = viewers::attach_all(ours.server.addr, &target, count).await?;
        let (own, begun) = (process.cpu()?, Instant::now());
        go(&gate)?;
        let counts = viewers::count(viewers).await?;
        let time = begun.elapsed();
        // The end is told by a message of its own.
        let short = counts.iter().filter(|count| **count < lines).count();
        ensure!(short == 0, "{short} viewers of {count} have seen less than {lines} lines: {counts:?}");
        let own = process.cpu()? - own;
        anyhow::Ok(Cost { lines: lines * u64::from(count), time, own, children: Duration::ZERO })
    })?;
    ours.ended(&id)?;
    Ok(Cost { children: process.children_cpu()?, ..cost })
}

fn their_lines(stage: &Stage<'_>, program: &Path, count: u32, bytes: u64) -> Result<Cost> {
    let (file, lines) = stage.lines_file(bytes)?;
    let addr = free_address()?;
    let mut command = Command::new(program);
    command.args(["--address=127.0.0.1", &format!("--port={}", addr.port()), "--loglevel=fatal", "cat"]);
    command.arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Server::at("websocketd", addr, command)?;
    LocalSet::new().block_on(&stage.runtime, async {
        let (own, children, begun) = (server.process.cpu()?, server.process.children_cpu()?, Instant::now());
        let viewers = viewers::attach_all(addr, "/", count).await?;
        let counts = viewers::count(viewers).await?;
        let time = begun.elapsed();
        ensure!(counts.iter().all(|count| *count == lines), "not {lines} lines: {counts:?}");
        let own = server.process.cpu()? - own;
        let children = server.process.children_cpu()? - children;
        Ok(Cost { lines: lines * u64::from(count), time, own, children })
    })
}

/// A child that nobody watches.
fn alone(stage: &Stage<'_>) -> Result<()> {
    println!("\n{} MB of lines of one child without viewers, stored", stage.bytes / 1_000_000);
    let (file, _) = stage.lines_file(stage.bytes)?;
    let gate = stage.gate("gate")?;
    let ours = stage.ours("alone", Side::Any)?;
    for round in 1..=stage.run.pace.rounds {
        let id = ours.start_cat(&gate, &file)?;
        let (cpu, begun) = (ours.server.process.cpu()?, Instant::now());
        go(&gate)?;
        ours.ended(&id)?;
        let time = begun.elapsed();
        let cpu = ours.server.process.cpu()? - cpu;
        println!("{:>24} {round:>5}: {:.2} s, CPU {:.2} s", "standpipe", time.as_secs_f64(), cpu.as_secs_f64());
        figure("a child's output", stage.bytes as f64 / 1e6 / time.as_secs_f64(), "MB/s", Bar::AtLeast(200.0));
        ours.remove(&id)?;
    }
    Ok(())
}

/// How long a line takes to its viewers.
fn latency(stage: &Stage<'_>) -> Result<()> {
    println!("\n{LATENCY_RATE} lines/s to {LATENCY_VIEWERS} viewers");
    let ours = stage.ours("latency", Side::Server)?;
    let own = std::env::current_exe()?;
    let own = own.to_str().context("the benchmark's path is UTF-8")?;
    for _ in 0..stage.run.pace.rounds {
        let (rate, seconds) = (LATENCY_RATE.to_string(), (stage.run.pace.seconds + 1).to_string());
        let id = ours.start(&[own, "tick", &rate, &seconds])?;
        let target = format!("/runs/{id}/out");
        let cpu = ours.server.process.cpu()?;
        let begun = Instant::now();
        let histogram = LocalSet::new().block_on(&stage.runtime, async {
            let viewers = viewers::attach_all(ours.server.addr, &target, LATENCY_VIEWERS).await?;
            viewers::latency(viewers, Duration::from_millis(500)).await
        })?;
        let cpu = ours.server.process.cpu()? - cpu;
        println!(
            "{:>24}: {} lines delivered, {:.0}% CPU, p50 {:.2} ms, most {:.2} ms",
            "standpipe",
            histogram.len(),
            cpu.as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0,
            histogram.value_at_quantile(0.5) as f64 / 1e3,
            histogram.max() as f64 / 1e3,
        );
        figure("line to viewer, p99", histogram.value_at_quantile(0.99) as f64 / 1e3, "ms", Bar::AtMost(20.0));
    }
    Ok(())
}

/// Commands that do nothing, started and finished.
fn start(stage: &Stage<'_>) -> Result<()> {
    println!("\n{TRUES} times `true`, {LANES} asked for at once, on all cores");
    for round in 1..=stage.run.pace.rounds {
        let ours = stage.ours(&format!("true-{round}"), Side::Any)?;
        ours.ended(&ours.start(&["true"])?)?;
        let (cpu, children, begun) = usage(&ours.server.process)?;
        std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(|| trues(&ours, TRUES / LANES))).collect();
            lanes.into_iter().try_for_each(|lane| lane.join().expect("a lane does not panic"))
        })?;
        let accepted = begun.elapsed();
        wait_for_all(&ours)?;
        let time = begun.elapsed();
        let (cpu, children) = (ours.server.process.cpu()? - cpu, ours.server.process.children_cpu()? - children);
        println!(
            "{:>24} {round:>5}: {:.2} s, accepted after {:.2} s, CPU {:.2} s and children {:.2} s",
            "standpipe",
            time.as_secs_f64(),
            accepted.as_secs_f64(),
            cpu.as_secs_f64(),
            children.as_secs_f64(),
        );
        let count = TRUES / LANES * LANES;
        figure("`true` started and finished", count as f64 / time.as_secs_f64(), "runs/s", Bar::AtLeast(500.0));
    }
    Ok(())
}

fn usage(process: &Process) -> Result<(Duration, Duration, Instant)> {
    Ok((process.cpu()?, process.children_cpu()?, Instant::now()))
}

/// Starts `count` of them, one after the other; waits where the queue is full.
fn trues(ours: &Ours, count: usize) -> Result<()> {
    let mut conn = ours.conn()?;
    let body = json!({ "argv": ["true"] });
    for _ in 0..count {
        loop {
            let got = ours.ask(&mut conn, "POST", "/runs", &body)?;
            match got.status {
                201 => break,
                429 | 503 => pause(A_LITTLE),
                status => bail!("POST /runs: {status} {}", got.text()),
            };
        }
    }
    Ok(())
}

/// Waits until nothing is at work and nothing waits.
fn wait_for_all(ours: &Ours) -> Result<()> {
    let mut conn = ours.conn()?;
    let none = |conn: &mut Conn| -> Result<bool> {
        let got = ours.ask(conn, "GET", "/runs?state=queued,starting,running,stopping&limit=1", &Value::Null)?;
        ensure!(got.status == 200, "GET /runs: {} {}", got.status, got.text());
        Ok(got.json()?["runs"].as_array().is_some_and(Vec::is_empty))
    };
    ensure!(until(|| none(&mut conn).is_ok_and(|none| none)), "runs have not ended");
    Ok(())
}

/// Memory of viewers of a run that says nothing.
fn idle(stage: &Stage<'_>) -> Result<()> {
    println!("\nmemory of {IDLE_VIEWERS} WebSocket viewers of a silent run");
    let ours = stage.ours("idle", Side::Server)?;
    let id = ours.start(&["sleep", "600"])?;
    let target = format!("/runs/{id}/out");
    let attach = |count| stage.runtime.block_on(viewers::attach_all(ours.server.addr, &target, count));
    // The first ones bring in what every server needs once.
    let warm = attach(10)?;
    let before = Memory::now_settled(&ours.server)?;
    let held = attach(IDLE_VIEWERS)?;
    let after = Memory::now_settled(&ours.server)?;
    let kib = (after.private_kib as f64 - before.private_kib as f64) / f64::from(IDLE_VIEWERS);
    figure("an idle viewer", kib, "KiB", Bar::AtMost(8.0));
    drop((warm, held));
    ours.stop(&id)
}

/// What the values beside a run's output take.
fn tree(stage: &Stage<'_>) -> Result<()> {
    println!("\nthe tree's file before and after {} MB of output", stage.bytes / 1_000_000);
    let ours = stage.ours("tree", Side::Any)?;
    let (file, _) = stage.lines_file(stage.bytes)?;
    let gate = stage.gate("gate")?;
    // The first run makes what all share.
    ours.ended(&ours.start(&["true"])?)?;
    let used = || ours.metric("standpipe_database_used_bytes");
    let id = ours.start_cat(&gate, &file)?;
    let before = used()?;
    go(&gate)?;
    ours.ended(&id)?;
    let growth = (used()? - before) / 1024.0;
    figure("the tree has grown by", growth, "KiB", Bar::AtMost(64.0));
    Ok(())
}
