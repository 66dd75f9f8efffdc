//! Leases: what is tied to one goes when it goes, whatever happens to whoever held it.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};
use standpipe_engine::{
    Committed, Compute, Database, EngineConfig, Error, ErrorKind, Identity, Intent, Lease, LocalLog, Op, SimFaults,
    SimLog, WatchRead, verify,
};
use standpipe_tree::{Format, Leaf, OwnedLeaf, ParseLimits, Rows, parse_value};
use tempfile::TempDir;

use crate::naive::Node;
use crate::support::{NOW_MS, config, get, get_as, location, merge_op, open, open_with, path, set, set_op, write};

fn far() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn leased(database: &Database, lease: &Lease, op: Op) -> Result<Committed, Error> {
    let intent = Intent { lease: Some(lease.clone()), ..Intent::new(op, Identity::Anonymous) };
    database.write_blocking(intent, far())
}

fn on_close(database: &Database, lease: &Lease, at: &str, json: &str) -> Result<Committed, Error> {
    let Op::Set { location, rows } = set_op(at, json) else { unreachable!() };
    write(database, Op::Arm { lease: lease.clone(), location, rows })
}

fn forget(database: &Database, lease: &Lease, at: &str) {
    write(database, Op::Disarm { lease: lease.clone(), path: path(at) }).unwrap();
}

/// Waits until what was handed to the writer is done.
fn settle(database: &Database) {
    write(database, Op::Compute(Compute::new(0, |_| Ok(None)))).unwrap();
}

fn sound(database: &Database) {
    database.try_snapshot().unwrap().verify().unwrap();
}

#[test]
fn what_is_tied_goes_with_the_last_handle_in_one_commit() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    set(&database, "/room/topic", "1");
    let lease = database.lease();
    let committed = leased(&database, &lease, set_op("/room/users/ann", r#"{"name":"Ann"}"#)).unwrap();
    assert_eq!(committed.rev, database.rev());
    assert_eq!(database.stats().commits, 2, "a write and its arming are one commit");
    leased(&database, &lease, merge_op("/room", r#"{"a":1,"b/c":{".sv":"timestamp"},"topic":null}"#)).unwrap();
    let rows = Rows::from_leaf(Leaf::Int(7));
    let pushed = leased(&database, &lease, Op::Push { base: path("/list"), rows }).unwrap();
    assert_eq!(get(&database, &format!("/list/{}", pushed.pushed.unwrap())), "7");
    let base = path("/over");
    let rows = parse_value(br#"{"deep":{"er":1}}"#, &ParseLimits::below(&base)).unwrap();
    leased(&database, &lease, Op::Overlay { base, rows }).unwrap();
    leased(&database, &lease, set_op("/room/users/.priority", "4")).unwrap();
    set(&database, "/room/users/bob", "true");
    set(&database, "/over/kept", "1");
    // Whoever wrote it since: it is removed.
    set(&database, "/room/users/ann", r#""somebody else""#);
    sound(&database);
    let other = lease.clone();
    drop(lease);
    settle(&database);
    assert_eq!(get(&database, "/room/users/ann"), r#""somebody else""#, "a handle is left");
    let mut watch = database.watch(&path("/"));
    let commits = database.stats().commits;
    drop(other);
    settle(&database);
    assert_eq!(database.stats().commits, commits + 1);
    assert_eq!(get_as(&database, "/", Format::Export), r#"{"over":{"kept":1},"room":{"users":{"bob":true}}}"#);
    let WatchRead::Events(events) = watch.read(100) else { panic!("it fits") };
    assert_eq!(events.len(), 6);
    sound(&database);
}

#[test]
fn values_are_written_ancestors_first_with_server_values_of_that_time() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    let standpipe_engine::Clock::Manual(clock) = &config.clock else { unreachable!() };
    let database = open_with(&config, Box::new(LocalLog));
    let lease = database.lease();
    on_close(&database, &lease, "/u/seen", r#"{".sv":"timestamp"}"#).unwrap();
    on_close(&database, &lease, "/n", r#"{".sv":{"increment":5}}"#).unwrap();
    on_close(&database, &lease, "/t/below", "1").unwrap();
    on_close(&database, &lease, "/t", r#"{"x":1}"#).unwrap(); // in place of what was armed below
    on_close(&database, &lease, "/t/y", "2").unwrap();
    on_close(&database, &lease, "/t/y/.priority", "9").unwrap();
    set(&database, "/n", "10");
    clock.store(NOW_MS + 5_000, std::sync::atomic::Ordering::Relaxed);
    drop(lease);
    settle(&database);
    let expected =
        format!(r#"{{"n":15,"t":{{"x":1,"y":{{".value":2,".priority":9}}}},"u":{{"seen":{}}}}}"#, NOW_MS + 5_000);
    assert_eq!(get_as(&database, "/", Format::Export), expected);
}

#[test]
fn a_location_is_armed_once_and_forgotten_at_and_below() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    let lease = database.lease();
    for turn in 0..3 {
        leased(&database, &lease, set_op("/a/b", &turn.to_string())).unwrap();
    }
    for at in ["/a/c/d", "/a/cc", "/e"] {
        leased(&database, &lease, set_op(at, "1")).unwrap();
    }
    forget(&database, &lease, "/a/c");
    forget(&database, &lease, "/e/deeper"); // the removal of /e falls apart into those of its children: none
    drop(lease);
    settle(&database);
    assert_eq!(get(&database, "/"), r#"{"a":{"c":{"d":1}},"e":1}"#);
    let rev = database.rev();
    drop(database.lease());
    settle(&database);
    assert_eq!(database.rev(), rev, "a lease without writes is nothing to the store");
}

#[test]
fn two_leases_may_hold_one_path_and_the_first_to_go_takes_it() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    let (one, two) = (database.lease(), database.lease());
    leased(&database, &one, set_op("/p", "1")).unwrap();
    leased(&database, &two, set_op("/p", "2")).unwrap();
    drop(one);
    settle(&database);
    assert_eq!(get(&database, "/p"), "null");
    set(&database, "/p", "3");
    drop(two);
    settle(&database);
    assert_eq!(get(&database, "/p"), "null");
}

#[test]
fn leases_of_an_earlier_boot_are_released_before_anybody_reads() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    let leases: Vec<_> = (0..40).map(|_| database.lease()).collect();
    for (at, lease) in leases.iter().enumerate() {
        leased(&database, lease, set_op(&format!("/online/{at}"), "true")).unwrap();
    }
    on_close(&database, &leases[0], "/last", r#"{".sv":{"increment":1}}"#).unwrap();
    // The database stops before its leases are dropped, as a server does that dies.
    database.close();
    drop((leases, database));
    verify(dir.path(), "default").unwrap();
    let small = EngineConfig { group_intents_max: 7, ..config(&dir) };
    let database = open_with(&small, Box::new(LocalLog));
    assert_eq!(get(&database, "/"), r#"{"last":1}"#);
    assert_eq!(database.stats().commits, 6);
    drop(database);
    assert_eq!(get(&open(&dir), "/"), r#"{"last":1}"#, "once");
}

#[test]
fn a_backup_holds_leases_and_releases_them_where_it_is_restored() {
    let (dir, copy) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let database = open(&dir);
    let lease = database.lease();
    leased(&database, &lease, set_op("/here", "1")).unwrap();
    let file = copy.path().join("backup");
    database.backup(&mut std::fs::File::create(&file).unwrap()).unwrap();
    let verified = standpipe_engine::restore(&file, &copy.path().join("data"), "default").unwrap();
    assert_eq!(verified, database.try_snapshot().unwrap().verify().unwrap());
    let config = EngineConfig { dir: copy.path().join("data"), ..config(&dir) };
    assert_eq!(get(&open_with(&config, Box::new(LocalLog)), "/"), "null");
    assert_eq!(get(&database, "/here"), "1");
}

#[test]
fn a_write_that_waits_is_not_done_after_the_release() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    for _ in 0..50 {
        let lease = database.lease();
        let intent = Intent { lease: Some(lease.clone()), ..Intent::new(set_op("/p", "1"), Identity::Anonymous) };
        let answer = database.submit(intent, far()).unwrap();
        drop((lease, answer));
        // The first may be of the same group; the release comes after that.
        settle(&database);
        settle(&database);
        assert_eq!(get(&database, "/p"), "null");
    }
}

#[test]
fn closing_waits_for_the_release_of_what_it_still_writes() {
    for _ in 0..30 {
        let dir = TempDir::new().unwrap();
        let database = open(&dir);
        let lease = database.lease();
        let intent = Intent { lease: Some(lease.clone()), ..Intent::new(set_op("/p", "1"), Identity::Anonymous) };
        let answer = database.submit(intent, far()).unwrap();
        drop(lease);
        database.close();
        answer.blocking_recv().unwrap().unwrap();
        assert_eq!(get(&database, "/p"), "null");
    }
}

#[test]
fn a_release_is_not_refused_by_a_full_queue() {
    let dir = TempDir::new().unwrap();
    let config = EngineConfig { writer_queue_intents_max: 1, ..config(&dir) };
    let database = open_with(&config, Box::new(LocalLog));
    let lease = database.lease();
    leased(&database, &lease, set_op("/p", "1")).unwrap();
    // The writer is busy, and the queue behind it full.
    let (go, wait) = std::sync::mpsc::sync_channel::<()>(1);
    let (started, begun) = std::sync::mpsc::sync_channel::<()>(1);
    let wait = parking_lot::Mutex::new(wait);
    let busy = Op::Compute(Compute::new(0, move |_| {
        let _listens = started.send(());
        let _hung_up = wait.lock().recv();
        Ok(None)
    }));
    let busy = database.submit(Intent::new(busy, Identity::Anonymous), far()).unwrap();
    begun.recv().unwrap();
    let waits = database.submit(Intent::new(set_op("/q", "1"), Identity::Anonymous), far()).unwrap();
    assert_eq!(write(&database, set_op("/r", "1")).unwrap_err().kind(), ErrorKind::Overloaded);
    drop(lease);
    drop(go);
    busy.blocking_recv().unwrap().unwrap();
    waits.blocking_recv().unwrap().unwrap();
    while database.stats().queue_intents > 0 {
        std::thread::yield_now();
    }
    settle(&database);
    assert_eq!(get(&database, "/"), r#"{"q":1}"#);
}

#[test]
fn a_lease_is_held_over_a_growing_map_and_released_from_a_full_one() {
    let dir = TempDir::new().unwrap();
    let config =
        EngineConfig { map_bytes_initial: 256 << 10, map_bytes_max: 8 << 20, changes_bytes_max: 1, ..config(&dir) };
    let database = open_with(&config, Box::new(LocalLog));
    let lease = database.lease();
    leased(&database, &lease, set_op("/a", &json!("x".repeat(1 << 20)).to_string())).unwrap();
    leased(&database, &lease, set_op("/b", "1")).unwrap();
    let text = json!("y".repeat(64 << 10)).to_string();
    let full = (0..).find_map(|filler| write(&database, set_op(&format!("/f/{filler}"), &text)).err()).unwrap();
    assert!(full.message().contains("map_bytes_max"), "{full}");
    drop(lease);
    settle(&database);
    assert_eq!((get(&database, "/a"), get(&database, "/b")), ("null".into(), "null".into()));
    sound(&database);
}

#[test]
fn a_lease_arms_only_so_much() {
    let dir = TempDir::new().unwrap();
    let config = EngineConfig { lease_locations_max: 2, lease_bytes_max: 4_000, ..config(&dir) };
    let database = open_with(&config, Box::new(LocalLog));
    let lease = database.lease();
    leased(&database, &lease, merge_op("/", r#"{"a":1,"b":1}"#)).unwrap();
    leased(&database, &lease, set_op("/a", "2")).unwrap();
    let refused = leased(&database, &lease, set_op("/c", "1")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TooLarge);
    assert!(refused.message().contains("lease_locations_max"), "{refused}");
    let refused = on_close(&database, &lease, "/a", &json!("x".repeat(4_000)).to_string()).unwrap_err();
    assert!(refused.message().contains("lease_bytes_max"), "{refused}");
    forget(&database, &lease, "/b");
    leased(&database, &lease, set_op("/c", "1")).unwrap();
    let other = database.lease();
    leased(&database, &other, set_op("/d", "1")).unwrap();
    drop(lease);
    settle(&database);
    assert_eq!(get(&database, "/"), r#"{"b":1,"d":1}"#);
}

#[test]
fn computed_writes_and_batches_are_tied_too() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    let lease = database.lease();
    let add = Op::Compute(Compute::new(0, |view| {
        let old = match view.leaf(&path("/n"))? {
            Some(OwnedLeaf::Int(old)) => old,
            _ => 0,
        };
        Ok(Some(Op::Set { location: location("/n"), rows: Rows::from_leaf(Leaf::Int(old + 1)) }))
    }));
    let arm = Op::Arm { lease: lease.clone(), location: location("/gone"), rows: Rows::from_leaf(Leaf::Bool(true)) };
    let steps = vec![set_op("/m", "1"), add.clone(), add, arm];
    let committed = leased(&database, &lease, Op::Batch(steps)).unwrap();
    assert!(committed.steps.iter().all(Result::is_ok));
    assert_eq!(get(&database, "/"), r#"{"m":1,"n":2}"#);
    drop(lease);
    drop(committed);
    settle(&database);
    settle(&database);
    assert_eq!(get(&database, "/"), r#"{"gone":true}"#);
    let other = TempDir::new().unwrap();
    let stranger = open(&other).lease();
    assert_eq!(leased(&database, &stranger, set_op("/x", "1")).unwrap_err().kind(), ErrorKind::Internal);
}

#[test]
fn nodes_on_one_log_know_each_others_leases_and_release_their_own() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let log = SimLog::new(3, SimFaults { unknown_done: 40, unknown_lost: 40, refused: 60, unreachable: 30 });
    let first = open_with(&config(&one), Box::new(log.clone()));
    while write(&first, set_op("/first", "1")).is_err() {}
    let lease = first.lease();
    while leased(&first, &lease, set_op("/here", "1")).is_err() {}
    let second = open_with(&config(&two), Box::new(log.clone()));
    crate::shared_log::wait_for(&second, first.rev());
    assert_eq!(get(&second, "/here"), "1", "another node's lease is not an earlier boot's");
    let before = first.rev();
    drop(lease);
    // However often the log refuses it.
    crate::shared_log::wait_for(&second, before + 2);
    assert_eq!(get(&second, "/"), r#"{"first":1}"#);
    log.heal();
    let states = [&first, &second].map(|database| {
        crate::shared_log::wait_for(database, before + 2);
        sound(database);
        database.try_snapshot().unwrap().state().clone()
    });
    assert_eq!(states[0], states[1]);
}

const CHILD: &str = "STANDPIPE_TEST_LEASE_DIR";

/// Holds a lease, and ends at a fault point. Nothing happens without the variable.
#[test]
fn child_that_dies() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let config = EngineConfig { access: standpipe_engine::Access::Open, ..EngineConfig::new(dir) };
    let database = open_with(&config, Box::new(LocalLog));
    let lease = database.lease();
    let _the_process_ends = leased(&database, &lease, set_op("/here", "1"));
    panic!("the fault point did not end the process");
}

#[test]
fn a_death_around_the_commit_leaves_no_leased_node() {
    for (point, commits) in [("before_commit", 0), ("after_commit", 1)] {
        let dir = TempDir::new().unwrap();
        set(&open(&dir), "/kept", "0");
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "leases::child_that_dies", "--nocapture"])
            .env(CHILD, dir.path())
            .env("STANDPIPE_FAULT", point)
            .output()
            .unwrap();
        assert!(!child.status.success());
        let database = open(&dir);
        assert_eq!(get(&database, "/"), r#"{"kept":0}"#, "{point}");
        assert_eq!(database.stats().commits, commits, "{point}");
        sound(&database);
    }
}

/// What a lease has armed, as the specification tells it.
type Pending = BTreeMap<Vec<&'static str>, Value>;

#[derive(Clone, Debug)]
enum Step {
    Set(Vec<&'static str>, Value),
    Leased(usize, Vec<&'static str>, Value),
    OnClose(usize, Vec<&'static str>, Value),
    Forget(usize, Vec<&'static str>),
    Drop(usize),
    /// The server dies and starts again.
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let path = || proptest::collection::vec(prop::sample::select(&["a", "b", "c"][..]), 0..4);
    let value = || {
        prop_oneof![
            2 => Just(Value::Null),
            3 => (0i64..4).prop_map(Value::from),
            2 => (0i64..4).prop_map(|n| json!({"a": n})),
            1 => (0i64..4).prop_map(|n| json!({"b": {"c": n}, "c": 1})),
        ]
    };
    prop_oneof![
        3 => (path(), value()).prop_map(|(path, value)| Step::Set(path, value)),
        3 => (0..2usize, path(), value()).prop_map(|(lease, path, value)| Step::Leased(lease, path, value)),
        4 => (0..2usize, path(), value()).prop_map(|(lease, path, value)| Step::OnClose(lease, path, value)),
        2 => (0..2usize, path()).prop_map(|(lease, path)| Step::Forget(lease, path)),
        2 => (0..2usize).prop_map(Step::Drop),
        1 => Just(Step::Reopen),
    ]
}

/// The nearest armed path strictly above.
fn above(pending: &Pending, at: &[&'static str]) -> Option<Vec<&'static str>> {
    (0..at.len()).rev().map(|len| at[..len].to_vec()).find(|path| pending.contains_key(path))
}

fn arm(pending: &mut Pending, at: &[&'static str], value: Value) {
    pending.retain(|path, _| !path.starts_with(at));
    match above(pending, at) {
        None => drop(pending.insert(at.to_vec(), value)),
        Some(above) => {
            let mut node = Node::parse(&pending[&above]);
            node.set(&at[above.len()..], Node::parse(&value));
            pending.insert(above, node.export());
        }
    }
}

fn disarm(pending: &mut Pending, at: &[&'static str]) {
    if let Some(above) = above(pending, at) {
        let node = Node::parse(&pending[&above]);
        if node.leaf.is_some() {
            return;
        }
        pending.remove(&above);
        for (key, child) in node.children {
            let key = ["a", "b", "c"].into_iter().find(|known| *known == key).unwrap();
            pending.insert([&above[..], &[key]].concat(), child.export());
        }
        return disarm(pending, at);
    }
    pending.retain(|armed, _| !armed.starts_with(at));
}

fn release(tree: &mut Node, pending: &mut Pending) {
    for (path, value) in std::mem::take(pending) {
        tree.set(&path, Node::parse(&value));
    }
}

fn exported(database: &Database) -> Value {
    serde_json::from_str(&get_as(database, "/", Format::Export)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn random_leases_make_the_naive_tree(steps in proptest::collection::vec(step(), 1..25)) {
        let dir = TempDir::new().unwrap();
        let mut database = open(&dir);
        let mut leases = vec![database.lease(), database.lease()];
        let mut pending = [Pending::new(), Pending::new()];
        // The leases in the order in which they were made, which is that of their release after a death.
        let mut made = vec![0, 1];
        let mut tree = Node::default();
        for step in &steps {
            match step {
                Step::Set(path, value) => {
                    set(&database, &path.join("/"), &value.to_string());
                    tree.set(path, Node::parse(value));
                }
                Step::Leased(at, path, value) => {
                    leased(&database, &leases[*at], set_op(&path.join("/"), &value.to_string())).unwrap();
                    if !value.is_null() {
                        arm(&mut pending[*at], path, Value::Null);
                    }
                    tree.set(path, Node::parse(value));
                }
                Step::OnClose(at, path, value) => {
                    on_close(&database, &leases[*at], &path.join("/"), &value.to_string()).unwrap();
                    arm(&mut pending[*at], path, value.clone());
                }
                Step::Forget(at, path) => {
                    forget(&database, &leases[*at], &path.join("/"));
                    disarm(&mut pending[*at], path);
                }
                Step::Drop(at) => {
                    leases[*at] = database.lease();
                    // A write of the lease may still be in the writer's hands.
                    settle(&database);
                    settle(&database);
                    release(&mut tree, &mut pending[*at]);
                    made.retain(|made| made != at);
                    made.push(*at);
                }
                Step::Reopen => {
                    database.close();
                    leases.clear();
                    drop(database);
                    made.iter().for_each(|at| release(&mut tree, &mut pending[*at]));
                    made = vec![0, 1];
                    database = open(&dir);
                    leases = vec![database.lease(), database.lease()];
                }
            }
            prop_assert_eq!(exported(&database), tree.export(), "after {:?}", step);
            sound(&database);
        }
    }
}

fn user(uid: &str) -> Identity {
    Identity::user(json!({ "uid": uid }))
}

#[test]
fn what_is_forgotten_below_an_armed_value_lets_it_fall_apart() {
    // The recorded example of firebase-rtdb §12, and what follows from it.
    for (armed, cancelled, expected) in [
        (
            &[("/p", r#"{"parent":true,"child":"pc"}"#)][..],
            "/p/child",
            r#"{"original":true,"child":"oc","parent":true}"#,
        ),
        (&[("/p", r#"{"a":{"b":1,"c":2},"d":3}"#)], "/p/a/b", r#"{"a":{"c":2},"original":true,"child":"oc","d":3}"#),
        (&[("/p", r#"{"a":1}"#)], "/p/a/deeper", r#"{"a":1,"original":true,"child":"oc"}"#),
        (&[("/p", r#"{"a":1}"#)], "/p/other", r#"{"a":1,"original":true,"child":"oc"}"#),
        (&[("/p", "7")], "/p/child", "7"),
        (&[("/p", "null")], "/p/child", r#"{"original":true,"child":"oc"}"#),
        (&[("/p", r#"{"a":1}"#), ("/p/child/x", "2")], "/nothing", r#"{"a":1,"child":{"x":2}}"#),
        (&[("/p", r#"{"a":1}"#), ("/p/a", "null")], "/nothing", "null"),
        (&[("/p", r#"{"a":1}"#), ("/p/a/.priority", "5")], "/nothing", r#"{"a":{".value":1,".priority":5}}"#),
    ] {
        let dir = TempDir::new().unwrap();
        let database = open(&dir);
        set(&database, "/p", r#"{"original":true,"child":"oc"}"#);
        let lease = database.lease();
        for (at, json) in armed {
            on_close(&database, &lease, at, json).unwrap();
        }
        forget(&database, &lease, cancelled);
        drop(lease);
        settle(&database);
        let got: Value = serde_json::from_str(&get_as(&database, "/p", Format::Export)).unwrap();
        assert_eq!(got, serde_json::from_str::<Value>(expected).unwrap(), "{armed:?} {cancelled}");
        sound(&database);
    }
}

#[test]
fn rules_judge_what_is_armed_at_the_arming_and_at_the_release() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    let rules = r#"{"rules": {"$uid": {".write": "auth != null && auth.uid == $uid"}, "shared": {".write": "auth != null && !root.child('locked').exists()"}}}"#;
    crate::support::write_as(&database, Op::Rules(rules.into()), None, Identity::Admin).unwrap();
    let as_user = |uid: &str, op: Op| crate::support::write_as(&database, op, None, user(uid));
    let armed = |lease: &Lease, at: &str, json: &str| {
        let Op::Set { location, rows } = set_op(at, json) else { unreachable!() };
        Op::Arm { lease: lease.clone(), location, rows }
    };
    let lease = database.lease();
    as_user("ann", armed(&lease, "/ann", "1")).unwrap();
    assert_eq!(as_user("ann", armed(&lease, "/bob", "1")).unwrap_err().kind(), ErrorKind::Denied);
    // All or none of several.
    let Op::Merge { base, writes } = merge_op("/", r#"{"ann/x":1,"bob/x":1}"#) else { unreachable!() };
    let several = Op::ArmMerge { lease: lease.clone(), base, writes };
    assert_eq!(as_user("ann", several).unwrap_err().kind(), ErrorKind::Denied);
    as_user("ann", armed(&lease, "/shared/a", "1")).unwrap();
    // Meanwhile what was allowed is not any more: that write is left out, the others are made.
    crate::support::write_as(&database, set_op("/locked", "true"), None, Identity::Admin).unwrap();
    drop(lease);
    settle(&database);
    assert_eq!(get(&database, "/"), r#"{"ann":1,"locked":true}"#);

    // Who the connection is when it ends is who writes.
    let lease = database.lease();
    as_user("ann", armed(&lease, "/ann", "2")).unwrap();
    as_user("bob", Op::Identify { lease: lease.clone() }).unwrap();
    sound(&database);
    drop(lease);
    settle(&database);
    assert_eq!(get(&database, "/ann"), "1", "bob may not write there");
}
