//! The line door: the tree for people with `nc` and for shells (spec serving §5). A line is a command,
//! its answer is a line; what is watched is told in lines between them. `line/table.rs` lists the
//! commands. Bytes, order, deadlines and accounting are the driver's (`commands/`).

mod client;
mod connection;
mod data;
mod streams;
mod table;
mod watches;
mod words;

use std::sync::Arc;
use std::time::Instant;

use standpipe_serve::{CloseReason, Conn, Door, Refusal, Session};

use self::client::Client;
pub use self::table::page;
use crate::auth::Credentials;
use crate::dispatch::Dispatch;
use crate::{commands, fault};

/// The line door.
#[derive(Clone, Debug)]
pub struct LineDoor {
    shared: Arc<Shared>,
}

/// What all clients of the door share.
#[derive(Debug)]
struct Shared {
    dispatch: Dispatch,
    credentials: Credentials,
    started: Instant,
}

impl LineDoor {
    /// A door over `dispatch`.
    pub fn new(dispatch: Dispatch, credentials: Credentials) -> Self {
        Self { shared: Arc::new(Shared { dispatch, credentials, started: Instant::now() }) }
    }
}

impl Door for LineDoor {
    fn name(&self) -> &'static str {
        "line"
    }

    async fn serve(&self, conn: Conn, session: Session) -> CloseReason {
        match Client::new(self.shared.clone()) {
            Ok(client) => commands::serve(conn, session, client).await,
            Err(error) => {
                commands::refuse(conn, fault::line_text(&error).as_bytes()).await;
                CloseReason::Internal
            }
        }
    }

    async fn refuse(&self, conn: Conn, refusal: Refusal) {
        commands::refuse(conn, fault::line_text(&crate::dispatch::refused(refusal)).as_bytes()).await;
    }
}
