//! A histogram of durations that costs two atomic additions to record: log-linear buckets, four
//! to an octave, from one microsecond to two minutes. It keeps no lock and no samples.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::Spread;

/// Buckets to an octave: at most a quarter of the value is lost.
const STEPS: usize = 4;
/// Octaves of microseconds: the last one ends at 2^27 µs, 134 s.
const OCTAVES: usize = 26;
const BUCKETS: usize = (OCTAVES + 1) * STEPS;

/// Durations counted by size.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS], sum_ns: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Records a duration.
    pub fn record(&self, duration: Duration) {
        self.record_many(duration, 1);
    }

    /// Records `count` durations that are `all` together.
    pub fn record_many(&self, all: Duration, count: u64) {
        let ns = u64::try_from(all.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[index(ns / count.max(1) / 1_000)].fetch_add(count, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Adds what was recorded to `counts`.
    pub fn add_to(&self, counts: &mut Counts) {
        for (sum, bucket) in counts.buckets.iter_mut().zip(&self.buckets) {
            *sum += bucket.load(Ordering::Relaxed);
        }
        counts.sum_ns = counts.sum_ns.wrapping_add(self.sum_ns.load(Ordering::Relaxed));
    }
}

/// Recorded durations, added up over several histograms.
#[derive(Clone, Debug)]
pub struct Counts {
    buckets: [u64; BUCKETS],
    sum_ns: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], sum_ns: 0 }
    }
}

impl Counts {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// All of them together, in seconds.
    pub fn sum_s(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    /// The duration, in microseconds, that a share of `q` is not longer than; to a quarter of it.
    pub fn quantile_us(&self, q: f64) -> u64 {
        let wanted = ((self.count() as f64 * q).ceil() as u64).max(1);
        let mut below = 0;
        let at = self.buckets.iter().position(|count| {
            below += count;
            below >= wanted
        });
        at.map_or(0, upper_us)
    }

    /// Their number and usual quantiles.
    pub fn spread(&self) -> Spread {
        let [p50_us, p99_us, p999_us] = [0.5, 0.99, 0.999].map(|q| self.quantile_us(q));
        Spread { count: self.count(), p50_us, p99_us, p999_us }
    }

    /// Upper bound in seconds and count of each octave, the last without bound: finer steps would
    /// only make the exposition long.
    pub fn octaves(&self) -> Vec<(f64, u64)> {
        let octave = |(at, steps): (usize, &[u64])| {
            let last = at == BUCKETS / STEPS - 1;
            let bound = if last { f64::INFINITY } else { (1_u64 << (at + 2)) as f64 / 1e6 };
            (bound, steps.iter().sum())
        };
        self.buckets.chunks(STEPS).enumerate().map(octave).collect()
    }
}

/// The longest duration of a bucket, in microseconds.
fn upper_us(at: usize) -> u64 {
    if at < STEPS {
        return at as u64;
    }
    let octave = at / STEPS + 1;
    (((STEPS + at % STEPS + 1) as u64) << (octave - 2)) - 1
}

/// The bucket of a duration in microseconds.
fn index(us: u64) -> usize {
    if us < STEPS as u64 {
        return us as usize;
    }
    let octave = us.ilog2() as usize;
    let step = (us >> (octave - 2)) as usize % STEPS;
    ((octave - 1) * STEPS + step).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_gapless_and_ordered() {
        fn check(us: u64, expected: usize) {
            assert_eq!(index(us), expected, "{us} µs");
        }
        check(0, 0);
        check(3, 3);
        check(4, 4);
        check(7, 7);
        check(8, 8);
        check(9, 8);
        check(10, 9);
        check(u64::MAX, BUCKETS - 1);
        assert!((0..BUCKETS - 1).all(|at| index(upper_us(at)) == at && index(upper_us(at) + 1) == at + 1));
        assert!((0..1 << 20).all(|us| index(us + 1) - index(us) <= 1));
    }

    #[test]
    fn octaves_hold_everything_recorded() {
        let histogram = Histogram::default();
        for us in [0, 3, 4, 1_000, 1_000_000, 1_000_000_000] {
            histogram.record(Duration::from_micros(us));
        }
        let mut counts = Counts::default();
        histogram.add_to(&mut counts);
        let octaves = counts.octaves();
        assert_eq!((counts.count(), octaves.iter().map(|(_, count)| count).sum::<u64>()), (6, 6));
        assert_eq!(octaves[0], (4e-6, 2));
        assert_eq!(octaves[1], (8e-6, 1));
        assert_eq!(octaves[octaves.len() - 1], (f64::INFINITY, 1));
        assert_eq!([0.0, 0.5, 0.51].map(|q| counts.quantile_us(q)), [0, 4, 1_023]);
        assert!((counts.sum_s() - 1_001.001_007).abs() < 1e-9);
    }
}
