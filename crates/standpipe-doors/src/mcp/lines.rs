//! MCP on lines, one message each: standard input and output, Unix sockets, TCP (spec mcp §2.1).

use std::sync::Arc;

use bytes::BytesMut;
use standpipe_mcp::Fault;
use standpipe_mcp::fault::UPSTREAM_DOWN;
use standpipe_serve::{CloseReason, Conn, ConnIo, Door, Refusal, Session};
use standpipe_wire::jsonrpc::{Line, Lines, Message};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::pump::{Framing, Out, Patience, Taken, pump};
use super::talk::{Talk, refused};
use super::{Endpoint, Mcp};
use crate::goodbye::{self, GOODBYE_WITHIN};

/// One message a line.
#[derive(Debug)]
pub struct McpLines {
    mcp: Arc<Mcp>,
    credential: Option<String>,
}

impl McpLines {
    /// Serves the main endpoint. There is no place for a credential in lines: whoever connects is anonymous, or the server's own user.
    pub fn new(mcp: Arc<Mcp>) -> Self {
        Self { mcp, credential: None }
    }

    /// Whoever connects has this credential: for the one connection of a process.
    #[must_use]
    pub fn with_credential(self, credential: Option<String>) -> Self {
        Self { credential, ..self }
    }

    async fn begin(&self, session: &Session) -> Result<Talk, Fault> {
        let caller = self.mcp.caller(session, self.credential.as_deref(), None).await?;
        if let Some(scope) = self.mcp.scope(&Endpoint::Main).filter(|scope| !caller.scopes.allow(scope)) {
            return Err(Fault::scopes(&scope));
        }
        let down = || Fault::new(UPSTREAM_DOWN, "the server is not there now: try again");
        let server = self.mcp.server(&Endpoint::Main).ok_or_else(down)?;
        Ok(Talk::new(server, caller, self.mcp.metrics().clone()))
    }
}

impl Door for McpLines {
    fn name(&self) -> &'static str {
        "mcp_line"
    }

    async fn serve(&self, mut conn: Conn, session: Session) -> CloseReason {
        let talk = match self.begin(&session).await {
            Ok(talk) => talk,
            Err(fault) => {
                say(&mut conn.io, &fault).await;
                return CloseReason::ProtocolError;
            }
        };
        let limits = session.limits();
        let patience = match conn.io {
            // Whoever has started us may take its time.
            ConnIo::Stdio(_) => Patience::default(),
            _ => Patience {
                first_byte_ms: Some(limits.first_byte_ms_max),
                write_ms: Some(limits.write_progress_ms_max),
                ..Patience::default()
            },
        };
        let (framing, metrics) = (OnLines::default(), self.mcp.metrics());
        Box::pin(pump(&mut conn.io, framing, talk, &session, metrics, patience, Out::default())).await
    }

    async fn refuse(&self, mut conn: Conn, refusal: Refusal) {
        say(&mut conn.io, &refused(refusal)).await;
    }
}

/// Tells why nothing is served, and ends.
async fn say(io: &mut ConnIo, fault: &Fault) {
    let last_words = async {
        io.write_all(fault.answer(None).bytes()).await?;
        io.write_all(b"\n").await?;
        goodbye::end(io, true).await
    };
    let _gone = timeout(GOODBYE_WITHIN, last_words).await;
}

/// Messages on lines.
#[derive(Debug, Default)]
struct OnLines(Lines);

fn taken(line: Line) -> Taken {
    match line {
        Line::Whole(line) => Taken::Message(line),
        Line::Dropped(outline) => Taken::Dropped(outline),
    }
}

impl Framing for OnLines {
    fn buf(&mut self, bytes_max: usize) -> &mut BytesMut {
        self.0.buf(bytes_max)
    }

    fn held(&self) -> usize {
        self.0.held()
    }

    fn next(&mut self, bytes_max: usize, _: &mut Out) -> Option<Taken> {
        self.0.next(bytes_max).map(taken)
    }

    fn end(&mut self, bytes_max: usize) -> Option<Taken> {
        self.0.end(bytes_max).map(taken)
    }

    fn give_up(&mut self) -> bool {
        self.0.give_up();
        true
    }

    fn put(&self, message: &Message, out: &mut Out) {
        out.put_whole(message.line());
        out.put(b"\n");
    }
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
