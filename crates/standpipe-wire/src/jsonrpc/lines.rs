//! Messages on a stream of bytes, one a line: cuts the stream into lines and holds no more than one message may have. What is on a line is
//! [`Message::parse`](super::Message::parse)'s matter.

use bytes::{Buf as _, Bytes, BytesMut};

use super::Outline;

/// Room made for reading.
const READ_BYTES: usize = 8 << 10;

/// A line up to this long is copied out, so that it does not keep the buffer it came in.
const COPY_BYTES: usize = 4 << 10;

/// A line of the stream, without its end.
#[derive(Clone, Debug)]
pub enum Line {
    /// All of it. Empty lines are left out.
    Whole(Bytes),
    /// It was longer than a message may be, or given up; this is what can be told of it.
    Dropped(Outline),
}

/// The stream as far as it was read.
#[derive(Debug, Default)]
pub struct Lines {
    buf: BytesMut,
    /// Bytes of `buf` that hold no end of a line.
    scanned: usize,
    dropped: Option<Outline>,
}

impl Lines {
    /// Where to put what is read next, with room for it.
    pub fn buf(&mut self, bytes_max: usize) -> &mut BytesMut {
        let held = self.buf.len();
        if self.buf.capacity() - held < READ_BYTES / 8 {
            if held < READ_BYTES {
                self.buf.reserve(READ_BYTES);
            } else {
                // By hand, because the buffer's own growth does not stop at the limit; and soon to all it may be, because what was given
                // back may count as ours for a while, and what is not written to costs nothing.
                let room = match held.saturating_mul(16) < bytes_max {
                    true => held * 4,
                    false => bytes_max.max(held).saturating_add(READ_BYTES),
                };
                let mut larger = BytesMut::with_capacity(room);
                larger.extend_from_slice(&self.buf);
                self.buf = larger;
            }
        }
        &mut self.buf
    }

    /// Bytes that are held.
    pub fn held(&self) -> usize {
        self.buf.len()
    }

    /// Gives up the line that is coming in: the rest of it is dropped as it comes.
    pub fn give_up(&mut self) {
        let outline = self.dropped.get_or_insert_default();
        outline.feed(&self.buf);
        self.buf = BytesMut::new();
        self.scanned = 0;
    }

    /// The next line of at most `bytes_max` bytes, if its end is here.
    pub fn next(&mut self, bytes_max: usize) -> Option<Line> {
        loop {
            let Some(end) = memchr::memchr(b'\n', &self.buf[self.scanned..]) else {
                self.scanned = self.buf.len();
                if self.dropped.is_some() || self.scanned > bytes_max {
                    self.give_up();
                }
                return None;
            };
            let line = self.cut(self.scanned + end, bytes_max);
            self.buf.advance(1);
            if self.buf.is_empty() && end >= COPY_BYTES {
                // It shares the room of the line that was taken out.
                self.buf = BytesMut::new();
            }
            if line.is_some() {
                return line;
            }
        }
    }

    /// The last line, which nothing ends but the stream.
    pub fn end(&mut self, bytes_max: usize) -> Option<Line> {
        self.cut(self.buf.len(), bytes_max)
    }

    /// Takes the first `end` bytes as a line.
    fn cut(&mut self, end: usize, bytes_max: usize) -> Option<Line> {
        self.scanned = 0;
        if self.dropped.is_some() || end > bytes_max {
            let mut outline = self.dropped.take().unwrap_or_default();
            outline.feed(&self.buf[..end]);
            self.buf.advance(end);
            return Some(Line::Dropped(outline));
        }
        let line = match end {
            0..COPY_BYTES => {
                let line = Bytes::copy_from_slice(&self.buf[..end]);
                self.buf.advance(end);
                line
            }
            _ => self.buf.split_to(end).freeze(),
        };
        (!line.trim_ascii().is_empty()).then_some(Line::Whole(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a stream that is read in pieces of at most `piece` bytes.
    fn read(stream: &[u8], piece: usize, bytes_max: usize) -> (Vec<String>, usize) {
        let (mut lines, mut all, mut most) = (Lines::default(), Vec::new(), 0);
        let mut told = |line| {
            all.push(match line {
                Line::Whole(line) => String::from_utf8(line.to_vec()).unwrap(),
                Line::Dropped(outline) => format!("dropped {:?}", outline.request_id().map(String::from_utf8_lossy)),
            });
        };
        for piece in stream.chunks(piece) {
            let mut rest = piece;
            while !rest.is_empty() {
                let buf = lines.buf(bytes_max);
                let fits = rest.len().min(buf.capacity() - buf.len());
                buf.extend_from_slice(&rest[..fits]);
                rest = &rest[fits..];
                most = most.max(buf.capacity());
                while let Some(line) = lines.next(bytes_max) {
                    told(line);
                }
            }
        }
        lines.end(bytes_max).into_iter().for_each(told);
        (all, most)
    }

    fn check(stream: &[u8], bytes_max: usize, expected: &[&str]) {
        for piece in (1..=stream.len().min(64)).chain([4_096, 8_192, stream.len()]) {
            assert_eq!(read(stream, piece.max(1), bytes_max).0, expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn lines_are_the_same_however_they_come() {
        check(b"a\nbc\r\n\n  \nd", 10, &["a", "bc\r", "d"]);
        check(b"0123456789\n0123456789a\nb\n", 10, &["0123456789", "dropped None", "b"]);
        let long = format!("{{\"method\":\"a\",\"x\":\"{}\",\"id\":7}}\n{{}}\n", "x".repeat(50_000));
        check(long.as_bytes(), 100, &["dropped Some(\"7\")", "{}"]);
        check(long.as_bytes(), 60_000, &[long.lines().next().unwrap(), "{}"]);
        check(long.trim_end_matches("{}\n").trim_end().as_bytes(), 100, &["dropped Some(\"7\")"]);
    }

    #[test]
    fn what_is_held_stays_below_the_limit() {
        let limit = 1 << 20;
        let mut stream = vec![b'x'; 5 * limit];
        stream.push(b'\n');
        let (lines, most) = read(&stream, 64 << 10, limit);
        assert_eq!(lines, ["dropped None"]);
        assert!(most <= limit + READ_BYTES, "{most}");
    }

    #[test]
    fn a_line_that_is_given_up_is_dropped_to_its_end() {
        let mut lines = Lines::default();
        lines.buf(100).extend_from_slice(b"{\"id\":1,");
        assert!(lines.next(100).is_none());
        lines.give_up();
        lines.buf(100).extend_from_slice(b"\"method\":\"a\"}\nb\n");
        assert!(matches!(lines.next(100), Some(Line::Dropped(outline)) if outline.request_id() == Some(b"1")));
        assert!(matches!(lines.next(100), Some(Line::Whole(line)) if line == "b"));
    }
}
