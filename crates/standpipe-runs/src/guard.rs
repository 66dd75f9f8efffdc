//! The guard: a small process of its own that outlives the server's death by as long as it takes to kill what the
//! server had started. It holds the reading end of a pipe whose writing end only the server has; when that closes, however
//! the server went, it kills everything that bears the server's mark, again and again until nothing is left, and ends.
//!
//! It is the server's own program, started with a hidden subcommand which calls [`guard`]. It serves nobody, stores
//! nothing and logs nothing.

use std::path::{Path, PathBuf};

use standpipe_engine::Clock;

/// How the guard is started: a program, and arguments that make it call [`guard`] with what follows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardProgram {
    /// The program. `/proc/self/exe` is the server's own, even when its file has been replaced.
    pub program: PathBuf,
    /// Its first arguments.
    pub arguments: Vec<String>,
}

impl GuardProgram {
    /// The guard as a subcommand of this program.
    pub fn this(subcommand: &str) -> Self {
        Self { program: PathBuf::from("/proc/self/exe"), arguments: vec![subcommand.to_owned()] }
    }

    pub(crate) fn arguments(&self, mark: &str, group: Option<&Path>) -> Vec<String> {
        let program = self.program.to_string_lossy().into_owned();
        let group = group.map(|group| group.to_string_lossy().into_owned());
        let first = std::iter::once(program).chain(self.arguments.iter().cloned());
        first.chain([mark.to_owned()]).chain(group).collect()
    }
}

/// What everything bears that a server starts: which data folder, and which boot of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    /// A hash of the folder's path.
    pub(crate) folder: String,
    /// When and by whom: no two boots have the same.
    pub(crate) boot: String,
}

impl Marks {
    pub(crate) fn of(folder: &Path) -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static BOOTS: AtomicU32 = AtomicU32::new(0);
        // The same whether the folder is there already, and from wherever the server is started.
        let path = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let there = path.ancestors().find_map(|part| Some((std::fs::canonicalize(part).ok()?, part)));
        let path = there.map(|(real, part)| real.join(path.strip_prefix(part).unwrap_or(&path))).unwrap_or(path);
        let path: PathBuf = path.components().collect();
        let count = BOOTS.fetch_add(1, Ordering::Relaxed);
        let boot = format!("{:x}.{:x}.{count:x}", Clock::System.now_ms(), std::process::id());
        Self { folder: format!("{:016x}", fnv1a(path.as_os_str().as_encoded_bytes())), boot }
    }

    /// The value of the variable.
    pub(crate) fn node(&self) -> String {
        format!("{}-{}", self.folder, self.boot)
    }

    /// What this boot's processes have in their environment.
    #[cfg(target_os = "linux")]
    pub(crate) fn mark(&self) -> String {
        format!("{}={}", crate::supervise::process::proc::NODE_VARIABLE, self.node())
    }

    /// The beginning of what processes of any boot have in their environment.
    #[cfg(target_os = "linux")]
    pub(crate) fn folder_mark(&self) -> String {
        format!("{}={}-*", crate::supervise::process::proc::NODE_VARIABLE, self.folder)
    }
}

/// FNV-1a, 64 bits: the same in every build, which the library's own hasher does not promise.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Is the guard: waits for the end of its input, kills everything that bears `mark` (and is in the cgroup `group`), and
/// returns when nothing is left. It does not heed requests to end: it ends with the server.
#[cfg(target_os = "linux")]
pub fn guard(mark: &str, group: Option<&Path>) {
    use std::io::Read as _;

    use rustix::process::Signal;

    use crate::supervise::process::{cgroup, proc, sys};

    /// Between two looks; a process that hangs in the kernel is looked at for as long as it takes.
    const PAUSE_MS_MAX: i64 = 1_000;

    sys::ignore_requests_to_end();
    let _end = std::io::stdin().read(&mut [0]);
    let mark = format!("{}={mark}", proc::NODE_VARIABLE);
    let mut pause_ms = 1;
    loop {
        let populated = group.is_some_and(cgroup::kill_all);
        let left = proc::marked(&mark, None);
        left.iter().for_each(|known| proc::signal(*known, Signal::KILL));
        if !populated && left.is_empty() {
            break;
        }
        let pause = rustix::time::Timespec { tv_sec: pause_ms / 1000, tv_nsec: pause_ms % 1000 * 1_000_000 };
        let _slept = rustix::thread::nanosleep(&pause);
        pause_ms = (pause_ms * 2).min(PAUSE_MS_MAX);
    }
    if let Some(group) = group {
        cgroup::remove(group);
        let _others = group.parent().map(std::fs::remove_dir);
    }
}

/// There is no guard where there is no `/proc`: what a server leaves when it is killed stays.
#[cfg(not(target_os = "linux"))]
pub fn guard(_mark: &str, _group: Option<&Path>) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_which_folder_and_which_boot() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (first, second) = (Marks::of(dir.path()), Marks::of(dir.path()));
        assert_eq!(first.folder, second.folder);
        assert_ne!(first.boot, second.boot);
        assert_ne!(first.folder, Marks::of(other.path()).folder);
        assert_eq!(first.folder.len(), 16);
        let before = Marks::of(&dir.path().join("a/b"));
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink(dir.path(), other.path().join("link")).unwrap();
        assert_eq!(Marks::of(&other.path().join("link/a/b")).folder, before.folder);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
