//! Masks: what is a secret does not get into the output, however the reads happen to cut it. Every line of a
//! secret of at least four bytes is replaced by `***`; the end of what was read is held back as long as a
//! secret may go on in what comes next. Pure.

use bytes::BytesMut;
use memchr::memmem::Finder;

/// What stands for a secret.
const MASK: &[u8] = b"***";
/// Shorter values are no secrets to anybody, and would mask half of the output.
const SECRET_BYTES_MIN: usize = 4;

/// What must not be shown by one process.
#[derive(Clone, Debug, Default)]
pub(super) struct Secrets(Vec<Box<[u8]>>);

impl Secrets {
    /// Adds a value: each line of it, for a terminal ends lines in its own way.
    pub(super) fn add(&mut self, value: &str) {
        let lines = value.split(['\n', '\r']).filter(|line| line.len() >= SECRET_BYTES_MIN);
        self.0.extend(lines.map(|line| line.as_bytes().into()));
        self.0.sort_unstable();
        self.0.dedup();
    }

    /// The mask of one pipe; `None` when there is nothing to hide.
    pub(super) fn mask(&self) -> Option<Mask> {
        let finders = self.0.iter().map(|secret| Finder::new(secret).into_owned());
        (!self.0.is_empty()).then(|| Mask { finders: finders.collect(), held: BytesMut::new(), shown: 0 })
    }

    /// The text without them, for what does not come from a pipe.
    pub(super) fn hide(&self, text: &str) -> String {
        let Some(mut mask) = self.mask() else { return text.to_owned() };
        let mut out = BytesMut::new();
        mask.feed(text.as_bytes(), &mut out);
        mask.end(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }
}

/// The mask of one pipe.
#[derive(Debug)]
pub(super) struct Mask {
    finders: Vec<Finder<'static>>,
    /// The end of what was read: it may be the beginning of a secret.
    held: BytesMut,
    /// Bytes at the beginning of `held` that belong to a secret whose mask has been written.
    shown: usize,
}

impl Mask {
    /// Takes what was read and appends what may be shown to `out`.
    pub(super) fn feed(&mut self, bytes: &[u8], out: &mut BytesMut) {
        self.held.extend_from_slice(bytes);
        let keep_from = self.held.len() - self.undecided();
        self.show(keep_from, out);
    }

    /// Nothing more comes: what was held back is no secret.
    pub(super) fn end(&mut self, out: &mut BytesMut) {
        self.show(self.held.len(), out);
    }

    /// Length of the longest end of `held` that a secret begins with.
    fn undecided(&self) -> usize {
        let longest = |secret: &[u8]| {
            let most = secret.len().saturating_sub(1).min(self.held.len());
            (1..=most).rev().find(|&length| self.held.ends_with(&secret[..length])).unwrap_or(0)
        };
        self.finders.iter().map(|finder| longest(finder.needle())).max().unwrap_or(0)
    }

    /// Where secrets are in `held`, in order; those that overlap are one.
    fn found(&self) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        for finder in &self.finders {
            let mut from = 0;
            while let Some(at) = self.held.get(from..).and_then(|rest| finder.find(rest)) {
                found.push((from + at, from + at + finder.needle().len()));
                from += at + 1;
            }
        }
        found.sort_unstable();
        let mut merged: Vec<(usize, usize)> = Vec::new();
        for (start, end) in found {
            match merged.last_mut() {
                Some(last) if start < last.1 => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        merged
    }

    /// Writes the first `to` bytes of `held`, but `***` where a secret is, and forgets them.
    fn show(&mut self, to: usize, out: &mut BytesMut) {
        let mut at = self.shown;
        for (start, end) in self.found() {
            if start >= to {
                break;
            }
            // One that overlaps what is masked already goes on with that mask.
            if start >= at {
                out.extend_from_slice(self.held.get(at..start).unwrap_or_default());
                out.extend_from_slice(MASK);
            }
            at = at.max(end);
        }
        out.extend_from_slice(self.held.get(at..to).unwrap_or_default());
        self.shown = at.saturating_sub(to);
        let _shown = self.held.split_to(to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(secrets: &[&str], parts: &[&[u8]]) -> Vec<u8> {
        let mut all = Secrets::default();
        secrets.iter().for_each(|secret| all.add(secret));
        let Some(mut mask) = all.mask() else { return parts.concat() };
        let mut out = BytesMut::new();
        parts.iter().for_each(|part| mask.feed(part, &mut out));
        mask.end(&mut out);
        out.to_vec()
    }

    /// The same whatever way the text is cut in three.
    fn check(secrets: &[&str], text: &str, expected: &str) {
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let bytes = text.as_bytes();
                let parts = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                let masked = String::from_utf8(mask(secrets, &parts)).unwrap();
                assert_eq!(masked, expected, "{text:?} cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_secret_is_masked_however_it_is_cut() {
        check(&["hunter2"], "the password is hunter2\n", "the password is ***\n");
        check(&["hunter2"], "hunter2hunter2", "******");
        check(&["hunter2"], "hunter hunte hunter", "hunter hunte hunter");
        check(&["hunter2"], "hhunter22", "h***2");
        check(&["aaaa"], "aaaaaa b aaa", "*** b aaa");
        check(&["abcd", "cdef"], "xabcdefx", "x***x");
        check(&["abcd", "abcdefgh"], "abcdefgh abcde", "*** ***e");
        check(&["abcdefgh", "cdef"], "abcdefg", "ab***g");
        check(&["one1\ntwo2\r\nx"], "one1 two2 x", "*** *** x");
        check(&["abc"], "abc", "abc");
        check(&[], "abc", "abc");
    }

    #[test]
    fn other_bytes_are_untouched() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(mask(&["secret"], &[&bytes]), bytes);
    }

    #[test]
    fn what_may_become_a_secret_waits_and_nothing_else_does() {
        let mut secrets = Secrets::default();
        secrets.add("hunter2");
        let (mut mask, mut out) = (secrets.mask().unwrap(), BytesMut::new());
        mask.feed(b"name? ", &mut out);
        assert_eq!(&out[..], b"name? ");
        mask.feed(b"hunt", &mut out);
        assert_eq!(&out[..], b"name? ");
        mask.feed(b"ing\n", &mut out);
        assert_eq!(&out[..], b"name? hunting\n");
    }
}
