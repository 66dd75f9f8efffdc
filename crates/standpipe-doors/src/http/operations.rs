//! What operators and tools ask: rules text, the list of databases, a backup, metrics. All but
//! the metrics are for administrators; the caller has checked that.

use std::io::{Read as _, Seek as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::Response;
use http::header::{self, HeaderValue};
use hyper::body::Incoming;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use standpipe_engine::{Database, DatabaseStats, Engine, Error, Identity, Op, StreamStats};
use standpipe_runs::Runs;
use standpipe_serve::{Class, Cost, Deadline, Metrics, Session};
use standpipe_tree::write_json_string;

use super::body::{Content, receive};
use super::io::Activity;
use super::runs::Figures;
use super::{Answer, json_answer, request_deadline};
use crate::auth::Credentials;
use crate::dispatch::{Dispatch, Write, run};
use crate::mcp::Mcp;

/// What `GET /` says.
pub(super) const INDEX: &str = "Standpipe: one live tree, many doors.\n\
    GET /.json reads the tree, GET /metrics tells how it is.\n";

/// How long a backup may take to be written.
const BACKUP_MAX: Duration = Duration::from_secs(3_600);

/// About as many bytes as a status has.
const STATUS_BYTES: usize = 8 << 10;

/// Bytes of a backup sent at once.
const BACKUP_CHUNK: usize = 256 << 10;

/// A request by an administrator.
pub(super) struct Admin<'a> {
    pub(super) dispatch: &'a Dispatch,
    pub(super) session: &'a Session,
    pub(super) activity: &'a Arc<Activity>,
    pub(super) namespace: Option<String>,
    pub(super) runs: Option<&'a Arc<Runs>>,
}

impl Admin<'_> {
    pub(super) fn database(&self) -> Result<Arc<Database>, Error> {
        self.dispatch.database(self.namespace.as_deref())
    }

    /// The rules text as it was put, or with `format=strict` as JSON without comments.
    pub(super) async fn rules(&self, query: Option<&str>) -> Result<Answer, Error> {
        let database = self.database()?;
        let strict = query.is_some_and(|query| query.split('&').any(|pair| pair == "format=strict"));
        if let Some(rules) = database.rules().filter(|_| strict) {
            return Ok(json_answer(Content::Full(rules.strict_text().into())));
        }
        let rules = database.snapshot().await?.rules()?;
        let rules = rules.unwrap_or_else(|| super::DEFAULT_RULES.to_owned());
        Ok(json_answer(Content::Full(rules.into())))
    }

    /// Stores the rules text.
    pub(super) async fn put_rules(&self, body: Incoming, query: Option<&str>) -> Result<Answer, Error> {
        let bytes = receive(self.session, self.activity, body).await?;
        let text = String::from_utf8(bytes.to_vec()).map_err(|_| Error::bad_request("rules must be UTF-8 text"))?;
        let dry_run = query.is_some_and(|query| query.split('&').any(|pair| pair == "dryRun=true"));
        if dry_run {
            standpipe_tree::RuleSet::compile(&text).map_err(|error| Error::bad_request(error.to_string()))?;
        } else {
            let write = Write::new(Op::Rules(text));
            self.dispatch.write(&self.database()?, &Identity::Admin, write, request_deadline(self.session)).await?;
        }
        Ok(json_answer(Content::Full(Bytes::from_static(br#"{"status":"ok"}"#))))
    }

    /// The names of all databases.
    pub(super) fn databases(&self) -> Result<Answer, Error> {
        let mut json = vec![b'['];
        for name in self.dispatch.engine().names()? {
            if json.len() > 1 {
                json.push(b',');
            }
            json.extend_from_slice(br#"{"name":"#);
            write_json_string(&name, &mut json);
            json.push(b'}');
        }
        json.push(b']');
        Ok(json_answer(Content::Full(json.into())))
    }

    /// The node now: connections, queue, workers, totals, slowest peers, databases.
    pub(super) async fn status(&self) -> Result<Answer, Error> {
        let session = self.session.clone();
        // With many connections it takes milliseconds, which are not the event loop's.
        let (engine, runs) = (self.dispatch.engine().clone(), self.runs.cloned());
        let job = move || {
            let mut status = serde_json::to_value(session.status()).map_err(Error::internal)?;
            status["databases"] = figures(&engine);
            status["streams"] = stream_figures(&engine.streams().stats());
            if let Some(runs) = runs {
                status["runs"] = serde_json::to_value(runs.stats()).map_err(Error::internal)?;
            }
            Ok(status.to_string())
        };
        let deadline = request_deadline(self.session);
        let json = run(self.session, Class::Control, Cost::Bytes(STATUS_BYTES), deadline, job).await?;
        Ok(json_answer(Content::Full(json.into())))
    }

    /// A compact copy of the database's file: written to an unnamed file first, so that a slow
    /// reader holds no snapshot.
    pub(super) async fn backup(&self) -> Result<Answer, Error> {
        let database = self.database()?;
        let dir = database.config().dir.clone();
        let job = move || {
            let mut file = tempfile_in(&dir)?;
            database.backup(&mut file)?;
            let len = file.metadata().map_err(Error::internal)?.len();
            file.rewind().map_err(Error::internal)?;
            Ok((file, len))
        };
        let deadline = Deadline::after(BACKUP_MAX.as_millis() as u64);
        let (file, len) = run(self.session, Class::Bulk, Cost::Bytes(BACKUP_CHUNK), deadline, job).await?;
        let session = self.session.clone();
        let chunks = stream::try_unfold((file, session), |(mut file, session)| async move {
            let read = move || {
                let mut chunk = vec![0; BACKUP_CHUNK];
                let count = file.read(&mut chunk).map_err(Error::internal)?;
                chunk.truncate(count);
                Ok((file, chunk))
            };
            let deadline = request_deadline(&session);
            let (file, chunk) = run(&session, Class::Bulk, Cost::Bytes(BACKUP_CHUNK), deadline, read).await?;
            Ok((!chunk.is_empty()).then(|| (Bytes::from(chunk), (file, session))))
        });
        let mut answer = Response::new(Content::Stream(chunks.boxed()));
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
        Ok(answer)
    }
}

fn tempfile_in(dir: &std::path::Path) -> Result<std::fs::File, Error> {
    tempfile::tempfile_in(dir)
        .map_err(|error| Error::unavailable("cannot write the backup's temporary file").with_cause(error))
}

/// What the emulators' hub answers to who asks which emulators run: the database, at the address that the
/// caller has used, and ourselves.
///
/// # Errors
/// `BadRequest` where `host` is no address.
pub(super) fn emulators(host: &str) -> Result<Answer, Error> {
    let no_address = |_| Error::bad_request("the Host header is no HOST:PORT");
    let authority: http::uri::Authority = host.parse().map_err(no_address)?;
    let address = |name: &str| {
        let host = authority.host().trim_matches(['[', ']']);
        serde_json::json!({ "name": name, "host": host, "port": authority.port_u16().unwrap_or(80) })
    };
    let json = serde_json::json!({ "hub": address("hub"), "database": address("database") });
    Ok(json_answer(Content::Full(json.to_string().into())))
}

/// Everything there is to measure, in Prometheus' text format.
pub(super) fn metrics(
    engine: &Arc<Engine>,
    metrics: &Metrics,
    credentials: &Credentials,
    runs: Option<&Arc<Runs>>,
    mcp: Option<&Mcp>,
) -> Answer {
    let mut registry = Registry::with_prefix("standpipe");
    metrics.register(&mut registry);
    if let Some(mcp) = mcp {
        register_mcp(mcp, &mut registry);
    }
    registry.register_collector(Box::new(Databases(engine.databases())));
    registry.register_collector(Box::new(StreamFigures(engine.streams().stats())));
    registry.register_collector(Box::new(credentials.clone()));
    if let Some(runs) = runs {
        registry.register_collector(Box::new(Figures(runs.clone())));
    }
    encoded(&registry)
}

/// The same of a process that has nothing but MCP.
pub(super) fn mcp_metrics(metrics: &Metrics, mcp: &Mcp) -> Answer {
    let mut registry = Registry::with_prefix("standpipe");
    metrics.register(&mut registry);
    register_mcp(mcp, &mut registry);
    encoded(&registry)
}

fn register_mcp(mcp: &Mcp, registry: &mut Registry) {
    mcp.metrics().register(registry);
    mcp.register_sessions(registry);
}

fn encoded(registry: &Registry) -> Answer {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _infallible = encode(&mut out, registry);
    let mut answer = Response::new(Content::Full(out.into()));
    let format = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, format);
    answer
}

#[derive(Debug)]
struct Databases(Vec<Arc<Database>>);

/// A figure: its name, what it says, and where it is.
type Figure = (&'static str, &'static str, fn(&DatabaseStats) -> u64);

const FIGURES: &[Figure] = &[
    ("database_rev", "Committed revision", |stats| stats.rev),
    ("database_commits", "Commits since start", |stats| stats.commits),
    ("database_writes", "Writes in those commits", |stats| stats.writes),
    ("database_commit_ns", "Nanoseconds spent in commits", |stats| stats.commit_ns),
    ("database_largest_group", "Writes in the largest commit", |stats| stats.largest_group),
    ("database_queue_intents", "Writes waiting for the writer", |stats| stats.queue_intents as u64),
    ("database_queue_bytes", "Bytes of writes waiting for the writer", |stats| stats.queue_bytes as u64),
    ("database_watched_paths", "Watched paths", |stats| stats.topics as u64),
    ("database_map_bytes", "Address space reserved", |stats| stats.map_bytes as u64),
    ("database_commits_synced", "1 when commits are synced before they are acknowledged", |stats| stats.synced.into()),
    ("database_used_bytes", "Bytes of the file in use", |stats| stats.used_bytes as u64),
];

/// The figures of the streams at the moment of the question.
#[derive(Debug)]
struct StreamFigures(StreamStats);

/// A figure of the streams: its name, what it says, and where it is.
type StreamFigure = (&'static str, &'static str, fn(&StreamStats) -> u64);

const STREAM_FIGURES: &[StreamFigure] = &[
    ("streams_commits", "Commits of streams since start", |stats| stats.commits),
    ("streams_commit_ns", "Nanoseconds spent in commits of streams", |stats| stats.commit_ns),
    ("streams_records", "Records appended to streams since start", |stats| stats.records),
    ("streams_bytes", "Bytes of those records", |stats| stats.bytes),
    ("streams_held_up", "1 while output waits because it can't be stored", |stats| stats.held_up.into()),
    ("streams_live", "Streams that somebody appends to or watches", |stats| stats.live as u64),
    ("streams_watchers", "Watchers of streams", |stats| stats.watchers as u64),
    ("streams_queue_bytes", "Bytes of records waiting for their commit", |stats| stats.queue_bytes as u64),
    ("streams_ring_bytes", "Bytes of the newest records kept in memory", |stats| stats.ring_bytes as u64),
    ("streams_map_bytes", "Address space reserved for streams", |stats| stats.map_bytes as u64),
    ("streams_used_bytes", "Bytes of the file of streams in use", |stats| stats.used_bytes as u64),
];

impl Collector for StreamFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, help, figure) in STREAM_FIGURES {
            let gauge = ConstGauge::new(i64::try_from(figure(&self.0)).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                prometheus_client::metrics::MetricType::Gauge,
            )?)?;
        }
        Ok(())
    }
}

/// The same figures, as JSON.
fn stream_figures(stats: &StreamStats) -> serde_json::Value {
    let figures = STREAM_FIGURES.iter();
    let named = figures.map(|(name, _, read)| (name.trim_start_matches("streams_").to_owned(), read(stats).into()));
    named.collect::<serde_json::Map<_, _>>().into()
}

/// The same figures by database, as JSON.
fn figures(engine: &Engine) -> serde_json::Value {
    let name = |name: &'static str| name.trim_start_matches("database_").to_owned();
    let of = |stats: &DatabaseStats| -> serde_json::Value {
        FIGURES
            .iter()
            .map(|(figure, _, read)| (name(figure), read(stats).into()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let databases = engine.databases();
    databases.iter().map(|one| (one.name().to_owned(), of(&one.stats()))).collect::<serde_json::Map<_, _>>().into()
}

impl Collector for Databases {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let stats: Vec<_> = self.0.iter().map(|database| (database.name(), database.stats())).collect();
        for (name, help, figure) in FIGURES {
            let kind = prometheus_client::metrics::MetricType::Gauge;
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (database, stats) in &stats {
                let gauge = ConstGauge::new(i64::try_from(figure(stats)).unwrap_or(i64::MAX));
                gauge.encode(family.encode_family(&[("database", *database)])?)?;
            }
        }
        Ok(())
    }
}
