//! `subscriptions/listen` from what a legacy server has: `resources/subscribe`, asked once for each resource however many listen, and its
//! notices that lists have changed. A stream's first message is the acknowledgement, which waits for the server's answers; what changes
//! meanwhile follows it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use standpipe_wire::jsonrpc::Message;

use super::talk::Talk;
use super::translate::{About, invalid, of_subscription, subscription_ended};
use crate::bridge::sink::answer;
use crate::bridge::{ACKNOWLEDGED, LISTS, UPDATED, covers, json};
use crate::era::META_SUBSCRIPTION;
use crate::object::Object;
use crate::{Caller, Conversation, Fault, Outlet};

/// Notices that may wait for the acknowledgement of one stream.
const EARLY_MAX: usize = 256;

/// A request to listen.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) number: u64,
    pub(super) caller: Caller,
    pub(super) id: Bytes,
    pub(super) to: Outlet,
    lists: [bool; 3],
    uris: Vec<String>,
}

impl Wanted {
    /// Looks at the request.
    pub(super) fn read(number: u64, caller: Caller, request: &Message, to: &Outlet) -> Result<Self, Fault> {
        let params = crate::bridge::body(request).map_err(invalid)?;
        let filter = params.get("notifications").map(Object::parse).transpose().map_err(invalid)?;
        let filter = filter.ok_or_else(|| invalid("`notifications` must say what to listen to"))?;
        let lists = LISTS.map(|(_, name, _)| filter.get(name) == Some(b"true"));
        let uris = filter.get("resourceSubscriptions").map_or(Ok(Vec::new()), |uris| {
            serde_json::from_slice(uris).map_err(|_| invalid("`resourceSubscriptions` must be a list of URIs"))
        })?;
        let id = request.id_bytes().unwrap_or_default();
        Ok(Self { number, caller, id, to: to.clone(), lists, uris })
    }
}

/// Who listens in one session, and what the server was asked to tell about.
#[derive(Debug, Default)]
pub(super) struct Listening {
    listeners: HashMap<u64, Listener>,
    uris: HashMap<String, Subscribed>,
}

#[derive(Debug)]
struct Subscribed {
    by: Vec<u64>,
    is_answered: bool,
}

/// One stream of notices.
#[derive(Debug)]
pub(super) struct Listener {
    id: Bytes,
    to: Outlet,
    lists: [bool; 3],
    uris: Vec<String>,
    /// URIs that the server has not answered for.
    open: usize,
    /// What came before the acknowledgement; `None` behind it.
    early: Option<Vec<Message>>,
}

impl Listening {
    pub(super) fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.listeners.len()
    }

    /// Takes all listeners away.
    pub(super) fn take(&mut self) -> Vec<Listener> {
        self.uris.clear();
        self.listeners.drain().map(|(_, listener)| listener).collect()
    }

    /// A listener comes; gives the URIs that the server has to be asked about.
    fn enter(&mut self, wanted: Wanted, about: &About, uris_max: usize) -> Vec<String> {
        let lists = std::array::from_fn(|list| wanted.lists[list] && about.lists[list]);
        let mut seen = HashSet::new();
        let mut uris = if about.subscribe { wanted.uris } else { Vec::new() };
        uris.retain(|uri| seen.insert(uri.clone()));
        uris.truncate(uris_max);
        let (mut asked, mut open) = (Vec::new(), 0);
        for uri in &uris {
            let subscribed = self.uris.entry(uri.clone()).or_insert_with(|| {
                asked.push(uri.clone());
                Subscribed { by: Vec::new(), is_answered: false }
            });
            subscribed.by.push(wanted.number);
            open += usize::from(!subscribed.is_answered);
        }
        let listener = Listener { id: wanted.id, to: wanted.to, lists, uris, open, early: Some(Vec::new()) };
        self.listeners.insert(wanted.number, listener);
        asked
    }

    /// The server has answered for a URI; gives the listeners that now have all their answers.
    fn answered(&mut self, uri: &str, is_subscribed: bool) -> Vec<u64> {
        let Some(subscribed) = self.uris.get_mut(uri) else { return Vec::new() };
        if std::mem::replace(&mut subscribed.is_answered, true) {
            return Vec::new();
        }
        let by = subscribed.by.clone();
        if !is_subscribed {
            self.uris.remove(uri);
        }
        let mut complete = Vec::new();
        for number in by {
            let Some(listener) = self.listeners.get_mut(&number) else { continue };
            listener.open -= 1;
            if !is_subscribed {
                listener.uris.retain(|has| has != uri);
            }
            if listener.open == 0 {
                complete.push(number);
            }
        }
        complete
    }

    /// A listener has left; gives the URIs that nobody wants any more.
    fn leave(&mut self, number: u64) -> (Option<Listener>, Vec<String>) {
        let Some(listener) = self.listeners.remove(&number) else { return (None, Vec::new()) };
        let mut unwanted = Vec::new();
        for uri in &listener.uris {
            let Some(subscribed) = self.uris.get_mut(uri) else { continue };
            subscribed.by.retain(|has| *has != number);
            if subscribed.by.is_empty() {
                self.uris.remove(uri);
                unwanted.push(uri.clone());
            }
        }
        (Some(listener), unwanted)
    }

    /// The notices to send for `notice`, each with its stream; `None` where it is none that anybody subscribes to.
    fn notices(&mut self, notice: &Message) -> Option<Vec<(Outlet, Message)>> {
        let method = notice.method()?;
        let list = LISTS.iter().position(|(name, ..)| *name == method);
        let uri = (method == UPDATED).then(|| notice.text_at(&["uri"]).ok().flatten()).flatten();
        if list.is_none() && method != UPDATED {
            return None;
        }
        let mut sent = Vec::new();
        for listener in self.listeners.values_mut() {
            let wants = match (list, &uri) {
                (Some(list), _) => listener.lists[list],
                (None, Some(uri)) => listener.uris.iter().any(|has| covers(has, uri)),
                (None, None) => false,
            };
            let Ok(message) = of_subscription(notice, &listener.id) else { continue };
            match (&mut listener.early, wants) {
                (_, false) => {}
                (None, true) => sent.push((listener.to.clone(), message)),
                (Some(early), true) => {
                    let is_there = early.iter().any(|has| has.bytes() == message.bytes());
                    if !is_there && early.len() < EARLY_MAX {
                        early.push(message);
                    }
                }
            }
        }
        Some(sent)
    }

    /// What a listener has to be sent next before it is told at once; `None` when there is nothing left.
    fn next_early(&mut self, number: u64) -> Option<(Outlet, Vec<Message>)> {
        let listener = self.listeners.get_mut(&number)?;
        let early = std::mem::take(listener.early.as_mut()?);
        if early.is_empty() {
            listener.early = None;
            return None;
        }
        Some((listener.to.clone(), early))
    }
}

impl Listener {
    /// The filter that is in force, as the acknowledgement tells it.
    fn acknowledgement(&self) -> Message {
        let mut filter = Object::default();
        for (at, (_, name, _)) in LISTS.into_iter().enumerate() {
            if self.lists[at] {
                filter.set(name, &b"true"[..]);
            }
        }
        if !self.uris.is_empty() {
            filter
                .set("resourceSubscriptions", serde_json::to_vec(&self.uris).expect("strings can be written as JSON"));
        }
        let mut meta = Object::default();
        meta.set(META_SUBSCRIPTION, &*self.id);
        let mut params = Object::default();
        params.set("_meta", meta.write());
        params.set("notifications", filter.write());
        Message::notification(ACKNOWLEDGED, &params.write())
    }

    /// The stream ends from our side.
    pub(super) fn end(self, about: &About) {
        let _gone = self.to.send(subscription_ended(&self.id, about));
    }
}

impl Talk {
    /// Begins a stream.
    pub(super) fn listen(self: &Arc<Self>, wanted: Wanted, conversation: &Arc<dyn Conversation>) {
        let (number, caller, to) = (wanted.number, wanted.caller.clone(), wanted.to.clone());
        let uris_max = self.settings.own.subscriptions_per_stream;
        if wanted.uris.len() > uris_max {
            self.settings.metrics.hit("mcp_subscriptions_per_stream_max");
        }
        let (asked, is_complete) = {
            let mut state = self.state.lock();
            let asked = state.listening.enter(wanted, &self.about(), uris_max);
            let is_complete = state.listening.listeners.get(&number).is_some_and(|listener| listener.open == 0);
            (asked, is_complete)
        };
        for uri in asked {
            self.subscribe(&caller, conversation, uri);
        }
        if is_complete {
            self.acknowledge(number);
        }
        let talk = Arc::downgrade(self);
        to.on_gone(move || {
            if let Some(talk) = talk.upgrade() {
                talk.unlisten(&caller, number);
            }
        });
    }

    fn subscribe(self: &Arc<Self>, caller: &Caller, conversation: &Arc<dyn Conversation>, uri: String) {
        let request = self.about_uri("resources/subscribe", &uri);
        let talk = self.clone();
        let then = move |reply: Option<Message>| {
            let is_subscribed = reply.is_some_and(|reply| !reply.is_error());
            let complete = talk.state.lock().listening.answered(&uri, is_subscribed);
            complete.into_iter().for_each(|number| talk.acknowledge(number));
        };
        conversation.call(caller, request, answer(then));
    }

    fn about_uri(&self, method: &str, uri: &str) -> Message {
        let params = [b"{\"uri\":", &*json(uri), b"}"].concat();
        Message::request(self.number().to_string().as_bytes(), method, &params)
    }

    /// Sends the acknowledgement and then what came before it.
    fn acknowledge(&self, number: u64) {
        let first = {
            let state = self.state.lock();
            let listener = state.listening.listeners.get(&number);
            listener.map(|listener| (listener.to.clone(), listener.acknowledgement()))
        };
        let Some((to, message)) = first else { return };
        let mut sent = to.send(message);
        while sent.is_ok() {
            let Some((to, early)) = self.state.lock().listening.next_early(number) else { return };
            sent = early.into_iter().try_for_each(|message| to.send(message));
        }
    }

    fn unlisten(&self, caller: &Caller, number: u64) {
        let (_dropped_behind_the_lock, unwanted) = {
            let mut state = self.state.lock();
            let left = state.listening.leave(number);
            state.touch();
            left
        };
        let Some(conversation) = self.conversation() else { return };
        for uri in unwanted {
            conversation.call(caller, self.about_uri("resources/unsubscribe", &uri), answer(drop));
        }
    }

    /// Sends a notice to all who listen; false when it is none that anybody could.
    pub(super) fn tell_listeners(&self, notice: &Message) -> bool {
        let Some(notices) = self.state.lock().listening.notices(notice) else { return false };
        for (to, message) in notices {
            let _gone = to.send(message);
        }
        true
    }
}
