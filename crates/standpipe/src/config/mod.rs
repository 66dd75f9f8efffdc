//! The settings of a server: what they are, their defaults, and the checks across them. Where each
//! value comes from is `layers`' matter; what a value means is its consumer's.

mod changes;
mod exposure;
mod file;
mod layers;
mod lists;
mod show;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use standpipe_doors::Algorithm;
use standpipe_serve::Limits;

use crate::cli::NodeArgs;
use crate::exit::{Failure, Result};
use crate::jobs::JobEntry;
use crate::pipe::PipeEntry;
pub(crate) use changes::Changes;
pub(crate) use exposure::is_loopback;
use layers::Layers;
use lists::item_name;
pub(crate) use show::show;

/// What kind of server it is; decides defaults and what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Open access, databases on demand, the emulator's conventions.
    Dev,
    /// Locked, and only the databases that are named.
    Serve,
}

/// Everything a server is told at start.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) mode: Mode,
    /// What the layers decide.
    pub(crate) values: Values,
    /// Rules to store at start.
    pub(crate) rules: Option<PathBuf>,
    /// What to load into an empty database at start.
    pub(crate) import: Option<PathBuf>,
    /// The folder of an emulator to write at a clean end.
    pub(crate) export_on_exit: Option<PathBuf>,
    /// Read again by a reload, with the file and the variables.
    pub(crate) arguments: NodeArgs,
}

/// The settings that have a name: a table and a key each, the same in the file, in variables and in
/// `config show`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Values {
    pub(crate) server: Server,
    pub(crate) databases: Databases,
    pub(crate) engine: Engine,
    pub(crate) auth: Auth,
    pub(crate) tls: Tls,
    pub(crate) runs: Runs,
    pub(crate) mcp: Mcp,
    pub(crate) limits: Limits,
    /// What others than the user of the server may have run, each a `[job.NAME]` of the file.
    #[serde(default)]
    pub(crate) job: BTreeMap<String, JobEntry>,
    /// Files that readers open, each a `[[pipe]]` of the file.
    #[serde(default)]
    pub(crate) pipe: Vec<PipeEntry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Server {
    /// `HOST:PORT`; port 0 takes a free one.
    pub(crate) listen: String,
    /// A Unix socket on which HTTP is spoken too; empty is none.
    pub(crate) socket: PathBuf,
    /// Where the line door listens: `HOST:PORT`, or the path of a Unix socket; empty is nowhere.
    pub(crate) line: String,
    /// Where the RESP door listens, as above.
    pub(crate) resp: String,
    /// What divides redis keys into paths.
    pub(crate) resp_separator: RespSeparator,
    /// The data folder, relative to the folder the server is started in.
    pub(crate) data: PathBuf,
    pub(crate) log_format: LogFormat,
    /// Plain HTTP, lines and RESP also on addresses that others reach; for `serve`.
    pub(crate) insecure: bool,
    /// Everybody who reaches the port is administrator who says so; for `dev`.
    pub(crate) dangerously_expose_emulator: bool,
}

/// Whose tokens are believed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Auth {
    /// The claim that is `true` in the token of an administrator.
    pub(crate) admin_claim: String,
    /// Where the keys of Firebase's ID tokens come from; empty is Google.
    pub(crate) firebase_keys_url: String,
    /// The id of the project whose users are ours; empty is none.
    pub(crate) firebase_project: String,
    /// Other issuers, each a `[[auth.key]]` of the file.
    #[serde(default)]
    pub(crate) key: Vec<KeyEntry>,
}

/// A key, or a set of them, that tokens may be signed with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct KeyEntry {
    /// The public key (PEM) or the secret of HS256; or `url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<PathBuf>,
    /// Where the issuer publishes its keys (JSON Web Key Set).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
    /// `HS256`, `RS256`, `ES256` or `EdDSA`; a file says it by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) algorithm: Option<Algorithm>,
    /// Only tokens that name this key (`kid`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kid: Option<String>,
    /// Only tokens with this `iss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) issuer: Option<String>,
    /// Only tokens with this `aud`; without it, only tokens with none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) audience: Option<String>,
    /// Its tokens may make administrators.
    pub(crate) administrators: bool,
}

/// The door over TLS. It is open where there is a name, a certificate, or `self_signed`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    /// PEM: the certificate and those that lead to a root. Empty: found by `name`.
    pub(crate) cert: PathBuf,
    /// PEM: certificates of authorities of which clients must show one. Empty: none is asked for.
    pub(crate) client_ca: PathBuf,
    /// With `client_ca`: who shows none is let in all the same.
    pub(crate) client_optional: bool,
    /// PEM: the private key of `cert`.
    pub(crate) key: PathBuf,
    /// `HOST:PORT` of HTTP over TLS.
    pub(crate) listen: String,
    /// The host name that clients use.
    pub(crate) name: String,
    /// Make a certificate where there is none; clients have to be told to trust it.
    pub(crate) self_signed: bool,
}

impl Tls {
    /// Is TLS spoken at all?
    pub(crate) fn is_on(&self) -> bool {
        !self.name.is_empty() || !self.cert.as_os_str().is_empty() || self.self_signed
    }
}

/// Runs of commands and pipelines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Runs {
    /// Whether this server runs anything.
    pub(crate) enabled: bool,
}

/// MCP: the tree for agents at `/mcp`, and the servers behind the gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mcp {
    /// Whether this server speaks MCP.
    pub(crate) enabled: bool,
    /// `HOST:PORT` where it is spoken besides where HTTP is; empty is nowhere.
    pub(crate) listen: String,
    /// Where one message a line is spoken: `HOST:PORT`, or the path of a Unix socket; empty is nowhere.
    pub(crate) line: String,
    /// The servers behind the gateway: a JSON file with `mcpServers`; empty is none.
    pub(crate) servers: PathBuf,
    /// Whether who shows no token may ask at all; the rules still decide about each path.
    pub(crate) anonymous: bool,
    /// What `aud` of a token must be; empty is anything.
    pub(crate) audience: String,
    /// The address of this server as clients know it, such as `https://mcp.example.com`; empty is found out from each request.
    pub(crate) url: String,
    /// Host names that clients use beside those of this machine and of the certificate.
    pub(crate) hosts: Vec<String>,
    /// Origins of pages that may ask.
    pub(crate) origins: Vec<String>,
    /// Whether HTTP+SSE of 2024-11-05 is spoken too.
    pub(crate) sse: bool,
    /// Whether the tools that change the tree are left out.
    pub(crate) read_only: bool,
}

impl Mcp {
    /// These settings, with what a reload takes from `new`: whom MCP lets in.
    pub(crate) fn reloaded(&self, new: &Self) -> Self {
        Self {
            anonymous: new.anonymous,
            audience: new.audience.clone(),
            url: new.url.clone(),
            hosts: new.hosts.clone(),
            origins: new.origins.clone(),
            sse: new.sse,
            ..self.clone()
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Databases {
    /// Where requests go that name no database.
    pub(crate) default: String,
    /// The databases of `serve`; `dev` makes any on first use.
    pub(crate) names: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Engine {
    pub(crate) durability: Durability,
    /// Pause between syncs where durability is `interval`; a power cut may lose that much.
    pub(crate) interval_ms: u64,
    /// Address space reserved for each database at start; no memory or disk.
    pub(crate) map_bytes_initial: usize,
    /// Snapshots open at once in each database.
    pub(crate) readers_max: u32,
    /// What becomes of a query in an order that the rules declare no index for.
    pub(crate) query_unindexed: QueryUnindexed,
}

/// What becomes of a query that no index answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum QueryUnindexed {
    /// Refused where rules were put, answered where none were
    Auto,
    /// Answered by looking at all children
    Allow,
    /// Refused
    Refuse,
}

/// What divides redis keys into the segments of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RespSeparator {
    /// `home/kitchen/temp`
    #[serde(rename = "/")]
    Slash,
    /// `home:kitchen:temp`
    #[serde(rename = ":")]
    Colon,
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Durability {
    /// Once it is synced to disk
    Commit,
    /// At once; synced every so often, so a power cut may lose the last writes
    Interval,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// Lines for people
    Human,
    /// One JSON object a line
    Json,
}

impl Values {
    fn defaults(mode: Mode) -> Self {
        let data = match mode {
            Mode::Dev => "./.standpipe",
            Mode::Serve => "./data",
        };
        Self {
            server: Server {
                listen: "127.0.0.1:9000".into(),
                socket: PathBuf::new(),
                line: String::new(),
                resp: String::new(),
                resp_separator: RespSeparator::Slash,
                data: data.into(),
                log_format: LogFormat::Human,
                insecure: false,
                dangerously_expose_emulator: false,
            },
            auth: Auth {
                admin_claim: "admin".into(),
                firebase_keys_url: String::new(),
                firebase_project: String::new(),
                key: Vec::new(),
            },
            tls: Tls {
                cert: PathBuf::new(),
                client_ca: PathBuf::new(),
                client_optional: false,
                key: PathBuf::new(),
                listen: "0.0.0.0:443".into(),
                name: String::new(),
                self_signed: false,
            },
            databases: Databases { default: "default".into(), names: vec!["default".into()] },
            engine: Engine {
                durability: Durability::Commit,
                interval_ms: 100,
                map_bytes_initial: 16 << 30,
                readers_max: 4_096,
                query_unindexed: QueryUnindexed::Auto,
            },
            runs: Runs { enabled: true },
            mcp: Mcp {
                enabled: true,
                listen: String::new(),
                line: String::new(),
                servers: PathBuf::new(),
                anonymous: mode == Mode::Dev,
                audience: String::new(),
                url: String::new(),
                hosts: Vec::new(),
                origins: Vec::new(),
                sse: false,
                read_only: false,
            },
            limits: Limits::default(),
            job: BTreeMap::new(),
            pipe: Vec::new(),
        }
    }
}

impl Settings {
    /// Settings from defaults, then the file, then variables, then arguments: the later wins.
    ///
    /// # Errors
    /// The first thing that is wrong, with the place it comes from.
    pub(crate) fn load(mode: Mode, arguments: &NodeArgs) -> Result<Self> {
        let layers = layers(mode, arguments, std::env::vars_os())?;
        let values = checked(&layers)?;
        exposure::check(mode, &values, &layers)?;
        Ok(Self {
            mode,
            values,
            rules: arguments.rules.clone(),
            import: arguments.import.clone(),
            export_on_exit: export_on_exit(arguments)?,
            arguments: arguments.clone(),
        })
    }
}

/// Where to export at the end: where `--import` came from, when no folder is named.
fn export_on_exit(arguments: &NodeArgs) -> Result<Option<PathBuf>> {
    match (&arguments.export_on_exit, &arguments.import) {
        (Some(None), Some(import)) if !import.is_file() => Ok(Some(import.clone())),
        (Some(None), _) => Err(Failure::usage("--export-on-exit without a folder needs --import with one")
            .help("name a folder: --export-on-exit ./emulator-data")),
        (dir, _) => Ok(dir.clone().flatten()),
    }
}

fn layers(mode: Mode, arguments: &NodeArgs, variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Layers> {
    let mut layers = Layers::new(&Values::defaults(mode));
    if let Some(path) = &arguments.config {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::file(path, &error).help("name a file that can be read, or leave --config out: there are defaults")
        })?;
        layers.file(path, &text)?;
    }
    // A mistake is told even where a later layer covers it: it would come back when that goes.
    check_each(&layers)?;
    layers.environment(variables)?;
    check_each(&layers)?;
    layers.arguments(arguments)?;
    Ok(layers)
}

/// The values, if they fit their types and each other.
fn checked(layers: &Layers) -> Result<Values> {
    let values = check_each(layers)?;
    if !values.databases.names.contains(&values.databases.default) {
        let text = format!("the default database {:?} is not one of the names", values.databases.default);
        return Err(layers.wrong(&["databases.default", "databases.names"], &text));
    }
    if let Err(error) = values.limits.check() {
        let text = error.to_string();
        let named = layers.named_in("limits", &text);
        return Err(layers.wrong(&named.iter().map(String::as_str).collect::<Vec<_>>(), &text));
    }
    Ok(values)
}

/// The values, if each by itself can be meant.
fn check_each(layers: &Layers) -> Result<Values> {
    let values = layers.values()?;
    let wrong = |name: &str, text: &str| Err(layers.wrong(&[name], text));
    if let Err(text) = check_listen(&values.server.listen) {
        return wrong("server.listen", &text);
    }
    let doors = [
        ("server.line", &values.server.line),
        ("server.resp", &values.server.resp),
        ("mcp.listen", &values.mcp.listen),
        ("mcp.line", &values.mcp.line),
    ];
    for (name, at) in doors {
        let (tls, at) = over_tls(at);
        if !at.is_empty()
            && !at.contains('/')
            && let Err(text) = check_listen(at)
        {
            return wrong(name, &text);
        }
        if tls && (!values.tls.is_on() || at.contains('/')) {
            return wrong(name, "tls: needs an address and a certificate: name one (--tls NAME, or [tls])");
        }
    }
    if let Err(text) = check_listen(&values.tls.listen) {
        return wrong("tls.listen", &text);
    }
    if values.tls.cert.as_os_str().is_empty() != values.tls.key.as_os_str().is_empty() {
        return wrong("tls.cert", "tls.cert and tls.key belong together: name both files, or none");
    }
    if values.auth.admin_claim.is_empty() {
        return wrong(
            "auth.admin_claim",
            "name the claim, such as admin; no issuer makes administrators unless it may",
        );
    }
    if let Err((name, text)) = crate::authority::check(&values.auth) {
        return wrong(&name, &text);
    }
    if let Some(host) = values.mcp.hosts.iter().find(|host| !is_host_name(host)) {
        return wrong("mcp.hosts", &format!("{host:?} is no host name: use it as clients do, such as mcp.example.com"));
    }
    if let Some(origin) = values.mcp.origins.iter().find(|origin| !is_origin(origin)) {
        let text = format!("{origin:?} is no origin: use scheme, host and port, such as https://app.example.com");
        return wrong("mcp.origins", &text);
    }
    let url = values.mcp.url.parse::<http::Uri>();
    if !values.mcp.url.is_empty() && !url.is_ok_and(|url| matches!(url.scheme_str(), Some("http" | "https"))) {
        return wrong("mcp.url", "write it whole, as clients see it, such as https://mcp.example.com");
    }
    let names = &values.databases.names;
    if let Some(error) = names.iter().find_map(|name| standpipe_engine::check_name(name).err()) {
        return wrong("databases.names", error.message());
    }
    for (index, pipe) in values.pipe.iter().enumerate() {
        if let Err((key, text)) = pipe.check() {
            return wrong(&item_name("pipe", index, key), &text);
        }
    }
    if let Err((name, text)) = crate::jobs::check(&values.job) {
        return wrong(&name, &text);
    }
    if !(1..=60_000).contains(&values.engine.interval_ms) {
        return wrong("engine.interval_ms", "use 1 to 60000 milliseconds");
    }
    if values.engine.map_bytes_initial < 1 << 20 {
        return wrong("engine.map_bytes_initial", "use at least 1048576 bytes");
    }
    if values.engine.readers_max == 0 {
        return wrong("engine.readers_max", "use at least 1");
    }
    Ok(values)
}

/// Is the address of a door to be spoken to over TLS, and which is it?
pub(crate) fn over_tls(at: &str) -> (bool, &str) {
    at.strip_prefix("tls:").map_or((false, at), |at| (true, at))
}

/// Is this a name, or an address, that a `Host` header may have? A port may follow; `*` is any.
pub(crate) fn is_host_name(text: &str) -> bool {
    let text = match text.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() && (!name.contains(':') || name.ends_with(']')) => name,
        _ => text,
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '*');
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    !text.is_empty()
        && (text.chars().all(is_plain) || bare.is_some_and(|bare| bare.parse::<std::net::Ipv6Addr>().is_ok()))
}

/// Is this an `Origin` as browsers send it? `*` is any.
pub(crate) fn is_origin(text: &str) -> bool {
    text == "*"
        || text.trim_end_matches('/').split_once("://").is_some_and(|(scheme, rest)| {
            let is_scheme =
                !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
            is_scheme && !rest.is_empty() && !rest.contains(['/', '?', '#', ' '])
        })
}

fn check_listen(listen: &str) -> Result<(), String> {
    match listen.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(()),
        _ => Err(format!("{listen:?} is no address: use HOST:PORT, such as 127.0.0.1:9000 or [::1]:9000")),
    }
}

/// Where a setting was made.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Default,
    File { path: PathBuf, line: usize, column: usize },
    Variable(String),
    Argument(&'static str),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Argument(name) => write!(f, "argument {name}"),
        }
    }
}

/// The place of a byte of a file, counted from 1 as editors do.
fn place(path: &Path, text: &str, at: usize) -> Origin {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    let column = before[line_start..].chars().count() + 1;
    Origin::File { path: path.to_owned(), line: before.matches('\n').count() + 1, column }
}

#[cfg(test)]
mod tests;
