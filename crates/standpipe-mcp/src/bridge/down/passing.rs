//! A call on its way through [`super::Down`]. The server sees one call from begin to end; its client may see several: each question of the
//! server ends a request with `input_required`, and the retry goes on where it was.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::json;
use standpipe_wire::jsonrpc::{Kind, Message};
use tokio::task::AbortHandle;

use super::Inner;
use super::talk::Talk;
use super::translate::{self, About, Wishes, invalid};
use crate::bridge::request_state::{Bound, Handle, digest_of};
use crate::bridge::sink::sink;
use crate::bridge::{MAY_ASK, no_answer};
use crate::exchange::{Closed, Inlet, Relay};
use crate::object::Object;
use crate::{Caller, Conversation, Fault, Outlet, fault};

/// Notices kept for a client that is away with a question, and their bytes; the oldest go first.
const MISSED_MAX: usize = 16;
const MISSED_BYTES_MAX: usize = 64 << 10;

/// A call of a modern client in a session of a legacy server.
pub(super) struct Passing {
    /// Its id towards the server.
    pub(super) number: u64,
    talk: Arc<Talk>,
    request: Message,
    state: Mutex<State>,
}

struct State {
    caller: Caller,
    seat: Seat,
    /// Counts who sat in the seat.
    stay: u64,
    /// What the server wants to know and has not been told.
    questions: Vec<Question>,
    /// How many it has asked.
    asked: u64,
    /// How often the call was suspended.
    round: u32,
    /// Notices that came while the seat was empty.
    missed: VecDeque<Message>,
}

/// The client of the call.
enum Seat {
    /// It waits for the reply.
    Taken(Client),
    /// It was sent questions and has not come back; the reply may have come before it.
    Empty { reply: Option<Message>, timer: AbortHandle },
    /// Nobody will come.
    Left,
}

/// Who waits for the reply.
pub(super) struct Client {
    pub(super) id: Bytes,
    pub(super) to: Outlet,
    pub(super) wishes: Wishes,
}

/// What the server wants to know.
struct Question {
    /// Its name in `inputRequests`.
    key: String,
    /// The id of the server's request.
    id: Bytes,
    elicitation: bool,
    json: Vec<u8>,
}

impl fmt::Debug for Passing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passing").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Passing {
    pub(super) fn new(number: u64, talk: Arc<Talk>, caller: Caller, request: Message, client: Client) -> Self {
        let seat = Seat::Taken(client);
        let state = State { caller, seat, stay: 0, questions: Vec::new(), asked: 0, round: 0, missed: VecDeque::new() };
        Self { number, talk, request, state: Mutex::new(state) }
    }

    fn method(&self) -> &str {
        self.request.method().unwrap_or_default()
    }

    /// Whether the server may ask the client of this call something.
    pub(super) fn may_ask(&self) -> bool {
        MAY_ASK.contains(&self.method()) && !matches!(self.state.lock().seat, Seat::Left)
    }

    /// The least level of log messages that the client wants now.
    pub(super) fn level(&self) -> Option<usize> {
        match &self.state.lock().seat {
            Seat::Taken(client) => client.wishes.level,
            _ => None,
        }
    }

    /// Hands the call to the server.
    pub(super) fn start(self: Arc<Self>, conversation: &Arc<dyn Conversation>) {
        let request = match translate::request(&self.request, self.number) {
            Ok(request) => request,
            Err(malformed) => return self.fail(&invalid(malformed)),
        };
        let caller = self.state.lock().caller.clone();
        if let Some(level) = self.level() {
            self.talk.want_level(&caller, conversation, level);
        }
        let way = Arc::new(Way { call: self.clone(), inlet: Mutex::new(None) });
        let (outlet, inlet) = sink(way.clone());
        *way.inlet.lock() = Some(inlet);
        drop(way);
        conversation.call(&caller, request, outlet);
        self.watch();
    }

    /// Notices when the client leaves.
    fn watch(self: &Arc<Self>) {
        let (to, stay) = {
            let state = self.state.lock();
            let Seat::Taken(client) = &state.seat else { return };
            (client.to.clone(), state.stay)
        };
        let call = Arc::downgrade(self);
        to.on_gone(move || {
            if let Some(call) = call.upgrade() {
                call.left(stay);
            }
        });
    }

    /// Ends the call with a failure of ours. Nothing has been sent to the server.
    fn fail(&self, fault: &Fault) {
        self.fail_as(&fault.answer(None));
    }

    /// Ends the call with an error that answered something else. Nothing has been sent to the server.
    pub(super) fn fail_as(&self, error: &Message) {
        let seat = std::mem::replace(&mut self.state.lock().seat, Seat::Left);
        if let Seat::Taken(client) = seat {
            let failed = translate::error(error, &client.id);
            let _gone = client.to.send(failed.unwrap_or_else(|_| error.with_id(&client.id)));
        }
        self.talk.finished(self.number);
    }

    // What the server sends.

    fn reply(&self, reply: Message) -> Result<(), Closed> {
        let client = {
            let mut state = self.state.lock();
            state.questions.clear();
            match std::mem::replace(&mut state.seat, Seat::Left) {
                Seat::Taken(client) => client,
                Seat::Empty { timer, reply: None } => {
                    state.seat = Seat::Empty { reply: Some(reply), timer };
                    return Ok(());
                }
                other => {
                    state.seat = other;
                    return Err(Closed::Gone);
                }
            }
        };
        self.deliver(&reply, &client)
    }

    fn deliver(&self, reply: &Message, client: &Client) -> Result<(), Closed> {
        let sent = client.to.send(self.modern(reply, &client.id));
        self.talk.finished(self.number);
        sent
    }

    /// The reply as the client wants it.
    fn modern(&self, reply: &Message, id: &[u8]) -> Message {
        let about = self.talk.about();
        match self.addresses(reply, id, &about) {
            Some(message) => message,
            None => about
                .answer(reply, id, self.method())
                .unwrap_or_else(|malformed| no_answer(&self.talk.settings.server, malformed).answer(Some(id))),
        }
    }

    /// A legacy server may end a call because addresses have to be opened first: the modern form of that is a question, after which the
    /// call is made anew.
    fn addresses(&self, reply: &Message, id: &[u8], about: &About) -> Option<Message> {
        let questions = translate::addresses(reply)?;
        let inner = self.talk.inner.upgrade()?;
        if !self.may_be_retried() || !translate::opens_addresses(&self.talk.capabilities) {
            return None;
        }
        let keys: Vec<String> = (1..=questions.len()).map(|number| format!("q{number}")).collect();
        let mut asked = Object::default();
        keys.iter().zip(questions).for_each(|(key, question)| asked.set(key, question));
        let state = self.handle(&inner, Handle { call: None, round: 0 });
        Some(about.input_required(id, &asked, &state))
    }

    fn may_be_retried(&self) -> bool {
        MAY_ASK.contains(&self.method())
    }

    fn handle(&self, inner: &Inner, handle: Handle) -> String {
        let settings = &self.talk.settings;
        let lifetime = Duration::from_millis(settings.limits().mcp_suspended_ms_max);
        let call = digest_of(&self.request);
        let bound = Bound { principal: &self.talk.principal, server: &settings.server, call: &call };
        inner.seal.seal(handle, bound, lifetime)
    }

    pub(super) fn notice(&self, notice: Message) -> Result<(), Closed> {
        match notice.method() {
            Some("notifications/progress" | "notifications/message") => {}
            Some("notifications/cancelled") => {
                if let Ok(Some(id)) = notice.at(&["requestId"]) {
                    self.withdraw(notice.slice(id));
                }
                return Ok(());
            }
            Some("notifications/elicitation/complete" | "notifications/tasks/status") => return Ok(()),
            _ => return self.pass_on(notice),
        }
        let mut state = self.state.lock();
        let (to, message) = match &state.seat {
            Seat::Taken(client) => (client.to.clone(), self.wanted(notice, client)),
            Seat::Empty { .. } => {
                state.miss(notice);
                return Ok(());
            }
            Seat::Left => return Ok(()),
        };
        drop(state);
        message.map_or(Ok(()), |message| to.send(message))
    }

    /// Progress or a log message as the client wants it, if it does.
    fn wanted(&self, notice: Message, client: &Client) -> Option<Message> {
        match notice.method() {
            Some("notifications/progress") => self.progress(&notice, client),
            _ => translate::is_wanted(&notice, client.wishes.level).then_some(notice),
        }
    }

    /// A notice that belongs to subscriptions, or one that we know nothing of.
    fn pass_on(&self, notice: Message) -> Result<(), Closed> {
        if self.talk.tell_listeners(&notice) {
            return Ok(());
        }
        let to = match &self.state.lock().seat {
            Seat::Taken(client) => client.to.clone(),
            _ => return Ok(()),
        };
        to.send(notice)
    }

    /// Progress under the client's token; `None` where it is not of this call.
    fn progress(&self, notice: &Message, client: &Client) -> Option<Message> {
        let token = client.wishes.token.as_ref()?;
        let at = notice.at(&["progressToken"]).ok()??;
        (notice.slice(at) == self.number.to_string().as_bytes())
            .then(|| notice.edit(&mut [standpipe_wire::jsonrpc::Edit::replace(at, token)]))
    }

    /// The server no longer wants to know.
    pub(super) fn withdraw(&self, id: &[u8]) {
        self.state.lock().questions.retain(|question| question.id != id);
    }

    /// The server wants to know something. The client has it with the reply to its request, and the answer comes with its retry.
    pub(super) fn ask(self: &Arc<Self>, request: &Message) {
        let (Some(id), method) = (request.id().map(Bytes::copy_from_slice), request.method().unwrap_or_default())
        else {
            return;
        };
        let caller = self.state.lock().caller.clone();
        if method == "ping" {
            return self.talk.tell(&caller, Message::result(&id, b"{}"));
        }
        let refuse = |code, why: &str| self.talk.tell(&caller, Message::error(Some(&id), code, why, None));
        if !self.may_be_retried() || !translate::can_answer(&self.talk.capabilities, method, request) {
            return refuse(fault::METHOD_NOT_FOUND, "the client can't be asked this now");
        }
        let mut state = self.state.lock();
        let (settings, limits) = (&self.talk.settings, self.talk.settings.limits());
        if matches!(state.seat, Seat::Left | Seat::Empty { reply: Some(_), .. }) {
            drop(state);
            return refuse(fault::INTERNAL, "the client waits for no answer");
        }
        if state.questions.len() >= limits.mcp_questions_per_call_max {
            drop(state);
            settings.metrics.hit("mcp_questions_per_call_max");
            return refuse(fault::INTERNAL, "too many questions are open for this call");
        }
        state.asked += 1;
        let key = format!("q{}", state.asked);
        let json = translate::question(method, request.body_bytes());
        state.questions.push(Question { key, id, elicitation: method == "elicitation/create", json });
        if matches!(state.seat, Seat::Taken(_)) {
            let client = match std::mem::replace(&mut state.seat, Seat::Left) {
                Seat::Taken(client) => client,
                _ => return,
            };
            let suspended = self.suspend(&mut state, &client.id);
            drop(state);
            self.sent_away(&client, suspended);
        }
    }

    /// Empties the seat; gives what the client is sent.
    fn suspend(self: &Arc<Self>, state: &mut State, id: &[u8]) -> Result<Message, Fault> {
        let (settings, inner) = (&self.talk.settings, self.talk.inner.upgrade());
        let inner = inner.ok_or_else(|| Fault::new(fault::UPSTREAM_DOWN, "the server leaves the gateway"))?;
        let limits = settings.limits();
        {
            let mut suspended = inner.suspended.lock();
            if suspended.len() >= limits.mcp_suspended_calls_max && !suspended.contains_key(&self.number) {
                drop(suspended);
                return Err(settings.refused("mcp_suspended_calls_max", "too many calls wait for their clients"));
            }
            suspended.insert(self.number, self.clone());
        }
        state.round += 1;
        let (call, round) = (Arc::downgrade(self), state.round);
        let lifetime = Duration::from_millis(limits.mcp_suspended_ms_max);
        let timer = tokio::spawn(async move {
            tokio::time::sleep(lifetime).await;
            if let Some(call) = Weak::upgrade(&call) {
                call.expired(round);
            }
        });
        if let Seat::Empty { timer, .. } =
            std::mem::replace(&mut state.seat, Seat::Empty { reply: None, timer: timer.abort_handle() })
        {
            timer.abort();
        }
        let mut asked = Object::default();
        state.questions.iter().for_each(|question| asked.set(&question.key, &*question.json));
        let handle = self.handle(&inner, Handle { call: Some(self.number), round });
        Ok(self.talk.about().input_required(id, &asked, &handle))
    }

    /// Sends the client away with questions, or with the reason why the call ends.
    fn sent_away(&self, client: &Client, suspended: Result<Message, Fault>) {
        match suspended {
            Ok(message) => {
                if client.to.send(message).is_err() {
                    self.cancel_if("the client has left", |_| true);
                }
            }
            Err(fault) => {
                let _gone = client.to.send(fault.answer(Some(&client.id)));
                self.cancel_if(&fault.message, |_| true);
            }
        }
    }

    /// The client has come back with answers.
    ///
    /// # Errors
    /// It has been here before, or the answers are none.
    pub(super) fn resume(
        self: &Arc<Self>,
        round: u32,
        caller: Caller,
        retry: &Message,
        client: Client,
    ) -> Result<(), Fault> {
        let responses = answers(retry)?;
        // What it has missed comes first, and what it misses meanwhile.
        let (mut state, reply) = loop {
            let mut state = self.state.lock();
            let State { seat: Seat::Empty { reply, .. }, round: now, missed, .. } = &mut *state else {
                return Err(used_before());
            };
            if *now != round {
                return Err(used_before());
            }
            let missed = std::mem::take(missed);
            if missed.is_empty() {
                let reply = reply.take();
                break (state, reply);
            }
            drop(state);
            for message in missed.into_iter().filter_map(|notice| self.wanted(notice, &client)) {
                let _gone = client.to.send(message);
            }
        };
        if let Some(reply) = reply {
            state.vacate();
            drop(state);
            self.resumed();
            let _gone = self.deliver(&reply, &client);
            return Ok(());
        }
        state.caller = caller.clone();
        let told = state.take_answered(&responses);
        if state.questions.is_empty() {
            state.vacate();
            state.stay += 1;
            state.seat = Seat::Taken(client);
            drop(state);
            self.resumed();
            self.watch();
        } else {
            let suspended = self.suspend(&mut state, &client.id);
            drop(state);
            self.sent_away(&client, suspended);
        }
        told.into_iter().for_each(|answer| self.talk.tell(&caller, answer));
        Ok(())
    }

    /// It is no longer suspended.
    fn resumed(&self) {
        if let Some(inner) = self.talk.inner.upgrade() {
            inner.suspended.lock().remove(&self.number);
        }
    }

    /// The client that sat there in its `stay`-th turn has left.
    fn left(&self, stay: u64) {
        self.cancel_if("the client has left", |state| state.stay == stay && matches!(state.seat, Seat::Taken(_)));
    }

    /// The client did not come back in time.
    fn expired(&self, round: u32) {
        let is_due = |state: &State| state.round == round && matches!(state.seat, Seat::Empty { .. });
        if self.cancel_if("the client did not come back with an answer", is_due) {
            self.talk.settings.metrics.hit("mcp_suspended_ms_max");
        }
    }

    /// Ends the call, if it `is_due`, whoever waits.
    fn cancel_if(&self, why: &str, is_due: impl FnOnce(&State) -> bool) -> bool {
        let (caller, questions, is_over) = {
            let mut state = self.state.lock();
            if !is_due(&state) {
                return false;
            }
            let is_over = matches!(state.seat, Seat::Empty { reply: Some(_), .. });
            state.vacate();
            (state.caller.clone(), std::mem::take(&mut state.questions), is_over)
        };
        self.resumed();
        if !is_over {
            self.tell_cancelled(&caller, questions, why);
        }
        self.talk.finished(self.number);
        true
    }

    /// Open questions are answered, so that a server which goes on all the same does not wait.
    fn tell_cancelled(&self, caller: &Caller, questions: Vec<Question>, why: &str) {
        let params = json!({ "requestId": self.number, "reason": why }).to_string();
        self.talk.tell(caller, Message::notification("notifications/cancelled", params.as_bytes()));
        for question in questions {
            let answer = if question.elicitation {
                Message::result(&question.id, br#"{"action":"cancel"}"#)
            } else {
                Message::error(Some(&question.id), fault::INTERNAL, why, None)
            };
            self.talk.tell(caller, answer);
        }
    }

    /// The server dropped the call without a reply.
    fn dropped(&self) {
        let is_open = match &self.state.lock().seat {
            Seat::Taken(_) | Seat::Empty { reply: None, .. } => true,
            Seat::Empty { .. } | Seat::Left => false,
        };
        if is_open {
            let number = self.number.to_string();
            let fault = Fault::new(fault::UPSTREAM_DIED, "the server ended without an answer: send the request again");
            let _gone = self.reply(fault.answer(Some(number.as_bytes())));
        }
    }
}

impl State {
    /// Nobody sits there from now on.
    fn vacate(&mut self) {
        if let Seat::Empty { timer, .. } = std::mem::replace(&mut self.seat, Seat::Left) {
            timer.abort();
        }
    }

    /// Keeps a notice for who comes back.
    fn miss(&mut self, notice: Message) {
        self.missed.push_back(notice);
        let bytes = |missed: &VecDeque<Message>| missed.iter().map(|notice| notice.bytes().len()).sum::<usize>();
        while self.missed.len() > MISSED_MAX || bytes(&self.missed) > MISSED_BYTES_MAX {
            self.missed.pop_front();
        }
    }

    /// Takes the questions away that have answers; gives these to be told.
    fn take_answered(&mut self, responses: &Object<'_>) -> Vec<Message> {
        let mut told = Vec::new();
        self.questions.retain(|question| match responses.get(&question.key) {
            Some(answer) => {
                told.push(Message::result(&question.id, answer));
                false
            }
            None => true,
        });
        told
    }
}

fn used_before() -> Fault {
    invalid("requestState was used before: send the request again without it")
}

/// The answers that a retry brings.
fn answers(retry: &Message) -> Result<Object<'_>, Fault> {
    let Some(at) = retry.at(&["inputResponses"]).map_err(invalid)? else { return Ok(Object::default()) };
    let responses = Object::parse(retry.slice(at)).map_err(|_| invalid("`inputResponses` must be an object"))?;
    if let Some((key, _)) = responses.iter().find(|(_, answer)| answer.first() != Some(&b'{')) {
        return Err(invalid(format!("`inputResponses` \"{key}\" must be the object that answers it")));
    }
    Ok(responses)
}

/// The way of what the server sends because of a call.
struct Way {
    call: Arc<Passing>,
    /// The client's end. A legacy client that leaves cancels nothing, so it stays until the server lets go.
    inlet: Mutex<Option<Inlet>>,
}

impl Relay for Way {
    fn relay(&self, message: Message, _to: &Outlet) -> Result<(), Closed> {
        match message.kind() {
            Kind::Response => self.call.reply(message),
            Kind::Notification => self.call.notice(message),
            Kind::Request => {
                self.call.ask(&message);
                Ok(())
            }
        }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.call.dropped();
    }
}
