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

    /// The real one, or what is said waits for it; given back when too much waits.
    fn real_or_wait(
        &self,
        caller: &Caller,
        message: Message,
        to: Option<Outlet>,
    ) -> Result<(), (Option<Arc<dyn Conversation>>, Message, Option<Outlet>)> {
        let mut state = self.state.lock();
        match &state.real {
            Some(real) => Err((Some(real.clone()), message, to)),
            None if state.early.len() >= EARLY_MAX => Err((None, message, to)),
            None => {
                state.early.push((caller.clone(), message, to));
                Ok(())
            }
        }
    }
}

impl Conversation for Deferred {
    fn call(&self, caller: &Caller, request: Message, to: Outlet) {
        match self.real_or_wait(caller, request, Some(to)) {
            Err((Some(real), request, Some(to))) => real.call(caller, request, to),
            Err((None, request, Some(to))) => {
                let message = "the server is being started: call when `initialize` is answered";
                let fault = Fault::overloaded(message, std::time::Duration::from_secs(1));
                let _left = to.send(fault.answer(request.id()));
            }
            _ => {}
        }
    }

    fn tell(&self, caller: &Caller, message: Message) {
        if let Err((Some(real), message, _)) = self.real_or_wait(caller, message, None) {
            real.tell(caller, message);
        }
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
