//! Tables of commands and replies, each fed in every split; random input against the same.

use proptest::prelude::*;

use super::reply::{self, Version};
use super::value::{self, Value};
use super::*;

const LIMITS: DecodeLimits = DecodeLimits { args_max: 9, bulk_bytes_max: 12, inline_bytes_max: 40 };

/// The commands of a stream, and how it ends: an error, or bytes that are no whole command yet.
type Decodes = (Vec<Vec<Vec<u8>>>, Result<Vec<u8>, ProtocolError>);

fn feed(pieces: &[&[u8]]) -> Decodes {
    let (mut input, mut commands, mut needed) = (Vec::new(), Vec::new(), 1);
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            let mut unquoted = Vec::new();
            let used = match decode(&input, &mut unquoted, &LIMITS) {
                Ok(Decoded::Command(command, used)) => {
                    assert!((1..=LIMITS.args_max).contains(&command.args().len()));
                    commands.push(command.args().iter().map(|arg| arg.to_vec()).collect());
                    used
                }
                Ok(Decoded::Skip(used)) => used,
                Ok(Decoded::Incomplete { at_least }) => {
                    assert!(at_least > input.len(), "{at_least} are here");
                    needed = at_least;
                    break;
                }
                Err(error) => return (commands, Err(error)),
            };
            assert!(input.len() >= needed, "it was whole with less than the {needed} bytes it said");
            assert!((1..=input.len()).contains(&used));
            input.drain(..used);
            needed = 1;
        }
    }
    (commands, Ok(input))
}

/// Decodes in one piece, byte by byte, and in every split in two: all agree.
fn decode_all(input: &[u8]) -> Decodes {
    let whole = feed(&[input]);
    assert_eq!(feed(&input.chunks(1).collect::<Vec<_>>()), whole, "byte by byte");
    for at in 0..=input.len() {
        assert_eq!(feed(&[&input[..at], &input[at..]]), whole, "split at {at}");
    }
    whole
}

/// `commands`: one text for each, its arguments apart by `|`. `end`: what is left, or the error.
fn check(input: &[u8], commands: &[&[u8]], end: Result<&str, &str>) {
    let (found, left) = decode_all(input);
    let found: Vec<_> = found.iter().map(|args| args.join(&b'|')).collect();
    let shown = input.escape_ascii();
    assert_eq!(found, commands, "{shown}");
    let left = left.map(|left| left.escape_ascii().to_string()).map_err(|error| error.to_string());
    assert_eq!(left.as_deref().map_err(String::as_str), end, "{shown}");
}

#[test]
fn commands_of_bulks() {
    check(b"", &[], Ok(""));
    check(b"*1\r\n$4\r\nPING\r\n", &[b"PING"], Ok(""));
    check(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n$4\r\nPING\r\n", &[b"GET|a", b"PING"], Ok(""));
    check(b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n", &[b"GET|"], Ok(""));
    check(b"*1\r\n$6\r\n\r\n\0$*\xFF\r\n", &[b"\r\n\0$*\xFF"], Ok(""));
    check(
        b"*9\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n$1\r\nd\r\n$1\r\ne\r\n$1\r\nf\r\n$1\r\ng\r\n$1\r\nh\r\n$1\r\ni\r\n",
        &[b"a|b|c|d|e|f|g|h|i"],
        Ok(""),
    );
    check(b"*0\r\n*-1\r\n*-9\r\n*1\r\n$1\r\na\r\n", &[b"a"], Ok(""));
    check(b"*1\r\n$12\r\n123456789012\r\n", &[b"123456789012"], Ok(""));
    check(b"*2\r\n$3\r\nGET\r\n$3\r\nab", &[], Ok(r"*2\r\n$3\r\nGET\r\n$3\r\nab"));
}

#[test]
fn what_is_no_command() {
    check(b"*x\r\n", &[], Err("invalid multibulk length"));
    check(b"*\r\n", &[], Err("invalid multibulk length"));
    check(b"*-\r\n", &[], Err("invalid multibulk length"));
    check(b"*+1\r\n", &[], Err("invalid multibulk length"));
    check(b"*01\r\n", &[], Err("invalid multibulk length"));
    check(b"*-0\r\n", &[], Err("invalid multibulk length"));
    check(b"*1\rX", &[], Err("invalid multibulk length"));
    check(b"*1 \r\n", &[], Err("invalid multibulk length"));
    check(b"*10\r\n", &[], Err("invalid multibulk length"));
    check(b"*9223372036854775808\r\n", &[], Err("invalid multibulk length"));
    check(b"*-9223372036854775808\r\n", &[], Ok(""));
    check(b"*1111111111111111111111111111111111111\r\n", &[], Err("too big mbulk count string"));
    check(b"*1\r\n:1\r\n", &[], Err("expected '$', got ':'"));
    check(b"*1\r\n\xFF", &[], Err(r"expected '$', got '\xff'"));
    check(b"*1\r\n\r\n", &[], Err(r"expected '$', got '\r'"));
    check(b"*1\r\n$-1\r\n", &[], Err("invalid bulk length"));
    check(b"*1\r\n$a\r\n", &[], Err("invalid bulk length"));
    check(b"*1\r\n$13\r\n", &[], Err("invalid bulk length"));
    check(b"*1\r\n$9223372036854775807\r\n", &[], Err("invalid bulk length"));
    check(b"*1\r\n$1111111111111111111111111111111111111\r\n", &[], Err("too big bulk count string"));
    check(b"*1\r\n$1\r\nab\r\n", &[], Err("expected CRLF after a bulk"));
    check(b"*1\r\n$4\r\nPING\r\n*y\r\n", &[b"PING"], Err("invalid multibulk length"));
}

#[test]
fn inline_commands() {
    check(b"PING\r\n", &[b"PING"], Ok(""));
    check(b"PING\n", &[b"PING"], Ok(""));
    check(b"  set \t a  1 \r\nget a\n", &[b"set|a|1", b"get|a"], Ok(""));
    check(b"\r\n\n \n", &[], Ok(""));
    check(b"PING", &[], Ok("PING"));
    check(b"set a \"b c\"\n", &[b"set|a|b c"], Ok(""));
    check(
        br#"set a "\x41\x4a\xzz\n\r\t\b\a\"\\\q""#,
        &[],
        Ok(r#"set a \"\\x41\\x4a\\xzz\\n\\r\\t\\b\\a\\\"\\\\\\q\""#),
    );
    check(b"a \"\\x41\\x4a\\xzz\\n\\r\\t\\b\\a\\\"\\\\\\q\"\n", &[b"a|AJxzz\n\r\t\x08\x07\"\\q"], Ok(""));
    check(br"a 'b \' \n c' ''", &[], Ok(r"a \'b \\\' \\n c\' \'\'"));
    check(b"a 'b \\' \\n c' ''\n", &[b"a|b ' \\n c|"], Ok(""));
    check(b"a\"b c\" d\n", &[b"ab c|d"], Ok(""));
    check(b"\"a\"\r\n", &[b"a"], Ok(""));
    check(b"a \"b\"c\n", &[], Err("unbalanced quotes in request"));
    check(b"a \"b\n", &[], Err("unbalanced quotes in request"));
    check(b"a 'b\n", &[], Err("unbalanced quotes in request"));
    check(b"a \"b\\\n", &[], Err("unbalanced quotes in request"));
    check(b"a b c d e f g h i j\n", &[], Err("invalid multibulk length"));
    check(b"1234567890123456789012345678901234567890\n", &[b"1234567890123456789012345678901234567890"], Ok(""));
    check(b"12345678901234567890123456789012345678901\n", &[], Err("too big inline request"));
}

#[test]
fn incomplete_says_how_much_is_missing() {
    let check = |input: &[u8], expected: usize| {
        let limits = DecodeLimits { args_max: usize::MAX, bulk_bytes_max: usize::MAX, inline_bytes_max: 10 };
        let mut unquoted = Vec::new();
        let decoded = decode(input, &mut unquoted, &limits);
        assert_eq!(decoded, Ok(Decoded::Incomplete { at_least: expected }), "{}", input.escape_ascii());
    };
    check(b"", 1);
    check(b"PI", 3);
    check(b"*", 2);
    check(b"*1\r", 4);
    check(b"*1\r\n", 4 + 6);
    check(b"*3\r\n", 4 + 3 * 6);
    check(b"*1\r\n$10\r", 10);
    check(b"*1\r\n$1000\r", 11);
    check(b"*1\r\n$1000000\r\n", 14 + 1_000_000 + 2);
    check(b"*2\r\n$1000000\r\nabc", 14 + 1_000_000 + 2 + 6);
    check(b"*9223372036854775807\r\n", usize::MAX);
    check(b"*1\r\n$9223372036854775807\r\n", 28 + i64::MAX as usize);
}

#[test]
fn eight_arguments_take_no_memory() {
    let mut unquoted = Vec::new();
    let input = b"*8\r\n".iter().chain(b"$1\r\na\r\n".repeat(8).iter()).copied().collect::<Vec<_>>();
    let Ok(Decoded::Command(command, _)) = decode(&input, &mut unquoted, &LIMITS) else { panic!("a command") };
    assert!(!command.args.spilled());
}

/// Both versions' bytes; each decodes to itself in every split, and `value` is what version 3 says.
fn check_reply(value: &Value, two: &str, three: &str) {
    for (version, expected) in [(Version::Two, two), (Version::Three, three)] {
        let mut out = Vec::new();
        value.encode(version, &mut out);
        assert_eq!(out.escape_ascii().to_string(), expected, "{value:?} {version:?}");
        let (decoded, used) = value::decode(&out, &LIMITS).expect("a reply").expect("whole");
        assert_eq!(used, out.len());
        if version == Version::Three {
            assert_eq!(&decoded, value);
        }
        for end in 0..out.len() {
            assert_eq!(value::decode(&out[..end], &LIMITS), Ok(None), "{end} bytes of {expected}");
        }
    }
}

#[test]
fn replies() {
    use Value::*;
    let [one, two] = [Integer(1), Integer(2)];
    check_reply(&Simple("OK".into()), r"+OK\r\n", r"+OK\r\n");
    check_reply(&Error("ERR no".into()), r"-ERR no\r\n", r"-ERR no\r\n");
    check_reply(&Integer(i64::MIN), r":-9223372036854775808\r\n", r":-9223372036854775808\r\n");
    check_reply(&Bulk(b"a\r\n\xFF".into()), r"$4\r\na\r\n\xff\r\n", r"$4\r\na\r\n\xff\r\n");
    check_reply(&Bulk(Vec::new()), r"$0\r\n\r\n", r"$0\r\n\r\n");
    check_reply(&Null, r"$-1\r\n", r"_\r\n");
    check_reply(&Array(vec![one.clone(), two.clone()]), r"*2\r\n:1\r\n:2\r\n", r"*2\r\n:1\r\n:2\r\n");
    check_reply(&Set(vec![one.clone()]), r"*1\r\n:1\r\n", r"~1\r\n:1\r\n");
    check_reply(&Push(vec![one.clone()]), r"*1\r\n:1\r\n", r">1\r\n:1\r\n");
    check_reply(&Map(vec![(one, two)]), r"*2\r\n:1\r\n:2\r\n", r"%1\r\n:1\r\n:2\r\n");
    check_reply(&Double(1.0), r"$1\r\n1\r\n", r",1\r\n");
    check_reply(&Double(-1.5e300), r"$8\r\n-1.5e300\r\n", r",-1.5e300\r\n");
    check_reply(&Double(f64::NEG_INFINITY), r"$4\r\n-inf\r\n", r",-inf\r\n");
    check_reply(&Boolean(true), r":1\r\n", r"#t\r\n");
    check_reply(&Boolean(false), r":0\r\n", r"#f\r\n");
    check_reply(&Verbatim(*b"txt", b"a".into()), r"$1\r\na\r\n", r"=5\r\ntxt:a\r\n");
}

#[test]
fn a_line_end_in_an_error_is_a_space() {
    let mut out = Vec::new();
    reply::error("ERR a\r\nb\n-c", &mut out);
    assert_eq!(out, b"-ERR a  b -c\r\n");
    out.clear();
    reply::null_array(Version::Two, &mut out);
    reply::double(f64::NAN, Version::Three, &mut out);
    assert_eq!(out, b"*-1\r\n,nan\r\n");
}

#[test]
fn what_is_no_reply() {
    let check = |input: &[u8], expected: &str| {
        let error = value::decode(input, &LIMITS).expect_err("no reply");
        assert_eq!(error.to_string(), format!("not a reply: {expected}"), "{}", input.escape_ascii());
    };
    check(b"hello\r\n", "unknown type");
    check(b"\r\n", "a line does not end in CRLF");
    check(b"+OK\n", "a line does not end in CRLF");
    check(b":one\r\n", "no integer");
    check(b",one\r\n", "no double");
    check(b"#x\r\n", "no boolean");
    check(b"_x\r\n", "unknown type");
    check(b"$-2\r\n", "no length");
    check(b"$13\r\n", "no length");
    check(b"*10\r\n", "no length");
    check(b"%5\r\n", "no length");
    check(b"$1\r\nab\r\n", "a text is longer than it says");
    check(b"=3\r\ntxt\r\n", "a text without its format");
    check(&b"*1\r\n".repeat(40), "nested too deep");
    check(&[b'+'; 50], "a line is too long");
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        prop::sample::select(vec![
            "*",
            "$",
            "\r\n",
            "\n",
            "1",
            "0",
            "-",
            "a",
            "\"",
            "'",
            " ",
            "\\",
            "*1\r\n",
            "$1\r\na\r\n",
            "$3\r\n",
            "*2\r\n",
            "PING\r\n",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    prop::collection::vec(token, 0..20).prop_map(|tokens| tokens.concat())
}

proptest! {
    #[test]
    fn random_input_decodes_alike_in_any_pieces(input in stream()) {
        let _ = decode_all(&input);
        let _ = value::decode(&input, &LIMITS);
    }

    #[test]
    fn encoded_commands_come_back(args in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 1..9)) {
        let mut bytes = Vec::new();
        reply::array_head(args.len(), &mut bytes);
        args.iter().for_each(|arg| reply::bulk(arg, &mut bytes));
        prop_assert_eq!(decode_all(&bytes), (vec![args], Ok(Vec::new())));
    }

    #[test]
    fn encoded_doubles_come_back(number in any::<f64>()) {
        let mut bytes = Vec::new();
        reply::double(number, Version::Three, &mut bytes);
        let limits = DecodeLimits { inline_bytes_max: 100, ..LIMITS };
        let Ok(Some((Value::Double(back), _))) = value::decode(&bytes, &limits) else { panic!("a double") };
        prop_assert!(back == number || (back.is_nan() && number.is_nan()));
    }
}
