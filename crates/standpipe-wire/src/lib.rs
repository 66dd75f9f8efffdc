//! Codecs of Standpipe's wire formats, as pure functions over bytes. One module per format; a
//! codec knows no socket, clock or tree, and never panics on bytes from outside.

pub mod firebase;
pub mod jsonrpc;
pub mod line;
pub mod longpoll;
pub mod records;
pub mod resp;
pub mod sse;
pub mod websocket;
