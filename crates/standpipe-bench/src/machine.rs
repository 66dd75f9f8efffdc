//! What the figures were measured on: processor, kernel, load average, the binary and the commit.
//! The commit is the one checked out; that the binary was built from it is for whoever built it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::Command;

use anyhow::Result;

/// Prints it, two lines.
///
/// # Errors
/// The binary can't be read.
pub(crate) fn print(binary: &Path) -> Result<()> {
    // Not `available_parallelism`: this thread is pinned to one of them.
    let cores = file("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count();
    let kernel = file("/proc/sys/kernel/osrelease");
    let load = file("/proc/loadavg");
    let load = load.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    println!("machine: {} x {cores}, kernel {kernel}, load average {load}", processor());
    // Runs whose digests agree measured the same binary.
    let mut digest = DefaultHasher::new();
    std::fs::read(binary)?.hash(&mut digest);
    println!("binary: digest {:016x}, checked out commit {}", digest.finish(), commit());
    Ok(())
}

fn processor() -> String {
    let info = file("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or("unknown processor", |(_, name)| name).to_owned()
}

/// The commit, and whether the tree differs from it.
fn commit() -> String {
    let output = Command::new("git").args(["describe", "--always", "--dirty", "--exclude=*"]).output();
    output.map_or_else(|_| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The text of a file of the system; empty where there is none.
fn file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
