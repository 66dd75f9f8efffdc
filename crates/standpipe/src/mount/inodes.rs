//! The numbers the kernel knows locations by, and the directories that are only here: made and not yet
//! written into, or emptied. Knows no server and no open file.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use fuser::Errno;
use standpipe_tree::Path;

use super::Result;
use super::server::Kind;

/// The number of the directory that is mounted.
pub(super) const ROOT: u64 = 1;
/// Directories that are only here.
const PENDING_MAX: usize = 1_000;

/// What the kernel is told about a location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attr {
    pub(super) ino: u64,
    pub(super) kind: Kind,
    /// When a change was last seen from here; the tree keeps no times.
    pub(super) changed: SystemTime,
}

#[derive(Debug)]
struct Node {
    path: Path,
    kind: Kind,
    changed: SystemTime,
    /// How often the kernel was told of it, less how often it forgot.
    lookups: u64,
    /// Removed while somebody had it open: what is written to it goes nowhere.
    gone: bool,
}

/// The numbers in use. A file that becomes a directory gets another one.
#[derive(Debug)]
pub(super) struct Inodes {
    nodes: HashMap<u64, Node>,
    numbers: HashMap<(Path, bool), u64>,
    next: u64,
    pending: HashSet<Path>,
    begun: SystemTime,
}

impl Inodes {
    pub(super) fn new() -> Self {
        let begun = SystemTime::now();
        let root = Node { path: Path::root(), kind: Kind::Directory, changed: begun, lookups: 1, gone: false };
        Self {
            nodes: HashMap::from([(ROOT, root)]),
            numbers: HashMap::from([((Path::root(), true), ROOT)]),
            next: ROOT + 1,
            pending: HashSet::new(),
            begun,
        }
    }

    /// The kernel is told of what is at `path`.
    pub(super) fn told(&mut self, path: &Path, kind: Kind) -> Attr {
        let key = (path.clone(), kind == Kind::Directory);
        let ino = *self.numbers.entry(key).or_insert(self.next);
        if ino == self.next {
            self.next += 1;
            let node = Node { path: path.clone(), kind, changed: self.begun, lookups: 0, gone: false };
            self.nodes.insert(ino, node);
        }
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.lookups += 1;
        }
        self.seen(ino, kind)
    }

    /// It has forgotten.
    pub(super) fn forgotten(&mut self, ino: u64, lookups: u64) {
        let Some(node) = self.nodes.get_mut(&ino).filter(|_| ino != ROOT) else { return };
        node.lookups = node.lookups.saturating_sub(lookups);
        if node.lookups == 0
            && let Some(node) = self.nodes.remove(&ino)
            && !node.gone
        {
            self.numbers.remove(&(node.path, node.kind == Kind::Directory));
        }
    }

    /// What is there now, of a number that is known.
    pub(super) fn seen(&mut self, ino: u64, kind: Kind) -> Attr {
        let Some(node) = self.nodes.get_mut(&ino) else { return Attr { ino, kind, changed: self.begun } };
        if node.kind != kind {
            node.changed = SystemTime::now();
        }
        node.kind = kind;
        Attr { ino, kind, changed: node.changed }
    }

    /// Where it is.
    ///
    /// # Errors
    /// `ENOENT` where it was removed from here.
    pub(super) fn path(&self, ino: u64) -> Result<Path> {
        let node = self.nodes.get(&ino).filter(|node| !node.gone);
        node.map(|node| node.path.clone()).ok_or(Errno::ENOENT)
    }

    /// What was last seen of what was removed while it was open.
    pub(super) fn last_seen(&self, ino: u64) -> Result<Attr> {
        let node = self.nodes.get(&ino).ok_or(Errno::ENOENT)?;
        Ok(Attr { ino, kind: node.kind, changed: node.changed })
    }

    /// What was last seen there.
    pub(super) fn kind(&self, ino: u64) -> Option<Kind> {
        self.nodes.get(&ino).map(|node| node.kind)
    }

    pub(super) fn is_directory(&self, ino: u64) -> bool {
        self.nodes.get(&ino).is_some_and(|node| node.kind == Kind::Directory)
    }

    /// The number of the file at `path`, if the kernel knows it.
    pub(super) fn file(&self, path: &Path) -> Option<u64> {
        self.numbers.get(&(path.clone(), false)).copied()
    }

    /// What was at `path` was removed from here; its parent stays, also where that was all it had.
    pub(super) fn removed(&mut self, path: &Path) {
        for directory in [false, true] {
            if let Some(ino) = self.numbers.remove(&(path.clone(), directory))
                && let Some(node) = self.nodes.get_mut(&ino)
            {
                node.gone = true;
            }
        }
        self.pending.remove(path);
        self.keep_parent(path);
    }

    /// What was at and below `from` was moved to `to`; what was there is gone.
    pub(super) fn moved(&mut self, from: &Path, to: &Path) {
        let place = |path: &Path| path.relative_to(from).and_then(|rest| to.join(&rest).ok());
        for directory in [false, true] {
            if let Some(ino) = self.numbers.remove(&(to.clone(), directory))
                && let Some(node) = self.nodes.get_mut(&ino)
            {
                node.gone = true;
            }
        }
        let moved: Vec<_> = self.nodes.iter().filter(|(_, node)| !node.gone && from.contains(&node.path)).collect();
        let moved: Vec<_> = moved.into_iter().map(|(ino, node)| (*ino, place(&node.path))).collect();
        for (ino, path) in moved {
            let Some(node) = self.nodes.get_mut(&ino) else { continue };
            let directory = node.kind == Kind::Directory;
            self.numbers.remove(&(node.path.clone(), directory));
            match path {
                Some(path) => {
                    self.numbers.insert((path.clone(), directory), ino);
                    node.path = path;
                }
                None => node.gone = true,
            }
        }
        self.pending.remove(to);
        self.pending = self.pending.drain().map(|path| place(&path).unwrap_or(path)).collect();
        self.keep_parent(from);
    }

    fn keep_parent(&mut self, path: &Path) {
        if let Some(parent) = path.parent().filter(|parent| !parent.is_root() && self.pending.len() < PENDING_MAX) {
            self.pending.insert(parent);
        }
    }

    /// A directory is made that the tree can't hold yet.
    ///
    /// # Errors
    /// `ENOSPC`: there are too many.
    pub(super) fn make(&mut self, path: &Path) -> Result<()> {
        if self.pending.len() >= PENDING_MAX {
            return Err(Errno::ENOSPC);
        }
        self.pending.insert(path.clone());
        Ok(())
    }

    /// The tree has it now.
    pub(super) fn exists(&mut self, path: &Path) {
        self.pending.remove(path);
    }

    /// Is there, only here, a directory at `path`?
    pub(super) fn is_pending(&self, path: &Path) -> bool {
        self.pending.iter().any(|pending| path.contains(pending))
    }

    /// The keys of directories directly in `path` that are only here, and others that may be.
    pub(super) fn pending_in(&self, path: &Path) -> Vec<String> {
        let below = self.pending.iter().filter_map(|pending| pending.relative_to(path));
        let keys: HashSet<String> = below.filter_map(|rest| Some(rest.segments().next()?.to_owned())).collect();
        keys.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        Path::parse(text).unwrap()
    }

    #[test]
    fn numbers_last_until_they_are_forgotten() {
        let mut inodes = Inodes::new();
        let one = inodes.told(&path("a"), Kind::File(1)).ino;
        assert_eq!(inodes.told(&path("a"), Kind::File(2)).ino, one);
        assert_ne!(inodes.told(&path("a"), Kind::Directory).ino, one, "it has become something else");
        inodes.forgotten(one, 1);
        assert_eq!(inodes.path(one), Ok(path("a")));
        inodes.forgotten(one, 1);
        assert_eq!(inodes.path(one), Err(Errno::ENOENT));
        inodes.forgotten(ROOT, 99);
        assert_eq!(inodes.path(ROOT), Ok(Path::root()));
        assert_eq!((inodes.nodes.len(), inodes.numbers.len()), (2, 2));
    }

    #[test]
    fn a_size_that_changed_is_a_time() {
        let mut inodes = Inodes::new();
        let first = inodes.told(&path("a"), Kind::File(1));
        assert_eq!(inodes.told(&path("a"), Kind::File(1)).changed, first.changed);
        assert!(inodes.seen(first.ino, Kind::File(2)).changed > first.changed);
    }

    #[test]
    fn moves_take_what_is_below_along() {
        let mut inodes = Inodes::new();
        let numbers = ["a", "a/b", "ab", "c"].map(|text| inodes.told(&path(text), Kind::Directory).ino);
        inodes.make(&path("a/empty")).unwrap();
        inodes.moved(&path("a"), &path("c"));
        let at = |ino: u64| inodes.path(ino).map(|path| path.as_str().to_owned());
        assert_eq!(numbers.map(at), [Ok("c".into()), Ok("c/b".into()), Ok("ab".into()), Err(Errno::ENOENT)]);
        assert!(inodes.is_pending(&path("c/empty")) && !inodes.is_pending(&path("a")));
    }

    #[test]
    fn directories_stay_until_they_are_removed() {
        let mut inodes = Inodes::new();
        inodes.make(&path("a/b")).unwrap();
        assert!(inodes.is_pending(&path("a")) && inodes.is_pending(&path("a/b")) && !inodes.is_pending(&path("b")));
        assert_eq!(inodes.pending_in(&path("a")), ["b"]);
        inodes.removed(&path("a/b"));
        assert!(inodes.is_pending(&path("a")) && inodes.pending_in(&path("a")).is_empty());
        inodes.removed(&path("a"));
        assert!(!inodes.is_pending(&path("a")) && inodes.pending_in(&Path::root()).is_empty());
        let made = (0..2_000).take_while(|n| inodes.make(&path(&n.to_string())).is_ok()).count();
        assert_eq!(made, PENDING_MAX);
    }
}
