//! `standpipe mcp connect`.

use crate::cli::McpConnectArgs;
use crate::exit::{Exit, Failure, Result};

/// Runs the command.
///
/// # Errors
/// What to change.
pub(crate) fn run(_arguments: &McpConnectArgs) -> Result<Exit> {
    Err(Failure::failed("mcp connect is not built yet"))
}
