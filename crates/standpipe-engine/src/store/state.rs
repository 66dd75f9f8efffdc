//! The one `meta` row that says where a database stands. It changes in the same transaction as
//! the data, so no crash can leave the two apart.

use crate::error::{Error, ErrorKind, Result};

/// The store format this program writes. An older one is upgraded on open, a newer one refused.
pub const FORMAT: u32 = 2;

const LEN: usize = 4 + 16 + 4 + 8 + 8 + 32 + 16 + 8 + 8 + 8 + 8 + 8;

/// Position, hash chain and digest of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Identity of the log whose records made this tree.
    pub log_id: [u8; 16],
    /// Raised when a tree continues on a new log.
    pub epoch: u32,
    /// Position of the last applied record.
    pub pos: u64,
    /// Revision of the last accepted write.
    pub rev: u64,
    /// Hash of the last applied record.
    pub chain: [u8; 32],
    /// Sum over all rows of the tree; equal trees have equal digests.
    pub digest: u128,
    /// Time of the last record, milliseconds since the epoch; never goes backwards.
    pub time_ms: u64,
    /// Rows in the tree: leaves and priorities.
    pub rows: u64,
    /// Bytes of records in the kept tail.
    pub changes_bytes: u64,
    /// How often rules were put; 0 where never.
    pub rules_version: u64,
    /// Rows that are priorities: without any, the order by priority is that by key.
    pub priorities: u64,
}

impl State {
    /// The state of an empty database on log `log_id`.
    pub(crate) fn empty(log_id: [u8; 16]) -> Self {
        Self {
            log_id,
            epoch: 1,
            pos: 0,
            rev: 0,
            chain: [0; 32],
            digest: 0,
            time_ms: 0,
            rows: 0,
            changes_bytes: 0,
            rules_version: 0,
            priorities: 0,
        }
    }

    pub(crate) fn encode(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        let mut at = 0;
        for part in [
            &FORMAT.to_le_bytes()[..],
            &self.log_id,
            &self.epoch.to_le_bytes(),
            &self.pos.to_le_bytes(),
            &self.rev.to_le_bytes(),
            &self.chain,
            &self.digest.to_le_bytes(),
            &self.time_ms.to_le_bytes(),
            &self.rows.to_le_bytes(),
            &self.changes_bytes.to_le_bytes(),
            &self.rules_version.to_le_bytes(),
            &self.priorities.to_le_bytes(),
        ] {
            out[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        out
    }

    /// The state, and the format it was written in: what a format does not have is 0.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, u32)> {
        let mut reader = crate::bytes::Reader::new(bytes);
        let format = reader.u32().ok_or_else(broken)?;
        if format > FORMAT {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "the data folder has store format {format}, this program knows up to {FORMAT}; use a newer standpipe"
                ),
            ));
        }
        let since = |format_of: u32, reader: &mut crate::bytes::Reader<'_>| {
            if format >= format_of { reader.u64() } else { Some(0) }
        };
        let mut decode = || {
            Some(Self {
                log_id: reader.array()?,
                epoch: reader.u32()?,
                pos: reader.u64()?,
                rev: reader.u64()?,
                chain: reader.array()?,
                digest: u128::from_le_bytes(reader.array()?),
                time_ms: reader.u64()?,
                rows: reader.u64()?,
                changes_bytes: reader.u64()?,
                rules_version: since(2, &mut reader)?,
                priorities: since(2, &mut reader)?,
            })
        };
        decode().map(|state| (state, format)).ok_or_else(broken)
    }
}

fn broken() -> Error {
    Error::new(ErrorKind::Internal, "the database's state row is damaged; restore a backup")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_round_trips_and_refuses_damage_and_newer_formats() {
        let state =
            State { pos: 7, rev: 9, digest: 1 << 100, changes_bytes: 3, priorities: 2, ..State::empty([4; 16]) };
        let mut bytes = state.encode();
        assert_eq!(State::decode(&bytes).unwrap(), (state.clone(), FORMAT));
        assert_eq!(State::decode(&bytes[..50]).unwrap_err().kind(), ErrorKind::Internal);
        let mut old = bytes[..LEN - 16].to_vec();
        old[0] = 1;
        assert_eq!(State::decode(&old).unwrap(), (State { priorities: 0, ..state }, 1));
        bytes[0] = 3;
        assert!(State::decode(&bytes).unwrap_err().message().contains("newer standpipe"));
    }
}
