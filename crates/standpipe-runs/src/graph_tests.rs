//! The order of tasks: small plans as tables, random plans against what must always hold.

use super::*;
use crate::plan::{Backoff, Task};

fn task(name: &str, needs: &[&str]) -> Task {
    Task {
        name: name.parse().unwrap(),
        command: crate::Command::default(),
        needs: needs.iter().map(|need| need.parse().unwrap()).collect(),
        when: None,
        retries: 0,
        backoff: Backoff { first_ms: 10, max_ms: 100 },
        continue_on_failure: false,
        artefacts: Vec::new(),
        inputs: BTreeMap::new(),
        matrix: BTreeMap::new(),
        member_of: None,
    }
}

fn plan(tasks: Vec<Task>) -> Arc<Plan> {
    Arc::new(Plan { tasks, ..Plan::default() })
}

fn graph(plan: &Arc<Plan>, parallel: usize) -> Graph {
    Graph::new(plan, &BTreeMap::new(), &BTreeMap::new(), parallel).unwrap()
}

/// Follows a plan whose tasks end as their names in `ends` say (else well); the history and the run's state.
fn follow(plan: &Arc<Plan>, ends: &[(&str, TaskState)]) -> (String, RunState) {
    let mut graph = graph(plan, 1);
    let (mut history, mut at_work) = (Vec::new(), None);
    loop {
        match graph.next() {
            Some(Step::Start { task, .. }) => {
                history.push(plan.tasks[task].name.to_string());
                at_work = Some(task);
            }
            Some(Step::Skip { task, .. }) => history.push(format!("({})", plan.tasks[task].name)),
            None => {
                let Some(task) = at_work.take() else { break };
                let name = plan.tasks[task].name.as_str();
                let state =
                    ends.iter().find(|(ends, _)| *ends == name).map_or(TaskState::Succeeded, |(_, state)| *state);
                let outputs = BTreeMap::from([("from".to_owned(), name.to_owned())]);
                match graph.ended(task, state, outputs) {
                    After::Retry { .. } => graph.due(task),
                    After::Final(_) => graph.written(task),
                }
            }
        }
    }
    assert!(graph.is_over());
    (history.join(" "), graph.result().0)
}

fn check(tasks: Vec<Task>, ends: &[(&str, TaskState)], history: &str, state: RunState) {
    assert_eq!(follow(&plan(tasks), ends), (history.to_owned(), state));
}

fn when(name: &str, needs: &[&str], when: &str) -> Task {
    Task { when: Some(when.to_owned()), ..task(name, needs) }
}

fn diamond() -> Vec<Task> {
    vec![task("d", &["b", "c"]), task("b", &["a"]), task("c", &["a"]), task("a", &[])]
}

use TaskState::{Failed, Interrupted, Lost, TimedOut};

#[test]
fn tasks_follow_what_they_need() {
    check(diamond(), &[], "a b c d", RunState::Succeeded);
    check(diamond(), &[("b", Failed)], "a b c (d)", RunState::Failed);
    check(diamond(), &[("a", TimedOut)], "a (b) (c) (d)", RunState::Failed);
    check(diamond(), &[("c", Lost)], "a b c (d)", RunState::Failed);
    check(diamond(), &[("c", Interrupted)], "a b c (d)", RunState::Interrupted);
}

#[test]
fn an_allowed_failure_fails_nothing() {
    let mut tasks = diamond();
    tasks[1].continue_on_failure = true;
    check(tasks.clone(), &[("b", Failed)], "a b c d", RunState::Succeeded);
    check(tasks.clone(), &[("b", Lost)], "a b c (d)", RunState::Failed);
    check(tasks, &[("b", Failed), ("c", Failed)], "a b c (d)", RunState::Failed);
}

#[test]
fn conditions_decide_on_what_came_before() {
    let with = |condition: &str| vec![task("a", &[]), task("b", &["a"]), when("z", &["b"], condition)];
    check(with("always()"), &[("a", Failed)], "a (b) z", RunState::Failed);
    check(with("failure()"), &[("a", Failed)], "a (b) z", RunState::Failed);
    check(with("failure()"), &[], "a b (z)", RunState::Succeeded);
    check(with("failed(a) && skipped(b)"), &[("a", TimedOut)], "a (b) z", RunState::Failed);
    check(with("outputs.a.from == 'a'"), &[], "a b z", RunState::Succeeded);
    check(with("outputs.a.from == 'x'"), &[], "a b (z)", RunState::Succeeded);
    check(with("outputs.a.from == 'a'"), &[("b", Failed)], "a b (z)", RunState::Failed);
    let member = |name: &str| Task { member_of: Some("m".parse().unwrap()), ..task(name, &[]) };
    let of_all = |condition| vec![member("m-1"), member("m-2"), when("z", &["m-1", "m-2"], condition)];
    check(of_all("succeeded(m)"), &[], "m-1 m-2 z", RunState::Succeeded);
    check(of_all("succeeded(m)"), &[("m-2", Failed)], "m-1 m-2 (z)", RunState::Failed);
    check(of_all("failed(m) && failed(m-1)"), &[("m-1", Failed)], "m-1 m-2 z", RunState::Failed);
}

#[test]
fn a_failed_task_is_tried_again_after_longer_and_longer_pauses() {
    let plan = plan(vec![Task { retries: 5, ..task("a", &[]) }]);
    let mut graph = graph(&plan, 1);
    let mut pauses = Vec::new();
    for attempt in 1.. {
        assert_eq!(graph.next(), Some(Step::Start { task: 0, attempt }));
        assert_eq!(graph.next(), None);
        match graph.ended(0, Failed, BTreeMap::new()) {
            After::Retry { after_ms } => pauses.push(after_ms),
            After::Final(state) => {
                assert_eq!((state, attempt), (Failed, 6));
                break;
            }
        }
        assert_eq!(graph.next(), None, "it waits for its pause");
        graph.due(0);
    }
    assert_eq!(pauses, [10, 20, 40, 80, 100]);
    assert_eq!(Backoff { first_ms: 1_000, max_ms: u64::MAX }.pause_ms(90), u64::MAX);
}

#[test]
fn a_stop_cancels_what_has_not_begun() {
    let plan = plan(diamond());
    let mut graph = graph(&plan, 1);
    assert_eq!(graph.next(), Some(Step::Start { task: 3, attempt: 1 }));
    assert_eq!(graph.stop(TaskState::Cancelled), [0, 1, 2]);
    assert_eq!(graph.stop(TaskState::Interrupted), Vec::<usize>::new(), "the first stop says why");
    assert!(!graph.is_over());
    // It ended well all the same; the run did not.
    assert_eq!(graph.ended(3, TaskState::Succeeded, BTreeMap::new()), After::Final(TaskState::Succeeded));
    assert!(!graph.is_over(), "not before that is written down");
    graph.written(3);
    assert_eq!((graph.next(), graph.is_over(), graph.result().0), (None, true, RunState::Cancelled));
}

#[test]
fn a_stop_that_comes_too_late_changes_nothing() {
    for (state, expected) in [(TaskState::Succeeded, RunState::Succeeded), (Failed, RunState::Failed)] {
        let plan = plan(vec![task("a", &[])]);
        let mut graph = graph(&plan, 1);
        graph.next();
        graph.stop(TaskState::Cancelled);
        graph.ended(0, state, BTreeMap::new());
        assert_eq!(graph.result().0, expected);
    }
}

#[test]
fn plans_that_cannot_be_followed_are_refused() {
    let check = |tasks: Vec<Task>, says: &str| assert_eq!(plan(tasks).check().unwrap_err(), says);
    check(vec![], "a plan without a task");
    check(vec![task("a", &[]), task("a", &[])], "two tasks are called `a`; rename one");
    check(vec![task("a", &["b"])], "task `a` needs `b`, which there is not");
    check(vec![task("a", &["b"]), task("b", &["c"]), task("c", &["a"])], "tasks wait for each other: a → b → c → a");
    check(vec![when("a", &[], "x")], "`when` of task `a`: `x` where a condition should be");
    assert_eq!(plan(diamond()).check(), Ok(()));
    // A long chain is no deep recursion.
    let chain = (0..50_000).map(|index| match index {
        0 => task("t0", &[]),
        _ => task(&format!("t{index}"), &[&format!("t{}", index - 1)]),
    });
    assert_eq!(plan(chain.collect()).check(), Ok(()));
}

fn records(states: &[(&str, TaskState)]) -> BTreeMap<Name, TaskRecord> {
    let record = |state| TaskRecord { state, attempts: 1, ..TaskRecord::default() };
    states.iter().map(|(name, state)| (name.parse().unwrap(), record(*state))).collect()
}

/// The tasks that wait.
fn redone(tasks: Result<BTreeMap<Name, TaskRecord>, String>) -> String {
    let tasks = tasks.unwrap();
    let waiting = tasks.iter().filter(|(_, task)| task.state == TaskState::Waiting);
    waiting.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_resumed_run_redoes_what_did_not_succeed() {
    use TaskState::{Cancelled, Skipped, Succeeded};
    let old = records(&[("a", Succeeded), ("b", Failed), ("c", Succeeded), ("d", Skipped)]);
    let plan_of = plan(diamond());
    assert_eq!(redone(redo(&plan_of, &old, None)), "b d");
    let mut graph = Graph::new(&plan_of, &BTreeMap::new(), &redo(&plan_of, &old, None).unwrap(), 4).unwrap();
    assert_eq!(graph.next(), Some(Step::Start { task: 1, attempt: 1 }), "b at once, for a is kept");
    assert_eq!(graph.next(), None);
    let old = records(&[("a", Succeeded), ("b", Cancelled), ("c", Cancelled), ("d", Cancelled)]);
    assert_eq!(redone(redo(&plan_of, &old, None)), "b c d");
    // What cleans up after a failure does so again; what follows an allowed failure stays.
    let mut tasks = vec![task("lint", &[]), task("build", &["lint"]), task("ship", &["build"])];
    tasks[0].continue_on_failure = true;
    tasks.push(when("clean", &["ship"], "always()"));
    tasks.push(task("report", &["clean"]));
    let old = records(&[
        ("lint", Failed),
        ("build", Succeeded),
        ("ship", Failed),
        ("clean", Succeeded),
        ("report", Succeeded),
    ]);
    assert_eq!(redone(redo(&plan(tasks), &old, None)), "clean lint report ship");
}

#[test]
fn a_repeated_task_takes_everything_downstream_with_it() {
    use TaskState::Succeeded;
    let plan = plan(diamond());
    let old = records(&[("a", Succeeded), ("b", Succeeded), ("c", Failed), ("d", TaskState::Skipped)]);
    let retry = |name: &str| redo(&plan, &old, Some(&name.parse().unwrap()));
    assert_eq!(redone(retry("b")), "b c d", "what did not succeed is redone, too");
    assert_eq!(redone(retry("a")), "a b c d");
    assert_eq!(redone(retry("d")), "c d");
    assert!(retry("x").unwrap_err().starts_with("the run has no task `x`"));
    let all = records(&[("a", Succeeded), ("b", Succeeded), ("c", Succeeded), ("d", Succeeded)]);
    assert_eq!(redone(redo(&plan, &all, Some(&"c".parse().unwrap()))), "c d");
}

/// A source of numbers that gives the same ones for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn plan(&mut self) -> Arc<Plan> {
        let count = 1 + self.below(14);
        let conditions =
            ["always()", "failure()", "success()", "failed(t0) || succeeded(t0)", "params.x == ''", "false"];
        let tasks = (0..count).map(|index| {
            let needs: Vec<String> = (0..index).filter(|_| self.chance(30)).map(|need| format!("t{need}")).collect();
            let needs: Vec<&str> = needs.iter().map(String::as_str).collect();
            let when = self.chance(20).then(|| conditions[self.below(conditions.len())].to_owned());
            let (retries, continue_on_failure) = (self.below(3) as u32, self.chance(15));
            Task { when, retries, continue_on_failure, ..task(&format!("t{index}"), &needs) }
        });
        let mut tasks: Vec<Task> = tasks.collect();
        for index in (1..tasks.len()).rev() {
            let other = self.below(index + 1);
            tasks.swap(index, other);
        }
        plan(tasks)
    }
}

/// Follows one random plan with random results and, sometimes, a stop at a random moment.
fn play(random: &mut Random) {
    let plan = random.plan();
    let count = plan.tasks.len();
    let index = |name: &Name| plan.tasks.iter().position(|task| task.name == *name).unwrap();
    let parallel = 1 + random.below(4);
    let mut stop_in = random.chance(40).then(|| random.below(3 * count));
    let mut graph = graph(&plan, parallel);
    let (mut at_work, mut pausing): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    let mut last: Vec<Option<TaskState>> = vec![None; count];
    let mut unwritten: Vec<usize> = Vec::new();
    let mut stopped = false;
    loop {
        while let Some(step) = graph.next() {
            assert!(!stopped, "nothing begins after a stop");
            let task = match step {
                Step::Start { task, attempt } => {
                    at_work.push(task);
                    assert!(attempt <= 1 + plan.tasks[task].retries);
                    assert!(at_work.len() <= parallel, "no more at once than asked for");
                    task
                }
                Step::Skip { task, .. } => {
                    last[task] = Some(TaskState::Skipped);
                    task
                }
            };
            let needs = plan.tasks[task].needs.iter().map(index);
            let done = |need: usize| last[need].is_some() && !unwritten.contains(&need);
            assert!(needs.clone().all(done), "what it needs is final, and written down");
            if plan.tasks[task].when.is_none() && matches!(step, Step::Start { .. }) {
                let well = |need: usize| {
                    last[need] == Some(TaskState::Succeeded)
                        || (plan.tasks[need].continue_on_failure && last[need] != Some(TaskState::Skipped))
                };
                assert!(needs.clone().all(well), "it runs on what ended well");
            }
            assert_ne!(
                plan.tasks[task].when.as_deref().map(|when| (when, &step)),
                Some(("false", &Step::Start { task, attempt: 1 }))
            );
        }
        if stop_in.is_some_and(|left| left == 0) {
            (stop_in, stopped) = (None, true);
            for task in graph.stop(TaskState::Cancelled) {
                assert!(last[task].is_none() && !at_work.contains(&task));
                last[task] = Some(TaskState::Cancelled);
                pausing.retain(|pausing| *pausing != task);
            }
            continue;
        }
        stop_in = stop_in.map(|left| left - 1);
        if !pausing.is_empty() && (at_work.is_empty() || random.chance(50)) {
            graph.due(pausing.swap_remove(random.below(pausing.len())));
            continue;
        }
        if !unwritten.is_empty() && (at_work.is_empty() || random.chance(60)) {
            assert!(!graph.is_over());
            graph.written(unwritten.swap_remove(random.below(unwritten.len())));
            continue;
        }
        if at_work.is_empty() {
            break;
        }
        let task = at_work.swap_remove(random.below(at_work.len()));
        let state = match random.below(100) {
            _ if stopped && random.chance(80) => TaskState::Cancelled,
            0..70 => TaskState::Succeeded,
            70..90 => Failed,
            90..97 => TimedOut,
            _ => Lost,
        };
        match graph.ended(task, state, BTreeMap::new()) {
            After::Retry { .. } => {
                assert!(!stopped && state != TaskState::Succeeded);
                pausing.push(task);
            }
            After::Final(state) => {
                last[task] = Some(state);
                unwritten.push(task);
            }
        }
    }
    assert!(graph.is_over() && last.iter().all(Option::is_some), "every task is final");
    let bad = |task: usize| match last[task] {
        Some(TaskState::Succeeded | TaskState::Skipped) => false,
        Some(Failed | TimedOut) => !plan.tasks[task].continue_on_failure,
        _ => true,
    };
    let (state, _) = graph.result();
    assert_eq!(state == RunState::Succeeded, !(0..count).any(bad), "{last:?}");
    assert_eq!(state == RunState::Cancelled, last.contains(&Some(TaskState::Cancelled)), "{last:?}");
    let record = |state: &Option<TaskState>| TaskRecord { state: state.unwrap(), ..TaskRecord::default() };
    let old = plan.tasks.iter().map(|task| task.name.clone()).zip(last.iter().map(record)).collect();
    let again = redo(&plan, &old, None).unwrap();
    assert!(old.iter().all(|(name, old)| old.state == TaskState::Succeeded || again[name].state == TaskState::Waiting));
}

#[test]
fn random_plans_keep_their_promises() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(u64::from(std::process::id()) << 20);
    eprintln!("SEED={seed}");
    for round in 0..5_000 {
        play(&mut Random(seed + round));
    }
}
