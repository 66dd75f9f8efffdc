//! How a connection ends so that its last words arrive. What a peer has sent and nobody reads is answered by the kernel
//! with a reset, and the reset takes our words away: whoever is cut short is heard out, for a while.

use std::io;
use std::time::Duration;

use standpipe_serve::CloseReason;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// How long a peer has to take our last words.
pub(crate) const GOODBYE_WITHIN: Duration = Duration::from_secs(1);

/// Whether a peer may not have been heard to the end when its connection is closed for this.
pub(crate) fn cuts_short(reason: CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::ProtocolError | CloseReason::Refused(_) | CloseReason::HeadTimeout | CloseReason::BodyTimeout
    )
}

/// Ends our side. A peer that is cut short is read, for nothing, until it ends its own; the caller bounds the time.
///
/// # Errors
///
/// The connection is gone.
pub(crate) async fn end<S: AsyncRead + AsyncWrite + Unpin>(io: &mut S, is_cut_short: bool) -> io::Result<()> {
    io.shutdown().await?;
    if is_cut_short {
        // Not in the future: every connection has room for it, and few need it.
        let mut rest = vec![0; 1024];
        while io.read(&mut rest).await? > 0 {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;
    use tokio::time::timeout;

    use super::*;

    /// What a peer hears that goes on speaking for a while after it was told something.
    async fn heard(is_cut_short: bool) -> io::Result<String> {
        let (mut io, mut peer) = UnixStream::pair()?;
        let tell = async move {
            io.read_exact(&mut [0]).await?;
            io.write_all(b"no more").await?;
            timeout(GOODBYE_WITHIN, end(&mut io, is_cut_short)).await?
        };
        let speak = async move {
            let (mut from, mut to) = peer.split();
            let speak = async {
                to.write_all(&[b'x'; 1 << 20]).await?;
                to.shutdown().await
            };
            let mut words = String::new();
            let (spoken, read) = tokio::join!(speak, from.read_to_string(&mut words));
            spoken.and(read).map(|_| words)
        };
        let (told, heard) = tokio::join!(tell, speak);
        told.and(heard)
    }

    #[tokio::test]
    async fn the_last_words_come_to_who_still_speaks() {
        assert_eq!(heard(true).await.unwrap(), "no more");
        heard(false).await.unwrap_err();
    }
}
