//! What was acknowledged is there: after kills at random moments, with a full disk, with a full
//! map (engine §5, §10; reliability §1). Power cuts need another machine; a kill shows that an
//! answer is never sent before its commit, and that opening needs no repair.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

use serde_json::{Value, json};
use standpipe_testkit::http::{Conn, Response, request};
use standpipe_testkit::{LIMIT, Launch};

use crate::script::get;
use crate::support::{Random, dev, dev_with, rev, setting, write};
use crate::watches::{Told, apply, canonical};

/// Writers of the kill loop. Each has a place of its own and knows exactly what must be there.
const WRITERS: usize = 8;

/// One write in the form of the event it causes, relative to the writer's place.
#[derive(Clone, Debug)]
struct Step {
    method: &'static str,
    /// Below the writer's place.
    path: String,
    value: Value,
}

/// A writer: what was acknowledged, and the write whose answer never came.
#[derive(Debug)]
struct Writer {
    place: String,
    random: Random,
    model: Value,
    unknown: Option<Step>,
    /// Counts this writer's writes, so that no two are alike.
    n: u64,
    highest_rev: u64,
}

impl Writer {
    /// Writes until the server is gone.
    fn run(&mut self, addr: SocketAddr, acknowledged: &SyncSender<()>) {
        let Ok(mut conn) = Conn::open(addr) else { return };
        loop {
            let step = self.step();
            let target = format!("{}{}.json", self.place, step.path);
            self.unknown = Some(step);
            let step = self.unknown.as_ref().expect("set above");
            let body = if step.method == "DELETE" { Vec::new() } else { step.value.to_string().into_bytes() };
            let Ok(got) = conn.request(step.method, &target, &[], &body) else { return };
            assert_eq!(got.status, 200, "{step:?}: {}", got.text());
            self.acknowledged(&got);
            // The test may have stopped counting.
            let _ = acknowledged.try_send(());
        }
    }

    fn step(&mut self) -> Step {
        self.n += 1;
        let n = self.n;
        let key = self.random.below(5);
        let (method, path, value) = match self.random.below(10) {
            0..=3 => {
                ("PUT", format!("/put/{key}"), json!({"n": n, "text": "x".repeat(self.random.below(3_000) as usize)}))
            }
            4..=6 => {
                ("PATCH", String::new(), json!({"one": n, "two": n, "deep/er/three": n, format!("put/{key}/n"): n}))
            }
            7..=8 => ("POST", "/list".into(), json!(n)),
            _ => ("DELETE", if key == 0 { "/list".into() } else { format!("/put/{key}") }, Value::Null),
        };
        Step { method, path, value }
    }

    fn acknowledged(&mut self, got: &Response) {
        let mut step = self.unknown.take().expect("it was sent");
        if step.method == "POST" {
            let name = got.json().unwrap()["name"].as_str().unwrap().to_owned();
            step.path = format!("/list/{name}");
        }
        self.model = after(&self.model, &step);
        let rev = rev(got);
        assert!(rev > self.highest_rev || step.method == "DELETE", "revision {rev} after {}", self.highest_rev);
        self.highest_rev = self.highest_rev.max(rev);
    }

    /// Compares with what is there after a crash, and goes on from that.
    fn survived(&mut self, there: &Value) {
        let there = canonical(there);
        if let Some(mut step) = self.unknown.take()
            && there != self.model
        {
            if step.method == "POST" {
                let new = names(&there["list"]).difference(&names(&self.model["list"])).cloned().collect::<Vec<_>>();
                assert_eq!(new.len(), 1, "{}: after {step:?}: {new:?}", self.place);
                step.path = format!("/list/{}", new[0]);
            }
            self.model = after(&self.model, &step);
        }
        assert_eq!(there, self.model, "{}: neither with nor without the last write", self.place);
        assert_eq!((&there["one"], &there["deep"]["er"]["three"]), (&there["two"], &there["two"]), "half a patch");
    }
}

fn names(list: &Value) -> HashSet<String> {
    list.as_object().map(|list| list.keys().cloned().collect()).unwrap_or_default()
}

fn after(tree: &Value, step: &Step) -> Value {
    let name = if step.method == "PATCH" { "patch" } else { "put" };
    let mut tree = tree.clone();
    let path = if step.path.is_empty() { "/".into() } else { step.path.clone() };
    apply(&mut tree, &Told { name: name.into(), rev: None, path, data: step.value.clone() });
    canonical(&tree)
}

/// `STANDPIPE_TEST_KILLS` rounds, seeded by `STANDPIPE_TEST_SEED`.
#[test]
fn every_acknowledged_write_survives_a_kill() {
    let mut random = Random::new();
    let rounds = setting("STANDPIPE_TEST_KILLS", 100);
    let mut server = dev();
    let mut writers: Vec<_> = (0..WRITERS)
        .map(|n| Writer {
            place: format!("/w{n}"),
            random: random.fork(),
            model: Value::Null,
            unknown: None,
            n: 0,
            highest_rev: 0,
        })
        .collect();
    let mut total = 0;
    for round in 0..rounds {
        let addr = server.addr();
        let (sender, acknowledged) = sync_channel(4_096);
        // From the very first write on to well within many groups.
        let magnitude = random.below(9);
        let kill_after = random.below(1 << magnitude);
        std::thread::scope(|scope| {
            for writer in &mut writers {
                let sender = &sender;
                scope.spawn(move || writer.run(addr, sender));
            }
            for _ in 0..kill_after {
                acknowledged.recv_timeout(LIMIT).unwrap();
                total += 1;
            }
            server.kill().unwrap();
        });
        server.restart().unwrap_or_else(|error| panic!("round {round}: {error:#}"));
        let there = get(server.addr(), "/");
        writers.iter_mut().for_each(|writer| writer.survived(&there[&writer.place[1..]]));
        let log = server.stderr().to_lowercase();
        assert!(!log.contains("repair") && !log.contains("recover"), "round {round}: {log}");
    }
    // Revisions go on above every one that was told.
    let highest = writers.iter().map(|writer| writer.highest_rev).max().unwrap();
    assert!(write(server.addr(), "PUT", "/end.json", "1") > highest);
    eprintln!("{total} acknowledged writes in {rounds} rounds");
}

/// Every acknowledged increment counts exactly once, over kills and concurrent writers.
#[test]
fn the_counter_counts_exactly() {
    const CLIENTS: u64 = 8;
    let mut random = Random::new();
    let mut server = dev();
    let (unknown, mut answers) = (AtomicU64::new(0), Vec::new());
    for _ in 0..5 {
        let addr = server.addr();
        let (sender, acknowledged) = sync_channel(4_096);
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| increments(addr, &sender, &unknown))).collect();
            for _ in 0..200 + random.below(200) {
                acknowledged.recv_timeout(LIMIT).unwrap();
            }
            server.kill().unwrap();
            clients.into_iter().for_each(|client| answers.extend(client.join().unwrap()));
        });
        server.restart().unwrap();
    }
    let count = answers.len() as u64;
    let total = get(server.addr(), "/n").as_u64().unwrap();
    assert!((count..=count + unknown.into_inner()).contains(&total), "{total} after {count} acknowledged");
    let distinct: HashSet<_> = answers.iter().collect();
    assert_eq!(distinct.len(), answers.len(), "two clients were told the same count");
    assert!(answers.iter().all(|answer| (1..=total).contains(answer)));
}

fn increments(addr: SocketAddr, acknowledged: &SyncSender<()>, unknown: &AtomicU64) -> Vec<u64> {
    let mut answers = Vec::new();
    let Ok(mut conn) = Conn::open(addr) else { return answers };
    loop {
        let Ok(got) = conn.request("PUT", "/n.json", &[], br#"{".sv":{"increment":1}}"#) else {
            unknown.fetch_add(1, Ordering::Relaxed);
            return answers;
        };
        assert_eq!(got.status, 200, "{}", got.text());
        answers.push(got.json().unwrap().as_u64().unwrap());
        let _ = acknowledged.try_send(());
    }
}

/// A small file system of its own, unmounted when dropped.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    /// `None`, with a word why, where this process may not mount.
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .output();
        match mount {
            Ok(output) if output.status.success() => Some(Self { dir }),
            Ok(output) => {
                eprintln!("left out: no tmpfs: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                eprintln!("left out: no mount: {error}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the server may still be ending.
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

/// Writes pieces to new places until one is refused; gives the refusal and how many went in.
fn fill(addr: SocketAddr, from: usize, piece: &str) -> (Response, usize) {
    for n in from..from + 10_000 {
        let got = request(addr, "PUT", &format!("/fill/{n}.json"), &[], piece.as_bytes()).unwrap();
        if got.status != 200 {
            return (got, n);
        }
    }
    panic!("it never gets full");
}

/// Everything acknowledged before is there, and nothing else.
fn holds(addr: SocketAddr, count: usize) {
    let there = get(addr, "/fill");
    let have = match &there {
        Value::Array(items) => items.len(),
        Value::Object(members) => members.len(),
        _ => 0,
    };
    assert_eq!(have, count);
}

#[test]
fn a_full_disk_refuses_writes_and_recovers() {
    let Some(disk) = Disk::new("12m") else { return };
    let mut server = Launch::dev().data(disk.path().join("data")).start().unwrap();
    let addr = server.addr();
    let filler = disk.path().join("filler");
    std::fs::write(&filler, vec![1; 6 << 20]).unwrap();
    let piece = format!("\"{}\"", "x".repeat(100_000));
    let (refusal, count) = fill(addr, 0, &piece);
    assert!(count > 5, "{count}");
    for _ in 0..20 {
        let again = request(addr, "PUT", &format!("/fill/{count}.json"), &[], piece.as_bytes()).unwrap();
        assert_eq!(again.status, 503, "{}", again.text());
    }
    assert_eq!(refusal.status, 503, "{}", refusal.text());
    assert!(refusal.text().contains("disk is full"), "{}", refusal.text());
    assert!(refusal.header("retry-after").is_some());
    holds(addr, count);
    // It comes back by itself.
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(request(addr, "PUT", &format!("/fill/{count}.json"), &[], piece.as_bytes()).unwrap().status, 200);
    holds(addr, count + 1);
    // Full again, killed and started while it is: reads go on.
    let (_, count) = fill(addr, count + 1, &piece);
    server.kill().unwrap();
    server.restart().unwrap();
    holds(server.addr(), count);
    assert_eq!(fill(server.addr(), count, &piece).0.status, 503);
    holds(server.addr(), count);
    // Removing helps too: what is removed is free for the next write.
    let got = request(server.addr(), "DELETE", "/fill.json", &[], b"").unwrap();
    assert!(matches!(got.status, 200 | 503), "{}", got.text());
}

/// A database that gets full soon, after it has grown once or twice.
const SMALL_MAP: &str = "[engine]\nmap_bytes_initial = 1048576\n[limits]\nmap_bytes_max = 4194304\n";

#[test]
fn a_full_map_refuses_writes_and_recovers() {
    let (mut server, config) = dev_with(SMALL_MAP);
    let addr = server.addr();
    let piece = format!("\"{}\"", "x".repeat(50_000));
    let (refusal, count) = fill(addr, 0, &piece);
    assert_eq!(refusal.status, 503, "{}", refusal.text());
    assert!(refusal.text().contains("map_bytes_max"), "{}", refusal.text());
    assert!(refusal.header("retry-after").is_some());
    holds(addr, count);
    server.kill().unwrap();
    server.restart().unwrap();
    let addr = server.addr();
    holds(addr, count);
    // Removing is possible when nothing else is, and makes room.
    assert_eq!(request(addr, "DELETE", "/fill.json", &[], b"").unwrap().status, 200);
    let (_, again) = fill(addr, 0, &piece);
    assert!(again > 0);
    holds(addr, again);
    drop(config);
}

#[test]
fn a_write_larger_than_what_fits_is_refused_whole() {
    let (server, _config) = dev_with(SMALL_MAP);
    let addr = server.addr();
    write(addr, "PUT", "/a.json", "1");
    let parts: serde_json::Map<_, _> = (0..100).map(|n| (format!("k{n}"), json!("x".repeat(100_000)))).collect();
    let got = request(addr, "PATCH", "/big.json", &[], Value::Object(parts).to_string().as_bytes()).unwrap();
    assert_eq!(got.status, 503, "{}", got.text());
    assert_eq!(get(addr, "/"), json!({"a": 1}));
    write(addr, "PUT", "/a.json", "2");
    assert_eq!(get(addr, "/"), json!({"a": 2}));
}
