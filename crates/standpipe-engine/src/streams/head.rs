//! What is known of a stream without reading it: its row in the table `heads`, and its end.

use serde::{Deserialize, Serialize};

use crate::bytes::{Reader, put_block};

const VERSION: u8 = 1;

/// How a stream ended: of a run's output, how the run did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// One word, such as `succeeded`.
    pub state: String,
    /// The process's exit code, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// A sentence for people, if there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Outcome {
    /// An end of which there is nothing to say but this word.
    pub fn of(state: &str) -> Self {
        Self { state: state.to_owned(), ..Self::default() }
    }
}

/// A stream as its last commit left it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// When it was created, in milliseconds since the epoch.
    pub created_at: u64,
    /// The first record that is kept.
    pub first_seq: u64,
    /// The number that the next record gets: how many there have been.
    pub next_seq: u64,
    /// Bytes of the records that are kept.
    pub bytes: u64,
    /// Bytes of output, which is all but notes, there have been: the offset of the next byte of it.
    pub out_bytes: u64,
    /// Offset of the first byte of output that is kept.
    pub first_offset: u64,
    /// How it ended; `None` while it is open.
    pub ended: Option<Outcome>,
    /// When it ended, in milliseconds since the epoch.
    pub ended_at: Option<u64>,
}

/// The row of a stream: its head, and what the store has to know beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeadRow {
    /// Never used for another stream.
    pub(crate) id: u64,
    pub(crate) head: Head,
    /// Bytes of its rows in `chunks`.
    pub(crate) stored: u64,
    /// First record of the last row.
    pub(crate) tail_seq: u64,
    /// Bytes of the last row; 0 where there is none.
    pub(crate) tail_bytes: u32,
    /// When the last record of the first row was appended: when all of it is old.
    pub(crate) first_row_ms: u64,
}

impl HeadRow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self { id, head, stored, tail_seq, tail_bytes, first_row_ms } = self;
        let mut out = vec![VERSION];
        for number in [
            *id,
            head.created_at,
            head.first_seq,
            head.next_seq,
            head.bytes,
            head.out_bytes,
            head.first_offset,
            *stored,
            *tail_seq,
            *first_row_ms,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&tail_bytes.to_le_bytes());
        if let Some(outcome) = &head.ended {
            out.extend_from_slice(&head.ended_at.unwrap_or_default().to_le_bytes());
            put_block(&mut out, &serde_json::to_vec(outcome).expect("an outcome has nothing that JSON has not"));
        }
        out
    }

    /// `None` where the row is damaged.
    pub(crate) fn decode(row: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(row);
        if reader.u8()? != VERSION {
            return None;
        }
        let mut read = Self {
            id: reader.u64()?,
            head: Head {
                created_at: reader.u64()?,
                first_seq: reader.u64()?,
                next_seq: reader.u64()?,
                bytes: reader.u64()?,
                out_bytes: reader.u64()?,
                first_offset: reader.u64()?,
                ended: None,
                ended_at: None,
            },
            stored: reader.u64()?,
            tail_seq: reader.u64()?,
            first_row_ms: reader.u64()?,
            tail_bytes: reader.u32()?,
        };
        if !reader.is_empty() {
            read.head.ended_at = Some(reader.u64()?);
            read.head.ended = Some(serde_json::from_slice(reader.block()?).ok()?);
        }
        reader.is_empty().then_some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_gives_back_what_was_put_into_it() {
        let open = HeadRow {
            id: 9,
            head: Head {
                created_at: 5,
                first_seq: 2,
                next_seq: 8,
                bytes: 77,
                out_bytes: 90,
                first_offset: 10,
                ended: None,
                ended_at: None,
            },
            stored: 99,
            tail_seq: 7,
            tail_bytes: 40,
            first_row_ms: 6,
        };
        let outcome =
            Outcome { exit_code: Some(-1), signal: Some(9), reason: Some("é\n".into()), ..Outcome::of("failed") };
        let mut ended = open.clone();
        (ended.head.ended, ended.head.ended_at) = (Some(outcome), Some(11));
        for row in [open, ended] {
            let bytes = row.encode();
            assert_eq!(HeadRow::decode(&bytes), Some(row.clone()));
            let cut = (0..bytes.len()).filter_map(|len| HeadRow::decode(&bytes[..len]));
            // Without its end, what is left is a stream that is open.
            assert!(cut.into_iter().all(|cut| cut.head.ended.is_none() && row.head.ended.is_some()));
        }
    }
}
