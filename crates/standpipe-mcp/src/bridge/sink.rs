//! The client's end of a stream that no client takes: what a bridge asks for itself, and calls whose messages it passes on by its own rules.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use standpipe_wire::jsonrpc::{Kind, Message};

use crate::exchange::{Closed, Inlet, Relay, Room};
use crate::{Outlet, exchange};

/// Nothing is queued: the relay takes all.
const NOTHING: Room = Room { messages: 1, bytes: 1 };

/// A way to `relay`, and the end of it: whoever drops the end has left.
pub(super) fn sink(relay: Arc<dyn Relay>) -> (Outlet, Inlet) {
    let (outlet, inlet) = exchange(NOTHING);
    (outlet.through(relay), inlet)
}

/// A way for the answer to one request: `then` is called with it, or with nothing when the way ends without one.
pub(super) fn answer(then: impl FnOnce(Option<Message>) + Send + 'static) -> Outlet {
    let (outlet, inlet) = exchange(NOTHING);
    outlet.through(Arc::new(Answer { then: Mutex::new(Some(Box::new(then))), _until_answered: inlet }))
}

struct Answer {
    then: Mutex<Option<Then>>,
    _until_answered: Inlet,
}

type Then = Box<dyn FnOnce(Option<Message>) + Send>;

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}

impl Answer {
    fn tell(&self, answer: Option<Message>) {
        let then = self.then.lock().take();
        if let Some(then) = then {
            then(answer);
        }
    }
}

impl Relay for Answer {
    fn relay(&self, message: Message, _to: &Outlet) -> Result<(), Closed> {
        if message.kind() == Kind::Response {
            self.tell(Some(message));
        }
        Ok(())
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.tell(None);
    }
}
