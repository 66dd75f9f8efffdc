//! Connections through a server: permits, refusals, panics, counters, events, shutdown.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::{Gate, LIMIT, until, within};
use crate::{
    BindError, Class, CloseReason, Conn, ConnIo, Cost, Deadline, Door, Event, JobError, Limits, Listener, Metrics,
    Observed, OnFailure, OnShutdown, Outcome, Peer, Refusal, Server, ServerConfig, Session, Snapshot, SocketListener,
    TaskKind,
};

/// Answers each byte: `e` with itself, `j` after a job at the gate, `f` with a flood, `n` never and
/// deaf to shutdown, `x` with an error, `s` with a flood that the peer must take in time, `w` after
/// attaching a watcher, `b` after admitting ten bytes of a body; `p` panics, `q` ends the connection,
/// `k` has it ended, `o` begins one that outlives it. What is refused is answered with `!`.
pub(super) struct ByteDoor(pub(super) Gate);

impl Door for ByteDoor {
    fn name(&self) -> &'static str {
        "bytes"
    }

    async fn serve(&self, mut conn: Conn, session: Session) -> CloseReason {
        let (mut watchers, mut bodies) = (Vec::new(), Vec::new());
        loop {
            let mut byte = [0];
            tokio::select! {
                biased;
                read = conn.io.read_exact(&mut byte) => match read {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return CloseReason::PeerClosed,
                    Err(_) => return CloseReason::PeerVanished,
                },
                () = session.closing() => return CloseReason::Shutdown,
            }
            let mut request = session.request();
            if session.admit_requests(1).is_err() {
                request.end(Outcome::Refused);
                byte[0] = b'!';
            }
            match byte[0] {
                b'q' => {
                    request.finished();
                    return CloseReason::PeerClosed;
                }
                b'p' => panic!("on purpose"),
                b'k' => session.close(CloseReason::Kicked),
                b'f' => {
                    let _gone = conn.io.write_all(&vec![b'f'; 4 << 20]).await;
                }
                b's' => {
                    session.due(CloseReason::WriteTimeout, session.limits().write_progress_ms_max);
                    session.output_blocked(true);
                    let flood = vec![b's'; 4 << 20];
                    tokio::select! {
                        _gone = conn.io.write_all(&flood) => {}
                        () = session.closing() => return CloseReason::Shutdown,
                    }
                    session.output_blocked(false);
                    session.not_due();
                }
                b'o' => {
                    let outlive = |session: Session| async move {
                        session.closing().await;
                        CloseReason::Shutdown
                    };
                    if session.branch(outlive).is_err() {
                        byte[0] = b'!';
                    }
                }
                b'w' => match session.watch_permit() {
                    Ok(permit) => watchers.push(permit),
                    Err(_) => byte[0] = b'!',
                },
                b'b' => match session.body_bytes(10) {
                    Ok(permit) => bodies.push(permit),
                    Err(_) => byte[0] = b'!',
                },
                b'n' => std::future::pending().await,
                b'x' => request.failed("wrong"),
                b'j' => {
                    let gate = self.0.clone();
                    let deadline = Deadline::after(session.limits().request_ms_max);
                    let run = session.run(Class::Read, Cost::Bytes(1), deadline, move || gate.pass());
                    if let Err(error) = run.await {
                        request.end(Outcome::from(&error));
                        byte[0] = b'!';
                    }
                }
                _ => {}
            }
            if conn.io.write_all(&byte).await.is_err() {
                return CloseReason::PeerVanished;
            }
            session.add_bytes(1, 1);
            request.finished();
        }
    }

    async fn refuse(&self, mut conn: Conn, refusal: Refusal) {
        let _gone = conn.io.write_all(refusal.as_str().as_bytes()).await;
    }
}

/// Connections made by the test, each from the peer it names.
pub(super) struct Hatch(Receiver<Conn>);

impl Listener for Hatch {
    async fn accept(&mut self) -> Conn {
        match self.0.recv().await {
            Some(conn) => conn,
            None => std::future::pending().await,
        }
    }
}

/// A server with a [`ByteDoor`] behind one hatch on each of two event loops.
pub(super) struct Stand {
    pub(super) server: Server,
    hatches: Vec<Sender<Conn>>,
    pub(super) gate: Gate,
    metrics: Metrics,
    next: usize,
}

impl Stand {
    pub(super) fn new(limits: Limits) -> Self {
        let server = Server::start(ServerConfig { limits, cores: Some(2) }).unwrap();
        let (hatches, listeners) = (0..2).map(|_| mpsc::channel(64)).map(|(to, from)| (to, Hatch(from))).unzip();
        let gate = Gate::new();
        server.listen(Arc::new(ByteDoor(gate.clone())), listeners);
        let metrics = server.metrics().clone();
        Self { server, hatches, gate, metrics, next: 0 }
    }

    /// A connection from `peer`, by turns on the event loops.
    pub(super) async fn connect(&mut self, peer: &str) -> UnixStream {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        ours.set_nonblocking(true).unwrap();
        self.next += 1;
        let index = self.next % self.hatches.len();
        let peer = Peer::Ip(peer.parse().unwrap());
        // A tokio stream belongs to the event loop it is made on.
        let runtime = self.server.runtimes().nth(index).unwrap();
        let io = {
            let _on_the_loop = runtime.enter();
            ConnIo::Unix(UnixStream::from_std(theirs).unwrap())
        };
        self.hatches[index].send(Conn::plain(io, peer)).await.unwrap();
        UnixStream::from_std(ours).unwrap()
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.metrics.snapshot()
    }

    /// Waits until nothing is going on, and checks that everything was given back.
    pub(super) async fn at_rest(&self) {
        until("every connection came and went", || self.snapshot().closed == self.next as u64).await;
        until("counters balance", || self.snapshot().balanced()).await;
        assert_eq!(self.server.core_for_tests().seats.counts(), (0, 0, 0));
        let snapshot = self.snapshot();
        assert_eq!((snapshot.queue_jobs, snapshot.queue_bytes, snapshot.watchers), (0, 0, 0));
        assert_eq!(self.server.core_for_tests().bodies.used(), 0);
    }
}

pub(super) async fn ask(stream: &mut UnixStream, byte: u8) -> u8 {
    stream.write_all(&[byte]).await.unwrap();
    within(stream.read_u8()).await.unwrap()
}

pub(super) async fn rest(stream: &mut UnixStream) -> String {
    let mut text = String::new();
    within(stream.read_to_string(&mut text)).await.unwrap();
    text
}

#[tokio::test]
async fn permits_come_back_after_every_kind_of_end() {
    let mut stand = Stand::new(Limits::default());
    for _ in 0..5 {
        let mut quitter = stand.connect("10.0.0.1").await;
        assert_eq!(ask(&mut quitter, b'e').await, b'e');
        quitter.write_all(b"q").await.unwrap();
        assert_eq!(rest(&mut quitter).await, "");
        let mut panicker = stand.connect("10.0.0.2").await;
        panicker.write_all(b"p").await.unwrap();
        assert_eq!(rest(&mut panicker).await, "");
        drop(stand.connect("10.0.0.3").await);
        let mut wrong = stand.connect("10.0.0.4").await;
        assert_eq!(ask(&mut wrong, b'x').await, b'x');
    }
    stand.at_rest().await;
    let snapshot = stand.snapshot();
    let reasons: Vec<_> = snapshot.closed_by_reason.into_iter().collect();
    assert_eq!(reasons, [("panicked", 5), ("peer_closed", 15)]);
    assert_eq!((snapshot.requests, snapshot.finished, snapshot.cancelled), (20, 15, 5));
    assert_eq!((snapshot.bytes_in, snapshot.bytes_out), (10, 10));
    assert!(within(stand.server.stop()).await.clean);
}

#[tokio::test]
async fn one_too_many_is_told_so_in_its_protocol() {
    let mut stand = Stand::new(Limits { connections_max: 3, connections_per_peer_max: 2, ..Limits::default() });
    let mut let_in = vec![stand.connect("10.0.0.1").await, stand.connect("10.0.0.1").await];
    for stream in &mut let_in {
        assert_eq!(ask(stream, b'e').await, b'e');
    }
    assert_eq!(rest(&mut stand.connect("10.0.0.1").await).await, "peer_connections");
    let mut third = stand.connect("10.0.0.2").await;
    assert_eq!(ask(&mut third, b'e').await, b'e');
    assert_eq!(rest(&mut stand.connect("10.0.0.3").await).await, "connections");
    until("refusals end", || stand.snapshot().open == 3).await;
    drop(third);
    until("a seat is free", || stand.snapshot().open == 2).await;
    assert_eq!(ask(&mut stand.connect("10.0.0.3").await, b'e').await, b'e');
    drop(let_in);
    stand.at_rest().await;
    assert_eq!(stand.snapshot().closed_by_reason["refused"], 2);
    assert!(within(stand.server.stop()).await.clean);
}

/// Never done saying "no".
struct Chatterbox;

impl Door for Chatterbox {
    fn name(&self) -> &'static str {
        "chatterbox"
    }

    async fn serve(&self, _conn: Conn, session: Session) -> CloseReason {
        session.closing().await;
        CloseReason::Shutdown
    }

    async fn refuse(&self, conn: Conn, _refusal: Refusal) {
        std::future::pending::<()>().await;
        drop(conn);
    }
}

#[tokio::test]
async fn refusals_have_a_budget_and_an_end() {
    let limits = Limits { connections_max: 1, refusal_budget_max: 2, refusal_ms_max: 200, ..Limits::default() };
    let server = Server::start(ServerConfig { limits, cores: Some(1) }).unwrap();
    let listeners = SocketListener::bind_tcp("127.0.0.1:0", 1, server.metrics()).unwrap();
    let address = listeners[0].local_addr().unwrap();
    server.listen(Arc::new(Chatterbox), listeners);
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(TcpStream::connect(address).await.unwrap());
    }
    // One is served, two are talked to, two have been closed without a word.
    until("five have come", || server.metrics().snapshot().accepted == 5).await;
    until("refusals end", || server.metrics().snapshot().open == 1).await;
    assert_eq!(server.metrics().snapshot().refusals["connections"], 4);
    assert_eq!(server.core_for_tests().refusals.used(), 0);
    let metrics = server.metrics().clone();
    assert!(within(server.stop()).await.clean);
    assert!(metrics.snapshot().balanced());
}

#[tokio::test]
async fn idle_active_and_queued_peers_all_end_in_time() {
    let limits = Limits { workers_min: 1, workers_max: 1, drain_ms: 10_000, ..Limits::default() };
    let mut stand = Stand::new(limits);
    let mut idle = stand.connect("10.0.0.1").await;
    let mut active = stand.connect("10.0.0.2").await;
    let mut queued = stand.connect("10.0.0.3").await;
    let silent = stand.connect("10.0.0.4").await;
    active.write_all(b"j").await.unwrap();
    until("a job runs", || stand.gate.entered() == 1).await;
    queued.write_all(b"j").await.unwrap();
    until("a job waits", || stand.snapshot().queue_jobs == 1).await;
    until("all are there", || stand.snapshot().open == 4).await;
    let (gate, metrics) = (stand.gate.clone(), stand.metrics.clone());
    let stop = tokio::spawn(stand.server.stop());
    // The idle ones leave at once, the busy ones with their answer.
    assert_eq!(rest(&mut idle).await, "");
    until("the idle have left", || metrics.snapshot().open == 2).await;
    gate.release(2);
    assert_eq!((rest(&mut active).await, rest(&mut queued).await), ("j".into(), "j".into()));
    assert!(within(stop).await.unwrap().clean);
    let snapshot = metrics.snapshot();
    assert!(snapshot.balanced());
    assert_eq!((snapshot.closed_by_reason["shutdown"], snapshot.finished, snapshot.tasks), (4, 2, 0));
    assert_eq!(snapshot.workers, 0);
    drop(silent);
}

#[tokio::test]
async fn what_does_not_end_is_dropped_after_the_drain_time() {
    let mut stand = Stand::new(Limits { drain_ms: 50, ..Limits::default() });
    let mut deaf = stand.connect("10.0.0.1").await;
    deaf.write_all(b"n").await.unwrap();
    let mut stalled = stand.connect("10.0.0.2").await;
    stalled.write_all(b"f").await.unwrap();
    let _idle = stand.connect("10.0.0.3").await;
    until("all are there", || (stand.snapshot().requests, stand.snapshot().open) == (2, 3)).await;
    let (seats, metrics) = (stand.server.core_for_tests().seats.clone(), stand.metrics.clone());
    let before = Instant::now();
    assert!(!within(stand.server.stop()).await.clean);
    assert!(before.elapsed() < LIMIT / 2);
    assert_eq!(rest(&mut deaf).await, "");
    assert!(rest(&mut stalled).await.len() < 4 << 20);
    let snapshot = metrics.snapshot();
    assert_eq!((snapshot.closed_by_reason["aborted"], snapshot.closed_by_reason["shutdown"]), (2, 1));
    assert_eq!(snapshot.cancelled, 2);
    assert_eq!((snapshot.balanced(), snapshot.tasks, seats.counts()), (true, 0, (0, 0, 0)));
}

#[tokio::test]
async fn a_branch_outlives_its_connection_and_is_a_connection_to_everybody_else() {
    let mut stand = Stand::new(Limits { connections_per_peer_max: 3, ..Limits::default() });
    let mut trunk = stand.connect("10.0.0.1").await;
    assert_eq!((ask(&mut trunk, b'o').await, ask(&mut trunk, b'o').await), (b'o', b'o'));
    assert_eq!(ask(&mut trunk, b'o').await, b'!', "three seats are taken");
    drop(trunk);
    until("only its branches are left", || stand.snapshot().open == 2).await;
    let branches = stand.server.sessions();
    assert_eq!(branches.iter().map(|info| info.door).collect::<Vec<_>>(), ["bytes", "bytes"]);
    assert!(stand.server.kick(branches[0].id));
    until("one is closed", || stand.snapshot().open == 1).await;
    let (seats, metrics) = (stand.server.core_for_tests().seats.clone(), stand.metrics.clone());
    assert!(within(stand.server.stop()).await.clean);
    let snapshot = metrics.snapshot();
    let reasons: Vec<_> = snapshot.closed_by_reason.iter().map(|(name, count)| (*name, *count)).collect();
    assert_eq!(reasons, [("kicked", 1), ("peer_closed", 1), ("refused", 1), ("shutdown", 1)]);
    assert_eq!((snapshot.balanced(), seats.counts()), (true, (0, 0, 0)));
}

#[tokio::test]
async fn a_second_signal_ends_the_drain() {
    let mut stand = Stand::new(Limits { drain_ms: 600_000, ..Limits::default() });
    let mut deaf = stand.connect("10.0.0.1").await;
    deaf.write_all(b"n").await.unwrap();
    until("it is deaf", || stand.snapshot().requests == 1).await;
    let shutdown = stand.server.shutdown().clone();
    let stop = tokio::spawn(stand.server.stop());
    within(shutdown.stopping()).await;
    shutdown.abort();
    assert!(!within(stop).await.unwrap().clean);
}

#[tokio::test]
async fn events_tell_the_life_of_a_connection() {
    let mut stand = Stand::new(Limits::default());
    let mut events = stand.server.events().subscribe(64);
    let mut stream = stand.connect("10.0.0.1").await;
    assert_eq!(ask(&mut stream, b'e').await, b'e');
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let Observed { origin, event } = within(events.recv()).await.unwrap();
        assert_eq!((origin.door, origin.peer.to_string().as_str()), ("bytes", "10.0.0.1"));
        seen.push(match event {
            Event::Finished { outcome, .. } => outcome.as_str(),
            Event::Opened => "opened",
            Event::Admitted => "admitted",
            Event::Started => "started",
            _ => "else",
        });
    }
    assert_eq!(seen, ["opened", "admitted", "started", "finished"]);
    drop(stream);
    let closed = within(events.recv()).await.unwrap().event;
    let Event::Closed { reason, bytes_in, bytes_out, .. } = closed else { panic!("{closed:?}") };
    assert_eq!((reason, bytes_in, bytes_out), (CloseReason::PeerClosed, 1, 1));
    assert!(within(stand.server.stop()).await.clean);
}

#[tokio::test]
async fn a_callback_hears_everything_and_slows_nobody() {
    let mut stand = Stand::new(Limits::default());
    let (heard, gate) = (Arc::new(AtomicUsize::new(0)), Gate::new());
    let (count, wait) = (heard.clone(), gate.clone());
    let hear = move |observed: &Observed| match (&observed.event, count.fetch_add(1, Ordering::SeqCst)) {
        (Event::Closed { .. }, _) => {}
        (_, 0) => wait.pass(),
        (_, 1) => panic!("on purpose"),
        _ => {}
    };
    stand.server.events().on(hear).unwrap();
    let mut stream = stand.connect("10.0.0.1").await;
    for _ in 0..10 {
        assert_eq!(ask(&mut stream, b'e').await, b'e');
    }
    until("the callback is stuck", || gate.entered() == 1).await;
    drop(stream);
    stand.at_rest().await;
    assert_eq!(heard.load(Ordering::SeqCst), 1);
    gate.release(1);
    assert!(within(stand.server.stop()).await.clean);
    // Opened, admitted, ten requests, closed.
    assert_eq!(heard.load(Ordering::SeqCst), 2 + 2 * 10 + 1);
}

#[tokio::test]
async fn a_session_closed_from_outside_says_why() {
    let mut stand = Stand::new(Limits::default());
    let mut stream = stand.connect("10.0.0.1").await;
    stream.write_all(b"k").await.unwrap();
    assert_eq!(rest(&mut stream).await, "k");
    stand.at_rest().await;
    assert_eq!(stand.snapshot().closed_by_reason["kicked"], 1);
    assert!(within(stand.server.stop()).await.clean);
}

#[tokio::test]
async fn a_slow_subscriber_loses_events_and_slows_nobody() {
    let mut stand = Stand::new(Limits::default());
    let slow = stand.server.events().subscribe(2);
    let mut stream = stand.connect("10.0.0.1").await;
    for _ in 0..10 {
        assert_eq!(ask(&mut stream, b'e').await, b'e');
    }
    drop(stream);
    stand.at_rest().await;
    until("all but two are dropped", || stand.snapshot().events_dropped == 2 + 20 + 1 - 2).await;
    drop(slow);
    let mut other = stand.connect("10.0.0.1").await;
    assert_eq!(ask(&mut other, b'e').await, b'e');
    assert_eq!(stand.snapshot().events_dropped, 21);
    assert!(within(stand.server.stop()).await.clean);
}

#[tokio::test]
async fn the_exposition_has_every_family() {
    let mut stand = Stand::new(Limits::default());
    let mut stream = stand.connect("10.0.0.1").await;
    stand.gate.release(1);
    assert_eq!(ask(&mut stream, b'j').await, b'j');
    until("it is counted", || stand.snapshot().finished == 1).await;
    let mut registry = Registry::with_prefix("standpipe");
    stand.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "standpipe_connections_open{door=\"bytes\"} 1",
        "standpipe_connections_accepted_total{door=\"bytes\"} 1",
        "standpipe_connections_closed_total{door=\"bytes\",reason=\"peer_closed\"} 0",
        "standpipe_requests_total{door=\"bytes\",outcome=\"finished\"} 1",
        "standpipe_refusals_total{door=\"bytes\",reason=\"queue_full\"} 0",
        "standpipe_sent_bytes_total{door=\"bytes\"} 1",
        "standpipe_queue_jobs{class=\"read\"} 0",
        "standpipe_workers 1",
        "standpipe_workers_created_total 1",
        "standpipe_request_seconds_count{door=\"bytes\"} 1",
        "standpipe_queue_wait_seconds_count{class=\"read\"} 1",
        "standpipe_service_seconds_bucket{le=\"+Inf\",class=\"read\"} 1",
        "standpipe_tasks 3",
    ] {
        assert!(text.lines().any(|other| other == line), "no {line:?} in\n{text}");
    }
    drop(stream);
    assert!(within(stand.server.stop()).await.clean);
}

fn kind(on_failure: OnFailure, on_shutdown: OnShutdown) -> TaskKind {
    TaskKind { name: "test", on_failure, on_shutdown }
}

#[tokio::test]
async fn tasks_fail_and_end_as_their_kind_says() {
    let server = Server::start(ServerConfig { cores: Some(1), ..ServerConfig::default() }).unwrap();
    let (shutdown, metrics) = (server.shutdown().clone(), server.metrics().clone());
    let failing = shutdown.spawn(kind(OnFailure::Log, OnShutdown::Wait), async { panic!("on purpose") });
    assert!(within(failing).await.unwrap_err().is_panic());
    assert!(tokio::time::timeout(Duration::ZERO, shutdown.requested()).await.is_err());
    let failing = shutdown.spawn(kind(OnFailure::StopNode, OnShutdown::Wait), async { panic!("on purpose") });
    assert!(within(failing).await.unwrap_err().is_panic());
    within(shutdown.requested()).await;

    let (done, mut ready) = mpsc::channel(1);
    let finisher = shutdown.clone();
    let waited = shutdown.spawn(kind(OnFailure::Log, OnShutdown::Wait), async move {
        finisher.stopping().await;
        done.send("finished its work").await.unwrap();
    });
    let aborted = shutdown.spawn(kind(OnFailure::Log, OnShutdown::Abort), std::future::pending());
    assert_eq!(metrics.snapshot().tasks, 2);
    assert!(within(server.stop()).await.clean);
    assert_eq!(ready.recv().await, Some("finished its work"));
    within(waited).await.unwrap();
    within(aborted).await.unwrap();
    assert_eq!(metrics.snapshot().tasks, 0);
}

#[tokio::test]
async fn an_address_in_use_is_told_with_what_to_do() {
    let metrics = Metrics::default();
    let listeners = SocketListener::bind_tcp("localhost:0", 4, &metrics).unwrap();
    let address = listeners[0].local_addr().unwrap();
    assert!(address.port() != 0 && listeners.iter().all(|listener| listener.local_addr() == Some(address)));
    let error = SocketListener::bind_tcp(&address.to_string(), 4, &metrics).unwrap_err();
    assert!(matches!(&error, BindError::InUse { at } if *at == address.to_string()), "{error}");
    drop(listeners);
    drop(SocketListener::bind_tcp(&address.to_string(), 2, &metrics).unwrap());
    let error = SocketListener::bind_tcp("nonsense", 1, &metrics).unwrap_err();
    assert!(error.to_string().starts_with("\"nonsense\" is not an address"), "{error}");
}

#[tokio::test]
async fn both_event_loops_serve_one_port() {
    let server = Server::start(ServerConfig { cores: Some(2), ..ServerConfig::default() }).unwrap();
    let listeners = SocketListener::bind_tcp("127.0.0.1:0", server.cores(), server.metrics()).unwrap();
    let address = listeners[0].local_addr().unwrap();
    server.listen(Arc::new(ByteDoor(Gate::new())), listeners);
    let mut streams = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"e").await.unwrap();
        assert_eq!(within(stream.read_u8()).await.unwrap(), b'e');
        streams.push(stream);
    }
    let metrics = server.metrics().clone();
    assert!(metrics.accepted_by_loop().iter().all(|accepted| *accepted > 0));
    drop(streams);
    assert!(within(server.stop()).await.clean);
    assert!(metrics.snapshot().balanced());
}

#[tokio::test]
async fn a_unix_socket_replaces_a_dead_one_and_removes_itself() {
    let path = PathBuf::from(format!("{}/serve-{}.sock", std::env::temp_dir().display(), std::process::id()));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a dead socket");
    let file = path.with_extension("txt");
    std::fs::write(&file, "precious").unwrap();
    assert!(SocketListener::bind_unix(&file, 1, &Metrics::default()).is_err());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    std::fs::remove_file(&file).unwrap();
    let server = Server::start(ServerConfig { cores: Some(2), ..ServerConfig::default() }).unwrap();
    let listeners = SocketListener::bind_unix(&path, server.cores(), server.metrics()).unwrap();
    let again = SocketListener::bind_unix(&path, 1, server.metrics()).unwrap_err();
    assert!(matches!(again, BindError::InUse { .. }), "{again}");
    server.listen(Arc::new(ByteDoor(Gate::new())), listeners);
    let mut stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(&mut stream, b'e').await, b'e');
    assert!(within(server.stop()).await.clean);
    assert!(!path.exists());
}

#[test]
fn contradicting_limits_start_nothing() {
    let limits = Limits { workers_min: 9, workers_max: 8, ..Limits::default() };
    assert!(Server::start(ServerConfig { limits: limits.clone(), cores: Some(1) }).is_err());
    let server = Server::start(ServerConfig { cores: Some(1), ..ServerConfig::default() }).unwrap();
    assert!(server.reload(limits).is_err());
    server.reload(Limits { idle_ms_max: 1_234, ..Limits::default() }).unwrap();
    assert_eq!(server.limits().load().idle_ms_max, 1_234);
}

#[tokio::test]
async fn a_refused_job_is_a_refused_request() {
    fn check(error: JobError, outcome: Outcome) {
        assert_eq!(Outcome::from(&error), outcome);
    }
    check(JobError::Refused(Refusal::QueueFull { retry_ms: 1 }), Outcome::Refused);
    check(JobError::Shutdown, Outcome::Refused);
    check(JobError::QueueWait, Outcome::TimedOut);
    check(JobError::Deadline, Outcome::TimedOut);
    check(JobError::Panicked, Outcome::Finished);
}

/// An idle connection is this, its door's future and a socket.
#[test]
fn sessions_and_connection_tasks_are_small() {
    struct Nothing;
    impl Door for Nothing {
        fn name(&self) -> &'static str {
            "nothing"
        }
        async fn serve(&self, _conn: Conn, _session: Session) -> CloseReason {
            CloseReason::PeerClosed
        }
        async fn refuse(&self, _conn: Conn, _refusal: Refusal) {}
    }
    let (session, task) = crate::server::sizes_for_tests(Arc::new(Nothing));
    assert!(session <= 184, "a session takes {session} bytes");
    assert!(task <= 320, "a connection's task takes {task} bytes beside its door's");
}
