//! A session that was begun by long polling moves to a WebSocket (firebase-rtdb §8.3), and no message is lost or
//! overtaken: the client says its last word on one transport before its first on the other, and so do we.
//!
//! The socket's connection keeps its task, which only waits: what belongs to the connection (its seat, its deadline, its
//! close by an administrator) stays there, while the session's task reads and writes the socket.

use std::sync::Arc;

use bytes::Bytes;
use standpipe_engine::Database;
use standpipe_serve::{CloseReason, Session};
use standpipe_wire::firebase::{self as wire, Message};
use tokio::sync::oneshot;

use super::poll::{Poll, Polls};
use super::session::{Incoming, Link};
use super::websocket::WebSocket;

/// How far the move of a session is.
#[derive(Debug, Default)]
pub(super) enum Move {
    /// Nobody asked for one.
    #[default]
    Not,
    /// A socket is there; whether it works is being tried.
    Trying,
    /// It works, and the client writes to it.
    Ready(Box<Moved>),
    /// The session is there.
    Done,
}

/// A socket that carries a session which began elsewhere.
#[derive(Debug)]
pub(super) struct Moved {
    socket: WebSocket,
    /// What the session ended for.
    reason: CloseReason,
    /// Tells that to the task of the socket's connection.
    ended: Option<oneshot::Sender<CloseReason>>,
}

impl Moved {
    fn new(socket: WebSocket) -> (Self, oneshot::Receiver<CloseReason>) {
        let (ended, end) = oneshot::channel();
        (Self { socket, reason: CloseReason::PeerVanished, ended: Some(ended) }, end)
    }

    pub(super) async fn recv(&mut self) -> Incoming {
        let incoming = self.socket.recv().await;
        if let Incoming::End(reason) = &incoming {
            self.reason = *reason;
        }
        incoming
    }

    pub(super) async fn send(&mut self, messages: Vec<Bytes>) -> Result<(), CloseReason> {
        self.socket.send(messages).await.inspect_err(|reason| self.reason = *reason)
    }

    pub(super) async fn close(&mut self, reason: CloseReason, words: &str) {
        self.reason = reason;
        self.socket.close(reason, words).await;
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        if let Some(ended) = self.ended.take() {
            let _connection_gone = ended.send(self.reason);
        }
    }
}

/// A move that is being tried; dropping it gives it up.
struct Attempt(Arc<Poll>);

impl Attempt {
    /// At most one at a time.
    fn begin(poll: Arc<Poll>) -> Option<Self> {
        let begun = poll.with_move(|moving| {
            let free = matches!(moving, Move::Not);
            if free {
                *moving = Move::Trying;
            }
            free
        });
        // Not made at all where it has not begun: dropping it would give up the other one.
        begun.then(|| Self(poll))
    }

    fn succeed(self, moved: Moved) {
        self.0.with_move(|moving| {
            // Not when the session has ended meanwhile.
            if matches!(moving, Move::Trying) {
                *moving = Move::Ready(Box::new(moved));
            }
        });
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.with_move(|moving| {
            if matches!(moving, Move::Trying) {
                *moving = Move::Not;
            }
        });
    }
}

/// Serves the connection of a socket that is to carry on the session `id`: until that session ends, or at once when there
/// is none that could move, in which case the client is told to stay where it is, at `host`.
pub(crate) async fn carry_on(
    polls: &Polls,
    id: &str,
    database: &Arc<Database>,
    host: &str,
    mut socket: WebSocket,
    connection: Session,
) -> CloseReason {
    let attempt = polls.of_session(id, database).and_then(Attempt::begin);
    let Some(attempt) = attempt else {
        let stay = wire::control_text("r", host);
        let _gone = socket.send(vec![stay.into()]).await;
        socket.close(CloseReason::PeerClosed, "").await;
        return CloseReason::PeerClosed;
    };
    let poll = attempt.0.clone();
    if let Err(reason) = handshake(&mut socket, &connection).await {
        drop(attempt);
        socket.close(reason, "only the handshake of an upgrade is expected").await;
        return reason;
    }
    let (moved, mut ended) = Moved::new(socket);
    attempt.succeed(moved);
    tokio::select! {
        biased;
        ended = &mut ended => return ended.unwrap_or(CloseReason::PeerVanished),
        () = connection.closing() => {}
    }
    let reason = connection.close_reason().unwrap_or(CloseReason::Shutdown);
    poll.session().close(reason);
    let _as_we_said = ended.await;
    reason
}

/// Our word that the session is known, pings until the client trusts the socket, and its word.
async fn handshake(socket: &mut WebSocket, connection: &Session) -> Result<(), CloseReason> {
    socket.send(vec![wire::control("a").into()]).await?;
    loop {
        let incoming = tokio::select! {
            biased;
            () = connection.closing() => return Err(connection.close_reason().unwrap_or(CloseReason::Shutdown)),
            incoming = socket.recv() => incoming,
        };
        match incoming {
            Incoming::KeepAlive => {}
            Incoming::End(reason) => return Err(reason),
            Incoming::Message(text, _permit) => match wire::parse(&text) {
                Ok(Message::Control { kind }) if kind == "p" => {
                    socket.send(vec![Bytes::from_static(wire::PONG)]).await?
                }
                Ok(Message::Control { kind }) if kind == "a" => return Ok(()),
                _ => return Err(CloseReason::ProtocolError),
            },
        }
    }
}
