//! All databases of one data folder, and its streams: names, opening on demand, the folder's lock.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use rustix::fs::{FlockOperation, flock};

use crate::config::{Databases, EngineConfig, Shared};
use crate::database::Database;
use crate::error::{Error, ErrorKind, Result};
use crate::log::LocalLog;
use crate::streams::Streams;
use crate::writer::OnFatal;

/// Longest name of a database, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// The databases of a data folder, held by this process alone.
pub struct Engine {
    config: Shared,
    on_fatal: OnFatal,
    open: Mutex<BTreeMap<String, Arc<Database>>>,
    streams: Arc<Streams>,
    /// Held for the engine's life; the kernel frees it with the process.
    _lock: File,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("dir", &self.config.load().dir).finish_non_exhaustive()
    }
}

impl Engine {
    /// Takes the data folder and opens what exists by configuration.
    ///
    /// # Errors
    /// `Unavailable` when another process holds the folder (the message names it), when it can't
    /// be created, or when its format is newer than this program's.
    pub fn open(config: EngineConfig, on_fatal: OnFatal) -> Result<Self> {
        let lock = lock(&config.dir)?;
        let config = config.shared();
        let streams = Streams::open(config.clone(), on_fatal.clone())?;
        let engine = Self { config, on_fatal, open: Mutex::default(), streams, _lock: lock };
        if let Databases::Named(names) = &engine.config().databases {
            for name in names {
                engine.database(name)?;
            }
        }
        Ok(engine)
    }

    /// The settings in force.
    pub fn config(&self) -> Arc<EngineConfig> {
        self.config.load_full()
    }

    /// Puts the limits of `config` in force, for open databases too; its other settings are fixed
    /// at open and left aside. What is over a lowered limit already stays: the limit holds for
    /// what comes.
    pub fn reload(&self, config: &EngineConfig) {
        self.config.store(Arc::new(self.config.load().with_limits_of(config)));
        self.streams.reload();
    }

    /// The database a request's namespace means: on demand, any valid name; otherwise a named
    /// one, and the only one when there is just one (official SDKs derive names such as `127` or
    /// `localhost` from the host).
    ///
    /// # Errors
    /// `NotFound` for an unknown name, `BadRequest` for an invalid one, `Overloaded` beyond
    /// `databases_max`.
    pub fn resolve(&self, namespace: Option<&str>) -> Result<Arc<Database>> {
        let config = self.config.load();
        let name = namespace.filter(|name| !name.is_empty()).unwrap_or(&config.default_database);
        match &config.databases {
            Databases::OnDemand => self.database(name),
            Databases::Named(names) if names.iter().any(|known| known == name) => self.database(name),
            Databases::Named(names) if names.len() == 1 => self.database(&names[0]),
            Databases::Named(_) => Err(Error::new(ErrorKind::NotFound, "404 Not Found")),
        }
    }

    /// Opens database `name`, creating it if it is new.
    pub fn database(&self, name: &str) -> Result<Arc<Database>> {
        let mut open = self.open.lock();
        if let Some(database) = open.get(name) {
            return Ok(database.clone());
        }
        check_name(name)?;
        if open.len() >= self.config.load().databases_max {
            return Err(Error::new(
                ErrorKind::Overloaded,
                format!("{} databases are open, the limit databases_max", open.len()),
            ));
        }
        let database = Database::open_shared(name, self.config.clone(), Box::new(LocalLog), self.on_fatal.clone())?;
        open.insert(name.to_owned(), database.clone());
        Ok(database)
    }

    /// The databases that are open.
    pub fn databases(&self) -> Vec<Arc<Database>> {
        self.open.lock().values().cloned().collect()
    }

    /// The streams of the data folder.
    pub fn streams(&self) -> &Arc<Streams> {
        &self.streams
    }

    /// Names of all databases in the folder, open or not, sorted.
    pub fn names(&self) -> Result<Vec<String>> {
        database_names(&self.config.load().dir)
    }

    /// Ends every writer after what waits is committed. Blocks until that is done.
    pub fn close(&self) {
        for database in std::mem::take(&mut *self.open.lock()).into_values() {
            database.close();
        }
        self.streams.close();
    }
}

/// Names of the databases in a data folder, sorted.
pub fn database_names(dir: &FsPath) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(dir).map_err(|error| folder_error(dir, error))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("data.mdb").is_file())
        .filter_map(|path| name_of(path.file_name()?.to_str()?))
        .collect();
    names.sort();
    Ok(names)
}

/// Any short text will do: clients make names of hosts, projects and paths.
///
/// # Errors
/// `BadRequest` for an empty name, one beyond 64 bytes, and control characters.
pub fn check_name(name: &str) -> Result<()> {
    if !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Error::bad_request(format!(
        "invalid database name (ns): use 1 to {NAME_BYTES_MAX} bytes without control characters"
    )))
}

/// What stands for itself in the name of a folder.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// The name of a database's folder: letters, digits, `-` and `_` as they are, every other byte as `%2E`.
pub fn folder_name(name: &str) -> String {
    utf8_percent_encode(name, ESCAPED).to_string()
}

/// The database whose folder has this name; `None` where it is nobody's.
pub fn name_of(folder: &str) -> Option<String> {
    let name = percent_decode_str(folder).decode_utf8().ok()?.into_owned();
    (folder_name(&name) == folder).then_some(name)
}

/// Takes the folder for this process.
pub(crate) fn lock(dir: &FsPath) -> Result<File> {
    std::fs::create_dir_all(dir).map_err(|error| folder_error(dir, error))?;
    let path: PathBuf = dir.join("LOCK");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| folder_error(dir, error))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        let _unreadable = file.read_to_string(&mut holder);
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!(
                "the data folder {} is held by another standpipe (process {}); use --url to talk to it, or stop it",
                dir.display(),
                holder.trim()
            ),
        ));
    }
    // For people and for the message above; the lock itself is the kernel's.
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    match written {
        // A full disk must not keep a node from starting: it can still serve reads.
        Err(error) if error.kind() != std::io::ErrorKind::StorageFull => Err(folder_error(dir, error)),
        _ => Ok(file),
    }
}

fn folder_error(dir: &FsPath, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("cannot use the data folder {}: {error}", dir.display()))
        .with_cause(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_short_text_is_a_name_and_no_name_leaves_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let config = EngineConfig {
            databases: Databases::OnDemand,
            map_bytes_initial: 1 << 20,
            ..EngineConfig::new(dir.path().join("data"))
        };
        let engine = Engine::open(config, Arc::new(|_| {})).unwrap();
        let mut names = ["127.0.0.1:9000", "..", "../up", "a%2Eb", "a.b", "é", "demo-x_1"].map(str::to_owned);
        for name in &names {
            assert_eq!(engine.resolve(Some(name)).unwrap().name(), name);
        }
        names.sort();
        assert_eq!(engine.names().unwrap(), names);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        for bad in ["\n", "\u{7f}", &"n".repeat(65)] {
            assert_eq!(engine.resolve(Some(bad)).map(|_| ()).unwrap_err().kind(), ErrorKind::BadRequest, "{bad:?}");
        }
        engine.close();
    }

    #[test]
    fn limits_change_while_databases_are_open() {
        let dir = tempfile::tempdir().unwrap();
        let small = EngineConfig {
            databases: Databases::OnDemand,
            map_bytes_initial: 1 << 20,
            databases_max: 1,
            ring_events_max: 1,
            ..EngineConfig::new(dir.path())
        };
        let engine = Engine::open(small.clone(), Arc::new(|_| {})).unwrap();
        let one = engine.database("one").unwrap();
        assert_eq!(engine.database("two").map(|_| ()).unwrap_err().kind(), ErrorKind::Overloaded);
        let more = EngineConfig { databases_max: 2, ring_events_max: 9, default_database: "two".into(), ..small };
        engine.reload(&more);
        engine.database("two").unwrap();
        assert_eq!(one.config().ring_events_max, 9);
        assert_eq!(engine.config().default_database, "default", "what is no limit stays");
        engine.close();
    }
}
