//! One call of a server far away: the request, what comes back until the reply, and how long that may take. A stream that breaks off before the
//! reply is taken up again where the server allows it.

use std::time::Duration;

use standpipe_wire::jsonrpc::{Kind, Message, id_key};
use tokio::time::{Instant, sleep, timeout};

use super::http::{Answer, As, Events, Failed, Http};
use crate::fault::{DEADLINE, UPSTREAM_DIED};
use crate::upstream::ServerLimits;
use crate::{Fault, Metrics, Outlet};

/// How often a stream is taken up again without a message in between.
const RESUMES_MAX: u32 = 5;

/// How long a call may take.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    call: Duration,
    end: Option<Instant>,
    metrics: Metrics,
}

impl Patience {
    /// The time of a call of `method`; a subscription has no end.
    pub(super) fn new(method: &str, limits: &ServerLimits, metrics: &Metrics) -> Self {
        let lasts = method == "subscriptions/listen";
        let end = (!lasts).then(|| Instant::now() + limits.call_total);
        Self { call: limits.call, end, metrics: metrics.clone() }
    }

    /// Waits for `future`, as long as a call may be without progress.
    async fn wait<T>(&self, future: impl Future<Output = T>) -> Result<T, Fault> {
        let Some(end) = self.end else { return Ok(future.await) };
        let left = end.saturating_duration_since(Instant::now());
        timeout(self.call.min(left), future).await.map_err(|_| {
            let (limit, time) = match left < self.call {
                true => ("mcp_call_total_ms_max", left),
                false => ("mcp_call_ms_max", self.call),
            };
            self.metrics.hit(limit);
            Fault::new(DEADLINE, format!("no answer within {} ms ({limit}): the call is cancelled", time.as_millis()))
        })
    }
}

/// How a call ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The reply has been passed on, or the client has left.
    Done,
    /// The server does not know the session; nothing was passed on.
    SessionGone,
    /// There is no reply.
    Failed(Fault),
    /// There is no reply in time, and the server may still be at it.
    Late(Fault),
}

/// Makes a call; what comes of it goes to `to`.
pub(super) async fn run(http: &Http, request: &Message, how: &As, to: &Outlet, patience: &Patience) -> Ended {
    let answer = match patience.wait(http.post(request, how)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(Failed::SessionGone)) => return Ended::SessionGone,
        Ok(Err(failed)) => return Ended::Failed(failed.into()),
        Err(late) => return Ended::Late(late),
    };
    match answer {
        Answer::Message(_, reply) => pass(reply, request, to),
        Answer::Events(_, events) => stream(http, events, request, how, to, patience).await,
        Answer::Taken => Ended::Failed(Fault::new(
            UPSTREAM_DIED,
            "the server took the request for a notification: it has sent no reply",
        )),
    }
}

/// Passes on what comes until the reply.
async fn stream(
    http: &Http,
    mut events: Events,
    request: &Message,
    how: &As,
    to: &Outlet,
    patience: &Patience,
) -> Ended {
    let mut resumed = 0;
    loop {
        match patience.wait(events.next()).await {
            Err(late) => return Ended::Late(late),
            Ok(Err(fault)) => return Ended::Failed(fault),
            Ok(Ok(Some(message))) => {
                resumed = 0;
                if message.kind() == Kind::Response {
                    return pass(message, request, to);
                }
                let _gone = to.send(message);
            }
            Ok(Ok(None)) => {
                let broken = || Ended::Failed(Fault::new(UPSTREAM_DIED, "the server broke the answer off: try again"));
                // A modern stream can't be taken up again (spec mcp §1).
                let Some((last_id, pause)) = events.resume().filter(|_| !how.is_modern && resumed < RESUMES_MAX) else {
                    return broken();
                };
                resumed += 1;
                let again = async {
                    sleep(pause).await;
                    http.listen(how, Some(last_id)).await
                };
                match patience.wait(again).await {
                    Err(late) => return Ended::Late(late),
                    Ok(Ok(Answer::Events(_, more))) => events = more,
                    Ok(_) => return broken(),
                }
            }
        }
    }
}

/// Passes the reply on, if it is one to this request.
fn pass(reply: Message, request: &Message, to: &Outlet) -> Ended {
    match addressed(reply, request) {
        Ok(reply) => {
            let _gone = to.send(reply);
            Ended::Done
        }
        Err(fault) => Ended::Failed(fault),
    }
}

/// The reply with the id of the request; who could not read that one says what is wrong without it.
pub(super) fn addressed(reply: Message, request: &Message) -> Result<Message, Fault> {
    let id = request.id().expect("only requests are called");
    let wrong = |what: &str| Err(Fault::new(UPSTREAM_DIED, format!("the server answered {what}")));
    match reply.id() {
        Some(other) if id_key(other) == id_key(id) => Ok(reply),
        None if reply.is_error() => {
            let error = reply.body_bytes().unwrap_or(b"{}");
            let parts: [&[u8]; 5] = [b"{\"jsonrpc\":\"2.0\",\"id\":", id, b",\"error\":", error, b"}"];
            Message::parse(parts.concat().into()).or_else(|_| wrong("with what is no message"))
        }
        _ => wrong("another request than this one"),
    }
}
