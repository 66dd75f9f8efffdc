//! Redis' patterns: `*`, `?`, `[a-z]`, `[^a]`, and `\` before what is meant as it is.

/// Does `pattern` match all of `text`? Time grows with the product of their lengths at most.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and how much of the text it has taken so far.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
            continue;
        }
        match one(&pattern[p.min(pattern.len())..], text[t]) {
            Some(used) => {
                p += used;
                t += 1;
            }
            None => match &mut star {
                Some((at, taken)) => {
                    *taken += 1;
                    (p, t) = (*at + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[p.min(pattern.len())..].iter().all(|byte| *byte == b'*')
}

/// Length of the pattern's first element when it matches `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'\\', literal, ..] => (*literal == byte).then_some(2),
        [b'[', class @ ..] => in_class(class, byte).map(|used| used + 1),
        [literal, ..] => (*literal == byte).then_some(1),
    }
}

/// Length of a class up to its bracket when it holds `byte`; one that is not closed ends with the pattern.
fn in_class(class: &[u8], byte: u8) -> Option<usize> {
    let (negated, mut at) = if class.first() == Some(&b'^') { (true, 1) } else { (false, 0) };
    let mut found = false;
    while at < class.len() && class[at] != b']' {
        let escaped = usize::from(class[at] == b'\\' && at + 1 < class.len());
        let low = class[at + escaped];
        at += 1 + escaped;
        if escaped == 0 && class.get(at) == Some(&b'-') && class.get(at + 1).is_some_and(|high| *high != b']') {
            let high = class[at + 1];
            found |= (low.min(high)..=low.max(high)).contains(&byte);
            at += 2;
        } else {
            found |= low == byte;
        }
    }
    (found != negated).then_some((at + 1).min(class.len()))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_in_redis() {
        let check = |pattern: &str, text: &str, expected: bool| {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        };
        check("*", "", true);
        check("*", "anything", true);
        check("h?llo", "hello", true);
        check("h?llo", "hllo", false);
        check("h*llo", "heeeello", true);
        check("h[ae]llo", "hallo", true);
        check("h[^e]llo", "hello", false);
        check("h[a-c]llo", "hbllo", true);
        check("h[c-a]llo", "hbllo", true);
        check("h\\*llo", "h*llo", true);
        check("h\\*llo", "hello", false);
        check("[\\]]", "]", true);
        check("[a", "a", true);
        check("[", "[", false);
        check("a*b*c", "aXbYbZc", true);
        check("a*b*c", "aXbYbZ", false);
        check("**a", "ba", true);
        check("", "", true);
        check("", "a", false);
        check("a", "", false);
        check("\\", "\\", true);
    }

    #[test]
    fn many_stars_take_no_forever() {
        let pattern = "a*".repeat(50) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(5_000).as_bytes()));
    }
}
