//! A connection as the doors see it: who is there, what it may use, and [`Session::run`], the only
//! road to a worker. It reads and writes no byte of the connection; that is the door's.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::oneshot::{self, Receiver};

use crate::admission::peer_key;
use crate::budget::Budget;
use crate::core::Core;
use crate::metrics::DoorMetrics;
use crate::pool::{Go, Job, Pool};
use crate::queue::Ticket;
use crate::rates::Bucket;
use crate::registry::Vitals;
use crate::{
    BytesPermit, Class, CloseReason, Cost, Deadline, Event, Limits, Metrics, Origin, Peer, Refusal, RequestGuard,
    SessionInfo, Status, WatchPermit,
};

/// Why a job gave no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// Not let in.
    #[error("{0}")]
    Refused(Refusal),
    /// It waited `queue_wait_ms_max` for a worker and was never started.
    #[error("the request waited too long for a worker")]
    QueueWait,
    /// Its deadline had passed before it could start.
    #[error("the request took too long")]
    Deadline,
    /// It panicked; the log has the message.
    #[error("internal error")]
    Panicked,
    /// The node stops; it was never started.
    #[error("the server is shutting down")]
    Shutdown,
}

/// One connection; a handle that is cheap to clone. Permits are held by the connection's task, not
/// by the handle, so a handle that outlives its connection holds nothing of it.
#[derive(Clone, Debug)]
pub struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    core: Arc<Core>,
    door: Arc<DoorMetrics>,
    id: u64,
    peer: Peer,
    secure: bool,
    vitals: Vitals,
    /// What its peer has left of its rate; looked up when there is a limit.
    bucket: OnceLock<Arc<Bucket>>,
    /// Who waits for [`Session::closing`].
    closing: Notify,
    /// Set by who closes the connection from outside; goes before what the door says.
    reason: OnceLock<CloseReason>,
    watchers: Budget,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl Session {
    /// A session of nobody, on a core without event loops and workers: for tests of what is handed one.
    #[doc(hidden)]
    pub fn detached(limits: Limits) -> Self {
        let core = Core::new(Arc::new(arc_swap::ArcSwap::from_pointee(limits)));
        let door = core.metrics.door("detached");
        let origin = Origin { session: core.next_session(), peer: Peer::Local, door: "detached" };
        Self::new(core, door, origin, true)
    }

    pub(crate) fn new(core: Arc<Core>, door: Arc<DoorMetrics>, origin: Origin, secure: bool) -> Self {
        Self(Arc::new(Inner {
            vitals: core.registry.vitals(),
            core,
            door,
            id: origin.session,
            peer: origin.peer,
            secure,
            bucket: OnceLock::new(),
            closing: Notify::new(),
            reason: OnceLock::new(),
            watchers: Budget::default(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
        }))
    }

    /// Number of the connection, unique while the node runs.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        self.0.peer
    }

    /// Whether nobody between the two ends can read along: the connection is TLS, or does not leave
    /// this machine. Administrators are let in only over such a one.
    pub fn secure(&self) -> bool {
        self.0.secure
    }

    /// Name of the door.
    pub fn door(&self) -> &'static str {
        self.0.door.name
    }

    /// The limits in force now.
    pub fn limits(&self) -> Arc<Limits> {
        self.0.core.limits.load_full()
    }

    /// The node's counters.
    pub fn metrics(&self) -> &Metrics {
        &self.0.core.metrics
    }

    /// Resolves when the connection is to end: say goodbye, let open requests end, return.
    pub async fn closing(&self) {
        // Made before the look, it hears of what comes after the look.
        let told = self.0.closing.notified();
        if !self.is_closing() {
            told.await;
        }
    }

    /// Whether the connection is to end.
    pub fn is_closing(&self) -> bool {
        self.0.vitals.is_closing()
    }

    /// Asks the connection to end, for `reason`; the first reason counts. One that is still there
    /// after `drain_ms` is dropped.
    pub fn close(&self, reason: CloseReason) {
        let _earlier_counts = self.0.reason.set(reason);
        if self.start_closing() {
            self.0.core.registry.end(&self.0.vitals, self.0.core.limits.load().drain_ms);
        }
    }

    /// Tells the connection to end; false when it was told before.
    pub(crate) fn start_closing(&self) -> bool {
        let first = self.0.vitals.start_closing();
        self.0.closing.notify_waiters();
        first
    }

    /// The connection is closed for `reason` once `after_ms` milliseconds have passed, unless this
    /// is called again or taken back before. It comes true up to 200 ms late, never early. Costs a
    /// store: there is no timer. A [`Refusal`] in the reason loses its retry hint.
    pub fn due(&self, reason: CloseReason, after_ms: u64) {
        self.0.core.registry.due(&self.0.vitals, reason, after_ms);
    }

    /// Takes [`Session::due`] back.
    pub fn not_due(&self) {
        self.0.vitals.not_due();
    }

    /// The peer does not take its output now, or again does; the slowest are shown by this.
    pub fn output_blocked(&self, blocked: bool) {
        self.0.core.registry.blocked(&self.0.vitals, blocked);
    }

    /// The node now, for people.
    pub fn status(&self) -> Status {
        Status::of(&self.0.core)
    }

    /// All connections that are served, the oldest first.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.0.core.registry.infos()
    }

    /// Closes the connection `id` as [`CloseReason::Kicked`]; false when there is none.
    pub fn kick(&self, id: u64) -> bool {
        self.0.core.kick(id)
    }

    /// The reason given to [`Session::close`], or of the deadline that passed.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.0.reason.get().copied()
    }

    /// Accounts for bytes received and sent.
    pub fn add_bytes(&self, bytes_in: u64, bytes_out: u64) {
        let Inner { door, bytes_in: all_in, bytes_out: all_out, .. } = &*self.0;
        for (counter, bytes) in
            [(all_in, bytes_in), (all_out, bytes_out), (&door.bytes_in, bytes_in), (&door.bytes_out, bytes_out)]
        {
            if bytes > 0 {
                counter.fetch_add(bytes, Ordering::Relaxed);
            }
        }
        self.0.core.registry.active(&self.0.vitals);
    }

    /// Bytes received and sent, as accounted for.
    pub fn bytes(&self) -> (u64, u64) {
        (self.0.bytes_in.load(Ordering::Relaxed), self.0.bytes_out.load(Ordering::Relaxed))
    }

    /// May this peer make `requests` more now?
    ///
    /// # Errors
    /// [`Refusal::Rate`] when its rate is over `requests_per_s_per_peer_max`.
    pub fn admit_requests(&self, requests: u32) -> Result<(), Refusal> {
        let rates = &self.0.core.rates;
        if !rates.are_limited() {
            return Ok(());
        }
        let Some(peer) = peer_key(self.0.peer) else { return Ok(()) };
        let bucket = self.0.bucket.get_or_init(|| rates.bucket(peer));
        rates.admit(bucket, requests).map_err(|refusal| self.refused(refusal))
    }

    /// `requests` requests were begun and answered on the connection's task, in `took` together:
    /// what [`Session::request`] and [`RequestGuard::finished`] do one by one.
    pub fn answered(&self, requests: u32, took: Duration) {
        self.0.core.registry.active(&self.0.vitals);
        self.emit(Event::Answered { requests, took });
    }

    /// Begins a request; the guard tells its end.
    pub fn request(&self) -> RequestGuard {
        self.0.core.registry.active(&self.0.vitals);
        RequestGuard::new(self.clone())
    }

    /// Admits `bytes` of a body.
    ///
    /// # Errors
    /// [`Refusal::Bodies`] when `bodies_bytes_in_flight_max` would be exceeded.
    pub fn body_bytes(&self, bytes: usize) -> Result<BytesPermit, Refusal> {
        let mut permit = BytesPermit::new(self.clone());
        permit.grow(bytes).map(|()| permit)
    }

    /// Admits a watcher.
    ///
    /// # Errors
    /// [`Refusal::Watchers`] or [`Refusal::ConnectionWatchers`] when there are too many.
    pub fn watch_permit(&self) -> Result<WatchPermit, Refusal> {
        WatchPermit::take(self.clone())
    }

    /// Admits one of the many watchers of a session whose protocol is made of them.
    ///
    /// # Errors
    /// [`Refusal::Watchers`] or [`Refusal::SessionListens`] when there are too many.
    pub fn listen_permit(&self) -> Result<WatchPermit, Refusal> {
        WatchPermit::take_listen(self.clone())
    }

    /// A watcher fell behind and gets a fresh value.
    pub fn lagged(&self) {
        self.0.vitals.lagged();
        self.emit(Event::Lagged);
    }

    /// Runs `job` and gives its result: here when it is small, else on a worker when its turn
    /// comes. Dropping the future drops a job that waits; one that has started runs to its end
    /// and its result is discarded.
    ///
    /// # Errors
    /// See [`JobError`]; only `Panicked` means that the job was started.
    pub async fn run<T, F>(&self, class: Class, cost: Cost, deadline: Deadline, job: F) -> Result<T, JobError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        match cost {
            Cost::Small => self.run_here(class, deadline, job),
            Cost::Bytes(bytes) => {
                let result = self.queue(class, bytes, deadline, job)?.await;
                result.map_err(|error| if error == JobError::Panicked { error } else { self.not_started(error) })
            }
        }
    }

    /// Two looks at the clock, no lock and no allocation: the path of a small read.
    fn run_here<T>(&self, class: Class, deadline: Deadline, job: impl FnOnce() -> T) -> Result<T, JobError> {
        let now = Instant::now();
        if deadline.expired_at(now) {
            return Err(self.not_started(JobError::Deadline));
        }
        self.contain(class, None, now, job)
    }

    /// Puts `job` into the queue; dropping what comes back withdraws it.
    fn queue<T, F>(&self, class: Class, bytes: usize, deadline: Deadline, job: F) -> Result<Queued<'_, T>, JobError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let core = &self.0.core;
        let queued_at = Instant::now();
        if deadline.expired_at(queued_at) {
            return Err(self.not_started(JobError::Deadline));
        }
        let wait_max = Duration::from_millis(core.limits.load().queue_wait_ms_max);
        let start_by = deadline.instant().min(queued_at + wait_max);
        let (run, answer) = self.queueable(class, job);
        let job = Job { queued_at, start_by, deadline, run };
        let owner = core.owner(self.0.id, self.0.peer);
        let ticket = core.pool.submit(class, owner, bytes, job).map_err(|error| self.not_started(error))?;
        self.emit(Event::Queued { class, bytes });
        Ok(Queued { pool: &core.pool, ticket: Some(ticket), answer })
    }

    /// Wraps `job` for a worker; its result comes out of the receiver.
    #[expect(clippy::type_complexity, reason = "named types would only be used here")]
    fn queueable<T, F>(&self, class: Class, job: F) -> (Box<dyn FnOnce(Go) + Send>, Receiver<Result<T, JobError>>)
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let session = self.clone();
        let run = move |go: Go| {
            // The caller may have gone between the queue and here.
            if !reply.is_closed() {
                let result = go.and_then(|begun| session.contain(class, Some(begun.waited), begun.at, job));
                let _caller_gone = reply.send(result);
            }
        };
        (Box::new(run), answer)
    }

    /// Runs `job`, turns its panic into an error, and accounts for it.
    fn contain<T>(
        &self,
        class: Class,
        waited: Option<Duration>,
        started: Instant,
        job: impl FnOnce() -> T,
    ) -> Result<T, JobError> {
        let result = catch_unwind(AssertUnwindSafe(job));
        self.emit(Event::Ran { class, waited, took: started.elapsed(), panicked: result.is_err() });
        result.map_err(|panic| {
            let message = format!("a {} job panicked: {}", class.as_str(), panic_message(&*panic));
            self.emit(Event::Error { message: message.into(), internal: true });
            JobError::Panicked
        })
    }

    /// Tells why a job was not started, and passes it on.
    fn not_started(&self, error: JobError) -> JobError {
        match error {
            JobError::Refused(refusal) => {
                self.refused(refusal);
            }
            JobError::Shutdown => {
                self.refused(Refusal::Stopping);
            }
            error => self.emit(Event::TimedOut(error)),
        }
        error
    }

    /// Tells a refusal, and passes it on.
    pub(crate) fn refused(&self, refusal: Refusal) -> Refusal {
        self.emit(Event::Refused(refusal));
        refusal
    }

    pub(crate) fn emit(&self, event: Event) {
        let Inner { core, door, id, peer, .. } = &*self.0;
        core.events.emit(door, Origin { session: *id, peer: *peer, door: door.name }, event);
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0.core
    }

    pub(crate) fn door_metrics(&self) -> &Arc<DoorMetrics> {
        &self.0.door
    }

    pub(crate) fn vitals(&self) -> &Vitals {
        &self.0.vitals
    }

    pub(crate) fn watchers(&self) -> &Budget {
        &self.0.watchers
    }
}

/// A job in the queue, seen from its caller; dropping it withdraws the job.
struct Queued<'a, T> {
    pool: &'a Pool,
    ticket: Option<Ticket>,
    answer: Receiver<Result<T, JobError>>,
}

impl<T> Future for Queued<'_, T> {
    type Output = Result<T, JobError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(context));
        self.ticket = None;
        // A job that was dropped without a word was dropped by the pool's stop.
        Poll::Ready(answer.unwrap_or(Err(JobError::Shutdown)))
    }
}

impl<T> Drop for Queued<'_, T> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.pool.withdraw(ticket);
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
impl Session {
    /// Bytes of what a handle points to.
    pub(crate) const fn size_for_tests() -> usize {
        size_of::<Inner>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Begun;
    use crate::tests::Bench;

    #[tokio::test]
    async fn a_caller_that_left_between_queue_and_worker_starts_nothing() {
        let bench = Bench::new(Limits::default());
        let session = bench.session();
        let (run, answer) = session.queueable(Class::Read, || panic!("started"));
        drop::<Receiver<Result<(), JobError>>>(answer);
        run(Ok(Begun { at: Instant::now(), waited: Duration::ZERO }));
        assert_eq!(bench.core.metrics.snapshot().jobs_panicked, 0);
        bench.end().await;
    }
}
