//! Servers that are processes: JSON-RPC on their standard input and output, one message per line (spec mcp §4.2 to §4.6). They are started by the
//! launcher of the runs crate, so that nothing that came of them is lost sight of.
//!
//! ```text
//! ChildServer ── era? ── gate ──► OwnTalk ─────────► Process ── writer ──► stdin        a session, a process
//!                          ├────► SharedTalk ► Slot ► Process    reader ◄── stdout      many sessions, one process
//!                          └────► Slot of the principal ► Process  tail ◄── stderr      modern requests
//! ```
//!
//! A `Process` has one lock (`table.rs`) and one life (`life.rs`). Towards it all ids and progress tokens are
//! numbers of ours; the client's own are put back on the way to it. Nothing else of a message is touched, or even looked at.

mod breaker;
mod call;
mod core;
mod death;
mod deferred;
#[cfg(test)]
mod fake;
mod gate;
mod life;
mod places;
mod process;
mod reader;
mod route;
mod seats;
mod slot;
mod spec;
mod stderr;
mod table;
mod talk;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use parking_lot::Mutex;
use serde::Serialize;
use standpipe_runs::Launcher;
use standpipe_serve::LimitsHandle;
use standpipe_wire::jsonrpc::Message;
use tokio_util::task::TaskTracker;

use self::call::{Call, Purpose, Way};
use self::core::Core;
use self::deferred::Deferred;
use self::places::Places;
use self::process::Role;
use self::slot::Slot;
pub use self::spec::{ChildSpec, Mode, environment};
use self::talk::{Over, OwnTalk, SharedTalk};
use super::Era;
use crate::bridge::{self, Down, Up};
use crate::{Caller, Conversation, Fault, LegacyServer, Metrics, ModernServer, Outlet};

/// All servers that are processes, and how they are started.
pub struct Children {
    launcher: Arc<dyn Launcher>,
    places: Arc<Places>,
    limits: LimitsHandle,
    metrics: Metrics,
    tasks: TaskTracker,
    servers: Mutex<Vec<std::sync::Weak<Core>>>,
}

impl fmt::Debug for Children {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Children").field("tasks", &self.tasks.len()).finish_non_exhaustive()
    }
}

impl Children {
    /// Processes that `launcher` starts. It is not closed with them: others may start processes by it too.
    pub fn new(launcher: Arc<dyn Launcher>, limits: LimitsHandle, metrics: Metrics) -> Arc<Self> {
        let places = Places::new(limits.clone(), metrics.clone());
        Arc::new(Self { launcher, places, limits, metrics, tasks: TaskTracker::new(), servers: Mutex::default() })
    }

    /// A server. It is started when it is first needed, or now if it is eager, which takes a runtime.
    pub fn server(self: &Arc<Self>, spec: ChildSpec) -> Arc<ChildServer> {
        let (launcher, places) = (self.launcher.clone(), self.places.clone());
        let core = Core::new(spec, launcher, places, self.tasks.clone(), self.metrics.clone());
        let mut servers = self.servers.lock();
        servers.retain(|server| server.strong_count() > 0);
        servers.push(Arc::downgrade(&core));
        drop(servers);
        if core.spec.eager {
            core.warm_up();
        }
        let shared = Slot::new(core.clone(), Role::Shared, None);
        ChildServer::new(Native { core, shared, modern: Mutex::default() }, self.limits.clone())
    }

    /// Ends all servers, as [`ChildServer::retire`] does, at the same time, and waits until nothing is left of them.
    pub async fn close(&self) {
        let servers: Vec<_> = self.servers.lock().iter().filter_map(std::sync::Weak::upgrade).collect();
        join_all(servers.iter().map(|core| core.retire())).await;
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What a server does, for people and programs that look after it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerStatus {
    /// Its name.
    pub name: String,
    /// `idle`: nothing runs. `running`. `failed`: it has ended too often and is not started for a while. `stopping`.
    pub state: &'static str,
    /// `session` or `shared`.
    pub mode: &'static str,
    /// `legacy` or `modern`, once it is known.
    pub era: Option<&'static str>,
    /// Process ids.
    pub pids: Vec<u32>,
    /// Sessions that share a process.
    pub sessions: usize,
    /// Calls at work.
    pub calls: usize,
    /// Calls that wait for their turn.
    pub queued: usize,
    /// Processes started so far.
    pub starts: u64,
    /// Processes lost so far that nobody had asked to end.
    pub losses: u64,
    /// Lines of output so far that were no messages.
    pub skipped: u64,
    /// Messages so far that nobody waited for, or that belonged to nobody known.
    pub dropped: u64,
    /// The end of the error output of one of the processes.
    pub stderr: Option<String>,
}

/// A server that is a process. It speaks one era by itself, and the other through a bridge.
pub struct ChildServer(Arc<Eras>);

/// The server in the era that it speaks, and bridges for clients of the other one.
struct Eras {
    native: Arc<Native>,
    /// For modern clients of a legacy server.
    down: Down,
    /// For legacy clients of a modern server.
    up: Up,
}

impl fmt::Debug for ChildServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChildServer({})", self.0.native.core.name)
    }
}

impl ChildServer {
    fn new(native: Native, limits: LimitsHandle) -> Arc<Self> {
        let core = native.core.clone();
        let native = Arc::new(native);
        let settings = bridge::Settings {
            server: core.name.clone(),
            own: core.spec.limits,
            limits,
            metrics: core.metrics.clone(),
        };
        let (down, up) = (Down::new(native.clone(), settings.clone()), Up::new(native.clone(), settings));
        Arc::new(Self(Arc::new(Eras { native, down, up })))
    }

    /// As it is started.
    pub fn spec(&self) -> &ChildSpec {
        &self.0.native.core.spec
    }

    /// Ends it: new calls are refused, those at work have `mcp_drain_ms`, then its processes end (spec mcp §4.4). Waits until nothing is
    /// left of them.
    pub async fn retire(&self) {
        self.0.native.core.retire().await;
    }

    /// What it does.
    pub fn status(&self) -> ServerStatus {
        self.0.native.status()
    }
}

impl LegacyServer for ChildServer {
    fn open(&self, caller: &Caller, initialize: Message, to: Outlet, news: Outlet) -> Arc<dyn Conversation> {
        let open = |eras: &Eras, era, caller: &Caller, initialize: Message, to: Outlet, news| match era {
            Ok(Era::Legacy) => eras.native.open(caller, initialize, to, news),
            // Straight is more exact than over a bridge.
            Ok(Era::Modern) if eras.native.core.is_also_legacy() => eras.native.open(caller, initialize, to, news),
            Ok(Era::Modern) => eras.up.open(caller, initialize, to, news),
            Err(fault) => eras.native.refuse(&fault, &initialize, &to),
        };
        if let Some(era) = self.0.native.core.era() {
            return open(&self.0, Ok(era), caller, initialize, to, news);
        }
        let deferred = Deferred::new();
        let (eras, caller, opened) = (self.0.clone(), caller.clone(), Arc::downgrade(&deferred));
        self.0.native.core.with_era(move |era| {
            // A client that has left meanwhile needs nothing opened.
            if let Some(deferred) = opened.upgrade() {
                deferred.set(open(&eras, era, &caller, initialize, to, news));
            }
        });
        deferred
    }
}

impl ModernServer for ChildServer {
    fn call(&self, caller: Caller, request: Message, to: Outlet) {
        let eras = self.0.clone();
        self.0.native.core.with_era(move |era| match era {
            Ok(Era::Modern) => eras.native.call(caller, request, to),
            Ok(Era::Legacy) => eras.down.call(caller, request, to),
            Err(fault) => drop(to.send(fault.answer(request.id()))),
        });
    }
}

/// The server in the era that its processes speak.
struct Native {
    core: Arc<Core>,
    shared: Arc<Slot>,
    /// A process for each principal.
    modern: Mutex<BTreeMap<Arc<str>, Arc<Slot>>>,
}

impl fmt::Debug for Native {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Native({})", self.core.name)
    }
}

impl LegacyServer for Native {
    fn open(&self, caller: &Caller, initialize: Message, to: Outlet, news: Outlet) -> Arc<dyn Conversation> {
        let (core, principal) = (&self.core, &caller.principal);
        if core.spec.mode == Mode::Shared {
            return SharedTalk::open(core, &self.shared, principal, initialize, to, news);
        }
        match OwnTalk::open(core, principal, &initialize, to.clone(), news) {
            Ok(talk) => talk,
            Err(fault) => self.refuse(&fault, &initialize, &to),
        }
    }
}

impl ModernServer for Native {
    fn call(&self, caller: Caller, request: Message, to: Outlet) {
        let slot = self.slot_of(&caller.principal);
        if request.method() == Some("subscriptions/listen") {
            return self.listen(&slot, request, to);
        }
        let from = (caller.principal, slot.target);
        talk::admit(&self.core, from, 0, Purpose::Call, (request, to), move |call| slot.call(call));
    }
}

impl Native {
    /// A session that can't be.
    fn refuse(&self, fault: &Fault, initialize: &Message, to: &Outlet) -> Arc<dyn Conversation> {
        let _left = to.send(fault.answer(initialize.id()));
        Arc::new(Over(self.core.name.clone()))
    }

    /// What it does.
    fn status(&self) -> ServerStatus {
        let core = &self.core;
        let processes = core.processes();
        let slots = self.modern.lock().values().cloned().collect::<Vec<_>>();
        let is_broken = core.starts.lock().breaker.is_open()
            || self.shared.is_broken()
            || slots.iter().any(|slot| slot.is_broken());
        let state = match () {
            () if core.retired.is_cancelled() => "stopping",
            () if !processes.is_empty() => "running",
            () if is_broken => "failed",
            () => "idle",
        };
        let (calls, queued) = core.gate.counts();
        let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        ServerStatus {
            name: core.spec.name.clone(),
            state,
            mode: core.spec.mode.as_str(),
            era: core.era().map(Era::as_str),
            pids: processes.iter().map(|process| process.pid()).filter(|pid| *pid != 0).collect(),
            sessions: self.shared.seats.count(),
            calls,
            queued,
            starts: count(&core.counters.starts),
            losses: count(&core.counters.losses),
            skipped: count(&core.counters.skipped),
            dropped: count(&core.counters.dropped),
            stderr: processes.last().map(|process| process.tail.text()).filter(|text| !text.is_empty()),
        }
    }

    /// A subscription is no work: it counts as a stream.
    fn listen(&self, slot: &Slot, request: Message, to: Outlet) {
        let most = self.core.spec.limits.streams_per_principal;
        if slot.listening() >= most {
            self.core.metrics.hit("mcp_streams_per_principal_max");
            let message = format!("you have {most} streams of subscriptions here already: end one of them");
            let _left = to.send(Fault::overloaded(message, std::time::Duration::from_secs(1)).answer(request.id()));
            return;
        }
        slot.call(Call { session: 0, purpose: Purpose::Listen, message: request, to: Way::Client(to), permit: None });
    }

    fn slot_of(&self, principal: &Arc<str>) -> Arc<Slot> {
        let mut slots = self.modern.lock();
        if let Some(slot) = slots.get(principal) {
            return slot.clone();
        }
        slots.retain(|_, slot| Arc::strong_count(slot) > 1 || !slot.is_idle());
        let slot = Slot::new(self.core.clone(), Role::Modern, Some(principal.clone()));
        slots.entry(principal.clone()).or_insert(slot).clone()
    }
}
