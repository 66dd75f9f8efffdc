//! `tree_wait`: nothing is missed, waiting costs nothing, and it ends as it should.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use standpipe_mcp::era::{META_CAPABILITIES, META_VERSION};
use standpipe_mcp::{Caller, Inlet, ModernServer as _, exchange};
use tokio::time::timeout;

use super::{Bench, ROOM, message, next};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);

/// Begins to wait; what comes is in the inlet.
fn begin(bench: &Bench, caller: &Caller, arguments: Value, meta: Value) -> Inlet {
    let mut params = json!({ "name": "tree_wait", "arguments": arguments, "_meta": meta });
    params["_meta"][META_VERSION] = "2026-07-28".into();
    params["_meta"][META_CAPABILITIES] = json!({});
    let request = json!({ "jsonrpc": "2.0", "id": "w", "method": "tools/call", "params": params });
    let (to, inlet) = exchange(ROOM);
    bench.server.call(caller.clone(), message(&request), to);
    inlet
}

async fn waited(inlet: &mut Inlet) -> Value {
    let answer = next(inlet).await;
    answer["result"]["structuredContent"].clone()
}

/// Waits until so many are watched in the engine.
async fn watched(bench: &Bench, paths: usize) {
    let database = bench.engine.resolve(None).unwrap();
    timeout(LIMIT, async {
        while database.stats().topics != paths {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_etag_that_differs_ends_it_at_once() {
    let bench = Bench::new();
    let check = async |arguments: Value, expected: Value| {
        let result = timeout(LIMIT, bench.tool("tree_wait", arguments)).await.unwrap();
        let mut content = result["structuredContent"].clone();
        content.as_object_mut().unwrap().remove("etag");
        assert_eq!(content, expected);
    };
    let nothing = json!({ "path": "/a", "changed": false, "exists": false, "value": null, "truncated": false });
    check(json!({ "path": "a", "etag": "null_etag", "timeout_ms": 0 }), nothing.clone()).await;
    check(json!({ "path": "a", "timeout_ms": 20 }), nothing).await;
    bench.put("/a/b", &json!(1)).await;
    let there = json!({ "path": "/a", "changed": true, "exists": true, "value": { "b": 1 }, "truncated": false });
    check(json!({ "path": "a", "etag": "null_etag" }), there).await;
    let long = json!("x".repeat(70_000));
    bench.put("/a/b", &long).await;
    let cut = json!({ "path": "/a", "changed": true, "exists": true, "value": null, "truncated": true });
    check(json!({ "path": "a", "etag": "null_etag" }), cut).await;
    bench.end().await;
}

#[tokio::test]
async fn changes_at_above_and_below_end_it_and_others_do_not() {
    let bench = Bench::new();
    bench.put("/", &json!({ "a": { "b": 1 }, "c": 1 })).await;
    for (path, write, value) in [
        ("/a", "/a", json!(5)),
        ("/a", "/a/b/c", json!(6)),
        ("/a/b", "/", json!({ "a": { "b": 2 }, "c": 2 })),
        ("/", "/c", json!(7)),
    ] {
        let mut wait = begin(&bench, &bench.caller(None), json!({ "path": path }), json!({}));
        watched(&bench, 1).await;
        bench.put("/other", &json!(write)).await;
        if path != "/" {
            // The same again is no change.
            let now = bench.tool("tree_get", json!({ "path": path })).await["structuredContent"]["value"].clone();
            bench.put(path, &now).await;
            assert!(wait.try_next().is_none(), "{path} {write}");
            bench.put(write, &value).await;
        }
        let got = timeout(LIMIT, waited(&mut wait)).await.unwrap();
        assert_eq!((&got["changed"], &got["path"]), (&json!(true), &json!(path)), "{write}: {got}");
    }
    watched(&bench, 0).await;
    bench.end().await;
}

#[tokio::test]
async fn a_thousand_waits_hold_no_worker_and_see_the_change() {
    // The session of this caller is of no server: there is no worker at all.
    let bench = Bench::new();
    let caller = bench.caller(None);
    let mut waits: Vec<_> =
        (0..1_000).map(|_| begin(&bench, &caller, json!({ "path": "/board" }), json!({}))).collect();
    watched(&bench, 1).await;
    bench.put("/board/claims/a", &json!("agent")).await;
    let all = join_all(waits.iter_mut().map(waited));
    for got in timeout(LIMIT, all).await.unwrap() {
        assert_eq!((&got["changed"], &got["value"]), (&json!(true), &json!({ "claims": { "a": "agent" } })));
    }
    watched(&bench, 0).await;
    bench.end().await;
}

#[tokio::test]
async fn who_leaves_or_cancels_leaves_nothing_behind() {
    let bench = Bench::new();
    drop(begin(&bench, &bench.caller(None), json!({ "path": "/a" }), json!({})));
    watched(&bench, 0).await;
    let (_, session) = bench.open("2025-11-25").await;
    let params = json!({ "name": "tree_wait", "arguments": { "path": "/a" } });
    let request = json!({ "jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": params });
    let (to, mut inlet) = exchange(ROOM);
    session.call(&bench.caller(None), message(&request), to);
    watched(&bench, 1).await;
    let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 5 } });
    session.tell(&bench.caller(None), message(&cancel));
    assert!(timeout(LIMIT, inlet.next()).await.unwrap().is_none(), "a call that is cancelled has no answer");
    watched(&bench, 0).await;
    bench.end().await;
}

#[tokio::test]
async fn who_may_not_read_any_more_is_told() {
    let bench = Bench::ruled(&json!({ ".read": true }));
    let mut wait = begin(&bench, &bench.caller(Some("ann")), json!({ "path": "/a" }), json!({}));
    watched(&bench, 1).await;
    bench.rules(&json!({ ".read": "auth.uid == 'bob'" })).await;
    let answer = timeout(LIMIT, next(&mut wait)).await.unwrap();
    let text = answer["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.starts_with("permission_denied"), "{text}");
    bench.end().await;
}

#[tokio::test]
async fn who_gave_a_token_is_told_every_five_seconds() {
    let bench = Bench::new();
    let caller = bench.caller(None);
    let arguments = json!({ "path": "/a", "timeout_ms": 5_300 });
    let mut wait = begin(&bench, &caller, arguments.clone(), json!({ "progressToken": "p" }));
    let mut silent = begin(&bench, &caller, arguments, json!({}));
    let params = next(&mut wait).await["params"].clone();
    let expected = (&json!("p"), &json!(5_000), &json!(5_300));
    assert_eq!((&params["progressToken"], &params["progress"], &params["total"]), expected, "{params}");
    assert_eq!(waited(&mut wait).await["changed"], false);
    assert_eq!(waited(&mut silent).await["changed"], false);
    bench.end().await;
}

#[tokio::test]
async fn what_is_no_wait_is_refused() {
    let bench = Bench::new();
    for (arguments, code) in [
        (json!({}), "invalid_argument"),
        (json!({ "path": "a.b" }), "invalid_path"),
        (json!({ "path": "/a", "timeout_ms": 55_001 }), "invalid_argument"),
        (json!({ "path": "/a", "timeout_ms": -1 }), "invalid_argument"),
        (json!({ "path": "/a", "timeout_ms": "5" }), "invalid_argument"),
        (json!({ "path": "/a", "etag": 5 }), "invalid_argument"),
        (json!({ "path": "/a", "since": 5 }), "invalid_argument"),
    ] {
        let result = bench.tool("tree_wait", arguments.clone()).await;
        assert_eq!(result["_meta"]["dev.standpipe/error"]["code"], code, "{arguments}: {result}");
    }
    bench.end().await;
}
