//! Token confusion, end to end inside this module: what is believed, and everything that is not.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::EncodingKey;
use serde_json::{Value, json};
use standpipe_engine::{Error, ErrorKind, Identity};
use standpipe_serve::Limits;

use super::*;

const SECRET: &str = "a secret of at least thirty-two bytes";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn credentials(authority: Authority) -> Credentials {
    Credentials::new(authority, Arc::new(ArcSwap::from_pointee(Limits::default())))
}

fn identify(credentials: &Credentials, credential: Option<&str>, act_as: Option<&str>) -> Result<Identity, Error> {
    Ok(credentials.identify_now(Caller { credential, act_as, secure: true })?.identity)
}

/// A key pair: what signs, and what a server is given.
struct Pair {
    algorithm: Algorithm,
    signs: EncodingKey,
    public: String,
}

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
}

impl Pair {
    fn new(algorithm: Algorithm) -> Self {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let (signs, public) = match algorithm {
            Algorithm::HS256 => (EncodingKey::from_secret(SECRET.as_bytes()), SECRET.to_owned()),
            Algorithm::EdDSA => {
                let der = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
                let pair = Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap();
                (EncodingKey::from_ed_der(der.as_ref()), pem(pair.public_key().as_der().unwrap().as_ref()))
            }
            Algorithm::ES256 => {
                let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.as_ref()).unwrap();
                (EncodingKey::from_ec_der(der.as_ref()), pem(pair.public_key().as_der().unwrap().as_ref()))
            }
            Algorithm::RS256 => {
                let pair = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
                let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
                let private = pem(der.as_ref()).replace("PUBLIC", "PRIVATE");
                (
                    EncodingKey::from_rsa_pem(private.as_bytes()).unwrap(),
                    pem(pair.public_key().as_der().unwrap().as_ref()),
                )
            }
        };
        Self { algorithm, signs, public }
    }

    fn key(&self) -> Key {
        Key::from_file(self.public.as_bytes()).unwrap()
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({ "alg": self.algorithm.as_str(), "typ": "JWT" }), claims)
    }

    /// Signs by this key's algorithm, whatever the header says.
    fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", part(header), part(claims));
        let algorithm = self.algorithm.as_str().parse().unwrap();
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &self.signs, algorithm).unwrap();
        format!("{signed}.{signature}")
    }
}

fn part(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

fn good() -> Value {
    json!({ "sub": "maya", "iat": now(), "exp": now() + 600, "role": "editor" })
}

/// `claims` with some replaced; null removes one.
fn with(mut claims: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

fn told(result: Result<Identity, Error>) -> String {
    match result {
        Ok(Identity::Admin) => "admin".into(),
        Ok(Identity::Anonymous) => "anonymous".into(),
        Ok(Identity::User(user)) => format!("user {}", user.uid()),
        Err(error) if error.kind() == ErrorKind::Unauthenticated => error.message().to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

const UNPARSED: &str = "Could not parse auth token.";

#[test]
fn owner_is_refused_in_serve() {
    let credentials = credentials(Authority { admin_token: Some("s3cret".into()), ..Authority::default() });
    assert_eq!(told(identify(&credentials, Some("s3cret"), None)), "admin");
    for bad in ["owner", "s3cre", "s3crets", "", "S3CRET", "s3cret "] {
        assert_eq!(told(identify(&credentials, Some(bad), None)), UNPARSED, "{bad}");
    }
    assert_eq!(told(identify(&credentials, None, None)), "anonymous");
    let unsigned = format!("{}.{}.", part(&json!({ "alg": "none" })), part(&good()));
    assert_eq!(told(identify(&credentials, Some(&unsigned), None)), UNPARSED);
}

#[test]
fn only_an_administrator_acts_as_somebody_else() {
    let emulator = credentials(Authority { emulator: true, ..Authority::default() });
    let act = |credential, json| told(identify(&emulator, credential, Some(json)));
    assert_eq!(act(Some("owner"), "null"), "anonymous");
    assert_eq!(act(Some("owner"), r#"{"uid":"a"}"#), "user a");
    assert_eq!(act(Some("owner"), "[]"), "BadRequest");
    assert!(act(None, r#"{"uid":"a"}"#).starts_with("only an administrator"));
    let unsigned = format!("{}.{}.", part(&json!({ "alg": "none" })), part(&good()));
    assert!(act(Some(&unsigned), "null").starts_with("only an administrator"));
}

#[test]
fn administrators_are_let_in_only_where_nobody_can_read_along() {
    let pair = Pair::new(Algorithm::EdDSA);
    let issuers = vec![Issuer::own(pair.key(), None).administrators(true)];
    let credentials = credentials(Authority { admin_token: Some("s3cret".into()), issuers, ..Authority::default() });
    let admin = pair.sign(&with(good(), json!({ "admin": true })));
    let user = pair.sign(&good());
    let check = |credential: &str, act_as, secure, expected: &str| {
        let caller = Caller { credential: Some(credential), act_as, secure };
        let told = told(credentials.identify_now(caller).map(|known| known.identity));
        assert!(told.starts_with(expected), "{told:?} is not {expected:?}");
    };
    for credential in ["s3cret", &admin] {
        check(credential, None, true, "admin");
        check(credential, None, false, "administrators are let in only where nobody can read along");
        check(credential, Some("null"), false, "administrators are let in only where nobody can read along");
    }
    check(&user, None, false, "user maya");
}

#[test]
fn every_algorithm_is_verified_and_bound_to_its_key() {
    let pairs = Algorithm::ALL.map(Pair::new);
    for pair in &pairs {
        let credentials =
            credentials(Authority { issuers: vec![Issuer::own(pair.key(), None)], ..Authority::default() });
        let check = |token: &str, expected: &str| {
            assert_eq!(told(identify(&credentials, Some(token), None)), expected, "{}: {token}", pair.algorithm);
        };
        let token = pair.sign(&good());
        check(&token, "user maya");
        check(&token, "user maya");
        // Forged: another payload, signature, or part of one.
        let (head, signature) = token.rsplit_once('.').unwrap();
        let header = head.split_once('.').unwrap().0;
        check(&format!("{header}.{}.{signature}", part(&with(good(), json!({ "sub": "eve" })))), UNPARSED);
        check(&format!("{head}.{}", &signature[..signature.len() - 4]), UNPARSED);
        check(&format!("{head}.{}", "A".repeat(signature.len())), UNPARSED);
        check(&format!("{head}."), UNPARSED);
        check(head, UNPARSED);
        for other in &pairs {
            if other.algorithm == pair.algorithm {
                continue;
            }
            // Signed by another algorithm's key, under its own name and under ours.
            check(&other.sign(&good()), UNPARSED);
            check(&other.sign_as(&json!({ "alg": pair.algorithm.as_str() }), &good()), UNPARSED);
        }
        // The classic: a public key taken for the secret of an HMAC.
        for secret in [pair.public.as_bytes(), pair.public.trim().as_bytes()] {
            let secret = EncodingKey::from_secret(secret);
            let signed = format!("{}.{}", part(&json!({ "alg": "HS256" })), part(&good()));
            let signature =
                jsonwebtoken::crypto::sign(signed.as_bytes(), &secret, jsonwebtoken::Algorithm::HS256).unwrap();
            if pair.algorithm != Algorithm::HS256 {
                check(&format!("{signed}.{signature}"), UNPARSED);
            }
        }
        // Another key of the same kind, put into the header by its bearer.
        let stranger = Pair::new(pair.algorithm);
        if pair.algorithm != Algorithm::HS256 {
            let header = json!({ "alg": pair.algorithm.as_str(), "kid": "x", "jku": "http://127.0.0.1:1/jwks",
                "jwk": { "kty": "oct", "k": "AA" }, "x5u": "file:///etc/passwd" });
            check(&stranger.sign_as(&header, &good()), UNPARSED);
        }
    }
}

#[test]
fn claims_must_say_what_is_asked_for() {
    let pair = Pair::new(Algorithm::EdDSA);
    let issuer = || Issuer::own(pair.key(), Some("k1".into()));
    let strict = issuer().issuer(Some("https://me".into())).audience(Some("db".into()));
    let strict = credentials(Authority { issuers: vec![strict], ..Authority::default() });
    let open = credentials(Authority { issuers: vec![issuer()], ..Authority::default() });
    let check = |credentials: &Credentials, header: Value, changes: Value, expected: &str| {
        let token = pair.sign_as(&with(json!({ "alg": "EdDSA", "kid": "k1" }), header), &with(good(), changes.clone()));
        assert_eq!(told(identify(credentials, Some(&token), None)), expected, "{changes}");
    };
    let (same, expired) = (json!({}), "Auth token is expired");
    for (changes, expected) in [
        (json!({}), "user maya"),
        (json!({ "sub": null, "user_id": "m" }), "user m"),
        (json!({ "user_id": "m" }), "user m"),
        (json!({ "sub": null, "uid": "m" }), UNPARSED),
        (json!({ "sub": "" }), UNPARSED),
        (json!({ "sub": 7 }), UNPARSED),
        (json!({ "sub": "é".repeat(128) }), &format!("user {}", "é".repeat(128))),
        (json!({ "sub": "u".repeat(129) }), UNPARSED),
        (json!({ "exp": null }), UNPARSED),
        (json!({ "exp": now() - 1 }), expired),
        (json!({ "exp": now() }), expired),
        (json!({ "exp": 0 }), expired),
        (json!({ "exp": "never" }), UNPARSED),
        (json!({ "exp": true }), UNPARSED),
        (json!({ "exp": -1 }), UNPARSED),
        (json!({ "exp": 1e300 }), UNPARSED),
        (json!({ "exp": u64::MAX }), UNPARSED),
        (json!({ "exp": now() as f64 + 60.5 }), "user maya"),
        (json!({ "iat": now() + 30 }), "user maya"),
        (json!({ "iat": now() + 300 }), UNPARSED),
        (json!({ "iat": null }), "user maya"),
        (json!({ "nbf": now() + 300 }), UNPARSED),
        (json!({ "nbf": now() - 5 }), "user maya"),
        (json!({ "auth_time": now() + 300 }), UNPARSED),
        // For somebody, but not for us.
        (json!({ "aud": "bank" }), UNPARSED),
        (json!({ "aud": [] }), UNPARSED),
        (json!({ "iss": "anybody" }), "user maya"),
        // Nobody said that this issuer may make administrators.
        (json!({ "admin": true }), "user maya"),
        // Legacy tokens.
        (json!({ "d": { "uid": "old" }, "sub": null }), "user old"),
        (json!({ "d": { "uid": "old" }, "exp": null }), "user old"),
        (json!({ "d": { "uid": "old" }, "exp": null, "iat": null }), UNPARSED),
        (json!({ "d": { "uid": "old" }, "exp": null, "iat": now() - 90_000 }), expired),
        (json!({ "d": { "uid": 7 } }), UNPARSED),
        (json!({ "d": {} }), UNPARSED),
    ] {
        check(&open, same.clone(), changes, expected);
    }
    for (header, expected) in [
        (json!({ "kid": null }), UNPARSED),
        (json!({ "kid": "k2" }), UNPARSED),
        (json!({ "kid": "../k1" }), UNPARSED),
        (json!({ "alg": "none" }), UNPARSED),
        (json!({ "alg": "eddsa" }), UNPARSED),
        (json!({ "crit": ["exp"] }), UNPARSED),
        (json!({ "typ": null }), "user maya"),
    ] {
        check(&open, header, same.clone(), expected);
    }
    let named = json!({ "iss": "https://me", "aud": "db" });
    for (changes, expected) in [
        (json!({}), "user maya"),
        (json!({ "aud": ["a", "db"] }), "user maya"),
        (json!({ "aud": ["a"] }), UNPARSED),
        (json!({ "aud": { "db": true } }), UNPARSED),
        (json!({ "aud": null }), UNPARSED),
        (json!({ "iss": null }), UNPARSED),
        (json!({ "iss": "https://me/" }), UNPARSED),
        (json!({ "iss": ["https://me"] }), UNPARSED),
    ] {
        check(&strict, same.clone(), with(named.clone(), changes), expected);
    }
}

#[test]
fn what_rules_see_of_a_token() {
    let pair = Pair::new(Algorithm::HS256);
    let credentials = credentials(Authority { issuers: vec![Issuer::own(pair.key(), None)], ..Authority::default() });
    let auth = |claims: &Value| match identify(&credentials, Some(&pair.sign(claims)), None).unwrap() {
        Identity::User(user) => user.auth().clone(),
        other => panic!("{other:?}"),
    };
    let claims = with(good(), json!({ "firebase": { "sign_in_provider": "password" } }));
    assert_eq!(auth(&claims), json!({ "uid": "maya", "provider": "password", "token": claims }));
    assert_eq!(auth(&good())["provider"], "custom");
    let legacy = json!({ "d": { "uid": "old", "level": 3 }, "iat": now(), "v": 0 });
    assert_eq!(auth(&legacy), json!({ "uid": "old", "level": 3 }));
}

#[test]
fn administrators_come_from_issuers_that_may_make_them() {
    let pair = Pair::new(Algorithm::ES256);
    let issuers = vec![Issuer::own(pair.key(), None).administrators(true)];
    let credentials = credentials(Authority { issuers, admin_claim: "root".into(), ..Authority::default() });
    let check = |changes: Value, expected: &str| {
        let token = pair.sign(&with(good(), changes.clone()));
        assert_eq!(told(identify(&credentials, Some(&token), None)), expected, "{changes}");
    };
    check(json!({ "root": true }), "admin");
    check(json!({ "root": true, "sub": null }), "admin");
    for other in [json!("true"), json!(1), json!(false), json!([true])] {
        check(json!({ "root": other }), "user maya");
    }
    check(json!({ "admin": true }), "user maya");
    check(json!({ "root": true, "exp": 1 }), "Auth token is expired");
}

#[test]
fn a_token_is_bounded_and_remembered_no_longer_than_it_lasts() {
    let pair = Pair::new(Algorithm::HS256);
    let credentials = credentials(Authority { issuers: vec![Issuer::own(pair.key(), None)], ..Authority::default() });
    let long = pair.sign(&with(good(), json!({ "x": "x".repeat(16 << 10) })));
    assert_eq!(told(identify(&credentials, Some(&long), None)), UNPARSED);
    let short = pair.sign(&with(good(), json!({ "exp": now() + 1 })));
    assert_eq!(told(identify(&credentials, Some(&short), None)), "user maya");
    let known = credentials.0.cache.get(&digest(&short), 0, SystemTime::now()).expect("remembered");
    assert_eq!(known.expires_at, Some(UNIX_EPOCH + std::time::Duration::from_secs(now() + 1)));
    let later = SystemTime::now() + std::time::Duration::from_secs(2);
    assert_eq!(credentials.0.cache.get(&digest(&short), 0, later), None);
    // Another authority remembers nothing.
    credentials.reload(Authority::default());
    assert_eq!(told(identify(&credentials, Some(&short), None)), UNPARSED);
}

#[test]
fn an_emulator_takes_signed_tokens_only_of_keys_it_knows() {
    let pair = Pair::new(Algorithm::HS256);
    let without = credentials(Authority { emulator: true, ..Authority::default() });
    assert_eq!(told(identify(&without, Some(&pair.sign(&good())), None)), UNPARSED);
    let issuers = vec![Issuer::own(pair.key(), None)];
    let with = credentials(Authority { emulator: true, issuers, ..Authority::default() });
    assert_eq!(told(identify(&with, Some(&pair.sign(&good())), None)), "user maya");
    let forged = format!("{}x", pair.sign(&good()));
    assert_eq!(told(identify(&with, Some(&forged), None)), UNPARSED);
}

#[test]
fn an_operator_is_the_user_of_the_server_on_its_machine() {
    let here = Peer::Ip("127.0.0.1".parse().unwrap());
    let mapped = Peer::Ip("::ffff:127.0.0.1".parse().unwrap());
    let elsewhere = Peer::Ip("203.0.113.9".parse().unwrap());
    let own = rustix::process::geteuid().as_raw();
    let check = |emulator, credential: Option<&str>, peer, expected| {
        let authority = Authority { emulator, admin_token: Some("the secret".into()), ..Authority::default() };
        let judged = credentials(authority);
        assert_eq!(judged.is_operator(credential, peer), expected, "{credential:?} {peer:?}");
    };
    for emulator in [false, true] {
        check(emulator, Some("the secret"), here, true);
        check(emulator, Some("the secret"), mapped, true);
        check(emulator, Some("the secret"), Peer::User(own), true);
        check(emulator, Some("the secret"), Peer::User(own + 1), true);
        check(emulator, Some("the secret"), elsewhere, false);
        check(emulator, Some("the secret "), here, false);
        check(emulator, Some("owner"), here, false);
        check(emulator, Some("owner"), Peer::User(own), false);
        check(emulator, Some(""), Peer::User(own), false);
        check(emulator, None, Peer::User(own), true);
        check(emulator, None, Peer::User(own + 1), false);
        check(emulator, None, Peer::Local, false);
        check(emulator, None, here, false);
    }
    let nobody = credentials(Authority::default());
    assert!(!nobody.is_operator(Some(""), here));
}
