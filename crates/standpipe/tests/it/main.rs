//! Tests of the whole binary over its sockets and its command line, one module for each side of
//! it. They show that it is wired up and keeps its promises to real clients; what a single crate
//! can show is tested there. Each test starts a server of its own, on a free port and a fresh folder.

#![allow(clippy::unwrap_used, clippy::panic, reason = "all of this crate is test code")]

mod auth;
mod auth_clients;
mod browser;
mod cities;
mod cli;
mod conformance;
mod door_pages;
mod doors;
mod durability;
mod emulator;
mod eventsource;
mod firebase;
mod firebase_hostile;
#[cfg(target_os = "linux")]
mod guard;
mod hostile;
mod leases;
mod limits;
mod line;
mod line_hostile;
mod longpoll;
mod mcp_board;
mod mcp_bridge;
mod mcp_conformance;
mod mcp_everything;
#[cfg(target_os = "linux")]
mod mcp_gateway;
mod mcp_http;
#[cfg(unix)]
mod mcp_stdio;
#[cfg(unix)]
mod mcp_support;
mod mcp_tape;
mod mcp_tree;
#[cfg(target_os = "linux")]
mod mount;
mod moving;
#[cfg(target_os = "linux")]
mod pipelines;
#[cfg(target_os = "linux")]
mod pipes;
mod python;
mod reload;
mod resp;
mod rest;
mod ruled;
mod rules;
#[cfg(unix)]
mod run_page;
#[cfg(target_os = "linux")]
mod runs;
#[cfg(target_os = "linux")]
mod runs_hostile;
#[cfg(target_os = "linux")]
mod runs_scheduling;
#[cfg(target_os = "linux")]
mod runs_support;
mod script;
mod sdk;
mod sdk_page;
mod shutdown;
mod stream;
mod support;
#[cfg(unix)]
mod tls;
#[cfg(unix)]
mod top;
mod viewers;
mod viewers_hostile;
mod watches;
