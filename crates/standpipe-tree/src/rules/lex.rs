//! The words of an expression. What a `/` begins, a division or a regular expression, only the parser
//! knows; it asks for the latter by [`Lexer::regex`].

use std::ops::Range;

use super::error::Problem;

/// A word.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// The end of the expression.
    End,
    Number(f64),
    Text(String),
    /// A name or a word such as `true`; also `$name`.
    Name(String),
    /// An operator or a bracket, one of [`SYMBOLS`].
    Symbol(&'static str),
}

/// All operators and brackets, longer ones first. Those that are no part of the language are here so that a
/// refusal can name them whole.
const SYMBOLS: [&str; 38] = [
    "===", "!==", ">>>", "**", "==", "!=", "<=", ">=", "&&", "||", "++", "--", "=>", "??", "?.", "<<", ">>", "+=",
    "-=", "!", "<", ">", "+", "-", "*", "/", "%", "?", ":", "(", ")", "[", "]", ",", ".", "=", ";", "{",
];

/// Cuts an expression into words.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text, at: 0 }
    }

    /// The next word and where it is.
    pub(super) fn next(&mut self) -> Result<(Token, Range<usize>), Problem> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{FEFF}').len();
        let (start, rest) = (self.at, &self.text[self.at..]);
        let Some(first) = rest.chars().next() else { return Ok((Token::End, start..start)) };
        let token = match first {
            '0'..='9' => self.number()?,
            '.' if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number()?,
            '"' | '\'' => self.text(first)?,
            '/' if rest.starts_with("//") || rest.starts_with("/*") => {
                return Err(Problem::new(start..start + 2, "comments can't stand in an expression"));
            }
            first if begins_name(first) => Token::Name(self.name().to_owned()),
            _ => {
                let symbol = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol));
                let Some(symbol) = symbol else {
                    let span = start..start + first.len_utf8();
                    return Err(Problem::new(span, format!("{first:?} means nothing in an expression")));
                };
                self.at += symbol.len();
                Token::Symbol(symbol)
            }
        };
        Ok((token, start..self.at))
    }

    fn name(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !begins_name(c) && !c.is_ascii_digit()).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn digits(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    }

    fn number(&mut self) -> Result<Token, Problem> {
        let start = self.at;
        self.digits();
        if self.text[self.at..].starts_with('.') {
            self.at += 1;
            self.digits();
        }
        let exponent = self.text[self.at..].strip_prefix(['e', 'E']);
        if let Some(rest) = exponent.map(|rest| rest.strip_prefix(['+', '-']).unwrap_or(rest))
            && rest.starts_with(|c: char| c.is_ascii_digit())
        {
            self.at = self.text.len() - rest.len();
            self.digits();
        }
        let literal = &self.text[start..self.at];
        let octal = literal.len() > 1 && literal.starts_with('0') && literal.as_bytes()[1].is_ascii_digit();
        if octal || self.text[self.at..].starts_with(|c: char| begins_name(c) || c.is_ascii_digit()) {
            self.name();
            let message = "this is no number: write decimal digits, a fraction and an exponent at most";
            return Err(Problem::new(start..self.at, message));
        }
        match literal.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Token::Number(number)),
            _ => Err(Problem::new(start..self.at, "this number is too large")),
        }
    }

    fn text(&mut self, quote: char) -> Result<Token, Problem> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            let Some(next) = self.text[self.at..].chars().next() else {
                return Err(Problem::new(start..start + 1, "this string is never closed"));
            };
            let at = self.at;
            self.at += next.len_utf8();
            match next {
                next if next == quote => return Ok(Token::Text(text)),
                '\\' => match self.escape() {
                    Some(character) => text.push(character),
                    None => return Err(Problem::new(at..self.at, "this is no escape of a character")),
                },
                '\n' | '\r' => return Err(Problem::new(at..at + 1, "a string must end on its line")),
                next => text.push(next),
            }
        }
    }

    /// Reads what follows a backslash in a string.
    fn escape(&mut self) -> Option<char> {
        let letter = self.text[self.at..].chars().next()?;
        self.at += letter.len_utf8();
        match letter {
            'n' => Some('\n'),
            't' => Some('\t'),
            'r' => Some('\r'),
            'b' => Some('\u{8}'),
            'f' => Some('\u{C}'),
            'v' => Some('\u{B}'),
            'x' => char::from_u32(self.hex(2)?),
            'u' => {
                let first = self.hex(4)?;
                if !(0xD800..0xDC00).contains(&first) {
                    return char::from_u32(first);
                }
                self.at += self.text[self.at..].starts_with("\\u").then_some(2)?;
                let second = self.hex(4).filter(|unit| (0xDC00..0xE000).contains(unit))?;
                char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00))
            }
            '0' if !self.text[self.at..].starts_with(|c: char| c.is_ascii_digit()) => Some('\0'),
            letter if letter.is_alphanumeric() || letter.is_control() => None,
            letter => Some(letter),
        }
    }

    fn hex(&mut self, digits: usize) -> Option<u32> {
        let text = self.text.get(self.at..self.at + digits)?;
        if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        self.at += digits;
        u32::from_str_radix(text, 16).ok()
    }

    /// Reads the regular expression whose first `/` is at `start`: pattern, flags and the whole place.
    pub(super) fn regex(&mut self, start: usize) -> Result<(String, String, Range<usize>), Problem> {
        self.at = start + 1;
        let (mut escaped, mut class) = (false, false);
        for (at, next) in self.text[self.at..].char_indices() {
            match next {
                '\n' | '\r' => break,
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '[' => class = true,
                ']' => class = false,
                '/' if !class => {
                    let pattern = self.text[self.at..][..at].to_owned();
                    self.at += at + 1;
                    let flags = self.name().to_owned();
                    return Ok((pattern, flags, start..self.at));
                }
                _ => {}
            }
        }
        Err(Problem::new(start..start + 1, "this regular expression is never closed"))
    }
}

fn begins_name(c: char) -> bool {
    c.is_ascii_alphabetic() || matches!(c, '_' | '$')
}
