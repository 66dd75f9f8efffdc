//! A call on its way through [`super::Up`]. The client sees one call from begin to end; the server sees several requests: what it wants to know
//! ends a request with `input_required`, becomes requests to the client on the stream of its call, and comes with the retry.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::json;
use standpipe_wire::jsonrpc::{Kind, Message};
use tokio::task::AbortHandle;

use super::translate::{self, Answer};
use super::{Session, Suspended};
use crate::bridge::sink::sink;
use crate::bridge::{MAY_ASK, json, no_answer};
use crate::exchange::{Closed, Inlet, Relay};
use crate::object::Object;
use crate::{Caller, Fault, Outlet, fault};

/// A call of a legacy client to a modern server.
pub(super) struct Asking {
    session: Arc<Session>,
    caller: Caller,
    request: Message,
    state: Mutex<State>,
}

struct State {
    /// Where the client is; `None` when the call is over.
    to: Option<Outlet>,
    /// The request that the server works on.
    way: Weak<Way>,
    /// How often the server wanted input.
    round: usize,
    /// What the client was asked and has not answered, by the id of the request; and the name in `inputRequests`.
    open: HashMap<u64, Question>,
    /// What it has answered.
    answers: Vec<(String, Bytes)>,
    /// What the server wants back, as JSON.
    server_state: Option<Bytes>,
    timer: Option<AbortHandle>,
    /// Counts it while the client is asked.
    seat: Option<Suspended>,
}

struct Question {
    key: String,
    elicitation: bool,
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").field("method", &self.method()).finish_non_exhaustive()
    }
}

impl Asking {
    pub(super) fn new(session: Arc<Session>, caller: Caller, request: Message, to: Outlet) -> Self {
        let state = State {
            to: Some(to),
            way: Weak::new(),
            round: 0,
            open: HashMap::new(),
            answers: Vec::new(),
            server_state: None,
            timer: None,
            seat: None,
        };
        Self { session, caller, request, state: Mutex::new(state) }
    }

    fn id(&self) -> &[u8] {
        self.request.id().unwrap_or(b"null")
    }

    fn method(&self) -> &str {
        self.request.method().unwrap_or_default()
    }

    fn server(&self) -> &str {
        &self.session.settings.server
    }

    /// Sends the request to the server; `retry` are members that a retry adds.
    pub(super) fn send(self: &Arc<Self>, retry: &[(&'static str, Vec<u8>)]) {
        let level = self.session.level();
        let number = self.session.number();
        let request = match self.session.client.request(&self.request, number, level.as_deref(), retry) {
            Ok(request) => request,
            Err(why) => return self.fail(&Fault::new(fault::INVALID_PARAMS, why.to_string())),
        };
        let way = Arc::new(Way { call: self.clone(), inlet: Mutex::new(None), is_answered: AtomicBool::new(false) });
        let (outlet, inlet) = sink(way.clone());
        *way.inlet.lock() = Some(inlet);
        {
            let mut state = self.state.lock();
            if state.to.is_none() {
                return;
            }
            state.way = Arc::downgrade(&way);
        }
        drop(way);
        self.session.server.call(self.caller.clone(), request, outlet);
    }

    /// Ends the call with its reply.
    fn finish(&self, reply: Message) {
        if let Some(to) = self.close() {
            let _gone = to.send(reply);
        }
    }

    fn fail(&self, fault: &Fault) {
        self.finish(fault.answer(Some(self.id())));
    }

    /// The call is over: nobody asks for it, and no answer is waited for. Gives the client, if it is there.
    fn close(&self) -> Option<Outlet> {
        let (to, open) = {
            let mut state = self.state.lock();
            if let Some(timer) = state.timer.take() {
                timer.abort();
            }
            state.seat = None;
            (state.to.take(), std::mem::take(&mut state.open))
        };
        for number in open.keys() {
            self.session.forget_question(*number);
            if let Some(to) = &to {
                let params = json!({ "requestId": number, "reason": "the call is over" }).to_string();
                let _gone = to.send(Message::notification("notifications/cancelled", params.as_bytes()));
            }
        }
        self.session.finished(self);
        to
    }

    /// The client no longer wants it: the server sees its caller leave.
    pub(super) fn cancel(&self) {
        let way = self.state.lock().way.upgrade();
        drop(self.close());
        let inlet = way.and_then(|way| way.inlet.lock().take());
        drop(inlet);
    }

    /// Whether this is the same call.
    pub(super) fn is(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }

    // What the server sends.

    fn reply(self: &Arc<Self>, reply: &Message) {
        let is_first = self.state.lock().round == 0;
        match translate::answer(reply, self.id(), self.method(), is_first) {
            Ok(Answer::Final(reply)) => self.finish(reply),
            Ok(Answer::InputRequired(result)) => {
                if let Err(fault) = self.ask(&result) {
                    self.fail(&fault);
                }
            }
            Ok(Answer::Other(kind)) => {
                self.fail(&no_answer(
                    self.server(),
                    format!("a result of type {kind}, which the client does not know"),
                ));
            }
            Err(why) => self.fail(&no_answer(self.server(), why)),
        }
    }

    fn notice(&self, notice: Message) -> Result<(), Closed> {
        let to = self.state.lock().to.clone();
        to.map_or(Err(Closed::Gone), |to| to.send(notice))
    }

    /// The server wants input: asks the client for it.
    fn ask(self: &Arc<Self>, result: &Object<'_>) -> Result<(), Fault> {
        let settings = &self.session.settings;
        let limits = settings.limits();
        if !MAY_ASK.contains(&self.method()) {
            return Err(no_answer(self.server(), format!("{} can't want input", self.method())));
        }
        let asked = result.object("inputRequests").map_err(|why| no_answer(self.server(), why))?;
        let server_state = result.get("requestState").map(Bytes::copy_from_slice);
        if asked.is_empty() && server_state.is_none() {
            return Err(no_answer(self.server(), "it wants input and does not say which"));
        }
        let count = asked.iter().count();
        if count > limits.mcp_questions_per_call_max {
            settings.metrics.hit("mcp_questions_per_call_max");
            return Err(no_answer(self.server(), format!("it asks {count} questions at once")));
        }
        let requests = self.requests(&asked)?;
        let to = {
            let mut state = self.state.lock();
            state.round += 1;
            if state.round > limits.mcp_rounds_per_call_max {
                drop(state);
                settings.metrics.hit("mcp_rounds_per_call_max");
                return Err(no_answer(self.server(), "it goes on asking"));
            }
            let Some(to) = state.to.clone() else { return Ok(()) };
            (state.server_state, state.answers) = (server_state, Vec::new());
            state.open = requests.iter().map(|request| (request.number, request.question())).collect();
            to
        };
        if requests.is_empty() {
            self.retry();
            return Ok(());
        }
        let seat = self.session.suspend(self, requests.iter().map(|request| request.number))?;
        self.state.lock().seat = Some(seat);
        self.wait(Duration::from_millis(limits.mcp_suspended_ms_max));
        if requests.into_iter().try_for_each(|request| to.send(request.message)).is_err() {
            self.cancel();
        }
        Ok(())
    }

    /// What the server wants to know as requests to the client.
    fn requests(&self, asked: &Object<'_>) -> Result<Vec<Request>, Fault> {
        let request = |(key, question): (&str, &[u8])| {
            let number = self.session.number();
            let message = self.session.client.question(question, number).ok_or_else(|| {
                no_answer(self.server(), format!("what it asks as \"{key}\" is no question to a client"))
            })?;
            Ok(Request { key: key.to_owned(), number, message })
        };
        asked.iter().map(request).collect()
    }

    /// The client has so much time to answer.
    fn wait(self: &Arc<Self>, lifetime: Duration) {
        let (call, round) = (Arc::downgrade(self), self.state.lock().round);
        let timer = tokio::spawn(async move {
            tokio::time::sleep(lifetime).await;
            if let Some(call) = call.upgrade() {
                call.expired(round);
            }
        });
        let earlier = self.state.lock().timer.replace(timer.abort_handle());
        if let Some(earlier) = earlier {
            earlier.abort();
        }
    }

    fn expired(&self, round: usize) {
        let is_due = {
            let state = self.state.lock();
            state.round == round && !state.open.is_empty()
        };
        if is_due {
            self.session.settings.metrics.hit("mcp_suspended_ms_max");
            let why = "the client did not answer what the server asked: send the request again";
            self.fail(&Fault::new(fault::DEADLINE, why));
        }
    }

    /// The client has answered the request `number`.
    pub(super) fn answered(self: &Arc<Self>, number: u64, response: &Message) {
        let is_complete = {
            let mut state = self.state.lock();
            let Some(question) = state.open.remove(&number) else { return };
            let answer = match response.is_error() {
                false => response.body_bytes().unwrap_or(b"{}"),
                // The modern era has no refusal of a question but this one.
                true if question.elicitation => br#"{"action":"cancel"}"#,
                true => {
                    drop(state);
                    return self.finish(response.with_id(self.id()));
                }
            };
            state.answers.push((question.key, Bytes::copy_from_slice(answer)));
            state.open.is_empty()
        };
        if is_complete {
            self.retry();
        }
    }

    /// Sends the request again, with what the server wanted.
    fn retry(self: &Arc<Self>) {
        let (answers, server_state) = {
            let mut state = self.state.lock();
            if let Some(timer) = state.timer.take() {
                timer.abort();
            }
            state.seat = None;
            (std::mem::take(&mut state.answers), state.server_state.take())
        };
        let mut retry = Vec::new();
        if !answers.is_empty() {
            let written: Vec<Vec<u8>> =
                answers.iter().map(|(key, answer)| [&*json(key), b":", answer].concat()).collect();
            retry.push(("inputResponses", [b"{", &*written.join(&b","[..]), b"}"].concat()));
        }
        if let Some(server_state) = server_state {
            retry.push(("requestState", server_state.to_vec()));
        }
        self.send(&retry);
    }

    /// The server dropped the request without a reply.
    fn dropped(&self) {
        let why = "the server ended without an answer: send the request again";
        self.fail(&Fault::new(fault::UPSTREAM_DIED, why));
    }
}

/// A request to the client.
struct Request {
    key: String,
    number: u64,
    message: Message,
}

impl Request {
    fn question(&self) -> Question {
        Question { key: self.key.clone(), elicitation: self.message.method() == Some("elicitation/create") }
    }
}

/// The way of what the server sends because of one request.
struct Way {
    call: Arc<Asking>,
    /// The caller's end; taken away when the caller leaves.
    inlet: Mutex<Option<Inlet>>,
    is_answered: AtomicBool,
}

impl Relay for Way {
    fn relay(&self, message: Message, _to: &Outlet) -> Result<(), Closed> {
        match message.kind() {
            Kind::Response => {
                if !self.is_answered.swap(true, Ordering::AcqRel) {
                    self.call.reply(&message);
                }
                Ok(())
            }
            Kind::Notification => self.call.notice(message),
            // A modern server sends none.
            Kind::Request => Ok(()),
        }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if !*self.is_answered.get_mut() {
            self.call.dropped();
        }
    }
}
