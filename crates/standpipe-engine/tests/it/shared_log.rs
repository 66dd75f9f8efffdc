//! Several writers on one simulated log, with faults: nothing acknowledged is lost, nothing is
//! done twice, and all nodes end with the same tree.

use std::sync::Arc;
use std::time::{Duration, Instant};

use standpipe_engine::{Database, SimFaults, SimLog};
use tempfile::TempDir;

use crate::support::{config, get, merge_op, open_with, write};

/// Waits, with a limit, until `database` has reached `rev`.
pub(crate) fn wait_for(database: &Database, rev: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    runtime.block_on(database.at_least(rev, deadline)).unwrap();
}

fn run(seed: u64, faults: SimFaults) {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let log = SimLog::new(seed, faults);
    let nodes: Vec<_> = dirs.iter().map(|dir| open_with(&config(dir), Box::new(log.clone()))).collect();
    let counts: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            nodes.iter().enumerate().map(|(node, database)| scope.spawn(move || increment(database, node))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    log.heal();
    let last = write(&nodes[0], merge_op("/", r#"{"end":true}"#)).unwrap().rev;
    for node in &nodes {
        wait_for(node, last);
    }
    let states: Vec<_> = nodes.iter().map(|node| node.try_snapshot().unwrap().state().clone()).collect();
    assert_eq!(states[0], states[1], "seed {seed}");
    let total: u64 = get(&nodes[1], "/count").parse().unwrap();
    let acknowledged: u64 = counts.iter().map(|(done, _)| done).sum();
    let unknown: u64 = counts.iter().map(|(_, unknown)| unknown).sum();
    assert!((acknowledged..=acknowledged + unknown).contains(&total), "seed {seed}: {total} {counts:?}");
}

/// Increments a shared counter: how many were acknowledged, and how many have an unknown outcome.
fn increment(database: &Arc<Database>, node: usize) -> (u64, u64) {
    let (mut done, mut unknown) = (0, 0);
    for turn in 0..40 {
        let op = merge_op("/", &format!(r#"{{"count":{{".sv":{{"increment":1}}}},"last/{node}":{turn}}}"#));
        match write(database, op) {
            Ok(_) => done += 1,
            Err(error) if error.message().contains("unknown") => unknown += 1,
            Err(_) => {}
        }
    }
    (done, unknown)
}

#[test]
fn writers_on_one_log_agree() {
    run(7, SimFaults::default());
}

#[test]
fn writers_on_a_faulty_log_agree() {
    for seed in 1..12 {
        run(seed, SimFaults { unknown_done: 40, unknown_lost: 40, refused: 30, unreachable: 30 });
    }
}
