//! What the engine is told at start. Plain values with units in their names; the binary maps
//! its `[limits]` and `[engine]` tables to these, the engine reads no file and no environment.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::Clock;
use crate::identity::Access;

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After its commit is synced to disk.
    #[default]
    Commit,
    /// After its commit, synced every so often. A power cut may lose the last interval; the
    /// store stays whole only where the file system keeps the order of writes.
    Interval(Duration),
}

/// What becomes of a query that would look at every child, because no index is declared for its order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueryUnindexed {
    /// Refused where rules were put, which could declare the index; answered where none were.
    #[default]
    Auto,
    /// Answered, up to `query_children_max` children.
    Allow,
    /// Refused.
    Refuse,
}

/// Which databases exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Databases {
    /// Any valid name exists on first use (`standpipe dev`).
    OnDemand,
    /// Only these; the first is the default (`standpipe serve`).
    Named(Vec<String>),
}

/// The settings in force, shared by an engine and its databases: who needs one reads it at the
/// moment of use, so a reload is one pointer swap.
pub(crate) type Shared = Arc<ArcSwap<EngineConfig>>;

/// Settings of one engine. What is a limit can change while it is open: [`crate::Engine::reload`].
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The data folder: one folder per database below it.
    pub dir: PathBuf,
    /// Which databases exist.
    pub databases: Databases,
    /// The database that requests without a usable name go to.
    pub default_database: String,
    /// How many databases may be open.
    pub databases_max: usize,
    /// When a write is acknowledged.
    pub durability: Durability,
    /// What is allowed where no rules were ever put.
    pub access: Access,
    /// Rules put into every database as it is opened, whatever rules it had. A text that does not compile is
    /// refused, and so is the database.
    pub rules_at_open: Option<Arc<str>>,
    /// Whether a refusal by rules says which rule and why ([`crate::Error::denial`]): for development, since
    /// it tells of data that the caller may not see.
    pub trace_denials: bool,
    /// What becomes of a query in an order that the rules declare no index for.
    pub query_unindexed: QueryUnindexed,
    /// Address space reserved for each database at open; grows by doubling.
    pub map_bytes_initial: usize,
    /// A database's map never grows beyond this; writes are then refused, reads go on.
    pub map_bytes_max: usize,
    /// Snapshots open at once, per database.
    pub readers_max: u32,
    /// Writes waiting for the writer, per database.
    pub writer_queue_intents_max: usize,
    /// Bytes of writes waiting for the writer, per database.
    pub writer_queue_bytes_max: usize,
    /// Writes in one commit.
    pub group_intents_max: usize,
    /// Bytes of writes in one commit (a single larger write is a group of its own).
    pub group_bytes_max: usize,
    /// Changes kept in memory for each watched path.
    pub ring_events_max: usize,
    /// Bytes of changes kept in memory for each watched path.
    pub ring_bytes_max: usize,
    /// The kept tail: bytes of records kept for resume.
    pub changes_bytes_max: u64,
    /// The kept tail: age of records kept for resume.
    pub changes_age_max: Duration,
    /// Children a query may scan, and a query watch may hold.
    pub query_children_max: usize,
    /// Locations one lease may arm.
    pub lease_locations_max: usize,
    /// Bytes one lease may arm.
    pub lease_bytes_max: usize,
    /// Streams: bytes kept of each, as stored; the oldest go first.
    pub stream_bytes_max: u64,
    /// Streams: age of what is kept.
    pub stream_age_max: Duration,
    /// Streams: bytes of one record.
    pub stream_record_bytes_max: usize,
    /// Streams: bytes of the newest chunks kept in memory of each stream that is watched, and as many of those that
    /// watchers further behind have read back.
    pub stream_ring_bytes_max: usize,
    /// Streams: bytes of the newest chunks kept in memory of all streams.
    pub streams_ring_bytes_max: usize,
    /// Streams: bytes of records that wait for their commit; one stream may have a quarter of them.
    pub streams_queue_bytes_max: usize,
    /// Where record times come from.
    pub clock: Clock,
}

impl EngineConfig {
    pub(crate) fn shared(self) -> Shared {
        Arc::new(ArcSwap::from_pointee(self))
    }

    /// These settings under the limits of `other`.
    pub(crate) fn with_limits_of(&self, other: &Self) -> Self {
        Self {
            dir: self.dir.clone(),
            databases: self.databases.clone(),
            default_database: self.default_database.clone(),
            durability: self.durability,
            access: self.access,
            rules_at_open: self.rules_at_open.clone(),
            trace_denials: self.trace_denials,
            query_unindexed: self.query_unindexed,
            map_bytes_initial: self.map_bytes_initial,
            readers_max: self.readers_max,
            clock: self.clock.clone(),
            ..other.clone()
        }
    }

    /// Defaults for a data folder: locked, durable, one database named `default`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            databases: Databases::Named(vec!["default".into()]),
            default_database: "default".into(),
            databases_max: 1_000,
            durability: Durability::Commit,
            access: Access::Locked,
            rules_at_open: None,
            trace_denials: false,
            query_unindexed: QueryUnindexed::default(),
            map_bytes_initial: 16 << 30,
            map_bytes_max: 1 << 40,
            readers_max: 4_096,
            writer_queue_intents_max: 16_384,
            writer_queue_bytes_max: 512 << 20,
            group_intents_max: 1_024,
            group_bytes_max: 16 << 20,
            ring_events_max: 256,
            ring_bytes_max: 4 << 20,
            changes_bytes_max: 64 << 20,
            changes_age_max: Duration::from_secs(86_400),
            query_children_max: 1_000_000,
            lease_locations_max: 1_000,
            lease_bytes_max: 16 << 20,
            stream_bytes_max: 256 << 20,
            stream_age_max: Duration::from_secs(30 * 86_400),
            stream_record_bytes_max: 1 << 20,
            stream_ring_bytes_max: 8 << 20,
            streams_ring_bytes_max: 256 << 20,
            streams_queue_bytes_max: 64 << 20,
            clock: Clock::System,
        }
    }
}
