//! Reads what a process says, line by line. The bytes of a line are those that were read, not a copy.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use standpipe_runs::Source;
use standpipe_wire::jsonrpc::Message;

use super::process::Process;

/// Bytes asked for at a time: usually, and when there was more.
const READ_BYTES: usize = 16 << 10;
const READ_BYTES_MAX: usize = 128 << 10;
/// Of a message that is too long, where its id is looked for.
const HEAD_BYTES: usize = 4 << 10;

/// Why no more is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadEnd {
    /// There is no more.
    Closed,
    /// A message was too long.
    TooLong,
}

/// Reads until there is no use in that.
pub(super) async fn read(process: Arc<Process>, mut source: Box<dyn Source>) -> ReadEnd {
    let mut lines = Lines::default();
    let mut most = READ_BYTES;
    loop {
        if source.ready().await.is_err() {
            return ReadEnd::Closed;
        }
        match source.read(&mut lines.buffer, most) {
            Ok(0) => {
                // A last line may have no end.
                let rest = std::mem::take(&mut lines.buffer).freeze();
                hear(&process, rest);
                return ReadEnd::Closed;
            }
            Ok(bytes) => {
                most = if bytes == most { READ_BYTES_MAX } else { READ_BYTES };
                while let Some(line) = lines.next() {
                    hear(&process, line);
                }
                if lines.buffer.len() > process.limits.message_bytes {
                    process.metrics.hit("mcp_message_bytes_max");
                    process.too_long(&lines.buffer[..HEAD_BYTES.min(lines.buffer.len())]);
                    return ReadEnd::TooLong;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return ReadEnd::Closed,
        }
    }
}

/// Takes one line.
fn hear(process: &Arc<Process>, line: Bytes) {
    if line.trim_ascii().is_empty() {
        return;
    }
    match Message::parse(line) {
        Ok(message) => process.take(message),
        Err(why) => {
            process.counters.skipped.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(server = %process.name, pid = process.pid(), %why, "skipped a line of output");
        }
    }
}

/// Bytes that have been read and are no whole line yet.
#[derive(Debug, Default)]
struct Lines {
    buffer: BytesMut,
    /// So many of them have no newline.
    searched: usize,
}

impl Lines {
    /// The next whole line. While there is nothing, no room is held.
    fn next(&mut self) -> Option<Bytes> {
        match memchr::memchr(b'\n', &self.buffer[self.searched..]) {
            Some(at) => {
                let line = self.buffer.split_to(self.searched + at + 1);
                self.searched = 0;
                Some(line.freeze())
            }
            None => {
                self.searched = self.buffer.len();
                if self.buffer.is_empty() {
                    self.buffer = BytesMut::new();
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_however_they_come_in() {
        let text = b"one\n\ntwo three\r\nfour\n".as_slice();
        for size in 1..=text.len() {
            let (mut lines, mut out) = (Lines::default(), Vec::new());
            for piece in text.chunks(size) {
                lines.buffer.extend_from_slice(piece);
                out.extend(std::iter::from_fn(|| lines.next()));
            }
            assert_eq!(out, [&b"one\n"[..], b"\n", b"two three\r\n", b"four\n"], "{size}");
            assert_eq!(lines.buffer.capacity(), 0);
        }
    }
}
