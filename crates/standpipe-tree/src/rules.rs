//! The text of rules: JSON with comments and one member, `rules` (firebase-rtdb §11.1). What the
//! rules say is not read yet; a text that could never be rules is refused before it is stored.

use serde::de::IgnoredAny;

/// Why a text can't be rules.
#[derive(Debug, thiserror::Error)]
pub enum RulesTextError {
    /// No JSON, comments aside.
    #[error("{line}:{column}: {text}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong there.
        text: String,
    },
    /// JSON, but not an object whose one member is `rules`, an object.
    #[error("1:1: the rules must be an object with one member, \"rules\", that is an object")]
    Shape,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "rules")]
    _rules: std::collections::HashMap<String, IgnoredAny>,
}

/// Could `text` be rules?
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn check_rules_text(text: &str) -> Result<(), RulesTextError> {
    let plain = without_comments(text);
    match serde_json::from_str::<Document>(&plain) {
        Ok(_) => Ok(()),
        Err(error) if error.is_data() => Err(RulesTextError::Shape),
        Err(error) => {
            Err(RulesTextError::Syntax { line: error.line(), column: error.column(), text: error.to_string() })
        }
    }
}

/// The text with its comments turned into spaces, so that places stay where they are.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let mut in_string = false;
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some(_)) if in_string => {
                out.push(c);
                out.extend(chars.next());
            }
            ('"', _) => {
                in_string = !in_string;
                out.push(c);
            }
            ('/', Some('/')) if !in_string => {
                out.push(' ');
                while let Some(c) = chars.next_if(|c| *c != '\n') {
                    out.extend(std::iter::repeat_n(' ', c.len_utf8()));
                }
            }
            ('/', Some('*')) if !in_string => {
                out.push(' ');
                let mut last = ' ';
                for c in chars.by_ref() {
                    out.push(if c == '\n' { '\n' } else { ' ' });
                    if last == '*' && c == '/' {
                        break;
                    }
                    last = c;
                }
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(), &str>) {
        let got = check_rules_text(text).map_err(|error| error.to_string());
        match expected {
            Ok(()) => assert_eq!(got, Ok(()), "{text}"),
            Err(part) => assert!(got.as_ref().is_err_and(|error| error.contains(part)), "{text}: {got:?}"),
        }
    }

    #[test]
    fn rules_are_an_object_with_comments() {
        check(r#"{"rules":{}}"#, Ok(()));
        check("// all\n{\"rules\": /* open */ {\".read\": \"auth != null // no comment\", \"a\": {}}}", Ok(()));
        check(r#"{"rules":{".read":"'\"' == '/*'"}}"#, Ok(()));
        check("{\n  \"rules\": {,}\n}", Err("2:"));
        check(r#"{"rules":true}"#, Err("one member"));
        check(r#"{"rules":{},"other":1}"#, Err("one member"));
        check("[]", Err("one member"));
        check("", Err("1:"));
        check("/* never ended", Err(":"));
    }
}
