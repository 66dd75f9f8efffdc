//! Lists in results, item by item as they stand: taken apart and put together without decoding what an item holds.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use standpipe_wire::jsonrpc::Malformed;

/// The items of a JSON array.
///
/// # Errors
/// It is no array.
pub(super) fn items(array: &[u8]) -> Result<Vec<&RawValue>, Malformed> {
    serde_json::from_slice(array).map_err(|error| Malformed::Json(error.to_string()))
}

/// The array of these items.
pub(super) fn array<I: AsRef<[u8]>>(items: &[I]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + items.iter().map(|item| item.as_ref().len() + 1).sum::<usize>());
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item.as_ref());
    }
    out.push(b']');
    out
}

/// The string member `name` of an item, and where it stands in it; `None` where there is none.
///
/// # Errors
/// It stands twice: two readers could take it for two values.
pub(super) fn text(item: &RawValue, name: &str) -> Result<Option<(String, Range<usize>)>, Malformed> {
    struct Find<'n>(&'n str);
    impl<'de> Visitor<'de> for Find<'_> {
        type Value = (Option<&'de RawValue>, bool);
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let (mut found, mut twice) = (None, false);
            while let Some(Key(key)) = map.next_key()? {
                if key == self.0 {
                    twice |= found.replace(map.next_value()?).is_some();
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok((found, twice))
        }
    }
    let whole = item.get();
    if !whole.starts_with('{') {
        return Ok(None);
    }
    let mut deserializer = serde_json::Deserializer::from_str(whole);
    let found = deserializer.deserialize_map(Find(name)).map_err(|error| Malformed::Json(error.to_string()))?;
    let (Some(raw), twice) = found else { return Ok(None) };
    if twice {
        return Err(Malformed::Invalid("an item of a list has a name twice"));
    }
    let start = raw.get().as_ptr().addr() - whole.as_ptr().addr();
    let text = serde_json::from_str(raw.get()).ok();
    Ok(text.map(|text: String| (text, start..start + raw.get().len())))
}

/// The item with the string at `span` replaced.
pub(super) fn replaced(item: &RawValue, span: Range<usize>, text: &str) -> Vec<u8> {
    let whole = item.get().as_bytes();
    let json = serde_json::to_vec(text).expect("a string can be written as JSON");
    [&whole[..span.start], &json, &whole[span.end..]].concat()
}

/// A key, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);
