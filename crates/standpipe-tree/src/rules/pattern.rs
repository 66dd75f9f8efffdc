//! Regular expressions: the part of JavaScript's that rules have (firebase-rtdb §11.5), translated for an
//! engine that takes linear time.
//!
//! Characters are code points; `.` is any of them but a line end. Letters without case under `i` follow
//! JavaScript: a letter outside of ASCII never matches one inside.

use std::fmt::Write as _;

use regex::{Regex, RegexBuilder};

use super::limits::{REGEX_BYTES_MAX, REGEX_COMPILED_BYTES_MAX};

/// The most groups within each other.
const GROUPS_MAX: usize = 30;
/// The most repetitions a pattern may ask for in one place.
const REPETITIONS_MAX: u32 = 1_000;
/// Ranges longer than this keep their case under `i`, ASCII aside.
const FOLDED_RANGE_MAX: u32 = 2_000;

/// What is wrong with a pattern, and at which byte of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PatternError {
    pub(super) at: usize,
    pub(super) message: String,
}

/// Compiles the regular expression `/pattern/flags`.
pub(super) fn compile(pattern: &str, flags: &str) -> Result<Regex, PatternError> {
    let wrong = |at, message: &str| PatternError { at, message: message.to_owned() };
    if !matches!(flags, "" | "i") {
        return Err(wrong(pattern.len(), "the only flag a regular expression may have is i"));
    }
    if pattern.len() > REGEX_BYTES_MAX {
        return Err(wrong(0, &format!("a regular expression must not be longer than {REGEX_BYTES_MAX} bytes")));
    }
    let mut translator = Translator { pattern, at: 0, out: String::new(), fold: flags == "i" };
    translator.translate()?;
    let regex = RegexBuilder::new(&translator.out)
        .size_limit(REGEX_COMPILED_BYTES_MAX)
        .dfa_size_limit(REGEX_COMPILED_BYTES_MAX)
        .build();
    regex.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => wrong(0, "the regular expression is too large: repeat less"),
        _ => wrong(0, "the regular expression is not understood"),
    })
}

struct Translator<'a> {
    pattern: &'a str,
    at: usize,
    out: String,
    fold: bool,
}

/// One item of a class: a character, or a set such as `\d` as the engine writes it.
enum Item {
    Character(char),
    Set(&'static str),
}

impl Translator<'_> {
    fn peek(&self) -> Option<char> {
        self.pattern[self.at..].chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn wrong<T>(&self, at: usize, message: &str) -> Result<T, PatternError> {
        Err(PatternError { at, message: message.to_owned() })
    }

    fn translate(&mut self) -> Result<(), PatternError> {
        let mut open = Vec::new();
        // Whether something stands before: in this alternative, and to be repeated.
        let (mut filled, mut repeatable) = (false, false);
        while let Some(next) = self.peek() {
            let at = self.at;
            self.at += next.len_utf8();
            match next {
                '^' if at == 0 => {
                    self.out.push_str(r"\A");
                    (filled, repeatable) = (true, false);
                }
                '^' => return self.wrong(at, "^ may only be the first character"),
                '$' if self.at == self.pattern.len() => {
                    self.out.push_str(r"\z");
                    (filled, repeatable) = (true, false);
                }
                '$' => return self.wrong(at, "$ may only be the last character"),
                '(' => {
                    if open.len() >= GROUPS_MAX {
                        return self.wrong(at, "too many groups within each other");
                    }
                    self.group(at)?;
                    open.push(at);
                    (filled, repeatable) = (false, false);
                }
                ')' if open.is_empty() => return self.wrong(at, "this bracket closes nothing"),
                ')' if !filled => return self.wrong(at, "an alternative must not be empty"),
                ')' => {
                    open.pop();
                    self.out.push(')');
                    (filled, repeatable) = (true, true);
                }
                '|' if !filled => return self.wrong(at, "an alternative must not be empty"),
                '|' => {
                    self.out.push('|');
                    (filled, repeatable) = (false, false);
                }
                '*' | '+' | '?' | '{' => {
                    if !repeatable {
                        return self.wrong(at, "there is nothing to repeat here");
                    }
                    self.repetition(next, at)?;
                    repeatable = false;
                }
                '[' => {
                    self.class(at)?;
                    (filled, repeatable) = (true, true);
                }
                ']' | '}' => return self.wrong(at, "this bracket closes nothing: write a backslash before it"),
                '.' => {
                    self.out.push_str(r"[^\n\r\x{2028}\x{2029}]");
                    (filled, repeatable) = (true, true);
                }
                '\\' if self.peek() == Some('b') => {
                    self.at += 1;
                    self.out.push_str(r"(?-u:\b)");
                    (filled, repeatable) = (true, false);
                }
                '\\' => {
                    match self.escape(at)? {
                        Item::Character(character) => self.character(character),
                        Item::Set(set) => self.out.push_str(set),
                    }
                    (filled, repeatable) = (true, true);
                }
                next => {
                    self.character(next);
                    (filled, repeatable) = (true, true);
                }
            }
        }
        if let Some(at) = open.pop() {
            return self.wrong(at, "this group is never closed");
        }
        if !filled {
            return self.wrong(self.at, "an alternative must not be empty");
        }
        Ok(())
    }

    /// A group, behind its bracket.
    fn group(&mut self, at: usize) -> Result<(), PatternError> {
        if self.peek() == Some('?') {
            if !self.pattern[self.at..].starts_with("?:") {
                return self.wrong(at, "looking ahead or back and naming groups are not part of the language");
            }
            self.at += 2;
        }
        self.out.push_str("(?:");
        Ok(())
    }

    /// A repetition, behind its first character.
    fn repetition(&mut self, first: char, at: usize) -> Result<(), PatternError> {
        if first == '{' {
            let rest = &self.pattern[self.at..];
            let Some(end) = rest.find('}') else { return self.wrong(at, "this bracket is never closed") };
            let (least, most) = match rest[..end].split_once(',') {
                None => (count(&rest[..end]), count(&rest[..end])),
                Some((least, "")) => (count(least), Some(u32::MAX)),
                Some((least, most)) => (count(least), count(most)),
            };
            match (least, most) {
                (Some(least), Some(most)) if least <= most => {
                    let _ = match most {
                        u32::MAX => write!(self.out, "{{{least},}}"),
                        most => write!(self.out, "{{{least},{most}}}"),
                    };
                }
                _ => return self.wrong(at, "this is no count of repetitions: {n}, {n,} or {n,m}, up to 1000"),
            }
            self.at += end + 1;
        } else {
            self.out.push(first);
        }
        if self.peek() == Some('?') {
            self.at += 1;
            self.out.push('?');
        }
        Ok(())
    }

    /// An escape, behind its backslash, which is at `at`.
    fn escape(&mut self, at: usize) -> Result<Item, PatternError> {
        let Some(letter) = self.take() else { return self.wrong(at, "the pattern ends in a backslash") };
        Ok(Item::Character(match letter {
            'd' => return Ok(Item::Set("[0-9]")),
            'D' => return Ok(Item::Set("[^0-9]")),
            'w' => return Ok(Item::Set("[0-9A-Za-z_]")),
            'W' => return Ok(Item::Set("[^0-9A-Za-z_]")),
            's' => return Ok(Item::Set(r"[\s\x{FEFF}]")),
            'S' => return Ok(Item::Set(r"[^\s\x{FEFF}]")),
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'f' => '\u{C}',
            'v' => '\u{B}',
            'x' => return self.hex(at, 2).map(Item::Character),
            'u' => return self.hex(at, 4).map(Item::Character),
            '0' if !self.peek().is_some_and(|next| next.is_ascii_digit()) => '\0',
            '0'..='9' => return self.wrong(at, "what a group matched can't be asked for again"),
            letter if letter.is_alphanumeric() => return self.wrong(at, "this escape is not part of the language"),
            letter => letter,
        }))
    }

    fn hex(&mut self, at: usize, digits: usize) -> Result<char, PatternError> {
        let text = self.pattern.get(self.at..self.at + digits);
        let text = text.filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let character = text.and_then(|text| u32::from_str_radix(text, 16).ok()).and_then(char::from_u32);
        match character {
            Some(character) => {
                self.at += digits;
                Ok(character)
            }
            None => self.wrong(at, "this is no escape of a character"),
        }
    }

    /// A class, behind its bracket, which is at `at`.
    fn class(&mut self, at: usize) -> Result<(), PatternError> {
        self.out.push('[');
        if self.peek() == Some('^') {
            self.at += 1;
            self.out.push('^');
        }
        let first = self.at;
        loop {
            let item_at = self.at;
            let item = match self.take() {
                None => return self.wrong(at, "this class is never closed"),
                Some(']') if item_at == first => return self.wrong(at, "a class must not be empty"),
                Some(']') => break,
                Some('\\') => self.class_escape(item_at)?,
                Some(character) => Item::Character(character),
            };
            let ranges = self.peek() == Some('-') && !self.pattern[self.at + 1..].starts_with(']');
            match (item, ranges) {
                (Item::Character(low), true) => {
                    self.at += 1;
                    let high_at = self.at;
                    let high = match self.take() {
                        Some('\\') => self.class_escape(high_at)?,
                        Some(character) => Item::Character(character),
                        None => return self.wrong(at, "this class is never closed"),
                    };
                    match high {
                        Item::Character(high) if low <= high => self.range(low, high),
                        _ => return self.wrong(item_at, "this is no range of characters"),
                    }
                }
                (Item::Set(_), true) => return self.wrong(item_at, "this is no range of characters"),
                (Item::Character(character), false) => self.range(character, character),
                (Item::Set(set), false) => self.out.push_str(set),
            }
        }
        self.out.push(']');
        Ok(())
    }

    /// As outside of a class, but that `\b` is a backspace.
    fn class_escape(&mut self, at: usize) -> Result<Item, PatternError> {
        if self.peek() == Some('b') {
            self.at += 1;
            return Ok(Item::Character('\u{8}'));
        }
        self.escape(at)
    }

    fn character(&mut self, character: char) {
        if self.fold {
            self.out.push('[');
            self.range(character, character);
            self.out.push(']');
        } else {
            self.hexed(character);
        }
    }

    /// A range inside of a class.
    fn range(&mut self, low: char, high: char) {
        self.hexed(low);
        if low != high {
            self.out.push('-');
            self.hexed(high);
        }
        if !self.fold {
            return;
        }
        let fold_end = if high as u32 - low as u32 <= FOLDED_RANGE_MAX { high } else { high.min('\u{7F}') };
        for character in low..=fold_end {
            for other in other_cases(character).into_iter().flatten() {
                self.hexed(other);
            }
        }
    }

    /// Every character as its number: nothing of it can mean anything to the engine.
    fn hexed(&mut self, character: char) {
        let _ = write!(self.out, "\\x{{{:X}}}", character as u32);
    }
}

/// The same letter in upper and in lower case, where JavaScript takes them for the same.
fn other_cases(character: char) -> [Option<char>; 2] {
    let single = |mut cases: Box<dyn Iterator<Item = char>>| match (cases.next(), cases.next()) {
        (Some(other), None) if other != character && other.is_ascii() == character.is_ascii() => Some(other),
        _ => None,
    };
    [single(Box::new(character.to_uppercase())), single(Box::new(character.to_lowercase()))]
}

fn count(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|count| digits && *count <= REPETITIONS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, flags: &str, yes: &[&str], no: &[&str]) {
        let regex = compile(pattern, flags).unwrap_or_else(|error| panic!("{pattern}: {error:?}"));
        yes.iter().for_each(|text| assert!(regex.is_match(text), "/{pattern}/{flags} {text:?}"));
        no.iter().for_each(|text| assert!(!regex.is_match(text), "/{pattern}/{flags} {text:?}"));
    }

    #[test]
    fn what_patterns_match() {
        check("b", "", &["abc"], &["", "ac", "B"]);
        check("^a.c$", "", &["abc", "aéc", "a😀c"], &["a\nc", "xabc", "abcd", "abc\n", "a\u{2028}c"]);
        check("^(a|bc)+$", "", &["a", "bc", "abca"], &["", "b"]);
        check("^a|b$", "", &["ax", "xb"], &["xa", "bx"]);
        check("^\\d{4}-\\d{2}$", "", &["2026-01"], &["2026-1", "٢٠٢٦-٠١"]);
        check("^\\w+\\s\\S\\D\\W$", "", &["a_9 xy!"], &["é xy!"]);
        check("^[^a-c\\d\\]x-]$", "", &["d", "["], &["a", "5", "]", "-", "x"]);
        check("^[&~\\[a\\-c]+$", "", &["&~[-", "&&", "c"], &["b"]);
        check("^x{2,3}$", "", &["xx", "xxx"], &["x", "xxxx"]);
        check("^x{2,}?$", "", &["xx", "xxxx"], &["x"]);
        check("^(?:a.)*\\.\\/\\u0041\\x42$", "", &["./AB", "axay./AB"], &["x/AB"]);
        check("\\bcat\\b", "", &["a cat!"], &["concat"]);
        check("^[a-z]é$", "i", &["AÉ", "zé"], &["ſé", "\u{212A}é"]);
        check("^[^k]$", "i", &["a", "\u{212A}"], &["k", "K"]);
        check("^ß$", "i", &["ß"], &["SS", "ẞ"]);
        check("^[\\b]$", "", &["\u{8}"], &["b"]);
    }

    fn refuse(pattern: &str, flags: &str, part: &str) {
        let error = compile(pattern, flags).expect_err(pattern);
        assert!(error.message.contains(part), "{pattern}: {error:?}");
    }

    #[test]
    fn what_is_refused() {
        for (pattern, part) in [
            ("a^", "first"),
            ("(^a)", "first"),
            ("a$|b", "last"),
            ("a|", "empty"),
            ("|a", "empty"),
            ("()", "empty"),
            ("(a||b)", "empty"),
            ("(?=a)", "looking"),
            ("(?<n>a)", "looking"),
            ("(?i)a", "looking"),
            ("(a)\\1", "again"),
            ("a**", "nothing to repeat"),
            ("^*", "nothing to repeat"),
            ("+", "nothing to repeat"),
            ("(*a)", "nothing to repeat"),
            ("a{1", "never closed"),
            ("a{2,1}", "count"),
            ("a{x}", "count"),
            ("a{100000}", "count"),
            ("(a", "never closed"),
            ("a)", "closes nothing"),
            ("a]", "closes nothing"),
            ("[a", "never closed"),
            ("[a-", "never closed"),
            ("[]", "empty"),
            ("[b-a]", "range"),
            ("[\\d-z]", "range"),
            ("[a-\\d]", "range"),
            ("\\", "backslash"),
            ("\\p", "not part"),
            ("\\u00", "no escape"),
            ("\\uD83D", "no escape"),
            ("((a{1000}){1000}){1000}", "too large"),
        ] {
            refuse(pattern, "", part);
        }
        refuse(&"(".repeat(40), "", "too many");
        refuse(&"a".repeat(REGEX_BYTES_MAX + 1), "", "longer");
        refuse("a", "g", "flag");
        refuse("a", "ii", "flag");
    }
}
