//! The system calls of the pipe listeners that no safe wrapper exists for: leases and their signal,
//! fanotify, real-time priority. Each function is one call with its arguments checked by types; what
//! they are for is told where they are used.

#![expect(unsafe_code, reason = "system calls that rustix has no wrapper for")]

use std::ffi::CString;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use libc::c_int;

/// The bytes of a file handle, at most (`MAX_HANDLE_SZ`).
const HANDLE_BYTES_MAX: usize = 128;

/// Where an event's records are, from its start: `struct fanotify_event_metadata`.
const EVENT_LEN: usize = size_of::<libc::fanotify_event_metadata>();
/// Then `struct fanotify_event_info_header` and the file system's id.
const HANDLE_AT: usize = EVENT_LEN + 4 + 8;

/// `asm-generic/fcntl.h`; missing in libc.
const F_SETSIG: c_int = 10;
const F_SETOWN_EX: c_int = 15;
const F_OWNER_TID: c_int = 0;

/// Who gets the signal of a description: `struct f_owner_ex`, missing in libc.
#[repr(C)]
struct Owner {
    kind: c_int,
    pid: libc::pid_t,
}

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Takes a write lease on a file that only this description has open. Its break is told by `signal` to
/// the calling thread, which must have blocked it.
pub(crate) fn lease(file: impl AsFd, signal: c_int) -> io::Result<()> {
    let fd = file.as_fd().as_raw_fd();
    let owner = Owner { kind: F_OWNER_TID, pid: rustix::thread::gettid().as_raw_nonzero().get() };
    // SAFETY: the descriptor is open for the call; F_SETSIG and F_SETLEASE take an int, F_SETOWN_EX a
    // pointer to the structure that lives until after the call.
    unsafe {
        checked(libc::fcntl(fd, F_SETSIG, signal))?;
        checked(libc::fcntl(fd, F_SETOWN_EX, &raw const owner))?;
        checked(libc::fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK))?;
    }
    Ok(())
}

/// The signal that tells of broken leases: one of the real-time ones, for it says which file is meant.
pub(crate) fn lease_signal() -> c_int {
    libc::SIGRTMIN() + 3
}

/// Blocks `signal` in the calling thread (and SIGIO, which the kernel sends when its queue is full), and
/// gives a descriptor to read both from in the same thread.
pub(crate) fn signal_reader(signal: c_int) -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set before anything reads it, and the set lives until after
    // the calls. The descriptor is new and owned by nobody else.
    unsafe {
        checked(libc::sigemptyset(set.as_mut_ptr()))?;
        checked(libc::sigaddset(set.as_mut_ptr(), signal))?;
        checked(libc::sigaddset(set.as_mut_ptr(), libc::SIGIO))?;
        match libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) {
            0 => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
        let fd = checked(libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// The file that the next signal is about: -1 when the signal does not say. `None` when there is none.
pub(crate) fn signalled_file(signals: &OwnedFd) -> Option<RawFd> {
    let mut info = [0; size_of::<libc::signalfd_siginfo>()];
    let count = rustix::io::read(signals, &mut info).ok()?;
    let at = std::mem::offset_of!(libc::signalfd_siginfo, ssi_fd);
    let field = |at: usize| info.get(at..at + 4).map(|bytes| bytes.try_into().expect("four bytes"));
    let signal = u32::from_ne_bytes(field(0)?);
    let file = i32::from_ne_bytes(field(at)?);
    (count == info.len()).then_some(if signal == libc::SIGIO.unsigned_abs() { -1 } else { file })
}

/// Lets the calling thread run before all ordinary ones, and before those of a lower `priority` (from 1 on).
/// Its children don't inherit that.
pub(crate) fn real_time(priority: c_int) -> io::Result<()> {
    let mut parameters = zeroed_sched_param();
    parameters.sched_priority = priority;
    // SAFETY: 0 is the calling thread, and the parameters live until after the call.
    checked(unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters)
    })?;
    Ok(())
}

/// Asks the scheduler for short turns that come soon, which everybody may (Linux 6.12).
pub(crate) fn short_slice() -> io::Result<()> {
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    // The shortest slice there is, in nanoseconds.
    let attributes = Attributes { size: size_of::<Attributes>() as u32, runtime: 100_000, ..Attributes::default() };
    // SAFETY: 0 is the calling thread; the structure is that of `sched_setattr` and lives until after the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// musl's structure has reserved fields.
fn zeroed_sched_param() -> libc::sched_param {
    // SAFETY: the structure holds integers only, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

/// A source of events that names files by their handles and is open to every user; one that keeps `threads`
/// apart is for administrators.
pub(crate) fn fanotify(threads: bool) -> io::Result<OwnedFd> {
    let plain = libc::FAN_CLASS_NOTIF | libc::FAN_REPORT_FID | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
    let flags = if threads { plain | libc::FAN_REPORT_TID } else { plain };
    // SAFETY: plain integers; the descriptor is new and owned by nobody else.
    unsafe { Ok(OwnedFd::from_raw_fd(checked(libc::fanotify_init(flags, libc::O_RDONLY as u32))?)) }
}

/// Tells `fanotify` to report opens of the file at `path`.
pub(crate) fn fanotify_opens(fanotify: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: the descriptor is open for the call, and the path ends in a zero byte and lives until after it.
    let result = unsafe {
        let (fd, flags) = (fanotify.as_raw_fd(), libc::FAN_MARK_ADD);
        libc::fanotify_mark(fd, flags, libc::FAN_OPEN, libc::AT_FDCWD, path.as_ptr())
    };
    checked(result).map(drop)
}

/// The handle of the file at `path`, as fanotify reports it: size, type and bytes.
pub(crate) fn handle(path: &Path) -> io::Result<Arc<[u8]>> {
    const HEAD: usize = 8;
    let path = c_path(path)?;
    // Of 32-bit numbers, for the structure begins with two of them and wants their alignment.
    let mut buffer = [0_u32; (HEAD + HANDLE_BYTES_MAX) / 4];
    buffer[0] = u32::try_from(HANDLE_BYTES_MAX).expect("a small number");
    let mut mount = 0;
    // SAFETY: the buffer is aligned as the structure and has the room that its first field states; path and
    // mount live until after the call. AT_SYMLINK_FOLLOW lets the path go through /proc/self/fd.
    let result = unsafe {
        let handle = buffer.as_mut_ptr().cast::<libc::file_handle>();
        libc::name_to_handle_at(libc::AT_FDCWD, path.as_ptr(), handle, &raw mut mount, libc::AT_SYMLINK_FOLLOW)
    };
    checked(result)?;
    let bytes: Vec<u8> = buffer.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let end = HEAD + usize::try_from(buffer[0]).unwrap_or(HANDLE_BYTES_MAX).min(HANDLE_BYTES_MAX);
    Ok(bytes[..end].into())
}

/// The handles in what was read from a [`fanotify`] descriptor, in order. An event without one, as when some
/// were lost, is left out.
pub(crate) fn handles(mut events: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        loop {
            let length = u32::from_ne_bytes(events.get(..4)?.try_into().ok()?) as usize;
            let event = events.get(..length).filter(|event| event.len() >= EVENT_LEN)?;
            events = &events[length..];
            let sized = event.get(HANDLE_AT..HANDLE_AT + 4).and_then(|size| size.try_into().ok());
            let end = sized.map(|size| HANDLE_AT + 8 + u32::from_ne_bytes(size) as usize);
            if let Some(handle) = end.and_then(|end| event.get(HANDLE_AT..end)) {
                return Some(handle);
            }
        }
    })
}
