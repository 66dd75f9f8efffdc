//! What happens, as one enum, and the one function that counts, times, traces and passes it on.
//!
//! Subscribers get events through bounded channels that never slow a connection: what does not
//! fit is dropped for that subscriber and counted. Nothing here decides anything.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc::{self, Receiver, Sender, error::TrySendError};
use tokio_util::task::TaskTracker;

use crate::metrics::DoorMetrics;
use crate::{Class, CloseReason, JobError, Metrics, Outcome, Peer, Refusal};

/// Events that may wait for a callback.
const CALLBACK_EVENTS: usize = 4_096;

/// Whom an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Number of the connection, unique while the node runs.
    pub session: u64,
    /// Who is at the other end.
    pub peer: Peer,
    /// Name of the door.
    pub door: &'static str,
}

/// Something that happened to a connection, a request or a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connection was accepted.
    Opened,
    /// It was given its permits and is served.
    Admitted,
    /// It, or something it asked for, was not let in.
    Refused(Refusal),
    /// A job waits for a worker.
    Queued {
        /// Its class.
        class: Class,
        /// Its cost in bytes.
        bytes: usize,
    },
    /// A request began.
    Started,
    /// A job ran.
    Ran {
        /// Its class.
        class: Class,
        /// How long it had waited; `None` when it ran on the connection's task.
        waited: Option<Duration>,
        /// How long it ran.
        took: Duration,
        /// Whether it panicked.
        panicked: bool,
    },
    /// A request ended.
    Finished {
        /// How.
        outcome: Outcome,
        /// Since it began.
        took: Duration,
    },
    /// Requests began and were answered at once, on the connection's task.
    Answered {
        /// How many.
        requests: u32,
        /// All together.
        took: Duration,
    },
    /// A job was never started: its deadline had passed or it had waited too long.
    TimedOut(JobError),
    /// A watcher fell behind and gets a fresh value.
    Lagged,
    /// Something went wrong that somebody may want to know.
    Error {
        /// What.
        message: Arc<str>,
        /// Whether it is our fault, and so a person's business.
        internal: bool,
    },
    /// A connection ended.
    Closed {
        /// Why.
        reason: CloseReason,
        /// Since it was accepted.
        took: Duration,
        /// Bytes received.
        bytes_in: u64,
        /// Bytes sent.
        bytes_out: u64,
    },
}

/// An event as a subscriber gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Whom it is about.
    pub origin: Origin,
    /// What happened.
    pub event: Event,
}

/// Where events go; a handle that is cheap to clone.
#[derive(Clone, Debug)]
pub struct Events(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    metrics: Metrics,
    /// Whether there is a subscriber: the only thing looked at when there is none.
    heard: AtomicBool,
    subscribers: Mutex<Vec<Sender<Observed>>>,
    /// A token for each thread that calls back.
    callers: TaskTracker,
}

impl Events {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            metrics,
            heard: AtomicBool::new(false),
            subscribers: Mutex::default(),
            callers: TaskTracker::new(),
        }))
    }

    /// Events from now on. At most `capacity` wait to be received; further ones are dropped and
    /// counted. Dropping the receiver ends it.
    ///
    /// # Panics
    /// When `capacity` is 0.
    pub fn subscribe(&self, capacity: usize) -> Receiver<Observed> {
        let (sender, receiver) = mpsc::channel(capacity);
        let mut subscribers = self.0.subscribers.lock();
        subscribers.push(sender);
        self.0.heard.store(true, Ordering::Release);
        receiver
    }

    /// Calls `hear` for each event from now on, on a thread of its own: however long it takes, it
    /// slows no connection; events it is too slow for are dropped and counted. Ends with the node.
    ///
    /// # Errors
    /// No thread to be had.
    pub fn on(&self, hear: impl Fn(&Observed) + Send + Sync + 'static) -> io::Result<()> {
        let mut events = self.subscribe(CALLBACK_EVENTS);
        let token = self.0.callers.token();
        let call = move || {
            let _until_the_end = token;
            while let Some(observed) = events.blocking_recv() {
                if catch_unwind(AssertUnwindSafe(|| hear(&observed))).is_err() {
                    tracing::error!("a callback for events panicked");
                }
            }
        };
        std::thread::Builder::new().name("events".into()).spawn(call).map(drop)
    }

    /// No more events: callbacks hear what was sent, and their threads end. False when one is still
    /// in its callback after `patience`.
    pub(crate) async fn end(&self, patience: Duration) -> bool {
        self.0.heard.store(false, Ordering::Release);
        self.0.subscribers.lock().clear();
        self.0.callers.close();
        tokio::time::timeout(patience, self.0.callers.wait()).await.is_ok()
    }

    /// Counts, times, traces and passes on: every event goes through here.
    pub(crate) fn emit(&self, door: &DoorMetrics, origin: Origin, event: Event) {
        count(door, &event);
        trace(origin, &event);
        if self.0.heard.load(Ordering::Acquire) {
            self.pass_on(Observed { origin, event });
        }
    }

    fn pass_on(&self, observed: Observed) {
        let mut subscribers = self.0.subscribers.lock();
        subscribers.retain(|subscriber| match subscriber.try_send(observed.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.0.metrics.event_dropped();
                true
            }
            Err(TrySendError::Closed(_)) => false,
        });
        self.0.heard.store(!subscribers.is_empty(), Ordering::Release);
    }
}

fn count(door: &DoorMetrics, event: &Event) {
    let one = |counter: &AtomicU64| {
        counter.fetch_add(1, Ordering::Release);
    };
    match event {
        Event::Opened => one(&door.accepted),
        Event::Admitted | Event::Queued { .. } => {}
        Event::Refused(refusal) => one(&door.refusals[refusal.index()]),
        Event::Started => one(&door.requests),
        Event::Ran { class, waited, took, panicked } => {
            door.service_time[class.index()].record(*took);
            if let Some(waited) = waited {
                door.queue_wait[class.index()].record(*waited);
            }
            if *panicked {
                one(&door.jobs_panicked);
            }
        }
        Event::Finished { outcome, took } => {
            one(&door.outcomes[*outcome as usize]);
            door.request_time.record(*took);
        }
        Event::Answered { requests, took } => {
            let count = u64::from(*requests);
            door.requests.fetch_add(count, Ordering::Release);
            door.outcomes[Outcome::Finished as usize].fetch_add(count, Ordering::Release);
            door.request_time.record_many(*took, count);
        }
        Event::TimedOut(_) => one(&door.jobs_timed_out),
        Event::Lagged => one(&door.lagged),
        Event::Error { .. } => one(&door.errors),
        // Bytes are counted as they are reported, see `Session::add_bytes`.
        Event::Closed { reason, .. } => one(&door.closed[reason.index()]),
    }
}

fn trace(origin: Origin, event: &Event) {
    let Origin { session, peer, door } = origin;
    match event {
        Event::Error { message, internal: true } => tracing::error!(session, %peer, door, "{message}"),
        Event::Error { message, internal: false } => tracing::debug!(session, %peer, door, "{message}"),
        Event::Closed { reason, took, bytes_in, bytes_out } => {
            tracing::debug!(session, %peer, door, reason = reason.as_str(), ?took, bytes_in, bytes_out, "closed");
        }
        Event::Refused(refusal) => tracing::debug!(session, %peer, door, reason = refusal.as_str(), "refused"),
        other => tracing::trace!(session, %peer, door, event = ?other),
    }
}
