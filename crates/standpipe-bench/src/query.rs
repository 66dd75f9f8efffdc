//! What an index and rules are worth and cost, inside the engine and without a door: queries with a limit
//! over 10,000 to 1,000,000 children, and one write with no, one and three indexes, with and without
//! rules. The writer is given many writes for one commit, so that the disk is not what is measured.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use standpipe_engine::{Access, Database, Durability, EngineConfig, Identity, Intent, LocalLog, Op, Window};
use standpipe_tree::{Format, Leaf, Location, Path, Query, Rows, RowsBuilder, parse_rest};
use tempfile::TempDir;

use crate::figures::{Bar, figure};
use crate::target;

/// Children of the queried location, from round to round.
const SIZES: [u64; 3] = [10_000, 100_000, 1_000_000];
/// Queries of each kind.
const QUERIES: u64 = 2_000;
/// Writes in one commit, and commits of each kind, of which the quickest counts.
const WRITES: usize = 1_000;
const COMMITS: usize = 20;
/// A write may wait behind an import.
const PATIENCE: Duration = Duration::from_secs(600);

/// Prints both tables.
///
/// # Errors
/// The engine refuses something.
pub(crate) fn run() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(target()?)?;
    queries(&dir)?;
    writes(&dir)
}

fn open(dir: &TempDir, name: &str) -> Result<Arc<Database>> {
    let config = EngineConfig {
        access: Access::Open,
        durability: Durability::Interval(Duration::from_secs(3_600)),
        changes_bytes_max: 1 << 20,
        ..EngineConfig::new(dir.path())
    };
    Ok(Database::open(name, &config, Box::new(LocalLog), Arc::new(|_| {}))?)
}

fn write(database: &Database, op: Op, identity: Identity) -> Result<()> {
    let committed = database.write_blocking(Intent::new(op, identity), Instant::now() + PATIENCE)?;
    for step in committed.steps {
        step?;
    }
    Ok(())
}

fn rules(database: &Database, text: &str) -> Result<()> {
    write(database, Op::Rules(text.to_owned()), Identity::Admin)
}

fn path(text: &str) -> Result<Path> {
    Path::parse(text).context("a path of this file")
}

/// Numbers without an order that an index could use, the same in one run.
struct Shuffled(RandomState);

impl Shuffled {
    fn number(&self, of: u64) -> i64 {
        (self.0.hash_one(of) >> 32) as i64
    }
}

fn queries(dir: &TempDir) -> Result<()> {
    println!("\nqueries over an indexed child, first 10 children with their values");
    println!(
        "{:>10} {:>16} {:>10} {:>10} {:>10} {:>14}",
        "children", "query", "p50 us", "p99 us", "max us", "index, s"
    );
    let numbers = Shuffled(RandomState::new());
    for size in SIZES {
        let database = open(dir, &format!("queries-{size}"))?;
        fill(&database, size, &numbers)?;
        let begun = Instant::now();
        rules(&database, r#"{"rules": {".read": true, ".write": true, "log": {".indexOn": "at"}}}"#)?;
        let built = begun.elapsed().as_secs_f64();
        for (name, side, from) in
            [("first", "limitToFirst", false), ("last", "limitToLast", false), ("from a value", "limitToFirst", true)]
        {
            let times = ask(&database, side, from, &numbers)?;
            let at = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
            println!(
                "{size:>10} {name:>16} {:>10.1} {:>10.1} {:>10.1} {built:>14.2}",
                at(0.5),
                at(0.99),
                times.max() as f64 / 1e3
            );
            if size == SIZES[SIZES.len() - 1] {
                // Of the others a busy machine has its part.
                figure(&format!("median over {size} children, {name}"), at(0.5), "us", Bar::AtMost(1_000.0));
            }
        }
    }
    Ok(())
}

fn fill(database: &Database, size: u64, numbers: &Shuffled) -> Result<()> {
    const PART: u64 = 50_000;
    for start in (0..size).step_by(PART as usize) {
        let mut rows = RowsBuilder::new();
        for child in start..size.min(start + PART) {
            let child = path(&format!("k{child:07}"))?;
            push(&mut rows, &child, "at", Leaf::Int(numbers.number(rows_hash(&child))))?;
            push(&mut rows, &child, "text", Leaf::Str("about as long as a line of a log"))?;
        }
        let op = Op::Overlay { base: path("log")?, rows: rows.finish().context("children of their own")? };
        write(database, op, Identity::Admin)?;
    }
    Ok(())
}

fn rows_hash(child: &Path) -> u64 {
    child.as_str().bytes().fold(7, |hash, byte| hash * 31 + u64::from(byte))
}

fn push(rows: &mut RowsBuilder, child: &Path, field: &str, leaf: Leaf<'_>) -> Result<()> {
    let mut value = Vec::new();
    leaf.encode(&mut value);
    rows.push(&child.child(field)?.encode(), &value);
    Ok(())
}

fn ask(database: &Database, side: &str, from: bool, numbers: &Shuffled) -> Result<Histogram<u64>> {
    let mut times = Histogram::new(3)?;
    let log = path("log")?;
    for turn in 0..QUERIES {
        let start = numbers.number(turn).to_string();
        let mut params = vec![("orderBy", "\"at\""), (side, "10")];
        if from {
            params.push(("startAt", &start));
        }
        let query: Query = parse_rest(&params)?.context("a query")?;
        let begun = Instant::now();
        let (_, json) = Window::open(&database.try_snapshot()?, log.clone(), query, Format::Plain, 1_000)?;
        times.record(u64::try_from(begun.elapsed().as_nanos())?)?;
        ensure!(from || json.len() > 400, "ten children are more than {} bytes", json.len());
    }
    Ok(times)
}

/// Ten conditions and two look-ups beside the cascade to them.
const REALISTIC: &str = r#"
    ".read": "auth != null",
    "$child": {
        ".write": "auth != null && auth.uid.length < 64 && root.child('members').child(auth.uid).val() == true && !root.child('banned/' + auth.uid).exists()",
        ".validate": "newData.hasChildren(['at', 'a', 'b', 'text']) && newData.child('at').isNumber() && newData.child('at').val() <= now",
        "text": {".validate": "newData.isString() && newData.val().length < 1000"},
        "a": {".validate": "newData.isNumber() && newData.val() >= 0"}
    }"#;

fn writes(dir: &TempDir) -> Result<()> {
    println!("\none write of a child with four values, {WRITES} in a commit, beside 100,000 others");
    println!("{:>8} {:>12} {:>12} {:>16}", "indexes", "rules", "us a write", "more than first");
    let mut first = None;
    let mut plain = Vec::new();
    for (indexes, count) in [("[]", 0), (r#"["at"]"#, 1), (r#"["at", "a", "text"]"#, 3)] {
        for ruled in [false, true] {
            let database = open(dir, &format!("writes-{count}-{ruled}"))?;
            fill(&database, 100_000, &Shuffled(RandomState::new()))?;
            let open = r#""$child": {".write": true}"#;
            let log = if ruled { REALISTIC } else { open };
            rules(&database, &format!(r#"{{"rules": {{"log": {{".indexOn": {indexes}, {log}}}}}}}"#))?;
            let member =
                Op::Set { location: Location::Node(path("members/ann")?), rows: Rows::from_leaf(Leaf::Bool(true)) };
            write(&database, member, Identity::Admin)?;
            let us = time_writes(&database)?;
            let base = *first.get_or_insert(us);
            println!("{count:>8} {:>12} {us:>12.2} {:>16.2}", if ruled { "realistic" } else { "one" }, us - base);
            plain.push(us);
        }
    }
    if let [without, with, ..] = plain[..] {
        figure("realistic rules", with - without, "us a write", Bar::AtMost(5.0));
    }
    Ok(())
}

fn time_writes(database: &Database) -> Result<f64> {
    let numbers = Shuffled(RandomState::new());
    let who = Identity::user(ann());
    let mut best = f64::INFINITY;
    for commit in 0..COMMITS {
        let steps = (0..WRITES).map(|write| step((commit * WRITES + write) as u64, &numbers)).collect::<Result<_>>()?;
        let begun = Instant::now();
        write(database, Op::Batch(steps), who.clone())?;
        best = best.min(begun.elapsed().as_secs_f64() * 1e6 / WRITES as f64);
    }
    Ok(best)
}

fn ann() -> serde_json::Value {
    serde_json::json!({"uid": "ann", "provider": "password", "token": {"sub": "ann", "email": "ann@example.org"}})
}

fn step(number: u64, numbers: &Shuffled) -> Result<Op> {
    let child = path(&format!("n{}", numbers.number(number)))?;
    let mut rows = RowsBuilder::new();
    push(&mut rows, &Path::root(), "a", Leaf::Int(numbers.number(number + 1)))?;
    push(&mut rows, &Path::root(), "at", Leaf::Int(numbers.number(number + 2)))?;
    push(&mut rows, &Path::root(), "b", Leaf::Bool(true))?;
    push(&mut rows, &Path::root(), "text", Leaf::Str("about as long as a line of a log"))?;
    let location = Location::Node(path("log")?.join(&child)?);
    Ok(Op::Set { location, rows: rows.finish().context("four values")? })
}
