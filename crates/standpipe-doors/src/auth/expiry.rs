//! The end of a credential on a connection that has no other word for it: a command connection is closed,
//! for what it watches and what it sends were allowed to who it is not any more.

use std::future::Future as _;
use std::pin::Pin;
use std::task::Context;
use std::time::SystemTime;

use standpipe_serve::{CloseReason, Session};
use tokio::time::{Instant, Sleep, sleep_until};

/// When the connection's credential ends; nothing for most.
#[derive(Debug, Default)]
pub(crate) struct Expiry(Option<Pin<Box<Sleep>>>);

impl Expiry {
    /// The credential in force ends at `at`.
    pub(crate) fn set(&mut self, at: Option<SystemTime>) {
        self.0 = at.and_then(instant).map(|at| Box::pin(sleep_until(at)));
    }

    /// Closes the session once the credential has ended.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>, session: &Session) {
        if let Some(end) = &mut self.0
            && end.as_mut().poll(context).is_ready()
        {
            self.0 = None;
            session.close(CloseReason::Revoked);
        }
    }
}

/// The moment of a clock time, for timers; `None` for one so far away that no timer can tell it.
pub(crate) fn instant(at: SystemTime) -> Option<Instant> {
    Instant::now().checked_add(at.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn an_end_in_the_past_is_now_and_one_far_away_does_no_harm() {
        assert!(instant(UNIX_EPOCH).is_some_and(|at| at <= Instant::now()));
        let far = UNIX_EPOCH.checked_add(Duration::from_secs(i64::MAX as u64)).and_then(instant);
        assert!(far.is_none_or(|at| at > Instant::now() + Duration::from_secs(1 << 32)));
    }
}
