//! The pipe door: who opens a named pipe or a lease-backed file reads one document, made at that moment.
//! How readers are caught, and that none gets a piece of another's document, is the listeners' business.

use std::fmt::Write as _;
use std::io;
use std::path::{Path as FsPath, PathBuf};

use standpipe_engine::{Error, ErrorKind, Identity};
use standpipe_serve::{
    Class, CloseReason, Conn, ConnIo, Cost, Deadline, Door, Outcome, Refusal, RequestGuard, Session,
};
use standpipe_tree::Path;
use tokio::io::AsyncWriteExt as _;

use crate::Render;
use crate::dispatch::{Dispatch, Read, run};

/// Where a document comes from.
pub trait Source: Send + Sync + 'static {
    /// The document as it is now.
    fn document(&self, session: &Session, deadline: Deadline) -> impl Future<Output = Result<Vec<u8>, Error>> + Send;
}

/// A location of the tree, read as administrator: who configures a pipe decides who may read it.
#[derive(Clone, Debug)]
pub struct TreeSource {
    dispatch: Dispatch,
    database: Option<String>,
    path: Path,
    render: Render,
}

impl TreeSource {
    /// The value at `path` of a database, the default one where none is named.
    pub fn new(dispatch: Dispatch, database: Option<String>, path: Path, render: Render) -> Self {
        Self { dispatch, database, path, render }
    }
}

impl Source for TreeSource {
    async fn document(&self, session: &Session, deadline: Deadline) -> Result<Vec<u8>, Error> {
        let database = self.dispatch.database(self.database.as_deref())?;
        let read = Read { pretty: self.render == Render::Json, ..Read::new(self.path.clone()) };
        let mut json = self.dispatch.read_whole(session, &database, &Identity::Admin, read, deadline).await?;
        if self.render == Render::Json {
            json.push(b'\n');
            return Ok(json);
        }
        let (title, render, cost) = (self.path.to_string(), self.render, Cost::Bytes(json.len()));
        let job = move || render.document(&title, &json).map_err(Error::internal);
        run(session, Class::Read, cost, deadline, job).await
    }
}

/// The Markdown files of a folder as one document: in the order of their names, a heading before each.
/// Folders inside it are not looked into.
#[derive(Clone, Debug)]
pub struct FolderSource {
    folder: PathBuf,
}

impl FolderSource {
    /// The `.md` files of `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }
}

impl Source for FolderSource {
    async fn document(&self, session: &Session, deadline: Deadline) -> Result<Vec<u8>, Error> {
        let (bytes_max, cost) = {
            let limits = session.limits();
            (limits.reply_bytes_max, Cost::Bytes(limits.reply_chunk_bytes))
        };
        let folder = self.folder.clone();
        let job = move || gather(&folder, bytes_max);
        run(session, Class::Read, cost, deadline, job).await
    }
}

fn gather(folder: &FsPath, bytes_max: usize) -> Result<Vec<u8>, Error> {
    let failed = |error: io::Error| {
        Error::unavailable(format!("the folder {} can't be read: {error}", folder.display())).with_cause(error)
    };
    let is_markdown = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("md"))
            && path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
            // A pipe of ours in its own folder would wait for itself.
            && path.is_file()
    };
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_markdown).collect();
    files.sort();
    let mut document = Vec::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if !document.is_empty() {
            document.push(b'\n');
        }
        document.extend_from_slice(format!("{name}\n{}\n\n", "=".repeat(name.chars().count().max(3))).as_bytes());
        append(&file, bytes_max, &mut document)?;
        if document.last() != Some(&b'\n') {
            document.push(b'\n');
        }
    }
    Ok(document)
}

/// A file that can't be read is told in its place: the others are wanted all the same.
fn append(file: &FsPath, bytes_max: usize, document: &mut Vec<u8>) -> Result<(), Error> {
    let bytes = match file.metadata() {
        // So is a lease-backed file of ours in its own folder: opening it would wait for itself.
        Ok(found) if found.len() == 0 => return Ok(()),
        Ok(found) if found.len() > bytes_max as u64 => Err(io::ErrorKind::FileTooLarge.into()),
        Ok(_) => std::fs::read(file),
        Err(error) => Err(error),
    };
    match bytes {
        Ok(bytes) => document.extend_from_slice(&bytes),
        Err(error) => {
            let mut told = String::new();
            writeln!(told, "(can't be read: {error})").expect("writing to memory does not fail");
            document.extend_from_slice(told.as_bytes());
        }
    }
    if document.len() > bytes_max {
        let text = format!("the documents are longer than reply_bytes_max ({bytes_max}) together");
        return Err(Error::new(ErrorKind::TooLarge, text));
    }
    Ok(())
}

/// A document for every reader of a pipe.
#[derive(Debug)]
pub struct PipeDoor<S> {
    name: &'static str,
    source: S,
}

impl<S: Source> PipeDoor<S> {
    /// A door that is counted as `name`.
    pub fn new(name: &'static str, source: S) -> Self {
        Self { name, source }
    }

    async fn answer(&self, io: &mut ConnIo, session: &Session) -> Result<(), CloseReason> {
        if !io.is_exclusive().await {
            return Err(CloseReason::Collision);
        }
        let deadline = Deadline::after(session.limits().request_ms_max);
        let document = match self.source.document(session, deadline).await {
            Ok(document) => document,
            Err(error) => {
                tracing::warn!(pipe = self.name, %error, "no document: the reader gets an empty one");
                return Err(reason(&error));
            }
        };
        let _permit = session.body_bytes(document.len()).map_err(CloseReason::Refused)?;
        io.expect(document.len());
        // Looked at again right before the first byte: from there on two readers would share it.
        if !io.is_exclusive().await {
            return Err(CloseReason::Collision);
        }
        write(io, session, &document).await
    }
}

impl<S: Source> Door for PipeDoor<S> {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn serve(&self, mut conn: Conn, session: Session) -> CloseReason {
        let mut request = session.request();
        let answered = self.answer(&mut conn.io, &session).await;
        end(&mut request, answered)
    }

    async fn refuse(&self, _: Conn, _: Refusal) {
        // A reader understands nothing but the end.
    }
}

fn end(request: &mut RequestGuard, answered: Result<(), CloseReason>) -> CloseReason {
    let Err(reason) = answered else {
        request.finished();
        return CloseReason::PeerClosed;
    };
    request.end(match reason {
        CloseReason::Refused(_) | CloseReason::Collision => Outcome::Refused,
        CloseReason::WriteTimeout => Outcome::TimedOut,
        CloseReason::Internal => Outcome::Finished,
        _ => Outcome::Cancelled,
    });
    reason
}

/// What a reader without a document is counted as.
fn reason(error: &Error) -> CloseReason {
    match error.kind() {
        ErrorKind::Overloaded => CloseReason::Refused(Refusal::QueueFull { retry_ms: 0 }),
        _ => CloseReason::Internal,
    }
}

/// Writes the document as fast as it is taken, but no slower than the limits allow.
async fn write(io: &mut ConnIo, session: &Session, document: &[u8]) -> Result<(), CloseReason> {
    let limits = session.limits();
    let end = Deadline::after(limits.pipe_ms_max);
    let mut rest = document;
    while !rest.is_empty() {
        let left = u64::try_from(end.remaining().as_millis()).unwrap_or(u64::MAX);
        session.due(CloseReason::WriteTimeout, limits.write_progress_ms_max.min(left));
        let count = tokio::select! {
            biased;
            written = io.write(rest) => written.map_err(|error| broken(&error))?,
            // A node that stops lets readers take the rest until the drain is over.
            () = overdue(session) => return Err(CloseReason::WriteTimeout),
        };
        session.add_bytes(0, count as u64);
        rest = &rest[count..];
        tokio::task::yield_now().await;
    }
    session.not_due();
    io.shutdown().await.map_err(|error| broken(&error))
}

async fn overdue(session: &Session) {
    session.closing().await;
    if session.close_reason().is_none() {
        std::future::pending().await
    }
}

fn broken(error: &io::Error) -> CloseReason {
    match error.kind() {
        io::ErrorKind::ResourceBusy => CloseReason::Collision,
        io::ErrorKind::TimedOut => CloseReason::WriteTimeout,
        io::ErrorKind::BrokenPipe => CloseReason::PeerVanished,
        _ => {
            tracing::warn!(%error, "a document could not be written");
            CloseReason::Internal
        }
    }
}
