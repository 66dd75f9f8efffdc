//! One process for all legacy sessions.

use std::time::Duration;

use serde_json::json;
use standpipe_mcp::upstream::child::ChildSpec;

use crate::support::{Client, Stand, code, fixture, next, parsed, reply, shared, soon, text, until};

const MS: Duration = Duration::from_millis(1);

#[tokio::test]
async fn all_sessions_have_one_process_and_one_handshake() {
    let stand = Stand::new();
    let server = stand.children.server(shared(&[]));
    let mut clients = Vec::new();
    for number in 0..10 {
        clients.push(Client::open(&server, &format!("p{number}")).await);
    }
    let pid = clients[0].pid().await;
    let mut calls = Vec::new();
    for _ in 0..10 {
        calls.extend(clients.iter_mut().map(|client| client.start("pid", json!({}))));
    }
    for inlet in &mut calls {
        assert_eq!(text(&reply(inlet).await.0), pid.to_string());
    }
    let counts = parsed(&clients[0].call("counts", json!({})).await);
    assert_eq!((&counts["initialize"], &counts["calls"]), (&json!(1), &json!(102)));
    clients[0].sees("initialized", json!(1)).await;
    assert_eq!((server.status().pids, server.status().sessions), (vec![pid], 10));
    drop(clients);
    assert_eq!(server.status().sessions, 0);
    let mut again = Client::open(&server, "p").await;
    assert_eq!(again.pid().await, pid);
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn each_client_gets_a_version_it_knows() {
    let stand = Stand::new();
    let server = stand.children.server(shared(&[]));
    let hello = async |version: &str| {
        let params =
            json!({"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
        Client::open_as(&server, "p", params).await.hello["result"]["protocolVersion"].clone()
    };
    assert_eq!(hello("2025-03-26").await, "2025-03-26");
    assert_eq!(hello("2025-11-25").await, "2025-11-25");
    assert_eq!(hello("2024-11-05").await, "2024-11-05");
    assert_eq!(hello("1999-01-01").await, "2025-11-25");
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn a_handshake_that_is_refused_is_no_session() {
    let stand = Stand::new();
    let server = stand.children.server(shared(&[]));
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "unwanted", "version": "1"}});
    let unwanted = Client::open_as(&server, "p", params).await;
    assert_eq!(code(&unwanted.hello), -32_602);
    unwanted.ended().await;
    drop(unwanted);
    assert!(Client::open(&server, "p").await.hello.get("result").is_some());
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn sessions_live_longer_than_their_process() {
    let stand = Stand::new();
    let server = stand.children.server(shared(&[]));
    let (mut a, mut b) = (Client::open(&server, "p").await, Client::open(&server, "q").await);
    assert_eq!(a.request("resources/subscribe", json!({"uri": "x:1"})).await["result"], json!({}));
    a.request("logging/setLevel", json!({"level": "error"})).await;
    let pid = a.pid().await;
    let mut slow = b.start("sleep", json!({"ms": 60_000}));
    assert_eq!(code(&a.call("die", json!({})).await), 5_020);
    assert_eq!(code(&reply(&mut slow).await.0), 5_020);
    let again = b.pid().await;
    assert_ne!(again, pid);
    // What sessions had asked for is asked for again.
    b.sees("subscribed", json!(["+x:1"])).await;
    b.sees("levels", json!(["error"])).await;
    b.call("touch", json!({"uri": "x:1"})).await;
    assert_eq!(next(&mut a.news).await["params"]["uri"], "x:1");
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn a_call_that_was_not_written_goes_to_the_next_process() {
    let stand = Stand::new();
    let server = stand.children.server(shared(&[]));
    let mut client = Client::open(&server, "p").await;
    let pid = client.pid().await;
    assert_eq!(code(&client.call("die", json!({})).await), 5_020);
    // The next process is not there yet: these wait for it.
    let mut calls: Vec<_> = (0..20).map(|_| client.start("pid", json!({}))).collect();
    for inlet in &mut calls {
        let (reply, _) = reply(inlet).await;
        assert_ne!(text(&reply), pid.to_string());
    }
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn a_process_that_ends_too_often_is_not_started_for_a_while() {
    let stand = Stand::new();
    let server = stand.children.server(shared(&["--crash"]));
    let client = Client::open(&server, "p").await;
    assert_eq!(code(&client.hello), 5_021);
    let data = &client.hello["error"]["data"];
    assert_eq!((&data["exit_code"], &data["stderr"]), (&json!(7), &json!("no configuration")));
    assert!(data["retry_after_ms"].as_u64().unwrap() > 25_000, "{data}");
    client.ended().await;
    assert_eq!((server.status().starts, server.status().state), (6, "failed"));
    let again = Client::open(&server, "p").await;
    assert_eq!((code(&again.hello), server.status().starts), (5_021, 6), "it is not even tried");
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn what_can_not_start_is_not_tried_again_for_who_waits() {
    let stand = Stand::new();
    let none = ChildSpec { argv: vec!["/no/such/program".to_owned()], ..shared(&[]) };
    let server = stand.children.server(none);
    let client = Client::open(&server, "p").await;
    assert_eq!(code(&client.hello), 5_021);
    assert!(client.hello["error"]["message"].as_str().unwrap().contains("/no/such/program"));
    let mut mute = shared(&["--mute"]);
    mute.limits.start = 500 * MS;
    let server = stand.children.server(mute);
    let client = Client::open(&server, "p").await;
    assert_eq!((code(&client.hello), stand.hits("mcp_start_ms_max")), (5_021, 1));
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn who_is_asked_must_be_clear_and_able() {
    let stand = Stand::new();
    let server = stand.children.server(shared(&[]));
    let mut able = Client::open_with(&server, "p", json!({"sampling": {}})).await;
    let mut unable = Client::open(&server, "q").await;
    let ask = json!({"id": 1, "method": "sampling/createMessage"});
    // The one whose call is running.
    let mut inlet = able.start("ask", ask.clone());
    let asked = next(&mut inlet).await;
    able.tell(json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"text": "hi"}}));
    assert_eq!(parsed(&reply(&mut inlet).await.0), json!({"result": {"text": "hi"}}));
    // It can't be asked that.
    let refused = parsed(&unable.call("ask", ask.clone()).await);
    assert_eq!(refused["error"]["code"], -32_601);
    // It is not clear which.
    let mut slow = unable.start("sleep", json!({"ms": 1_000}));
    let refused = parsed(&able.call("ask", ask).await);
    assert_eq!(refused["error"]["code"], -32_603);
    reply(&mut slow).await;
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn an_open_question_ends_with_its_call() {
    let stand = Stand::new();
    let mut spec = shared(&[]);
    (spec.limits.call, spec.limits.call_total, spec.limits.suspended) = (400 * MS, 800 * MS, 1_200 * MS);
    let server = stand.children.server(spec);
    let mut client = Client::open_with(&server, "p", json!({"elicitation": {}})).await;
    let mut inlet = client.start("ask", json!({"id": 1, "method": "elicitation/create"}));
    let asked = next(&mut inlet).await;
    // While the client is thinking, time does not count against the server, but there is an end to it.
    let (late, _) = reply(&mut inlet).await;
    assert_eq!((code(&late), stand.hits("mcp_suspended_ms_max")), (5_040, 1));
    client.tell(json!({"jsonrpc": "2.0", "id": asked["id"], "result": {}}));
    client.pid().await;
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn news_go_to_who_has_asked_for_them() {
    let stand = Stand::new();
    let mut spec = shared(&[]);
    spec.limits.subscriptions_per_stream = 2;
    let server = stand.children.server(spec);
    let (mut a, mut b) = (Client::open(&server, "p").await, Client::open(&server, "q").await);
    let uri = |uri: &str| json!({ "uri": uri });
    a.request("resources/subscribe", uri("x:1")).await;
    b.request("resources/subscribe", uri("x:1")).await;
    b.request("resources/subscribe", uri("x:2")).await;
    assert_eq!(code(&b.request("resources/subscribe", uri("x:3")).await), -32_602, "too many");
    assert_eq!(code(&a.request("resources/subscribe", uri("no:such")).await), -32_602, "the process says no");
    a.call("touch", uri("x:2")).await;
    assert_eq!(next(&mut b.news).await["params"]["uri"], "x:2");
    a.call("touch", uri("x:1")).await;
    assert_eq!(next(&mut a.news).await["params"]["uri"], "x:1");
    assert_eq!(next(&mut b.news).await["params"]["uri"], "x:1");
    a.request("resources/unsubscribe", uri("x:1")).await;
    a.call("touch", uri("x:1")).await;
    assert_eq!(next(&mut b.news).await["params"]["uri"], "x:1");
    drop(b);
    a.sees("subscribed", json!(["+x:1", "+x:2", "-x:1", "-x:2"])).await;
    a.call("change", json!({})).await;
    assert_eq!(next(&mut a.news).await["method"], "notifications/tools/list_changed");
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn logs_go_to_nobody_else() {
    let stand = Stand::new();
    let server = stand.children.server(shared(&[]));
    let (mut a, mut b) = (Client::open(&server, "p").await, Client::open(&server, "q").await);
    b.request("logging/setLevel", json!({"level": "debug"})).await;
    a.request("logging/setLevel", json!({"level": "error"})).await;
    let logs = async |client: &mut Client, level: &str| {
        let mut inlet = client.start("log", json!({"level": level, "data": 1}));
        reply(&mut inlet).await.1.len()
    };
    assert_eq!((logs(&mut a, "info").await, logs(&mut a, "alert").await, logs(&mut b, "info").await), (0, 1, 1));
    a.sees("levels", json!(["debug", "debug"])).await;
    assert!(b.news.try_next().is_none() && a.news.try_next().is_none());
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn a_principal_that_calls_much_does_not_keep_others_waiting() {
    let stand = Stand::new();
    let mut spec = shared(&[]);
    (spec.limits.calls_per_child, spec.limits.calls_per_principal) = (4, 2);
    let server = stand.children.server(spec);
    let (mut greedy, mut modest) = (Client::open(&server, "p").await, Client::open(&server, "q").await);
    let mut many: Vec<_> = (0..12).map(|_| greedy.start("sleep", json!({"ms": 400}))).collect();
    modest.pid().await;
    assert!(server.status().queued >= 6, "the others still wait");
    for inlet in &mut many {
        assert_eq!(text(&reply(inlet).await.0), "slept");
    }
    assert_eq!((server.status().calls, server.status().queued), (0, 0));
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn a_session_that_ends_takes_its_calls_with_it() {
    let stand = Stand::new();
    let server = stand.children.server(shared(&[]));
    let (mut a, mut b) = (Client::open(&server, "p").await, Client::open(&server, "q").await);
    let mut slow = a.start("sleep", json!({"ms": 60_000}));
    until("the call", || server.status().calls == 1).await;
    drop(a);
    assert!(soon("its end", slow.next()).await.is_none());
    until("its place", || server.status().calls == 0).await;
    // It was the first but for our own `initialize`.
    b.sees("cancelled", json!([2])).await;
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn a_process_that_nobody_needs_is_ended() {
    let stand = Stand::new();
    let mut spec = shared(&[]);
    spec.limits.idle = 300 * MS;
    let server = stand.children.server(spec);
    let mut client = Client::open(&server, "p").await;
    let pid = client.pid().await;
    tokio::time::sleep(700 * MS).await;
    assert_eq!(client.pid().await, pid, "a session needs it");
    drop(client);
    until("its end", || server.status().pids.is_empty()).await;
    assert_eq!(server.status().losses, 0);
    let mut client = Client::open(&server, "p").await;
    assert_ne!(client.pid().await, pid);
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn many_servers_end_at_the_same_time() {
    let stand = Stand::new();
    let servers: Vec<_> = (0..4).map(|_| stand.children.server(fixture(&["--ignore-eof", "--ignore-term"]))).collect();
    let mut clients = Vec::new();
    for server in &servers {
        let mut client = Client::open(server, "p").await;
        client.pid().await;
        clients.push(client);
    }
    let begun = tokio::time::Instant::now();
    let all: Vec<_> = servers.iter().map(|server| &**server).collect();
    stand.close(&all).await;
    assert!(begun.elapsed() < 5_000 * MS, "{:?}", begun.elapsed());
}
