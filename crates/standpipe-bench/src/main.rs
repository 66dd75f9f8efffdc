//! `cargo xtask bench NAME`: the release binary side by side with the peers it is compared with,
//! in one run, over loopback. The server side is pinned to core 0 and the load to core 1, so that
//! what the load costs is not counted. It prints figures and ratios with the bars they have to
//! meet and asserts none of them: a shared machine is too noisy for that.

#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

mod bare;
mod fanout;
mod figures;
mod firebase;
mod get;
mod idle;
mod import;
mod jobs;
mod machine;
mod mcp;
mod nginx;
mod process;
mod put;
mod query;
mod redis;
mod rules;
mod runs;
mod start;
mod streams;
mod viewers;
mod wrk;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tempfile::TempDir;

use crate::process::Side;

#[derive(Debug, Parser)]
#[command(about = "Benchmarks of the release binary, side by side with its peers")]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
    #[command(flatten)]
    pace: Pace,
}

/// How long each figure is measured.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Pace {
    /// Seconds of load in each round of a side
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Rounds of each side; the sides take turns
    #[arg(long, global = true, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

#[derive(Clone, Debug, Subcommand)]
enum Bench {
    /// Reads of a small value: requests/s and CPU per request, latency under 1,000 connections
    Get,
    /// Durable writes of small values from 50 connections
    Put,
    /// One path, 1,000 watchers: CPU per delivery, latency, nothing lost or out of order
    Fanout,
    /// Memory for each idle connection and each idle watcher
    Idle,
    /// Jobs that do nothing through admission, queue and workers, beside the threadpool crate
    Jobs,
    /// The RESP and line doors beside redis-server: PING, GET, durable SET, 1,000 connections, idle memory
    Resp,
    /// The Firebase door beside firebase-server: sets, events, thousands of listens
    Firebase,
    /// Decisions of the security rules: nanoseconds for each
    Rules,
    /// Queries with a limit over an index, and what indexes and rules cost a write, inside the engine
    Query,
    /// `standpipe import` of large files: MB/s and peak memory
    Import,
    /// From exec to the ready line on a store of more than 1 GB
    Start,
    /// One stream of 1 GB, nobody to fifty following it, and many short ones, inside the engine
    Streams,
    /// Runs beside websocketd: lines per CPU second to viewers, latency, starts, idle memory
    Runs(runs::Which),
    /// The MCP gateway beside supergateway and two mcp-proxies: latency, calls/s, CPU per call, memory, start
    Mcp,
    /// A child of `runs`: lines that are times
    #[command(hide = true)]
    Tick {
        /// Lines a second
        rate: u32,
        /// For how long
        seconds: u32,
    },
    /// The peer of `get` and `idle`: hyper and nothing else, on a free port
    #[command(hide = true)]
    BareHyper {
        /// The body of every answer
        body: String,
        /// A header of every answer, `name: value`
        headers: Vec<String>,
    },
}

fn main() -> Result<()> {
    let Arguments { bench, pace } = Arguments::parse();
    if let Bench::BareHyper { body, headers } = bench {
        return bare::serve(body, &headers);
    }
    if let Bench::Tick { rate, seconds } = bench {
        return runs::tick(rate, seconds);
    }
    // No server, no peer: the rules alone.
    if matches!(bench, Bench::Rules) {
        return rules::run(pace);
    }
    if matches!(bench, Bench::Query) {
        machine::print(&std::env::current_exe()?)?;
        return query::run();
    }
    if matches!(bench, Bench::Streams) {
        machine::print(&std::env::current_exe()?)?;
        return streams::run();
    }
    process::raise_descriptor_limit()?;
    // Both sides of `jobs` are in this process.
    if !matches!(bench, Bench::Jobs) {
        process::pin(Side::Load)?;
    }
    let run = Run::begin(pace)?;
    machine::print(&run.binary)?;
    match bench {
        Bench::Get => get::run(&run),
        Bench::Put => put::run(&run),
        Bench::Fanout => fanout::run(&run),
        Bench::Idle => idle::run(&run),
        Bench::Jobs => jobs::run(pace),
        Bench::Resp => redis::run(&run),
        Bench::Firebase => firebase::run(&run),
        Bench::Import => import::run(&run),
        Bench::Start => start::run(&run),
        Bench::Runs(which) => runs::run(&run, which),
        Bench::Mcp => mcp::run(&run),
        Bench::Rules | Bench::Query | Bench::Streams | Bench::Tick { .. } | Bench::BareHyper { .. } => {
            unreachable!("returned above")
        }
    }
}

/// One run: its pace, its folder, and the binary it measures.
#[derive(Debug)]
struct Run {
    pace: Pace,
    /// Below `target`: a real disk, which the system's temporary folder may not be, and the same
    /// one for every side.
    dir: TempDir,
    /// A copy, so that a build during the run changes nothing.
    binary: PathBuf,
}

impl Run {
    fn begin(pace: Pace) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(target()?)?;
        let (built, binary) = (target()?.join("release/standpipe"), dir.path().join("standpipe"));
        std::fs::copy(&built, &binary)
            .with_context(|| format!("no {}: cargo build --release -p standpipe", built.display()))?;
        Ok(Self { pace, dir, binary })
    }

    /// A path in its folder.
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// The `target` folder, which holds `release/standpipe-bench`.
fn target() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.ancestors().nth(2).context("not below a target folder")?.to_owned())
}
