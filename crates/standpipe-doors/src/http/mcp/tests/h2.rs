//! The same over HTTP/2: one connection, many streams, each of which may end alone.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::atomic::Ordering;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::bench::{Bench, LIMIT, META, until};

type Client = SendRequest<Full<Bytes>>;

async fn client(bench: &Bench) -> Client {
    let stream = TcpStream::connect(bench.address).await.unwrap();
    let (client, conn) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(conn);
    client
}

fn call(tool: &str) -> Request<Full<Bytes>> {
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}",{META}}}}}"#);
    Request::post("http://localhost/mcp")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", tool)
        .body(Full::new(body.into()))
        .unwrap()
}

async fn text(answer: Response<Incoming>) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
}

#[tokio::test]
async fn calls_share_a_connection_and_each_ends_alone() {
    let bench = Bench::new();
    let mut client = client(&bench).await;
    let held = tokio::spawn(client.send_request(call("hold")));
    let answer = timeout(LIMIT, client.send_request(call("echo"))).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert!(text(answer).await.contains("\"name\":\"echo\""));
    let answer = client.send_request(call("progress")).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(text(answer).await.matches("event: message").count(), 3);
    // One stream is reset, in which nothing has come yet; and one that has begun.
    until("it is at work", || !bench.peer.held.lock().is_empty());
    held.abort();
    let gone = |count| move |bench: &Bench| bench.peer.gone.load(Ordering::Relaxed) == count;
    wait(&bench, gone(1)).await;
    let listen = r#"{"jsonrpc":"2.0","id":"l","method":"subscriptions/listen","params":{META}}"#.replace("META", META);
    let mut request = call("x").map(|_| Full::new(listen.into()));
    request.headers_mut().insert("mcp-method", "subscriptions/listen".parse().unwrap());
    let mut answer = client.send_request(request).await.unwrap();
    assert!(answer.body_mut().frame().await.is_some());
    drop(answer);
    wait(&bench, gone(2)).await;
    assert_eq!(client.send_request(call("echo")).await.unwrap().status(), 200);
}

async fn wait(bench: &Bench, holds: impl Fn(&Bench) -> bool) {
    let ticks = async {
        while !holds(bench) {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, ticks).await.expect("it takes too long");
}
