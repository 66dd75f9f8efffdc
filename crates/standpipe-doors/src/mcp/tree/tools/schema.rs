//! Schemas of arguments and results from their Rust types: plain enough for every client that reads them.

use rmcp::model::JsonObject;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The schema of a type, without references, and without what no client looks at.
pub(super) fn of<T: JsonSchema>() -> JsonObject {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let Value::Object(mut schema) = schema.to_value() else { unreachable!("arguments and results are structs") };
    schema.remove("title");
    schema.remove("description");
    schema.values_mut().for_each(plain);
    schema
}

/// Takes out formats of numbers that JSON does not have, and `null` as a way to leave something out: it is accepted, but not to be
/// recommended.
fn plain(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(plain),
        Value::Object(members) => {
            members.remove("format");
            if members.get("default").is_some_and(Value::is_null) {
                members.remove("default");
            }
            members.values_mut().for_each(plain);
        }
        _ => {}
    }
}

/// Reads a whole number, or `null` for none. Some models write `5.0`, which is one.
pub(crate) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<f64>::deserialize(deserializer)? else { return Ok(None) };
    if number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&number) {
        return Ok(Some(number as u64));
    }
    Err(serde::de::Error::custom(format!("{number} is no whole number, 0 or more")))
}
