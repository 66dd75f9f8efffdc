//! Answers of MCP over HTTP: a failure with its status and headers, a reply as JSON, and what browsers must be told.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use standpipe_mcp::Fault;
use standpipe_mcp::fault::{DENIED, HEADER_MISMATCH, INVALID_REQUEST, NOT_FOUND, UNAUTHENTICATED, http_status};
use standpipe_serve::{Outcome as Ended, RequestGuard};
use standpipe_wire::jsonrpc::Message;

use super::super::body::Content;
use super::super::whole_seconds;

/// An answer before its body is tied to the request.
pub(super) type Answer = Response<Content>;

/// Names a session of the legacy era.
pub(crate) static SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// The version that a message is written in.
pub(super) static PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// Tells nginx not to hold a stream back.
static ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What a page may see of an answer.
const EXPOSED: &str = "Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After";

/// What a page may send, where it does not say what it wants to.
const SENT: &str =
    "authorization, content-type, accept, mcp-session-id, mcp-protocol-version, mcp-method, mcp-name, last-event-id";

/// A request that is not done.
#[derive(Debug)]
pub(crate) struct Refused {
    status: StatusCode,
    fault: Fault,
    /// Of the request, where it is known.
    id: Option<Bytes>,
    /// The methods that would be allowed.
    allow: Option<&'static str>,
    /// What `WWW-Authenticate` says.
    challenge: Option<String>,
}

/// A request is done, or not. Refusals are rare and large.
pub(crate) type Outcome<T> = Result<T, Box<Refused>>;

impl Refused {
    /// With a status of its own.
    pub(super) fn new(status: StatusCode, fault: Fault) -> Box<Self> {
        Box::new(Self { status, fault, id: None, allow: None, challenge: None })
    }

    /// With the status that goes with its code where no method has been called yet.
    pub(crate) fn of(fault: Fault) -> Box<Self> {
        let status = match fault.code {
            NOT_FOUND => StatusCode::NOT_FOUND,
            code => match http_status(code) {
                200 => StatusCode::BAD_REQUEST,
                status => StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST),
            },
        };
        Self::new(status, fault)
    }

    /// A request that is none of the protocol's.
    pub(super) fn invalid(status: StatusCode, message: impl Into<String>) -> Box<Self> {
        Self::new(status, Fault::new(INVALID_REQUEST, message))
    }

    /// A header that says something else than the body.
    pub(super) fn mismatch(message: impl Into<String>) -> Box<Self> {
        Self::new(StatusCode::BAD_REQUEST, Fault::new(HEADER_MISMATCH, message))
    }

    /// There is no such method here.
    pub(super) fn not_allowed(allow: &'static str) -> Box<Self> {
        let mut refused =
            Self::invalid(StatusCode::METHOD_NOT_ALLOWED, format!("method not allowed; this address takes {allow}"));
        refused.allow = Some(allow);
        refused
    }

    /// The answer to the request with this id, which is JSON.
    pub(super) fn to(mut self: Box<Self>, id: Option<Bytes>) -> Box<Self> {
        self.id = id;
        self
    }

    /// As well how to get in, where that is what lacks. `metadata` is the address of who gives tokens, `scope` what they need.
    pub(super) fn challenged(mut self: Box<Self>, metadata: &str, scope: Option<&str>, has_token: bool) -> Box<Self> {
        let scope = self.fault.data.as_ref().and_then(|data| data.get("scope")?.as_str()).or(scope).map(str::to_owned);
        self.challenge = match self.fault.code {
            UNAUTHENTICATED if has_token => Some(challenge(metadata, Some("invalid_token"), scope.as_deref())),
            UNAUTHENTICATED => Some(challenge(metadata, None, scope.as_deref())),
            DENIED if scope.is_some() => Some(challenge(metadata, Some("insufficient_scope"), scope.as_deref())),
            _ => None,
        };
        self
    }

    /// Tells the serving core how the request ended.
    pub(super) fn account(&self, guard: &mut RequestGuard) {
        tracing::debug!(status = self.status.as_u16(), code = self.fault.code, "{}", self.fault.message);
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => guard.end(Ended::Refused),
            StatusCode::REQUEST_TIMEOUT => guard.end(Ended::TimedOut),
            _ => guard.failed(&self.fault.message),
        }
    }

    pub(super) fn into_answer(self) -> Answer {
        let mut answer = json(self.status, self.fault.answer(self.id.as_deref()).bytes().clone());
        let headers = answer.headers_mut();
        if let Some(after) = self.fault.retry_after() {
            headers.insert(header::RETRY_AFTER, whole_seconds(after).into());
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(challenge) = self.challenge.and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        answer
    }
}

/// RFC 6750 §3, with the parameter of RFC 9728 §5.1.
fn challenge(metadata: &str, error: Option<&str>, scope: Option<&str>) -> String {
    // A quote would end what is quoted; none of these has one, unless somebody calls us by a name with one.
    let quoted = |text: &str| text.replace(['"', '\\'], "");
    let mut text = format!("Bearer resource_metadata=\"{}\"", quoted(metadata));
    for (name, value) in [("error", error), ("scope", scope)] {
        if let Some(value) = value {
            text.push_str(&format!(", {name}=\"{}\"", quoted(value)));
        }
    }
    text
}

/// What `WWW-Authenticate` says beside a reply that is the failure `code` for lack of a scope.
pub(super) fn scope_challenge(reply: &Message, code: i64, metadata: impl FnOnce() -> String) -> Option<HeaderValue> {
    if code != DENIED {
        return None;
    }
    let scope = reply.text_at(&["data", "scope"]).ok()??;
    HeaderValue::try_from(challenge(&metadata(), Some("insufficient_scope"), Some(&scope))).ok()
}

/// JSON.
pub(super) fn json(status: StatusCode, bytes: Bytes) -> Answer {
    let mut answer = Response::new(Content::Full(bytes));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.reserve(8);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Nothing but a status.
pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Content::Full(Bytes::new()));
    *answer.status_mut() = status;
    answer
}

/// A stream of events.
pub(super) fn events(content: Content) -> Answer {
    let mut answer = Response::new(content);
    let headers = answer.headers_mut();
    headers.reserve(8);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(ACCEL_BUFFERING.clone(), HeaderValue::from_static("no"));
    answer
}

/// What every answer has; `origin` is a page that may call.
pub(super) fn common_headers(headers: &mut HeaderMap, origin: Option<HeaderValue>) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
    }
}

/// What a page asks before it sends anything.
pub(super) fn preflight(request: &HeaderMap) -> Answer {
    let mut answer = empty(StatusCode::NO_CONTENT);
    let headers = answer.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE, OPTIONS"));
    let asked = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.unwrap_or(HeaderValue::from_static(SENT)));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600"));
    answer
}
