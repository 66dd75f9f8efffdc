//! Streams through their public face: whoever appends, reads, watches, removes and starts again sees one sequence.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use standpipe_engine::{
    Appender, Channel, Clock, Engine, EngineConfig, ErrorKind, From, NewRecord, Outcome, StreamRead, StreamWatch,
    Streams, verify_streams,
};
use tempfile::TempDir;

use crate::support::{NOW_MS, config, engine, path, until};

/// Any wait that takes longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn record(text: &str) -> NewRecord {
    NewRecord { channel: Channel::Out, at_ms: NOW_MS, bytes: text.to_owned().into() }
}

pub(crate) async fn append(appender: &Appender, texts: impl IntoIterator<Item = impl AsRef<str>>) {
    appender.append(texts.into_iter().map(|text| record(text.as_ref())).collect()).await.unwrap();
}

pub(crate) fn open(dir: &TempDir) -> Engine {
    engine(config(dir)).unwrap()
}

/// What a watcher has read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) texts: Vec<String>,
    pub(crate) gaps: Vec<u64>,
    pub(crate) ended: Option<String>,
    /// Reads that went to the store.
    pub(crate) behind: usize,
}

/// Reads until there is nothing more, and whether that is the end. Checks that numbers have no holes but gaps.
pub(crate) fn drain(watch: &mut StreamWatch, seen: &mut Seen, next: &mut u64) -> bool {
    loop {
        let reads = match watch.read() {
            StreamRead::Nothing => return false,
            StreamRead::Behind => {
                seen.behind += 1;
                watch.catch_up(100_000).unwrap()
            }
            read => vec![read],
        };
        for read in reads {
            match read {
                StreamRead::Chunk(chunk, range) => {
                    for record in chunk.records().take(range.end).skip(range.start) {
                        assert_eq!(record.seq, *next);
                        *next += 1;
                        seen.texts.push(String::from_utf8_lossy(record.bytes).into_owned());
                    }
                }
                StreamRead::Gap { first_left } => {
                    assert!(first_left > *next);
                    *next = first_left;
                    seen.gaps.push(first_left);
                }
                StreamRead::Ended(outcome) => {
                    seen.ended = Some(outcome.state);
                    return true;
                }
                StreamRead::Nothing | StreamRead::Behind => unreachable!("catch_up reads"),
            }
        }
        assert_eq!(watch.position(), *next);
    }
}

/// Reads a stream to its end.
pub(crate) async fn follow(mut watch: StreamWatch) -> Seen {
    let (mut seen, mut next) = (Seen::default(), watch.position());
    while !drain(&mut watch, &mut seen, &mut next) {
        tokio::time::timeout(PATIENCE, watch.changed()).await.unwrap();
    }
    seen
}

/// Reads what there is now.
pub(crate) fn now(streams: &Streams, at: &str, from: From) -> Seen {
    let mut watch = streams.watch(&path(at), from).unwrap();
    let (mut seen, mut next) = (Seen::default(), watch.position());
    drain(&mut watch, &mut seen, &mut next);
    seen
}

fn kind<T>(result: Result<T, standpipe_engine::Error>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[tokio::test]
async fn a_stream_is_created_appended_to_read_ended_and_removed() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    let streams = engine.streams();
    let at = path("runs/one/out");
    assert_eq!(streams.head(&at).unwrap(), None);
    assert_eq!(kind(streams.watch(&at, From::Start)), Some(ErrorKind::NotFound));
    let appender = streams.create(&at).await.unwrap();
    assert_eq!(kind(streams.create(&at).await), Some(ErrorKind::Conflict));
    assert_eq!(kind(streams.reopen(&at).await), Some(ErrorKind::Conflict));
    append(&appender, ["a\n", "b\n", ""]).await;
    assert_eq!(appender.flush().await.unwrap(), 3);
    let head = streams.head(&at).unwrap().unwrap();
    assert_eq!((head.created_at, head.first_seq, head.next_seq, head.bytes), (NOW_MS, 0, 3, 4));
    assert_eq!(now(streams, "runs/one/out", From::Start).texts, ["a\n", "b\n", ""]);
    assert_eq!(now(streams, "runs/one/out", From::Tail(2)).texts, ["b\n", ""]);
    assert_eq!(now(streams, "runs/one/out", From::Seq(1)).texts, ["b\n", ""]);
    assert!(now(streams, "runs/one/out", From::End).texts.is_empty());
    let other = streams.join(&at).unwrap();
    let outcome = Outcome { exit_code: Some(0), ..Outcome::of("succeeded") };
    other.end(outcome.clone()).await.unwrap();
    assert_eq!(kind(appender.append(vec![record("late")]).await), Some(ErrorKind::Conflict));
    assert_eq!(kind(appender.end(outcome.clone()).await), Some(ErrorKind::Conflict));
    assert_eq!(appender.flush().await.unwrap(), 3);
    assert_eq!(kind(streams.reopen(&at).await), Some(ErrorKind::Conflict));
    let head = streams.head(&at).unwrap().unwrap();
    assert_eq!((head.ended, head.ended_at), (Some(outcome), Some(NOW_MS)));
    assert_eq!(now(streams, "runs/one/out", From::End).ended.as_deref(), Some("succeeded"));
    streams.remove(vec![at.clone(), path("none")]).await.unwrap();
    assert_eq!(streams.head(&at).unwrap(), None);
    drop(appender);
    let again = streams.create(&at).await.unwrap();
    append(&again, ["new"]).await;
    again.flush().await.unwrap();
    assert_eq!(now(streams, "runs/one/out", From::Start).texts, ["new"]);
    engine.close();
    drop(engine);
    assert_eq!(verify_streams(dir.path()).unwrap().unwrap().records, 1);
}

#[tokio::test]
async fn watchers_that_come_early_late_and_after_the_end_see_the_same_and_then_the_end() {
    let dir = TempDir::new().unwrap();
    // A ring of almost nothing, so that some fall off it.
    let engine = engine(EngineConfig { stream_ring_bytes_max: 3_000, ..config(&dir) }).unwrap();
    let streams = engine.streams();
    let at = path("s");
    let appender = streams.create(&at).await.unwrap();
    let texts: Vec<String> = (0..3_000).map(|n| format!("line {n}\n")).collect();
    let mut slow = streams.watch(&at, From::Start).unwrap();
    let (mut seen, mut next) = (Seen::default(), 0);
    assert!(!drain(&mut slow, &mut seen, &mut next));
    let mut following = vec![tokio::spawn(follow(streams.watch(&at, From::Start).unwrap()))];
    for (index, group) in texts.chunks(100).enumerate() {
        append(&appender, group).await;
        if index % 5 == 0 {
            appender.flush().await.unwrap();
        }
        if index == 15 {
            following.push(tokio::spawn(follow(streams.watch(&at, From::Start).unwrap())));
        }
    }
    appender.end(Outcome::of("succeeded")).await.unwrap();
    drop(appender);
    following.push(tokio::spawn(follow(streams.watch(&at, From::Start).unwrap())));
    for follower in following {
        let seen = follower.await.unwrap();
        assert!(seen.texts == texts && seen.gaps.is_empty());
        assert_eq!(seen.ended.as_deref(), Some("succeeded"));
    }
    assert!(drain(&mut slow, &mut seen, &mut next));
    assert!(seen.texts == texts && seen.behind > 0, "who falls off the ring reads from the store");
    drop(slow);
    // The writer may hold the stream a moment longer than its end is waited for.
    until("the stream is out of use", || streams.stats().live == 0).await;
    let stats = streams.stats();
    assert_eq!((stats.live, stats.watchers, stats.ring_bytes, stats.queue_bytes), (0, 0, 0, 0));
    assert_eq!(stats.records, 3_000);
}

#[tokio::test]
async fn two_thousand_watchers_share_one_ring() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    let streams = engine.streams();
    let at = path("s");
    let appender = streams.create(&at).await.unwrap();
    let followers: Vec<_> =
        (0..2_000).map(|_| tokio::spawn(follow(streams.watch(&at, From::Start).unwrap()))).collect();
    assert!(size_of::<StreamWatch>() <= 64);
    for n in 0..50 {
        append(&appender, [format!("{n}")]).await;
        appender.flush().await.unwrap();
    }
    let stats = streams.stats();
    assert_eq!((stats.live, stats.watchers), (1, 2_000));
    assert!(stats.ring_bytes < 50_000, "{} bytes", stats.ring_bytes);
    appender.end(Outcome::of("done")).await.unwrap();
    let expected: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    for follower in followers {
        let seen = follower.await.unwrap();
        assert_eq!((seen.texts, seen.ended.as_deref()), (expected.clone(), Some("done")));
    }
    assert_eq!(streams.stats().watchers, 0);
}

#[tokio::test]
async fn the_oldest_go_and_who_asks_for_them_is_told_what_is_left() {
    let dir = TempDir::new().unwrap();
    let clock = Arc::new(AtomicU64::new(NOW_MS));
    let limits = EngineConfig {
        stream_bytes_max: 200_000,
        stream_age_max: Duration::from_secs(60),
        clock: Clock::Manual(clock.clone()),
        ..config(&dir)
    };
    let engine = engine(limits).unwrap();
    let streams = engine.streams();
    let at = path("s");
    let appender = streams.create(&at).await.unwrap();
    let mut early = streams.watch(&at, From::Start).unwrap();
    for n in 0..600 {
        append(&appender, [format!("{n:>1000}")]).await;
        if n % 7 == 0 {
            appender.flush().await.unwrap();
        }
    }
    assert_eq!(appender.flush().await.unwrap(), 600);
    let head = streams.head(&at).unwrap().unwrap();
    assert!(head.first_seq > 390 && head.first_seq < 450, "{head:?}");
    assert_eq!((head.bytes, head.out_bytes), ((600 - head.first_seq) * 1_000, 600_000));
    assert_eq!(head.first_offset, head.first_seq * 1_000);
    // The ring still has what the store dropped: who follows from the start and keeps up misses nothing.
    let (mut seen, mut next) = (Seen::default(), 0);
    assert!(!drain(&mut early, &mut seen, &mut next));
    assert_eq!((seen.texts.len(), seen.gaps.len()), (600, 0));
    drop(early);
    for from in [From::Start, From::Seq(3), From::Offset(5_000)] {
        let seen = now(streams, "s", from);
        assert_eq!((seen.gaps, seen.texts.len() as u64), (vec![head.first_seq], 600 - head.first_seq));
    }
    for (offset, first) in [(head.first_offset, head.first_seq), (500_999, 500), (501_000, 501), (599_999, 599)] {
        let seen = now(streams, "s", From::Offset(offset));
        assert_eq!((seen.gaps.len(), seen.texts[0].trim()), (0, first.to_string().as_str()));
    }
    assert!(now(streams, "s", From::Offset(600_000)).texts.is_empty());
    assert_eq!(now(streams, "s", From::Tail(1_000)).texts.len() as u64, 600 - head.first_seq);
    // A minute later all of it is too old but what comes then.
    clock.fetch_add(61_000, Ordering::Relaxed);
    // By the server's time, whatever a record says.
    append(&appender, ["late"]).await;
    appender.flush().await.unwrap();
    let seen = now(streams, "s", From::Start);
    assert_eq!((seen.gaps, seen.texts), (vec![600], vec!["late".into()]));
    clock.fetch_add(61_000, Ordering::Relaxed);
    appender.end(Outcome::of("done")).await.unwrap();
    let head = streams.head(&at).unwrap().unwrap();
    assert_eq!((head.first_seq, head.next_seq, head.bytes), (601, 601, 0));
    let seen = now(streams, "s", From::Start);
    assert_eq!((seen.gaps, seen.texts.len(), seen.ended.as_deref()), (vec![601], 0, Some("done")));
    engine.close();
    drop((appender, engine));
    verify_streams(dir.path()).unwrap();
}

#[tokio::test]
async fn a_stream_that_is_removed_comes_to_an_end_for_all_who_use_it() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    let streams = engine.streams();
    let at = path("s");
    let appender = streams.create(&at).await.unwrap();
    append(&appender, ["old"]).await;
    appender.flush().await.unwrap();
    let behind = streams.watch(&at, From::Start).unwrap();
    let within = tokio::spawn(follow(streams.watch(&at, From::End).unwrap()));
    append(&appender, ["new"]).await;
    appender.flush().await.unwrap();
    streams.remove(vec![at.clone()]).await.unwrap();
    assert_eq!(kind(appender.append(vec![record("late")]).await), Some(ErrorKind::Conflict));
    let seen = within.await.unwrap();
    assert_eq!((seen.texts, seen.ended.as_deref()), (vec!["new".to_owned()], Some("removed")));
    let seen = follow(behind).await;
    assert_eq!((seen.gaps, seen.ended.as_deref()), (vec![2], Some("removed")));
    // Another one at the path is another stream, whoever still holds the old one.
    let again = streams.create(&at).await.unwrap();
    append(&again, ["other"]).await;
    again.flush().await.unwrap();
    drop(appender);
    append(&again, ["more"]).await;
    again.flush().await.unwrap();
    assert_eq!(now(streams, "s", From::Start).texts, ["other", "more"]);
}

#[tokio::test]
async fn streams_are_listed_in_the_order_of_paths() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    let streams = engine.streams();
    for at in ["runs/b@10/out", "runs/b@9/out", "runs/a/tasks/x/out", "runs/a/out", "other", "runs2/out"] {
        streams.create(&path(at)).await.unwrap();
    }
    let list = |below: &str, after: Option<&str>, max: usize| {
        let heads = streams.heads(&path(below), after.map(path).as_ref(), max).unwrap();
        heads.into_iter().map(|(path, _)| path.as_str().to_owned()).collect::<Vec<_>>()
    };
    let runs = ["runs/a/out", "runs/a/tasks/x/out", "runs/b@10/out", "runs/b@9/out"];
    assert_eq!(list("runs", None, 9), runs);
    assert_eq!(list("runs", Some("runs/a/out"), 2), runs[1..3]);
    assert_eq!(list("runs", Some("runs/b@9/out"), 9), [""; 0]);
    assert_eq!(list("runs", Some("runs2/out"), 9), [""; 0]);
    assert_eq!(list("runs/a/out", None, 9), ["runs/a/out"]);
    assert_eq!(list("", None, 99).len(), 6);
    assert_eq!(list("", Some("a"), 1), ["other"]);
}

#[tokio::test]
async fn records_of_producers_are_put_together_or_not_at_all() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    let streams = engine.streams();
    let put = |key: &str, value: &str| (key.to_owned(), Some(value.as_bytes().to_vec()));
    streams.put_records(vec![put("run/a@1", "1"), put("run/a@2", "2"), put("run/b@1", "3")]).await.unwrap();
    streams.put_records(vec![put("run/a@1", "9"), ("run/b@1".into(), None), ("none".into(), None)]).await.unwrap();
    assert_eq!(streams.record("run/a@1").unwrap().unwrap(), b"9");
    assert_eq!(streams.record("run/b@1").unwrap(), None);
    let keys = |prefix: &str, after: Option<&str>, max| {
        streams.records(prefix, after, max).unwrap().into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    assert_eq!(keys("run/", None, 9), ["run/a@1", "run/a@2"]);
    assert_eq!(keys("run/", Some("run/a@1"), 9), ["run/a@2"]);
    assert_eq!(keys("", None, 1), ["run/a@1"]);
    let long = "k".repeat(1_025);
    assert_eq!(kind(streams.put_records(vec![put(&long, ""), put("x", "1")]).await), Some(ErrorKind::BadRequest));
    assert_eq!(kind(streams.put_records(vec![put("", "1")]).await), Some(ErrorKind::BadRequest));
    let large = ("x".to_owned(), Some(vec![0; (16 << 20) + 1]));
    assert_eq!(kind(streams.put_records(vec![large]).await), Some(ErrorKind::TooLarge));
    assert_eq!(streams.stats().queue_bytes, 0);
    engine.close();
    assert_eq!(kind(streams.put_records(vec![put("late", "1")]).await), Some(ErrorKind::Unavailable));
}

#[tokio::test]
async fn a_stream_that_was_left_open_is_open_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    let appender = engine.streams().create(&path("s")).await.unwrap();
    append(&appender, ["a", "b"]).await;
    engine.close();
    assert_eq!(kind(appender.append(vec![record("late")]).await), Some(ErrorKind::Unavailable));
    assert_eq!(kind(appender.flush().await), None, "closing commits what waits");
    drop((appender, engine));
    let engine = open(&dir);
    let streams = engine.streams();
    let appender = streams.reopen(&path("s")).await.unwrap();
    assert_eq!(kind(streams.reopen(&path("s")).await), Some(ErrorKind::Conflict));
    append(&appender, ["c"]).await;
    drop(appender);
    let appender = streams.reopen(&path("s")).await.unwrap();
    appender.end(Outcome::of("interrupted")).await.unwrap();
    let seen = now(streams, "s", From::Start);
    assert_eq!((seen.texts, seen.ended.as_deref()), (vec!["a".into(), "b".into(), "c".into()], Some("interrupted")));
    assert_eq!(kind(streams.reopen(&path("none")).await), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn records_of_any_size_come_back_whole_and_too_large_ones_are_refused() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    let streams = engine.streams();
    let appender = streams.create(&path("s")).await.unwrap();
    let sizes = [0, 1, 4_000, 4_080, 65_000, 65_440, 65_460, 65_461, 65_500, 65_520, 65_536, 70_000, 1 << 20, 3];
    let texts: Vec<String> = sizes.iter().map(|size| "x".repeat(*size)).collect();
    append(&appender, &texts).await;
    for text in &texts {
        append(&appender, [text]).await;
        appender.flush().await.unwrap();
    }
    let large = appender.append(vec![record(&"x".repeat((1 << 20) + 1))]).await;
    assert_eq!(kind(large), Some(ErrorKind::TooLarge));
    let expected: Vec<String> = texts.iter().chain(&texts).cloned().collect();
    assert!(now(streams, "s", From::Start).texts == expected);
    engine.close();
    drop((appender, engine));
    assert_eq!(verify_streams(dir.path()).unwrap().unwrap().records, 2 * sizes.len() as u64);
}

#[tokio::test]
async fn a_producer_is_held_to_the_speed_of_the_disk_and_no_stream_takes_all_the_room() {
    let dir = TempDir::new().unwrap();
    let engine = engine(EngineConfig { streams_queue_bytes_max: 100_000, ..config(&dir) }).unwrap();
    let streams = engine.streams().clone();
    let line = "x".repeat(500);
    let mut producers = Vec::new();
    for producer in 0..8 {
        let appender = streams.create(&path(&format!("s{producer}"))).await.unwrap();
        let (line, streams) = (line.clone(), streams.clone());
        producers.push(tokio::spawn(async move {
            for _ in 0..200 {
                append(&appender, [&line; 10]).await;
                assert!(streams.stats().queue_bytes <= 100_000);
            }
            appender.end(Outcome::of("done")).await.unwrap();
        }));
    }
    // More at once than there is room for is taken when nothing else waits.
    let appender = streams.create(&path("large")).await.unwrap();
    append(&appender, vec![line.clone(); 1_000]).await;
    assert_eq!(appender.flush().await.unwrap(), 1_000);
    for producer in producers {
        tokio::time::timeout(PATIENCE, producer).await.unwrap().unwrap();
    }
    for producer in 0..8 {
        assert_eq!(streams.head(&path(&format!("s{producer}"))).unwrap().unwrap().next_seq, 2_000);
    }
    assert_eq!(streams.stats().queue_bytes, 0);
}

#[tokio::test]
async fn many_short_streams_share_commits() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    let streams = engine.streams().clone();
    let short = |n: usize| {
        let streams = streams.clone();
        async move {
            let appender = streams.create(&path(&format!("runs/r@{n}/out"))).await.unwrap();
            append(&appender, ["line\n"]).await;
            appender.end(Outcome::of("succeeded")).await.unwrap();
        }
    };
    let tasks: Vec<_> = (0..500).map(|n| tokio::spawn(short(n))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    until("the streams are out of use", || streams.stats().live == 0).await;
    let stats = streams.stats();
    assert!(stats.commits < 100, "{stats:?}");
    assert_eq!((stats.live, stats.records), (0, 500));
    let paths = streams.heads(&path("runs"), None, 1_000).unwrap().into_iter().map(|(path, _)| path).collect();
    streams.remove(paths).await.unwrap();
    assert!(streams.heads(&path(""), None, 10).unwrap().is_empty());
    engine.close();
    drop((streams, engine));
    assert_eq!(verify_streams(dir.path()).unwrap().unwrap().streams, 0);
}
