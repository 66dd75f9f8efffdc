//! A blocking WebSocket client for exact tests (RFC 6455): it sends frames as a test makes them, right or wrong, and
//! shows what comes back. It joins what the Firebase protocol sends in pieces, and knows nothing else of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::LIMIT;
use crate::http::Conn;

/// A frame without fragments that holds text.
pub const TEXT: u8 = 0x81;
/// A frame that says goodbye.
pub const CLOSE: u8 = 0x88;
/// A frame that wants an answer.
pub const PING: u8 = 0x89;
/// The answer to one.
pub const PONG: u8 = 0x8a;

/// Masks what this client sends; that nobody can foresee it is of no use on a loopback.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A WebSocket, seen from a client.
#[derive(Debug)]
pub struct WebSocket {
    stream: TcpStream,
    /// Received and not yet taken.
    buffer: Vec<u8>,
    limit: Duration,
}

/// The bytes of a frame: its first byte (final bit and opcode), masked as a client's must be.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ ..=125 => bytes.push(0x80 | length as u8),
        length @ ..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

impl WebSocket {
    /// Connects and asks for the WebSocket at `target`.
    ///
    /// # Errors
    /// The server can't be reached, or does not switch.
    pub fn open(addr: SocketAddr, target: &str) -> Result<Self> {
        let mut conn = Conn::open(addr)?;
        let headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let got = conn.request("GET", target, &headers, b"")?;
        ensure!(got.status == 101, "{target}: {} {}", got.status, got.text());
        let accept = got.header("sec-websocket-accept");
        ensure!(accept == Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{accept:?}");
        let (stream, buffer) = conn.into_parts();
        Ok(Self { stream, buffer, limit: LIMIT })
    }

    /// Sets how long each later call may take, in place of [`LIMIT`].
    pub fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// The socket, for half-closing, resetting or stalling it.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The peer is gone or does not read.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Sends a text in one frame.
    ///
    /// # Errors
    /// As [`WebSocket::send`].
    pub fn text(&mut self, text: &str) -> Result<()> {
        self.send(&frame(TEXT, text.as_bytes()))
    }

    /// The next frame: its first byte and its payload.
    ///
    /// # Errors
    /// The peer closed the connection without a frame, or nothing comes in time.
    pub fn frame(&mut self) -> Result<(u8, Vec<u8>)> {
        let end = Instant::now() + self.limit;
        let [first, second] = self.take(2, end)?[..] else { bail!("two bytes are two") };
        ensure!(second & 0x80 == 0, "a server does not mask");
        let length = match second {
            126 => u64::from(u16::from_be_bytes(self.take(2, end)?[..].try_into()?)),
            127 => u64::from_be_bytes(self.take(8, end)?[..].try_into()?),
            short => short.into(),
        };
        Ok((first, self.take(length.try_into()?, end)?))
    }

    /// The next message, joined from its pieces; pings are answered, pongs left out.
    ///
    /// # Errors
    /// A goodbye comes instead (the error says its code and words), nothing in time, or what is no message.
    pub fn message(&mut self) -> Result<String> {
        let (mut left, mut text) = (0_usize, String::new());
        loop {
            let (first, payload) = self.frame()?;
            match first {
                TEXT => {}
                PING => {
                    self.send(&frame(PONG, &payload))?;
                    continue;
                }
                PONG => continue,
                CLOSE => {
                    let (code, words) = goodbye(&payload)?;
                    bail!("closed with {code}: {words}");
                }
                other => bail!("a frame that begins with {other:#x}"),
            }
            let piece = String::from_utf8(payload)?;
            let count = piece.len() <= 6 && !piece.is_empty() && piece.bytes().all(|byte| byte.is_ascii_digit());
            if left == 0 && count {
                left = piece.parse()?;
                continue;
            }
            text += &piece;
            left = left.saturating_sub(1);
            if left == 0 {
                return Ok(text);
            }
        }
    }

    /// [`WebSocket::message`] as JSON.
    ///
    /// # Errors
    /// As there, or it is none.
    pub fn json(&mut self) -> Result<serde_json::Value> {
        let message = self.message()?;
        serde_json::from_str(&message).with_context(|| message)
    }

    /// Reads to the server's goodbye, and to the end of the connection after it: the code, and why.
    ///
    /// # Errors
    /// The connection ends without one, or does not end in time.
    pub fn closed(&mut self) -> Result<(u16, String)> {
        loop {
            let (first, payload) = self.frame()?;
            if first == CLOSE {
                let end = Instant::now() + self.limit;
                while self.receive(end)? {}
                return goodbye(&payload);
            }
        }
    }

    fn take(&mut self, count: usize, end: Instant) -> Result<Vec<u8>> {
        while self.buffer.len() < count {
            ensure!(self.receive(end)?, "the connection ended");
        }
        let rest = self.buffer.split_off(count);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn receive(&mut self, end: Instant) -> Result<bool> {
        let left = end.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "nothing in time");
        self.stream.set_read_timeout(Some(left))?;
        let mut bytes = vec![0; 64 << 10];
        let count = match self.stream.read(&mut bytes) {
            Ok(count) => count,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                bail!("nothing in time")
            }
            Err(error) => return Err(error.into()),
        };
        self.buffer.extend_from_slice(&bytes[..count]);
        Ok(count > 0)
    }
}

fn goodbye(payload: &[u8]) -> Result<(u16, String)> {
    match payload {
        [] => Ok((1005, String::new())),
        [high, low, words @ ..] => Ok((u16::from_be_bytes([*high, *low]), String::from_utf8(words.to_vec())?)),
        [_] => bail!("half a code"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_lengths_of_the_standard() {
        let check = |length: usize, head: &[u8]| {
            let bytes = frame(TEXT, &vec![b'a'; length]);
            assert_eq!(&bytes[..head.len()], head, "{length}");
            assert_eq!(bytes.len(), head.len() + 4 + length);
        };
        check(0, &[0x81, 0x80]);
        check(125, &[0x81, 0xfd]);
        check(126, &[0x81, 0xfe, 0, 126]);
        check(0xffff, &[0x81, 0xfe, 0xff, 0xff]);
        check(0x1_0000, &[0x81, 0xff, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
