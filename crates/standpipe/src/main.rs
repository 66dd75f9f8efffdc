//! The binary: reads arguments, environment and configuration, assembles what they ask for, prints,
//! and ends the process. Everything it starts lives in the other crates.

mod authority;
mod cli;
mod client;
mod commands;
mod config;
mod emulator;
mod excerpt;
mod exit;
mod jobs;
mod local;
mod logging;
mod mcp;
mod mirror;
#[cfg(all(feature = "fuse", target_os = "linux"))]
mod mount;
mod node;
mod pipe;
mod pipeline;
mod reload;
mod rules;
mod runs;
mod signals;
mod systemd;
mod tls;
mod token;

#[cfg(feature = "tui")]
mod top;

use std::process::ExitCode;

use clap::Parser as _;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match commands::run(cli::Cli::parse()) {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report().into(),
    }
}
