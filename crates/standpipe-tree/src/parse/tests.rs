//! What JSON becomes, told as the JSON it is written as again.

use super::*;
use crate::json::{Format, to_json};

pub(crate) const LIMITS: ParseLimits = ParseLimits {
    string_bytes_max: 1000,
    depth_left_max: 32,
    encoded_key_bytes_max: ENCODED_PATH_BYTES_MAX,
    leaves_max: 1000,
};

fn check(json: &str, expected: &str) {
    let text = match parse_value(json.as_bytes(), &LIMITS) {
        Ok(rows) => String::from_utf8(to_json(&mut rows.cursor(), Format::Export).unwrap()).unwrap(),
        Err(error) => error.to_string(),
    };
    assert_eq!(text, expected, "{json}");
}

#[test]
fn values() {
    for (json, expected) in [
        ("null", "null"),
        (" {} ", "null"),
        ("[]", "null"),
        (r#"{"a":{"b":null,"c":{}},"d":[null]}"#, "null"),
        ("true", "true"),
        ("\"\"", "\"\""),
        ("1.0", "1"),
        ("-0", "-0"),
        ("9007199254740993", "9007199254740993"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("18446744073709552000", "18446744073709552000"),
        ("1e400000000000000000000000", "Invalid data; couldn't parse JSON object, array, or value."),
        ("0.1", "0.1"),
        ("123456789012345678901234567890", "1.2345678901234568e29"),
        (r#"{"b":1,"a":2}"#, r#"{"a":2,"b":1}"#),
        (r#"["a",null,"c"]"#, r#"{"0":"a","2":"c"}"#),
        (r#"{"10":1,"9":2,"a":{"x":[1]}}"#, r#"{"9":2,"10":1,"a":{"x":{"0":1}}}"#),
        (r#"{".value":7}"#, "7"),
        (r#"{".value":null,".priority":2}"#, "null"),
        (r#"{".priority":2,".value":7}"#, r#"{".value":7,".priority":2}"#),
        (r#"{"a":{".value":7,".priority":"p"},".priority":1}"#, r#"{".priority":1,"a":{".value":7,".priority":"p"}}"#),
        (r#"{"a":null,".priority":1}"#, "null"),
        (r#"{".priority":null,"a":1}"#, r#"{"a":1}"#),
        ("{\"é😀\":\"\\u00e9\"}", "{\"é😀\":\"é\"}"),
        (r#"{"a\"\\":"\n"}"#, r#"{"a\"\\":"\n"}"#),
    ] {
        check(json, expected);
    }
}

#[test]
fn refusals() {
    const SYNTAX: &str = "Invalid data; couldn't parse JSON object, array, or value.";
    for json in ["", "{", "nul", "1 2", "{\"a\":1}x", "'a'", "\"\\ud800\"", "[1,]", "{\"a\" 1}", "01", "NaN", "1e400"] {
        check(json, SYNTAX);
    }
    assert_eq!(parse_value(b"\"\xFF\"", &LIMITS), Err(ParseError::Syntax));
    for (json, expected) in [
        ("18446744073709551615", "at /: 18446744073709551615 cannot be stored exactly, send it as a string"),
        (
            r#"["-1",1.5,18446744073709551617]"#,
            "at byte 10: 18446744073709551617 cannot be stored exactly, send it as a string",
        ),
        (
            r#"{"a":[9223372036854775809]}"#,
            "at /a/0: 9223372036854775809 cannot be stored exactly, send it as a string",
        ),
        (r#"{"a":{"":1}}"#, "at /a: a key must not be empty"),
        (r#"{"a/b":1}"#, "at /: a key must not contain '/': none of . $ # [ ] / nor control characters are allowed"),
        (r#"{"a":1,"b":2,"a":3}"#, "at /a: the key occurs twice in its object"),
        (r#"{"a":null,"a":null}"#, "at /a: the key occurs twice in its object"),
        (r#"{"c":{"b":1,"a":1,"b":{}}}"#, "at /c/b: the key occurs twice in its object"),
        (r#"{".x":1}"#, "at /: keys must not begin with a dot, except .value, .priority and .sv"),
        (r#"{".value":1,".value":1}"#, "at /: a special key occurs twice in its object"),
        (r#"{".value":1,"a":1}"#, "at /a: .value allows no other key in its object but .priority"),
        (r#"{"a":null,".value":1}"#, "at /: .value allows no other key in its object but .priority"),
        (r#"{".value":{}}"#, "at /: .value must be null, a string, a number, a boolean or a server value"),
        (r#"{".value":[]}"#, "at /: .value must be null, a string, a number, a boolean or a server value"),
        (r#"{"a":1,".priority":true}"#, "at /: .priority must be null, a string, a number or a server value"),
        (r#"{"a":1,".priority":{"a":1}}"#, "at /: .priority must be null, a string, a number or a server value"),
        (r#"{".sv":"timestamp","a":1}"#, "at /a: .sv allows no other key in its object"),
        (r#"{".sv":"timestamp",".priority":1}"#, "at /: .sv allows no other key in its object"),
        (r#"{".value":{".sv":"timestamp","a":1}}"#, "at /: .sv allows no other key in its object"),
    ] {
        check(json, &format!("Invalid data; {expected}"));
    }
    for sv in ["1", "null", "\"now\"", "{}", "{\"increment\":\"1\"}", "{\"increment\":1,\"x\":1}", "[]"] {
        let unknown = "unknown server value: .sv must be \"timestamp\" or {\"increment\": number}";
        check(&format!("{{\"a\":{{\".sv\":{sv}}}}}"), &format!("Invalid data; at /a: {unknown}"));
    }
}

#[test]
fn limits() {
    let nested = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    assert!(parse_value(nested(32).as_bytes(), &LIMITS).is_ok());
    check(&nested(33), &format!("Invalid data; at {}: the tree may not be deeper than 32 levels", "/a".repeat(33)));
    check(
        &"[".repeat(100_000),
        &format!("Invalid data; at {}: the tree may not be deeper than 32 levels", "/0".repeat(33)),
    );
    check(
        &format!("[\"{}\"]", "x".repeat(1001)),
        "Invalid data; at /0: a string of 1001 bytes is too long, at most 1000 are allowed",
    );
    check(&format!("[{}1]", "1,".repeat(1000)), "Invalid data; too many values in one write");
    let key = "k".repeat(700);
    check(
        &format!("{{\"{key}\":{{\"{key}\":{{\"{key}\":1}}}}}}"),
        &format!("Invalid data; at /{key}/{key}/{key}: the path is too long"),
    );
}

#[test]
fn placeholders() {
    let json = br#"{"t":{".sv":"timestamp"},"n":{".value":{".sv":{"increment":-2}},".priority":{".sv":"timestamp"}}}"#;
    let rows = parse_value(json, &LIMITS).unwrap();
    assert!(rows.has_server_values());
    let values: Vec<_> = rows.iter().map(|(_, value)| value[0]).collect();
    assert_eq!(values, [0xF1, 0xF0, 0xF0]);
}

fn check_merge(base: &str, json: &str, expected: &str) {
    let limits = ParseLimits { depth_left_max: 4, ..LIMITS };
    let text = match parse_merge(json.as_bytes(), &Path::parse(base).unwrap(), &limits) {
        Ok(merge) => {
            let write = |(location, rows): &(_, Rows)| {
                format!(
                    "{location}={}",
                    String::from_utf8(to_json(&mut rows.cursor(), Format::Export).unwrap()).unwrap()
                )
            };
            merge.writes.iter().map(write).collect::<Vec<_>>().join(" ")
        }
        Err(error) => error.to_string(),
    };
    assert_eq!(text, expected, "{json}");
}

#[test]
fn merges() {
    for (base, json, expected) in [
        ("", "{}", ""),
        ("b", r#"{"z":1,"//c//y":null,"/a/x/":{"k":[5]}}"#, r#"/b/a/x={"k":{"0":5}} /b/c/y=null /b/z=1"#),
        ("b", r#"{".priority":3,"a/.priority":"p","a/b":1}"#, r#"/b/.priority=3 /b/a/.priority="p" /b/a/b=1"#),
        ("", r#"{".priority":null}"#, "/.priority=null"),
        ("", r#"{"10":1,"9":1}"#, "/9=1 /10=1"),
        ("", r#"{"a":1,"a/b":1}"#, "Invalid data; /a and /a/b overlap in one update"),
        ("", r#"{"a":1,"/a":1}"#, "Invalid data; /a and /a overlap in one update"),
        ("", r#"{"a-b":1,"a/b":1,"a":1}"#, "Invalid data; /a and /a/b overlap in one update"),
        ("", r#"{"a":1,"a/.priority":1}"#, "Invalid data; /a and /a/.priority overlap in one update"),
        ("", r#"{"/":1}"#, "Invalid data; \"/\" is a bad path: a key must not be empty"),
        (
            "",
            r#"{"a/.info":1}"#,
            "Invalid data; \"a/.info\" is a bad path: a key must not contain '.': none of . $ # [ ] / nor control characters are allowed",
        ),
        (
            "x",
            r#"{"a/b":{"c":{"d":{"e":1}}}}"#,
            "Invalid data; at /x/a/b/c/d/e: the tree may not be deeper than 32 levels",
        ),
        (
            "",
            r#"{"a":{".sv":7}}"#,
            "Invalid data; at /a: unknown server value: .sv must be \"timestamp\" or {\"increment\": number}",
        ),
        (
            "",
            r#"{"a/.priority":[]}"#,
            "Invalid data; at /a/.priority: .priority must be null, a string, a number or a server value",
        ),
        ("", r#"{"a":1"#, "Invalid data; couldn't parse JSON object, array, or value."),
        ("", r#"{"a":1}{"#, "Invalid data; couldn't parse JSON object, array, or value."),
    ] {
        check_merge(base, json, expected);
    }
    for json in ["null", "1", "-1", "1.5", "\"a\"", "[]", "[1]", "true"] {
        check_merge(
            "",
            json,
            "Invalid data; couldn't parse JSON object. Are you sending a JSON object with valid key names?",
        );
    }
}

#[test]
fn streams() {
    struct Rowed(RowsBuilder, usize);
    impl RowSink for Rowed {
        fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), Stop> {
            self.0.push(key, value);
            self.1 = self.1.checked_sub(1).ok_or(Stop)?;
            Ok(())
        }
    }
    let json = br#"{"b":{"y":1,"x":[2]},"a":{".value":true,".priority":1}}"#;
    let mut sink = Rowed(RowsBuilder::new(), 4);
    assert_eq!(parse_stream(&json[..], &mut sink, &LIMITS), Ok(()));
    assert_eq!(sink.0.finish().unwrap(), parse_value(json, &LIMITS).unwrap());
    let mut sink = Rowed(RowsBuilder::new(), 1);
    assert_eq!(parse_stream(&json[..], &mut sink, &LIMITS), Err(ParseError::Stopped));
    assert_eq!(parse_stream(&json[..9], &mut Rowed(RowsBuilder::new(), 9), &LIMITS), Err(ParseError::Syntax));
}

#[test]
fn large_objects_in_streams_must_ascend() {
    let parse = |json: &str| {
        let mut sink = RowsBuilder::new();
        let mut walk = Walk::new(&mut sink, LIMITS, String::new());
        walk.seen_bytes_max = 8;
        let outcome = Node(&mut walk).deserialize(&mut serde_json::Deserializer::from_str(json));
        outcome.map_err(|error| walk.failure(&error).to_string())
    };
    assert_eq!(parse(r#"{"a":1,"b":1,"c":1,"d":1,"e":{"b":1,"a":1}}"#), Ok(true));
    let unsorted = "Invalid data; at /b: an object this large must have its keys in ascending order";
    assert_eq!(parse(r#"{"a":1,"b":1,"c":1,"d":1,"e":1,"b":1}"#), Err(unsorted.to_owned()));
    assert_eq!(parse(r#"{"z":1,"y":1,"x":1,"w":1,"b":1,"a":1}"#).map_err(|text| text.contains("ascending")), Err(true));
}
