//! `standpipe pipeline`: `check` looks at a file without a server, `run` has a server follow it. What a file means is the
//! runs' business.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Read as _, Write};
use std::path::Path;

use serde_json::{Map, Value, json};
use standpipe_runs::{FileBounds, FileErrors, FileFormat, Pipeline, Task};
use standpipe_serve::Limits;

use crate::cli::{PipelineCheckArgs, PipelineCommand, PipelineRunArgs};
use crate::excerpt::excerpt;
use crate::exit::{Exit, Failure, Result};
use crate::runs::{folder, here, start, variables};

/// The most that is read of a file; what a server accepts is the server's limit.
const FILE_BYTES_MAX: usize = 16 << 20;
/// Tasks that are looked at before a file is sent, which is the server's to judge.
const TASKS_MAX: usize = 100_000;

/// `standpipe pipeline …`.
pub(crate) fn pipeline(command: &PipelineCommand, quiet: bool, out: &mut dyn Write) -> Result<Exit> {
    match command {
        PipelineCommand::Check(arguments) => check(arguments, out),
        PipelineCommand::Run(arguments) => run(arguments, quiet, out),
    }
}

fn check(arguments: &PipelineCheckArgs, out: &mut dyn Write) -> Result<Exit> {
    let limits = Limits::default();
    let bounds = FileBounds { bytes_max: limits.pipeline_bytes_max, tasks_max: limits.pipeline_tasks_max };
    let (_, _, pipeline) = read(&arguments.file, &bounds)?;
    let said = if arguments.json { format!("{}\n", as_json(&pipeline)) } else { as_text(&pipeline, &arguments.file) };
    out.write_all(said.as_bytes()).map_err(|error| Failure::output(&error))?;
    Ok(Exit::Ok)
}

fn run(arguments: &PipelineRunArgs, quiet: bool, out: &mut dyn Write) -> Result<Exit> {
    start("/runs", request(arguments), &arguments.server, (arguments.detach, quiet), out)
}

fn request(arguments: &PipelineRunArgs) -> Result<Value> {
    let bounds = FileBounds { bytes_max: FILE_BYTES_MAX, tasks_max: TASKS_MAX };
    let (text, format, pipeline) = read(&arguments.file, &bounds)?;
    let here = here()?;
    let mut request = json!({
        "pipeline": { "text": text, "format": format.as_str() },
        "cwd": folder(arguments.cwd.as_deref(), &here)?,
        "env": variables(&arguments.env, arguments.env_all, &[])?,
        "params": params(&arguments.param)?,
    });
    let name = arguments.name.clone().or(pipeline.name).or_else(|| name_of(&arguments.file));
    if let Some(name) = name {
        request["name"] = name.as_str().into();
    }
    if let Some(group) = &arguments.group {
        request["group"] = group.as_str().into();
    }
    Ok(request)
}

/// All parameters of a pipeline are text.
fn params(given: &[String]) -> Result<Map<String, Value>> {
    let pair = |text: &String| {
        let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
        let (name, value) = pair.ok_or_else(|| {
            Failure::usage(format!("--param {text}: no NAME=VALUE")).help("as in --param target=release")
        })?;
        Ok((name.to_owned(), value.into()))
    };
    given.iter().map(pair).collect()
}

/// The file's name without its end, as far as it is one for a run.
fn name_of(file: &Path) -> Option<standpipe_runs::Name> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '-' };
    let name: String = file.file_stem()?.to_str()?.chars().map(plain).take(64).collect();
    name.trim_start_matches('-').parse().ok()
}

/// A file's text and what it means; what is wrong with it is shown with its lines.
fn read(file: &Path, bounds: &FileBounds) -> Result<(String, FileFormat, Pipeline)> {
    let format = FileFormat::of(file).ok_or_else(|| {
        Failure::usage(format!("{}: neither .toml nor .yaml", file.display()))
            .help("the end of the file's name says how it is written")
    })?;
    let opened = std::fs::File::open(file).map_err(|error| Failure::file(file, &error))?;
    let mut text = Vec::new();
    let most = bounds.bytes_max as u64 + 1;
    opened.take(most).read_to_end(&mut text).map_err(|error| Failure::file(file, &error))?;
    let text = String::from_utf8(text).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::usage(format!("{}: no UTF-8 after {at} bytes", file.display())).help("save it as UTF-8")
    })?;
    match Pipeline::read(&text, format, bounds) {
        Ok(pipeline) => Ok((text, format, pipeline)),
        Err(errors) => Err(refused(file, &text, &errors)),
    }
}

fn refused(file: &Path, text: &str, errors: &FileErrors) -> Failure {
    let coloured = std::io::stderr().is_terminal();
    for error in &errors.errors {
        let shown = excerpt(text, file, error.span.clone(), &error.message, Some(&error.help), coloured);
        eprintln!("{shown}\n");
    }
    let first = &errors.errors[0];
    let more = match (errors.errors.len(), errors.more) {
        (1, false) => String::new(),
        (count, false) => format!(" (and {} more)", count - 1),
        (count, true) => format!(" (and more than {} more)", count - 1),
    };
    Failure::usage(format!("{}:{}:{}: {}{more}", file.display(), first.line, first.column, first.message))
        .help(format!("{}; docs/pipelines.md describes the file", first.help))
}

fn as_text(pipeline: &Pipeline, file: &Path) -> String {
    let plan = pipeline.plan();
    let levels = plan.levels();
    let mut text = format!("{}: {}, {}", file.display(), count(plan.tasks.len(), "task"), count(levels.len(), "level"));
    for (level, tasks) in levels.iter().enumerate() {
        for (index, task) in tasks.iter().enumerate() {
            let number = if index == 0 { (level + 1).to_string() } else { String::new() };
            let _infallible = write!(text, "\n{number:>3}  {}", line(task));
        }
    }
    for (name, param) in &pipeline.params {
        let value = param.default.as_ref().map_or_else(|| "must be given".to_owned(), |value| format!("{value:?}"));
        let choices =
            if param.choices.is_empty() { String::new() } else { format!(", of {}", param.choices.join(" ")) };
        let _infallible = write!(text, "\n     --param {name}: {value}{choices}");
    }
    text.push('\n');
    text
}

fn count(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A task: its name, its values of a matrix, what it needs and when it runs.
fn line(task: &Task) -> String {
    /// Needs that are named; a task after a large matrix has hundreds.
    const NEEDS_MAX: usize = 8;
    let mut text = task.name.to_string();
    if !task.matrix.is_empty() {
        let values = task.matrix.iter().map(|(list, value)| format!("{list}={value}"));
        let _infallible = write!(text, " ({})", values.collect::<Vec<_>>().join(", "));
    }
    if !task.needs.is_empty() {
        let needs = task.needs.iter().take(NEEDS_MAX).map(|need| need.as_str());
        let _infallible = write!(text, " after {}", needs.collect::<Vec<_>>().join(", "));
        if task.needs.len() > NEEDS_MAX {
            let _infallible = write!(text, " and {} more", task.needs.len() - NEEDS_MAX);
        }
    }
    if let Some(when) = &task.when {
        let _infallible = write!(text, " when {when}");
    }
    text
}

fn as_json(pipeline: &Pipeline) -> Value {
    let plan = pipeline.plan();
    let tasks = plan.levels().into_iter().enumerate().flat_map(|(level, tasks)| {
        tasks.into_iter().map(move |task| {
            let Task { name, needs, when, matrix, .. } = task;
            json!({ "name": name, "level": level + 1, "needs": needs, "when": when, "matrix": matrix })
        })
    });
    json!({ "name": pipeline.name, "tasks": tasks.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline(text: &str) -> Pipeline {
        let bounds = FileBounds { bytes_max: 1 << 20, tasks_max: 100 };
        Pipeline::read(text, FileFormat::Toml, &bounds).unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn a_plan_is_shown_level_by_level() {
        let text = "[params]\nto = { choices = ['a', 'b'] }\n[task.c]\nrun = 'x'\nneeds = ['a', 'b']\nwhen = 'always()'\n\
                    [task.a]\nrun = 'x'\n[task.b]\nrun = 'x'\nneeds = 'a'\nmatrix = { os = ['l', 'm'] }\n";
        let pipeline = pipeline(text);
        assert_eq!(
            as_text(&pipeline, Path::new("p.toml")),
            "p.toml: 4 tasks, 3 levels\n  1  a\n  2  b-l (os=l) after a\n     b-m (os=m) after a\n  3  c after a, b-l, b-m when \
             always()\n     --param to: must be given, of a b\n"
        );
        let json = as_json(&pipeline);
        assert_eq!(
            json["tasks"][1],
            json!({"name": "b-l", "level": 2, "needs": ["a"], "when": null, "matrix": {"os": "l"}})
        );
    }

    #[test]
    fn a_run_is_named_after_its_file() {
        let check = |file: &str, name: Option<&str>| {
            assert_eq!(name_of(Path::new(file)).map(String::from).as_deref(), name, "{file}");
        };
        check("ci/nightly build.toml", Some("nightly-build"));
        check("-.toml", None);
        check(&format!("{}.yaml", "x".repeat(100)), Some(&"x".repeat(64)));
    }
}
