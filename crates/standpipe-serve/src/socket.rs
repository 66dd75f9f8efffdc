//! Listening sockets: binding one for each event loop, and an `accept` that goes on whatever the
//! system says. It does not admit or serve.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
#[cfg(unix)]
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::tls::Tls;
use crate::{Conn, ConnIo, Listener, Metrics, Peer};

/// Connections the system keeps for us between two looks.
const BACKLOG: i32 = 1024;

/// First and longest pause after a failure that waiting can heal, such as no free descriptor.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A failing listener says so at most this often.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Why an address can't be listened on; the text says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The text is no address.
    #[error("{text:?} is not an address to listen on: write HOST:PORT, as in 127.0.0.1:9000 ({cause})")]
    Address {
        /// What was given.
        text: String,
        /// What is wrong with it.
        cause: io::Error,
    },
    /// Somebody listens there.
    #[error("{at} is in use by another process: stop it (`ss -ltnp` shows which one it is) or listen elsewhere")]
    InUse {
        /// The address or path.
        at: String,
    },
    /// Not allowed to.
    #[error("no permission to listen on {at}: ports below 1024 and foreign folders need privileges")]
    Permission {
        /// The address or path.
        at: String,
    },
    /// Anything else.
    #[error("can't listen on {at}: {cause}")]
    Other {
        /// The address or path.
        at: String,
        /// What the system said.
        cause: io::Error,
    },
}

impl BindError {
    fn new(at: &dyn ToString, cause: io::Error) -> Self {
        let at = at.to_string();
        match cause.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { at },
            io::ErrorKind::PermissionDenied => Self::Permission { at },
            _ => Self::Other { at, cause },
        }
    }
}

/// A listening socket of one event loop.
#[derive(Debug)]
pub struct SocketListener {
    /// As bound; taken when the event loop that will drive it is known.
    bare: Option<Bare>,
    live: Option<Live>,
    address: Option<SocketAddr>,
    troubles: Troubles,
    tls: Option<Arc<Tls>>,
    #[cfg(unix)]
    _file: Option<Arc<SocketFile>>,
}

#[derive(Debug)]
enum Bare {
    Tcp(std::net::TcpListener),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixListener),
}

#[derive(Debug)]
enum Live {
    Tcp(tokio::net::TcpListener),
    #[cfg(unix)]
    Unix(tokio::net::UnixListener),
}

impl SocketListener {
    /// Listens on `address` (`HOST:PORT`; of a name with several addresses the first one; port 0
    /// picks a free one) with `count` sockets, one for each event loop.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind_tcp(address: &str, count: usize, metrics: &Metrics) -> Result<Vec<Self>, BindError> {
        let cause = |cause| BindError::Address { text: address.to_owned(), cause };
        let none = || io::Error::from(io::ErrorKind::NotFound);
        let wanted = address.to_socket_addrs().and_then(|mut all| all.next().ok_or_else(none)).map_err(cause)?;
        let sockets = tcp_sockets(wanted, count.max(1)).map_err(|cause| BindError::new(&wanted, cause))?;
        Ok(sockets.into_iter().map(|socket| Self::tcp(socket, metrics)).collect())
    }

    fn tcp(socket: std::net::TcpListener, metrics: &Metrics) -> Self {
        Self {
            address: socket.local_addr().ok(),
            bare: Some(Bare::Tcp(socket)),
            live: None,
            troubles: Troubles::new(metrics.clone()),
            tls: None,
            #[cfg(unix)]
            _file: None,
        }
    }

    /// Listens on a Unix socket at `path`, shared by `count` event loops and open to its owner only.
    /// A socket nobody listens on any more is replaced; the file is removed with the last listener.
    ///
    /// # Errors
    /// See [`BindError`].
    #[cfg(unix)]
    pub fn bind_unix(path: &Path, count: usize, metrics: &Metrics) -> Result<Vec<Self>, BindError> {
        let bound = unix_socket(path).and_then(|socket| {
            let file = Arc::new(SocketFile(path.to_owned()));
            let one = |_| {
                Ok(Self {
                    bare: Some(Bare::Unix(socket.try_clone()?)),
                    live: None,
                    address: None,
                    troubles: Troubles::new(metrics.clone()),
                    tls: None,
                    _file: Some(file.clone()),
                })
            };
            (0..count.max(1)).map(one).collect()
        });
        bound.map_err(|cause| BindError::new(&path.display(), cause))
    }

    /// Lets in only who speaks TLS.
    #[must_use]
    pub fn with_tls(mut self, tls: Arc<Tls>) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The address bound, with the port that was picked; `None` for a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }

    async fn try_accept(&mut self) -> io::Result<Conn> {
        if let Some(bare) = &self.bare {
            self.live = Some(bare.register()?);
            self.bare = None;
        }
        match self.live.as_ref().expect("registered above, and never taken") {
            Live::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                let conn = Conn::plain(ConnIo::Tcp(stream), Peer::Ip(address.ip()));
                let secure = conn.secure || self.tls.is_some() || is_own(&conn.io, address.ip());
                Ok(Conn { secure, tls: self.tls.clone(), ..conn })
            }
            #[cfg(unix)]
            Live::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let peer = stream.peer_cred().map_or(Peer::Local, |whose| Peer::User(whose.uid()));
                Ok(Conn::plain(ConnIo::Unix(stream), peer))
            }
        }
    }
}

/// Does the connection come from this machine, by its own address?
fn is_own(io: &ConnIo, peer: IpAddr) -> bool {
    matches!(io, ConnIo::Tcp(stream) if stream.local_addr().is_ok_and(|own| own.ip() == peer))
}

impl Listener for SocketListener {
    async fn accept(&mut self) -> Conn {
        loop {
            match self.try_accept().await {
                Ok(conn) => {
                    self.troubles.over();
                    return conn;
                }
                Err(error) => {
                    if let Some(pause) = self.troubles.happened(&error, Instant::now()) {
                        tokio::time::sleep(pause).await;
                    }
                }
            }
        }
    }
}

impl Bare {
    /// Hands a copy of the socket to the current event loop, so that a failure can be retried.
    fn register(&self) -> io::Result<Live> {
        Ok(match self {
            Self::Tcp(socket) => Live::Tcp(tokio::net::TcpListener::from_std(socket.try_clone()?)?),
            #[cfg(unix)]
            Self::Unix(socket) => Live::Unix(tokio::net::UnixListener::from_std(socket.try_clone()?)?),
        })
    }
}

/// What went wrong lately at one listener.
#[derive(Debug)]
struct Troubles {
    metrics: Metrics,
    pause: Duration,
    logged_at: Option<Instant>,
}

impl Troubles {
    fn new(metrics: Metrics) -> Self {
        Self { metrics, pause: PAUSE_MIN, logged_at: None }
    }

    fn over(&mut self) {
        self.pause = PAUSE_MIN;
    }

    /// Counts and logs a failure of `accept`; gives the pause before the next try, if any.
    fn happened(&mut self, error: &io::Error, now: Instant) -> Option<Duration> {
        self.metrics.accept_failed();
        if concerns_one_connection(error) {
            tracing::debug!(%error, "a connection ended before it was accepted");
            return None;
        }
        if self.logged_at.is_none_or(|at| now.saturating_duration_since(at) >= LOG_EVERY) {
            self.logged_at = Some(now);
            tracing::warn!(%error, "accept failed; connections wait, trying again");
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        Some(pause)
    }
}

/// Failures of the connection that was about to be accepted, not of the listener.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::Interrupted
            | Kind::TimedOut
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable
            | Kind::NetworkDown
    )
}

/// One socket for each event loop, so that the kernel spreads connections over them.
#[cfg(target_os = "linux")]
fn tcp_sockets(wanted: SocketAddr, count: usize) -> io::Result<Vec<std::net::TcpListener>> {
    if wanted.port() != 0 {
        // Sharing a port is also sharing it with strangers of the same user: a probe that does not
        // share finds them.
        tcp_socket(wanted, false)?;
    }
    let first = tcp_socket(wanted, true)?;
    let address = first.local_addr()?;
    let others = (1..count).map(|_| tcp_socket(address, true));
    std::iter::once(Ok(first)).chain(others).collect()
}

#[cfg(not(target_os = "linux"))]
fn tcp_sockets(wanted: SocketAddr, count: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let first = tcp_socket(wanted, false)?;
    (0..count).map(|_| first.try_clone()).collect()
}

fn tcp_socket(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the last life's connections to be forgotten.
    socket.set_reuse_address(true)?;
    #[cfg(target_os = "linux")]
    socket.set_reuse_port(shared)?;
    #[cfg(not(target_os = "linux"))]
    debug_assert!(!shared, "sockets are only shared where the kernel spreads connections");
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(unix)]
fn unix_socket(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    remove_dead_socket(path)?;
    let socket = std::os::unix::net::UnixListener::bind(path)?;
    // Who else may come in is for the operator to say, not for the umask.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Removes a socket that a killed process left; never anything else.
#[cfg(unix)]
fn remove_dead_socket(path: &Path) -> io::Result<()> {
    use std::os::unix::{fs::FileTypeExt as _, net::UnixStream};
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // Connecting to an ordinary file is refused just like to a dead socket.
        Ok(found) if !found.file_type().is_socket() => return Err(io::ErrorKind::AlreadyExists.into()),
        found => found.map(drop)?,
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// The file of a Unix socket; dropping the last owner removes it.
#[cfg(unix)]
#[derive(Debug)]
struct SocketFile(PathBuf);

#[cfg(unix)]
impl Drop for SocketFile {
    fn drop(&mut self) {
        let _gone_already = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn troubles_are_told_seldom_and_paused_for_longer_and_longer() {
        let metrics = Metrics::default();
        let mut troubles = Troubles::new(metrics.clone());
        let now = Instant::now();
        let mut check = |code: i32, expected: &[u64]| {
            for &pause in expected {
                let expected = (pause > 0).then(|| Duration::from_millis(pause));
                assert_eq!(troubles.happened(&io::Error::from_raw_os_error(code), now), expected, "{code}");
            }
        };
        let (no_descriptors, connection_aborted) = (24, 103);
        check(no_descriptors, &[5, 10]);
        check(connection_aborted, &[0, 0]);
        check(no_descriptors, &[20, 40, 80, 160, 320, 640, 1_000, 1_000]);
        assert_eq!((troubles.logged_at, metrics.snapshot().accept_errors), (Some(now), 12));
        troubles.over();
        let later = now + LOG_EVERY;
        assert_eq!(troubles.happened(&io::Error::from_raw_os_error(no_descriptors), later), Some(PAUSE_MIN));
        assert_eq!(troubles.logged_at, Some(later));
    }
}
