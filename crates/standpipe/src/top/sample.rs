//! What a server says of itself, and what happened between two looks. Asking and showing are elsewhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use standpipe_serve::{DoorStatus, Status};

/// A server at one moment: the answer to `GET /.status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sample {
    #[serde(flatten)]
    pub(super) node: Status,
    /// By name.
    #[serde(default)]
    pub(super) databases: BTreeMap<String, Database>,
}

/// A database at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Database {
    pub(super) rev: u64,
    pub(super) commits: u64,
    pub(super) writes: u64,
    pub(super) commit_ns: u64,
    pub(super) largest_group: u64,
    pub(super) queue_intents: u64,
    pub(super) queue_bytes: u64,
    pub(super) watched_paths: u64,
    pub(super) map_bytes: u64,
    pub(super) used_bytes: u64,
    /// 1 when commits are synced before they are acknowledged.
    pub(super) commits_synced: u64,
}

/// What happened between two samples, per second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Rates {
    /// Between them.
    pub(super) seconds: f64,
    pub(super) requests_per_s: f64,
    pub(super) refusals_per_s: f64,
    pub(super) closed_per_s: f64,
    pub(super) in_bytes_per_s: f64,
    pub(super) out_bytes_per_s: f64,
    pub(super) doors: BTreeMap<String, DoorRates>,
    pub(super) databases: BTreeMap<String, DatabaseRates>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct DoorRates {
    pub(super) accepted_per_s: f64,
    pub(super) requests_per_s: f64,
    pub(super) in_bytes_per_s: f64,
    pub(super) out_bytes_per_s: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct DatabaseRates {
    pub(super) commits_per_s: f64,
    pub(super) writes_per_s: f64,
    /// Mean time of a commit.
    pub(super) commit_ms: f64,
}

impl Rates {
    /// `None` where `later` is not a later look at the same run of the server.
    pub(super) fn between(earlier: &Sample, later: &Sample) -> Option<Self> {
        let ms = later.node.uptime_ms.checked_sub(earlier.node.uptime_ms).filter(|ms| *ms > 0)?;
        let per_s = |before: u64, after: u64| after.saturating_sub(before) as f64 * 1_000.0 / ms as f64;
        let sum = |counts: &standpipe_serve::Tally| counts.values().sum::<u64>();
        let door = |(name, after): (&std::borrow::Cow<'static, str>, &DoorStatus)| {
            // A door that is new has been idle before.
            let none = DoorStatus::default();
            let before = earlier.node.doors.get(name).unwrap_or(&none);
            let rates = DoorRates {
                accepted_per_s: per_s(before.accepted, after.accepted),
                requests_per_s: per_s(before.requests, after.requests),
                in_bytes_per_s: per_s(before.bytes_in, after.bytes_in),
                out_bytes_per_s: per_s(before.bytes_out, after.bytes_out),
            };
            (name.clone().into_owned(), rates)
        };
        let database = |(name, after): (&String, &Database)| {
            let none = Database::default();
            let before = earlier.databases.get(name).unwrap_or(&none);
            let commits = after.commits.saturating_sub(before.commits);
            let rates = DatabaseRates {
                commits_per_s: per_s(before.commits, after.commits),
                writes_per_s: per_s(before.writes, after.writes),
                commit_ms: after.commit_ns.saturating_sub(before.commit_ns) as f64 / 1e6 / commits.max(1) as f64,
            };
            (name.clone(), rates)
        };
        let doors: BTreeMap<_, _> = later.node.doors.iter().map(door).collect();
        let total = |of: fn(&DoorRates) -> f64| doors.values().map(of).sum();
        Some(Self {
            seconds: ms as f64 / 1_000.0,
            requests_per_s: total(|door| door.requests_per_s),
            refusals_per_s: per_s(sum(&earlier.node.refusals), sum(&later.node.refusals)),
            closed_per_s: per_s(sum(&earlier.node.close_reasons), sum(&later.node.close_reasons)),
            in_bytes_per_s: total(|door| door.in_bytes_per_s),
            out_bytes_per_s: total(|door| door.out_bytes_per_s),
            databases: later.databases.iter().map(database).collect(),
            doors,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(uptime_ms: u64, requests: u64, commits: u64) -> Sample {
        let json = format!(
            r#"{{"uptime_ms":{uptime_ms},"doors":{{"http":{{"requests":{requests},"bytes_in":{}}}}},
                "refusals":{{"rate":{requests}}},"unknown":1,
                "databases":{{"default":{{"rev":9,"commits":{commits},"commit_ns":{}}}}}}}"#,
            requests * 100,
            commits * 2_000_000
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn rates_are_differences_by_the_servers_own_clock() {
        let rates = Rates::between(&sample(1_000, 10, 1), &sample(3_000, 30, 5)).unwrap();
        assert_eq!((rates.seconds, rates.requests_per_s, rates.in_bytes_per_s), (2.0, 10.0, 1_000.0));
        assert_eq!((rates.refusals_per_s, rates.doors["http"].requests_per_s), (10.0, 10.0));
        let database = rates.databases["default"];
        assert_eq!((database.commits_per_s, database.commit_ms), (2.0, 2.0));
        let quiet = Rates::between(&sample(1_000, 10, 1), &sample(2_000, 10, 1)).unwrap();
        assert_eq!((quiet.requests_per_s, quiet.databases["default"].commit_ms), (0.0, 0.0));
    }

    #[test]
    fn a_server_that_was_restarted_has_no_rates() {
        assert_eq!(Rates::between(&sample(9_000, 10, 1), &sample(100, 2, 0)), None);
        assert_eq!(Rates::between(&sample(9_000, 10, 1), &sample(9_000, 10, 1)), None);
    }
}
