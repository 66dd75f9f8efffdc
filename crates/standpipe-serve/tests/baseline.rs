//! After many peers have come and gone and the server has stopped, threads and descriptors are
//! back at the base line. Alone in its process, so that nobody else's are counted.
#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::time::Duration;

use standpipe_serve::{
    Class, CloseReason, Conn, Cost, Deadline, Door, Limits, Refusal, Server, ServerConfig, Session, SocketListener,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Answers each byte after a job on a worker.
struct Worker;

impl Door for Worker {
    fn name(&self) -> &'static str {
        "worker"
    }

    async fn serve(&self, mut conn: Conn, session: Session) -> CloseReason {
        loop {
            let byte = tokio::select! {
                byte = conn.io.read_u8() => byte,
                () = session.closing() => return CloseReason::Shutdown,
            };
            let Ok(byte) = byte else { return CloseReason::PeerClosed };
            let mut request = session.request();
            let run = session.run(Class::Read, Cost::Bytes(1), Deadline::after(10_000), move || byte + 1);
            let answer = run.await.unwrap_or(b'!');
            if conn.io.write_all(&[answer]).await.is_err() {
                return CloseReason::PeerVanished;
            }
            request.finished();
        }
    }

    async fn refuse(&self, _conn: Conn, _refusal: Refusal) {}
}

fn entries(folder: &str) -> usize {
    std::fs::read_dir(folder).expect("there is /proc").count()
}

async fn come_and_go(address: std::net::SocketAddr) {
    let mut stream = TcpStream::connect(address).await.expect("the server listens");
    for _ in 0..5 {
        stream.write_all(b"a").await.expect("the server reads");
        assert_eq!(stream.read_u8().await.expect("the server answers"), b'b');
    }
}

#[tokio::test]
async fn everything_is_given_back() {
    let base = (entries("/proc/self/task"), entries("/proc/self/fd"));
    let limits = Limits { worker_grow_after_ms: 0, ..Limits::default() };
    let server = Server::start(ServerConfig { limits, cores: Some(2) }).expect("it starts");
    let listeners = SocketListener::bind_tcp("127.0.0.1:0", server.cores(), server.metrics()).expect("a free port");
    let address = listeners[0].local_addr().expect("bound");
    server.listen(Arc::new(Worker), listeners);
    let busy = async {
        for _ in 0..10 {
            let peers: Vec<_> = (0..50).map(|_| tokio::spawn(come_and_go(address))).collect();
            for peer in peers {
                peer.await.expect("no assertion fails");
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), busy).await.expect("in time");
    let metrics = server.metrics().clone();
    assert!(server.stop().await.clean);
    let snapshot = metrics.snapshot();
    assert!(snapshot.balanced(), "{snapshot:?}");
    assert_eq!((snapshot.accepted, snapshot.requests, snapshot.finished), (500, 2_500, 2_500));
    assert_eq!((snapshot.workers, snapshot.tasks, snapshot.queue_jobs), (0, 0, 0));
    assert_eq!((entries("/proc/self/task"), entries("/proc/self/fd")), base);
}
