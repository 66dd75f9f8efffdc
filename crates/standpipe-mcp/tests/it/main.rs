//! Tests of servers that are processes, with real ones: every rule of spec mcp §4.3 to §4.6 that has to do with a process.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod child;
mod growth;
mod modern;
mod shared;
mod support;
