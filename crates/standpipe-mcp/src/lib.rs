//! MCP between a decoded message and its answer. Doors bring messages of clients and carry answers back; what answers is a
//! [`Server`]: the tree, a process behind the gateway, another server far away, several of them joined, or a tape.
//!
//! ```text
//! doors (HTTP, SSE, WebSocket, lines) ── Message ──► Server: call, open ── layers (limits, rules, tape, filter) ──► upstream
//!                    ◄── Inlet ◄── Outlet ◄── replies, progress, news
//! ```
//!
//! There is no socket of a client, HTTP status line or tree in here. Two eras of the protocol exist (spec mcp §1): in the *modern*
//! one each request stands alone ([`ModernServer`]); in the *legacy* one a session is opened and talked in ([`LegacyServer`]). A
//! [`Server`] speaks both, by itself or through a bridge.

pub mod bridge;
mod caller;
pub mod era;
pub mod exchange;
pub mod fault;
pub mod gateway;
pub mod intercept;
pub mod layer;
mod meter;
pub mod metrics;
pub mod object;
mod server;
pub mod sessions;
pub mod tape;
pub mod trace;
pub mod upstream;

pub use self::caller::{Caller, Scopes};
pub use self::exchange::{Inlet, Outlet, exchange};
pub use self::fault::Fault;
pub use self::layer::{Hook, Layered};
pub use self::meter::Meter;
pub use self::metrics::Metrics;
pub use self::server::{Conversation, LegacyServer, ModernServer, Server};
