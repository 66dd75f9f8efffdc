//! Tools, one by one: what they answer, and what they refuse.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::tools::{TOOLS, listed};
use super::super::{TreeOptions, tools};
use super::{Bench, narrowed};

/// The structured content of a result, which its text says too.
fn content(result: &Value) -> Value {
    assert_eq!(result["isError"], false, "{result}");
    let text = result["content"][0]["text"].as_str().unwrap();
    if !text.contains("\n[") {
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), result["structuredContent"]);
    }
    result["structuredContent"].clone()
}

/// The failure that a result tells of; its text begins with the code and ends with what to do.
fn failure(result: &Value) -> Value {
    assert_eq!(result["isError"], true, "{result}");
    assert!(result.get("structuredContent").is_none(), "{result}");
    assert_eq!(result["content"].as_array().unwrap().len(), 1);
    let error = result["_meta"]["dev.standpipe/error"].clone();
    let text = result["content"][0]["text"].as_str().unwrap();
    let code = error["code"].as_str().unwrap();
    assert!(text.starts_with(&format!("{code}: ")) && text.ends_with('.') && text.contains(". "), "{text}");
    error
}

async fn got(bench: &Bench, tool: &str, arguments: Value, expected: Value) {
    let content = content(&bench.tool(tool, arguments.clone()).await);
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&content[name], value, "{name} of {tool} {arguments}: {content}");
    }
}

async fn refused(bench: &Bench, tool: &str, arguments: Value, code: &str) -> Value {
    let result = bench.tool(tool, arguments.clone()).await;
    let error = failure(&result);
    assert_eq!(error["code"], code, "{tool} {arguments}: {result}");
    error
}

#[tokio::test]
async fn values_are_read() {
    let bench = Bench::new();
    bench.put("/a", &json!({ "b": { "c": { "d": 1 } }, "e": "x", "10": true, "9": false })).await;
    let check = async |arguments: Value, expected: Value| got(&bench, "tree_get", arguments, expected).await;
    check(
        json!({ "path": "a" }),
        json!({ "path": "/a", "exists": true, "truncated": false, "value": { "b": { "c": { "d": 1 } }, "e": "x", "10": true, "9": false } }),
    )
    .await;
    check(json!({ "path": "/a/e/" }), json!({ "path": "/a/e", "value": "x", "bytes": 3 })).await;
    check(json!({ "path": "//a//b/c" }), json!({ "path": "/a/b/c", "value": { "d": 1 } })).await;
    check(
        json!({ "path": "/nothing" }),
        json!({ "exists": false, "value": null, "etag": "null_etag", "truncated": false, "bytes": 4 }),
    )
    .await;
    check(
        json!({ "path": "", "depth": 1 }),
        json!({ "path": "/", "truncated": true, "value": { "a": { "b": true, "e": "x", "10": true, "9": false } } }),
    )
    .await;
    check(json!({ "path": "a", "depth": 0.0 }), json!({ "truncated": true })).await;
    check(json!({ "path": "a", "depth": 32, "max_bytes": null }), json!({ "truncated": false })).await;
    check(
        json!({ "path": "a", "max_bytes": 10 }),
        json!({ "value": null, "exists": true, "truncated": true, "bytes": 47 }),
    )
    .await;
    bench.end().await;
}

#[tokio::test]
async fn what_is_too_long_says_how_long_it_is_and_what_to_do() {
    let bench = Bench::new();
    bench.put("/long", &json!("x".repeat(200_000))).await;
    let result = bench.tool("tree_get", json!({ "path": "long" })).await;
    let text = result["content"][0]["text"].as_str().unwrap();
    assert_eq!(result["structuredContent"]["bytes"], 200_002);
    assert!(
        text.contains("200002") && text.contains("tree_list") && text.contains("tree_query") && text.contains("depth")
    );
    // What is sent is said in full to programs, and cut for people and models.
    let result = bench.tool("tree_get", json!({ "path": "long", "max_bytes": 1_048_576 })).await;
    assert_eq!(result["structuredContent"]["value"].as_str().unwrap().len(), 200_000);
    let text = result["content"][0]["text"].as_str().unwrap();
    assert!(text.chars().count() <= 4_000 && text.contains("cut"), "{}", text.chars().count());
    // Etag and value are of one snapshot; the etag does not depend on how much is shown.
    let whole = bench.tool("tree_get", json!({ "path": "/" })).await;
    let outline = bench.tool("tree_get", json!({ "path": "/", "depth": 0, "max_bytes": 1 })).await;
    assert_eq!(whole["structuredContent"]["etag"], outline["structuredContent"]["etag"]);
    bench.end().await;
}

#[tokio::test]
async fn numbers_and_order_are_what_was_written() {
    let bench = Bench::new();
    bench.put("/n", &json!({ "big": 9_007_199_254_740_991_i64, "half": 0.5, "b": 1, "2": 2, "10": 10, "a": 3 })).await;
    let got = bench.tool("tree_get", json!({ "path": "n" })).await;
    let text = got["content"][0]["text"].as_str().unwrap();
    assert!(text.contains(r#"{"2":2,"10":10,"a":3,"b":1,"big":9007199254740991,"half":0.5}"#), "{text}");
    bench.end().await;
}

#[tokio::test]
async fn children_are_listed_in_pages() {
    let bench = Bench::new();
    let long = "y".repeat(300);
    bench.put("/l", &json!({ "b": { "x": 1 }, "10": 1.5, "9": true, "s": "text", "t": long })).await;
    let check = async |arguments: Value, expected: Value| got(&bench, "tree_list", arguments, expected).await;
    let all = json!([
        { "key": "9", "kind": "boolean", "value": true },
        { "key": "10", "kind": "number", "value": 1.5 },
        { "key": "b", "kind": "object" },
        { "key": "s", "kind": "string", "value": "text" },
        { "key": "t", "kind": "string" },
    ]);
    check(json!({ "path": "l" }), json!({ "path": "/l", "exists": true, "children": all, "next": null })).await;
    check(json!({ "path": "l", "limit": 2 }), json!({ "children": all.as_array().unwrap()[..2], "next": "10" })).await;
    check(
        json!({ "path": "l", "after": "10", "limit": 3 }),
        json!({ "children": all.as_array().unwrap()[2..], "next": null }),
    )
    .await;
    check(json!({ "path": "l", "after": "zzz" }), json!({ "exists": true, "children": [] })).await;
    check(json!({ "path": "l/s" }), json!({ "exists": true, "children": [] })).await;
    check(json!({ "path": "no" }), json!({ "exists": false, "children": [] })).await;
    check(json!({ "path": "" }), json!({ "path": "/", "children": [{ "key": "l", "kind": "object" }] })).await;
    bench.end().await;
}

#[tokio::test]
async fn children_are_selected() {
    let bench = Bench::new();
    let people = json!({ "a": { "age": 30, "name": "Z" }, "b": { "age": 20 }, "c": { "age": 40, "in": { "x": 1 } }, "d": {"no": true} });
    bench.put("/p", &people).await;
    bench.put("/v", &json!({ "x": 3, "y": "s", "z": 1 })).await;
    let check = async |mut arguments: Value, keys: &[&str]| {
        if arguments.get("path").is_none() {
            arguments["path"] = "p".into();
        }
        let content = content(&bench.tool("tree_query", arguments.clone()).await);
        let found: Vec<_> =
            content["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap()).collect();
        assert_eq!((found, &content["truncated"]), (keys.to_vec(), &json!(false)), "{arguments}");
    };
    check(json!({}), &["a", "b", "c", "d"]).await;
    check(json!({ "order_by": "age" }), &["d", "b", "a", "c"]).await;
    check(json!({ "order_by": "age", "start_at": 25 }), &["a", "c"]).await;
    check(json!({ "order_by": "age", "start_at": 20, "end_at": 30 }), &["b", "a"]).await;
    check(json!({ "order_by": "age", "equal_to": 20 }), &["b"]).await;
    check(json!({ "order_by": "age", "limit_to_last": 1 }), &["c"]).await;
    check(json!({ "order_by": "in/x", "equal_to": 1 }), &["c"]).await;
    check(json!({ "order_by": "name", "equal_to": "Z" }), &["a"]).await;
    check(json!({ "order_by": "no", "equal_to": true }), &["d"]).await;
    check(json!({ "order_by": "$key", "start_at": "b", "limit_to_first": 2 }), &["b", "c"]).await;
    check(json!({ "path": "v", "order_by": "$value" }), &["z", "x", "y"]).await;
    check(json!({ "path": "nothing" }), &[]).await;
    check(json!({ "path": "v/x" }), &[]).await;
    for (arguments, part) in [
        (json!({ "path": "p", "limit_to_first": 1, "limit_to_last": 1 }), "limit_to_first"),
        (json!({ "path": "p", "start_at": 1 }), "start_at"),
        (json!({ "path": "p", "order_by": "age", "start_at": {} }), ""),
        (json!({ "path": "p", "order_by": "age", "start_at": [1, "k"] }), ""),
        (json!({ "path": "p", "order_by": "a.b" }), ""),
        (json!({ "path": "p", "order_by": "age", "limit_to_first": 0 }), "limit_to_first"),
        (json!({ "path": "p", "equal_to": "a", "start_at": "a" }), "equal_to"),
    ] {
        let result = bench.tool("tree_query", arguments.clone()).await;
        assert_eq!(failure(&result)["code"], "invalid_argument", "{arguments}");
        assert!(result["content"][0]["text"].as_str().unwrap().contains(part), "{result}");
    }
    bench.end().await;
}

#[tokio::test]
async fn a_selection_is_cut_where_it_is_too_much() {
    let bench = Bench::new();
    let many: serde_json::Map<_, _> = (0..1_200).map(|i| (format!("k{i:05}"), json!(i))).collect();
    bench.put("/many", &many.into()).await;
    let content = content(&bench.tool("tree_query", json!({ "path": "many" })).await);
    assert_eq!((content["items"].as_array().unwrap().len(), &content["truncated"]), (1_000, &json!(true)));
    let big: serde_json::Map<_, _> = (0..5).map(|i| (format!("k{i}"), json!("x".repeat(400_000)))).collect();
    bench.put("/big", &big.into()).await;
    let result = bench.tool("tree_query", json!({ "path": "big" })).await;
    let content = &result["structuredContent"];
    assert_eq!((content["items"].as_array().unwrap().len(), &content["truncated"]), (2, &json!(true)));
    bench.end().await;
}

#[tokio::test]
async fn values_are_written() {
    let bench = Bench::new();
    let set = content(&bench.tool("tree_set", json!({ "path": "a/b", "value": { "c": [1, 2] } })).await);
    assert_eq!(set["path"], "/a/b");
    got(&bench, "tree_get", json!({ "path": "/a/b" }), json!({ "value": { "c": [1, 2] }, "etag": set["etag"] })).await;
    // An update changes what it names, atomically, and null deletes.
    let values = json!({ "a/b/c": null, "a/d": 1, "e": "x" });
    let updated = content(&bench.tool("tree_update", json!({ "path": "/", "values": values })).await);
    assert_eq!((&updated["path"], &updated["written"]), (&json!("/"), &json!(3)));
    got(
        &bench,
        "tree_get",
        json!({ "path": "" }),
        json!({ "value": { "a": { "d": 1 }, "e": "x" }, "etag": updated["etag"] }),
    )
    .await;
    got(&bench, "tree_update", json!({ "path": "/", "values": {} }), json!({ "written": 0 })).await;
    // A push makes a new key each time, and they sort as they came.
    let first = content(&bench.tool("tree_push", json!({ "path": "log", "value": "one" })).await);
    let second = content(&bench.tool("tree_push", json!({ "path": "/log/", "value": "two" })).await);
    assert!(first["key"].as_str() < second["key"].as_str());
    assert_eq!(first["child_path"], format!("/log/{}", first["key"].as_str().unwrap()));
    got(&bench, "tree_get", json!({ "path": first["child_path"] }), json!({ "value": "one", "etag": first["etag"] }))
        .await;
    // A delete says whether there was anything.
    got(&bench, "tree_delete", json!({ "path": "log" }), json!({ "path": "/log", "existed": true })).await;
    got(&bench, "tree_delete", json!({ "path": "log" }), json!({ "existed": false })).await;
    // Null is nothing.
    let null = content(&bench.tool("tree_set", json!({ "path": "a", "value": null })).await);
    assert_eq!(null["etag"], "null_etag");
    got(&bench, "tree_get", json!({ "path": "a" }), json!({ "exists": false })).await;
    // Server values are resolved, and the etag is of what was written.
    let set = content(&bench.tool("tree_set", json!({ "path": "at", "value": { ".sv": "timestamp" } })).await);
    got(&bench, "tree_get", json!({ "path": "at" }), json!({ "etag": set["etag"] })).await;
    bench.end().await;
}

#[tokio::test]
async fn conditions_hold_or_nothing_is_written() {
    let bench = Bench::new();
    let claim = json!({ "path": "claims/1", "value": "me", "if_etag": "null_etag" });
    let etag = content(&bench.tool("tree_set", claim.clone()).await)["etag"].clone();
    let error = refused(&bench, "tree_set", claim, "etag_mismatch").await;
    assert_eq!(error["etag"], etag, "the etag of now comes with the refusal");
    refused(&bench, "tree_delete", json!({ "path": "claims/1", "if_etag": "other" }), "etag_mismatch").await;
    got(&bench, "tree_get", json!({ "path": "claims/1" }), json!({ "value": "me" })).await;
    got(&bench, "tree_delete", json!({ "path": "claims/1", "if_etag": etag }), json!({ "existed": true })).await;
    let error = refused(&bench, "tree_delete", json!({ "path": "claims/1", "if_etag": etag }), "etag_mismatch").await;
    assert_eq!(error["etag"], "null_etag");
    bench.end().await;
}

#[tokio::test]
async fn arguments_are_checked() {
    let bench = Bench::new();
    let check = async |tool: &str, arguments: Value, code: &str| {
        refused(&bench, tool, arguments, code).await;
    };
    for tool in ["tree_list", "tree_get", "tree_query", "tree_set", "tree_update", "tree_push", "tree_delete"] {
        check(tool, json!({}), "invalid_argument").await;
        check(tool, json!([]), "invalid_argument").await;
        check(tool, json!(["a", 1]), "invalid_argument").await;
        check(tool, json!("a"), "invalid_argument").await;
        check(tool, json!({ "path": 7, "value": 1, "values": {} }), "invalid_argument").await;
        check(tool, json!({ "path": null, "value": 1, "values": {} }), "invalid_argument").await;
        check(tool, json!({ "path": "a", "value": 1, "values": {}, "unknown": 1 }), "invalid_argument").await;
    }
    let required = |tool: &str, path: &str| match tool {
        "tree_set" | "tree_push" => json!({ "path": path, "value": 1 }),
        "tree_update" => json!({ "path": path, "values": { "x": 1 } }),
        _ => json!({ "path": path }),
    };
    for tool in ["tree_list", "tree_get", "tree_query", "tree_set", "tree_update", "tree_push", "tree_delete"] {
        for path in ["a.b", "$a", "a/[0]", "a#b", "a%2Fb", "%00", "%ff", &"d/".repeat(40), &"k".repeat(800)] {
            check(tool, required(tool, path), "invalid_path").await;
        }
    }
    for (name, value) in [
        ("depth", json!(33)),
        ("depth", json!(-1)),
        ("depth", json!(1.5)),
        ("depth", json!("1")),
        ("max_bytes", json!(0)),
        ("max_bytes", json!(1_048_577)),
        ("max_bytes", json!(1e300)),
    ] {
        check("tree_get", json!({ "path": "a", name: value }), "invalid_argument").await;
    }
    for limit in [json!(0), json!(1_001), json!(-1), json!([]), json!(true)] {
        check("tree_list", json!({ "path": "a", "limit": limit }), "invalid_argument").await;
    }
    check("tree_set", json!({ "path": "a", "value": { "b.c": 1 } }), "invalid_value").await;
    check("tree_set", json!({ "path": "a", "value": { "": 1 } }), "invalid_value").await;
    check("tree_set", json!({ "path": "a", "value": { ".sv": "nonsense" } }), "invalid_value").await;
    check("tree_set", json!({ "path": "a", "value": 1, "if_etag": 7 }), "invalid_argument").await;
    check("tree_push", json!({ "path": "a", "value": null }), "invalid_value").await;
    check("tree_push", json!({ "path": "a", "value": {} }), "invalid_value").await;
    check("tree_update", json!({ "path": "a", "values": [1] }), "invalid_argument").await;
    check("tree_update", json!({ "path": "a", "values": 1 }), "invalid_argument").await;
    check("tree_update", json!({ "path": "a", "values": null }), "invalid_argument").await;
    check("tree_update", json!({ "path": "a", "values": { "b.c": 1 } }), "invalid_path").await;
    check("tree_update", json!({ "path": "a", "values": { "b": 1, "b/c": 2 } }), "invalid_path").await;
    let error = refused(&bench, "tree_set", json!({ "path": "a", "value": "s".repeat(10_500_000) }), "too_large").await;
    assert_eq!(error["limit"], 10_485_760);
    let deep = (0..40).fold(json!(1), |inner, _| json!({ "d": inner }));
    check("tree_set", json!({ "path": "a", "value": deep }), "invalid_value").await;
    let deeper = (0..120).fold(json!(1), |inner, _| json!([inner]));
    check("tree_set", json!({ "path": "a", "value": deeper }), "invalid_value").await;
    got(&bench, "tree_get", json!({ "path": "a" }), json!({ "exists": false })).await;
    bench.end().await;
}

#[tokio::test]
async fn numbers_that_would_change_are_refused() {
    let bench = Bench::new();
    let caller = bench.caller(None);
    let params = r#"{"name":"tree_set","arguments":{"path":"a","value":18446744073709551617},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}"#;
    let request = standpipe_wire::jsonrpc::Message::request(b"1", "tools/call", params.as_bytes());
    let answer = bench.send(&caller, request).await;
    assert_eq!(failure(&answer["result"])["code"], "invalid_value", "{answer}");
    bench.end().await;
}

#[tokio::test]
async fn rules_are_the_callers() {
    let rules = json!({
        "open": { ".read": true, ".write": "auth != null" },
        "users": { "$uid": { ".read": "auth.uid == $uid", ".write": "auth.uid == $uid", ".validate": "newData.isString()" } },
        "drop": { ".write": true },
    });
    let bench = Bench::ruled(&rules);
    bench.put("/open", &json!({ "x": 1 })).await;
    bench.put("/drop", &json!({ "secret": 1 })).await;
    let (nobody, ada, eve) = (bench.caller(None), bench.caller(Some("ada")), bench.caller(Some("eve")));
    let check = async |caller, tool: &str, arguments: Value, code: Option<&str>| {
        let result = bench.tool_as(caller, tool, arguments.clone()).await;
        match code {
            Some(code) => assert_eq!(failure(&result)["code"], code, "{tool} {arguments}"),
            None => drop(content(&result)),
        }
    };
    let denied = Some("permission_denied");
    check(&nobody, "tree_get", json!({ "path": "open" }), None).await;
    check(&nobody, "tree_get", json!({ "path": "users/ada" }), denied).await;
    check(&nobody, "tree_get", json!({ "path": "" }), denied).await;
    check(&nobody, "tree_list", json!({ "path": "users" }), denied).await;
    check(&nobody, "tree_query", json!({ "path": "users" }), denied).await;
    check(&nobody, "tree_set", json!({ "path": "open/y", "value": 1 }), denied).await;
    check(&ada, "tree_set", json!({ "path": "open/y", "value": 1 }), None).await;
    check(&ada, "tree_set", json!({ "path": "users/ada", "value": "hi" }), None).await;
    check(&ada, "tree_get", json!({ "path": "users/ada" }), None).await;
    check(&ada, "tree_set", json!({ "path": "users/ada", "value": 7 }), denied).await;
    check(&eve, "tree_get", json!({ "path": "users/ada" }), denied).await;
    check(&eve, "tree_delete", json!({ "path": "users/ada" }), denied).await;
    check(&eve, "tree_update", json!({ "path": "", "values": { "open/z": 1, "users/ada": null } }), denied).await;
    check(&eve, "tree_get", json!({ "path": "open/z" }), None).await;
    check(&eve, "tree_push", json!({ "path": "users", "value": "x" }), denied).await;
    // Who may write and not read is told nothing about what is there.
    let result = bench.tool_as(&nobody, "tree_update", json!({ "path": "drop", "values": { "b": 1 } })).await;
    assert_eq!(content(&result)["etag"], Value::Null);
    let result = bench.tool_as(&nobody, "tree_delete", json!({ "path": "drop" })).await;
    assert_eq!(content(&result)["existed"], Value::Null);
    check(&nobody, "tree_set", json!({ "path": "drop", "value": 1, "if_etag": "null_etag" }), None).await;
    check(&nobody, "tree_set", json!({ "path": "drop", "value": 2, "if_etag": "null_etag" }), denied).await;
    bench.end().await;
}

#[tokio::test]
async fn an_index_is_asked_for_where_rules_are() {
    let bench = Bench::ruled(&json!({ ".read": true, "with": { ".indexOn": "age" } }));
    refused(&bench, "tree_query", json!({ "path": "without", "order_by": "age" }), "invalid_argument").await;
    got(&bench, "tree_query", json!({ "path": "with", "order_by": "age" }), json!({ "items": [] })).await;
    bench.end().await;
}

#[tokio::test]
async fn scopes_narrow() {
    let bench = Bench::new();
    let names = async |caller| {
        let answer = bench.modern_as(&caller, "tools/list", json!({})).await;
        let tools = answer["result"]["tools"].as_array().unwrap().clone();
        (tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>(), answer)
    };
    let all =
        ["tree_list", "tree_get", "tree_query", "tree_wait", "tree_set", "tree_update", "tree_push", "tree_delete"];
    let offered: Vec<_> = all.into_iter().filter(|name| TOOLS.iter().any(|tool| tool.name == *name)).collect();
    let (found, answer) = names(bench.caller(None)).await;
    assert_eq!(found, offered, "in the order of the guide");
    assert_eq!((&answer["result"]["ttlMs"], &answer["result"]["cacheScope"]), (&json!(300_000), &json!("public")));
    let reads = narrowed(bench.caller(None), "openid tree:read");
    let (found, answer) = names(reads.clone()).await;
    assert!(found.iter().all(|name| !name.contains("set")) && found.contains(&"tree_get".to_owned()));
    assert_eq!(answer["result"]["cacheScope"], "private");
    let call = json!({ "name": "tree_set", "arguments": { "path": "a", "value": 1 } });
    let answer = bench.modern_as(&reads, "tools/call", call).await;
    assert_eq!((&answer["error"]["code"], &answer["error"]["data"]["scope"]), (&json!(4030), &json!("tree:write")));
    let nothing = narrowed(bench.caller(None), "runs:read");
    for (method, params) in [
        ("resources/list", json!({})),
        ("resources/read", json!({ "uri": "tree:///" })),
        ("tools/call", json!({ "name": "tree_get", "arguments": { "path": "" } })),
    ] {
        let answer = bench.modern_as(&nothing, method, params).await;
        assert_eq!(
            (&answer["error"]["code"], &answer["error"]["data"]["scope"]),
            (&json!(4030), &json!("tree:read")),
            "{method}"
        );
    }
    bench.end().await;
}

#[tokio::test]
async fn a_door_that_only_reads_offers_no_writing() {
    let bench = Bench::with(TreeOptions { read_only: true, ..TreeOptions::default() }, None);
    let answer = bench.modern("tools/list", json!({})).await;
    let tools = answer["result"]["tools"].as_array().unwrap();
    assert!(tools.iter().all(|tool| tool["annotations"]["readOnlyHint"] == true));
    refused(&bench, "tree_set", json!({ "path": "a", "value": 1 }), "read_only").await;
    refused(&bench, "tree_delete", json!({ "path": "a" }), "read_only").await;
    got(&bench, "tree_get", json!({ "path": "a" }), json!({ "exists": false })).await;
    bench.end().await;
}

#[test]
fn tools_are_described_as_clients_want_it() {
    let names: BTreeSet<_> = TOOLS.iter().map(|tool| tool.name).collect();
    assert_eq!(names.len(), TOOLS.len());
    for tool in TOOLS {
        let listed = serde_json::to_value(listed(tool)).unwrap();
        let name = tool.name;
        assert!(tool.description.chars().count() <= 400, "{name}: {}", tool.description.chars().count());
        assert!(!tool.title.is_empty() && listed["title"] == tool.title, "{name}");
        for schema in ["inputSchema", "outputSchema"] {
            assert_eq!(listed[schema]["type"], "object", "{name}: {schema}");
            assert!(!listed[schema].to_string().contains("$ref"), "{name}: {schema}");
        }
        assert_eq!(listed["inputSchema"]["additionalProperties"], false, "{name}");
        for property in listed["inputSchema"]["properties"].as_object().unwrap().iter() {
            assert!(property.1["description"].is_string(), "{name}: {property:?}");
        }
        for hint in ["readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"] {
            assert!(listed["annotations"][hint].is_boolean(), "{name}: {hint}");
        }
    }
    let required = |name: &str| {
        let tool = TOOLS.iter().find(|tool| tool.name == name).unwrap();
        serde_json::to_value(listed(tool)).unwrap()["inputSchema"]["required"].clone()
    };
    assert_eq!(required("tree_get"), json!(["path"]));
    assert_eq!(required("tree_list"), json!(["path"]));
    assert_eq!(required("tree_query"), json!(["path"]));
    assert_eq!(required("tree_set"), json!(["path", "value"]));
    assert_eq!(required("tree_update"), json!(["path", "values"]));
    assert_eq!(required("tree_push"), json!(["path", "value"]));
    assert_eq!(required("tree_delete"), json!(["path"]));
}

/// What a tool answers is what its schema says: no member more, and none of the required ones less.
#[tokio::test]
async fn results_are_what_their_schemas_say() {
    let bench = Bench::new();
    bench.put("/a", &json!({ "b": 1, "c": { "d": "x" } })).await;
    for (name, arguments) in [
        ("tree_list", json!({ "path": "a" })),
        ("tree_list", json!({ "path": "a", "limit": 1 })),
        ("tree_get", json!({ "path": "a" })),
        ("tree_query", json!({ "path": "a" })),
        ("tree_set", json!({ "path": "n", "value": 1 })),
        ("tree_update", json!({ "path": "n", "values": { "a": 1 } })),
        ("tree_push", json!({ "path": "p", "value": 1 })),
        ("tree_delete", json!({ "path": "p" })),
    ] {
        let result = content(&bench.tool(name, arguments).await);
        let tool = TOOLS.iter().find(|tool| tool.name == name).unwrap();
        conforms(&result, &Value::Object((tool.output)()), name);
    }
    bench.end().await;
}

/// As much of JSON Schema as our schemas use.
fn conforms(value: &Value, schema: &Value, at: &str) {
    if let Some(kinds) = schema.get("type") {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let allowed = kinds.as_array().map_or(vec![kinds], |kinds| kinds.iter().collect());
        assert!(allowed.iter().any(|allowed| *allowed == kind), "{at}: {kind} is not {kinds}");
    }
    if let Some(values) = schema.get("enum") {
        assert!(values.as_array().unwrap().contains(value), "{at}: {value} is not in {values}");
    }
    if let (Some(members), Some(properties)) = (value.as_object(), schema.get("properties")) {
        for (name, member) in members {
            let schema = properties.get(name).unwrap_or_else(|| panic!("{at}: {name} is not in the schema"));
            conforms(member, schema, &format!("{at}.{name}"));
        }
        for name in schema["required"].as_array().unwrap() {
            assert!(members.contains_key(name.as_str().unwrap()), "{at}: {name} is missing");
        }
    }
    if let (Some(items), Some(schema)) = (value.as_array(), schema.get("items")) {
        items.iter().for_each(|item| conforms(item, schema, at));
    }
}

#[test]
fn text_is_cut_in_characters() {
    let json = format!("\"{}\"", "ä".repeat(5_000));
    let result = tools::result(json.as_bytes(), Some("[note]"), false).into_message(b"1", false);
    let result: Value = serde_json::from_slice(result.bytes()).unwrap();
    let text = result["result"]["content"][0]["text"].as_str().unwrap();
    assert_eq!(text.chars().count(), 4_000);
    assert!(text.ends_with("[note]") && text.contains("10002 bytes"), "{}", &text[text.len() - 100..]);
}

/// The page shows the tools as they are; `STANDPIPE_UPDATE_DOCS=1` writes them anew.
#[test]
fn the_page_shows_the_tools() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/mcp.md");
    let there = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = there.split_once("<!-- tools: ").expect("the page has the mark");
    let (mark, rest) = rest.split_once('\n').expect("the mark is a line");
    let (_, after) = rest.split_once("<!-- end -->").expect("the part has an end");
    let made = format!("{before}<!-- tools: {mark}\n{}<!-- end -->{after}", page());
    if std::env::var_os("STANDPIPE_UPDATE_DOCS").is_some() {
        std::fs::write(&file, &made).unwrap();
    } else {
        assert!(there == made, "docs/mcp.md is not what the table of tools says: run with STANDPIPE_UPDATE_DOCS=1");
    }
}

/// The tools as a table in Markdown, for `docs/mcp.md`: name, arguments, result, hints, and what it is for.
fn page() -> String {
    let mut page = "| tool | arguments | result | hints |\n|---|---|---|---|\n".to_owned();
    for tool in TOOLS {
        let tools::Hints { read_only, destructive, idempotent, open_world } = tool.hints;
        let hints = [
            (read_only, "reads"),
            (destructive, "destroys"),
            (idempotent, "may be repeated"),
            (open_world, "open world"),
        ];
        let hints: Vec<_> = hints.iter().filter(|(has, _)| *has).map(|(_, hint)| *hint).collect();
        let [arguments, result] = [(tool.input)(), (tool.output)()].map(|schema| members(&schema));
        page += &format!("| `{}` | {arguments} | {result} | {} |\n", tool.name, hints.join(", "));
    }
    for tool in TOOLS {
        page += &format!("\n**`{}`** ({}): {}\n", tool.name, tool.scope, tool.description);
    }
    page + "\n"
}

/// The members of a schema, those that must be there in bold.
fn members(schema: &serde_json::Map<String, Value>) -> String {
    let Some(properties) = schema.get("properties").and_then(|properties| properties.as_object()) else {
        return String::new();
    };
    let is_required = |name: &str| {
        schema
            .get("required")
            .and_then(|names| names.as_array())
            .is_some_and(|names| names.iter().any(|one| one == name))
    };
    let member = |name: &String| if is_required(name) { format!("**`{name}`**") } else { format!("`{name}`") };
    properties.keys().map(member).collect::<Vec<_>>().join(", ")
}
