//! Following a stream of output: its bytes, by channel, to where the caller wants them, from where it says to the
//! end; reconnecting from the last record seen, so that none is missed and none comes twice. Which stream, and what
//! its end means for the exit code, is the caller's.

use std::borrow::Cow;
use std::io::Write;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::body::Incoming;
use serde::Deserialize;
use standpipe_wire::records::{self, end_words};
use standpipe_wire::sse::{Decoder, Event};

use super::Client;
use super::watch::{BACKOFF_MAX, BACKOFF_MIN};
use crate::exit::{Exit, Failure, Result};

/// An event holds one record, which is far shorter.
const EVENT_BYTES_MAX: usize = 64 << 20;

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// At the first record that is left.
    Start,
    /// At the record of that number.
    Seq(u64),
    /// So many records before the end.
    Tail(u64),
}

/// How a stream ended, as the server tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct End {
    /// `succeeded`, `failed`, …
    pub(crate) state: String,
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) reason: Option<String>,
}

impl End {
    /// The end in words: `failed, exit code 2`.
    pub(crate) fn words(&self) -> String {
        let reason = self.reason.as_deref();
        end_words(&records::End { state: &self.state, exit_code: self.exit_code, signal: self.signal, reason })
    }
}

/// What is told of the stream beside its bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told<'e> {
    /// A note: a JSON object as text.
    Note(&'e str),
    /// Records are gone; this is the first that is left.
    Gap(u64),
}

/// A record as an event holds it.
#[derive(Deserialize)]
struct Record<'e> {
    seq: u64,
    #[serde(borrow)]
    text: Option<Cow<'e, str>>,
    base64: Option<&'e str>,
}

#[derive(Deserialize)]
struct Gap {
    first_left: u64,
}

/// Writes the bytes of the stream at `at` (`/runs/nightly@17/out`, not escaped) to `out` and `err`, until it ends, or
/// with `live` false until what is there now has come. `None`: it has not ended.
///
/// # Errors
/// The first connection fails; later, a refusal that won't change by asking again; the error of `out` or `err`.
pub(crate) async fn follow(
    client: &Client,
    at: &str,
    begin: Begin,
    live: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<Option<End>> {
    let (mut told, mut pause) = (|_: Told<'_>| {}, BACKOFF_MIN);
    Follow { client, at, begin, live, out, err, told: &mut told }.run(&mut pause).await
}

/// As [`follow`], and tells `told` of notes and gaps, which `follow` leaves out.
///
/// # Errors
/// As [`follow`].
pub(crate) async fn follow_all(
    client: &Client,
    at: &str,
    begin: Begin,
    live: bool,
    (out, err): (&mut dyn Write, &mut dyn Write),
    told: &mut dyn FnMut(Told<'_>),
) -> Result<Option<End>> {
    Follow { client, at, begin, live, out, err, told }.run(&mut { BACKOFF_MIN }).await
}

struct Follow<'a> {
    client: &'a Client,
    at: &'a str,
    begin: Begin,
    live: bool,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    told: &'a mut dyn FnMut(Told<'_>),
}

/// What came of an event or a connection.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    More,
    Ended(End),
}

impl Follow<'_> {
    async fn run(mut self, pause: &mut Duration) -> Result<Option<End>> {
        let mut body = self.open().await?;
        loop {
            match self.connection(body, pause).await {
                Ok(Step::Ended(end)) => return Ok(Some(end)),
                Ok(Step::More) if !self.live => return Ok(None),
                Err(failure) if failure.exit != Exit::Unreachable => return Err(failure),
                lost => tracing::debug!(?lost, begin = ?self.begin, "the stream broke off"),
            }
            body = self.reopen(pause).await?;
        }
    }

    async fn open(&self) -> Result<Incoming> {
        let follow = (!self.live).then(|| ("follow", "0".to_owned()));
        let (from, after) = match self.begin {
            Begin::Start => (None, None),
            // After the record before it: the way of the event stream itself.
            Begin::Seq(seq @ 1..) => (None, Some(seq - 1)),
            Begin::Seq(0) => (Some(("from", "0".to_owned())), None),
            Begin::Tail(records) => (Some(("tail", records.to_string())), None),
        };
        let query: Vec<_> = follow.into_iter().chain(from).collect();
        self.client.events(self.at, &query, after).await
    }

    /// Asks until the server answers; only a refusal that stays ends it.
    async fn reopen(&self, pause: &mut Duration) -> Result<Incoming> {
        loop {
            tokio::time::sleep(*pause).await;
            *pause = (*pause * 2).min(BACKOFF_MAX);
            match self.open().await {
                Err(failure) if failure.exit == Exit::Unreachable || failure.retry_after.is_some() => {
                    *pause = failure.retry_after.unwrap_or(*pause).clamp(*pause, BACKOFF_MAX);
                }
                done => return done,
            }
        }
    }

    /// Writes what comes over one connection.
    async fn connection(&mut self, mut body: Incoming, pause: &mut Duration) -> Result<Step> {
        let mut decoder = Decoder::new(EVENT_BYTES_MAX);
        while let Some(data) = self.client.data(&mut body).await? {
            let mut input = &data[..];
            while let Some(event) = decoder.decode(&mut input).map_err(|error| Failure::failed(error.to_string()))? {
                *pause = BACKOFF_MIN;
                if let ended @ Step::Ended(_) = self.take(&event)? {
                    self.flush()?;
                    return Ok(ended);
                }
            }
            self.flush()?;
        }
        Ok(Step::More)
    }

    fn flush(&mut self) -> Result<()> {
        let flushed = self.out.flush().and_then(|()| self.err.flush());
        flushed.map_err(|error| Failure::output(&error))
    }

    fn take(&mut self, event: &Event) -> Result<Step> {
        match event.name.as_str() {
            name @ ("out" | "err" | "note") => {
                let record: Record<'_> = parsed(&event.data)?;
                let bytes = match (record.text, record.base64) {
                    (Some(text), _) => Cow::Owned(text.into_owned().into_bytes()),
                    (None, Some(text)) => Cow::Owned(BASE64.decode(text).map_err(|_| none())?),
                    (None, None) => return Err(none()),
                };
                let bytes: Cow<'_, [u8]> = bytes;
                match name {
                    "out" => self.out.write_all(&bytes).map_err(|error| Failure::output(&error))?,
                    "err" => self.err.write_all(&bytes).map_err(|error| Failure::output(&error))?,
                    _ => (self.told)(Told::Note(&String::from_utf8_lossy(&bytes))),
                }
                self.begin = Begin::Seq(record.seq.saturating_add(1));
            }
            "gap" => {
                let first_left = parsed::<Gap>(&event.data)?.first_left;
                (self.told)(Told::Gap(first_left));
                self.begin = Begin::Seq(first_left);
            }
            "end" => return Ok(Step::Ended(parsed(&event.data)?)),
            "cancel" | "auth_revoked" => {
                let cause = serde_json::from_str(&event.data).unwrap_or_else(|_| event.data.clone());
                let help = "give a credential that may: --token-file FILE, or STANDPIPE_TOKEN";
                return Err(Failure::new(Exit::Denied, cause).help(help));
            }
            // Signs of life, and what later versions may tell.
            _ => {}
        }
        Ok(Step::More)
    }
}

fn none() -> Failure {
    Failure::failed("the server sent an event that is none of a stream")
}

fn parsed<'e, T: Deserialize<'e>>(data: &'e str) -> Result<T> {
    serde_json::from_str(data).map_err(|_| none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::AccessArgs;

    /// What comes of some events: bytes of both channels, what is told, the end, and where to go on.
    fn check(events: &[(&str, &str)], out: &[u8], err: &[u8], told: &[&str], end: Option<&str>, begin: Begin) {
        let client =
            Client::new("http://127.0.0.1:1", &AccessArgs { db: None, token: None, token_file: None }).unwrap();
        let (mut got_out, mut got_err, mut got_told) = (Vec::new(), Vec::new(), Vec::new());
        let mut tell = |told: Told<'_>| got_told.push(format!("{told:?}"));
        let mut follow = Follow {
            client: &client,
            at: "/runs/a@1/out",
            begin: Begin::Start,
            live: true,
            out: &mut got_out,
            err: &mut got_err,
            told: &mut tell,
        };
        let mut ended = None;
        for (name, data) in events {
            let event = Event { name: (*name).into(), data: (*data).into(), id: None };
            if let Step::Ended(end) = follow.take(&event).unwrap() {
                ended = Some(end.state);
            }
        }
        assert_eq!(follow.begin, begin);
        assert_eq!((&got_out[..], &got_err[..]), (out, err));
        assert_eq!((got_told, ended.as_deref()), (told.iter().map(|told| (*told).to_owned()).collect(), end));
    }

    #[test]
    fn records_are_written_by_channel() {
        let out = r#"{"event":"out","seq":3,"at":1,"text":"a\n"}"#;
        let err = r#"{"event":"err","seq":4,"at":1,"base64":"/wo="}"#;
        let note = r#"{"event":"note","seq":5,"at":1,"text":"{\"event\":\"started\"}"}"#;
        check(&[("out", out)], b"a\n", b"", &[], None, Begin::Seq(4));
        let told = [r#"Note("{\"event\":\"started\"}")"#];
        let end = ("end", r#"{"event":"end","state":"failed","exit_code":2}"#);
        check(
            &[("out", out), ("err", err), ("note", note), end],
            b"a\n",
            b"\xff\n",
            &told,
            Some("failed"),
            Begin::Seq(6),
        );
        check(&[("gap", r#"{"event":"gap","first_left":9}"#)], b"", b"", &["Gap(9)"], None, Begin::Seq(9));
        check(&[("keep-alive", "null"), ("later", "?")], b"", b"", &[], None, Begin::Start);
    }
}
