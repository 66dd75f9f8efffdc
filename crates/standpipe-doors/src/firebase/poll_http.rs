//! The requests of long polling (firebase-rtdb §8.2) and what they are answered. What they bring and take is
//! [`super::poll`]'s.

use std::time::Duration;

use standpipe_engine::Error;
use standpipe_serve::Session;
use standpipe_wire::longpoll::{self as wire, Request};

use super::poll::Polls;
use super::{Context, session};
use crate::dispatch::refused;

/// An answer's media type and body.
pub(crate) type Script = (&'static str, Vec<u8>);

/// Answers one request of long polling, which came over `connection`. `context` is what a session that begins is about.
///
/// # Errors
/// `BadRequest` for what is no such request; what `context` says; `Overloaded` when there is no seat for a session.
pub(crate) async fn answer(
    polls: &Polls,
    connection: &Session,
    query: &str,
    context: impl FnOnce() -> Result<Context, Error>,
) -> Result<Script, Error> {
    let request = Request::parse(query).map_err(|invalid| Error::bad_request(invalid.to_string()))?;
    let hold = Duration::from_millis(connection.limits().poll_hold_ms_max);
    let script = match request {
        Request::Page => return Ok(("text/html; charset=utf-8", wire::DISCONNECT_PAGE.into())),
        Request::Start { page } => start(polls, connection, page, context()?, hold).await?,
        Request::Disconnect(who) => {
            if let Some(poll) = polls.find(who) {
                poll.leave(standpipe_serve::CloseReason::PeerClosed);
            }
            wire::close(None)
        }
        Request::Poll { who, pieces } => match polls.find(who) {
            None => wire::close(None),
            Some(poll) => {
                let open = poll.arrive();
                poll.feed(&pieces).await;
                let answer = open.answer(hold).await;
                if poll.is_done() {
                    polls.forget(&poll);
                }
                answer
            }
        },
    };
    Ok((wire::SCRIPT, script))
}

/// Begins a session, a connection of its own beside the one the request came over.
async fn start(
    polls: &Polls,
    connection: &Session,
    page: Option<u32>,
    context: Context,
    hold: Duration,
) -> Result<Vec<u8>, Error> {
    let mut opened = None;
    let branch = connection.branch(|own| {
        let (link, poll) = polls.open(&context.id, own.clone(), &context.database);
        opened = Some(poll);
        session::serve(link, own, context)
    });
    branch.map_err(refused)?;
    let poll = opened.expect("a branch is served");
    let mut script = wire::start(page, poll.id(), poll.password());
    script.extend_from_slice(&poll.arrive().answer(hold).await);
    Ok(script)
}
