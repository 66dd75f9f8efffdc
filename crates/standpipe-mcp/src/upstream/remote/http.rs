//! HTTP to one server: requests with the headers that MCP wants, and what the answers are. Which message is sent when is `call`'s and `session`'s matter.
//!
//! Redirects are not followed, so that what is asked, and told the configured headers, is what the operator named.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes};
use http::header::{ACCEPT, CONTENT_TYPE, LOCATION, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::json;
use standpipe_wire::jsonrpc::{Kind, Message};
use standpipe_wire::sse::{Decoder, Event};
use tokio::time::timeout;

use crate::Fault;
use crate::fault::{DENIED, OVERLOADED, TOO_LARGE, UNAUTHENTICATED, UPSTREAM_DIED, UPSTREAM_DOWN};

pub(super) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Time to reach the server.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// An unused connection is closed before most servers do it.
const UNUSED_MAX: Duration = Duration::from_secs(20);
/// Silence after which the system asks whether the server is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Of a page that is no answer, so much is read, and the beginning of it shown.
const PAGE_BYTES_MAX: usize = 64 << 10;
const PAGE_SHOWN_MAX: usize = 200;

/// What a message is sent as.
#[derive(Clone, Debug, Default)]
pub(super) struct As {
    /// The session it belongs to.
    pub(super) session: Option<HeaderValue>,
    /// The version of the protocol.
    pub(super) version: Option<HeaderValue>,
    /// Whether the headers of the modern era go with it.
    pub(super) is_modern: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// The server does not know the session any more.
    SessionGone,
    /// The server can't be reached.
    Unreachable(Fault),
    /// It answers, but with something else.
    Refused(StatusCode, Fault),
}

impl From<Failed> for Fault {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::SessionGone => {
                Self::new(UPSTREAM_DIED, "the server has ended the session, and does not open another one")
            }
            Failed::Unreachable(fault) | Failed::Refused(_, fault) => fault,
        }
    }
}

/// What came of a request.
#[derive(Debug)]
pub(super) enum Answer {
    /// One message.
    Message(HeaderMap, Message),
    /// A stream of them.
    Events(HeaderMap, Events),
    /// It was taken, and nothing is to come.
    Taken,
}

/// One server.
pub(super) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Uri,
    headers: HeaderMap,
    message_bytes_max: usize,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers may be secret.
        f.debug_tuple("Http").field(&self.url).finish()
    }
}

impl Http {
    /// # Errors
    /// This machine has no root certificates, and `url` needs them.
    pub(super) fn new(url: Uri, headers: HeaderMap, message_bytes_max: usize) -> Result<Self, String> {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_MAX));
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.enforce_http(false);
        let builder = HttpsConnectorBuilder::new();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let builder = match url.scheme_str() {
            // Reading them takes 20 ms, which who speaks to this machine need not wait for.
            Some("http") => builder.with_tls_config(
                rustls::ClientConfig::builder_with_provider(provider.into())
                    .with_safe_default_protocol_versions()
                    .map_err(|error| error.to_string())?
                    .with_root_certificates(rustls::RootCertStore::empty())
                    .with_no_client_auth(),
            ),
            _ => builder.with_provider_and_native_roots(provider).map_err(|error| {
                format!("no root certificates ({error}): install ca-certificates, or name a file in SSL_CERT_FILE")
            })?,
        };
        let connector = builder.https_or_http().enable_all_versions().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(UNUSED_MAX)
            .build(connector);
        Ok(Self { client, url, headers, message_bytes_max })
    }

    pub(super) fn url(&self) -> &Uri {
        &self.url
    }

    /// Sends a message.
    ///
    /// # Errors
    /// See [`Failed`]. An error that the server itself answers with is an [`Answer`].
    pub(super) async fn post(&self, message: &Message, how: &As) -> Result<Answer, Failed> {
        let mut request = self.request(Method::POST, how, message.bytes().clone());
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        if how.is_modern {
            name(message, headers);
        }
        self.answer(self.send(request).await?, how).await
    }

    /// Opens the stream of what belongs to no call, or the rest of a stream after the event `last_id`.
    ///
    /// # Errors
    /// See [`Failed`].
    pub(super) async fn listen(&self, how: &As, last_id: Option<&str>) -> Result<Answer, Failed> {
        let mut request = self.request(Method::GET, how, Bytes::new());
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(last_id) = last_id.and_then(|id| HeaderValue::from_str(id).ok()) {
            request.headers_mut().insert(LAST_EVENT_ID, last_id);
        }
        self.answer(self.send(request).await?, how).await
    }

    /// Ends a session; whether the server heard of it is not ours to know.
    pub(super) async fn delete(&self, how: &As, within: Duration) {
        let request = self.request(Method::DELETE, how, Bytes::new());
        let _unheard = timeout(within, self.client.request(request)).await;
    }

    fn request(&self, method: Method, how: &As, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.url.clone();
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("standpipe/", env!("CARGO_PKG_VERSION"))));
        headers.extend(self.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        headers.extend(how.session.clone().map(|session| (SESSION_ID, session)));
        headers.extend(how.version.clone().map(|version| (PROTOCOL_VERSION, version)));
        request
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failed> {
        let answer = self.client.request(request).await;
        answer.map_err(|error| Failed::Unreachable(self.unreachable(&innermost(&error))))
    }

    pub(super) fn unreachable(&self, cause: &str) -> Fault {
        let text = format!(
            "{} can't be reached ({cause}): start that server (as in `standpipe serve`), or correct the address; the next call tries again",
            self.url
        );
        Fault::new(UPSTREAM_DOWN, text)
    }

    async fn answer(&self, answer: Response<Incoming>, how: &As) -> Result<Answer, Failed> {
        let (head, body) = answer.into_parts();
        let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        let (is_json, is_events) =
            (kind.eq_ignore_ascii_case("application/json"), kind.eq_ignore_ascii_case("text/event-stream"));
        match head.status {
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT => Ok(Answer::Taken),
            status if status.is_success() && is_events => {
                Ok(Answer::Events(head.headers, Events::new(body, self.message_bytes_max)))
            }
            StatusCode::NOT_FOUND if how.session.is_some() => Err(Failed::SessionGone),
            status if is_json => {
                let bytes = match Limited::new(body, self.message_bytes_max).collect().await {
                    Ok(body) => body.to_bytes(),
                    Err(error) => return Err(Failed::Refused(status, self.broken_off(&*error))),
                };
                match Message::parse(bytes) {
                    Ok(message) if status.is_success() || message.kind() == Kind::Response => {
                        Ok(Answer::Message(head.headers, message))
                    }
                    _ => Err(Failed::Refused(status, self.refused(status, &head.headers, ""))),
                }
            }
            status => {
                let page = Limited::new(body, PAGE_BYTES_MAX).collect().await;
                let page = page.map(|page| page.to_bytes()).unwrap_or_default();
                let page = String::from_utf8_lossy(&page);
                Err(Failed::Refused(status, self.refused(status, &head.headers, page.trim())))
            }
        }
    }

    /// The body of an answer did not come whole.
    fn broken_off(&self, error: &(dyn std::error::Error + 'static)) -> Fault {
        let max = self.message_bytes_max;
        match error.downcast_ref::<http_body_util::LengthLimitError>() {
            Some(_) => Fault::new(
                UPSTREAM_DIED,
                format!(
                    "{} answers with more than mcp_message_bytes_max ({max} bytes): raise the limit, or ask for less",
                    self.url
                ),
            ),
            None => Fault::new(
                UPSTREAM_DIED,
                format!("the answer of {} broke off ({}): try again", self.url, innermost(error)),
            ),
        }
    }

    /// What an HTTP status that is no answer of MCP means to the client.
    fn refused(&self, status: StatusCode, headers: &HeaderMap, page: &str) -> Fault {
        let url = &self.url;
        let page: String = page.chars().filter(|char| !char.is_control()).take(PAGE_SHOWN_MAX).collect();
        let said = if page.is_empty() { String::new() } else { format!(": {page}") };
        match status {
            StatusCode::UNAUTHORIZED => Fault::new(
                UNAUTHENTICATED,
                format!(
                    "{url} wants a credential, or does not believe this one (401): set the header 'Authorization' of this server, or STANDPIPE_TOKEN"
                ),
            ),
            StatusCode::FORBIDDEN => Fault::new(
                DENIED,
                format!("{url} does not allow it (403){said}; a credential with more rights may help"),
            ),
            StatusCode::PAYLOAD_TOO_LARGE => {
                Fault::new(TOO_LARGE, format!("{url} takes no message of this size (413): send less"))
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let seconds = headers.get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse::<u64>().ok());
                Fault::new(OVERLOADED, format!("{url} is overloaded ({status}){said}; try again"))
                    .with_data(json!({ "retry_after_ms": seconds.unwrap_or(1).saturating_mul(1_000) }))
            }
            status if status.is_redirection() => {
                let to = headers.get(LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("another place");
                Fault::new(
                    UPSTREAM_DOWN,
                    format!("{url} has moved to {to} ({status}): redirects are not followed, name that address"),
                )
            }
            StatusCode::NOT_FOUND => {
                Fault::new(UPSTREAM_DOWN, format!("nothing is at {url} (404): is the path right, as in /mcp?"))
            }
            status => Fault::new(UPSTREAM_DIED, format!("{url} answers with {status}{said}")),
        }
    }
}

/// The headers that repeat what a modern request says.
fn name(message: &Message, headers: &mut HeaderMap) {
    let Some(method) = message.method() else { return };
    headers.extend(value(method).map(|method| (METHOD, method)));
    let member = match method {
        "tools/call" | "prompts/get" => "name",
        "resources/read" => "uri",
        _ => return,
    };
    if let Ok(Some(name)) = message.text_at(&[member]) {
        headers.extend(value(&name).map(|name| (NAME, name)));
    }
}

/// A text as a header's value: in base64 where it can't stand there as it is.
fn value(text: &str) -> Option<HeaderValue> {
    let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && text.trim() == text
        && !text.is_empty()
        && !text.starts_with("=?");
    match is_plain {
        true => HeaderValue::from_str(text).ok(),
        false => HeaderValue::from_str(&format!("=?base64?{}?=", STANDARD.encode(text))).ok(),
    }
}

/// A stream of events.
pub(super) struct Events {
    body: Incoming,
    decoder: Decoder,
    rest: Bytes,
    last_id: Option<String>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    fn new(body: Incoming, message_bytes_max: usize) -> Self {
        // Its name, its id and the field names come on top of the message.
        Self {
            body,
            decoder: Decoder::new(message_bytes_max.saturating_add(1 << 10)),
            rest: Bytes::new(),
            last_id: None,
        }
    }

    /// The next message; `None` at the end of the stream, were it a broken one.
    ///
    /// # Errors
    /// What comes is no message, or too long.
    pub(super) async fn next(&mut self) -> Result<Option<Message>, Fault> {
        loop {
            let mut rest = &self.rest[..];
            let event = self.decoder.decode(&mut rest);
            let used = self.rest.len() - rest.len();
            self.rest.advance(used);
            let event = event.map_err(|error| {
                Fault::new(UPSTREAM_DIED, format!("{error} (mcp_message_bytes_max): raise the limit, or ask for less"))
            })?;
            if let Some(event) = event {
                match self.message(event)? {
                    Some(message) => return Ok(Some(message)),
                    None => continue,
                }
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.rest = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => {
                    tracing::debug!(%error, "a stream of events broke off");
                    return Ok(None);
                }
                None => return Ok(None),
            }
        }
    }

    /// An event without data only has an id.
    fn message(&mut self, event: Event) -> Result<Option<Message>, Fault> {
        self.last_id = event.id.filter(|id| !id.is_empty()).or(self.last_id.take());
        if event.data.is_empty() || event.name != "message" {
            return Ok(None);
        }
        let message = Message::parse(event.data.into_bytes().into());
        message
            .map(Some)
            .map_err(|error| Fault::new(UPSTREAM_DIED, format!("the server sends what is no message: {error}")))
    }

    /// From where on the stream may be taken up again, and after which pause.
    pub(super) fn resume(&self) -> Option<(&str, Duration)> {
        let pause = self.decoder.retry_ms().unwrap_or(1_000).min(60_000);
        Some((self.last_id.as_deref()?, Duration::from_millis(pause)))
    }
}

/// The last of an error's causes: the one that says what happened.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_headers() {
        let check = |text: &str, expected: &str| assert_eq!(value(text).unwrap(), expected, "{text}");
        check("tree_get", "tree_get");
        check("tree:///a b", "tree:///a b");
        check("é", "=?base64?w6k=?=");
        check(" a", "=?base64?IGE=?=");
        check("a\r\nx: y", "=?base64?YQ0KeDogeQ==?=");
        check("=?base64?YQ==?=", "=?base64?PT9iYXNlNjQ/WVE9PT89?=");
        check("", "=?base64??=");
    }
}
