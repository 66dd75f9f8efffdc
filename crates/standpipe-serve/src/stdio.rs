//! Standard input and output as the one connection of a process. What is spoken on it is a door's; that nothing else is
//! written to standard output is the binary's care.
//!
//! Whether they block is a property of the open file, which others may share. So a pipe is opened anew through `/proc`; anything else is
//! copied by a thread, which a process that ends does not wait for. Only a Unix socket, which is what Node gives its children and keeps no
//! copy of, is made non-blocking as it is.

use std::io;
#[cfg(unix)]
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};
#[cfg(unix)]
use tokio::net::UnixStream;
#[cfg(target_os = "linux")]
use tokio::net::unix::pipe;
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{Conn, ConnIo, Listener, Peer};

/// Bytes on their way between a copying thread and the event loop.
const COPY_BYTES: usize = 64 << 10;

/// The one connection that a process is started with.
#[derive(Debug)]
pub struct StdioListener {
    ended: Option<DropGuard>,
}

/// Tells when the connection has ended.
#[derive(Clone, Debug)]
pub struct StdioEnd(CancellationToken);

impl StdioEnd {
    /// Resolves when the connection has ended.
    pub async fn ended(&self) {
        self.0.cancelled().await;
    }
}

impl StdioListener {
    /// Standard input and output, and who tells of their end. Only one of them may be served in a process.
    pub fn new() -> (Self, StdioEnd) {
        let ended = CancellationToken::new();
        (Self { ended: Some(ended.clone().drop_guard()) }, StdioEnd(ended))
    }
}

impl Listener for StdioListener {
    async fn accept(&mut self) -> Conn {
        match self.ended.take() {
            Some(ended) => {
                let io = StdioConn { input: Input::open(), output: Output::open(), _ended: ended };
                Conn::plain(ConnIo::Stdio(Box::new(io)), own_user())
            }
            None => std::future::pending().await,
        }
    }
}

/// Whoever started the process speaks for the user it runs as.
fn own_user() -> Peer {
    #[cfg(unix)]
    return Peer::User(rustix::process::geteuid().as_raw());
    #[cfg(not(unix))]
    return Peer::Local;
}

/// Standard input and output of the process.
#[derive(Debug)]
pub struct StdioConn {
    input: Input,
    output: Output,
    _ended: DropGuard,
}

#[derive(Debug)]
enum Input {
    #[cfg(target_os = "linux")]
    Pipe(pipe::Receiver),
    #[cfg(unix)]
    Socket(UnixStream),
    Copied(DuplexStream),
}

#[derive(Debug)]
enum Output {
    #[cfg(target_os = "linux")]
    Pipe(pipe::Sender),
    #[cfg(unix)]
    Socket(UnixStream),
    Copied(DuplexStream),
}

impl Input {
    fn open() -> Self {
        #[cfg(target_os = "linux")]
        if let Ok(pipe) = pipe::OpenOptions::new().open_receiver("/proc/self/fd/0") {
            return Self::Pipe(pipe);
        }
        #[cfg(unix)]
        if let Some(socket) = socket(io::stdin()) {
            return Self::Socket(socket);
        }
        let (ours, mut theirs) = tokio::io::duplex(COPY_BYTES);
        copying("stdin", move |runtime| {
            let mut input = io::stdin().lock();
            let mut buf = vec![0; COPY_BYTES];
            loop {
                match io::Read::read(&mut input, &mut buf) {
                    Ok(0) => return,
                    Ok(count) if runtime.block_on(theirs.write_all(&buf[..count])).is_err() => return,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return tracing::debug!(%error, "standard input can't be read"),
                }
            }
        });
        Self::Copied(ours)
    }

    /// Waits, without a buffer, until there is something to read or the input has ended.
    async fn readable(&self) -> io::Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Pipe(pipe) => pipe.readable().await,
            #[cfg(unix)]
            Self::Socket(socket) => socket.readable().await,
            // Its thread has read it already, and a read waits as well as this could.
            Self::Copied(_) => Ok(()),
        }
    }
}

impl Output {
    fn open() -> Self {
        #[cfg(target_os = "linux")]
        if let Ok(pipe) = pipe::OpenOptions::new().open_sender("/proc/self/fd/1") {
            return Self::Pipe(pipe);
        }
        #[cfg(unix)]
        if let Some(socket) = socket(io::stdout()) {
            return Self::Socket(socket);
        }
        let (ours, mut theirs) = tokio::io::duplex(COPY_BYTES);
        copying("stdout", move |runtime| {
            let mut output = io::stdout().lock();
            let mut buf = vec![0; COPY_BYTES];
            loop {
                let count = match runtime.block_on(theirs.read(&mut buf)) {
                    Ok(count) if count > 0 => count,
                    _ => return,
                };
                let written = io::Write::write_all(&mut output, &buf[..count]);
                if let Err(error) = written.and_then(|()| io::Write::flush(&mut output)) {
                    return tracing::debug!(%error, "standard output can't be written");
                }
            }
        });
        Self::Copied(ours)
    }
}

/// A handle of our own to a stream that is a Unix socket.
#[cfg(unix)]
fn socket(stream: impl AsFd) -> Option<UnixStream> {
    let socket = socket2::Socket::from(stream.as_fd().try_clone_to_owned().ok()?);
    if socket.local_addr().ok()?.domain() != socket2::Domain::UNIX {
        return None;
    }
    socket.set_nonblocking(true).ok()?;
    UnixStream::from_std(socket.into()).ok()
}

/// Runs `copy` on a thread of its own. Where there is none to be had its end of the stream is dropped, and the connection ends.
fn copying(name: &str, copy: impl FnOnce(Handle) + Send + 'static) {
    let runtime = Handle::current();
    if let Err(error) = std::thread::Builder::new().name(name.into()).spawn(move || copy(runtime)) {
        tracing::error!(%error, name, "no thread to be had: the stream ends");
    }
}

impl StdioConn {
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.input.readable().await
    }
}

impl AsyncRead for StdioConn {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().input {
            #[cfg(target_os = "linux")]
            Input::Pipe(pipe) => Pin::new(pipe).poll_read(context, buf),
            #[cfg(unix)]
            Input::Socket(socket) => Pin::new(socket).poll_read(context, buf),
            Input::Copied(stream) => Pin::new(stream).poll_read(context, buf),
        }
    }
}

impl AsyncWrite for StdioConn {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().output {
            #[cfg(target_os = "linux")]
            Output::Pipe(pipe) => Pin::new(pipe).poll_write(context, buf),
            #[cfg(unix)]
            Output::Socket(socket) => Pin::new(socket).poll_write(context, buf),
            Output::Copied(stream) => Pin::new(stream).poll_write(context, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().output {
            Output::Copied(stream) => Pin::new(stream).poll_flush(context),
            // What is written there is with the system.
            #[cfg(unix)]
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().output {
            Output::Copied(stream) => Pin::new(stream).poll_shutdown(context),
            #[cfg(unix)]
            _ => Poll::Ready(Ok(())),
        }
    }
}
