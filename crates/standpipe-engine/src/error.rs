//! The engine's one error: a closed kind, a sentence for the caller, a private cause for the log.
//! It knows no status code and no protocol; `standpipe-doors` maps kinds to each door's own words.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use standpipe_tree::rules::Denial;

/// What kind of refusal or failure it is. Closed: every door maps each kind exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request itself is wrong and will be wrong again.
    BadRequest,
    /// The credential is missing, malformed or expired.
    Unauthenticated,
    /// The identity may not do this.
    Denied,
    /// No such database.
    NotFound,
    /// A precondition did not hold.
    Conflict,
    /// Larger than a limit allows.
    TooLarge,
    /// A bounded resource is full; come back later.
    Overloaded,
    /// The deadline passed before the work was done.
    Deadline,
    /// The caller left before the work began.
    Cancelled,
    /// The node can't do this now: full disk, full map, shutting down.
    Unavailable,
    /// A bug or a broken store.
    Internal,
}

impl ErrorKind {
    /// The stable name used in logs, metrics and line-based protocols.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Unauthenticated => "unauthenticated",
            Self::Denied => "denied",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::Overloaded => "overloaded",
            Self::Deadline => "deadline",
            Self::Cancelled => "cancelled",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}

/// An error with a public sentence and, where there is one, a private cause.
///
/// Cheap to clone: one failed commit answers every caller of its group.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
    cause: Option<Arc<dyn std::error::Error + Send + Sync>>,
    retry_after: Option<Duration>,
    denial: Option<Arc<Denial>>,
}

/// The engine's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error whose `message` the caller may read.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), cause: None, retry_after: None, denial: None }
    }

    /// A [`ErrorKind::BadRequest`].
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::BadRequest, message)
    }

    /// A refusal by identity or rules, in the words Firebase clients match on.
    pub fn denied() -> Self {
        Self::new(ErrorKind::Denied, "Permission denied")
    }

    /// As [`Error::denied`]; which rule said so is for those who may know.
    pub(crate) fn denied_by(denial: Option<Box<Denial>>) -> Self {
        Self { denial: denial.map(|denial| Arc::new(*denial)), ..Self::denied() }
    }

    /// A full queue or table, with a hint when to come back.
    pub fn overloaded(message: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(ErrorKind::Overloaded, message) }
    }

    /// The node can't do this now.
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self { retry_after: Some(Duration::from_secs(1)), ..Self::new(ErrorKind::Unavailable, message) }
    }

    /// A bug or a broken store; the message stays general, the cause goes to the log.
    pub fn internal(cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::new(ErrorKind::Internal, "internal error").with_cause(cause)
    }

    /// Attaches the private cause.
    #[must_use]
    pub fn with_cause(mut self, cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.cause = Some(Arc::new(cause));
        self
    }

    /// The closed kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The sentence for the caller.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The private cause, for the log of whoever consumes this error.
    pub fn cause(&self) -> Option<&(dyn std::error::Error + Send + Sync)> {
        self.cause.as_deref()
    }

    /// Which rule refused, and why: known where [`crate::EngineConfig::trace_denials`] asks for it, or
    /// where an administrator acts as a user ([`crate::Identity::acting_as`]). It tells
    /// of data that the caller may not be allowed to see.
    pub fn denial(&self) -> Option<&Denial> {
        self.denial.as_deref()
    }

    /// When to try again, for `Overloaded` and `Unavailable`.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.as_str(), self.message)?;
        match &self.cause {
            Some(cause) => write!(f, " ({cause})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

/// Anything LMDB says outside a commit is unexpected; the commit path names its own causes.
impl From<heed::Error> for Error {
    fn from(error: heed::Error) -> Self {
        match error {
            heed::Error::Mdb(heed::MdbError::ReadersFull) => {
                Self::overloaded("too many reads are open at once", Duration::from_millis(100))
            }
            error => Self::internal(error),
        }
    }
}
