//! `standpipe rules`: rules looked at without a server. `check` says what is wrong with a file, and with data
//! under it; `test` asks the rules what a table of requests expects.

mod table;

use std::io::{IsTerminal as _, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use standpipe_engine::{Databases, Engine, EngineConfig, database_names};
use standpipe_serve::Limits;
use standpipe_tree::rules::{Diagnostic, Violation};
use standpipe_tree::{RuleSet, RulesError};

use crate::cli::{RulesCheckArgs, RulesCommand, RulesTestArgs};
use crate::excerpt::excerpt;
use crate::exit::{Failure, Result};
use crate::node::with_limits;

/// The database that is meant where none is named.
const DEFAULT: &str = "default";
/// How many values that rules refuse are shown.
const SHOWN_MAX: usize = 10;

pub(crate) fn run(command: &RulesCommand, out: &mut dyn Write) -> Result<()> {
    match command {
        RulesCommand::Check(arguments) => check(arguments, out),
        RulesCommand::Test(arguments) => test(arguments, out),
    }
}

fn check(arguments: &RulesCheckArgs, out: &mut dyn Write) -> Result<()> {
    let rules = compiled(&arguments.file)?;
    let name = arguments.db.as_deref().unwrap_or(DEFAULT);
    if let Some(dir) = &arguments.data {
        check_folder(dir, name)?;
    }
    let (count, indexes) = (rules.rule_count(), rules.indexes().len());
    say(out, format_args!("{}: {count} rules, {indexes} indexes", arguments.file.display()))?;
    match &arguments.data {
        Some(dir) => check_data(&rules, dir, name, out),
        None => Ok(()),
    }
}

/// Refuses a folder without that database, which opening would make.
fn check_folder(dir: &Path, name: &str) -> Result<()> {
    std::fs::read_dir(dir).map_err(|error| Failure::file(dir, &error))?;
    if database_names(dir)?.iter().any(|have| have == name) {
        return Ok(());
    }
    let cause = format!("{} holds no database {name}", dir.display());
    Err(Failure::failed(cause).help("name a data folder, and with --db one of its databases"))
}

/// Says which values of a data folder the rules would refuse.
fn check_data(rules: &RuleSet, dir: &Path, name: &str, out: &mut dyn Write) -> Result<()> {
    let limits = Limits::default();
    let config = EngineConfig { databases: Databases::OnDemand, ..with_limits(dir, &limits) };
    let engine = Engine::open(config, std::sync::Arc::new(|_| {}))?;
    let (mut count, mut shown) = (0_u64, Vec::new());
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
    let snapshot = engine.database(name)?.try_snapshot()?;
    let audited = rules.audit(&snapshot, now_ms, |violation| {
        count += 1;
        if shown.len() < SHOWN_MAX {
            shown.push(violation);
        }
    });
    drop(snapshot);
    engine.close();
    audited.map_err(|error| Failure::failed(format!("{}: {error}", dir.display())))?;
    for Violation { path, rule, why } in &shown {
        say(out, format_args!("{path} {rule} {why}"))?;
    }
    if count > shown.len() as u64 {
        say(out, format_args!("and {} more", count - shown.len() as u64))?;
    }
    say(out, format_args!("{}: {count} values that .validate refuses, judged as nobody signed in", dir.display()))
}

fn test(arguments: &RulesTestArgs, out: &mut dyn Write) -> Result<()> {
    let rules = compiled(&arguments.file)?;
    let table = table::read(&arguments.table)?;
    let mut failed = 0;
    for (index, case) in table.cases.iter().enumerate() {
        let told = case.run(&rules, &table).map_err(|cause| {
            Failure::usage(format!("{}: case {}: {cause}", arguments.table.display(), index + 1))
                .help("docs/rules.md has the format of the table, and an example")
        })?;
        match told {
            Ok(()) => say(out, format_args!("ok    {} {case}", index + 1))?,
            Err(why) => {
                failed += 1;
                say(out, format_args!("FAIL  {} {case}\n      {why}", index + 1))?;
            }
        }
    }
    let count = table.cases.len();
    say(out, format_args!("{count} cases, {failed} failed"))?;
    if failed > 0 {
        let help = "mend the rules, or what the table expects";
        return Err(Failure::failed(format!("{failed} of {count} cases failed")).help(help));
    }
    Ok(())
}

fn say(out: &mut dyn Write, text: std::fmt::Arguments<'_>) -> Result<()> {
    writeln!(out, "{text}").map_err(|error| Failure::output(&error))
}

/// The rules of a file; what is wrong with them is told with their source.
fn compiled(file: &Path) -> Result<RuleSet> {
    let text = std::fs::read_to_string(file).map_err(|error| Failure::file(file, &error))?;
    RuleSet::compile(&text).map_err(|error| {
        let coloured = std::io::stderr().is_terminal();
        for diagnostic in error.diagnostics() {
            let Diagnostic { span, message, help, .. } = diagnostic;
            let shown = excerpt(&text, file, span.start..span.end.max(span.start), message, help.as_deref(), coloured);
            eprintln!("{shown}\n");
        }
        refused(file, &error)
    })
}

fn refused(file: &Path, error: &RulesError) -> Failure {
    let cause = format!("{}:{error}", file.display());
    let more = match error.diagnostics().len() {
        1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    Failure::failed(cause + &more).help("mend what is marked above; docs/rules.md describes the language")
}
