//! The page of a run in headless Chromium: what it shows early, late and after the end, that nothing a process writes is
//! ever more than text, that long outputs stay small, and that its buttons do what they say. Where `cargo xtask test` has
//! not installed what that needs, the tests say so and do nothing.

use serde_json::{Value, json};
use standpipe_testkit::http::request;
use standpipe_testkit::{Launch, Server};

use crate::browser::drive;
use crate::support::dev;

/// The secret of the server's data folder: who bears it here may have any command run.
fn operator(server: &Server) -> String {
    let file = server.data().join("admin.token");
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())).trim().to_owned()
}

/// What the scenario sees.
fn check(scenario: &str, launch: Launch, expected: &[Value]) {
    let server = launch.same_port().start().unwrap();
    let secret = operator(&server);
    let Some(seen) = drive("runs.mjs", scenario, server, "", &[&secret]) else { return };
    assert_eq!(seen, expected, "{scenario}");
}

#[test]
fn the_page_is_the_same_for_every_run_and_allows_nothing_foreign() {
    let server = dev();
    let html = [("accept", "text/html,*/*;q=0.8")];
    let page = request(server.addr(), "GET", "/runs/nightly", &html, b"").unwrap();
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"), "{policy}");
    assert!(page.header("vary").unwrap().contains("accept"));
    assert_eq!(page.text(), request(server.addr(), "GET", "/runs/a@1", &html, b"").unwrap().text());
    let script = request(server.addr(), "GET", "/assets/run/page.js", &[], b"").unwrap();
    assert_eq!((script.status, script.header("x-content-type-options")), (200, Some("nosniff")));
    let tag = script.header("etag").unwrap();
    let again = request(server.addr(), "GET", "/assets/run/page.js", &[("if-none-match", tag)], b"").unwrap();
    assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, Some(tag)));
    assert_eq!(request(server.addr(), "POST", "/assets/run/page.js", &[], b"").unwrap().status, 405);
    for unknown in ["page.html", "..%2Fpage.css", "x.js"] {
        let target = format!("/assets/run/{unknown}");
        assert_eq!(request(server.addr(), "GET", &target, &[], b"").unwrap().status, 404, "{unknown}");
    }
}

#[test]
fn two_readers_see_all_of_it_as_text_and_one_stays() {
    let looks = json!([
        ["red ", "f1", "", ""],
        ["wide ", "b f1", "", "rgb(255, 135, 0)"],
        ["true", "b", "rgb(1, 2, 3)", "rgb(255, 135, 0)"],
    ]);
    check(
        "output",
        Launch::dev(),
        &[
            json!({
                "looks": looks, "script": "<script>alert(1)</script><img src=x onerror=alert(2)>", "link": "click here",
                "percent": "100 %", "made": 0, "title": "output@1 · running",
            }),
            json!({"outcome": "exit code 3", "stop": null, "retry": "Run again"}),
            json!({"late": 1, "twice": 1}),
        ],
    );
}

#[test]
fn a_hundred_thousand_lines_stay_readable() {
    check(
        "long",
        Launch::dev(),
        &[
            json!({"small": true, "follows": true}),
            json!({"stays": true, "first": true}),
            json!({"linked": "50000", "near": true}),
            json!({"found": ["later 1", "later 10", "later 11"], "marks": true}),
            json!({"small": true}),
        ],
    );
}

#[test]
fn the_stop_button_stops_and_seven_tabs_of_a_phone_see_it() {
    check(
        "stop",
        Launch::dev(),
        &[json!({"wide": true}), json!({"still": "running"}), json!({"stopped": "cancelled", "outcome": true})],
    );
}

#[test]
fn a_page_comes_back_after_a_crash_and_shows_nothing_twice() {
    check("restart", Launch::dev(), &[json!({"once": 1, "resume": null})]);
}

#[test]
fn a_pipeline_is_a_graph_of_tasks_with_their_own_output() {
    check("pipeline", Launch::dev(), &[json!({"edges": 4, "tasks": 4}), json!({"own": [], "hash": "#lint", "err": 1})]);
}

#[test]
fn a_locked_run_asks_for_a_token_and_keeps_it_in_the_tab() {
    check("locked", Launch::serve(), &[json!({"rows": 0}), json!({"address": ""})]);
}

#[test]
fn a_line_looks_as_in_a_terminal() {
    check("ansi", Launch::dev(), &[json!({"wrong": []})]);
}
