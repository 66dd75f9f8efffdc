//! One thing that is wrong with a file, shown with the lines it is in.

use std::ops::Range;
use std::path::Path;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// The message, the marked place (bytes of `text`), and what to do about it.
pub(crate) fn excerpt(
    text: &str,
    file: &Path,
    span: Range<usize>,
    message: &str,
    help: Option<&str>,
    coloured: bool,
) -> String {
    let path = file.display().to_string();
    let snippet = Snippet::source(text).path(path).annotation(AnnotationKind::Primary.span(span));
    let mut group = Level::ERROR.primary_title(message).element(snippet);
    if let Some(help) = help {
        group = group.element(Level::HELP.message(help));
    }
    let renderer = if coloured { Renderer::styled() } else { Renderer::plain() };
    renderer.render(&[group])
}
