//! Replies as a client sees them: for tests, fuzzing and benchmarks; the server only writes them.

use super::reply::{self, Version};
use super::{DecodeLimits, integer};

/// Replies inside of replies that are followed.
const DEPTH_MAX: usize = 32;

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A short text.
    Simple(String),
    /// An error: its code, then a sentence.
    Error(String),
    /// An integer.
    Integer(i64),
    /// Any bytes.
    Bulk(Vec<u8>),
    /// Nothing, in any of its spellings.
    Null,
    /// Replies in order.
    Array(Vec<Value>),
    /// Keys and values in order.
    Map(Vec<(Value, Value)>),
    /// Replies whose order says nothing.
    Set(Vec<Value>),
    /// News that answers no command.
    Push(Vec<Value>),
    /// A floating point number.
    Double(f64),
    /// Yes or no.
    Boolean(bool),
    /// A text and the three characters that tell its format.
    Verbatim([u8; 3], Vec<u8>),
}

/// The input is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a reply: {0}")]
pub struct NotReply(&'static str);

/// Decodes the first reply of `input`, and says how many bytes it takes; `None` when it is not all
/// there. Decodes from the beginning each time.
///
/// # Errors
/// [`NotReply`]: the connection can't go on.
pub fn decode(input: &[u8], limits: &DecodeLimits) -> Result<Option<(Value, usize)>, NotReply> {
    let mut rest = input;
    match value(&mut rest, limits, DEPTH_MAX) {
        Ok(value) => Ok(Some((value, input.len() - rest.len()))),
        Err(Stop::Incomplete) => Ok(None),
        Err(Stop::Not(why)) => Err(NotReply(why)),
    }
}

/// Why there is no value.
enum Stop {
    Incomplete,
    Not(&'static str),
}

fn value(rest: &mut &[u8], limits: &DecodeLimits, depth: usize) -> Result<Value, Stop> {
    let (kind, head) = line(rest, limits.inline_bytes_max)?;
    let mut values = |count: usize| {
        let deeper = depth.checked_sub(1).ok_or(Stop::Not("nested too deep"))?;
        (0..count).map(|_| value(rest, limits, deeper)).collect::<Result<Vec<_>, _>>()
    };
    Ok(match kind {
        b'+' => Value::Simple(text(head)),
        b'-' => Value::Error(text(head)),
        b':' => Value::Integer(integer(head).ok_or(Stop::Not("no integer"))?),
        b',' => Value::Double(double(head)?),
        b'#' => Value::Boolean(boolean(head)?),
        b'_' if head.is_empty() => Value::Null,
        b'$' | b'*' if head == b"-1" => Value::Null,
        b'$' => Value::Bulk(bulk(rest, length(head, limits.bulk_bytes_max)?)?.to_vec()),
        b'=' => verbatim(bulk(rest, length(head, limits.bulk_bytes_max)?)?)?,
        b'*' => Value::Array(values(length(head, limits.args_max)?)?),
        b'~' => Value::Set(values(length(head, limits.args_max)?)?),
        b'>' => Value::Push(values(length(head, limits.args_max)?)?),
        b'%' => Value::Map(pairs(values(length(head, limits.args_max / 2)? * 2)?)),
        _ => return Err(Stop::Not("unknown type")),
    })
}

/// Takes a line off the front: its first byte and the others.
fn line<'a>(rest: &mut &'a [u8], bytes_max: usize) -> Result<(u8, &'a [u8]), Stop> {
    let window = &rest[..rest.len().min(bytes_max.saturating_add(1))];
    let end = match memchr::memchr(b'\n', window) {
        Some(end) => end,
        None if window.len() <= bytes_max => return Err(Stop::Incomplete),
        None => return Err(Stop::Not("a line is too long")),
    };
    let [kind, head @ .., b'\r'] = &rest[..end] else { return Err(Stop::Not("a line does not end in CRLF")) };
    *rest = &rest[end + 1..];
    Ok((*kind, head))
}

fn length(head: &[u8], max: usize) -> Result<usize, Stop> {
    let length = integer(head).and_then(|length| usize::try_from(length).ok());
    length.filter(|&length| length <= max).ok_or(Stop::Not("no length"))
}

/// Takes a text of `len` bytes and its end off the front.
fn bulk<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Stop> {
    let Some((bulk, after)) = rest.split_at_checked(len.saturating_add(2)) else { return Err(Stop::Incomplete) };
    let Some(bulk) = bulk.strip_suffix(b"\r\n") else { return Err(Stop::Not("a text is longer than it says")) };
    *rest = after;
    Ok(bulk)
}

fn verbatim(bulk: &[u8]) -> Result<Value, Stop> {
    match bulk {
        [a, b, c, b':', text @ ..] => Ok(Value::Verbatim([*a, *b, *c], text.to_vec())),
        _ => Err(Stop::Not("a text without its format")),
    }
}

fn double(head: &[u8]) -> Result<f64, Stop> {
    std::str::from_utf8(head).ok().and_then(|text| text.parse().ok()).ok_or(Stop::Not("no double"))
}

fn boolean(head: &[u8]) -> Result<bool, Stop> {
    match head {
        b"t" => Ok(true),
        b"f" => Ok(false),
        _ => Err(Stop::Not("no boolean")),
    }
}

fn pairs(values: Vec<Value>) -> Vec<(Value, Value)> {
    let mut values = values.into_iter();
    std::iter::from_fn(|| Some((values.next()?, values.next()?))).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Value {
    /// Appends the reply.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        let all = |values: &[Self], out: &mut Vec<u8>| values.iter().for_each(|value| value.encode(version, out));
        match self {
            Self::Simple(text) => reply::simple(text, out),
            Self::Error(text) => reply::error(text, out),
            Self::Integer(number) => reply::integer(*number, out),
            Self::Bulk(bytes) => reply::bulk(bytes, out),
            Self::Null => reply::null(version, out),
            Self::Double(number) => reply::double(*number, version, out),
            Self::Boolean(yes) => reply::boolean(*yes, version, out),
            Self::Verbatim(format, text) => reply::verbatim(*format, text, version, out),
            Self::Array(values) => {
                reply::array_head(values.len(), out);
                all(values, out);
            }
            Self::Set(values) => {
                reply::set_head(values.len(), version, out);
                all(values, out);
            }
            Self::Push(values) => {
                reply::push_head(values.len(), version, out);
                all(values, out);
            }
            Self::Map(pairs) => {
                reply::map_head(pairs.len(), version, out);
                for (key, value) in pairs {
                    key.encode(version, out);
                    value.encode(version, out);
                }
            }
        }
    }
}
