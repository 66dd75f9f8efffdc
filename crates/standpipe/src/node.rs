//! The server of `dev` and `serve`: engine, doors and their shutdown, assembled from settings.

use crate::config::Settings;
use crate::exit::{Exit, Failure, Result};

/// Runs a server until it is told to stop.
///
/// # Errors
/// It can't start; the failure names what to change.
pub(crate) fn run(settings: &Settings) -> Result<Exit> {
    let Settings { mode, values, rules, import } = settings;
    tracing::debug!(?mode, ?values, ?rules, ?import, "starting");
    Err(Failure::failed("the server is not wired"))
}
