//! Which tasks of a plan may start: a state machine without clock, processes or storage. `execution` does what it says
//! and tells it what came of it.
//!
//! Its promises: a task starts once what it needs is final, and never after a stop; no more run at once than asked for;
//! every task is final at the end; a run that failed is not called succeeded.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use crate::name::Name;
use crate::plan::Plan;
use crate::record::{RunState, TaskRecord, TaskState};
use crate::when::{self, Facts, Is, Refers, When};

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Begin this attempt, counted from 1.
    Start { task: usize, attempt: u32 },
    /// Its condition did not hold; it is final.
    Skip { task: usize, why: String },
}

/// What comes after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// The task is final, in this state. What needs it may start once that is written down: [`Graph::written`].
    Final(TaskState),
    /// It is tried again after this pause: [`Graph::due`] says when that is over.
    Retry { after_ms: u64 },
}

/// Where a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Something it needs is not final.
    Waiting,
    /// It may start when there is room.
    Ready,
    AtWork,
    /// Between two attempts.
    Pausing,
    Final(TaskState),
}

#[derive(Debug)]
struct Node {
    place: Place,
    when: Option<When>,
    needs: Vec<usize>,
    needed_by: Vec<usize>,
    /// How many of `needs` are not final.
    waits_for: usize,
    attempts: u32,
    outputs: BTreeMap<String, String>,
}

/// A plan being followed.
#[derive(Debug)]
pub(crate) struct Graph {
    plan: Arc<Plan>,
    params: BTreeMap<String, String>,
    nodes: Vec<Node>,
    names: Names,
    /// Tasks at once.
    parallel: usize,
    at_work: usize,
    /// All they need is final; their conditions are to be decided.
    undecided: VecDeque<usize>,
    ready: VecDeque<usize>,
    /// Tasks that are not final, or not written down as such.
    left: usize,
    /// The state of what a stop cuts.
    stopped: Option<TaskState>,
    /// The stop kept a task from its end, or from its beginning.
    cut: bool,
}

/// Tasks by name.
#[derive(Debug)]
struct Names {
    tasks: HashMap<Name, usize>,
    /// Members of matrices, by the task of the file.
    members: HashMap<Name, Vec<usize>>,
}

impl Names {
    fn of(plan: &Plan) -> Result<Self, String> {
        let mut names = Self { tasks: HashMap::new(), members: HashMap::new() };
        for (index, task) in plan.tasks.iter().enumerate() {
            if names.tasks.insert(task.name.clone(), index).is_some() {
                return Err(format!("two tasks are called `{}`; rename one", task.name));
            }
            if let Some(base) = &task.member_of {
                names.members.entry(base.clone()).or_default().push(index);
            }
        }
        Ok(names)
    }

    /// The task of that name, or the members of the matrix of that name.
    fn meant(&self, name: &str) -> &[usize] {
        // Every name that gets here is one, for that is how it was found in a plan.
        let Ok(name) = name.parse::<Name>() else { return &[] };
        match self.tasks.get(&name) {
            Some(task) => std::slice::from_ref(task),
            None => self.members.get(&name).map_or(&[], Vec::as_slice),
        }
    }
}

impl Graph {
    /// The plan at its beginning, at most `parallel` tasks at once. What is final in `kept` stays as it is.
    ///
    /// # Errors
    /// The plan can't be followed: the sentence says why. Plans of files never are so.
    pub(crate) fn new(
        plan: &Arc<Plan>,
        params: &BTreeMap<String, String>,
        kept: &BTreeMap<Name, TaskRecord>,
        parallel: usize,
    ) -> Result<Self, String> {
        let names = Names::of(plan)?;
        let mut nodes = nodes(plan, &names)?;
        let mut left = nodes.len();
        for (node, task) in nodes.iter_mut().zip(&plan.tasks) {
            if let Some(record) = kept.get(&task.name).filter(|record| record.state.is_final()) {
                node.place = Place::Final(record.state);
                node.outputs.clone_from(&record.outputs);
                left -= 1;
            }
        }
        for index in 0..nodes.len() {
            let open = |need: &&usize| !matches!(nodes[**need].place, Place::Final(_));
            nodes[index].waits_for = nodes[index].needs.iter().filter(open).count();
        }
        let begin = |index: &usize| nodes[*index].place == Place::Waiting && nodes[*index].waits_for == 0;
        let undecided = (0..nodes.len()).filter(begin).collect();
        Ok(Self {
            plan: plan.clone(),
            params: params.clone(),
            nodes,
            names,
            parallel: parallel.max(1),
            at_work: 0,
            undecided,
            ready: VecDeque::new(),
            left,
            stopped: None,
            cut: false,
        })
    }

    /// What is to be done now; `None` until something has ended or a pause is over.
    pub(crate) fn next(&mut self) -> Option<Step> {
        if self.stopped.is_some() {
            return None;
        }
        while let Some(task) = self.undecided.pop_front() {
            match self.hindered(task) {
                None => {
                    self.nodes[task].place = Place::Ready;
                    self.ready.push_back(task);
                }
                Some(why) => {
                    self.nodes[task].place = Place::Final(TaskState::Skipped);
                    self.written(task);
                    return Some(Step::Skip { task, why });
                }
            }
        }
        if self.at_work >= self.parallel {
            return None;
        }
        let task = self.ready.pop_front()?;
        self.at_work += 1;
        let node = &mut self.nodes[task];
        node.place = Place::AtWork;
        node.attempts += 1;
        Some(Step::Start { task, attempt: node.attempts })
    }

    /// An attempt has ended so.
    pub(crate) fn ended(&mut self, task: usize, state: TaskState, outputs: BTreeMap<String, String>) -> After {
        debug_assert_eq!(self.nodes[task].place, Place::AtWork, "only what was started ends");
        self.at_work -= 1;
        let stopped = self.stopped.is_some();
        self.cut |= self.stopped == Some(state);
        let node = &mut self.nodes[task];
        let task_of_plan = &self.plan.tasks[task];
        let again = matches!(state, TaskState::Failed | TaskState::TimedOut) && node.attempts <= task_of_plan.retries;
        if again && !stopped {
            node.place = Place::Pausing;
            return After::Retry { after_ms: task_of_plan.backoff.pause_ms(node.attempts) };
        }
        if state == TaskState::Succeeded {
            node.outputs = outputs;
        }
        node.place = Place::Final(state);
        After::Final(state)
    }

    /// The pause of a task is over. Nothing happens when a stop came before that.
    pub(crate) fn due(&mut self, task: usize) {
        if self.nodes[task].place == Place::Pausing {
            self.nodes[task].place = Place::Ready;
            self.ready.push_back(task);
        }
    }

    /// Nothing starts any more: gives the tasks that are cancelled by this; those at work are to be stopped. `state` is
    /// what that makes of them: cancelled, timed out or interrupted.
    pub(crate) fn stop(&mut self, state: TaskState) -> Vec<usize> {
        if self.stopped.is_some() {
            return Vec::new();
        }
        self.stopped = Some(state);
        (self.undecided, self.ready) = (VecDeque::new(), VecDeque::new());
        let open = |index: &usize| !matches!(self.nodes[*index].place, Place::AtWork | Place::Final(_));
        let cancelled: Vec<usize> = (0..self.nodes.len()).filter(open).collect();
        for task in &cancelled {
            self.nodes[*task].place = Place::Final(TaskState::Cancelled);
        }
        self.left -= cancelled.len();
        self.cut |= !cancelled.is_empty();
        cancelled
    }

    /// Whether every task is final.
    pub(crate) fn is_over(&self) -> bool {
        self.left == 0
    }

    /// What an output has become; `None` when the task did not say it.
    pub(crate) fn output(&self, task: &str, name: &str) -> Option<&str> {
        let &[task] = self.names.meant(task) else { return None };
        self.nodes[task].outputs.get(name).map(String::as_str)
    }

    /// How the run ended, and the task that decided that. To be asked when it is over.
    pub(crate) fn result(&self) -> (RunState, Option<usize>) {
        if let Some(state) = self.stopped.filter(|_| self.cut) {
            return (run_state(state), None);
        }
        let bad =
            |index: &usize| !self.ended_well(*index) && self.nodes[*index].place != Place::Final(TaskState::Skipped);
        match (0..self.nodes.len()).find(bad) {
            None => (RunState::Succeeded, None),
            Some(task) => match self.nodes[task].place {
                // The supervisor ended it without a word to us: the server is about to end.
                Place::Final(TaskState::Interrupted) => (RunState::Interrupted, Some(task)),
                _ => (RunState::Failed, Some(task)),
            },
        }
    }

    /// That a task is final is written down, once for each [`After::Final`].
    pub(crate) fn written(&mut self, task: usize) {
        debug_assert!(matches!(self.nodes[task].place, Place::Final(_)), "only what is final is written");
        self.left -= 1;
        for index in 0..self.nodes[task].needed_by.len() {
            let next = self.nodes[task].needed_by[index];
            let node = &mut self.nodes[next];
            node.waits_for -= 1;
            if node.waits_for == 0 && node.place == Place::Waiting && self.stopped.is_none() {
                self.undecided.push_back(next);
            }
        }
    }

    /// Why a task does not run, if so: all it needs is final.
    fn hindered(&self, task: usize) -> Option<String> {
        let facts = About { graph: self, task };
        match &self.nodes[task].when {
            Some(when) if when.holds(&facts) => None,
            Some(_) => {
                let text = self.plan.tasks[task].when.as_deref().unwrap_or_default();
                Some(format!("its condition does not hold: {text}"))
            }
            None => {
                let need = *self.nodes[task].needs.iter().find(|need| !self.ended_well(**need))?;
                let Place::Final(state) = self.nodes[need].place else { return None };
                Some(format!("it needs `{}`, which is {}", self.plan.tasks[need].name, state.as_str()))
            }
        }
    }

    /// Whether what needs this task may run.
    fn ended_well(&self, task: usize) -> bool {
        match self.nodes[task].place {
            Place::Final(TaskState::Succeeded) => true,
            Place::Final(TaskState::Failed | TaskState::TimedOut) => self.plan.tasks[task].continue_on_failure,
            _ => false,
        }
    }

    fn ancestors(&self, task: usize) -> BTreeSet<usize> {
        reached(task, |task| &self.nodes[task].needs)
    }
}

/// What a condition of a task looks at.
struct About<'g> {
    graph: &'g Graph,
    task: usize,
}

impl Facts for About<'_> {
    fn is(&self, is: Is, task: &str) -> bool {
        let tasks = self.graph.names.meant(task);
        let state = |task: &usize| match self.graph.nodes[*task].place {
            Place::Final(state) => state,
            _ => TaskState::Waiting,
        };
        match is {
            Is::Succeeded => !tasks.is_empty() && tasks.iter().all(|task| state(task) == TaskState::Succeeded),
            Is::Failed => tasks.iter().any(|task| has_failed(state(task))),
            Is::Skipped => tasks.iter().any(|task| state(task) == TaskState::Skipped),
        }
    }

    fn success(&self) -> bool {
        self.graph.nodes[self.task].needs.iter().all(|need| self.graph.ended_well(*need))
    }

    fn failure(&self) -> bool {
        let failed = |task: &usize| match self.graph.nodes[*task].place {
            Place::Final(state) => has_failed(state) && !self.graph.ended_well(*task),
            _ => false,
        };
        self.graph.ancestors(self.task).iter().any(failed)
    }

    fn value(&self, refers: Refers<'_>) -> Option<&str> {
        match refers {
            Refers::Param(name) => self.graph.params.get(name).map(String::as_str),
            Refers::Matrix(list) => self.graph.plan.tasks[self.task].matrix.get(list).map(String::as_str),
            Refers::Output { task, name } => self.graph.output(task, name),
            Refers::Task(_) => None,
        }
    }
}

fn has_failed(state: TaskState) -> bool {
    matches!(state, TaskState::Failed | TaskState::TimedOut | TaskState::Lost)
}

/// The state of a run that ended as its only task did, or by a stop.
pub(crate) fn run_state(state: TaskState) -> RunState {
    match state {
        TaskState::Succeeded => RunState::Succeeded,
        TaskState::Cancelled => RunState::Cancelled,
        TaskState::TimedOut => RunState::TimedOut,
        TaskState::Lost => RunState::Lost,
        TaskState::Interrupted => RunState::Interrupted,
        _ => RunState::Failed,
    }
}

fn nodes(plan: &Plan, names: &Names) -> Result<Vec<Node>, String> {
    let mut needs = Vec::with_capacity(plan.tasks.len());
    for task in &plan.tasks {
        let find = |need: &Name| {
            let found = names.tasks.get(need).copied();
            found.ok_or_else(|| format!("task `{}` needs `{need}`, which there is not", task.name))
        };
        let found: BTreeSet<usize> = task.needs.iter().map(find).collect::<Result<_, _>>()?;
        needs.push(found.into_iter().collect::<Vec<_>>());
    }
    if let Some(Circle(path)) = circle(&needs) {
        let path: Vec<_> = path.iter().chain(path.first()).map(|task| plan.tasks[*task].name.as_str()).collect();
        return Err(format!("tasks wait for each other: {}", path.join(" → ")));
    }
    let mut nodes = Vec::with_capacity(needs.len());
    for (task, needs) in plan.tasks.iter().zip(needs) {
        let when = task.when.as_deref().map(when::parse).transpose();
        let when = when.map_err(|error| format!("`when` of task `{}`: {}", task.name, error.message))?;
        let (needed_by, outputs) = (Vec::new(), BTreeMap::new());
        nodes.push(Node { place: Place::Waiting, when, needs, needed_by, waits_for: 0, attempts: 0, outputs });
    }
    for index in 0..nodes.len() {
        for need in nodes[index].needs.clone() {
            nodes[need].needed_by.push(index);
        }
    }
    Ok(nodes)
}

/// All that can be reached from a task, without itself.
fn reached<'g>(from: usize, next: impl Fn(usize) -> &'g Vec<usize>) -> BTreeSet<usize> {
    let (mut found, mut look) = (BTreeSet::new(), vec![from]);
    while let Some(task) = look.pop() {
        look.extend(next(task).iter().filter(|next| found.insert(**next)));
    }
    found
}

/// The tasks of a run that goes on with one that ended: what succeeded is kept, everything else waits. So does a task,
/// and what needs it, that asks how others ended when one of those is redone; and with `task` given, that one and
/// everything downstream of it.
///
/// # Errors
/// The plan can't be followed, or has no such task.
pub(crate) fn redo(
    plan: &Plan,
    old: &BTreeMap<Name, TaskRecord>,
    task: Option<&Name>,
) -> Result<BTreeMap<Name, TaskRecord>, String> {
    let names = Names::of(plan)?;
    let nodes = nodes(plan, &names)?;
    let mut redone = BTreeSet::new();
    if let Some(name) = task {
        let Some(task) = names.tasks.get(name).copied() else {
            return Err(format!("the run has no task `{name}`; its tasks are listed with the run"));
        };
        redone = reached(task, |task| &nodes[task].needed_by);
        redone.insert(task);
    }
    let succeeded = |task: usize| old.get(&plan.tasks[task].name).is_some_and(|old| old.state == TaskState::Succeeded);
    for task in in_order(&nodes) {
        let asks = nodes[task].when.as_ref().is_some_and(When::looks_at_states);
        let asked_again = || reached(task, |task| &nodes[task].needs).iter().any(|need| redone.contains(need));
        // What went on after an allowed failure stays: its result does not rest on the failed task.
        let undone = |need: &usize| redone.contains(need) && succeeded(*need);
        if !succeeded(task) || nodes[task].needs.iter().any(undone) || (asks && asked_again()) {
            redone.insert(task);
        }
    }
    Ok(begun(plan, old, &redone))
}

fn begun(plan: &Plan, old: &BTreeMap<Name, TaskRecord>, redone: &BTreeSet<usize>) -> BTreeMap<Name, TaskRecord> {
    let task = |(index, name): (usize, &Name)| {
        let kept = old.get(name).filter(|_| !redone.contains(&index)).cloned();
        (name.clone(), kept.unwrap_or_default())
    };
    plan.tasks.iter().map(|task| &task.name).enumerate().map(task).collect()
}

/// Tasks by how long a chain of needs is before them. Empty for a plan that can't be followed.
pub(crate) fn levels(plan: &Plan) -> Vec<Vec<usize>> {
    let Ok(nodes) = Names::of(plan).and_then(|names| nodes(plan, &names)) else { return Vec::new() };
    let mut level_of = vec![0; nodes.len()];
    for task in in_order(&nodes) {
        level_of[task] = nodes[task].needs.iter().map(|need| level_of[*need] + 1).max().unwrap_or(0);
    }
    let mut levels = vec![Vec::new(); level_of.iter().max().map_or(0, |last| last + 1)];
    for (task, level) in level_of.into_iter().enumerate() {
        levels[level].push(task);
    }
    levels
}

/// Tasks, each after all it needs.
fn in_order(nodes: &[Node]) -> Vec<usize> {
    let mut waits: Vec<usize> = nodes.iter().map(|node| node.needs.len()).collect();
    let mut order: Vec<usize> = (0..nodes.len()).filter(|index| waits[*index] == 0).collect();
    let mut at = 0;
    while let Some(&task) = order.get(at) {
        at += 1;
        for &next in &nodes[task].needed_by {
            waits[next] -= 1;
            if waits[next] == 0 {
                order.push(next);
            }
        }
    }
    order
}

/// Tasks that wait for each other, in order: each needs the next, the last the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Circle(pub(crate) Vec<usize>);

/// A circle in what tasks need, if there is one. Not recursive: a plan may be one long chain.
pub(crate) fn circle(needs: &[Vec<usize>]) -> Option<Circle> {
    /// How far the search is with a task.
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        Not,
        OnPath,
        Done,
    }
    let mut seen = vec![Seen::Not; needs.len()];
    for start in 0..needs.len() {
        if seen[start] != Seen::Not {
            continue;
        }
        seen[start] = Seen::OnPath;
        // Tasks of the path, and how many of their needs are looked at.
        let mut path = vec![(start, 0)];
        while let Some((task, looked)) = path.last_mut() {
            let Some(&need) = needs[*task].get(*looked) else {
                seen[*task] = Seen::Done;
                path.pop();
                continue;
            };
            *looked += 1;
            match seen[need] {
                Seen::Not => {
                    seen[need] = Seen::OnPath;
                    path.push((need, 0));
                }
                Seen::OnPath => {
                    let begin = path.iter().position(|(task, _)| *task == need).expect("it is on the path");
                    return Some(Circle(path[begin..].iter().map(|(task, _)| *task).collect()));
                }
                Seen::Done => {}
            }
        }
    }
    None
}

#[cfg(test)]
#[path = "graph_tests.rs"]
mod tests;
