//! A launcher whose processes do what their arguments say, for tests of order and races: nothing is started, and
//! with paused time nothing takes any.
//!
//! An argument is an act, done one after the other: `out:TEXT`, `err:TEXT`, `close` (its output ends), `sleep:MS`,
//! `gate:NAME` (until [`Fake::open`]), `hang`, `exit:CODE`, `ignore-term`, `leave` (something that came of it holds the
//! output until it is told to end), `detach` (the same without the output), `immortal` (nothing ends it), and,
//! alone, `refuse:REASON` (can't be started). `false` exits with 1; anything else does nothing. A process without `exit` exits with 0.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use standpipe_engine::Channel;
use tokio::sync::{mpsc, watch};

use super::launch::{Child, Exit, LaunchError, Launched, Launcher, Source, Spec, Told, Used};

/// The launcher.
#[derive(Debug)]
pub(crate) struct Fake {
    launched: Mutex<Vec<Spec>>,
    gates: Arc<watch::Sender<BTreeSet<String>>>,
    alive: Arc<AtomicUsize>,
}

impl Fake {
    pub(crate) fn new() -> Arc<Self> {
        let gates = Arc::new(watch::Sender::new(BTreeSet::new()));
        Arc::new(Self { launched: Mutex::default(), gates, alive: Arc::default() })
    }

    /// What was started so far.
    pub(crate) fn launched(&self) -> Vec<Spec> {
        self.launched.lock().clone()
    }

    /// Lets all processes go on that wait at this gate, or will.
    pub(crate) fn open(&self, gate: &str) {
        self.gates.send_modify(|open| {
            open.insert(gate.to_owned());
        });
    }

    /// Processes, and what came of them, that are there.
    pub(crate) fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }
}

impl Launcher for Fake {
    fn launch(&self, spec: Spec) -> BoxFuture<'_, Result<Launched, LaunchError>> {
        self.launched.lock().push(spec.clone());
        if let Some(reason) = spec.argv.first().and_then(|act| act.strip_prefix("refuse:")) {
            return std::future::ready(Err(LaunchError(reason.to_owned()))).boxed();
        }
        let pid = u32::try_from(self.launched.lock().len()).unwrap_or(u32::MAX);
        let (out, out_read) = mpsc::channel(1);
        let (err, err_read) = mpsc::channel(1);
        let state = Arc::new(watch::Sender::new(State { main: true, ..State::default() }));
        let process = Process { state: state.clone(), gates: self.gates.clone(), out: Some(out), err: Some(err) };
        self.alive.fetch_add(1, Ordering::SeqCst);
        let _detached = tokio::spawn(process.run(spec.argv));
        let child = Box::new(FakeChild { pid, state, alive: self.alive.clone() });
        let source = |read| Box::new(FakeSource { read, bytes: Bytes::new(), ended: false }) as Box<dyn Source>;
        let output = vec![(Channel::Out, source(out_read)), (Channel::Err, source(err_read))];
        std::future::ready(Ok(Launched { child, input: None, output })).boxed()
    }

    fn sweep(&self) -> BoxFuture<'_, usize> {
        std::future::ready(0).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

#[derive(Clone, Debug, Default)]
struct State {
    /// The main process is there.
    main: bool,
    exit: Exit,
    /// Something that came of it is there.
    left: bool,
    ignores_term: bool,
    immortal: bool,
    told: usize,
}

/// The acts of one process.
struct Process {
    state: Arc<watch::Sender<State>>,
    gates: Arc<watch::Sender<BTreeSet<String>>>,
    out: Option<mpsc::Sender<Bytes>>,
    err: Option<mpsc::Sender<Bytes>>,
}

impl Process {
    async fn run(mut self, acts: Vec<String>) {
        let mut state = self.state.subscribe();
        {
            let done = self.acts(acts);
            tokio::select! {
                () = done => {}
                _killed = state.wait_for(|state| !state.main) => {}
            }
        }
        self.state.send_modify(|state| state.main = false);
        if self.out.is_some() && self.state.borrow().left {
            let _gone = state.wait_for(|state| !state.left).await;
        }
    }

    async fn acts(&mut self, acts: Vec<String>) {
        for act in acts {
            let (word, rest) = act.split_once(':').unwrap_or((&act, ""));
            match word {
                "out" => drop(send(self.out.as_ref(), rest).await),
                "err" => drop(send(self.err.as_ref(), rest).await),
                "close" => (self.out, self.err) = (None, None),
                "sleep" => tokio::time::sleep(Duration::from_millis(rest.parse().unwrap())).await,
                "gate" => drop(self.gates.subscribe().wait_for(|open| open.contains(rest)).await),
                "hang" => std::future::pending().await,
                "exit" => return self.change(|state| state.exit.code = rest.parse().ok()),
                "false" => return self.change(|state| state.exit.code = Some(1)),
                "ignore-term" => self.change(|state| state.ignores_term = true),
                "leave" => self.change(|state| state.left = true),
                "detach" => {
                    self.change(|state| state.left = true);
                    (self.out, self.err) = (None, None);
                }
                "immortal" => self.change(|state| state.immortal = true),
                _ => {}
            }
        }
        self.change(|state| state.exit.code = Some(0));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }
}

async fn send(pipe: Option<&mpsc::Sender<Bytes>>, text: &str) -> Option<()> {
    pipe?.send(Bytes::copy_from_slice(text.as_bytes())).await.ok()
}

struct FakeChild {
    pid: u32,
    state: Arc<watch::Sender<State>>,
    alive: Arc<AtomicUsize>,
}

impl Child for FakeChild {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn exited(&mut self) -> BoxFuture<'_, Exit> {
        let mut state = self.state.subscribe();
        async move { state.wait_for(|state| !state.main).await.map_or_else(|_| Exit::default(), |state| state.exit) }
            .boxed()
    }

    fn tell(&mut self, told: Told) {
        self.state.send_modify(|state| {
            state.told += 1;
            let heeds = told == Told::Kill || !state.ignores_term;
            if heeds && !state.immortal {
                if state.main {
                    let signal = if told == Told::Kill { 9 } else { 15 };
                    state.exit = Exit { code: None, signal: Some(signal) };
                }
                (state.main, state.left) = (false, false);
            }
        });
    }

    fn left(&mut self) -> usize {
        let state = self.state.borrow();
        usize::from(state.main) + usize::from(state.left)
    }

    fn close(self: Box<Self>) -> Used {
        Used { cpu_ms: 1, ..Used::default() }
    }
}

impl Drop for FakeChild {
    fn drop(&mut self) {
        self.state.send_modify(|state| (state.main, state.left) = (false, false));
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

struct FakeSource {
    read: mpsc::Receiver<Bytes>,
    bytes: Bytes,
    ended: bool,
}

impl Source for FakeSource {
    fn ready(&mut self) -> BoxFuture<'_, io::Result<()>> {
        async {
            while self.bytes.is_empty() && !self.ended {
                match self.read.recv().await {
                    Some(bytes) => self.bytes = bytes,
                    None => self.ended = true,
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn read(&mut self, buffer: &mut BytesMut, bytes_max: usize) -> io::Result<usize> {
        if self.bytes.is_empty() {
            match self.read.try_recv() {
                Ok(bytes) => self.bytes = bytes,
                Err(mpsc::error::TryRecvError::Empty) if !self.ended => return Err(io::ErrorKind::WouldBlock.into()),
                Err(_) => return Ok(0),
            }
        }
        let count = self.bytes.len().min(bytes_max);
        buffer.extend_from_slice(&self.bytes[..count]);
        self.bytes.advance(count);
        Ok(count)
    }
}
