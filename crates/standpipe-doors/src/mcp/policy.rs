//! Whom the doors of MCP let in, before anybody asks who it is: by the name that a client used for us (`Host`), which a page of a stranger can
//! bend to our address, and by the page that sends it (`Origin`).

use http::Uri;

/// Whom the doors of MCP let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct McpPolicy {
    /// Names of this server beside those of the loopback; with a port, only at that port. `*` is any name.
    pub hosts: Vec<String>,
    /// Pages that may call, as in `https://app.example.com`, beside those of this server. `*` is any page.
    pub origins: Vec<String>,
    /// Whether who has no token is let in.
    pub anonymous: bool,
    /// Whom tokens must be for.
    pub audience: Option<String>,
    /// Whether HTTP+SSE of 2024-11-05 is spoken.
    pub sse: bool,
    /// The address of this server as clients know it, as in `https://mcp.example.com`; found out from each request where it is not said.
    pub url: Option<String>,
}

impl McpPolicy {
    /// Whether a client may call us by the name `host`, which may have a port.
    pub(crate) fn allows_host(&self, host: &str) -> bool {
        is_loopback(name_of(host)) || self.hosts.iter().any(|allowed| is(allowed, host))
    }

    /// Whether the page at `origin` may call us, whom it calls `host`.
    pub(crate) fn allows_origin(&self, origin: &str, host: &str) -> bool {
        if self
            .origins
            .iter()
            .any(|allowed| allowed == "*" || allowed.trim_end_matches('/').eq_ignore_ascii_case(origin))
        {
            return true;
        }
        let Some((scheme, from)) = origin.split_once("://") else { return false };
        let (from, own) = (name_of(from), name_of(host));
        matches!(scheme, "http" | "https")
            && (from.eq_ignore_ascii_case(own) || (is_loopback(from) && is_loopback(own)))
            && self.allows_host(host)
    }
}

/// Whether `host` is what `allowed` allows.
fn is(allowed: &str, host: &str) -> bool {
    let allowed = allowed.trim_matches(['[', ']']);
    allowed == "*" || allowed.eq_ignore_ascii_case(host) || allowed.eq_ignore_ascii_case(name_of(host))
}

/// The name without the port, and without the brackets of an address.
fn name_of(host: &str) -> &str {
    if let Some(address) = host.strip_prefix('[') {
        return address.split_once(']').map_or(host, |(address, _)| address);
    }
    host.rsplit_once(':').filter(|(name, _)| !name.contains(':')).map_or(host, |(name, _)| name)
}

/// Whether a name can only mean this machine.
fn is_loopback(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// The name that a request calls us by; `None` where it has none.
pub(crate) fn host<'r>(uri: &'r Uri, headers: &'r http::HeaderMap) -> Option<&'r str> {
    let authority = uri.authority().map(http::uri::Authority::as_str);
    authority.or_else(|| headers.get(http::header::HOST)?.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_and_those_configured_are_allowed() {
        let policy = McpPolicy {
            hosts: ["mcp.example.com", "other.example.com:8443", "[2001:db8::1]"].map(str::to_owned).into(),
            ..McpPolicy::default()
        };
        let check = |host: &str, expected| assert_eq!(policy.allows_host(host), expected, "{host}");
        check("localhost", true);
        check("LOCALHOST:9000", true);
        check("localhost.:9000", true);
        check("app.localhost", true);
        check("127.0.0.1:9000", true);
        check("127.1.2.3", true);
        check("[::1]:9000", true);
        check("mcp.example.com", true);
        check("MCP.example.com:9000", true);
        check("other.example.com:8443", true);
        check("other.example.com:8444", false);
        check("[2001:db8::1]:9000", true);
        check("evil.example.com", false);
        check("localhost.evil.com", false);
        check("127.0.0.1.evil.com", false);
        check("192.168.0.7", false);
        check("", false);
        check("[::1", false);
    }

    #[test]
    fn pages_of_this_server_and_those_configured_may_call() {
        let policy = McpPolicy {
            hosts: vec!["mcp.example.com".into()],
            origins: vec!["https://app.example.com".into(), "http://lab:3000/".into()],
            ..McpPolicy::default()
        };
        let check = |origin: &str, host: &str, expected| {
            assert_eq!(policy.allows_origin(origin, host), expected, "{origin} at {host}");
        };
        check("http://localhost:3000", "127.0.0.1:9000", true);
        check("http://127.0.0.1:9000", "127.0.0.1:9000", true);
        check("https://mcp.example.com", "mcp.example.com", true);
        check("https://app.example.com", "mcp.example.com", true);
        check("http://lab:3000", "localhost", true);
        check("http://lab:3001", "localhost", false);
        check("https://app.example.com.evil.com", "mcp.example.com", false);
        check("http://evil.example.com", "localhost:9000", false);
        check("http://evil.example.com", "evil.example.com", false);
        check("file://localhost", "localhost", false);
        check("null", "localhost", false);
        check("", "localhost", false);
    }
}
