//! The REST API (firebase-rtdb §9): methods, conditions, answers. Bytes of connections, routes and
//! parameters are other files' business; what a read or a write means is `dispatch`'s.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use standpipe_engine::{Committed, Database, Error, ErrorKind, Identity, Op};
use standpipe_serve::{Class, Cost, Deadline, Session};
use standpipe_tree::{
    Change, ChangeKind, Format, JsonStream, Leaf, Location, NULL_ETAG, ParseLimits, Path, Progress, Rows,
    Write as TreeWrite, etag, parse_merge, parse_value, to_json, write_json_string,
};

use super::body::{Content, receive};
use super::io::Activity;
use super::params::{Params, Print};
use super::sse::Feed;
use super::{Answer, json_answer, request_deadline};
use crate::dispatch::{Dispatch, Leases, Read, ReadReply, Slices, Watcher, Write, refused, run};

pub(super) static ETAG_WANTED: HeaderName = HeaderName::from_static("x-firebase-etag");
pub(super) static METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");
static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Bodies up to this are parsed on the connection's own task.
const SMALL_BODY: usize = 16 << 10;

/// One request for a location of the tree.
pub(super) struct Call<'a> {
    pub(super) dispatch: &'a Dispatch,
    pub(super) session: &'a Session,
    pub(super) activity: &'a Arc<Activity>,
    pub(super) database: Arc<Database>,
    pub(super) identity: Identity,
    pub(super) expires_at: Option<SystemTime>,
    pub(super) location: Location,
    pub(super) params: Params<'a>,
    pub(super) headers: &'a HeaderMap,
}

impl Call<'_> {
    fn header(&self, name: &HeaderName) -> Result<Option<&str>, Error> {
        let Some(value) = self.headers.get(name) else { return Ok(None) };
        let text = value.to_str().map_err(|_| Error::bad_request(format!("header {name} is not plain text")))?;
        Ok(Some(text))
    }

    /// When the answer is worth nothing any more: the limit, or sooner if the request says so.
    fn deadline(&self, sooner: Option<Duration>) -> Deadline {
        let limit = request_deadline(self.session);
        sooner.map_or(limit, |sooner| limit.min(Deadline::at(Instant::now() + sooner)))
    }

    fn wants_etag(&self) -> bool {
        self.headers.get(&ETAG_WANTED).is_some_and(|value| value == "true")
    }

    /// The node that conditions and ETags speak about.
    fn node(&self) -> Path {
        self.location.path().clone()
    }

    /// Conditions are for PUT and DELETE only.
    fn refuse_condition(&self) -> Result<(), Error> {
        if self.headers.contains_key(header::IF_MATCH) {
            return Err(Error::bad_request("if-match is supported for PUT and DELETE only"));
        }
        Ok(())
    }

    /// Is this a `GET` of an event stream?
    pub(super) fn wants_events(&self) -> bool {
        self.headers.get(header::ACCEPT).is_some_and(|accept| accept.as_bytes().starts_with(b"text/event-stream"))
    }

    /// `GET` of a value.
    pub(super) async fn get(self) -> Result<Answer, Error> {
        self.refuse_condition()?;
        if let Location::Priority(path) = &self.location {
            return Box::pin(self.get_priority(path.clone())).await;
        }
        let if_none_match = self.header(&header::IF_NONE_MATCH)?.map(str::to_owned);
        let read = Read {
            query: self.params.query.clone(),
            shallow: self.params.shallow.clone(),
            format: self.params.format,
            pretty: self.params.print == Print::Pretty,
            etag: self.wants_etag() || if_none_match.is_some(),
            at_least: self.params.at_least,
            ..Read::new(self.node())
        };
        let deadline = self.deadline(self.params.timeout);
        let reply = self.dispatch.read(self.session, &self.database, &self.identity, read, deadline).await;
        let reply = match reply {
            // The service's answer to its own `timeout`.
            Err(error) if error.kind() == ErrorKind::Deadline && self.params.timeout.is_some() => {
                return Err(Error::bad_request("Query exceeded the given timeout"));
            }
            reply => reply?,
        };
        if if_none_match.is_some() && if_none_match == reply.etag {
            let mut answer = Response::new(Content::Full(Bytes::new()));
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            set_etag(answer.headers_mut(), reply.etag.as_deref());
            return Ok(answer);
        }
        Ok(self.read_answer(reply))
    }

    fn read_answer(&self, reply: ReadReply) -> Answer {
        let (etag, rev) = (reply.etag.clone(), reply.rev);
        let mut answer = match self.params.print {
            Print::Silent => no_content(),
            _ => match &self.params.callback {
                None => json_answer(content(reply, self.session, Vec::new(), b"")),
                Some(name) => {
                    let before = format!("{name}(").into_bytes();
                    let mut answer = Response::new(content(reply, self.session, before, b");"));
                    let javascript = HeaderValue::from_static("application/javascript; charset=utf-8");
                    answer.headers_mut().insert(header::CONTENT_TYPE, javascript);
                    answer
                }
            },
        };
        set_etag(answer.headers_mut(), etag.as_deref());
        answer.headers_mut().insert(&super::REV_HEADER, HeaderValue::from(rev));
        if let Some(name) = &self.params.download {
            let name: String = name.chars().filter(|c| !c.is_control() && *c != '"' && *c != '\\').collect();
            if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
                answer.headers_mut().insert(header::CONTENT_DISPOSITION, value);
            }
        }
        answer
    }

    /// The pseudo child `.priority`: read from its node's export form.
    async fn get_priority(&self, path: Path) -> Result<Answer, Error> {
        let json = self.dispatch.read_priority(&self.database, &self.identity, &path).await?;
        Ok(json_answer(Content::Full(json.into())))
    }

    /// `GET` of an event stream.
    pub(super) async fn listen(self) -> Result<Answer, Error> {
        self.refuse_condition()?;
        let permit = self.session.watch_permit().map_err(refused)?;
        let since = match self.header(&LAST_EVENT_ID)? {
            None | Some("") => None,
            Some(id) => Some(
                id.parse()
                    .map_err(|_| Error::bad_request("Last-Event-ID must be the id of an event of this stream"))?,
            ),
        };
        let query = self.params.query.clone();
        let watcher = Watcher::Fixed(self.identity.clone());
        let subscription =
            self.dispatch.watch(self.session, &self.database, watcher, self.node(), query, since).await?;
        let feed = Feed::new(subscription, self.session.clone(), permit, self.expires_at);
        let mut answer = Response::new(Content::Watch(Box::new(feed)));
        // Without a charset the Python client takes the text for Latin-1.
        let events = HeaderValue::from_static("text/event-stream; charset=utf-8");
        answer.headers_mut().insert(header::CONTENT_TYPE, events);
        Ok(answer)
    }

    /// `PUT`, `POST`, `PATCH`, `DELETE`: reads and parses the body, then writes.
    pub(super) async fn write(self, method: &Method, body: hyper::body::Incoming) -> Result<Answer, Error> {
        let conditions = self.condition(method)?.into_iter().collect();
        let leases = self.leases(method)?;
        if *method == Method::PATCH && self.wants_etag() {
            return Err(Error::bad_request("X-Firebase-ETag is not supported for PATCH"));
        }
        let op = if *method == Method::DELETE {
            Op::Set { location: self.location.clone(), rows: Rows::default() }
        } else {
            let bytes = receive(self.session, self.activity, body).await?;
            self.parse(method, bytes).await?
        };
        let deadline = self.deadline(self.params.write_budget);
        let write = Write { op, conditions, leases };
        match self.dispatch.write(&self.database, &self.identity, write, deadline).await {
            Ok(committed) => Ok(self.written(&committed)),
            Err(error) if error.kind() == ErrorKind::Conflict => self.conflict(&error).await,
            // The service's words for a write that outlasts its `writeSizeLimit`.
            Err(error) if error.kind() == ErrorKind::Deadline && self.params.write_budget.is_some() => {
                Err(Error::bad_request("WRITE_TOO_BIG: Data to write exceeds the given writeSizeLimit"))
            }
            Err(error) => Err(error),
        }
    }

    /// The connection's leases, if what is written is to go with it.
    fn leases(&self, method: &Method) -> Result<Option<&Leases>, Error> {
        if !self.params.lease {
            return Ok(None);
        }
        if *method == Method::DELETE {
            return Err(Error::bad_request("lease is supported for PUT, PATCH and POST only"));
        }
        let closes =
            self.headers.get(header::CONNECTION).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
        if closes {
            return Err(Error::bad_request(
                "a lease needs a connection that stays open: leave 'Connection: close' out",
            ));
        }
        Ok(Some(self.activity.leases()))
    }

    fn condition(&self, method: &Method) -> Result<Option<(Path, String)>, Error> {
        let Some(etag) = self.header(&header::IF_MATCH)? else { return Ok(None) };
        if *method != Method::PUT && *method != Method::DELETE {
            self.refuse_condition()?;
        }
        Ok(Some((self.node(), etag.to_owned())))
    }

    async fn parse(&self, method: &Method, bytes: Bytes) -> Result<Op, Error> {
        let cost = if bytes.len() <= SMALL_BODY { Cost::Small } else { Cost::Bytes(bytes.len()) };
        let (method, location) = (method.clone(), self.location.clone());
        let deep = self.params.deep;
        let job = move || parse(&method, location, deep, &bytes);
        run(self.session, Class::Write, cost, request_deadline(self.session), job).await
    }

    fn written(&self, committed: &Committed) -> Answer {
        let change = committed.change.as_deref();
        let mut answer = match (self.params.print, &committed.pushed) {
            (Print::Silent, _) => no_content(),
            (_, Some(key)) => {
                let mut json = br#"{"name":"#.to_vec();
                write_json_string(key, &mut json);
                json.push(b'}');
                json_answer(Content::Full(json.into()))
            }
            (print, None) => json_answer(Content::Full(written_json(change, print == Print::Pretty).into())),
        };
        if self.wants_etag() {
            let etag = match change.map(|change| &change.writes[..]) {
                Some([TreeWrite { location: Location::Node(_), rows }]) => {
                    etag(&mut rows.cursor()).unwrap_or_else(|never| match never {})
                }
                _ => NULL_ETAG.to_owned(),
            };
            set_etag(answer.headers_mut(), Some(&etag));
        }
        answer.headers_mut().insert(&super::REV_HEADER, HeaderValue::from(committed.rev));
        answer
    }

    /// 412 with the value and the ETag that are there now, both of one snapshot.
    async fn conflict(&self, error: &Error) -> Result<Answer, Error> {
        let read = Read { etag: true, ..Read::new(self.node()) };
        let reply = self
            .dispatch
            .read(self.session, &self.database, &self.identity, read, request_deadline(self.session))
            .await?;
        let mut answer = self.read_answer(reply);
        *answer.status_mut() = crate::fault::http_status(error.kind());
        Ok(answer)
    }
}

/// A body as an operation on `location`.
pub(crate) fn parse(method: &Method, location: Location, deep: bool, bytes: &[u8]) -> Result<Op, Error> {
    let path = location.path().clone();
    let limits = ParseLimits::below(&path);
    let refused = |error: standpipe_tree::ParseError| Error::bad_request(error.to_string()).with_cause(error);
    if *method == Method::PATCH {
        if bytes.trim_ascii() == b"null" {
            return Ok(Op::Set { location, rows: Rows::default() });
        }
        if deep {
            let rows = parse_value(bytes, &limits).map_err(refused)?;
            return Ok(Op::Overlay { base: path, rows });
        }
        let merge = parse_merge(bytes, &path, &limits).map_err(refused)?;
        return Ok(Op::Merge { base: path, writes: merge.writes });
    }
    let rows = parse_value(bytes, &limits).map_err(refused)?;
    if matches!(location, Location::Priority(_)) && !is_priority(&rows) {
        return Err(Error::bad_request("a priority must be null, a number, a string or a server value"));
    }
    Ok(if *method == Method::POST { Op::Push { base: path, rows } } else { Op::Set { location, rows } })
}

/// Nothing, or one number, string or server value.
fn is_priority(rows: &Rows) -> bool {
    let mut rows_left = rows.iter();
    match (rows_left.next(), rows_left.next()) {
        (None, _) => true,
        (Some((&[], value)), None) => {
            rows.has_server_values()
                || matches!(Leaf::decode(value), Some(Leaf::Int(_) | Leaf::Double(_) | Leaf::Str(_)))
        }
        _ => false,
    }
}

/// What was written, server values resolved: the value of a set, the members of a merge.
fn written_json(change: Option<&Change>, pretty: bool) -> Vec<u8> {
    let Some(change) = change else { return b"null".to_vec() };
    match change.kind {
        ChangeKind::Set | ChangeKind::Overlay => {
            let mut out = Vec::new();
            if let [write] = &change.writes[..] {
                let mut stream = JsonStream::new(Format::Plain, pretty);
                let mut cursor = write.rows.cursor();
                while stream.fill(&mut cursor, &mut out, usize::MAX).unwrap_or_else(|never| match never {})
                    == Progress::More
                {}
            }
            out
        }
        ChangeKind::Merge => {
            let mut out = vec![b'{'];
            for write in &change.writes {
                if out.len() > 1 {
                    out.push(b',');
                }
                let relative = write.location.path().relative_to(&change.base).unwrap_or_default();
                let mut name = relative.as_str().to_owned();
                if matches!(write.location, Location::Priority(_)) {
                    name.push_str("/.priority");
                }
                write_json_string(name.trim_start_matches('/'), &mut out);
                out.push(b':');
                let json = to_json(&mut write.rows.cursor(), Format::Plain).unwrap_or_else(|never| match never {});
                out.extend_from_slice(&json);
            }
            out.push(b'}');
            out
        }
    }
}

/// The reply's bytes: whole when the read was short, slice by slice from the store otherwise.
fn content(reply: ReadReply, session: &Session, before: Vec<u8>, after: &'static [u8]) -> Content {
    let mut first = before;
    if first.is_empty() {
        first = reply.first;
    } else {
        first.extend_from_slice(&reply.first);
    }
    let Some(rest) = reply.rest else {
        first.extend_from_slice(after);
        return Content::Full(first.into());
    };
    enum Next {
        First(Vec<u8>, Box<Slices>),
        Slices(Box<Slices>),
        After,
    }
    let session = session.clone();
    let state = (Some(Next::First(first, rest)), session, after);
    let slices = stream::try_unfold(state, |(next, session, after)| async move {
        let deadline = request_deadline(&session);
        Ok(match next {
            None => None,
            Some(Next::First(bytes, rest)) => Some((Bytes::from(bytes), (Some(Next::Slices(rest)), session, after))),
            Some(Next::Slices(slices)) => {
                let (bytes, rest) = slices.next(&session, deadline).await?;
                let next = rest.map_or(Next::After, Next::Slices);
                Some((Bytes::from(bytes), (Some(next), session, after)))
            }
            Some(Next::After) if after.is_empty() => None,
            Some(Next::After) => Some((Bytes::from_static(after), (None, session, after))),
        })
    });
    Content::Stream(slices.boxed())
}

fn no_content() -> Answer {
    let mut answer = Response::new(Content::Full(Bytes::new()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

fn set_etag(headers: &mut HeaderMap, etag: Option<&str>) {
    if let Some(value) = etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
        headers.insert(header::ETAG, value);
    }
}
