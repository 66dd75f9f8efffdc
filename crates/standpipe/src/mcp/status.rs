//! `standpipe mcp status`: how the servers behind a gateway are doing, as a table or as JSON.

use std::io::Write as _;

use http::Method;
use serde_json::Value;

use crate::cli::McpStatusArgs;
use crate::client::Client;
use crate::exit::{Exit, Failure, Result};

/// Where it is asked.
const TARGET: &str = "/mcp/status";

/// Runs the command.
///
/// # Errors
/// The gateway can't be reached, or refuses.
pub(crate) fn run(arguments: &McpStatusArgs) -> Result<Exit> {
    let client = Client::new(&arguments.url, &arguments.credential.access())?;
    let status: Value =
        client.block_on(client.control(Method::GET, TARGET, None)).map_err(|failure| about(failure, &arguments.url))?;
    let text = if arguments.json { format!("{status}\n") } else { table(&status) };
    let out = &mut std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| Failure::output(&error))?;
    Ok(Exit::Ok)
}

/// A refusal, and what to do about it.
fn about(mut failure: Failure, url: &str) -> Failure {
    let help = match (failure.exit, failure.status) {
        (Exit::Unreachable, _) => {
            format!("nothing answers at {url}: start a gateway (standpipe help mcp gateway), or name another (--url)")
        }
        (_, Some(401 | 403)) => {
            "the status is for administrators: give the secret (--token-file DATA/admin.token)".to_owned()
        }
        (_, Some(404)) => "this server speaks no MCP: [mcp] enabled = true switches it on".to_owned(),
        _ => return failure,
    };
    failure.help = Some(help);
    failure
}

const HEAD: [&str; 15] = [
    "SERVER",
    "STATE",
    "ERA",
    "MODE",
    "PIDS",
    "SESSIONS",
    "IN FLIGHT",
    "QUEUED",
    "RESTARTS",
    "CALLS",
    "ERRORS",
    "P50",
    "P99",
    "IN",
    "OUT",
];

/// The servers, one a line; below them what is wrong with those that have failed, and limits that were hit.
fn table(status: &Value) -> String {
    let servers = status["servers"].as_array().map(Vec::as_slice).unwrap_or_default();
    if servers.is_empty() {
        return "no servers behind this gateway\n".to_owned();
    }
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(servers.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let line = |row: &[String; HEAD.len()]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    let mut text: String = rows.iter().map(line).collect();
    for server in servers {
        if let Some(error) = server["error"].as_str() {
            text += &format!("{}: {}\n", plain(&server["name"]), plain(&error.into()));
        }
    }
    let hit: Vec<String> = status["limits_hit"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, count)| count.as_u64() != Some(0))
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if !hit.is_empty() {
        text += &format!("limits hit: {}\n", hit.join(", "));
    }
    text
}

fn row(server: &Value) -> [String; HEAD.len()] {
    let pids = server["pids"].as_array().map(|pids| match pids.as_slice() {
        [a, b, c, rest @ ..] if !rest.is_empty() => format!("{a},{b},{c},+{}", rest.len()),
        pids => pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    });
    [
        plain(&server["name"]),
        plain(&server["state"]),
        plain(&server["era"]),
        plain(&server["mode"]),
        pids.unwrap_or_default(),
        plain(&server["sessions"]),
        plain(&server["in_flight"]),
        plain(&server["queued"]),
        plain(&server["restarts"]),
        plain(&server["calls"]),
        sum(&server["errors"]),
        time(&server["p50_us"]),
        time(&server["p99_us"]),
        bytes(&server["bytes_in"]),
        bytes(&server["bytes_out"]),
    ]
}

/// What a server says of itself must not steer the terminal it is shown on.
fn plain(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A count, or counts by code.
fn sum(value: &Value) -> String {
    match value.as_object() {
        Some(by_code) => by_code.values().filter_map(Value::as_u64).sum::<u64>().to_string(),
        None => plain(value),
    }
}

fn time(us: &Value) -> String {
    match us.as_u64() {
        None => String::new(),
        Some(us) if us < 1_000 => format!("{us} µs"),
        Some(us) if us < 1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        Some(us) => format!("{:.1} s", us as f64 / 1e6),
    }
}

fn bytes(count: &Value) -> String {
    match count.as_u64() {
        None => String::new(),
        Some(count) if count < 10_000 => format!("{count} B"),
        Some(count) if count < 10_000_000 => format!("{} KiB", count >> 10),
        Some(count) => format!("{} MiB", count >> 20),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_a_line_for_each_server() {
        let status = json!({
            "servers": [
                {"name": "files", "state": "running", "era": "legacy", "mode": "shared", "pids": [1, 2, 3, 4, 5], "calls": 12,
                 "errors": {"5020": 1, "-32602": 2}, "p50_us": 250, "p99_us": 12_345, "bytes_in": 9_999, "bytes_out": 20_000_000},
                {"name": "search", "state": "failed", "pids": [], "error": "no such program\u{1b}[2J"},
            ],
            "limits_hit": {"mcp_children_max": 2, "mcp_sessions_max": 0},
        });
        let text = table(&status);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("SERVER  STATE    ERA     MODE    PIDS"), "{text}");
        assert!(
            lines[1].contains("1,2,3,+2") && lines[1].contains("  3       250 µs  12.3 ms  9999 B  19 MiB"),
            "{text}"
        );
        assert_eq!(lines[3], "search: no such program?[2J");
        assert_eq!(lines[4], "limits hit: mcp_children_max 2");
        assert_eq!(table(&json!({"servers": []})), "no servers behind this gateway\n");
        assert_eq!(table(&json!({})), "no servers behind this gateway\n");
    }
}
