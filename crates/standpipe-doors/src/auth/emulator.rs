//! The emulator's conventions, for `standpipe dev` only: `owner` is the administrator, and a token
//! without a signature is a user.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use standpipe_engine::Identity;

use super::user;

/// Who the bearer of `credential` is; `None` when it is neither.
pub(super) fn identify(credential: &str) -> Option<Identity> {
    if credential == "owner" { Some(Identity::Admin) } else { unsigned(credential) }
}

/// A JWT with `alg: none`. Its expiry is not enforced: mock tokens are born expired.
fn unsigned(token: &str) -> Option<Identity> {
    let mut parts = token.split('.');
    let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
    let header = decode(header)?;
    if !signature.is_empty() || parts.next().is_some() || header.get("alg")?.as_str()? != "none" {
        return None;
    }
    let claims = decode(claims)?;
    let uid = ["user_id", "sub", "uid"].iter().find_map(|name| claims.get(name)?.as_str())?.to_owned();
    Some(user(&uid, claims, Value::Null))
}

fn decode(part: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_and_unsigned_tokens_are_known() {
        assert_eq!(identify("owner"), Some(Identity::Admin));
        let encode = |json: &str| URL_SAFE_NO_PAD.encode(json);
        let token = format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(r#"{"sub":"maya"}"#));
        assert!(matches!(identify(&token), Some(Identity::User(user)) if user.uid() == "maya"));
        let signed = format!("{}.{}.abc", encode(r#"{"alg":"HS256"}"#), encode(r#"{"sub":"maya"}"#));
        for bad in [&signed[..], "a.b.c", "", "owner ", "."] {
            assert_eq!(identify(bad), None, "{bad}");
        }
    }
}
