//! WebSocket frames (RFC 6455 §5), the server's side: reads masked frames of a client and joins
//! fragments, writes unmasked ones. The handshake, timers and what a message means are its caller's.

use std::ops::Range;

/// A peer broke the protocol; the connection is to be closed with a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A reserved bit is set, though no extension was agreed on.
    #[error("a reserved bit is set")]
    Reserved,
    /// An opcode that has no meaning.
    #[error("unknown opcode")]
    Opcode,
    /// A client must mask what it sends (§5.1).
    #[error("a frame is not masked")]
    Unmasked,
    /// A control frame longer than 125 bytes, or in fragments (§5.5).
    #[error("a control frame is too long or fragmented")]
    Control,
    /// A fragment without a beginning, or a beginning inside of a fragmented message (§5.4).
    #[error("fragments out of order")]
    Fragments,
    /// A length of 64 bits with the highest one set, or of more bytes than it needs (§5.2).
    #[error("a frame's length is malformed")]
    Length,
    /// A text that is not UTF-8 (§8.1).
    #[error("a text is not UTF-8")]
    Utf8,
    /// Bytes instead of a text.
    #[error("only text is understood here")]
    Binary,
    /// More bytes than a message may have.
    #[error("the message is too long")]
    TooLong,
}

impl Violation {
    /// The code to close with (§7.4.1).
    pub fn code(self) -> u16 {
        match self {
            Self::Utf8 => 1007,
            Self::Binary => 1003,
            Self::TooLong => 1009,
            _ => 1002,
        }
    }
}

/// What kind of frame it is; the discriminant is its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// A further fragment of a message.
    Continuation = 0,
    /// A text.
    Text = 1,
    /// Bytes.
    Binary = 2,
    /// The end.
    Close = 8,
    /// To be answered with the same bytes.
    Ping = 9,
    /// An answer to a ping.
    Pong = 10,
}

/// Longest head of a frame that a client sends.
const HEAD_BYTES_MAX: usize = 14;

/// Longest payload of a control frame (§5.5).
const CONTROL_BYTES_MAX: usize = 125;

/// What a client has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// A whole text.
    Text(&'a str),
    /// A part of a text, kept until its end comes.
    Fragment,
    /// To be answered with a pong of these bytes.
    Ping(&'a [u8]),
    /// Nothing to answer.
    Pong,
    /// Goodbye, with a code where one was given.
    Close(Option<u16>),
}

/// What came of looking at the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// Not a whole frame: another look makes sense once there are `at_least` bytes of it.
    Incomplete {
        /// Bytes of this frame.
        at_least: usize,
    },
    /// The frame of `used` bytes.
    Frame {
        /// Bytes the frame took.
        used: usize,
        /// What it says.
        said: Said<'a>,
    },
}

/// Reads frames of one client; holds the fragments of a message that is not complete.
#[derive(Debug, Default)]
pub struct Decoder {
    fragments: Vec<u8>,
    open: bool,
}

struct Head {
    fin: bool,
    opcode: Opcode,
    mask: [u8; 4],
    payload: Range<usize>,
}

impl Decoder {
    /// Bytes held of a message whose end has not come.
    pub fn held(&self) -> usize {
        self.fragments.capacity()
    }

    /// Looks at the first frame of `input`, and unmasks it there. A message has at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`Violation`]: nothing after it can be understood.
    pub fn decode<'a>(&'a mut self, input: &'a mut [u8], bytes_max: usize) -> Result<Decoded<'a>, Violation> {
        let head = match head(input)? {
            Ok(head) => head,
            Err(at_least) => return Ok(Decoded::Incomplete { at_least }),
        };
        let used = head.payload.end;
        let length = head.payload.len();
        match head.opcode {
            Opcode::Text | Opcode::Binary if self.open => return Err(Violation::Fragments),
            Opcode::Continuation if !self.open => return Err(Violation::Fragments),
            Opcode::Binary => return Err(Violation::Binary),
            Opcode::Text | Opcode::Continuation if length > bytes_max.saturating_sub(self.fragments.len()) => {
                return Err(Violation::TooLong);
            }
            _ => {}
        }
        if input.len() < used {
            return Ok(Decoded::Incomplete { at_least: used });
        }
        let payload = &mut input[head.payload];
        unmask(payload, head.mask);
        let said = match (head.opcode, head.fin) {
            (Opcode::Text, true) => Said::Text(text(payload)?),
            (Opcode::Text | Opcode::Continuation, false) => {
                self.open = true;
                self.fragments.extend_from_slice(payload);
                Said::Fragment
            }
            (Opcode::Continuation | Opcode::Binary, _) => {
                self.open = false;
                self.fragments.extend_from_slice(payload);
                // Given out by reference: dropped with the next message's first fragment.
                Said::Text(text(&self.fragments)?)
            }
            (Opcode::Ping, _) => Said::Ping(payload),
            (Opcode::Pong, _) => Said::Pong,
            (Opcode::Close, _) => Said::Close(close_code(payload)?),
        };
        Ok(Decoded::Frame { used, said })
    }

    /// Gives back what a fragmented message took, once it has been read.
    pub fn forget(&mut self) {
        if !self.open && self.fragments.capacity() > 0 {
            self.fragments = Vec::new();
        }
    }
}

/// The head of a frame, or how many bytes it takes to know more.
fn head(input: &[u8]) -> Result<Result<Head, usize>, Violation> {
    let [first, second, rest @ ..] = input else { return Ok(Err(2)) };
    if first & 0x70 != 0 {
        return Err(Violation::Reserved);
    }
    let fin = first & 0x80 != 0;
    let opcode = match first & 0x0f {
        0 => Opcode::Continuation,
        1 => Opcode::Text,
        2 => Opcode::Binary,
        8 => Opcode::Close,
        9 => Opcode::Ping,
        10 => Opcode::Pong,
        _ => return Err(Violation::Opcode),
    };
    if second & 0x80 == 0 {
        return Err(Violation::Unmasked);
    }
    let short = usize::from(second & 0x7f);
    let control = !matches!(opcode, Opcode::Continuation | Opcode::Text | Opcode::Binary);
    if control && (!fin || short > CONTROL_BYTES_MAX) {
        return Err(Violation::Control);
    }
    let extra = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some((extended, rest)) = rest.split_at_checked(extra) else { return Ok(Err(2 + extra)) };
    let length = match extra {
        0 => short as u64,
        _ => extended.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
    };
    if length >> 63 != 0 || (extra == 2 && length < 126) || (extra == 8 && length < 1 << 16) {
        return Err(Violation::Length);
    }
    let length = usize::try_from(length).map_err(|_| Violation::TooLong)?;
    let start = 2 + extra + 4;
    let end = start.checked_add(length).ok_or(Violation::TooLong)?;
    debug_assert!(start <= HEAD_BYTES_MAX);
    let Some(mask) = rest.first_chunk() else { return Ok(Err(start)) };
    Ok(Ok(Head { fin, opcode, mask: *mask, payload: start..end }))
}

/// Eight bytes at a time: the mask repeats every four.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

fn text(bytes: &[u8]) -> Result<&str, Violation> {
    std::str::from_utf8(bytes).map_err(|_| Violation::Utf8)
}

fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    match payload {
        [] => Ok(None),
        [_] => Err(Violation::Control),
        [high, low, reason @ ..] => text(reason).map(|_| Some(u16::from_be_bytes([*high, *low]))),
    }
}

/// Writes the head of an unmasked frame that holds all of its message.
pub fn put_head(opcode: Opcode, length: usize, out: &mut Vec<u8>) {
    out.push(0x80 | opcode as u8);
    match length {
        0..=125 => out.push(length as u8),
        126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// Writes a whole frame.
pub fn put(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    out.reserve(payload.len() + 10);
    put_head(opcode, payload.len(), out);
    out.extend_from_slice(payload);
}

/// Writes a close frame; of the reason as much as a control frame holds.
pub fn put_close(code: u16, reason: &str, out: &mut Vec<u8>) {
    let mut end = reason.len().min(CONTROL_BYTES_MAX - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    put_head(Opcode::Close, 2 + end, out);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&reason.as_bytes()[..end]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's frame.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let mut out = vec![first];
        match payload.len() {
            length @ 0..=125 => out.push(0x80 | length as u8),
            length @ 126..=0xffff => {
                out.push(0x80 | 126);
                out.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                out.push(0x80 | 127);
                out.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(&mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        out
    }

    /// Decodes all of `input`, given in pieces of `step` bytes.
    fn decode(input: &[u8], step: usize) -> Result<Vec<String>, Violation> {
        let mut decoder = Decoder::default();
        let (mut held, mut found, mut wanted) = (Vec::new(), Vec::new(), 0);
        for piece in input.chunks(step) {
            held.extend_from_slice(piece);
            while held.len() >= wanted {
                match decoder.decode(&mut held, 1 << 20)? {
                    Decoded::Incomplete { at_least } => {
                        assert!(at_least > held.len());
                        wanted = at_least;
                        break;
                    }
                    Decoded::Frame { used, said } => {
                        found.push(match said {
                            Said::Text(text) => format!("text {} {}", text.len(), text.get(..9).unwrap_or(text)),
                            Said::Ping(bytes) => format!("ping {}", String::from_utf8_lossy(bytes)),
                            said => format!("{said:?}"),
                        });
                        held.drain(..used);
                        decoder.forget();
                        wanted = 0;
                    }
                }
                if held.is_empty() {
                    break;
                }
            }
        }
        Ok(found)
    }

    fn check(input: &[u8], expected: Result<&[&str], Violation>) {
        for step in [1, 2, 3, 7, 64, input.len().max(1)] {
            let got = decode(input, step);
            let got = got.as_ref().map(|found| found.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(got, expected.as_ref().map(|found| found.to_vec()), "in pieces of {step}");
        }
    }

    #[test]
    fn frames_are_read_in_any_pieces() {
        check(&frame(0x81, b"hello"), Ok(&["text 5 hello"]));
        check(&frame(0x81, b""), Ok(&["text 0 "]));
        check(&frame(0x81, &[b'a'; 126]), Ok(&["text 126 aaaaaaaaa"]));
        check(&frame(0x81, &[b'a'; 70_000]), Ok(&["text 70000 aaaaaaaaa"]));
        let mut many = frame(0x01, "é".as_bytes().split_at(1).0);
        many.extend(frame(0x89, b"are you there"));
        many.extend(frame(0x00, "é".as_bytes().split_at(1).1));
        many.extend(frame(0x80, b"."));
        many.extend(frame(0x8a, b""));
        many.extend(frame(0x88, &[3, 232]));
        check(&many, Ok(&["Fragment", "ping are you there", "Fragment", "text 3 é.", "Pong", "Close(Some(1000))"]));
    }

    #[test]
    fn what_breaks_the_protocol_is_named() {
        check(&frame(0xc1, b"x"), Err(Violation::Reserved));
        check(&frame(0x83, b"x"), Err(Violation::Opcode));
        check(&frame(0x8b, b"x"), Err(Violation::Opcode));
        check(&[0x81, 1, b'x'], Err(Violation::Unmasked));
        check(&frame(0x09, b"x"), Err(Violation::Control));
        check(&frame(0x89, &[b'x'; 126]), Err(Violation::Control));
        check(&frame(0x88, b"x"), Err(Violation::Control));
        check(&frame(0x80, b"x"), Err(Violation::Fragments));
        check(&[frame(0x01, b"x"), frame(0x81, b"x")].concat(), Err(Violation::Fragments));
        check(&frame(0x82, b"x"), Err(Violation::Binary));
        check(&frame(0x81, &[0xff]), Err(Violation::Utf8));
        check(&[0x81, 0xfe, 0, 5, 0, 0, 0, 0], Err(Violation::Length));
        check(&[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0], Err(Violation::Length));
        check(&[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Err(Violation::Length));
        check(&[0x81, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0], Err(Violation::TooLong));
        check(&[0x81, 0xff, 0, 0, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0], Err(Violation::TooLong));
        let pieces = [frame(0x01, &[b'x'; 1 << 19]), frame(0x00, &[b'x'; (1 << 19) + 1])].concat();
        assert_eq!(decode(&pieces, 4096), Err(Violation::TooLong));
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..24)
                .map(|_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    seed as u8
                })
                .collect();
            let _either = decode(&bytes, 5);
        }
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        let mut out = Vec::new();
        put_close(1008, &"é".repeat(100), &mut out);
        assert_eq!((out[0], out[1]), (0x88, 124));
        assert_eq!(std::str::from_utf8(&out[4..]).unwrap(), "é".repeat(61));
        out.clear();
        put(Opcode::Text, &[b'x'; 300], &mut out);
        assert_eq!(out[..4], [0x81, 126, 1, 44]);
        out.clear();
        put_head(Opcode::Text, 1 << 16, &mut out);
        assert_eq!(out, [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
