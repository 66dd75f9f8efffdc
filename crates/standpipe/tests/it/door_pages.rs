//! The generated parts of the pages of doors that take commands: the commands as the door itself lists them, and
//! the tables of its tests, so that what a page says works is what the tests have just played.
//! `STANDPIPE_UPDATE_DOCS=1` writes them anew.

use std::fmt::Write as _;
use std::path::Path;

use crate::conformance::{cell, literals};

/// The rows of each test that plays a table: string literals in pairs, of which `head` says what they are.
fn rows(tables: &str, head: &str) -> String {
    let mut page = String::new();
    for test in tables.split("#[test]\nfn ").skip(1) {
        let Some((name, body)) = test.split_once("()") else { continue };
        let Some((_, table)) = body.split_once("play(&[") else { continue };
        let (table, _) = table.split_once("]);").expect("a table ends");
        writeln!(page, "\n### {}\n\n{head}\n|---|---|", name.replace('_', " ")).unwrap();
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

/// Is the page of `docs` what the door lists as its `commands`, and what `rows` of tables say?
fn check(page: &str, commands: &str, rows: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
    let there = std::fs::read_to_string(&file).unwrap();
    assert!(rows.lines().count() > 60, "the tables were not found");
    let made = put(&put(&there, "commands", commands), "rows", rows);
    if std::env::var_os("STANDPIPE_UPDATE_DOCS").is_some() {
        std::fs::write(&file, &made).unwrap();
    }
    let there = std::fs::read_to_string(&file).unwrap();
    assert!(there == made, "docs/{page} is not what the tables say: run with STANDPIPE_UPDATE_DOCS=1");
}

#[test]
fn the_pages_show_the_commands_and_the_tables() {
    let line = rows(include_str!("line.rs"), "| line | answer |");
    check("line.md", &standpipe_doors::line_commands(), &line);
    let resp = rows(include_str!("resp.rs"), "| command | reply |");
    check("resp.md", &standpipe_doors::resp_commands(), &resp);
}
