//! `docs/conformance-firebase.md`: the cases of `tests/js/*.mjs` as a page. `sdk.rs` fails unless each of them has
//! just been played, so what the page lists is what works. `STANDPIPE_UPDATE_DOCS=1` writes it anew.

use std::fmt::Write as _;

use crate::sdk::cases;
use crate::support::check_page;

/// What the npm packages are, with their versions.
const TOOLS: &str = include_str!("../../../../xtask/src/tools.rs");

const HEAD: &str = "\
# Conformance: Firebase's clients

Generated from the tests (`crates/standpipe/tests/js/*.mjs`): every case is played by the unmodified package against the real binary,
and a case that is not played fails the test. The REST interface has [a page of its own](conformance-http.md); the protocol's door is
described in [firebase.md](firebase.md).

## What differs from the Realtime Database

| what | here |
|---|---|
| integers beyond 2^53 | kept exactly up to 64 bits; beyond that refused, but for `standpipe import`, which rounds them |
| duplicate keys in one JSON object | refused; Firebase keeps the last |
| database names (`ns`) | up to 64 bytes, whatever they are but control characters |
| onDisconnect over a server crash | runs when the server is back, rules checked then |
| App Check tokens | accepted and ignored |
| compound hashes, range merges | ignored: such a client gets the whole value, which every client understands |
| Cloud Functions triggers, the profiler, Google accounts as administrators | not there |

A window that stands beside a listener of the whole list is cut by the SDK itself, which shows wrong children where one write moves
several of them (seen with firebase 12.19.0, frames checked); no server can help there, and the cases below keep the two apart.

## The SDKs' own suites

Run by hand against `standpipe dev` on 2026-11-28, one test at a time, without retries; the suites are not part of this project.

| suite | version | passed | pending | failed |
|---|---|---|---|---|
| firebase-js-sdk `packages/database/test` (Node) | 6f86596, 2026-08-20 | 265 | 4 | 1 |
| firebase-js-sdk `packages/database-compat/test` (Node) | 6f86596, 2026-08-20 | 308 | 18 | 0 |
| firebase-admin-python `integration/test_db.py` | b40e738 | 41 | 0 | 0 |
| firebase-admin-node `test/integration/database.spec.ts` | 5a203f6, on firebase-admin 13.10.0 | 13 | 3 | 0 |

Pending are those that the suites themselves skip, on Node or beside an emulator. The failure, `Force Transport: should enable websockets
and disable longPolling`, asks no server: it fails after other tests of its process and passes alone (\"Fails without retry\", says its source).

## What is played
";

/// Each suite: its script, the title of its table, and the package it drives.
const SUITES: &[(&str, &str, &str)] = &[
    ("modular", "The modular SDK", "firebase"),
    ("queries", "Queries of the modular SDK, against an oracle", "firebase"),
    ("compat", "The compat SDK", "firebase"),
    ("admin", "The Admin SDK for Node", "firebase-admin"),
    ("rules", "Tests of rules", "@firebase/rules-unit-testing"),
    ("cli", "The Firebase CLI", "firebase-tools"),
];

/// `package@version`, as `cargo xtask test` installs it.
fn version(package: &str) -> &'static str {
    let start = TOOLS.find(&format!("\"{package}@")).expect("the tests' tools list the package") + 1;
    let text = &TOOLS[start..];
    &text[..text.find('"').expect("a literal ends")]
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for (suite, title, package) in SUITES {
        writeln!(page, "\n### {title}: `{}`\n\n| case |\n|---|", version(package)).unwrap();
        for case in cases(suite) {
            writeln!(page, "| {} |", case.replace('|', "\\|")).unwrap();
        }
    }
    page
}

#[test]
fn the_page_shows_the_cases() {
    let page = page();
    assert!(page.lines().filter(|line| line.starts_with("| ")).count() > 80, "the cases were not found");
    check_page("conformance-firebase.md", &page);
}
