//! The records of a stream as each door says them: bytes, JSON objects, events, WebSocket messages, lines, entries
//! of RESP; and what is said beside records: that some are gone, and how the stream ended. Pure encoders; which
//! records, in which order and when is the caller's.
//!
//! Every form but the plain text is exact: what a record held can be had back from it, byte for byte.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use standpipe_tree::{Channel, StreamRecord, write_json_string};

use crate::resp::reply;
use crate::sse;
use crate::websocket::{self, Opcode};

/// How a stream ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End<'a> {
    /// `succeeded`, `failed`, …; what the one who ended it says.
    pub state: &'a str,
    /// The exit code, where a process had one.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Why, in a sentence.
    pub reason: Option<&'a str>,
}

fn number(number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// `"text":"…"`, or `"base64":"…"` for what is not UTF-8.
fn put_content(bytes: &[u8], out: &mut Vec<u8>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            out.extend_from_slice(b"\"text\":");
            write_json_string(text, out);
        }
        Err(_) => {
            out.extend_from_slice(b"\"base64\":\"");
            out.extend_from_slice(BASE64.encode(bytes).as_bytes());
            out.push(b'"');
        }
    }
}

/// Appends the bytes of a record as the stream's text has them: notes are no part of it.
pub fn put_text(record: &StreamRecord<'_>, out: &mut Vec<u8>) {
    if record.channel != Channel::Note {
        out.extend_from_slice(record.bytes);
    }
}

/// Appends `{"event":"out","seq":7,"at":…,"text":"…"}`.
pub fn put_json(record: &StreamRecord<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"event\":\"");
    out.extend_from_slice(record.channel.as_str().as_bytes());
    out.extend_from_slice(b"\",\"seq\":");
    number(record.seq, out);
    out.extend_from_slice(b",\"at\":");
    number(record.at_ms, out);
    out.push(b',');
    put_content(record.bytes, out);
    out.push(b'}');
}

/// Appends `{"event":"gap","first_left":9}`: what lies between the last record told, or the one asked for, and this one
/// is gone.
pub fn put_gap_json(first_left: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"event\":\"gap\",\"first_left\":");
    number(first_left, out);
    out.push(b'}');
}

/// Appends `{"event":"end","state":"failed","exit_code":2,…}`; what is not known is left out.
pub fn put_end_json(end: &End<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"event\":\"end\",\"state\":");
    write_json_string(end.state, out);
    for (name, code) in [("exit_code", end.exit_code), ("signal", end.signal)] {
        if let Some(code) = code {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            number(code, out);
        }
    }
    if let Some(reason) = end.reason {
        out.extend_from_slice(b",\"reason\":");
        write_json_string(reason, out);
    }
    out.push(b'}');
}

/// The end in words: `failed, exit code 2`.
pub fn end_words(end: &End<'_>) -> String {
    let mut words = end.state.replace('_', " ");
    if let Some(code) = end.exit_code {
        words += &format!(", exit code {code}");
    }
    if let Some(signal) = end.signal {
        words += &format!(", signal {signal}");
    }
    if let Some(reason) = end.reason {
        let reason: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        words += &format!(" ({reason})");
    }
    words
}

/// Appends a record as an event: its channel's name, its place as the id, and its JSON.
pub fn put_event(record: &StreamRecord<'_>, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
    scratch.clear();
    put_json(record, scratch);
    sse::encode(record.channel.as_str(), Some(record.seq), scratch, out);
}

/// Appends the text or binary message of a record: a line without its end, bytes that are not UTF-8 as they are. Notes
/// are left out.
pub fn put_message(record: &StreamRecord<'_>, out: &mut Vec<u8>) {
    if record.channel == Channel::Note {
        return;
    }
    let line = without_end(record.bytes);
    let opcode = if std::str::from_utf8(line).is_ok() { Opcode::Text } else { Opcode::Binary };
    websocket::put(opcode, line, out);
}

/// Appends the message that is a record's JSON.
pub fn put_json_message(record: &StreamRecord<'_>, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
    scratch.clear();
    put_json(record, scratch);
    websocket::put(Opcode::Text, scratch, out);
}

/// A line without its LF or CRLF; anything else as it is.
fn without_end(bytes: &[u8]) -> &[u8] {
    match bytes.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => bytes,
    }
}

/// Appends a record as a line of the line door about tail `id`:
/// `LINE id seq at channel text` for what is exactly one line, its LF being this line's;
/// `PART id seq at channel json` for anything else, a JSON string, or `{"base64":"…"}` for what is not UTF-8;
/// `NOTE id seq at json` for a note.
pub fn put_line(id: u64, record: &StreamRecord<'_>, out: &mut Vec<u8>) {
    let whole = match memchr::memchr(b'\n', record.bytes) {
        Some(end) => end + 1 == record.bytes.len() && record.channel != Channel::Note,
        None => false,
    };
    let note = record.channel == Channel::Note && memchr::memchr2(b'\n', b'\r', record.bytes).is_none();
    out.extend_from_slice(if whole {
        b"LINE "
    } else if note {
        b"NOTE "
    } else {
        b"PART "
    });
    number(id, out);
    out.push(b' ');
    number(record.seq, out);
    out.push(b' ');
    number(record.at_ms, out);
    out.push(b' ');
    if !note {
        out.extend_from_slice(record.channel.as_str().as_bytes());
        out.push(b' ');
    }
    if whole {
        return out.extend_from_slice(record.bytes);
    }
    match std::str::from_utf8(record.bytes) {
        _ if note => out.extend_from_slice(record.bytes),
        Ok(text) => write_json_string(text, out),
        Err(_) => {
            out.push(b'{');
            put_content(record.bytes, out);
            out.push(b'}');
        }
    }
    out.push(b'\n');
}

/// The id of a record in RESP: its place, and a second part that keeps the first record behind `0-0`.
pub fn entry_id(seq: u64) -> String {
    format!("{seq}-1")
}

/// Appends an entry of RESP: the id, and the fields `ch`, `at` and `data`.
pub fn put_entry(record: &StreamRecord<'_>, out: &mut Vec<u8>) {
    reply::array_head(2, out);
    reply::bulk(entry_id(record.seq).as_bytes(), out);
    reply::array_head(6, out);
    reply::bulk(b"ch", out);
    reply::bulk(record.channel.as_str().as_bytes(), out);
    reply::bulk(b"at", out);
    reply::bulk(itoa::Buffer::new().format(record.at_ms).as_bytes(), out);
    reply::bulk(b"data", out);
    reply::bulk(record.bytes, out);
}

/// Appends the entry behind the last one of a stream that has ended: `ch end`, and the outcome's fields.
pub fn put_end_entry(next_seq: u64, end: &End<'_>, out: &mut Vec<u8>) {
    let codes = [("exit_code", end.exit_code), ("signal", end.signal)];
    let codes = codes.into_iter().filter_map(|(name, code)| Some((name, code?.to_string())));
    let fields = [("ch", "end".to_owned()), ("state", end.state.to_owned())].into_iter();
    let reason = end.reason.map(|reason| ("reason", reason.to_owned()));
    let fields: Vec<_> = fields.chain(codes).chain(reason).collect();
    reply::array_head(2, out);
    reply::bulk(entry_id(next_seq).as_bytes(), out);
    reply::array_head(fields.len() * 2, out);
    for (name, value) in fields {
        reply::bulk(name.as_bytes(), out);
        reply::bulk(value.as_bytes(), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Put = fn(&StreamRecord<'_>, &mut Vec<u8>);

    fn record(channel: Channel, bytes: &[u8]) -> StreamRecord<'_> {
        StreamRecord { seq: 7, at_ms: 1_700, channel, bytes }
    }

    fn check(put: Put, channel: Channel, bytes: &[u8], expected: &[u8]) {
        let mut out = Vec::new();
        put(&record(channel, bytes), &mut out);
        let (got, want) = (String::from_utf8_lossy(&out), String::from_utf8_lossy(expected));
        assert_eq!(got, want, "{channel:?} {:?}", String::from_utf8_lossy(bytes));
        assert_eq!(out, expected);
    }

    #[test]
    fn text_is_the_bytes_without_notes() {
        check(put_text, Channel::Out, b"a\n", b"a\n");
        check(put_text, Channel::Err, b"\xff", b"\xff");
        check(put_text, Channel::Note, b"{}", b"");
    }

    #[test]
    fn json_holds_every_byte() {
        check(put_json, Channel::Out, b"a\n", br#"{"event":"out","seq":7,"at":1700,"text":"a\n"}"#);
        check(put_json, Channel::Err, b"", br#"{"event":"err","seq":7,"at":1700,"text":""}"#);
        check(put_json, Channel::Out, b"a\xff\n", br#"{"event":"out","seq":7,"at":1700,"base64":"Yf8K"}"#);
        check(put_json, Channel::Note, br#"{"a":1}"#, br#"{"event":"note","seq":7,"at":1700,"text":"{\"a\":1}"}"#);
        let mut seed = 0x1234_5678_9abc_def1_u64;
        for length in 0..300 {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    seed as u8
                })
                .collect();
            let mut out = Vec::new();
            put_json(&record(Channel::Out, &bytes), &mut out);
            let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let back = match json["base64"].as_str() {
                Some(text) => BASE64.decode(text).unwrap(),
                None => json["text"].as_str().unwrap().into(),
            };
            assert_eq!(back, bytes);
        }
    }

    #[test]
    fn events_have_their_place_as_id() {
        let put: Put = |record, out| put_event(record, &mut Vec::new(), out);
        let json = r#"{"event":"out","seq":7,"at":1700,"text":"a\r\n"}"#;
        check(put, Channel::Out, b"a\r\n", format!("event: out\nid: 7\ndata: {json}\n\n").as_bytes());
    }

    #[test]
    fn messages_are_lines_without_their_ends() {
        check(put_message, Channel::Out, b"ab\n", b"\x81\x02ab");
        check(put_message, Channel::Out, b"ab\r\n", b"\x81\x02ab");
        check(put_message, Channel::Err, b"ab", b"\x81\x02ab");
        check(put_message, Channel::Out, b"\n", b"\x81\x00");
        check(put_message, Channel::Out, b"\xff\n", b"\x82\x01\xff");
        check(put_message, Channel::Note, b"{}", b"");
        let put: Put = |record, out| put_json_message(record, &mut Vec::new(), out);
        let json = br#"{"event":"err","seq":7,"at":1700,"text":"a\n"}"#;
        check(put, Channel::Err, b"a\n", &[&[0x81, json.len() as u8][..], json].concat());
    }

    #[test]
    fn lines_are_told_whole_or_as_parts() {
        let put: Put = |record, out| put_line(3, record, out);
        check(put, Channel::Out, b"a b\n", b"LINE 3 7 1700 out a b\n");
        check(put, Channel::Err, b"\n", b"LINE 3 7 1700 err \n");
        check(put, Channel::Out, b"\xff\r\n", b"LINE 3 7 1700 out \xff\r\n");
        check(put, Channel::Out, b"50%", b"PART 3 7 1700 out \"50%\"\n");
        check(put, Channel::Out, b"a\nb\n", b"PART 3 7 1700 out \"a\\nb\\n\"\n");
        check(put, Channel::Out, b"\xff", b"PART 3 7 1700 out {\"base64\":\"/w==\"}\n");
        check(put, Channel::Out, b"", b"PART 3 7 1700 out \"\"\n");
        check(put, Channel::Note, b"{\"a\":1}", b"NOTE 3 7 1700 {\"a\":1}\n");
        check(put, Channel::Note, b"{\n}", b"PART 3 7 1700 note \"{\\n}\"\n");
    }

    #[test]
    fn entries_have_ids_that_rise() {
        let fields = "*6\r\n$2\r\nch\r\n$3\r\nout\r\n$2\r\nat\r\n$4\r\n1700\r\n$4\r\ndata\r\n$2\r\na\n\r\n";
        check(put_entry, Channel::Out, b"a\n", format!("*2\r\n$3\r\n7-1\r\n{fields}").as_bytes());
        let mut out = Vec::new();
        put_end_entry(8, &End { state: "failed", exit_code: Some(2), ..End::default() }, &mut out);
        let fields = "*6\r\n$2\r\nch\r\n$3\r\nend\r\n$5\r\nstate\r\n$6\r\nfailed\r\n$9\r\nexit_code\r\n$1\r\n2\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), format!("*2\r\n$3\r\n8-1\r\n{fields}"));
    }

    #[test]
    fn ends_are_said_in_json_and_in_words() {
        let check = |end: End<'_>, json: &str, words: &str| {
            let mut out = Vec::new();
            put_end_json(&end, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), json);
            assert_eq!(end_words(&end), words);
        };
        let ok = End { state: "succeeded", exit_code: Some(0), ..End::default() };
        check(ok, r#"{"event":"end","state":"succeeded","exit_code":0}"#, "succeeded, exit code 0");
        let killed = End { state: "timed_out", signal: Some(9), reason: Some("10 m\nare over"), ..End::default() };
        check(
            killed,
            r#"{"event":"end","state":"timed_out","signal":9,"reason":"10 m\nare over"}"#,
            "timed out, signal 9 (10 m are over)",
        );
        let mut out = Vec::new();
        put_gap_json(9, &mut out);
        assert_eq!(out, br#"{"event":"gap","first_left":9}"#);
    }

    #[test]
    fn channels_have_words() {
        for channel in [Channel::Out, Channel::Err, Channel::Note] {
            assert_eq!(Channel::parse(channel.as_str().as_bytes()), Some(channel));
        }
        assert_eq!(Channel::parse(b"end"), None);
    }
}
