//! Where log lines go: stderr, as text for people or as JSON for collectors. What is logged, and at
//! which level, is decided where it happens.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;
use crate::exit::{Failure, Result};

/// Overrides the level given by `-v` and `-q`, per part of the program.
const FILTER: &str = "STANDPIPE_LOG";

/// It warns of a mount that somebody has unmounted already.
const FUSE: &str = "fuser=error";

/// Starts logging; once per process. `steps` is the count of `-v` less the count of `-q`.
///
/// # Errors
/// `STANDPIPE_LOG` is no list of filters.
pub(crate) fn start(quiet: LevelFilter, steps: i16, format: LogFormat) -> Result<()> {
    let filter = match std::env::var(FILTER) {
        Ok(text) => EnvFilter::try_new(&text).map_err(|error| {
            Failure::usage(format!("{FILTER}={text}: {error}"))
                .help("use a level, or parts and levels: STANDPIPE_LOG=info,standpipe_engine=debug")
        })?,
        Err(_) => EnvFilter::default()
            .add_directive(level(quiet, steps).into())
            .add_directive(FUSE.parse().expect("a sound filter")),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Human => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// `steps` levels more than `base`.
fn level(base: LevelFilter, steps: i16) -> LevelFilter {
    const LEVELS: [LevelFilter; 6] = [
        LevelFilter::OFF,
        LevelFilter::ERROR,
        LevelFilter::WARN,
        LevelFilter::INFO,
        LevelFilter::DEBUG,
        LevelFilter::TRACE,
    ];
    let at = LEVELS.iter().position(|level| *level == base).unwrap_or_default();
    LEVELS[at.saturating_add_signed(steps.into()).min(LEVELS.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_step_up_and_down() {
        let check = |base, steps, expected| assert_eq!(level(base, steps), expected);
        check(LevelFilter::INFO, 0, LevelFilter::INFO);
        check(LevelFilter::INFO, 1, LevelFilter::DEBUG);
        check(LevelFilter::INFO, 9, LevelFilter::TRACE);
        check(LevelFilter::WARN, -1, LevelFilter::ERROR);
        check(LevelFilter::WARN, -9, LevelFilter::OFF);
    }
}
