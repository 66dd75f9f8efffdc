//! Developer commands: `cargo xtask check|test|fuzz|bench`. It knows which commands to run, in which
//! order, and stops at the first that fails. What they test lives in the crates.

mod fuzz;
mod tools;

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  check       what must hold before a commit: format, lints, unit tests, docs
  test        everything: installs the tools that tests need, runs doc tests and all tests
  fuzz [TARGET] [--seconds N]
              fuzzes one decoder of outside bytes, or each in turn (a minute each)
  bench NAME  one benchmark, built for release (--help: how long); without NAME, lists them
";

/// Benchmarks of `crates/standpipe-bench`: name, and what it shows.
const BENCHES: &[(&str, &str)] = &[
    ("get", "reads of a small value, beside bare hyper and nginx"),
    ("put", "durable writes of small values, beside etcd and bare LMDB"),
    ("fanout", "one path and 1,000 watchers, beside nginx with nchan"),
    ("idle", "memory of 10,000 idle connections, beside bare hyper"),
    ("jobs", "jobs that do nothing through queue and workers, beside the threadpool crate"),
    ("resp", "PING, GET, durable SET and idle memory, beside redis-server; a PING in lines"),
    ("firebase", "sets, events and listens of the official JavaScript SDK, beside firebase-server"),
    ("rules", "decisions of the security rules, over LMDB and in memory"),
    ("runs", "output of runs to viewers, beside websocketd; latency, starts, idle memory"),
    ("mcp", "the MCP gateway, beside supergateway and the two mcp-proxies"),
    ("query", "queries over an index, and what indexes and rules cost a write, in the engine alone"),
    ("streams", "one stream of 1 GB with nobody to fifty following it, in the engine alone"),
    ("import", "import of large files"),
    ("start", "start on a large store"),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["check"] => check(),
        ["test"] => test(),
        ["fuzz", ref rest @ ..] => fuzz::fuzz(rest),
        ["bench", ref rest @ ..] => bench(rest),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    tests(&["--workspace", "--lib", "--bins"])?;
    run(Command::new(env!("CARGO")).args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

/// The runner of the tests comes last, so that its summary is the last line.
fn test() -> Result<()> {
    let left_out = tools::install()?;
    cargo(&["test", "--workspace", "--doc"])?;
    left_out.iter().for_each(|tool| eprintln!("xtask: left out, tests that need it do nothing: {tool}"));
    tests(&["--workspace"])
}

fn bench(arguments: &[&str]) -> Result<()> {
    let Some((name, _)) = arguments.split_first() else {
        BENCHES.iter().for_each(|(name, shows)| eprintln!("{name:<8} {shows}"));
        return Ok(());
    };
    if !BENCHES.iter().any(|(have, _)| have == name) {
        bail!("no benchmark {name}; cargo xtask bench lists them");
    }
    cargo(&["build", "--release", "-p", "standpipe", "-p", "standpipe-bench"])?;
    cargo(&[&["run", "--release", "-p", "standpipe-bench", "--"], arguments].concat())
}

/// Runs tests with nextest, or with cargo's own runner where nextest is not installed.
fn tests(arguments: &[&str]) -> Result<()> {
    let nextest = Command::new(env!("CARGO")).args(["nextest", "--version"]).output();
    if nextest.is_ok_and(|output| output.status.success()) {
        return cargo(&[&["nextest", "run"], arguments].concat());
    }
    eprintln!("xtask: no cargo-nextest; cargo test runs the tests");
    let all = if arguments.contains(&"--lib") { &[][..] } else { &["--tests"] };
    cargo(&[&["test"], arguments, all].concat())
}

fn cargo(arguments: &[&str]) -> Result<()> {
    run(Command::new(env!("CARGO")).args(arguments))
}

/// Runs a command without input, showing what it is.
fn run(command: &mut Command) -> Result<()> {
    let shown: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let shown = format!("{} {}", command.get_program().to_string_lossy(), shown.join(" "));
    eprintln!("xtask: {shown}");
    let status = command.stdin(Stdio::null()).status().with_context(|| shown.clone())?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}
