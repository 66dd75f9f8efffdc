//! MCP over Streamable HTTP, both eras on one address (spec mcp §2.2, §2.4). It looks at names, pages, tokens and headers, hands messages over, and
//! carries answers back: as JSON where the reply is all there is, else as a stream of events.
//!
//! ```text
//! place ─ policy (Host, Origin) ─ who calls ─ which server ─┬ POST ─ body ─ era ─ server or session ─ reply
//!                                                           ├ GET ─ the session's news, or a stream to be resumed
//!                                                           └ DELETE ─ the session's end
//! ```

mod answers;
mod door;
mod events;
pub(crate) mod legacy_sse;
mod metadata;
mod place;
mod post;
#[cfg(test)]
mod tests;
pub(crate) mod ws;

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body as _, Incoming};
use standpipe_engine::Identity;
use standpipe_mcp::fault::{DENIED, NOT_FOUND, OVERLOADED, RATE, UNAUTHENTICATED};
use standpipe_mcp::sessions::LegacySession;
use standpipe_mcp::{Caller, Fault, Server};
use standpipe_serve::{Refusal, Session};

use self::answers::{Answer, PROTOCOL_VERSION, common_headers, empty, events, json, preflight};
pub(crate) use self::answers::{Outcome, Refused, SESSION_ID};
pub use self::door::McpHttp;
use self::events::{AtStop, Events, Source};
pub(crate) use self::place::{Place, place};
use super::body::{Content, Reply};
use super::io::Activity;
use super::sse::{TakenBy, Takeover};
use crate::mcp::{Endpoint, Mcp, host};

/// The methods of an endpoint.
const METHODS: &str = "GET, POST, DELETE, OPTIONS";

/// Answers one request; never fails, for every refusal is an answer.
pub(super) async fn answer(
    mcp: &Arc<Mcp>,
    place: Place,
    session: &Session,
    activity: &Arc<Activity>,
    request: Request<Incoming>,
) -> Result<Response<Reply>, Box<Takeover>> {
    let busy = activity.request(!request.body().is_end_stream());
    let mut guard = session.request();
    let version = request.version();
    let page = request.headers().get(header::ORIGIN).cloned();
    let mut allowed = false;
    let outcome = match session.admit_requests(1) {
        Err(refusal) => Err(refused(refusal)),
        Ok(()) => handle(mcp, place, session, activity, request, &mut allowed).await,
    };
    let mut answer = outcome.unwrap_or_else(|refused| {
        refused.account(&mut guard);
        refused.into_answer()
    });
    // A page that may not call may not read why, either.
    common_headers(answer.headers_mut(), page.filter(|_| allowed));
    let (parts, content) = answer.into_parts();
    match content {
        Content::Socket(socket) => {
            let by = TakenBy::Mcp(socket);
            Err(Box::new(Takeover { by, version, headers: parts.headers, request: guard, busy }))
        }
        content => Ok(Response::from_parts(parts, Reply::new(content, busy, guard))),
    }
}

/// What the serving core has not let in.
fn refused(refusal: Refusal) -> Box<Refused> {
    let code = if matches!(refusal, Refusal::Rate { .. }) { RATE } else { OVERLOADED };
    let data = serde_json::json!({ "retry_after_ms": refusal.retry_after().as_millis() as u64 });
    Refused::of(Fault::new(code, refusal.to_string()).with_data(data))
}

async fn handle(
    mcp: &Arc<Mcp>,
    place: Place,
    session: &Session,
    activity: &Arc<Activity>,
    request: Request<Incoming>,
    page_allowed: &mut bool,
) -> Outcome<Answer> {
    let (parts, body) = request.into_parts();
    check_names(mcp, session, &parts)?;
    *page_allowed = true;
    if parts.method == Method::OPTIONS {
        return Ok(preflight(&parts.headers));
    }
    check_query(parts.uri.query())?;
    let visit = Visit { mcp, session, activity, method: parts.method, uri: parts.uri };
    match place {
        Place::Stream(endpoint) => {
            let call = visit.call(endpoint, parts.headers).await?;
            match visit.method {
                Method::POST => call.post(body).await,
                Method::GET => call.get(),
                Method::DELETE => call.delete(),
                _ => Err(Refused::not_allowed(METHODS)),
            }
        }
        Place::Metadata(endpoint) => visit.metadata(&endpoint, &parts.headers),
        Place::Status => visit.status(parts.headers).await,
        Place::Sse(endpoint) => {
            let call = visit.call(endpoint, parts.headers).await?;
            if visit.method == Method::GET { call.open_sse() } else { Err(Refused::not_allowed("GET, OPTIONS")) }
        }
        Place::Messages(endpoint) => {
            let call = visit.call(endpoint, parts.headers).await?;
            if visit.method == Method::POST {
                call.send_sse(body).await
            } else {
                Err(Refused::not_allowed("POST, OPTIONS"))
            }
        }
        Place::Socket(endpoint) => visit.call(endpoint, parts.headers).await?.socket(parts.version),
        Place::Unknown => Err(Refused::of(Fault::new(
            NOT_FOUND,
            "nothing of MCP is here; its addresses are /mcp, /mcp/s/<name> and /mcp/all",
        ))),
    }
}

/// Whether we are called by a name of ours, and by no page of a stranger. Over a Unix socket there is neither.
fn check_names(mcp: &Mcp, session: &Session, parts: &http::request::Parts) -> Outcome<()> {
    // Two names could be taken for two servers by two readers (RFC 9112 §3.2).
    if parts.version == Version::HTTP_11 && parts.headers.get_all(header::HOST).iter().count() != 1 {
        return Err(Refused::invalid(StatusCode::BAD_REQUEST, "a request must have exactly one Host header"));
    }
    let policy = mcp.policy();
    let named = host(&parts.uri, &parts.headers).unwrap_or_default();
    let is_socket = session.peer().counted_as().is_none();
    if !is_socket && !policy.allows_host(named) {
        let message =
            "this server is not known by the name in the Host header; add the name to [mcp] hosts, or use localhost";
        return Err(Refused::of(Fault::new(DENIED, message)));
    }
    let Some(origin) = parts.headers.get(header::ORIGIN) else { return Ok(()) };
    if !origin.to_str().is_ok_and(|origin| policy.allows_origin(origin, named)) {
        let message = "the page that sends this (Origin) may not call here; add it to [mcp] origins";
        return Err(Refused::of(Fault::new(DENIED, message)));
    }
    Ok(())
}

/// A token in an address ends up in logs and histories.
fn check_query(query: Option<&str>) -> Outcome<()> {
    let names = query.unwrap_or_default().split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    for name in names {
        if matches!(name, "access_token" | "auth" | "token") {
            let message =
                format!("a token is not taken from the address ({name}=): send it as 'Authorization: Bearer <token>'");
            return Err(Refused::invalid(StatusCode::BAD_REQUEST, message));
        }
    }
    Ok(())
}

/// A request whose names are in order.
struct Visit<'a> {
    mcp: &'a Arc<Mcp>,
    session: &'a Session,
    activity: &'a Arc<Activity>,
    method: Method,
    uri: Uri,
}

/// A request of somebody who may use an endpoint.
struct Call<'v> {
    visit: &'v Visit<'v>,
    endpoint: Endpoint,
    server: Arc<dyn Server>,
    caller: Caller,
    /// Without credentials.
    headers: Arc<HeaderMap>,
}

impl<'v> Visit<'v> {
    /// Who calls, and for which server.
    async fn call(&'v self, endpoint: Endpoint, headers: HeaderMap) -> Outcome<Call<'v>> {
        let scope = self.mcp.scope(&endpoint);
        let (caller, headers) = self.caller(&endpoint, headers).await?;
        if let Some(scope) = &scope
            && !caller.scopes.allow(scope)
        {
            let metadata = self.metadata_url(&endpoint, &headers);
            return Err(Refused::of(Fault::scopes(scope)).challenged(&metadata, None, true));
        }
        match self.mcp.server(&endpoint) {
            Some(server) => Ok(Call { visit: self, endpoint, server, caller, headers }),
            None => Err(Refused::of(Fault::new(NOT_FOUND, format!("no server is at {endpoint}")))),
        }
    }

    /// Who calls. Gives the headers back without credentials.
    async fn caller(&self, endpoint: &Endpoint, mut headers: HeaderMap) -> Outcome<(Caller, Arc<HeaderMap>)> {
        let credential = headers.remove(header::AUTHORIZATION);
        headers.remove(header::COOKIE);
        headers.remove(header::PROXY_AUTHORIZATION);
        let headers = Arc::new(headers);
        let token = credential.as_ref().map(bearer).transpose();
        let caller = match token {
            Ok(token) => self.mcp.caller(self.session, token, Some(headers.clone())).await,
            Err(fault) => Err(fault),
        };
        match caller {
            Ok(caller) => Ok((caller, headers)),
            Err(fault) => {
                let (metadata, scope) = (self.metadata_url(endpoint, &headers), self.mcp.scope(endpoint));
                Err(Refused::of(fault).challenged(&metadata, scope.as_deref(), credential.is_some()))
            }
        }
    }

    /// How the servers are doing: for administrators, or who is on this machine where everybody is let in.
    async fn status(&self, headers: HeaderMap) -> Outcome<Answer> {
        if self.method != Method::GET {
            return Err(Refused::not_allowed("GET, OPTIONS"));
        }
        let (caller, _) = self.caller(&Endpoint::Main, headers).await?;
        let shown = self.mcp.policy().anonymous && self.session.peer().is_local();
        if caller.identity != Identity::Admin && !shown {
            return Err(Refused::of(Fault::new(DENIED, "only an administrator may see this")));
        }
        let mut status = self.mcp.status();
        if let Some(status) = status.as_object_mut() {
            status.insert("http_sessions".into(), self.mcp.sessions().len().into());
        }
        Ok(json(StatusCode::OK, status.to_string().into()))
    }
}

/// The token of a credential.
fn bearer(credential: &HeaderValue) -> Result<&str, Fault> {
    let text = credential.to_str().unwrap_or_default();
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => Ok(token.trim()),
        _ => Err(Fault::new(
            UNAUTHENTICATED,
            "send a token as 'Authorization: Bearer <token>'; nothing else is taken here",
        )),
    }
}

impl Call<'_> {
    /// A header's text; what is no text is none we know.
    fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether the client takes answers of this media type.
    fn accepts(&self, kind: &str, subtype: &str) -> bool {
        let values = self.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|range| {
            let range = range.split(';').next().unwrap_or_default().trim();
            let (of, sub) = range.split_once('/').unwrap_or_default();
            (of == "*" && sub == "*")
                || (of.eq_ignore_ascii_case(kind) && (sub == "*" || sub.eq_ignore_ascii_case(subtype)))
        })
    }

    /// The legacy session that the request names.
    fn session(&self) -> Outcome<Arc<LegacySession>> {
        let Some(id) = self.headers.get(&SESSION_ID) else {
            let message = "a request without _meta of 2026-07-28 belongs to a session: send Mcp-Session-Id, or begin with 'initialize'";
            return Err(Refused::invalid(StatusCode::BAD_REQUEST, message));
        };
        let id = id.to_str().unwrap_or_default();
        let sessions = self.visit.mcp.sessions();
        sessions.find(id, &self.caller.principal, &self.endpoint.to_string()).map_err(Refused::of)
    }

    /// Only a session has something to be got or ended.
    fn session_of_legacy(&self) -> Outcome<Arc<LegacySession>> {
        let modern = |version: &str| standpipe_mcp::era::MODERN.contains(&version);
        if !self.headers.contains_key(&SESSION_ID) && self.header(&PROTOCOL_VERSION).is_some_and(modern) {
            return Err(Refused::not_allowed("POST, OPTIONS"));
        }
        self.session()
    }

    /// What belongs to no call, or what comes behind the last event that the client has seen.
    fn get(&self) -> Outcome<Answer> {
        if !self.accepts("text", "event-stream") {
            let message = "this is a stream of events: send 'Accept: text/event-stream'";
            return Err(Refused::invalid(StatusCode::NOT_ACCEPTABLE, message));
        }
        let session = self.session_of_legacy()?;
        let permit = self.visit.session.watch_permit().map_err(refused)?;
        let last = self.header(&header::HeaderName::from_static("last-event-id"));
        let (reader, at_stop) = match last {
            Some(last) => (session.resume(last).map_err(Refused::of)?, AtStop::SaysGoodbye),
            None => (session.read_news(), AtStop::Ends),
        };
        let stream = Events::new(Source::Resumable(reader), &self.caller, at_stop, Some(permit));
        // Where it stands is known to who resumes.
        let stream = if last.is_none() && session.takes_empty_events() { stream.with_position() } else { stream };
        Ok(self.stream(stream.with_comment()))
    }

    fn stream(&self, stream: Events) -> Answer {
        self.visit.activity.hurry();
        events(Content::Stream(stream.into_body()))
    }

    fn delete(&self) -> Outcome<Answer> {
        let session = self.session_of_legacy()?;
        self.visit.mcp.sessions().end(&session);
        Ok(empty(StatusCode::NO_CONTENT))
    }
}

#[cfg(test)]
mod streams_tests;
