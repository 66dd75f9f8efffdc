//! Modern clients of a legacy server. Each request of the modern era stands alone; the legacy server wants a session, which is opened here
//! for each principal and set of client capabilities, so that the server asks only what these clients can answer (spec mcp §4.3).
//!
//! | file | owns |
//! |---|---|
//! | `talk.rs` | a session of the server: opened, kept, ended |
//! | `passing.rs` | a call: suspended by a question, resumed by its answer |
//! | `listen.rs` | `subscriptions/listen` |
//! | `translate.rs` | messages of one era in words of the other |

mod listen;
mod passing;
mod talk;
#[cfg(test)]
mod tests;
mod translate;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use standpipe_wire::jsonrpc::Message;

use self::listen::Wanted;
use self::passing::{Client, Passing};
use self::talk::{Job, Talk};
use self::translate::{Asked, invalid};
use super::Settings;
use super::request_state::{Bound, Seal, digest_of};
use crate::{Caller, Fault, LegacyServer, ModernServer, Outlet};

/// Answers modern requests from a legacy server. Dropping it ends its sessions.
#[derive(Debug)]
pub struct Down(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    server: Arc<dyn LegacyServer>,
    settings: Settings,
    seal: Seal,
    talks: Mutex<HashMap<Key, Arc<Talk>>>,
    /// Calls whose clients were sent questions, by number.
    suspended: Mutex<HashMap<u64, Arc<Passing>>>,
    numbers: AtomicU64,
}

/// Principal, and capabilities in one way of writing.
type Key = (Arc<str>, String);

impl Down {
    /// A bridge to `server`.
    pub fn new(server: Arc<dyn LegacyServer>, settings: Settings) -> Self {
        Self(Arc::new(Inner {
            server,
            settings,
            seal: Seal::new(),
            talks: Mutex::default(),
            suspended: Mutex::default(),
            numbers: AtomicU64::new(1),
        }))
    }
}

impl ModernServer for Down {
    fn call(&self, caller: Caller, request: Message, to: Outlet) {
        if let Err(fault) = self.0.begin(caller, &request, &to) {
            let _gone = to.send(fault.answer(request.id()));
        }
    }
}

impl Drop for Down {
    fn drop(&mut self) {
        self.0.talks.lock().values().for_each(|talk| talk.close());
    }
}

impl Inner {
    fn begin(self: &Arc<Self>, caller: Caller, request: &Message, to: &Outlet) -> Result<(), Fault> {
        let method = request.method().unwrap_or_default();
        translate::check_method(method)?;
        let mut asked = translate::read(request)?;
        let id = request.id_bytes().unwrap_or_default();
        if let Some(state) = asked.state.take()
            && let Some((call, round)) = self.open_state(&state, &caller, request)?
        {
            let client = Client { id, to: to.clone(), wishes: asked.wishes };
            return call.resume(round, caller, request, client);
        }
        let key = (caller.principal.clone(), translate::canonical(&asked.capabilities)?);
        loop {
            let talk = self.talk(&key, &caller, &asked)?;
            let job = self.job(method, &talk, &caller, request, to, &asked)?;
            // A session may end between being found and taking the job; then it is not found again.
            if talk.take(job).is_ok() {
                return Ok(());
            }
        }
    }

    /// The suspended call that a retry is for; `None` where the call has to be made anew.
    fn open_state(
        &self,
        state: &str,
        caller: &Caller,
        request: &Message,
    ) -> Result<Option<(Arc<Passing>, u32)>, Fault> {
        let call = digest_of(request);
        let bound = Bound { principal: &caller.principal, server: &self.settings.server, call: &call };
        let handle = self.seal.open(state, bound).map_err(invalid)?;
        let Some(number) = handle.call else { return Ok(None) };
        let call = self.suspended.lock().get(&number).cloned();
        let call = call.ok_or_else(|| {
            invalid("requestState was used before, or its call has ended: send the request again without it")
        })?;
        Ok(Some((call, handle.round)))
    }

    fn job(
        &self,
        method: &str,
        talk: &Arc<Talk>,
        caller: &Caller,
        request: &Message,
        to: &Outlet,
        asked: &Asked,
    ) -> Result<Job, Fault> {
        let (id, number) = (request.id_bytes().unwrap_or_default(), self.number());
        Ok(match method {
            "server/discover" => Job::Discover { id, to: to.clone() },
            "subscriptions/listen" => {
                let wanted = Wanted::read(number, caller.clone(), request, to)?;
                self.admit_stream(&caller.principal)?;
                Job::Listen(Box::new(wanted))
            }
            _ => {
                let client = Client { id, to: to.clone(), wishes: asked.wishes.clone() };
                Job::Call(Arc::new(Passing::new(number, talk.clone(), caller.clone(), request.clone(), client)))
            }
        })
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The session for `key`, opened if there is none.
    fn talk(self: &Arc<Self>, key: &Key, caller: &Caller, asked: &Asked) -> Result<Arc<Talk>, Fault> {
        let mut talks = self.talks.lock();
        if let Some(talk) = talks.get(key) {
            return Ok(talk.clone());
        }
        let limits = self.settings.limits();
        self.make_room(
            &mut talks,
            Some(&key.0),
            limits.mcp_children_per_principal_max,
            "mcp_children_per_principal_max",
        )?;
        self.make_room(&mut talks, None, limits.mcp_sessions_max, "mcp_sessions_max")?;
        let talk = Talk::open(self, caller, asked);
        talks.insert(key.clone(), talk.clone());
        Ok(talk)
    }

    /// Ends the session that nobody has used for longest, if there are `max` already; refuses when all are in use.
    fn make_room(
        &self,
        talks: &mut HashMap<Key, Arc<Talk>>,
        principal: Option<&Arc<str>>,
        max: usize,
        limit: &'static str,
    ) -> Result<(), Fault> {
        let counted = |key: &Key| principal.is_none_or(|principal| *principal == key.0);
        if talks.keys().filter(|key| counted(key)).count() < max {
            return Ok(());
        }
        let idle = talks.iter().filter(|(key, talk)| counted(key) && talk.is_idle());
        let oldest = idle.min_by_key(|(_, talk)| talk.used()).map(|(key, _)| key.clone());
        match oldest.and_then(|key| talks.remove(&key)) {
            Some(talk) => {
                talk.close();
                Ok(())
            }
            None => Err(self.settings.refused(limit, "too many kinds of clients use the server")),
        }
    }

    /// A session is over.
    fn forget(&self, talk: &Arc<Talk>) {
        self.talks.lock().retain(|_, has| !Arc::ptr_eq(has, talk));
    }

    fn admit_stream(&self, principal: &Arc<str>) -> Result<(), Fault> {
        let limits = self.settings.limits();
        let talks: Vec<(Arc<str>, Arc<Talk>)> =
            self.talks.lock().iter().map(|(key, talk)| (key.0.clone(), talk.clone())).collect();
        let (mut all, mut own) = (0, 0);
        for (of, talk) in talks {
            let streams = talk.state.lock().listening.len();
            all += streams;
            own += if of == *principal { streams } else { 0 };
        }
        let why = "too many streams of subscriptions are open";
        if own >= self.settings.own.streams_per_principal {
            return Err(self.settings.refused("mcp_streams_per_principal_max", why));
        }
        if all >= limits.mcp_streams_max {
            return Err(self.settings.refused("mcp_streams_max", why));
        }
        Ok(())
    }
}
