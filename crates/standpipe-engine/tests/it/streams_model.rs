//! Random acts on streams beside a plain model of them: whatever was appended is read back by everybody, in order,
//! up to what was said to be gone; and the store verifies at the end.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};

use standpipe_engine::{Appender, Engine, EngineConfig, From, Outcome, StreamRead, StreamWatch, verify_streams};
use tempfile::TempDir;

use crate::streams::record;
use crate::support::{config, engine, path};

const PATHS: [&str; 4] = ["a", "a/b", "runs/x@1/out", "z"];

/// Splitmix64: what is needed here, and the same for a seed everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }
}

/// A stream as it should be.
#[derive(Default)]
struct Model {
    texts: Vec<String>,
    ended: bool,
    appender: Option<Appender>,
    /// A watcher, and what it has to read next.
    watches: Vec<(StreamWatch, usize)>,
}

impl Model {
    /// Reads all that a watcher can; it must be what was appended, from where it is, but for gaps it is told of.
    fn read(watch: &mut StreamWatch, next: &mut usize, texts: &[String], ended: bool) {
        loop {
            let reads = match watch.read() {
                StreamRead::Nothing => {
                    assert!(!ended || *next < texts.len());
                    return;
                }
                StreamRead::Behind => watch.catch_up(30_000).unwrap(),
                read => vec![read],
            };
            assert!(!reads.is_empty(), "reading back gets somewhere");
            for read in reads {
                match read {
                    StreamRead::Chunk(chunk, range) => {
                        for record in chunk.records().take(range.end).skip(range.start) {
                            assert_eq!((record.seq, record.bytes), (*next as u64, texts[*next].as_bytes()));
                            *next += 1;
                        }
                    }
                    StreamRead::Gap { first_left } => {
                        assert!(first_left as usize > *next);
                        *next = first_left as usize;
                    }
                    StreamRead::Ended(_) => {
                        assert!(ended && *next == texts.len());
                        return;
                    }
                    StreamRead::Nothing | StreamRead::Behind => unreachable!(),
                }
            }
        }
    }
}

fn open(dir: &TempDir) -> Engine {
    let limits = EngineConfig {
        stream_bytes_max: 300_000,
        stream_ring_bytes_max: 20_000,
        streams_queue_bytes_max: 200_000,
        map_bytes_initial: 1 << 20,
        ..config(dir)
    };
    engine(limits).unwrap()
}

async fn act(engine: &Engine, models: &mut BTreeMap<&'static str, Model>, random: &mut Random) {
    let streams = engine.streams();
    let at = PATHS[random.below(PATHS.len())];
    let Some(model) = models.get_mut(at) else {
        let appender = streams.create(&path(at)).await.unwrap();
        models.insert(at, Model { appender: Some(appender), ..Model::default() });
        return;
    };
    match random.below(100) {
        0..55 => {
            let (count, size) = (1 + random.below(19), [10, 300, 9_000][random.below(3)]);
            let texts: Vec<String> = (0..count)
                .map(|n| format!("{at} {} {n} {}", model.texts.len(), "x".repeat(random.below(size))))
                .collect();
            let records = texts.iter().map(|text| record(text)).collect();
            match &model.appender {
                Some(appender) if !model.ended => {
                    appender.append(records).await.unwrap();
                    model.texts.extend(texts);
                }
                Some(appender) => assert!(appender.append(records).await.is_err()),
                None => model.appender = streams.reopen(&path(at)).await.ok(),
            }
        }
        55..65 => {
            if let Some(appender) = &model.appender {
                assert_eq!(appender.flush().await.unwrap(), model.texts.len() as u64);
            }
        }
        65..80 => {
            let begin = random.below(model.texts.len() + 1);
            let from = [From::Start, From::End, From::Seq(begin as u64), From::Tail(begin as u64)];
            let watch = streams.watch(&path(at), from[random.below(4)]).unwrap();
            let next = watch.position() as usize;
            model.watches.push((watch, next));
        }
        80..90 => {
            for (watch, next) in &mut model.watches {
                Model::read(watch, next, &model.texts, model.ended);
            }
            model.watches.truncate(random.below(4));
        }
        90..94 => model.appender = None,
        94..97 => {
            if let Some(appender) = &model.appender
                && !model.ended
            {
                appender.end(Outcome::of("done")).await.unwrap();
                model.ended = true;
                for (watch, next) in &mut model.watches {
                    Model::read(watch, next, &model.texts, true);
                }
            }
        }
        _ => {
            streams.remove(vec![path(at)]).await.unwrap();
            models.remove(at);
        }
    }
}

async fn run(seed: u64) {
    eprintln!("seed {seed}");
    let mut random = Random(seed);
    let dir = TempDir::new().unwrap();
    let mut engine = open(&dir);
    let mut models = BTreeMap::new();
    for turn in 0..600 {
        act(&engine, &mut models, &mut random).await;
        if turn % 150 == 149 {
            // All of it is there after a restart, and nothing else.
            engine.close();
            models.values_mut().for_each(|model| (model.appender, model.watches) = (None, Vec::new()));
            drop(engine);
            verify_streams(dir.path()).unwrap().unwrap();
            engine = open(&dir);
            for at in PATHS {
                let head = engine.streams().head(&path(at)).unwrap();
                assert_eq!(head.is_some(), models.contains_key(at));
                let Some(model) = models.get_mut(at) else { continue };
                let head = head.unwrap();
                assert_eq!((head.next_seq, head.ended.is_some()), (model.texts.len() as u64, model.ended));
                let kept = &model.texts[head.first_seq as usize..];
                assert_eq!(head.bytes, kept.iter().map(|text| text.len() as u64).sum::<u64>());
                let mut watch = engine.streams().watch(&path(at), From::Start).unwrap();
                Model::read(&mut watch, &mut 0, &model.texts, model.ended);
            }
        }
    }
}

#[tokio::test]
async fn streams_are_what_was_appended_whatever_happens() {
    for _ in 0..4 {
        run(RandomState::new().hash_one(0)).await;
    }
}
