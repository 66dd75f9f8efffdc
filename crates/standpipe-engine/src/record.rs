//! Records: what one commit changed, as the log and the kept tail hold it. Encoding, decoding and
//! the hash chain; nothing here reads a store, a clock or a rule.
//!
//! A record is a group of accepted writes, already resolved to plain effects, so applying it
//! needs nothing but the tree (`docs/adr/0001-rev-counts-writes.md` says why `rev` and `pos` are
//! two counters).

use std::sync::Arc;

use aws_lc_rs::digest;
use standpipe_tree::{Change, Path};

use crate::bytes::{Reader, put_block};
use crate::identity::Identity;
use crate::lease::{LeaseId, decode_identity, encode_identity};
use crate::store::State;

const MAGIC: &[u8; 4] = b"SPR1";

/// Bytes of the smallest record; the trailing checksum included.
const CHECKSUM_LEN: usize = 4;

/// One accepted write.
#[derive(Clone, Debug, PartialEq)]
pub struct Transaction {
    /// Who wrote, for audit.
    pub actor: String,
    /// What changed.
    pub effect: Effect,
}

/// What a write changed: plain data, nothing left to decide.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Values of the tree.
    Change(Arc<Change>),
    /// The rules text.
    Rules(String),
    /// At the release of a lease, for this identity, these writes are to be made, server values
    /// unresolved.
    Arm(LeaseId, Identity, Arc<Change>),
    /// What a lease has armed is to be made for this identity.
    Identify(LeaseId, Identity),
    /// Nothing is armed any more at and below a path.
    Disarm(LeaseId, Path),
    /// Nothing is armed any more: the writes are made.
    Release(LeaseId),
}

/// One commit's worth of writes, in order. The first has revision `first_rev`.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The log this record belongs to.
    pub log_id: [u8; 16],
    /// Epoch of that log.
    pub epoch: u32,
    /// Position in the log, from 1 without gaps.
    pub pos: u64,
    /// Revision of the first transaction; the others count up from it.
    pub first_rev: u64,
    /// Hash of the predecessor.
    pub chain: [u8; 32],
    /// Digest of the tree this record was made from.
    pub digest_before: u128,
    /// The proposer's time, never before the predecessor's.
    pub time_ms: u64,
    /// The writes.
    pub transactions: Vec<Transaction>,
}

impl Record {
    /// An empty record that follows `state`.
    pub(crate) fn after(state: &State, time_ms: u64) -> Self {
        Self {
            log_id: state.log_id,
            epoch: state.epoch,
            pos: state.pos + 1,
            first_rev: state.rev + 1,
            chain: state.chain,
            digest_before: state.digest,
            time_ms: time_ms.max(state.time_ms),
            transactions: Vec::new(),
        }
    }

    /// Revision of the last transaction.
    pub fn last_rev(&self) -> u64 {
        self.first_rev + self.transactions.len().saturating_sub(1) as u64
    }

    /// Does this record continue the tree that `state` describes?
    pub fn follows(&self, state: &State) -> bool {
        self.log_id == state.log_id
            && self.epoch == state.epoch
            && self.pos == state.pos + 1
            && self.first_rev == state.rev + 1
            && self.chain == state.chain
            && self.digest_before == state.digest
    }

    /// The bytes that are logged, hashed and checksummed.
    pub fn encode(&self) -> Encoded {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.log_id);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.pos.to_le_bytes());
        out.extend_from_slice(&self.first_rev.to_le_bytes());
        out.extend_from_slice(&self.chain);
        out.extend_from_slice(&self.digest_before.to_le_bytes());
        out.extend_from_slice(&self.time_ms.to_le_bytes());
        let count = u32::try_from(self.transactions.len()).expect("a group is limited far below 2^32");
        out.extend_from_slice(&count.to_le_bytes());
        for transaction in &self.transactions {
            put_block(&mut out, transaction.actor.as_bytes());
            match &transaction.effect {
                Effect::Change(change) => {
                    out.push(0);
                    put_change(&mut out, change);
                }
                Effect::Rules(text) => {
                    out.push(1);
                    put_block(&mut out, text.as_bytes());
                }
                Effect::Arm(lease, identity, change) => {
                    out.push(2);
                    out.extend_from_slice(&lease.0);
                    encode_identity(identity, &mut out);
                    put_change(&mut out, change);
                }
                Effect::Disarm(lease, path) => {
                    out.push(3);
                    out.extend_from_slice(&lease.0);
                    put_block(&mut out, path.as_str().as_bytes());
                }
                Effect::Identify(lease, identity) => {
                    out.push(5);
                    out.extend_from_slice(&lease.0);
                    encode_identity(identity, &mut out);
                }
                Effect::Release(lease) => {
                    out.push(4);
                    out.extend_from_slice(&lease.0);
                }
            }
        }
        let checksum = crc32fast::hash(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        Encoded(out)
    }

    /// Reads a record back; `None` when the bytes are damaged. Never panics.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_LEN)?)?;
        if crc32fast::hash(body).to_le_bytes() != *checksum {
            return None;
        }
        let mut reader = Reader::new(body);
        if reader.take(MAGIC.len())? != MAGIC {
            return None;
        }
        let mut record = Self {
            log_id: reader.array()?,
            epoch: reader.u32()?,
            pos: reader.u64()?,
            first_rev: reader.u64()?,
            chain: reader.array()?,
            digest_before: u128::from_le_bytes(reader.array()?),
            time_ms: reader.u64()?,
            transactions: Vec::new(),
        };
        for _ in 0..reader.u32()? {
            record.transactions.push(Transaction {
                actor: String::from_utf8(reader.block()?.to_vec()).ok()?,
                effect: match reader.u8()? {
                    0 => Effect::Change(Arc::new(decode_change(reader.block()?)?)),
                    1 => Effect::Rules(String::from_utf8(reader.block()?.to_vec()).ok()?),
                    2 => Effect::Arm(
                        LeaseId(reader.array()?),
                        decode_identity(&mut reader)?,
                        Arc::new(decode_change(reader.block()?)?),
                    ),
                    3 => Effect::Disarm(
                        LeaseId(reader.array()?),
                        Path::parse(std::str::from_utf8(reader.block()?).ok()?).ok()?,
                    ),
                    4 => Effect::Release(LeaseId(reader.array()?)),
                    5 => Effect::Identify(LeaseId(reader.array()?), decode_identity(&mut reader)?),
                    _ => return None,
                },
            });
        }
        reader.is_empty().then_some(record)
    }
}

/// A change as a block.
fn put_change(out: &mut Vec<u8>, change: &Change) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    change.encode(out);
    let len = u32::try_from(out.len() - at - 4).expect("writes are limited far below 4 GiB");
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

/// A change that fills its block.
fn decode_change(block: &[u8]) -> Option<Change> {
    let (change, len) = Change::decode(block)?;
    (len == block.len()).then_some(change)
}

/// The encoded form of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded(Vec<u8>);

impl Encoded {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// SHA-256 of the bytes: what the successor's `chain` holds.
    pub fn hash(&self) -> [u8; 32] {
        hash(&self.0)
    }
}

/// Where `time_ms` stands in an encoded record.
const TIME_AT: usize = 4 + 16 + 4 + 8 + 8 + 32 + 16;

/// The time of an encoded record, without decoding the rest.
pub(crate) fn peek_time_ms(encoded: &[u8]) -> Option<u64> {
    Reader::new(encoded.get(TIME_AT..)?).u64()
}

/// SHA-256 of an encoded record.
pub(crate) fn hash(encoded: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, encoded);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use standpipe_tree::{ChangeKind, Leaf, Location, Rows, Write};

    use super::*;

    #[test]
    fn records_round_trip_and_damage_is_noticed() {
        let mut record = Record::after(&State::empty([7; 16]), 5);
        record.transactions.push(Transaction { actor: "admin".into(), effect: Effect::Rules("{}".into()) });
        let (lease, path) = (LeaseId::new(1, 2), Path::parse("a/b").expect("a path"));
        let user = Identity::user(serde_json::json!({"uid": "u"}));
        let rows = Rows::from_leaf(Leaf::Int(1));
        let writes = vec![Write { location: Location::Node(path.clone()), rows }];
        let change = Arc::new(Change { kind: ChangeKind::Set, base: path.clone(), writes });
        for effect in [
            Effect::Arm(lease, user.clone(), change),
            Effect::Identify(lease, user),
            Effect::Disarm(lease, path),
            Effect::Release(lease),
        ] {
            record.transactions.push(Transaction { actor: "u".into(), effect });
        }
        let encoded = record.encode();
        assert_eq!(peek_time_ms(encoded.as_bytes()), Some(5));
        assert_eq!(Record::decode(encoded.as_bytes()), Some(record));
        for at in 0..encoded.as_bytes().len() {
            let mut bytes = encoded.as_bytes().to_vec();
            bytes[at] ^= 0x10;
            assert_eq!(Record::decode(&bytes), None, "byte {at}");
            assert_eq!(Record::decode(&encoded.as_bytes()[..at]), None, "cut at {at}");
        }
    }
}
