//! Decoders of wire formats: the same comes out however the bytes are cut, limits hold, and what is
//! encoded again is the same.

use standpipe_wire::line::{Line, Scanner};
use standpipe_wire::resp::reply::{self, Version};
use standpipe_wire::resp::value;
use standpipe_wire::resp::{DecodeLimits, Decoded, ProtocolError, decode};
use standpipe_wire::sse::{self as events, Decoder, Event, TooLarge};

use crate::cuts;

const LIMITS: DecodeLimits = DecodeLimits { args_max: 12, bulk_bytes_max: 64, inline_bytes_max: 128 };
const LINE_BYTES_MAX: usize = 32;
const EVENT_BYTES_MAX: usize = 64;

/// Lines, ended by LF or CRLF.
pub fn line(data: &[u8]) {
    let (data, size) = cuts(data);
    assert_eq!(lines(data, size), lines(data, usize::MAX), "pieces of {size}");
}

/// The lines in order, `None` for one that is too long.
fn lines(data: &[u8], size: usize) -> Vec<Option<Vec<u8>>> {
    let (mut scanner, mut input, mut found) = (Scanner::default(), Vec::new(), Vec::new());
    for piece in data.chunks(size) {
        input.extend_from_slice(piece);
        loop {
            let used = match scanner.scan(&input, LINE_BYTES_MAX) {
                Line::Whole(line, used) => {
                    assert!(line.len() <= LINE_BYTES_MAX && !line.contains(&b'\n'));
                    found.push(Some(line.to_vec()));
                    used
                }
                Line::TooLong(used) => {
                    found.push(None);
                    used
                }
                Line::Skip(used) => used,
                Line::Incomplete => break,
            };
            assert!((1..=input.len()).contains(&used));
            input.drain(..used);
        }
        assert!(input.len() <= LINE_BYTES_MAX + 1);
    }
    found
}

/// RESP as a server reads it.
pub fn resp_commands(data: &[u8]) {
    let (data, size) = cuts(data);
    let whole = commands(data, usize::MAX);
    assert_eq!(commands(data, size), whole, "pieces of {size}");
    for args in &whole.0 {
        let mut bytes = Vec::new();
        reply::array_head(args.len(), &mut bytes);
        args.iter().for_each(|arg| reply::bulk(arg, &mut bytes));
        // An inline command's arguments are bounded by its line alone.
        if args.iter().all(|arg| arg.len() <= LIMITS.bulk_bytes_max) {
            assert_eq!(commands(&bytes, usize::MAX), (vec![args.clone()], Ok(())));
        }
    }
}

type Commands = (Vec<Vec<Vec<u8>>>, Result<(), ProtocolError>);

fn commands(data: &[u8], size: usize) -> Commands {
    let (mut input, mut unquoted, mut found, mut needed) = (Vec::new(), Vec::new(), Vec::new(), 1);
    for piece in data.chunks(size) {
        input.extend_from_slice(piece);
        while !input.is_empty() {
            let used = match decode(&input, &mut unquoted, &LIMITS) {
                Ok(Decoded::Command(command, used)) => {
                    assert!((1..=LIMITS.args_max).contains(&command.args().len()));
                    found.push(command.args().iter().map(|arg| arg.to_vec()).collect());
                    used
                }
                Ok(Decoded::Skip(used)) => used,
                Ok(Decoded::Incomplete { at_least }) => {
                    assert!(at_least > input.len());
                    needed = at_least;
                    break;
                }
                Err(error) => return (found, Err(error)),
            };
            assert!((1..=input.len()).contains(&used));
            assert!(input.len() >= needed, "whole with less than it said");
            input.drain(..used);
            needed = 1;
        }
    }
    (found, Ok(()))
}

/// RESP as a client reads it.
pub fn resp_replies(data: &[u8]) {
    let Ok(Some((reply, used))) = value::decode(data, &LIMITS) else { return };
    assert!((1..=data.len()).contains(&used));
    for end in [0, used / 2, used - 1] {
        assert_eq!(value::decode(&data[..end], &LIMITS), Ok(None), "{end} of {used} bytes");
    }
    // Bytes are compared, for a number that is none is not equal to itself.
    let encode = |reply: &value::Value| {
        let mut bytes = Vec::new();
        reply.encode(Version::Three, &mut bytes);
        bytes
    };
    let bytes = encode(&reply);
    let roomy = DecodeLimits { inline_bytes_max: 1 << 10, ..LIMITS };
    let (again, used) = value::decode(&bytes, &roomy).expect("a reply").expect("whole");
    assert_eq!((encode(&again), used), (bytes.clone(), bytes.len()));
}

/// Server-sent events.
pub fn sse(data: &[u8]) {
    let (data, size) = cuts(data);
    assert_eq!(decode_events(data, size, EVENT_BYTES_MAX), decode_events(data, usize::MAX, EVENT_BYTES_MAX));
    let text = String::from_utf8_lossy(data);
    let mut bytes = Vec::new();
    events::encode("put", Some(7), text.as_bytes(), &mut bytes);
    let expected = text.replace("\r\n", "\n").replace('\r', "\n");
    let expected = Event { name: "put".to_owned(), data: expected, id: Some("7".to_owned()) };
    assert_eq!(decode_events(&bytes, usize::MAX, usize::MAX), Ok(vec![expected]));
}

fn decode_events(data: &[u8], size: usize, bytes_max: usize) -> Result<Vec<Event>, TooLarge> {
    let (mut decoder, mut found) = (Decoder::new(bytes_max), Vec::new());
    for mut piece in data.chunks(size) {
        while let Some(event) = decoder.decode(&mut piece)? {
            // Bytes that are no text grow threefold when they are replaced.
            assert!(event.data.len() / 3 <= bytes_max);
            found.push(event);
        }
        assert!(piece.is_empty());
    }
    Ok(found)
}
