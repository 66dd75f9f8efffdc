//! Streams over HTTP: as text, bytes, events or messages of a WebSocket, from a record on, to the end or to what is
//! there; and appending to them. What a stream is, and who may see it, is `streams`' matter; how its bytes travel, when
//! the viewer waits for more, is `follow`'s.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use standpipe_engine::{Error, ErrorKind, Identity};
use standpipe_engine::{From, Head};
use standpipe_runs::Runs;
use standpipe_serve::{Class, Cost, Session};
use standpipe_tree::Path;

use super::body::{Content, receive};
use super::follow::{Feed, Look, Span};
use super::io::Activity;
use super::{Answer, error_json, json_answer, not_allowed, request_deadline};
use crate::dispatch::{Dispatch, Watcher, refused, run};
use crate::firebase::websocket::handshake;
use crate::streams::lines;

static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
static STREAM: HeaderName = HeaderName::from_static("x-standpipe-stream");
static FIRST_SEQ: HeaderName = HeaderName::from_static("x-standpipe-first-seq");
/// Where the output that is kept begins and ends, counted in bytes from its very first.
static FIRST_OFFSET: HeaderName = HeaderName::from_static("x-standpipe-first-offset");
static END_OFFSET: HeaderName = HeaderName::from_static("x-standpipe-end-offset");
static NEXT_SEQ: HeaderName = HeaderName::from_static("x-standpipe-next-seq");
/// How it ended; `open` while it has not.
pub(super) static STATE: HeaderName = HeaderName::from_static("x-standpipe-state");
pub(super) static EXIT_CODE: HeaderName = HeaderName::from_static("x-standpipe-exit-code");

/// Methods of a stream of clients.
const METHODS: &str = "GET, HEAD, POST, DELETE";

/// What is asked of a stream, in its parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wish {
    from: Option<u64>,
    tail: Option<u64>,
    /// Byte of the output to begin at, for those who count bytes.
    offset: Option<u64>,
    /// So many bytes of it at most.
    bytes: Option<u64>,
    /// End at what is there.
    stay: bool,
    raw: bool,
    json: bool,
    /// Wait until it begins.
    wait: bool,
    /// What a POST ends it with.
    end: Option<String>,
}

impl Wish {
    fn parse(query: Option<&str>) -> Result<Self, Error> {
        let mut wish = Self::default();
        for pair in query.unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let number = || {
                let number = value.parse().map_err(|_| Error::bad_request(format!("{name} must be a whole number")));
                number.map(Some)
            };
            match name {
                "from" => wish.from = number()?,
                "tail" => wish.tail = number()?,
                "offset" => wish.offset = number()?,
                "bytes" => wish.bytes = number()?,
                "follow" => wish.stay = !flag(name, value)?,
                "raw" => wish.raw = flag(name, value)?,
                "json" => wish.json = flag(name, value)?,
                "wait" => wish.wait = flag(name, value)?,
                "end" => wish.end = end(value)?,
                _ => {}
            }
        }
        if wish.from.is_some() && wish.tail.is_some() {
            return Err(Error::bad_request("from and tail say two different places to begin at; give one"));
        }
        if (wish.offset.is_some() || wish.bytes.is_some()) && !(wish.raw && wish.stay && wish.offset.is_some()) {
            return Err(Error::bad_request("offset and bytes count bytes that are there: with raw=1 and follow=0"));
        }
        Ok(wish)
    }

    /// Where to begin; a client that reconnects says what it has seen.
    fn begin(&self, last_seen: Option<u64>) -> From {
        match (last_seen, self.from, self.tail) {
            (Some(seq), ..) => From::Seq(seq.saturating_add(1)),
            (None, Some(seq), _) => From::Seq(seq),
            (None, None, Some(records)) => From::Tail(records),
            (None, None, None) => From::Start,
        }
    }
}

fn flag(name: &str, value: &str) -> Result<bool, Error> {
    match value {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(Error::bad_request(format!("{name} must be 1 or 0"))),
    }
}

/// `1` for an end without a word, or the word: one that a line and a header can hold.
fn end(value: &str) -> Result<Option<String>, Error> {
    let text = percent_decode_str(value).decode_utf8_lossy().into_owned();
    match text.as_str() {
        "" | "0" | "false" => Ok(None),
        "1" | "true" => Ok(Some("ended".to_owned())),
        _ => check_state(&text).map(|()| Some(text)),
    }
}

/// Refuses a state that is no plain word.
pub(crate) fn check_state(state: &str) -> Result<(), Error> {
    let plain = state.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if plain && (1..=64).contains(&state.len()) {
        return Ok(());
    }
    Err(Error::bad_request("how a stream ended is a word of at most 64 letters, digits, '-' and '_'"))
}

/// Which stream is meant.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// The one at a path.
    Path(Path),
    /// The output of a run, or of one of its tasks. The run is named by its id, or by a name that means the newest of it.
    Run { run: String, task: Option<String> },
}

/// Where the output of a run is, or of one of its tasks.
fn output_path(run: &str, task: Option<&str>) -> Result<Path, Error> {
    let keys = match task {
        None => vec!["runs", run, "out"],
        Some(task) => vec!["runs", run, "tasks", task, "out"],
    };
    let path = keys.into_iter().try_fold(Path::root(), |path, key| path.child(key));
    path.map_err(|error| Error::bad_request(error.to_string()))
}

/// One request for a stream.
pub(super) struct Call<'a> {
    pub(super) dispatch: &'a Dispatch,
    pub(super) session: &'a Session,
    pub(super) activity: &'a Arc<Activity>,
    pub(super) identity: Identity,
    pub(super) expires_at: Option<SystemTime>,
    pub(super) runs: Option<&'a Arc<Runs>>,
    pub(super) query: Option<&'a str>,
    pub(super) parts: &'a http::request::Parts,
}

impl Call<'_> {
    /// Answers the request.
    pub(super) async fn answer(self, method: &Method, place: Place, body: Incoming) -> Result<Answer, Error> {
        match (method, place) {
            (&Method::GET, place) => self.view(place).await,
            (_, Place::Run { .. }) => Ok(not_allowed("GET, HEAD")),
            (&Method::POST, Place::Path(path)) => self.append(&path, body).await,
            (&Method::DELETE, Place::Path(path)) => {
                self.dispatch.remove_stream(&self.identity, path).await?;
                Ok(json_answer(Content::Full(Bytes::from_static(b"null"))))
            }
            _ => Ok(not_allowed(METHODS)),
        }
    }

    async fn append(self, path: &Path, body: Incoming) -> Result<Answer, Error> {
        let wish = Wish::parse(self.query)?;
        let text = receive(self.session, self.activity, body).await?;
        let records = lines(&text);
        let mut next_seq = None;
        if !records.is_empty() || wish.end.is_none() {
            next_seq = Some(self.dispatch.append(&self.identity, path, records).await?);
        }
        if let Some(state) = wish.end {
            self.dispatch.end_stream(&self.identity, path, &state).await?;
        }
        let next_seq = match next_seq {
            Some(next_seq) => next_seq,
            None => self.dispatch.streams().head(path)?.map_or(0, |head| head.next_seq),
        };
        Ok(json_answer(Content::Full(format!("{{\"next_seq\":{next_seq}}}").into())))
    }

    fn header(&self, name: &HeaderName) -> &str {
        self.parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// What the client has seen already, of an event stream it had before.
    fn last_seen(&self) -> Result<Option<u64>, Error> {
        match self.header(&LAST_EVENT_ID) {
            "" => Ok(None),
            id => id
                .parse()
                .map(Some)
                .map_err(|_| Error::bad_request("Last-Event-ID must be the id of an event of this stream")),
        }
    }

    fn look(&self, wish: &Wish) -> Result<Look, Error> {
        if self.parts.headers.contains_key(header::UPGRADE) {
            let accept = handshake(&self.parts.method, self.parts.version, &self.parts.headers)?;
            return Ok(if wish.json { Look::JsonMessages(accept) } else { Look::Messages(accept) });
        }
        let events = self.header(&header::ACCEPT).split(',').any(|media| media.trim().starts_with("text/event-stream"));
        Ok(match (events, wish.raw) {
            (true, _) => Look::Events,
            (false, true) => Look::Bytes,
            (false, false) => Look::Text,
        })
    }

    /// The stream at a place, for who may read it.
    async fn find(&self, place: &Place) -> Result<(Path, Head), Error> {
        let path = match place {
            Place::Path(path) => path.clone(),
            Place::Run { run, task } => match self.runs.map(|runs| runs.find(run)) {
                Some(Ok(id)) => output_path(&id.to_string(), task.as_deref())?,
                // Who may not read it does not learn whether it is there.
                Some(Err(error)) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => output_path(run, task.as_deref())?,
            },
        };
        let head = self.dispatch.find_stream(&self.identity, &path).await?;
        Ok((path, head))
    }

    /// As [`Call::find`], and waits for it to begin where that is wished.
    async fn wait(&self, place: &Place, wish: &Wish) -> Result<(Path, Head), Error> {
        let mut beginnings = self.dispatch.beginnings();
        loop {
            match self.find(place).await {
                Err(error) if wish.wait && error.kind() == ErrorKind::NotFound => {}
                found => return found,
            }
            tokio::select! {
                () = beginnings.next() => {}
                () = self.session.closing() => return Err(Error::unavailable("the server is shutting down")),
            }
        }
    }

    async fn view(self, place: Place) -> Result<Answer, Error> {
        let wish = Wish::parse(self.query)?;
        let look = self.look(&wish)?;
        let last_seen = if look == Look::Events { self.last_seen()? } else { None };
        let permit = self.session.watch_permit().map_err(refused)?;
        let (path, head) = self.wait(&place, &wish).await?;
        let asks_for_gone = wish.from.is_some_and(|from| from < head.first_seq)
            || wish.offset.is_some_and(|offset| offset < head.first_offset);
        if look == Look::Bytes && asks_for_gone {
            return Ok(gone(&head));
        }
        let watcher = Watcher::Fixed(self.identity.clone());
        let begin = match wish.begin(last_seen) {
            // What is gone is not missed: nothing was asked for by its place.
            From::Start if look == Look::Bytes => match wish.offset {
                Some(offset) => From::Offset(offset),
                None => From::Seq(head.first_seq),
            },
            begin => begin,
        };
        let viewing = self.dispatch.view(watcher, path.clone(), begin).await?;
        // What has ended is sent like any answer: there is nothing to wait for.
        let span = match head.ended {
            Some(_) => Span::Ended,
            None if wish.stay => Span::Until(head.next_seq),
            None => Span::Live,
        };
        let trailers = self.header(&header::TE).split(',').any(|te| te.trim().eq_ignore_ascii_case("trailers"));
        let mut headers = HeaderMap::with_capacity(10);
        describe(&mut headers, &path, &head, &look, trailers);
        let mut feed = Feed::new(viewing, look, span, trailers, (self.session.clone(), permit), self.expires_at);
        if let Some(offset) = wish.offset {
            let end = wish.bytes.map_or(u64::MAX, |bytes| offset.saturating_add(bytes)).min(head.out_bytes);
            feed = feed.of_bytes(offset..end);
        }
        let mut answer = Response::new(Content::Output(Box::new(feed)));
        *answer.headers_mut() = headers;
        Ok(answer)
    }
}

fn describe(headers: &mut HeaderMap, path: &Path, head: &Head, look: &Look, trailers: bool) {
    let media = match look {
        Look::Text => Some("text/plain; charset=utf-8"),
        Look::Bytes => Some("application/octet-stream"),
        Look::Events => Some("text/event-stream; charset=utf-8"),
        Look::Messages(_) | Look::JsonMessages(_) => None,
    };
    if let Some(media) = media {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        // Output may look like a page: it is never to be taken for one.
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    let escaped = percent_encoding::utf8_percent_encode(path.as_str(), percent_encoding::CONTROLS).to_string();
    if let Ok(path) = HeaderValue::try_from(format!("/{escaped}")) {
        headers.insert(STREAM.clone(), path);
    }
    headers.insert(FIRST_SEQ.clone(), head.first_seq.into());
    headers.insert(NEXT_SEQ.clone(), head.next_seq.into());
    headers.insert(FIRST_OFFSET.clone(), head.first_offset.into());
    headers.insert(END_OFFSET.clone(), head.out_bytes.into());
    outcome_headers(head.ended.as_ref(), headers);
    if trailers && matches!(look, Look::Text | Look::Bytes) {
        headers.insert(header::TRAILER, HeaderValue::from_static("x-standpipe-state, x-standpipe-exit-code"));
    }
}

/// How it ended, for a head or a trailer.
pub(super) fn outcome_headers(ended: Option<&standpipe_engine::Outcome>, headers: &mut HeaderMap) {
    let state = ended.map_or("open", |outcome| &outcome.state);
    if let Ok(state) = HeaderValue::try_from(state) {
        headers.insert(STATE.clone(), state);
    }
    if let Some(code) = ended.and_then(|outcome| outcome.exit_code) {
        headers.insert(EXIT_CODE.clone(), code.into());
    }
}

/// Streams looked at for one listing.
const LISTED_MAX: usize = 1_000;

/// The stream at a path, and what lies below it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Listed {
    /// The stream there, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<Told>,
    /// Streams a key below, and keys that have streams further below.
    children: BTreeMap<String, Child>,
    /// There are more than were looked at.
    more: bool,
}

/// What a listing tells of a stream.
#[derive(Debug, Serialize)]
struct Told {
    first_seq: u64,
    next_seq: u64,
    first_offset: u64,
    end_offset: u64,
    state: String,
}

/// A child of a listed path.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Child {
    Stream(Told),
    /// Always true: there are streams below.
    Node(bool),
}

impl Told {
    fn of(head: Head) -> Self {
        let state = head.ended.map_or_else(|| "open".to_owned(), |outcome| outcome.state);
        let Head { first_seq, next_seq, first_offset, out_bytes, .. } = head;
        Self { first_seq, next_seq, first_offset, end_offset: out_bytes, state }
    }
}

impl Call<'_> {
    /// Answers a request for the streams at and below a path: those that the caller may read.
    pub(super) async fn list(self, method: &Method) -> Result<Answer, Error> {
        if *method != Method::GET {
            return Ok(not_allowed("GET, HEAD"));
        }
        let at = self.query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("at="));
        let at = percent_decode_str(at.unwrap_or_default()).decode_utf8();
        let at = at.map_err(|_| Error::bad_request("at must be a path in UTF-8"))?;
        let at = Path::parse(&at).map_err(|error| Error::bad_request(error.to_string()))?;
        let database = self.dispatch.database(None)?;
        database.check_entry(&self.identity)?;
        let snapshot = database.snapshot().await?;
        let (streams, identity) = (self.dispatch.streams().clone(), self.identity);
        let job = move || {
            let heads = streams.heads(&at, None, LISTED_MAX)?;
            let mut listed = Listed { more: heads.len() == LISTED_MAX, ..Listed::default() };
            for (path, head) in heads {
                if database.check_read(&snapshot, &identity, &path, None).is_err() {
                    continue;
                }
                let Some(below) = path.relative_to(&at) else { continue };
                let keys: Vec<&str> = below.segments().collect();
                match keys[..] {
                    [] => listed.stream = Some(Told::of(head)),
                    [key] => drop(listed.children.insert(key.to_owned(), Child::Stream(Told::of(head)))),
                    [key, ..] => drop(listed.children.entry(key.to_owned()).or_insert(Child::Node(true))),
                }
            }
            serde_json::to_vec(&listed).map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))
        };
        let (cost, deadline) = (Cost::Bytes(LISTED_MAX * 64), request_deadline(self.session));
        let json = run(self.session, Class::Read, cost, deadline, job).await?;
        Ok(json_answer(Content::Full(json.into())))
    }
}

/// Exactly those bytes can't be had any more.
fn gone(head: &Head) -> Answer {
    let text = format!("records before {} are gone (retention); ask from there: ?from={0}", head.first_seq);
    let mut answer = json_answer(Content::Full(error_json(&text).into()));
    *answer.status_mut() = StatusCode::GONE;
    answer.headers_mut().insert(FIRST_SEQ.clone(), head.first_seq.into());
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_say_where_to_begin_and_how_to_end() {
        let check = |query: &str, last_seen, begin: From, stay| {
            let wish = Wish::parse(Some(query)).unwrap();
            assert_eq!((wish.begin(last_seen), wish.stay), (begin, stay), "{query}");
        };
        check("", None, From::Start, false);
        check("from=7&ns=x", None, From::Seq(7), false);
        check("tail=3&follow=0", None, From::Tail(3), true);
        check("tail=3", Some(9), From::Seq(10), false);
        check("from=1", Some(u64::MAX), From::Seq(u64::MAX), false);
        let wish = Wish::parse(Some("raw=1&json=true&wait=1&end=all_done")).unwrap();
        assert!(wish.raw && wish.json && wish.wait);
        assert_eq!(wish.end.as_deref(), Some("all_done"));
        assert_eq!(Wish::parse(Some("end=1")).unwrap().end.as_deref(), Some("ended"));
    }

    #[test]
    fn senseless_wishes_are_refused() {
        for (query, part) in [
            ("from=x", "from"),
            ("from=-1", "from"),
            ("tail=", "tail"),
            ("tail=1&from=1", "two different"),
            ("follow=maybe", "follow"),
            ("offset=1", "raw=1"),
            ("raw=1&follow=0&bytes=1", "raw=1"),
            ("end=a%20b", "word"),
            ("end=%0a", "word"),
        ] {
            let error = Wish::parse(Some(query)).unwrap_err().to_string();
            assert!(error.contains(part), "{query}: {error}");
        }
    }
}
