//! HTTP+SSE of 2024-11-05 and WebSocket, over real connections, as raw as they are.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use standpipe_serve::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc::Sender;
use tokio::time::timeout;

use super::*;
use crate::mcp::McpPolicy;
use crate::mcp::talk::tests::{Bench, Fixture, INITIALIZE, LIMIT, modern};

struct Rig {
    bench: Bench,
    connect: Sender<UnixStream>,
}

impl Rig {
    fn new(limits: Limits, sse: bool) -> Self {
        let bench = Bench::new(limits, Fixture::default());
        bench.mcp.reload(McpPolicy { anonymous: true, sse, ..McpPolicy::default() });
        let door = McpHttp::new(bench.mcp.clone(), bench.core.metrics().clone(), Arc::new(AtomicBool::new(true)));
        let connect = bench.listen(door);
        Self { bench, connect }
    }

    /// Sends a request; the connection stays.
    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Client {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.connect.try_send(ours).unwrap();
        let mut client = Client { stream: theirs, read: Vec::new() };
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
        client.stream.write_all(head.as_bytes()).await.unwrap();
        client
    }

    async fn post(&self, path: &str, body: &str, status: &str) {
        let mut client = self.ask("POST", path, "content-type: application/json\r\n", body).await;
        let answer = client.until("\r\n\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
}

struct Client {
    stream: UnixStream,
    read: Vec<u8>,
}

impl Client {
    /// What comes up to `end`, and with it.
    async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|window| window == end.as_bytes()) {
                let rest = self.read.split_off(at + end.len());
                return String::from_utf8_lossy(&std::mem::replace(&mut self.read, rest)).into_owned();
            }
            let count = timeout(LIMIT, self.stream.read_buf(&mut self.read)).await.expect("nothing comes").unwrap();
            assert!(count > 0, "the end, and no {end:?} in {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    async fn rest(&mut self) -> Vec<u8> {
        timeout(LIMIT, self.stream.read_to_end(&mut self.read)).await.expect("it does not end").unwrap();
        std::mem::take(&mut self.read)
    }

    async fn frame(&mut self, opcode: u8, payload: &[u8]) {
        let mut frame = vec![0x80 | opcode, 0x80 | 126];
        frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        if payload.len() < 126 {
            frame = vec![0x80 | opcode, 0x80 | payload.len() as u8];
        }
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame).await.unwrap();
    }
}

#[tokio::test]
async fn sse_of_2024_is_off_unless_it_is_on() {
    let rig = Rig::new(Limits::default(), false);
    assert!(rig.ask("GET", "/mcp/sse", "", "").await.until("\r\n").await.contains("404"));
    rig.post("/mcp/messages?session=x", INITIALIZE, "404").await;
}

#[tokio::test]
async fn a_session_of_sse_lives_as_long_as_its_stream() {
    let rig = Rig::new(Limits::default(), true);
    let mut stream = rig.ask("GET", "/mcp/sse", "accept: text/event-stream\r\n", "").await;
    let head = stream.until("\r\n\r\n").await;
    assert!(head.contains("200 OK") && head.contains("text/event-stream"), "{head}");
    stream.until("event: endpoint\ndata: ").await;
    let address = stream.until("\n").await.trim().to_owned();
    assert!(address.starts_with("/mcp/messages?session=") && address.len() == 22 + 32, "{address}");
    rig.post(&address, INITIALIZE, "202").await;
    stream.until(r#"data: {"jsonrpc":"2.0","id":0,"result":{"protocolVersion""#).await;
    rig.post(&address, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, "202").await;
    rig.post(&address, r#"{"jsonrpc":"2.0","id":"a","method":"ask"}"#, "202").await;
    stream.until("roots/list").await;
    stream.until(r#""id":"a","result""#).await;
    rig.post(&address, &modern("7", "echo"), "202").await;
    stream.until(r#""id":7,"result""#).await;
    rig.post(&address, "nonsense", "400").await;
    rig.post(&format!("{address}0"), INITIALIZE, "404").await;
    rig.post(&address.replace("/mcp/", "/mcp/all/"), INITIALIZE, "404").await;
    rig.post(&address, &modern("8", "wait"), "202").await;
    rig.post(&address, &modern("9", "echo"), "202").await;
    stream.until(r#""id":9,"result""#).await;
    drop(stream);
    let gone = async {
        while rig.bench.fixture.cancelled.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, gone).await.expect("the call goes on without its client");
    rig.post(&address, INITIALIZE, "404").await;
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive_and_sessions_are_bounded() {
    let limits = Limits { mcp_keepalive_ms: 20, mcp_sessions_per_principal_max: 1, ..Limits::default() };
    let rig = Rig::new(limits, true);
    let mut stream = rig.ask("GET", "/mcp/sse", "", "").await;
    stream.until(": keep-alive\n\n").await;
    let refused = rig.ask("GET", "/mcp/sse", "", "").await.until("\r\n").await;
    assert!(refused.contains("503"), "{refused}");
    drop(stream);
    let mut again = Err(());
    for _ in 0..1_000 {
        let answer = rig.ask("GET", "/mcp/sse", "", "").await.until("\r\n").await;
        if answer.contains("200") {
            again = Ok(());
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    again.expect("the place was not given back");
}

const HANDSHAKE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test]
async fn a_websocket_carries_both_eras() {
    let rig = Rig::new(Limits { mcp_message_bytes_max: 10_000, ..Limits::default() }, false);
    let headers = format!("{HANDSHAKE}sec-websocket-protocol: other, mcp\r\n");
    let mut client = rig.ask("GET", "/mcp/ws", &headers, "").await;
    let head = client.until("\r\n\r\n").await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("sec-websocket-protocol: mcp\r\n"), "{head}");
    assert!(head.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    client.frame(1, INITIALIZE.as_bytes()).await;
    client.until(r#""id":0,"result":{"protocolVersion":"2025-11-25"}}"#).await;
    client.frame(1, modern("1", "wait").as_bytes()).await;
    client.frame(1, modern("2", "echo").as_bytes()).await;
    client.until(r#""id":2,"result""#).await;
    client.frame(9, b"hello").await;
    client.until("hello").await;
}

#[tokio::test]
async fn a_websocket_ends_in_order() {
    let rig = Rig::new(Limits { mcp_message_bytes_max: 10_000, ..Limits::default() }, false);
    let check = async |opcode: u8, payload: &[u8], code: u16| {
        let mut client = rig.ask("GET", "/mcp/ws", HANDSHAKE, "").await;
        client.until("\r\n\r\n").await;
        client.frame(opcode, payload).await;
        let rest = client.rest().await;
        assert_eq!(rest[0], 0x88, "{rest:?}");
        assert_eq!(rest[2..4], code.to_be_bytes(), "{rest:?}");
    };
    check(8, b"", 1000).await;
    check(1, &[b'x'; 10_001], 1009).await;
    check(2, b"{}", 1003).await;
    check(1, b"\xff", 1007).await;
    for (headers, path) in [
        ("upgrade: websocket\r\n".to_owned(), "/mcp/ws"),
        (format!("{HANDSHAKE}sec-websocket-protocol: graphql\r\n"), "/mcp/ws"),
    ] {
        let answer = rig.ask("GET", path, &headers, "").await.until("\r\n").await;
        assert!(answer.contains("400"), "{answer}");
    }
    let answer = rig
        .ask("GET", "/mcp/ws", &format!("{HANDSHAKE}origin: https://evil.example\r\n"), "")
        .await
        .until("\r\n")
        .await;
    assert!(answer.contains("403"), "{answer}");
}
