//! How the process ends: the one table of exit codes, and the failure that every command returns,
//! with its cause and the next thing to do. Nothing else in the program decides on a code.

use std::fmt;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use standpipe_engine::ErrorKind;

/// What an exit code says. The numbers are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Ok,
    Failed,
    Usage,
    Unreachable,
    Denied,
    Unclean,
    /// As the run that a command has followed.
    Of(u8),
}

impl Exit {
    /// Of `standpipe run`: there is no run whose end it could tell.
    pub(crate) const NOT_STARTED: Self = Self::Of(125);

    const ALL: [Self; 6] = [Self::Ok, Self::Failed, Self::Usage, Self::Unreachable, Self::Denied, Self::Unclean];

    /// The number.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Denied => 4,
            Self::Unclean => 5,
            Self::Of(code) => code,
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Failed => "refused or failed",
            Self::Usage => "wrong arguments or configuration",
            Self::Unreachable => "the server can't be reached",
            Self::Denied => "denied, no such database, or the precondition did not hold",
            Self::Unclean => "the server stopped, but not cleanly",
            Self::Of(_) => "as the run ended",
        }
    }

    /// The table, for the help and the manual.
    pub(crate) fn table() -> String {
        let lines = Self::ALL.map(|exit| format!("  {}  {}", exit.code(), exit.meaning()));
        format!("Exit codes:\n{}", lines.join("\n"))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a command did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) cause: String,
    pub(crate) help: Option<String>,
    /// When the server wants to be asked again.
    pub(crate) retry_after: Option<Duration>,
    /// The HTTP status of a refusal.
    pub(crate) status: Option<u16>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, cause: impl Into<String>) -> Self {
        Self { exit, cause: cause.into(), help: None, retry_after: None, status: None }
    }

    pub(crate) fn failed(cause: impl Into<String>) -> Self {
        Self::new(Exit::Failed, cause)
    }

    pub(crate) fn usage(cause: impl Into<String>) -> Self {
        Self::new(Exit::Usage, cause)
    }

    /// A file or folder that can't be used; the cause names it.
    pub(crate) fn file(path: &std::path::Path, error: &io::Error) -> Self {
        let help = match error.kind() {
            io::ErrorKind::NotFound => "name one that exists; paths are relative to the current folder",
            io::ErrorKind::PermissionDenied => "give yourself the right to it, or name another",
            io::ErrorKind::StorageFull => "free some space, then try again",
            _ => "mend it, or name another",
        };
        Self::failed(format!("{}: {error}", path.display())).help(help)
    }

    /// The reader of our output has gone (`| head`): nobody is left to tell, and nothing is wrong.
    pub(crate) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Ok, ""),
            _ => Self::failed(format!("can't write the output: {error}")),
        }
    }

    /// What happened, without the next step.
    pub(crate) fn cause(&self) -> &str {
        &self.cause
    }

    /// What to type or change next.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Tells the user, and gives the code to end with.
    pub(crate) fn report(&self) -> Exit {
        if self.exit != Exit::Ok {
            eprintln!("{self}");
        }
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.cause)?;
        let help = self.help.as_deref().unwrap_or("standpipe help COMMAND shows what can be asked for, with examples");
        write!(f, "\nhelp: {help}")
    }
}

impl std::error::Error for Failure {}

/// The engine's message is for the user; a private cause helps whoever owns the data folder.
impl From<standpipe_engine::Error> for Failure {
    fn from(error: standpipe_engine::Error) -> Self {
        let exit = match error.kind() {
            // A conflict here is a folder that has the database already; preconditions come over HTTP.
            ErrorKind::Unauthenticated | ErrorKind::Denied | ErrorKind::NotFound => Exit::Denied,
            _ => Exit::Failed,
        };
        let cause = error.cause().map(|cause| format!(" ({cause})")).unwrap_or_default();
        Self::new(exit, format!("{}{cause}", error.message()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_do_not_change() {
        assert_eq!(Exit::ALL.map(Exit::code), [0, 1, 2, 3, 4, 5]);
        assert_eq!(Exit::table().lines().count(), 1 + Exit::ALL.len());
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let check = |kind: io::ErrorKind, exit| assert_eq!(Failure::output(&kind.into()).exit, exit);
        check(io::ErrorKind::BrokenPipe, Exit::Ok);
        check(io::ErrorKind::StorageFull, Exit::Failed);
    }

    #[test]
    fn a_failure_names_cause_and_next_step() {
        let failure = Failure::usage("no file").help("make one");
        assert_eq!(failure.to_string(), "error: no file\nhelp: make one");
    }
}
