//! The peer that shows what HTTP alone costs: hyper on a current-thread runtime, one body and its
//! headers for every request. No routes, limits, deadlines or storage.

use std::convert::Infallible;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

/// Serves until it is killed. Prints `ready http://ADDRESS` first.
pub(crate) fn serve(body: String, headers: &[String]) -> Result<()> {
    let headers = headers.iter().map(|header| parse(header)).collect::<Result<HeaderMap>>()?;
    let body = Bytes::from(body);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("ready http://{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(connection(stream, body.clone(), headers.clone()));
        }
    })
}

fn parse(header: &str) -> Result<(HeaderName, HeaderValue)> {
    let (name, value) = header.split_once(": ").with_context(|| format!("no `name: value`: {header}"))?;
    Ok((name.parse()?, value.parse()?))
}

async fn connection(stream: TcpStream, body: Bytes, headers: HeaderMap) {
    let answer = service_fn(|_: Request<Incoming>| {
        let mut response = Response::new(Full::new(body.clone()));
        response.headers_mut().clone_from(&headers);
        async { Ok::<_, Infallible>(response) }
    });
    // It fails when the client goes away, which is how every connection of a benchmark ends.
    let _ = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer).await;
}
