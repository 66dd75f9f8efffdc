//! One task of a file, as it is written: before its matrix is multiplied and before names mean anything.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::fields::{
    Fields, as_name, boolean, duration, entries, list, size, some_time, text, variable, variables, whole, word,
};
use super::problems::Problems;
use super::tree::{Entry, Node, Span, Value};
use crate::command::{Command, OutputLimits, PtySize, ResourceLimits, Secret, SecretSource, Stdin};
use crate::events::is_output_name;
use crate::name::Name;
use crate::plan::{Artefact, Backoff, Task, variable_of};

/// Attempts that a file may ask for.
const RETRIES_MAX: u64 = 100;
/// Lists of a matrix, and values of one list.
const LISTS_MAX: usize = 8;
const VALUES_MAX: usize = 256;

/// A task as written.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: Name,
    pub(super) name_span: Span,
    /// All but `needs` and `matrix`, which are names of the file's tasks and lists so far.
    pub(super) task: Task,
    pub(super) needs: Vec<(String, Span)>,
    pub(super) when_span: Span,
    /// Where each of the task's `inputs` stands.
    pub(super) input_spans: BTreeMap<String, Span>,
    /// Its lists, in the order of the file.
    pub(super) matrix: Vec<(String, Vec<String>)>,
    pub(super) matrix_span: Span,
    /// Combinations that are left out.
    pub(super) exclude: Vec<BTreeMap<String, String>>,
    /// Where its command stands.
    pub(super) command_span: Span,
}

/// Reads the task below a key.
pub(super) fn read(entry: &Entry, problems: &mut Problems<'_>) -> Option<Draft> {
    let called = as_name(&entry.key, &entry.key_span, problems);
    let mut fields = Fields::of(&entry.node, "a task", problems)?;
    let (argv, command_span) = argv(&mut fields, entry, problems);
    let command = command(&mut fields, argv, problems);
    let needs = fields.read("needs", problems, |node, problems| Some(words(node, problems))).unwrap_or_default();
    let when_span = fields.get("when").map_or(0..0, |node| node.span.clone());
    let when = fields.read("when", problems, word);
    let (inputs, input_spans) = fields.read("inputs", problems, inputs).unwrap_or_default();
    let matrix_span = fields.get("matrix").map_or(0..0, |node| node.span.clone());
    let (matrix, exclude) = fields.read("matrix", problems, matrix).unwrap_or_default();
    let whole = |node: &Node, problems: &mut Problems<'_>| whole(node, 0, RETRIES_MAX, problems);
    let retries = fields.read("retries", problems, whole).unwrap_or(0) as u32;
    let backoff = fields.read("backoff", problems, backoff).unwrap_or_default();
    let continue_on_failure = fields.read("continue_on_failure", problems, boolean).unwrap_or(false);
    let artefacts = fields.read("artefacts", problems, artefacts).unwrap_or_default();
    fields.finish(problems);
    let name = called?;
    let task = Task {
        name: name.clone(),
        command,
        needs: Vec::new(),
        when,
        retries,
        backoff,
        continue_on_failure,
        artefacts,
        inputs,
        matrix: BTreeMap::new(),
        member_of: None,
    };
    let name_span = entry.key_span.clone();
    Some(Draft { name, name_span, task, needs, when_span, input_spans, matrix, matrix_span, exclude, command_span })
}

/// `run`, a line for a shell, or `command`, a list of arguments.
fn argv(fields: &mut Fields<'_>, entry: &Entry, problems: &mut Problems<'_>) -> (Vec<String>, Span) {
    let (run, command) = (fields.get("run"), fields.get("command"));
    let span = run.or(command).map_or(entry.key_span.clone(), |node| node.span.clone());
    let argv = match (run, command) {
        (Some(run), None) => shell(run, problems),
        (None, Some(command)) => arguments(command, problems),
        (Some(_), Some(command)) => {
            problems.add(
                &command.span,
                "both `run` and `command`",
                "keep one: `run` is a shell's line, `command` a list",
            );
            None
        }
        (None, None) => {
            let help = "add run = \"a line for sh\" or command = [\"program\", \"argument\"]";
            problems.add(&entry.key_span, format!("task `{}` does nothing", entry.key), help);
            None
        }
    };
    (argv.unwrap_or_default(), span)
}

fn shell(node: &Node, problems: &mut Problems<'_>) -> Option<Vec<String>> {
    let line = text(node, problems)?;
    if line.trim().is_empty() {
        problems.add(&node.span, "an empty line for the shell", "say what it runs");
        return None;
    }
    // A value in the text of a line would be read by the shell as part of the program.
    for (begin, prefix) in [("${matrix.", "MATRIX_"), ("${params.", "PARAM_")] {
        if let Some(at) = line.find(begin) {
            let name: String = line[at + begin.len()..].chars().take_while(|c| *c != '}').collect();
            let help =
                format!("a line gets it as a variable: write \"${}\", with the quotes", variable_of(prefix, &name));
            problems.add(&node.span, format!("{begin}{name}}} in a line for the shell"), help);
            return None;
        }
    }
    Some(vec!["sh".to_owned(), "-c".to_owned(), line])
}

fn arguments(node: &Node, problems: &mut Problems<'_>) -> Option<Vec<String>> {
    let Value::List(items) = &node.value else {
        problems.add(&node.span, "`command` is a list of arguments", "write [\"program\", \"argument\"], or use `run`");
        return None;
    };
    let argv: Vec<String> = items.iter().filter_map(|item| word(item, problems)).collect();
    if argv.first().is_none_or(String::is_empty) {
        problems.add(&node.span, "no program", "the first item names it");
        return None;
    }
    (argv.len() == items.len()).then_some(argv)
}

fn command(fields: &mut Fields<'_>, argv: Vec<String>, problems: &mut Problems<'_>) -> Command {
    let (resources, output) = fields.read("limits", problems, limits).unwrap_or_default();
    Command {
        argv,
        cwd: fields.read("cwd", problems, text).map(PathBuf::from),
        env: fields.read("env", problems, variables).unwrap_or_default(),
        secrets: fields.read("secrets", problems, secrets).unwrap_or_default(),
        stdin: fields.read("stdin", problems, stdin).unwrap_or_default(),
        pty: fields.read("pty", problems, pty).flatten(),
        resources,
        timeout_ms: fields.read("timeout", problems, some_time),
        grace_ms: fields.read("grace", problems, duration),
        stall_ms: fields.read("stall", problems, some_time),
        output,
        event_prefix: fields.read("events", problems, text).filter(|prefix| !prefix.is_empty()),
    }
}

fn words(node: &Node, problems: &mut Problems<'_>) -> Vec<(String, Span)> {
    let item = |item: &Node| Some((word(item, problems)?, item.span.clone()));
    list(node).iter().filter_map(item).collect()
}

/// `["TOKEN"]`, which is the server's variable of that name, or `{ TOKEN = { file = "…" } }`.
fn secrets(node: &Node, problems: &mut Problems<'_>) -> Option<Vec<Secret>> {
    if let Value::Table(entries) = &node.value {
        return Some(entries.iter().filter_map(|entry| secret(entry, problems)).collect());
    }
    let named = words(node, problems).into_iter();
    let named = named.filter_map(|(name, span)| variable(&name, &span, problems));
    Some(named.map(|name| Secret { from: SecretSource::Env(name.clone()), name }).collect())
}

fn secret(entry: &Entry, problems: &mut Problems<'_>) -> Option<Secret> {
    let name = variable(&entry.key, &entry.key_span, problems);
    let mut fields = Fields::of(&entry.node, "a secret", problems)?;
    let file = fields.read("file", problems, text).map(|path| SecretSource::File(path.into()));
    let env = fields.read("env", problems, text).map(SecretSource::Env);
    fields.finish(problems);
    let from = match (file, env) {
        (Some(from), None) | (None, Some(from)) => from,
        _ => {
            let help = "write { file = \"/path\" } or { env = \"VARIABLE\" }; a value itself does not belong here";
            problems.add(&entry.node.span, "a secret comes from one place", help);
            return None;
        }
    };
    Some(Secret { name: name?, from })
}

/// Text, or `{ stream = "path" }`.
fn stdin(node: &Node, problems: &mut Problems<'_>) -> Option<Stdin> {
    if !matches!(node.value, Value::Table(_)) {
        return text(node, problems).map(Stdin::Data);
    }
    let mut fields = Fields::of(node, "stdin", problems)?;
    let stream = fields.read("stream", problems, text).map(Stdin::Stream);
    fields.finish(problems);
    stream
}

/// `true`, `false`, or `{ rows, cols }`.
fn pty(node: &Node, problems: &mut Problems<'_>) -> Option<Option<PtySize>> {
    let usual = PtySize { rows: 24, cols: 80 };
    if !matches!(node.value, Value::Table(_)) {
        return boolean(node, problems).map(|yes| yes.then_some(usual));
    }
    let mut fields = Fields::of(node, "pty", problems)?;
    let cells = |node: &Node, problems: &mut Problems<'_>| whole(node, 1, 1_000, problems).map(|number| number as u16);
    let rows = fields.read("rows", problems, cells).unwrap_or(usual.rows);
    let cols = fields.read("cols", problems, cells).unwrap_or(usual.cols);
    fields.finish(problems);
    Some(Some(PtySize { rows, cols }))
}

fn limits(node: &Node, problems: &mut Problems<'_>) -> Option<(ResourceLimits, OutputLimits)> {
    let mut fields = Fields::of(node, "limits", problems)?;
    let count = |node: &Node, problems: &mut Problems<'_>| whole(node, 1, 1 << 30, problems);
    let resources = ResourceLimits {
        cpu_s: fields.read("cpu", problems, some_time).map(|ms| ms.div_ceil(1_000)),
        memory_bytes: fields.read("memory", problems, size),
        files: fields.read("files", problems, count),
        processes: fields.read("processes", problems, count),
    };
    let output = OutputLimits {
        line_bytes_max: fields.read("line", problems, size).map(|bytes| bytes as usize),
        bytes_max: fields.read("output", problems, size),
        bytes_per_s_max: fields.read("output_per_s", problems, size),
    };
    fields.finish(problems);
    Some((resources, output))
}

/// A duration, or `{ first, max }`.
fn backoff(node: &Node, problems: &mut Problems<'_>) -> Option<Backoff> {
    let usual = Backoff::default();
    if !matches!(node.value, Value::Table(_)) {
        let first_ms = duration(node, problems)?;
        return Some(Backoff { first_ms, max_ms: usual.max_ms.max(first_ms) });
    }
    let mut fields = Fields::of(node, "backoff", problems)?;
    let first_ms = fields.read("first", problems, duration).unwrap_or(usual.first_ms);
    let max_ms = fields.read("max", problems, duration).unwrap_or(usual.max_ms.max(first_ms));
    fields.finish(problems);
    if max_ms < first_ms {
        problems.add(&node.span, "`max` is shorter than `first`", "make `max` at least as long");
    }
    Some(Backoff { first_ms, max_ms })
}

/// `{ report = "out/report.html" }`, or with `{ path, max, optional }` instead of the path.
fn artefacts(node: &Node, problems: &mut Problems<'_>) -> Option<Vec<Artefact>> {
    let entries = entries(node, "artefacts (name and file)", problems)?;
    Some(entries.iter().filter_map(|entry| artefact(entry, problems)).collect())
}

fn artefact(entry: &Entry, problems: &mut Problems<'_>) -> Option<Artefact> {
    let name = as_name(&entry.key, &entry.key_span, problems);
    let (path, bytes_max, optional) = if let Value::Table(_) = entry.node.value {
        let mut fields = Fields::of(&entry.node, "an artefact", problems)?;
        let path = fields.read("path", problems, text);
        let bytes_max = fields.read("max", problems, size);
        let optional = fields.read("optional", problems, boolean).unwrap_or(false);
        fields.finish(problems);
        (path, bytes_max, optional)
    } else {
        (text(&entry.node, problems), None, false)
    };
    let path = path?;
    if let Err(why) = crate::artefacts::relative(&path) {
        problems.add(&entry.node.span, why, "name a file inside the task's folder, such as \"out/report.html\"");
    }
    Some(Artefact { name: name?, path, bytes_max, optional })
}

/// Variable → `task.output`.
type Inputs = (BTreeMap<String, String>, BTreeMap<String, Span>);

fn inputs(node: &Node, problems: &mut Problems<'_>) -> Option<Inputs> {
    let (mut inputs, mut spans) = Inputs::default();
    for entry in entries(node, "inputs (variable and task.output)", problems)? {
        let variable = variable(&entry.key, &entry.key_span, problems);
        let source = text(&entry.node, problems);
        let Some((variable, source)) = variable.zip(source) else { continue };
        if source.rsplit_once('.').is_none_or(|(task, output)| task.is_empty() || !is_output_name(output)) {
            let help = "write \"task.output\": the task that says `::output name=value`, and the name";
            problems.add(&entry.node.span, format!("{source:?} names no output"), help);
            continue;
        }
        spans.insert(variable.clone(), entry.node.span.clone());
        inputs.insert(variable, source);
    }
    Some((inputs, spans))
}

/// Lists, and `exclude`.
type Matrix = (Vec<(String, Vec<String>)>, Vec<BTreeMap<String, String>>);

fn matrix(node: &Node, problems: &mut Problems<'_>) -> Option<Matrix> {
    let (mut lists, mut exclude) = Matrix::default();
    for entry in entries(node, "a matrix (name and list)", problems)? {
        if entry.key == "exclude" {
            exclude = list(&entry.node).iter().filter_map(|item| combination(item, problems)).collect();
            continue;
        }
        if as_name(&entry.key, &entry.key_span, problems).is_none() {
            continue;
        }
        let Value::List(items) = &entry.node.value else {
            problems.add(&entry.node.span, format!("`{}` is no list", entry.key), "write [\"one\", \"two\"]");
            continue;
        };
        let values: Vec<String> = items.iter().filter_map(|item| word(item, problems)).collect();
        if !(1..=VALUES_MAX).contains(&values.len()) {
            problems.add(&entry.node.span, format!("{} values", values.len()), format!("give it 1 to {VALUES_MAX}"));
            continue;
        }
        let variable = variable_of("MATRIX_", &entry.key);
        if lists.iter().any(|(list, _)| variable_of("MATRIX_", list) == variable) {
            problems.add(
                &entry.key_span,
                format!("a second list for the variable {variable}"),
                "call it something else",
            );
            continue;
        }
        lists.push((entry.key.clone(), values));
    }
    if !(1..=LISTS_MAX).contains(&lists.len()) {
        problems.add(&node.span, format!("{} lists in a matrix", lists.len()), format!("give it 1 to {LISTS_MAX}"));
        return None;
    }
    for combination in &exclude {
        for (key, value) in combination {
            if !lists.iter().any(|(list, values)| list == key && values.contains(value)) {
                let help = "an excluded combination names lists of this matrix and values in them";
                problems.add(&node.span, format!("`exclude` names {key} = {value:?}, which is not in it"), help);
            }
        }
    }
    Some((lists, exclude))
}

fn combination(node: &Node, problems: &mut Problems<'_>) -> Option<BTreeMap<String, String>> {
    let entries = entries(node, "an excluded combination", problems)?;
    Some(entries.iter().filter_map(|entry| Some((entry.key.clone(), word(&entry.node, problems)?))).collect())
}
