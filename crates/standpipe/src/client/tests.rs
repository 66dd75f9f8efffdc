//! The client against a peer that answers from a list: what it sends, when it asks again, and what
//! it makes of answers that break off.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread::JoinHandle;

use super::*;
use crate::cli::AccessArgs;
use crate::exit::{Exit, Failure};

const ACCESS: AccessArgs = AccessArgs { db: None, token: None, token_file: None };

/// A peer that gives each connection the next answer, then closes it. Its requests come back.
struct Peer {
    client: Client,
    requests: JoinHandle<Vec<String>>,
}

fn peer(answers: &[&str], access: &AccessArgs) -> Peer {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Client::new(&format!("http://{}", listener.local_addr().unwrap()), access).unwrap();
    let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
    let requests = std::thread::spawn(move || {
        let answer = |answer: String| {
            let (mut stream, _) = listener.accept().unwrap();
            let request = read_request(&mut stream);
            stream.write_all(answer.as_bytes()).unwrap();
            request
        };
        answers.into_iter().map(answer).collect()
    });
    Peer { client, requests }
}

/// A head and as much body as it says, in lower case.
fn read_request(stream: &mut std::net::TcpStream) -> String {
    let mut request = String::new();
    let is_whole = |request: &str| {
        let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
        let length = head.split_once("content-length: ").map_or("0", |(_, rest)| rest.lines().next().unwrap());
        body.len() >= length.parse().unwrap()
    };
    while !is_whole(&request) {
        let mut piece = [0; 4_096];
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "the client sends whole requests: {request}");
        request += &String::from_utf8_lossy(&piece[..count]).to_lowercase();
    }
    request
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn events(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n{body}")
}

fn call(client: &Client, call: &Call) -> (Result<()>, String) {
    let mut out = Vec::new();
    let done = client.call(call, &mut out);
    (done, String::from_utf8(out).unwrap())
}

#[test]
fn a_call_says_everything_it_was_given() {
    let access = AccessArgs { db: Some("d".into()), token: Some("t".into()), ..ACCESS };
    let peer = peer(&[&answer("204 No Content", "", "")], &access);
    let put = Call { if_match: Some("null_etag".into()), ..Call::silent(Verb::Put, "/a", &b"[1]"[..]) };
    assert_eq!(call(&peer.client, &put), (Ok(()), String::new()));
    let request = peer.requests.join().unwrap().remove(0);
    for part in
        ["put /a.json?ns=d&print=silent http/1.1", "authorization: bearer t", "if-match: null_etag", "\r\n\r\n[1]"]
    {
        assert!(request.contains(part), "{part:?} is not in {request:?}");
    }
}

#[test]
fn a_busy_server_is_asked_again() {
    let busy = answer("503 Service Unavailable", "Retry-After: 0\r\n", r#"{"error":"busy"}"#);
    let get = Call::new(Verb::Get, "/");
    let one = peer(&[&busy, &busy, &answer("200 OK", "", "1")], &ACCESS);
    assert_eq!(call(&one.client, &get), (Ok(()), "1".into()));
    assert_eq!(one.requests.join().unwrap().len(), 3);
    let two = peer(&[busy.as_str(); 6], &ACCESS);
    let failure = call(&two.client, &get).0.unwrap_err();
    assert!(failure.to_string().starts_with("error: busy\nhelp: try again"), "{failure}");
    two.requests.join().unwrap();
}

#[test]
fn what_is_no_answer_counts_as_unreachable() {
    let check = |text: &str, part: &str| {
        let peer = peer(&[text], &ACCESS);
        let failure = call(&peer.client, &Call::new(Verb::Get, "/")).0.unwrap_err();
        assert_eq!(failure.exit, Exit::Unreachable, "{failure}");
        assert!(failure.to_string().contains(part), "{part:?} is not in {failure}");
        peer.requests.join().unwrap();
    };
    check("SSH-2.0-OpenSSH\r\n", "is it a standpipe server");
    check("", "is it a standpipe server");
    check("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12", "in the middle of its answer");
    check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", "in the middle of its answer");
}

#[test]
fn a_port_without_a_server_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Client::new(&format!("http://{}", listener.local_addr().unwrap()), &ACCESS).unwrap();
    drop(listener);
    let failure = call(&client, &Call::new(Verb::Get, "/")).0.unwrap_err();
    assert_eq!(failure.exit, Exit::Unreachable);
    assert!(failure.to_string().contains("standpipe dev"), "{failure}");
}

/// What a watch of `/a` prints, which revisions it reaches, how it ends, and what it asked for.
fn watch(answers: &[&str], since: Option<u64>, once: bool) -> (String, Vec<u64>, Result<()>, Vec<String>) {
    let peer = peer(answers, &ACCESS);
    let (mut out, mut reached) = (Vec::new(), Vec::new());
    let mut keep = |rev| {
        reached.push(rev);
        Ok(())
    };
    let done = watch::watch(&peer.client, "/a", since, once, &mut out, &mut keep);
    (String::from_utf8(out).unwrap(), reached, done, peer.requests.join().unwrap())
}

#[test]
fn a_watch_goes_on_after_the_last_revision() {
    let put = |rev: u64| format!("event: put\nid: {rev}\ndata: {{\"path\":\"/\",\"data\":{rev}}}\n\n");
    let line = |rev: u64| format!("{{\"rev\":{rev},\"event\":\"put\",\"path\":\"/\",\"data\":{rev}}}\n");
    let denied = answer("401 Unauthorized", "", r#"{"error":"Permission denied"}"#);
    let busy = answer("503 Service Unavailable", "Retry-After: 0\r\n", "{}");
    let half = put(4).replace("\n\n", "\n");
    let keep_alive = "event: keep-alive\nid: 6\ndata: null\n\n".to_owned();
    let answers =
        [events(&(put(2) + &put(3) + &half)), "HTTP/1.1 200".to_owned(), busy, events(&(put(4) + &keep_alive)), denied];
    let (out, reached, done, requests) = watch(&answers.each_ref().map(String::as_str), Some(1), false);
    assert_eq!(out, line(2) + &line(3) + &line(4));
    assert_eq!(reached, [2, 3, 4, 6]);
    assert_eq!(done.map_err(|failure| failure.exit), Err(Exit::Denied));
    let since = |request: &String| request.split_once("last-event-id: ").map(|(_, rest)| rest.as_bytes()[0]);
    let asked: Vec<_> = requests.iter().map(since).collect();
    assert_eq!(asked, [Some(b'1'), Some(b'3'), Some(b'3'), Some(b'3'), Some(b'6')]);
    assert!(requests[0].contains("get /a.json ") && requests[0].contains("accept: text/event-stream"));
}

#[test]
fn a_watch_ends_where_it_should() {
    let one =
        events("event: keep-alive\ndata: null\n\nevent: put\nid: 1\ndata: {\"path\":\"/\",\"data\":1}\n\nevent: put\n");
    let (out, reached, done, requests) = watch(&[&one], None, true);
    assert_eq!((out.lines().count(), reached, done), (1, vec![1], Ok(())), "--once");
    assert!(!requests[0].contains("last-event-id"));
    let check =
        |answer: &str, exit| assert_eq!(watch(&[answer], None, false).2.map_err(|f| f.exit), Err(exit), "{answer}");
    check(&events("event: cancel\ndata: \"Permission denied\"\n\n"), Exit::Denied);
    check(&answer("404 Not Found", "", "{}"), Exit::Denied);
    check(&answer("200 OK", "", "null"), Exit::Failed);
    check(&answer("503 Service Unavailable", "", "{}"), Exit::Failed);
    check("", Exit::Unreachable);
}

#[test]
fn a_reader_that_has_gone_ends_a_watch_quietly() {
    struct Gone;
    impl std::io::Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let peer = peer(&[&events("event: put\nid: 1\ndata: {\"path\":\"/\",\"data\":1}\n\n")], &ACCESS);
    let mut keep = |_| Err(Failure::failed("nothing was printed, so nothing is reached"));
    let done = watch::watch(&peer.client, "/a", None, false, &mut Gone, &mut keep);
    assert_eq!(done.map_err(|failure| failure.exit), Err(Exit::Ok));
    peer.requests.join().unwrap();
}
