//! The event loops, one thread and one single-threaded runtime to a core, and the life of a
//! connection on them: accept, permits, session, door, close. Protocols are the doors'; what
//! blocks is the pool's.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::{RefusalPermit, Seat};
use crate::core::Core;
use crate::metrics::DoorMetrics;
use crate::tls::{self, Shaken};
use crate::{
    CloseReason, Conn, Door, Event, Events, Limits, LimitsError, LimitsHandle, Listener, Metrics, Origin, Refusal,
    Session, SessionInfo, Shutdown, Status, Stopped,
};

/// Time for threads to end once nothing is left for them to do; beyond it one is stuck.
const JOIN_WITHIN: Duration = Duration::from_secs(2);

/// What a server is started with.
#[derive(Clone, Debug, Default)]
pub struct ServerConfig {
    /// The limits at start; [`Server::reload`] changes them.
    pub limits: Limits,
    /// Event loops; `None` is one for each core.
    pub cores: Option<usize>,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The limits contradict each other.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// No thread or no event loop to be had.
    #[error("can't start an event loop: {0}")]
    EventLoop(#[from] io::Error),
}

/// The event loops of a node and what they share.
#[derive(Debug)]
pub struct Server {
    core: Arc<Core>,
    loops: Vec<EventLoop>,
    end: CancellationToken,
    alive: TaskTracker,
}

#[derive(Debug)]
struct EventLoop {
    handle: Handle,
    thread: JoinHandle<()>,
}

impl Server {
    /// Starts the event loops; they idle until [`Server::listen`].
    ///
    /// # Errors
    /// Limits that can't be meant, or no threads.
    pub fn start(config: ServerConfig) -> Result<Self, StartError> {
        config.limits.check()?;
        let count = config.cores.unwrap_or_else(crate::limits::cores).max(1);
        let core = Core::new(Arc::new(ArcSwap::from_pointee(config.limits)));
        let mut server = Self { core, loops: Vec::new(), end: CancellationToken::new(), alive: TaskTracker::new() };
        for index in 0..count {
            let event_loop = server.event_loop(index)?;
            server.loops.push(event_loop);
        }
        server.loops[0].handle.spawn(server.core.pool.clone().watch());
        server.loops[0].handle.spawn(server.core.clone().tick());
        Ok(server)
    }

    fn event_loop(&self, index: usize) -> io::Result<EventLoop> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, token) = (self.end.clone(), self.alive.token());
        let thread = std::thread::Builder::new().name(format!("loop-{index}")).spawn(move || {
            runtime.block_on(end.cancelled());
            // Drops what is left of its connections; each tells its end.
            drop(runtime);
            drop(token);
        })?;
        Ok(EventLoop { handle, thread })
    }

    /// Serves what comes in at `listeners` through `door`: the first on the first event loop, and
    /// so on around.
    pub fn listen<D: Door, L: Listener + 'static>(&self, door: Arc<D>, listeners: Vec<L>) {
        for (listener, event_loop) in listeners.into_iter().zip(self.loops.iter().cycle()) {
            let entrance =
                Entrance { core: self.core.clone(), metrics: self.core.metrics.door(door.name()), door: door.clone() };
            let task = entrance.accept_all(listener);
            event_loop.handle.spawn(self.core.metrics.tasks().track_future(task));
        }
    }

    /// Number of event loops: how many listeners a door wants.
    pub fn cores(&self) -> usize {
        self.loops.len()
    }

    /// The event loops' runtimes, for tasks of the node beside connections.
    pub fn runtimes(&self) -> impl Iterator<Item = &Handle> {
        self.loops.iter().map(|event_loop| &event_loop.handle)
    }

    /// The limits in force, for who needs them beside sessions.
    pub fn limits(&self) -> LimitsHandle {
        self.core.limits.clone()
    }

    /// Puts other limits in force.
    ///
    /// # Errors
    /// Limits that can't be meant; the old ones stay.
    pub fn reload(&self, limits: Limits) -> Result<(), LimitsError> {
        limits.check()?;
        self.core.rates.set(&limits);
        self.core.limits.store(Arc::new(limits));
        Ok(())
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.core.metrics
    }

    /// The node now, for people.
    pub fn status(&self) -> Status {
        Status::of(&self.core)
    }

    /// All connections that are served, the oldest first.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.core.registry.infos()
    }

    /// Closes the connection `id` as [`CloseReason::Kicked`]; false when there is none.
    pub fn kick(&self, id: u64) -> bool {
        self.core.kick(id)
    }

    /// Where events can be heard.
    pub fn events(&self) -> &Events {
        &self.core.events
    }

    /// The node's end, and the way to spawn tasks.
    pub fn shutdown(&self) -> &Shutdown {
        &self.core.shutdown
    }

    /// Accepts no more connections; those that are open go on. [`Server::stop`] does the rest.
    pub fn stop_accepting(&self) {
        self.core.shutdown.stop_accepting();
    }

    /// Stops: accepts no more, tells every connection, waits up to `drain_ms`, drops what is left
    /// and joins the threads. A thread stuck in a job is left behind and told.
    pub async fn stop(mut self) -> Stopped {
        let core = self.core.clone();
        core.shutdown.stop_accepting();
        core.registry.close_all();
        let patience = Duration::from_millis(core.limits.load().drain_ms);
        let drained = tokio::time::timeout(patience, core.shutdown.drained()).await.unwrap_or(false);
        core.shutdown.abort();
        core.pool.stop();
        self.end.cancel();
        let (workers, loops) = tokio::join!(core.pool.join(JOIN_WITHIN), self.join());
        // The last connections have told their end by now.
        let joined = core.events.end(JOIN_WITHIN).await && workers && loops;
        if !drained || !joined {
            tracing::warn!(drained, joined, "the server did not stop cleanly");
        }
        Stopped { clean: drained && joined }
    }

    async fn join(&mut self) -> bool {
        self.alive.close();
        if tokio::time::timeout(JOIN_WITHIN, self.alive.wait()).await.is_err() {
            return false;
        }
        // Each has given its token back as its last act, so none of these waits.
        std::mem::take(&mut self.loops).into_iter().all(|event_loop| event_loop.thread.join().is_ok())
    }
}

impl Drop for Server {
    /// Without [`Server::stop`] everything ends at once; threads are told, not waited for.
    fn drop(&mut self) {
        self.core.shutdown.stop_accepting();
        self.core.registry.close_all();
        self.core.shutdown.abort();
        self.core.pool.stop();
        self.end.cancel();
    }
}

/// One door on one event loop.
struct Entrance<D> {
    core: Arc<Core>,
    metrics: Arc<DoorMetrics>,
    door: Arc<D>,
}

impl<D: Door> Entrance<D> {
    async fn accept_all<L: Listener>(self, mut listener: L) {
        let shutdown = self.core.shutdown.clone();
        loop {
            let conn = tokio::select! {
                biased;
                () = shutdown.stopping() => return,
                conn = listener.accept() => conn,
            };
            self.take_in(conn);
        }
    }

    /// Gives a connection a task of its own: to serve it, or to tell it why not.
    fn take_in(&self, conn: Conn) {
        let core = &self.core;
        let limits = core.limits.load();
        conn.io.tune(&limits);
        let origin = Origin { session: core.next_session(), peer: conn.peer, door: self.metrics.name };
        let mut open = Open::new(Session::new(core.clone(), self.metrics.clone(), origin, conn.secure));
        match core.seats.take(origin.door, origin.peer, &limits) {
            Ok(seat) => {
                open.seat = Some(seat);
                open.session.emit(Event::Admitted);
                let session = open.session.clone();
                let task = core.shutdown.spawn_with_runtime(serve(self.door.clone(), conn, open));
                // This event loop does one thing at a time, so the task has not begun, let alone left.
                core.registry.enter(session, task);
            }
            Err(refusal) => {
                open.reason = Some(CloseReason::Refused(open.session.refused(refusal)));
                if let Some(permit) = RefusalPermit::take(core, &limits) {
                    let patience = Duration::from_millis(limits.refusal_ms_max);
                    let task = refuse(self.door.clone(), conn, refusal, patience, (permit, open));
                    core.shutdown.spawn_with_runtime(task);
                }
            }
        }
    }
}

#[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice, for every idle connection")]
fn serve<D: Door>(door: Arc<D>, conn: Conn, open: Open) -> impl Future<Output = ()> + Send {
    async move {
        let said = match conn.tls {
            None => door.serve(conn, open.session.clone()).await,
            // In a box, which connections without TLS should not pay for.
            Some(_) => Box::pin(serve_tls(&*door, conn, &open.session)).await,
        };
        open.close(said);
    }
}

async fn serve_tls<D: Door>(door: &D, mut conn: Conn, session: &Session) -> CloseReason {
    let Some(tls) = conn.tls.take() else { return door.serve(conn, session.clone()).await };
    // The handshake's future is large, and over when the connection is served.
    match Box::pin(tls::handshake(conn, tls, session)).await {
        Shaken::Conn(conn) => Box::pin(door.serve(conn, session.clone())).await,
        Shaken::Plain(conn, refusal) => {
            let patience = Duration::from_millis(session.limits().refusal_ms_max);
            let _late = tokio::time::timeout(patience, door.refuse(conn, refusal)).await;
            CloseReason::Refused(refusal)
        }
        Shaken::Failed(reason) => reason,
    }
}

impl Session {
    /// Begins another connection of the same peer at the same door, which outlives this one: for a conversation that
    /// travels on many connections, as long polling does. It has its own seat and number and is listed, counted,
    /// told to close and dropped after `drain_ms` like one that was accepted. `serve` makes what serves it; it is a
    /// task of the event loop this is called on, and must be called from one of its tasks.
    ///
    /// # Errors
    /// [`Refusal`] when there is no seat for it.
    pub fn branch<F>(&self, serve: impl FnOnce(Session) -> F) -> Result<Session, Refusal>
    where
        F: Future<Output = CloseReason> + Send + 'static,
    {
        let core = self.core();
        let origin = Origin { session: core.next_session(), peer: self.peer(), door: self.door() };
        let mut open = Open::new(Session::new(core.clone(), self.door_metrics().clone(), origin, self.secure()));
        match core.seats.take(origin.door, origin.peer, &core.limits.load()) {
            Ok(seat) => open.seat = Some(seat),
            Err(refusal) => {
                open.reason = Some(CloseReason::Refused(open.session.refused(refusal)));
                return Err(refusal);
            }
        }
        open.session.emit(Event::Admitted);
        let session = open.session.clone();
        let serve = serve(session.clone());
        let task = core.shutdown.spawn_with_runtime(async move {
            let said = serve.await;
            open.close(said);
        });
        // As with one that was accepted: the task has not begun.
        core.registry.enter(session.clone(), task);
        Ok(session)
    }
}

/// Tells one peer "no"; its permit is given back before the end is told.
async fn refuse<D: Door>(
    door: Arc<D>,
    conn: Conn,
    refusal: Refusal,
    patience: Duration,
    _until_told: (RefusalPermit, Open),
) {
    // A handshake is much work for a "no": who would need one is closed without a word.
    if conn.tls.is_none() {
        let _late = tokio::time::timeout(patience, door.refuse(conn, refusal)).await;
    }
}

/// An accepted connection: tells its opening, and its end exactly once, also when its task panics
/// or is dropped.
struct Open {
    session: Session,
    seat: Option<Seat>,
    since: Instant,
    reason: Option<CloseReason>,
}

impl Open {
    fn new(session: Session) -> Self {
        session.emit(Event::Opened);
        Self { session, seat: None, since: Instant::now(), reason: None }
    }

    /// Who closed the session from outside knows better than the door why it ended.
    fn close(mut self, said: CloseReason) {
        self.reason = self.session.close_reason().or(Some(said));
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.session.core().registry.leave(self.session.id());
        // The seat is free before the end is told, so who hears of it can come in.
        self.seat = None;
        let reason = match self.reason {
            Some(reason) => reason,
            None if std::thread::panicking() => CloseReason::Panicked,
            // Dropped: it was told to go and did not, or the node has no more time.
            None => self.session.close_reason().unwrap_or(CloseReason::Aborted),
        };
        if reason == CloseReason::Panicked {
            let message = "a door panicked; its connection was closed".into();
            self.session.emit(Event::Error { message, internal: true });
        }
        let (bytes_in, bytes_out) = self.session.bytes();
        self.session.emit(Event::Closed { reason, took: self.since.elapsed(), bytes_in, bytes_out });
    }
}

#[cfg(test)]
impl Server {
    pub(crate) fn core_for_tests(&self) -> &Arc<Core> {
        &self.core
    }
}

/// Bytes of a session and of a connection's task.
#[cfg(test)]
pub(crate) fn sizes_for_tests<D: Door>(door: Arc<D>) -> (usize, usize) {
    fn size<A, B, C, F>(_: &impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }
    drop(door);
    (Session::size_for_tests(), size(&serve::<D>))
}
