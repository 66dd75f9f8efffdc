//! Figures of runs in Prometheus' text format. They are counted in `standpipe-runs`.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use standpipe_runs::{Durations, RunState, Runs, RunsStats};

/// See the module's text.
#[derive(Debug)]
pub(in crate::http) struct Figures(pub(in crate::http) Arc<Runs>);

/// A figure: its name, what it says, and where it is.
type Figure = (&'static str, &'static str, fn(&RunsStats) -> u64);

const COUNTERS: &[Figure] = &[
    ("runs_started", "Runs accepted", |stats| stats.started),
    ("runs_refused", "Runs refused by a full queue or by their group", |stats| stats.refused),
    ("runs_removed", "Finished runs removed", |stats| stats.removed),
    ("runs_spawn_failures", "Processes that could not be started", |stats| stats.spawn_failures),
    ("runs_value_updates", "Updates of values of runs that were written", |stats| stats.values_written),
    ("runs_value_failures", "Updates of values of runs that failed and are tried again", |stats| stats.value_failures),
    ("runs_schedule_missed", "Planned times of jobs that passed without a run", |stats| stats.schedule_missed),
];

const GAUGES: &[Figure] = &[
    ("runs_kept", "Finished runs that are kept", |stats| stats.kept),
    ("runs_values_behind", "Runs whose value is behind their record", |stats| stats.values_behind),
];

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let stats = self.0.stats();
        for (name, help, figure) in COUNTERS {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(figure(&stats)).encode(metric)?;
        }
        for (name, help, figure) in GAUGES {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(gauge(figure(&stats))).encode(metric)?;
        }
        let states = |last: bool| RunState::ALL.into_iter().filter(move |state| state.is_final() == last);
        let help = "Runs that have not ended, by state; those that are queued wait";
        let mut family = encoder.encode_descriptor("runs_now", help, None, MetricType::Gauge)?;
        for state in states(false) {
            let value = ConstGauge::new(gauge(count(&stats.now, state)));
            value.encode(family.encode_family(&[("state", state.as_str())])?)?;
        }
        let mut family =
            encoder.encode_descriptor("runs_ended", "Runs that ended, by state", None, MetricType::Counter)?;
        for state in states(true) {
            let value = ConstCounter::new(count(&stats.ended, state));
            value.encode(family.encode_family(&[("state", state.as_str())])?)?;
        }
        histogram(&mut encoder, "runs_queue_wait_seconds", "From acceptance to the first process", &stats.queue_wait)?;
        histogram(&mut encoder, "runs_seconds", "From the first process to the end", &stats.run_time)
    }
}

fn count(counts: &BTreeMap<String, u64>, state: RunState) -> u64 {
    counts.get(state.as_str()).copied().unwrap_or_default()
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn histogram(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, times: &Durations) -> Result<(), Error> {
    let seconds = |ms: u64| ms as f64 / 1e3;
    let within: u64 = times.buckets.iter().map(|(_, count)| count).sum();
    let beyond = (f64::MAX, times.count.saturating_sub(within));
    let buckets: Vec<_> =
        times.buckets.iter().map(|(bound, count)| (seconds(*bound), *count)).chain(std::iter::once(beyond)).collect();
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    metric.encode_histogram::<NoLabelSet>(seconds(times.sum_ms), times.count, &buckets, None)
}
