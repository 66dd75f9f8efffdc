//! The legacy sessions at one process, or at the processes that follow each other in its place: who is told what belongs to no
//! call, and what each has asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::Deserialize;
use standpipe_wire::jsonrpc::Message;

use crate::Outlet;

/// Numbers sessions of all servers.
static SESSIONS: AtomicU64 = AtomicU64::new(1);

/// The levels of `logging/setLevel`, the least important first.
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// Sessions.
#[derive(Debug, Default)]
pub(super) struct Seats(Mutex<BTreeMap<u64, Seat>>);

/// One session.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) principal: Arc<str>,
    /// What belongs to no call goes here.
    pub(super) news: Outlet,
    pub(super) can: Can,
    /// The least important level of logs that it wants; `None` while it has not said.
    level: Option<usize>,
    /// Resources that it wants to hear of.
    uris: BTreeSet<String>,
}

/// What a client can be asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Can {
    sampling: bool,
    elicitation: bool,
    roots: bool,
}

#[derive(Deserialize)]
struct Capabilities {
    sampling: Option<serde::de::IgnoredAny>,
    elicitation: Option<serde::de::IgnoredAny>,
    roots: Option<serde::de::IgnoredAny>,
}

impl Can {
    /// As `initialize` declares it.
    pub(super) fn of(initialize: &Message) -> Self {
        let declared = initialize.at(&["capabilities"]).ok().flatten();
        let parse = |span| serde_json::from_slice::<Capabilities>(initialize.slice(span)).ok();
        declared.and_then(parse).map_or_else(Self::default, |declared| Self {
            sampling: declared.sampling.is_some(),
            elicitation: declared.elicitation.is_some(),
            roots: declared.roots.is_some(),
        })
    }

    /// Whether it can be asked this; what is not known is asked.
    fn be_asked(self, method: &str) -> bool {
        match method.split_once('/').map_or(method, |(area, _)| area) {
            "sampling" => self.sampling,
            "elicitation" => self.elicitation,
            "roots" => self.roots,
            _ => true,
        }
    }
}

/// Whether others have asked for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// Nobody has.
    None,
    /// Somebody has: the process need not be told.
    Some,
    /// It has asked for as much as it may.
    TooMany,
}

impl Seats {
    /// A session comes.
    pub(super) fn add(&self, principal: Arc<str>, news: Outlet, can: Can) -> u64 {
        let number = SESSIONS.fetch_add(1, Ordering::Relaxed);
        let seat = Seat { principal, news, can, level: None, uris: BTreeSet::new() };
        self.0.lock().insert(number, seat);
        number
    }

    /// A session goes; the resources that nobody wants to hear of any more.
    pub(super) fn remove(&self, session: u64) -> Vec<String> {
        let mut seats = self.0.lock();
        let Some(seat) = seats.remove(&session) else { return Vec::new() };
        let wanted = |uri: &String| seats.values().any(|seat| seat.uris.contains(uri));
        seat.uris.iter().filter(|uri| !wanted(uri)).cloned().collect()
    }

    /// Sessions there are.
    pub(super) fn count(&self) -> usize {
        self.0.lock().len()
    }

    /// Where what belongs to no call of this session goes.
    pub(super) fn news(&self, session: u64) -> Option<Outlet> {
        self.0.lock().get(&session).map(|seat| seat.news.clone())
    }

    /// The first session, which is the only one where each has a process of its own.
    pub(super) fn first(&self) -> Option<(u64, Outlet)> {
        self.0.lock().iter().next().map(|(number, seat)| (*number, seat.news.clone()))
    }

    /// Whether this session can be asked this.
    pub(super) fn can_be_asked(&self, session: u64, method: &str) -> bool {
        self.0.lock().get(&session).is_some_and(|seat| seat.can.be_asked(method))
    }

    /// Where news for everybody goes.
    pub(super) fn everybody(&self) -> Vec<Outlet> {
        self.0.lock().values().map(|seat| seat.news.clone()).collect()
    }

    /// Where news of a resource goes: to who has asked for it, or for what it is a part of.
    pub(super) fn of_resource(&self, uri: &str) -> Vec<Outlet> {
        let is_part = |whole: &String| {
            uri.strip_prefix(whole.as_str())
                .is_some_and(|rest| rest.is_empty() || whole.ends_with('/') || rest.starts_with('/'))
        };
        let seats = self.0.lock();
        seats.values().filter(|seat| seat.uris.iter().any(is_part)).map(|seat| seat.news.clone()).collect()
    }

    /// Where a log message goes that belongs to nobody known: to all sessions, if they are of one principal. What one
    /// does is no business of another.
    pub(super) fn of_log(&self, level: Option<&str>) -> Vec<Outlet> {
        let seats = self.0.lock();
        let first = seats.values().next().map(|seat| &seat.principal);
        if !seats.values().all(|seat| Some(&seat.principal) == first) {
            return Vec::new();
        }
        seats.values().filter(|seat| seat.hears(level)).map(|seat| seat.news.clone()).collect()
    }

    /// Whether this session wants logs of this level.
    pub(super) fn hears(&self, session: u64, level: Option<&str>) -> bool {
        self.0.lock().get(&session).is_some_and(|seat| seat.hears(level))
    }

    /// A session wants logs from this level on: the least important level that any session wants.
    pub(super) fn set_level(&self, session: u64, level: &str) -> Option<&'static str> {
        let level = LEVELS.iter().position(|known| *known == level)?;
        let mut seats = self.0.lock();
        seats.get_mut(&session)?.level = Some(level);
        seats.values().filter_map(|seat| seat.level).min().map(|level| LEVELS[level])
    }

    /// The least important level that any session wants.
    pub(super) fn level(&self) -> Option<&'static str> {
        self.0.lock().values().filter_map(|seat| seat.level).min().map(|level| LEVELS[level])
    }

    /// A session wants to hear of a resource.
    pub(super) fn subscribe(&self, session: u64, uri: &str, most: usize) -> Others {
        let mut seats = self.0.lock();
        let others = seats.iter().any(|(number, seat)| *number != session && seat.uris.contains(uri));
        let Some(seat) = seats.get_mut(&session) else { return Others::None };
        if !seat.uris.contains(uri) && seat.uris.len() >= most {
            return Others::TooMany;
        }
        let again = !seat.uris.insert(uri.to_owned());
        if others && !again { Others::Some } else { Others::None }
    }

    /// A session wants to hear of it no more.
    pub(super) fn unsubscribe(&self, session: u64, uri: &str) -> Others {
        let mut seats = self.0.lock();
        if let Some(seat) = seats.get_mut(&session) {
            seat.uris.remove(uri);
        }
        if seats.values().any(|seat| seat.uris.contains(uri)) { Others::Some } else { Others::None }
    }

    /// All resources that anybody wants to hear of.
    pub(super) fn uris(&self) -> BTreeSet<String> {
        self.0.lock().values().flat_map(|seat| seat.uris.iter().cloned()).collect()
    }
}

impl Seat {
    fn hears(&self, level: Option<&str>) -> bool {
        let at = |level| LEVELS.iter().position(|known| *known == level);
        match (self.level, level.and_then(at)) {
            (Some(wanted), Some(level)) => level >= wanted,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::{Room, exchange};

    fn outlet() -> Outlet {
        exchange(Room { messages: 9, bytes: 999 }).0
    }

    #[test]
    fn resources_are_counted_by_sessions() {
        let seats = Seats::default();
        let [a, b] = ["p", "q"].map(|principal| seats.add(principal.into(), outlet(), Can::default()));
        let subscribe = |session, uri| seats.subscribe(session, uri, 2);
        assert_eq!(
            [subscribe(a, "x"), subscribe(b, "x"), subscribe(a, "x")],
            [Others::None, Others::Some, Others::None]
        );
        assert_eq!([subscribe(a, "y"), subscribe(a, "z")], [Others::None, Others::TooMany]);
        assert_eq!(
            [seats.of_resource("x").len(), seats.of_resource("x/1").len(), seats.of_resource("xy").len()],
            [2, 2, 0]
        );
        assert_eq!(seats.unsubscribe(b, "x"), Others::Some);
        assert_eq!(seats.remove(a), ["x", "y"]);
        assert!(seats.uris().is_empty());
    }

    #[test]
    fn logs_are_for_who_wants_them_and_for_no_other_principal() {
        let seats = Seats::default();
        let [a, b] = ["p", "p"].map(|principal| seats.add(principal.into(), outlet(), Can::default()));
        assert_eq!(seats.set_level(a, "error"), Some("error"));
        assert_eq!(seats.set_level(b, "info"), Some("info"));
        assert_eq!(seats.set_level(b, "loud"), None);
        assert_eq!([seats.of_log(Some("warning")).len(), seats.of_log(Some("alert")).len()], [1, 2]);
        seats.add("q".into(), outlet(), Can::default());
        assert!(seats.of_log(Some("alert")).is_empty());
    }

    #[test]
    fn a_client_is_asked_what_it_can_be() {
        let initialize = Message::request(b"1", "initialize", br#"{"capabilities":{"roots":{},"elicitation":{}}}"#);
        let can = Can::of(&initialize);
        let asked =
            ["roots/list", "elicitation/create", "sampling/createMessage", "x/y"].map(|method| can.be_asked(method));
        assert_eq!(asked, [true, true, false, true]);
    }
}
