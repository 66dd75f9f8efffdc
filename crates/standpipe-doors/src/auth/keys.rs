//! Keys that check signatures, each bound to one algorithm when it is read: what a token's header
//! says can choose among keys, never how a key is used. Which key may speak for whom is `issuers`'.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde::{Deserialize, Serialize};

/// Shortest secret of HS256 (RFC 7518 §3.2), in bytes.
pub const SECRET_BYTES_MIN: usize = 32;

/// How a signature is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// HMAC with SHA-256: one secret on both sides.
    HS256,
    /// RSA (PKCS #1 v1.5) with SHA-256, 2048 bits or more: what Firebase signs with.
    RS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::HS256, Self::RS256, Self::ES256, Self::EdDSA];

    /// The algorithm of this name, as tokens spell it.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    /// Its name in tokens and in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::RS256 => "RS256",
            Self::ES256 => "ES256",
            Self::EdDSA => "EdDSA",
        }
    }

    fn implementation(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::HS256 => jsonwebtoken::Algorithm::HS256,
            Self::RS256 => jsonwebtoken::Algorithm::RS256,
            Self::ES256 => jsonwebtoken::Algorithm::ES256,
            Self::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

impl FromStr for Algorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::named(text).ok_or_else(|| format!("{text:?} is no algorithm: use HS256, RS256, ES256 or EdDSA"))
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A key, and the one algorithm it is used with.
pub struct Key {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.algorithm)
    }
}

impl Key {
    /// The key in the bytes of a file: a public key in PEM, or, where it is no PEM, the secret of HS256 (without
    /// the white space around it).
    ///
    /// # Errors
    /// Text that says what is wrong and what to do: a private key, a short secret, a key of another kind.
    pub fn from_file(bytes: &[u8]) -> Result<Self, String> {
        let text = bytes.trim_ascii();
        if !text.starts_with(b"-----BEGIN") {
            if text.len() < SECRET_BYTES_MIN {
                return Err(format!(
                    "a secret of {} bytes is too short for HS256: use {SECRET_BYTES_MIN} or more \
                     (standpipe token keygen --algorithm HS256 makes one)",
                    text.len()
                ));
            }
            return Ok(Self { algorithm: Algorithm::HS256, key: DecodingKey::from_secret(text) });
        }
        if text.windows(b"PRIVATE KEY-----".len()).any(|window| window == b"PRIVATE KEY-----") {
            return Err("this is a private key, and a server needs only the public one: name the .pub file beside it \
                 (openssl pkey -in FILE -pubout makes one)"
                .into());
        }
        let kinds = [
            (Algorithm::EdDSA, DecodingKey::from_ed_pem as fn(&[u8]) -> jsonwebtoken::errors::Result<DecodingKey>),
            (Algorithm::ES256, DecodingKey::from_ec_pem),
            (Algorithm::RS256, DecodingKey::from_rsa_pem),
        ];
        let found = kinds.into_iter().find_map(|(algorithm, read)| Some(Self { algorithm, key: read(text).ok()? }));
        let key = found.ok_or("no public key for RS256, ES256 or EdDSA in PEM (BEGIN PUBLIC KEY)")?;
        // An uncompressed point of P-256 has 65 bytes; other curves have others.
        if key.algorithm == Algorithm::ES256 && key.key.try_get_as_bytes().is_ok_and(|point| point.len() != 65) {
            return Err("this key is on another curve than P-256, which ES256 needs".into());
        }
        Ok(key)
    }

    /// Its algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Is `signature` (base64url) one of `message`?
    pub(super) fn verify(&self, message: &[u8], signature: &str) -> bool {
        jsonwebtoken::crypto::verify(signature, message, &self.key, self.algorithm.implementation()).unwrap_or(false)
    }
}

/// A key of a set (RFC 7517 §4); other members mean nothing to us.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<serde_json::Value>,
}

/// Keys in one set at most.
const KEYS_MAX: usize = 64;

/// The keys for `algorithm` in a key set (RFC 7517 §5), by their ids. What is of no use to us is left out.
///
/// # Errors
/// It is no key set, or has no key that can be used.
pub(super) fn key_set(json: &[u8], algorithm: Algorithm) -> Result<Vec<(String, Key)>, String> {
    let set: JwkSet = serde_json::from_slice(json).map_err(|error| format!("no key set: {error}"))?;
    let keys: Vec<_> = set
        .keys
        .into_iter()
        .take(KEYS_MAX)
        .filter_map(|value| jwk(serde_json::from_value(value).ok()?, algorithm))
        .collect();
    if keys.is_empty() { Err(format!("no key for {algorithm} in the set")) } else { Ok(keys) }
}

fn jwk(jwk: Jwk, algorithm: Algorithm) -> Option<(String, Key)> {
    let meant = jwk.alg.as_deref().is_none_or(|name| name == algorithm.as_str());
    let signs = jwk.purpose.as_deref().is_none_or(|purpose| purpose == "sig");
    if !meant || !signs {
        return None;
    }
    let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
    let key = match (algorithm, jwk.kty.as_str(), jwk.crv.as_deref()) {
        (Algorithm::RS256, "RSA", _) => {
            let (n, e) = (bytes(&jwk.n)?, bytes(&jwk.e)?);
            let modulus = n.iter().position(|byte| *byte != 0).map_or(0, |zeros| n.len() - zeros);
            (modulus >= 256).then(|| DecodingKey::from_rsa_raw_components(&n, &e))?
        }
        (Algorithm::ES256, "EC", Some("P-256")) => {
            let whole = [bytes(&jwk.x)?, bytes(&jwk.y)?].iter().all(|coordinate| coordinate.len() == 32);
            whole.then(|| DecodingKey::from_ec_components(jwk.x.as_deref()?, jwk.y.as_deref()?).ok()).flatten()?
        }
        (Algorithm::EdDSA, "OKP", Some("Ed25519")) => {
            (bytes(&jwk.x)?.len() == 32).then(|| DecodingKey::from_ed_components(jwk.x.as_deref()?).ok()).flatten()?
        }
        // A secret that is handed out is none.
        _ => return None,
    };
    Some((jwk.kid?, Key { algorithm, key }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";

    #[test]
    fn a_file_is_a_key_of_one_kind() {
        let check = |text: &str, expected: Result<Algorithm, &str>| match (Key::from_file(text.as_bytes()), expected) {
            (Ok(key), Ok(algorithm)) => assert_eq!(key.algorithm(), algorithm, "{text}"),
            (Err(told), Err(part)) => assert!(told.contains(part), "{told:?} lacks {part:?}"),
            (other, _) => panic!("{text}: {other:?}"),
        };
        check(&"s".repeat(32), Ok(Algorithm::HS256));
        check(&format!("\n{}\n", "s".repeat(31)), Err("31 bytes is too short"));
        check("", Err("too short"));
        check(ED, Ok(Algorithm::EdDSA));
        check("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----", Err(".pub"));
        check("-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----", Err("no public key"));
        check("-----BEGIN GARBAGE", Err("no public key"));
    }

    #[test]
    fn a_set_gives_the_keys_of_its_algorithm() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let n = URL_SAFE_NO_PAD.encode([0xC1; 256]);
        let short = URL_SAFE_NO_PAD.encode([0xC1; 128]);
        let set = format!(
            r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"e","x":"{x}"}},
            {{"kty":"RSA","kid":"r","alg":"RS256","use":"sig","n":"{n}","e":"AQAB"}},
            {{"kty":"RSA","kid":"short","n":"{short}","e":"AQAB"}},
            {{"kty":"RSA","kid":"enc","use":"enc","n":"{n}","e":"AQAB"}},
            {{"kty":"RSA","n":"{n}","e":"AQAB"}},
            {{"kty":"EC","crv":"P-256","kid":"point","x":"{x}","y":"AA"}},
            {{"kty":"oct","kid":"o","k":"c2VjcmV0"}}, 7, null]}}"#
        );
        let check = |algorithm, expected: &[&str]| {
            let keys = key_set(set.as_bytes(), algorithm).unwrap_or_default();
            let ids: Vec<&str> = keys.iter().map(|(kid, _)| kid.as_str()).collect();
            assert_eq!(ids, expected, "{algorithm}");
        };
        check(Algorithm::EdDSA, &["e"]);
        check(Algorithm::RS256, &["r"]);
        check(Algorithm::ES256, &[]);
        check(Algorithm::HS256, &[]);
        for bad in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[]}"#, "<html>"] {
            assert!(key_set(bad.as_bytes(), Algorithm::RS256).is_err(), "{bad}");
        }
    }
}
