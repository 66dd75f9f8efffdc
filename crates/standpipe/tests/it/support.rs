//! What several modules share: starting servers, random numbers with a printed seed, figures of
//! `/metrics`, and a log that must stay quiet.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use standpipe_testkit::http::{Response, request};
use standpipe_testkit::{Launch, Server};

/// A `standpipe dev` on a fresh folder.
pub(crate) fn dev() -> Server {
    Launch::dev().start().unwrap()
}

/// A `standpipe dev` with a configuration file of this text.
pub(crate) fn dev_with(config: &str) -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("standpipe.toml");
    std::fs::write(&file, config).unwrap();
    (Launch::dev().args(["--config".as_ref(), file.as_os_str()]).start().unwrap(), dir)
}

/// A write that must succeed; gives its revision.
pub(crate) fn write(addr: SocketAddr, method: &str, target: &str, body: &str) -> u64 {
    let got = request(addr, method, target, &[], body.as_bytes()).unwrap();
    assert!(matches!(got.status, 200 | 204), "{method} {target}: {} {}", got.status, got.text());
    rev(&got)
}

/// The revision of an accepted write.
pub(crate) fn rev(response: &Response) -> u64 {
    response.header("x-standpipe-rev").expect("every accepted write says its revision").parse().unwrap()
}

/// Ends the test's server and fails where its log holds a warning or an error that is not listed.
pub(crate) fn quiet(mut server: Server, listed: &[&str]) {
    let status = server.stop().unwrap();
    let log = server.stderr();
    assert!(status.success(), "{status}\n{log}");
    let loud = |line: &&str| ["WARN", "ERROR", "panicked"].iter().any(|level| line.contains(level));
    let unlisted: Vec<_> =
        log.lines().filter(loud).filter(|line| !listed.iter().any(|part| line.contains(part))).collect();
    assert!(unlisted.is_empty(), "unlisted: {unlisted:#?}");
}

/// Compares a page of `docs` with what it has to be, or writes it where that is asked for.
pub(crate) fn check_page(name: &str, page: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    if std::env::var_os("STANDPIPE_UPDATE_DOCS").is_some() {
        std::fs::write(&file, page).unwrap();
    }
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(there == page, "docs/{name} is not what the tests have seen: run them with STANDPIPE_UPDATE_DOCS=1");
}

/// A number from the environment, or the default; printed, so that a failure can be run again.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    eprintln!("{name}={value}");
    value
}

/// Random numbers for tests (splitmix64): the same for the same seed.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Seeded from `STANDPIPE_TEST_SEED` or the clock; prints the seed.
    pub(crate) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
        Self(setting("STANDPIPE_TEST_SEED", now.as_nanos() as u64))
    }

    /// Another generator, of its own sequence.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The sum of all series of this name in `/metrics`.
pub(crate) fn metric(addr: SocketAddr, name: &str) -> u64 {
    series(&request(addr, "GET", "/metrics", &[], b"").unwrap().text(), name)
}

/// The same of the series that have all these labels, as in `door="http"`.
pub(crate) fn metric_of(addr: SocketAddr, name: &str, labels: &[&str]) -> u64 {
    let metrics = request(addr, "GET", "/metrics", &[], b"").unwrap().text();
    let lines = metrics.lines().filter(|line| labels.iter().all(|label| line.contains(label)));
    series(&lines.collect::<Vec<_>>().join("\n"), name)
}

/// Requests that are begun and not ended, the question included.
pub(crate) fn requests_open(addr: SocketAddr) -> u64 {
    let metrics = request(addr, "GET", "/metrics", &[], b"").unwrap().text();
    series(&metrics, "standpipe_requests_begun_total") - series(&metrics, "standpipe_requests_total")
}

fn series(metrics: &str, name: &str) -> u64 {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = if rest.starts_with('{') { rest.split_once("} ")?.1 } else { rest.strip_prefix(' ')? };
        value.split(' ').next()?.parse::<f64>().ok()
    });
    values.sum::<f64>() as u64
}

/// Whether all counters balance while only this question is open: connections accepted are
/// closed, requests begun are ended, nobody watches and nothing waits. The error shows the figures.
pub(crate) fn balanced(addr: SocketAddr) -> Result<(), String> {
    let metrics = request(addr, "GET", "/metrics", &[], b"").unwrap().text();
    let figures = [
        ("standpipe_connections_accepted_total", "standpipe_connections_closed_total", 1),
        ("standpipe_requests_begun_total", "standpipe_requests_total", 1),
        ("standpipe_watchers", "", 0),
        ("standpipe_queue_jobs", "", 0),
        ("standpipe_database_queue_intents", "", 0),
    ];
    for (more, less, by) in figures {
        let less_count = if less.is_empty() { 0 } else { series(&metrics, less) };
        // A figure that is not there at all would balance too.
        if !metrics.contains(more) || series(&metrics, more) != less_count + by {
            return Err(format!("{more} and {less} must differ by {by}:\n{metrics}"));
        }
    }
    Ok(())
}

/// Lets this process, and the servers it starts, open this many descriptors.
pub(crate) fn descriptors(count: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let have = getrlimit(Resource::Nofile);
    if have.current.is_some_and(|current| current < count) {
        let maximum = have.maximum.map(|maximum| maximum.max(count));
        setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum }).expect("descriptors for the test");
    }
}
