//! Writes that are decided on the writer's view of the tree, and several writes in one commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use standpipe_engine::{
    Committed, Compute, Condition, Database, EngineConfig, ErrorKind, Identity, Intent, LocalLog, Op, View, WatchRead,
};
use standpipe_tree::{Leaf, Location, NULL_ETAG, OwnedLeaf, Rows};
use tempfile::TempDir;

use crate::support::{config, get, location, merge_op, open, open_with, path, set, set_op, write};

fn number(view: &View<'_>, at: &str) -> i64 {
    match view.leaf(&path(at)).unwrap() {
        Some(OwnedLeaf::Int(number)) => number,
        _ => 0,
    }
}

fn put(at: &str, leaf: Leaf<'_>) -> Op {
    Op::Set { location: location(at), rows: Rows::from_leaf(leaf) }
}

/// Adds one, and tells what it found.
fn increment(at: &'static str, found: &Arc<Mutex<i64>>) -> Op {
    let found = found.clone();
    Op::Compute(Compute::new(64, move |view| {
        *found.lock() = number(view, at);
        Ok(Some(put(at, Leaf::Int(number(view, at) + 1))))
    }))
}

fn submit(database: &Database, op: Op) -> tokio::sync::oneshot::Receiver<Result<Committed, standpipe_engine::Error>> {
    database.submit(Intent::new(op, Identity::Anonymous), Instant::now() + Duration::from_secs(60)).unwrap()
}

#[test]
fn concurrent_increments_lose_none_and_need_no_second_try() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    let found: Vec<_> = (0..1_000).map(|_| Arc::new(Mutex::new(0))).collect();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = found
            .chunks(125)
            .map(|part| {
                let database = &database;
                scope.spawn(move || {
                    part.iter().map(|found| submit(database, increment("/n", found))).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(answers.into_iter().all(|answer| answer.blocking_recv().unwrap().is_ok()));
    assert_eq!(get(&database, "/n"), "1000");
    let mut found: Vec<_> = found.iter().map(|found| *found.lock()).collect();
    found.sort_unstable();
    assert!(found.iter().copied().eq(0..1_000), "each saw what the one before it left");
}

#[test]
fn a_computed_write_may_refuse_or_write_nothing() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    set(&database, "/a", r#"{".value":1,".priority":3}"#);
    let nothing = write(&database, Op::Compute(Compute::new(0, |_| Ok(None)))).unwrap();
    assert_eq!((nothing.rev, nothing.change.is_none()), (1, true));
    let refused = Compute::new(0, |_| Err(standpipe_engine::Error::bad_request("not a number")));
    assert_eq!(write(&database, Op::Compute(refused)).unwrap_err().message(), "not a number");
    let look = Compute::new(0, |view| {
        let above = |at: &str| view.leaf_above(&path(at)).unwrap().map(|path| path.as_str().to_owned());
        assert_eq!(above("/a/b/c").as_deref(), Some("a"));
        assert_eq!((above("/a"), above("/ab"), above("/")), (None, None, None));
        assert_eq!(view.leaf(&path("/a")).unwrap(), Some(OwnedLeaf::Int(1)));
        assert_eq!(view.leaf(&path("/a/b")).unwrap(), None);
        Ok(None)
    });
    write(&database, Op::Compute(look)).unwrap();
    assert_eq!(database.rev(), 1);
}

#[test]
fn a_batch_is_one_commit_and_its_steps_see_each_other() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    let mut watch = database.watch(&path("/"));
    let found = Arc::new(Mutex::new(0));
    let refused = Op::Compute(Compute::new(0, |_| Err(standpipe_engine::Error::denied())));
    let steps =
        vec![set_op("/n", "41"), increment("/n", &found), refused, merge_op("/", r#"{"m":{".sv":{"increment":2}}}"#)];
    let committed = write(&database, Op::Batch(steps)).unwrap();
    assert_eq!(committed.rev, 3);
    assert_eq!(*found.lock(), 41);
    let outcomes: Vec<_> = committed.steps.iter().map(|step| step.as_ref().map_or(0, |step| step.rev)).collect();
    assert_eq!(outcomes, [1, 2, 0, 3]);
    assert_eq!(get(&database, "/"), r#"{"m":2,"n":42}"#);
    assert_eq!(database.stats().commits, 1);
    let WatchRead::Events(events) = watch.read(10) else { panic!("three events fit") };
    assert_eq!(events.iter().map(|event| event.rev).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn a_condition_that_does_not_hold_refuses_the_whole_batch() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    set(&database, "/b", "1");
    let condition = |at: &str| Condition { path: path(at), etag: NULL_ETAG.into() };
    let attempt = |conditions: Vec<Condition>| {
        let op = Op::Batch(vec![set_op("/a", "1"), set_op("/b", "2")]);
        let intent = Intent { conditions, ..Intent::new(op, Identity::Anonymous) };
        database.write_blocking(intent, Instant::now() + Duration::from_secs(60))
    };
    assert_eq!(attempt(vec![condition("/a"), condition("/b")]).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(get(&database, "/"), r#"{"b":1}"#);
    // The conditions speak about what was there before the first step.
    assert_eq!(attempt(vec![condition("/a"), condition("/c")]).unwrap().steps.len(), 2);
    assert_eq!(get(&database, "/"), r#"{"a":1,"b":2}"#);
}

#[test]
fn a_computed_write_that_runs_again_over_a_growing_map_is_done_once() {
    let dir = TempDir::new().unwrap();
    let config = EngineConfig { map_bytes_initial: 256 << 10, ..config(&dir) };
    let database = open_with(&config, Box::new(LocalLog));
    let runs = Arc::new(AtomicUsize::new(0));
    let text = "x".repeat(4 << 20);
    let count = runs.clone();
    let big = Op::Compute(Compute::new(5 << 20, move |view| {
        count.fetch_add(1, Ordering::Relaxed);
        assert_eq!(number(view, "/n"), 1);
        Ok(Some(Op::Batch(vec![put("/n", Leaf::Int(number(view, "/n") + 1)), put("/text", Leaf::Str(&text))])))
    }));
    set(&database, "/n", "1");
    write(&database, big).unwrap();
    assert!(runs.load(Ordering::Relaxed) > 1, "the map had to grow");
    assert_eq!(get(&database, "/n"), "2");
    assert_eq!(database.rev(), 3);
    let removed =
        Compute::new(0, |_| Ok(Some(Op::Set { location: Location::Node(path("/text")), rows: Rows::default() })));
    write(&database, Op::Compute(removed.removing())).unwrap();
    database.try_snapshot().unwrap().verify().unwrap();
}
