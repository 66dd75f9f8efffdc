//! A database in a temporary folder, and short ways to write to it and read it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use standpipe_engine::{
    Access, Clock, Committed, Condition, Database, Databases, Engine, EngineConfig, Error, Identity, Intent, LocalLog,
    Log, Op,
};
use standpipe_tree::{Format, Location, ParseLimits, Path, parse_merge, parse_value, to_json};
use tempfile::TempDir;

pub(crate) const NOW_MS: u64 = 1_790_000_000_000;

pub(crate) fn path(text: &str) -> Path {
    Path::parse(text).unwrap()
}

pub(crate) fn location(text: &str) -> Location {
    Location::parse(text).unwrap()
}

/// Small limits and a clock that stands still.
pub(crate) fn config(dir: &TempDir) -> EngineConfig {
    EngineConfig {
        access: Access::Open,
        databases: Databases::OnDemand,
        map_bytes_initial: 64 << 20,
        clock: Clock::Manual(Arc::new(AtomicU64::new(NOW_MS))),
        ..EngineConfig::new(dir.path())
    }
}

pub(crate) fn open_with(config: &EngineConfig, log: Box<dyn Log>) -> Arc<Database> {
    Database::open("default", config, log, Arc::new(|why| panic!("the database stopped: {why}"))).unwrap()
}

pub(crate) fn open(dir: &TempDir) -> Arc<Database> {
    open_with(&config(dir), Box::new(LocalLog))
}

pub(crate) fn engine(config: EngineConfig) -> Result<Engine, Error> {
    Engine::open(config, Arc::new(|why| panic!("the database stopped: {why}")))
}

pub(crate) fn write_as(
    database: &Database,
    op: Op,
    condition: Option<Condition>,
    identity: Identity,
) -> Result<Committed, Error> {
    let intent = Intent { conditions: condition.into_iter().collect(), ..Intent::new(op, identity) };
    database.write_blocking(intent, Instant::now() + Duration::from_secs(60))
}

pub(crate) fn write(database: &Database, op: Op) -> Result<Committed, Error> {
    write_as(database, op, None, Identity::Anonymous)
}

pub(crate) fn set_op(at: &str, json: &str) -> Op {
    let location = location(at);
    let rows = parse_value(json.as_bytes(), &ParseLimits::below(location.path())).unwrap();
    Op::Set { location, rows }
}

pub(crate) fn set(database: &Database, at: &str, json: &str) -> u64 {
    write(database, set_op(at, json)).unwrap().rev
}

pub(crate) fn merge_op(at: &str, json: &str) -> Op {
    let base = path(at);
    let merge = parse_merge(json.as_bytes(), &base, &ParseLimits::below(&base)).unwrap();
    Op::Merge { base, writes: merge.writes }
}

pub(crate) fn merge(database: &Database, at: &str, json: &str) -> u64 {
    write(database, merge_op(at, json)).unwrap().rev
}

pub(crate) fn get_as(database: &Database, at: &str, format: Format) -> String {
    let snapshot = database.try_snapshot().unwrap();
    let json = to_json(&mut snapshot.cursor(&path(at)), format).unwrap();
    String::from_utf8(json).unwrap()
}

pub(crate) fn get(database: &Database, at: &str) -> String {
    get_as(database, at, Format::Plain)
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
