//! `server-everything`, the protocol's own server of examples, behind the gateway: the official SDKs as clients, one and sixteen of them,
//! with a process for each session and with one for all; and the Inspector's command line. The scripts in `tests/mcp` do the talking and check what
//! comes back. Where `cargo xtask test` has not installed the packages, the tests say so and do nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use standpipe_testkit::{Launch, Server, tool};

use crate::support::quiet;

/// Enough for sixteen clients that come from one address.
const LIMITS: [(&str, &str); 3] = [
    ("STANDPIPE_LIMITS_MCP_CHILDREN_PER_PRINCIPAL_MAX", "32"),
    ("STANDPIPE_LIMITS_MCP_INITIALIZE_BURST_MAX", "100"),
    ("STANDPIPE_LIMITS_MCP_CALLS_PER_PRINCIPAL_MAX", "64"),
];

const STREAMABLE: (&str, &str) = ("http", "/mcp");

pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mcp").join(name)
}

/// The folder that holds `node_modules`, if the packages of MCP are in it.
pub(crate) fn packages() -> Option<PathBuf> {
    let there = tool("node_modules/@modelcontextprotocol/server-everything").and(tool("node_modules"));
    if there.is_none() {
        eprintln!("left out: no npm packages of MCP; cargo xtask test installs them");
    }
    Some(there?.parent()?.to_owned())
}

fn everything(packages: &Path) -> String {
    packages.join("node_modules/@modelcontextprotocol/server-everything/dist/index.js").display().to_string()
}

/// The gateway in front of `server-everything`.
fn gateway(packages: &Path, mode: &str) -> Server {
    let launch = LIMITS.iter().fold(Launch::gateway(), |launch, (name, value)| launch.env(*name, *value));
    launch.args(["--sse", "--mode", mode, "--", "node", &everything(packages), "stdio"]).start().unwrap()
}

/// What a client that has ended printed; it must have succeeded.
fn told(output: &Output, server: &Server) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{}\n{out}\n{err}\nthe gateway said:\n{}", output.status, server.stderr());
    out
}

/// `door` is where the clients go: the scheme, and the path after the address.
fn typescript(version: &str, clients: usize, mode: &str, door: (&str, &str)) {
    let Some(packages) = packages() else { return };
    let server = gateway(&packages, mode);
    let url = format!("{}://{}{}", door.0, server.addr(), door.1);
    let mut command = Command::new("node");
    command.arg(script("everything_client.mjs")).args([version, &url, &clients.to_string(), mode]);
    let output = command.env("STANDPIPE_TOOLS", &packages).output().unwrap();
    let cases = told(&output, &server);
    assert_eq!(cases.lines().filter(|line| line.starts_with("ok ")).count(), 10, "{cases}");
    quiet(server, &[]);
}

fn python(clients: usize, mode: &str, era: &str) {
    let (Some(packages), Some(python)) = (packages(), tool("python/bin/python")) else { return };
    let server = gateway(&packages, mode);
    let url = format!("http://{}/mcp", server.addr());
    let mut command = Command::new(python);
    command.arg(script("everything_client.py")).args([&url, &clients.to_string(), era]);
    let output = command.env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap();
    assert_eq!(told(&output, &server).trim(), format!("ok {clients} {era}"));
    quiet(server, &[]);
}

#[test]
fn typescript_1_a_process_for_the_session() {
    typescript("1", 1, "session", STREAMABLE);
}

#[test]
fn typescript_1_sixteen_sessions() {
    typescript("1", 16, "session", STREAMABLE);
}

#[test]
fn typescript_1_over_the_transport_of_2024() {
    typescript("1", 4, "session", ("http", "/mcp/sse"));
}

#[test]
fn typescript_1_over_websockets() {
    typescript("1", 4, "session", ("ws", "/mcp/ws"));
}

#[test]
fn typescript_2_one_client_of_a_shared_process() {
    typescript("2", 1, "shared", STREAMABLE);
}

#[test]
fn typescript_2_sixteen_clients_of_a_shared_process() {
    typescript("2", 16, "shared", STREAMABLE);
}

#[test]
fn python_of_the_legacy_era() {
    python(1, "session", "legacy");
}

/// The client begins in the modern era and stays there, the server knows only the legacy one.
#[test]
fn python_of_the_modern_era_over_a_bridge() {
    python(1, "session", "auto");
}

#[test]
fn python_sixteen_clients_over_a_bridge_to_a_shared_process() {
    python(16, "shared", "auto");
}

/// The official tool of developers, as they would type it.
#[test]
fn the_inspectors_command_line() {
    let Some(packages) = packages() else { return };
    let server = gateway(&packages, "session");
    let url = format!("http://{}/mcp", server.addr());
    let inspect = |words: &[&str]| -> Value {
        let mut command = Command::new("node");
        command.arg(packages.join("node_modules/.bin/mcp-inspector")).args(["--cli", &url, "--transport", "http"]);
        let output = command.args(words).env("HOME", packages.join("inspector-home")).output().unwrap();
        let text = told(&output, &server);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    let tools = inspect(&["--method", "tools/list"]);
    assert!(tools["tools"].as_array().is_some_and(|tools| tools.len() > 5), "{tools}");
    let sum = inspect(&["--method", "tools/call", "--tool-name", "get-sum", "--tool-arg", "a=2", "b=40"]);
    assert!(sum["content"][0]["text"].as_str().is_some_and(|text| text.contains("42")), "{sum}");
    let read = inspect(&["--method", "resources/read", "--uri", "demo://resource/dynamic/text/1"]);
    assert!(read["contents"][0]["text"].is_string(), "{read}");
    quiet(server, &[]);
}
