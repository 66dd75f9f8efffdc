//! The serving core of Standpipe: one mechanism for every peer and every protocol.
//!
//! It owns listeners, admission, sessions, the fair queue and its worker pool, deadlines, events,
//! metrics and shutdown. It knows no tree, no HTTP and no engine: a [`Door`] brings the protocol
//! and hands blocking work to [`Session::run`], the only road to a worker.
//!
//! ```text
//! accept → permits → Session → Door::serve → one CloseReason → everything returned
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod admission;
mod budget;
mod class;
mod close;
mod core;
mod deadline;
mod door;
mod events;
mod histogram;
mod limits;
mod listener;
mod metrics;
mod pool;
mod queue;
mod rates;
mod registry;
mod request;
mod server;
mod session;
mod shutdown;
mod socket;
mod status;
mod sync;
#[cfg(test)]
mod tests;

pub use crate::admission::{BytesPermit, Refusal, WatchPermit};
pub use crate::class::{Class, Cost};
pub use crate::close::CloseReason;
pub use crate::deadline::Deadline;
pub use crate::door::Door;
pub use crate::events::{Event, Events, Observed, Origin};
pub use crate::limits::{Limits, LimitsError, LimitsHandle};
pub use crate::listener::{Conn, ConnIo, Listener, Peer};
pub use crate::metrics::{Metrics, Reloaded, Snapshot};
pub use crate::registry::{SessionInfo, SessionState};
pub use crate::request::{Outcome, RequestGuard};
pub use crate::server::{Server, ServerConfig, StartError};
pub use crate::session::{JobError, Session};
pub use crate::shutdown::{OnFailure, OnShutdown, Shutdown, Stopped, TaskKind};
pub use crate::socket::{BindError, SocketListener};
pub use crate::status::{ClassStatus, DoorStatus, SlowPeer, Spread, Status, Tally, WorkerStatus};
