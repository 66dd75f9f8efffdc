//! One process, from our side: what is said to it. What it says is taken in `route.rs`; how it begins and ends is `life.rs`.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, MutexGuard};
use standpipe_wire::jsonrpc::{Edit, Kind, Message, id_key};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::super::ServerLimits;
use super::call::{Call, Numbered, Pending, Purpose, Way};
use super::death::Death;
use super::places::Place;
use super::seats::Seats;
use super::stderr::Tail;
use super::table::{Phase, Question, Rest, Table};
use crate::fault::{DEADLINE, INTERNAL};
use crate::{Fault, Metrics, Outlet};

/// Whom a process serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// One legacy session.
    Session,
    /// Many legacy sessions.
    Shared,
    /// Requests of the modern era.
    Modern,
}

/// Who has a process: told when it is lost.
pub(super) trait Owner: Send + Sync {
    /// It takes no calls from now on.
    fn leaves(&self, process: &Process, death: &Death);

    /// Nothing comes from it any more. `fault` is for those whose calls it was given.
    fn left(&self, rest: Rest, death: &Death, fault: &Fault);
}

/// What a process is there for.
pub(super) struct Post {
    pub(super) role: Role,
    pub(super) seats: Arc<Seats>,
    pub(super) owner: Weak<dyn Owner>,
}

/// What is counted of all processes of a server.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Processes that were started.
    pub(super) starts: AtomicU64,
    /// Processes that ended though nobody had asked them to.
    pub(super) losses: AtomicU64,
    /// Lines of output that were no messages.
    pub(super) skipped: AtomicU64,
    /// Replies that nobody waited for any more, and messages that belonged to nobody known.
    pub(super) dropped: AtomicU64,
}

/// See the module's text.
pub(super) struct Process {
    pub(super) number: u64,
    pub(super) name: Arc<str>,
    pub(super) limits: ServerLimits,
    pub(super) metrics: Metrics,
    pub(super) counters: Arc<Counters>,
    pub(super) tail: Tail,
    /// There is something to write.
    pub(super) woken: Notify,
    pub(super) place: Arc<Place>,
    table: Mutex<Table>,
    next: AtomicU64,
    post: OnceLock<Post>,
    /// It is to end.
    pub(super) ending: CancellationToken,
    /// It has ended, and all that came of it.
    gone: CancellationToken,
    pid: AtomicU32,
    /// When it was there.
    born: OnceLock<Instant>,
    /// When it was first asked something.
    asked: OnceLock<Instant>,
    answered: AtomicBool,
    last_call: Mutex<Instant>,
    death: OnceLock<Death>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({} {})", self.name, self.pid())
    }
}

impl Process {
    pub(super) fn new(
        number: u64,
        name: Arc<str>,
        limits: ServerLimits,
        metrics: Metrics,
        counters: Arc<Counters>,
        place: Arc<Place>,
    ) -> Arc<Self> {
        Arc::new(Self {
            number,
            name,
            limits,
            metrics,
            counters,
            tail: Tail::default(),
            woken: Notify::new(),
            place,
            table: Mutex::new(Table::new()),
            next: AtomicU64::new(1),
            post: OnceLock::new(),
            ending: CancellationToken::new(),
            gone: CancellationToken::new(),
            pid: AtomicU32::new(0),
            born: OnceLock::new(),
            asked: OnceLock::new(),
            answered: AtomicBool::new(false),
            last_call: Mutex::new(Instant::now()),
            death: OnceLock::new(),
        })
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

    /// A number that no call or question has.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn post(&self) -> Option<&Post> {
        self.post.get()
    }

    /// Its process id; 0 while it is not there.
    pub(super) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    pub(super) fn is_born(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
        let _only_once = self.born.set(Instant::now());
    }

    /// How long it has been there.
    pub(super) fn lived(&self) -> Duration {
        self.born.get().map(Instant::elapsed).unwrap_or_default()
    }

    /// Whether it has ever answered.
    pub(super) fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    pub(super) fn answers(&self) {
        if !self.has_answered() {
            self.answered.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it takes calls.
    pub(super) fn is_closed(&self) -> bool {
        self.ending.is_cancelled() || self.table().phase == Phase::Closed
    }

    /// Gives it something to be there for.
    pub(super) fn adopt(&self, post: Post) {
        let held = post.role == Role::Shared;
        let _only_once = self.post.set(post);
        if !held {
            self.open();
        }
    }

    /// The handshake is done.
    pub(super) fn open(&self) {
        self.table().open();
        self.woken.notify_one();
    }

    /// Has it end.
    pub(super) fn end(&self) {
        self.ending.cancel();
    }

    /// Why it ends, once that is clear.
    pub(super) fn death(&self) -> Option<Death> {
        self.death.get().cloned()
    }

    pub(super) fn dies(&self, death: Death) {
        let _only_once = self.death.set(death);
    }

    pub(super) fn is_gone(&self) {
        self.gone.cancel();
    }

    /// Waits until it has ended, and all that came of it.
    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Gives it a call.
    ///
    /// # Errors
    /// It takes none any more; the call comes back.
    #[expect(clippy::result_large_err, reason = "it is what was given, and the caller goes on with it")]
    pub(super) fn call(self: &Arc<Self>, call: Call) -> Result<(), Call> {
        let number = self.number();
        let numbered = match Numbered::new(&call.message, number) {
            Ok(numbered) => numbered,
            Err(malformed) => {
                call.fail(&Fault::new(malformed.code(), malformed.to_string()));
                return Ok(());
            }
        };
        let leaves = self.cancelled_by_leaving(&call);
        {
            let mut table = self.table();
            if table.phase == Phase::Closed {
                return Err(call);
            }
            if table.is_full(&self.limits) {
                drop(table);
                let message = format!("server {} reads more slowly than it is sent calls: try again later", self.name);
                call.fail(&Fault::overloaded(message, Duration::from_secs(1)));
                return Ok(());
            }
            table.begin(number, call, &numbered, &self.limits);
        }
        let now = Instant::now();
        self.asked.get_or_init(|| now);
        *self.last_call.lock() = now;
        self.woken.notify_one();
        if let Some(to) = leaves {
            let process = Arc::downgrade(self);
            to.on_gone(move || {
                if let Some(process) = process.upgrade() {
                    process.cancel(number, "the caller has left");
                }
            });
        }
        Ok(())
    }

    /// The way to a caller that cancels its call by leaving.
    fn cancelled_by_leaving(&self, call: &Call) -> Option<Outlet> {
        let is_modern = self.post().is_some_and(|post| post.role == Role::Modern);
        match &call.to {
            Way::Client(to) if is_modern => Some(to.clone()),
            _ => None,
        }
    }

    /// Asks it something of our own; the answer never comes if it ends before.
    pub(super) fn ask(self: &Arc<Self>, purpose: Purpose, method: &str, params: &[u8]) -> oneshot::Receiver<Message> {
        let (to, answer) = oneshot::channel();
        let _closed = self.call(Call::ours(purpose, method, params, Way::Us(to)));
        answer
    }

    /// Asks it something of our own, and does not mind what it says.
    pub(super) fn order(self: &Arc<Self>, method: &str, params: &serde_json::Value) {
        let params = params.to_string();
        let _closed = self.call(Call::ours(Purpose::Ours, method, params.as_bytes(), Way::Nobody));
    }

    /// Tells it something, if there is room.
    pub(super) fn push(&self, message: &Message) {
        {
            let mut table = self.table();
            if table.phase == Phase::Closed || table.is_full(&self.limits) {
                drop(table);
                self.counters.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            table.push(message);
        }
        self.woken.notify_one();
    }

    /// A client's notification, or its answer to a question.
    pub(super) fn tell(&self, session: u64, message: &Message) {
        match (message.kind(), message.method()) {
            (Kind::Response, _) => self.answer(session, message),
            (Kind::Notification, Some("notifications/cancelled")) => self.cancel_of(session, message),
            (Kind::Notification, _) => self.push(message),
            (Kind::Request, _) => {}
        }
    }

    fn answer(&self, session: u64, message: &Message) {
        let Some(number) = message.id_number() else { return };
        let question = self.table().answered(number, session, &self.limits);
        match question {
            Some(question) => self.push(&message.with_id(&question.id)),
            None => drop(self.counters.dropped.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// A client cancels one of its calls. One that is unknown has ended already.
    fn cancel_of(&self, session: u64, message: &Message) {
        let Ok(Some(id)) = message.at(&["requestId"]) else { return };
        let wanted = id_key(message.slice(id));
        let number = {
            let table = self.table();
            let mut calls = table.calls.iter();
            let is_meant = |pending: &Pending| {
                pending.session == session && id_key(&pending.id) == wanted && pending.purpose != Purpose::Initialize
            };
            calls.find(|(_, pending)| is_meant(pending)).map(|(number, _)| *number)
        };
        if let Some(number) = number {
            let own = itoa::Buffer::new().format(number).to_owned();
            self.cancel_with(number, &message.edit(&mut [Edit::replace(id, own.as_bytes())]));
        }
    }

    /// Cancels a call, if it has not ended.
    pub(super) fn cancel(&self, number: u64, reason: &str) {
        if let Some(pending) = self.cancel_with(number, &cancelled(number, reason)) {
            drop(pending);
        }
    }

    /// Cancels the calls of a session.
    pub(super) fn cancel_all(&self, session: u64, reason: &str) {
        let is_of = |pending: &Pending| pending.session == session;
        let numbers: Vec<u64> =
            self.table().calls.iter().filter(|(_, pending)| is_of(pending)).map(|(number, _)| *number).collect();
        numbers.into_iter().for_each(|number| self.cancel(number, reason));
    }

    fn cancel_with(&self, number: u64, notice: &Message) -> Option<Pending> {
        let pending = {
            let mut table = self.table();
            let (pending, questions) = table.end(number)?;
            if table.phase == Phase::Open {
                table.push(notice);
            }
            questions.iter().for_each(|question| table.push(&no_answer(question)));
            pending
        };
        self.woken.notify_one();
        Some(pending)
    }

    /// Ends calls whose time is over; when the next one's may be.
    ///
    /// # Errors
    /// Its own time is over.
    pub(super) fn tick(&self) -> Result<Instant, Death> {
        let now = Instant::now();
        let born = self.born.get().copied().unwrap_or(now);
        let (late, next) = self.table().due(born, now, &self.limits);
        for number in late {
            self.expire(number)?;
        }
        // What comes later than this look has at least so much time.
        let ServerLimits { call, start, idle, suspended, .. } = self.limits;
        let look = now + call.min(start).min(idle).min(suspended);
        let next = next.map_or(look, |next| next.min(look));
        match (self.has_answered(), self.asked.get()) {
            (false, Some(asked)) => {
                let due = born.max(*asked) + self.limits.start;
                if due <= now { Err(Death::Dumb(self.limits.start)) } else { Ok(next.min(due)) }
            }
            _ => {
                self.idle_at().map_or(Ok(next), |idle| if idle <= now { Err(Death::Asked) } else { Ok(next.min(idle)) })
            }
        }
    }

    /// When it has had nothing to do for too long; `None` while it has, or where others see to that.
    fn idle_at(&self) -> Option<Instant> {
        let has_session = self.post().is_some_and(|post| post.role == Role::Session || post.seats.count() > 0);
        let is_busy = has_session || !self.table().calls.is_empty();
        (!is_busy).then(|| *self.last_call.lock() + self.limits.idle)
    }

    /// # Errors
    /// It is its beginning that takes too long.
    fn expire(&self, number: u64) -> Result<(), Death> {
        let is_beginning = |pending: &Pending| pending.purpose == Purpose::Initialize;
        if self.table().calls.get(&number).is_some_and(is_beginning) {
            return Err(Death::Dumb(self.limits.start));
        }
        let Some(pending) = self.cancel_with(number, &cancelled(number, "it takes too long")) else { return Ok(()) };
        let (limit, time) = pending.limit(&self.limits);
        self.metrics.hit(limit);
        let message = format!(
            "the call of server {} has not been answered within {} ms ({limit}) and was cancelled: ask for less at once, or raise the limit",
            self.name,
            time.as_millis()
        );
        pending.fail(&Fault::new(DEADLINE, message));
        Ok(())
    }

    /// Subscriptions that are open.
    pub(super) fn listening(&self) -> usize {
        self.table().calls.values().filter(|pending| pending.purpose == Purpose::Listen).count()
    }

    /// Since when it has had nothing to do, if it may be ended for that: nobody's session is tied to it, and no call.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.idle_at().filter(|_| !self.is_closed()).map(|_| *self.last_call.lock())
    }

    /// Nothing is taken any more.
    pub(super) fn close(&self) -> Rest {
        self.table().close()
    }
}

fn cancelled(number: u64, reason: &str) -> Message {
    let params = serde_json::json!({ "requestId": number, "reason": reason });
    Message::notification("notifications/cancelled", params.to_string().as_bytes())
}

/// What the process is told of a question that nobody will answer.
fn no_answer(question: &Question) -> Message {
    Message::error(Some(&question.id), INTERNAL, "the call that this was asked for has ended", None)
}
