//! A record of a stream, as whoever stores it and whoever encodes it know it. Streams themselves are the engine's, and
//! their forms on the wire are the codecs'.

/// Where a record is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    /// Standard output, or the only one there is.
    Out = 0,
    /// Standard error.
    Err = 1,
    /// Said about the stream and not in it: a JSON object.
    Note = 2,
}

impl Channel {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Out, Self::Err, Self::Note];

    /// Its word, the same in every protocol: `out`, `err`, `note`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::Err => "err",
            Self::Note => "note",
        }
    }

    /// Reads the word.
    pub fn parse(word: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.as_str().as_bytes() == word)
    }
}

/// A record of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamRecord<'a> {
    /// Its number in the stream, from 0; it never changes.
    pub seq: u64,
    /// When it was made, in milliseconds since the epoch.
    pub at_ms: u64,
    /// Where it is from.
    pub channel: Channel,
    /// What it says: of output a line with its end, or a part of one.
    pub bytes: &'a [u8],
}
