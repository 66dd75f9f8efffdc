//! Reading the configuration file: TOML to named values with their places. Which names and types
//! are right is not known here.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::layers::{PIPE, pipe_name};
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
                for key in inner_spans.keys() {
                    let (name, value) = (format!("{outer}.{}", key.get_ref()), inner[key.get_ref().as_ref()].clone());
                    entries.push(Entry { name, value, origin: place(path, text, key.span().start) });
                }
            }
            (DeValue::Array(items), toml::Value::Array(values)) if outer == PIPE => {
                for (index, (item, value)) in items.iter().zip(values).enumerate() {
                    let (DeValue::Table(keys), toml::Value::Table(pipe)) = (item.get_ref(), value) else {
                        let origin = place(path, text, item.span().start);
                        return Err(Failure::usage(format!("{origin}: a pipe is a table of its own"))
                            .help("begin each with a line [[pipe]]"));
                    };
                    for key in keys.keys() {
                        let name = pipe_name(index, key.get_ref());
                        let (value, origin) =
                            (pipe[key.get_ref().as_ref()].clone(), place(path, text, key.span().start));
                        entries.push(Entry { name, value, origin });
                    }
                }
            }
            (_, value) => {
                let origin = place(path, text, key.span().start);
                entries.push(Entry { name: outer.to_owned(), value: value.clone(), origin });
            }
        }
    }
    Ok(entries)
}
