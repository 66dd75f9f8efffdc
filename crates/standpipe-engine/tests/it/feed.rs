//! Feeds: every event once, in the order of revisions across all slots, whatever comes between.

use std::collections::BTreeMap;
use std::sync::Arc;

use standpipe_engine::{Database, Delivery, EngineConfig, Feed, LocalLog, Slot};
use tempfile::TempDir;

use crate::support::{config, open, open_with, path, set};

const PATHS: [&str; 7] = ["/", "/a", "/a/b", "/a/b/c", "/a/d", "/e", "/e/f"];

fn watch(feed: &mut Feed, database: &Database, at: &str) -> (Slot, u64) {
    let slot = feed.watch(&path(at));
    let rev = database.try_snapshot().unwrap().rev();
    feed.start_after(slot, rev);
    (slot, rev)
}

fn revs(feed: &mut Feed, database: &Database) -> Vec<(usize, u64)> {
    let taken = feed.take(database.rev());
    let rev = |delivery| match delivery {
        Delivery::Event(event) => event.rev,
        Delivery::Lagged => 0,
    };
    taken.into_iter().map(|(slot, delivery)| (slot.index(), rev(delivery))).collect()
}

#[test]
fn a_feed_gives_what_touches_its_paths_up_to_a_revision() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    let mut feed = Feed::new(&database);
    let (root, _) = watch(&mut feed, &database, "/");
    let (b, _) = watch(&mut feed, &database, "/a/b");
    let (again, _) = watch(&mut feed, &database, "/a/b");
    assert_eq!(set(&database, "/a/b", "1"), 1);
    assert_eq!(set(&database, "/x", "2"), 2);
    assert_eq!(set(&database, "/a", r#"{"b":3}"#), 3);
    assert_eq!(feed.take(1).len(), 3);
    assert_eq!(revs(&mut feed, &database), [(0, 2), (0, 3), (1, 3), (2, 3)]);
    assert!(revs(&mut feed, &database).is_empty());
    feed.unwatch(b);
    feed.unwatch(b);
    assert_eq!(feed.path(again), Some(&path("/a/b")));
    set(&database, "/a/b", "4");
    // The slot is used again, and what the one before was marked for is not its news.
    assert_eq!(watch(&mut feed, &database, "/q").0, b);
    assert_eq!(revs(&mut feed, &database), [(root.index(), 4), (again.index(), 4)]);
    drop(feed);
    assert_eq!(database.stats().topics, 0);
}

#[test]
fn a_slot_that_lags_is_told_so_before_all_else() {
    let dir = TempDir::new().unwrap();
    let database = open_with(&EngineConfig { ring_events_max: 4, ..config(&dir) }, Box::new(LocalLog));
    let mut feed = Feed::new(&database);
    watch(&mut feed, &database, "/quiet");
    let (busy, _) = watch(&mut feed, &database, "/busy");
    set(&database, "/quiet", "0");
    for n in 0..9 {
        set(&database, "/busy", &n.to_string());
    }
    let rev = database.rev();
    assert_eq!(revs(&mut feed, &database), [(1, 0), (0, 1)]);
    feed.start_after(busy, rev);
    set(&database, "/busy", "10");
    assert_eq!(revs(&mut feed, &database), [(1, rev + 1)]);
}

#[tokio::test]
async fn a_feed_wakes_for_each_write_it_is_to_see() {
    let dir = TempDir::new().unwrap();
    let database = open(&dir);
    let mut feed = Feed::new(&database);
    watch(&mut feed, &database, "/a");
    for n in 0..200 {
        let writer = database.clone();
        let written = std::thread::spawn(move || set(&writer, "/a", &n.to_string()));
        let mut seen = Vec::new();
        while seen.is_empty() {
            feed.changed().await;
            seen = revs(&mut feed, &database);
        }
        assert_eq!(seen, [(0, written.join().unwrap())]);
    }
}

/// Writers, a reader that comes and goes, and slots that are opened and closed meanwhile.
#[test]
fn every_event_comes_once_and_in_order() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5eed_f00d);
    println!("SEED={seed}");
    let dir = TempDir::new().unwrap();
    // The ring holds all there is: lags have a test of their own.
    let database = open_with(&EngineConfig { ring_events_max: 10_000, ..config(&dir) }, Box::new(LocalLog));
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let database = database.clone();
            std::thread::spawn(move || {
                let mut random = Random(seed ^ ((writer + 1) * 7919));
                let write = |n| {
                    let at = PATHS[random.below(PATHS.len() - 1) + 1];
                    (set(&database, at, &format!("{}", writer * 1_000_000 + n)), at)
                };
                (0..400).map(write).collect::<BTreeMap<u64, &str>>()
            })
        })
        .collect();
    let mut random = Random(seed);
    let mut reader = Reader { feed: Feed::new(&database), open: BTreeMap::new(), seen: Vec::new(), last: 0 };
    while writers.iter().any(|writer| !writer.is_finished()) {
        reader.step(&mut random, &database);
    }
    let mut written = BTreeMap::new();
    for writer in writers {
        written.extend(writer.join().unwrap());
    }
    reader.take(&database);
    let open = std::mem::take(&mut reader.open);
    reader.seen.extend(open.into_iter().map(|(_, (at, since, revs))| (at, since, database.rev(), revs)));
    for (at, since, until, revs) in reader.seen {
        let touches = |written: &str| path(at).contains(&path(written)) || path(written).contains(&path(at));
        let expected: Vec<u64> = written
            .range(since + 1..)
            .filter(|(rev, written)| **rev <= until && touches(written))
            .map(|(rev, _)| *rev)
            .collect();
        assert_eq!(revs, expected, "{at} from {since} to {until}");
    }
}

/// Where a slot watches, from which revision on, and what it was given.
type Watched = (&'static str, u64, Vec<u64>);

struct Reader {
    feed: Feed,
    open: BTreeMap<usize, Watched>,
    /// The slots that were closed, and the revision up to which each had been read.
    seen: Vec<(&'static str, u64, u64, Vec<u64>)>,
    last: u64,
}

impl Reader {
    fn step(&mut self, random: &mut Random, database: &Arc<Database>) {
        match random.below(6) {
            0 if self.open.len() < 40 => {
                let at = PATHS[random.below(PATHS.len())];
                let (slot, rev) = watch(&mut self.feed, database, at);
                self.open.insert(slot.index(), (at, rev, Vec::new()));
            }
            1 if !self.open.is_empty() => {
                let index = *self.open.keys().nth(random.below(self.open.len())).unwrap();
                let (at, since, revs) = self.open.remove(&index).unwrap();
                self.feed.unwatch(slot(&self.feed, index));
                self.seen.push((at, since, self.last, revs));
            }
            _ => self.take(database),
        }
    }

    fn take(&mut self, database: &Database) {
        let up_to = database.rev();
        let mut before = (0, 0);
        for (index, rev) in self.feed.take(up_to).into_iter().map(|(slot, delivery)| match delivery {
            Delivery::Event(event) => (slot.index(), event.rev),
            Delivery::Lagged => panic!("the ring holds everything"),
        }) {
            assert!(rev > self.last && rev <= up_to && (rev, index) > before, "{rev} of {index} after {before:?}");
            before = (rev, index);
            self.open.get_mut(&index).unwrap().2.push(rev);
        }
        self.last = up_to;
    }
}

/// The slot with that number.
fn slot(feed: &Feed, index: usize) -> Slot {
    feed.slots().find(|slot| slot.index() == index).unwrap()
}

struct Random(u64);

impl Random {
    fn below(&mut self, count: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % count as u64) as usize
    }
}
