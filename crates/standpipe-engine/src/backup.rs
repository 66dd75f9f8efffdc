//! Online backup, restore and verification of a database. A backup is a compact copy of the
//! LMDB file, itself a database that can be opened; restoring is copying it into place.

use std::fs::File;
use std::path::Path as FsPath;
use std::sync::Arc;

use standpipe_tree::{Leaf, Path};

use crate::apply::{PRIORITY_MARK, row_digest};
use crate::config::EngineConfig;
use crate::database::Database;
use crate::engine::{check_name, folder_name, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Record, hash};
use crate::store::{Snapshot, Store, StoreOptions};

/// What verification found to be true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The revision that was checked.
    pub rev: u64,
    /// Rows of the tree: leaves and priorities.
    pub rows: u64,
    /// Sum over all rows; equal trees have equal digests.
    pub digest: u128,
    /// Records of the kept tail.
    pub records: u64,
}

impl Database {
    /// Writes a compact copy of one consistent state into `file` and syncs it. Reads and writes
    /// go on meanwhile; space freed by them is reused only afterwards.
    pub fn backup(&self, file: &mut File) -> Result<()> {
        self.store().env().copy_to(file)?;
        file.sync_all().map_err(Error::internal)
    }
}

impl Snapshot {
    /// Reads everything: every row decodes, the digest and the row count are what the state says,
    /// no leaf has children, no priority stands alone, every lease can be read, the indexes hold what the
    /// tree and the rules say, and the kept tail is one chain.
    ///
    /// # Errors
    /// `Internal`, naming what is damaged.
    pub fn verify(&self) -> Result<Verified> {
        let (rows, priorities, digest) = self.verify_tree()?;
        crate::lease::verify(self.store(), self.txn())?;
        if let Some(rules) = self.indexes() {
            crate::index::verify(self.store(), self.txn(), &rules.indexes)?;
        }
        if digest != self.state().digest || rows != self.state().rows || priorities != self.state().priorities {
            return Err(damaged("the digest does not match the tree"));
        }
        Ok(Verified { rev: self.rev(), rows, digest, records: self.verify_tail()? })
    }

    fn verify_tree(&self) -> Result<(u64, u64, u128)> {
        let (mut rows, mut priorities, mut digest) = (0, 0, 0u128);
        let mut leaf: Option<Vec<u8>> = None;
        let mut priority: Option<Vec<u8>> = None;
        for row in self.store().tree.iter(self.txn())? {
            let (key, value) = row?;
            let encoded = &key[1..];
            if Leaf::decode(value).is_none() {
                return Err(damaged("a value of the tree can't be read"));
            }
            if priority.take().is_some_and(|node| !encoded.starts_with(&node)) {
                return Err(damaged("a priority stands alone"));
            }
            match Path::decode(encoded) {
                Some(_) => {
                    if leaf.as_ref().is_some_and(|leaf| encoded.starts_with(leaf)) {
                        return Err(damaged("a leaf has children"));
                    }
                    leaf = Some(encoded.to_vec());
                }
                None => match encoded.split_last() {
                    Some((&PRIORITY_MARK, node)) if Path::decode(node).is_some() => {
                        priorities += 1;
                        if leaf.as_deref() != Some(node) {
                            priority = Some(node.to_vec());
                        }
                    }
                    _ => return Err(damaged("a key of the tree can't be read")),
                },
            }
            digest = digest.wrapping_add(row_digest(encoded, value));
            rows += 1;
        }
        if priority.is_some() {
            return Err(damaged("a priority stands alone"));
        }
        Ok((rows, priorities, digest))
    }

    fn verify_tail(&self) -> Result<u64> {
        let mut records = 0;
        let mut previous: Option<([u8; 32], u64, u64)> = None;
        for row in self.store().changes.iter(self.txn())? {
            let (_, bytes) = row?;
            let record = Record::decode(bytes).ok_or_else(|| damaged("a record can't be read"))?;
            if let Some((chain, pos, rev)) = previous
                && (record.chain, record.pos, record.first_rev) != (chain, pos + 1, rev + 1)
            {
                return Err(damaged("the kept tail is no chain"));
            }
            previous = Some((hash(bytes), record.pos, record.last_rev()));
            records += 1;
        }
        let state = self.state();
        match previous {
            Some(last) if last != (state.chain, state.pos, state.rev) => {
                Err(damaged("the kept tail does not end at the state"))
            }
            _ => Ok(records),
        }
    }
}

/// Puts a backup in place as database `name` of the folder `dir`: copied under another name,
/// verified, synced, and only then renamed.
///
/// # Errors
/// `Conflict` when the folder has that database; `Unavailable` when another process holds the
/// folder; what verification finds.
pub fn restore(source: &FsPath, dir: &FsPath, name: &str) -> Result<Verified> {
    check_name(name)?;
    let _lock = lock(dir)?;
    if dir.join(folder_name(name)).exists() {
        let message =
            format!("{} has a database {name}; restore into another folder or under another name", dir.display());
        return Err(Error::new(ErrorKind::Conflict, message));
    }
    // No name's folder has a dot.
    let folder = dir.join(format!("{}.part", folder_name(name)));
    let copied = copy_file(source, &folder).and_then(|()| open_and_verify(&folder)).and_then(|verified| {
        std::fs::rename(&folder, dir.join(folder_name(name))).map_err(|error| failed(&folder, error))?;
        Ok(verified)
    });
    if copied.is_err() {
        // What is left is only our own copy.
        let _best_effort = std::fs::remove_dir_all(&folder);
    }
    copied
}

fn copy_file(source: &FsPath, folder: &FsPath) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    let target = folder.join("data.mdb");
    std::fs::copy(source, &target).map_err(|error| failed(source, error))?;
    File::open(&target).and_then(|file| file.sync_all()).map_err(|error| failed(&target, error))
}

fn failed(path: &FsPath, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{}: {error}", path.display())).with_cause(error)
}

/// Opens a database of a folder that nobody serves, or of a backup, and verifies it.
pub fn verify(dir: &FsPath, name: &str) -> Result<Verified> {
    check_name(name)?;
    let _lock = lock(dir)?;
    let folder = dir.join(folder_name(name));
    if !folder.join("data.mdb").is_file() {
        return Err(Error::new(ErrorKind::NotFound, format!("no database {name} in {}", dir.display())));
    }
    open_and_verify(&folder)
}

fn open_and_verify(folder: &FsPath) -> Result<Verified> {
    // The store alone: opening the database would release the leases in it.
    let store = Arc::new(Store::open(folder, StoreOptions::of(&EngineConfig::new(folder)))?);
    store.try_snapshot()?.ok_or_else(|| Error::unavailable("the store is growing; try again"))?.verify()
}

fn damaged(what: &'static str) -> Error {
    Error::new(ErrorKind::Internal, format!("damaged database: {what}; restore a backup"))
}
