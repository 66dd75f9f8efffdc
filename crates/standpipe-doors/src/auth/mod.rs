//! Credentials to identities, for every door. `dev` speaks the emulator's conventions: `owner` is
//! the administrator, unsigned tokens are users. `serve` knows one administrator token and refuses
//! `owner` always. What an identity may do is the rules' matter, not this module's.

mod emulator;

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};
use standpipe_engine::{Error, ErrorKind, Identity};

/// How credentials are judged; a handle that is cheap to clone.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

enum Inner {
    /// `owner` and unsigned tokens.
    Emulator,
    /// One administrator token.
    AdminToken(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &*self.0 {
            Inner::Emulator => "Emulator",
            Inner::AdminToken(_) => "AdminToken(…)",
        })
    }
}

/// Who says something about itself, and over what.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The credential as sent; `None` is an anonymous caller.
    pub credential: Option<&'a str>,
    /// JSON, or `null`: whom an administrator acts as (`auth_variable_override`, `authvar`; `noauth` is `null`).
    pub act_as: Option<&'a str>,
    /// Nobody can read along: TLS, loopback or a Unix socket (`Session::secure`).
    pub secure: bool,
}

/// Who a caller is.
#[derive(Clone, Debug, PartialEq)]
pub struct Identified {
    /// As the rules see it.
    pub identity: Identity,
    /// When it ends; from then on the session is anonymous. `None` is never.
    pub expires_at: Option<SystemTime>,
}

impl Identified {
    /// An identity without an end.
    fn lasting(identity: Identity) -> Self {
        Self { identity, expires_at: None }
    }
}

impl Credentials {
    /// `owner` and unsigned tokens: only for a server on loopback, in `standpipe dev`.
    pub fn emulator() -> Self {
        Self(Arc::new(Inner::Emulator))
    }

    /// One administrator token and nobody else.
    pub fn admin_token(token: impl Into<String>) -> Self {
        Self(Arc::new(Inner::AdminToken(token.into())))
    }

    /// Whether the emulator's conventions hold.
    pub(crate) fn is_emulator(&self) -> bool {
        matches!(&*self.0, Inner::Emulator)
    }

    /// Who the caller is. Waits only where a key set has to be fetched first.
    ///
    /// # Errors
    /// `Unauthenticated` for a credential that is not one of ours, or not over such a connection.
    pub(crate) async fn identify(&self, caller: Caller<'_>) -> Result<Identified, Error> {
        self.identify_now(caller)
    }

    /// As [`Credentials::identify`], with the keys that are here.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn identify_now(&self, caller: Caller<'_>) -> Result<Identified, Error> {
        let Some(credential) = caller.credential else { return Ok(Identified::lasting(Identity::Anonymous)) };
        let identity = match &*self.0 {
            Inner::Emulator => emulator::identify(credential).ok_or_else(unparsable)?,
            Inner::AdminToken(token) if same(token, credential) => Identity::Admin,
            Inner::AdminToken(_) => return Err(unparsable()),
        };
        let identity = match (caller.act_as, &identity) {
            (Some(json), Identity::Admin) => act_as(json)?,
            _ => identity,
        };
        Ok(Identified::lasting(identity))
    }
}

fn unparsable() -> Error {
    Error::new(ErrorKind::Unauthenticated, "Could not parse auth token.")
}

/// Compares in a time that tells nothing about where the two differ.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// The bearer of a token with these claims.
fn user(uid: &str, claims: Value) -> Identity {
    let provider = claims.pointer("/firebase/sign_in_provider").cloned().unwrap_or(Value::Null);
    Identity::user(json!({ "uid": uid, "provider": provider, "token": claims }))
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

    fn identify(credentials: &Credentials, credential: Option<&str>, act_as: Option<&str>) -> Result<Identity, Error> {
        Ok(credentials.identify_now(Caller { credential, act_as, secure: true })?.identity)
    }

    #[test]
    fn owner_is_refused_in_serve() {
        let credentials = Credentials::admin_token("s3cret");
        assert_eq!(identify(&credentials, Some("s3cret"), None).unwrap(), Identity::Admin);
        for bad in ["owner", "s3cre", "s3crets", ""] {
            let refused = identify(&credentials, Some(bad), None).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unauthenticated);
        }
        assert_eq!(identify(&credentials, None, None).unwrap(), Identity::Anonymous);
    }

    #[test]
    fn an_administrator_may_act_as_a_user() {
        let act = |json| identify(&Credentials::emulator(), Some("owner"), Some(json));
        assert_eq!(act("null").unwrap(), Identity::Anonymous);
        assert!(matches!(act(r#"{"uid":"a"}"#).unwrap(), Identity::User(user) if user.uid() == "a"));
        assert!(act("[]").is_err());
    }
}
