//! The connection's byte stream below hyper: replays bytes that were read to recognise the
//! protocol, cuts a peer that stops taking bytes, counts, and tells when hyper holds nothing
//! unsent, so that an idle connection can be parked without losing a byte.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use parking_lot::Mutex;
use standpipe_serve::{ConnIo, Session};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use super::sse::Takeover;
use crate::dispatch::Leases;

/// What the connection's loop can see of the stream, and the service of the loop.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// Requests whose answers are not sent completely.
    requests: AtomicU32,
    /// Requests ever begun.
    begun: AtomicU64,
    /// Bytes came in since the last request ended.
    read: AtomicBool,
    /// A part of the request's body was not taken.
    body_left: AtomicBool,
    /// The next byte that comes begins a request.
    fresh: AtomicBool,
    /// Bytes were written that hyper has not flushed.
    unflushed: AtomicBool,
    /// The peer took no byte for too long.
    stalled: AtomicBool,
    /// An event stream that wants the connection for itself.
    takeover: Mutex<Option<Box<Takeover>>>,
    takeover_ready: Notify,
    /// An event stream is open, as the body of an HTTP/2 answer.
    watching: AtomicBool,
    /// The body did not come in time.
    body_late: AtomicBool,
    /// The connection is TLS.
    tls: AtomicBool,
    /// The peer reads a stream that gives it little time.
    hurry: AtomicBool,
    /// What goes with the connection: with the last that knows it, a request in progress included.
    leases: Leases,
}

impl Activity {
    /// A request begins, with a body or without; dropping the guard ends it.
    pub(crate) fn request(self: &Arc<Self>, has_body: bool) -> Busy {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.body_left.store(has_body, Ordering::Relaxed);
        self.fresh.store(false, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// All of the request's body was taken.
    pub(crate) fn body_taken(&self) {
        self.body_left.store(false, Ordering::Relaxed);
    }

    /// Not all of the last request's body was taken.
    pub(crate) fn body_left(&self) -> bool {
        self.body_left.load(Ordering::Relaxed)
    }

    /// Requests begun so far.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Nothing is asked, half received or half sent.
    pub(crate) fn is_quiet(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
            && !self.read.load(Ordering::Relaxed)
            && !self.unflushed.load(Ordering::Relaxed)
    }

    pub(crate) fn stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// Hands the connection over; hyper is not asked to answer this request.
    pub(crate) fn take_over(&self, takeover: Box<Takeover>) {
        *self.takeover.lock() = Some(takeover);
        self.takeover_ready.notify_one();
    }

    /// Waits until an event stream wants the connection.
    pub(crate) async fn takeover(&self) -> Box<Takeover> {
        loop {
            self.takeover_ready.notified().await;
            if let Some(takeover) = self.takeover.lock().take() {
                return takeover;
            }
        }
    }

    pub(crate) fn watching(&self) -> &AtomicBool {
        &self.watching
    }

    pub(crate) fn tls(&self) -> &AtomicBool {
        &self.tls
    }

    /// Whether the connection is TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.load(Ordering::Relaxed)
    }

    /// From now on the peer has `mcp_write_progress_ms_max` to take a byte, and counts as a watcher.
    pub(crate) fn hurry(&self) {
        self.watching.store(true, Ordering::Relaxed);
        self.hurry.store(true, Ordering::Relaxed);
    }

    pub(crate) fn leases(&self) -> &Leases {
        &self.leases
    }

    pub(crate) fn body_late(&self) -> &AtomicBool {
        &self.body_late
    }
}

/// A request in progress.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
        self.0.read.store(false, Ordering::Relaxed);
        // What is left of a body must never be taken for a request.
        self.0.fresh.store(!self.0.body_left(), Ordering::Relaxed);
    }
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Stream {
    io: ConnIo,
    session: Session,
    prefix: Bytes,
    activity: Arc<Activity>,
    write_progress_max: Duration,
    /// Runs while the peer takes nothing.
    stall: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    pub(crate) fn new(io: ConnIo, session: Session, activity: Arc<Activity>, write_progress_max: Duration) -> Self {
        activity.fresh.store(true, Ordering::Relaxed);
        Self { io, session, prefix: Bytes::new(), activity, write_progress_max, stall: None }
    }

    /// Bytes to be read before those of the peer.
    pub(crate) fn unread(&mut self, bytes: Bytes) {
        self.prefix = bytes;
    }

    /// Did the peer take no byte for too long?
    pub(crate) fn stalled(&self) -> bool {
        self.activity.stalled()
    }

    /// Waits until the peer sent something or left.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        if self.prefix.is_empty() { self.io.readable().await } else { Ok(()) }
    }

    /// Turns a write that can't go on into an error once the peer took nothing for too long.
    fn progress<T>(&mut self, context: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            if self.stall.take().is_some() {
                self.session.output_blocked(false);
            }
            return write;
        }
        if self.stall.is_none() {
            self.session.output_blocked(true);
        }
        let patience = self.write_progress_max;
        let stall = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + patience)));
        ready!(stall.as_mut().poll(context));
        self.activity.stalled.store(true, Ordering::Relaxed);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes no bytes")))
    }

    /// Percent-encodes the quotes of the request line that was read from `start` on. Firebase's
    /// documentation has curl send `orderBy="height"` as it is; hyper refuses that.
    fn encode_quotes(&mut self, buf: &mut ReadBuf<'_>, start: usize) {
        let bytes = &buf.filled()[start..];
        let Some(end) = request_line(bytes).filter(|end| bytes[..*end].contains(&b'"')) else { return };
        let mut encoded = Vec::with_capacity(bytes.len() + 64);
        for byte in &bytes[..end] {
            match byte {
                b'"' => encoded.extend_from_slice(b"%22"),
                byte => encoded.push(*byte),
            }
        }
        encoded.extend_from_slice(&bytes[end..]);
        buf.set_filled(start);
        let fits = encoded.len().min(buf.remaining());
        buf.put_slice(&encoded[..fits]);
        encoded.drain(..fits);
        encoded.extend_from_slice(&self.prefix);
        self.prefix = encoded.into();
    }

    fn written(&mut self, count: usize) {
        if self.activity.hurry.swap(false, Ordering::Relaxed) {
            let patience = Duration::from_millis(self.session.limits().mcp_write_progress_ms_max);
            self.write_progress_max = self.write_progress_max.min(patience);
            self.io.unheard_for(patience.saturating_mul(3));
        }
        self.activity.unflushed.store(true, Ordering::Relaxed);
        self.session.add_bytes(0, count as u64);
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.prefix.is_empty() {
            ready!(Pin::new(&mut self.io).poll_read(context, buf))?;
        } else {
            let count = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix[..count]);
            self.prefix.advance(count);
            if self.prefix.is_empty() && buf.remaining() > 0 {
                // What else is there, in the same read: a head in two pieces is parsed twice. An
                // error is met again by the next read.
                let _nothing_more = Pin::new(&mut self.io).poll_read(context, buf);
            }
        }
        let count = buf.filled().len() - before;
        self.session.add_bytes(count as u64, 0);
        if count > 0 {
            self.activity.read.store(true, Ordering::Relaxed);
            // Recognising the protocol reads less than a line.
            if count > 3 && self.activity.fresh.swap(false, Ordering::Relaxed) {
                self.encode_quotes(buf, before);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The end of the request line that `bytes` begin with, if they do.
fn request_line(bytes: &[u8]) -> Option<usize> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let method = bytes.iter().position(|byte| !byte.is_ascii_uppercase())?;
    let line = &bytes[..end];
    (method > 0 && line[method..].starts_with(b" /") && line.ends_with(b" HTTP/1.1\r")).then_some(end)
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.io).poll_write(context, buf);
        let count = ready!(self.progress(context, write))?;
        self.written(count);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.io).poll_write_vectored(context, bufs);
        let count = ready!(self.progress(context, write))?;
        self.written(count);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Hyper flushes the stream only when its own buffer is empty.
        let flush = Pin::new(&mut self.io).poll_flush(context);
        ready!(self.progress(context, flush))?;
        self.activity.unflushed.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_request_line_is_one() {
        let check = |bytes: &str, expected| assert_eq!(request_line(bytes.as_bytes()), expected, "{bytes:?}");
        check("GET /a.json?x=\"y\" HTTP/1.1\r\nHost: x\r\n", Some(27));
        check("GET /a.json?x=\"y\" HTTP/1.1\r", None);
        check("GET /a.json?x=\"y\"", None);
        check("/a.json?x=\"y\" HTTP/1.1\r\n", None);
        check("\"GET /a.json HTTP/1.1\r\n", None);
        check("x-quoted: \"y\"\r\n", None);
        check("\r\n", None);
        check("", None);
    }
}
