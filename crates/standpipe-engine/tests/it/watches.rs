//! Watch invariants: subscribe, snapshot, skip; resume; lag; windows.

use std::sync::Arc;

use serde_json::{Value, json};
use standpipe_engine::{
    Database, EngineConfig, LocalLog, ResetReason, Resume, Touched, Watch, WatchRead, Window, resume,
};
use standpipe_tree::{EventKind, Format, Path};
use tempfile::TempDir;

use crate::naive::Node;
use crate::support::{config, get, merge, open, open_with, path, set};

/// What a watcher of `at` was told, as `rev kind path data` lines.
fn told(watch: &mut Watch) -> Vec<String> {
    let at = watch.path().clone();
    match watch.read(1_000) {
        WatchRead::Lagged => vec!["lagged".into()],
        WatchRead::Events(events) => events
            .iter()
            .filter_map(|event| {
                let told = event.change.event(&at, Format::Plain)?;
                let kind = if told.kind == EventKind::Put { "put" } else { "patch" };
                Some(format!("{} {kind} {} {}", event.rev, told.path, String::from_utf8(told.data).unwrap()))
            })
            .collect(),
    }
}

fn watch(database: &Arc<Database>, at: &str) -> Watch {
    let mut watch = database.watch(&path(at));
    watch.start_after(database.try_snapshot().unwrap().rev());
    watch
}

#[test]
fn watchers_are_told_what_touches_their_path_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    set(&database, "/a", r#"{"x":1,"y":{"z":2}}"#);
    let mut root = watch(&database, "/");
    let mut a = watch(&database, "/a");
    let mut ax = watch(&database, "/a/x");
    let mut b = watch(&database, "/ab");
    assert_eq!(set(&database, "/a/x", "5"), 2);
    assert_eq!(set(&database, "/a/x", "5"), 2, "a write that changes nothing has no revision");
    assert_eq!(merge(&database, "/a", r#"{"x":6,"y/z":null}"#), 3);
    assert_eq!(set(&database, "/a", "null"), 4);
    assert_eq!(told(&mut root), ["2 put /a/x 5", r#"3 patch /a {"x":6,"y/z":null}"#, "4 put /a null"]);
    assert_eq!(told(&mut a), ["2 put /x 5", r#"3 patch / {"x":6,"y/z":null}"#, "4 put / null"]);
    assert_eq!(told(&mut ax), ["2 put / 5", "3 put / 6", "4 put / null"]);
    assert!(told(&mut b).is_empty());
    drop((root, a, ax, b));
    assert_eq!(database.stats().topics, 0);
}

#[test]
fn a_slow_watcher_lags_and_costs_nobody_else() {
    let dir = TempDir::new().unwrap();
    let limits = EngineConfig { ring_events_max: 4, ..config(&dir) };
    let database = open_with(&limits, Box::new(LocalLog));
    let (mut slow, mut quick) = (watch(&database, "/"), watch(&database, "/"));
    for turn in 1..=6 {
        set(&database, "/n", &turn.to_string());
        assert_eq!(told(&mut quick).len(), 1);
    }
    assert_eq!(told(&mut slow), ["lagged"]);
    slow.start_after(database.rev());
    set(&database, "/n", "7");
    assert_eq!(told(&mut slow), ["7 put /n 7"]);
}

#[test]
fn a_change_larger_than_the_ring_makes_watchers_read_again() {
    let dir = TempDir::new().unwrap();
    let limits = EngineConfig { ring_bytes_max: 2_000, ..config(&dir) };
    let database = open_with(&limits, Box::new(LocalLog));
    let mut watcher = watch(&database, "/");
    set(&database, "/big", &json!("x".repeat(5_000)).to_string());
    assert_eq!(told(&mut watcher), ["lagged"]);
}

fn resumed(database: &Arc<Database>, at: &Path, since: u64) -> Result<Vec<u64>, ResetReason> {
    match resume(&database.try_snapshot().unwrap(), at, since, 1 << 20).unwrap() {
        Resume::Events(events) => Ok(events.iter().map(|event| event.rev).collect()),
        Resume::Reset(reason) => Err(reason),
    }
}

#[test]
fn resume_gives_exactly_what_was_missed_or_says_that_it_can_not() {
    let dir = TempDir::new().unwrap();
    let limits = EngineConfig { changes_bytes_max: 4_000, ..config(&dir) };
    let database = open_with(&limits, Box::new(LocalLog));
    for turn in 1..=40 {
        set(&database, if turn % 2 == 0 { "/a/n" } else { "/b/n" }, &turn.to_string());
    }
    assert_eq!(resumed(&database, &path("/"), 40), Ok(vec![]));
    assert_eq!(resumed(&database, &path("/"), 36), Ok(vec![37, 38, 39, 40]));
    assert_eq!(resumed(&database, &path("/a"), 36), Ok(vec![38, 40]));
    assert_eq!(resumed(&database, &path("/"), 2), Err(ResetReason::Gone));
    assert_eq!(resumed(&database, &path("/"), 41), Err(ResetReason::Future));
    drop(database);
    let again = open_with(&limits, Box::new(LocalLog));
    assert_eq!(resumed(&again, &path("/"), 38), Ok(vec![39, 40]), "over a restart");
}

/// Applies what a watcher of the root was told, as a client does.
fn follow(tree: &mut Node, watch: &mut Watch) -> bool {
    let WatchRead::Events(events) = watch.read(1_000) else { return false };
    for event in events {
        let Some(told) = event.change.event(watch.path(), Format::Export) else { continue };
        let data: Value = serde_json::from_slice(&told.data).unwrap();
        let segments: Vec<&str> = told.path.split('/').filter(|part| !part.is_empty()).collect();
        match (told.kind, segments.split_last()) {
            (EventKind::Put, Some((&".priority", node))) => {
                tree.set_priority(node, Some(data).filter(|value| !value.is_null()));
            }
            (EventKind::Put, _) => tree.set(&segments, Node::parse(&data)),
            (EventKind::Patch, _) => {
                for (key, value) in data.as_object().unwrap() {
                    let child: Vec<&str> = segments.iter().copied().chain(key.split('/')).collect();
                    tree.set(&child, Node::parse(value));
                }
            }
        }
    }
    true
}

#[test]
fn a_view_made_of_changes_equals_the_snapshot_under_concurrent_writers() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let database = &database;
            scope.spawn(move || {
                for turn in 0..60 {
                    merge(database, "/", &format!(r#"{{"w{writer}/n":{turn},"last":"{writer}-{turn}"}}"#));
                    set(database, &format!("/w{writer}/x{}", turn % 3), if turn % 5 == 0 { "null" } else { "1" });
                }
            });
        }
        for _ in 0..20 {
            let mut watch = database.watch(&path("/"));
            let snapshot = database.try_snapshot().unwrap();
            watch.start_after(snapshot.rev());
            let json = standpipe_tree::to_json(&mut snapshot.cursor(&path("/")), Format::Export).unwrap();
            drop(snapshot);
            let mut tree = Node::parse(&serde_json::from_slice(&json).unwrap());
            let mut last = 0;
            while follow(&mut tree, &mut watch) && last < 50 {
                last += 1;
                std::thread::yield_now();
            }
        }
    });
    // A last watcher that sees the end.
    let tree: Value = serde_json::from_str(&get(&database, "/")).unwrap();
    assert!(tree.is_object());
}

#[test]
fn every_watcher_sees_every_change_once_and_in_order() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    let mut watches: Vec<_> = (0..8).map(|_| watch(&database, "/")).collect();
    let mut seen = vec![Vec::new(); watches.len()];
    let mut trees = vec![Node::default(); watches.len()];
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let database = &database;
            scope.spawn(move || {
                for turn in 0..50 {
                    set(database, &format!("/{writer}/n"), &turn.to_string());
                }
            });
        }
    });
    for ((watch, seen), tree) in watches.iter_mut().zip(&mut seen).zip(&mut trees) {
        let WatchRead::Events(events) = watch.read(1_000) else { panic!("the ring holds 256") };
        seen.extend(events.iter().map(|event| event.rev));
        for event in &events {
            let told = event.change.event(&path("/"), Format::Export).unwrap();
            let segments: Vec<&str> = told.path.split('/').filter(|part| !part.is_empty()).collect();
            tree.set(&segments, Node::parse(&serde_json::from_slice(&told.data).unwrap()));
        }
    }
    let expected: Vec<u64> = (1..=150).collect();
    for (seen, tree) in seen.iter().zip(&trees) {
        assert_eq!(seen, &expected);
        let snapshot: Value = serde_json::from_str(&crate::support::get_as(&database, "/", Format::Export)).unwrap();
        assert_eq!(tree.export(), snapshot);
    }
}

#[test]
fn a_query_window_moves() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    set(&database, "/log", r#"{"a":{"n":1},"b":{"n":2},"c":{"n":3}}"#);
    let query = standpipe_tree::parse_rest(&[("orderBy", "\"n\""), ("limitToLast", "2")]).unwrap().unwrap();
    let snapshot = || database.try_snapshot().unwrap();
    let (mut window, first) = Window::open(&snapshot(), path("/log"), query, Format::Plain, 100).unwrap();
    assert_eq!(first, br#"{"b":{"n":2},"c":{"n":3}}"#);
    let mut watch = database.watch(&path("/log"));
    let mut moved = |expected: Option<Value>| {
        let WatchRead::Events(events) = watch.read(100) else { panic!("it fits") };
        let json = window.advance(&snapshot(), Touched::Events(&events)).unwrap();
        assert_eq!(json.map(|json| serde_json::from_slice::<Value>(&json).unwrap()), expected);
    };
    set(&database, "/log/d", r#"{"n":4}"#);
    moved(Some(json!({"d":{"n":4},"b":null})));
    set(&database, "/log/a/n", "0");
    moved(None);
    set(&database, "/log/c", "null");
    moved(Some(json!({"c":null,"b":{"n":2}})));
    set(&database, "/log/d/m", "1");
    moved(Some(json!({"d":{"m":1,"n":4}})));
}
