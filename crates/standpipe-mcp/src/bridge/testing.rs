//! Servers of both eras that tests play: what a bridge sends them comes out of a queue, and the test answers. Tests run in paused time, so
//! a limit on waiting costs nothing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use serde_json::Value;
use standpipe_serve::Limits;
use standpipe_wire::jsonrpc::Message;
use tokio::sync::{Notify, mpsc};

use super::Settings;
use crate::exchange::Room;
use crate::upstream::ServerLimits;
use crate::{Caller, Conversation, Inlet, LegacyServer, Metrics, ModernServer, Outlet, exchange};

/// What a server is sent.
pub(crate) enum Event {
    Open { initialize: Message, to: Outlet, news: Outlet, end: Arc<Notify> },
    Call { request: Message, to: Outlet },
    Tell { message: Message },
    Closed,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { initialize, .. } => write!(f, "open {}", text(initialize)),
            Self::Call { request, .. } => write!(f, "call {}", text(request)),
            Self::Tell { message } => write!(f, "tell {}", text(message)),
            Self::Closed => write!(f, "closed"),
        }
    }
}

/// The server's side, as the test holds it.
pub(crate) struct Stand(mpsc::Receiver<Event>);

impl Stand {
    pub(crate) async fn next(&mut self) -> Event {
        let event = tokio::time::timeout(Duration::from_secs(3_600), self.0.recv()).await;
        event.expect("something comes in time").expect("the bridge is there")
    }

    /// Nothing has come.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.0.try_recv().map_err(|_| ()).inspect(|event| println!("{event:?}")).is_err()
    }

    pub(crate) async fn call(&mut self) -> (Message, Outlet) {
        match self.next().await {
            Event::Call { request, to } => (request, to),
            other => panic!("not a call: {other:?}"),
        }
    }

    pub(crate) async fn told(&mut self) -> Message {
        match self.next().await {
            Event::Tell { message } => message,
            other => panic!("not told: {other:?}"),
        }
    }

    /// Answers the handshake.
    pub(crate) async fn open(&mut self, result: &str) -> (Message, Outlet, Arc<Notify>) {
        match self.next().await {
            Event::Open { initialize, to, news, end, .. } => {
                to.send(Message::result(initialize.id().unwrap(), result.as_bytes())).unwrap();
                assert_eq!(self.told().await.method(), Some("notifications/initialized"));
                (initialize, news, end)
            }
            other => panic!("not opened: {other:?}"),
        }
    }
}

#[derive(Debug)]
struct Scripted(mpsc::Sender<Event>);

#[derive(Debug)]
struct ScriptedConversation(mpsc::Sender<Event>, Arc<Notify>);

impl LegacyServer for Scripted {
    fn open(&self, _caller: &Caller, initialize: Message, to: Outlet, news: Outlet) -> Arc<dyn Conversation> {
        let end = Arc::new(Notify::new());
        let event = Event::Open { initialize, to, news, end: end.clone() };
        self.0.try_send(event).unwrap();
        Arc::new(ScriptedConversation(self.0.clone(), end))
    }
}

impl ModernServer for Scripted {
    fn call(&self, _caller: Caller, request: Message, to: Outlet) {
        self.0.try_send(Event::Call { request, to }).unwrap();
    }
}

impl Conversation for ScriptedConversation {
    fn call(&self, _caller: &Caller, request: Message, to: Outlet) {
        self.0.try_send(Event::Call { request, to }).unwrap();
    }

    fn tell(&self, _caller: &Caller, message: Message) {
        self.0.try_send(Event::Tell { message }).unwrap();
    }

    fn ended(&self) -> BoxFuture<'static, ()> {
        let end = self.1.clone();
        Box::pin(async move { end.notified().await })
    }
}

impl Drop for ScriptedConversation {
    fn drop(&mut self) {
        let _no_test = self.0.try_send(Event::Closed);
    }
}

/// A server of both eras, and where its test sees what it is sent.
pub(crate) fn scripted() -> (Arc<impl LegacyServer + ModernServer + 'static>, Stand) {
    let (sender, receiver) = mpsc::channel(1_024);
    (Arc::new(Scripted(sender)), Stand(receiver))
}

pub(crate) fn settings(limits: Limits) -> Settings {
    let own = ServerLimits::from(&limits);
    Settings {
        server: "test".into(),
        own,
        limits: Arc::new(ArcSwap::from_pointee(limits)),
        metrics: Metrics::default(),
    }
}

/// A client's way back.
pub(crate) fn client() -> (Outlet, Client) {
    let (outlet, inlet) = exchange(Room { messages: 1_000, bytes: 1 << 20 });
    (outlet, Client(inlet))
}

/// What a client is sent.
pub(crate) struct Client(Inlet);

impl Client {
    pub(crate) async fn next(&mut self) -> Message {
        let message = tokio::time::timeout(Duration::from_secs(3_600), self.0.next()).await;
        message.expect("something comes in time").expect("the stream goes on")
    }

    /// The next message, which is the last one.
    pub(crate) async fn last(&mut self) -> Message {
        let message = self.next().await;
        let end = tokio::time::timeout(Duration::from_secs(3_600), self.0.next()).await;
        assert!(end.expect("the end comes in time").is_none(), "the stream ends");
        message
    }

    /// Whether the stream ends now.
    pub(crate) async fn ends(&mut self) -> bool {
        let end = tokio::time::timeout(Duration::from_secs(3_600), self.0.next()).await;
        end.expect("the end comes in time").is_none()
    }

    pub(crate) fn is_quiet(&mut self) -> bool {
        self.0.try_next().inspect(|message| println!("{}", text(message))).is_none()
    }
}

pub(crate) fn text(message: &Message) -> &str {
    std::str::from_utf8(message.bytes()).unwrap()
}

pub(crate) fn value(message: &Message) -> Value {
    serde_json::from_slice(message.bytes()).unwrap()
}

pub(crate) fn message(json: &str) -> Message {
    Message::parse(json.as_bytes().to_vec().into()).unwrap()
}

pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}
