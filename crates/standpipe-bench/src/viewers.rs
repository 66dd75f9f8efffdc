//! Viewers of a run: WebSockets that are read as cheaply as can be, for the load must not be what is measured. Frames
//! are counted by their heads; what is in them is looked at only where it is a time.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// Read at once; one buffer for all viewers, so that it stays in the processor's cache.
const BUFFER: usize = 256 << 10;
/// Viewers from one source address, well below the ports of one.
const PER_ADDRESS: u32 = 5_000;

/// Opens a WebSocket, from the source address that is its number's.
///
/// # Errors
/// The server refuses.
pub(crate) async fn attach(addr: SocketAddr, target: &str, number: u32) -> Result<TcpStream> {
    let source = std::net::Ipv4Addr::from_bits(std::net::Ipv4Addr::LOCALHOST.to_bits() + 1 + number / PER_ADDRESS);
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    let mut stream = socket.connect(addr).await?;
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: {addr}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    // Byte by byte: what follows the head are frames.
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    ensure!(head.starts_with("HTTP/1.1 101"), "{target}: {head}");
    Ok(stream)
}

/// Opens many.
///
/// # Errors
/// The server refuses one.
pub(crate) async fn attach_all(addr: SocketAddr, target: &str, count: u32) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::new();
    for number in 0..count {
        streams.push(attach(addr, target, number).await?);
    }
    Ok(streams)
}

/// Reads all to their ends; the messages of each.
///
/// # Errors
/// A connection broke off, or sent what is no frame of a server.
pub(crate) async fn count(streams: Vec<TcpStream>) -> Result<Vec<u64>> {
    let buffer = Rc::new(RefCell::new(vec![0; BUFFER]));
    let mut viewers = JoinSet::new();
    for stream in streams {
        let buffer = Rc::clone(&buffer);
        viewers.spawn_local(async move {
            let mut frames = Frames::default();
            while read(&stream, &buffer, |bytes| frames.pass(bytes)).await? && !frames.closed {}
            // websocketd's last word is the end of the connection; whoever counts knows how many there must be.
            ensure!(
                frames.closed || frames.between(),
                "the stream broke off within a message, after {} messages",
                frames.messages
            );
            Ok(frames.messages)
        });
    }
    let mut counts = Vec::new();
    while let Some(count) = viewers.join_next().await {
        counts.push(count??);
    }
    Ok(counts)
}

/// Takes what has come, in the buffer of all; false at the end of the connection.
async fn read(
    stream: &TcpStream,
    buffer: &RefCell<Vec<u8>>,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<bool> {
    loop {
        stream.readable().await?;
        let mut buffer = buffer.borrow_mut();
        match stream.try_read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => return take(&buffer[..count]).map(|()| true),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Where in the frames a viewer is.
#[derive(Debug, Default)]
struct Frames {
    messages: u64,
    closed: bool,
    /// The head that is not complete, and how much of it is there.
    head: [u8; 10],
    have: usize,
    /// Left of the payload.
    left: usize,
}

impl Frames {
    fn pass(&mut self, mut bytes: &[u8]) -> Result<()> {
        loop {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            let Some((first, rest)) = bytes.split_first() else { return Ok(()) };
            // The usual frame: a short one whose head is all there.
            if let (0, Some(length @ 0..=125)) = (self.have, rest.first()) {
                self.begin(*first, usize::from(*length));
                bytes = &rest[1..];
                continue;
            }
            self.head[self.have] = *first;
            self.have += 1;
            bytes = rest;
            if let Some((first, length)) = self.whole_head()? {
                self.begin(first, length);
                self.have = 0;
            }
        }
    }

    /// Whether what has come ends with a whole frame.
    fn between(&self) -> bool {
        self.left == 0 && self.have == 0
    }

    fn begin(&mut self, first: u8, length: usize) {
        self.left = length;
        match first & 0x0f {
            1 | 2 => self.messages += 1,
            8 => self.closed = true,
            _ => {}
        }
    }

    fn whole_head(&self) -> Result<Option<(u8, usize)>> {
        let head = &self.head[..self.have];
        Ok(match *head {
            [_, length, ..] if length & 0x80 != 0 => bail!("a server does not mask its frames"),
            [first, length @ 0..=125] => Some((first, usize::from(length))),
            [first, 126, a, b] => Some((first, usize::from(u16::from_be_bytes([a, b])))),
            [first, 127, ..] if self.have == 10 => {
                let length = u64::from_be_bytes(head[2..].try_into().expect("ten bytes less two"));
                Some((first, usize::try_from(length)?))
            }
            _ => None,
        })
    }
}

/// Reads all to their ends, messages that are each a time of [`now_ns`]; how long they took to come, in microseconds.
///
/// # Errors
/// A connection broke off.
pub(crate) async fn latency(streams: Vec<TcpStream>, warm_up: Duration) -> Result<Histogram<u64>> {
    let histogram = Rc::new(RefCell::new(Histogram::new_with_max(60_000_000, 3)?));
    let from = now_ns() + warm_up.as_nanos() as u64;
    let mut viewers = JoinSet::new();
    for mut stream in streams {
        let histogram = Rc::clone(&histogram);
        viewers.spawn_local(async move {
            let mut buffer = Vec::with_capacity(64 << 10);
            while stream.read_buf(&mut buffer).await? > 0 {
                let (now, mut at) = (now_ns(), 0);
                while let Some((payload, next)) = short_frame(&buffer, at) {
                    let sent = std::str::from_utf8(payload).ok().and_then(|text| text.trim_end().parse::<u64>().ok());
                    if let Some(sent) = sent.filter(|sent| *sent > from) {
                        histogram.borrow_mut().saturating_record(now.saturating_sub(sent) / 1_000);
                    }
                    at = next;
                }
                buffer.drain(..at);
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = viewers.join_next().await {
        done??;
    }
    drop(viewers);
    Ok(Rc::try_unwrap(histogram).expect("every viewer has ended").into_inner())
}

/// The payload of the frame at `at`, and where the next one begins; lengths below 64 KiB.
fn short_frame(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (from, length) = match bytes.get(at + 1)? {
        126 => (at + 4, usize::from(u16::from_be_bytes([*bytes.get(at + 2)?, *bytes.get(at + 3)?]))),
        length => (at + 2, usize::from(*length)),
    };
    Some((bytes.get(from..from + length)?, from + length))
}

/// The monotonic clock of the machine, the same in every process.
pub(crate) fn now_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode];
        match length {
            0..126 => frame.push(length as u8),
            126..65_536 => frame.extend([&[126][..], &(length as u16).to_be_bytes()].concat()),
            _ => frame.extend([&[127][..], &(length as u64).to_be_bytes()].concat()),
        }
        frame.resize(frame.len() + length, 0xff);
        frame
    }

    #[test]
    fn frames_are_counted_however_they_are_cut() {
        let lengths = [0, 1, 125, 126, 1_000, 65_535, 65_536, 70_000, 3];
        let mut bytes: Vec<u8> = lengths.iter().flat_map(|length| frame(1, *length)).collect();
        bytes.extend(frame(9, 4));
        bytes.extend(frame(8, 2));
        for size in [1, 2, 3, 7, 127, 4_096, bytes.len()] {
            let mut frames = Frames::default();
            for part in bytes.chunks(size) {
                frames.pass(part).unwrap();
            }
            assert_eq!((frames.messages, frames.closed), (lengths.len() as u64, true), "{size}");
        }
        assert!(Frames::default().pass(&[0x81, 0x85]).is_err(), "masked");
    }

    #[test]
    fn short_frames_are_found() {
        let bytes = [frame(1, 3), frame(1, 300), frame(1, 5)].concat();
        let (payload, next) = short_frame(&bytes, 0).unwrap();
        assert_eq!((payload.len(), next), (3, 5));
        let (payload, next) = short_frame(&bytes, next).unwrap();
        assert_eq!(payload.len(), 300);
        assert!(short_frame(&bytes[..next + 4], next).is_none());
    }
}
