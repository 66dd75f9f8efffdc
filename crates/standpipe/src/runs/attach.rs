//! Staying with a run: its link first, its output byte for byte, Ctrl-C, and the code to end with.

use std::io::Write;

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::server;
use crate::cli::ServerArgs;
use crate::client::Client;
use crate::client::control::{about_runs, address};
use crate::client::logs::{self, Begin, End};
use crate::exit::{Exit, Failure, Result};

/// A run that was started, as the server tells it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Started {
    pub(crate) id: String,
    pub(crate) url: String,
}

impl Started {
    /// The address for people: the server as the user named it, where that is one a browser understands.
    fn link(&self, client: &Client) -> String {
        match client.url().starts_with("http") {
            true => format!("{}{}", client.url(), address(&["runs", &self.id])),
            false => self.url.clone(),
        }
    }
}

/// Starts what the request to `target` says, prints the link and then the output, and ends as it ends; `detach` leaves it to the
/// server once it is accepted.
///
/// # Errors
/// It could not be started; the code to end with is 125 then.
pub(crate) fn start(
    target: &str,
    request: Result<Value>,
    arguments: &ServerArgs,
    (detach, quiet): (bool, bool),
    out: &mut dyn Write,
) -> Result<Exit> {
    let not_started = |failure: Failure| Failure { exit: Exit::NOT_STARTED, ..failure };
    let begin = || {
        let request = request?;
        let client = server(arguments)?;
        let started: Started = client.block_on(client.control(Method::POST, target, Some(&request)))?;
        Ok((client, started))
    };
    let (client, started) = begin().map_err(not_started)?;
    if detach {
        leave(&client, &started, out)?;
        return Ok(Exit::Ok);
    }
    follow_to_end(&client, &started, quiet)
}

/// Prints id and link, and leaves the run to the server.
///
/// # Errors
/// Those of writing.
pub(super) fn leave(client: &Client, started: &Started, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "{} {}", started.id, started.link(client)).map_err(|error| Failure::output(&error))
}

/// Prints the link, then the output of the run, what it writes to stderr to stderr; ends as it ends. The first
/// Ctrl-C stops the run and waits, the second leaves.
///
/// # Errors
/// The server can't be reached any more, or the output can't be written.
fn follow_to_end(client: &Client, started: &Started, quiet: bool) -> Result<Exit> {
    if !quiet {
        eprintln!("standpipe: {} {}", started.id, started.link(client));
    }
    let (out, err) = (&mut std::io::stdout(), &mut std::io::stderr());
    let end = client.block_on(async {
        let at = format!("/runs/{}/out", started.id);
        let mut followed = std::pin::pin!(logs::follow(client, &at, Begin::Start, true, out, err));
        let mut told = Interrupts::new()?;
        tokio::select! {
            end = &mut followed => return end.map(|end| end.ok_or(Left)),
            () = told.next() => {}
        }
        eprintln!("standpipe: stopping {}; once more leaves it to the server", started.id);
        let stop = format!("{}/stop", address(&["runs", &started.id]));
        let body = json!({});
        let mut asked = std::pin::pin!(async {
            let stopped: Result<Value> = client.control(Method::POST, &stop, Some(&body)).await;
            if let Err(failure) = stopped {
                eprintln!("{failure}");
            }
            std::future::pending::<()>().await;
        });
        tokio::select! {
            end = &mut followed => end.map(|end| end.ok_or(Left)),
            () = &mut asked => Ok(Err(Left)),
            () = told.next() => Ok(Err(Left)),
        }
    });
    match end.map_err(about_runs)? {
        Ok(end) => {
            if !quiet && end.state != "succeeded" {
                eprintln!("standpipe: {} {}", started.id, sentence(&end));
            }
            Ok(Exit::Of(code(&end)))
        }
        Err(Left) => Ok(Exit::Of(INTERRUPTED)),
    }
}

/// The user has left before the end.
struct Left;

/// What a shell says of a command that Ctrl-C has ended.
const INTERRUPTED: u8 = 130;

/// What `timeout` says of a command whose time was over.
const TIMED_OUT: u8 = 124;

/// What a shell says of a command that ended by SIGTERM.
const TERMINATED: u8 = 143;

/// The code that says how a run ended: its own; 128 and the signal; 124 for one whose time was over; 125 for one that
/// could not be started, or whose end nobody saw.
fn code(end: &End) -> u8 {
    let own = end.exit_code.and_then(|code| u8::try_from(code).ok());
    let signal = end.signal.and_then(|signal| u8::try_from(signal).ok()?.checked_add(128));
    match (end.state.as_str(), own, signal) {
        ("succeeded", own, _) => own.unwrap_or(0),
        ("timed_out", ..) => TIMED_OUT,
        (_, Some(own @ 1..), _) => own,
        (_, _, Some(signal)) => signal,
        ("cancelled", ..) => TERMINATED,
        // It said it was well, and something of it was not: never a success.
        (_, Some(0), None) => 1,
        _ => NOT_STARTED,
    }
}

const NOT_STARTED: u8 = 125;

/// How it ended, for people.
fn sentence(end: &End) -> String {
    let mut text = end.state.replace('_', " ");
    if let Some(code) = end.exit_code {
        text += &format!(", exit code {code}");
    }
    if let Some(signal) = end.signal {
        text += &format!(", signal {signal}");
    }
    if let Some(reason) = &end.reason {
        text += &format!(": {reason}");
    }
    text
}

/// Ctrl-C, and SIGTERM where there is such.
struct Interrupts {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Interrupts {
    fn new() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let heed = |kind| signal(kind).map_err(|error| Failure::failed(format!("can't wait for signals: {error}")));
        Ok(Self { interrupt: heed(SignalKind::interrupt())?, terminate: heed(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
impl Interrupts {
    fn new() -> Result<Self> {
        Ok(Self {})
    }

    async fn next(&mut self) {
        let _no_handler_no_stop = tokio::signal::ctrl_c().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_how_it_ended() {
        let check = |state: &str, exit_code, signal, expected| {
            let end = End { state: state.into(), exit_code, signal, reason: None };
            assert_eq!(code(&end), expected, "{end:?}");
        };
        check("succeeded", Some(0), None, 0);
        check("succeeded", None, None, 0);
        check("failed", Some(2), None, 2);
        check("failed", Some(0), None, 1);
        check("failed", None, Some(9), 137);
        check("failed", None, None, 125);
        check("cancelled", None, Some(15), 143);
        check("cancelled", None, None, 143);
        check("cancelled", Some(3), None, 3);
        check("cancelled", Some(0), None, 143);
        check("timed_out", None, Some(15), 124);
        check("interrupted", None, None, 125);
        check("lost", None, None, 125);
        check("failed", Some(-1), None, 125);
        check("failed", Some(256), None, 125);
    }

    #[test]
    fn an_end_is_a_sentence() {
        let end =
            End { state: "timed_out".into(), exit_code: None, signal: Some(9), reason: Some("after 10 s".into()) };
        assert_eq!(sentence(&end), "timed out, signal 9: after 10 s");
    }
}
