//! Following a path: events to lines of JSON, reconnecting from the last revision until told to
//! stop. Which revision to begin at, and where lines go, is the caller's.

use std::io::Write;
use std::time::Duration;

use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use standpipe_wire::sse::{Decoder, Event};

use super::Client;
use crate::exit::{Exit, Failure, Result};

/// A value and its changes are as large as a value may be.
pub(super) const EVENT_BYTES_MAX: usize = 512 << 20;
pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(100);
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// What one event told us to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing to print; the revision is reached all the same.
    Alive(Option<u64>),
    Line {
        rev: Option<u64>,
        text: String,
    },
}

/// One line of output.
#[derive(Serialize)]
struct Line<'e> {
    rev: Option<u64>,
    event: &'e str,
    path: &'e str,
    data: &'e RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'e str>,
}

/// The data of an event.
#[derive(Deserialize)]
struct Told<'e> {
    path: std::borrow::Cow<'e, str>,
    #[serde(borrow)]
    data: &'e RawValue,
    reason: Option<String>,
}

/// Prints the changes of `path` after `since` to `out`, and calls `reached` with each revision once
/// its line is written. Ends after the first line where `once`, otherwise when interrupted.
///
/// # Errors
/// The first connection fails; later, a refusal that won't change by asking again; `out`'s error.
pub(crate) fn watch(
    client: &Client,
    path: &str,
    since: Option<u64>,
    once: bool,
    out: &mut dyn Write,
    reached: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    let mut follow = Follow { client, path, since, once, out, reached };
    client.block_on(async {
        tokio::select! {
            done = follow.run() => done,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })
}

/// Follows `path` without printing: `reached` is called with the revision of the value now, and of each
/// change. Ends as [`watch`] does, or when dropped.
///
/// # Errors
/// As [`watch`].
pub(crate) async fn follow(client: &Client, path: &str, reached: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
    let out = &mut std::io::sink();
    Follow { client, path, since: None, once: false, out, reached }.run().await
}

struct Follow<'a> {
    client: &'a Client,
    path: &'a str,
    since: Option<u64>,
    once: bool,
    out: &'a mut dyn Write,
    reached: &'a mut dyn FnMut(u64) -> Result<()>,
}

impl Follow<'_> {
    async fn run(&mut self) -> Result<()> {
        let mut body = self.client.stream(self.path, self.since).await?;
        let mut pause = BACKOFF_MIN;
        loop {
            let (done, lost) = match self.connection(body, &mut pause).await {
                Ok(done) => (done, None),
                Err(failure) if failure.exit == Exit::Unreachable => (false, Some(failure)),
                Err(failure) => return Err(failure),
            };
            if done {
                return Ok(());
            }
            tracing::debug!(rev = self.since, ?lost, "the stream has ended");
            body = self.reconnect(&mut pause).await?;
        }
    }

    /// Asks until the server answers; only a refusal that stays ends it.
    async fn reconnect(&self, pause: &mut Duration) -> Result<Incoming> {
        loop {
            tokio::time::sleep(*pause).await;
            *pause = (*pause * 2).min(BACKOFF_MAX);
            match self.client.stream(self.path, self.since).await {
                Err(failure) if failure.exit == Exit::Unreachable || failure.retry_after.is_some() => {
                    tracing::debug!(?failure, "can't connect yet");
                    *pause = failure.retry_after.unwrap_or(*pause).clamp(*pause, BACKOFF_MAX);
                }
                done => return done,
            }
        }
    }

    /// Prints one connection's events; true when no more are wanted.
    async fn connection(&mut self, mut body: Incoming, pause: &mut Duration) -> Result<bool> {
        let mut decoder = Decoder::new(EVENT_BYTES_MAX);
        while let Some(data) = self.client.data(&mut body).await? {
            let mut input = &data[..];
            while let Some(event) = decoder.decode(&mut input).map_err(|error| Failure::failed(error.to_string()))? {
                *pause = BACKOFF_MIN;
                if self.take(step(&event)?)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn take(&mut self, step: Step) -> Result<bool> {
        let (rev, line) = match step {
            Step::Alive(rev) => (rev, None),
            Step::Line { rev, text } => (rev, Some(text)),
        };
        if let Some(text) = &line {
            let write = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
            write.map_err(|error| Failure::output(&error))?;
        }
        if let Some(rev) = rev {
            self.since = Some(rev);
            (self.reached)(rev)?;
        }
        Ok(self.once && line.is_some())
    }
}

/// What to do about an event.
pub(super) fn step(event: &Event) -> Result<Step> {
    let ends = |cause: &str| {
        let help = "give a credential that may: --token-file FILE, or STANDPIPE_TOKEN";
        Err(Failure::new(Exit::Denied, cause).help(help))
    };
    // A reset bears the id of the event before it: what comes next has its own.
    let rev = event.id.as_deref().and_then(|id| id.parse().ok()).filter(|_| event.name != "reset");
    match event.name.as_str() {
        "keep-alive" => Ok(Step::Alive(rev)),
        "cancel" => ends(&serde_json::from_str::<String>(&event.data).unwrap_or_else(|_| event.data.clone())),
        "auth_revoked" => ends(&event.data),
        name => {
            let told: Told = serde_json::from_str(&event.data)
                .map_err(|error| Failure::failed(format!("the server sent an event that is none: {error}")))?;
            let line = Line { rev, event: name, path: &told.path, data: told.data, reason: told.reason.as_deref() };
            let mut text = serde_json::to_string(&line).expect("text and JSON");
            text.push('\n');
            Ok(Step::Line { rev, text })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, id: Option<&str>, data: &str, expected: Result<Step, &str>) {
        let event = Event { name: name.into(), data: data.into(), id: id.map(str::to_owned) };
        match (step(&event), expected) {
            (Ok(got), Ok(want)) => assert_eq!(got, want),
            (Err(got), Err(part)) => assert!(got.to_string().contains(part), "{got}"),
            (got, want) => panic!("{got:?} in place of {want:?}"),
        }
    }

    #[test]
    fn events_become_lines() {
        let line = |rev, text: &str| Ok(Step::Line { rev, text: format!("{text}\n") });
        check(
            "put",
            Some("7"),
            r#"{"path":"/","data":{"b":1e3,"a":null}}"#,
            line(Some(7), r#"{"rev":7,"event":"put","path":"/","data":{"b":1e3,"a":null}}"#),
        );
        check(
            "patch",
            None,
            r#"{"path":"/é\"","data":1}"#,
            line(None, r#"{"rev":null,"event":"patch","path":"/é\"","data":1}"#),
        );
        let reset = r#"{"path":"/","data":null,"reason":"too_old"}"#;
        check(
            "reset",
            Some("7"),
            reset,
            line(None, r#"{"rev":null,"event":"reset","path":"/","data":null,"reason":"too_old"}"#),
        );
        check("keep-alive", Some("9"), "null", Ok(Step::Alive(Some(9))));
        check("keep-alive", None, "null", Ok(Step::Alive(None)));
    }

    #[test]
    fn the_server_can_end_a_watch() {
        check("cancel", None, "\"Permission denied\"", Err("error: Permission denied"));
        check("cancel", None, "Permission denied", Err("error: Permission denied"));
        check("auth_revoked", None, "credential is no longer valid", Err("no longer valid"));
        check("put", None, "{}", Err("an event that is none"));
    }
}
