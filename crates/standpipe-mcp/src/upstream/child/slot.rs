//! The place of a process that serves many: one process at a time, started when it is needed, and another one when it is lost.
//! What was not yet written to the lost one goes to the next.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde_json::json;
use standpipe_wire::jsonrpc::{Edit, Message};
use tokio_util::sync::CancellationToken;

use super::breaker::Breaker;
use super::call::{Call, Purpose, Way};
use super::core::Core;
use super::death::Death;
use super::places::Place;
use super::process::{Owner, Post, Process, Role};
use super::seats::Seats;
use super::table::Rest;
use crate::era::{LEGACY, negotiate};
use crate::fault::UPSTREAM_DOWN;
use crate::{Fault, Outlet};

/// See the module's text.
pub(super) struct Slot {
    core: Arc<Core>,
    role: Role,
    /// Whom it serves, if not everybody.
    principal: Option<Arc<str>>,
    /// By which the gate counts its calls, and the core its processes.
    pub(super) target: u64,
    pub(super) seats: Arc<Seats>,
    state: Mutex<State>,
    me: Weak<Self>,
}

#[derive(Default)]
struct State {
    process: Option<Arc<Process>>,
    breaker: Breaker,
    /// How the last one was lost, and its last line of errors.
    last: Option<(Death, Option<String>)>,
    /// The place of the last one, until it is gone.
    place: Weak<Place>,
    hello: Hello,
}

/// The one handshake for all sessions.
#[derive(Default)]
struct Hello {
    /// The `initialize` of the first session, which the process is sent.
    initialize: Option<Message>,
    /// What the process has answered.
    result: Option<Message>,
    waiting: Vec<Greeting>,
}

/// A session that waits for the handshake.
pub(super) struct Greeting {
    pub(super) initialize: Message,
    pub(super) to: Outlet,
    /// Cancelled when the session can't begin.
    pub(super) ended: CancellationToken,
}

impl Slot {
    pub(super) fn new(core: Arc<Core>, role: Role, principal: Option<Arc<str>>) -> Arc<Self> {
        let target = core.number();
        Arc::new_cyclic(|me| Self {
            core,
            role,
            principal,
            target,
            seats: Arc::default(),
            state: Mutex::default(),
            me: me.clone(),
        })
    }

    /// Whether nothing would be lost with it.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.process.is_none() && !state.breaker.is_open()
    }

    /// Whether it may not be started for a while.
    pub(super) fn is_broken(&self) -> bool {
        self.state.lock().breaker.is_open()
    }

    /// Subscriptions that are open.
    pub(super) fn listening(&self) -> usize {
        let process = self.state.lock().process.clone();
        process.map_or(0, |process| process.listening())
    }

    /// Gives the process a call.
    pub(super) fn call(&self, mut call: Call) {
        loop {
            match self.process() {
                Ok(process) => match process.call(call) {
                    Ok(()) => return,
                    Err(back) => call = back,
                },
                Err(fault) => return call.fail(&fault),
            }
        }
    }

    /// What there is to tell it; nothing is, while it is not there.
    pub(super) fn current(&self) -> Option<Arc<Process>> {
        self.state.lock().process.clone()
    }

    /// The process; it is started if there is none.
    fn process(&self) -> Result<Arc<Process>, Fault> {
        let mut state = self.state.lock();
        if let Some(process) = state.process.as_ref().filter(|process| !process.is_closed()) {
            return Ok(process.clone());
        }
        self.core.may_start()?;
        let pause = match state.breaker.pause() {
            Ok(pause) if pause <= self.core.spec.limits.queue_wait => pause,
            Ok(rest) | Err(rest) => {
                let (death, line) = state.last.clone().unwrap_or((Death::Silent, None));
                return Err(death.circuit(&self.core.spec.name, rest, line.as_deref()));
            }
        };
        let spare = if pause.is_zero() { self.core.spare(self.principal.as_ref())? } else { None };
        let process = match spare {
            Some(process) => process,
            None => {
                let place = match state.place.upgrade() {
                    Some(place) => place,
                    None => self.core.places.take(self.principal.as_ref())?,
                };
                self.core.start(place, pause)
            }
        };
        if state.last.is_some() {
            self.core.metrics.server(&self.core.name).restarted();
        }
        let owner: Weak<dyn Owner> = self.me.clone();
        state.place = Arc::downgrade(&process.place);
        state.process = Some(process.clone());
        state.hello.result = None;
        process.adopt(Post { role: self.role, seats: self.seats.clone(), owner });
        if self.role == Role::Shared
            && let Some(slot) = self.me.upgrade()
        {
            self.core.tasks.spawn(slot.greet(process.clone()));
        }
        Ok(process)
    }

    /// A session begins: it is answered from the handshake.
    pub(super) fn hello(&self, greeting: Greeting) {
        {
            let mut state = self.state.lock();
            let is_there = state.process.as_ref().is_some_and(|process| !process.is_closed());
            if let Some(result) = state.hello.result.clone().filter(|_| is_there) {
                drop(state);
                return greeting.answer(&result);
            }
            state.hello.initialize.get_or_insert_with(|| greeting.initialize.clone());
            state.hello.waiting.push(greeting);
        }
        if let Err(fault) = self.process() {
            self.refuse(&fault);
        }
    }

    /// Sessions can't begin.
    fn refuse(&self, fault: &Fault) {
        let waiting = std::mem::take(&mut self.state.lock().hello.waiting);
        for greeting in waiting {
            let answer = fault.answer(greeting.initialize.id());
            greeting.fail(answer);
        }
    }

    /// The handshake with a new process. When it is lost meanwhile, that is seen to by who has it.
    async fn greet(self: Arc<Self>, process: Arc<Process>) {
        let Some(initialize) = self.state.lock().hello.initialize.clone() else { return };
        let version = json!(LEGACY[0]).to_string();
        let edited = match initialize.at(&["protocolVersion"]) {
            Ok(Some(span)) => initialize.edit(&mut [Edit::replace(span, version.as_bytes())]),
            _ => initialize,
        };
        let Ok(reply) = process.ask(Purpose::Initialize, "initialize", edited.body_bytes().unwrap_or(b"{}")).await
        else {
            return;
        };
        if reply.is_error() {
            let waiting = {
                let mut state = self.state.lock();
                state.hello.initialize = None;
                std::mem::take(&mut state.hello.waiting)
            };
            waiting.into_iter().for_each(|greeting| {
                let answer = reply.with_id(greeting.initialize.id().unwrap_or(b"0"));
                greeting.fail(answer);
            });
            return process.end();
        }
        process.push(&Message::notification("notifications/initialized", b"{}"));
        if let Some(level) = self.seats.level() {
            process.order("logging/setLevel", &json!({ "level": level }));
        }
        for uri in self.seats.uris() {
            process.order("resources/subscribe", &json!({ "uri": uri }));
        }
        let waiting = {
            let mut state = self.state.lock();
            if !state.process.as_ref().is_some_and(|current| Arc::ptr_eq(current, &process)) {
                return;
            }
            state.hello.result = Some(reply.clone());
            std::mem::take(&mut state.hello.waiting)
        };
        process.open();
        waiting.into_iter().for_each(|greeting| greeting.answer(&reply));
    }

    /// A session has ended.
    pub(super) fn forget(&self, session: u64) {
        let unwanted = self.seats.remove(session);
        let Some(process) = self.current() else { return };
        process.cancel_all(session, "the session has ended");
        for uri in unwanted {
            process.order("resources/unsubscribe", &json!({ "uri": uri }));
        }
    }
}

impl Owner for Slot {
    fn leaves(&self, process: &Process, death: &Death) {
        let mut state = self.state.lock();
        if state.process.as_ref().is_some_and(|current| current.number == process.number) {
            state.process = None;
            state.hello.result = None;
        }
        if death.is_unexpected() {
            state.breaker.ended(process.lived());
            state.last = Some((death.clone(), process.tail.last_line()));
        }
    }

    fn left(&self, rest: Rest, death: &Death, fault: &Fault) {
        let Rest { unwritten, written } = rest;
        written.into_iter().for_each(|pending| pending.fail(fault));
        if death.is_hopeless() {
            unwritten.into_iter().for_each(|call| call.fail(fault));
            return self.refuse(fault);
        }
        let is_wanted = death.is_unexpected() && self.seats.count() > 0 || !self.state.lock().hello.waiting.is_empty();
        // What we have asked ourselves is asked anew by the next handshake.
        let of_clients = unwritten.into_iter().filter(|call| matches!(call.to, Way::Client(_)));
        of_clients.for_each(|call| self.call(call));
        if is_wanted && let Err(fault) = self.process() {
            self.refuse(&fault);
        }
    }
}

impl Greeting {
    fn answer(self, result: &Message) {
        let asked = self.initialize.text_at(&["protocolVersion"]).ok().flatten();
        let spoken = result.text_at(&["protocolVersion"]).ok().flatten();
        let agreed = agreed(asked.as_deref(), spoken.as_deref()).map(|version| json!(version).to_string());
        let id = self.initialize.id().unwrap_or(b"0");
        let with_id = result.with_id(id);
        let answer = match (agreed, with_id.at(&["protocolVersion"])) {
            (Some(version), Ok(Some(span))) => with_id.edit(&mut [Edit::replace(span, version.as_bytes())]),
            _ => with_id,
        };
        let _left = self.to.send(answer);
    }

    fn fail(self, answer: Message) {
        let _left = self.to.send(answer);
        self.ended.cancel();
    }
}

/// What a client is told that asked for one version while the process speaks another: the older one of those two. Versions are
/// dates, so that the order of texts is theirs.
fn agreed(asked: Option<&str>, spoken: Option<&str>) -> Option<String> {
    let (asked, spoken) = (asked?, spoken?);
    (negotiate(asked) == asked && asked < spoken).then(|| asked.to_owned())
}

/// What calls are told while a server is being removed, or the gateway stops.
pub(super) fn retired(name: &str) -> Fault {
    Fault::new(UPSTREAM_DOWN, format!("server {name} is being stopped: try again later, or elsewhere"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_version_is_agreed_upon() {
        let check = |asked, spoken, expected: Option<&str>| {
            assert_eq!(agreed(Some(asked), Some(spoken)).as_deref(), expected, "{asked} {spoken}");
        };
        check("2025-03-26", "2025-11-25", Some("2025-03-26"));
        check("2025-11-25", "2025-06-18", None);
        check("2025-06-18", "2025-06-18", None);
        check("1999-01-01", "2025-06-18", None);
        check("2024-11-05", "2025-06-18", Some("2024-11-05"));
    }
}
