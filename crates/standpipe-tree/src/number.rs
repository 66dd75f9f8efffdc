//! Numbers as text: exact integers, and doubles as JavaScript prints them.

/// The largest magnitude up to which doubles hold every integer.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// The integer a double stands for, if that is exact and the same number in every respect.
///
/// Negative zero is not the integer 0: it hashes differently.
pub(crate) fn exact_integer(number: f64) -> Option<i64> {
    let integer = number.fract() == 0.0 && number.abs() <= EXACT_MAX && (number != 0.0 || number.is_sign_positive());
    integer.then_some(number as i64)
}

/// Appends `number` as JSON text.
///
/// Integral numbers below 1e21 have neither fraction nor exponent, as in JavaScript; others are the
/// shortest text that reads back as the same double. Not finite, which no leaf is: `null`.
pub(crate) fn write_double(number: f64, out: &mut Vec<u8>) {
    if let Some(integer) = exact_integer(number) {
        return out.extend_from_slice(itoa::Buffer::new().format(integer).as_bytes());
    }
    if !number.is_finite() {
        return out.extend_from_slice(b"null");
    }
    let mut buffer = ryu::Buffer::new();
    let shortest = buffer.format_finite(number);
    match shortest.split_once('e') {
        Some((mantissa, exponent)) if number.fract() == 0.0 && number.abs() < 1e21 => {
            let exponent: usize = exponent.parse().expect("ryu writes large numbers with a positive exponent");
            let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
            out.extend_from_slice(whole.as_bytes());
            out.extend_from_slice(fraction.as_bytes());
            out.extend(std::iter::repeat_n(b'0', exponent - fraction.len()));
        }
        _ => out.extend_from_slice(shortest.strip_suffix(".0").unwrap_or(shortest).as_bytes()),
    }
}

/// Whether the double nearest to an integer literal prints as that literal again.
pub(crate) fn prints_back(literal: &str) -> bool {
    let mut text = Vec::new();
    literal.parse().is_ok_and(|number| {
        write_double(number, &mut text);
        text == literal.as_bytes()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(number: f64, expected: &str) {
        let mut out = Vec::new();
        write_double(number, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert_eq!(expected.parse::<f64>().unwrap().to_bits(), number.to_bits());
    }

    #[test]
    fn doubles_print_as_in_javascript() {
        for (number, expected) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-2.5, "-2.5"),
            (0.1, "0.1"),
            (1e15, "1000000000000000"),
            (9_007_199_254_740_992.0, "9007199254740992"),
            (9_007_199_254_740_994.0, "9007199254740994"),
            (123_456_789_012_345_680.0, "123456789012345680"),
            (-1e20, "-100000000000000000000"),
            (18_446_744_073_709_552_000.0, "18446744073709552000"),
            (1e21, "1e21"),
            (1.5e300, "1.5e300"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e308"),
        ] {
            check(number, expected);
        }
    }

    #[test]
    fn large_integer_literals() {
        assert!(prints_back("18446744073709552000"));
        assert!(!prints_back("18446744073709551615"));
        assert!(prints_back("-9223372036854776000"));
        assert!(!prints_back("9007199254740993"));
    }

    proptest::proptest! {
        #[test]
        fn every_double_reads_back(bits: u64) {
            let number = f64::from_bits(bits);
            if number.is_finite() {
                let mut out = Vec::new();
                write_double(number, &mut out);
                let text = String::from_utf8(out).unwrap();
                proptest::prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), bits);
            }
        }
    }
}
