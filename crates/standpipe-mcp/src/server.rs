//! What answers messages: the traits between doors, layers, bridges and upstreams.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use standpipe_wire::jsonrpc::Message;

use crate::{Caller, Outlet};

/// Answers requests of the modern era (2026-07-28), each of which stands alone.
pub trait ModernServer: fmt::Debug + Send + Sync {
    /// Takes a request; never waits. Its notifications and then its reply go to `to`; `to` is dropped without a reply only after the
    /// caller has left. The caller's leaving ([`Outlet::on_gone`]) cancels the request.
    fn call(&self, caller: Caller, request: Message, to: Outlet);
}

/// Opens sessions of the legacy era (2025-11-25 and before).
pub trait LegacyServer: fmt::Debug + Send + Sync {
    /// Opens a session with the request `initialize`; never waits. The reply goes to `to`; what belongs to no call goes to `news`, as long as the
    /// session lives. A session whose `initialize` is answered with an error has ended.
    fn open(&self, caller: &Caller, initialize: Message, to: Outlet, news: Outlet) -> Arc<dyn Conversation>;
}

/// One session of the legacy era, seen from the client. Dropping the last handle ends it.
pub trait Conversation: fmt::Debug + Send + Sync {
    /// Takes a request; never waits. Its progress, requests that the server makes because of it, and its reply go to `to`. A caller that leaves
    /// cancels nothing by that: who wants the call to end sends `notifications/cancelled`, after which `to` is dropped without a reply.
    fn call(&self, caller: &Caller, request: Message, to: Outlet);

    /// Takes a notification, or the answer to a request of the server.
    fn tell(&self, caller: &Caller, message: Message);

    /// Resolves when the session has ended from the other side; every call has had its answer by then.
    fn ended(&self) -> BoxFuture<'static, ()>;
}

/// What a door serves: it speaks both eras.
pub trait Server: ModernServer + LegacyServer {}

impl<T: ModernServer + LegacyServer> Server for T {}
