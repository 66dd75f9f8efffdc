//! `standpipe run`, `runs …`, `jobs …` and `job …`: what each asks a server for, and how it shows the answer. Runs are
//! started and followed in `start` and `attach`; nothing here knows how a server runs anything.

mod attach;
mod show;
mod start;

use std::io::Write;

use http::Method;
use serde_json::{Map, Value, json};

use crate::cli::{
    ArtefactArgs, JobCommand, JobRunArgs, JobsCommand, ListArgs, LogsArgs, PruneArgs, RefArgs, RetryArgs, RunsCommand,
    ServerArgs, ShowArgs, StopArgs,
};
use crate::client::Client;
use crate::client::control::{address, query};
use crate::client::logs::{self, Begin};
use crate::exit::{Exit, Failure, Result};

pub(crate) use attach::start;
use attach::{Started, leave};
pub(crate) use start::{folder, here, run, variables};

/// The server that is meant, for who may have commands run.
pub(crate) fn server(arguments: &ServerArgs) -> Result<Client> {
    Client::operator(&arguments.url, &arguments.access())
}

/// `standpipe runs …`.
pub(crate) fn runs(command: &RunsCommand, out: &mut dyn Write) -> Result<Exit> {
    match command {
        RunsCommand::List(arguments) => list(arguments, out)?,
        RunsCommand::Show(arguments) => one(arguments, out)?,
        RunsCommand::Logs(arguments) => return logs(arguments, out),
        RunsCommand::Stop(arguments) => stop(arguments, out)?,
        RunsCommand::Retry(arguments) => retry(arguments, out)?,
        RunsCommand::Resume(arguments) => resume(arguments, out)?,
        RunsCommand::Prune(arguments) => prune(arguments, out)?,
        RunsCommand::Artefact(arguments) => artefact(arguments, out)?,
    }
    Ok(Exit::Ok)
}

/// `standpipe jobs …`.
pub(crate) fn jobs(command: &JobsCommand, out: &mut dyn Write) -> Result<()> {
    let JobsCommand::List { json, server: arguments } = command;
    let client = server(arguments)?;
    let answer: Value = client.block_on(client.control(Method::GET, "/jobs", None))?;
    if *json { line(out, &answer) } else { write(out, &show::jobs(&answer)) }
}

/// `standpipe job …`.
pub(crate) fn job(command: &JobCommand, quiet: bool, out: &mut dyn Write) -> Result<Exit> {
    let JobCommand::Run(JobRunArgs { name, param, detach, server: arguments }) = command;
    let target = address(&["jobs", name.as_str()]);
    start(&target, parameters(param).map(Value::from), arguments, (*detach, quiet), out)
}

/// `k=v` as a job takes it: JSON where it is a number or a boolean, else text.
pub(crate) fn parameters(given: &[String]) -> Result<Map<String, Value>> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
            Failure::usage(format!("--param {text}: no NAME=VALUE")).help("as in --param branch=main")
        })?;
        let value = match serde_json::from_str(value) {
            Ok(value @ (Value::Number(_) | Value::Bool(_))) => value,
            _ => value.into(),
        };
        Ok((name.to_owned(), value))
    };
    given.iter().map(pair).collect()
}

fn line(out: &mut dyn Write, value: &Value) -> Result<()> {
    write(out, &format!("{value}\n"))
}

fn write(out: &mut dyn Write, text: &str) -> Result<()> {
    out.write_all(text.as_bytes()).map_err(|error| Failure::output(&error))
}

/// The largest number of runs of one answer.
const PAGE_MAX: usize = 1_000;

fn list(arguments: &ListArgs, out: &mut dyn Write) -> Result<()> {
    let client = server(&arguments.server)?;
    let states = (!arguments.state.is_empty()).then(|| arguments.state.join(","));
    let (mut all, mut before): (Vec<Value>, Option<String>) = (Vec::new(), None);
    // Page by page, so that a server that keeps many is asked for no more than is wanted.
    while all.len() < arguments.limit {
        let target = format!(
            "/runs{}",
            query(&[
                ("name", arguments.name.as_ref().map(ToString::to_string)),
                ("state", states.clone()),
                ("before", before.take()),
                ("limit", Some((arguments.limit - all.len()).min(PAGE_MAX).to_string())),
            ])
        );
        let mut page: Value = client.block_on(client.control(Method::GET, &target, None))?;
        before = page["next"].as_str().map(str::to_owned);
        if let Value::Array(runs) = page["runs"].take() {
            all.extend(runs);
        }
        if before.is_none() {
            break;
        }
    }
    if arguments.json { line(out, &json!({ "runs": all })) } else { write(out, &show::list(&all)) }
}

fn one(arguments: &ShowArgs, out: &mut dyn Write) -> Result<()> {
    let client = server(&arguments.run.server)?;
    let target = address(&["runs", &arguments.run.run]);
    let run: Value = client.block_on(client.control(Method::GET, &target, None))?;
    if arguments.json { line(out, &run) } else { write(out, &show::run(&run)) }
}

fn logs(arguments: &LogsArgs, out: &mut dyn Write) -> Result<Exit> {
    let client = server(&arguments.run.server)?;
    let run = &arguments.run.run;
    let at = match &arguments.task {
        Some(task) => format!("/runs/{run}/tasks/{task}/out"),
        None => format!("/runs/{run}/out"),
    };
    let begin = arguments.tail.map_or(Begin::Start, Begin::Tail);
    let err = &mut std::io::stderr();
    let followed = client.block_on(logs::follow(&client, &at, begin, arguments.follow, out, err));
    followed.map_err(crate::client::control::about_runs)?;
    Ok(Exit::Ok)
}

fn stop(arguments: &StopArgs, out: &mut dyn Write) -> Result<()> {
    let client = server(&arguments.run.server)?;
    let mut body = json!({ "wait": true });
    if let Some(grace) = arguments.grace {
        body["grace"] = format!("{}ms", grace.as_millis()).into();
    }
    let at = address(&["runs", &arguments.run.run]);
    let mut run: Value = client.block_on(client.control(Method::POST, &format!("{at}/stop"), Some(&body)))?;
    // A name may mean another run by now.
    let id = run["id"].as_str().unwrap_or_default().to_owned();
    let at = address(&["runs", &id]);
    while !show::has_ended(&run) {
        run = client.block_on(client.control(Method::GET, &format!("{at}?wait=1"), None))?;
    }
    write(out, &format!("{id} {}\n", run["state"].as_str().unwrap_or_default()))
}

fn retry(arguments: &RetryArgs, out: &mut dyn Write) -> Result<()> {
    let client = server(&arguments.run.server)?;
    let body = arguments.task.as_ref().map_or_else(|| json!({}), |task| json!({ "task": task }));
    let target = format!("{}/retry", address(&["runs", &arguments.run.run]));
    let started: Started = client.block_on(client.control(Method::POST, &target, Some(&body)))?;
    leave(&client, &started, out)
}

fn resume(arguments: &RefArgs, out: &mut dyn Write) -> Result<()> {
    let client = server(&arguments.server)?;
    let target = format!("{}/resume", address(&["runs", &arguments.run]));
    let started: Started = client.block_on(client.control(Method::POST, &target, Some(&json!({}))))?;
    leave(&client, &started, out)
}

fn prune(arguments: &PruneArgs, out: &mut dyn Write) -> Result<()> {
    let PruneArgs { older_than, keep, name, state, all, server: at } = arguments;
    if older_than.is_none() && keep.is_none() && !all {
        return Err(Failure::usage("which runs? name an age or a number to keep")
            .help("as in --older-than 30d, or --keep 20; --all for all that have ended"));
    }
    let mut body = Map::new();
    if let Some(age) = older_than {
        body.insert("older_than_ms".into(), (age.as_millis() as u64).into());
    }
    if let Some(keep) = keep {
        body.insert("keep".into(), (*keep).into());
    }
    if let Some(name) = name {
        body.insert("name".into(), name.as_str().into());
    }
    if !state.is_empty() {
        body.insert("states".into(), state.clone().into());
    }
    let client = server(at)?;
    let answer: Value = client.block_on(client.control(Method::POST, "/runs/prune", Some(&body.into())))?;
    line(out, &answer)
}

fn artefact(arguments: &ArtefactArgs, out: &mut dyn Write) -> Result<()> {
    let client = server(&arguments.server)?;
    let target = address(&["runs", &arguments.run, "artefacts", arguments.task.as_str(), arguments.name.as_str()]);
    match &arguments.out {
        Some(path) => crate::commands::whole_file(path, |file| client.block_on(client.download(&target, file))),
        None => client.block_on(client.download(&target, out)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_have_a_name_and_a_type() {
        let got = parameters(&["a=1".into(), "b=true".into(), "c=x=y".into(), "d=".into(), "e=\"q\"".into()]).unwrap();
        assert_eq!(Value::from(got), json!({ "a": 1, "b": true, "c": "x=y", "d": "", "e": "\"q\"" }));
        for bad in ["a", "=b", ""] {
            assert!(parameters(&[bad.into()]).unwrap_err().to_string().contains("NAME=VALUE"), "{bad}");
        }
    }
}
