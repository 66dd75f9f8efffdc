//! Reads of one small value: throughput and processor time beside bare hyper, and the latency of
//! the slowest of a thousand connections beside nginx.

use anyhow::{Result, ensure};
use standpipe_testkit::http::{Response, request};

use crate::figures::{Bar, Load, compare, each, missing, ratio};
use crate::process::Server;
use crate::wrk::{self, Script, turn};
use crate::{Run, nginx};

const PATH: &str = "/bench/v.json";
const VALUE: &str = "21.5";

/// Prints both comparisons.
///
/// # Errors
/// The server does not start or a request fails.
pub(crate) fn run(run: &Run) -> Result<()> {
    if !wrk::is_installed() {
        missing("wrk, which every figure needs", wrk::INSTALL);
        return Ok(());
    }
    let ours = Server::standpipe(run, "data")?;
    let put = request(ours.addr, "PUT", PATH, &[], VALUE.as_bytes())?;
    ensure!(put.status == 200, "PUT: {} {}", put.status, put.text());
    let got = request(ours.addr, "GET", PATH, &[], b"")?;
    ensure!((got.status, &*got.body) == (200, VALUE.as_bytes()), "GET: {} {}", got.status, got.text());
    throughput(&ours, &got, run)?;
    latency(&ours, run)
}

fn throughput(ours: &Server, got: &Response, run: &Run) -> Result<()> {
    println!("\nGET of a small value, 50 connections");
    // hyper adds these itself.
    let added = |name: &str| ["content-length", "date", "connection"].contains(&name);
    let headers = got.headers.iter().filter(|(name, _)| !added(name));
    let headers: Vec<_> = headers.map(|(name, value)| format!("{name}: {value}")).collect();
    let bare = Server::bare_hyper(VALUE, &headers)?;
    let script = Script { path: PATH, lua: "" };
    let loads = compare(vec![turn(ours, script, 50), turn(&bare, script, 50)], run.pace)?;
    for (what, figure, bar) in [
        ("requests/s", Load::rate as fn(&Load) -> f64, Bar::AtLeast(0.8)),
        ("CPU per request", Load::cpu_us, Bar::AtMost(1.3)),
    ] {
        ratio(&format!("{what}, standpipe / bare hyper"), &each(&loads[0], figure), &each(&loads[1], figure), bar);
    }
    Ok(())
}

fn latency(ours: &Server, run: &Run) -> Result<()> {
    println!("\nGET of a small value, 1,000 connections");
    let Some(nginx) = nginx::start(run.dir.path(), VALUE, false)? else {
        missing("nginx", nginx::INSTALL);
        return Ok(());
    };
    let get = |path| Script { path, lua: "" };
    for (what, path) in [("a file", "/v.json"), ("`return 200`", "/return")] {
        println!("nginx serves {what}:");
        let loads = compare(vec![turn(ours, get(PATH), 1_000), turn(&nginx, get(path), 1_000)], run.pace)?;
        let p99 = |loads| each(loads, |load| load.p99.as_secs_f64());
        ratio(&format!("p99, standpipe / nginx, {what}"), &p99(&loads[0]), &p99(&loads[1]), Bar::AtMost(1.3));
    }
    Ok(())
}
