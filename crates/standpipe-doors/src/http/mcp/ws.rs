//! MCP on a WebSocket (`/mcp/ws`, subprotocol `mcp`), one message in each text: a connection that is taken over from HTTP/1.1. Its client is who its handshake
//! says; what messages mean is `talk`'s matter.

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};
use standpipe_mcp::Metrics;
use standpipe_mcp::sessions::Seat;
use standpipe_serve::{CloseReason, RequestGuard, Session};
use standpipe_wire::jsonrpc::Message;
use standpipe_wire::websocket::{Decoded, Decoder, Opcode, Said, Violation, put, put_close, put_head};

use super::Call;
use super::answers::{Answer, Outcome, Refused};
use crate::firebase::websocket::{handshake, switching};
use crate::http::body::Content;
use crate::http::{Busy, Stream};
use crate::mcp::pump::{Framing, Out, Patience, Taken, pump};
use crate::mcp::talk::Talk;

/// What clients ask for.
const SUBPROTOCOL: &str = "mcp";

/// Room made for reading.
const READ_BYTES: usize = 8 << 10;

/// A connection that from here on is a WebSocket.
#[derive(Debug)]
pub(crate) struct Socket {
    accept: String,
    talk: Talk,
    metrics: Metrics,
    seat: Seat,
}

impl Call<'_> {
    /// Takes the connection over.
    pub(super) fn socket(self, version: Version) -> Outcome<Answer> {
        let visit = self.visit;
        let accept = handshake(&visit.method, version, &self.headers)
            .map_err(|error| Refused::invalid(StatusCode::BAD_REQUEST, error.message()))?;
        let offered = self.headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
        let offered: Vec<&str> = offered.flat_map(|value| value.split(',')).map(str::trim).collect();
        if !offered.is_empty() && !offered.contains(&SUBPROTOCOL) {
            return Err(Refused::invalid(StatusCode::BAD_REQUEST, "the subprotocol that is spoken here is 'mcp'"));
        }
        let seat = visit.mcp.sessions().admit(&self.caller.principal).map_err(Refused::of)?;
        let metrics = visit.mcp.metrics().clone();
        let talk = Talk::new(self.server, self.caller, metrics.clone());
        let mut answer = Response::new(Content::Socket(Box::new(Socket { accept, talk, metrics, seat })));
        if !offered.is_empty() {
            answer.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        }
        Ok(answer)
    }
}

impl Socket {
    /// Serves the connection to its end.
    pub(crate) fn carry(
        self,
        mut stream: Stream,
        session: Session,
        headers: HeaderMap,
        mut request: RequestGuard,
        busy: Busy,
    ) -> BoxFuture<'static, CloseReason> {
        async move {
            let Self { accept, talk, metrics, seat } = self;
            let mut first = Out::default();
            first.put(&switching(&accept, &headers));
            request.finished();
            drop((request, busy, headers));
            let limits = session.limits();
            let patience = Patience {
                silence_ms: Some(limits.ws_silence_ms_max),
                keep_alive_ms: Some(limits.mcp_keepalive_ms.min(limits.ws_silence_ms_max / 3)),
                // The stream below cuts who does not take what it is sent.
                ..Patience::default()
            };
            let reason = pump(&mut stream, Texts::default(), talk, &session, &metrics, patience, first).await;
            drop(seat);
            if stream.stalled() { CloseReason::WriteTimeout } else { reason }
        }
        .boxed()
    }
}

/// Messages as texts of a WebSocket.
#[derive(Debug, Default)]
struct Texts {
    input: BytesMut,
    /// Bytes of input before another look makes sense.
    at_least: usize,
    decoder: Decoder,
    violation: Option<Violation>,
}

impl Framing for Texts {
    fn buf(&mut self, _bytes_max: usize) -> &mut BytesMut {
        self.input.reserve(READ_BYTES.max(self.at_least.saturating_sub(self.input.len())));
        &mut self.input
    }

    fn held(&self) -> usize {
        self.input.len() + self.decoder.held()
    }

    fn next(&mut self, bytes_max: usize, out: &mut Out) -> Option<Taken> {
        while self.input.len() >= self.at_least.max(1) {
            let decoded = match self.decoder.decode(&mut self.input, bytes_max) {
                Ok(decoded) => decoded,
                Err(violation) => {
                    self.violation = Some(violation);
                    return Some(Taken::End(CloseReason::ProtocolError));
                }
            };
            let (used, taken) = match decoded {
                Decoded::Incomplete { at_least } => {
                    self.at_least = at_least;
                    return None;
                }
                Decoded::Frame { used, said } => (
                    used,
                    match said {
                        Said::Text(text) => Some(Taken::Message(Bytes::copy_from_slice(text.as_bytes()))),
                        Said::Close(_) => Some(Taken::End(CloseReason::PeerClosed)),
                        Said::Ping(bytes) => {
                            let mut pong = Vec::with_capacity(bytes.len() + 2);
                            put(Opcode::Pong, bytes, &mut pong);
                            out.put(&pong);
                            None
                        }
                        Said::Fragment | Said::Pong => None,
                    },
                ),
            };
            self.decoder.forget();
            self.input.advance(used);
            self.at_least = 1;
            if self.input.is_empty() {
                self.input = BytesMut::new();
            }
            if taken.is_some() {
                return taken;
            }
        }
        None
    }

    fn end(&mut self, _: usize) -> Option<Taken> {
        None
    }

    fn give_up(&mut self) -> bool {
        false
    }

    fn put(&self, message: &Message, out: &mut Out) {
        let text = message.bytes();
        let mut head = Vec::with_capacity(10);
        put_head(Opcode::Text, text.len(), &mut head);
        out.put(&head);
        out.put_whole(text.clone());
    }

    fn keep_alive(&self, out: &mut Out) {
        let mut ping = Vec::with_capacity(2);
        put(Opcode::Ping, b"", &mut ping);
        out.put(&ping);
    }

    fn goodbye(&self, reason: CloseReason, out: &mut Out) {
        let (code, words) = match (self.violation, reason) {
            (Some(Violation::TooLong), _) => (1009, "the message is longer than mcp_message_bytes_max".into()),
            (Some(violation), _) => (violation.code(), violation.to_string()),
            (None, CloseReason::PeerClosed) => (1000, String::new()),
            (None, CloseReason::Shutdown) => (1001, "the server is shutting down".into()),
            (None, CloseReason::Refused(refusal)) => (1013, refusal.to_string()),
            (None, CloseReason::Internal) => (1011, "internal error".into()),
            (None, reason) => (1008, format!("closed: {}", reason.as_str())),
        };
        let mut last = Vec::new();
        put_close(code, &words, &mut last);
        out.put(&last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, fin: bool, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut out = vec![if fin { 0x80 } else { 0 } | opcode];
        match payload.len() {
            length @ 0..=125 => out.push(0x80 | length as u8),
            length => {
                out.push(0x80 | 126);
                out.extend_from_slice(&(length as u16).to_be_bytes());
            }
        }
        out.extend_from_slice(&mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        out
    }

    /// What is taken of `stream`, fed in pieces of `piece` bytes.
    fn read(stream: &[u8], piece: usize) -> Vec<String> {
        let (mut texts, mut out, mut all) = (Texts::default(), Out::default(), Vec::new());
        for piece in stream.chunks(piece) {
            texts.buf(1_000).extend_from_slice(piece);
            while let Some(taken) = texts.next(1_000, &mut out) {
                match taken {
                    Taken::Message(message) => all.push(String::from_utf8(message.to_vec()).unwrap()),
                    taken => {
                        all.push(format!("{taken:?} {:?}", texts.violation));
                        return all;
                    }
                }
            }
        }
        all
    }

    fn check(stream: &[u8], expected: &[&str]) {
        for piece in 1..=stream.len() {
            assert_eq!(read(stream, piece), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn messages_are_texts() {
        let mut stream = frame(1, true, b"{}");
        stream.extend(frame(9, true, b"ping"));
        stream.extend(frame(1, false, b"a"));
        stream.extend(frame(10, true, b""));
        stream.extend(frame(0, true, b"b"));
        stream.extend(frame(8, true, b""));
        check(&stream, &["{}", "ab", "End(PeerClosed) None"]);
        check(&frame(2, true, b"x"), &["End(ProtocolError) Some(Binary)"]);
        check(&frame(1, true, &[b'x'; 1_001]), &["End(ProtocolError) Some(TooLong)"]);
        check(&frame(1, true, b"\xff"), &["End(ProtocolError) Some(Utf8)"]);
        check(b"\x81\x01x", &["End(ProtocolError) Some(Unmasked)"]);
    }
}
