//! A server far away, over Streamable HTTP: requests of each era as they are where the server speaks it, and over a bridge where it does not. Messages
//! pass as they came. What our own clients show as a credential never gets here; the server is told the configured headers.
//!
//! Connections are kept and shared. A server that can't be reached fails the call, and the next one tries again.

mod call;
mod http;
mod session;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use parking_lot::Mutex;
use serde_json::json;
use standpipe_serve::LimitsHandle;
use standpipe_wire::jsonrpc::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use self::call::{Ended, Patience, run};
use self::http::{Answer, As, Failed, Http};
use self::session::Session;
use super::{Era, EraChoice, ServerLimits};
use crate::bridge::{Down, Settings, Up};
use crate::era::{META_CAPABILITIES, META_CLIENT, META_VERSION, MODERN, Meta};
use crate::fault::OVERLOADED;
use crate::{Caller, Conversation, Fault, LegacyServer, Metrics, ModernServer, Outlet};

/// Time for the question which era a server speaks (spec mcp §4.3).
const PROBE_MAX: Duration = Duration::from_secs(2);

/// A server far away, as configured.
#[derive(Clone)]
pub struct RemoteSpec {
    /// For people, logs and the paths of its endpoint.
    pub name: String,
    /// Its endpoint.
    pub url: Uri,
    /// Sent with every request.
    pub headers: HeaderMap,
    /// Which era it speaks.
    pub era: EraChoice,
    /// What it may take.
    pub limits: ServerLimits,
}

impl fmt::Debug for RemoteSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers may be secret.
        f.debug_struct("RemoteSpec").field("name", &self.name).field("url", &self.url).finish_non_exhaustive()
    }
}

impl RemoteSpec {
    /// The server at `url`, told `headers` with every request; everything else as by default.
    ///
    /// # Errors
    /// What is wrong with the URL or a header, and what to write instead.
    pub fn new(name: &str, url: &str, headers: &[(String, String)]) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url:?} is no URL ({error}): write https://HOST/mcp"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err(format!(
                "{url:?} is no address of an MCP server: write http://HOST:PORT/mcp or https://HOST/mcp"
            ));
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("a URL holds no credential here: write it as a header, as in 'Authorization: Bearer …'".into());
        }
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let parsed = (HeaderName::try_from(name), HeaderValue::try_from(value));
            let (Ok(known), Ok(mut value)) = parsed else {
                return Err(format!(
                    "the header {name:?} can't be sent: names have letters, digits and '-', values no line ends"
                ));
            };
            value.set_sensitive(true);
            map.append(known, value);
        }
        let (era, limits) = (EraChoice::default(), ServerLimits::default());
        Ok(Self { name: name.to_owned(), url: uri, headers: map, era, limits })
    }
}

/// A server far away.
#[derive(Clone, Debug)]
pub struct Remote {
    inner: Arc<Inner>,
    /// What answers modern requests, and opens legacy sessions, where the server does not.
    down: Arc<dyn ModernServer>,
    up: Arc<dyn LegacyServer>,
}

struct Inner {
    name: Arc<str>,
    http: Http,
    choice: EraChoice,
    limits: ServerLimits,
    metrics: Metrics,
    /// Which eras it speaks, once it has been asked.
    eras: Mutex<Option<Eras>>,
    asking: tokio::sync::Mutex<()>,
    /// Calls at work, and how many wait.
    room: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("name", &self.name).field("http", &self.http).finish_non_exhaustive()
    }
}

/// Which eras a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Eras {
    modern: bool,
    legacy: bool,
}

impl Remote {
    /// The server that `spec` says. It is not called before somebody calls it.
    ///
    /// # Errors
    /// This machine has no root certificates.
    pub fn new(spec: RemoteSpec, limits: LimitsHandle, metrics: Metrics) -> Result<Arc<Self>, String> {
        let name: Arc<str> = spec.name.into();
        let settings = Settings { server: name.clone(), limits, metrics: metrics.clone(), own: spec.limits };
        let http = Http::new(spec.url, spec.headers, spec.limits.message_bytes)?;
        let inner = Inner {
            name,
            http,
            choice: spec.era,
            limits: spec.limits,
            metrics,
            eras: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            room: Arc::new(Semaphore::new(spec.limits.calls_per_child)),
            waiting: AtomicUsize::new(0),
        };
        let inner = Arc::new(inner);
        let native = Arc::new(Native(inner.clone()));
        let (down, up) = (Down::new(native.clone(), settings.clone()), Up::new(native, settings));
        Ok(Arc::new(Self { inner, down: Arc::new(down), up: Arc::new(up) }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its endpoint.
    pub fn url(&self) -> String {
        self.inner.http.url().to_string()
    }

    /// Which era it speaks, of both the modern one; `None` before it has been asked.
    pub fn era(&self) -> Option<Era> {
        let eras = match self.inner.choice {
            EraChoice::Known(era) => return Some(era),
            EraChoice::Auto => (*self.inner.eras.lock())?,
        };
        Some(if eras.modern { Era::Modern } else { Era::Legacy })
    }
}

impl ModernServer for Remote {
    fn call(&self, caller: Caller, request: Message, to: Outlet) {
        let (inner, down) = (self.inner.clone(), self.down.clone());
        tokio::spawn(async move {
            match inner.eras().await {
                Ok(eras) if eras.modern => inner.call(request, to).await,
                Ok(_) => down.call(caller, request, to),
                Err(fault) => {
                    let _gone = to.send(fault.answer(request.id()));
                }
            }
        });
    }
}

impl LegacyServer for Remote {
    fn open(&self, caller: &Caller, initialize: Message, to: Outlet, news: Outlet) -> Arc<dyn Conversation> {
        Session::open(self.inner.clone(), Some(self.up.clone()), caller, initialize, to, news)
    }
}

/// The server as it is, for the bridges.
#[derive(Debug)]
struct Native(Arc<Inner>);

impl ModernServer for Native {
    fn call(&self, _: Caller, request: Message, to: Outlet) {
        let inner = self.0.clone();
        tokio::spawn(async move { inner.call(request, to).await });
    }
}

impl LegacyServer for Native {
    fn open(&self, caller: &Caller, initialize: Message, to: Outlet, news: Outlet) -> Arc<dyn Conversation> {
        Session::open(self.0.clone(), None, caller, initialize, to, news)
    }
}

impl Inner {
    /// A modern request.
    async fn call(&self, request: Message, to: Outlet) {
        let call = self.make(&request, &to);
        tokio::select! {
            // Dropping the request closes its connection or stream, which is the cancellation.
            () = to.gone() => {}
            () = call => {}
        }
    }

    async fn make(&self, request: &Message, to: &Outlet) {
        let method = request.method().unwrap_or_default();
        // A subscription works for nobody while it waits.
        let permit = if method == "subscriptions/listen" { Ok(None) } else { self.admit().await.map(Some) };
        let _permit = match permit {
            Ok(permit) => permit,
            Err(fault) => {
                let _gone = to.send(fault.answer(request.id()));
                return;
            }
        };
        let version = Meta::of(request).ok().and_then(|meta| meta.version.map(|version| version.get().to_owned()));
        let version = version.and_then(|json| HeaderValue::from_str(json.trim_matches('"')).ok());
        let how = As { session: None, version, is_modern: true };
        let patience = Patience::new(method, &self.limits, &self.metrics);
        match run(&self.http, request, &how, to, &patience).await {
            Ended::Done => {}
            Ended::SessionGone => {
                let _gone = to.send(Fault::from(Failed::SessionGone).answer(request.id()));
            }
            Ended::Failed(fault) | Ended::Late(fault) => {
                // Whatever comes back there next may be another version of it.
                *self.eras.lock() = None;
                let _gone = to.send(fault.answer(request.id()));
            }
        }
    }

    /// Waits for room for a call.
    async fn admit(&self) -> Result<OwnedSemaphorePermit, Fault> {
        if let Ok(permit) = self.room.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let refused = |limit: &'static str| {
            self.metrics.hit(limit);
            let text = format!("as many calls of {} are at work or wait as may be ({limit}): try again", self.name);
            Fault::new(OVERLOADED, text).with_data(json!({ "retry_after_ms": 1_000 }))
        };
        let _waits = match Waiting::new(&self.waiting, self.limits.queue_calls) {
            Some(waits) => waits,
            None => return Err(refused("mcp_queue_calls_max")),
        };
        match timeout(self.limits.queue_wait, self.room.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(refused("mcp_queue_wait_ms_max")),
        }
    }

    /// Which eras the server speaks; it is asked once.
    async fn eras(&self) -> Result<Eras, Fault> {
        match self.choice {
            EraChoice::Known(era) => return Ok(Eras { modern: era == Era::Modern, legacy: era == Era::Legacy }),
            EraChoice::Auto => {}
        }
        if let Some(eras) = *self.eras.lock() {
            return Ok(eras);
        }
        let _one_at_a_time = self.asking.lock().await;
        if let Some(eras) = *self.eras.lock() {
            return Ok(eras);
        }
        let eras = match timeout(PROBE_MAX, self.ask()).await {
            Ok(eras) => eras?,
            Err(_) => Eras { modern: false, legacy: true },
        };
        tracing::debug!(server = &*self.name, ?eras, "which eras a server speaks");
        *self.eras.lock() = Some(eras);
        Ok(eras)
    }

    /// Asks the server; any answer but a modern one means legacy.
    async fn ask(&self) -> Result<Eras, Fault> {
        let meta = json!({ "_meta": {
            META_VERSION: MODERN[0],
            META_CAPABILITIES: {},
            META_CLIENT: { "name": "standpipe", "version": env!("CARGO_PKG_VERSION") },
        } });
        let question = Message::request(b"0", "server/discover", meta.to_string().as_bytes());
        let how = As { session: None, version: HeaderValue::from_str(MODERN[0]).ok(), is_modern: true };
        let answer = match self.http.post(&question, &how).await {
            Ok(Answer::Message(_, answer)) => Some(answer),
            Ok(Answer::Events(_, mut events)) => events.next().await?,
            Ok(Answer::Taken) => None,
            Err(Failed::Unreachable(fault)) => return Err(fault),
            Err(Failed::Refused(status, fault)) if matches!(status.as_u16(), 401 | 403 | 429 | 500..) => {
                return Err(fault);
            }
            Err(_) => None,
        };
        let Some(answer) = answer.filter(|answer| !answer.is_error()) else {
            return Ok(Eras { modern: false, legacy: true });
        };
        let versions = answer.at(&["supportedVersions"]).ok().flatten().map(|span| answer.slice(span).to_vec());
        let versions: Vec<String> = versions.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
        // Who lists only what is modern may still speak both: it is asked for a session, and says so.
        let legacy =
            versions.iter().any(|version| !MODERN.contains(&version.as_str())) || self.takes_initialize().await;
        Ok(Eras { modern: true, legacy })
    }

    /// Whether the server opens sessions: one is opened, and ended at once.
    async fn takes_initialize(&self) -> bool {
        let params = json!({
            "protocolVersion": crate::era::LEGACY[0],
            "capabilities": {},
            "clientInfo": { "name": "standpipe", "version": env!("CARGO_PKG_VERSION") },
        });
        let question = Message::request(b"0", "initialize", params.to_string().as_bytes());
        let (headers, answer) = match self.http.post(&question, &As::default()).await {
            Ok(Answer::Message(headers, answer)) => (headers, Some(answer)),
            Ok(Answer::Events(headers, mut events)) => (headers, events.next().await.ok().flatten()),
            _ => return false,
        };
        if let Some(session) = headers.get(self::http::SESSION_ID) {
            let how = As { session: Some(session.clone()), ..As::default() };
            self.http.delete(&how, PROBE_MAX).await;
        }
        answer.is_some_and(|answer| !answer.is_error())
    }
}

/// A call that waits.
struct Waiting<'w>(&'w AtomicUsize);

impl<'w> Waiting<'w> {
    fn new(waiting: &'w AtomicUsize, max: usize) -> Option<Self> {
        let waits = Self(waiting);
        // Counted first, so that two can't both take the last place.
        (waiting.fetch_add(1, Ordering::AcqRel) < max).then_some(waits)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests;
