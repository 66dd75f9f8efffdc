//! One connection, from its first byte to its close: recognises HTTP/1.1 and HTTP/2, lets hyper
//! speak it, and parks it while nothing is asked.
//!
//! A parked connection is a socket and a small task: hyper's state and its buffers (11 to 17 KB)
//! exist only while a request is in progress and for `park_after_ms` after it.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use standpipe_serve::{CloseReason, Conn, ConnIo, Limits, Refusal, Session};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::body::Reply;
use super::io::{Activity, Stream};
use super::sse::Takeover;
use super::{HttpDoor, McpHttp, error_json, whole_seconds};
use crate::fault::http_refusal;
use crate::goodbye::{self, GOODBYE_WITHIN};

/// What an HTTP/2 client with prior knowledge sends first (RFC 9113 §3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The smallest write buffer hyper allows: a slow reader holds this much and one chunk.
const HYPER_BUF_MAX: usize = 128 << 10;

/// Who answers the requests of a connection.
#[derive(Clone, Debug)]
pub(crate) enum Answerer {
    /// All of HTTP.
    Http(HttpDoor),
    /// MCP alone.
    Mcp(McpHttp),
}

/// Serves `conn` until it closes.
pub(super) async fn serve(door: Answerer, conn: Conn, session: Session) -> CloseReason {
    let limits = session.limits();
    let activity = Arc::<Activity>::default();
    activity.tls().store(matches!(conn.io, ConnIo::Tls(_)), Ordering::Relaxed);
    let write_progress_max = Duration::from_millis(limits.write_progress_ms_max);
    let mut stream = Stream::new(conn.io, session.clone(), activity.clone(), write_progress_max);
    let first_byte = Duration::from_millis(limits.first_byte_ms_max);
    match first_bytes(&session, &mut stream, first_byte).await {
        Err(reason) => reason,
        Ok(first) => {
            let h2 = first.as_ref() == &H2_PREFACE[..first.len().min(H2_PREFACE.len())] && first.len() >= 3;
            stream.unread(first);
            let service = Answers { door, session: session.clone(), activity: activity.clone() };
            if h2 {
                Box::pin(serve_h2(&session, stream, service, &limits)).await
            } else {
                serve_h1(&session, stream, service, &activity).await
            }
        }
    }
}

/// Tells a peer why it is not served, quickly.
pub(super) async fn refuse(conn: Conn, refusal: &Refusal) {
    let body = error_json(&refusal.to_string());
    let after = whole_seconds(refusal.retry_after());
    let mut answer = format!(
        "HTTP/1.1 {}\r\ncontent-type: application/json; charset=utf-8\r\n\
         content-length: {}\r\nretry-after: {after}\r\nconnection: close\r\n\r\n",
        http_refusal(*refusal),
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(&body);
    let mut io = conn.io;
    let last_words = async {
        io.write_all(&answer).await?;
        goodbye::end(&mut io, true).await
    };
    let _gone = timeout(GOODBYE_WITHIN, last_words).await;
}

/// Waits for the peer to say something, and reads enough to recognise what.
async fn first_bytes(session: &Session, stream: &mut Stream, patience: Duration) -> Result<Bytes, CloseReason> {
    wait_readable(session, stream, patience, CloseReason::FirstByteTimeout).await?;
    let mut first = BytesMut::with_capacity(H2_PREFACE.len());
    let recognise = async {
        // As soon as it can't be the preface any more, it is HTTP/1.1.
        while first.len() < 3 && H2_PREFACE.starts_with(&first) {
            let mut one = [0; 3];
            let wanted = 3 - first.len();
            match stream.read(&mut one[..wanted]).await {
                Ok(0) | Err(_) => return Err(CloseReason::PeerClosed),
                Ok(count) => first.extend_from_slice(&one[..count]),
            }
        }
        Ok(())
    };
    // The socket may have seemed readable when it was not, so this waits as long, and as politely.
    tokio::select! {
        biased;
        recognised = timeout(patience, recognise) => match recognised {
            Ok(Ok(())) => Ok(first.freeze()),
            Ok(Err(reason)) => Err(reason),
            Err(_) => Err(CloseReason::FirstByteTimeout),
        },
        () = session.closing() => Err(CloseReason::Shutdown),
    }
}

async fn wait_readable(
    session: &Session,
    stream: &Stream,
    patience: Duration,
    late: CloseReason,
) -> Result<(), CloseReason> {
    tokio::select! {
        biased;
        readable = stream.readable() => readable.map_err(|_| CloseReason::PeerVanished),
        () = session.closing() => Err(CloseReason::Shutdown),
        () = sleep(patience) => Err(late),
    }
}

/// The service hyper calls; its futures are boxed so that a connection can be taken apart.
#[derive(Clone)]
struct Answers {
    door: Answerer,
    session: Session,
    activity: Arc<Activity>,
}

impl Service<Request<Incoming>> for Answers {
    type Response = Response<Reply>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let Self { door, session, activity } = self.clone();
        // Boxed each for itself, for one is larger than the other.
        match door {
            Answerer::Http(door) => {
                Box::pin(async move { carry_on(door.answer(&session, &activity, request).await, &activity).await })
            }
            Answerer::Mcp(door) => {
                Box::pin(async move { carry_on(door.answer(&session, &activity, request).await, &activity).await })
            }
        }
    }
}

/// Hands the connection over where the answer wants it; hyper never gets one then.
async fn carry_on(
    answer: Result<Response<Reply>, Box<Takeover>>,
    activity: &Activity,
) -> Result<Response<Reply>, std::convert::Infallible> {
    match answer {
        Ok(answer) => Ok(answer),
        Err(takeover) => {
            activity.take_over(takeover);
            std::future::pending().await
        }
    }
}

async fn serve_h1(session: &Session, mut stream: Stream, service: Answers, activity: &Arc<Activity>) -> CloseReason {
    loop {
        let limits = session.limits();
        let talk = Box::pin(talk_h1(session, stream, service.clone(), activity, &limits));
        stream = match talk.await {
            Talk::Parked(stream) => stream,
            Talk::TakenOver(stream, takeover) => return takeover.carry(stream, session).await,
            Talk::Closed(reason) => return reason,
        };
        let idle = Duration::from_millis(session.limits().idle_ms_max);
        if let Err(reason) = wait_readable(session, &stream, idle, CloseReason::IdleTimeout).await {
            let _gone = timeout(GOODBYE_WITHIN, stream.shutdown()).await;
            return reason;
        }
    }
}

enum Talk {
    Parked(Stream),
    TakenOver(Stream, Box<Takeover>),
    Closed(CloseReason),
}

/// Lets hyper speak HTTP/1.1 until the connection ends or has been quiet for a while.
async fn talk_h1(
    session: &Session,
    stream: Stream,
    service: Answers,
    activity: &Arc<Activity>,
    limits: &Limits,
) -> Talk {
    let mut conn = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits.request_head_ms_max))
        .max_buf_size(HYPER_BUF_MAX.max(limits.request_head_bytes_max))
        .max_headers(limits.request_headers_max)
        .serve_connection(TokioIo::new(stream), service);
    let park_after = Duration::from_millis(limits.park_after_ms);
    let begun_before = activity.begun();
    let mut park_at = pin!(sleep(park_after));
    let mut last_begun = begun_before;
    let (mut quiet, mut stopping) = (false, false);
    loop {
        tokio::select! {
            biased;
            ended = poll_fn(|context| conn.poll_without_shutdown(context)) => {
                let mut stream = conn.into_parts().io.into_inner();
                let reason = close_reason(ended, activity, stopping);
                let is_cut_short = activity.body_left() || goodbye::cuts_short(reason);
                let _gone = timeout(GOODBYE_WITHIN, goodbye::end(&mut stream, is_cut_short)).await;
                return Talk::Closed(reason);
            }
            takeover = activity.takeover() => {
                let parts = conn.into_parts();
                let mut stream = parts.io.into_inner();
                stream.unread(parts.read_buf);
                return Talk::TakenOver(stream, takeover);
            }
            () = session.closing(), if !stopping => {
                stopping = true;
                if activity.is_quiet() {
                    let mut stream = conn.into_parts().io.into_inner();
                    let _gone = timeout(GOODBYE_WITHIN, stream.shutdown()).await;
                    return Talk::Closed(CloseReason::Shutdown);
                }
                Pin::new(&mut conn).graceful_shutdown();
            }
            () = park_at.as_mut(), if !stopping => {
                let begun = activity.begun();
                let was_quiet = std::mem::replace(&mut quiet, begun == last_begun && activity.is_quiet());
                // Only after a request of this talk: a head that drips in keeps its timer. And only
                // when quiet for a whole turn: hyper may be about to close after its last answer.
                if begun > begun_before && quiet && was_quiet {
                    let parts = conn.into_parts();
                    let mut stream = parts.io.into_inner();
                    stream.unread(parts.read_buf);
                    return Talk::Parked(stream);
                }
                last_begun = begun;
                park_at.as_mut().reset(Instant::now() + park_after);
            }
        }
    }
}

async fn serve_h2(session: &Session, stream: Stream, service: Answers, limits: &Limits) -> CloseReason {
    let activity = service.activity.clone();
    let conn = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.h2_streams_per_connection_max)
        .max_header_list_size(limits.request_head_bytes_max as u32)
        .max_send_buf_size(HYPER_BUF_MAX)
        .keep_alive_interval(Duration::from_millis(limits.idle_ms_max / 4))
        .keep_alive_timeout(Duration::from_millis(limits.write_progress_ms_max))
        .serve_connection(TokioIo::new(stream), service);
    let mut conn = pin!(conn);
    let idle = Duration::from_millis(limits.idle_ms_max);
    let mut idle_at = pin!(sleep(idle));
    let mut last_begun = 0;
    let mut stopping = None;
    loop {
        tokio::select! {
            biased;
            ended = conn.as_mut() => return close_reason(ended, &activity, stopping == Some(CloseReason::Shutdown)),
            () = session.closing(), if stopping.is_none() => {
                // Event streams end by themselves.
                stopping = Some(CloseReason::Shutdown);
                conn.as_mut().graceful_shutdown();
            }
            () = sleep_until(idle_at.deadline()), if stopping.is_none() => {
                let begun = activity.begun();
                if begun == last_begun && activity.is_quiet() {
                    return CloseReason::IdleTimeout;
                }
                last_begun = begun;
                idle_at.as_mut().reset(Instant::now() + idle);
            }
        }
    }
}

fn close_reason(ended: hyper::Result<()>, activity: &Activity, stopping: bool) -> CloseReason {
    if activity.stalled() {
        let watching = activity.watching().load(Ordering::Relaxed);
        return if watching { CloseReason::SlowWatcher } else { CloseReason::WriteTimeout };
    }
    if activity.body_late().load(Ordering::Relaxed) {
        return CloseReason::BodyTimeout;
    }
    match ended {
        Ok(()) if stopping => CloseReason::Shutdown,
        Ok(()) => CloseReason::PeerClosed,
        Err(error) if error.is_timeout() => CloseReason::HeadTimeout,
        Err(error) if error.is_parse() => CloseReason::ProtocolError,
        Err(error) if error.is_incomplete_message() || error.is_closed() || error.is_canceled() => {
            CloseReason::PeerClosed
        }
        Err(error) => {
            tracing::debug!(%error, "connection ended");
            CloseReason::PeerVanished
        }
    }
}
