//! What a method answers with, and how that becomes a result of either era (spec mcp §1.2): the modern one says of each result what
//! it is, who made it, and, where it may be kept, for how long.

use std::sync::LazyLock;

use serde::Serialize;
use standpipe_mcp::era::META_SERVER;
use standpipe_wire::jsonrpc::Message;

use super::server;

/// The result of a method, as its members in JSON.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The members of the result, without the braces around them.
    members: Vec<u8>,
    /// The members of its `_meta`, likewise.
    meta: Vec<u8>,
    kind: &'static str,
    cache: Option<Cache>,
}

/// How long, and for whom, a modern client may keep a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cache {
    ttl_ms: u32,
    public: bool,
}

impl Cache {
    /// It changes with the configuration only; `public` when it is the same for everyone.
    pub(crate) const fn settled(public: bool) -> Self {
        Self { ttl_ms: 300_000, public }
    }

    /// It may be another one the next moment.
    pub(crate) const NONE: Self = Self { ttl_ms: 0, public: false };
}

impl Answer {
    /// A result. `resultType`, `_meta` and hints about caching are not among its members.
    ///
    /// # Panics
    /// `result` is no object in JSON.
    pub(crate) fn of(result: &impl Serialize) -> Self {
        let json = serde_json::to_vec(result).expect("results have names for keys and can be written");
        Self::of_json(&json)
    }

    /// As [`Answer::of`], from JSON.
    pub(crate) fn of_json(json: &[u8]) -> Self {
        let members = json.strip_prefix(b"{").and_then(|json| json.strip_suffix(b"}"));
        let members = members.expect("a result is an object").to_vec();
        Self { members, meta: Vec::new(), kind: "complete", cache: None }
    }

    /// The result may be kept.
    pub(crate) fn cached(self, cache: Cache) -> Self {
        Self { cache: Some(cache), ..self }
    }

    /// `resultType` is something else than `complete`.
    pub(crate) fn kind(self, kind: &'static str) -> Self {
        Self { kind, ..self }
    }

    /// Adds a member to `_meta`; `value` is JSON.
    pub(crate) fn meta(mut self, name: &str, value: &[u8]) -> Self {
        member(&mut self.meta, name);
        self.meta.extend_from_slice(value);
        self
    }

    /// The answer to the request with this id.
    pub(crate) fn into_message(self, id: &[u8], modern: bool) -> Message {
        let mut out = Vec::with_capacity(self.members.len() + 256);
        out.push(b'{');
        let mut meta = self.meta;
        if modern {
            member(&mut meta, META_SERVER);
            meta.extend_from_slice(&SERVER);
            out.extend_from_slice(format!("\"resultType\":\"{}\"", self.kind).as_bytes());
            if let Some(Cache { ttl_ms, public }) = self.cache {
                let scope = if public { "public" } else { "private" };
                out.extend_from_slice(format!(",\"ttlMs\":{ttl_ms},\"cacheScope\":\"{scope}\"").as_bytes());
            }
        }
        if !meta.is_empty() {
            member(&mut out, "_meta");
            out.push(b'{');
            out.append(&mut meta);
            out.push(b'}');
        }
        if out.len() > 1 && !self.members.is_empty() {
            out.push(b',');
        }
        out.extend_from_slice(&self.members);
        out.push(b'}');
        Message::result(id, &out)
    }
}

/// Who has answered: JSON.
static SERVER: LazyLock<Vec<u8>> = LazyLock::new(|| {
    serde_json::to_vec(&server::implementation()).expect("names have names for keys and can be written")
});

/// Writes the name of one more member.
fn member(out: &mut Vec<u8>, name: &str) {
    if !matches!(out.last(), None | Some(b'{')) {
        out.push(b',');
    }
    standpipe_tree::write_json_string(name, out);
    out.push(b':');
}
