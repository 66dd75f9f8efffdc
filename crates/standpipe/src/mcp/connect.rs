//! `standpipe mcp connect`: an MCP server at a URL, for an editor that only speaks stdin and stdout.

use standpipe_doors::{Authority, Credentials};
use standpipe_mcp::Metrics;
use standpipe_mcp::upstream::ServerLimits;
use standpipe_mcp::upstream::remote::{Remote, RemoteSpec};
use standpipe_serve::Limits;

use super::pipes;
use crate::cli::{AccessArgs, McpConnectArgs};
use crate::client::token;
use crate::exit::{Exit, Failure, Result};

/// Runs the command.
///
/// # Errors
/// The URL, a header or the credential's file is wrong. A server that can't be reached is told to who calls it.
pub(crate) fn run(arguments: &McpConnectArgs) -> Result<Exit> {
    speak(&arguments.url, &arguments.header, &arguments.credential.access())
}

/// Speaks stdin and stdout for the server at `url`.
///
/// # Errors
/// As [`run`].
pub(super) fn speak(url: &str, headers: &[String], access: &AccessArgs) -> Result<Exit> {
    let wrong = |cause: String| Failure::usage(cause).help("standpipe mcp connect http://127.0.0.1:9000/mcp");
    let mut headers = headers.iter().map(|header| parse(header)).collect::<Result<Vec<_>>>()?;
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"))
        && let Some(token) = credential(url, access)?
    {
        headers.push(("Authorization".into(), format!("Bearer {token}")));
    }
    // Nothing is shared here that a single client could take too much of.
    let limits = Limits { mcp_queue_wait_ms_max: 60_000, ..Limits::default() };
    let mut spec = RemoteSpec::new("server", url, &headers).map_err(wrong)?;
    spec.limits = ServerLimits { calls_per_child: limits.mcp_calls_per_stream_max, ..ServerLimits::from(&limits) };
    let core = pipes::core(limits)?;
    let metrics = Metrics::default();
    let remote = Remote::new(spec, core.limits(), metrics.clone()).map_err(Failure::failed)?;
    // Whoever started this process is let in; what they may do is decided over there.
    let mcp = pipes::only(remote, Credentials::new(Authority::default(), core.limits()), metrics);
    pipes::serve(core, mcp, None, || async {})
}

/// The credential that was given, else the one that this user's server on this machine announced.
fn credential(url: &str, given: &AccessArgs) -> Result<Option<String>> {
    let token = match &given.token_file {
        Some(path) => Some(std::fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?),
        None => given.token.clone().or_else(|| {
            let (authority, _) = url.strip_prefix("http://")?.split_once('/')?;
            token::find(authority)
        }),
    };
    Ok(token.map(|token| token.trim().to_owned()))
}

/// `NAME: VALUE`.
fn parse(header: &str) -> Result<(String, String)> {
    let (name, value) = header.split_once(':').ok_or_else(|| {
        Failure::usage(format!("{header:?} is no header"))
            .help("write --header 'NAME: VALUE', as in --header 'X-Team: blue'")
    })?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
