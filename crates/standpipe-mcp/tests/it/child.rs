//! A process of its own for each legacy session.

use std::time::Duration;

use serde_json::{Value, json};
use standpipe_mcp::upstream::EraChoice;
use standpipe_mcp::upstream::child::ChildSpec;
use standpipe_serve::Limits;
use tokio::time::Instant;

use crate::support::{Client, Stand, code, fixture, is_there, message, next, parsed, reply, soon, text, tool, until};

const MS: Duration = Duration::from_millis(1);

#[tokio::test]
async fn a_session_has_a_process_that_ends_with_it() {
    let stand = Stand::new();
    let server = stand.children.server(fixture(&[]));
    let (mut a, mut b) = (Client::open(&server, "p").await, Client::open(&server, "p").await);
    let (pid_a, pid_b) = (a.pid().await, b.pid().await);
    assert_ne!(pid_a, pid_b);
    assert_eq!(a.hello["result"]["asked"]["protocolVersion"], "2025-06-18", "`initialize` goes through as it is");
    let mut pids = server.status().pids;
    pids.sort_unstable();
    assert_eq!(pids, [pid_a.min(pid_b), pid_a.max(pid_b)]);
    drop(a);
    until("its end", || !is_there(pid_a)).await;
    assert!(is_there(pid_b));
    assert_eq!(b.pid().await, pid_b);
    stand.close(&[&server]).await;
    b.ended().await;
    assert!(!is_there(pid_b));
}

#[tokio::test]
async fn what_is_not_understood_goes_through_as_it_came() {
    let stand = Stand::new();
    let server = stand.children.server(fixture(&[]));
    let client = Client::open(&server, "p").await;
    let check = |id: &'static str, between: &'static str| {
        let json = format!(
            r#"{{"x-new":{{"b":1,"a":9007199254740993}},"method":"tools/call","params":{{"z":1.0,"name":"raw","_meta":{{"q":1e400,"progressToken":{id}}},"a":[]}},"id":{id},"jsonrpc":"2.0"{between}}}"#
        );
        let client = &client;
        async move {
            let (reply, _) = reply(&mut client.send(message(&json))).await;
            let got = text(&reply).to_owned();
            assert_eq!(reply["id"], serde_json::from_str::<Value>(id).unwrap());
            let ours = got.rsplit("\"id\":").next().unwrap().split([',', '}']).next().unwrap().to_owned();
            let expected = json
                .replace(&format!("\"id\":{id}"), &format!("\"id\":{ours}"))
                .replace(&format!("\"progressToken\":{id}"), &format!("\"progressToken\":{ours}"))
                .replace(['\n', '\r'], " ");
            assert_eq!(got, expected);
        }
    };
    check("1", "").await;
    check("\"1\"", "").await;
    check("9007199254740993", "\r\n").await;
    check("\"a\\u0062/\\\"\"", "\n\n ").await;
    check("-7", "").await;
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn a_process_sees_its_own_environment_only() {
    let stand = Stand::new();
    let server = stand.children.server(fixture(&[]));
    let env = parsed(&Client::open(&server, "p").await.call("env", json!({})).await);
    assert_eq!(env["CONFIGURED"], "yes");
    assert_eq!(env["PATH"], std::env::var("PATH").unwrap());
    // Cargo gives it to us.
    assert!(std::env::var("CARGO_MANIFEST_DIR").is_ok() && env.get("CARGO_MANIFEST_DIR").is_none());
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn who_waits_for_a_process_that_dies_is_told_at_once() {
    let stand = Stand::new();
    let server = stand.children.server(fixture(&[]));
    let mut client = Client::open(&server, "p").await;
    let (mut slow, mut fatal) = (client.start("sleep", json!({"ms": 60_000})), client.start("die", json!({})));
    for inlet in [&mut slow, &mut fatal] {
        let (reply, _) = reply(inlet).await;
        assert_eq!(code(&reply), 5_020);
        let data = &reply["error"]["data"];
        assert_eq!((&data["exit_code"], &data["stderr"]), (&json!(3), &json!("about to die")));
    }
    client.ended().await;
    assert_eq!(code(&client.call("pid", json!({})).await), 5_020);
    let mut other = Client::open(&server, "p").await;
    other.pid().await;
    assert_eq!(server.status().losses, 1);
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn last_words_are_heard_and_half_ones_are_not() {
    let stand = Stand::new();
    let server = stand.children.server(fixture(&[]));
    let mut client = Client::open(&server, "p").await;
    assert_eq!(text(&client.call("last_words", json!({})).await), "bye");
    client.ended().await;
    let mut client = Client::open(&server, "p").await;
    assert_eq!(code(&client.call("half", json!({})).await), 5_020);
    let mut client = Client::open(&server, "p").await;
    assert_eq!(code(&client.call("close_output", json!({})).await), 5_020);
    client.ended().await;
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn a_call_that_hangs_is_given_up_and_cancelled() {
    let stand = Stand::new();
    let mut spec = fixture(&[]);
    (spec.limits.call, spec.limits.call_total) = (400 * MS, 10_000 * MS);
    let server = stand.children.server(spec);
    let mut client = Client::open(&server, "p").await;
    let begun = Instant::now();
    let reply = client.call("sleep", json!({"ms": 800})).await;
    assert_eq!(code(&reply), 5_040);
    assert!(begun.elapsed() >= 400 * MS);
    let dropped = server.status().dropped;
    // `initialize` was 1, so the call was 2.
    client.sees("cancelled", json!([2])).await;
    until("its late reply", || server.status().dropped > dropped).await;
    assert_eq!(stand.hits("mcp_call_ms_max"), 1);
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn progress_gives_a_call_more_time_but_not_for_ever() {
    let stand = Stand::new();
    let mut spec = fixture(&[]);
    (spec.limits.call, spec.limits.call_total) = (1_000 * MS, 3_000 * MS);
    let server = stand.children.server(spec);
    let client = Client::open(&server, "p").await;
    let progress =
        |id: &str, steps: u32| tool(&json!(id), "progress", json!({"steps": steps, "ms": 200}), Some(json!("t")));
    let (ended, before) = reply(&mut client.send(progress("short", 8))).await;
    assert_eq!(text(&ended), "done");
    let steps: Vec<_> =
        before.iter().map(|note| (&note["params"]["progressToken"], &note["params"]["progress"])).collect();
    assert_eq!(steps.len(), 8);
    assert!(steps.iter().enumerate().all(|(at, step)| *step == (&json!("t"), &json!(at))), "{steps:?}");
    let (ended, _) = reply(&mut client.send(progress("long", 1_000))).await;
    assert_eq!((code(&ended), stand.hits("mcp_call_total_ms_max")), (5_040, 1));
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn errors_may_be_flooded_and_output_may_be_garbage() {
    let stand = Stand::new();
    let server = stand.children.server(fixture(&[]));
    let mut client = Client::open(&server, "p").await;
    assert_eq!(text(&client.call("flood", json!({"lines": 20_000})).await), "flooded");
    assert_eq!(text(&client.call("garbage", json!({})).await), "garbage sent");
    let status = server.status();
    assert_eq!((status.skipped, status.dropped), (6, 1));
    assert!(status.stderr.unwrap().len() <= 64 << 10);
    client.pid().await;
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn a_message_that_is_too_long_ends_its_process() {
    let stand = Stand::new();
    let mut spec = fixture(&[]);
    spec.limits.message_bytes = 200_000;
    let server = stand.children.server(spec);
    let mut client = Client::open(&server, "p").await;
    assert_eq!(text(&client.call("long", json!({"bytes": 190_000})).await).len(), 190_000);
    let mut other = client.start("sleep", json!({"ms": 60_000}));
    let long = client.call("long", json!({"bytes": 5_000_000})).await;
    assert_eq!(code(&long), 5_020);
    assert!(long["error"]["message"].as_str().unwrap().contains("mcp_message_bytes_max"));
    assert_eq!(code(&reply(&mut other).await.0), 5_020);
    client.ended().await;
    assert_eq!(stand.hits("mcp_message_bytes_max"), 1);
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn a_process_that_does_not_start_is_given_up() {
    let stand = Stand::new();
    let check = |spec: ChildSpec, expected: &'static str| {
        let server = stand.children.server(spec);
        async move {
            let client = Client::open(&server, "p").await;
            assert_eq!(code(&client.hello), 5_021);
            let message = client.hello["error"]["message"].as_str().unwrap();
            assert!(message.contains(expected), "{message}");
            client.ended().await;
            until("its end", || server.status().pids.is_empty()).await;
        }
    };
    let mut mute = fixture(&["--mute"]);
    mute.limits.start = 700 * MS;
    check(mute, "mcp_start_ms_max").await;
    check(fixture(&["--crash"]), "no configuration").await;
    let none = ChildSpec { argv: vec!["/no/such/program".to_owned()], ..fixture(&[]) };
    check(none, "/no/such/program").await;
    stand.close(&[]).await;
}

#[tokio::test]
async fn what_came_of_a_process_ends_with_it() {
    let stand = Stand::new();
    let server = stand.children.server(fixture(&[]));
    let grandchild = async |client: &mut Client, holds: bool| -> u32 {
        text(&client.call("grandchild", json!({"holds": holds})).await).parse().unwrap()
    };
    // It is ended with its session.
    let mut client = Client::open(&server, "p").await;
    let escaped = grandchild(&mut client, false).await;
    assert!(is_there(escaped));
    drop(client);
    until("the grandchild's end", || !is_there(escaped)).await;
    // It dies, and a grandchild holds its output.
    let mut client = Client::open(&server, "p").await;
    let escaped = grandchild(&mut client, true).await;
    assert_eq!(code(&client.call("die", json!({})).await), 5_020);
    client.ended().await;
    until("the grandchild's end", || !is_there(escaped)).await;
    // The gateway stops.
    let mut client = Client::open(&server, "p").await;
    let escaped = grandchild(&mut client, true).await;
    stand.close(&[&server]).await;
    assert!(!is_there(escaped));
}

#[tokio::test]
async fn a_process_that_does_not_read_is_ended() {
    let stand = Stand::new();
    let mut spec = fixture(&["--deaf"]);
    spec.limits.stdin_progress = 500 * MS;
    let server = stand.children.server(spec);
    let mut client = Client::open(&server, "p").await;
    let padding = "x".repeat(300_000);
    let mut calls: Vec<_> = (0..3).map(|_| client.start("pid", json!({ "padding": padding }))).collect();
    for inlet in &mut calls {
        let (reply, _) = reply(inlet).await;
        assert_eq!(code(&reply), 5_020);
        assert!(reply["error"]["message"].as_str().unwrap().contains("mcp_stdin_progress_ms_max"));
    }
    client.ended().await;
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn a_process_that_heeds_nothing_is_killed() {
    let stand = Stand::new();
    let server = stand.children.server(fixture(&["--ignore-eof", "--ignore-term"]));
    let mut client = Client::open(&server, "p").await;
    let pid = client.pid().await;
    let begun = Instant::now();
    drop(client);
    until("its end", || !is_there(pid)).await;
    assert!(begun.elapsed() >= 600 * MS, "it is given time twice");
    assert_eq!(stand.hits("mcp_grace_ms"), 1);
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn a_call_is_cancelled_by_its_client() {
    let stand = Stand::new();
    let server = stand.children.server(fixture(&[]));
    let mut client = Client::open(&server, "p").await;
    let mut slow = client.send(tool(&json!("a\u{e9}"), "sleep", json!({"ms": 60_000}), None));
    client.tell(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "none"}}));
    let cancel =
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"\u0061é","reason":"x"}}"#;
    client.conversation.tell(&client.caller, message(cancel));
    assert!(soon("its end", slow.next()).await.is_none(), "no reply");
    client.sees("cancelled", json!([2])).await;
    assert_eq!(server.status().calls, 0);
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn a_process_asks_the_client_whose_call_is_running() {
    let stand = Stand::new();
    let server = stand.children.server(fixture(&[]));
    let mut client = Client::open(&server, "p").await;
    let mut inlet =
        client.start("ask", json!({"id": "q\u{fc}", "method": "sampling/createMessage", "params": {"n": 1}}));
    let asked = next(&mut inlet).await;
    assert_eq!((&asked["method"], &asked["params"]), (&json!("sampling/createMessage"), &json!({"n": 1})));
    // Who was not asked does not answer.
    let stranger = Client::open(&server, "p").await;
    stranger.tell(json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"forged": true}}));
    client.tell(json!({"jsonrpc": "2.0", "id": 12_345, "result": {"never": "asked"}}));
    client.tell(json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"big": 9_007_199_254_740_993_u64}}));
    client.tell(json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"twice": true}}));
    let (answered, _) = reply(&mut inlet).await;
    assert_eq!(parsed(&answered), json!({"result": {"big": 9_007_199_254_740_993_u64}}));
    // Two calls run: it is the session that is asked.
    let (mut a, mut b) =
        (client.start("sleep", json!({"ms": 1_500})), client.start("ask", json!({"id": 7, "method": "roots/list"})));
    let asked = next(&mut client.news).await;
    client.tell(json!({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -1, "message": "no"}}));
    assert_eq!(parsed(&reply(&mut b).await.0), json!({"error": {"code": -1, "message": "no"}}));
    reply(&mut a).await;
    // We answer that we are there.
    assert_eq!(parsed(&client.call("ask", json!({"id": 8, "method": "ping"})).await), json!({"result": {}}));
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn logs_go_with_the_running_call_and_changes_to_the_session() {
    let stand = Stand::new();
    let server = stand.children.server(fixture(&[]));
    let mut client = Client::open(&server, "p").await;
    let mut inlet = client.start("log", json!({"level": "info", "data": "hi"}));
    let (_, before) = reply(&mut inlet).await;
    assert_eq!(before[0]["params"]["data"], "hi");
    client.call("change", json!({})).await;
    assert_eq!(next(&mut client.news).await["method"], "notifications/tools/list_changed");
    client.call("touch", json!({"uri": "a:b"})).await;
    assert_eq!(next(&mut client.news).await["params"]["uri"], "a:b");
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn there_is_an_end_to_processes() {
    let limits = Limits { mcp_children_max: 3, mcp_children_per_principal_max: 2, ..Limits::default() };
    let stand = Stand::with(limits);
    let server = stand.children.server(fixture(&[]));
    let mut clients = vec![Client::open(&server, "p").await, Client::open(&server, "p").await];
    let refused = Client::open(&server, "p").await;
    assert_eq!(code(&refused.hello), 5_030);
    assert_eq!(refused.hello["error"]["data"]["retry_after_ms"], 1_000);
    refused.ended().await;
    clients.push(Client::open(&server, "q").await);
    assert_eq!(code(&Client::open(&server, "r").await.hello), 5_030);
    let pid = clients[0].pid().await;
    drop(clients.remove(0));
    until("its end", || server.status().pids.iter().all(|other| *other != pid)).await;
    clients.push(Client::open(&server, "p").await);
    assert!(clients[2].hello.get("result").is_some());
    assert_eq!((stand.hits("mcp_children_max"), stand.hits("mcp_children_per_principal_max")), (1, 1));
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn calls_wait_for_their_turn() {
    let stand = Stand::new();
    let mut spec = fixture(&[]);
    (spec.limits.calls_per_child, spec.limits.calls_per_principal, spec.limits.queue_calls) = (1, 1, 2);
    spec.limits.queue_wait = 900 * MS;
    let server = stand.children.server(spec);
    let mut client = Client::open(&server, "p").await;
    let mut running = client.start("sleep", json!({"ms": 1_800}));
    let mut waiting = client.start("pid", json!({}));
    let mut cancelled = client.start("pid", json!({}));
    assert_eq!(code(&client.call("pid", json!({})).await), 5_030, "the queue is full");
    client.tell(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 3}}));
    assert!(soon("its end", cancelled.next()).await.is_none());
    assert!(client.request("ping", json!({})).await.get("result").is_some(), "that is no work");
    let (late, _) = reply(&mut waiting).await;
    assert_eq!(code(&late), 5_030);
    assert_eq!(text(&reply(&mut running).await.0), "slept");
    client.pid().await;
    assert_eq!((stand.hits("mcp_queue_calls_max"), stand.hits("mcp_queue_wait_ms_max")), (1, 1));
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn who_is_removed_has_time_to_finish() {
    let stand = Stand::new();
    let server = stand.children.server(fixture(&[]));
    let mut client = Client::open(&server, "p").await;
    let pid = client.pid().await;
    let mut running = client.start("sleep", json!({"ms": 500}));
    let retiring = tokio::spawn({
        let server = server.clone();
        async move { server.retire().await }
    });
    until("the beginning of the end", || server.status().state == "stopping").await;
    assert_eq!(code(&Client::open(&server, "p").await.hello), 5_021);
    assert_eq!(text(&reply(&mut running).await.0), "slept");
    soon("the end", retiring).await.unwrap();
    client.ended().await;
    assert!(!is_there(pid));
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn the_era_is_asked_for_and_the_process_that_was_asked_is_used() {
    let stand = Stand::new();
    let auto = |flags: &[&str]| ChildSpec { era: EraChoice::Auto, ..fixture(flags) };
    for flags in [&[][..], &["--strict"]] {
        let server = stand.children.server(auto(flags));
        let mut client = Client::open(&server, "p").await;
        client.pid().await;
        let status = server.status();
        assert_eq!((status.era, status.starts), (Some("legacy"), 1), "{flags:?}");
    }
    // One that dies of it is started anew, and asked once more by the next session only.
    let server = stand.children.server(auto(&["--crash-on-discover"]));
    for (starts, era) in [(2, None), (4, Some("legacy")), (5, Some("legacy"))] {
        Client::open(&server, "p").await.pid().await;
        let status = server.status();
        assert_eq!((status.starts, status.era), (starts, era));
    }
    stand.close(&[]).await;
}

#[tokio::test]
async fn an_eager_server_is_there_before_it_is_needed() {
    let stand = Stand::new();
    let server = stand.children.server(ChildSpec { eager: true, era: EraChoice::Auto, ..fixture(&[]) });
    until("its era", || server.status().era.is_some()).await;
    let pids = server.status().pids;
    assert_eq!(pids, [Client::open(&server, "p").await.pid().await]);
    stand.close(&[&server]).await;
}
