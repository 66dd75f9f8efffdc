//! What the ways to one server have in common: how its processes are started and counted, which era they speak, and that it
//! may be over.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use standpipe_runs::Launcher;
use standpipe_wire::jsonrpc::Message;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::{Era, EraChoice};
use super::breaker::Breaker;
use super::call::Purpose;
use super::death::Death;
use super::gate::Gate;
use super::life::{Birth, live};
use super::places::{Place, Places};
use super::process::{Counters, Process};
use super::slot::retired;
use super::spec::ChildSpec;
use crate::era::{LEGACY, META_CAPABILITIES, META_CLIENT, META_VERSION, MODERN};
use crate::fault::UNSUPPORTED_VERSION;
use crate::{Fault, Metrics};

/// Time for the answer to `server/discover` (spec mcp §4.3).
const PROBE: Duration = Duration::from_secs(2);
/// Probes that a process may die of before it is taken for a legacy one for good.
const FATAL_PROBES_MAX: u32 = 2;

/// See the module's text.
pub(super) struct Core {
    pub(super) spec: ChildSpec,
    pub(super) name: Arc<str>,
    pub(super) launcher: Arc<dyn Launcher>,
    pub(super) places: Arc<Places>,
    pub(super) tasks: TaskTracker,
    pub(super) metrics: Metrics,
    pub(super) gate: Arc<Gate>,
    pub(super) counters: Arc<Counters>,
    /// Of starts for single sessions; who has a slot has one of its own.
    pub(super) starts: Mutex<Starts>,
    era: Mutex<EraState>,
    /// Whether a modern one has said that it speaks the legacy era too.
    also_legacy: AtomicBool,
    /// A process that has been asked for its era, and has nothing else to do yet.
    spare: Mutex<Option<Arc<Process>>>,
    processes: Mutex<BTreeMap<u64, Arc<Process>>>,
    pub(super) retired: CancellationToken,
    numbers: AtomicU64,
}

/// How starts have gone.
#[derive(Debug, Default)]
pub(super) struct Starts {
    pub(super) breaker: Breaker,
    pub(super) last: Option<(Death, Option<String>)>,
}

type Then = Box<dyn FnOnce(Result<Era, Fault>) + Send>;

enum EraState {
    Unknown { fatal: u32 },
    Asking { fatal: u32, waiting: Vec<Then> },
    Known(Era),
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Core {
    pub(super) fn new(
        mut spec: ChildSpec,
        launcher: Arc<dyn Launcher>,
        places: Arc<Places>,
        tasks: TaskTracker,
        metrics: Metrics,
    ) -> Arc<Self> {
        spec.limits = spec.limits.checked();
        if spec.eager {
            // Whatever it is started for, it is there to stay.
            spec.limits.idle = Duration::from_secs(30 * 24 * 3600);
        }
        let name: Arc<str> = spec.name.as_str().into();
        let era = match spec.era {
            EraChoice::Auto => EraState::Unknown { fatal: 0 },
            EraChoice::Known(era) => EraState::Known(era),
        };
        Arc::new(Self {
            gate: Gate::new(name.clone(), spec.limits, metrics.clone(), tasks.clone()),
            name,
            spec,
            launcher,
            places,
            tasks,
            metrics,
            counters: Arc::default(),
            starts: Mutex::default(),
            era: Mutex::new(era),
            also_legacy: AtomicBool::new(false),
            spare: Mutex::default(),
            processes: Mutex::default(),
            retired: CancellationToken::new(),
            numbers: AtomicU64::new(1),
        })
    }

    /// A number that nothing else of this server has.
    pub(super) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// # Errors
    /// The server is over.
    pub(super) fn may_start(&self) -> Result<(), Fault> {
        if self.retired.is_cancelled() { Err(retired(&self.name)) } else { Ok(()) }
    }

    /// Starts a process after `pause`.
    pub(super) fn start(self: &Arc<Self>, place: Arc<Place>, pause: Duration) -> Arc<Process> {
        let (number, limits) = (self.number(), self.spec.limits);
        let (metrics, counters) = (self.metrics.clone(), self.counters.clone());
        let process = Process::new(number, self.name.clone(), limits, metrics, counters, place);
        self.processes.lock().insert(number, process.clone());
        self.places.add(&process);
        let birth =
            Birth { launcher: self.launcher.clone(), spec: self.spec.launched(), pause, tasks: self.tasks.clone() };
        let (core, living) = (self.clone(), process.clone());
        self.tasks.spawn(async move {
            live(living, birth).await;
            core.processes.lock().remove(&number);
        });
        process
    }

    /// A process for one session, or for what has no slot.
    ///
    /// # Errors
    /// There is no place for one, or it has failed too often.
    pub(super) fn start_for(self: &Arc<Self>, principal: &Arc<str>) -> Result<Arc<Process>, Fault> {
        self.may_start()?;
        let pause = {
            let starts = self.starts.lock();
            match starts.breaker.pause() {
                Ok(pause) if pause <= self.spec.limits.queue_wait => pause,
                Ok(rest) | Err(rest) => {
                    let (death, line) = starts.last.clone().unwrap_or((Death::Silent, None));
                    return Err(death.circuit(&self.name, rest, line.as_deref()));
                }
            }
        };
        match self.spare(Some(principal))? {
            Some(process) => Ok(process),
            None => Ok(self.start(self.places.take(Some(principal))?, pause)),
        }
    }

    /// A process was lost before it had answered anything.
    pub(super) fn start_failed(&self, process: &Process, death: &Death) {
        let mut starts = self.starts.lock();
        starts.breaker.ended(process.lived());
        starts.last = Some((death.clone(), process.tail.last_line()));
    }

    /// The process that was asked for its era, if it is there and has nothing to do yet.
    ///
    /// # Errors
    /// It can't be this principal's, for that has too many.
    pub(super) fn spare(&self, principal: Option<&Arc<str>>) -> Result<Option<Arc<Process>>, Fault> {
        let mut spare = self.spare.lock();
        let Some(process) = spare.as_ref().filter(|process| !process.is_closed()) else { return Ok(None) };
        if let Some(principal) = principal {
            process.place.count_for(principal)?;
        }
        Ok(Some(process.clone()).inspect(|_| *spare = None))
    }

    /// All processes that are there.
    pub(super) fn processes(&self) -> Vec<Arc<Process>> {
        self.processes.lock().values().cloned().collect()
    }

    /// The era, if it is known.
    pub(super) fn era(&self) -> Option<Era> {
        match *self.era.lock() {
            EraState::Known(era) => Some(era),
            _ => None,
        }
    }

    /// Whether its processes speak the legacy era though they speak the modern one: then no bridge is needed for it.
    pub(super) fn is_also_legacy(&self) -> bool {
        self.also_legacy.load(Ordering::Relaxed)
    }

    fn heard(&self, reply: &Message) -> Era {
        self.also_legacy.store(speaks(reply, |version| LEGACY.contains(&version)), Ordering::Relaxed);
        era_of(reply)
    }

    /// Has `then` called with the era: at once if it is known, otherwise when the process has been asked.
    pub(super) fn with_era(self: &Arc<Self>, then: impl FnOnce(Result<Era, Fault>) + Send + 'static) {
        let mut state = self.era.lock();
        match &mut *state {
            EraState::Known(era) => {
                let era = *era;
                drop(state);
                then(Ok(era));
            }
            EraState::Asking { waiting, .. } => {
                if waiting.len() < self.spec.limits.queue_calls {
                    return waiting.push(Box::new(then));
                }
                drop(state);
                self.metrics.hit("mcp_queue_calls_max");
                let message = format!("server {} is being started, and many wait for it: try again later", self.name);
                then(Err(Fault::overloaded(message, PROBE)));
            }
            EraState::Unknown { fatal } => {
                *state = EraState::Asking { fatal: *fatal, waiting: vec![Box::new(then)] };
                drop(state);
                self.tasks.spawn(self.clone().find_era());
            }
        }
    }

    /// Asks a new process for its era, and keeps it for whoever needs one first.
    async fn find_era(self: Arc<Self>) {
        let found = self.probe().await;
        let (waiting, era) = {
            let mut state = self.era.lock();
            let EraState::Asking { fatal, waiting } = &mut *state else { return };
            let (mut fatal, waiting) = (*fatal, std::mem::take(waiting));
            fatal += u32::from(matches!(found, Ok(None)));
            let era = found.map(|era| era.unwrap_or(Era::Legacy));
            let known = era.as_ref().ok().filter(|_| !matches!(fatal, 1..FATAL_PROBES_MAX));
            *state = known.map_or(EraState::Unknown { fatal }, |era| EraState::Known(*era));
            (waiting, era)
        };
        if let Ok(era) = &era {
            tracing::debug!(server = %self.name, era = era.as_str(), "its era is known");
        }
        waiting.into_iter().for_each(|then| then(era.clone()));
    }

    /// The era that a new process speaks; `None` when it died of the question, as some legacy ones do.
    async fn probe(self: &Arc<Self>) -> Result<Option<Era>, Fault> {
        self.may_start()?;
        let process = self.start(self.places.take(None)?, Duration::ZERO);
        let mut answer = process.ask(Purpose::Probe, "server/discover", discover().as_bytes());
        let era = match timeout(PROBE, &mut answer).await {
            Ok(Ok(reply)) => self.heard(&reply),
            Ok(Err(_lost)) => return self.lost_in_probe(&process),
            Err(_late) => {
                self.tasks.spawn(self.clone().hear_late(answer));
                Era::Legacy
            }
        };
        *self.spare.lock() = Some(process);
        Ok(Some(era))
    }

    /// It has no owner that would have been told.
    fn lost_in_probe(&self, process: &Process) -> Result<Option<Era>, Fault> {
        self.may_start()?;
        let Some(death) = process.death() else { return Ok(None) };
        self.start_failed(process, &death);
        match death.is_hopeless() {
            true => Err(death.fault(&self.name, false, process.tail.last_line().as_deref())),
            false => Ok(None),
        }
    }

    /// Starts a process that waits for whoever needs it first.
    pub(super) fn warm_up(self: &Arc<Self>) {
        if self.era().is_none() {
            return self.with_era(|_era| {});
        }
        match self.places.take(None) {
            Ok(place) => *self.spare.lock() = Some(self.start(place, Duration::ZERO)),
            Err(fault) => tracing::info!(server = %self.name, reason = %fault.message, "not started yet"),
        }
    }

    /// A process that is slow to start may say later that it is modern.
    async fn hear_late(self: Arc<Self>, answer: oneshot::Receiver<Message>) {
        if let Ok(reply) = answer.await
            && self.heard(&reply) == Era::Modern
        {
            tracing::info!(server = %self.name, "it speaks the modern era, and was slow to say so");
            *self.era.lock() = EraState::Known(Era::Modern);
        }
    }

    /// Ends the server: no more calls, time for those that run, then the processes.
    pub(super) async fn retire(&self) {
        self.retired.cancel();
        self.gate.close();
        let drain = self.spec.limits.drain;
        if timeout(drain, self.gate.idle()).await.is_err() && !drain.is_zero() {
            self.metrics.hit("mcp_drain_ms");
        }
        let processes = self.processes();
        processes.iter().for_each(|process| process.end());
        for process in processes {
            process.gone().await;
        }
    }
}

/// The parameters of a modern request, as a client without any abilities would make it.
fn discover() -> String {
    let client = json!({ "name": "standpipe", "version": env!("CARGO_PKG_VERSION") });
    json!({ "_meta": { META_VERSION: MODERN[0], META_CAPABILITIES: {}, META_CLIENT: client } }).to_string()
}

/// Whether an answer to `server/discover` names a version like this.
fn speaks(reply: &Message, is_meant: impl Fn(&str) -> bool) -> bool {
    let versions = reply.at(&["supportedVersions"]).ok().flatten().filter(|_| !reply.is_error());
    let named = versions.and_then(|span| serde_json::from_slice::<Vec<String>>(reply.slice(span)).ok());
    named.is_some_and(|named| named.iter().any(|version| is_meant(version)))
}

/// The era of who gave this answer to `server/discover`.
fn era_of(reply: &Message) -> Era {
    let is_modern = match reply.is_error() {
        true => reply
            .at(&["code"])
            .ok()
            .flatten()
            .is_some_and(|code| reply.slice(code) == UNSUPPORTED_VERSION.to_string().as_bytes()),
        false => reply.at(&["supportedVersions"]).is_ok_and(|versions| versions.is_some()),
    };
    if is_modern { Era::Modern } else { Era::Legacy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_era_is_known_by_an_answer() {
        let check = |reply: Message, era| assert_eq!(era_of(&reply), era, "{reply:?}");
        check(Message::result(b"1", br#"{"supportedVersions":["2026-07-28"]}"#), Era::Modern);
        check(Message::result(b"1", b"{}"), Era::Legacy);
        check(Message::result(b"1", b"null"), Era::Legacy);
        check(Message::error(Some(b"1"), -32_601, "no such method", None), Era::Legacy);
        check(Message::error(Some(b"1"), -32_022, "not this version", None), Era::Modern);
    }

    #[test]
    fn both_eras_may_be_spoken() {
        let check = |versions: &str, both| {
            let reply = Message::result(b"1", format!("{{\"supportedVersions\":{versions}}}").as_bytes());
            assert_eq!(speaks(&reply, |version| LEGACY.contains(&version)), both, "{versions}");
        };
        check(r#"["2026-07-28","2025-06-18"]"#, true);
        check(r#"["2026-07-28"]"#, false);
        check(r#"["2025-06-18",7]"#, false);
        check("{}", false);
    }
}
