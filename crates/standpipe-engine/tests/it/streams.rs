//! Streams through their public face: whoever appends, reads, watches, removes and starts again sees one sequence.

use std::time::Duration;

use standpipe_engine::{
    Appender, Channel, Engine, ErrorKind, From, NewRecord, Outcome, StreamRead, StreamWatch, Streams, verify_streams,
};
use tempfile::TempDir;

use crate::support::{NOW_MS, config, engine, path};

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
