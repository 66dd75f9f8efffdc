//! What a call costs in this door alone: processor time of the event loop, the server behind it answering at once. A measurement, to be asked for:
//! `CARGO_PROFILE_TEST_OPT_LEVEL=3 cargo test -p standpipe-doors --lib measure -- --ignored --nocapture`.

use std::io::Read as _;
use std::time::Instant;

use super::bench::{Bench, call, modern};

const CALLS: u32 = 20_000;

/// Processor time of the event loop, in milliseconds.
fn busy_ms() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let of = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        let (name, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
        // utime and stime, in ticks of 10 ms.
        name.contains("(loop-").then_some(ticks * 10.0)
    };
    tasks.filter_map(|task| of(task.ok()?)).sum()
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "a measurement"]
fn measure() {
    let bench = Bench::new();
    let session = bench.open("2025-06-18");
    let cases = [
        ("modern, JSON", modern("tools/call", "echo", r#""a":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx""#)),
        ("legacy, JSON", call(&session, 1, "echo")),
        ("modern, stream of three", modern("tools/call", "progress", "")),
        ("legacy, stream of three", call(&session, 1, "progress")),
        ("health, for comparison", "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned()),
    ];
    for (what, request) in cases {
        let mut client = bench.client();
        let mut bytes = vec![0; 8_192];
        let mut ask = || {
            client.send(&request);
            let mut length = 0;
            // Its end: of the last chunk, or of what came in one piece.
            loop {
                length += client.0.get_mut().read(&mut bytes[length..]).unwrap();
                if !bytes.starts_with(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream")
                    || bytes[..length].ends_with(b"0\r\n\r\n")
                {
                    break;
                }
            }
        };
        ask();
        let (before, since) = (busy_ms(), Instant::now());
        (0..CALLS).for_each(|_| ask());
        let (busy, took) = ((busy_ms() - before) * 1_000.0, since.elapsed().as_micros() as f64);
        let each = f64::from(CALLS);
        eprintln!("{what}: {:.1} us of processor, {:.1} us in all", busy / each, took / each);
    }
}
