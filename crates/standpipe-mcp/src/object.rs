//! A JSON object as its members, whose values stay the bytes that came: to look at some of them, to change some, and to write the
//! rest as it was. White space between members is not kept; their order is.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use standpipe_wire::jsonrpc::Malformed;

/// The members of an object, in their order.
#[derive(Clone, Debug, Default)]
pub struct Object<'a> {
    members: Vec<(Cow<'a, str>, Cow<'a, [u8]>)>,
}

impl<'a> Object<'a> {
    /// Takes an object apart.
    ///
    /// # Errors
    /// It is none, or a member stands twice: two readers could take it for two values.
    pub fn parse(json: &'a [u8]) -> Result<Self, Malformed> {
        let refused = |error: serde_json::Error| match error.classify() {
            serde_json::error::Category::Data => Malformed::Invalid("not an object whose members stand once"),
            _ => Malformed::Json(error.to_string()),
        };
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let members = deserializer.deserialize_map(Members).map_err(refused)?;
        deserializer.end().map_err(refused)?;
        Ok(Self { members })
    }

    /// The value of a member, which is JSON.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.position(name).map(|at| &*self.members[at].1)
    }

    /// The value of a member that is a string.
    pub fn text(&self, name: &str) -> Option<String> {
        serde_json::from_slice(self.get(name)?).ok()
    }

    /// The object that a member is; an empty one where there is none.
    ///
    /// # Errors
    /// As [`Object::parse`].
    pub fn object(&self, name: &str) -> Result<Object<'_>, Malformed> {
        self.get(name).map_or_else(|| Ok(Object::default()), Object::parse)
    }

    /// Gives a member another value, which is JSON; a new one becomes the last.
    pub fn set(&mut self, name: &'a str, value: impl Into<Cow<'a, [u8]>>) {
        match self.position(name) {
            Some(at) => self.members[at].1 = value.into(),
            None => self.members.push((name.into(), value.into())),
        }
    }

    /// Adds a member unless there is one of that name.
    pub fn set_default(&mut self, name: &'a str, value: impl Into<Cow<'a, [u8]>>) {
        if self.position(name).is_none() {
            self.members.push((name.into(), value.into()));
        }
    }

    /// Takes a member away, and gives its value.
    pub fn remove(&mut self, name: &str) -> Option<Cow<'a, [u8]>> {
        self.position(name).map(|at| self.members.remove(at).1)
    }

    /// Whether it has no members.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Names and values, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.members.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The object as JSON.
    pub fn write(&self) -> Vec<u8> {
        let bytes: usize = self.members.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
        let mut out = Vec::with_capacity(bytes + 2);
        out.push(b'{');
        for (name, value) in &self.members {
            if out.len() > 1 {
                out.push(b',');
            }
            serde_json::to_writer(&mut out, name).expect("a string can be written into memory");
            out.push(b':');
            out.extend_from_slice(value);
        }
        out.push(b'}');
        out
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.members.iter().position(|(has, _)| has == name)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(Cow<'de, str>, Cow<'de, [u8]>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        let mut seen = HashSet::new();
        while let Some(Key(key)) = map.next_key()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom("a member stands twice"));
            }
            let value: &RawValue = map.next_value()?;
            members.push((key, Cow::Borrowed(value.get().as_bytes())));
        }
        Ok(members)
    }
}

/// A key, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_changed_stays_as_it_was() {
        let json = br#"{ "z":9007199254740993, "a\"":[1, 2.0] ,"m":{"x" : 1}}"#;
        let mut object = Object::parse(json).unwrap();
        object.set("n", &b"null"[..]);
        object.set("m", b"{}".to_vec());
        object.set_default("z", &b"0"[..]);
        assert_eq!(object.remove("missing"), None);
        assert_eq!(
            String::from_utf8(object.write()).unwrap(),
            r#"{"z":9007199254740993,"a\"":[1, 2.0],"m":{},"n":null}"#
        );
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let check =
            |json: &str, code: i64| assert_eq!(Object::parse(json.as_bytes()).unwrap_err().code(), code, "{json}");
        check("", -32_700);
        check("{", -32_700);
        check("{}x", -32_700);
        check("[]", -32_600);
        check("null", -32_600);
        check(r#"{"a":1,"\u0061":2}"#, -32_600);
        assert!(Object::parse(b"{}").unwrap().is_empty());
    }
}
