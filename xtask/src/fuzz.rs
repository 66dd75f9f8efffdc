//! `cargo xtask fuzz`: runs the targets of `fuzz/` with libFuzzer, from their seeds and from what
//! earlier runs found. What they check is in `crates/standpipe-fuzz`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{run, tools};

/// How long each target runs unless told.
const SECONDS: u64 = 60;

/// Runs one target, or each in turn: `[TARGET] [--seconds N]`.
///
/// # Errors
/// A check failed (the input is kept below `fuzz/artifacts`), or the fuzzer could not be built.
pub(crate) fn fuzz(arguments: &[&str]) -> Result<()> {
    let (target, seconds) = match arguments {
        [] => (None, SECONDS),
        ["--seconds", seconds] => (None, seconds.parse().context("--seconds")?),
        [target] => (Some(*target), SECONDS),
        [target, "--seconds", seconds] => (Some(*target), seconds.parse().context("--seconds")?),
        _ => bail!("usage: cargo xtask fuzz [TARGET] [--seconds N]"),
    };
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").canonicalize()?;
    let mut targets = targets(&dir)?;
    if let Some(target) = target {
        if !targets.iter().any(|have| have == target) {
            bail!("no target {target}; there are: {}", targets.join(", "));
        }
        targets = vec![target.to_owned()];
    }
    let fuzzer = tools::cargo_fuzz()?;
    targets.iter().try_for_each(|target| one(&fuzzer, &dir, target, seconds))
}

fn targets(dir: &Path) -> Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in std::fs::read_dir(dir.join("seeds"))? {
        targets.push(entry?.file_name().to_string_lossy().into_owned());
    }
    targets.sort();
    Ok(targets)
}

fn one(fuzzer: &Path, dir: &Path, target: &str, seconds: u64) -> Result<()> {
    let corpus = dir.join("corpus").join(target);
    std::fs::create_dir_all(&corpus)?;
    // Sanitizers and coverage are the compiler's unstable flags; they need no other compiler.
    run(Command::new(fuzzer)
        .args(["fuzz", "run", "--fuzz-dir"])
        .arg(dir)
        .args(["--target-dir"])
        .arg(dir.join("target"))
        .arg(target)
        .arg(corpus)
        .arg(dir.join("seeds").join(target))
        .args(["--", &format!("-max_total_time={seconds}"), "-max_len=4096", "-timeout=10", "-print_final_stats=1"])
        .env("RUSTC_BOOTSTRAP", "1"))
}
