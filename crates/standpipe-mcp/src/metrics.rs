//! Counters of MCP: what is counted, and who is asked for it. Who counts calls these; nobody else has counters of MCP. How they are written for Prometheus is
//! in `exposition.rs`; what a call adds to them in `meter.rs`.
//!
//! Counting touches atomics only. A name (of a server, tool, prompt or client) is looked up once per call, under a lock for readers; how many names have counters
//! of their own is bounded, and all further ones share those of `other`.

mod exposition;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use standpipe_serve::{Histogram, Limits};

use crate::fault;

/// Servers with counters of their own.
const SERVERS_MAX: usize = 256;
/// Tools and prompts of one server with counters of their own.
const NAMES_MAX: usize = 100;
/// Clients with counters of their own.
const CLIENTS_MAX: usize = 100;
/// Rules with counters of their own.
const RULES_MAX: usize = 256;
/// Longest name of a label, in bytes; the rest of a longer one is cut off.
const LABEL_BYTES_MAX: usize = 128;

/// The name under which everything is counted that has no counters of its own.
pub const OTHER: &str = "other";

/// Methods that are counted by name; the last stands for all others.
pub(crate) const METHODS: [&str; 20] = [
    "tools/call",
    "tools/list",
    "initialize",
    "server/discover",
    "ping",
    "resources/list",
    "resources/read",
    "resources/templates/list",
    "resources/subscribe",
    "resources/unsubscribe",
    "subscriptions/listen",
    "prompts/list",
    "prompts/get",
    "completion/complete",
    "logging/setLevel",
    "tasks/get",
    "tasks/update",
    "tasks/cancel",
    "tasks/result",
    OTHER,
];

/// Codes of errors that are counted by number; the last stands for all others.
const CODES: [i64; 21] = [
    -32_700,
    fault::INVALID_REQUEST,
    fault::METHOD_NOT_FOUND,
    fault::INVALID_PARAMS,
    fault::INTERNAL,
    fault::RESOURCE_NOT_FOUND,
    fault::HEADER_MISMATCH,
    fault::MISSING_CAPABILITY,
    fault::UNSUPPORTED_VERSION,
    fault::UNAUTHENTICATED,
    fault::DENIED,
    fault::NOT_FOUND,
    fault::TOO_LARGE,
    fault::RATE,
    fault::UPSTREAM_DIED,
    fault::UPSTREAM_DOWN,
    fault::OVERLOADED,
    fault::DEADLINE,
    // The two of rmcp and of the SDKs for what has been cancelled or timed out.
    -32_000,
    -32_001,
    0,
];

/// Counters of MCP in one process; a handle that is cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    hits: Mutex<BTreeMap<&'static str, u64>>,
    servers: RwLock<BTreeMap<Box<str>, Arc<ServerMetrics>>>,
    clients: Named,
    rules: RwLock<BTreeMap<Box<str>, Arc<AtomicU64>>>,
    tape: Arc<TapeMetrics>,
}

impl Default for Inner {
    fn default() -> Self {
        // All names from the start: who watches a counter wants to see it before it counts.
        let names = Limits::default().entries().into_iter().map(|(name, _)| name);
        Self {
            hits: Mutex::new(names.filter(|name| name.starts_with("mcp_")).map(|name| (name, 0)).collect()),
            servers: RwLock::default(),
            clients: Named::of(CLIENTS_MAX),
            rules: RwLock::default(),
            tape: Arc::default(),
        }
    }
}

impl Metrics {
    /// A limit was hit; `limit` is its name in the configuration. Counted, and said in the log.
    pub fn hit(&self, limit: &'static str) {
        tracing::info!(limit, "a limit of MCP was reached");
        *self.0.hits.lock().entry(limit).or_default() += 1;
    }

    /// How often limits were hit, by name.
    pub fn hits(&self) -> BTreeMap<&'static str, u64> {
        self.0.hits.lock().clone()
    }

    /// The counters of the server with this name, which outlive it; to be kept by who counts often.
    pub fn server(&self, name: &str) -> Arc<ServerMetrics> {
        let new = |name: &str| Arc::new(ServerMetrics::new(name));
        find_or_add(&self.0.servers, name, SERVERS_MAX, new)
    }

    /// The counters of all servers there have been, in the order of names.
    pub fn servers(&self) -> Vec<Arc<ServerMetrics>> {
        self.0.servers.read().values().cloned().collect()
    }

    /// The counters of calls by client, which is what it calls itself.
    pub(crate) fn clients(&self) -> &Named {
        &self.0.clients
    }

    /// How often a rule has matched.
    pub(crate) fn rule(&self, name: &str) -> Arc<AtomicU64> {
        find_or_add(&self.0.rules, name, RULES_MAX, |_| Arc::default())
    }

    /// The counters of tapes.
    pub(crate) fn tape(&self) -> &Arc<TapeMetrics> {
        &self.0.tape
    }
}

/// The entry with this name; a new one while there is room, else that of [`OTHER`].
fn find_or_add<T>(
    all: &RwLock<BTreeMap<Box<str>, Arc<T>>>,
    name: &str,
    max: usize,
    new: impl FnOnce(&str) -> Arc<T>,
) -> Arc<T> {
    let name = cut(name);
    if let Some(found) = all.read().get(name) {
        return found.clone();
    }
    let mut all = all.write();
    let name = if all.len() >= max && !all.contains_key(name) { OTHER } else { name };
    all.entry(name.into()).or_insert_with(|| new(name)).clone()
}

/// The beginning of a name, as much as a label has room for.
fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(LABEL_BYTES_MAX)]
}

/// Calls of one kind: how many, how many failed, and how long they took.
#[derive(Debug, Default)]
pub(crate) struct Series {
    pub(crate) calls: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) time: Histogram,
}

impl Series {
    fn add(&self, took: Duration, failed: bool) {
        one(&self.calls);
        if failed {
            one(&self.errors);
        }
        self.time.record(took);
    }
}

/// Series by name, the first `max` of them.
#[derive(Debug)]
pub(crate) struct Named {
    max: usize,
    all: RwLock<BTreeMap<Box<str>, Arc<Series>>>,
}

impl Named {
    fn of(max: usize) -> Self {
        Self { max, all: RwLock::default() }
    }

    /// A call has ended. A name that nobody knows gets no series by a call that failed: whoever guesses names shall not use up the room.
    pub(crate) fn add(&self, name: &str, took: Duration, failed: bool) {
        let name = cut(name);
        if let Some(known) = self.all.read().get(name) {
            return known.add(took, failed);
        }
        let name = if failed { OTHER } else { name };
        find_or_add(&self.all, name, self.max, |_| Arc::default()).add(took, failed);
    }

    pub(crate) fn read(&self) -> Vec<(Box<str>, Arc<Series>)> {
        self.all.read().iter().map(|(name, series)| (name.clone(), series.clone())).collect()
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With a result.
    Result,
    /// With a result that says that the tool has failed.
    ToolError,
    /// With an error of this code.
    Error(i64),
    /// Without an answer: the caller had left or cancelled it.
    Cancelled,
}

impl Ended {
    /// Its word in metrics and logs; errors are told apart by their code beside it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::ToolError => "tool_error",
            Self::Error(_) => "error",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Counters of one server behind a door: the tree, a process, another server, several joined, or a tape.
#[derive(Debug)]
pub struct ServerMetrics {
    name: Box<str>,
    methods: [AtomicU64; METHODS.len()],
    errors: [AtomicU64; CODES.len()],
    tool_errors: AtomicU64,
    cancelled: AtomicU64,
    time: Histogram,
    names: Named,
    in_flight: AtomicI64,
    sessions: AtomicI64,
    sessions_opened: AtomicU64,
    queued: AtomicI64,
    restarts: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// Figures of one server, for status pages. Bytes are those of messages, as clients send and get them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ServerFigures {
    /// Calls that have ended.
    pub calls: u64,
    /// Of those, the ones that ended with an error.
    pub errors: u64,
    /// Of those, the ones that ended with the result of a tool that says that it failed.
    pub tool_errors: u64,
    /// Calls without an answer, because the caller had left or cancelled.
    pub cancelled: u64,
    /// Calls at work or waiting.
    pub in_flight: u64,
    /// Calls waiting.
    pub queued: u64,
    /// Legacy sessions open.
    pub sessions: u64,
    /// Starts of a process in place of one that had ended unasked.
    pub restarts: u64,
    /// Bytes of messages from clients.
    pub bytes_in: u64,
    /// Bytes of messages to clients.
    pub bytes_out: u64,
    /// Half of the calls took no longer, in microseconds.
    pub p50_us: u64,
    /// 99 of 100 calls took no longer, in microseconds.
    pub p99_us: u64,
}

impl ServerMetrics {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            methods: [const { AtomicU64::new(0) }; METHODS.len()],
            errors: [const { AtomicU64::new(0) }; CODES.len()],
            tool_errors: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            time: Histogram::default(),
            names: Named::of(NAMES_MAX),
            in_flight: AtomicI64::new(0),
            sessions: AtomicI64::new(0),
            sessions_opened: AtomicU64::new(0),
            queued: AtomicI64::new(0),
            restarts: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
        }
    }

    /// The server's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A process was started in place of one that had ended unasked.
    pub fn restarted(&self) {
        one(&self.restarts);
    }

    /// A call waits for the server, until the guard is dropped.
    pub fn queued(self: &Arc<Self>) -> QueuedGuard {
        self.queued.fetch_add(1, Ordering::Relaxed);
        QueuedGuard(self.clone())
    }

    /// The figures now.
    pub fn figures(&self) -> ServerFigures {
        let spread = {
            let mut counts = standpipe_serve::Counts::default();
            self.time.add_to(&mut counts);
            counts.spread()
        };
        ServerFigures {
            calls: sum(&self.methods),
            errors: sum(&self.errors),
            tool_errors: read(&self.tool_errors),
            cancelled: read(&self.cancelled),
            in_flight: level(&self.in_flight),
            queued: level(&self.queued),
            sessions: level(&self.sessions),
            restarts: read(&self.restarts),
            bytes_in: read(&self.bytes_in),
            bytes_out: read(&self.bytes_out),
            p50_us: spread.p50_us,
            p99_us: spread.p99_us,
        }
    }

    pub(crate) fn began(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn session_opened(&self) {
        one(&self.sessions_opened);
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn session_closed(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// A call that began has ended.
    pub(crate) fn ended(&self, method: usize, name: Option<&str>, took: Duration, ended: Ended) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        one(&self.methods[method]);
        match ended {
            Ended::Result => {}
            Ended::ToolError => one(&self.tool_errors),
            Ended::Cancelled => one(&self.cancelled),
            Ended::Error(code) => {
                let at = CODES.iter().position(|known| *known == code).unwrap_or(CODES.len() - 1);
                one(&self.errors[at]);
            }
        }
        self.time.record(took);
        if let Some(name) = name {
            self.names.add(name, took, matches!(ended, Ended::Error(_) | Ended::ToolError));
        }
    }
}

/// A call that waits.
#[derive(Debug)]
pub struct QueuedGuard(Arc<ServerMetrics>);

impl Drop for QueuedGuard {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counters of tapes.
#[derive(Debug, Default)]
pub(crate) struct TapeMetrics {
    /// Messages written.
    pub(crate) recorded: AtomicU64,
    /// Their bytes, as written.
    pub(crate) bytes: AtomicU64,
    /// Messages that a tape has a gap for.
    pub(crate) lost: AtomicU64,
    /// Secrets replaced.
    pub(crate) masked: AtomicU64,
    /// Calls answered from a tape.
    pub(crate) replayed: AtomicU64,
    /// Calls that no tape had.
    pub(crate) unmatched: AtomicU64,
}

/// The number of a method in [`METHODS`].
pub(crate) fn method_index(method: &str) -> usize {
    METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1)
}

pub(crate) fn one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn sum(counters: &[AtomicU64]) -> u64 {
    counters.iter().map(read).sum()
}

/// A gauge; what is raised on one thread and lowered on another may be seen below zero for a moment.
fn level(gauge: &AtomicI64) -> u64 {
    u64::try_from(gauge.load(Ordering::Relaxed)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    fn exposition(metrics: &Metrics) -> String {
        let mut registry = Registry::with_prefix("standpipe");
        metrics.register(&mut registry);
        let mut out = String::new();
        prometheus_client::encoding::text::encode(&mut out, &registry).unwrap();
        out
    }

    #[test]
    fn every_limit_is_there_from_the_start() {
        let metrics = Metrics::default();
        let out = exposition(&metrics);
        for (name, _) in Limits::default().entries().into_iter().filter(|(name, _)| name.starts_with("mcp_")) {
            let line = format!("standpipe_mcp_limit_hits_total{{limit=\"{name}\"}} 0");
            assert!(out.contains(&line), "{line}\n{out}");
        }
        metrics.hit("mcp_children_max");
        assert!(exposition(&metrics).contains("limit_hits_total{limit=\"mcp_children_max\"} 1"));
    }

    #[test]
    fn a_call_is_counted_for_its_server_and_its_tool() {
        let metrics = Metrics::default();
        let server = metrics.server("a");
        let took = Duration::from_micros(100);
        let check = |ended: Ended, name: &str| {
            server.began();
            server.ended(method_index("tools/call"), Some(name), took, ended);
        };
        check(Ended::Result, "echo");
        check(Ended::ToolError, "echo");
        check(Ended::Error(-32_602), "guessed");
        check(Ended::Error(7), "guessed");
        check(Ended::Cancelled, "echo");
        let figures = metrics.server("a").figures();
        assert_eq!((figures.calls, figures.errors, figures.tool_errors, figures.cancelled), (5, 2, 1, 1));
        assert_eq!(figures.in_flight, 0);
        let out = exposition(&metrics);
        for line in [
            "standpipe_mcp_calls_total{server=\"a\",method=\"tools/call\"} 5",
            "standpipe_mcp_call_errors_total{server=\"a\",code=\"-32602\"} 1",
            "standpipe_mcp_call_errors_total{server=\"a\",code=\"other\"} 1",
            "standpipe_mcp_tool_calls_total{server=\"a\",tool=\"echo\"} 3",
            "standpipe_mcp_tool_errors_total{server=\"a\",tool=\"other\"} 2",
            "standpipe_mcp_call_seconds_count{server=\"a\"} 5",
        ] {
            assert!(out.contains(line), "{line}\n{out}");
        }
        assert!(!out.contains("guessed"));
    }

    #[test]
    fn names_are_bounded() {
        let metrics = Metrics::default();
        for number in 0..SERVERS_MAX + 10 {
            metrics.server(&format!("s{number}")).restarted();
        }
        assert_eq!(metrics.servers().len(), SERVERS_MAX + 1);
        assert_eq!(metrics.server(OTHER).figures().restarts, 10);
        let long = "ä".repeat(100);
        metrics.clients().add(&long, Duration::ZERO, false);
        assert_eq!(metrics.clients().read()[0].0.len(), LABEL_BYTES_MAX);
    }

    #[test]
    fn a_queue_is_as_long_as_its_guards_live() {
        let server = Metrics::default().server("a");
        let guards = [server.queued(), server.queued()];
        assert_eq!(server.figures().queued, 2);
        drop(guards);
        assert_eq!(server.figures().queued, 0);
    }
}
