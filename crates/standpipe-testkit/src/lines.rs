//! A client of lines over TCP or a Unix socket: it sends bytes as they are and gives back lines. What
//! they mean is the test's.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::LIMIT;

/// A connection.
#[derive(Debug)]
pub struct Lines {
    socket: Socket,
    /// Received and not yet taken.
    buffer: Vec<u8>,
    /// Bytes of the buffer that hold no line's end.
    looked: usize,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Lines {
    /// Connects to `HOST:PORT`, or to the path of a Unix socket, which has a slash.
    ///
    /// # Errors
    /// The server can't be reached.
    pub fn open(at: &str) -> Result<Self> {
        let socket = match at.contains('/') {
            #[cfg(unix)]
            true => Socket::Unix(UnixStream::connect(at)?),
            _ => Socket::Tcp(TcpStream::connect(at)?),
        };
        match &socket {
            Socket::Tcp(tcp) => {
                tcp.set_nodelay(true)?;
                tcp.set_write_timeout(Some(LIMIT))?;
            }
            #[cfg(unix)]
            Socket::Unix(unix) => unix.set_write_timeout(Some(LIMIT))?,
        }
        Ok(Self { socket, buffer: Vec::new(), looked: 0 })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The peer is gone or does not read.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        let bytes = bytes.as_ref();
        Ok(match &mut self.socket {
            Socket::Tcp(tcp) => tcp.write_all(bytes),
            #[cfg(unix)]
            Socket::Unix(unix) => unix.write_all(bytes),
        }?)
    }

    /// Sends a line and reads one.
    ///
    /// # Errors
    /// As [`Self::send`] and [`Self::line`].
    pub fn ask(&mut self, line: &str) -> Result<String> {
        self.send(format!("{line}\n"))?;
        self.line()
    }

    /// The next line, without its end.
    ///
    /// # Errors
    /// None came in time, or the peer has closed.
    pub fn line(&mut self) -> Result<String> {
        self.line_within(LIMIT)?.context("no line in time")
    }

    /// The next line; `None` when it has not come within `limit`.
    ///
    /// # Errors
    /// The peer has closed.
    pub fn line_within(&mut self, limit: Duration) -> Result<Option<String>> {
        let end = Instant::now() + limit;
        loop {
            if let Some(at) = self.buffer[self.looked..].iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=self.looked + at).collect();
                self.looked = 0;
                return Ok(Some(String::from_utf8(line)?.trim_end_matches('\n').to_owned()));
            }
            self.looked = self.buffer.len();
            match self.receive(end)? {
                Some(0) => bail!("closed after {:?}", String::from_utf8_lossy(&self.buffer)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// Everything up to the peer's end.
    ///
    /// # Errors
    /// It did not close in time, or it is no text.
    pub fn rest(&mut self) -> Result<String> {
        Ok(String::from_utf8(self.rest_bytes()?)?)
    }

    /// Everything up to the peer's end, whatever it is.
    ///
    /// # Errors
    /// It did not close in time.
    pub fn rest_bytes(&mut self) -> Result<Vec<u8>> {
        let end = Instant::now() + LIMIT;
        while self.receive(end)?.context("not closed in time")? > 0 {}
        self.looked = 0;
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Says that nothing more is sent.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn finish(&self) -> Result<()> {
        Ok(match &self.socket {
            Socket::Tcp(tcp) => tcp.shutdown(Shutdown::Write),
            #[cfg(unix)]
            Socket::Unix(unix) => unix.shutdown(Shutdown::Write),
        }?)
    }

    /// Bytes received, 0 at the peer's end; `None` at the time `end`. A reset is an end too.
    fn receive(&mut self, end: Instant) -> Result<Option<usize>> {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let mut chunk = [0; 64 << 10];
        let read = match &mut self.socket {
            Socket::Tcp(tcp) => tcp.set_read_timeout(Some(left)).and_then(|()| tcp.read(&mut chunk)),
            #[cfg(unix)]
            Socket::Unix(unix) => unix.set_read_timeout(Some(left)).and_then(|()| unix.read(&mut chunk)),
        };
        match read {
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Ok(Some(count))
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(Some(0)),
            Err(error) => Err(error.into()),
        }
    }
}
