//! Windows that are moved through several changes at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use standpipe_engine::{Database, TopicEvent, Watch, WatchRead, Window};
use standpipe_tree::{Format, Query, parse_wire_query};
use tempfile::TempDir;

use crate::support::{merge, open, path, set};

/// What a client that is told about a window shows.
type Shown = BTreeMap<String, Value>;

struct Scene {
    database: Arc<Database>,
    watch: Watch,
    window: Window,
    query: Query,
    shown: Shown,
    _dir: TempDir,
}

fn children(json: &[u8]) -> Shown {
    match serde_json::from_slice(json).unwrap() {
        Value::Object(children) => children.into_iter().collect(),
        Value::Null => Shown::new(),
        other => panic!("{other}"),
    }
}

impl Scene {
    fn new(value: &str, query: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let database = open(&dir);
        set(&database, "/list", value);
        let query = parse_wire_query(query).unwrap().unwrap();
        let mut watch = database.watch(&path("/list"));
        let snapshot = database.try_snapshot().unwrap();
        watch.start_after(snapshot.rev());
        let (window, json) = Window::open(&snapshot, path("/list"), query.clone(), Format::Export, 1_000).unwrap();
        drop(snapshot);
        Self { database, watch, window, query, shown: children(&json), _dir: dir }
    }

    /// The window as it is.
    fn truth(&self) -> Shown {
        let snapshot = self.database.try_snapshot().unwrap();
        let (_, json) = Window::open(&snapshot, path("/list"), self.query.clone(), Format::Export, 1_000).unwrap();
        children(&json)
    }

    fn events(&mut self) -> Vec<Arc<TopicEvent>> {
        match self.watch.read(1_000) {
            WatchRead::Events(events) => events,
            WatchRead::Lagged => panic!("the ring is long enough"),
        }
    }

    /// Follows all that was written; what is shown after each revision that told something.
    fn follow(&mut self) -> Vec<(u64, Shown)> {
        let events = self.events();
        let snapshot = self.database.try_snapshot().unwrap();
        let mut seen = Vec::new();
        for (rev, json) in self.window.follow(&snapshot, &events).unwrap() {
            for (key, value) in children(&json) {
                if value.is_null() {
                    self.shown.remove(&key)
                } else {
                    self.shown.insert(key, value)
                };
            }
            seen.push((rev, self.shown.clone()));
        }
        seen
    }
}

#[test]
fn what_only_passed_through_is_told_too() {
    let mut scene = Scene::new("null", r#"{"l":1,"vf":"r","i":".key"}"#);
    for n in 0..5 {
        set(&scene.database, &format!("/list/k{n}"), &n.to_string());
    }
    let seen: Vec<String> = scene.follow().iter().map(|(_, shown)| format!("{shown:?}")).collect();
    let expected: Vec<String> = (0..5).map(|n| format!(r#"{{"k{n}": Number({n})}}"#)).collect();
    assert_eq!(seen, expected);
    // What moves in from outside comes with the last step.
    set(&scene.database, "/list/k4", "null");
    set(&scene.database, "/list/k5", "5");
    set(&scene.database, "/list/k5", "null");
    scene.follow();
    assert_eq!(scene.shown, scene.truth());
}

const QUERIES: [&str; 9] = [
    r#"{"l":2,"vf":"r","i":".key"}"#,
    r#"{"l":3,"vf":"l","i":".key","sp":"c"}"#,
    r#"{"l":3,"vf":"l","i":"n"}"#,
    r#"{"l":2,"vf":"r","i":"n"}"#,
    r#"{"l":2,"vf":"r","i":".value"}"#,
    r#"{"l":3,"vf":"r"}"#,
    r#"{"sp":3,"ep":6,"i":"n"}"#,
    r#"{"sp":2,"i":".value"}"#,
    r#"{"l":4,"vf":"l","i":"n","sp":2,"ep":7}"#,
];

/// Whatever is written in between, the window ends where it is; and where children are only put, whole, each step
/// is what was there.
#[test]
fn steps_end_at_the_window_that_is() {
    let mut seed: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0xfeed_beef);
    println!("SEED={seed}");
    let mut below = |count: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % count
    };
    for round in 0..18 {
        let only_new = round % 3 == 0;
        let query = QUERIES[round % QUERIES.len()];
        let mut scene = Scene::new(r#"{"b":{"n":3},"d":4,"f":{"n":5,".priority":2}}"#, query);
        for turn in 0..8 {
            let mut truths = BTreeMap::new();
            for write in 0..1 + below(6) {
                let key = (b'a' + below(8) as u8) as char;
                let number = below(9);
                let fresh = format!("{key}{turn}{write}");
                let rev = match below(8) {
                    _ if only_new => set(&scene.database, &format!("/list/{fresh}"), &format!(r#"{{"n":{number}}}"#)),
                    0 => set(&scene.database, &format!("/list/{key}"), "null"),
                    1 => set(&scene.database, &format!("/list/{key}/n"), &number.to_string()),
                    2 => set(&scene.database, &format!("/list/{key}"), &number.to_string()),
                    3 => set(&scene.database, &format!("/list/{key}/.priority"), &number.to_string()),
                    4 => merge(&scene.database, "/list", &format!(r#"{{"{key}":{{"n":{number}}},"zz":{number}}}"#)),
                    5 if write == 3 => {
                        set(&scene.database, "/list", &format!(r#"{{"{key}":{{"n":{number}}},"x":1,"y":{{"n":2}}}}"#))
                    }
                    _ => set(&scene.database, &format!("/list/{key}"), &format!(r#"{{"n":{number}}}"#)),
                };
                truths.insert(rev, scene.truth());
            }
            let what = format!("round {round}, turn {turn}, {query}");
            for (rev, shown) in scene.follow() {
                if only_new {
                    assert_eq!(shown, truths[&rev], "{what}, revision {rev}");
                }
            }
            assert_eq!(scene.shown, scene.truth(), "{what}");
        }
    }
}
