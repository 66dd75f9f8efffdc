//! Sessions of the legacy era over raw connections: streams, who may use them, what a lost client can have again, and their ends.

use std::sync::atomic::Ordering;

use standpipe_wire::jsonrpc::Message;

use super::bench::{Bench, call, get, initialize, post, until};

/// The ids of the events in the text of a stream.
fn ids(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("id: ")).collect()
}

#[test]
fn a_call_that_lost_its_client_goes_on_and_can_be_had_again() {
    let bench = Bench::new();
    let session = bench.open("2025-06-18");
    let mut client = bench.client();
    client.send(&call(&session, 1, "begin"));
    assert_eq!(client.head().status, 200);
    let begun = client.until("\"progress\":1");
    assert_eq!(ids(&begun), ["1-1"]);
    drop(client);
    bench.peer.answer("{\"late\":1}");
    assert_eq!(bench.peer.gone.load(Ordering::Relaxed), 0, "nobody is told that it left");
    let resumed = bench.ask(&get(&session, "last-event-id: 1-1\r\n"));
    assert!(resumed.body.contains("\"late\":1") && ids(&resumed.body) == ["1-2"], "{resumed:?}");
    // All of it once more, from the beginning; and what was never there.
    let again = bench.ask(&get(&session, "last-event-id: 1-0\r\n"));
    assert_eq!(ids(&again.body), ["1-1", "1-2"], "{again:?}");
    for lost in ["1-3", "2-0", "x", "1-", "-1", "1-18446744073709551616"] {
        assert_eq!(bench.ask(&get(&session, &format!("last-event-id: {lost}\r\n"))).status, 404, "{lost}");
    }
}

#[test]
fn what_is_kept_is_bounded() {
    let bench = Bench::limited(|limits| limits.mcp_replay_messages_max = 2);
    let session = bench.open("2025-06-18");
    let answer = bench.ask(&call(&session, 1, "progress"));
    assert_eq!(ids(&answer.body), ["1-1", "1-2", "1-3"]);
    assert_eq!(bench.ask(&get(&session, "last-event-id: 1-0\r\n")).status, 404, "too late");
    assert_eq!(ids(&bench.ask(&get(&session, "last-event-id: 1-1\r\n")).body), ["1-2", "1-3"]);
}

#[test]
fn what_is_kept_goes_with_time() {
    let bench = Bench::limited(|limits| limits.mcp_replay_ms_max = 50);
    let session = bench.open("2025-06-18");
    bench.ask(&call(&session, 1, "progress"));
    until("it is forgotten", || bench.mcp.sessions().kept_bytes() == 0);
    assert_eq!(bench.ask(&get(&session, "last-event-id: 1-1\r\n")).status, 404);
    assert_eq!(bench.ask(&call(&session, 1, "echo")).status, 200, "the session goes on");
}

#[test]
fn news_come_on_a_stream_of_their_own_and_a_second_takes_it_over() {
    let bench = Bench::new();
    let session = bench.open("2025-11-25");
    let news = bench.peer.news.lock()[0].clone();
    let tell = |name: &str| news.send(Message::notification(name, b"{}")).unwrap();
    tell("a");
    let mut first = bench.client();
    first.send(&get(&session, ""));
    let head = first.head();
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    let said = first.until("\"a\"");
    assert_eq!(ids(&said), ["0-0", "0-1"], "it says first where it stands: {said}");
    tell("b");
    first.until("\"b\"");
    let mut second = bench.client();
    second.send(&get(&session, ""));
    assert_eq!(second.head().status, 200);
    while first.chunk().is_some() {}
    tell("c");
    assert_eq!(ids(&second.until("\"c\"")), ["0-2", "0-3"]);
    drop(second);
    // While nobody is there news wait.
    tell("d");
    let mut third = bench.client();
    third.send(&get(&session, "last-event-id: 0-1\r\n"));
    third.head();
    let said = third.until("\"d\"");
    assert_eq!(ids(&said), ["0-2", "0-3", "0-4"]);
    assert_eq!(bench.ask(&call(&session, 1, "echo")).status, 200, "the session goes on");
}

#[test]
fn the_servers_requests_go_with_the_call_they_belong_to() {
    let bench = Bench::new();
    let session = bench.open("2025-06-18");
    let mut client = bench.client();
    client.send(&call(&session, 1, "ask"));
    client.head();
    client.until("sampling/createMessage");
    let answer = r#"{"jsonrpc":"2.0","id":"s1","result":{}}"#;
    assert_eq!(bench.ask(&post("/mcp", &format!("mcp-session-id: {session}\r\n"), answer)).status, 202);
    bench.peer.answer("{\"asked\":true}");
    client.until("\"asked\":true");
    assert_eq!(client.chunk(), None, "the reply ends the stream");
    assert_eq!(*bench.peer.told.lock(), ["answer"]);
}

#[test]
fn a_cancelled_call_has_an_end_and_no_reply() {
    let bench = Bench::new();
    let session = bench.open("2025-06-18");
    let mut client = bench.client();
    client.send(&call(&session, 1, "hold"));
    until("it is at work", || !bench.peer.held.lock().is_empty());
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    assert_eq!(bench.ask(&post("/mcp", &format!("mcp-session-id: {session}\r\n"), cancel)).status, 202);
    let answer = client.answer();
    assert_eq!((answer.status, &*answer.body), (200, ""));
}

#[test]
fn a_session_ends_with_its_conversation() {
    let bench = Bench::new();
    let session = bench.open("2025-06-18");
    let mut stream = bench.client();
    stream.send(&get(&session, ""));
    stream.head();
    bench.peer.die();
    assert_eq!(bench.ask(&call(&session, 1, "echo")).status, 404);
    while stream.chunk().is_some() {}
    assert_eq!((bench.mcp.sessions().len(), bench.peer.open.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn the_end_of_a_session_ends_what_is_at_work() {
    let bench = Bench::new();
    let session = bench.open("2025-06-18");
    let mut client = bench.client();
    client.send(&call(&session, 1, "begin"));
    client.head();
    client.until("\"progress\":1");
    let delete = format!("DELETE /mcp HTTP/1.1\r\nhost: localhost\r\nmcp-session-id: {session}\r\n\r\n");
    assert_eq!(bench.ask(&delete).status, 204);
    while client.chunk().is_some() {}
    assert_eq!(bench.ask(&delete).status, 404);
}

#[test]
fn an_idle_session_ends_and_one_that_is_used_does_not() {
    let bench = Bench::limited(|limits| limits.mcp_idle_ms_max = 200);
    let (idle, read, works) = (bench.open("2025-06-18"), bench.open("2025-06-18"), bench.open("2025-06-18"));
    let mut stream = bench.client();
    stream.send(&get(&read, ""));
    stream.head();
    let mut client = bench.client();
    client.send(&call(&works, 1, "hold"));
    until("the idle one has ended", || bench.mcp.sessions().len() == 2);
    assert_eq!(bench.ask(&call(&idle, 1, "echo")).status, 404);
    bench.peer.answer("{}");
    assert_eq!(client.answer().status, 200);
    until("and the other one", || bench.mcp.sessions().len() == 1);
    drop(stream);
    until("and the last one", || bench.mcp.sessions().is_empty());
    until("no conversation is left", || bench.peer.open.load(Ordering::Relaxed) == 0);
    assert_eq!(bench.mcp.metrics().hits().get("mcp_idle_ms_max"), Some(&3));
}

#[test]
fn sessions_are_opened_within_limits() {
    let bench = Bench::limited(|limits| {
        limits.mcp_initialize_burst_max = 3;
        limits.mcp_initialize_per_s_max = 1;
    });
    let opened: Vec<_> = (0..4).map(|_| bench.ask(&initialize("/mcp", "2025-06-18", ""))).collect();
    let told: Vec<_> = opened.iter().map(|answer| answer.status).collect();
    assert_eq!(told, [200, 200, 200, 429]);
    assert_eq!((opened[3].code(), opened[3].header("retry-after")), (4_290, Some("1")));

    let bench = Bench::limited(|limits| limits.mcp_sessions_per_principal_max = 2);
    let (first, _) = (bench.open("2025-06-18"), bench.open("2025-06-18"));
    let refused = bench.ask(&initialize("/mcp", "2025-06-18", ""));
    assert_eq!((refused.status, refused.code(), refused.header("retry-after")), (503, 5_030, Some("5")));
    assert_eq!(refused.header("mcp-session-id"), None);
    bench.ask(&format!("DELETE /mcp HTTP/1.1\r\nhost: localhost\r\nmcp-session-id: {first}\r\n\r\n"));
    bench.open("2025-06-18");
    // What is refused by the server takes no place.
    assert_eq!(bench.mcp.sessions().len(), 2);
}
