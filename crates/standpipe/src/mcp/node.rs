//! MCP of a server: the tree for agents, the servers behind the gateway, and who is let in; made from settings, changed with
//! them, and ended before the connections are. What speaks it is the doors'.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};
use standpipe_doors::{Credentials, Dispatch, Endpoints, Mcp, McpHttp, McpLines, McpPolicy, TreeOptions, TreeServer};
use standpipe_engine::Streams;
use standpipe_mcp::gateway::{Changes, Gateway, Parts, ServerEntry};
use standpipe_mcp::upstream::child::Children;
use standpipe_mcp::{Layered, Meter, Metrics, Server as McpServer};
use standpipe_runs::{GuardProgram, Launcher, Runs};
use standpipe_serve::{OnFailure, OnShutdown, Server, TaskKind, Tls};
use tokio::runtime::Handle;

use super::servers::servers;
use crate::config;
use crate::exit::{Failure, Result};
use crate::jobs;
use crate::node::bind;

/// Ends sessions that nobody uses.
const SESSIONS_TASK: TaskKind =
    TaskKind { name: "mcp-sessions", on_failure: OnFailure::StopNode, on_shutdown: OnShutdown::Abort };

/// Which servers there are.
#[derive(Debug)]
struct Doors {
    /// The tree; a gateway has none.
    tree: Option<Arc<dyn McpServer>>,
    gateway: Option<Arc<Gateway>>,
    /// Which server of the gateway is at `/mcp`.
    main: Option<&'static str>,
}

impl Endpoints for Doors {
    fn main(&self) -> Option<Arc<dyn McpServer>> {
        match self.main {
            Some(name) => self.gateway.as_ref()?.named(name),
            None => self.tree.clone(),
        }
    }

    fn main_scope(&self) -> Option<String> {
        self.main.map(|name| format!("gateway:{name}"))
    }

    fn named(&self, name: &str) -> Option<Arc<dyn McpServer>> {
        self.gateway.as_ref()?.named(name)
    }

    fn all(&self) -> Option<Arc<dyn McpServer>> {
        // One server alone is no set.
        let gateway = self.gateway.as_ref().filter(|_| self.main.is_none())?;
        Some(gateway.joined())
    }

    fn status(&self) -> Value {
        self.gateway.as_ref().map_or_else(|| json!({ "servers": [] }), |gateway| gateway.status())
    }
}

/// Where the servers behind the gateway come from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// There are none.
    None,
    /// A file.
    File(PathBuf),
    /// One, at `/mcp`.
    One(Box<ServerEntry>),
}

/// What MCP of a server is made from.
pub(crate) struct Setup<'a> {
    pub(crate) tree: Option<Arc<dyn McpServer>>,
    pub(crate) source: Source,
    pub(crate) policy: McpPolicy,
    pub(crate) metrics: Metrics,
    /// Where tapes of the tree are written.
    pub(crate) streams: Option<Arc<Streams>>,
    /// Whose processes they are: a folder of the node, which need not be there.
    pub(crate) folder: &'a Path,
}

/// MCP of a running server.
#[derive(Debug)]
pub(crate) struct McpNode {
    mcp: Arc<Mcp>,
    gateway: Option<Arc<Gateway>>,
    launcher: Option<Arc<dyn Launcher>>,
    source: Source,
    /// Where what is not of a connection runs.
    runtime: Handle,
}

/// What the tree server works on.
pub(crate) struct Tree {
    pub(crate) dispatch: Dispatch,
    pub(crate) runs: Option<Arc<Runs>>,
}

impl Tree {
    /// The tree as a server of MCP, whose calls are counted.
    fn server(&self, read_only: bool, metrics: &Metrics, server: &Server) -> Arc<dyn McpServer> {
        let options = TreeOptions { read_only, env: jobs::environment(), metrics: metrics.clone() };
        let tree = TreeServer::new(self.dispatch.clone(), self.runs.clone(), options, server.shutdown().clone());
        Arc::new(Layered::new(Arc::new(tree), vec![Meter::new(metrics, "tree")]))
    }
}

impl McpNode {
    /// MCP of a server that has a tree.
    ///
    /// # Errors
    /// As [`McpNode::open`].
    pub(crate) fn of_server(
        values: &config::Values,
        tree: &Tree,
        server: &Server,
        credentials: &Credentials,
    ) -> Result<Self> {
        let source = match values.mcp.servers.as_os_str().is_empty() {
            true => Source::None,
            false => Source::File(values.mcp.servers.clone()),
        };
        let metrics = Metrics::default();
        let setup = Setup {
            tree: Some(tree.server(values.mcp.read_only, &metrics, server)),
            source,
            policy: policy(values),
            metrics,
            streams: Some(tree.dispatch.engine().streams().clone()),
            folder: &values.server.data.join("mcp"),
        };
        Self::open(setup, server, credentials)
    }

    /// Makes it. Servers are started when they are used, unless they want to be started now.
    ///
    /// # Errors
    /// The file of servers can't be meant.
    pub(crate) fn open(setup: Setup<'_>, server: &Server, credentials: &Credentials) -> Result<Self> {
        let Setup { tree, source, policy, metrics, streams, folder } = setup;
        let runtime = server.runtimes().next().cloned();
        let runtime = runtime.ok_or_else(|| Failure::failed("the server has no event loop"))?;
        let launcher = match &source {
            Source::None => None,
            _ => Some(standpipe_runs::processes(folder, Some(GuardProgram::this("guard")))),
        };
        let gateway = match &launcher {
            None => None,
            Some(launcher) => {
                let entries = source.entries()?;
                let children = Children::new(launcher.clone(), server.limits(), metrics.clone());
                let environment = std::env::vars_os()
                    .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                    .collect();
                let (limits, metrics) = (server.limits(), metrics.clone());
                let gateway = Gateway::new(Parts { children, limits, metrics, streams, environment });
                runtime.block_on(gateway.reload(entries)).map_err(|why| source.wrong(&why))?;
                Some(gateway)
            }
        };
        let main = matches!(source, Source::One(_)).then_some(super::gateway::MAIN);
        let doors = Doors { tree, gateway: gateway.clone(), main };
        let mcp = Mcp::new(Arc::new(doors), policy, credentials.clone(), metrics);
        {
            let _on_it = runtime.enter();
            server.shutdown().spawn(SESSIONS_TASK, mcp.clone().keep_sessions());
        }
        Ok(Self { mcp, gateway, launcher, source, runtime })
    }

    /// What doors serve.
    pub(crate) fn mcp(&self) -> &Arc<Mcp> {
        &self.mcp
    }

    /// Listens for MCP alone over HTTP, and says where; nowhere where `at` is empty.
    ///
    /// # Errors
    /// The address can't be listened on.
    pub(crate) fn listen(&self, at: &str, ready: &Arc<AtomicBool>, server: &Server) -> Result<Option<String>> {
        if at.is_empty() {
            return Ok(None);
        }
        let (listeners, at) = bind(at, None, server)?;
        let door = McpHttp::new(self.mcp.clone(), server.metrics().clone(), ready.clone());
        server.listen(Arc::new(door), listeners);
        Ok(Some(at))
    }

    /// Listens for one message a line, and says where; nowhere where `at` is empty.
    ///
    /// # Errors
    /// As [`McpNode::listen`].
    pub(crate) fn listen_lines(&self, at: &str, tls: Option<&Arc<Tls>>, server: &Server) -> Result<Option<String>> {
        if at.is_empty() {
            return Ok(None);
        }
        let (listeners, at) = bind(at, tls, server)?;
        server.listen(Arc::new(McpLines::new(self.mcp.clone())), listeners);
        Ok(Some(at))
    }

    /// The file of servers, whose changes matter.
    pub(crate) fn file(&self) -> Option<&Path> {
        match &self.source {
            Source::File(path) => Some(path),
            _ => None,
        }
    }

    /// Lets in whom these settings let in.
    pub(crate) fn set_policy(&self, values: &config::Values) {
        self.mcp.reload(policy(values));
    }

    /// Reads the file of servers again and applies it; where anything is wrong with it, nothing.
    pub(crate) async fn reload(&self) {
        let (Some(gateway), Source::File(_)) = (&self.gateway, &self.source) else { return };
        let outcome = match self.source.entries() {
            Ok(entries) => {
                let gateway = gateway.clone();
                let reloaded = self.runtime.spawn(async move { gateway.reload(entries).await }).await;
                reloaded
                    .unwrap_or_else(|_| Err("the event loop has ended".into()))
                    .map_err(|why| self.source.wrong(&why))
            }
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(changes) if changes.is_none() => {}
            Ok(Changes { added, replaced, removed, ruled }) => {
                let (added, replaced, removed) = (added.join(","), replaced.join(","), removed.join(","));
                tracing::info!(added, replaced, removed, ruled = ruled.join(","), "the MCP servers have changed");
            }
            Err(failure) => {
                tracing::error!("the file of MCP servers is refused, all servers stay as they are\n{failure}")
            }
        }
    }

    /// Ends sessions, then servers once their calls are done. Nobody comes in any more.
    pub(crate) async fn close(&self) {
        let (mcp, gateway, launcher) = (self.mcp.clone(), self.gateway.clone(), self.launcher.clone());
        let close = async move {
            if let Some(gateway) = gateway {
                gateway.close().await;
            }
            mcp.end_sessions();
            if let Some(launcher) = launcher {
                launcher.close().await;
            }
        };
        // Where the loop has gone, so has everything that ran on it.
        let _ended = self.runtime.spawn(close).await;
    }
}

impl Source {
    fn entries(&self) -> Result<Vec<ServerEntry>> {
        match self {
            Self::None => Ok(Vec::new()),
            Self::File(path) => servers(path),
            Self::One(entry) => Ok(vec![(**entry).clone()]),
        }
    }

    fn wrong(&self, why: &str) -> Failure {
        match self {
            Self::File(path) => {
                Failure::usage(format!("{}: {why}", path.display())).help("docs/gateway.md says what it may hold")
            }
            _ => Failure::usage(why).help("standpipe help mcp gateway"),
        }
    }
}

/// Whom MCP lets in, as the settings say. The name of the certificate is one of ours.
pub(crate) fn policy(values: &config::Values) -> McpPolicy {
    let config::Values { mcp, tls, .. } = values;
    let mut hosts = mcp.hosts.clone();
    hosts.extend(Some(tls.name.clone()).filter(|name| !name.is_empty()));
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    McpPolicy {
        hosts,
        origins: mcp.origins.clone(),
        anonymous: mcp.anonymous,
        audience: some(&mcp.audience),
        sse: mcp.sse,
        url: some(&mcp.url),
    }
}
