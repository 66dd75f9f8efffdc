//! The tool `run_output`: a part of what a run has written, by the offset of its first byte. Reading is the streams' business; whoever
//! wants to follow output as it comes subscribes to the resource `tree:///runs/<id>/out`.

use futures_util::FutureExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use standpipe_engine::{Error, From, StreamRead, StreamWatch};
use standpipe_runs::Name;
use standpipe_serve::{Class, Cost};
use standpipe_tree::{Channel, Path, StreamRecord};

use super::super::Tree;
use super::super::request::Request;
use super::get::within;
use super::runs::{access, find, refused, runs};
use super::{Call, Code, Hints, Needs, Outcome, Tool, ToolError, schema_of, whole};
use crate::dispatch::run;
use crate::streams::no_stream;

/// Bytes of an answer, where no number is asked for.
const LIMIT: usize = 65_536;
/// And the most that may be asked for.
const LIMIT_MAX: usize = 1_048_576;
/// Bytes that one call looks at: where one output is picked from both, it may lie far behind.
const LOOKED_AT_MAX: usize = 8 << 20;

pub(super) const OUTPUT: Tool = Tool {
    name: "run_output",
    title: "Read a run's output",
    description: "Reads what a run has written, from a byte offset on. Use it with next_offset of the answer before to follow a run \
        without reading anything twice; eof says that there is no more. Costs what it returns: give limit for a look at the end \
        or a part.",
    hints: Hints::LOOKS,
    scope: "runs:read",
    needs: Needs::Runs,
    input: schema_of::<OutputArgs>,
    output: schema_of::<OutputPart>,
    call: |call| async move { output(&call).await.map(|part| Outcome::of(&part)) }.boxed(),
};

/// Arguments of `run_output`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OutputArgs {
    /// The run's id, as `run_start` gave it; or its name, which means its newest run.
    run_id: String,
    /// Both outputs as they came, or only one of them. Both by default.
    #[serde(default)]
    #[schemars(with = "Which")]
    stream: Option<Which>,
    /// The task of a pipeline whose output it is; a command has none.
    #[serde(default)]
    #[schemars(with = "String")]
    task: Option<String>,
    /// Where to begin, in bytes: 0, or next_offset of the answer before; a negative number counts from the end. 0 by default.
    #[serde(default)]
    #[schemars(with = "i64")]
    offset: Option<i64>,
    /// Bytes at most. 65536 by default.
    #[serde(default, deserialize_with = "whole")]
    #[schemars(with = "u64", range(min = 1, max = 1_048_576))]
    limit: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Which {
    #[default]
    Both,
    #[serde(alias = "out")]
    Stdout,
    #[serde(alias = "err")]
    Stderr,
}

impl Which {
    fn takes(self, channel: Channel) -> bool {
        match self {
            Self::Both => channel != Channel::Note,
            Self::Stdout => channel == Channel::Out,
            Self::Stderr => channel == Channel::Err,
        }
    }
}

/// What `run_output` answers.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct OutputPart {
    /// The output; bytes that are not UTF-8 are replaced.
    data: String,
    /// Where to go on.
    next_offset: u64,
    /// The output has ended and there is no more. Otherwise there may be more now or later.
    eof: bool,
    /// Bytes from `offset` on that are not kept any more.
    #[serde(skip_serializing_if = "is_zero")]
    missing: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Reads a part of a run's output.
async fn output(call: &Call<'_>) -> Result<OutputPart, ToolError> {
    let args: OutputArgs = call.arguments()?;
    let limit = within("limit", args.limit, 1, LIMIT_MAX)?.unwrap_or(LIMIT);
    let task = args.task.map(|task| task.parse::<Name>()).transpose();
    let task = task.map_err(|error| ToolError::new(Code::InvalidArgument, format!("task: {error}"), "Correct it"))?;
    let (which, offset) = (args.stream.unwrap_or_default(), args.offset.unwrap_or_default());
    let part = async || {
        let (runs, access) = (runs(call.tree)?, access(call.tree, call.request)?);
        let id = find(runs, &access, &args.run_id)?;
        let path = task.map_or_else(|| format!("runs/{id}/out"), |task| format!("runs/{id}/tasks/{task}/out"));
        access.may_read(&path)?;
        let path = Path::parse(&path).map_err(|error| Error::bad_request(error.to_string()))?;
        let streams = call.tree.dispatch.streams().clone();
        let read = move || {
            let head = streams.head(&path)?.ok_or_else(|| no_stream(&path))?;
            let from_end = head.out_bytes.saturating_sub(offset.unsigned_abs());
            // Whoever asks for what is not there yet is told where that will begin.
            let offset = u64::try_from(offset).map_or(from_end, |offset| offset.min(head.out_bytes));
            let from = if offset == 0 { From::Start } else { From::Offset(offset) };
            read(&mut streams.watch(&path, from)?, Part::new(which, offset, limit))
        };
        run(call.request.session(), Class::Bulk, Cost::Bytes(limit), call.request.deadline(), read).await
    };
    part().await.map_err(refused)
}

/// The whole of the output at a path whose values the caller may read: `None` where there is none, `Some(None)` where it is longer than
/// `bytes_max`.
pub(crate) async fn whole_output(
    tree: &Tree,
    request: &Request,
    path: &Path,
    bytes_max: usize,
) -> Result<Option<Option<String>>, Error> {
    let streams = tree.dispatch.streams().clone();
    let Some(head) = streams.head(path)? else { return Ok(None) };
    if head.bytes > bytes_max as u64 {
        return Ok(Some(None));
    }
    let path = path.clone();
    let read = move || {
        let part = read(&mut streams.watch(&path, From::Start)?, Part::new(Which::Both, 0, bytes_max))?;
        Ok(Some(part.data))
    };
    let (session, cost) = (request.session(), Cost::Bytes(head.bytes as usize));
    run(session, Class::Bulk, cost, request.deadline(), read).await.map(Some)
}

/// What is gathered of an output.
struct Part {
    which: Which,
    limit: usize,
    data: Vec<u8>,
    looked_at: usize,
    next: u64,
    missing: u64,
}

fn read(watch: &mut StreamWatch, mut part: Part) -> Result<OutputPart, Error> {
    let (mut eof, mut stuck) = (false, false);
    'reading: loop {
        let reads = match watch.read() {
            StreamRead::Behind if stuck => break,
            StreamRead::Behind => watch.catch_up(part.limit)?,
            read => vec![read],
        };
        // What was neither in memory nor on disk twice is being removed.
        stuck = reads.is_empty();
        for read in reads {
            match read {
                StreamRead::Chunk(chunk, range) => {
                    let mut at = chunk.offset();
                    for (index, record) in chunk.records().enumerate() {
                        let length = if record.channel == Channel::Note { 0 } else { record.bytes.len() as u64 };
                        if range.contains(&index) && !part.take(at, &record) {
                            break 'reading;
                        }
                        at += length;
                    }
                }
                StreamRead::Gap { .. } => {}
                StreamRead::Ended(_) => {
                    eof = true;
                    break 'reading;
                }
                StreamRead::Nothing | StreamRead::Behind => break 'reading,
            }
        }
    }
    Ok(part.into_answer(eof))
}

impl Part {
    fn new(which: Which, offset: u64, limit: usize) -> Self {
        Self { which, limit, data: Vec::new(), looked_at: 0, next: offset, missing: 0 }
    }

    /// Takes the record that begins at byte `at`; false when nothing more is taken.
    fn take(&mut self, at: u64, record: &StreamRecord<'_>) -> bool {
        if record.channel == Channel::Note {
            return true;
        }
        self.missing += at.saturating_sub(self.next);
        let skipped = usize::try_from(self.next.saturating_sub(at)).unwrap_or(usize::MAX).min(record.bytes.len());
        let bytes = &record.bytes[skipped..];
        let taken = match self.which.takes(record.channel) {
            true => cut(bytes, self.limit - self.data.len(), self.data.is_empty()),
            false => bytes,
        };
        if self.which.takes(record.channel) {
            self.data.extend_from_slice(taken);
        }
        self.next = at.max(self.next) + taken.len() as u64;
        self.looked_at += bytes.len();
        taken.len() == bytes.len() && self.looked_at < LOOKED_AT_MAX
    }

    fn into_answer(self, eof: bool) -> OutputPart {
        let data = String::from_utf8_lossy(&self.data).into_owned();
        OutputPart { data, next_offset: self.next, eof, missing: self.missing }
    }
}

/// As much of `bytes` as there is room for, and no part of a character; of a first one that is longer than the room a part, so
/// that whoever reads on gets on.
fn cut(bytes: &[u8], room: usize, first: bool) -> &[u8] {
    if bytes.len() <= room {
        return bytes;
    }
    let is_start = |byte: &u8| (*byte as i8) >= -0x40;
    let end = (room.saturating_sub(3)..=room).rev().find(|end| is_start(&bytes[*end])).unwrap_or(room);
    &bytes[..if end == 0 && first { room } else { end }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_not_cut() {
        let check =
            |text: &[u8], room, expected: usize| assert_eq!(cut(text, room, true).len(), expected, "{text:?} {room}");
        check(b"abc", 3, 3);
        check(b"abc", 2, 2);
        check("aä".as_bytes(), 2, 1);
        check("aäb".as_bytes(), 3, 3);
        check("a😀".as_bytes(), 4, 1);
        check("😀".as_bytes(), 2, 2);
        check(&[0x80; 9], 5, 5);
        assert!(cut("😀".as_bytes(), 2, false).is_empty());
    }

    #[test]
    fn a_part_goes_on_where_the_last_one_ended() {
        let records =
            [(Channel::Out, "one\n"), (Channel::Note, "{}"), (Channel::Err, "two\n"), (Channel::Out, "three\n")];
        let read = |which, offset, limit| {
            let (mut part, mut at) = (Part::new(which, offset, limit), 0);
            for (seq, (channel, text)) in (0..).zip(records) {
                let record = StreamRecord { seq, at_ms: 0, channel, bytes: text.as_bytes() };
                let length = if channel == Channel::Note { 0 } else { text.len() as u64 };
                if at + length > offset && !part.take(at, &record) {
                    break;
                }
                at += length;
            }
            let answer = part.into_answer(false);
            (answer.data, answer.next_offset, answer.missing)
        };
        let check = |which, offset, limit, data: &str, next| {
            assert_eq!(read(which, offset, limit), (data.to_owned(), next, 0), "{which:?} {offset} {limit}");
        };
        check(Which::Both, 0, 100, "one\ntwo\nthree\n", 14);
        check(Which::Both, 0, 6, "one\ntw", 6);
        check(Which::Both, 6, 100, "o\nthree\n", 14);
        check(Which::Stdout, 0, 100, "one\nthree\n", 14);
        check(Which::Stderr, 0, 100, "two\n", 14);
        check(Which::Stderr, 14, 100, "", 14);
        check(Which::Stdout, 0, 5, "one\nt", 9);
    }
}
