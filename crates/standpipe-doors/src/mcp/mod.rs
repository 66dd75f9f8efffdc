//! What all doors of MCP share: which servers there are and at which endpoint, who calls, sessions of the legacy era, and whom the policy lets in.
//! How messages travel is each door's business (`http/mcp` for HTTP), what they mean that of the servers.

mod lines;
mod policy;
pub(crate) mod pump;
pub(crate) mod talk;
mod tree;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwap;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use standpipe_engine::Identity;
use standpipe_mcp::fault::UNAUTHENTICATED;
use standpipe_mcp::sessions::Sessions;
use standpipe_mcp::{Fault, Metrics, Scopes, Server};
use standpipe_serve::{Peer, Session};

pub use self::lines::McpLines;
pub use self::policy::McpPolicy;
pub(crate) use self::policy::host;
pub use self::tree::{TreeOptions, TreeServer};
use crate::auth::{self, Credentials, Identified, Terms};
use crate::http::SseSessions;

/// Which servers there are now.
pub trait Endpoints: fmt::Debug + Send + Sync {
    /// The server at `/mcp`.
    fn main(&self) -> Option<Arc<dyn Server>>;

    /// The scope that a token needs for `/mcp`, where its server does not look at scopes by itself.
    fn main_scope(&self) -> Option<String> {
        None
    }

    /// The server at `/mcp/s/<name>`.
    fn named(&self, name: &str) -> Option<Arc<dyn Server>>;

    /// All servers as one, at `/mcp/all`.
    fn all(&self) -> Option<Arc<dyn Server>>;

    /// How they are doing: what `/mcp/status` shows, an object.
    fn status(&self) -> serde_json::Value;
}

/// An endpoint: where one server is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `/mcp`.
    Main,
    /// `/mcp/all`.
    All,
    /// `/mcp/s/<name>`.
    Named(String),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Main => f.write_str("/mcp"),
            Self::All => f.write_str("/mcp/all"),
            Self::Named(name) => write!(f, "/mcp/s/{name}"),
        }
    }
}

/// MCP as its doors serve it.
pub struct Mcp {
    endpoints: Arc<dyn Endpoints>,
    policy: ArcSwap<McpPolicy>,
    credentials: Credentials,
    metrics: Metrics,
    sessions: Arc<Sessions>,
    sse: Arc<SseSessions>,
}

impl fmt::Debug for Mcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mcp").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl Mcp {
    /// Serves `endpoints` to whom `policy` and `credentials` let in.
    pub fn new(
        endpoints: Arc<dyn Endpoints>,
        policy: McpPolicy,
        credentials: Credentials,
        metrics: Metrics,
    ) -> Arc<Self> {
        let sessions = Sessions::new(credentials.limits().clone(), metrics.clone());
        let policy = ArcSwap::from_pointee(policy);
        Arc::new(Self { endpoints, policy, credentials, metrics, sessions, sse: Arc::default() })
    }

    /// Lets in by another policy from now on.
    pub fn reload(&self, policy: McpPolicy) {
        self.policy.store(Arc::new(policy));
    }

    /// The policy in force.
    pub(crate) fn policy(&self) -> Arc<McpPolicy> {
        self.policy.load_full()
    }

    /// Ends sessions in time: a task of the node, which runs until it is dropped. Sessions that are left then end.
    pub async fn keep_sessions(self: Arc<Self>) {
        self.sessions.clone().keep().await;
    }

    /// Ends all sessions; for a process that stops, before what serves them does.
    pub fn end_sessions(&self) {
        self.sessions.end_all();
    }

    /// The sessions of the legacy era.
    pub(crate) fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// The sessions of HTTP+SSE.
    pub(crate) fn sse(&self) -> &Arc<SseSessions> {
        &self.sse
    }

    /// Has the figures of sessions shown to Prometheus.
    pub(crate) fn register_sessions(&self, registry: &mut Registry) {
        let (sessions, kept) = (Gauge::<u64, AtomicU64>::default(), Gauge::<u64, AtomicU64>::default());
        sessions.set(self.sessions.len() as u64);
        kept.set(self.sessions.kept_bytes() as u64);
        registry.register("mcp_http_sessions", "Sessions of the legacy era over HTTP", sessions);
        registry.register("mcp_replay_bytes", "Bytes of messages kept for clients that resume", kept);
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// How the servers are doing.
    pub(crate) fn status(&self) -> serde_json::Value {
        self.endpoints.status()
    }

    /// The server at an endpoint.
    pub(crate) fn server(&self, endpoint: &Endpoint) -> Option<Arc<dyn Server>> {
        match endpoint {
            Endpoint::Main => self.endpoints.main(),
            Endpoint::All => self.endpoints.all(),
            Endpoint::Named(name) => self.endpoints.named(name),
        }
    }

    /// The scope that a token needs to use an endpoint at all; the tree looks at scopes by itself.
    pub(crate) fn scope(&self, endpoint: &Endpoint) -> Option<String> {
        match endpoint {
            Endpoint::Main => self.endpoints.main_scope(),
            Endpoint::All => Some("gateway:all".into()),
            Endpoint::Named(name) => Some(format!("gateway:{name}")),
        }
    }

    /// Who calls, by the credential that came with the message. `headers` are those of its HTTP request, without credentials.
    ///
    /// # Errors
    /// 4010 where a credential is needed and none is there, or it is not believed; 5030 where that can't be found out now.
    pub(crate) async fn caller(
        &self,
        session: &Session,
        credential: Option<&str>,
        headers: Option<Arc<http::HeaderMap>>,
    ) -> Result<standpipe_mcp::Caller, Fault> {
        let policy = self.policy.load();
        let (secure, peer) = (session.secure(), session.peer());
        let asked = auth::Caller { credential, act_as: None, secure };
        let identified = self.credentials.identify(asked).await.map_err(|error| Fault::from(&error))?;
        let Identified { identity, expires_at, terms } = identified;
        if identity == Identity::Anonymous && !policy.anonymous && !peer.is_own_user() {
            return Err(Fault::new(UNAUTHENTICATED, "a token is needed: send it as 'Authorization: Bearer <token>'"));
        }
        if let (Some(audience), Some(terms)) = (&policy.audience, &terms)
            && !terms.audiences.contains(audience)
        {
            return Err(Fault::new(
                UNAUTHENTICATED,
                "the token is for somebody else: its claim 'aud' does not name this server",
            ));
        }
        Ok(standpipe_mcp::Caller {
            principal: principal(&identity, peer),
            identity,
            expires_at,
            operator: self.credentials.is_operator(credential, peer),
            scopes: scopes(terms.as_deref()),
            session: session.clone(),
            headers,
        })
    }
}

/// Whom limits count and whom sessions belong to.
fn principal(identity: &Identity, peer: Peer) -> Arc<str> {
    match identity {
        Identity::Admin => "admin".into(),
        Identity::User(user) => format!("user:{}", user.uid()).into(),
        Identity::Anonymous => match (peer, peer.counted_as()) {
            (_, Some(address)) => format!("anonymous:{address}").into(),
            (Peer::User(uid), _) if !peer.is_own_user() => format!("anonymous:local-{uid}").into(),
            _ => "anonymous:local".into(),
        },
    }
}

fn scopes(terms: Option<&Terms>) -> Scopes {
    terms.and_then(|terms| terms.scopes.as_deref()).map_or_else(Scopes::all, Scopes::only)
}
