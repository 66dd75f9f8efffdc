//! The process ends at named points around a commit of streams; what is there afterwards is a prefix that holds all that
//! was flushed, without a repair. And what can't be stored waits, while reads go on.

use std::io::{BufRead as _, BufReader};
use std::path::Path as FsPath;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use standpipe_engine::{EngineConfig, ErrorKind, From, Outcome, verify_streams};
use tempfile::TempDir;

use crate::streams::{PATIENCE, append, now, open};
use crate::support::{config, engine, path, until};

const CHILD: &str = "STANDPIPE_TEST_STREAMS_FAULT_DIR";

/// Appends until the fault point ends the process. Not a test of its own: nothing happens without the variable.
#[tokio::test]
async fn child_that_dies() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let limits = EngineConfig { stream_age_max: Duration::MAX, ..EngineConfig::new(dir) };
    let engine = standpipe_engine::Engine::open(limits, Arc::new(|_| {})).unwrap();
    let streams = engine.streams();
    let appender = streams.reopen(&path("s")).await.unwrap();
    append(&appender, ["b", "c"]).await;
    let (ended, put) = tokio::join!(
        appender.end(Outcome::of("succeeded")),
        streams.put_records(vec![("run/s".into(), Some(b"new".to_vec()))]),
    );
    ended.unwrap();
    put.unwrap();
    panic!("the fault point {:?} did not end the process", std::env::var("STANDPIPE_FAULT"));
}

#[tokio::test]
async fn a_death_around_the_commit_leaves_a_prefix() {
    if !cfg!(feature = "fault") {
        return;
    }
    for point in ["streams_before_commit", "streams_after_commit"] {
        let dir = TempDir::new().unwrap();
        let engine = open(&dir);
        let appender = engine.streams().create(&path("s")).await.unwrap();
        append(&appender, ["a"]).await;
        appender.flush().await.unwrap();
        engine.close();
        drop((appender, engine));
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "streams_faults::child_that_dies", "--nocapture"])
            .env(CHILD, dir.path())
            .env("STANDPIPE_FAULT", point)
            .output()
            .unwrap();
        assert!(!child.status.success());
        verify_streams(dir.path()).unwrap().unwrap();
        let engine = open(&dir);
        let streams = engine.streams();
        let seen = now(streams, "s", From::Start);
        // The first commit of the child has its records, and may have the rest.
        let expected: &[&str] = if point == "streams_before_commit" { &["a"] } else { &["a", "b", "c"] };
        assert_eq!(seen.texts, expected, "{point}");
        if seen.ended.is_none() {
            let appender = streams.reopen(&path("s")).await.unwrap();
            append(&appender, ["d"]).await;
            appender.end(Outcome::of("interrupted")).await.unwrap();
            assert_eq!(now(streams, "s", From::End).ended.as_deref(), Some("interrupted"));
        }
    }
}

/// Appends for ever and says what is on disk. Not a test of its own.
#[tokio::test]
async fn child_that_appends() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let limits = EngineConfig { stream_age_max: Duration::MAX, ..EngineConfig::new(dir) };
    let engine = standpipe_engine::Engine::open(limits, Arc::new(|_| {})).unwrap();
    let appender = match engine.streams().reopen(&path("s")).await {
        Ok(appender) => appender,
        Err(_) => engine.streams().create(&path("s")).await.unwrap(),
    };
    let mut next = appender.next_seq();
    loop {
        let texts: Vec<String> = (next..next + next % 37 + 1).map(|n| n.to_string()).collect();
        next += texts.len() as u64;
        append(&appender, texts).await;
        if next % 3 == 0 {
            eprintln!("flushed {}", appender.flush().await.unwrap());
        }
    }
}

#[tokio::test]
async fn a_kill_at_any_moment_leaves_a_prefix_with_all_that_was_flushed() {
    let dir = TempDir::new().unwrap();
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "streams_faults::child_that_appends", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said: Vec<String> = lines.by_ref().take(5 + 40 * round).map(Result::unwrap).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        let said: Vec<String> = said.into_iter().chain(lines.map_while(Result::ok)).collect();
        let flushed: u64 = said.iter().filter_map(|line| line.strip_prefix("flushed ")?.parse().ok()).max().unwrap();
        verify_streams(dir.path()).unwrap().unwrap();
        let engine = open(&dir);
        let seen = now(engine.streams(), "s", From::Start);
        assert!(seen.texts.len() as u64 >= flushed, "{} of {flushed}", seen.texts.len());
        assert!(seen.ended.is_none() && seen.texts.iter().enumerate().all(|(n, text)| *text == n.to_string()));
        engine.close();
    }
}

#[tokio::test]
async fn output_waits_for_a_full_disk_and_goes_on_by_itself() {
    let mount = TempDir::new().unwrap();
    let tmpfs = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(mount.path()).output();
    if !tmpfs.is_ok_and(|output| output.status.success()) {
        eprintln!("left out: no tmpfs");
        return;
    }
    let _umount = Umount(mount.path());
    let dir = TempDir::new_in(mount.path()).unwrap();
    let filler = mount.path().join("filler");
    let engine = open(&dir);
    let streams = engine.streams().clone();
    let appender = streams.create(&path("s")).await.unwrap();
    append(&appender, ["first"]).await;
    appender.flush().await.unwrap();
    std::fs::write(&filler, vec![1; 5 << 20]).unwrap();
    let producer = tokio::spawn({
        let (appender, line) = (appender.clone(), "x".repeat(1_000));
        async move {
            for _ in 0..40 {
                append(&appender, vec![&line; 100]).await;
            }
            appender.end(Outcome::of("done")).await.unwrap();
        }
    });
    until("output waits", || streams.stats().held_up).await;
    let error = streams.create(&path("other")).await.unwrap_err();
    assert!(error.message().contains("disk is full"), "{error}");
    assert_eq!(now(&streams, "s", From::Start).texts[0], "first", "reads go on");
    std::fs::remove_file(&filler).unwrap();
    tokio::time::timeout(PATIENCE, producer).await.unwrap().unwrap();
    let seen = now(&streams, "s", From::Start);
    assert_eq!((seen.texts.len(), seen.ended.as_deref()), (4_001, Some("done")));
    engine.close();
    drop((appender, streams, engine));
    verify_streams(dir.path()).unwrap();
}

struct Umount<'a>(&'a FsPath);

impl Drop for Umount<'_> {
    fn drop(&mut self) {
        // Lazily: the folder on it is removed later.
        let _ = Command::new("umount").arg("-l").arg(self.0).output();
    }
}

#[tokio::test]
async fn output_waits_for_room_in_a_full_map_and_goes_on_by_itself() {
    let dir = TempDir::new().unwrap();
    let limits = EngineConfig {
        map_bytes_initial: 1 << 20,
        map_bytes_max: 4 << 20,
        streams_queue_bytes_max: 1 << 20,
        stream_bytes_max: 64 << 20,
        ..config(&dir)
    };
    let engine = engine(limits).unwrap();
    let streams = engine.streams().clone();
    let old = streams.create(&path("old")).await.unwrap();
    let line = "x".repeat(1_000);
    for _ in 0..26 {
        append(&old, vec![&line; 100]).await;
    }
    old.end(Outcome::of("done")).await.unwrap();
    let new = streams.create(&path("new")).await.unwrap();
    let producer = tokio::spawn({
        let (new, line) = (new.clone(), line.clone());
        async move {
            for _ in 0..26 {
                append(&new, vec![&line; 100]).await;
            }
            new.flush().await.unwrap()
        }
    });
    until("output waits", || streams.stats().held_up).await;
    assert!(streams.stats().queue_bytes <= 1 << 20);
    let error = streams.create(&path("other")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("map_bytes_max"), "{error}");
    assert_eq!(now(&streams, "old", From::Start).texts.len(), 2_600, "reads go on");
    streams.remove(vec![path("old")]).await.unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, producer).await.unwrap().unwrap(), 2_600);
    assert!(!streams.stats().held_up);
    assert_eq!(now(&streams, "new", From::Start).texts.len(), 2_600);
    engine.close();
    drop((old, new, streams, engine));
    verify_streams(dir.path()).unwrap();
}

#[tokio::test]
async fn a_folder_without_streams_gets_them() {
    let dir = TempDir::new().unwrap();
    assert_eq!(verify_streams(dir.path()).unwrap(), None);
    drop(open(&dir));
    assert_eq!(verify_streams(dir.path()).unwrap().unwrap().streams, 0);
}
