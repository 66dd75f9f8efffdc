//! What many peers must not do to one (spec serving §4): idle ones, stalled ones, and those that come
//! and go.

use std::time::{Duration, Instant};

use super::server::{Stand, ask, rest};
use super::{until, within};
use crate::{CloseReason, Limits, Refusal};

/// How long `stream` takes for some jobs, one after another.
async fn jobs(stand: &Stand, stream: &mut tokio::net::UnixStream) -> Duration {
    let begun = Instant::now();
    for _ in 0..100 {
        stand.gate.release(1);
        assert_eq!(ask(stream, b'j').await, b'j');
    }
    begun.elapsed()
}

/// As long as `alone`, but for what else goes on on this machine.
fn as_if_alone(alone: Duration, beside: Duration) {
    assert!(beside < 10 * alone + Duration::from_millis(200), "{beside:?} beside the others, {alone:?} alone");
}

/// A socket pair for each connection is more than some systems allow at first.
fn raise_descriptor_limit() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    }
}

#[tokio::test]
async fn a_thousand_idle_connections_take_no_worker_and_no_time() {
    raise_descriptor_limit();
    let mut stand = Stand::new(Limits { workers_min: 1, workers_max: 4, ..Limits::default() });
    let mut active = stand.connect("10.0.0.2").await;
    let alone = jobs(&stand, &mut active).await;
    let mut idle = Vec::new();
    for _ in 0..1_000 {
        idle.push(stand.connect("10.0.0.1").await);
    }
    until("all are there", || stand.snapshot().open == 1_001).await;
    as_if_alone(alone, jobs(&stand, &mut active).await);
    assert_eq!(stand.server.sessions().len(), 1_001);
    drop((idle, active));
    stand.at_rest().await;
    let snapshot = stand.snapshot();
    assert!(snapshot.workers_created <= 4 && snapshot.finished == 200, "{snapshot:?}");
    assert!(within(stand.server.stop()).await.clean);
}

#[tokio::test]
async fn stalled_peers_delay_nobody_and_are_cut_in_their_time() {
    let limits = Limits { workers_min: 1, workers_max: 1, write_progress_ms_max: 500, ..Limits::default() };
    let mut stand = Stand::new(limits);
    let mut active = stand.connect("10.0.0.2").await;
    let alone = jobs(&stand, &mut active).await;
    let mut stalled = Vec::new();
    let begun = Instant::now();
    for _ in 0..50 {
        let mut peer = stand.connect("10.0.0.1").await;
        within(tokio::io::AsyncWriteExt::write_all(&mut peer, b"s")).await.unwrap();
        stalled.push(peer);
    }
    as_if_alone(alone, jobs(&stand, &mut active).await);
    let slowest = stand.server.status().slowest;
    assert!(slowest.len() == 10 || stand.snapshot().closed > 0, "{slowest:?}");
    until("all are cut", || stand.snapshot().closed_by_reason.get("write_timeout") == Some(&50)).await;
    assert!(begun.elapsed() >= Duration::from_millis(500), "too early");
    drop((active, stalled));
    stand.at_rest().await;
    assert!(within(stand.server.stop()).await.clean);
}

#[tokio::test]
async fn who_does_not_leave_when_told_is_dropped() {
    let mut stand = Stand::new(Limits { drain_ms: 50, ..Limits::default() });
    let mut deaf = stand.connect("10.0.0.1").await;
    within(tokio::io::AsyncWriteExt::write_all(&mut deaf, b"n")).await.unwrap();
    until("it is deaf", || stand.snapshot().requests == 1).await;
    let id = stand.server.sessions()[0].id;
    assert!(stand.server.kick(id) && !stand.server.kick(id + 1));
    assert_eq!(rest(&mut deaf).await, "");
    stand.at_rest().await;
    assert_eq!(stand.snapshot().closed_by_reason["kicked"], 1);
    assert!(stand.server.sessions().is_empty() && !stand.server.kick(id));
    assert!(within(stand.server.stop()).await.clean);
}

#[tokio::test]
async fn everything_is_back_at_the_base_line_while_the_server_runs() {
    let limits = Limits { workers_min: 1, workers_max: 4, worker_shrink_after_ms: 10, ..Limits::default() };
    let mut stand = Stand::new(limits);
    let base = stand.snapshot().tasks;
    for question in *b"jwjbe" {
        let mut streams = Vec::new();
        for _ in 0..100 {
            let mut stream = stand.connect("10.0.0.1").await;
            stand.gate.release(1);
            assert_eq!(ask(&mut stream, question).await, question);
            streams.push(stream);
        }
        drop(streams);
        stand.at_rest().await;
    }
    until("one worker is left", || stand.snapshot().workers == 1).await;
    let snapshot = stand.snapshot();
    assert_eq!((snapshot.tasks, snapshot.open, stand.server.sessions().len()), (base, 0, 0));
    let status = stand.server.status();
    assert_eq!(status.doors["bytes"].accepted, 500);
    assert_eq!(status.close_reasons[CloseReason::PeerClosed.as_str()], 500);
    assert_eq!(status.refusals.get(Refusal::Stopping.as_str()), None);
    assert!(within(stand.server.stop()).await.clean);
}
