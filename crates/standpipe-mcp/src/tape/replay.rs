//! A server that answers from a tape. A call is answered as the same call was when it was recorded: the same method, and parameters that mean the same without
//! `_meta`. The same call several times gets the recorded answers in their order, and the last one again after that; each legacy session begins anew.
//!
//! The tape of a legacy session answers legacy clients, that of modern calls modern ones. What was masked on the tape is masked in the call before the two are compared.
//!
//! ```text
//! call ─► index: method + parameters ─► recorded call ─► its notifications, requests and reply, with the caller's id and progress token
//! ```

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::json;
use standpipe_wire::jsonrpc::{Edit, Kind, Message};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::canonical::canonical;
use super::mask::Masks;
use super::reader::{Recorded, Step, Tape, Way};
use crate::exchange::Closed;
use crate::metrics::one;
use crate::{Caller, Conversation, Fault, LegacyServer, Metrics, ModernServer, Outlet, fault};

/// The member of `_meta` in which a message of a modern stream says which request it belongs to.
const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
/// Messages that are sent at once; more take turns with the one who takes them out.
const AT_ONCE: usize = 64;
/// Pause between them, and before a reply that something goes before: some clients (the TypeScript SDK 1.x) forget the progress that they get
/// in one piece with its reply.
const PAUSE: Duration = Duration::from_millis(2);
/// How long a request of the server waits for the client's answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Most of two calls that is compared to find the nearest, in bytes.
const COMPARED_BYTES: usize = 4 << 10;
/// Most of a call that an error shows, in bytes.
const SHOWN_BYTES: usize = 400;

/// How a tape is replayed.
#[derive(Clone, Debug, Default)]
pub struct ReplayOptions {
    /// Calls of this server; needed where a tape has several.
    pub server: Option<String>,
    /// With the distances in time that were recorded; else at once.
    pub timing: bool,
}

/// Answers from a tape; a handle that is cheap to clone.
#[derive(Clone, Debug)]
pub struct Replay(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tape: Tape,
    /// Places of calls on the tape by era, method and parameters.
    index: HashMap<Key, Vec<usize>>,
    masks: Masks,
    timing: bool,
    server: Arc<str>,
    modern: Turns,
    metrics: Metrics,
}

/// How often each call was made.
type Turns = Mutex<HashMap<Key, usize>>;

/// What makes two calls the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    modern: bool,
    call: Arc<[u8]>,
}

impl Replay {
    /// Makes a tape answer.
    ///
    /// # Errors
    /// A sentence that names the servers on the tape, where it is not clear which is meant.
    pub fn new(tape: Tape, options: ReplayOptions, metrics: Metrics) -> Result<Self, String> {
        let servers = tape.servers();
        let server = match (&options.server, &servers[..]) {
            (Some(name), all) => all.iter().find(|server| ***server == **name),
            (None, [one]) => Some(one),
            (None, _) => None,
        };
        let Some(server) = server.cloned() else {
            let names = servers.iter().map(|name| &**name).collect::<Vec<_>>().join(", ");
            return Err(format!("say which server to replay with --server NAME; the tape has: {names}"));
        };
        let masks = tape.masks();
        let mut index: HashMap<Key, Vec<usize>> = HashMap::new();
        for (at, call) in tape.calls.iter().enumerate().filter(|(_, call)| call.server == server) {
            index.entry(Key::of(&call.request, call.session.is_none(), &masks)).or_default().push(at);
        }
        let inner = Inner { tape, index, masks, timing: options.timing, server, modern: Turns::default(), metrics };
        Ok(Self(Arc::new(inner)))
    }

    /// The name under which the server was recorded.
    pub fn server(&self) -> &str {
        &self.0.server
    }
}

impl Key {
    fn of(request: &Message, modern: bool, masks: &Masks) -> Self {
        let method = request.method().unwrap_or_default();
        let masked = match masks.apply(request.bytes()) {
            (Cow::Owned(masked), _) => Message::parse(masked.into()).ok(),
            (Cow::Borrowed(_), _) => None,
        };
        let params = masked.as_ref().unwrap_or(request).body_bytes().unwrap_or(b"{}");
        let call = [method.as_bytes(), b" ", &canonical(params, &["_meta"])].concat();
        Self { modern, call: call.into() }
    }
}

impl Inner {
    /// The recorded call that answers this one.
    fn find(&self, request: &Message, modern: bool, turns: &Turns) -> Result<usize, Fault> {
        let key = Key::of(request, modern, &self.masks);
        let Some(places) = self.index.get(&key) else { return self.find_other(request, key) };
        let mut turns = turns.lock();
        let turn = turns.entry(key).or_default();
        let at = places[(*turn).min(places.len() - 1)];
        *turn += 1;
        Ok(at)
    }

    /// What answers a call that is not on the tape as it is: a client may introduce itself in words of its own.
    fn find_other(&self, request: &Message, key: Key) -> Result<usize, Fault> {
        if !self.index.keys().any(|known| known.modern == key.modern) {
            return Err(self.other_era(request, key.modern));
        }
        if !matches!(request.method(), Some("initialize" | "server/discover")) {
            return Err(self.unmatched(request, &key));
        }
        let of_server = self.tape.calls.iter().enumerate().filter(|(_, call)| call.server == self.server);
        let mut same = of_server
            .filter(|(_, call)| call.request.method() == request.method() && call.session.is_none() == key.modern);
        let version = |message: &Message| message.text_at(&["protocolVersion"]).ok().flatten();
        let asked = version(request);
        let first = same.clone().next();
        let found = same.find(|(_, call)| version(&call.request) == asked).or(first);
        found.map(|(at, _)| at).ok_or_else(|| self.unmatched(request, &key))
    }

    fn other_era(&self, request: &Message, modern: bool) -> Fault {
        let (has, asked) = if modern { ("legacy", "modern") } else { ("modern", "legacy") };
        let message =
            format!("the tape of {} has calls of the {has} era only, and this is one of the {asked} era", self.server);
        let code = match request.method() {
            // By this a client knows a server of the other era.
            Some("initialize") => fault::UNSUPPORTED_VERSION,
            Some("server/discover") => fault::METHOD_NOT_FOUND,
            _ => fault::NOT_FOUND,
        };
        Fault::new(code, message)
    }

    fn unmatched(&self, request: &Message, key: &Key) -> Fault {
        let asked = shown(&key.call);
        let Some((near, at)) = self.nearest(key) else {
            let message = format!(
                "no call on the tape is {asked}, nor any of {}: record one",
                request.method().unwrap_or_default()
            );
            return Fault::new(fault::NOT_FOUND, message);
        };
        let call = &self.tape.calls[at];
        let message = format!(
            "no call on the tape is {asked}; the nearest is in line {}: {}. Call it so, or record this one",
            call.line,
            shown(&near.call)
        );
        Fault::new(fault::NOT_FOUND, message).with_data(json!({
            "nearest": { "line": call.line, "method": call.request.method(), "call": shown(&near.call) }
        }))
    }

    /// The call of the same method that is most like this one.
    fn nearest(&self, key: &Key) -> Option<(&Key, usize)> {
        let compared =
            |key: &Key| String::from_utf8_lossy(&key.call[..key.call.len().min(COMPARED_BYTES)]).into_owned();
        let method = |key: &Key| key.call.iter().position(|byte| *byte == b' ').map(|end| key.call[..end].to_vec());
        let (asked, wanted) = (compared(key), method(key));
        let same = self.index.iter().filter(|(known, _)| known.modern == key.modern && method(known) == wanted);
        let near = same.map(|(known, places)| (strsim::sorensen_dice(&asked, &compared(known)), known, places[0]));
        // Of equals the first on the tape.
        let best = near.max_by(|(a, _, at), (b, _, other)| a.total_cmp(b).then(other.cmp(at)));
        best.map(|(_, known, at)| (known, at))
    }

    /// Answers one call.
    fn answer(self: &Arc<Self>, request: Message, to: Outlet, session: Option<Arc<Talk>>) {
        let found = match &session {
            Some(talk) => self.find(&request, false, &talk.turns),
            None => self.find(&request, true, &self.modern),
        };
        let at = match found {
            Ok(at) => at,
            Err(fault) => {
                // Whoever asks whether somebody is there need not have been recorded.
                let is_ping = session.is_some() && request.method() == Some("ping");
                let id = request.id().unwrap_or(b"null");
                let reply = if is_ping {
                    Message::result(id, b"{}")
                } else {
                    one(&self.metrics.tape().unmatched);
                    fault.answer(Some(id))
                };
                let _gone = to.send(reply);
                return;
            }
        };
        one(&self.metrics.tape().replayed);
        let play = Play { inner: self.clone(), at, token: token(&request), request, to, talk: session };
        if play.is_at_once() {
            // Whoever has left needs no answer.
            let _gone = play.send_all();
            return;
        }
        play.spawn();
    }
}

/// Part of a call, for people.
fn shown(call: &[u8]) -> String {
    let text = String::from_utf8_lossy(call).replace(",}", "}").replace(",]", "]");
    let end = text.floor_char_boundary(SHOWN_BYTES);
    if end < text.len() { format!("{}…", &text[..end]) } else { text }
}

/// The progress token of a request, as it stands.
fn token(request: &Message) -> Option<Bytes> {
    let span = request.at(&["_meta", "progressToken"]).ok().flatten()?;
    Some(request.bytes().slice_ref(request.slice(span)))
}

/// A call that is being answered.
struct Play {
    inner: Arc<Inner>,
    at: usize,
    request: Message,
    token: Option<Bytes>,
    to: Outlet,
    talk: Option<Arc<Talk>>,
}

impl Play {
    fn recorded(&self) -> &Recorded {
        &self.inner.tape.calls[self.at]
    }

    /// Whether nothing has to be waited for.
    fn is_at_once(&self) -> bool {
        let recorded = self.recorded();
        !self.inner.timing
            && recorded.steps.len() <= AT_ONCE
            && recorded.steps.first().is_some_and(Step::is_reply)
            && !recorded.steps.iter().any(|step| step.answered)
    }

    fn send_all(&self) -> Result<(), Closed> {
        self.recorded().steps.iter().try_for_each(|step| self.send(step))
    }

    /// Sends a step with the caller's id and tokens in place of those that were recorded.
    fn send(&self, step: &Step) -> Result<(), Closed> {
        let message = match step.message.kind() {
            Kind::Response if step.way == Way::Call => step.message.with_id(self.request.id().unwrap_or(b"null")),
            _ => match self.spliced(&step.message) {
                Some(message) => message,
                None => return Ok(()),
            },
        };
        let message = self.with_subscription(message);
        match (step.way, &self.talk) {
            (Way::News, Some(talk)) => talk.news.send(message).or(Ok(())),
            _ => self.to.send(message),
        }
    }

    /// `None` for progress that this caller has not asked for.
    fn spliced(&self, message: &Message) -> Option<Message> {
        if message.method() != Some("notifications/progress") {
            return Some(message.clone());
        }
        let span = message.at(&["progressToken"]).ok().flatten()?;
        Some(message.edit(&mut [Edit::replace(span, self.token.as_deref()?)]))
    }

    fn with_subscription(&self, message: Message) -> Message {
        match (message.at(&["_meta", SUBSCRIPTION_ID]), self.request.id()) {
            (Ok(Some(span)), Some(id)) if self.talk.is_none() => message.edit(&mut [Edit::replace(span, id)]),
            _ => message,
        }
    }

    /// Answers over time.
    fn spawn(self) {
        let (talk, id) = (self.talk.clone(), self.request.id_bytes());
        let task = tokio::spawn(self.run());
        if let (Some(talk), Some(id)) = (talk, id) {
            let mut all = talk.running.lock();
            all.retain(|_, task| !task.is_finished());
            all.insert(id, task.abort_handle());
        }
    }

    async fn run(self) {
        let to = self.to.clone();
        if self.talk.is_none() {
            // A modern caller that leaves cancels.
            tokio::select! {
                () = to.gone() => {}
                () = self.steps() => {}
            }
        } else {
            self.steps().await;
        }
    }

    async fn steps(&self) {
        let recorded = self.recorded();
        let began = tokio::time::Instant::now();
        for (number, step) in recorded.steps.iter().enumerate() {
            if self.inner.timing {
                let after = Duration::try_from_secs_f64((step.at - recorded.at) / 1e3).unwrap_or_default();
                tokio::time::sleep_until(began + after).await;
            } else if number > 0 && (number % AT_ONCE == 0 || step.is_reply()) {
                tokio::time::sleep(PAUSE).await;
            }
            let sent = match &self.talk {
                Some(talk) if step.answered => self.ask(talk, step).await,
                _ => self.send(step),
            };
            if sent.is_err() && step.way == Way::Call && self.talk.is_none() {
                return;
            }
        }
        if recorded.reply().is_none() {
            self.without_reply().await;
        }
    }

    /// A request of the server: goes on when the client has answered it, whatever it says.
    async fn ask(&self, talk: &Talk, step: &Step) -> Result<(), Closed> {
        let (id, answer) = talk.await_answer();
        let message = step.message.with_id(id.to_string().as_bytes());
        match step.way {
            Way::Call => self.to.send(message)?,
            Way::News => talk.news.send(message)?,
        }
        // No answer in time: the server went on without one, too.
        let _given_up = tokio::time::timeout(ANSWER_MAX, answer).await;
        Ok(())
    }

    /// The call had no reply when it was recorded.
    async fn without_reply(&self) {
        if self.request.method() == Some("subscriptions/listen") {
            return self.to.gone().await;
        }
        let line = self.recorded().line;
        let message =
            format!("the call in line {line} of the tape has no reply there: it was cancelled, or the server died");
        let _gone = self.to.send(Fault::new(fault::UPSTREAM_DIED, message).answer(self.request.id()));
    }
}

impl ModernServer for Replay {
    fn call(&self, _: Caller, request: Message, to: Outlet) {
        self.0.answer(request, to, None);
    }
}

impl LegacyServer for Replay {
    fn open(&self, _: &Caller, initialize: Message, to: Outlet, news: Outlet) -> Arc<dyn Conversation> {
        let talk = Arc::new(Talk {
            inner: self.0.clone(),
            turns: Turns::default(),
            news,
            running: Mutex::default(),
            asked: Mutex::default(),
        });
        self.0.answer(initialize, to, Some(talk.clone()));
        Arc::new(Session(talk))
    }
}

/// A legacy session.
#[derive(Debug)]
struct Talk {
    inner: Arc<Inner>,
    turns: Turns,
    news: Outlet,
    running: Mutex<HashMap<Bytes, AbortHandle>>,
    /// Requests of the server that wait for the client's answer, and the number of the next one.
    asked: Mutex<(u64, HashMap<u64, oneshot::Sender<()>>)>,
}

impl Talk {
    fn await_answer(&self) -> (u64, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        let mut asked = self.asked.lock();
        asked.0 += 1;
        let id = asked.0;
        asked.1.retain(|_, waiting| !waiting.is_closed());
        asked.1.insert(id, sender);
        (id, receiver)
    }
}

/// What the client holds: dropping it ends what runs.
#[derive(Debug)]
struct Session(Arc<Talk>);

impl Drop for Session {
    fn drop(&mut self) {
        self.0.running.lock().drain().for_each(|(_, task)| task.abort());
    }
}

impl Conversation for Session {
    fn call(&self, _: &Caller, request: Message, to: Outlet) {
        self.0.inner.answer(request, to, Some(self.0.clone()));
    }

    fn tell(&self, _: &Caller, message: Message) {
        if message.kind() == Kind::Response {
            let waiting = message.id_number().and_then(|id| self.0.asked.lock().1.remove(&id));
            if let Some(waiting) = waiting {
                let _gone = waiting.send(());
            }
        } else if message.method() == Some("notifications/cancelled") {
            let id = message.at(&["requestId"]).ok().flatten().map(|span| message.slice(span));
            if let Some(task) = id.and_then(|id| self.0.running.lock().remove(id)) {
                task.abort();
            }
        }
    }

    fn ended(&self) -> BoxFuture<'static, ()> {
        // A tape does not end from its side.
        Box::pin(std::future::pending())
    }
}
