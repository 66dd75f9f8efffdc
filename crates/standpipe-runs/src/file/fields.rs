//! Reading values by what they should be. Every reader takes what it finds or says what is wrong with it, and
//! reading goes on, so that a file's mistakes are told at once.

use std::collections::BTreeMap;

use super::problems::{Problems, suggestion};
use super::tree::{Entry, Node, Span, Value};
use crate::name::Name;
use crate::units::{duration_ms, size_bytes};

/// A table whose keys are known; what nobody asked for is a mistake.
pub(super) struct Fields<'n> {
    /// What it is, for messages: "a task".
    what: &'static str,
    entries: &'n [Entry],
    asked: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// The table that `node` should be.
    pub(super) fn of(node: &'n Node, what: &'static str, problems: &mut Problems<'_>) -> Option<Self> {
        Some(Self { what, entries: entries(node, what, problems)?, asked: Vec::new() })
    }

    pub(super) fn entry(&mut self, key: &'static str) -> Option<&'n Entry> {
        self.asked.push(key);
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The value of a key; one without a value is as none, for that is how YAML leaves something out.
    pub(super) fn get(&mut self, key: &'static str) -> Option<&'n Node> {
        self.entry(key).map(|entry| &entry.node).filter(|node| !matches!(node.value, Value::Null))
    }

    /// What `read` makes of a key's value.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        problems: &mut Problems<'_>,
        read: impl FnOnce(&'n Node, &mut Problems<'_>) -> Option<T>,
    ) -> Option<T> {
        self.get(key).and_then(|node| read(node, problems))
    }

    /// Names the keys that nobody asked for.
    pub(super) fn finish(self, problems: &mut Problems<'_>) {
        self.finish_but(|_| false, problems);
    }

    /// As [`Fields::finish`], for a table that may have more keys than are read.
    pub(super) fn finish_but(self, may: impl Fn(&str) -> bool, problems: &mut Problems<'_>) {
        let unknown = |entry: &&Entry| !self.asked.contains(&entry.key.as_str()) && !may(&entry.key);
        for entry in self.entries.iter().filter(unknown) {
            let help = suggestion(&entry.key, self.asked.iter().copied())
                .unwrap_or_else(|| format!("{} has {}", self.what, self.asked.join(", ")));
            problems.add(&entry.key_span, format!("{} has no `{}`", self.what, entry.key), help);
        }
    }
}

fn unexpected(node: &Node, expected: &str, example: &str, problems: &mut Problems<'_>) {
    problems.add(&node.span, format!("{} where {expected} should be", node.value.kind()), example.to_owned());
}

/// The entries of a table.
pub(super) fn entries<'n>(node: &'n Node, what: &str, problems: &mut Problems<'_>) -> Option<&'n [Entry]> {
    match &node.value {
        Value::Table(entries) => Some(entries),
        _ => {
            unexpected(
                node,
                &format!("the table of {what}"),
                "write `key = value` (TOML) or `key: value` (YAML)",
                problems,
            );
            None
        }
    }
}

/// Text.
pub(super) fn text(node: &Node, problems: &mut Problems<'_>) -> Option<String> {
    match &node.value {
        Value::Text(text) if !text.contains('\0') => Some(text.clone()),
        Value::Text(_) => {
            problems.add(&node.span, "a zero byte in a text", "no argument or variable can hold one; remove it");
            None
        }
        _ => {
            unexpected(node, "text", "put quotes around it", problems);
            None
        }
    }
}

/// Text, or a number or boolean taken as it is written: what becomes a variable or an argument.
pub(super) fn word(node: &Node, problems: &mut Problems<'_>) -> Option<String> {
    match &node.value {
        Value::Number(number) => Some(number.clone()),
        Value::Bool(yes) => Some(yes.to_string()),
        _ => text(node, problems),
    }
}

pub(super) fn boolean(node: &Node, problems: &mut Problems<'_>) -> Option<bool> {
    match node.value {
        Value::Bool(yes) => Some(yes),
        _ => {
            unexpected(node, "a boolean", "write true or false, without quotes", problems);
            None
        }
    }
}

/// A whole number from `min` to `max`.
pub(super) fn whole(node: &Node, min: u64, max: u64, problems: &mut Problems<'_>) -> Option<u64> {
    let number = match &node.value {
        Value::Number(number) => number.parse().ok(),
        _ => None,
    };
    let number = number.filter(|number| (min..=max).contains(number));
    if number.is_none() {
        problems.add(&node.span, "not the number that should be here", format!("write a whole number, {min} to {max}"));
    }
    number
}

/// Milliseconds.
pub(super) fn duration(node: &Node, problems: &mut Problems<'_>) -> Option<u64> {
    unit(node, duration_ms, problems)
}

/// Milliseconds of a time that can't be none.
pub(super) fn some_time(node: &Node, problems: &mut Problems<'_>) -> Option<u64> {
    let ms = duration(node, problems)?;
    if ms == 0 {
        problems.add(&node.span, "no time at all", "leave the line out for no limit, or give it some time");
    }
    (ms > 0).then_some(ms)
}

/// Bytes.
pub(super) fn size(node: &Node, problems: &mut Problems<'_>) -> Option<u64> {
    unit(node, size_bytes, problems)
}

fn unit(node: &Node, read: fn(&str) -> Result<u64, String>, problems: &mut Problems<'_>) -> Option<u64> {
    let text = match &node.value {
        Value::Text(text) | Value::Number(text) => text,
        other => other.kind(),
    };
    read(text).map_err(|why| problems.add(&node.span, why, "name the number and its unit, in quotes")).ok()
}

/// A name of a task, an artefact or a run.
pub(super) fn name(node: &Node, problems: &mut Problems<'_>) -> Option<Name> {
    as_name(&word(node, problems)?, &node.span, problems)
}

pub(super) fn as_name(text: &str, span: &Span, problems: &mut Problems<'_>) -> Option<Name> {
    text.parse().map_err(|why| problems.add(span, format!("{text:?} is no name"), format!("{why}"))).ok()
}

/// A list, of which one item may stand for itself.
pub(super) fn list(node: &Node) -> &[Node] {
    match &node.value {
        Value::List(items) => items,
        _ => std::slice::from_ref(node),
    }
}

/// Whether a variable of the environment may be called so.
fn is_variable(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && !name.starts_with(|first: char| first.is_ascii_digit()) && name.bytes().all(good)
}

/// The name of a variable; those that the supervisor sets are its own.
pub(super) fn variable(name: &str, span: &Span, problems: &mut Problems<'_>) -> Option<String> {
    if !is_variable(name) {
        let help = "a variable is letters, digits and _, and does not begin with a digit";
        problems.add(span, format!("{name:?} is no name of a variable"), help);
        return None;
    }
    if name.starts_with("STANDPIPE_") {
        problems.add(span, format!("{name} is set by standpipe"), "call it something else");
        return None;
    }
    Some(name.to_owned())
}

/// Variables and their values.
pub(super) fn variables(node: &Node, problems: &mut Problems<'_>) -> Option<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    for entry in entries(node, "variables", problems)? {
        let name = variable(&entry.key, &entry.key_span, problems);
        let value = word(&entry.node, problems);
        variables.extend(name.zip(value));
    }
    Some(variables)
}
