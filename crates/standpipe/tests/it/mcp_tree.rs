//! The tree at `/mcp` of `dev`, with the official SDKs as clients: every tool, the caller's rules, and scopes of tokens. The
//! scripts in `tests/mcp` do the talking. Where `cargo xtask test` has not installed the packages, the tests say so and do nothing.

use std::process::{Command, Output};

use standpipe_testkit::{Launch, Server, tool};

use crate::auth::Folder;
use crate::mcp_everything::{packages, script};
use crate::support::quiet;

/// Everybody may do everything, but not below `/private`.
const RULES: &str = r#"{"rules": {
    "private": { ".read": "auth.uid == 'ada'", ".write": "auth.uid == 'ada'" },
    "$other": { ".read": true, ".write": true, ".indexOn": "n", "issues": { ".indexOn": "age" } }
}}"#;

/// `dev` with rules.
fn dev(folder: &Folder) -> Server {
    folder.write("rules.json", RULES);
    Launch::dev().args(["--rules", &folder.text("rules.json")]).start().unwrap()
}

/// What a client that has ended printed; it must have succeeded.
fn told(output: &Output, server: &Server) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{}\n{out}\n{err}\nthe server said:\n{}", output.status, server.stderr());
    out
}

fn python(era: &str) {
    let Some(python) = tool("python/bin/python") else { return };
    let folder = Folder::new();
    let server = dev(&folder);
    let mut command = Command::new(python);
    command.arg(script("tree_client.py")).args([&format!("http://{}/mcp", server.addr()), era]);
    let output = command.env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap();
    assert_eq!(told(&output, &server).trim(), format!("ok {era}"));
    quiet(server, &[]);
}

fn typescript(version: &str) {
    let Some(packages) = packages() else { return };
    let folder = Folder::new();
    let server = dev(&folder);
    let mut command = Command::new("node");
    command.arg(script("tree_client.mjs")).args([version, &format!("http://{}/mcp", server.addr())]);
    let output = command.env("STANDPIPE_TOOLS", &packages).output().unwrap();
    assert_eq!(told(&output, &server).lines().count(), 6);
    quiet(server, &[]);
}

#[test]
fn python_of_the_legacy_era() {
    python("legacy");
}

#[test]
fn python_of_the_modern_era() {
    python("auto");
}

#[test]
fn typescript_1() {
    typescript("1");
}

#[test]
fn typescript_2() {
    typescript("2");
}

/// Rules let everybody in; a token without the claim is not narrowed, one with it is.
#[test]
fn tokens_are_narrowed_by_their_scopes() {
    let Some(python) = tool("python/bin/python") else { return };
    let folder = Folder::new();
    folder.write("rules.json", RULES);
    folder.key("secret", "HS256");
    let server = folder.serve(&["--auth", &format!("key:{}", folder.text("secret"))]);
    let url = format!("http://{}/mcp", server.addr());
    for (era, scopes) in [("auto", "tree:read"), ("legacy", "openid tree:read"), ("auto", "tree:write")] {
        let token = folder.token("secret", &["--uid", "maya", "--claim", &format!("scope={scopes}")]);
        let mut command = Command::new(&python);
        command.arg(script("tree_client.py")).args([&url, era, &token, scopes]);
        let output = command.env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap();
        assert_eq!(told(&output, &server).trim(), format!("ok {era}"), "{scopes}");
    }
    quiet(server, &[]);
}
