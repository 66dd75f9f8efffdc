//! Credentials of HTTP requests to identities. `dev` speaks the emulator's conventions: `owner` is
//! the administrator, unsigned tokens are users. `serve` knows one administrator credential and
//! refuses `owner` always. Signed tokens come with a later issue.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use standpipe_engine::{Error, ErrorKind, Identity};

/// Which credentials are accepted.
#[derive(Clone)]
pub enum Credentials {
    /// `owner` and unsigned tokens: only for a server on loopback, in `standpipe dev`.
    Emulator,
    /// One administrator token.
    AdminToken(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Emulator => "Emulator",
            Self::AdminToken(_) => "AdminToken(…)",
        })
    }
}

impl Credentials {
    /// The identity behind `credential`; `auth_override` lets an administrator act as a user.
    ///
    /// # Errors
    /// `Unauthenticated` for a credential that is not one of ours.
    pub(crate) fn identify(&self, credential: Option<&str>, auth_override: Option<&str>) -> Result<Identity, Error> {
        let Some(credential) = credential else { return Ok(Identity::Anonymous) };
        let identity = match self {
            Self::Emulator if credential == "owner" => Identity::Admin,
            Self::Emulator => unsigned(credential).ok_or_else(unparsable)?,
            Self::AdminToken(token) if same(token, credential) => Identity::Admin,
            Self::AdminToken(_) => return Err(unparsable()),
        };
        match (auth_override, &identity) {
            (Some(json), Identity::Admin) => act_as(json),
            _ => Ok(identity),
        }
    }
}

fn unparsable() -> Error {
    Error::new(ErrorKind::Unauthenticated, "Could not parse auth token.")
}

/// Compares in a time that tells nothing about where the two differ.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// A JWT with `alg: none`. Its expiry is not enforced: mock tokens are born expired.
fn unsigned(token: &str) -> Option<Identity> {
    let mut parts = token.split('.');
    let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
    let header = decode(header)?;
    if !signature.is_empty() || parts.next().is_some() || header.get("alg")?.as_str()? != "none" {
        return None;
    }
    user(decode(claims)?)
}

fn decode(part: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok()?).ok()
}

fn user(claims: Value) -> Option<Identity> {
    let uid = ["uid", "user_id", "sub"].iter().find_map(|name| claims.get(name)?.as_str())?.to_owned();
    let provider = claims.pointer("/firebase/sign_in_provider").cloned().unwrap_or(Value::Null);
    Some(Identity::user(json!({ "uid": uid, "provider": provider, "token": claims })))
}

fn act_as(json: &str) -> Result<Identity, Error> {
    let refused = || Error::bad_request("auth_variable_override must be a JSON object or null");
    match serde_json::from_str(json).map_err(|_| refused())? {
        Value::Null => Ok(Identity::Anonymous),
        auth @ Value::Object(_) => Ok(Identity::user(auth)),
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emulator_knows_owner_and_unsigned_tokens() {
        let check = |credential: &str| Credentials::Emulator.identify(Some(credential), None);
        assert_eq!(check("owner").unwrap(), Identity::Admin);
        let encode = |json: &str| URL_SAFE_NO_PAD.encode(json);
        let token = format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(r#"{"sub":"maya"}"#));
        assert!(matches!(check(&token).unwrap(), Identity::User(user) if user.uid() == "maya"));
        let signed = format!("{}.{}.abc", encode(r#"{"alg":"HS256"}"#), encode(r#"{"sub":"maya"}"#));
        for bad in [&signed[..], "a.b.c", "", "owner ", "."] {
            assert_eq!(check(bad).unwrap_err().kind(), ErrorKind::Unauthenticated, "{bad}");
        }
    }

    #[test]
    fn owner_is_refused_in_serve() {
        let credentials = Credentials::AdminToken("s3cret".into());
        assert_eq!(credentials.identify(Some("s3cret"), None).unwrap(), Identity::Admin);
        for bad in ["owner", "s3cre", "s3crets", ""] {
            assert_eq!(credentials.identify(Some(bad), None).unwrap_err().kind(), ErrorKind::Unauthenticated);
        }
        assert_eq!(credentials.identify(None, None).unwrap(), Identity::Anonymous);
    }

    #[test]
    fn an_administrator_may_act_as_a_user() {
        let act = |json| Credentials::Emulator.identify(Some("owner"), Some(json));
        assert_eq!(act("null").unwrap(), Identity::Anonymous);
        assert!(matches!(act(r#"{"uid":"a"}"#).unwrap(), Identity::User(user) if user.uid() == "a"));
        assert!(act("[]").is_err());
    }
}
