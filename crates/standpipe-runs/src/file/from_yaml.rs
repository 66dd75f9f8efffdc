//! YAML as a tree with places, made from the parser's events rather than by its loader: so depth, and what anchors
//! multiply, are bounded while they are read, and `1.10` stays what was written.
//!
//! Read are the core schema's `true`, `false`, `null` and decimal numbers (so `yes` and `no` are text), anchors,
//! aliases and `<<`. Tags, several documents and keys that are no text are refused.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag};

use super::problems::Problems;
use super::tree::{Entry, Node, Span, Value, is_number};

/// Lists and tables in each other; a pipeline needs five.
const DEPTH_MAX: usize = 32;
/// Bytes that aliases may add to what is written, counted as text and a share for each value.
const ALIAS_BYTES_MAX: usize = 1 << 20;
/// What a value costs beside its text.
const NODE_BYTES: usize = 64;

const HELP: &str = "the file is YAML; look at the indentation and quotes of this line and the one before";

/// The tree, or `None` with what is wrong with the syntax.
pub(super) fn parse(text: &str, problems: &mut Problems<'_>) -> Option<Node> {
    let mut builder = Builder { places: Places::new(text), open: Vec::new(), anchors: HashMap::new(), alias_bytes: 0 };
    match builder.read(text) {
        Ok(root) => Some(root),
        Err(Wrong { span, message, help }) => {
            problems.add(&span, message, help);
            None
        }
    }
}

/// Why reading stopped: after the first mistake of syntax, what follows says little.
struct Wrong {
    span: Span,
    message: Cow<'static, str>,
    help: &'static str,
}

fn wrong(span: Span, message: impl Into<Cow<'static, str>>, help: &'static str) -> Wrong {
    Wrong { span, message: message.into(), help }
}

/// A list or table that is being read.
struct Open {
    span: Span,
    anchor: usize,
    parts: Parts,
}

enum Parts {
    List(Vec<Node>),
    Table {
        entries: Vec<Entry>,
        keys: HashSet<String>,
        /// The key whose value comes next.
        key: Option<(String, Span)>,
        /// What `<<` names: used where the table itself has no such key.
        merged: Vec<Entry>,
    },
}

struct Builder<'t> {
    places: Places<'t>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    alias_bytes: usize,
}

impl Builder<'_> {
    fn read(&mut self, text: &str) -> Result<Node, Wrong> {
        let mut parser = Parser::new_from_str(text);
        let mut root = None;
        while let Some(event) = parser.next_event() {
            let (event, at) = event.map_err(|error| self.unreadable(&error))?;
            let span = self.places.span(at.start, at.end);
            let node = match event {
                Event::DocumentStart(_) if root.is_some() => {
                    return Err(wrong(span, "a second document begins", "a pipeline is one document; remove this one"));
                }
                Event::Scalar(text, style, anchor, tag) => {
                    refuse_tag(tag, &span)?;
                    Some(self.anchored(anchor, Node { span, value: scalar(text, style) }))
                }
                Event::Alias(anchor) => Some(self.alias(anchor, span)?),
                Event::SequenceStart(anchor, tag) => {
                    self.begin(anchor, tag, span, Parts::List(Vec::new()))?;
                    None
                }
                Event::MappingStart(anchor, tag) => {
                    let (entries, keys, merged) = (Vec::new(), HashSet::new(), Vec::new());
                    self.begin(anchor, tag, span, Parts::Table { entries, keys, key: None, merged })?;
                    None
                }
                Event::SequenceEnd | Event::MappingEnd => self.end(&span),
                _ => None,
            };
            if let Some(node) = node
                && let Some(whole) = self.put(node)?
            {
                root = Some(whole);
            }
        }
        root.ok_or_else(|| wrong(0..0, "the file is empty", "docs/pipelines.md has an example to begin with"))
    }

    fn unreadable(&self, error: &ScanError) -> Wrong {
        let at = self.places.offset(*error.marker());
        wrong(at..at, error.info().to_owned(), HELP)
    }

    fn begin(&mut self, anchor: usize, tag: Option<Cow<'_, Tag>>, span: Span, parts: Parts) -> Result<(), Wrong> {
        refuse_tag(tag, &span)?;
        if self.open.len() == DEPTH_MAX {
            return Err(wrong(
                span,
                format!("more than {DEPTH_MAX} lists and tables in each other"),
                "write it flatter",
            ));
        }
        self.open.push(Open { span, anchor, parts });
        Ok(())
    }

    fn end(&mut self, end: &Span) -> Option<Node> {
        let Open { span, anchor, parts } = self.open.pop()?;
        let value = match parts {
            Parts::List(items) => Value::List(items),
            Parts::Table { mut entries, mut keys, merged, .. } => {
                entries.extend(merged.into_iter().filter(|entry| keys.insert(entry.key.clone())));
                Value::Table(entries)
            }
        };
        let span = span.start..end.end.max(span.start);
        Some(self.anchored(anchor, Node { span, value }))
    }

    fn anchored(&mut self, anchor: usize, node: Node) -> Node {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        node
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<Node, Wrong> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(wrong(span, "an alias inside what it names", "end what has the anchor before you use it"));
        };
        self.alias_bytes += bytes(node);
        if self.alias_bytes > ALIAS_BYTES_MAX {
            return Err(wrong(span, "aliases make the file too large", "write out less with `*`"));
        }
        Ok(node.clone())
    }

    /// Gives a complete value to what it is in; the outermost one is the result.
    fn put(&mut self, node: Node) -> Result<Option<Node>, Wrong> {
        match self.open.last_mut().map(|open| &mut open.parts) {
            None => return Ok(Some(node)),
            Some(Parts::List(items)) => items.push(node),
            Some(Parts::Table { entries, keys, key, merged }) => match key.take() {
                None => *key = Some(as_key(node)?),
                Some((key, _)) if key == "<<" => merge(node, merged)?,
                Some((key, key_span)) if keys.contains(&key) => {
                    return Err(wrong(key_span, format!("a second `{key}` in one table"), "remove one of the two"));
                }
                Some((key, key_span)) => {
                    keys.insert(key.clone());
                    entries.push(Entry { key, key_span, node });
                }
            },
        }
        Ok(None)
    }
}

fn as_key(node: Node) -> Result<(String, Span), Wrong> {
    match node.value {
        Value::Text(key) | Value::Number(key) => Ok((key, node.span)),
        Value::Bool(key) => Ok((key.to_string(), node.span)),
        other => Err(wrong(node.span, format!("a key is text, not {}", other.kind()), HELP)),
    }
}

/// What `<<` names: a table, or a list of them, the first of which wins.
fn merge(node: Node, merged: &mut Vec<Entry>) -> Result<(), Wrong> {
    match node.value {
        Value::Table(entries) => merged.extend(entries),
        Value::List(items) if items.iter().all(|item| matches!(item.value, Value::Table(_))) => {
            for item in items {
                merge(item, merged)?;
            }
        }
        _ => return Err(wrong(node.span, "`<<` takes a table, or a list of tables", "name an anchor of a table")),
    }
    Ok(())
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle) -> Value {
    match text.as_ref() {
        _ if style != ScalarStyle::Plain => Value::Text(text.into_owned()),
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        number if is_number(number) => Value::Number(text.into_owned()),
        _ => Value::Text(text.into_owned()),
    }
}

fn refuse_tag(tag: Option<Cow<'_, Tag>>, span: &Span) -> Result<(), Wrong> {
    match tag {
        None => Ok(()),
        Some(tag) => Err(wrong(span.clone(), format!("a tag {tag}"), "tags mean nothing here; remove it")),
    }
}

/// What a copy of a value takes.
fn bytes(node: &Node) -> usize {
    NODE_BYTES
        + match &node.value {
            Value::Text(text) | Value::Number(text) => text.len(),
            Value::List(items) => items.iter().map(bytes).sum(),
            Value::Table(entries) => entries.iter().map(|entry| entry.key.len() + bytes(&entry.node)).sum(),
            Value::Null | Value::Bool(_) => 0,
        }
}

/// Places of the parser (lines and characters) as bytes of the text.
struct Places<'t> {
    text: &'t str,
    /// Where each line begins.
    lines: Vec<usize>,
    /// The last place asked for, as line, character and byte: the next is seldom before it, and a file may
    /// be one long line.
    last: Cell<(usize, usize, usize)>,
}

impl<'t> Places<'t> {
    fn new(text: &'t str) -> Self {
        let bytes = text.as_bytes();
        let ends = |at: usize| bytes[at] == b'\n' || (bytes[at] == b'\r' && bytes.get(at + 1) != Some(&b'\n'));
        let lines = std::iter::once(0).chain((0..bytes.len()).filter(|at| ends(*at)).map(|at| at + 1)).collect();
        Self { text, lines, last: Cell::new((1, 0, 0)) }
    }

    fn offset(&self, marker: Marker) -> usize {
        let (line, column) = (marker.line(), marker.col());
        let begin = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(self.text.len());
        let (passed, from) = match self.last.get() {
            (last_line, last_column, at) if last_line == line && last_column <= column => (last_column, at),
            _ => (0, begin),
        };
        let rest = &self.text[from..];
        let at = from + rest.char_indices().nth(column - passed).map_or(rest.len(), |(at, _)| at);
        self.last.set((line, column, at));
        at
    }

    fn span(&self, start: Marker, end: Marker) -> Span {
        let start = self.offset(start);
        start..self.offset(end).max(start)
    }
}
