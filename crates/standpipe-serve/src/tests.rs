//! Scenarios of the whole crate.
