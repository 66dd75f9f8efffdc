//! Failures of tools: results that a model reads, with a code for programs (spec mcp §3.1). Failures of the protocol are `Fault`s.

use serde_json::{Map, Value, json};
use standpipe_engine::{Error, ErrorKind};
use standpipe_tree::ParseError;

use super::super::answer::Answer;
use crate::fault;

/// Under this name the `_meta` of a result has the failure.
const META_ERROR: &str = "dev.standpipe/error";

/// What went wrong: the closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    InvalidArgument,
    InvalidPath,
    InvalidValue,
    PermissionDenied,
    EtagMismatch,
    TooLarge,
    RateLimited,
    Timeout,
    Unavailable,
    ReadOnly,
    NotFound,
}

impl Code {
    /// As clients see it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::InvalidPath => "invalid_path",
            Self::InvalidValue => "invalid_value",
            Self::PermissionDenied => "permission_denied",
            Self::EtagMismatch => "etag_mismatch",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::ReadOnly => "read_only",
            Self::NotFound => "not_found",
        }
    }
}

/// A failure of a tool.
#[derive(Debug)]
pub(crate) struct ToolError {
    code: Code,
    what: String,
    /// What to do about it.
    then: String,
    more: Map<String, Value>,
}

impl ToolError {
    /// A failure: what happened, and what to do; neither ends in a full stop.
    pub(crate) fn new(code: Code, what: impl Into<String>, then: impl Into<String>) -> Self {
        Self { code, what: what.into(), then: then.into(), more: Map::new() }
    }

    /// The same with one thing more for programs.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// The result that tells of it.
    pub(super) fn answer(self) -> Answer {
        let code = self.code.as_str();
        let (what, then) = (self.what.trim_end_matches('.'), self.then.trim_end_matches('.'));
        let text: String = format!("{code}: {what}. {then}.").chars().take(super::TEXT_CHARS_MAX).collect();
        let mut error = self.more;
        error.insert("code".into(), code.into());
        let result = json!({ "content": [{ "type": "text", "text": text }], "isError": true });
        Answer::of(&result).meta(META_ERROR, Value::Object(error).to_string().as_bytes())
    }
}

/// What the engine and the serving core say.
impl From<Error> for ToolError {
    fn from(error: Error) -> Self {
        fault::log(&error);
        let (code, then) = match error.kind() {
            ErrorKind::BadRequest => (Code::InvalidArgument, "Correct the arguments"),
            ErrorKind::Unauthenticated => (Code::PermissionDenied, "Bring a credential that is still good"),
            ErrorKind::Denied => {
                (Code::PermissionDenied, "The rules do not allow this to you: use another path, or ask for access")
            }
            ErrorKind::NotFound => (Code::NotFound, "Ask whoever runs the server which databases there are"),
            ErrorKind::Conflict => (Code::EtagMismatch, "Read it again with tree_get and decide anew"),
            ErrorKind::TooLarge => (Code::TooLarge, "Read or write it in parts"),
            ErrorKind::Overloaded => (Code::RateLimited, "Wait for as long as it says, then try again"),
            ErrorKind::Deadline | ErrorKind::Cancelled => {
                (Code::Timeout, "Ask for less at once, or try again when there is less to do")
            }
            ErrorKind::Unavailable => (Code::Unavailable, "Try again later"),
            ErrorKind::Internal => (Code::Unavailable, "Whoever runs the server finds more in its log"),
        };
        // Told only where the server is set to: by that a developer sees which rule it was.
        let why = fault::denial_line(&error).map(|why| format!(" ({why})")).unwrap_or_default();
        let failure = Self::new(code, format!("{}{why}", error.message()), then);
        match error.retry_after() {
            Some(after) => failure.with("retry_after_ms", after.as_millis() as u64),
            None => failure,
        }
    }
}

/// What is wrong with a value that was to be written.
impl From<ParseError> for ToolError {
    fn from(error: ParseError) -> Self {
        let what = error.to_string();
        let what = what.strip_prefix("Invalid data; ").unwrap_or(&what).to_owned();
        match error {
            ParseError::StringTooLong { max, .. } => {
                Self::new(Code::TooLarge, what, "Split the string").with("limit", max as u64)
            }
            ParseError::NotAnObject => Self::new(Code::InvalidArgument, what, "Look at the tool's input schema"),
            // The arguments have been read as JSON, so that this is left: too many levels, or text that is no Unicode.
            ParseError::Syntax => {
                let what = "the value is nested too deeply, or has text that is not Unicode";
                Self::new(Code::InvalidValue, what, "At most 32 levels can be stored; change the value")
            }
            ParseError::Path { .. } | ParseError::Overlap { .. } => {
                Self::new(Code::InvalidPath, what, "Name each place once, by a path relative to the first one")
            }
            _ => Self::new(
                Code::InvalidValue,
                what,
                "Keys can't hold . $ # [ ] / or control characters; change the value",
            ),
        }
    }
}
