//! The counters of MCP as Prometheus reads them. Nothing is counted here.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use standpipe_serve::{Counts, Histogram};

use super::{CODES, METHODS, Metrics, Named, OTHER, ServerMetrics, level, read};

impl Metrics {
    /// Makes `registry` expose the counters; a prefix is the registry's.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }
}

/// Labels and a value.
type Row<'a, const N: usize> = ([(&'static str, &'a str); N], u64);

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut out = Exposition(encoder);
        let hits = self.hits();
        let hits = hits.iter().map(|(limit, count)| ([("limit", *limit)], *count)).collect();
        out.rows("mcp_limit_hits", "Limits of MCP that were reached, by name.", MetricType::Counter, hits)?;
        let servers = self.servers();
        self.encode_servers(&mut out, &servers)?;
        self.encode_names(&mut out, &servers)?;
        self.encode_tapes(&mut out)
    }
}

impl Metrics {
    fn encode_servers(&self, out: &mut Exposition<'_>, servers: &[std::sync::Arc<ServerMetrics>]) -> Result<(), Error> {
        let calls = servers.iter().flat_map(|server| {
            let counts = METHODS.iter().zip(&server.methods).map(|(method, count)| (*method, read(count)));
            counts
                .filter(|(_, count)| *count > 0)
                .map(|(method, count)| ([("server", server.name()), ("method", method)], count))
        });
        out.rows("mcp_calls", "Calls that have ended.", MetricType::Counter, calls.collect())?;
        let codes = CODES.map(|code| if code == 0 { OTHER.to_owned() } else { code.to_string() });
        let errors = servers.iter().flat_map(|server| {
            let counts = codes.iter().zip(&server.errors).map(|(code, count)| (code.as_str(), read(count)));
            counts
                .filter(|(_, count)| *count > 0)
                .map(|(code, count)| ([("server", server.name()), ("code", code)], count))
        });
        out.rows("mcp_call_errors", "Calls that ended with an error.", MetricType::Counter, errors.collect())?;
        for (name, help, kind, figure) in FIGURES {
            let rows = servers.iter().map(|server| ([("server", server.name())], figure(server)));
            out.rows(name, help, *kind, rows.collect())?;
        }
        let bytes = servers.iter().flat_map(|server| {
            [("in", &server.bytes_in), ("out", &server.bytes_out)]
                .map(|(direction, count)| ([("server", server.name()), ("direction", direction)], read(count)))
        });
        out.rows("mcp_message_bytes", "Bytes of messages of clients.", MetricType::Counter, bytes.collect())?;
        let mut family = out.family("mcp_call_seconds", "From a call's begin to its reply.", MetricType::Histogram)?;
        for server in servers {
            let counts = counts(&server.time);
            let labels = [("server", server.name())];
            let mut one = family.encode_family(&labels)?;
            one.encode_histogram::<NoLabelSet>(counts.sum_s(), counts.count(), &counts.octaves(), None)?;
        }
        Ok(())
    }

    fn encode_names(&self, out: &mut Exposition<'_>, servers: &[std::sync::Arc<ServerMetrics>]) -> Result<(), Error> {
        let tools = servers.iter().flat_map(|server| {
            let one =
                |(name, series)| (vec![("server", server.name().to_owned()), ("tool", String::from(name))], series);
            named(&server.names).map(one)
        });
        out.series("mcp_tool", "tools and prompts", &tools.collect::<Vec<_>>())?;
        let clients = named(&self.0.clients).map(|(name, series)| (vec![("client", String::from(name))], series));
        out.series("mcp_client", "clients", &clients.collect::<Vec<_>>())?;
        let rules = self.0.rules.read();
        let rules = rules.iter().map(|(rule, count)| ([("rule", &**rule)], read(count)));
        out.rows("mcp_rule_matches", "Calls that a rule has matched.", MetricType::Counter, rules.collect())
    }

    fn encode_tapes(&self, out: &mut Exposition<'_>) -> Result<(), Error> {
        let tape = &self.0.tape;
        for (name, help, count) in [
            ("mcp_tape_messages", "Messages written to tapes.", &tape.recorded),
            ("mcp_tape_bytes", "Bytes written to tapes.", &tape.bytes),
            ("mcp_tape_lost", "Messages that a tape has a gap for.", &tape.lost),
            ("mcp_tape_masked", "Secrets that were masked on their way to a tape.", &tape.masked),
            ("mcp_replay_calls", "Calls answered from a tape.", &tape.replayed),
            ("mcp_replay_unmatched", "Calls that a tape had no answer for.", &tape.unmatched),
        ] {
            ConstCounter::new(read(count)).encode(out.family(name, help, MetricType::Counter)?)?;
        }
        Ok(())
    }
}

/// A figure of a server: its name, what it says, its kind, and where it is.
type Figure = (&'static str, &'static str, MetricType, fn(&ServerMetrics) -> u64);

const FIGURES: &[Figure] = &[
    ("mcp_tool_failures", "Calls whose result says that the tool failed.", MetricType::Counter, |server| {
        read(&server.tool_errors)
    }),
    (
        "mcp_calls_cancelled",
        "Calls without an answer: the caller had left or cancelled.",
        MetricType::Counter,
        |server| read(&server.cancelled),
    ),
    ("mcp_restarts", "Processes started in place of one that ended unasked.", MetricType::Counter, |server| {
        read(&server.restarts)
    }),
    ("mcp_sessions_opened", "Legacy sessions opened.", MetricType::Counter, |server| read(&server.sessions_opened)),
    ("mcp_sessions", "Legacy sessions open.", MetricType::Gauge, |server| level(&server.sessions)),
    ("mcp_calls_in_flight", "Calls at work or waiting.", MetricType::Gauge, |server| level(&server.in_flight)),
    ("mcp_calls_queued", "Calls waiting for the server.", MetricType::Gauge, |server| level(&server.queued)),
];

/// Calls of one name: how many, how many failed, and their times.
struct NamedCounts {
    calls: u64,
    errors: u64,
    times: Counts,
}

fn named(all: &Named) -> impl Iterator<Item = (Box<str>, NamedCounts)> + use<> {
    all.read().into_iter().map(|(name, series)| {
        let counts =
            NamedCounts { calls: read(&series.calls), errors: read(&series.errors), times: counts(&series.time) };
        (name, counts)
    })
}

fn counts(histogram: &Histogram) -> Counts {
    let mut counts = Counts::default();
    histogram.add_to(&mut counts);
    counts
}

/// Writes families.
struct Exposition<'a>(DescriptorEncoder<'a>);

impl Exposition<'_> {
    fn family<'a>(&'a mut self, name: &'a str, help: &str, kind: MetricType) -> Result<MetricEncoder<'a>, Error> {
        self.0.encode_descriptor(name, help, None, kind)
    }

    fn rows<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        rows: Vec<Row<'_, N>>,
    ) -> Result<(), Error> {
        let mut family = self.family(name, help, kind)?;
        for (labels, value) in rows {
            let one = family.encode_family(&labels)?;
            match kind {
                MetricType::Counter => ConstCounter::new(value).encode(one)?,
                _ => ConstGauge::new(value).encode(one)?,
            }
        }
        Ok(())
    }

    /// Counts, failures and times of many names. Times are quantiles: whole histograms of each name would make the exposition long.
    fn series(
        &mut self,
        prefix: &str,
        whose: &str,
        all: &[(Vec<(&'static str, String)>, NamedCounts)],
    ) -> Result<(), Error> {
        let name = format!("{prefix}_calls");
        let mut family = self.family(&name, &format!("Calls, of {whose}."), MetricType::Counter)?;
        for (labels, counts) in all {
            ConstCounter::new(counts.calls).encode(family.encode_family(labels)?)?;
        }
        let name = format!("{prefix}_errors");
        let mut family = self.family(&name, &format!("Calls that failed, of {whose}."), MetricType::Counter)?;
        for (labels, counts) in all {
            ConstCounter::new(counts.errors).encode(family.encode_family(labels)?)?;
        }
        let name = format!("{prefix}_seconds");
        let mut family = self.family(&name, &format!("Time that calls took, of {whose}."), MetricType::Gauge)?;
        for (labels, counts) in all {
            for (word, share) in [("0.5", 0.5), ("0.99", 0.99)] {
                let mut labels = labels.clone();
                labels.push(("quantile", word.to_owned()));
                let gauge = ConstGauge::new(counts.times.quantile_us(share) as f64 / 1e6);
                gauge.encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
