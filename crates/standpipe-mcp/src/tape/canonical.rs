//! JSON in one form: two texts that mean the same become equal. Numbers are compared as they are written, in any form and of any size, without
//! rounding; members of objects in any order.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Depth below which texts are compared as they stand.
const DEPTH_MAX: usize = 64;

/// `json`, which is valid, in one form. Of an object at the top, members named in `without` are left out.
pub(crate) fn canonical(json: &[u8], without: &[&str]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let text = std::str::from_utf8(json).unwrap_or_default();
    write(text.trim_ascii(), without, DEPTH_MAX, &mut out);
    out
}

fn write(text: &str, without: &[&str], depth: usize, out: &mut Vec<u8>) {
    match text.as_bytes().first() {
        Some(b'{') if depth > 0 => match members(text) {
            Ok(members) => write_object(members, without, depth, out),
            Err(_) => out.extend_from_slice(text.as_bytes()),
        },
        Some(b'[') if depth > 0 => match serde_json::from_str::<Vec<&RawValue>>(text) {
            Ok(elements) => {
                out.push(b'[');
                for element in elements {
                    write(element.get(), &[], depth - 1, out);
                    out.push(b',');
                }
                out.push(b']');
            }
            Err(_) => out.extend_from_slice(text.as_bytes()),
        },
        Some(b'"') => match serde_json::from_str::<Cow<'_, str>>(text) {
            Ok(value) => serde_json::to_writer(&mut *out, &value).expect("a string can be written as JSON"),
            Err(_) => out.extend_from_slice(text.as_bytes()),
        },
        Some(b'-' | b'0'..=b'9') => out.extend_from_slice(number(text).as_bytes()),
        _ => out.extend_from_slice(text.as_bytes()),
    }
}

fn write_object(mut members: Vec<(Cow<'_, str>, &RawValue)>, without: &[&str], depth: usize, out: &mut Vec<u8>) {
    members.retain(|(name, _)| !without.contains(&&**name));
    members.sort_by(|(a, _), (b, _)| a.cmp(b));
    out.push(b'{');
    for (name, value) in members {
        serde_json::to_writer(&mut *out, &name).expect("a string can be written as JSON");
        out.push(b':');
        write(value.get(), &[], depth - 1, out);
        out.push(b',');
    }
    out.push(b'}');
}

/// The members of an object as they stand, doubled ones too.
pub(crate) fn members(text: &str) -> Result<Vec<(Cow<'_, str>, &RawValue)>, serde_json::Error> {
    struct Members;

    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(Name(name)) = map.next_key()? {
                members.push((name, map.next_value()?));
            }
            Ok(members)
        }
    }

    serde_json::Deserializer::from_str(text).deserialize_map(Members)
}

/// A key, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// A number as its significant digits and a power of ten: `1.50`, `15e-1` and `1.5` are one.
fn number(text: &str) -> Cow<'_, str> {
    let (sign, rest) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
    let Ok(exponent) = exponent.parse::<i32>() else { return Cow::Borrowed(text) };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let all = digits.trim_start_matches('0');
    let kept = all.trim_end_matches('0');
    if kept.is_empty() {
        return Cow::Borrowed("0");
    }
    let power = i64::from(exponent) - fraction.len() as i64 + (all.len() - kept.len()) as i64;
    Cow::Owned(format!("{sign}{kept}e{power}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_the_same_is_equal() {
        let same = |a: &str, b: &str, expected: bool| {
            assert_eq!(canonical(a.as_bytes(), &["_meta"]) == canonical(b.as_bytes(), &["_meta"]), expected, "{a} {b}");
        };
        same(r#"{"a":1,"b":[true,null]}"#, r#" { "b" : [ true , null ] , "\u0061" : 1.0 } "#, true);
        same(r#"{"a":1,"_meta":{"x":1}}"#, r#"{"a":1}"#, true);
        same(r#"{"a":{"_meta":1}}"#, r#"{"a":{}}"#, false);
        same("1e2", "100", true);
        same("0.10", "1E-1", true);
        same("-0", "0.0e5", true);
        same("-1", "1", false);
        same("9007199254740993", "9007199254740992", false);
        same("123456789012345678901234567890", "123456789012345678901234567891", false);
        same("1e99999999999", "1e99999999998", false);
        same(r#""1""#, "1", false);
        same(r#""\u00e4""#, "\"ä\"", true);
        same("[1,2]", "[2,1]", false);
        same("[]", "{}", false);
        same(r#"{"a":1,"a":2}"#, r#"{"a":1}"#, false);
    }

    #[test]
    fn deep_json_is_compared_as_it_stands() {
        let deep = |inner: &str| format!("{}{inner}{}", "[".repeat(100), "]".repeat(100)).into_bytes();
        assert_eq!(canonical(&deep("1"), &[]), canonical(&deep("1"), &[]));
        assert_ne!(canonical(&deep("1"), &[]), canonical(&deep("1.0"), &[]));
    }
}
