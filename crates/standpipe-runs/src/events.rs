//! Lines of output that say something to us instead of to a reader: `::progress 0.4 text`, `::output name=value`,
//! and lines of JSON after a prefix that the command declares. What is not exactly such a line is plain output,
//! so a program that happens to print two colons loses nothing. Pure; who acts on an event is the supervisor's business.

use serde_json::{Value, json};

use crate::record::Progress;

/// Longest text of a progress, in bytes; the rest is left off. It is a value of the tree that changes often.
const PROGRESS_TEXT_BYTES_MAX: usize = 256;
/// Longest name of an output: it becomes a part of variables and conditions.
const OUTPUT_NAME_BYTES_MAX: usize = 64;
/// Longest value of an output. Outputs are stored in the record of the run; a file is an artefact.
pub(crate) const OUTPUT_VALUE_BYTES_MAX: usize = 4 << 10;
/// Outputs that one task may have; more are refused with a note.
pub(crate) const OUTPUTS_MAX: usize = 64;

/// What a line says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LineEvent {
    /// How far the task is.
    Progress(Progress),
    /// A value for later tasks.
    Output {
        /// By which they ask for it.
        name: String,
        /// The value.
        value: String,
    },
    /// An event of the program's own, an object, for whoever watches.
    Own(Value),
}

impl LineEvent {
    /// The JSON text of the note that takes the line's place in the stream. An event of the program's own is
    /// wrapped, so that it can't pass for one of ours.
    pub(crate) fn note(&self) -> String {
        match self {
            Self::Progress(Progress { fraction, text }) => {
                json!({"event": "progress", "fraction": fraction, "text": text})
            }
            Self::Output { name, value } => json!({"event": "output", "name": name, "value": value}),
            Self::Own(data) => json!({"event": "own", "data": data}),
        }
        .to_string()
    }
}

/// What a whole line (with or without its newline) says, if it says anything. Costs two comparisons for a line
/// that does not.
pub(crate) fn parse(line: &[u8], prefix: Option<&str>) -> Option<LineEvent> {
    if let Some(rest) = line.strip_prefix(b"::") {
        let text = std::str::from_utf8(without_newline(rest)).ok()?;
        let (word, rest) = text.split_once(' ')?;
        return match word {
            "progress" => progress_line(rest),
            "output" => output_line(rest),
            _ => None,
        };
    }
    let prefix = prefix.filter(|prefix| !prefix.is_empty())?;
    json_line(line.strip_prefix(prefix.as_bytes())?)
}

fn without_newline(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// `0.4 text`.
fn progress_line(rest: &str) -> Option<LineEvent> {
    let rest = rest.trim();
    let (fraction, text) = rest.split_once(' ').unwrap_or((rest, ""));
    progress(fraction.parse().ok()?, text.trim_start())
}

fn progress(fraction: f64, text: &str) -> Option<LineEvent> {
    let text = text[..text.floor_char_boundary(PROGRESS_TEXT_BYTES_MAX)].to_owned();
    (0.0..=1.0).contains(&fraction).then_some(LineEvent::Progress(Progress { fraction, text }))
}

/// `name=value`.
fn output_line(rest: &str) -> Option<LineEvent> {
    let (name, value) = rest.trim_start().split_once('=')?;
    output(name, value)
}

fn output(name: &str, value: &str) -> Option<LineEvent> {
    let fits = is_output_name(name) && value.len() <= OUTPUT_VALUE_BYTES_MAX && !value.contains('\0');
    fits.then(|| LineEvent::Output { name: name.to_owned(), value: value.to_owned() })
}

/// Whether an output may be called so: 1 to 64 of `A-Z a-z 0-9 _ -`.
pub(crate) fn is_output_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=OUTPUT_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(good)
}

/// An object: `{"event":"progress","fraction":0.4,"text":"…"}`, `{"event":"output","name":"…","value":"…"}`, or
/// any other.
fn json_line(rest: &[u8]) -> Option<LineEvent> {
    let value: Value = serde_json::from_slice(rest).ok().filter(Value::is_object)?;
    let text = |key: &str| value[key].as_str();
    match text("event") {
        Some("progress") => progress(value["fraction"].as_f64()?, text("text").unwrap_or("")),
        Some("output") => output(text("name")?, text("value")?),
        _ => Some(LineEvent::Own(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, note: Option<&str>) {
        let parsed = parse(line.as_bytes(), Some("@event ")).map(|event| event.note());
        assert_eq!(parsed.as_deref(), note, "{line:?}");
    }

    #[test]
    fn a_line_is_an_event_or_output_and_never_half_of_it() {
        let progress = |fraction, text| format!(r#"{{"event":"progress","fraction":{fraction},"text":"{text}"}}"#);
        check("::progress 0.4 compiling the rest\n", Some(&progress("0.4", "compiling the rest")));
        check("::progress 1\r\n", Some(&progress("1.0", "")));
        check("::progress 0", Some(&progress("0.0", "")));
        for bad in ["1.1 x", "-0.1", "NaN", "inf", "x", "", "40%", "0,4"] {
            check(&format!("::progress {bad}\n"), None);
        }
        check("::output version=1.2=3 \n", Some(r#"{"event":"output","name":"version","value":"1.2=3 "}"#));
        check("::output empty=\n", Some(r#"{"event":"output","name":"empty","value":""}"#));
        for bad in ["", "x", "=x", "a b=c", "a.b=c", "é=1", "n\0=1", "n=\0"] {
            check(&format!("::output {bad}\n"), None);
        }
        check(&format!("::output x={}", "v".repeat(OUTPUT_VALUE_BYTES_MAX + 1)), None);
        for plain in ["", "\n", ":", "::", "::progress", "::error x", " ::progress 0.4", "x ::output a=b", "@event"] {
            check(plain, None);
        }
    }

    #[test]
    fn json_lines_are_events_where_they_are_declared() {
        check(
            "@event {\"event\":\"progress\",\"fraction\":0.5}\n",
            Some(r#"{"event":"progress","fraction":0.5,"text":""}"#),
        );
        check(
            r#"@event {"event":"output","name":"a","value":"b"}"#,
            Some(r#"{"event":"output","name":"a","value":"b"}"#),
        );
        // What would be a note of ours is wrapped as any other.
        check(r#"@event {"event":"started"}"#, Some(r#"{"data":{"event":"started"},"event":"own"}"#));
        for bad in
            ["", "{", "1", "[]", "\"x\"", r#"{"event":"progress"}"#, r#"{"event":"output","name":"a","value":1}"#]
        {
            check(&format!("@event {bad}\n"), None);
        }
        assert_eq!(parse(br#"@event {"a":1}"#, None), None);
        assert_eq!(parse(b"{}", Some("")), None, "an empty prefix declares nothing");
        assert_eq!(parse(b"::progress 0.4 \xff", None), None);
        let deep = format!("@event {}", "[".repeat(1 << 20));
        check(&deep, None);
    }

    #[test]
    fn a_long_text_of_a_progress_is_cut_between_characters() {
        let Some(LineEvent::Progress(progress)) =
            parse(format!("::progress 0.5 x{}", "é".repeat(300)).as_bytes(), None)
        else {
            panic!("it is one");
        };
        assert_eq!(progress.text.len(), 255);
    }
}
