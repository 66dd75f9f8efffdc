//! What a process writes to its error output: always read, the end of it kept for errors, and some of it in the log.

use std::collections::VecDeque;

use bytes::BytesMut;
use parking_lot::Mutex;
use standpipe_runs::Source;
use tokio::time::{Duration, Instant};

/// Bytes that are kept.
const KEPT_BYTES: usize = 64 << 10;
/// Bytes asked for at a time.
const READ_BYTES: usize = 8 << 10;
/// Characters of a line in the log, and in an error.
const LINE_CHARS: usize = 400;
/// Lines in the log per second.
const LINES_PER_S: u32 = 20;

/// The end of what was written.
#[derive(Debug, Default)]
pub(super) struct Tail(Mutex<VecDeque<u8>>);

impl Tail {
    fn add(&self, bytes: &[u8]) {
        let mut kept = self.0.lock();
        let bytes = &bytes[bytes.len().saturating_sub(KEPT_BYTES)..];
        let over = (kept.len() + bytes.len()).saturating_sub(KEPT_BYTES);
        kept.drain(..over);
        kept.extend(bytes);
    }

    /// All of it.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(self.0.lock().make_contiguous()).into_owned()
    }

    /// The last line that is not blank.
    pub(super) fn last_line(&self) -> Option<String> {
        let mut kept = self.0.lock();
        let lines = kept.make_contiguous().rsplit(|byte| *byte == b'\n');
        lines.map(plain).find(|line| !line.is_empty())
    }
}

/// A line without what a terminal would do with it.
fn plain(line: &[u8]) -> String {
    let line = &line[..line.len().min(4 * LINE_CHARS)];
    let text = String::from_utf8_lossy(line);
    let shown = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    shown.take(LINE_CHARS).collect()
}

/// Reads to the end.
pub(super) async fn drain(name: &str, pid: u32, mut source: Box<dyn Source>, tail: &Tail) {
    let mut log = Log { name, pid, since: Instant::now(), lines: 0, left_out: 0, rest: BytesMut::new() };
    let mut buffer = BytesMut::new();
    loop {
        if source.ready().await.is_err() {
            break;
        }
        match source.read(&mut buffer, READ_BYTES) {
            Ok(0) => break,
            Ok(_) => {
                tail.add(&buffer);
                log.add(&buffer);
                buffer = BytesMut::new();
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    log.end();
}

/// What of it goes to the log.
struct Log<'a> {
    name: &'a str,
    pid: u32,
    since: Instant,
    lines: u32,
    left_out: u64,
    /// The beginning of a line.
    rest: BytesMut,
}

impl Log<'_> {
    fn add(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            // Of a line without an end the beginning is enough.
            let room = (4 * LINE_CHARS).saturating_sub(self.rest.len());
            self.rest.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.line();
            }
        }
    }

    fn line(&mut self) {
        let line = plain(&std::mem::take(&mut self.rest));
        if line.is_empty() {
            return;
        }
        if self.since.elapsed() >= Duration::from_secs(1) {
            self.say_left_out();
            (self.since, self.lines) = (Instant::now(), 0);
        }
        self.lines += 1;
        match self.lines <= LINES_PER_S {
            true => tracing::info!(server = self.name, pid = self.pid, "{line}"),
            false => self.left_out += 1,
        }
    }

    fn say_left_out(&mut self) {
        if self.left_out > 0 {
            let lines = std::mem::take(&mut self.left_out);
            tracing::info!(server = self.name, pid = self.pid, lines, "left out of this log");
        }
    }

    fn end(&mut self) {
        self.line();
        self.say_left_out();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept() {
        let tail = Tail::default();
        tail.add(b"first\n");
        (0..20).for_each(|_| tail.add(&[b'x'; 8 << 10]));
        tail.add(b"\nlast \x1b[31mline\n\n  \n");
        assert_eq!(tail.text().len(), KEPT_BYTES);
        assert_eq!(tail.last_line().as_deref(), Some("last  [31mline"));
        tail.add(&vec![b'y'; KEPT_BYTES * 2]);
        assert_eq!(tail.last_line().unwrap(), "y".repeat(LINE_CHARS));
    }
}
