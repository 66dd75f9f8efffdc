//! `standpipe run`: from the command line to the request that starts a run.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::attach;
use crate::cli::RunArgs;
use crate::exit::{Exit, Failure, Result};
use crate::jobs::{environment, passed};

/// The most that a command may read through a request; a server has a limit of its own for all of it.
const STDIN_BYTES_MAX: u64 = 1 << 20;

/// Starts the command on the server, prints the link and then its output; ends as it ends.
///
/// # Errors
/// It could not be started; the code to end with is 125 then.
pub(crate) fn run(arguments: &RunArgs, quiet: bool, out: &mut dyn Write) -> Result<Exit> {
    attach::start("/runs", request(arguments), &arguments.server, (arguments.detach, quiet), out)
}

fn request(arguments: &RunArgs) -> Result<Value> {
    let here = here()?;
    let mut request = json!({
        "argv": arguments.command,
        "cwd": folder(arguments.cwd.as_deref(), &here)?,
        "env": variables(&arguments.env, arguments.env_all, &arguments.secret)?,
    });
    let mut add = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            request[name] = value;
        }
    };
    let ms = |time: std::time::Duration| Value::from(format!("{}ms", time.as_millis()));
    add("name", arguments.name.as_ref().map(|name| name.as_str().into()));
    add("timeout", arguments.timeout.map(ms));
    add("grace", arguments.grace.map(ms));
    add("group", arguments.group.as_deref().map(Into::into));
    add("pty", pty(arguments.pty));
    add("secrets", secrets(&arguments.secret, &here)?);
    add("stdin", arguments.stdin.as_deref().map(stdin).transpose()?);
    Ok(request)
}

/// The folder this command is in.
pub(crate) fn here() -> Result<PathBuf> {
    std::env::current_dir().map_err(|error| Failure::failed(format!("this folder is gone: {error}")))
}

/// The folder to start in, as a request says it.
pub(crate) fn folder(cwd: Option<&Path>, here: &Path) -> Result<String> {
    let cwd = cwd.map_or_else(|| here.to_owned(), |cwd| here.join(cwd));
    text(cwd.to_str(), "--cwd").map(str::to_owned)
}

fn text<'t>(text: Option<&'t str>, what: &str) -> Result<&'t str> {
    text.ok_or_else(|| Failure::usage(format!("{what}: a request is text, and this is no UTF-8")))
}

/// The environment it gets: a few variables of everybody's, or all, and what is named.
pub(crate) fn variables(env: &[String], env_all: bool, secrets: &[String]) -> Result<Map<String, Value>> {
    let mut all = if env_all { passed(|_| true) } else { environment() };
    for named in env {
        let (name, value) = match named.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => {
                let unset = || Failure::usage(format!("--env {named}: there is no such variable here"));
                let value = std::env::var_os(named).ok_or_else(unset)?;
                (named.as_str(), text(value.to_str(), named)?.to_owned())
            }
        };
        if name.is_empty() {
            return Err(Failure::usage(format!("--env {named}: no name")).help("as in --env LEVEL=3, or --env LEVEL"));
        }
        all.insert(name.to_owned(), value);
    }
    // A secret of the same name is no secret any more, and this command's credential is nobody else's.
    let hidden = |name: &String| name == "STANDPIPE_TOKEN" || secrets.iter().any(|secret| secret_name(secret) == name);
    Ok(all.into_iter().filter(|(name, _)| !hidden(name)).map(|(name, value)| (name, value.into())).collect())
}

fn secret_name(secret: &str) -> &str {
    secret.split_once('=').map_or(secret, |(name, _)| name)
}

/// `NAME` from the server's environment, `NAME=@FILE` from a file that the server reads.
fn secrets(given: &[String], here: &Path) -> Result<Option<Value>> {
    let mut all = Map::new();
    for secret in given {
        let from = match secret.split_once('=') {
            None => json!({ "env": secret }),
            Some((_, value)) => match value.strip_prefix('@').filter(|file| !file.is_empty()) {
                Some(file) => json!({ "file": text(here.join(file).to_str(), "--secret")? }),
                None => {
                    return Err(Failure::usage(format!("--secret {}=…: name a file", secret_name(secret)))
                        .help("as in --secret TOKEN=@token.txt: on a command line everybody could read it"));
                }
            },
        };
        all.insert(secret_name(secret).to_owned(), from);
    }
    Ok((!all.is_empty()).then(|| all.into()))
}

fn stdin(from: &Path) -> Result<Value> {
    let mut bytes = Vec::new();
    let failed = |error: std::io::Error| Failure::file(from, &error);
    match from.as_os_str() == "-" {
        true => std::io::stdin().take(STDIN_BYTES_MAX + 1).read_to_end(&mut bytes),
        false => std::fs::File::open(from).map_err(failed)?.take(STDIN_BYTES_MAX + 1).read_to_end(&mut bytes),
    }
    .map_err(failed)?;
    let name = from.display();
    if bytes.len() as u64 > STDIN_BYTES_MAX {
        return Err(Failure::failed(format!("{name}: longer than {STDIN_BYTES_MAX} bytes"))
            .help("let the command read the file: sh -c 'CMD < FILE'"));
    }
    let text = String::from_utf8(bytes).map_err(|_| {
        Failure::failed(format!("{name}: a request is text, and this is no UTF-8"))
            .help("let the command read the file: sh -c 'CMD < FILE'")
    })?;
    Ok(json!({ "data": text }))
}

/// A terminal of the size of ours, where there is one.
fn pty(wanted: bool) -> Option<Value> {
    if !wanted {
        return None;
    }
    #[cfg(unix)]
    if let Ok(size) = rustix::termios::tcgetwinsize(std::io::stdout())
        && size.ws_row > 0
        && size.ws_col > 0
    {
        return Some(json!({ "rows": size.ws_row, "cols": size.ws_col }));
    }
    Some(true.into())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn asked(line: &str) -> Result<Value, String> {
        let cli =
            Cli::try_parse_from(std::iter::once("standpipe").chain(line.split(' '))).map_err(|e| e.to_string())?;
        match cli.command {
            Command::Run(arguments) => request(&arguments).map_err(|failure| failure.to_string()),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn a_line_becomes_a_request() {
        let request = asked("run --name a --timeout 10m --grace 1s --group g --env A=b -- make -j test").unwrap();
        assert_eq!(request["argv"], json!(["make", "-j", "test"]));
        assert_eq!((&request["name"], &request["group"]), (&json!("a"), &json!("g")));
        assert_eq!((&request["timeout"], &request["grace"]), (&json!("600000ms"), &json!("1000ms")));
        assert_eq!(request["env"]["A"], "b");
        assert_eq!(request["env"]["PATH"], std::env::var("PATH").unwrap());
        assert_eq!(request["cwd"], std::env::current_dir().unwrap().to_str().unwrap());
        // What looks like an option of ours behind the program is the program's.
        assert_eq!(asked("run make --name x").unwrap()["argv"], json!(["make", "--name", "x"]));
        let request = asked("run --secret T=@t --secret U --env T=plain a").unwrap();
        assert!(request["secrets"]["T"]["file"].as_str().unwrap().ends_with("/t"));
        assert_eq!(request["secrets"]["U"], json!({ "env": "U" }));
        assert_eq!(request["env"].get("T"), None);
    }

    #[test]
    fn what_can_not_be_meant_is_told() {
        let check = |line, part: &str| {
            let told = asked(line).expect_err(line);
            assert!(told.contains(part), "{line}: {told}");
        };
        check("run", "CMD");
        check("run --secret T=plain a", "name a file");
        check("run --env =b a", "no name");
        check("run --env NO_SUCH_VARIABLE_HERE a", "no such variable");
        check("run --timeout soon a", "duration");
        check("run --name a/b c", "a name is");
        check("run --stdin /no/such/file a", "No such file");
        check("run --detach --watch a", "cannot be used with");
    }
}
