//! The environment of streams: `chunks` (stream, first record → chunk), `heads` (path → what is known of the
//! stream), `dropped` (streams that are gone and whose chunks are still here), `records` (small durable
//! records of producers) and `meta`. It knows transactions and rows; who appends and who watches it does not.

use std::path::Path as FsPath;

use heed::{RoTxn, RwTxn};
use standpipe_tree::Path;

use super::chunk::{Chunk, ChunkBuilder, ChunkHead};
use super::head::{Head, HeadRow, Outcome};
use crate::error::{Error, ErrorKind, Result};
use crate::store::keys::{prefix_end, range_from};
use crate::store::{CommitError, Environment, StoreOptions, Table};

/// The format of the environment that this program writes. A newer one is refused.
pub(crate) const STREAMS_FORMAT: u32 = 1;
/// The folder in the data folder. No database's folder has a dot, so this is none's.
pub(crate) const STREAMS_FOLDER: &str = "streams.lmdb";

const FORMAT_KEY: &[u8] = b"format";
const NEXT_ID_KEY: &[u8] = b"next_id";
/// In front of every path in `heads`: LMDB refuses the empty key of the root.
const HEAD_PREFIX: u8 = b's';
/// In front of every key in `records`.
const RECORD_PREFIX: u8 = b'r';
/// Up to here the last row and what comes after it become one: a row that fits a page of LMDB, so that a stream of
/// one line now and then does not take a page for each.
const JOINED_BYTES_MAX: usize = 4096 - 16;
/// Rows deleted in one commit beyond those that came in it: more than none, so that a lowered limit is reached.
const TRIM_ROWS_MAX: usize = 64;

/// What may be kept of one stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    pub(crate) bytes_max: u64,
    /// Rows whose newest record is older go.
    pub(crate) since_ms: u64,
}

/// The environment with its tables.
pub(crate) struct StreamStore {
    env: Environment,
    chunks: Table,
    heads: Table,
    dropped: Table,
    records: Table,
    meta: Table,
}

impl std::fmt::Debug for StreamStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamStore").field("dir", &self.env.dir()).finish_non_exhaustive()
    }
}

impl StreamStore {
    /// Opens or creates the environment below the data folder `dir`, whose lock the caller holds.
    pub(crate) fn open(dir: &FsPath, options: StoreOptions) -> Result<Self> {
        let env = Environment::open(&dir.join(STREAMS_FOLDER), options)?;
        let [chunks, heads, dropped, records, meta] = env.prepare(|env, txn| {
            let mut table = |name| env.create_database(txn, Some(name));
            let tables: [Table; 5] =
                [table("chunks")?, table("heads")?, table("dropped")?, table("records")?, table("meta")?];
            check_format(&tables[4], txn)?;
            Ok(tables)
        })?;
        Ok(Self { env, chunks, heads, dropped, records, meta })
    }

    pub(crate) fn env(&self) -> &Environment {
        &self.env
    }

    pub(crate) fn head(&self, txn: &RoTxn, path: &Path) -> Result<Option<HeadRow>> {
        let row = self.heads.get(txn, &head_key(path))?;
        row.map(|row| HeadRow::decode(row).ok_or_else(|| damaged("the head of a stream can't be read"))).transpose()
    }

    fn put_head(&self, txn: &mut RwTxn, path: &Path, row: &HeadRow) -> heed::Result<()> {
        self.heads.put(txn, &head_key(path), &row.encode())
    }

    /// Up to `max` streams at or below `below` and behind `after`, in the order of paths.
    pub(crate) fn heads(
        &self,
        txn: &RoTxn,
        below: &Path,
        after: Option<&Path>,
        max: usize,
    ) -> Result<Vec<(Path, HeadRow)>> {
        let first = head_key(below);
        let end = prefix_end(&first);
        let start = after.map(head_key).filter(|after| *after >= first);
        let from = start.as_deref().unwrap_or(&first);
        if from >= &end[..] {
            return Ok(Vec::new());
        }
        let range = self.heads.range(txn, &range_from(from, &end))?;
        let rows = range.filter(|row| !matches!((row, &start), (Ok((key, _)), Some(start)) if key == start));
        let read = |row: heed::Result<(&[u8], &[u8])>| {
            let (key, row) = row?;
            let path = Path::decode(&key[1..]).ok_or_else(|| damaged("the path of a stream can't be read"))?;
            let row = HeadRow::decode(row).ok_or_else(|| damaged("the head of a stream can't be read"))?;
            Ok((path, row))
        };
        rows.take(max).map(read).collect()
    }

    /// The chunk that holds record `seq` of stream `id`, or else the next one.
    pub(crate) fn chunk(&self, txn: &RoTxn, id: u64, seq: u64) -> Result<Option<Chunk>> {
        let before = self.chunks.get_lower_than_or_equal_to(txn, &chunk_key(id, seq))?;
        if let Some(chunk) = before.map(|(key, row)| read_chunk(id, key, row)).transpose()?.flatten()
            && chunk.next_seq() > seq
        {
            return Ok(Some(chunk));
        }
        let next = self.chunks.get_greater_than(txn, &chunk_key(id, seq))?;
        Ok(next.map(|(key, row)| read_chunk(id, key, row)).transpose()?.flatten())
    }

    /// The record that holds byte `offset` of a stream's output; the next one where there is no such byte yet, and 0 where
    /// it is gone.
    pub(crate) fn seq_at(&self, txn: &RoTxn, row: &HeadRow, offset: u64) -> Result<u64> {
        if offset >= row.head.out_bytes {
            return Ok(row.head.next_seq);
        }
        let (mut from, mut to) = (row.head.first_seq, row.head.next_seq);
        while offset >= row.head.first_offset && from < to {
            let middle = from.midpoint(to);
            let Some(found) = self.chunks.get_lower_than_or_equal_to(txn, &chunk_key(row.id, middle))? else { break };
            let Some(chunk) = read_chunk(row.id, found.0, found.1)? else { break };
            if offset < chunk.offset() {
                to = chunk.first_seq();
            } else if offset >= chunk.offset() + chunk.output_bytes() {
                from = chunk.next_seq();
            } else {
                return Ok(chunk.seq_at(offset));
            }
        }
        Ok(0)
    }

    pub(crate) fn record(&self, txn: &RoTxn, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.records.get(txn, &record_key(key))?.map(<[u8]>::to_vec))
    }

    pub(crate) fn records(
        &self,
        txn: &RoTxn,
        prefix: &str,
        after: Option<&str>,
        max: usize,
    ) -> Result<Vec<(String, Vec<u8>)>> {
        let first = record_key(prefix);
        let end = prefix_end(&first);
        let start = after.map(record_key).filter(|after| *after >= first);
        let from = start.as_deref().unwrap_or(&first);
        if from >= &end[..] {
            return Ok(Vec::new());
        }
        let range = self.records.range(txn, &range_from(from, &end))?;
        let rows = range.filter(|row| !matches!((row, &start), (Ok((key, _)), Some(start)) if key == start));
        let read = |row: heed::Result<(&[u8], &[u8])>| {
            let (key, value) = row?;
            Ok((String::from_utf8_lossy(&key[1..]).into_owned(), value.to_vec()))
        };
        rows.take(max).map(read).collect()
    }

    pub(crate) fn put_record(&self, txn: &mut RwTxn, key: &str, value: Option<&[u8]>) -> heed::Result<()> {
        match value {
            Some(value) => self.records.put(txn, &record_key(key), value),
            None => self.records.delete(txn, &record_key(key)).map(|_there| ()),
        }
    }

    /// A new stream; `false` where there is one.
    pub(crate) fn create(&self, txn: &mut RwTxn, path: &Path, now_ms: u64) -> Result<bool, CommitError> {
        if self.heads.get(txn, &head_key(path))?.is_some() {
            return Ok(false);
        }
        let id = self.number(txn, NEXT_ID_KEY)?;
        self.meta.put(txn, NEXT_ID_KEY, &(id + 1).to_le_bytes())?;
        let head = Head { created_at: now_ms, ..Head::default() };
        self.put_head(txn, path, &HeadRow { id, head, ..HeadRow::default() })?;
        Ok(true)
    }

    /// Appends chunks, and the end, to stream `id`; `false` where it is gone.
    pub(crate) fn append(
        &self,
        txn: &mut RwTxn,
        (path, id): (&Path, u64),
        chunks: &[std::sync::Arc<Chunk>],
        end: Option<(&Outcome, u64)>,
        keep: Keep,
    ) -> Result<bool, CommitError> {
        let Some(mut row) = self.head(txn, path)?.filter(|row| row.id == id) else { return Ok(false) };
        for chunk in chunks {
            if chunk.first_seq() != row.head.next_seq || row.head.ended.is_some() {
                return Err(CommitError::Fatal(damaged("records do not continue their stream")));
            }
            self.put_chunk(txn, &mut row, chunk)?;
        }
        if let Some((outcome, now_ms)) = end {
            (row.head.ended, row.head.ended_at) = (Some(outcome.clone()), Some(now_ms));
        }
        self.trim(txn, &mut row, keep, chunks.len() + TRIM_ROWS_MAX)?;
        self.put_head(txn, path, &row)?;
        Ok(true)
    }

    fn put_chunk(&self, txn: &mut RwTxn, row: &mut HeadRow, chunk: &Chunk) -> Result<(), CommitError> {
        let bytes = chunk.as_bytes();
        let small = row.tail_bytes > 0 && row.tail_bytes as usize + bytes.len() <= JOINED_BYTES_MAX;
        let tail = if small { self.chunk(txn, row.id, row.tail_seq)? } else { None };
        let joined = tail.map(|tail| ChunkBuilder::joined(&tail, chunk));
        let written = joined.as_ref().unwrap_or(chunk);
        self.chunks.put(txn, &chunk_key(row.id, written.first_seq()), written.as_bytes())?;
        if joined.is_some() {
            row.stored -= u64::from(row.tail_bytes);
        }
        if row.head.first_seq == written.first_seq() {
            row.first_row_ms = written.head().appended_ms;
        }
        row.stored += written.as_bytes().len() as u64;
        row.head.bytes += u64::from(chunk.head().payload);
        row.head.out_bytes = chunk.offset() + chunk.output_bytes();
        row.head.next_seq = chunk.next_seq();
        row.tail_seq = written.first_seq();
        row.tail_bytes = u32::try_from(written.as_bytes().len()).expect("a chunk is far smaller");
        Ok(())
    }

    /// Deletes the oldest rows beyond what may be kept, at most `rows_max`. The newest row goes for its age only.
    fn trim(&self, txn: &mut RwTxn, row: &mut HeadRow, keep: Keep, rows_max: usize) -> Result<(), CommitError> {
        for _ in 0..rows_max {
            let last = row.head.first_seq >= row.tail_seq;
            let large = row.stored > keep.bytes_max && !last;
            if row.head.first_seq == row.head.next_seq || !(large || row.first_row_ms < keep.since_ms) {
                break;
            }
            let key = chunk_key(row.id, row.head.first_seq);
            let found =
                self.chunks.get(txn, &key)?.and_then(|bytes| Some((ChunkHead::read(bytes)?, bytes.len() as u64)));
            let (head, len) = found.ok_or_else(|| damaged("a chunk of a stream is missing"))?;
            self.chunks.delete(txn, &key)?;
            row.head.first_seq += u64::from(head.records);
            row.head.first_offset += u64::from(head.output);
            row.head.bytes -= u64::from(head.payload);
            row.stored -= len;
            if last {
                row.tail_bytes = 0;
            } else {
                let next = self.chunks.get(txn, &chunk_key(row.id, row.head.first_seq))?.and_then(ChunkHead::read);
                row.first_row_ms = next.ok_or_else(|| damaged("a chunk of a stream is missing"))?.appended_ms;
            }
        }
        Ok(())
    }

    /// Looks at up to `max` streams behind `after` and deletes what is too old or too much of them. Says where to go on;
    /// `None` at the end.
    pub(crate) fn sweep(
        &self,
        txn: &mut RwTxn,
        after: Option<&Path>,
        keep: Keep,
        max: usize,
    ) -> Result<(Option<Path>, bool), CommitError> {
        let heads = self.heads(txn, &Path::root(), after, max)?;
        let next = if heads.len() == max { heads.last().map(|(path, _)| path.clone()) } else { None };
        let mut changed = false;
        for (path, mut row) in heads {
            let before = row.head.first_seq;
            self.trim(txn, &mut row, keep, TRIM_ROWS_MAX)?;
            if row.head.first_seq != before {
                self.put_head(txn, &path, &row)?;
                changed = true;
            }
        }
        Ok((next, changed))
    }

    /// Takes a stream away: at once for everybody, while its chunks go later. Its id, if there was one.
    pub(crate) fn remove(&self, txn: &mut RwTxn, path: &Path) -> Result<Option<u64>, CommitError> {
        let Some(row) = self.head(txn, path)? else { return Ok(None) };
        self.heads.delete(txn, &head_key(path))?;
        if row.tail_bytes > 0 {
            self.dropped.put(txn, &row.id.to_be_bytes(), &[])?;
        }
        Ok(Some(row.id))
    }

    /// Deletes up to `rows_max` chunks of streams that are gone. Says whether more are left.
    pub(crate) fn clear_dropped(&self, txn: &mut RwTxn, rows_max: usize) -> Result<bool, CommitError> {
        let mut left = rows_max;
        while let Some((id, _)) = self.dropped.first(txn)? {
            let id: [u8; 8] = id.try_into().map_err(|_| damaged("the number of a stream can't be read"))?;
            let number = u64::from_be_bytes(id);
            loop {
                if left == 0 {
                    return Ok(true);
                }
                let next = self.chunks.get_greater_than_or_equal_to(txn, &chunk_key(number, 0))?;
                let Some(key) = next.and_then(|(key, _)| key.starts_with(&id).then(|| key.to_vec())) else { break };
                self.chunks.delete(txn, &key)?;
                left -= 1;
            }
            self.dropped.delete(txn, &id)?;
        }
        Ok(false)
    }

    /// Are there chunks of streams that are gone?
    pub(crate) fn has_dropped(&self, txn: &RoTxn) -> Result<bool> {
        Ok(self.dropped.first(txn)?.is_some())
    }

    /// Commits nothing: LMDB reuses the pages that a commit freed only in the second one after it.
    pub(crate) fn turn_over(&self, txn: &mut RwTxn) -> Result<(), CommitError> {
        let id = self.number(txn, NEXT_ID_KEY)?;
        Ok(self.meta.put(txn, NEXT_ID_KEY, &id.to_le_bytes())?)
    }

    fn number(&self, txn: &RoTxn, key: &[u8]) -> Result<u64> {
        let Some(bytes) = self.meta.get(txn, key)? else { return Ok(0) };
        bytes.try_into().map(u64::from_le_bytes).map_err(|_| damaged("a number can't be read"))
    }

    /// Reads everything; see [`super::verify_streams`].
    pub(crate) fn verify(&self, txn: &RoTxn) -> Result<super::StreamsVerified> {
        let mut found = super::StreamsVerified::default();
        let mut rows = 0;
        for row in self.heads.iter(txn)? {
            let (key, row) = row?;
            Path::decode(&key[1..]).ok_or_else(|| damaged("the path of a stream can't be read"))?;
            let row = HeadRow::decode(row).ok_or_else(|| damaged("the head of a stream can't be read"))?;
            rows += self.verify_stream(txn, &row)?;
            found.streams += 1;
            found.records += row.head.next_seq - row.head.first_seq;
            found.bytes += row.head.bytes;
        }
        if !self.has_dropped(txn)? && self.chunks.len(txn)? != rows {
            return Err(damaged("there are chunks of no stream"));
        }
        Ok(found)
    }

    /// The chunks of one stream are intact, without holes, and what its head says. Their number.
    fn verify_stream(&self, txn: &RoTxn, row: &HeadRow) -> Result<u64> {
        let (mut seq, mut bytes, mut stored, mut rows) = (row.head.first_seq, 0, 0, 0);
        let mut offset = row.head.first_offset;
        let (first, end) = (chunk_key(row.id, 0), chunk_key(row.id + 1, 0));
        for found in self.chunks.range(txn, &range_from(&first, &end))? {
            let (key, value) = found?;
            let chunk = read_chunk(row.id, key, value)?.filter(Chunk::is_intact);
            let chunk = chunk.ok_or_else(|| damaged("a chunk of a stream is not what was written"))?;
            if (chunk.first_seq(), chunk.offset()) != (seq, offset) {
                return Err(damaged("a stream has a hole"));
            }
            (seq, offset) = (chunk.next_seq(), offset + chunk.output_bytes());
            bytes += u64::from(chunk.head().payload);
            stored += value.len() as u64;
            rows += 1;
        }
        let head = &row.head;
        if (seq, offset, bytes, stored) != (head.next_seq, head.out_bytes, head.bytes, row.stored) {
            return Err(damaged("a stream is not what its head says"));
        }
        Ok(rows)
    }
}

fn check_format(meta: &Table, txn: &mut RwTxn) -> Result<()> {
    let Some(bytes) = meta.get(txn, FORMAT_KEY)? else {
        return Ok(meta.put(txn, FORMAT_KEY, &STREAMS_FORMAT.to_le_bytes())?);
    };
    let format = bytes.try_into().map(u32::from_le_bytes).map_err(|_| damaged("the format can't be read"))?;
    if format > STREAMS_FORMAT {
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!(
                "the streams of the data folder have format {format}, this program knows up to {STREAMS_FORMAT}; use a newer standpipe"
            ),
        ));
    }
    Ok(())
}

/// The chunk of a row; `None` where it is another stream's.
fn read_chunk(id: u64, key: &[u8], row: &[u8]) -> Result<Option<Chunk>> {
    let Some(seq) = key.strip_prefix(&id.to_be_bytes()) else { return Ok(None) };
    let seq = seq.try_into().map(u64::from_be_bytes).map_err(|_| damaged("the key of a chunk can't be read"))?;
    let chunk = Chunk::decode(seq, row).filter(|chunk| !chunk.is_empty());
    chunk.map(Some).ok_or_else(|| damaged("a chunk of a stream can't be read"))
}

fn head_key(path: &Path) -> Vec<u8> {
    [&[HEAD_PREFIX], &path.encode()[..]].concat()
}

fn chunk_key(id: u64, seq: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&id.to_be_bytes());
    key[8..].copy_from_slice(&seq.to_be_bytes());
    key
}

fn record_key(key: &str) -> Vec<u8> {
    [&[RECORD_PREFIX], key.as_bytes()].concat()
}

fn damaged(what: &'static str) -> Error {
    Error::new(ErrorKind::Internal, format!("damaged streams: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EngineConfig;

    fn open(dir: &tempfile::TempDir) -> StreamStore {
        let config = EngineConfig { map_bytes_initial: 1 << 20, ..EngineConfig::new(dir.path()) };
        StreamStore::open(dir.path(), StoreOptions::of(&config)).unwrap()
    }

    #[test]
    fn a_sweep_reaches_what_is_old_in_streams_that_nobody_appends_to() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let all = Keep { bytes_max: u64::MAX, since_ms: 0 };
        let mut write = store.env.write().unwrap();
        let paths: Vec<Path> = (0..5).map(|n| Path::parse(&format!("s{n}")).unwrap()).collect();
        for (n, path) in (0..).zip(&paths) {
            assert!(store.create(&mut write.txn, path, 0).unwrap());
            let mut builder = ChunkBuilder::with_room(0);
            builder.push(super::super::Channel::Out, 0, b"text");
            let chunks = [std::sync::Arc::new(builder.finish(0, 0, n * 10))];
            assert!(store.append(&mut write.txn, (path, n), &chunks, None, all).unwrap());
        }
        let keep = Keep { since_ms: 25, ..all };
        let (mut after, mut turns) = (None, 0);
        loop {
            (after, _) = store.sweep(&mut write.txn, after.as_ref(), keep, 2).unwrap();
            turns += 1;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(turns, 3);
        let kept: Vec<u64> =
            paths.iter().map(|path| store.head(&write.txn, path).unwrap().unwrap().head.bytes).collect();
        assert_eq!(kept, [0, 0, 0, 4, 4]);
        // What is removed goes a few rows at a time.
        for path in &paths {
            store.remove(&mut write.txn, path).unwrap();
        }
        assert!(store.clear_dropped(&mut write.txn, 1).unwrap());
        assert!(!store.clear_dropped(&mut write.txn, 9).unwrap());
        assert_eq!(store.chunks.len(&write.txn).unwrap(), 0);
    }

    #[test]
    fn a_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let mut write = store.env.write().unwrap();
        store.meta.put(&mut write.txn, FORMAT_KEY, &(STREAMS_FORMAT + 1).to_le_bytes()).unwrap();
        write.commit().unwrap();
        drop(store);
        let config = EngineConfig { map_bytes_initial: 1 << 20, ..EngineConfig::new(dir.path()) };
        let refused = StreamStore::open(dir.path(), StoreOptions::of(&config)).unwrap_err();
        assert!(refused.message().contains("newer standpipe"), "{refused}");
    }
}
