//! The entries of a directory that is being read, a page at a time.

use std::collections::BTreeMap;

use standpipe_tree::Path;

use super::Result;
use super::inodes::{Attr, Inodes};
use super::name::name_of;
use super::server::{Child, Kind};
use super::tree::Tree;

/// An entry; a place in the listing belongs to it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) path: Path,
    pub(super) kind: Kind,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Listing {
    path: Path,
    page: Vec<Child>,
    /// The place of the page's first child.
    first: u64,
    /// Children that are there for their streams and have not come by as values; asked for with the first page.
    streams: Option<BTreeMap<String, Kind>>,
    ended: bool,
}

impl Listing {
    pub(super) fn new(path: Path) -> Self {
        Self { path, page: Vec::new(), first: 0, streams: None, ended: false }
    }

    /// The entry at a place, counted from 0. Places are asked for in ascending order; an earlier one
    /// begins the listing anew.
    pub(super) async fn entry(&mut self, tree: &Tree, place: u64) -> Result<Option<Entry>> {
        if place < self.first {
            *self = Self::new(self.path.clone());
        }
        loop {
            let within = usize::try_from(place - self.first).unwrap_or(usize::MAX);
            if let Some(child) = self.page.get(within) {
                // A key that the tree has is a good one.
                let path = self.path.child(&child.key).map_err(|_| fuser::Errno::EIO)?;
                return Ok(Some(Entry { name: name_of(&child.key).into_owned(), path, kind: child.kind }));
            }
            if self.ended {
                return Ok(None);
            }
            self.next_page(tree).await?;
        }
    }

    async fn next_page(&mut self, tree: &Tree) -> Result<()> {
        let after = self.page.last().map(|child| child.key.clone());
        self.first += self.page.len() as u64;
        if self.streams.is_none() {
            self.streams = Some(tree.server().streams(&self.path).await?.children());
        }
        let streams = self.streams.get_or_insert_default();
        self.page = tree.server().list(&self.path, after.as_deref()).await?;
        streams.retain(|key, _| self.page.iter().all(|child| child.key != *key));
        if self.page.is_empty() {
            self.ended = true;
            self.page.extend(std::mem::take(streams).into_iter().map(|(key, kind)| Child { key, kind }));
            let pending = tree.inodes().pending_in(&self.path);
            for key in pending {
                // The tree may have it by now: then it was listed.
                if let Ok(path) = self.path.child(&key)
                    && self.page.iter().all(|child| child.key != key)
                    && tree.server().probe(&path).await?.is_none()
                {
                    self.page.push(Child { key, kind: Kind::Directory });
                }
            }
        }
        Ok(())
    }
}

impl Entry {
    /// The kernel is told of it.
    pub(super) fn told(&self, inodes: &mut Inodes) -> Attr {
        inodes.told(&self.path, self.kind)
    }
}
