//! HTTP+SSE of 2024-11-05 (spec mcp §2.3), off by default: a stream of events carries everything to the client (`…/sse`), and each of its messages is a POST of its
//! own (`…/messages?session=…`). The stream is the session: it ends with it. Only who opened it may send to it.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::stream::{self, StreamExt as _};
use http::StatusCode;
use hyper::body::Incoming;
use parking_lot::Mutex;
use standpipe_mcp::Fault;
use standpipe_mcp::fault::NOT_FOUND;
use standpipe_mcp::sessions::Seat;
use standpipe_serve::{Session, WatchPermit};
use standpipe_wire::jsonrpc::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::answers::{Answer, Outcome, Refused, empty, events};
use super::{Call, refused};
use crate::auth::instant;
use crate::http::body::Content;
use crate::mcp::talk::Talk;

/// Messages of a client that its stream has not looked at.
const PENDING_MAX: usize = 16;

/// Events that are there already go out together, up to about this many bytes.
const TOGETHER_BYTES: usize = 32 << 10;

/// The open streams, by session.
#[derive(Default)]
pub(crate) struct SseSessions(Mutex<HashMap<Arc<str>, Entry>>);

impl fmt::Debug for SseSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SseSessions").field("open", &self.0.lock().len()).finish()
    }
}

struct Entry {
    principal: Arc<str>,
    endpoint: String,
    messages: mpsc::Sender<Message>,
}

/// A session in the table, until this is dropped.
struct Entered {
    sessions: Arc<SseSessions>,
    id: Arc<str>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.sessions.0.lock().remove(&self.id);
    }
}

impl Call<'_> {
    fn check_sse(&self) -> Outcome<()> {
        if self.visit.mcp.policy().sse {
            return Ok(());
        }
        let message = "HTTP+SSE of 2024-11-05 is off here: use Streamable HTTP at /mcp, or turn it on with [mcp] sse = true (--sse)";
        Err(Refused::new(StatusCode::NOT_FOUND, Fault::new(NOT_FOUND, message)))
    }

    /// Opens a session: its stream.
    pub(super) fn open_sse(self) -> Outcome<Answer> {
        self.check_sse()?;
        let visit = self.visit;
        let permit = visit.session.watch_permit().map_err(refused)?;
        let seat = visit.mcp.sessions().admit(&self.caller.principal).map_err(Refused::of)?;
        let id: Arc<str> = mint().into();
        let (messages, pending) = mpsc::channel(PENDING_MAX);
        let endpoint = self.endpoint.to_string();
        let first = format!("event: endpoint\ndata: {endpoint}/messages?session={id}\n\n");
        let sessions = visit.mcp.sse().clone();
        let entry = Entry { principal: self.caller.principal.clone(), endpoint, messages };
        sessions.0.lock().insert(id.clone(), entry);
        let stream = SseStream {
            pending,
            session: visit.session.clone(),
            first: Some(first.into()),
            every: Duration::from_millis(visit.session.limits().mcp_keepalive_ms),
            expires_at: self.caller.expires_at.and_then(instant),
            talk: Talk::new(self.server, self.caller, visit.mcp.metrics().clone()),
            _entered: Entered { sessions, id },
            _seat: seat,
            _permit: permit,
        };
        visit.activity.hurry();
        Ok(events(Content::Stream(stream.into_body())))
    }

    /// Takes a message of a session's client.
    pub(super) async fn send_sse(self, body: Incoming) -> Outcome<Answer> {
        self.check_sse()?;
        self.check_content_type()?;
        let query = self.visit.uri.query().unwrap_or_default();
        let id = query.split('&').find_map(|pair| pair.strip_prefix("session=")).unwrap_or_default();
        let messages = self.sse_session(id)?;
        let message = self.message(body).await?;
        // Clients send many at once, faster than a stream looks. As long as it may take nothing, they may wait.
        let patience = Duration::from_millis(self.visit.session.limits().mcp_write_progress_ms_max);
        match timeout(patience, messages.send(message)).await {
            Ok(Ok(())) => Ok(empty(StatusCode::ACCEPTED)),
            Ok(Err(_)) => Err(unknown()),
            Err(_) => {
                let message = "the client does not take what its stream sends: read it, then try again";
                Err(Refused::of(Fault::overloaded(message, Duration::from_secs(1))))
            }
        }
    }

    fn sse_session(&self, id: &str) -> Outcome<mpsc::Sender<Message>> {
        let table = self.visit.mcp.sse().0.lock();
        let entry = table.get(id);
        let own = entry
            .filter(|entry| entry.principal == self.caller.principal && entry.endpoint == self.endpoint.to_string());
        own.map(|entry| entry.messages.clone()).ok_or_else(unknown)
    }
}

fn unknown() -> Box<Refused> {
    let message = "no such session: its stream has ended, or was never yours; open another one with GET …/sse";
    Refused::new(StatusCode::NOT_FOUND, Fault::new(NOT_FOUND, message))
}

/// 128 random bits, in hexadecimal.
fn mint() -> String {
    let mut random = [0; 16];
    SystemRandom::new().fill(&mut random).expect("the system has random bytes, or TLS would not have started");
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A session's stream on its way.
struct SseStream {
    talk: Talk,
    pending: mpsc::Receiver<Message>,
    session: Session,
    first: Option<Bytes>,
    every: Duration,
    /// When the client's token ends.
    expires_at: Option<Instant>,
    _entered: Entered,
    _seat: Seat,
    _permit: WatchPermit,
}

impl SseStream {
    fn into_body(self) -> stream::BoxStream<'static, Result<Bytes, standpipe_engine::Error>> {
        stream::unfold(self, |mut stream| async move { Some((Ok(stream.next().await?), stream)) }).boxed()
    }

    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let silent_at = Instant::now() + self.every;
        loop {
            let ends_at = self.expires_at.unwrap_or(silent_at);
            tokio::select! {
                biased;
                told = poll_fn(|context| self.talk.poll_next(context)) => {
                    return told.ok().map(|message| self.together(message));
                }
                Some(message) = self.pending.recv() => self.talk.message(message),
                () = self.session.closing() => return None,
                () = sleep_until(ends_at), if self.expires_at.is_some() => return None,
                () = sleep_until(silent_at) => return Some(Bytes::from_static(b": keep-alive\n\n")),
            }
        }
    }

    /// This one, and what else is there. Whoever waits next asks anew, so that nobody need be woken here.
    fn together(&mut self, first: Message) -> Bytes {
        let (mut out, mut next) = (Vec::new(), Some(first));
        while let Some(message) = next.take() {
            let line = message.line();
            out.reserve(line.len() + 32);
            out.extend_from_slice(b"event: message\ndata: ");
            out.extend_from_slice(&line);
            out.extend_from_slice(b"\n\n");
            if out.len() < TOGETHER_BYTES {
                next = poll_fn(|context| Poll::Ready(self.talk.poll_next(context))).now_or_never().and_then(|told| {
                    match told {
                        Poll::Ready(Ok(message)) => Some(message),
                        _ => None,
                    }
                });
            }
        }
        out.into()
    }
}
