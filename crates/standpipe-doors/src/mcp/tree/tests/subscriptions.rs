//! Subscriptions of both eras: who is told, how often, and how it ends.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use standpipe_mcp::era::{META_CAPABILITIES, META_VERSION};
use standpipe_mcp::exchange::Room;
use standpipe_mcp::{Caller, Conversation, Inlet, ModernServer as _, exchange};
use tokio::time::{Instant, timeout};

use super::{Bench, ROOM, message, narrowed, next};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);
const ID: &str = "io.modelcontextprotocol/subscriptionId";

/// Asks to listen, with the id 4.0e0 to see that it comes back as it was.
fn listen(bench: &Bench, caller: &Caller, filter: Value, room: Room) -> Inlet {
    let meta = json!({ META_VERSION: "2026-07-28", META_CAPABILITIES: {} });
    let params = json!({ "notifications": filter, "_meta": meta });
    let request = format!(r#"{{"jsonrpc":"2.0","id":"l","method":"subscriptions/listen","params":{params}}}"#);
    let (to, inlet) = exchange(room);
    bench.server.call(caller.clone(), message(&serde_json::from_str(&request).unwrap()), to);
    inlet
}

/// Listens to these resources; all of them are acknowledged.
async fn listening(bench: &Bench, uris: &[&str]) -> Inlet {
    let mut inlet = listen(bench, &bench.caller(None), json!({ "resourceSubscriptions": uris }), ROOM);
    let first = told(&mut inlet).await;
    let expected = json!({ "_meta": { ID: "l" }, "notifications": { "resourceSubscriptions": uris } });
    assert_eq!((&first["method"], &first["params"]), (&json!("notifications/subscriptions/acknowledged"), &expected));
    inlet
}

async fn told(inlet: &mut Inlet) -> Value {
    timeout(LIMIT, next(inlet)).await.expect("it is told in time")
}

fn updated(uri: &str) -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": { "_meta": { ID: "l" }, "uri": uri } })
}

#[tokio::test]
async fn a_change_at_above_or_below_is_told_once() {
    let bench = Bench::new();
    let mut inlet = listening(&bench, &["tree:///a/b", "tree:///c"]).await;
    for path in ["/a/b", "/a/b/c/d", "/a"] {
        bench.put(path, &json!({ "x": path })).await;
        assert_eq!(told(&mut inlet).await, updated("tree:///a/b"), "{path}");
    }
    bench.put("/a/other", &json!(1)).await;
    bench.put("/c", &json!(1)).await;
    assert_eq!(told(&mut inlet).await, updated("tree:///c"));
    bench.end().await;
}

#[tokio::test]
async fn thousands_of_changes_are_few_notices_and_the_last_is_told() {
    let bench = Arc::new(Bench::new());
    let mut inlet = listening(&bench, &["tree:///n"]).await;
    let (writer, begun) = (bench.clone(), Instant::now());
    let writing = tokio::spawn(async move {
        for number in 0..3_000 {
            writer.put("/n", &json!(number)).await;
        }
    });
    let (mut notices, mut seen) = (0, Value::Null);
    while seen != json!(2_999) {
        assert_eq!(told(&mut inlet).await, updated("tree:///n"));
        notices += 1;
        seen = bench.tool("tree_get", json!({ "path": "/n" })).await["structuredContent"]["value"].clone();
    }
    writing.await.unwrap();
    let most = begun.elapsed().as_millis() / 100 + 2;
    assert!(notices <= most, "{notices} notices in {:?}", begun.elapsed());
}

#[tokio::test]
async fn what_can_not_be_listened_to_is_left_out() {
    let bench = Bench::ruled(&json!({ "open": { ".read": true }, "ann": { ".read": "auth.uid == 'ann'" } }));
    let check = async |caller: Caller, filter: Value, accepted: Value| {
        let mut inlet = listen(&bench, &caller, filter.clone(), ROOM);
        assert_eq!(told(&mut inlet).await["params"]["notifications"], accepted, "{filter}");
    };
    let uris = json!({ "resourceSubscriptions": [
        "tree:///open", "tree:///ann/x", "tree:///", "tree:///o.o", "file:///open", "nonsense", "tree:///open"
    ] });
    let only = |uris: &[&str]| json!({ "resourceSubscriptions": uris });
    check(bench.caller(None), uris.clone(), only(&["tree:///open"])).await;
    check(bench.caller(Some("ann")), uris.clone(), only(&["tree:///open", "tree:///ann/x"])).await;
    check(narrowed(bench.caller(Some("ann")), "runs:read"), uris, json!({})).await;
    check(bench.caller(None), json!({ "toolsListChanged": true, "promptsListChanged": true, "x": 1 }), json!({})).await;
    check(bench.caller(None), json!({ "resourcesListChanged": true }), json!({ "resourcesListChanged": true })).await;
    check(bench.caller(None), json!({ "resourcesListChanged": false, "taskIds": ["x"] }), json!({})).await;
    bench.end().await;
}

#[tokio::test]
async fn a_filter_that_is_none_is_refused() {
    let bench = Bench::new();
    for filter in
        [json!(null), json!([1]), json!({ "resourceSubscriptions": "x" }), json!({ "resourcesListChanged": 1 })]
    {
        let mut inlet = listen(&bench, &bench.caller(None), filter.clone(), ROOM);
        assert_eq!(told(&mut inlet).await["error"]["code"], -32602, "{filter}");
    }
    bench.end().await;
}

#[tokio::test]
async fn more_resources_than_a_stream_may_have_are_left_out() {
    let bench = Bench::new();
    let uris: Vec<_> = (0..101).map(|number| format!("tree:///a/{number}")).collect();
    let mut inlet = listen(&bench, &bench.caller(None), json!({ "resourceSubscriptions": uris }), ROOM);
    let accepted = told(&mut inlet).await["params"]["notifications"]["resourceSubscriptions"].clone();
    assert_eq!(accepted, json!(uris[..100]));
    bench.end().await;
}

#[tokio::test]
async fn a_principal_has_so_many_streams() {
    let bench = Bench::new();
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(listening(&bench, &["tree:///a"]).await);
    }
    let mut refused = listen(&bench, &bench.caller(None), json!({}), ROOM);
    let error = told(&mut refused).await["error"].clone();
    assert_eq!(error["code"], 5030, "{error}");
    assert!(error["data"]["retry_after_ms"].as_u64() > Some(0), "{error}");
    let other = Caller { principal: "user:other".into(), ..bench.caller(None) };
    assert!(told(&mut listen(&bench, &other, json!({}), ROOM)).await.get("error").is_none());
    // Who leaves makes room.
    drop(streams.pop());
    let again =
        async { while told(&mut listen(&bench, &bench.caller(None), json!({}), ROOM)).await.get("error").is_some() {} };
    timeout(LIMIT, again).await.unwrap();
    bench.end().await;
}

#[tokio::test]
async fn who_may_not_read_any_more_is_told_that_it_ends() {
    let bench = Bench::ruled(&json!({ ".read": true }));
    let mut ruled = listening(&bench, &["tree:///a", "tree:///b"]).await;
    let in_a_moment = Some(SystemTime::now() + Duration::from_millis(300));
    let expiring = Caller { expires_at: in_a_moment, ..bench.caller(Some("ann")) };
    let mut expired = listen(&bench, &expiring, json!({ "resourceSubscriptions": ["tree:///a"] }), ROOM);
    assert!(told(&mut expired).await["method"].is_string());
    let end = |message: &Value| {
        let meta = &message["result"]["_meta"];
        assert_eq!(
            (&message["id"], &message["result"]["resultType"], &meta[ID]),
            (&json!("l"), &json!("complete"), &json!("l"))
        );
    };
    end(&told(&mut expired).await);
    assert!(expired.next().await.is_none());
    bench.rules(&json!({ "a": { ".read": true } })).await;
    end(&told(&mut ruled).await);
    assert!(ruled.next().await.is_none());
    bench.end().await;
}

#[tokio::test]
async fn who_does_not_take_what_is_told_loses_the_stream_and_nothing_else() {
    let bench = Bench::new();
    let slow = Room { messages: 2, bytes: 1 << 20 };
    let inlet = listen(&bench, &bench.caller(None), json!({ "resourceSubscriptions": ["tree:///n"] }), slow);
    let database = bench.engine.resolve(None).unwrap();
    let writes = async {
        let mut number = 0;
        while number == 0 || database.stats().topics > 0 {
            number += 1;
            bench.put("/n", &json!(number)).await;
        }
    };
    timeout(LIMIT, writes).await.unwrap();
    assert!(inlet.was_too_slow());
    bench.end().await;
}

#[tokio::test]
async fn resources_that_come_and_go_are_told() {
    let bench = Bench::ruled(&json!({ "hidden": { ".read": false }, "$other": { ".read": true } }));
    bench.put("/a/x", &json!(1)).await;
    let mut inlet = listen(&bench, &bench.caller(None), json!({ "resourcesListChanged": true }), ROOM);
    told(&mut inlet).await;
    let changed = json!({ "jsonrpc": "2.0", "method": "notifications/resources/list_changed", "params": { "_meta": { ID: "l" } } });
    bench.put("/b/x", &json!(1)).await;
    assert_eq!(told(&mut inlet).await, changed);
    // Neither a change inside one, nor one that may not be read, is a change of the list.
    bench.put("/a/y", &json!(1)).await;
    bench.put("/hidden", &json!(1)).await;
    bench.put("/a", &Value::Null).await;
    assert_eq!(told(&mut inlet).await, changed);
    bench.rules(&json!({ "$other": { ".read": true } })).await;
    assert_eq!(told(&mut inlet).await, changed);
    assert!(inlet.try_next().is_none());
    bench.end().await;
}

/// A legacy session and what it is told beside its calls.
async fn session(bench: &Bench) -> (Arc<dyn Conversation>, Inlet) {
    let (_, session, news) = bench.opened("2025-11-25").await;
    (session, news)
}

#[tokio::test]
async fn a_legacy_session_subscribes_and_unsubscribes() {
    let bench = Bench::new();
    let (session, mut news) = session(&bench).await;
    let ask = async |method: &str, uri: &str| bench.legacy(&*session, method, json!({ "uri": uri })).await;
    assert_eq!(ask("resources/unsubscribe", "tree:///a").await["result"], json!({}));
    for uri in ["tree:///a", "tree:///b", "tree:///a"] {
        assert_eq!(ask("resources/subscribe", uri).await["result"], json!({}), "{uri}");
    }
    bench.put("/a/x", &json!(1)).await;
    let notice =
        |uri: &str| json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": { "uri": uri } });
    assert_eq!(told(&mut news).await, notice("tree:///a"));
    assert_eq!(ask("resources/unsubscribe", "tree:///a").await["result"], json!({}));
    bench.put("/a/x", &json!(2)).await;
    bench.put("/b", &json!(2)).await;
    assert_eq!(told(&mut news).await, notice("tree:///b"));
    for uri in ["tree:///a.b", "file:///a", ""] {
        assert_eq!(ask("resources/subscribe", uri).await["error"]["code"], -32602, "{uri}");
    }
    // Each era has its own words for it.
    let modern = bench.modern("resources/subscribe", json!({ "uri": "tree:///a" })).await;
    assert_eq!(modern["error"]["code"], -32601);
    assert_eq!(ask("subscriptions/listen", "").await["error"]["code"], -32601);
    drop(session);
    let database = bench.engine.resolve(None).unwrap();
    let gone = async {
        while database.stats().topics > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, gone).await.unwrap();
    bench.end().await;
}

#[tokio::test]
async fn a_legacy_session_is_told_of_the_list_once_it_has_asked_for_it() {
    let bench = Bench::new();
    let (session, mut news) = session(&bench).await;
    bench.put("/a", &json!(1)).await;
    bench.legacy(&*session, "resources/list", json!({})).await;
    bench.put("/b", &json!(1)).await;
    assert_eq!(told(&mut news).await["method"], "notifications/resources/list_changed");
    bench.end().await;
}

#[tokio::test]
async fn a_legacy_session_has_so_many_subscriptions_and_loses_what_it_may_not_read() {
    let bench = Bench::ruled(&json!({ ".read": true }));
    let (session, mut news) = session(&bench).await;
    let ask = async |uri: &str| bench.legacy(&*session, "resources/subscribe", json!({ "uri": uri })).await;
    for number in 0..100 {
        assert_eq!(ask(&format!("tree:///{number}")).await["result"], json!({}));
    }
    assert_eq!(ask("tree:///100").await["error"]["code"], 5030);
    bench.rules(&json!({ "7": { ".read": false }, "$n": { ".read": true } })).await;
    let lost = told(&mut news).await;
    assert_eq!(lost["params"]["uri"], "tree:///7", "what is lost is told once more");
    let refused = ask("tree:///7").await;
    assert!(
        refused["error"]["code"].as_i64() == Some(4030) || refused["error"]["code"].as_i64() == Some(-32002),
        "{refused}"
    );
    bench.end().await;
}
