//! Where a client learns who gives tokens for an endpoint (RFC 9728). We give none ourselves.

use http::{HeaderMap, Method, StatusCode};
use serde_json::json;

use super::Visit;
use super::answers::{Answer, Outcome, Refused, json as json_answer};
use crate::mcp::{Endpoint, host};

/// The scopes of the tree and of runs.
const SCOPES: [&str; 4] = ["tree:read", "tree:write", "runs:read", "runs:start"];

impl Visit<'_> {
    /// The document for one endpoint.
    pub(super) fn metadata(&self, endpoint: &Endpoint, headers: &HeaderMap) -> Outcome<Answer> {
        if self.method != Method::GET && self.method != Method::HEAD {
            return Err(Refused::not_allowed("GET, OPTIONS"));
        }
        let scopes = self.mcp.scope(endpoint).map_or_else(|| SCOPES.map(str::to_owned).into(), |scope| vec![scope]);
        let mut document = json!({
            "resource": format!("{}{endpoint}", self.base_url(headers)),
            "bearer_methods_supported": ["header"],
            "scopes_supported": scopes,
            "resource_name": "Standpipe",
        });
        let issuers = self.mcp.credentials().issuer_urls();
        if !issuers.is_empty() {
            document["authorization_servers"] = issuers.into();
        }
        Ok(json_answer(StatusCode::OK, document.to_string().into()))
    }

    /// Where that document is.
    pub(super) fn metadata_url(&self, endpoint: &Endpoint, headers: &HeaderMap) -> String {
        format!("{}/.well-known/oauth-protected-resource{endpoint}", self.base_url(headers))
    }

    /// How this server is called: as the configuration says, else as the client does.
    fn base_url(&self, headers: &HeaderMap) -> String {
        if let Some(url) = &self.mcp.policy().url {
            return url.trim_end_matches('/').to_owned();
        }
        let scheme = if self.activity.is_tls() { "https" } else { "http" };
        format!("{scheme}://{}", host(&self.uri, headers).unwrap_or("localhost"))
    }
}
