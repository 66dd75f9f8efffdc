//! The durable tree: a store of values in LMDB, one writer per database with group commit, a
//! log of records, and a hub that watchers follow. Beside them streams: append-only sequences of records,
//! such as a process's output, with an environment and a writer of their own.
//!
//! The promises, each with tests: an acknowledged write is on disk; a crash leaves a prefix of
//! the groups that holds every acknowledged write, and opening needs no repair; every watcher
//! sees every change once, in order, or is told to start again.
//!
//! It knows no door, session, status code or socket, reads no configuration file and no
//! environment.

mod apply;
mod backup;
mod bytes;
mod clock;
mod config;
mod database;
mod decide;
mod engine;
mod error;
mod fault;
mod feed;
mod hub;
mod identity;
mod index;
mod intent;
mod lease;
mod log;
mod metrics;
mod queue;
mod random;
mod record;
mod rules;
mod store;
mod streams;
mod view;
mod watch;
mod window;
mod writer;

pub use crate::apply::row_digest;
pub use crate::backup::{Verified, restore, verify};
pub use crate::clock::Clock;
pub use crate::config::{Databases, Durability, EngineConfig, QueryUnindexed};
pub use crate::database::Database;
pub use crate::engine::{Engine, check_name, database_names, folder_name, name_of};
pub use crate::error::{Error, ErrorKind, Result};
pub use crate::feed::{Delivery, Feed, Slot};
pub use crate::hub::TopicEvent;
pub use crate::identity::{Access, Identity, User};
pub use crate::intent::{Committed, Compute, Condition, Intent, Op};
pub use crate::lease::{Lease, LeaseId};
pub use crate::log::{Append, LocalLog, Log, LogError, SimFaults, SimLog};
pub use crate::metrics::DatabaseStats;
pub use crate::random::random_token;
pub use crate::record::{Effect, Encoded, Record, Transaction};
pub use crate::store::{FORMAT, Snapshot, State, StoreCursor};
pub use crate::streams::{
    Appender, Channel, Chunk, FORMS, From, Head, NewRecord, Outcome, StreamRead, StreamStats, StreamWatch, Streams,
    StreamsVerified, verify_streams,
};
pub use crate::view::View;
pub use crate::watch::{ResetReason, Resume, Watch, WatchRead, resume};
pub use crate::window::{Touched, Window, query_keys};
pub use crate::writer::OnFatal;
