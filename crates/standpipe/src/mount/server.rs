//! The server's side of a mount: what a location is, what it lists, reading and writing leaves. It bounds
//! requests and bytes; how long anything may take is the caller's to say. Knows no inode and no open file.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fuser::Errno;
use http::{HeaderMap, HeaderValue, Method, Response, header};
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use standpipe_tree::{Path, write_json_string};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::text::{FILE_BYTES_MAX, Render};
use super::{Result, errno};
use crate::client::Client;

/// Requests at once; the others wait.
const REQUESTS_MAX: usize = 32;
/// Bytes of all open files; further files wait to be opened.
const CONTENT_BYTES_MAX: usize = 256 << 20;
/// What bytes are counted in.
const UNIT: usize = 1 << 10;
/// JSON of a file may be that much longer than its text: a control character takes six bytes.
const JSON_BYTES_MAX: usize = 6 * FILE_BYTES_MAX;
/// Children in one answer.
const PAGE: usize = 1_000;
/// Attempts while the server says it is busy, and the longest pause between two.
const ATTEMPTS: usize = 4;
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What is at a location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    /// With the size of its content.
    File(u64),
    /// A stream's output, which only grows, with the bytes there have been.
    Output(u64),
}

/// A child in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Child {
    pub(super) key: String,
    /// A file's size is 0 where the listing does not tell.
    pub(super) kind: Kind,
}

/// A leaf as it was read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) content: Vec<u8>,
    pub(super) etag: String,
    /// Held while the content is.
    pub(super) permit: OwnedSemaphorePermit,
}

/// A server, and the location that is mounted.
#[derive(Debug)]
pub(super) struct Server {
    client: Arc<Client>,
    base: Path,
    render: Render,
    requests: Semaphore,
    bytes: Arc<Semaphore>,
}

impl Server {
    pub(super) fn new(client: Arc<Client>, base: Path, render: Render) -> Self {
        let bytes = Arc::new(Semaphore::new(CONTENT_BYTES_MAX / UNIT));
        Self { client, base, render, requests: Semaphore::new(REQUESTS_MAX), bytes }
    }

    pub(super) fn render(&self) -> Render {
        self.render
    }

    /// Room for `bytes` of content.
    pub(super) async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).map_err(|_| Errno::EFBIG)?;
        self.bytes.clone().acquire_many_owned(units).await.map_err(|_| Errno::EIO)
    }

    /// What is at `path`.
    pub(super) async fn probe(&self, path: &Path) -> Result<Option<Kind>> {
        let query = [("shallow", "sizes".to_owned()), ("limitToFirst", "1".to_owned())];
        let kind = match self.json(path, &query).await? {
            Shallow::Nothing => self.streams(path).await?.kind(),
            Shallow::Children(_) => Some(Kind::Directory),
            Shallow::Leaf(bytes) => match self.render.size(bytes) {
                Some(size) => Some(Kind::File(size)),
                // It may be something else by now: then its size is the next question's.
                None => Some(Kind::File(self.read(path).await?.map_or(0, |read| read.content.len() as u64))),
            },
        };
        Ok(kind)
    }

    /// The stream at `path`, and what streams are below it.
    pub(super) async fn streams(&self, path: &Path) -> Result<Streams> {
        let _turn = self.turn().await?;
        let at = format!("/{}", self.at(path));
        let target = self.client.place("/streams", &[("at", at)]);
        let response = match self.send(Method::GET, &target, HeaderMap::new(), Bytes::new()).await {
            // An older server has none.
            Err(Errno::ENOENT) => return Ok(Streams::default()),
            response => response?,
        };
        let json = self.body(response, JSON_BYTES_MAX).await?;
        serde_json::from_slice(&json).map_err(|_| Errno::EIO)
    }

    /// Bytes of a stream's output from `offset` on, `size` at most.
    pub(super) async fn output(&self, path: &Path, offset: u64, size: u32) -> Result<Vec<u8>> {
        let _turn = self.turn().await?;
        let query = [
            ("raw", "1".to_owned()),
            ("follow", "0".to_owned()),
            ("offset", offset.to_string()),
            ("bytes", size.to_string()),
        ];
        let target = self.client.place(&format!("/streams/{}", self.at(path)), &query);
        let response = self.send(Method::GET, &target, HeaderMap::new(), Bytes::new()).await?;
        self.body(response, size as usize).await
    }

    /// Where `path` is on the server.
    fn at(&self, path: &Path) -> String {
        let both = [self.base.as_str(), path.as_str()];
        both.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    }

    /// Some children of `path` in order, those behind `after`; none at the end.
    pub(super) async fn list(&self, path: &Path, after: Option<&str>) -> Result<Vec<Child>> {
        let after = after.map(|key| ("startAfter", json_string(key)));
        let query = [("shallow", "sizes".to_owned()), ("limitToFirst", PAGE.to_string())];
        let query: Vec<_> = query.into_iter().chain(after).collect();
        let Shallow::Children(children) = self.json(path, &query).await? else { return Ok(Vec::new()) };
        let kind = |leaf: Option<u64>| match leaf {
            None => Kind::Directory,
            Some(bytes) => Kind::File(self.render.size(bytes).unwrap_or(0)),
        };
        Ok(children.into_iter().map(|(key, leaf)| Child { key, kind: kind(leaf) }).collect())
    }

    /// The leaf at `path`, whole and as it is now; `None` where nothing is.
    pub(super) async fn read(&self, path: &Path) -> Result<Option<Read>> {
        let _turn = self.turn().await?;
        let mut headers = HeaderMap::new();
        headers.insert("x-firebase-etag", HeaderValue::from_static("true"));
        let response = self.send(Method::GET, &self.target(path, &[]), headers, Bytes::new()).await?;
        let etag = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok()).unwrap_or_default();
        let etag = etag.to_owned();
        // What has no length is long: no leaf.
        let length =
            response.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let length: usize = length.ok_or(Errno::EISDIR)?;
        let permit = self.room(length.min(JSON_BYTES_MAX)).await?;
        let json = self.body(response, JSON_BYTES_MAX).await?;
        match (self.render.content(&json), json.first()) {
            (Some(content), _) => Ok(Some(Read { content, etag, permit })),
            (None, Some(b'{' | b'[')) => Err(Errno::EISDIR),
            (None, Some(b'n')) => Ok(None),
            (None, _) => Err(Errno::EIO),
        }
    }

    /// Everything at and below `path` as JSON with priorities, up to the size of a file.
    pub(super) async fn export(&self, path: &Path) -> Result<Bytes> {
        let _turn = self.turn().await?;
        let target = self.target(path, &[("format", "export".to_owned())]);
        let response = self.send(Method::GET, &target, HeaderMap::new(), Bytes::new()).await?;
        Ok(self.body(response, FILE_BYTES_MAX).await?.into())
    }

    /// Stores `json` at `path`, only if what is there has this ETag where one is given: `EAGAIN` if not.
    pub(super) async fn put(&self, path: &Path, json: Vec<u8>, etag: Option<&str>) -> Result<()> {
        self.write(Method::PUT, path, json, etag).await
    }

    /// Removes what is at `path` if it has this ETag: `EAGAIN` if not.
    pub(super) async fn delete(&self, path: &Path, etag: &str) -> Result<()> {
        self.write(Method::DELETE, path, Vec::new(), Some(etag)).await
    }

    /// Moves `value`, which is at `from`, to `to`, in one step.
    pub(super) async fn rename(&self, from: &Path, to: &Path, value: &[u8]) -> Result<()> {
        let mut body = b"{".to_vec();
        write_json_string(to.as_str(), &mut body);
        body.push(b':');
        body.extend_from_slice(value);
        body.push(b',');
        write_json_string(from.as_str(), &mut body);
        body.extend_from_slice(b":null}");
        self.write(Method::PATCH, &Path::root(), body, None).await
    }

    async fn write(&self, method: Method, path: &Path, body: Vec<u8>, etag: Option<&str>) -> Result<()> {
        let _turn = self.turn().await?;
        let mut headers = HeaderMap::new();
        if let Some(etag) = etag {
            headers.insert(header::IF_MATCH, etag.parse().map_err(|_| Errno::EIO)?);
        }
        let target = self.target(path, &[("print", "silent".to_owned())]);
        self.send(method, &target, headers, body.into()).await.map(|_| ())
    }

    async fn json(&self, path: &Path, query: &[(&str, String)]) -> Result<Shallow> {
        let _turn = self.turn().await?;
        let response = self.send(Method::GET, &self.target(path, query), HeaderMap::new(), Bytes::new()).await?;
        let json = self.body(response, JSON_BYTES_MAX).await?;
        serde_json::from_slice(&json).map_err(|error| {
            tracing::warn!(%error, "the server does not speak our language: is it older than this program?");
            Errno::EIO
        })
    }

    fn target(&self, path: &Path, query: &[(&str, String)]) -> String {
        self.client.location(&format!("{}/{}", self.base.as_str(), path.as_str()), query)
    }

    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>> {
        self.requests.acquire().await.map_err(|_| Errno::EIO)
    }

    /// Asks, and again while the server is busy.
    async fn send(&self, method: Method, target: &str, headers: HeaderMap, body: Bytes) -> Result<Response<Incoming>> {
        let mut attempt = 1;
        loop {
            let asked = self.client.open(method.clone(), target, headers.clone(), body.clone(), Duration::MAX).await;
            let failure = match asked {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            let errno = errno::of(&failure);
            match failure.retry_after {
                Some(pause) if errno == Errno::EAGAIN && attempt < ATTEMPTS => {
                    attempt += 1;
                    tokio::time::sleep(pause.min(PAUSE_MAX)).await;
                }
                _ => {
                    tracing::debug!(%method, target, ?errno, cause = failure.cause, "refused");
                    return Err(errno);
                }
            }
        }
    }

    async fn body(&self, response: Response<Incoming>, bytes_max: usize) -> Result<Vec<u8>> {
        let (mut body, mut bytes) = (response.into_body(), Vec::new());
        while let Some(data) = self.client.data(&mut body).await.map_err(|failure| errno::of(&failure))? {
            if bytes.len() + data.len() > bytes_max {
                return Err(Errno::EFBIG);
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes)
    }
}

/// Streams at and below a path.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Streams {
    stream: Option<Told>,
    children: BTreeMap<String, Below>,
}

#[derive(Debug, Deserialize)]
struct Told {
    end_offset: u64,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Below {
    Stream(Told),
    Node(#[expect(dead_code, reason = "always true")] bool),
}

impl Streams {
    /// What is at the path, as far as streams go.
    fn kind(self) -> Option<Kind> {
        match self.stream {
            Some(told) => Some(Kind::Output(told.end_offset)),
            None => (!self.children.is_empty()).then_some(Kind::Directory),
        }
    }

    /// What is directly below the path, as far as streams go.
    pub(super) fn children(self) -> BTreeMap<String, Kind> {
        let kind = |below| match below {
            Below::Stream(told) => Kind::Output(told.end_offset),
            Below::Node(_) => Kind::Directory,
        };
        self.children.into_iter().map(|(key, below)| (key, kind(below))).collect()
    }
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// An answer to `shallow=sizes`.
#[derive(Debug, PartialEq, Eq)]
enum Shallow {
    Nothing,
    /// The bytes of its text.
    Leaf(u64),
    /// In the server's order; with the bytes of a leaf's text, none for a node.
    Children(Vec<(String, Option<u64>)>),
}

impl<'de> Deserialize<'de> for Shallow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShallowVisitor)
    }
}

struct ShallowVisitor;

impl<'de> Visitor<'de> for ShallowVisitor {
    type Value = Shallow;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an answer to shallow=sizes")
    }

    fn visit_unit<E>(self) -> Result<Shallow, E> {
        Ok(Shallow::Nothing)
    }

    fn visit_u64<E>(self, bytes: u64) -> Result<Shallow, E> {
        Ok(Shallow::Leaf(bytes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shallow, A::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Of {
            Node(#[expect(dead_code, reason = "always true")] bool),
            Leaf(u64),
        }
        let mut children = Vec::new();
        while let Some((key, of)) = map.next_entry()? {
            children.push((key, if let Of::Leaf(bytes) = of { Some(bytes) } else { None }));
        }
        Ok(Shallow::Children(children))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_files_and_what_is_above_them_directories() {
        let read = |json: &str| serde_json::from_str::<Streams>(json).unwrap();
        let json = r#"{"stream":{"first_seq":0,"next_seq":2,"first_offset":0,"end_offset":7,"state":"open"},"children":{},"more":false}"#;
        assert_eq!(read(json).kind(), Some(Kind::Output(7)));
        let json = r#"{"children":{"out":{"end_offset":3,"state":"open"},"tasks":true},"more":false}"#;
        assert_eq!(read(json).kind(), Some(Kind::Directory));
        let children = [("out".to_owned(), Kind::Output(3)), ("tasks".to_owned(), Kind::Directory)];
        assert_eq!(read(json).children(), BTreeMap::from(children));
        assert_eq!(read(r#"{"children":{},"more":false}"#).kind(), None);
    }

    #[test]
    fn listings_are_read_in_order() {
        let check = |json: &str, expected| assert_eq!(serde_json::from_str::<Shallow>(json).unwrap(), expected);
        check("null", Shallow::Nothing);
        check("5", Shallow::Leaf(5));
        check(r#"{"b":true,"a":0}"#, Shallow::Children(vec![("b".into(), None), ("a".into(), Some(0))]));
        for wrong in ["true", "\"x\"", "[]", r#"{"a":"x"}"#] {
            assert!(serde_json::from_str::<Shallow>(wrong).is_err(), "{wrong}");
        }
    }
}
