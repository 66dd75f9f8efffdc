//! `docs/conformance-http.md`: the tables of `rest.rs` as a page, so that what the page says works is
//! what the tests have just played. `STANDPIPE_UPDATE_DOCS=1` writes it anew.

use std::fmt::Write as _;

use crate::support::check_page;

const TABLES: &str = include_str!("rest.rs");

const HEAD: &str = "\
# Conformance: HTTP

Generated from the tests (`crates/standpipe/tests/it/rest.rs`): every row is played against the real binary, most over HTTP/1.1 and
HTTP/2. A request is `METHOD TARGET (headers) BODY`; an answer is `STATUS (headers) BODY`, where `!text` is the error
`text` and `~text` an error that contains it.

The official Firebase Admin SDK for Python runs unmodified (`crates/standpipe/tests/python/admin.py`): get, set, push, update, delete,
transaction, ETag methods, shallow reads, every query, `listen()` over server restarts.

## What differs from the Realtime Database

| what | here |
|---|---|
| rules | judge every read and write ([rules.md](rules.md)); none put: `dev` is open, `serve` is for administrators only |
| tokens | `dev`: `owner` and unsigned tokens; `serve`: an administrator's token, and users of a Firebase project or of keys of your own |
| `.indexOn` | asked for where rules were put (`query_unindexed` in `[engine]`) |
| duplicate keys in one JSON object | refused (400); Firebase keeps the last |
| integers beyond 2^53 | kept exactly up to 64 bits, or refused; never rounded |
| WebSocket, long polling | [conformance-firebase.md](conformance-firebase.md) |
| additions | `x-standpipe-rev`, `at_least`, `deep`, `id:` and `Last-Event-ID`, `reset` |

## What is played
";

/// The rows of each table: two string literals, request and answer.
fn page() -> String {
    let mut page = HEAD.to_owned();
    for test in TABLES.split("#[test]\nfn ").skip(1) {
        let Some((name, body)) = test.split_once("()") else { continue };
        let rows = rows(body);
        if rows.is_empty() {
            continue;
        }
        let title = name.replace('_', " ");
        writeln!(page, "\n### {title}\n\n| request | answer |\n|---|---|").unwrap();
        for (request, answer) in rows {
            writeln!(page, "| {} | {} |", cell(&request), cell(&answer)).unwrap();
        }
    }
    page
}

pub(crate) fn cell(text: &str) -> String {
    let short: String = text.chars().take(160).collect();
    let more = if short.len() < text.len() { " …" } else { "" };
    format!("`` {}{more} ``", short.replace('|', "\\|"))
}

/// String literals that stand as pairs in parentheses and whose first begins with a method.
fn rows(body: &str) -> Vec<(String, String)> {
    let literals = literals(body);
    let methods = ["GET ", "PUT ", "POST ", "PATCH ", "DELETE ", "HEAD ", "OPTIONS "];
    let is_request = |text: &str| methods.iter().any(|method| text.starts_with(method));
    let is_answer = |text: &str| text.len() >= 3 && text[..3].bytes().all(|byte| byte.is_ascii_digit());
    literals
        .windows(2)
        .filter(|pair| is_request(&pair[0]) && is_answer(&pair[1]))
        .map(|pair| (pair[0].clone(), pair[1].clone()))
        .collect()
}

/// All string literals of a piece of Rust, as what they mean.
pub(crate) fn literals(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find('"') {
        let before = &rest[..at];
        let hashes = before.len() - before.trim_end_matches('#').len();
        let raw = before.trim_end_matches('#').ends_with('r');
        rest = &rest[at + 1..];
        let end = if raw { rest.find(&format!("\"{}", "#".repeat(hashes))) } else { plain_end(rest) };
        let Some(end) = end else { break };
        let text = &rest[..end];
        found.push(if raw { text.to_owned() } else { text.replace("\\\"", "\"").replace("\\\\", "\\") });
        rest = &rest[end + 1..];
    }
    found
}

fn plain_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    (0..bytes.len()).find(|&at| {
        let escapes = bytes[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
        bytes[at] == b'"' && escapes % 2 == 0
    })
}

#[test]
fn the_page_shows_the_tables() {
    let page = page();
    assert!(page.lines().filter(|line| line.starts_with("| ``")).count() > 150, "the tables were not found");
    check_page("conformance-http.md", &page);
}
