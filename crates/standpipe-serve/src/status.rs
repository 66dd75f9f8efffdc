//! The node at one moment, for people and for `standpipe top`: what the counters, the pool and the
//! connections say, put together when somebody asks. Nothing is counted here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::{Class, SessionInfo, SessionState};

/// Connections shown as the slowest.
const SLOWEST: usize = 10;

/// A stable name.
type Name = Cow<'static, str>;

/// Counts by name; names that did not occur are left out.
pub type Tally = BTreeMap<Name, u64>;

/// The node at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Since the start.
    pub uptime_ms: u64,
    /// By name of the door.
    pub doors: BTreeMap<Name, DoorStatus>,
    /// By class, the highest first.
    pub queue: Vec<ClassStatus>,
    /// The worker threads.
    pub workers: WorkerStatus,
    /// Refusals by reason, of connections as of anything else.
    pub refusals: Tally,
    /// Connections closed by reason.
    pub close_reasons: Tally,
    /// Jobs never started because they had waited too long.
    pub jobs_timed_out: u64,
    /// Jobs that panicked.
    pub jobs_panicked: u64,
    /// Watchers attached.
    pub watchers: u64,
    /// Times a watcher fell behind and was given a fresh value.
    pub lagged: u64,
    /// Errors told.
    pub errors: u64,
    /// Tasks of connections and of the node.
    pub tasks: u64,
    /// Failures of `accept`.
    pub accept_errors: u64,
    /// Events a subscriber was too slow for.
    pub events_dropped: u64,
    /// The connections whose peers took longest not to take their output, or fell behind most often.
    pub slowest: Vec<SlowPeer>,
}

/// A door at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DoorStatus {
    /// Connections open.
    pub open: u64,
    /// Those that are served, by what they do.
    pub states: BTreeMap<SessionState, u64>,
    /// Connections accepted.
    pub accepted: u64,
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
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// From a request's begin to its end.
    pub request_time: Spread,
}

/// A class of jobs at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClassStatus {
    /// Its name.
    pub class: Name,
    /// Jobs waiting.
    pub jobs: u64,
    /// Sum of their costs, in bytes.
    pub bytes: u64,
    /// Wait for a worker, since the start.
    pub wait: Spread,
    /// Run time, since the start.
    pub service: Spread,
}

/// The worker threads at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerStatus {
    /// How many there are.
    pub count: u64,
    /// Those without work.
    pub idle: u64,
    /// How many there may be.
    pub max: u64,
    /// How many were ever created.
    pub created: u64,
    /// Share of their time that they worked in the last second, 0 to 1.
    pub utilisation: f64,
    /// Time that workers have worked, added up.
    pub busy_ms: u64,
}

/// Durations, by how many of a hundred are shorter, in microseconds; to a quarter of their size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spread {
    /// How many there are.
    pub count: u64,
    /// The one in the middle.
    pub p50_us: u64,
    /// One in a hundred is longer.
    pub p99_us: u64,
    /// One in a thousand is longer.
    pub p999_us: u64,
}

/// A connection whose peer is slow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlowPeer {
    /// Number of the connection.
    pub id: u64,
    /// Name of the door.
    pub door: Name,
    /// Who is at the other end.
    pub peer: String,
    /// How long it has not taken its output by now; zero when it does.
    pub blocked_for_ms: u64,
    /// How long it has not done so in all.
    pub blocked_ms: u64,
    /// Times its watchers fell behind.
    pub lagged: u64,
    /// Watchers attached.
    pub watchers: u64,
}

impl From<&SessionInfo> for SlowPeer {
    fn from(info: &SessionInfo) -> Self {
        Self {
            id: info.id,
            door: info.door.into(),
            peer: info.peer.to_string(),
            blocked_for_ms: info.blocked_for.as_millis() as u64,
            blocked_ms: info.blocked.as_millis() as u64,
            lagged: info.lagged,
            watchers: info.watchers,
        }
    }
}

impl Status {
    pub(crate) fn of(core: &Core) -> Self {
        let sum = core.metrics.snapshot();
        let infos = core.registry.infos();
        let mut doors = core.metrics.doors();
        for info in &infos {
            if let Some(door) = doors.get_mut(info.door) {
                *door.states.entry(info.state).or_default() += 1;
            }
        }
        let named = |counts: BTreeMap<&'static str, u64>| counts.into_iter().map(|(k, v)| (k.into(), v)).collect();
        Self {
            uptime_ms: core.registry.uptime().as_millis() as u64,
            doors,
            queue: Class::ALL.map(|class| core.metrics.class(class)).into(),
            workers: WorkerStatus {
                count: sum.workers,
                idle: sum.workers_idle,
                max: core.limits.load().workers_max as u64,
                created: sum.workers_created,
                utilisation: core.utilisation(),
                busy_ms: core.pool.work_done().0.as_millis() as u64,
            },
            refusals: named(sum.refusals),
            close_reasons: named(sum.closed_by_reason),
            jobs_timed_out: sum.jobs_timed_out,
            jobs_panicked: sum.jobs_panicked,
            watchers: sum.watchers,
            lagged: sum.lagged,
            errors: sum.errors,
            tasks: sum.tasks,
            accept_errors: sum.accept_errors,
            events_dropped: sum.events_dropped,
            slowest: slowest(&infos),
        }
    }
}

/// The slowest of all, the worst first.
pub(crate) fn slowest(infos: &[SessionInfo]) -> Vec<SlowPeer> {
    let mut slow: Vec<_> = infos.iter().filter(|info| info.blocked > Duration::ZERO || info.lagged > 0).collect();
    slow.sort_by_key(|info| std::cmp::Reverse((info.blocked, info.lagged)));
    slow.into_iter().take(SLOWEST).map(SlowPeer::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;

    #[tokio::test]
    async fn a_status_tells_what_there_is_and_survives_json() {
        let bench = crate::tests::Bench::new(Limits::default());
        let [(quick, _), (slow, _), (behind, _)] = [bench.entered(), bench.entered(), bench.entered()];
        quick.answered(5, Duration::from_micros(50));
        slow.output_blocked(true);
        crate::tests::until("it has been blocked for a while", || {
            slow.sessions()[1].blocked_for > Duration::from_millis(1)
        })
        .await;
        behind.lagged();
        let status = quick.status();
        // Each session of a bench has a door of its own by the same name.
        let door = &status.doors["bench"];
        assert_eq!((door.requests, door.finished, door.request_time.count), (5, 5, 5));
        assert!((10..=11).contains(&door.request_time.p50_us), "{:?}", door.request_time);
        assert_eq!(door.states, BTreeMap::from([(SessionState::Idle, 2), (SessionState::Blocked, 1)]));
        assert_eq!(status.slowest.iter().map(|slow| slow.id).collect::<Vec<_>>(), [slow.id(), behind.id()]);
        assert_eq!(
            status.queue.iter().map(|class| &*class.class).collect::<Vec<_>>(),
            ["control", "write", "read", "bulk"]
        );
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
        assert!(json.contains(r#""states":{"idle":2,"blocked":1}"#), "{json}");
        bench.end().await;
    }
}
