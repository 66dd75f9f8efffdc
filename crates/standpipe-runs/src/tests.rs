//! The service as a whole: an engine in a folder, scripted processes, restarts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use serde_json::{Value, json};
use standpipe_engine::{ErrorKind, Outcome};
use standpipe_serve::Limits;
use tempfile::TempDir;

use crate::bench::{Boot, NOW_MS, job, killed, runtime, single, start, task, until, within};
use crate::jobs::JobSpec;
use crate::name::RunId;
use crate::plan::Plan;
use crate::record::{Ended, RunState, TaskState};
use crate::schedule::{Missed, Schedule};
use crate::settings::{Filter, Group, Policy, Prune, Start};

fn id(text: &str) -> RunId {
    text.parse().unwrap()
}

fn in_group(name: &str, acts: &[&str], policy: Policy) -> Start {
    Start { group: Some(Group { name: "g".into(), policy }), ..start(name, acts) }
}

fn by(by: &str, name: &str, acts: &[&str]) -> Start {
    Start { by: by.to_owned(), ..start(name, acts) }
}

#[tokio::test]
async fn a_run_is_a_record_a_stream_and_a_value() {
    let dir = TempDir::new().unwrap();
    let boot = Boot::new(dir.path()).await;
    let first = boot.start("hello", &["out:hi\n", "gate:end", "exit:3"]).await;
    assert_eq!(first, id("hello@1"));
    boot.until(&first, RunState::Running).await;
    boot.told().await;
    let value = boot.value("/runs/hello@1");
    assert_eq!((&value["state"], &value["by"], &value["single"]), (&json!("running"), &json!("local"), &json!(true)));
    assert_eq!(value["command"]["argv"], json!(["out:hi\n", "gate:end", "exit:3"]));
    assert_eq!(value["tasks"]["main"]["state"], json!("running"));
    assert_eq!(boot.runs.find("hello").unwrap(), first);
    boot.fake.open("end");
    assert_eq!(boot.ended(&first).await, RunState::Failed);
    let record = boot.runs.record(&first).unwrap();
    assert_eq!((record.ended.exit_code, record.ended_at), (Some(3), Some(NOW_MS)));
    assert_eq!(record.plan, single(&["out:hi\n", "gate:end", "exit:3"]), "the plan is in the book too");
    let outcome = boot.outcome(&first).unwrap();
    assert_eq!((outcome.state.as_str(), outcome.exit_code), ("failed", Some(3)));
    boot.told().await;
    assert_eq!(boot.value("/runs/hello@1/state"), json!("failed"));
    let second = boot.start("hello", &["exit:0"]).await;
    assert_eq!((second.number, boot.ended(&second).await), (2, RunState::Succeeded));
    assert_eq!(boot.runs.find("hello").unwrap(), second);
    assert_eq!(boot.runs.find("hello@1").unwrap(), first);
    for missing in ["hello@3", "nobody"] {
        assert_eq!(boot.runs.find(missing).unwrap_err().kind(), ErrorKind::NotFound, "{missing}");
    }
    assert_eq!(boot.runs.find("../x").unwrap_err().kind(), ErrorKind::BadRequest);
    let none = boot.start("none", &["refuse:no such program"]).await;
    assert_eq!(boot.ended(&none).await, RunState::Failed);
    let stats = boot.runs.stats();
    assert_eq!((stats.started, stats.kept, stats.ended["failed"], stats.ended["succeeded"]), (3, 3, 2, 1));
    assert_eq!(stats.spawn_failures, 1);
    assert!(stats.now.is_empty() && stats.queue_wait.count >= 2, "{stats:?}");
    boot.close().await;
}

#[tokio::test]
async fn a_run_without_a_name_has_its_programs() {
    let dir = TempDir::new().unwrap();
    let boot = Boot::new(dir.path()).await;
    for (program, name) in
        [("/usr/bin/make", "make@1"), ("./my script.sh", "my-script-sh@1"), ("--", "run@1"), ("é", "run@2")]
    {
        let start = Start { name: None, ..start("x", &[program]) };
        assert_eq!(boot.runs.start(start).await.unwrap(), id(name), "{program}");
    }
    let empty = Start { plan: Arc::new(Plan::default()), ..start("x", &[]) };
    assert_eq!(boot.runs.start(empty).await.unwrap_err().kind(), ErrorKind::BadRequest);
    assert_eq!(boot.runs.start(start("x", &[])).await.unwrap_err().kind(), ErrorKind::BadRequest);
    boot.close().await;
}

#[tokio::test]
async fn the_queue_is_fair_bounded_and_seen() {
    let dir = TempDir::new().unwrap();
    let limits = Limits { runs_running_max: 1, runs_queued_max: 3, ..Limits::default() };
    let boot = Boot::with(dir.path(), limits, Vec::new(), NOW_MS).await;
    let first = boot.runs.start(by("ann", "a", &["gate:1"])).await.unwrap();
    boot.until(&first, RunState::Running).await;
    let second = boot.runs.start(by("ann", "a", &["gate:2"])).await.unwrap();
    let third = boot.runs.start(by("ann", "a", &["gate:3"])).await.unwrap();
    let other = boot.runs.start(by("bob", "b", &["gate:4"])).await.unwrap();
    let refused = boot.runs.start(by("eve", "e", &["exit:0"])).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Overloaded);
    assert!(refused.message().contains("runs_queued_max") && refused.retry_after().is_some(), "{refused}");
    boot.runs.tell_positions();
    boot.told().await;
    let position = |id: &RunId| boot.value(&format!("/runs/{id}/queue/position"));
    assert_eq!([&other, &second, &third].map(position), [json!(1), json!(2), json!(3)]);
    assert_eq!(boot.runs.position(&third), Some(3));
    // What is stopped in the queue is cancelled at once, and never starts.
    assert_eq!(boot.runs.stop(&second, None).await.unwrap(), RunState::Cancelled);
    assert_eq!(boot.ended(&second).await, RunState::Cancelled);
    assert_eq!(boot.outcome(&second).unwrap().state, "cancelled");
    assert_eq!(boot.runs.record(&second).unwrap().tasks.values().next().unwrap().state, TaskState::Cancelled);
    boot.fake.open("1");
    boot.until(&other, RunState::Running).await;
    assert_eq!(boot.runs.record(&third).unwrap().state, RunState::Queued, "it is bob's turn");
    boot.fake.open("4");
    boot.fake.open("3");
    assert_eq!(boot.ended(&third).await, RunState::Succeeded);
    assert_eq!(boot.fake.launched().len(), 3);
    boot.told().await;
    assert_eq!(boot.value(&format!("/runs/{third}/queue")), Value::Null);
    boot.close().await;
}

#[tokio::test]
async fn a_run_at_work_is_stopped_and_says_so() {
    let dir = TempDir::new().unwrap();
    let boot = Boot::new(dir.path()).await;
    let run = boot.start("a", &["hang"]).await;
    boot.until(&run, RunState::Running).await;
    assert_eq!(boot.runs.stop(&run, Some(Duration::from_secs(1))).await.unwrap(), RunState::Stopping);
    assert_eq!(boot.ended(&run).await, RunState::Cancelled);
    assert_eq!(boot.runs.stop(&run, None).await.unwrap(), RunState::Cancelled, "a second time it is told how it ended");
    assert_eq!(boot.runs.stop(&id("a@9"), None).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(boot.runs.record(&run).unwrap().state, RunState::Cancelled);
    assert_eq!(boot.fake.alive(), 0);
    boot.close().await;
}

#[tokio::test]
async fn of_a_group_one_runs_the_next_waits_replaces_or_is_refused() {
    let dir = TempDir::new().unwrap();
    let boot = Boot::new(dir.path()).await;
    let first = boot.runs.start(in_group("a", &["hang"], Policy::Queue)).await.unwrap();
    boot.until(&first, RunState::Running).await;
    let second = boot.runs.start(in_group("b", &["hang"], Policy::Queue)).await.unwrap();
    let refused = boot.runs.start(in_group("c", &["exit:0"], Policy::Refuse)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert!(refused.message().contains("a@1"), "{refused}");
    let third = boot.runs.start(in_group("d", &["gate:end"], Policy::CancelPrevious)).await.unwrap();
    assert_eq!((boot.ended(&first).await, boot.ended(&second).await), (RunState::Cancelled, RunState::Cancelled));
    let reason = boot.runs.record(&second).unwrap().ended.reason.unwrap();
    assert_eq!(reason, "d@1 of the same group replaced it");
    boot.until(&third, RunState::Running).await;
    assert_eq!(boot.fake.launched().len(), 2, "the one that waited never started");
    boot.fake.open("end");
    assert_eq!(boot.ended(&third).await, RunState::Succeeded);
    let alone = boot.runs.start(in_group("c", &["exit:0"], Policy::Refuse)).await.unwrap();
    assert_eq!(boot.ended(&alone).await, RunState::Succeeded);
    // Many at once, each replacing those before it: one is left, and nobody is forgotten.
    let many = (0..40).map(|_| boot.runs.start(in_group("e", &["hang"], Policy::CancelPrevious)));
    let many: Vec<_> = within(join_all(many)).await.into_iter().map(Result::unwrap).collect();
    let (last, others) = many.split_last().unwrap();
    for other in others {
        assert_eq!(boot.ended(other).await, RunState::Cancelled, "{other}");
    }
    boot.until(last, RunState::Running).await;
    boot.close().await;
}

#[test]
fn a_killed_server_leaves_interrupted_runs_and_keeps_the_queue() {
    let dir = TempDir::new().unwrap();
    let (running, done) = killed(Boot::new(dir.path()), async |boot| {
        let mut limits = Limits::clone(&boot.limits.load());
        limits.runs_running_max = 2;
        boot.limits.store(Arc::new(limits));
        let done = boot.start("done", &["exit:0"]).await;
        boot.ended(&done).await;
        let running = boot.start("a", &["out:x\n", "hang"]).await;
        let stopping = boot.start("b", &["ignore-term", "hang"]).await;
        boot.until(&running, RunState::Running).await;
        boot.until(&stopping, RunState::Running).await;
        boot.start("q", &["exit:0"]).await;
        boot.start("q", &["exit:4"]).await;
        boot.runs.stop(&stopping, None).await.unwrap();
        boot.told().await;
        assert_eq!(boot.value("/runs/b@1/state"), json!("stopping"));
        (running, done)
    });
    runtime().block_on(async {
        let boot = Boot::new(dir.path()).await;
        for run in [&running, &id("b@1")] {
            let record = boot.runs.record(run).unwrap();
            assert_eq!((record.state, record.ended_at), (RunState::Interrupted, Some(NOW_MS)), "{run}");
            assert_eq!(record.tasks.values().next().unwrap().state, TaskState::Interrupted);
            assert_eq!(boot.outcome(run).unwrap().state, "interrupted");
        }
        assert_eq!(boot.ended(&id("q@1")).await, RunState::Succeeded);
        assert_eq!(boot.ended(&id("q@2")).await, RunState::Failed);
        assert_eq!(boot.runs.record(&done).unwrap().state, RunState::Succeeded);
        boot.told().await;
        let states = boot.value("/runs");
        let state = |run: &str| states[run]["state"].as_str().unwrap().to_owned();
        let all = ["a@1", "b@1", "q@1", "q@2", "done@1"].map(state);
        assert_eq!(all, ["interrupted", "interrupted", "succeeded", "failed", "succeeded"]);
        assert_eq!(boot.start("a", &["exit:0"]).await, id("a@2"), "no number is given twice");
        assert_eq!(boot.runs.stats().kept, 5);
        boot.close().await;
    });
}

#[test]
fn a_stream_that_ended_before_the_crash_says_how() {
    let dir = TempDir::new().unwrap();
    killed(Boot::new(dir.path()), async |boot| {
        let run = boot.start("a", &["hang"]).await;
        boot.until(&run, RunState::Running).await;
        // As if the server had been killed between the end of the stream and that of the record.
        let outcome = Outcome { exit_code: Some(0), ..Outcome::of("succeeded") };
        boot.runs.board(&run).unwrap().output().end(outcome).await.unwrap();
    });
    runtime().block_on(async {
        let boot = Boot::new(dir.path()).await;
        let record = boot.runs.record(&id("a@1")).unwrap();
        assert_eq!((record.state, record.ended.exit_code), (RunState::Succeeded, Some(0)));
        boot.close().await;
    });
}

#[test]
fn a_stop_of_the_server_interrupts_and_what_waits_runs_after_the_next_start() {
    let dir = TempDir::new().unwrap();
    runtime().block_on(async {
        let limits = Limits { runs_running_max: 1, ..Limits::default() };
        let boot = Boot::with(dir.path(), limits, Vec::new(), NOW_MS).await;
        let run = boot.start("a", &["hang"]).await;
        boot.until(&run, RunState::Running).await;
        boot.start("b", &["exit:0"]).await;
        let runs = boot.runs.clone();
        let (engine, fake) = (boot.engine.clone(), boot.fake.clone());
        within(runs.close()).await;
        assert_eq!(runs.record(&run).unwrap().state, RunState::Interrupted);
        assert_eq!(boot.outcome(&run).unwrap().state, "interrupted");
        assert_eq!(boot.value("/runs/a@1/state"), json!("interrupted"));
        assert_eq!(boot.value("/runs/b@1/state"), json!("queued"));
        assert_eq!(runs.start(start("c", &["exit:0"])).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!((fake.alive(), runs.tasks.len()), (0, 0));
        engine.close();
    });
    runtime().block_on(async {
        let boot = Boot::new(dir.path()).await;
        assert_eq!(boot.ended(&id("b@1")).await, RunState::Succeeded);
        boot.close().await;
    });
}

#[tokio::test]
async fn a_process_that_will_not_end_does_not_keep_the_server() {
    let dir = TempDir::new().unwrap();
    let limits = Limits { drain_ms: 2_000, run_grace_ms: 600_000, ..Limits::default() };
    let boot = Boot::with(dir.path(), limits, Vec::new(), NOW_MS).await;
    let run = boot.start("a", &["ignore-term", "hang"]).await;
    boot.until(&run, RunState::Running).await;
    let runs = boot.runs.clone();
    boot.close().await;
    assert_eq!(runs.record(&run).unwrap().state, RunState::Interrupted);
}

#[tokio::test]
async fn two_resume_at_once_and_one_wins() {
    let dir = TempDir::new().unwrap();
    let boot = Boot::new(dir.path()).await;
    let run = boot.start("a", &["exit:1"]).await;
    boot.ended(&run).await;
    let both = within(join_all((0..8).map(|_| boot.runs.resume(&run, "ann")))).await;
    let (won, lost): (Vec<_>, Vec<_>) = both.into_iter().partition(Result::is_ok);
    let won: Vec<_> = won.into_iter().map(Result::unwrap).collect();
    assert_eq!(won, [id("a@2")]);
    for lost in lost {
        let lost = lost.unwrap_err();
        assert!(lost.kind() == ErrorKind::Conflict && lost.message().contains("a@2 goes on with it"), "{lost}");
    }
    let told = boot.runs.resume(&run, "ann").await.unwrap_err();
    assert!(told.message().contains("a@2 goes on with it"), "{told}");
    boot.ended(&won[0]).await;
    let (old, new) = (boot.runs.record(&run).unwrap(), boot.runs.record(&won[0]).unwrap());
    assert_eq!((old.resumed_by, new.of, new.by.as_str()), (Some(won[0].clone()), Some(run.clone()), "ann"));
    boot.told().await;
    assert_eq!(boot.value("/runs/a@1/resumed_by"), json!("a@2"));
    let good = boot.start("b", &["exit:0"]).await;
    let early = boot.start("c", &["hang"]).await;
    boot.ended(&good).await;
    for refused in [&good, &early] {
        assert_eq!(boot.runs.resume(refused, "ann").await.unwrap_err().kind(), ErrorKind::Conflict);
    }
    assert_eq!(boot.runs.retry(&early, None, "ann").await.unwrap_err().kind(), ErrorKind::Conflict);
    let again = boot.runs.retry(&good, None, "ann").await.unwrap();
    assert_eq!((boot.ended(&again).await, again), (RunState::Succeeded, id("b@2")));
    boot.close().await;
}

#[tokio::test]
async fn a_retry_of_a_task_redoes_it_and_what_needs_it() {
    let dir = TempDir::new().unwrap();
    let boot = Boot::new(dir.path()).await;
    let tasks = vec![
        task("main", &[], &["exit:0"]),
        task("left", &["main"], &["exit:0"]),
        task("right", &["main"], &["exit:0"]),
        task("end", &["left", "right"], &["exit:0"]),
    ];
    let plan = Plan { tasks, ..Plan::default() };
    let run = boot.runs.start(Start { plan: plan.into(), single: false, ..start("p", &["x"]) }).await.unwrap();
    boot.ended(&run).await;
    let mut record = boot.runs.record(&run).unwrap();
    for task in record.tasks.values_mut() {
        (task.state, task.attempts) = (TaskState::Succeeded, 7);
    }
    crate::book::durable(boot.runs.book.put(crate::book::finished(&record))).await.unwrap();
    // They stay in the queue. New records have no attempts; those taken over have theirs.
    boot.limits.store(Arc::new(Limits { runs_running_max: 0, ..Limits::default() }));
    let kept = async |task: Option<&str>| {
        let task = task.map(|task| task.parse().unwrap());
        let next = boot.runs.retry(&run, task.as_ref(), "ann").await.unwrap();
        let tasks = boot.runs.record(&next).unwrap().tasks;
        let kept = tasks.iter().filter(|(_, task)| task.attempts == 7).map(|(name, _)| name.to_string());
        kept.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(kept(None).await, "");
    assert_eq!(kept(Some("left")).await, "main right");
    assert_eq!(kept(Some("end")).await, "left main right");
    assert_eq!(
        boot.runs.retry(&run, Some(&"no".parse().unwrap()), "ann").await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    boot.close().await;
}

#[tokio::test]
async fn a_hundred_runs_by_ten_clients_leave_nothing() {
    let dir = TempDir::new().unwrap();
    let boot = Boot::new(dir.path()).await;
    let client = async |number: usize| {
        for turn in 0..10 {
            let text = format!("out:{number}-{turn}\n");
            let run = boot.runs.start(by(&format!("c{number}"), "shared", &[&text, "exit:0"])).await.unwrap();
            assert_eq!(boot.ended(&run).await, RunState::Succeeded);
            let record = boot.runs.record(&run).unwrap();
            assert_eq!(record.plan.tasks[0].command.argv[0], text);
            boot.runs.remove(&run).await.unwrap();
            assert_eq!(boot.runs.record(&run).unwrap_err().kind(), ErrorKind::NotFound);
            assert_eq!(boot.runs.remove(&run).await.unwrap_err().kind(), ErrorKind::NotFound);
        }
    };
    within(join_all((0..10).map(client))).await;
    boot.told().await;
    assert_eq!(boot.value("/runs"), Value::Null);
    let path = standpipe_tree::Path::parse("runs").unwrap();
    assert_eq!(boot.runs.streams.heads(&path, None, 10).unwrap(), []);
    until(|| {
        ["run/", "plan/", "recent/", "live/", "gone/"]
            .iter()
            .all(|prefix| boot.runs.streams.records(prefix, None, 9).unwrap().is_empty())
    })
    .await;
    assert_eq!(boot.start("shared", &["exit:0"]).await.number, 101, "no number is given twice");
    let stats = boot.runs.stats();
    assert_eq!((stats.started, stats.removed), (101, 100));
    boot.close().await;
}

#[tokio::test]
async fn a_value_is_told_four_times_a_second_at_most_and_ends_right() {
    let dir = TempDir::new().unwrap();
    let boot = Boot::new(dir.path()).await;
    let run = boot.start("busy", &["gate:end", "exit:0"]).await;
    boot.until(&run, RunState::Running).await;
    boot.told().await;
    let board = boot.runs.board(&run).unwrap();
    let before = boot.runs.stats().values_written;
    let began = Instant::now();
    let mut seconds = 0;
    while began.elapsed() < Duration::from_millis(2_200) {
        seconds += 1;
        board.note(|record| record.tasks.values_mut().for_each(|task| task.usage.lines = seconds));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    boot.fake.open("end");
    boot.ended(&run).await;
    until(|| boot.value("/runs/busy@1/state") == json!("succeeded")).await;
    let written = boot.runs.stats().values_written - before;
    let most = 4 * (began.elapsed().as_secs() + 1);
    assert!((6..=most).contains(&written), "{written} updates in {:?}", began.elapsed());
    boot.close().await;
}

#[tokio::test]
async fn a_tree_that_takes_nothing_is_told_later() {
    let dir = TempDir::new().unwrap();
    let boot = Boot::without_tree(dir.path()).await;
    let run = boot.start("a", &["exit:0"]).await;
    assert_eq!(boot.ended(&run).await, RunState::Succeeded, "a run does not wait for the tree");
    until(|| boot.runs.stats().value_failures > 0).await;
    boot.mend();
    until(|| boot.value("/runs/a@1/state") == json!("succeeded")).await;
    boot.told().await;
    assert_eq!(boot.runs.stats().values_behind, 0);
    boot.close().await;
}

#[test]
fn a_value_that_was_never_told_is_told_by_the_next_start() {
    let dir = TempDir::new().unwrap();
    killed(Boot::without_tree(dir.path()), async |boot| {
        let run = boot.start("a", &["exit:0"]).await;
        boot.ended(&run).await;
        assert_eq!(boot.runs.stats().values_written, 0);
    });
    runtime().block_on(async {
        let boot = Boot::new(dir.path()).await;
        until(|| boot.value("/runs/a@1/state") == json!("succeeded")).await;
        boot.close().await;
    });
}

#[test]
fn a_removal_that_a_crash_cut_is_finished() {
    let dir = TempDir::new().unwrap();
    killed(Boot::new(dir.path()), async |boot| {
        let run = boot.start("a", &["out:x\n"]).await;
        boot.ended(&run).await;
        boot.told().await;
        let record = boot.runs.record(&run).unwrap();
        crate::book::durable(boot.runs.book.put(crate::book::removed(&record))).await.unwrap();
        assert_eq!(boot.value("/runs/a@1/state"), json!("succeeded"));
    });
    runtime().block_on(async {
        let boot = Boot::new(dir.path()).await;
        assert_eq!(boot.runs.find("a").unwrap_err().kind(), ErrorKind::NotFound);
        until(|| boot.value("/runs") == Value::Null && boot.runs.streams.records("gone/", None, 1).unwrap().is_empty())
            .await;
        assert_eq!(boot.outcome(&id("a@1")), None);
        boot.close().await;
    });
}

#[tokio::test]
async fn runs_are_listed_the_newest_first_and_page_by_page() {
    let dir = TempDir::new().unwrap();
    let boot = Boot::new(dir.path()).await;
    for number in 0..6 {
        boot.clock.fetch_add(1_000, Ordering::Relaxed);
        let name = if number % 2 == 0 { "even" } else { "odd" };
        let run = boot.runs.start(by(&format!("u{}", number % 3), name, &["exit:0"])).await.unwrap();
        boot.ended(&run).await;
    }
    let live = boot.start("live", &["hang"]).await;
    let list = |filter: Filter| {
        let ids = boot.runs.list(&filter).unwrap().into_iter().map(|record| record.id.to_string());
        ids.collect::<Vec<_>>().join(" ")
    };
    let name = |name: &str| Some(name.parse().unwrap());
    assert_eq!(list(Filter::default()), "live@1 odd@3 even@3 odd@2 even@2 odd@1 even@1");
    assert_eq!(list(Filter { max: 2, before: Some(id("odd@3")), ..Filter::default() }), "even@3 odd@2");
    assert_eq!(list(Filter { name: name("even"), before: Some(id("even@3")), ..Filter::default() }), "even@2 even@1");
    assert_eq!(list(Filter { by: Some("u2".into()), ..Filter::default() }), "odd@3 even@2");
    boot.until(&live, RunState::Running).await;
    assert_eq!(list(Filter { states: vec![RunState::Running], ..Filter::default() }), "live@1");
    assert_eq!(list(Filter { job: name("none"), ..Filter::default() }), "");
    assert_eq!(
        boot.runs.list(&Filter { before: Some(id("x@1")), ..Filter::default() }).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    boot.close().await;
}

#[tokio::test]
async fn pruning_keeps_what_is_asked_for_and_retention_the_newest() {
    let dir = TempDir::new().unwrap();
    let limits = Limits { runs_kept_max: 6, runs_age_s_max: 3_600, ..Limits::default() };
    let boot = Boot::with(dir.path(), limits, Vec::new(), NOW_MS).await;
    let left = |boot: &Boot| {
        let ids = boot.runs.list(&Filter::default()).unwrap().into_iter().map(|record| record.id.to_string());
        ids.collect::<Vec<_>>().join(" ")
    };
    let make = async |boot: &Boot, name: &str, exit: &str| {
        boot.clock.fetch_add(1_000, Ordering::Relaxed);
        let run = boot.start(name, &[exit]).await;
        boot.ended(&run).await;
    };
    for exit in ["exit:0", "exit:1", "exit:0"] {
        make(&boot, "a", exit).await;
        make(&boot, "b", exit).await;
    }
    let prune = async |prune: Prune| boot.runs.prune(&prune).await.unwrap();
    assert_eq!(
        prune(Prune { states: vec![RunState::Failed], name: Some("a".parse().unwrap()), ..Prune::default() }).await,
        1
    );
    assert_eq!(left(&boot), "b@3 a@3 b@2 b@1 a@1");
    assert_eq!(prune(Prune { older_than_ms: Some(4_500), ..Prune::default() }).await, 1);
    assert_eq!(left(&boot), "b@3 a@3 b@2 b@1");
    assert_eq!(prune(Prune { keep: Some(1), ..Prune::default() }).await, 2);
    assert_eq!(left(&boot), "b@3 a@3");
    let wrong = Prune { states: vec![RunState::Running], ..Prune::default() };
    assert_eq!(boot.runs.prune(&wrong).await.unwrap_err().kind(), ErrorKind::BadRequest);
    let live = boot.start("live", &["hang"]).await;
    for _ in 0..6 {
        make(&boot, "c", "exit:0").await;
    }
    boot.runs.retain(false).await.unwrap();
    assert_eq!(left(&boot), "c@6 c@5 c@4 c@3 c@2 c@1 live@1", "the oldest go");
    assert_eq!(boot.runs.stats().kept, 6);
    boot.clock.fetch_add(3_598_000, Ordering::Relaxed);
    boot.runs.retain(true).await.unwrap();
    assert_eq!(left(&boot), "c@6 c@5 c@4 live@1", "what is old goes");
    assert_eq!(boot.runs.remove(&live).await.unwrap_err().kind(), ErrorKind::Conflict);
    boot.told().await;
    assert_eq!(boot.value("/runs").as_object().unwrap().len(), 4);
    assert_eq!(prune(Prune::default()).await, 3);
    boot.close().await;
}

#[tokio::test]
async fn a_plan_that_panics_loses_its_run_alone() {
    let dir = TempDir::new().unwrap();
    let boot = Boot::following(dir.path(), |board, _| {
        let panics = board.id().name.as_str() == "panic";
        async move {
            assert!(!panics, "as a bug would");
            (RunState::Succeeded, Ended::default())
        }
        .boxed()
    })
    .await;
    let (broken, good) = (boot.start("panic", &["x"]).await, boot.start("good", &["x"]).await);
    assert_eq!((boot.ended(&broken).await, boot.ended(&good).await), (RunState::Lost, RunState::Succeeded));
    assert_eq!(boot.outcome(&broken).unwrap().state, "lost");
    assert_eq!(boot.runs.record(&broken).unwrap().tasks.values().next().unwrap().state, TaskState::Cancelled);
    boot.close().await;
}

#[test]
fn a_server_killed_at_any_other_point_leaves_nothing_half_done() {
    // Accepted, and killed before its stream was there.
    let dir = TempDir::new().unwrap();
    killed(Boot::new(dir.path()), async |boot| {
        let mut record = boot.runs.record(&boot.start("x", &["exit:0"]).await).unwrap();
        record.id = id("half@1");
        record.state = RunState::Queued;
        crate::book::durable(boot.runs.book.put(crate::book::created(&record))).await.unwrap();
    });
    // Its turn had come, and no process was there yet; and a stream without a run.
    killed(Boot::following(dir.path(), |_, _| std::future::pending().boxed()), async |boot| {
        boot.until(&id("half@1"), RunState::Starting).await;
        let run = boot.start("starting", &["x"]).await;
        boot.until(&run, RunState::Starting).await;
        let stray = standpipe_tree::Path::parse("runs/stray@1/out").unwrap();
        boot.runs.streams.create(&stray).await.unwrap();
        // What is posted becomes durable with the next commit.
        boot.runs.board(&run).unwrap().commit(|_| {}).await.unwrap();
    });
    runtime().block_on(async {
        let boot = Boot::new(dir.path()).await;
        assert_eq!(boot.ended(&id("half@1")).await, RunState::Interrupted);
        let record = boot.runs.record(&id("starting@1")).unwrap();
        assert_eq!(
            (record.state, record.tasks.values().next().unwrap().state),
            (RunState::Interrupted, TaskState::Cancelled)
        );
        let stray = boot.start("stray", &["out:new\n"]).await;
        assert_eq!((stray.to_string().as_str(), boot.ended(&stray).await), ("stray@1", RunState::Succeeded));
        boot.close().await;
    });
}

#[test]
fn thousands_of_interrupted_runs_do_not_hold_up_a_start() {
    let dir = TempDir::new().unwrap();
    killed(Boot::new(dir.path()), async |boot| {
        let mut record = boot.runs.record(&boot.start("x", &["exit:0"]).await).unwrap();
        record.state = RunState::Running;
        for number in 1..=2_000 {
            record.id = RunId { name: "many".parse().unwrap(), number };
            drop(boot.runs.book.put(crate::book::created(&record)));
        }
        crate::book::durable(boot.runs.book.put(Vec::new())).await.unwrap();
    });
    runtime().block_on(async {
        let began = Instant::now();
        let boot = Boot::new(dir.path()).await;
        println!("opened in {:?}", began.elapsed());
        until(|| boot.runs.stats().ended["interrupted"] == 2_000).await;
        assert_eq!(boot.runs.record(&id("many@2000")).unwrap().state, RunState::Interrupted);
        boot.told().await;
        assert_eq!(boot.value("/runs/many@1/state"), json!("interrupted"));
        boot.close().await;
    });
}

fn scheduled(name: &str, acts: &[&str], schedule: Schedule) -> JobSpec {
    JobSpec { schedule: Some(schedule), ..job(name, acts) }
}

#[tokio::test]
async fn a_job_takes_parameters_and_its_value_follows() {
    let dir = TempDir::new().unwrap();
    let params = json!({ "n": { "type": "integer", "default": 1 } });
    let greet = JobSpec {
        params: serde_json::from_value(params).unwrap(),
        runs_max: Some(1),
        ..job("greet", &["out:${params.n}\n", "gate:end"])
    };
    let boot = Boot::with(dir.path(), Limits::default(), vec![greet.clone()], NOW_MS).await;
    let name = "greet".parse().unwrap();
    let with = |n: i64| BTreeMap::from([("n".to_owned(), json!(n))]);
    let run = boot.runs.start_job(&name, with(5), "ann").await.unwrap();
    boot.until(&run, RunState::Running).await;
    assert_eq!(boot.fake.launched()[0].argv[0], "out:5\n");
    let second = boot.runs.start_job(&name, BTreeMap::new(), "bob").await.unwrap();
    assert_eq!(boot.runs.record(&second).unwrap().state, RunState::Queued, "runs_max of the job");
    assert_eq!(boot.runs.record(&second).unwrap().params["n"], "1");
    boot.told().await;
    let value = boot.value("/jobs/greet");
    assert_eq!((&value["last"], &value["runs"], &value["state"]), (&json!("greet@2"), &json!(2), &json!("queued")));
    let wrong = BTreeMap::from([("x".to_owned(), json!(1))]);
    assert_eq!(boot.runs.start_job(&name, wrong, "ann").await.unwrap_err().kind(), ErrorKind::BadRequest);
    assert_eq!(
        boot.runs.start_job(&"no".parse().unwrap(), BTreeMap::new(), "ann").await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    boot.fake.open("end");
    boot.ended(&second).await;
    until(|| boot.value("/jobs/greet/state") == json!("succeeded")).await;
    boot.runs.reload(Vec::new()).unwrap();
    boot.told().await;
    assert_eq!(boot.value("/jobs"), Value::Null);
    assert!(boot.runs.jobs().is_empty());
    boot.runs.reload(vec![Arc::new(greet)]).unwrap();
    assert_eq!(boot.runs.job(&name).unwrap().last, Some(second));
    boot.close().await;
}

#[tokio::test]
async fn jobs_start_by_the_clock_once_and_do_not_pile_up() {
    let dir = TempDir::new().unwrap();
    let every = scheduled("tick", &["hang"], Schedule::every(600_000, Missed::Skip).unwrap());
    let every = JobSpec { runs_max: Some(1), ..every };
    let boot = Boot::with(dir.path(), Limits::default(), vec![every], NOW_MS).await;
    let next = boot.runs.jobs()[0].next_at.unwrap();
    assert!(next > NOW_MS && next.is_multiple_of(600_000));
    until(|| boot.value("/jobs/tick/next_at") == json!(next)).await;
    let at = async |ms: u64| {
        boot.clock.store(ms, Ordering::Relaxed);
        boot.runs.tick().await;
        boot.runs.jobs()[0].clone()
    };
    assert_eq!(at(next - 1).await.runs, 0);
    assert_eq!(at(next).await.runs, 1);
    assert_eq!(at(next + 5).await.runs, 1, "a planned time is taken once");
    let record = boot.runs.record(&id("tick@1")).unwrap();
    assert_eq!((record.by.as_str(), record.job.unwrap().as_str()), ("schedule", "tick"));
    assert_eq!(at(next + 600_000).await.runs, 2);
    assert_eq!(at(next + 1_200_000).await.runs, 2, "one waits already");
    assert_eq!(boot.runs.stats().schedule_missed, 1);
    let info = at(next + 1_200_000).await;
    assert_eq!(info.next_at, Some(next + 1_800_000), "no drift");
    boot.close().await;
}

#[test]
fn what_was_missed_while_the_node_was_down_is_skipped_or_run_once() {
    for (missed, expected) in [(Missed::Skip, 0), (Missed::RunOnce, 1)] {
        let dir = TempDir::new().unwrap();
        let hour = 3_600_000;
        let boot = |now| {
            let job = scheduled("hourly", &["exit:0"], Schedule::cron("0 * * * *", "UTC", missed).unwrap());
            Boot::with(dir.path(), Limits::default(), vec![job], now)
        };
        let now = NOW_MS - NOW_MS % hour + hour / 2;
        runtime().block_on(async { boot(now).await.close().await });
        runtime().block_on(async {
            let boot = boot(now + 5 * hour).await;
            boot.runs.tick().await;
            assert_eq!(boot.runs.jobs()[0].runs, expected, "{missed:?}");
            boot.runs.tick().await;
            let job = &boot.runs.jobs()[0];
            assert_eq!((job.runs, job.next_at), (expected, Some(now + 5 * hour + hour / 2)), "{missed:?}");
            boot.close().await;
        });
    }
}
