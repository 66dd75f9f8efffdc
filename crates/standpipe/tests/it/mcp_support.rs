//! What tests of MCP over HTTP share: clients of both eras that speak raw HTTP, and the servers of `tests/mcp`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use standpipe_testkit::http::{Conn, Response, request};

/// A file of `tests/mcp`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mcp").join(name)
}

/// Headers of every request.
const HEADERS: [(&str, &str); 2] =
    [("content-type", "application/json"), ("accept", "application/json, text/event-stream")];

/// The messages of an answer, be it one or a stream of them.
pub(crate) fn messages(response: &Response) -> Vec<Value> {
    if !response.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")) {
        return response.json().into_iter().collect();
    }
    let text = response.text();
    text.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?).ok()).collect()
}

/// The last message of an answer: the reply.
pub(crate) fn reply(response: &Response) -> Value {
    messages(response).pop().unwrap_or_else(|| panic!("no message: {} {}", response.status, response.text()))
}

/// A client of the legacy era with a session.
pub(crate) struct Legacy {
    pub(crate) addr: SocketAddr,
    pub(crate) path: String,
    pub(crate) session: String,
    pub(crate) initialized: Value,
}

impl Legacy {
    /// Begins a session.
    pub(crate) fn open(addr: SocketAddr, path: &str) -> Self {
        Self::try_open(addr, path, &[]).unwrap_or_else(|response| panic!("{} {}", response.status, response.text()))
    }

    /// Begins a session with more headers; gives the refusal where it is none.
    pub(crate) fn try_open(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, Box<Response>> {
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}});
        let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}).to_string();
        let headers: Vec<_> = HEADERS.iter().chain(headers).copied().collect();
        let response = request(addr, "POST", path, &headers, body.as_bytes()).unwrap();
        let Some(session) = response.header("mcp-session-id").filter(|_| response.status == 200) else {
            return Err(Box::new(response));
        };
        let (session, initialized) = (session.to_owned(), reply(&response));
        let client = Self { addr, path: path.to_owned(), session, initialized };
        let accepted = client.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        assert_eq!(accepted.status, 202, "{}", accepted.text());
        Ok(client)
    }

    /// Sends a message as it is.
    pub(crate) fn post(&self, body: &str) -> Response {
        let session = [("mcp-session-id", self.session.as_str()), ("mcp-protocol-version", "2025-11-25")];
        let headers: Vec<_> = HEADERS.iter().copied().chain(session).collect();
        request(self.addr, "POST", &self.path, &headers, body.as_bytes()).unwrap()
    }

    /// Makes a request and gives the reply.
    pub(crate) fn ask(&self, method: &str, params: &Value) -> Value {
        reply(&self.post(&json!({"jsonrpc": "2.0", "id": "a", "method": method, "params": params}).to_string()))
    }

    /// Calls a tool and gives its text.
    pub(crate) fn tool(&self, name: &str, arguments: &Value) -> String {
        let got = self.ask("tools/call", &json!({"name": name, "arguments": arguments}));
        let text = got["result"]["content"][0]["text"].as_str();
        text.unwrap_or_else(|| panic!("{name}: {got}")).to_owned()
    }

    /// Sends a request and leaves its answer to be read.
    pub(crate) fn begin(&self, method: &str, params: &Value) -> Conn {
        let body = json!({"jsonrpc": "2.0", "id": "b", "method": method, "params": params}).to_string();
        let mut conn = Conn::open(self.addr).unwrap();
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\n\
             mcp-session-id: {}\r\ncontent-length: {}\r\n\r\n{body}",
            self.path,
            self.addr,
            self.session,
            body.len()
        );
        conn.send(head.as_bytes()).unwrap();
        conn
    }

    /// Ends the session.
    pub(crate) fn end(&self) -> u16 {
        request(self.addr, "DELETE", &self.path, &[("mcp-session-id", &self.session)], b"").unwrap().status
    }
}

/// Makes a request of the modern era.
pub(crate) fn modern(addr: SocketAddr, path: &str, method: &str, params: &Value, headers: &[(&str, &str)]) -> Response {
    let mut params = params.clone();
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2026-07-28".into();
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    let named = match method {
        "tools/call" | "prompts/get" => params["name"].as_str(),
        "resources/read" => params["uri"].as_str(),
        _ => None,
    };
    let named = named.map(str::to_owned);
    let own = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", method)];
    let name = named.as_deref().map(|name| ("mcp-name", name));
    let headers: Vec<_> = HEADERS.iter().copied().chain(own).chain(name).chain(headers.iter().copied()).collect();
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    request(addr, "POST", path, &headers, body.as_bytes()).unwrap()
}
