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
    /// Met or missed; where only some of `values` meet it, that can't be told.
    fn judge(self, values: &[f64]) -> String {
        let (sign, bar) = match self {
            Self::AtLeast(bar) => ('≥', bar),
            Self::AtMost(bar) => ('≤', bar),
        };
        let meets = |value: &f64| match self {
            Self::AtLeast(bar) => *value >= bar,
            Self::AtMost(bar) => *value <= bar,
        };
        let verdict = match (values.iter().all(meets), values.iter().any(meets)) {
            (true, _) => "met",
            (false, true) => "UNCLEAR, rounds disagree",
            (false, false) => "MISSED",
        };
        format!("bar {sign} {bar}: {verdict}")
    }
}

/// Prints the ratio of the means of `ours` and `theirs`, that of every round, and the bar. A mean
/// alone would hide that one disturbed round of a peer made it.
pub(crate) fn ratio(what: &str, ours: &[f64], theirs: &[f64], bar: Bar) {
    let mean = ours.iter().sum::<f64>() / theirs.iter().sum::<f64>();
    let rounds: Vec<_> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    println!("ratio   {what}: {mean:.2} (rounds {rounds:.2?}; {})", bar.judge(&rounds));
}

/// Prints a figure that has a bar of its own.
pub(crate) fn figure(what: &str, value: f64, unit: &str, bar: Bar) {
    println!("figure  {what}: {value:.1} {unit} ({})", bar.judge(&[value]));
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

    /// Prints it as a row; of a side without a process of its own, the rate is all that is known.
    pub(crate) fn print(&self, side: &str, round: impl Display) {
        print!("{side:>24} {round:>5}: {:>9.0} requests/s", self.rate());
        if !self.cpu.is_zero() {
            print!(" {:>7.2} CPU us/request", self.cpu_us());
        }
        if !self.p99.is_zero() {
            let [p50, p99] = [self.p50, self.p99].map(|latency| latency.as_secs_f64() * 1e3);
            print!("  p50 {p50:>7.2} ms  p99 {p99:>7.2} ms");
        }
        println!();
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

/// Lets the sides take turns, after a second each that is not counted, prints every round and the
/// sum, and returns the rounds of each side.
///
/// # Errors
/// A side fails.
pub(crate) fn compare(mut sides: Vec<Turn<'_>>, pace: Pace) -> Result<Vec<Vec<Load>>> {
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
    sides.iter().zip(&rounds).for_each(|(side, loads)| Load::sum(loads).print(side.name, "all"));
    Ok(rounds)
}

/// A figure of every round.
pub(crate) fn each(loads: &[Load], figure: impl Fn(&Load) -> f64) -> Vec<f64> {
    loads.iter().map(figure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_met_by_all_rounds_or_not_at_all() {
        let check = |bar: Bar, values: &[f64], expected| assert_eq!(bar.judge(values), expected, "{values:?}");
        check(Bar::AtLeast(0.8), &[0.8, 0.9], "bar ≥ 0.8: met");
        check(Bar::AtLeast(0.8), &[0.7, 0.9], "bar ≥ 0.8: UNCLEAR, rounds disagree");
        check(Bar::AtLeast(0.8), &[0.7, 0.79], "bar ≥ 0.8: MISSED");
        check(Bar::AtMost(0.5), &[0.5], "bar ≤ 0.5: met");
        check(Bar::AtMost(0.5), &[0.38, 0.62], "bar ≤ 0.5: UNCLEAR, rounds disagree");
        check(Bar::AtMost(0.5), &[f64::NAN], "bar ≤ 0.5: MISSED");
    }
}
