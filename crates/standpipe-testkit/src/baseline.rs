//! What a process holds: threads, descriptors, children, resident memory, read from `/proc`.
//! Taken before and after a scenario, it shows leaks; what may differ is the test's to say.

use anyhow::{Context, Result};

/// One reading of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// Threads.
    pub threads: usize,
    /// Open file descriptors.
    pub descriptors: usize,
    /// Child processes, zombies included.
    pub children: usize,
    /// Resident memory of its own in KiB, without pages of files. It wobbles: compare it with a
    /// margin.
    pub resident_kib: u64,
}

impl Baseline {
    /// Reads the process `pid`.
    ///
    /// # Errors
    /// The process is gone, or the system has no `/proc`.
    pub fn of(pid: u32) -> Result<Self> {
        let status = read(&format!("/proc/{pid}/status"))?;
        let mut children = 0;
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end between the listing and the reading.
            let list = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            children += list.split_whitespace().count();
        }
        Ok(Self {
            threads: field(&status, "Threads:")?.try_into()?,
            descriptors: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            children,
            resident_kib: field(&status, "RssAnon:")?,
        })
    }

    /// Whether `self` holds no more threads, descriptors and children than `before`.
    pub fn is_back_at(&self, before: &Self) -> bool {
        self.threads <= before.threads && self.descriptors <= before.descriptors && self.children <= before.children
    }
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.to_owned())
}

/// The number after `name` in the text of a status file.
fn field(status: &str, name: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).with_context(|| format!("no {name} in the status"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_child_and_its_pipe_are_seen_and_gone() {
        let pid = std::process::id();
        let before = Baseline::of(pid).unwrap();
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let during = Baseline::of(pid).unwrap();
        assert_eq!((during.children, during.descriptors > before.descriptors), (before.children + 1, true));
        assert!(!during.is_back_at(&before));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(Baseline::of(pid).unwrap().children, before.children);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(Baseline::of(u32::MAX).is_err());
    }
}
