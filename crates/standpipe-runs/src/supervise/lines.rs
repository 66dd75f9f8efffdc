//! From the bytes of a pipe to records: a line with its newline is one, a longer line than allowed becomes
//! several, and what is unfinished is given out when asked for. No byte is changed, added or left out. Records
//! are slices of what one read gave: a line costs no allocation. Pure; when to read is the pump's business.

use bytes::{Bytes, BytesMut};

/// A part of the output that is one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its bytes.
    pub(super) bytes: Bytes,
    /// Whether it is one whole line: it begins where a line begins and ends with the newline.
    pub(super) whole: bool,
}

/// The splitter of one pipe.
#[derive(Debug)]
pub(super) struct Lines {
    /// What came after the last record, and room for the next read.
    buffer: BytesMut,
    /// Bytes at its beginning that are known to hold no newline.
    seen: usize,
    /// Whether the buffer begins where a line begins.
    fresh: bool,
    bytes_max: usize,
}

impl Lines {
    /// Splits lines longer than `bytes_max`, newline included.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), seen: 0, fresh: true, bytes_max: bytes_max.max(1) }
    }

    /// Where the next read appends to.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Whether a line has begun and not ended.
    pub(super) fn is_unfinished(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Gives room back that nothing is in.
    pub(super) fn park(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    /// The records that are complete.
    pub(super) fn take(&mut self, pieces: &mut Vec<Piece>) {
        let fresh_bytes = self.buffer.get(self.seen..).unwrap_or_default();
        if let Some(last) = memchr::memrchr(b'\n', fresh_bytes) {
            let lines = self.buffer.split_to(self.seen + last + 1).freeze();
            self.cut(&lines, pieces);
        }
        while self.buffer.len() >= self.bytes_max {
            let bytes = self.buffer.split_to(self.bytes_max).freeze();
            pieces.push(Piece { bytes, whole: false });
            self.fresh = false;
        }
        self.seen = self.buffer.len();
    }

    /// The line that has begun and not ended.
    pub(super) fn rest(&mut self, pieces: &mut Vec<Piece>) {
        self.seen = 0;
        if !self.buffer.is_empty() {
            pieces.push(Piece { bytes: self.buffer.split().freeze(), whole: false });
            self.fresh = false;
        }
    }

    /// Cuts bytes that end with a newline.
    fn cut(&mut self, lines: &Bytes, pieces: &mut Vec<Piece>) {
        let mut start = 0;
        for newline in memchr::memchr_iter(b'\n', lines) {
            let end = newline + 1;
            while end - start > self.bytes_max {
                pieces.push(Piece { bytes: lines.slice(start..start + self.bytes_max), whole: false });
                start += self.bytes_max;
                self.fresh = false;
            }
            pieces.push(Piece { bytes: lines.slice(start..end), whole: self.fresh });
            self.fresh = true;
            start = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the parts, asking for the rest after those that end with `|`; whole lines are shown as they are,
    /// other records in brackets.
    fn check(parts: &[&str], bytes_max: usize, expected: &[&str]) {
        let mut lines = Lines::new(bytes_max);
        let mut pieces = Vec::new();
        for part in parts {
            let (bytes, pause) = part.strip_suffix('|').map_or((*part, false), |bytes| (bytes, true));
            lines.buffer().extend_from_slice(bytes.as_bytes());
            lines.take(&mut pieces);
            if pause {
                lines.rest(&mut pieces);
            }
        }
        lines.rest(&mut pieces);
        let shown = pieces.iter().map(|Piece { bytes, whole }| {
            let text = std::str::from_utf8(bytes).unwrap();
            if *whole { text.to_owned() } else { format!("[{text}]") }
        });
        assert_eq!(shown.collect::<Vec<_>>(), expected, "{parts:?}");
        let fed: String = parts.iter().map(|part| part.trim_end_matches('|')).collect();
        assert_eq!(pieces.iter().flat_map(|piece| piece.bytes.to_vec()).collect::<Vec<_>>(), fed.as_bytes());
    }

    #[test]
    fn a_line_is_a_record_however_it_arrives() {
        check(&[], 80, &[]);
        check(&["a\nb\n"], 80, &["a\n", "b\n"]);
        check(&["a", "b", "\n", "\n"], 80, &["ab\n", "\n"]);
        check(&["a\r\nb\0\u{fffd}\n"], 80, &["a\r\n", "b\0\u{fffd}\n"]);
        check(&["no newline"], 80, &["[no newline]"]);
        check(&["ask? |", "yes\nnext\n"], 80, &["[ask? ]", "[yes\n]", "next\n"]);
        check(&["ask? |", "|", "yes"], 80, &["[ask? ]", "[yes]"]);
    }

    #[test]
    fn a_long_line_becomes_several_records() {
        check(&["abcdefgh\ni\n"], 4, &["[abcd]", "[efgh]", "[\n]", "i\n"]);
        check(&["abc\nabcd\n"], 4, &["abc\n", "[abcd]", "[\n]"]);
        check(&["ab", "cd", "ef", "\ngh\n"], 4, &["[abcd]", "[ef\n]", "gh\n"]);
        check(&["abcdefghi"], 4, &["[abcd]", "[efgh]", "[i]"]);
        check(&["ab\n"], 1, &["[a]", "[b]", "[\n]"]);
    }

    #[test]
    fn an_empty_splitter_keeps_no_room() {
        let mut lines = Lines::new(80);
        lines.buffer().reserve(1 << 16);
        lines.buffer().extend_from_slice(b"a\n");
        lines.take(&mut Vec::new());
        lines.park();
        assert_eq!(lines.buffer().capacity(), 0);
    }
}
