//! `standpipe mcp replay`.

use crate::cli::McpReplayArgs;
use crate::exit::{Exit, Failure, Result};

/// Runs the command.
///
/// # Errors
/// What to change.
pub(crate) fn run(_arguments: &McpReplayArgs) -> Result<Exit> {
    Err(Failure::failed("mcp replay is not built yet"))
}
