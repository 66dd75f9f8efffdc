//! The client's side of what controls runs: requests and answers in JSON. What to ask for is `runs`' matter.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Client;
use crate::exit::{Exit, Failure, Result};

/// An answer to a control request; longer than the grace time of any stop.
const ANSWER_MAX: Duration = Duration::from_secs(400);

/// What stays as it is in a segment; `@` is in the id of every run.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'@');

/// `/a/b` of these segments, each escaped.
pub(crate) fn address(segments: &[&str]) -> String {
    segments.iter().flat_map(|segment| ["/".to_owned(), utf8_percent_encode(segment, ESCAPED).to_string()]).collect()
}

/// `?a=b&c=d` of what is given, escaped.
pub(crate) fn query(pairs: &[(&str, Option<String>)]) -> String {
    let given = pairs.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    let pairs: Vec<_> = given.map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, ESCAPED))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

impl Client {
    /// Makes a request and reads its answer.
    ///
    /// # Errors
    /// A refusal, in the words of the server; it can't be reached, or what it says is no such JSON.
    pub(crate) async fn control<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Option<&Value>,
    ) -> Result<T> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let answer = self.open(method, target, headers, body, ANSWER_MAX).await.map_err(about_runs)?;
        let mut bytes = Vec::new();
        self.copy(answer, &mut bytes).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Failure::failed(format!("the answer of {} is not what it should be: {error}", self.url()))
                .help("is it a standpipe server, and of this version?")
        })
    }

    /// Copies what is at `target` to `out`.
    ///
    /// # Errors
    /// As [`Client::control`], and of writing.
    pub(crate) async fn download(&self, target: &str, out: &mut dyn Write) -> Result<()> {
        let answer = self.open(Method::GET, target, HeaderMap::new(), Bytes::new(), ANSWER_MAX).await;
        self.copy(answer.map_err(about_runs)?, out).await
    }
}

/// A refusal of a request about runs: what to do next is another matter than for data.
pub(crate) fn about_runs(mut failure: Failure) -> Failure {
    let help = match (failure.exit, failure.status) {
        (Exit::Unreachable, _) if failure.cause.starts_with("can't reach") => {
            "start a server (standpipe dev), or name one (--url)"
        }
        (_, Some(401 | 403)) => {
            "commands are run for the user of the server, on its machine: give its secret (--token-file \
             DATA/admin.token), or start a job of its configuration (standpipe jobs list)"
        }
        (_, Some(404)) => "standpipe runs list shows what there is",
        (_, Some(409)) => "standpipe runs show RUN tells where it stands",
        (_, Some(413)) => "give it a shorter command, environment or input",
        _ => return failure,
    };
    failure.help = Some(help.to_owned());
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_escaped() {
        assert_eq!(address(&["runs", "nightly@17", "out"]), "/runs/nightly@17/out");
        assert_eq!(address(&["runs", "a/b"]), "/runs/a%2Fb");
        assert_eq!(query(&[("a", None), ("b", Some("1 2".into())), ("c", Some("d".into()))]), "?b=1%202&c=d");
        assert_eq!(query(&[("a", None)]), "");
    }
}
