//! Modern requests to modern processes.

use std::time::Duration;

use serde_json::json;
use standpipe_mcp::upstream::EraChoice;
use standpipe_mcp::upstream::child::ChildSpec;
use standpipe_serve::Limits;

use crate::support::{Client, Stand, code, fixture, modern, modern_tool, next, parsed, reply, soon, text, until};

#[tokio::test]
async fn each_principal_has_a_process_for_all_its_requests() {
    let stand = Stand::new();
    let server = stand.children.server(ChildSpec { era: EraChoice::Auto, ..fixture(&["--modern"]) });
    let pid = async |principal: &str| text(&modern_tool(&server, principal, "pid", json!({})).await).to_owned();
    let (a, b, again) = (pid("p").await, pid("q").await, pid("p").await);
    assert_eq!(a, again);
    assert_ne!(a, b);
    let status = server.status();
    assert_eq!((status.era, status.starts), (Some("modern"), 2), "the process that was asked is used");
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn the_process_sees_the_caller_and_not_us() {
    let stand = Stand::new();
    let server = stand.children.server(fixture(&["--modern"]));
    let meta =
        json!({"io.modelcontextprotocol/clientInfo": {"name": "me", "version": "2"}, "x": 9_007_199_254_740_993_u64});
    let params = json!({"name": "raw", "arguments": {}, "_meta": meta});
    let (raw, _) = reply(&mut modern(&server, "p", &json!("id"), "tools/call", params)).await;
    assert_eq!(raw["id"], "id");
    let seen = parsed(&raw);
    assert_eq!(seen["params"]["_meta"]["io.modelcontextprotocol/clientInfo"]["name"], "me");
    assert_eq!(seen["params"]["_meta"]["x"], 9_007_199_254_740_993_u64);
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn who_leaves_cancels() {
    let stand = Stand::new();
    let server = stand.children.server(fixture(&["--modern"]));
    let params = json!({"name": "sleep", "arguments": {"ms": 60_000}});
    let inlet = modern(&server, "p", &json!(1), "tools/call", params.clone());
    until("the call", || server.status().calls == 1).await;
    drop(inlet);
    assert_eq!(server.status().calls, 0, "its place is free at once");
    let look = async {
        while parsed(&modern_tool(&server, "p", "seen", json!({})).await)["cancelled"] != json!([1]) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("the cancellation", look).await;
    // One who has left before is not even begun.
    let before = parsed(&modern_tool(&server, "p", "counts", json!({})).await)["calls"].as_u64().unwrap();
    drop(modern(&server, "p", &json!(2), "tools/call", params));
    let after = parsed(&modern_tool(&server, "p", "counts", json!({})).await)["calls"].as_u64().unwrap();
    assert!(after <= before + 2);
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn a_subscription_lasts_and_keeps_its_own_id() {
    let stand = Stand::new();
    let mut spec = fixture(&["--modern"]);
    spec.limits.streams_per_principal = 2;
    spec.limits.call = Duration::from_millis(300);
    let server = stand.children.server(spec);
    let listen = |id: &str| modern(&server, "p", &json!(id), "subscriptions/listen", json!({"notifications": {}}));
    let (mut a, mut b) = (listen("a"), listen("b"));
    for (inlet, id) in [(&mut a, "a"), (&mut b, "b")] {
        let first = next(inlet).await;
        assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
        assert_eq!(first["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], id);
    }
    assert_eq!(code(&reply(&mut listen("c")).await.0), 5_030);
    tokio::time::sleep(Duration::from_millis(600)).await;
    drop(b);
    let (changed, before) = {
        let params = json!({"name": "change", "arguments": {}});
        reply(&mut modern(&server, "p", &json!("x"), "tools/call", params)).await
    };
    assert_eq!((text(&changed), before.len()), ("changed", 1), "what names no subscription is the running call's");
    let news = next(&mut a).await;
    assert_eq!(news["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "a");
    stand.close(&[&server]).await;
    let (end, _) = reply(&mut a).await;
    assert_eq!(end["id"], "a");
    assert_eq!(end["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "a", "our end of it is no failure");
}

#[tokio::test]
async fn a_modern_process_may_not_ask() {
    let stand = Stand::new();
    let server = stand.children.server(fixture(&["--modern"]));
    let asked = modern_tool(&server, "p", "ask", json!({"id": 1, "method": "roots/list"})).await;
    assert_eq!(parsed(&asked)["error"]["code"], -32_601);
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn a_modern_process_that_dies_is_followed_by_another() {
    let stand = Stand::new();
    let server = stand.children.server(fixture(&["--modern"]));
    let pid = modern_tool(&server, "p", "pid", json!({})).await;
    assert_eq!(code(&modern_tool(&server, "p", "die", json!({})).await), 5_020);
    let again = modern_tool(&server, "p", "pid", json!({})).await;
    assert_ne!(text(&pid), text(&again));
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn who_has_nothing_to_do_makes_room() {
    let stand = Stand::with(Limits { mcp_children_max: 2, mcp_children_per_principal_max: 2, ..Limits::default() });
    let server = stand.children.server(fixture(&["--modern"]));
    let old = modern_tool(&server, "p", "pid", json!({})).await;
    modern_tool(&server, "q", "pid", json!({})).await;
    assert_eq!(code(&modern_tool(&server, "r", "pid", json!({})).await), 5_030);
    until("room", || server.status().pids.len() == 1).await;
    modern_tool(&server, "r", "pid", json!({})).await;
    assert!(!server.status().pids.contains(&text(&old).parse().unwrap()), "the one that was idle for the longest time");
    stand.close(&[&server]).await;
}

#[tokio::test]
async fn clients_of_both_eras_are_served() {
    let stand = Stand::new();
    let check = async |flags: &[&str], straight: bool| {
        let server = stand.children.server(ChildSpec { era: EraChoice::Auto, ..fixture(flags) });
        let mut client = Client::open(&server, "p").await;
        // The fixture repeats what it was asked; a bridge does not ask for a handshake.
        assert_eq!(client.hello["result"].get("asked").is_some(), straight, "{flags:?}");
        client.pid().await;
        let modern = modern_tool(&server, "p", "pid", json!({})).await;
        assert_eq!(modern["result"]["resultType"], "complete", "{flags:?}");
    };
    check(&["--modern", "--both"], true).await;
    check(&["--modern"], false).await;
    check(&[], true).await;
    stand.close(&[]).await;
}
