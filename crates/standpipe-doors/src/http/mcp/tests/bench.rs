//! What the tests share: a door of HTTP on a port of its own, a server behind it that does what its tools are named for, and a client that
//! writes what it is told to and reads what comes.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::{Value, json};
use standpipe_mcp::{Caller, Conversation, Fault, LegacyServer, Metrics, ModernServer, Outlet, Server};
use standpipe_serve::{Limits, OnFailure, OnShutdown, Server as Serving, ServerConfig, SocketListener, TaskKind};
use standpipe_wire::jsonrpc::Message;
use tokio::sync::Notify;

use crate::auth::{Authority, Credentials};
use crate::http::McpHttp;
use crate::mcp::{Endpoints, Mcp, McpPolicy};

/// Longer than anything here takes.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// What every modern request has in `_meta`.
pub(super) const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

pub(super) struct Bench {
    pub(super) address: SocketAddr,
    pub(super) peer: Arc<Peer>,
    pub(super) mcp: Arc<Mcp>,
    pub(super) serving: Option<Serving>,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(Limits::default(), McpPolicy { anonymous: true, ..McpPolicy::default() }, Authority::default())
    }

    pub(super) fn limited(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::default();
        change(&mut limits);
        Self::with(limits, McpPolicy { anonymous: true, ..McpPolicy::default() }, Authority::default())
    }

    pub(super) fn with(limits: Limits, policy: McpPolicy, authority: Authority) -> Self {
        let serving = Serving::start(ServerConfig { limits, cores: Some(1) }).unwrap();
        let peer = Arc::<Peer>::default();
        let credentials = Credentials::new(authority, serving.limits());
        let mcp = Mcp::new(Arc::new(One(peer.clone())), policy, credentials, Metrics::default());
        let door = McpHttp::new(mcp.clone(), serving.metrics().clone(), Arc::new(AtomicBool::new(true)));
        let listeners = SocketListener::bind_tcp("127.0.0.1:0", 1, serving.metrics()).unwrap();
        let address = listeners[0].local_addr().unwrap();
        serving.listen(Arc::new(door), listeners);
        let kind = TaskKind { name: "sessions", on_failure: OnFailure::StopNode, on_shutdown: OnShutdown::Abort };
        let on = serving.runtimes().next().unwrap().enter();
        serving.shutdown().spawn(kind, mcp.clone().keep_sessions());
        drop(on);
        Self { address, peer, mcp, serving: Some(serving) }
    }

    pub(super) fn client(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Client(BufReader::new(stream))
    }

    /// Sends one request over a connection of its own, and reads all of the answer.
    pub(super) fn ask(&self, request: &str) -> Answer {
        let mut client = self.client();
        client.send(request);
        client.answer()
    }

    /// Opens a session, and tells its id.
    pub(super) fn open(&self, version: &str) -> String {
        let answer = self.ask(&initialize("/mcp", version, ""));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.header("mcp-session-id").unwrap().to_owned()
    }
}

/// Waits until `holds`, with a limit.
pub(super) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::yield_now();
    }
}

/// A POST with the headers that every one needs, and some more, each ended by `\r\n`.
pub(super) fn post(path: &str, more: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\naccept: application/json, \
         text/event-stream\r\ncontent-length: {}\r\n{more}\r\n{body}",
        body.len()
    )
}

pub(super) fn initialize(path: &str, version: &str, more: &str) -> String {
    let body = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": version, "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } } });
    post(path, more, &body.to_string())
}

/// A modern request, with the headers that go with it.
pub(super) fn modern(method: &str, name: &str, params: &str) -> String {
    let mut more = format!("mcp-protocol-version: 2026-07-28\r\nmcp-method: {method}\r\n");
    let mut named = String::new();
    if !name.is_empty() {
        write!(more, "mcp-name: {name}\r\n").unwrap();
        named = format!("\"name\":\"{name}\",");
    }
    let comma = if params.is_empty() { "" } else { "," };
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{named}{params}{comma}{META}}}}}"#);
    post("/mcp", &more, &body)
}

/// A call of a tool in a session.
pub(super) fn call(session: &str, id: u64, tool: &str) -> String {
    let body = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": tool } });
    post("/mcp", &format!("mcp-session-id: {session}\r\n"), &body.to_string())
}

/// A GET of a stream.
pub(super) fn get(session: &str, more: &str) -> String {
    format!(
        "GET /mcp HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\nmcp-session-id: {session}\r\n{more}\r\n"
    )
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(super) fn code(&self) -> i64 {
        self.json()["error"]["code"].as_i64().unwrap_or_default()
    }
}

pub(super) struct Client(pub(super) BufReader<TcpStream>);

impl Client {
    pub(super) fn send(&mut self, request: &str) {
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    /// Status and headers.
    pub(super) fn head(&mut self) -> Answer {
        let first = self.line();
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no answer: {first:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.push((name.to_owned(), value.to_owned()));
        }
        Answer { status, headers, body: String::new() }
    }

    pub(super) fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        if let Some(length) = answer.header("content-length").map(|length| length.parse::<usize>().unwrap()) {
            let mut body = vec![0; length];
            self.0.read_exact(&mut body).unwrap();
            answer.body = String::from_utf8(body).unwrap();
        } else if answer.header("transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk() {
                answer.body.push_str(&chunk);
            }
        }
        answer
    }

    /// The next piece of a stream; `None` at its end.
    pub(super) fn chunk(&mut self) -> Option<String> {
        let line = self.line();
        let size = usize::from_str_radix(line.trim_end(), 16).unwrap_or_else(|_| panic!("no chunk: {line:?}"));
        let mut chunk = vec![0; size + 2];
        self.0.read_exact(&mut chunk).unwrap();
        chunk.truncate(size);
        (size > 0).then(|| String::from_utf8(chunk).unwrap())
    }

    /// Reads on until a piece of the stream has `part`; gives all that was read.
    pub(super) fn until(&mut self, part: &str) -> String {
        let mut all = String::new();
        while !all.contains(part) {
            all.push_str(&self.chunk().unwrap_or_else(|| panic!("no {part:?} in {all:?}")));
        }
        all
    }
}

/// One server at every endpoint but `/mcp/s/missing`.
#[derive(Debug)]
struct One(Arc<Peer>);

impl Endpoints for One {
    fn main(&self) -> Option<Arc<dyn Server>> {
        Some(Arc::new(Handle(self.0.clone())))
    }

    fn named(&self, name: &str) -> Option<Arc<dyn Server>> {
        (name != "missing").then(|| Arc::new(Handle(self.0.clone())) as Arc<dyn Server>)
    }

    fn all(&self) -> Option<Arc<dyn Server>> {
        self.main()
    }

    fn status(&self) -> Value {
        json!({ "servers": [] })
    }
}

#[derive(Clone, Debug)]
struct Handle(Arc<Peer>);

/// What the server has seen, and what it holds.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Calls that are not answered.
    pub(super) held: Mutex<Vec<(Message, Outlet)>>,
    pub(super) news: Mutex<Vec<Outlet>>,
    /// What was told, by method, or `answer` for one.
    pub(super) told: Mutex<Vec<String>>,
    pub(super) gone: Arc<AtomicUsize>,
    pub(super) open: AtomicUsize,
    pub(super) dead: AtomicBool,
    died: Notify,
}

impl Peer {
    pub(super) fn die(&self) {
        self.held.lock().clear();
        self.news.lock().clear();
        self.dead.store(true, Ordering::Relaxed);
        self.died.notify_waiters();
    }

    /// Answers the call that is held for the longest.
    pub(super) fn answer(&self, result: &str) {
        until("a call is held", || !self.held.lock().is_empty());
        let (message, to) = self.held.lock().remove(0);
        let _gone = to.send(Message::result(message.id().unwrap(), result.as_bytes()));
    }

    fn call(&self, request: Message, to: Outlet) {
        let id = request.id().unwrap().to_owned();
        let say = |message: Message| {
            let _gone = to.send(message);
        };
        let result = |json: &[u8]| say(Message::result(&id, json));
        let name = request.text_at(&["name"]).unwrap().unwrap_or_default();
        let count = self.gone.clone();
        let gone = move || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        match (request.method().unwrap(), &*name) {
            ("tools/list" | "ping", _) => result(b"{}"),
            ("subscriptions/listen", _) => {
                say(Message::notification("notifications/subscriptions/acknowledged", b"{}"));
                to.on_gone(gone);
                self.held.lock().push((request, to));
            }
            ("tools/call", "echo") => result(request.body_bytes().unwrap()),
            ("tools/call", "progress") => {
                say(Message::notification("notifications/progress", b"{\"progress\":1}"));
                say(Message::notification("notifications/progress", b"{\"progress\":2}"));
                result(b"{\"done\":true}");
            }
            ("tools/call", "begin") => {
                say(Message::notification("notifications/progress", b"{\"progress\":1}"));
                self.held.lock().push((request, to));
            }
            ("tools/call", "hold") => {
                to.on_gone(gone);
                self.held.lock().push((request, to));
            }
            ("tools/call", "ask") => {
                say(Message::request(b"\"s1\"", "sampling/createMessage", b"{}"));
                self.held.lock().push((request, to));
            }
            ("tools/call", "flood") => {
                to.on_gone(gone);
                let params = format!("{{\"data\":\"{}\"}}", "x".repeat(60_000));
                while to.send(Message::notification("notifications/message", params.as_bytes())).is_ok() {}
            }
            ("tools/call", "drop") => {}
            ("tools/call", code) if code.parse::<i64>().is_ok() => {
                let fault = Fault::new(code.parse().unwrap(), "as asked");
                let data = json!({ "retry_after_ms": 1_500, "scope": "tree:write" });
                say(fault.with_data(data).answer(Some(&id)));
            }
            _ => say(Fault::new(-32_601, "no such method").answer(Some(&id))),
        }
    }
}

impl ModernServer for Handle {
    fn call(&self, _: Caller, request: Message, to: Outlet) {
        self.0.call(request, to);
    }
}

impl LegacyServer for Handle {
    fn open(&self, _: &Caller, initialize: Message, to: Outlet, news: Outlet) -> Arc<dyn Conversation> {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        self.0.news.lock().push(news);
        let version = initialize.text_at(&["protocolVersion"]).unwrap().unwrap_or_default();
        let reply = match &*version {
            "refuse" => Fault::new(-32_602, "refused").answer(initialize.id()),
            version => {
                let result = json!({ "protocolVersion": version, "capabilities": {} }).to_string();
                Message::result(initialize.id().unwrap(), result.as_bytes())
            }
        };
        let _gone = to.send(reply);
        Arc::new(Talk(self.0.clone()))
    }
}

#[derive(Debug)]
struct Talk(Arc<Peer>);

impl Conversation for Talk {
    fn call(&self, _: &Caller, request: Message, to: Outlet) {
        self.0.call(request, to);
    }

    fn tell(&self, _: &Caller, message: Message) {
        self.0.told.lock().push(message.method().unwrap_or("answer").to_owned());
        if message.method() == Some("notifications/cancelled") {
            self.0.held.lock().clear();
        }
    }

    fn ended(&self) -> BoxFuture<'static, ()> {
        let peer = self.0.clone();
        Box::pin(async move {
            while !peer.dead.load(Ordering::Relaxed) {
                peer.died.notified().await;
            }
        })
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
