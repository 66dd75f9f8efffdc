//! How often rules were evaluated, as JSON and as a page for people (firebase-rtdb §13). Counting is the rules',
//! and happens where refusals are traced: in `dev`, and where an administrator acts as a user.

use std::fmt::Write as _;

use http::header::{self, HeaderValue};
use serde_json::Value;
use standpipe_engine::Database;

use super::body::Content;
use super::{Answer, json_answer};

/// No script, nothing from elsewhere: the page shows what others wrote.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

const HEAD: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Rules coverage</title><style>\
    body{font:14px/1.5 system-ui,sans-serif;margin:2em;max-width:70em}table{border-collapse:collapse;margin:.5em 0 1.5em}\
    td,th{border:1px solid #ccc;padding:.1em .6em;text-align:left;vertical-align:top}td.n{text-align:right}\
    code,pre{font:13px/1.5 ui-monospace,monospace;white-space:pre-wrap}.never{background:#fdd}.rule{background:#eef}\
    </style><h1>Rules coverage</h1>";

/// `{"rules": […]}`; without rules an empty list.
pub(super) fn json(database: &Database) -> Answer {
    let coverage = database.rules().map_or_else(|| serde_json::json!({ "rules": [] }), |rules| rules.coverage());
    json_answer(Content::Full(coverage.to_string().into()))
}

/// The same as a page: every rule with its parts, then the source.
pub(super) fn page(database: &Database) -> Answer {
    let mut page = String::from(HEAD);
    match database.rules() {
        None => page.push_str("<p>No rules were put.</p>"),
        Some(rules) => {
            table(&rules.coverage(), &mut page);
            let _ = write!(page, "<h2>Source</h2><pre>{}</pre>", escaped(rules.text()));
        }
    }
    let mut answer = http::Response::new(Content::Full(page.into()));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

fn table(coverage: &Value, page: &mut String) {
    page.push_str(
        "<p>What was never evaluated is red. Counted since the rules were put or the server started.</p><table>\
        <tr><th>line<th>expression<th>true<th>false<th>other<th>error",
    );
    for rule in coverage["rules"].as_array().into_iter().flatten() {
        let title = format!("{} {}", text(&rule["path"]), text(&rule["rule"]));
        let _ = write!(page, "<tr class=\"rule\"><td colspan=\"6\"><b>{}</b>", escaped(&title));
        row(rule, page);
        rule["parts"].as_array().into_iter().flatten().for_each(|part| row(part, page));
    }
    page.push_str("</table>");
}

fn row(entry: &Value, page: &mut String) {
    let counts = ["true", "false", "other", "error"].map(|name| entry["counts"][name].as_u64().unwrap_or(0));
    let class = if counts == [0; 4] { " class=\"never\"" } else { "" };
    let expression = escaped(text(&entry["expression"]));
    let _ = write!(page, "<tr{class}><td>{}:{}<td><code>{expression}</code>", entry["line"], entry["column"]);
    counts.iter().for_each(|count| {
        let _ = write!(page, "<td class=\"n\">{count}");
    });
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}
