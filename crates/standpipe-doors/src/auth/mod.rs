//! Credentials to identities, for every door: the administrator's token, tokens signed by issuers the
//! configuration names, and in `standpipe dev` the emulator's conventions. What an identity may do is
//! the rules' matter, and what a door says about a refusal is the door's.
//!
//! ```text
//! credential ─ cache ─ jwt (taken apart) ─ issuers (key, then claims) ─ Identified
//!                                             └ key_set (fetched by one task)
//! ```

mod cache;
mod emulator;
mod expiry;
mod fetch;
mod issuers;
mod jwt;
mod key_set;
mod keys;
mod metrics;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use standpipe_engine::{Error, ErrorKind, Identity};
use standpipe_serve::{LimitsHandle, Peer};
use tokio::sync::Notify;

use self::cache::{Cache, digest};
pub(crate) use self::expiry::{Expiry, instant};
use self::fetch::Fetcher;
pub use self::issuers::Issuer;
use self::issuers::{Spoken, Unbelieved};
use self::jwt::{Jwt, Malformed};
use self::key_set::KeySet;
pub use self::keys::{Algorithm, Key, SECRET_BYTES_MIN};

/// How credentials are judged; a handle that is cheap to clone.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    limits: LimitsHandle,
    authority: ArcSwap<Authority>,
    reloaded: Notify,
    cache: Cache,
    counts: Counts,
}

/// Who is believed. Without anything nobody is, and every credential is refused.
#[derive(Clone, Debug)]
pub struct Authority {
    /// `owner` is the administrator and tokens need no signature: only for `standpipe dev`.
    pub emulator: bool,
    /// The secret of the data folder.
    pub admin_token: Option<String>,
    /// Who signs tokens.
    pub issuers: Vec<Issuer>,
    /// The claim that is `true` in an administrator's token.
    pub admin_claim: String,
}

impl Default for Authority {
    fn default() -> Self {
        Self { emulator: false, admin_token: None, issuers: Vec::new(), admin_claim: "admin".into() }
    }
}

impl Authority {
    fn key_sets(&self) -> impl Iterator<Item = &Arc<KeySet>> {
        self.issuers.iter().filter_map(Issuer::key_set)
    }

    /// Changes when keys do.
    fn version(&self) -> u64 {
        self.key_sets().map(|set| set.version()).sum()
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
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
    /// What its token says about its use; `None` where it is no token.
    pub terms: Option<Arc<Terms>>,
}

impl Identified {
    /// An identity without an end.
    pub(crate) fn lasting(identity: Identity) -> Self {
        Self { identity, expires_at: None, terms: None }
    }
}

/// What a token says about its use, beside who its bearer is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// What it is narrowed to (`scope`, RFC 8693 §4.2, or `scp`), separated by spaces; `None` where it does not say.
    pub scopes: Option<String>,
    /// Whom it is for (`aud`).
    pub audiences: Vec<String>,
}

impl Terms {
    /// Reads them out of a token's claims.
    fn of(claims: &Map<String, Value>) -> Arc<Self> {
        let texts = |value: &Value| match value {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(all) => Some(all.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
            _ => None,
        };
        let scopes = claims.get("scope").or_else(|| claims.get("scp"));
        Arc::new(Self {
            // What is there and no text narrows to nothing.
            scopes: scopes.map(|scopes| texts(scopes).unwrap_or_default().join(" ")),
            audiences: claims.get("aud").and_then(texts).unwrap_or_default(),
        })
    }
}

/// What was said about credentials, for the metrics.
#[derive(Debug, Default)]
struct Counts {
    verified: AtomicU64,
    remembered: AtomicU64,
    refused: AtomicU64,
    expired: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Why a credential is not believed.
enum Disbelief {
    /// For good.
    Refused(Error),
    /// Perhaps only until this set is fetched.
    Wants(Arc<KeySet>),
}

impl From<Error> for Disbelief {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// Why a token is refused, for the log; the caller hears one sentence for all.
#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("the token is malformed: {0}")]
    Malformed(Malformed),
    #[error("the token is not believed: {0}")]
    Unbelieved(Unbelieved),
    #[error("the token is longer than token_bytes_max")]
    TooLong,
    #[error("the token is signed with no key of ours: none is for its algorithm, key id and issuer, or it is forged")]
    NoKey,
    #[error("`owner` is the emulator's administrator, and this is no emulator")]
    Owner,
    #[error("no emulator takes a signed token whose key it does not know")]
    Signed,
}

impl Credentials {
    /// Judges by `authority` until [`Credentials::reload`]; key sets are fetched by [`Credentials::keep_keys`].
    pub fn new(authority: Authority, limits: LimitsHandle) -> Self {
        Self(Arc::new(Inner {
            limits,
            authority: ArcSwap::from_pointee(authority),
            reloaded: Notify::new(),
            cache: Cache::default(),
            counts: Counts::default(),
        }))
    }

    /// Judges by another authority from now on. Key sets that stay keep their keys.
    pub fn reload(&self, mut authority: Authority) {
        let inner = &*self.0;
        for set in inner.authority.load().key_sets() {
            authority.issuers.iter_mut().for_each(|issuer| issuer.keep(set));
        }
        inner.authority.store(Arc::new(authority));
        inner.cache.clear();
        inner.reloaded.notify_one();
    }

    /// Fetches the key sets and keeps them fresh; runs until it is dropped.
    pub async fn keep_keys(self) {
        let inner = &*self.0;
        let mut fetcher = None;
        loop {
            let authority = inner.authority.load_full();
            let sets: Vec<Arc<KeySet>> = authority.key_sets().cloned().collect();
            if !sets.is_empty() && fetcher.is_none() {
                match Fetcher::new() {
                    Ok(made) => fetcher = Some(made),
                    Err(error) => tracing::error!(error, "keys of token issuers can't be fetched"),
                }
            }
            let fresh = async {
                if let Some(fetcher) = &fetcher {
                    join_all(sets.iter().map(|set| set.keep_fresh(fetcher, &inner.limits))).await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = fresh => {}
                () = inner.reloaded.notified() => {}
            }
        }
    }

    /// Whether the emulator's conventions hold.
    pub(crate) fn is_emulator(&self) -> bool {
        self.0.authority.load().emulator
    }

    /// The limits that hold here.
    pub(crate) fn limits(&self) -> &LimitsHandle {
        &self.0.limits
    }

    /// Where callers can get a token: the issuers that are named by an address.
    pub(crate) fn issuer_urls(&self) -> Vec<String> {
        let authority = self.0.authority.load();
        let named = authority.issuers.iter().filter_map(Issuer::name);
        named.filter(|name| name.starts_with("https://") || name.starts_with("http://")).map(str::to_owned).collect()
    }

    /// Whether who asks is an operator, who may have any command run: the bearer of the data folder's secret on this
    /// machine, or a process of the server's own user over its Unix socket that shows no other credential. The
    /// emulator's `owner` is none: every page of a browser can say it.
    pub(crate) fn is_operator(&self, credential: Option<&str>, peer: Peer) -> bool {
        match (credential, self.0.authority.load().admin_token.as_deref()) {
            (Some(credential), Some(secret)) => peer.is_local() && same(secret, credential),
            (Some(_), None) => false,
            (None, _) => peer.is_own_user(),
        }
    }

    /// Who the caller is. Waits only where a key set has to be fetched first.
    ///
    /// # Errors
    /// `Unauthenticated` for a credential that is not one of ours, or not over such a connection; `Unavailable`
    /// where the keys that would tell can't be fetched now.
    pub(crate) async fn identify(&self, caller: Caller<'_>) -> Result<Identified, Error> {
        match self.judge(caller) {
            Ok(identified) => Ok(identified),
            Err(Disbelief::Refused(error)) => Err(error),
            Err(Disbelief::Wants(set)) => {
                // In a box: this is rare, and every request has room for the future.
                Box::pin(set.fetched_anew(&self.0.limits)).await;
                self.identify_now(caller)
            }
        }
    }

    /// As [`Credentials::identify`], with the keys that are here.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn identify_now(&self, caller: Caller<'_>) -> Result<Identified, Error> {
        self.judge(caller).map_err(|disbelief| match disbelief {
            Disbelief::Refused(error) => error,
            Disbelief::Wants(set) if set.has_keys() => self.refused(unparsable(Cause::NoKey)),
            Disbelief::Wants(_) => {
                Error::unavailable("the keys that check this token can't be fetched now; try again in a minute")
            }
        })
    }

    fn judge(&self, caller: Caller<'_>) -> Result<Identified, Disbelief> {
        let Some(credential) = caller.credential else {
            return match caller.act_as {
                None => Ok(Identified::lasting(Identity::Anonymous)),
                Some(_) => Err(not_administrator().into()),
            };
        };
        let authority = self.0.authority.load();
        let known = self.bearer(&authority, credential)?;
        if known.identity == Identity::Admin && !caller.secure && !authority.emulator {
            return Err(self.refused(insecure()).into());
        }
        match (caller.act_as, &known.identity) {
            (None, _) => Ok(known),
            (Some(json), Identity::Admin) => Ok(Identified { identity: act_as(json)?, ..known }),
            (Some(_), _) => Err(not_administrator().into()),
        }
    }

    /// Whose credential it is.
    fn bearer(&self, authority: &Authority, credential: &str) -> Result<Identified, Disbelief> {
        let inner = &*self.0;
        let limits = inner.limits.load();
        if authority.admin_token.as_deref().is_some_and(|token| same(token, credential)) {
            return Ok(Identified::lasting(Identity::Admin));
        }
        if authority.emulator
            && let Some(identity) = emulator::identify(credential)
        {
            let terms = identity.auth().and_then(|auth| auth.get("token")?.as_object()).map(Terms::of);
            return Ok(Identified { terms, ..Identified::lasting(identity) });
        }
        if credential == "owner" {
            return Err(self.refused(unparsable(Cause::Owner)).into());
        }
        if credential.len() > limits.token_bytes_max {
            return Err(self.refused(unparsable(Cause::TooLong)).into());
        }
        if authority.issuers.is_empty() {
            let cause = if authority.emulator { Cause::Signed } else { Cause::NoKey };
            return Err(self.refused(unparsable(cause)).into());
        }
        let (now, version, digest) = (SystemTime::now(), authority.version(), digest(credential));
        if let Some(known) = inner.cache.get(&digest, version, now) {
            count(&inner.counts.remembered);
            return Ok(known);
        }
        let known = self.verify(authority, credential, now)?;
        count(&inner.counts.verified);
        inner.cache.put(digest, version, known.clone(), limits.verified_tokens_max);
        Ok(known)
    }

    fn verify(&self, authority: &Authority, token: &str, now: SystemTime) -> Result<Identified, Disbelief> {
        let jwt = Jwt::parse(token).map_err(|error| self.refused(unparsable(Cause::Malformed(error))))?;
        let mut wants = None;
        for issuer in &authority.issuers {
            match issuer.spoke(&jwt) {
                Spoken::Signed => {
                    let believed = issuer.believe(&jwt, &authority.admin_claim, now);
                    return believed.map_err(|cause| self.refused(unbelieved(cause)).into());
                }
                Spoken::NotMine => {}
                Spoken::Unknown(set) => wants = Some(set),
            }
        }
        Err(wants.map_or_else(|| self.refused(unparsable(Cause::NoKey)).into(), Disbelief::Wants))
    }

    /// Counts a refusal, and passes it on.
    fn refused(&self, error: Error) -> Error {
        let Counts { refused, expired, .. } = &self.0.counts;
        count(if error.message() == EXPIRED { expired } else { refused });
        error
    }
}

/// What clients match on (firebase-rtdb §9.6).
pub(crate) const EXPIRED: &str = "Auth token is expired";

fn unbelieved(cause: Unbelieved) -> Error {
    match cause {
        Unbelieved::Expired => Error::new(ErrorKind::Unauthenticated, EXPIRED),
        cause => unparsable(Cause::Unbelieved(cause)),
    }
}

fn unparsable(cause: Cause) -> Error {
    Error::new(ErrorKind::Unauthenticated, "Could not parse auth token.").with_cause(cause)
}

fn insecure() -> Error {
    Error::new(
        ErrorKind::Unauthenticated,
        "administrators are let in only where nobody can read along: use https, or connect from the server's own \
         machine (loopback or its Unix socket)",
    )
}

fn not_administrator() -> Error {
    Error::new(
        ErrorKind::Unauthenticated,
        "only an administrator may act as somebody else: leave auth_variable_override out, or send an administrator's \
         credential",
    )
}

/// Compares in a time that tells nothing about where the two differ.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// The bearer of a token with these claims; `provider` where they do not name one.
fn user(uid: &str, claims: Value, provider: Value) -> Identity {
    let provider = claims.pointer("/firebase/sign_in_provider").cloned().unwrap_or(provider);
    Identity::user(json!({ "uid": uid, "provider": provider, "token": claims }))
}

fn act_as(json: &str) -> Result<Identity, Error> {
    let refused = || Error::bad_request("auth_variable_override must be a JSON object or null");
    match serde_json::from_str(json).map_err(|_| refused())? {
        Value::Null => Ok(Identity::Anonymous),
        auth @ Value::Object(_) => Ok(Identity::acting_as(auth)),
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests;
