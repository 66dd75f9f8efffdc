//! The HTTP door: REST, event streams, settings, health and metrics over HTTP/1.1 and HTTP/2 on
//! one port. It decodes, dispatches and encodes; limits, timers, counters and shutdown are the
//! serving core's.

mod body;
mod conn;
mod coverage;
mod follow;
mod io;
mod mcp;
mod operations;
mod output;
mod page;
mod params;
mod rest;
mod route;
mod runs;
mod sse;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use standpipe_engine::{Error, ErrorKind, Identity};
use standpipe_runs::Runs;
use standpipe_serve::{CloseReason, Conn, Deadline, Door, Metrics, Outcome, Refusal, RequestGuard, Session};
use standpipe_tree::write_json_string;

use self::body::{Content, Reply};
use self::io::Activity;
pub(crate) use self::io::{Busy, Stream};
pub use self::mcp::McpHttp;
pub(crate) use self::mcp::legacy_sse::SseSessions;
pub(crate) use self::output::check_state;
pub(crate) use self::params::Params;
use self::rest::Call;
pub(crate) use self::rest::parse as parse_write;
use self::route::{Place, Route, route};
use self::runs::Control;
use self::sse::{TakenBy, Takeover};
use crate::auth::{Caller, Credentials, Identified};
use crate::dispatch::{Dispatch, refused};
use crate::fault::{self, http_refusal, http_status};
use crate::firebase::websocket::Upgrade;
use crate::firebase::{self, Polls, Sessions};
use crate::mcp::Mcp;

/// The rules shown while none have been put.
const DEFAULT_RULES: &str = "{\"rules\":{}}";

/// The revision of an accepted write.
static REV_HEADER: HeaderName = HeaderName::from_static("x-standpipe-rev");

/// Which rule refused, for those who may know.
static DENIED_HEADER: HeaderName = HeaderName::from_static("x-standpipe-denied");

/// An answer before its body is tied to the request.
type Answer = Response<Content>;

/// The HTTP door.
#[derive(Clone, Debug)]
pub struct HttpDoor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dispatch: Dispatch,
    credentials: Credentials,
    sessions: Sessions,
    polls: Polls,
    /// Where commands are run; of a folder that a command looks at by itself there is none.
    control: Option<Control>,
    mcp: Option<Arc<Mcp>>,
    metrics: Metrics,
    /// False while the node starts and stops.
    ready: Arc<AtomicBool>,
}

impl HttpDoor {
    /// A door over `dispatch`. `ready` is what `/readyz` tells.
    pub fn new(dispatch: Dispatch, credentials: Credentials, metrics: Metrics, ready: Arc<AtomicBool>) -> Self {
        let (sessions, polls) = (Sessions::default(), Polls::default());
        let (control, mcp) = (None, None);
        Self { inner: Arc::new(Inner { dispatch, credentials, sessions, polls, control, mcp, metrics, ready }) }
    }

    /// As well the door of `runs`. `env` is the environment of a command whose request brings none.
    ///
    /// # Panics
    /// The door is in use already.
    #[must_use]
    pub fn with_runs(mut self, runs: Arc<Runs>, env: BTreeMap<String, String>) -> Self {
        let inner = Arc::get_mut(&mut self.inner).expect("nobody else has the door while it is made");
        inner.control = Some(Control::new(runs, env));
        self
    }

    /// As well the door of `mcp`, below `/mcp`.
    ///
    /// # Panics
    /// The door is in use already.
    #[must_use]
    pub fn with_mcp(mut self, mcp: Arc<Mcp>) -> Self {
        let inner = Arc::get_mut(&mut self.inner).expect("nobody else has the door while it is made");
        inner.mcp = Some(mcp);
        self
    }
}

impl Door for HttpDoor {
    fn name(&self) -> &'static str {
        "http"
    }

    async fn serve(&self, conn: Conn, session: Session) -> CloseReason {
        conn::serve(conn::Answerer::Http(self.clone()), conn, session).await
    }

    async fn refuse(&self, conn: Conn, refusal: Refusal) {
        conn::refuse(conn, &refusal).await;
    }
}

impl HttpDoor {
    /// Answers one request; never fails, for every refusal is an answer. An event stream over
    /// HTTP/1.1 wants the whole connection instead.
    async fn answer(
        &self,
        session: &Session,
        activity: &Arc<Activity>,
        request: Request<Incoming>,
    ) -> Result<Response<Reply>, Box<Takeover>> {
        if let Some(mcp) = &self.inner.mcp
            && let Some(place) = mcp::place(request.uri().path())
        {
            return Box::pin(mcp::answer(mcp, place, session, activity, request)).await;
        }
        let busy = activity.request(!request.body().is_end_stream());
        let mut guard = session.request();
        let version = request.version();
        let origin = request.headers().get(header::ORIGIN).cloned();
        let head = *request.method() == Method::HEAD;
        let mut answer = match session.admit_requests(1) {
            Err(refusal) => {
                guard.end(Outcome::Refused);
                refusal_answer(refusal)
            }
            Ok(()) => self.handle(session, activity, request).await.unwrap_or_else(|error| {
                account(&mut guard, &error);
                error_answer(&error)
            }),
        };
        if head {
            *answer.body_mut() = Content::Full(Bytes::new());
        }
        common_headers(answer.headers_mut(), origin);
        let (parts, content) = answer.into_parts();
        match content {
            Content::Watch(feed) if version < Version::HTTP_2 => {
                let by = TakenBy::Events(*feed);
                Err(Box::new(Takeover { by, version, headers: parts.headers, request: guard, busy }))
            }
            Content::Upgrade(upgrade) => {
                let by = TakenBy::WebSocket(*upgrade);
                Err(Box::new(Takeover { by, version, headers: parts.headers, request: guard, busy }))
            }
            Content::Output(feed) if feed.takes_over(version) => {
                let by = TakenBy::Output(feed);
                Err(Box::new(Takeover { by, version, headers: parts.headers, request: guard, busy }))
            }
            content => {
                let waits = matches!(&content, Content::Output(feed) if feed.waits());
                if waits || matches!(content, Content::Watch(_)) {
                    activity.watching().store(true, Ordering::Relaxed);
                }
                Ok(Response::from_parts(parts, Reply::new(content, busy, guard)))
            }
        }
    }

    async fn handle(
        &self,
        session: &Session,
        activity: &Arc<Activity>,
        request: Request<Incoming>,
    ) -> Result<Answer, Error> {
        let (parts, body) = request.into_parts();
        // Two names could be taken for two databases by two readers (RFC 9112 §3.2).
        if parts.version == Version::HTTP_11 && parts.headers.get_all(header::HOST).iter().count() != 1 {
            return Err(Error::bad_request("a request must have exactly one Host header"));
        }
        if parts.method == Method::OPTIONS {
            return Ok(preflight(&parts.headers));
        }
        let route = route(parts.uri.path())?;
        let params = Params::parse(parts.uri.query())?;
        let method = method(&parts.method, &parts.headers, &params);
        let identify = || self.identify(session, &parts.headers, &params);
        let inner = &self.inner;
        let only_get = |answer: fn(&Inner) -> Answer| match method {
            Method::GET => answer(inner),
            _ => not_allowed("GET, HEAD"),
        };
        match route {
            Route::Tree(location) => {
                let Identified { identity, expires_at, .. } = identify().await?;
                let namespace = namespace(&params, &parts.headers, parts.uri.host());
                let database = inner.dispatch.database(namespace.as_deref())?;
                let call = Call {
                    dispatch: &inner.dispatch,
                    session,
                    activity,
                    database,
                    identity,
                    expires_at,
                    location,
                    params,
                    headers: &parts.headers,
                };
                // Boxed, all but the reads: their futures are large, and every request would carry them.
                match method {
                    Method::GET if call.wants_events() => Box::pin(call.listen()).await,
                    Method::GET => call.get().await,
                    Method::PUT | Method::POST | Method::PATCH | Method::DELETE => {
                        Box::pin(call.write(&method, body)).await
                    }
                    _ => Ok(not_allowed(METHODS)),
                }
            }
            Route::WebSocket => self.websocket(&parts, &params),
            Route::LongPoll => match method {
                // A page that goes away can only post.
                Method::GET | Method::POST => Box::pin(self.long_poll(session, &parts, &params)).await,
                _ => Ok(not_allowed("GET, HEAD, POST")),
            },
            Route::Health => Ok(only_get(|_| text("ok\n"))),
            Route::Ready if inner.ready.load(Ordering::Relaxed) => Ok(only_get(|_| text("ready\n"))),
            Route::Ready => Err(Error::unavailable("the server is starting or stopping")),
            Route::Emulators if inner.credentials.is_emulator() && method == Method::GET => {
                let own = parts.uri.authority().map(http::uri::Authority::as_str);
                let host = own.or_else(|| parts.headers.get(header::HOST)?.to_str().ok());
                operations::emulators(host.unwrap_or_default())
            }
            Route::Index => Ok(only_get(|_| text(operations::INDEX))),
            Route::Metrics => Ok(only_get(|Inner { dispatch, metrics, credentials, control, mcp, .. }| {
                let runs = control.as_ref().map(runs::Control::runs);
                operations::metrics(dispatch.engine(), metrics, credentials, runs, mcp.as_deref())
            })),
            Route::Rules | Route::Databases | Route::Backup | Route::Status | Route::Coverage | Route::CoveragePage => {
                let Identified { identity, .. } = identify().await?;
                // How it is doing is no secret of a server that shows everybody its data; and test-suites fetch
                // coverage from the emulator as nobody.
                let shown = match route {
                    Route::Status => inner.dispatch.engine().config().access.check(&identity).is_ok(),
                    Route::Coverage | Route::CoveragePage => inner.credentials.is_emulator(),
                    _ => false,
                };
                if identity != Identity::Admin && !shown {
                    return Err(Error::denied());
                }
                let namespace = namespace(&params, &parts.headers, parts.uri.host());
                let runs = inner.control.as_ref().map(runs::Control::runs);
                let admin = operations::Admin { dispatch: &inner.dispatch, session, activity, namespace, runs };
                match (route, method) {
                    (Route::Rules, Method::GET) => Box::pin(admin.rules(parts.uri.query())).await,
                    (Route::Rules, Method::PUT) => Box::pin(admin.put_rules(body, parts.uri.query())).await,
                    (Route::Databases, Method::GET) => admin.databases(),
                    (Route::Status, Method::GET) => admin.status().await,
                    (Route::Backup, Method::GET) => Box::pin(admin.backup()).await,
                    (Route::Coverage, Method::GET) => Ok(coverage::json(&*admin.database()?)),
                    (Route::CoveragePage, Method::GET) => Ok(coverage::page(&*admin.database()?)),
                    (Route::Rules, _) => Ok(not_allowed("GET, HEAD, PUT")),
                    _ => Ok(not_allowed("GET, HEAD")),
                }
            }
            Route::Asset(ref name) if let Some(file) = page::asset(name, &parts.headers) => match method {
                Method::GET => Ok(file),
                _ => Ok(not_allowed("GET, HEAD")),
            },
            Route::Runs(Place::Run(_)) if method == Method::GET && page::wants_page(&parts.headers) => {
                Ok(page::page(&parts.headers))
            }
            Route::Runs(Place::Output { run, task }) => {
                let place = output::Place::Run { run, task };
                Box::pin(self.stream_call(session, activity, &parts, &params).await?.answer(&method, place, body)).await
            }
            Route::Streams => Box::pin(self.stream_call(session, activity, &parts, &params).await?.list(&method)).await,
            Route::Stream(path) => {
                let place = output::Place::Path(path);
                Box::pin(self.stream_call(session, activity, &parts, &params).await?.answer(&method, place, body)).await
            }
            Route::OpenApi if inner.control.is_some() => Ok(only_get(|_| runs::openapi())),
            Route::Runs(place) if let Some(control) = &inner.control => {
                let Identified { identity, .. } = identify().await?;
                // Who acts as somebody else wants to be judged as that one.
                let operator = params.auth_override.is_none()
                    && inner.credentials.is_operator(credential(&parts.headers, &params), session.peer());
                let dispatch = &inner.dispatch;
                let call = runs::Call { control, dispatch, session, activity, parts: &parts, identity, operator };
                Ok(Box::pin(call.answer(&method, place, body)).await)
            }
            Route::OpenApi | Route::Runs(_) | Route::Asset(_) | Route::Emulators | Route::Unknown => Err(Error::new(
                ErrorKind::NotFound,
                "no such resource; append '.json' to the end of the URL to use the REST API",
            )),
        }
    }

    /// A request for a stream.
    async fn stream_call<'a>(
        &'a self,
        session: &'a Session,
        activity: &'a Arc<Activity>,
        parts: &'a http::request::Parts,
        params: &Params<'_>,
    ) -> Result<output::Call<'a>, Error> {
        let Identified { identity, expires_at, .. } = self.identify(session, &parts.headers, params).await?;
        let (dispatch, query) = (&self.inner.dispatch, parts.uri.query());
        let runs = self.inner.control.as_ref().map(runs::Control::runs);
        Ok(output::Call { dispatch, session, activity, identity, expires_at, runs, query, parts })
    }

    /// A session of the Firebase protocol wants the connection.
    fn websocket(&self, parts: &http::request::Parts, params: &Params<'_>) -> Result<Answer, Error> {
        if parts.version != Version::HTTP_11 {
            return Err(Error::bad_request("a WebSocket needs HTTP/1.1"));
        }
        let context = self.firebase(parts, params)?;
        let began = params.session.as_deref().map(|id| (self.inner.polls.clone(), id.to_owned()));
        let upgrade = Upgrade::new(&parts.method, &parts.headers, context, began)?;
        let mut answer = Response::new(Content::Upgrade(Box::new(upgrade)));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        Ok(answer)
    }

    /// One request of a session of the Firebase protocol that travels by long polling.
    async fn long_poll(
        &self,
        session: &Session,
        parts: &http::request::Parts,
        params: &Params<'_>,
    ) -> Result<Answer, Error> {
        let query = parts.uri.query().unwrap_or_default();
        let context = || self.firebase(parts, params);
        let (media, body) = firebase::poll_http::answer(&self.inner.polls, session, query, context).await?;
        let mut answer = Response::new(Content::Full(body.into()));
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Ok(answer)
    }

    /// What a session of the Firebase protocol is about, whatever carries it.
    fn firebase(&self, parts: &http::request::Parts, params: &Params<'_>) -> Result<firebase::Context, Error> {
        let inner = &self.inner;
        let namespace = namespace(params, &parts.headers, parts.uri.host());
        let authority = parts.uri.authority().map(http::uri::Authority::as_str);
        let host = authority.or_else(|| parts.headers.get(header::HOST)?.to_str().ok());
        Ok(firebase::Context {
            dispatch: inner.dispatch.clone(),
            credentials: inner.credentials.clone(),
            database: inner.dispatch.database(namespace.as_deref())?,
            host: host.unwrap_or_default().to_owned(),
            id: firebase::registry::new_id(),
            last_session: params.last_session.as_deref().map(str::to_owned),
            sessions: inner.sessions.clone(),
        })
    }

    async fn identify(&self, session: &Session, headers: &HeaderMap, params: &Params<'_>) -> Result<Identified, Error> {
        let caller = Caller {
            credential: credential(headers, params),
            act_as: params.auth_override.as_deref(),
            secure: session.secure(),
        };
        self.inner.credentials.identify(caller).await
    }
}

/// The credential that a request brings.
fn credential<'r>(headers: &'r HeaderMap, params: &'r Params<'_>) -> Option<&'r str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, credential) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(credential.trim())
    });
    bearer.or(params.credential.as_deref())
}

/// Tells the core how a request ended that was answered with an error.
fn account(guard: &mut RequestGuard, error: &Error) {
    match error.kind() {
        ErrorKind::Overloaded | ErrorKind::Unavailable => guard.end(Outcome::Refused),
        ErrorKind::Deadline => guard.end(Outcome::TimedOut),
        kind => guard.failed(kind.as_str()),
    }
}

fn request_deadline(session: &Session) -> Deadline {
    Deadline::after(session.limits().request_ms_max)
}

/// The methods of a location.
const METHODS: &str = "GET, PUT, POST, PATCH, DELETE, OPTIONS, HEAD";

fn not_allowed(methods: &'static str) -> Answer {
    let mut answer = json_answer(Content::Full(error_json("method not allowed").into()));
    *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    answer
}

/// The method meant, if it is one: `POST` may say another one (firebase-rtdb §9.1); `HEAD` is a `GET` whose
/// body is not sent.
fn method(method: &Method, headers: &HeaderMap, params: &Params<'_>) -> Method {
    if *method == Method::HEAD {
        return Method::GET;
    }
    if *method != Method::POST {
        return method.clone();
    }
    let header = headers.get(&rest::METHOD_OVERRIDE).and_then(|value| value.to_str().ok());
    let Some(name) = header.or(params.method_override.as_deref()) else { return Method::POST };
    // What is no method at all is none of ours either.
    Method::from_bytes(name.to_ascii_uppercase().as_bytes()).unwrap_or(Method::TRACE)
}

/// `ns`, else the first label of a host name that has several (firebase-rtdb §1).
fn namespace(params: &Params<'_>, headers: &HeaderMap, uri_host: Option<&str>) -> Option<String> {
    if let Some(namespace) = &params.namespace {
        return Some(namespace.clone().into_owned());
    }
    let host = uri_host.or_else(|| headers.get(header::HOST)?.to_str().ok())?;
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let (label, rest) = name.split_once('.')?;
    // An address is no name.
    let numeric = rest.rsplit('.').next().is_some_and(|last| last.bytes().all(|c| c.is_ascii_digit()));
    (!numeric && standpipe_engine::check_name(label).is_ok()).then(|| label.to_owned())
}

fn common_headers(headers: &mut HeaderMap, origin: Option<HeaderValue>) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if origin.is_some() {
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("ETag, X-Standpipe-Rev, X-Standpipe-Denied"),
        );
    }
    let allowed = origin.unwrap_or(HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
}

fn preflight(request: &HeaderMap) -> Answer {
    let mut answer = Response::new(Content::Full(Bytes::new()));
    let headers = answer.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    let asked = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let allowed = asked.unwrap_or(HeaderValue::from_static(
        "authorization, content-type, if-match, if-none-match, x-firebase-etag, last-event-id, x-http-method-override",
    ));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600"));
    answer
}

/// Room for the headers of an answer, so that adding them does not grow the map again and again.
const HEADERS: usize = 12;

fn json_answer(content: Content) -> Answer {
    let mut answer = Response::new(content);
    answer.headers_mut().reserve(HEADERS);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    answer
}

fn text(text: &'static str) -> Answer {
    let mut answer = Response::new(Content::Full(Bytes::from_static(text.as_bytes())));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// `{"error":"…"}` with the status of the error's kind; logs what a person should look at.
fn error_answer(error: &Error) -> Answer {
    fault::log(error);
    let mut answer = json_answer(Content::Full(error_json(error.message()).into()));
    *answer.status_mut() = http_status(error.kind());
    if let Some(after) = error.retry_after() {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
    }
    if let Some(why) = fault::denial_line(error).and_then(|why| HeaderValue::try_from(why).ok()) {
        answer.headers_mut().insert(DENIED_HEADER.clone(), why);
    }
    answer
}

fn refusal_answer(refusal: Refusal) -> Answer {
    let mut answer = error_answer(&refused(refusal));
    *answer.status_mut() = http_refusal(refusal);
    answer
}

fn error_json(message: &str) -> Vec<u8> {
    let mut json = br#"{"error":"#.to_vec();
    write_json_string(message, &mut json);
    json.push(b'}');
    json
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_millis().div_ceil(1_000).max(1) as u64
}
