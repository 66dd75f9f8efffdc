//! A signed token in compact form (RFC 7515 §7.1, RFC 7519), taken apart but not judged: nothing in
//! it may be believed before [`Jwt::is_signed_by`] said so. JSON with a name twice is refused, for two
//! readers could take it for two tokens.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::keys::{Algorithm, Key};

/// Longest name of a key, in bytes.
const KID_BYTES_MAX: usize = 256;

/// Why a token is none, for the log of whoever runs the server; the caller hears one sentence for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("not three parts of base64url")]
    Shape,
    #[error("header or claims are no JSON object, or have a name twice")]
    Json,
    #[error("the algorithm is none of HS256, RS256, ES256, EdDSA")]
    Algorithm,
    #[error("critical extensions are not understood")]
    Critical,
    #[error("the key id is no text of up to {KID_BYTES_MAX} bytes")]
    KeyId,
}

/// A token whose signature is not checked yet.
#[derive(Debug)]
pub(crate) struct Jwt<'t> {
    pub(crate) algorithm: Algorithm,
    pub(crate) key_id: Option<String>,
    /// What it says about its bearer.
    pub(crate) claims: Map<String, Value>,
    signed: &'t str,
    signature: &'t str,
}

impl<'t> Jwt<'t> {
    /// Takes `token` apart; its length was limited by the caller.
    pub(crate) fn parse(token: &'t str) -> Result<Self, Malformed> {
        let (signed, signature) = token.rsplit_once('.').ok_or(Malformed::Shape)?;
        let (header, claims) = signed.split_once('.').ok_or(Malformed::Shape)?;
        if claims.contains('.') || signature.is_empty() {
            return Err(Malformed::Shape);
        }
        let header = object(header)?;
        if header.contains_key("crit") {
            return Err(Malformed::Critical);
        }
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(Algorithm::named);
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) if !kid.is_empty() && kid.len() <= KID_BYTES_MAX => Some(kid.clone()),
            Some(_) => return Err(Malformed::KeyId),
        };
        let algorithm = algorithm.ok_or(Malformed::Algorithm)?;
        Ok(Self { algorithm, key_id, claims: object(claims)?, signed, signature })
    }

    /// Was it signed with this key? Never by another algorithm than the key's own, whatever the header says.
    pub(crate) fn is_signed_by(&self, key: &Key) -> bool {
        self.algorithm == key.algorithm() && key.verify(self.signed.as_bytes(), self.signature)
    }

    /// A claim that is text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.claims.get(name)?.as_str()
    }
}

fn object(part: &str) -> Result<Map<String, Value>, Malformed> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| Malformed::Shape)?;
    match unambiguous(&json) {
        Ok(Value::Object(object)) => Ok(object),
        _ => Err(Malformed::Json),
    }
}

/// JSON in which no object has a name twice.
pub(super) fn unambiguous(json: &[u8]) -> serde_json::Result<Value> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let value = Unambiguous.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

struct Unambiguous;

impl<'de> DeserializeSeed<'de> for Unambiguous {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unambiguous {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON in which no object has a name twice")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(Self)? {
            array.push(item);
        }
        Ok(array.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(Self)?;
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a name is there twice"));
            }
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(json: &str) -> String {
        URL_SAFE_NO_PAD.encode(json)
    }

    #[test]
    fn what_is_no_token_is_told_apart() {
        let check = |header: &str, claims: &str, expected: Option<Malformed>| {
            let token = format!("{}.{}.c2ln", part(header), part(claims));
            assert_eq!(Jwt::parse(&token).err(), expected, "{header} {claims}");
        };
        let good = r#"{"alg":"ES256"}"#;
        check(good, "{}", None);
        check(r#"{"alg":"ES256","kid":"../../etc/passwd"}"#, "{}", None);
        check(r#"{"alg":"none"}"#, "{}", Some(Malformed::Algorithm));
        check(r#"{"alg":"NoNe"}"#, "{}", Some(Malformed::Algorithm));
        check(r#"{"alg":"HS512"}"#, "{}", Some(Malformed::Algorithm));
        check(r#"{"alg":["ES256"]}"#, "{}", Some(Malformed::Algorithm));
        check("{}", "{}", Some(Malformed::Algorithm));
        check(r#"{"alg":"ES256","alg":"none"}"#, "{}", Some(Malformed::Json));
        check(r#"{"alg":"ES256","crit":["b64"],"b64":false}"#, "{}", Some(Malformed::Critical));
        check(r#"{"alg":"ES256","crit":[]}"#, "{}", Some(Malformed::Critical));
        check(r#"{"alg":"ES256","kid":7}"#, "{}", Some(Malformed::KeyId));
        check(&format!(r#"{{"alg":"ES256","kid":"{}"}}"#, "k".repeat(257)), "{}", Some(Malformed::KeyId));
        check(good, r#"{"sub":"a","sub":"b"}"#, Some(Malformed::Json));
        check(good, r#"{"d":{"uid":"a","uid":"b"}}"#, Some(Malformed::Json));
        check(good, r#"{"a":1} x"#, Some(Malformed::Json));
        check(good, "[]", Some(Malformed::Json));
        check(good, &format!("{{\"a\":{}1{}}}", "[".repeat(500), "]".repeat(500)), Some(Malformed::Json));
        let (header, claims) = (part(good), part("{}"));
        for bad in [
            String::new(),
            ".".into(),
            "..".into(),
            format!("{header}.{claims}"),
            format!("{header}.{claims}."),
            format!("{header}.{claims}.c2ln.c2ln"),
            format!("{header}={claims}.c2ln"),
            format!("{header}==.{claims}.c2ln"),
            format!(" {header}.{claims}.c2ln"),
            format!("{header}.{claims}\n.c2ln"),
        ] {
            assert_eq!(Jwt::parse(&bad).err(), Some(Malformed::Shape), "{bad}");
        }
    }
}
