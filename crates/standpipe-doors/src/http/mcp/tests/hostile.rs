//! Clients that leave, dawdle, come in pieces or in crowds.

use std::io::Read as _;
use std::sync::atomic::Ordering;

use super::bench::{Bench, LIMIT, call, get, initialize, modern, until};

#[test]
fn a_modern_client_that_leaves_cancels() {
    let bench = Bench::new();
    for (request, at_work) in [
        (modern("tools/call", "hold", ""), "before anything came"),
        (modern("subscriptions/listen", "", ""), "in the middle of a stream"),
    ] {
        let before = bench.peer.gone.load(Ordering::Relaxed);
        let mut client = bench.client();
        client.send(&request);
        until(at_work, || !bench.peer.held.lock().is_empty());
        drop(client);
        until(at_work, || bench.peer.gone.load(Ordering::Relaxed) == before + 1);
        bench.peer.held.lock().clear();
    }
}

#[test]
fn a_legacy_client_that_leaves_cancels_nothing() {
    let bench = Bench::limited(|limits| limits.mcp_idle_ms_max = 100);
    let session = bench.open("2025-06-18");
    let mut client = bench.client();
    client.send(&call(&session, 1, "begin"));
    client.head();
    client.until("\"progress\":1");
    drop(client);
    bench.peer.answer("{}");
    until("it is idle now", || bench.mcp.sessions().is_empty());
}

#[test]
fn requests_come_in_any_pieces() {
    let bench = Bench::new();
    let request = modern("tools/call", "echo", r#""a":"é""#);
    let mut client = bench.client();
    for byte in request.as_bytes() {
        std::io::Write::write_all(client.0.get_mut(), &[*byte]).unwrap();
    }
    assert_eq!(client.answer().status, 200);
    // And several in one piece.
    client.send(&request.repeat(3));
    for _ in 0..3 {
        assert_eq!(client.answer().status, 200);
    }
}

#[test]
fn who_does_not_read_loses_the_stream_and_slows_nobody() {
    let bench = Bench::limited(|limits| limits.mcp_outlet_bytes_max = 200_000);
    let session = bench.open("2025-06-18");
    for request in [modern("tools/call", "flood", ""), call(&session, 1, "flood")] {
        let before = bench.peer.gone.load(Ordering::Relaxed);
        let mut client = bench.client();
        client.send(&request);
        until("the stream is full", || bench.peer.gone.load(Ordering::Relaxed) == before + 1);
        assert_eq!(bench.ask(&modern("tools/list", "", "")).status, 200, "others are served");
    }
}

#[test]
fn a_silent_stream_says_that_it_is_alive() {
    let bench = Bench::limited(|limits| limits.mcp_keepalive_ms = 30);
    let session = bench.open("2025-11-25");
    for request in [modern("tools/call", "hold", ""), call(&session, 1, "hold"), get(&session, "")] {
        let mut client = bench.client();
        client.send(&request);
        let head = client.head();
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
        client.until(": keep-alive\n\n: keep-alive\n\n");
    }
}

#[test]
fn a_client_that_takes_nothing_is_given_up() {
    let bench = Bench::limited(|limits| {
        limits.mcp_write_progress_ms_max = 100;
        limits.mcp_keepalive_ms = 10;
        limits.mcp_idle_ms_max = 300;
        limits.mcp_outlet_bytes_max = 64 << 20;
        limits.mcp_outlet_messages_max = 2_000;
    });
    let session = bench.open("2025-06-18");
    let mut client = bench.client();
    client.send(&get(&session, ""));
    let head = client.head();
    assert_eq!(head.status, 200);
    let news = bench.peer.news.lock()[0].clone();
    let params = format!("{{\"data\":\"{}\"}}", "x".repeat(500_000));
    let note = standpipe_wire::jsonrpc::Message::notification("notifications/message", params.as_bytes());
    // More than the system holds between the two.
    until("the session is idle without its reader", || {
        let _forgetful = news.send(note.clone());
        bench.mcp.sessions().is_empty()
    });
}

#[test]
fn a_thousand_sessions_opened_and_left_behind_are_gone() {
    let bench = Bench::limited(|limits| {
        limits.mcp_idle_ms_max = 300;
        limits.mcp_sessions_per_principal_max = 1_000;
        limits.mcp_initialize_burst_max = 1_000;
    });
    let mut client = bench.client();
    let mut opened = 0;
    while opened < 1_000 {
        client.send(&initialize("/mcp", "2025-06-18", ""));
        let answer = client.answer();
        assert_eq!(answer.status, 200, "{answer:?}");
        opened += 1;
    }
    until("all have ended", || bench.mcp.sessions().is_empty());
    until("with their conversations", || bench.peer.open.load(Ordering::Relaxed) == 0);
    assert_eq!(bench.mcp.sessions().kept_bytes(), 0);
    bench.open("2025-06-18");
}

#[test]
fn the_servers_end_ends_streams_and_lets_calls_finish() {
    let mut bench = Bench::new();
    let session = bench.open("2025-06-18");
    let (mut stream, mut listen, mut client) = (bench.client(), bench.client(), bench.client());
    stream.send(&get(&session, ""));
    stream.head();
    listen.send(&modern("subscriptions/listen", "", ""));
    listen.head();
    client.send(&call(&session, 1, "begin"));
    client.head();
    client.until("\"progress\":1");
    let serving = bench.serving.take().unwrap();
    let stopped = std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(serving.stop())
    });
    while stream.chunk().is_some() {}
    // What nobody ends by himself is ended.
    while listen.chunk().is_some() {}
    let held = |message: &standpipe_wire::jsonrpc::Message| message.method() == Some("tools/call");
    bench.peer.held.lock().retain(|(message, _)| held(message));
    bench.peer.answer("{\"late\":1}");
    client.until("\"late\":1");
    assert!(stopped.join().unwrap().clean);
}

#[test]
fn an_answer_comes_in_one_piece() {
    let bench = Bench::new();
    let mut client = bench.client();
    let mut bytes = vec![0; 4_096];
    for _ in 0..5 {
        client.send(&modern("tools/call", "progress", ""));
        client.0.get_ref().set_read_timeout(Some(LIMIT)).unwrap();
        let count = client.0.get_mut().read(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes[..count]);
        assert!(text.starts_with("HTTP/1.1 200") && text.contains("\"progress\":1"), "head and first event: {text}");
        while !String::from_utf8_lossy(&bytes[..count]).ends_with("0\r\n\r\n") {
            let more = client.0.get_mut().read(&mut bytes).unwrap();
            if String::from_utf8_lossy(&bytes[..more]).ends_with("0\r\n\r\n") {
                break;
            }
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_peer_that_vanishes_without_a_word_keeps_no_session() {
    let bench = Bench::limited(|limits| {
        limits.mcp_write_progress_ms_max = 100;
        limits.mcp_keepalive_ms = 20;
        limits.mcp_idle_ms_max = 100;
    });
    let session = bench.open("2025-06-18");
    let mut client = bench.client();
    client.send(&get(&session, ""));
    client.head();
    client.until("keep-alive");
    // From here on the system drops whatever comes for this socket, before anything could be acknowledged.
    let drop_all = socket2::SockFilter::new(6, 0, 0, 0);
    socket2::SockRef::from(client.0.get_ref()).attach_filter(&[drop_all]).unwrap();
    until("its stream has ended, and then the session", || bench.mcp.sessions().is_empty());
}
