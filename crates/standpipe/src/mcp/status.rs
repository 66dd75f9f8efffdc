//! `standpipe mcp status`.

use crate::cli::McpStatusArgs;
use crate::exit::{Exit, Failure, Result};

/// Runs the command.
///
/// # Errors
/// What to change.
pub(crate) fn run(_arguments: &McpStatusArgs) -> Result<Exit> {
    Err(Failure::failed("mcp status is not built yet"))
}
