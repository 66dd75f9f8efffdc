//! Presence: writes that end with the connection (`docs/leases.md`), as commands of their own, since redis has
//! none that could mean it.

use std::sync::Arc;

use parking_lot::Mutex;
use standpipe_engine::Op;
use standpipe_tree::{Location, Path, Rows};

use super::call::{Fault, Look, Reader, set};
use super::client::{Client, Done, Next};
use super::keys::leaf;
use super::strings::check_root;
use crate::commands::Turn;
use crate::dispatch::Leases;

type Answered = Result<Next, Fault>;

fn path(client: &mut Client, key: &[u8]) -> Result<Path, Fault> {
    let path = client.shared.separator.path(key)?;
    check_root(&path)?;
    let (database, identity) = (client.database.clone(), client.identity.clone());
    let reader = Reader { database: &database, identity: &identity };
    if let Some(reading) = client.reading()?
        && Look::Snapshot(&reading.snapshot, reader).leaf_above(&path)?
    {
        return Err(Fault::BELOW_VALUE);
    }
    Ok(path)
}

fn leases(client: &mut Client) -> Arc<Leases> {
    client.more().leases.get_or_insert_default().clone()
}

pub(super) fn lease(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Answered {
    let op = set(path(client, args[1])?, leaf(args[2])?);
    let leases = leases(client);
    Ok(submit(client, op, Some(&leases), turn))
}

pub(super) fn on_close(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Answered {
    let location = Location::Node(path(client, args[1])?);
    let op = leases(client).on_close(&client.database, location, Rows::from_leaf(leaf(args[2])?));
    Ok(submit(client, op, None, turn))
}

pub(super) fn release(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Answered {
    let path = client.shared.separator.path(args[1])?;
    let op = leases(client).forget(&client.database, path);
    Ok(submit(client, op, None, turn))
}

fn submit(client: &Client, op: Op, leases: Option<&Leases>, turn: &Turn<'_>) -> Next {
    let ok = Arc::new(Mutex::new(vec![b"+OK\r\n".to_vec()]));
    Next::Later(client.submit(op, ok, (Vec::new(), leases), turn, Done::Wrote))
}
