//! One connection to the server, for requests that must go over the same one: what is tied to a
//! connection, and the event stream by which both ends notice that the other has gone.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{ANSWER_MAX, CONNECT_MAX, Client, SILENCE_MAX, accepted, header_value};
use crate::client::Call;
use crate::exit::Result;

impl Client {
    /// A connection of its own, for requests that must go over the same one.
    ///
    /// # Errors
    /// As [`crate::client::Target::call`].
    pub(in crate::client) async fn connect(&self) -> Result<Connection<'_>> {
        let host = header_value("the URL", self.server.base.split_once("://").map_or("", |(_, authority)| authority))?;
        #[cfg(unix)]
        if let Some(path) = &self.server.socket {
            let stream = timeout(CONNECT_MAX, tokio::net::UnixStream::connect(path)).await;
            let stream = stream.map_err(|_| self.silent())?.map_err(|error| self.unreachable(&error, true))?;
            return Ok(Connection { client: self, sender: self.handshake(stream).await?, host });
        }
        let stream = timeout(CONNECT_MAX, self.tcp()).await;
        let stream = stream.map_err(|_| self.silent())?.map_err(|error| self.unreachable(&error, true))?;
        let sender = match self.server.is_https() {
            false => self.handshake(stream).await?,
            true => {
                let uri: Uri = self.server.base.parse().expect("base made the URL");
                let name = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                let name = ServerName::try_from(name).map_err(|error| self.unreachable(&error, false))?;
                let shaken = timeout(CONNECT_MAX, TlsConnector::from(self.tls.clone()).connect(name, stream)).await;
                let stream = shaken.map_err(|_| self.silent())?.map_err(|error| self.unreachable(&error, false))?;
                self.handshake(stream).await?
            }
        };
        Ok(Connection { client: self, sender, host })
    }

    async fn tcp(&self) -> std::io::Result<TcpStream> {
        let uri: Uri = self.server.base.parse().expect("base made the URL");
        let (host, port) =
            (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(if self.server.is_https() { 443 } else { 80 }));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        TcpStream::connect((host, port)).await
    }

    async fn handshake<S>(&self, stream: S) -> Result<http1::SendRequest<Full<Bytes>>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.unreachable(&error, false))?;
        // Ends with the requests and their answers.
        tokio::spawn(driver);
        Ok(sender)
    }
}

/// One connection; see [`Client::connect`].
pub(in crate::client) struct Connection<'c> {
    client: &'c Client,
    sender: http1::SendRequest<Full<Bytes>>,
    host: header::HeaderValue,
}

impl Connection<'_> {
    /// Makes the call; the answer's body is all there is to read.
    pub(in crate::client) async fn call(&mut self, call: &Call) -> Result<Vec<u8>> {
        let request = self.client.call_request(call)?;
        let response = self.send(request, ANSWER_MAX).await?;
        let mut body = Vec::new();
        self.client.copy(response, &mut body).await?;
        Ok(body)
    }

    /// The last thing on this connection: the event stream of a path.
    pub(in crate::client) async fn into_stream(mut self, path: &str) -> Result<Incoming> {
        let request = self.client.stream_request(path, None)?;
        let response = self.send(request, SILENCE_MAX).await?;
        self.client.event_stream(response)
    }

    pub(super) async fn send(
        &mut self,
        mut request: Request<Full<Bytes>>,
        answer_max: Duration,
    ) -> Result<Response<Incoming>> {
        request.headers_mut().insert(header::HOST, self.host.clone());
        // Over a connection the target is the path alone.
        *request.uri_mut() =
            request.uri().path_and_query().map_or_else(|| Uri::from_static("/"), |target| Uri::from(target.clone()));
        let sent = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        let response = timeout(answer_max, sent).await.map_err(|_| self.client.silent())?;
        accepted(response.map_err(|error| self.client.unreachable(&error, false))?).await
    }
}
