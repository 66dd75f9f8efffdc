//! Integers beyond 64 bits, which arrive as doubles: kept only if they print back as the same digits.

use super::ParseError;
use crate::number::prints_back;

/// The longest literal that is held to its digits; longer ones are plainly meant as doubles (ADR 0004).
const DIGITS_MAX: usize = 20;

/// Whether `number` may have come from an integer literal with other digits.
pub(super) fn may_be_rounded(number: f64) -> bool {
    number.fract() == 0.0 && (9.2e18..=1e20).contains(&number.abs())
}

/// Looks through a valid JSON text for an integer literal that would be changed by being stored.
pub(super) fn check(json: &str) -> Result<(), ParseError> {
    let mut rest = json.as_bytes();
    while let Some(start) = rest.iter().position(|byte| matches!(byte, b'"' | b'-' | b'0'..=b'9')) {
        rest = &rest[start..];
        let len = if rest[0] == b'"' { string_len(rest) } else { number_len(rest) };
        let literal = std::str::from_utf8(&rest[..len]).unwrap_or("\"");
        if literal.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit())
            && literal.len() <= DIGITS_MAX + usize::from(literal.starts_with('-'))
            && literal.parse::<i64>().is_err()
            && !prints_back(literal)
        {
            let at = format!("byte {}", json.len() - rest.len());
            return Err(ParseError::Number { at, literal: literal.to_owned() });
        }
        rest = &rest[len..];
    }
    Ok(())
}

fn number_len(json: &[u8]) -> usize {
    let is_part = |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
    json.iter().position(|byte| !is_part(byte)).unwrap_or(json.len())
}

fn string_len(json: &[u8]) -> usize {
    let mut at = 1;
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    json.len()
}
