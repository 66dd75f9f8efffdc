//! A server far away that does as it is told, over real connections.

use std::sync::atomic::AtomicU32;

use arc_swap::ArcSwap;
use standpipe_serve::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::exchange::Room;
use crate::{Inlet, exchange};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(60);

/// What the server was asked.
#[derive(Clone, Debug)]
struct Asked {
    method: String,
    /// In lower case, a line each.
    head: String,
    body: String,
}

impl Asked {
    fn says(&self, text: &str) -> bool {
        self.body.contains(text)
    }

    /// The id in the body, as it stands.
    fn id(&self) -> String {
        let message = Message::parse(self.body.clone().into()).unwrap();
        String::from_utf8(message.id().unwrap_or(b"null").to_vec()).unwrap()
    }
}

/// Answers each request with bytes; what ends with `…` is left open until the client leaves.
type Answers = Arc<dyn Fn(&Asked) -> String + Send + Sync>;

struct Far {
    url: String,
    asked: mpsc::Receiver<Asked>,
    left: Arc<AtomicU32>,
}

impl Far {
    async fn new(answers: impl Fn(&Asked) -> String + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1:0", answers).await
    }

    async fn at(address: &str, answers: impl Fn(&Asked) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let (tell, asked) = mpsc::channel(1_000);
        let (answers, left): (Answers, _) = (Arc::new(answers), Arc::new(AtomicU32::new(0)));
        let leaving = left.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answers.clone(), tell.clone(), leaving.clone()));
            }
        });
        Self { url, asked, left }
    }

    async fn asked(&mut self) -> Asked {
        within(self.asked.recv()).await.unwrap()
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.expect("it takes too long")
}

async fn serve(mut stream: TcpStream, answers: Answers, tell: mpsc::Sender<Asked>, left: Arc<AtomicU32>) {
    let mut read = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                let rest = read.split_off(end + 4);
                break String::from_utf8(std::mem::replace(&mut read, rest)).unwrap().to_lowercase();
            }
            if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
                return;
            }
        };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        while read.len() < length {
            if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
                return;
            }
        }
        let rest = read.split_off(length);
        let body = String::from_utf8(std::mem::replace(&mut read, rest)).unwrap();
        let asked = Asked { method: head.split(' ').next().unwrap().to_owned(), head, body };
        let answer = answers(&asked);
        let _nobody_looks = tell.try_send(asked);
        let (now, open) = match answer.strip_suffix('…') {
            Some(now) => (now, true),
            None => (&answer[..], false),
        };
        if stream.write_all(now.as_bytes()).await.is_err() {
            return;
        }
        if open {
            let _left = stream.read_buf(&mut read).await;
            left.fetch_add(1, Ordering::SeqCst);
            return;
        }
        if now.contains("connection: close") {
            return;
        }
    }
}

fn json(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn ok(asked: &Asked, result: &str) -> String {
    json("200 OK", "", &format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, asked.id()))
}

fn taken() -> String {
    "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n".into()
}

fn events(events: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{events}")
}

fn page(status: &str, headers: &str, text: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-type: text/html\r\n{headers}content-length: {}\r\n\r\n{text}", text.len())
}

/// A legacy server with sessions `s1`, `s2`, …, one of which it may forget.
fn legacy(asked: &Asked, opened: &AtomicU32, forgotten: &AtomicU32) -> Option<String> {
    let current = format!("mcp-session-id: s{}\r\n", opened.load(Ordering::SeqCst));
    if asked.says("server/discover") {
        return Some(json(
            "400 Bad Request",
            "",
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"?"}}"#,
        ));
    }
    if asked.says("\"initialize\"") {
        let session = opened.fetch_add(1, Ordering::SeqCst) + 1;
        let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"2025-06-18"}}}}"#, asked.id());
        return Some(json("200 OK", &format!("Mcp-Session-Id: s{session}\r\n"), &body));
    }
    let is_forgotten = opened.load(Ordering::SeqCst) <= forgotten.load(Ordering::SeqCst);
    if is_forgotten || !asked.head.contains(&current) {
        return Some(page("404 Not Found", "", ""));
    }
    if asked.method == "delete" {
        return Some(taken());
    }
    if asked.method == "get" {
        return Some(page("405 Method Not Allowed", "", ""));
    }
    asked.says("notifications/").then(taken)
}

fn remote(url: &str, change: impl FnOnce(&mut RemoteSpec)) -> Arc<Remote> {
    let mut spec = RemoteSpec::new("far", url, &[("X-Configured".into(), "yes".into())]).unwrap();
    change(&mut spec);
    Remote::new(spec, Arc::new(ArcSwap::from_pointee(Limits::default())), Metrics::default()).unwrap()
}

fn outlet() -> (Outlet, Inlet) {
    exchange(Room { messages: 100, bytes: 1 << 20 })
}

async fn next(inlet: &mut Inlet) -> String {
    let message = within(inlet.next()).await.expect("the stream ended without an answer");
    String::from_utf8(message.bytes().to_vec()).unwrap()
}

fn message(json: &str) -> Message {
    Message::parse(json.to_owned().into()).unwrap()
}

fn modern(id: &str, method: &str, more: &str) -> Message {
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
    message(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{more}{meta}}}}}"#))
}

/// What a modern call is answered.
async fn ask(remote: &Remote, request: Message) -> String {
    let (to, mut inlet) = outlet();
    remote.call(Caller::detached("x"), request, to);
    next(&mut inlet).await
}

struct Opened {
    conversation: Arc<dyn Conversation>,
    caller: Caller,
    _news: Inlet,
}

async fn open(remote: &Remote) -> (Opened, String) {
    let caller = Caller::detached("x");
    let ((to, mut inlet), (news, read)) = (outlet(), outlet());
    let initialize =
        message(r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#);
    let conversation = remote.open(&caller, initialize, to, news);
    let answer = next(&mut inlet).await;
    (Opened { conversation, caller, _news: read }, answer)
}

impl Opened {
    async fn ask(&self, json: &str) -> String {
        let (to, mut inlet) = outlet();
        self.conversation.call(&self.caller, message(json), to);
        next(&mut inlet).await
    }

    fn tell(&self, json: &str) {
        self.conversation.tell(&self.caller, message(json));
    }
}

const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

#[tokio::test]
async fn a_legacy_session_passes_as_it_is() {
    let (opened, forgotten) = (AtomicU32::new(0), AtomicU32::new(0));
    let mut far = Far::new(move |asked| {
        legacy(asked, &opened, &forgotten).unwrap_or_else(|| ok(asked, r#"{"n": 9007199254740993}"#))
    })
    .await;
    let remote = remote(&far.url, |_| {});
    let (session, answer) = open(&remote).await;
    assert_eq!(answer, r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18"}}"#);
    session.tell(INITIALIZED);
    let request =
        r#"{"jsonrpc":"2.0", "x":1e400,"id":"ä","method":"tools/list","params":{"big":18446744073709551617}}"#;
    assert_eq!(session.ask(request).await, r#"{"jsonrpc":"2.0","id":"ä","result":{"n": 9007199254740993}}"#);
    let [probe, initialize, ..] = [far.asked().await, far.asked().await];
    assert!(probe.says("server/discover") && initialize.says("initialize"));
    let mut others = [far.asked().await, far.asked().await, far.asked().await];
    others.sort_by_key(|asked| asked.body.len());
    let [listening, told, asked] = others;
    assert_eq!((&*listening.method, &*told.body, &*asked.body), ("get", INITIALIZED, request));
    for asked in [listening, told, asked] {
        let head = &asked.head;
        assert!(
            head.contains("mcp-session-id: s1\r\n") && head.contains("mcp-protocol-version: 2025-06-18\r\n"),
            "{head}"
        );
        assert!(head.contains("x-configured: yes\r\n") && !head.contains("authorization"), "{head}");
    }
    drop(session);
    let ended = far.asked().await;
    assert!(ended.method == "delete" && ended.head.contains("mcp-session-id: s1"), "{ended:?}");
    assert_eq!(remote.era(), Some(Era::Legacy));
    // A modern client is answered too, over the bridge.
    let answer = ask(&remote, modern("1", "tools/list", "")).await;
    assert!(answer.contains(r#""id":1,"result""#) && answer.contains(r#""resultType":"complete""#), "{answer}");
}

#[tokio::test]
async fn a_session_that_was_forgotten_is_opened_again() {
    let (opened, forgotten) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (count, forget) = (opened.clone(), forgotten.clone());
    let far = Far::new(move |asked| legacy(asked, &opened, &forgotten).unwrap_or_else(|| ok(asked, "{}"))).await;
    let remote = remote(&far.url, |spec| spec.era = EraChoice::Known(Era::Legacy));
    let (session, _) = open(&remote).await;
    session.tell(INITIALIZED);
    assert!(session.ask(r#"{"jsonrpc":"2.0","id":1,"method":"a"}"#).await.contains("result"));
    forget.store(1, Ordering::SeqCst);
    let requests = [2, 3, 4].map(|id| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"a"}}"#));
    let answers = futures_util::future::join_all(requests.iter().map(|request| session.ask(request))).await;
    assert!(answers.iter().all(|answer| answer.contains("result")), "{answers:?}");
    assert_eq!(count.load(Ordering::SeqCst), 2, "one of them has opened another session, for all");
    forget.store(u32::MAX, Ordering::SeqCst);
    let answer = session.ask(r#"{"jsonrpc":"2.0","id":5,"method":"a"}"#).await;
    assert!(answer.contains(r#""id":5,"error":{"code":5020"#), "{answer}");
}

#[tokio::test]
async fn a_modern_request_says_in_its_headers_what_it_is() {
    let mut far = Far::new(|asked| match asked.says("server/discover") {
        true => ok(asked, r#"{"supportedVersions":["2026-07-28"]}"#),
        false if asked.says("\"initialize\"") => json("404 Not Found", "", r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32601,"message":"?"}}"#),
        false => events(&format!("data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}}\n\n: x\n\nid: 1\ndata: \n\ndata: {{\"jsonrpc\":\"2.0\",\ndata: \"id\":{},\"result\":{{}}}}\n\n", asked.id())),
    })
    .await;
    let remote = remote(&far.url, |_| {});
    let (to, mut inlet) = outlet();
    remote.call(Caller::detached("x"), modern("\"a\"", "tools/call", "\"name\":\"é\","), to);
    assert!(next(&mut inlet).await.contains("notifications/progress"));
    assert_eq!(next(&mut inlet).await, "{\"jsonrpc\":\"2.0\",\n\"id\":\"a\",\"result\":{}}");
    assert!(within(inlet.next()).await.is_none());
    let _probes = [far.asked().await, far.asked().await];
    let head = far.asked().await.head;
    for header in
        ["mcp-protocol-version: 2026-07-28\r\n", "mcp-method: tools/call\r\n", "mcp-name: =?base64?w6k=?=\r\n"]
    {
        assert!(head.contains(&header.to_lowercase()), "{head}");
    }
    assert_eq!(remote.era(), Some(Era::Modern));
    // A legacy client is given a session, over the bridge.
    assert!(open(&remote).await.1.contains(r#""protocolVersion":"2025-11-25""#));
}

#[tokio::test]
async fn who_leaves_a_modern_call_cancels_it() {
    let far = Far::new(|_| events("…")).await;
    let remote = remote(&far.url, |spec| spec.era = EraChoice::Known(Era::Modern));
    let (to, inlet) = outlet();
    remote.call(Caller::detached("x"), modern("1", "tools/call", ""), to);
    let mut far = far;
    far.asked().await;
    drop(inlet);
    within(async {
        while far.left.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_and_comes_back() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let remote = remote(&format!("http://{address}/mcp"), |_| {});
    let answer = ask(&remote, modern("1", "tools/list", "")).await;
    assert!(
        answer.contains("5021") && answer.contains(&address.to_string()) && answer.contains("standpipe serve"),
        "{answer}"
    );
    assert!(open(&remote).await.1.contains("5021"));
    let _far =
        Far::at(&address.to_string(), |asked| ok(asked, r#"{"supportedVersions":["2026-07-28","2025-11-25"]}"#)).await;
    assert!(ask(&remote, modern("2", "tools/list", "")).await.contains(r#""id":2,"result""#));
    assert!(open(&remote).await.1.contains("result"));
}

#[tokio::test]
async fn what_is_no_answer_is_told() {
    async fn check(answer: impl Fn(&Asked) -> String + Send + Sync + 'static, expected: &[&str]) {
        let far = Far::new(answer).await;
        let remote = remote(&far.url, |spec| {
            spec.era = EraChoice::Known(Era::Modern);
            spec.limits.message_bytes = 2_000;
        });
        let answer = ask(&remote, modern("7", "tools/list", "")).await;
        assert!(answer.starts_with(r#"{"jsonrpc":"2.0","id":7,"error":{"code":"#), "{answer}");
        expected.iter().for_each(|expected| assert!(answer.contains(expected), "{answer}, and no {expected}"));
    }
    check(|_| page("302 Found", "location: http://elsewhere/\r\n", ""), &["5021", "http://elsewhere/", "not followed"])
        .await;
    check(|_| page("401 Unauthorized", "", ""), &["4010", "STANDPIPE_TOKEN"]).await;
    check(|_| page("403 Forbidden", "", "not you"), &["4030", "not you"]).await;
    check(|_| page("404 Not Found", "", ""), &["5021", "is the path right"]).await;
    check(|_| page("503 Service Unavailable", "retry-after: 7\r\n", ""), &["5030", r#""retry_after_ms":7000"#]).await;
    check(|_| page("500 Internal Server Error", "", "<h1>oops</h1>"), &["5020", "oops"]).await;
    check(|_| page("200 OK", "", "<h1>hello</h1>"), &["5020", "hello"]).await;
    check(|_| taken(), &["5020"]).await;
    check(|_| json("200 OK", "", "{"), &["5020"]).await;
    check(|_| json("200 OK", "", r#"{"jsonrpc":"2.0","id":8,"result":{}}"#), &["5020", "another request"]).await;
    check(
        |_| json("200 OK", "", &format!(r#"{{"jsonrpc":"2.0","id":7,"result":"{}"}}"#, "x".repeat(3_000))),
        &["5020", "mcp_message_bytes_max"],
    )
    .await;
    check(|_| events(&format!("data: {}\n\n", "x".repeat(5_000))), &["5020", "mcp_message_bytes_max"]).await;
    check(|_| events("data: nonsense\n\n"), &["5020", "no message"]).await;
    check(|_| events("id: 1\ndata: \n\n"), &["5020", "broke the answer off"]).await;
    let own = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"parse"}}"#;
    check(move |_| json("400 Bad Request", "", own), &["-32700", "parse"]).await;
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_taken_up_again() {
    let (opened, forgotten) = (AtomicU32::new(0), AtomicU32::new(0));
    let far = Far::new(move |asked| match asked.head.contains("last-event-id: 5\r\n") {
        true => events("data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"late\":true}}\n\n"),
        false => legacy(asked, &opened, &forgotten).unwrap_or_else(|| events("id: 5\nretry: 1\ndata: \n\n")),
    })
    .await;
    let remote = remote(&far.url, |spec| spec.era = EraChoice::Known(Era::Legacy));
    let (session, _) = open(&remote).await;
    assert!(session.ask(r#"{"jsonrpc":"2.0","id":1,"method":"a"}"#).await.contains("late"));
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_cancelled() {
    let (opened, forgotten) = (AtomicU32::new(0), AtomicU32::new(0));
    let mut far = Far::new(move |asked| legacy(asked, &opened, &forgotten).unwrap_or_else(|| events("…"))).await;
    let remote = remote(&far.url, |spec| {
        spec.era = EraChoice::Known(Era::Legacy);
        spec.limits.call = Duration::from_millis(300);
    });
    let (session, _) = open(&remote).await;
    let answer = session.ask(r#"{"jsonrpc":"2.0","id":"x","method":"slow"}"#).await;
    assert!(answer.contains(r#""id":"x","error":{"code":5040"#) && answer.contains("mcp_call_ms_max"), "{answer}");
    let mut asked = far.asked().await;
    while !asked.says("notifications/cancelled") {
        asked = far.asked().await;
    }
    assert!(asked.says(r#""requestId":"x""#), "{asked:?}");
    let (to, mut inlet) = outlet();
    session.conversation.call(&session.caller, message(r#"{"jsonrpc":"2.0","id":2,"method":"slow"}"#), to);
    session.tell(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#);
    assert!(within(inlet.next()).await.is_none(), "who cancels gets no answer");
}

#[tokio::test]
async fn calls_at_work_and_waiting_are_bounded() {
    let mut far = Far::new(|_| events("…")).await;
    let remote = remote(&far.url, |spec| {
        spec.era = EraChoice::Known(Era::Modern);
        (spec.limits.calls_per_child, spec.limits.queue_calls) = (1, 1);
        spec.limits.queue_wait = Duration::from_millis(100);
    });
    let mut inlets = Vec::new();
    let (to, inlet) = outlet();
    remote.call(Caller::detached("x"), modern("1", "tools/call", ""), to);
    inlets.push(inlet);
    far.asked().await;
    let (to, mut waits) = outlet();
    remote.call(Caller::detached("x"), modern("2", "tools/call", ""), to);
    tokio::task::yield_now().await;
    assert!(ask(&remote, modern("3", "tools/call", "")).await.contains("mcp_queue_calls_max"));
    assert!(next(&mut waits).await.contains("mcp_queue_wait_ms_max"));
    let (to, inlet) = outlet();
    remote.call(Caller::detached("x"), modern("4", "subscriptions/listen", ""), to);
    assert!(far.asked().await.says("subscriptions/listen"), "a subscription takes no room");
    drop((inlets, inlet));
}

#[test]
fn what_is_configured_wrongly_is_said() {
    let check = |url: &str, header: (&str, &str), expected: &str| {
        let error = RemoteSpec::new("x", url, &[(header.0.into(), header.1.into())]).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    check("ftp://x/mcp", ("a", "b"), "http://HOST:PORT/mcp");
    check("/mcp", ("a", "b"), "http://HOST:PORT/mcp");
    check("http://u:p@h/mcp", ("a", "b"), "Authorization");
    check("http://h/mcp", ("a b", "c"), "can't be sent");
    check("http://h/mcp", ("a", "c\n"), "can't be sent");
}
