//! The RESP door: redis clients read, write and watch the tree. Keys are paths (`keys.rs`), commands
//! are functions of the tree they look at (`table.rs` lists them), transactions are one commit of the
//! writer, and what is neither data nor protocol is what `COMMAND` does not list. Reading, sending, deadlines and
//! order are the driver's (`commands/`).

mod bus;
mod call;
mod client;
mod glob;
mod hashes;
mod json;
mod keys;
mod keyspace;
mod lease;
mod multi;
mod pubsub;
mod reply;
mod scan;
mod server;
mod streams;
mod strings;
mod table;

use std::sync::Arc;
use std::time::Instant;

use standpipe_serve::{CloseReason, Conn, Door, Refusal, Session};

use self::bus::Bus;
use self::client::Client;
pub use self::keys::Separator;
use self::scan::Cursors;
pub use self::table::page;
use crate::auth::Credentials;
use crate::dispatch::Dispatch;
use crate::{commands, fault};

/// The RESP door.
#[derive(Clone, Debug)]
pub struct RespDoor {
    shared: Arc<Shared>,
}

/// What all clients of the door share.
#[derive(Debug)]
struct Shared {
    dispatch: Dispatch,
    credentials: Credentials,
    separator: Separator,
    cursors: Arc<Cursors>,
    bus: Bus,
    started: Instant,
}

impl RespDoor {
    /// A door over `dispatch`; `separator` is what divides keys into paths.
    pub fn new(dispatch: Dispatch, credentials: Credentials, separator: Separator) -> Self {
        let shared = Shared {
            dispatch,
            credentials,
            separator,
            cursors: Arc::default(),
            bus: Bus::default(),
            started: Instant::now(),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl Door for RespDoor {
    fn name(&self) -> &'static str {
        "resp"
    }

    async fn serve(&self, conn: Conn, session: Session) -> CloseReason {
        match Client::new(self.shared.clone()) {
            Ok(client) => commands::serve(conn, session, client).await,
            Err(error) => {
                commands::refuse(conn, &fault::resp_line(&error)).await;
                CloseReason::Internal
            }
        }
    }

    async fn refuse(&self, conn: Conn, refusal: Refusal) {
        commands::refuse(conn, &fault::resp_line(&crate::dispatch::refused(refusal))).await;
    }
}
