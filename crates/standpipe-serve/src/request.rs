//! The account of one request: it begins once and ends once, whatever happens to the task that
//! serves it. What a request is and what it is answered is its door's.

use std::time::Instant;

use crate::{Event, JobError, Session};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered, also when the answer is that the request is wrong.
    Finished,
    /// Not let in, for lack of room.
    Refused,
    /// Not answered in time.
    TimedOut,
    /// The peer left, or the answer was never taken to its end.
    Cancelled,
}

impl Outcome {
    /// All of them; the position is the index of their counter.
    pub const ALL: [Self; 4] = [Self::Finished, Self::Refused, Self::TimedOut, Self::Cancelled];

    /// Stable name for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
        }
    }
}

impl From<&JobError> for Outcome {
    fn from(error: &JobError) -> Self {
        match error {
            JobError::Refused(_) | JobError::Shutdown => Self::Refused,
            JobError::QueueWait | JobError::Deadline => Self::TimedOut,
            JobError::Panicked => Self::Finished,
        }
    }
}

/// One request in progress. The first end told counts; dropped without one it is cancelled.
#[derive(Debug)]
pub struct RequestGuard {
    session: Session,
    begun: Instant,
    ended: bool,
}

impl RequestGuard {
    pub(crate) fn new(session: Session) -> Self {
        session.vitals().request_begun();
        session.emit(Event::Started);
        Self { session, begun: Instant::now(), ended: false }
    }

    /// The answer was given whole.
    pub fn finished(&mut self) {
        self.end(Outcome::Finished);
    }

    /// The answer was an error, for the reason `why`, and nothing was lacking on our side.
    pub fn failed(&mut self, why: &str) {
        if !self.ended {
            self.session.emit(Event::Error { message: why.into(), internal: false });
            self.end(Outcome::Finished);
        }
    }

    /// Ends the request with `outcome`, unless it has ended before.
    pub fn end(&mut self, outcome: Outcome) {
        if !std::mem::replace(&mut self.ended, true) {
            self.session.vitals().request_ended();
            self.session.emit(Event::Finished { outcome, took: self.begun.elapsed() });
        }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.end(Outcome::Cancelled);
    }
}
