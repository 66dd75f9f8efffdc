//! A launcher whose processes are the test: it reads what they are sent and says what they say, with paused time and in the
//! order it wants.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::Value;
use standpipe_engine::Channel;
use standpipe_runs::{Child, Exit, LaunchError, Launched, Launcher, Source, Spec, Told, Used};
use tokio::io::{AsyncBufReadExt as _, BufReader, DuplexStream};
use tokio::sync::{mpsc, watch};

/// Bytes between us and a process.
pub(super) const PIPE_BYTES: usize = 4 << 10;

/// Hands each process that is started to the test.
pub(super) struct Fake(mpsc::Sender<FakeProcess>);

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fake")
    }
}

impl Fake {
    pub(super) fn new() -> (Arc<Self>, mpsc::Receiver<FakeProcess>) {
        let (started, processes) = mpsc::channel(64);
        (Arc::new(Self(started)), processes)
    }
}

impl Launcher for Fake {
    fn launch(&self, spec: Spec) -> BoxFuture<'_, Result<Launched, LaunchError>> {
        async move {
            if let Some(reason) = spec.argv.first().and_then(|word| word.strip_prefix("refuse:")) {
                return Err(LaunchError(reason.to_owned()));
            }
            let (input, their_input) = tokio::io::duplex(PIPE_BYTES);
            let (out, read) = mpsc::channel(64);
            let exit = Arc::new(watch::Sender::new(None));
            let told = Arc::new(Mutex::new(Vec::new()));
            let process = FakeProcess {
                input: Some(BufReader::new(their_input)),
                out: Some(out),
                exit: exit.clone(),
                told: told.clone(),
            };
            let output: Vec<(Channel, Box<dyn Source>)> =
                vec![(Channel::Out, Box::new(FakeSource { read, bytes: Bytes::new(), ended: false }))];
            let child = Box::new(FakeChild { exit, told });
            let _no_test = self.0.send(process).await;
            Ok(Launched { child, input: Some(Box::new(input)), output })
        }
        .boxed()
    }

    fn sweep(&self) -> BoxFuture<'_, usize> {
        std::future::ready(0).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

/// A process, from its own side.
pub(super) struct FakeProcess {
    input: Option<BufReader<DuplexStream>>,
    out: Option<mpsc::Sender<Bytes>>,
    exit: Arc<watch::Sender<Option<Exit>>>,
    told: Arc<Mutex<Vec<Told>>>,
}

impl FakeProcess {
    /// The next line of its input; `None` at the end.
    pub(super) async fn hear(&mut self) -> Option<Value> {
        let mut line = String::new();
        let read = self.input.as_mut().unwrap().read_line(&mut line).await.unwrap();
        (read > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    /// Hears a request with this method.
    pub(super) async fn expect(&mut self, method: &str) -> Value {
        let heard = self.hear().await.unwrap();
        assert_eq!(heard["method"], method, "{heard}");
        heard
    }

    /// Says something, in one piece.
    pub(super) async fn say(&self, text: &str) {
        let _gone = self.out.as_ref().unwrap().send(Bytes::copy_from_slice(text.as_bytes())).await;
    }

    /// Answers a request.
    pub(super) async fn answer(&self, request: &Value, result: &str) {
        self.say(&reply(request, result)).await;
    }

    /// Reads no more.
    pub(super) fn close_input(&mut self) {
        self.input = None;
    }

    /// Ends.
    pub(super) fn exit(mut self, code: i32) {
        self.input = None;
        self.out = None;
        self.exit.send_replace(Some(Exit { code: Some(code), signal: None }));
    }

    /// What it was told.
    pub(super) fn told(&self) -> Vec<Told> {
        self.told.lock().clone()
    }
}

/// The line that answers a request.
pub(super) fn reply(request: &Value, result: &str) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{result}}}\n", request["id"])
}

struct FakeChild {
    exit: Arc<watch::Sender<Option<Exit>>>,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Child for FakeChild {
    fn pid(&self) -> u32 {
        1
    }

    fn exited(&mut self) -> BoxFuture<'_, Exit> {
        let mut exit = self.exit.subscribe();
        async move { exit.wait_for(Option::is_some).await.unwrap().unwrap() }.boxed()
    }

    fn tell(&mut self, told: Told) {
        self.told.lock().push(told);
        if told == Told::Kill {
            let killed = Exit { code: None, signal: Some(9) };
            self.exit.send_if_modified(|exit| exit.replace(exit.unwrap_or(killed)).is_none());
        }
    }

    fn left(&mut self) -> usize {
        usize::from(self.exit.borrow().is_none())
    }

    fn close(self: Box<Self>) -> Used {
        Used::default()
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
            return if self.ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let count = self.bytes.len().min(bytes_max);
        buffer.extend_from_slice(&self.bytes[..count]);
        self.bytes.advance(count);
        Ok(count)
    }
}
