//! Tapes from the call to the answer of a replay: what is written, what is read, and what comes back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use standpipe_engine::{Engine, EngineConfig};
use standpipe_serve::{Limits, LimitsHandle};
use standpipe_wire::jsonrpc::{Kind, Message};

use super::*;
use crate::exchange::{Inlet, Room, exchange};
use crate::metrics::read;
use crate::{Caller, Conversation, Layered, LegacyServer, Metrics, ModernServer, Outlet};

const ROOM: Room = Room { messages: 4_096, bytes: 16 << 20 };

fn parse(json: &str) -> Message {
    Message::parse(Bytes::copy_from_slice(json.as_bytes())).unwrap()
}

fn limits(limits: Limits) -> LimitsHandle {
    Arc::new(arc_swap::ArcSwap::from_pointee(limits))
}

/// Answers calls with what a script says: JSON texts in which `$ID` is the id of the call and `$TOKEN` its progress token.
#[derive(Debug, Default)]
struct Scripted {
    script: Mutex<Vec<(&'static str, Vec<&'static str>)>>,
    news: Mutex<Option<Outlet>>,
}

impl Scripted {
    fn new(script: &[(&'static str, &[&'static str])]) -> Arc<Self> {
        let script = script.iter().map(|(method, says)| (*method, says.to_vec())).collect();
        Arc::new(Self { script: Mutex::new(script), news: Mutex::default() })
    }

    fn answer(&self, request: &Message, to: &Outlet) {
        let mut script = self.script.lock();
        let at = script.iter().position(|(method, _)| Some(*method) == request.method()).expect("it is in the script");
        let (_, says) = script.remove(at);
        let at = |path: &[&str]| {
            request.at(path).unwrap().map(|span| String::from_utf8_lossy(request.slice(span)).into_owned())
        };
        let token = at(&["_meta", "progressToken"]).unwrap_or_default();
        let id = String::from_utf8_lossy(request.id().unwrap()).into_owned();
        for text in says {
            let message = parse(&text.trim_start_matches('!').replace("$ID", &id).replace("$TOKEN", &token));
            if text.starts_with('!') {
                self.news.lock().as_ref().unwrap().send(message).unwrap();
            } else {
                to.send(message).unwrap();
            }
        }
    }
}

#[derive(Debug)]
struct Server(Arc<Scripted>);

impl ModernServer for Server {
    fn call(&self, _: Caller, request: Message, to: Outlet) {
        self.0.answer(&request, &to);
    }
}

impl LegacyServer for Server {
    fn open(&self, _: &Caller, initialize: Message, to: Outlet, news: Outlet) -> Arc<dyn Conversation> {
        *self.0.news.lock() = Some(news);
        self.0.answer(&initialize, &to);
        Arc::new(Server(self.0.clone()))
    }
}

impl Conversation for Server {
    fn call(&self, _: &Caller, request: Message, to: Outlet) {
        self.0.answer(&request, &to);
    }
    fn tell(&self, _: &Caller, _: Message) {}
    fn ended(&self) -> futures_util::future::BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

async fn recording(folder: &tempfile::TempDir) -> (Arc<Recording>, Metrics) {
    let metrics = Metrics::default();
    let place = Place::File(folder.path().join("tape.jsonl"));
    let recording = Recording::open(place, None, limits(Limits::default()), metrics.clone()).await.unwrap();
    (recording, metrics)
}

fn tape(folder: &tempfile::TempDir) -> Tape {
    Tape::open(&folder.path().join("tape.jsonl")).unwrap()
}

/// A client of either era.
struct Client {
    server: Arc<dyn crate::Server>,
    talk: Option<(Arc<dyn Conversation>, Inlet)>,
}

impl Client {
    fn new(server: Arc<dyn crate::Server>) -> Self {
        Self { server, talk: None }
    }

    fn legacy(server: Arc<dyn crate::Server>, initialize: &str) -> (Self, Inlet) {
        let ((to, inlet), (news, heard)) = (exchange(ROOM), exchange(ROOM));
        let talk = server.open(&Caller::detached("user:ann"), parse(initialize), to, news);
        (Self { server, talk: Some((talk, heard)) }, inlet)
    }

    fn call(&self, request: &str) -> Inlet {
        let (to, inlet) = exchange(ROOM);
        let caller = Caller::detached("user:ann");
        match &self.talk {
            Some((talk, _)) => talk.call(&caller, parse(request), to),
            None => self.server.call(caller, parse(request), to),
        }
        inlet
    }

    fn tell(&self, message: &str) {
        let (talk, _) = self.talk.as_ref().unwrap();
        talk.tell(&Caller::detached("user:ann"), parse(message));
    }
}

async fn all(mut inlet: Inlet) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some(message) = inlet.next().await {
        texts.push(String::from_utf8(message.bytes().to_vec()).unwrap());
        if message.kind() == Kind::Response {
            break;
        }
    }
    texts
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","clientInfo":{"name":"a"}}}"#;
const WELCOME: &str = r#"{"jsonrpc":"2.0","id":$ID,"result":{"protocolVersion":"2025-06-18","big":9007199254740993}}"#;

#[tokio::test]
async fn a_legacy_session_is_answered_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (recording, metrics) = recording(&folder).await;
    let progress =
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":$TOKEN,"progress":1}}"#;
    let ask = r#"{"jsonrpc":"2.0","id":"ask-1","method":"sampling/createMessage","params":{"x":1}}"#;
    let server = Server(Scripted::new(&[
        ("initialize", &[WELCOME]),
        ("tools/call", &[progress, ask, r#"{"jsonrpc":"2.0","id":$ID,"result":{"n":1}}"#]),
        (
            "tools/call",
            &[
                r#"!{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#,
                r#"{"jsonrpc":"2.0","id":$ID,"result":{"n":2}}"#,
            ],
        ),
        ("tools/call", &[r#"{"jsonrpc":"2.0","id":$ID,"error":{"code":-32602,"message":"no"}}"#]),
    ]));
    let server = Layered::new(Arc::new(server), vec![Recorder::new(recording.clone(), "files", Masks::default())]);
    let (client, initialized) = Client::legacy(Arc::new(server), INITIALIZE);
    let call = |id: &str, arguments: &str, meta: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"t","arguments":{arguments}{meta}}}}}"#
        )
    };
    assert_eq!(all(initialized).await, [WELCOME.replace("$ID", "0")]);
    client.tell(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    let recorded = client.call(&call("1", r#"{"a":1.0,"b":[true]}"#, r#","_meta":{"progressToken":7}"#));
    client.tell(r#"{"jsonrpc":"2.0","id":"ask-1","result":{}}"#);
    assert_eq!(all(recorded).await.len(), 3);
    assert_eq!(all(client.call(&call("2", r#"{"b":[true],"a":1}"#, ""))).await.len(), 1);
    assert_eq!(all(client.call(&call("3", r#"{"other":1}"#, ""))).await.len(), 1);
    recording.close().await;

    let replay = Replay::new(tape(&folder), ReplayOptions::default(), metrics.clone()).unwrap();
    assert_eq!(replay.server(), "files");
    let other_client = INITIALIZE.replace("\"a\"", "\"another\"").replace("\"id\":0", "\"id\":\"i\"");
    for _ in 0..2 {
        let (mut client, initialized) = Client::legacy(Arc::new(replay.clone()), &other_client);
        assert_eq!(all(initialized).await, [WELCOME.replace("$ID", "\"i\"")]);
        client.tell(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        // Members in another order, numbers in another form, another id and token; the server's question is asked again.
        let mut inlet = client.call(&call("\"x\"", r#"{"b":[true],"a":1e0}"#, r#","_meta":{"progressToken":"t"}"#));
        let text = |message: Option<Message>| String::from_utf8(message.unwrap().bytes().to_vec()).unwrap();
        assert_eq!(text(inlet.next().await), progress.replace("$TOKEN", "\"t\""));
        assert_eq!(text(inlet.next().await), ask.replace("\"ask-1\"", "1"));
        client.tell(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
        assert_eq!(all(inlet).await, [r#"{"jsonrpc":"2.0","id":"x","result":{"n":1}}"#]);
        // The second time the second answer, and from then on that one.
        for _ in 0..2 {
            assert_eq!(
                all(client.call(&call("9", r#"{"a":1,"b":[true]}"#, ""))).await,
                [r#"{"jsonrpc":"2.0","id":9,"result":{"n":2}}"#]
            );
        }
        let (_, news) = client.talk.as_mut().unwrap();
        assert_eq!(news.next().await.unwrap().method(), Some("notifications/tools/list_changed"));
        let failed = all(client.call(&call("4", r#"{"other":1}"#, ""))).await;
        assert_eq!(failed, [r#"{"jsonrpc":"2.0","id":4,"error":{"code":-32602,"message":"no"}}"#]);
        assert_eq!(
            all(client.call(r#"{"jsonrpc":"2.0","id":5,"method":"ping"}"#)).await,
            [r#"{"jsonrpc":"2.0","id":5,"result":{}}"#]
        );
        let unknown = all(client.call(&call("6", r#"{"other":2}"#, ""))).await.remove(0);
        assert!(
            unknown.contains("4040") && unknown.contains("\\\"other\\\":1e0") && unknown.contains("nearest"),
            "{unknown}"
        );
    }
    let modern =
        all(Client::new(Arc::new(replay)).call(r#"{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{}}"#))
            .await;
    assert!(modern[0].contains("-32601") && modern[0].contains("legacy"), "{modern:?}");
    assert_eq!(read(&metrics.tape().unmatched), 3);
}

#[tokio::test]
async fn modern_calls_are_answered_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let (recording, metrics) = recording(&folder).await;
    let note = r#"{"jsonrpc":"2.0","method":"notifications/x","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":$ID}}}"#;
    let server = Server(Scripted::new(&[
        ("subscriptions/listen", &[note, note]),
        ("tools/list", &[r#"{"jsonrpc":"2.0","id":$ID,"result":{"resultType":"complete"}}"#]),
        ("tools/list", &[]),
    ]));
    let server = Layered::new(Arc::new(server), vec![Recorder::new(recording.clone(), "m", Masks::default())]);
    let client = Client::new(Arc::new(server));
    let listen = |id: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"subscriptions/listen","params":{{"_meta":{{}}}}}}"#)
    };
    // Two clients with the same id at the same time.
    let (_a, _b) = (client.call(&listen("1")), client.call(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#));
    let _c = client.call(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"x"}}"#);
    recording.close().await;

    let replay = Replay::new(tape(&folder), ReplayOptions::default(), metrics).unwrap();
    let client = Client::new(Arc::new(replay));
    let mut notes = client.call(&listen("\"l\""));
    for _ in 0..2 {
        let message = notes.next().await.unwrap();
        assert_eq!(message.bytes(), note.replace("$ID", "\"l\"").as_bytes());
    }
    let quiet = tokio::time::timeout(Duration::from_millis(50), notes.next()).await;
    assert!(quiet.is_err(), "the stream stays open");
    let list = all(client.call(r#"{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{}}"#)).await;
    assert_eq!(list, [r#"{"jsonrpc":"2.0","id":2,"result":{"resultType":"complete"}}"#]);
    let dead = all(client.call(r#"{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{"cursor":"x"}}"#)).await;
    assert!(dead[0].contains("5020") && dead[0].contains("line 7"), "{dead:?}");
    let ((to, inlet), (news, _heard)) = (exchange(ROOM), exchange(ROOM));
    let _talk = client.server.open(&Caller::detached("a"), parse(INITIALIZE), to, news);
    assert!(all(inlet).await[0].contains("-32022"));
}

#[tokio::test(start_paused = true)]
async fn the_distances_in_time_can_be_kept() {
    let lines = [
        r#"{"at":1000,"tape":1,"server":"a"}"#,
        r#"{"at":1000,"server":"a","call":1,"direction":"in","message":{"jsonrpc":"2.0","id":1,"method":"m"}}"#,
        r#"{"at":1500.5,"server":"a","call":1,"direction":"out","message":{"jsonrpc":"2.0","method":"n"}}"#,
        r#"{"at":3000,"server":"a","call":1,"direction":"out","message":{"jsonrpc":"2.0","id":1,"result":{}}}"#,
    ];
    let tape = Tape::parse(lines.join("\n").into()).unwrap();
    let options = ReplayOptions { timing: true, ..ReplayOptions::default() };
    let client = Client::new(Arc::new(Replay::new(tape, options, Metrics::default()).unwrap()));
    let began = tokio::time::Instant::now();
    let mut inlet = client.call(r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#);
    inlet.next().await.unwrap();
    assert_eq!(began.elapsed().as_millis() / 2, 250);
    inlet.next().await.unwrap();
    assert_eq!(began.elapsed().as_millis() / 2, 1_000);
}

#[tokio::test]
async fn more_than_a_stream_holds_is_sent_as_it_is_taken() {
    let note = r#"{"at":2,"server":"a","call":1,"direction":"out","message":{"jsonrpc":"2.0","method":"n"}}"#;
    let mut lines =
        vec![r#"{"at":1,"server":"a","call":1,"direction":"in","message":{"jsonrpc":"2.0","id":1,"method":"m"}}"#];
    lines.extend([note; 1_000]);
    lines.push(r#"{"at":3,"server":"a","call":1,"direction":"out","message":{"jsonrpc":"2.0","id":1,"result":{}}}"#);
    let replay =
        Replay::new(Tape::parse(lines.join("\n").into()).unwrap(), ReplayOptions::default(), Metrics::default());
    let (to, inlet) = exchange(Room { messages: 200, bytes: 1 << 20 });
    ModernServer::call(&replay.unwrap(), Caller::detached("a"), parse(r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#), to);
    assert_eq!(all(inlet).await.len(), 1_001);
}

const SECRET: &str = "hunter2-hunter2";

/// Calls with secrets in every place there is.
async fn record_secrets(recording: &Arc<Recording>) {
    let reply = r#"{"jsonrpc":"2.0","id":$ID,"result":{"content":[{"type":"text","text":"{\"apiKey\":\"hunter2-hunter2\"}"}],"structuredContent":{"apiKey":"hunter2-hunter2"}}}"#;
    let server = Server(Scripted::new(&[("tools/call", &[reply]), ("big", &[reply])]));
    let config = MaskConfig { pointers: vec!["/params/arguments/card".into()], ..MaskConfig::default() };
    let masks = Masks::new(config).unwrap().with_texts(["environment-secret".to_owned()]);
    let server = Layered::new(Arc::new(server), vec![Recorder::new(recording.clone(), "files", masks)]);
    let mut caller = Caller::detached("user:ann");
    let mut headers = http::HeaderMap::new();
    for (name, value) in [
        ("authorization", "Bearer hunter2-hunter2"),
        ("x-api-key", SECRET),
        ("host", "h"),
        ("x-other", "Bearer abcdefghijkl.mnop"),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    caller.headers = Some(Arc::new(headers));
    let request = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"t","arguments":{{"password":"{SECRET}","card":"{SECRET}","say":"environment-secret"}}}}}}"#
    );
    let (to, mut inlet) = exchange(ROOM);
    server.call(caller.clone(), parse(&request), to);
    assert!(
        String::from_utf8_lossy(inlet.next().await.unwrap().bytes()).contains(SECRET),
        "the caller gets what the server said"
    );
    // A message larger than a record of a stream.
    let large = format!(
        r#"{{"jsonrpc":"2.0","id":2,"method":"big","params":{{"token":"{SECRET}","fill":"{}"}}}}"#,
        "x".repeat(3 << 20)
    );
    let (to, inlet) = exchange(ROOM);
    server.call(caller, parse(&large), to);
    drop(inlet);
}

/// What was recorded has no secret, and is a tape.
fn check_masked(bytes: Vec<u8>, metrics: &Metrics) {
    for secret in [SECRET, "environment-secret", "abcdefghijkl"] {
        assert!(memchr::memmem::find(&bytes, secret.as_bytes()).is_none(), "{secret} is on the tape");
    }
    let tape = Tape::parse(bytes.into()).unwrap();
    assert_eq!(tape.calls(), 2);
    assert!(tape.calls.iter().all(|call| call.reply().is_some()));
    let header = ("host".to_owned(), "h".to_owned());
    assert!(tape.calls[0].transport.headers.contains(&header));
    assert!(read(&metrics.tape().masked) >= 6);
    let mut har = Vec::new();
    write_har(&tape, &mut har).unwrap();
    assert!(memchr::memmem::find(&har, SECRET.as_bytes()).is_none());
    // A call with the same secret is the call that was recorded.
    let replay = Replay::new(tape, ReplayOptions::default(), metrics.clone()).unwrap();
    let request = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"t","arguments":{{"password":"{SECRET}","card":"x","say":"***"}}}}}}"#
    );
    let (to, mut inlet) = exchange(ROOM);
    ModernServer::call(&replay, Caller::detached("a"), parse(&request), to);
    assert!(!inlet.try_next().unwrap().is_error());
}

#[tokio::test]
async fn no_secret_is_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (recording, metrics) = recording(&folder).await;
    record_secrets(&recording).await;
    recording.close().await;
    let path = folder.path().join("tape.jsonl");
    #[cfg(unix)]
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o777, 0o600);
    check_masked(std::fs::read(path).unwrap(), &metrics);
    assert_eq!(read(&metrics.tape().recorded), 4);
    assert_eq!(read(&metrics.tape().lost), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_a_stream() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Engine::open(EngineConfig::new(folder.path()), Arc::new(|why: &str| panic!("{why}"))).unwrap();
    let streams = engine.streams().clone();
    let metrics = Metrics::default();
    let place = Place::parse("tree:agents").unwrap();
    let recording =
        Recording::open(place.clone(), Some(&streams), limits(Limits::default()), metrics.clone()).await.unwrap();
    record_secrets(&recording).await;
    recording.close().await;
    let bytes = stream_bytes(&streams, "agents");
    check_masked(bytes, &metrics);
    // Another recording goes on behind it.
    let again = Recording::open(place, Some(&streams), limits(Limits::default()), metrics).await.unwrap();
    again.close().await;
    engine.close();
}

fn stream_bytes(streams: &standpipe_engine::Streams, name: &str) -> Vec<u8> {
    use standpipe_engine::{From, StreamRead};
    let mut watch = streams.watch(&tape_path(name).unwrap(), From::Start).unwrap();
    let mut bytes = Vec::new();
    loop {
        let reads = match watch.read() {
            StreamRead::Behind => watch.catch_up(64 << 20).unwrap(),
            StreamRead::Chunk(chunk, range) => vec![StreamRead::Chunk(chunk, range)],
            _ => return bytes,
        };
        for read in reads {
            if let StreamRead::Chunk(chunk, range) = read {
                let records = chunk.records().skip(range.start).take(range.len());
                records.for_each(|record| bytes.extend_from_slice(record.bytes));
            }
        }
    }
}

/// A disk that takes nothing for a while: a pipe that nobody reads.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_there_is_no_room_for_leaves_a_gap_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tape");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let metrics = Metrics::default();
    let small = limits(Limits { mcp_tape_queue_bytes_max: 50_000, ..Limits::default() });
    let recording = Recording::open(Place::File(path.clone()), None, small, metrics.clone()).await.unwrap();
    let pipe = std::fs::File::open(path).unwrap();
    let recorder = Recorder::new(recording.clone(), "files", Masks::default());
    let note = parse(&format!(r#"{{"jsonrpc":"2.0","method":"n","params":{{"x":"{}"}}}}"#, "x".repeat(10_000)));
    let caller = Caller::detached("a");
    let mut told = 0;
    while read(&metrics.tape().lost) < 10 {
        assert!(crate::Hook::tell(&*recorder, &caller, 1, note.clone()).is_some());
        told += 1;
    }
    let reader = std::thread::spawn(move || std::io::read_to_string(pipe).unwrap());
    recording.close().await;
    let text = reader.join().unwrap();
    let told_of = |line: &str| line.split_once(r#""gap":{"messages":"#)?.1.trim_end_matches('}').parse::<u64>().ok();
    assert_eq!(text.lines().filter_map(told_of).sum::<u64>(), 10);
    assert_eq!(read(&metrics.tape().recorded) + 10, told);
    assert_eq!(text.lines().filter(|line| line.contains("\"direction\"")).count() as u64, told - 10);
    assert!(metrics.hits()["mcp_tape_queue_bytes_max"] >= 1);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_can_not_be_stored_leaves_a_gap_that_says_so() {
    let metrics = Metrics::default();
    let full = Place::File("/dev/full".into());
    let recording = Recording::open(full, None, limits(Limits::default()), metrics.clone()).await.unwrap();
    let recorder = Recorder::new(recording.clone(), "files", Masks::default());
    let note = parse(r#"{"jsonrpc":"2.0","method":"n"}"#);
    crate::Hook::tell(&*recorder, &Caller::detached("a"), 1, note);
    recording.close().await;
    assert_eq!(read(&metrics.tape().recorded), 0);
    assert!(read(&metrics.tape().lost) >= 1);
}

#[tokio::test]
async fn places_that_are_none_are_named() {
    let check = |text: &str, expected: &str| {
        let error = Place::parse(text).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    check("", "name of a file");
    check("tree:", "tree:agents");
    check("tree:a/b", "one key");
    check("tree:.a", "\".a\"");
    let open =
        async |place| Recording::open(place, None, limits(Limits::default()), Metrics::default()).await.unwrap_err();
    assert!(open(Place::Tree("a".into())).await.contains("standpipe serve"));
    assert!(open(Place::File("/nowhere/at/all".into())).await.contains("/nowhere/at/all"));
}

#[tokio::test]
async fn a_tape_goes_on_behind_half_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tape.jsonl");
    for _ in 0..2 {
        let (recording, _) = recording(&folder).await;
        record_secrets(&recording).await;
        recording.close().await;
        // Killed while it wrote.
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 20]).unwrap();
        let tape = Tape::open(&path).unwrap();
        assert!(tape.cut);
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(tape(&folder).calls(), 4);
}
