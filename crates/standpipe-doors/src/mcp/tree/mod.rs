//! The tree as an MCP server: the same tree, rules, limits and revisions as at every other door, in both eras of the protocol.
//!
//! What a message is, and what an answer is, are `rmcp`'s types; a request is taken from its message to its method here, and not by
//! `rmcp`'s service (ADR 16). One file for each group of methods: `server.rs` (who we are), `tools/`, `resources.rs`, `complete.rs`.
//! No socket, HTTP status or line of text is known here: doors bring messages and take answers.

mod answer;
mod complete;
mod look;
mod methods;
mod path;
mod request;
mod resources;
mod server;
mod subscriptions;
mod tasks;
#[cfg(test)]
mod tests;
mod tools;
mod watching;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use standpipe_mcp::{Caller, Conversation, LegacyServer, Metrics, ModernServer, Outlet};
use standpipe_runs::Runs;
use standpipe_serve::{OnFailure, OnShutdown, Shutdown, TaskKind};
use standpipe_wire::jsonrpc::Message;
use tokio_util::sync::CancellationToken;

use self::request::{Legacy, Request};
use self::subscriptions::Seats;
use crate::Dispatch;

/// A call that is at work. At shutdown it is waited for, until the drain time is over.
const CALL: TaskKind = TaskKind { name: "a call of MCP", on_failure: OnFailure::Log, on_shutdown: OnShutdown::Wait };

/// What of the tree is served.
#[derive(Clone, Debug, Default)]
pub struct TreeOptions {
    /// Nothing may be written, and no run started.
    pub read_only: bool,
    /// The environment of a command whose call brings none.
    pub env: BTreeMap<String, String>,
    /// Where it is counted that a limit was reached.
    pub metrics: Metrics,
}

/// The tree as an MCP server; a handle that is cheap to clone.
#[derive(Clone)]
pub struct TreeServer(Arc<Tree>);

/// What all calls share.
pub(crate) struct Tree {
    pub(crate) dispatch: Dispatch,
    pub(crate) runs: Option<Arc<Runs>>,
    pub(crate) options: TreeOptions,
    seats: Arc<Seats>,
    pub(crate) shutdown: Shutdown,
}

impl fmt::Debug for TreeServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TreeServer").field("options", &self.0.options).finish_non_exhaustive()
    }
}

impl TreeServer {
    /// Serves the tree of `dispatch`, and `runs` where they are on; calls are tasks of `shutdown`.
    pub fn new(dispatch: Dispatch, runs: Option<Arc<Runs>>, options: TreeOptions, shutdown: Shutdown) -> Self {
        Self(Arc::new(Tree { dispatch, runs, options, seats: Arc::default(), shutdown }))
    }
}

impl Tree {
    /// Has a request answered; `cancelled` ends it without an answer.
    fn begin(self: &Arc<Self>, request: Request, cancelled: impl Future<Output = ()> + Send + 'static) {
        let tree = self.clone();
        self.shutdown.spawn(CALL, async move {
            tokio::select! {
                biased;
                () = cancelled => {}
                answer = methods::answer(&tree, &request) => {
                    // Who is not there any more needs no answer.
                    let _gone = request.to.send(answer);
                }
            }
        });
    }
}

impl ModernServer for TreeServer {
    fn call(&self, caller: Caller, request: Message, to: Outlet) {
        match Request::modern(caller, &request, &to) {
            Ok(request) => self.0.begin(request, async move { to.gone().await }),
            Err(fault) => {
                let _gone = to.send(fault.answer(request.id()));
            }
        }
    }
}

impl LegacyServer for TreeServer {
    fn open(&self, _caller: &Caller, initialize: Message, to: Outlet, news: Outlet) -> Arc<dyn Conversation> {
        let (legacy, answer) = server::initialize(&self.0, &initialize, news);
        if answer.is_error() {
            legacy.ended.cancel();
        }
        let _gone = to.send(answer);
        Arc::new(Talk { tree: self.0.clone(), legacy: Arc::new(legacy), calls: Arc::default() })
    }
}

/// A legacy session with the tree.
struct Talk {
    tree: Arc<Tree>,
    legacy: Arc<Legacy>,
    calls: Arc<Calls>,
}

impl fmt::Debug for Talk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Talk").field("version", &self.legacy.version).finish_non_exhaustive()
    }
}

/// The calls of a session that are at work, by the id that the client gave them.
#[derive(Default)]
struct Calls(Mutex<HashMap<Bytes, CancellationToken>>);

/// A call's place among them, for as long as it is at work.
struct Place {
    calls: Arc<Calls>,
    id: Bytes,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.calls.0.lock().remove(&self.id);
    }
}

impl Conversation for Talk {
    fn call(&self, caller: &Caller, request: Message, to: Outlet) {
        let Some(id) = request.id_bytes() else { return };
        self.legacy.subscriptions.seen(caller);
        let cancelled = self.legacy.ended.child_token();
        if self.calls.0.lock().insert(id.clone(), cancelled.clone()).is_some() {
            // Two calls with one id: the client can't tell their answers apart, nor can a cancellation.
            tracing::debug!("two calls of one session have the same id");
        }
        let place = Place { calls: self.calls.clone(), id };
        let request = Request::legacy(caller.clone(), &request, &to, self.legacy.clone());
        match request {
            Ok(request) => self.tree.begin(request, async move {
                let _place = place;
                cancelled.cancelled().await;
            }),
            Err((id, fault)) => {
                let _gone = to.send(fault.answer(id.as_deref()));
            }
        }
    }

    fn tell(&self, _caller: &Caller, message: Message) {
        if message.method() != Some("notifications/cancelled") {
            return;
        }
        let Ok(Some(id)) = message.at(&["requestId"]) else { return };
        let id = message.slice(id);
        if let Some(cancelled) = self.calls.0.lock().get(id) {
            cancelled.cancel();
        }
    }

    fn ended(&self) -> BoxFuture<'static, ()> {
        let ended = self.legacy.ended.clone();
        Box::pin(async move { ended.cancelled().await })
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.legacy.ended.cancel();
    }
}
