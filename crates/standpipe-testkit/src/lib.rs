//! Fixtures and drivers for tests of the whole binary: a server process that a test starts,
//! kills and restarts; a raw HTTP/1.1 client; a reading of what a process holds. Test code only:
//! it blocks, and every wait has a limit. It judges nothing: assertions are the test's.

pub mod baseline;
pub mod firebase;
pub mod http;
pub mod lines;
pub mod server;
pub mod websocket;

use std::time::{Duration, Instant};

pub use baseline::Baseline;
pub use lines::Lines;
pub use server::{Launch, Server, binary, tool};
pub use websocket::WebSocket;

/// How long a wait may take before a test gives up. Generous: machines of CI are slow and shared.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Asks `condition` until it holds or [`LIMIT`] has passed, and says whether it held. For what
/// sends no event, such as the counts in `/proc`; where there is an event, wait for that.
pub fn until(mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + LIMIT;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
