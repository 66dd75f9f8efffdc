//! TLS: certificates that can be exchanged while the server runs, the handshake under its deadline, and
//! the byte stream after it. Where certificates come from, and which listener has them, is the binary's.
//!
//! A door writes and seldom flushes, while TLS may hold the last record of a write. So [`TlsConn`] flushes
//! by itself: what the socket does not take is tried again by the next write, and by every read, which a door
//! has always pending.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::{CloseReason, Conn, ConnIo, Refusal, Session};

/// Ciphertext that one connection may hold back before the door has to wait.
const BUFFER_BYTES_MAX: usize = 32 << 10;

/// First byte of a TLS connection: a record of type handshake (RFC 8446 §5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// What makes a server known to its clients, in PEM.
#[derive(Clone)]
pub struct TlsFiles {
    /// Its certificate, then those that lead to a root, each signed by the next.
    pub certificates: Vec<u8>,
    /// The private key of the first certificate (PKCS #8, PKCS #1 or SEC 1).
    pub key: Vec<u8>,
    /// Certificates of authorities; who connects must show one that they signed.
    pub client_authorities: Option<Vec<u8>>,
    /// With `client_authorities`: who shows none is let in all the same.
    pub clients_optional: bool,
}

impl fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsFiles")
    }
}

/// Why certificates can't be used; the text says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file holds nothing of its kind.
    #[error("{what}: {cause}")]
    Pem {
        /// Which file it should be.
        what: &'static str,
        /// What is wrong with it.
        cause: String,
    },
    /// The parts do not fit each other, or can't be used.
    #[error("the certificate and its key can't be used: {0}")]
    Refused(String),
}

/// The certificates in force, shared by listeners; an exchange is seen by the next handshake.
pub struct Tls(ArcSwap<ServerConfig>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn new(files: &TlsFiles) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self(ArcSwap::new(config(files)?))))
    }

    /// Other certificates from the next handshake on; open connections keep theirs.
    ///
    /// # Errors
    /// See [`TlsError`]; the old ones stay.
    pub fn reload(&self, files: &TlsFiles) -> Result<(), TlsError> {
        self.0.store(config(files)?);
        Ok(())
    }
}

fn config(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let refused = |error: &dyn fmt::Display| TlsError::Refused(error.to_string());
    let certificates = certificates(&files.certificates, "certificate file")?;
    let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(|error| TlsError::Pem {
        what: "key file",
        cause: format!("{error}: it must hold the private key in PEM (BEGIN PRIVATE KEY), without a password"),
    })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(&error))?;
    let builder = match &files.client_authorities {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let mut roots = RootCertStore::empty();
            for authority in self::certificates(authorities, "client authorities file")? {
                roots.add(authority).map_err(|error| refused(&error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if files.clients_optional { verifier.allow_unauthenticated() } else { verifier };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| refused(&error))?)
        }
    };
    let mut config = builder.with_single_cert(certificates, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            TlsError::Refused("the key is not the one of the certificate: name the two that belong together".into())
        }
        error => refused(&error),
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Resumption without memory on this side: the client keeps the ticket.
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| refused(&error))?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(TlsError::Pem { what, cause: "it holds no certificate in PEM (BEGIN CERTIFICATE)".into() }),
        Err(error) => Err(TlsError::Pem { what, cause: error.to_string() }),
    }
}

/// What came of a handshake.
pub(crate) enum Shaken {
    /// A connection to serve.
    Conn(Conn),
    /// A peer that speaks without TLS; it can be told.
    Plain(Conn, Refusal),
    /// Nothing to go on with.
    Failed(CloseReason),
}

/// Makes a TLS connection of an accepted one.
pub(crate) async fn handshake(mut conn: Conn, tls: Arc<Tls>, session: &Session) -> Shaken {
    let ConnIo::Tcp(stream) = conn.io else { return Shaken::Conn(conn) };
    let patience = Duration::from_millis(session.limits().tls_handshake_ms_max);
    let shaken = async {
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(1..) if first[0] == HANDSHAKE_RECORD => {}
            Ok(1..) => return Ok(Err(stream)),
            Ok(0) => return Err(CloseReason::PeerClosed),
            Err(_) => return Err(CloseReason::PeerVanished),
        }
        let acceptor = TlsAcceptor::from(tls.0.load_full());
        let accept = acceptor.accept_with(stream, |tls| tls.set_buffer_limit(Some(BUFFER_BYTES_MAX)));
        accept.await.map(Ok).map_err(|error| {
            tracing::debug!(peer = %session.peer(), %error, "TLS handshake failed");
            CloseReason::HandshakeFailed
        })
    };
    let shaken = tokio::select! {
        biased;
        shaken = timeout(patience, shaken) => shaken.unwrap_or(Err(CloseReason::HandshakeFailed)),
        () = session.closing() => Err(CloseReason::Shutdown),
    };
    match shaken {
        Ok(Ok(stream)) => {
            conn.io = ConnIo::Tls(Box::new(TlsConn { stream, held: false }));
            Shaken::Conn(conn)
        }
        Ok(Err(plain)) => {
            conn.io = ConnIo::Tcp(plain);
            Shaken::Plain(conn, session.refused(Refusal::Plaintext))
        }
        Err(reason) => Shaken::Failed(reason),
    }
}

/// A connection after its handshake.
pub struct TlsConn {
    stream: TlsStream<TcpStream>,
    /// The socket has not taken all of the last write.
    held: bool,
}

impl fmt::Debug for TlsConn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsConn({:?})", self.stream.get_ref().0)
    }
}

impl TlsConn {
    /// The socket below.
    #[cfg(target_os = "linux")]
    pub(crate) fn socket(&self) -> &TcpStream {
        self.stream.get_ref().0
    }

    /// Waits until there is something to read or the peer has left.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        let (socket, tls) = self.stream.get_ref();
        // What is decrypted already makes no socket readable.
        if tls.wants_read() { socket.readable().await } else { Ok(()) }
    }

    fn flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.held = flushed.is_pending();
        flushed
    }

    /// After a write: pushes on what it left, without waiting for it.
    fn written(&mut self, context: &mut Context<'_>, bytes: usize) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Err(error)) = self.flush(context) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(bytes))
    }
}

impl AsyncRead for TlsConn {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.held
            && let Poll::Ready(Err(error)) = self.flush(context)
        {
            return Poll::Ready(Err(error));
        }
        match ready!(Pin::new(&mut self.stream).poll_read(context, buf)) {
            // The peer left without a goodbye, as many do; each protocol of ours knows where its messages end.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            read => Poll::Ready(read),
        }
    }
}

impl AsyncWrite for TlsConn {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.held {
            ready!(self.flush(context))?;
        }
        let bytes = ready!(Pin::new(&mut self.stream).poll_write(context, buf))?;
        self.written(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.held {
            ready!(self.flush(context))?;
        }
        let bytes = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, bufs))?;
        self.written(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
