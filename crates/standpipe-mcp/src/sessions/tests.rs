//! Scenarios of sessions, in paused time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use standpipe_serve::Limits;
use standpipe_wire::jsonrpc::Message;
use tokio::time::{Instant, advance};

use super::*;
use crate::{Conversation, Outlet};

/// Holds what it is given.
#[derive(Debug, Default)]
struct Fake {
    calls: Mutex<Vec<Outlet>>,
    news: Mutex<Vec<Outlet>>,
    open: AtomicUsize,
    ended: AtomicBool,
}

#[derive(Debug)]
struct Talk(Arc<Fake>);

#[derive(Debug)]
struct Server(Arc<Fake>);

impl LegacyServer for Server {
    fn open(&self, _: &Caller, initialize: Message, to: Outlet, news: Outlet) -> Arc<dyn Conversation> {
        to.send(Message::result(initialize.id().unwrap(), b"{\"protocolVersion\":\"2025-11-25\"}")).unwrap();
        self.0.news.lock().push(news);
        self.0.open.fetch_add(1, Ordering::Relaxed);
        Arc::new(Talk(self.0.clone()))
    }
}

impl Conversation for Talk {
    fn call(&self, _: &Caller, _: Message, to: Outlet) {
        self.0.calls.lock().push(to);
    }

    fn tell(&self, _: &Caller, _: Message) {}

    fn ended(&self) -> BoxFuture<'static, ()> {
        let fake = self.0.clone();
        std::future::poll_fn(move |_| match fake.ended.load(Ordering::Relaxed) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        })
        .boxed()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Bench {
    sessions: Arc<Sessions>,
    fake: Arc<Fake>,
    caller: Caller,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::default();
        change(&mut limits);
        limits.check().unwrap();
        let sessions = Sessions::new(Arc::new(ArcSwap::from_pointee(limits)), Metrics::default());
        Self { sessions, fake: Arc::default(), caller: Caller::detached("user:maya") }
    }

    fn open(&self) -> Arc<LegacySession> {
        let seat = self.sessions.admit(&self.caller.principal).unwrap();
        let initialize = Message::request(b"0", "initialize", b"{}");
        let server = Server(self.fake.clone());
        let (session, mut inlet) = self.sessions.open(seat, &server, "/mcp", &self.caller, initialize);
        session.agree_on(&inlet.try_next().unwrap());
        self.sessions.enter(session.clone());
        session
    }

    /// A call in a session: where it is answered, and where its answers come out.
    fn call(&self, session: &Arc<LegacySession>) -> (Outlet, Reader) {
        let inlet = session.call(&self.caller, Message::request(b"1", "tools/call", b"{}")).unwrap();
        let reader = session.read(&session.stream(inlet));
        (self.fake.calls.lock().pop().unwrap(), reader)
    }

    fn is_there(&self, session: &LegacySession) -> bool {
        self.sessions.find(session.id(), &self.caller.principal, "/mcp").is_ok()
    }
}

fn note(data: &str) -> Message {
    Message::notification("note", format!("{{\"data\":\"{data}\"}}").as_bytes())
}

/// The events that are there.
fn taken(reader: &mut Reader) -> Vec<u64> {
    std::iter::from_fn(|| reader.next().now_or_never().flatten().map(|event| event.id.seq)).collect()
}

async fn pass(bench: &Bench, ms: u64) {
    advance(Duration::from_millis(ms)).await;
    bench.sessions.sweep();
}

#[tokio::test(start_paused = true)]
async fn idle_is_who_neither_calls_nor_reads() {
    let bench = Bench::new(|limits| limits.mcp_idle_ms_max = 1_000);
    let (idle, calls, reads) = (bench.open(), bench.open(), bench.open());
    let (to, answers) = bench.call(&calls);
    drop(answers);
    let reader = reads.read_news();
    pass(&bench, 999).await;
    assert_eq!(bench.sessions.len(), 3);
    pass(&bench, 1).await;
    assert_eq!([&idle, &calls, &reads].map(|session| bench.is_there(session)), [false, true, true]);
    assert!(idle.is_closed() && bench.fake.open.load(Ordering::Relaxed) == 2);
    pass(&bench, 60_000).await;
    drop((to, reader));
    pass(&bench, 999).await;
    assert_eq!(bench.sessions.len(), 2, "both were used until now");
    calls.tell(&bench.caller, note("a"));
    pass(&bench, 1).await;
    assert_eq!([&calls, &reads].map(|session| bench.is_there(session)), [true, false]);
}

#[tokio::test(start_paused = true)]
async fn the_keeper_ends_them_in_time() {
    let bench = Bench::new(|limits| limits.mcp_idle_ms_max = 5_000);
    let keeper = tokio::spawn(bench.sessions.clone().keep());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (session, opened) = (bench.open(), Instant::now());
    while !session.is_closed() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!((5_000..6_500).contains(&opened.elapsed().as_millis()), "{:?}", opened.elapsed());
    let session = bench.open();
    bench.fake.ended.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(session.is_closed(), "it ends with its conversation, soon and without being asked for");
    keeper.abort();
}

#[tokio::test(start_paused = true)]
async fn principals_have_seats_and_pay_for_them() {
    let bench = Bench::new(|limits| {
        limits.mcp_sessions_max = 3;
        limits.mcp_sessions_per_principal_max = 2;
        limits.mcp_initialize_per_s_max = 2;
        limits.mcp_initialize_burst_max = 2;
    });
    let admit = |principal: &str| bench.sessions.admit(&principal.into());
    let check = |principal: &str, code: i64, wait: u64| {
        let fault = admit(principal).unwrap_err();
        let told = fault.retry_after().map(|after| after.as_millis() as u64);
        assert_eq!((fault.code, told), (code, Some(wait)), "{}", fault.message);
    };
    let first = admit("a").unwrap();
    let second = admit("a").unwrap();
    check("a", 5_030, 5_000);
    drop(second);
    check("a", 4_290, 500);
    advance(Duration::from_millis(499)).await;
    check("a", 4_290, 1);
    advance(Duration::from_millis(1)).await;
    let second = admit("a").unwrap();
    let other = admit("b").unwrap();
    check("c", 5_030, 5_000);
    drop((first, second, other));
    assert!(admit("c").is_ok());
    for n in 0..10_000 {
        drop(admit(&format!("crowd-{n}")));
        advance(Duration::from_millis(100)).await;
    }
    assert!(bench.sessions.table.lock().principals.len() < 1_000, "who has gone is forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_session_is_found_by_its_own_only() {
    let bench = Bench::new(|_| {});
    let session = bench.open();
    let find = |id: &str, principal: &str, endpoint: &str| bench.sessions.find(id, principal, endpoint).is_ok();
    assert!(session.id().len() == 32 && session.id() != bench.open().id());
    assert!(find(session.id(), "user:maya", "/mcp"));
    assert!(!find(session.id(), "user:eve", "/mcp"));
    assert!(!find(session.id(), "user:maya", "/mcp/all"));
    assert!(!find("", "user:maya", "/mcp"));
    bench.sessions.end(&session);
    assert!(!find(session.id(), "user:maya", "/mcp"));
    assert!(session.call(&bench.caller, Message::request(b"1", "ping", b"{}")).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_lost_reader_has_a_successor() {
    let bench = Bench::new(|_| {});
    let session = bench.open();
    let (to, mut reader) = bench.call(&session);
    to.send(note("a")).unwrap();
    to.send(note("b")).unwrap();
    assert_eq!(taken(&mut reader), [1, 2]);
    drop(reader);
    to.send(note("c")).unwrap();
    assert_eq!(taken(&mut session.resume("1-1").unwrap()), [2, 3], "what was read and what was not");
    let mut first = session.resume("1-0").unwrap();
    let mut second = session.resume("1-3").unwrap();
    assert!(taken(&mut first).is_empty(), "its turn is over");
    assert!(first.next().await.is_none());
    to.send(note("d")).unwrap();
    drop(to);
    assert_eq!(taken(&mut second), [4]);
    assert!(second.next().await.is_none());
    // The end may be missed, too.
    let mut third = session.resume("1-3").unwrap();
    assert_eq!(third.next().await.unwrap().id.to_string(), "1-4");
    assert!(third.next().await.is_none());
    drop((first, second, third));
    pass(&bench, 59_999).await;
    assert!(session.resume("1-4").is_ok());
    pass(&bench, 60_000).await;
    assert!(session.resume("1-4").is_err() && bench.sessions.kept_bytes() == 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_bounded_in_each_and_in_all() {
    let bench = Bench::new(|limits| {
        limits.mcp_replay_messages_max = 3;
        limits.mcp_replay_bytes_max = 1_000;
        limits.mcp_replay_total_bytes_max = 1_500;
    });
    let (one, two) = (bench.open(), bench.open());
    let send = |to: &Outlet, reader: &mut Reader, bytes: usize| {
        to.send(note(&"x".repeat(bytes))).unwrap();
        taken(reader)
    };
    let (to, mut reader) = bench.call(&one);
    for _ in 0..4 {
        send(&to, &mut reader, 1);
    }
    assert!(one.resume("1-0").is_err() && one.resume("1-1").is_ok(), "by number");
    let (to, mut reader) = bench.call(&one);
    for _ in 0..3 {
        send(&to, &mut reader, 400);
    }
    assert!(one.resume("2-0").is_err() && one.resume("2-1").is_ok(), "by bytes");
    let (to, mut reader) = bench.call(&two);
    for _ in 0..3 {
        send(&to, &mut reader, 400);
        assert!(bench.sessions.kept_bytes() <= 1_500, "{}", bench.sessions.kept_bytes());
    }
    assert!(two.resume("1-1").is_err(), "by bytes in all");
    for _ in 0..40 {
        drop(bench.call(&one));
    }
    assert!(one.resume("1-4").is_err(), "the oldest streams go");
    bench.sessions.end(&one);
    bench.sessions.end(&two);
    drop((one, two, reader));
    assert_eq!(bench.sessions.kept_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn news_that_nobody_took_are_missed_and_that_is_told() {
    let bench = Bench::new(|limits| limits.mcp_replay_messages_max = 2);
    let session = bench.open();
    let news = bench.fake.news.lock()[0].clone();
    let mut reader = session.read_news();
    news.send(note("a")).unwrap();
    assert_eq!(taken(&mut reader), [1]);
    drop(reader);
    for text in ["b", "c", "d"] {
        news.send(note(text)).unwrap();
    }
    assert!(session.resume("0-1").is_err(), "b is missing");
    let mut reader = session.read_news();
    assert_eq!((reader.position().seq, taken(&mut reader)), (2, vec![3, 4]));
    for text in ["e", "f", "g"] {
        news.send(note(text)).unwrap();
    }
    assert!(reader.next().await.is_none(), "a reader that is too slow loses the stream");
    drop(reader);
    drop(news);
    bench.fake.news.lock().clear();
    let mut reader = session.read_news();
    assert_eq!(taken(&mut reader), [6, 7]);
    assert!(reader.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_waiting_reader_hears_of_the_end_of_its_turn_and_of_the_session() {
    let bench = Bench::new(|_| {});
    let session = bench.open();
    let waits = |mut reader: Reader| tokio::spawn(async move { reader.next().await.is_none() });
    let first = waits(session.read_news());
    tokio::task::yield_now().await;
    let second = waits(session.read_news());
    assert!(first.await.unwrap());
    tokio::task::yield_now().await;
    bench.sessions.end(&session);
    assert!(second.await.unwrap());
}
