//! Story 4: a board for agents and people, as docs/agents.md has it. Agents come as their editors start them, with the official Python SDK; a
//! script comes with curl, and a person watches with the command. What is typed is taken from the story; only the port is another one.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use standpipe_testkit::http::request;
use standpipe_testkit::{Launch, Server, binary, tool};

use crate::cli::Cli;
use crate::support::{dev, quiet, write};

/// Where the page is from here.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/agents.md");

/// Lets four agents and then two play on the board, started by `command`.
fn play(server: &Server, era: &str, command: &[&str]) -> Option<()> {
    let Some(python) = tool("python/bin/python") else {
        eprintln!("left out: no Python SDK of MCP; cargo xtask test installs it");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mcp/board.py");
    let mut player = Command::new(python);
    player.arg(script).arg(era).args(command).env("PYTHONDONTWRITEBYTECODE", "1");
    let Output { status, stdout, stderr } = player.output().unwrap();
    let [out, err] = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(
        status.success() && out.ends_with("\"done\"\n"),
        "{status}\n{out}\n{err}\nthe server said:\n{}",
        server.stderr()
    );
    Some(())
}

/// Plays the whole story; `command` is what an agent's editor starts, or a URL.
fn story(era: &str, command: impl FnOnce(&str) -> Vec<String>) {
    let server = dev();
    let (url, cli) = (server.url(), Cli::new(&server));
    let mut human = cli.watch(&["/board", "--since", "last"]);
    assert_eq!(human.json()["data"], Value::Null, "nothing is there yet, and that is said");
    let command = command(url.trim_end_matches('/'));
    let command: Vec<_> = command.iter().map(String::as_str).collect();
    if play(&server, era, &command).is_none() {
        return;
    }
    // The person has seen all of it: each claim, once, and how the first one went over and was done.
    let (mut claims, mut messages, mut done) = (Vec::new(), 0, None);
    while done.is_none() {
        let told = human.json();
        let path = told["path"].as_str().unwrap().to_owned();
        match path.strip_prefix("/claims/") {
            Some(work) => claims.push(work.to_owned()),
            None if path.starts_with("/messages/") => messages += 1,
            None => done = told["data"].get("done/issue-0").cloned(),
        }
    }
    claims.sort_unstable();
    let mut expected: Vec<_> = (0..10).map(|number| format!("issue-{number}")).collect();
    expected.insert(0, "issue-0".into());
    assert_eq!((claims, messages, done), (expected, 5, Some(json!("fixed"))));
    human.signal(rustix::process::Signal::INT);
    since_last(&server, &cli);
    quiet(server, &[]);
}

/// As typed in the page: the first to claim gets it, the others get 412, and who comes back sees what they missed.
fn since_last(server: &Server, cli: &Cli) {
    let typed = line("curl -X PUT").replace("http://127.0.0.1:9000", server.url().trim_end_matches('/'));
    let asked = typed.replacen("curl", "curl -s -o /dev/null -w '%{http_code}'", 1);
    let claim = |name: &str| cli.sh(&asked.replace("agent-7", name));
    assert_eq!(["agent-7", "agent-8", "agent-7"].map(claim), ["200", "412", "412"]);
    let human = cli.watch(&["/board", "--since", "last"]);
    let told = human.json();
    assert_eq!((&told["path"], &told["data"]), (&json!("/claims/issue-42"), &json!("agent-7")));
}

/// The line of the page that begins so, without its comment.
fn line(beginning: &str) -> String {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let line = page.lines().find(|line| line.starts_with(beginning)).expect("the page has it");
    line.split("  #").next().unwrap().trim_end().to_owned()
}

/// What the page has an editor start for an agent, with the program under test and this server.
fn editors_command(url: &str) -> Vec<String> {
    let line = line("claude mcp add board -- ");
    let (_, command) = line.split_once(" -- ").unwrap();
    let mut words: Vec<_> = command.replace("http://127.0.0.1:9000", url).split(' ').map(str::to_owned).collect();
    assert_eq!(words[0], "standpipe");
    words[0] = binary().display().to_string();
    words
}

#[test]
fn agents_over_their_editors_command_in_the_modern_era() {
    story("auto", editors_command);
}

#[test]
fn agents_over_their_editors_command_in_the_legacy_era() {
    story("legacy", editors_command);
}

#[test]
fn agents_over_http() {
    story("auto", |url| vec![format!("{url}/mcp")]);
}

/// The lease of the recipe: what holds a claim dies, and the claim goes at once.
#[test]
fn a_claim_goes_with_its_holder() {
    let server = dev();
    let cli = Cli::new(&server);
    let human = cli.watch(&["/board/claims"]);
    assert_eq!(human.json()["data"], Value::Null);
    let holder = cli.follow(
        binary(),
        &["put", "/board/claims/issue-42", "\"agent-7\"", "--if-match", "null_etag", "--while-connected"],
    );
    assert_eq!(human.json()["data"], json!("agent-7"));
    let other =
        cli.output(&["put", "/board/claims/issue-42", "\"agent-8\"", "--if-match", "null_etag", "--while-connected"]);
    assert_eq!(other.status.code(), Some(4), "somebody else has it");
    // Killed, not asked to end.
    drop(holder);
    let told = human.json();
    assert_eq!((&told["path"], &told["data"]), (&json!("/issue-42"), &Value::Null));
    quiet(server, &[]);
}

/// The block of JSON in the page, which is the rules file.
fn rules() -> String {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (_, rest) = page.split_once("```json\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// A token that `dev` believes without a signature.
fn token(uid: &str) -> String {
    use base64::Engine as _;
    let base64 = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    format!("Bearer {}.{}.", base64(r#"{"alg":"none","typ":"JWT"}"#), base64(&json!({ "sub": uid }).to_string()))
}

/// The rules of the page do what the page says of them.
#[test]
fn the_rules_make_the_recipe_a_law() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("board.rules.json");
    std::fs::write(&file, rules()).unwrap();
    let server = Launch::dev().args(["--rules".as_ref(), file.as_os_str()]).start().unwrap();
    let check = |who: Option<&str>, method: &str, path: &str, body: Value, allowed: bool| {
        let token = who.map(token);
        let headers: Vec<_> = token.iter().map(|token| ("authorization", token.as_str())).collect();
        let target = format!("/board/{path}.json");
        let got = request(server.addr(), method, &target, &headers, body.to_string().as_bytes()).unwrap();
        assert_eq!(got.status == 200, allowed, "{who:?} {method} {path} {body}: {} {}", got.status, got.text());
    };
    let (ann, bob) = (Some("ann"), Some("bob"));
    let alive = || json!({ "seen": { ".sv": "timestamp" }, "doing": "work" });
    check(None, "PUT", "claims/a", json!("ann"), false);
    check(ann, "PUT", "agents/ann", alive(), true);
    check(bob, "PUT", "agents/ann", alive(), false);
    check(ann, "PUT", "agents/ann/seen", json!(1), false);
    check(ann, "PUT", "claims/a", json!("bob"), false);
    check(ann, "PUT", "claims/a", json!("ann"), true);
    check(bob, "PUT", "claims/a", json!("bob"), false);
    check(bob, "PUT", "done/a", json!("stolen"), false);
    check(ann, "PATCH", "", json!({ "done/a": "fixed", "claims/a": null }), true);
    check(ann, "PUT", "messages/m1", json!({ "from": "ann", "to": "all", "text": "hello" }), true);
    check(bob, "PUT", "messages/m1", json!({ "from": "bob", "to": "all", "text": "never" }), false);
    check(bob, "PUT", "messages/m2", json!({ "from": "ann", "to": "all", "text": "forged" }), false);
    // One who has not been seen for more than two minutes is dead, and so is one who never was.
    write(server.addr(), "PUT", "/board/claims/b.json?access_token=owner", "\"ann\"");
    write(server.addr(), "PUT", "/board/agents/ann/seen.json?access_token=owner", "1000");
    check(bob, "PUT", "claims/b", json!("bob"), true);
    write(server.addr(), "PUT", "/board/claims/c.json?access_token=owner", "\"ghost\"");
    check(bob, "PUT", "claims/c", json!("bob"), true);
    quiet(server, &[]);
}
