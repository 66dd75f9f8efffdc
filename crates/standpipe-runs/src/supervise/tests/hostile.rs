//! Real processes that do not behave: they do not end, leave others behind, use too much. Whatever they do, in the
//! end nothing of them is left.

use super::real::{Real, limited, real, ungrouped};
use super::*;
use crate::command::ResourceLimits;

fn leaky() -> Limits {
    Limits { run_leak_ms_max: 100, run_grace_ms: 200, ..Limits::default() }
}

#[tokio::test]
async fn one_that_ignores_sigterm_is_killed_after_its_grace() {
    let real = real().await;
    let (running, own, heard) = real.begin(shell("trap '' TERM; echo here; while :; do sleep 60; done")).await;
    real.wait_for(&own, "here").await;
    running.stop(stop(Duration::from_millis(100)));
    let done = real.finish(running, &own, heard).await;
    assert_eq!((done.end.state, done.end.ended.signal), (TaskState::Cancelled, Some(9)));
    real.gone().await;
}

#[tokio::test]
async fn one_that_heeds_sigterm_may_clean_up() {
    let real = real().await;
    let (running, own, heard) = real.begin(shell("trap 'echo cleaned; exit 5' TERM; echo here; sleep 60 & wait")).await;
    real.wait_for(&own, "here").await;
    running.stop(stop(LONG));
    let done = real.finish(running, &own, heard).await;
    done.check(TaskState::Cancelled, Some(5));
    assert_eq!(done.out(), "here\ncleaned\n");
    real.gone().await;
}

#[tokio::test]
async fn one_that_is_held_is_ended_too() {
    let real = real().await;
    let (running, own, heard) = real.begin(shell("echo here; kill -STOP $$; echo on; sleep 60")).await;
    real.wait_for(&own, "here").await;
    running.stop(stop(LONG));
    let done = real.finish(running, &own, heard).await;
    assert_eq!((done.end.state, done.end.ended.signal), (TaskState::Cancelled, Some(15)));
    real.gone().await;
}

async fn stop_all_of(real: &Real, escapes: &[&str]) {
    for escape in escapes {
        let line = format!("{escape} echo here; sleep 63; :");
        let (running, own, heard) = real.begin(shell(&line)).await;
        real.wait_for(&own, "here").await;
        running.stop(stop(Duration::from_secs(5)));
        let done = real.finish(running, &own, heard).await;
        assert_eq!(done.end.state, TaskState::Cancelled, "{escape}");
        assert!(!done.end.leaked, "{escape}");
    }
}

const ESCAPES: [&str; 3] = ["sleep 61 &", "setsid sleep 61 &", "(setsid sh -c 'sleep 61 & sleep 62' &) &"];

#[tokio::test]
async fn a_grandchild_behind_a_shell_an_escapee_and_a_daemon_end_with_it() {
    let real = limited(leaky()).await;
    stop_all_of(&real, &ESCAPES).await;
    // In a cgroup there is no way out at all.
    stop_all_of(&real, &["env -i setsid sleep 61 &"]).await;
    real.gone().await;
}

#[tokio::test]
async fn they_end_with_it_where_there_are_no_cgroups_too() {
    let real = ungrouped(leaky()).await;
    stop_all_of(&real, &ESCAPES).await;
    leave(&real).await;
    let (running, own, heard) =
        real.begin(shell("trap '' TERM; setsid sh -c 'while :; do sleep 0.01 & done' & echo here; wait")).await;
    real.wait_for(&own, "here").await;
    running.stop(stop(Duration::from_millis(100)));
    let done = real.finish(running, &own, heard).await;
    assert_eq!(done.end.state, TaskState::Cancelled);
    real.gone().await;
}

/// Processes that end and leave something behind.
async fn leave(real: &Real) {
    for left in ["sleep 61 &", "setsid sleep 61 &", "trap '' TERM; sleep 61 &"] {
        let done = real.run(shell(&format!("{left} echo last; exit 0"))).await;
        done.check(TaskState::Succeeded, Some(0));
        assert!(done.end.leaked, "{left}");
        assert_eq!(done.out(), "last\n");
    }
    // Without the pipe it is ended as well, and nobody has to wait for it.
    let done = real.run(shell("setsid sleep 61 >/dev/null 2>&1 & echo last")).await;
    done.check(TaskState::Succeeded, Some(0));
    assert!(!done.end.leaked);
}

#[tokio::test]
async fn what_holds_the_pipe_after_the_end_is_told_and_ended() {
    let real = limited(leaky()).await;
    leave(&real).await;
    real.gone().await;
}

#[tokio::test]
async fn one_that_writes_on_after_the_end_is_cut_off() {
    let real = limited(leaky()).await;
    let done = real.run(shell("yes $(printf %9999d 1) & echo last; exit 0")).await;
    done.check(TaskState::Succeeded, Some(0));
    assert!(done.end.leaked && done.out().contains("last\n"));
    real.gone().await;
}

#[tokio::test]
async fn one_that_closes_its_output_lives_on() {
    let real = real().await;
    let line = "echo out; exec >&- 2>&-; sleep 0.3; exit 3";
    let done = real.run(shell(line)).await;
    done.check(TaskState::Failed, Some(3));
    assert_eq!(done.out(), "out\n");
    real.gone().await;
}

#[tokio::test]
async fn time_is_up_for_all_that_came_of_it() {
    let real = limited(leaky()).await;
    let done = real.run(Command { timeout_ms: Some(200), ..shell("setsid sleep 61 & sleep 62") }).await;
    assert_eq!(done.end.state, TaskState::TimedOut);
    real.gone().await;
}

#[tokio::test]
async fn a_process_beyond_a_limit_is_ended_and_told_which() {
    let real = limited(leaky()).await;
    let with = |resources, line: &str| Command { resources, ..shell(line) };
    let cpu = ResourceLimits { cpu_s: Some(1), ..ResourceLimits::default() };
    let done = real.run(with(cpu, "while :; do :; done")).await;
    assert_eq!((done.end.state, done.end.ended.signal), (TaskState::Failed, Some(24)));
    assert!(done.reason().contains("its 1 s of processor time"), "{}", done.reason());
    let files = ResourceLimits { files: Some(20), ..ResourceLimits::default() };
    assert_eq!(real.run(with(files, "ulimit -n; ulimit -Hn")).await.out(), "20\n20\n");
    let memory = ResourceLimits { memory_bytes: Some(64 << 20), ..ResourceLimits::default() };
    let done = real.run(with(memory, "head -c 500000000 /dev/zero | tail -c 400000000 >/dev/null")).await;
    assert_eq!(done.end.state, TaskState::Failed);
    if std::path::Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists() {
        assert!(done.reason().contains("its memory limit of 67108864 bytes"), "{:?}", done.end);
    }
    let single = ungrouped(leaky()).await;
    let done = single.run(with(memory, "head -c 500000000 /dev/zero | tail -c 400000000 >/dev/null")).await;
    assert_eq!(done.end.state, TaskState::Failed);
    single.gone().await;
    real.gone().await;
}

#[tokio::test]
async fn a_fork_bomb_ends_at_its_limit_and_leaves_nothing() {
    let real = limited(leaky()).await;
    let resources = ResourceLimits { processes: Some(40), ..ResourceLimits::default() };
    let bomb =
        Command { resources, timeout_ms: Some(500), ..shell("b() { b | b & }; echo here; b 2>/dev/null; sleep 60") };
    let done = real.run(bomb).await;
    assert!(matches!(done.end.state, TaskState::TimedOut | TaskState::Failed | TaskState::Succeeded), "{:?}", done.end);
    assert!(done.out().starts_with("here\n"));
    real.gone().await;
}

#[tokio::test]
async fn what_earlier_boots_left_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let earlier = super::super::process::Processes::new(dir.path(), None);
    let spec = super::super::Spec {
        argv: ["sh", "-c", "setsid sleep 61 & sleep 62"].map(str::to_owned).into(),
        ..super::super::Spec::default()
    };
    let mut left = earlier.launch(spec).await.unwrap();
    let later = super::super::process::Processes::new(dir.path(), None);
    // Not those of this boot itself.
    assert_eq!(earlier.sweep().await, 0);
    let swept = later.sweep().await;
    assert!(swept >= 1, "{swept}");
    assert_eq!(left.child.exited().await.signal, Some(9));
    assert_eq!((left.child.left(), later.sweep().await), (0, 0));
}

/// A stand-in for the guard: it lives as long as its input is open.
fn stand_in(line: &str) -> crate::guard::GuardProgram {
    crate::guard::GuardProgram { program: "/bin/sh".into(), arguments: vec!["-c".to_owned(), line.to_owned()] }
}

#[tokio::test]
async fn a_guard_that_dies_is_replaced_and_let_go_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let guards = dir.path().join("guards");
    let started =
        || std::fs::read_to_string(&guards).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    let line = format!("echo $$ $1 $2 >> {}; read end; :", guards.display());
    let processes = super::super::process::Processes::new(dir.path(), Some(stand_in(&line)));
    let spec = super::super::Spec { argv: vec!["/bin/true".to_owned()], ..super::super::Spec::default() };
    for _ in 0..2 {
        processes.launch(spec.clone()).await.unwrap().child.exited().await;
    }
    let until = |count: usize| async move {
        let guards = async {
            while started().len() < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            started()
        };
        tokio::time::timeout(LONG, guards).await.expect("a guard starts")
    };
    let first = until(1).await;
    let pid = |line: &str| rustix::process::Pid::from_raw(line.split(' ').next().unwrap().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid(&first[0]), rustix::process::Signal::KILL).unwrap();
    let both = until(2).await;
    assert_eq!(both.len(), 2);
    tokio::time::timeout(LONG, processes.close()).await.unwrap();
    assert!(both.iter().all(|line| rustix::process::test_kill_process(pid(line)).is_err()));
}

#[tokio::test]
async fn a_stream_that_can_store_nothing_blocks_the_process_and_no_stop() {
    let full = |config: &mut standpipe_engine::EngineConfig| {
        (config.map_bytes_initial, config.map_bytes_max) = (1 << 20, 2 << 20);
        config.streams_queue_bytes_max = 1 << 20;
    };
    let bench = Bench::on(full, leaky(), |dir| Arc::new(super::super::process::Processes::new(dir, None)));
    let marker = bench.dir.path().join("done");
    let line = format!("head -c 30000000 /dev/urandom; touch {}", marker.display());
    let (running, own, heard) = bench.begin(shell(&line)).await;
    // It gets as far as the queue and its pipe have room.
    let settled = async {
        let mut before = 0;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = own.next_seq();
            if now == before && now > 0 {
                break;
            }
            before = now;
        }
    };
    tokio::time::timeout(LONG, settled).await.expect("nothing more is taken");
    assert!(!marker.exists());
    running.stop(stop(Duration::from_millis(100)));
    let done = bench.finish(running, &own, heard).await;
    assert_eq!(done.end.state, TaskState::Cancelled);
    assert!(done.reason().contains("is the disk full?"), "{:?}", done.end);
}
