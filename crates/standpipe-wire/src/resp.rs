//! RESP2, RESP3 and inline commands, as servers see them: a decoder of commands here, replies in
//! [`reply`], and a decoder of replies for tests and benchmarks in [`value`]. What the commands mean
//! is the door's. See <https://redis.io/docs/latest/develop/reference/protocol-spec/>.
//!
//! ```
//! use standpipe_wire::resp::{Decoded, DecodeLimits, decode};
//! let limits = DecodeLimits { args_max: 1_024, bulk_bytes_max: 1 << 20, inline_bytes_max: 64 << 10 };
//! let mut unquoted = Vec::new();
//! match decode(b"*1\r\n$4\r\nPING\r\n", &mut unquoted, &limits) {
//!     Ok(Decoded::Command(command, used)) => assert_eq!((command.args(), used), (&[&b"PING"[..]][..], 14)),
//!     other => panic!("{other:?}"),
//! }
//! ```

mod inline;
pub mod reply;
#[cfg(test)]
mod tests;
pub mod value;

use smallvec::SmallVec;

/// The longest head of a command or an argument, `*` or `$` included: no count needs more.
const HEAD_BYTES_MAX: usize = 32;

/// The shortest argument there is: `$0`, its end, nothing, its end.
const ARG_BYTES_MIN: usize = 6;

/// The bytes of a command's arguments; eight need no memory of their own.
pub(crate) type Args<'a> = SmallVec<[&'a [u8]; 8]>;

/// A command: its name and its arguments, as they lie in the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    args: Args<'a>,
}

impl<'a> Command<'a> {
    /// The arguments, the command's name first: at least one.
    pub fn args(&self) -> &[&'a [u8]] {
        &self.args
    }
}

/// What a decoder accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Arguments of a command, its name included; elements of one collection of a reply.
    pub args_max: usize,
    /// Bytes of one argument, or of one text of a reply.
    pub bulk_bytes_max: usize,
    /// Bytes of an inline command, or of a line of a reply, without the LF.
    pub inline_bytes_max: usize,
}

/// What is at the beginning of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A command, and how many bytes it takes.
    Command(Command<'a>, usize),
    /// So many bytes that ask for nothing: an empty line, a command of no arguments.
    Skip(usize),
    /// Part of a command. It is whole no sooner than with `at_least` bytes of input, which is more
    /// than there are: decoding it again before is of no use.
    Incomplete {
        /// Bytes, those given included.
        at_least: usize,
    },
}

/// The input is no command and nothing after it can be found. The sentences are those clients know;
/// a server says `-ERR Protocol error: ` and the sentence, and closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The count of arguments is no number, or over the limit.
    #[error("invalid multibulk length")]
    ArgCount,
    /// The count of arguments has no end.
    #[error("too big mbulk count string")]
    ArgCountTooLong,
    /// An argument does not begin as one.
    #[error("expected '$', got '{}'", .0.escape_ascii())]
    NotBulk(u8),
    /// The length of an argument is no number, or over the limit.
    #[error("invalid bulk length")]
    BulkLength,
    /// The length of an argument has no end.
    #[error("too big bulk count string")]
    BulkLengthTooLong,
    /// An argument is longer than it says.
    #[error("expected CRLF after a bulk")]
    BulkEnd,
    /// An inline command is longer than the limit.
    #[error("too big inline request")]
    InlineTooLong,
    /// A quote in an inline command is not closed, or something follows right after it.
    #[error("unbalanced quotes in request")]
    Quotes,
}

/// Decodes the first command of `input`. The arguments of an inline command with quotes lie in
/// `unquoted`, whose content is lost; all others lie in `input`.
///
/// # Errors
/// [`ProtocolError`]: the connection can't go on.
pub fn decode<'a>(
    input: &'a [u8],
    unquoted: &'a mut Vec<u8>,
    limits: &DecodeLimits,
) -> Result<Decoded<'a>, ProtocolError> {
    match input.first() {
        None => Ok(Decoded::Incomplete { at_least: 1 }),
        Some(b'*') => multibulk(input, limits),
        Some(_) => inline::decode(input, unquoted, limits),
    }
}

fn multibulk<'a>(input: &'a [u8], limits: &DecodeLimits) -> Result<Decoded<'a>, ProtocolError> {
    let (count, mut at) = match Head::of(input) {
        Head::Number(count, bytes) => (count, bytes),
        Head::Incomplete => return Ok(Decoded::Incomplete { at_least: input.len() + 1 }),
        Head::Invalid => return Err(ProtocolError::ArgCount),
        Head::TooLong => return Err(ProtocolError::ArgCountTooLong),
    };
    if count <= 0 {
        return Ok(Decoded::Skip(at));
    }
    let count = usize::try_from(count).ok().filter(|&count| count <= limits.args_max).ok_or(ProtocolError::ArgCount)?;
    let mut args = Args::new();
    for left in (0..count).rev() {
        match bulk(&input[at..], limits.bulk_bytes_max)? {
            Bulk::Whole(arg, bytes) => {
                args.push(arg);
                at += bytes;
            }
            Bulk::Incomplete { at_least } => {
                let after = left.saturating_mul(ARG_BYTES_MIN);
                return Ok(Decoded::Incomplete { at_least: at.saturating_add(at_least).saturating_add(after) });
            }
        }
    }
    Ok(Decoded::Command(Command { args }, at))
}

/// One argument, and the bytes it takes.
enum Bulk<'a> {
    Whole(&'a [u8], usize),
    Incomplete { at_least: usize },
}

fn bulk(input: &[u8], bytes_max: usize) -> Result<Bulk<'_>, ProtocolError> {
    match input.first() {
        Some(b'$') => {}
        Some(&other) => return Err(ProtocolError::NotBulk(other)),
        None => return Ok(Bulk::Incomplete { at_least: ARG_BYTES_MIN }),
    }
    let (len, start) = match Head::of(input) {
        Head::Number(len, bytes) => (len, bytes),
        Head::Incomplete => return Ok(Bulk::Incomplete { at_least: ARG_BYTES_MIN.max(input.len() + 1) }),
        Head::Invalid => return Err(ProtocolError::BulkLength),
        Head::TooLong => return Err(ProtocolError::BulkLengthTooLong),
    };
    let len = usize::try_from(len).ok().filter(|&len| len <= bytes_max).ok_or(ProtocolError::BulkLength)?;
    let bytes = start.saturating_add(len).saturating_add(2);
    match input.get(start..bytes) {
        None => Ok(Bulk::Incomplete { at_least: bytes }),
        Some([arg @ .., b'\r', b'\n']) => Ok(Bulk::Whole(arg, bytes)),
        Some(_) => Err(ProtocolError::BulkEnd),
    }
}

/// A line of one type byte and a number.
enum Head {
    /// The number, and the bytes of the line with its end.
    Number(i64, usize),
    Incomplete,
    Invalid,
    TooLong,
}

impl Head {
    fn of(input: &[u8]) -> Self {
        let window = &input[..input.len().min(HEAD_BYTES_MAX)];
        let Some(end) = window.iter().position(|&byte| byte == b'\r') else {
            return if window.len() < HEAD_BYTES_MAX { Self::Incomplete } else { Self::TooLong };
        };
        match (input.get(end + 1), integer(&input[1..end])) {
            (None, _) => Self::Incomplete,
            (Some(b'\n'), Some(number)) => Self::Number(number, end + 2),
            _ => Self::Invalid,
        }
    }
}

/// A decimal integer in its one spelling: no plus, no leading zero.
fn integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || (digits[0] == b'0' && text.len() > 1) {
        return None;
    }
    digits.iter().try_fold(0_i64, |number, digit| {
        let digit = i64::from(digit.checked_sub(b'0').filter(|&digit| digit < 10)?);
        let number = number.checked_mul(10)?;
        if negative { number.checked_sub(digit) } else { number.checked_add(digit) }
    })
}
