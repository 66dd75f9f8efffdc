//! Tests of the engine through its public interface.
#![allow(clippy::unwrap_used, clippy::panic)] // tests

mod compute;
mod faults;
mod feed;
mod indexes;
mod leases;
mod model;
mod naive;
mod shared_log;
mod steps;
mod store;
mod streams;
mod streams_faults;
mod streams_model;
mod support;
mod watches;
