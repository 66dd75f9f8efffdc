//! The helpers in `clients/` with the packages they are for: the official JavaScript SDK and the official Python
//! Admin SDK. Where `cargo xtask test` has not installed them, the tests say so and do nothing.

use std::path::Path;
use std::process::Command;

use standpipe_testkit::{binary, tool};

use crate::auth::Folder;
use crate::sdk::tools;
use crate::support::quiet;

const RULES: &str = r#"{"rules": {".read": "auth != null", ".write": "auth.token.role === 'editor'"}}"#;

/// The lines of a script that must end well with `done`.
fn lines(mut command: Command) -> Vec<String> {
    let done = command.output().unwrap();
    let (out, told) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && out.trim_end().ends_with("done"), "{}\n{out}\n{told}", done.status);
    out.lines().map(str::to_owned).collect()
}

fn tests() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"))
}

#[test]
fn the_javascript_sdk_sends_tokens_of_our_own() {
    let Some(tools) = tools() else { return };
    let folder = Folder::new();
    folder.write("rules.json", RULES);
    folder.key("key", "EdDSA");
    let server = folder.serve(&["--auth", &format!("key:{}", folder.text("key.pub"))]);
    let mut command = Command::new("node");
    command.arg(tests().join("js/tokens.mjs")).arg(server.addr().to_string()).arg(binary()).arg(folder.path("key"));
    command.env("STANDPIPE_TOOLS", tools).env_remove("FIREBASE_DATABASE_EMULATOR_HOST");
    let said = lines(command);
    assert_eq!(said, ["rules", "refresh", "expiry", "compat", "done"]);
    quiet(server, &[]);
}

#[test]
fn the_python_admin_sdk_takes_our_credential_over_https() {
    let Some(python) = tool("python/bin/python") else {
        eprintln!("left out: no firebase-admin; cargo xtask test installs it");
        return;
    };
    let folder = Folder::new();
    folder.write("rules.json", RULES);
    folder.key("key", "EdDSA");
    let auth = format!("key:{}", folder.text("key.pub"));
    let server =
        folder.serve(&["--auth", &auth, "--tls", "localhost", "--tls-listen", "127.0.0.1:0", "--tls-self-signed"]);
    let port = server.door("https").unwrap().rsplit_once(':').unwrap().1;
    let mut command = Command::new(python);
    command.arg(tests().join("python/credential.py")).arg(format!("https://localhost:{port}"));
    command.arg(server.data().join("admin.token")).arg(binary()).arg(folder.path("key"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients/python"));
    command.env("REQUESTS_CA_BUNDLE", server.data().join("tls/self-signed-localhost.crt"));
    command.env("PYTHONDONTWRITEBYTECODE", "1").env_remove("FIREBASE_DATABASE_EMULATOR_HOST");
    let said = lines(command);
    assert_eq!(said, ["admin", "user", "stranger", "done"]);
    quiet(server, &[]);
}
