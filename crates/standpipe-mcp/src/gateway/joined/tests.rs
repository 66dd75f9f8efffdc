//! Joined servers, against servers that answer from a table.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use standpipe_serve::Limits;

use super::*;
use crate::exchange::Room;
use crate::{Conversation, Inlet, LegacyServer, exchange};

/// Answers each method with what it was given: results, or `!CODE`. A method it does not know is never answered where it hangs.
#[derive(Debug, Default)]
struct Scripted {
    answers: HashMap<&'static str, Vec<String>>,
    asked: Mutex<Vec<String>>,
    next: AtomicUsize,
    hangs: bool,
    /// Streams of subscriptions.
    listening: Mutex<Vec<Outlet>>,
}

impl Scripted {
    fn new(answers: &[(&'static str, &[&str])]) -> Self {
        let own =
            |(method, all): &(&'static str, &[&str])| (*method, all.iter().map(|text| (*text).to_owned()).collect());
        Self { answers: answers.iter().map(own).collect(), ..Self::default() }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock())
    }
}

impl ModernServer for Scripted {
    fn call(&self, _: Caller, request: Message, to: Outlet) {
        let method = request.method().unwrap_or_default().to_owned();
        self.asked.lock().push(String::from_utf8_lossy(request.bytes()).into_owned());
        let id = request.id().unwrap();
        if method == "subscriptions/listen" {
            let wanted = request.slice(request.at(&["notifications"]).unwrap().unwrap());
            let params = [b"{\"notifications\":", wanted, b"}"].concat();
            to.send(Message::notification("notifications/subscriptions/acknowledged", &params)).unwrap();
            self.listening.lock().push(to);
            return;
        }
        let known = self.answers.get(method.as_str());
        match known.map(|all| &all[self.next.fetch_add(1, Ordering::Relaxed) % all.len()]) {
            Some(answer) => match answer.strip_prefix('!') {
                Some(code) => to.send(Fault::new(code.parse().unwrap(), "it says no").answer(Some(id))).unwrap(),
                None => to.send(Message::result(id, answer.as_bytes())).unwrap(),
            },
            None if self.hangs => self.listening.lock().push(to),
            None => to.send(Fault::new(METHOD_NOT_FOUND, "none").answer(Some(id))).unwrap(),
        }
    }
}

impl LegacyServer for Scripted {
    fn open(&self, _: &Caller, _: Message, _: Outlet, _: Outlet) -> Arc<dyn Conversation> {
        unimplemented!("only the modern era is joined")
    }
}

fn joined(servers: &[(&str, &Arc<Scripted>)]) -> Joined {
    let set = Arc::new(Set::default());
    set.replace(members(servers));
    let limits = Limits { mcp_start_ms_max: 7_000, ..Limits::default() };
    Joined::new(set, LimitsHandle::new(arc_swap::ArcSwap::from_pointee(limits)))
}

fn members(servers: &[(&str, &Arc<Scripted>)]) -> Vec<Member> {
    servers.iter().map(|(name, server)| Member { name: (*name).into(), server: (*server).clone() }).collect()
}

fn ask_json(joined: &Joined, method: &str, params: &str) -> Inlet {
    let params = match params {
        "" => r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#.to_owned(),
        params => params.to_owned(),
    };
    let (outlet, inlet) = exchange(Room { messages: 100, bytes: 100_000 });
    joined.call(Caller::detached("user:a"), Message::request(b"\"x\"", method, params.as_bytes()), outlet);
    inlet
}

async fn reply(joined: &Joined, method: &str, params: &str) -> Value {
    let message = ask_json(joined, method, params).next().await.expect("an answer");
    serde_json::from_slice(message.bytes()).unwrap()
}

fn files() -> Arc<Scripted> {
    Arc::new(Scripted::new(&[
        (
            "tools/list",
            &[
                r#"{"tools":[{"name":"read","x":9007199254740993}],"nextCursor":"2"}"#,
                r#"{"tools":[{"name":"write"}]}"#,
            ],
        ),
        ("tools/call", &[r#"{"resultType":"task","taskId":"t1"}"#]),
        ("tasks/get", &[r#"{"resultType":"complete","taskId":"t1","status":"working"}"#]),
        ("server/discover", &[r#"{"capabilities":{"tools":{"listChanged":false},"resources":{"subscribe":true}}}"#]),
    ]))
}

fn notes() -> Arc<Scripted> {
    Arc::new(Scripted::new(&[
        ("tools/list", &[r#"{"tools":[{"name":"read"},{"title":"no name"}]}"#]),
        ("prompts/list", &[r#"{"prompts":[{"name":"ask"}]}"#]),
        ("prompts/get", &[r#"{"messages":[]}"#]),
        ("completion/complete", &[r#"{"completion":{"values":[]}}"#]),
        ("server/discover", &[r#"{"capabilities":{"prompts":{},"completions":{},"extensions":{"a/b":{}}}}"#]),
        ("resources/list", &[r#"{"resources":[{"uri":"note://1","name":"one"},{"uri":"both://","name":"b"}]}"#]),
        ("resources/templates/list", &[r#"{"resourceTemplates":[{"uriTemplate":"note://{id}/text","name":"t"}]}"#]),
        ("resources/read", &[r#"{"contents":[]}"#]),
    ]))
}

#[tokio::test]
async fn lists_are_put_together_page_by_page() {
    let joined = joined(&[("files", &files()), ("notes", &notes())]);
    let got = ask_json(&joined, "tools/list", "").next().await.unwrap();
    let text = String::from_utf8(got.bytes().to_vec()).unwrap();
    let expected =
        r#""tools":[{"name":"files__read","x":9007199254740993},{"name":"files__write"},{"name":"notes__read"}]}"#;
    assert!(
        text.contains(expected) && text.starts_with(r#"{"jsonrpc":"2.0","id":"x","result":{"resultType":"complete","#),
        "{text}"
    );
    let prompts = reply(&joined, "prompts/list", "").await;
    assert_eq!(prompts["result"]["prompts"], json!([{"name": "notes__ask"}]));
    assert_eq!(prompts["result"]["_meta"].get(META_UNAVAILABLE), None, "to have no prompts is no failure");
    let cursor = reply(&joined, "tools/list", r#"{"cursor":"2"}"#).await;
    assert_eq!(cursor["error"]["code"], INVALID_PARAMS);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_or_hangs_is_left_out_and_named() {
    let refuses = Arc::new(Scripted::new(&[("tools/list", &["!5021"])]));
    let broken = Arc::new(Scripted::new(&[("tools/list", &[r#"{"tools":7}"#])]));
    let hangs = Arc::new(Scripted { hangs: true, ..Scripted::default() });
    let joined = joined(&[("a", &refuses), ("b", &broken), ("c", &hangs), ("notes", &notes())]);
    let got = reply(&joined, "tools/list", "").await;
    assert_eq!(got["result"]["tools"], json!([{"name": "notes__read"}]));
    assert_eq!(got["result"]["_meta"][META_UNAVAILABLE], json!(["a", "b", "c"]));
    let got = reply(&joined, "server/discover", "").await;
    let capabilities = &got["result"]["capabilities"];
    assert!(capabilities["resources"].is_object(), "what is not known yet is offered: {got}");
}

#[tokio::test]
async fn capabilities_are_those_of_all() {
    let joined = joined(&[("files", &files()), ("notes", &notes())]);
    let got = reply(&joined, "server/discover", "").await;
    let expected = json!({"tools": {"listChanged": true}, "resources": {"subscribe": true, "listChanged": true},
        "prompts": {"listChanged": true}, "completions": {}, "extensions": {"a/b": {}}});
    assert_eq!(got["result"]["capabilities"], expected);
    assert_eq!(got["result"]["supportedVersions"], json!(["2026-07-28"]));
}

#[tokio::test]
async fn calls_go_to_the_server_that_is_named() {
    let (files, notes) = (files(), notes());
    let joined = joined(&[("files", &files), ("notes", &notes)]);
    let params = r#"{"name":"files__a__b","n":9007199254740993,"_meta":{"io.modelcontextprotocol/clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}}"#;
    let got = reply(&joined, "tools/call", params).await;
    assert_eq!(got["result"]["taskId"], "files__t1");
    assert!(files.asked()[0].contains(r#""name":"a__b","n":9007199254740993,"#), "only the name is changed");
    let got = reply(&joined, "tasks/get", r#"{"taskId":"files__t1"}"#).await;
    assert_eq!((&got["result"]["taskId"], files.asked()[0].contains(r#""taskId":"t1""#)), (&json!("files__t1"), true));
    reply(&joined, "prompts/get", r#"{"name":"notes__ask"}"#).await;
    reply(&joined, "completion/complete", r#"{"ref":{"type":"ref/prompt","name":"notes__ask"}}"#).await;
    let asked = notes.asked();
    assert!(asked.iter().all(|asked| asked.contains(r#""name":"ask""#)) && asked.len() == 2, "{asked:?}");
}

#[tokio::test]
async fn what_nobody_has_is_refused() {
    let joined = joined(&[("files", &files())]);
    let cases = [
        ("tools/call", r#"{"name":"read"}"#, INVALID_PARAMS),
        ("tools/call", r#"{"name":"none__read"}"#, INVALID_PARAMS),
        ("tools/call", r#"{"name":7}"#, INVALID_PARAMS),
        ("tools/call", r#"{"name":"files__read","name":"x"}"#, INVALID_PARAMS),
        ("prompts/get", r#"{"name":"__x"}"#, INVALID_PARAMS),
        ("tasks/get", "{}", INVALID_PARAMS),
        ("resources/read", r#"{"uri":"x://"}"#, INVALID_PARAMS),
        ("resources/read", "{}", INVALID_PARAMS),
        ("completion/complete", r#"{"ref":{"type":"ref/other"}}"#, INVALID_PARAMS),
        ("completion/complete", "{}", INVALID_PARAMS),
        ("subscriptions/listen", "{}", INVALID_PARAMS),
        ("subscriptions/listen", r#"{"notifications":[]}"#, INVALID_PARAMS),
        ("logging/setLevel", "{}", METHOD_NOT_FOUND),
        ("ping", "{}", METHOD_NOT_FOUND),
    ];
    for (method, params, code) in cases {
        assert_eq!(reply(&joined, method, params).await["error"]["code"], code, "{method} {params}");
    }
}

#[tokio::test]
async fn resources_are_read_from_who_lists_them() {
    let first = Arc::new(Scripted::new(&[
        ("resources/list", &[r#"{"resources":[{"uri":"both://","name":"a"}]}"#]),
        ("resources/read", &[r#"{"contents":["first"]}"#]),
    ]));
    let notes = notes();
    let joined = joined(&[("first", &first), ("notes", &notes)]);
    for uri in ["note://1", "note://77/text"] {
        let got = reply(&joined, "resources/read", &json!({ "uri": uri }).to_string()).await;
        assert_eq!(got["result"]["contents"], json!([]), "{uri}");
    }
    let got = reply(&joined, "resources/read", r#"{"uri":"both://"}"#).await;
    assert_eq!(got["result"]["contents"], json!(["first"]), "the first in the order of the file");
    let listed = reply(&joined, "resources/list", "").await;
    assert_eq!(
        listed["result"]["resources"],
        json!([{"uri": "both://", "name": "a"}, {"uri": "note://1", "name": "one"}])
    );
    let lists = |asked: &[String]| asked.iter().filter(|asked| asked.contains("/list\"")).count();
    assert!(lists(&notes.asked()) <= 3, "what is known is not asked again");
    let missing = reply(&joined, "resources/read", r#"{"uri":"other://"}"#).await;
    assert_eq!(
        (&missing["error"]["code"], &missing["error"]["data"]["uri"]),
        (&json!(INVALID_PARAMS), &json!("other://"))
    );
}

#[tokio::test(start_paused = true)]
async fn subscriptions_are_one_stream() {
    let (first, notes) = (Arc::new(Scripted::default()), notes());
    let joined = joined(&[("first", &first), ("notes", &notes)]);
    let params =
        r#"{"_meta":{},"notifications":{"toolsListChanged":true,"resourceSubscriptions":["note://1","none://"]}}"#;
    let mut inlet = ask_json(&joined, "subscriptions/listen", params);
    let acknowledged: Value = serde_json::from_slice(inlet.next().await.unwrap().bytes()).unwrap();
    let expected = json!({"_meta": {"io.modelcontextprotocol/subscriptionId": "x"},
        "notifications": {"toolsListChanged": true, "resourceSubscriptions": ["note://1"]}});
    assert_eq!(acknowledged["params"], expected);
    let updated = Message::notification("notifications/resources/updated", br#"{"uri":"note://1"}"#);
    notes.listening.lock()[0].send(updated).unwrap();
    assert_eq!(inlet.next().await.unwrap().method(), Some("notifications/resources/updated"));

    // A server whose stream ends is asked again.
    notes.listening.lock().clear();
    while notes.listening.lock().is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let changed = Message::notification("notifications/tools/list_changed", b"{}");
    notes.listening.lock()[0].send(changed.clone()).unwrap();
    assert_eq!(inlet.next().await.unwrap().method(), changed.method());

    // Another set of servers is news, too.
    let third = files();
    joined.0.set.replace(members(&[("third", &third)]));
    assert_eq!(inlet.next().await.unwrap().method(), changed.method());
    assert_eq!(third.listening.lock().len(), 1);
    assert!(notes.listening.lock()[0].is_gone());
    drop(inlet);
    let asked = third.listening.lock()[0].clone();
    asked.gone().await;
}

#[tokio::test(start_paused = true)]
async fn who_leaves_is_asked_for_no_longer() {
    let hangs = Arc::new(Scripted { hangs: true, ..Scripted::default() });
    let joined = joined(&[("a", &hangs)]);
    let inlet = ask_json(&joined, "tools/list", "");
    while hangs.listening.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    drop(inlet);
    let asked = hangs.listening.lock()[0].clone();
    asked.gone().await;
}

#[test]
fn a_message_is_as_it_was_but_for_its_name() {
    let message = Message::parse(Bytes::from_static(
        br#"{"jsonrpc":"2.0","method":"tools/call","id":1.0,"params":{"b":1,"name":"x"}}"#,
    ))
    .unwrap();
    let expected = r#"{"jsonrpc":"2.0","method":"tools/call","id":1.0,"params":{"b":1,"name":"y\"z"}}"#;
    assert_eq!(with_text(&message, &["name"], "y\"z").bytes(), expected.as_bytes());
}
