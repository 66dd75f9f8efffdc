//! Who is let in (spec mcp §2.4): tokens, scopes, names and pages.

use serde_json::json;
use standpipe_serve::Limits;

use super::bench::{Bench, call, initialize, modern, post};
use crate::auth::{Authority, Issuer, Key};
use crate::mcp::McpPolicy;

const SECRET: &str = "a secret of thirty-two bytes, or more";

fn token(claims: serde_json::Value) -> String {
    let mut all = json!({ "sub": "maya", "exp": 32_503_680_000_u64 });
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &all, &key).unwrap()
}

fn bench(policy: McpPolicy, audience: Option<&str>) -> Bench {
    let key = Key::from_file(SECRET.as_bytes()).unwrap();
    let issuer = Issuer::own(key, None).audience(audience.map(str::to_owned)).administrators(true);
    let authority =
        Authority { issuers: vec![issuer], admin_token: Some("the-folders-secret".into()), ..Authority::default() };
    Bench::with(Limits::default(), policy, authority)
}

fn with(request: &str, more: &str) -> String {
    request.replacen("\r\n", &format!("\r\n{more}\r\n"), 1)
}

fn bearer(claims: serde_json::Value) -> String {
    format!("authorization: Bearer {}", token(claims))
}

#[test]
fn who_has_no_token_is_told_where_to_get_one() {
    let bench = bench(McpPolicy::default(), None);
    let request = modern("tools/list", "", "");
    let answer = bench.ask(&request);
    assert_eq!((answer.status, answer.code()), (401, 4_010));
    let metadata = "Bearer resource_metadata=\"http://localhost/.well-known/oauth-protected-resource/mcp\"";
    assert_eq!(answer.header("www-authenticate"), Some(metadata));
    let answer = bench.ask(&post("/mcp/s/a", "", "{}"));
    let named = "Bearer resource_metadata=\"http://localhost/.well-known/oauth-protected-resource/mcp/s/a\", scope=\"gateway:a\"";
    assert_eq!(answer.header("www-authenticate"), Some(named));
    for wrong in [
        "authorization: Bearer x",
        "authorization: Basic eDp5",
        "authorization: Bearer ",
        "authorization: bearer owner",
    ] {
        let answer = bench.ask(&with(&request, wrong));
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        assert!(answer.status == 401 && challenge.contains("error=\"invalid_token\""), "{wrong}: {answer:?}");
    }
    assert_eq!(bench.ask(&with(&request, &bearer(json!({})))).status, 200);
    assert_eq!(bench.ask(&with(&request, "authorization: Bearer the-folders-secret")).status, 200);
    for query in ["?auth=x", "?access_token=x", "?a=1&token=x"] {
        let answer = bench.ask(&request.replacen("/mcp", &format!("/mcp{query}"), 1));
        assert!(answer.status == 400 && answer.body.contains("Authorization: Bearer"), "{query}: {answer:?}");
    }
}

#[test]
fn a_document_says_who_gives_tokens() {
    let bench = Bench::with(
        Limits::default(),
        McpPolicy { url: Some("https://mcp.example.com/".into()), ..McpPolicy::default() },
        Authority {
            issuers: vec![
                Issuer::own(Key::from_file(SECRET.as_bytes()).unwrap(), None)
                    .issuer(Some("https://id.example.com".into())),
            ],
            ..Authority::default()
        },
    );
    let get = |path: &str| bench.ask(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).json();
    let main = get("/.well-known/oauth-protected-resource");
    assert_eq!(main["resource"], "https://mcp.example.com/mcp");
    assert_eq!(main["authorization_servers"], json!(["https://id.example.com"]));
    assert_eq!(main["bearer_methods_supported"], json!(["header"]));
    assert_eq!(main, get("/.well-known/oauth-protected-resource/mcp"));
    assert_eq!(get("/.well-known/oauth-protected-resource/mcp/s/a")["scopes_supported"], json!(["gateway:a"]));
}

#[test]
fn scopes_narrow_and_the_audience_is_ours() {
    let bench = bench(McpPolicy::default(), None);
    let to = |path: &str| modern("tools/list", "", "").replacen("/mcp", path, 1);
    let check = |path: &str, claims: serde_json::Value, status: u16| {
        let answer = bench.ask(&with(&to(path), &bearer(claims.clone())));
        assert_eq!(answer.status, status, "{path} {claims}: {answer:?}");
        answer
    };
    check("/mcp/s/a", json!({}), 200);
    check("/mcp/s/a", json!({ "scope": "gateway:b gateway:a" }), 200);
    check("/mcp/s/a", json!({ "scp": ["gateway:a"] }), 200);
    check("/mcp/s/a", json!({ "scope": 7 }), 403);
    check("/mcp/s/a", json!({ "admin": true, "scope": "tree:read" }), 403);
    check("/mcp/all", json!({ "scope": "gateway:a" }), 403);
    let answer = check("/mcp/s/a", json!({ "scope": "gateway:b" }), 403);
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(challenge.contains("error=\"insufficient_scope\", scope=\"gateway:a\""), "{challenge}");

    let policy = McpPolicy { audience: Some("us".into()), ..McpPolicy::default() };
    let bench = self::bench(policy, Some("us"));
    let ask = |claims| bench.ask(&with(&to("/mcp"), &bearer(claims))).status;
    assert_eq!(ask(json!({ "aud": "us" })), 200);
    assert_eq!(ask(json!({ "aud": ["them", "us"] })), 200);
    assert_eq!(ask(json!({ "aud": "them" })), 401);
    assert_eq!(ask(json!({})), 401);
}

#[test]
fn a_session_is_its_principals_alone() {
    let bench = bench(McpPolicy { anonymous: true, ..McpPolicy::default() }, None);
    let maya = bearer(json!({}));
    let opened = bench.ask(&with(&initialize("/mcp", "2025-06-18", ""), &maya));
    let request = call(opened.header("mcp-session-id").unwrap(), 1, "echo");
    assert_eq!(bench.ask(&with(&request, &maya)).status, 200);
    assert_eq!(bench.ask(&with(&request, &bearer(json!({ "x": 1 })))).status, 200, "another token of hers");
    assert_eq!(bench.ask(&with(&request, &bearer(json!({ "sub": "eve" })))).status, 404);
    assert_eq!(bench.ask(&with(&request, "authorization: Bearer the-folders-secret")).status, 404);
    assert_eq!(bench.ask(&request).status, 404);
    assert_eq!(bench.ask(&with(&request, "authorization: Bearer x")).status, 401);
}

#[test]
fn strangers_names_and_pages_are_refused() {
    let policy = McpPolicy {
        anonymous: true,
        hosts: vec!["mcp.example.com".into()],
        origins: vec!["https://app.example.com".into()],
        ..McpPolicy::default()
    };
    let bench = bench(policy, None);
    let ask = |host: &str, origin: &str| {
        let request = modern("tools/list", "", "").replacen("host: localhost", &format!("host: {host}"), 1);
        bench.ask(&if origin.is_empty() { request } else { with(&request, &format!("origin: {origin}")) })
    };
    let check = |host: &str, origin: &str, status: u16| {
        let answer = ask(host, origin);
        assert_eq!(answer.status, status, "{host} {origin}: {answer:?}");
        let allowed = answer.header("access-control-allow-origin");
        assert_eq!(allowed, (status == 200 && !origin.is_empty()).then_some(origin), "{host} {origin}");
    };
    check("localhost", "", 200);
    check("127.0.0.1:80", "", 200);
    check("mcp.example.com", "", 200);
    check("evil.example.com", "", 403);
    check("localhost", "http://localhost:3000", 200);
    check("localhost", "https://app.example.com", 200);
    check("mcp.example.com", "https://mcp.example.com", 200);
    check("localhost", "http://evil.example.com", 403);
    check("localhost", "null", 403);
    check("evil.example.com", "http://evil.example.com", 403);
    let preflight = |origin: &str| {
        bench.ask(&format!(
            "OPTIONS /mcp HTTP/1.1\r\nhost: localhost\r\norigin: {origin}\r\naccess-control-request-method: POST\r\n\
             access-control-request-headers: mcp-session-id, content-type\r\n\r\n"
        ))
    };
    let allowed = preflight("https://app.example.com");
    assert_eq!(allowed.status, 204);
    assert_eq!(allowed.header("access-control-allow-headers"), Some("mcp-session-id, content-type"));
    assert!(allowed.header("access-control-allow-methods").unwrap().contains("DELETE"));
    assert!(allowed.header("access-control-expose-headers").unwrap().contains("Mcp-Session-Id"));
    assert_eq!(preflight("http://evil.example.com").status, 403);
}
