//! Between the eras (spec mcp §4.3): [`Down`] lets modern clients use a legacy server, [`Up`] lets legacy clients use a modern one. Both work on
//! messages as they came: what a bridge need not change passes byte for byte. No process and no transport is known here, and there is no
//! bridge between a client and a server of the same era.
//!
//! ```text
//! modern client ── call ──► Down: one session of the server for each (principal, capabilities) ── LegacyServer
//!               ◄─ input_required ─  a question of the server suspends the call; the client's retry goes on with it
//!
//! legacy client ── session ──► Up: `_meta` into each request ── ModernServer
//!               ◄─ request ─  `input_required` becomes requests to the client, whose answers make the retry
//! ```

mod down;
mod request_state;
mod sink;
#[cfg(test)]
mod testing;
mod up;

use std::sync::Arc;
use std::time::Duration;

use standpipe_serve::{Limits, LimitsHandle};
use standpipe_wire::jsonrpc::Message;

pub use self::down::Down;
pub use self::up::Up;
use crate::object::Object;
use crate::upstream::ServerLimits;
use crate::{Caller, Conversation, Fault, LegacyServer, Metrics, ModernServer, Outlet, fault};

/// The methods that may be answered with `input_required`.
const MAY_ASK: [&str; 3] = ["tools/call", "prompts/get", "resources/read"];
/// The requests of a server that can be asked of a client of either era.
const QUESTIONS: [&str; 3] = ["elicitation/create", "sampling/createMessage", "roots/list"];
/// Levels of log messages, the least important first.
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];
/// Notices that a list has changed: the notice, the member of a filter that wants it, the capability.
const LISTS: [(&str, &str, &str); 3] = [
    ("notifications/tools/list_changed", "toolsListChanged", "tools"),
    ("notifications/prompts/list_changed", "promptsListChanged", "prompts"),
    ("notifications/resources/list_changed", "resourcesListChanged", "resources"),
];
const UPDATED: &str = "notifications/resources/updated";
const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";

/// What a bridge is told about where it stands.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server's name, for messages and to tell its `requestState` from another's.
    pub server: Arc<str>,
    /// What this server may take.
    pub own: ServerLimits,
    /// The limits in force, for what is the bridges' alone.
    pub limits: LimitsHandle,
    /// Where limits that were hit are counted.
    pub metrics: Metrics,
}

impl Settings {
    fn limits(&self) -> Arc<Limits> {
        self.limits.load_full()
    }

    /// A limit was hit: counts it, and makes the refusal.
    fn refused(&self, limit: &'static str, what: &str) -> Fault {
        self.metrics.hit(limit);
        Fault::overloaded(format!("{what} (limit {limit}): try again later"), Duration::from_secs(1))
    }
}

/// A server of which each era is answered by a part of its own: the server itself, or a bridge to it.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Answers modern requests.
    pub modern: Arc<dyn ModernServer>,
    /// Opens legacy sessions.
    pub legacy: Arc<dyn LegacyServer>,
}

impl Pair {
    /// A legacy server, for both eras.
    pub fn of_legacy(server: Arc<dyn LegacyServer>, settings: Settings) -> Self {
        Self { modern: Arc::new(Down::new(server.clone(), settings)), legacy: server }
    }

    /// A modern server, for both eras.
    pub fn of_modern(server: Arc<dyn ModernServer>, settings: Settings) -> Self {
        Self { legacy: Arc::new(Up::new(server.clone(), settings)), modern: server }
    }
}

impl ModernServer for Pair {
    fn call(&self, caller: Caller, request: Message, to: Outlet) {
        self.modern.call(caller, request, to);
    }
}

impl LegacyServer for Pair {
    fn open(&self, caller: &Caller, initialize: Message, to: Outlet, news: Outlet) -> Arc<dyn Conversation> {
        self.legacy.open(caller, initialize, to, news)
    }
}

/// The number of a level of log messages.
fn level(json: &[u8]) -> Option<usize> {
    let name: String = serde_json::from_slice(json).ok()?;
    LEVELS.iter().position(|level| *level == name)
}

/// What is sent to whom is answered by something that is no message of the protocol.
fn no_answer(server: &str, why: impl std::fmt::Display) -> Fault {
    Fault::new(fault::UPSTREAM_DIED, format!("the server \"{server}\" gave an answer that is none: {why}"))
}

/// Whether news of the resource `updated` are meant for who subscribed to `subscribed`: itself, or a part of it.
fn covers(subscribed: &str, updated: &str) -> bool {
    updated
        .strip_prefix(subscribed)
        .is_some_and(|rest| rest.is_empty() || subscribed.ends_with('/') || rest.starts_with(['/', '?', '#']))
}

/// A string as JSON.
fn json(text: &str) -> Vec<u8> {
    serde_json::to_vec(text).expect("a string can be written as JSON")
}

/// A message whose body is an object.
fn body(message: &Message) -> Result<Object<'_>, standpipe_wire::jsonrpc::Malformed> {
    message.body_bytes().map_or_else(|| Ok(Object::default()), Object::parse)
}
