//! Pipes: a value or a folder for whoever opens a file, as `standpipe pipe` in the foreground and as
//! `[[pipe]]` of a configuration. What a document is, and how readers are caught, is the doors' and the
//! listeners' business.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use standpipe_doors::{Dispatch, FolderSource, Render, Source, TreeSource};
use standpipe_engine::{Error, ErrorKind};
use standpipe_serve::{Deadline, Limits, Server, ServerConfig, Session, Snapshot};

use crate::cli::PipeArgs;
use crate::client::{Call, Client, Verb};
use crate::commands::as_document;
use crate::exit::{Exit, Failure, Result};
use crate::node::raise_descriptor_limit;

/// Readers of a pipe in the foreground get this long to end when it is told to stop.
const DRAIN_MS: u64 = 2_000;

/// How readers are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PipeMode {
    /// A named pipe: works everywhere; readers that open it at the same moment may get nothing
    #[default]
    Fifo,
    /// A lease-backed file: exact for any number of readers; needs a local file system
    File,
}

/// How a value is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RenderAs {
    /// Indented JSON
    #[default]
    Json,
    /// A leaf as it is, else lines of `path: value`
    Text,
    /// Headings, lists and tables
    Markdown,
}

impl From<RenderAs> for Render {
    fn from(render: RenderAs) -> Self {
        match render {
            RenderAs::Json => Self::Json,
            RenderAs::Text => Self::Text,
            RenderAs::Markdown => Self::Markdown,
        }
    }
}

/// Who may read a pipe: the read bits of an octal mode.
pub(crate) const PERM_DEFAULT: &str = "0400";

/// The bits of an octal mode; only reading can be allowed.
pub(crate) fn perm(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(bits) if bits & !0o444 == 0 && bits & 0o400 != 0 => Ok(bits),
        _ => Err(format!("{text:?} is no mode of a pipe: use 0400 (you), 0440 (your group) or 0444 (everybody)")),
    }
}

/// A pipe of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PipeEntry {
    /// The path of the tree whose value is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    /// Or the folder of Markdown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) folder: Option<PathBuf>,
    /// Where readers find it.
    pub(crate) file: PathBuf,
    #[serde(default)]
    pub(crate) mode: PipeMode,
    #[serde(default)]
    pub(crate) render: RenderAs,
    /// The database, if not the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) database: Option<String>,
    #[serde(default = "perm_default")]
    pub(crate) perm: String,
}

fn perm_default() -> String {
    PERM_DEFAULT.to_owned()
}

impl PipeEntry {
    /// The setting that can't be meant, and why.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        match (&self.path, &self.folder) {
            (Some(_), Some(_)) => return Err(("folder", "a pipe has a path or a folder, not both".into())),
            (None, None) => {
                return Err(("file", "name what it serves: path = \"/home\", or folder = \"./docs\"".into()));
            }
            (Some(path), None) => {
                standpipe_tree::Path::parse(path).map_err(|error| ("path", format!("{path:?}: {error}")))?;
            }
            (None, Some(_)) => {}
        }
        if let Some(error) = self.database.as_ref().and_then(|name| standpipe_engine::check_name(name).err()) {
            return Err(("database", error.message().to_owned()));
        }
        perm(&self.perm).map(drop).map_err(|text| ("perm", text))
    }

    /// Serves it on a node; counted as a door of its own.
    ///
    /// # Errors
    /// The file can't be served, or the system has no such pipes.
    pub(crate) fn open(&self, server: &Server, dispatch: &Dispatch) -> Result<String> {
        let at = self.file.display().to_string();
        // For as long as the process lives, as its counters are.
        let name: &'static str = Box::leak(format!("pipe:{at}").into_boxed_str());
        let bits = perm(&self.perm).map_err(Failure::usage)?;
        match (&self.folder, &self.path) {
            (Some(folder), _) => listen(server, name, FolderSource::new(folder), &self.file, self.mode, bits)?,
            (None, path) => {
                let path = path.as_deref().unwrap_or("/");
                let tree =
                    standpipe_tree::Path::parse(path).map_err(|error| Failure::usage(format!("{path:?}: {error}")))?;
                let source = TreeSource::new(dispatch.clone(), self.database.clone(), tree, self.render.into());
                listen(server, name, source, &self.file, self.mode, bits)?
            }
        };
        Ok(at)
    }
}

/// Serves `source` at `file`; gives the count of readers where it is not that of connections.
#[cfg(target_os = "linux")]
fn listen<S: Source>(
    server: &Server,
    name: &'static str,
    source: S,
    file: &Path,
    mode: PipeMode,
    perm: u32,
) -> Result<Option<Arc<AtomicU64>>> {
    use standpipe_doors::PipeDoor;
    use standpipe_serve::{FifoListener, LeaseFileListener, PipeError};

    let failed = |error: PipeError| Failure::failed(error.to_string()).help("see docs/pipes.md");
    let door = Arc::new(PipeDoor::new(name, source));
    match mode {
        PipeMode::Fifo => {
            server.listen(door, vec![FifoListener::open(file, perm).map_err(failed)?]);
            Ok(None)
        }
        PipeMode::File => {
            let listener = LeaseFileListener::open(file, perm).map_err(failed)?;
            let readers = listener.readers();
            server.listen(door, vec![listener]);
            Ok(Some(readers))
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn listen<S: Source>(
    _: &Server,
    _: &'static str,
    _: S,
    _: &Path,
    _: PipeMode,
    _: u32,
) -> Result<Option<Arc<AtomicU64>>> {
    Err(Failure::failed("pipes need Linux").help("standpipe mirror PATH FILE keeps a copy on every system"))
}

/// A value of a server, asked for over HTTP.
#[derive(Debug)]
struct RemoteSource {
    client: Arc<Client>,
    path: String,
    render: Render,
}

impl RemoteSource {
    async fn read(&self, bytes_max: usize) -> Result<Vec<u8>> {
        document(&self.client, &self.path, self.render, bytes_max).await
    }
}

/// The value at a path of a server as a document.
pub(crate) async fn document(client: &Client, path: &str, render: Render, bytes_max: usize) -> Result<Vec<u8>> {
    let mut call = Call::new(Verb::Get, path);
    if render == Render::Json {
        call.query.push(("print", "pretty".into()));
    }
    let mut json = client.fetch(&call, bytes_max).await?;
    if render == Render::Json {
        json.push(b'\n');
        return Ok(json);
    }
    as_document(render, &format!("/{}", path.trim_matches('/')), &json)
}

impl Source for RemoteSource {
    async fn document(&self, session: &Session, deadline: Deadline) -> Result<Vec<u8>, Error> {
        let read = self.read(session.limits().reply_bytes_max);
        match tokio::time::timeout_at(deadline.instant().into(), read).await {
            Ok(Ok(document)) => Ok(document),
            Ok(Err(failure)) => Err(Error::unavailable(failure.cause().to_owned())),
            Err(_) => Err(Error::new(ErrorKind::Deadline, "the server took too long")),
        }
    }
}

/// Runs one pipe until it is told to stop.
///
/// # Errors
/// The server can't be reached, or the file can't be served.
pub(crate) fn run(arguments: &PipeArgs) -> Result<Exit> {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("can't start a runtime: {error}")))?;
    let limits = Limits { drain_ms: DRAIN_MS, ..Limits::default() };
    let bytes_max = limits.reply_bytes_max;
    let server =
        Server::start(ServerConfig { limits, cores: Some(1) }).map_err(|error| Failure::failed(error.to_string()))?;
    let (file, mode, perm) = (&arguments.file, arguments.mode, arguments.perm);
    let mut kept = None;
    let readers = if is_folder(arguments)? {
        listen(&server, "pipe", FolderSource::new(&arguments.source), file, mode, perm)?
    } else {
        // Kept to the end here: the client has an event loop of its own, which must not end within another.
        let client = kept.insert(Arc::new(Client::new(&arguments.url, &arguments.access)?)).clone();
        let source = RemoteSource { client, path: arguments.source.clone(), render: arguments.render.into() };
        // A wrong path or a missing server is told now, not by empty documents.
        runtime.block_on(source.read(bytes_max))?;
        listen(&server, "pipe", source, file, mode, perm)?
    };
    runtime.block_on(async {
        let mut stop = Stop::new()?;
        #[expect(clippy::print_stdout, reason = "the one line of results of this command")]
        {
            println!("standpipe ready: cat {}", file.display());
        }
        stop.told().await;
        let counts = server.metrics().clone();
        let clean = tokio::select! {
            stopped = server.stop() => stopped.clean,
            () = stop.told() => false,
        };
        eprintln!("{}", summary(&counts.snapshot(), readers.map(|readers| readers.load(Ordering::Relaxed))));
        Ok(if clean { Exit::Ok } else { Exit::Unclean })
    })
}

/// Whether the source is a folder. A path of the tree begins with a slash, so one that does is no folder
/// unless that is said; anything else is one if it is there.
fn is_folder(arguments: &PipeArgs) -> Result<bool> {
    let source = &arguments.source;
    let exists = Path::new(source).is_dir();
    match (arguments.folder, source.starts_with('/')) {
        (true, _) if !exists => {
            Err(Failure::failed(format!("{source} is no folder")).help("name one that exists, or leave --folder out"))
        }
        (true, _) => Ok(true),
        (false, true) => {
            if exists {
                eprintln!("serving {source} of the tree; for the folder of that name add --folder");
            }
            Ok(false)
        }
        (false, false) if source.starts_with('.') && !exists => {
            Err(Failure::failed(format!("{source} is no folder")).help("a path of the tree begins with a slash"))
        }
        (false, false) => Ok(exists),
    }
}

/// What a pipe has done, in a line.
fn summary(counts: &Snapshot, readers: Option<u64>) -> String {
    let closed = |reason| counts.closed_by_reason.get(reason).copied().unwrap_or(0);
    let (whole, collisions) = (closed("peer_closed"), closed("collision"));
    let rest = counts.accepted.saturating_sub(whole + collisions);
    match readers {
        Some(readers) => format!(
            "{readers} readers served by {whole} documents, {rest} not made or not taken; {} bytes",
            counts.bytes_out
        ),
        None => format!(
            "{} readers: {whole} served, {collisions} collided, {rest} left early or were cut; {} bytes",
            counts.accepted, counts.bytes_out
        ),
    }
}

/// The signals that end a command in the foreground in good order.
pub(crate) struct Stop {
    #[cfg(unix)]
    signals: [tokio::signal::unix::Signal; 3],
}

#[cfg(unix)]
impl Stop {
    pub(crate) fn new() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let failed = |error| Failure::failed(format!("can't wait for signals: {error}"));
        let on = |kind| signal(kind).map_err(failed);
        Ok(Self { signals: [on(SignalKind::interrupt())?, on(SignalKind::terminate())?, on(SignalKind::hangup())?] })
    }

    pub(crate) async fn told(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

#[cfg(not(unix))]
impl Stop {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {})
    }

    pub(crate) async fn told(&mut self) {
        let _no_handler_no_stop = tokio::signal::ctrl_c().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_only_lets_read() {
        let check = |text, expected: Option<u32>| assert_eq!(perm(text).ok(), expected, "{text}");
        check("0400", Some(0o400));
        check("444", Some(0o444));
        check("0644", None);
        check("0044", None);
        check("rw", None);
    }

    #[test]
    fn a_summary_counts_every_reader() {
        let mut counts = Snapshot { accepted: 5, bytes_out: 40, ..Snapshot::default() };
        counts.closed_by_reason = [("peer_closed", 2), ("collision", 2), ("write_timeout", 1)].into();
        assert_eq!(summary(&counts, None), "5 readers: 2 served, 2 collided, 1 left early or were cut; 40 bytes");
        counts.closed_by_reason = [("peer_closed", 5)].into();
        assert_eq!(summary(&counts, Some(9)), "9 readers served by 5 documents, 0 not made or not taken; 40 bytes");
    }
}
