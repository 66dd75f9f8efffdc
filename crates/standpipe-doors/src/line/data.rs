//! Commands that read and write the tree. What a value or an update means is what it means in a REST
//! request, and read by the same functions.

use std::sync::Arc;

use http::Method;
use standpipe_engine::{Database, Error, Op};
use standpipe_serve::{Class, Cost, Deadline};
use standpipe_tree::{Format, Location, Rows, to_json};

use super::client::{Client, Done};
use super::table::Next;
use super::words::{QUERY, READ, Words};
use crate::commands::Turn;
use crate::dispatch::{self, Leases, Read, Write};
use crate::http::{Params, parse_write};

/// Values up to this are read on the connection's own task.
const SMALL_VALUE: usize = 16 << 10;

type Answered = Result<Next, Error>;

pub(super) fn get(client: &mut Client, mut words: Words<'_>, turn: &mut Turn<'_>) -> Answered {
    let location = words.location()?;
    let options = words.options(&[QUERY, READ])?;
    let (dispatch, database) = (client.shared.dispatch.clone(), client.database.clone());
    let (identity, session) = (client.identity.clone(), turn.session.clone());
    let path = match location {
        Location::Node(path) => path,
        Location::Priority(path) => {
            let read = async move { Done::Read(dispatch.read_priority(&database, &identity, &path).await) };
            return Ok(Next::Later(Box::pin(read)));
        }
    };
    let (on, who) = (client.database.clone(), client.identity.clone());
    if options.is_empty()
        && let Some(snapshot) = client.look_now()?
        && dispatch::cost(snapshot, &path, turn.limits.reply_chunk_bytes)? == Cost::Small
    {
        on.check_read(snapshot, &who, &path, None)?;
        turn.out.extend_from_slice(&to_json(&mut snapshot.cursor(&path), Format::Plain)?);
        turn.out.push(b'\n');
        return Ok(Next::Answered);
    }
    let params = Params::parse(Some(&options))?;
    let read = Read {
        query: params.query,
        shallow: params.shallow,
        format: params.format,
        at_least: params.at_least,
        ..Read::new(path)
    };
    let limit = turn.limits.request_ms_max;
    let deadline = Deadline::after(params.timeout.map_or(limit, |sooner| limit.min(sooner.as_millis() as u64)));
    Ok(Next::Later(Box::pin(async move {
        Done::Read(dispatch.read_whole(&session, &database, &identity, read, deadline).await)
    })))
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Set,
    Patch,
    Push,
    /// Set, and removed when the connection goes.
    Lease,
    /// When the connection goes.
    OnClose,
}

impl How {
    /// The client's leases, where it takes them.
    fn leases(self, client: &mut Client) -> Option<Arc<Leases>> {
        matches!(self, Self::Lease | Self::OnClose).then(|| client.leases())
    }
}

pub(super) fn set(client: &mut Client, words: Words<'_>, turn: &mut Turn<'_>) -> Answered {
    write(client, How::Set, words, turn)
}

pub(super) fn patch(client: &mut Client, words: Words<'_>, turn: &mut Turn<'_>) -> Answered {
    write(client, How::Patch, words, turn)
}

pub(super) fn push(client: &mut Client, words: Words<'_>, turn: &mut Turn<'_>) -> Answered {
    write(client, How::Push, words, turn)
}

pub(super) fn lease(client: &mut Client, words: Words<'_>, turn: &mut Turn<'_>) -> Answered {
    write(client, How::Lease, words, turn)
}

pub(super) fn on_close(client: &mut Client, words: Words<'_>, turn: &mut Turn<'_>) -> Answered {
    write(client, How::OnClose, words, turn)
}

pub(super) fn release(client: &mut Client, mut words: Words<'_>, turn: &mut Turn<'_>) -> Answered {
    let path = words.path()?;
    words.end()?;
    let op = client.leases().forget(&client.database, path);
    submit(client, How::Set, op, turn)
}

pub(super) fn delete(client: &mut Client, mut words: Words<'_>, turn: &mut Turn<'_>) -> Answered {
    let location = words.location()?;
    words.end()?;
    submit(client, How::Set, Op::Set { location, rows: Rows::default() }, turn)
}

fn write(client: &mut Client, how: How, mut words: Words<'_>, turn: &mut Turn<'_>) -> Answered {
    let location = words.location()?;
    let json = words.json()?;
    if json.len() <= SMALL_VALUE {
        let leases = how.leases(client);
        let op = parse(how, location, json, leases.as_deref(), &client.database)?;
        return submit(client, how, op, turn);
    }
    if turn.busy {
        return Err(Error::bad_request("a long value waits until what was begun is done"));
    }
    client.parsing = true;
    let (json, leases) = (json.to_vec(), how.leases(client));
    let (dispatch, database) = (client.shared.dispatch.clone(), client.database.clone());
    let (identity, session) = (client.identity.clone(), turn.session.clone());
    let deadline = Deadline::after(turn.limits.request_ms_max);
    let written = async move {
        let cost = Cost::Bytes(json.len());
        let (on, with) = (database.clone(), leases.clone());
        let job = move || parse(how, location, &json, with.as_deref(), &on);
        let op = dispatch::run(&session, Class::Write, cost, deadline, job).await?;
        dispatch.write(&database, &identity, tied(how, op, leases.as_deref()), deadline).await
    };
    Ok(Next::Later(Box::pin(async move { Done::Wrote(written.await) })))
}

fn parse(how: How, location: Location, json: &[u8], leases: Option<&Leases>, database: &Database) -> Result<Op, Error> {
    let method = match how {
        How::Set | How::Lease | How::OnClose => Method::PUT,
        How::Patch => Method::PATCH,
        How::Push => Method::POST,
    };
    Ok(match (parse_write(&method, location, false, json)?, leases) {
        (Op::Set { location, rows }, Some(leases)) if how == How::OnClose => leases.on_close(database, location, rows),
        (op, _) => op,
    })
}

/// The write, tied to the connection where it is to go with it.
fn tied(how: How, op: Op, leases: Option<&Leases>) -> Write<'_> {
    Write { leases: leases.filter(|_| how == How::Lease), ..Write::new(op) }
}

/// Hands a write to the writer at once, so that those of this client are done in their order.
fn submit(client: &mut Client, how: How, op: Op, turn: &Turn<'_>) -> Answered {
    let deadline = Deadline::after(turn.limits.request_ms_max);
    let leases = how.leases(client);
    let write = tied(how, op, leases.as_deref());
    let committed = client.shared.dispatch.submit(&client.database, &client.identity, write, deadline)?;
    Ok(Next::Later(Box::pin(async move { Done::Wrote(committed.await) })))
}
