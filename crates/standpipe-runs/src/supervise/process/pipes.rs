//! The pipes, or the terminal, between a process and us.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut as _, BytesMut};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use standpipe_engine::Channel;
use tokio::io::AsyncWrite;
use tokio::net::unix::pipe;

use super::super::launch::{Source, Spec};
use super::super::output::PIPE_BYTES;
use crate::command::PtySize;

/// End of transmission: what a terminal's line discipline takes for the end of input at the beginning of a line.
const END_OF_INPUT: u8 = 4;

/// Both ends of all of them.
pub(super) struct Pipes {
    /// What the process gets as input, output and errors.
    pub(super) theirs: [OwnedFd; 3],
    pub(super) has_terminal: bool,
    input: Option<OwnedFd>,
    output: Vec<(Channel, OwnedFd)>,
}

impl Pipes {
    /// # Errors
    /// No more descriptors or terminals.
    pub(super) fn open(spec: &Spec) -> io::Result<Self> {
        match spec.pty {
            Some(size) => Self::terminal(spec, size),
            None => Self::plain(spec),
        }
    }

    fn plain(spec: &Spec) -> io::Result<Self> {
        let (their_input, input) = if spec.input {
            let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&write, true)?;
            (read, Some(write))
        } else {
            (nothing()?, None)
        };
        let (out, their_out) = output()?;
        let (err, their_err) = output()?;
        let output = vec![(Channel::Out, out), (Channel::Err, err)];
        Ok(Self { theirs: [their_input, their_out, their_err], has_terminal: false, input, output })
    }

    fn terminal(spec: &Spec, size: PtySize) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = rustix::pty::openpt(flags)?;
        rustix::pty::unlockpt(&ours)?;
        rustix::termios::tcsetwinsize(
            &ours,
            Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 },
        )?;
        let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let their_input = if spec.input { theirs.try_clone()? } else { nothing()? };
        let input = if spec.input { Some(ours.try_clone()?) } else { None };
        let theirs = [their_input, theirs.try_clone()?, theirs];
        Ok(Self { theirs, has_terminal: true, input, output: vec![(Channel::Out, ours)] })
    }

    /// Our ends, registered with the runtime; theirs are closed.
    ///
    /// # Errors
    /// The runtime takes no more.
    pub(super) fn ours(self) -> io::Result<Ours> {
        let input = self.input.map(|input| {
            Ok::<_, io::Error>(Input {
                pipe: pipe::Sender::from_owned_fd_unchecked(input)?,
                is_terminal: self.has_terminal,
                at_line_start: true,
            })
        });
        let source = |(channel, fd)| {
            let source = Pipe { pipe: pipe::Receiver::from_owned_fd_unchecked(fd)?, is_terminal: self.has_terminal };
            Ok::<_, io::Error>((channel, Box::new(source) as Box<dyn Source>))
        };
        let output = self.output.into_iter().map(source).collect::<Result<_, _>>()?;
        let input = input.transpose()?.map(|input| Box::new(input) as Box<dyn AsyncWrite + Send + Unpin>);
        Ok(Ours { input, output })
    }
}

/// Our ends.
pub(super) struct Ours {
    pub(super) input: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub(super) output: Vec<(Channel, Box<dyn Source>)>,
}

/// Reads as end-of-file, and takes everything.
pub(super) fn nothing() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// A pipe for output, our end first. It holds much, so that a process that writes fast seldom waits; where the system
/// does not allow that, it holds what it holds.
fn output() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let _smaller = rustix::pipe::fcntl_setpipe_size(&read, PIPE_BYTES);
    rustix::io::ioctl_fionbio(&read, true)?;
    Ok((read, write))
}

/// The reading end of a pipe or a terminal.
struct Pipe {
    pipe: pipe::Receiver,
    is_terminal: bool,
}

impl Source for Pipe {
    fn ready(&mut self) -> BoxFuture<'_, io::Result<()>> {
        self.pipe.readable().boxed()
    }

    fn read(&mut self, buffer: &mut BytesMut, bytes_max: usize) -> io::Result<usize> {
        buffer.reserve(bytes_max);
        match self.pipe.try_read_buf(&mut buffer.limit(bytes_max)) {
            // Nobody has the other side of the terminal any more.
            Err(error) if self.is_terminal && Errno::from_io_error(&error) == Some(Errno::IO) => Ok(0),
            read => read,
        }
    }
}

/// The writing end of a process' input. To shut it down says "end of input", which a terminal is told by a character.
struct Input {
    pipe: pipe::Sender,
    is_terminal: bool,
    at_line_start: bool,
}

impl AsyncWrite for Input {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.pipe).poll_write(cx, bytes))?;
        if let Some(last) = written.checked_sub(1).and_then(|last| bytes.get(last)) {
            self.at_line_start = *last == b'\n';
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Within a line the first one only hands over what there is of it.
        while self.is_terminal {
            std::task::ready!(Pin::new(&mut self.pipe).poll_write(cx, &[END_OF_INPUT]))?;
            self.is_terminal = !std::mem::replace(&mut self.at_line_start, true);
        }
        Poll::Ready(Ok(()))
    }
}
