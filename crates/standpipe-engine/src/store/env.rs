//! One LMDB environment as this engine uses them: the folder, the gate that every transaction passes, growth
//! of the map, and what a failed commit means. It knows no table; the stores of values and of streams
//! are built on it.

use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use heed::{Env, EnvFlags, EnvOpenOptions, RoTxn, RwTxn, WithoutTls};

use super::StoreOptions;
use super::gate::{Gate, Pass};
use crate::config::Durability;
use crate::error::{Error, ErrorKind, Result};

/// How long a resize waits for open reads before the writes that need it are refused.
const RESIZE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a read that can't wait long does for a resize.
const READ_PATIENCE: Duration = Duration::from_millis(200);
/// Room above `map_bytes_max` for writes that only remove, and for the pages that removing takes.
const MAP_RESERVE: usize = 16 << 20;
/// How much of the reserve one removal gets: what it leaves over, other writes may take.
const MAP_RESERVE_STEP: usize = 1 << 20;
/// Less than this free on the file system means a failed commit was a full disk.
const DISK_FULL_BELOW: u64 = 4 << 20;

/// Why a commit failed.
#[derive(Debug)]
pub(crate) enum CommitError {
    /// The map is full: grow it and do the same again.
    MapFull,
    /// A state that passes: whoever asked is told this, and the node goes on.
    Refused(Error),
    /// The node must stop.
    Fatal(Error),
}

impl From<Error> for CommitError {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

impl From<heed::Error> for CommitError {
    fn from(error: heed::Error) -> Self {
        match error {
            heed::Error::Mdb(heed::MdbError::MapFull) => Self::MapFull,
            error => Self::Fatal(error.into()),
        }
    }
}

/// An open environment.
pub(crate) struct Environment {
    env: Env<WithoutTls>,
    gate: Arc<Gate>,
    dir: PathBuf,
}

impl Environment {
    /// Opens or creates the environment in `dir`. The caller holds the data folder's lock, so
    /// no other process has it open.
    pub(crate) fn open(dir: &FsPath, options: StoreOptions) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|error| cannot_open(dir, error))?;
        let mut open = EnvOpenOptions::new().read_txn_without_tls();
        // A map that shrank below the file's size would be refused: LMDB takes the larger one.
        open.map_size(round_to_page(options.map_bytes)).max_dbs(8).max_readers(options.readers_max);
        if options.no_sync {
            // SAFETY: NO_SYNC gives up durability between syncs, which `Durability::Interval`
            // asks for by name; it does not affect memory safety.
            #[allow(unsafe_code)]
            unsafe {
                open.flags(EnvFlags::NO_SYNC);
            }
        }
        // SAFETY: the file is changed only through LMDB: the data folder's lock keeps other
        // processes out, and heed refuses to open one environment twice in this process.
        #[allow(unsafe_code)]
        let env = unsafe { open.open(dir) }.map_err(|error| cannot_open(dir, error))?;
        check_file_length(&env, dir)?;
        Ok(Self { env, gate: Arc::default(), dir: dir.to_owned() })
    }

    /// Makes the tables and what must be in them before anybody else looks.
    pub(crate) fn prepare<T>(&self, prepare: impl FnOnce(&Env<WithoutTls>, &mut RwTxn) -> Result<T>) -> Result<T> {
        let mut txn = self.env.write_txn()?;
        let prepared = prepare(&self.env, &mut txn)?;
        txn.commit().map_err(|error| cannot_open(&self.dir, error))?;
        self.env.clear_stale_readers()?;
        Ok(prepared)
    }

    /// The folder of this environment.
    pub(crate) fn dir(&self) -> &FsPath {
        &self.dir
    }

    /// Opens a read transaction unless the map is being resized right now. Never blocks.
    pub(crate) fn try_read(&self) -> Result<Option<ReadTxn>> {
        self.gate.try_enter().map(|pass| self.read_with(pass)).transpose()
    }

    /// Opens a read transaction, waiting for a resize to end.
    pub(crate) async fn read(&self) -> Result<ReadTxn> {
        let pass = self.gate.enter().await;
        self.read_with(pass)
    }

    /// As [`Environment::read`], for callers that can't wait long.
    ///
    /// # Errors
    /// `Unavailable` while a resize takes longer than that.
    pub(crate) fn read_soon(&self) -> Result<ReadTxn> {
        let pass = self.gate.enter_within(READ_PATIENCE);
        self.read_with(pass.ok_or_else(|| Error::unavailable("the store is growing; try again"))?)
    }

    fn read_with(&self, pass: Pass) -> Result<ReadTxn> {
        Ok(ReadTxn { txn: self.env.clone().static_read_txn()?, _pass: pass })
    }

    /// Opens the write transaction. Only the writer's thread does.
    pub(crate) fn write(&self) -> Result<WriteTxn<'_>> {
        let pass = self.gate.try_enter().expect("only the writer's thread resizes, and it is here");
        Ok(WriteTxn { txn: self.env.write_txn()?, _pass: pass })
    }

    /// Size of the map, in bytes.
    pub(crate) fn map_bytes(&self) -> usize {
        self.env.info().map_size
    }

    /// Bytes of the file in use, free pages included.
    pub(crate) fn used_bytes(&self) -> usize {
        (self.env.info().last_page_number + 1) * rustix::param::page_size()
    }

    /// Doubles the map, up to `max`; writes that only remove may go on into a last reserve, a
    /// step at a time. The caller has no transaction open.
    pub(crate) fn grow(&self, max: usize, only_removes: bool) -> Result<()> {
        let current = self.map_bytes();
        let bytes = if current < max {
            current.saturating_mul(2).min(max)
        } else if only_removes && current < max + MAP_RESERVE {
            current + MAP_RESERVE_STEP
        } else {
            return Err(Error::unavailable(format!(
                "the database is full: it has reached map_bytes_max ({max} bytes); remove data or raise the limit"
            )));
        };
        self.resize(bytes)?;
        tracing::info!(bytes, dir = %self.dir.display(), "map grown");
        Ok(())
    }

    fn resize(&self, bytes: usize) -> Result<()> {
        let grown = self.gate.exclusive(RESIZE_PATIENCE, || {
            // SAFETY: the gate says that no transaction of this process is open, and no other
            // process has the environment.
            #[allow(unsafe_code)]
            unsafe {
                self.env.resize(round_to_page(bytes))
            }
        });
        match grown {
            Some(result) => Ok(result?),
            None => Err(Error::unavailable("the store must grow, but a long read holds it open; try again")),
        }
    }

    /// Syncs what earlier unsynced commits wrote.
    pub(crate) fn sync(&self) -> Result<()> {
        Ok(self.env.force_sync()?)
    }

    /// Writes a compact copy of a consistent state into `file`, while reads and writes go on.
    pub(crate) fn copy_to(&self, file: &mut std::fs::File) -> Result<()> {
        Ok(self.env.copy_to_file(file, heed::CompactionOption::Enabled)?)
    }

    /// Names the cause of a failed commit. LMDB reports a short write as an I/O error, so the
    /// file system is asked. A full disk is a state; anything else stops the node, because pages
    /// are marked clean after a failed sync and a second try would lie.
    pub(crate) fn commit_failed(&self, error: heed::Error) -> CommitError {
        if matches!(error, heed::Error::Mdb(heed::MdbError::MapFull)) {
            return CommitError::MapFull;
        }
        let full = matches!(&error, heed::Error::Io(io) if io.kind() == std::io::ErrorKind::StorageFull)
            || free_bytes(&self.dir).is_some_and(|free| free < DISK_FULL_BELOW);
        if full {
            CommitError::Refused(Error::unavailable("the disk is full; free some space").with_cause(error))
        } else {
            CommitError::Fatal(Error::internal(error))
        }
    }
}

/// Which commits have to be synced yet, where [`Durability::Interval`] leaves that for later.
#[derive(Debug)]
pub(crate) struct Unsynced {
    any: bool,
    last_sync: Instant,
}

impl Default for Unsynced {
    fn default() -> Self {
        Self { any: false, last_sync: Instant::now() }
    }
}

impl Unsynced {
    /// A commit has been made.
    pub(crate) fn committed(&mut self, durability: Durability) {
        self.any = matches!(durability, Durability::Interval(_));
    }

    /// Syncs when it is time.
    pub(crate) fn sync_when_due(&mut self, env: &Environment, durability: Durability) -> Result<()> {
        match durability {
            Durability::Interval(every) if self.last_sync.elapsed() >= every => self.sync(env),
            _ => Ok(()),
        }
    }

    /// Syncs if there is anything to sync.
    pub(crate) fn sync(&mut self, env: &Environment) -> Result<()> {
        if std::mem::take(&mut self.any) {
            env.sync()?;
            self.last_sync = Instant::now();
        }
        Ok(())
    }
}

/// A read transaction, with its pass of the gate.
pub(crate) struct ReadTxn {
    // Dropped before the pass: the gate must not open while the transaction is alive.
    pub(crate) txn: RoTxn<'static, WithoutTls>,
    _pass: Pass,
}

/// The one open write transaction of an environment.
pub(crate) struct WriteTxn<'s> {
    // Dropped before the pass, as in `ReadTxn`.
    pub(crate) txn: RwTxn<'s>,
    _pass: Pass,
}

impl WriteTxn<'_> {
    /// Commits; with synced commits, what was written is on disk when this returns.
    pub(crate) fn commit(self) -> heed::Result<()> {
        self.txn.commit()
    }
}

/// A file that ends before its last page, such as a copy that broke off: reading the missing pages
/// would end the process, so it is not opened.
fn check_file_length(env: &Env<WithoutTls>, dir: &FsPath) -> Result<()> {
    let pages = env.info().last_page_number as u64 + 1;
    let len = env.real_disk_size()?;
    // A file that has just been created is not written yet.
    if len > 0 && pages > 2 && pages * rustix::param::page_size() as u64 > len {
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!("the database in {} is cut off: its file is too short; restore a whole backup", dir.display()),
        ));
    }
    Ok(())
}

fn round_to_page(bytes: usize) -> usize {
    bytes.next_multiple_of(rustix::param::page_size())
}

fn cannot_open(dir: &FsPath, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unavailable, format!("cannot open the database in {}: {error}", dir.display()))
        .with_cause(error)
}

/// Free bytes of the file system below `dir`.
fn free_bytes(dir: &FsPath) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
