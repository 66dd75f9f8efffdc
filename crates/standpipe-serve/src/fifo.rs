//! A named pipe as a source of connections: every reader that opens the path is one.
//!
//! One inode can serve one reader only, for its readers share one stream. So a fresh, ready-made FIFO
//! takes the place of the one that was opened, before its reader is served. Our end is open before
//! anybody else comes: a reader's `open` never sleeps, and [`Opens`] tells of it before it can read. That is
//! what makes sharers known in time: who shares an inode gets a clean early end, never a piece of a document.
//! (A writer that waits in `open` for its readers would let them go all at once, and learn of each when it has run.)
//!
//! The swap thread renames and nothing else; another one keeps fresh FIFOs ready. Documents are written by
//! the connections' tasks.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use crate::keeper::{Bell, CAUGHT_MAX, Keeper, Woken};
use crate::opens::{Key, Opens, Way};
use crate::spot::{FileId, PipeError, Spot, id};
use crate::{Conn, ConnIo, Listener, Peer, sys};

/// Descriptors that there is room for from the start.
const DESCRIPTORS: u64 = 4_096;
/// Generations that are remembered without more memory.
const KNOWN: usize = 4_096;
/// FIFOs kept ready: as many readers can come while the maker does not run.
const SPARES: usize = 64;
/// How long a swap waits for one, for then its reader waits, too.
const SPARE_MAX: Duration = Duration::from_millis(50);
/// After a failure to make one.
const MAKER_PAUSE: Duration = Duration::from_millis(100);
/// Readers that had waited for a dead server are let go together: they are counted once all have run.
const SETTLE: Duration = Duration::from_millis(200);
/// A look at events that the swap thread is about to take.
const RETRY: Duration = Duration::from_micros(500);
/// Which takes much less, unless that thread is gone.
const RETRIES: usize = 10_000;
/// Readers that come within this time of each other begin a burst; none for this long ends it.
const BURST_GAP: Duration = Duration::from_millis(2);
const BURST_END: Duration = Duration::from_millis(6);
/// The default size of a pipe, and the largest that everybody may have.
const PIPE_BYTES: usize = 64 << 10;
const PIPE_BYTES_MAX: usize = 1 << 20;

/// One inode and its reader, or its readers.
#[derive(Debug)]
struct Generation {
    id: FileId,
    keys: Vec<Key>,
    /// Our end, until the first reader's connection takes it.
    writer: Mutex<Option<OwnedFd>>,
    /// The inode without an end of it, once it has been opened.
    inode: OnceLock<OwnedFd>,
    /// How often it was opened, as each way of hearing of it tells.
    opened: [AtomicUsize; Way::COUNT],
    /// Readers told of to the event loop.
    caught: AtomicUsize,
    /// Its connections have ended.
    ended: AtomicBool,
    /// Not decided before.
    settled_at: Option<Instant>,
}

impl Generation {
    fn new(end: OwnedFd, keys: Vec<Key>, settled_at: Option<Instant>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            id: id(&std::fs::metadata(link(&end))?),
            keys,
            writer: Mutex::new(Some(end)),
            inode: OnceLock::new(),
            opened: Default::default(),
            caught: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            settled_at,
        }))
    }

    /// It was opened once more; says whether that is a reader not told of before.
    fn is_opened(&self, way: Way) -> bool {
        // Wraps where our own open comes first, see `Stale`.
        let count = self.opened[way as usize].fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        self.caught.fetch_max(count, Ordering::SeqCst) < count
    }

    fn is_shared(&self) -> bool {
        self.caught.load(Ordering::SeqCst) > 1
    }

    /// Keeps a way to the inode that outlives our end.
    fn keep_inode(&self) {
        let kept =
            self.writer.lock().as_ref().map(|end| open(link(end), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()));
        if let Some(Ok(inode)) = kept {
            let _kept_before = self.inode.set(inode);
        }
    }

    /// Lets a reader go that came when our end was closed: it had found the path before the swap. Without
    /// this it would wait for ever.
    fn release_late(&self) {
        if let Some(inode) = self.inode.get() {
            let _nobody_waits = open(link(inode), OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        }
    }
}

/// Makes room for descriptors before threads could have to wait for it: the kernel lets whoever opens one too
/// many wait until every processor has been through its scheduler, which in a burst took 40 ms.
fn widen_descriptor_table() {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(DESCRIPTORS).min(DESCRIPTORS);
    if let (Ok(any), Ok(last)) = (std::fs::File::open("/"), i32::try_from(limit.saturating_sub(1))) {
        let _closed_again = rustix::io::fcntl_dupfd_cloexec(&any, last);
    }
}

/// A path to what a descriptor has open.
fn link(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// What listener, threads and connections share.
#[derive(Debug)]
struct Shared {
    opens: Opens,
    /// The swap thread has taken events and not yet told of them.
    swapping: AtomicBool,
}

impl Shared {
    /// Whether all opens up to now have been told of.
    fn is_told(&self) -> bool {
        // In this order: what is not pending any more was taken after `swapping` was set.
        !self.opens.is_pending() && !self.swapping.load(Ordering::SeqCst)
    }
}

/// A FIFO whose readers are connections.
#[derive(Debug)]
pub struct FifoListener {
    caught: mpsc::Receiver<Arc<Generation>>,
    shared: Arc<Shared>,
    _swapper: Keeper,
}

impl FifoListener {
    /// Makes the FIFO at `path` and listens; `mode` says who may read it (write bits are left out: who writes
    /// into it would be read in place of us). One that a killed server left is taken over, and so is any
    /// other FIFO that no server holds; dropping the listener removes it.
    ///
    /// # Errors
    /// See [`PipeError`].
    pub fn open(path: &Path, mode: u32) -> Result<Self, PipeError> {
        let spot = Spot::claim(path, |found| found.file_type().is_fifo())?;
        Self::start(spot, mode).map_err(|(cause, path)| PipeError::Other { path, cause })
    }

    fn start(spot: Spot, mode: u32) -> Result<Self, (io::Error, String)> {
        let path = spot.path().display().to_string();
        let opened = || {
            widen_descriptor_table();
            let opens = Opens::new(spot.folder(), spot.workshop())?;
            let shared = Arc::new(Shared { opens, swapping: AtomicBool::new(false) });
            let workbench = Arc::new(Workbench { spot, shared: shared.clone(), mode: mode & 0o444 });
            let (catch, caught) = mpsc::channel(CAUGHT_MAX);
            let swapper = Swapper::new(workbench.clone(), catch)?;
            let (spares, take) = sync_channel(SPARES);
            let gone = Arc::new(AtomicBool::new(false));
            let end = gone.clone();
            let maker = Keeper::start("fifo-maker", move |_| make_all(&workbench, &spares, &gone))?;
            let work = move |bell| {
                swapper.run(bell, take);
                end.store(true, Ordering::Relaxed);
                drop(maker);
            };
            let swapper = Keeper::start("fifo-swap", work)?;
            Ok(Self { caught, shared, _swapper: swapper })
        };
        opened().map_err(|error| (error, path))
    }
}

impl Listener for FifoListener {
    async fn accept(&mut self) -> Conn {
        let Some(generation) = self.caught.recv().await else {
            // The thread has panicked and said so.
            return std::future::pending().await;
        };
        generation.keep_inode();
        let writer = generation.writer.lock().take();
        let sender = writer.and_then(|writer| pipe::Sender::from_owned_fd(writer).ok());
        let io = FifoConn { sender, shared: self.shared.clone(), generation };
        Conn::plain(ConnIo::Fifo(Box::new(io)), Peer::Local)
    }
}

/// Where FIFOs are made.
#[derive(Debug)]
struct Workbench {
    spot: Spot,
    shared: Arc<Shared>,
    mode: u32,
}

/// A FIFO that waits for its turn, our end open.
#[derive(Debug)]
struct Spare {
    path: PathBuf,
    generation: Arc<Generation>,
}

impl Workbench {
    fn make(&self) -> io::Result<Spare> {
        let path = self.spot.next_name();
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
        let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
        // A writer is only let in where there is a reader.
        let reader = open(&path, OFlags::RDONLY | flags, Mode::empty())?;
        let writer = open(&path, OFlags::WRONLY | flags, Mode::empty())?;
        drop(reader);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(self.mode))?;
        let keys = self.shared.opens.watch(&path)?;
        Ok(Spare { path, generation: Generation::new(writer, keys, None)? })
    }
}

/// Keeps spares ready until nobody takes them.
fn make_all(workbench: &Workbench, spares: &SyncSender<Spare>, gone: &AtomicBool) {
    // Without a spare the swap thread could only wait; its own failure to be first is told.
    let _as_everybody = sys::real_time(1).or_else(|_| sys::short_slice());
    let mut failed = false;
    while !gone.load(Ordering::Relaxed) {
        match workbench.make() {
            Ok(spare) => {
                failed = false;
                if spares.send(spare).is_err() {
                    return;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failed, true) {
                    tracing::warn!(%error, path = %workbench.spot.path().display(), "can't make a FIFO; trying again");
                }
                workbench.spot.mend();
                std::thread::park_timeout(MAKER_PAUSE);
            }
        }
    }
}

/// The swap thread.
struct Swapper {
    workbench: Arc<Workbench>,
    catch: mpsc::Sender<Arc<Generation>>,
    /// The generation whose turn it is; none where there was no spare.
    current: Option<Arc<Generation>>,
    /// The one that is at the path; another one only where a rename failed.
    placed: FileId,
    /// The ones that have been opened.
    known: HashMap<Key, Arc<Generation>>,
    /// Something of others is at the path, and that was told.
    foreign: bool,
    /// When readers came last.
    last: Instant,
    /// May stay awake: readers have another processor to run on, and the scheduler does not make up for it.
    tireless: bool,
}

impl Swapper {
    /// Puts the first FIFO in place.
    fn new(workbench: Arc<Workbench>, catch: mpsc::Sender<Arc<Generation>>) -> io::Result<Self> {
        let first = workbench.make()?;
        let stale = workbench.spot.found().and_then(|_| Stale::find(workbench.spot.path()));
        workbench.spot.replace(&first.path)?;
        let mut known = HashMap::with_capacity(KNOWN);
        if let Some(waiting) = stale.and_then(|stale| stale.take_over(&workbench)) {
            known.extend(waiting.keys.iter().map(|key| (key.clone(), waiting.clone())));
        }
        let placed = first.generation.id;
        let (current, last) = (Some(first.generation), Instant::now());
        Ok(Self { workbench, catch, current, placed, known, foreign: false, last, tireless: false })
    }

    fn run(mut self, mut bell: Bell, spares: Receiver<Spare>) {
        match sys::real_time(2) {
            Ok(()) => self.tireless = crate::limits::cores() > 1,
            Err(error) => {
                tracing::debug!(%error, "no real-time priority: in a burst more readers collide");
                let _older_kernel = sys::short_slice();
            }
        }
        let shared = self.workbench.shared.clone();
        let mut next = spares.recv_timeout(SPARE_MAX).ok();
        loop {
            match bell.wait(shared.opens.fds()) {
                Woken::Stop => break,
                Woken::Tick => self.look(&mut next, &spares),
                Woken::Event => {
                    self.take(&mut next, &spares);
                    self.stay_awake(&mut next, &spares);
                }
            }
        }
        self.workbench.spot.leave(self.placed);
    }

    /// Swaps for every open there is to hear of.
    fn take(&mut self, next: &mut Option<Spare>, spares: &Receiver<Spare>) {
        let shared = self.workbench.shared.clone();
        shared.swapping.store(true, Ordering::SeqCst);
        shared.opens.read(|way, key| self.opened(way, key, next, spares));
        shared.swapping.store(false, Ordering::SeqCst);
    }

    /// In a burst, looks for the next reader without going to sleep. Waking up takes as long as the system
    /// call that somebody else makes on that processor: on a kernel that does not preempt them up to
    /// milliseconds, in which a dozen readers come.
    fn stay_awake(&mut self, next: &mut Option<Spare>, spares: &Receiver<Spare>) {
        let before = std::mem::replace(&mut self.last, Instant::now());
        if !self.tireless || self.last.duration_since(before) > BURST_GAP {
            return;
        }
        while self.last.elapsed() < BURST_END {
            if self.workbench.shared.opens.is_pending() {
                self.take(next, spares);
                self.last = Instant::now();
            }
            std::hint::spin_loop();
        }
    }

    /// Somebody opened an inode of ours.
    fn opened(&mut self, way: Way, key: &[u8], next: &mut Option<Spare>, spares: &Receiver<Spare>) {
        let is_current = |current: &mut Arc<Generation>| current.keys.iter().any(|known| **known == *key);
        let generation = if let Some(generation) = self.current.take_if(is_current) {
            self.swap(next, spares);
            self.known.extend(generation.keys.iter().map(|key| (key.clone(), generation.clone())));
            generation
        } else if let Some(generation) = self.known.get(key) {
            // The other way tells of the same reader, or another one shares the inode.
            generation.clone()
        } else {
            return;
        };
        let is_new = generation.is_opened(way) && !generation.ended.load(Ordering::Relaxed);
        if is_new && self.catch.try_send(generation).is_err() {
            tracing::warn!("readers of a pipe come faster than they are taken: one was let go with nothing");
        }
    }

    /// Puts the next FIFO in place, first of all.
    fn swap(&mut self, next: &mut Option<Spare>, spares: &Receiver<Spare>) {
        let spot = &self.workbench.spot;
        let Some(spare) = next.take().or_else(|| spares.recv_timeout(SPARE_MAX).ok()) else {
            // Better no path than one that more readers share; there is one again once there is a spare.
            return spot.leave(self.placed);
        };
        match spot.replace(&spare.path) {
            Ok(()) => self.placed = spare.generation.id,
            Err(error) => tracing::warn!(%error, "can't put a fresh FIFO in place; trying again"),
        }
        self.current = Some(spare.generation);
        *next = spares.try_recv().ok();
    }

    /// Sees to the path, and to inodes whose connections have ended.
    fn look(&mut self, next: &mut Option<Spare>, spares: &Receiver<Spare>) {
        self.known.retain(|_, generation| {
            if Arc::strong_count(generation) > generation.keys.len() {
                return true;
            }
            // Kept for one more look, for whoever was late.
            let ended = generation.ended.swap(true, Ordering::Relaxed);
            generation.release_late();
            !ended
        });
        let found = self.workbench.spot.found().map(|found| id(&found));
        if found.is_some() && found == self.current.as_ref().map(|current| current.id) {
            self.foreign = false;
        } else if found.is_none() || found == Some(self.placed) {
            self.foreign = false;
            self.restore(found.is_some(), next, spares);
        } else if !std::mem::replace(&mut self.foreign, true) {
            let path = self.workbench.spot.path().display();
            tracing::warn!(%path, "somebody put another file in place of the FIFO: it is not served until that goes");
        }
    }

    /// Puts a FIFO where none is, or where a rename failed. The one whose turn it was may be gone.
    fn restore(&mut self, replace: bool, next: &mut Option<Spare>, spares: &Receiver<Spare>) {
        let spot = &self.workbench.spot;
        spot.mend();
        while let Some(spare) = next.take().or_else(|| spares.try_recv().ok()) {
            let done = if replace { spot.replace(&spare.path) } else { spot.put(&spare.path) };
            match done {
                Ok(()) => {
                    self.placed = spare.generation.id;
                    self.current = Some(spare.generation);
                    tracing::info!(path = %spot.path().display(), "the FIFO was gone: there is a fresh one");
                    return;
                }
                // Removed with its folder, as all the others that were ready then.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return tracing::debug!(%error, "the FIFO is gone and can't be made again yet"),
            }
        }
    }
}

/// A FIFO that no server holds, and whose readers may have been waiting.
struct Stale(OwnedFd);

impl Stale {
    fn find(path: &Path) -> Option<Self> {
        // Our own mode may not allow us to write.
        let _not_ours = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600));
        open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok().map(Self)
    }

    /// Lets its readers go, as readers of ours. None when nobody waits.
    fn take_over(self, workbench: &Workbench) -> Option<Arc<Generation>> {
        let path = PathBuf::from(link(&self.0));
        let keys = workbench.shared.opens.watch(&path).ok()?;
        let writer = open(&path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let generation = Generation::new(writer, keys, Some(Instant::now() + SETTLE)).ok()?;
        // Our own open is told of, too: the next one is the first reader's.
        generation.opened.iter().for_each(|opened| opened.store(usize::MAX, Ordering::SeqCst));
        Some(generation)
    }
}

/// The connection of one reader. It can only be written to.
#[derive(Debug)]
pub struct FifoConn {
    /// None where the inode is shared and another connection has our end.
    sender: Option<pipe::Sender>,
    shared: Arc<Shared>,
    generation: Arc<Generation>,
}

impl FifoConn {
    /// Whether the reader has the pipe to itself, as far as anybody can know now. Ask before the first byte.
    pub(crate) async fn is_exclusive(&self) -> bool {
        if let Some(at) = self.generation.settled_at {
            tokio::time::sleep_until(at.into()).await;
        }
        for _ in 0..RETRIES {
            if self.generation.is_shared() || self.shared.is_told() {
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
        !self.generation.is_shared() && self.sender.is_some()
    }

    /// Room for a document of `bytes`, so that most are given to the system at once.
    pub(crate) fn expect(&self, bytes: usize) {
        if let Some(sender) = self.sender.as_ref().filter(|_| bytes > PIPE_BYTES) {
            // Fails where the user's pipes have all the memory they may: slower, and no harm.
            let _smaller = rustix::pipe::fcntl_setpipe_size(sender, bytes.min(PIPE_BYTES_MAX));
        }
    }

    /// Waits until there is nothing more to read, that is for ever: a reader says nothing.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        std::future::pending().await
    }
}

impl AsyncRead for FifoConn {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FifoConn {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.generation.is_shared() {
            // Better the end now than a piece to each.
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ResourceBusy, "another reader shares the pipe")));
        }
        let Some(sender) = &mut self.sender else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        Pin::new(sender).poll_write(context, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sender = None;
        Poll::Ready(Ok(()))
    }
}
