//! A session's link over long polling (firebase-rtdb §8): what requests brought waits here for the session, and what the
//! session says waits for a request to take it. Requests and their answers are [`super::poll_http`]'s; how a session moves
//! on to a WebSocket is [`super::poll_move`]'s.
//!
//! Nothing here has a timer of its own. A conversation without a request is closed by the deadline that its session
//! has, like any connection.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use bytes::Bytes;
use parking_lot::Mutex;
use standpipe_engine::Database;
use standpipe_serve::{BytesPermit, CloseReason, Session};
use standpipe_wire::firebase as messages;
use standpipe_wire::longpoll::{self as wire, Broken, Piece, Pieces, Who};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::poll_move::{Move, Moved};
use super::registry::new_id;
use super::session::{Incoming, Link};
use crate::goodbye::GOODBYE_WITHIN;

/// Bytes of a message in pieces that need no admission.
const UNADMITTED_BYTES: usize = 64 << 10;

/// All conversations by their names, which are those of their sessions; a handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Polls(Arc<Mutex<HashMap<Box<str>, Arc<Poll>>>>);

impl Polls {
    /// Begins the conversation that carries the session `id`.
    pub(super) fn open(&self, id: &str, session: Session, database: &Arc<Database>) -> (PollLink, Arc<Poll>) {
        let poll = Arc::new(Poll {
            id: id.into(),
            password: new_id(),
            session,
            database: database.clone(),
            state: Mutex::default(),
            changed: Notify::new(),
        });
        self.0.lock().insert(id.into(), poll.clone());
        (PollLink { polls: self.clone(), poll: poll.clone(), moving: false, moved: None }, poll)
    }

    /// The conversation, to who knows its password.
    pub(super) fn find(&self, who: Who<'_>) -> Option<Arc<Poll>> {
        let poll = self.0.lock().get(who.id).cloned()?;
        verify_slices_are_equal(poll.password.as_bytes(), who.password.as_bytes()).ok().map(|()| poll)
    }

    /// The conversation of a session of that database.
    pub(super) fn of_session(&self, id: &str, database: &Arc<Database>) -> Option<Arc<Poll>> {
        self.0.lock().get(id).filter(|poll| Arc::ptr_eq(&poll.database, database)).cloned()
    }

    pub(super) fn forget(&self, poll: &Poll) {
        self.0.lock().remove(&poll.id);
    }
}

/// What the requests of a client and its session share.
#[derive(Debug)]
pub(super) struct Poll {
    id: Box<str>,
    password: String,
    session: Session,
    database: Arc<Database>,
    state: Mutex<State>,
    /// Rings when anything of the state has changed that somebody may wait for.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    pieces: Pieces,
    /// Admits the bytes of the message that comes in, if it is a large one.
    permit: Option<BytesPermit>,
    inbox: VecDeque<(String, Option<BytesPermit>)>,
    inbox_bytes: usize,
    outbox: Vec<Bytes>,
    outbox_bytes: usize,
    /// The number of the next response.
    response: u64,
    /// The newest request, the only one that waits.
    newest: u64,
    open_requests: usize,
    /// Nothing more comes from the client, and why.
    left: Option<CloseReason>,
    /// Nothing more comes from the session: once the outbox is taken, the client is to close.
    over: bool,
    /// The client was told so.
    told: bool,
    moving: Move,
}

impl Poll {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn password(&self) -> &str {
        &self.password
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// Looks at the state, or changes it and tells.
    pub(super) fn with_move<T>(&self, change: impl FnOnce(&mut Move) -> T) -> T {
        let result = change(&mut self.state.lock().moving);
        self.changed.notify_waiters();
        result
    }

    /// The client has left, or broke the protocol.
    pub(super) fn leave(&self, reason: CloseReason) {
        self.state.lock().left.get_or_insert(reason);
        self.changed.notify_waiters();
    }

    /// Waits until `look` finds something.
    async fn wait<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            // Made before the look, it hears of what comes after the look.
            let told = self.changed.notified();
            if let Some(found) = look(&mut self.state.lock()) {
                return found;
            }
            told.await;
        }
    }

    /// A request is there: it is the newest, and while it is there the client is.
    pub(super) fn arrive(&self) -> OpenRequest<'_> {
        OpenRequest::new(self)
    }

    /// Takes what a request brought, once there is room for it. While the session waits for room itself it is taken in
    /// any case: the same request will make room.
    pub(super) async fn feed(&self, pieces: &[Piece<'_>]) {
        if pieces.is_empty() {
            return;
        }
        let limits = self.session.limits();
        let (room, bytes_max) = (limits.poll_buffer_bytes_max, limits.ws_message_bytes_max);
        self.wait(|state| (state.inbox_bytes < room || state.outbox_bytes > room || state.is_closed()).then_some(()))
            .await;
        let taken = {
            let mut state = self.state.lock();
            if state.is_closed() {
                return;
            }
            pieces.iter().try_for_each(|piece| state.take(&self.session, *piece, bytes_max))
        };
        match taken {
            Ok(()) => self.changed.notify_waiters(),
            Err(reason) => self.leave(reason),
        }
    }

    /// Whether the client was told to close: no request of it has anything to say or to hear.
    pub(super) fn is_done(&self) -> bool {
        self.state.lock().told
    }
}

impl State {
    fn is_closed(&self) -> bool {
        self.over || self.left.is_some()
    }

    fn take(&mut self, session: &Session, piece: Piece<'_>, bytes_max: usize) -> Result<(), CloseReason> {
        let mut whole = Vec::new();
        self.pieces.take(piece, bytes_max, &mut whole).map_err(|broken: Broken| {
            tracing::debug!(session = session.id(), %broken, "pieces of a message");
            CloseReason::ProtocolError
        })?;
        for message in whole {
            self.inbox_bytes += message.len();
            self.inbox.push_back((message, self.permit.take()));
        }
        let held = self.pieces.held();
        let admitted = self.permit.as_ref().map_or(0, BytesPermit::bytes);
        if held <= admitted + UNADMITTED_BYTES {
            return Ok(());
        }
        let permit = match &mut self.permit {
            Some(permit) => permit,
            none => none.insert(session.body_bytes(0).map_err(CloseReason::Refused)?),
        };
        permit.grow(held - admitted).map_err(CloseReason::Refused)
    }

    fn put(&mut self, message: Bytes) {
        self.outbox_bytes += message.len();
        self.outbox.push(message);
    }

    /// The next response, with everything there is.
    fn respond(&mut self) -> Vec<u8> {
        let messages = std::mem::take(&mut self.outbox);
        let mut answer = Vec::with_capacity(self.outbox_bytes + 64);
        self.outbox_bytes = 0;
        wire::response(self.response, messages.iter().map(|message| &message[..]), &mut answer);
        if self.over {
            self.told = true;
            // The first response comes with the start, and a client can't be told to close after number 0.
            answer.extend_from_slice(&wire::close((self.response > 0).then_some(self.response)));
        }
        self.response += 1;
        answer
    }
}

/// A request that waits. While there is none the client may be gone, and the session's deadline runs.
pub(super) struct OpenRequest<'a> {
    poll: &'a Poll,
    turn: u64,
}

impl<'a> OpenRequest<'a> {
    fn new(poll: &'a Poll) -> Self {
        // Its bytes are counted where they travel.
        poll.session.add_bytes(0, 0);
        let turn = {
            let mut state = poll.state.lock();
            state.open_requests += 1;
            state.newest += 1;
            poll.session.not_due();
            state.newest
        };
        poll.changed.notify_waiters();
        Self { poll, turn }
    }

    /// What it is answered: what the session says, as soon as it says something; nothing, when `hold` has passed or a
    /// newer request is there; that it is over, when it is.
    pub(super) async fn answer(self, hold: Duration) -> Vec<u8> {
        let Self { poll, turn } = &self;
        let answer = poll.wait(|state| {
            let due = !state.outbox.is_empty() || state.newest != *turn || state.over;
            due.then(|| state.respond())
        });
        let answer = match timeout(hold, answer).await {
            Ok(answer) => answer,
            Err(_) => poll.state.lock().respond(),
        };
        // There is room for more.
        poll.changed.notify_waiters();
        answer
    }
}

impl Drop for OpenRequest<'_> {
    fn drop(&mut self) {
        let Poll { state, session, .. } = self.poll;
        let mut state = state.lock();
        state.open_requests -= 1;
        // After a move it is the socket that tells whether somebody is there.
        if state.open_requests == 0 && !matches!(state.moving, Move::Done) {
            session.due(CloseReason::IdleTimeout, session.limits().poll_silence_ms_max);
        }
    }
}

/// The session's end of a conversation.
#[derive(Debug)]
pub(super) struct PollLink {
    polls: Polls,
    poll: Arc<Poll>,
    /// The client has said its last word here and goes on over a WebSocket.
    moving: bool,
    moved: Option<Box<Moved>>,
}

impl PollLink {
    /// The next thing said here; `None` when the WebSocket is there on which it goes on.
    async fn next(&mut self) -> Option<Incoming> {
        let Self { poll, moving, moved, .. } = self;
        poll.wait(|state| {
            while !*moving {
                let Some((message, permit)) = state.inbox.pop_front() else {
                    return state.left.map(|reason| Some(Incoming::End(reason)));
                };
                state.inbox_bytes -= message.len();
                poll.changed.notify_waiters();
                if !wire::ends_transmission(&message) {
                    return Some(Some(Incoming::Message(message, permit)));
                }
                *moving = true;
            }
            match std::mem::take(&mut state.moving) {
                Move::Ready(socket) => {
                    *moved = Some(socket);
                    state.moving = Move::Done;
                    state.put(messages::control("n").into());
                    state.over = true;
                    poll.session.not_due();
                    poll.changed.notify_waiters();
                    Some(None)
                }
                // It has said so there, too, which has yet to arrive.
                Move::Trying => {
                    state.moving = Move::Trying;
                    None
                }
                Move::Not | Move::Done => Some(Some(Incoming::End(CloseReason::ProtocolError))),
            }
        })
        .await
    }

    /// Waits until what waits for a request is at most `bytes`, or nobody will come for it.
    async fn taken(&self, bytes: usize) {
        let session = &self.poll.session;
        let taken = self.poll.wait(|state| (state.outbox_bytes <= bytes || state.is_closed()).then_some(()));
        tokio::select! {
            biased;
            () = taken => {}
            () = session.closing() => {}
        }
    }
}

impl Link for PollLink {
    async fn recv(&mut self) -> Incoming {
        if self.moved.is_none()
            && let Some(incoming) = self.next().await
        {
            return incoming;
        }
        match &mut self.moved {
            Some(moved) => moved.recv().await,
            None => Incoming::End(CloseReason::Internal),
        }
    }

    async fn send(&mut self, messages: Vec<Bytes>) -> Result<(), CloseReason> {
        if let Some(moved) = &mut self.moved {
            return moved.send(messages).await;
        }
        let room = self.poll.session.limits().poll_buffer_bytes_max;
        let full = {
            let mut state = self.poll.state.lock();
            messages.into_iter().for_each(|message| state.put(message));
            state.outbox_bytes > room
        };
        self.poll.changed.notify_waiters();
        if full {
            self.poll.session.output_blocked(true);
            self.taken(room).await;
            self.poll.session.output_blocked(false);
        }
        Ok(())
    }

    async fn close(&mut self, reason: CloseReason, words: &str) {
        if let Some(moved) = &mut self.moved {
            return moved.close(reason, words).await;
        }
        let waits = {
            let mut state = self.poll.state.lock();
            if !words.is_empty() {
                state.put(messages::control_text("e", words).into());
            }
            state.over = true;
            !state.outbox.is_empty() && reason != CloseReason::PeerClosed
        };
        self.poll.changed.notify_waiters();
        if waits {
            let taken = self.poll.wait(|state| state.outbox.is_empty().then_some(()));
            let _nobody_comes = timeout(GOODBYE_WITHIN, taken).await;
        }
    }
}

impl Drop for PollLink {
    fn drop(&mut self) {
        self.polls.forget(&self.poll);
        let mut state = self.poll.state.lock();
        state.over = true;
        drop(std::mem::replace(&mut state.moving, Move::Done));
        drop(state);
        self.poll.changed.notify_waiters();
    }
}
