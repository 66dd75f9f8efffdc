//! The gateway: a set of servers by name, as a file says, each with what stands in front of it (counters, tape, rules, filter), and
//! all of them joined. One server that can't start takes no other down; a changed file touches only what it changes.

mod file;
mod filter;
mod joined;
mod list;
mod members;
mod servers;

pub use self::file::{FILE_BYTES_MAX, SEPARATOR, ServerEntry, Upstream, Variable, check_name, read};
pub use self::filter::{Filter, Tools};
pub use self::joined::{Joined, Member, Set};
pub use self::members::FileError;
pub use self::servers::{ALL, Changes, Gateway, Parts};
