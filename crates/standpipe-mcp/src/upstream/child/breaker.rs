//! Whether a process that ended may be started again, and when: with a pause that doubles, and not at all for a while when it has
//! ended too often (spec mcp §4.4).

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The first pause, and the longest.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Ends within the window that are too many.
const ENDS_MAX: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);
/// How long nothing is started then.
const OPEN: Duration = Duration::from_secs(30);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    ends: VecDeque<Instant>,
    in_a_row: u32,
    open_until: Option<Instant>,
}

impl Breaker {
    /// A process has ended that nobody had asked to, having lived so long.
    pub(super) fn ended(&mut self, lived: Duration) {
        let now = Instant::now();
        self.in_a_row = if lived >= WINDOW { 1 } else { self.in_a_row.saturating_add(1) };
        self.ends.retain(|end| now - *end < WINDOW);
        self.ends.push_back(now);
        if self.ends.len() > ENDS_MAX {
            self.ends.clear();
            self.open_until = Some(now + OPEN);
        }
    }

    /// When one may be started: after so long.
    ///
    /// # Errors
    /// Not for so long: it has ended too often.
    pub(super) fn pause(&self) -> Result<Duration, Duration> {
        let now = Instant::now();
        if let Some(until) = self.open_until.filter(|until| *until > now) {
            return Err(until - now);
        }
        let Some(last) = self.ends.back() else { return Ok(Duration::ZERO) };
        let doubled = PAUSE.saturating_mul(1 << self.in_a_row.saturating_sub(1).min(16));
        Ok((*last + doubled.min(PAUSE_MAX)).saturating_duration_since(now))
    }

    /// Whether it has ended too often.
    pub(super) fn is_open(&self) -> bool {
        self.pause().is_err()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn pauses_double_and_then_there_is_a_long_one() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.pause(), Ok(Duration::ZERO));
        let mut pauses = Vec::new();
        for _ in 0..5 {
            breaker.ended(MS);
            pauses.push(breaker.pause().unwrap().as_millis());
            advance(breaker.pause().unwrap()).await;
            assert_eq!(breaker.pause(), Ok(Duration::ZERO));
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1_600]);
        breaker.ended(MS);
        assert_eq!(breaker.pause(), Err(OPEN));
        advance(OPEN).await;
        assert_eq!(breaker.pause(), Ok(Duration::ZERO), "one more is tried");
        breaker.ended(MS);
        assert_eq!(breaker.pause(), Ok(PAUSE * 64));
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_now_and_then_is_no_reason() {
        let mut breaker = Breaker::default();
        for _ in 0..20 {
            breaker.ended(Duration::from_secs(61));
            assert_eq!(breaker.pause(), Ok(PAUSE));
            advance(Duration::from_secs(61)).await;
        }
    }
}
