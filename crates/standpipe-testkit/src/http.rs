//! A blocking HTTP/1.1 client for exact tests: it sends the bytes it is given and shows the
//! answer as it came, down to the framing. No redirects, no pool, no TLS. Every read has a limit.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use standpipe_wire::sse;

use crate::LIMIT;

/// No status line, header or chunk size of a test is longer.
const HEAD_BYTES_MAX: usize = 1 << 20;

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, in the order received.
    pub headers: Vec<(String, String)>,
    /// The body without its framing.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of this (lower case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// The body as text; bytes that are none are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// It is none.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{}: {}", self.status, self.text()))
    }
}

/// One request on a connection of its own, which is closed afterwards.
///
/// # Errors
/// The server can't be reached, or its answer is no HTTP or takes longer than [`LIMIT`].
pub fn request(
    addr: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    Conn::open(addr)?.request(method, target, headers, body)
}

/// A connection.
#[derive(Debug)]
pub struct Conn {
    stream: TcpStream,
    /// Received and not yet taken.
    buffer: Vec<u8>,
    /// Time for each call.
    limit: Duration,
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    Closed,
}

impl Conn {
    /// Connects.
    ///
    /// # Errors
    /// The server can't be reached.
    pub fn open(addr: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, LIMIT)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(Self { stream, buffer: Vec::new(), limit: LIMIT })
    }

    /// Sets how long each later call may take, in place of [`LIMIT`].
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The socket, for half-closing, resetting or stalling it.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The socket, and what was received and not taken, for another protocol.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.buffer)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The peer is gone or does not read.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Sends a request and reads its answer. `Host` and `Content-Length` are added unless given.
    ///
    /// # Errors
    /// As [`request`].
    pub fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Response> {
        self.send(&self.encode(method, target, headers, body)?)?;
        self.response(method == "HEAD")
    }

    /// The bytes of a request, for [`Self::send`].
    ///
    /// # Errors
    /// The connection has no peer any more.
    pub fn encode(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Vec<u8>> {
        let given = |name: &str| headers.iter().any(|(have, _)| have.eq_ignore_ascii_case(name));
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        if !given("host") {
            head += &format!("Host: {}\r\n", self.stream.peer_addr()?);
        }
        if !(given("content-length") || given("transfer-encoding") || body.is_empty() && method == "GET") {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        Ok([head.as_bytes(), b"\r\n", body].concat())
    }

    /// Reads one answer, past interim ones. An answer to HEAD has no body, whatever it says.
    ///
    /// # Errors
    /// The answer is no HTTP, ends early, or takes longer than the limit.
    pub fn response(&mut self, to_head: bool) -> Result<Response> {
        let end = Instant::now() + self.limit;
        let mut response = self.head(end)?;
        while (100..200).contains(&response.status) && response.status != 101 {
            response = self.head(end)?;
        }
        if to_head || matches!(response.status, 101 | 204 | 304) {
            return Ok(response);
        }
        let mut body = Body::of(&response)?;
        while let Some(piece) = body.piece(self, end)? {
            response.body.extend(piece);
        }
        Ok(response)
    }

    /// Reads until the peer closes, and gives back what came before.
    ///
    /// # Errors
    /// The peer keeps the connection open, or resets it.
    pub fn closed(&mut self) -> Result<Vec<u8>> {
        let end = Instant::now() + self.limit;
        while self.receive(end)? {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Says that nothing more will be sent; answers can still be read.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn finish(&self) -> Result<()> {
        Ok(self.stream.shutdown(Shutdown::Write)?)
    }

    fn head(&mut self, end: Instant) -> Result<Response> {
        let status = self.line(end)?;
        let code = status.strip_prefix("HTTP/1.1 ").or_else(|| status.strip_prefix("HTTP/1.0 "));
        let code = code.and_then(|rest| rest.get(..3)?.parse().ok());
        let code = code.with_context(|| format!("no status line: {status:?}"))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line(end)?;
            if line.is_empty() {
                return Ok(Response { status: code, headers, body: Vec::new() });
            }
            let (name, value) = line.split_once(':').with_context(|| format!("no header: {line:?}"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// The next line without its CRLF.
    fn line(&mut self, end: Instant) -> Result<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.take(at);
                self.take(2);
                return Ok(String::from_utf8(line)?);
            }
            ensure!(self.buffer.len() < HEAD_BYTES_MAX, "a line without an end");
            ensure!(self.receive(end)?, "closed inside a line: {:?}", String::from_utf8_lossy(&self.buffer));
        }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        self.buffer.drain(..count).collect()
    }

    /// Waits for bytes; false when the peer has closed.
    fn receive(&mut self, end: Instant) -> Result<bool> {
        let left = end.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no answer in time");
        self.stream.set_read_timeout(Some(left))?;
        let mut piece = [0; 65_536];
        match self.stream.read(&mut piece) {
            Ok(count) => {
                self.buffer.extend_from_slice(&piece[..count]);
                Ok(count > 0)
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => bail!("no answer in time"),
            Err(error) => Err(error.into()),
        }
    }
}

/// Where the reading of a body stands.
#[derive(Debug)]
struct Body {
    framing: Framing,
    ended: bool,
}

impl Body {
    fn of(response: &Response) -> Result<Self> {
        let framing = match (response.header("transfer-encoding"), response.header("content-length")) {
            (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Framing::Chunked,
            (None, Some(length)) => Framing::Length(length.parse()?),
            (None, None) => Framing::Closed,
            both => bail!("contradicting framing: {both:?}"),
        };
        Ok(Self { framing, ended: false })
    }

    /// The next piece as it comes; `None` at the end.
    fn piece(&mut self, conn: &mut Conn, end: Instant) -> Result<Option<Vec<u8>>> {
        if self.ended {
            return Ok(None);
        }
        let piece = match &mut self.framing {
            Framing::Length(0) => None,
            Framing::Length(left) => {
                if conn.buffer.is_empty() {
                    ensure!(conn.receive(end)?, "closed {left} bytes before the end of the body");
                }
                let count = conn.buffer.len().min(*left);
                *left -= count;
                Some(conn.take(count))
            }
            Framing::Closed => {
                (!conn.buffer.is_empty() || conn.receive(end)?).then(|| std::mem::take(&mut conn.buffer))
            }
            Framing::Chunked => chunk(conn, end)?,
        };
        self.ended = piece.is_none();
        Ok(piece)
    }
}

/// One whole chunk; `None` for the last, whose trailers are skipped.
fn chunk(conn: &mut Conn, end: Instant) -> Result<Option<Vec<u8>>> {
    let size = conn.line(end)?;
    let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)?;
    if size == 0 {
        while !conn.line(end)?.is_empty() {}
        return Ok(None);
    }
    while conn.buffer.len() < size {
        ensure!(conn.receive(end)?, "closed inside a chunk");
    }
    let piece = conn.take(size);
    ensure!(conn.line(end)?.is_empty(), "a chunk ends with CRLF");
    Ok(Some(piece))
}

/// An open event stream.
#[derive(Debug)]
pub struct Stream {
    /// The answer that opened it; its body is empty.
    pub response: Response,
    conn: Conn,
    body: Body,
    decoder: sse::Decoder,
    /// Bytes of the body not yet decoded.
    pending: Vec<u8>,
}

impl Stream {
    /// Opens an event stream.
    ///
    /// # Errors
    /// As [`request`]; and any answer but 200 with an event stream (the error shows it).
    pub fn open(addr: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Result<Self> {
        let mut conn = Conn::open(addr)?;
        let headers = [&[("Accept", "text/event-stream")], headers].concat();
        conn.send(&conn.encode("GET", target, &headers, b"")?)?;
        let response = conn.head(Instant::now() + conn.limit)?;
        let kind = response.header("content-type").unwrap_or_default();
        ensure!(response.status == 200 && kind.starts_with("text/event-stream"), "no event stream: {response:?}");
        let body = Body::of(&response)?;
        Ok(Self { response, conn, body, decoder: sse::Decoder::new(64 << 20), pending: Vec::new() })
    }

    /// The next event, keep-alives included; `None` when the stream has ended.
    ///
    /// # Errors
    /// None came within `limit`, or the stream broke off.
    pub fn event(&mut self, limit: Duration) -> Result<Option<sse::Event>> {
        let end = Instant::now() + limit;
        loop {
            let mut input = &self.pending[..];
            let event = self.decoder.decode(&mut input)?;
            self.pending = input.to_vec();
            if event.is_some() {
                return Ok(event);
            }
            match self.body.piece(&mut self.conn, end)? {
                Some(piece) => self.pending = piece,
                None => return Ok(None),
            }
        }
    }

    /// The next event that is no keep-alive, within [`LIMIT`]: its name, data as JSON, and id.
    ///
    /// # Errors
    /// As [`Self::event`]; and the stream ended, or the data is no JSON.
    pub fn change(&mut self) -> Result<(String, serde_json::Value, Option<String>)> {
        loop {
            let event = self.event(LIMIT)?.context("the stream has ended")?;
            if event.name != "keep-alive" {
                return Ok((event.name, serde_json::from_str(&event.data)?, event.id));
            }
        }
    }

    /// The connection below, to stall or break it.
    pub fn conn(&self) -> &Conn {
        &self.conn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A peer that reads one head, answers with `bytes` and closes.
    fn peer(bytes: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut seen = Vec::new();
            while !seen.windows(4).any(|four| four == b"\r\n\r\n") {
                let mut piece = [0; 1_024];
                let count = stream.read(&mut piece).unwrap();
                seen.extend_from_slice(&piece[..count]);
            }
            for piece in bytes.chunks(3) {
                stream.write_all(piece).unwrap();
            }
        });
        addr
    }

    fn check(answer: &'static [u8], expected: Result<(u16, &str), &str>) {
        let got = request(peer(answer), "GET", "/", &[], b"");
        match (got, expected) {
            (Ok(got), Ok((status, body))) => assert_eq!((got.status, got.text().as_str()), (status, body)),
            (Err(error), Err(part)) => assert!(format!("{error:#}").contains(part), "{error:#}"),
            (got, expected) => panic!("{got:?} in place of {expected:?}"),
        }
    }

    #[test]
    fn answers_are_read_by_their_framing() {
        check(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", Ok((200, "hi")));
        check(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
            Ok((200, "hi0123456789")),
        );
        check(b"HTTP/1.1 500 Oh no\r\n\r\nuntil closed", Ok((500, "until closed")));
        check(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", Ok((204, "")));
        check(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi", Err("before the end of the body"));
        check(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhi", Err("inside a chunk"));
        check(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nhi", Err("contradicting"));
        check(b"HTTP/1.1 200", Err("inside a line"));
        check(b"SSH-2.0-x\r\n", Err("no status line"));
    }

    #[test]
    fn a_silent_peer_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let conn = Conn::open(listener.local_addr().unwrap()).unwrap();
        let error = conn.limit(Duration::from_millis(20)).response(false).unwrap_err();
        assert!(error.to_string().contains("in time"), "{error}");
    }

    #[test]
    fn a_stream_gives_its_events_and_its_end() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n\
            event: keep-alive\ndata: null\n\nevent: put\nid: 3\ndata: [1]\n\nevent: put\ndata: 2\n\n";
        let mut stream = Stream::open(peer(answer), "/.json", &[]).unwrap();
        assert_eq!(stream.change().unwrap(), ("put".into(), serde_json::json!([1]), Some("3".into())));
        assert_eq!(stream.event(LIMIT).unwrap().unwrap().data, "2");
        assert_eq!(stream.event(LIMIT).unwrap(), None);
        let refused = Stream::open(peer(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"), "/.json", &[]);
        assert!(refused.unwrap_err().to_string().contains("401"));
    }
}
