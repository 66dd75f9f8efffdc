//! The protocol itself, in both eras: who we say we are, methods there are and are not, what parameters are refused, and cancellation.

use serde_json::{Value, json};
use standpipe_mcp::era::META_SERVER;
use standpipe_mcp::{ModernServer as _, exchange};

use super::{Bench, ROOM, last, message, narrowed, nowhere};

fn code(answer: &Value) -> i64 {
    answer["error"]["code"].as_i64().unwrap_or_else(|| panic!("no error: {answer}"))
}

#[tokio::test]
async fn sessions_agree_on_a_version() {
    let bench = Bench::new();
    for (asked, agreed) in [
        ("2025-11-25", "2025-11-25"),
        ("2025-06-18", "2025-06-18"),
        ("2025-03-26", "2025-03-26"),
        ("2024-11-05", "2024-11-05"),
        ("2026-07-28", "2025-11-25"),
        ("nonsense", "2025-11-25"),
    ] {
        let (answer, _session) = bench.open(asked).await;
        let result = &answer["result"];
        assert_eq!(result["protocolVersion"], agreed, "{asked}: {answer}");
        assert_eq!(result["serverInfo"]["name"], "standpipe");
        assert_eq!(result["capabilities"]["tools"], json!({}));
        assert_eq!(result["capabilities"]["resources"], json!({ "subscribe": true, "listChanged": true }));
        assert_eq!(result["capabilities"]["completions"], json!({}));
        for missing in ["prompts", "logging", "extensions"] {
            assert!(result["capabilities"].get(missing).is_none(), "{missing}");
        }
        assert!(result.get("resultType").is_none() && result.get("_meta").is_none(), "legacy results are as they are");
        assert!(!result["instructions"].as_str().unwrap().is_empty());
    }
    bench.end().await;
}

#[tokio::test]
async fn a_session_that_can_not_begin_has_ended() {
    let bench = Bench::new();
    let initialize =
        message(&json!({ "jsonrpc": "2.0", "id": "i", "method": "initialize", "params": { "capabilities": 1 } }));
    let (to, inlet) = exchange(ROOM);
    let session = standpipe_mcp::LegacyServer::open(&bench.server, &bench.caller(None), initialize, to, nowhere());
    let answer = last(inlet).await;
    assert_eq!((code(&answer), &answer["id"]), (-32_602, &json!("i")));
    session.ended().await;
    bench.end().await;
}

#[tokio::test]
async fn modern_results_say_what_they_are() {
    let bench = Bench::new();
    bench.put("/a", &json!(1)).await;
    let path = json!({ "ref": { "type": "ref/resource", "uri": "tree:///{+path}" }, "argument": { "name": "path", "value": "" } });
    for (method, params, cache) in [
        ("server/discover", json!({}), Some((300_000, "public"))),
        ("tools/list", json!({}), Some((300_000, "public"))),
        ("tools/call", json!({ "name": "tree_get", "arguments": { "path": "a" } }), None),
        ("tools/call", json!({ "name": "tree_get", "arguments": { "path": "a.b" } }), None),
        ("resources/list", json!({}), Some((0, "private"))),
        ("resources/templates/list", json!({}), Some((300_000, "public"))),
        ("resources/read", json!({ "uri": "tree:///a" }), Some((0, "private"))),
        ("completion/complete", path, None),
    ] {
        let answer = bench.modern(method, params).await;
        let result = &answer["result"];
        assert_eq!((&result["resultType"], &answer["id"]), (&json!("complete"), &json!("q")), "{answer}");
        assert_eq!(result["_meta"][META_SERVER]["name"], "standpipe", "{answer}");
        match cache {
            Some((ttl, scope)) => {
                assert_eq!((&result["ttlMs"], &result["cacheScope"]), (&json!(ttl), &json!(scope)), "{method}")
            }
            None => assert!(result.get("ttlMs").is_none() && result.get("cacheScope").is_none(), "{method}"),
        }
    }
    let answer = bench.modern("server/discover", json!({})).await;
    let versions = answer["result"]["supportedVersions"].as_array().unwrap();
    assert!(versions.contains(&json!("2026-07-28")) && versions.contains(&json!("2025-11-25")));
    bench.end().await;
}

#[tokio::test]
async fn methods_are_of_their_era() {
    let bench = Bench::new();
    let (_, session) = bench.open("2025-11-25").await;
    for method in [
        "ping",
        "logging/setLevel",
        "prompts/list",
        "prompts/get",
        "initialize",
        "resources/subscribe",
        "nonsense",
        "",
        "tools/List",
    ] {
        let answer = bench.modern(method, json!({})).await;
        assert_eq!(code(&answer), -32_601, "{method}");
    }
    for method in ["server/discover", "logging/setLevel", "prompts/list", "subscriptions/listen", "nonsense"] {
        let answer = bench.legacy(&*session, method, json!({})).await;
        assert_eq!(code(&answer), -32_601, "{method}");
    }
    assert_eq!(bench.legacy(&*session, "ping", json!({})).await, json!({ "jsonrpc": "2.0", "id": 7, "result": {} }));
    assert_eq!(code(&bench.legacy(&*session, "initialize", json!({})).await), -32_600);
    let called =
        bench.legacy(&*session, "tools/call", json!({ "name": "tree_get", "arguments": { "path": "" } })).await;
    assert_eq!(called["result"]["structuredContent"]["path"], "/");
    bench.end().await;
}

#[tokio::test]
async fn what_a_modern_request_must_say() {
    let bench = Bench::new();
    let caller = bench.caller(None);
    let ask = async |meta: Value| {
        bench
            .raw(&caller, &json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": { "_meta": meta } }))
            .await
    };
    const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
    const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
    assert_eq!(code(&ask(json!({ VERSION: "2026-07-28" })).await), -32_602);
    assert_eq!(code(&ask(json!({ CAPABILITIES: {} })).await), -32_602);
    assert_eq!(code(&ask(json!(7)).await), -32_602);
    let answer = ask(json!({ VERSION: "2099-01-01", CAPABILITIES: {} })).await;
    assert_eq!((code(&answer), &answer["error"]["data"]["requested"]), (-32_022, &json!("2099-01-01")));
    assert!(answer["error"]["data"]["supported"].as_array().unwrap().contains(&json!("2026-07-28")));
    assert!(ask(json!({ VERSION: "2026-07-28", CAPABILITIES: {} })).await["result"].is_object());
    bench.end().await;
}

#[tokio::test]
async fn parameters_are_checked() {
    let bench = Bench::new();
    for (method, params) in [
        ("tools/call", json!({})),
        ("tools/call", json!({ "name": 7 })),
        ("tools/call", json!({ "name": "nonsense" })),
        ("tools/call", json!({ "name": "tree_GET", "arguments": {} })),
        ("tools/call", json!({ "name": "run_start", "arguments": {} })),
        ("tools/list", json!({ "cursor": "x" })),
        ("tools/list", json!({ "cursor": 7 })),
        ("resources/templates/list", json!({ "cursor": "x" })),
        ("resources/list", json!({ "cursor": "x" })),
        ("resources/list", json!({ "cursor": {} })),
        ("resources/read", json!({})),
        ("resources/read", json!({ "uri": 1 })),
        ("resources/read", json!({ "uri": "file:///etc/passwd" })),
        ("completion/complete", json!({})),
        (
            "completion/complete",
            json!({ "ref": { "type": "ref/prompt", "name": "x" }, "argument": { "name": "path", "value": "" } }),
        ),
        (
            "completion/complete",
            json!({ "ref": { "type": "ref/resource", "uri": "x" }, "argument": { "name": "path", "value": "" } }),
        ),
        (
            "completion/complete",
            json!({ "ref": { "type": "ref/resource", "uri": "tree:///{+path}" }, "argument": { "name": "other", "value": "" } }),
        ),
    ] {
        let answer = bench.modern(method, params.clone()).await;
        assert_eq!(code(&answer), -32_602, "{method} {params}: {answer}");
    }
    // Arguments may be left out; what is missing then is told as a tool tells it.
    let answer = bench.modern("tools/call", json!({ "name": "tree_get" })).await;
    assert_eq!(answer["result"]["isError"], true);
    bench.end().await;
}

#[tokio::test]
async fn ids_come_back_as_they_were() {
    let bench = Bench::new();
    let (_, session) = bench.open("2025-06-18").await;
    for id in [json!(0), json!(-1), json!("x"), json!(""), json!("1"), json!(9_007_199_254_740_993_u64)] {
        let (to, inlet) = exchange(ROOM);
        session.call(&bench.caller(None), message(&json!({ "jsonrpc": "2.0", "id": id, "method": "ping" })), to);
        assert_eq!(last(inlet).await["id"], id);
    }
    bench.end().await;
}

#[tokio::test]
async fn who_leaves_or_cancels_gets_no_answer() {
    let bench = Bench::new();
    let (_, session) = bench.open("2025-11-25").await;
    let request = message(&json!({ "jsonrpc": "2.0", "id": 3, "method": "ping" }));
    let (to, mut inlet) = exchange(ROOM);
    // The cancellation is there before the call's task has begun.
    session.call(&bench.caller(None), request, to);
    session.tell(
        &bench.caller(None),
        message(&json!({
            "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 3 }
        })),
    );
    assert!(inlet.next().await.is_none(), "the stream ends without an answer");
    // What is unknown, and what is no cancellation, does nothing.
    for params in [json!({ "requestId": 99 }), json!({}), json!({ "requestId": [] })] {
        session.tell(
            &bench.caller(None),
            message(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params })),
        );
    }
    session.tell(&bench.caller(None), message(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })));
    assert!(bench.legacy(&*session, "ping", json!({})).await["result"].is_object());
    bench.end().await;
}

#[tokio::test]
async fn calls_run_at_the_same_time() {
    let bench = Bench::new();
    bench.put("/n", &json!(0)).await;
    let caller = bench.caller(None);
    let push = json!({ "name": "tree_push", "arguments": { "path": "log", "value": 1 } });
    let calls = (0..100).map(|_| bench.modern_as(&caller, "tools/call", push.clone()));
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| answer["result"]["isError"] == false));
    let listed = bench.tool("tree_list", json!({ "path": "log", "limit": 1_000 })).await;
    assert_eq!(listed["structuredContent"]["children"].as_array().unwrap().len(), 100);
    bench.end().await;
}

#[tokio::test]
async fn resources_are_listed_and_read() {
    let bench = Bench::new();
    let tree: serde_json::Map<_, _> = (0..250).map(|i| (format!("k{i:03}"), json!({ "v": i }))).collect();
    bench.put("/", &tree.into()).await;
    let (mut cursor, mut uris) = (Value::Null, Vec::new());
    loop {
        let params = if cursor.is_null() { json!({}) } else { json!({ "cursor": cursor }) };
        let page = bench.modern("resources/list", params).await["result"].clone();
        let resources = page["resources"].as_array().unwrap();
        assert!(resources.len() <= 100 && resources.iter().all(|resource| resource["mimeType"] == "application/json"));
        uris.extend(resources.iter().map(|resource| resource["uri"].as_str().unwrap().to_owned()));
        cursor = page["nextCursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!((uris.len(), &*uris[0], &*uris[1], &*uris[250]), (251, "tree:///", "tree:///k000", "tree:///k249"));
    let templates = bench.modern("resources/templates/list", json!({})).await;
    assert_eq!(templates["result"]["resourceTemplates"][0]["uriTemplate"], "tree:///{+path}");
    assert_eq!(templates["result"]["resourceTemplates"][0]["name"], "tree");
    let read = bench.modern("resources/read", json!({ "uri": "tree:///k007" })).await;
    assert_eq!(
        read["result"]["contents"],
        json!([{ "uri": "tree:///k007", "mimeType": "application/json", "text": "{\"v\":7}" }])
    );
    let read = bench.modern("resources/read", json!({ "uri": "tree:///k007/v" })).await;
    assert_eq!(read["result"]["contents"][0]["text"], "7");
    bench.end().await;
}

#[tokio::test]
async fn what_can_not_be_read_as_a_resource() {
    let bench = Bench::ruled(&json!({ "open": { ".read": true }, "secret": { ".read": "auth.uid == 'ada'" } }));
    bench.put("/", &json!({ "open": { "big": "x".repeat(1_100_000), "a": 1 }, "secret": 1 })).await;
    let (_, session) = bench.open("2025-11-25").await;
    for (uri, modern, legacy) in [
        ("tree:///open/missing", -32_602, -32_002),
        ("tree:///bad.key", -32_602, -32_002),
        // As if it were not there.
        ("tree:///secret", -32_602, -32_002),
        ("tree:///", -32_602, -32_002),
        ("tree:///open/big", 4_130, 4_130),
    ] {
        let answer = bench.modern("resources/read", json!({ "uri": uri })).await;
        assert_eq!((code(&answer), &answer["error"]["data"]["uri"]), (modern, &json!(uri)), "{answer}");
        let answer = bench.legacy(&*session, "resources/read", json!({ "uri": uri })).await;
        assert_eq!((code(&answer), &answer["error"]["data"]["uri"]), (legacy, &json!(uri)), "{answer}");
    }
    let uris = async |caller| {
        let listed = bench.modern_as(&caller, "resources/list", json!({})).await;
        listed["result"]["resources"].as_array().unwrap().iter().map(|one| one["uri"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(uris(bench.caller(None)).await, ["tree:///", "tree:///open"]);
    assert_eq!(uris(bench.caller(Some("ada"))).await, ["tree:///", "tree:///open", "tree:///secret"]);
    assert_eq!(uris(narrowed(bench.caller(Some("ada")), "tree:read")).await.len(), 3);
    bench.end().await;
}

#[tokio::test]
async fn paths_are_completed() {
    let bench =
        Bench::ruled(&json!({ "open": { ".read": true }, "users": { "$uid": { ".read": "auth.uid == $uid" } } }));
    let many: serde_json::Map<_, _> = (0..150).map(|i| (format!("m{i:03}"), json!(1))).collect();
    bench.put("/", &json!({ "open": { "apple": 1, "apricot": { "x": 1 }, "b c": 1, "10": 1, "11": 1, "2": 1, "many": many, "100%": 1 },
        "users": { "ada": 1, "adam": 1, "bob": 1 } })).await;
    let check = async |uid: Option<&str>, typed: &str, expected: &[&str]| {
        let params = json!({ "ref": { "type": "ref/resource", "uri": "tree:///{+path}" }, "argument": { "name": "path", "value": typed } });
        let answer = bench.modern_as(&bench.caller(uid), "completion/complete", params).await;
        assert_eq!(
            answer["result"]["completion"],
            json!({ "values": expected, "hasMore": false }),
            "{typed}: {answer}"
        );
    };
    check(None, "", &["open"]).await;
    check(None, "o", &["open"]).await;
    check(None, "x", &[]).await;
    check(None, "open/ap", &["open/apple", "open/apricot"]).await;
    check(None, "/open/ap", &["open/apple", "open/apricot"]).await;
    check(None, "open/1", &["open/10", "open/11", "open/100%25"]).await;
    check(None, "open/b", &["open/b c"]).await;
    check(None, "open/b%20", &["open/b c"]).await;
    check(None, "open/apricot/", &["open/apricot/x"]).await;
    check(None, "a.b/c", &[]).await;
    check(None, "users/a", &[]).await;
    check(Some("ada"), "users/a", &["users/ada"]).await;
    let params = json!({ "ref": { "type": "ref/resource", "uri": "tree:///{+path}" }, "argument": { "name": "path", "value": "open/many/m" } });
    let completion = bench.modern("completion/complete", params).await["result"]["completion"].clone();
    assert_eq!((completion["values"].as_array().unwrap().len(), &completion["hasMore"]), (100, &json!(true)));
    bench.end().await;
}

#[tokio::test]
async fn a_modern_caller_that_leaves_cancels() {
    let bench = Bench::new();
    let (to, inlet) = exchange(ROOM);
    drop(inlet);
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {} });
    bench.server.call(bench.caller(None), message(&request), to);
    // Nothing waits for it: the next call is answered.
    assert!(bench.modern("tools/list", json!({})).await["result"].is_object());
    bench.end().await;
}
