//! Queries as the parameters of a REST request (firebase-rtdb.md §9.2, texts of §9.6).

use serde_json::Value;

use super::{Bound, BoundKey, BoundValue, Limit, OrderBy, Query, Side};
use crate::path::Path;

/// Why parameters are no query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryParseError {
    /// A bound or a limit without an order.
    #[error("orderBy must be defined when other query parameters are defined")]
    OrderByMissing,
    /// `orderBy` is neither a JSON string with a path nor one of the special orders.
    #[error("orderBy must be a valid JSON encoded path")]
    OrderBy,
    /// The value of a bound is no JSON string, number, boolean or null.
    #[error("Constraint index field must be a JSON primitive")]
    Constraint,
    /// The key of a bound is no JSON string, or something follows it.
    #[error("Constraint key field must be a JSON string")]
    ConstraintKey,
    /// The order by key takes keys alone as bounds.
    #[error("{0} must be a JSON string, and nothing else, when orderBy is \"$key\"")]
    KeyBound(&'static str),
    /// A limit is no positive integer.
    #[error("{0} must be a positive integer")]
    Limit(&'static str),
    /// Both limits are given.
    #[error("limitToFirst and limitToLast cannot be used together")]
    BothLimits,
    /// Two parameters say where the range begins, or ends.
    #[error("{0} and {1} cannot be used together")]
    TwoBounds(&'static str, &'static str),
}

/// Reads the query among decoded request parameters, ignoring all others; `None` when there is none.
pub fn parse_rest<N: AsRef<str>, V: AsRef<str>>(params: &[(N, V)]) -> Result<Option<Query>, QueryParseError> {
    let value_of = |name| params.iter().find(|param| param.0.as_ref() == name).map(|param| param.1.as_ref());
    let order_by = value_of("orderBy").map(order_by).transpose()?;
    let bound_of = |[including, excluding]: [&'static str; 2]| {
        let given = ["equalTo", including, excluding].map(|name| Some((name, value_of(name)?)));
        let mut given = given.into_iter().flatten();
        match (given.next(), given.next()) {
            (Some((first, _)), Some((second, _))) => Err(QueryParseError::TwoBounds(first, second)),
            (Some((name, text)), None) => bound(text, name != excluding).map(|bound| Some((name, bound))),
            (None, _) => Ok(None),
        }
    };
    let (start, end) = (bound_of(["startAt", "startAfter"])?, bound_of(["endAt", "endBefore"])?);
    let limit = limit(value_of("limitToFirst"), value_of("limitToLast"))?;
    let Some(order_by) = order_by else {
        return match (&start, &end, limit) {
            (None, None, None) => Ok(None),
            _ => Err(QueryParseError::OrderByMissing),
        };
    };
    for (name, bound) in [&start, &end].into_iter().flatten() {
        if order_by == OrderBy::Key && !(matches!(bound.value, BoundValue::Str(_)) && bound.key == BoundKey::None) {
            return Err(QueryParseError::KeyBound(name));
        }
    }
    let [start, end] = [start, end].map(|bound| bound.map(|(_, bound)| bound));
    Ok(Some(Query { order_by, start, end, limit }))
}

fn order_by(text: &str) -> Result<OrderBy, QueryParseError> {
    let text: String = serde_json::from_str(text).map_err(|_| QueryParseError::OrderBy)?;
    match &text[..] {
        "$key" => Ok(OrderBy::Key),
        "$value" => Ok(OrderBy::Value),
        "$priority" => Ok(OrderBy::Priority),
        path => match Path::parse(path) {
            Ok(path) if !path.is_root() => Ok(OrderBy::Child(path)),
            _ => Err(QueryParseError::OrderBy),
        },
    }
}

/// A JSON primitive, perhaps followed by a comma and a key as a JSON string.
fn bound(text: &str, inclusive: bool) -> Result<Bound, QueryParseError> {
    // Both together are what stands between the brackets of an array.
    let parts: Vec<Value> = serde_json::from_str(&format!("[{text}]")).map_err(|_| QueryParseError::Constraint)?;
    let mut parts = parts.into_iter();
    let value = match parts.next() {
        Some(Value::Null) => BoundValue::Null,
        Some(Value::Bool(value)) => BoundValue::Bool(value),
        Some(Value::Number(number)) => BoundValue::Number(number.as_f64().ok_or(QueryParseError::Constraint)?),
        Some(Value::String(text)) => BoundValue::Str(text.into()),
        _ => return Err(QueryParseError::Constraint),
    };
    let key = match (parts.next(), parts.next()) {
        (None, _) => BoundKey::None,
        (Some(Value::String(key)), None) => BoundKey::Key(key.into()),
        _ => return Err(QueryParseError::ConstraintKey),
    };
    Ok(Bound { value, key, inclusive })
}

fn limit(first: Option<&str>, last: Option<&str>) -> Result<Option<Limit>, QueryParseError> {
    let (name, text, side) = match (first, last) {
        (Some(_), Some(_)) => return Err(QueryParseError::BothLimits),
        (Some(text), None) => ("limitToFirst", text, Side::First),
        (None, Some(text)) => ("limitToLast", text, Side::Last),
        (None, None) => return Ok(None),
    };
    match text.parse() {
        Ok(count) if count > 0 => Ok(Some(Limit { count, side })),
        _ => Err(QueryParseError::Limit(name)),
    }
}
