//! The system calls of the launcher that no safe wrapper exists for: starting a process without copying this
//! one's memory, and learning what it used. What they are for is told where they are used.
//!
//! The child is made by `clone(CLONE_VM | CLONE_VFORK)`, as `posix_spawn` of the C library makes it: it runs on a
//! stack of its own in our memory while the calling thread stands still, until it executes the program. So starting costs
//! the same however large the server is, and the child can say what went wrong by writing it down. In between it makes
//! nothing but system calls: no allocation, no lock, no panic.

#![expect(unsafe_code, reason = "system calls that rustix has no wrapper for")]

use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr;

use libc::pid_t;
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::super::launch::Exit;

/// Stack of the child until it executes the program. The dynamic linker and vector registers want some KiB.
const STACK_BYTES: usize = 128 << 10;

/// A soft and a hard limit of one resource.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) resource: Resource,
    pub(super) soft: u64,
    pub(super) hard: u64,
}

/// All that the child needs, made before it exists.
#[derive(Debug)]
pub(super) struct Program<'fd> {
    /// Where the program may be, in the order to try.
    pub(super) paths: Vec<CString>,
    pub(super) argv: Vec<CString>,
    /// `NAME=value`.
    pub(super) env: Vec<CString>,
    pub(super) cwd: Option<CString>,
    /// Input, output and errors; each above 2.
    pub(super) stdio: [BorrowedFd<'fd>; 3],
    /// The first of `stdio` that is a terminal, to be the controlling one.
    pub(super) terminal: Option<BorrowedFd<'fd>>,
    pub(super) limits: Vec<Limit>,
    /// `cgroup.procs` files to enter by.
    pub(super) groups: Vec<BorrowedFd<'fd>>,
    /// Whether it dies with the calling thread.
    pub(super) dies_with_us: bool,
}

/// What the child was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Making the process itself.
    Process,
    /// Entering a cgroup.
    Group,
    /// Pipes, terminal, session.
    Setup,
    /// A limit.
    Limit,
    /// Changing to its folder.
    Folder,
    /// Executing the program.
    Program,
}

/// Why there is no process.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) stage: Stage,
    pub(super) error: io::Error,
}

/// What the child reads, and where it writes what went wrong.
struct Shared {
    paths: *const *const c_char,
    argv: *const *const c_char,
    env: *const *const c_char,
    cwd: *const c_char,
    stdio: [RawFd; 3],
    terminal: RawFd,
    limits: *const Limit,
    limits_len: usize,
    groups: *const RawFd,
    groups_len: usize,
    dies_with_us: bool,
    parent: pid_t,
    stage: Stage,
    errno: c_int,
}

/// Starts a program; gives its process and a descriptor of it.
///
/// # Errors
/// What failed, in this process or in the child; there is no child then.
pub(super) fn spawn(program: &Program<'_>) -> Result<(pid_t, OwnedFd), Failure> {
    let pointers = |texts: &[CString]| -> Vec<*const c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
    };
    let (paths, argv, env) = (pointers(&program.paths), pointers(&program.argv), pointers(&program.env));
    let groups: Vec<RawFd> = program.groups.iter().map(|fd| fd.as_raw_fd()).collect();
    let mut shared = Shared {
        paths: paths.as_ptr(),
        argv: argv.as_ptr(),
        env: env.as_ptr(),
        cwd: program.cwd.as_ref().map_or(ptr::null(), |cwd| cwd.as_ptr()),
        stdio: program.stdio.map(|fd| fd.as_raw_fd()),
        terminal: program.terminal.map_or(-1, |fd| fd.as_raw_fd()),
        limits: program.limits.as_ptr(),
        limits_len: program.limits.len(),
        groups: groups.as_ptr(),
        groups_len: groups.len(),
        dies_with_us: program.dies_with_us,
        // SAFETY: it has no preconditions.
        parent: unsafe { libc::getpid() },
        stage: Stage::Process,
        errno: 0,
    };
    let mut stack: Vec<MaybeUninit<u128>> = Vec::with_capacity(STACK_BYTES / size_of::<u128>());
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: the stack is ours, aligned to 16 bytes, and grows down from its end; it, `shared` and all that it
    // points to live until the child has executed its program or exited, for this thread stands still until
    // then (CLONE_VFORK). Signals are blocked, so that no handler of ours runs in the child. The kernel
    // writes the new descriptor to `pidfd`.
    let pid = unsafe {
        let before = block_signals();
        let top = stack.as_mut_ptr().add(stack.capacity());
        let pid = libc::clone(child, top.cast(), flags, (&raw mut shared).cast(), &raw mut pidfd);
        let errno = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
        if pid < 0 {
            return Err(Failure { stage: Stage::Process, error: errno });
        }
        pid
    };
    // SAFETY: the kernel made this descriptor for us, and nobody else has it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    // SAFETY: `shared` is initialised; the child, which shares our memory, may have written to it.
    let Shared { stage, errno, .. } = unsafe { ptr::read_volatile(&raw const shared) };
    if errno != 0 {
        let _reaped = wait(pid, true);
        return Err(Failure { stage, error: io::Error::from_raw_os_error(errno) });
    }
    Ok((pid, pidfd))
}

/// Blocks all signals in this thread and gives those that were blocked before.
fn block_signals() -> libc::sigset_t {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: both sets live for the calls, `all` is initialised by the first one and `before` by the second.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        before.assume_init()
    }
}

/// The child: from here to the program there are system calls only.
extern "C" fn child(shared: *mut c_void) -> c_int {
    // SAFETY: `spawn` gives its `Shared`, and stands still meanwhile.
    let shared = unsafe { &mut *shared.cast::<Shared>() };
    // SAFETY: as `enter` asks for.
    let (stage, errno) = unsafe { enter(shared) };
    shared.stage = stage;
    shared.errno = errno;
    // SAFETY: it ends this process without running anything of ours.
    unsafe { libc::_exit(127) }
}

/// Does all that is to be done in the child and executes the program; returns what failed.
///
/// # Safety
/// To be called in a child of `clone`, with a `Shared` whose pointers are good.
unsafe fn enter(shared: &Shared) -> (Stage, c_int) {
    // SAFETY: each call takes integers or pointers into `Shared`, which are good while the parent stands still.
    unsafe {
        for index in 0..shared.groups_len {
            // "0" is who writes.
            if libc::write(*shared.groups.add(index), c"0".as_ptr().cast(), 1) < 0 {
                return (Stage::Group, errno());
            }
        }
        if libc::setsid() < 0 {
            return (Stage::Setup, errno());
        }
        if shared.dies_with_us {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            // It may have died before it could be told.
            if libc::getppid() != shared.parent {
                libc::_exit(127);
            }
        }
        // The server keeps huge pages from itself; that is not for its children.
        libc::prctl(libc::PR_SET_THP_DISABLE, 0, 0, 0, 0);
        if shared.terminal >= 0 && libc::ioctl(shared.terminal, libc::TIOCSCTTY, 0) < 0 {
            return (Stage::Setup, errno());
        }
        for (to, from) in shared.stdio.iter().enumerate() {
            if libc::dup2(*from, to as c_int) < 0 {
                return (Stage::Setup, errno());
            }
        }
        for index in 0..shared.limits_len {
            let Limit { resource, soft, hard } = *shared.limits.add(index);
            // One system call, without the library's errno.
            if let Err(error) = setrlimit(resource, Rlimit { current: Some(soft), maximum: Some(hard) }) {
                return (Stage::Limit, error.raw_os_error());
            }
        }
        if !shared.cwd.is_null() && libc::chdir(shared.cwd) < 0 {
            return (Stage::Folder, errno());
        }
        // Descriptors of ours close by themselves; this is for those of libraries that forget it. Linux 5.9.
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
        default_signals();
        (Stage::Program, execute(shared))
    }
}

/// Tries the paths one after the other; returns what failed, a refusal rather than "not there".
///
/// # Safety
/// As [`enter`].
unsafe fn execute(shared: &Shared) -> c_int {
    let mut refused = libc::ENOENT;
    let mut path = shared.paths;
    // SAFETY: `paths` ends with null, and so do `argv` and `env`.
    unsafe {
        while !(*path).is_null() {
            libc::execve(*path, shared.argv, shared.env);
            match errno() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => refused = libc::EACCES,
                other => return other,
            }
            path = path.add(1);
        }
    }
    refused
}

/// Gives every signal its default action and lets all through. The server ignores some (SIGPIPE), and that would be
/// inherited.
///
/// # Safety
/// As [`enter`].
unsafe fn default_signals() {
    /// The kernel's own structure, all zero: the default action. The library's call refuses the signals that it
    /// keeps for itself, and those may be ignored as well.
    const DEFAULT: [u64; 4] = [0; 4];
    // SAFETY: the structures are initialised and live for the calls; a refusal (SIGKILL, SIGSTOP) changes nothing.
    unsafe {
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), ptr::null_mut::<u64>(), size_of::<u64>());
        }
        let mut none = MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }
}

fn errno() -> c_int {
    // SAFETY: the thread's own errno; the child has the calling thread's, which stands still.
    unsafe { *libc::__errno_location() }
}

/// How a child ended, and what it and the children it waited for used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waited {
    pub(super) exit: Exit,
    pub(super) cpu_ms: u64,
    pub(super) memory_bytes_max: u64,
}

/// Reaps a child; `None` when it has not ended (or is none of ours), if not told to wait for it.
pub(super) fn wait(pid: pid_t, block: bool) -> Option<Waited> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let options = if block { 0 } else { libc::WNOHANG };
    // SAFETY: both live for the call; an all-zero rusage is one.
    let (reaped, usage) = unsafe {
        let reaped = libc::wait4(pid, &raw mut status, options, usage.as_mut_ptr());
        (reaped, usage.assume_init())
    };
    if reaped != pid {
        return None;
    }
    let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
    let ms = |time: libc::timeval| u64::try_from(i128::from(time.tv_sec) * 1000 + i128::from(time.tv_usec) / 1000);
    let cpu_ms = ms(usage.ru_utime).unwrap_or(0) + ms(usage.ru_stime).unwrap_or(0);
    let memory_bytes_max = u64::try_from(usage.ru_maxrss).unwrap_or(0) << 10;
    Some(Waited { exit: Exit { code, signal }, cpu_ms, memory_bytes_max })
}

/// Lets the runtime tell when there is something to read from a descriptor; of a process, when it has ended.
pub(super) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open until it is dropped, and always gives the same descriptor.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Ignores the signals that ask a process to end.
pub(crate) fn ignore_requests_to_end() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: no handler of ours is involved.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
