//! What a stream takes and what it costs, inside the engine and without a door: one producer of lines as fast as it can, with
//! synced commits and the oldest chunks going behind it, and nobody, one and fifty who follow it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use standpipe_engine::{
    Appender, Channel, Engine, EngineConfig, From, NewRecord, Outcome, StreamRead, StreamWatch, Streams,
};
use standpipe_tree::Path;

use crate::figures::{Bar, figure};
use crate::target;

/// Bytes of the stream.
const BYTES: u64 = 1 << 30;
/// Bytes of a line.
const LINE: usize = 100;
/// Lines that a producer has at once: about what it reads of a pipe.
const LINES: usize = 650;
/// Bytes read back at once by who is behind.
const READ_BACK: usize = 1 << 20;
/// Short streams, one after the other from each of several producers.
const SHORT: (usize, usize) = (50, 40);

/// Prints the figures.
///
/// # Errors
/// The engine refuses something, or a watcher misses a byte.
pub(crate) fn run() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(target()?)?;
    let engine = Engine::open(EngineConfig::new(dir.path()), Arc::new(|_| {}))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("\none stream of {} MB in lines of {LINE} bytes, synced commits, 256 MiB kept", BYTES / 1_000_000);
    for watchers in [0, 1, 50] {
        let (time, cpu) = runtime.block_on(long(engine.streams(), watchers))?;
        let mb = BYTES as f64 / 1e6;
        println!(
            "{watchers:>3} watchers: {:.0} MB/s, {:.2} ms of processor for each MB",
            mb / time.as_secs_f64(),
            cpu.as_secs_f64() * 1e3 / mb
        );
        if watchers == 0 {
            figure("append", mb / time.as_secs_f64(), "MB/s", Bar::AtLeast(200.0));
        }
    }
    let (time, cpu) = runtime.block_on(short(engine.streams()))?;
    let streams = (SHORT.0 * SHORT.1) as f64;
    println!(
        "short streams (create, one line, end): {:.0}/s, {:.0} us of processor for each",
        streams / time.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / streams
    );
    engine.close();
    Ok(())
}

async fn long(streams: &Arc<Streams>, watchers: usize) -> Result<(Duration, Duration)> {
    let at = Path::parse(&format!("bench/{watchers}"))?;
    let appender = streams.create(&at).await?;
    let (begun, cpu) = (Instant::now(), cpu()?);
    let mut following = Vec::new();
    for _ in 0..watchers {
        following.push(tokio::spawn(follow(streams.watch(&at, From::Start)?)));
    }
    let produced = tokio::spawn(produce(appender)).await?;
    produced?;
    let time = begun.elapsed();
    for follower in following {
        let (seen, gone) = follower.await??;
        ensure!(seen + gone == BYTES / LINE as u64, "a watcher saw {seen} lines and missed {gone}");
    }
    streams.remove(vec![at]).await?;
    Ok((time, self::cpu()? - cpu))
}

async fn produce(appender: Appender) -> Result<()> {
    let line = Bytes::from([&[b'x'; LINE - 1][..], b"\n"].concat());
    let mut left = BYTES / LINE as u64;
    while left > 0 {
        let lines = left.min(LINES as u64);
        let record = |_| NewRecord { channel: Channel::Out, at_ms: 1_790_000_000_000, bytes: line.clone() };
        appender.append((0..lines).map(record).collect()).await?;
        left -= lines;
    }
    appender.flush().await?;
    Ok(appender.end(Outcome::of("succeeded")).await?)
}

/// Follows to the end as a door would that sends bytes as they are. Lines that were seen, and that were gone.
async fn follow(mut watch: StreamWatch) -> Result<(u64, u64)> {
    let (mut bytes, mut gone) = (0, 0);
    loop {
        let position = watch.position();
        let reads = match watch.read() {
            StreamRead::Nothing => {
                watch.changed().await;
                continue;
            }
            // A door does this on a worker; here there is nobody else to be held up.
            StreamRead::Behind => watch.catch_up(READ_BACK)?,
            read => vec![read],
        };
        for read in reads {
            match read {
                StreamRead::Chunk(chunk, _) => bytes += chunk.payload().len() as u64,
                StreamRead::Gap { first_left } => gone += first_left - position,
                StreamRead::Ended(_) => return Ok((bytes / LINE as u64, gone)),
                StreamRead::Nothing | StreamRead::Behind => {}
            }
        }
        // As after a write to a socket.
        tokio::task::yield_now().await;
    }
}

async fn short(streams: &Arc<Streams>) -> Result<(Duration, Duration)> {
    let (begun, cpu) = (Instant::now(), cpu()?);
    let mut producers = Vec::new();
    for producer in 0..SHORT.0 {
        let streams = streams.clone();
        producers.push(tokio::spawn(async move {
            for number in 0..SHORT.1 {
                let appender = streams.create(&Path::parse(&format!("short/{producer}/{number}"))?).await?;
                let record = NewRecord { channel: Channel::Out, at_ms: 0, bytes: Bytes::from_static(b"line\n") };
                appender.append(vec![record]).await?;
                appender.end(Outcome::of("succeeded")).await?;
            }
            anyhow::Ok(())
        }));
    }
    for producer in producers {
        producer.await??;
    }
    Ok((begun.elapsed(), self::cpu()? - cpu))
}

/// What this process has used of its processors.
fn cpu() -> Result<Duration> {
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Ok(Duration::new(u64::try_from(clock.tv_sec)?, u32::try_from(clock.tv_nsec)?))
}
