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
#[cfg(target_os = "linux")]
mod fifo;
mod histogram;
#[cfg(target_os = "linux")]
mod keeper;
#[cfg(target_os = "linux")]
mod lease_file;
mod limits;
mod listener;
mod metrics;
#[cfg(test)]
mod model;
#[cfg(target_os = "linux")]
mod opens;
mod pool;
mod queue;
mod rates;
mod registry;
mod request;
mod server;
mod session;
mod shutdown;
mod socket;
#[cfg(target_os = "linux")]
mod spot;
mod status;
mod stdio;
mod sync;
#[cfg(target_os = "linux")]
mod sys;
#[cfg(test)]
mod tests;
mod tls;

pub use crate::admission::{BytesPermit, Refusal, WatchPermit};
pub use crate::class::{Class, Cost};
pub use crate::close::CloseReason;
pub use crate::deadline::Deadline;
pub use crate::door::Door;
pub use crate::events::{Event, Events, Observed, Origin};
#[cfg(target_os = "linux")]
pub use crate::fifo::{FifoConn, FifoListener};
pub use crate::histogram::{Counts, Histogram};
#[cfg(target_os = "linux")]
pub use crate::lease_file::{LeaseConn, LeaseFileListener};
pub use crate::limits::{Limits, LimitsError, LimitsHandle};
pub use crate::listener::{Conn, ConnIo, Listener, Peer};
pub use crate::metrics::{Metrics, Reloaded, Snapshot};
pub use crate::registry::{SessionInfo, SessionState};
pub use crate::request::{Outcome, RequestGuard};
pub use crate::server::{Server, ServerConfig, StartError};
pub use crate::session::{JobError, Session};
pub use crate::shutdown::{OnFailure, OnShutdown, Shutdown, Stopped, TaskKind};
pub use crate::socket::{BindError, SocketListener};
#[cfg(target_os = "linux")]
pub use crate::spot::PipeError;
pub use crate::status::{ClassStatus, DoorStatus, SlowPeer, Spread, Status, Tally, WorkerStatus};
pub use crate::stdio::{StdioConn, StdioEnd, StdioListener};
pub use crate::tls::{Tls, TlsConn, TlsError, TlsFiles};
