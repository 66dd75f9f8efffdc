//! Counts the calls to a server, and makes each a span that continues the trace of its caller: the first hook in front of every server.
//!
//! A message is changed only where its caller sent a valid `traceparent` (in `_meta`, or as a header): the server behind is told of our span instead.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use standpipe_wire::jsonrpc::{Edit, Kind, Message, Span};
use tracing::field::Empty;

use crate::exchange::{Closed, Relay};
use crate::layer::{Call, Hook, Next};
use crate::metrics::{Ended, Metrics, OTHER, ServerMetrics, method_index};
use crate::trace::TraceParent;
use crate::{Caller, Outlet};

/// The member of `_meta` in which a modern client says what it is.
const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// Parts of the table of sessions, so that loops do not wait for one another.
const SHARDS: usize = 16;

/// What clients call themselves, by legacy session.
type Clients = [Mutex<HashMap<u64, Arc<str>>>; SHARDS];

/// Counts and traces what goes to one server.
#[derive(Debug)]
pub struct Meter {
    metrics: Metrics,
    server: Arc<ServerMetrics>,
    clients: Clients,
}

impl Meter {
    /// Counts for the server with this name.
    pub fn new(metrics: &Metrics, server: &str) -> Arc<Self> {
        Arc::new(Self { metrics: metrics.clone(), server: metrics.server(server), clients: Clients::default() })
    }

    fn clients_of(&self, session: u64) -> &Mutex<HashMap<u64, Arc<str>>> {
        &self.clients[(session % SHARDS as u64) as usize]
    }

    /// What the client calls itself.
    fn client(&self, call: &Call) -> Option<Arc<str>> {
        let Some(session) = call.session else {
            return said(&call.message, &["_meta", CLIENT_INFO, "name"], CLIENT_INFO).map(Arc::from);
        };
        if call.message.method() == Some("initialize") {
            let name: Arc<str> = said(&call.message, &["clientInfo", "name"], "clientInfo")?.into();
            self.clients_of(session).lock().insert(session, name.clone());
            return Some(name);
        }
        self.clients_of(session).lock().get(&session).cloned()
    }
}

/// The string at `path`. Looks for the rare `word` first, which is much faster than going through what may be a large message.
fn said(message: &Message, path: &[&str], word: &str) -> Option<String> {
    memchr::memmem::find(message.body_bytes()?, word.as_bytes())?;
    message.text_at(path).ok().flatten()
}

impl Hook for Meter {
    fn call(&self, mut call: Call, next: Next) {
        self.server.began();
        self.server.received(call.message.bytes().len());
        let parent = parent(&call);
        let own = parent.as_ref().map(TraceParent::child);
        let client = self.client(&call);
        let flight = Flight {
            metrics: self.metrics.clone(),
            server: self.server.clone(),
            method: method_index(call.message.method().unwrap_or(OTHER)),
            name: name_span(&call.message),
            request: call.message.clone(),
            client,
            began: Instant::now(),
            ended: AtomicBool::new(false),
            span: self.span(&call, parent.as_ref(), own.as_ref()),
        };
        if let Some(own) = own {
            call.message = continued(call.message, &own);
        }
        call.to = call.to.through(Arc::new(flight));
        next.pass(call);
    }

    fn tell(&self, _: &Caller, _: u64, message: Message) -> Option<Message> {
        self.server.received(message.bytes().len());
        Some(message)
    }

    fn news(&self, _: &Caller, _: u64, news: Outlet) -> Outlet {
        self.server.session_opened();
        news.through(Arc::new(News(self.server.clone())))
    }

    fn closed(&self, session: u64) {
        self.server.session_closed();
        self.clients_of(session).lock().remove(&session);
    }
}

impl Meter {
    /// At the level of debugging, so that it costs nothing where nobody looks.
    fn span(&self, call: &Call, parent: Option<&TraceParent>, own: Option<&TraceParent>) -> tracing::Span {
        tracing::debug_span!(
            "mcp_call",
            server = self.server.name(),
            method = call.message.method(),
            name = Empty,
            client = Empty,
            principal = &*call.caller.principal,
            session = call.session,
            trace_id = own.map(TraceParent::trace_id),
            span_id = own.map(TraceParent::span_id),
            parent_id = parent.map(TraceParent::span_id),
        )
    }
}

/// Counts what belongs to no call.
struct News(Arc<ServerMetrics>);

impl Relay for News {
    fn relay(&self, message: Message, to: &Outlet) -> Result<(), Closed> {
        self.0.sent(message.bytes().len());
        to.send(message)
    }
}

/// One call under way.
struct Flight {
    metrics: Metrics,
    server: Arc<ServerMetrics>,
    request: Message,
    method: usize,
    name: Option<Span>,
    client: Option<Arc<str>>,
    began: Instant,
    ended: AtomicBool,
    span: tracing::Span,
}

impl Relay for Flight {
    fn relay(&self, message: Message, to: &Outlet) -> Result<(), Closed> {
        self.server.sent(message.bytes().len());
        if message.kind() == Kind::Response {
            self.end(ended(&message, self.request.method()));
        }
        to.send(message)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.end(Ended::Cancelled);
    }
}

impl Flight {
    fn end(&self, ended: Ended) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let took = self.began.elapsed();
        let name = self.name.and_then(|span| plain(self.request.slice(span)));
        self.server.ended(self.method, name.as_deref(), took, ended);
        let failed = matches!(ended, Ended::Error(_) | Ended::ToolError);
        // Whoever calls itself by no name is counted under none.
        self.metrics.clients().add(self.client.as_deref().unwrap_or("unnamed"), took, failed);
        if !self.span.is_disabled() {
            self.span.record("name", name.as_deref());
            self.span.record("client", self.client.as_deref());
            let code = if let Ended::Error(code) = ended { Some(code) } else { None };
            let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            tracing::debug!(parent: &self.span, outcome = ended.as_str(), code, took_us, "a call has ended");
        }
    }
}

/// How a reply ends its call.
fn ended(reply: &Message, method: Option<&str>) -> Ended {
    let at = |member: &str| reply.at(&[member]).ok().flatten().map(|span| reply.slice(span));
    if reply.is_error() {
        let code = at("code").and_then(|code| serde_json::from_slice::<f64>(code).ok());
        return Ended::Error(code.unwrap_or_default() as i64);
    }
    let may_have_failed = method == Some("tools/call")
        && reply.body_bytes().is_some_and(|body| memchr::memmem::find(body, b"\"isError\"").is_some());
    if may_have_failed && at("isError") == Some(b"true") { Ended::ToolError } else { Ended::Result }
}

/// Where the name of a tool or prompt stands in a request.
fn name_span(request: &Message) -> Option<Span> {
    matches!(request.method(), Some("tools/call" | "prompts/get")).then(|| request.at(&["name"]).ok().flatten())?
}

/// The text of a JSON string.
fn plain(json: &[u8]) -> Option<Cow<'_, str>> {
    serde_json::from_slice::<Text<'_>>(json).ok().map(|text| text.0)
}

/// A string, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The span that the caller is in: as the message says, else as the HTTP request says.
fn parent(call: &Call) -> Option<TraceParent> {
    let in_message = said(&call.message, &["_meta", "traceparent"], "traceparent");
    in_message.as_deref().and_then(TraceParent::parse).or_else(|| {
        let header = call.caller.headers.as_ref()?.get("traceparent")?;
        TraceParent::parse(header.to_str().ok()?)
    })
}

/// The request with `own` as the span it is part of.
fn continued(request: Message, own: &TraceParent) -> Message {
    let value = format!("\"{}\"", own.as_str());
    let at = |path: &[&str]| request.at(path);
    match (at(&["_meta", "traceparent"]), at(&["_meta"]), request.body()) {
        (Ok(Some(span)), _, _) => request.edit(&mut [Edit::replace(span, value.as_bytes())]),
        (Ok(None), Ok(Some(meta)), _) if request.slice(meta).first() == Some(&b'{') => {
            request.edit(&mut [request.insert(meta, "traceparent", value.as_bytes())])
        }
        (Ok(None), Ok(None), Some(params)) => {
            let meta = format!("{{\"traceparent\":{value}}}");
            request.edit(&mut [request.insert(params, "_meta", meta.as_bytes())])
        }
        // A request without parameters has no place for it.
        _ => request,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::exchange::{Room, exchange};
    use crate::{Layered, LegacyServer, ModernServer};

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const ROOM: Room = Room { messages: 16, bytes: 1 << 20 };

    fn parse(json: &str) -> Message {
        Message::parse(Bytes::copy_from_slice(json.as_bytes())).unwrap()
    }

    /// Answers with what is given, and shows what it was asked.
    #[derive(Debug)]
    struct Fixed(&'static str, Mutex<Vec<Message>>);

    impl ModernServer for Fixed {
        fn call(&self, _: Caller, request: Message, to: Outlet) {
            self.1.lock().push(request);
            if !self.0.is_empty() {
                to.send(parse(self.0)).unwrap();
            }
        }
    }

    impl LegacyServer for Fixed {
        fn open(&self, _: &Caller, initialize: Message, to: Outlet, _: Outlet) -> Arc<dyn crate::Conversation> {
            self.call(Caller::detached("a"), initialize, to);
            Arc::new(Talk)
        }
    }

    #[derive(Debug)]
    struct Talk;

    impl crate::Conversation for Talk {
        fn call(&self, _: &Caller, _: Message, to: Outlet) {
            to.send(parse(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#)).unwrap();
        }
        fn tell(&self, _: &Caller, _: Message) {}
        fn ended(&self) -> futures_util::future::BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
    }

    fn metered(answer: &'static str) -> (Metrics, Arc<Fixed>, Layered) {
        let metrics = Metrics::default();
        let server = Arc::new(Fixed(answer, Mutex::default()));
        let layered = Layered::new(server.clone(), vec![Meter::new(&metrics, "s")]);
        (metrics, server, layered)
    }

    #[test]
    fn calls_are_counted_by_how_they_end() {
        let check = |answer: &'static str, expected: [u64; 4]| {
            let (metrics, _, layered) = metered(answer);
            let (to, _inlet) = exchange(ROOM);
            let request = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"e\u0063ho","_meta":{"io.modelcontextprotocol/clientInfo":{"name":"c"}}}}"#;
            ModernServer::call(&layered, Caller::detached("a"), parse(request), to);
            let figures = metrics.server("s").figures();
            let counts = [figures.calls, figures.errors, figures.tool_errors, figures.cancelled];
            assert_eq!(counts, expected, "{answer}");
            assert_eq!((figures.in_flight, figures.bytes_in), (0, request.len() as u64), "{answer}");
            assert_eq!(figures.bytes_out, answer.len() as u64);
            let clients = metrics.clients().read();
            assert_eq!(clients.len(), 1);
        };
        check(r#"{"jsonrpc":"2.0","id":1,"result":{"isError":false}}"#, [1, 0, 0, 0]);
        check(r#"{"jsonrpc":"2.0","id":1,"result":{"content":["\"isError\":true"]}}"#, [1, 0, 0, 0]);
        check(r#"{"jsonrpc":"2.0","id":1,"result":{"isError":true}}"#, [1, 0, 1, 0]);
        check(r#"{"jsonrpc":"2.0","id":1,"error":{"code":5020,"message":""}}"#, [1, 1, 0, 0]);
        check(r#"{"jsonrpc":"2.0","id":1,"error":"odd"}"#, [1, 1, 0, 0]);
        check("", [1, 0, 0, 1]);
    }

    #[test]
    fn a_legacy_session_has_its_client_named_once() {
        let (metrics, _, layered) = metered(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
        let caller = Caller::detached("a");
        let ((to, _a), (news, _b), (other, _c)) = (exchange(ROOM), exchange(ROOM), exchange(ROOM));
        let initialize =
            parse(r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"clientInfo":{"name":"editor"}}}"#);
        let conversation = layered.open(&caller, initialize, to, news);
        conversation.call(&caller, parse(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#), other);
        assert_eq!(metrics.server("s").figures().sessions, 1);
        drop(conversation);
        assert_eq!(metrics.server("s").figures().sessions, 0);
        let clients = metrics.clients().read();
        let calls = clients.iter().map(|(name, series)| (&**name, crate::metrics::read(&series.calls)));
        assert_eq!(calls.collect::<Vec<_>>(), [("editor", 2)]);
    }

    #[test]
    fn the_server_is_told_our_span_of_the_callers_trace() {
        let check = |params: &str, header: Option<&str>, expected: Option<&str>| {
            let (_, server, layered) = metered("");
            let mut caller = Caller::detached("a");
            caller.headers = header.map(|value| {
                let mut headers = http::HeaderMap::new();
                headers.insert("traceparent", value.parse().unwrap());
                Arc::new(headers)
            });
            let request = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m"{params}}}"#);
            let (to, _inlet) = exchange(ROOM);
            ModernServer::call(&layered, caller, parse(&request), to);
            let seen = server.1.lock()[0].clone();
            let Some(expected) = expected else {
                return assert_eq!(seen.bytes(), request.as_bytes());
            };
            let text = seen.text_at(&["_meta", "traceparent"]).unwrap().unwrap();
            assert!(TraceParent::parse(&text).is_some_and(|own| own.trace_id() == &PARENT[3..35]) && text != PARENT);
            assert_eq!(String::from_utf8_lossy(seen.bytes()).replace(&text, "T"), expected);
        };
        let given = format!(r#","params":{{"a":1,"_meta":{{"traceparent":"{PARENT}","b":2}}}}"#);
        let start = r#"{"jsonrpc":"2.0","id":1,"method":"m""#;
        check(&given, None, Some(&format!(r#"{start},"params":{{"a":1,"_meta":{{"traceparent":"T","b":2}}}}}}"#)));
        let with_meta = r#","params":{"_meta":{"b":2}}"#;
        check(with_meta, Some(PARENT), Some(&format!(r#"{start},"params":{{"_meta":{{"traceparent":"T","b":2}}}}}}"#)));
        let empty = r#","params":{}"#;
        check(empty, Some(PARENT), Some(&format!(r#"{start},"params":{{"_meta":{{"traceparent":"T"}}}}}}"#)));
        check("", Some(PARENT), None);
        check(empty, None, None);
        check(empty, Some("nonsense"), None);
        check(r#","params":{"_meta":{"traceparent":"nonsense"}}"#, None, None);
        check(r#","params":{"_meta":7}"#, Some(PARENT), None);
        check(&format!(r#","params":{{"_meta":{{"traceparent":"{PARENT}","traceparent":"x"}}}}"#), None, None);
    }
}
