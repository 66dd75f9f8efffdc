//! The counters: plain atomics held by who counts, read together when somebody looks. `events.rs`
//! alone decides what an event counts; the pool sets its gauges here.
//!
//! Each event loop has its own [`DoorMetrics`] for each door, so that counting on the path of a
//! request touches no cache line of another core; they are added up on reading.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio_util::task::TaskTracker;

use crate::budget::Budget;
use crate::core::Core;
use crate::histogram::{Counts, Histogram};
use crate::status::slowest;
use crate::{Class, ClassStatus, CloseReason, DoorStatus, Outcome, Refusal};

const CLASSES: usize = Class::ALL.len();

/// What is counted for one door on one event loop.
#[derive(Debug)]
pub(crate) struct DoorMetrics {
    pub(crate) name: &'static str,
    pub(crate) accepted: AtomicU64,
    pub(crate) closed: [AtomicU64; CloseReason::LABELS.len()],
    pub(crate) requests: AtomicU64,
    pub(crate) outcomes: [AtomicU64; Outcome::ALL.len()],
    pub(crate) refusals: [AtomicU64; Refusal::ALL.len()],
    pub(crate) jobs_timed_out: AtomicU64,
    pub(crate) jobs_panicked: AtomicU64,
    pub(crate) lagged: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) request_time: Histogram,
    pub(crate) queue_wait: [Histogram; CLASSES],
    pub(crate) service_time: [Histogram; CLASSES],
}

impl DoorMetrics {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            accepted: AtomicU64::new(0),
            closed: Default::default(),
            requests: AtomicU64::new(0),
            outcomes: Default::default(),
            refusals: Default::default(),
            jobs_timed_out: AtomicU64::new(0),
            jobs_panicked: AtomicU64::new(0),
            lagged: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            request_time: Histogram::default(),
            queue_wait: Default::default(),
            service_time: Default::default(),
        }
    }
}

/// What came of reading the configuration again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// All changes are in force.
    Applied,
    /// Some changes, told in the log, wait for a restart.
    Waiting,
    /// Nothing had changed.
    Unchanged,
    /// It was wrong; nothing was applied.
    Refused,
}

impl Reloaded {
    const LABELS: [&str; 4] = ["applied", "waiting", "unchanged", "refused"];
}

/// All counters of a node; a handle that is cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    doors: Mutex<Vec<Arc<DoorMetrics>>>,
    queue_jobs: [AtomicUsize; CLASSES],
    queue_bytes: [AtomicUsize; CLASSES],
    workers: AtomicUsize,
    workers_idle: AtomicUsize,
    workers_created: AtomicU64,
    watchers: Budget,
    accept_errors: AtomicU64,
    events_dropped: AtomicU64,
    config_reloads: [AtomicU64; Reloaded::LABELS.len()],
    tasks: TaskTracker,
    /// What is not counted but looked at when somebody asks.
    core: OnceLock<Weak<Core>>,
}

/// The counters at one moment, added up over the doors; for tests and the admin view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections open.
    pub open: u64,
    /// Connections closed.
    pub closed: u64,
    /// Connections closed by reason; reasons that did not occur are left out.
    pub closed_by_reason: BTreeMap<&'static str, u64>,
    /// Requests begun.
    pub requests: u64,
    /// Requests answered.
    pub finished: u64,
    /// Requests refused.
    pub refused: u64,
    /// Requests that took too long.
    pub timed_out: u64,
    /// Requests whose peer left before the answer was taken.
    pub cancelled: u64,
    /// Refusals by reason, of connections as of anything else; those that did not occur are left
    /// out.
    pub refusals: BTreeMap<&'static str, u64>,
    /// Jobs never started because they had waited too long.
    pub jobs_timed_out: u64,
    /// Jobs that panicked.
    pub jobs_panicked: u64,
    /// Times a watcher fell behind and was given a fresh value.
    pub lagged: u64,
    /// Errors told.
    pub errors: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Jobs waiting.
    pub queue_jobs: u64,
    /// Sum of their costs, in bytes.
    pub queue_bytes: u64,
    /// Worker threads.
    pub workers: u64,
    /// Worker threads with nothing to do.
    pub workers_idle: u64,
    /// Worker threads ever created.
    pub workers_created: u64,
    /// Watchers attached.
    pub watchers: u64,
    /// Tasks of connections and of the node.
    pub tasks: u64,
    /// Failures of `accept`.
    pub accept_errors: u64,
    /// Events a subscriber was too slow for.
    pub events_dropped: u64,
}

impl Snapshot {
    /// Whether the counters balance, as they must when nothing is going on.
    pub fn balanced(&self) -> bool {
        let ended = self.finished + self.refused + self.timed_out + self.cancelled;
        self.accepted == self.closed && self.requests == ended
    }
}

impl Metrics {
    /// Counters for `name` on one event loop.
    pub(crate) fn door(&self, name: &'static str) -> Arc<DoorMetrics> {
        let door = Arc::new(DoorMetrics::new(name));
        self.0.doors.lock().push(door.clone());
        door
    }

    pub(crate) fn belong_to(&self, core: &Arc<Core>) {
        let _only_once = self.0.core.set(Arc::downgrade(core));
    }

    /// Every door, added up over the event loops; what its connections do is not known here.
    pub(crate) fn doors(&self) -> BTreeMap<Cow<'static, str>, DoorStatus> {
        let mut doors: BTreeMap<Cow<'static, str>, (DoorStatus, Counts)> = BTreeMap::new();
        for door in self.0.doors.lock().iter() {
            let (sum, times) = doors.entry(door.name.into()).or_default();
            let closed: u64 = door.closed.iter().map(read).sum();
            let [finished, refused, timed_out, cancelled] = door.outcomes.each_ref().map(read);
            sum.finished += finished;
            sum.refused += refused;
            sum.timed_out += timed_out;
            sum.cancelled += cancelled;
            let accepted = read(&door.accepted);
            sum.accepted += accepted;
            sum.open += accepted.saturating_sub(closed);
            sum.requests += read(&door.requests);
            sum.bytes_in += read(&door.bytes_in);
            sum.bytes_out += read(&door.bytes_out);
            door.request_time.add_to(times);
        }
        let with_times =
            |(name, (sum, times)): (_, (_, Counts))| (name, DoorStatus { request_time: times.spread(), ..sum });
        doors.into_iter().map(with_times).collect()
    }

    pub(crate) fn class(&self, class: Class) -> ClassStatus {
        let index = class.index();
        ClassStatus {
            class: class.as_str().into(),
            jobs: self.0.queue_jobs[index].load(Ordering::Relaxed) as u64,
            bytes: self.0.queue_bytes[index].load(Ordering::Relaxed) as u64,
            wait: self.0.durations(|door| &door.queue_wait[index]).spread(),
            service: self.0.durations(|door| &door.service_time[index]).spread(),
        }
    }

    pub(crate) fn set_queue(&self, class: Class, (jobs, bytes): (usize, usize)) {
        self.0.queue_jobs[class.index()].store(jobs, Ordering::Relaxed);
        self.0.queue_bytes[class.index()].store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn set_workers(&self, workers: usize, idle: usize) {
        self.0.workers.store(workers, Ordering::Relaxed);
        self.0.workers_idle.store(idle, Ordering::Relaxed);
    }

    pub(crate) fn worker_created(&self) {
        self.0.workers_created.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn accept_failed(&self) {
        self.0.accept_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn event_dropped(&self) {
        self.0.events_dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// The configuration was read again.
    pub fn config_reloaded(&self, outcome: Reloaded) {
        self.0.config_reloads[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The count of watchers is also their budget.
    pub(crate) fn watchers(&self) -> &Budget {
        &self.0.watchers
    }

    /// The tasks of the node; their number is a gauge.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    /// Makes `registry` expose the counters; a prefix is the registry's.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.0.clone()));
    }

    #[cfg(test)]
    pub(crate) fn accepted_by_loop(&self) -> Vec<u64> {
        self.0.doors.lock().iter().map(|door| read(&door.accepted)).collect()
    }

    /// The counters now.
    pub fn snapshot(&self) -> Snapshot {
        let inner = &self.0;
        let mut sum = Snapshot::default();
        for door in inner.doors.lock().iter() {
            // Ends are read before beginnings, so that no difference is ever negative.
            door.add_ends(&mut sum);
            sum.accepted += read(&door.accepted);
            sum.requests += read(&door.requests);
        }
        sum.closed = sum.closed_by_reason.values().sum();
        sum.open = sum.accepted.saturating_sub(sum.closed);
        let total = |gauges: &[AtomicUsize]| gauges.iter().map(|gauge| gauge.load(Ordering::Relaxed) as u64).sum();
        sum.queue_jobs = total(&inner.queue_jobs);
        sum.queue_bytes = total(&inner.queue_bytes);
        sum.workers = inner.workers.load(Ordering::Relaxed) as u64;
        sum.workers_idle = inner.workers_idle.load(Ordering::Relaxed) as u64;
        sum.workers_created = read(&inner.workers_created);
        sum.watchers = inner.watchers.used() as u64;
        sum.tasks = inner.tasks.len() as u64;
        sum.accept_errors = read(&inner.accept_errors);
        sum.events_dropped = read(&inner.events_dropped);
        sum
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Acquire)
}

impl DoorMetrics {
    fn add_ends(&self, sum: &mut Snapshot) {
        for (label, count) in CloseReason::LABELS.iter().zip(&self.closed) {
            add(&mut sum.closed_by_reason, label, read(count));
        }
        for (refusal, count) in Refusal::ALL.iter().zip(&self.refusals) {
            add(&mut sum.refusals, refusal.as_str(), read(count));
        }
        let ends = [&mut sum.finished, &mut sum.refused, &mut sum.timed_out, &mut sum.cancelled];
        for (end, count) in ends.into_iter().zip(&self.outcomes) {
            *end += read(count);
        }
        sum.jobs_timed_out += read(&self.jobs_timed_out);
        sum.jobs_panicked += read(&self.jobs_panicked);
        sum.lagged += read(&self.lagged);
        sum.errors += read(&self.errors);
        sum.bytes_in += read(&self.bytes_in);
        sum.bytes_out += read(&self.bytes_out);
    }
}

fn add(counts: &mut BTreeMap<&'static str, u64>, label: &'static str, count: u64) {
    if count > 0 {
        *counts.entry(label).or_default() += count;
    }
}

type Labels = Vec<(&'static str, &'static str)>;

impl Inner {
    /// One counter for each label set, added up over the event loops.
    fn by_door(&self, read: impl Fn(&DoorMetrics) -> Vec<(Labels, u64)>) -> BTreeMap<Labels, u64> {
        let mut sums = BTreeMap::new();
        for door in self.doors.lock().iter() {
            for (mut labels, count) in read(door) {
                labels.insert(0, ("door", door.name));
                *sums.entry(labels).or_default() += count;
            }
        }
        sums
    }

    fn durations(&self, pick: impl Fn(&DoorMetrics) -> &Histogram) -> Counts {
        let mut counts = Counts::default();
        self.doors.lock().iter().for_each(|door| pick(door).add_to(&mut counts));
        counts
    }

    fn encode_doors(&self, out: &mut Exposition<'_>) -> Result<(), Error> {
        let one = |pick: fn(&DoorMetrics) -> &AtomicU64| move |door: &DoorMetrics| vec![(vec![], read(pick(door)))];
        let closed = |door: &DoorMetrics| {
            let counts = CloseReason::LABELS.iter().zip(&door.closed);
            counts.map(|(label, count)| (vec![("reason", *label)], read(count))).collect()
        };
        let outcomes = |door: &DoorMetrics| {
            let counts = Outcome::ALL.iter().zip(&door.outcomes);
            counts.map(|(outcome, count)| (vec![("outcome", outcome.as_str())], read(count))).collect()
        };
        let refusals = |door: &DoorMetrics| {
            let counts = Refusal::ALL.iter().zip(&door.refusals);
            counts.map(|(refusal, count)| (vec![("reason", refusal.as_str())], read(count))).collect()
        };
        let ended = self.by_door(closed);
        let accepted = self.by_door(one(|door| &door.accepted));
        let open = accepted.iter().map(|(labels, accepted)| {
            let closed = ended.iter().filter(|(other, _)| other.first() == labels.first()).map(|(_, count)| count);
            (labels.clone(), accepted.saturating_sub(closed.sum()))
        });
        out.gauges("connections_open", "Connections open.", open.collect())?;
        out.counters("connections_accepted", "Connections accepted.", accepted)?;
        out.counters("connections_closed", "Connections closed, by reason.", ended)?;
        out.counters("requests_begun", "Requests begun.", self.by_door(one(|door| &door.requests)))?;
        out.counters("requests", "Requests ended, by outcome.", self.by_door(outcomes))?;
        out.counters("refusals", "Refusals, by reason.", self.by_door(refusals))?;
        out.counters("jobs_timed_out", "Jobs never started.", self.by_door(one(|door| &door.jobs_timed_out)))?;
        out.counters("jobs_panicked", "Jobs that panicked.", self.by_door(one(|door| &door.jobs_panicked)))?;
        out.counters("lagged", "Watchers that fell behind.", self.by_door(one(|door| &door.lagged)))?;
        out.counters("errors", "Errors told.", self.by_door(one(|door| &door.errors)))?;
        out.counters("received_bytes", "Bytes received.", self.by_door(one(|door| &door.bytes_in)))?;
        out.counters("sent_bytes", "Bytes sent.", self.by_door(one(|door| &door.bytes_out)))
    }

    fn encode_node(&self, out: &mut Exposition<'_>) -> Result<(), Error> {
        let by_class = |gauges: &[AtomicUsize]| -> BTreeMap<Labels, u64> {
            let labelled = Class::ALL.iter().zip(gauges);
            labelled
                .map(|(class, gauge)| (vec![("class", class.as_str())], gauge.load(Ordering::Relaxed) as u64))
                .collect()
        };
        out.gauges("queue_jobs", "Jobs waiting for a worker.", by_class(&self.queue_jobs))?;
        out.gauges("queue_bytes", "Cost of the jobs waiting.", by_class(&self.queue_bytes))?;
        out.gauge("workers", "Worker threads.", self.workers.load(Ordering::Relaxed) as u64)?;
        out.gauge("workers_idle", "Workers without work.", self.workers_idle.load(Ordering::Relaxed) as u64)?;
        out.counter("workers_created", "Worker threads ever created.", read(&self.workers_created))?;
        out.gauge("watchers", "Watchers attached.", self.watchers.used() as u64)?;
        let reloads = Reloaded::LABELS.iter().zip(&self.config_reloads);
        let reloads = reloads.map(|(outcome, count)| (vec![("outcome", *outcome)], read(count))).collect();
        out.counters("config_reloads", "Readings of a changed configuration, by outcome.", reloads)?;
        out.gauge("tasks", "Tasks of connections and of the node.", self.tasks.len() as u64)?;
        out.counter("accept_errors", "Failures of accept.", read(&self.accept_errors))?;
        out.counter("events_dropped", "Events a subscriber was too slow for.", read(&self.events_dropped))
    }
}

impl Inner {
    /// What only the pool and the connections themselves know.
    fn encode_live(&self, out: &mut Exposition<'_>) -> Result<(), Error> {
        let Some(core) = self.core.get().and_then(Weak::upgrade) else { return Ok(()) };
        let family = out.family("worker_busy_seconds", "Time that workers have worked.", MetricType::Counter)?;
        ConstCounter::new(core.pool.work_done().0.as_secs_f64()).encode(family)?;
        let family =
            out.family("worker_utilisation", "Share of the last second that they worked.", MetricType::Gauge)?;
        ConstGauge::new(core.utilisation()).encode(family)?;
        let slow = slowest(&core.registry.infos());
        let help = "Time that the slowest peers did not take their output.";
        let mut family = out.family("slowest_peer_blocked_seconds", help, MetricType::Gauge)?;
        for (rank, slow) in slow.iter().enumerate() {
            let labels =
                [("rank", (rank + 1).to_string()), ("door", slow.door.to_string()), ("peer", slow.peer.clone())];
            ConstGauge::new(slow.blocked_ms as f64 / 1e3).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Collector for Inner {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut out = Exposition(encoder);
        self.encode_doors(&mut out)?;
        self.encode_node(&mut out)?;
        self.encode_live(&mut out)?;
        let mut requests: BTreeMap<Labels, Counts> = BTreeMap::new();
        for door in self.doors.lock().iter() {
            door.request_time.add_to(requests.entry(vec![("door", door.name)]).or_default());
        }
        out.histograms("request_seconds", "From a request's begin to its end.", requests)?;
        let by_class = |pick: fn(&DoorMetrics, usize) -> &Histogram| {
            let counts = |class: &Class| self.durations(|door| pick(door, class.index()));
            Class::ALL.iter().map(|class| (vec![("class", class.as_str())], counts(class))).collect()
        };
        let waits = by_class(|door, class| &door.queue_wait[class]);
        out.histograms("queue_wait_seconds", "Wait of jobs for a worker.", waits)?;
        let services = by_class(|door, class| &door.service_time[class]);
        out.histograms("service_seconds", "Run time of jobs.", services)
    }
}

/// Writes families.
struct Exposition<'a>(DescriptorEncoder<'a>);

impl Exposition<'_> {
    fn family<'a>(&'a mut self, name: &'a str, help: &str, kind: MetricType) -> Result<MetricEncoder<'a>, Error> {
        self.0.encode_descriptor(name, help, None, kind)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        ConstCounter::new(value).encode(self.family(name, help, MetricType::Counter)?)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        ConstGauge::new(value).encode(self.family(name, help, MetricType::Gauge)?)
    }

    fn counters(&mut self, name: &str, help: &str, values: BTreeMap<Labels, u64>) -> Result<(), Error> {
        let mut family = self.family(name, help, MetricType::Counter)?;
        for (labels, value) in &values {
            ConstCounter::new(*value).encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn gauges(&mut self, name: &str, help: &str, values: BTreeMap<Labels, u64>) -> Result<(), Error> {
        let mut family = self.family(name, help, MetricType::Gauge)?;
        for (labels, value) in &values {
            ConstGauge::new(*value).encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn histograms(&mut self, name: &str, help: &str, values: BTreeMap<Labels, Counts>) -> Result<(), Error> {
        let mut family = self.family(name, help, MetricType::Histogram)?;
        for (labels, counts) in &values {
            let mut one = family.encode_family(labels)?;
            one.encode_histogram::<NoLabelSet>(counts.sum_s(), counts.count(), &counts.octaves(), None)?;
        }
        Ok(())
    }
}
