//! The tree server, asked with raw messages of both eras: what comes back is looked at as a client sees it.

mod protocol;
mod runs;
mod subscriptions;
mod tools;
mod wait;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use standpipe_engine::{Access, Durability, Engine, EngineConfig, Identity, Intent, Op};
use standpipe_mcp::era::{META_CAPABILITIES, META_VERSION};
use standpipe_mcp::exchange::Room;
use standpipe_mcp::{Caller, Conversation, Inlet, LegacyServer as _, ModernServer as _, Outlet, Scopes, exchange};
use standpipe_runs::Runs;
use standpipe_serve::{Server, ServerConfig};
use standpipe_wire::jsonrpc::Message;

use super::{TreeOptions, TreeServer};
use crate::Dispatch;

const ROOM: Room = Room { messages: 1_000, bytes: 64 << 20 };

/// A tree and its server.
pub(super) struct Bench {
    pub(super) server: TreeServer,
    pub(super) engine: Arc<Engine>,
    serve: Server,
    _dir: Option<tempfile::TempDir>,
}

impl Bench {
    /// An empty tree that everybody may read and write.
    pub(super) fn new() -> Self {
        Self::with(TreeOptions::default(), None)
    }

    /// A tree with rules.
    pub(super) fn ruled(rules: &Value) -> Self {
        Self::with(TreeOptions::default(), Some(rules))
    }

    pub(super) fn with(options: TreeOptions, rules: Option<&Value>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bench = Self::of(Self::engine_at(dir.path(), rules), None, options);
        Self { _dir: Some(dir), ..bench }
    }

    /// The engine of a folder.
    pub(super) fn engine_at(dir: &Path, rules: Option<&Value>) -> Arc<Engine> {
        let config = EngineConfig {
            access: Access::Open,
            durability: Durability::Interval(std::time::Duration::from_secs(1)),
            rules_at_open: rules.map(|rules| json!({ "rules": rules }).to_string().into()),
            ..EngineConfig::new(dir)
        };
        Arc::new(Engine::open(config, Arc::new(|error: &str| panic!("{error}"))).unwrap())
    }

    /// The tree of an engine, with these runs.
    pub(super) fn of(engine: Arc<Engine>, runs: Option<Arc<Runs>>, options: TreeOptions) -> Self {
        let serve = Server::start(ServerConfig { cores: Some(1), ..ServerConfig::default() }).unwrap();
        let server = TreeServer::new(Dispatch::new(engine.clone()), runs, options, serve.shutdown().clone());
        Self { server, engine, serve, _dir: None }
    }

    /// Somebody whom the rules know by this name; nobody is anonymous.
    pub(super) fn caller(&self, uid: Option<&str>) -> Caller {
        let identity = match uid {
            Some("admin") => Identity::Admin,
            Some(uid) => Identity::user(json!({ "uid": uid })),
            None => Identity::Anonymous,
        };
        Caller { identity, ..Caller::detached("test") }
    }

    /// Writes as an administrator.
    pub(super) async fn put(&self, path: &str, value: &Value) {
        let done = self.tool_as(&self.caller(Some("admin")), "tree_set", json!({ "path": path, "value": value })).await;
        assert_eq!(done["isError"], false, "{done}");
    }

    /// The whole message that answers a modern request; `params` get the `_meta` they need.
    pub(super) async fn modern_as(&self, caller: &Caller, method: &str, mut params: Value) -> Value {
        params["_meta"][META_VERSION] = "2026-07-28".into();
        params["_meta"][META_CAPABILITIES] = json!({});
        self.raw(caller, &json!({ "jsonrpc": "2.0", "id": "q", "method": method, "params": params })).await
    }

    /// As [`Bench::modern_as`], by nobody in particular.
    pub(super) async fn modern(&self, method: &str, params: Value) -> Value {
        self.modern_as(&self.caller(None), method, params).await
    }

    /// The message that answers a message of the modern era, whatever it is.
    pub(super) async fn raw(&self, caller: &Caller, request: &Value) -> Value {
        self.send(caller, message(request)).await
    }

    /// As [`Bench::raw`], byte for byte.
    pub(super) async fn send(&self, caller: &Caller, request: Message) -> Value {
        let (to, inlet) = exchange(ROOM);
        self.server.call(caller.clone(), request, to);
        last(inlet).await
    }

    /// The result of a tool.
    pub(super) async fn tool_as(&self, caller: &Caller, name: &str, arguments: Value) -> Value {
        let answer = self.modern_as(caller, "tools/call", json!({ "name": name, "arguments": arguments })).await;
        assert!(answer.get("error").is_none(), "{answer}");
        answer["result"].clone()
    }

    /// As [`Bench::tool_as`], by nobody in particular.
    pub(super) async fn tool(&self, name: &str, arguments: Value) -> Value {
        self.tool_as(&self.caller(None), name, arguments).await
    }

    /// Opens a legacy session: what `initialize` was answered, and the session.
    pub(super) async fn open(&self, version: &str) -> (Value, Arc<dyn Conversation>) {
        let (answer, session, _kept) = self.opened(version).await;
        (answer, session)
    }

    /// As [`Bench::open`], with what the session is told beside its calls.
    pub(super) async fn opened(&self, version: &str) -> (Value, Arc<dyn Conversation>, Inlet) {
        let params = json!({
            "protocolVersion": version, "capabilities": {}, "clientInfo": { "name": "test", "version": "1" }
        });
        let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params });
        let (to, inlet) = exchange(ROOM);
        let (news, told) = exchange(ROOM);
        let session = self.server.open(&self.caller(None), message(&initialize), to, news);
        (last(inlet).await, session, told)
    }

    /// The message that answers a request of a legacy session.
    pub(super) async fn legacy(&self, session: &dyn Conversation, method: &str, params: Value) -> Value {
        let request = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
        let (to, inlet) = exchange(ROOM);
        session.call(&self.caller(None), message(&request), to);
        last(inlet).await
    }

    /// Puts rules in force.
    pub(super) async fn rules(&self, rules: &Value) {
        let database = self.engine.resolve(None).unwrap();
        let intent = Intent::new(Op::Rules(json!({ "rules": rules }).to_string()), Identity::Admin);
        let deadline = standpipe_serve::Deadline::after(10_000).instant();
        database.write(intent, deadline).await.unwrap();
    }

    /// Ends everything.
    pub(super) async fn end(self) {
        let _stopped = self.serve.stop().await;
        self.engine.close();
    }
}

pub(super) fn message(json: &Value) -> Message {
    Message::parse(Bytes::from(json.to_string())).unwrap()
}

/// The next message of a stream.
pub(super) async fn next(inlet: &mut Inlet) -> Value {
    serde_json::from_slice(inlet.next().await.expect("a message").bytes()).unwrap()
}

/// The last message of a stream, and the only one with an id.
async fn last(mut inlet: Inlet) -> Value {
    let mut last = None;
    while let Some(message) = inlet.next().await {
        last = Some(message);
    }
    serde_json::from_slice(last.expect("an answer").bytes()).unwrap()
}

/// Lets a scope in, and nothing else.
pub(super) fn narrowed(caller: Caller, scopes: &str) -> Caller {
    Caller { scopes: Scopes::only(scopes), ..caller }
}

/// An outlet for what nobody looks at.
pub(super) fn nowhere() -> Outlet {
    exchange(ROOM).0
}
