//! What the transports of the Firebase protocol do to bytes: the same comes out however they are cut or in whatever
//! order they come, limits hold, and a script that is made of messages is one line that says them.

use standpipe_wire::firebase::{Message, PIECE_BYTES_MAX, Pieces, TooLong, parse, pieces};
use standpipe_wire::longpoll;
use standpipe_wire::websocket::{Decoded, Decoder, Opcode, Said, Violation, put};

use crate::cuts;

const MESSAGE_BYTES_MAX: usize = 64;

/// Frames of a WebSocket, the messages joined from them, and the requests in those.
pub fn firebase_frames(data: &[u8]) {
    let (data, size) = cuts(data);
    let whole = frames(data, usize::MAX);
    assert_eq!(frames(data, size), whole, "pieces of {size}");
    let text = String::from_utf8_lossy(data);
    request(&text);
    // What is sent comes back together, whatever it is; but a number would be one of pieces.
    let joined: String = pieces(&text).collect();
    assert_eq!(joined, text);
    assert!(pieces(&text).all(|piece| !piece.is_empty() && piece.len() <= PIECE_BYTES_MAX));
    // A server's frame, masked as a client's, is read as what it was.
    let mut bytes = Vec::new();
    put(Opcode::Text, text.as_bytes(), &mut bytes);
    let head = bytes.len() - text.len();
    bytes[1] |= 0x80;
    bytes.splice(head..head, [0; 4]);
    let read = frames(&bytes, usize::MAX);
    match text.len() <= MESSAGE_BYTES_MAX {
        true => assert_eq!(read, (vec![format!("text {text}")], None)),
        false => assert_eq!(read, (vec![], Some(Violation::TooLong))),
    }
}

/// What the frames say in order, and what ends them.
fn frames(data: &[u8], size: usize) -> (Vec<String>, Option<Violation>) {
    let (mut decoder, mut joined) = (Decoder::default(), Pieces::default());
    let (mut input, mut found, mut wanted) = (Vec::new(), Vec::new(), 1);
    for piece in data.chunks(size) {
        input.extend_from_slice(piece);
        while input.len() >= wanted {
            let used = match decoder.decode(&mut input, MESSAGE_BYTES_MAX) {
                Err(violation) => return (found, Some(violation)),
                Ok(Decoded::Incomplete { at_least }) => {
                    assert!(at_least > input.len());
                    wanted = at_least;
                    break;
                }
                Ok(Decoded::Frame { used, said }) => {
                    if let Said::Text(text) = &said {
                        assert!(text.len() <= MESSAGE_BYTES_MAX);
                        match joined.take(text, MESSAGE_BYTES_MAX) {
                            Ok(message) => message.as_deref().map_or((), request),
                            Err(TooLong) => joined = Pieces::default(),
                        }
                        assert!(joined.held() <= 2 * MESSAGE_BYTES_MAX);
                    }
                    found.push(match said {
                        Said::Text(text) => format!("text {text}"),
                        said => format!("{said:?}"),
                    });
                    used
                }
            };
            assert!((1..=input.len()).contains(&used), "whole with less than it said");
            decoder.forget();
            assert!(decoder.held() <= 2 * MESSAGE_BYTES_MAX);
            input.drain(..used);
            wanted = 1;
        }
    }
    (found, None)
}

/// Reads a message and every member of a request in it.
fn request(text: &str) {
    let Ok(Message::Request(request)) = parse(text) else { return };
    let body = request.body;
    let _ = (body.path(), body.data(), body.hash(), body.query(), body.tag(), body.credential(), body.act_as());
}

/// Query strings of long polling, the messages their pieces make, and the scripts they are answered with.
pub fn firebase_polls(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(longpoll::Request::Poll { pieces, .. }) = longpoll::Request::parse(&text) {
        let made = polled(pieces.iter().copied());
        let mut sorted = pieces.clone();
        sorted.sort_by_key(|piece| piece.number);
        // The order is nobody's business, unless one comes twice and is not the same, or too much waits.
        let mut numbers: Vec<u64> = pieces.iter().map(|piece| piece.number).collect();
        numbers.sort_unstable();
        if numbers.windows(2).all(|pair| pair[0] != pair[1]) && made.is_ok() {
            assert_eq!(polled(sorted.into_iter()), made);
        }
    }
    // Any pieces: the first byte of each line says its number, the second of how many it is.
    let lines = data.split(|byte| *byte == b'\n').filter(|line| line.len() >= 2);
    let pieces = lines.filter_map(|line| {
        let data = std::str::from_utf8(&line[2..]).ok()?;
        Some(longpoll::Piece { number: (line[0] & 7).into(), of: (line[1] & 3).into(), data })
    });
    for message in polled(pieces).unwrap_or_default() {
        longpoll::ends_transmission(&message);
    }
    let mut script = Vec::new();
    longpoll::response(7, [text.as_bytes()], &mut script);
    let script = String::from_utf8(script).expect("messages are text");
    assert!(script.starts_with("pRTLPCB(7,[") && script.ends_with("]);\n"));
    assert!(!script.contains(['\u{2028}', '\u{2029}']));
}

fn polled<'a>(pieces: impl Iterator<Item = longpoll::Piece<'a>>) -> Result<Vec<String>, longpoll::Broken> {
    let (mut state, mut messages) = (longpoll::Pieces::default(), Vec::new());
    for piece in pieces {
        state.take(piece, MESSAGE_BYTES_MAX, &mut messages)?;
        assert!(state.held() <= MESSAGE_BYTES_MAX);
    }
    assert!(messages.iter().all(|message| message.len() <= MESSAGE_BYTES_MAX));
    Ok(messages)
}
