//! The command line: its words, their help, and nothing of what they do.

mod mcp;
mod pipeline;
mod runs;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use standpipe_doors::Algorithm;

use crate::config::{Durability, LogFormat};
use crate::exit::Exit;
use crate::pipe::{PipeMode, RenderAs};

pub(crate) use mcp::{
    McpArgs, McpCommand, McpConnectArgs, McpEra, McpExportHarArgs, McpGatewayArgs, McpMode, McpReplayArgs,
    McpStatusArgs, McpStdioArgs,
};
pub(crate) use pipeline::{PipelineCheckArgs, PipelineCommand, PipelineRunArgs};
pub(crate) use runs::{
    ArtefactArgs, JobCommand, JobRunArgs, JobsCommand, ListArgs, LogsArgs, PruneArgs, RefArgs, RetryArgs, RunArgs,
    RunsCommand, ServerArgs, ShowArgs, StopArgs,
};

const SIXTY_SECONDS: &str = "\
Examples:
  standpipe dev                                  start a server on 127.0.0.1:9000
  standpipe watch /home                          follow a path, in another terminal
  standpipe put /home/kitchen/temp 21.5          write a value, in a third";

fn after_help() -> String {
    format!("{SIXTY_SECONDS}\n\n{}", Exit::table())
}

/// One live tree, many doors: a durable JSON tree that every client can read, change and watch
///
/// Results go to stdout, as JSON; everything else goes to stderr.
#[derive(Debug, Parser)]
#[command(name = "standpipe", version, propagate_version = true, after_help = after_help())]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) verbosity: Verbosity,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Verbosity {
    /// Log more (twice: even more); STANDPIPE_LOG sets levels by part
    #[arg(short, long, action = clap::ArgAction::Count, global = true, display_order = 900)]
    verbose: u8,
    /// Log less (twice: nothing); hides progress
    #[arg(short, long, action = clap::ArgAction::Count, global = true, display_order = 901, conflicts_with = "verbose")]
    quiet: u8,
}

impl Verbosity {
    /// Levels above what the command would log by itself; below it where negative.
    pub(crate) fn steps(self) -> i16 {
        i16::from(self.verbose) - i16::from(self.quiet)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a server for development: open access, any database on first use
    #[command(after_help = "\
Speaks as the Firebase Realtime Database emulator does. Data is kept in ./.standpipe.

Examples:
  standpipe dev
  standpipe dev --rules database.rules.json --import ./emulator-data
  FIREBASE_DATABASE_EMULATOR_HOST=127.0.0.1:9000 npm test")]
    Dev(NodeArgs),
    /// Start a server: locked unless told otherwise, only the databases that are named
    #[command(after_help = "\
Settings come from defaults, then --config, then variables (STANDPIPE_LISTEN, STANDPIPE_LIMITS_DRAIN_MS, …), \
then arguments; the later wins. `standpipe config show` tells what came of it.

Examples:
  standpipe serve --data ./data --rules database.rules.json
  standpipe serve --data ./data --rules database.rules.json --tls db.example.com --auth firebase:my-project
  standpipe serve --config /etc/standpipe.toml")]
    Serve(NodeArgs),
    /// Print the value at a path
    #[command(after_help = "\
Examples:
  standpipe get /
  standpipe get /tanks --order-by level --start-at 0.5 --limit-to-last 1
  standpipe get /tanks --shallow --pretty")]
    Get(GetArgs),
    /// Replace the value at a path; null removes it
    #[command(after_help = "\
Examples:
  standpipe put /home/kitchen/temp 21.5
  standpipe put /home/name '\"cottage\"'             (a string has its JSON quotes)
  standpipe put /home @home.json
  jq .home all.json | standpipe put /home
  standpipe put /claims/42 '\"me\"' --if-match null_etag   (only if nothing is there)
  standpipe put /online/ann true --while-connected       (removed when this ends)")]
    Put(PutArgs),
    /// Change some children of a path at once; keys may be paths, null removes
    #[command(after_help = "\
Examples:
  standpipe patch /home '{\"kitchen/temp\": 21.5, \"cellar\": null}'")]
    Patch(WriteArgs),
    /// Add a child under a new key that sorts after all before it; prints the key
    #[command(after_help = "\
Examples:
  standpipe push /messages '{\"text\": \"hello\"}'")]
    Push(WriteArgs),
    /// Remove the value at a path
    #[command(after_help = "\
Examples:
  standpipe rm /home/cellar")]
    Rm(RmArgs),
    /// Follow a path: the value now, then every change, one line of JSON each
    #[command(after_help = "\
Reconnects by itself and misses nothing; where the server can't fill a gap, a `reset` comes before the \
whole value. Ctrl-C ends it. With `--since last` it goes on where it was last time; the position is kept in \
$XDG_STATE_HOME/standpipe (~/.local/state/standpipe), a file for each server, database and path.

Examples:
  standpipe watch /home
  standpipe watch /board --since last
  standpipe watch /jobs/7/state --once")]
    Watch(WatchArgs),
    /// Print the value at a path as `cat` would a file: a leaf as it is, anything else as indented JSON
    #[command(after_help = "\
One exact read. On this machine it goes over the Unix socket of the server (--socket), where there is one.

Examples:
  standpipe cat /home/kitchen/temp
  standpipe cat /home --render markdown
  standpipe cat /home --url unix:/run/standpipe.sock")]
    Cat(CatArgs),
    /// Serve a value, or a folder of Markdown, to whoever opens a file
    #[command(after_help = "\
The document is made when a reader opens the file, so it is never old. A path of the tree begins with a slash; \
anything else that is a folder is served as one document, a heading before each file (--folder for one whose \
name begins with a slash). Ctrl-C ends it and removes the file. Linux only; see docs/pipes.md.

Examples:
  standpipe pipe /home home.pipe                     (then: cat home.pipe)
  standpipe pipe /home home.md --mode file --render markdown
  standpipe pipe ./docs all.pipe
  standpipe pipe /srv/docs all.pipe --folder")]
    Pipe(PipeArgs),
    /// Run a command on the server, where anyone can watch it: prints a link, then its output
    #[command(after_help = "\
Ends with the exit code of the command; 128 and the signal where one ended it, 124 where its time was over, 125 where \
it could not be started. The first Ctrl-C stops it and waits, the second leaves it to the server. It goes on when this \
command is killed, and its output stays: `standpipe runs` shows it.

It is started in this folder, with PATH, HOME, USER, LOGNAME, SHELL, LANG, LC_*, TZ, TMPDIR and TERM of this \
environment.

Examples:
  standpipe run -- ping -c 5 localhost
  standpipe run --name nightly -- make test
  standpipe run --name nightly --detach --timeout 2h -- ./nightly.sh
  standpipe run --env LEVEL=3 --secret TOKEN=@token.txt -- ./deploy")]
    Run(RunArgs),
    /// Check pipelines, and run them on the server
    #[command(subcommand)]
    Pipeline(PipelineCommand),
    /// Look at runs, stop, repeat and remove them
    #[command(subcommand)]
    Runs(RunsCommand),
    /// Look at the jobs that the server's configuration names
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Start a job that the server's configuration names
    #[command(subcommand)]
    Job(JobCommand),
    /// Speak MCP: the tree for agents, and a gateway in front of other servers
    #[command(
        args_conflicts_with_subcommands = true,
        subcommand_negates_reqs = true,
        after_help = "\
With --url alone it speaks stdin and stdout for the tree of a server, as an agent's configuration wants it. docs/mcp.md and \
docs/gateway.md say more.

Examples:
  standpipe mcp --url http://127.0.0.1:9000
  standpipe mcp gateway --listen 127.0.0.1:9001 -- ./my-server"
    )]
    Mcp(McpArgs),
    /// Keep a copy of the value at a path in a file, replaced whole after every change
    #[command(after_help = "\
Any number of readers, none of which ever sees half of it. --on-change runs through sh when the file has \
changed, never twice at once; changes meanwhile are one more run. Ctrl-C ends it; the copy stays.

Examples:
  standpipe mirror /home ./live/home.json
  standpipe mirror /home ./live/home.json --on-change './reload-panel'")]
    Mirror(MirrorArgs),
    /// Mount a tree as a directory: values are files, objects are directories
    #[cfg(all(feature = "fuse", target_os = "linux"))]
    #[command(after_help = "\
Reading a file gives the value and a newline; what is written is a number or a boolean where it reads as one, else a string. \
Runs until it is unmounted or stopped (Ctrl-C); the folder is empty again then. Needs /dev/fuse, and without root \
fusermount3 (Debian's fuse3).

Examples:
  standpipe mount ./tree
  standpipe mount /mnt/home --path /home --read-only
  echo 21.5 > ./tree/home/kitchen/temp                     (in another terminal)
  grep -r hello ./tree")]
    Mount(MountArgs),
    /// Show what a server is doing: connections, queue, workers, rates, slowest peers
    #[cfg(feature = "tui")]
    #[command(after_help = "\
For administrators (see --token-file). `q` ends it. Rates are those of the last interval.

Examples:
  standpipe top
  standpipe top --once                          (a plain table, for a log)
  standpipe top --once --json | jq .rates")]
    Top(TopArgs),
    /// Load a JSON file of any size into a path
    #[command(after_help = "\
Replaces what is there, in pieces: watchers see them come. Memory does not grow with the file.

Examples:
  standpipe import prod.json --data ./data
  zcat prod.json.gz | standpipe import - --path /restored")]
    Import(ImportArgs),
    /// Print the value at a path with priorities, as `import` reads it
    #[command(after_help = "\
Examples:
  standpipe export / > back.json
  standpipe export /tanks --out tanks.json
  standpipe export --format emulator ./emulator-data       (all databases; --db for one)")]
    Export(ExportArgs),
    /// Copy a database into a file, while it is in use
    #[command(after_help = "\
Examples:
  standpipe backup today.standpipe
  standpipe backup today.standpipe --data ./data")]
    Backup(BackupArgs),
    /// Put a backup in place as a database of a data folder
    #[command(after_help = "\
Examples:
  standpipe restore today.standpipe --data ./restored")]
    Restore(RestoreArgs),
    /// Read all of a data folder and check that it is whole
    #[command(after_help = "\
Examples:
  standpipe verify --data ./data")]
    Verify(VerifyArgs),
    /// Mint a token with a key of your own, or make such a key
    #[command(
        args_conflicts_with_subcommands = true,
        subcommand_negates_reqs = true,
        after_help = "\
Prints the token and nothing else. A server believes it that was told of the key: standpipe serve --auth key:FILE.

Examples:
  standpipe token keygen --algorithm EdDSA --out me.key
  standpipe serve --data ./data --auth key:me.key.pub
  standpipe token --key me.key --uid maya --claim role=editor --ttl 8h
  curl \"http://127.0.0.1:9000/board.json?auth=$(standpipe token --key me.key --uid maya)\""
    )]
    Token(TokenArgs),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at security rules without a server
    #[command(subcommand)]
    Rules(RulesCommand),
    /// Print the completions of a shell
    #[command(after_help = "\
Examples:
  standpipe completions bash > ~/.local/share/bash-completion/completions/standpipe")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder
    Man {
        /// The folder; made if missing
        dir: PathBuf,
    },
    /// Kill what a server started, when it is gone: started by servers, of no use to people
    #[command(hide = true)]
    Guard {
        /// What its processes bear
        mark: String,
        /// The cgroup they are in
        group: Option<PathBuf>,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    pub(crate) command: Option<TokenCommand>,
    #[command(flatten)]
    pub(crate) mint: Option<MintArgs>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a key: FILE signs, and FILE.pub goes to servers
    #[command(after_help = "\
HS256 makes one secret for both sides: whoever has it signs as anybody.

Examples:
  standpipe token keygen --out me.key
  standpipe token keygen --algorithm HS256 --out shared.secret")]
    Keygen(KeygenArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct KeygenArgs {
    /// EdDSA, ES256, RS256 or HS256
    #[arg(long, value_name = "NAME", default_value = "EdDSA")]
    pub(crate) algorithm: Algorithm,
    /// Where the key goes; must not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct MintArgs {
    /// The private key (PEM), or the secret of HS256
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// Who its bearer is: auth.uid in rules
    #[arg(long, value_name = "UID", required_unless_present = "admin")]
    pub(crate) uid: Option<String>,
    /// A claim, as JSON or text: auth.token.NAME in rules (may be repeated)
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) claim: Vec<String>,
    /// How long it lasts: 90s, 15m, 1h, 30d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = crate::token::ttl)]
    pub(crate) ttl: std::time::Duration,
    /// An administrator's, where the server allows it to this key (administrators = true)
    #[arg(long)]
    pub(crate) admin: bool,
    /// The claim iss
    #[arg(long)]
    pub(crate) issuer: Option<String>,
    /// The claim aud
    #[arg(long)]
    pub(crate) audience: Option<String>,
    /// The id of the key, where a server has several
    #[arg(long)]
    pub(crate) kid: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every setting and where it comes from, as a file that --config reads
    #[command(after_help = "\
Examples:
  standpipe config show --config standpipe.toml
  standpipe config show --defaults              (with the variable that sets each)")]
    Show {
        /// Settings of `dev` in place of `serve`
        #[arg(long)]
        dev: bool,
        /// The defaults alone, and the variable that sets each
        #[arg(long)]
        defaults: bool,
        #[command(flatten)]
        node: NodeArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RulesCommand {
    /// Compile a rules file and show what is wrong with it; with --data, which values it would refuse
    #[command(after_help = "\
Examples:
  standpipe rules check database.rules.json
  standpipe rules check database.rules.json --data ./data")]
    Check(RulesCheckArgs),
    /// Ask a rules file what a table of requests expects
    #[command(after_help = "\
The table is TOML or JSON; docs/rules.md describes it. A case that fails says which rule decided, and why.

Examples:
  standpipe rules test database.rules.json requests.toml")]
    Test(RulesTestArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RulesCheckArgs {
    /// The rules (JSON with comments)
    pub(crate) file: PathBuf,
    /// A data folder whose values to judge by .validate; no server may hold it
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The database in that folder [default: default]
    #[arg(long, value_name = "NAME", requires = "data")]
    pub(crate) db: Option<String>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RulesTestArgs {
    /// The rules (JSON with comments)
    pub(crate) file: PathBuf,
    /// The table of requests (TOML or JSON)
    pub(crate) table: PathBuf,
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct NodeArgs {
    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:9000]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
    /// A Unix socket on which HTTP is spoken too, for this user's commands only [default: none]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Where `nc` and shells talk in lines: an address, or the path of a Unix socket [default: nowhere]
    #[arg(long, value_name = "HOST:PORT|PATH")]
    pub(crate) line: Option<String>,
    /// Where redis clients connect: an address, or the path of a Unix socket [default: nowhere]
    #[arg(long, value_name = "HOST:PORT|PATH")]
    pub(crate) resp: Option<String>,
    /// Where MCP is spoken besides where HTTP is, at /mcp [default: nowhere]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) mcp: Option<String>,
    /// Where MCP is spoken one message a line: an address, or the path of a Unix socket [default: nowhere]
    #[arg(long, value_name = "HOST:PORT|PATH")]
    pub(crate) mcp_line: Option<String>,
    /// MCP servers to serve at /mcp/s/NAME: a JSON file with `mcpServers`
    #[arg(long, value_name = "FILE")]
    pub(crate) mcp_servers: Option<PathBuf>,
    /// Speak https too, with the certificate of this host name (see docs/security.md)
    #[arg(long, value_name = "NAME")]
    pub(crate) tls: Option<String>,
    /// Where https is spoken [default: 0.0.0.0:443]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) tls_listen: Option<String>,
    /// Make a certificate if there is none; clients must be told to trust it
    #[arg(long)]
    pub(crate) tls_self_signed: bool,
    /// Whose tokens are believed: firebase:PROJECT, or key:FILE for a key of your own
    #[arg(long, value_name = "WHOM")]
    pub(crate) auth: Vec<String>,
    /// Speak without encryption also where others can read along, as behind a proxy (serve)
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Let everybody who reaches the port be administrator (dev)
    #[arg(long)]
    pub(crate) dangerously_expose_emulator: bool,
    /// The data folder; made if missing [default: ./.standpipe for dev, ./data for serve]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "STANDPIPE_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Rules to store at start (JSON with comments)
    #[arg(long, value_name = "FILE", env = "STANDPIPE_RULES")]
    pub(crate) rules: Option<PathBuf>,
    /// Data to load at start: a JSON file, or a folder as the emulator exports it
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) import: Option<PathBuf>,
    /// Folder to write at a clean end, as the emulator exports it [default, without a folder: that of --import]
    #[arg(long, value_name = "DIR")]
    pub(crate) export_on_exit: Option<Option<PathBuf>>,
    /// When a write is acknowledged [default: commit]
    #[arg(long)]
    pub(crate) durability: Option<Durability>,
    /// How log lines look [default: human]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

/// Which tree a client verb means.
#[derive(Args, Clone, Debug)]
pub(crate) struct TargetArgs {
    /// The server
    #[arg(long, env = "STANDPIPE_URL", default_value = "http://127.0.0.1:9000", help_heading = "Which tree")]
    pub(crate) url: String,
    /// Open this data folder in place of asking a server; no server may hold it
    #[arg(long, value_name = "DIR", help_heading = "Which tree")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) access: AccessArgs,
}

/// Which database of a server, and as whom.
#[derive(Args, Clone, Debug)]
pub(crate) struct AccessArgs {
    /// The database (`ns`) [default: the server's default]
    #[arg(long, value_name = "NAME", env = "STANDPIPE_DB", help_heading = "Which tree")]
    pub(crate) db: Option<String>,
    /// The credential; a file or the variable keeps it out of process lists
    #[arg(long, env = "STANDPIPE_TOKEN", hide_env_values = true, help_heading = "Which tree")]
    pub(crate) token: Option<String>,
    /// File that holds the credential; goes before STANDPIPE_TOKEN
    #[arg(long, value_name = "FILE", help_heading = "Which tree")]
    pub(crate) token_file: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct GetArgs {
    /// The path, such as /home/kitchen
    pub(crate) path: String,
    /// Indent the JSON
    #[arg(long)]
    pub(crate) pretty: bool,
    /// Only the keys of the children
    #[arg(long)]
    pub(crate) shallow: bool,
    #[command(flatten)]
    pub(crate) query: QueryArgs,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

/// A query over the children of the path. Bounds are JSON; what is no JSON is taken as a string.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct QueryArgs {
    /// Order by a child's path, or by `$key`, `$value` or `$priority`
    #[arg(long, value_name = "CHILD", help_heading = "Query")]
    pub(crate) order_by: Option<String>,
    /// First value, itself included
    #[arg(long, value_name = "JSON", help_heading = "Query", allow_hyphen_values = true)]
    pub(crate) start_at: Option<String>,
    /// First value, itself left out
    #[arg(long, value_name = "JSON", help_heading = "Query", allow_hyphen_values = true)]
    pub(crate) start_after: Option<String>,
    /// Last value, itself included
    #[arg(long, value_name = "JSON", help_heading = "Query", allow_hyphen_values = true)]
    pub(crate) end_at: Option<String>,
    /// Last value, itself left out
    #[arg(long, value_name = "JSON", help_heading = "Query", allow_hyphen_values = true)]
    pub(crate) end_before: Option<String>,
    /// Only this value
    #[arg(long, value_name = "JSON", help_heading = "Query", allow_hyphen_values = true)]
    pub(crate) equal_to: Option<String>,
    /// At most so many, from the first
    #[arg(long, value_name = "N", help_heading = "Query")]
    pub(crate) limit_to_first: Option<u32>,
    /// At most so many, from the last
    #[arg(long, value_name = "N", help_heading = "Query", conflicts_with = "limit_to_first")]
    pub(crate) limit_to_last: Option<u32>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct WriteArgs {
    /// The path, such as /home/kitchen
    pub(crate) path: String,
    /// The value: JSON, @FILE, or - for stdin
    #[arg(value_name = "JSON|@FILE|-", default_value = "-", hide_default_value = true, allow_hyphen_values = true)]
    pub(crate) value: String,
    /// Stay, and have it removed when this command ends or its connection is lost; writes it again
    /// once the server is back
    #[arg(long, conflicts_with = "data")]
    pub(crate) while_connected: bool,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct PutArgs {
    #[command(flatten)]
    pub(crate) write: WriteArgs,
    /// Only if the value there has this ETag; null_etag means nothing is there
    #[arg(long, value_name = "ETAG")]
    pub(crate) if_match: Option<String>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RmArgs {
    /// The path, such as /home/kitchen
    pub(crate) path: String,
    /// Only if the value there has this ETag
    #[arg(long, value_name = "ETAG")]
    pub(crate) if_match: Option<String>,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct WatchArgs {
    /// The path, such as /home/kitchen; the output of a run, such as /runs/nightly/out, is shown as it comes
    pub(crate) path: String,
    /// Changes after this revision; `last` goes on where this command ended last time
    #[arg(long, value_name = "REV|last")]
    pub(crate) since: Option<Since>,
    /// End after the first line
    #[arg(long)]
    pub(crate) once: bool,
    /// The server
    #[arg(long, env = "STANDPIPE_URL", default_value = "http://127.0.0.1:9000", help_heading = "Which tree")]
    pub(crate) url: String,
    #[command(flatten)]
    pub(crate) access: AccessArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CatArgs {
    /// The path, such as /home/kitchen
    pub(crate) path: String,
    /// How it is written [default: text for a leaf, else json]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) render: Option<RenderAs>,
    /// The server, as http://HOST:PORT or unix:PATH
    #[arg(long, env = "STANDPIPE_URL", default_value = "http://127.0.0.1:9000", help_heading = "Which tree")]
    pub(crate) url: String,
    #[command(flatten)]
    pub(crate) access: AccessArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct PipeArgs {
    /// A path of the tree, or a folder of Markdown files
    #[arg(value_name = "PATH|DIR")]
    pub(crate) source: String,
    /// The file that readers open; removed at the end
    pub(crate) file: PathBuf,
    /// How readers are served
    #[arg(long, default_value = "fifo")]
    pub(crate) mode: PipeMode,
    /// How a value is written
    #[arg(long, value_name = "FORMAT", default_value = "json")]
    pub(crate) render: RenderAs,
    /// The first argument is a folder, whatever it looks like
    #[arg(long)]
    pub(crate) folder: bool,
    /// Who may read: 0400 is you, 0440 your group, 0444 everybody
    #[arg(long, value_name = "OCTAL", default_value = crate::pipe::PERM_DEFAULT, value_parser = crate::pipe::perm)]
    pub(crate) perm: u32,
    /// The server, as http://HOST:PORT or unix:PATH
    #[arg(long, env = "STANDPIPE_URL", default_value = "http://127.0.0.1:9000", help_heading = "Which tree")]
    pub(crate) url: String,
    #[command(flatten)]
    pub(crate) access: AccessArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct MirrorArgs {
    /// The path, such as /home
    pub(crate) path: String,
    /// The file; it keeps its permissions, and a new one is yours only. Its folder is made if missing
    pub(crate) file: PathBuf,
    /// Run this through sh when the file has changed
    #[arg(long, value_name = "CMD")]
    pub(crate) on_change: Option<String>,
    /// How the value is written
    #[arg(long, value_name = "FORMAT", default_value = "json")]
    pub(crate) render: RenderAs,
    /// The server, as http://HOST:PORT or unix:PATH
    #[arg(long, env = "STANDPIPE_URL", default_value = "http://127.0.0.1:9000", help_heading = "Which tree")]
    pub(crate) url: String,
    #[command(flatten)]
    pub(crate) access: AccessArgs,
}

#[cfg(all(feature = "fuse", target_os = "linux"))]
#[derive(Args, Clone, Debug)]
pub(crate) struct MountArgs {
    /// The folder to mount on
    pub(crate) dir: PathBuf,
    /// The path to mount, such as /home/kitchen
    #[arg(long, default_value = "/")]
    pub(crate) path: String,
    /// How values look as files
    #[arg(long, value_name = "HOW", default_value = "text")]
    pub(crate) render: crate::mount::Render,
    /// Refuse every change
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Longest wait for the server, in seconds; then an operation fails
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) timeout: u64,
    /// The server
    #[arg(long, env = "STANDPIPE_URL", default_value = "http://127.0.0.1:9000", help_heading = "Which tree")]
    pub(crate) url: String,
    #[command(flatten)]
    pub(crate) access: AccessArgs,
}

#[cfg(feature = "tui")]
#[derive(Args, Clone, Debug)]
pub(crate) struct TopArgs {
    /// Seconds from one look to the next
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    pub(crate) interval: f64,
    /// Print one interval and end
    #[arg(long)]
    pub(crate) once: bool,
    /// As JSON
    #[arg(long, requires = "once")]
    pub(crate) json: bool,
    /// The server
    #[arg(long, env = "STANDPIPE_URL", default_value = "http://127.0.0.1:9000", help_heading = "Which tree")]
    pub(crate) url: String,
    #[command(flatten)]
    pub(crate) access: AccessArgs,
}

#[cfg(feature = "tui")]
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3_600.0).contains(&seconds) => Ok(seconds),
        _ => Err("use 0.1 to 3600 seconds".to_owned()),
    }
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    Rev(u64),
    Last,
}

impl std::str::FromStr for Since {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "last" => Ok(Self::Last),
            number => number.parse().map(Self::Rev).map_err(|_| "a revision (the `rev` of a line), or `last`"),
        }
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ImportArgs {
    /// The file; - for stdin
    #[arg(value_name = "FILE|-")]
    pub(crate) file: PathBuf,
    /// Where to put it
    #[arg(long, default_value = "/")]
    pub(crate) path: String,
    /// Keep what is there and is not in the file
    #[arg(long)]
    pub(crate) merge: bool,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ExportArgs {
    /// The path, such as /home/kitchen; of the emulator's format the folder to write
    #[arg(value_name = "PATH|DIR", default_value = "/")]
    pub(crate) path: String,
    /// One JSON text, or a folder of all databases that Firebase's emulators import
    #[arg(long, default_value = "json")]
    pub(crate) format: ExportFormat,
    /// Write this file, whole or not at all, in place of stdout
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

/// How an export looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ExportFormat {
    /// One JSON text.
    Json,
    /// A folder with a file for each database.
    Emulator,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct BackupArgs {
    /// The file to write; it must not exist
    pub(crate) dest: PathBuf,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RestoreArgs {
    /// A file that `standpipe backup` wrote
    pub(crate) source: PathBuf,
    /// The data folder; made if missing
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// The database it becomes; there must be none of that name
    #[arg(long, value_name = "NAME", env = "STANDPIPE_DB")]
    pub(crate) db: Option<String>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct VerifyArgs {
    /// The data folder; no server may hold it
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Only this database
    #[arg(long, value_name = "NAME", env = "STANDPIPE_DB")]
    pub(crate) db: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_and_an_example() {
        let cli = Cli::command();
        let of_people = |command: &&clap::Command| !command.has_subcommands() && !command.is_hide_set();
        let groups = cli.get_subcommands().flat_map(clap::Command::get_subcommands);
        for command in cli.get_subcommands().chain(groups).filter(of_people) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains("Examples:") || command.get_name() == "man", "{}", command.get_name());
        }
    }

    fn parse(line: &str) -> Result<Command, clap::error::ErrorKind> {
        let cli = Cli::try_parse_from(std::iter::once("standpipe").chain(line.split(' ')));
        cli.map(|cli| cli.command).map_err(|error| error.kind())
    }

    #[test]
    fn values_may_look_like_anything() {
        let check = |line, expected: &str| match parse(line) {
            Ok(Command::Put(put)) => assert_eq!(put.write.value, expected, "{line}"),
            other => panic!("{line}: {other:?}"),
        };
        check("put /a 1", "1");
        check("put /a -1.5", "-1.5");
        check("put /a -", "-");
        check("put /a", "-");
        check("put /a @file", "@file");
        check("put /a null --if-match null_etag", "null");
    }

    #[test]
    fn watches_begin_at_a_revision_or_the_last_position() {
        let check = |line, expected: Option<Option<Since>>| match (parse(line), expected) {
            (Ok(Command::Watch(watch)), Some(since)) => assert_eq!(watch.since, since, "{line}"),
            (Err(clap::error::ErrorKind::ValueValidation), None) => {}
            (other, _) => panic!("{line}: {other:?}"),
        };
        check("watch /a", Some(None));
        check("watch /a --since 12", Some(Some(Since::Rev(12))));
        check("watch /a --since last", Some(Some(Since::Last)));
        check("watch /a --since yesterday", None);
        check("watch /a --since=-1", None);
    }

    #[test]
    fn contradictions_are_usage_errors() {
        use clap::error::ErrorKind as Kind;
        let check = |line, kind| assert_eq!(parse(line).map(|command| format!("{command:?}")), Err(kind), "{line}");
        check("get /a --limit-to-first 1 --limit-to-last 1", Kind::ArgumentConflict);
        check("get", Kind::MissingRequiredArgument);
        check("restore x", Kind::MissingRequiredArgument);
        check("dev --durability fast", Kind::InvalidValue);
        check("dev -v -q", Kind::ArgumentConflict);
        check("deb", Kind::InvalidSubcommand);
    }

    #[test]
    fn steps_count_both_ways() {
        let steps = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap().verbosity.steps();
        assert_eq!((steps("standpipe dev"), steps("standpipe -vv dev"), steps("standpipe dev -q")), (0, 2, -1));
    }
}
