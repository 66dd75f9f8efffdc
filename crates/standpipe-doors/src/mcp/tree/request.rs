//! A request on its way through the tree server: who asks, in which era, and what its parameters are.

use std::sync::Arc;

use bytes::Bytes;
use rmcp::model::ClientCapabilities;
use serde::Deserialize;
use standpipe_engine::{Database, Error, Identity};
use standpipe_mcp::era::{META_CAPABILITIES, Meta};
use standpipe_mcp::fault::INVALID_PARAMS;
use standpipe_mcp::{Caller, Fault, Outlet};
use standpipe_serve::{Deadline, Session};
use standpipe_wire::jsonrpc::Message;
use tokio_util::sync::CancellationToken;

use super::Tree;
use super::subscriptions::Subscriptions;

/// One request.
pub(crate) struct Request {
    /// Who asks.
    pub(crate) caller: Caller,
    /// The request as it came.
    pub(crate) message: Message,
    /// Where its progress and its answer go.
    pub(crate) to: Outlet,
    /// The legacy session it belongs to; `None` is a modern request.
    pub(crate) legacy: Option<Arc<Legacy>>,
    /// What progress is told under: JSON.
    progress_token: Option<Bytes>,
}

/// What a legacy session has agreed on.
pub(crate) struct Legacy {
    /// The version of the protocol.
    pub(crate) version: &'static str,
    /// What the client is capable of.
    pub(crate) capabilities: ClientCapabilities,
    /// Where goes what belongs to no call.
    pub(crate) news: Outlet,
    /// What it is told about.
    pub(super) subscriptions: Subscriptions,
    /// The session is over.
    pub(crate) ended: CancellationToken,
}

impl Request {
    /// A request of the modern era.
    pub(super) fn modern(caller: Caller, message: &Message, to: &Outlet) -> Result<Self, Fault> {
        let meta = Meta::of(message)?;
        meta.check_modern()?;
        Ok(Self::new(caller, message, to, None, meta))
    }

    /// A request of a legacy session; with a failure comes the id of what failed.
    pub(super) fn legacy(
        caller: Caller,
        message: &Message,
        to: &Outlet,
        legacy: Arc<Legacy>,
    ) -> Result<Self, (Option<Bytes>, Fault)> {
        let meta = Meta::of(message).map_err(|fault| (message.id_bytes(), fault))?;
        Ok(Self::new(caller, message, to, Some(legacy), meta))
    }

    fn new(caller: Caller, message: &Message, to: &Outlet, legacy: Option<Arc<Legacy>>, meta: Meta<'_>) -> Self {
        let progress_token = meta.progress_token.map(|token| message.bytes().slice_ref(token.get().as_bytes()));
        Self { caller, message: message.clone(), to: to.clone(), legacy, progress_token }
    }

    /// Is it of the modern era?
    pub(crate) fn is_modern(&self) -> bool {
        self.legacy.is_none()
    }

    /// The connection it came over.
    pub(crate) fn session(&self) -> &Session {
        &self.caller.session
    }

    /// As whom the rules see the caller.
    pub(crate) fn identity(&self) -> &Identity {
        &self.caller.identity
    }

    /// When its answer is worth nothing any more.
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::after(self.session().limits().request_ms_max)
    }

    /// The database that is served.
    pub(crate) fn database(&self, tree: &Tree) -> Result<Arc<Database>, Error> {
        let database = tree.dispatch.database(None)?;
        database.check_entry(self.identity())?;
        Ok(database)
    }

    /// What the client is capable of.
    pub(crate) fn capabilities(&self) -> ClientCapabilities {
        match &self.legacy {
            Some(legacy) => legacy.capabilities.clone(),
            // What can't be read declares nothing.
            None => {
                let at = self.message.at(&["_meta", META_CAPABILITIES]).ok().flatten();
                at.and_then(|at| serde_json::from_slice(self.message.slice(at)).ok()).unwrap_or_default()
            }
        }
    }

    /// The parameters, which may be left out where nothing in them is required.
    ///
    /// # Errors
    /// -32602, with what is wrong with them.
    pub(crate) fn params<'m, T: Deserialize<'m>>(&'m self) -> Result<T, Fault> {
        serde_json::from_slice(self.message.body_bytes().unwrap_or(b"{}")).map_err(|error| invalid(&error))
    }

    /// Refuses what the credential is not for.
    ///
    /// # Errors
    /// 4030, with the scope that is needed.
    pub(crate) fn need(&self, scope: &str) -> Result<(), Fault> {
        if self.caller.scopes.allow(scope) {
            return Ok(());
        }
        Err(Fault::scopes(scope))
    }

    /// Whether the client wants to be told of progress.
    pub(crate) fn wants_progress(&self) -> bool {
        self.progress_token.is_some()
    }

    /// Tells of progress, if that is wanted. `progress` grows from one to the next.
    pub(crate) fn progress(&self, progress: u64, total: Option<u64>, text: &str) {
        let Some(token) = &self.progress_token else { return };
        let mut params = b"{\"progressToken\":".to_vec();
        params.extend_from_slice(token);
        params.extend_from_slice(format!(",\"progress\":{progress}").as_bytes());
        if let Some(total) = total {
            params.extend_from_slice(format!(",\"total\":{total}").as_bytes());
        }
        params.extend_from_slice(b",\"message\":");
        standpipe_tree::write_json_string(text, &mut params);
        params.push(b'}');
        // Who has left is noticed where it is waited for.
        let _gone = self.to.send(Message::notification("notifications/progress", &params));
    }
}

/// The refusal of parameters that are not what they must be.
pub(super) fn invalid(error: &serde_json::Error) -> Fault {
    Fault::new(INVALID_PARAMS, format!("invalid params: {error}"))
}
