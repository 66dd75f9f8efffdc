//! The server of `dev` and `serve`: engine, doors and their shutdown, assembled from settings. Also
//! the server inside this process that client verbs use on a folder nobody serves.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use standpipe_doors::{Authority, Credentials, Dispatch, HttpDoor, LineDoor, RespDoor, Separator};
use standpipe_engine::{Access, Databases, Durability, Engine, EngineConfig, QueryUnindexed};
use standpipe_runs::{GuardProgram, JobSpec, Runs, RunsSettings};
use standpipe_serve::{BindError, Limits, OnFailure, OnShutdown, Server, ServerConfig, SocketListener, TaskKind, Tls};
use standpipe_tree::rules::RuleSet;

use crate::authority;
use crate::cli::{AccessArgs, TargetArgs};
use crate::client::{Client, Target, import};
use crate::config::{self, Mode, Settings};
use crate::emulator;
use crate::exit::{Exit, Failure, Result};
use crate::jobs;
use crate::mcp::{McpNode, Tree};
use crate::pipe::PipeEntry;
use crate::reload::{FileWatch, Reload};
use crate::signals::{Signals, Told};
use crate::systemd::{self, State};
use crate::tls::{self, Certificates};

/// Where a node listens; empty is nowhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listen<'a> {
    pub(crate) http: &'a str,
    /// A Unix socket for HTTP.
    pub(crate) socket: &'a Path,
    pub(crate) line: &'a str,
    pub(crate) resp: &'a str,
    pub(crate) separator: Separator,
    /// Where HTTP is spoken over TLS.
    pub(crate) https: &'a str,
    /// The certificates of that, and of doors whose address begins with `tls:`.
    pub(crate) tls: Option<&'a Arc<Tls>>,
    /// Where MCP alone is spoken over HTTP, and one message a line.
    pub(crate) mcp: &'a str,
    pub(crate) mcp_line: &'a str,
}

impl<'a> Listen<'a> {
    /// Only HTTP.
    pub(crate) fn http(at: &'a str) -> Self {
        let (socket, separator) = (Path::new(""), Separator::Slash);
        Self { http: at, socket, line: "", resp: "", separator, https: "", tls: None, mcp: "", mcp_line: "" }
    }
}

/// Fetching the keys of token issuers.
const KEYS_TASK: TaskKind =
    TaskKind { name: "token-keys", on_failure: OnFailure::StopNode, on_shutdown: OnShutdown::Abort };

/// A running server.
#[derive(Debug)]
pub(crate) struct Node {
    engine: Arc<Engine>,
    /// Where commands are run; a folder that a command of ours looks at by itself has none.
    runs: Option<Arc<Runs>>,
    /// MCP, where it is spoken.
    mcp: Option<McpNode>,
    server: Server,
    credentials: Credentials,
    ready: Arc<AtomicBool>,
    address: SocketAddr,
    /// Name and place of each other door that is open.
    others: Vec<(&'static str, String)>,
}

impl Node {
    /// Opens the folder and listens. It answers when this returns.
    ///
    /// # Errors
    /// The folder is held or can't be used, or the address can't be listened on.
    pub(crate) fn start(
        config: EngineConfig,
        limits: Limits,
        listen: Listen<'_>,
        authority: Authority,
        jobs: Option<Vec<Arc<JobSpec>>>,
        mcp: Option<&config::Values>,
    ) -> Result<Self> {
        raise_descriptor_limit();
        keep_pages_small();
        let engine = Arc::new(Engine::open(config, Arc::new(stop_at_once))?);
        let server =
            Server::start(ServerConfig { limits, cores: None }).map_err(|error| Failure::failed(error.to_string()))?;
        let credentials = Credentials::new(authority, server.limits());
        let (listeners, _) = bind(listen.http, None, &server)?;
        let address = listeners.first().and_then(SocketListener::local_addr);
        let address = address.ok_or_else(|| Failure::failed(format!("{}: no address was bound", listen.http)))?;
        // What an earlier boot left behind is in order before anybody can ask.
        let runs = jobs.map(|jobs| open_runs(&engine, &server, jobs)).transpose()?;
        let ready = Arc::new(AtomicBool::new(true));
        let dispatch = Dispatch::new(engine.clone());
        let mut others = Vec::new();
        if !listen.line.is_empty() {
            let (listeners, at) = bind(listen.line, listen.tls, &server)?;
            server.listen(Arc::new(LineDoor::new(dispatch.clone(), credentials.clone())), listeners);
            others.push(("line", at));
        }
        if !listen.resp.is_empty() {
            let (listeners, at) = bind(listen.resp, listen.tls, &server)?;
            let door = RespDoor::new(dispatch.clone(), credentials.clone(), listen.separator);
            server.listen(Arc::new(door), listeners);
            others.push(("resp", at));
        }
        if let Some(event_loop) = server.runtimes().next() {
            let _on_it = event_loop.enter();
            server.shutdown().spawn(KEYS_TASK, credentials.clone().keep_keys());
        }
        let tree = Tree { dispatch: dispatch.clone(), runs: runs.clone() };
        let door = HttpDoor::new(dispatch, credentials.clone(), server.metrics().clone(), ready.clone());
        let door = match &runs {
            Some(runs) => door.with_runs(runs.clone(), jobs::environment()),
            None => door,
        };
        let mcp = mcp.map(|values| McpNode::of_server(values, &tree, &server, &credentials)).transpose()?;
        let door = Arc::new(match &mcp {
            Some(mcp) => door.with_mcp(mcp.mcp().clone()),
            None => door,
        });
        if let Some(mcp) = &mcp {
            others.extend(mcp.listen(listen.mcp, &ready, &server)?.map(|at| ("mcp", at)));
            others.extend(mcp.listen_lines(listen.mcp_line, listen.tls, &server)?.map(|at| ("mcp-line", at)));
        }
        if let (Some(tls), false) = (listen.tls, listen.https.is_empty()) {
            let (listeners, at) = bind(&format!("tls:{}", listen.https), Some(tls), &server)?;
            server.listen(door.clone(), listeners);
            others.push(("https", at));
        }
        if !listen.socket.as_os_str().is_empty() {
            server.listen(door.clone(), bind_unix(listen.socket, &server)?);
            others.push(("socket", listen.socket.display().to_string()));
        }
        server.listen(door, listeners);
        Ok(Self { engine, runs, mcp, server, credentials, ready, address, others })
    }

    /// Serves the pipes of the configuration, each counted as a door of its own.
    fn open_pipes(&mut self, pipes: &[PipeEntry]) -> Result<()> {
        let dispatch = Dispatch::new(self.engine.clone());
        let opened = pipes.iter().map(|pipe| pipe.open(&self.server, &dispatch)).collect::<Result<Vec<_>>>()?;
        if !opened.is_empty() {
            self.others.push(("pipes", opened.join(",")));
        }
        Ok(())
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The runs, where there are any.
    pub(crate) fn runs(&self) -> Option<&Arc<Runs>> {
        self.runs.as_ref()
    }

    /// MCP, where it is spoken.
    pub(crate) fn mcp(&self) -> Option<&McpNode> {
        self.mcp.as_ref()
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The databases.
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Stops: nobody comes in any more, runs and MCP servers are ended (who watches one sees its end), connections are drained,
    /// then what waits is committed. Says whether it was clean.
    pub(crate) async fn stop(self) -> bool {
        self.ready.store(false, Ordering::Relaxed);
        self.server.stop_accepting();
        let runs = async {
            match &self.runs {
                Some(runs) => runs.close().await,
                None => true,
            }
        };
        let mcp = async {
            if let Some(mcp) = &self.mcp {
                mcp.close().await;
            }
        };
        let (clean, ()) = tokio::join!(runs, mcp);
        let stopped = self.server.stop().await;
        self.engine.close();
        clean && stopped.clean
    }
}

/// Opens the runs of the folder on the event loops of the server.
pub(crate) fn open_runs(engine: &Arc<Engine>, server: &Server, jobs: Vec<Arc<JobSpec>>) -> Result<Arc<Runs>> {
    let dir = engine.config().dir.join("runs");
    let runtimes: Vec<_> = server.runtimes().cloned().collect();
    let first = runtimes.first().cloned().ok_or_else(|| Failure::failed("the server has no event loop"))?;
    let guard = Some(GuardProgram::this("guard"));
    let settings = RunsSettings { dir, jobs, variable: |name| std::env::var(name).ok(), guard };
    Ok(first.block_on(Runs::open(engine.clone(), settings, server.limits(), runtimes))?)
}

/// Listens on an address, over TLS where it begins with `tls:`, or on the path of a Unix socket, which has a
/// slash; says where that is.
pub(crate) fn bind(at: &str, tls: Option<&Arc<Tls>>, server: &Server) -> Result<(Vec<SocketListener>, String)> {
    let failed = |error: BindError| {
        let failure = Failure::failed(error.to_string());
        match error {
            BindError::Permission { .. } => failure.help(
                "give the program the right to low ports (setcap cap_net_bind_service=+ep, or AmbientCapabilities= in \
                 systemd), or take another port, as in --tls-listen 0.0.0.0:8443",
            ),
            _ => failure,
        }
    };
    let (over_tls, at) = config::over_tls(at);
    if cfg!(unix) && at.contains('/') {
        return Ok((bind_unix(Path::new(at), server)?, at.to_owned()));
    }
    let listeners = SocketListener::bind_tcp(at, server.cores(), server.metrics()).map_err(failed)?;
    let address = listeners.first().and_then(SocketListener::local_addr).map(|address| address.to_string());
    let listeners = match tls.filter(|_| over_tls) {
        Some(tls) => listeners.into_iter().map(|listener| listener.with_tls(tls.clone())).collect(),
        None => listeners,
    };
    Ok((listeners, address.unwrap_or_else(|| at.to_owned())))
}

#[cfg(unix)]
fn bind_unix(at: &Path, server: &Server) -> Result<Vec<SocketListener>> {
    let bound = SocketListener::bind_unix(at, server.cores(), server.metrics());
    bound.map_err(|error| Failure::failed(error.to_string()))
}

#[cfg(not(unix))]
fn bind_unix(_: &Path, _: &Server) -> Result<Vec<SocketListener>> {
    Err(Failure::failed("this system has no Unix sockets").help("listen on an address: HOST:PORT"))
}

/// Runs a server until it is told to stop.
///
/// # Errors
/// It can't start; the failure names what to change.
pub(crate) fn run(settings: &Settings) -> Result<Exit> {
    let values = &settings.values;
    let token = Token::of(settings)?;
    let engine = engine_config(settings)?;
    let mut certificates = Certificates::open(&values.tls, &values.server.data)?;
    let authority = token.authority(authority::read(&values.auth)?);
    let listen = Listen {
        https: &values.tls.listen,
        tls: certificates.as_ref().map(Certificates::tls),
        http: &values.server.listen,
        socket: &values.server.socket,
        line: &values.server.line,
        resp: &values.server.resp,
        mcp: &values.mcp.listen,
        mcp_line: &values.mcp.line,
        separator: match values.server.resp_separator {
            config::RespSeparator::Slash => Separator::Slash,
            config::RespSeparator::Colon => Separator::Colon,
        },
    };
    let jobs = values.runs.enabled.then(|| jobs::read(values)).transpose()?;
    let mcp = values.mcp.enabled.then_some(values);
    let mut node = Node::start(engine, values.limits.clone(), listen, authority, jobs, mcp)?;
    let url = node.url();
    load(settings, &node, &token)?;
    node.open_pipes(&values.pipe)?;
    token.announce(node.address.port());
    let announced = Socket::announce(node.address.port(), &values.server.socket);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("can't start a runtime: {error}")))?;
    runtime.block_on(async {
        let mut signals = Signals::new(settings.mode)?;
        let mut watched = Vec::from_iter(settings.arguments.config.clone());
        watched.extend(certificates.iter().flat_map(Certificates::paths));
        watched.extend(node.mcp().and_then(McpNode::file).map(Path::to_owned));
        let mut file = FileWatch::new(watched);
        let mut reload = Reload::new(settings);
        banner(settings, &url, &node.others, &token);
        #[expect(clippy::print_stdout, reason = "the one line of results that a server has")]
        {
            let others: String = node.others.iter().map(|(door, at)| format!("{door}={at} ")).collect();
            println!("standpipe ready {url} {others}data={}", values.server.data.display());
        }
        systemd::tell(State::Ready);
        while file.told(&mut signals).await == Told::Reload {
            reload.run(&node, |authority| token.authority(authority));
            if let Some(certificates) = &mut certificates {
                certificates.reload();
            }
            if let Some(mcp) = node.mcp() {
                mcp.reload().await;
            }
        }
        systemd::tell(State::Stopping);
        tracing::info!("stopping; a second signal stops at once");
        let clean = tokio::select! {
            clean = node.stop() => clean,
            () = signals.stop() => false,
        };
        drop(announced);
        token.withdraw();
        if clean && let Some(dir) = &settings.export_on_exit {
            tokio::select! {
                exported = export(values.server.data.clone(), dir.clone()) => exported?,
                () = signals.stop() => return Ok(Exit::Unclean),
            }
        }
        Ok(if clean { Exit::Ok } else { Exit::Unclean })
    })
}

/// Writes the databases of a folder that nobody serves any more into `dir`, on a thread that a second
/// signal does not wait for.
async fn export(data: PathBuf, dir: PathBuf) -> Result<()> {
    let (done, exported) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let access = AccessArgs { db: None, token: None, token_file: None };
        let target = TargetArgs { url: String::new(), data: Some(data), access };
        // Nobody waits where the process is told to end at once.
        let _ = done.send(emulator::export(&target, &dir).map(|names| (names, dir)));
    });
    let (names, dir) = exported.await.map_err(|_| Failure::failed("the export has broken off"))??;
    tracing::info!(databases = names.join(","), folder = %dir.display(), "exported");
    Ok(())
}

/// The settings as the engine wants them.
fn engine_config(settings: &Settings) -> Result<EngineConfig> {
    let config::Values { server, databases, engine, limits, .. } = &settings.values;
    // A namespace of `dev` begins with the rules that are given, as in the emulator.
    let rules_at_open = match (settings.mode, &settings.rules) {
        (Mode::Dev, Some(path)) => Some(rules_text(path)?.into()),
        _ => None,
    };
    Ok(EngineConfig {
        rules_at_open,
        query_unindexed: match engine.query_unindexed {
            config::QueryUnindexed::Auto => QueryUnindexed::Auto,
            config::QueryUnindexed::Allow => QueryUnindexed::Allow,
            config::QueryUnindexed::Refuse => QueryUnindexed::Refuse,
        },
        databases: match settings.mode {
            Mode::Dev => Databases::OnDemand,
            Mode::Serve => Databases::Named(databases.names.clone()),
        },
        default_database: databases.default.clone(),
        durability: match engine.durability {
            config::Durability::Commit => Durability::Commit,
            config::Durability::Interval => Durability::Interval(Duration::from_millis(engine.interval_ms)),
        },
        access: match settings.mode {
            Mode::Dev => Access::Open,
            Mode::Serve => Access::Locked,
        },
        // Whoever develops rules has to know; anybody else would be told of data they may not see.
        trace_denials: settings.mode == Mode::Dev,
        map_bytes_initial: engine.map_bytes_initial,
        readers_max: engine.readers_max,
        ..with_limits(&server.data, limits)
    })
}

/// A rules file that compiles.
fn rules_text(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?;
    match RuleSet::compile(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::usage(format!("{}:{error}", path.display()))
            .help(format!("mend {} and start again", path.display()))),
    }
}

/// The engine's defaults under the limits of the one `[limits]` table.
pub(crate) fn with_limits(dir: &Path, limits: &Limits) -> EngineConfig {
    EngineConfig {
        databases_max: limits.databases_max,
        map_bytes_max: limits.map_bytes_max,
        writer_queue_intents_max: limits.writer_queue_intents_max,
        writer_queue_bytes_max: limits.writer_queue_bytes_max,
        group_intents_max: limits.group_intents_max,
        group_bytes_max: limits.group_bytes_max,
        ring_events_max: limits.ring_events_max,
        ring_bytes_max: limits.ring_bytes_max,
        changes_bytes_max: limits.changes_bytes_max as u64,
        changes_age_max: Duration::from_secs(limits.changes_age_s_max),
        query_children_max: limits.query_children_max,
        lease_locations_max: limits.lease_locations_max,
        lease_bytes_max: limits.lease_bytes_max,
        stream_bytes_max: limits.stream_bytes_max as u64,
        stream_age_max: Duration::from_secs(limits.stream_age_s_max),
        stream_record_bytes_max: limits.stream_record_bytes_max,
        stream_ring_bytes_max: limits.stream_ring_bytes_max,
        streams_ring_bytes_max: limits.streams_ring_bytes_max,
        streams_queue_bytes_max: limits.streams_queue_bytes_max,
        ..EngineConfig::new(dir)
    }
}

/// Stores the rules of `serve` and loads what `--import` names, into databases that are empty.
fn load(settings: &Settings, node: &Node, token: &Token) -> Result<()> {
    if let (Mode::Serve, Some(path)) = (settings.mode, &settings.rules) {
        let text = rules_text(path)?;
        Client::new(&node.url(), &token.access(None))?
            .put_rules(text)
            .map_err(|failure| failure.help(format!("mend {} and start again", path.display())))?;
    }
    let Some(source) = &settings.import else { return Ok(()) };
    if settings.export_on_exit.is_some() && !source.exists() {
        tracing::info!(folder = %source.display(), "not imported: the folder will be made at the end");
        return Ok(());
    }
    for (db, file) in emulator::import_files(source)? {
        let database = node.engine().resolve(db.as_deref())?;
        if database.try_snapshot().map_err(|error| Failure::failed(error.to_string()))?.state().rows > 0 {
            tracing::info!(database = database.name(), "not imported: the database is not empty");
            continue;
        }
        let mut target = Target::Url(Box::new(Client::new(&node.url(), &token.access(db))?));
        let mut source = std::fs::File::open(&file).map_err(|error| Failure::file(&file, &error))?;
        import::load(&mut source, "/", false, &mut target)?;
        tracing::info!(database = database.name(), file = %file.display(), "imported");
    }
    Ok(())
}

/// How administrators show that they are, and operators: by a secret in the data folder, also where this user's
/// commands look for it.
struct Token {
    secret: String,
    file: PathBuf,
    /// As in the emulator, whoever says `owner` is the administrator, too; the secret is for those who start runs.
    emulator: bool,
    announced: std::cell::Cell<Option<u16>>,
}

impl Token {
    /// The folder's secret, made when there is none.
    fn of(settings: &Settings) -> Result<Self> {
        let data = &settings.values.server.data;
        let file = data.join("admin.token");
        let failed = |error| Failure::file(&file, &error);
        std::fs::create_dir_all(data).map_err(|error| Failure::file(data, &error))?;
        let secret = match std::fs::read_to_string(&file) {
            Ok(text) if text.trim().len() >= 32 => text.trim().to_owned(),
            Ok(_) => {
                return Err(Failure::failed(format!("{} holds no token of 32 characters or more", file.display()))
                    .help("remove the file: the next start makes a new one"));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let secret = standpipe_engine::random_token();
                crate::client::token::write(&file, &secret).map_err(failed)?;
                secret
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(Self { secret, file, emulator: settings.mode == Mode::Dev, announced: std::cell::Cell::new(None) })
    }

    /// Who is believed beside these issuers: the bearer of this token, as an administrator.
    fn authority(&self, issuers: Authority) -> Authority {
        Authority { emulator: self.emulator, admin_token: Some(self.secret.clone()), ..issuers }
    }

    fn access(&self, db: Option<String>) -> AccessArgs {
        AccessArgs { db, token: Some(self.secret.clone()), token_file: None }
    }

    /// Lets this user's commands find the token; a convenience, so its failure is none of ours.
    fn announce(&self, port: u16) {
        let announced = match self.emulator {
            true => crate::client::token::announce_operator(port, &self.secret),
            false => crate::client::token::announce(port, &self.secret),
        };
        match announced {
            Ok(()) => self.announced.set(Some(port)),
            Err(error) => tracing::debug!(%error, "the token is only in the data folder"),
        }
    }

    fn withdraw(&self) {
        if let Some(port) = self.announced.get() {
            crate::client::token::withdraw(port);
        }
    }
}

/// A Unix socket that this user's commands find by the port; forgotten when dropped.
struct Socket(u16);

impl Socket {
    /// A convenience, so its failure is none of ours.
    fn announce(port: u16, socket: &Path) -> Option<Self> {
        if socket.as_os_str().is_empty() {
            return None;
        }
        if let Err(error) = crate::client::token::announce_socket(port, socket) {
            tracing::debug!(%error, "commands don't find the socket by themselves");
        }
        Some(Self(port))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        crate::client::token::withdraw_socket(self.0);
    }
}

/// What a person sees at start: at most 12 lines, on stderr.
fn banner(settings: &Settings, url: &str, others: &[(&str, String)], token: &Token) {
    let values = &settings.values;
    let durability = match values.engine.durability {
        config::Durability::Commit => "every acknowledged write is synced to disk",
        config::Durability::Interval => "INTERVAL: a power cut may lose the last writes",
    };
    eprintln!("Standpipe {} on {url}", env!("CARGO_PKG_VERSION"));
    eprintln!("  data    {} ({durability})", values.server.data.display());
    if tracing::enabled!(tracing::Level::DEBUG) {
        let mib = values.limits.worst_case_bytes() >> 20;
        eprintln!("  memory  the limits allow {mib} MiB in the worst case, see docs/limits.md");
    }
    match token.emulator {
        true => {
            eprintln!("  watch   curl -N -H 'accept: text/event-stream' {url}/home.json");
            eprintln!("  write   curl -X PUT -d 21.5 {url}/home/kitchen/temp.json");
            eprintln!("  SDK     export FIREBASE_DATABASE_EMULATOR_HOST={}", url.trim_start_matches("http://"));
            let access =
                if settings.rules.is_some() { "as the rules say" } else { "open to everybody on this machine" };
            eprintln!("  access  {access}; `owner` is the administrator");
            // A banner has 12 lines at most: who opens many doors knows the commands.
            if values.runs.enabled && others.len() <= 4 {
                let server = if url.ends_with(":9000") { String::new() } else { format!(" --url {url}") };
                eprintln!("  run     standpipe run{server} -- ping -c 5 localhost");
            }
            if values.mcp.enabled && others.len() <= 3 {
                eprintln!("  agents  claude mcp add --transport http board {url}/mcp");
            }
        }
        false => {
            eprintln!("  read    curl -H \"authorization: Bearer $(cat {})\" {url}/.json", token.file.display());
            eprintln!("  access  administrators only, unless rules (--rules FILE) let others in");
            for whom in believed(&values.auth) {
                eprintln!("  tokens  {whom}");
            }
        }
    }
    for (door, at) in others {
        let (flag, (host, port)) = (at.contains('/'), at.rsplit_once(':').unwrap_or(("", at)));
        match (*door, flag) {
            ("mcp", _) => eprintln!("  mcp     http://{at}/mcp"),
            ("mcp-line", _) => eprintln!("  mcp     {at}, one message a line"),
            ("https", _) => eprintln!("  https   {}", tls::url(&values.tls.name, at)),
            ("resp", true) => eprintln!("  redis   redis-cli -s {at} GET home/kitchen/temp"),
            ("resp", false) => eprintln!("  redis   redis-cli -h {host} -p {port} GET home/kitchen/temp"),
            (_, true) => eprintln!("  lines   nc -U {at}"),
            (_, false) => eprintln!("  lines   nc {host} {port}"),
        }
    }
    eprintln!("  stop    Ctrl-C");
}

/// Whose tokens are believed, for people.
fn believed(auth: &config::Auth) -> Vec<String> {
    let mut all = Vec::new();
    if !auth.firebase_project.is_empty() {
        all.push(format!("users of the Firebase project {}", auth.firebase_project));
    }
    if !auth.key.is_empty() {
        all.push(format!("signed with {} of your own keys", auth.key.len()));
    }
    all
}

/// The engine can't go on: what is acknowledged is on disk, and limping on would risk the rest.
pub(crate) fn stop_at_once(why: &str) {
    eprintln!("error: {why}");
    std::process::exit(Exit::Failed.code().into());
}

/// As many descriptors as we may have: each connection is one.
pub(crate) fn raise_descriptor_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files stays low");
        }
    }
}

/// Keeps the allocator's memory in ordinary pages: with huge ones, ten thousand idle connections
/// held 20 KiB each instead of 11.
pub(crate) fn keep_pages_small() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay on");
    }
}
