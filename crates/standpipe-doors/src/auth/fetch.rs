//! `GET` of a small document over HTTPS: a limit on its size and on its time, and no redirects, so
//! that what is asked for is what the operator named.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

/// A client, with the root certificates of this machine.
pub(super) struct Fetcher(Client<HttpsConnector<HttpConnector>, Empty<Bytes>>);

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fetcher")
    }
}

/// A document, and for how long it says it is fresh.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fetched {
    pub(super) body: Vec<u8>,
    pub(super) max_age: Option<Duration>,
}

impl Fetcher {
    /// # Errors
    /// Text: this machine has no root certificates.
    pub(super) fn new() -> Result<Self, String> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)
            .map_err(|error| {
                format!("no root certificates ({error}): install ca-certificates, or name a file in SSL_CERT_FILE")
            })?
            // Only addresses on this machine pass the configuration without the s.
            .https_or_http()
            .enable_http1()
            .build();
        // Minutes pass between two fetches: no connection is worth keeping.
        Ok(Self(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)))
    }

    /// # Errors
    /// Text that says what went wrong.
    pub(super) async fn get(&self, url: &Uri, bytes_max: usize, within: Duration) -> Result<Fetched, String> {
        let late = |_| format!("no answer within {} ms", within.as_millis());
        timeout(within, self.get_all(url, bytes_max)).await.map_err(late)?
    }

    async fn get_all(&self, url: &Uri, bytes_max: usize) -> Result<Fetched, String> {
        let request = Request::get(url)
            .header(header::ACCEPT, "application/json")
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let answer = self.0.request(request).await.map_err(|error| innermost(&error))?;
        if answer.status() != StatusCode::OK {
            return Err(format!("answered {}", answer.status()));
        }
        let max_age = answer.headers().get(header::CACHE_CONTROL).and_then(|value| max_age(value.to_str().ok()?));
        let body = Limited::new(answer.into_body(), bytes_max).collect().await;
        let body = body.map_err(|error| innermost(&*error))?.to_bytes().to_vec();
        Ok(Fetched { body, max_age })
    }
}

/// The last of an error's causes: the one that says what happened.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// `max-age` of a Cache-Control header (RFC 9111 §5.2.2); nothing is fresh that says it is not to be kept.
fn max_age(value: &str) -> Option<Duration> {
    let directives = value.split(',').map(|part| part.trim().to_ascii_lowercase());
    let mut age = None;
    for directive in directives {
        match directive.split_once('=') {
            Some(("max-age", seconds)) => age = seconds.trim_matches('"').parse().ok().map(Duration::from_secs),
            None if directive == "no-store" || directive == "no-cache" => return Some(Duration::ZERO),
            _ => {}
        }
    }
    age
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freshness_is_read() {
        let check =
            |value, expected: Option<u64>| assert_eq!(max_age(value), expected.map(Duration::from_secs), "{value}");
        check("public, max-age=20000, must-revalidate", Some(20_000));
        check("Max-Age=\"7\"", Some(7));
        check("max-age=99999999999999999999999", None);
        check("max-age=-1", None);
        check("max-age", None);
        check("no-store, max-age=60", Some(0));
        check("", None);
    }
}
