//! A stand of servers with real processes, and clients that talk to them without a door.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use serde_json::{Value, json};
use standpipe_mcp::exchange::{Inlet, Room, exchange};
use standpipe_mcp::upstream::child::{ChildServer, ChildSpec, Children, Mode, environment};
use standpipe_mcp::upstream::{Era, EraChoice};
use standpipe_mcp::{Caller, Conversation, LegacyServer as _, Metrics, ModernServer as _, Outlet};
use standpipe_runs::Launcher;
use standpipe_serve::Limits;
use standpipe_wire::jsonrpc::Message;
use tempfile::TempDir;

/// Nothing takes longer, on a machine with much to do.
const SOON: Duration = Duration::from_secs(60);

pub(crate) async fn soon<T>(what: &str, done: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, done).await.unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// Waits until something that is looked at is so.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let look = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(what, look).await;
}

pub(crate) fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}/stat")).exists()
        && !std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

pub(crate) struct Stand {
    _folder: TempDir,
    launcher: Arc<dyn Launcher>,
    pub(crate) children: Arc<Children>,
    pub(crate) metrics: Metrics,
}

impl Stand {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Self {
        let folder = TempDir::new().unwrap();
        let launcher = standpipe_runs::processes(folder.path(), None);
        let metrics = Metrics::default();
        let limits = Arc::new(ArcSwap::from_pointee(limits));
        let children = Children::new(launcher.clone(), limits, metrics.clone());
        Self { _folder: folder, launcher, children, metrics }
    }

    pub(crate) fn hits(&self, limit: &str) -> u64 {
        self.metrics.hits().get(limit).copied().unwrap_or_default()
    }

    /// Ends everything; none of its processes is left then.
    pub(crate) async fn close(self, servers: &[&ChildServer]) {
        let pids: Vec<u32> = servers.iter().flat_map(|server| server.status().pids).collect();
        soon("the end", self.children.close()).await;
        soon("the end", self.launcher.close()).await;
        for pid in pids {
            assert!(!is_there(pid), "{pid} is left");
        }
    }
}

/// The fixture with these flags.
pub(crate) fn fixture(flags: &[&str]) -> ChildSpec {
    let server = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/server.py");
    // The one on the path may be a script that looks for another.
    let python = if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" };
    let argv = [python, "-S", "-u", server].into_iter().chain(flags.iter().copied()).map(str::to_owned).collect();
    let env = environment(std::env::vars(), &BTreeMap::from([("CONFIGURED".to_owned(), "yes".to_owned())]));
    let era = if flags.contains(&"--modern") { Era::Modern } else { Era::Legacy };
    let mut spec = ChildSpec { era: EraChoice::Known(era), ..ChildSpec::new("fixture", argv, env) };
    spec.limits.grace = Duration::from_millis(300);
    spec.limits.start = SOON;
    spec
}

pub(crate) fn shared(flags: &[&str]) -> ChildSpec {
    ChildSpec { mode: Mode::Shared, ..fixture(flags) }
}

pub(crate) fn way() -> (Outlet, Inlet) {
    exchange(Room { messages: 1_024, bytes: 16 << 20 })
}

pub(crate) fn message(json: &str) -> Message {
    Message::parse(Bytes::copy_from_slice(json.as_bytes())).unwrap()
}

pub(crate) fn value(message: &Message) -> Value {
    serde_json::from_slice(message.bytes()).unwrap()
}

/// The next message.
pub(crate) async fn next(inlet: &mut Inlet) -> Value {
    value(&soon("a message", inlet.next()).await.expect("a message, not the end"))
}

/// The reply, and the messages before it.
pub(crate) async fn reply(inlet: &mut Inlet) -> (Value, Vec<Value>) {
    let mut before = Vec::new();
    loop {
        let message = next(inlet).await;
        if message.get("method").is_none() {
            return (message, before);
        }
        before.push(message);
    }
}

/// The text of a tool's result.
pub(crate) fn text(reply: &Value) -> &str {
    reply["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("a result, not {reply}"))
}

pub(crate) fn parsed(reply: &Value) -> Value {
    serde_json::from_str(text(reply)).unwrap()
}

pub(crate) fn code(reply: &Value) -> i64 {
    reply["error"]["code"].as_i64().unwrap_or_else(|| panic!("an error, not {reply}"))
}

pub(crate) fn tool(id: &Value, name: &str, arguments: Value, token: Option<Value>) -> Message {
    let mut params = json!({ "name": name, "arguments": arguments });
    if let Some(token) = token {
        params["_meta"] = json!({ "progressToken": token });
    }
    message(&json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }).to_string())
}

/// A legacy client.
pub(crate) struct Client {
    pub(crate) conversation: Arc<dyn Conversation>,
    pub(crate) caller: Caller,
    pub(crate) news: Inlet,
    pub(crate) hello: Value,
    next: i64,
}

impl Client {
    pub(crate) async fn open(server: &ChildServer, principal: &str) -> Self {
        Self::open_with(server, principal, json!({})).await
    }

    pub(crate) async fn open_with(server: &ChildServer, principal: &str, capabilities: Value) -> Self {
        let params = json!({
            "protocolVersion": "2025-06-18",
            "capabilities": capabilities,
            "clientInfo": { "name": "test", "version": "1" },
        });
        Self::open_as(server, principal, params).await
    }

    pub(crate) async fn open_as(server: &ChildServer, principal: &str, params: Value) -> Self {
        let caller = Caller::detached(principal);
        let (to, mut inlet) = way();
        let (news_to, news) = way();
        let initialize = json!({ "jsonrpc": "2.0", "id": "init", "method": "initialize", "params": params });
        let conversation = server.open(&caller, message(&initialize.to_string()), to, news_to);
        let (hello, _) = reply(&mut inlet).await;
        assert_eq!(hello["id"], "init");
        let client = Self { conversation, caller, news, hello, next: 0 };
        if client.hello.get("result").is_some() {
            client.tell(json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        }
        client
    }

    pub(crate) fn tell(&self, told: Value) {
        self.conversation.tell(&self.caller, message(&told.to_string()));
    }

    pub(crate) fn send(&self, request: Message) -> Inlet {
        let (to, inlet) = way();
        self.conversation.call(&self.caller, request, to);
        inlet
    }

    pub(crate) fn start(&mut self, name: &str, arguments: Value) -> Inlet {
        self.next += 1;
        self.send(tool(&json!(self.next), name, arguments, None))
    }

    pub(crate) async fn call(&mut self, name: &str, arguments: Value) -> Value {
        let mut inlet = self.start(name, arguments);
        let (reply, _) = reply(&mut inlet).await;
        assert_eq!(reply["id"], self.next);
        assert!(soon("the end of a stream", inlet.next()).await.is_none());
        reply
    }

    pub(crate) async fn request(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let request = json!({ "jsonrpc": "2.0", "id": self.next, "method": method, "params": params });
        let (reply, _) = reply(&mut self.send(message(&request.to_string()))).await;
        reply
    }

    pub(crate) async fn pid(&mut self) -> u32 {
        text(&self.call("pid", json!({})).await).parse().unwrap()
    }

    /// What the process has seen; asked until it is as expected.
    pub(crate) async fn sees(&mut self, what: &str, expected: Value) {
        let look = async {
            while parsed(&self.call("seen", json!({})).await)[what] != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon(what, look).await;
    }

    pub(crate) async fn ended(&self) {
        soon("the end of a session", self.conversation.ended()).await;
    }
}

/// A modern request.
pub(crate) fn modern(server: &ChildServer, principal: &str, id: &Value, method: &str, mut params: Value) -> Inlet {
    let (to, inlet) = way();
    let meta = params.as_object_mut().unwrap().entry("_meta").or_insert_with(|| json!({}));
    meta["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
    let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
    server.call(Caller::detached(principal), message(&request.to_string()), to);
    inlet
}

pub(crate) async fn modern_tool(server: &ChildServer, principal: &str, name: &str, arguments: Value) -> Value {
    let params = json!({ "name": name, "arguments": arguments });
    let mut inlet = modern(server, principal, &json!("m"), "tools/call", params);
    reply(&mut inlet).await.0
}
