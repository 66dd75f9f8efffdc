//! Changed settings while the server runs: when to read them again (SIGHUP, or the file changed),
//! and applying all of them or none. What each means is its consumer's; which can change is said in
//! `config::changes`.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use standpipe_doors::Authority;
use standpipe_serve::Reloaded;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::authority;
use crate::config::{Changes, Settings, Values};
use crate::exit::{Failure, Result};
use crate::jobs;
use crate::node::{Node, with_limits};
use crate::signals::{Signals, Told};
use crate::systemd::{self, State};

/// A change is over when nothing has happened for this long: editors write in several steps.
const QUIET: Duration = Duration::from_millis(200);
/// And at the latest after so many such steps.
const STEPS_MAX: usize = 20;
/// More symbolic links than the kernel follows.
const LINKS_MAX: usize = 40;

/// The settings of a running server.
#[derive(Debug)]
pub(crate) struct Reload {
    settings: Settings,
    /// Those of the start, with what the last reload applied.
    in_force: Values,
}

impl Reload {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self { settings: settings.clone(), in_force: settings.values.clone() }
    }

    /// Reads every layer again and applies what can be applied; where anything is wrong, nothing.
    pub(crate) fn run(&mut self, node: &Node, authority: impl Fn(Authority) -> Authority) {
        systemd::tell(State::Reloading);
        let outcome = self.apply(node, authority).unwrap_or_else(|failure| {
            tracing::error!("the configuration is refused, all settings stay as they are\n{failure}");
            Reloaded::Refused
        });
        node.server().metrics().config_reloaded(outcome);
        systemd::tell(State::Ready);
    }

    fn apply(&mut self, node: &Node, authority: impl Fn(Authority) -> Authority) -> Result<Reloaded> {
        let values = Settings::load(self.settings.mode, &self.settings.arguments)?.values;
        let Changes { live, boot } = Changes::between(&self.in_force, &values);
        // Also where no setting changed: the files of keys may have.
        let issuers = authority::read(&values.auth)?;
        let jobs = node.runs().map(|runs| Ok::<_, Failure>((runs, jobs::read(&values)?))).transpose()?;
        if !live.is_empty() {
            node.server().reload(values.limits.clone()).map_err(|error| Failure::usage(error.to_string()))?;
            node.engine().reload(&with_limits(&values.server.data, &values.limits));
            self.in_force.limits = values.limits;
            self.in_force.auth = values.auth;
            self.in_force.job = values.job;
            self.in_force.mcp = self.in_force.mcp.reloaded(&values.mcp);
            if let Some(mcp) = node.mcp() {
                mcp.set_policy(&self.in_force);
            }
            tracing::info!("configuration reloaded, in force now: {}", live.join(", "));
        }
        if let Some((runs, jobs)) = jobs {
            runs.reload(jobs).map_err(|error| Failure::usage(error.to_string()))?;
        }
        node.credentials().reload(authority(issuers));
        if !boot.is_empty() {
            tracing::warn!("these changes of the configuration wait for a restart: {}", boot.join(", "));
        }
        Ok(match (live.is_empty(), boot.is_empty()) {
            (true, true) => {
                tracing::info!("configuration read again, nothing changed");
                Reloaded::Unchanged
            }
            (_, true) => Reloaded::Applied,
            (_, false) => Reloaded::Waiting,
        })
    }
}

/// Hears of changes of the configuration file and of certificates, also where one, or a link on the way to it, is
/// replaced by another.
#[derive(Debug)]
pub(crate) struct FileWatch {
    paths: Vec<PathBuf>,
    news: Arc<Notify>,
    /// Dropped, it hears no more.
    watcher: Option<RecommendedWatcher>,
    names: BTreeSet<PathBuf>,
}

impl FileWatch {
    /// Watches the files, if there are any. A watch that can't be had is told; a signal still works.
    pub(crate) fn new(paths: Vec<PathBuf>) -> Self {
        let mut watch = Self { paths, news: Arc::default(), watcher: None, names: BTreeSet::new() };
        watch.arm();
        watch
    }

    /// Resolves after a change, once it is over; never without files.
    async fn changed(&mut self) {
        self.news.notified().await;
        for _ in 0..STEPS_MAX {
            if timeout(QUIET, self.news.notified()).await.is_err() {
                break;
            }
        }
        self.arm();
    }

    /// What the server is to do next: a changed file is as good as the signal to read it.
    pub(crate) async fn told(&mut self, signals: &mut Signals) -> Told {
        tokio::select! {
            biased;
            told = signals.next() => told,
            () = self.changed() => Told::Reload,
        }
    }

    /// Watches what leads to the files now.
    fn arm(&mut self) {
        if self.paths.is_empty() {
            return;
        }
        let names: BTreeSet<PathBuf> = self.paths.iter().flat_map(|path| names(path)).collect();
        if self.watcher.is_some() && names == self.names {
            return;
        }
        match watcher(&names, self.news.clone()) {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => tracing::warn!(%error, "changes of files are not seen; SIGHUP reads them again"),
        }
        self.names = names;
    }
}

/// Hears of changes of these names. Their folders are watched, for a name that is given to another
/// file is no event of the old one.
fn watcher(names: &BTreeSet<PathBuf>, news: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let wanted = names.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Lost events, and other troubles: look at the file.
        let matters = event.map_or(true, |event| {
            // Reading is no change, ours least of all.
            let read = matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
            !read && (event.need_rescan() || event.paths.iter().any(|path| wanted.contains(path)))
        });
        if matters {
            news.notify_one();
        }
    })?;
    let folders: BTreeSet<&Path> = names.iter().filter_map(|name| name.parent()).collect();
    folders.into_iter().try_for_each(|folder| watcher.watch(folder, RecursiveMode::NonRecursive))?;
    Ok(watcher)
}

/// The name of the file behind `path`, and of every symbolic link on the way there.
fn names(path: &Path) -> BTreeSet<PathBuf> {
    let mut names = BTreeSet::new();
    let mut rest = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for _ in 0..LINKS_MAX {
        match first_link(&rest) {
            Ok(file) => {
                names.insert(file);
                break;
            }
            Err((link, target)) => {
                names.insert(link);
                rest = target;
            }
        }
    }
    names
}

/// `path` without `.` and `..`, if no part of it is a symbolic link; else the first link, and where
/// it leads.
fn first_link(path: &Path) -> Result<PathBuf, (PathBuf, PathBuf)> {
    let mut at = PathBuf::new();
    let mut parts = path.components();
    while let Some(part) = parts.next() {
        match part {
            Component::CurDir => continue,
            // All before it are no links, so this is what the kernel does.
            Component::ParentDir => {
                at.pop();
                continue;
            }
            part => at.push(part),
        }
        if let Ok(target) = std::fs::read_link(&at) {
            let target = at.parent().map_or(target.clone(), |folder| folder.join(&target)).join(parts.as_path());
            return Err((at, target));
        }
    }
    Ok(at)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_link_to_the_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        // As a cluster mounts a configuration: the file links to a folder that is swapped.
        std::fs::create_dir_all(dir.join("mount/..v1")).unwrap();
        std::fs::write(dir.join("mount/..v1/c.toml"), "").unwrap();
        symlink("..v1", dir.join("mount/..data")).unwrap();
        symlink("..data/c.toml", dir.join("mount/c.toml")).unwrap();
        symlink(dir.join("mount"), dir.join("etc")).unwrap();
        let check = |path: &str, expected: &[&str]| {
            let expected: BTreeSet<_> = expected.iter().map(|name| dir.join(name)).collect();
            assert_eq!(names(&dir.join(path)), expected, "{path}");
        };
        check("mount/..v1/c.toml", &["mount/..v1/c.toml"]);
        check("etc/./c.toml", &["etc", "mount/c.toml", "mount/..data", "mount/..v1/c.toml"]);
        check("mount/..v1/../none.toml", &["mount/none.toml"]);
        symlink("loop", dir.join("loop")).unwrap();
        check("loop", &["loop"]);
    }
}
