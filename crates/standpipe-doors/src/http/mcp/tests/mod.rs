//! Raw requests against a server of the test's own: every rule of the door, without a process of ours around it.

mod auth;
mod bench;
mod h2;
mod hostile;
#[cfg(target_os = "linux")]
mod measure;
mod rules;
mod sessions;
