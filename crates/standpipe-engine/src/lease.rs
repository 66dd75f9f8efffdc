//! Leases (engine.md §8): what a connection leaves behind in the tree when it goes. Here are the
//! handle and the bytes of the `leases` table, one row for each lease and armed location.
//!
//! What arming and releasing mean is the business of `decide`, `apply` and the writer; whose
//! connection a lease stands for is its holder's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use heed::RoTxn;
use standpipe_tree::{Location, PRIORITY, Path, Rows, Write, is_priority_key};

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
            out.push(1);
            put_block(out, user.auth_json().as_bytes());
        }
        Identity::Admin => out.push(2),
    }
}

pub(crate) fn decode_identity(reader: &mut Reader<'_>) -> Option<Identity> {
    Some(match reader.u8()? {
        0 => Identity::Anonymous,
        1 => Identity::user(serde_json::from_slice(reader.block()?).ok()?),
        2 => Identity::Admin,
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
