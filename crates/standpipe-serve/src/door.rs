//! What a protocol is to the serving core.

use std::future::Future;

use crate::{CloseReason, Conn, Refusal, Session};

/// A protocol server: decodes, dispatches, encodes. It sets no limit, spawns no thread and counts
/// nothing that the core counts.
pub trait Door: Send + Sync + 'static {
    /// Stable name for metrics, logs and permits.
    fn name(&self) -> &'static str;

    /// Serves one connection to its end. When [`Session::closing`] resolves it says goodbye in its
    /// protocol, lets open requests end and returns; what is left after `drain_ms` is dropped.
    fn serve(&self, conn: Conn, session: Session) -> impl Future<Output = CloseReason> + Send;

    /// Tells a peer, in its protocol, why it is not served. Dropped after `refusal_ms_max`.
    fn refuse(&self, conn: Conn, refusal: Refusal) -> impl Future<Output = ()> + Send;
}
