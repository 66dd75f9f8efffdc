//! `standpipe mount`: a tree as a directory, through FUSE. Owns the mount from its beginning to its end, also
//! the end of one that was killed. What its files mean is said in `docs/mount.md`.
//!
//! One thread reads the kernel's requests, one answers them all; how much may be going on is bounded in
//! `server` and `tree`.

mod draft;
mod errno;
mod fs;
mod inodes;
mod listing;
mod name;
mod server;
mod text;
mod tree;

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, Errno, MountOption, Session, SessionUnmounter};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{getegid, geteuid};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, oneshot};

use crate::cli::MountArgs;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::systemd::{self, State};
use fs::{Fs, Look, REQUESTS_MAX};
use server::{Kind, Server};
pub(crate) use text::Render;
use tree::Tree;

type Result<T, E = Errno> = std::result::Result<T, E>;

/// How a mount ended.
type Ended = oneshot::Receiver<Result<(), Failure>>;

/// What the source of our mounts begins with in the system's list; the server's URL follows.
const SOURCE: &str = "standpipe:";

/// Mounts, until it is unmounted or this process is told to stop.
///
/// # Errors
/// The server can't be reached or has no directory there, or the folder can't be mounted on.
pub(crate) fn run(arguments: &MountArgs) -> Result<Exit, Failure> {
    let base = standpipe_tree::Path::parse(&arguments.path)
        .map_err(|error| Failure::usage(format!("{}: {error}", arguments.path)).help("name a path such as /home"))?;
    let dir = prepare(&arguments.dir)?;
    let client = Arc::new(Client::new(&arguments.url, &arguments.access)?);
    let server = Server::new(client.clone(), base, arguments.render);
    client.block_on(async {
        check(&client, &server, arguments).await?;
        let tree = Arc::new(Tree::new(server));
        let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
        let look = Look { uid: geteuid().as_raw(), gid: getegid().as_raw(), read_only: arguments.read_only };
        let patience = Duration::from_secs(arguments.timeout);
        let fs = Fs { tree, runtime: client.runtime().clone(), requests: requests.clone(), patience, look };
        let mut signals = Signals::new()?;
        let (mut mounted, ended) = mount(fs, &dir, &options(arguments))?;
        #[expect(clippy::print_stdout, reason = "the one line of results that a mount has")]
        {
            println!("standpipe mounted {} {}{}", dir.display(), client.url(), arguments.path);
        }
        systemd::tell(State::Ready);
        tokio::select! {
            // Somebody unmounted it.
            done = ended => {
                let done = done.unwrap_or_else(|_| Err(Failure::failed("the mount broke")));
                return if done.is_ok() { Ok(Exit::Ok) } else { detach(&dir).and(done).map(|()| Exit::Ok) };
            }
            () = signals.next() => {}
        }
        systemd::tell(State::Stopping);
        // Through the session where that is possible: it would try again at its end, and might meet the
        // next mount there.
        mounted.unmount().or_else(|_busy| detach(&dir))?;
        // What is being stored is stored; files that stay open are not waited for.
        let all = u32::try_from(REQUESTS_MAX).expect("a small number");
        let quiet = tokio::time::timeout(patience, requests.acquire_many(all)).await;
        Ok(if quiet.is_ok() { Exit::Ok } else { Exit::Unclean })
    })
}

/// The server answers, and has something there that can be a directory.
async fn check(client: &Client, server: &Server, arguments: &MountArgs) -> Result<(), Failure> {
    // First in the words of any other command, for these say what to do.
    let target = client.location(&arguments.path, &[("shallow", "sizes".into()), ("limitToFirst", "1".into())]);
    let patience = Duration::from_secs(arguments.timeout);
    client.open(http::Method::GET, &target, http::HeaderMap::new(), bytes::Bytes::new(), patience).await?;
    match server.probe(&standpipe_tree::Path::root()).await {
        Ok(Some(Kind::File(_) | Kind::Output(_))) => {
            Err(Failure::failed(format!("{} is a value, and has no children", arguments.path))
                .help("mount the path above it, or print it: standpipe get PATH"))
        }
        Ok(_) => Ok(()),
        Err(errno) => {
            let error = std::io::Error::from_raw_os_error(errno.code());
            Err(Failure::failed(format!("{} has no answer that can be used: {error}", client.url())))
        }
    }
}

fn options(arguments: &MountArgs) -> Config {
    let mut options = vec![
        MountOption::FSName(format!("{SOURCE}{}", arguments.url)),
        MountOption::Subtype("standpipe".into()),
        // Only this user gets in at all (there is no allow_other); modes hold for him too.
        MountOption::DefaultPermissions,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
        MountOption::NoAtime,
    ];
    if arguments.read_only {
        options.push(MountOption::RO);
    }
    let mut config = Config::default();
    config.mount_options = options;
    config
}

/// Mounts; gives the way to unmount, and hears of the end.
fn mount(fs: Fs, dir: &Path, options: &Config) -> Result<(SessionUnmounter, Ended), Failure> {
    let mut session =
        Session::new(fs, dir, options).map_err(|error| {
            Failure::failed(format!("can't mount on {}: {error}", dir.display())).help(match error.kind() {
            std::io::ErrorKind::NotFound => {
                "is there a /dev/fuse? load the module (modprobe fuse), give it to the container (--device /dev/fuse), \
                 and without root install Debian's fuse3; standpipe mirror needs none of it"
            }
            _ => "without root Debian's fuse3 (fusermount3) is needed, and the right to open /dev/fuse; in a container \
                  CAP_SYS_ADMIN",
        })
        })?;
    let mounted = session.unmount_callable();
    let (told, ended) = oneshot::channel();
    let serve = move || {
        let done = session.run().map_err(|error| Failure::failed(format!("the mount broke: {error}")));
        let _nobody_waits = told.send(done);
    };
    std::thread::Builder::new()
        .name("fuse".into())
        .spawn(serve)
        .map_err(|error| Failure::failed(format!("can't start a thread: {error}")))?;
    Ok((mounted, ended))
}

/// The folder to mount on, free of what a killed process has left there.
fn prepare(dir: &Path) -> Result<PathBuf, Failure> {
    let wrong = |error: &std::io::Error| Failure::file(dir, error).help(format!("mkdir -p {}", dir.display()));
    // Its own name can't be looked at while a dead mount is there.
    let absolute = std::path::absolute(dir).map_err(|error| wrong(&error))?;
    let (parent, name) = match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => (parent.canonicalize().map_err(|error| wrong(&error))?, name),
        _ => return Err(Failure::usage(format!("{} can't be mounted on", dir.display())).help("name a folder")),
    };
    let place = parent.join(name);
    if std::fs::metadata(&place).is_err_and(|error| error.raw_os_error() == Some(Errno::ENOTCONN.code()))
        && is_ours(&place)
    {
        tracing::warn!(dir = %place.display(), "a mount was left there by a process that was killed; it is taken away");
        detach(&place)?;
    }
    let place = place.canonicalize().map_err(|error| wrong(&error))?;
    if !place.is_dir() {
        return Err(Failure::failed(format!("{} is no folder", place.display())).help("name a folder to mount on"));
    }
    if is_ours(&place) {
        return Err(Failure::failed(format!("{} is mounted already", place.display()))
            .help(format!("umount {}, or name another folder", place.display())));
    }
    Ok(place)
}

/// Is a mount of this program there, alive or dead?
fn is_ours(dir: &Path) -> bool {
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    mounts.split(|byte| *byte == b'\n').any(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let place = fields.nth(4).map(unescape);
        // A hyphen, the kind, the source.
        let source = fields.skip_while(|field| *field != b"-").nth(2);
        place.as_deref() == Some(dir.as_os_str().as_bytes())
            && source.is_some_and(|source| source.starts_with(SOURCE.as_bytes()))
    })
}

/// A field of that file: white space is written as `\040`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let code = if byte == b'\\' { tail.get(..3) } else { None };
        let code = code.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        out.push(code.unwrap_or(byte));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    out
}

/// Takes a mount away, also one that is in use: who has it open gets errors from then on.
fn detach(dir: &Path) -> Result<(), Failure> {
    let error = match unmount(dir, UnmountFlags::DETACH) {
        Ok(()) => return Ok(()),
        // Not mounted any more.
        Err(rustix::io::Errno::INVAL) => return Ok(()),
        Err(error) => error,
    };
    let helper = Command::new("fusermount3")
        .args(["-u", "-z", "--"])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match helper {
        Ok(status) if status.success() => Ok(()),
        _ => Err(Failure::failed(format!("can't unmount {}: {error}", dir.display()))
            .help(format!("umount -l {}", dir.display()))),
    }
}

/// What stops a mount: Ctrl-C, SIGTERM, and the end of its terminal.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> Result<Self, Failure> {
        let heed = |kind| signal(kind).map_err(|error| Failure::failed(format!("can't wait for signals: {error}")));
        Ok(Self([heed(SignalKind::interrupt())?, heed(SignalKind::terminate())?, heed(SignalKind::hangup())?]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let check = |field: &str, expected: &str| assert_eq!(unescape(field.as_bytes()), expected.as_bytes());
        check("/mnt", "/mnt");
        check("/a\\040b\\134", "/a b\\");
        check("/a\\9", "/a\\9");
    }
}
