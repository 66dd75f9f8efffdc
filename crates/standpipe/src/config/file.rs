//! Reading the configuration file: TOML to named values with their places. Which names and types
//! are right is not known here.

use std::path::Path;

use toml::de::{DeArray, DeTable, DeValue};

use super::lists::{is_list, is_named, item_name, lists};
use super::{Origin, place};
use crate::exit::{Failure, Result};

/// One `key = value` of the file.
pub(super) struct Entry {
    /// `table.key`, or the key alone where it is in no table.
    pub(super) name: String,
    pub(super) value: toml::Value,
    pub(super) origin: Origin,
}

/// All entries, in the order of their names.
pub(super) fn read(path: &Path, text: &str) -> Result<Vec<Entry>> {
    let wrong = |error: toml::de::Error| {
        let origin = place(path, text, error.span().map_or(0, |span| span.start));
        Failure::usage(format!("{origin}: {}", error.message()))
            .help("the file is TOML: [table], then key = value lines")
    };
    let spans = DeTable::parse(text).map_err(wrong)?;
    let values: toml::Table = text.parse().map_err(wrong)?;
    let mut entries = Vec::new();
    for (key, span) in spans.get_ref() {
        let outer = key.get_ref().as_ref();
        match (span.get_ref(), &values[outer]) {
            (DeValue::Table(inner_spans), toml::Value::Table(inner)) => {
                for (key, span) in inner_spans {
                    if is_named(outer) {
                        let name = key.get_ref().as_ref();
                        named(outer, name, (key.span().start, span.get_ref()), &inner[name], path, text, &mut entries)?;
                        continue;
                    }
                    let (name, value) = (format!("{outer}.{}", key.get_ref()), &inner[key.get_ref().as_ref()]);
                    if let (Some(list), DeValue::Array(spans), toml::Value::Array(values)) =
                        (lists().find(|list| *list == name), span.get_ref(), value)
                    {
                        items(list, spans, values, path, text, &mut entries)?;
                        continue;
                    }
                    let origin = place(path, text, key.span().start);
                    entries.push(Entry { name, value: value.clone(), origin });
                }
            }
            (DeValue::Array(spans), toml::Value::Array(values)) if is_list(outer) => {
                let list = lists().find(|list| *list == outer).expect("it is one");
                items(list, spans, values, path, text, &mut entries)?;
            }
            (_, value) => {
                let origin = place(path, text, key.span().start);
                entries.push(Entry { name: outer.to_owned(), value: value.clone(), origin });
            }
        }
    }
    Ok(entries)
}

/// The settings of a table with a name of its own, such as `[job.nightly]`.
fn named(
    table: &str,
    name: &str,
    (start, spans): (usize, &DeValue<'_>),
    value: &toml::Value,
    path: &Path,
    text: &str,
    entries: &mut Vec<Entry>,
) -> Result<()> {
    let (DeValue::Table(keys), toml::Value::Table(values)) = (spans, value) else {
        let origin = place(path, text, start);
        return Err(Failure::usage(format!("{origin}: {table}.{name} is a table of its own"))
            .help(format!("begin each with a line [{table}.NAME]")));
    };
    if keys.is_empty() {
        let origin = place(path, text, start);
        return Err(
            Failure::usage(format!("{origin}: {table}.{name} says nothing")).help("say what it does, or leave it out")
        );
    }
    for key in keys.keys() {
        let (value, origin) = (values[key.get_ref().as_ref()].clone(), place(path, text, key.span().start));
        entries.push(Entry { name: format!("{table}.{name}.{}", key.get_ref()), value, origin });
    }
    Ok(())
}

/// The settings of each item of a list.
fn items(
    list: &str,
    spans: &DeArray<'_>,
    values: &[toml::Value],
    path: &Path,
    text: &str,
    entries: &mut Vec<Entry>,
) -> Result<()> {
    for (index, (item, value)) in spans.iter().zip(values).enumerate() {
        let (DeValue::Table(keys), toml::Value::Table(item_values)) = (item.get_ref(), value) else {
            let origin = place(path, text, item.span().start);
            return Err(Failure::usage(format!("{origin}: an item of {list} is a table of its own"))
                .help(format!("begin each with a line [[{list}]]")));
        };
        for key in keys.keys() {
            let name = item_name(list, index, key.get_ref());
            let (value, origin) = (item_values[key.get_ref().as_ref()].clone(), place(path, text, key.span().start));
            entries.push(Entry { name, value, origin });
        }
    }
    Ok(())
}
