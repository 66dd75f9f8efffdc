//! Records and chunks: what a stream is made of, in memory and as a row of the store. A chunk's bytes are
//! the same in both places, so a chunk is encoded once, by whoever appends.
//!
//! Layout of a chunk, little-endian: version `1`, channels (a bit each), records (u32), payload bytes (u32), time of the
//! first record (u64), of the server when the last was appended (u64), output before the chunk (u64), output in it (u32), CRC of what follows (u32); the payload, all records' bytes without
//! anything in between; then for each record `len << 2 | channel` and the time since the record before it
//! (zigzag), both as LEB128. That the payload is in one piece is what lets a door send a chunk of plain output
//! as it lies here.

use std::ops::Range;
use std::sync::OnceLock;

use bytes::Bytes;
use standpipe_tree::{Channel, StreamRecord};

use crate::bytes::Reader;

/// What fits into 16 pages of LMDB beside its own 16 bytes in the first of them.
pub(crate) const CHUNK_BYTES_MAX: usize = 16 * 4096 - 16;
/// Forms of a chunk that are kept for all who watch: each door that has a form of its own takes a number.
pub const FORMS: usize = 6;

const VERSION: u8 = 1;
const FIXED: usize = 1 + 1 + 4 + 4 + 8 + 8 + 8 + 4 + 4;
/// Where the CRC stands.
const CRC_AT: usize = FIXED - 4;
/// The most that the head of one record takes.
const RECORD_HEAD_MAX: usize = 2 * 10;

/// The channel that a record's head names.
fn channel_of(code: u64) -> Option<Channel> {
    Channel::ALL.into_iter().find(|channel| *channel as u64 == code)
}

fn bit(channel: Channel) -> u8 {
    1 << channel as u8
}

/// A record on its way into a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecord {
    /// Where it is from.
    pub channel: Channel,
    /// When it was made, in milliseconds since the epoch.
    pub at_ms: u64,
    /// What it says: any bytes, at most `stream_record_bytes_max` of them.
    pub bytes: Bytes,
}

impl NewRecord {
    /// What it takes in a queue.
    pub(crate) fn cost(&self) -> usize {
        self.bytes.len() + RECORD_HEAD_MAX
    }
}

/// What the first bytes of a chunk say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkHead {
    channels: u8,
    pub(crate) records: u32,
    pub(crate) payload: u32,
    first_ms: u64,
    /// When the last record was appended, by the server's clock, whatever time it says itself: what retention goes by.
    pub(crate) appended_ms: u64,
    /// Bytes of output (all but notes) in the stream before this chunk.
    pub(crate) offset: u64,
    /// Bytes of output in it.
    pub(crate) output: u32,
    crc: u32,
}

impl ChunkHead {
    /// `None` where this is no chunk.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return None;
        }
        Some(Self {
            channels: reader.u8()?,
            records: reader.u32()?,
            payload: reader.u32()?,
            first_ms: reader.u64()?,
            appended_ms: reader.u64()?,
            offset: reader.u64()?,
            output: reader.u32()?,
            crc: reader.u32()?,
        })
    }
}

/// Some consecutive records of one stream, shared by all who read it.
#[derive(Debug)]
pub struct Chunk {
    first_seq: u64,
    head: ChunkHead,
    data: Bytes,
    forms: [OnceLock<Bytes>; FORMS],
}

impl Chunk {
    fn new(first_seq: u64, head: ChunkHead, data: Bytes) -> Self {
        Self { first_seq, head, data, forms: Default::default() }
    }

    /// A chunk from its row; `None` where the row is damaged.
    pub(crate) fn decode(first_seq: u64, row: &[u8]) -> Option<Self> {
        let head = ChunkHead::read(row)?;
        let chunk = Self::new(first_seq, head, Bytes::copy_from_slice(row));
        let payload = usize::try_from(head.payload).ok()?;
        let mut heads = Heads { rest: row.get(FIXED..)?.get(payload..)?, at_ms: head.first_ms };
        let mut sum = 0usize;
        for _ in 0..head.records {
            sum = sum.checked_add(heads.read()?.2)?;
        }
        (sum == payload && heads.rest.is_empty()).then_some(chunk)
    }

    /// Whether the bytes are those that were written.
    pub(crate) fn is_intact(&self) -> bool {
        crc32fast::hash(&self.data[FIXED..]) == self.head.crc
    }

    /// Number of the first record.
    pub fn first_seq(&self) -> u64 {
        self.first_seq
    }

    /// Number of the record after the last.
    pub fn next_seq(&self) -> u64 {
        self.first_seq + u64::from(self.head.records)
    }

    /// Bytes of output in the stream before this chunk: those of all records but notes, dropped ones included.
    pub fn offset(&self) -> u64 {
        self.head.offset
    }

    /// Bytes of output in this chunk.
    pub fn output_bytes(&self) -> u64 {
        self.head.output.into()
    }

    /// The record that holds byte `offset` of the stream's output; the one after the last where this chunk does not.
    pub(crate) fn seq_at(&self, offset: u64) -> u64 {
        let mut end = self.head.offset;
        let holds = move |record: &StreamRecord<'_>| {
            end += if record.channel == Channel::Note { 0 } else { record.bytes.len() as u64 };
            end > offset
        };
        let found = self.records().find(holds);
        found.map_or(self.next_seq(), |record| record.seq)
    }

    /// How many records there are; at least one.
    pub fn len(&self) -> usize {
        self.head.records as usize
    }

    /// Never, but clippy asks.
    pub fn is_empty(&self) -> bool {
        self.head.records == 0
    }

    /// The bytes of all records, notes included, in one piece and without a copy.
    pub fn payload(&self) -> Bytes {
        self.data.slice(FIXED..FIXED + self.head.payload as usize)
    }

    /// Is there a record of this channel?
    pub fn has(&self, channel: Channel) -> bool {
        self.head.channels & bit(channel) != 0
    }

    /// The records, in order.
    pub fn records(&self) -> impl Iterator<Item = StreamRecord<'_>> {
        let end = FIXED + self.head.payload as usize;
        Records {
            heads: Heads { rest: &self.data[end..], at_ms: self.head.first_ms },
            payload: &self.data[FIXED..end],
            seq: self.first_seq,
        }
    }

    /// The whole chunk in a form of some door's own: made by the first who asks, shared by all others, and gone
    /// with the chunk. `form` is below [`FORMS`].
    pub fn render(&self, form: usize, make: impl FnOnce(&Self) -> Bytes) -> Bytes {
        self.forms[form].get_or_init(|| make(self)).clone()
    }

    /// The records from `seq` on, as positions in this chunk.
    pub(crate) fn from(&self, seq: u64) -> Range<usize> {
        let skipped = usize::try_from(seq.saturating_sub(self.first_seq)).unwrap_or(usize::MAX);
        skipped.min(self.len())..self.len()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.data
    }

    pub(crate) fn head(&self) -> &ChunkHead {
        &self.head
    }

    /// What it takes in a ring, without the forms that doors make of it.
    pub(crate) fn cost(&self) -> usize {
        self.data.len() + size_of::<Self>()
    }
}

/// The heads of records, read one after the other.
struct Heads<'a> {
    rest: &'a [u8],
    at_ms: u64,
}

impl Heads<'_> {
    /// Channel, time and length of the next record.
    fn read(&mut self) -> Option<(Channel, u64, usize)> {
        let what = varint(&mut self.rest)?;
        let since = varint(&mut self.rest)?;
        self.at_ms = self.at_ms.wrapping_add((since >> 1) ^ 0u64.wrapping_sub(since & 1));
        Some((channel_of(what & 3)?, self.at_ms, usize::try_from(what >> 2).ok()?))
    }
}

struct Records<'a> {
    heads: Heads<'a>,
    payload: &'a [u8],
    seq: u64,
}

impl<'a> Iterator for Records<'a> {
    type Item = StreamRecord<'a>;

    fn next(&mut self) -> Option<StreamRecord<'a>> {
        let (channel, at_ms, len) = self.heads.read()?;
        let (bytes, rest) = self.payload.split_at_checked(len)?;
        let record = StreamRecord { seq: self.seq, at_ms, channel, bytes };
        (self.payload, self.seq) = (rest, self.seq + 1);
        Some(record)
    }
}

/// A chunk that is being filled.
#[derive(Debug, Default)]
pub(crate) struct ChunkBuilder {
    data: Vec<u8>,
    heads: Vec<u8>,
    records: u32,
    channels: u8,
    first_ms: u64,
    last_ms: u64,
    output: u32,
}

impl ChunkBuilder {
    /// A builder that takes about `bytes` without growing.
    pub(crate) fn with_room(bytes: usize) -> Self {
        let mut data = Vec::with_capacity((FIXED + bytes).min(CHUNK_BYTES_MAX));
        data.resize(FIXED, 0);
        Self { data, ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes of output so far.
    pub(crate) fn output(&self) -> u64 {
        self.output.into()
    }

    /// Bytes of the chunk so far.
    pub(crate) fn bytes(&self) -> usize {
        self.data.len() + self.heads.len()
    }

    /// Does the record still fit? Into an empty chunk any does.
    pub(crate) fn fits(&self, len: usize) -> bool {
        self.is_empty() || self.bytes() + len + RECORD_HEAD_MAX <= CHUNK_BYTES_MAX
    }

    pub(crate) fn push(&mut self, channel: Channel, at_ms: u64, bytes: &[u8]) {
        if self.is_empty() {
            (self.first_ms, self.last_ms) = (at_ms, at_ms);
        }
        self.data.extend_from_slice(bytes);
        put_varint(&mut self.heads, (bytes.len() as u64) << 2 | channel as u64);
        let since = at_ms.wrapping_sub(self.last_ms) as i64;
        put_varint(&mut self.heads, ((since << 1) ^ (since >> 63)) as u64);
        self.last_ms = at_ms;
        self.channels |= bit(channel);
        if channel != Channel::Note {
            self.output += u32::try_from(bytes.len()).expect("records are far smaller");
        }
        self.records += 1;
    }

    /// The chunk, whose first record has the number `first_seq`, behind `offset` bytes of output, and whose last was
    /// appended at `appended_ms`.
    pub(crate) fn finish(self, first_seq: u64, offset: u64, appended_ms: u64) -> Chunk {
        let Self { mut data, heads, records, channels, first_ms, output, .. } = self;
        let payload = u32::try_from(data.len() - FIXED).expect("a chunk is far smaller");
        data.reserve_exact(heads.len());
        data.extend_from_slice(&heads);
        let crc = crc32fast::hash(&data[FIXED..]);
        (data[0], data[1]) = (VERSION, channels);
        data[2..6].copy_from_slice(&records.to_le_bytes());
        data[6..10].copy_from_slice(&payload.to_le_bytes());
        data[10..18].copy_from_slice(&first_ms.to_le_bytes());
        data[18..26].copy_from_slice(&appended_ms.to_le_bytes());
        data[26..34].copy_from_slice(&offset.to_le_bytes());
        data[34..38].copy_from_slice(&output.to_le_bytes());
        data[CRC_AT..FIXED].copy_from_slice(&crc.to_le_bytes());
        if data.capacity() - data.len() > data.len() / 4 {
            data.shrink_to_fit();
        }
        Chunk::new(
            first_seq,
            ChunkHead { channels, records, payload, first_ms, appended_ms, offset, output, crc },
            data.into(),
        )
    }

    /// Two chunks in one, for the store: `after` follows `before`.
    pub(crate) fn joined(before: &Chunk, after: &Chunk) -> Chunk {
        let mut builder = Self::with_room(before.data.len() + after.data.len());
        for record in before.records().chain(after.records()) {
            builder.push(record.channel, record.at_ms, record.bytes);
        }
        builder.finish(before.first_seq, before.head.offset, after.head.appended_ms)
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    type Plain = (Channel, u64, &'static [u8]);

    const RECORDS: [Plain; 5] = [
        (Channel::Out, 1_790_000_000_000, b"one\n"),
        (Channel::Err, 1_790_000_000_007, b"\xff\0"),
        (Channel::Note, 1_789_000_000_000, b"{}"),
        (Channel::Out, u64::MAX, b""),
        (Channel::Out, 0, b"last"),
    ];

    fn chunk() -> Chunk {
        let mut builder = ChunkBuilder::with_room(0);
        RECORDS.into_iter().for_each(|(channel, at_ms, bytes)| builder.push(channel, at_ms, bytes));
        builder.finish(7, 100, 5)
    }

    fn plain(chunk: &Chunk) -> Vec<(u64, Channel, u64, Vec<u8>)> {
        chunk.records().map(|record| (record.seq, record.channel, record.at_ms, record.bytes.to_vec())).collect()
    }

    #[test]
    fn a_chunk_gives_back_what_was_put_into_it() {
        let chunk = chunk();
        let expected: Vec<_> =
            (7..).zip(RECORDS).map(|(seq, (channel, at_ms, bytes))| (seq, channel, at_ms, bytes.to_vec())).collect();
        assert_eq!(plain(&chunk), expected);
        let read = Chunk::decode(7, chunk.as_bytes()).unwrap();
        assert_eq!(plain(&read), expected);
        assert!(read.is_intact() && read.has(Channel::Note) && read.has(Channel::Err));
        assert_eq!((read.next_seq(), read.len(), read.from(8), read.from(99)), (12, 5, 1..5, 5..5));
        assert_eq!(&read.payload()[..], b"one\n\xff\0{}last");
        assert_eq!((chunk.offset(), chunk.output_bytes()), (100, 10));
        let at = [100, 103, 104, 105, 106, 109, 110].map(|offset| chunk.seq_at(offset));
        assert_eq!(at, [7, 7, 8, 8, 11, 11, 12]);
        let joined = ChunkBuilder::joined(&chunk, &chunk);
        assert_eq!((joined.first_seq(), joined.len()), (7, 10));
        assert_eq!(plain(&joined)[..5], expected[..]);
    }

    #[test]
    fn a_form_is_made_once() {
        let chunk = chunk();
        assert_eq!(chunk.render(1, |_| Bytes::from_static(b"a")), "a");
        assert_eq!(chunk.render(1, |_| unreachable!()), "a");
        assert_eq!(chunk.render(2, Chunk::payload), chunk.payload());
    }

    #[test]
    fn damage_is_noticed_and_never_panics() {
        let bytes = chunk().as_bytes().to_vec();
        for len in 0..bytes.len() {
            assert!(Chunk::decode(7, &bytes[..len]).is_none(), "{len}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                if let Some(chunk) = Chunk::decode(7, &damaged) {
                    let _read = chunk.records().count();
                    assert!(at < CRC_AT || !chunk.is_intact(), "byte {at}");
                }
            }
        }
    }

    #[test]
    fn a_full_chunk_takes_no_more_and_an_empty_one_takes_anything() {
        let mut builder = ChunkBuilder::with_room(0);
        assert!(builder.fits(CHUNK_BYTES_MAX * 2));
        let line = [b'x'; 99];
        while builder.fits(line.len()) {
            builder.push(Channel::Out, 5, &line);
        }
        let chunk = builder.finish(0, 0, 5);
        let len = chunk.as_bytes().len();
        assert!(len <= CHUNK_BYTES_MAX && len > CHUNK_BYTES_MAX - 140, "{len}");
        assert!(Chunk::decode(0, chunk.as_bytes()).is_some());
    }
}
