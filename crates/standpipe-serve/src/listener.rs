//! Where connections come from, and the byte stream they are. Binding and the failures of `accept`
//! are in `socket.rs`; protocols are the doors'.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use crate::Limits;
use crate::stdio::StdioConn;
use crate::tls::{Tls, TlsConn};
#[cfg(target_os = "linux")]
use crate::{fifo::FifoConn, lease_file::LeaseConn};

/// A source of connections.
pub trait Listener: Send {
    /// The next connection. Never fails: it logs, counts, backs off and tries again. May be
    /// dropped at any await without losing a connection.
    fn accept(&mut self) -> impl Future<Output = Conn> + Send;
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A network address.
    Ip(IpAddr),
    /// A process on this machine, over a pipe, or over a Unix socket of a system that does not tell whose it is.
    Local,
    /// A process of this user of this machine (its effective uid when it connected), over a Unix socket.
    User(u32),
}

impl Peer {
    /// A process on this machine: a loopback address, a Unix socket or a pipe.
    pub fn is_local(self) -> bool {
        match self {
            Self::Ip(address) => address.to_canonical().is_loopback(),
            Self::Local | Self::User(_) => true,
        }
    }

    /// What counts as one peer for limits: an IPv4 address, or the /64 that an IPv6 host is given; `None` for a local one.
    pub fn counted_as(self) -> Option<IpAddr> {
        crate::admission::peer_key(self)
    }

    /// A process of the user whose process this is, over a Unix socket.
    pub fn is_own_user(self) -> bool {
        #[cfg(unix)]
        return matches!(self, Self::User(uid) if uid == rustix::process::geteuid().as_raw());
        #[cfg(not(unix))]
        return false;
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Local | Self::User(_) => f.write_str("local"),
        }
    }
}

/// An accepted connection.
#[derive(Debug)]
pub struct Conn {
    /// Its byte stream.
    pub io: ConnIo,
    /// Who is at the other end.
    pub peer: Peer,
    /// Nobody between the two ends can read along: see [`Session::secure`](crate::Session::secure).
    pub secure: bool,
    /// The certificates of a TLS handshake that is to come.
    pub(crate) tls: Option<Arc<Tls>>,
}

impl Conn {
    /// A connection without encryption of its own: secure when it does not leave this machine.
    pub fn plain(io: ConnIo, peer: Peer) -> Self {
        Self { io, peer, secure: peer.is_local(), tls: None }
    }
}

/// The byte stream of a connection.
#[derive(Debug)]
pub enum ConnIo {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    #[cfg(unix)]
    Unix(UnixStream),
    /// TLS over TCP, after the handshake.
    Tls(Box<TlsConn>),
    /// Standard input and output.
    Stdio(Box<StdioConn>),
    /// A reader of a named pipe. In boxes, for idle sockets should not pay for the room.
    #[cfg(target_os = "linux")]
    Fifo(Box<FifoConn>),
    /// The readers of one generation of a lease-backed file.
    #[cfg(target_os = "linux")]
    LeaseFile(Box<LeaseConn>),
}

/// One expression for whichever stream it is.
macro_rules! each {
    ($io:expr, $stream:ident => $does:expr) => {
        match $io {
            ConnIo::Tcp($stream) => $does,
            #[cfg(unix)]
            ConnIo::Unix($stream) => $does,
            ConnIo::Tls($stream) => $does,
            ConnIo::Stdio($stream) => $does,
            #[cfg(target_os = "linux")]
            ConnIo::Fifo($stream) => $does,
            #[cfg(target_os = "linux")]
            ConnIo::LeaseFile($stream) => $does,
        }
    };
}

impl ConnIo {
    /// Waits, without a buffer, until there is something to read or the peer has left.
    ///
    /// # Errors
    /// What the system says about the socket.
    pub async fn readable(&self) -> io::Result<()> {
        each!(self, stream => stream.readable().await)
    }

    /// Whether the peer has the stream to itself: what two readers of one pipe have not. Ask before the first
    /// byte.
    pub async fn is_exclusive(&self) -> bool {
        match self {
            #[cfg(target_os = "linux")]
            Self::Fifo(pipe) => pipe.is_exclusive().await,
            _ => true,
        }
    }

    /// Tells how many bytes are to be written in all.
    pub fn expect(&self, bytes: usize) {
        #[cfg(target_os = "linux")]
        if let Self::Fifo(pipe) = self {
            pipe.expect(bytes);
        }
        #[cfg(not(target_os = "linux"))]
        let _only_pipes_care = bytes;
    }

    /// A peer that does not acknowledge for so long is taken for one that vanished.
    pub fn unheard_for(&self, patience: Duration) {
        #[cfg(target_os = "linux")]
        {
            let socket = match self {
                Self::Tcp(stream) => Some(socket2::SockRef::from(stream)),
                Self::Tls(stream) => Some(socket2::SockRef::from(stream.socket())),
                _ => None,
            };
            if let Some(Err(error)) = socket.map(|socket| socket.set_tcp_user_timeout(Some(patience))) {
                tracing::debug!(%error, "socket options");
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _the_system_decides = patience;
    }

    /// Sends small answers at once, and notices a peer that vanished (spec serving §1).
    pub(crate) fn tune(&self, limits: &Limits) {
        let ConnIo::Tcp(stream) = self else { return };
        let socket = socket2::SockRef::from(stream);
        let silence = Duration::from_millis(limits.tcp_keepalive_ms).max(Duration::from_secs(1));
        let keepalive = socket2::TcpKeepalive::new().with_time(silence).with_interval(silence);
        let tuned = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive));
        // Twice the time a door gives, for the door should be the one that notices who is only slow.
        #[cfg(target_os = "linux")]
        let unheard = Duration::from_millis(limits.write_progress_ms_max.saturating_mul(2));
        #[cfg(target_os = "linux")]
        let tuned = tuned.and_then(|()| socket.set_tcp_user_timeout(Some(unheard)));
        // Fails when the peer has left already, which the door finds out by itself.
        if let Err(error) = tuned {
            tracing::debug!(%error, "socket options");
        }
    }
}

impl AsyncRead for ConnIo {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(context, buf))
    }
}

impl AsyncWrite for ConnIo {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(context, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(context, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(context))
    }
}
