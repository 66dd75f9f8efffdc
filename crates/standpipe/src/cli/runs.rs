//! The words of the commands about runs and jobs, and their help. What they do is `runs`'.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use standpipe_runs::{Name, duration_ms};

use super::AccessArgs;

/// A server and a credential: what every command about runs needs.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServerArgs {
    /// The server
    #[arg(long, env = "STANDPIPE_URL", default_value = "http://127.0.0.1:9000", help_heading = "Which server")]
    pub(crate) url: String,
    /// The credential; a file or the variable keeps it out of process lists
    #[arg(long, env = "STANDPIPE_TOKEN", hide_env_values = true, help_heading = "Which server")]
    pub(crate) token: Option<String>,
    /// File that holds the credential; goes before STANDPIPE_TOKEN
    #[arg(long, value_name = "FILE", help_heading = "Which server")]
    pub(crate) token_file: Option<PathBuf>,
}

impl ServerArgs {
    /// As those of the commands about data; runs belong to no database.
    pub(crate) fn access(&self) -> AccessArgs {
        AccessArgs { db: None, token: self.token.clone(), token_file: self.token_file.clone() }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    duration_ms(text).map(Duration::from_millis)
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RunArgs {
    /// What it is called; runs of one name are counted [default: the name of the program]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<Name>,
    /// Print its id and link, and leave it to the server
    #[arg(long, conflicts_with = "watch")]
    pub(crate) detach: bool,
    /// Stay and print its output here, which is what happens anyway
    #[arg(long)]
    pub(crate) watch: bool,
    /// A variable of its environment; without a value it is taken from here (may be repeated)
    #[arg(long, value_name = "K[=V]")]
    pub(crate) env: Vec<String>,
    /// Give it all of the environment of this command
    #[arg(long)]
    pub(crate) env_all: bool,
    /// A variable that is never shown or stored: from the server's environment, or from a file (may be repeated)
    #[arg(long, value_name = "NAME[=@FILE]")]
    pub(crate) secret: Vec<String>,
    /// The folder it is started in [default: this one]
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,
    /// Stop it when it takes longer: 90s, 10m, 2h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Time between asking it to end (SIGTERM) and ending it (SIGKILL)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) grace: Option<Duration>,
    /// Give it a terminal, so that it writes as it does for people
    #[arg(long)]
    pub(crate) pty: bool,
    /// What it reads: a file, or - for what this command reads, to its end
    #[arg(long, value_name = "FILE|-")]
    pub(crate) stdin: Option<PathBuf>,
    /// Runs of one group go one after the other
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum RunsCommand {
    /// List runs, the newest first
    #[command(after_help = "\
Examples:
  standpipe runs list
  standpipe runs list --state running,queued
  standpipe runs list --name nightly --json | jq '.runs[].state'")]
    List(ListArgs),
    /// Show one run: its state, times, tasks, and how it ended
    #[command(after_help = "\
A run is named by its id (nightly@17), or by its name, which means the newest of it.

Examples:
  standpipe runs show nightly
  standpipe runs show nightly@17 --json | jq .exit_code")]
    Show(ShowArgs),
    /// Print the output of a run
    #[command(after_help = "\
Examples:
  standpipe runs logs nightly
  standpipe runs logs -f nightly                 (and what comes, to its end)
  standpipe runs logs --tail 100 nightly@17
  standpipe runs logs --task test nightly")]
    Logs(LogsArgs),
    /// Stop a run: the whole process tree, grandchildren too; waits until it has ended
    #[command(after_help = "\
Examples:
  standpipe runs stop nightly
  standpipe runs stop nightly --grace 10s")]
    Stop(StopArgs),
    /// Start the same again as a new run, or one task of it and all that comes after it
    #[command(after_help = "\
Examples:
  standpipe runs retry nightly
  standpipe runs retry nightly@17 --task test")]
    Retry(RetryArgs),
    /// Go on with a run that did not succeed: a new run that redoes only what has not succeeded
    #[command(after_help = "\
Examples:
  standpipe runs resume nightly")]
    Resume(RefArgs),
    /// Remove ended runs with their output and files
    #[command(after_help = "\
Without a condition nothing is removed. Runs that have not ended stay in any case.

Examples:
  standpipe runs prune --older-than 30d
  standpipe runs prune --keep 20                 (of each name)
  standpipe runs prune --name nightly --state failed --all")]
    Prune(PruneArgs),
    /// Fetch a file that a task has left
    #[command(after_help = "\
Examples:
  standpipe runs artefact nightly build report --out report.html
  standpipe runs artefact nightly@17 main log | less")]
    Artefact(ArtefactArgs),
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// List the jobs of the server's configuration
    #[command(after_help = "\
Examples:
  standpipe jobs list
  standpipe jobs list --json")]
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: ServerArgs,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// Start a job that the server's configuration names
    #[command(after_help = "\
Ends with the exit code of the run, as `standpipe run` does.

Examples:
  standpipe job run nightly
  standpipe job run deploy --param branch=main --detach")]
    Run(JobRunArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct JobRunArgs {
    /// The job
    pub(crate) name: Name,
    /// A parameter of it (may be repeated)
    #[arg(long, value_name = "K=V")]
    pub(crate) param: Vec<String>,
    /// Print its id and link, and leave it to the server
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ListArgs {
    /// Only runs of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<Name>,
    /// Only those in these states, as in running,failed
    #[arg(long, value_name = "STATES", value_delimiter = ',')]
    pub(crate) state: Vec<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) limit: usize,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RefArgs {
    /// The run: its id, or its name for the newest of it
    pub(crate) run: String,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) run: RefArgs,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct LogsArgs {
    /// Stay, and print what comes, to the run's end
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the last N records (lines)
    #[arg(long, value_name = "N")]
    pub(crate) tail: Option<u64>,
    /// The output of this task of a pipeline
    #[arg(long, value_name = "TASK")]
    pub(crate) task: Option<Name>,
    #[command(flatten)]
    pub(crate) run: RefArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct StopArgs {
    /// Time between asking it to end (SIGTERM) and ending it (SIGKILL)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) grace: Option<Duration>,
    #[command(flatten)]
    pub(crate) run: RefArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RetryArgs {
    /// Only this task, and all that comes after it
    #[arg(long, value_name = "TASK")]
    pub(crate) task: Option<Name>,
    #[command(flatten)]
    pub(crate) run: RefArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct PruneArgs {
    /// Only runs that ended longer ago than this
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) older_than: Option<Duration>,
    /// Keep the newest N of each name
    #[arg(long, value_name = "N")]
    pub(crate) keep: Option<usize>,
    /// Only runs of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<Name>,
    /// Only those in these states, as in succeeded,cancelled
    #[arg(long, value_name = "STATES", value_delimiter = ',')]
    pub(crate) state: Vec<String>,
    /// All that have ended, as far as the other conditions allow
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ArtefactArgs {
    /// The run: its id, or its name for the newest of it
    pub(crate) run: String,
    /// The task that left it; `main` of a run of one command
    pub(crate) task: Name,
    /// What it is called
    pub(crate) name: Name,
    /// Write this file, whole or not at all, in place of stdout
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}
