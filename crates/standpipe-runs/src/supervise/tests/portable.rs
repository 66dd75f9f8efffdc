//! The launcher of systems other than Linux, here: what it does is the same, what it can't do it refuses.

use super::super::portable::Portable;
use super::*;
use crate::command::{PtySize, ResourceLimits, Stdin};

fn bench() -> Bench {
    Bench::with(Limits { run_leak_ms_max: 100, run_grace_ms: 200, ..Limits::default() }, |_| Arc::new(Portable))
}

#[tokio::test]
async fn output_input_and_ends_are_the_same() {
    let bench = bench();
    let done = bench.run(shell("printf 'out\\nlast'; printf bad >&2; exit 7")).await;
    done.check(TaskState::Failed, Some(7));
    assert_eq!((done.out().as_str(), done.bytes(Channel::Err)), ("out\nlast", b"bad".to_vec()));
    let text = "line\n".repeat(100_000);
    let done = bench.run(Command { stdin: Stdin::Data(text.clone()), ..shell("cat") }).await;
    assert!(done.out() == text);
    let done = bench.run(command(&["/no/such"])).await;
    assert!(done.reason().starts_with("/no/such can't be started: No such file"), "{}", done.reason());
}

#[tokio::test]
async fn a_group_is_ended_as_one() {
    // Tests of real processes make theirs the reaper of orphans, and this launcher leaves that to init.
    if !alone() {
        return;
    }
    let bench = bench();
    let (running, own, heard) = bench.begin(shell("trap '' TERM; sleep 61 & echo here; sleep 62")).await;
    bench.wait_for(&own, "here").await;
    running.stop(stop(Duration::from_millis(50)));
    let done = bench.finish(running, &own, heard).await;
    assert_eq!((done.end.state, done.end.ended.signal), (TaskState::Cancelled, Some(9)));
    let done = bench.run(shell("sleep 61 & echo last")).await;
    done.check(TaskState::Succeeded, Some(0));
    assert!(done.end.leaked);
}

#[tokio::test]
async fn what_it_can_not_do_is_refused() {
    let bench = bench();
    let pty = Command { pty: Some(PtySize { rows: 1, cols: 1 }), ..shell("true") };
    let resources = ResourceLimits { cpu_s: Some(1), ..ResourceLimits::default() };
    for (command, what) in [(pty, "terminals"), (Command { resources, ..shell("true") }, "resource limits")] {
        let done = bench.run(command).await;
        assert_eq!(done.reason(), format!("{what} need Linux: leave them out here"));
    }
}
