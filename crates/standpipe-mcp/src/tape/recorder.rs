//! The hook that puts every message to and from a server on a tape. It changes and delays nothing.

use std::sync::Arc;

use standpipe_wire::jsonrpc::Message;

use super::line::{Direction, Record, Sender, Track, now_us};
use super::mask::Masks;
use super::sink::Recording;
use crate::exchange::{Closed, Relay};
use crate::layer::{Call, Hook, Next};
use crate::{Caller, Outlet};

/// Records one server.
#[derive(Debug)]
pub struct Recorder(Tap);

impl Recorder {
    /// Puts the messages of the server with this name on a tape.
    pub fn new(recording: Arc<Recording>, server: &str, masks: Masks) -> Arc<Self> {
        let track = Arc::new(Track { server: server.into(), masks });
        recording.begin(track.clone());
        Arc::new(Self(Tap { recording, track, session: None, call: None }))
    }
}

impl Hook for Recorder {
    fn call(&self, mut call: Call, next: Next) {
        let tap = Tap { session: call.session, call: Some(self.0.recording.next_call()), ..self.0.clone() };
        tap.add(Direction::In, Some(&call.caller), call.message.clone());
        call.to = call.to.through(Arc::new(tap));
        next.pass(call);
    }

    fn tell(&self, caller: &Caller, session: u64, message: Message) -> Option<Message> {
        let tap = Tap { session: Some(session), ..self.0.clone() };
        tap.add(Direction::In, Some(caller), message.clone());
        Some(message)
    }

    fn news(&self, _: &Caller, session: u64, news: Outlet) -> Outlet {
        news.through(Arc::new(Tap { session: Some(session), ..self.0.clone() }))
    }
}

/// Where messages of one server, session or call are put on a tape.
#[derive(Clone, Debug)]
struct Tap {
    recording: Arc<Recording>,
    track: Arc<Track>,
    session: Option<u64>,
    call: Option<u64>,
}

impl Tap {
    fn add(&self, direction: Direction, caller: Option<&Caller>, message: Message) {
        self.recording.add(Record {
            track: self.track.clone(),
            at_us: now_us(),
            session: self.session,
            call: self.call,
            direction,
            sender: caller.map(Sender::of),
            message,
        });
    }
}

impl Relay for Tap {
    fn relay(&self, message: Message, to: &Outlet) -> Result<(), Closed> {
        self.add(Direction::Out, None, message.clone());
        to.send(message)
    }
}
