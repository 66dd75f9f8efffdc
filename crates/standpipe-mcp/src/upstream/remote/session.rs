//! A legacy session with a server far away, as one of ours: it is opened, carried on, and ended with ours. A server that forgets it (a restart) is asked for
//! another one, once for each request, without the client's noticing.
//!
//! What the client tells is sent in its order by one task, and a call waits until what was told before it has arrived.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use http::HeaderValue;
use parking_lot::Mutex;
use standpipe_wire::jsonrpc::{Kind, Message, id_key};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Inner;
use super::call::{Ended, Patience, addressed, run};
use super::http::{Answer, As, Failed, SESSION_ID};
use crate::fault::UPSTREAM_DIED;
use crate::{Caller, Conversation, Fault, LegacyServer, Outlet};

/// Messages of the client that wait to be sent.
const TOLD_MAX: usize = 256;
/// Time to tell the server that the session has ended.
const GOODBYE_WITHIN: Duration = Duration::from_secs(2);
/// Pauses before the stream of news is opened again.
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// The session, seen from the client.
pub(super) struct Session {
    shared: Arc<Shared>,
    told: mpsc::Sender<Message>,
}

/// What the client's handle, the calls and the tasks of a session share.
struct Shared {
    remote: Arc<Inner>,
    /// What opens sessions where the server knows none.
    up: Option<Arc<dyn LegacyServer>>,
    initialize: Message,
    news: Outlet,
    /// The session over there, and how often one was opened.
    there: Mutex<There>,
    /// One call at a time opens another one.
    opening: tokio::sync::Mutex<()>,
    /// Messages of the client, counted as they come, and as they have arrived.
    told: AtomicU64,
    arrived: watch::Sender<u64>,
    /// Whether `initialize` is answered.
    ready: watch::Sender<bool>,
    ended: CancellationToken,
    /// What carries the session instead, where the server knows no sessions.
    instead: OnceLock<Arc<dyn Conversation>>,
    /// The calls at work, by [`id_key`].
    calls: Mutex<HashMap<Bytes, AbortHandle>>,
    listening: Mutex<Option<tokio::task::AbortHandle>>,
}

#[derive(Clone, Default)]
struct There {
    how: As,
    opened: u64,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Session").field(&self.shared.remote.http).finish()
    }
}

impl Session {
    /// Opens a session.
    pub(super) fn open(
        remote: Arc<Inner>,
        up: Option<Arc<dyn LegacyServer>>,
        caller: &Caller,
        initialize: Message,
        to: Outlet,
        news: Outlet,
    ) -> Arc<Self> {
        let shared = Arc::new(Shared {
            remote,
            up,
            initialize,
            news,
            there: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            told: AtomicU64::new(0),
            arrived: watch::Sender::new(0),
            ready: watch::Sender::new(false),
            ended: CancellationToken::new(),
            instead: OnceLock::new(),
            calls: Mutex::default(),
            listening: Mutex::default(),
        });
        let (told, telling) = mpsc::channel(TOLD_MAX);
        tokio::spawn(shared.clone().serve(caller.clone(), to, telling));
        Arc::new(Self { shared, told })
    }
}

impl Conversation for Session {
    fn call(&self, caller: &Caller, request: Message, to: Outlet) {
        let Some(id) = request.id() else { return };
        let key = Bytes::from(id_key(id).into_owned());
        let (shared, caller, before) = (self.shared.clone(), caller.clone(), self.shared.told.load(Ordering::Acquire));
        let of = Called { shared: self.shared.clone(), key: key.clone() };
        let (abort, registration) = AbortHandle::new_pair();
        self.shared.calls.lock().insert(key, abort);
        let call = async move {
            let _of = of;
            shared.call(caller, request, to, before).await;
        };
        tokio::spawn(Abortable::new(call, registration));
    }

    fn tell(&self, caller: &Caller, message: Message) {
        if let Some(instead) = self.shared.instead.get() {
            return instead.tell(caller, message);
        }
        let cancelled = (message.method() == Some("notifications/cancelled")).then(|| message.at(&["requestId"]));
        if let Some(Ok(Some(id))) = cancelled
            && let Some(call) = self.shared.calls.lock().get(&*id_key(message.slice(id)))
        {
            call.abort();
        }
        match self.told.try_send(message) {
            Ok(()) => drop(self.shared.told.fetch_add(1, Ordering::AcqRel)),
            Err(_) => {
                tracing::info!(url = %self.shared.remote.http.url(), "a message was dropped: the server takes none now")
            }
        }
    }

    fn ended(&self) -> BoxFuture<'static, ()> {
        let ended = self.shared.ended.clone();
        async move { ended.cancelled().await }.boxed()
    }
}

/// A call in the table.
struct Called {
    shared: Arc<Shared>,
    key: Bytes,
}

impl Drop for Called {
    fn drop(&mut self) {
        self.shared.calls.lock().remove(&self.key);
    }
}

impl Shared {
    /// Opens the session, sends what the client tells, and ends the session when the client has left.
    async fn serve(self: Arc<Self>, caller: Caller, to: Outlet, mut telling: mpsc::Receiver<Message>) {
        match self.begin(&caller, &to).await {
            Ok(()) => drop(to),
            Err(fault) => {
                let _gone = to.send(fault.answer(self.initialize.id()));
                self.ended.cancel();
            }
        }
        self.ready.send_replace(true);
        while let Some(message) = telling.recv().await {
            match self.instead.get() {
                Some(instead) => instead.tell(&caller, message),
                None => self.tell(&message).await,
            }
            self.arrived.send_modify(|arrived| *arrived += 1);
        }
        if let Some(listening) = self.listening.lock().take() {
            listening.abort();
        }
        let how = self.there.lock().how.clone();
        if how.session.is_some() {
            self.remote.http.delete(&how, GOODBYE_WITHIN).await;
        }
    }

    /// `initialize`, whose answer goes to the client.
    async fn begin(self: &Arc<Self>, caller: &Caller, to: &Outlet) -> Result<(), Fault> {
        if let Some(up) = &self.up
            && !self.remote.eras().await?.legacy
        {
            let ended = self.ended.clone();
            let instead = up.open(caller, self.initialize.clone(), to.clone(), self.news.clone());
            let end = instead.ended();
            let _only_once = self.instead.set(instead);
            tokio::spawn(async move {
                end.await;
                ended.cancel();
            });
            return Ok(());
        }
        let reply = self.initialize().await?;
        if reply.is_error() {
            self.ended.cancel();
        }
        let _gone = to.send(reply);
        Ok(())
    }

    /// Opens a session over there; gives the reply.
    async fn initialize(&self) -> Result<Message, Fault> {
        let start = self.remote.limits.start;
        let late =
            |_| self.remote.http.unreachable(&format!("no answer within {} ms, mcp_start_ms_max", start.as_millis()));
        let asked = async {
            Ok(match self.remote.http.post(&self.initialize, &As::default()).await? {
                Answer::Message(headers, reply) => (headers, Some(reply)),
                Answer::Taken => (http::HeaderMap::new(), None),
                Answer::Events(headers, mut events) => loop {
                    match events.next().await? {
                        Some(message) if message.kind() != Kind::Response => {
                            let _gone = self.news.send(message);
                        }
                        reply => break (headers, reply),
                    }
                },
            })
        };
        let asked: Result<_, Fault> = tokio::time::timeout(start, asked).await.map_err(late)?;
        let (headers, reply) = asked?;
        let reply = reply.ok_or_else(|| Fault::new(UPSTREAM_DIED, "the server did not answer 'initialize'"))?;
        let reply = addressed(reply, &self.initialize)?;
        let version = reply.text_at(&["protocolVersion"]).ok().flatten();
        let version = version.and_then(|version| HeaderValue::from_str(&version).ok());
        let mut there = self.there.lock();
        there.how = As { session: headers.get(SESSION_ID).cloned(), version, is_modern: false };
        there.opened += 1;
        drop(there);
        Ok(reply)
    }

    /// Opens another session in place of the one that was the `opened`th, unless somebody has done so.
    async fn initialize_again(self: &Arc<Self>, opened: u64) -> Result<(), Fault> {
        let _one_at_a_time = self.opening.lock().await;
        if self.there.lock().opened != opened {
            return Ok(());
        }
        tracing::info!(url = %self.remote.http.url(), "the server has forgotten the session: another one is opened");
        let reply = self.initialize().await?;
        if reply.is_error() {
            return Err(Failed::SessionGone.into());
        }
        let how = self.there.lock().how.clone();
        self.remote.http.post(&Message::notification("notifications/initialized", b"{}"), &how).await?;
        self.listen();
        Ok(())
    }

    /// Sends what the client tells.
    async fn tell(self: &Arc<Self>, message: &Message) {
        let there = self.there.lock().clone();
        let sent = self.send(message, &there.how).await;
        let sent = match sent {
            Err(Failed::SessionGone) if message.kind() == Kind::Notification => {
                match self.initialize_again(there.opened).await {
                    Ok(()) => Ok(()),
                    Err(fault) => Err(fault),
                }
            }
            sent => sent.map_err(Fault::from),
        };
        match sent {
            Ok(()) if message.method() == Some("notifications/initialized") => self.listen(),
            Ok(()) => {}
            Err(fault) => {
                tracing::info!(url = %self.remote.http.url(), cause = fault.message, "a message did not arrive")
            }
        }
    }

    async fn send(&self, message: &Message, how: &As) -> Result<(), Failed> {
        let sent = tokio::time::timeout(self.remote.limits.call, self.remote.http.post(message, how)).await;
        sent.unwrap_or_else(|_| Err(Failed::Unreachable(self.remote.http.unreachable("it does not take a message"))))?;
        Ok(())
    }

    /// Makes a call, when what was told before it has arrived.
    async fn call(self: Arc<Self>, caller: Caller, request: Message, to: Outlet, before: u64) {
        // Neither sender is ever dropped before us.
        drop(self.ready.subscribe().wait_for(|ready| *ready).await);
        drop(self.arrived.subscribe().wait_for(|arrived| *arrived >= before).await);
        if let Some(instead) = self.instead.get() {
            return instead.call(&caller, request, to);
        }
        let _permit = match self.remote.admit().await {
            Ok(permit) => permit,
            Err(fault) => {
                let _gone = to.send(fault.answer(request.id()));
                return;
            }
        };
        let patience = Patience::new(request.method().unwrap_or_default(), &self.remote.limits, &self.remote.metrics);
        let fault = match self.attempt(&request, &to, &patience).await {
            Ended::Done => return,
            Ended::SessionGone => Failed::SessionGone.into(),
            Ended::Failed(fault) => fault,
            Ended::Late(fault) => {
                self.cancel(&request).await;
                fault
            }
        };
        let _gone = to.send(fault.answer(request.id()));
    }

    /// Once, and once more in another session where the server has forgotten this one.
    async fn attempt(self: &Arc<Self>, request: &Message, to: &Outlet, patience: &Patience) -> Ended {
        let there = self.there.lock().clone();
        let ended = run(&self.remote.http, request, &there.how, to, patience).await;
        if !matches!(ended, Ended::SessionGone) {
            return ended;
        }
        if let Err(fault) = self.initialize_again(there.opened).await {
            return Ended::Failed(fault);
        }
        let how = self.there.lock().how.clone();
        run(&self.remote.http, request, &how, to, patience).await
    }

    /// The reply comes too late to be wanted.
    async fn cancel(&self, request: &Message) {
        let id = request.id().unwrap_or(b"null");
        let params = [b"{\"requestId\":", id, b",\"reason\":\"timeout\"}"].concat();
        let how = self.there.lock().how.clone();
        if let Err(failed) = self.send(&Message::notification("notifications/cancelled", &params), &how).await {
            tracing::debug!(?failed, "the server did not hear that a call is cancelled");
        }
    }

    /// Listens for what belongs to no call, from now on in this session.
    fn listen(self: &Arc<Self>) {
        let task = tokio::spawn(listen(Arc::downgrade(self))).abort_handle();
        if let Some(before) = self.listening.lock().replace(task) {
            before.abort();
        }
    }
}

/// Follows the stream of news until the server offers none, or the session is another one.
async fn listen(shared: std::sync::Weak<Shared>) {
    let (mut last_id, mut pause) = (None::<String>, AGAIN_MIN);
    loop {
        let Some(shared) = shared.upgrade() else { return };
        let (how, news) = (shared.there.lock().how.clone(), shared.news.clone());
        let remote = shared.remote.clone();
        drop(shared);
        match remote.http.listen(&how, last_id.as_deref()).await {
            Ok(Answer::Events(_, mut events)) => {
                while let Ok(Some(message)) = events.next().await {
                    pause = AGAIN_MIN;
                    if news.send(message).is_err() {
                        return;
                    }
                }
                last_id = events.resume().map(|(id, _)| id.to_owned()).or(last_id);
            }
            // It offers none, or has forgotten the session, as the next call will find out.
            Ok(_) | Err(Failed::SessionGone | Failed::Refused(..)) => return,
            Err(Failed::Unreachable(_)) => {}
        }
        sleep(pause).await;
        pause = (pause * 2).min(AGAIN_MAX);
    }
}
