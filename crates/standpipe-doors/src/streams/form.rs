//! A chunk in the forms of the doors: rendered once for all who view the whole of it, and anew for who joins in the
//! middle of one. The forms themselves are `standpipe_wire::records`'.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use standpipe_engine::{Chunk, Outcome};
use standpipe_tree::{Channel, Path, StreamRecord};
use standpipe_wire::records::{self, End};

/// What records look like to a viewer; the discriminant is the place where a chunk keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The bytes, without notes.
    Text = 0,
    /// Events of an event stream.
    Events = 1,
    /// Messages of a WebSocket: lines.
    Messages = 2,
    /// Messages of a WebSocket: JSON.
    JsonMessages = 3,
}

impl Form {
    /// Records of a chunk in this form; maybe nothing.
    pub(crate) fn of(self, chunk: &Arc<Chunk>, range: &Range<usize>) -> Bytes {
        if *range != (0..chunk.len()) {
            return self.make(chunk, range.clone());
        }
        if self == Self::Text && !chunk.has(Channel::Note) {
            return chunk.payload();
        }
        chunk.render(self as usize, |chunk| self.make(chunk, 0..chunk.len()))
    }

    fn make(self, chunk: &Chunk, range: Range<usize>) -> Bytes {
        let mut scratch = Vec::new();
        let mut out = Vec::with_capacity(chunk.payload().len() + range.len() * self.overhead());
        for record in records_of(chunk, range) {
            match self {
                Self::Text => records::put_text(&record, &mut out),
                Self::Events => records::put_event(&record, &mut scratch, &mut out),
                Self::Messages => records::put_message(&record, &mut out),
                Self::JsonMessages => records::put_json_message(&record, &mut scratch, &mut out),
            }
        }
        out.shrink_to_fit();
        out.into()
    }

    /// Bytes that a record takes beside its own, about.
    fn overhead(self) -> usize {
        match self {
            Self::Text => 0,
            Self::Messages => 4,
            Self::JsonMessages => 72,
            Self::Events => 96,
        }
    }
}

/// Some records of a chunk.
pub(crate) fn records_of(chunk: &Chunk, range: Range<usize>) -> impl Iterator<Item = StreamRecord<'_>> {
    chunk.records().skip(range.start).take(range.len())
}

/// An outcome, as codecs know it.
pub(crate) fn end_of(outcome: &Outcome) -> End<'_> {
    End {
        state: &outcome.state,
        exit_code: outcome.exit_code,
        signal: outcome.signal,
        reason: outcome.reason.as_deref(),
    }
}

/// Who a stream is of, as a person calls it: `nightly@17`, `nightly@17 build`, or its path.
pub(crate) fn subject(path: &Path) -> String {
    let segments: Vec<&str> = path.segments().collect();
    match segments[..] {
        ["runs", run, "out"] => run.to_owned(),
        ["runs", run, "tasks", task, "out"] => format!("{run} {task}"),
        _ => format!("/{}", path.as_str()),
    }
}

/// The last line of a text: how it ended.
pub(crate) fn last_line(path: &Path, outcome: &Outcome) -> String {
    format!("standpipe: {} {}\n", subject(path), records::end_words(&end_of(outcome)))
}

/// The line in a text where records are missing.
pub(crate) fn gap_line(position: u64, first_left: u64) -> String {
    format!("standpipe: records {position} to {} are gone (retention)\n", first_left.saturating_sub(1))
}
