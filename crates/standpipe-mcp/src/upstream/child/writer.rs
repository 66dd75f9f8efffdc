//! Writes to a process. What has gathered while one write was under way is the next one; there is one task for all of it.

use std::sync::Arc;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::process::Process;

/// Why no more is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteEnd {
    /// The process has closed its input.
    Closed,
    /// It does not read.
    Deaf,
}

/// Writes until that is no use.
pub(super) async fn write(process: Arc<Process>, mut input: Box<dyn AsyncWrite + Send + Unpin>) -> WriteEnd {
    let mut buffer = Vec::new();
    loop {
        let waits = process.table().take_out(&mut buffer);
        if !waits {
            process.woken.notified().await;
            continue;
        }
        let mut done = 0;
        while done < buffer.len() {
            let end = match timeout(process.limits.stdin_progress, input.write(&buffer[done..])).await {
                Ok(Ok(bytes)) if bytes > 0 => {
                    done += bytes;
                    continue;
                }
                Ok(_) => WriteEnd::Closed,
                Err(_late) => WriteEnd::Deaf,
            };
            process.table().wrote(done);
            return end;
        }
    }
}
