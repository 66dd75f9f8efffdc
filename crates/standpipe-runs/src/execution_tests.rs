//! Plans that are followed with a scripted launcher: order, records, streams, stops, and what tasks leave.

use std::time::Duration;

use standpipe_engine::{Engine, EngineConfig};
use standpipe_serve::Limits;
use tokio::time::timeout;

use super::*;
use crate::bench::read_all;
use crate::book::Book;
use crate::file::{FileBounds, FileFormat, Pipeline};
use crate::graph::redo;
use crate::record::RunRecord;
use crate::supervise::SupervisorSettings;
use crate::supervise::fake::Fake;
use crate::values::Values;

/// Longest wait for what must happen.
const LONG: Duration = Duration::from_secs(60);

struct Bench {
    dir: tempfile::TempDir,
    book: Arc<Book>,
    values: Arc<Values>,
    fake: Arc<Fake>,
    execution: Execution,
    stop: watch::Sender<Option<Stop>>,
}

impl Bench {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = EngineConfig { map_bytes_initial: 1 << 20, ..EngineConfig::new(dir.path().join("data")) };
        let engine = Arc::new(Engine::open(config, Arc::new(|_| {})).unwrap());
        let streams = engine.streams().clone();
        let limits: LimitsHandle = Arc::new(arc_swap::ArcSwap::from_pointee(limits));
        let fake = Fake::new();
        let settings = SupervisorSettings { limits: limits.clone(), streams: streams.clone(), variable: |_| None };
        let supervisor = Supervisor::new(fake.clone(), settings);
        let artefacts = Artefacts::new(dir.path().join("artefacts"));
        let execution = Execution { supervisor, streams, artefacts, limits, clock: Clock::System };
        let (book, values) = (Book::new(execution.streams.clone()), Values::new(engine));
        // They end with the runtime of the test.
        tokio::spawn(book.clone().write());
        tokio::spawn(values.clone().write());
        Self { dir, book, values, fake, execution, stop: watch::Sender::new(None) }
    }

    /// The record of a pipeline, as it is before it starts.
    fn record(&self, text: &str, number: u64) -> RunRecord {
        let text = text.replace("FOLDER", self.dir.path().to_str().unwrap());
        let bounds = FileBounds { bytes_max: 1 << 20, tasks_max: 100 };
        let pipeline = Pipeline::read(&text, FileFormat::Yaml, &bounds).unwrap_or_else(|errors| panic!("{errors}"));
        record(pipeline.plan().clone(), number)
    }

    async fn follow(&self, record: RunRecord) -> Ran {
        let path = Path::parse(&format!("runs/{}/out", record.id)).unwrap();
        let output = self.execution.streams.create(&path).await.unwrap();
        let board = Board::new(record, &self.book, &self.values);
        board.put_output(output);
        let followed = self.execution.execute(&board, self.stop.subscribe());
        let (state, ended) = timeout(LONG, followed).await.expect("it ends");
        board.output().end(Outcome::of(state.as_str())).await.unwrap();
        assert_eq!(self.fake.alive(), 0, "no process is left");
        Ran { state, ended, record: board.record() }
    }

    async fn run(&self, text: &str) -> Ran {
        self.follow(self.record(text, 1)).await
    }

    /// Output, notes and end of a stream.
    fn read(&self, path: &str) -> (String, Vec<Value>, String) {
        let (records, end) = read_all(&self.execution.streams, &Path::parse(path).unwrap());
        let (notes, output): (Vec<_>, Vec<_>) = records.into_iter().partition(|(channel, _)| *channel == Channel::Note);
        let output = output.into_iter().flat_map(|(_, bytes)| bytes).collect();
        let notes = notes.iter().map(|(_, bytes)| serde_json::from_slice(bytes).unwrap()).collect();
        (String::from_utf8(output).unwrap(), notes, end.unwrap_or_else(|| panic!("{path} is open")).state)
    }

    /// First arguments of what was started, in order.
    fn launched(&self) -> Vec<String> {
        self.fake.launched().iter().map(|spec| spec.argv[0].clone()).collect()
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let wait = async {
            while !holds() {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, wait).await.unwrap_or_else(|_| panic!("{what} does not happen"));
    }
}

fn record(plan: Plan, number: u64) -> RunRecord {
    let tasks = plan.tasks.iter().map(|task| (task.name.clone(), TaskRecord::default())).collect();
    RunRecord {
        id: RunId { name: "run".parse().unwrap(), number },
        job: None,
        params: BTreeMap::new(),
        by: "local".to_owned(),
        plan: Arc::new(plan),
        single: false,
        state: RunState::Starting,
        created_at: 1,
        started_at: None,
        ended_at: None,
        ended: Ended::default(),
        tasks,
        of: None,
        resumed_by: None,
        group: None,
    }
}

struct Ran {
    state: RunState,
    ended: Ended,
    record: RunRecord,
}

impl Ran {
    fn task(&self, name: &str) -> &TaskRecord {
        &self.record.tasks[&name.parse::<Name>().unwrap()]
    }

    /// Each task and its state.
    fn states(&self) -> String {
        let state = |(name, task): (&Name, &TaskRecord)| format!("{name}:{}", task.state.as_str());
        self.record.tasks.iter().map(state).collect::<Vec<_>>().join(" ")
    }

    fn reason(&self) -> &str {
        self.ended.reason.as_deref().unwrap_or_default()
    }
}

fn events(notes: &[Value]) -> Vec<String> {
    let word =
        |note: &Value| format!("{} {}", note["task"].as_str().unwrap_or("-"), note["state"].as_str().unwrap_or("-"));
    notes.iter().filter(|note| note["event"] == "task").map(word).collect()
}

#[tokio::test]
async fn a_diamond_is_followed_with_its_streams_and_its_record() {
    let bench = Bench::new();
    let ran = bench
        .run(
            "tasks:\n  d: {command: [\"out:dd\\n\"], needs: [b, c]}\n  b: {command: [\"out:bb\\n\", 'err:oh'], needs: a}\n  \
             c: {command: [\"out:cc\\n\"], needs: a}\n  a: {command: [\"out:aa\\n\"]}\nparallel: 1\n",
        )
        .await;
    assert_eq!((ran.state, ran.ended.exit_code), (RunState::Succeeded, Some(0)));
    assert_eq!(ran.states(), "a:succeeded b:succeeded c:succeeded d:succeeded");
    assert_eq!(bench.launched(), ["out:aa\n", "out:bb\n", "out:cc\n", "out:dd\n"]);
    let (output, notes, end) = bench.read("runs/run@1/out");
    assert_eq!(output, "a | aa\nb | bb\nb | oh\nc | cc\nd | dd\n", "whole lines");
    let events = events(&notes);
    let at =
        |event: &str| events.iter().position(|have| have == event).unwrap_or_else(|| panic!("{event}: {events:?}"));
    assert!(at("a succeeded") < at("b starting") && at("c succeeded") < at("d starting"), "{events:?}");
    assert_eq!(events.len(), 8, "{events:?}");
    assert_eq!(end, "succeeded");
    let (output, _, end) = bench.read("runs/run@1/tasks/b/out");
    assert_eq!((output.as_str(), end.as_str()), ("bb\noh", "succeeded"));
    let b = ran.task("b");
    assert_eq!((b.attempts, b.ended.exit_code, b.usage.bytes), (1, Some(0), 5));
    assert!(b.started_at.is_some() && b.ended_at >= b.started_at && ran.record.started_at.is_some());
}

#[tokio::test]
async fn a_failure_stops_what_needs_it_and_nothing_else() {
    let bench = Bench::new();
    let ran = bench
        .run("tasks: {a: {command: ['exit:7']}, b: {command: [x], needs: a}, c: {command: [y]}, z: {command: [z], needs: b, when: failure()}}")
        .await;
    assert_eq!((ran.state, ran.ended.exit_code), (RunState::Failed, Some(7)));
    assert_eq!(ran.states(), "a:failed b:skipped c:succeeded z:succeeded");
    assert!(ran.reason().starts_with("task `a` is failed"), "{}", ran.reason());
    assert_eq!(ran.task("b").ended.reason.as_deref(), Some("it needs `a`, which is failed"));
    assert_eq!(bench.read("runs/run@1/tasks/b/out").2, "skipped", "whoever waits for it is told");
    assert_eq!(bench.read("runs/run@1/tasks/a/out").2, "failed");
}

#[tokio::test]
async fn a_failed_task_is_tried_again_in_the_same_stream() {
    let bench = Bench::new();
    let ran = bench.run("tasks: {a: {command: [\"out:x\\n\", 'exit:3'], retries: 2, backoff: 1ms}}").await;
    assert_eq!(ran.state, RunState::Failed);
    let a = ran.task("a");
    assert_eq!((a.attempts, a.usage.bytes, a.usage.lines), (3, 6, 3), "of all attempts");
    let (output, notes, end) = bench.read("runs/run@1/tasks/a/out");
    assert_eq!((output.as_str(), end.as_str()), ("x\nx\nx\n", "failed"));
    assert_eq!(events(&notes), ["a retrying", "a retrying"]);
    let expected = ["a starting", "a retrying", "a starting", "a retrying", "a starting", "a failed"];
    assert_eq!(events(&bench.read("runs/run@1/out").1), expected);
}

#[tokio::test]
async fn outputs_become_variables_of_later_tasks() {
    let bench = Bench::new();
    let text = "tasks:\n  a: {command: [\"out:::output version=1.2 \\n\"]}\n  \
                b: {command: [b], needs: a, inputs: {VERSION: a.version}, when: outputs.a.version == '1.2 '}\n  \
                c: {command: [c], needs: a, inputs: {X: a.missing}}\n";
    let ran = bench.run(text).await;
    assert_eq!(ran.states(), "a:succeeded b:succeeded c:failed");
    assert_eq!(ran.task("a").outputs["version"], "1.2 ");
    let b = bench.fake.launched().into_iter().find(|spec| spec.argv == ["b"]).unwrap();
    assert_eq!(b.env["VERSION"], "1.2 ");
    assert_eq!((&*b.env["STANDPIPE_RUN"], &*b.env["STANDPIPE_TASK"]), ("run@1", "b"));
    assert!(ran.reason().contains("its input X is a.missing"), "{}", ran.reason());
    assert!(!bench.launched().contains(&"c".to_owned()));
}

#[tokio::test]
async fn a_cancelled_run_starts_nothing_more() {
    let bench = Bench::new();
    let text = "tasks: {a: {command: [hang]}, r: {command: ['exit:1'], retries: 9, backoff: 1h}, b: {command: [x], needs: a}, \
                c: {command: [y], needs: b, when: always()}}";
    let stop = async {
        let paused = Path::parse("runs/run@1/tasks/r/out").unwrap();
        let notes = || bench.execution.streams.head(&paused).unwrap().map_or(0, |head| head.next_seq);
        bench
            .until("one is at work, one waits for its next attempt", || bench.launched().len() == 2 && notes() == 2)
            .await;
        bench.stop.send_replace(Some(Stop { why: Why::Cancelled, grace: None }));
    };
    let (ran, ()) = tokio::join!(bench.run(text), stop);
    assert_eq!(ran.state, RunState::Cancelled);
    assert_eq!(ran.states(), "a:cancelled b:cancelled c:cancelled r:cancelled");
    assert_eq!(bench.launched().len(), 2);
    for task in ["a", "b", "c", "r"] {
        assert_eq!(bench.read(&format!("runs/run@1/tasks/{task}/out")).2, "cancelled", "{task}");
    }
}

#[tokio::test]
async fn a_stop_before_the_first_task_lets_none_begin() {
    let bench = Bench::new();
    bench.stop.send_replace(Some(Stop { why: Why::Interrupted, grace: None }));
    let ran = bench.run("tasks: {a: {command: [x]}, b: {command: [y], needs: a}}").await;
    assert_eq!((ran.state, bench.launched().len()), (RunState::Interrupted, 0));
    assert_eq!(ran.states(), "a:cancelled b:cancelled");
}

#[tokio::test]
async fn the_time_of_a_run_and_of_a_task_ends() {
    let bench = Bench::new();
    let ran = bench.run("{timeout: 50ms, tasks: {a: {command: [hang]}, b: {command: [x], needs: a}}}").await;
    assert_eq!(ran.state, RunState::TimedOut);
    assert_eq!(ran.states(), "a:timed_out b:cancelled");
    assert!(ran.reason().contains("longer than its timeout, 50 ms"), "{}", ran.reason());
    let bench = Bench::new();
    let text = "tasks: {a: {command: [hang], timeout: 20ms, retries: 1, backoff: 1ms}, b: {command: [x], needs: a}, c: {command: [y]}}";
    let ran = bench.run(text).await;
    assert_eq!((ran.state, ran.task("a").attempts), (RunState::Failed, 2));
    assert_eq!(ran.states(), "a:timed_out b:skipped c:succeeded");
}

#[tokio::test]
async fn no_more_tasks_at_once_than_asked_for_and_allowed() {
    for (parallel, run_tasks_max, expected) in [("2", 16, 2), ("9", 3, 3)] {
        let bench = Bench::with(Limits { run_tasks_max, ..Limits::default() });
        let tasks: Vec<String> = (0..6).map(|index| format!("t{index}: {{command: ['gate:go']}}")).collect();
        let text = format!("{{parallel: {parallel}, tasks: {{{}}}}}", tasks.join(", "));
        let open = async {
            bench.until("the first have started", || bench.launched().len() >= expected).await;
            for _ in 0..100 {
                tokio::task::yield_now().await;
                assert_eq!(bench.fake.alive(), expected);
            }
            bench.fake.open("go");
        };
        let (ran, ()) = tokio::join!(bench.run(&text), open);
        assert_eq!((ran.state, bench.launched().len()), (RunState::Succeeded, 6));
    }
}

#[tokio::test]
async fn artefacts_are_kept_and_missing_ones_fail_their_task() {
    let bench = Bench::new();
    std::fs::write(bench.dir.path().join("report"), "fine").unwrap();
    let text = "tasks:\n  a: {command: [x], cwd: FOLDER, artefacts: {report: report, log: {path: log, optional: true}}}\n  \
                b: {command: [y], cwd: FOLDER, artefacts: {report: missing}, retries: 1, backoff: 1ms}\n";
    let ran = bench.run(text).await;
    assert_eq!(ran.states(), "a:succeeded b:failed");
    assert_eq!(ran.task("b").attempts, 2, "a file may be there the next time");
    assert_eq!(
        ran.task("a").artefacts.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect::<Vec<_>>(),
        [("report", 4)]
    );
    assert_eq!(std::fs::read(bench.dir.path().join("artefacts/run@1/a/report")).unwrap(), b"fine");
    assert!(
        ran.reason().contains("it left no artefact `report`: there is no file missing in its folder"),
        "{}",
        ran.reason()
    );
    let bench = Bench::with(Limits { artefact_bytes_max: 3, ..Limits::default() });
    std::fs::write(bench.dir.path().join("report"), "fine").unwrap();
    let ran = bench.run("tasks: {a: {command: [x], cwd: FOLDER, artefacts: {report: report}}}").await;
    assert!(ran.reason().contains("more than 3 bytes"), "{}", ran.reason());
}

#[tokio::test]
async fn a_resumed_run_keeps_what_succeeded_with_all_that_it_left() {
    let bench = Bench::new();
    std::fs::write(bench.dir.path().join("file"), "kept").unwrap();
    let text = "tasks:\n  a: {command: [\"out:::output v=1\\n\"], cwd: FOLDER, artefacts: {f: file}}\n  \
                b: {command: ['exit:1'], needs: a}\n  c: {command: [c], needs: a, inputs: {V: a.v}, when: always()}\n";
    let old = bench.run(text).await;
    assert_eq!(old.states(), "a:succeeded b:failed c:succeeded");
    let before = bench.launched().len();
    let again = redo(&old.record.plan, &old.record.tasks, None).unwrap();
    let next = RunRecord { tasks: again, of: Some(old.record.id.clone()), ..bench.record(text, 2) };
    let ran = bench.follow(next).await;
    assert_eq!(ran.states(), "a:succeeded b:failed c:succeeded");
    assert_eq!(bench.launched()[before..], ["exit:1"]);
    assert_eq!(std::fs::read(bench.dir.path().join("artefacts/run@2/a/f")).unwrap(), b"kept");
    let (output, notes, end) = bench.read("runs/run@2/tasks/a/out");
    assert_eq!((output.as_str(), end.as_str(), notes[0]["of"].as_str()), ("", "succeeded", Some("run@1")));
    // One task again, with what needs it; its inputs come from what is kept.
    let again = redo(&old.record.plan, &old.record.tasks, Some(&"c".parse().unwrap())).unwrap();
    let next = RunRecord { tasks: again, of: Some(old.record.id), ..bench.record(text, 3) };
    bench.follow(next).await;
    let last = bench.fake.launched().into_iter().rfind(|spec| spec.argv == ["c"]).unwrap();
    assert_eq!((&*last.env["STANDPIPE_RUN"], &*last.env["V"]), ("run@3", "1"));
    // What it should keep is gone: better no run than one without.
    std::fs::remove_dir_all(bench.dir.path().join("artefacts/run@1")).unwrap();
    let again = redo(&ran.record.plan, &ran.record.tasks, None).unwrap();
    let next = RunRecord { tasks: again, of: Some("run@1".parse().unwrap()), ..bench.record(text, 4) };
    let ran = bench.follow(next).await;
    assert!(ran.state == RunState::Failed && ran.reason().contains("can't be taken over"), "{}", ran.reason());
}

#[tokio::test]
async fn a_run_of_one_command_ends_as_its_process() {
    let check = async |acts: &[&str], timeout_ms, state, exit_code, signal| {
        let bench = Bench::new();
        let argv = acts.iter().map(|act| (*act).to_owned()).collect();
        let command = crate::Command { argv, timeout_ms, ..crate::Command::default() };
        let plan = Plan::single(command);
        let ran = bench.follow(RunRecord { single: true, ..record(plan, 1) }).await;
        assert_eq!((ran.state, ran.ended.exit_code, ran.ended.signal), (state, exit_code, signal), "{acts:?}");
        let heads = bench.execution.streams.heads(&Path::parse("runs").unwrap(), None, 10).unwrap();
        assert_eq!(heads.len(), 1, "one stream");
        bench.read("runs/run@1/out").0
    };
    assert_eq!(check(&["out:x"], None, RunState::Succeeded, Some(0), None).await, "x");
    check(&["exit:9"], None, RunState::Failed, Some(9), None).await;
    check(&["hang"], Some(10), RunState::TimedOut, None, Some(15)).await;
    check(&["refuse:no such program"], None, RunState::Failed, None, None).await;
}

#[tokio::test]
async fn a_plan_that_cannot_be_followed_fails_with_the_reason() {
    let bench = Bench::new();
    let mut record = bench.record("tasks: {a: {command: [x]}, b: {command: [x], needs: a}}", 1);
    let mut plan = Plan::clone(&record.plan);
    plan.tasks[0].needs = vec!["b".parse().unwrap()];
    record.plan = Arc::new(plan);
    let ran = bench.follow(record).await;
    assert_eq!((ran.state, ran.reason()), (RunState::Failed, "tasks wait for each other: a → b → a"));
}

/// Random pipelines of random processes, stopped at random moments.
#[tokio::test]
async fn random_pipelines_end_with_every_task_final_and_nothing_left() {
    let mut seed = u64::from(std::process::id()) | 1;
    eprintln!("seed {seed}");
    let mut random = move |end: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % end
    };
    let bench = Bench::new();
    for number in 1..=20 {
        let acts = ["x", "exit:1", "sleep:1", "out:y", "leave", "refuse:no"];
        let (count, parallel) = (1 + random(8), 1 + random(3));
        let tasks = (0..count).map(|index| {
            let needs: Vec<String> = (0..index).filter(|_| random(3) == 0).map(|need| format!("t{need}")).collect();
            let when = if random(4) == 0 { ", when: always()" } else { "" };
            let more = format!("retries: {}, backoff: 1ms, continue_on_failure: {}", random(2), random(5) == 0);
            format!(
                "t{index}: {{command: ['{}'], needs: [{}], {more}{when}}}",
                acts[random(acts.len())],
                needs.join(", ")
            )
        });
        let text = format!("{{parallel: {parallel}, tasks: {{{}}}}}", tasks.collect::<Vec<_>>().join(", "));
        bench.stop.send_replace(None);
        let launched = bench.launched().len();
        let stop_after = (random(2) == 0).then(|| random(60));
        let stop = async {
            if let Some(turns) = stop_after {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
                bench.stop.send_replace(Some(Stop { why: Why::Cancelled, grace: Some(Duration::ZERO) }));
            }
        };
        let (ran, ()) = tokio::join!(bench.follow(bench.record(&text, number)), stop);
        let tasks = &ran.record.tasks;
        assert!(tasks.values().all(|task| task.state.is_final()), "{text}: {}", ran.states());
        let begun: u32 = tasks.values().map(|task| task.attempts).sum();
        assert!(bench.launched().len() - launched <= begun as usize, "{text}");
        let good = |task: &crate::plan::Task| match tasks[&task.name].state {
            TaskState::Succeeded | TaskState::Skipped => true,
            TaskState::Failed | TaskState::TimedOut => task.continue_on_failure,
            _ => false,
        };
        assert_eq!(
            ran.state == RunState::Succeeded,
            ran.record.plan.tasks.iter().all(good),
            "{text}: {}",
            ran.states()
        );
        for task in tasks.keys() {
            let (_, _, end) = bench.read(&format!("runs/run@{number}/tasks/{task}/out"));
            assert_eq!(end, tasks[task].state.as_str(), "{text}");
        }
    }
    assert_eq!(bench.execution.supervisor.attempts(), 0);
}
