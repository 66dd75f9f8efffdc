//! Credentials over real sockets: tokens of own keys and of a key set that is published, fails, rotates and stalls;
//! their end on streams and command connections; administrators; and that `owner` means nothing to `serve`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use standpipe_testkit::http::{Stream, request};
use standpipe_testkit::lines::Lines;
use standpipe_testkit::{LIMIT, Launch, Server, WebSocket, binary, until};

use crate::support::{metric_of, quiet};

/// Everybody who is somebody may read; only an editor may write.
const RULES: &str = r#"{"rules": {".read": "auth != null", ".write": "auth.token.role === 'editor'",
    "mine": {"$uid": {".read": "auth.uid === $uid"}}}}"#;

/// Runs `standpipe` and gives its stdout.
pub(crate) fn standpipe(arguments: &[&str]) -> String {
    let done = Command::new(binary()).args(arguments).env_remove("STANDPIPE_TOKEN").output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

/// A folder with keys, rules and whatever else a test writes.
pub(crate) struct Folder(pub(crate) tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("rules.json", RULES);
        folder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Makes a key of this name; the public half is `NAME.pub`.
    pub(crate) fn key(&self, name: &str, algorithm: &str) {
        standpipe(&["token", "keygen", "--algorithm", algorithm, "--out", &self.text(name)]);
    }

    pub(crate) fn token(&self, key: &str, more: &[&str]) -> String {
        standpipe(&[&["token", "--key", &self.text(key)], more].concat())
    }

    pub(crate) fn serve(&self, more: &[&str]) -> Server {
        Launch::serve().args(["--rules", &self.text("rules.json")]).args(more).start().unwrap()
    }
}

fn admin_token(data: &Path) -> String {
    std::fs::read_to_string(data.join("admin.token")).unwrap().trim().to_owned()
}

/// Status and body of a read with this credential.
fn read(addr: SocketAddr, path: &str, token: &str) -> (u16, String) {
    let bearer = format!("Bearer {token}");
    let got = request(addr, "GET", path, &[("Authorization", &bearer)], b"").unwrap();
    (got.status, got.text())
}

const UNPARSED: &str = r#"{"error":"Could not parse auth token."}"#;

#[test]
fn own_keys_make_users_that_rules_know() {
    let folder = Folder::new();
    for algorithm in ["EdDSA", "ES256", "RS256"] {
        folder.key(algorithm, algorithm);
    }
    folder.key("HS256", "HS256");
    folder.key("stranger", "EdDSA");
    let config = format!(
        "[[auth.key]]\nfile = \"{}\"\nadministrators = true\n[[auth.key]]\nfile = \"{}\"\nkid = \"two\"\n\
         issuer = \"me\"\naudience = \"db\"\n[[auth.key]]\nfile = \"{}\"\n",
        folder.text("EdDSA.pub"),
        folder.text("ES256.pub"),
        folder.text("RS256.pub")
    );
    folder.write("c.toml", &config);
    let server =
        folder.serve(&["--config", &folder.text("c.toml"), "--auth", &format!("key:{}", folder.text("HS256"))]);
    let addr = server.addr();
    let maya = ["--uid", "maya"];
    let check = |token: &str, path: &str, expected: (u16, &str)| {
        let got = read(addr, path, token);
        assert_eq!((got.0, got.1.as_str()), expected, "{path} {token}");
        // The same as a parameter, for clients that can't set headers.
        for name in ["auth", "access_token"] {
            let got = request(addr, "GET", &format!("{path}?{name}={token}"), &[], b"").unwrap();
            assert_eq!((got.status, got.text().as_str()), expected, "{path} {name}");
        }
    };
    let denied = (401, r#"{"error":"Permission denied"}"#);
    check(&folder.token("EdDSA", &maya), "/a.json", (200, "null"));
    check(&folder.token("RS256", &maya), "/a.json", (200, "null"));
    check(&folder.token("HS256", &maya), "/a.json", (200, "null"));
    let two = ["--uid", "maya", "--kid", "two", "--issuer", "me", "--audience", "db"];
    check(&folder.token("ES256", &two), "/a.json", (200, "null"));
    // The wrong key id, issuer, audience; a key that nobody believes.
    check(&folder.token("ES256", &maya), "/a.json", (401, UNPARSED));
    check(&folder.token("ES256", &["--uid", "m", "--kid", "two", "--issuer", "me"]), "/a.json", (401, UNPARSED));
    check(&folder.token("EdDSA", &["--uid", "m", "--audience", "bank"]), "/a.json", (401, UNPARSED));
    check(&folder.token("stranger", &maya), "/a.json", (401, UNPARSED));
    check("owner", "/a.json", (401, UNPARSED));
    check("eyJhbGciOiJub25lIn0.eyJzdWIiOiJtYXlhIn0.", "/a.json", (401, UNPARSED));
    assert_eq!(request(addr, "GET", "/a.json", &[], b"").unwrap().status, denied.0);
    // Claims decide in rules.
    let put = |token: &str| {
        let bearer = format!("Bearer {token}");
        request(addr, "PUT", "/a.json", &[("Authorization", &bearer)], b"1").unwrap().status
    };
    assert_eq!(put(&folder.token("HS256", &["--uid", "maya", "--claim", "role=editor"])), 200);
    assert_eq!(put(&folder.token("HS256", &maya)), 401);
    // Administrators only from a key that may make them.
    let settings = |token: &str| read(addr, "/.settings/rules.json", token).0;
    assert_eq!(settings(&folder.token("EdDSA", &["--admin"])), 200);
    assert_eq!(settings(&folder.token("HS256", &["--admin", "--uid", "eve"])), 401);
    assert_eq!(settings(&admin_token(server.data())), 200);
    // An administrator may act as a user, and nobody else.
    let act = |token: &str| {
        let got = read(addr, "/mine/eve.json?auth_variable_override=%7B%22uid%22%3A%22eve%22%7D", token);
        (got.0, got.1.contains("only an administrator"))
    };
    assert_eq!(act(&admin_token(server.data())), (200, false));
    assert_eq!(act(&folder.token("EdDSA", &maya)), (401, true));
    quiet(server, &[]);
}

#[test]
fn a_credential_that_ends_ends_what_it_opened() {
    let folder = Folder::new();
    folder.key("key", "EdDSA");
    let auth = format!("key:{}", folder.text("key.pub"));
    let server = folder.serve(&["--auth", &auth, "--line", "127.0.0.1:0", "--resp", "127.0.0.1:0"]);
    let short = || folder.token("key", &["--uid", "maya", "--ttl", "2s"]);
    let token = short();
    let mut stream = Stream::open(server.addr(), &format!("/a.json?auth={token}"), &[]).unwrap();
    assert_eq!(stream.event(LIMIT).unwrap().unwrap().name, "put");
    let mut line = Lines::open(server.door("line").unwrap()).unwrap();
    assert_eq!(line.ask(&format!("AUTH {}", short())).unwrap(), "OK");
    let mut resp = Lines::open(server.door("resp").unwrap()).unwrap();
    assert_eq!(resp.ask(&format!("AUTH {}", short())).unwrap().trim_end(), "+OK");
    let begun = Instant::now();
    let last = stream.event(LIMIT).unwrap().unwrap();
    assert_eq!((last.name.as_str(), last.data.as_str()), ("auth_revoked", "credential is no longer valid"));
    assert!(stream.event(LIMIT).unwrap().is_none());
    assert_eq!(line.rest().unwrap().trim(), "BYE revoked");
    assert!(resp.rest().unwrap().starts_with("-NOAUTH"));
    assert!(begun.elapsed() < Duration::from_secs(5));
    // The token itself is told apart from one that is none.
    let expired = (401, r#"{"error":"Auth token is expired"}"#.to_owned());
    assert_eq!(read(server.addr(), "/a.json", &token), expired);
    // A longer one, in time, keeps the connection.
    let mut line = Lines::open(server.door("line").unwrap()).unwrap();
    assert_eq!(line.ask(&format!("AUTH {}", folder.token("key", &["--uid", "m", "--ttl", "1s"]))).unwrap(), "OK");
    assert_eq!(line.ask(&format!("AUTH {}", folder.token("key", &["--uid", "m"]))).unwrap(), "OK");
    let ended = Instant::now() + Duration::from_millis(1_500);
    assert!(until(|| Instant::now() >= ended));
    assert_eq!(line.ask("GET a").unwrap(), "null");
    quiet(server, &[]);
}

#[test]
fn the_firebase_session_believes_no_more_than_rest_does() {
    let folder = Folder::new();
    let signer = Signer::new(&folder, "one");
    folder.key("own", "EdDSA");
    let provider = Provider::new(Says::Keys(vec![signer.jwk()]));
    let own = format!("key:{}", folder.text("own.pub"));
    let config = format!("[auth]\nfirebase_keys_url = \"{}\"\n", provider.url);
    folder.write("c.toml", &config);
    let server = folder.serve(&["--config", &folder.text("c.toml"), "--auth", "firebase:demo", "--auth", &own]);
    let mut socket = WebSocket::open(server.addr(), "/.ws?v=5&ns=default").unwrap();
    assert_eq!(socket.json().unwrap()["d"]["t"], "h");
    let mut number = 0;
    // Of what comes only the answer counts.
    let mut ask = |action: &str, body: Value| {
        number += 1;
        let request = json!({ "t": "d", "d": { "r": number, "a": action, "b": body } });
        socket.text(&request.to_string()).unwrap();
        loop {
            let told = socket.json().unwrap();
            if told["d"]["r"] == number {
                return told["d"]["b"]["s"].as_str().unwrap().to_owned();
            }
        }
    };
    let good = folder.token("own", &["--uid", "maya"]);
    let (head, signature) = good.rsplit_once('.').unwrap();
    let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJtYXlhIn0.";
    for bad in [
        "owner",
        "",
        "x",
        unsigned,
        &format!("{unsigned}x"),
        &format!("{head}."),
        &format!("{head}.{}", "A".repeat(signature.len())),
        &signer.token(json!({ "aud": "other" })),
        &signer.token(json!({ "iss": "https://securetoken.google.com/other" })),
        &signer.token(json!({ "iat": 99_999_999_999_u64 })),
        &signer.token(json!({ "sub": "" })),
        &folder.token("own", &["--uid", "m", "--audience", "bank"]),
    ] {
        for action in ["auth", "gauth"] {
            assert_eq!(ask(action, json!({ "cred": bad })), "invalid_token", "{action} {bad}");
            assert_eq!(ask("g", json!({ "p": "/a" })), "permission_denied", "{action} {bad}");
        }
    }
    let expired = signer.token(json!({ "exp": 1_000_000_000 }));
    assert!(["expired_token", "invalid_token"].contains(&ask("auth", json!({ "cred": expired })).as_str()));
    assert_eq!(ask("auth", json!({ "cred": good })), "ok");
    assert_eq!(ask("g", json!({ "p": "/a" })), "ok");
    // Acting as somebody else is for administrators.
    assert_ne!(ask("gauth", json!({ "cred": good, "authvar": { "uid": "eve" } })), "ok");
    assert_eq!(ask("auth", json!({ "cred": signer.token(json!({})) })), "ok");
    assert_eq!(ask("unauth", json!({})), "ok");
    assert_eq!(ask("g", json!({ "p": "/a" })), "permission_denied");
    quiet(server, &[]);
}

#[test]
fn owner_is_refused_on_every_door_of_serve() {
    let folder = Folder::new();
    let server = folder.serve(&["--line", "127.0.0.1:0", "--resp", "127.0.0.1:0"]);
    assert_eq!(read(server.addr(), "/.json", "owner"), (401, UNPARSED.to_owned()));
    assert_eq!(request(server.addr(), "GET", "/.json?access_token=owner", &[], b"").unwrap().status, 401);
    let mut line = Lines::open(server.door("line").unwrap()).unwrap();
    assert!(line.ask("AUTH owner").unwrap().contains("Could not parse auth token"));
    let mut resp = Lines::open(server.door("resp").unwrap()).unwrap();
    assert!(resp.ask("AUTH owner").unwrap().contains("Could not parse auth token"));
    quiet(server, &[]);
}

/// What the provider of a key set says next.
#[derive(Clone)]
enum Says {
    Keys(Vec<Jwk>),
    Status(u16),
    Redirect(String),
    Huge,
    Garbage,
    Nothing,
}

/// A provider of a key set on this machine.
struct Provider {
    url: String,
    says: Arc<Mutex<Says>>,
    asked: Arc<AtomicUsize>,
}

impl Provider {
    fn new(says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let (says, asked) = (Arc::new(Mutex::new(says)), Arc::new(AtomicUsize::new(0)));
        let (told, counted) = (says.clone(), asked.clone());
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for mut stream in listener.incoming().flatten() {
                // A request without a body is answered once its first line is here.
                let _asked = BufReader::new(&stream).read_line(&mut String::new());
                counted.fetch_add(1, Ordering::SeqCst);
                let says = told.lock().unwrap().clone();
                let head = |status: &str, more: &str| format!("HTTP/1.1 {status}\r\nconnection: close\r\n{more}\r\n");
                let body = match says {
                    Says::Keys(keys) => {
                        head("200 OK", "cache-control: public, max-age=600\r\n") + &json!({ "keys": keys }).to_string()
                    }
                    Says::Status(code) => head(&format!("{code} Sorry"), ""),
                    Says::Redirect(to) => head("302 Found", &format!("location: {to}\r\n")),
                    Says::Huge => head("200 OK", "") + &"[".repeat(1 << 20),
                    Says::Garbage => head("200 OK", "") + "<html>",
                    Says::Nothing => {
                        held.push(stream);
                        continue;
                    }
                };
                let _gone = stream.write_all(body.as_bytes());
            }
        });
        Self { url, says, asked }
    }

    fn says(&self, what: Says) {
        *self.says.lock().unwrap() = what;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// A key of the provider.
struct Signer(EncodingKey, String);

impl Signer {
    fn new(folder: &Folder, kid: &str) -> Self {
        folder.key(kid, "RS256");
        Self(EncodingKey::from_rsa_pem(&std::fs::read(folder.path(kid)).unwrap()).unwrap(), kid.to_owned())
    }

    fn jwk(&self) -> Jwk {
        let mut jwk = Jwk::from_encoding_key(&self.0, Algorithm::RS256).unwrap();
        jwk.common.key_id = Some(self.1.clone());
        jwk
    }

    /// An ID token as Firebase's, with some claims replaced; null removes one.
    fn token(&self, changes: Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({
            "iss": "https://securetoken.google.com/demo", "aud": "demo", "sub": "maya", "user_id": "maya",
            "iat": now, "auth_time": now, "exp": now + 600, "firebase": { "sign_in_provider": "password" },
        });
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => claims.as_object_mut().unwrap().remove(name),
                value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
            };
        }
        let header = Header { kid: Some(self.1.clone()), ..Header::new(Algorithm::RS256) };
        jsonwebtoken::encode(&header, &claims, &self.0).unwrap()
    }
}

/// A server that believes the users of the Firebase project `demo`, whose keys come from `provider`.
fn firebase(folder: &Folder, provider: &Provider, limits: &str) -> Server {
    let config = format!("[auth]\nfirebase_keys_url = \"{}\"\n[limits]\n{limits}\n", provider.url);
    folder.write("firebase.toml", &config);
    folder.serve(&["--config", &folder.text("firebase.toml"), "--auth", "firebase:demo"])
}

#[test]
fn users_of_a_firebase_project_are_known_by_its_key_set() {
    let folder = Folder::new();
    let signer = Signer::new(&folder, "one");
    let provider = Provider::new(Says::Keys(vec![signer.jwk()]));
    let server = firebase(&folder, &provider, "");
    let check = |changes: Value, expected: &str| {
        let got = read(server.addr(), "/mine/maya.json", &signer.token(changes.clone()));
        assert_eq!(got.1, expected, "{changes}");
    };
    check(json!({}), "null");
    let future = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 600;
    for wrong in [
        json!({ "aud": "other" }),
        json!({ "aud": ["demo"] }),
        json!({ "iss": "https://securetoken.google.com/other" }),
        json!({ "iss": "demo" }),
        json!({ "iss": null }),
        json!({ "aud": null }),
        json!({ "sub": "" }),
        json!({ "sub": null }),
        json!({ "sub": "x".repeat(129), "user_id": "x".repeat(129) }),
        json!({ "auth_time": null }),
        json!({ "auth_time": future }),
        json!({ "iat": future }),
        json!({ "iat": null }),
        json!({ "exp": null }),
    ] {
        check(wrong, UNPARSED);
    }
    check(json!({ "exp": 1_000_000_000 }), r#"{"error":"Auth token is expired"}"#);
    // No claim makes an administrator of a Firebase user.
    assert_eq!(read(server.addr(), "/.settings/rules.json", &signer.token(json!({ "admin": true }))).0, 401);
    // Remembered: the second time no signature is checked.
    let remembered = || metric_of(server.addr(), "standpipe_auth_credentials_total", &["remembered"]);
    let (token, before) = (signer.token(json!({ "jti": "1" })), remembered());
    (0..3).for_each(|_| assert_eq!(read(server.addr(), "/mine/maya.json", &token).0, 200));
    assert_eq!(remembered() - before, 2);
    quiet(server, &[]);
}

#[test]
fn a_key_set_rotates_and_a_flood_of_invented_keys_asks_seldom() {
    let folder = Folder::new();
    let (old, new, invented) = (
        Signer::new(&folder, "old"),
        Signer::new(&folder, "new"),
        Signer::new(&folder, "../../etc/passwd".rsplit('/').next().unwrap()),
    );
    let provider = Provider::new(Says::Keys(vec![old.jwk()]));
    let server = firebase(&folder, &provider, "key_set_pause_ms_min = 700");
    let addr = server.addr();
    assert_eq!(read(addr, "/mine/maya.json", &old.token(json!({}))).0, 200);
    let first = Instant::now();
    provider.says(Says::Keys(vec![new.jwk()]));
    assert!(until(|| first.elapsed() > Duration::from_millis(800)));
    assert_eq!(read(addr, "/mine/maya.json", &new.token(json!({}))).0, 200, "fetched for the new key");
    assert_eq!(read(addr, "/mine/maya.json", &old.token(json!({}))).1, UNPARSED, "its key is gone");
    let (asked, begun) = (provider.asked(), Instant::now());
    for number in 0..300 {
        let token = invented.token(json!({ "sub": number.to_string() }));
        assert_eq!(read(addr, "/mine/maya.json", &token).1, UNPARSED);
    }
    let fetches = provider.asked() - asked;
    let most = begun.elapsed().as_millis() / 700 + 2;
    assert!(fetches as u128 <= most, "{fetches} fetches in {:?}", begun.elapsed());
    quiet(server, &[]);
}

#[test]
fn a_provider_that_fails_is_asked_again_and_the_last_good_keys_are_used() {
    let folder = Folder::new();
    let signer = Signer::new(&folder, "one");
    for (bad, says) in [
        ("fails", Says::Status(500)),
        ("is huge", Says::Huge),
        ("is no key set", Says::Garbage),
        ("has no keys", Says::Keys(Vec::new())),
        ("stalls", Says::Nothing),
        ("leads elsewhere", Says::Redirect("http://127.0.0.1:1/".into())),
    ] {
        let provider = Provider::new(says);
        let server = firebase(&folder, &provider, "key_set_fetch_ms_max = 300\nkey_set_pause_ms_min = 50");
        let told = |token: &str| read(server.addr(), "/mine/maya.json", token).0;
        // Not "your token is bad": it may be good.
        assert_eq!(told(&signer.token(json!({}))), 503, "{bad}");
        provider.says(Says::Keys(vec![signer.jwk()]));
        assert!(until(|| told(&signer.token(json!({}))) == 200), "{bad}: {}", server.stderr());
        // Down again: who was known is known, also by a token never seen.
        provider.says(Says::Status(503));
        assert_eq!(told(&signer.token(json!({ "jti": "2" }))), 200);
        quiet(server, &["can't fetch the keys that check tokens"]);
    }
}

#[test]
fn keys_are_read_again_by_a_reload() {
    let folder = Folder::new();
    folder.key("one", "EdDSA");
    folder.key("two", "ES256");
    let of = |key: &str| format!("[[auth.key]]\nfile = \"{}\"\n", folder.text(key));
    folder.write("c.toml", &of("one.pub"));
    let server = folder.serve(&["--config", &folder.text("c.toml")]);
    let (one, two) = (folder.token("one", &["--uid", "a"]), folder.token("two", &["--uid", "b"]));
    let told = || (read(server.addr(), "/a.json", &one).0, read(server.addr(), "/a.json", &two).0);
    assert_eq!(told(), (200, 401));
    folder.write("c.toml", &of("two.pub"));
    assert!(until(|| told() == (401, 200)), "{}", server.stderr());
    // A private key is refused, and so is all of the file.
    folder.write("c.toml", &of("one"));
    assert!(until(|| server.stderr().contains("a server needs only the public one")), "{}", server.stderr());
    assert_eq!(told(), (401, 200));
    quiet(server, &["the configuration is refused"]);
}
