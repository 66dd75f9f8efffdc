//! The generated parts of `docs/line.md`: the commands as the door itself lists them, and the tables of
//! `line.rs`, so that what the page says works is what the tests have just played.
//! `STANDPIPE_UPDATE_DOCS=1` writes them anew.

use std::fmt::Write as _;
use std::path::Path;

use crate::conformance::{cell, literals};

const TABLES: &str = include_str!("line.rs");

/// The rows of each test that plays a table: string literals in pairs.
fn rows() -> String {
    let mut page = String::new();
    for test in TABLES.split("#[test]\nfn ").skip(1) {
        let Some((name, body)) = test.split_once("()") else { continue };
        let Some((_, table)) = body.split_once("play(&[") else { continue };
        let (table, _) = table.split_once("]);").expect("a table ends");
        writeln!(page, "\n### {}\n\n| line | answer |\n|---|---|", name.replace('_', " ")).unwrap();
        for row in literals(table).chunks(2) {
            writeln!(page, "| {} | {} |", cell(&row[0]), cell(&row[1])).unwrap();
        }
    }
    page
}

/// Puts `text` between the marks of `name`.
fn put(page: &str, name: &str, text: &str) -> String {
    let (before, rest) = page.split_once(&format!("<!-- {name}: ")).expect("the page has the mark");
    let (mark, rest) = rest.split_once('\n').expect("the mark is a line");
    let (_, after) = rest.split_once("<!-- end -->").expect("the part has an end");
    format!("{before}<!-- {name}: {mark}\n{text}<!-- end -->{after}")
}

#[test]
fn the_page_shows_the_commands_and_the_tables() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/line.md");
    let there = std::fs::read_to_string(&file).unwrap();
    let rows = rows();
    assert!(rows.lines().count() > 60, "the tables were not found");
    let page = put(&there, "commands", &standpipe_doors::line_commands());
    let page = put(&page, "rows", &rows);
    if std::env::var_os("STANDPIPE_UPDATE_DOCS").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let there = std::fs::read_to_string(&file).unwrap();
    assert!(there == page, "docs/line.md is not what the tables say: run with STANDPIPE_UPDATE_DOCS=1");
}
