//! Placeholders that the server fills in: its time, and increments (firebase-rtdb.md §3.7).
//!
//! Reading the clock and the old values is the caller's; here is only what becomes of them.

use crate::leaf::{INCREMENT, Leaf, OwnedLeaf, TIMESTAMP};
use crate::rows::{Rows, RowsBuilder};

/// Replaces all placeholders in `rows`: timestamps by `now_ms`, increments by the sum with what `current`
/// finds at the row's key, or by the increment itself if that is no number.
///
/// A sum that is no finite double stays at the largest one.
pub fn resolve<E>(
    rows: &Rows,
    now_ms: u64,
    mut current: impl FnMut(&[u8]) -> Result<Option<OwnedLeaf>, E>,
) -> Result<Rows, E> {
    let mut resolved = RowsBuilder::remade(rows);
    let mut value = Vec::new();
    for (key, unresolved) in rows.iter() {
        value.clear();
        match unresolved.split_first() {
            Some((&TIMESTAMP, _)) => time(now_ms).encode(&mut value),
            Some((&INCREMENT, by)) => {
                let by = Leaf::decode(by).unwrap_or(Leaf::Int(0));
                sum(current(key)?.as_ref().map(OwnedLeaf::as_leaf), by).encode(&mut value);
            }
            _ => value.extend_from_slice(unresolved),
        }
        resolved.push(key, &value);
    }
    Ok(resolved.finish().expect("the keys are those of rows, and a leaf is little longer than its placeholder"))
}

fn time(now_ms: u64) -> Leaf<'static> {
    Leaf::Int(i64::try_from(now_ms).unwrap_or(i64::MAX))
}

fn sum<'a>(old: Option<Leaf<'_>>, by: Leaf<'a>) -> Leaf<'a> {
    if let (Some(Leaf::Int(old)), Leaf::Int(by)) = (old, by)
        && let Some(sum) = old.checked_add(by)
    {
        return Leaf::Int(sum);
    }
    match (old.and_then(|old| old.as_f64()), by.as_f64()) {
        (Some(old), Some(by)) => Leaf::number((old + by).clamp(f64::MIN, f64::MAX)),
        _ => by,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::json::{Format, to_json};
    use crate::parse::{parse_value, tests::LIMITS};

    fn check(old: Option<OwnedLeaf>, json: &str, expected: &str) {
        let rows = parse_value(json.as_bytes(), &LIMITS).unwrap();
        let resolved = resolve(&rows, 1_700_000_000_123, |_| Ok::<_, Infallible>(old.clone())).unwrap();
        assert!(!resolved.has_server_values());
        let text = to_json(&mut resolved.cursor(), Format::Export).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), expected, "{old:?} {json}");
    }

    #[test]
    fn placeholders_are_resolved() {
        let by = |number: &str| format!("{{\".sv\":{{\"increment\":{number}}}}}");
        check(None, r#"{"a":{".sv":"timestamp"},"b":"x"}"#, r#"{"a":1700000000123,"b":"x"}"#);
        check(None, r#"{"a":1,".priority":{".sv":"timestamp"}}"#, r#"{".priority":1700000000123,"a":1}"#);
        for (old, number, expected) in [
            (None, "5", "5"),
            (Some(OwnedLeaf::Str("x".into())), "5", "5"),
            (Some(OwnedLeaf::Bool(true)), "-1.5", "-1.5"),
            (Some(OwnedLeaf::Int(2)), "-5", "-3"),
            (Some(OwnedLeaf::Int(2)), "0.5", "2.5"),
            (Some(OwnedLeaf::Double(0.5)), "0.5", "1"),
            (Some(OwnedLeaf::Int(i64::MAX)), "-1", "9223372036854775806"),
            (Some(OwnedLeaf::Int(i64::MAX)), "1", "9223372036854776000"),
            (Some(OwnedLeaf::Double(f64::MAX)), "1e308", "1.7976931348623157e308"),
        ] {
            check(old, &by(number), expected);
        }
    }
}
