//! The moment after which an answer is worth nothing: made once when a request is decoded and
//! carried to queue, worker and engine. It is tested before work starts, never in the middle of a
//! commit, and sets no timer by itself.

use std::time::{Duration, Instant};

/// Stands for "never": far enough for any process, near enough for every clock's arithmetic.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// A point in time by which a request must be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline `ms` milliseconds from now; beyond 30 years is 30 years.
    pub fn after(ms: u64) -> Self {
        Self::at(Instant::now() + Duration::from_millis(ms).min(FAR))
    }

    /// The deadline at `instant`.
    pub const fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// The moment itself.
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// Time left; zero when it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    pub fn expired(self) -> bool {
        self.expired_at(Instant::now())
    }

    /// Whether it has passed at `now`.
    pub fn expired_at(self, now: Instant) -> bool {
        now >= self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_passes_once_and_never_overflows() {
        let now = Instant::now();
        let deadline = Deadline::at(now + Duration::from_millis(5));
        assert!(!deadline.expired_at(now));
        assert!(deadline.expired_at(now + Duration::from_millis(5)));
        assert!(Deadline::after(0).expired());
        assert!(Deadline::after(u64::MAX).remaining() > FAR / 2);
        assert_eq!(Deadline::at(now).remaining(), Duration::ZERO);
    }
}
