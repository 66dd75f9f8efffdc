//! One path or channel, a thousand watchers over event streams, and publishers that count up:
//! what a delivery costs the server, how long it takes, and that nothing is lost or out of order.
//! The client reads the stream only as far as it must to find the number of each event.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep, sleep_until};

use crate::figures::{Bar, missing, ratio};
use crate::process::Server;
use crate::{Run, nginx};

const WATCHERS: usize = 1_000;
/// Publications per second, offered.
const RATES: [u32; 3] = [50, 200, 1_000];
/// Publishers take turns, each with its own connection: one that waits for its durable write could
/// not offer the highest rate. Publisher `p` sends the numbers `n % LANES == p`, in order.
const LANES: usize = 8;
/// How long deliveries may stand still before the rest counts as lost.
const STILL: Duration = Duration::from_secs(3);

/// A side: the requests that attach to and publish in a channel.
#[derive(Debug)]
struct Peer {
    server: Server,
    watch: fn(&str) -> String,
    publish: fn(&str) -> String,
}

/// Prints every series and the ratios.
///
/// # Errors
/// A side does not start or refuses a request.
pub(crate) fn run(run: &Run) -> Result<()> {
    println!("\nfan-out of small numbers, {WATCHERS} watchers of one path");
    let server = Server::standpipe(run, "data")?;
    let mut peers = vec![Peer {
        server,
        watch: |channel| format!("GET /bench/fan/{channel}.json"),
        publish: |channel| format!("PUT /bench/fan/{channel}.json?print=silent"),
    }];
    match nginx::start(run.dir.path(), "", true)? {
        Some(server) => peers.push(Peer {
            server,
            watch: |channel| format!("GET /sub/{channel}"),
            publish: |channel| format!("POST /pub/{channel}"),
        }),
        None => missing("nginx with nchan", nginx::INSTALL),
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for rate in RATES {
        let mut costs = vec![Vec::new(); peers.len()];
        for round in 1..=run.pace.rounds {
            for (peer, costs) in peers.iter().zip(&mut costs) {
                let channel = format!("r{rate}n{round}");
                let series = series(peer, &channel, rate, round, run.pace.seconds);
                costs.push(LocalSet::new().block_on(&runtime, series)?);
            }
        }
        if let [ours, theirs] = &costs[..] {
            let what = format!("CPU per delivery at {rate}/s, standpipe / nchan");
            ratio(&what, ours, theirs, Bar::AtMost(0.5));
        }
    }
    Ok(())
}

/// What the watchers have seen.
struct Tally {
    /// When the request with each number was sent.
    sent: Vec<Option<Instant>>,
    delivered: usize,
    /// Numbers that came after a later one of their publisher, or twice.
    disordered: usize,
    /// In microseconds, from the start of the request.
    latency: Histogram<u64>,
}

type Shared = Rc<RefCell<Tally>>;

/// One round. Returns microseconds of the server's processor for each delivery.
async fn series(peer: &Peer, channel: &str, rate: u32, round: u32, seconds: u32) -> Result<f64> {
    let count = (rate * seconds) as usize;
    let latency = Histogram::new_with_max(60_000_000, 3)?;
    let tally = Rc::new(RefCell::new(Tally { sent: vec![None; count], delivered: 0, disordered: 0, latency }));
    let addr = peer.server.addr;
    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        let mut stream = TcpStream::connect(addr).await?;
        attach(&mut stream, &(peer.watch)(channel)).await?;
        watchers.spawn_local(watch(stream, Rc::clone(&tally)));
    }
    // What attaching costs is over: the first events have been sent.
    sleep(Duration::from_millis(300)).await;
    let (cpu, start) = (peer.server.process.cpu()?, Instant::now());
    let mut publishers = JoinSet::new();
    for lane in 0..LANES {
        let request = (peer.publish)(channel);
        publishers.spawn_local(publish(addr, request, lane, rate, Rc::clone(&tally)));
    }
    while let Some(done) = publishers.join_next().await {
        done??;
    }
    let published = start.elapsed();
    let count = tally.borrow().sent.iter().flatten().count();
    settle(&tally, count * WATCHERS).await;
    let cpu = peer.server.process.cpu()? - cpu;
    drop(watchers);
    let tally = tally.borrow();
    let cost = cpu.as_secs_f64() * 1e6 / tally.delivered as f64;
    println!(
        "{:>24} {round:>5}: {rate:>5}/s offered {:>5.0}/s done {cost:>6.2} CPU us/delivery  {:>3.0}% CPU  p50 {:>7.2} ms  \
         p99 {:>7.2} ms  delivered {} lost {} disordered {}",
        peer.server.name,
        count as f64 / published.as_secs_f64(),
        cpu.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0,
        tally.latency.value_at_quantile(0.5) as f64 / 1e3,
        tally.latency.value_at_quantile(0.99) as f64 / 1e3,
        tally.delivered,
        (count * WATCHERS).saturating_sub(tally.delivered),
        tally.disordered,
    );
    Ok(cost)
}

/// Waits until all is delivered, or nothing more comes.
async fn settle(tally: &Shared, expected: usize) {
    let (mut before, mut since) = (0, Instant::now());
    while before < expected && since.elapsed() < STILL {
        sleep(Duration::from_millis(20)).await;
        let now = tally.borrow().delivered;
        if now > before {
            (before, since) = (now, Instant::now());
        }
    }
}

/// Asks for a stream of events (`request` is the method and the path) and reads the head of the
/// answer.
pub(crate) async fn attach(stream: &mut TcpStream, request: &str) -> Result<()> {
    let request = format!("{request} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    // Byte by byte: what follows the head belongs to the watcher.
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    ensure!(head.starts_with("HTTP/1.1 200"), "{request}{head}");
    Ok(())
}

/// Reads events until it is dropped or the server ends the stream.
async fn watch(mut stream: TcpStream, tally: Shared) -> Result<()> {
    let mut buffer = Vec::with_capacity(64 << 10);
    let mut last = [None; LANES];
    while stream.read_buf(&mut buffer).await? > 0 {
        let now = Instant::now();
        let end = buffer.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut tally = tally.borrow_mut();
        for number in buffer[..end].split(|byte| *byte == b'\n').filter_map(number) {
            tally.take(number, &mut last, now);
        }
        buffer.drain(..end);
    }
    Ok(())
}

impl Tally {
    fn take(&mut self, number: usize, last: &mut [Option<usize>; LANES], now: Instant) {
        let last = &mut last[number % LANES];
        match self.sent.get(number) {
            Some(Some(sent)) if *last < Some(number) => {
                self.delivered += 1;
                self.latency.saturating_record(u64::try_from((now - *sent).as_micros()).unwrap_or(u64::MAX));
                *last = Some(number);
            }
            _ => self.disordered += 1,
        }
    }
}

/// The number that ends a line of data: `data: 5` and `data: {"path":"/","data":5}` hold 5. Other
/// lines, and data without a number, hold none.
fn number(line: &[u8]) -> Option<usize> {
    let data = line.strip_prefix(b"data: ")?.trim_ascii_end();
    let data = data.strip_suffix(b"}").unwrap_or(data);
    let digits = data.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&data[data.len() - digits..]).ok()?.parse().ok()
}

/// Sends the numbers of one publisher, each when it is due and the one before is answered. A server
/// that does not keep up with the rate gets twice the time, and the rest is not sent.
async fn publish(addr: SocketAddr, line: String, lane: usize, rate: u32, tally: Shared) -> Result<()> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (start, count) = (Instant::now(), tally.borrow().sent.len());
    let due = |number: usize| start + Duration::from_secs_f64(number as f64 / f64::from(rate));
    let end = due(2 * count);
    for number in (lane..count).step_by(LANES) {
        sleep_until(due(number)).await;
        if Instant::now() > end {
            break;
        }
        let body = number.to_string();
        let length = body.len();
        tally.borrow_mut().sent[number] = Some(Instant::now());
        let request = format!("{line} HTTP/1.1\r\nHost: {addr}\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await?;
        answer(&mut stream).await?;
    }
    Ok(())
}

/// Reads one answer to its end and checks that it is a success.
pub(crate) async fn answer(stream: &mut TcpStream) -> Result<()> {
    let mut bytes = Vec::new();
    loop {
        ensure!(stream.read_buf(&mut bytes).await? > 0, "closed before the answer");
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        ensure!(head.starts_with("HTTP/1.1 2"), "{text}");
        let head = head.to_ascii_lowercase();
        let length = head.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next());
        let length: usize = length.map_or(Ok(0), str::parse).context("no length")?;
        if body.len() >= length {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_events_of_both_sides() {
        let check = |line: &str, expected| assert_eq!(number(line.as_bytes()), expected, "{line}");
        check("data: 5", Some(5));
        check("data: {\"path\":\"/\",\"data\":17}", Some(17));
        check("data: {\"path\":\"/\",\"data\":17}\r", Some(17));
        check("data: {\"path\":\"/\",\"data\":null}", None);
        check("data: null", None);
        check("id: 1795548567:0", None);
        check("event: put", None);
    }

    #[test]
    fn a_gap_is_no_disorder_and_a_repetition_is() {
        let sent = vec![Some(Instant::now()); 3 * LANES];
        let latency = Histogram::new(3).expect("three digits are few");
        let mut tally = Tally { sent, delivered: 0, disordered: 0, latency };
        let mut last = [None; LANES];
        let mut check = |number, expected| {
            tally.take(number, &mut last, Instant::now());
            assert_eq!((tally.delivered, tally.disordered), expected, "{number}");
        };
        check(0, (1, 0));
        check(2 * LANES, (2, 0));
        check(1, (3, 0));
        check(2 * LANES, (3, 1));
        check(LANES, (3, 2));
        check(3 * LANES, (3, 3));
    }
}
