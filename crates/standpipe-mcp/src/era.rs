//! The two eras of the protocol: which versions belong to each, how a version is agreed on, and what a request says about itself in
//! `params._meta` (spec mcp §1, §1.1). Sessions and HTTP headers are the doors' business.

use memchr::memmem;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use standpipe_wire::jsonrpc::Message;

use crate::Fault;
use crate::fault::{INVALID_PARAMS, INVALID_REQUEST, UNSUPPORTED_VERSION};

/// Versions in which each request stands alone.
pub const MODERN: &[&str] = &["2026-07-28"];
/// Versions that begin with `initialize`, as they are offered: the newest first.
pub const LEGACY: &[&str] = &["2025-11-25", "2025-06-18", "2025-03-26"];
/// Accepted in `initialize`, and not offered.
pub const LEGACY_ALSO: &[&str] = &["2024-11-05"];

/// The member of `_meta` that makes a request modern: its version.
pub const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// What the client of a modern request is capable of.
pub const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// Who the client of a modern request is; for logs.
pub const META_CLIENT: &str = "io.modelcontextprotocol/clientInfo";
/// From which level on the client of a modern request wants log messages of it.
pub const META_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// Who has answered, in the `_meta` of a modern result.
pub const META_SERVER: &str = "io.modelcontextprotocol/serverInfo";
/// Which subscription a notification belongs to.
pub const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// Whether a request or notification may have [`META_VERSION`]: a look that costs little, however long the message is. What it says no to
/// is of the legacy era.
pub fn may_be_modern(message: &Message) -> bool {
    let bytes = message.bytes();
    // The name may be written with escapes.
    memmem::find(bytes, b"protocolVersion").is_some() || memmem::find(bytes, b"\\u").is_some()
}

/// The version that a legacy session uses whose client asked for `asked`.
pub fn negotiate(asked: &str) -> &'static str {
    LEGACY.iter().chain(LEGACY_ALSO).copied().find(|version| *version == asked).unwrap_or(LEGACY[0])
}

/// What a request says about itself.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Meta<'m> {
    /// [`META_VERSION`]: JSON.
    #[serde(borrow, rename = "io.modelcontextprotocol/protocolVersion")]
    pub version: Option<&'m RawValue>,
    /// [`META_CAPABILITIES`]: JSON.
    #[serde(borrow, rename = "io.modelcontextprotocol/clientCapabilities")]
    pub capabilities: Option<&'m RawValue>,
    /// [`META_CLIENT`]: JSON.
    #[serde(borrow, rename = "io.modelcontextprotocol/clientInfo")]
    pub client: Option<&'m RawValue>,
    /// What progress is to be told under: JSON.
    #[serde(borrow, rename = "progressToken")]
    pub progress_token: Option<&'m RawValue>,
    /// The trace this is a part of (W3C): JSON.
    #[serde(borrow)]
    pub traceparent: Option<&'m RawValue>,
}

impl<'m> Meta<'m> {
    /// Reads `params._meta`; nothing is said where there is none.
    ///
    /// # Errors
    /// It is no object, or says a thing twice.
    pub fn of(message: &'m Message) -> Result<Self, Fault> {
        let twice = |error: standpipe_wire::jsonrpc::Malformed| Fault::new(INVALID_REQUEST, error.to_string());
        let Some(span) = message.at(&["_meta"]).map_err(twice)? else { return Ok(Self::default()) };
        let json = message.slice(span);
        if json.first() != Some(&b'{') {
            return Err(Fault::new(INVALID_PARAMS, "params._meta must be an object"));
        }
        serde_json::from_slice(json).map_err(|error| Fault::new(INVALID_PARAMS, format!("params._meta: {error}")))
    }

    /// Whether the request is a modern one.
    pub fn is_modern(&self) -> bool {
        self.version.is_some()
    }

    /// The version of a modern request, if it has everything that such a one must have.
    ///
    /// # Errors
    /// What is missing, malformed (-32602), or not spoken here (-32022).
    pub fn check_modern(&self) -> Result<&'static str, Fault> {
        let missing = |what: &str| Fault::new(INVALID_PARAMS, format!("params._meta must have {what}"));
        let version = self.version.ok_or_else(|| missing(&format!("{META_VERSION:?}, a string")))?;
        let Ok(version) = serde_json::from_str::<String>(version.get()) else {
            return Err(missing(&format!("{META_VERSION:?}, a string")));
        };
        let Some(known) = MODERN.iter().copied().find(|known| *known == version) else {
            // No others: who is told of one must find it in `server/discover` too, which may be another server's answer.
            return Err(unsupported(&version, MODERN));
        };
        match self.capabilities {
            Some(capabilities) if capabilities.get().starts_with('{') => Ok(known),
            _ => Err(missing(&format!("{META_CAPABILITIES:?}, an object"))),
        }
    }
}

/// The refusal of a version that is not spoken here; these are.
pub fn unsupported(version: &str, supported: &[&str]) -> Fault {
    let text = format!("protocol version {version:?} is not supported; use one of data.supported");
    Fault::new(UNSUPPORTED_VERSION, text).with_data(json!({ "supported": supported, "requested": version }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(meta: &str) -> Message {
        Message::request(b"1", "tools/list", format!("{{\"_meta\":{meta}}}").as_bytes())
    }

    #[test]
    fn versions_are_agreed_on() {
        let check = |asked: &str, expected: &str| assert_eq!(negotiate(asked), expected, "{asked}");
        check("2025-06-18", "2025-06-18");
        check("2024-11-05", "2024-11-05");
        check("2026-07-28", "2025-11-25");
        check("1999-01-01", "2025-11-25");
        check("", "2025-11-25");
    }

    #[test]
    fn a_modern_request_says_what_it_must() {
        let check = |meta: &str, expected: Result<&'static str, i64>| {
            let message = request(meta);
            let outcome = Meta::of(&message).and_then(|meta| meta.check_modern());
            assert_eq!(outcome.map_err(|fault| fault.code), expected, "{meta}");
        };
        let full = |version: &str, capabilities: &str| {
            format!("{{\"{META_VERSION}\":{version},\"{META_CAPABILITIES}\":{capabilities}}}")
        };
        check(&full("\"2026-07-28\"", "{}"), Ok("2026-07-28"));
        check(&full("\"2026-07-28\"", "[]"), Err(INVALID_PARAMS));
        check(&full("\"2026-07-28\"", "null"), Err(INVALID_PARAMS));
        check(&full("20260728", "{}"), Err(INVALID_PARAMS));
        check(&full("\"2030-01-01\"", "{}"), Err(UNSUPPORTED_VERSION));
        check(&full("\"2025-11-25\"", "{}"), Err(UNSUPPORTED_VERSION));
        check(&format!("{{\"{META_VERSION}\":\"2026-07-28\"}}"), Err(INVALID_PARAMS));
        check(&format!("{{\"{META_VERSION}\":\"2026-07-28\",\"{META_VERSION}\":\"x\"}}"), Err(INVALID_PARAMS));
        check("{}", Err(INVALID_PARAMS));
        check("[\"2026-07-28\"]", Err(INVALID_PARAMS));
        check("7", Err(INVALID_PARAMS));
    }

    #[test]
    fn a_look_never_misses_a_modern_request() {
        let check = |meta: &str, expected| assert_eq!(may_be_modern(&request(meta)), expected, "{meta}");
        check("{}", false);
        check("{\"progressToken\":7}", false);
        check(r#"{"io.modelcontextprotocol/protocolVersion":"x"}"#, true);
        check(r#"{"io.modelcontextprotocol\/protocolVersion":"x"}"#, true);
        check(r#"{"io.modelcontextprotocol/protocolVersi\u006fn":"x"}"#, true);
    }

    #[test]
    fn what_is_not_said_is_legacy() {
        let message = Message::request(b"1", "ping", b"{}");
        assert!(!Meta::of(&message).unwrap().is_modern());
        let message = request("{\"progressToken\":7}");
        let meta = Meta::of(&message).unwrap();
        assert_eq!((meta.is_modern(), meta.progress_token.unwrap().get()), (false, "7"));
    }
}
