//! `standpipe mcp gateway`: servers that speak stdin and stdout, over HTTP. A process of its own without a tree: event loops, the HTTP door of MCP,
//! the servers, and their end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use standpipe_doors::{Authority, Credentials, McpHttp};
use standpipe_mcp::gateway::{ServerEntry, Upstream};
use standpipe_mcp::upstream::child::Mode as ChildMode;
use standpipe_mcp::upstream::{Era, EraChoice};
use standpipe_serve::{OnFailure, OnShutdown, Server, ServerConfig, TaskKind};
use tracing::level_filters::LevelFilter;

use super::node::{McpNode, Setup, Source, policy};
use crate::cli::{McpEra, McpGatewayArgs, McpMode, NodeArgs, Verbosity};
use crate::config::{self, Mode, Settings, is_loopback};
use crate::exit::{Exit, Failure, Result};
use crate::node::{bind, keep_pages_small, raise_descriptor_limit};
use crate::reload::FileWatch;
use crate::signals::{Signals, Told};
use crate::systemd::{self, State};
use crate::{authority, logging};

/// What the server of the command line is called.
pub(super) const MAIN: &str = "main";

/// Fetching the keys of token issuers.
const KEYS_TASK: TaskKind =
    TaskKind { name: "token-keys", on_failure: OnFailure::StopNode, on_shutdown: OnShutdown::Abort };

/// Runs the gateway until it is told to stop.
///
/// # Errors
/// It can't start; the failure names what to change.
pub(crate) fn run(arguments: &McpGatewayArgs, verbosity: Verbosity) -> Result<Exit> {
    let settings = settings(arguments)?;
    logging::start(LevelFilter::INFO, verbosity.steps(), settings.values.server.log_format)?;
    let source = source(arguments)?;
    let gateway = Gateway::start(&settings, source, secret(arguments)?)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("can't start a runtime: {error}")))?;
    runtime.block_on(gateway.serve(&settings))
}

/// A running gateway.
struct Gateway {
    server: Server,
    mcp: McpNode,
    ready: Arc<AtomicBool>,
    address: String,
    others: Vec<(&'static str, String)>,
}

impl Gateway {
    fn start(settings: &Settings, source: Source, secret: Option<String>) -> Result<Self> {
        raise_descriptor_limit();
        keep_pages_small();
        let values = &settings.values;
        let config = ServerConfig { limits: values.limits.clone(), cores: None };
        let server = Server::start(config).map_err(|error| Failure::failed(error.to_string()))?;
        let authority = Authority { admin_token: secret, ..authority::read(&values.auth)? };
        let credentials = Credentials::new(authority, server.limits());
        let (listeners, address) = bind(&values.server.listen, None, &server)?;
        if let Some(event_loop) = server.runtimes().next() {
            let _on_it = event_loop.enter();
            server.shutdown().spawn(KEYS_TASK, credentials.clone().keep_keys());
        }
        let setup = Setup {
            tree: None,
            source,
            policy: policy(values),
            metrics: standpipe_mcp::Metrics::default(),
            streams: None,
            folder: &marks_folder(),
        };
        let mcp = McpNode::open(setup, &server, &credentials)?;
        let ready = Arc::new(AtomicBool::new(true));
        let mut others = Vec::new();
        others.extend(mcp.listen_lines(&values.mcp.line, None, &server)?.map(|at| ("lines", at)));
        let door = McpHttp::new(mcp.mcp().clone(), server.metrics().clone(), ready.clone());
        server.listen(Arc::new(door), listeners);
        Ok(Self { server, mcp, ready, address, others })
    }

    async fn serve(self, settings: &Settings) -> Result<Exit> {
        let mut signals = Signals::new(Mode::Serve)?;
        let mut file = FileWatch::new(self.mcp.file().map(Path::to_owned).into_iter().collect());
        self.banner(settings);
        #[expect(clippy::print_stdout, reason = "the one line of results that a server has")]
        {
            let others: String = self.others.iter().map(|(door, at)| format!(" {door}={at}")).collect();
            println!("standpipe ready http://{}{others}", self.address);
        }
        systemd::tell(State::Ready);
        while file.told(&mut signals).await == Told::Reload {
            systemd::tell(State::Reloading);
            self.mcp.reload().await;
            systemd::tell(State::Ready);
        }
        systemd::tell(State::Stopping);
        tracing::info!("stopping; a second signal stops at once");
        let clean = tokio::select! {
            clean = self.stop() => clean,
            () = signals.stop() => false,
        };
        Ok(if clean { Exit::Ok } else { Exit::Unclean })
    }

    /// Nobody comes in any more; calls are done or their time is over; servers end; connections are closed.
    async fn stop(self) -> bool {
        self.ready.store(false, Ordering::Relaxed);
        self.server.stop_accepting();
        self.mcp.close().await;
        self.server.stop().await.clean
    }

    /// What a person sees at start, on stderr.
    fn banner(&self, settings: &Settings) {
        let address = &self.address;
        eprintln!("Standpipe {} serves MCP", env!("CARGO_PKG_VERSION"));
        match self.mcp.file() {
            None => eprintln!("  server  http://{address}/mcp"),
            Some(file) => {
                eprintln!("  servers http://{address}/mcp/s/NAME, all joined at http://{address}/mcp/all");
                eprintln!("  file    {}; a change of it is read at once", file.display());
            }
        }
        for (_, at) in &self.others {
            eprintln!("  lines   {at}");
        }
        let access = match settings.values.mcp.anonymous {
            true => "whoever reaches it; no token is asked for",
            false => "bearers of a token that is believed",
        };
        eprintln!("  access  {access}");
        eprintln!("  status  standpipe mcp status --url http://{address}");
        eprintln!("  stop    Ctrl-C");
    }
}

/// What tells this gateway's processes from all others: no such folder has to be there.
fn marks_folder() -> PathBuf {
    std::env::temp_dir().join(format!("standpipe-gateway-{}", std::process::id()))
}

/// The settings: those of `serve` for what a gateway has, with what the command line says.
fn settings(arguments: &McpGatewayArgs) -> Result<Settings> {
    let local = is_loopback(&arguments.listen);
    if !local && !arguments.insecure {
        return Err(Failure::usage(format!(
            "{} can be reached by others, who could read along and change what is sent",
            arguments.listen
        ))
        .help(
            "listen on 127.0.0.1; or serve the servers with TLS (standpipe serve --mcp-servers FILE --tls NAME); or allow it, as \
             behind a proxy that speaks https (--insecure)",
        ));
    }
    let node = NodeArgs {
        listen: Some(arguments.listen.clone()),
        mcp_line: arguments.line.as_ref().map(|path| path.to_string_lossy().into_owned()),
        config: arguments.config.clone(),
        auth: arguments.auth.clone(),
        insecure: arguments.insecure,
        log_format: arguments.log_format,
        ..NodeArgs::default()
    };
    let mut settings = Settings::load(Mode::Serve, &node)?;
    let values = &mut settings.values;
    let asks =
        arguments.secret_file.is_some() || !values.auth.key.is_empty() || !values.auth.firebase_project.is_empty();
    let mcp = &mut values.mcp;
    mcp.anonymous |= arguments.anonymous || (local && !asks);
    if !mcp.anonymous && !asks {
        return Err(Failure::usage("nobody could come in: others reach this address, and no token is believed").help(
            "name whose tokens are believed (--auth key:FILE), a secret (--secret-file FILE), or let everybody in (--anonymous)",
        ));
    }
    mcp.sse |= arguments.sse;
    mcp.audience = arguments.audience.clone().unwrap_or_else(|| std::mem::take(&mut mcp.audience));
    mcp.hosts.extend(arguments.host.iter().cloned());
    mcp.origins.extend(arguments.origin.iter().cloned());
    check(&mcp.hosts, config::is_host_name, "--host", "as clients use it, such as mcp.example.com")?;
    check(&mcp.origins, config::is_origin, "--origin", "scheme, host and port, such as https://app.example.com")?;
    limits(arguments, &mut values.limits)?;
    Ok(settings)
}

fn check(all: &[String], is_good: fn(&str) -> bool, argument: &str, help: &str) -> Result<()> {
    match all.iter().find(|text| !is_good(text)) {
        Some(text) => Err(Failure::usage(format!("{argument} {text}: can't be meant")).help(help)),
        None => Ok(()),
    }
}

/// The limits that have an argument.
fn limits(arguments: &McpGatewayArgs, limits: &mut standpipe_serve::Limits) -> Result<()> {
    let ms = |time: std::time::Duration| time.as_millis() as u64;
    let times = [
        (arguments.call_timeout, &mut limits.mcp_call_ms_max),
        (arguments.call_total, &mut limits.mcp_call_total_ms_max),
        (arguments.idle_timeout, &mut limits.mcp_idle_ms_max),
        (arguments.start_timeout, &mut limits.mcp_start_ms_max),
        (arguments.drain, &mut limits.mcp_drain_ms),
    ];
    for (given, limit) in times {
        *limit = given.map_or(*limit, ms);
    }
    // Who raises the one and says nothing of the other means both.
    if arguments.call_total.is_none() {
        limits.mcp_call_total_ms_max = limits.mcp_call_total_ms_max.max(limits.mcp_call_ms_max);
    }
    let counts = [
        (arguments.max_children, &mut limits.mcp_children_max, &mut limits.mcp_children_per_principal_max),
        (arguments.max_sessions, &mut limits.mcp_sessions_max, &mut limits.mcp_sessions_per_principal_max),
    ];
    for (given, all, of_one) in counts {
        if let Some(count) = given {
            *all = count as usize;
            // Where no token is asked for, everybody is the same principal.
            *of_one = (*of_one).max(*all);
        }
    }
    limits.check().map_err(|error| Failure::usage(error.to_string()).help("standpipe help mcp gateway"))
}

/// The secret that lets in.
fn secret(arguments: &McpGatewayArgs) -> Result<Option<String>> {
    let Some(file) = &arguments.secret_file else { return Ok(None) };
    let text = std::fs::read_to_string(file).map_err(|error| Failure::file(file, &error))?;
    match text.trim() {
        secret if secret.len() >= 32 => Ok(Some(secret.to_owned())),
        _ => Err(Failure::usage(format!("{} holds no secret of 32 characters or more", file.display()))
            .help(format!("make one: openssl rand -hex 32 > {}", file.display()))),
    }
}

/// The servers: a file of them, or the one of the command line.
fn source(arguments: &McpGatewayArgs) -> Result<Source> {
    if let Some(file) = &arguments.servers {
        let of_one = [
            ("--mode", arguments.mode.is_some()),
            ("--era", arguments.era.is_some()),
            ("--eager", arguments.eager),
            ("--env", !arguments.env.is_empty()),
            ("--cwd", arguments.cwd.is_some()),
            ("--record", arguments.record.is_some()),
            ("--rules", arguments.rules.is_some()),
        ];
        if let Some((argument, _)) = of_one.iter().find(|(_, given)| *given) {
            return Err(Failure::usage(format!(
                "{argument} is about one server, and {} names several",
                file.display()
            ))
            .help("say it in the file, at the server that is meant; docs/gateway.md lists the keys"));
        }
        return Ok(Source::File(file.clone()));
    }
    let mut entry = ServerEntry::of_command(MAIN, arguments.command.clone());
    if let Upstream::Command { env, cwd, .. } = &mut entry.upstream {
        *env = arguments.env.iter().map(|text| variable(text)).collect::<Result<_>>()?;
        cwd.clone_from(&arguments.cwd);
    }
    entry.mode = match arguments.mode {
        Some(McpMode::Shared) => ChildMode::Shared,
        Some(McpMode::Session) | None => ChildMode::Session,
    };
    entry.era = match arguments.era {
        Some(McpEra::Legacy) => EraChoice::Known(Era::Legacy),
        Some(McpEra::Modern) => EraChoice::Known(Era::Modern),
        Some(McpEra::Auto) | None => EraChoice::Auto,
    };
    entry.eager = arguments.eager;
    entry.record = arguments.record.as_ref().map(|path| path.to_string_lossy().into_owned());
    if let Some(path) = &arguments.rules {
        entry.rules = Some(std::fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?);
    }
    Ok(Source::One(Box::new(entry)))
}

/// `NAME=VALUE`, or `NAME` for the value here.
fn variable(text: &str) -> Result<(String, String)> {
    let wrong = |why: &str| Failure::usage(format!("--env {text}: {why}")).help("--env NAME=VALUE, or --env NAME");
    match text.split_once('=') {
        Some(("", _)) => Err(wrong("no name")),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Ok((text.to_owned(), std::env::var(text).map_err(|_| wrong("it is not set here"))?)),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command, McpCommand};

    fn parse(line: &str) -> McpGatewayArgs {
        let cli = Cli::try_parse_from(["standpipe", "mcp", "gateway"].into_iter().chain(line.split(' '))).unwrap();
        let Command::Mcp(arguments) = cli.command else { panic!("no mcp") };
        let Some(McpCommand::Gateway(arguments)) = arguments.command else { panic!("no gateway") };
        *arguments
    }

    #[test]
    fn arguments_become_limits_and_an_entry() {
        let line = "--listen 127.0.0.1:0 --mode shared --call-timeout 3s --idle-timeout 5s --start-timeout 10s --max-children 32 -- a -b c";
        let arguments = parse(line);
        let settings = settings(&arguments).unwrap();
        let limits = &settings.values.limits;
        assert_eq!((limits.mcp_call_ms_max, limits.mcp_idle_ms_max, limits.mcp_start_ms_max), (3_000, 5_000, 10_000));
        assert_eq!((limits.mcp_children_max, limits.mcp_children_per_principal_max), (32, 32));
        assert!(settings.values.mcp.anonymous);
        let Source::One(entry) = source(&arguments).unwrap() else { panic!("one") };
        let Upstream::Command { argv, .. } = &entry.upstream else { panic!("a command") };
        assert_eq!((argv.join(" ").as_str(), entry.mode), ("a -b c", ChildMode::Shared));
    }

    #[test]
    fn what_others_reach_is_not_open_by_accident() {
        let check = |line: &str, expected: Result<bool, &str>| match (settings(&parse(line)), expected) {
            (Ok(settings), Ok(anonymous)) => assert_eq!(settings.values.mcp.anonymous, anonymous, "{line}"),
            (Err(failure), Err(expected)) => assert!(failure.to_string().contains(expected), "{line}: {failure}"),
            (got, _) => panic!("{line}: {got:?}"),
        };
        check("--listen 127.0.0.1:0 -- x", Ok(true));
        check("--listen [::1]:0 --secret-file s -- x", Ok(false));
        check("--listen 127.0.0.1:0 --secret-file s --anonymous -- x", Ok(true));
        check("--listen 0.0.0.0:1 -- x", Err("--insecure"));
        check("--listen 0.0.0.0:1 --insecure -- x", Err("nobody could come in"));
        check("--listen 0.0.0.0:1 --insecure --anonymous -- x", Ok(true));
        check("--listen 0.0.0.0:1 --insecure --secret-file s -- x", Ok(false));
        check("--listen 127.0.0.1:0 --host a/b -- x", Err("--host a/b"));
        check("--listen 127.0.0.1:0 --origin example.com -- x", Err("--origin example.com"));
        check("--listen 127.0.0.1:0 --call-total 1s --call-timeout 2s -- x", Err("mcp_call_total_ms_max"));
        check("--listen nonsense --insecure --anonymous -- x", Err("HOST:PORT"));
    }

    #[test]
    fn what_is_said_of_one_server_is_not_said_of_a_file() {
        let check = |line: &str, expected: &str| {
            let told = source(&parse(line)).unwrap_err().to_string();
            assert!(told.contains(expected), "{line}: {told}");
        };
        check("--servers f.json --mode shared", "--mode is about one server");
        check("--servers f.json --record t", "--record is about");
        check("--env NO_SUCH_VARIABLE_HERE -- x", "not set here");
        check("--env =x -- x", "no name");
        assert!(matches!(source(&parse("--servers f.json")), Ok(Source::File(_))));
    }
}
