//! Doors: protocol servers over the engine, one module each, and what they share: `goodbye` ends their connections,
//! `dispatch`, the only way from a request to the engine, and `fault`, the one table from errors
//! to each protocol's words.

mod auth;
mod commands;
mod dispatch;
mod fault;
mod firebase;
mod goodbye;
mod http;
mod line;
mod mcp;
mod pipe;
mod render;
mod resp;
mod runs;
mod scratch;
mod streams;

pub use crate::auth::{Algorithm, Authority, Caller, Credentials, Identified, Issuer, Key, SECRET_BYTES_MIN, Terms};
pub use crate::dispatch::Dispatch;
pub use crate::http::{HttpDoor, McpHttp};
pub use crate::line::{LineDoor, page as line_commands};
pub use crate::mcp::{Endpoints, Mcp, McpLines, McpPolicy};
pub use crate::mcp::{TreeOptions, TreeServer};
pub use crate::pipe::{FolderSource, PipeDoor, Source, TreeSource};
pub use crate::render::Render;
pub use crate::resp::{RespDoor, Separator, page as resp_commands};
