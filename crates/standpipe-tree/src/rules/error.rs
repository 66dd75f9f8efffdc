//! What is wrong with a rules text, and where.

use std::fmt;
use std::ops::Range;

/// How many things wrong with one text are told.
pub const DIAGNOSTICS_MAX: usize = 50;

/// One thing that is wrong with a rules text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where, in bytes of the text.
    pub span: Range<usize>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead, where that can be said.
    pub help: Option<String>,
}

/// Why a text can't be rules: everything that was found, in the order of the text, at least one and at
/// most [`DIAGNOSTICS_MAX`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesError {
    diagnostics: Vec<Diagnostic>,
}

impl RulesError {
    /// Everything that was found, in the order of the text.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }
}

/// `<line>:<column>: <text>` of the first (firebase-rtdb §11.7).
impl fmt::Display for RulesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.diagnostics.first() else { return Ok(()) };
        write!(f, "{}:{}: {}", first.line, first.column, first.message)
    }
}

impl std::error::Error for RulesError {}

/// A problem whose place is still only a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) span: Range<usize>,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Problem {
    pub(super) fn new(span: Range<usize>, message: impl Into<String>) -> Problem {
        Problem { span, message: message.into(), help: None }
    }

    pub(super) fn help(self, help: impl Into<String>) -> Problem {
        Problem { help: Some(help.into()), ..self }
    }
}

/// Gathers problems while a text is compiled.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn push(&mut self, problem: Problem) {
        if self.0.len() < DIAGNOSTICS_MAX {
            self.0.push(problem);
        }
    }

    /// The error for `text`, when there is any problem.
    pub(super) fn finish(self, text: &str) -> Result<(), RulesError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut problems = self.0;
        problems.sort_by_key(|problem| problem.span.start);
        let places = Places::new(text);
        let diagnostics = problems.into_iter().map(|problem| placed(problem, text, &places)).collect();
        Err(RulesError { diagnostics })
    }
}

/// The problem with its place, whose ends are those of characters.
fn placed(Problem { span, message, help }: Problem, text: &str, places: &Places<'_>) -> Diagnostic {
    let start = text.floor_char_boundary(span.start);
    let span = start..text.ceil_char_boundary(span.end).max(start);
    let (line, column) = places.at(span.start);
    Diagnostic { span, line, column, message, help }
}

/// Lines and columns of a text, without reading it all again for each.
pub(super) struct Places<'a> {
    text: &'a [u8],
    /// Line and column of every byte that is a multiple of [`MARK_BYTES`].
    marks: Vec<(usize, usize)>,
}

const MARK_BYTES: usize = 1024;

impl<'a> Places<'a> {
    pub(super) fn new(text: &'a str) -> Places<'a> {
        let mut places = Places { text: text.as_bytes(), marks: vec![(1, 1)] };
        while places.marks.len() * MARK_BYTES <= text.len() {
            let next = places.at(places.marks.len() * MARK_BYTES);
            places.marks.push(next);
        }
        places
    }

    /// Line and column, both from 1, of a byte of the text.
    pub(super) fn at(&self, at: usize) -> (usize, usize) {
        let at = at.min(self.text.len());
        let mark = (at / MARK_BYTES).min(self.marks.len() - 1);
        let (mut line, mut column) = self.marks[mark];
        for &byte in &self.text[mark * MARK_BYTES..at] {
            if byte == b'\n' {
                (line, column) = (line + 1, 1);
            } else {
                // Characters are counted by their first bytes.
                column += usize::from(byte & 0xC0 != 0x80);
            }
        }
        (line, column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let text = format!("ab\né😀x{}\n{}y", "z".repeat(3 * MARK_BYTES), "é".repeat(MARK_BYTES));
        let places = Places::new(&text);
        for (at, expected) in [(0, (1, 1)), (2, (1, 3)), (3, (2, 1)), (5, (2, 2)), (9, (2, 3))] {
            assert_eq!(places.at(at), expected, "{at}");
        }
        assert_eq!(places.at(text.len()), (3, MARK_BYTES + 2));
        assert_eq!(places.at(usize::MAX), (3, MARK_BYTES + 2));
    }
}
