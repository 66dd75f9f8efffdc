//! Queries as the objects of Firebase's realtime protocol (firebase-rtdb.md §6.1).

use serde_json::{Map, Value};

use super::{Bound, BoundKey, BoundValue, Limit, OrderBy, Query, Side};
use crate::path::Path;

/// How a client writes "before every key".
const MIN_NAME: &str = "[MIN_NAME]";
/// How a client writes "after every key".
const MAX_NAME: &str = "[MAX_NAME]";

/// Why an object is no query: a member that is not what it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{member}' of a query must be {expected}")]
pub struct WireQueryError {
    /// The member; `q` is the object itself.
    pub member: &'static str,
    /// What it must be.
    pub expected: &'static str,
}

/// Reads a query object; `None` when it leaves out nothing, whatever its order.
pub fn parse_wire_query(json: &str) -> Result<Option<Query>, WireQueryError> {
    let wrong = |member, expected| WireQueryError { member, expected };
    let Ok(members) = serde_json::from_str::<Map<String, Value>>(json) else {
        return Err(wrong("q", "an object"));
    };
    let order_by = match members.get("i") {
        None => OrderBy::Priority,
        Some(Value::String(index)) => match &index[..] {
            ".key" => OrderBy::Key,
            ".value" => OrderBy::Value,
            ".priority" => OrderBy::Priority,
            path => match Path::parse(path) {
                Ok(path) if !path.is_root() => OrderBy::Child(path),
                _ => return Err(wrong("i", "'.key', '.value', '.priority' or a path")),
            },
        },
        Some(_) => return Err(wrong("i", "a string")),
    };
    let start = bound(&members, &order_by, ["sp", "sn", "sin"])?;
    let end = bound(&members, &order_by, ["ep", "en", "ein"])?;
    let limit = match members.get("l") {
        None => None,
        Some(count) => {
            let count = count.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0);
            let count = count.ok_or(wrong("l", "a whole number above 0"))?;
            let side = match members.get("vf").map(Value::as_str) {
                Some(Some("l")) => Side::First,
                Some(Some("r")) => Side::Last,
                Some(_) => return Err(wrong("vf", "'l' or 'r'")),
                None if start.is_some() => Side::First,
                None => Side::Last,
            };
            Some(Limit { count, side })
        }
    };
    let all = start.is_none() && end.is_none() && limit.is_none();
    Ok((!all).then_some(Query { order_by, start, end, limit }))
}

fn bound(
    members: &Map<String, Value>,
    order_by: &OrderBy,
    [value, key, inclusive]: [&'static str; 3],
) -> Result<Option<Bound>, WireQueryError> {
    let wrong = |member, expected| WireQueryError { member, expected };
    let Some(at) = members.get(value) else { return Ok(None) };
    let at = match at {
        Value::String(text) => BoundValue::Str(text.as_str().into()),
        _ if *order_by == OrderBy::Key => return Err(wrong(value, "a string, for keys are ordered")),
        Value::Null => BoundValue::Null,
        Value::Bool(value) => BoundValue::Bool(*value),
        Value::Number(number) => BoundValue::Number(number.as_f64().ok_or(wrong(value, "a finite number"))?),
        Value::Array(_) | Value::Object(_) => return Err(wrong(value, "a string, a number, a boolean or null")),
    };
    let name = match members.get(key) {
        None | Some(Value::Null) => BoundKey::None,
        Some(Value::String(name)) => match &name[..] {
            MIN_NAME => BoundKey::Min,
            MAX_NAME => BoundKey::Max,
            name => BoundKey::Key(name.into()),
        },
        Some(_) => return Err(wrong(key, "a string")),
    };
    let inclusive = match members.get(inclusive) {
        None => true,
        Some(Value::Bool(inclusive)) => *inclusive,
        Some(_) => return Err(wrong(inclusive, "true or false")),
    };
    Ok(Some(Bound { value: at, key: name, inclusive }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expected: &str) {
        let got = match parse_wire_query(json) {
            Ok(None) => "all".into(),
            Ok(Some(Query { order_by, start, end, limit })) => {
                let bound = |bound: Option<Bound>| {
                    bound.map_or("-".into(), |bound| format!("{:?} {:?} {}", bound.value, bound.key, bound.inclusive))
                };
                let limit = limit.map_or("-".into(), |limit| format!("{:?} {}", limit.side, limit.count));
                format!("{order_by:?} | {} | {} | {limit}", bound(start), bound(end))
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(got, expected, "{json}");
    }

    #[test]
    fn query_objects_are_read() {
        check("{}", "all");
        check(r#"{"i":"age"}"#, "all");
        check(r#"{"l":2}"#, "Priority | - | - | Last 2");
        check(r#"{"l":2,"vf":"l","i":".key"}"#, "Key | - | - | First 2");
        check(r#"{"l":2,"sp":"a","i":".key"}"#, r#"Key | Str("a") None true | - | First 2"#);
        check(
            r#"{"sp":5,"sn":"[MAX_NAME]","sin":false,"ep":null,"en":"k","i":"a/b"}"#,
            r#"Child(/a/b) | Number(5.0) Max false | Null Key("k") true | -"#,
        );
        check(r#"{"sp":true,"sn":"[MIN_NAME]","i":".value"}"#, "Value | Bool(true) Min true | - | -");
    }

    #[test]
    fn what_is_no_query_is_named() {
        for json in ["", "5", "[]", "\"q\"", "null", "{"] {
            check(json, "'q' of a query must be an object");
        }
        check(r#"{"i":5}"#, "'i' of a query must be a string");
        check(r#"{"i":"a#"}"#, "'i' of a query must be '.key', '.value', '.priority' or a path");
        check(r#"{"i":""}"#, "'i' of a query must be '.key', '.value', '.priority' or a path");
        check(r#"{"l":0}"#, "'l' of a query must be a whole number above 0");
        check(r#"{"l":-1}"#, "'l' of a query must be a whole number above 0");
        check(r#"{"l":"5"}"#, "'l' of a query must be a whole number above 0");
        check(r#"{"l":5,"vf":"x"}"#, "'vf' of a query must be 'l' or 'r'");
        check(r#"{"sp":5,"i":".key"}"#, "'sp' of a query must be a string, for keys are ordered");
        check(r#"{"ep":{}}"#, "'ep' of a query must be a string, a number, a boolean or null");
        check(r#"{"ep":1,"en":5}"#, "'en' of a query must be a string");
        check(r#"{"sp":1,"sin":1}"#, "'sin' of a query must be true or false");
    }
}
