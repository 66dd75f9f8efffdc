//! Tools, one by one: what they answer, and what they refuse.

use serde_json::{Value, json};

use super::Bench;

/// The structured content of a result, which its text says too.
fn content(result: &Value) -> Value {
    assert_eq!(result["isError"], false, "{result}");
    let text = result["content"][0]["text"].as_str().unwrap();
    if !text.contains('[') || !text.contains("cut:") {
        let first = text.lines().next().unwrap();
        assert_eq!(serde_json::from_str::<Value>(first).unwrap(), result["structuredContent"]);
    }
    result["structuredContent"].clone()
}

#[tokio::test]
async fn a_value_comes_with_its_etag() {
    let bench = Bench::new();
    bench.put("/a", &json!({ "b": { "c": 1 }, "d": "x" })).await;
    let got = content(&bench.tool("tree_get", json!({ "path": "a" })).await);
    assert_eq!(got["path"], "/a");
    assert_eq!(got["value"], json!({ "b": { "c": 1 }, "d": "x" }));
    bench.end().await;
}
