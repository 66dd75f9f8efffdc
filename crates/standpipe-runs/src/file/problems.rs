//! What is wrong with a file: each thing with its place and the next step, all of them at once up to a bound.

use std::fmt;
use std::ops::Range;

use super::tree::Span;

/// Problems of one file that are told; a file with more is not better understood by reading all of them.
const PROBLEMS_MAX: usize = 20;

/// One thing that is wrong with a pipeline's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// Where, in bytes of the text.
    pub span: Range<usize>,
    /// The line it begins in, from 1.
    pub line: usize,
    /// The character of that line, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}; {}", self.line, self.column, self.message, self.help)
    }
}

/// All that is wrong with a file, in its order; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileErrors {
    /// Each.
    pub errors: Vec<FileError>,
    /// There are more than these.
    pub more: bool,
}

impl fmt::Display for FileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            let before = if index == 0 { "" } else { "\n" };
            write!(f, "{before}{error}")?;
        }
        if self.more { f.write_str("\nand more") } else { Ok(()) }
    }
}

impl FileErrors {
    /// As text, each error with the file's name before it.
    pub fn in_file(&self, file: &str) -> String {
        let lines: Vec<_> = self.errors.iter().map(|error| format!("{file}:{error}")).collect();
        lines.join("\n") + if self.more { "\nand more" } else { "" }
    }
}

impl std::error::Error for FileErrors {}

/// Where problems are gathered while a file is read.
pub(super) struct Problems<'t> {
    text: &'t str,
    found: Vec<FileError>,
    more: bool,
}

impl<'t> Problems<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, found: Vec::new(), more: false }
    }

    pub(super) fn add(&mut self, span: &Span, message: impl Into<String>, help: impl Into<String>) {
        if self.found.len() == PROBLEMS_MAX {
            self.more = true;
            return;
        }
        let start = self.text.floor_char_boundary(span.start);
        let end = self.text.ceil_char_boundary(span.end.clamp(start, self.text.len()));
        let before = &self.text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let error = FileError {
            span: start..end,
            line: 1 + before.matches('\n').count(),
            column: 1 + before[line_start..].chars().count(),
            message: message.into(),
            help: help.into(),
        };
        // The same place of a YAML anchor is read as often as it is named.
        if !self.found.contains(&error) {
            self.found.push(error);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The result, if nothing was wrong with it.
    pub(super) fn unless<T>(mut self, result: Option<T>) -> Result<T, FileErrors> {
        self.found.sort_by_key(|error| error.span.start);
        match result {
            Some(result) if self.found.is_empty() => Ok(result),
            _ => Err(FileErrors { errors: self.found, more: self.more }),
        }
    }
}

/// The known word that is closest to one that is not, as a sentence.
pub(super) fn suggestion<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let scored = known.map(|known| (strsim::jaro_winkler(word, known), known));
    let (score, best) = scored.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (score > 0.8).then(|| format!("did you mean `{best}`?"))
}
