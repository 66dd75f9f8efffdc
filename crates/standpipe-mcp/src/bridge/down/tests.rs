//! [`Down`] between a client and a server that the tests play.

use std::time::Duration;

use serde_json::{Value, json};
use standpipe_serve::Limits;

use super::*;
use crate::bridge::testing::{Client, Event, Stand, client, message, scripted, settings, settle, text, value};
use crate::fault;

const VERSION: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28""#;
const ALL: &str = r#"{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}"#;
const SERVER: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true},"logging":{},"resources":{"subscribe":true,"listChanged":true},"tasks":{"list":{}},"x":1},"serverInfo":{"name":"s","version":"1","big":9007199254740993},"instructions":"be kind"}"#;
const INFO: &str = r#"{"name":"s","version":"1","big":9007199254740993}"#;

fn down(limits: Limits) -> (Down, Stand) {
    let (server, stand) = scripted();
    (Down::new(server, settings(limits)), stand)
}

/// A request; `params` are members behind `_meta`, with a comma in front.
fn request(id: &str, method: &str, capabilities: &str, meta: &str, params: &str) -> Message {
    message(&format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{"_meta":{{{VERSION},"io.modelcontextprotocol/clientCapabilities":{capabilities}{meta}}}{params}}}}}"#
    ))
}

fn send(down: &Down, principal: &str, request: Message) -> Client {
    let (to, client) = client();
    down.call(Caller::detached(principal), request, to);
    client
}

fn tool(id: &str, more: &str) -> Message {
    request(id, "tools/call", ALL, "", &format!(r#","name":"t","arguments":{{"n":1}}{more}"#))
}

/// A bridge whose session is open.
async fn opened(limits: Limits) -> (Down, Stand, Outlet) {
    let (down, mut stand) = down(limits);
    let mut client = send(&down, "user:a", request("0", "server/discover", ALL, "", ""));
    let (_, news, _) = stand.open(SERVER).await;
    client.last().await;
    (down, stand, news)
}

/// A tool call that the server has asked `questions` questions for; what the client was sent, the call's way back, and its id.
async fn suspended(down: &Down, stand: &mut Stand, questions: usize) -> (Value, Outlet, Message) {
    let mut client = send(down, "user:a", tool("1", ""));
    let (call, to) = stand.call().await;
    for number in 0..questions {
        to.send(ask(&format!("\"s{number}\""), "elicitation/create")).unwrap();
    }
    (value(&client.last().await), to, call)
}

fn ask(id: &str, method: &str) -> Message {
    message(&format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{"message":"?","n":9007199254740993}}}}"#
    ))
}

fn state_of(reply: &Value) -> String {
    reply["result"]["requestState"].as_str().unwrap().to_owned()
}

fn retry(id: &str, state: &str, responses: &str) -> Message {
    tool(id, &format!(r#","inputResponses":{responses},"requestState":"{state}""#))
}

fn code(message: &Message) -> i64 {
    value(message)["error"]["code"].as_i64().unwrap_or_else(|| panic!("no error: {}", text(message)))
}

#[tokio::test(start_paused = true)]
async fn discover_is_what_the_handshake_told() {
    let (down, mut stand) = down(Limits::default());
    let asked = request(
        "\"d\"",
        "server/discover",
        ALL,
        r#","io.modelcontextprotocol/clientInfo":{"name":"c","version":"2"}"#,
        "",
    );
    let mut client = send(&down, "user:a", asked);
    let (initialize, ..) = stand.open(SERVER).await;
    assert_eq!(
        value(&initialize)["params"],
        json!({ "protocolVersion": "2025-11-25", "capabilities": serde_json::from_str::<Value>(ALL).unwrap(), "clientInfo": { "name": "c", "version": "2" } })
    );
    assert_eq!(
        text(&client.last().await),
        format!(
            r#"{{"jsonrpc":"2.0","id":"d","result":{{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{{"tools":{{"listChanged":true}},"logging":{{}},"resources":{{"subscribe":true,"listChanged":true}},"x":1}},"instructions":"be kind","ttlMs":0,"cacheScope":"private","_meta":{{"io.modelcontextprotocol/serverInfo":{INFO}}}}}}}"#
        )
    );
}

#[tokio::test(start_paused = true)]
async fn requests_and_results_change_only_where_the_eras_differ() {
    let (down, mut stand, _news) = opened(Limits::default()).await;
    let meta = r#","io.modelcontextprotocol/clientInfo":{},"progressToken":"p","traceparent":"00-1","a/b":1.0"#;
    let mut client = send(
        &down,
        "user:a",
        request("9007199254740993", "tools/call", ALL, meta, r#","z":9007199254740993,"name":"t","a":[1, 2]"#),
    );
    let (call, to) = stand.call().await;
    let number = call.id_number().unwrap();
    assert_eq!(
        text(&call),
        format!(
            r#"{{"jsonrpc":"2.0","id":{number},"method":"tools/call","params":{{"_meta":{{"progressToken":{number},"traceparent":"00-1","a/b":1.0}},"z":9007199254740993,"name":"t","a":[1, 2]}}}}"#
        )
    );
    to.send(message(&format!(r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{number},"progress":0.50,"x":1}}}}"#))).unwrap();
    to.send(message(
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":999,"progress":1}}"#,
    ))
    .unwrap();
    to.send(message(&format!(
        r#"{{"jsonrpc":"2.0","id":{number},"result":{{"z":9007199254740993,"_meta":{{"k":1}},"a":2.0}},"later":1}}"#
    )))
    .unwrap();
    assert_eq!(
        text(&client.next().await),
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":0.50,"x":1}}"#
    );
    assert_eq!(
        text(&client.last().await),
        format!(
            r#"{{"jsonrpc":"2.0","id":9007199254740993,"result":{{"z":9007199254740993,"_meta":{{"k":1,"io.modelcontextprotocol/serverInfo":{INFO}}},"a":2.0,"resultType":"complete"}},"later":1}}"#
        )
    );
}

#[tokio::test(start_paused = true)]
async fn results_that_may_be_kept_say_for_how_long() {
    let (down, mut stand, _news) = opened(Limits::default()).await;
    for (method, is_kept) in [
        ("tools/list", true),
        ("prompts/list", true),
        ("resources/list", true),
        ("resources/templates/list", true),
        ("resources/read", true),
        ("tools/call", false),
        ("completion/complete", false),
        ("x/unknown", false),
    ] {
        let mut client = send(&down, "user:a", request("1", method, ALL, "", ""));
        let (call, to) = stand.call().await;
        to.send(Message::result(call.id().unwrap(), b"{}")).unwrap();
        let result = value(&client.last().await)["result"].clone();
        assert_eq!((&result["resultType"], result.get("ttlMs").is_some()), (&json!("complete"), is_kept), "{method}");
        assert_eq!(result.get("cacheScope").is_some_and(|scope| scope == "private"), is_kept, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn errors_are_those_of_the_modern_era() {
    let (down, mut stand, _news) = opened(Limits::default()).await;
    for (sent, expected) in [
        (r#"{"code":-32002,"message":"m","data":{"uri":"u"}}"#, r#"{"code":-32602,"message":"m","data":{"uri":"u"}}"#),
        (
            r#"{"code":-32603,"x":9007199254740993,"message":"m"}"#,
            r#"{"code":-32603,"x":9007199254740993,"message":"m"}"#,
        ),
        (r#"{"code":7,"message":"m"}"#, r#"{"code":7,"message":"m"}"#),
    ] {
        let mut client = send(&down, "user:a", request("\"i\"", "resources/read", ALL, "", r#","uri":"u""#));
        let (call, to) = stand.call().await;
        let id = call.id_number().unwrap();
        to.send(message(&format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{sent}}}"#))).unwrap();
        assert_eq!(text(&client.last().await), format!(r#"{{"jsonrpc":"2.0","id":"i","error":{expected}}}"#));
    }
    for nonsense in ["null", "[]", "1", r#"{"a":1,"a":2}"#, r#"{"_meta":7}"#] {
        let mut client = send(&down, "user:a", tool("1", ""));
        let (call, to) = stand.call().await;
        to.send(Message::result(call.id().unwrap(), nonsense.as_bytes())).unwrap();
        assert_eq!(code(&client.last().await), fault::UPSTREAM_DIED, "{nonsense}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_modern_era_does_not_have_is_refused() {
    let (down, mut stand) = down(Limits::default());
    let check = async |request: Message, expected: i64| {
        assert_eq!(code(&send(&down, "user:a", request.clone()).last().await), expected, "{}", text(&request));
    };
    for method in
        ["ping", "initialize", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "tasks/list"]
    {
        check(request("1", method, ALL, "", ""), fault::METHOD_NOT_FOUND).await;
    }
    check(request("1", "tools/list", "[]", "", ""), fault::INVALID_PARAMS).await;
    check(request("1", "tools/list", "{}", r#","io.modelcontextprotocol/logLevel":"loud""#, ""), fault::INVALID_PARAMS)
        .await;
    check(request("1", "tools/list", "{}", "", r#","requestState":7"#), fault::INVALID_PARAMS).await;
    check(request("1", "tools/list", "{}", "", r#","a":1,"a":2"#), fault::INVALID_PARAMS).await;
    check(message(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#), fault::INVALID_PARAMS).await;
    assert!(stand.is_quiet(), "nothing of it reached the server");
}

#[tokio::test(start_paused = true)]
async fn a_session_for_each_principal_and_set_of_capabilities() {
    let (down, mut stand) = down(Limits::default());
    let mut clients = Vec::new();
    for (principal, capabilities) in [
        ("user:a", r#"{"roots":{},"sampling":{}}"#),
        ("user:a", r#"{"sampling":{ },"roots":{}}"#),
        ("user:a", "{}"),
        ("user:b", "{}"),
    ] {
        clients.push(send(&down, principal, request("1", "tools/list", capabilities, "", "")));
    }
    let (mut opened, mut calls) = (0, 0);
    while calls < 4 {
        match stand.next().await {
            Event::Open { initialize, to, .. } => {
                opened += 1;
                to.send(Message::result(initialize.id().unwrap(), SERVER.as_bytes())).unwrap();
            }
            Event::Call { request, to } => {
                calls += 1;
                to.send(Message::result(request.id().unwrap(), b"{}")).unwrap();
            }
            Event::Tell { .. } | Event::Closed => {}
        }
    }
    assert_eq!(opened, 3);
    for client in &mut clients {
        assert!(!client.last().await.is_error());
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_nobody_uses_ends() {
    let (down, mut stand, _news) = opened(Limits::default()).await;
    let _client = send(&down, "user:a", tool("1", ""));
    let (call, to) = stand.call().await;
    tokio::time::sleep(Duration::from_secs(900)).await;
    assert!(stand.is_quiet(), "a call keeps it");
    to.send(Message::result(call.id().unwrap(), b"{}")).unwrap();
    drop(to);
    tokio::time::sleep(Duration::from_secs(299)).await;
    assert!(stand.is_quiet());
    assert!(matches!(stand.next().await, Event::Closed));
    let mut client = send(&down, "user:a", tool("2", ""));
    stand.open(SERVER).await;
    let (call, to) = stand.call().await;
    to.send(Message::result(call.id().unwrap(), b"{}")).unwrap();
    assert!(!client.last().await.is_error());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_open_fails_who_waits() {
    let (down, mut stand) = down(Limits::default());
    let mut clients = [send(&down, "user:a", tool("\"x\"", "")), send(&down, "user:a", tool("2", ""))];
    let Event::Open { to, .. } = stand.next().await else { panic!("not opened") };
    to.send(message(r#"{"jsonrpc":"2.0","id":0,"error":{"code":5021,"message":"no","data":{"retry_after_ms":7}}}"#))
        .unwrap();
    assert_eq!(
        text(&clients[0].last().await),
        r#"{"jsonrpc":"2.0","id":"x","error":{"code":5021,"message":"no","data":{"retry_after_ms":7}}}"#
    );
    assert_eq!(code(&clients[1].last().await), fault::UPSTREAM_DOWN);
    assert!(matches!(stand.next().await, Event::Closed));

    for answer in [None, Some("[]"), Some(r#"{"capabilities":[]}"#)] {
        let mut client = send(&down, "user:a", tool("\"x\"", ""));
        let Event::Open { initialize, to, news, .. } = stand.next().await else { panic!("not opened") };
        if let Some(answer) = answer {
            to.send(Message::result(initialize.id().unwrap(), answer.as_bytes())).unwrap();
        }
        let expected = if answer.is_some() { fault::UPSTREAM_DIED } else { fault::UPSTREAM_DOWN };
        let reply = client.last().await;
        assert_eq!((code(&reply), reply.id()), (expected, Some(&b"\"x\""[..])), "{answer:?}");
        drop((to, news));
        assert!(matches!(stand.next().await, Event::Closed));
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_cancels() {
    let (down, mut stand, _news) = opened(Limits::default()).await;
    let client = send(&down, "user:a", tool("1", ""));
    let (call, to) = stand.call().await;
    drop(client);
    let told = stand.told().await;
    assert_eq!(
        (told.method(), value(&told)["params"]["requestId"].as_u64()),
        (Some("notifications/cancelled"), call.id_number())
    );
    assert!(to.send(Message::result(call.id().unwrap(), b"{}")).is_err(), "nobody wants it");
    drop(to);
    settle().await;
    assert!(stand.is_quiet());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_server_drops_is_answered() {
    let (down, mut stand, _news) = opened(Limits::default()).await;
    let mut client = send(&down, "user:a", tool("\"x\"", ""));
    drop(stand.call().await);
    let reply = client.last().await;
    assert_eq!((code(&reply), reply.id()), (fault::UPSTREAM_DIED, Some(&b"\"x\""[..])));
}

#[tokio::test(start_paused = true)]
async fn a_question_suspends_the_call_and_its_answer_goes_on_with_it() {
    let (down, mut stand, _news) = opened(Limits::default()).await;
    let (asked, to, call) = suspended(&down, &mut stand, 1).await;
    assert_eq!(asked["id"], 1);
    assert_eq!(asked["result"]["resultType"], "input_required");
    assert_eq!(
        asked["result"]["inputRequests"],
        json!({ "q1": { "method": "elicitation/create", "params": { "message": "?", "n": 9_007_199_254_740_993_u64 } } })
    );
    let meta = r#","progressToken":"again""#;
    let again = format!(
        r#","inputResponses":{{"q1":{{"action":"accept","content":{{"n":9007199254740993}}}},"more":{{}}}},"requestState":"{}","arguments":{{"n":1}},"name":"t""#,
        state_of(&asked)
    );
    let mut client = send(&down, "user:a", request("\"2\"", "tools/call", ALL, meta, &again));
    assert_eq!(
        text(&stand.told().await),
        r#"{"jsonrpc":"2.0","id":"s0","result":{"action":"accept","content":{"n":9007199254740993}}}"#
    );
    assert!(stand.is_quiet(), "the server sees one call");
    to.send(Message::result(call.id().unwrap(), br#"{"content":[]}"#)).unwrap();
    let reply = client.last().await;
    assert_eq!((reply.id(), value(&reply)["result"]["resultType"].as_str()), (Some(&b"\"2\""[..]), Some("complete")));
}

#[tokio::test(start_paused = true)]
async fn a_state_is_for_its_client_its_call_and_once() {
    let (down, mut stand, _news) = opened(Limits::default()).await;
    let (asked, to, call) = suspended(&down, &mut stand, 1).await;
    let state = state_of(&asked);
    let answer = r#"{"q1":{"action":"decline"}}"#;
    let check = async |principal: &str, request: Message, expected: i64| {
        assert_eq!(
            code(&send(&down, principal, request.clone()).last().await),
            expected,
            "{principal} {}",
            text(&request)
        );
    };
    check("user:b", retry("2", &state, answer), fault::INVALID_PARAMS).await;
    check("user:a", retry("2", "AAAA", answer), fault::INVALID_PARAMS).await;
    check("user:a", retry("2", &state[1..], answer), fault::INVALID_PARAMS).await;
    let other = format!(r#","name":"t","arguments":{{"n":2}},"requestState":"{state}""#);
    check("user:a", request("2", "tools/call", ALL, "", &other), fault::INVALID_PARAMS).await;
    for responses in ["[]", "7", r#"{"q1":7}"#, r#"{"q1":{},"q1":{}}"#] {
        check("user:a", retry("2", &state, responses), fault::INVALID_PARAMS).await;
    }
    assert!(stand.is_quiet(), "nothing of it reached the server");

    let mut first = send(&down, "user:a", retry("2", &state, answer));
    let mut second = send(&down, "user:a", retry("3", &state, answer));
    assert_eq!(code(&second.last().await), fault::INVALID_PARAMS, "two at once: one of them");
    stand.told().await;
    to.send(Message::result(call.id().unwrap(), b"{}")).unwrap();
    assert!(!first.last().await.is_error());
    check("user:a", retry("4", &state, answer), fault::INVALID_PARAMS).await;
    assert!(stand.is_quiet());
}

#[tokio::test(start_paused = true)]
async fn questions_without_an_answer_are_asked_again() {
    let (down, mut stand, _news) = opened(Limits::default()).await;
    // The second and third question come when the client has been sent the first.
    let (asked, to, call) = suspended(&down, &mut stand, 3).await;
    assert_eq!(asked["result"]["inputRequests"].as_object().unwrap().len(), 1);
    let mut client = send(&down, "user:a", retry("2", &state_of(&asked), r#"{"q1":{"a":1}}"#));
    assert_eq!(stand.told().await.id(), Some(&b"\"s0\""[..]));
    let asked = value(&client.last().await);
    let keys: Vec<_> = asked["result"]["inputRequests"].as_object().unwrap().keys().cloned().collect();
    assert_eq!((&asked["id"], keys), (&json!(2), vec!["q2".to_owned(), "q3".to_owned()]));
    // One is answered, one withdrawn.
    to.send(message(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"s2"}}"#)).unwrap();
    let mut client = send(&down, "user:a", retry("3", &state_of(&asked), r#"{"q2":{"a":2}}"#));
    assert_eq!(stand.told().await.id(), Some(&b"\"s1\""[..]));
    to.send(Message::result(call.id().unwrap(), b"{}")).unwrap();
    assert_eq!(client.last().await.id(), Some(&b"3"[..]));
}

#[tokio::test(start_paused = true)]
async fn a_reply_may_come_before_its_client() {
    let (down, mut stand, _news) = opened(Limits::default()).await;
    let (asked, to, call) = suspended(&down, &mut stand, 1).await;
    to.send(Message::result(call.id().unwrap(), br#"{"content":[]}"#)).unwrap();
    drop(to);
    let mut client = send(&down, "user:a", retry("2", &state_of(&asked), r#"{"q1":{"a":1}}"#));
    assert_eq!(value(&client.last().await)["result"]["resultType"], "complete");
    assert!(stand.is_quiet());
}

#[tokio::test(start_paused = true)]
async fn what_is_told_while_the_client_is_away_comes_when_it_is_back() {
    for is_over in [false, true] {
        let (down, mut stand, _news) = opened(Limits::default()).await;
        let (asked, to, call) = suspended(&down, &mut stand, 1).await;
        let number = text(&call).split(r#""id":"#).nth(1).and_then(|rest| rest.split(',').next()).unwrap().to_owned();
        let tell = |step: usize| {
            let params = format!(r#"{{"progressToken":{number},"progress":{step}}}"#);
            to.send(Message::notification("notifications/progress", params.as_bytes())).unwrap();
        };
        (0..20).for_each(tell);
        let reply = Message::result(call.id().unwrap(), br#"{"content":[]}"#);
        if is_over {
            to.send(reply.clone()).unwrap();
        }
        let wrong = send(&down, "user:a", retry("3", "x", r#"{"q1":{"a":1}}"#)).last().await;
        assert_eq!(code(&wrong), -32602);
        let answers = format!(
            r#","inputResponses":{{"q1":{{"a":1}}}},"requestState":"{}","arguments":{{"n":1}},"name":"t""#,
            state_of(&asked)
        );
        let meta = r#","progressToken":"again""#;
        let mut client = send(&down, "user:a", request("2", "tools/call", ALL, meta, &answers));
        if !is_over {
            tell(20);
            to.send(reply).unwrap();
        }
        // The newest of what was missed, then what comes after.
        for step in 4..if is_over { 20 } else { 21 } {
            let told = value(&client.next().await);
            assert_eq!(told["params"], json!({ "progressToken": "again", "progress": step }));
        }
        assert_eq!(value(&client.next().await)["id"], 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_come_back_ends_the_call() {
    let (down, mut stand, _news) = opened(Limits::default()).await;
    let (asked, to, call) = suspended(&down, &mut stand, 2).await;
    let started = tokio::time::Instant::now();
    let told = stand.told().await;
    assert_eq!((value(&told)["params"]["requestId"].as_u64(), started.elapsed().as_secs()), (call.id_number(), 300));
    assert_eq!(text(&stand.told().await), r#"{"jsonrpc":"2.0","id":"s0","result":{"action":"cancel"}}"#);
    assert_eq!(stand.told().await.id(), Some(&b"\"s1\""[..]));
    drop(to);
    let mut client = send(&down, "user:a", retry("2", &state_of(&asked), r#"{"q1":{}}"#));
    assert_eq!(code(&client.last().await), fault::INVALID_PARAMS);
    assert_eq!(down.0.settings.metrics.hits().get("mcp_suspended_ms_max"), Some(&1));
    assert!(down.0.suspended.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn only_what_the_client_declared_is_asked() {
    let (down, mut stand) = down(Limits::default());
    for (capabilities, method, params, is_asked) in [
        ("{}", "elicitation/create", "{}", false),
        (r#"{"elicitation":{}}"#, "elicitation/create", "{}", true),
        (r#"{"elicitation":{}}"#, "elicitation/create", r#"{"mode":"url"}"#, false),
        (r#"{"elicitation":{"url":{}}}"#, "elicitation/create", r#"{"mode":"url"}"#, true),
        (r#"{"elicitation":{}}"#, "sampling/createMessage", "{}", false),
        (r#"{"sampling":{}}"#, "sampling/createMessage", "{}", true),
        (r#"{"roots":{}}"#, "roots/list", "{}", true),
        (r#"{"roots":{}}"#, "tasks/get", "{}", false),
    ] {
        let principal = format!("user:{capabilities}{method}{params}");
        let mut client = send(&down, &principal, request("1", "tools/call", capabilities, "", ""));
        stand.open(SERVER).await;
        let (_call, to) = stand.call().await;
        to.send(Message::request(b"\"s\"", method, params.as_bytes())).unwrap();
        if is_asked {
            assert_eq!(
                value(&client.last().await)["result"]["inputRequests"]["q1"]["method"],
                method,
                "{capabilities}"
            );
        } else {
            assert_eq!(code(&stand.told().await), fault::METHOD_NOT_FOUND, "{capabilities} {method}");
        }
        drop(to);
        settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_not_be_suspended_is_not() {
    let (down, mut stand, _news) = opened(Limits::default()).await;
    let _client = send(&down, "user:a", request("1", "tools/list", ALL, "", ""));
    let (_call, to) = stand.call().await;
    to.send(ask("1", "roots/list")).unwrap();
    assert_eq!(code(&stand.told().await), fault::METHOD_NOT_FOUND);
    to.send(Message::request(b"2", "ping", b"{}")).unwrap();
    assert_eq!(text(&stand.told().await), r#"{"jsonrpc":"2.0","id":2,"result":{}}"#);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_questions_are_too_many() {
    let (down, mut stand, _news) = opened(Limits { mcp_questions_per_call_max: 5, ..Limits::default() }).await;
    let (asked, _to, _call) = suspended(&down, &mut stand, 100).await;
    for _ in 5..100 {
        assert_eq!(code(&stand.told().await), fault::INTERNAL);
    }
    let mut client = send(&down, "user:a", retry("2", &state_of(&asked), "{}"));
    let asked = value(&client.last().await);
    assert_eq!(asked["result"]["inputRequests"].as_object().unwrap().len(), 5);
    assert!(stand.is_quiet());
}

#[tokio::test(start_paused = true)]
async fn too_many_suspended_calls_are_refused() {
    let (down, mut stand, _news) = opened(Limits { mcp_suspended_calls_max: 2, ..Limits::default() }).await;
    let mut ways = Vec::new();
    for expected in [None, None, Some(fault::OVERLOADED)] {
        let (reply, to, _call) = suspended(&down, &mut stand, 1).await;
        assert_eq!(reply["error"]["code"].as_i64(), expected);
        ways.push(to);
    }
    assert_eq!(stand.told().await.method(), Some("notifications/cancelled"));
    assert_eq!(stand.told().await.id(), Some(&b"\"s0\""[..]));
    assert_eq!(down.0.suspended.lock().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_question_outside_of_a_call_goes_to_the_only_one() {
    let (down, mut stand, news) = opened(Limits::default()).await;
    news.send(ask("1", "roots/list")).unwrap();
    assert_eq!(code(&stand.told().await), fault::INTERNAL, "no call");
    let mut client = send(&down, "user:a", tool("1", ""));
    let (_, _to) = stand.call().await;
    let _other = send(&down, "user:a", request("1", "tools/list", ALL, "", ""));
    let (_, _list) = stand.call().await;
    news.send(ask("2", "roots/list")).unwrap();
    assert_eq!(value(&client.last().await)["result"]["inputRequests"]["q1"]["method"], "roots/list");
    let _second = send(&down, "user:a", tool("2", ""));
    let (_, _second_to) = stand.call().await;
    news.send(ask("3", "roots/list")).unwrap();
    assert_eq!(code(&stand.told().await), fault::INTERNAL, "two calls: no guess");
    news.send(Message::request(b"4", "ping", b"{}")).unwrap();
    assert_eq!(text(&stand.told().await), r#"{"jsonrpc":"2.0","id":4,"result":{}}"#);
}

#[tokio::test(start_paused = true)]
async fn addresses_to_open_are_a_question() {
    let (down, mut stand, _news) = opened(Limits::default()).await;
    let failed = r#"{"code":-32042,"message":"open it","data":{"elicitations":[{"mode":"url","url":"https://a","message":"m","elicitationId":"e"}]}}"#;
    let mut client = send(&down, "user:a", tool("1", ""));
    let (call, to) = stand.call().await;
    to.send(message(&format!(r#"{{"jsonrpc":"2.0","id":{},"error":{failed}}}"#, call.id_number().unwrap()))).unwrap();
    let asked = value(&client.last().await);
    assert_eq!(asked["result"]["inputRequests"]["q1"]["params"]["url"], "https://a");
    // The retry is a call of its own, without what belongs to the retry.
    let mut client = send(&down, "user:a", retry("2", &state_of(&asked), r#"{"q1":{"action":"accept"}}"#));
    let (call, to) = stand.call().await;
    assert_eq!(value(&call)["params"], json!({ "name": "t", "arguments": { "n": 1 } }));
    to.send(Message::result(call.id().unwrap(), b"{}")).unwrap();
    assert!(!client.last().await.is_error());

    let mut client = send(&down, "user:b", request("1", "tools/call", "{}", "", ""));
    stand.open(SERVER).await;
    let (call, to) = stand.call().await;
    to.send(message(&format!(r#"{{"jsonrpc":"2.0","id":{},"error":{failed}}}"#, call.id_number().unwrap()))).unwrap();
    let error = value(&client.last().await)["error"].clone();
    assert_eq!(
        (error["code"].as_i64(), &error["data"]),
        (Some(fault::MISSING_CAPABILITY), &json!({ "requiredCapabilities": { "elicitation": { "url": {} } } }))
    );
}

#[tokio::test(start_paused = true)]
async fn log_messages_come_to_who_wants_them() {
    let (down, mut stand, news) = opened(Limits::default()).await;
    let log = |level: &str| {
        message(&format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"{level}","data":1}}}}"#
        ))
    };
    let mut silent = send(&down, "user:a", tool("1", ""));
    let (_, silent_to) = stand.call().await;
    let meta = r#","io.modelcontextprotocol/logLevel":"warning""#;
    let mut client = send(&down, "user:a", request("2", "tools/call", ALL, meta, ""));
    let (call, _) = stand.call().await;
    assert_eq!(
        (call.method(), value(&call)["params"].clone()),
        (Some("logging/setLevel"), json!({ "level": "warning" }))
    );
    let (_, to) = stand.call().await;
    silent_to.send(log("error")).unwrap();
    to.send(log("info")).unwrap();
    to.send(log("warning")).unwrap();
    news.send(log("emergency")).unwrap();
    assert_eq!(client.next().await.text_at(&["level"]).unwrap().unwrap(), "warning");
    assert_eq!(client.next().await.text_at(&["level"]).unwrap().unwrap(), "emergency");
    assert!(silent.is_quiet());
    // The least level counts, and is told once.
    let _third = send(&down, "user:a", request("3", "tools/call", ALL, meta, ""));
    assert_eq!(stand.call().await.0.method(), Some("tools/call"));
    let _fourth =
        send(&down, "user:a", request("4", "tools/call", ALL, r#","io.modelcontextprotocol/logLevel":"debug""#, ""));
    assert_eq!(value(&stand.call().await.0)["params"]["level"], "debug");
}

fn listen(down: &Down, id: &str, filter: &str) -> Client {
    send(down, "user:a", request(id, "subscriptions/listen", ALL, "", &format!(r#","notifications":{filter}"#)))
}

fn notice(uri: &str) -> Message {
    message(&format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"x":9007199254740993,"uri":"{uri}"}}}}"#
    ))
}

#[tokio::test(start_paused = true)]
async fn listening_is_subscribing_once_for_all() {
    let (down, mut stand, news) = opened(Limits::default()).await;
    let wants = r#"{"toolsListChanged":true,"promptsListChanged":true,"resourceSubscriptions":["a:/1","a:/1","a:/2"]}"#;
    let mut first = listen(&down, "\"l\"", wants);
    let (subscribe_1, to_1) = stand.call().await;
    let (subscribe_2, to_2) = stand.call().await;
    assert_eq!(value(&subscribe_1)["params"], json!({ "uri": "a:/1" }));
    news.send(notice("a:/1")).unwrap();
    news.send(notice("a:/1")).unwrap();
    settle().await;
    assert!(first.is_quiet(), "nothing before the acknowledgement");
    to_1.send(Message::result(subscribe_1.id().unwrap(), b"{}")).unwrap();
    to_2.send(Message::error(subscribe_2.id(), -32_002, "no", None)).unwrap();
    // Prompts do not change there, and the second resource is not told about.
    assert_eq!(
        text(&first.next().await),
        r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"l"},"notifications":{"toolsListChanged":true,"resourceSubscriptions":["a:/1"]}}}"#
    );
    let updated = r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"x":9007199254740993,"uri":"a:/1","_meta":{"io.modelcontextprotocol/subscriptionId":"l"}}}"#;
    assert_eq!(text(&first.next().await), updated);
    assert!(first.is_quiet(), "told once what changed twice before");

    let mut second =
        listen(&down, "9007199254740993", r#"{"resourcesListChanged":true,"resourceSubscriptions":["a:/1"]}"#);
    assert_eq!(second.next().await.method(), Some("notifications/subscriptions/acknowledged"));
    assert!(stand.is_quiet(), "the server is asked once");
    news.send(message(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#)).unwrap();
    news.send(notice("a:/1/part")).unwrap();
    news.send(notice("a:/10")).unwrap();
    assert_eq!(
        text(&first.next().await),
        r#"{"params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"l"}},"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#
    );
    for client in [&mut first, &mut second] {
        assert_eq!(client.next().await.text_at(&["uri"]).unwrap().unwrap(), "a:/1/part");
    }
    settle().await;
    assert!(first.is_quiet() && second.is_quiet());

    drop(first);
    settle().await;
    assert!(stand.is_quiet(), "somebody still listens");
    drop(second);
    let (unsubscribe, _) = stand.call().await;
    assert_eq!(
        (unsubscribe.method(), value(&unsubscribe)["params"]["uri"].as_str()),
        (Some("resources/unsubscribe"), Some("a:/1"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_notice_that_comes_with_a_call_is_for_who_listens() {
    let (down, mut stand, _news) = opened(Limits::default()).await;
    let mut listener = listen(&down, "1", r#"{"toolsListChanged":true}"#);
    listener.next().await;
    let mut client = send(&down, "user:a", tool("2", ""));
    let (_, to) = stand.call().await;
    to.send(message(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{}}"#)).unwrap();
    to.send(message(r#"{"jsonrpc":"2.0","method":"notifications/x"}"#)).unwrap();
    assert_eq!(listener.next().await.method(), Some("notifications/tools/list_changed"));
    assert_eq!(client.next().await.method(), Some("notifications/x"), "what we do not know passes");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_session_ends_its_streams_and_the_next_request_opens_another() {
    let (down, mut stand) = down(Limits::default());
    let mut listener = listen(&down, "\"l\"", r#"{"toolsListChanged":true}"#);
    let (_, _news, end) = stand.open(SERVER).await;
    listener.next().await;
    end.notify_one();
    let last = value(&listener.last().await);
    assert_eq!((&last["id"], &last["result"]["resultType"]), (&json!("l"), &json!("complete")));
    assert_eq!(last["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "l");
    assert!(matches!(stand.next().await, Event::Closed));
    let _client = send(&down, "user:a", tool("1", ""));
    stand.open(SERVER).await;
}

#[tokio::test(start_paused = true)]
async fn streams_are_limited() {
    let (down, mut stand, _news) =
        opened(Limits { mcp_streams_per_principal_max: 2, mcp_subscriptions_per_stream_max: 1, ..Limits::default() })
            .await;
    let mut open = [listen(&down, "1", "{}"), listen(&down, "2", "{}")];
    for client in &mut open {
        client.next().await;
    }
    assert_eq!(code(&listen(&down, "3", "{}").last().await), fault::OVERLOADED);
    for nonsense in ["7", "[]", r#"{"resourceSubscriptions":7}"#, r#"{"resourceSubscriptions":[7]}"#] {
        assert_eq!(code(&listen(&down, "3", nonsense).last().await), fault::INVALID_PARAMS, "{nonsense}");
    }
    let [first, _second] = open;
    drop(first);
    let mut third = listen(&down, "3", r#"{"resourceSubscriptions":["a","b"]}"#);
    let (subscribe, to) = stand.call().await;
    to.send(Message::result(subscribe.id().unwrap(), b"{}")).unwrap();
    assert_eq!(value(&third.next().await)["params"]["notifications"], json!({ "resourceSubscriptions": ["a"] }));
    assert!(stand.is_quiet());
}

#[tokio::test(start_paused = true)]
async fn sessions_of_a_principal_are_limited_and_idle_ones_make_room() {
    let (down, mut stand) = down(Limits { mcp_children_per_principal_max: 2, ..Limits::default() });
    let mut ways = Vec::new();
    let mut clients = Vec::new();
    for kind in ["1", "2"] {
        clients.push(send(
            &down,
            "user:a",
            request("1", "tools/call", &format!(r#"{{"experimental":{{"k":{kind}}}}}"#), "", ""),
        ));
        stand.open(SERVER).await;
        ways.push(stand.call().await);
    }
    let mut refused = send(&down, "user:a", tool("1", ""));
    assert_eq!(code(&refused.last().await), fault::OVERLOADED);
    let _other = send(&down, "user:b", tool("1", ""));
    stand.open(SERVER).await;
    stand.call().await;
    let (call, to) = ways.remove(0);
    to.send(Message::result(call.id().unwrap(), b"{}")).unwrap();
    let _third = send(&down, "user:a", tool("1", ""));
    let (mut closed, mut opened) = (false, false);
    while !(closed && opened) {
        match stand.next().await {
            Event::Closed => closed = true,
            Event::Open { .. } => opened = true,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_bridge_that_goes_leaves_nobody_waiting() {
    let (down, mut stand, _news) = opened(Limits::default()).await;
    let mut client = send(&down, "user:a", tool("1", ""));
    let mut listener = listen(&down, "2", r#"{"toolsListChanged":true}"#);
    listener.next().await;
    let (_, to) = stand.call().await;
    drop(down);
    assert!(!listener.last().await.is_error());
    assert!(matches!(stand.next().await, Event::Closed));
    drop(to);
    assert_eq!(code(&client.last().await), fault::UPSTREAM_DIED);
}
