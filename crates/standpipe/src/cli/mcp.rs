//! The words of `standpipe mcp`, and their help. What they do is `mcp`'s.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use standpipe_runs::duration_ms;

use super::{AccessArgs, TargetArgs};
use crate::config::LogFormat;

/// `standpipe mcp`: alone it is `mcp connect` to a server of ours.
#[derive(Args, Clone, Debug)]
pub(crate) struct McpArgs {
    #[command(subcommand)]
    pub(crate) command: Option<McpCommand>,
    #[command(flatten)]
    pub(crate) board: McpBoardArgs,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum McpCommand {
    /// Serve the tree over stdin and stdout, to a program that starts its MCP servers itself
    #[command(after_help = "\
With --data the folder is opened in this process, and no server may hold it; with --url another server answers. Nothing \
but messages goes to stdout. Ends when its input does.

Examples:
  standpipe mcp stdio --data ./data
  standpipe mcp stdio --data ./data --read-only
  standpipe mcp stdio --url http://127.0.0.1:9000")]
    Stdio(McpStdioArgs),
    /// Speak stdin and stdout for an MCP server at a URL, to an editor that can't do so itself
    #[command(after_help = "\
The credential is sent to that server and nowhere else.

Examples:
  standpipe mcp connect http://127.0.0.1:9000/mcp
  standpipe mcp connect https://db.example.com/mcp/s/files --token-file ~/.standpipe-token")]
    Connect(McpConnectArgs),
    /// Serve MCP servers that speak stdin and stdout over HTTP: bounded, shared, watched
    #[command(after_help = "\
One command is served at /mcp. Servers of a file are served at /mcp/s/NAME, and all of them joined at /mcp/all; a change of \
the file, or SIGHUP, adds, replaces and removes servers without touching the others. docs/gateway.md says what a file may hold, \
and how clients are told.

Examples:
  standpipe mcp gateway --listen 127.0.0.1:9001 -- npx -y @modelcontextprotocol/server-everything
  standpipe mcp gateway --listen 127.0.0.1:9001 --mode shared --call-timeout 3s -- ./my-server --flag
  standpipe mcp gateway --listen 127.0.0.1:9001 --servers mcp.json")]
    Gateway(Box<McpGatewayArgs>),
    /// Show the servers behind a gateway: state, processes, sessions, calls, latency
    #[command(after_help = "\
Examples:
  standpipe mcp status
  standpipe mcp status --url http://127.0.0.1:9001 --json | jq '.servers[].state'")]
    Status(McpStatusArgs),
    /// Serve what a tape has recorded, in place of the server that was recorded
    #[command(after_help = "\
Answers over stdin and stdout, or over HTTP with --listen. A call that is not on the tape is an error that names the nearest one.

Examples:
  standpipe mcp replay calls.jsonl
  standpipe mcp replay calls.jsonl --listen 127.0.0.1:9001 --timing")]
    Replay(McpReplayArgs),
    /// Print a tape as HAR, which browsers and HTTP tools can show
    #[command(after_help = "\
Examples:
  standpipe mcp export-har calls.jsonl > calls.har")]
    ExportHar(McpExportHarArgs),
}

/// The tree of a server, over stdin and stdout.
#[derive(Args, Clone, Debug)]
pub(crate) struct McpBoardArgs {
    /// The server; its tree is at /mcp
    // A group that holds another one is never found to be given as a whole: so it is this that says whether it is meant.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    #[command(flatten)]
    pub(crate) credential: McpCredentialArgs,
}

/// As whom a server is asked.
#[derive(Args, Clone, Debug)]
pub(crate) struct McpCredentialArgs {
    /// The credential; a file or the variable keeps it out of process lists
    #[arg(long, env = "STANDPIPE_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// File that holds the credential; goes before STANDPIPE_TOKEN
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

impl McpCredentialArgs {
    /// As the other commands say it, of the server's default database.
    pub(crate) fn access(&self) -> AccessArgs {
        AccessArgs { db: None, token: self.token.clone(), token_file: self.token_file.clone() }
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct McpStdioArgs {
    /// Refuse every change
    #[arg(long)]
    pub(crate) read_only: bool,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct McpConnectArgs {
    /// The endpoint, such as http://127.0.0.1:9000/mcp
    pub(crate) url: String,
    /// A header to send with every request (may be repeated)
    #[arg(long, value_name = "NAME: VALUE")]
    pub(crate) header: Vec<String>,
    #[command(flatten)]
    pub(crate) credential: McpCredentialArgs,
}

/// Whether each client has a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum McpMode {
    /// A process for each session
    Session,
    /// One process for all
    Shared,
}

/// Which era of the protocol a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum McpEra {
    /// Ask it
    Auto,
    /// 2025-11-25 and before
    Legacy,
    /// 2026-07-28
    Modern,
}

/// A duration as people write it: `500ms`, `10s`, `1m30s`.
fn duration(text: &str) -> Result<Duration, String> {
    duration_ms(text).map(Duration::from_millis)
}

#[derive(Args, Clone, Debug)]
pub(crate) struct McpGatewayArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9001")]
    pub(crate) listen: String,
    /// A Unix socket on which one message a line is spoken, for this user's programs [default: none]
    #[arg(long, value_name = "PATH")]
    pub(crate) line: Option<PathBuf>,
    /// The servers: a JSON file with `mcpServers`, as editors have it
    #[arg(long, value_name = "FILE", conflicts_with = "command", required_unless_present = "command")]
    pub(crate) servers: Option<PathBuf>,
    /// Configuration file (TOML), of which limits, auth and mcp are used
    #[arg(long, value_name = "FILE", env = "STANDPIPE_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    /// Whether each session has a process of its own [default: session]
    #[arg(long, value_name = "MODE", help_heading = "Servers")]
    pub(crate) mode: Option<McpMode>,
    /// Which era of the protocol the server speaks [default: auto]
    #[arg(long, value_name = "ERA", help_heading = "Servers")]
    pub(crate) era: Option<McpEra>,
    /// Start the server now, not when it is first used
    #[arg(long, help_heading = "Servers")]
    pub(crate) eager: bool,
    /// A variable of the server: NAME=VALUE, or NAME for that of this environment (may be repeated)
    #[arg(long, value_name = "NAME[=VALUE]", help_heading = "Servers")]
    pub(crate) env: Vec<String>,
    /// The folder that the server is started in [default: this one]
    #[arg(long, value_name = "DIR", help_heading = "Servers")]
    pub(crate) cwd: Option<PathBuf>,
    /// Record every message of every server in this file, a JSON object a line
    #[arg(long, value_name = "FILE", help_heading = "Servers")]
    pub(crate) record: Option<PathBuf>,
    /// What to block, delay, mock or fail: a JSON file of rules
    #[arg(long, value_name = "FILE", help_heading = "Servers")]
    pub(crate) rules: Option<PathBuf>,

    /// Time for a call without any progress [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Limits")]
    pub(crate) call_timeout: Option<Duration>,
    /// Time for a call, whatever its progress [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Limits")]
    pub(crate) call_total: Option<Duration>,
    /// Time that a session may be without a call and a stream [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Limits")]
    pub(crate) idle_timeout: Option<Duration>,
    /// Time for a server to start and answer [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Limits")]
    pub(crate) start_timeout: Option<Duration>,
    /// Time for calls to end when the gateway stops [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Limits")]
    pub(crate) drain: Option<Duration>,
    /// Processes at once [default: 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000), help_heading = "Limits")]
    pub(crate) max_children: Option<u32>,
    /// Sessions at once [default: 1024]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000), help_heading = "Limits")]
    pub(crate) max_sessions: Option<u32>,

    /// Speak HTTP+SSE of 2024-11-05 too, at /mcp/sse
    #[arg(long, help_heading = "Clients")]
    pub(crate) sse: bool,
    /// Whose tokens are believed: firebase:PROJECT, or key:FILE for a key of your own; whoever shows none is refused then
    #[arg(long, value_name = "WHOM", help_heading = "Clients")]
    pub(crate) auth: Vec<String>,
    /// File that holds a secret; whoever shows it as a bearer token is let in, and nobody else
    #[arg(long, value_name = "FILE", help_heading = "Clients")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Let in whoever shows no token, although tokens are believed
    #[arg(long, help_heading = "Clients")]
    pub(crate) anonymous: bool,
    /// What `aud` of a token must be
    #[arg(long, value_name = "AUDIENCE", help_heading = "Clients")]
    pub(crate) audience: Option<String>,
    /// A host name that clients use beside those of this machine (may be repeated)
    #[arg(long, value_name = "HOST", help_heading = "Clients")]
    pub(crate) host: Vec<String>,
    /// The origin of a page that may ask, such as `https://app.example.com` (may be repeated)
    #[arg(long, value_name = "ORIGIN", help_heading = "Clients")]
    pub(crate) origin: Vec<String>,
    /// Speak without encryption also where others can read along, as behind a proxy
    #[arg(long, help_heading = "Clients")]
    pub(crate) insecure: bool,
    /// How log lines look [default: human]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,

    /// The server's program and its arguments
    #[arg(value_name = "CMD", last = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct McpStatusArgs {
    /// The gateway, or the server that it is part of
    #[arg(long, env = "STANDPIPE_URL", default_value = "http://127.0.0.1:9000")]
    pub(crate) url: String,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) credential: McpCredentialArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct McpReplayArgs {
    /// The tape: a file of JSON lines
    pub(crate) tape: PathBuf,
    /// Answer over HTTP at this address, at /mcp, in place of stdin and stdout
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
    /// Which server of the tape, where it has several
    #[arg(long, value_name = "NAME")]
    pub(crate) server: Option<String>,
    /// Take as long for each answer as the recorded server did
    #[arg(long)]
    pub(crate) timing: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct McpExportHarArgs {
    /// The tape: a file of JSON lines
    pub(crate) tape: PathBuf,
}
