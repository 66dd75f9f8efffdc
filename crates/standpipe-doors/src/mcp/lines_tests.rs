//! Lines over a real connection: cut anywhere, too long, not taken, and ended in the middle.

use std::time::Duration;

use standpipe_serve::Limits;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc::Sender;

use super::*;
use crate::mcp::talk::tests::{Bench, Fixture, INITIALIZE, LIMIT, modern};

struct Rig {
    bench: Bench,
    connect: Sender<UnixStream>,
}

impl Rig {
    fn new(limits: Limits) -> Self {
        let bench = Bench::new(limits, Fixture::default());
        let connect = bench.listen(McpLines::new(bench.mcp.clone()));
        Self { bench, connect }
    }

    fn connect(&self) -> Client {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.connect.try_send(ours).unwrap();
        Client(BufReader::new(theirs))
    }
}

struct Client(BufReader<UnixStream>);

impl Client {
    async fn write(&mut self, bytes: &[u8]) {
        timeout(LIMIT, self.0.get_mut().write_all(bytes)).await.expect("it is not taken").unwrap();
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(LIMIT, self.0.read_line(&mut line)).await.expect("nothing comes").unwrap();
        line
    }
}

#[tokio::test]
async fn messages_may_come_in_any_pieces() {
    let rig = Rig::new(Limits::default());
    let stream = format!("{}\nnonsense\n{INITIALIZE}\r\n\n{}\n", modern("1", "echo"), modern("2", "echo"));
    for at in 0..stream.len() {
        let mut client = rig.connect();
        client.write(&stream.as_bytes()[..at]).await;
        client.write(&stream.as_bytes()[at..]).await;
        for id in [1, 0, 2] {
            let line = client.line().await;
            assert!(line.contains(&format!("\"id\":{id},")) && line.ends_with('\n'), "split at {at}: {line}");
        }
    }
    let mut client = rig.connect();
    for byte in stream.as_bytes() {
        client.write(&[*byte]).await;
    }
    for _ in 0..3 {
        assert!(client.line().await.contains("result"));
    }
}

#[tokio::test]
async fn a_message_that_is_too_long_is_answered_and_the_next_one_too() {
    let rig = Rig::new(Limits { mcp_message_bytes_max: 10_000, ..Limits::default() });
    let mut client = rig.connect();
    let long = "x".repeat(100_000);
    for message in [
        format!(r#"{{"jsonrpc":"2.0","id":"first","method":"echo","params":{{"x":"{long}"}}}}"#),
        format!(r#"{{"method":"echo","params":{{"x":"{long}","id":1}},"jsonrpc":"2.0","id":"last"}}"#),
    ] {
        client.write(format!("{message}\n").as_bytes()).await;
        let line = client.line().await;
        let id = if message.contains("first") { "first" } else { "last" };
        assert!(line.starts_with(&format!(r#"{{"jsonrpc":"2.0","id":"{id}","error":{{"code":4130"#)), "{line}");
        assert!(line.contains("mcp_message_bytes_max"), "{line}");
    }
    client.write(format!("{long}\n").as_bytes()).await;
    assert!(client.line().await.starts_with(r#"{"jsonrpc":"2.0","id":null,"error":{"code":4130"#));
    client.write(format!("{}\n", modern("2", "echo")).as_bytes()).await;
    assert!(client.line().await.contains(r#""id":2,"result""#));
    assert_eq!(rig.bench.mcp.metrics().hits()["mcp_message_bytes_max"], 3);
}

#[tokio::test]
async fn long_messages_pass_whole() {
    let rig = Rig::new(Limits::default());
    let mut client = rig.connect();
    let message = modern("1", "echo").replace("\"_meta\"", &format!("\"x\":\"{}\",\"_meta\"", "y".repeat(3_000_000)));
    client.write(format!("{message}\n").as_bytes()).await;
    let line = client.line().await;
    assert!(line.len() > 3_000_000 && line.ends_with("}}}\n"), "{}", line.len());
}

#[tokio::test]
async fn who_does_not_read_is_not_read_from() {
    let rig = Rig::new(Limits::default());
    let mut client = rig.connect();
    let message = modern("1", "echo").replace("\"_meta\"", &format!("\"x\":\"{}\",\"_meta\"", "y".repeat(100_000)));
    let mut sent = 0;
    // The system's buffers, ours, and then nothing more.
    let stuck = async {
        loop {
            let message = message.replace("\"id\":1", &format!("\"id\":{sent}"));
            client.0.get_mut().write_all(format!("{message}\n").as_bytes()).await.unwrap();
            sent += 1;
        }
    };
    assert!(timeout(Duration::from_secs(2), stuck).await.is_err());
    assert!(sent < 100, "{sent} messages were taken from who does not read");
    for _ in 0..sent {
        assert!(client.line().await.contains("result"));
    }
}

#[tokio::test]
async fn at_the_end_of_input_calls_may_end_but_not_for_long() {
    let rig = Rig::new(Limits { mcp_grace_ms: 300, ..Limits::default() });
    let mut client = rig.connect();
    client.write(format!("{}\n{}\n{}", INITIALIZE, modern("1", "wait"), modern("2", "echo")).as_bytes()).await;
    client.0.get_mut().shutdown().await.unwrap();
    assert!(client.line().await.contains(r#""id":0"#));
    assert!(client.line().await.contains(r#""id":2"#), "the last line needs no end");
    let mut rest = String::new();
    timeout(LIMIT, client.0.read_to_string(&mut rest)).await.expect("it does not end").unwrap();
    assert_eq!(rest, "", "the call that never ends was abandoned");
    assert_eq!(rig.bench.fixture.cancelled.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn who_says_nothing_is_let_go() {
    let rig = Rig::new(Limits { first_byte_ms_max: 50, ..Limits::default() });
    assert_eq!(rig.connect().line().await, "");
}

#[tokio::test]
async fn a_server_that_stops_lets_calls_end() {
    let rig = Rig::new(Limits::default());
    let mut client = rig.connect();
    client.write(format!("{}\n{}\n", modern("1", "wait"), modern("2", "echo")).as_bytes()).await;
    assert!(client.line().await.contains(r#""id":2"#));
    let fixture = rig.bench.fixture.clone();
    let stopping = tokio::spawn(rig.bench.core.stop());
    let going_on = async {
        // Whatever it is busy with, it still takes the answer.
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        tick.tick().await;
        tick.tick().await;
        fixture.go_on();
        client.line().await
    };
    assert!(going_on.await.contains(r#""id":1,"result""#));
    assert_eq!(client.line().await, "");
    assert!(timeout(LIMIT, stopping).await.unwrap().unwrap().clean);
}
