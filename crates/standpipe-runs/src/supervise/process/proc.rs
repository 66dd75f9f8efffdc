//! What `/proc` says about processes: who came of whom, who bears our mark. It is read where cgroups can't
//! answer, and after a crash.
//!
//! Everything started here has `STANDPIPE_NODE` in its environment, and hands it on to what it starts. A process that
//! clears its environment and leaves its parent is found by its cgroup only.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The variable that marks what belongs to a data folder and a boot of its server: `FOLDER-BOOT`.
pub(crate) const NODE_VARIABLE: &str = "STANDPIPE_NODE";
/// Of an environment so much is read: ours come first in what we start, but a shell may order them anew.
const ENVIRON_BYTES_MAX: u64 = 1 << 20;
/// How long the environment of a process is looked for that is between two programs.
const EXEC_MAX: Duration = Duration::from_millis(50);
/// A thread of the kernel, among the flags of `/proc/PID/stat` (PF_KTHREAD).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// A process, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    zombie: bool,
    parent: i32,
    session: i32,
    /// Bytes of its environment; none is known while `execve` goes from one program to the next.
    environ: Option<u64>,
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
    let flags: u64 = fields.nth(2)?.parse().ok()?;
    let begun = fields.nth(12)?.parse().ok()?;
    let code_start = fields.nth(3)?;
    let environ_start: u64 = fields.nth(23)?.parse().ok()?;
    let environ_end: u64 = fields.next()?.parse().ok()?;
    let environ = match code_start {
        _ if zombie || flags & KERNEL_THREAD != 0 => Some(0),
        // The last that is set.
        "0" => None,
        _ => Some(environ_end.saturating_sub(environ_start)),
    };
    Some(Stat { zombie, parent, session, environ, begun })
}

fn stat(pid: i32) -> Option<Stat> {
    // The name of a program need not be UTF-8.
    let bytes = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&bytes))
}

/// What a process was started with. One that goes from program to program may be seen with none of it, or with a part, and
/// is then looked at again. Our own children are that for a moment: `vfork` lets us go on when the old program is gone.
fn environ(pid: i32) -> Option<Vec<u8>> {
    let begun = Instant::now();
    loop {
        let mut environ = Vec::new();
        let file = std::fs::File::open(format!("/proc/{pid}/environ")).ok()?;
        file.take(ENVIRON_BYTES_MAX).read_to_end(&mut environ).ok()?;
        let is_whole = stat(pid)?.environ.is_some_and(|bytes| environ.len() as u64 == bytes.min(ENVIRON_BYTES_MAX));
        if is_whole || begun.elapsed() > EXEC_MAX {
            return Some(environ);
        }
        std::thread::yield_now();
    }
}

/// Whether the environment of a process has all of these `NAME=value`.
fn bears(pid: i32, marks: &[&str]) -> bool {
    !marks.is_empty()
        && environ(pid).is_some_and(|environ| {
            marks.iter().all(|mark| environ.split(|byte| *byte == 0).any(|entry| matches(entry, mark)))
        })
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
        let check = |head: &str,
                     flags: u64,
                     (code, environ): (u8, &str),
                     expected: Option<(bool, i32, i32, Option<u64>)>| {
            let between = "0 ".repeat(23);
            let text = format!("{head} 0 -1 {flags} 1 2 3 4 5 6 7 8 20 0 1 0 99 1 2 3 {code} {between}{environ} 0");
            let expected =
                expected.map(|(zombie, parent, session, environ)| Stat { zombie, parent, session, environ, begun: 99 });
            assert_eq!(parse_stat(&text), expected, "{text}");
        };
        let user = 0x40_0100;
        check("7 (sh) S 1 7 7", user, (1, "7000 8000"), Some((false, 1, 7, Some(1_000))));
        check("7 (sh) R 1 7 7", user, (0, "0 0"), Some((false, 1, 7, None)));
        check("7 (sh) R 1 7 7", user, (0, "7000 7000"), Some((false, 1, 7, None)));
        check("7 (sh) R 1 7 7", user, (1, "7000 7000"), Some((false, 1, 7, Some(0))));
        check("7 (a) Z 9 (b) Z 3 4 5", user, (0, "0 0"), Some((true, 3, 5, Some(0))));
        check("7 (kworker/0:1) I 2 0 0", KERNEL_THREAD | 64, (0, "0 0"), Some((false, 2, 0, Some(0))));
        for bad in ["", "7", "7 (sh", "7 (sh)", "7 (sh) S 1 7", "7 (sh) S x 7 7", "7 (sh) S 1 7 7 0 -1 64 1 2"] {
            assert_eq!(parse_stat(bad), None, "{bad}");
        }
    }

    #[test]
    fn who_goes_from_program_to_program_is_never_missed() {
        let mut program = std::process::Command::new("sh");
        program.args(["-c", r#"exec sh -c "$NEXT""#]).env("NEXT", r#"exec sh -c "$NEXT""#).env("MARK", "here");
        let mut child = program.spawn().unwrap();
        let pid = child.id().cast_signed();
        let seen = (0..3_000).filter(|_| bears(pid, &["MARK=here"])).count();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(seen, 3_000);
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
