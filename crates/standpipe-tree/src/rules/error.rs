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
        let diagnostics = problems.into_iter().map(|problem| placed(problem, text)).collect();
        Err(RulesError { diagnostics })
    }
}

fn placed(Problem { span, message, help }: Problem, text: &str) -> Diagnostic {
    let (line, column) = place(text, span.start);
    Diagnostic { span, line, column, message, help }
}

/// Line and column, both from 1, of a byte of `text`.
pub(super) fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line_start = memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1);
    let line = memchr::memchr_iter(b'\n', before).count() + 1;
    // Characters are counted by their first bytes.
    let column = before[line_start..].iter().filter(|&&byte| byte & 0xC0 != 0x80).count() + 1;
    (line, column)
}
