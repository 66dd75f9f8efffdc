//! A talk with a server of both eras that does as it is told: what is answered, in which order, and what is not.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use standpipe_mcp::{LegacyServer, ModernServer};
use standpipe_serve::{CloseReason, Conn, ConnIo, Door, Listener, Peer, Server as Core, ServerConfig};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::*;
use crate::auth::{Authority, Credentials};
use crate::mcp::{Endpoints, Mcp, McpPolicy};

/// Longer than anything here takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Answers `echo` with its parameters, `wait` when told to, `drop` not at all, `many` after 2,000 notifications; counts who is cancelled.
#[derive(Debug, Default)]
pub(crate) struct Fixture {
    pub(crate) waiting: Mutex<Vec<(Message, Outlet)>>,
    pub(crate) cancelled: AtomicUsize,
    pub(crate) told: Arc<Mutex<Vec<String>>>,
    /// `initialize` waits like `wait`.
    pub(crate) hesitates: bool,
}

impl Fixture {
    fn answer(self: &Arc<Self>, request: Message, to: Outlet) {
        let id = request.id().unwrap().to_vec();
        match request.method() {
            Some("echo") => {
                let _gone = to.send(Message::result(&id, request.body_bytes().unwrap_or(b"{}")));
            }
            Some("wait") => {
                let this = self.clone();
                to.on_gone(move || {
                    this.cancelled.fetch_add(1, Ordering::SeqCst);
                });
                self.waiting.lock().push((request, to));
            }
            Some("many") => {
                for _ in 0..2_000 {
                    let _gone = to.send(Message::notification("notifications/progress", b"{}"));
                }
                let _gone = to.send(Message::result(&id, b"{}"));
            }
            Some("ask") => {
                let _gone = to.send(Message::request(b"\"q\"", "roots/list", b"{}"));
                let _gone = to.send(Message::result(&id, b"{}"));
            }
            _ => {}
        }
    }

    /// Answers all that wait.
    pub(crate) fn go_on(&self) {
        for (request, to) in self.waiting.lock().drain(..) {
            let _gone = to.send(Message::result(request.id().unwrap(), b"{}"));
        }
    }
}

#[derive(Debug)]
pub(crate) struct Handle(pub(crate) Arc<Fixture>);

impl ModernServer for Handle {
    fn call(&self, _: Caller, request: Message, to: Outlet) {
        self.0.answer(request, to);
    }
}

impl LegacyServer for Handle {
    fn open(&self, _: &Caller, initialize: Message, to: Outlet, news: Outlet) -> Arc<dyn Conversation> {
        let id = initialize.id().unwrap();
        match (initialize.at(&["fail"]), self.0.hesitates) {
            (Ok(Some(_)), _) => to.send(Message::error(Some(id), 5_021, "it does not start", None)).unwrap(),
            (_, true) => self.0.waiting.lock().push((initialize, to)),
            _ => to.send(Message::result(id, b"{\"protocolVersion\":\"2025-11-25\"}")).unwrap(),
        }
        Arc::new(Talked { fixture: self.0.clone(), news })
    }
}

#[derive(Debug)]
struct Talked {
    fixture: Arc<Fixture>,
    news: Outlet,
}

impl Conversation for Talked {
    fn call(&self, _: &Caller, request: Message, to: Outlet) {
        self.fixture.answer(request, to);
    }

    fn tell(&self, _: &Caller, message: Message) {
        let told = message.method().map_or_else(|| "an answer".to_owned(), str::to_owned);
        if told == "notifications/cancelled" {
            let id = message.slice(message.at(&["requestId"]).unwrap().unwrap()).to_vec();
            self.fixture.waiting.lock().retain(|(request, _)| request.id().unwrap() != id);
        }
        if told == "notifications/roots/list_changed" {
            let _gone = self.news.send(Message::notification("notifications/tools/list_changed", b"{}"));
        }
        self.fixture.told.lock().push(told);
    }

    fn ended(&self) -> BoxFuture<'static, ()> {
        std::future::pending().boxed()
    }
}

/// Connections that a test makes.
pub(crate) struct Made(mpsc::Receiver<UnixStream>);

impl Listener for Made {
    async fn accept(&mut self) -> Conn {
        match self.0.recv().await {
            Some(stream) => Conn::plain(ConnIo::Unix(stream), Peer::Local),
            None => std::future::pending().await,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Only(Arc<Handle>);

impl Endpoints for Only {
    fn main(&self) -> Option<Arc<dyn Server>> {
        Some(self.0.clone())
    }

    fn named(&self, _: &str) -> Option<Arc<dyn Server>> {
        None
    }

    fn all(&self) -> Option<Arc<dyn Server>> {
        None
    }

    fn status(&self) -> serde_json::Value {
        json!({})
    }
}

/// A serving core, and MCP with a fixture on it.
pub(crate) struct Bench {
    pub(crate) core: Core,
    pub(crate) mcp: Arc<Mcp>,
    pub(crate) fixture: Arc<Fixture>,
}

impl Bench {
    pub(crate) fn new(limits: Limits, fixture: Fixture) -> Self {
        let core = Core::start(ServerConfig { limits, cores: Some(1) }).unwrap();
        let fixture = Arc::new(fixture);
        let credentials = Credentials::new(Authority::default(), core.limits());
        let policy = McpPolicy { anonymous: true, ..McpPolicy::default() };
        let endpoints = Arc::new(Only(Arc::new(Handle(fixture.clone()))));
        let mcp = Mcp::new(endpoints, policy, credentials, Metrics::default());
        Self { core, mcp, fixture }
    }

    /// A way to connect to `door`.
    pub(crate) fn listen<D: Door>(&self, door: D) -> mpsc::Sender<UnixStream> {
        let (make, made) = mpsc::channel(100);
        self.core.listen(Arc::new(door), vec![Made(made)]);
        make
    }
}

/// Gives its session away, and stays.
struct Lends(mpsc::Sender<Session>);

impl Door for Lends {
    fn name(&self) -> &'static str {
        "lends"
    }

    async fn serve(&self, _conn: Conn, session: Session) -> CloseReason {
        self.0.try_send(session.clone()).unwrap();
        session.closing().await;
        CloseReason::Shutdown
    }

    async fn refuse(&self, _: Conn, _: Refusal) {}
}

/// A talk without a connection.
struct Rig {
    bench: Bench,
    talk: Talk,
    _theirs: UnixStream,
}

impl Rig {
    async fn new(limits: Limits, fixture: Fixture) -> Self {
        let bench = Bench::new(limits, fixture);
        let (lend, mut lent) = mpsc::channel(100);
        let connect = bench.listen(Lends(lend));
        let (ours, theirs) = UnixStream::pair().unwrap();
        connect.try_send(ours).unwrap();
        let session = lent.recv().await.unwrap();
        let caller = bench.mcp.caller(&session, None, None).await.unwrap();
        let server = bench.mcp.server(&crate::mcp::Endpoint::Main).unwrap();
        let talk = Talk::new(server, caller, bench.mcp.metrics().clone());
        Self { bench, talk, _theirs: theirs }
    }

    fn take(&mut self, json: &str) {
        self.talk.take(Bytes::copy_from_slice(json.as_bytes()));
    }

    async fn next(&mut self) -> String {
        let next = tokio::time::timeout(LIMIT, poll_fn(|context| self.talk.poll_next(context)));
        String::from_utf8(next.await.expect("nothing comes").unwrap().bytes().to_vec()).unwrap()
    }

    /// Takes `json`, and looks at what it is answered.
    async fn check(&mut self, json: &str, expected: &str) {
        self.take(json);
        let answer = self.next().await;
        assert!(answer.contains(expected), "{json} was answered {answer}, not {expected}");
    }

    fn is_quiet(&mut self) -> bool {
        poll_fn(|context| Poll::Ready(self.talk.poll_next(context).is_pending())).now_or_never().unwrap()
    }
}

pub(crate) fn modern(id: &str, method: &str) -> String {
    let meta =
        r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{"_meta":{meta}}}}}"#)
}

pub(crate) const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;

#[tokio::test]
async fn both_eras_are_spoken_on_one_stream() {
    let mut rig = Rig::new(Limits::default(), Fixture::default()).await;
    rig.check(r#"{"jsonrpc":"2.0","id":1,"method":"echo"}"#, "there is no session").await;
    rig.check(r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#, r#""id":2,"result":{}"#).await;
    rig.check(&modern("3", "echo"), r#""id":3,"result":{"_meta""#).await;
    rig.check(INITIALIZE, r#""id":0,"result":{"protocolVersion""#).await;
    rig.take(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    rig.check(
        r#"{"jsonrpc":"2.0","id":"x","method":"echo","params":{"n":9007199254740993}}"#,
        r#""id":"x","result":{"n":9007199254740993}"#,
    )
    .await;
    rig.check(&modern("4", "echo"), r#""id":4"#).await;
    rig.check(r#"{"jsonrpc":"2.0","id":5,"method":"ask"}"#, "roots/list").await;
    assert!(rig.next().await.contains(r#""id":5,"result""#));
    rig.take(r#"{"jsonrpc":"2.0","id":"q","result":{"roots":[]}}"#);
    rig.check(r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#, "notifications/tools/list_changed")
        .await;
    assert_eq!(
        rig.bench.fixture.told.lock()[..],
        ["notifications/initialized", "an answer", "notifications/roots/list_changed"]
    );
    assert!(rig.talk.is_idle() && rig.is_quiet());
}

#[tokio::test]
async fn versions_and_what_a_modern_request_must_say_are_checked() {
    let mut rig = Rig::new(Limits::default(), Fixture::default()).await;
    rig.check(&modern("1", "echo").replace("2026-07-28", "2030-01-01"), "-32022").await;
    rig.check(&modern("2", "echo").replace(":{}}", ":[]}"), "-32602").await;
    rig.check(
        r#"{"jsonrpc":"2.0","id":3,"method":"echo","params":{"_meta":{},"_meta":{}}}"#,
        r#""id":3,"error":{"code":-32600"#,
    )
    .await;
    rig.check(r#"{"jsonrpc":"2.0","id":4,"method":"echo","params":[]}"#, r#""id":4,"error":{"code":-32600"#).await;
    for nothing in ["nonsense", "[]", "1", "{", "", "{}", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#] {
        rig.take(nothing);
        assert!(rig.is_quiet(), "{nothing} was answered");
    }
}

#[tokio::test]
async fn a_cancelled_call_has_no_answer() {
    let mut rig = Rig::new(Limits::default(), Fixture::default()).await;
    rig.take(&modern(r#""a""#, "wait"));
    rig.check(&modern("2", "echo"), r#""id":2"#).await;
    rig.take(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"unknown"}}"#);
    rig.take(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"\u0061"}}"#);
    assert!(rig.is_quiet() && rig.talk.is_idle());
    assert_eq!(rig.bench.fixture.cancelled.load(Ordering::SeqCst), 1);
    rig.check(INITIALIZE, r#""id":0"#).await;
    rig.take(r#"{"jsonrpc":"2.0","id":5,"method":"wait"}"#);
    rig.take(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":5}}"#);
    assert!(rig.is_quiet() && rig.talk.is_idle(), "the session has dropped it");
    rig.check(r#"{"jsonrpc":"2.0","id":6,"method":"drop"}"#, "without an answer").await;
}

#[tokio::test]
async fn what_comes_before_the_session_is_open_waits_for_it() {
    let mut rig = Rig::new(Limits::default(), Fixture { hesitates: true, ..Fixture::default() }).await;
    rig.take(INITIALIZE);
    rig.take(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    rig.take(r#"{"jsonrpc":"2.0","id":1,"method":"echo"}"#);
    rig.check(&modern("2", "echo"), r#""id":2"#).await;
    assert!(rig.is_quiet());
    rig.bench.fixture.go_on();
    assert!(rig.next().await.contains(r#""id":0"#));
    assert!(rig.next().await.contains(r#""id":1"#));
    assert_eq!(rig.bench.fixture.told.lock()[..], ["notifications/initialized"]);
    rig.take(INITIALIZE);
    for _ in 0..HELD_MAX {
        rig.take(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    }
    rig.check(r#"{"jsonrpc":"2.0","id":2,"method":"echo"}"#, r#""id":2,"error":{"code":5030"#).await;
}

#[tokio::test]
async fn a_session_that_does_not_begin_is_none() {
    let mut rig = Rig::new(Limits::default(), Fixture::default()).await;
    rig.check(r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"fail":true}}"#, "5021").await;
    rig.check(r#"{"jsonrpc":"2.0","id":1,"method":"echo"}"#, "there is no session").await;
    rig.check(INITIALIZE, r#""id":0,"result""#).await;
}

#[tokio::test]
async fn calls_at_work_are_bounded() {
    let limits = Limits { mcp_calls_per_stream_max: 2, ..Limits::default() };
    let mut rig = Rig::new(limits, Fixture::default()).await;
    rig.take(&modern("1", "wait"));
    rig.check(&modern("1", "echo"), "-32600").await;
    rig.take(&modern("2", "wait"));
    rig.check(&modern("3", "echo"), r#""id":3,"error":{"code":5030"#).await;
    rig.bench.fixture.go_on();
    assert!(rig.next().await.contains("result") && rig.next().await.contains("result"));
    rig.check(&modern("3", "echo"), r#""id":3,"result""#).await;
    rig.check(&modern("4", "many"), "mcp_outlet_messages_max").await;
    let hits = rig.bench.mcp.metrics().hits();
    assert_eq!((hits["mcp_calls_per_stream_max"], hits["mcp_outlet_messages_max"]), (1, 1));
}
