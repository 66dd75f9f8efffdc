//! Legacy clients of a modern server. The session that a legacy client wants is kept here: what the client said of itself goes into each of its
//! requests, so the server sees the caller's capabilities and never ours (spec mcp §4.3).
//!
//! | file | owns |
//! |---|---|
//! | `asking.rs` | a call: what the server wants to know is asked of the client, and the call made again |
//! | `subscribing.rs` | `resources/subscribe` and notices of lists, from one `subscriptions/listen` |
//! | `translate.rs` | messages of one era in words of the other |

mod asking;
mod subscribing;
#[cfg(test)]
mod tests;
mod translate;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use standpipe_wire::jsonrpc::{Kind, Message, id_key};
use tokio_util::sync::CancellationToken;

use self::asking::Asking;
use self::subscribing::Subscribing;
use self::translate::{About, Client};
use super::sink::answer;
use super::{Settings, level, no_answer};
use crate::{Caller, Conversation, Fault, LegacyServer, ModernServer, Outlet, fault};

/// Opens legacy sessions with a modern server.
#[derive(Debug)]
pub struct Up {
    server: Arc<dyn ModernServer>,
    settings: Settings,
    /// Calls whose clients are asked something.
    suspended: Arc<AtomicUsize>,
}

impl Up {
    /// A bridge to `server`.
    pub fn new(server: Arc<dyn ModernServer>, settings: Settings) -> Self {
        Self { server, settings, suspended: Arc::default() }
    }
}

impl LegacyServer for Up {
    fn open(&self, caller: &Caller, initialize: Message, to: Outlet, news: Outlet) -> Arc<dyn Conversation> {
        let ended = CancellationToken::new();
        let client = match Client::of(&initialize) {
            Ok(client) => client,
            Err(why) => {
                let fault = Fault::new(fault::INVALID_PARAMS, why.to_string());
                let _gone = to.send(fault.answer(initialize.id()));
                ended.cancel();
                return Arc::new(Refused(ended));
            }
        };
        let session = Arc::new(Session {
            server: self.server.clone(),
            settings: self.settings.clone(),
            client,
            numbers: AtomicU64::new(1),
            suspended: self.suspended.clone(),
            state: Mutex::new(State { news: Some(news), ..State::default() }),
            ended,
        });
        session.begin(caller, &initialize, to);
        Arc::new(UpConversation(session))
    }
}

/// A session that never began.
#[derive(Debug)]
struct Refused(CancellationToken);

impl Conversation for Refused {
    fn call(&self, _caller: &Caller, request: Message, to: Outlet) {
        let _gone = to.send(Fault::new(fault::INVALID_REQUEST, "the session did not begin").answer(request.id()));
    }

    fn tell(&self, _caller: &Caller, _message: Message) {}

    fn ended(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.0.clone().cancelled_owned())
    }
}

/// The client's handle of a session.
#[derive(Debug)]
struct UpConversation(Arc<Session>);

/// One session of a client.
#[derive(Debug)]
struct Session {
    server: Arc<dyn ModernServer>,
    settings: Settings,
    client: Client,
    numbers: AtomicU64,
    suspended: Arc<AtomicUsize>,
    state: Mutex<State>,
    ended: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    /// What belongs to no call goes here; `None` when the client has ended the session.
    news: Option<Outlet>,
    /// By the client's id.
    calls: HashMap<Bytes, Arc<Asking>>,
    /// What the client was asked, by our id.
    questions: HashMap<u64, Arc<Asking>>,
    /// From which level on the client wants log messages, as JSON.
    level: Option<Bytes>,
    subscribing: Subscribing,
}

/// Counts a call whose client is asked something.
#[derive(Debug)]
struct Suspended(Arc<AtomicUsize>);

impl Drop for Suspended {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Conversation for UpConversation {
    fn call(&self, caller: &Caller, request: Message, to: Outlet) {
        let method = request.method().unwrap_or_default();
        let answer = match method {
            "ping" => Ok(()),
            "logging/setLevel" => self.0.set_level(&request),
            "resources/subscribe" => return self.0.subscribe(caller, &request, to),
            "resources/unsubscribe" => self.0.unsubscribe(&request),
            "initialize" => Err(Fault::new(fault::INVALID_REQUEST, "the session has begun already")),
            "server/discover" | "subscriptions/listen" => Err(not_legacy(method)),
            method if method.starts_with("tasks/") => Err(not_legacy(method)),
            _ => return self.0.pass(caller, request, to),
        };
        let id = request.id().unwrap_or(b"null");
        let _gone = to.send(match answer {
            Ok(()) => Message::result(id, b"{}"),
            Err(fault) => fault.answer(Some(id)),
        });
    }

    fn tell(&self, caller: &Caller, message: Message) {
        match (message.kind(), message.method()) {
            (Kind::Response, _) => self.0.answered(&message),
            (_, Some("notifications/initialized")) => self.0.listen_to_lists(caller),
            (_, Some("notifications/cancelled")) => self.0.cancelled(&message),
            // Of lists of roots, and progress of what we asked, the modern era knows nothing.
            _ => {}
        }
    }

    fn ended(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.0.ended.clone().cancelled_owned())
    }
}

impl Drop for UpConversation {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn not_legacy(method: &str) -> Fault {
    Fault::new(
        fault::METHOD_NOT_FOUND,
        format!("there is no method \"{method}\" in this session's version of the protocol"),
    )
}

impl Session {
    /// Answers `initialize` from `server/discover`.
    fn begin(self: &Arc<Self>, caller: &Caller, initialize: &Message, to: Outlet) {
        let request = self.client.own(self.number(), "server/discover", b"{}");
        let (session, id) = (self.clone(), initialize.id_bytes().unwrap_or_default());
        let then = move |discovered: Option<Message>| {
            let _gone = to.send(session.initialized(discovered, &id).unwrap_or_else(|failed| {
                session.ended.cancel();
                failed
            }));
        };
        self.server.call(caller.clone(), request, answer(then));
    }

    /// The answer to `initialize`; an error is the end of the session.
    fn initialized(&self, discovered: Option<Message>, id: &[u8]) -> Result<Message, Message> {
        let server = &self.settings.server;
        let failed = |why: &dyn std::fmt::Display| no_answer(server, why).answer(Some(id));
        let discovered = discovered.ok_or_else(|| failed(&"it ended"))?;
        if discovered.is_error() {
            return Err(discovered.with_id(id));
        }
        let about = About::of(&discovered).map_err(|why| failed(&why))?;
        if !about.is_modern {
            return Err(failed(&"it speaks no version of the protocol that is known here"));
        }
        self.state.lock().subscribing.offers(about.lists);
        self.client.initialized(&discovered, id, server).map_err(|why| failed(&why))
    }

    /// Sends a request on to the server.
    fn pass(self: &Arc<Self>, caller: &Caller, request: Message, to: Outlet) {
        let id = Bytes::copy_from_slice(&id_key(request.id().unwrap_or_default()));
        let call = Arc::new(Asking::new(self.clone(), caller.clone(), request, to));
        let _same_id = {
            let mut state = self.state.lock();
            if state.news.is_none() {
                return;
            }
            state.calls.insert(id, call.clone())
        };
        call.send(&[]);
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn level(&self) -> Option<Bytes> {
        self.state.lock().level.clone()
    }

    fn set_level(&self, request: &Message) -> Result<(), Fault> {
        let invalid = || Fault::new(fault::INVALID_PARAMS, "`level` must be a level of log messages");
        let json = request.at(&["level"]).map_err(|_| invalid())?.map(|at| request.slice(at)).ok_or_else(invalid)?;
        level(json).ok_or_else(invalid)?;
        self.state.lock().level = Some(Bytes::copy_from_slice(json));
        Ok(())
    }

    /// A call waits for answers of its client to the requests with these numbers.
    fn suspend(&self, call: &Arc<Asking>, numbers: impl Iterator<Item = u64>) -> Result<Suspended, Fault> {
        let seat = Suspended(self.suspended.clone());
        if self.suspended.fetch_add(1, Ordering::Relaxed) >= self.settings.limits().mcp_suspended_calls_max {
            return Err(self.settings.refused("mcp_suspended_calls_max", "too many calls wait for their clients"));
        }
        self.state.lock().questions.extend(numbers.map(|number| (number, call.clone())));
        Ok(seat)
    }

    fn answered(&self, response: &Message) {
        let Some(number) = response.id_number() else { return };
        let call = self.state.lock().questions.remove(&number);
        if let Some(call) = call {
            call.answered(number, response);
        }
    }

    fn forget_question(&self, number: u64) {
        let _dropped_behind_the_lock = self.state.lock().questions.remove(&number);
    }

    /// A call is over.
    fn finished(&self, call: &Asking) {
        let _dropped_behind_the_lock: Vec<_> = {
            let mut state = self.state.lock();
            state.calls.extract_if(|_, has| has.is(call)).collect()
        };
    }

    fn cancelled(&self, notice: &Message) {
        let Ok(Some(id)) = notice.at(&["requestId"]) else { return };
        let call = self.state.lock().calls.get(&*id_key(notice.slice(id))).cloned();
        if let Some(call) = call {
            call.cancel();
        }
    }

    /// The client has ended the session.
    fn close(&self) {
        let (_news, calls, streams) = {
            let mut state = self.state.lock();
            (state.news.take(), std::mem::take(&mut state.calls), std::mem::take(&mut state.subscribing).close())
        };
        calls.values().for_each(|call| call.cancel());
        streams.iter().for_each(|stream| stream.leave());
    }
}
