//! One database's LMDB environment: the `tree`, `index`, `changes`, `leases` and `meta` tables, snapshots, write
//! transactions and growth of the map. It knows rows and records as bytes; what they mean is the
//! business of `apply`, `decide` and `record`.

mod cursor;
mod env;
mod gate;
pub(crate) mod keys;
mod state;

use std::path::Path as FsPath;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use heed::types::Bytes;
use heed::{RoTxn, RwTxn, WithoutTls};
use smallvec::SmallVec;
use standpipe_tree::{IndexTree, Leaf, Path};
use tokio::sync::watch;

pub use self::cursor::StoreCursor;
pub(crate) use self::env::{CommitError, Environment, ReadTxn, Unsynced, WriteTxn};
pub use self::state::{FORMAT, State};
use crate::config::{Durability, EngineConfig};
use crate::error::Result;
use crate::rules::Rules;

/// A table of byte keys and byte values.
pub(crate) type Table = heed::Database<Bytes, Bytes>;

const STATE_KEY: &[u8] = b"state";
const RULES_KEY: &[u8] = b"rules";

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreOptions {
    pub(crate) map_bytes: usize,
    pub(crate) readers_max: u32,
    /// Commits are not synced; somebody calls [`Environment::sync`] every so often.
    pub(crate) no_sync: bool,
}

impl StoreOptions {
    pub(crate) fn of(config: &EngineConfig) -> Self {
        Self {
            map_bytes: config.map_bytes_initial.min(config.map_bytes_max),
            readers_max: config.readers_max,
            no_sync: matches!(config.durability, Durability::Interval(_)),
        }
    }
}

/// One LMDB environment with its tables.
pub(crate) struct Store {
    env: Environment,
    pub(crate) tree: Table,
    pub(crate) index: Table,
    pub(crate) changes: Table,
    pub(crate) leases: Table,
    meta: Table,
    /// The state of the newest transaction that a snapshot has read, with LMDB's number for it:
    /// most snapshots see the same one, and a look here is cheaper than a look into the file.
    known: ArcSwapOption<(usize, State)>,
    /// The committed rules. The writer changes them between its commit and the news of it.
    rules: ArcSwap<Rules>,
    rules_version: watch::Sender<u64>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.env.dir()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens or creates the environment in `dir`. The caller holds the data folder's lock, so
    /// no other process has it open.
    pub(crate) fn open(dir: &FsPath, options: StoreOptions) -> Result<Self> {
        let env = Environment::open(dir, options)?;
        let [tree, index, changes, leases, meta] = env.prepare(|env, txn| {
            let mut table = |name| env.create_database(txn, Some(name));
            Ok([table("tree")?, table("index")?, table("changes")?, table("leases")?, table("meta")?])
        })?;
        let store = Self {
            env,
            tree,
            index,
            changes,
            leases,
            meta,
            known: ArcSwapOption::empty(),
            rules: ArcSwap::default(),
            rules_version: watch::Sender::new(0),
        };
        let rules = store.env.prepare(|_, txn| store.prepare(txn))?;
        store.set_rules(rules);
        Ok(store)
    }

    /// Makes a new database's state, or brings an older one's to this format; gives the stored rules.
    fn prepare(&self, txn: &mut RwTxn) -> Result<Arc<Rules>> {
        let Some(bytes) = self.meta.get(txn, STATE_KEY)? else {
            self.put_state(txn, &State::empty(crate::random::bytes()))?;
            return Ok(Arc::default());
        };
        let (mut state, format) = State::decode(bytes)?;
        let text = self.rules(txn)?;
        if format < 2 {
            state.rules_version = u64::from(text.is_some());
            state.priorities = crate::apply::count_priorities(self, txn)?;
        }
        let rules = text.map_or_else(Rules::default, |text| Rules::stored(state.rules_version, &text));
        if format < 2 {
            crate::index::rebuild(self, txn, &IndexTree::default(), &rules.indexes)?;
            self.put_state(txn, &state)?;
        }
        Ok(Arc::new(rules))
    }

    /// The committed rules.
    pub(crate) fn active_rules(&self) -> Guard<Arc<Rules>> {
        self.rules.load()
    }

    /// Puts rules in force that have been committed.
    pub(crate) fn set_rules(&self, rules: Arc<Rules>) {
        let version = rules.version;
        if let Some(why) = rules.unreadable() {
            tracing::error!(
                dir = %self.env.dir().display(),
                why,
                "the stored rules can't be used, so only administrators are let in; put rules that this version understands"
            );
        }
        self.rules.store(rules);
        self.rules_version.send_if_modified(|current| std::mem::replace(current, version) != version);
    }

    pub(crate) fn rules_changed(&self) -> watch::Receiver<u64> {
        self.rules_version.subscribe()
    }

    /// The environment, for what concerns it alone: growth, sync, its folder.
    pub(crate) fn env(&self) -> &Environment {
        &self.env
    }

    /// Opens a snapshot unless the map is being resized right now. Never blocks.
    pub(crate) fn try_snapshot(self: &Arc<Self>) -> Result<Option<Snapshot>> {
        self.env.try_read()?.map(|read| self.snapshot_of(read)).transpose()
    }

    /// Opens a snapshot, waiting for a resize to end.
    pub(crate) async fn snapshot(self: &Arc<Self>) -> Result<Snapshot> {
        if let Some(snapshot) = self.try_snapshot()? {
            return Ok(snapshot);
        }
        let read = self.env.read().await?;
        self.snapshot_of(read)
    }

    fn snapshot_of(self: &Arc<Self>, read: ReadTxn) -> Result<Snapshot> {
        let known = self.known.load();
        let state = match &*known {
            Some(known) if known.0 == read.txn.id() => known.1.clone(),
            _ => {
                let state = self.state(&read.txn)?;
                self.known.store(Some(Arc::new((read.txn.id(), state.clone()))));
                state
            }
        };
        Ok(Snapshot { read, state, store: self.clone() })
    }

    /// Opens the write transaction. Only the writer's thread does.
    pub(crate) fn write(&self) -> Result<WriteTxn<'_>> {
        self.env.write()
    }

    /// The state row as `txn` sees it.
    pub(crate) fn state(&self, txn: &RoTxn) -> Result<State> {
        let bytes = self.meta.get(txn, STATE_KEY)?.unwrap_or_default();
        Ok(State::decode(bytes)?.0)
    }

    pub(crate) fn put_state(&self, txn: &mut RwTxn, state: &State) -> heed::Result<()> {
        self.meta.put(txn, STATE_KEY, &state.encode())
    }

    /// The stored rules text, if any.
    pub(crate) fn rules(&self, txn: &RoTxn) -> Result<Option<String>> {
        let bytes = self.meta.get(txn, RULES_KEY)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
    }

    /// Is exactly this text stored?
    pub(crate) fn has_rules(&self, txn: &RoTxn, text: &str) -> heed::Result<bool> {
        Ok(self.meta.get(txn, RULES_KEY)? == Some(text.as_bytes()))
    }

    pub(crate) fn put_rules(&self, txn: &mut RwTxn, rules: &str) -> heed::Result<()> {
        self.meta.put(txn, RULES_KEY, rules.as_bytes())
    }

    /// A cursor over the subtree at `encoded_path`.
    pub(crate) fn cursor<'t>(&self, txn: &'t RoTxn<'t>, encoded_path: &[u8]) -> StoreCursor<'t> {
        StoreCursor::new(self.tree, txn, keys::tree_key(encoded_path))
    }

    /// A cursor over the keys of an index below one parent.
    pub(crate) fn index_cursor<'t>(&self, txn: &'t RoTxn<'t>, prefix: Vec<u8>) -> StoreCursor<'t> {
        StoreCursor::new(self.index, txn, prefix)
    }
}

/// A consistent view of one database at one revision.
///
/// It pins the pages it sees, so it must not outlive its request.
pub struct Snapshot {
    read: ReadTxn,
    state: State,
    store: Arc<Store>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("rev", &self.state.rev).finish_non_exhaustive()
    }
}

impl Snapshot {
    /// The revision this snapshot shows.
    pub fn rev(&self) -> u64 {
        self.state.rev
    }

    /// Position, chain and digest at this revision.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// A cursor over the rows of the subtree at `path`.
    pub fn cursor(&self, path: &Path) -> StoreCursor<'_> {
        self.store.cursor(&self.read.txn, &path.encode())
    }

    /// A cursor over the rows of the subtree at the encoded path `key`.
    pub(crate) fn cursor_at(&self, key: &[u8]) -> StoreCursor<'_> {
        self.store.cursor(&self.read.txn, key)
    }

    /// The leaf whose row has the encoded path `key`; `None` where nothing is, or a node. The quickest
    /// read there is: one search, no copy.
    pub fn leaf(&self, key: &[u8]) -> Result<Option<Leaf<'_>>> {
        let value = self.store.tree.get(&self.read.txn, &row(key))?;
        Ok(value.and_then(Leaf::decode))
    }

    /// Is there anything at or below the encoded path `key`?
    pub fn holds(&self, key: &[u8]) -> Result<bool> {
        let row = row(key);
        let found = self.store.tree.get_greater_than_or_equal_to(&self.read.txn, &row)?;
        Ok(found.is_some_and(|(found, _)| found.starts_with(&row)))
    }

    /// The stored rules text, if any.
    pub fn rules(&self) -> Result<Option<String>> {
        self.store.rules(&self.read.txn)
    }

    /// The rules that a read of this snapshot goes by: the newest, and never older ones than the
    /// snapshot's own.
    pub(crate) fn rules_in_force(&self) -> Result<Guard<Arc<Rules>>> {
        let rules = self.store.active_rules();
        if rules.version >= self.state.rules_version {
            return Ok(rules);
        }
        // Between their commit and their being put in force.
        let text = self.rules()?.unwrap_or_default();
        Ok(Guard::from_inner(Arc::new(Rules::stored(self.state.rules_version, &text))))
    }

    /// The indexes that this snapshot has; `None` while the rules change.
    pub(crate) fn indexes(&self) -> Option<Guard<Arc<Rules>>> {
        Some(self.store.active_rules()).filter(|rules| rules.version == self.state.rules_version)
    }

    pub(crate) fn txn(&self) -> &RoTxn<'static, WithoutTls> {
        &self.read.txn
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }
}

/// [`keys::tree_key`] on the stack.
fn row(key: &[u8]) -> SmallVec<[u8; 128]> {
    let mut row = SmallVec::with_capacity(key.len() + 1);
    row.push(keys::TREE_PREFIX);
    row.extend_from_slice(key);
    row
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use standpipe_tree::{Location, ParseLimits, parse_rest, parse_value};

    use super::*;
    use crate::{Database, Identity, Intent, LocalLog, Op, query_keys};

    fn open(config: &EngineConfig) -> Arc<Database> {
        Database::open("default", config, Box::new(LocalLog), Arc::new(|why| panic!("{why}"))).unwrap()
    }

    /// A folder as format 1 left it: no index, and a state without what format 2 added.
    fn make_format_1(config: &EngineConfig) {
        let store = Store::open(&config.dir.join("default"), StoreOptions::of(config)).unwrap();
        let mut write = store.write().unwrap();
        let mut state = store.meta.get(&write.txn, STATE_KEY).unwrap().unwrap().to_vec();
        state.truncate(state.len() - 16);
        state[..4].copy_from_slice(&1u32.to_le_bytes());
        store.meta.put(&mut write.txn, STATE_KEY, &state).unwrap();
        store.index.clear(&mut write.txn).unwrap();
        write.commit().unwrap();
    }

    #[test]
    fn a_folder_of_format_1_is_upgraded_when_it_is_opened() {
        for rules in [None, Some(r#"{"rules": {".read": true, "log": {".indexOn": "n"}}}"#)] {
            let dir = tempfile::tempdir().unwrap();
            let config = EngineConfig { map_bytes_initial: 16 << 20, ..EngineConfig::new(dir.path()) };
            let database = open(&config);
            let write = |op| {
                let deadline = Instant::now() + Duration::from_secs(60);
                database.write_blocking(Intent::new(op, Identity::Admin), deadline).unwrap()
            };
            let json = br#"{"log":{"a":{"n":2,".priority":7},"b":{"n":1}}}"#;
            let rows = parse_value(json, &ParseLimits::below(&Path::root())).unwrap();
            write(Op::Set { location: Location::Node(Path::root()), rows });
            if let Some(text) = rules {
                write(Op::Rules(text.into()));
            }
            let state = database.try_snapshot().unwrap().state().clone();
            database.close();
            drop(database);
            make_format_1(&config);
            let database = open(&config);
            let snapshot = database.try_snapshot().unwrap();
            assert_eq!(snapshot.state(), &state);
            snapshot.verify().unwrap();
            let by_n = parse_rest(&[("orderBy", "\"n\""), ("limitToFirst", "1")]).unwrap().unwrap();
            let looked_at = if rules.is_some() { 1 } else { 2 };
            let keys = query_keys(&snapshot, &Path::parse("log").unwrap(), &by_n, looked_at).unwrap();
            assert_eq!(keys, ["b".into()]);
            let anonymous = database.check_read(&snapshot, &Identity::Anonymous, &Path::root(), None);
            assert_eq!(anonymous.is_ok(), rules.is_some());
        }
    }

    #[test]
    fn stored_rules_that_do_not_compile_let_only_administrators_in() {
        let dir = tempfile::tempdir().unwrap();
        let config =
            EngineConfig { access: crate::Access::Open, map_bytes_initial: 16 << 20, ..EngineConfig::new(dir.path()) };
        drop(open(&config));
        let store = Store::open(&dir.path().join("default"), StoreOptions::of(&config)).unwrap();
        let mut write = store.write().unwrap();
        let state = State { rules_version: 1, ..store.state(&write.txn).unwrap() };
        store.put_rules(&mut write.txn, r#"{"rules": {".read": "from another version"}}"#).unwrap();
        store.put_state(&mut write.txn, &state).unwrap();
        write.commit().unwrap();
        drop(store);
        let database = open(&config);
        let snapshot = database.try_snapshot().unwrap();
        assert!(database.check_read(&snapshot, &Identity::Anonymous, &Path::root(), None).is_err());
        assert!(database.check_unruled(&Identity::Anonymous).is_err());
        database.check_read(&snapshot, &Identity::Admin, &Path::root(), None).unwrap();
        assert!(database.rules().is_none());
    }
}
