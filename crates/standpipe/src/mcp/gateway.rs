//! `standpipe mcp gateway`.

use crate::cli::{McpGatewayArgs, Verbosity};
use crate::exit::{Exit, Failure, Result};

/// Runs the command.
///
/// # Errors
/// What to change.
pub(crate) fn run(_arguments: &McpGatewayArgs, _verbosity: Verbosity) -> Result<Exit> {
    Err(Failure::failed("mcp gateway is not built yet"))
}
