//! What each operation of a file system means to the tree. One call for each of the kernel's requests; the
//! requests themselves, and how long they may take, are `fs`'s matter.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fuser::Errno;
use parking_lot::Mutex;
use standpipe_tree::{NULL_ETAG, Path, PathError};
use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, RwLock};

use super::draft::{Base, Draft, State, part};
use super::inodes::{Attr, Inodes};
use super::listing::Listing;
use super::name::key_of;
use super::server::{Kind, Server};
use super::text::FILE_BYTES_MAX;
use super::{Result, errno};

/// Files open at once, and directories being listed at once.
const OPEN_MAX: usize = 4_096;
/// Attempts to append, or to remove, while others write to the same file.
const ATTEMPTS: usize = 16;

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct How {
    pub(super) write: bool,
    pub(super) truncate: bool,
    pub(super) append: bool,
    /// Only if it is not there.
    pub(super) exclusive: bool,
}

/// A copy of a file, made when it was opened.
#[derive(Debug)]
struct Copy {
    content: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

type Shared<T> = Arc<AsyncMutex<T>>;

#[derive(Debug, Default)]
struct Open {
    reading: HashMap<u64, Arc<Copy>>,
    /// Streams: what is read is asked for when it is.
    outputs: HashMap<u64, Arc<Path>>,
    /// With their numbers.
    writing: HashMap<u64, (u64, Shared<Draft>)>,
    listing: HashMap<u64, Shared<Listing>>,
}

/// A mounted tree.
#[derive(Debug)]
pub(super) struct Tree {
    server: Server,
    inodes: Mutex<Inodes>,
    open: Mutex<Open>,
    handles: AtomicU64,
    /// Written while a file is stored whose last descriptor is closed already: whoever comes after
    /// that close sees what was stored.
    closing: RwLock<()>,
}

impl Tree {
    pub(super) fn new(server: Server) -> Self {
        Self {
            server,
            inodes: Mutex::new(Inodes::new()),
            open: Mutex::default(),
            handles: AtomicU64::new(1),
            closing: RwLock::default(),
        }
    }

    pub(super) async fn lookup(&self, parent: u64, name: &OsStr) -> Result<Attr> {
        let _closed = self.closed().await;
        // What can't be a key is not there.
        let path = self.child(parent, name).map_err(|_| Errno::ENOENT)?;
        let kind = self.kind(&path).await?.ok_or(Errno::ENOENT)?;
        Ok(self.inodes.lock().told(&path, kind))
    }

    pub(super) fn forget(&self, ino: u64, lookups: u64) {
        self.inodes.lock().forgotten(ino, lookups);
    }

    /// What is at the number's place. A directory is taken to be there: the tree makes directories of
    /// what is in them, and every name is looked up before it is used.
    pub(super) async fn attr(&self, ino: u64) -> Result<Attr> {
        let _closed = self.closed().await;
        if self.inodes.lock().is_directory(ino) {
            return Ok(self.inodes.lock().seen(ino, Kind::Directory));
        }
        self.file_attr(ino).await
    }

    async fn file_attr(&self, ino: u64) -> Result<Attr> {
        let kind = match self.draft_of(ino) {
            // Before its path is asked for, which a removed file has no more.
            Some(draft) => Kind::File(draft.lock().await.content().len() as u64),
            None => {
                let Ok(path) = self.inodes.lock().path(ino) else { return self.inodes.lock().last_seen(ino) };
                self.server.probe(&path).await?.filter(|kind| *kind != Kind::Directory).ok_or(Errno::ENOENT)?
            }
        };
        Ok(self.inodes.lock().seen(ino, kind))
    }

    /// Makes a file `size` bytes long; through an open file, if it is one.
    pub(super) async fn resize(&self, ino: u64, handle: Option<u64>, size: u64) -> Result<Attr> {
        let _closed = self.closed().await;
        let size = usize::try_from(size).ok().filter(|size| *size <= FILE_BYTES_MAX).ok_or(Errno::EFBIG)?;
        match handle {
            Some(handle) => {
                let draft = self.writing(handle)?.1;
                let mut draft = draft.lock().await;
                self.make_room(&mut draft, size).await?;
                draft.resize(size);
            }
            None => {
                let how = How { write: true, truncate: size == 0, ..How::default() };
                let mut draft = self.draft(ino, how).await?;
                self.make_room(&mut draft, size).await?;
                draft.resize(size);
                draft.state = State::Changed;
                self.store(ino, &mut draft).await?;
            }
        }
        self.file_attr(ino).await
    }

    pub(super) async fn mkdir(&self, parent: u64, name: &OsStr) -> Result<Attr> {
        let _closed = self.closed().await;
        let path = self.child(parent, name)?;
        if self.kind(&path).await?.is_some() {
            return Err(Errno::EEXIST);
        }
        let mut inodes = self.inodes.lock();
        inodes.make(&path)?;
        Ok(inodes.told(&path, Kind::Directory))
    }

    pub(super) async fn unlink(&self, parent: u64, name: &OsStr) -> Result<()> {
        let _closed = self.closed().await;
        let path = self.child(parent, name)?;
        for _ in 0..ATTEMPTS {
            let Some(read) = self.server.read(&path).await? else {
                if let Some(Kind::Output(_)) = self.server.probe(&path).await? {
                    return Err(Errno::EACCES);
                }
                // Made, and not written yet.
                let ino = self.inodes.lock().file(&path).filter(|ino| self.draft_of(*ino).is_some());
                ino.ok_or(Errno::ENOENT)?;
                self.inodes.lock().removed(&path);
                return Ok(());
            };
            // By its ETag: what has become a directory by now must not go with all that is in it.
            match self.server.delete(&path, &read.etag).await {
                Err(Errno::EAGAIN) => {}
                done => {
                    done?;
                    self.inodes.lock().removed(&path);
                    return Ok(());
                }
            }
        }
        Err(Errno::EAGAIN)
    }

    pub(super) async fn rmdir(&self, parent: u64, name: &OsStr) -> Result<()> {
        let _closed = self.closed().await;
        let path = self.child(parent, name)?;
        match self.server.probe(&path).await? {
            Some(Kind::Directory) => return Err(Errno::ENOTEMPTY),
            Some(Kind::File(_) | Kind::Output(_)) => return Err(Errno::ENOTDIR),
            None => {}
        }
        let mut inodes = self.inodes.lock();
        match (inodes.is_pending(&path), inodes.pending_in(&path).is_empty()) {
            (false, _) => Err(Errno::ENOENT),
            (true, false) => Err(Errno::ENOTEMPTY),
            (true, true) => {
                inodes.removed(&path);
                Ok(())
            }
        }
    }

    /// Moves what is at one name to another, in one step.
    pub(super) async fn rename(&self, from: (u64, &OsStr), to: (u64, &OsStr), replace: bool) -> Result<()> {
        let _closed = self.closed().await;
        let (from, to) = (self.child(from.0, from.1)?, self.child(to.0, to.1)?);
        if from == to {
            return Ok(());
        }
        match self.kind(&to).await? {
            Some(_) if !replace => return Err(Errno::EEXIST),
            Some(Kind::Output(_)) => return Err(Errno::EACCES),
            Some(Kind::Directory) if self.server.probe(&to).await?.is_some() => return Err(Errno::ENOTEMPTY),
            Some(Kind::Directory) if !self.inodes.lock().pending_in(&to).is_empty() => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        let value = self.server.export(&from).await.map_err(|error| match error {
            // Too large for one step: `mv` copies and removes then.
            Errno::EFBIG => Errno::EXDEV,
            error => error,
        })?;
        if *value != *b"null" {
            self.server.rename(&from, &to, &value).await?;
        } else {
            match self.kind(&from).await? {
                None => return Err(Errno::ENOENT),
                // Streams stay where they are.
                Some(Kind::Output(_)) => return Err(Errno::EACCES),
                Some(Kind::Directory | Kind::File(_)) => {}
            }
        }
        self.inodes.lock().moved(&from, &to);
        Ok(())
    }

    pub(super) async fn open(&self, ino: u64, how: How) -> Result<u64> {
        let _closed = self.closed().await;
        let kind = self.inodes.lock().kind(ino);
        if let Some(Kind::Output(_)) = kind {
            let path = self.inodes.lock().path(ino)?;
            return match how.write {
                true => Err(Errno::EACCES),
                false => self.hold(|open, handle| drop(open.outputs.insert(handle, Arc::new(path)))),
            };
        }
        if how.write {
            let draft = self.draft(ino, how).await?;
            return self.hold(|open, handle| drop(open.writing.insert(handle, (ino, Arc::new(draft.into())))));
        }
        let copy = match self.draft_of(ino) {
            // As whoever writes it sees it, where the tree has nothing yet.
            Some(draft) if self.inodes.lock().path(ino).is_err() || self.read(ino).await?.is_none() => {
                let content = draft.lock().await.content().to_vec();
                Copy { _permit: self.server.room(content.len()).await?, content }
            }
            _ => {
                let read = self.read(ino).await?.ok_or(Errno::ENOENT)?;
                Copy { content: read.content, _permit: read.permit }
            }
        };
        self.hold(|open, handle| drop(open.reading.insert(handle, Arc::new(copy))))
    }

    pub(super) async fn create(&self, parent: u64, name: &OsStr, how: How) -> Result<(Attr, u64)> {
        let _closed = self.closed().await;
        let path = self.child(parent, name)?;
        let mut draft = Draft::empty(how.append, self.server.room(1).await?);
        if how.exclusive {
            // The first one wins, over all clients: it has to be there before anybody is told so.
            let json = self.server.render().value(b"").map_err(errno::of_content)?;
            let put = self.server.put(&path, json, Some(NULL_ETAG)).await;
            put.map_err(|error| if error == Errno::EAGAIN { Errno::EEXIST } else { error })?;
            draft.has_been_stored();
        }
        let attr = self.inodes.lock().told(&path, Kind::File(0));
        let handle = self.hold(|open, handle| drop(open.writing.insert(handle, (attr.ino, Arc::new(draft.into())))));
        // The kernel is told of it only together with the handle.
        let handle = handle.inspect_err(|_| self.forget(attr.ino, 1))?;
        Ok((attr, handle))
    }

    /// Gives part of an open file to `take`.
    pub(super) async fn read_at<T>(
        &self,
        handle: u64,
        offset: u64,
        size: u32,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        let output = self.open.lock().outputs.get(&handle).cloned();
        if let Some(path) = output {
            return Ok(take(&self.server.output(&path, offset, size).await?));
        }
        let copy = self.open.lock().reading.get(&handle).cloned();
        match copy {
            Some(copy) => Ok(take(part(&copy.content, offset, size))),
            None => Ok(take(part(self.writing(handle)?.1.lock().await.content(), offset, size))),
        }
    }

    pub(super) async fn write_at(&self, handle: u64, offset: u64, data: &[u8]) -> Result<()> {
        let draft = self.writing(handle)?.1;
        let mut draft = draft.lock().await;
        let end = draft.end_of(offset, data.len()).inspect_err(|_| draft.torn())?;
        self.make_room(&mut draft, end).await?;
        draft.write(offset, data)
    }

    /// A descriptor is closed, or its writer wants to be sure: stores what was written. What is refused
    /// is told here, once.
    pub(super) async fn flush(&self, handle: u64) -> Result<()> {
        let _closed = self.closed().await;
        let Ok((ino, draft)) = self.writing(handle) else { return Ok(()) };
        let mut draft = draft.lock().await;
        match draft.state {
            State::Changed => self.store(ino, &mut draft).await,
            State::Emptied | State::Stored => Ok(()),
            State::Torn => Err(Errno::EFBIG),
        }
    }

    /// The last descriptor is closed. Nobody hears of a refusal any more, so it is logged.
    pub(super) async fn release(&self, handle: u64) {
        let Some((ino, draft)) = self.taken(handle) else { return };
        if matches!(draft.lock().await.state, State::Emptied | State::Changed) {
            let _closing = self.closing.write().await;
            if let Err(error) = self.store(ino, &mut *draft.lock().await).await {
                let path = self.inodes.lock().path(ino).unwrap_or_default();
                tracing::warn!(%path, ?error, "a file was not stored");
            }
        }
    }

    fn taken(&self, handle: u64) -> Option<(u64, Shared<Draft>)> {
        let mut open = self.open.lock();
        open.reading.remove(&handle);
        open.outputs.remove(&handle);
        open.writing.remove(&handle)
    }

    pub(super) fn list(&self, ino: u64) -> Result<u64> {
        let listing = Listing::new(self.inodes.lock().path(ino)?);
        self.hold(|open, handle| drop(open.listing.insert(handle, Arc::new(listing.into()))))
    }

    pub(super) fn listed(&self, handle: u64) {
        self.open.lock().listing.remove(&handle);
    }

    /// The listing behind a handle.
    pub(super) fn listing(&self, handle: u64) -> Result<Shared<Listing>> {
        self.open.lock().listing.get(&handle).cloned().ok_or(Errno::EBADF)
    }

    /// Waits for files that are closed and not stored yet.
    pub(super) async fn closed(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.closing.read().await
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    pub(super) fn inodes(&self) -> parking_lot::MutexGuard<'_, Inodes> {
        self.inodes.lock()
    }

    /// What is at `path`, in the tree or only here.
    async fn kind(&self, path: &Path) -> Result<Option<Kind>> {
        let draft = self.inodes.lock().file(path).and_then(|ino| self.draft_of(ino));
        if let Some(draft) = draft {
            return Ok(Some(Kind::File(draft.lock().await.content().len() as u64)));
        }
        let kind = self.server.probe(path).await?;
        let mut inodes = self.inodes.lock();
        match kind {
            Some(_) => inodes.exists(path),
            None if inodes.is_pending(path) => return Ok(Some(Kind::Directory)),
            None => {}
        }
        Ok(kind)
    }

    fn child(&self, parent: u64, name: &OsStr) -> Result<Path> {
        let key = key_of(name.to_str().ok_or(Errno::EILSEQ)?);
        self.inodes.lock().path(parent)?.child(&key).map_err(|error| match error {
            PathError::Key(standpipe_tree::KeyError::Character(_) | standpipe_tree::KeyError::Empty) => Errno::EINVAL,
            _ => Errno::ENAMETOOLONG,
        })
    }

    async fn read(&self, ino: u64) -> Result<Option<super::server::Read>> {
        let path = self.inodes.lock().path(ino)?;
        self.server.read(&path).await
    }

    /// A draft of the file with this number, as `how` says.
    async fn draft(&self, ino: u64, how: How) -> Result<Draft> {
        if how.truncate {
            // Known to be a file from a listing a second old: it must not be a directory by now, and the server
            // should be there before the writer begins.
            if self.draft_of(ino).is_none() {
                let path = self.inodes.lock().path(ino)?;
                match self.server.probe(&path).await? {
                    Some(Kind::Directory) => return Err(Errno::EISDIR),
                    Some(Kind::Output(_)) => return Err(Errno::EACCES),
                    Some(Kind::File(_)) | None => {}
                }
            }
            return Ok(Draft::empty(how.append, self.server.room(1).await?));
        }
        match self.read(ino).await? {
            Some(read) => Ok(Draft::of(read.content, read.etag, how.append, read.permit)),
            // Another descriptor has made it, and not stored it yet.
            None => {
                let draft = self.draft_of(ino).ok_or(Errno::ENOENT)?;
                let content = draft.lock().await.content().to_vec();
                let permit = self.server.room(content.len().max(1)).await?;
                Ok(Draft::of(content, NULL_ETAG.to_owned(), how.append, permit))
            }
        }
    }

    async fn make_room(&self, draft: &mut Draft, end: usize) -> Result<()> {
        let lacks = draft.lacks(end);
        if lacks > 0 {
            // Large writes come in pieces: room for the next ones too.
            let ahead = (lacks + end / 2).min(FILE_BYTES_MAX);
            draft.more_room(self.server.room(ahead).await?);
        }
        Ok(())
    }

    /// Stores a draft; afterwards there is nothing to store, whatever came of it.
    async fn store(&self, ino: u64, draft: &mut Draft) -> Result<()> {
        let Ok(path) = self.inodes.lock().path(ino) else {
            // Removed while it was open: there is no place for it.
            draft.state = State::Stored;
            return Ok(());
        };
        let done = match draft.base.clone() {
            Base::Appended => self.append(&path, draft).await,
            base => {
                let etag = if let Base::Etag(etag) = &base { Some(etag.as_str()) } else { None };
                self.put(&path, draft.content(), etag).await
            }
        };
        match done {
            Ok(()) => draft.has_been_stored(),
            Err(_) => draft.state = State::Stored,
        }
        done
    }

    /// Puts what was added behind what is there now.
    async fn append(&self, path: &Path, draft: &mut Draft) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let read = self.server.read(path).await?;
            let (mut content, etag) = match read {
                Some(read) => (read.content, read.etag),
                None => (Vec::new(), NULL_ETAG.to_owned()),
            };
            content.extend_from_slice(draft.added());
            if content.len() > FILE_BYTES_MAX {
                return Err(Errno::EFBIG);
            }
            match self.put(path, &content, Some(&etag)).await {
                Err(Errno::EAGAIN) => {}
                done => {
                    done?;
                    draft.stored(content);
                    return Ok(());
                }
            }
        }
        Err(Errno::EAGAIN)
    }

    async fn put(&self, path: &Path, content: &[u8], etag: Option<&str>) -> Result<()> {
        let json = self.server.render().value(content).map_err(errno::of_content)?;
        self.server.put(path, json, etag).await?;
        self.inodes.lock().exists(path);
        Ok(())
    }

    fn draft_of(&self, ino: u64) -> Option<Shared<Draft>> {
        let open = self.open.lock();
        // Handles count up: the last one opened.
        let of_ino = open.writing.iter().filter(|(_, (of, _))| *of == ino);
        of_ino.max_by_key(|(handle, _)| **handle).map(|(_, (_, draft))| draft.clone())
    }

    fn writing(&self, handle: u64) -> Result<(u64, Shared<Draft>)> {
        self.open.lock().writing.get(&handle).cloned().ok_or(Errno::EBADF)
    }

    fn hold(&self, put: impl FnOnce(&mut Open, u64)) -> Result<u64> {
        let mut open = self.open.lock();
        if open.reading.len() + open.outputs.len() + open.writing.len() + open.listing.len() >= OPEN_MAX {
            return Err(Errno::ENFILE);
        }
        let handle = self.handles.fetch_add(1, Ordering::Relaxed);
        put(&mut open, handle);
        Ok(handle)
    }
}
