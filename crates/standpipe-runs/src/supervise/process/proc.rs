//! What `/proc` says about processes: who came of whom, who bears our mark. It is read where cgroups can't
//! answer, and after a crash.
//!
//! Everything started here has `STANDPIPE_NODE` in its environment, and hands it on to what it starts. A process that
//! clears its environment and leaves its parent is found by its cgroup only.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The variable that marks what belongs to a data folder and a boot of its server: `FOLDER-BOOT`.
pub(crate) const NODE_VARIABLE: &str = "STANDPIPE_NODE";
/// Of an environment so much is read: ours come first in what we start, but a shell may order them anew.
const ENVIRON_BYTES_MAX: u64 = 1 << 20;

/// A process, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    zombie: bool,
    parent: i32,
    session: i32,
    /// When it began, in ticks since the system did: with the number it is one process and no later one.
    begun: u64,
}

/// One process, not to be confused with a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Known {
    pid: i32,
    begun: u64,
}

impl Known {
    /// Its number.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }
}

/// All processes of the system.
fn all() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// `/proc/PID/stat` (proc(5)): `pid (comm) state ppid pgrp session …`; comm may hold anything.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let zombie = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let begun = fields.nth(15)?.parse().ok()?;
    Some(Stat { zombie, parent, session, begun })
}

fn stat(pid: i32) -> Option<Stat> {
    // The name of a program need not be UTF-8.
    let bytes = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&bytes))
}

/// Whether the environment of a process has all of these `NAME=value`. What it was started with, to be exact.
fn bears(pid: i32, marks: &[&str]) -> bool {
    let mut environ = Vec::new();
    let read = std::fs::File::open(format!("/proc/{pid}/environ"))
        .and_then(|file| file.take(ENVIRON_BYTES_MAX).read_to_end(&mut environ));
    !marks.is_empty()
        && read.is_ok()
        && marks.iter().all(|mark| environ.split(|byte| *byte == 0).any(|entry| matches(entry, mark)))
}

/// A mark that ends with `*` stands for all that begin so.
fn matches(entry: &[u8], mark: &str) -> bool {
    mark.strip_suffix('*').map_or(entry == mark.as_bytes(), |start| entry.starts_with(start.as_bytes()))
}

/// The processes of one attempt: those of the session that its main process began, those that bear its marks, and
/// all that came of them. Those that have ended and only wait to be reaped are none.
pub(super) fn members(main: i32, marks: &[&str]) -> Vec<Known> {
    let own = own_pid();
    let stats: BTreeMap<i32, Stat> = all().into_iter().filter_map(|pid| Some((pid, stat(pid)?))).collect();
    let seed = |pid: i32, stat: &Stat| pid == main || stat.session == main || !stat.zombie && bears(pid, marks);
    let seeds = stats.iter().filter(|(pid, stat)| **pid != own && seed(**pid, stat));
    let mut members: BTreeSet<i32> = seeds.map(|(pid, _)| *pid).collect();
    // Descent, until nothing new is found.
    loop {
        let of_them = stats.iter().filter(|(_, stat)| members.contains(&stat.parent)).map(|(pid, _)| *pid);
        let grown: BTreeSet<i32> = of_them.chain(members.iter().copied()).collect();
        if grown.len() == members.len() {
            break;
        }
        members = grown;
    }
    let known = |pid: i32| stats.get(&pid).filter(|stat| !stat.zombie).map(|stat| Known { pid, begun: stat.begun });
    members.into_iter().filter_map(known).collect()
}

/// The processes that bear this mark but not the other one, this one excepted.
pub(crate) fn marked(mark: &str, but: Option<&str>) -> Vec<Known> {
    let own = own_pid();
    let is_meant = |pid: i32| pid != own && bears(pid, &[mark]) && !but.is_some_and(|but| bears(pid, &[but]));
    let known = |pid: i32| stat(pid).map(|stat| Known { pid, begun: stat.begun });
    all().into_iter().filter(|pid| is_meant(*pid)).filter_map(known).collect()
}

/// Signals a process, if it still is that one.
pub(crate) fn signal(known: Known, signal: Signal) {
    let Some(pid) = Pid::from_raw(known.pid) else { return };
    if let Ok(handle) = pidfd_open(pid, PidfdFlags::empty())
        && stat(known.pid).is_some_and(|stat| stat.begun == known.begun)
    {
        let _gone = pidfd_send_signal(handle, signal);
    }
}

/// The children of this process, adopted ones included, with whether each only waits to be reaped.
pub(in crate::supervise) fn children() -> Vec<(i32, bool)> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    let pids: Vec<i32> =
        lists.flat_map(|list| list.split_ascii_whitespace().flat_map(str::parse).collect::<Vec<_>>()).collect();
    pids.into_iter().filter_map(|pid| Some((pid, stat(pid)?.zombie))).collect()
}

/// The session of a process, even of one that only waits to be reaped.
pub(in crate::supervise) fn session(pid: i32) -> Option<i32> {
    stat(pid).map(|stat| stat.session)
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_program_is_called() {
        let stat = |zombie, parent, session| Some(Stat { zombie, parent, session, begun: 99 });
        let rest = "0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 99 100";
        assert_eq!(parse_stat(&format!("7 (sh) S 1 7 7 {rest}")), stat(false, 1, 7));
        assert_eq!(parse_stat(&format!("7 (a) Z 9 (b) Z 3 4 5 {rest}")), stat(true, 3, 5));
        for bad in ["", "7", "7 (sh", "7 (sh)", "7 (sh) S 1 7", "7 (sh) S x 7 7"] {
            assert_eq!(parse_stat(bad), None, "{bad}");
        }
    }

    #[test]
    fn marks_are_whole_variables_or_beginnings() {
        assert!(matches(b"A=1", "A=1") && matches(b"A=12", "A=1*") && matches(b"A=1", "A=1*"));
        assert!(!matches(b"A=12", "A=1") && !matches(b"BA=1", "A=1") && !matches(b"", "A=1"));
    }

    #[test]
    fn this_process_is_found_but_never_given() {
        let own = own_pid();
        assert!(all().contains(&own) && stat(own).is_some());
        assert!(members(own, &[]).iter().all(|member| member.pid != own));
        assert_eq!(members(i32::MAX, &[]), []);
    }
}
