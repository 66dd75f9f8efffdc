//! What a file holds for a value, and what value a file's content means. Pure: no file, no server.

use standpipe_tree::{Format, ParseLimits, Path, STRING_BYTES_MAX, parse_value, to_json, write_json_string};

/// How values look as files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Render {
    /// Bare: a string without quotes
    #[default]
    Text,
    /// JSON: a string has its quotes, so that nothing is taken for another type
    Json,
}

/// The largest file: the longest string and the newline behind it.
pub(super) const FILE_BYTES_MAX: usize = STRING_BYTES_MAX + 1;

/// The content means no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoValue {
    /// Not UTF-8.
    Encoding,
    /// With [`Render::Json`]: no JSON, or not that of a string, number or boolean.
    Json,
}

impl Render {
    /// The content for a leaf's JSON: a line. The empty string is an empty file. `None` for what is
    /// no leaf.
    pub(super) fn content(self, json: &[u8]) -> Option<Vec<u8>> {
        let mut content = match (json.first()?, self) {
            (b'{' | b'[' | b'n', _) => return None,
            (b'"', Self::Text) => serde_json::from_slice::<String>(json).ok()?.into_bytes(),
            _ => json.to_vec(),
        };
        if !content.is_empty() {
            content.push(b'\n');
        }
        Some(content)
    }

    /// The size of that content, for a leaf whose text has so many bytes; `None` where that does
    /// not tell.
    pub(super) fn size(self, text_bytes: u64) -> Option<u64> {
        (self == Self::Text).then_some(if text_bytes == 0 { 0 } else { text_bytes + 1 })
    }

    /// The JSON that `content` means. One newline at the end does not count, and nothing at all is
    /// the empty string.
    pub(super) fn value(self, content: &[u8]) -> Result<Vec<u8>, NoValue> {
        let text = std::str::from_utf8(content.strip_suffix(b"\n").unwrap_or(content));
        let text = text.map_err(|_| NoValue::Encoding)?;
        match self {
            Self::Text if is_literal(text) => Ok(text.into()),
            Self::Json if !text.trim().is_empty() => match text.trim().as_bytes() {
                [b'{' | b'[', ..] | b"null" => Err(NoValue::Json),
                json if is_json(json) => Ok(json.into()),
                _ => Err(NoValue::Json),
            },
            _ => {
                let mut json = Vec::with_capacity(text.len() + 2);
                write_json_string(text, &mut json);
                Ok(json)
            }
        }
    }
}

/// Is this text, as it stands, a number or a boolean? Digits that would be rounded are text: they are no
/// quantity but a name.
fn is_literal(text: &str) -> bool {
    let of_number = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
    if !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) || !text.bytes().all(of_number) {
        return matches!(text, "true" | "false");
    }
    parse_value(text.as_bytes(), &ParseLimits::below(&Path::root())).is_ok_and(|rows| {
        let Ok(json) = to_json(&mut rows.cursor(), Format::Plain);
        text.contains(['.', 'e', 'E']) || json == text.as_bytes()
    })
}

fn is_json(json: &[u8]) -> bool {
    parse_value(json, &ParseLimits::below(&Path::root())).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_lines_of_text() {
        let check = |json: &str, content: &str| {
            assert_eq!(Render::Text.content(json.as_bytes()).as_deref(), Some(content.as_bytes()), "{json}");
            assert_eq!(Render::Text.value(content.as_bytes()).unwrap(), json.as_bytes(), "{content:?}");
        };
        check("21.5", "21.5\n");
        check("-3", "-3\n");
        check("9007199254740993", "9007199254740993\n");
        check("true", "true\n");
        check("\"hello\"", "hello\n");
        check("\"\"", "");
        check("\"\\n\"", "\n\n");
        check("\"a\\nb\\n\"", "a\nb\n\n");
        check("\"null\"", "null\n");
        check("\"007\"", "007\n");
        check("\"1e999\"", "1e999\n");
        check("\"12345678901234567890123\"", "12345678901234567890123\n");
        check("\" 5\"", " 5\n");
        check("\"{}\"", "{}\n");
        check("\"é\\t\\\"\"", "é\t\"\n");
    }

    #[test]
    fn the_newline_is_optional_and_text_may_become_a_number() {
        let check = |content: &[u8], json: &str| assert_eq!(Render::Text.value(content).unwrap(), json.as_bytes());
        check(b"21.5", "21.5");
        check(b"hello", "\"hello\"");
        check(b"\n", "\"\"");
        assert_eq!(Render::Text.value(b"\xff"), Err(NoValue::Encoding));
        assert_eq!(Render::Text.content(b"\"21.5\"").unwrap(), b"21.5\n");
        assert_eq!(["{}", "[1]", "null", ""].map(|json| Render::Text.content(json.as_bytes())), [const { None }; 4]);
    }

    #[test]
    fn json_keeps_types() {
        let check = |json: &str, content: &str| {
            assert_eq!(Render::Json.content(json.as_bytes()).as_deref(), Some(content.as_bytes()), "{json}");
            assert_eq!(Render::Json.value(content.as_bytes()).unwrap(), json.as_bytes(), "{content:?}");
        };
        check("21.5", "21.5\n");
        check("\"21.5\"", "\"21.5\"\n");
        check("\"\"", "\"\"\n");
        assert_eq!(Render::Json.value(b"").unwrap(), b"\"\"");
        assert_eq!(Render::Json.value(b" true \n").unwrap(), b"true");
        for wrong in ["hello", "{}", "[1]", "null", "1 2", "\"a", "12345678901234567890"] {
            assert_eq!(Render::Json.value(wrong.as_bytes()), Err(NoValue::Json), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_those_of_the_content() {
        for text in ["", "a", "é", "21.5"] {
            let json = Render::Text.value(text.as_bytes()).unwrap();
            let content = Render::Text.content(&json).unwrap();
            assert_eq!(Render::Text.size(text.len() as u64), Some(content.len() as u64));
        }
    }
}
