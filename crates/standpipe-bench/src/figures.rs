//! How figures are added up over rounds and printed, and the bars that ratios are held to. A bar
//! that is missed is printed as missed; it fails nothing.

use std::fmt::Display;
use std::time::Duration;

use anyhow::Result;

use crate::Pace;

/// What a ratio or figure should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bar {
    /// No less.
    AtLeast(f64),
    /// No more.
    AtMost(f64),
}

impl Bar {
    fn judge(self, value: f64) -> String {
        let (sign, bar, met) = match self {
            Self::AtLeast(bar) => ('≥', bar, value >= bar),
            Self::AtMost(bar) => ('≤', bar, value <= bar),
        };
        format!("bar {sign} {bar}: {}", if met { "met" } else { "MISSED" })
    }
}

/// Prints `ours / theirs` and its bar.
pub(crate) fn ratio(what: &str, ours: f64, theirs: f64, bar: Bar) {
    let ratio = ours / theirs;
    println!("ratio   {what}: {ratio:.2} ({})", bar.judge(ratio));
}

/// Prints a figure that has a bar of its own.
pub(crate) fn figure(what: &str, value: f64, unit: &str, bar: Bar) {
    println!("figure  {what}: {value:.1} {unit} ({})", bar.judge(value));
}

/// Says that a peer is left out, and how to get it.
pub(crate) fn missing(peer: &str, install: impl Display) {
    println!("missing {peer}: {install}");
}

/// Load that one side bore, in one round or added up over several.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    /// Answered requests.
    pub(crate) requests: u64,
    /// How long it took.
    pub(crate) time: Duration,
    /// What the server used of its core.
    pub(crate) cpu: Duration,
    /// The latency half of the requests stayed within.
    pub(crate) p50: Duration,
    /// The latency 99 of 100 requests stayed within.
    pub(crate) p99: Duration,
}

impl Load {
    /// Requests per second.
    pub(crate) fn rate(&self) -> f64 {
        self.requests as f64 / self.time.as_secs_f64()
    }

    /// Microseconds of the server's processor for each request.
    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.requests as f64
    }

    /// Prints it as a row.
    pub(crate) fn print(&self, side: &str, round: impl Display) {
        println!(
            "{side:>24} {round:>5}: {:>9.0} requests/s {:>7.2} CPU us/request  p50 {:>7.2} ms  p99 {:>7.2} ms",
            self.rate(),
            self.cpu_us(),
            self.p50.as_secs_f64() * 1e3,
            self.p99.as_secs_f64() * 1e3,
        );
    }

    /// Adds up rounds. Percentiles can't be added: they become their mean.
    pub(crate) fn sum(rounds: &[Self]) -> Self {
        let count = u32::try_from(rounds.len()).expect("a run has few rounds").max(1);
        let total = |of: fn(&Self) -> Duration| rounds.iter().map(of).sum::<Duration>();
        Self {
            requests: rounds.iter().map(|round| round.requests).sum(),
            time: total(|round| round.time),
            cpu: total(|round| round.cpu),
            p50: total(|round| round.p50) / count,
            p99: total(|round| round.p99) / count,
        }
    }
}

/// A side of a comparison: its name, and how it bears load for some seconds.
pub(crate) struct Turn<'a> {
    pub(crate) name: &'static str,
    pub(crate) bear: Box<dyn FnMut(u32) -> Result<Load> + 'a>,
}

/// Lets the sides take turns, after a second each that is not counted, prints every round, and
/// returns the sum of each side.
///
/// # Errors
/// A side fails.
pub(crate) fn compare(mut sides: Vec<Turn<'_>>, pace: Pace) -> Result<Vec<Load>> {
    for side in &mut sides {
        (side.bear)(1)?;
    }
    let mut rounds = vec![Vec::new(); sides.len()];
    for round in 1..=pace.rounds {
        for (side, loads) in sides.iter_mut().zip(&mut rounds) {
            let load = (side.bear)(pace.seconds)?;
            load.print(side.name, round);
            loads.push(load);
        }
    }
    let sums: Vec<_> = rounds.iter().map(|loads| Load::sum(loads)).collect();
    sides.iter().zip(&sums).for_each(|(side, sum)| sum.print(side.name, "all"));
    Ok(sums)
}
