//! `standpipe mcp export-har`: a tape as an HTTP archive, on stdout.

use std::io::{BufWriter, Write as _};

use standpipe_mcp::tape::write_har;

use super::replay::read;
use crate::cli::McpExportHarArgs;
use crate::exit::{Exit, Failure, Result};

/// Runs the command.
///
/// # Errors
/// The tape can't be read, or nobody takes what is written.
pub(crate) fn run(arguments: &McpExportHarArgs) -> Result<Exit> {
    let tape = read(&arguments.tape)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let written = write_har(&tape, &mut out).and_then(|()| out.flush());
    written.map_err(|error| Failure::failed(format!("cannot write the archive: {error}")))?;
    Ok(Exit::Ok)
}
