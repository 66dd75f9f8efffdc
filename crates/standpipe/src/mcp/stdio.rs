//! `standpipe mcp stdio`.

use crate::cli::McpStdioArgs;
use crate::exit::{Exit, Failure, Result};

/// Runs the command.
///
/// # Errors
/// What to change.
pub(crate) fn run(_arguments: &McpStdioArgs) -> Result<Exit> {
    Err(Failure::failed("mcp stdio is not built yet"))
}
