//! Streams as browsers read them: an EventSource that reconnects by itself and says where it was.
//! Where `cargo xtask test` has not installed the npm package, the tests say so and do nothing.

use std::path::Path;

use serde_json::json;
use standpipe_testkit::{Launch, tool};

use crate::cli::{Cli, Follow};
use crate::support::write;

fn follow(cli: &Cli, url: &str) -> Option<Follow> {
    let Some(modules) = tool("node_modules/eventsource").and_then(|dir| dir.parent().map(Path::to_owned)) else {
        eprintln!("left out: no npm package eventsource; cargo xtask test installs it");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node/eventsource.js");
    let path = format!("NODE_PATH={}", modules.display());
    Some(cli.follow("env", &[&path, "node", script.to_str().unwrap(), url]))
}

#[test]
fn an_event_source_misses_nothing_over_restarts() {
    let mut server = Launch::dev().same_port().start().unwrap();
    let cli = Cli::new(&server);
    let Some(source) = follow(&cli, &format!("{}/a.json", server.url())) else { return };
    assert_eq!(source.json(), json!({"name": "put", "id": "0", "path": "/", "data": null}));
    for kill in [false, true] {
        let rev = write(server.addr(), "PUT", "/a/text.json", "\"é🦊\"");
        assert_eq!(source.json(), json!({"name": "put", "id": rev.to_string(), "path": "/text", "data": "é🦊"}));
        if kill { server.kill() } else { server.stop() }.unwrap();
        server.restart().unwrap();
        let put = write(server.addr(), "PUT", "/a/n.json", "1");
        let patch = write(server.addr(), "PATCH", "/a.json", r#"{"n":null,"text":null}"#);
        let error = source.json();
        assert_eq!((&error["name"], &error["closed"]), (&json!("error"), &json!(false)), "it tries again");
        assert_eq!(source.json(), json!({"name": "put", "id": put.to_string(), "path": "/n", "data": 1}));
        let expected =
            json!({"name": "patch", "id": patch.to_string(), "path": "/", "data": {"n": null, "text": null}});
        assert_eq!(source.json(), expected);
    }
}

#[test]
fn an_event_source_that_is_refused_gives_up() {
    let server = Launch::serve().start().unwrap();
    let Some(source) = follow(&Cli::new(&server), &format!("{}/a.json", server.url())) else { return };
    assert_eq!(source.json(), json!({"name": "error", "code": 401, "closed": true}));
}
