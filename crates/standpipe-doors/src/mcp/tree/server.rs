//! Who we are: versions, capabilities, and the words that a model reads first.

use rmcp::model::{
    CompletionInfo, Implementation, InitializeRequestParams, InitializeResult, ProtocolVersion, ResourcesCapability,
    ServerCapabilities, TASKS_EXTENSION_ID, ToolsCapability,
};
use serde_json::json;
use standpipe_mcp::Outlet;
use standpipe_mcp::era::{LEGACY, MODERN, negotiate};
use standpipe_wire::jsonrpc::Message;
use tokio_util::sync::CancellationToken;

use super::Tree;
use super::answer::{Answer, Cache};
use super::request::{Legacy, invalid};
use super::subscriptions::Subscriptions;

/// Completions in one answer, at most: the protocol's own limit.
pub(super) const COMPLETIONS_MAX: usize = CompletionInfo::MAX_VALUES;

/// What a model is told before it sees a tool; at most 1,200 characters.
const INSTRUCTIONS: &str = "Standpipe is one live JSON tree that people, programs and agents read, change and watch \
    together; everything written is durable and seen by all at once. Begin with tree_list (what is there), tree_get (a value, \
    with its etag) and tree_wait (sleep until something changes; cheaper than asking again and again).\n\
    A path is /a/b/c; the root is /. A key may hold any character but . $ # [ ] / and control characters; percent-encode what \
    stands for itself in a path. Writing null deletes; an object without members does not exist; arrays are objects with \
    keys 0, 1, 2. Numbers beyond 2^53 belong in strings.\n\
    To write safely, read the etag with tree_get and give it as if_etag to tree_set or tree_delete: if somebody was faster the \
    call fails with etag_mismatch and the etag of now; read again and decide anew. if_etag \"null_etag\" means: only if nothing is \
    there, which is how to claim something. tree_update changes several places at once, all or nothing. tree_push adds to a \
    list that many write to. Read big places in parts: tree_list, tree_query, or tree_get with depth.";

/// Name and version.
pub(super) fn implementation() -> Implementation {
    Implementation::new("standpipe", env!("CARGO_PKG_VERSION")).with_title("Standpipe")
}

fn capabilities(tree: &Tree) -> ServerCapabilities {
    let mut capabilities = ServerCapabilities::default();
    capabilities.tools = Some(ToolsCapability::default());
    let mut resources = ResourcesCapability::default();
    (resources.subscribe, resources.list_changed) = (Some(true), Some(true));
    capabilities.resources = Some(resources);
    capabilities.completions = Some(serde_json::Map::new());
    if tree.runs.is_some() {
        capabilities.extensions = Some([(TASKS_EXTENSION_ID.to_owned(), serde_json::Map::new())].into());
    }
    capabilities
}

/// Answers `initialize`; an answer that is an error opens no session.
pub(super) fn initialize(tree: &Tree, request: &Message, news: Outlet) -> (Legacy, Message) {
    let id = request.id().unwrap_or(b"null");
    let legacy = |version, capabilities| Legacy {
        version,
        capabilities,
        news,
        subscriptions: Subscriptions::default(),
        ended: CancellationToken::new(),
    };
    let params = request.body_bytes().unwrap_or(b"{}");
    let params: InitializeRequestParams = match serde_json::from_slice(params) {
        Ok(params) => params,
        Err(error) => return (legacy(LEGACY[0], <_>::default()), invalid(&error).answer(Some(id))),
    };
    let version = negotiate(params.protocol_version.as_str());
    let agreed = serde_json::from_value::<ProtocolVersion>(version.into()).expect("a version is a string");
    let result = InitializeResult::new(capabilities(tree))
        .with_protocol_version(agreed)
        .with_server_info(implementation())
        .with_instructions(INSTRUCTIONS);
    (legacy(version, params.capabilities), Answer::of(&result).into_message(id, false))
}

/// Answers `server/discover`.
pub(super) fn discover(tree: &Tree) -> Answer {
    let versions: Vec<_> = MODERN.iter().chain(LEGACY).collect();
    let result = json!({
        "supportedVersions": versions,
        "capabilities": capabilities(tree),
        "instructions": INSTRUCTIONS,
    });
    Answer::of(&result).cached(Cache::settled(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_short() {
        assert!(INSTRUCTIONS.chars().count() <= 1_200, "{}", INSTRUCTIONS.chars().count());
        assert!(["tree_list", "tree_get", "tree_wait", "if_etag"].iter().all(|word| INSTRUCTIONS.contains(word)));
    }
}
