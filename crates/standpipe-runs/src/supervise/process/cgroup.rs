//! Cgroups: one for each attempt, so that everything that came of a process can be counted, measured and killed
//! as one, whatever it did to its session, its parent or its environment.
//!
//! Version 2 needs no controller for that, only a hierarchy we may write to. Controllers (memory, pids) are used
//! where they are, in version 2 or 1, for attempts that have such a limit. Where there is none of it, nothing fails.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};

use crate::command::ResourceLimits;

/// The hierarchies that this process is in and may be written to.
#[derive(Debug)]
pub(crate) struct Groups {
    /// Ours in version 2: all boots of this data folder are in its parent.
    home: PathBuf,
    /// Whether `cgroup.kill` is there (Linux 5.14).
    kills: bool,
    memory: Option<Controller>,
    pids: Option<Controller>,
    next: AtomicU64,
}

/// Where the groups of a controller are made.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Controller {
    /// In version 2, among the others.
    Unified,
    /// In version 1: below this folder, with this beginning of their names.
    Own(PathBuf, String),
}

impl Groups {
    /// Finds and makes the group of `boot` of the data folder `folder` (its hash). `None` where that can't be.
    pub(crate) fn make(folder: &str, boot: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let base = v2_folder(&mounts, &own)?;
        let all = base.join(format!("standpipe-{folder}"));
        let home = all.join(boot);
        fs::create_dir_all(&home).ok()?;
        let unified = |name: &str| [&base, &all, &home].iter().all(|dir| passes_on(dir, name));
        let own_v1 = |name: &str| {
            let dir = v1_folder(&mounts, &own, name).filter(|dir| is_writable(dir))?;
            Some(Controller::Own(dir, format!("standpipe-{folder}-{boot}-")))
        };
        let find = |name: &str| if unified(name) { Some(Controller::Unified) } else { own_v1(name) };
        let (memory, pids, kills) = (find("memory"), find("pids"), home.join("cgroup.kill").exists());
        Some(Self { home, kills, memory, pids, next: AtomicU64::new(1) })
    }

    /// The group of all that this boot starts.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// Whether memory can be limited for processes together.
    pub(crate) fn limits_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// Makes the group of one attempt.
    ///
    /// # Errors
    /// It can't be made, or does not take its limits.
    pub(crate) fn group(&self, limits: &ResourceLimits) -> io::Result<Group> {
        let number = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let dir = self.home.join(&number);
        fs::create_dir(&dir)?;
        let mut group = Group { dir, kills: self.kills, memory: None, others: Vec::new() };
        if let (Some(controller), Some(bytes)) = (&self.memory, limits.memory_bytes) {
            let dir = group.of(controller, &number)?;
            let v1 = *controller != Controller::Unified;
            fs::write(dir.join(if v1 { "memory.limit_in_bytes" } else { "memory.max" }), bytes.to_string())?;
            // Without swap, where it is counted: a limit that pages to disk is none.
            let swap = if v1 {
                ("memory.memsw.limit_in_bytes", bytes.to_string())
            } else {
                ("memory.swap.max", "0".to_owned())
            };
            let _not_there = write_existing(&dir.join(swap.0), &swap.1);
            group.memory = Some(dir);
        }
        if let (Some(controller), Some(processes)) = (&self.pids, limits.processes) {
            let dir = group.of(controller, &number)?;
            fs::write(dir.join("pids.max"), processes.to_string())?;
        }
        Ok(group)
    }

    /// The groups of other boots of the same data folder.
    pub(crate) fn others(&self) -> Vec<PathBuf> {
        let Some(entries) = self.home.parent().and_then(|all| fs::read_dir(all).ok()) else { return Vec::new() };
        let dirs = entries.filter_map(|entry| Some(entry.ok()?.path()).filter(|path| path.is_dir()));
        dirs.filter(|dir| *dir != self.home).collect()
    }

    /// Removes the group of this boot; it must be empty.
    pub(crate) fn remove(&self) {
        remove(&self.home);
        if let Some(all) = self.home.parent() {
            let _others_are_there = fs::remove_dir(all);
        }
    }
}

/// The group of one attempt.
#[derive(Debug)]
pub(crate) struct Group {
    dir: PathBuf,
    kills: bool,
    /// Where its memory is counted, if it is limited.
    memory: Option<PathBuf>,
    /// Groups of version 1 beside it.
    others: Vec<PathBuf>,
}

impl Group {
    fn of(&mut self, controller: &Controller, number: &str) -> io::Result<PathBuf> {
        let Controller::Own(dir, start) = controller else { return Ok(self.dir.clone()) };
        let dir = dir.join(format!("{start}{number}"));
        fs::create_dir(&dir)?;
        self.others.push(dir.clone());
        Ok(dir)
    }

    /// The files by which a process enters it.
    ///
    /// # Errors
    /// They can't be opened.
    pub(crate) fn doors(&self) -> io::Result<Vec<OwnedFd>> {
        let open = |dir: &PathBuf| {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            Ok(rustix::fs::open(dir.join("cgroup.procs"), flags, Mode::empty())?)
        };
        std::iter::once(&self.dir).chain(&self.others).map(open).collect()
    }

    /// Whether a process is in it.
    pub(crate) fn is_populated(&self) -> bool {
        is_populated(&self.dir)
    }

    /// Kills all that is in it.
    pub(crate) fn kill(&self) {
        if !self.kills || fs::write(self.dir.join("cgroup.kill"), "1").is_err() {
            self.each(|pid| {
                let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            });
        }
    }

    /// Does something with each process in it, those in groups that a process made below it included.
    pub(crate) fn each(&self, mut act: impl FnMut(rustix::process::Pid)) {
        for dir in below(&self.dir) {
            let pids = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            pids.lines().filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?)).for_each(&mut act);
        }
    }

    /// Processor time of all that was in it, in milliseconds.
    pub(crate) fn cpu_ms(&self) -> Option<u64> {
        keyed(&self.dir.join("cpu.stat"), "usage_usec").map(|us| us / 1000)
    }

    /// Most memory of all in it at once, in bytes, if it is limited.
    pub(crate) fn memory_bytes_max(&self) -> Option<u64> {
        let dir = self.memory.as_ref()?;
        let read = |file: &str| fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok();
        read("memory.peak").or_else(|| read("memory.max_usage_in_bytes"))
    }

    /// Whether the system killed something in it for its memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let Some(dir) = &self.memory else { return false };
        let kills = |file: &str| keyed(&dir.join(file), "oom_kill").unwrap_or(0);
        kills("memory.events") + kills("memory.oom_control") > 0
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        remove(&self.dir);
        self.others.iter().for_each(|dir| remove(dir));
    }
}

/// Kills all in a group and the groups below it; whether there was anything.
pub(crate) fn kill_all(dir: &Path) -> bool {
    if !is_populated(dir) {
        return false;
    }
    if fs::write(dir.join("cgroup.kill"), "1").is_err() {
        let group = Group { dir: dir.to_owned(), kills: false, memory: None, others: Vec::new() };
        group.kill();
        std::mem::forget(group);
    }
    true
}

/// Removes a group with those below it, as far as they are empty.
pub(crate) fn remove(dir: &Path) {
    for dir in below(dir).iter().rev() {
        let _busy = fs::remove_dir(dir);
    }
}

/// A group and all below it, from the top.
fn below(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    let mut at = 0;
    while let Some(dir) = all.get(at).cloned() {
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        all.extend(dirs.map(|entry| entry.path()));
        at += 1;
    }
    all
}

fn is_populated(dir: &Path) -> bool {
    keyed(&dir.join("cgroup.events"), "populated") == Some(1)
}

/// The number after a key of a file of `key number` lines.
fn keyed(file: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn write_existing(file: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    fs::OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes())
}

/// Whether a group's children have this controller, after asking for it.
fn passes_on(dir: &Path, controller: &str) -> bool {
    let file = dir.join("cgroup.subtree_control");
    let has = || fs::read_to_string(&file).is_ok_and(|all| all.split_ascii_whitespace().any(|one| one == controller));
    has() || write_existing(&file, &format!("+{controller}")).is_ok() && has()
}

fn is_writable(dir: &Path) -> bool {
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok()
}

/// The folder of this process' group in version 2.
fn v2_folder(mounts: &str, own: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| folder(line, "cgroup2", None, path))
}

/// The folder of this process' group under a controller of version 1.
fn v1_folder(mounts: &str, own: &str, controller: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|one| one == controller).then_some(path)
    })?;
    mounts.lines().find_map(|line| folder(line, "cgroup", Some(controller), path))
}

/// Where a group is, if this line of `mountinfo` (proc(5)) is a mount of its hierarchy: `id parent dev ROOT POINT
/// options [fields] - TYPE source OPTIONS`.
fn folder(line: &str, kind: &str, controller: Option<&str>, path: &str) -> Option<PathBuf> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, point) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let is_meant = after.next()? == kind;
    let options = after.nth(1)?;
    let has = controller.is_none_or(|wanted| options.split(',').any(|one| one == wanted));
    // A mount may show a part of the hierarchy only, as in a container.
    let below = path.strip_prefix(root).or_else(|| (root == "/").then_some(path))?;
    (is_meant && has).then(|| Path::new(&unescaped(point)).join(below.trim_start_matches('/')))
}

/// `mountinfo` writes spaces, tabs, newlines and backslashes as `\ooo`.
fn unescaped(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn the_own_group_is_found_in_each_hierarchy() {
        let own = "9:pids:/\n5:cpu,memory:/a/b\n0::/user.slice\n";
        let path = |found: Option<PathBuf>| found.map(|path| path.to_str().unwrap().to_owned());
        assert_eq!(path(v2_folder(HYBRID, own)).as_deref(), Some("/sys/fs/cgroup/unified/user.slice"));
        assert_eq!(path(v1_folder(HYBRID, own, "memory")).as_deref(), Some("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(path(v1_folder(HYBRID, own, "pids")).as_deref(), Some("/sys/fs/cgroup/pids/"));
        assert_eq!(v1_folder(HYBRID, own, "cpu"), None);
        assert_eq!(v2_folder("", own), None);
        assert_eq!(v2_folder(HYBRID, "9:pids:/\n"), None);
    }

    #[test]
    fn a_mount_may_show_a_part_and_have_any_name() {
        let mounts = "41 31 0:38 /docker/x /cg\\040two rw - cgroup2 cgroup2 rw\n";
        let found = v2_folder(mounts, "0::/docker/x/inner\n");
        assert_eq!(found, Some(PathBuf::from("/cg two/inner")));
        assert_eq!(v2_folder(mounts, "0::/other\n"), None);
    }
}
