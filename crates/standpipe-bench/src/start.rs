//! From exec to the ready line on a store of more than 1 GB: what opening it costs, with its pages
//! in memory and without.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::fs::{Advice, fadvise, fsync};

use crate::Run;
use crate::figures::{Bar, figure};
use crate::import::{files, generate, import, stored};
use crate::process::Server;

/// The store holds at least this much.
const STORE_BYTES: u64 = 1_000_000_000;
/// JSON to begin with; twice as much each time it is too little.
const JSON_BYTES: u64 = 300_000_000;
const STARTS: usize = 10;

/// Prints the times.
///
/// # Errors
/// The store can't be made or opened.
pub(crate) fn run(run: &Run) -> Result<()> {
    println!("\nstart on a large store");
    let data = run.path("data");
    make(run, &data)?;
    println!("store: {:.2} GB", stored(&data)? as f64 / 1e9);
    for (what, cold) in [("pages in memory", false), ("pages on disk", true)] {
        let mut times = (0..STARTS).map(|_| time(run, &data, cold)).collect::<Result<Vec<_>>>()?;
        times.sort_unstable();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!("{what:>24}: fastest {:.1} ms, slowest {:.1} ms", ms(times[0]), ms(times[STARTS - 1]));
        figure(&format!("exec to ready, {what}, median of {STARTS}"), ms(times[STARTS / 2]), "ms", Bar::AtMost(50.0));
    }
    Ok(())
}

fn make(run: &Run, data: &Path) -> Result<()> {
    let file = run.path("records.json");
    let mut bytes = JSON_BYTES;
    loop {
        generate(&file, bytes)?;
        import(run, &file, data)?;
        if stored(data)? >= STORE_BYTES {
            return Ok(());
        }
        bytes *= 2;
        ensure!(bytes <= 8 * JSON_BYTES, "a store of {bytes} bytes of JSON is too small");
        std::fs::remove_dir_all(data)?;
    }
}

fn time(run: &Run, data: &Path, cold: bool) -> Result<Duration> {
    if cold {
        files(data)?.iter().try_for_each(|path| forget(path))?;
    }
    let start = Instant::now();
    let server = Server::standpipe(run, "data")?;
    let time = start.elapsed();
    drop(server);
    Ok(time)
}

/// Lets the system drop the pages of a file that it holds in memory.
fn forget(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    fsync(&file)?;
    Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
}
