//! `standpipe mcp`: which command is meant. What each does is in a file of its own.

mod connect;
mod export_har;
mod gateway;
mod node;
mod pipes;
mod replay;
mod servers;
mod status;
mod stdio;

pub(crate) use self::node::{McpNode, Tree};

use tracing::level_filters::LevelFilter;

use crate::cli::{McpArgs, McpCommand, McpConnectArgs, Verbosity};
use crate::config::LogFormat;
use crate::exit::{Exit, Failure, Result};
use crate::logging;

/// Does what the command line asks for.
///
/// # Errors
/// What to change.
pub(crate) fn run(arguments: &McpArgs, verbosity: Verbosity) -> Result<Exit> {
    if let Some(McpCommand::Gateway(arguments)) = &arguments.command {
        return gateway::run(arguments, verbosity);
    }
    logging::start(LevelFilter::WARN, verbosity.steps(), LogFormat::Human)?;
    let board = &arguments.board;
    match (&arguments.command, &board.url) {
        (Some(McpCommand::Stdio(arguments)), _) => stdio::run(arguments),
        (Some(McpCommand::Connect(arguments)), _) => connect::run(arguments),
        (Some(McpCommand::Gateway(arguments)), _) => gateway::run(arguments, verbosity),
        (Some(McpCommand::Status(arguments)), _) => status::run(arguments),
        (Some(McpCommand::Replay(arguments)), _) => replay::run(arguments),
        (Some(McpCommand::ExportHar(arguments)), _) => export_har::run(arguments),
        (None, Some(url)) => {
            let url = format!("{}/mcp", url.trim_end_matches('/'));
            connect::run(&McpConnectArgs { url, header: Vec::new(), credential: board.credential.clone() })
        }
        (None, None) => Err(Failure::usage("which server?").help("standpipe mcp --url http://127.0.0.1:9000")),
    }
}
