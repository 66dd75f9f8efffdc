//! When jobs start by themselves: times by a cron expression in a time zone, or at a fixed interval. Pure: who
//! asks brings the time.
//!
//! An expression with an hour names times of day, as people do: where the clocks skip one, it is taken right
//! after the jump; where they show one twice, it is taken the first time. An expression whose hour begins with `*`
//! names a rhythm, and goes on through both.

use std::fmt;

use cronexpr::{Crontab, MakeTimestamp};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use serde::{Deserialize, Serialize};

/// Shortest interval, in milliseconds.
const EVERY_MS_MIN: u64 = 1_000;
/// Longest interval, in milliseconds: a year.
const EVERY_MS_MAX: u64 = 366 * 24 * 3_600 * 1_000;
/// A planned time is met when it is at most this long ago, in milliseconds; beyond it is missed.
const MET_WITHIN_MS: u64 = 60_000;
/// A clock that goes back further than this, in milliseconds, begins all schedules anew from where it is; less
/// is waited for, so that no planned time is taken twice.
const CLOCK_BACK_MS: u64 = 3_600_000;

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not five fields.
    #[error(
        "a schedule has five fields (minute hour day-of-month month day-of-week), this has {0}; a zone is its own setting"
    )]
    Fields(usize),
    /// What is in the fields.
    #[error("{text:?} is no schedule: {reason}")]
    Expression {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody knows the zone.
    #[error("{0:?} is no time zone this system knows; use a name such as Europe/Berlin, or UTC")]
    Zone(String),
    /// No such day.
    #[error("{0:?} never comes: no day of the calendar is meant")]
    Never(String),
    /// Too short or too long.
    #[error("an interval is from 1 second to 366 days, not {0} ms")]
    Interval(u64),
}

/// When a job starts by itself.
#[derive(Clone)]
pub struct Schedule {
    when: When,
    missed: Missed,
    text: String,
}

#[derive(Clone)]
enum When {
    /// Multiples of this since the epoch, in milliseconds: no drift, and the same after a restart.
    Every(u64),
    /// Times of day in a zone; the expression is read as if that were UTC.
    Civil(Box<Crontab>, TimeZone),
    /// A rhythm; the expression has its zone.
    Rhythm(Box<Crontab>),
}

/// What becomes of planned times that passed while the node could not start anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// Nothing: the next planned time counts.
    #[default]
    Skip,
    /// One run as soon as possible, however many were missed.
    RunOnce,
}

/// What a schedule says at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing; this is the next time, if there is one.
    Not(Option<u64>),
    /// A run, planned for then.
    Run(u64),
    /// A time was missed and is not made up for.
    Missed,
    /// The clock has gone back a long way.
    ClockBack,
}

impl Schedule {
    /// Five fields (minute, hour, day of month, month, day of week), in the time zone of this IANA name.
    ///
    /// # Errors
    /// The text is none, names only days that never come, or the zone is not known here.
    pub fn cron(text: &str, zone: &str, missed: Missed) -> Result<Self, ScheduleError> {
        let fields: Vec<_> = text.split_ascii_whitespace().collect();
        let [_, hour, day, _, weekday] = fields[..] else { return Err(ScheduleError::Fields(fields.len())) };
        let wrong = |reason: String| ScheduleError::Expression { text: text.to_owned(), reason };
        if day.contains(['L', 'l']) || weekday.contains(['L', 'l']) {
            // The library takes December's last day for none.
            return Err(wrong("L, the last day, is not supported; use 28-31 and test the date in the command".into()));
        }
        let known = TimeZone::get(zone).map_err(|_| ScheduleError::Zone(zone.to_owned()))?;
        let rhythm = hour.starts_with('*');
        let line = format!("{} {}", fields.join(" "), if rhythm { zone } else { "UTC" });
        let crontab = cronexpr::parse_crontab(&line).map_err(|error| wrong(error.to_string()))?;
        let when = match rhythm {
            true => When::Rhythm(crontab.into()),
            false => When::Civil(crontab.into(), known),
        };
        let schedule = Self { when, missed, text: format!("{} {zone}", fields.join(" ")) };
        // Any leap year will do.
        schedule.next_after(1_700_000_000_000).ok_or_else(|| ScheduleError::Never(text.to_owned()))?;
        Ok(schedule)
    }

    /// Every so many milliseconds, counted from the epoch: `every 15 min` is at :00, :15, :30, :45.
    ///
    /// # Errors
    /// Less than a second, or more than 366 days.
    pub fn every(interval_ms: u64, missed: Missed) -> Result<Self, ScheduleError> {
        if !(EVERY_MS_MIN..=EVERY_MS_MAX).contains(&interval_ms) {
            return Err(ScheduleError::Interval(interval_ms));
        }
        Ok(Self { when: When::Every(interval_ms), missed, text: format!("every {interval_ms} ms") })
    }

    /// The schedule as text, for people.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What becomes of missed times.
    pub fn missed(&self) -> Missed {
        self.missed
    }

    /// The first planned time after `at_ms`, in milliseconds since the epoch; `None` where the calendar ends.
    pub fn next_after(&self, at_ms: u64) -> Option<u64> {
        match &self.when {
            When::Every(interval) => (at_ms / interval).checked_add(1)?.checked_mul(*interval),
            When::Rhythm(crontab) => millis(crontab.find_next(MakeTimestamp(timestamp(at_ms)?)).ok()?.timestamp()),
            When::Civil(crontab, zone) => next_civil(crontab, zone, timestamp(at_ms)?).and_then(millis),
        }
    }

    /// What there is to do `now`, when all planned times up to `done` have been seen to.
    pub(crate) fn due(&self, done: u64, now: u64) -> Due {
        if done > now.saturating_add(CLOCK_BACK_MS) {
            return Due::ClockBack;
        }
        let met = self.next_after(done.max(now.saturating_sub(MET_WITHIN_MS)));
        if let Some(planned) = met.filter(|planned| *planned <= now) {
            return Due::Run(planned);
        }
        match (self.next_after(done).filter(|planned| *planned <= now), self.missed) {
            (None, _) => Due::Not(met),
            (Some(_), Missed::Skip) => Due::Missed,
            (Some(planned), Missed::RunOnce) => Due::Run(planned),
        }
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schedule").field(&self.text).field(&self.missed).finish()
    }
}

fn timestamp(at_ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(at_ms).ok()?).ok()
}

fn millis(at: Timestamp) -> Option<u64> {
    u64::try_from(at.as_millisecond()).ok()
}

/// The first instant after `at` at which the clocks of `zone` show a time of the expression for the first time.
fn next_civil(crontab: &Crontab, zone: &TimeZone, at: Timestamp) -> Option<Timestamp> {
    let mut shown = zone.to_datetime(at);
    // Within an hour that is shown twice, times of the first showing are passed over.
    loop {
        let from = TimeZone::UTC.to_timestamp(shown).ok()?;
        shown = crontab.find_next(MakeTimestamp(from)).ok()?.datetime();
        let instant = first_shown(zone, shown)?;
        if instant > at {
            return Some(instant);
        }
    }
}

/// The first instant at which the clocks show this time, or, where they skip it, the instant of the jump.
fn first_shown(zone: &TimeZone, shown: DateTime) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(shown);
    let skipped = matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. });
    let instant = ambiguous.compatible().ok()?;
    if !skipped {
        return Some(instant);
    }
    let jump = zone.preceding(instant.checked_add(jiff::SignedDuration::from_secs(1)).ok()?).next()?;
    Some(jump.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> u64 {
        millis(text.parse().unwrap()).unwrap()
    }

    /// The planned times that follow `from`, as UTC.
    fn check(schedule: &Schedule, from: &str, expected: &[&str]) {
        let mut last = at(from);
        let mut told = Vec::new();
        for _ in expected {
            last = schedule.next_after(last).unwrap();
            told.push(timestamp(last).unwrap().to_string());
        }
        assert_eq!(told, expected, "{schedule:?} after {from}");
    }

    fn cron(text: &str, zone: &str) -> Schedule {
        Schedule::cron(text, zone, Missed::Skip).unwrap()
    }

    #[test]
    fn expressions_zones_and_changes_of_the_clocks() {
        for (text, zone, from, expected) in [
            ("30 4 * * *", "UTC", "2026-01-01T04:30:00Z", ["2026-01-02T04:30:00Z", "2026-01-03T04:30:00Z"]),
            ("30 4 * * *", "Asia/Shanghai", "2026-01-01T00:00:00Z", ["2026-01-01T20:30:00Z", "2026-01-02T20:30:00Z"]),
            ("0 9 * * MON-FRI", "UTC", "2026-11-27T09:00:00Z", ["2026-11-30T09:00:00Z", "2026-12-01T09:00:00Z"]),
            ("0 0 29 2 *", "UTC", "2026-11-27T09:00:00Z", ["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]),
            ("59 23 31 12 *", "UTC", "2026-11-27T09:00:00Z", ["2026-12-31T23:59:00Z", "2027-12-31T23:59:00Z"]),
            // Berlin, 29 March 2026: 02:00 becomes 03:00. What is skipped comes at the jump.
            ("30 2 * * *", "Europe/Berlin", "2026-03-28T02:00:00Z", ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]),
            ("0 2 * * *", "Europe/Berlin", "2026-03-28T02:00:00Z", ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]),
            ("0 3 * * *", "Europe/Berlin", "2026-03-28T03:00:00Z", ["2026-03-29T01:00:00Z", "2026-03-30T01:00:00Z"]),
            // Two skipped times and the one of the jump are one.
            (
                "0,30 2,3 * * *",
                "Europe/Berlin",
                "2026-03-29T00:59:00Z",
                ["2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"],
            ),
            // Berlin, 25 October 2026: 03:00 becomes 02:00. What is shown twice comes once.
            ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
            ("15 2 * * *", "Europe/Berlin", "2026-10-25T01:05:00Z", ["2026-10-26T01:15:00Z", "2026-10-27T01:15:00Z"]),
            // A rhythm goes on through both.
            ("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:30:00Z", ["2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"]),
            ("30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"]),
            // Half an hour of change, and a jump over midnight.
            (
                "15 2 * * *",
                "Australia/Lord_Howe",
                "2026-10-03T00:00:00Z",
                ["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"],
            ),
            (
                "30 0 * * *",
                "America/Sao_Paulo",
                "2017-10-14T12:00:00Z",
                ["2017-10-15T03:00:00Z", "2017-10-16T02:30:00Z"],
            ),
        ] {
            check(&cron(text, zone), from, &expected);
        }
    }

    #[test]
    fn intervals_do_not_drift() {
        let quarter = Schedule::every(900_000, Missed::Skip).unwrap();
        check(&quarter, "2026-01-01T00:07:31Z", &["2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"]);
        assert_eq!(quarter.next_after(u64::MAX), None);
        for bad in [0, 999, EVERY_MS_MAX + 1] {
            assert_eq!(Schedule::every(bad, Missed::Skip).unwrap_err(), ScheduleError::Interval(bad));
        }
    }

    #[test]
    fn what_is_no_schedule_is_told_why() {
        for (text, zone, expected) in [
            ("", "UTC", "a schedule has five fields (minute hour day-of-month month day-of-week), this has 0"),
            ("0 4 * * * UTC", "UTC", "a schedule has five fields"),
            ("61 4 * * *", "UTC", "\"61 4 * * *\" is no schedule: "),
            ("0 4 L * *", "UTC", "\"0 4 L * *\" is no schedule: L, the last day"),
            ("0 4 * * 5L", "UTC", "\"0 4 * * 5L\" is no schedule: L, the last day"),
            ("0 4 30 2 *", "UTC", "\"0 4 30 2 *\" never comes"),
            ("0 4 * * *", "Mars/Olympus", "\"Mars/Olympus\" is no time zone"),
            ("0 4 * * *", "../../etc/passwd", "\"../../etc/passwd\" is no time zone"),
        ] {
            let told = Schedule::cron(text, zone, Missed::Skip).unwrap_err().to_string();
            assert!(told.starts_with(expected), "{told}");
        }
        cron("0 4 * JUL *", "UTC");
    }

    #[test]
    fn missed_times_and_clocks_that_jump() {
        let minute = 60_000;
        let day = 24 * 60 * minute;
        let noon = at("2026-06-01T12:00:00Z");
        let check = |missed, done, now, expected| {
            let schedule = Schedule::cron("0 12 * * *", "UTC", missed).unwrap();
            assert_eq!(schedule.due(done, now), expected, "{missed:?} {done} {now}");
        };
        for missed in [Missed::Skip, Missed::RunOnce] {
            check(missed, noon - day, noon - 1, Due::Not(Some(noon)));
            check(missed, noon - day, noon, Due::Run(noon));
            check(missed, noon - day, noon + minute - 1, Due::Run(noon));
            check(missed, noon, noon + minute, Due::Not(Some(noon + day)));
            // Three days asleep, and awake just in time: one run.
            check(missed, noon - 3 * day, noon + 1, Due::Run(noon));
            // The clock goes back a little, a lot.
            check(missed, noon, noon - 30 * minute, Due::Not(Some(noon + day)));
            check(missed, noon + 365 * day, noon, Due::ClockBack);
        }
        check(Missed::Skip, noon - 3 * day, noon + 5 * minute, Due::Missed);
        check(Missed::RunOnce, noon - 3 * day, noon + 5 * minute, Due::Run(noon - 2 * day));
    }
}
