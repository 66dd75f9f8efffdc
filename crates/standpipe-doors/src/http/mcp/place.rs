//! What the path of a request to MCP means.

use percent_encoding::percent_decode_str;

use crate::mcp::Endpoint;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Streamable HTTP.
    Stream(Endpoint),
    /// `…/sse`: the stream of HTTP+SSE (2024-11-05).
    Sse(Endpoint),
    /// `…/messages`: what its client sends.
    Messages(Endpoint),
    /// `…/ws`: a WebSocket.
    Socket(Endpoint),
    /// `/mcp/status`.
    Status,
    /// `/.well-known/oauth-protected-resource`: who gives tokens for an endpoint (RFC 9728).
    Metadata(Endpoint),
    /// Below `/mcp`, and nothing.
    Unknown,
}

/// The place that the path of a URL, still percent-encoded, names; `None` where it is none of MCP. What ends in `.json` is a location of the tree.
pub(crate) fn place(path: &str) -> Option<Place> {
    if let Some(resource) = path.strip_prefix("/.well-known/oauth-protected-resource") {
        return Some(match resource {
            "" | "/" => Place::Metadata(Endpoint::Main),
            resource => match below(resource) {
                Some(Place::Stream(endpoint)) => Place::Metadata(endpoint),
                _ => Place::Unknown,
            },
        });
    }
    if path.ends_with(".json") { None } else { below(path) }
}

/// The place that a path below `/mcp` names.
fn below(path: &str) -> Option<Place> {
    let rest = path.strip_prefix("/mcp")?;
    if !rest.is_empty() && !rest.starts_with('/') {
        return None;
    }
    let mut segments = rest.trim_start_matches('/').split('/').filter(|segment| !segment.is_empty());
    let (endpoint, next) = match segments.next() {
        Some("status") if segments.next().is_none() => return Some(Place::Status),
        Some("all") => (Endpoint::All, segments.next()),
        Some("s") => match segments.next().and_then(|name| percent_decode_str(name).decode_utf8().ok()) {
            Some(name) => (Endpoint::Named(name.into_owned()), segments.next()),
            None => return Some(Place::Unknown),
        },
        first => (Endpoint::Main, first),
    };
    let is_last = segments.next().is_none();
    Some(match next {
        None => Place::Stream(endpoint),
        Some("sse") if is_last => Place::Sse(endpoint),
        Some("messages") if is_last => Place::Messages(endpoint),
        Some("ws") if is_last => Place::Socket(endpoint),
        Some(_) => Place::Unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_places() {
        let check = |path: &str, expected: Option<Place>| assert_eq!(place(path), expected, "{path}");
        let named = |name: &str| Endpoint::Named(name.into());
        check("/mcp", Some(Place::Stream(Endpoint::Main)));
        check("/mcp/", Some(Place::Stream(Endpoint::Main)));
        check("/mcp/all", Some(Place::Stream(Endpoint::All)));
        check("/mcp/s/a", Some(Place::Stream(named("a"))));
        check("/mcp/s/a%20b", Some(Place::Stream(named("a b"))));
        check("/mcp/s/sse/sse", Some(Place::Sse(named("sse"))));
        check("/mcp/sse", Some(Place::Sse(Endpoint::Main)));
        check("/mcp/all/messages", Some(Place::Messages(Endpoint::All)));
        check("/mcp/ws", Some(Place::Socket(Endpoint::Main)));
        check("/mcp/status", Some(Place::Status));
        check("/mcp/s", Some(Place::Unknown));
        check("/mcp/s/%ff", Some(Place::Unknown));
        check("/mcp/x", Some(Place::Unknown));
        check("/mcp/sse/x", Some(Place::Unknown));
        check("/mcp.json", None);
        check("/mcp/s/a.json", None);
        check("/mcpx", None);
        check("/", None);
        check("/.well-known/oauth-protected-resource", Some(Place::Metadata(Endpoint::Main)));
        check("/.well-known/oauth-protected-resource/mcp", Some(Place::Metadata(Endpoint::Main)));
        check("/.well-known/oauth-protected-resource/mcp/s/a", Some(Place::Metadata(named("a"))));
        check("/.well-known/oauth-protected-resource/x", Some(Place::Unknown));
    }
}
