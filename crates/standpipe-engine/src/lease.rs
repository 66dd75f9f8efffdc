//! Leases (engine.md §8): what a connection leaves behind in the tree when it goes. Here are the
//! handle and the bytes of the `leases` table, one row for each lease and armed location.
//!
//! What arming and releasing mean is the business of `decide`, `apply` and the writer; whose
//! connection a lease stands for is its holder's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use heed::RoTxn;
use serde_json::{Value, json};
use standpipe_tree::{Location, PRIORITY, Path, Rows, RowsBuilder, Write, is_priority_key, segment_len};

use crate::bytes::{Reader, put_block};
use crate::error::{Error, ErrorKind, Result};
use crate::identity::Identity;
use crate::queue::Queue;
use crate::store::Store;
use crate::store::keys::{LEASE_PREFIX, lease_key};

/// Bytes an armed location is counted with beside its value.
const FIXED: usize = 256;

/// Names a lease among those of all times: the boot it was made in, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseId(pub(crate) [u8; 16]);

impl LeaseId {
    pub(crate) fn new(boot: u64, number: u64) -> Self {
        Self((u128::from(boot) << 64 | u128::from(number)).to_be_bytes())
    }
}

/// A lease of one database: writes tied to it are undone when its last handle is dropped.
///
/// A write that waits in the queue holds a handle, so it is never done after the release. The
/// release itself can't be refused; where the database has stopped before, it is done when that is opened
/// again.
#[derive(Clone, Debug)]
pub struct Lease(Arc<Held>);

#[derive(Debug)]
struct Held {
    id: LeaseId,
    queue: Arc<Queue>,
    /// Bytes armed at most; 0 when nothing ever was.
    bytes: AtomicUsize,
}

impl Lease {
    pub(crate) fn new(id: LeaseId, queue: Arc<Queue>) -> Self {
        Self(Arc::new(Held { id, queue, bytes: AtomicUsize::new(0) }))
    }

    /// Its name in records.
    pub fn id(&self) -> LeaseId {
        self.0.id
    }

    /// Has anything ever been armed?
    pub fn is_armed(&self) -> bool {
        self.0.bytes.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn is_on(&self, queue: &Arc<Queue>) -> bool {
        Arc::ptr_eq(&self.0.queue, queue)
    }

    /// There is something to release, of so many bytes.
    pub(crate) fn holds(&self, bytes: usize) {
        self.0.bytes.fetch_max(bytes.max(1), Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        if bytes > 0 {
            self.queue.release(self.id, bytes);
        }
    }
}

/// How much one lease may arm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeaseLimits {
    pub(crate) locations_max: usize,
    pub(crate) bytes_max: usize,
}

/// One row of the table: what is written where at the release, and for whom.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Armed {
    pub(crate) location: Location,
    pub(crate) rows: Rows,
    pub(crate) identity: Identity,
}

/// The value of a row.
pub(crate) fn armed_value(identity: &Identity, rows: &Rows) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    encode_identity(identity, &mut out);
    rows.encode(&mut out);
    out
}

/// The same value, for another identity; `None` when it is damaged.
pub(crate) fn armed_for(value: &[u8], identity: &Identity) -> Option<Vec<u8>> {
    let mut reader = Reader::new(value);
    decode_identity(&mut reader)?;
    let mut out = Vec::with_capacity(value.len() + 64);
    encode_identity(identity, &mut out);
    out.extend_from_slice(reader.rest());
    Some(out)
}

fn decode(lease: LeaseId, key: &[u8], value: &[u8]) -> Option<Armed> {
    let location = decode_location(key.strip_prefix(&lease_key(lease, &[])[..])?)?;
    let mut reader = Reader::new(value);
    let identity = decode_identity(&mut reader)?;
    let rest = reader.rest();
    let (rows, len) = Rows::decode(rest)?;
    (len == rest.len()).then_some(Armed { location, rows, identity })
}

/// The location whose row has this key.
pub(crate) fn decode_location(encoded: &[u8]) -> Option<Location> {
    match encoded.split_last() {
        Some((&PRIORITY, node)) if is_priority_key(encoded) => Path::decode(node).map(Location::Priority),
        _ => Path::decode(encoded).map(Location::Node),
    }
}

pub(crate) fn encode_identity(identity: &Identity, out: &mut Vec<u8>) {
    match identity {
        Identity::Anonymous => out.push(0),
        Identity::User(user) => {
            out.push(3);
            put_block(out, user.auth_json().as_bytes());
        }
        Identity::Admin => out.push(2),
    }
}

pub(crate) fn decode_identity(reader: &mut Reader<'_>) -> Option<Identity> {
    Some(match reader.u8()? {
        0 => Identity::Anonymous,
        // Of format 1: a uid, and the claims of a token.
        1 => {
            let uid = std::str::from_utf8(reader.block()?).ok()?;
            let claims: Value = serde_json::from_slice(reader.block()?).ok()?;
            Identity::user(json!({ "uid": uid, "provider": null, "token": claims }))
        }
        2 => Identity::Admin,
        3 => Identity::user(serde_json::from_slice(reader.block()?).ok()?),
        _ => return None,
    })
}

/// Refuses to arm `writes` where the lease then held too much; says how many bytes it may hold after.
pub(crate) fn check_room(
    store: &Store,
    txn: &RoTxn,
    lease: LeaseId,
    writes: &[Write],
    limits: LeaseLimits,
) -> Result<usize> {
    let (mut locations, mut bytes) = (0, 0);
    for write in writes {
        let known = store.leases.get(txn, &lease_key(lease, &write.location.encode()))?;
        locations += usize::from(known.is_none());
        bytes += FIXED + write.rows.bytes();
    }
    // Who arms the same again and again, as presence does, is not counted again and again.
    if locations > 0 || writes.iter().any(|write| !write.rows.is_empty()) {
        for row in store.leases.prefix_iter(txn, &lease_key(lease, &[]))? {
            let (key, value) = row?;
            locations += 1;
            bytes += FIXED + key.len() + value.len();
        }
    }
    let refuse = |what: &str, limit: usize| {
        Err(Error::new(ErrorKind::TooLarge, format!("a lease holds at most {limit} {what} of one connection")))
    };
    if locations > limits.locations_max {
        return refuse("locations (lease_locations_max)", limits.locations_max);
    }
    if bytes > limits.bytes_max {
        return refuse("bytes (lease_bytes_max)", limits.bytes_max);
    }
    Ok(bytes)
}

/// The armed location of `lease` after the row of `key`, with its row's key; ancestors come before
/// what is below them.
///
/// # Errors
/// `Internal` for a damaged row.
pub(crate) fn armed_after(
    store: &Store,
    txn: &RoTxn,
    lease: LeaseId,
    key: Option<&[u8]>,
) -> Result<Option<(Vec<u8>, Armed)>> {
    let prefix = lease_key(lease, &[]);
    let row = match key {
        None => store.leases.get_greater_than_or_equal_to(txn, &prefix)?,
        Some(key) => store.leases.get_greater_than(txn, key)?,
    };
    let Some((key, value)) = row.filter(|(key, _)| key.starts_with(&prefix)) else { return Ok(None) };
    let armed = decode(lease, key, value).ok_or_else(damaged)?;
    Ok(Some((key.to_vec(), armed)))
}

/// What `lease` has armed at the nearest node above `path`, if anything.
///
/// # Errors
/// `Internal` for a damaged row.
pub(crate) fn armed_above(store: &Store, txn: &RoTxn, lease: LeaseId, path: &Path) -> Result<Option<Armed>> {
    let mut above = path.parent();
    while let Some(path) = above {
        let key = lease_key(lease, &path.encode());
        if let Some(value) = store.leases.get(txn, &key)? {
            return decode(lease, &key, value).ok_or_else(damaged).map(Some);
        }
        above = path.parent();
    }
    Ok(None)
}

/// `rows`, armed at some node, with `new` at a location below that node, as a write there would leave it.
pub(crate) fn changed_inside(rows: &Rows, below: &Location, new: &Rows) -> Rows {
    let (at, key) = (below.path().encode(), below.encode());
    let mut built = RowsBuilder::with_capacity(rows.len() + new.len(), rows.bytes() + new.bytes());
    let there = |at: &[u8]| rows.iter().any(|(key, _)| key.starts_with(at) && !is_priority_key(key));
    let leaf_above = rows.iter().any(|(key, _)| key.len() < at.len() && at.starts_with(key) && !is_priority_key(key));
    match below {
        // Below a leaf there is nothing to remove, and only what exists has a priority.
        Location::Node(_) if new.is_empty() && leaf_above => return rows.clone(),
        Location::Priority(_) if !there(&at) => return rows.clone(),
        _ => {}
    }
    for (old, value) in rows.iter() {
        let gives_way = match below {
            Location::Node(_) => {
                old.starts_with(&at) || (old.len() < at.len() && at.starts_with(old) && !is_priority_key(old))
            }
            Location::Priority(_) => old == key,
        };
        if !gives_way {
            built.push(old, value);
        }
    }
    for (relative, value) in new.iter() {
        built.push(&[&key[..], relative].concat(), value);
    }
    // Sorted and in one piece by what was left out above; beyond the limit of memory the old value stays.
    without_lone_priorities(&built.finish().unwrap_or_else(|_| rows.clone()))
}

/// Nodes that became empty have no priority.
fn without_lone_priorities(rows: &Rows) -> Rows {
    let mut built = RowsBuilder::with_capacity(rows.len(), rows.bytes());
    for (key, value) in rows.iter() {
        let node = if is_priority_key(key) { &key[..key.len() - 1] } else { key };
        if rows.subtree(node).iter().any(|(key, _)| !is_priority_key(key)) {
            built.push(key, value);
        }
    }
    built.finish().unwrap_or_default()
}

/// What is armed at `path` as single children, without what lies at and below `target`; `None` for a leaf,
/// of which no part can be forgotten (firebase-rtdb §12).
pub(crate) fn fallen_apart(path: &Path, rows: &Rows, target: &Path) -> Option<Vec<(Path, Rows)>> {
    if rows.get(&[]).is_some() {
        return None;
    }
    let mut parts: Vec<(Path, Rows)> = Vec::new();
    let mut last: Vec<u8> = Vec::new();
    for (key, _) in rows.iter() {
        let Some(len) = segment_len(key).filter(|len| key[..*len] != last) else { continue };
        last = key[..len].to_vec();
        let child = Path::decode(&last).and_then(|child| path.join(&child).ok())?;
        let value = rows.subtree(&last);
        if child == *target {
            continue;
        }
        match child.contains(target).then(|| fallen_apart(&child, &value, target)).flatten() {
            Some(smaller) => parts.extend(smaller),
            None => parts.push((child, value)),
        }
    }
    Some(parts)
}

/// The leases of the table, each with its bytes.
pub(crate) fn stored(store: &Store, txn: &RoTxn) -> Result<Vec<(LeaseId, usize)>> {
    let mut found: Vec<(LeaseId, usize)> = Vec::new();
    for row in store.leases.iter(txn)? {
        let (key, value) = row?;
        let lease = lease_of(key).ok_or_else(damaged)?;
        let bytes = FIXED + key.len() + value.len();
        match found.last_mut() {
            Some((last, held)) if *last == lease => *held += bytes,
            _ => found.push((lease, bytes)),
        }
    }
    Ok(found)
}

/// Checks that every row of the table can be read.
pub(crate) fn verify(store: &Store, txn: &RoTxn) -> Result<()> {
    for row in store.leases.iter(txn)? {
        let (key, value) = row?;
        lease_of(key).and_then(|lease| decode(lease, key, value)).ok_or_else(damaged)?;
    }
    Ok(())
}

fn lease_of(key: &[u8]) -> Option<LeaseId> {
    let id = key.strip_prefix(&[LEASE_PREFIX])?.first_chunk()?;
    Some(LeaseId(*id))
}

fn damaged() -> Error {
    Error::new(ErrorKind::Internal, "damaged database: a lease can't be read; restore a backup")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_come_back_those_of_format_1_too() {
        let back = |bytes: &[u8]| decode_identity(&mut Reader::new(bytes));
        for identity in [Identity::Anonymous, Identity::Admin, Identity::user(json!({"uid": "u", "role": [1]}))] {
            let mut bytes = Vec::new();
            encode_identity(&identity, &mut bytes);
            assert_eq!(back(&bytes), Some(identity));
            assert_eq!(back(&bytes[..bytes.len() - 1]), None);
        }
        let mut old = vec![1];
        put_block(&mut old, b"maya");
        put_block(&mut old, br#"{"sub":"maya"}"#);
        let auth = json!({"uid": "maya", "provider": null, "token": {"sub": "maya"}});
        assert_eq!(back(&old), Some(Identity::user(auth)));
    }
}
