//! `standpipe token`: mints tokens with a key of one's own, and makes such keys. What a server believes of
//! them is said by its `[[auth.key]]`; nothing here asks a server.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm as Signing, EncodingKey, Header};
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Map, Value};
use standpipe_doors::{Algorithm, SECRET_BYTES_MIN};

use crate::cli::{KeygenArgs, MintArgs};
use crate::exit::{Failure, Result};

/// Claims that have an option of their own, or that only the signing decides.
const RESERVED: [&str; 6] = ["iss", "aud", "exp", "iat", "sub", "user_id"];

/// Longest life of a token: ten years.
const TTL_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Mints a token and writes it as one line.
///
/// # Errors
/// The key can't be used, or a claim is none.
pub(crate) fn mint(arguments: &MintArgs, out: &mut dyn Write) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (algorithm, key) = signing_key(&arguments.key)?;
    let claims = claims(arguments, now)?;
    let header = Header { kid: arguments.kid.clone(), ..Header::new(algorithm) };
    let token = jsonwebtoken::encode(&header, &claims, &key).map_err(|error| unusable(&arguments.key, &error))?;
    writeln!(out, "{token}").map_err(|error| Failure::output(&error))
}

fn claims(arguments: &MintArgs, now: u64) -> Result<Map<String, Value>> {
    let mut claims = Map::new();
    for claim in &arguments.claim {
        let wrong = |why: &str| {
            Failure::usage(format!("--claim {claim}: {why}"))
                .help("as in --claim role=editor, or --claim level=3 (JSON)")
        };
        let (name, value) = claim.split_once('=').ok_or_else(|| wrong("no equals sign"))?;
        if name.is_empty() || RESERVED.contains(&name) {
            return Err(wrong("this claim has an option of its own (--uid, --issuer, --audience, --ttl)"));
        }
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        if claims.insert(name.to_owned(), value).is_some() {
            return Err(wrong("it is there twice"));
        }
    }
    if arguments.admin {
        claims.insert("admin".into(), true.into());
    }
    for (name, value) in [("sub", &arguments.uid), ("iss", &arguments.issuer), ("aud", &arguments.audience)] {
        if let Some(value) = value {
            claims.insert(name.into(), value.as_str().into());
        }
    }
    claims.insert("iat".into(), now.into());
    claims.insert("exp".into(), (now + arguments.ttl.as_secs()).into());
    Ok(claims)
}

/// What signs, in the bytes of a file: a private key in PKCS #8 (PEM), or the secret of HS256.
fn signing_key(path: &Path) -> Result<(Signing, EncodingKey)> {
    let bytes = std::fs::read(path).map_err(|error| Failure::file(path, &error))?;
    let text = bytes.trim_ascii();
    if !text.starts_with(b"-----BEGIN") {
        if text.len() < SECRET_BYTES_MIN {
            let cause = format!("a secret of {} bytes is too short, {SECRET_BYTES_MIN} is the least", text.len());
            return Err(unusable(path, &cause));
        }
        return Ok((Signing::HS256, EncodingKey::from_secret(text)));
    }
    if text.windows(17).any(|window| window == b"BEGIN PUBLIC KEY-") {
        return Err(unusable(path, &"this is the public key, which signs nothing: name the private one"));
    }
    let kinds = [
        (Signing::EdDSA, EncodingKey::from_ed_pem as fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>),
        (Signing::ES256, EncodingKey::from_ec_pem),
        (Signing::RS256, EncodingKey::from_rsa_pem),
    ];
    let found = kinds.into_iter().find_map(|(algorithm, read)| Some((algorithm, read(text).ok()?)));
    found.ok_or_else(|| unusable(path, &"no private key for EdDSA, ES256 or RS256 in PEM"))
}

fn unusable(path: &Path, cause: &dyn std::fmt::Display) -> Failure {
    Failure::failed(format!("{}: {cause}", path.display()))
        .help("make a key: standpipe token keygen --algorithm EdDSA --out me.key")
}

/// Makes a key: the private one, or the secret, in `--out`, and beside it the public one in `OUT.pub`.
///
/// # Errors
/// A file is there already or can't be written.
pub(crate) fn keygen(arguments: &KeygenArgs) -> Result<()> {
    let (private, public) = pair(arguments.algorithm)?;
    let mut public_path = arguments.out.clone().into_os_string();
    public_path.push(".pub");
    let public_path = PathBuf::from(public_path);
    for path in [&arguments.out, &public_path] {
        if path.exists() {
            return Err(Failure::failed(format!("{} exists", path.display()))
                .help("name a new file: tokens signed with the old key would be refused"));
        }
    }
    crate::client::token::write(&arguments.out, private.trim_end())
        .map_err(|error| Failure::file(&arguments.out, &error))?;
    match public {
        Some(public) => {
            std::fs::write(&public_path, public).map_err(|error| Failure::file(&public_path, &error))?;
            eprintln!("{} signs (keep it), {} goes to servers", arguments.out.display(), public_path.display());
            eprintln!("next: standpipe serve --auth key:{}", public_path.display());
        }
        None => {
            eprintln!("{} is on both sides: whoever has it signs as anybody", arguments.out.display());
            eprintln!("next: standpipe serve --auth key:{}", arguments.out.display());
        }
    }
    eprintln!("      standpipe token --key {} --uid maya", arguments.out.display());
    Ok(())
}

/// What signs, and what checks where that is another.
fn pair(algorithm: Algorithm) -> Result<(String, Option<String>)> {
    let made = match algorithm {
        Algorithm::HS256 => return Ok((standpipe_engine::random_token(), None)),
        Algorithm::EdDSA => KeyPair::generate_for(&rcgen::PKCS_ED25519),
        Algorithm::ES256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        Algorithm::RS256 => KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256),
    };
    let made = made.map_err(|error| Failure::failed(format!("can't make a key: {error}")))?;
    Ok((made.serialize_pem(), Some(public_pem(&made.subject_public_key_info()))))
}

fn public_pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

/// `90s`, `15m`, `1h`, `30d`; a number alone is seconds.
pub(crate) fn ttl(text: &str) -> std::result::Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err("use s, m, h or d, as in 90s, 15m, 1h, 30d".into()),
    };
    let seconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    match seconds.map(Duration::from_secs) {
        Some(ttl) if ttl > Duration::ZERO && ttl <= TTL_MAX => Ok(ttl),
        _ => Err("use 1s to 3650d, as in 1h".into()),
    }
}

#[cfg(test)]
mod tests {
    use standpipe_doors::Key;

    use super::*;

    fn arguments(key: &Path) -> MintArgs {
        MintArgs {
            key: key.to_owned(),
            uid: Some("maya".into()),
            claim: Vec::new(),
            ttl: Duration::from_secs(60),
            admin: false,
            issuer: None,
            audience: None,
            kid: None,
        }
    }

    #[test]
    fn keys_that_are_made_sign_tokens_that_are_believed() {
        let dir = tempfile::tempdir().unwrap();
        for algorithm in Algorithm::ALL {
            let out = dir.path().join(algorithm.as_str());
            keygen(&KeygenArgs { algorithm, out: out.clone() }).unwrap();
            let told = keygen(&KeygenArgs { algorithm, out: out.clone() }).unwrap_err().to_string();
            assert!(told.contains("exists"), "{told}");
            let mut token = Vec::new();
            let arguments = MintArgs { claim: vec!["role=editor".into(), "level=3".into()], ..arguments(&out) };
            mint(&arguments, &mut token).unwrap();
            let token = String::from_utf8(token).unwrap();
            assert_eq!(token.trim().split('.').count(), 3, "{token}");
            let public =
                if algorithm == Algorithm::HS256 { out.clone() } else { dir.path().join(format!("{algorithm}.pub")) };
            assert_eq!(Key::from_file(&std::fs::read(public).unwrap()).unwrap().algorithm(), algorithm);
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt as _;
                assert_eq!(std::fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
            }
        }
        let told = mint(&arguments(&dir.path().join("EdDSA.pub")), &mut Vec::new()).unwrap_err().to_string();
        assert!(told.contains("name the private one"), "{told}");
        std::fs::write(dir.path().join("short"), "secret").unwrap();
        let told = mint(&arguments(&dir.path().join("short")), &mut Vec::new()).unwrap_err().to_string();
        assert!(told.contains("too short"), "{told}");
    }

    #[test]
    fn claims_are_what_was_asked_for() {
        let base = arguments(Path::new(""));
        let check = |claim: &[&str], expected: std::result::Result<&str, &str>| {
            let claim = claim.iter().map(ToString::to_string).collect();
            let made = claims(&MintArgs { claim, ..base.clone() }, 100);
            match (made, expected) {
                (Ok(made), Ok(expected)) => assert_eq!(Value::from(made).to_string(), expected),
                (Err(told), Err(part)) => assert!(told.to_string().contains(part), "{told}"),
                (made, expected) => panic!("{made:?}, not {expected:?}"),
            }
        };
        check(&[], Ok(r#"{"exp":160,"iat":100,"sub":"maya"}"#));
        check(&["a=b=c", "n=1", "t=true"], Ok(r#"{"a":"b=c","exp":160,"iat":100,"n":1,"sub":"maya","t":true}"#));
        check(&["a"], Err("no equals sign"));
        check(&["=a"], Err("option of its own"));
        check(&["exp=1"], Err("option of its own"));
        check(&["a=1", "a=2"], Err("twice"));
    }

    #[test]
    fn lives_have_units() {
        let check =
            |text, expected: Option<u64>| assert_eq!(ttl(text).ok(), expected.map(Duration::from_secs), "{text}");
        check("90", Some(90));
        check("90s", Some(90));
        check("15m", Some(900));
        check("1h", Some(3_600));
        check("30d", Some(2_592_000));
        check("0", None);
        check("1y", None);
        check("-1h", None);
        check("h", None);
        check("99999999999999999999d", None);
        check("3651d", None);
    }
}
