//! HTTPS as clients see it: curl over HTTP/1.1 and HTTP/2, event streams, certificates that are wrong, exchanged or
//! missing, and story 2 as it is typed.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output};

use standpipe_testkit::http::request;
use standpipe_testkit::{Launch, Server, binary, until};

use crate::auth::Folder;
use crate::support::quiet;

const NAME: &str = "db.example.com";

/// A server with a self-signed certificate.
fn https(folder: &Folder, more: &[&str]) -> Server {
    folder.serve(&[&["--tls", NAME, "--tls-listen", "127.0.0.1:0", "--tls-self-signed"], more].concat())
}

fn certificate(server: &Server) -> String {
    server.data().join(format!("tls/self-signed-{NAME}.crt")).display().to_string()
}

/// curl, which trusts `ca` and takes `name` for the server.
fn curl(server: &Server, ca: &str, name: &str, arguments: &[&str], target: &str) -> Output {
    let port = server.door("https").unwrap().rsplit_once(':').unwrap().1;
    let resolve = format!("{name}:{port}:127.0.0.1");
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "20", "--cacert", ca, "--resolve", &resolve]).args(arguments);
    command.arg(format!("https://{name}:{port}{target}")).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn admin(server: &Server) -> String {
    let token = std::fs::read_to_string(server.data().join("admin.token")).unwrap();
    format!("authorization: Bearer {}", token.trim())
}

#[test]
fn both_versions_of_http_are_spoken_over_tls() {
    let server = https(&Folder::new(), &[]);
    let (ca, admin) = (certificate(&server), admin(&server));
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let ask = |arguments: &[&str], target: &str| {
            let shown = ["-w", " %{http_version}", "-H", &admin, flag];
            text(&curl(&server, &ca, NAME, &[&shown, arguments].concat(), target))
        };
        assert_eq!(ask(&["-X", "PUT", "-d", r#"{"b":1}"#], "/a.json"), format!(r#"{{"b":1}} {version}"#));
        assert_eq!(ask(&[], "/a/b.json"), format!("1 {version}"));
        // A long answer, and a long question.
        let long = format!("\"{}\"", "x".repeat(3 << 20));
        let file = server.data().join("long.json");
        std::fs::write(&file, &long).unwrap();
        let upload = format!("@{}", file.display());
        ask(&["-X", "PUT", "-d", &upload], "/long.json?print=silent");
        assert_eq!(ask(&[], "/long.json").len(), long.len() + 1 + version.len());
        // An event stream: what it said until curl's patience ended.
        let watch = ["-N", "-H", "accept: text/event-stream", "--max-time", "1", "-H", &admin, flag];
        let watched = curl(&server, &ca, NAME, &watch, "/a.json");
        let watched = String::from_utf8_lossy(&watched.stdout).into_owned();
        assert!(watched.starts_with("event: put\n") && watched.contains(r#""data":{"b":1}"#), "{watched}");
    }
    quiet(server, &[]);
}

#[test]
fn the_commands_speak_https() {
    let server = https(&Folder::new(), &[]);
    let url = format!("https://localhost:{}", server.door("https").unwrap().rsplit_once(':').unwrap().1);
    let run = |arguments: &[&str], trusted: &str| {
        let token = server.data().join("admin.token").display().to_string();
        let mut command = Command::new(binary());
        command.args(arguments).args(["--url", &url, "--token-file", &token]).env("SSL_CERT_FILE", trusted);
        command.output().unwrap()
    };
    let ca = certificate(&server);
    assert!(run(&["put", "/a", "7"], &ca).status.success());
    assert_eq!(text(&run(&["get", "/a"], &ca)).trim(), "7");
    assert!(text(&run(&["watch", "/a", "--once"], &ca)).contains(r#""data":7"#));
    let told = run(&["get", "/a"], "/etc/ssl/certs/ca-certificates.crt");
    assert!(!told.status.success() && String::from_utf8_lossy(&told.stderr).contains("certificate"), "{told:?}");
    quiet(server, &[]);
}

#[test]
fn who_is_not_whom_the_certificate_names_is_not_talked_to() {
    let server = https(&Folder::new(), &[]);
    let ca = certificate(&server);
    let fails = |output: Output, expected: &str| {
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(expected), "{told:?} lacks {expected:?}");
    };
    fails(curl(&server, &ca, "elsewhere.example.com", &[], "/healthz"), "elsewhere.example.com");
    fails(curl(&server, "/etc/ssl/certs/ca-certificates.crt", NAME, &[], "/healthz"), "certificate");
    fails(curl(&server, &ca, NAME, &["--tls-max", "1.1"], "/healthz"), "");
    assert_eq!(text(&curl(&server, &ca, NAME, &["--tls-max", "1.2"], "/healthz")), "ok\n");
    // Without TLS: told so, in HTTP.
    let addr: SocketAddr = server.door("https").unwrap().parse().unwrap();
    let told = request(addr, "GET", "/", &[], b"").unwrap();
    assert_eq!(told.status, 400);
    assert!(told.text().contains("this port speaks TLS: use https"), "{}", told.text());
    drop(TcpStream::connect(addr).unwrap());
    quiet(server, &[]);
}

/// Makes an authority, and certificates that it signs, with openssl.
fn openssl(dir: &Path, script: &str) {
    let done = Command::new("sh").args(["-ec", script]).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

const AUTHORITY: &str = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt \
    -subj /CN=test -days 2 2>/dev/null";

fn sign(name: &str, days: &str) -> String {
    format!(
        "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name} \
         2>/dev/null; printf 'subjectAltName=DNS:{NAME}' > {name}.ext; openssl x509 -req -in {name}.csr -CA ca.crt \
         -CAkey ca.key -CAcreateserial -out {name}.crt -days {days} -extfile {name}.ext 2>/dev/null"
    )
}

#[test]
fn clients_without_a_certificate_stay_out_where_one_is_asked_for() {
    let folder = Folder::new();
    openssl(folder.0.path(), &format!("{AUTHORITY}; {}", sign("client", "2")));
    folder.write("c.toml", &format!("[tls]\nclient_ca = \"{}\"\n", folder.text("ca.crt")));
    let server = https(&folder, &["--config", &folder.text("c.toml")]);
    let ca = certificate(&server);
    let shown = ["--cert", &folder.text("client.crt"), "--key", &folder.text("client.key")];
    assert_eq!(text(&curl(&server, &ca, NAME, &shown, "/healthz")), "ok\n");
    assert!(!curl(&server, &ca, NAME, &[], "/healthz").status.success());
    quiet(server, &[]);
}

#[test]
fn certificates_are_exchanged_when_their_files_change() {
    let folder = Folder::new();
    openssl(
        folder.0.path(),
        &format!("{AUTHORITY}; {}; {}; {}", sign("one", "2"), sign("two", "2"), sign("old", "-1")),
    );
    let place = |name: &str| {
        for kind in ["crt", "key"] {
            std::fs::copy(folder.path(&format!("{name}.{kind}")), folder.path(&format!("live.{kind}"))).unwrap();
        }
    };
    place("one");
    let config = format!("[tls]\ncert = \"{}\"\nkey = \"{}\"\n", folder.text("live.crt"), folder.text("live.key"));
    folder.write("c.toml", &config);
    let server = folder.serve(&["--config", &folder.text("c.toml"), "--tls-listen", "127.0.0.1:0"]);
    let ca = folder.text("ca.crt");
    let serial = || {
        let addr = server.door("https").unwrap();
        let script = format!(
            "openssl s_client -connect {addr} -servername {NAME} </dev/null 2>/dev/null | openssl x509 -noout -subject"
        );
        String::from_utf8(Command::new("sh").args(["-c", &script]).output().unwrap().stdout).unwrap()
    };
    assert_eq!(text(&curl(&server, &ca, NAME, &[], "/healthz")), "ok\n");
    assert!(serial().contains("one"), "{}", serial());
    place("two");
    assert!(until(|| serial().contains("two")), "{}", server.stderr());
    assert_eq!(text(&curl(&server, &ca, NAME, &[], "/healthz")), "ok\n");
    // A key that is another's: the old ones stay.
    std::fs::copy(folder.path("one.key"), folder.path("live.key")).unwrap();
    assert!(until(|| server.stderr().contains("the new certificates are refused")), "{}", server.stderr());
    assert!(serial().contains("two"));
    // An expired one is served, and refused by who looks.
    place("old");
    assert!(until(|| serial().contains("old")), "{}", server.stderr());
    let told = curl(&server, &ca, NAME, &[], "/healthz");
    assert!(String::from_utf8_lossy(&told.stderr).contains("expired"), "{told:?}");
    quiet(server, &["the new certificates are refused"]);
}

#[test]
fn what_can_not_be_meant_is_refused_at_start() {
    let folder = Folder::new();
    let check = |verb: &str, arguments: &[&str], parts: &[&str]| {
        let data = folder.text("refused");
        let done = Command::new(binary()).arg(verb).args(["--data", &data]).args(arguments).output().unwrap();
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success());
        for part in parts {
            assert!(told.contains(part), "{told} lacks {part}");
        }
    };
    check("serve", &["--listen", "0.0.0.0:0"], &["--tls NAME --tls-listen 0.0.0.0:0", "--insecure"]);
    check("dev", &["--listen", "0.0.0.0:0"], &["`owner` is the administrator", "--dangerously-expose-emulator"]);
    check("serve", &["--tls", NAME], &["tls/db.example.com.crt", "/etc/letsencrypt/live", "--tls-self-signed"]);
    check("serve", &["--auth", "key:nowhere.pem"], &["nowhere.pem", "No such file"]);
    check("serve", &["--auth", "someone"], &["firebase:PROJECT", "key:FILE"]);
    check("serve", &["--resp", "tls:127.0.0.1:0"], &["needs an address and a certificate"]);
}

#[test]
fn lines_and_redis_are_spoken_over_tls_too() {
    let server = https(&Folder::new(), &["--line", "tls:127.0.0.1:0", "--resp", "tls:127.0.0.1:0"]);
    let ca = certificate(&server);
    let port = |door: &str| server.door(door).unwrap().rsplit_once(':').unwrap().1.to_owned();
    let redis = Command::new("redis-cli")
        .args(["-h", "127.0.0.1", "-p", &port("resp"), "--tls", "--cacert", &ca, "PING"])
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&redis.stdout).contains("PONG")
            || String::from_utf8_lossy(&redis.stdout).contains("NOAUTH"),
        "{redis:?}"
    );
    let script = format!(
        "printf 'PING\\nQUIT\\n' | openssl s_client -quiet -connect 127.0.0.1:{} -CAfile {ca} 2>/dev/null",
        port("line")
    );
    let lines = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(String::from_utf8_lossy(&lines.stdout).contains("PONG"), "{lines:?}");
    quiet(server, &[]);
}

/// Story 2, but for the ports: they must be free ones, and ours to use.
#[test]
fn moving_out_as_it_is_typed() {
    let folder = Folder::new();
    folder.write("prod.json", r#"{"tanks":{"t1":{"level":0.5}}}"#);
    let data = folder.path("data");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(binary());
        let done = command.args(arguments).env("XDG_STATE_HOME", data.with_extension("state")).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    run(&["import", &folder.text("prod.json"), "--data", &data.display().to_string()]);
    // The certificate of the host name lies where it is looked for.
    std::fs::create_dir_all(data.join("tls")).unwrap();
    openssl(folder.0.path(), &format!("{AUTHORITY}; {}", sign("host", "2")));
    std::fs::copy(folder.path("host.crt"), data.join(format!("tls/{NAME}.crt"))).unwrap();
    std::fs::copy(folder.path("host.key"), data.join(format!("tls/{NAME}.key"))).unwrap();
    let keys = "http://127.0.0.1:1/nobody-is-there";
    let server = Launch::serve()
        .data(&data)
        .args(["--rules", &folder.text("rules.json"), "--tls", NAME, "--auth", "firebase:my-project"])
        .args(["--tls-listen", "127.0.0.1:0"])
        .env("STANDPIPE_AUTH_FIREBASE_KEYS_URL", keys)
        .start()
        .unwrap();
    let ca = folder.text("ca.crt");
    let denied = text(&curl(&server, &ca, NAME, &[], "/tanks.json"));
    assert_eq!(denied, r#"{"error":"Permission denied"}"#);
    assert_eq!(text(&curl(&server, &ca, NAME, &["-H", &admin(&server)], "/tanks/t1/level.json")), "0.5");
    // From elsewhere, where the authority is trusted; and not where it is not.
    let far = |trusted: &str| {
        let url = format!("https://localhost:{}", server.door("https").unwrap().rsplit_once(':').unwrap().1);
        let token = server.data().join("admin.token").display().to_string();
        let mut command = Command::new(binary());
        command.args(["export", "/", "--url", &url, "--token-file", &token]).env("SSL_CERT_FILE", trusted);
        command.output().unwrap()
    };
    let wrong_name = far(&ca);
    assert!(!wrong_name.status.success() && String::from_utf8_lossy(&wrong_name.stderr).contains("certificate"));
    // On the machine itself, without a word about who or where.
    assert_eq!(run(&["export", "/", "--url", &server.url()]).trim(), r#"{"tanks":{"t1":{"level":0.5}}}"#);
    quiet(server, &["can't fetch the keys that check tokens"]);
}
