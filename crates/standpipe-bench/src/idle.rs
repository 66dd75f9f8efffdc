//! Memory that ten thousand connections cost which do nothing: some that made one request, some
//! that made none, some that watch a path nobody writes to.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

use crate::Run;
use crate::fanout::{answer, attach};
use crate::figures::{Bar, figure};
use crate::process::Server;

const CONNECTIONS: u32 = 10_000;
/// Connections from one source address, well below the ports of one.
const PER_ADDRESS: u32 = 5_000;

/// What each connection does before it falls silent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Series {
    Silent,
    OneGet,
    Watch,
    /// A command that is answered with a line.
    Ping(&'static [u8]),
}

impl Series {
    fn name(self) -> &'static str {
        match self {
            Self::Silent => "no request",
            Self::OneGet => "one GET",
            Self::Watch => "watching",
            Self::Ping(_) => "one PING",
        }
    }
}

/// Prints the memory of every series.
///
/// # Errors
/// A side does not start, or refuses a connection.
pub(crate) fn run(run: &Run) -> Result<()> {
    println!("\nmemory of {CONNECTIONS} idle connections");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // A server for each series: memory that one has freed is not the next one's.
    for (series, bar) in [(Series::OneGet, 12.0), (Series::Silent, 12.0), (Series::Watch, 8.0)] {
        let server = Server::standpipe(run, series.name())?;
        let kib = runtime.block_on(growth(&server, series))?;
        figure(&format!("standpipe, {}", series.name()), kib, "KiB/connection", Bar::AtMost(bar));
    }
    for series in [Series::OneGet, Series::Silent] {
        runtime.block_on(growth(&Server::bare_hyper("21.5", &[])?, series))?;
    }
    Ok(())
}

/// Private KiB that each idle connection adds to `server`.
///
/// # Errors
/// It refuses a connection.
pub(crate) fn kib_each(server: &Server, series: Series) -> Result<f64> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(growth(server, series))
}

/// Prints what the connections add to the server's memory, and returns the private KiB of each.
async fn growth(server: &Server, series: Series) -> Result<f64> {
    // The first connections bring in what every server needs once.
    let warm = open(server.addr, series, 0..10).await?;
    let before = Memory::settled(server.process.pid()).await?;
    let held = open(server.addr, series, 10..10 + CONNECTIONS).await?;
    let after = Memory::settled(server.process.pid()).await?;
    let each = |before: u64, after: u64| (after as f64 - before as f64) / f64::from(CONNECTIONS);
    let private = each(before.private_kib, after.private_kib);
    println!(
        "{:>24} {:>10}: {:>6.1} MiB before {:>6.1} MiB after  {private:>5.1} KiB private {:>5.1} KiB resident/connection",
        server.name,
        series.name(),
        before.resident_kib as f64 / 1024.0,
        after.resident_kib as f64 / 1024.0,
        each(before.resident_kib, after.resident_kib),
    );
    drop((warm, held));
    Ok(private)
}

/// Opens connections, each from the source address that is its number's, and lets each do its part.
async fn open(addr: SocketAddr, series: Series, numbers: std::ops::Range<u32>) -> Result<Vec<TcpStream>> {
    let mut held = Vec::new();
    for number in numbers {
        let source = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + 1 + number / PER_ADDRESS);
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        let mut stream = socket.connect(addr).await?;
        match series {
            Series::Silent => {}
            Series::OneGet => {
                stream.write_all(b"GET /bench/idle.json HTTP/1.1\r\nHost: bench\r\n\r\n").await?;
                answer(&mut stream).await?;
            }
            Series::Ping(ping) => {
                stream.write_all(ping).await?;
                ensure!(stream.read(&mut [0; 64]).await? > 0, "no answer");
            }
            Series::Watch => attach(&mut stream, "GET /bench/idle.json").await?,
        }
        held.push(stream);
    }
    Ok(held)
}

/// Memory of a process, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) resident_kib: u64,
    pub(crate) private_kib: u64,
}

impl Memory {
    fn of(pid: u32) -> Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let field = |name: &str| -> Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()).context("no such field")?;
            Ok(number.parse()?)
        };
        Ok(Self { resident_kib: field("Rss:")?, private_kib: field("Private_Clean:")? + field("Private_Dirty:")? })
    }

    /// That of `server`, once it stands still.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn now_settled(server: &Server) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(Self::settled(server.process.pid()))
    }

    /// The memory once it has stood still, within 1 in 1,000, for a second; at most ten are waited.
    pub(crate) async fn settled(pid: u32) -> Result<Self> {
        let mut last = Self::of(pid)?;
        for _ in 0..10 {
            sleep(Duration::from_secs(1)).await;
            let now = Self::of(pid)?;
            if now.private_kib.abs_diff(last.private_kib) * 1_000 <= last.private_kib {
                return Ok(now);
            }
            last = now;
        }
        Ok(last)
    }
}
