//! MCP over this process' own standard input and output, for as long as whoever started it listens. What answers is the caller's.

use std::sync::Arc;

use standpipe_doors::{Credentials, Endpoints, Mcp, McpLines, McpPolicy};
use standpipe_serve::{Limits, Server, ServerConfig, StdioListener};

use crate::config::Mode;
use crate::exit::{Exit, Failure, Result};
use crate::signals::Signals;

/// The one server that is there.
#[derive(Debug)]
pub(super) struct Only(pub(super) Arc<dyn standpipe_mcp::Server>);

impl Endpoints for Only {
    fn main(&self) -> Option<Arc<dyn standpipe_mcp::Server>> {
        Some(self.0.clone())
    }

    fn named(&self, _name: &str) -> Option<Arc<dyn standpipe_mcp::Server>> {
        None
    }

    fn all(&self) -> Option<Arc<dyn standpipe_mcp::Server>> {
        None
    }

    fn status(&self) -> serde_json::Value {
        serde_json::json!({ "servers": [] })
    }
}

/// The serving core of a process that has one client.
///
/// # Errors
/// No thread or event loop is to be had.
pub(super) fn core(limits: Limits) -> Result<Server> {
    Server::start(ServerConfig { limits, cores: Some(1) }).map_err(|error| Failure::failed(error.to_string()))
}

/// MCP with one server, for whom `credentials` believe, and whoever started this process.
pub(super) fn only(
    server: Arc<dyn standpipe_mcp::Server>,
    credentials: Credentials,
    metrics: standpipe_mcp::Metrics,
) -> Arc<Mcp> {
    Mcp::new(Arc::new(Only(server)), McpPolicy { anonymous: true, ..McpPolicy::default() }, credentials, metrics)
}

/// Serves `mcp` over stdin and stdout, as who has `credential`, until the input ends or a signal says so; then `last` ends what else there is.
///
/// # Errors
/// Signals can't be waited for.
pub(super) fn serve<F: Future<Output = ()>>(
    core: Server,
    mcp: Arc<Mcp>,
    credential: Option<String>,
    last: impl FnOnce() -> F,
) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("can't start a runtime: {error}")))?;
    let (listener, end) = StdioListener::new();
    core.listen(Arc::new(McpLines::new(mcp).with_credential(credential)), vec![listener]);
    runtime.block_on(async {
        let mut signals = Signals::new(Mode::Dev)?;
        tokio::select! {
            () = end.ended() => {}
            () = signals.stop() => {}
        }
        let stop = async {
            core.stop_accepting();
            last().await;
            core.stop().await
        };
        tokio::select! {
            _stopped = stop => {}
            // Told twice: at once.
            () = signals.stop() => {}
        }
        Ok(Exit::Ok)
    })
}
