//! The live sessions by name: a client that comes back ends its session before (`ls=`), so that what that
//! one was to leave behind is done before anything new, and a session can be found to move to another transport.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use standpipe_engine::Database;
use standpipe_serve::{CloseReason, Session};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long a new session waits for the end of the one before it.
const END_WITHIN: Duration = Duration::from_secs(2);

/// Bytes of randomness in a session's name.
const ID_BYTES: usize = 18;

/// All sessions of the node, by name; a handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions(Arc<Mutex<HashMap<Box<str>, Live>>>);

#[derive(Debug)]
struct Live {
    session: Session,
    database: Arc<Database>,
    ended: CancellationToken,
}

/// A session's place among the live ones; dropping it tells the end.
#[derive(Debug)]
pub(crate) struct Entry {
    sessions: Sessions,
    id: Box<str>,
    _ended: DropGuard,
}

/// A name that nobody can guess.
pub(crate) fn new_id() -> String {
    let mut bytes = [0; ID_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has random numbers");
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Sessions {
    /// Enters a session.
    pub(crate) fn enter(&self, id: &str, session: &Session, database: &Arc<Database>) -> Entry {
        let ended = CancellationToken::new();
        let live = Live { session: session.clone(), database: database.clone(), ended: ended.clone() };
        self.0.lock().insert(id.into(), live);
        Entry { sessions: self.clone(), id: id.into(), _ended: ended.drop_guard() }
    }

    /// Ends the session `id` of the same database, if it lives, and waits until it has; false when there is none.
    pub(crate) async fn end(&self, id: &str, database: &Arc<Database>) -> bool {
        let ended = {
            let live = self.0.lock();
            let Some(live) = live.get(id).filter(|live| Arc::ptr_eq(&live.database, database)) else { return false };
            // Its peer is the one that comes here now, so the old connection leads nowhere.
            live.session.close(CloseReason::PeerVanished);
            live.ended.clone()
        };
        timeout(END_WITHIN, ended.cancelled()).await.is_ok()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.sessions.0.lock().remove(&self.id);
    }
}
