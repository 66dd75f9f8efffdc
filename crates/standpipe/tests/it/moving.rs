//! Story 2 of the users, as typed: a project moves here with its data, its rules and its SDK, and its data go back. In
//! place of a public certificate there is one made here, and in place of a Google project's users those of an own key.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use standpipe_testkit::Launch;

use crate::cli::Cli;
use crate::sdk::{scripts, tools};
use crate::support::quiet;

const RULES: &str = r#"{
  // What is open is open to everybody; members may write there.
  "rules": { "open": { ".read": true, ".write": "auth.uid !== null", "list": { ".indexOn": "n" } } }
}"#;

#[test]
fn a_project_moves_out_of_firebase_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let cli = Cli::at("http://127.0.0.1:9".into());
    let typed = |name: &str, text: &str| std::fs::write(cli.dir().join(name), text).unwrap();
    let before =
        json!({"open": {"a": 1, "list": {"x": {"n": 2}, "y": {"n": 1}}}, "shut": {".value": 5, ".priority": "p"}});
    typed("prod.json", &before.to_string());
    typed("database.rules.json", RULES);
    let folder = data.to_str().unwrap();
    let told = cli.ok(&["import", "prod.json", "--data", folder]);
    assert!(told.contains(r#""values":4"#) && told.contains("digest"), "{told}");
    cli.ok(&["rules", "check", "database.rules.json", "--data", folder]);
    cli.ok(&["token", "keygen", "--algorithm", "EdDSA", "--out", "me.key"]);
    let token = cli.ok(&["token", "--key", "me.key", "--uid", "maya"]);
    let key = format!("key:{}", cli.dir().join("me.key.pub").display());
    let server = Launch::serve()
        .data(&data)
        .args(["--rules".as_ref(), cli.dir().join("database.rules.json").as_os_str()])
        .args(["--tls", "db.example.com", "--tls-self-signed", "--tls-listen", "127.0.0.1:0", "--auth", &key])
        .start()
        .unwrap();
    let certificate = data.join("tls/self-signed-db.example.com.crt");
    if let Some(tools) = tools() {
        let port = server.door("https").unwrap().rsplit_once(':').unwrap().1.to_owned();
        moved(&tools, &format!("https://db.example.com:{port}"), token.trim(), &certificate);
    }
    let admin = std::fs::read_to_string(data.join("admin.token")).unwrap();
    let back = cli.ok(&["export", "/", "--url", &server.url(), "--token", admin.trim()]);
    let mut after: Value = serde_json::from_str(&back).unwrap();
    after["open"].as_object_mut().unwrap().remove("maya");
    assert_eq!(after, before);
    quiet(server, &[]);
}

/// The application with its SDK, at its new address.
fn moved(tools: &Path, url: &str, token: &str, certificate: &Path) {
    let shim = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients/js/standpipe-auth.mjs");
    let mut command = Command::new("timeout");
    command.args(["60", "node"]).arg(scripts().join("moved.mjs")).args([url, token]).arg(shim.canonicalize().unwrap());
    let output = command.env("STANDPIPE_TOOLS", tools).env("NODE_EXTRA_CA_CERTS", certificate).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "moved\n", "{told}");
}
