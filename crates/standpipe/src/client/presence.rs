//! Keeping what was written in the tree for as long as this process runs: a write that is tied to
//! a connection, and an event stream on the same connection, by which each side notices that the other has
//! gone. What to write, and what to do with the answer, is the caller's.

use std::time::Duration;

use hyper::body::Incoming;
use serde_json::Value;
use standpipe_wire::sse::{Decoder, Event};

use super::watch::{BACKOFF_MAX, BACKOFF_MIN, EVENT_BYTES_MAX, step};
use super::{Call, Client, Verb};
use crate::exit::{Exit, Failure, Result};

/// Makes the call, and makes it again on a new connection whenever the server has been lost, until
/// interrupted; then what was written goes. `written` gets the answer of each call; `say` gets what
/// happens, a sentence at a time.
///
/// # Errors
/// The first call fails; later, a refusal that won't change by asking again.
pub(crate) fn hold(
    client: &Client,
    mut call: Call,
    written: &mut dyn FnMut(&[u8]) -> Result<()>,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    call.query.push(("lease", "connection".into()));
    let mut hold = Hold { client, call, written, say };
    client.block_on(async {
        tokio::select! {
            done = hold.run() => done,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })
}

struct Hold<'a> {
    client: &'a Client,
    call: Call,
    written: &'a mut dyn FnMut(&[u8]) -> Result<()>,
    say: &'a mut dyn FnMut(&str),
}

/// Why a connection is of no more use.
enum Lost {
    /// It has ended.
    Ended(Failure),
    /// What was written is not there any more.
    Removed,
}

impl Hold<'_> {
    async fn run(&mut self) -> Result<()> {
        let (url, path) = (self.client.url().to_owned(), self.call.path.clone());
        let mut stream = self.write().await?;
        (self.say)(&format!("written to {path} on {url}, and there while this runs; Ctrl-C ends it"));
        let mut after_loss = false;
        loop {
            let lost = follow(self.client, stream, after_loss).await?;
            // A server that noticed the loss after we were back has removed what we wrote since: once.
            after_loss = match lost {
                Lost::Ended(failure) => {
                    (self.say)(&format!("lost {url} ({}); connecting again", failure.cause()));
                    true
                }
                Lost::Removed => false,
            };
            stream = self.write_again().await?;
            (self.say)(&format!("written to {path} again"));
        }
    }

    /// Asks until the server answers; only a refusal that stays ends it.
    async fn write_again(&mut self) -> Result<Incoming> {
        let mut pause = BACKOFF_MIN;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF_MAX);
            match self.write().await {
                Err(failure) if failure.exit == Exit::Unreachable || failure.retry_after.is_some() => {
                    tracing::debug!(?failure, "can't write yet");
                    pause = failure.retry_after.unwrap_or(Duration::ZERO).clamp(pause, BACKOFF_MAX);
                }
                done => return done,
            }
        }
    }

    /// The write and, on the same connection, the stream.
    async fn write(&mut self) -> Result<Incoming> {
        let mut connection = self.client.connect().await?;
        let answer = connection.call(&self.call).await?;
        (self.written)(&answer)?;
        connection.into_stream(&watched(&self.call, &answer)).await
    }
}

/// The path whose stream holds the connection: one of those written, so that little comes over it.
fn watched(call: &Call, answer: &[u8]) -> String {
    let json = |bytes| serde_json::from_slice::<Value>(bytes).unwrap_or_default();
    let child = match call.verb {
        Verb::Push => json(answer).get("name").and_then(Value::as_str).map(str::to_owned),
        Verb::Patch => json(&call.body).as_object().and_then(first_written),
        _ => None,
    };
    child.map_or_else(|| call.path.clone(), |child| format!("{}/{child}", call.path))
}

fn first_written(members: &serde_json::Map<String, Value>) -> Option<String> {
    members.iter().find(|(_, value)| !value.is_null()).map(|(key, _)| key.clone())
}

/// Reads the stream to its end, or until it tells a removal where that matters.
async fn follow(client: &Client, mut body: Incoming, removal_matters: bool) -> Result<Lost> {
    let mut decoder = Decoder::new(EVENT_BYTES_MAX);
    loop {
        let data = match client.data(&mut body).await {
            Ok(Some(data)) => data,
            Ok(None) => return Ok(Lost::Ended(Failure::new(Exit::Unreachable, "it has closed the connection"))),
            Err(failure) if failure.exit == Exit::Unreachable => return Ok(Lost::Ended(failure)),
            Err(failure) => return Err(failure),
        };
        let mut input = &data[..];
        while let Some(event) = decoder.decode(&mut input).map_err(|error| Failure::failed(error.to_string()))? {
            step(&event)?;
            if removal_matters && removes(&event) {
                return Ok(Lost::Removed);
            }
        }
    }
}

/// Does this event say that nothing is there?
fn removes(event: &Event) -> bool {
    let told = serde_json::from_str::<Value>(&event.data).unwrap_or_default();
    event.name == "put" && told["path"] == "/" && told["data"].is_null()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_of_something_that_was_written() {
        let check = |verb, body: &'static str, answer: &str, expected| {
            let call = Call { body: body.into(), ..Call::new(verb, "/a") };
            assert_eq!(watched(&call, answer.as_bytes()), expected, "{body} {answer}");
        };
        check(Verb::Put, "{\"b\":1}", "", "/a");
        check(Verb::Patch, r#"{"b":null,"c/d":1}"#, "", "/a/c/d");
        check(Verb::Patch, "{}", "", "/a");
        check(Verb::Push, "1", r#"{"name":"-Nx"}"#, "/a/-Nx");
    }

    #[test]
    fn only_the_removal_of_the_whole_is_one() {
        let check = |name: &str, data: &str, expected| {
            let event = Event { name: name.into(), data: data.into(), id: None };
            assert_eq!(removes(&event), expected, "{name} {data}");
        };
        check("put", r#"{"path":"/","data":null}"#, true);
        check("put", r#"{"path":"/x","data":null}"#, false);
        check("put", r#"{"path":"/","data":{"x":1}}"#, false);
        check("patch", r#"{"path":"/","data":{"x":null}}"#, false);
        check("keep-alive", "null", false);
    }
}
