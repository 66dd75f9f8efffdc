//! The HTTP client: one connection pool to one server, with limits on every wait, and the table
//! from refusals to failures.

mod connection;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use super::{Call, Verb, token};
use crate::cli::AccessArgs;
use crate::exit::{Exit, Failure, Result};

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longer than the server's own limit on a body and a request, so that its refusal is seen.
const ANSWER_MAX: Duration = Duration::from_secs(400);
/// A backup is written on the server before its first byte comes.
const BACKUP_MAX: Duration = Duration::from_secs(3_600);
/// Silence inside an answer.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// The body of a refusal is a sentence.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// A server that is busy is asked so often, after the pauses it names.
const ATTEMPTS: usize = 6;
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

/// What stays as it is in a path or a parameter (RFC 3986's unreserved characters).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A server, a database of it, and a credential.
pub(crate) struct Client {
    runtime: tokio::runtime::Runtime,
    http: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    tls: Arc<ClientConfig>,
    server: Server,
    db: Option<String>,
    authorization: Option<header::HeaderValue>,
}

/// Where the server is.
#[derive(Debug, PartialEq, Eq)]
struct Server {
    /// As the user knows it.
    url: String,
    /// Scheme and authority of requests, without a final slash.
    base: String,
    /// The Unix socket it listens on, where that is the way to it.
    socket: Option<PathBuf>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("url", &self.server.url).field("db", &self.db).finish_non_exhaustive()
    }
}

impl Client {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// The URL or the credential is none, or its file can't be read.
    pub(crate) fn new(url: &str, access: &AccessArgs) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::failed(format!("can't start a runtime: {error}")))?;
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_MAX));
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let server = Server::at(url)?;
        let tls = tls(server.is_https())?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls.clone())
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let http = legacy::Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        let authorization = authorization(access, &server)?;
        Ok(Self { runtime, http, tls: Arc::new(tls), server, db: access.db.clone(), authorization })
    }

    /// A client that takes the Unix socket of a server on this machine, where one was announced and answers.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub(crate) fn near(url: &str, access: &AccessArgs) -> Result<Self> {
        let client = Self::new(url, access)?;
        #[cfg(unix)]
        if let Some(authority) = client.server.url.strip_prefix("http://")
            && let Some(socket) = token::find_socket(authority)
            && std::os::unix::net::UnixStream::connect(&socket).is_ok()
        {
            let server = Server { socket: Some(socket), ..client.server };
            return Ok(Self { server, ..client });
        }
        Ok(client)
    }

    /// A client for who may have commands run: with the secret of this user's server, where none was given.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub(crate) fn operator(url: &str, access: &AccessArgs) -> Result<Self> {
        let mut access = access.clone();
        if access.token.is_none() && access.token_file.is_none() {
            access.token =
                url.strip_prefix("http://").and_then(|authority| token::find_operator(authority.trim_end_matches('/')));
        }
        Self::near(url, &access)
    }

    /// The server, as the user knows it.
    pub(crate) fn url(&self) -> &str {
        &self.server.url
    }

    /// The database asked for.
    pub(crate) fn db(&self) -> Option<&str> {
        self.db.as_deref()
    }

    /// Where this client's futures run, while somebody is in [`Self::block_on`].
    pub(crate) fn runtime(&self) -> &tokio::runtime::Handle {
        self.runtime.handle()
    }

    /// Runs `future` on this client's runtime.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Makes the call and writes the answer's body to `out` as it comes. Asks again while the
    /// server says it is too busy.
    ///
    /// # Errors
    /// As [`super::Target::call`].
    pub(crate) fn call(&self, call: &Call, out: &mut dyn Write) -> Result<()> {
        self.block_on(async {
            let mut attempt = 1;
            let response = loop {
                match self.request(call).await {
                    Err(Failure { retry_after: Some(pause), .. }) if attempt < ATTEMPTS => {
                        attempt += 1;
                        tokio::time::sleep(pause.min(RETRY_AFTER_MAX)).await;
                    }
                    done => break done?,
                }
            };
            self.copy(response, out).await
        })
    }

    /// Reads a path into memory, once; over `bytes_max` is a failure.
    ///
    /// # Errors
    /// As [`super::Target::call`].
    pub(crate) async fn fetch(&self, call: &Call, bytes_max: usize) -> Result<Vec<u8>> {
        let mut body = self.request(call).await?.into_body();
        let mut whole = Vec::new();
        while let Some(data) = self.data(&mut body).await? {
            if whole.len() + data.len() > bytes_max {
                return Err(Failure::failed(format!("{} is longer than {bytes_max} bytes", call.path)));
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole)
    }

    /// Copies the server's backup of the database to `out`.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(crate) fn backup(&self, out: &mut dyn Write) -> Result<()> {
        let target = self.target("/.inspect/backup", &[]);
        self.block_on(async {
            let response = self.open(Method::GET, &target, HeaderMap::new(), Bytes::new(), BACKUP_MAX).await?;
            self.copy(response, out).await
        })
    }

    /// The list of the server's databases, as JSON.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(crate) fn databases(&self) -> Result<Vec<u8>> {
        let target = self.target("/.inspect/databases.json", &[]);
        let mut list = Vec::new();
        self.block_on(async {
            let response = self.open(Method::GET, &target, HeaderMap::new(), Bytes::new(), ANSWER_MAX).await?;
            self.copy(response, &mut list).await
        })?;
        Ok(list)
    }

    /// Stores the rules text of the database.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(crate) fn put_rules(&self, text: String) -> Result<()> {
        let target = self.target("/.settings/rules.json", &[]);
        self.block_on(async {
            let response = self.open(Method::PUT, &target, HeaderMap::new(), text.into(), ANSWER_MAX).await?;
            self.copy(response, &mut std::io::sink()).await
        })
    }

    async fn request(&self, call: &Call) -> Result<Response<Incoming>> {
        let request = self.call_request(call)?;
        self.send(request, ANSWER_MAX).await
    }

    fn call_request(&self, call: &Call) -> Result<Request<Full<Bytes>>> {
        let method = match call.verb {
            Verb::Get => Method::GET,
            Verb::Put => Method::PUT,
            Verb::Patch => Method::PATCH,
            Verb::Push => Method::POST,
            Verb::Delete => Method::DELETE,
        };
        let mut headers = HeaderMap::new();
        if let Some(etag) = &call.if_match {
            headers.insert(header::IF_MATCH, header_value("--if-match", etag)?);
        }
        let target = self.target(&resource(&call.path), &call.query);
        self.prepare(method, &target, headers, call.body.clone())
    }

    /// Opens the event stream of a path, after `since` where given.
    ///
    /// # Errors
    /// As [`super::Target::call`].
    pub(crate) async fn stream(&self, path: &str, since: Option<u64>) -> Result<Incoming> {
        let response = self.send(self.stream_request(path, since)?, SILENCE_MAX).await?;
        self.event_stream(response)
    }

    fn stream_request(&self, path: &str, since: Option<u64>) -> Result<Request<Full<Bytes>>> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, header::HeaderValue::from_static("text/event-stream"));
        if let Some(rev) = since {
            headers.insert("last-event-id", rev.into());
        }
        self.prepare(Method::GET, &self.target(&resource(path), &[]), headers, Bytes::new())
    }

    /// Opens the event stream at a plain place, not a path of the tree: `/runs/nightly@17/out`, not escaped; after
    /// the event `after` where one is given.
    ///
    /// # Errors
    /// As [`super::Target::call`].
    pub(in crate::client) async fn events(
        &self,
        at: &str,
        query: &[(&str, String)],
        after: Option<u64>,
    ) -> Result<Incoming> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, header::HeaderValue::from_static("text/event-stream"));
        if let Some(seq) = after {
            headers.insert("last-event-id", seq.into());
        }
        let request = self.prepare(Method::GET, &self.target(&place(at), query), headers, Bytes::new())?;
        let response = self.send(request, SILENCE_MAX).await?;
        self.event_stream(response)
    }

    fn event_stream(&self, response: Response<Incoming>) -> Result<Incoming> {
        let kind = response.headers().get(header::CONTENT_TYPE);
        if kind.is_none_or(|kind| !kind.as_bytes().starts_with(b"text/event-stream")) {
            return Err(
                Failure::failed(format!("{} sends no event stream", self.url())).help("is it a standpipe server?")
            );
        }
        Ok(response.into_body())
    }

    /// The target of a path, with its parameters, escaped.
    pub(crate) fn location(&self, path: &str, query: &[(&str, String)]) -> String {
        self.target(&resource(path), query)
    }

    /// The target of a plain place, not a path of the tree, with its parameters, escaped.
    pub(crate) fn place(&self, at: &str, query: &[(&str, String)]) -> String {
        self.target(&place(at), query)
    }

    /// `resource` with its parameters, escaped.
    fn target(&self, resource: &str, query: &[(&str, String)]) -> String {
        let ns = self.db.iter().map(|db| ("ns", db));
        let query: Vec<String> = ns
            .chain(query.iter().map(|(name, value)| (*name, value)))
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, ESCAPED)))
            .collect();
        match query.is_empty() {
            true => resource.to_owned(),
            false => format!("{resource}?{}", query.join("&")),
        }
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// As [`super::Target::call`].
    pub(crate) async fn open(
        &self,
        method: Method,
        target: &str,
        headers: HeaderMap,
        body: Bytes,
        answer_max: Duration,
    ) -> Result<Response<Incoming>> {
        self.send(self.prepare(method, target, headers, body)?, answer_max).await
    }

    fn prepare(
        &self,
        method: Method,
        target: &str,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>> {
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{target}", self.server.base)
            .parse()
            .map_err(|error| Failure::usage(format!("{}{target}: {error}", self.url())).help("use a shorter path"))?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    async fn send(&self, request: Request<Full<Bytes>>, answer_max: Duration) -> Result<Response<Incoming>> {
        if self.server.socket.is_some() {
            return self.connect().await?.send(request, answer_max).await;
        }
        let response = timeout(answer_max, self.http.request(request)).await.map_err(|_| self.silent())?;
        accepted(response.map_err(|error| self.unreachable(&error, error.is_connect()))?).await
    }

    pub(crate) async fn copy(&self, response: Response<Incoming>, out: &mut dyn Write) -> Result<()> {
        let mut body = response.into_body();
        while let Some(data) = self.data(&mut body).await? {
            out.write_all(&data).map_err(|error| Failure::output(&error))?;
        }
        Ok(())
    }

    /// The next bytes of a body; `None` at its end.
    ///
    /// # Errors
    /// The server broke off, or was silent for too long.
    pub(crate) async fn data(&self, body: &mut Incoming) -> Result<Option<Bytes>> {
        loop {
            match timeout(SILENCE_MAX, body.frame()).await.map_err(|_| self.silent())? {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => {
                    return Err(Failure::new(
                        Exit::Unreachable,
                        format!("{} broke off in the middle of its answer: {}", self.url(), innermost(&error)),
                    ));
                }
            }
        }
    }

    fn silent(&self) -> Failure {
        Failure::new(Exit::Unreachable, format!("{} does not answer", self.url()))
            .help("is the server overloaded? try again")
    }

    fn unreachable(&self, error: &dyn std::error::Error, connecting: bool) -> Failure {
        let failure = Failure::new(Exit::Unreachable, format!("can't reach {}: {}", self.url(), innermost(error)));
        match connecting {
            true => failure.help("start a server (standpipe dev), name one (--url), or open a folder (--data)"),
            false => failure.help("is it a standpipe server, and http?"),
        }
    }
}

/// What every answer goes through: a refusal is a failure.
async fn accepted(response: Response<Incoming>) -> Result<Response<Incoming>> {
    if response.status().is_success() {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body = timeout(SILENCE_MAX, Limited::new(body, REFUSAL_BYTES_MAX).collect()).await;
    let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
    Err(refusal(parts.status, &parts.headers, &body))
}

/// The last of an error's causes: the one that says what happened.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// `/a/b.json` for a path as typed.
fn resource(path: &str) -> String {
    format!("{}.json", place(path))
}

/// `/a/b` for a path as typed.
fn place(path: &str) -> String {
    let segments: Vec<String> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| utf8_percent_encode(segment, ESCAPED).to_string())
        .collect();
    format!("/{}", segments.join("/"))
}

/// What this client trusts: the roots of this machine, or those in the file that SSL_CERT_FILE names. Reading
/// them takes a while, so only where they are needed.
fn tls(needed: bool) -> Result<ClientConfig> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::failed(format!("no root certificates: {error}"))
            .help("install ca-certificates, or name a file of certificates in SSL_CERT_FILE")
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?;
    let builder = match needed {
        true => builder.with_native_roots().map_err(|error| failed(&error))?,
        false => builder.with_root_certificates(RootCertStore::empty()),
    };
    Ok(builder.with_no_client_auth())
}

impl Server {
    fn is_https(&self) -> bool {
        self.base.starts_with("https://")
    }

    /// The server that a URL names: `http://HOST:PORT`, or `unix:PATH` for its socket.
    fn at(url: &str) -> Result<Self> {
        match url.strip_prefix("unix:") {
            #[cfg(unix)]
            Some(path) if !path.is_empty() => {
                Ok(Self { url: url.to_owned(), base: "http://localhost".into(), socket: Some(path.into()) })
            }
            _ => base(url).map(|base| Self { url: base.clone(), base, socket: None }),
        }
    }
}

/// Scheme and authority of the URL the user gave.
fn base(url: &str) -> Result<String> {
    let wrong = |why: &str| {
        Failure::usage(format!("{url:?} is no server's URL: {why}"))
            .help("use http://HOST:PORT, such as http://127.0.0.1:9000, https://HOST, or unix:PATH")
    };
    let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| wrong(&error.to_string()))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some(scheme @ ("http" | "https")), Some(authority))
            if matches!(uri.path(), "" | "/") && uri.query().is_none() =>
        {
            Ok(format!("{scheme}://{authority}"))
        }
        (Some("http" | "https"), Some(_)) => {
            Err(wrong("a path goes into an argument of its own, a database into --db"))
        }
        _ => Err(wrong("it does not begin with http:// or https://")),
    }
}

/// The credential that was given, else the one this user's server on this machine announced.
fn authorization(access: &AccessArgs, server: &Server) -> Result<Option<header::HeaderValue>> {
    let token = match &access.token_file {
        Some(path) => Some(std::fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?),
        None => access.token.clone().or_else(|| match &server.socket {
            Some(socket) => token::find_by_socket(socket),
            // What was announced is for this machine, and here over plain HTTP.
            None => token::find(server.base.strip_prefix("http://")?),
        }),
    };
    let Some(token) = token else { return Ok(None) };
    let mut value = header_value("the credential", &format!("Bearer {}", token.trim()))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn header_value(what: &str, text: &str) -> Result<header::HeaderValue> {
    text.parse().map_err(|_| Failure::usage(format!("{what} holds characters that no header can carry")))
}

/// What a refusal means: the server's own sentence, and what to do about it.
fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
    Failure { status: Some(status.as_u16()), ..explain(status, headers, body) }
}

fn explain(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
    #[derive(serde::Deserialize)]
    struct Told {
        error: String,
    }
    let told = serde_json::from_slice::<Told>(body).map(|told| told.error);
    let cause = match (status, told) {
        // The body is the value that is there.
        (StatusCode::PRECONDITION_FAILED, _) => match headers.get(header::ETAG).and_then(|etag| etag.to_str().ok()) {
            Some(etag) => format!("the value is another: its ETag is {etag}"),
            None => "the value is another".to_owned(),
        },
        (_, Ok(told)) => told,
        (_, Err(_)) => format!("the server answered {status}"),
    };
    let (exit, help) = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            (Exit::Denied, "give a credential that may: --token-file FILE, or STANDPIPE_TOKEN")
        }
        StatusCode::NOT_FOUND => (Exit::Denied, "name a database that exists: --db NAME"),
        StatusCode::PRECONDITION_FAILED => (Exit::Denied, "read it again, then decide: standpipe get PATH"),
        StatusCode::BAD_REQUEST if cause.contains("parse JSON") => {
            (Exit::Failed, "a string needs its JSON quotes: standpipe put PATH '\"text\"'")
        }
        StatusCode::PAYLOAD_TOO_LARGE => (Exit::Failed, "write it in pieces: standpipe import FILE --path PATH"),
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => (Exit::Failed, "try again later"),
        _ => return Failure::failed(cause),
    };
    let mut failure = Failure::new(exit, cause).help(help);
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        failure.retry_after = Some(Duration::from_secs(seconds.unwrap_or(1)));
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> AccessArgs {
        AccessArgs { db: None, token: None, token_file: None }
    }

    #[test]
    fn paths_become_resources() {
        let check = |path, expected| assert_eq!(resource(path), expected, "{path}");
        check("/", "/.json");
        check("", "/.json");
        check("/a/b", "/a/b.json");
        check("a//b/", "/a/b.json");
        check("/a b/é?#%", "/a%20b/%C3%A9%3F%23%25.json");
        check("/a/.priority", "/a/.priority.json");
    }

    #[test]
    fn parameters_are_escaped_after_the_database() {
        let client = Client::new("http://h:1", &AccessArgs { db: Some("d&x".into()), ..access() }).unwrap();
        let query = [("orderBy", "\"$key\"".to_owned()), ("startAt", "\"a b\"".to_owned())];
        assert_eq!(client.target("/.json", &query), "/.json?ns=d%26x&orderBy=%22%24key%22&startAt=%22a%20b%22");
        assert_eq!(Client::new("http://h:1/", &access()).unwrap().target("/.json", &[]), "/.json");
    }

    #[test]
    fn urls_name_a_server_and_nothing_more() {
        let check = |url, expected: Result<&str, &str>| match (Server::at(url), expected) {
            (Ok(got), Ok(want)) => assert_eq!(got.url, want),
            (Err(got), Err(part)) => assert!(got.exit == Exit::Usage && got.to_string().contains(part), "{got}"),
            (got, _) => panic!("{url}: {got:?}"),
        };
        check("http://127.0.0.1:9000", Ok("http://127.0.0.1:9000"));
        check("http://[::1]:9000/", Ok("http://[::1]:9000"));
        check("unix:/run/standpipe.sock", Ok("unix:/run/standpipe.sock"));
        check("unix:", Err("no server's URL"));
        check("https://h", Ok("https://h"));
        check("https://h/a", Err("path"));
        check("ftp://h", Err("https://"));
        check("127.0.0.1:9000", Err("http://HOST:PORT"));
        check("http://h/a.json", Err("a path"));
        check("http://h/?ns=x", Err("--db"));
        check("", Err("no server's URL"));
    }

    #[test]
    fn credentials_come_from_a_file_before_a_variable() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from-file\n").unwrap();
        let authorization = |access: &AccessArgs| authorization(access, &Server::at("http://192.0.2.1:9000").unwrap());
        let both = AccessArgs { token: Some("t".into()), token_file: Some(file.path().into()), ..access() };
        assert_eq!(authorization(&both).unwrap().unwrap(), "Bearer from-file");
        let one = AccessArgs { token: Some("t".into()), ..access() };
        assert_eq!(authorization(&one).unwrap().unwrap(), "Bearer t");
        assert_eq!(authorization(&access()).unwrap(), None);
        let broken = AccessArgs { token: Some("a\nb".into()), ..access() };
        assert_eq!(authorization(&broken).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn refusals_become_failures() {
        let check = |status: u16, header: Option<(&str, &str)>, body: &str, exit, parts: &[&str]| {
            let mut headers = HeaderMap::new();
            if let Some((name, value)) = header {
                headers.insert(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
            }
            let got = refusal(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes());
            assert_eq!(got.exit, exit, "{got}");
            parts.iter().for_each(|part| assert!(got.to_string().contains(part), "{part:?} is not in {got}"));
        };
        check(
            401,
            None,
            r#"{"error":"Permission denied"}"#,
            Exit::Denied,
            &["error: Permission denied", "--token-file"],
        );
        check(404, None, r#"{"error":"404 Not Found"}"#, Exit::Denied, &["--db"]);
        check(412, Some(("etag", "abc")), "{\"error\":1}", Exit::Denied, &["its ETag is abc", "standpipe get"]);
        let unparsed = r#"{"error":"Invalid data; couldn't parse JSON object, array, or value."}"#;
        check(400, None, unparsed, Exit::Failed, &["Invalid data", "quotes"]);
        check(413, None, "", Exit::Failed, &["answered 413", "standpipe import"]);
        check(500, None, "<html>", Exit::Failed, &["answered 500"]);
        let busy = |header| {
            let mut headers = HeaderMap::new();
            headers.extend(header);
            refusal(StatusCode::SERVICE_UNAVAILABLE, &headers, b"").retry_after
        };
        assert_eq!(busy(Some((header::RETRY_AFTER, 7.into()))), Some(Duration::from_secs(7)));
        assert_eq!(busy(None), Some(Duration::from_secs(1)));
    }
}
