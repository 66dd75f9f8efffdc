//! The words of `standpipe pipeline`, and their help. What they do is `pipeline`'s.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use standpipe_runs::Name;

use super::ServerArgs;

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum PipelineCommand {
    /// Say what is wrong with a pipeline's file, or what it would do; asks no server
    #[command(after_help = "\
Prints the tasks in the order in which they may start; those of one level wait for nothing of their own level.

Examples:
  standpipe pipeline check nightly.toml
  standpipe pipeline check nightly.yaml --json | jq -r '.tasks[].name'")]
    Check(PipelineCheckArgs),
    /// Run a pipeline on the server, where anyone can watch it: prints a link, then its output
    #[command(after_help = "\
Every line of output has the name of its task before it. Ends with 0 where the pipeline succeeded, else with the code of \
the task that decided that, as `standpipe run` does. The first Ctrl-C stops it and waits, the second leaves it to \
the server. Tasks are started in this folder, with the variables that `standpipe run` passes and those of the file.

Examples:
  standpipe pipeline run nightly.toml
  standpipe pipeline run nightly.toml --param target=release --detach
  standpipe runs resume nightly                  (redo what did not succeed)
  standpipe runs retry nightly --task test       (one task, and what comes after it)")]
    Run(PipelineRunArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct PipelineCheckArgs {
    /// The file: .toml, .yaml, .yml or .json
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Print the tasks as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct PipelineRunArgs {
    /// The file: .toml, .yaml, .yml or .json
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// What the run is called [default: the file's `name`, or the file's own name]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<Name>,
    /// Print its id and link, and leave it to the server
    #[arg(long)]
    pub(crate) detach: bool,
    /// A parameter of the pipeline (may be repeated)
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) param: Vec<String>,
    /// A variable of all tasks; without a value it is taken from here (may be repeated)
    #[arg(long, value_name = "K[=V]")]
    pub(crate) env: Vec<String>,
    /// Give tasks all of the environment of this command
    #[arg(long)]
    pub(crate) env_all: bool,
    /// The folder that tasks are started in [default: this one]
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,
    /// Runs of one group go one after the other
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}
