//! What a decision of the security rules costs: nanoseconds for one, over a real database and over rows in
//! memory, with rules such as a chat has: ten conditions and two lookups for a write.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use standpipe_engine::{Access, Databases, Engine, EngineConfig, Identity, Intent, Op};
use standpipe_tree::rules::{Request, Tree, Verdict};
use standpipe_tree::{Change, ChangeKind, Location, ParseLimits, Path, Rows, RuleSet, Write, parse_value};

use crate::Pace;
use crate::figures::{Bar, figure};

const RULES: &str = r#"{"rules": {"messages": {"$room": {
    ".read": "auth != null && root.child('members').child($room).child(auth.uid).exists()",
    "$message": {
        ".write": "auth != null && root.child('members').child($room).child(auth.uid).exists()
                   && (!data.exists() || data.child('author').val() === auth.uid)",
        ".validate": "newData.hasChildren(['author', 'text', 'at'])",
        "author": {".validate": "newData.val() === auth.uid"},
        "text": {".validate": "newData.isString() && newData.val().length > 0 && newData.val().length <= 500"},
        "at": {".validate": "newData.isNumber() && newData.val() <= now"},
        "$other": {".validate": false}
    }
}}}}"#;

const NOW_MS: u64 = 1_700_000_000_000;
const ROOMS: usize = 100;
const MEMBERS: usize = 200;
const MESSAGES: usize = 500;
/// Decisions between two looks at the clock.
const BATCH: u32 = 512;

/// Prints nanoseconds for each kind of decision.
///
/// # Errors
/// No database, or rules that do not say what they should.
pub(crate) fn run(pace: Pace) -> Result<()> {
    let rules = RuleSet::compile(RULES)?;
    let rows = rows(&data(), &Path::root())?;
    let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(crate::target()?)?;
    let config = EngineConfig { access: Access::Open, databases: Databases::OnDemand, ..EngineConfig::new(dir.path()) };
    let engine = Engine::open(config, Arc::new(|why| eprintln!("the database stopped: {why}")))?;
    let database = engine.database("default")?;
    let op = Op::Set { location: Location::Node(Path::root()), rows: rows.clone() };
    database.write_blocking(Intent::new(op, Identity::Admin), Instant::now() + Duration::from_secs(60))?;
    println!("\n{ROOMS} rooms, {MEMBERS} members and {MESSAGES} messages each; ten conditions, two lookups");
    let snapshot = database.try_snapshot()?;
    measure("LMDB", &rules, &snapshot, pace)?;
    measure::<Rows>("memory", &rules, &rows, pace)?;
    let start = Instant::now();
    let count = 1_000;
    for _ in 0..count {
        black_box(RuleSet::compile(RULES)?);
    }
    println!("{:>44}: {:>9.1} us", "compiling these rules", start.elapsed().as_secs_f64() * 1e6 / f64::from(count));
    drop(snapshot);
    engine.close();
    Ok(())
}

fn measure<T: Tree>(what: &str, rules: &RuleSet, tree: &T, pace: Pace) -> Result<()> {
    let auth = json!({"uid": "user-7", "provider": "own", "token": {"sub": "user-7"}});
    let stranger = json!({"uid": "nobody", "provider": "own", "token": {"sub": "nobody"}});
    let request = |auth| Request { auth: Some(auth), now_ms: NOW_MS, query: None, trace: false };
    let message = json!({"author": "user-7", "text": "Good morning, everybody", "at": NOW_MS - 5});
    let write = set("messages/room-50/message-new", &message)?;
    let edit = set("messages/room-50/message-7", &message)?;
    let room = Path::parse("messages/room-50")?;
    let allowed = |verdict: Result<Verdict, T::Error>| matches!(verdict, Ok(Verdict::Allowed));
    let cases: [(&str, bool, &dyn Fn() -> bool); 4] = [
        ("a new message", true, &|| allowed(rules.write(&request(&auth), tree, &write))),
        ("a message again", true, &|| allowed(rules.write(&request(&auth), tree, &edit))),
        ("a message of a stranger", false, &|| allowed(rules.write(&request(&stranger), tree, &write))),
        ("reading a room", true, &|| allowed(rules.read(&request(&auth), tree, &room))),
    ];
    for (name, expected, decide) in cases {
        ensure!(decide() == expected, "{name}: the rules say something else");
        let mut best = f64::MAX;
        for _ in 0..pace.rounds {
            best = best.min(ns_each(decide, pace.seconds));
        }
        figure(&format!("{name}, {what}"), best, "CPU ns", Bar::AtMost(5_000.0));
    }
    Ok(())
}

/// Nanoseconds of processor time for one decision: what else runs on the machine does not count.
fn ns_each(decide: &dyn Fn() -> bool, seconds: u32) -> f64 {
    let (start, before, mut count) = (Instant::now(), cpu_time(), 0_u64);
    while start.elapsed() < Duration::from_secs(u64::from(seconds)) {
        for _ in 0..BATCH {
            black_box(decide());
        }
        count += u64::from(BATCH);
    }
    (cpu_time() - before).as_secs_f64() * 1e9 / count as f64
}

/// What this thread has used.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn set(at: &str, value: &Value) -> Result<Change> {
    let base = Path::parse(at)?;
    let rows = rows(value, &base)?;
    let writes = vec![Write { location: Location::Node(base.clone()), rows }];
    Ok(Change { kind: ChangeKind::Set, base, writes })
}

fn rows(value: &Value, base: &Path) -> Result<Rows> {
    parse_value(value.to_string().as_bytes(), &ParseLimits::below(base)).context("the data of the bench")
}

fn data() -> Value {
    let many = |count: usize, name: &str, value: &dyn Fn(usize) -> Value| -> Value {
        (0..count).map(|index| (format!("{name}-{index}"), value(index))).collect::<serde_json::Map<_, _>>().into()
    };
    let message = |index: usize| json!({"author": format!("user-{}", index % MEMBERS), "text": format!("message {index}"), "at": NOW_MS - 100});
    json!({
        "members": many(ROOMS, "room", &|_| many(MEMBERS, "user", &|_| true.into())),
        "messages": many(ROOMS, "room", &|_| many(MESSAGES, "message", &message)),
    })
}
