//! Inline commands: a line of words, as somebody with a terminal types them. Words may be quoted:
//! `"…"` knows `\n \r \t \b \a \xHH` and takes any other character after a backslash as it is, `'…'`
//! knows `\'` alone.

use smallvec::SmallVec;

use super::{Args, Command, DecodeLimits, Decoded, ProtocolError};

pub(super) fn decode<'a>(
    input: &'a [u8],
    unquoted: &'a mut Vec<u8>,
    limits: &DecodeLimits,
) -> Result<Decoded<'a>, ProtocolError> {
    let window = &input[..input.len().min(limits.inline_bytes_max.saturating_add(1))];
    let Some(end) = memchr::memchr(b'\n', window) else {
        let fits = window.len() <= limits.inline_bytes_max;
        return fits.then_some(Decoded::Incomplete { at_least: input.len() + 1 }).ok_or(ProtocolError::InlineTooLong);
    };
    let args = match memchr::memchr2(b'"', b'\'', &input[..end]) {
        None => input[..end].split(|&byte| is_blank(byte)).filter(|word| !word.is_empty()).collect(),
        Some(_) => unquote(&input[..end], unquoted)?,
    };
    match args.len() {
        0 => Ok(Decoded::Skip(end + 1)),
        count if count > limits.args_max => Err(ProtocolError::ArgCount),
        _ => Ok(Decoded::Command(Command { args }, end + 1)),
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

/// The words of a line with their quotes taken off, one after the other in `into`.
fn unquote<'a>(line: &[u8], into: &'a mut Vec<u8>) -> Result<Args<'a>, ProtocolError> {
    into.clear();
    let (mut rest, mut ends) = (line, SmallVec::<[usize; 8]>::new());
    while let [first, after @ ..] = rest {
        if is_blank(*first) {
            rest = after;
        } else {
            rest = word(rest, into)?;
            ends.push(into.len());
        }
    }
    let starts = std::iter::once(0).chain(ends.iter().copied());
    Ok(starts.zip(&ends).map(|(start, &end)| &into[start..end]).collect())
}

/// Takes one word off the front; says what is left. A quote may open inside a word, and ends it.
fn word<'l>(mut rest: &'l [u8], into: &mut Vec<u8>) -> Result<&'l [u8], ProtocolError> {
    while let [first, after @ ..] = rest {
        match first {
            b'"' | b'\'' => return quoted(*first, after, into),
            first if is_blank(*first) => break,
            first => into.push(*first),
        }
        rest = after;
    }
    Ok(rest)
}

fn quoted<'l>(quote: u8, mut rest: &'l [u8], into: &mut Vec<u8>) -> Result<&'l [u8], ProtocolError> {
    loop {
        let (byte, after) = match rest {
            [] => return Err(ProtocolError::Quotes),
            [end, after @ ..] if *end == quote => {
                let apart = after.first().is_none_or(|&next| is_blank(next));
                return apart.then_some(after).ok_or(ProtocolError::Quotes);
            }
            [b'\\', after @ ..] if quote == b'"' && !after.is_empty() => escape(after),
            [b'\\', b'\'', after @ ..] if quote == b'\'' => (b'\'', after),
            [byte, after @ ..] => (*byte, after),
        };
        into.push(byte);
        rest = after;
    }
}

/// What the escape after a backslash stands for, and what follows it.
fn escape(rest: &[u8]) -> (u8, &[u8]) {
    if let [b'x', high, low, after @ ..] = rest
        && let (Some(high), Some(low)) = (hex(*high), hex(*low))
    {
        return (high << 4 | low, after);
    }
    let byte = match rest[0] {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    };
    (byte, &rest[1..])
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|digit| digit as u8)
}
