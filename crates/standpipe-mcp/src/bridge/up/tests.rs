//! [`Up`] between a client and a server that the tests play.

use std::time::Duration;

use serde_json::{Value, json};
use standpipe_serve::Limits;

use super::*;
use crate::bridge::testing::{Client, Stand, client, message, scripted, settings, settle, text, value};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{"roots":{"listChanged":true},"tasks":{},"x":9007199254740993},"clientInfo":{"name":"c","version":"1.0"}}}"#;
const DISCOVERED: &str = r#"{"z":9007199254740993,"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true}},"instructions":"be kind","ttlMs":5,"cacheScope":"public","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s","version":"2"}}}"#;
const META: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"roots":{"listChanged":true},"x":9007199254740993},"io.modelcontextprotocol/clientInfo":{"name":"c","version":"1.0"}"#;

struct Session {
    up: Up,
    conversation: Arc<dyn Conversation>,
    news: Client,
    stand: Stand,
}

/// A session that is being opened, and where the answer to `initialize` comes.
fn open(limits: Limits, initialize: &str) -> (Session, Client) {
    let (server, stand) = scripted();
    let up = Up::new(server, settings(limits));
    let ((to, opened), (news_to, news)) = (client(), client());
    let conversation = up.open(&caller(), message(initialize), to, news_to);
    (Session { up, conversation, news, stand }, opened)
}

async fn opened(limits: Limits, discovered: &str) -> Session {
    let (mut session, mut client) = open(limits, INITIALIZE);
    let (discover, to) = session.stand.call().await;
    to.send(Message::result(discover.id().unwrap(), discovered.as_bytes())).unwrap();
    client.last().await;
    session
}

fn caller() -> Caller {
    Caller::detached("user:a")
}

fn code(message: &Message) -> i64 {
    value(message)["error"]["code"].as_i64().unwrap_or_else(|| panic!("no error: {}", text(message)))
}

impl Session {
    fn call(&self, request: &str) -> Client {
        let (to, client) = client();
        self.conversation.call(&caller(), message(request), to);
        client
    }

    fn tool(&self) -> Client {
        self.call(r#"{"jsonrpc":"2.0","id":"c","method":"tools/call","params":{"name":"t","arguments":{"n":1.0}}}"#)
    }

    fn tell(&self, json: &str) {
        self.conversation.tell(&caller(), message(json));
    }

    fn hits(&self, limit: &str) -> u64 {
        self.up.settings.metrics.hits().get(limit).copied().unwrap_or_default()
    }
}

/// Ends a request of the server's with a question, a state, or both.
fn want(request: &Message, to: &Outlet, inner: &str) {
    let result = format!(r#"{{"resultType":"input_required"{inner}}}"#);
    to.send(Message::result(request.id().unwrap(), result.as_bytes())).unwrap();
}

const ONE: &str = r#","inputRequests":{"a b":{"method":"elicitation/create","params":{"message":"?","n":9007199254740993}}},"requestState":"st\u00e4te""#;

#[tokio::test(start_paused = true)]
async fn initialize_is_answered_from_discover() {
    let (mut session, mut client) = open(Limits::default(), INITIALIZE);
    let (discover, to) = session.stand.call().await;
    assert_eq!(
        text(&discover),
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{{"_meta":{{{META}}}}}}}"#)
    );
    to.send(Message::result(b"1", DISCOVERED.as_bytes())).unwrap();
    assert_eq!(
        text(&client.last().await),
        r#"{"jsonrpc":"2.0","id":"i","result":{"z":9007199254740993,"capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true}},"instructions":"be kind","protocolVersion":"2025-06-18","serverInfo":{"name":"s","version":"2"}}}"#
    );
}

#[tokio::test(start_paused = true)]
async fn versions_are_agreed_on() {
    for (asked, expected) in
        [("2024-11-05", "2024-11-05"), ("2025-11-25", "2025-11-25"), ("2026-07-28", "2025-11-25"), ("x", "2025-11-25")]
    {
        let initialize =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"{asked}"}}}}"#);
        let (mut session, mut client) = open(Limits::default(), &initialize);
        let (discover, to) = session.stand.call().await;
        to.send(Message::result(discover.id().unwrap(), b"{}")).unwrap();
        let result = value(&client.last().await)["result"].clone();
        assert_eq!(
            result,
            json!({ "protocolVersion": expected, "capabilities": {}, "serverInfo": { "name": "test", "version": "0" } })
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_can_not_begin_has_ended() {
    for (answer, expected) in [
        (r#""error":{"code":5021,"message":"no"}"#, 5_021),
        (r#""result":[]"#, fault::UPSTREAM_DIED),
        (r#""result":{"supportedVersions":["2031-01-01"]}"#, fault::UPSTREAM_DIED),
        ("", fault::UPSTREAM_DIED),
    ] {
        let (mut session, mut client) = open(Limits::default(), INITIALIZE);
        let (_, to) = session.stand.call().await;
        if !answer.is_empty() {
            to.send(message(&format!(r#"{{"jsonrpc":"2.0","id":1,{answer}}}"#))).unwrap();
        }
        drop(to);
        let reply = client.last().await;
        assert_eq!((code(&reply), reply.id()), (expected, Some(&b"\"i\""[..])), "{answer}");
        session.conversation.ended().await;
    }
    let (session, mut client) =
        open(Limits::default(), r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"capabilities":7}}"#);
    assert_eq!(code(&client.last().await), fault::INVALID_PARAMS);
    session.conversation.ended().await;
}

#[tokio::test(start_paused = true)]
async fn requests_say_whose_they_are_and_the_rest_is_as_it_was() {
    let mut session = opened(Limits::default(), DISCOVERED).await;
    let mut client = session.call(
        r#"{"jsonrpc":"2.0","id":9007199254740993,"method":"x/unknown","params":{"z":9007199254740993,"_meta":{"progressToken":"p","io.modelcontextprotocol/clientCapabilities":{"sampling":{}}},"a":[1, 2.0]}}"#,
    );
    let (request, to) = session.stand.call().await;
    let number = request.id_number().unwrap();
    assert_eq!(
        text(&request),
        format!(
            r#"{{"jsonrpc":"2.0","id":{number},"method":"x/unknown","params":{{"z":9007199254740993,"_meta":{{"progressToken":"p","io.modelcontextprotocol/clientCapabilities":{{"roots":{{"listChanged":true}},"x":9007199254740993}},"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{{"name":"c","version":"1.0"}}}},"a":[1, 2.0]}}}}"#
        )
    );
    let progress =
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":0.50}}"#;
    to.send(message(progress)).unwrap();
    to.send(message(&format!(r#"{{"jsonrpc":"2.0","id":{number},"result":{{"ttlMs":1,"z":9007199254740993,"resultType":"complete","a":2.0}},"later":1}}"#))).unwrap();
    assert_eq!(text(&client.next().await), progress);
    // Only results that may be kept lose what says for how long.
    assert_eq!(
        text(&client.last().await),
        r#"{"jsonrpc":"2.0","id":9007199254740993,"result":{"ttlMs":1,"z":9007199254740993,"a":2.0},"later":1}"#
    );

    let mut client = session.call(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
    let (request, to) = session.stand.call().await;
    assert_eq!(value(&request)["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    to.send(Message::result(
        request.id().unwrap(),
        br#"{"tools":[],"ttlMs":1,"cacheScope":"public","resultType":"complete"}"#,
    ))
    .unwrap();
    assert_eq!(value(&client.last().await)["result"], json!({ "tools": [] }));
}

#[tokio::test(start_paused = true)]
async fn errors_are_those_of_the_legacy_era() {
    let mut session = opened(Limits::default(), DISCOVERED).await;
    for (method, sent, expected) in [
        (
            "resources/read",
            r#"{"code":-32602,"message":"m","data":{"uri":"u"}}"#,
            r#"{"code":-32002,"message":"m","data":{"uri":"u"}}"#,
        ),
        ("tools/call", r#"{"code":-32602,"message":"m"}"#, r#"{"code":-32602,"message":"m"}"#),
        ("resources/read", r#"{"code":-32603,"message":"m"}"#, r#"{"code":-32603,"message":"m"}"#),
    ] {
        let mut client =
            session.call(&format!(r#"{{"jsonrpc":"2.0","id":"e","method":"{method}","params":{{"uri":"u"}}}}"#));
        let (request, to) = session.stand.call().await;
        to.send(message(&format!(r#"{{"jsonrpc":"2.0","id":{},"error":{sent}}}"#, request.id_number().unwrap())))
            .unwrap();
        assert_eq!(
            text(&client.last().await),
            format!(r#"{{"jsonrpc":"2.0","id":"e","error":{expected}}}"#),
            "{method}"
        );
    }
    for nonsense in ["null", "[]", r#"{"a":1,"a":2}"#, r#"{"resultType":"task","task":{}}"#, r#"{"resultType":7}"#] {
        let mut client = session.tool();
        let (request, to) = session.stand.call().await;
        to.send(Message::result(request.id().unwrap(), nonsense.as_bytes())).unwrap();
        assert_eq!(code(&client.last().await), fault::UPSTREAM_DIED, "{nonsense}");
    }
    let mut client = session.tool();
    drop(session.stand.call().await);
    assert_eq!(code(&client.last().await), fault::UPSTREAM_DIED, "dropped");
}

#[tokio::test(start_paused = true)]
async fn some_requests_are_answered_here() {
    let mut session = opened(Limits::default(), DISCOVERED).await;
    for (method, params, expected) in [
        ("ping", "{}", None),
        ("logging/setLevel", r#"{"level":"warning"}"#, None),
        ("logging/setLevel", r#"{"level":"loud"}"#, Some(fault::INVALID_PARAMS)),
        ("logging/setLevel", "{}", Some(fault::INVALID_PARAMS)),
        ("initialize", "{}", Some(fault::INVALID_REQUEST)),
        ("server/discover", "{}", Some(fault::METHOD_NOT_FOUND)),
        ("subscriptions/listen", "{}", Some(fault::METHOD_NOT_FOUND)),
        ("tasks/get", "{}", Some(fault::METHOD_NOT_FOUND)),
        ("resources/subscribe", "{}", Some(fault::INVALID_PARAMS)),
        ("resources/unsubscribe", r#"{"uri":7}"#, Some(fault::INVALID_PARAMS)),
        ("resources/unsubscribe", r#"{"uri":"never"}"#, None),
    ] {
        let mut client =
            session.call(&format!(r#"{{"jsonrpc":"2.0","id":"p","method":"{method}","params":{params}}}"#));
        let reply = client.last().await;
        assert_eq!(value(&reply)["error"]["code"].as_i64(), expected, "{method} {params}");
    }
    assert!(session.stand.is_quiet(), "the server was not asked");
    let _client = session.tool();
    assert_eq!(value(&session.stand.call().await.0)["params"]["_meta"]["io.modelcontextprotocol/logLevel"], "warning");
}

#[tokio::test(start_paused = true)]
async fn what_the_server_wants_is_asked_and_comes_with_the_retry() {
    let mut session = opened(Limits::default(), DISCOVERED).await;
    let mut client = session.tool();
    let (first, to) = session.stand.call().await;
    want(&first, &to, ONE);
    drop(to);
    let asked = client.next().await;
    let number = asked.id_number().unwrap();
    assert_eq!(
        text(&asked),
        format!(
            r#"{{"jsonrpc":"2.0","id":{number},"method":"elicitation/create","params":{{"message":"?","n":9007199254740993}}}}"#
        )
    );
    session.tell(&format!(
        r#"{{"jsonrpc":"2.0","id":{number},"result":{{"action":"accept","content":{{"n":9007199254740993}}}}}}"#
    ));
    let (second, to) = session.stand.call().await;
    assert_ne!(first.id(), second.id());
    let (was, is) = (first.id_number().unwrap(), second.id_number().unwrap());
    let expected = text(&first).replace(&format!(r#""id":{was}"#), &format!(r#""id":{is}"#));
    let retry = r#","inputResponses":{"a b":{"action":"accept","content":{"n":9007199254740993}}},"requestState":"st\u00e4te"}}"#;
    assert_eq!(text(&second), format!("{}{retry}", expected.strip_suffix("}}").unwrap()));
    // A second answer to the same question changes nothing.
    session.tell(&format!(r#"{{"jsonrpc":"2.0","id":{number},"result":{{"action":"accept"}}}}"#));
    to.send(Message::result(second.id().unwrap(), br#"{"content":[],"resultType":"complete"}"#)).unwrap();
    assert_eq!(text(&client.last().await), r#"{"jsonrpc":"2.0","id":"c","result":{"content":[]}}"#);
    assert!(session.stand.is_quiet());
}

#[tokio::test(start_paused = true)]
async fn all_questions_of_a_round_are_answered_before_the_retry() {
    let mut session = opened(Limits::default(), DISCOVERED).await;
    let mut client = session.tool();
    let (request, to) = session.stand.call().await;
    want(
        &request,
        &to,
        r#","inputRequests":{"a":{"method":"roots/list"},"b":{"method":"elicitation/create","params":{"mode":"url","url":"https://x"}},"c":{"method":"sampling/createMessage","params":{}}}"#,
    );
    let asked = [client.next().await, client.next().await, client.next().await];
    assert!(value(&asked[1])["params"]["elicitationId"].is_string(), "2025-11-25 wants one");
    session.tell(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"role":"c"}}}}"#, asked[2].id_number().unwrap()));
    session.tell(&format!(
        r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":-1,"message":"no"}}}}"#,
        asked[1].id_number().unwrap()
    ));
    assert!(session.stand.is_quiet());
    session.tell(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"roots":[]}}}}"#, asked[0].id_number().unwrap()));
    let (retry, _to) = session.stand.call().await;
    let params = &value(&retry)["params"];
    assert_eq!(
        params["inputResponses"],
        json!({ "c": { "role": "c" }, "b": { "action": "cancel" }, "a": { "roots": [] } })
    );
    assert!(params.get("requestState").is_none(), "the server gave none");
    assert_eq!(session.up.suspended.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_refuses_an_answer_fails_its_call() {
    let mut session = opened(Limits::default(), DISCOVERED).await;
    let mut client = session.tool();
    let (request, to) = session.stand.call().await;
    want(
        &request,
        &to,
        r#","inputRequests":{"a":{"method":"roots/list"},"b":{"method":"sampling/createMessage","params":{}}}"#,
    );
    let (roots, sampling) = (client.next().await, client.next().await);
    session.tell(&format!(
        r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":-1,"message":"no","x":1}}}}"#,
        sampling.id_number().unwrap()
    ));
    let cancelled = client.next().await;
    assert_eq!(value(&cancelled)["params"]["requestId"].as_u64(), roots.id_number());
    assert_eq!(text(&client.last().await), r#"{"jsonrpc":"2.0","id":"c","error":{"code":-1,"message":"no","x":1}}"#);
    settle().await;
    assert!(session.stand.is_quiet());
    assert_eq!(session.up.suspended.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_fails_its_call() {
    let mut session = opened(Limits::default(), DISCOVERED).await;
    let mut client = session.tool();
    let (request, to) = session.stand.call().await;
    want(&request, &to, ONE);
    let started = tokio::time::Instant::now();
    let asked = client.next().await;
    assert_eq!(client.next().await.method(), Some("notifications/cancelled"));
    assert_eq!((code(&client.last().await), started.elapsed().as_secs()), (fault::DEADLINE, 300));
    session.tell(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, asked.id_number().unwrap()));
    settle().await;
    assert!(session.stand.is_quiet(), "an answer that comes too late changes nothing");
    assert_eq!(session.hits("mcp_suspended_ms_max"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_goes_on_asking_is_stopped() {
    let mut session = opened(Limits { mcp_rounds_per_call_max: 3, ..Limits::default() }, DISCOVERED).await;
    let mut client = session.tool();
    for round in 0..4 {
        let (request, to) = session.stand.call().await;
        // Without questions the request is made again at once.
        want(&request, &to, &format!(r#","requestState":"{round}""#));
    }
    assert_eq!(code(&client.last().await), fault::UPSTREAM_DIED);
    assert_eq!(session.hits("mcp_rounds_per_call_max"), 1);
}

#[tokio::test(start_paused = true)]
async fn questions_that_are_none_fail_the_call() {
    let mut session = opened(Limits { mcp_questions_per_call_max: 2, ..Limits::default() }, DISCOVERED).await;
    let question = r#"{"method":"roots/list"}"#;
    for inner in [
        "".to_owned(),
        r#","inputRequests":{}"#.to_owned(),
        r#","inputRequests":[]"#.to_owned(),
        r#","inputRequests":{"a":7}"#.to_owned(),
        r#","inputRequests":{"a":{"method":"tools/call"}}"#.to_owned(),
        r#","inputRequests":{"a":{"method":"roots/list","params":[]}}"#.to_owned(),
        format!(r#","inputRequests":{{"a":{question},"a":{question}}}"#),
        format!(r#","inputRequests":{{"a":{question},"b":{question},"c":{question}}}"#),
    ] {
        let mut client = session.tool();
        let (request, to) = session.stand.call().await;
        want(&request, &to, &inner);
        assert_eq!(code(&client.last().await), fault::UPSTREAM_DIED, "{inner}");
    }
    assert_eq!(session.hits("mcp_questions_per_call_max"), 1);
    let mut client = session.call(r#"{"jsonrpc":"2.0","id":"c","method":"tools/list"}"#);
    let (request, to) = session.stand.call().await;
    want(&request, &to, ONE);
    assert_eq!(code(&client.last().await), fault::UPSTREAM_DIED, "a list can't want input");
}

#[tokio::test(start_paused = true)]
async fn too_many_calls_that_wait_are_refused() {
    let mut session = opened(Limits { mcp_suspended_calls_max: 1, ..Limits::default() }, DISCOVERED).await;
    let mut clients = [session.tool(), session.call(r#"{"jsonrpc":"2.0","id":"d","method":"tools/call","params":{}}"#)];
    for _ in 0..2 {
        let (request, to) = session.stand.call().await;
        want(&request, &to, ONE);
    }
    clients[0].next().await;
    loop {
        let message = clients[1].next().await;
        if message.is_error() {
            assert_eq!(code(&message), fault::OVERLOADED);
            break;
        }
        assert_eq!(message.method(), Some("notifications/cancelled"), "{}", text(&message));
    }
    assert_eq!(session.up.suspended.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_leaves_the_server() {
    let mut session = opened(Limits::default(), DISCOVERED).await;
    let mut client = session.tool();
    let (_, to) = session.stand.call().await;
    session.tell(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"other"}}"#);
    assert!(!to.is_gone());
    session.tell(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"c"}}"#);
    assert!(to.is_gone());
    assert!(client.ends().await, "without a reply");

    // A client whose stream is lost has not cancelled.
    drop(session.tool());
    let (request, to) = session.stand.call().await;
    assert!(!to.is_gone());
    to.send(Message::result(request.id().unwrap(), b"{}")).unwrap();

    // A session that ends cancels all.
    let _client = session.tool();
    let (_, to) = session.stand.call().await;
    drop(session.conversation);
    assert!(to.is_gone());
}

// Subscriptions.

fn subscribe(session: &Session, uri: &str) -> Client {
    session
        .call(&format!(r#"{{"jsonrpc":"2.0","id":"{uri}","method":"resources/subscribe","params":{{"uri":"{uri}"}}}}"#))
}

fn acknowledge(request: &Message, to: &Outlet, filter: &str) {
    let id = std::str::from_utf8(request.id().unwrap()).unwrap();
    to.send(message(&format!(r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}},"notifications":{filter}}}}}"#))).unwrap();
}

fn updated(uri: &str) -> Message {
    message(&format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"_meta":{{"io.modelcontextprotocol/subscriptionId":1}},"uri":"{uri}","x":9007199254740993}}}}"#
    ))
}

fn filter_of(request: &Message) -> Value {
    assert_eq!(request.method(), Some("subscriptions/listen"));
    value(request)["params"]["notifications"].clone()
}

#[tokio::test(start_paused = true)]
async fn one_stream_serves_all_subscriptions() {
    let mut session = opened(Limits::default(), DISCOVERED).await;
    session.tell(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    let (request, lists) = session.stand.call().await;
    assert_eq!(filter_of(&request), json!({ "toolsListChanged": true }));
    acknowledge(&request, &lists, r#"{"toolsListChanged":true}"#);
    lists.send(message(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":1}}}"#)).unwrap();
    assert_eq!(
        text(&session.news.next().await),
        r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{}}"#
    );

    let mut first = subscribe(&session, "a:/1");
    let (request, one) = session.stand.call().await;
    assert_eq!(filter_of(&request), json!({ "toolsListChanged": true, "resourceSubscriptions": ["a:/1"] }));
    // Who comes meanwhile has to wait for the next stream.
    let (mut second, mut third) = (subscribe(&session, "a:/2"), subscribe(&session, "a:/3"));
    assert!(session.stand.is_quiet());
    acknowledge(&request, &one, r#"{"resourceSubscriptions":["a:/1"]}"#);
    assert_eq!(text(&first.last().await), r#"{"jsonrpc":"2.0","id":"a:/1","result":{}}"#);
    assert!(lists.is_gone(), "the earlier stream goes");
    let (request, all) = session.stand.call().await;
    assert_eq!(
        filter_of(&request),
        json!({ "toolsListChanged": true, "resourceSubscriptions": ["a:/1", "a:/2", "a:/3"] })
    );
    one.send(updated("a:/1")).unwrap();
    acknowledge(&request, &all, r#"{"resourceSubscriptions":["a:/1","a:/2"]}"#);
    assert!(!second.last().await.is_error());
    let refused = third.last().await;
    assert_eq!((code(&refused), &value(&refused)["error"]["data"]["uri"]), (fault::RESOURCE_NOT_FOUND, &json!("a:/3")));
    assert_eq!(session.news.next().await.text_at(&["uri"]).unwrap().unwrap(), "a:/1");

    assert!(!subscribe(&session, "a:/1").last().await.is_error(), "it is subscribed to");
    assert!(session.stand.is_quiet());
    session.call(r#"{"jsonrpc":"2.0","id":1,"method":"resources/unsubscribe","params":{"uri":"a:/1"}}"#).last().await;
    all.send(updated("a:/1")).unwrap();
    all.send(updated("a:/2")).unwrap();
    assert_eq!(
        text(&session.news.next().await),
        r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:/2","x":9007199254740993}}"#
    );
    assert!(!all.is_gone(), "the lists are still wanted");
    drop(session.conversation);
    assert!(all.is_gone());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_nobody_needs_ends() {
    let mut session = opened(Limits { mcp_subscriptions_per_stream_max: 1, ..Limits::default() }, "{}").await;
    session.tell(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    assert!(session.stand.is_quiet(), "no list changes there");
    let mut client = subscribe(&session, "a");
    assert_eq!(code(&subscribe(&session, "b").last().await), fault::OVERLOADED);
    let (request, to) = session.stand.call().await;
    acknowledge(&request, &to, r#"{"resourceSubscriptions":["a"]}"#);
    assert!(!client.last().await.is_error());
    session.call(r#"{"jsonrpc":"2.0","id":1,"method":"resources/unsubscribe","params":{"uri":"a"}}"#).last().await;
    assert!(to.is_gone());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_lost_is_opened_again_and_says_that_something_may_be_missed() {
    let mut session = opened(Limits::default(), DISCOVERED).await;
    session.tell(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    let (request, to) = session.stand.call().await;
    acknowledge(&request, &to, "{}");
    let _client = subscribe(&session, "a");
    let (request, to) = session.stand.call().await;
    acknowledge(&request, &to, r#"{"resourceSubscriptions":["a"]}"#);
    let started = tokio::time::Instant::now();
    to.send(Message::error(request.id(), fault::UPSTREAM_DIED, "died", None)).unwrap();
    drop(to);
    let mut waited = Vec::new();
    for _ in 0..3 {
        let (request, to) = session.stand.call().await;
        waited.push(started.elapsed().as_secs());
        assert_eq!(filter_of(&request), json!({ "toolsListChanged": true, "resourceSubscriptions": ["a"] }));
        if waited.len() < 3 {
            to.send(Message::error(request.id(), fault::UPSTREAM_DOWN, "down", None)).unwrap();
        } else {
            acknowledge(&request, &to, r#"{"toolsListChanged":true,"resourceSubscriptions":["a"]}"#);
            assert_eq!(session.news.next().await.method(), Some("notifications/tools/list_changed"));
            assert_eq!(session.news.next().await.text_at(&["uri"]).unwrap().unwrap(), "a");
        }
    }
    assert_eq!(waited, [1, 3, 7]);
}

#[tokio::test(start_paused = true)]
async fn a_server_without_streams_says_so() {
    let mut session = opened(Limits::default(), DISCOVERED).await;
    session.tell(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    let (request, to) = session.stand.call().await;
    to.send(Message::error(request.id(), fault::METHOD_NOT_FOUND, "no such method", None)).unwrap();
    drop(to);
    tokio::time::sleep(Duration::from_secs(3_000)).await;
    assert!(session.stand.is_quiet(), "it is not asked again");
    let mut client = subscribe(&session, "a");
    let (request, to) = session.stand.call().await;
    to.send(Message::error(request.id(), fault::METHOD_NOT_FOUND, "no such method", None)).unwrap();
    assert_eq!(
        text(&client.last().await),
        r#"{"jsonrpc":"2.0","id":"a","error":{"code":-32601,"message":"no such method"}}"#
    );

    // One that never acknowledges.
    let mut client = subscribe(&session, "a");
    let (_, to) = session.stand.call().await;
    assert_eq!(code(&client.last().await), fault::UPSTREAM_DIED);
    assert!(to.is_gone());
}
