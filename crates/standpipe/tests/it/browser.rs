//! Real browsers: pages of headless Chromium with the official SDK from npm see each other's changes, over WebSockets,
//! by long polling where there are none, and while a page moves from the one to the other; and they survive a crash of
//! the server. Where `cargo xtask test` has not installed what that needs, the tests say so and do nothing.

use std::path::Path;

use serde_json::{Value, json};
use standpipe_testkit::{Launch, Server, tool};

use crate::cli::Cli;
use crate::support::quiet;

/// Runs a scenario of a script and gives what it saw; restarts the server when it asks for that. The script gets the
/// scenario, the server's address and `query`, the modules, the browser, and `more`.
pub(crate) fn drive(script: &str, scenario: &str, server: Server, query: &str, more: &[&str]) -> Option<Vec<Value>> {
    let modules = tool("node_modules").filter(|modules| modules.join("puppeteer-core").exists());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let chromium = std::env::split_paths(&path).map(|dir| dir.join("chromium")).find(|program| program.exists());
    let (Some(modules), Some(chromium)) = (modules, chromium) else {
        eprintln!("left out: no npm package puppeteer-core or no chromium; cargo xtask test installs them");
        return None;
    };
    let mut server = server;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js/browser").join(script);
    let url = format!("{}{query}", server.url());
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let words = [text(&script), scenario.to_owned(), url, text(&modules), text(&chromium)];
    let words: Vec<&str> = words.iter().map(String::as_str).chain(more.iter().copied()).collect();
    let driver = Cli::new(&server).follow("node", &words);
    let mut seen = Vec::new();
    loop {
        let line = driver.json();
        if line == json!({"restart": true}) {
            server.kill().unwrap();
            server.restart().unwrap();
        } else if let Some(done) = line.get("done") {
            assert_eq!(*done, json!(true), "{line}");
            quiet(server, &[]);
            return Some(seen);
        } else {
            assert!(line.get("failed").is_none(), "{scenario}: {}\n{}", line["failed"], server.stderr());
            seen.push(line);
        }
    }
}

/// `expected` is seen, whatever else.
fn check(scenario: &str, expected: &[Value]) {
    let server = Launch::dev().same_port().start().unwrap();
    let Some(seen) = drive("browser.mjs", scenario, server, "?ns=browser", &[]) else { return };
    assert_eq!(seen, expected, "{scenario}");
}

#[test]
fn pages_see_each_other_and_survive_a_crash() {
    check("sockets", &[json!({"seen": "before"}), json!({"polls": 0, "sockets": true}), json!({"seen": "after"})]);
}

#[test]
fn pages_without_websockets_are_served_too() {
    check(
        "polling",
        &[
            json!({"seen": "before"}),
            json!({"long": true}),
            json!({"added": true, "count": 1}),
            json!({"seen": "after"}),
            json!({"polls": true, "sockets": 0}),
        ],
    );
}

#[test]
fn a_page_moves_from_polling_to_a_websocket_and_misses_nothing() {
    check(
        "upgrade",
        &[
            json!({"count": 400, "whole": true, "theirs": 400}),
            json!({"moved": 1, "connected": [false, true], "here": null, "polls": true}),
        ],
    );
}
