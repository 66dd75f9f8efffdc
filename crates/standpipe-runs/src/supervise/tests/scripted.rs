//! Order and races, against processes that do what their arguments say.

use super::super::fake::Fake;
use super::*;
use crate::record::Progress;

fn bench() -> (Bench, Arc<Fake>) {
    let fake = Fake::new();
    let bench = Bench::new(|_| fake.clone());
    (bench, fake)
}

#[tokio::test]
async fn output_is_complete_and_in_order_and_then_comes_the_end() {
    let (bench, fake) = bench();
    let done = bench.run(command(&["out:one\ntwo", "out:\n", "err:bad\n", "out:last", "exit:3"])).await;
    done.check(TaskState::Failed, Some(3));
    assert_eq!((done.out().as_str(), done.bytes(Channel::Err)), ("one\ntwo\nlast", b"bad\n".to_vec()));
    assert_eq!((done.end.usage.lines, done.end.usage.bytes), (3, 16));
    assert_eq!(done.notes(), [serde_json::json!({"event": "started", "pid": 1})]);
    assert_eq!(done.events.first(), Some(&TaskEvent::Started { pid: 1 }));
    assert_eq!((fake.alive(), bench.supervisor.attempts()), (0, 0));
    let env = &fake.launched()[0].env;
    let own = ["STANDPIPE_ATTEMPT", "STANDPIPE_RUN", "STANDPIPE_TASK"].map(|name| env[name].as_str());
    assert_eq!((own, env.len()), (["1", "x@1", "main"], 3));
}

#[tokio::test]
async fn what_can_not_be_started_has_failed_and_says_why() {
    let (bench, _fake) = bench();
    let done = bench.run(command(&["refuse:no such thing"])).await;
    done.check(TaskState::Failed, None);
    assert_eq!(done.reason(), "no such thing");
    assert_eq!(done.notes(), [serde_json::json!({"event": "not_started", "reason": "no such thing"})]);
}

#[tokio::test]
async fn a_stop_before_the_start_starts_nothing() {
    let (bench, fake) = bench();
    let (running, own, heard) = bench.begin(command(&["hang"])).await;
    running.stop(stop(LONG));
    let done = bench.finish(running, &own, heard).await;
    done.check(TaskState::Cancelled, None);
    assert_eq!((fake.launched().len(), done.records.len()), (0, 0));
}

#[tokio::test]
async fn a_stop_says_its_reason_and_what_was_written_before_is_there() {
    for (why, state) in [
        (Why::Cancelled, TaskState::Cancelled),
        (Why::TimedOut, TaskState::TimedOut),
        (Why::Interrupted, TaskState::Interrupted),
    ] {
        let (bench, fake) = bench();
        let (running, own, heard) = bench.begin(command(&["out:here\n", "hang"])).await;
        bench.wait_for(&own, "here").await;
        running.stop(Stop { why, grace: None });
        let done = bench.finish(running, &own, heard).await;
        assert_eq!((done.end.state, done.end.ended.signal), (state, Some(15)));
        assert!(done.events.contains(&TaskEvent::Stopping));
        assert_eq!(fake.alive(), 0);
    }
}

#[tokio::test]
async fn who_ignores_the_request_is_killed_and_a_second_stop_shortens_the_grace() {
    let (bench, _fake) = bench();
    let (running, own, heard) = bench.begin(command(&["ignore-term", "out:here\n", "hang"])).await;
    bench.wait_for(&own, "here").await;
    running.stop(Stop { why: Why::Cancelled, grace: Some(Duration::from_secs(3600)) });
    tokio::time::sleep(Duration::from_millis(20)).await;
    // The first one says why.
    running.stopper().stop(Stop { why: Why::Interrupted, grace: Some(Duration::from_millis(10)) });
    let done = bench.finish(running, &own, heard).await;
    assert_eq!((done.end.state, done.end.ended.signal), (TaskState::Cancelled, Some(9)));
}

#[tokio::test]
async fn a_stop_that_races_with_the_end_gives_one_of_both() {
    let (bench, fake) = bench();
    for round in 0..200_u64 {
        let (running, own, heard) = bench.begin(command(&["out:a\n", "gate:go", "exit:0"])).await;
        if round % 3 != 0 {
            bench.wait_for(&own, "a").await;
        }
        let stopper = running.stopper();
        let stopping = async {
            for _ in 0..round % 7 {
                tokio::task::yield_now().await;
            }
            stopper.stop(stop(LONG));
        };
        let opening = async { fake.open("go") };
        let (done, ..) = tokio::join!(bench.finish(running, &own, heard), stopping, opening);
        match done.end.state {
            TaskState::Succeeded => done.check(TaskState::Succeeded, Some(0)),
            state => assert_eq!(state, TaskState::Cancelled),
        }
    }
    assert_eq!((fake.alive(), bench.supervisor.attempts()), (0, 0));
}

#[tokio::test]
async fn what_holds_the_output_after_the_end_is_a_leak_and_is_ended() {
    let (bench, fake) = bench();
    bench.limits.store(Arc::new(Limits { run_leak_ms_max: 50, ..Limits::default() }));
    let done = bench.run(command(&["leave", "out:last", "exit:0"])).await;
    done.check(TaskState::Succeeded, Some(0));
    assert!(done.end.leaked);
    assert_eq!((done.out().as_str(), fake.alive()), ("last", 0));
}

#[tokio::test]
async fn what_is_left_without_the_output_is_ended_at_once() {
    let (bench, _fake) = bench();
    let done = bench.run(command(&["out:last", "detach", "exit:0"])).await;
    done.check(TaskState::Succeeded, Some(0));
    assert!(!done.end.leaked);
}

#[tokio::test]
async fn what_can_not_be_killed_is_lost() {
    let (bench, fake) = bench();
    let (mut running, own, _heard) = bench.begin(command(&["immortal", "out:here\n", "close", "hang"])).await;
    bench.wait_for(&own, "here").await;
    tokio::time::pause();
    running.stop(stop(Duration::from_millis(10)));
    let end = running.ended().await;
    assert_eq!(end.state, TaskState::Lost);
    assert!(end.ended.reason.unwrap().contains("could not be killed"));
    assert_eq!(fake.alive(), 0);
}

#[tokio::test]
async fn time_and_silence_have_their_limits() {
    let (bench, _fake) = bench();
    let limited = Command { timeout_ms: Some(40), ..command(&["hang"]) };
    let done = bench.run(limited).await;
    done.check(TaskState::TimedOut, None);
    assert!(done.reason().contains("timeout"));
    let silent = Command { stall_ms: Some(40), ..command(&["out:a\n", "sleep:200", "out:b\n", "exit:0"]) };
    let done = bench.run(silent).await;
    let stalls: Vec<_> = done.events.iter().filter(|event| matches!(event, TaskEvent::Stalled(_))).collect();
    assert_eq!(stalls, [&TaskEvent::Stalled(true), &TaskEvent::Stalled(false)]);
    assert!(done.notes().contains(&serde_json::json!({"event": "stalled", "silent_ms": 40})));
}

#[tokio::test]
async fn lines_that_are_events_become_notes_and_the_rest_stays_as_it_is() {
    let (bench, _fake) = bench();
    let acts = [
        "out:a\n::progress 0.5 half\n::output x=1\n::else\n",
        "err:@{\"event\":\"mine\"}\n",
        "out:::output x=2\n",
        "exit:0",
    ];
    let done = bench.run(Command { event_prefix: Some("@".to_owned()), ..command(&acts) }).await;
    assert_eq!(done.out(), "a\n::else\n");
    assert_eq!(done.end.outputs, [("x".to_owned(), "2".to_owned())].into());
    let half = TaskEvent::Progress(Progress { fraction: 0.5, text: "half".to_owned() });
    assert!(done.events.contains(&half), "{:?}", done.events);
    assert!(done.notes().contains(&serde_json::json!({"event": "own", "data": {"event": "mine"}})));
    assert_eq!(done.end.usage.lines, 6);
}

#[tokio::test]
async fn whole_lines_with_their_task_make_the_merged_view() {
    let (bench, _fake) = bench();
    let (mut attempt, heard) =
        bench.attempt(command(&["out:a\nb", "sleep:150", "out:c\n::progress 1\nend", "exit:0"])).await;
    let (own, merged) = (attempt.output.own.clone(), bench.stream().await);
    attempt.output.merged = Some((merged.clone(), "main | ".to_owned()));
    let done = bench.finish(bench.supervisor.start(attempt), &own, heard).await;
    assert_eq!(done.out(), "a\nbc\nend");
    let lines = bench.records(&merged);
    let lines: Vec<_> = lines.iter().map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned()).collect();
    let progress = "{\"task\":\"main\",\"event\":\"progress\",\"fraction\":1.0,\"text\":\"\"}";
    let started = "{\"task\":\"main\",\"event\":\"started\",\"pid\":1}";
    assert_eq!(lines, [started, "main | a\n", "main | bc\n", progress, "main | end\n"]);
}

#[tokio::test]
async fn too_much_output_is_cut_and_the_task_has_failed() {
    let (bench, _fake) = bench();
    let mut command = command(&["out:12345", "out:67890", "out:more", "hang"]);
    command.output.bytes_max = Some(7);
    let done = bench.run(command).await;
    assert_eq!(done.end.state, TaskState::Failed);
    assert_eq!(done.out(), "1234567");
    assert!(done.reason().contains("more than 7 bytes"), "{}", done.reason());
    assert!(done.notes().contains(&serde_json::json!({"event": "truncated", "bytes_max": 7})));
}

#[tokio::test]
async fn output_beyond_its_rate_waits() {
    let (bench, _fake) = bench();
    let text = format!("out:{}", "x".repeat(3000));
    let mut command = command(&[&text, "exit:0"]);
    command.output.bytes_per_s_max = Some(10_000);
    let begun = std::time::Instant::now();
    let done = bench.run(command).await;
    assert_eq!(done.out().len(), 3000);
    assert!(begun.elapsed() >= Duration::from_millis(280), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_stream_that_takes_no_more_ends_the_process() {
    let (bench, fake) = bench();
    let (running, own, heard) = bench.begin(command(&["out:a\n", "gate:go", "out:b\n", "hang"])).await;
    bench.wait_for(&own, "a").await;
    own.end(standpipe_engine::Outcome::of("gone")).await.unwrap();
    fake.open("go");
    let done = bench.finish(running, &own, heard).await;
    assert_eq!(done.end.state, TaskState::Failed);
    assert!(done.reason().contains("can't be stored"), "{}", done.reason());
    assert_eq!(fake.alive(), 0);
}

#[tokio::test]
async fn closing_interrupts_all_and_starts_no_more() {
    let (bench, fake) = bench();
    let (running, own, heard) = bench.begin(command(&["out:here\n", "hang"])).await;
    let (dropped, other, _heard) = bench.begin(command(&["out:here\n", "hang"])).await;
    bench.wait_for(&own, "here").await;
    bench.wait_for(&other, "here").await;
    drop(dropped);
    tokio::time::timeout(LONG, bench.supervisor.close()).await.unwrap();
    bench.finish(running, &own, heard).await.check(TaskState::Interrupted, None);
    bench.run(command(&["true"])).await.check(TaskState::Interrupted, None);
    assert_eq!((fake.alive(), fake.launched().len(), bench.supervisor.attempts()), (0, 2, 0));
}

#[tokio::test]
async fn secrets_reach_the_process_and_nobody_else() {
    let (bench, fake) = bench();
    let from = crate::command::SecretSource::Env("PASSWORD".to_owned());
    let secrets = vec![crate::command::Secret { name: "TOKEN".to_owned(), from }];
    let acts = ["out:it is hunt", "sleep:150", "out:er22!\n::output t=hunter22\nhunter", "exit:0"];
    let done = bench.run(Command { secrets, ..command(&acts) }).await;
    assert_eq!(done.out(), "it is ***!\nhunter");
    assert_eq!(done.end.outputs["t"], "***");
    assert_eq!(fake.launched()[0].env["TOKEN"], "hunter22");
    let from = crate::command::SecretSource::Env("NONE".to_owned());
    let secrets = vec![crate::command::Secret { name: "TOKEN".to_owned(), from }];
    let done = bench.run(Command { secrets, ..command(&["true"]) }).await;
    assert_eq!(done.reason(), "secret TOKEN: the server has no variable NONE");
}

#[tokio::test]
async fn a_follower_that_does_not_listen_holds_nothing_up() {
    let (bench, _fake) = bench();
    let acts: Vec<String> =
        (0..200).map(|n| format!("out:::output o{}={n}\n", n % 20)).chain(["exit:0".to_owned()]).collect();
    let acts: Vec<&str> = acts.iter().map(String::as_str).collect();
    let (mut attempt, _) = bench.attempt(command(&acts)).await;
    let (events, deaf) = mpsc::channel(1);
    attempt.events = events;
    let own = attempt.output.own.clone();
    let done = bench.finish(bench.supervisor.start(attempt), &own, deaf).await;
    done.check(TaskState::Succeeded, Some(0));
    assert_eq!((done.end.outputs.len(), done.end.outputs["o3"].as_str()), (20, "183"));
}
