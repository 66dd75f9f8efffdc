//! Failures that we answer with, as MCP knows them: one table of codes, and the HTTP status that goes with each (spec mcp §5). Ours are outside the range
//! that the protocol reserves: the HTTP status times ten.

use std::time::Duration;

use serde_json::{Value, json};
use standpipe_engine::{Error, ErrorKind};
use standpipe_wire::jsonrpc::Message;

/// JSON-RPC: no such method.
pub const METHOD_NOT_FOUND: i64 = -32_601;
/// JSON-RPC: the request is no request.
pub const INVALID_REQUEST: i64 = -32_600;
/// JSON-RPC: its parameters are wrong; modern: also a resource that is not there.
pub const INVALID_PARAMS: i64 = -32_602;
/// JSON-RPC: our own failure.
pub const INTERNAL: i64 = -32_603;
/// Legacy: a resource that is not there.
pub const RESOURCE_NOT_FOUND: i64 = -32_002;
/// Modern: a header says something else than the body.
pub const HEADER_MISMATCH: i64 = -32_020;
/// Modern: the client lacks a capability that the request needs.
pub const MISSING_CAPABILITY: i64 = -32_021;
/// A version of the protocol that is not spoken here.
pub const UNSUPPORTED_VERSION: i64 = -32_022;
/// No credential, or none that is believed.
pub const UNAUTHENTICATED: i64 = 4_010;
/// Not allowed.
pub const DENIED: i64 = 4_030;
/// Not there.
pub const NOT_FOUND: i64 = 4_040;
/// Longer than a limit.
pub const TOO_LARGE: i64 = 4_130;
/// More often than a limit.
pub const RATE: i64 = 4_290;
/// The server behind the gateway died, or said something that is no answer.
pub const UPSTREAM_DIED: i64 = 5_020;
/// The server behind the gateway does not start, or has failed too often to be started now.
pub const UPSTREAM_DOWN: i64 = 5_021;
/// As much as a limit allows is at work already.
pub const OVERLOADED: i64 = 5_030;
/// Too late.
pub const DEADLINE: i64 = 5_040;

/// The HTTP status of an answer that is this failure, to a legacy request; a modern one differs for the protocol's own codes.
pub fn http_status(code: i64) -> u16 {
    match code {
        UNAUTHENTICATED => 401,
        DENIED => 403,
        TOO_LARGE => 413,
        RATE => 429,
        UPSTREAM_DOWN | OVERLOADED => 503,
        _ => 200,
    }
}

/// The HTTP status of an answer that is this failure, to a modern request (spec mcp §2.2).
pub fn http_status_modern(code: i64) -> u16 {
    match code {
        METHOD_NOT_FOUND => 404,
        HEADER_MISMATCH | MISSING_CAPABILITY | UNSUPPORTED_VERSION => 400,
        code => http_status(code),
    }
}

/// A failure: a code, a sentence that names the cause and what to do, and more for programs.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// One of the codes above.
    pub code: i64,
    /// For people.
    pub message: String,
    /// For programs.
    pub data: Option<Value>,
}

impl Fault {
    /// A failure without data.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// The same with data for programs.
    #[must_use]
    pub fn with_data(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    /// A limit was reached; trying again makes sense after `after`.
    pub fn overloaded(message: impl Into<String>, after: Duration) -> Self {
        Self::new(OVERLOADED, message).with_data(json!({ "retry_after_ms": after.as_millis() as u64 }))
    }

    /// The caller's credential is not for this; `scopes` are all that are needed, separated by spaces.
    pub fn scopes(scopes: &str) -> Self {
        let message =
            format!("the token does not allow this: it needs the scopes {scopes:?}; ask for them and try again");
        Self::new(DENIED, message).with_data(json!({ "scope": scopes }))
    }

    /// When trying again makes sense.
    pub fn retry_after(&self) -> Option<Duration> {
        self.data.as_ref()?.get("retry_after_ms")?.as_u64().map(Duration::from_millis)
    }

    /// The answer to the request with this id, which is JSON.
    pub fn answer(&self, id: Option<&[u8]>) -> Message {
        let data = self.data.as_ref().map(|data| data.to_string().into_bytes());
        Message::error(id, self.code, &self.message, data.as_deref())
    }
}

impl From<&Error> for Fault {
    fn from(error: &Error) -> Self {
        let code = match error.kind() {
            ErrorKind::BadRequest => INVALID_PARAMS,
            ErrorKind::Unauthenticated => UNAUTHENTICATED,
            ErrorKind::Denied => DENIED,
            ErrorKind::NotFound => NOT_FOUND,
            ErrorKind::Conflict => INVALID_PARAMS,
            ErrorKind::TooLarge => TOO_LARGE,
            ErrorKind::Overloaded | ErrorKind::Unavailable => OVERLOADED,
            ErrorKind::Deadline | ErrorKind::Cancelled => DEADLINE,
            ErrorKind::Internal => INTERNAL,
        };
        let data = error.retry_after().map(|after| json!({ "retry_after_ms": after.as_millis() as u64 }));
        Self { code, message: error.message().to_owned(), data }
    }
}
