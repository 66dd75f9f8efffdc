//! Clients and servers of different eras, each with an official SDK, with the gateway between them. A modern client of a legacy server is played in
//! `mcp_everything.rs`; here is a legacy client of a modern server. Where `cargo xtask test` has not installed the packages, the test says so and does
//! nothing.

use std::process::Command;

use standpipe_testkit::{Launch, tool};

use crate::mcp_everything::{packages, script};
use crate::support::quiet;

fn typescript_1_of_a_modern_python_server(mode: &str) {
    let (Some(packages), Some(python)) = (packages(), tool("python/bin/python")) else { return };
    let (python, fixture) = (python.display().to_string(), script("bridge_server.py").display().to_string());
    let server = Launch::gateway().args(["--mode", mode, "--", &python, "-B", &fixture]).start().unwrap();
    let mut client = Command::new("node");
    client.arg(script("bridge_client.mjs")).arg(format!("http://{}/mcp", server.addr()));
    let output = client.env("STANDPIPE_TOOLS", &packages).output().unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{}\n{out}\n{err}\nthe gateway said:\n{}", output.status, server.stderr());
    assert_eq!(out.trim(), "ok");
    quiet(server, &[]);
}

#[test]
fn a_legacy_client_of_a_modern_server() {
    typescript_1_of_a_modern_python_server("session");
}

#[test]
fn a_legacy_client_of_a_modern_server_that_is_shared() {
    typescript_1_of_a_modern_python_server("shared");
}
