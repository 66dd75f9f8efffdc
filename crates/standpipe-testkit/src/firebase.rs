//! Blocking clients of the Firebase protocol for exact tests, over a WebSocket and by long polling: they number
//! requests and keep what comes in its order. They are no SDK: they hold no data, and send what a test says.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::WebSocket;
use crate::http::Conn;

/// Longest piece of a message in the query string of a request.
const PIECE: usize = 1_840;

/// The answer to a request: its status, its data, and what was pushed before it.
pub type Asked = (String, Value, Vec<Value>);

/// A session over a WebSocket, past its hello.
#[derive(Debug)]
pub struct Fire {
    /// What carries it.
    pub socket: WebSocket,
    /// What the server said first.
    pub hello: Value,
    next: u64,
}

impl Fire {
    /// Opens a session of the database `ns`.
    ///
    /// # Errors
    /// The server can't be reached, or does not begin with a hello.
    pub fn open(addr: SocketAddr, ns: &str) -> Result<Self> {
        let mut socket = WebSocket::open(addr, &format!("/.ws?v=5&ns={ns}"))?;
        let hello = socket.json()?;
        ensure!(hello["d"]["t"] == "h", "no hello: {hello}");
        Ok(Self { socket, hello, next: 1 })
    }

    /// The session's name.
    pub fn id(&self) -> &str {
        self.hello["d"]["d"]["s"].as_str().unwrap_or_default()
    }

    /// Sends a request and gives its number.
    ///
    /// # Errors
    /// The peer is gone.
    pub fn send(&mut self, action: &str, body: Value) -> Result<u64> {
        let number = self.next;
        self.next += 1;
        self.socket.text(&json!({"t": "d", "d": {"r": number, "a": action, "b": body}}).to_string())?;
        Ok(number)
    }

    /// Sends a request and waits for its answer: its status, its data, and what was pushed before it.
    ///
    /// # Errors
    /// The session ends, or takes too long.
    pub fn ask(&mut self, action: &str, body: Value) -> Result<Asked> {
        let number = self.send(action, body)?;
        answer(number, || self.socket.json())
    }

    /// [`Fire::ask`] for what must be accepted: its data, and what was pushed before it.
    ///
    /// # Errors
    /// As there, or the status is another one.
    pub fn ok(&mut self, action: &str, body: Value) -> Result<(Value, Vec<Value>)> {
        let asked = self.ask(action, body.clone())?;
        accepted(asked, || format!("{action} {body}"))
    }

    /// Everything that comes before the answer to a ping that is sent now.
    ///
    /// # Errors
    /// As [`Fire::ask`].
    pub fn before_pong(&mut self) -> Result<Vec<Value>> {
        self.socket.text(r#"{"t":"c","d":{"t":"p","d":{}}}"#)?;
        let mut before = Vec::new();
        loop {
            let message = self.socket.json()?;
            if message["d"]["t"] == "o" {
                return Ok(before);
            }
            before.push(message);
        }
    }
}

/// What a script of long polling calls.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// The conversation has this name and password.
    Start(String, String),
    /// A response by its number.
    Response(u64, Vec<Value>),
    /// No more of them, after the one of that number.
    Close(Option<u64>),
}

/// Reads a script, which must be nothing but calls of ours and the functions they call.
///
/// # Errors
/// It holds anything else.
pub fn calls(script: &str) -> Result<Vec<Call>> {
    let mut calls = Vec::new();
    for line in script.lines().filter(|line| !line.is_empty() && !line.starts_with("function ")) {
        let inner = line.strip_suffix(");").with_context(|| line.to_owned())?;
        if let Some(inner) = inner.strip_prefix("pRTLPCB(") {
            let (number, messages) = inner.split_once(',').with_context(|| line.to_owned())?;
            let messages = serde_json::from_str(messages).with_context(|| line.to_owned())?;
            calls.push(Call::Response(number.parse()?, messages));
        } else if let Some(inner) = inner.strip_prefix("pLPCommand('start','") {
            let (id, password) = inner.split_once("','").with_context(|| line.to_owned())?;
            calls.push(Call::Start(id.to_owned(), password.trim_end_matches('\'').to_owned()));
        } else if let Some(last) = inner.strip_prefix("pLPCommand('close',") {
            calls.push(Call::Close(last.parse().ok()));
        } else {
            bail!("not a call of ours: {line}");
        }
    }
    Ok(calls)
}

/// A session by long polling, past its hello. As a browser does it, it has one request open while it waits, and
/// another one on a second connection while it has something to say.
#[derive(Debug)]
pub struct Poller {
    conns: [Conn; 2],
    /// The connection whose request is open, and the one for the next request.
    open: Option<usize>,
    next_conn: usize,
    ns: String,
    /// The conversation's name.
    pub id: String,
    /// Its password.
    pub password: String,
    /// The number of the next piece.
    pub piece: u64,
    next: u64,
    responses: BTreeMap<u64, Vec<Value>>,
    response: u64,
    messages: VecDeque<Value>,
    /// The server said that it is over.
    pub closed: bool,
}

impl Poller {
    /// Starts a session of the database `ns`; the hello is its first message.
    ///
    /// # Errors
    /// The server can't be reached, or does not start one.
    pub fn open(addr: SocketAddr, ns: &str) -> Result<Self> {
        let mut conn = Conn::open(addr)?;
        let target = format!("/.lp?start=t&ser=1&cb=7&v=5&ns={ns}");
        let got = conn.request("GET", &target, &[], b"")?;
        ensure!(got.status == 200, "{}: {}", got.status, got.text());
        let calls = calls(&got.text())?;
        let Some(Call::Start(id, password)) = calls.first().cloned() else { bail!("no start: {calls:?}") };
        let mut poller = Self {
            conns: [conn, Conn::open(addr)?],
            open: None,
            next_conn: 0,
            ns: ns.to_owned(),
            id,
            password,
            piece: 0,
            next: 1,
            responses: BTreeMap::new(),
            response: 0,
            messages: VecDeque::new(),
            closed: false,
        };
        poller.take(calls);
        Ok(poller)
    }

    /// The address of a request of this conversation with `more` in its query string.
    pub fn target(&self, more: &str) -> String {
        format!("/.lp?id={}&pw={}&ser=1&ns={}{more}", self.id, self.password, self.ns)
    }

    /// Makes a request with `more` in its query string, which releases the one before it.
    ///
    /// # Errors
    /// No script comes for that, or none in time.
    pub fn request(&mut self, more: &str) -> Result<()> {
        let (older, target) = (self.open, self.target(more));
        let conn = &mut self.conns[self.next_conn];
        conn.send(&conn.encode("GET", &target, &[], b"")?)?;
        self.open = Some(self.next_conn);
        self.next_conn = 1 - self.next_conn;
        older.map_or(Ok(()), |older| self.answer(older))
    }

    /// Waits for the answer to the open request, or to one that is made for it.
    ///
    /// # Errors
    /// As [`Poller::request`].
    pub fn poll(&mut self) -> Result<()> {
        if self.open.is_none() {
            self.request("")?;
        }
        let open = self.open.take();
        open.map_or(Ok(()), |open| self.answer(open))
    }

    /// Makes requests until the server says that it is over and every one is answered.
    ///
    /// # Errors
    /// As [`Poller::request`].
    pub fn to_the_end(&mut self) -> Result<()> {
        while !self.closed || self.open.is_some() {
            self.poll()?;
        }
        Ok(())
    }

    fn answer(&mut self, conn: usize) -> Result<()> {
        let got = self.conns[conn].response(false)?;
        ensure!(got.status == 200, "{}: {}", got.status, got.text());
        self.take(calls(&got.text())?);
        Ok(())
    }

    fn take(&mut self, calls: Vec<Call>) {
        for call in calls {
            match call {
                Call::Start(..) => {}
                Call::Response(number, messages) => drop(self.responses.insert(number, messages)),
                Call::Close(_) => self.closed = true,
            }
        }
        while let Some(messages) = self.responses.remove(&self.response) {
            self.messages.extend(messages);
            self.response += 1;
        }
    }

    /// The query strings that bring `text` as the pieces from [`Poller::piece`] on, which is moved.
    pub fn pieces(&mut self, text: &str) -> Vec<String> {
        let data = base64(text.as_bytes());
        let pieces: Vec<&[u8]> = data.as_bytes().chunks(PIECE).collect();
        let of = pieces.len();
        let query = |(index, piece): (usize, &&[u8])| {
            let number = self.piece + index as u64;
            format!("&seg0={number}&ts0={of}&d0={}", String::from_utf8_lossy(piece))
        };
        let queries = pieces.iter().enumerate().map(query).collect();
        self.piece += of as u64;
        queries
    }

    /// Sends a message.
    ///
    /// # Errors
    /// As [`Poller::request`].
    pub fn text(&mut self, text: &str) -> Result<()> {
        self.pieces(text).iter().try_for_each(|query| self.request(query))
    }

    /// The next message.
    ///
    /// # Errors
    /// As [`Poller::request`], or the session is over.
    pub fn message(&mut self) -> Result<Value> {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Ok(message);
            }
            ensure!(!self.closed, "the session is over");
            self.poll()?;
        }
    }

    /// Sends a request, numbered `r` in it, and waits for its answer: its status, its data, and what was pushed before.
    ///
    /// # Errors
    /// As [`Poller::message`].
    pub fn ask(&mut self, action: &str, body: Value) -> Result<Asked> {
        let number = self.next;
        self.next += 1;
        self.text(&json!({"t": "d", "d": {"r": number, "a": action, "b": body}}).to_string())?;
        answer(number, || self.message())
    }

    /// [`Poller::ask`] for what must be accepted.
    ///
    /// # Errors
    /// As there, or the status is another one.
    pub fn ok(&mut self, action: &str, body: Value) -> Result<(Value, Vec<Value>)> {
        let asked = self.ask(action, body.clone())?;
        accepted(asked, || format!("{action} {body}"))
    }
}

/// Reads messages up to the answer to request `number`.
fn answer(number: u64, mut next: impl FnMut() -> Result<Value>) -> Result<Asked> {
    let mut pushed = Vec::new();
    loop {
        let message = next()?;
        let data = &message["d"];
        if data["r"] == number {
            let status = data["b"]["s"].as_str().with_context(|| message.to_string())?;
            return Ok((status.to_owned(), data["b"]["d"].clone(), pushed));
        }
        pushed.push(data.clone());
    }
}

/// What came of a request that must be accepted.
fn accepted((status, data, pushed): Asked, what: impl FnOnce() -> String) -> Result<(Value, Vec<Value>)> {
    ensure!(status == "ok", "{}: {status} {data}", what());
    Ok((data, pushed))
}

/// Base64 as clients of long polling write it.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            text.push(if digit <= chunk.len() { DIGITS[index as usize].into() } else { '.' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_browsers() {
        let check = |bytes: &[u8], expected| assert_eq!(base64(bytes), expected);
        check(b"", "");
        check(b"h", "aA..");
        check(b"he", "aGU.");
        check(b"hello", "aGVsbG8.");
        check(&[0xfb, 0xff, 0xfe], "-__-");
    }
}
