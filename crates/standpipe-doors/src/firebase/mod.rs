//! The Firebase door: sessions of the Realtime Database protocol (firebase-rtdb §4 to §7, §12), which ride
//! on the HTTP door's port. A [`session`] knows no transport; a [`session::Link`] carries its messages, over a
//! [`websocket`] or by long polling ([`poll`]).

mod listens;
mod poll;
pub(crate) mod poll_http;
mod poll_move;
pub(crate) mod registry;
mod request;
pub(crate) mod session;
pub(crate) mod websocket;

use std::sync::Arc;

use standpipe_engine::Database;

pub(crate) use self::poll::Polls;
pub(crate) use self::registry::Sessions;
use crate::auth::Credentials;
use crate::dispatch::Dispatch;

/// What a session is about, beside the link that carries it.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) dispatch: Dispatch,
    pub(crate) credentials: Credentials,
    pub(crate) database: Arc<Database>,
    /// The host and port that the client used: what it is told in the hello, and connects to from then on.
    pub(crate) host: String,
    /// The session's name: opaque, and nobody can guess it ([`registry::new_id`]).
    pub(crate) id: String,
    /// The client's session before this one; it ends now, whatever became of its connection.
    pub(crate) last_session: Option<String>,
    /// All sessions of the node.
    pub(crate) sessions: Sessions,
}
