//! Streams on the line door: `TAIL` follows one like a watch, in lines of its own between the answers (`LINE`, `PART`,
//! `NOTE`, `GAP`, `ENDED`); `APPEND` and `CLOSE` write one.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use futures_util::stream::{self, StreamExt as _};
use standpipe_engine::Error;
use standpipe_engine::{Channel, From};
use standpipe_serve::{Session, WatchPermit};
use standpipe_wire::records;

use super::client::{Client, Done};
use super::table::Next;
use super::watches::{Lines, Watch};
use super::words::Words;
use crate::commands::Turn;
use crate::dispatch;
use crate::http::check_state;
use crate::streams::{Part, Viewing, end_of, record, records_of};

/// Names that `TAIL` may have behind its path.
const TAIL: &[&str] = &["last", "follow"];

/// Lines made in one go.
const GATHER_BYTES: usize = 64 << 10;

type Answered = Result<Next, Error>;

/// A tail that is ready to be taken up.
pub(super) struct Begun {
    id: u64,
    viewing: Viewing,
    /// The end of what is there, where it does not wait for more.
    until: Option<u64>,
    permit: WatchPermit,
}

/// Appends and ends that are not handed over: a later append must not overtake them.
#[derive(Clone, Debug, Default)]
pub(super) struct Handing(Arc<AtomicUsize>);

impl Handing {
    fn begin(&self) -> Self {
        self.0.fetch_add(1, Ordering::Relaxed);
        self.clone()
    }

    fn done(self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

pub(super) fn tail(client: &mut Client, mut words: Words<'_>, turn: &mut Turn<'_>) -> Answered {
    let path = words.path()?;
    let mut from = words.number()?.map_or(From::Start, From::Seq);
    let mut follow = true;
    for (name, value) in words.options(&[TAIL])?.split('&').filter_map(|pair| pair.split_once('=')) {
        match (name, value, value.parse()) {
            ("last", _, Ok(_)) if from != From::Start => {
                return Err(Error::bad_request("a number and last= say two different places to begin at; give one"));
            }
            ("last", _, Ok(records)) => from = From::Tail(records),
            ("follow", "true", _) => {}
            ("follow", "false", _) => follow = false,
            _ => return Err(Error::bad_request("last= is a number of records, follow= is true or false")),
        }
    }
    let permit = turn.session.watch_permit().map_err(dispatch::refused)?;
    client.last_watch += 1;
    let id = client.last_watch;
    let (dispatch, watcher) = (client.shared.dispatch.clone(), client.watcher());
    let begun = async move {
        let head = dispatch.find_stream(&watcher.identity(), &path).await?;
        let until = (!follow && head.ended.is_none()).then_some(head.next_seq);
        let viewing = dispatch.view(watcher, path, from).await?;
        Ok(Box::new(Begun { id, viewing, until, permit }))
    };
    Ok(Next::Later(Box::pin(async move { Done::Tailing(begun.await) })))
}

pub(super) fn append(client: &mut Client, mut words: Words<'_>, turn: &mut Turn<'_>) -> Answered {
    let path = words.path()?;
    // After the blank that ends the path: byte for byte.
    let text = words.rest();
    let text = [text.strip_prefix(b" ").unwrap_or(text), b"\n"].concat();
    if turn.busy && !client.handing.is_over() {
        return Err(Error::bad_request("an append waits until the one before it is handed over"));
    }
    let (dispatch, identity) = (client.shared.dispatch.clone(), client.identity.clone());
    let handing = client.handing.begin();
    let appended = async move {
        let records = vec![record(Channel::Out, text.into())];
        let handed = dispatch.hand_over(&identity, &path, records).await;
        handing.done();
        Done::Appended(match handed {
            Ok(appender) => appender.flush().await,
            Err(error) => Err(error),
        })
    };
    // Handed over at once where there is room, so that appends sent ahead share a commit.
    let mut appended: crate::commands::Answer<Done> = Box::pin(appended);
    Ok(Next::Later(match (&mut appended).now_or_never() {
        Some(done) => Box::pin(std::future::ready(done)),
        None => appended,
    }))
}

pub(super) fn close(client: &mut Client, mut words: Words<'_>, _: &mut Turn<'_>) -> Answered {
    let path = words.path()?;
    let state = if words.rest().trim_ascii().is_empty() { "ended" } else { words.word("how it ended")? };
    words.end()?;
    check_state(state)?;
    let (dispatch, identity, state) = (client.shared.dispatch.clone(), client.identity.clone(), state.to_owned());
    let handing = client.handing.begin();
    Ok(Next::Later(Box::pin(async move {
        let ended = dispatch.end_stream(&identity, &path, &state).await;
        handing.done();
        Done::Closed(ended)
    })))
}

impl Client {
    /// Takes a tail up.
    pub(super) fn begin_tail(&mut self, begun: Begun, turn: &mut Turn<'_>) {
        let (id, seq) = (begun.id, begun.viewing.position());
        writeln!(turn.out, "TAILING {id} {seq}").expect("writing to memory does not fail");
        self.watches.get_or_insert_default().push(Watch::new(id, lines(begun, turn.session.clone())));
    }
}

/// Everything a tail has to tell.
fn lines(begun: Begun, session: Session) -> Lines {
    let Begun { id, viewing, until, permit } = begun;
    stream::unfold(Some((viewing, session, permit)), move |state| async move {
        let (mut viewing, session, permit) = state?;
        loop {
            let mut lines = Vec::new();
            match gather(id, &mut viewing, until, &session, &mut lines).await {
                Ok(true) if lines.is_empty() => viewing.changed().await,
                Ok(true) => return Some((Ok(lines), Some((viewing, session, permit)))),
                Ok(false) => return Some((Ok(lines), None)),
                Err(error) => return Some((Err(error), None)),
            }
        }
    })
    .boxed()
}

/// Tells what there is; false when that was all.
async fn gather(
    id: u64,
    viewing: &mut Viewing,
    until: Option<u64>,
    session: &Session,
    out: &mut Vec<u8>,
) -> Result<bool, Error> {
    while out.len() < GATHER_BYTES {
        if until.is_some_and(|until| viewing.position() >= until) {
            writeln!(out, "ENDED {id} {{\"event\":\"end\",\"state\":\"open\"}}")
                .expect("writing to memory does not fail");
            return Ok(false);
        }
        match viewing.take(session).await? {
            None => break,
            Some(Part::Records(chunk, range)) => {
                records_of(&chunk, range).for_each(|record| records::put_line(id, &record, out));
            }
            Some(Part::Gap { first_left }) => {
                writeln!(out, "GAP {id} {first_left}").expect("writing to memory does not fail");
            }
            Some(Part::Ended(outcome)) => {
                write!(out, "ENDED {id} ").expect("writing to memory does not fail");
                records::put_end_json(&end_of(&outcome), out);
                out.push(b'\n');
                return Ok(false);
            }
        }
    }
    Ok(true)
}
