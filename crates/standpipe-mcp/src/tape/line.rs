//! One line of a tape: how a message is written, and what of a line is read. A line is a JSON object; members that a reader does not know are passed over.
//!
//! ```text
//! {"at":1764374400000.125,"tape":1,"server":"files","by":"standpipe 0.0.0","masks":{…}}                  a recording begins
//! {"at":…,"server":"files","session":3,"call":7,"direction":"in","caller":"user:ann","transport":{…},"message":{…}}
//! {"at":…,"server":"files","session":3,"call":7,"direction":"out","message":{…}}                          what the call led to
//! {"at":…,"server":"files","session":3,"direction":"out","message":{…}}                                   what no call led to
//! {"at":…,"gap":{"messages":12}}                                                                          messages that could not be written
//! ```
//! `at` is milliseconds since the epoch. `session` is there in the legacy era only. `message` is what was sent, byte for byte but for masks.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use standpipe_serve::Peer;
use standpipe_tree::write_json_string;
use standpipe_wire::jsonrpc::Message;

use super::mask::{MASK, MaskConfig, Masks};
use crate::Caller;

/// The version of the form of tapes.
pub(super) const VERSION: u32 = 1;

/// Which way a message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From a client to the server.
    In,
    /// From the server to a client.
    Out,
}

/// Who sent a message, and over what.
#[derive(Debug)]
pub(super) struct Sender {
    principal: Arc<str>,
    door: &'static str,
    peer: Peer,
    connection: u64,
    headers: Option<Arc<HeaderMap>>,
}

impl Sender {
    pub(super) fn of(caller: &Caller) -> Self {
        Self {
            principal: caller.principal.clone(),
            door: caller.session.door(),
            peer: caller.session.peer(),
            connection: caller.session.id(),
            headers: caller.headers.clone(),
        }
    }
}

/// Whose masks and name a record goes by.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) server: Box<str>,
    pub(super) masks: Masks,
}

/// A message on its way to a tape.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) track: Arc<Track>,
    pub(super) at_us: u64,
    pub(super) session: Option<u64>,
    pub(super) call: Option<u64>,
    pub(super) direction: Direction,
    pub(super) sender: Option<Sender>,
    pub(super) message: Message,
}

impl Record {
    /// What it takes in a queue, in bytes: about.
    pub(super) fn cost(&self) -> usize {
        self.message.bytes().len() + 256
    }

    /// Writes its line; says how many secrets were masked.
    pub(super) fn write(&self, out: &mut Vec<u8>) -> usize {
        write_at(self.at_us, out);
        out.extend_from_slice(b",\"server\":");
        write_json_string(&self.track.server, out);
        for (name, number) in [("session", self.session), ("call", self.call)] {
            if let Some(number) = number {
                out.extend_from_slice(format!(",\"{name}\":{number}").as_bytes());
            }
        }
        out.extend_from_slice(match self.direction {
            Direction::In => b",\"direction\":\"in\"".as_slice(),
            Direction::Out => b",\"direction\":\"out\"",
        });
        let mut masked = 0;
        if let Some(sender) = &self.sender {
            masked += self.write_sender(sender, out);
        }
        let message = self.message.line();
        let (message, found) = self.track.masks.apply(&message);
        out.extend_from_slice(b",\"message\":");
        out.extend_from_slice(&message);
        out.extend_from_slice(b"}\n");
        masked + found
    }

    fn write_sender(&self, sender: &Sender, out: &mut Vec<u8>) -> usize {
        out.extend_from_slice(b",\"caller\":");
        write_json_string(&sender.principal, out);
        out.extend_from_slice(format!(",\"transport\":{{\"door\":\"{}\",\"peer\":", sender.door).as_bytes());
        write_json_string(&sender.peer.to_string(), out);
        out.extend_from_slice(format!(",\"connection\":{}", sender.connection).as_bytes());
        let mut masked = 0;
        if let Some(headers) = &sender.headers {
            for (at, (name, value)) in headers.iter().enumerate() {
                out.extend_from_slice(if at == 0 { b",\"headers\":[[".as_slice() } else { b"],[" });
                let value = String::from_utf8_lossy(value.as_bytes());
                let hidden = self.track.masks.hides_header(name.as_str());
                let shown = if hidden { MASK.to_owned() } else { self.track.masks.text(&value) };
                masked += usize::from(shown != value);
                write_json_string(name.as_str(), out);
                out.push(b',');
                write_json_string(&shown, out);
            }
            out.extend_from_slice(if headers.is_empty() { b"" } else { b"]]" });
        }
        out.push(b'}');
        masked
    }
}

/// The line with which the recording of a server begins.
pub(super) fn begin(track: &Track) -> Vec<u8> {
    let mut out = Vec::new();
    write_at(now_us(), &mut out);
    out.extend_from_slice(format!(",\"tape\":{VERSION},\"server\":").as_bytes());
    write_json_string(&track.server, &mut out);
    out.extend_from_slice(format!(",\"by\":\"standpipe {}\",\"masks\":", env!("CARGO_PKG_VERSION")).as_bytes());
    serde_json::to_writer(&mut out, track.masks.config()).expect("lists of strings can be written as JSON");
    out.extend_from_slice(b"}\n");
    out
}

/// The line that stands where messages are missing.
pub(super) fn gap(messages: u64) -> Vec<u8> {
    let mut out = Vec::new();
    write_at(now_us(), &mut out);
    out.extend_from_slice(format!(",\"gap\":{{\"messages\":{messages}}}}}\n").as_bytes());
    out
}

fn write_at(at_us: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{{\"at\":{}.{:03}", at_us / 1_000, at_us % 1_000).as_bytes());
}

/// Microseconds since the epoch.
pub(super) fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// What is read of a line.
#[derive(Debug, Deserialize)]
pub(super) struct Line<'a> {
    /// Milliseconds since the epoch.
    pub(super) at: f64,
    #[serde(default)]
    pub(super) tape: Option<u32>,
    #[serde(default)]
    pub(super) masks: Option<MaskConfig>,
    #[serde(default)]
    pub(super) gap: Option<Gap>,
    #[serde(borrow, default)]
    pub(super) server: Cow<'a, str>,
    #[serde(default)]
    pub(super) session: Option<u64>,
    #[serde(default)]
    pub(super) call: Option<u64>,
    #[serde(default)]
    pub(super) direction: Option<Direction>,
    #[serde(borrow, default)]
    pub(super) caller: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(super) transport: Option<Transport>,
    #[serde(borrow, default)]
    pub(super) message: Option<&'a RawValue>,
}

/// Messages that could not be written.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Gap {
    pub(super) messages: u64,
}

/// Over what a message came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Transport {
    /// The door.
    pub door: String,
    /// Who was at the other end.
    pub peer: String,
    /// The number of the connection.
    pub connection: u64,
    /// Headers of the HTTP request, in their order; masked.
    pub headers: Vec<(String, String)>,
}
