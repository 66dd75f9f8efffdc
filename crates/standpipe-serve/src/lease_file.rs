//! An ordinary file as a source of connections: every opening of the path is served a document made at
//! that moment, and any number of readers is exact, without privileges.
//!
//! The file at the path is empty and under a write lease: whoever opens it waits in `open`, and the kernel
//! tells us. An empty file with a lease of its own takes its place; the document is written into
//! the old one by the connection's task; closing it drops the lease and lets its readers go. All of one
//! generation read the same document, each with an offset of its own.
//!
//! One thread does it. A document that does not come, or comes too late, is an empty file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use crate::keeper::{Bell, CAUGHT_MAX, Keeper, Woken};
use crate::opens::Opens;
use crate::spot::{FileId, PipeError, Spot, id};
use crate::{Conn, ConnIo, Listener, Peer, sys};

/// Written in one go, between two looks at what else the event loop has to do.
const WRITE_BYTES: usize = 256 << 10;

/// How long the kernel lets readers wait for us before it breaks a lease by itself.
const BREAK_TIME: &str = "/proc/sys/fs/lease-break-time";
const BREAK_TIME_DEFAULT: u64 = 45;
/// What we leave of it, for a clock that is not the kernel's.
const BREAK_MARGIN: Duration = Duration::from_secs(2);

/// A file whose openings are connections.
#[derive(Debug)]
pub struct LeaseFileListener {
    caught: mpsc::Receiver<LeaseConn>,
    readers: Arc<AtomicU64>,
    _keeper: Keeper,
}

impl LeaseFileListener {
    /// Puts the file at `path` and listens; `mode` says who may read it (write bits are left out). An empty
    /// file that is there is replaced, as a killed server leaves one; dropping the listener removes ours.
    ///
    /// # Errors
    /// See [`PipeError`].
    pub fn open(path: &Path, mode: u32) -> Result<Self, PipeError> {
        let us = rustix::process::geteuid().as_raw();
        let empty = |found: &std::fs::Metadata| found.is_file() && found.len() == 0 && found.uid() == us;
        let spot = Spot::claim(path, empty)?;
        let name = spot.path().display().to_string();
        let other = |cause| PipeError::Other { path: name.clone(), cause };
        let (catch, caught) = mpsc::channel(CAUGHT_MAX);
        let readers = Arc::new(AtomicU64::new(0));
        let (tell, told) = sync_channel(1);
        let counter = readers.clone();
        let work = move |bell| {
            // Leases belong to the thread that hears of them, so it makes them all.
            if let Some(leases) = Leases::new(spot, mode & 0o444, catch, counter, &tell) {
                leases.run(bell);
            }
        };
        let keeper = Keeper::start("lease-file", work).map_err(other)?;
        told.recv().unwrap_or_else(|_| Err(other(io::ErrorKind::Other.into())))?;
        Ok(Self { caught, readers, _keeper: keeper })
    }

    /// Counts the readers; one document serves all that open the file while it is made.
    pub fn readers(&self) -> Arc<AtomicU64> {
        self.readers.clone()
    }
}

impl Listener for LeaseFileListener {
    async fn accept(&mut self) -> Conn {
        match self.caught.recv().await {
            Some(io) => Conn::plain(ConnIo::LeaseFile(Box::new(io)), Peer::Local),
            // The thread has panicked and said so.
            None => std::future::pending().await,
        }
    }
}

/// An empty file under a lease.
#[derive(Debug)]
struct Leased {
    file: File,
    path: PathBuf,
    id: FileId,
}

/// The thread.
struct Leases {
    spot: Spot,
    mode: u32,
    catch: mpsc::Sender<LeaseConn>,
    signal: i32,
    signals: OwnedFd,
    opens: Opens,
    readers: Arc<AtomicU64>,
    patience: Duration,
    /// The file at the path; none where a next one could not be made.
    current: Option<Leased>,
    /// The one that takes its place; `None` after a failure.
    next: Option<Leased>,
    /// Something of others is at the path, and that was told.
    foreign: bool,
}

impl Leases {
    /// Puts the first file in place and tells how that went.
    fn new(
        spot: Spot,
        mode: u32,
        catch: mpsc::Sender<LeaseConn>,
        readers: Arc<AtomicU64>,
        tell: &SyncSender<Result<(), PipeError>>,
    ) -> Option<Self> {
        let signal = sys::lease_signal();
        let prepared = || {
            let signals = sys::signal_reader(signal)?;
            let opens = Opens::new(spot.folder(), spot.workshop())?;
            let current = prepare(&spot, mode)?;
            Ok((signals, opens, current))
        };
        let placed = prepared().and_then(|(signals, opens, current): (_, _, Leased)| {
            let leased = sys::lease(&current.file, signal);
            if let Err(cause) = leased {
                return Ok(Err(PipeError::NoLeases { path: spot.path().display().to_string(), cause }));
            }
            opens.watch(&current.path)?;
            spot.replace(&current.path)?;
            Ok(Ok((signals, opens, current)))
        });
        let (signals, opens, current) = match placed.map_err(|cause| spot.other(cause)).flatten() {
            Ok(ready) => ready,
            Err(error) => {
                // The workshop is gone before anybody hears of it.
                drop(spot);
                let _nobody_listens = tell.send(Err(error));
                return None;
            }
        };
        let mut leases = Self {
            patience: patience(),
            next: None,
            foreign: false,
            spot,
            mode,
            catch,
            signal,
            signals,
            opens,
            readers,
            current: Some(current),
        };
        leases.prepare_next();
        let _nobody_listens = tell.send(Ok(()));
        Some(leases)
    }

    fn run(mut self, mut bell: Bell) {
        loop {
            let [opens, others] = self.opens.fds();
            match bell.wait([self.signals.as_fd(), opens, others]) {
                Woken::Stop => break,
                Woken::Tick => self.look(),
                Woken::Event => {
                    while let Some(file) = sys::signalled_file(&self.signals) {
                        // A signal that does not say which may mean this one.
                        let is_meant = |current: &mut Leased| file < 0 || file == current.file.as_raw_fd();
                        if let Some(current) = self.current.take_if(is_meant) {
                            self.broken(current);
                        }
                    }
                    let best = self.opens.best();
                    self.opens.read(|way, _| {
                        self.readers.fetch_add(u64::from(way == best), Ordering::Relaxed);
                    });
                }
            }
        }
        if let Some(current) = &self.current {
            self.spot.leave(current.id);
        }
    }

    /// Somebody waits to open the file: the next one takes its place, then this one is served.
    fn broken(&mut self, old: Leased) {
        if self.next.is_none() {
            self.prepare_next();
        }
        let placed = self.next.take().filter(|next| {
            let replaced = self.spot.replace(&next.path);
            replaced
                .inspect_err(|error| tracing::warn!(%error, "can't put a fresh file in place; trying again"))
                .is_ok()
        });
        if placed.is_none() {
            // What is about to be written must not be read by those who come later.
            self.spot.leave(old.id);
        }
        self.current = placed;
        let until = Instant::now() + self.patience;
        if self.catch.try_send(LeaseConn { file: Some(old.file), until, whole: false }).is_err() {
            tracing::warn!("readers of a file come faster than they are taken: some were let go with nothing");
        }
        self.prepare_next();
    }

    fn prepare_next(&mut self) {
        let prepared = prepare(&self.spot, self.mode).and_then(|next| {
            sys::lease(&next.file, self.signal)?;
            self.opens.watch(&next.path)?;
            Ok(next)
        });
        match prepared {
            Ok(next) => self.next = Some(next),
            Err(error) => {
                tracing::warn!(%error, path = %self.spot.path().display(), "can't make a file; trying again");
                self.spot.mend();
            }
        }
    }

    /// Sees to the path.
    fn look(&mut self) {
        if self.next.is_none() {
            self.prepare_next();
        }
        match self.spot.found().map(|found| id(&found)) {
            found if found.is_some() && found == self.current.as_ref().map(|current| current.id) => {
                self.foreign = false
            }
            None => self.restore(),
            Some(_) if std::mem::replace(&mut self.foreign, true) => {}
            Some(_) => {
                let path = self.spot.path().display();
                tracing::warn!(%path, "somebody put another file in place of ours: it is not served until that goes");
            }
        }
    }

    fn restore(&mut self) {
        self.foreign = false;
        self.spot.mend();
        let Some(next) = self.next.take() else { return };
        match self.spot.put(&next.path) {
            Ok(()) => {
                tracing::info!(path = %self.spot.path().display(), "the file was gone: there is a fresh one");
                self.current = Some(next);
                self.prepare_next();
            }
            // With the folder gone the file is, too: the next look makes another.
            Err(error) => tracing::debug!(%error, "the file is gone and can't be made again yet"),
        }
    }
}

/// Makes an empty file that nobody else has open.
fn prepare(spot: &Spot, mode: u32) -> io::Result<Leased> {
    let path = spot.next_name();
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(&path)?;
    // The umask had its say; ours is the operator's.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    let id = id(&file.metadata()?);
    Ok(Leased { file, path, id })
}

/// How long readers may be kept waiting.
fn patience() -> Duration {
    let seconds = std::fs::read_to_string(BREAK_TIME).ok().and_then(|text| text.trim().parse().ok());
    Duration::from_secs(seconds.unwrap_or(BREAK_TIME_DEFAULT)).saturating_sub(BREAK_MARGIN)
}

/// The connection of all readers of one generation. It can only be written to; shutting it down says that
/// the document is whole, and lets the readers go.
#[derive(Debug)]
pub struct LeaseConn {
    file: Option<File>,
    /// After this the kernel lets the readers go, and they must not see what comes later.
    until: Instant,
    whole: bool,
}

impl LeaseConn {
    /// Waits until there is nothing more to read, that is for ever: a reader says nothing.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        std::future::pending().await
    }

    fn file(&self) -> io::Result<&File> {
        match &self.file {
            Some(_) if Instant::now() >= self.until => Err(io::ErrorKind::TimedOut.into()),
            Some(file) => Ok(file),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Drop for LeaseConn {
    /// A part of a document is worse than none.
    fn drop(&mut self) {
        if let Some(file) = self.file.take().filter(|_| !self.whole)
            && let Err(error) = file.set_len(0)
        {
            tracing::warn!(%error, "a part of a document was left to its readers");
        }
    }
}

impl AsyncRead for LeaseConn {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LeaseConn {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // Into the page cache: as long as copying takes.
        let chunk = &buf[..buf.len().min(WRITE_BYTES)];
        Poll::Ready(self.file().and_then(|mut file| file.write(chunk)))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let in_time = self.file().map(drop);
        self.whole = in_time.is_ok();
        if self.whole {
            self.file = None;
        }
        Poll::Ready(in_time)
    }
}
