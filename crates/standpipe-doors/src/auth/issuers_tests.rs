use super::*;

#[test]
fn keys_are_fetched_where_nobody_can_exchange_them() {
    let check = |url: &str, expected: bool| assert_eq!(key_url(url).is_ok(), expected, "{url}");
    check(FIREBASE_KEYS, true);
    check("https://id.example.com:8443/keys?x=1", true);
    check("http://127.0.0.1:8080/keys", true);
    check("http://[::1]/keys", true);
    check("http://localhost/keys", true);
    check("http://id.example.com/keys", false);
    check("http://127.0.0.1.example.com/keys", false);
    check("http://localhost.example.com/keys", false);
    check("file:///etc/passwd", false);
    check("ftp://127.0.0.1/", false);
    check("/keys", false);
    check("", false);
}

#[test]
fn a_project_has_an_id() {
    let check = |id: &str, expected: bool| assert_eq!(Issuer::firebase(id, None).is_ok(), expected, "{id}");
    check("my-project-1a2b3", true);
    check("example.com:my-project", true);
    check("", false);
    check("My Project", false);
    check("a/b", false);
    check(&"p".repeat(129), false);
}
