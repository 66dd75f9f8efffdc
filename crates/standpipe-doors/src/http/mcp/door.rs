//! A door of HTTP with nothing but MCP behind it: for a listener of its own, and for a gateway, which has no tree. Beside MCP it tells that it is
//! alive, that it is ready, and its figures.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use standpipe_engine::{Error, ErrorKind};
use standpipe_serve::{CloseReason, Conn, Door, Metrics, Refusal, Session};

use super::super::body::Reply;
use super::super::conn::{self, Answerer};
use super::super::io::Activity;
use super::super::sse::Takeover;
use super::super::{account, error_answer, not_allowed, operations, text};
use super::place;
use crate::mcp::Mcp;

/// See the module's text.
#[derive(Clone, Debug)]
pub struct McpHttp {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    mcp: Arc<Mcp>,
    metrics: Metrics,
    ready: Arc<AtomicBool>,
}

impl McpHttp {
    /// A door to `mcp`. `ready` is what `/readyz` tells.
    pub fn new(mcp: Arc<Mcp>, metrics: Metrics, ready: Arc<AtomicBool>) -> Self {
        Self { inner: Arc::new(Inner { mcp, metrics, ready }) }
    }

    pub(in crate::http) async fn answer(
        &self,
        session: &Session,
        activity: &Arc<Activity>,
        request: Request<Incoming>,
    ) -> Result<Response<Reply>, Box<Takeover>> {
        let Inner { mcp, metrics, ready } = &*self.inner;
        if let Some(place) = place(request.uri().path()) {
            return super::answer(mcp, place, session, activity, request).await;
        }
        let busy = activity.request(!request.body().is_end_stream());
        let mut guard = session.request();
        let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
        let answer = match request.uri().path() {
            "/healthz" | "/readyz" | "/metrics" | "/" if !is_get => Ok(not_allowed("GET, HEAD")),
            "/healthz" => Ok(text("ok\n")),
            "/readyz" if ready.load(Ordering::Relaxed) => Ok(text("ready\n")),
            "/readyz" => Err(Error::unavailable("the server is starting or stopping")),
            "/metrics" => Ok(operations::mcp_metrics(metrics, mcp)),
            "/" => Ok(text("MCP is at /mcp\n")),
            _ => Err(Error::new(ErrorKind::NotFound, "nothing is here; MCP is at /mcp")),
        };
        let mut answer = answer.unwrap_or_else(|error| {
            account(&mut guard, &error);
            error_answer(&error)
        });
        if *request.method() == Method::HEAD {
            *answer.body_mut() = super::super::body::Content::Full(bytes::Bytes::new());
        }
        debug_assert_ne!(answer.status(), StatusCode::SWITCHING_PROTOCOLS, "nothing above takes a connection over");
        let (parts, content) = answer.into_parts();
        Ok(Response::from_parts(parts, Reply::new(content, busy, guard)))
    }
}

impl Door for McpHttp {
    fn name(&self) -> &'static str {
        "mcp"
    }

    async fn serve(&self, conn: Conn, session: Session) -> CloseReason {
        conn::serve(Answerer::Mcp(self.clone()), conn, session).await
    }

    async fn refuse(&self, conn: Conn, refusal: Refusal) {
        conn::refuse(conn, &refusal).await;
    }
}
