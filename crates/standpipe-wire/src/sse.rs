//! Server-sent events (`text/event-stream`): an encoder, and a decoder fed in arbitrary pieces.
//! Owns the framing only; what the events mean, and when to reconnect, is the caller's.
//!
//! ```
//! use standpipe_wire::sse::{Decoder, encode};
//! let mut bytes = Vec::new();
//! encode("put", Some(7), b"1", &mut bytes);
//! assert_eq!(bytes, b"event: put\nid: 7\ndata: 1\n\n");
//! let event = Decoder::new(1024).decode(&mut &bytes[..]).unwrap().unwrap();
//! assert_eq!((event.name.as_str(), event.data.as_str()), ("put", "1"));
//! ```

/// Appends one event. Every line of `data` (ended by LF, CR or CRLF) becomes a `data:` line of
/// its own, so a decoder gives back the same lines joined by LF.
///
/// `name` comes from the program, never from a peer: it holds no line end.
pub fn encode(name: &str, id: Option<u64>, data: &[u8], out: &mut Vec<u8>) {
    debug_assert!(!name.contains(['\n', '\r']), "an event name is one line");
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    if let Some(id) = id {
        out.extend_from_slice(b"\nid: ");
        out.extend_from_slice(itoa::Buffer::new().format(id).as_bytes());
    }
    out.push(b'\n');
    let mut rest = Some(data);
    while let Some(data) = rest {
        let (line, after) = split_line(data);
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
        rest = after;
    }
    out.push(b'\n');
}

/// The first line, and what follows its end if it has one.
fn split_line(data: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr2(b'\n', b'\r', data) {
        None => (data, None),
        Some(end) => {
            let width = if data[end..].starts_with(b"\r\n") { 2 } else { 1 };
            (&data[..end], Some(&data[end + width..]))
        }
    }
}

/// One decoded event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The event's name; `message` where the stream gave none.
    pub name: String,
    /// The data lines joined by LF. Invalid UTF-8 is replaced, as browsers do.
    pub data: String,
    /// The last id the stream gave, in this event or an earlier one.
    pub id: Option<String>,
}

/// An event is larger than the decoder's limit; the stream can't be followed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is larger than {bytes_max} bytes")]
pub struct TooLarge {
    /// The limit that was passed.
    pub bytes_max: usize,
}

/// An incremental decoder: keeps at most one event's bytes, never more than its limit.
#[derive(Debug)]
pub struct Decoder {
    bytes_max: usize,
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// A CR ended the last line: an LF that comes next belongs to it.
    after_cr: bool,
    /// Only the first line may start with a byte order mark.
    started: bool,
    name: Vec<u8>,
    /// Data lines so far, each followed by LF.
    data: Vec<u8>,
    id: Option<String>,
    retry_ms: Option<u64>,
}

impl Decoder {
    /// A decoder that refuses events (and single lines) of more than `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            line: Vec::new(),
            after_cr: false,
            started: false,
            name: Vec::new(),
            data: Vec::new(),
            id: None,
            retry_ms: None,
        }
    }

    /// Consumes `input` up to the end of the next event. `Ok(None)` means that all of it was
    /// consumed and more is needed.
    ///
    /// # Errors
    /// [`TooLarge`]; give the stream up then.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Event>, TooLarge> {
        while let Some(&first) = input.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                *input = &input[1..];
                continue;
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', input) else {
                self.extend(input)?;
                *input = &[];
                break;
            };
            self.extend(&input[..end])?;
            self.after_cr = input[end] == b'\r';
            *input = &input[end + 1..];
            if let Some(event) = self.end_line() {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// The pause before reconnecting that the stream asked for, in milliseconds.
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), TooLarge> {
        if self.line.len() + self.name.len() + self.data.len() + bytes.len() > self.bytes_max {
            return Err(TooLarge { bytes_max: self.bytes_max });
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self) -> Option<Event> {
        let mut line = std::mem::take(&mut self.line);
        if !std::mem::replace(&mut self.started, true) && line.starts_with(b"\xEF\xBB\xBF") {
            line.drain(..3);
        }
        if line.is_empty() {
            return self.end_event();
        }
        let (field, value) = match memchr::memchr(b':', &line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (&line[..], &[][..]),
        };
        self.field(field, value.strip_prefix(b" ").unwrap_or(value));
        line.clear();
        self.line = line; // keeps its room
        None
    }

    /// Unknown fields and comments (an empty name) are ignored, as the standard says.
    fn field(&mut self, field: &[u8], value: &[u8]) {
        match field {
            b"event" => value.clone_into(&mut self.name),
            b"data" => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"id" if !value.contains(&0) => self.id = Some(text(value)),
            b"retry" if value.iter().all(u8::is_ascii_digit) => {
                self.retry_ms = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
            }
            _ => {}
        }
    }

    /// An event without a data line is none.
    fn end_event(&mut self) -> Option<Event> {
        let name = std::mem::take(&mut self.name);
        let data = std::mem::take(&mut self.data);
        let data = data.strip_suffix(b"\n")?;
        let name = if name.is_empty() { "message".to_owned() } else { text(&name) };
        Some(Event { name, data: text(data), id: self.id.clone() })
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(decoder: &mut Decoder, mut input: &[u8], into: &mut Vec<Event>) -> Result<(), TooLarge> {
        while let Some(event) = decoder.decode(&mut input)? {
            into.push(event);
        }
        assert!(input.is_empty(), "all input is consumed");
        Ok(())
    }

    /// Decodes in one piece, byte by byte, and in every split in two: all agree.
    fn decode_all(input: &[u8], bytes_max: usize) -> Result<Vec<Event>, TooLarge> {
        let run = |pieces: &[&[u8]]| {
            let (mut decoder, mut events) = (Decoder::new(bytes_max), Vec::new());
            pieces.iter().try_for_each(|piece| feed(&mut decoder, piece, &mut events)).map(|()| events)
        };
        let whole = run(&[input]);
        assert_eq!(run(&input.chunks(1).collect::<Vec<_>>()), whole, "byte by byte");
        for at in 0..=input.len() {
            assert_eq!(run(&[&input[..at], &input[at..]]), whole, "split at {at}");
        }
        whole
    }

    fn check(input: &str, expected: &[(&str, &str, Option<&str>)]) {
        let events = decode_all(input.as_bytes(), 1_000).expect("fits");
        let got: Vec<_> = events.iter().map(|e| (e.name.as_str(), e.data.as_str(), e.id.as_deref())).collect();
        assert_eq!(got, expected, "{input:?}");
    }

    #[test]
    fn decodes_what_the_standard_says() {
        check("", &[]);
        check("data: a\n\n", &[("message", "a", None)]);
        check("data:a\r\n\r\n", &[("message", "a", None)]);
        check("data: a\r\rdata: b\r\r", &[("message", "a", None), ("message", "b", None)]);
        check("data:  two spaces\n\n", &[("message", " two spaces", None)]);
        check("data\n\n", &[("message", "", None)]);
        check("data: a\ndata: b\n\n", &[("message", "a\nb", None)]);
        check("data: a\ndata:\n\n", &[("message", "a\n", None)]);
        check("event: put\ndata: 1\n\ndata: 2\n\n", &[("put", "1", None), ("message", "2", None)]);
        check("id: 5\ndata: 1\n\ndata: 2\n\n", &[("message", "1", Some("5")), ("message", "2", Some("5"))]);
        check("id: 5\n\nid\ndata: 2\n\n", &[("message", "2", Some(""))]);
        check("id: a\0b\ndata: 1\n\n", &[("message", "1", None)]);
        check(": comment\nunknown: x\nretry: 12\ndata: 1\n\n", &[("message", "1", None)]);
        check("event: lost\n\ndata: 1\n\n", &[("message", "1", None)]);
        check("\u{feff}data: 1\n\n\u{feff}data: 2\n\n", &[("message", "1", None)]);
        check("\n\n\ndata: a: b\n\n", &[("message", "a: b", None)]);
        check("data: complete\n\ndata: truncated\n", &[("message", "complete", None)]);
        check("data: é日\n\n", &[("message", "é日", None)]);
    }

    #[test]
    fn invalid_text_is_replaced() {
        let events = decode_all(b"data: a\xFFb\n\n", 100).expect("fits");
        assert_eq!(events[0].data, "a\u{fffd}b");
    }

    #[test]
    fn retry_is_remembered_only_when_it_is_a_number() {
        let mut decoder = Decoder::new(100);
        feed(&mut decoder, b"retry: 250\nretry: 1e3\nretry: 99999999999999999999\n", &mut Vec::new()).expect("fits");
        assert_eq!(decoder.retry_ms(), None, "a number too large to hold counts as none");
        feed(&mut decoder, b"retry: 250\nretry: 1e3\n", &mut Vec::new()).expect("fits");
        assert_eq!(decoder.retry_ms(), Some(250));
    }

    #[test]
    fn an_event_over_the_limit_is_refused() {
        let over = Err(TooLarge { bytes_max: 16 });
        assert_eq!(decode_all(b"data: 0123456789", 16).map(|events| events.len()), Ok(0));
        assert_eq!(decode_all(b"data: 0123456789a", 16), over, "one line");
        assert_eq!(decode_all(b"data: 0123456\ndata: 01234\n\n", 16), over, "several lines");
        assert_eq!(decode_all(b": a comment without an end", 16), over);
        let fits = b"data: 0\n\n".repeat(100);
        assert_eq!(decode_all(&fits, 16).map(|events| events.len()), Ok(100), "the limit is per event");
    }

    #[test]
    fn encodes_every_line_of_data() {
        let check = |name, id, data: &str, expected: &str| {
            let mut out = Vec::new();
            encode(name, id, data.as_bytes(), &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        };
        check("put", Some(7), "{}", "event: put\nid: 7\ndata: {}\n\n");
        check("keep-alive", None, "null", "event: keep-alive\ndata: null\n\n");
        check("put", Some(u64::MAX), "", "event: put\nid: 18446744073709551615\ndata: \n\n");
        check("x", None, "a\nb\r\nc\rd\n", "event: x\ndata: a\ndata: b\ndata: c\ndata: d\ndata: \n\n");
    }

    proptest! {
        #[test]
        fn encoded_events_come_back(data in "[a-z:é \n\r\t]{0,40}", id in any::<Option<u64>>()) {
            let mut bytes = Vec::new();
            encode("put", id, data.as_bytes(), &mut bytes);
            let events = decode_all(&bytes, 10_000).expect("fits");
            let expected = data.replace("\r\n", "\n").replace('\r', "\n");
            prop_assert_eq!(events, vec![Event { name: "put".into(), data: expected, id: id.map(|id| id.to_string()) }]);
        }

        #[test]
        fn random_bytes_decode_alike_in_any_pieces(bytes in prop::collection::vec(
            prop_oneof![any::<u8>(), Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'd')], 0..80)) {
            let _ = decode_all(&bytes, 24);
        }
    }
}
