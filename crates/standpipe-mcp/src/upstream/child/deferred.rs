//! A session of which it is not known yet what it is with: what is said meanwhile waits, in its order.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use standpipe_wire::jsonrpc::Message;
use tokio::sync::watch;

use crate::{Caller, Conversation, Fault, Outlet};

/// What may wait; a client has nothing to say before its `initialize` is answered.
const EARLY_MAX: usize = 16;

/// See the module's text.
pub(super) struct Deferred {
    state: Mutex<State>,
    known: watch::Sender<Option<Arc<dyn Conversation>>>,
}

#[derive(Default)]
struct State {
    real: Option<Arc<dyn Conversation>>,
    early: Vec<(Caller, Message, Option<Outlet>)>,
}

impl fmt::Debug for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Deferred({:?})", self.state.lock().real)
    }
}

impl Deferred {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), known: watch::Sender::new(None) })
    }

    /// It is with this one.
    pub(super) fn set(&self, real: Arc<dyn Conversation>) {
        loop {
            let early = {
                let mut state = self.state.lock();
                if state.early.is_empty() {
                    state.real = Some(real.clone());
                    break;
                }
                std::mem::take(&mut state.early)
            };
            for (caller, message, to) in early {
                match to {
                    Some(to) => real.call(&caller, message, to),
                    None => real.tell(&caller, message),
                }
            }
        }
        self.known.send_replace(Some(real));
    }

    /// Says it to the real one, or keeps it for that: a call if there is somewhere its reply goes.
    fn say(&self, caller: &Caller, message: Message, to: Option<Outlet>) {
        let mut state = self.state.lock();
        if let Some(real) = state.real.clone() {
            drop(state);
            match to {
                Some(to) => real.call(caller, message, to),
                None => real.tell(caller, message),
            }
        } else if state.early.len() < EARLY_MAX {
            state.early.push((caller.clone(), message, to));
        } else if let Some(to) = to {
            drop(state);
            let text = "the server is being started: call when `initialize` is answered";
            let fault = Fault::overloaded(text, std::time::Duration::from_secs(1));
            let _left = to.send(fault.answer(message.id()));
        }
    }
}

impl Conversation for Deferred {
    fn call(&self, caller: &Caller, request: Message, to: Outlet) {
        self.say(caller, request, Some(to));
    }

    fn tell(&self, caller: &Caller, message: Message) {
        self.say(caller, message, None);
    }

    fn ended(&self) -> BoxFuture<'static, ()> {
        let mut known = self.known.subscribe();
        async move {
            let real = known.wait_for(Option::is_some).await.map(|real| real.clone());
            // Without a real one there is nobody left who would set it, which is an end too.
            if let Ok(Some(real)) = real {
                real.ended().await;
            }
        }
        .boxed()
    }
}
