//! TOML as a tree with places. The crate bounds the depth; the text's size is bounded before it comes here.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problems::Problems;
use super::tree::{Entry, Node, Value};

/// The tree, or `None` with everything that is wrong with the syntax.
pub(super) fn parse(text: &str, problems: &mut Problems<'_>) -> Option<Node> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        problems.add(&error.span().unwrap_or(0..0), message, "the file is TOML: [table], then key = value lines");
    }
    let span = table.span();
    errors.is_empty().then(|| Node { span, value: entries(table.into_inner()) })
}

fn entries(table: DeTable<'_>) -> Value {
    let mut entries: Vec<Entry> = table
        .into_iter()
        .map(|(key, value)| Entry { key_span: key.span(), key: key.into_inner().into_owned(), node: node(value) })
        .collect();
    // The crate sorts by name.
    entries.sort_by_key(|entry| entry.key_span.start);
    Value::Table(entries)
}

fn node(value: Spanned<DeValue<'_>>) -> Node {
    let span = value.span();
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) if number.radix() == 10 => Value::Number(number.as_str().to_owned()),
        // What it says in another radix is text to us, as dates are: nothing we read is either.
        DeValue::Integer(number) => Value::Text(number.to_string()),
        DeValue::Float(number) => Value::Number(number.as_str().to_owned()),
        DeValue::Boolean(yes) => Value::Bool(yes),
        DeValue::Datetime(time) => Value::Text(time.to_string()),
        DeValue::Array(items) => Value::List(items.into_iter().map(node).collect()),
        DeValue::Table(table) => entries(table),
    };
    Node { span, value }
}
