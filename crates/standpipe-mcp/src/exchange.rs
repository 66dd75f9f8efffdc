//! The way back to a client: a bounded queue of messages between what answers and the door that sends. Who puts a message in never waits: a
//! client that does not take what it is sent loses the stream, and slows nobody (spec mcp §4.6, out-queue).

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use standpipe_wire::jsonrpc::{Kind, Message};
use tokio::sync::Notify;

/// How much may wait in one stream towards a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Messages.
    pub messages: usize,
    /// Bytes of them; one message is always taken.
    pub bytes: usize,
}

/// A stream of messages towards one client: where it is filled, and where it is emptied.
pub fn exchange(room: Room) -> (Outlet, Inlet) {
    let shared = Arc::new(Shared { room, state: Mutex::default(), gone: Notify::new() });
    let outlet = Outlet(Way::Direct(Arc::new(Filling(shared.clone()))));
    (outlet, Inlet(shared))
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The client has left.
    #[error("the client has left")]
    Gone,
    /// The client did not take what it was sent; the stream has ended.
    #[error("the client does not take what it is sent")]
    Full,
}

/// Stands between what answers and an [`Outlet`]: it may change, count, keep back or add messages. Dropped when nothing more comes.
pub trait Relay: Send + Sync {
    /// Takes a message on its way to `to`.
    ///
    /// # Errors
    /// As [`Outlet::send`].
    fn relay(&self, message: Message, to: &Outlet) -> Result<(), Closed>;
}

/// Where messages to a client are put. The stream ends when the last handle is dropped.
#[derive(Clone)]
pub struct Outlet(Way);

#[derive(Clone)]
enum Way {
    Direct(Arc<Filling>),
    /// The stream's end goes before the relay's, which may hold the other end of the stream.
    Through(Box<Outlet>, Arc<dyn Relay>),
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outlet")
    }
}

impl Outlet {
    /// Sends a message; never waits.
    ///
    /// # Errors
    /// Nobody is there to take it. That is no reason to do anything but to stop.
    pub fn send(&self, message: Message) -> Result<(), Closed> {
        match &self.0 {
            Way::Direct(filling) => filling.0.put(message),
            Way::Through(to, relay) => relay.relay(message, to),
        }
    }

    /// The same stream, with `relay` in front of it.
    #[must_use]
    pub fn through(self, relay: Arc<dyn Relay>) -> Self {
        Self(Way::Through(Box::new(self), relay))
    }

    /// Whether the client has left, or lost its stream.
    pub fn is_gone(&self) -> bool {
        let state = self.shared().state.lock();
        state.gone || state.full
    }

    /// Resolves when the client has left, or lost its stream.
    pub async fn gone(&self) {
        let shared = self.shared();
        let told = shared.gone.notified();
        if !self.is_gone() {
            told.await;
        }
    }

    /// Has `then` called when the client leaves before its stream has ended; at once when it has left. `then` must not wait.
    pub fn on_gone(&self, then: impl FnOnce() + Send + 'static) {
        let mut state = self.shared().state.lock();
        if state.gone || state.full {
            drop(state);
            then();
        } else {
            state.on_gone.push(Box::new(then));
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        match &self.0 {
            Way::Direct(filling) => &filling.0,
            Way::Through(to, _) => to.shared(),
        }
    }
}

/// The end of a stream where the door takes messages out. Dropped, the client has left.
pub struct Inlet(Arc<Shared>);

impl fmt::Debug for Inlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inlet")
    }
}

impl Inlet {
    /// The next message; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Message> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`Inlet::next`].
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Message>> {
        let mut state = self.0.state.lock();
        match state.messages.pop_front() {
            Some(message) => {
                state.bytes -= message.bytes().len();
                Poll::Ready(Some(message))
            }
            None if state.ended || state.full => Poll::Ready(None),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Waits for the next message, tells what it is, and leaves it; `None` at the end of the stream.
    pub async fn peek(&mut self) -> Option<Kind> {
        std::future::poll_fn(|context| {
            let mut state = self.0.state.lock();
            match state.messages.front() {
                Some(message) => Poll::Ready(Some(message.kind())),
                None if state.ended || state.full => Poll::Ready(None),
                None => {
                    state.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// What the next message is, if it is there.
    pub fn peek_now(&self) -> Option<Kind> {
        self.0.state.lock().messages.front().map(Message::kind)
    }

    /// The next message, if it is there.
    pub fn try_next(&mut self) -> Option<Message> {
        let mut state = self.0.state.lock();
        let message = state.messages.pop_front()?;
        state.bytes -= message.bytes().len();
        Some(message)
    }

    /// Whether the stream ended because the client did not take what it was sent.
    pub fn was_too_slow(&self) -> bool {
        self.0.state.lock().full
    }

    /// From now on the oldest messages go when there is no room, and the stream does not end: for what is sent whether or not a client is
    /// there to take it.
    #[must_use]
    pub fn forgetful(self) -> Self {
        self.0.state.lock().forgetful = true;
        self
    }

    /// How many messages a forgetful stream has forgotten.
    pub fn forgotten(&self) -> u64 {
        self.0.state.lock().forgotten
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        let then = {
            let mut state = self.0.state.lock();
            state.gone = true;
            state.messages.clear();
            state.bytes = 0;
            // A stream that has ended has nothing left to be cancelled.
            if state.ended { Vec::new() } else { std::mem::take(&mut state.on_gone) }
        };
        self.0.gone.notify_waiters();
        then.into_iter().for_each(|then| then());
    }
}

struct Shared {
    room: Room,
    state: Mutex<State>,
    gone: Notify,
}

#[derive(Default)]
struct State {
    messages: VecDeque<Message>,
    bytes: usize,
    waker: Option<Waker>,
    on_gone: Vec<Box<dyn FnOnce() + Send>>,
    ended: bool,
    full: bool,
    gone: bool,
    forgetful: bool,
    forgotten: u64,
}

impl State {
    fn is_full(&self, more: usize, room: Room) -> bool {
        !self.messages.is_empty() && (self.messages.len() >= room.messages || self.bytes + more > room.bytes)
    }

    fn forget_for(&mut self, more: usize, room: Room) {
        while self.forgetful && self.is_full(more, room) {
            self.bytes -= self.messages.pop_front().map_or(0, |message| message.bytes().len());
            self.forgotten += 1;
        }
    }
}

impl Shared {
    fn put(&self, message: Message) -> Result<(), Closed> {
        let bytes = message.bytes().len();
        let (result, waker, then) = {
            let mut state = self.state.lock();
            if state.gone {
                return Err(Closed::Gone);
            }
            state.forget_for(bytes, self.room);
            if state.full || state.is_full(bytes, self.room) {
                state.full = true;
                state.messages.clear();
                state.bytes = 0;
                (Err(Closed::Full), state.waker.take(), std::mem::take(&mut state.on_gone))
            } else {
                state.messages.push_back(message);
                state.bytes += bytes;
                (Ok(()), state.waker.take(), Vec::new())
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        if result.is_err() {
            self.gone.notify_waiters();
            then.into_iter().for_each(|then| then());
        }
        result
    }
}

/// Dropped with the last outlet.
struct Filling(Arc<Shared>);

impl Drop for Filling {
    fn drop(&mut self) {
        let (waker, _never_called) = {
            let mut state = self.0.state.lock();
            state.ended = true;
            (state.waker.take(), std::mem::take(&mut state.on_gone))
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const ROOM: Room = Room { messages: 2, bytes: 1_000 };

    fn note(method: &str) -> Message {
        Message::notification(method, b"{}")
    }

    fn counted(outlet: &Outlet) -> Arc<AtomicUsize> {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = count.clone();
        outlet.on_gone(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        count
    }

    #[tokio::test]
    async fn messages_come_in_order_and_then_the_end() {
        let (outlet, mut inlet) = exchange(ROOM);
        let gone = counted(&outlet);
        assert_eq!(inlet.peek_now(), None);
        outlet.send(note("a")).unwrap();
        outlet.clone().send(note("b")).unwrap();
        drop(outlet);
        assert_eq!((inlet.peek_now(), inlet.peek().await), (Some(Kind::Notification), Some(Kind::Notification)));
        assert_eq!(inlet.next().await.unwrap().method(), Some("a"));
        assert_eq!(inlet.next().await.unwrap().method(), Some("b"));
        assert!(inlet.next().await.is_none() && inlet.peek().await.is_none());
        drop(inlet);
        assert_eq!(gone.load(Ordering::Relaxed), 0, "nobody left before the end");
    }

    #[tokio::test]
    async fn who_leaves_is_missed_once() {
        let (outlet, inlet) = exchange(ROOM);
        let gone = counted(&outlet);
        drop(inlet);
        outlet.gone().await;
        assert_eq!(outlet.send(note("a")), Err(Closed::Gone));
        assert_eq!((gone.load(Ordering::Relaxed), counted(&outlet).load(Ordering::Relaxed)), (1, 1));
    }

    #[tokio::test]
    async fn who_does_not_take_loses_the_stream() {
        let (outlet, mut inlet) = exchange(ROOM);
        let gone = counted(&outlet);
        let sent = [(); 4].map(|()| outlet.send(note("a")));
        assert_eq!(sent, [Ok(()), Ok(()), Err(Closed::Full), Err(Closed::Full)]);
        assert!(inlet.next().await.is_none());
        assert!(inlet.was_too_slow());
        assert_eq!(gone.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn what_nobody_has_to_take_is_forgotten() {
        let (outlet, inlet) = exchange(ROOM);
        let mut inlet = inlet.forgetful();
        for method in ["a", "b", "c"] {
            outlet.send(note(method)).unwrap();
        }
        assert_eq!((inlet.forgotten(), inlet.next().await.unwrap().method()), (1, Some("b")));
        assert!(!inlet.was_too_slow());
    }

    #[tokio::test]
    async fn a_relay_may_change_what_passes() {
        struct Twice;
        impl Relay for Twice {
            fn relay(&self, message: Message, to: &Outlet) -> Result<(), Closed> {
                to.send(message.clone())?;
                to.send(message)
            }
        }
        let (outlet, mut inlet) = exchange(ROOM);
        outlet.through(Arc::new(Twice)).send(note("a")).unwrap();
        assert!(inlet.try_next().is_some() && inlet.try_next().is_some() && inlet.try_next().is_none());
    }
}
