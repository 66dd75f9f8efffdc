//! Lines of text ended by LF or CRLF, out of input that comes in arbitrary pieces. Owns the ends and
//! the longest line only; what a line says is the caller's.
//!
//! ```
//! use standpipe_wire::line::{Line, Scanner};
//! let mut scanner = Scanner::default();
//! assert_eq!(scanner.scan(b"PI", 100), Line::Incomplete);
//! assert_eq!(scanner.scan(b"PING\r\nGE", 100), Line::Whole(b"PING", 6));
//! ```

/// What is at the beginning of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line without its end, and how many bytes it takes with it.
    Whole(&'a [u8], usize),
    /// A line longer than the limit begins here; so many bytes of it are used up. Told once for each
    /// such line, as soon as it is known.
    TooLong(usize),
    /// So many bytes more of a line that was too long: nothing to answer.
    Skip(usize),
    /// No whole line yet: give the same input again, with more behind it.
    Incomplete,
}

/// Finds lines, and remembers how far it has looked, so that a long line that comes in small pieces
/// is looked at once. One for each connection.
#[derive(Clone, Debug, Default)]
pub struct Scanner {
    /// Bytes at the beginning of the input that hold no LF.
    looked: usize,
    /// The end of a line that was too long has not come yet.
    skipping: bool,
}

impl Scanner {
    /// Looks for the first line of `input`, which holds at most `bytes_max` bytes, its end not
    /// counted. The caller drops the bytes used; after [`Line::Incomplete`] it keeps them all.
    pub fn scan<'a>(&mut self, input: &'a [u8], bytes_max: usize) -> Line<'a> {
        let from = std::mem::take(&mut self.looked).min(input.len());
        let end = memchr::memchr(b'\n', &input[from..]).map(|at| from + at);
        if self.skipping {
            self.skipping = end.is_none();
            return match end.map_or(input.len(), |end| end + 1) {
                0 => Line::Incomplete,
                used => Line::Skip(used),
            };
        }
        match end {
            Some(end) => {
                let line = &input[..end];
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                if line.len() <= bytes_max { Line::Whole(line, end + 1) } else { Line::TooLong(end + 1) }
            }
            // The byte above the limit may be the CR of a line that just fits.
            None if input.len() <= bytes_max.saturating_add(1) => {
                self.looked = input.len();
                Line::Incomplete
            }
            None => {
                self.skipping = true;
                Line::TooLong(input.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 5;

    /// Every line in order; `None` stands for one that was too long. Then what is left.
    fn lines(pieces: &[&[u8]]) -> (Vec<Option<String>>, String) {
        let (mut scanner, mut input, mut found) = (Scanner::default(), Vec::new(), Vec::new());
        for piece in pieces {
            input.extend_from_slice(piece);
            loop {
                let used = match scanner.scan(&input, MAX) {
                    Line::Whole(line, used) => {
                        assert!(line.len() <= MAX && used > line.len());
                        found.push(Some(String::from_utf8_lossy(line).into_owned()));
                        used
                    }
                    Line::TooLong(used) => {
                        found.push(None);
                        used
                    }
                    Line::Skip(used) => used,
                    Line::Incomplete => break,
                };
                assert!(used > 0, "it gets on");
                input.drain(..used);
            }
            assert!(input.len() <= MAX + 1, "no more is kept than a line can hold");
        }
        (found, String::from_utf8_lossy(&input).into_owned())
    }

    /// In one piece, byte by byte, and in every split in two: all agree.
    fn lines_of(input: &[u8]) -> (Vec<Option<String>>, String) {
        let whole = lines(&[input]);
        assert_eq!(lines(&input.chunks(1).collect::<Vec<_>>()), whole, "byte by byte");
        for at in 0..=input.len() {
            assert_eq!(lines(&[&input[..at], &input[at..]]), whole, "split at {at}");
        }
        whole
    }

    #[test]
    fn lines_end_in_lf_or_crlf() {
        let check = |input: &str, expected: &[Option<&str>], left: &str| {
            let (found, rest) = lines_of(input.as_bytes());
            assert_eq!(found.iter().map(Option::as_deref).collect::<Vec<_>>(), expected, "{input:?}");
            assert_eq!(rest, left, "{input:?}");
        };
        check("", &[], "");
        check("a", &[], "a");
        check("a\n", &[Some("a")], "");
        check("a\r\n", &[Some("a")], "");
        check("a\rb\n", &[Some("a\rb")], "");
        check("a\r\r\n", &[Some("a\r")], "");
        check("\n\r\n\n", &[Some(""), Some(""), Some("")], "");
        check("a\nb\nc", &[Some("a"), Some("b")], "c");
        check("12345\n", &[Some("12345")], "");
        check("12345\r\n", &[Some("12345")], "");
        check("123456\n1\n", &[None, Some("1")], "");
        check("123456\r\n1\n", &[None, Some("1")], "");
        check("12345\r1\n1\n", &[None, Some("1")], "");
        check("123456789012345\n\n2\n", &[None, Some(""), Some("2")], "");
        check("123456789\n123456789\n", &[None, None], "");
        check("123456789", &[None], "");
    }

    #[test]
    fn a_long_line_in_small_pieces_is_looked_at_once() {
        let mut scanner = Scanner::default();
        let line = [b'a'; 1_000];
        for len in 0..line.len() {
            assert_eq!(scanner.scan(&line[..len], 10_000), Line::Incomplete);
            assert_eq!(scanner.looked, len);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_the_same_lines_in_any_pieces(
            input in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'\r'), Just(b'a')], 0..60)) {
            let (found, _) = lines_of(&input);
            prop_assert!(found.len() >= input.iter().filter(|&&byte| byte == b'\n').count());
        }
    }
}
