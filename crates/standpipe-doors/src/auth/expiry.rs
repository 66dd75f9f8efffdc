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
        self.0 = at.map(|at| Box::pin(sleep_until(instant(at))));
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

/// The moment of a clock time, for timers.
pub(crate) fn instant(at: SystemTime) -> Instant {
    Instant::now() + at.duration_since(SystemTime::now()).unwrap_or_default()
}
