//! The encoders of replies: each appends one reply, or the head of one whose elements follow.

/// The version of the protocol a client speaks: `HELLO 3` chooses the newer one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// RESP2: what the newer version adds is told by the older types.
    #[default]
    Two,
    /// RESP3.
    Three,
}

/// A short text; line ends in it become spaces.
pub fn simple(text: &str, out: &mut Vec<u8>) {
    line(b'+', text, out);
}

/// An error: its code, then a sentence, as in `ERR syntax error`. Line ends in it become spaces.
pub fn error(text: &str, out: &mut Vec<u8>) {
    line(b'-', text, out);
}

/// An integer.
pub fn integer(number: i64, out: &mut Vec<u8>) {
    out.push(b':');
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Any bytes.
pub fn bulk(bytes: &[u8], out: &mut Vec<u8>) {
    head(b'$', bytes.len(), out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Nothing, where a text could be.
pub fn null(version: Version, out: &mut Vec<u8>) {
    out.extend_from_slice(by_version(version, b"$-1\r\n", b"_\r\n"));
}

/// Nothing, where an array could be.
pub fn null_array(version: Version, out: &mut Vec<u8>) {
    out.extend_from_slice(by_version(version, b"*-1\r\n", b"_\r\n"));
}

/// The head of an array; `len` replies follow.
pub fn array_head(len: usize, out: &mut Vec<u8>) {
    head(b'*', len, out);
}

/// The head of a map; `len` keys and values follow in turn.
pub fn map_head(len: usize, version: Version, out: &mut Vec<u8>) {
    match version {
        Version::Two => head(b'*', len * 2, out),
        Version::Three => head(b'%', len, out),
    }
}

/// The head of a set; `len` replies follow.
pub fn set_head(len: usize, version: Version, out: &mut Vec<u8>) {
    head(by_version(version, b"*", b"~")[0], len, out);
}

/// The head of news that answers no command; `len` replies follow.
pub fn push_head(len: usize, version: Version, out: &mut Vec<u8>) {
    head(by_version(version, b"*", b">")[0], len, out);
}

/// A floating point number in its shortest spelling.
pub fn double(number: f64, version: Version, out: &mut Vec<u8>) {
    let mut buffer = ryu::Buffer::new();
    let text = match number {
        _ if number.is_nan() => "nan",
        f64::INFINITY => "inf",
        f64::NEG_INFINITY => "-inf",
        _ => buffer.format_finite(number),
    };
    let text = text.strip_suffix(".0").unwrap_or(text);
    match version {
        Version::Two => bulk(text.as_bytes(), out),
        Version::Three => line(b',', text, out),
    }
}

/// Yes or no.
pub fn boolean(yes: bool, version: Version, out: &mut Vec<u8>) {
    out.extend_from_slice(match (version, yes) {
        (Version::Two, false) => b":0\r\n",
        (Version::Two, true) => b":1\r\n",
        (Version::Three, false) => b"#f\r\n",
        (Version::Three, true) => b"#t\r\n",
    });
}

/// A text whose format is told by three characters: `txt`, `mkd`.
pub fn verbatim(format: [u8; 3], text: &[u8], version: Version, out: &mut Vec<u8>) {
    if version == Version::Two {
        return bulk(text, out);
    }
    head(b'=', text.len() + 4, out);
    out.extend_from_slice(&format);
    out.push(b':');
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

fn by_version<'a>(version: Version, two: &'a [u8], three: &'a [u8]) -> &'a [u8] {
    match version {
        Version::Two => two,
        Version::Three => three,
    }
}

/// One type byte and a length.
pub(super) fn head(kind: u8, len: usize, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(itoa::Buffer::new().format(len).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// One type byte and a text that is kept on its line.
pub(super) fn line(kind: u8, text: &str, out: &mut Vec<u8>) {
    out.push(kind);
    let start = out.len();
    out.extend_from_slice(text.as_bytes());
    for byte in &mut out[start..] {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    out.extend_from_slice(b"\r\n");
}
