//! A session of a legacy server that [`super::Down`] keeps for the clients of one principal that have the same capabilities: opened by us,
//! used by their calls, and ended when nobody has used it for a while.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use standpipe_wire::jsonrpc::{Kind, Message};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::Inner;
use super::listen::{Listening, Wanted};
use super::passing::Passing;
use super::translate::{self, About, Asked};
use crate::bridge::sink::answer;
use crate::bridge::{Settings, json, no_answer};
use crate::exchange::Room;
use crate::{Caller, Conversation, Fault, Inlet, LegacyServer, Outlet, exchange, fault};

/// One session of the server.
pub(super) struct Talk {
    pub(super) inner: Weak<Inner>,
    pub(super) settings: Settings,
    pub(super) principal: Arc<str>,
    /// What its clients can do, as JSON.
    pub(super) capabilities: Bytes,
    about: OnceLock<Arc<About>>,
    pub(super) state: Mutex<State>,
    /// Told to end.
    close: Notify,
}

pub(super) struct State {
    phase: Phase,
    calls: HashMap<u64, Arc<Passing>>,
    pub(super) listening: Listening,
    used: Instant,
    /// The level of log messages that the server was told.
    level: Option<usize>,
}

enum Phase {
    Opening(Vec<Job>),
    Open(Arc<dyn Conversation>),
    Ended,
}

/// What waits for the session to be open.
#[derive(Debug)]
pub(super) enum Job {
    Call(Arc<Passing>),
    Discover { id: Bytes, to: Outlet },
    Listen(Box<Wanted>),
}

impl fmt::Debug for Talk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Talk").field("principal", &self.principal).finish_non_exhaustive()
    }
}

impl Talk {
    /// Opens a session for `caller`; its first request says who it is.
    pub(super) fn open(inner: &Arc<Inner>, caller: &Caller, asked: &Asked) -> Arc<Self> {
        let settings = inner.settings.clone();
        let talk = Arc::new(Self {
            inner: Arc::downgrade(inner),
            principal: caller.principal.clone(),
            capabilities: asked.capabilities.clone(),
            about: OnceLock::new(),
            state: Mutex::new(State {
                phase: Phase::Opening(Vec::new()),
                calls: HashMap::new(),
                listening: Listening::default(),
                used: Instant::now(),
                level: None,
            }),
            close: Notify::new(),
            settings,
        });
        let (server, caller, initialize) = (inner.server.clone(), caller.clone(), translate::initialize(asked));
        tokio::spawn(talk.clone().keep(server, caller, initialize));
        talk
    }

    /// What the server said of itself; nothing before the session is open.
    pub(super) fn about(&self) -> Arc<About> {
        self.about.get().cloned().unwrap_or_default()
    }

    /// Takes a job; gives it back when the session has ended.
    pub(super) fn take(self: &Arc<Self>, job: Job) -> Result<(), Job> {
        let conversation = {
            let mut state = self.state.lock();
            state.touch();
            match &mut state.phase {
                Phase::Opening(waiting) if waiting.len() < self.settings.own.queue_calls => {
                    waiting.push(job);
                    return Ok(());
                }
                Phase::Opening(_) => None,
                Phase::Open(conversation) => {
                    let conversation = conversation.clone();
                    state.enter(&job);
                    Some(conversation)
                }
                Phase::Ended => return Err(job),
            }
        };
        match conversation {
            Some(conversation) => self.run(job, &conversation),
            None => {
                job.fail(&self.settings.refused("mcp_queue_calls_max", "too many calls wait for the server to start"))
            }
        }
        Ok(())
    }

    fn run(self: &Arc<Self>, job: Job, conversation: &Arc<dyn Conversation>) {
        match job {
            Job::Call(call) => call.start(conversation),
            Job::Discover { id, to } => drop(to.send(self.about().discovered(&id))),
            Job::Listen(wanted) => self.listen(*wanted, conversation),
        }
    }

    /// Sends a notification or an answer to the server, if it is there.
    pub(super) fn tell(&self, caller: &Caller, message: Message) {
        if let Some(conversation) = self.conversation() {
            conversation.tell(caller, message);
        }
    }

    pub(super) fn conversation(&self) -> Option<Arc<dyn Conversation>> {
        match &self.state.lock().phase {
            Phase::Open(conversation) => Some(conversation.clone()),
            _ => None,
        }
    }

    /// Whoever wants log messages gets them from `level` on: the server has one level for the session, so it is the least that was wanted.
    pub(super) fn want_level(&self, caller: &Caller, conversation: &Arc<dyn Conversation>, level: usize) {
        let is_new = {
            let mut state = self.state.lock();
            let is_new = self.about().logging && state.level.is_none_or(|has| level < has);
            if is_new {
                state.level = Some(level);
            }
            is_new
        };
        if is_new {
            let params = [b"{\"level\":", &*json(crate::bridge::LEVELS[level]), b"}"].concat();
            let request = Message::request(self.number().to_string().as_bytes(), "logging/setLevel", &params);
            conversation.call(caller, request, answer(drop));
        }
    }

    /// A number that no other request of this session has.
    pub(super) fn number(&self) -> u64 {
        self.inner.upgrade().map_or(u64::MAX, |inner| inner.number())
    }

    /// A call has had its reply, or nobody waits for it.
    pub(super) fn finished(&self, number: u64) {
        let _dropped_behind_the_lock = {
            let mut state = self.state.lock();
            state.touch();
            state.calls.remove(&number)
        };
    }

    /// Whether nobody uses it.
    pub(super) fn is_idle(&self) -> bool {
        self.state.lock().is_idle()
    }

    pub(super) fn used(&self) -> Instant {
        self.state.lock().used
    }

    /// Ends it, whoever uses it.
    pub(super) fn close(&self) {
        self.close.notify_one();
    }

    // The task that keeps the session.

    async fn keep(self: Arc<Self>, server: Arc<dyn LegacyServer>, caller: Caller, initialize: Message) {
        let limits = self.settings.limits();
        let room = Room { messages: limits.mcp_outlet_messages_max, bytes: limits.mcp_outlet_bytes_max };
        let ((to, answered), (out, mut news)) = (exchange(room), exchange(room));
        let conversation = server.open(&caller, initialize, to, out);
        let start = self.settings.own.start + self.settings.own.queue_wait;
        match timeout(start, self.opened(answered)).await {
            Ok(Ok(about)) => self.begin(&caller, conversation.clone(), about),
            Ok(Err(refused)) => return self.end(&refused),
            Err(_too_late) => {
                let why = format!("the server \"{}\" did not answer in time: try again later", self.settings.server);
                return self.end(&Fault::new(fault::UPSTREAM_DOWN, why).answer(None));
            }
        }
        self.attend(&caller, &conversation, &mut news).await;
        drop(conversation);
        let why = "the session with the server has ended: send the request again";
        self.end(&Fault::new(fault::UPSTREAM_DIED, why).answer(None));
    }

    /// Waits for the answer to `initialize`.
    async fn opened(&self, mut answered: Inlet) -> Result<About, Message> {
        while let Some(message) = answered.next().await {
            match message.kind() {
                Kind::Response if message.is_error() => return Err(message),
                Kind::Response => {
                    return About::of(&message).map_err(|why| no_answer(&self.settings.server, why).answer(None));
                }
                Kind::Request | Kind::Notification => {}
            }
        }
        Err(no_answer(&self.settings.server, "its session ended").answer(None))
    }

    /// The session is open: who waited goes on.
    fn begin(self: &Arc<Self>, caller: &Caller, conversation: Arc<dyn Conversation>, about: About) {
        let _only_once = self.about.set(Arc::new(about));
        conversation.tell(caller, Message::notification("notifications/initialized", b"{}"));
        let waiting = {
            let mut state = self.state.lock();
            state.touch();
            match std::mem::replace(&mut state.phase, Phase::Open(conversation.clone())) {
                Phase::Opening(waiting) => {
                    waiting.iter().for_each(|job| state.enter(job));
                    waiting
                }
                Phase::Open(_) | Phase::Ended => Vec::new(),
            }
        };
        waiting.into_iter().for_each(|job| self.run(job, &conversation));
    }

    /// Takes what belongs to no call, until the session ends from either side.
    async fn attend(self: &Arc<Self>, caller: &Caller, conversation: &Arc<dyn Conversation>, news: &mut Inlet) {
        let mut ended = conversation.ended();
        let mut is_news_open = true;
        loop {
            let idle = self.settings.own.idle;
            let (idle_at, is_idle) = {
                let state = self.state.lock();
                let now = Instant::now();
                (if state.is_idle() { state.used + idle } else { now + idle }, state.is_idle())
            };
            tokio::select! {
                biased;
                message = news.next(), if is_news_open => match message {
                    Some(message) => self.hear(caller, &message),
                    None => is_news_open = false,
                },
                () = &mut ended => return,
                () = self.close.notified() => return,
                () = sleep_until(idle_at) => {
                    if is_idle && self.retire(idle) {
                        return;
                    }
                }
            }
        }
    }

    /// Ends the session if it is still idle, so that no call comes between.
    fn retire(&self, idle: Duration) -> bool {
        let _dropped_behind_the_lock = {
            let mut state = self.state.lock();
            if !state.is_idle() || state.used + idle > Instant::now() {
                return false;
            }
            std::mem::replace(&mut state.phase, Phase::Ended)
        };
        true
    }

    /// What the server sends outside of a call.
    fn hear(&self, caller: &Caller, message: &Message) {
        match message.kind() {
            Kind::Request => self.hear_question(caller, message),
            Kind::Notification => self.hear_notice(message),
            Kind::Response => {}
        }
    }

    /// A question goes to the one call that it can belong to; we do not guess.
    fn hear_question(&self, caller: &Caller, request: &Message) {
        let calls = self.calls();
        let mut candidates = calls.iter().filter(|call| call.may_ask());
        match (candidates.next(), candidates.next()) {
            (Some(call), None) => call.ask(request),
            _ if request.method() == Some("ping") => {
                if let Some(id) = request.id() {
                    self.tell(caller, Message::result(id, b"{}"));
                }
            }
            _ => {
                let why = "there is not one call that this belongs to";
                self.tell(caller, Message::error(request.id(), fault::INTERNAL, why, None));
            }
        }
    }

    fn hear_notice(&self, notice: &Message) {
        match notice.method() {
            Some("notifications/message") => {
                let calls = self.calls();
                let mut wanting = calls.iter().filter(|call| call.level().is_some());
                if let (Some(call), None) = (wanting.next(), wanting.next()) {
                    let _gone = call.notice(notice.clone());
                }
            }
            Some("notifications/cancelled") => {
                if let Ok(Some(id)) = notice.at(&["requestId"]) {
                    self.calls().iter().for_each(|call| call.withdraw(notice.slice(id)));
                }
            }
            _ => drop(self.tell_listeners(notice)),
        }
    }

    fn calls(&self) -> Vec<Arc<Passing>> {
        self.state.lock().calls.values().cloned().collect()
    }

    /// The session is over: no job comes in, who waited is told why.
    fn end(self: &Arc<Self>, why: &Message) {
        if let Some(inner) = self.inner.upgrade() {
            inner.forget(self);
        }
        let (phase, listeners) = {
            let mut state = self.state.lock();
            (std::mem::replace(&mut state.phase, Phase::Ended), state.listening.take())
        };
        if let Phase::Opening(waiting) = phase {
            waiting.into_iter().for_each(|job| job.fail_as(why));
        }
        let about = self.about();
        listeners.into_iter().for_each(|listener| listener.end(&about));
    }
}

impl State {
    fn enter(&mut self, job: &Job) {
        if let Job::Call(call) = job {
            self.calls.insert(call.number, call.clone());
        }
    }

    pub(super) fn touch(&mut self) {
        self.used = Instant::now();
    }

    fn is_idle(&self) -> bool {
        self.calls.is_empty() && self.listening.is_empty() && !matches!(&self.phase, Phase::Opening(_))
    }
}

impl Job {
    pub(super) fn fail(self, fault: &Fault) {
        self.fail_as(&fault.answer(None));
    }

    /// Answers with an error that is meant for somebody else.
    fn fail_as(self, error: &Message) {
        let (id, to) = match self {
            Self::Call(call) => return call.fail_as(error),
            Self::Discover { id, to } => (id, to),
            Self::Listen(wanted) => (wanted.id, wanted.to),
        };
        let failed = translate::error(error, &id);
        let _gone = to.send(failed.unwrap_or_else(|_| error.with_id(&id)));
    }
}
