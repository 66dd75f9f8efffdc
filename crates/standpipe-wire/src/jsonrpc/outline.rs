//! What can be told of a message that is too long to be kept, or is none: its id, so that who sent it can be answered. Its bytes are looked at once,
//! in pieces, and forgotten.

/// Longest name of a member that is looked for, with its quotes.
const NAME_BYTES_MAX: usize = 8;

/// Longest id that is kept.
const ID_BYTES_MAX: usize = 256;

/// A look at the outermost members of an object that goes by.
///
/// ```
/// use standpipe_wire::jsonrpc::Outline;
/// let mut outline = Outline::default();
/// outline.feed(br#"{"method":"tools/call","params":{"id":1,"text":"a very long"#);
/// outline.feed(br#" text"},"id":"x"}"#);
/// assert_eq!(outline.request_id(), Some(&b"\"x\""[..]));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Outline {
    depth: u32,
    in_string: bool,
    escaped: bool,
    in_value: bool,
    name: Vec<u8>,
    value: Vec<u8>,
    ids: u32,
    id: Vec<u8>,
    has_method: bool,
}

impl Outline {
    /// Looks at more bytes of it.
    pub fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.in_string {
                self.keep(byte);
                match byte {
                    _ if std::mem::take(&mut self.escaped) => {}
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
            } else {
                self.between(byte);
            }
        }
    }

    fn between(&mut self, byte: u8) {
        match (byte, self.depth) {
            (b':', 1) if !self.in_value => return self.in_value = true,
            (b',', 1) => return self.member(),
            (b'}' | b']', 1) => self.member(),
            _ => self.keep(byte),
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }

    /// Keeps what may matter of an outermost member.
    fn keep(&mut self, byte: u8) {
        if self.depth != 1 {
            return;
        }
        let (kept, max) = match self.in_value {
            false => (&mut self.name, NAME_BYTES_MAX + 1),
            true if self.name == b"\"id\"" => (&mut self.value, ID_BYTES_MAX + 1),
            true => return,
        };
        if kept.len() < max && (self.in_string || !byte.is_ascii_whitespace()) {
            kept.push(byte);
        }
    }

    /// An outermost member has ended.
    fn member(&mut self) {
        match (&self.name[..], self.in_value) {
            (b"\"id\"", true) => {
                self.ids += 1;
                self.id = std::mem::take(&mut self.value);
            }
            (b"\"method\"", true) => self.has_method = true,
            _ => {}
        }
        self.in_value = false;
        self.name.clear();
        self.value.clear();
    }

    /// The id, as it stands, if what went by has one and a method.
    pub fn request_id(&self) -> Option<&[u8]> {
        let is_id = self.id.first().is_some_and(|first| matches!(first, b'"' | b'-' | b'0'..=b'9'))
            && serde_json::from_slice::<serde::de::IgnoredAny>(&self.id).is_ok();
        (self.ids == 1 && self.has_method && is_id && self.id.len() <= ID_BYTES_MAX).then_some(&self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expected: Option<&str>) {
        let found = |pieces: &[&[u8]]| {
            let mut outline = Outline::default();
            pieces.iter().for_each(|piece| outline.feed(piece));
            outline.request_id().map(|id| String::from_utf8(id.to_vec()).unwrap())
        };
        for at in 0..=json.len() {
            let (a, b) = json.as_bytes().split_at(at);
            assert_eq!(found(&[a, b]).as_deref(), expected, "{json} split at {at}");
        }
    }

    #[test]
    fn the_id_of_a_request_is_found_wherever_it_stands() {
        check(r#"{"id":1,"method":"a"}"#, Some("1"));
        check(
            r#" { "params" : {"id":2,"x":[1,{"id":3}]}, "method":"a\"id\":4" , "id" : "\u0031,}" } "#,
            Some(r#""\u0031,}""#),
        );
        check(r#"{"id":-5,"method":"a","params":{"#, Some("-5"));
        check(r#"{"method":"a","params":{},"id":9007199254740993}"#, Some("9007199254740993"));
    }

    #[test]
    fn what_is_no_id_of_a_request_is_not_taken_for_one() {
        check(r#"{"id":1,"result":{}}"#, None);
        check(r#"{"id":1,"id":2,"method":"a"}"#, None);
        check(r#"{"id":{"id":1},"method":"a"}"#, None);
        check(r#"{"id":null,"method":"a"}"#, None);
        check(r#"{"id":12x,"method":"a"}"#, None);
        check(r#"{"x":{"id":1,"method":"a"}}"#, None);
        check(r#"["id",1,"method","a"]"#, None);
        check(r#"{"method":"a","id":1"#, None);
        check("}}}]]]{{{\"\\", None);
        check(&format!(r#"{{"method":"a","id":"{}"}}"#, "x".repeat(300)), None);
    }
}
