//! Durations and sizes as people write them: `10s`, `1m30s`, `64MiB`. One reading for files, requests and arguments.

/// Units of time, longest name first where one begins as another does.
const TIMES: &[(&str, u64)] = &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
/// Units of size.
const SIZES: &[(&str, u64)] = &[
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// Longest duration that may be named, in milliseconds: ten years. Keeps arithmetic with clocks far from overflow.
const DURATION_MS_MAX: u64 = 10 * 366 * 86_400_000;

/// Milliseconds of a text such as `10s`, `500ms`, `1h30m`, `2d`.
///
/// # Errors
/// A sentence that says what a duration looks like, for whoever wrote it.
pub fn duration_ms(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no duration; write for example \"500ms\", \"10s\", \"1h30m\" or \"2d\"");
    let (mut rest, mut sum) = (text, 0_u64);
    loop {
        let (number, after) = leading_number(rest).ok_or_else(wrong)?;
        let (unit, factor) = *TIMES.iter().find(|(unit, _)| is_unit(after, unit)).ok_or_else(wrong)?;
        sum = number.checked_mul(factor).and_then(|ms| sum.checked_add(ms)).ok_or_else(wrong)?;
        rest = &after[unit.len()..];
        if rest.is_empty() {
            break;
        }
    }
    if sum > DURATION_MS_MAX { Err(format!("{text:?} is longer than ten years")) } else { Ok(sum) }
}

/// Bytes of a text such as `64MiB`, `10KB`, `512B`.
///
/// # Errors
/// A sentence that says what a size looks like.
pub fn size_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size; write for example \"512B\", \"64KiB\", \"10MB\" or \"1GiB\"");
    let (number, unit) = leading_number(text).ok_or_else(wrong)?;
    let (_, factor) = SIZES.iter().find(|(name, _)| unit.trim_start() == *name).ok_or_else(wrong)?;
    number.checked_mul(*factor).ok_or_else(wrong)
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    Some((text[..digits].parse().ok()?, &text[digits..]))
}

/// Whether `text` begins with this unit and not with a longer word.
fn is_unit(text: &str, unit: &str) -> bool {
    text.strip_prefix(unit).is_some_and(|rest| rest.bytes().next().is_none_or(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_or_refused_with_an_example() {
        let durations =
            [("0s", 0), ("500ms", 500), ("10s", 10_000), ("1m30s", 90_000), ("1h", 3_600_000), ("2d", 172_800_000)];
        for (text, ms) in durations {
            assert_eq!(duration_ms(text), Ok(ms), "{text}");
        }
        for bad in ["", "10", "s", "1.5s", "-1s", "10 s", "10S", "1x", "1sx", "9999d", "99999999999999999999s", "é"] {
            assert!(duration_ms(bad).is_err(), "{bad}");
        }
        for (text, bytes) in [("0B", 0), ("512B", 512), ("64 KiB", 65_536), ("10MB", 10_000_000), ("1GiB", 1 << 30)] {
            assert_eq!(size_bytes(text), Ok(bytes), "{text}");
        }
        for bad in ["", "10", "KiB", "1.5MiB", "-1B", "1kb", "99999999TiB", "18446744073709551616B"] {
            assert!(size_bytes(bad).is_err(), "{bad}");
        }
    }
}
