//! What stands in front of a server and sees every message to it: filters, limits, rules, tapes and counters are [`Hook`]s, and [`Layered`] puts
//! them in front of one. What they do is theirs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::BoxFuture;
use standpipe_wire::jsonrpc::Message;

use crate::{Caller, Conversation, LegacyServer, ModernServer, Outlet, Server};

/// A request on its way to a server.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who sends it.
    pub caller: Caller,
    /// The legacy session it belongs to, by number; `None` where it stands alone.
    pub session: Option<u64>,
    /// The request.
    pub message: Message,
    /// Where its progress and its reply go.
    pub to: Outlet,
}

/// Sees every message to a server, and may change it, delay it, answer it, or look at what comes back (`Outlet::through`). None of its methods
/// may wait: who delays spawns.
pub trait Hook: fmt::Debug + Send + Sync {
    /// A request, `initialize` included.
    fn call(&self, call: Call, next: Next) {
        next.pass(call);
    }

    /// A notification, or the answer to a request of the server, in the legacy session `session`; `None` keeps it back.
    fn tell(&self, caller: &Caller, session: u64, message: Message) -> Option<Message> {
        let _ = (caller, session);
        Some(message)
    }

    /// A legacy session begins: the way of what belongs to no call.
    fn news(&self, caller: &Caller, session: u64, news: Outlet) -> Outlet {
        let _ = (caller, session);
        news
    }

    /// A legacy session has ended.
    fn closed(&self, session: u64) {
        let _ = session;
    }
}

/// The rest of the way of a request.
pub struct Next {
    hooks: Arc<[Arc<dyn Hook>]>,
    at: usize,
    last: Last,
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").field("at", &self.at).finish_non_exhaustive()
    }
}

type Last = Box<dyn FnOnce(Call) + Send>;

impl Next {
    /// Sends the request on.
    pub fn pass(mut self, call: Call) {
        match self.hooks.get(self.at).cloned() {
            Some(hook) => {
                self.at += 1;
                hook.call(call, self);
            }
            None => (self.last)(call),
        }
    }
}

/// A server with hooks in front of it; the first one sees a request first and what comes back last.
#[derive(Clone, Debug)]
pub struct Layered {
    server: Arc<dyn Server>,
    hooks: Arc<[Arc<dyn Hook>]>,
}

impl Layered {
    /// Puts `hooks` in front of `server`.
    pub fn new(server: Arc<dyn Server>, hooks: Vec<Arc<dyn Hook>>) -> Self {
        Self { server, hooks: hooks.into() }
    }

    fn pass(&self, call: Call, last: impl FnOnce(Call) + Send + 'static) {
        Next { hooks: self.hooks.clone(), at: 0, last: Box::new(last) }.pass(call);
    }
}

/// Numbers sessions, for tapes and logs.
static SESSIONS: AtomicU64 = AtomicU64::new(1);

impl ModernServer for Layered {
    fn call(&self, caller: Caller, request: Message, to: Outlet) {
        let server = self.server.clone();
        let call = Call { caller, session: None, message: request, to };
        self.pass(call, move |call| server.call(call.caller, call.message, call.to));
    }
}

impl LegacyServer for Layered {
    fn open(&self, caller: &Caller, initialize: Message, to: Outlet, news: Outlet) -> Arc<dyn Conversation> {
        let session = SESSIONS.fetch_add(1, Ordering::Relaxed);
        let news = self.hooks.iter().rev().fold(news, |news, hook| hook.news(caller, session, news));
        let (server, slot) = (self.server.clone(), Arc::new(Slot::default()));
        let call = Call { caller: caller.clone(), session: Some(session), message: initialize, to };
        let opened = slot.clone();
        self.pass(call, move |call| opened.set(server.open(&call.caller, call.message, call.to, news)));
        Arc::new(LayeredConversation { layers: self.clone(), session, slot })
    }
}

/// The inner session; a hook may open it later, or never.
#[derive(Debug, Default)]
struct Slot {
    conversation: std::sync::OnceLock<Arc<dyn Conversation>>,
    told: tokio::sync::Notify,
}

impl Slot {
    fn set(&self, conversation: Arc<dyn Conversation>) {
        let _only_once = self.conversation.set(conversation);
        self.told.notify_waiters();
    }

    async fn get(&self) -> Arc<dyn Conversation> {
        loop {
            let told = self.told.notified();
            match self.conversation.get() {
                Some(conversation) => return conversation.clone(),
                None => told.await,
            }
        }
    }
}

#[derive(Debug)]
struct LayeredConversation {
    layers: Layered,
    session: u64,
    slot: Arc<Slot>,
}

impl Conversation for LayeredConversation {
    fn call(&self, caller: &Caller, request: Message, to: Outlet) {
        let call = Call { caller: caller.clone(), session: Some(self.session), message: request, to };
        let slot = self.slot.clone();
        self.layers.pass(call, move |call| {
            // A client may not call before its `initialize` is answered; where it does, the call's stream just ends.
            if let Some(conversation) = slot.conversation.get() {
                conversation.call(&call.caller, call.message, call.to);
            }
        });
    }

    fn tell(&self, caller: &Caller, message: Message) {
        let told = self.layers.hooks.iter().try_fold(message, |message, hook| hook.tell(caller, self.session, message));
        if let (Some(message), Some(conversation)) = (told, self.slot.conversation.get()) {
            conversation.tell(caller, message);
        }
    }

    fn ended(&self) -> BoxFuture<'static, ()> {
        let slot = self.slot.clone();
        Box::pin(async move { slot.get().await.ended().await })
    }
}

impl Drop for LayeredConversation {
    fn drop(&mut self) {
        self.layers.hooks.iter().for_each(|hook| hook.closed(self.session));
    }
}
