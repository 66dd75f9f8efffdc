//! The file of servers: the `mcpServers` object that editors have, with more keys of ours. It is read strictly, for what is
//! misspelt would be a server without its limits; nothing is started here.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::filter::Tools;
use super::members::{FileError, Value};
use super::servers::ALL;
use crate::upstream::child::Mode;
use crate::upstream::{Era, EraChoice, ServerLimits};

/// Longest file that is read.
pub const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most servers that one file may name.
const SERVERS_MAX: usize = 256;
/// Longest name of a server, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// Stands between a server's name and a tool's where servers are joined.
pub const SEPARATOR: &str = "__";

/// A variable of our environment.
pub type Variable<'v> = &'v dyn Fn(&str) -> Option<String>;

/// One server, as its entry says.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerEntry {
    /// Its name: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// What answers.
    pub upstream: Upstream,
    /// Whether each session has a process of its own.
    pub mode: Mode,
    /// Which era of the protocol it speaks.
    pub era: EraChoice,
    /// Whether it is started before it is used.
    pub eager: bool,
    /// Which of its tools are seen.
    pub tools: Tools,
    /// Where its messages are recorded: a file, or `tree:NAME` for a stream of the tree.
    pub record: Option<String>,
    /// What is masked on a tape besides what always is: JSON pointers, and names of members and headers.
    pub mask: Vec<String>,
    /// What is blocked, delayed, mocked or failed: the JSON of a list of rules.
    pub rules: Option<String>,
    /// Limits of its own, by the key in the file.
    pub limits: BTreeMap<&'static str, u64>,
}

impl ServerEntry {
    /// A process of this name, and everything else as by default.
    pub fn of_command(name: &str, argv: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            upstream: Upstream::Command { argv, env: BTreeMap::new(), cwd: None },
            mode: Mode::default(),
            era: EraChoice::default(),
            eager: false,
            tools: Tools::default(),
            record: None,
            mask: Vec::new(),
            rules: None,
            limits: BTreeMap::new(),
        }
    }

    /// Its limits: those of the node, but for what it says itself.
    pub fn limits(&self, node: &ServerLimits) -> ServerLimits {
        let number =
            |key: &str, node: usize| self.limits.get(key).map_or(node, |own| usize::try_from(*own).unwrap_or(node));
        let time = |key: &str, node: Duration| self.limits.get(key).map_or(node, |own| Duration::from_millis(*own));
        ServerLimits {
            message_bytes: number("message_bytes_max", node.message_bytes),
            calls_per_child: number("calls_max", node.calls_per_child),
            calls_per_principal: number("calls_per_principal_max", node.calls_per_principal),
            queue_calls: number("queue_calls_max", node.queue_calls),
            queue_wait: time("queue_wait_ms", node.queue_wait),
            start: time("start_timeout_ms", node.start),
            call: time("call_timeout_ms", node.call),
            call_total: time("call_total_ms", node.call_total),
            stdin_progress: time("stdin_progress_ms", node.stdin_progress),
            drain: time("drain_ms", node.drain),
            grace: time("grace_ms", node.grace),
            idle: time("idle_timeout_ms", node.idle),
            ..*node
        }
        .checked()
    }
}

/// What answers.
#[derive(Clone, PartialEq, Eq)]
pub enum Upstream {
    /// A process.
    Command {
        /// The program and its arguments.
        argv: Vec<String>,
        /// Its variables, besides a few harmless ones of ours.
        env: BTreeMap<String, String>,
        /// The folder it is started in; ours where none is named.
        cwd: Option<PathBuf>,
    },
    /// Another server over Streamable HTTP.
    Url {
        /// Its endpoint.
        url: String,
        /// Sent with every request.
        headers: Vec<(String, String)>,
    },
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Variables, headers and arguments may be secret.
        match self {
            Self::Command { argv, .. } => write!(f, "Command({})", argv.first().map_or("", String::as_str)),
            Self::Url { url, .. } => write!(f, "Url({url})"),
        }
    }
}

/// Limits that a server may have of its own, and what they may be.
const LIMITS: [(&str, RangeInclusive<u64>); 12] = [
    ("call_timeout_ms", 1..=DAY_MS),
    ("call_total_ms", 1..=DAY_MS),
    ("start_timeout_ms", 1..=DAY_MS),
    ("stdin_progress_ms", 1..=DAY_MS),
    ("drain_ms", 0..=DAY_MS),
    ("grace_ms", 0..=DAY_MS),
    ("queue_wait_ms", 0..=DAY_MS),
    ("queue_calls_max", 0..=1_000_000),
    ("calls_max", 1..=1_000_000),
    ("calls_per_principal_max", 1..=1_000_000),
    ("idle_timeout_ms", 1..=DAY_MS),
    ("message_bytes_max", 1_024..=1 << 30),
];
const DAY_MS: u64 = 86_400_000;

/// Reads a file of servers, in its order. `${NAME}` and `${NAME:-DEFAULT}` in the values of `command`, `args`, `env`, `cwd`, `url` and `headers`
/// become variables of our environment.
///
/// # Errors
/// The first mistake, with its place and what to do.
pub fn read(text: &str, variable: Variable<'_>) -> Result<Vec<ServerEntry>, FileError> {
    let file = Value::of_file(text)?;
    let mut members = file.members()?;
    let Some(servers) = members.take("mcpServers") else {
        members.finish()?;
        return Err(file.wrong("there is no \"mcpServers\"", "write {\"mcpServers\": {\"name\": {\"command\": …}}}"));
    };
    // Some editors write where the schema of their files is.
    let _schema = members.take("$schema");
    members.finish()?;
    let entries = servers.members()?.all();
    if entries.len() > SERVERS_MAX {
        return Err(servers.wrong(
            &format!("there are {} servers", entries.len()),
            format!("name at most {SERVERS_MAX}; another gateway can serve the rest"),
        ));
    }
    let mut servers = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        check_name(&name).map_err(|text| value.wrong(&text, "use letters, digits, -, _ and ., such as my-files"))?;
        servers.extend(entry(&name, &value, variable)?);
    }
    Ok(servers)
}

/// Whether a server may have this name.
///
/// # Errors
/// Why not.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(is_plain) || name.starts_with(['.', '-']) {
        return Err(format!("{name:?} is no name of a server: it is a part of URLs, 1 to {NAME_BYTES_MAX} bytes"));
    }
    if name == ALL {
        return Err(format!("{name:?} is no name of a server: all of them joined are called so"));
    }
    if name.contains(SEPARATOR) || name.ends_with('_') {
        return Err(format!(
            "{name:?} is no name of a server: {SEPARATOR} stands between it and the names of its tools"
        ));
    }
    Ok(())
}

/// One entry; `None` where it is switched off.
fn entry(name: &str, value: &Value<'_>, variable: Variable<'_>) -> Result<Option<ServerEntry>, FileError> {
    let mut members = value.members()?;
    let expanded = |value: Value<'_>| expand(&value, variable);
    let list = |value: Value<'_>| value.list()?.into_iter().map(expanded).collect::<Result<Vec<_>, _>>();
    let map = |value: Value<'_>| {
        let pairs = value.members()?.all().into_iter();
        pairs.map(|(key, value)| Ok((key.into_owned(), expanded(value)?))).collect::<Result<Vec<_>, FileError>>()
    };
    let (command, args) = (members.take("command"), members.take("args"));
    let (env, cwd) = (members.take("env"), members.take("cwd"));
    let (url, headers, kind) = (members.take("url"), members.take("headers"), members.take("type"));
    if let Some(kind) = &kind {
        let words = [("stdio", false), ("http", true), ("streamable-http", true), ("streamableHttp", true)];
        if kind.word(&words)? != url.is_some() {
            return Err(kind.wrong("does not fit the rest", "\"stdio\" has a command, \"http\" has a url"));
        }
    }
    let upstream = match (command, url) {
        (Some(command), None) => {
            if let Some(headers) = headers {
                return Err(headers.wrong("belongs to a url", "give a process what it needs in env"));
            }
            let mut argv = vec![expand(&command, variable)?];
            if argv[0].is_empty() {
                return Err(command.wrong("names no program", "write the program, such as \"npx\""));
            }
            argv.extend(args.map(list).transpose()?.unwrap_or_default());
            let pairs = env.clone().map(map).transpose()?.unwrap_or_default();
            if let Some((variable, _)) = pairs.iter().find(|(name, _)| name.is_empty() || name.contains(['=', '\0'])) {
                let env = env.expect("it has a variable");
                return Err(env.wrong(&format!("{variable:?} is no name of a variable"), "names have no = in them"));
            }
            Upstream::Command {
                argv,
                env: pairs.into_iter().collect(),
                cwd: cwd.map(expanded).transpose()?.map(PathBuf::from),
            }
        }
        (None, Some(address)) => {
            if let Some(other) = args.or(env).or(cwd) {
                return Err(other.wrong("belongs to a command", "a server at a url is not started here"));
            }
            let url = expand(&address, variable)?;
            if !is_url(&url) {
                return Err(address.wrong("no URL of a server", "write it whole, such as https://mcp.example.com/mcp"));
            }
            Upstream::Url { url, headers: headers.map(map).transpose()?.unwrap_or_default() }
        }
        (Some(_), Some(url)) => return Err(url.wrong("a server has a command or a url", "keep one of them")),
        (None, None) => {
            return match members.all().into_iter().next() {
                Some((_, first)) => Err(first.wrong("this server has neither command nor url", "add one of them")),
                None => Err(value.wrong("this server has neither command nor url", "add one of them")),
            };
        }
    };
    let mode = members.take("mode").map(|mode| mode.word(&[("session", Mode::Session), ("shared", Mode::Shared)]));
    let eras = [
        ("auto", EraChoice::Auto),
        ("legacy", EraChoice::Known(Era::Legacy)),
        ("modern", EraChoice::Known(Era::Modern)),
    ];
    let era = members.take("era").map(|era| era.word(&eras));
    let eager = members.take("eager").map(|eager| eager.bool()).transpose()?.unwrap_or(false);
    let tools = members.take("tools").map(|tools| self::tools(&tools)).transpose()?.unwrap_or_default();
    let record = members.take("record").map(|record| record.string()).transpose()?;
    let mask = members.take("mask").map(|mask| masks(&mask)).transpose()?.unwrap_or_default();
    let rules = match members.take("rules") {
        Some(rules) => {
            rules.list()?;
            Some(rules.raw().to_owned())
        }
        None => None,
    };
    let mut limits = BTreeMap::new();
    for (key, range) in LIMITS {
        if let Some(limit) = members.take(key) {
            limits.insert(key, limit.integer(range)?);
        }
    }
    let disabled = members.take("disabled").map(|disabled| disabled.bool()).transpose()?.unwrap_or(false);
    members.finish()?;
    let entry = ServerEntry {
        name: name.to_owned(),
        upstream,
        mode: mode.transpose()?.unwrap_or_default(),
        era: era.transpose()?.unwrap_or_default(),
        eager,
        tools,
        record,
        mask,
        rules,
        limits,
    };
    Ok((!disabled).then_some(entry))
}

fn tools(value: &Value<'_>) -> Result<Tools, FileError> {
    let mut members = value.members()?;
    let (allow, deny, prefix) = (members.take("allow"), members.take("deny"), members.take("prefix"));
    members.finish()?;
    let names = |list: Option<Value<'_>>| list.map(|list| list.strings()).transpose().map(Option::unwrap_or_default);
    let prefix = match prefix {
        Some(prefix) => {
            let text = prefix.string()?;
            let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if text.len() > NAME_BYTES_MAX || !text.chars().all(is_plain) {
                return Err(
                    prefix.wrong("no prefix of a tool's name", "use letters, digits, -, _ and ., such as files_")
                );
            }
            text
        }
        None => String::new(),
    };
    // An empty list would be read as "none" by some and as "all" by others.
    if let Some(allow) = &allow
        && allow.list()?.is_empty()
    {
        return Err(allow.wrong("allows nothing", "name tools, or leave it out to allow all"));
    }
    Ok(Tools { allow: names(allow)?, deny: names(deny)?, prefix })
}

fn masks(value: &Value<'_>) -> Result<Vec<String>, FileError> {
    let check = |item: &Value<'_>| {
        let text = item.string()?;
        if text.is_empty() {
            return Err(item.wrong(
                "names nothing",
                "write a JSON pointer such as /params/arguments/card, or a name such as card",
            ));
        }
        Ok(text)
    };
    value.list()?.iter().map(check).collect()
}

fn is_url(text: &str) -> bool {
    let parsed = text.parse::<http::Uri>();
    parsed.is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    })
}

/// A text in which variables of our environment may stand.
fn expand(value: &Value<'_>, variable: Variable<'_>) -> Result<String, FileError> {
    let text = value.string()?;
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let Some((inside, after)) = after.split_once('}') else {
            return Err(value.wrong("a ${ without its }", "write ${NAME}, or ${NAME:-DEFAULT}"));
        };
        let (name, default) = inside.split_once(":-").map_or((inside, None), |(name, default)| (name, Some(default)));
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            return Err(
                value.wrong(&format!("{name:?} is no name of a variable"), "write ${NAME}, or ${NAME:-DEFAULT}")
            );
        }
        match variable(name).or(default.map(str::to_owned)) {
            Some(text) => out.push_str(&text),
            None => {
                let help = format!("set {name}, or write a default: ${{{name}:-…}}");
                return Err(value.wrong(&format!("the variable {name} is not set"), help));
            }
        }
        rest = after;
    }
    out.push_str(rest);
    if out.contains('\0') {
        return Err(value.wrong("a NUL character", "no program can be given one"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str) -> Option<String> {
        (name == "TOKEN").then(|| "secret".to_owned())
    }

    #[test]
    fn a_file_of_an_editor_is_read_as_it_is() {
        let text = r#"{"mcpServers": {
            "files": {"command": "npx", "args": ["-y", "server", "${HOME:-/root}"], "env": {"KEY": "x${TOKEN}y"}},
            "far": {"type": "http", "url": "https://mcp.example.com/mcp", "headers": {"Authorization": "Bearer ${TOKEN}"}},
            "off": {"command": "x", "disabled": true},
            "most": {"command": "./s", "cwd": "/srv", "mode": "shared", "era": "legacy", "eager": true,
                    "tools": {"allow": ["read*"], "deny": ["read_all"], "prefix": "f_"}, "record": "t.jsonl",
                    "mask": ["/params/key"], "rules": [{"method": "x"}], "call_timeout_ms": 3000}
        }}"#;
        let servers = read(text, &variable).unwrap();
        assert_eq!(servers.iter().map(|server| server.name.as_str()).collect::<Vec<_>>(), ["files", "far", "most"]);
        let Upstream::Command { argv, env, cwd: None } = &servers[0].upstream else { panic!("{servers:?}") };
        assert_eq!((argv.join(" ").as_str(), env["KEY"].as_str()), ("npx -y server /root", "xsecrety"));
        let Upstream::Url { url, headers } = &servers[1].upstream else { panic!("{servers:?}") };
        assert_eq!(url, "https://mcp.example.com/mcp");
        assert_eq!(headers[..], [("Authorization".to_owned(), "Bearer secret".to_owned())]);
        let all = &servers[2];
        assert_eq!((all.mode, all.era, all.eager), (Mode::Shared, EraChoice::Known(Era::Legacy), true));
        assert_eq!(all.tools.allow, ["read*"]);
        assert_eq!((all.rules.as_deref(), all.limits["call_timeout_ms"]), (Some(r#"[{"method": "x"}]"#), 3_000));
        assert!(!format!("{servers:?}").contains("secret"));
    }

    #[test]
    fn mistakes_name_the_key_and_what_to_do() {
        let check = |entry: &str, expected: &str| {
            let text = format!("{{\"mcpServers\": {{\"s\": {entry}}}}}");
            let error = read(&text, &variable).unwrap_err();
            let told = format!("{error} / {}", error.help);
            assert!(told.contains(expected), "{entry}: {told}");
        };
        check(r#"{"comand":"x"}"#, "mcpServers.s.comand: this server has neither command nor url");
        check(r#"{"command":"x","arg":[]}"#, "mcpServers.s.arg: unknown key / did you mean args?");
        check(r#"{"command":"x","call_timeout":3}"#, "did you mean call_timeout_ms?");
        check(r#"{"command":"x","url":"http://y"}"#, "a command or a url");
        check(r#"{"command":""}"#, "names no program");
        check(r#"{"command":["x"]}"#, "this is an array / write a string");
        check(r#"{"command":"x","args":"y"}"#, "mcpServers.s.args: this is a string");
        check(r#"{"command":"x","args":[1]}"#, "args[0]: this is a number");
        check(r#"{"command":"x","env":{"A=B":"1"}}"#, "\"A=B\" is no name of a variable");
        check(r#"{"command":"x","env":{"A":1}}"#, "env.A: this is a number");
        check(r#"{"command":"x","headers":{}}"#, "headers: belongs to a url");
        check(r#"{"url":"ftp://x"}"#, "no URL");
        check(r#"{"url":"http://x","args":[]}"#, "args: belongs to a command");
        check(r#"{"url":"http://x","type":"sse"}"#, "type: \"sse\" is not known here");
        check(r#"{"command":"x","type":"http"}"#, "type: does not fit");
        check(r#"{"command":"x","mode":"both"}"#, "write \"session\" or \"shared\"");
        check(r#"{"command":"x","era":"2024"}"#, "\"auto\" or \"legacy\" or \"modern\"");
        check(r#"{"command":"x","tools":{"allow":[]}}"#, "allows nothing");
        check(r#"{"command":"x","tools":{"alow":["a"]}}"#, "did you mean allow?");
        check(r#"{"command":"x","tools":{"prefix":"a b"}}"#, "no prefix");
        check(r#"{"command":"x","mask":[""]}"#, "mask[0]: names nothing");
        check(r#"{"command":"x","rules":{}}"#, "rules: this is an object / write an array");
        check(r#"{"command":"x","call_timeout_ms":0}"#, "call_timeout_ms: out of range / write a whole number from 1");
        check(r#"{"command":"x","calls_max":1.5}"#, "this is a number");
        check(r#"{"command":"${NOPE}"}"#, "the variable NOPE is not set / set NOPE");
        check(r#"{"command":"${NOPE"}"#, "a ${ without its }");
        check(r#"{"command":"${a b}"}"#, "\"a b\" is no name");
        check(r#"{"command":"a\u0000"}"#, "NUL");
        check("7", "mcpServers.s: this is a number");
    }

    #[test]
    fn names_are_parts_of_urls_and_of_names() {
        let check = |name: &str, good: bool| assert_eq!(check_name(name).is_ok(), good, "{name}");
        for name in ["a", "my-files", "A.1_b"] {
            check(name, true);
        }
        for name in ["", "all", "a b", "a/b", "a__b", "a_", ".a", "-a", "ä", &"a".repeat(65)] {
            check(name, false);
        }
    }

    #[test]
    fn the_file_itself_is_strict_too() {
        let check = |text: &str, expected: &str| {
            let error = read(text, &variable).unwrap_err();
            let told = format!("{error} / {}", error.help);
            assert!(told.contains(expected), "{text}: {told}");
        };
        check("{}", "there is no \"mcpServers\"");
        check(r#"{"servers":{}}"#, "servers: unknown key / did you mean mcpServers?");
        check(r#"{"mcpServers":{},"inputs":[]}"#, "inputs: unknown key");
        check(r#"{"mcpServers":{"a":{"command":"x"},"a":{"command":"y"}}}"#, "mcpServers.a: stands twice");
        let many = (0..=SERVERS_MAX).map(|n| format!("\"s{n}\":{{\"command\":\"x\"}}")).collect::<Vec<_>>().join(",");
        check(&format!("{{\"mcpServers\":{{{many}}}}}"), "there are 257 servers");
        assert!(read(r#"{"$schema":"x","mcpServers":{}}"#, &variable).unwrap().is_empty());
    }
}
