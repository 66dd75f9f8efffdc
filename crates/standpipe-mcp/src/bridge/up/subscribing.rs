//! `resources/subscribe` and notices that lists have changed, from one `subscriptions/listen` of a modern server. What a stream tells about is
//! fixed when it is opened, so another resource means another stream: the earlier one goes when the later one is acknowledged. A stream that
//! the server ends is opened again, and everything it told about is said to have changed: something may have been missed.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::json;
use standpipe_wire::jsonrpc::{Kind, Message};

use super::{Session, translate};
use crate::bridge::sink::sink;
use crate::bridge::{ACKNOWLEDGED, LISTS, UPDATED, body, covers, json};
use crate::exchange::{Closed, Inlet, Relay};
use crate::object::Object;
use crate::{Caller, Fault, Outlet, fault};

/// How long a stream that has ended is waited with, at first and at most.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// What a session subscribes to.
#[derive(Debug, Default)]
pub(super) struct Subscribing {
    /// The lists that the server tells about, in the order of [`LISTS`].
    lists: [bool; 3],
    /// The client is ready for notices of them.
    is_listening: bool,
    /// Resources that the server has agreed to tell about.
    uris: BTreeSet<String>,
    /// The stream that notices are taken from.
    stream: Option<Arc<Stream>>,
    /// The one that is not acknowledged yet.
    opening: Option<Opening>,
    /// Who came meanwhile.
    waiting: Vec<Waiting>,
    failures: u32,
}

#[derive(Debug)]
struct Opening {
    stream: Arc<Stream>,
    waiting: Vec<Waiting>,
    /// The stream before it was lost.
    is_again: bool,
}

/// A client's request to subscribe.
#[derive(Debug)]
struct Waiting {
    uri: String,
    id: Bytes,
    to: Outlet,
}

impl Subscribing {
    pub(super) fn offers(&mut self, lists: [bool; 3]) {
        self.lists = lists;
    }

    /// The streams, to be left.
    pub(super) fn close(self) -> Vec<Arc<Stream>> {
        self.stream.into_iter().chain(self.opening.map(|opening| opening.stream)).collect()
    }

    fn wants_lists(&self) -> bool {
        self.is_listening && self.lists.contains(&true)
    }

    /// How many resources it is about, asked for or agreed on.
    fn len(&self) -> usize {
        self.uris.len() + self.waiting.len() + self.opening.as_ref().map_or(0, |opening| opening.waiting.len())
    }

    /// What the next stream has to tell about.
    fn filter(&self, waiting: &[Waiting]) -> Vec<u8> {
        let mut filter = Object::default();
        for (at, (_, name, _)) in LISTS.into_iter().enumerate() {
            if self.is_listening && self.lists[at] {
                filter.set(name, &b"true"[..]);
            }
        }
        let uris: BTreeSet<&str> =
            self.uris.iter().map(String::as_str).chain(waiting.iter().map(|waiting| waiting.uri.as_str())).collect();
        if !uris.is_empty() {
            filter.set("resourceSubscriptions", serde_json::to_vec(&uris).expect("strings can be written as JSON"));
        }
        filter.write()
    }

    fn is_wanted(&self, notice: &Message) -> bool {
        match notice.method() {
            Some(UPDATED) => {
                let uri = notice.text_at(&["uri"]).ok().flatten();
                uri.is_some_and(|uri| self.uris.iter().any(|has| covers(has, &uri)))
            }
            method => LISTS.iter().any(|(name, ..)| method == Some(name)),
        }
    }

    /// Everything that may have been missed.
    fn all_changed(&self) -> Vec<Message> {
        let lists = LISTS.iter().zip(self.lists).filter(|(_, has)| *has && self.is_listening);
        let lists = lists.map(|((name, ..), _)| Message::notification(name, b"{}"));
        let uris =
            self.uris.iter().map(|uri| Message::notification(UPDATED, &[b"{\"uri\":", &*json(uri), b"}"].concat()));
        lists.chain(uris).collect()
    }
}

/// One stream of a server.
pub(super) struct Stream {
    session: Weak<Session>,
    caller: Caller,
    /// Our end; taken away when we leave.
    inlet: Mutex<Option<Inlet>>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

impl Stream {
    /// Ends it from our side.
    pub(super) fn leave(&self) {
        let inlet = self.inlet.lock().take();
        drop(inlet);
    }
}

/// What a stream's messages come to. The session holds the stream, the server holds this: its drop is the stream's end.
struct Way {
    stream: Arc<Stream>,
}

impl Relay for Way {
    fn relay(&self, message: Message, _to: &Outlet) -> Result<(), Closed> {
        let Some(session) = self.stream.session.upgrade() else { return Err(Closed::Gone) };
        match (message.kind(), message.method()) {
            (Kind::Notification, Some(ACKNOWLEDGED)) => session.acknowledged(&self.stream, &message),
            (Kind::Notification, _) => session.noticed(&self.stream, &message),
            (Kind::Response, _) => session.stream_ended(&self.stream, Some(&message)),
            (Kind::Request, _) => {}
        }
        Ok(())
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if let Some(session) = self.stream.session.upgrade() {
            session.stream_ended(&self.stream, None);
        }
    }
}

/// What is done when no lock is held.
#[derive(Default)]
struct Then {
    sent: Vec<(Outlet, Message)>,
    left: Option<Arc<Stream>>,
    open: Option<(Arc<Stream>, Vec<u8>)>,
}

impl Session {
    pub(super) fn subscribe(self: &Arc<Self>, caller: &Caller, request: &Message, to: Outlet) {
        let id = request.id_bytes().unwrap_or_default();
        let uri = match uri_of(request) {
            Ok(uri) => uri,
            Err(fault) => {
                let _gone = to.send(fault.answer(Some(&id)));
                return;
            }
        };
        let max = self.settings.own.subscriptions_per_stream;
        let then = {
            let mut state = self.state.lock();
            let subscribing = &mut state.subscribing;
            if subscribing.uris.contains(&uri) {
                Ok(Then { sent: vec![(to, Message::result(&id, b"{}"))], ..Then::default() })
            } else if subscribing.len() >= max {
                Err(to)
            } else {
                subscribing.waiting.push(Waiting { uri, id: id.clone(), to });
                Ok(self.open_next(subscribing, caller, false))
            }
        };
        match then {
            Ok(then) => self.go(then),
            Err(to) => {
                let limit = "mcp_subscriptions_per_stream_max";
                let fault = self.settings.refused(limit, "the session subscribes to too many resources");
                let _gone = to.send(fault.answer(Some(&id)));
            }
        }
    }

    /// The client takes a resource back; the stream goes on as long as it tells about anything.
    pub(super) fn unsubscribe(&self, request: &Message) -> Result<(), Fault> {
        let uri = uri_of(request)?;
        let left = {
            let mut state = self.state.lock();
            let subscribing = &mut state.subscribing;
            subscribing.uris.remove(&uri);
            let is_over = subscribing.uris.is_empty() && !subscribing.wants_lists();
            if is_over { subscribing.stream.take() } else { None }
        };
        if let Some(left) = left {
            left.leave();
        }
        Ok(())
    }

    /// The client is ready: it gets notices of lists without asking for them.
    pub(super) fn listen_to_lists(self: &Arc<Self>, caller: &Caller) {
        let then = {
            let mut state = self.state.lock();
            let subscribing = &mut state.subscribing;
            let is_first = !std::mem::replace(&mut subscribing.is_listening, true);
            if is_first && subscribing.wants_lists() {
                self.open_next(subscribing, caller, false)
            } else {
                Then::default()
            }
        };
        self.go(then);
    }

    /// Opens the next stream, unless one is being opened.
    fn open_next(self: &Arc<Self>, subscribing: &mut Subscribing, caller: &Caller, is_again: bool) -> Then {
        if subscribing.opening.is_some() {
            return Then::default();
        }
        let waiting = std::mem::take(&mut subscribing.waiting);
        let stream =
            Arc::new(Stream { session: Arc::downgrade(self), caller: caller.clone(), inlet: Mutex::new(None) });
        let filter = subscribing.filter(&waiting);
        subscribing.opening = Some(Opening { stream: stream.clone(), waiting, is_again });
        Then { open: Some((stream, filter)), ..Then::default() }
    }

    fn go(self: &Arc<Self>, then: Then) {
        for (to, message) in then.sent {
            let _gone = to.send(message);
        }
        if let Some(left) = then.left {
            left.leave();
        }
        if let Some((stream, filter)) = then.open {
            let params = [b"{\"notifications\":", &*filter, b"}"].concat();
            let request = self.client.own(self.number(), "subscriptions/listen", &params);
            let (outlet, inlet) = sink(Arc::new(Way { stream: stream.clone() }));
            *stream.inlet.lock() = Some(inlet);
            self.server.call(stream.caller.clone(), request, outlet);
            self.give_up_later(&stream);
        }
    }

    /// A stream that is not acknowledged in time counts as one that the server does not open.
    fn give_up_later(self: &Arc<Self>, stream: &Arc<Stream>) {
        let is_opening = |session: &Self, stream: &Arc<Stream>| {
            let state = session.state.lock();
            state.subscribing.opening.as_ref().is_some_and(|opening| Arc::ptr_eq(&opening.stream, stream))
        };
        if !is_opening(self, stream) {
            return;
        }
        let (session, stream) = (Arc::downgrade(self), Arc::downgrade(stream));
        let wait = self.settings.own.call;
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            if let (Some(session), Some(stream)) = (session.upgrade(), stream.upgrade())
                && is_opening(&session, &stream)
            {
                session.stream_ended(&stream, None);
                stream.leave();
            }
        });
    }

    /// A stream is open: who waited for it learns whether the server tells about the resource.
    fn acknowledged(self: &Arc<Self>, stream: &Arc<Stream>, message: &Message) {
        let accepted = accepted(message);
        let then = {
            let mut state = self.state.lock();
            let Some(news) = state.news.clone() else { return };
            let subscribing = &mut state.subscribing;
            if !subscribing.opening.as_ref().is_some_and(|opening| Arc::ptr_eq(&opening.stream, stream)) {
                return;
            }
            let Some(opening) = subscribing.opening.take() else { return };
            let mut sent = Vec::new();
            if opening.is_again {
                sent.extend(subscribing.all_changed().into_iter().map(|message| (news.clone(), message)));
            }
            for Waiting { uri, id, to } in opening.waiting {
                sent.push((to, if accepted.contains(&uri) { Message::result(&id, b"{}") } else { refused(&uri, &id) }));
                if accepted.contains(&uri) {
                    subscribing.uris.insert(uri);
                }
            }
            subscribing.failures = 0;
            let left = subscribing.stream.replace(opening.stream);
            let next = if subscribing.waiting.is_empty() {
                Then::default()
            } else {
                self.open_next(subscribing, &stream.caller, false)
            };
            Then { sent, left, ..next }
        };
        self.go(then);
    }

    fn noticed(&self, stream: &Arc<Stream>, message: &Message) {
        let news = {
            let state = self.state.lock();
            let is_current = state.subscribing.stream.as_ref().is_some_and(|current| Arc::ptr_eq(current, stream));
            if is_current && state.subscribing.is_wanted(message) { state.news.clone() } else { None }
        };
        if let (Some(news), Ok(notice)) = (news, translate::notice(message)) {
            let _gone = news.send(notice);
        }
    }

    /// The server has ended a stream, or will not open one.
    fn stream_ended(self: &Arc<Self>, stream: &Arc<Stream>, last: Option<&Message>) {
        let then = {
            let mut state = self.state.lock();
            if state.news.is_none() {
                return;
            }
            let subscribing = &mut state.subscribing;
            if subscribing.stream.as_ref().is_some_and(|current| Arc::ptr_eq(current, stream)) {
                subscribing.stream = None;
                self.open_later(subscribing, &stream.caller);
                Then::default()
            } else if subscribing.opening.as_ref().is_some_and(|opening| Arc::ptr_eq(&opening.stream, stream)) {
                self.opening_failed(subscribing, &stream.caller, last)
            } else {
                return;
            }
        };
        self.go(then);
    }

    /// Who waited is told; a stream that was there before is tried again.
    fn opening_failed(
        self: &Arc<Self>,
        subscribing: &mut Subscribing,
        caller: &Caller,
        last: Option<&Message>,
    ) -> Then {
        let Some(opening) = subscribing.opening.take() else { return Then::default() };
        let error = last.filter(|last| last.is_error());
        let failed = |id: &[u8]| match error {
            Some(error) => error.with_id(id),
            None => Fault::new(fault::UPSTREAM_DIED, "the server does not open a stream of notices").answer(Some(id)),
        };
        let sent = opening.waiting.iter().map(|waiting| (waiting.to.clone(), failed(&waiting.id))).collect();
        if !subscribing.waiting.is_empty() {
            let next = self.open_next(subscribing, caller, opening.is_again);
            return Then { sent, ..next };
        }
        let is_hopeless = error.is_some_and(|error| {
            let code = error.at(&["code"]).ok().flatten().map(|at| error.slice(at).to_vec());
            code.as_deref() == Some(fault::METHOD_NOT_FOUND.to_string().as_bytes())
        });
        if subscribing.stream.is_none() && !is_hopeless {
            self.open_later(subscribing, caller);
        }
        Then { sent, ..Then::default() }
    }

    /// Opens a stream again when some time has passed, if there is anything to be told about.
    fn open_later(self: &Arc<Self>, subscribing: &mut Subscribing, caller: &Caller) {
        if subscribing.uris.is_empty() && !subscribing.wants_lists() {
            return;
        }
        let wait = AGAIN[1].min(AGAIN[0] * 2_u32.saturating_pow(subscribing.failures.min(8)));
        subscribing.failures += 1;
        let (session, caller) = (Arc::downgrade(self), caller.clone());
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            if let Some(session) = session.upgrade() {
                session.open_again(&caller);
            }
        });
    }

    fn open_again(self: &Arc<Self>, caller: &Caller) {
        let then = {
            let mut state = self.state.lock();
            let subscribing = &mut state.subscribing;
            let is_wanted = !subscribing.uris.is_empty() || subscribing.wants_lists();
            if state.news.is_none() || state.subscribing.stream.is_some() || !is_wanted {
                return;
            }
            self.open_next(&mut state.subscribing, caller, true)
        };
        self.go(then);
    }
}

fn uri_of(request: &Message) -> Result<String, Fault> {
    let uri = request.text_at(&["uri"]).ok().flatten();
    uri.ok_or_else(|| Fault::new(fault::INVALID_PARAMS, "`uri` must be the resource's"))
}

/// The resources that an acknowledgement names.
fn accepted(message: &Message) -> BTreeSet<String> {
    let uris = || {
        let params = body(message).ok()?;
        let filter = params.object("notifications").ok()?;
        serde_json::from_slice(filter.get("resourceSubscriptions")?).ok()
    };
    uris().unwrap_or_default()
}

fn refused(uri: &str, id: &[u8]) -> Message {
    let why = format!("the server does not tell about {uri}");
    Fault::new(fault::RESOURCE_NOT_FOUND, why).with_data(json!({ "uri": uri })).answer(Some(id))
}
