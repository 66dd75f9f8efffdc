//! Order and races, with processes that do what the test says and time that passes when it says. What real processes do is
//! tested in `tests/it`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use serde_json::{Value, json};
use standpipe_runs::Told;
use standpipe_serve::Limits;
use standpipe_wire::jsonrpc::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::fake::{Fake, FakeProcess, PIPE_BYTES, reply};
use super::{ChildServer, ChildSpec, Children, Mode};
use crate::exchange::{Inlet, Room, exchange};
use crate::upstream::{Era, EraChoice};
use crate::{Caller, Conversation, LegacyServer as _, Metrics, ModernServer as _};

const SECOND: Duration = Duration::from_secs(1);

struct Stage {
    children: Arc<Children>,
    processes: mpsc::Receiver<FakeProcess>,
    server: Arc<ChildServer>,
}

impl Stage {
    fn new(mode: Mode, era: EraChoice) -> Self {
        Self::with(|spec| (spec.mode, spec.era) = (mode, era))
    }

    fn with(set: impl FnOnce(&mut ChildSpec)) -> Self {
        let (fake, processes) = Fake::new();
        let children = Children::new(fake, Arc::new(ArcSwap::from_pointee(Limits::default())), Metrics::default());
        let mut spec = ChildSpec::new("fake", vec!["fake".to_owned()], BTreeMap::new());
        set(&mut spec);
        let server = children.server(spec);
        Self { children, processes, server }
    }

    async fn process(&mut self) -> FakeProcess {
        self.processes.recv().await.unwrap()
    }

    /// A shared process whose handshake is done, and a client of it.
    async fn shared(&mut self) -> (FakeProcess, Client) {
        let opening = Client::open(&self.server);
        let process = self.greeted().await;
        (process, opening.opened().await)
    }

    async fn greeted(&mut self) -> FakeProcess {
        let mut process = self.process().await;
        let hello = process.expect("initialize").await;
        process.answer(&hello, r#"{"protocolVersion":"2025-11-25","capabilities":{}}"#).await;
        process.expect("notifications/initialized").await;
        process
    }
}

struct Opening {
    client: Client,
    hello: Inlet,
}

impl Opening {
    async fn opened(mut self) -> Client {
        let hello = next(&mut self.hello).await;
        assert!(hello.get("result").is_some(), "{hello}");
        self.client
    }

    async fn refused(mut self) -> Value {
        next(&mut self.hello).await
    }
}

struct Client {
    conversation: Arc<dyn Conversation>,
    caller: Caller,
}

fn way() -> (crate::Outlet, Inlet) {
    exchange(Room { messages: 1_024, bytes: 1 << 20 })
}

fn message(value: &Value) -> Message {
    Message::parse(Bytes::from(value.to_string())).unwrap()
}

async fn next(inlet: &mut Inlet) -> Value {
    let message = timeout(600 * SECOND, inlet.next()).await.expect("it takes too long").expect("a message");
    serde_json::from_slice(message.bytes()).unwrap()
}

async fn code(inlet: &mut Inlet) -> i64 {
    next(inlet).await["error"]["code"].as_i64().unwrap()
}

impl Client {
    fn open(server: &ChildServer) -> Opening {
        let caller = Caller::detached("p");
        let ((to, hello), (news, _)) = (way(), way());
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}});
        let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let conversation = server.open(&caller, message(&initialize), to, news);
        Opening { client: Self { conversation, caller }, hello }
    }

    fn call(&self, id: &str, params: Value) -> Inlet {
        let (to, inlet) = way();
        let request = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
        self.conversation.call(&self.caller, message(&request), to);
        inlet
    }

    fn cancel(&self, id: &str) {
        let params = json!({"requestId": id});
        let told = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params});
        self.conversation.tell(&self.caller, message(&told));
    }
}

#[tokio::test(start_paused = true)]
async fn progress_comes_before_its_reply_and_not_after_it() {
    let mut stage = Stage::new(Mode::Shared, EraChoice::Known(Era::Legacy));
    let (mut process, client) = stage.shared().await;
    let mut inlet = client.call("a", json!({"_meta": {"progressToken": "t"}}));
    let call = process.expect("tools/call").await;
    let token = &call["params"]["_meta"]["progressToken"];
    let note = |step: u32| {
        let params = json!({"progressToken": token, "progress": step});
        json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}).to_string() + "\n"
    };
    process.say(&[note(1), note(2), reply(&call, "{}"), note(3)].concat()).await;
    for step in [1, 2] {
        let told = next(&mut inlet).await;
        assert_eq!((&told["params"]["progress"], &told["params"]["progressToken"]), (&json!(step), &json!("t")));
    }
    assert_eq!(next(&mut inlet).await, json!({"jsonrpc": "2.0", "id": "a", "result": {}}));
    assert!(inlet.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_was_said_before_the_end_counts() {
    let mut stage = Stage::new(Mode::Shared, EraChoice::Known(Era::Legacy));
    let (mut process, client) = stage.shared().await;
    let (mut a, mut b) = (client.call("a", json!({})), client.call("b", json!({})));
    let first = process.expect("tools/call").await;
    process.expect("tools/call").await;
    process.answer(&first, "{}").await;
    process.exit(9);
    assert!(next(&mut a).await.get("result").is_some());
    assert_eq!(code(&mut b).await, 5_020);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_written_is_done_by_the_next_one() {
    let mut stage = Stage::new(Mode::Shared, EraChoice::Known(Era::Legacy));
    let (mut process, client) = stage.shared().await;
    process.close_input();
    let mut inlet = client.call("a", json!({}));
    // It can't be written; the process is seen to end only then.
    tokio::time::sleep(Duration::from_millis(10)).await;
    let begun = Instant::now();
    process.exit(1);
    let mut process = stage.greeted().await;
    assert_eq!(begun.elapsed().as_millis() / 10, 10, "a tenth of a second later");
    let call = process.expect("tools/call").await;
    process.answer(&call, r#"{"n":2}"#).await;
    assert_eq!(next(&mut inlet).await["result"], json!({"n": 2}));
}

#[tokio::test(start_paused = true)]
async fn what_was_written_in_part_is_not_done_again() {
    let mut stage = Stage::new(Mode::Shared, EraChoice::Known(Era::Legacy));
    let (process, client) = stage.shared().await;
    let mut large = client.call("a", json!({"x": "x".repeat(2 * PIPE_BYTES)}));
    tokio::time::sleep(Duration::from_millis(10)).await;
    let mut behind = client.call("b", json!({}));
    process.exit(1);
    assert_eq!(code(&mut large).await, 5_020);
    let mut process = stage.greeted().await;
    let call = process.expect("tools/call").await;
    process.answer(&call, "{}").await;
    assert_eq!(next(&mut behind).await["id"], "b");
}

#[tokio::test(start_paused = true)]
async fn a_call_has_its_time_from_its_last_progress() {
    let mut stage = Stage::new(Mode::Shared, EraChoice::Known(Era::Legacy));
    let (mut process, client) = stage.shared().await;
    let begun = Instant::now();
    let mut quiet = client.call("a", json!({}));
    let mut busy = client.call("b", json!({"_meta": {"progressToken": 1}}));
    process.expect("tools/call").await;
    let call = process.expect("tools/call").await;
    tokio::time::sleep(50 * SECOND).await;
    let params = json!({"progressToken": call["id"], "progress": 1});
    process
        .say(&(json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}).to_string() + "\n"))
        .await;
    assert_eq!(code(&mut quiet).await, 5_040);
    assert_eq!(begun.elapsed().as_secs(), 60);
    assert_eq!(
        process.expect("notifications/cancelled").await["params"]["requestId"],
        call["id"].as_u64().unwrap() - 1
    );
    next(&mut busy).await;
    assert_eq!(code(&mut busy).await, 5_040);
    assert_eq!(begun.elapsed().as_secs(), 110);
}

#[tokio::test(start_paused = true)]
async fn who_is_silent_when_asked_for_its_era_is_legacy_until_it_says_more() {
    let mut stage = Stage::new(Mode::Shared, EraChoice::Auto);
    let begun = Instant::now();
    let opening = Client::open(&stage.server);
    let mut process = stage.process().await;
    let probe = process.expect("server/discover").await;
    let hello = process.expect("initialize").await;
    assert_eq!((begun.elapsed().as_secs(), stage.server.status().era), (2, Some("legacy")));
    // It was slow to start, and now answers both.
    process.answer(&probe, r#"{"supportedVersions":["2026-07-28"]}"#).await;
    let error = json!({"code": -32601, "message": "what is that?"});
    process.say(&(json!({"jsonrpc": "2.0", "id": hello["id"], "error": error}).to_string() + "\n")).await;
    assert_eq!(opening.refused().await["error"]["code"], -32_601);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(stage.server.status().era, Some("modern"));
}

#[tokio::test(start_paused = true)]
async fn a_handshake_has_its_time_even_when_the_process_has_answered_before() {
    let mut stage = Stage::new(Mode::Shared, EraChoice::Auto);
    let opening = Client::open(&stage.server);
    let mut process = stage.process().await;
    let probe = process.expect("server/discover").await;
    process.answer(&probe, "{}").await;
    let begun = Instant::now();
    process.expect("initialize").await;
    assert_eq!(opening.refused().await["error"]["code"], 5_021);
    assert_eq!(begun.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn what_is_cancelled_before_the_handshake_is_never_written() {
    let mut stage = Stage::new(Mode::Shared, EraChoice::Known(Era::Legacy));
    let opening = Client::open(&stage.server);
    let (mut a, mut b) = (opening.client.call("a", json!({})), opening.client.call("b", json!({})));
    opening.client.cancel("a");
    assert!(a.next().await.is_none());
    let mut process = stage.greeted().await;
    let call = process.expect("tools/call").await;
    process.answer(&call, "{}").await;
    assert_eq!(next(&mut b).await["id"], "b");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_closed_early_ends_its_process() {
    let mut stage = Stage::new(Mode::Session, EraChoice::Known(Era::Legacy));
    let opening = Client::open(&stage.server);
    let mut process = stage.process().await;
    process.expect("initialize").await;
    let begun = Instant::now();
    drop(opening);
    assert!(process.hear().await.is_none(), "its input ends");
    stage.children.close().await;
    assert_eq!(begun.elapsed().as_secs(), 4, "asked to after two seconds, killed after two more");
    assert_eq!(process.told(), [Told::Terminate, Told::Kill]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_a_process_has_the_time_of_all_others_at_the_end() {
    let mut stage = Stage::new(Mode::Shared, EraChoice::Known(Era::Legacy));
    let (process, client) = stage.shared().await;
    process.exit(1);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mut inlet = client.call("a", json!({}));
    let begun = Instant::now();
    let children = stage.children.clone();
    let closing = tokio::spawn(async move { children.close().await });
    assert_eq!(code(&mut inlet).await, 5_021);
    assert_eq!(begun.elapsed().as_secs(), 5);
    closing.await.unwrap();
    // Its process heeds nothing.
    assert_eq!(begun.elapsed().as_secs(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_modern_call_that_waits_is_given_up_when_its_caller_leaves() {
    let mut stage = Stage::with(|spec| {
        spec.era = EraChoice::Known(Era::Modern);
        spec.limits.calls_per_child = 1;
    });
    let call = |id: u32| {
        let (to, inlet) = way();
        let request = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {}});
        stage.server.call(Caller::detached("p"), message(&request), to);
        inlet
    };
    let (mut first, second, mut third) = (call(1), call(2), call(3));
    let mut process = stage.process().await;
    let heard = process.expect("tools/call").await;
    drop(second);
    process.answer(&heard, "{}").await;
    next(&mut first).await;
    let heard = process.expect("tools/call").await;
    process.answer(&heard, "{}").await;
    assert_eq!(next(&mut third).await["id"], 3);
}

/// A generator of numbers that need not be good (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

/// Calls, cancellations, ends of processes and replies in any order: every call has one answer, or none if it was cancelled, and
/// nothing is left.
#[tokio::test(start_paused = true)]
async fn every_call_has_one_answer_whatever_happens() {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
    println!("seed {seed}");
    let mut random = Random(seed);
    for _ in 0..30 {
        storm(&mut random).await;
    }
}

async fn storm(random: &mut Random) {
    let mut stage = Stage::with(|spec| {
        (spec.mode, spec.era) = (Mode::Shared, EraChoice::Known(Era::Legacy));
        (spec.limits.calls_per_child, spec.limits.queue_calls) = (8, 16);
    });
    let (process, client) = stage.shared().await;
    let mut processes = stage.processes;
    let (mut process, mut heard) = (Some(process), Vec::new());
    let mut calls: Vec<(Inlet, bool)> = Vec::new();
    for step in 0..200 {
        match random.below(10) {
            0..=3 => calls.push((client.call(&step.to_string(), json!({"step": step})), false)),
            4 if !calls.is_empty() => {
                let at = random.below(calls.len() as u64) as usize;
                let id = format!("c{at}");
                // Ids are those of steps, so most of these are unknown; the others are cancelled.
                client.cancel(&id);
                client.cancel(&at.to_string());
                calls.iter_mut().for_each(|(_, cancelled)| *cancelled = true);
            }
            5 if random.below(4) == 0 => {
                if let Some(process) = process.take() {
                    heard.clear();
                    process.exit(1);
                }
            }
            _ => {
                if process.is_none() {
                    process = processes.try_recv().ok();
                }
                if let Some(process) = &mut process
                    && let Ok(Some(line)) = timeout(Duration::from_millis(1), process.hear()).await
                {
                    if line["method"] == "initialize" {
                        process.answer(&line, r#"{"protocolVersion":"2025-11-25"}"#).await;
                    } else if line.get("id").is_some() {
                        heard.push(line);
                    }
                    if !heard.is_empty() && random.below(2) == 0 {
                        let at = random.below(heard.len() as u64) as usize;
                        process.answer(&heard.swap_remove(at), "{}").await;
                    }
                }
            }
        }
    }
    drop(process);
    drop(processes);
    stage.children.close().await;
    for (mut inlet, cancelled) in calls {
        let mut answers = 0;
        while let Some(message) = timeout(600 * SECOND, inlet.next()).await.expect("the end of a stream") {
            answers += u32::from(message.method().is_none());
        }
        assert!(answers == 1 || cancelled && answers == 0, "{answers} answers");
    }
    let status = stage.server.status();
    assert_eq!((status.calls, status.queued, status.pids.len()), (0, 0, 0));
}
