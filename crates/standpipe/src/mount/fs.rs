//! The kernel's requests: each becomes a task that asks the tree and answers, within a time and a number.
//! What an operation means is `tree`'s matter.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::OFlags;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Result;
use super::inodes::Attr;
use super::server::Kind;
use super::text::Render;
use super::tree::{How, Tree};

/// Requests of the kernel being answered; each is a thread of some program that waits.
pub(super) const REQUESTS_MAX: usize = 4_096;
/// How long the kernel may believe a name or a size without asking.
const TTL: Duration = Duration::ZERO;
/// The same for what came with a listing, so that `ls -l` asks once and not for each file.
const LISTED_TTL: Duration = Duration::from_secs(1);
/// What is written at once at most.
const WRITE_BYTES_MAX: u32 = 1 << 20;
/// A number never stands for two things while the kernel knows it.
const GENERATION: Generation = Generation(0);

/// Whose files they are, and whether they can be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) read_only: bool,
}

impl Look {
    fn of(self, attr: &Attr) -> FileAttr {
        let (kind, size, perm) = match attr.kind {
            Kind::Directory => (FileType::Directory, 0, 0o755),
            Kind::File(size) => (FileType::RegularFile, size, 0o644),
            Kind::Output(size) => (FileType::RegularFile, size, 0o444),
        };
        FileAttr {
            ino: INodeNo(attr.ino),
            size,
            blocks: size.div_ceil(512),
            atime: attr.changed,
            mtime: attr.changed,
            ctime: attr.changed,
            crtime: attr.changed,
            kind,
            perm: if self.read_only { perm & 0o555 } else { perm },
            // A directory that counts its subdirectories in its links has two or more: this one does not.
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: 4_096,
            flags: 0,
        }
    }
}

/// The file system of a tree.
#[derive(Debug)]
pub(super) struct Fs {
    pub(super) tree: Arc<Tree>,
    pub(super) runtime: Handle,
    /// Of [`REQUESTS_MAX`].
    pub(super) requests: Arc<Semaphore>,
    /// How long the answer to a request may take.
    pub(super) patience: Duration,
    pub(super) look: Look,
}

/// A reply that can be a refusal.
trait Refuse: Send + 'static {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty),*) => {
        $(impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}

refuse!(ReplyAttr, ReplyCreate, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite);

impl Fs {
    /// Answers a request by a task of its own: with `done` what `job` gives, or with the error number.
    fn answer<R: Refuse, T: Send, F: Future<Output = Result<T>> + Send + 'static>(
        &self,
        reply: R,
        job: impl FnOnce(Arc<Tree>) -> F,
        done: impl FnOnce(R, T) + Send + 'static,
    ) {
        let Ok(permit) = self.requests.clone().try_acquire_owned() else { return reply.refuse(Errno::EAGAIN) };
        let (job, patience) = (job(self.tree.clone()), self.patience);
        self.runtime.spawn(async move {
            match timeout(patience, job).await.unwrap_or(Err(Errno::ETIMEDOUT)) {
                Ok(value) => done(reply, value),
                Err(errno) => reply.refuse(errno),
            }
            drop(permit);
        });
    }
}

fn how(flags: i32) -> How {
    let has = |flag: OFlags| OFlags::from_bits_retain(flags.cast_unsigned()).contains(flag);
    How {
        write: OpenFlags(flags).acc_mode() != OpenAccMode::O_RDONLY,
        truncate: has(OFlags::TRUNC),
        append: has(OFlags::APPEND),
        exclusive: has(OFlags::EXCL),
    }
}

impl Filesystem for Fs {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // What the kernel can't do is done without: it truncates in a step of its own, and asks for
        // each entry's size.
        let _older = config.add_capabilities(InitFlags::FUSE_ATOMIC_O_TRUNC);
        let _older = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        if self.tree.server().render() == Render::Text {
            // Listings tell sizes.
            let _older = config.add_capabilities(InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO);
        }
        let _smaller = config.set_max_write(WRITE_BYTES_MAX);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (name, look) = (name.to_owned(), self.look);
        self.answer(
            reply,
            async move |tree| tree.lookup(parent.0, &name).await,
            move |reply, attr| reply.entry(&TTL, &look.of(&attr), GENERATION),
        );
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.tree.forget(ino.0, lookups);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let look = self.look;
        self.answer(
            reply,
            async move |tree| tree.attr(ino.0).await,
            move |reply, attr| reply.attr(&TTL, &look.of(&attr)),
        );
    }

    /// Sizes only: the tree keeps no times, modes and owners, and programs that set them go on
    /// without.
    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let look = self.look;
        let job = async move |tree: Arc<Tree>| match size {
            Some(size) => tree.resize(ino.0, handle.map(|handle| handle.0), size).await,
            None => tree.attr(ino.0).await,
        };
        self.answer(reply, job, move |reply, attr| reply.attr(&TTL, &look.of(&attr)));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        let (name, look) = (name.to_owned(), self.look);
        self.answer(
            reply,
            async move |tree| tree.mkdir(parent.0, &name).await,
            move |reply, attr| reply.entry(&TTL, &look.of(&attr), GENERATION),
        );
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.answer(reply, async move |tree| tree.unlink(parent.0, &name).await, |reply, ()| reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.answer(reply, async move |tree| tree.rmdir(parent.0, &name).await, |reply, ()| reply.ok());
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to_parent: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !RenameFlags::RENAME_NOREPLACE.contains(flags) {
            return reply.error(Errno::EINVAL);
        }
        let (name, to_name) = (name.to_owned(), to_name.to_owned());
        let job = async move |tree: Arc<Tree>| {
            tree.rename((parent.0, &name), (to_parent.0, &to_name), flags.is_empty()).await
        };
        self.answer(reply, job, |reply, ()| reply.ok());
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let job = async move |tree: Arc<Tree>| tree.open(ino.0, how(flags.0)).await;
        // Past the page cache, which all who have the file open would share.
        self.answer(reply, job, |reply, handle| reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (name, look) = (name.to_owned(), self.look);
        self.answer(
            reply,
            async move |tree| tree.create(parent.0, &name, how(flags)).await,
            move |reply, (attr, handle)| {
                let attr = look.of(&attr);
                reply.created(&TTL, &attr, GENERATION, FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO);
            },
        );
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (tree, patience) = (self.tree.clone(), self.patience);
        // A copy in memory, of which the reply is made without another one; streams are asked for.
        self.runtime.spawn(async move {
            let mut reply = Some(reply);
            let read = tree.read_at(handle.0, offset, size, |part| reply.take().map(|reply| reply.data(part)));
            let read = timeout(patience, read).await.unwrap_or(Err(Errno::ETIMEDOUT));
            if let (Err(errno), Some(reply)) = (read, reply) {
                reply.error(errno);
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (data, size) = (data.to_vec(), u32::try_from(data.len()).unwrap_or(u32::MAX));
        let job = async move |tree: Arc<Tree>| tree.write_at(handle.0, offset, &data).await;
        self.answer(reply, job, move |reply, ()| reply.written(size));
    }

    fn flush(&self, _: &Request, _: INodeNo, handle: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.answer(reply, async move |tree| tree.flush(handle.0).await, |reply, ()| reply.ok());
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.answer(reply, async move |tree| tree.flush(handle.0).await, |reply, ()| reply.ok());
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        // Never refused: what is open must be closed.
        let (tree, patience) = (self.tree.clone(), self.patience);
        self.runtime.spawn(async move {
            if timeout(patience, tree.release(handle.0)).await.is_err() {
                tracing::warn!("a file was not stored: the server does not answer");
            }
            reply.ok();
        });
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.tree.list(ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.tree.listed(handle.0);
        reply.ok();
    }

    fn readdir(&self, _: &Request, ino: INodeNo, handle: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.read_directory(ino, handle, offset, reply);
    }

    fn readdirplus(&self, _: &Request, ino: INodeNo, handle: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        self.read_directory(ino, handle, offset, reply);
    }

    /// There is room as long as the server says nothing else: it is not asked.
    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, 4_096, 768, 4_096);
    }

    // What there is nothing of. The kernel asks once, and goes on without.

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _cmd: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _whence: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _mode: i32, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }

    // What a tree can't have.

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _mode: u32, _umask: u32, _rdev: u32, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }
}

/// A reply that takes the entries of a directory until it is full.
trait Entries: Refuse {
    /// Takes an entry, with the place of the next; false when it did not fit.
    fn add(&mut self, attr: &FileAttr, next: u64, name: &OsStr) -> bool;
    /// Does the kernel keep the numbers of the entries?
    fn tells(&self) -> bool;
    fn end(self);
}

refuse!(ReplyDirectory, ReplyDirectoryPlus);

impl Entries for ReplyDirectory {
    fn add(&mut self, attr: &FileAttr, next: u64, name: &OsStr) -> bool {
        !ReplyDirectory::add(self, attr.ino, next, attr.kind, name)
    }

    fn tells(&self) -> bool {
        false
    }

    fn end(self) {
        self.ok();
    }
}

impl Entries for ReplyDirectoryPlus {
    fn add(&mut self, attr: &FileAttr, next: u64, name: &OsStr) -> bool {
        !ReplyDirectoryPlus::add(self, attr.ino, next, name, &LISTED_TTL, attr, GENERATION)
    }

    fn tells(&self) -> bool {
        true
    }

    fn end(self) {
        self.ok();
    }
}

impl Fs {
    fn read_directory<R: Entries>(&self, ino: INodeNo, handle: FileHandle, offset: u64, mut reply: R) {
        let (tree, look, patience) = (self.tree.clone(), self.look, self.patience);
        self.runtime.spawn(async move {
            let mut added = 0;
            let filled = timeout(patience, fill(&tree, look, ino, handle, offset, &mut reply, &mut added)).await;
            match filled.unwrap_or(Err(Errno::ETIMEDOUT)) {
                // What was added is known to the kernel from now on, or never forgotten here; the next
                // request meets the error again.
                Err(errno) if added == 0 => reply.refuse(errno),
                Ok(()) | Err(_) => reply.end(),
            }
        });
    }
}

/// Fills a reply with entries from a place on, and counts them.
async fn fill(
    tree: &Tree,
    look: Look,
    ino: INodeNo,
    handle: FileHandle,
    offset: u64,
    reply: &mut impl Entries,
    added: &mut usize,
) -> Result<()> {
    let _closed = tree.closed().await;
    let directory = look.of(&Attr { ino: ino.0, kind: Kind::Directory, changed: SystemTime::UNIX_EPOCH });
    let listing = tree.listing(handle.0)?;
    let mut listing = listing.lock().await;
    for place in offset.. {
        let fits = match place {
            // The first two are the directory itself, and the one it is in.
            0 => reply.add(&directory, 1, OsStr::new(".")),
            1 => reply.add(&directory, 2, OsStr::new("..")),
            _ => {
                let Some(entry) = listing.entry(tree, place - 2).await? else { break };
                let attr = entry.told(&mut tree.inodes());
                let fits = reply.add(&look.of(&attr), place + 1, OsStr::new(&entry.name));
                if !(fits && reply.tells()) {
                    tree.forget(attr.ino, 1);
                }
                fits
            }
        };
        if !fits {
            break;
        }
        *added += 1;
    }
    Ok(())
}
