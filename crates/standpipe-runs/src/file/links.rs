//! What the names in a file mean: `needs`, `when`, `inputs` and parameters are looked up, circles are found, matrices
//! multiplied. Everything that refers to a task is checked here, before anything starts.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::FileBounds;
use super::members::members;
use super::params::Param;
use super::problems::{Problems, suggestion};
use super::task::Draft;
use super::tree::Span;
use crate::graph::{Circle, circle};
use crate::name::Name;
use crate::plan::{PARAMS_BEGIN, Task, param_of};
use crate::when::{self, Refers};

/// Needs of all tasks together, members counted; each is a line of the run's record.
const NEEDS_MAX: usize = 20_000;

/// The tasks of the plan, or `None` with what is wrong.
pub(super) fn link(
    drafts: &[Draft],
    whole_file: bool,
    params: &BTreeMap<String, Param>,
    bounds: &FileBounds,
    problems: &mut Problems<'_>,
) -> Option<Vec<Task>> {
    let expanded = expand(drafts, bounds, problems)?;
    let named = Names::of(drafts, &expanded, problems);
    let needs: Vec<Vec<usize>> = drafts.iter().map(|draft| named.needs(draft, whole_file, problems)).collect();
    if let Some(circle) = circle(&needs) {
        report_circle(drafts, &circle, problems);
        return None;
    }
    for (index, draft) in drafts.iter().enumerate() {
        let ancestors = ancestors(&needs, index);
        let check = Check { draft, ancestors: &ancestors, named: &named, params, whole_file };
        check.when(problems);
        check.inputs(problems);
        check.params(problems);
    }
    tasks(drafts, expanded, &named, problems)
}

fn expand(drafts: &[Draft], bounds: &FileBounds, problems: &mut Problems<'_>) -> Option<Vec<Vec<Task>>> {
    let mut room = bounds.tasks_max;
    let mut expanded = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let before = problems.is_empty();
        let Some(tasks) = members(draft, room, problems) else {
            if before == problems.is_empty() {
                let message = format!("more than {} tasks, the members of matrices counted", bounds.tasks_max);
                let span = if draft.matrix.is_empty() { &draft.name_span } else { &draft.matrix_span };
                problems.add(span, message, "divide the pipeline, or raise pipeline_tasks_max");
            }
            return None;
        };
        room -= tasks.len();
        expanded.push(tasks);
    }
    Some(expanded)
}

/// Tasks of the file by their names: as written, and as members of a matrix.
struct Names {
    /// Name as written, or of one member → the draft, and the tasks that are meant.
    meant: HashMap<String, (usize, Vec<Name>)>,
}

impl Names {
    fn of(drafts: &[Draft], expanded: &[Vec<Task>], problems: &mut Problems<'_>) -> Self {
        let mut named = Self { meant: HashMap::new() };
        for (index, (draft, tasks)) in drafts.iter().zip(expanded).enumerate() {
            let base = draft.name.as_str();
            let all = tasks.iter().map(|task| task.name.clone()).collect();
            named.add(base, index, all, &draft.name_span, problems);
            for task in tasks.iter().filter(|task| task.name != draft.name) {
                named.add(task.name.as_str(), index, vec![task.name.clone()], &draft.matrix_span, problems);
            }
        }
        named
    }

    fn add(&mut self, name: &str, draft: usize, means: Vec<Name>, span: &Span, problems: &mut Problems<'_>) {
        if self.meant.insert(name.to_owned(), (draft, means)).is_some() {
            let help = "members of a matrix are named after their values; rename one";
            problems.add(span, format!("two tasks are called `{name}`"), help);
        }
    }

    fn needs(&self, draft: &Draft, whole_file: bool, problems: &mut Problems<'_>) -> Vec<usize> {
        let found = draft.needs.iter().filter_map(|(name, span)| self.find(name, span, whole_file, problems));
        found.collect()
    }

    /// The draft of a name. A task that could not be read makes no second problem of those that name it.
    fn find(&self, name: &str, span: &Span, whole_file: bool, problems: &mut Problems<'_>) -> Option<usize> {
        let found = self.meant.get(name).map(|(draft, _)| *draft);
        if found.is_none() && whole_file {
            let help = suggestion(name, self.meant.keys().map(String::as_str))
                .unwrap_or_else(|| "name a task of this file".to_owned());
            problems.add(span, format!("there is no task `{name}`"), help);
        }
        found
    }
}

fn report_circle(drafts: &[Draft], Circle(path): &Circle, problems: &mut Problems<'_>) {
    let names: Vec<&str> = path.iter().chain(path.first()).map(|index| drafts[*index].name.as_str()).collect();
    let first = &drafts[path[0]];
    let next = drafts[path[1 % path.len()]].name.as_str();
    let span = first.needs.iter().find(|(name, _)| name == next).map_or(&first.name_span, |(_, span)| span);
    problems.add(span, format!("tasks wait for each other: {}", names.join(" → ")), "remove one of these `needs`");
}

/// All that a task needs, directly or not.
fn ancestors(needs: &[Vec<usize>], of: usize) -> HashSet<usize> {
    let (mut found, mut look) = (HashSet::new(), needs[of].clone());
    while let Some(next) = look.pop() {
        if found.insert(next) {
            look.extend(&needs[next]);
        }
    }
    found
}

struct Check<'c> {
    draft: &'c Draft,
    ancestors: &'c HashSet<usize>,
    named: &'c Names,
    params: &'c BTreeMap<String, Param>,
    whole_file: bool,
}

impl Check<'_> {
    fn when(&self, problems: &mut Problems<'_>) {
        let Some(text) = &self.draft.task.when else { return };
        let span = &self.draft.when_span;
        let condition = match when::parse(text) {
            Ok(condition) => condition,
            Err(why) => return problems.add(span, format!("`when`: {}", why.message), why.help),
        };
        condition.each_reference(&mut |refers| match refers {
            Refers::Task(task) => self.ended_before(task, span, problems),
            Refers::Output { task, .. } => {
                self.ended_before(task, span, problems);
                self.one_member(task, span, problems);
            }
            Refers::Param(name) => self.param(name, span, problems),
            Refers::Matrix(list) => {
                if !self.draft.matrix.iter().any(|(have, _)| have == list) {
                    let help = "name a list of this task's own matrix";
                    problems.add(span, format!("`when`: the task has no matrix list `{list}`"), help);
                }
            }
        });
    }

    /// Only what is needed has certainly ended when the condition is decided.
    fn ended_before(&self, task: &str, span: &Span, problems: &mut Problems<'_>) {
        let Some(found) = self.named.find(task, span, self.whole_file, problems) else { return };
        if !self.ancestors.contains(&found) && self.whole_file {
            let message = format!("`{}` does not need `{task}`, which may not have ended", self.draft.name);
            problems.add(span, message, format!("add \"{task}\" to its `needs`"));
        }
    }

    fn one_member(&self, task: &str, span: &Span, problems: &mut Problems<'_>) {
        if let Some((_, members)) = self.named.meant.get(task).filter(|(_, members)| members.len() > 1) {
            let help = format!("name one member, such as `{}`", members[0]);
            problems.add(span, format!("`{task}` is a matrix, and each member has outputs of its own"), help);
        }
    }

    fn inputs(&self, problems: &mut Problems<'_>) {
        for (variable, source) in &self.draft.task.inputs {
            let span = self.draft.input_spans.get(variable).unwrap_or(&self.draft.name_span);
            if let Some((task, _)) = source.rsplit_once('.') {
                self.ended_before(task, span, problems);
                self.one_member(task, span, problems);
            }
        }
    }

    /// `${params.x}` is a whole argument.
    fn params(&self, problems: &mut Problems<'_>) {
        let command = &self.draft.task.command;
        let (argv, env) = (command.argv.iter(), command.env.values());
        for (text, is_argument) in argv.map(|text| (text, true)).chain(env.map(|text| (text, false))) {
            match param_of(text) {
                Some(name) if is_argument => self.param(name, &self.draft.command_span, problems),
                Some(_) => {
                    let help = "every task has it as the variable PARAM_X already; remove this one";
                    problems.add(&self.draft.command_span, format!("{text} in a variable"), help);
                }
                None if text.contains(PARAMS_BEGIN) => {
                    let help = "it stands for a whole argument, such as \"${params.x}\"; every task also has PARAM_X";
                    problems.add(&self.draft.command_span, format!("a parameter inside of {text:?}"), help);
                }
                None => {}
            }
        }
    }

    fn param(&self, name: &str, span: &Span, problems: &mut Problems<'_>) {
        if !self.params.contains_key(name) {
            let help = suggestion(name, self.params.keys().map(String::as_str))
                .unwrap_or_else(|| format!("declare it: [params], then {name} = \"default\""));
            problems.add(span, format!("there is no parameter `{name}`"), help);
        }
    }
}

/// The tasks with what they need, members and all.
fn tasks(drafts: &[Draft], expanded: Vec<Vec<Task>>, named: &Names, problems: &mut Problems<'_>) -> Option<Vec<Task>> {
    let (mut tasks, mut count) = (Vec::new(), 0);
    let meant: Vec<Vec<Name>> = drafts.iter().map(|draft| meant(draft, named)).collect();
    for ((draft, members), needs) in drafts.iter().zip(expanded).zip(meant) {
        count += needs.len() * members.len();
        if count > NEEDS_MAX {
            let help = "put a task between them that all of the later need and that needs all of the earlier";
            problems.add(&draft.name_span, format!("more than {NEEDS_MAX} needs, members counted"), help);
            return None;
        }
        tasks.extend(members.into_iter().map(|member| Task { needs: needs.clone(), ..member }));
    }
    Some(tasks)
}

fn meant(draft: &Draft, named: &Names) -> Vec<Name> {
    let mut names: Vec<Name> = Vec::new();
    let mut seen = HashSet::new();
    for (need, _) in &draft.needs {
        let meant = named.meant.get(need).into_iter().flat_map(|(_, tasks)| tasks);
        names.extend(meant.filter(|name| seen.insert((*name).clone())).cloned());
    }
    names
}
