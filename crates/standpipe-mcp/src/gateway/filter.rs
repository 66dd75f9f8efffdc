//! Which tools of a server are seen, and under which names: `allow`, `deny` and `prefix` of its entry. What is left out of a list
//! can't be called either, as if it were not there. What stays in a list stays byte for byte, but for its name.

use std::sync::Arc;

use serde_json::value::RawValue;
use standpipe_wire::jsonrpc::{Edit, Malformed, Message};

use super::list;
use crate::exchange::{Closed, Relay};
use crate::fault::{INVALID_PARAMS, UPSTREAM_DIED};
use crate::layer::{Call, Next};
use crate::{Fault, Hook, Outlet};

/// Which tools are seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tools {
    /// Names, or patterns with `*`; none is all.
    pub allow: Vec<String>,
    /// Names, or patterns with `*`, that are left out although they are allowed.
    pub deny: Vec<String>,
    /// What stands before each name towards clients.
    pub prefix: String,
}

impl Tools {
    /// Whether every tool passes as it is.
    pub fn is_open(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty() && self.prefix.is_empty()
    }

    /// Whether the server's tool `name` is seen.
    pub fn allow(&self, name: &str) -> bool {
        let among = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
        (self.allow.is_empty() || among(&self.allow)) && !among(&self.deny)
    }

    /// The server's name of a tool that clients call `name`, if they may see it.
    fn own_name<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.strip_prefix(self.prefix.as_str()).filter(|own| self.allow(own))
    }
}

/// Does `name` match `pattern`, in which `*` is any text?
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    matches_parts(pattern.split('*'), name)
}

/// Is `name` these parts, in their order, with any text between them?
pub(crate) fn matches_parts<'p>(parts: impl IntoIterator<Item = &'p str>, name: &str) -> bool {
    let mut parts = parts.into_iter().peekable();
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// Has only some tools seen.
#[derive(Clone, Debug)]
pub struct Filter(Arc<Tools>);

impl Filter {
    /// A filter for one server.
    pub fn new(tools: Tools) -> Self {
        Self(Arc::new(tools))
    }
}

impl Hook for Filter {
    fn call(&self, mut call: Call, next: Next) {
        match call.message.method() {
            Some("tools/list") => {
                call.to = call.to.through(Arc::new(List(self.0.clone())));
                next.pass(call);
            }
            Some("tools/call") => match to_server(&self.0, &call.message) {
                Ok(message) => next.pass(Call { message, ..call }),
                Err(fault) => {
                    let _gone = call.to.send(fault.answer(call.message.id()));
                }
            },
            _ => next.pass(call),
        }
    }
}

/// A call with the name that the server has for its tool.
fn to_server(tools: &Tools, message: &Message) -> Result<Message, Fault> {
    let name = message.text_at(&["name"]).map_err(|error| Fault::new(INVALID_PARAMS, error.to_string()))?;
    // Whether a name is missing is the server's to say.
    let Some(name) = name else { return Ok(message.clone()) };
    let Some(own) = tools.own_name(&name) else { return Err(unknown_tool(&name)) };
    Ok(if own.len() == name.len() { message.clone() } else { with_text(message, &["name"], own) })
}

/// There is no such tool, or none that this caller sees.
pub(crate) fn unknown_tool(name: &str) -> Fault {
    Fault::new(INVALID_PARAMS, format!("Unknown tool: {name}; tools/list names those that are there"))
}

/// The message with the string at `path`, where there is one, replaced.
pub(crate) fn with_text(message: &Message, path: &[&str], text: &str) -> Message {
    let json = serde_json::to_vec(text).expect("a string can be written as JSON");
    match message.at(path) {
        Ok(Some(span)) => message.edit(&mut [Edit::replace(span, &json)]),
        _ => message.clone(),
    }
}

/// Takes lists of tools on their way back.
struct List(Arc<Tools>);

impl Relay for List {
    fn relay(&self, message: Message, to: &Outlet) -> Result<(), Closed> {
        let is_list = message.method().is_none() && !message.is_error();
        if !is_list {
            return to.send(message);
        }
        to.send(self.seen(&message).unwrap_or_else(|error| {
            let text = format!("the server's list of tools can't be read, so none is shown: {error}");
            Fault::new(UPSTREAM_DIED, text).answer(message.id())
        }))
    }
}

impl List {
    /// The list without what is not seen.
    fn seen(&self, message: &Message) -> Result<Message, Malformed> {
        let Some(span) = message.at(&["tools"])? else { return Ok(message.clone()) };
        let mut kept = Vec::new();
        for item in list::items(message.slice(span))? {
            kept.extend(self.item(item)?);
        }
        Ok(message.edit(&mut [Edit::replace(span, &list::array(&kept))]))
    }

    fn item(&self, item: &RawValue) -> Result<Option<Vec<u8>>, Malformed> {
        let Some((name, span)) = list::text(item, "name")? else { return Ok(None) };
        if !self.0.allow(&name) {
            return Ok(None);
        }
        Ok(Some(list::replaced(item, span, &format!("{}{name}", self.0.prefix))))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::exchange::{Room, exchange};

    fn tools(allow: &[&str], deny: &[&str], prefix: &str) -> Tools {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Tools { allow: own(allow), deny: own(deny), prefix: prefix.to_owned() }
    }

    #[test]
    fn patterns_match_names() {
        let check = |pattern, name, expected| assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        check("a", "a", true);
        check("a", "ab", false);
        check("*", "", true);
        check("a*", "ab", true);
        check("*b", "ab", true);
        check("*b", "abc", false);
        check("a*c*e", "abcde", true);
        check("a*c*e", "abde", false);
        check("a*a", "a", false);
        check("**", "x", true);
        check("ä*", "äö", true);
    }

    #[test]
    fn only_what_is_allowed_and_not_denied_is_seen() {
        let check = |tools: &Tools, seen: &[bool]| {
            let all = ["read", "write", "read_all"].map(|name| tools.allow(name));
            assert_eq!(all, seen, "{tools:?}");
        };
        check(&tools(&[], &[], ""), &[true, true, true]);
        check(&tools(&["read*"], &[], ""), &[true, false, true]);
        check(&tools(&["read*"], &["*_all"], ""), &[true, false, false]);
        check(&tools(&[], &["write"], ""), &[true, false, true]);
    }

    fn listed(tools: &Tools, reply: &str) -> String {
        let (outlet, mut inlet) = exchange(Room { messages: 4, bytes: 4_096 });
        let outlet = outlet.through(Arc::new(List(Arc::new(tools.clone()))));
        outlet.send(Message::parse(Bytes::copy_from_slice(reply.as_bytes())).unwrap()).unwrap();
        String::from_utf8(inlet.try_next().unwrap().bytes().to_vec()).unwrap()
    }

    #[test]
    fn what_stays_in_a_list_stays_as_it_is() {
        let reply = r#"{"jsonrpc":"2.0","id":9007199254740993,"result":{"x": 1.0,"tools":[ {"z":9007199254740993, "name":"read","a":{}} , {"name":"w\u0072ite"},{"name":"read_all"}],"nextCursor":"c"}}"#;
        let expected = r#"{"jsonrpc":"2.0","id":9007199254740993,"result":{"x": 1.0,"tools":[{"z":9007199254740993, "name":"p_read","a":{}},{"name":"p_read_all"}],"nextCursor":"c"}}"#;
        assert_eq!(listed(&tools(&["read*"], &["write"], "p_"), reply), expected);
    }

    #[test]
    fn what_is_no_list_of_tools_passes_or_fails() {
        let check = |reply: &str, expected: &str| {
            let got = listed(&tools(&["x"], &[], ""), reply);
            assert!(got.contains(expected), "{reply}: {got}");
        };
        check(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"m"}}"#, r#""code":-1"#);
        check(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, r#""result":{}"#);
        check(r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}"#, r#""tools":[]"#);
        check(r#"{"jsonrpc":"2.0","id":1,"result":{"tools":7}}"#, r#""code":5020"#);
        check(r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[1,{"name":2},{}]}}"#, r#""tools":[]"#);
        check(r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[],"tools":[{"name":"hidden"}]}}"#, r#""code":5020"#);
        check(r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"x","name":"hidden"}]}}"#, r#""code":5020"#);
        check(r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#, "progress");
    }

    #[test]
    fn calls_get_the_servers_name() {
        let check = |tools: &Tools, params: &str, expected: Result<&str, &str>| {
            let message = Message::request(b"1", "tools/call", params.as_bytes());
            let got = to_server(tools, &message).map(|message| message.body_bytes().unwrap().to_vec());
            match (got, expected) {
                (Ok(got), Ok(expected)) => assert_eq!(String::from_utf8(got).unwrap(), expected),
                (Err(fault), Err(expected)) => {
                    assert!(fault.code == INVALID_PARAMS && fault.message.contains(expected), "{fault:?}");
                }
                (got, _) => panic!("{params}: {got:?}"),
            }
        };
        let prefixed = tools(&[], &["b"], "p_");
        check(&prefixed, r#"{"name":"p_a","x":1.0}"#, Ok(r#"{"name":"a","x":1.0}"#));
        check(&prefixed, r#"{"name":"a"}"#, Err("Unknown tool: a"));
        check(&prefixed, r#"{"name":"p_b"}"#, Err("Unknown tool: p_b"));
        check(&prefixed, r#"{"name":"p_a","name":"p_b"}"#, Err("twice"));
        check(&prefixed, r#"{}"#, Ok("{}"));
        check(&tools(&["a"], &[], ""), r#"{"name":"a", "y":[]}"#, Ok(r#"{"name":"a", "y":[]}"#));
    }
}
