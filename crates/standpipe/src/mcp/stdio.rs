//! `standpipe mcp stdio`: the tree of a folder that nobody serves, or of a server, over stdin and stdout.

use std::path::Path;
use std::sync::Arc;

use standpipe_doors::{Authority, Credentials, Dispatch, TreeOptions, TreeServer};
use standpipe_engine::{Databases, Engine, EngineConfig};
use standpipe_mcp::Metrics;
use standpipe_serve::Limits;

use super::{connect, pipes};
use crate::cli::McpStdioArgs;
use crate::exit::{Exit, Result};
use crate::jobs;
use crate::node::{open_runs, stop_at_once, with_limits};

/// Runs the command.
///
/// # Errors
/// A server has the folder, or it can't be used.
pub(crate) fn run(arguments: &McpStdioArgs) -> Result<Exit> {
    match &arguments.target.data {
        Some(dir) => folder(dir, arguments.read_only),
        None => {
            let url = format!("{}/mcp", arguments.target.url.trim_end_matches('/'));
            connect::speak(&url, &[], &arguments.target.access)
        }
    }
}

/// Serves a folder that this process holds as long as it runs. Whoever may open the folder is its administrator.
fn folder(dir: &Path, read_only: bool) -> Result<Exit> {
    let limits = Limits::default();
    let config = EngineConfig { databases: Databases::OnDemand, ..with_limits(dir, &limits) };
    let engine = Arc::new(Engine::open(config, Arc::new(stop_at_once))?);
    let core = pipes::core(limits)?;
    let runs = match read_only {
        true => None,
        false => Some(open_runs(&engine, &core, Vec::new())?),
    };
    let secret = standpipe_engine::random_token();
    let authority = Authority { admin_token: Some(secret.clone()), ..Authority::default() };
    let credentials = Credentials::new(authority, core.limits());
    let metrics = Metrics::default();
    let options = TreeOptions { read_only, env: jobs::environment(), metrics: metrics.clone() };
    let tree = TreeServer::new(Dispatch::new(engine.clone()), runs.clone(), options, core.shutdown().clone());
    let mcp = pipes::only(Arc::new(tree), credentials, metrics);
    let exit = pipes::serve(core, mcp, Some(secret), || async move {
        if let Some(runs) = runs {
            runs.close().await;
        }
    });
    engine.close();
    exit
}
