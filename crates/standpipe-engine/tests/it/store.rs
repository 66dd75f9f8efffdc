//! The store through the engine: conditions, server values, limits, growth, the folder's lock,
//! backup and verification.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use standpipe_engine::{
    Access, Clock, Condition, Database, Databases, Durability, EngineConfig, ErrorKind, Identity, Intent, LocalLog, Op,
    verify,
};
use standpipe_tree::{NULL_ETAG, Rows};
use tempfile::TempDir;

use crate::support::{NOW_MS, config, engine, get, get_as, merge, open, open_with, path, set, set_op, write, write_as};

#[test]
fn acknowledged_writes_survive_closing() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    assert_eq!(set(&database, "/a/b", r#"{"c":[1,2],"d":"é"}"#), 1);
    assert_eq!(merge(&database, "/a", r#"{"b/c/0":9,"e":true}"#), 2);
    drop(database);
    let database = open(&dir);
    assert_eq!(database.rev(), 2);
    assert_eq!(get(&database, "/"), r#"{"a":{"b":{"c":[9,2],"d":"é"},"e":true}}"#);
    assert_eq!(database.try_snapshot().unwrap().verify().unwrap().rows, 4);
}

#[test]
fn interval_durability_syncs_and_keeps_everything_over_a_clean_close() {
    let dir = TempDir::new().unwrap();
    let config = EngineConfig { durability: Durability::Interval(Duration::from_millis(5)), ..config(&dir) };
    let database = open_with(&config, Box::new(LocalLog));
    for turn in 0..50 {
        set(&database, "/n", &turn.to_string());
    }
    drop(database);
    assert_eq!(get(&open(&dir), "/n"), "49");
}

#[test]
fn writes_below_a_leaf_turn_it_into_a_node_and_keep_its_priority() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    set(&database, "/a", r#"{".value":1,".priority":5}"#);
    set(&database, "/a/b", "2");
    assert_eq!(get_as(&database, "/", standpipe_tree::Format::Export), r#"{"a":{".priority":5,"b":2}}"#);
    set(&database, "/a/b", "null");
    assert_eq!(get_as(&database, "/", standpipe_tree::Format::Export), "null");
    // A neighbour that shares a beginning is no ancestor.
    set(&database, "/a", "1");
    set(&database, "/ab", "2");
    set(&database, "/a!", "3");
    assert_eq!(get(&database, "/"), r#"{"a":1,"a!":3,"ab":2}"#);
}

#[test]
fn server_values_are_resolved_once_and_told_in_the_answer() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    set(&database, "/n", "40");
    let committed =
        write(&database, crate::support::merge_op("/", r#"{"n":{".sv":{"increment":2}},"t":{".sv":"timestamp"}}"#))
            .unwrap();
    assert_eq!(get(&database, "/"), format!(r#"{{"n":42,"t":{NOW_MS}}}"#));
    assert!(committed.change.unwrap().writes.iter().all(|write| !write.rows.has_server_values()));
}

#[test]
fn record_times_never_go_backwards() {
    let dir = TempDir::new().unwrap();
    let config = config(&dir);
    let Clock::Manual(clock) = &config.clock else { unreachable!() };
    let database = open_with(&config, Box::new(LocalLog));
    set(&database, "/t", r#"{".sv":"timestamp"}"#);
    clock.store(5, Ordering::Relaxed);
    set(&database, "/u", r#"{".sv":"timestamp"}"#);
    assert_eq!(get(&database, "/u"), NOW_MS.to_string());
}

#[test]
fn conditions_are_atomic_and_refusals_fail_alone() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    let create = |name: &str| {
        let condition = Condition { path: path("/claim"), etag: NULL_ETAG.into() };
        write_as(&database, set_op("/claim", &format!("\"{name}\"")), Some(condition), Identity::Anonymous)
    };
    let won = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || create(&format!("agent-{n}")).is_ok())).collect();
        threads.into_iter().filter(|_| true).map(|thread| thread.join().unwrap()).filter(|won| *won).count()
    });
    assert_eq!(won, 1);
    assert_eq!(create("late").unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn push_makes_ordered_keys() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    let keys: Vec<_> = (0..20)
        .map(|n| {
            let rows = standpipe_tree::parse_value(
                n.to_string().as_bytes(),
                &standpipe_tree::ParseLimits::below(&path("/list")),
            )
            .unwrap();
            write(&database, Op::Push { base: path("/list"), rows }).unwrap().pushed.unwrap()
        })
        .collect();
    let mut sorted = keys.clone();
    sorted.sort();
    assert_eq!(keys, sorted);
    assert!(keys.iter().all(|key| key.len() == 20));
}

#[test]
fn a_locked_database_serves_administrators_only() {
    let dir = TempDir::new().unwrap();
    let config = EngineConfig { access: Access::Locked, ..config(&dir) };
    let database = open_with(&config, Box::new(LocalLog));
    assert_eq!(write(&database, set_op("/a", "1")).unwrap_err().kind(), ErrorKind::Denied);
    write_as(&database, set_op("/a", "1"), None, Identity::Admin).unwrap();
    assert!(Access::Locked.check(&Identity::Anonymous).is_err());
}

#[test]
fn rules_are_records_for_administrators() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    let rules = || Op::Rules("{\"rules\":{}}".into());
    assert_eq!(write(&database, rules()).unwrap_err().kind(), ErrorKind::Denied);
    write_as(&database, rules(), None, Identity::Admin).unwrap();
    drop(database);
    assert_eq!(open(&dir).try_snapshot().unwrap().rules().unwrap().as_deref(), Some("{\"rules\":{}}"));
}

#[test]
fn a_late_write_is_refused_and_not_done() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    let intent = Intent::new(set_op("/a", "1"), Identity::Anonymous);
    assert_eq!(database.write_blocking(intent, Instant::now()).unwrap_err().kind(), ErrorKind::Deadline);
    assert_eq!(get(&database, "/"), "null");
}

#[test]
fn the_map_grows_and_a_full_one_recovers() {
    let dir = TempDir::new().unwrap();
    let config =
        EngineConfig { map_bytes_initial: 1 << 20, map_bytes_max: 4 << 20, changes_bytes_max: 1, ..config(&dir) };
    let database = open_with(&config, Box::new(LocalLog));
    let text = format!("\"{}\"", "x".repeat(100_000));
    let mut stored = 0;
    let error = loop {
        match write(&database, set_op(&format!("/big/{stored}"), &text)) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(stored > 15, "the map has grown: {stored}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("map_bytes_max"), "{error}");
    assert_eq!(get(&database, "/big/3"), text, "reads go on");
    set(&database, "/big", "null");
    set(&database, "/big/again", &text);
    assert_eq!(get(&database, "/big/again"), text);
    database.try_snapshot().unwrap().verify().unwrap();
}

#[test]
fn growing_waits_for_open_reads() {
    let dir = TempDir::new().unwrap();
    let config = EngineConfig { map_bytes_initial: 1 << 20, ..config(&dir) };
    let database = open_with(&config, Box::new(LocalLog));
    set(&database, "/small", "1");
    let snapshot = database.try_snapshot().unwrap();
    let text = format!("\"{}\"", "x".repeat(3_000_000));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| set(&database, "/big", &text));
        // The snapshot shows its revision as long as it is open, whatever the writer wants.
        assert_eq!(snapshot.verify().unwrap().rows, 1);
        drop(snapshot);
        writer.join().unwrap();
    });
    assert_eq!(get(&database, "/big").len(), text.len());
}

#[test]
fn a_folder_has_one_holder_and_names_are_checked() {
    let dir = TempDir::new().unwrap();
    let first = engine(config(&dir)).unwrap();
    let error = engine(config(&dir)).unwrap_err();
    assert!(error.message().contains("held by another standpipe"), "{error}");
    first.database("one").unwrap();
    for bad in ["", "a\nb", &"x".repeat(65)] {
        assert_eq!(first.database(bad).unwrap_err().kind(), ErrorKind::BadRequest, "{bad}");
    }
    assert_eq!(first.names().unwrap(), ["one"]);
    first.close();
    drop(first);
    engine(config(&dir)).unwrap();
}

#[test]
fn namespaces_go_to_the_only_named_database() {
    let dir = TempDir::new().unwrap();
    let named = |names: &[&str]| EngineConfig {
        databases: Databases::Named(names.iter().map(|name| (*name).to_owned()).collect()),
        default_database: names[0].into(),
        ..config(&dir)
    };
    let one = engine(named(&["main"])).unwrap();
    for odd in [None, Some(""), Some("127"), Some("localhost"), Some("what.ever")] {
        assert_eq!(one.resolve(odd).unwrap().name(), "main", "{odd:?}");
    }
    one.close();
    drop(one);
    let two = engine(named(&["main", "other"])).unwrap();
    assert_eq!(two.resolve(Some("other")).unwrap().name(), "other");
    assert_eq!(two.resolve(Some("127")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_backup_has_an_equal_digest() {
    let (dir, copy) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let database = open(&dir);
    for turn in 0..30 {
        set(&database, &format!("/k{}", turn % 7), &turn.to_string());
    }
    let folder = copy.path().join("default");
    std::fs::create_dir(&folder).unwrap();
    let mut file = std::fs::File::create(folder.join("data.mdb")).unwrap();
    database.backup(&mut file).unwrap();
    let expected = database.try_snapshot().unwrap().verify().unwrap();
    assert_eq!(verify(copy.path(), "default").unwrap(), expected);
    assert_eq!(verify(copy.path(), "none").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn removing_nothing_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    set(&database, "/a", "1");
    let rev = |database: &Database, op: Op| write(database, op).unwrap().rev;
    assert_eq!(rev(&database, Op::Set { location: crate::support::location("/a/b"), rows: Rows::default() }), 1);
    assert_eq!(rev(&database, set_op("/x/.priority", "3")), 1);
    assert_eq!(get(&database, "/"), r#"{"a":1}"#);
}

#[test]
fn an_overlay_puts_leaves_and_keeps_the_rest() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    let overlay = |at: &str, json: &str| {
        let base = path(at);
        let rows = standpipe_tree::parse_value(json.as_bytes(), &standpipe_tree::ParseLimits::below(&base)).unwrap();
        write(&database, Op::Overlay { base, rows }).unwrap();
        database.try_snapshot().unwrap().verify().unwrap();
        get_as(&database, "/", standpipe_tree::Format::Export)
    };
    assert_eq!(overlay("/n", r#"{"p":{".priority":1,"x":2},"q":3}"#), r#"{"n":{"p":{".priority":1,"x":2},"q":3}}"#);
    assert_eq!(
        overlay("/n", r#"{"a":0,"p":{"y":4},"q":{"z":5}}"#),
        r#"{"n":{"a":0,"p":{".priority":1,"x":2,"y":4},"q":{"z":5}}}"#
    );
    assert_eq!(overlay("/n/p", "7"), r#"{"n":{"a":0,"p":{".value":7,".priority":1},"q":{"z":5}}}"#);
}

#[test]
fn an_act_is_judged_as_a_write_and_writes_nothing() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    let rules = r#"{"rules": {"jobs": {"$job": {"start": {
        ".write": "auth == null", ".validate": "newData.child('size').val() < 10 && root.child('n').val() == 1"}}}}}"#;
    write_as(&database, Op::Rules(rules.into()), None, Identity::Admin).unwrap();
    write_as(&database, set_op("n", "1"), None, Identity::Admin).unwrap();
    let rev = database.rev();
    let snapshot = database.try_snapshot().unwrap();
    let check = |at: &str, json: &str, identity: &Identity, expected: Option<ErrorKind>| {
        let result = database.check_write(&snapshot, identity, &path(at), json);
        assert_eq!(result.err().map(|error| error.kind()), expected, "{at} {json}");
    };
    check("jobs/a/start", r#"{"size": 1}"#, &Identity::Anonymous, None);
    check("jobs/a/start", r#"{"size": {".sv": {"increment": 3}}}"#, &Identity::Anonymous, None);
    check("jobs/a/start", r#"{"size": 10}"#, &Identity::Anonymous, Some(ErrorKind::Denied));
    check("jobs/a/stop", "true", &Identity::Anonymous, Some(ErrorKind::Denied));
    check("jobs/a/stop", "true", &Identity::Admin, None);
    check("jobs/a/start", "{", &Identity::Admin, Some(ErrorKind::BadRequest));
    check("jobs/a/start", r#"{"a/b": 1}"#, &Identity::Anonymous, Some(ErrorKind::BadRequest));
    assert_eq!((database.rev(), get(&database, "/jobs")), (rev, "null".into()));
}
