//! `standpipe mcp export-har`.

use crate::cli::McpExportHarArgs;
use crate::exit::{Exit, Failure, Result};

/// Runs the command.
///
/// # Errors
/// What to change.
pub(crate) fn run(_arguments: &McpExportHarArgs) -> Result<Exit> {
    Err(Failure::failed("mcp export-har is not built yet"))
}
