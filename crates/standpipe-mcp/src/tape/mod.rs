//! Tapes: every message to and from a server, as lines of JSON in a file or in a stream of the tree; what answers from one; and what a HAR file says of one.
//!
//! ```text
//! call ─► Recorder (hook) ─► server        Tape ─► Replay (a server)
//!             └─► queue ─► masks ─► file, or stream tapes/<name>        └─► HAR
//! ```
//!
//! Rules that change calls are in [`crate::intercept`]; nothing here does.

mod canonical;
mod har;
mod line;
mod mask;
mod reader;
mod recorder;
mod replay;
mod sink;
mod tapes;

pub(crate) use self::canonical::{canonical, members};
pub use self::har::write_har;
pub use self::line::{Direction, Transport};
pub use self::mask::{MASK, MaskConfig, Masks};
pub use self::reader::{TAPE_BYTES_MAX, Tape, TapeError};
pub use self::recorder::Recorder;
pub use self::replay::{Replay, ReplayOptions};
pub use self::sink::{Place, Recording, tape_path};
pub use self::tapes::Tapes;

#[cfg(test)]
mod tests;
