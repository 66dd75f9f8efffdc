//! Who may speak for whom: issuers with their keys, and what a token's claims must say before its
//! bearer is somebody. Signatures are checked in `keys`, sets of keys are fetched in `key_set`.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Uri;
use serde_json::{Map, Value, json};
use standpipe_engine::Identity;

use super::jwt::Jwt;
use super::key_set::{Found, KeySet};
use super::keys::{Algorithm, Key};
use super::{Identified, Terms};

/// Where Google publishes the keys that sign Firebase's ID tokens.
const FIREBASE_KEYS: &str = "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com";

/// What the issuer of Firebase's ID tokens begins with; the project's id follows.
const FIREBASE_ISSUER: &str = "https://securetoken.google.com/";

/// How far the clock of an issuer may be ahead of ours.
const LEEWAY_S: u64 = 60;

/// Longest uid, in characters: Firebase's own limit.
const UID_CHARS_MAX: usize = 128;

/// How long a legacy token (with the claim `d`) lasts that does not say so itself, from `iat`: a day.
const LEGACY_LIFE_S: u64 = 86_400;

/// Who signs tokens, and what is believed of them.
#[derive(Clone, Debug)]
pub struct Issuer {
    keys: Keys,
    firebase: bool,
    issuer: Option<String>,
    audience: Option<String>,
    administrators: bool,
}

#[derive(Clone, Debug)]
enum Keys {
    One { id: Option<String>, key: Arc<Key> },
    Set(Arc<KeySet>),
}

/// Why the claims of a well-signed token are not believed; for the log of whoever runs the server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unbelieved {
    #[error("it has expired")]
    Expired,
    #[error("the claim {0} is missing or not of its type")]
    Missing(&'static str),
    #[error("the claim {0} is in the future")]
    Future(&'static str),
    #[error("it was issued by somebody else: claim iss")]
    Issuer,
    #[error("it is for somebody else: claim aud")]
    Audience,
    #[error("the uid (user_id, sub) is missing, empty or longer than {UID_CHARS_MAX} characters")]
    Uid,
}

/// What an issuer says about a token.
pub(crate) enum Spoken {
    /// Signed by it.
    Signed,
    /// Not with one of its keys.
    NotMine,
    /// Perhaps with one that has to be fetched first.
    Unknown(Arc<KeySet>),
}

impl Issuer {
    /// Firebase Authentication for the project of this id; its keys come from Google, or from `url`.
    ///
    /// # Errors
    /// Text: the id is none, or the address is none of `https`.
    pub fn firebase(project: &str, url: Option<&str>) -> Result<Self, String> {
        let id = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | ':' | '.');
        if project.is_empty() || project.len() > 128 || !project.chars().all(id) {
            return Err(format!("{project:?} is no project id: it is in the Firebase console, as in my-project-1a2b3"));
        }
        let set = KeySet::new(key_url(url.unwrap_or(FIREBASE_KEYS))?, Algorithm::RS256);
        Ok(Self {
            keys: Keys::Set(set),
            firebase: true,
            issuer: Some(format!("{FIREBASE_ISSUER}{project}")),
            audience: Some(project.to_owned()),
            administrators: false,
        })
    }

    /// Whoever has the other half of `key`, or it itself where it is a secret. With `id`, only tokens that name it.
    pub fn own(key: Key, id: Option<String>) -> Self {
        let keys = Keys::One { id, key: Arc::new(key) };
        Self { keys, firebase: false, issuer: None, audience: None, administrators: false }
    }

    /// An identity provider that publishes its keys at `url` (RFC 7517), of which those for `algorithm` count.
    ///
    /// # Errors
    /// Text: the address is none of `https`.
    pub fn published(url: &str, algorithm: Algorithm) -> Result<Self, String> {
        if algorithm == Algorithm::HS256 {
            return Err("a secret can't be published: use RS256, ES256 or EdDSA with url".into());
        }
        let keys = Keys::Set(KeySet::new(key_url(url)?, algorithm));
        Ok(Self { keys, firebase: false, issuer: None, audience: None, administrators: false })
    }

    /// Only tokens with this `iss`.
    #[must_use]
    pub fn issuer(mut self, issuer: Option<String>) -> Self {
        self.issuer = issuer;
        self
    }

    /// Only tokens for this `aud`. Without it, only tokens for nobody in particular (RFC 7519 §4.1.3).
    #[must_use]
    pub fn audience(mut self, audience: Option<String>) -> Self {
        self.audience = audience;
        self
    }

    /// Its tokens may make administrators.
    #[must_use]
    pub fn administrators(mut self, may: bool) -> Self {
        self.administrators = may;
        self
    }

    /// What `iss` must be, where that is said.
    pub(super) fn name(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    pub(super) fn key_set(&self) -> Option<&Arc<KeySet>> {
        match &self.keys {
            Keys::Set(set) => Some(set),
            Keys::One { .. } => None,
        }
    }

    /// Takes the keys of `set` over, if they are from the same place.
    pub(super) fn keep(&mut self, set: &Arc<KeySet>) {
        if let Keys::Set(own) = &mut self.keys
            && own.is_same(set)
        {
            *own = set.clone();
        }
    }

    /// Is the token signed by this issuer? Asked of all that could be; only one can answer yes.
    pub(super) fn spoke(&self, jwt: &Jwt<'_>) -> Spoken {
        // A published set is not asked for what its issuer can't have said.
        let named = jwt.text("iss");
        match &self.keys {
            Keys::One { id, key } => {
                let meant = id.is_none() || *id == jwt.key_id;
                if meant && jwt.is_signed_by(key) { Spoken::Signed } else { Spoken::NotMine }
            }
            Keys::Set(set) => {
                let other = self.issuer.as_deref().is_some_and(|issuer| named != Some(issuer));
                let Some(id) = jwt.key_id.as_deref().filter(|_| !other && jwt.algorithm == set.algorithm()) else {
                    return Spoken::NotMine;
                };
                match set.find(id) {
                    Found::Key(keys) if keys.get(id).is_some_and(|key| jwt.is_signed_by(key)) => Spoken::Signed,
                    Found::Key(_) => Spoken::NotMine,
                    Found::Unknown => Spoken::Unknown(set.clone()),
                }
            }
        }
    }

    /// Who the bearer of a token is that this issuer signed.
    pub(super) fn believe(&self, jwt: &Jwt<'_>, admin_claim: &str, now: SystemTime) -> Result<Identified, Unbelieved> {
        let claims = &jwt.claims;
        let expires = self.check_times(claims, seconds_of(now))?;
        if self.issuer.is_some() && jwt.text("iss") != self.issuer.as_deref() {
            return Err(Unbelieved::Issuer);
        }
        self.check_audience(claims.get("aud"))?;
        let admin = self.administrators && claims.get(admin_claim) == Some(&Value::Bool(true));
        let identity = if admin { Identity::Admin } else { self.user(claims)? };
        let expires_at = UNIX_EPOCH.checked_add(Duration::from_secs(expires));
        Ok(Identified { identity, expires_at, terms: Some(Terms::of(claims)) })
    }

    /// When the token expires, in seconds since 1970.
    fn check_times(&self, claims: &Map<String, Value>, now: u64) -> Result<u64, Unbelieved> {
        let time = |name| match claims.get(name) {
            None => Ok(None),
            Some(value) => seconds(value).map(Some).ok_or(Unbelieved::Missing(name)),
        };
        let issued = time("iat")?;
        let expires = match time("exp")? {
            Some(expires) => expires,
            None if claims.contains_key("d") && !self.firebase => {
                issued.ok_or(Unbelieved::Missing("exp"))?.saturating_add(LEGACY_LIFE_S)
            }
            None => return Err(Unbelieved::Missing("exp")),
        };
        if expires <= now {
            return Err(Unbelieved::Expired);
        }
        for name in ["iat", "nbf", "auth_time"] {
            match time(name)? {
                Some(time) if time > now.saturating_add(LEEWAY_S) => return Err(Unbelieved::Future(name)),
                None if self.firebase && name != "nbf" => return Err(Unbelieved::Missing(name)),
                _ => {}
            }
        }
        Ok(expires)
    }

    fn check_audience(&self, told: Option<&Value>) -> Result<(), Unbelieved> {
        let is = |value: &Value| value.as_str() == self.audience.as_deref();
        let meant = match (told, &self.audience) {
            (None, wanted) => wanted.is_none(),
            (Some(_), None) => false,
            (Some(Value::Array(all)), Some(_)) if !self.firebase => all.iter().any(is),
            (Some(one), Some(_)) => is(one),
        };
        if meant { Ok(()) } else { Err(Unbelieved::Audience) }
    }

    fn user(&self, claims: &Map<String, Value>) -> Result<Identity, Unbelieved> {
        if let Some(auth @ Value::Object(legacy)) = claims.get("d").filter(|_| !self.firebase) {
            uid(legacy, &["uid"])?;
            return Ok(Identity::user(auth.clone()));
        }
        if self.firebase {
            uid(claims, &["sub"])?;
        }
        let uid = uid(claims, &["user_id", "sub"])?.to_owned();
        Ok(super::user(&uid, Value::Object(claims.clone()), json!("custom")))
    }
}

fn uid<'c>(claims: &'c Map<String, Value>, names: &[&str]) -> Result<&'c str, Unbelieved> {
    let uid = names.iter().find_map(|name| claims.get(*name)).and_then(Value::as_str);
    uid.filter(|uid| !uid.is_empty() && uid.chars().count() <= UID_CHARS_MAX).ok_or(Unbelieved::Uid)
}

/// A NumericDate (RFC 7519 §2), rounded down.
fn seconds(value: &Value) -> Option<u64> {
    let seconds = value.as_f64().filter(|seconds| (0.0..1e12).contains(seconds))?;
    Some(seconds as u64)
}

fn seconds_of(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// An address that keys may come from: nobody on the way can put his own in their place.
fn key_url(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|error| format!("{text:?} is no address: {error}"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match uri.scheme_str() {
        Some("https") if !host.is_empty() => Ok(uri),
        Some("http") if local => Ok(uri),
        _ => Err(format!("{text:?}: keys are fetched over https (http only from this machine)")),
    }
}

#[cfg(test)]
#[path = "issuers_tests.rs"]
mod tests;
