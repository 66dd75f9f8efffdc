//! Load over HTTP by `wrk`: one thread on the load core, every connection busy all the time.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::figures::{Load, Turn};
use crate::process::{Server, installed};

/// How to get it.
pub(crate) const INSTALL: &str = "apt-get install wrk";

/// What to ask of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script {
    /// Path of the URL.
    pub(crate) path: &'static str,
    /// Lua that makes the requests; empty for GETs of the path.
    pub(crate) lua: &'static str,
}

/// Whether it is installed.
pub(crate) fn is_installed() -> bool {
    installed("wrk").is_some()
}

/// Puts load on `server` for `seconds`. A request that fails is an error: figures with failures say
/// nothing.
fn load(server: &Server, script: Script, connections: u32, seconds: u32) -> Result<Load> {
    let mut file = tempfile::NamedTempFile::with_suffix(".lua")?;
    std::io::Write::write_all(&mut file, [script.lua, include_str!("report.lua")].concat().as_bytes())?;
    let mut command = Command::new("wrk");
    command.args(["-t1", "--latency", "--timeout", "10s"]);
    command.args([format!("-c{connections}"), format!("-d{seconds}s")]).arg("-s").arg(file.path());
    command.arg(format!("http://{}{}", server.addr, script.path)).stdin(Stdio::null());
    let before = server.process.cpu()?;
    let output = command.output().context(INSTALL)?;
    let cpu = server.process.cpu()? - before;
    let text = String::from_utf8_lossy(&output.stdout);
    let figures = text.lines().find_map(|line| line.strip_prefix("figures "));
    let figures = figures.with_context(|| format!("no figures from wrk: {text}"))?;
    let figures = figures.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    let [requests, time, p50, p99, errors] = figures[..] else { anyhow::bail!("not five figures: {figures:?}") };
    ensure!(errors == 0, "{}: {errors} of {requests} requests failed", server.name);
    let micros = Duration::from_micros;
    Ok(Load { requests, time: micros(time), cpu, p50: micros(p50), p99: micros(p99) })
}

/// [`load`] as a side of a comparison.
pub(crate) fn turn(server: &Server, script: Script, connections: u32) -> Turn<'_> {
    Turn { name: server.name, bear: Box::new(move |seconds| load(server, script, connections, seconds)) }
}
