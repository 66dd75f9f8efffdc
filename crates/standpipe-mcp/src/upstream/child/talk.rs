//! Legacy sessions: with a process of their own, or at one that many share. And the ways of calls through the gate.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::json;
use standpipe_wire::jsonrpc::{Edit, Kind, Message};
use tokio_util::sync::CancellationToken;

use super::call::{Call, Purpose, Way};
use super::core::Core;
use super::death::Death;
use super::gate::Visitor;
use super::process::{Owner, Post, Process, Role};
use super::seats::{Can, Others, Seats};
use super::slot::{Greeting, Slot, retired};
use super::table::Rest;
use crate::fault::{INVALID_PARAMS, INVALID_REQUEST, UPSTREAM_DIED};
use crate::{Caller, Conversation, Fault, Outlet};

/// Has a call go to `then` when there is room for it.
pub(super) fn admit(
    core: &Core,
    from: (Arc<str>, u64),
    session: u64,
    purpose: Purpose,
    (message, to): (Message, Outlet),
    then: impl FnOnce(Call) + Send + 'static,
) {
    let (principal, target) = from;
    let id = message.id().unwrap_or_default().into();
    let visitor = Visitor { principal, target, session, id, to: to.clone() };
    core.gate.enter(visitor, move |permit| match permit {
        Ok(permit) => then(Call { session, purpose, message, to: Way::Client(to), permit: Some(permit) }),
        Err(fault) => drop(to.send(fault.answer(message.id()))),
    });
}

/// A session that can't be, or is over.
#[derive(Debug)]
pub(super) struct Over(pub(super) Arc<str>);

impl Conversation for Over {
    fn call(&self, _caller: &Caller, request: Message, to: Outlet) {
        let _left = to.send(is_over(&self.0).answer(request.id()));
    }

    fn tell(&self, _caller: &Caller, _message: Message) {}

    fn ended(&self) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}

fn is_over(name: &str) -> Fault {
    Fault::new(UPSTREAM_DIED, format!("this session with server {name} has ended: open another one"))
}

/// A session with a process of its own.
pub(super) struct OwnTalk {
    core: Arc<Core>,
    process: Arc<Process>,
    session: u64,
    principal: Arc<str>,
    ended: CancellationToken,
}

impl OwnTalk {
    /// Begins one.
    ///
    /// # Errors
    /// There is no place for a process, or it may not be started.
    pub(super) fn open(
        core: &Arc<Core>,
        principal: &Arc<str>,
        initialize: &Message,
        to: Outlet,
        news: Outlet,
    ) -> Result<Arc<Self>, Fault> {
        let process = core.start_for(principal)?;
        let seats = Arc::new(Seats::default());
        let session = seats.add(principal.clone(), news, Can::of(initialize));
        let talk = Arc::new(Self {
            core: core.clone(),
            process: process.clone(),
            session,
            principal: principal.clone(),
            ended: CancellationToken::new(),
        });
        let owner: Arc<dyn Owner> = talk.clone();
        process.adopt(Post { role: Role::Session, seats, owner: Arc::downgrade(&owner) });
        let (purpose, to) = (Purpose::Initialize, Way::Client(to));
        let call = Call { session, purpose, message: initialize.clone(), to, permit: None };
        if let Err(call) = process.call(call) {
            call.fail(&is_over(&core.name));
            talk.ended.cancel();
        }
        Ok(talk)
    }

    fn pass(process: &Arc<Process>, call: Call) {
        if let Err(call) = process.call(call) {
            call.fail(&is_over(&process.name));
        }
    }
}

impl fmt::Debug for OwnTalk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnTalk({:?})", self.process)
    }
}

impl Owner for OwnTalk {
    fn leaves(&self, process: &Process, death: &Death) {
        if death.is_unexpected() && !process.has_answered() {
            self.core.start_failed(process, death);
        }
    }

    fn left(&self, rest: Rest, _death: &Death, fault: &Fault) {
        self.core.gate.cancel_all(self.session);
        rest.fail(fault);
        self.ended.cancel();
    }
}

impl Conversation for OwnTalk {
    fn call(&self, _caller: &Caller, request: Message, to: Outlet) {
        let process = self.process.clone();
        if request.method() == Some("ping") {
            // It is not work, and tells whether the process is well even when it has much of it.
            let (purpose, to) = (Purpose::Call, Way::Client(to));
            return Self::pass(&process, Call { session: self.session, purpose, message: request, to, permit: None });
        }
        let from = (self.principal.clone(), process.number);
        admit(&self.core, from, self.session, Purpose::Call, (request, to), move |call| Self::pass(&process, call));
    }

    fn tell(&self, _caller: &Caller, message: Message) {
        if !was_waiting(&self.core, self.session, &message) {
            self.process.tell(self.session, &message);
        }
    }

    fn ended(&self) -> BoxFuture<'static, ()> {
        self.ended.clone().cancelled_owned().boxed()
    }
}

impl Drop for OwnTalk {
    fn drop(&mut self) {
        self.core.gate.cancel_all(self.session);
        self.process.end();
    }
}

/// Whether this cancels a call that was waiting for its turn.
fn was_waiting(core: &Core, session: u64, message: &Message) -> bool {
    if (message.kind(), message.method()) != (Kind::Notification, Some("notifications/cancelled")) {
        return false;
    }
    let Ok(Some(id)) = message.at(&["requestId"]) else { return false };
    core.gate.cancel(session, message.slice(id))
}

/// A session at a process that many share.
pub(super) struct SharedTalk {
    core: Arc<Core>,
    slot: Arc<Slot>,
    session: u64,
    principal: Arc<str>,
    ended: CancellationToken,
}

impl SharedTalk {
    /// Begins one.
    pub(super) fn open(
        core: &Arc<Core>,
        slot: &Arc<Slot>,
        principal: &Arc<str>,
        initialize: Message,
        to: Outlet,
        news: Outlet,
    ) -> Arc<Self> {
        let session = slot.seats.add(principal.clone(), news, Can::of(&initialize));
        let ended = core.retired.child_token();
        slot.hello(Greeting { initialize, to, ended: ended.clone() });
        Arc::new(Self { core: core.clone(), slot: slot.clone(), session, principal: principal.clone(), ended })
    }

    fn pass(&self, request: Message, purpose: Purpose, to: Outlet) {
        let slot = self.slot.clone();
        let from = (self.principal.clone(), slot.target);
        admit(&self.core, from, self.session, purpose, (request, to), move |call| slot.call(call));
    }

    /// What the process would say, were it asked.
    fn done(request: &Message, to: &Outlet) {
        let _left = to.send(Message::result(request.id().unwrap_or(b"0"), b"{}"));
    }

    fn subscribe(&self, request: Message, to: Outlet) {
        let Ok(Some(uri)) = request.text_at(&["uri"]) else { return self.pass(request, Purpose::Call, to) };
        let most = self.core.spec.limits.subscriptions_per_stream;
        match self.slot.seats.subscribe(self.session, &uri, most) {
            Others::None => self.pass(request, Purpose::Subscribe(uri), to),
            Others::Some => Self::done(&request, &to),
            Others::TooMany => {
                self.core.metrics.hit("mcp_subscriptions_per_stream_max");
                let message =
                    format!("{most} resources are subscribed to in this session already: unsubscribe from one");
                let _left = to.send(Fault::new(INVALID_PARAMS, message).answer(request.id()));
            }
        }
    }

    fn unsubscribe(&self, request: Message, to: Outlet) {
        let uri = request.text_at(&["uri"]).ok().flatten();
        match uri.map(|uri| self.slot.seats.unsubscribe(self.session, &uri)) {
            Some(Others::Some) => Self::done(&request, &to),
            _ => self.pass(request, Purpose::Call, to),
        }
    }

    /// The process has one level for all sessions; what is too much for one of them is held back here.
    fn set_level(&self, request: Message, to: Outlet) {
        let span = request.at(&["level"]).ok().flatten();
        let level = request.text_at(&["level"]).ok().flatten();
        match (span, level.and_then(|level| self.slot.seats.set_level(self.session, &level))) {
            (Some(span), Some(least)) => {
                let least = json!(least).to_string();
                self.pass(request.edit(&mut [Edit::replace(span, least.as_bytes())]), Purpose::Call, to);
            }
            _ => self.pass(request, Purpose::Call, to),
        }
    }
}

impl fmt::Debug for SharedTalk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedTalk({})", self.core.name)
    }
}

impl Conversation for SharedTalk {
    fn call(&self, _caller: &Caller, request: Message, to: Outlet) {
        if self.ended.is_cancelled() {
            let _left = to.send(retired(&self.core.name).answer(request.id()));
            return;
        }
        match request.method() {
            Some("ping") => Self::done(&request, &to),
            Some("initialize") => {
                let fault = Fault::new(INVALID_REQUEST, "this session has begun already: open another one");
                let _left = to.send(fault.answer(request.id()));
            }
            Some("resources/subscribe") => self.subscribe(request, to),
            Some("resources/unsubscribe") => self.unsubscribe(request, to),
            Some("logging/setLevel") => self.set_level(request, to),
            _ => self.pass(request, Purpose::Call, to),
        }
    }

    fn tell(&self, _caller: &Caller, message: Message) {
        let is_ours = matches!(
            message.method(),
            // The process has heard the first from us, and would ask one client for all in answer to the second.
            Some("notifications/initialized" | "notifications/roots/list_changed")
        );
        if !is_ours
            && !was_waiting(&self.core, self.session, &message)
            && let Some(process) = self.slot.current()
        {
            process.tell(self.session, &message);
        }
    }

    fn ended(&self) -> BoxFuture<'static, ()> {
        self.ended.clone().cancelled_owned().boxed()
    }
}

impl Drop for SharedTalk {
    fn drop(&mut self) {
        self.core.gate.cancel_all(self.session);
        self.slot.forget(self.session);
    }
}
