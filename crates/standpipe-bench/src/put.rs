//! Durable writes of small values to different keys from fifty connections, beside etcd and beside
//! the least that LMDB asks for: one writer, one synced commit for all that waits.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use heed::types::{Bytes, Str};
use heed::{Database, Env, EnvOpenOptions};
use standpipe_testkit::LIMIT;

use crate::Run;
use crate::figures::{Bar, Load, Turn, compare, each, missing, ratio};
use crate::process::{Server, Side, free_address, installed, pin};
use crate::wrk::{self, Script};

const CONNECTIONS: u32 = 50;
const KEYS: u64 = 100_000;

/// Prints both comparisons.
///
/// # Errors
/// A side does not start or a write fails.
pub(crate) fn run(run: &Run) -> Result<()> {
    println!("\ndurable PUT of small values to {KEYS} keys, {CONNECTIONS} connections");
    if !wrk::is_installed() {
        missing("wrk, which every figure needs", wrk::INSTALL);
        return Ok(());
    }
    let ours = Server::standpipe(run, "data")?;
    let etcd = etcd(&run.path("etcd"))?;
    let put = Script { path: "/", lua: include_str!("put_standpipe.lua") };
    let bare = run.path("bare");
    std::fs::create_dir(&bare)?;
    let bare = open(&bare)?;
    let mut sides = vec![
        wrk::turn(&ours, put, CONNECTIONS),
        Turn { name: "bare LMDB", bear: Box::new(|seconds| bare_lmdb(&bare, CONNECTIONS, seconds)) },
        Turn { name: "bare LMDB, one feeder", bear: Box::new(|seconds| bare_lmdb(&bare, 1, seconds)) },
    ];
    match &etcd {
        Some(etcd) => {
            let put = Script { path: "/", lua: include_str!("put_etcd.lua") };
            sides.push(wrk::turn(etcd, put, CONNECTIONS));
        }
        None => missing("etcd", "apt-get install etcd-server"),
    }
    let loads = compare(sides, run.pace)?;
    let bars = [("bare LMDB", 0.7), ("bare LMDB, one feeder", 0.7), ("etcd", 3.0)];
    for ((peer, bar), theirs) in bars.into_iter().zip(&loads[1..]) {
        let what = format!("writes/s, standpipe / {peer}");
        ratio(&what, &each(&loads[0], Load::rate), &each(theirs, Load::rate), Bar::AtLeast(bar));
    }
    Ok(())
}

/// One member, its data on the disk of the other sides; it syncs its log before it answers.
fn etcd(data: &Path) -> Result<Option<Server>> {
    let Some(program) = installed("etcd") else { return Ok(None) };
    let (client, peer) = (free_address()?, free_address()?);
    let mut command = Command::new(program);
    command.arg("--data-dir").arg(data).args(["--log-level", "error"]);
    command.args(["--listen-client-urls", "--advertise-client-urls"].map(|flag| format!("{flag}=http://{client}")));
    command.args(["--listen-peer-urls", "--initial-advertise-peer-urls"].map(|flag| format!("{flag}=http://{peer}")));
    command.arg(format!("--initial-cluster=default=http://{peer}")).stderr(Stdio::null());
    Server::at("etcd", client, command).map(Some)
}

/// A write that waits for its commit.
struct Write {
    key: String,
    value: String,
    committed: SyncSender<()>,
}

/// The bare loop: the writer on the server's core, its feeders on the other. [`CONNECTIONS`] writes
/// wait at any time: one of each of that many feeders, which a busy machine slows down more than
/// anything else here, or all of them of one feeder, as those of wrk are. Its processor time and
/// latency are not measured.
fn bare_lmdb(env: &Env, feeders: u32, seconds: u32) -> Result<Load> {
    let (number, done, start) = (AtomicU64::new(0), AtomicBool::new(false), Instant::now());
    let (sender, waiting) = sync_channel(CONNECTIONS as usize);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(env, waiting));
        for _ in 0..feeders {
            let sender = sender.clone();
            scope.spawn(|| feed(sender, CONNECTIONS / feeders, &number, &done));
        }
        drop(sender);
        std::thread::park_timeout(Duration::from_secs(seconds.into()));
        done.store(true, Ordering::Relaxed);
        writer.join().map_err(|_| anyhow!("the writer panicked"))?
    })?;
    Ok(Load { requests: number.into_inner(), time: start.elapsed(), ..Load::default() })
}

#[expect(unsafe_code, reason = "LMDB maps a file")]
fn open(path: &Path) -> Result<Env> {
    // SAFETY: the folder was made for this run; nobody else opens or changes the file.
    Ok(unsafe { EnvOpenOptions::new().map_size(4 << 30).open(path)? })
}

/// Commits what waits, synced, until the feeders are gone.
fn write(env: &Env, waiting: Receiver<Write>) -> Result<()> {
    pin(Side::Server)?;
    let mut txn = env.write_txn()?;
    let values: Database<Str, Bytes> = env.create_database(&mut txn, None)?;
    txn.commit()?;
    while let Ok(first) = waiting.recv() {
        let mut txn = env.write_txn()?;
        let mut group = vec![first];
        group.extend(waiting.try_iter());
        for write in &group {
            values.put(&mut txn, &write.key, write.value.as_bytes())?;
        }
        txn.commit()?;
        for write in group {
            // It fails where the feeder has left: the run is done.
            let _ = write.committed.send(());
        }
    }
    Ok(())
}

/// Keeps `waiting` writes in the queue until the run is done or the writer has failed.
fn feed(sender: SyncSender<Write>, waiting: u32, number: &AtomicU64, done: &AtomicBool) {
    let (committed, commits) = sync_channel(CONNECTIONS as usize);
    let send = || {
        let n = number.fetch_add(1, Ordering::Relaxed);
        let (key, value) = (format!("bench/put/k{:06}", n % KEYS), n.to_string());
        sender.send(Write { key, value, committed: committed.clone() }).is_ok()
    };
    let mut go_on = (0..waiting).all(|_| send());
    while go_on && !done.load(Ordering::Relaxed) {
        go_on = commits.recv_timeout(LIMIT).is_ok() && send();
    }
}
