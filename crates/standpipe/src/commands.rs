//! From the command line to what does it: which call a verb makes, where its input comes from and
//! its output goes. The calls themselves are answered elsewhere.

use std::fs::File;
use std::io::{IsTerminal as _, Read, Write};
use std::path::Path;

use clap::CommandFactory as _;
use indicatif::ProgressBar;
use standpipe_doors::Render;
use tracing::level_filters::LevelFilter;

use crate::cli::{
    BackupArgs, CatArgs, Cli, Command, ConfigCommand, ExportArgs, ExportFormat, GetArgs, ImportArgs, NodeArgs, PutArgs,
    QueryArgs, RmArgs, Since, TokenArgs, TokenCommand, Verbosity, WatchArgs, WriteArgs,
};
use crate::client::logs::{Begin, Told};
use crate::client::position::Position;
use crate::client::{Call, Client, Target, Verb, import, logs, presence, watch};
use crate::config::{self, LogFormat, Mode, Settings};
use crate::exit::{Exit, Failure, Result};
use crate::{emulator, local, logging, mcp, mirror, node, pipe, pipeline, runs, token};

/// The largest value that one request may carry (the server's default limit).
const VALUE_BYTES_MAX: u64 = 256 << 20;

/// Does what the command line asks for.
pub(crate) fn run(cli: Cli) -> Result<Exit> {
    let verbosity = cli.verbosity;
    match &cli.command {
        Command::Guard { mark, group } => {
            standpipe_runs::guard(mark, group.as_deref());
            return Ok(Exit::Ok);
        }
        Command::Dev(arguments) => return serve(Mode::Dev, arguments, verbosity),
        Command::Serve(arguments) => return serve(Mode::Serve, arguments, verbosity),
        Command::Mcp(arguments) => return mcp::run(arguments, verbosity),
        // Servers in the foreground: -v tells of each reader.
        Command::Pipe(arguments) => {
            logging::start(LevelFilter::INFO, verbosity.steps(), LogFormat::Human)?;
            return pipe::run(arguments);
        }
        _ => logging::start(LevelFilter::WARN, verbosity.steps(), LogFormat::Human)?,
    }
    #[cfg(all(feature = "fuse", target_os = "linux"))]
    if let Command::Mount(arguments) = &cli.command {
        return crate::mount::run(arguments);
    }
    #[cfg(feature = "tui")]
    if let Command::Top(arguments) = &cli.command {
        return crate::top::run(arguments);
    }
    let out = &mut std::io::stdout().lock();
    match &cli.command {
        Command::Dev(_) | Command::Serve(_) | Command::Pipe(_) | Command::Mcp(_) | Command::Guard { .. } => {}
        Command::Get(arguments) => get(arguments, out)?,
        Command::Put(arguments) => put(arguments, verbosity)?,
        Command::Patch(arguments) => patch(arguments, verbosity)?,
        Command::Push(arguments) => push(arguments, verbosity, out)?,
        Command::Rm(arguments) => rm(arguments)?,
        Command::Watch(arguments) => follow(arguments, out)?,
        Command::Cat(arguments) => cat(arguments, out)?,
        #[cfg(all(feature = "fuse", target_os = "linux"))]
        Command::Mount(_) => {}
        #[cfg(feature = "tui")]
        Command::Top(_) => {}
        Command::Run(arguments) => return runs::run(arguments, verbosity.steps() < 0, out),
        Command::Pipeline(command) => return pipeline::pipeline(command, verbosity.steps() < 0, out),
        Command::Runs(command) => return runs::runs(command, out),
        Command::Jobs(command) => runs::jobs(command, out)?,
        Command::Job(command) => return runs::job(command, verbosity.steps() < 0, out),
        Command::Mirror(arguments) => mirror::run(arguments)?,
        Command::Import(arguments) => load(arguments, verbosity, out)?,
        Command::Export(arguments) => export(arguments, verbosity, out)?,
        Command::Backup(arguments) => backup(arguments, verbosity)?,
        Command::Restore(arguments) => local::restore(&arguments.source, &arguments.data, arguments.db.as_deref())?,
        Command::Verify(arguments) => local::verify(&arguments.data, arguments.db.as_deref(), out)?,
        Command::Token(TokenArgs { command: Some(TokenCommand::Keygen(arguments)), .. }) => token::keygen(arguments)?,
        Command::Token(TokenArgs { mint: Some(arguments), .. }) => token::mint(arguments, out)?,
        Command::Token(TokenArgs { .. }) => {
            return Err(Failure::usage("nothing to mint").help("standpipe token --key FILE --uid UID"));
        }
        Command::Config(ConfigCommand::Show { dev, defaults, node }) => {
            config::show(if *dev { Mode::Dev } else { Mode::Serve }, node, *defaults, out)?;
        }
        Command::Rules(command) => crate::rules::run(command, out)?,
        Command::Completions { shell } => completions(*shell, out)?,
        Command::Man { dir } => man(dir)?,
    }
    out.flush().map_err(|error| Failure::output(&error))?;
    Ok(Exit::Ok)
}

fn serve(mode: Mode, arguments: &NodeArgs, verbosity: Verbosity) -> Result<Exit> {
    let settings = Settings::load(mode, arguments)?;
    logging::start(LevelFilter::INFO, verbosity.steps(), settings.values.server.log_format)?;
    node::run(&settings)
}

fn get(arguments: &GetArgs, out: &mut dyn Write) -> Result<()> {
    let mut call = Call::new(Verb::Get, &arguments.path);
    call.query = parameters(&arguments.query);
    if arguments.pretty {
        call.query.push(("print", "pretty".into()));
    }
    if arguments.shallow {
        call.query.push(("shallow", "true".into()));
    }
    value(&call, &mut Target::open(&arguments.target)?, out)
}

/// Largest value that `cat` holds to write it in another form.
const CAT_BYTES_MAX: usize = 1 << 30;

fn cat(arguments: &CatArgs, out: &mut dyn Write) -> Result<()> {
    let client = Client::near(&arguments.url, &arguments.access)?;
    let render = arguments.render.map(Render::from);
    let title = format!("/{}", arguments.path.trim_matches('/'));
    let mut call = Call::new(Verb::Get, &arguments.path);
    call.query.push(("print", "pretty".into()));
    let mut document = client.block_on(client.fetch(&call, CAT_BYTES_MAX))?;
    let is_leaf = !matches!(document.first(), Some(b'{' | b'['));
    match render {
        None if is_leaf => document = as_document(Render::Text, &title, &document)?,
        None | Some(Render::Json) => document.push(b'\n'),
        Some(other) => document = as_document(other, &title, &document)?,
    }
    out.write_all(&document).map_err(|error| Failure::output(&error))
}

/// An answer in another form.
pub(crate) fn as_document(render: Render, title: &str, json: &[u8]) -> Result<Vec<u8>> {
    render.document(title, json).map_err(|error| Failure::failed(format!("the answer is no JSON: {error}")))
}

/// The parameters of a query. A bound that is no JSON is a string that lacks its quotes.
fn parameters(query: &QueryArgs) -> Vec<(&'static str, String)> {
    let bounds = [
        ("startAt", &query.start_at),
        ("startAfter", &query.start_after),
        ("endAt", &query.end_at),
        ("endBefore", &query.end_before),
        ("equalTo", &query.equal_to),
    ];
    let limits = [("limitToFirst", query.limit_to_first), ("limitToLast", query.limit_to_last)];
    let order = query.order_by.iter().map(|order| ("orderBy", serde_json::Value::from(order.as_str()).to_string()));
    let bounds = bounds.into_iter().filter_map(|(name, bound)| Some((name, json_or_text(bound.as_ref()?))));
    let limits = limits.into_iter().filter_map(|(name, limit)| Some((name, limit?.to_string())));
    order.chain(bounds).chain(limits).collect()
}

/// JSON, also a value and a key (`2,"k"`), as it is; anything else as a JSON string.
fn json_or_text(text: &str) -> String {
    let list: Result<Vec<serde::de::IgnoredAny>, _> = serde_json::from_str(&format!("[{text}]"));
    match list {
        Ok(values) if !values.is_empty() => text.to_owned(),
        _ => serde_json::Value::from(text).to_string(),
    }
}

fn put(arguments: &PutArgs, verbosity: Verbosity) -> Result<()> {
    let WriteArgs { path, value, .. } = &arguments.write;
    let call = Call { if_match: arguments.if_match.clone(), ..Call::silent(Verb::Put, path, input(value)?) };
    write(&arguments.write, call, verbosity, &mut |_| Ok(()))
}

/// Makes a write, once or for as long as this runs; `written` gets the answer.
fn write(
    arguments: &WriteArgs,
    call: Call,
    verbosity: Verbosity,
    written: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let target = &arguments.target;
    if arguments.while_connected {
        let mut say = |text: &str| {
            if verbosity.steps() >= 0 {
                eprintln!("{text}");
            }
        };
        return presence::hold(&Client::new(&target.url, &target.access)?, call, written, &mut say);
    }
    let mut answer = Vec::new();
    Target::open(target)?.call(&call, &mut answer)?;
    written(&answer)
}

fn rm(arguments: &RmArgs) -> Result<()> {
    let call = Call { if_match: arguments.if_match.clone(), ..Call::new(Verb::Delete, &arguments.path) };
    Target::open(&arguments.target)?.call(&call, &mut std::io::sink())
}

fn patch(arguments: &WriteArgs, verbosity: Verbosity) -> Result<()> {
    let call = Call::silent(Verb::Patch, &arguments.path, input(&arguments.value)?);
    write(arguments, call, verbosity, &mut |_| Ok(()))
}

fn push(arguments: &WriteArgs, verbosity: Verbosity, out: &mut dyn Write) -> Result<()> {
    let call = Call { body: input(&arguments.value)?.into(), ..Call::new(Verb::Push, &arguments.path) };
    write(arguments, call, verbosity, &mut |answer| {
        let key = pushed(answer).ok_or_else(|| Failure::failed("the answer names no key"))?;
        writeln!(out, "{key}").and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
    })
}

/// The new key in the answer to a push, as JSON.
fn pushed(answer: &[u8]) -> Option<serde_json::Value> {
    let mut answer: serde_json::Value = serde_json::from_slice(answer).ok()?;
    Some(answer.get_mut("name")?.take())
}

/// Makes the call and prints its answer as a line.
fn value(call: &Call, target: &mut Target, out: &mut dyn Write) -> Result<()> {
    target.call(call, out)?;
    out.write_all(b"\n").map_err(|error| Failure::output(&error))
}

/// The value an argument means: the text itself, a file's, or stdin's.
fn input(argument: &str) -> Result<Vec<u8>> {
    let read = |source: &mut dyn Read, name: &Path| {
        let mut bytes = Vec::new();
        source.take(VALUE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| Failure::file(name, &error))?;
        if bytes.len() as u64 > VALUE_BYTES_MAX {
            return Err(Failure::failed(format!("{}: larger than {VALUE_BYTES_MAX} bytes", name.display()))
                .help("load it in pieces: standpipe import FILE --path PATH"));
        }
        Ok(bytes)
    };
    match (argument, argument.strip_prefix('@')) {
        ("-", _) => {
            let stdin = std::io::stdin();
            if stdin.is_terminal() {
                eprintln!("type the value as JSON, then Ctrl-D");
            }
            read(&mut stdin.lock(), Path::new("stdin"))
        }
        (_, Some(file)) => {
            let file = Path::new(file);
            read(&mut File::open(file).map_err(|error| Failure::file(file, &error))?, file)
        }
        (text, None) => Ok(text.as_bytes().to_vec()),
    }
}

/// Is this where a stream is that has no value of its own: the output of a run, or of one of its tasks?
fn is_output(path: &str) -> bool {
    let keys: Vec<&str> = path.split('/').filter(|key| !key.is_empty()).collect();
    matches!(keys[..], ["runs", _, "out"] | ["runs", _, "tasks", _, "out"])
}

/// Shows the output of a run as it comes, and how it ended.
fn output(client: &Client, arguments: &WatchArgs, out: &mut dyn Write) -> Result<()> {
    let begin = match arguments.since {
        None => Begin::Start,
        Some(Since::Rev(seq)) => Begin::Seq(seq.saturating_add(1)),
        Some(Since::Last) => {
            return Err(Failure::usage("--since last is for values; a stream's place is not kept")
                .help("give the number of the last record seen: --since N"));
        }
    };
    let mut told = |told: Told<'_>| {
        if let Told::Gap(first_left) = told {
            eprintln!("standpipe: records before {first_left} are gone (retention)");
        }
    };
    let err = &mut std::io::stderr();
    let followed = logs::follow_all(client, &arguments.path, begin, !arguments.once, (out, err), &mut told);
    if let Some(end) = client.block_on(followed)? {
        eprintln!("standpipe: {}", end.words());
    }
    Ok(())
}

fn follow(arguments: &WatchArgs, out: &mut dyn Write) -> Result<()> {
    let client = Client::new(&arguments.url, &arguments.access)?;
    if is_output(&arguments.path) {
        return output(&client, arguments, out);
    }
    let position = match arguments.since {
        Some(Since::Last) => Some(Position::of(client.url(), client.db(), &arguments.path)?),
        _ => None,
    };
    let since = match arguments.since {
        Some(Since::Rev(rev)) => Some(rev),
        _ => position.as_ref().and_then(Position::read),
    };
    let mut keep = |rev| position.iter().try_for_each(|position| position.keep(rev));
    watch::watch(&client, &arguments.path, since, arguments.once, out, &mut keep)
}

fn load(arguments: &ImportArgs, verbosity: Verbosity, out: &mut dyn Write) -> Result<()> {
    let path = &arguments.file;
    let (source, size): (Box<dyn Read>, _) = match path.as_os_str() == "-" {
        true => (Box::new(std::io::stdin().lock()), None),
        false => {
            let file = File::open(path).map_err(|error| Failure::file(path, &error))?;
            let size = file.metadata().map_err(|error| Failure::file(path, &error))?.len();
            (Box::new(file), Some(size))
        }
    };
    let mut target = Target::open(&arguments.target)?;
    let bar = progress(size, verbosity);
    let loaded = import::load(&mut bar.wrap_read(source), &arguments.path, arguments.merge, &mut target);
    bar.finish_and_clear();
    let line = serde_json::to_string(&loaded?).expect("plain numbers");
    writeln!(out, "{line}").map_err(|error| Failure::output(&error))
}

fn export(arguments: &ExportArgs, verbosity: Verbosity, out: &mut dyn Write) -> Result<()> {
    if arguments.format == ExportFormat::Emulator {
        if arguments.path == "/" || arguments.out.is_some() {
            return Err(Failure::usage("an export for the emulator needs a folder, and no --out")
                .help("standpipe export --format emulator ./emulator-data"));
        }
        let names = emulator::export(&arguments.target, Path::new(&arguments.path))?;
        let line = serde_json::json!({ "databases": names });
        return writeln!(out, "{line}").map_err(|error| Failure::output(&error));
    }
    let mut target = Target::open(&arguments.target)?;
    let call = Call { query: vec![("format", "export".into())], ..Call::new(Verb::Get, &arguments.path) };
    let Some(path) = &arguments.out else { return value(&call, &mut target, out) };
    let bar = progress(None, verbosity);
    let done = whole_file(path, |file| value(&call, &mut target, &mut bar.wrap_write(file)));
    bar.finish_and_clear();
    done
}

fn backup(arguments: &BackupArgs, verbosity: Verbosity) -> Result<()> {
    let path = &arguments.dest;
    if path.exists() {
        return Err(Failure::failed(format!("{} exists", path.display())).help("name a new file, or remove it first"));
    }
    let mut target = Target::open(&arguments.target)?;
    let bar = progress(None, verbosity);
    let done = whole_file(path, |file| match &mut target {
        Target::Url(client) => client.backup(&mut bar.wrap_write(file)),
        Target::Data(folder) => folder.backup(file),
    });
    bar.finish_and_clear();
    done
}

/// Lets `write` fill a file that takes its name only when all of it is on disk.
pub(crate) fn whole_file(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let failed = |error| Failure::file(&part, &error);
    let fill = || {
        // Data of others is nobody's business but the owner's.
        let mut file = owner_only().open(&part).map_err(failed)?;
        write(&mut file)?;
        file.sync_all().map_err(failed)?;
        std::fs::rename(&part, path).map_err(|error| Failure::file(path, &error))
    };
    let done = fill();
    if done.is_err() {
        // What is left of it is of no use; the first failure is the one to tell.
        let _ = std::fs::remove_file(&part);
    }
    done
}

fn owner_only() -> std::fs::OpenOptions {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// A bar on stderr where a person looks at it, with bytes of `size` where that is known.
fn progress(size: Option<u64>, verbosity: Verbosity) -> ProgressBar {
    if verbosity.steps() < 0 || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match size {
        Some(size) => (ProgressBar::new(size), "{bytes} of {total_bytes} {wide_bar} {bytes_per_sec}, {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {bytes_per_sec}"),
    };
    bar.with_style(indicatif::ProgressStyle::with_template(template).expect("the templates above are sound"))
}

fn completions(shell: clap_complete::Shell, out: &mut dyn Write) -> Result<()> {
    // Made in memory: the generator panics where it can't write.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "standpipe", &mut text);
    out.write_all(&text).map_err(|error| Failure::output(&error))
}

fn man(dir: &Path) -> Result<()> {
    let write = || {
        std::fs::create_dir_all(dir)?;
        clap_mangen::generate_to(Cli::command(), dir)
    };
    write().map_err(|error| Failure::file(dir, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_json_or_text() {
        let check = |text, expected: &str| assert_eq!(json_or_text(text), expected, "{text}");
        check("1.5", "1.5");
        check("true", "true");
        check("null", "null");
        check("\"a\"", "\"a\"");
        check("2,\"k\"", "2,\"k\"");
        check("abc", "\"abc\"");
        check("a \"b\"", "\"a \\\"b\\\"\"");
        check("", "\"\"");
        check("1.2.3", "\"1.2.3\"");
    }

    #[test]
    fn queries_become_parameters() {
        let query = QueryArgs {
            order_by: Some("$key".into()),
            start_at: Some("a".into()),
            limit_to_last: Some(3),
            ..QueryArgs::default()
        };
        let expected = [("orderBy", "\"$key\""), ("startAt", "\"a\""), ("limitToLast", "3")];
        assert_eq!(parameters(&query), expected.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn a_push_names_its_key() {
        let check = |answer: &str, expected: Option<&str>| {
            assert_eq!(pushed(answer.as_bytes()).map(|key| key.to_string()).as_deref(), expected);
        };
        check(r#"{"name":"-Nx"}"#, Some("\"-Nx\""));
        check("{}", None);
        check("<html>", None);
    }

    #[test]
    fn values_come_from_the_argument_or_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{}").unwrap();
        assert_eq!(input("[1]").unwrap(), b"[1]");
        assert_eq!(input(&format!("@{}", file.path().display())).unwrap(), b"{}");
        assert!(input("@no-such-file").unwrap_err().to_string().contains("no-such-file: "));
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let names =
            || std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        let failed = whole_file(&path, |file| {
            file.write_all(b"half").unwrap();
            Err(Failure::failed("broke off"))
        });
        assert!(failed.is_err() && names().is_empty());
        whole_file(&path, |file| file.write_all(b"all").map_err(|error| Failure::output(&error))).unwrap();
        assert_eq!((std::fs::read(&path).unwrap(), names().len()), (b"all".to_vec(), 1));
    }

    #[test]
    fn the_manual_has_a_page_for_each_command() {
        let dir = tempfile::tempdir().unwrap();
        man(&dir.path().join("man")).unwrap();
        let page = |name: &str| std::fs::read_to_string(dir.path().join("man").join(name)).unwrap();
        assert!(page("standpipe.1").contains("Exit codes"));
        assert!(page("standpipe-watch.1").contains("last"));
    }
}
