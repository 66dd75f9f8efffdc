//! POST: one message from a client. Its era is decided, its headers are held against it, and what it asks for is answered: with the reply alone as
//! JSON, with everything as a stream of events where something comes before the reply, or where the reply takes long.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderName, HeaderValue};
use hyper::body::Incoming;
use standpipe_engine::ErrorKind;
use standpipe_mcp::era::{self, LEGACY, LEGACY_ALSO, MODERN, Meta};
use standpipe_mcp::exchange::Room;
use standpipe_mcp::fault::{INTERNAL, INVALID_PARAMS, NOT_FOUND, TOO_LARGE, http_status, http_status_modern};
use standpipe_mcp::sessions::LegacySession;
use standpipe_mcp::{Fault, Inlet, exchange};
use standpipe_wire::jsonrpc::{Kind, Message};
use tokio::time::timeout;

use super::super::body::{Content, receive_up_to};
use super::super::whole_seconds;
use super::answers::{Answer, Outcome, PROTOCOL_VERSION, Refused, SESSION_ID, empty, events, json, scope_challenge};
use super::events::{AtStop, Events, Source};
use super::{Call, refused};

/// The method of a modern message, and the name of what it is about.
static METHOD: HeaderName = HeaderName::from_static("mcp-method");
static NAME: HeaderName = HeaderName::from_static("mcp-name");

/// The request whose reply ends when its client leaves.
const LISTEN: &str = "subscriptions/listen";

/// How a header says what is no visible ASCII.
const ENCODED: (&str, &str) = ("=?base64?", "?=");

impl Call<'_> {
    pub(super) async fn post(&self, body: Incoming) -> Outcome<Answer> {
        self.check_media()?;
        let message = self.message(body).await?;
        let id = message.id_bytes().filter(|_| message.kind() == Kind::Request);
        self.take(message).await.map_err(|refused| refused.to(id))
    }

    fn check_media(&self) -> Outcome<()> {
        self.check_content_type()?;
        if !self.accepts("application", "json") || !self.accepts("text", "event-stream") {
            let message = "the answer is one of two: send 'Accept: application/json, text/event-stream'";
            return Err(Refused::invalid(StatusCode::NOT_ACCEPTABLE, message));
        }
        Ok(())
    }

    pub(super) fn check_content_type(&self) -> Outcome<()> {
        let media = self.header(&header::CONTENT_TYPE).unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default().trim();
        if !media.eq_ignore_ascii_case("application/json") {
            let message = "send 'Content-Type: application/json'";
            return Err(Refused::invalid(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        Ok(())
    }

    pub(super) async fn message(&self, body: Incoming) -> Outcome<Message> {
        const LIMIT: &str = "mcp_message_bytes_max";
        let visit = self.visit;
        let max = visit.session.limits().mcp_message_bytes_max;
        let received = receive_up_to(visit.session, visit.activity, body, max, LIMIT).await;
        let bytes = received.map_err(|error| match error.kind() {
            ErrorKind::TooLarge => {
                visit.mcp.metrics().hit(LIMIT);
                Refused::of(Fault::new(TOO_LARGE, error.message()).with_data(serde_json::json!({ "limit": max })))
            }
            ErrorKind::Deadline => Refused::invalid(StatusCode::REQUEST_TIMEOUT, error.message()),
            ErrorKind::BadRequest => Refused::invalid(StatusCode::BAD_REQUEST, error.message()),
            _ => Refused::of(Fault::from(&error)),
        })?;
        Message::parse(bytes)
            .map_err(|error| Refused::new(StatusCode::BAD_REQUEST, Fault::new(error.code(), error.to_string())))
    }

    /// Decides the era (spec mcp §1).
    async fn take(&self, message: Message) -> Outcome<Answer> {
        if message.kind() == Kind::Response || !era::may_be_modern(&message) {
            return self.legacy(message).await;
        }
        let meta = Meta::of(&message).map_err(Refused::of)?;
        match meta.version {
            Some(version) => {
                let version = serde_json::from_str::<String>(version.get()).ok();
                self.check_headers(&message, &meta, version)?;
                self.modern(message).await
            }
            None => self.legacy(message).await,
        }
    }

    /// Holds the headers of a modern message against its body.
    fn check_headers(&self, message: &Message, meta: &Meta<'_>, version: Option<String>) -> Outcome<()> {
        if let Some(version) = &version {
            match self.header(&PROTOCOL_VERSION) {
                Some(said) if said == version => {}
                said => return Err(mismatch("MCP-Protocol-Version", said, version)),
            }
        }
        if message.kind() == Kind::Notification {
            return Ok(());
        }
        meta.check_modern().map_err(Refused::of)?;
        let method = message.method().unwrap_or_default();
        self.check_header(&METHOD, "Mcp-Method", method)?;
        let name = match method {
            "tools/call" | "prompts/get" => "name",
            "resources/read" => "uri",
            _ => return Ok(()),
        };
        match message.text_at(&[name]) {
            Ok(Some(name)) => self.check_header(&NAME, "Mcp-Name", &name),
            // What is wrong with it is said by who knows the method.
            Ok(None) => Ok(()),
            Err(error) => Err(Refused::invalid(StatusCode::BAD_REQUEST, error.to_string())),
        }
    }

    fn check_header(&self, name: &HeaderName, shown: &str, expected: &str) -> Outcome<()> {
        let said = self.headers.get(name);
        let is_same = said.and_then(decoded).is_some_and(|said| said == expected.as_bytes());
        if is_same { Ok(()) } else { Err(mismatch(shown, said.and_then(|said| said.to_str().ok()), expected)) }
    }

    async fn modern(&self, message: Message) -> Outcome<Answer> {
        if message.kind() == Kind::Notification {
            // Over HTTP a client has nothing to notify of: it ends a request by leaving.
            return Ok(empty(StatusCode::ACCEPTED));
        }
        let listens = message.method() == Some(LISTEN);
        let permit = listens.then(|| self.visit.session.watch_permit()).transpose().map_err(refused)?;
        let limits = self.visit.session.limits();
        let (to, mut inlet) =
            exchange(Room { messages: limits.mcp_outlet_messages_max, bytes: limits.mcp_outlet_bytes_max });
        self.server.call(self.caller.clone(), message, to);
        match first(&mut inlet, limits.mcp_keepalive_ms).await {
            First::Reply(reply) => Ok(self.reply(&reply, http_status_modern)),
            First::More => {
                let at_stop = if listens { AtStop::SaysGoodbye } else { AtStop::GoesOn };
                Ok(self.stream(Events::new(Source::Alone(inlet), &self.caller, at_stop, permit)))
            }
            First::Nothing => Err(no_answer()),
        }
    }

    async fn legacy(&self, message: Message) -> Outcome<Answer> {
        if message.method() == Some("initialize") && message.kind() == Kind::Request {
            return self.open(message).await;
        }
        match self.header(&PROTOCOL_VERSION) {
            Some(version) if MODERN.contains(&version) => {
                let message = format!("MCP-Protocol-Version says {version}: then params._meta must say it too");
                return Err(Refused::new(StatusCode::BAD_REQUEST, Fault::new(INVALID_PARAMS, message)));
            }
            Some(version) if !LEGACY.contains(&version) && !LEGACY_ALSO.contains(&version) => {
                return Err(Refused::of(era::unsupported(&version.chars().take(64).collect::<String>(), LEGACY)));
            }
            _ => {}
        }
        let session = self.session()?;
        if message.kind() != Kind::Request {
            session.tell(&self.caller, message);
            return Ok(empty(StatusCode::ACCEPTED));
        }
        let Some(mut inlet) = session.call(&self.caller, message) else { return Err(ended()) };
        match first(&mut inlet, self.visit.session.limits().mcp_keepalive_ms).await {
            First::Reply(reply) => Ok(self.reply(&reply, http_status)),
            First::More => Ok(self.resumable(&session, inlet)),
            First::Nothing if session.is_closed() => Err(ended()),
            // It was cancelled, so there is no reply.
            First::Nothing => Ok(events(Content::Full(Bytes::new()))),
        }
    }

    /// Opens a session.
    async fn open(&self, initialize: Message) -> Outcome<Answer> {
        let sessions = self.visit.mcp.sessions();
        let seat = sessions.admit(&self.caller.principal).map_err(Refused::of)?;
        let endpoint = self.endpoint.to_string();
        let (session, mut inlet) = sessions.open(seat, &*self.server, &endpoint, &self.caller, initialize);
        let mut answer = match first(&mut inlet, self.visit.session.limits().mcp_keepalive_ms).await {
            First::Reply(reply) if reply.is_error() => return Ok(self.reply(&reply, http_status)),
            First::Reply(reply) => {
                session.agree_on(&reply);
                self.reply(&reply, http_status)
            }
            First::More => self.resumable(&session, inlet),
            First::Nothing => return Err(no_answer()),
        };
        if let Ok(id) = HeaderValue::try_from(session.id()) {
            answer.headers_mut().insert(SESSION_ID.clone(), id);
        }
        sessions.enter(session);
        Ok(answer)
    }

    /// The stream of a call in a session.
    fn resumable(&self, session: &Arc<LegacySession>, inlet: Inlet) -> Answer {
        let reader = session.read(&session.stream(inlet));
        let stream = Events::new(Source::Resumable(reader), &self.caller, AtStop::GoesOn, None);
        self.stream(if session.takes_empty_events() { stream.with_position() } else { stream.with_comment() })
    }

    /// A reply that comes alone.
    fn reply(&self, reply: &Message, status: fn(i64) -> u16) -> Answer {
        if !reply.is_error() {
            return json(StatusCode::OK, reply.bytes().clone());
        }
        let number = |path: &[&str]| {
            let span = reply.at(path).ok().flatten()?;
            serde_json::from_slice::<i64>(reply.slice(span)).ok()
        };
        let code = number(&["code"]).unwrap_or(INTERNAL);
        let mut answer = json(StatusCode::from_u16(status(code)).unwrap_or_default(), reply.bytes().clone());
        let metadata = || self.visit.metadata_url(&self.endpoint, &self.headers);
        if let Some(challenge) = scope_challenge(reply, code, metadata) {
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if answer.status() != StatusCode::OK
            && let Some(after) = number(&["data", "retry_after_ms"]).and_then(|ms| u64::try_from(ms).ok())
        {
            answer.headers_mut().insert(header::RETRY_AFTER, whole_seconds(Duration::from_millis(after)).into());
        }
        answer
    }
}

/// How an answer begins.
enum First {
    /// The reply is all there is.
    Reply(Message),
    /// Something comes before it, or it takes long.
    More,
    /// The stream has ended.
    Nothing,
}

/// Waits for what comes first, no longer than a stream may be silent.
async fn first(inlet: &mut Inlet, patience_ms: u64) -> First {
    let kind = match inlet.peek_now() {
        Some(kind) => Some(kind),
        None => match timeout(Duration::from_millis(patience_ms), inlet.peek()).await {
            Ok(kind) => kind,
            Err(_) => return First::More,
        },
    };
    match kind {
        Some(Kind::Response) => inlet.try_next().map_or(First::Nothing, First::Reply),
        Some(_) => First::More,
        None => First::Nothing,
    }
}

fn no_answer() -> Box<Refused> {
    let fault = Fault::new(INTERNAL, "the server gave no answer; send the request again");
    Refused::new(StatusCode::INTERNAL_SERVER_ERROR, fault)
}

fn ended() -> Box<Refused> {
    Refused::of(Fault::new(NOT_FOUND, "the session has ended; open another with 'initialize'"))
}

fn mismatch(name: &str, said: Option<&str>, expected: &str) -> Box<Refused> {
    let shown = |text: &str| text.chars().take(64).collect::<String>();
    Refused::mismatch(match said {
        Some(said) => format!("the header {name} says {:?}, the body {:?}", shown(said), shown(expected)),
        None => format!("the header {name} is missing or can't be read; the body says {:?}", shown(expected)),
    })
}

/// A header's value; `None` where it says to be encoded and is not.
fn decoded(value: &HeaderValue) -> Option<Vec<u8>> {
    let bytes = value.as_bytes();
    match bytes.strip_prefix(ENCODED.0.as_bytes()) {
        Some(rest) => STANDARD.decode(rest.strip_suffix(ENCODED.1.as_bytes())?).ok(),
        None => Some(bytes.to_owned()),
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn headers_may_be_encoded() {
        let check = |value: &str, expected: Option<&str>| {
            let told = decoded(&HeaderValue::from_str(value).unwrap());
            assert_eq!(told.as_deref(), expected.map(str::as_bytes), "{value}");
        };
        check("echo", Some("echo"));
        check("=?base64?w6k=?=", Some("é"));
        check("=?base64?w6k=", None);
        check("=?base64?w6!=?=", None);
        check("=?BASE64?w6k=?=", Some("=?BASE64?w6k=?="));
        check("", Some(""));
    }
}
