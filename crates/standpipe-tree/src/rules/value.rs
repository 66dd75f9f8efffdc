//! Values while an expression is evaluated: what operators and methods of texts make of them.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value as Json;

use super::ast::Operator;
use super::limits::TEXT_BYTES_MAX;
use crate::key::compare_utf16;
use crate::leaf::Leaf;
use crate::query::BoundValue;

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Value<'v> {
    Null,
    Bool(bool),
    Number(f64),
    Text(Cow<'v, str>),
    /// An object or a list in `auth`.
    Claims(&'v Json),
    /// What `val()` is of a location with children.
    Inner,
}

/// Why an evaluation fails.
pub(super) type Reason = &'static str;

pub(super) const NOT_A_TEXT: Reason = "this is no string";
const TOO_LONG: Reason = "the string becomes too long";

impl<'v> Value<'v> {
    pub(super) fn of_leaf(leaf: Leaf<'v>) -> Value<'v> {
        match leaf {
            Leaf::Bool(value) => Value::Bool(value),
            Leaf::Str(text) => Value::Text(Cow::Borrowed(text)),
            Leaf::Int(number) => Value::Number(number as f64),
            Leaf::Double(number) => Value::Number(number),
        }
    }

    pub(super) fn of_json(json: &'v Json) -> Value<'v> {
        match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => number.as_f64().map_or(Value::Null, Value::Number),
            Json::String(text) => Value::Text(Cow::Borrowed(text)),
            Json::Array(_) | Json::Object(_) => Value::Claims(json),
        }
    }

    pub(super) fn of_bound(value: &'v BoundValue) -> Value<'v> {
        match value {
            BoundValue::Null => Value::Null,
            BoundValue::Bool(value) => Value::Bool(*value),
            BoundValue::Number(number) => Value::Number(*number),
            BoundValue::Str(text) => Value::Text(Cow::Borrowed(text)),
        }
    }

    /// A member of what is in `auth`; null where there is none.
    pub(super) fn member(&self, name: &str) -> Value<'v> {
        match self {
            Value::Claims(Json::Object(members)) => members.get(name).map_or(Value::Null, Value::of_json),
            _ => Value::Null,
        }
    }

    pub(super) fn index(&self, by: &Value<'v>) -> Result<Value<'v>, Reason> {
        match (self, by) {
            (_, Value::Text(name)) => Ok(self.member(name)),
            (Value::Claims(Json::Array(items)), Value::Number(index)) if index.fract() == 0.0 && *index >= 0.0 => {
                Ok(items.get(*index as usize).map_or(Value::Null, Value::of_json))
            }
            (_, Value::Number(_)) => Ok(Value::Null),
            _ => Err("a member is asked for by a string"),
        }
    }

    /// Characters in UTF-16 units, or what `auth` has under that name.
    pub(super) fn length(&self) -> Result<Value<'v>, Reason> {
        match self {
            Value::Text(text) => Ok(Value::Number(utf16_len(text) as f64)),
            Value::Claims(_) => Ok(self.member("length")),
            _ => Err(NOT_A_TEXT),
        }
    }

    /// Whether both are the same primitive.
    pub(super) fn equals(&self, other: &Value<'_>) -> Result<bool, Reason> {
        Ok(match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Number(a), Value::Number(b)) => a == b,
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::Claims(_) | Value::Inner, Value::Claims(_) | Value::Inner) => {
                return Err("two values with members can't be compared");
            }
            _ => false,
        })
    }
}

/// An operator with two operands.
pub(super) fn binary<'v>(operator: Operator, a: &Value<'v>, b: &Value<'v>) -> Result<Value<'v>, Reason> {
    match operator {
        Operator::Equal => a.equals(b).map(Value::Bool),
        Operator::NotEqual => a.equals(b).map(|equal| Value::Bool(!equal)),
        Operator::Add => add(a, b),
        Operator::Less => compare(a, b).map(|order| Value::Bool(order == Some(Ordering::Less))),
        Operator::Greater => compare(a, b).map(|order| Value::Bool(order == Some(Ordering::Greater))),
        Operator::LessOrEqual => {
            compare(a, b).map(|order| Value::Bool(order.is_some_and(|order| order != Ordering::Greater)))
        }
        Operator::GreaterOrEqual => {
            compare(a, b).map(|order| Value::Bool(order.is_some_and(|order| order != Ordering::Less)))
        }
        Operator::Subtract | Operator::Multiply | Operator::Divide | Operator::Remainder => {
            let (Value::Number(a), Value::Number(b)) = (a, b) else { return Err("an operand is no number") };
            Ok(Value::Number(match operator {
                Operator::Subtract => a - b,
                Operator::Multiply => a * b,
                // As on the hosted service, not infinity.
                Operator::Divide if *b == 0.0 => f64::NAN,
                Operator::Divide => a / b,
                _ => a % b,
            }))
        }
    }
}

fn compare(a: &Value<'_>, b: &Value<'_>) -> Result<Option<Ordering>, Reason> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => Ok(a.partial_cmp(b)),
        (Value::Text(a), Value::Text(b)) => Ok(Some(compare_utf16(a, b))),
        _ => Err("the operands are neither two numbers nor two strings"),
    }
}

fn add<'v>(a: &Value<'v>, b: &Value<'v>) -> Result<Value<'v>, Reason> {
    let text = |value: &Value<'v>| match value {
        Value::Text(text) => Ok(text.clone()),
        Value::Number(number) => Ok(Cow::Owned(number_text(*number))),
        _ => Err("an operand is neither a number nor a string"),
    };
    if let (Value::Number(a), Value::Number(b)) = (a, b) {
        return Ok(Value::Number(a + b));
    }
    let (a, b) = (text(a)?, text(b)?);
    if a.len() + b.len() > TEXT_BYTES_MAX {
        return Err(TOO_LONG);
    }
    Ok(Value::Text(Cow::Owned([&*a, &*b].concat())))
}

/// `text` with every `from` as `to`; an empty `from` is at the beginning, as in JavaScript.
pub(super) fn replace(text: &str, from: &str, to: &str) -> Result<String, Reason> {
    if from.is_empty() {
        return within_limit(text.len() + to.len()).map(|()| [to, text].concat());
    }
    let found = text.matches(from).count();
    within_limit(text.len() - found * from.len() + found * to.len())?;
    Ok(text.replace(from, to))
}

fn within_limit(bytes: usize) -> Result<(), Reason> {
    if bytes > TEXT_BYTES_MAX { Err(TOO_LONG) } else { Ok(()) }
}

/// Characters of a text as JavaScript counts them.
fn utf16_len(text: &str) -> usize {
    text.bytes().map(|byte| usize::from(byte & 0xC0 != 0x80) + usize::from(byte >= 0xF0)).sum()
}

/// A number as JavaScript writes it.
pub(super) fn number_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    if number == 0.0 {
        return "0".to_owned();
    }
    let sign = if number < 0.0 { "-" } else { "" };
    let (digits, exponent) = shortest(number.abs());
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or(0));
    let body = match exponent {
        // All digits are before the point.
        exponent if exponent >= count && exponent <= 21 => format!("{digits}{}", zeros(exponent - count)),
        exponent if (1..=21).contains(&exponent) => {
            let (whole, fraction) = digits.split_at(exponent.unsigned_abs() as usize);
            format!("{whole}.{fraction}")
        }
        exponent if (-5..=0).contains(&exponent) => format!("0.{}{digits}", zeros(-exponent)),
        exponent => {
            let (first, rest) = digits.split_at(1);
            let point = if rest.is_empty() { "" } else { "." };
            format!("{first}{point}{rest}e{:+}", exponent - 1)
        }
    };
    format!("{sign}{body}")
}

/// The fewest decimal digits that give this number, and where the point is: `0.digits × 10^exponent`.
fn shortest(number: f64) -> (String, i32) {
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    (mantissa.replace('.', ""), exponent.parse::<i32>().unwrap_or(0) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_text() {
        for (number, expected) in [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (-2.5, "-2.5"),
            (0.1, "0.1"),
            (0.000_001, "0.000001"),
            (0.000_000_1, "1e-7"),
            (1.5e-10, "1.5e-10"),
            (123_456.789, "123456.789"),
            (1e20, "100000000000000000000"),
            (123_456_789_012_345_680_000.0, "123456789012345680000"),
            (1e21, "1e+21"),
            (1.25e300, "1.25e+300"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(number_text(number), expected);
        }
    }

    #[test]
    fn texts() {
        assert_eq!(utf16_len("aé\u{E000}😀"), 5);
        assert_eq!(replace("aXbX", "X", "--").as_deref(), Ok("a--b--"));
        assert_eq!(replace("ab", "", "-").as_deref(), Ok("-ab"));
        let long = "a".repeat(TEXT_BYTES_MAX);
        assert_eq!(replace(&long, "a", "bb"), Err(TOO_LONG));
        assert!(replace(&long, "a", "").is_ok_and(|text| text.is_empty()));
    }
}
