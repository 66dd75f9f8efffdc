//! One session, whatever carries it: requests are executed and answered in their order, and news of what
//! is listened to goes out before the answers to the writes that made it (firebase-rtdb §5.4).

use std::future::Future;

use bytes::Bytes;
use futures_util::FutureExt as _;
use standpipe_serve::{BytesPermit, CloseReason, Session};
use standpipe_wire::firebase::{self as wire, Malformed, Message};

use super::Context;

/// What carries the messages of a session: a WebSocket, or a client that polls.
pub(crate) trait Link: Send {
    /// The next thing the client says. May be dropped at any await without losing a message.
    fn recv(&mut self) -> impl Future<Output = Incoming> + Send;

    /// Sends whole messages, in their order; returns when there is room for more. An error is the end.
    fn send(&mut self, messages: Vec<Bytes>) -> impl Future<Output = Result<(), CloseReason>> + Send;

    /// Says goodbye, as far as that is possible now: the session ends for `reason`, and `words` say why.
    fn close(&mut self, reason: CloseReason, words: &str) -> impl Future<Output = ()> + Send;
}

/// What a client says.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A whole message, and what admitted its bytes if it is a large one.
    Message(String, Option<BytesPermit>),
    /// That it is there.
    KeepAlive,
    /// Nothing any more.
    End(CloseReason),
}

/// Serves a session to its end, and says goodbye.
pub(crate) async fn serve<L: Link>(mut link: L, session: Session, context: Context) -> CloseReason {
    if let Some(last) = &context.last_session {
        context.sessions.end(last, &context.database).await;
    }
    let _entry = context.sessions.enter(&context.id, &session, &context.database);
    let hello = wire::hello(context.database.config().clock.now_ms(), &context.host, &context.id);
    let mut out = vec![Bytes::from(hello)];
    loop {
        while let Some(incoming) = link.recv().now_or_never() {
            match incoming {
                Incoming::Message(text, _permit) => match step(&text) {
                    Ok(answer) => out.extend(answer.map(Bytes::from)),
                    Err(words) => {
                        link.close(CloseReason::ProtocolError, words).await;
                        return CloseReason::ProtocolError;
                    }
                },
                Incoming::KeepAlive => {}
                Incoming::End(reason) => {
                    link.close(reason, "").await;
                    return reason;
                }
            }
        }
        if !out.is_empty()
            && let Err(reason) = link.send(std::mem::take(&mut out)).await
        {
            return reason;
        }
        tokio::select! {
            biased;
            () = session.closing() => {
                let reason = session.close_reason().unwrap_or(CloseReason::Shutdown);
                link.close(reason, "").await;
                return reason;
            }
            incoming = link.recv() => match incoming {
                Incoming::Message(text, _permit) => match step(&text) {
                    Ok(answer) => out.extend(answer.map(Bytes::from)),
                    Err(words) => {
                        link.close(CloseReason::ProtocolError, words).await;
                        return CloseReason::ProtocolError;
                    }
                },
                Incoming::KeepAlive => {}
                Incoming::End(reason) => {
                    link.close(reason, "").await;
                    return reason;
                }
            }
        }
    }
}

fn step(text: &str) -> Result<Option<Vec<u8>>, &'static str> {
    match wire::parse(text) {
        Ok(Message::Control { kind }) => Ok((kind == "p").then(|| wire::PONG.to_vec())),
        Ok(Message::Request(request)) if request.action == "s" => Ok(Some(wire::answer(request.number, "ok", b"\"\""))),
        Ok(Message::Request(request)) => Ok(Some(wire::refusal(request.number, "unavailable", "not yet"))),
        Err(Malformed::NotJson) => Err("a message is not JSON"),
        Err(Malformed::Envelope(words)) => Ok(Some(wire::control_text("e", words))),
        Err(Malformed::Request { number, wrong }) => Ok(Some(wire::refusal(number, "invalid", &wrong.to_string()))),
    }
}
